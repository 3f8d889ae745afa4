/* Failures and losses in odd moments: what test_fault has found, one by one. P1, P4, P5. */
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "sim.h"

enum { ONE = 1280 };

static uint8_t back[ONE];

static tnm_result wrote(rig *g, tnm_tensor t, uint64_t from, uint64_t bytes, uint64_t key) {
    static uint8_t what[ONE];
    sim_fill(what, key, from, bytes);
    return tnm_write(g->ctx, t, from, what, bytes);
}

/* The segment that is asked for tells that the device was away: what lay there is gone. */
TEST(alloc_may_say_that_the_memory_is_gone) {
    static rig g;
    tnm_tensor t[2];
    tnm_pinned at;
    rig_start(&g, 1);
    rig_tier(&g, "fast", SIM_HIDDEN, rig_room(4, ONE));
    rig_tier(&g, "slow", SIM_PLAIN, 0);
    g.tiers[0].segment_bytes = TNM_DEDICATED;
    CHECK(rig_create(&g));
    rig_make(&g, t, 1, ONE, 0);
    t[1] = rig_tensor(&g, ONE, 0);
    sim_lose(&g.sim.device[0]);
    CHECK(rig_pin(&g, t[1], 0, TNM_DISCARD, &at) < 0);
    g.sim.device[0].lost = 0;
    CHECK_EQ(tnm_read(g.ctx, t[0], 0, back, ONE), TNM_ERR_LOST);
    rig_pump(&g, 4); /* its back-off ends */
    rig_write(&g, t[0], 0, 7);
    rig_write(&g, t[1], 0, 8);
    rig_expect(&g, t[0], 0, 7);
    rig_end(&g);
}

static sim_device *dies; /* when its fence is asked for; and is back once it has said so */

static uint64_t dying_passed(void *user, uint32_t queue, uint64_t wait_for) {
    if (dies != NULL) sim_lose(dies);
    dies = NULL;
    return sim_passed(user, queue, wait_for);
}

static tnm_result told_poll(void *user, uint64_t ticket) {
    tnm_result r = sim_poll(user, ticket);
    if (r == TNM_ERR_LOST) ((sim_device *)user)->lost = 0;
    return r;
}

/* A tnm_read holds a replica whose memory goes before its bytes have begun to move. */
TEST(nothing_is_read_from_memory_that_is_gone) {
    static rig g;
    tnm_tensor t[2];
    tnm_pinned at;
    tnm_use u;
    rig_start(&g, 1);
    rig_tier(&g, "fast", SIM_HIDDEN | SIM_ASYNC, rig_room(2, ONE));
    rig_tier(&g, "host", SIM_PLAIN, 0);
    g.tiers[0].backend.poll = told_poll;
    g.desc.passed = dying_passed;
    g.sim.delay = 9;
    CHECK(rig_create(&g));
    rig_make(&g, t, 2, ONE, 1);
    CHECK_EQ(rig_pin(&g, t[0], 0, TNM_WRITE, &at), TNM_OK);
    CHECK_EQ(rig_unpin(&g, &at, TNM_FENCE(1, 1)), TNM_OK);
    u = rig_use(t[1], 0, TNM_READ);
    CHECK_EQ(tnm_prefetch(g.ctx, 0, &u, 1), TNM_OK);
    g.sim.stuck = 1;
    CHECK(tnm_pump(g.ctx, ONE) >= 0);
    g.sim.stuck = 0;
    memset(g.sim.holds, 0, sizeof g.sim.holds);
    dies = &g.sim.device[0];
    CHECK_EQ(tnm_read(g.ctx, t[0], 0, back, ONE), TNM_ERR_LOST);
    CHECK(dies == NULL);
    CHECK_EQ(tnm_read(g.ctx, t[0], 0, back, ONE), TNM_ERR_LOST);
    rig_expect(&g, t[1], 1, 1);
    CHECK_EQ(wrote(&g, t[0], 0, ONE, 5), TNM_OK);
    rig_expect(&g, t[0], 1, 5);
    rig_end(&g);
}

/* A pin keeps the record of a replica that is lost. What is dirty above it is written down
 * meanwhile, but not there: the record was taken for memory of its own. */
