/* Foresight that needs no declaration, from outside: a pass that was recorded is a schedule, told
 * or followed; under TNM_POLICY_AUTO a loop nobody declared is learned, what is irregular leaves as
 * under LRU, and what is dear to bring back stays longer. */
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "sim.h"

enum { KIB = 1024, ONE = 4 * KIB, N = 24, C = 12 };

static tnm_tensor t[N];

enum { TELLS = 1, PUMPS = 2 };

/* one pass over the loop, a tensor a step; bytes that came to tier 0 meanwhile */
static uint64_t pass(rig *g, int count, uint64_t first, int how) {
    uint64_t before = rig_stats(g, 0).bytes_in;
    for (int i = 0; i < count; i++) {
        if (how & TELLS) CHECK_EQ(tnm_step(g->ctx, 0, first + (uint64_t)i), TNM_OK);
        rig_expect(g, t[i], 0, (uint64_t)i);
        if (how & PUMPS) rig_rest(g);
    }
    return rig_stats(g, 0).bytes_in - before;
}

/* the nearest use of all that is known: which tensor's */
static int next_of(rig *g, int count) {
    uint64_t best = UINT64_MAX;
    int at = -1;
    for (int i = 0; i < count; i++) {
        uint64_t next = rig_info(g, t[i], 0).next_use;
        if (next >= best) continue;
        best = next;
        at = i;
    }
    return at;
}

static void touch(rig *g, const int *which, int count) {
    tnm_use set[4];
    tnm_pinned p[4];
    for (int i = 0; i < count; i++)
        set[i] = rig_use(t[which[i]], 0, TNM_READ);
    CHECK_EQ(tnm_pin(g->ctx, set, count, p), TNM_OK);
    CHECK_EQ(tnm_unpin(g->ctx, p, count, 0), TNM_OK);
}

static void touch1(rig *g, int which) {
    touch(g, &which, 1);
}

/* ---- record and replay ---- */
EACH(a_told_pass_recorded_is_a_schedule) { /* byte for byte what tnm_schedule would have done */
    uint64_t in[2][4];
    for (int recorded = 0; recorded < 2; recorded++) {
        tnm_use cycle[N];
        rig_start(g, 1);
        rig_pair(g, kind, rig_room(C, ONE));
        rig_make(g, t, N, ONE, 1);
        if (recorded) CHECK_EQ(tnm_record(g->ctx, 0), TNM_OK);
        pass(g, N, 0, TELLS);
        for (int i = 0; i < N; i++) {
            cycle[i] = rig_use(t[i], 0, TNM_READ);
            cycle[i].step = (uint64_t)i;
        }
        if (recorded)
            CHECK_EQ(tnm_replay(g->ctx, 0), TNM_OK);
        else
            CHECK_EQ(tnm_schedule(g->ctx, 0, cycle, N, N), TNM_OK);
        for (int k = 0; k < 4; k++)
            in[recorded][k] = pass(g, N, (uint64_t)(k + 1) * N, TELLS | PUMPS);
        CHECK_EQ(rig_stats(g, 0).late + rig_stats(g, 0).misses <= N + C, 1);
        rig_end(g);
    }
    for (int k = 0; k < 4; k++)
        CHECK_EQ(in[0][k], in[1][k]);
    CHECK(in[1][3] <= (N - C + 3) * ONE);
}

EACH(sets_tell_the_steps) { /* no step is told at all */
    tnm_tier_stats s;
    rig_pair(g, kind, rig_room(C, ONE));
    rig_make(g, t, N, ONE, 1);
    CHECK_EQ(tnm_record(g->ctx, 0), TNM_OK);
    pass(g, N, 0, 0);
    CHECK_EQ(pass(g, N, 0, 0), N * ONE); /* LRU, until it is replayed */
    CHECK_EQ(tnm_record(g->ctx, 0), TNM_OK);
    pass(g, N, 0, 0);
    CHECK_EQ(tnm_replay(g->ctx, 0), TNM_OK);
    CHECK_EQ(tnm_check(g->ctx), 0);
    pass(g, N, 0, PUMPS);
    s = rig_stats(g, 0);
    for (int k = 0; k < 3; k++)
        CHECK(pass(g, N, 0, PUMPS) <= (N - C) * ONE + s.stream_bytes + ONE);
    CHECK_EQ(rig_stats(g, 0).misses, s.misses); /* the pumps bring each in time */
    rig_end(g);
}

