#!/usr/bin/env bash
# The gate behind `make test`. A job is "section name"; every job writes build/results/, and the
# last line printed is the total over all of them: "N passed, N failed, N skipped".
#   ONLY="unit asan/test_model hello"   run these sections, section/name pairs, or names (of tests
#                                       and examples, test_ and 01_ may be left out)
#   STRICT=1 (or CI=true)               a skip counts as failed unless its reason is a missing GPU
#   JOBS=2 LIMIT=240                    jobs at a time, seconds for each
#   NIGHTLY=1                           everything at full scale and -O2; and the sections ubsan and
#                                       fuzz, which else run only if ONLY names them
# Adding a section: list it in jobs(), write job_<section>() returning 0, $SKIP or a failure.
set -u
cd "$(dirname "$0")/.." || exit 1
unset MAKEFLAGS MFLAGS MAKELEVEL OUT # a job runs its own make, never as a part of the caller's
export CC=${CC:-gcc} CXX=${CXX:-g++} FUZZ_SECONDS=${FUZZ_SECONDS:-60}
export NIGHTLY=${NIGHTLY:-0}
[ "$NIGHTLY" = 1 ] && CFLAGS=${CFLAGS:--O2 -g} # -O1 compiles the header in half the time
export CFLAGS=${CFLAGS:--O1 -g}
export VALGRIND_ALL=${VALGRIND_ALL:-$NIGHTLY}
[ "${CI:-}" = true ] && STRICT=${STRICT:-1}
STRICT=${STRICT:-0} ONLY=${ONLY:-} JOBS=${JOBS:-2}
RESULTS=build/results
SKIP=77 # the exit status of a job that could not run; its last line of output says why
WARN="-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wundef -Werror"
SWITCHES="TENSORMEM_STATIC TENSORMEM_NO_ATOMICS TENSORMEM_THREADS TENSORMEM_NO_STDIO
    TENSORMEM_NO_FILE NDEBUG"
# Those that run for long: optimised where the others are not, and under Valgrind only by `make
# valgrind`.
LONG=" test_api_foresight test_api_pipeline test_api_scale test_conform test_gguf \
test_schedule test_shelf_noatomics test_threads test_threads_noatomics test_threads_ownlock "
# Not again under a checker: what builds itself for each, and what loads a vendor's runtime, whose
# own memory the checker would judge.
AS_IT_IS=" test_annotate test_opencl test_vulkan test_llm_device "
# Libraries of this machine: not in a 32-bit program.
LOADS=" test_cuda test_hip test_ascend test_dlpack test_device_work test_standin_cuda test_standin_hip \
test_standin_ascend "
KIT=" test_conform " # the kit under ThreadSanitizer takes half a minute, for threads of one rule
[ "$NIGHTLY" = 1 ] && KIT=""
BACKENDS="host file sim opencl vulkan cuda hip ascend"

# ---- the list of jobs ----
names() { # section, files...
    local section=$1 file
    shift
    for file in "$@"; do
        [ -e "$file" ] && echo "$section $(basename "${file%.*}")"
    done
}

with_threads() { # section: the tests that start threads
    local file
    for file in $(grep -ls '^/\* needs:.*-pthread' tests/test_*.c); do
        case "$AS_IT_IS$KIT" in *" $(basename "${file%.c}") "*) ;; *) names "$1" "$file" ;; esac
    done
}

jobs() {
    local std name
    names unit tests/test_*.c
    names example examples/[0-9]*.c
    names corpus fuzz/fuzz_*.c
    for name in $BACKENDS; do echo "conformance $name"; done
    for std in c99 c11 c17 c2x; do echo "compile gcc:$std"; echo "compile clang:$std"; done
    for std in c++11 c++14 c++17 c++20; do echo "compile g++:$std"; echo "compile clang++:$std"; done
    echo "compile reserved"
    echo "link program"
    echo "link symbols"
    echo "lint lint"
    echo "samples samples"
    echo "cross windows"
    again asan
    again i686
    with_threads tsan-clang
    if wanted_extra tsan; then with_threads tsan; else names tsan tests/test_threads*.c; fi
    again valgrind
    for name in test_shelf_noatomics test_threads_noatomics; do
        echo "helgrind $name"
        echo "drd $name"
    done
    [ -e tests/llama/run.sh ] && echo "llama agreement"
    if wanted_extra ubsan; then again ubsan; fi
    if wanted_extra fuzz; then names fuzz fuzz/fuzz_*.c; fi
}

