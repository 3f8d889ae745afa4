#!/usr/bin/env bash
# Cuts every code sample out of the header's guide (lines between " * @code" and " * @end") and of
# README.md (```c blocks), compiles it strictly as C99 and runs it: a sample is a complete program
# that exits 0, and the backend among them keeps the rules of the conformance kit. The first samples
# of both are the same program as examples/01_hello.c.
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
    $CC -std=c99 $WARN -O0 -I. "$1" -o "$binary" || { wrong "$1 does not compile"; return; }
    timeout 60 "$binary" >"$binary.out" 2>&1 || wrong "$1 exits $?: $(tail -n 3 "$binary.out")"
}

tokens() {
    sed '/#include/d' "$1" | gcc -fpreprocessed -dD -E -P -x c - | tr -d '[:space:]'
}

same_program() {
    [ "$(tokens "$1")" = "$(tokens "$2")" ] || wrong "$1 and $2 are no longer the same program"
}

# The guide's backend keeps what the guide says: it is held against the conformance kit, with a
# sibling and with its kernels.
guide_conforms() {
    local file=$DIR/guide_conforms sample
    sample=$(grep -l 'gpu_copy' $DIR/header_*.c)
    [ -f "$sample" ] || { wrong "there is no backend in the guide, or more than one"; return; }
    cat >$file.c <<C
#define main the_samples_main
#include "$sample"
#undef main
#include "tests/conformance.h"

static int add_up(void *user, uint32_t queue, const tnm_pinned *at, uint8_t add) {
    (void)queue;
    for (uint64_t i = 0; i < at->bytes * add; i++) {
        tnm_pinned one = *at;
        one.offset += i / add;
        (void)launch((gpu *)user, &one);
    }
    return 1;
}

static uint64_t mark(void *user, uint32_t queue) { // a kernel of its own, so that marks grow
    static unsigned char nothing;
    tnm_pinned at = {.mem = (uint64_t)(uintptr_t)&nothing};
    (void)queue;
    (void)launch((gpu *)user, &at);
    return ((gpu *)user)->launched;
}

int main(void) {
    static gpu device, sibling;
    conform_subject s = {.name = "guide", .user = &device, .device_bytes = MEMORY, .queues = 1};
    tnm_backend own = {.alloc = gpu_alloc, .release = gpu_release, .copy = gpu_copy,
                       .submit = gpu_submit, .poll = gpu_poll, .user = &device};
    s.device = s.peer = own;
    s.peer.user = &sibling;
    s.passed = gpu_passed;
    s.mark = mark;
    s.work = add_up;
    return conform(&s) > 0 || the_samples_main() != 0;
}
C
    # shellcheck disable=SC2086
    $CC -std=c99 $WARN -O0 -I. $file.c -o $file -pthread || { wrong "$file.c does not compile"; return; }
    TNM_TEST_SCALE=small timeout 120 $file >$file.out 2>&1 ||
        wrong "the guide's backend does not conform: $(tail -n 3 $file.out)"
}

rm -rf $DIR
mkdir -p $DIR
cut_header || wrong "tensormem.h: no sample, or @code and @end do not pair"
cut_readme || wrong "README.md: no sample, or a block is not closed"
for sample in "$DIR"/*.c; do
    [ -e "$sample" ] && run_sample "$sample"
done
guide_conforms
same_program $DIR/header_01.c examples/01_hello.c
same_program $DIR/readme_01.c examples/01_hello.c
[ $bad -eq 0 ] && echo "samples: $(find $DIR -name '*.c' | wc -l) compiled and run"
exit $bad
