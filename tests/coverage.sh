#!/usr/bin/env bash
# Lines, branches and MC/DC of tensormem.h by all tests together, by clang 19. Fails below 100 % of
# any. build/coverage/uncovered lists what no test reached, by room and function. A minute or two.
#   ONLY="move api_pin"   run only these tests again; the others count as they last ran, if they ran
#                         with the same header and are still there
#   JOBS=2                at a time
# The header is compiled into every test. Its static functions would count apart for every file, so
# all tests of one configuration bear one name in the profile: counts and condition vectors are
# then added by the profiler itself. Between configurations coverage.py unites by place.
set -u
cd "$(dirname "$0")/.." || exit 1
unset MAKEFLAGS MFLAGS MAKELEVEL OUT
export TNM_TEST_SCALE=small
DIR=build/coverage
CLANG=${CLANG:-clang-19}
FLAGS="-std=c99 -O0 -fprofile-instr-generate -fcoverage-mapping -fcoverage-mcdc"
# These test files under examples/, whose use of the header the others have too.
ELSEWHERE=" test_annotate test_ascend test_cuda test_hip test_llm_device test_opencl test_vulkan \
test_vulkan_types "

tool() { # the program of the same release as the compiler, or "missing"
    local beside
    beside=$(dirname "$(readlink -f "$(command -v "$CLANG")")" 2>/dev/null)/$1
    [ -x "$beside" ] && echo "$beside" && return
    command -v "$1-19" || command -v "$1"
}

need() {
    command -v "$1" >/dev/null 2>&1 && return
    echo "coverage: $1 is not installed"
    exit 77
}

tests() {
    local file name
    for file in tests/test_*.c; do
        name=$(basename "${file%.c}")
        case "$ELSEWHERE" in *" $name "*) ;; *) echo "$name" ;; esac
    done
}

picked() {
    local name
    for name in $(tests); do
        [ -z "${ONLY:-}" ] && echo "$name" && continue
        case " $ONLY " in *" ${name#test_} "* | *" $name "*) echo "$name" ;; esac
    done
}

configuration() { # source: the switches it sets
    sed -n 's/^# *define \([A-Z]*_[A-Z_]*\).*/\1/p' "$1" | grep '^\(TENSORMEM\|TNMI\|THREADS\)_' |
        grep -v IMPLEMENTATION | sort -u | tr '\n' '-'
}

compile() { # configuration, arguments
    # shellcheck disable=SC2086
    $CLANG $FLAGS -w -I. -Xclang -main-file-name -Xclang "unit-$1.c" "${@:2}"
}

measure() { # test
    local source=tests/$1.c at=$DIR/$1 needs
    needs=$(sed -n '1,5s:.*/\* needs\: \(.*\) \*/.*:\1:p' "$source")
    rm -f "$at" "$at"-*.profraw
    # shellcheck disable=SC2086
    compile "$(configuration "$source")" "$source" "$DIR/child.o" -Wl,--wrap=_exit -o "$at" \
        ${needs/tensormem.o/$DIR/tensormem.o} >"$at.log" 2>&1 || { tail -5 "$at.log"; return 1; }
    LLVM_PROFILE_FILE="$at-%m.profraw" "$at" >"$at.log" 2>&1 && return
    grep -v ^PASS "$at.log" | tail -5
    echo "coverage: $1 failed"
    return 1
}

child() { # what a child of fork ran counts, though it ends by _exit
    cat <<'C'
int __llvm_profile_write_file(void);
void __real__exit(int status);
void __wrap__exit(int status);
void __wrap__exit(int status) {
    (void)__llvm_profile_write_file();
    __real__exit(status);
}
C
}

unsupported() { # decisions that clang cannot judge: they would be left out
    grep -A1 'unsupported MC/DC' $DIR/tensormem.log
}

export -f measure configuration compile
export DIR CLANG FLAGS
need "$CLANG"
need python3
PROFDATA=$(tool llvm-profdata) COV=$(tool llvm-cov)
need "${PROFDATA:-llvm-profdata-19}"
need "${COV:-llvm-cov-19}"
mkdir -p $DIR
cmp -s tensormem.h $DIR/tensormem.h || rm -f $DIR/*.profraw # those are of another header
cp tensormem.h $DIR/tensormem.h

bad=0
child >$DIR/child.c
$CLANG -c $DIR/child.c -o $DIR/child.o || exit 1
compile '' -DTENSORMEM_IMPLEMENTATION -x c -c tensormem.h -o $DIR/tensormem.o \
    2>$DIR/tensormem.log || { cat $DIR/tensormem.log; exit 1; }
picked | xargs -P "${JOBS:-2}" -I{} bash -c 'measure {}' || bad=1
if unsupported; then
    echo "coverage: decisions that clang cannot judge, write them without a nested boolean"
    bad=1
fi
ran=()
for name in $(tests); do compgen -G "$DIR/$name-*.profraw" >/dev/null && ran+=("$name"); done
[ ${#ran[@]} -gt 0 ] || { echo "coverage: no test ran"; exit 1; }
"$PROFDATA" merge -sparse $DIR/*.profraw -o $DIR/all.profdata || exit 1
for name in "${ran[@]}"; do
    "$COV" export "$DIR/$name" -instr-profile $DIR/all.profdata tensormem.h 2>$DIR/export.log ||
        { cat $DIR/export.log >&2; exit 1; }
    echo
done | python3 tests/coverage.py tensormem.h $DIR/uncovered || bad=1
exit $bad