wanted_extra() { # sections that are no part of the gate
    case " $ONLY " in *" $1 "* | *" $1/"*) return 0 ;; esac
    [ "$NIGHTLY" = 1 ]
}

again() { # section: the tests that are built and run once more in it
    names "$1" tests/test_*.c | while read -r section name; do
        case "$AS_IT_IS" in *" $name "*) continue ;; esac
        case "$1$LOADS" in i686*" $name "*) continue ;; esac
        case "$1/$VALGRIND_ALL$LONG" in valgrind/0*" $name "*) continue ;; esac
        echo "$section $name"
    done
}

selected() {
    local section name want
    while read -r section name; do
        [ -z "$ONLY" ] && echo "$section $name" && continue
        for want in $ONLY; do
            case "$want" in
            "$section" | "$section/$name" | "$section/${name#test_}") echo "$section $name" ;;
            "$name" | "${name#test_}" | "${name#[0-9][0-9]_}")
                case "$section" in unit | example | corpus | compile | link) echo "$section $name" ;; esac
                ;;
            esac
        done
    done
}

# ---- what each section does ----
need() { # tool: run by `need x || return $SKIP`
    command -v "$1" >/dev/null 2>&1 && return 0
    echo "$1 is not installed"
    return 1
}

once() { # targets that several jobs need, built by one of them
    mkdir -p build
    flock build/once.lock "${MAKE:-make}" -s "$@"
}

# What a test loads, and the object it links: built once, however many jobs want it.
shared_parts() { # source without .c, more for make
    case "$LOADS" in *" $(basename "$1") "*) once standins || return 1 ;; esac
    case $(head -n 1 "$1.c") in *tensormem.o*) once "${2:-build}/tensormem.o" "${@:3}" ;; esac
}

binary() { # folder under build/, source without .c, compiler, flags, more for make
    local flags=(OUT="build/$1" CC="$3" CFLAGS="$4" "${@:5}")
    shared_parts "$2" "build/$1" "${flags[@]}" && "${MAKE:-make}" -s "build/$1/$2" "${flags[@]}"
}

small() {
    if [ "$NIGHTLY" = 1 ]; then "$@"; else TNM_TEST_SCALE=small "$@"; fi
}

optimised() { # most tests run for less time than an optimiser would take
    case "$LONG" in *" $1 "*) echo -Og ;; *) echo -O0 ;; esac
}

job_unit() {
    local flags=$CFLAGS # of the object; the test itself, and what it has of the header inside it:
    [ "$NIGHTLY" = 1 ] || flags="${CFLAGS/-O1/$(optimised "$1")}"
    shared_parts "tests/$1" && "${MAKE:-make}" -s "build/tests/$1" CFLAGS="$flags" &&
        "build/tests/$1"
}

job_conformance() {
    once build/tests/conformance standins && small build/tests/conformance "$1"
}

job_example() {
    "${MAKE:-make}" -s "build/examples/$1" && "build/examples/$1"
}

job_corpus() { # the corpus of fuzz_x is fuzz/corpus/x
    shared_parts "fuzz/$1" && "${MAKE:-make}" -s "build/fuzz/$1" && "build/fuzz/$1" "fuzz/corpus/${1#fuzz_}"
}

SAN="-Og -g -fno-omit-frame-pointer -fno-sanitize-recover=all"

job_asan() {
    local flags="${SAN/-Og/$(optimised "$1")} -fsanitize=address,undefined"
    binary asan "tests/$1" "$CC" "$flags" && small "build/asan/tests/$1"
}

