#!/bin/sh
# Builds test_annotate.c for each memory checker, plants each bug, and says whether the checker saw it:
# one line "PASS|FAIL|SKIP checker/bug: reason". Run from the top of the repository.
out=build/annotate
mkdir -p "$out"
bugs="overrun underrun after_it_left after_destroy"

# try NAME SOURCE... : does this command line build and run a program that does nothing wrong?
builds() {
    echo 'int main(void) { return 0; }' >"$out/probe.c"
    "$@" "$out/probe.c" -o "$out/probe" >/dev/null 2>&1 && "$out/probe" >/dev/null 2>&1
}

build() { # BINARY COMPILER FLAGS...
    binary=$1
    shift
    "$@" -std=c99 -O0 -g -I. tests/test_annotate.c -o "$out/$binary" >"$out/$binary.log" 2>&1
}

# expect CHECKER BUG PATTERN COMMAND... : it must report (pattern in its output, status not 0)
expect() {
    checker=$1 bug=$2 pattern=$3
    shift 3
    if "$@" "$bug" >"$out/run.log" 2>&1; then
        echo "FAIL $checker/$bug: nothing was reported"
    elif grep -q "$pattern" "$out/run.log"; then
        echo "PASS $checker/$bug"
    else
        echo "FAIL $checker/$bug: ended without a report ($(tail -n 1 "$out/run.log"))"
    fi
}

expect_clean() {
    checker=$1
    shift
    if "$@" clean >"$out/run.log" 2>&1; then
        echo "PASS $checker/clean"
    else
        echo "FAIL $checker/clean: $(grep -m 1 -E 'ERROR|Invalid|uninit|WARNING' "$out/run.log")"
    fi
}

asan() { # COMPILER
    command -v "$1" >/dev/null 2>&1 || { echo "SKIP asan-$1: no $1"; return; }
    builds "$1" -fsanitize=address || { echo "SKIP asan-$1: $1 has no AddressSanitizer"; return; }
    build "asan-$1" "$1" -fsanitize=address -DTENSORMEM_REDZONE_BYTES=32 ||
        { echo "FAIL asan-$1: does not build, see $out/asan-$1.log"; return; }
    expect_clean "asan-$1" "$out/asan-$1"
    for b in $bugs; do expect "asan-$1" "$b" 'AddressSanitizer' "$out/asan-$1"; done
}

memcheck() {
    command -v valgrind >/dev/null 2>&1 || { echo "SKIP memcheck: no valgrind"; return; }
    echo '#include <valgrind/memcheck.h>' >"$out/header.c"
    ${CC:-cc} -fsyntax-only "$out/header.c" 2>/dev/null ||
        { echo "SKIP memcheck: no valgrind/memcheck.h"; return; }
    build memcheck "${CC:-cc}" -DTENSORMEM_VALGRIND -DTENSORMEM_REDZONE_BYTES=32 ||
        { echo "FAIL memcheck: does not build, see $out/memcheck.log"; return; }
    run="valgrind -q --error-exitcode=9 $out/memcheck"
    expect_clean memcheck $run
    for b in $bugs; do expect memcheck "$b" 'Invalid' $run; done
    expect memcheck never_written 'uninitialised' $run
}

msan() {
    command -v clang >/dev/null 2>&1 || { echo "SKIP msan: no clang"; return; }
    builds clang -fsanitize=memory || { echo "SKIP msan: clang has no MemorySanitizer"; return; }
    build msan clang -fsanitize=memory ||
        { echo "FAIL msan: does not build, see $out/msan.log"; return; }
    expect_clean msan "$out/msan"
    expect msan never_written 'MemorySanitizer' "$out/msan"
}

asan gcc
asan clang
memcheck
msan
