/* needs: tensormem.o */
/* Budgets from outside: never exceeded (the devices hold every alloc against the budget in force),
 * changed at run time down to zero, staging and tails charged, peaks, refusing backends. P2. */
#include "tensormem.h"
#include "sim.h"

enum { KIB = 1024, ONE = 8 * KIB };

EACH(whole_budget_is_usable) {
    tnm_tensor t[4];
    tnm_pinned p[4];
    rig_pair(g, kind, rig_room(4, ONE));
    rig_make(g, t, 4, ONE, 1);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(rig_pin(g, t[i], 0, TNM_READ, &p[i]), TNM_OK);
    CHECK_EQ(rig_stats(g, 0).budget_bytes, rig_room(4, ONE));
    CHECK_EQ(rig_stats(g, 0).used_bytes, rig_room(4, ONE));
    CHECK(rig_stats(g, 0).peak_bytes <= rig_room(4, ONE));
    for (int i = 0; i < 4; i++)
        CHECK_EQ(rig_unpin(g, &p[i], 0), TNM_OK);
    rig_end(g);
}

EACH(segments_are_charged) { /* many small segments instead of one */
    tnm_tensor t[20];
    rig_tier(g, "fast", kind, 8 * rig_room(1, ONE));
    g->tiers[0].segment_bytes = 2 * rig_room(1, ONE);
    rig_tier(g, "slow", SIM_PLAIN, 0);
    g->tiers[1].segment_bytes = 4 * rig_room(1, ONE);
    rig_create(g);
    rig_make(g, t, 20, ONE, 0);
    for (int round = 0; round < 3; round++)
        rig_expect_all(g, t, 20, 0);
    CHECK(g->sim.device[0].peak > 2 * rig_room(1, ONE));
    rig_end(g);
}

EACH(larger_than_a_segment) {
    tnm_tensor small[6], big;
    rig_tier(g, "fast", kind, 8 * rig_room(1, ONE));
    g->tiers[0].segment_bytes = 2 * rig_room(1, ONE);
    rig_tier(g, "slow", SIM_PLAIN, 0);
    rig_create(g);
    rig_make(g, small, 6, ONE, 0);
    big = rig_tensor(g, 5 * ONE, 0);
    rig_write(g, big, 1, 77);
    rig_expect(g, big, 0, 77); /* empty segments make way for it */
    rig_expect_all(g, small, 6, 0);
    rig_expect(g, big, 0, 77);
    rig_end(g);
}

EACH(larger_than_a_segment_by_frames) { /* a try_pin and a pump: two ticks from ask to ask */
    tnm_tensor small[4], big;
    tnm_pinned p;
    tnm_result r;
    rig_tier(g, "fast", kind, rig_room(4, ONE));
    g->tiers[0].segment_bytes = rig_room(2, ONE);
    rig_tier(g, "slow", SIM_PLAIN, 0);
    rig_create(g);
    rig_make(g, small, 4, ONE, 0);
    big = rig_tensor(g, 3 * ONE, 0); /* nothing is left of the tier's segments */
    RIG_UNTIL(r, g, rig_try(g, big, 0, TNM_DISCARD, &p));
    CHECK_EQ(r, TNM_OK);
    if (p.host) sim_fill(p.host, 77, 0, p.bytes);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_expect_all(g, small, 4, 0);
    rig_end(g);
}

EACH(dedicated_segments) {
    static int item[3];
    tnm_tensor t[3];
    tnm_tensor_desc d;
    rig_tier(g, "fast", kind, 2 * rig_room(1, ONE));
    g->tiers[0].segment_bytes = TNM_DEDICATED;
    rig_tier(g, "slow", SIM_PLAIN, 0);
    rig_create(g);
    memset(&d, 0, sizeof d);
    d.bytes = ONE;
    for (int i = 0; i < 3; i++) {
        d.user = &item[i];
        CHECK_EQ(tnm_tensor_create(g->ctx, &d, &t[i]), TNM_OK);
        rig_write(g, t[i], 0, (uint64_t)i);
    }
    for (int round = 0; round < 3; round++)
        rig_expect_all(g, t, 3, 0);
    CHECK(g->sim.calls[SIM_ALLOC] >= 6); /* one per placement */
    rig_end(g);
}

/* members of the same size and item take segments in turn; none goes back while another comes */
EACH(dedicated_set) {
    tnm_tensor t[4];
    tnm_pinned p[3];
    tnm_use u[3];
    rig_tier(g, "fast", kind, 3 * rig_room(1, ONE));
    rig_tier(g, "slow", SIM_PLAIN, 0);
    g->tiers[0].segment_bytes = g->tiers[1].segment_bytes = TNM_DEDICATED;
    rig_create(g);
    rig_make(g, t, 4, ONE, 1);
    rig_expect(g, t[3], 0, 3);
    for (int i = 0; i < 3; i++)
        u[i] = rig_use(t[i], 0, TNM_READ);
    CHECK_EQ(tnm_pin(g->ctx, u, 3, p), TNM_OK);
    for (int i = 0; i < 3; i++)
        CHECK(sim_same(sim_at(&g->sim, &p[i]), (uint64_t)i, 0, ONE));
    CHECK(g->sim.calls[SIM_ALLOC] <= 4 + 4 + 2); /* 4 below, 4 above, staging */
    CHECK_EQ(tnm_unpin(g->ctx, p, 3, 0), TNM_OK);
    rig_end(g);
}