EACH(what_a_pin_keeps_of_a_loss_is_no_place) {
    tnm_tensor t, all = { 0 };
    tnm_pinned at;
    tnm_result r = TNM_PENDING;
    rig_tier(g, "fast", kind, rig_room(2, ONE));
    rig_tier(g, "far", SIM_PLAIN, rig_room(3, ONE));
    rig_tier(g, "host", SIM_PLAIN, 0);
    g->tiers[1].segment_bytes = TNM_DEDICATED;
    rig_create(g);
    rig_make(g, &t, 1, ONE, 1);
    rig_expect(g, t, 0, 0);
    CHECK_EQ(rig_pin(g, t, 1, TNM_READ, &at), TNM_OK);
    sim_lose(&g->sim.device[1]);
    memset(g->sim.holds, 0, sizeof g->sim.holds);
    {
        tnm_tensor other = rig_tensor(g, ONE, 0);
        tnm_pinned none;
        CHECK(rig_pin(g, other, 1, TNM_DISCARD, &none) < 0); /* its segment: LOST */
    }
    g->sim.device[1].lost = 0;
    CHECK_EQ(tnm_flush(g->ctx, t, 1), TNM_ERR_BUSY);
    rig_pump(g, 20);
    CHECK_EQ(tnm_check(g->ctx), 0);
    rig_expect(g, t, 0, 0);
    CHECK_EQ(tnm_unpin(g->ctx, &at, 1, 0), TNM_OK);
    RIG_UNTIL(r, g, tnm_flush(g->ctx, all, 1));
    CHECK_EQ(r, TNM_OK);
    rig_expect(g, t, 1, 0);
    rig_end(g);
}

EACH(what_is_current_elsewhere_is_read_from_there) {
    tnm_tensor t;
    rig_pair(g, kind | SIM_HIDDEN, rig_room(2, ONE));
    rig_make(g, &t, 1, ONE, 1);
    rig_expect(g, t, 0, 0);
    sim_break(&g->sim, SIM_COPY, 1, 1); /* the fast tier's, which is the nearer one */
    CHECK_EQ(tnm_read(g->ctx, t, 0, back, ONE), TNM_OK);
    CHECK(sim_same(back, 0, 0, ONE));
    CHECK(g->sim.fired > 0);
    g->sim.fault_at = 0;
    rig_expect(g, t, 0, 0);
    rig_end(g);
}

/* Room is made by writing down, and that takes records for which there may be no memory. Whichever
 * of them it is, no call waits for it: sim_idle would say so. */
EACH(room_that_no_memory_can_make_is_not_waited_for) {
    uint64_t fired = 1;
    for (uint64_t n = 1; fired > 0; n++) {
        tnm_tensor t[3];
        rig_start(g, n);
        rig_tier(g, "fast", kind, rig_room(2, ONE));
        rig_tier(g, "slow", SIM_PLAIN, 0);
        memset(&g->tiers[1].backend, 0, sizeof g->tiers[1].backend); /* the same allocator's */
        g->sim.device[1].world = NULL;
        g->tiers[0].segment_bytes = TNM_DEDICATED;
        g->desc.policy = TNM_POLICY_AUTO;
        rig_create(g);
        for (int i = 0; i < 3; i++)
            t[i] = rig_tensor(g, ONE, 0);
        sim_break(&g->sim, SIM_HOST_ALLOC, n, 1);
        for (int i = 0; i < 3; i++) {
            tnm_pinned at;
            if (rig_pin(g, t[i], 0, TNM_DISCARD, &at) == TNM_OK)
                CHECK_EQ(rig_unpin(g, &at, 0), TNM_OK);
        }
        fired = g->sim.fired;
        g->sim.fault_at = 0;
        rig_pump(g, 8);
        for (int i = 0; i < 3; i++)
            rig_write(g, t[i], 0, (uint64_t)i);
        rig_expect_all(g, t, 3, 1);
        rig_end(g);
    }
}

TEST(a_loss_is_told_as_a_loss) { /* to whoever waits for the bytes, not as "never written" */
    static rig g;
    tnm_tensor t[4];
    tnm_pinned at[3];
    tnm_use u[4];
    tnm_result r = TNM_PENDING;
    rig_start(&g, 1);
    rig_tier(&g, "fast", SIM_ASYNC, rig_room(3, ONE));
    rig_tier(&g, "slow", SIM_PLAIN, 0);
    g.tiers[1].segment_bytes = TNM_DEDICATED;
    CHECK(rig_create(&g));
    rig_make(&g, t, 3, ONE, 1);
    t[3] = rig_tensor(&g, ONE, 0);
    g.sim.stuck = 1; /* copies to the fast tier stay under way */
    for (int i = 0; i < 4; i++)
        u[i] = rig_use(t[i], i < 3 ? 0 : 1, i < 3 ? TNM_READ : TNM_DISCARD);
    CHECK_EQ(tnm_try_pin(g.ctx, u, 3, at), TNM_PENDING);
    CHECK(tnm_pump(g.ctx, TNM_ALL) >= 0);
    sim_lose(&g.sim.device[1]);
    CHECK_EQ(tnm_try_pin(g.ctx, &u[3], 1, at), TNM_PENDING);
    CHECK(tnm_pump(g.ctx, TNM_ALL) >= 0); /* its segment is refused: LOST */
    g.sim.stuck = 0;
    for (int i = 0; i < 200 && r == TNM_PENDING; i++) {
        r = tnm_try_pin(g.ctx, u, 3, at);
        if (r == TNM_PENDING) CHECK(tnm_pump(g.ctx, TNM_ALL) >= 0);
    }
    CHECK_EQ(r, TNM_ERR_LOST);
    g.sim.device[1].lost = 0;
    rig_end(&g);
}

