#!/usr/bin/env bash
# Every place the header is dropped into: built strictly clean there, and tests run there.
#   tests/platforms.sh [target...]   all targets, or these: a name, or its part before the colon
#   tests/platforms.sh --list        the table
#   SETS="api shelf"                 these sets of tests, whatever the table says
#   LIMIT=300                        seconds for one program
# One line a target, with its CPU seconds; the last line counts: "N passed, N failed, N skipped". A
# target whose compiler or runner is not there is skipped and says what is missing; if all are, the
# exit status is 77. Logs: build/platforms/.
set -u
cd "$(dirname "$0")/.." || exit 1
OUT=build/platforms
LIMIT=${LIMIT:-300}
STRICT="-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wundef -Werror"

# The sets. api and the corpus need only the public calls: they link against one object. The others
# look inside and compile the header each: 3 seconds.
tests_of() { # set
    case "$1" in
    api) ls tests/test_api_*.c | grep -v -e scale -e foresight && ls tests/test_{door,fault}.c ;;
    api-long) echo tests/test_api_{scale,foresight}.c ;;
    api-cpp) echo tests/test_api_{create,tensor,io,pin,budget,fence,file,tree,auto}.c ;;
    api-plain) echo tests/test_api_{create,tensor,io,pin,budget,fence,tree,auto}.c ;;
    api-few) echo tests/test_api_{create,tensor,io,pin,budget,fence,file}.c ;;
    model) echo tests/test_model.c ;;
    rooms) echo tests/test_{base,tell,store,space,tier,move,tensor,hint,policy,engine,watch,pin}.c ;;
    rooms-few) echo tests/test_{store,space,tensor,tell}.c ;;
    shelf) echo tests/test_shelf.c ;;
    noatomics) echo tests/test_shelf_noatomics.c tests/test_threads_noatomics.c ;;
    threads) echo tests/test_threads.c tests/test_threads_ownlock.c ;;
    conform) echo tests/test_conform.c ;;
    gguf) echo tests/test_gguf.c ;;
    corpus) echo fuzz/fuzz_api.c ;;
    corpus-gguf) echo fuzz/fuzz_gguf.c ;;
    examples) ls examples/[0-9]*.c ;;
    *) echo "platforms: no set is called $1" >&2 ;;
    esac
}

