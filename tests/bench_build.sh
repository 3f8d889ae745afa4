#!/usr/bin/env bash
# What the header costs whoever compiles it: KiB of code at -Os, CPU seconds at -O2. Prints the
# lines of the other benches (tests/bench.h).
set -eu
cd "$(dirname "$0")/.."
CC=${CC:-gcc} DIR=build/bench

compile() { # -Os or -O2
    "$CC" -std=c99 "$1" -DTENSORMEM_IMPLEMENTATION -x c -c tensormem.h -o "$DIR/header$1.o"
}

line() { # name, value, unit, limit
    awk -v name="$1" -v value="$2" -v unit="$3" -v limit="$4" 'BEGIN {
        printf "bench %s value=%.6g unit=%s rival=limit_%g%s ratio=%.6g target=<=1 met=%s\n", name,
            value, unit, limit, unit, value / limit, value <= limit ? "yes" : "no" }'
}

mkdir -p $DIR
compile -Os
line build_code "$(size $DIR/header-Os.o | awk 'NR == 2 { print $1 / 1024 }')" KiB 64
TIMEFORMAT="%U %S"
line build_compile "$({ time compile -O2; } 2>&1 | awk '{ print $1 + $2 }')" s 1.5
