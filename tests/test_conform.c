/* needs: -pthread */
/* The conformance kit itself: a device that keeps the contract breaks no rule, and each defect that
 * is planted in it is named by the rule it breaks. */
#define TENSORMEM_IMPLEMENTATION
#ifndef __wasm__
#    define TENSORMEM_THREADS
#endif
#include "tensormem.h"
#include "check.h"
#include "conformance.h"
#include "subject_sim.h"

static conform_kit kit;

/* Plays these rules (NULL = all) on the simulation: how many are broken. Only a device that is made
 * to hang is not waited for: a busy machine is no defect. */
static int play(int kind, subject_sim_defect defect, const char *only) {
    int hangs = defect == SIM_ONE_DOORBELL || defect == SIM_STAYS_FULL;
    conform_subject s;
    int broken, begun;
    if (!subject_sim(&s, kind, defect)) return -1;
    begun = conform_begin(&kit, &s);
    CHECK(begun);
    if (!begun) return -1;
    kit.only = only;
    kit.patience = hangs ? 1 : 60;
    conform_play_all(&kit);
    broken = conform_end_kit(&kit);
    if (!kit.dead) CHECK_EQ(subject_sim_live(s.user) > 0, kit.broken[CONFORM_LEAK] > 0);
    if (!kit.dead)
        subject_sim_end(&s);
    else
        conform_keep(s.user);
    return broken;
}

TEST(clean_devices_break_nothing) {
    static const int kinds[] = { 0, SUBJECT_SIM_SEEN, SUBJECT_SIM_SHARE, SUBJECT_SIM_AT_ONCE,
                                 SUBJECT_SIM_SEEN | SUBJECT_SIM_SHARE };
    for (int i = 0; i < check_scale(5, 3); i++)
        CHECK_EQ(play(kinds[i], SIM_NO_DEFECT, NULL), 0);
}

typedef struct planted {
    subject_sim_defect defect;
    int kind, rule;
    const char *only; /* what is played; a defect may break more than the one */
} planted;