EACH(who_skips_or_repeats_is_found_again) {
    rig_pair(g, kind, rig_room(N, ONE));
    rig_make(g, t, N, ONE, 1);
    CHECK_EQ(tnm_record(g->ctx, 0), TNM_OK);
    pass(g, 8, 0, 0);
    CHECK_EQ(tnm_replay(g->ctx, 0), TNM_OK);
    CHECK_EQ(next_of(g, 8), 0); /* the cycle begins */
    touch1(g, 0);
    CHECK_EQ(next_of(g, 8), 1);
    touch1(g, 0); /* asked for again */
    touch1(g, 0);
    CHECK_EQ(next_of(g, 8), 1);
    touch1(g, 1);
    touch1(g, 5); /* three were left out */
    CHECK_EQ(next_of(g, 8), 6);
    touch1(g, 2); /* it began again, and left two out */
    CHECK_EQ(next_of(g, 8), 3);
    touch1(g, 20); /* nobody knows this one */
    CHECK_EQ(next_of(g, 8), 3);
    touch1(g, 7);
    touch1(g, 0);
    CHECK_EQ(next_of(g, 8), 1);
    CHECK_EQ(tnm_step(g->ctx, 0, 4), TNM_OK); /* from here on the program tells again */
    touch1(g, 4);
    CHECK_EQ(next_of(g, 8), 5);
    touch1(g, 7);
    CHECK_EQ(next_of(g, 8), 5);
    rig_end(g);
}

EACH(sets_are_known_by_their_members) { /* one in every set, and another order of the rest */
    static const int sets[4][3] = { { 0, 1, 2 }, { 0, 3, 4 }, { 0, 1, 5 }, { 0, 6, 7 } };
    static const int other[3] = { 4, 3, 0 }, part[2] = { 0, 6 };
    rig_pair(g, kind, rig_room(N, ONE));
    rig_make(g, t, N, ONE, 1);
    CHECK_EQ(tnm_record(g->ctx, 3), TNM_OK);
    for (int i = 0; i < 4; i++) {
        touch(g, sets[i], 3);
        touch(g, sets[i], 3); /* the same once more is no other step */
    }
    CHECK_EQ(tnm_replay(g->ctx, 3), TNM_OK);
    touch(g, sets[0], 3);
    CHECK(rig_info(g, t[3], 0).next_use < rig_info(g, t[5], 0).next_use);
    touch(g, other, 3);
    CHECK(rig_info(g, t[5], 0).next_use < rig_info(g, t[6], 0).next_use);
    touch(g, part, 2); /* a part of a set is another */
    CHECK(rig_info(g, t[5], 0).next_use < rig_info(g, t[6], 0).next_use);
    touch(g, sets[3], 3);
    CHECK_EQ(next_of(g, 8) <= 2, 1);
    CHECK(rig_info(g, t[2], 0).next_use < rig_info(g, t[3], 0).next_use);
    rig_end(g);
}

EACH(the_period_goes_from_the_first_step_to_the_last) {
    rig_pair(g, kind, rig_room(N, ONE));
    rig_make(g, t, N, ONE, 1);
    for (uint64_t s = 0; s < 10; s++) /* an older pass: it is not recorded */
        CHECK_EQ(tnm_step(g->ctx, 0, s), TNM_OK);
    CHECK_EQ(tnm_record(g->ctx, 0), TNM_OK);
    for (uint64_t s = 10; s < 20; s++) { /* ten steps, of which two pin something */
        CHECK_EQ(tnm_step(g->ctx, 0, s), TNM_OK);
        if (s == 13) touch1(g, 1);
        if (s == 13) touch1(g, 1);
        if (s == 15) touch1(g, 2);
    }
    CHECK_EQ(tnm_replay(g->ctx, 0), TNM_OK);
    CHECK_EQ(tnm_step(g->ctx, 0, 20), TNM_OK);
    uint64_t three = rig_info(g, t[1], 0).next_use, five = rig_info(g, t[2], 0).next_use;
    CHECK(three > 0 && three < five);
    CHECK_EQ(tnm_step(g->ctx, 0, 23), TNM_OK);
    CHECK_EQ(rig_info(g, t[1], 0).next_use, 0);
    touch1(g, 1);
    uint64_t ten = rig_info(g, t[1], 0).next_use, two = rig_info(g, t[2], 0).next_use;
    CHECK_EQ(ten, 5 * two);
    rig_end(g);
}