/* what was asked for and is asked for no more goes back */
EACH(dedicated_vacant_goes) {
    tnm_tensor t[3];
    tnm_pinned p[3];
    tnm_use u[2];
    rig_tier(g, "fast", kind, 2 * rig_room(1, ONE));
    rig_tier(g, "slow", SIM_PLAIN, 0);
    g->tiers[0].segment_bytes = TNM_DEDICATED;
    rig_create(g);
    rig_make(g, t, 3, ONE, 1);
    CHECK_EQ(rig_pin(g, t[0], 0, TNM_READ, &p[0]), TNM_OK);
    u[0] = rig_use(t[1], 0, TNM_READ);
    u[1] = rig_use(t[2], 0, TNM_READ);
    CHECK_EQ(tnm_pin(g->ctx, u, 2, &p[1]), TNM_ERR_BUDGET);
    rig_expect(g, t[1], 0, 1); /* nothing stands in its way */
    rig_unpin(g, &p[0], 0);
    for (int i = 0; i < 4; i++)
        tnm_pump(g->ctx, TNM_ALL);
    CHECK(rig_stats(g, 0).reserved_bytes <= 2 * rig_room(1, ONE));
    rig_expect_all(g, t, 3, 0);
    rig_end(g);
}

/* tnm_why rehearses a dedicated tier to the end */
EACH(dedicated_why) {
    tnm_tensor t[3];
    tnm_pinned p[3];
    tnm_shortage why;
    tnm_use u[2];
    tnm_result r;
    rig_tier(g, "fast", kind, 2 * rig_room(1, ONE));
    rig_tier(g, "slow", SIM_PLAIN, 0);
    g->tiers[0].segment_bytes = TNM_DEDICATED;
    rig_create(g);
    rig_make(g, t, 3, ONE, 1);
    u[0] = rig_use(t[0], 0, TNM_READ);
    u[1] = rig_use(t[1], 0, TNM_READ);
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(tnm_why(g->ctx, u, 2, &why), TNM_OK);
        r = tnm_try_pin(g->ctx, u, 2, p);
        CHECK_EQ(why.result, r);
        if (r == TNM_OK) break;
        tnm_pump(g->ctx, TNM_ALL);
    }
    CHECK_EQ(r, TNM_OK);
    u[0] = rig_use(t[2], 0, TNM_READ);
    CHECK_EQ(tnm_why(g->ctx, u, 1, &why), TNM_OK);
    CHECK_EQ(why.result, TNM_ERR_BUDGET); /* both places are pinned */
    CHECK_EQ(tnm_try_pin(g->ctx, u, 1, &p[2]), TNM_ERR_BUDGET);
    CHECK_EQ(tnm_unpin(g->ctx, p, 2, 0), TNM_OK);
    rig_end(g);
}

EACH(tails_are_charged) {
    tnm_tensor t[3];
    tnm_pinned p[3];
    tnm_use u[3];
    rig_tier(g, "fast", kind, 2 * rig_room(1, ONE + 512));
    g->tiers[0].tail_bytes = 512;
    rig_tier(g, "slow", SIM_PLAIN, 0);
    rig_create(g);
    rig_make(g, t, 3, ONE, 1);
    for (int i = 0; i < 3; i++)
        u[i] = rig_use(t[i], 0, TNM_READ);
    CHECK_EQ(tnm_pin(g->ctx, u, 2, p), TNM_OK);
    for (int i = 0; i < 2; i++) {
        uint8_t *at = sim_at(&g->sim, &p[i]);
        CHECK(sim_same(at, (uint64_t)i, 0, ONE));
        CHECK(p[i].offset + ONE + 512 <= sim_find(&g->sim.device[0], p[i].mem)->size);
    }
    CHECK(sim_at(&g->sim, &p[0]) + ONE + 512 <= sim_at(&g->sim, &p[1]) ||
          sim_at(&g->sim, &p[1]) + ONE + 512 <= sim_at(&g->sim, &p[0]));
    CHECK_EQ(tnm_unpin(g->ctx, p, 2, 0), TNM_OK);
    CHECK_EQ(tnm_pin(g->ctx, u, 3, p), TNM_ERR_BUDGET);
    rig_end(g);
}

EACH(alignment_is_kept) {
    tnm_tensor t[6];
    rig_tier(g, "fast", kind, 40 * KIB);
    g->tiers[0].alignment = 1024;
    rig_tier(g, "slow", SIM_PLAIN, 0);
    g->tiers[1].alignment = 64;
    rig_create(g);
    for (int i = 0; i < 6; i++) {
        tnm_pinned p;
        t[i] = rig_tensor(g, 100 + (uint64_t)i * 700, 0);
        rig_write(g, t[i], i & 1, (uint64_t)i);
        CHECK_EQ(rig_pin(g, t[i], 0, TNM_READ, &p), TNM_OK);
        CHECK_EQ((uintptr_t)sim_at(&g->sim, &p) % 1024, 0);
        CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
        CHECK_EQ(rig_pin(g, t[i], 1, TNM_READ, &p), TNM_OK);
        CHECK_EQ((uintptr_t)sim_at(&g->sim, &p) % 64, 0);
        CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    }
    rig_expect_all(g, t, 6, 0);
    rig_end(g);
}

