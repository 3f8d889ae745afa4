#!/usr/bin/env bash
# The main job against llama.cpp: both decode the same GGUF of 1.1 GB by turns, each time in a fresh
# memory cgroup of the same size and with none of the file in the page cache, and must say the same
# tokens. llama.cpp uses its default, mmap; llm_stream reads past the page cache, two tiers, and pumps
# between its steps (PUMP=thread: a thread does). One `bench` line for each share of the model that
# fits. Needs root.
#
# The limit is the share of the model and what llama.cpp was seen to need besides it (measured first,
# without a limit): its keys and values, its buffers, node. llm_stream gets the same limit; its
# budget is the share and 16 MiB of that for keys, values and staging. SHARES RUNS TOKENS THREADS PUMP
# may be set. What else runs on the machine disturbs llama.cpp more: its threads wait by spinning.
set -u
cd "$(dirname "$0")/.." || exit 1
SHARES=${SHARES:-100 90 70 50} RUNS=${RUNS:-3} TOKENS=${TOKENS:-16} THREADS=${THREADS:-2} PUMP=${PUMP:-calls}
WARM=4 BESIDE=$((16 << 20)) WORK=build/llama MODEL=build/bench_llama.gguf TEXT="tensor"
MODEL_ARGS="--dtype q8_0 --layers 16 --dim 2048 --ffn 8192 --heads 16 --kv-heads 16 --seed 1"
GROUP="" V1=/sys/fs/cgroup/memory V2=/sys/fs/cgroup

skip() {
    echo "skip llm_tokens: $1"
    exit 0
}

broken() {
    echo "bench_llama: $1" >&2
    exit 1
}

# ---- memory cgroups, either version ----
group_make() { # bytes, 0 = no limit
    if [ -e $V1/memory.limit_in_bytes ]; then
        GROUP=$V1/bench_llama_$$
        mkdir "$GROUP" 2>/dev/null || return 1
        [ "$1" = 0 ] || echo "$1" >"$GROUP/memory.limit_in_bytes"
    else
        GROUP=$V2/bench_llama_$$
        grep -qw memory $V2/cgroup.controllers 2>/dev/null || return 1
        echo +memory >$V2/cgroup.subtree_control 2>/dev/null
        mkdir "$GROUP" 2>/dev/null || return 1
        [ -e "$GROUP/memory.max" ] || return 1
        [ "$1" = 0 ] || echo "$1" >"$GROUP/memory.max"
        [ -e "$GROUP/memory.swap.max" ] && echo 0 >"$GROUP/memory.swap.max"
    fi
}

group_peak() {
    cat "$GROUP/memory.max_usage_in_bytes" 2>/dev/null || cat "$GROUP/memory.peak"
}

group_end() {
    [ -n "$GROUP" ] && [ -d "$GROUP" ] || return 0
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        rmdir "$GROUP" 2>/dev/null && break
        sleep 0.1
    done
    GROUP=""
}
trap group_end EXIT

# In a fresh group, with the file out of the page cache: pages that stay there are charged to whom
# they came with, and the limit would do nothing.
inside() { # bytes, command...
    local status
    sync "$MODEL"
    dd if="$MODEL" iflag=nocache count=0 status=none
    group_make "$1" || skip "no memory cgroup can be made"
    shift
    # shellcheck disable=SC2016,SC2086
    bash -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$GROUP" $FIRST "$@"
    status=$?
    PEAK=$(group_peak)
    group_end
    return $status
}

# ---- the two ----
install_llama() { # as tests/llama/run.sh does
    [ -d "$WORK/node_modules/node-llama-cpp" ] && return 0
    ONLY_INSTALL=1 tests/llama/run.sh
    [ -d "$WORK/node_modules/node-llama-cpp" ]
}