EACH(a_smaller_step_begins_the_recording_anew) {
    rig_pair(g, kind, rig_room(N, ONE));
    rig_make(g, t, N, ONE, 1);
    CHECK_EQ(tnm_record(g->ctx, 0), TNM_OK);
    touch1(g, 9);
    pass(g, 6, 0, TELLS);
    pass(g, 4, 0, TELLS);
    CHECK_EQ(tnm_replay(g->ctx, 0), TNM_OK);
    CHECK_EQ(rig_info(g, t[5], 0).next_use, UINT64_MAX);
    CHECK_EQ(rig_info(g, t[9], 0).next_use, UINT64_MAX);
    CHECK_EQ(tnm_step(g->ctx, 0, 4), TNM_OK); /* = 0: the period is 4 */
    CHECK_EQ(next_of(g, 6), 0);
    rig_end(g);
}

EACH(what_is_read_first_is_fetched) { /* DISCARD first: nothing to fetch; else there is */
    tnm_pinned p;
    tnm_result r;
    rig_pair(g, kind, rig_room(N, ONE));
    rig_make(g, t, 4, ONE, 1);
    CHECK_EQ(tnm_record(g->ctx, 0), TNM_OK);
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(tnm_step(g->ctx, 0, (uint64_t)i), TNM_OK);
        if (i == 2) rig_write(g, t[2], 0, 2);
        CHECK_EQ(rig_pin(g, t[i], 0, i == 3 ? TNM_WRITE : TNM_READ, &p), TNM_OK);
        CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    }
    CHECK_EQ(tnm_replay(g->ctx, 0), TNM_OK);
    CHECK_EQ(tnm_step(g->ctx, 0, 4), TNM_OK);
    for (int i = 2; i < 4; i++)
        RIG_UNTIL(r, g, tnm_evict(g->ctx, t[i], 0));
    CHECK_EQ(tnm_step(g->ctx, 0, 6), TNM_OK);
    rig_rest(g);
    CHECK(rig_state(g, t[2], 0) != TNM_STATE_READY); /* it will be built anew */
    CHECK_EQ(rig_state(g, t[3], 0), TNM_STATE_READY);
    rig_end(g);
}

EACH(a_full_table_ends_no_pin) {
    g->desc.max_tensors = N;
    g->desc.max_uses = 6;
    tnm_use cycle[3];
    rig_pair(g, kind, rig_room(C, ONE));
    rig_make(g, t, N, ONE, 1);
    for (int i = 0; i < 3; i++) {
        cycle[i] = rig_use(t[i], 0, TNM_READ);
        cycle[i].step = (uint64_t)i;
    }
    CHECK_EQ(tnm_schedule(g->ctx, 0, cycle, 3, 3), TNM_OK);
    CHECK_EQ(tnm_step(g->ctx, 0, 0), TNM_OK);
    CHECK_EQ(tnm_record(g->ctx, 0), TNM_OK);
    pass(g, 8, 0, 0); /* every pin is granted */
    CHECK_EQ(tnm_check(g->ctx), 0);
    CHECK_EQ(tnm_replay(g->ctx, 0), TNM_ERR_CAPACITY);
    CHECK_EQ(tnm_replay(g->ctx, 0), TNM_ERR_ARGUMENT); /* it does not record any more */
    CHECK_EQ(next_of(g, 8), 1);                        /* the cycle stands */
    CHECK_EQ(tnm_record(g->ctx, 0), TNM_OK);
    pass(g, 3, 0, 0);
    CHECK_EQ(tnm_replay(g->ctx, 0), TNM_OK); /* beside the cycle there is room for three */
    CHECK_EQ(tnm_schedule(g->ctx, 0, NULL, 0, 0), TNM_OK);
    CHECK_EQ(tnm_record(g->ctx, 0), TNM_OK);
    pass(g, 6, 0, 0);
    CHECK_EQ(tnm_replay(g->ctx, 0), TNM_OK);
    rig_end(g);
}

