#!/usr/bin/env bash
# Line coverage of tensormem.h by all tests together. The header is compiled into every test; a line
# counts as covered if any of them ran it. build/coverage/uncovered lists the others. Needs gcov.
set -u
cd "$(dirname "$0")/.." || exit 1
unset MAKEFLAGS MFLAGS MAKELEVEL OUT
DIR=build/coverage

measure() { # test source: run it and print what its run of the header was like
    local name
    name=$(basename "${1%.c}")
    rm -f $DIR/tests/*"$name".gcda
    make -s $DIR/tests/"$name" OUT=$DIR CC=gcc CFLAGS="-O0 -g --coverage" >&2 &&
        $DIR/tests/"$name" >$DIR/"$name".log 2>&1 || echo "coverage: $name failed" >&2
    gcov -t $DIR/tests/"$name".gcda $DIR/tests/*-"$name".gcda 2>/dev/null
}

summary() {
    awk -F: -v uncovered=$DIR/uncovered.raw '
    $2 + 0 == 0 && $3 == "Source" { ours = $4 ~ /tensormem\.h$/; next }
    { count = $1; gsub(/[ *]/, "", count) }
    !ours || $2 + 0 == 0 || count == "-" { next }
    { seen[$2 + 0] = 1; text[$2 + 0] = substr($0, index($0, $3)) }
    count ~ /^[0-9]/ { hit[$2 + 0] = 1 }
    END {
        for (line in seen) {
            n++
            if (line in hit) covered++
            else printf "%6d: %s\n", line, text[line] > uncovered
        }
        printf "coverage: %d of %d lines of tensormem.h (%.1f %%)\n", covered, n,
            n ? 100 * covered / n : 0
    }'
    sort -n $DIR/uncovered.raw >$DIR/uncovered
}

mkdir -p $DIR
: >$DIR/uncovered.raw
for test in tests/test_*.c; do measure "$test"; done | summary