# name | runner | sets | compiler and flags
table() {
    local some="api-few rooms-few model corpus examples" all
    local emulated="api model rooms shelf corpus corpus-gguf examples"
    all="api model rooms shelf threads noatomics conform corpus corpus-gguf gguf examples"
    cat <<END
gcc:c99-O0       | | $some shelf | gcc -std=c99 -O0
gcc:c11-O1       | | $some | gcc -std=c11 -O1
gcc:c17-O2       | | $some | gcc -std=c17 -O2
gcc:c2x-O3       | | $some | gcc -std=c2x -O3
gcc:gnu99-Os     | | $some | gcc -std=gnu99 -Os -fshort-enums -funsigned-char
gcc:unsigned     | | api rooms | gcc -std=c99 -O0 -fshort-enums -funsigned-char
clang:c99-O0     | | $some | clang-14 -std=c99 -O0
clang:c11-O1     | | $some | clang-14 -std=c11 -O1
clang:c17-O3     | | $some | clang-14 -std=c17 -O3
clang19:c23-O0   | | $some | clang-19 -std=c23 -O0
clang19:c11-O2   | | $some | clang-19 -std=c11 -O2
clang19:c99-Os   | | $some | clang-19 -std=c99 -Os -fshort-enums -funsigned-char
g++:c++11        | | api-cpp rooms-few model shelf | g++ -x c++ -std=c++11 -O0
g++:c++14        | | api-cpp rooms-few model | g++ -x c++ -std=c++14 -O1
g++:c++17        | | api-cpp rooms-few model | g++ -x c++ -std=c++17 -O2
g++:c++20        | | api-cpp rooms-few model | g++ -x c++ -std=c++20 -O3
clang++:c++11    | | api-cpp rooms-few model | clang++-14 -x c++ -std=c++11 -O1
clang++19:c++20  | | api-cpp rooms-few model | clang++-19 -x c++ -std=c++20 -O0
switch:no-stdio  | | api-few rooms-few model corpus | gcc -std=c99 -O0 -DTENSORMEM_NO_STDIO=
switch:no-file   | | api-plain rooms-few model corpus | gcc -std=c99 -O0 -DTENSORMEM_NO_FILE=
switch:no-atomics | | api rooms model corpus noatomics | gcc -std=c99 -O0 -DTENSORMEM_NO_ATOMICS=
switch:threads   | | api rooms model corpus threads | gcc -std=c99 -O0 -DTENSORMEM_THREADS=
switch:static    | | api-plain examples | gcc -std=c99 -O0 -DTENSORMEM_STATIC=
switch:ndebug    | | $some shelf | gcc -std=c99 -O2 -DNDEBUG=
switch:bare      | | api-plain rooms-few model corpus | gcc -std=c99 -O0 -DNDEBUG= -DTENSORMEM_NO_STDIO= -DTENSORMEM_NO_FILE= -DTENSORMEM_NO_ATOMICS=
tcc              | | api model rooms shelf conform corpus corpus-gguf examples | tcc -std=c99
musl             | | $all | musl-gcc -std=c99 -O0 -static
i686             | | $all | i686-linux-gnu-gcc -std=c99 -O0 -static
arm              | qemu-arm-static | $emulated | arm-linux-gnueabihf-gcc -std=c99 -O1 -static
powerpc          | qemu-ppc-static | $emulated | powerpc-linux-gnu-gcc -std=c99 -O1 -static
powerpc64        | qemu-ppc64-static | $emulated | powerpc64-linux-gnu-gcc -std=c99 -O1 -static
s390x            | qemu-s390x-static | $emulated noatomics | s390x-linux-gnu-gcc -std=c99 -O1 -static
aarch64          | qemu-aarch64-static | $emulated threads | aarch64-linux-gnu-gcc -std=c99 -O1 -static
riscv64          | qemu-riscv64-static | $emulated | riscv64-linux-gnu-gcc -std=c99 -O1 -static
windows          | wine | $all | x86_64-w64-mingw32-gcc -std=c99 -O0 -static
wasm:emscripten  | node --no-experimental-fetch | api model rooms-few shelf corpus corpus-gguf examples | emcc -std=c99 -O1
wasm:wasi        | node --no-warnings tests/wasi.mjs | api model rooms-few shelf conform corpus corpus-gguf examples | clang-14 --target=wasm32-wasi -D_WASI_EMULATED_PROCESS_CLOCKS -std=c99 -O1
END
}

trim() {
    local text=$*
    text="${text#"${text%%[![:space:]]*}"}"
    echo "${text%"${text##*[![:space:]]}"}"
}

missing() { # command: 0 and why, if it is not installed
    [ -z "$1" ] && return 1
    command -v "$1" >/dev/null 2>&1 || { echo "$1 is not installed"; return 0; }
    return 1
}

# What follows is of the target that is at hand: NAME, DIR, RUNNER and CC, a compiler with its flags.
warnings() { # that a test must not give
    case "${CC[0]}" in
    tcc) echo "-Wall -Werror" ;;
    *++*) echo "-Wall -Werror" ;; # they are C
    *) echo "$STRICT -Wstrict-prototypes" ;;
    esac
}

header_warnings() { # that the header must not give
    case "${CC[0]}" in
    tcc) warnings ;;
    *++*) echo "$STRICT -Wsign-conversion -Wvla -Wformat=2" ;;
    *) echo "$(warnings) -Wsign-conversion -Wvla -Wformat=2" ;;
    esac
}