EACH(staging_is_charged_to_its_tier) { /* hidden over plain over hidden: the disk needs two hops */
    tnm_tensor t[6];
    uint64_t host = rig_room(4, ONE) + 16384 + 4096;
    rig_tier(g, "device", kind | SIM_HIDDEN, rig_room(2, ONE));
    rig_tier(g, "host", SIM_PLAIN, host);
    rig_tier(g, "disk", SIM_HIDDEN | (kind & SIM_ASYNC), 0);
    rig_create(g);
    rig_make(g, t, 6, ONE, 0);
    for (int round = 0; round < 3; round++)
        rig_expect_all(g, t, 6, 0);
    CHECK(g->sim.device[1].peak <= host);
    CHECK(rig_stats(g, 1).peak_bytes <= host);
    rig_end(g);
}

/* A device over page-locked memory of its own over a file; the host's memory comes first, in one
 * segment, and is pinned whole when the device wants something that lies in the file. Nobody named
 * a staging tier. `truth` 0: its backend said that the CPU sees it, and that was a lie. */
static tnm_result a_pinned_host_over_a_file(rig *g, int kind, int truth) {
    enum { MOST = 40 };
    tnm_tensor t[MOST], far;
    tnm_pinned p[MOST], q;
    uint64_t host = rig_room(16, ONE) + 16384, device = rig_room(4, ONE);
    int n = 0;
    rig_tier(g, "device", kind | SIM_HIDDEN, device);
    rig_tier(g, "host", truth ? SIM_PLAIN : SIM_HIDDEN, host);
    rig_tier(g, "file", (truth ? SIM_HIDDEN : SIM_PLAIN) | (kind & SIM_ASYNC), rig_room(90, ONE));
    g->tiers[2].segment_bytes = rig_room(8, ONE);
    g->tiers[1].backend.host_visible = 1;
    if (!rig_create(g)) return TNM_ERR_ARGUMENT;
    CHECK_EQ(g->desc.staging_tier, 0);
    far = rig_tensor(g, ONE, 0);
    rig_write(g, far, 2, 1);
    for (; n < MOST; n++) {
        t[n] = rig_tensor(g, ONE, 0);
        if (rig_pin(g, t[n], 1, TNM_DISCARD, &p[n]) != TNM_OK) break;
    }
    CHECK(n > 8);
    tnm_result r = rig_pin(g, far, 0, TNM_WRITE, &q);
    if (r == TNM_OK) {
        sim_fill(sim_at(&g->sim, &q), 3, 0, ONE);
        CHECK_EQ(rig_unpin(g, &q, 0), TNM_OK);
    }
    while (n-- > 0) {
        sim_fill(sim_at(&g->sim, &p[n]), (uint64_t)n, 0, ONE);
        CHECK_EQ(rig_unpin(g, &p[n], 0), TNM_OK);
    }
    for (int round = 0; round < 3; round++) { /* and more than both hold goes round */
        for (int i = 0; i < 16; i++)
            rig_expect(g, t[i], 0, (uint64_t)i);
        rig_expect(g, far, 0, r == TNM_OK ? 3 : 1);
    }
    CHECK(g->sim.device[0].peak <= device && g->sim.device[1].peak <= host);
    CHECK(rig_stats(g, 0).peak_bytes <= device && rig_stats(g, 1).peak_bytes <= host);
    rig_end(g);
    return r;
}

EACH(staging_without_a_name_on_a_backends_host) {
    CHECK_EQ(a_pinned_host_over_a_file(g, kind, 1), TNM_OK);
}

EACH(a_backend_that_says_it_is_seen_and_is_not) { /* the next tier has it then */
    CHECK_EQ(a_pinned_host_over_a_file(g, kind, 0), TNM_OK);
}

/* ---- changes at run time ---- */
EACH(grow) {
    tnm_tensor t[4];
    tnm_pinned p[4];
    rig_pair(g, kind, rig_room(2, ONE));
    rig_make(g, t, 4, ONE, 1);
    CHECK_EQ(rig_pin(g, t[0], 0, TNM_READ, &p[0]), TNM_OK);
    CHECK_EQ(rig_pin(g, t[1], 0, TNM_READ, &p[1]), TNM_OK);
    CHECK_EQ(rig_pin(g, t[2], 0, TNM_READ, &p[2]), TNM_ERR_BUDGET);
    CHECK_EQ(rig_budget(g, 0, rig_room(4, ONE)), TNM_OK);
    CHECK_EQ(rig_pin(g, t[2], 0, TNM_READ, &p[2]), TNM_OK);
    CHECK_EQ(rig_pin(g, t[3], 0, TNM_READ, &p[3]), TNM_OK);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(rig_unpin(g, &p[i], 0), TNM_OK);
    rig_expect_all(g, t, 4, 0);
    rig_end(g);
}

EACH(shrink_drains_dirty_bytes) {
    tnm_tensor t[4];
    tnm_result r;
    rig_tier(g, "fast", kind, rig_room(4, ONE));
    g->tiers[0].segment_bytes = rig_room(1, ONE);
    rig_tier(g, "slow", SIM_PLAIN, 0);
    rig_create(g);
    rig_make(g, t, 4, ONE, 0); /* dirty, all of them */
    RIG_UNTIL(r, g, rig_budget(g, 0, rig_room(2, ONE)));
    CHECK_EQ(r, TNM_OK);
    CHECK(g->sim.device[0].held <= rig_room(2, ONE));
    CHECK_EQ(rig_stats(g, 0).budget_bytes, rig_room(2, ONE));
    rig_expect_all(g, t, 4, 1);
    rig_expect_all(g, t, 4, 0);
    rig_end(g);
}

