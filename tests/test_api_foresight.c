/* Schedule, prefetch, steps, cancel and advice from outside: they bring bytes early, never wrong
 * ones, and cannot hurt. P7, P9; LRU when nothing is said. */
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "sim.h"

enum { KIB = 1024, ONE = 8 * KIB, MOST = 108 };

static tnm_tensor t[MOST];

static tnm_use use_at(int i, uint64_t step) {
    tnm_use u = rig_use(t[i], 0, TNM_READ);
    u.step = step;
    return u;
}

static int here(rig *g, int i) {
    return rig_state(g, t[i], 0) == TNM_STATE_READY;
}

EACH(prefetch_brings_it) {
    tnm_use u[2];
    rig_pair(g, kind, rig_room(4, ONE));
    rig_make(g, t, 4, ONE, 1);
    u[0] = use_at(0, 0);
    u[1] = use_at(2, 0);
    u[1].flags = TNM_SURE;
    CHECK(tnm_prefetch(g->ctx, 0, u, 2) >= 0);
    CHECK_EQ(g->sim.calls[SIM_COPY], 0); /* nothing happens before the pump */
    rig_rest(g);
    CHECK(here(g, 0) && here(g, 2) && !here(g, 1));
    rig_expect(g, t[0], 0, 0);
    rig_expect(g, t[2], 0, 2);
    CHECK_EQ(rig_stats(g, 0).misses, 0);
    CHECK_EQ(rig_stats(g, 0).hits, 2);
    CHECK(rig_stats(g, 0).prefetches >= 1);
    CHECK_EQ(rig_stats(g, 0).prefetches_wasted, 0);
    rig_end(g);
}

EACH(a_schedule_keeps_what_is_dear_to_bring) { /* two at home on disk among eight in host memory */
    tnm_use cycle[10];
    rig_tier(g, "device", kind, rig_room(5, ONE));
    sim_device *host = rig_tier(g, "host", SIM_PLAIN, rig_room(16, ONE));
    sim_device *disk = rig_tier(g, "disk", SIM_PLAIN, 0);
    host->limit = UINT64_MAX; /* what is lent is not charged */
    rig_create(g);
    for (int i = 0; i < 10; i++) {
        sim_device *from = i % 4 == 3 ? disk : host;
        tnm_adopt_desc a = sim_lent(from, sim_lend(from, ONE), 0);
        t[i] = rig_adopt(g, &a, ONE);
        cycle[i] = use_at(i, (uint64_t)i);
    }
    CHECK(rig_budget(g, 1, 0) >= 0); /* there is no room for what comes from the disk */
    CHECK_EQ(tnm_schedule(g->ctx, 0, cycle, 10, 10), TNM_OK);
    for (uint64_t step = 0; step < 50; step++) {
        tnm_pinned p;
        CHECK_EQ(tnm_step(g->ctx, 0, step), TNM_OK);
        CHECK_EQ(rig_pin(g, t[step % 10], 0, TNM_READ, &p), TNM_OK);
        CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
        rig_rest(g);
        if (step >= 10) CHECK(here(g, 3) && here(g, 7));
    }
    CHECK_EQ(rig_stats(g, 0).kept_bytes >= 2 * ONE, 1);
    rig_end(g);
}

EACH(a_guess_evicts_nothing_needed_sooner) { /* P7 */
    tnm_use u;
    rig_pair(g, kind, rig_room(2, ONE));
    rig_make(g, t, 4, ONE, 1);
    u = use_at(0, 1);
    u.flags = TNM_SURE;
    CHECK(tnm_prefetch(g->ctx, 0, &u, 1) >= 0);
    u = use_at(1, 2);
    u.flags = TNM_SURE;
    CHECK(tnm_prefetch(g->ctx, 0, &u, 1) >= 0);
    rig_rest(g);
    CHECK(here(g, 0) && here(g, 1));
    u = use_at(2, 50); /* a guess for later must not push them out */
    CHECK(tnm_prefetch(g->ctx, 0, &u, 1) >= 0);
    rig_rest(g);
    CHECK(here(g, 0) && here(g, 1) && !here(g, 2));
    rig_end(g);
}

EACH(a_guess_evicts_no_unused_guess) { /* P7: the tail of a long list does not push out its head */
    tnm_use u[6];
    rig_pair(g, kind, rig_room(2, ONE));
    rig_make(g, t, 6, ONE, 1);
    for (int i = 0; i < 6; i++)
        u[i] = use_at(i, (uint64_t)i);
    CHECK(tnm_prefetch(g->ctx, 0, u, 6) >= 0);
    rig_rest(g);
    CHECK(here(g, 0) && here(g, 1));
    CHECK_EQ(rig_stats(g, 0).prefetches_wasted, 0);
    CHECK(rig_stats(g, 0).prefetches <= 2);
    rig_end(g);
}

EACH(a_guess_evicts_no_claim) {
    tnm_use u;
    tnm_pinned p;
    tnm_result r;
    rig_pair(g, kind, rig_room(1, ONE));
    rig_make(g, t, 2, ONE, 1);
    CHECK_EQ(rig_try(g, t[0], 0, TNM_READ, &p), TNM_PENDING);
    u = use_at(1, 0);
    CHECK(tnm_prefetch(g->ctx, 0, &u, 1) >= 0);
    rig_pump(g, 10);
    RIG_UNTIL(r, g, rig_try(g, t[0], 0, TNM_READ, &p));
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    CHECK_EQ(rig_stats(g, 0).evictions, 0);
    rig_end(g);
}