EACH(flushing_all_ends_though_nothing_can_be_written) {
    tnm_tensor t[4], all = { 0 };
    tnm_result r = TNM_PENDING;
    rig_tier(g, "fast", kind | SIM_HIDDEN, rig_room(4, ONE));
    rig_tier(g, "slow", SIM_PLAIN, 0);
    rig_create(g);
    rig_make(g, t, 4, ONE, 0);
    sim_break(&g->sim, SIM_COPY, 1, 1);
    for (int i = 0; i < 400 && r == TNM_PENDING; i++) {
        r = tnm_flush(g->ctx, all, 1);
        if (r == TNM_PENDING) CHECK(tnm_pump(g->ctx, ONE) >= 0); /* they fail by turns */
    }
    CHECK_EQ(r, TNM_ERR_BACKEND);
    g->sim.fault_at = 0;
    RIG_UNTIL(r, g, tnm_flush(g->ctx, all, 1));
    if (r < 0) RIG_UNTIL(r, g, tnm_flush(g->ctx, all, 1)); /* what has failed since, once */
    CHECK_EQ(r, TNM_OK);
    rig_expect_all(g, t, 4, 1);
    rig_end(g);
}

TEST(a_first_write_that_is_lost_leaves_nothing) {
    static rig g;
    tnm_tensor t;
    rig_start(&g, 1);
    rig_tier(&g, "only", SIM_HIDDEN, rig_room(4, ONE));
    CHECK(rig_create(&g));
    rig_make(&g, &t, 1, ONE, 0); /* the tier has memory */
    CHECK_EQ(tnm_tensor_destroy(g.ctx, t), TNM_OK);
    t = rig_tensor(&g, ONE, 0);
    g.sim.device[0].lost = 1;
    CHECK_EQ(wrote(&g, t, 0, ONE, 3), TNM_ERR_LOST);
    g.sim.device[0].lost = 0;
    CHECK_EQ(tnm_read(g.ctx, t, 0, back, ONE), TNM_ERR_EMPTY);
    CHECK_EQ(wrote(&g, t, 0, ONE, 4), TNM_OK);
    rig_expect(&g, t, 0, 4);
    rig_end(&g);
}

/* The bounce buffer of a grain of 4 KiB is larger than the tier it would come from. Before, a pin
 * had a segment made and taken back for it, for ever. */
TEST(staging_that_never_fits_is_not_waited_for) {
    static rig g;
    tnm_tensor t[5];
    rig_start(&g, 1);
    rig_tier(&g, "fast", SIM_HIDDEN, rig_room(2, ONE));
    rig_tier(&g, "host", SIM_PLAIN, rig_room(4, ONE) + 16 * 1024);
    rig_tier(&g, "disk", SIM_PLAIN | SIM_HIDDEN, 0);
    g.tiers[1].segment_bytes = 16 * 1024;
    g.tiers[2].backend.granularity = g.sim.device[2].granularity = 4096;
    g.desc.staging_tier = 1;
    CHECK(rig_create(&g));
    rig_make(&g, t, 5, ONE, 0);
    rig_expect_all(&g, t, 5, 0);
    rig_end(&g);
}

int main(void) {
    RUN(alloc_may_say_that_the_memory_is_gone);
    RUN(nothing_is_read_from_memory_that_is_gone);
    RUN(what_a_pin_keeps_of_a_loss_is_no_place);
    RUN(what_is_current_elsewhere_is_read_from_there);
    RUN(room_that_no_memory_can_make_is_not_waited_for);
    RUN(a_loss_is_told_as_a_loss);
    RUN(flushing_all_ends_though_nothing_can_be_written);
    RUN(a_first_write_that_is_lost_leaves_nothing);
    RUN(staging_that_never_fits_is_not_waited_for);
    return check_done();
}
