/* needs: tensormem.o */
/* tnm_read, tnm_write, tnm_evict, tnm_flush and SCRUB from outside; routes and staging. P1, P5. */
#include "tensormem.h"
#include "sim.h"

enum { KIB = 1024, ONE = 8 * KIB };

static uint8_t what[4 * ONE], back[4 * ONE];

static tnm_result put(rig *g, tnm_tensor t, uint64_t from, uint64_t bytes, uint64_t key) {
    sim_fill(what, key, from, bytes);
    return tnm_write(g->ctx, t, from, what, bytes);
}

static void shows(rig *g, tnm_tensor t, uint64_t from, uint64_t bytes, uint64_t key) {
    memset(back, 0x11, sizeof back);
    CHECK_EQ(tnm_read(g->ctx, t, from, back, bytes), TNM_OK);
    CHECK(sim_same(back, key, from, bytes));
    CHECK(sim_all(back + bytes, 0x11, 16)); /* and not a byte more */
}

EACH(write_then_read) {
    tnm_tensor t[5];
    rig_pair(g, kind, rig_room(2, ONE));
    for (int i = 0; i < 5; i++) {
        t[i] = rig_tensor(g, ONE - (uint64_t)i, 0);
        CHECK_EQ(put(g, t[i], 0, ONE - (uint64_t)i, (uint64_t)i), TNM_OK);
    }
    for (int i = 0; i < 5; i++) {
        shows(g, t[i], 0, ONE - (uint64_t)i, (uint64_t)i);
        shows(g, t[i], 4095, 2, (uint64_t)i);
        shows(g, t[i], ONE - 5, 1, (uint64_t)i);
        rig_expect(g, t[i], i & 1, (uint64_t)i);
    }
    rig_end(g);
}

EACH(write_over_what_is_there) {
    tnm_tensor t;
    rig_pair(g, kind, rig_room(2, ONE));
    for (int tier = 0; tier < 2; tier++) {
        t = rig_tensor(g, ONE, 0);
        rig_write(g, t, tier, 1);
        CHECK_EQ(put(g, t, 1000, 5000, 2), TNM_OK);
        shows(g, t, 0, 1000, 1);
        shows(g, t, 1000, 5000, 2);
        shows(g, t, 6000, ONE - 6000, 1);
        CHECK_EQ(put(g, t, 0, ONE, 3), TNM_OK);
        rig_expect(g, t, 0, 3);
        rig_expect(g, t, 1, 3);
    }
    rig_end(g);
}

EACH(a_whole_write_fetches_nothing) { /* not even from where the CPU sees nothing */
    tnm_tensor t;
    uint64_t copies;
    rig_pair(g, kind | SIM_HIDDEN, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, rig_tensor(g, ONE, 0), 1, 0); /* the slow tier has memory, which is seen */
    rig_write(g, t, 0, 1);
    copies = g->sim.calls[SIM_COPY];
    CHECK_EQ(put(g, t, 0, ONE, 2), TNM_OK);
    CHECK_EQ(g->sim.calls[SIM_COPY], copies);
    rig_expect(g, t, 1, 2);
    rig_expect(g, t, 0, 2);
    rig_end(g);
}

EACH(part_of_nothing_is_zero_filled) {
    tnm_tensor dirt, t;
    rig_pair(g, kind, rig_room(1, ONE));
    dirt = rig_tensor(g, ONE, 0);
    rig_write(g, dirt, 0, 9); /* so that the place is not clean by chance */
    t = rig_tensor(g, ONE, 0);
    CHECK_EQ(put(g, t, 100, 10, 1), TNM_OK);
    CHECK_EQ(tnm_read(g->ctx, t, 0, back, ONE), TNM_OK);
    CHECK(sim_all(back, 0, 100));
    CHECK(sim_same(back + 100, 1, 100, 10));
    CHECK(sim_all(back + 110, 0, ONE - 110));
    rig_expect(g, dirt, 0, 9);
    rig_end(g);
}

EACH(part_of_nothing_through_a_view) {
    tnm_tensor t, v;
    rig_pair(g, kind, rig_room(1, ONE));
    t = rig_tensor(g, ONE, 0);
    v = rig_view(g, t, 1024, 512);
    CHECK_EQ(put(g, v, 0, 512, 1), TNM_OK);
    CHECK_EQ(tnm_read(g->ctx, t, 0, back, ONE), TNM_OK);
    CHECK(sim_all(back, 0, 1024));
    CHECK(sim_same(back + 1024, 1, 0, 512));
    CHECK(sim_all(back + 1536, 0, ONE - 1536));
    shows(g, v, 3, 500, 1);
    rig_end(g);
}

