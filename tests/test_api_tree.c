/* needs: tensormem.o */
/* Trees of tiers from outside: cascades, two devices over one host over one disk, exchange of full
 * tiers, and a backend whose memory is gone. P1, P2, P4, P5. */
#include "tensormem.h"
#include "sim.h"

enum { KIB = 1024, ONE = 8 * KIB, MOST = 24 };

static tnm_tensor t[MOST];

static void three(rig *g, int kind, uint64_t fast, uint64_t middle) {
    rig_tier(g, "device", kind, rig_room(fast, ONE));
    rig_tier(g, "host", SIM_PLAIN, rig_room(middle, ONE) + 32 * KIB);
    g->tiers[1].segment_bytes = rig_room(1, ONE) * 2;
    rig_tier(g, "disk", SIM_HIDDEN | (kind & SIM_ASYNC), 0);
    rig_create(g);
}

static void two_over_one(rig *g, int kind) {
    rig_tier(g, "left", kind, rig_room(2, ONE));
    rig_tier(g, "right", kind ^ SIM_ASYNC, rig_room(2, ONE));
    rig_tier(g, "host", SIM_PLAIN, rig_room(4, ONE) + 32 * KIB);
    g->tiers[2].segment_bytes = rig_room(1, ONE) * 2;
    rig_tier(g, "disk", SIM_HIDDEN | (kind & SIM_ASYNC), 0);
    g->tiers[0].spill_to = g->tiers[1].spill_to = 2;
    rig_create(g);
}

EACH(cascade) { /* a load pushes down, which pushes down */
    three(g, kind, 2, 3);
    rig_make(g, t, 12, ONE, 0);
    for (int i = 0; i < 36; i++)
        rig_expect(g, t[i * 5 % 12], 0, (uint64_t)(i * 5 % 12));
    CHECK(rig_stats(g, 2).bytes_in > 0);
    rig_expect_all(g, t, 12, 2);
    rig_end(g);
}

EACH(dirty_cascade) {
    three(g, kind, 2, 3);
    rig_make(g, t, 8, ONE, 0);
    for (uint64_t n = 0; n < 40; n++) {
        uint64_t i = n * 3 % 8;
        rig_change(g, t[i], 0, n < 8 ? i : n - 8 + 100, n + 100);
        rig_healthy(g);
    }
    rig_end(g);
}

EACH(two_devices) {
    two_over_one(g, kind);
    rig_make(g, t, 10, ONE, 0);
    rig_expect_all(g, t, 10, 1);
    for (int n = 0; n < 60; n++)
        rig_expect(g, t[n * 7 % 10], n % 3, (uint64_t)(n * 7 % 10));
    rig_end(g);
}

EACH(a_member_is_written_back_for_another) { /* though it is to be built anew on the host */
    tnm_use set[2];
    tnm_pinned p[2];
    tnm_result r;
    three(g, kind, 1, 3);
    rig_make(g, t, 2, ONE, 0);
    set[0] = rig_use(t[0], 0, TNM_READ);
    set[1] = rig_use(t[1], 1, TNM_DISCARD);
    RIG_UNTIL(r, g, tnm_try_pin(g->ctx, set, 2, p));
    CHECK_EQ(r, TNM_OK);
    CHECK(sim_same(sim_at(&g->sim, &p[0]), 0, 0, ONE));
    sim_fill(sim_at(&g->sim, &p[1]), 7, 0, ONE);
    CHECK_EQ(tnm_unpin(g->ctx, p, 2, 0), TNM_OK);
    rig_expect(g, t[1], 0, 7);
    rig_end(g);
}

EACH(a_member_is_waited_for_while_it_is_written_down) { /* then it leaves for another */
    tnm_use set[2];
    tnm_pinned p[2], held;
    tnm_result r;
    two_over_one(g, kind);
    rig_make(g, t, 3, ONE, 0);
    r = tnm_flush(g->ctx, t[1], 2);
    CHECK(r == TNM_OK || r == TNM_PENDING);
    CHECK_EQ(rig_pin(g, t[2], 0, TNM_READ, &held), TNM_OK);
    set[0] = rig_use(t[0], 0, TNM_READ);
    set[1] = rig_use(t[1], 1, TNM_READ);
    RIG_UNTIL(r, g, tnm_try_pin(g->ctx, set, 2, p));
    CHECK_EQ(r, TNM_OK);
    CHECK(sim_same(sim_at(&g->sim, &p[0]), 0, 0, ONE));
    CHECK(sim_same(sim_at(&g->sim, &p[1]), 1, 0, ONE));
    CHECK_EQ(tnm_unpin(g->ctx, p, 2, 0), TNM_OK);
    CHECK_EQ(rig_unpin(g, &held, 0), TNM_OK);
    rig_end(g);
}

EACH(siblings_are_not_a_way_down) { /* both drop one content at once, each counting on the other */
    tnm_pinned a, b;
    tnm_result r, s;
    two_over_one(g, kind);
    rig_make(g, t, 1, ONE, 0);
    CHECK_EQ(rig_pin(g, t[0], 1, TNM_READ, &b), TNM_OK);
    CHECK_EQ(rig_pin(g, t[0], 0, TNM_READ, &a), TNM_OK);
    CHECK_EQ(rig_unpin(g, &a, 0), TNM_OK);
    CHECK_EQ(rig_unpin(g, &b, 0), TNM_OK);
    RIG_UNTIL(r, g, (s = tnm_evict(g->ctx, t[0], 1), tnm_evict(g->ctx, t[0], 0)));
    RIG_UNTIL(s, g, tnm_evict(g->ctx, t[0], 1));
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(s, TNM_OK);
    CHECK_EQ(rig_state(g, t[0], 0), TNM_STATE_ABSENT);
    CHECK_EQ(rig_state(g, t[0], 1), TNM_STATE_ABSENT);
    rig_expect(g, t[0], 2, 0);
    rig_end(g);
}

