#!/usr/bin/env bash
# Cuts every code sample out of the header's guide (lines between " * @code" and " * @end") and of
# README.md (```c blocks), compiles it strictly as C99 and runs it: a sample is a complete program
# that exits 0. The first samples of both are the same program as examples/01_hello.c.
set -u
cd "$(dirname "$0")/.." || exit 1
CC=${CC:-gcc} DIR=build/samples bad=0
WARN="-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wundef -Wstrict-prototypes -Werror"

wrong() {
    echo "samples: $*"
    bad=1
}

cut_header() {
    awk -v dir=$DIR '
    /^ \* @code$/ { if (on) exit 1; file = sprintf("%s/header_%02d.c", dir, ++n); on = 1; next }
    /^ \* @end$/ { if (!on) exit 1; on = 0; close(file); next }
    on { print substr($0, 4) > file }
    END { if (on || n == 0) exit 1 }' tensormem.h
}

cut_readme() {
    awk -v dir=$DIR '
    /^```c$/ { file = sprintf("%s/readme_%02d.c", dir, ++n); on = 1; next }
    /^```$/ { if (on) close(file); on = 0; next }
    on { print > file }
    END { if (on || n == 0) exit 1 }' README.md
}

run_sample() {
    local binary=${1%.c}
    grep -q 'int main' "$1" || { wrong "$1 is not a complete program"; return; }
    # shellcheck disable=SC2086
    $CC -std=c99 $WARN -O1 -I. "$1" -o "$binary" || { wrong "$1 does not compile"; return; }
    timeout 60 "$binary" >"$binary.out" 2>&1 || wrong "$1 exits $?: $(tail -n 3 "$binary.out")"
}

tokens() {
    sed '/#include/d' "$1" | gcc -fpreprocessed -dD -E -P -x c - | tr -d '[:space:]'
}

same_program() {
    [ "$(tokens "$1")" = "$(tokens "$2")" ] || wrong "$1 and $2 are no longer the same program"
}

rm -rf $DIR
mkdir -p $DIR
cut_header || wrong "tensormem.h: no sample, or @code and @end do not pair"
cut_readme || wrong "README.md: no sample, or a block is not closed"
for sample in "$DIR"/*.c; do
    [ -e "$sample" ] && run_sample "$sample"
done
same_program $DIR/header_01.c examples/01_hello.c
same_program $DIR/readme_01.c examples/01_hello.c
[ $bad -eq 0 ] && echo "samples: $(find $DIR -name '*.c' | wc -l) compiled and run"
exit $bad
