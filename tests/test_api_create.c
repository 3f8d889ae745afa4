/* needs: tensormem.o */
/* tnm_create and tnm_destroy from outside: descriptors, defaults, refusals, several contexts side
 * by side, destroying with work under way, and an idle that gives up. P4, P10. */
#include "tensormem.h"
#include "sim.h"

enum { KIB = 1024, ONE = 8 * KIB };

/* a valid rig of two tiers, not created yet */
static rig *two(rig *g) {
    rig_start(g, 1);
    rig_tier(g, "fast", SIM_PLAIN, 8 * ONE);
    rig_tier(g, "slow", SIM_PLAIN, 0);
    return g;
}

static void refused(rig *g) {
    g->ctx = (tnm_ctx *)&g->desc; /* must be overwritten */
    CHECK_EQ(tnm_create(&g->desc, &g->ctx), TNM_ERR_ARGUMENT);
    CHECK(g->ctx == NULL);
    CHECK(g->sim.logs[TNM_LOG_ERROR] > 0);
    CHECK_EQ(g->sim.calls[SIM_ALLOC], 0);
    CHECK_EQ(g->sim.calls[SIM_COPY], 0);
    rig_close_sim(g);
}

static void works(rig *g) {
    tnm_tensor t;
    if (!rig_create(g)) return;
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    rig_expect(g, t, g->desc.tier_count - 1, 1);
    rig_expect(g, t, 0, 1);
    rig_end(g);
}

static void *some_alloc(void *user, size_t size) {
    return check_alloc(user, size);
}

static void some_release(void *user, void *ptr, size_t size) {
    check_release(user, ptr, size);
}

static void some_lock(void *user) {
    (void)user;
}

static tnm_result some_poll(void *user, uint64_t ticket) {
    (void)user;
    (void)ticket;
    return TNM_OK;
}

static uint64_t some_room(void *user) {
    (void)user;
    return TNM_ALL;
}

TEST(bad_descriptors) {
    static rig g;
    two(&g)->desc.tiers = NULL;
    refused(&g);
    two(&g)->desc.tier_count = 0;
    refused(&g);
    two(&g)->desc.tier_count = -1;
    refused(&g);
    two(&g)->desc.tier_count = TNM_MAX_TIERS + 1;
    refused(&g);
    two(&g)->desc.release = NULL; /* alloc and release: both or none */
    refused(&g);
    two(&g)->desc.alloc = NULL;
    refused(&g);
    two(&g)->desc.lock = some_lock;
    refused(&g);
    two(&g)->desc.unlock = some_lock;
    refused(&g);
    two(&g)->desc.tag = 256;
    refused(&g);
    two(&g)->desc.policy = (tnm_policy)9;
    refused(&g);
    two(&g)->desc.policy = (tnm_policy)-1;
    refused(&g);
    two(&g)->desc.max_tensors = UINT32_MAX;
    refused(&g);
    two(&g)->desc.pump_thread = 1; /* this is built without threads */
    refused(&g);
    two(&g)->desc.tag = 256; /* nobody listens: it is printed */
    g.desc.log = NULL;
    CHECK_EQ(tnm_create(&g.desc, &g.ctx), TNM_ERR_ARGUMENT);
    rig_close_sim(&g);
    two(&g)->desc.staging_tier = 2;
    refused(&g);
    two(&g)->desc.staging_tier = -1;
    refused(&g);
}

TEST(bad_tiers) {
    static rig g;
    two(&g)->tiers[0].alignment = 100;
    refused(&g);
    two(&g)->tiers[0].spill_to = 7;
    refused(&g);
    two(&g)->tiers[1].spill_to = 1; /* to itself; a tree has no circles */
    refused(&g);
    two(&g)->tiers[0].spill_to = -2;
    refused(&g);
    two(&g)->tiers[0].backend.copy = NULL; /* half a backend */
    refused(&g);
    two(&g)->tiers[0].backend.alloc = NULL;
    refused(&g);
    two(&g)->tiers[0].backend.release = NULL;
    refused(&g);
    two(&g)->tiers[0].backend.granularity = 48;
    refused(&g);
    two(&g)->tiers[0].backend.granularity = 4096;
    works(&g);
    for (int only = 0; only < 4; only++) { /* callbacks beside nothing */
        tnm_backend all = two(&g)->tiers[0].backend, *b = &g.tiers[0].backend;
        memset(b, 0, sizeof *b);
        if (only == 0) b->poll = all.poll ? all.poll : some_poll;
        if (only == 1) b->wait = some_poll;
        if (only == 2) b->submit = some_lock;
        if (only == 3) b->available = some_room;
        refused(&g);
    }
}