needs() { # file: what it says it links with, less what is not there
    local flags
    flags=$(sed -n '1,5s:.*/\* needs\: \(.*\) \*/.*:\1:p' "$1")
    flags=${flags//tensormem.o/}
    case "$NAME" in wasm*) flags=${flags//-pthread/} ;; esac
    case "$NAME" in wasm* | tcc) flags="$flags -DLLAMA_NO_THREADS" ;; esac
    echo "$flags"
}

suffix() {
    case "$NAME" in
    windows*) echo .exe ;;
    wasm:emscripten*) echo .js ;;
    wasm:wasi*) echo .wasm ;;
    esac
}

link_flags() {
    case "$NAME" in
    wasm:emscripten*) # its programs see this file system, but not the environment
        echo "Module.preRun = [() => { if (typeof ENV === 'object') ENV.TNM_TEST_SCALE = 'small'; }];" >"$DIR/small.js"
        echo "-sALLOW_MEMORY_GROWTH=1 -sNODERAWFS=1 -sSINGLE_FILE=1 -sEXIT_RUNTIME=1" \
            "--pre-js $DIR/small.js"
        ;;
    wasm:wasi*) # a stack of 64 KiB else
        echo "-Wl,-z,stack-size=1048576 -lwasi-emulated-process-clocks"
        ;;
    powerpc) echo "-latomic" ;; # the tests count in 64 bits
    esac
}

# Compiles the header once for all that use only its calls.
build_header() {
    printf '%s\n' '#define TENSORMEM_IMPLEMENTATION' '#include "tensormem.h"' >"$DIR/header.c"
    # shellcheck disable=SC2046
    "${CC[@]}" $(header_warnings) -I. -c "$DIR/header.c" -o "$DIR/header.o" >"$DIR/header.log" 2>&1
}

# What we define for others begins with tnm_, and there is no writable global.
symbols() {
    local nm=nm bad
    case "$NAME" in
    windows*) nm=x86_64-w64-mingw32-nm ;;
    wasm*) nm=llvm-nm-14 ;;
    esac
    bad=$({ "$nm" -P -g --defined-only "$DIR/header.o" | awk '$1 !~ /^tnm_/'
        "$nm" -P "$DIR/header.o" | awk '$2 ~ /^[bBDC]$/ && $1 !~ /^\./'; } 2>&1)
    [ -z "$bad" ] || echo "FAIL symbols:" $bad
}