EACH(guesses_leave_the_link_to_demand) { /* at most guess_bytes of them with the backend at once */
    tnm_use u[8];
    if ((kind & SIM_ASYNC) == 0) return;
    rig_tier(g, "fast", kind, rig_room(9, ONE));
    rig_tier(g, "slow", SIM_PLAIN, 0);
    g->desc.guess_bytes = 8 * KIB;
    g->sim.stuck = 1; /* so that what was handed over stays there */
    rig_create(g);
    g->sim.stuck = 0;
    rig_make(g, t, 9, ONE, 1);
    g->sim.stuck = 1;
    g->sim.accepted_bytes = 0;
    for (int i = 0; i < 8; i++)
        u[i] = use_at(i, 5);
    CHECK(tnm_prefetch(g->ctx, 0, u, 8) >= 0);
    rig_pump(g, 10);
    CHECK(g->sim.accepted_bytes > 0 && g->sim.accepted_bytes <= 8 * KIB);
    g->sim.stuck = 0;
    rig_expect(g, t[8], 0, 8);
    rig_end(g);
}

EACH(a_demand_raises_a_guess) {
    tnm_use u[6];
    rig_pair(g, kind, rig_room(6, ONE));
    rig_make(g, t, 6, ONE, 1);
    for (int i = 0; i < 6; i++)
        u[i] = use_at(i, (uint64_t)i);
    CHECK(tnm_prefetch(g->ctx, 0, u, 6) >= 0);
    tnm_pump(g->ctx, 4 * KIB);
    rig_expect(g, t[5], 0, 5); /* the last in the queue, at once */
    rig_expect(g, t[0], 0, 0);
    rig_rest(g);
    for (int i = 0; i < 6; i++)
        CHECK(here(g, i));
    rig_end(g);
}

EACH(wasted_prefetches_are_counted) {
    tnm_use u;
    tnm_result r;
    rig_pair(g, kind, rig_room(2, ONE));
    rig_make(g, t, 2, ONE, 1);
    u = use_at(0, 0);
    CHECK(tnm_prefetch(g->ctx, 0, &u, 1) >= 0);
    rig_rest(g);
    CHECK(here(g, 0));
    RIG_UNTIL(r, g, tnm_evict(g->ctx, t[0], 0));
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(rig_stats(g, 0).prefetches_wasted, 1);
    rig_end(g);
}

EACH(a_wrong_guess_leaves_first) { /* as if it were older than all that was used */
    tnm_use u;
    rig_pair(g, kind, rig_room(3, ONE));
    rig_make(g, t, 4, ONE, 1);
    CHECK_EQ(tnm_step(g->ctx, 0, 0), TNM_OK);
    rig_expect(g, t[0], 0, 0);
    rig_expect(g, t[1], 0, 1);
    u = use_at(2, 1);
    CHECK(tnm_prefetch(g->ctx, 0, &u, 1) >= 0);
    rig_rest(g);
    CHECK(here(g, 0) && here(g, 1) && here(g, 2));
    CHECK_EQ(tnm_step(g->ctx, 0, 2), TNM_OK);
    rig_rest(g);
    CHECK_EQ(rig_stats(g, 0).prefetches_wasted, 1);
    rig_expect(g, t[3], 0, 3);
    CHECK(here(g, 0) && here(g, 1) && !here(g, 2));
    rig_end(g);
}

EACH(prefetch_with_discard_fetches_nothing) {
    tnm_use u;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(2, ONE));
    rig_make(g, t, 2, ONE, 1);
    u = use_at(0, 0);
    u.access = TNM_DISCARD; /* it will be built anew */
    CHECK(tnm_prefetch(g->ctx, 0, &u, 1) >= 0);
    rig_rest(g);
    CHECK_EQ(g->sim.accepted_bytes, 0);
    rig_expect(g, t[0], 1, 0); /* and nothing is lost by having said so */
    CHECK_EQ(rig_pin(g, t[0], 0, TNM_DISCARD, &p), TNM_OK);
    CHECK_EQ(g->sim.accepted_bytes, 0);
    sim_fill(sim_at(&g->sim, &p), 7, 0, ONE);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_expect(g, t[0], 1, 7);
    rig_end(g);
}

EACH(cancel) {
    tnm_use u[4];
    rig_pair(g, kind, rig_room(4, ONE));
    rig_make(g, t, 4, ONE, 1);
    for (int i = 0; i < 4; i++)
        u[i] = use_at(i, (uint64_t)i);
    CHECK(tnm_prefetch(g->ctx, 0, u, 4) >= 0);
    CHECK(tnm_cancel(g->ctx, t, 4) >= 0);
    rig_rest(g);
    CHECK_EQ(g->sim.calls[SIM_COPY], 0);
    CHECK(tnm_prefetch(g->ctx, 0, u, 4) >= 0);
    tnm_pump(g->ctx, 2 * KIB);
    CHECK(tnm_cancel(g->ctx, t, 4) >= 0); /* under way: polled to its end */
    rig_rest(g);
    CHECK(!here(g, 3));
    rig_expect_all(g, t, 4, 0);
    rig_end(g);
}

/* ---- schedules ---- */
static void sweep(rig *g, int n, uint64_t from, uint64_t steps) {
    for (uint64_t s = from; s < from + steps; s++) {
        CHECK_EQ(tnm_step(g->ctx, 0, s), TNM_OK);
        rig_expect(g, t[s % (uint64_t)n], 0, s % (uint64_t)n);
        rig_pump(g, 3);
    }
}

static void schedule(rig *g, int n) {
    tnm_use u[MOST];
    for (int i = 0; i < n; i++)
        u[i] = use_at(i, (uint64_t)i);
    CHECK_EQ(tnm_schedule(g->ctx, 0, u, n, (uint32_t)n), TNM_OK);
}