EACH(shrink_one_big_segment) {
    tnm_tensor t[4];
    tnm_result r;
    rig_pair(g, kind, rig_room(4, ONE));
    rig_make(g, t, 4, ONE, 0);
    RIG_UNTIL(r, g, rig_budget(g, 0, rig_room(3, ONE)));
    CHECK_EQ(r, TNM_OK);
    CHECK(g->sim.device[0].held <= rig_room(3, ONE));
    rig_expect_all(g, t, 4, 0); /* the tier works again, within what is left */
    rig_end(g);
}

EACH(shrink_to_zero_and_back) {
    tnm_tensor t[3];
    tnm_pinned p;
    tnm_result r;
    rig_pair(g, kind, rig_room(3, ONE));
    rig_make(g, t, 3, ONE, 0);
    RIG_UNTIL(r, g, rig_budget(g, 0, 0)); /* literal: none, not "no limit" */
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(g->sim.device[0].held, 0);
    CHECK_EQ(rig_stats(g, 0).reserved_bytes, 0);
    CHECK_EQ(rig_stats(g, 0).budget_bytes, 0);
    CHECK_EQ(rig_pin(g, t[0], 0, TNM_READ, &p), TNM_ERR_BUDGET);
    rig_expect_all(g, t, 3, 1);
    CHECK_EQ(rig_budget(g, 0, TNM_ALL), TNM_OK);
    CHECK_EQ(rig_stats(g, 0).budget_bytes, TNM_ALL);
    rig_expect_all(g, t, 3, 0);
    rig_end(g);
}

EACH(shrink_under_a_pin) {
    tnm_tensor t[2];
    tnm_pinned p, q;
    tnm_result r = TNM_PENDING;
    rig_tier(g, "fast", kind, rig_room(2, ONE));
    g->tiers[0].segment_bytes = rig_room(1, ONE);
    rig_tier(g, "slow", SIM_PLAIN, 0);
    rig_create(g);
    rig_make(g, t, 2, ONE, 0);
    CHECK_EQ(rig_pin(g, t[0], 0, TNM_READ, &p), TNM_OK);
    for (int i = 0; i < 1000 && r == TNM_PENDING; i++) {
        r = rig_budget(g, 0, 0);
        tnm_pump(g->ctx, TNM_ALL);
    }
    CHECK_EQ(r, TNM_ERR_BUSY); /* only a live pin is left to wait for */
    CHECK(sim_same(sim_at(&g->sim, &p), 0, 0, ONE));
    CHECK_EQ(rig_pin(g, t[1], 0, TNM_READ, &q), TNM_ERR_BUDGET);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    RIG_UNTIL(r, g, rig_budget(g, 0, 0));
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(g->sim.device[0].held, 0);
    rig_expect_all(g, t, 2, 1);
    rig_end(g);
}

EACH(nothing_grows_from_the_call_on) {
    tnm_tensor t[4];
    tnm_result r;
    rig_tier(g, "fast", kind, rig_room(4, ONE));
    g->tiers[0].segment_bytes = rig_room(1, ONE);
    rig_tier(g, "slow", SIM_PLAIN, 0);
    rig_create(g);
    rig_make(g, t, 2, ONE, 0);
    rig_make(g, t + 2, 2, ONE, 1);
    r = rig_budget(g, 0, rig_room(1, ONE)); /* the device's limit falls with the call */
    CHECK_EQ(r, TNM_PENDING);
    rig_expect(g, t[2], 0, 0);
    rig_expect(g, t[3], 0, 1);
    RIG_UNTIL(r, g, rig_budget(g, 0, rig_room(1, ONE)));
    CHECK_EQ(r, TNM_OK);
    CHECK(g->sim.device[0].held <= rig_room(1, ONE));
    rig_expect_all(g, t, 2, 0);
    rig_end(g);
}

EACH(shrink_with_copies_in_flight) {
    tnm_tensor t[4];
    tnm_pinned p;
    tnm_result r;
    rig_tier(g, "fast", kind, rig_room(4, ONE));
    g->tiers[0].segment_bytes = rig_room(1, ONE);
    rig_tier(g, "slow", SIM_PLAIN, 0);
    rig_create(g);
    rig_make(g, t, 4, ONE, 1);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(rig_try(g, t[i], 0, TNM_READ, &p), TNM_PENDING);
    tnm_pump(g->ctx, 6 * KIB);
    RIG_UNTIL(r, g, rig_budget(g, 0, rig_room(1, ONE)));
    CHECK(r == TNM_OK);
    CHECK(g->sim.device[0].held <= rig_room(1, ONE));
    rig_expect_all(g, t, 4, 0);
    rig_end(g);
}

EACH(shrink_says_when_the_lower_tier_refuses) {
    tnm_tensor t[2];
    tnm_result r;
    rig_pair(g, kind, rig_room(2, ONE));
    rig_make(g, t, 2, ONE, 0);
    sim_break(&g->sim, SIM_COPY, 1, 1);
    RIG_UNTIL(r, g, rig_budget(g, 0, 0));
    CHECK_EQ(r, TNM_ERR_BACKEND); /* instead of PENDING for ever */
    CHECK(rig_stats(g, 1).failures + rig_stats(g, 0).failures > 0);
    g->sim.fault_at = 0;
    for (int i = 0; i < 600 && r != TNM_OK; i++) {
        r = rig_budget(g, 0, 0);
        tnm_pump(g->ctx, TNM_ALL);
    }
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(g->sim.device[0].held, 0);
    rig_expect_all(g, t, 2, 1);
    rig_end(g);
}