job_ubsan() {
    local cc=$CC
    command -v clang >/dev/null 2>&1 && cc=clang
    binary ubsan "tests/$1" "$cc" "$SAN -fsanitize=undefined" && small "build/ubsan/tests/$1"
}

job_tsan() {
    binary tsan "tests/$1" gcc "$SAN -fsanitize=thread" && small "build/tsan/tests/$1"
}

job_tsan-clang() {
    need clang || return $SKIP
    binary tsan-clang "tests/$1" clang "$SAN -fsanitize=thread" && small "build/tsan-clang/tests/$1"
}

job_valgrind() {
    local flags="-Og -g"
    need valgrind || return $SKIP
    [ -e /usr/include/valgrind/memcheck.h ] && flags="$flags -DTENSORMEM_VALGRIND"
    binary valgrind "tests/$1" "$CC" "$flags" && small valgrind -q --error-exitcode=9 \
        --leak-check=full --fair-sched=yes "build/valgrind/tests/$1"
}

races() { # tool of valgrind, test: without atomics, which these do not know; few copies
    need valgrind || return $SKIP
    binary valgrind "tests/$2" "$CC" "-Og -g" && small valgrind -q --tool="$1" --error-exitcode=9 \
        --fair-sched=yes "build/valgrind/tests/$2" threads
}

job_helgrind() {
    races helgrind "$1"
}

job_drd() {
    races drd "$1"
}

job_i686() {
    local cc=i686-linux-gnu-gcc
    need $cc || return $SKIP
    binary i686 "tests/$1" $cc "$(optimised "$1") -g -static -D_FILE_OFFSET_BITS=64" || return 1
    small "build/i686/tests/$1"
}

job_fuzz() {
    fuzz/run.sh "${1#fuzz_}"
}

job_lint() {
    tests/lint.sh
}

job_samples() {
    tests/samples.sh
}

job_llama() {
    need npm || return $SKIP
    tests/llama/run.sh
}

# ---- the header in every language, with every switch ----
unit_source() { # file, lines to stand before the header...
    local file=$1
    shift
    mkdir -p build/compile
    printf '%s\n' "$@" '#define TENSORMEM_IMPLEMENTATION' '#include "tensormem.h"' >"$file"
}

compiles() { # file, compiler and flags...
    local file=$1
    shift
    # shellcheck disable=SC2086
    "$@" $WARN -I. -c "$file" -o "$file.o" && return 0
    echo "failed: $* $file"
    return 1
}

job_compile() { # compiler:std
    local cc=${1%%:*} std=("-std=${1#*:}") ext=c define bad=0 file
    [ "$1" = reserved ] && { reserved; return; }
    need "$cc" || return $SKIP
    case "$1" in *c++*) ext=cpp ;; esac
    echo 'int x;' | "$cc" "${std[0]}" -x "${ext/cpp/c++}" -fsyntax-only - || return $SKIP
    [ $ext = c ] && std+=(-Wstrict-prototypes)
    file=build/compile/${1/:/-}
    unit_source "$file.$ext"
    case "$1" in *c11 | *c17 | *c++14 | *c++17) # between the oldest and newest
        compiles "$file.$ext" "$cc" "${std[@]}" -O0
        return ;;
    esac
    compiles "$file.$ext" "$cc" "${std[@]}" -O2 || bad=1
    for define in $SWITCHES; do
        unit_source "$file-$define.$ext" "#define $define"
        compiles "$file-$define.$ext" "$cc" "${std[@]}" -O0 || bad=1
    done
    return $bad
}

reserved() { # no identifier of ours is the compiler's or the system's
    need clang || return $SKIP
    unit_source build/compile/reserved.c
    unit_source build/compile/reserved.cpp
    compiles build/compile/reserved.c clang -std=c99 -Wreserved-identifier -fsyntax-only &&
        compiles build/compile/reserved.cpp clang++ -std=c++11 -Wreserved-identifier -fsyntax-only
}