EACH(a_schedule_beats_lru) { /* bytes of a steady sweep <= (N - C) + W + P + one tensor */
    enum { N = 12, C = 6 };
    tnm_tier_stats s;
    uint64_t before;
    rig_pair(g, kind, rig_room(C, ONE));
    rig_make(g, t, N, ONE, 1);
    schedule(g, N);
    sweep(g, N, 0, 3 * N);
    before = rig_stats(g, 0).bytes_in;
    sweep(g, N, 3 * N, 4 * N);
    s = rig_stats(g, 0);
    CHECK(s.stream_bytes > 0 && s.kept_bytes > 0);
    CHECK(s.kept_bytes + s.stream_bytes <= rig_room(C, ONE));
    CHECK((s.bytes_in - before) / 4 <= (N - C) * ONE + s.stream_bytes + ONE);
    CHECK((s.bytes_in - before) / 4 < N * ONE);
    rig_end(g);
}

EACH(what_is_written_is_kept_first) { /* it would go down as often as it comes */
    enum { N = 20, W = 4 };
    tnm_use u[N + W];
    uint64_t in = 0, out = 0;
    rig_pair(g, kind, rig_room(N / 2, ONE));
    rig_make(g, t, N, ONE, 1);
    for (int i = 0; i < N + W; i++) {
        if (i >= N) t[i] = rig_tensor(g, KIB, 0);
        if (i >= N) rig_write(g, t[i], 1, (uint64_t)i);
        u[i] = use_at(i, (uint64_t)(i < N ? i : (i - N) * (N / W)));
        if (i >= N) u[i].access = TNM_WRITE;
    }
    CHECK_EQ(tnm_schedule(g->ctx, 0, u, N + W, N), TNM_OK);
    for (uint64_t s = 0; s < 6 * N; s++) {
        uint64_t i = s % N;
        CHECK_EQ(tnm_step(g->ctx, 0, s), TNM_OK);
        rig_expect(g, t[i], 0, i);
        if (i % (N / W) == 0) {
            i = N + i / (N / W);
            rig_change(g, t[i], 0, s < N ? i : s / N, s / N + 1);
        }
        rig_rest(g);
        if (s == 3 * N) in = rig_stats(g, 0).bytes_in;
        if (s == 3 * N) out = rig_stats(g, 0).bytes_out;
    }
    CHECK_EQ(rig_stats(g, 0).bytes_out, out);
    CHECK(rig_stats(g, 0).bytes_in > in);
    rig_end(g);
}

/* Sizes differ as a transformer's do, and what lies where before the schedule is said is left to
 * chance: what is kept finds its place beside the ring, in time, and stays. */
EACH(kept_ones_stay) {
    enum { N = 108 };
    static const unsigned char size[9] = { 1, 8, 2, 2, 8, 1, 28, 28, 28 }; /* times 256 bytes */
    static const uint64_t percent[3] = { 60, 75, 90 };
    for (uint64_t c = 0; c < 6; c++) {
        uint64_t total = 0, warm = c % 2 ? 20 : 2;
        uint64_t draw = c + 1;
        rig_start(g, c);
        for (int i = 0; i < N; i++)
            total += rig_room(1, size[i % 9] * (uint64_t)256);
        rig_pair(g, kind, total / 100 * percent[c / 2]);
        for (int i = 0; i < N; i++) {
            t[i] = rig_tensor(g, size[i % 9] * (uint64_t)256, 0);
            rig_write(g, t[i], 1, (uint64_t)i);
        }
        for (uint64_t i = 0; i < (c % 2) * 2 * N; i++) {
            uint64_t k = check_draw(&draw, N);
            rig_expect(g, t[k], 0, k);
        }
        schedule(g, N);
        for (uint64_t round = 0; round < 1 + c % 2; round++) {
            int gone[N] = { 0 };
            uint64_t stayed = 0;
            if (round) CHECK(rig_budget(g, 0, total / 2) >= 0); /* split anew */
            sweep(g, N, 0, warm * N);
            for (uint64_t step = warm * N; step < (warm + 2) * N; step++) {
                sweep(g, N, step, 1);
                for (int i = 0; i < N; i++)
                    gone[i] |= !here(g, i);
            }
            for (int i = 0; i < N; i++)
                stayed += gone[i] ? 0 : rig_room(1, size[i % 9] * (uint64_t)256);
            CHECK(rig_stats(g, 0).kept_bytes > total / 4);
            CHECK(stayed >= rig_stats(g, 0).kept_bytes);
        }
        rig_end(g);
    }
}

EACH(two_levels_hold_different_ones) { /* storage gives only what neither device nor host keeps */
    enum { N = 40, DEVICE = 10, HOST = 20 };
    for (int pumps = 0; pumps < 2; pumps++) {
        uint64_t out = 0, in = 0;
        rig_start(g, 7);
        rig_tier(g, "device", kind, rig_room(DEVICE, ONE));
        rig_tier(g, "host", kind, rig_room(HOST, ONE));
        rig_tier(g, "storage", SIM_PLAIN, 0);
        rig_create(g);
        rig_make(g, t, N, ONE, 2);
        schedule(g, N);
        for (uint64_t s = 0; s < 7 * N; s++) {
            if (s == 3 * N) {
                in = rig_stats(g, 0).bytes_in;
                out = rig_stats(g, 2).bytes_out;
            }
            CHECK_EQ(tnm_step(g->ctx, 0, s), TNM_OK);
            rig_pump(g, 3 * pumps);
            rig_expect(g, t[s % N], 0, s % N);
        }
        CHECK_EQ(rig_stats(g, 0).kept_bytes, rig_room(DEVICE - 2, ONE)); /* beside W + P */
        CHECK_EQ(rig_stats(g, 1).kept_bytes, rig_room(HOST - 1, ONE)); /* nothing is pinned there */
        in = rig_stats(g, 0).bytes_in - in;
        out = rig_stats(g, 2).bytes_out - out;
        CHECK(out <= (4 * (N - DEVICE - HOST + 3) + 1) * ONE);
        CHECK(in <= (4 * (N - DEVICE + 2) + 1) * ONE);
        rig_end(g);
    }
}