EACH(shrink_waits_for_fences) {
    tnm_tensor t;
    tnm_pinned p;
    tnm_result r = TNM_PENDING;
    rig_pair(g, kind, rig_room(1, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &p), TNM_OK);
    CHECK_EQ(rig_unpin(g, &p, TNM_FENCE(1, 5)), TNM_OK);
    for (int i = 0; i < 50; i++) {
        r = rig_budget(g, 0, 0);
        CHECK_EQ(r, TNM_PENDING);
        tnm_pump(g->ctx, TNM_ALL);
    }
    CHECK(g->sim.device[0].held > 0);
    g->sim.now[1] = 5;
    RIG_UNTIL(r, g, rig_budget(g, 0, 0));
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(g->sim.device[0].held, 0);
    rig_expect(g, t, 1, 1);
    rig_end(g);
}

/* ---- a backend that gives less than the budget ---- */
EACH(refusing_backend_is_made_do_with) {
    tnm_tensor t[6];
    sim_device *d = rig_tier(g, "fast", kind, rig_room(8, ONE));
    rig_tier(g, "slow", SIM_PLAIN, 0);
    d->capacity = rig_room(3, ONE); /* three of the eight exist */
    rig_create(g);
    rig_make(g, t, 6, ONE, 0);
    for (int round = 0; round < 3; round++)
        rig_expect_all(g, t, 6, 0);
    CHECK(d->peak >= ONE && d->peak <= d->capacity);
    rig_end(g);
}

EACH(available_is_asked) {
    tnm_tensor t[4];
    sim_device *d = rig_tier(g, "fast", kind, rig_room(8, ONE));
    g->tiers[0].backend.available = sim_available;
    rig_tier(g, "slow", SIM_PLAIN, 0);
    d->capacity = rig_room(3, ONE);
    rig_create(g);
    rig_make(g, t, 4, ONE, 0);
    rig_expect_all(g, t, 4, 0);
    rig_end(g);
}

EACH(a_tier_that_never_gives) {
    tnm_tensor t;
    tnm_pinned p;
    sim_device *d = rig_tier(g, "fast", kind, rig_room(2, ONE));
    rig_tier(g, "slow", SIM_PLAIN, 0);
    d->capacity = 16;
    if (tnm_create(&g->desc, &g->ctx) != TNM_OK) { /* may already say so here */
        rig_close_sim(g);
        return;
    }
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 1, 1);
    CHECK(rig_pin(g, t, 0, TNM_READ, &p) < 0);
    rig_expect(g, t, 1, 1);
    d->capacity = 0; /* it has thought better of it */
    rig_pump(g, 300);
    rig_expect(g, t, 0, 1);
    rig_end(g);
}

/* ---- a bottom that is full ---- */
EACH(full_bottom_refuses_and_loses_nothing) {
    tnm_tensor t[3];
    tnm_pinned p;
    tnm_tensor extra;
    rig_tier(g, "fast", kind, rig_room(1, ONE));
    rig_tier(g, "slow", SIM_PLAIN, rig_room(2, ONE));
    rig_create(g);
    rig_make(g, t, 3, ONE, 0);
    extra = rig_tensor(g, ONE, 0);
    CHECK_EQ(rig_pin(g, extra, 0, TNM_DISCARD, &p), TNM_ERR_BUDGET);
    for (int i = 0; i < 3; i++) {
        uint8_t back[ONE];
        CHECK_EQ(tnm_read(g->ctx, t[i], 0, back, ONE), TNM_OK);
        CHECK(sim_same(back, (uint64_t)i, 0, ONE));
    }
    CHECK_EQ(tnm_tensor_destroy(g->ctx, t[0]), TNM_OK);
    rig_write(g, extra, 0, 9);
    rig_expect(g, extra, 0, 9);
    rig_end(g);
}

EACH(one_tier_alone) {
    tnm_tensor t[3];
    tnm_pinned p;
    rig_tier(g, "only", kind, rig_room(2, ONE));
    rig_create(g);
    rig_make(g, t, 2, ONE, 0);
    t[2] = rig_tensor(g, ONE, 0);
    CHECK_EQ(rig_pin(g, t[2], 0, TNM_DISCARD, &p), TNM_ERR_BUDGET);
    rig_expect_all(g, t, 2, 0);
    CHECK_EQ(tnm_tensor_destroy(g->ctx, t[0]), TNM_OK);
    rig_write(g, t[2], 0, 5);
    rig_expect(g, t[1], 0, 1);
    rig_expect(g, t[2], 0, 5);
    rig_end(g);
}

EACH(droppable_gives_way_in_a_bottom) {
    tnm_tensor keep, drop;
    tnm_pinned p;
    rig_tier(g, "only", kind, rig_room(1, ONE));
    rig_create(g);
    drop = rig_tensor(g, ONE, TNM_DROPPABLE);
    rig_write(g, drop, 0, 1);
    keep = rig_tensor(g, ONE, 0);
    rig_write(g, keep, 0, 2);
    CHECK_EQ(rig_pin(g, drop, 0, TNM_READ, &p), TNM_ERR_EMPTY);
    rig_expect(g, keep, 0, 2);
    rig_end(g);
}