TEST(shapes_of_descriptors_that_work) {
    static rig g;
    works(two(&g));
    two(&g)->tiers[0].spill_to = 1;
    works(&g);
    two(&g)->tiers[1].spill_to = TNM_NOWHERE;
    works(&g);
    two(&g)->tiers[0].alignment = 1;
    works(&g);
    two(&g)->tiers[0].alignment = 4096;
    works(&g);
    two(&g)->desc.chunk_bytes = 1;
    works(&g);
    two(&g)->desc.chunk_bytes = UINT64_MAX;
    works(&g);
    two(&g)->tiers[0].queue_depth = 1;
    g.sim.device[0].depth = 1;
    works(&g);
    two(&g)->desc.max_tensors = 4;
    works(&g);
    two(&g)->desc.tag = 255;
    works(&g);
    two(&g)->desc.log = NULL;
    works(&g);
    two(&g)->desc.idle = NULL;
    works(&g);
    two(&g)->desc.passed = NULL;
    works(&g);
    two(&g)->tiers[0].name = NULL;
    works(&g);
    two(&g)->tiers[1].read_cost = 3;
    g.tiers[1].write_cost = 5;
    works(&g);
    two(&g)->desc.max_tensors = 4;
    g.desc.max_replicas = 5;
    g.tiers[0].segment_bytes = TNM_DEDICATED;
    works(&g);
    two(&g)->tiers[0].budget_bytes = (uint64_t)1 << 50; /* granules are as large as they must be */
    g.tiers[0].alignment = 8;
    g.tiers[0].segment_bytes = 64 * KIB;
    g.sim.device[0].limit = (uint64_t)1 << 50;
    works(&g);
    two(&g)->desc.max_tensors = 4; /* on the context's allocator, and yet not at create */
    memset(&g.tiers[0].backend, 0, sizeof g.tiers[0].backend);
    g.tiers[0].segment_bytes = TNM_DEDICATED;
    works(&g);
    rig_start(&g, 1); /* copies that take their time, and no idle to wait in */
    rig_tier(&g, "fast", SIM_HIDDEN | SIM_ASYNC, 8 * ONE);
    rig_tier(&g, "slow", SIM_PLAIN | SIM_ASYNC, 0);
    g.sim.delay = 3;
    g.desc.idle = NULL;
    works(&g);
}

TEST(one_tier_is_enough) {
    static rig g;
    rig_start(&g, 1);
    rig_tier(&g, "only", SIM_PLAIN, 0);
    works(&g);
}

TEST(many_tiers) {
    static rig g;
    tnm_tensor t;
    rig_start(&g, 1);
    for (int i = 0; i < SIM_DEVICES - 1; i++)
        rig_tier(&g, "level", SIM_PLAIN, 3 * ONE);
    rig_tier(&g, "bottom", SIM_PLAIN, 0);
    if (!rig_create(&g)) return;
    t = rig_tensor(&g, ONE, 0);
    rig_write(&g, t, 0, 1);
    for (int i = SIM_DEVICES - 1; i >= 0; i--)
        rig_expect(&g, t, i, 1);
    rig_end(&g);
}

TEST(the_most_tiers_there_can_be) {
    static tnm_tier_desc tiers[TNM_MAX_TIERS];
    tnm_desc d;
    tnm_ctx *ctx;
    tnm_tensor t;
    tnm_tensor_desc td;
    uint8_t back[16] = { 0 };
    memset(&d, 0, sizeof d);
    memset(&td, 0, sizeof td);
    d.tiers = tiers;
    d.tier_count = TNM_MAX_TIERS;
    d.alloc = some_alloc;
    d.release = some_release;
    td.bytes = 16;
    CHECK_EQ(tnm_create(&d, &ctx), TNM_OK);
    CHECK_EQ(tnm_tensor_create(ctx, &td, &t), TNM_OK);
    for (int i = 0; i < TNM_MAX_TIERS; i++) {
        tnm_use u = rig_use(t, i, i == 0 ? TNM_DISCARD : TNM_WRITE);
        tnm_pinned p;
        CHECK_EQ(tnm_pin(ctx, &u, 1, &p), TNM_OK);
        if (p.host == NULL) break;
        memset(p.host, i, 16);
        CHECK_EQ(tnm_unpin(ctx, &p, 1, 0), TNM_OK);
    }
    CHECK_EQ(tnm_read(ctx, t, 0, back, 16), TNM_OK);
    CHECK(sim_all(back, TNM_MAX_TIERS - 1, 16));
    CHECK_EQ(tnm_check(ctx), 0);
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
}

TEST(descriptor_is_copied) {
    static rig g;
    tnm_tensor t;
    two(&g);
    if (!rig_create(&g)) return;
    memset(&g.tiers, 0xFF, sizeof g.tiers);
    t = rig_tensor(&g, ONE, 0);
    rig_write(&g, t, 0, 1);
    rig_expect(&g, t, 1, 1);
    rig_end(&g);
}