EACH(a_schedule_that_fits_moves_nothing) {
    uint64_t before;
    rig_pair(g, kind, rig_room(6, ONE));
    rig_make(g, t, 6, ONE, 1);
    schedule(g, 6);
    sweep(g, 6, 0, 12);
    before = rig_stats(g, 0).bytes_in;
    sweep(g, 6, 12, 30);
    CHECK_EQ(rig_stats(g, 0).bytes_in, before);
    rig_end(g);
}

EACH(the_pump_looks_ahead) {
    rig_pair(g, kind, rig_room(4, ONE));
    rig_make(g, t, 8, ONE, 1);
    schedule(g, 8);
    sweep(g, 8, 0, 16);
    CHECK_EQ(tnm_step(g->ctx, 0, 16), TNM_OK);
    rig_rest(g);
    CHECK(here(g, 1)); /* the next one is there before it is asked for */
    CHECK(rig_stats(g, 0).hits + rig_stats(g, 0).late > rig_stats(g, 0).misses);
    rig_end(g);
}

EACH(pump_comes_to_rest) { /* at a fixed step and without calls */
    int n = 0;
    rig_pair(g, kind, rig_room(3, ONE));
    rig_make(g, t, 8, ONE, 1);
    schedule(g, 8);
    for (uint64_t s = 0; s < 8; s++) {
        uint64_t copies;
        CHECK_EQ(tnm_step(g->ctx, 0, s), TNM_OK);
        for (n = 0; n < 500 && tnm_pump(g->ctx, TNM_ALL) == TNM_PENDING; n++)
            continue;
        CHECK(n < 500);
        copies = g->sim.calls[SIM_COPY];
        for (int i = 0; i < 50; i++)
            CHECK_EQ(tnm_pump(g->ctx, TNM_ALL), TNM_OK);
        CHECK_EQ(g->sim.calls[SIM_COPY], copies);
    }
    rig_end(g);
}

EACH(scheduled_writes_stay_right) { /* an optimizer: every step changes what it touches */
    enum { N = 8 };
    uint64_t version[N];
    tnm_use u[N];
    rig_pair(g, kind, rig_room(3, ONE));
    rig_make(g, t, N, ONE, 0);
    for (int i = 0; i < N; i++) {
        version[i] = (uint64_t)i;
        u[i] = use_at(i, (uint64_t)i);
        u[i].access = i % 3 == 0 ? TNM_DISCARD : TNM_WRITE;
    }
    CHECK_EQ(tnm_schedule(g->ctx, 0, u, N, N), TNM_OK);
    for (uint64_t s = 0; s < 5 * N; s++) {
        uint64_t i = s % N;
        tnm_pinned p;
        CHECK_EQ(tnm_step(g->ctx, 0, s), TNM_OK);
        CHECK_EQ(rig_pin(g, t[i], 0, u[i].access, &p), TNM_OK);
        if (u[i].access == TNM_WRITE) CHECK(sim_same(sim_at(&g->sim, &p), version[i], 0, ONE));
        version[i] = 1000 + s;
        sim_fill(sim_at(&g->sim, &p), version[i], 0, ONE);
        CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
        tnm_pump(g->ctx, TNM_ALL);
    }
    for (int i = 0; i < N; i++)
        rig_expect(g, t[i], 1, version[i]);
    rig_end(g);
}

EACH(a_schedule_can_be_replaced_and_forgotten) {
    rig_pair(g, kind, rig_room(3, ONE));
    rig_make(g, t, 8, ONE, 1);
    schedule(g, 8);
    sweep(g, 8, 0, 10);
    schedule(g, 4);
    sweep(g, 4, 0, 10);
    CHECK_EQ(tnm_schedule(g->ctx, 0, NULL, 0, 0), TNM_OK);
    CHECK_EQ(rig_info(g, t[0], 0).next_use, UINT64_MAX);
    sweep(g, 8, 3, 10);
    schedule(g, 8);
    CHECK_EQ(tnm_tensor_destroy(g->ctx, t[5]), TNM_OK); /* a destroyed one drops out of it */
    for (uint64_t s = 0; s < 16; s++) {
        CHECK_EQ(tnm_step(g->ctx, 0, s), TNM_OK);
        if (s % 8 != 5) rig_expect(g, t[s % 8], 0, s % 8);
        tnm_pump(g->ctx, TNM_ALL);
    }
    rig_end(g);
}

EACH(two_lanes) {
    tnm_use a[4], b[4];
    rig_pair(g, kind, rig_room(4, ONE));
    rig_make(g, t, 8, ONE, 1);
    for (int i = 0; i < 4; i++) {
        a[i] = use_at(i, (uint64_t)i);
        b[i] = use_at(4 + i, (uint64_t)i);
    }
    CHECK_EQ(tnm_schedule(g->ctx, 0, a, 4, 4), TNM_OK);
    CHECK_EQ(tnm_schedule(g->ctx, 7, b, 4, 4), TNM_OK);
    for (uint64_t s = 0; s < 20; s++) {
        CHECK_EQ(tnm_step(g->ctx, 0, s), TNM_OK);
        rig_expect(g, t[s % 4], 0, s % 4);
        CHECK_EQ(tnm_step(g->ctx, 7, s * 3), TNM_OK); /* steps may jump */
        rig_expect(g, t[4 + s * 3 % 4], 0, 4 + s * 3 % 4);
        tnm_pump(g->ctx, TNM_ALL);
    }
    rig_end(g);
}