EACH(write_on_one_device_read_on_the_other) {
    two_over_one(g, kind);
    rig_make(g, t, 3, ONE, 0);
    for (uint64_t n = 1; n < 10; n++) {
        rig_change(g, t[0], (int)(n & 1), n == 1 ? 0 : n - 1 + 50, n + 50);
        rig_expect(g, t[0], (int)(~n & 1), n + 50);
    }
    rig_end(g);
}

EACH(larger_than_the_middle) { /* a victim goes to the first tier where it can ever fit */
    tnm_tensor big[2];
    rig_tier(g, "fast", kind & ~SIM_HIDDEN, rig_room(4, ONE));
    rig_tier(g, "small", SIM_PLAIN, rig_room(1, ONE));
    rig_tier(g, "large", SIM_PLAIN, 0);
    rig_create(g);
    for (int i = 0; i < 2; i++) {
        big[i] = rig_tensor(g, 4 * ONE - 512, 0);
        rig_write(g, big[i], 0, (uint64_t)i);
    }
    for (int i = 0; i < 6; i++)
        rig_expect(g, big[i & 1], 0, (uint64_t)(i & 1));
    rig_end(g);
}

EACH(exchange_of_full_tiers_is_refused) { /* neither can go first */
    tnm_pinned p;
    uint8_t back[ONE];
    rig_tier(g, "fast", kind, rig_room(1, ONE));
    rig_tier(g, "slow", SIM_PLAIN, rig_room(1, ONE));
    rig_create(g);
    rig_make(g, t, 2, ONE, 0);
    CHECK_EQ(rig_pin(g, t[0], 0, TNM_READ, &p), TNM_ERR_BUDGET);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(tnm_read(g->ctx, t[i], 0, back, ONE), TNM_OK);
        CHECK(sim_same(back, (uint64_t)i, 0, ONE));
    }
    rig_end(g);
}

EACH(a_bottom_is_compacted) { /* holes between what must stay make one large enough */
    tnm_tensor big;
    enum { N = 16 };
    rig_tier(g, "only", kind, rig_room(N, 1024));
    rig_create(g);
    rig_make(g, t, N, 1024, 0);
    for (int i = 0; i < N; i += 2)
        CHECK_EQ(tnm_tensor_destroy(g->ctx, t[i]), TNM_OK);
    big = rig_tensor(g, 7 * 1024, 0);
    rig_write(g, big, 0, 99);
    CHECK(rig_stats(g, 0).compactions > 0);
    for (int i = 1; i < N; i += 2)
        rig_expect(g, t[i], 0, (uint64_t)i);
    rig_expect(g, big, 0, 99);
    rig_end(g);
}

/* What is being moved within its tier is read, whoever writes the content elsewhere meanwhile. */
enum { WRITTEN, FETCHED_AND_DESTROYED, DESTROYED, LOST_WITH_THEM };

static void holes_are_closed_slowly(rig *g, int kind, int how) {
    enum { N = 16 };
    tnm_tensor big;
    tnm_pinned p;
    tnm_result r;
    if ((kind & SIM_ASYNC) == 0) return;
    rig_tier(g, "fast", SIM_PLAIN, rig_room(N, 1024));
    rig_tier(g, "bottom", kind, rig_room(N, 1024));
    rig_create(g);
    rig_make(g, t, N, 1024, 1);
    for (int i = 1; i < N && how != FETCHED_AND_DESTROYED; i += 2)
        rig_expect(g, t[i], 0, (uint64_t)i); /* on both */
    for (int i = 0; i < N; i += 2)
        CHECK_EQ(tnm_tensor_destroy(g->ctx, t[i]), TNM_OK);
    big = rig_tensor(g, 7 * 1024, 0);
    g->sim.stuck = 1;
    CHECK_EQ(rig_try(g, big, 1, TNM_DISCARD, &p), TNM_PENDING);
    for (int i = 0; i < 50 && sim_running(&g->sim.device[1]) == 0; i++)
        tnm_pump(g->ctx, TNM_ALL);
    CHECK(sim_running(&g->sim.device[1]) > 0);
    if (how == LOST_WITH_THEM) sim_lose(&g->sim.device[1]);
    for (int i = 1; i < N; i += 2) {
        int dies = how == DESTROYED || how == FETCHED_AND_DESTROYED;
        if (how == FETCHED_AND_DESTROYED) {
            for (int n = 0; n < 9 && (r = rig_try(g, t[i], 0, TNM_READ, &p)) == TNM_PENDING; n++)
                tnm_pump(g->ctx, TNM_ALL);
            if (r == TNM_OK) CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
        }
        if (dies) CHECK_EQ(tnm_tensor_destroy(g->ctx, t[i]), TNM_OK);
        if (dies) t[i] = rig_tensor(g, 1024, 0);
        r = rig_try(g, t[i], 0, dies ? TNM_DISCARD : TNM_WRITE, &p);
        if (r != TNM_OK) continue;
        sim_fill(sim_at(&g->sim, &p), (uint64_t)i + 100, 0, 1024);
        CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
        CHECK_EQ(tnm_check(g->ctx), 0);
    }
    g->sim.stuck = 0;
    rig_pump(g, 40);
    g->sim.device[1].lost = 0;
    for (int i = 1; i < N; i += 2) { /* those that had to wait; and all of them once more */
        RIG_UNTIL(r, g, rig_try(g, t[i], 0, TNM_DISCARD, &p));
        CHECK_EQ(r, TNM_OK);
        if (r != TNM_OK) continue;
        sim_fill(sim_at(&g->sim, &p), (uint64_t)i + 200, 0, 1024);
        CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    }
    rig_healthy(g);
    for (int i = 1; i < N; i += 2)
        rig_expect(g, t[i], 0, (uint64_t)i + 200);
    rig_rest(g);
    rig_end(g);
}