TEST(fixed_tables_allocate_nothing_after_create) { /* max_tensors != 0 */
    static rig g;
    tnm_tensor t[8];
    tnm_tensor_desc d;
    tnm_tensor extra;
    tnm_use u[8];
    tnm_pinned p;
    long long asked;
    two(&g);
    g.desc.max_tensors = 8;
    if (!rig_create(&g)) return;
    asked = check_alloc_count();
    for (int i = 0; i < 8; i++) {
        t[i] = rig_tensor(&g, ONE, 0);
        rig_write(&g, t[i], i & 1, (uint64_t)i);
        u[i] = rig_use(t[i], 0, TNM_READ);
        u[i].step = (uint64_t)i;
    }
    CHECK_EQ(tnm_schedule(g.ctx, 0, u, 8, 8), TNM_OK);
    for (uint64_t s = 0; s < 24; s++) {
        CHECK_EQ(tnm_step(g.ctx, 0, s), TNM_OK);
        tnm_pump(g.ctx, TNM_ALL);
        rig_expect(&g, t[s % 8], 0, s % 8);
        CHECK_EQ(rig_pin(&g, t[s % 8], 0, TNM_READ, &p), TNM_OK);
        CHECK_EQ(rig_unpin(&g, &p, TNM_FENCE(s & 1, s + 1)), TNM_OK);
    }
    g.sim.now[0] = g.sim.now[1] = 24;
    memset(&d, 0, sizeof d);
    d.bytes = 8;
    CHECK_EQ(tnm_tensor_create(g.ctx, &d, &extra), TNM_ERR_CAPACITY);
    CHECK_EQ(extra.id, 0);
    CHECK_EQ(tnm_tensor_destroy(g.ctx, t[3]), TNM_OK);
    rig_rest(&g);
    CHECK_EQ(tnm_tensor_create(g.ctx, &d, &extra), TNM_OK);
    CHECK_EQ(check_alloc_count(), asked);
    rig_end(&g);
}

TEST(contexts_side_by_side) { /* P10 */
    static rig g[3];
    tnm_tensor t[3][4];
    for (int c = 0; c < 3; c++) {
        rig_start(&g[c], (uint64_t)c);
        g[c].desc.tag = (uint32_t)c + 1;
        rig_pair(&g[c], c == 1 ? SIM_HIDDEN | SIM_ASYNC : SIM_ASYNC, rig_room(2, ONE));
    }
    for (int i = 0; i < 4; i++)
        for (int c = 0; c < 3; c++) {
            t[c][i] = rig_tensor(&g[c], ONE, 0);
            rig_write(&g[c], t[c][i], 0, (uint64_t)(c * 10 + i));
        }
    for (int i = 0; i < 8; i++)
        for (int c = 0; c < 3; c++)
            rig_expect(&g[c], t[c][i % 4], i & 1, (uint64_t)(c * 10 + i % 4));
    rig_end(&g[1]);
    rig_expect(&g[0], t[0][0], 0, 0);
    rig_expect(&g[2], t[2][0], 0, 20);
    rig_end(&g[0]);
    rig_end(&g[2]);
}

EACH(destroy_with_copies_in_flight) {
    tnm_tensor t[4];
    tnm_pinned p;
    rig_pair(g, kind, rig_room(2, ONE));
    rig_make(g, t, 4, ONE, 0);
    CHECK_EQ(rig_try(g, t[0], 0, TNM_READ, &p), TNM_PENDING);
    tnm_pump(g->ctx, 2 * KIB);
    CHECK(tnm_evict(g->ctx, t[3], 0) >= 0);
    tnm_pump(g->ctx, 2 * KIB);
    rig_end(g);
}

EACH(destroy_waits_for_fences) {
    tnm_tensor t;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &p), TNM_OK);
    CHECK_EQ(rig_unpin(g, &p, TNM_FENCE(3, 9)), TNM_OK);
    rig_end(g); /* the device checks that held memory is not given back before */
    CHECK(g->sim.told[3] >= 9);
}

EACH(destroy_is_busy_while_pinned) {
    tnm_tensor t;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    CHECK_EQ(rig_pin(g, t, 0, TNM_WRITE, &p), TNM_OK);
    CHECK_EQ(tnm_destroy(g->ctx), TNM_ERR_BUSY);
    sim_fill(sim_at(&g->sim, &p), 2, 0, ONE);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_expect(g, t, 1, 2);
    rig_end(g);
}