public() { # file: does it only use the public face, of the header as it is?
    case "$1 ${CC[*]} " in
    *TENSORMEM_STATIC*) return 1 ;;
    examples/* | fuzz/*) ! grep -qE 'tnmi_|define TENSORMEM_(THREADS|NO_)' "$1" ;;
    *) sed -n 1,5p "$1" | grep -q 'needs: .*tensormem\.o' ;;
    esac
}

build() { # file, program
    local extra=(-DTENSORMEM_IMPLEMENTATION) object=()
    if public "$1"; then
        extra=(-DTENSORMEM_IMPLEMENTED)
        case "${CC[0]}" in *++*) object+=(-x none) ;; esac # the sources of the tests are named .c
        object+=("$DIR/header.o")
    elif grep -q 'define TENSORMEM_IMPLEMENTATION\|include "test_' "$1"; then
        extra=()
    fi
    case "$1" in fuzz/*) extra+=(fuzz/standalone.c) ;; esac
    # shellcheck disable=SC2046
    "${CC[@]}" $(warnings) -I. "$1" "${extra[@]}" "${object[@]}" -o "$2" $(needs "$1") $(link_flags)
}

run_program() { # file, program
    local args=()
    case "$1" in fuzz/*) args=("fuzz/corpus/$(basename "${1%.c}" | sed s/fuzz_//)") ;; esac
    # shellcheck disable=SC2086
    TNM_TEST_SCALE=small timeout "$LIMIT" $RUNNER "$2" "${args[@]}" </dev/null
}

one_test() { # file; prints "PASS name passed skipped", or "FAIL name: reason"
    local name program log status last start=$SECONDS
    name=$(basename "${1%.c}")
    program=$DIR/$name$(suffix) log=$DIR/$name.log
    if ! build "$1" "$program" >"$log" 2>&1; then
        echo "FAIL $name: does not build ($log)"
        return
    fi
    run_program "$1" "$program" >>"$log" 2>&1
    status=$?
    last=$(tail -n 1 "$log" | tr -d '\r')
    if [ $status -ne 0 ]; then
        echo "FAIL $name: exit status $status ($log)"
    elif [[ $last =~ ^([0-9]+)\ passed,\ 0\ failed,\ ([0-9]+)\ skipped$ ]]; then
        echo "PASS $name ${BASH_REMATCH[1]} ${BASH_REMATCH[2]} $((SECONDS - start)) s"
    else
        echo "PASS $name 1 0 $((SECONDS - start)) s"
    fi
    rm -f "$program"
}

one_target() { # name, runner, sets, compiler...
    local NAME=$1 RUNNER=$2 sets=$3 DIR=$OUT/${1//:/-} why file set
    shift 3
    why=$(missing "$1" || missing "${RUNNER%% *}") && { echo "$why"; return 77; }
    rm -rf "$DIR"
    mkdir -p "$DIR"
    local CC=("$@")
    if build_header; then
        symbols
        for set in ${SETS:-$sets}; do
            for file in $(tests_of "$set"); do one_test "$file"; done
        done
    else
        echo "FAIL the header does not build ($DIR/header.log)"
    fi >"$DIR/results"
    ! grep -q '^FAIL' "$DIR/results"
}

line() { # word, name, seconds, folder
    awk -v word="$1" -v name="$2" -v seconds="$3" '
    /^PASS/ { programs++; tests += $3; skipped += $4 }
    /^FAIL/ { failed++ }
    END { printf "%-4s %-18s %3d programs, %4d tests, %d failed, %d skipped, %d CPU s\n", word, name,
          programs + failed, tests, failed, skipped, seconds }' "$4/results"
    grep '^FAIL' "$4/results" | sed 's/^/    | /'
}

picked() { # name, targets asked for...
    local name=$1 want
    shift
    [ $# -eq 0 ] && return 0
    for want in "$@"; do
        case "$name" in "$want" | "$want":*) return 0 ;; esac
    done
    return 1
}

cpu_of() { # the output of `times`: seconds that the children took, however busy the machine is
    awk 'NR == 2 { gsub(/[ms]/, " "); printf "%d", $1 * 60 + $2 + $3 * 60 + $4 }' "$OUT/times"
}

main() {
    local name runner sets compiler why status start passed=0 failed=0 skipped=0
    mkdir -p "$OUT"
    while IFS='|' read -r name runner sets compiler; do
        name=$(trim "$name") runner=$(trim "$runner")
        picked "$name" "$@" || continue
        times >"$OUT/times"
        start=$(cpu_of)
        # shellcheck disable=SC2086
        why=$(one_target "$name" "$runner" "$sets" $compiler)
        status=$?
        times >"$OUT/times"
        case $status in
        77) skipped=$((skipped + 1)); echo "SKIP $name: $why" ;;
        0) passed=$((passed + 1)); line PASS "$name" $(($(cpu_of) - start)) "$OUT/${name//:/-}" ;;
        *) failed=$((failed + 1)); line FAIL "$name" $(($(cpu_of) - start)) "$OUT/${name//:/-}" ;;
        esac
    done < <(table)
    echo "$passed passed, $failed failed, $skipped skipped"
    [ $((passed + failed)) -gt 0 ] || return 77
    [ $failed -eq 0 ]
}

case "${1:-}" in
--list) table ;;
*) main "$@"; exit ;; # not read further: it may be edited while it runs
esac