EACH(no_flag_of_ours_passes_for_the_callers) {
    rig_pair(g, kind, rig_room(2, ONE));
    rig_make(g, t, 1, ONE, 1);
    for (uint32_t bit = 1; bit; bit <<= 1) {
        tnm_result r = bit & (TNM_IF_READY | TNM_SURE) ? TNM_OK : TNM_ERR_ARGUMENT;
        tnm_shortage why;
        tnm_use u = use_at(0, 0);
        u.flags = bit;
        CHECK_EQ(tnm_schedule(g->ctx, 0, &u, 1, 4), r);
        CHECK_EQ(tnm_prefetch(g->ctx, 0, &u, 1), r);
        CHECK_EQ(tnm_why(g->ctx, &u, 1, &why), r);
    }
    CHECK_EQ(tnm_check(g->ctx), 0);
    rig_end(g);
}

EACH(hints_never_change_results) { /* I17: the same pins with every hint left out */
    uint64_t hash[2] = { 0, 0 };
    for (int hints = 0; hints < 2; hints++) {
        uint64_t draw = 77;
        rig_start(g, 5);
        rig_pair(g, kind, rig_room(3, ONE));
        rig_make(g, t, 8, ONE, 0);
        for (uint64_t s = 0; s < 60; s++) {
            int i = (int)check_draw(&draw, 8), k = (int)check_draw(&draw, 8);
            tnm_use u = use_at(k, s + check_draw(&draw, 4));
            tnm_pinned p;
            if (hints) CHECK_EQ(tnm_step(g->ctx, 0, s), TNM_OK);
            if (hints) CHECK(tnm_prefetch(g->ctx, 0, &u, 1) >= 0);
            if (hints && s % 7 == 0) CHECK_EQ(tnm_advise(g->ctx, t[k], TNM_KEEP), TNM_OK);
            CHECK_EQ(rig_pin(g, t[i], 0, TNM_WRITE, &p), TNM_OK);
            hash[hints] = sim_mix(hash[hints], sim_hash(sim_at(&g->sim, &p), ONE));
            sim_fill(sim_at(&g->sim, &p), s + 100, 0, ONE / 2);
            CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
            tnm_pump(g->ctx, TNM_ALL);
        }
        rig_end(g);
    }
    CHECK(hash[0] == hash[1]);
}

/* ---- who leaves ---- */
EACH(least_recently_pinned_leaves) { /* equal sizes, one thread: textbook LRU, exactly */
    enum { N = 9, C = 4 };
    int last[N], clock = 0, misses = 0;
    uint64_t draw = 99;
    rig_pair(g, kind, rig_room(C, ONE));
    rig_make(g, t, N, ONE, 1);
    for (int i = 0; i < N; i++)
        last[i] = 0;
    for (int n = 0; n < 400; n++) {
        int i = (int)(check_draw(&draw, 3) ? check_draw(&draw, 5) : check_draw(&draw, N)),
            newer = 0;
        for (int k = 0; k < N; k++)
            newer += last[k] > last[i];
        misses += last[i] == 0 || newer >= C;
        last[i] = ++clock;
        rig_expect(g, t[i], 0, (uint64_t)i);
    }
    CHECK_EQ(rig_stats(g, 0).misses, misses);
    rig_end(g);
}

/* So they do where each has memory of its own, and where what is dirty is written down before its
 * room is asked for: a search for the oldest has its steps for itself, and no other one's make it
 * end early, with another. */
static void leave_by_age(rig *g, int kind, uint64_t segment, tnm_access access) {
    enum { N = 9, C = 5 };
    int last[N] = { 0 }, clock = 0, misses = 0;
    uint64_t draw = 7;
    tnm_pinned p;
    rig_tier(g, "fast", kind, rig_room(C, ONE));
    rig_tier(g, "slow", SIM_PLAIN, 0);
    g->tiers[0].segment_bytes = segment;
    rig_create(g);
    rig_make(g, t, N, ONE, 1);
    for (int n = 0; n < 200; n++) {
        int i = (int)check_draw(&draw, N), here = 0, oldest = -1;
        for (int k = 0; k < N; k++) {
            here += last[k] > 0;
            if (last[k] > 0 && (oldest < 0 || last[k] < last[oldest])) oldest = k;
        }
        misses += last[i] == 0;
        if (last[i] == 0 && here == C) last[oldest] = 0;
        last[i] = ++clock;
        CHECK_EQ(rig_pin(g, t[i], 0, access, &p), TNM_OK);
        CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
        for (int k = 0; k < N; k++)
            CHECK_EQ(rig_state(g, t[k], 0) == TNM_STATE_READY, last[k] > 0);
        if (check_draw(&draw, 2)) rig_rest(g);
    }
    CHECK_EQ(rig_stats(g, 0).misses, misses);
    CHECK_EQ(rig_stats(g, 0).lru_inexact, 0);
    rig_end(g);
}