job_cross() { # compile only
    local cc=x86_64-w64-mingw32-gcc std
    need $cc || return $SKIP
    for std in c99 c17; do
        unit_source build/compile/windows.c
        compiles build/compile/windows.c $cc -std=$std -O1 || return 1
        unit_source build/compile/windows-threads.c '#define TENSORMEM_THREADS'
        compiles build/compile/windows-threads.c $cc -std=$std -O1 || return 1
    done
}

job_link() {
    "link_$1"
}

link_program() { # one implementation, used by C, by C++ and by a file that includes it twice
    local dir=build/link
    mkdir -p $dir
    cat >$dir/one.c <<'C'
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
int one(void);
int one(void) {
    return tnm_version();
}
C
    cat >$dir/two.c <<'C'
#include "tensormem.h"
#include "tensormem.h"
int two(void);
int two(void) {
    return tnm_version();
}
C
    cat >$dir/main.cpp <<'C'
#include "tensormem.h"
extern "C" int one(void);
extern "C" int two(void);
int main() {
    return one() == TNM_VERSION && two() == TNM_VERSION && tnm_version() == TNM_VERSION ? 0 : 1;
}
C
    need "$CXX" || return $SKIP
    # shellcheck disable=SC2086
    $CC -std=c99 $WARN -I. -c $dir/one.c -o $dir/one.o &&
        $CC -std=c99 $WARN -I. -c $dir/two.c -o $dir/two.o &&
        $CXX -std=c++11 $WARN -I. -c $dir/main.cpp -o $dir/main.o &&
        $CXX $dir/one.o $dir/two.o $dir/main.o -o $dir/program && $dir/program
}

symbols() { # expectation (a regular expression none may match), nm's flag, defines...
    local bad=$1 flag=$2 found
    shift 2
    unit_source build/compile/symbols.c "$@"
    $CC -std=c99 -O1 -I. -c build/compile/symbols.c -o build/compile/symbols.o || return 1
    found=$(nm -P "$flag" build/compile/symbols.o | awk '{print $1}' | grep -E "$bad")
    [ -z "$found" ] && return 0
    echo "with '$*' the object has:" "$found"
    return 1
}

link_symbols() { # what we define begins with tnm_; what a switch forbids leaves no trace
    local bad=0
    need nm || return $SKIP
    for define in "" $SWITCHES; do
        unit_source build/compile/exported.c ${define:+"#define $define"}
        $CC -std=c99 -O0 -fno-pic -I. -c build/compile/exported.c -o build/compile/exported.o || bad=1
        nm -P -g --defined-only build/compile/exported.o | awk '$1 !~ /^tnm_/' | grep . && bad=1
        nm -P build/compile/exported.o | awk '$2 ~ /^[bBdDC]$/' | grep . &&
            echo "a writable global with '$define'" && bad=1
    done
    symbols '^tnm_' -g '#define TENSORMEM_STATIC' || bad=1
    symbols '^f?(printf|puts|putc|write|open|close)|^std(out|err)|^v?s?n?printf' -u \
        '#define TENSORMEM_NO_STDIO' '#define TENSORMEM_NO_FILE' '#define NDEBUG' || bad=1
    symbols '^(open|pread|pwrite|fopen|unlink|fsync)' -u '#define TENSORMEM_NO_FILE' || bad=1
    symbols '^(pthread|mtx|thrd)' -u || bad=1
    case $($CC -dumpmachine) in # its filter ends an application that calls what is not listed
    *linux*) symbols '^syscall' -u '#define __ANDROID__ 1' || bad=1 ;;
    esac
    return $bad
}

# ---- running and counting ----
report() { # status word, job, seconds, log
    local lines=""
    case "$1" in
    FAIL) lines=$(grep -E 'error|ERROR|FAIL|CHECK|failed|lint:|samples:' "$4" | head -n 8 | cut -c1-200)
          lines="${lines:-$(tail -n 8 "$4" | cut -c1-200)}
(all of it: $4)" ;;
    *) lines=$(grep '^SKIP ' "$4") ;;
    esac
    printf '%-4s %-34s %4ss\n%s' "$1" "$2" "$3" "${lines:+    | ${lines//$'\n'/$'\n'    | }
}"
}