EACH(ranges_are_checked) {
    tnm_tensor t;
    rig_pair(g, kind, rig_room(1, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    CHECK_EQ(tnm_read(g->ctx, t, 1, back, ONE), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_read(g->ctx, t, UINT64_MAX, back, 2), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_read(g->ctx, t, 2, back, UINT64_MAX), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_write(g->ctx, t, ONE, what, 1), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_write(g->ctx, t, UINT64_MAX - 1, what, 4), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_read(g->ctx, t, 0, NULL, 1), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_write(g->ctx, t, 0, NULL, 1), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_read(NULL, t, 0, back, 1), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_read(g->ctx, t, 5, back, 0), TNM_OK); /* nothing is a range too */
    CHECK_EQ(tnm_write(g->ctx, t, 5, what, 0), TNM_OK);
    rig_expect(g, t, 1, 1);
    rig_end(g);
}

EACH(read_needs_no_room) { /* every place of the fast tier is pinned */
    tnm_tensor wall, t;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(1, ONE));
    wall = rig_tensor(g, ONE, 0);
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 1, 2);
    CHECK_EQ(rig_pin(g, wall, 0, TNM_DISCARD, &p), TNM_OK);
    shows(g, t, 10, 1000, 2);
    CHECK_EQ(put(g, t, 0, ONE, 3), TNM_OK);
    shows(g, t, 0, ONE, 3);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_end(g);
}

EACH(write_is_busy_beside_pins) {
    tnm_tensor t;
    tnm_pinned p;
    int seen = !(kind & SIM_HIDDEN); /* in place; what is hidden is written on another tier */
    rig_pair(g, kind, rig_room(1, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &p), TNM_OK);
    CHECK_EQ(put(g, t, 0, 100, 2), seen ? TNM_OK : TNM_ERR_BUSY);
    CHECK(sim_same(sim_at(&g->sim, &p), seen ? 2 : 1, 0, 100));
    CHECK(sim_same(sim_at(&g->sim, &p) + 100, 1, 100, ONE - 100));
    shows(g, t, 0, 100, seen ? 2 : 1);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_end(g);
}

EACH(evict_and_flush) {
    tnm_tensor t, all = { 0 };
    tnm_result r;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    CHECK_EQ(tnm_flush(g->ctx, t, 1), TNM_OK); /* there is nothing to bring down */
    rig_write(g, t, 0, 1);
    CHECK_EQ(tnm_flush(g->ctx, t, 0), TNM_OK); /* tier 0 or slower: it is there */
    CHECK_EQ(tnm_flush(g->ctx, t, 1), TNM_PENDING);
    RIG_UNTIL(r, g, tnm_flush(g->ctx, t, 1));
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(rig_state(g, t, 0), TNM_STATE_READY); /* a flush takes nothing away */
    CHECK_EQ(rig_state(g, t, 1), TNM_STATE_READY);
    RIG_UNTIL(r, g, tnm_evict(g->ctx, t, 0));
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(rig_state(g, t, 0), TNM_STATE_ABSENT);
    CHECK_EQ(tnm_evict(g->ctx, t, 0), TNM_OK); /* it has left already */
    CHECK(rig_stats(g, 0).evictions >= 1);
    rig_write(g, t, 0, 2);
    RIG_UNTIL(r, g, tnm_evict(g->ctx, t, 0)); /* dirty: written down first */
    CHECK_EQ(r, TNM_OK);
    rig_expect(g, t, 1, 2);
    rig_write(g, t, 0, 3);
    RIG_UNTIL(r, g, tnm_flush(g->ctx, all, 1));
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(rig_stats(g, 0).dirty_bytes, 0);
    rig_expect(g, t, 1, 3);
    rig_end(g);
}

EACH(a_flush_of_all_finds_what_only_a_view_names) {
    tnm_tensor whole, part, all = { 0 };
    tnm_tensor_desc desc;
    tnm_result r;
    rig_pair(g, kind, rig_room(2, ONE));
    whole = rig_tensor(g, ONE, 0);
    rig_write(g, whole, 0, 1);
    memset(&desc, 0, sizeof desc);
    desc.bytes = ONE;
    CHECK_EQ(tnm_tensor_view(g->ctx, whole, 0, &desc, &part), TNM_OK);
    CHECK_EQ(tnm_tensor_destroy(g->ctx, whole), TNM_OK);
    RIG_UNTIL(r, g, tnm_flush(g->ctx, all, 1));
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(rig_stats(g, 0).dirty_bytes, 0);
    CHECK_EQ(rig_state(g, part, 1), TNM_STATE_READY);
    rig_end(g);
}