static const planted all[] = {
    { SIM_FORGETS_OFFSET, 0, CONFORM_COPY_ODD, "copy-odd" },
    { SIM_ROUNDS_OFFSET, 0, CONFORM_COPY_ODD, "copy-odd" },
    { SIM_DROPS_TAIL, 0, CONFORM_COPY_ODD, "copy-odd" },
    { SIM_COPIES_MORE, 0, CONFORM_COPY_ODD, "copy-odd" },
    { SIM_DROPS_LARGE, 0, CONFORM_COPY_EDGE, "copy-odd copy-edge" },
    { SIM_SWAPS_WITHIN, 0, CONFORM_COPY_WITHIN, "copy-whole copy-odd copy-within" },
    { SIM_TAKES_OTHER, 0, CONFORM_COPY_BETWEEN, "copy-whole copy-within copy-between" },
    { SIM_HURTS_SOURCE, 0, CONFORM_COPY_SOURCE, "copy-odd" },
    { SIM_LATE_PLAIN, 0, CONFORM_COPY_PLAIN, "copy-odd copy-plain" },
    { SIM_TOKEN_ADOPTED, 0, CONFORM_COPY_ADOPTED, "copy-plain copy-adopted" },
    { SIM_OWN_PEER, 0, CONFORM_COPY_PEER, "copy-between copy-peer" },
    { SIM_TOUCHES_TICKET, 0, CONFORM_COPY_ROUTE, "copy-route" },
    { SIM_FORGETFUL_ROUTE, 0, CONFORM_COPY_ROUTE, "copy-route" },
    { SIM_ANY_TOKEN, 0, CONFORM_COPY_ROUTE, "copy-route" },
    { SIM_ZERO_TICKET, 0, CONFORM_TICKET_ZERO, "copy-whole" },
    { SIM_EARLY, 0, CONFORM_TICKET_DONE, "copy-whole ticket-done" },
    { SIM_EARLY_WAIT, 0, CONFORM_TICKET_DONE, "ticket-order ticket-wait" },
    { SIM_REUSES_TICKET, 0, CONFORM_TICKET_DONE, "copy-whole ticket-done" },
    { SIM_ONE_DOORBELL, 0, CONFORM_HANG, "ticket-done ticket-many" },
    { SIM_STAYS_FULL, 0, CONFORM_QUEUE_BUSY, "ticket-many queue-busy" },
    { SIM_HALF_ALLOC, 0, CONFORM_ALLOC_DISTINCT, "alloc-distinct" },
    { SIM_MISALIGNED, SUBJECT_SIM_SEEN, CONFORM_ALLOC_ALIGN, "alloc-align" },
    { SIM_TRUNCATES_SIZE, 0, CONFORM_ALLOC_REFUSE, "alloc-refuse" },
    { SIM_KEEPS_RELEASED, 0, CONFORM_ALLOC_FULL, "alloc-full" },
    { SIM_LEAKS, 0, CONFORM_LEAK, "alloc-align" },
    { SIM_SHADOW, SUBJECT_SIM_SEEN, CONFORM_ALLOC_HOST, "alloc-distinct alloc-host" },
    { SIM_SAYS_VISIBLE, 0, CONFORM_ALLOC_HOST, "alloc-host" },
    { SIM_MARK_ZERO, 0, CONFORM_FENCE_MARK, "fence-mark" },
    { SIM_PASSED_BACK, 0, CONFORM_FENCE_PASSED, "fence-mark" },
    { SIM_FENCE_EARLY, 0, CONFORM_FENCE_WORK, "fence-mark fence-work" },
    { SIM_FENCE_EARLY, 0, CONFORM_CTX_WORK, "ctx-trip ctx-work" },
    { SIM_STAYS_BROKEN, 0, CONFORM_FAIL_CLEAR, "fail-clear" },
    { SIM_SWALLOWS_FAILURE, 0, CONFORM_FAIL_CLEAR, "fail-clear" },
    { SIM_SWALLOWS_FAILURE, 0, CONFORM_CTX_FAIL, "ctx-fail" },
    { SIM_WRITES_DEAD, 0, CONFORM_FAIL_DEAD, "fail-clear" },
    { SIM_ONE_THREAD, 0, CONFORM_THREAD_HOP, "alloc-order thread-hop" },
    { SIM_LOST_IS_BACKEND, 0, CONFORM_LOST, "lost" },
    { SIM_NO_PLACE, 0, CONFORM_ALLOC_FULL, "alloc-full" },
};

TEST(each_defect_is_named_by_its_rule) {
    enum { COUNT = sizeof all / sizeof all[0] };
    int seen[SIM_DEFECTS] = { 0 };
    for (int i = 0; i < COUNT; i++) {
        int broken = play(all[i].kind, all[i].defect, all[i].only);
        seen[all[i].defect] = 1;
#ifndef CONFORM_THREADS
        if (all[i].rule == CONFORM_THREAD_HOP) continue;
#endif
        if (broken >= 1 && kit.broken[all[i].rule]) continue;
        printf("defect %d was not named by %s\n", (int)all[i].defect,
               conform_rule_name(all[i].rule));
        CHECK(kit.broken[all[i].rule] > 0);
    }
    for (int defect = SIM_NO_DEFECT + 1; defect < SIM_DEFECTS; defect++)
        CHECK(seen[defect]); /* each has its line above */
}

TEST(rules_can_be_chosen) {
    CHECK_EQ(play(0, SIM_FORGETS_OFFSET, "alloc-order fence-mark"), 0);
    CHECK_EQ(kit.played[CONFORM_COPY_ODD], 0);
    CHECK_EQ(kit.played[CONFORM_ALLOC_ORDER], 1);
    CHECK_EQ(kit.played[CONFORM_FENCE_MARK], 1);
}

int main(void) {
    RUN(clean_devices_break_nothing);
    RUN(each_defect_is_named_by_its_rule);
    RUN(rules_can_be_chosen);
    return check_done();
}