EACH(what_is_shifted_is_written_elsewhere) {
    holes_are_closed_slowly(g, kind, WRITTEN);
}

EACH(what_is_shifted_is_fetched_and_destroyed) { /* the fetch read it as well */
    holes_are_closed_slowly(g, kind, FETCHED_AND_DESTROYED);
}

EACH(what_is_shifted_is_destroyed) {
    holes_are_closed_slowly(g, kind, DESTROYED);
}

/* The copies to another tier that are out now take longer than those of compaction. */
static int fetches_last(rig *g, int polls) {
    int fetches = 0;
    for (int i = 0; i < SIM_COPIES; i++) {
        sim_copying *c = &g->sim.copies[i];
        if (c->by == NULL) continue;
        c->left = c->touches[0] != c->touches[1] ? polls : 0;
        fetches += c->left > 0;
    }
    return fetches;
}

EACH(what_is_fetched_does_not_move_under_the_copy) {
    enum { N = 16 };
    tnm_tensor big;
    tnm_pinned p, up;
    tnm_result r;
    if ((kind & SIM_ASYNC) == 0) return;
    rig_tier(g, "fast", SIM_PLAIN | SIM_ASYNC, rig_room(N, 1024));
    rig_tier(g, "bottom", kind, rig_room(N, 1024));
    rig_create(g);
    rig_make(g, t, N, 1024, 1);
    for (int i = 0; i < N; i += 2)
        CHECK_EQ(tnm_tensor_destroy(g->ctx, t[i]), TNM_OK);
    big = rig_tensor(g, 7 * 1024, 0);
    g->sim.stuck = 1;
    CHECK_EQ(rig_try(g, big, 1, TNM_DISCARD, &p), TNM_PENDING);
    for (int i = 0; i < 50 && sim_running(&g->sim.device[1]) == 0; i++)
        tnm_pump(g->ctx, TNM_ALL);
    CHECK(sim_running(&g->sim.device[1]) > 0);
    for (int i = 1; i < N; i += 2)
        CHECK_EQ(rig_try(g, t[i], 0, TNM_READ, &up), TNM_PENDING);
    rig_pump(g, 9);
    CHECK(fetches_last(g, 1000) > 0);
    g->sim.stuck = 0;
    for (int i = 0; i < 50 && (r = rig_try(g, big, 1, TNM_DISCARD, &p)) == TNM_PENDING; i++)
        tnm_pump(g->ctx, TNM_ALL);
    if (r == TNM_PENDING) { /* it waits for them */
        fetches_last(g, 0);
        RIG_UNTIL(r, g, rig_try(g, big, 1, TNM_DISCARD, &p));
    }
    CHECK_EQ(r, TNM_OK);
    if (r == TNM_OK) {
        sim_fill(sim_at(&g->sim, &p), 99, 0, p.bytes);
        CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    }
    fetches_last(g, 0);
    for (int i = 1; i < N; i += 2)
        rig_expect(g, t[i], 0, (uint64_t)i);
    CHECK(rig_stats(g, 1).compactions > 0);
    rig_end(g);
}

static int holds(const uint8_t *at, uint64_t key, uint64_t from, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; i++)
        if (at[i] != sim_byte(key, from + i)) return 0;
    return 1;
}

EACH(what_compaction_leaves_behind_is_wiped) {
    enum { N = 16 };
    tnm_tensor big;
    tnm_pinned p;
    if (kind & SIM_HIDDEN) return; /* it is the CPU that looks */
    rig_tier(g, "only", kind, rig_room(N, 1024));
    rig_create(g);
    for (int i = 0; i < N; i++) {
        t[i] = rig_tensor(g, 1024, TNM_SCRUB);
        rig_write(g, t[i], 0, (uint64_t)i);
    }
    for (int i = 0; i < N; i += 2)
        CHECK_EQ(tnm_tensor_destroy(g->ctx, t[i]), TNM_OK);
    rig_rest(g);
    big = rig_tensor(g, 7 * 1024, 0);
    CHECK_EQ(rig_pin(g, big, 0, TNM_DISCARD, &p), TNM_OK);
    CHECK(rig_stats(g, 0).compactions > 0);
#ifdef TENSORMEM_VALGRIND /* nobody wrote it: that is what is looked at */
    if (p.id) (void)VALGRIND_MAKE_MEM_DEFINED(sim_at(&g->sim, &p), p.bytes);
#endif
    for (uint64_t at = 0; p.id && at + 64 <= p.bytes; at += 64)
        for (int i = 0; i < N; i++)
            for (uint64_t of = 0; of < 1024; of += 64)
                CHECK(!holds(sim_at(&g->sim, &p) + at, (uint64_t)i, of, 64));
    if (p.id) CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    for (int i = 1; i < N; i += 2)
        rig_expect(g, t[i], 0, (uint64_t)i);
    rig_end(g);
}

EACH(what_is_shifted_is_lost) {
    holes_are_closed_slowly(g, kind, LOST_WITH_THEM);
}

EACH(destroy_in_every_place) {
    two_over_one(g, kind);
    rig_make(g, t, 12, ONE, 0);
    for (int i = 0; i < 12; i++) {
        tnm_pinned p;
        tnm_result r = rig_try(g, t[i], i & 1, TNM_READ, &p);
        if (r == TNM_OK) CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
        tnm_pump(g->ctx, 2 * KIB);
        CHECK_EQ(tnm_tensor_destroy(g->ctx, t[i]), TNM_OK);
        rig_healthy(g);
    }
    rig_rest(g);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(rig_stats(g, i).used_bytes, 0);
    rig_end(g);
}

/* ---- a device whose memory is gone ---- */
static unsigned char mould[ONE];