EACH(everything_is_given_back) { /* I05 */
    tnm_tensor t[8];
    rig_pair(g, kind, rig_room(3, ONE));
    rig_make(g, t, 8, ONE, 0);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(tnm_tensor_destroy(g->ctx, t[i]), TNM_OK);
    rig_rest(g);
    for (int tier = 0; tier < 2; tier++) {
        tnm_tier_stats s = rig_stats(g, tier);
        CHECK_EQ(s.used_bytes, 0);
        CHECK_EQ(s.tensors, 0);
        CHECK_EQ(s.pinned_bytes, 0);
        CHECK_EQ(s.dirty_bytes, 0);
        CHECK_EQ(s.in_flight_bytes, 0);
    }
    rig_end(g);
}

TEST(default_backend_uses_our_allocator) {
    static rig g;
    tnm_tensor t[4];
    long long before = check_live_bytes();
    rig_start(&g, 1);
    g.desc.tier_count = 2;
    g.tiers[0].budget_bytes = rig_room(2, ONE);
    CHECK_EQ(tnm_create(&g.desc, &g.ctx), TNM_OK);
    rig_make(&g, t, 4, ONE, 0);
    CHECK(check_live_bytes() - before >= 4 * ONE);
    rig_expect_all(&g, t, 4, 0);
    rig_end(&g);
    CHECK_EQ(check_live_bytes(), before);
}

EACH(a_drain_that_a_pin_below_holds_up_is_not_waited_for) { /* P4: pins never wait for pins */
    tnm_tensor low, high, other;
    tnm_pinned held, p;
    rig_tier(g, "fast", kind, rig_room(4, ONE));
    rig_tier(g, "middle", SIM_PLAIN, rig_room(4, ONE));
    rig_tier(g, "slow", SIM_PLAIN, 0);
    if (!rig_create(g)) return;
    low = rig_tensor(g, ONE, 0);
    high = rig_tensor(g, ONE, 0);
    other = rig_tensor(g, ONE, 0);
    rig_write(g, low, 1, 1);
    rig_write(g, other, 2, 2);
    CHECK_EQ(rig_pin(g, low, 1, TNM_READ, &held), TNM_OK);
    CHECK(rig_budget(g, 1, rig_room(1, ONE)) != TNM_OK);
    rig_write(g, high, 0, 3); /* its way down leads through the middle */
    CHECK(rig_budget(g, 0, rig_room(1, ONE)) != TNM_OK);
    CHECK_EQ(rig_pin(g, other, 0, TNM_READ, &p), TNM_ERR_BUDGET);
    CHECK_EQ(rig_unpin(g, &held, 0), TNM_OK);
    rig_expect(g, other, 0, 2);
    rig_expect(g, high, 0, 3);
    rig_end(g);
}

/* A drain of the top whose bytes find no room further down: a pin there is refused, not kept
 * waiting, and so is the budget; when pins let go, it goes on. */
static void no_way_down(rig *g, int kind, int middle) {
    tnm_tensor high, in[2], low[2], late;
    tnm_pinned held[2], p;
    rig_tier(g, "fast", kind, rig_room(4, ONE));
    rig_tier(g, "middle", SIM_PLAIN, rig_room(2, ONE));
    rig_tier(g, "slow", SIM_PLAIN, rig_room(4, ONE));
    if (!rig_create(g)) return;
    late = rig_tensor(g, ONE, 0);
    for (int i = 0; i < 2; i++) {
        low[i] = rig_tensor(g, 2 * ONE, 0);
        rig_write(g, low[i], 2, 10 + (uint64_t)i);
        CHECK_EQ(rig_pin(g, low[i], 2, TNM_READ, &held[i]), TNM_OK);
        in[i] = rig_tensor(g, ONE, 0);
        if (middle) rig_write(g, in[i], 1, (uint64_t)i);
    }
    if (!middle) CHECK(rig_budget(g, 1, 0) >= 0);
    high = rig_tensor(g, ONE, 0);
    rig_write(g, high, 0, 3);
    CHECK(rig_budget(g, 0, rig_room(1, ONE)) < 0);
    CHECK_EQ(rig_pin(g, late, 0, TNM_DISCARD, &p), TNM_ERR_BUDGET);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(rig_unpin(g, &held[i], 0), TNM_OK);
        CHECK_EQ(tnm_tensor_destroy(g->ctx, low[i]), TNM_OK);
    }
    rig_write(g, late, 0, 4);
    rig_rest(g);
    CHECK(rig_stats(g, 0).reserved_bytes <= rig_room(1, ONE)); /* P2 */
    rig_expect(g, late, 0, 4);
    rig_expect(g, high, 0, 3);
    for (int i = 0; i < 2 && middle; i++)
        rig_expect(g, in[i], 1, (uint64_t)i);
    rig_end(g);
}

EACH(a_drain_into_a_full_middle_over_pins_is_not_waited_for) { /* P4 */
    no_way_down(g, kind, 1);
}

EACH(a_drain_past_an_empty_middle_to_pins_is_not_waited_for) {
    no_way_down(g, kind, 0);
}

EACH(a_drain_into_a_tier_that_never_gives_is_not_waited_for) {
    tnm_tensor high, late;
    tnm_pinned p;
    rig_tier(g, "fast", kind, rig_room(2, ONE));
    rig_tier(g, "middle", SIM_PLAIN, rig_room(4, ONE))->capacity = 1;
    rig_tier(g, "slow", SIM_PLAIN, 0);
    if (!rig_create(g)) return;
    high = rig_tensor(g, ONE, 0);
    late = rig_tensor(g, ONE, 0);
    rig_write(g, high, 0, 1);
    CHECK(rig_budget(g, 0, rig_room(1, ONE)) != TNM_OK);
    CHECK(rig_pin(g, late, 0, TNM_DISCARD, &p) < 0);
    rig_expect(g, high, 0, 1);
    rig_end(g);
}