TEST(least_recently_pinned_leaves_dirty_or_alone) {
    static const uint64_t segments[] = { 0, TNM_DEDICATED };
    static rig g;
    for (int i = 0; i < 4; i++) {
        rig_start(&g, (uint64_t)i + 1);
        leave_by_age(&g, i & 1 ? SIM_HIDDEN : SIM_PLAIN, segments[i & 1],
                     i & 2 ? TNM_WRITE : TNM_READ);
    }
}

/* Requests of four references each. A request is a step; each tensor's next use within the next
 * `window` requests is told. */
typedef struct {
    int ref[4 * 300], next[4 * 300], refs, window;
} told_trace;

static void draw_trace(told_trace *d, int n, int window) {
    int last[MOST];
    uint64_t draw = 5;
    d->refs = 4 * 300;
    d->window = window;
    for (int i = 0; i < d->refs; i++) {
        int step = (int)check_draw(&draw, 8), drift = i / 40;
        d->ref[i] = check_draw(&draw, 3) ? (drift + step) % n : (int)check_draw(&draw, (uint64_t)n);
    }
    for (int i = 0; i < n; i++)
        last[i] = 1 << 20; /* never */
    for (int i = d->refs - 1; i >= 0; i--) {
        d->next[i] = last[d->ref[i]];
        last[d->ref[i]] = i;
    }
}

static void tell(rig *g, const told_trace *d, int ref) {
    tnm_use u = use_at(d->ref[ref], (uint64_t)ref / 4);
    u.flags = TNM_SURE;
    CHECK_EQ(tnm_prefetch(g->ctx, 0, &u, 1), TNM_OK);
}

/* Hits in room for c of n. expected[i]: what the reference i must be; NULL = anything. */
static int play(rig *g, const told_trace *d, int n, int c, const char *expected) {
    int hits = 0, due[MOST];
    rig_pair(g, SIM_PLAIN, rig_room((uint64_t)c, ONE));
    rig_make(g, t, n, ONE, 1);
    for (int i = 0; i < n; i++)
        due[i] = -1;
    for (int i = 0, seen = 0; i < d->refs; i++) {
        int k = d->ref[i], hit = here(g, k);
        if (i % 4 == 0) CHECK_EQ(tnm_step(g->ctx, 0, (uint64_t)i / 4), TNM_OK);
        for (; seen < d->refs && seen / 4 <= i / 4 + d->window; seen++)
            if (due[d->ref[seen]] < i) {
                due[d->ref[seen]] = seen;
                tell(g, d, seen);
            }
        hits += hit;
        if (expected) CHECK_EQ(hit, expected[i]);
        rig_expect(g, t[k], 0, (uint64_t)k);
        if (d->next[i] < seen) {
            due[k] = d->next[i];
            tell(g, d, due[k]);
        }
    }
    rig_end(g);
    return hits;
}

/* The same by hand: of those held without a known use the least recent leaves. */
static int play_by_hand(const told_trace *d, int n, int c, char *hit) {
    int last[MOST], in[MOST] = { 0 }, held = 0, unknown = 1;
    for (int i = 0; i < n; i++)
        last[i] = -1;
    for (int i = 0; i < d->refs; i++) {
        int known = 4 * (i / 4 + d->window + 1), victim = -1;
        for (int k = 0; !in[d->ref[i]] && held == c && k < n; k++)
            if (in[k] && (last[k] < 0 || d->next[last[k]] >= known))
                if (victim < 0 || last[k] < last[victim]) victim = k;
        if (victim >= 0) in[victim] = 0;
        unknown &= in[d->ref[i]] || held < c || victim >= 0;
        hit[i] = (char)in[d->ref[i]];
        held += !in[d->ref[i]] && held < c;
        in[d->ref[i]] = 1;
        last[d->ref[i]] = i;
    }
    return unknown;
}

TEST(lru_among_what_is_not_told) { /* hit by hit: what is told in time is never in the way of it */
    enum { N = 40, C = 20 };
    static rig g;
    static told_trace d;
    static char hit[4 * 300];
    for (int window = 0; window <= 3; window++) {
        draw_trace(&d, N, window);
        CHECK(play_by_hand(&d, N, C, hit)); /* there always was one to choose */
        rig_start(&g, 3);
        play(&g, &d, N, C, hit);
    }
}

TEST(knowing_more_hits_more) { /* also where the window holds more than the tier */
    enum { N = 40, C = 6 };
    static rig g;
    static told_trace d;
    int before = 0;
    for (int window = 0; window <= 64; window = window ? 2 * window : 1) {
        int hits;
        draw_trace(&d, N, window);
        rig_start(&g, 3);
        hits = play(&g, &d, N, C, NULL);
        CHECK(hits >= before);
        before = hits;
    }
}

/* ---- single uses ---- */
EACH(told_backwards) { /* the nearest comes first, whenever it was told */
    rig_pair(g, kind, rig_room(3, ONE));
    rig_make(g, t, 12, ONE, 1);
    for (int i = 11; i >= 0; i--) {
        tnm_use u = use_at(i, (uint64_t)i + 1);
        u.flags = i % 2 ? TNM_SURE : 0;
        CHECK_EQ(tnm_prefetch(g->ctx, 0, &u, 1), TNM_OK);
    }
    rig_rest(g);
    CHECK(here(g, 1) && here(g, 3) && here(g, 5)); /* sure ones, then guesses */
    rig_end(g);
}

static int depth_of(const tnmi_hints *hints, uint32_t use) {
    int depth = 0;
    for (; use != TNMI_NONE; use = tnmi_hint_use(hints, use)->up)
        depth++;
    return depth;
}