EACH(evict_and_flush_run_no_callback) {
    tnm_tensor t;
    uint64_t copies;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    copies = g->sim.calls[SIM_COPY] + g->sim.calls[SIM_ALLOC] + g->sim.calls[SIM_POLL];
    CHECK_EQ(tnm_flush(g->ctx, t, 1), TNM_PENDING);
    CHECK_EQ(tnm_evict(g->ctx, t, 0), TNM_PENDING);
    CHECK_EQ(g->sim.calls[SIM_COPY] + g->sim.calls[SIM_ALLOC] + g->sim.calls[SIM_POLL], copies);
    rig_end(g);
}

EACH(flush_is_busy_under_a_writer) {
    tnm_tensor t;
    tnm_pinned p;
    tnm_result r;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    CHECK_EQ(rig_pin(g, t, 0, TNM_WRITE, &p), TNM_OK);
    RIG_UNTIL(r, g, tnm_flush(g->ctx, t, 1));
    CHECK_EQ(r, TNM_ERR_BUSY); /* what live pins forbid is refused at once */
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    RIG_UNTIL(r, g, tnm_flush(g->ctx, t, 1));
    CHECK_EQ(r, TNM_OK);
    rig_end(g);
}

EACH(readers_let_a_flush_through) {
    tnm_tensor t;
    tnm_pinned p;
    tnm_result r;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &p), TNM_OK);
    RIG_UNTIL(r, g, tnm_flush(g->ctx, t, 1));
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_end(g);
}

EACH(no_route_at_all) { /* hidden on both sides and no staging tier */
    tnm_tensor t;
    tnm_pinned p;
    rig_tier(g, "device", kind | SIM_HIDDEN, rig_room(2, ONE));
    rig_tier(g, "disk", SIM_HIDDEN, 0);
    if (tnm_create(&g->desc, &g->ctx) != TNM_OK) { /* it may say so at once */
        rig_close_sim(g);
        return;
    }
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    CHECK_EQ(rig_pin(g, t, 1, TNM_READ, &p), TNM_ERR_UNSUPPORTED);
    rig_expect(g, t, 0, 1);
    rig_end(g);
}

EACH(through_staging) {
    tnm_tensor t[6];
    rig_tier(g, "device", kind | SIM_HIDDEN, rig_room(2, ONE));
    rig_tier(g, "host", SIM_PLAIN, rig_room(1, ONE) + 48 * KIB);
    g->tiers[1].segment_bytes = 16 * KIB;
    rig_tier(g, "disk", SIM_HIDDEN | (kind & SIM_ASYNC), 0);
    g->tiers[0].spill_to = 2; /* straight to the disk, by way of staging */
    g->desc.staging_tier = 1;
    rig_create(g);
    for (int i = 0; i < 6; i++) {
        t[i] = rig_tensor(g, ONE - (uint64_t)i * 321, 0);
        rig_write(g, t[i], 0, (uint64_t)i);
    }
    for (int i = 0; i < 12; i++)
        rig_expect(g, t[i % 6], i < 6 ? 0 : 2, (uint64_t)(i % 6));
    rig_end(g);
}

EACH(a_full_queue_is_not_a_failure) {
    tnm_tensor t[4];
    rig_pair(g, kind, rig_room(2, ONE));
    g->sim.busy = 200;
    rig_make(g, t, 4, ONE, 0);
    for (int i = 0; i < 8; i++)
        rig_expect(g, t[i % 4], 0, (uint64_t)(i % 4));
    CHECK_EQ(rig_stats(g, 0).failures + rig_stats(g, 1).failures, 0);
    rig_end(g);
}

EACH(shared_and_recycled_tickets) {
    tnm_tensor t[6];
    g->sim.share = 4;
    g->sim.recycle = 1;
    g->sim.delay = 9;
    rig_pair(g, kind, rig_room(3, ONE));
    rig_make(g, t, 6, ONE, 0);
    for (int i = 0; i < 12; i++)
        rig_expect(g, t[i % 6], 0, (uint64_t)(i % 6));
    rig_end(g);
}

EACH(a_failing_write_leaves_the_bytes) { /* a failed call changes nothing */
    tnm_tensor t;
    for (int tier = 0; tier < 2; tier++) {
        for (uint64_t n = 1; n < 4; n++) {
            tnm_result r;
            rig_start(g, n);
            rig_pair(g, kind, rig_room(1, ONE));
            t = rig_tensor(g, ONE, 0);
            rig_write(g, t, tier, 1);
            sim_break(&g->sim, SIM_COPY, n, 0);
            r = put(g, t, 0, ONE, 2);
            CHECK(r == TNM_OK || r == TNM_ERR_BACKEND);
            CHECK(r == TNM_OK || g->sim.fired > 0);
            g->sim.fault_at = 0;
            shows(g, t, 0, ONE, r == TNM_OK ? 2 : 1);
            rig_expect(g, t, 1, r == TNM_OK ? 2 : 1);
            rig_end(g);
        }
    }
}

