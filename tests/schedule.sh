#!/usr/bin/env bash
# The long half of tests/test_schedule.c. Without arguments all parts but the last, in a quarter of an
# hour; a summary line at the end.
#   builds    every schedule to N=1 preemptions, then by chance: our lock, the application's lock,
#             each with atomics and without
#   tsan      the same under ThreadSanitizer by gcc and by clang, to whom each fiber is a thread
#   planted   the header with a bug put in, one at a time: the search has to find each
#   orders    an atomic access with a weaker order: ThreadSanitizer has to find each
#   all       every schedule to two preemptions, 3,000,000 at most of one scenario: half an hour
set -u
cd "$(dirname "$0")/.." || exit 1
CC=${CC:-gcc} N=${N:-1} OUT=${OUT:-build}/schedule
FLAGS="-std=c99 -O1 -g -pthread"
mkdir -p "$OUT"
good=0 bad=0 skipped=0

note() { # 0 or not, name, log
    if [ "$1" = 0 ]; then good=$((good + 1)); else bad=$((bad + 1)); fi
    local told
    told=$(grep -h -m 1 'again with' "$3" || grep -h ' schedules of ' "$3" || tail -1 "$3")
    printf '%s %s: %s\n' "$([ "$1" = 0 ] && echo PASS || echo FAIL)" "$2" "$told"
}

run() { # name, compiler, flags, arguments...
    local name=$1 cc=$2 flags=$3
    shift 3
    command -v "${cc%% *}" >/dev/null || { echo "SKIP $name: no $cc"; skipped=$((skipped + 1)); return; }
    # shellcheck disable=SC2086
    $cc $FLAGS $flags -I. tests/test_schedule.c -o "$OUT/$name" &&
        "$OUT/$name" "$@" >"$OUT/$name.log" 2>&1
    note $? "$name" "$OUT/$name.log"
}

builds() {
    run ours "$CC" "" --all "$N"
    run ours-noatomics "$CC" -DTENSORMEM_NO_ATOMICS --all "$N"
    run application "$CC" -DSCHEDULE_OWN_LOCK --all "$N"
    run application-noatomics "$CC" "-DSCHEDULE_OWN_LOCK -DTENSORMEM_NO_ATOMICS" --all "$N"
    run baton "$CC" -DSCHEDULE_BATON --chance 1 50
}

tsan() {
    run tsan-gcc gcc -fsanitize=thread --chance 1 "${TSAN_SCHEDULES:-200}"
    run tsan-clang clang -fsanitize=thread --chance 1 "${TSAN_SCHEDULES:-200}"
    run tsan-application clang "-fsanitize=thread -DSCHEDULE_OWN_LOCK" --chance 1 \
        "${TSAN_SCHEDULES:-200}"
}

plant() { # name, perl expression on the whole header
    local name=$1 dir=$OUT/planted
    mkdir -p "$dir"
    perl -0pe "$2" tensormem.h >"$dir/tensormem.h"
    if cmp -s tensormem.h "$dir/tensormem.h"; then
        echo "FAIL planted $name: its place in the header is not there any more"
        bad=$((bad + 1))
        return
    fi
    # shellcheck disable=SC2086
    if ! $CC $FLAGS -w -I"$dir" -Itests tests/test_schedule.c -o "$dir/$name"; then
        echo "FAIL planted $name: does not compile"
        bad=$((bad + 1))
        return
    fi
    # shellcheck disable=SC2086
    timeout 300 "$dir/$name" ${ARGS:-} >"$dir/$name.log" 2>&1
    [ $? -ne 0 ]
    note $? "planted $name" "$dir/$name.log"
    rm -f "$dir/$name"
}