EACH(without_memory_the_pins_go_on) {
    rig_pair(g, kind, rig_room(N, ONE));
    rig_make(g, t, N, ONE, 1);
    pass(g, N, 0, 0);
    CHECK_EQ(tnm_record(g->ctx, 0), TNM_OK);
    sim_break(&g->sim, SIM_HOST_ALLOC, 1, 1);
    pass(g, N, 0, 0);
    CHECK_EQ(tnm_replay(g->ctx, 0), TNM_ERR_MEMORY);
    sim_break(&g->sim, SIM_HOST_ALLOC, 0, 0);
    CHECK_EQ(tnm_record(g->ctx, 0), TNM_OK);
    pass(g, N, 0, 0);
    CHECK_EQ(tnm_replay(g->ctx, 0), TNM_OK);
    rig_end(g);
}

EACH(broken_rules_of_recording) {
    rig_pair(g, kind, rig_room(C, ONE));
    rig_make(g, t, 4, ONE, 1);
    CHECK_EQ(tnm_record(NULL, 0), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_replay(NULL, 0), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_record(g->ctx, TNM_MAX_LANES), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_replay(g->ctx, TNM_MAX_LANES), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_replay(g->ctx, 0), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_record(g->ctx, 0), TNM_OK);
    CHECK_EQ(tnm_replay(g->ctx, 1), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_replay(g->ctx, 0), TNM_ERR_ARGUMENT); /* nothing was pinned */
    CHECK_EQ(tnm_replay(g->ctx, 0), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_check(g->ctx), 0);
    rig_end(g);
}

/* A name may go before what was recorded of its content, and a slot have another content. */
EACH(a_record_means_contents) {
    rig_pair(g, kind, rig_room(C, ONE));
    rig_make(g, t, 3, ONE, 1);
    tnm_tensor view = rig_view(g, t[0], 0, ONE);
    CHECK_EQ(tnm_record(g->ctx, 0), TNM_OK);
    pass(g, 3, 0, 0);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(tnm_tensor_destroy(g->ctx, t[i]), TNM_OK);
    for (int i = 3; i < 6; i++)
        t[i] = rig_tensor(g, ONE, 0);
    CHECK_EQ((uint32_t)t[3].id, (uint32_t)t[1].id);
    CHECK_EQ(tnm_replay(g->ctx, 0), TNM_OK);
    CHECK(rig_info(g, view, 0).next_use != UINT64_MAX); /* named by its view */
    CHECK(rig_info(g, t[2], 0).next_use != UINT64_MAX);
    for (int i = 3; i < 6; i++)
        CHECK_EQ(rig_info(g, t[i], 0).next_use, UINT64_MAX);
    CHECK_EQ(tnm_record(g->ctx, 0), TNM_OK); /* all of it goes: as if nothing had been pinned */
    tnm_use u = rig_use(view, 0, TNM_READ);
    tnm_pinned p;
    CHECK_EQ(tnm_pin(g->ctx, &u, 1, &p), TNM_OK);
    CHECK_EQ(tnm_unpin(g->ctx, &p, 1, 0), TNM_OK);
    CHECK_EQ(tnm_tensor_destroy(g->ctx, view), TNM_OK);
    CHECK_EQ(tnm_replay(g->ctx, 0), TNM_ERR_ARGUMENT);
    CHECK(rig_info(g, t[2], 0).next_use != UINT64_MAX); /* the cycle stands */
    CHECK_EQ(tnm_schedule(g->ctx, 0, NULL, 0, 0), TNM_OK);
    CHECK_EQ(g->ctx->e.hints.uses.live, 0);
    CHECK_EQ(tnm_check(g->ctx), 0);
    rig_end(g);
}

EACH(what_goes_meanwhile_is_forgotten) {
    rig_pair(g, kind, rig_room(C, ONE));
    rig_make(g, t, 6, ONE, 1);
    CHECK_EQ(tnm_record(g->ctx, 0), TNM_OK);
    CHECK_EQ(tnm_record(g->ctx, 1), TNM_OK);
    pass(g, 6, 0, 0);
    for (int i = 0; i < 6; i += 5)
        CHECK_EQ(tnm_tensor_destroy(g->ctx, t[i]), TNM_OK);
    CHECK_EQ(tnm_check(g->ctx), 0);
    CHECK_EQ(tnm_replay(g->ctx, 0), TNM_OK);
    touch1(g, 1);
    touch1(g, 2);
    CHECK_EQ(tnm_check(g->ctx), 0);
    for (int i = 1; i < 5; i++)
        CHECK_EQ(tnm_tensor_destroy(g->ctx, t[i]), TNM_OK);
    CHECK_EQ(tnm_replay(g->ctx, 1), TNM_ERR_ARGUMENT); /* nothing of it is left */
    rig_end(g);
}