ours() { # bytes of the group, bytes of budget -> TOKENS_OURS, PACE
    inside "$1" "$WORK/bench_stream" --model "$MODEL" --prompt "$TEXT" --tokens "$TOKENS" --once \
        --tiers 2 --host-bytes "$2" --direct --pump "$PUMP" --threads "$THREADS" \
        --trace $WORK/bench.json --picture $WORK/bench.svg >$WORK/ours.out 2>$WORK/ours.err ||
        broken "llm_stream: $(tail -1 $WORK/ours.err)"
    grep -q 'peak_ok=yes' $WORK/ours.out || broken "llm_stream exceeded its budget"
    TOKENS_OURS=$(sed -n 's/^ *token ids *//p' $WORK/ours.out)
    PACE=$(sed -n 's/.* tokens_per_second=\([0-9.]*\).*/\1/p' $WORK/ours.out)
}

theirs() { # bytes of the group, prompt's ids -> TOKENS_THEIRS, PACE
    local ids=${2// /,}
    inside "$1" env -C "$WORK" node ../../tests/llama/pace.mjs "../../$MODEL" "$TOKENS" "$WARM" "$ids" "$THREADS" \
        >$WORK/theirs.out 2>$WORK/theirs.err || broken "llama.cpp: $(tail -1 $WORK/theirs.err)"
    TOKENS_THEIRS=$(sed -n 1p $WORK/theirs.out)
    PACE=$(sed -n 2p $WORK/theirs.out)
}

median() {
    printf '%s\n' "$@" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

share() { # percent, allowance
    local limit=$((SIZE * $1 / 100 + $2)) budget=$((SIZE * $1 / 100 + BESIDE)) target=1 fast="" slow=""
    [ "$1" = 70 ] && target=2
    for _ in $(seq "$RUNS"); do
        ours $limit $budget
        fast="$fast $PACE"
        theirs $limit "${TOKENS_OURS%% | *}"
        slow="$slow $PACE"
        [ "${TOKENS_OURS##* | }" = "$TOKENS_THEIRS" ] ||
            broken "other tokens: ours ${TOKENS_OURS##* | }, theirs $TOKENS_THEIRS"
    done
    sed -n "/a token takes/{s/^ *limited:/# at $1 %:/p;n;s/^ */# /p}" $WORK/ours.out
    # shellcheck disable=SC2086
    awk -v name="$1" -v a="$(median $fast)" -v b="$(median $slow)" -v target=$target 'BEGIN {
        printf "bench llm_tokens_%s value=%.3g unit=tokens/s rival=llama.cpp ratio=%.3g ", name, a, a / b
        printf "target=>=%s met=%s\n", target, (a / b >= target ? "yes" : "no") }'
}

[ "$(id -u)" = 0 ] || skip "a memory cgroup needs root"
[ "$(uname -s)" = Linux ] || skip "a memory cgroup needs Linux"
command -v npm >/dev/null 2>&1 || skip "no npm"
FIRST="timeout 300"
mkdir -p "$WORK"
install_llama || skip "npm cannot install node-llama-cpp"
flags=-O3
echo 'int x;' | ${CC:-cc} -march=native -xc -c - -o /dev/null 2>/dev/null && flags="-O3 -march=native"
# shellcheck disable=SC2086
${CC:-cc} -std=c99 -DNDEBUG $flags examples/llm_stream.c -o "$WORK/bench_stream" -lm -pthread ||
    broken "llm_stream does not compile"
if [ ! -e "$MODEL" ]; then
    # shellcheck disable=SC2086
    "$WORK/bench_stream" --write-model "$MODEL" $MODEL_ARGS >/dev/null 2>&1 || broken "no model"
fi
SIZE=$(stat -c %s "$MODEL")
uname -srm
ours 0 $((SIZE * 2)) # and without a limit llama.cpp, twice: its own files come into the cache
theirs 0 "${TOKENS_OURS%% | *}"
theirs 0 "${TOKENS_OURS%% | *}"
allowance=$((PEAK - SIZE + (8 << 20)))
[ $allowance -gt $((BESIDE * 2)) ] || allowance=$((BESIDE * 2))
echo "# besides the model of $((SIZE / 1000000)) MB: $((allowance >> 20)) MiB for each, what llama.cpp needs"
for percent in $SHARES; do
    share "$percent" $allowance
done