TEST(single_uses_keep_their_order) { /* told in any order, taken back in any order */
    static rig g;
    uint64_t draw = 4;
    const tnmi_hints *hints;
    rig_start(&g, 1);
    rig_pair(&g, SIM_PLAIN, rig_room(4, ONE));
    rig_make(&g, t, MOST, ONE, 1);
    hints = &g.ctx->e.hints;
    for (int n = 0; n < 6000; n++) {
        tnm_use u = use_at((int)check_draw(&draw, MOST), check_draw(&draw, 1000));
        uint32_t lane = (uint32_t)check_draw(&draw, 2);
        u.flags = check_draw(&draw, 4) ? TNM_SURE : 0;
        CHECK_EQ(tnm_prefetch(g.ctx, lane, &u, 1), TNM_OK);
        if (n % 200 == 0) CHECK_EQ(tnm_check(g.ctx), 0);
        if (n % 100 == 0) CHECK_EQ(tnm_cancel(g.ctx, &t[check_draw(&draw, MOST)], 1), TNM_OK);
        if (n % 700 == 0) CHECK_EQ(tnm_step(g.ctx, 1, (uint64_t)n / 20), TNM_OK);
    }
    for (uint32_t lane = 0; lane < 2; lane++) {
        int count = 0, deepest = 0;
        for (uint32_t i = hints->lane[lane].single; i != TNMI_NONE; i = tnmi_hint_after(hints, i)) {
            int depth = depth_of(hints, i);
            count++;
            if (depth > deepest) deepest = depth;
        }
        CHECK(count > 500);
        CHECK(deepest < 40); /* 3 log2 n: a list would be hundreds */
    }
    CHECK_EQ(tnm_check(g.ctx), 0);
    CHECK_EQ(tnm_cancel(g.ctx, t, MOST), TNM_OK);
    CHECK_EQ(hints->uses.live, 0);
    rig_end(&g);
}

TEST(a_long_jump_ends_what_it_passed) { /* known to be over at once, put away bit by bit */
    enum { USES = 5000 };
    static rig g;
    uint32_t live;
    rig_start(&g, 1);
    rig_pair(&g, SIM_PLAIN, rig_room(4, ONE));
    rig_make(&g, t, MOST, ONE, 1);
    for (int n = 0; n < USES; n++) {
        tnm_use u = use_at(n % MOST, (uint64_t)n + 1);
        u.flags = TNM_SURE;
        CHECK_EQ(tnm_prefetch(g.ctx, 0, &u, 1), TNM_OK);
    }
    CHECK_EQ(tnm_step(g.ctx, 0, 1000000), TNM_OK);
    for (int i = 0; i < MOST; i++)
        CHECK_EQ(rig_info(&g, t[i], 0).next_use, UINT64_MAX);
    live = g.ctx->e.hints.uses.live;
    CHECK(live > 0 && live + TNMI_EXPIRE >= USES); /* one call puts no more than that away */
    CHECK_EQ(tnm_check(g.ctx), 0);
    for (int n = 0; n < 500; n++) { /* who tells on and on does not heap them up */
        tnm_use u = use_at(n % MOST, 1000001 + (uint64_t)n);
        u.flags = TNM_SURE;
        CHECK_EQ(tnm_prefetch(g.ctx, 0, &u, 1), TNM_OK);
    }
    CHECK_EQ(g.ctx->e.hints.uses.live, live - 500);
    rig_expect_all(&g, t, 8, 0);
    for (uint64_t s = 1; s < 12; s++)
        CHECK_EQ(tnm_step(g.ctx, 0, 1001000 + s), TNM_OK);
    CHECK_EQ(g.ctx->e.hints.uses.live, 0);
    CHECK_EQ(rig_stats(&g, 0).prefetches, 0);
    rig_end(&g);
}

/* ---- waiting calls ---- */
TEST(a_waiting_call_serves_itself) { /* synchronous copies of a prefetch are the pump's */
    static rig g;
    rig_start(&g, 1);
    rig_pair(&g, SIM_PLAIN, rig_room(4, ONE));
    rig_make(&g, t, 8, ONE, 1);
    schedule(&g, 8);
    for (uint64_t s = 0; s < 8; s++) {
        uint64_t copied = g.sim.copied_bytes;
        CHECK_EQ(tnm_step(g.ctx, 0, s), TNM_OK);
        rig_expect(&g, t[s], 0, s);
        CHECK(g.sim.copied_bytes - copied <= ONE);
    }
    CHECK_EQ(rig_stats(&g, 0).prefetches, 0);
    rig_rest(&g);
    CHECK(rig_stats(&g, 0).prefetches > 0);
    rig_end(&g);
}

TEST(what_passes_a_tier_stays_if_it_is_worth_it) { /* three tiers, demands alone */
    enum { N = 24, FAST = 4, MID = 12, SWEEPS = 4 };
    static rig g;
    uint64_t before = 0;
    for (int told = 0; told < 2; told++) {
        rig_start(&g, 1);
        rig_tier(&g, "fast", SIM_PLAIN, rig_room(FAST, ONE));
        rig_tier(&g, "mid", SIM_PLAIN, rig_room(MID, ONE));
        rig_tier(&g, "slow", SIM_PLAIN, 0);
        rig_create(&g);
        rig_make(&g, t, N, ONE, 2);
        if (told) schedule(&g, N);
        for (uint64_t s = 0; s < (2 + SWEEPS) * N; s++) {
            if (s == 2 * N) before = rig_stats(&g, 2).bytes_out;
            if (told) CHECK_EQ(tnm_step(g.ctx, 0, s), TNM_OK);
            rig_expect(&g, t[s % N], 0, s % N);
        }
        CHECK(rig_stats(&g, 1).used_bytes > 0); /* on the way up they stop there */
        before = rig_stats(&g, 2).bytes_out - before;
        /* a cycle through LRU misses everywhere; with it in sight the least is N - FAST - MID */
        if (told) CHECK(before <= SWEEPS * (N - FAST - MID + 4) * ONE);
        rig_end(&g);
    }
}