EACH(idle_ends_a_destroy_that_hangs) {
    tnm_tensor t;
    tnm_pinned p;
    if ((kind & SIM_ASYNC) == 0) return;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 1, 1);
    CHECK_EQ(rig_try(g, t, 0, TNM_READ, &p), TNM_PENDING);
    g->sim.stuck = 1;
    tnm_pump(g->ctx, TNM_ALL);
    g->sim.idle_limit = 10;
    CHECK_EQ(tnm_destroy(g->ctx), TNM_PENDING);
    CHECK_EQ(tnm_check(g->ctx), 0);
    g->sim.stuck = 0;
    CHECK_EQ(tnm_destroy(g->ctx), TNM_OK);
    rig_close_sim(g);
}

/* A destroy that gave up leaves a context that works, and that is BUSY while a pin is held. */
EACH(a_context_outlives_a_destroy_that_gave_up) {
    tnm_tensor t, u;
    tnm_use use;
    tnm_pinned p;
    rig_tier(g, "fast", kind | SIM_ASYNC, rig_room(3, ONE));
    rig_tier(g, "slow", SIM_PLAIN | SIM_ASYNC, 0);
    CHECK(rig_create(g));
    t = rig_tensor(g, ONE, 0);
    u = rig_tensor(g, ONE, 0);
    rig_write(g, t, 1, 1);
    rig_write(g, u, 0, 2);
    g->sim.stuck = 1;
    g->sim.idle_limit = 20;
    use = rig_use(t, 0, TNM_READ);
    CHECK_EQ(tnm_try_pin(g->ctx, &use, 1, &p), TNM_PENDING);
    tnm_pump(g->ctx, TNM_ALL);
    CHECK_EQ(tnm_destroy(g->ctx), TNM_PENDING);
    CHECK_EQ(tnm_check(g->ctx), 0);
    g->sim.stuck = 0;
    CHECK_EQ(rig_pin(g, u, 0, TNM_READ, &p), TNM_OK);
    CHECK_EQ(tnm_destroy(g->ctx), TNM_ERR_BUSY);
    CHECK(sim_same(sim_at(&g->sim, &p), 2, 0, ONE));
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    g->sim.idle_limit = 0;
    rig_expect(g, t, 0, 1);
    rig_end(g);
}

static void *modest_alloc(void *user, size_t size) { /* as a machine would that has not so much */
    return size > 64u << 20 ? NULL : rig_alloc(user, size);
}

/* three tiers of which the outer two need staging in the middle, not created yet */
static rig *three(rig *g) {
    rig_start(g, 1);
    rig_tier(g, "fast", SIM_HIDDEN, 8 * ONE);
    rig_tier(g, "host", SIM_PLAIN, 8 * ONE);
    rig_tier(g, "slow", SIM_HIDDEN, 0);
    g->desc.staging_tier = 1;
    g->desc.alloc = modest_alloc;
    return g;
}

static void too_much(rig *g) {
    g->ctx = (tnm_ctx *)&g->desc;
    CHECK_EQ(tnm_create(&g->desc, &g->ctx), TNM_ERR_MEMORY);
    CHECK(g->ctx == NULL);
    rig_close_sim(g);
}

/* What the tables of a context take is a product of the descriptor's numbers. One that wrapped gave
 * four bytes of links for 2^62 pieces of staging, which the first staged copy wrote behind. */
TEST(numbers_that_wrap) {
    static rig g;
    three(&g)->desc.staging_bytes = ((uint64_t)1 << 62) + 1;
    g.desc.chunk_bytes = 1;
    too_much(&g);
    three(&g)->tiers[0].queue_depth = UINT32_MAX; /* with the others' eight: three slots */
    too_much(&g);
    three(&g)->tiers[0].queue_depth = (uint32_t)1 << 31;
    g.tiers[1].queue_depth = (uint32_t)1 << 31;
    too_much(&g);
    three(&g)->desc.max_tensors = 4;
    g.desc.max_replicas = ((uint32_t)1 << 31) + 1; /* two nodes each: 66 */
    too_much(&g);
    three(&g)->desc.max_tensors = 4;
    g.desc.max_uses = g.desc.max_fences = UINT32_MAX;
    too_much(&g);
    three(&g)->desc.max_uses = UINT32_MAX; /* tables that grow */
    g.desc.max_fences = UINT32_MAX;
    works(&g);
}

int main(void) {
    RUN(bad_descriptors);
    RUN(bad_tiers);
    RUN(shapes_of_descriptors_that_work);
    RUN(numbers_that_wrap);
    RUN(one_tier_is_enough);
    RUN(many_tiers);
    RUN(the_most_tiers_there_can_be);
    RUN(descriptor_is_copied);
    RUN(fixed_tables_allocate_nothing_after_create);
    RUN(contexts_side_by_side);
    RUN(destroy_with_copies_in_flight);
    RUN(destroy_waits_for_fences);
    RUN(destroy_is_busy_while_pinned);
    RUN(idle_ends_a_destroy_that_hangs);
    RUN(a_context_outlives_a_destroy_that_gave_up);
    return check_done();
}