EACH(a_drain_waits_for_a_bottom_that_is_compacted) { /* holes below make one large enough */
    tnm_tensor low[4], high, late;
    rig_tier(g, "fast", kind, rig_room(4, ONE));
    rig_tier(g, "slow", SIM_PLAIN, rig_room(4, ONE));
    if (!rig_create(g)) return;
    rig_make(g, low, 4, ONE, 1);
    CHECK_EQ(tnm_tensor_destroy(g->ctx, low[0]), TNM_OK);
    CHECK_EQ(tnm_tensor_destroy(g->ctx, low[2]), TNM_OK);
    high = rig_tensor(g, 2 * ONE, 0);
    late = rig_tensor(g, ONE, 0);
    rig_write(g, high, 0, 7);
    CHECK_EQ(rig_budget(g, 0, rig_room(1, ONE)), TNM_PENDING);
    rig_write(g, late, 0, 8);
    rig_expect(g, high, 1, 7);
    rig_expect(g, low[1], 1, 1);
    rig_expect(g, low[3], 1, 3);
    rig_end(g);
}

EACH(no_staging_no_way_out_no_waiting) { /* its tier may hold nothing any more: P4 */
    tnm_tensor cold, hot;
    tnm_pinned p;
    tnm_result r;
    rig_tier(g, "fast", kind | SIM_HIDDEN, rig_room(1, ONE));
    rig_tier(g, "middle", SIM_PLAIN, rig_room(8, ONE));
    rig_tier(g, "slow", SIM_HIDDEN | (kind & SIM_ASYNC), 0);
    g->desc.staging_tier = 1;
    if (!rig_create(g)) return;
    cold = rig_tensor(g, ONE, 0);
    hot = rig_tensor(g, ONE, 0);
    rig_write(g, cold, 2, 1);
    RIG_UNTIL(r, g, rig_budget(g, 1, 0));
    CHECK_EQ(r, TNM_OK);
    rig_write(g, hot, 0, 2);
    CHECK_EQ(rig_pin(g, cold, 0, TNM_READ, &p), TNM_ERR_BUDGET);
    CHECK(rig_budget(g, 1, rig_room(8, ONE)) >= 0);
    for (int i = 0; i < 600; i++)
        tnm_pump(g->ctx, TNM_ALL); /* the back-off ends */
    rig_expect(g, cold, 0, 1);
    rig_expect(g, hot, 0, 2);
    rig_end(g);
}

EACH(shrink_says_what_its_way_down_lacks) { /* the same, as a budget is told */
    tnm_tensor t;
    tnm_result r;
    rig_tier(g, "fast", kind | SIM_HIDDEN, rig_room(1, ONE));
    rig_tier(g, "middle", SIM_PLAIN, rig_room(8, ONE));
    rig_tier(g, "slow", SIM_HIDDEN | (kind & SIM_ASYNC), 0);
    g->desc.staging_tier = 1;
    if (!rig_create(g)) return;
    t = rig_tensor(g, ONE, 0);
    RIG_UNTIL(r, g, rig_budget(g, 1, 0));
    CHECK_EQ(r, TNM_OK);
    rig_write(g, t, 0, 2);
    RIG_UNTIL(r, g, rig_budget(g, 0, 0));
    CHECK_EQ(r, TNM_ERR_BUDGET); /* no room for staging; no backend refused anything */
    CHECK(rig_budget(g, 1, rig_room(8, ONE)) >= 0);
    for (int i = 0; i < 600 && r != TNM_OK; i++) {
        r = rig_budget(g, 0, 0);
        tnm_pump(g->ctx, TNM_ALL);
    }
    CHECK_EQ(r, TNM_OK);
    rig_expect(g, t, 2, 2);
    rig_end(g);
}

EACH(a_drain_waits_for_who_builds_below) { /* he is granted, or forgotten: that ends by itself */
    tnm_tensor high, low;
    tnm_use set[2];
    tnm_pinned p[2];
    tnm_result r;
    rig_pair(g, kind, rig_room(3, ONE));
    low = rig_tensor(g, ONE, 0);
    high = rig_tensor(g, ONE, 0);
    rig_write(g, low, 1, 1);
    rig_write(g, high, 0, 2);
    CHECK_EQ(rig_pin(g, low, 1, TNM_WRITE, p), TNM_OK);
    CHECK_EQ(rig_unpin(g, p, TNM_FENCE(0, g->sim.now[0] + 1)), TNM_OK);
    set[0] = rig_use(high, 1, TNM_DISCARD);
    set[1] = rig_use(low, 0, TNM_READ); /* waits for the fence, and its mate with it */
    CHECK_EQ(tnm_try_pin(g->ctx, set, 2, p), TNM_PENDING);
    CHECK_EQ(rig_budget(g, 0, 0), TNM_PENDING);
    CHECK(rig_budget(g, 0, rig_room(3, ONE)) >= 0);
    g->sim.now[0]++;
    RIG_UNTIL(r, g, tnm_try_pin(g->ctx, set, 2, p));
    CHECK_EQ(r, TNM_OK);
    sim_fill(sim_at(&g->sim, &p[0]), 9, 0, ONE);
    CHECK_EQ(tnm_unpin(g->ctx, p, 2, 0), TNM_OK);
    rig_expect(g, high, 0, 9);
    rig_expect(g, low, 0, 1);
    rig_end(g);
}