planted() {
    plant no-second-look 's/if \(\(size_t\)tnmi_base_load32\(rep\) != index \|\| .*?\n\s+return TNMI_DOOR_UNDO;//s'
    plant claim-a-pinned-one 's/if \(!tnmi_tensor_is\(word, TNMI_READY\) \|\| tnmi_tensor_pins\(word\) != 0\) return 0;/if (!tnmi_tensor_is(word, TNMI_READY)) return 0;/'
    plant claim-without-comparing 's/(static int tnmi_tensor_claim.*?\} while \()!tnmi_base_swap64\(&replica->word, &word, (.*?)\)\);/$1(tnmi_base_poke64(&replica->word, $2), 0));/s'
    plant hit-a-busy-one 's/const uint64_t deny = full \| TNMI_BUSY \| /const uint64_t deny = full | /; s/return \(word & \(deny \| TNMI_READY\)\) == TNMI_READY;/return (word & deny) == 0;/'
    plant write-into-a-source 's/\(deny \| writers \| TNMI_SOURCE \| alone\)/(deny | writers | alone)/'
    plant write-beside-others 's/const uint64_t alone = TNMI_READY \| TNMI_ALONE;/const uint64_t alone = TNMI_READY;/'
    plant sleep-after-unlocking 's/tnmi_base_acquire\(&ctx->asleep\);\n    tnmi_door_unlock\(ctx\);\n    while \(rung == ctx->rung\)/tnmi_door_unlock(ctx);\n    tnmi_base_acquire(&ctx->asleep);\n    rung = ctx->rung;\n    while (rung == ctx->rung)/'
    plant two-drivers 's/if \(ctx->driving\) return tnmi_door_sleep\(ctx, rounds\);//'
    plant pump-beside-a-driver 's/if \(!ctx->driving\) \{\n        ctx->driving = ctx->e.pumping = 1;/{\n        ctx->driving = ctx->e.pumping = 1;/'
    plant nobody-is-woken 's/(static tnm_result tnmi_door_leave.*?)tnmi_door_hand_on\(ctx\);/$1/s'
    plant no-last-unpin 's/return before & TNMI_NOTIFY && tnmi_tensor_pins\(before\) == 1;/(void)before; return 0;/'
    plant two-grow-one-table 's/if \(ask->kind == TNMI_ASK_HOST && ask->table->capacity != capacity\)/if (0)/'
    plant names-not-looked-at-again 's/(tnmi_door_grow\(ctx\);\n        r = )tnmi_door_are_named\(ctx, set, count\);/$1TNM_OK;/'
    plant knock-never-answered 's/tnmi_base_acquire\(&ctx->mutex\);\n        tnmi_base_store32\(&ctx->knocking, 0\);/tnmi_base_acquire(&ctx->mutex);/; s/tnmi_base_release\(&ctx->anteroom\);\n        return;/return;/'
    plant both-wait 's/tnmi_engine_outrank\(e, request->age, tnmi_engine_member\(e, m\)\);//'
    plant move-forgets-claims 's/place->b = tnmi_space_node\(&t->space, node\)->b;/place->b = 0;/'
    plant unhit-keeps-the-pin 's/tnmi_door_release_pin\(ctx, replica, tier, index, pinned->access, locked\);/(void)locked;/'
    plant framed-unseen 's/while \(r >= 0 && \(tnmi_tensor_at\(&e->tensors, content\)->flags & TNMI_FRAMED\)\)/while (0)/'
}

orders() { # an atomic access with a weaker order: ThreadSanitizer has to see it in some schedule
    command -v clang >/dev/null || { echo "SKIP orders: no clang"; skipped=$((skipped + 1)); return; }
    local CC=clang FLAGS="$FLAGS -fsanitize=thread" ARGS="--chance 1 12"
    plant order-unpin 's/__atomic_fetch_sub\(at, value, __ATOMIC_ACQ_REL\)/__atomic_fetch_sub(at, value, __ATOMIC_RELAXED)/'
    plant order-swap 's/value, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED/value, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED/'
    plant order-swap-releases 's/value, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED/value, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED/'
    plant order-swap-acquires 's/value, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED/value, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED/'
    plant order-load 's/(tnmi_base_load32.*?__ATOMIC_)ACQUIRE/$1RELAXED/s'
    plant order-store 's/(tnmi_base_store32.*?__ATOMIC_)RELEASE/$1RELAXED/s'
}

all() {
    run all "$CC -O2" "" --all
}

for part in "${@:-builds tsan planted orders}"; do
    for one in $part; do "$one"; done
done
echo "schedule: $good passed, $bad failed, $skipped skipped"
[ $bad = 0 ]
