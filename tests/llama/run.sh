#!/usr/bin/env bash
# Is the example a real engine? llama.cpp decodes the same GGUF files greedily and must give the same
# tokens as llm_stream does while it streams the weights through a small budget. llama.cpp comes
# prebuilt in the npm package node-llama-cpp, into build/llama. One PASS, FAIL or SKIP line per case.
set -u
cd "$(dirname "$0")/../.." || exit 1
VERSION=3.22.1
WORK=build/llama
TEXT="tensor of it"
failed=0

skip() {
    echo "SKIP llama: $1"
    exit 0
}

# The platform's own binaries are enough: the package would bring those for every GPU, 700 MB.
install_llama() {
    local own=""
    [ -d "$WORK/node_modules/node-llama-cpp" ] && return 0
    case "$(uname -sm)" in
    "Linux x86_64") own="@node-llama-cpp/linux-x64@$VERSION --omit=optional" ;;
    "Linux aarch64") own="@node-llama-cpp/linux-arm64@$VERSION --omit=optional" ;;
    "Darwin arm64") own="@node-llama-cpp/mac-arm64-metal@$VERSION --omit=optional" ;;
    esac
    # shellcheck disable=SC2086
    (cd "$WORK" && echo '{"private":true}' >package.json &&
        npm i --ignore-scripts --no-audit --no-fund "node-llama-cpp@$VERSION" $own) >"$WORK/npm.log" 2>&1
}

build_example() {
    # shellcheck disable=SC2086
    ${CC:-cc} -std=c99 ${CFLAGS:--O2} examples/llm_stream.c -o "$WORK/llm_stream" -lm -pthread
}

# case NAME, type, layers, dim, ffn, heads, kv-heads, seed
agree() {
    local name="$1" file="$WORK/$1.gguf" out="$WORK/$1.out" line prompt ours theirs
    if ! "$WORK/llm_stream" --write-model "$file" --dtype "$2" --layers "$3" --dim "$4" --ffn "$5" \
        --heads "$6" --kv-heads "$7" --seed "$8" >"$out" 2>&1; then
        echo "FAIL llama_$name: no model: $(tail -1 "$out")"
        return 1
    fi
    if ! "$WORK/llm_stream" --model "$file" --prompt "$TEXT" --tokens 24 --device-share 30% \
        --host-share 40% --trace "$WORK/$1.json" --picture "$WORK/$1.svg" >"$out" 2>&1; then
        echo "FAIL llama_$name: llm_stream: $(tail -1 "$out")"
        return 1
    fi
    line=$(sed -n 's/^ *token ids *//p' "$out")
    prompt=${line%% | *}
    ours=${line##* | }
    theirs=$(cd "$WORK" && node ../../tests/llama/greedy.mjs "$1.gguf" 24 "${prompt// /,}" "$TEXT" \
        2>"$1.log") || theirs="$(tail -1 "$WORK/$1.log")"
    if [ "$theirs" = "$prompt
$ours" ]; then
        echo "PASS llama_$name"
    else
        echo "FAIL llama_$name: ours $prompt | $ours, theirs ${theirs/$'\n'/ | }"
        return 1
    fi
}

command -v node >/dev/null 2>&1 || skip "no node"
command -v npm >/dev/null 2>&1 || skip "no npm"
mkdir -p "$WORK"
install_llama || skip "npm cannot install node-llama-cpp: $(tail -1 "$WORK/npm.log")"
[ -n "${ONLY_INSTALL:-}" ] && exit 0
if ! build_example; then
    echo "FAIL llama: llm_stream does not compile"
    exit 1
fi
# The seeds are ones whose best token leads by a tenth and more all along: two engines that add the
# same numbers in another order cannot differ there. llm_stream prints that lead.
agree f32 f32 12 128 352 4 2 4 || failed=1
agree q8_0 q8_0 12 128 352 4 2 5 || failed=1
agree f16 f16 12 128 352 4 2 4 || failed=1
agree bf16 bf16 12 128 352 4 2 12 || failed=1
agree q8_0_wide q8_0 16 256 704 8 8 1 || failed=1
exit $failed