static void lose(rig *g, int tier) {
    tnm_use u;
    tnm_pinned p;
    sim_lose(&g->sim.device[tier]);
    t[MOST - 1] = rig_tensor(g, ONE, 0); /* something that has to call the device */
    CHECK_EQ(tnm_write(g->ctx, t[MOST - 1], 0, "x", 1), TNM_OK);
    u = rig_use(t[MOST - 1], tier, TNM_READ);
    for (int i = 0; i < 5; i++) {
        tnm_result r = tnm_pin(g->ctx, &u, 1, &p);
        CHECK(r < 0);
        tnm_pump(g->ctx, TNM_ALL);
    }
    CHECK_EQ(tnm_check(g->ctx), 0);
}

EACH(a_lost_device) {
    tnm_pinned p;
    tnm_result r;
    rig_pair(g, kind, rig_room(8, ONE));
    rig_make(g, t, 3, ONE, 0);
    RIG_UNTIL(r, g, tnm_flush(g->ctx, t[0], 1)); /* t[0] has a copy below, the others have not */
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(rig_stats(g, 0).dirty_bytes, rig_room(2, ONE));
    lose(g, 0);
    CHECK_EQ(rig_state(g, t[0], 0), TNM_STATE_ABSENT);
    rig_expect(g, t[0], 1, 0);
    for (int i = 1; i < 3; i++) {
        CHECK_EQ(rig_pin(g, t[i], 1, TNM_READ, &p), TNM_ERR_LOST);
        CHECK_EQ(rig_try(g, t[i], 1, TNM_READ, &p), TNM_ERR_LOST);
    }
    g->sim.device[0].lost = 0; /* it comes back, empty */
    rig_pump(g, 600);
    rig_expect(g, t[0], 0, 0);
    rig_write(g, t[1], 0, 11); /* DISCARD is the way out */
    rig_write(g, t[2], 1, 12);
    rig_expect(g, t[1], 1, 11);
    rig_expect(g, t[2], 0, 12);
    rig_end(g);
}

EACH(a_failed_write_over_what_was_lost_leaves_it_lost) {
    rig_tier(g, "fast", kind | SIM_HIDDEN, rig_room(8, ONE)); /* else no callback writes it */
    rig_create(g);
    rig_make(g, t, 1, ONE, 0);
    sim_lose(&g->sim.device[0]);
    CHECK_EQ(tnm_read(g->ctx, t[0], 0, mould, ONE), TNM_ERR_LOST);
    g->sim.device[0].lost = 0;
    rig_pump(g, 600);
    sim_break(&g->sim, SIM_COPY, 1, 1);
    CHECK_EQ(tnm_write(g->ctx, t[0], 0, mould, ONE), TNM_ERR_BACKEND);
    g->sim.fault_at = 0;
    CHECK_EQ(tnm_read(g->ctx, t[0], 0, mould, ONE), TNM_ERR_LOST);
    rig_write(g, t[0], 0, 5);
    rig_expect(g, t[0], 0, 5);
    rig_end(g);
}

EACH(a_lost_device_under_pins) {
    tnm_pinned p, q;
    rig_pair(g, kind, rig_room(3, ONE));
    rig_make(g, t, 2, ONE, 0);
    CHECK_EQ(rig_pin(g, t[0], 0, TNM_READ, &p), TNM_OK);
    memset(g->sim.holds, 0, sizeof g->sim.holds); /* nobody can hold what is gone */
    lose(g, 0);
    CHECK_EQ(rig_pin(g, t[0], 0, TNM_READ, &q), TNM_ERR_LOST);
    CHECK_EQ(tnm_destroy(g->ctx), TNM_ERR_BUSY);
    CHECK_EQ(tnm_unpin(g->ctx, &p, 1, 0), TNM_OK); /* pins there must still be undone */
    g->sim.device[0].lost = 0;
    rig_pump(g, 600);
    CHECK_EQ(rig_pin(g, t[0], 1, TNM_READ, &q), TNM_ERR_LOST);
    rig_write(g, t[0], 0, 5);
    rig_expect(g, t[0], 1, 5);
    rig_end(g);
}

EACH(a_device_lost_with_copies_in_flight) {
    tnm_pinned p;
    tnm_result r;
    if ((kind & SIM_ASYNC) == 0) return;
    rig_pair(g, kind, rig_room(3, ONE));
    rig_make(g, t, 4, ONE, 1);
    g->sim.delay = 50;
    for (int i = 0; i < 2; i++)
        CHECK_EQ(rig_try(g, t[i], 0, TNM_READ, &p), TNM_PENDING);
    tnm_pump(g->ctx, TNM_ALL);
    sim_lose(&g->sim.device[0]);
    rig_pump(g, 5);
    CHECK_EQ(tnm_check(g->ctx), 0);
    RIG_UNTIL(r, g, rig_try(g, t[0], 0, TNM_READ, &p));
    CHECK(r < 0);
    g->sim.device[0].lost = 0;
    rig_pump(g, 600);
    rig_expect_all(g, t, 4, 0); /* P5: they were below */
    rig_end(g);
}

