#!/usr/bin/env bash
# Fuzzes with libFuzzer: AddressSanitizer and UBSan, and ThreadSanitizer where a target has threads.
#   fuzz/run.sh [TARGET...]    api, order, ...; all without one
#   MINUTES=10                 for all targets together; or FUZZ_SECONDS=60 for each of them
#   FUZZ_SANITIZE=""           without sanitizers, several times as fast; or "memory"
# Inputs it keeps go to build/fuzz/corpus/TARGET, what it finds to build/fuzz/found/TARGET, where
# FUZZ_TELL=1 build/fuzz/fuzz_TARGET FILE (by make) replays it call by call. Needs clang. The exit
# status is 1 if anything was found, 77 if it could not run.
set -u
cd "$(dirname "$0")/.." || exit 1
CLANG=${CLANG:-clang}
command -v "$CLANG" >/dev/null 2>&1 || { echo "fuzz: clang is not installed"; exit 77; }
[ $# -gt 0 ] || set -- $(for f in fuzz/fuzz_*.c; do basename "${f%.c}" | sed 's/^fuzz_//'; done)
seconds=${FUZZ_SECONDS:-60}
[ -n "${MINUTES:-}" ] && seconds=$((MINUTES * 60 / $#))
bad=0 runs=0

sanitizers() { # target
    case "$1" in
    threads) echo thread ;;
    *) echo "${FUZZ_SANITIZE-address,undefined}" ;;
    esac
}

build() { # target
    local san flags="-std=c99 -O1 -g -fno-omit-frame-pointer -I. -DFUZZ_MUTATE"
    san=$(sanitizers "$1")
    flags+=" ${san:+-fsanitize=$san -fno-sanitize-recover=all}"
    case "$1" in # calls are found by records; numbers and text by what they are compared with
    gguf | shape | config) flags+=" -fsanitize=fuzzer-no-link" ;;
    threads) # counters that several threads write would be the first race: the main thread's only
        printf 'src:*\nfun:LLVMFuzzerTestOneInput\nfun:fuzz_open\n' >build/libfuzzer/main.list
        flags+=" -fsanitize-coverage=inline-8bit-counters,pc-table"
        flags+=" -fsanitize-coverage-allowlist=build/libfuzzer/main.list"
        ;;
    *) flags+=" -fsanitize-coverage=inline-8bit-counters,pc-table" ;;
    esac
    grep -q '^#define TENSORMEM_IMPLEMENTATION' "fuzz/fuzz_$1.c" ||
        flags+=" -DTENSORMEM_IMPLEMENTATION"
    [ "$1" = threads ] || flags+=" -fsanitize-coverage-ignorelist=fuzz/coverage.list"
    # shellcheck disable=SC2086
    "$CLANG" $flags -c "fuzz/fuzz_$1.c" \
        -o "build/libfuzzer/$1.o" &&
        "$CLANG" -pthread "-fsanitize=fuzzer${san:+,$san}" "build/libfuzzer/$1.o" -lm \
            -o "build/libfuzzer/$1"
}

fuzz() { # target
    local corpus="build/fuzz/corpus/$1" found="build/fuzz/found/$1" log="build/fuzz/$1.log" more=""
    local most=400 before status
    mkdir -p "$corpus" "$found" "fuzz/corpus/$1"
    [ -e "fuzz/$1.dict" ] && more="-dict=fuzz/$1.dict"
    [ "$1" = gguf ] && most=4096
    before=$(find "$found" -type f | wc -l)
    # shellcheck disable=SC2086
    TSAN_OPTIONS=halt_on_error=1 "build/libfuzzer/$1" -max_total_time="$seconds" -timeout=25 -rss_limit_mb=2500 -entropic=0 \
        -max_len=$most $more -print_final_stats=1 -artifact_prefix="$found/" "$corpus" \
        "fuzz/corpus/$1" >"$log" 2>&1
    status=$?
    n=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    runs=$((runs + ${n:-0}))
    printf '%-8s %9s runs %8s/s  %s\n' "$1" "${n:-?}" \
        "$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")" \
        "$(grep -aoE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -n 1)"
    [ $status -eq 0 ] && [ "$(find "$found" -type f | wc -l)" -eq "$before" ] && return 0
    grep -aE '^fuzz/.*: |^SUMMARY|Test unit written' "$log" | head -n 8
    bad=$((bad + 1))
}

mkdir -p build/libfuzzer
for target in "$@"; do
    if build "$target"; then fuzz "$target"; else bad=$((bad + 1)); fi
done
echo "fuzz: $# targets, $seconds s each, $runs runs, $bad with findings"
[ $bad -eq 0 ]