/* ---- nothing is declared ---- */
static void learner(rig *g, int kind, uint64_t room, int learns) {
    g->desc.policy = learns ? TNM_POLICY_AUTO : TNM_POLICY_LRU;
    rig_pair(g, kind, room);
}

EACH(a_loop_nobody_declared_is_learned) {
    for (int how = 0; how <= PUMPS; how += PUMPS) {
        rig_start(g, 1);
        learner(g, kind, rig_room(C, ONE), 1);
        rig_make(g, t, N, ONE, 1);
        CHECK_EQ(pass(g, N, 0, how), N * ONE); /* nobody knows yet: LRU */
        for (int k = 0; k < 5; k++)
            pass(g, N, 0, how);
        for (int k = 0; k < 3; k++)
            CHECK(pass(g, N, 0, how) <= (N - C + 2) * ONE); /* N would be LRU's */
        if (how & PUMPS) {                                  /* and comes before it is asked for */
            tnm_tier_stats s = rig_stats(g, 0);
            pass(g, N, 0, how);
            CHECK_EQ(rig_stats(g, 0).misses, s.misses);
            CHECK(rig_stats(g, 0).prefetches >= s.prefetches + N - C);
            CHECK(rig_stats(g, 0).prefetches_wasted <= 2);
        }
        rig_end(g);
    }
}

EACH(a_loop_of_sets_is_learned) { /* three at a time, with one that all share */
    learner(g, kind, rig_room(C, ONE), 1);
    rig_make(g, t, N, ONE, 1);
    for (int k = 0; k < 10; k++) {
        uint64_t before = rig_stats(g, 0).bytes_in;
        for (int i = 1; i + 1 < N; i += 2) {
            int set[3];
            set[0] = 0;
            set[1] = i;
            set[2] = i + 1;
            touch(g, set, 3);
        }
        uint64_t in = rig_stats(g, 0).bytes_in - before;
        if (k > 6) CHECK(in <= (N - C + 3) * ONE);
    }
    rig_end(g);
}

EACH(what_is_hit_in_between_stays) { /* hits take no lock, and are seen all the same */
    learner(g, kind, rig_room(C, ONE), 1);
    rig_make(g, t, N, ONE, 1);
    for (int k = 0; k < 8; k++) {
        uint64_t before = rig_stats(g, 0).misses;
        for (int i = 2; i < N; i++) {
            touch1(g, i);
            touch1(g, 0);
            if (i % 2) touch1(g, 1);
        }
        if (k == 0) continue;
        CHECK_EQ(rig_state(g, t[0], 0), TNM_STATE_READY);
        CHECK_EQ(rig_state(g, t[1], 0), TNM_STATE_READY);
        CHECK(rig_stats(g, 0).misses - before <= N - 2);
    }
    rig_end(g);
}

/* a stream of uses in which nothing comes in turn: some are wanted more often than others */
static uint64_t irregular(rig *g, int uses) {
    uint64_t seed = 7, before = rig_stats(g, 0).bytes_in;
    for (int i = 0; i < uses; i++) {
        uint64_t a = check_draw(&seed, N), b = check_draw(&seed, N);
        touch1(g, (int)(a < b ? a : b));
    }
    return rig_stats(g, 0).bytes_in - before;
}

EACH(what_is_irregular_is_no_worse_than_lru) { /* also behind a loop that ended */
    uint64_t in[2], after[2];
    for (int learns = 0; learns < 2; learns++) {
        rig_start(g, 1);
        learner(g, kind, rig_room(C, ONE), learns);
        rig_make(g, t, N, ONE, 1);
        in[learns] = irregular(g, 1500);
        for (int k = 0; k < 8; k++)
            pass(g, N, 0, PUMPS);
        after[learns] = irregular(g, 1500);
        rig_end(g);
    }
    CHECK(in[1] * 100 <= in[0] * 102);
    CHECK(after[1] * 100 <= after[0] * 102);
}