/* A chunk that a full device refused is not from where it was to come from any more. */
static void lose_a_source(rig *g, int kind, int pinned) {
    enum { BIG = 2 * ONE };
    tnm_pinned p, q;
    tnm_result r;
    rig_tier(g, "fast", kind, rig_room(2, BIG));
    rig_tier(g, "middle", SIM_PLAIN, rig_room(2, BIG));
    rig_tier(g, "slow", SIM_PLAIN, 0);
    g->desc.chunk_bytes = 4 * KIB;
    rig_create(g);
    rig_make(g, t, 2, BIG, 2);
    rig_expect(g, t[0], 1, 0);
    if (pinned) CHECK_EQ(rig_pin(g, t[0], 1, TNM_READ, &q), TNM_OK);
    g->sim.device[0].full = 1;
    CHECK_EQ(rig_try(g, t[0], 0, TNM_READ, &p), TNM_PENDING);
    rig_pump(g, 2);
    memset(g->sim.holds, 0, sizeof g->sim.holds); /* nobody can hold what is gone */
    sim_lose(&g->sim.device[1]);
    CHECK_EQ(rig_try(g, t[1], 1, TNM_READ, &p), TNM_PENDING);
    rig_pump(g, 2);
    CHECK_EQ(tnm_check(g->ctx), 0);
    g->sim.device[0].full = g->sim.device[1].lost = 0;
    RIG_UNTIL(r, g, rig_try(g, t[0], 0, TNM_READ, &p));
    CHECK_EQ(r, TNM_OK);
    if (r == TNM_OK) {
        CHECK(sim_same(sim_at(&g->sim, &p), 0, 0, BIG));
        CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    }
    if (pinned) CHECK_EQ(tnm_unpin(g->ctx, &q, 1, 0), TNM_OK);
    rig_pump(g, 600);
    rig_expect_all(g, t, 2, 1);
    rig_end(g);
}

EACH(a_source_lost_before_a_chunk_is_taken) {
    lose_a_source(g, kind, 0);
}

EACH(a_source_lost_under_a_pin) { /* its record stays */
    lose_a_source(g, kind, 1);
}

EACH(a_source_lost_behind_the_last_chunk) { /* which waits in staging */
    tnm_pinned p;
    tnm_result r;
    if ((kind & SIM_HIDDEN) == 0) return;
    rig_tier(g, "fast", kind, rig_room(2, ONE));
    rig_tier(g, "middle", SIM_HIDDEN, rig_room(2, ONE));
    rig_tier(g, "slow", SIM_PLAIN, 0);
    rig_create(g);
    rig_make(g, t, 2, ONE / 16, 2);
    rig_expect(g, t[0], 1, 0);
    g->sim.device[0].full = 1;
    CHECK_EQ(rig_try(g, t[0], 0, TNM_READ, &p), TNM_PENDING);
    rig_pump(g, 20);
    sim_lose(&g->sim.device[1]);
    CHECK_EQ(rig_try(g, t[1], 1, TNM_READ, &p), TNM_PENDING);
    rig_pump(g, 2);
    CHECK_EQ(rig_state(g, t[0], 1), TNM_STATE_ABSENT);
    g->sim.device[0].full = g->sim.device[1].lost = 0;
    RIG_UNTIL(r, g, rig_try(g, t[0], 0, TNM_READ, &p));
    CHECK_EQ(r, TNM_OK);
    if (r == TNM_OK) CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_expect(g, t[0], 0, 0);
    rig_end(g);
}

/* ---- a tier that dies while another one's backend is at work in its memory: slowly ---- */
/* A copy from the dead tier: its memory stays until that is answered, or is adopted and not let go.
 * `way` 1: nobody waits for the copy any more; 2: a pin holds the source as well. */
static void die_under_a_reader(rig *g, int kind, int way) {
    tnm_pinned p, q;
    tnm_result r;
    if ((kind & SIM_ASYNC) == 0) return;
    rig_tier(g, "fast", kind, rig_room(4, ONE));
    rig_tier(g, "middle", SIM_PLAIN, rig_room(4, ONE));
    rig_tier(g, "slow", SIM_PLAIN, 0);
    rig_create(g);
    rig_make(g, t, 2, ONE, 2);
    rig_expect(g, t[0], 1, 0);
    if (way == 2) CHECK_EQ(rig_pin(g, t[0], 1, TNM_READ, &q), TNM_OK);
    g->sim.stuck = g->sim.lives_on = 1;
    CHECK_EQ(rig_try(g, t[0], 0, TNM_READ, &p), TNM_PENDING);
    rig_pump(g, 3);
    CHECK(sim_running(&g->sim.device[0]) > 0);
    if (way == 1) CHECK_EQ(tnm_cancel(g->ctx, &t[0], 1), TNM_OK);
    memset(g->sim.holds, 0, sizeof g->sim.holds); /* nobody can hold what is gone */
    sim_lose(&g->sim.device[1]);
    CHECK_EQ(rig_try(g, t[1], 1, TNM_READ, &p), TNM_PENDING);
    for (int i = 0; i < 600; i++) { /* the sim sees to it that nothing is released under a copy */
        if (i == 300) g->sim.device[1].lost = 0;
        tnm_pump(g->ctx, TNM_ALL);
        if (i % 50 == 0) CHECK_EQ(tnm_check(g->ctx), 0);
        r = rig_try(g, t[0], 1, TNM_READ, &p); /* a new one there waits for the old one to go */
        CHECK(r == TNM_PENDING || way == 2);
        if (r == TNM_OK) CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    }
    CHECK(sim_running(&g->sim.device[0]) > 0);
    g->sim.stuck = 0;
    if (way == 2) CHECK_EQ(tnm_unpin(g->ctx, &q, 1, 0), TNM_OK);
    RIG_UNTIL(r, g, rig_try(g, t[0], 0, TNM_READ, &p));
    CHECK_EQ(r, TNM_OK);
    if (r == TNM_OK) {
        CHECK(sim_same(sim_at(&g->sim, &p), 0, 0, ONE));
        CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    }
    rig_pump(g, 600);
    for (int tier = 0; tier < 3; tier++)
        rig_expect_all(g, t, 2, tier);
    rig_end(g);
}

EACH(a_tier_dies_under_a_reader) {
    die_under_a_reader(g, kind, 0);
}

EACH(a_tier_dies_under_a_cancelled_reader) {
    die_under_a_reader(g, kind, 1);
}

EACH(a_tier_dies_under_a_reader_and_a_pin) {
    die_under_a_reader(g, kind, 2);
}