/* the same where the tier below already has a record of the content: a write-back under way, or
 * adopted memory whose bytes are not current */
static tnm_tensor half_there(rig *g, int adopted) {
    sim_device *d = &g->sim.device[1];
    tnm_adopt_desc a;
    tnm_tensor t;
    if (!adopted) {
        t = rig_tensor(g, ONE, 0);
        rig_write(g, t, 0, 1);
        CHECK_EQ(tnm_flush(g->ctx, t, 1), TNM_PENDING);
        return t;
    }
    a = sim_lent(d, sim_lend(d, ONE), 0);
    a.writable = 1;
    t = rig_adopt(g, &a, ONE);
    rig_write(g, t, 0, 1);
    return t;
}

EACH(a_failing_write_leaves_the_bytes_beside_a_half_copy) {
    for (int adopted = 0; adopted < 2; adopted++) {
        for (uint64_t n = 1; n < 6; n++) {
            tnm_tensor t, other;
            tnm_result r;
            rig_start(g, n);
            rig_pair(g, kind, rig_room(1, ONE));
            other = rig_tensor(g, 64, 0);
            rig_write(g, other, 1, 5); /* the CPU is known to see the lower tier */
            t = half_there(g, adopted);
            sim_break(&g->sim, SIM_COPY, n, 0);
            r = put(g, t, 0, ONE, 2);
            CHECK(r == TNM_OK || r == TNM_ERR_BACKEND);
            g->sim.fault_at = 0;
            shows(g, t, 0, ONE, r == TNM_OK ? 2 : 1);
            rig_end(g);
        }
    }
}

EACH(a_failing_read_is_told_and_harmless) {
    tnm_tensor t;
    if ((kind & SIM_HIDDEN) == 0) return; /* plain memory is read without a callback */
    rig_pair(g, kind, rig_room(1, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    sim_break(&g->sim, SIM_COPY, 1, 1);
    CHECK_EQ(tnm_read(g->ctx, t, 0, back, ONE), TNM_ERR_BACKEND);
    g->sim.fault_at = 0;
    shows(g, t, 0, ONE, 1);
    rig_end(g);
}

/* Of two current replicas the one that costs less to read is read, wherever it lies. */
TEST(a_read_takes_the_cheapest) {
    static rig g;
    static uint8_t bytes[ONE];
    tnm_result r;
    rig_start(&g, 1);
    rig_tier(&g, "far", SIM_PLAIN, 0);
    rig_tier(&g, "near", SIM_PLAIN, 0);
    g.tiers[0].read_cost = 50;
    g.tiers[1].read_cost = 1;
    CHECK(rig_create(&g));
    tnm_tensor t = rig_tensor(&g, ONE, 0);
    rig_write(&g, t, 0, 3);
    RIG_UNTIL(r, &g, tnm_flush(g.ctx, t, 1));
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(tnm_read(g.ctx, t, 0, bytes, ONE), TNM_OK);
    CHECK(sim_same(bytes, 3, 0, ONE));
    CHECK_EQ(rig_info(&g, t, 0).state, TNM_STATE_READY);
    rig_end(&g);
}

int main(void) {
    RUN(a_read_takes_the_cheapest);
    RUN(write_then_read);
    RUN(write_over_what_is_there);
    RUN(a_whole_write_fetches_nothing);
    RUN(part_of_nothing_is_zero_filled);
    RUN(part_of_nothing_through_a_view);
    RUN(ranges_are_checked);
    RUN(read_needs_no_room);
    RUN(write_is_busy_beside_pins);
    RUN(evict_and_flush);
    RUN(a_flush_of_all_finds_what_only_a_view_names);
    RUN(evict_and_flush_run_no_callback);
    RUN(flush_is_busy_under_a_writer);
    RUN(readers_let_a_flush_through);
    RUN(no_route_at_all);
    RUN(through_staging);
    RUN(a_full_queue_is_not_a_failure);
    RUN(shared_and_recycled_tickets);
    RUN(a_failing_write_leaves_the_bytes);
    RUN(a_failing_write_leaves_the_bytes_beside_a_half_copy);
    RUN(a_failing_read_is_told_and_harmless);
    return check_done();
}
