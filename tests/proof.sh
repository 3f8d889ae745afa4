#!/usr/bin/env bash
# Proofs, each by a tool that is made for it; what is proved and what each proof leaves to another
# stands at the top of its file in tests/proof/:
#   contracts.c   size, range and ring arithmetic, against ACSL contracts (Frama-C's WP, Z3, CVC4)
#   odd.smt2      the one mask under it, as a bit vector (Z3)
#   exhaust.c     the other bit tricks under it, by every argument
#   pins.pml      the pin word between readers, writer, evictor, destroyer (Spin)
#   bell.pml      who drives and who sleeps (Spin)
# Each model is also run with every bug planted that it knows: it must find them.
set -u
cd "$(dirname "$0")/.." || exit 1
OUT=build/proof CC=${CC:-gcc} passed=0 failed=0 skipped=0
mkdir -p $OUT

verdict() { # 0 | anything else, what, why
    if [ "$1" = 0 ]; then
        passed=$((passed + 1)) && echo "PASS $2"
    else
        failed=$((failed + 1)) && echo "FAIL $2: $3"
    fi
}

have() { # what, tools...: all of them, or it is skipped
    local what=$1 tool
    shift
    for tool in "$@"; do
        command -v "$tool" >/dev/null 2>&1 && continue
        skipped=$((skipped + 1)) && echo "SKIP $what: $tool is not installed"
        return 1
    done
}

contracts() {
    local log=$OUT/wp.log names proved all
    have contracts frama-c why3 z3 cvc4 || return
    why3 config detect >/dev/null 2>&1
    # every prototype whose contract has nothing admitted
    names=$(awk '/^\/\*@/ { admitted = 0 } /ensures admitted/ { admitted = 1 }
        /^static/ && !admitted { sub(/\(.*/, ""); sub(/.*[ *]/, ""); printf "%s%s", sep, $0; sep = "," }
        ' tests/proof/contracts.c)
    frama-c -wp -wp-rte -wp-prover z3,cvc4 -wp-timeout 10 -wp-par 2 -wp-fct "$names" \
        -cpp-extra-args="-I." tests/proof/contracts.c >$log 2>&1
    read -r proved all < <(sed -n 's/.*Proved goals: *\([0-9]*\) \/ \([0-9]*\).*/\1 \2/p' $log)
    [ "${proved:-0}" -gt 0 ] && [ "$proved" = "$all" ]
    verdict $? "contracts: ${proved:-no} of ${all:-no} goals about $(tr ',' '\n' <<<"$names" |
        wc -l) functions" "see $log"
}

bits() {
    have odd z3 || return
    [ "$(z3 tests/proof/odd.smt2)" = unsat ]
    verdict $? odd "tests/proof/odd.smt2 has a counterexample, or Z3 gave up"
}

exhaust() {
    $CC -std=c99 -O2 -I. tests/proof/exhaust.c -o $OUT/exhaust && $OUT/exhaust
    verdict $? exhaust "a bit trick breaks its contract"
}

spin_errors() { # model, bug: how many errors its search ends with
    (cd $OUT && spin -DBUG="$2" -a "../../tests/proof/$1.pml" >/dev/null &&
        $CC -O2 -w -DSAFETY -DCOLLAPSE -o "$1" pan.c && "./$1" -m300000 >"$1.$2.log" 2>&1 &&
        ! grep -q 'max search depth too small\|out of memory' "$1.$2.log" &&
        sed -n 's/.*errors: \([0-9]*\).*/\1/p' "$1.$2.log")
}

model() { # model, bugs...
    local name=$1 bug
    have "$name" spin || return
    shift
    [ "$(spin_errors "$name" 0)" = 0 ]
    verdict $? "$name: $(sed -n 's/ *\([0-9]*\) states, stored.*/\1/p' "$OUT/$name.0.log") states" \
        "see $OUT/$name.0.log"
    for bug in "$@"; do
        [ "$(spin_errors "$name" "$bug")" = 1 ]
        verdict $? "$name: planted bug $bug is found" "see $OUT/$name.$bug.log"
    done
}

bits
exhaust
model pins 1 2 3
model bell 1 2
contracts
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