/* A copy into the dead tier, by the backend it comes from. */
EACH(a_tier_dies_under_a_writer) {
    tnm_pinned p;
    tnm_result r;
    if ((kind & SIM_ASYNC) == 0 || (kind & SIM_HIDDEN) == 0) return; /* or the dead one writes */
    rig_tier(g, "fast", kind, rig_room(4, ONE));
    rig_tier(g, "middle", SIM_PLAIN, rig_room(4, ONE));
    rig_tier(g, "slow", SIM_PLAIN, 0);
    rig_create(g);
    rig_make(g, t, 2, ONE, 2);
    rig_write(g, t[0], 0, 7);
    g->sim.stuck = g->sim.lives_on = 1;
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(tnm_flush(g->ctx, t[0], 1), TNM_PENDING);
        tnm_pump(g->ctx, TNM_ALL);
    }
    CHECK(sim_running(&g->sim.device[0]) > 0);
    sim_lose(&g->sim.device[1]);
    CHECK_EQ(rig_try(g, t[1], 1, TNM_READ, &p), TNM_PENDING);
    for (int i = 0; i < 600; i++) {
        if (i == 300) g->sim.device[1].lost = 0;
        tnm_pump(g->ctx, TNM_ALL);
    }
    CHECK_EQ(tnm_check(g->ctx), 0);
    g->sim.stuck = 0;
    rig_pump(g, 600);
    rig_expect(g, t[0], 0, 7);
    CHECK(tnm_flush(g->ctx, t[0], 1) < 0); /* is told what became of it, once */
    RIG_UNTIL(r, g, tnm_flush(g->ctx, t[0], 1));
    CHECK_EQ(r, TNM_OK);
    rig_expect(g, t[0], 1, 7);
    rig_end(g);
}

static int let_go;

static void on_released(void *user, uint64_t mem, uint64_t offset) {
    (void)user, (void)mem, (void)offset;
    let_go++;
}

EACH(adopted_memory_is_let_go_behind_its_reader) {
    tnm_adopt_desc from;
    tnm_pinned p;
    tnm_result r;
    if ((kind & SIM_ASYNC) == 0) return;
    let_go = 0;
    rig_tier(g, "fast", kind, rig_room(4, ONE));
    rig_tier(g, "middle", SIM_PLAIN, rig_room(4, ONE));
    rig_tier(g, "slow", SIM_PLAIN, 0);
    rig_create(g);
    rig_make(g, t, 2, ONE, 2);
    from = sim_lent(&g->sim.device[1], sim_lend(&g->sim.device[1], ONE), 0);
    from.released = on_released;
    t[2] = rig_adopt(g, &from, ONE);
    rig_expect(g, t[1], 1, 1);
    g->sim.stuck = g->sim.lives_on = 1;
    CHECK_EQ(rig_try(g, t[2], 0, TNM_READ, &p), TNM_PENDING);
    rig_pump(g, 3);
    CHECK(sim_running(&g->sim.device[0]) > 0);
    sim_lose(&g->sim.device[1]);
    CHECK_EQ(rig_try(g, t[0], 1, TNM_READ, &p), TNM_PENDING);
    rig_pump(g, 300);
    CHECK_EQ(rig_state(g, t[2], 1), TNM_STATE_LOST);
    CHECK_EQ(let_go, 0);
    g->sim.stuck = g->sim.device[1].lost = 0;
    rig_pump(g, 600);
    CHECK_EQ(let_go, 1);
    RIG_UNTIL(r, g, rig_try(g, t[2], 0, TNM_READ, &p));
    CHECK_EQ(r, TNM_ERR_LOST);
    rig_expect_all(g, t, 2, 0);
    rig_end(g);
}

/* The bounce buffer dies with bytes in it: before they were handed on (`out` 0), or meanwhile. */
static void the_staging_dies(rig *g, int kind, int out) {
    tnm_pinned p;
    tnm_result r;
    if ((kind & SIM_ASYNC) == 0 || (kind & SIM_HIDDEN) == 0) return;
    rig_tier(g, "fast", kind, rig_room(4, ONE));
    rig_tier(g, "middle", SIM_PLAIN, rig_room(16, ONE));
    rig_tier(g, "slow", SIM_HIDDEN, 0);
    g->tiers[0].spill_to = 2; /* straight to the bottom, by way of staging */
    g->desc.staging_tier = 1;
    rig_create(g);
    rig_make(g, t, 2, ONE, 2);
    g->sim.lives_on = 1;
    g->sim.stuck = out;
    g->sim.device[0].full = !out;
    CHECK_EQ(rig_try(g, t[0], 0, TNM_READ, &p), TNM_PENDING);
    rig_pump(g, 10);
    CHECK_EQ(sim_running(&g->sim.device[0]) > 0, out);
    sim_lose(&g->sim.device[1]);
    CHECK_EQ(rig_try(g, t[1], 1, TNM_READ, &p), TNM_PENDING); /* finds out */
    for (int i = 0; i < 600; i++) {
        tnm_pump(g->ctx, TNM_ALL);
        if (i % 50 == 0) CHECK_EQ(tnm_check(g->ctx), 0);
    }
    g->sim.stuck = g->sim.device[0].full = g->sim.device[1].lost = 0;
    rig_pump(g, 600);
    for (int told = 0;; told++) { /* once */
        RIG_UNTIL(r, g, rig_try(g, t[0], 0, TNM_READ, &p));
        CHECK(r == TNM_OK || (r == TNM_ERR_BACKEND && told == 0));
        if (r == TNM_OK || told > 0) break;
    }
    if (r == TNM_OK) {
        CHECK(sim_same(sim_at(&g->sim, &p), 0, 0, ONE));
        CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    }
    rig_expect_all(g, t, 2, 0);
    rig_end(g);
}

EACH(the_staging_dies_with_bytes_in_it) {
    the_staging_dies(g, kind, 0);
}