EACH(what_is_dear_to_bring_back_stays) { /* two on disk, eight in host memory, all clean */
    for (int learns = 0; learns < 2; learns++) {
        int far_there = 0;
        rig_start(g, 1);
        g->desc.policy = learns ? TNM_POLICY_AUTO : TNM_POLICY_LRU;
        rig_tier(g, "device", kind, rig_room(4, ONE));
        sim_device *host = rig_tier(g, "host", SIM_PLAIN, rig_room(12, ONE));
        sim_device *disk = rig_tier(g, "disk", SIM_PLAIN, 0);
        host->limit = UINT64_MAX; /* what is lent is not charged */
        rig_create(g);
        for (int i = 0; i < 10; i++) {
            sim_device *from = i < 2 ? disk : host;
            tnm_adopt_desc a = sim_lent(from, sim_lend(from, ONE), 0);
            t[i] = rig_adopt(g, &a, ONE);
        }
        CHECK_EQ(rig_budget(g, 1, 0) >= 0, 1); /* nothing of the disk's stays on the way */
        for (int k = 0; k < 6; k++) {
            for (int i = 0; i < 10; i++)
                touch1(g, i < 2 ? i : 2 + (5 * i + 3 * k) % 8);
            if (k == 0) continue;
            far_there += rig_state(g, t[0], 0) == TNM_STATE_READY;
            far_there += rig_state(g, t[1], 0) == TNM_STATE_READY;
        }
        CHECK(learns ? far_there >= 8 : far_there == 0);
        rig_end(g);
    }
}

EACH(fixed_tables_take_nothing_later) {
    g->desc.max_tensors = N;
    learner(g, kind, rig_room(C, ONE), 1);
    rig_make(g, t, N, ONE, 1);
    sim_break(&g->sim, SIM_HOST_ALLOC, 1, 1);
    for (int k = 0; k < 6; k++)
        pass(g, N, 0, PUMPS);
    CHECK(pass(g, N, 0, PUMPS) <= (N - C + 2) * ONE);
    CHECK_EQ(tnm_tensor_destroy(g->ctx, t[5]), TNM_OK); /* what was known of it is forgotten */
    t[5] = rig_tensor(g, ONE, 0);
    CHECK_EQ(rig_info(g, t[5], 0).next_use, UINT64_MAX);
    sim_break(&g->sim, SIM_HOST_ALLOC, 0, 0);
    rig_end(g);
}

EACH(foresight_that_is_told_outranks_what_is_learned) {
    tnm_use u;
    learner(g, kind, rig_room(C, ONE), 1);
    rig_make(g, t, N, ONE, 1);
    for (int k = 0; k < 7; k++)
        pass(g, N, 0, 0);
    CHECK(rig_info(g, t[N - 1], 0).next_use > N / 2); /* just used: a whole pass away */
    u = rig_use(t[N - 1], 0, TNM_READ);
    u.flags = TNM_SURE;
    u.step = 1;
    CHECK_EQ(tnm_prefetch(g->ctx, 0, &u, 1), TNM_OK);
    CHECK(rig_info(g, t[N - 1], 0).next_use <= 1);
    pass(g, N - 1, 0, 0);
    CHECK_EQ(rig_state(g, t[N - 1], 0), TNM_STATE_READY);
    rig_end(g);
}

int main(void) {
    RUN(a_told_pass_recorded_is_a_schedule);
    RUN(sets_tell_the_steps);
    RUN(who_skips_or_repeats_is_found_again);
    RUN(sets_are_known_by_their_members);
    RUN(the_period_goes_from_the_first_step_to_the_last);
    RUN(a_smaller_step_begins_the_recording_anew);
    RUN(what_is_read_first_is_fetched);
    RUN(a_full_table_ends_no_pin);
    RUN(without_memory_the_pins_go_on);
    RUN(broken_rules_of_recording);
    RUN(a_record_means_contents);
    RUN(what_goes_meanwhile_is_forgotten);
    RUN(a_loop_nobody_declared_is_learned);
    RUN(a_loop_of_sets_is_learned);
    RUN(what_is_hit_in_between_stays);
    RUN(what_is_irregular_is_no_worse_than_lru);
    RUN(what_is_dear_to_bring_back_stays);
    RUN(fixed_tables_take_nothing_later);
    RUN(foresight_that_is_told_outranks_what_is_learned);
    return check_done();
}