count_total() { # log, exit status: by the last line; one failure more if it crashed
    local last passed failed skipped
    last=$(tail -n 1 "$1")
    if [[ $last =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
        passed=${BASH_REMATCH[1]} failed=${BASH_REMATCH[2]} skipped=${BASH_REMATCH[3]}
        [ "$2" -ne 0 ] && [ "$failed" -eq 0 ] && failed=1
    else
        passed=$(grep -c '^PASS ' "$1") failed=1 skipped=0
    fi
    echo "$passed $failed $skipped"
}

count_lines() { # log, exit status: by the lines PASS, FAIL and SKIP
    local failed
    failed=$(grep -c '^FAIL ' "$1")
    [ "$2" -ne 0 ] && [ "$failed" -eq 0 ] && failed=1
    echo "$(grep -c '^PASS ' "$1") $failed $(grep -c '^SKIP ' "$1")"
}

strict() { # log, passed, failed, skipped: under STRICT only a missing GPU may be skipped
    local gpu=0
    if [ "$STRICT" = 1 ] && [ "$4" -gt 0 ]; then
        gpu=$(grep -c '^SKIP .*GPU' "$1")
        [ "$gpu" -gt "$4" ] && gpu=$4
        echo "$2 $(($3 + $4 - gpu)) $gpu"
    else
        echo "$2 $3 $4"
    fi
}

cpu_seconds() { # reads the output of `times`: what the children cost, however busy the machine is
    awk 'NR == 2 { gsub(/[ms]/, " "); printf "%.1f", $1 * 60 + $2 + $3 * 60 + $4 }' "$1"
    rm -f "$1"
}

run_job() { # section, name
    local log="$RESULTS/$1.$2.log" status counts word=PASS start=$SECONDS
    "job_$1" "$2" >"$log" 2>&1
    status=$?
    case "$1:$status" in
    unit:* | conformance:*) counts=$(count_total "$log" $status) ;;
    *:$SKIP) counts="0 0 1" ;;
    llama:*) counts=$(count_lines "$log" $status) ;;
    *:0) counts="1 0 0" ;;
    *) counts="0 1 0" ;;
    esac
    if [ $status -eq $SKIP ]; then # say it in the form of a test's own SKIP line
        sed -i.bak '$s/^/SKIP '"$1 $2"': /' "$log" && rm -f "$log.bak"
    fi
    # shellcheck disable=SC2086
    counts=$(strict "$log" $counts)
    case "$counts" in *" 0 "*) ;; *) word=FAIL && echo "exit status $status" >>"$log" ;; esac
    [ "$counts" = "0 0 1" ] && word=SKIP
    times >"$RESULTS/$1.$2.times" # here: a subshell would only see its own children
    echo "$counts $((SECONDS - start)) $(cpu_seconds "$RESULTS/$1.$2.times")" >"$RESULTS/$1.$2.count"
    report $word "$1/$2" $((SECONDS - start)) "$log"
}

total() { # reads the list of jobs
    local section name passed=0 failed=0 skipped=0 p f s
    while read -r section name; do
        if ! read -r p f s _ 2>/dev/null <"$RESULTS/$section.$name.count"; then
            echo "FAIL $section/$name gave no result (killed, or over its time limit)"
            p=0 f=1 s=0
        fi
        passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    done
    echo "$passed passed, $failed failed, $skipped skipped"
    [ $failed -eq 0 ] && [ $((passed + skipped)) -gt 0 ]
}

main() {
    local limit=${LIMIT:-240} list="$RESULTS/jobs"
    [ "$NIGHTLY" = 1 ] && limit=21600
    rm -rf $RESULTS
    mkdir -p $RESULTS
    jobs | selected >$list
    export STRICT ONLY
    if [ -s $list ]; then
        xargs -P "$JOBS" -L 1 timeout "$limit" tests/run.sh --job <$list
    else
        echo "no test is called '$ONLY'"
    fi
    total <$list
}

if [ "${1:-}" = --job ]; then run_job "$2" "$3"; else main; fi