EACH(the_staging_dies_under_a_reader) {
    the_staging_dies(g, kind, 1);
}

/* Tiers die at any time, with copies of all kinds in flight that others go on with, and come back
 * empty. What lies at the bottom is never wrong, and nothing is released under a copy. */
EACH(tiers_die_at_random) {
    enum { N = 10, BIG = 2 * ONE };
    int rounds = check_scale(400, 60);
    for (int i = 0; i < N; i++)
        memset(&t[i], 0, sizeof t[i]);
    rig_tier(g, "fast", kind, rig_room(4, BIG));
    rig_tier(g, "middle", kind & ~SIM_HIDDEN, rig_room(6, BIG));
    rig_tier(g, "slow", kind, 0);
    g->desc.staging_tier = 1;
    g->desc.chunk_bytes = 4 * KIB;
    g->sim.delay = 20;
    if (!rig_create(g)) return;
    g->sim.lives_on = 2;
    for (int i = 0; i < N; i++) {
        t[i] = rig_tensor(g, (uint64_t)(BIG - i * 700), 0);
        rig_write(g, t[i], 2, (uint64_t)i);
    }
    for (int round = 0; round < rounds; round++) {
        tnm_pinned p;
        for (int n = (int)sim_draw(&g->sim, 24); n > 0; n--) {
            int i = (int)sim_draw(&g->sim, N), tier = (int)sim_draw(&g->sim, 2);
            switch (sim_draw(&g->sim, 8)) {
            case 0:
                tnm_evict(g->ctx, t[i], tier);
                break;
            case 1:
                tnm_cancel(g->ctx, &t[i], 1);
                break;
            case 2:
                tnm_pump(g->ctx, 4 * KIB);
                break;
            default:
                if (rig_try(g, t[i], tier, TNM_READ, &p) == TNM_OK)
                    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
                tnm_pump(g->ctx, sim_draw(&g->sim, 2) ? TNM_ALL : 0);
            }
        }
        sim_device *dead = &g->sim.device[sim_draw(&g->sim, 2)];
        sim_lose(dead);
        for (int n = 0; n < 40; n++) { /* somebody finds out */
            if (rig_try(g, t[n % N], dead->tier, TNM_READ, &p) == TNM_OK)
                CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
            tnm_evict(g->ctx, t[n % N], dead->tier);
            tnm_pump(g->ctx, TNM_ALL);
        }
        CHECK_EQ(tnm_check(g->ctx), 0);
        dead->lost = 0;
        rig_pump(g, 300);
        for (int n = 0; n < 2; n++) /* the first may tell of a failure */
            for (int i = 0; i < N; i++) {
                tnm_result r;
                RIG_UNTIL(r, g, rig_try(g, t[i], n, TNM_READ, &p));
                CHECK(r == TNM_OK || n == 0);
                if (r != TNM_OK) continue;
                CHECK(sim_same(sim_at(&g->sim, &p), (uint64_t)i, 0, p.bytes));
                CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
            }
    }
    rig_end(g);
}

EACH(destroy_with_a_lost_device) {
    rig_pair(g, kind, rig_room(3, ONE));
    rig_make(g, t, 3, ONE, 0);
    lose(g, 0);
    rig_end(g); /* release is still called for every block */
}

TEST(demands_on_a_full_device_do_not_hide_one_on_another) {
    enum { MANY = 60, SMALL = 512 };
    static rig two;
    tnm_tensor many[MANY + 1];
    tnm_pinned p;
    tnm_result r = TNM_PENDING;
    rig_start(&two, 1);
    rig_tier(&two, "full", SIM_PLAIN | SIM_ASYNC, rig_room(MANY, SMALL));
    rig_tier(&two, "other", SIM_PLAIN | SIM_ASYNC, rig_room(MANY, SMALL));
    rig_tier(&two, "slow", SIM_PLAIN, 0);
    two.tiers[0].spill_to = two.tiers[1].spill_to = 2;
    CHECK(rig_create(&two));
    rig_make(&two, many, MANY + 1, SMALL, 2);
    two.sim.device[0].full = 1;
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(rig_try(&two, many[i], 0, TNM_READ, &p), TNM_PENDING);
    for (int i = 0; i < 40 && r == TNM_PENDING; i++) {
        r = rig_try(&two, many[MANY], 1, TNM_READ, &p);
        tnm_pump(two.ctx, TNM_ALL);
    }
    CHECK_EQ(r, TNM_OK);
    if (r == TNM_OK) CHECK_EQ(rig_unpin(&two, &p, 0), TNM_OK);
    two.sim.device[0].full = 0;
    rig_end(&two);
}

EACH(a_failure_further_down_does_not_keep_the_top) { /* P4: not its way out */
    tnm_tensor both, dirty, late;
    tnm_pinned p, q;
    tnm_result r;
    rig_tier(g, "top", kind, rig_room(2, ONE));
    rig_tier(g, "middle", SIM_PLAIN, rig_room(8, ONE));
    rig_tier(g, "low", SIM_PLAIN, 0);
    if (!rig_create(g)) return;
    both = rig_tensor(g, ONE, 0);
    dirty = rig_tensor(g, ONE, 0);
    late = rig_tensor(g, ONE, 0);
    rig_write(g, both, 1, 1);
    rig_expect(g, both, 0, 1);
    rig_rest(g);
    sim_break(&g->sim, SIM_COPY, 1, 1);
    RIG_UNTIL(r, g, tnm_flush(g->ctx, both, 2));
    CHECK_EQ(r, TNM_ERR_BACKEND);
    g->sim.fault_at = 0;
    rig_write(g, dirty, 0, 2);
    CHECK_EQ(rig_pin(g, both, 0, TNM_READ, &p), TNM_OK);
    CHECK_EQ(rig_pin(g, late, 0, TNM_DISCARD, &q), TNM_OK); /* the middle takes `dirty` */
    sim_fill(sim_at(&g->sim, &q), 3, 0, ONE);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    CHECK_EQ(rig_unpin(g, &q, 0), TNM_OK);
    rig_expect(g, dirty, 0, 2);
    rig_end(g);
}