EACH(advice_orders_the_victims) {
    rig_pair(g, kind, rig_room(3, ONE));
    rig_make(g, t, 6, ONE, 1);
    CHECK_EQ(tnm_advise(g->ctx, t[0], TNM_KEEP), TNM_OK);
    rig_expect_all(g, t, 3, 0);
    CHECK_EQ(tnm_advise(g->ctx, t[2], TNM_WONT_NEED), TNM_OK);
    rig_expect(g, t[3], 0, 3);
    CHECK(here(g, 0) && here(g, 1) && !here(g, 2));
    rig_expect(g, t[4], 0, 4);
    rig_expect(g, t[5], 0, 5);
    CHECK(here(g, 0)); /* the last to leave, though the oldest */
    CHECK_EQ(tnm_advise(g->ctx, t[0], TNM_NORMAL), TNM_OK);
    rig_expect(g, t[1], 0, 1);
    CHECK(!here(g, 0));
    rig_end(g);
}

EACH(used_once_goes_first) {
    rig_pair(g, kind, rig_room(3, ONE));
    rig_make(g, t, 5, ONE, 1);
    CHECK_EQ(tnm_advise(g->ctx, t[2], TNM_ONCE), TNM_OK);
    rig_expect_all(g, t, 3, 0);
    rig_expect(g, t[3], 0, 3);
    CHECK(here(g, 0) && here(g, 1) && !here(g, 2));
    rig_end(g);
}

EACH(wont_need_ends_with_the_next_pin) {
    rig_pair(g, kind, rig_room(2, ONE));
    rig_make(g, t, 4, ONE, 1);
    rig_expect(g, t[0], 0, 0);
    CHECK_EQ(tnm_advise(g->ctx, t[1], TNM_WONT_NEED), TNM_OK);
    rig_expect(g, t[1], 0, 1); /* NORMAL again */
    CHECK_EQ(rig_info(g, t[1], 0).advice, TNM_NORMAL);
    rig_expect(g, t[2], 0, 2);
    CHECK(!here(g, 0) && here(g, 1));
    rig_end(g);
}

/* A writer of adopted memory waits for the copies elsewhere to end; nothing fetches new ones. */
EACH(a_writer_at_home_is_not_raced) {
    tnm_tensor it;
    tnm_adopt_desc ad;
    tnm_use u;
    tnm_pinned p;
    rig_tier(g, "fast", kind, 65536);
    rig_tier(g, "home", SIM_PLAIN | SIM_ASYNC, 0);
    CHECK(rig_create(g));
    ad = sim_lent(&g->sim.device[1], sim_lend(&g->sim.device[1], ONE), 0);
    ad.writable = 1;
    sim_fill(ad.host, 7, 0, ONE);
    it = rig_adopt(g, &ad, ONE);
    u = rig_use(it, 0, TNM_READ);
    CHECK_EQ(tnm_schedule(g->ctx, 0, &u, 1, 1), TNM_OK);
    CHECK_EQ(tnm_step(g->ctx, 0, 1), TNM_OK);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(rig_pin(g, it, 1, i % 2 ? TNM_WRITE : TNM_DISCARD, &p), TNM_OK);
        if (p.id == 0) break;
        sim_fill(sim_at(&g->sim, &p), (uint64_t)i, 0, p.bytes);
        CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
        tnm_pump(g->ctx, 4096); /* it is fetched again, and the next writer finds it on its way */
    }
    rig_expect(g, it, 0, 19);
    rig_end(g);
}

int main(void) {
    RUN(prefetch_brings_it);
    RUN(a_schedule_keeps_what_is_dear_to_bring);
    RUN(a_guess_evicts_nothing_needed_sooner);
    RUN(a_guess_evicts_no_unused_guess);
    RUN(a_guess_evicts_no_claim);
    RUN(guesses_leave_the_link_to_demand);
    RUN(a_demand_raises_a_guess);
    RUN(wasted_prefetches_are_counted);
    RUN(a_wrong_guess_leaves_first);
    RUN(prefetch_with_discard_fetches_nothing);
    RUN(cancel);
    RUN(a_schedule_beats_lru);
    RUN(what_is_written_is_kept_first);
    RUN(kept_ones_stay);
    RUN(two_levels_hold_different_ones);
    RUN(a_schedule_that_fits_moves_nothing);
    RUN(the_pump_looks_ahead);
    RUN(pump_comes_to_rest);
    RUN(scheduled_writes_stay_right);
    RUN(a_writer_at_home_is_not_raced);
    RUN(a_schedule_can_be_replaced_and_forgotten);
    RUN(two_lanes);
    RUN(no_flag_of_ours_passes_for_the_callers);
    RUN(hints_never_change_results);
    RUN(least_recently_pinned_leaves);
    RUN(least_recently_pinned_leaves_dirty_or_alone);
    RUN(lru_among_what_is_not_told);
    RUN(knowing_more_hits_more);
    RUN(told_backwards);
    RUN(single_uses_keep_their_order);
    RUN(a_long_jump_ends_what_it_passed);
    RUN(a_waiting_call_serves_itself);
    RUN(what_passes_a_tier_stays_if_it_is_worth_it);
    RUN(advice_orders_the_victims);
    RUN(used_once_goes_first);
    RUN(wont_need_ends_with_the_next_pin);
    return check_done();
}