EACH(a_drain_yields_to_a_writer) { /* who would take back its write-back, and be kept by it: P6 */
    tnm_tensor t;
    rig_tier(g, "fast", kind, rig_room(2, ONE));
    rig_tier(g, "middle", SIM_PLAIN, rig_room(8, ONE));
    rig_tier(g, "slow", SIM_HIDDEN | SIM_ASYNC, 0);
    g->desc.staging_tier = 1;
    if (!rig_create(g)) return;
    rig_write(g, rig_tensor(g, ONE, 0), 2, 0);
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    tnm_set_budget(g->ctx, 0, 0);
    rig_write(g, t, 1, 2); /* the middle's memory is asked for first: the drain goes on meanwhile */
    rig_expect(g, t, 1, 2);
    rig_end(g);
}

/* Staging is charged to its tier, goes when that is to be empty, and comes back when needed. */
TEST(a_budget_of_nothing_takes_the_staging) {
    static rig g;
    tnm_tensor t[4];
    tnm_result r = TNM_PENDING;
    uint64_t budget = rig_room(2, ONE) + 64 * KIB;
    rig_start(&g, 1);
    rig_tier(&g, "fast", SIM_HIDDEN | SIM_ASYNC, rig_room(2, ONE));
    rig_tier(&g, "host", SIM_PLAIN, budget);
    rig_tier(&g, "disk", SIM_HIDDEN | SIM_ASYNC, 0);
    g.tiers[0].spill_to = 2;
    g.desc.staging_tier = 1;
    g.desc.staging_bytes = 32 * KIB;
    g.desc.chunk_bytes = 4 * KIB;
    CHECK(rig_create(&g));
    for (int round = 0; round < 2; round++) {
        if (round == 0) rig_make(&g, t, 4, ONE, 0);
        rig_expect_all(&g, t, 4, 0); /* by way of the host */
        CHECK(rig_stats(&g, 1).reserved_bytes > 0);
        g.sim.stuck = 1; /* a copy holds a part of it */
        tnm_use use = rig_use(t[round], 0, TNM_READ);
        tnm_pinned p;
        CHECK_EQ(tnm_try_pin(g.ctx, &use, 1, &p), TNM_PENDING);
        tnm_pump(g.ctx, TNM_ALL);
        CHECK_EQ(rig_budget(&g, 1, 0), TNM_PENDING);
        tnm_pump(g.ctx, TNM_ALL);
        CHECK_EQ(rig_budget(&g, 1, 0), TNM_PENDING);
        g.sim.stuck = 0;
        for (int i = 0; i < 300 && r == TNM_PENDING; i++) {
            tnm_pump(g.ctx, TNM_ALL);
            r = rig_budget(&g, 1, 0);
        }
        CHECK_EQ(r, TNM_OK);
        CHECK_EQ(rig_stats(&g, 1).reserved_bytes, 0);
        CHECK_EQ(tnm_check(g.ctx), 0);
        CHECK_EQ(rig_budget(&g, 1, budget), TNM_OK);
        r = TNM_PENDING;
    }
    rig_expect_all(&g, t, 4, 0);
    rig_end(&g);
}

int main(void) {
    RUN(a_budget_of_nothing_takes_the_staging);
    RUN(whole_budget_is_usable);
    RUN(segments_are_charged);
    RUN(larger_than_a_segment);
    RUN(larger_than_a_segment_by_frames);
    RUN(dedicated_segments);
    RUN(dedicated_set);
    RUN(dedicated_vacant_goes);
    RUN(dedicated_why);
    RUN(tails_are_charged);
    RUN(alignment_is_kept);
    RUN(staging_is_charged_to_its_tier);
    RUN(staging_without_a_name_on_a_backends_host);
    RUN(a_backend_that_says_it_is_seen_and_is_not);
    RUN(grow);
    RUN(shrink_drains_dirty_bytes);
    RUN(shrink_one_big_segment);
    RUN(shrink_to_zero_and_back);
    RUN(shrink_under_a_pin);
    RUN(nothing_grows_from_the_call_on);
    RUN(shrink_with_copies_in_flight);
    RUN(shrink_says_when_the_lower_tier_refuses);
    RUN(shrink_waits_for_fences);
    RUN(refusing_backend_is_made_do_with);
    RUN(available_is_asked);
    RUN(a_tier_that_never_gives);
    RUN(full_bottom_refuses_and_loses_nothing);
    RUN(one_tier_alone);
    RUN(droppable_gives_way_in_a_bottom);
    RUN(everything_is_given_back);
    RUN(default_backend_uses_our_allocator);
    RUN(a_drain_that_a_pin_below_holds_up_is_not_waited_for);
    RUN(no_staging_no_way_out_no_waiting);
    RUN(shrink_says_what_its_way_down_lacks);
    RUN(a_drain_waits_for_who_builds_below);
    RUN(a_drain_yields_to_a_writer);
    RUN(a_drain_into_a_full_middle_over_pins_is_not_waited_for);
    RUN(a_drain_past_an_empty_middle_to_pins_is_not_waited_for);
    RUN(a_drain_into_a_tier_that_never_gives_is_not_waited_for);
    RUN(a_drain_waits_for_a_bottom_that_is_compacted);
    return check_done();
}