/* The only way out is writable memory of its own beside the path, and copies there fail. */
static void own_memory_fails(rig *g, int kind, int own) {
    tnm_adopt_desc a;
    tnm_tensor mine, late;
    tnm_pinned p;
    int at = 1 - own;
    rig_tier(g, "left", own == 0 ? SIM_PLAIN : kind, rig_room(1, ONE));
    rig_tier(g, "right", own == 1 ? SIM_PLAIN : kind, rig_room(1, ONE));
    rig_tier(g, "below", SIM_PLAIN, rig_room(4, ONE));
    g->tiers[0].spill_to = 2;
    if (!rig_create(g)) return;
    a = sim_lent(&g->sim.device[own], sim_lend(&g->sim.device[own], ONE), 0);
    a.writable = 1;
    mine = rig_adopt(g, &a, ONE);
    late = rig_tensor(g, ONE, 0);
    rig_write(g, mine, at, 1);
    CHECK(rig_budget(g, 2, 0) >= 0);
    sim_break(&g->sim, SIM_COPY, 1, 1);
    CHECK_EQ(rig_pin(g, late, at, TNM_DISCARD, &p), TNM_ERR_BACKEND); /* not tried for ever */
    g->sim.fault_at = 0;
    rig_pump(g, 600); /* the back-off ends */
    rig_expect(g, mine, at, 1);
    rig_write(g, late, at, 2);
    rig_expect(g, mine, own, 1);
    rig_end(g);
}

EACH(own_memory_that_fails_after_it) {
    own_memory_fails(g, kind, 1);
}

EACH(own_memory_that_fails_before_it) {
    own_memory_fails(g, kind, 0);
}

/* tensors get a CPU address; what has no tensor, staging, does not */
static tnm_result seen_for_tensors(void *user, uint64_t size, uint64_t align, void *item,
                                   uint64_t *mem, void **host) {
    tnm_result r = sim_alloc(user, size, align, item, mem, host);
    sim_device *d = (sim_device *)user;
    SIM_MUST(d->world->calls[SIM_ALLOC] < 1000); /* P4: not asked for ever within a call */
    if (d->world->calls[SIM_ALLOC] >= 1000) return TNM_ERR_MEMORY;
    if (r == TNM_OK && item == NULL) *host = NULL;
    return r;
}

EACH(staging_without_an_address_is_asked_for_once) {
    tnm_tensor_desc d;
    tnm_tensor seen, far;
    tnm_pinned p;
    rig_tier(g, "fast", kind | SIM_HIDDEN, rig_room(2, ONE));
    rig_tier(g, "middle", SIM_PLAIN, rig_room(16, ONE));
    rig_tier(g, "slow", SIM_HIDDEN, rig_room(4, ONE));
    g->tiers[1].backend.alloc = seen_for_tensors;
    g->tiers[1].segment_bytes = TNM_DEDICATED;
    if (!rig_create(g)) return;
    far = rig_tensor(g, ONE, 0);
    rig_write(g, far, 2, 1);
    memset(&d, 0, sizeof d);
    d.bytes = ONE;
    d.user = g;
    CHECK_EQ(tnm_tensor_create(g->ctx, &d, &seen), TNM_OK);
    rig_write(g, seen, 1, 2);
    CHECK_EQ(rig_pin(g, far, 0, TNM_READ, &p), TNM_ERR_UNSUPPORTED);
    rig_expect(g, far, 2, 1);
    rig_expect(g, seen, 1, 2);
    rig_end(g);
}

int main(void) {
    RUN(cascade);
    RUN(dirty_cascade);
    RUN(two_devices);
    RUN(a_member_is_written_back_for_another);
    RUN(a_member_is_waited_for_while_it_is_written_down);
    RUN(siblings_are_not_a_way_down);
    RUN(write_on_one_device_read_on_the_other);
    RUN(larger_than_the_middle);
    RUN(exchange_of_full_tiers_is_refused);
    RUN(a_bottom_is_compacted);
    RUN(what_is_shifted_is_written_elsewhere);
    RUN(what_is_shifted_is_fetched_and_destroyed);
    RUN(what_is_shifted_is_destroyed);
    RUN(what_is_fetched_does_not_move_under_the_copy);
    RUN(what_compaction_leaves_behind_is_wiped);
    RUN(what_is_shifted_is_lost);
    RUN(destroy_in_every_place);
    RUN(a_lost_device);
    RUN(a_failed_write_over_what_was_lost_leaves_it_lost);
    RUN(a_lost_device_under_pins);
    RUN(a_device_lost_with_copies_in_flight);
    RUN(a_source_lost_before_a_chunk_is_taken);
    RUN(a_source_lost_under_a_pin);
    RUN(a_source_lost_behind_the_last_chunk);
    RUN(a_tier_dies_under_a_reader);
    RUN(a_tier_dies_under_a_cancelled_reader);
    RUN(a_tier_dies_under_a_reader_and_a_pin);
    RUN(a_tier_dies_under_a_writer);
    RUN(adopted_memory_is_let_go_behind_its_reader);
    RUN(the_staging_dies_with_bytes_in_it);
    RUN(the_staging_dies_under_a_reader);
    RUN(tiers_die_at_random);
    RUN(destroy_with_a_lost_device);
    RUN(demands_on_a_full_device_do_not_hide_one_on_another);
    RUN(a_failure_further_down_does_not_keep_the_top);
    RUN(own_memory_that_fails_after_it);
    RUN(own_memory_that_fails_before_it);
    RUN(staging_without_an_address_is_asked_for_once);
    return check_done();
}
