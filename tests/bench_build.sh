#!/usr/bin/env bash
# What the header costs whoever compiles it. build_code: KiB of instructions and constants at -Os;
# build_code_unwind: the same with the tables that debuggers and C++ unwind by, which a program may
# leave out (-fno-asynchronous-unwind-tables). build_compile: CPU seconds at -O2, median of five.
# Prints the lines of the other benches (tests/bench.h).
set -eu
cd "$(dirname "$0")/.."
CC=${CC:-gcc} DIR=build/bench

compile() { # -Os or -O2
    "$CC" -std=c99 "$1" -DTENSORMEM_IMPLEMENTATION -x c -c tensormem.h -o "$DIR/header$1.o"
}

kib() { # awk pattern of the sections to count
    size -A $DIR/header-Os.o | awk '$1 ~ /'"$1"'/ { n += $2 } END { print n / 1024 }'
}

seconds() {
    local TIMEFORMAT="%U %S"
    { time compile -O2; } 2>&1 | awk '{ print $1 + $2 }'
}

line() { # name, value, unit, limit
    awk -v name="$1" -v value="$2" -v unit="$3" -v limit="$4" 'BEGIN {
        printf "bench %s value=%.6g unit=%s rival=limit_%g%s ratio=%.6g target=<=1 met=%s\n", name,
            value, unit, limit, unit, value / limit, value <= limit ? "yes" : "no" }'
}

mkdir -p $DIR
compile -Os
line build_code "$(kib '^\.(text|rodata|data)')" KiB 64
line build_code_unwind "$(kib '^\.(text|rodata|data|eh_frame)')" KiB 64
line build_compile "$(for _ in 1 2 3 4 5; do seconds; done | sort -n | sed -n 3p)" s 1.5
