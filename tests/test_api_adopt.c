/* Adopted memory from outside: host pointers, backend ranges, files; read only and writable; when
 * `released` runs; odd offsets under a granularity. P1, P5. */
#define _POSIX_C_SOURCE 200809L
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "sim.h"

enum { KIB = 1024, ONE = 8 * KIB };

typedef struct lent {
    tnm_tensor t;
    uint8_t *at;
    uint64_t mem, offset;
    int released;
} lent;

static int in_call; /* `released` runs in pump, wait or destroy only */
static int kept;    /* set: becomes 2 if a range is let go with the bytes of kept_key, else 1 */
static uint64_t kept_key;

static void on_released(void *user, uint64_t mem, uint64_t offset) {
    lent *l = (lent *)user;
    CHECK(!in_call);
    CHECK_EQ(mem, l->mem);
    CHECK_EQ(offset, l->offset);
    l->released++;
    if (kept) kept = 1 + sim_same(l->at, kept_key, 0, ONE);
    memset(l->at, SIM_POISON, ONE); /* the caller does with it what he likes */
}

/* a range of l->mem, which is the device's, with payload `key` */
static void lend_part(rig *g, lent *l, sim_device *d, uint64_t offset, int writable, uint64_t key) {
    tnm_adopt_desc ad = sim_lent(d, l->mem, offset);
    l->offset = offset;
    l->at = sim_find(d, l->mem)->at + offset;
    l->released = 0;
    sim_fill(l->at, key, 0, ONE);
    ad.writable = writable;
    ad.released = on_released;
    ad.user = l;
    l->t = rig_adopt(g, &ad, ONE);
}

static void lend(rig *g, lent *l, int tier, uint64_t offset, int writable, uint64_t key) {
    sim_device *d = &g->sim.device[tier];
    l->mem = sim_lend(d, offset + ONE + 4096 - (offset + ONE) % 4096);
    lend_part(g, l, d, offset, writable, key);
}

EACH(read_only_costs_nothing_below) {
    lent l[4];
    rig_pair(g, kind, rig_room(2, ONE));
    for (int i = 0; i < 4; i++)
        lend(g, &l[i], 1, (uint64_t)i * 32, 0, (uint64_t)i);
    CHECK_EQ(rig_stats(g, 1).reserved_bytes, 0); /* not charged */
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 4; i++)
            rig_expect(g, l[i].t, 0, (uint64_t)i);
    CHECK_EQ(rig_stats(g, 1).bytes_in, 0); /* clean by birth: nothing is ever written back */
    CHECK_EQ(rig_stats(g, 1).reserved_bytes, 0);
    CHECK(rig_stats(g, 0).evictions_clean > 0);
    for (int i = 0; i < 4; i++) {
        tnm_pinned p;
        CHECK_EQ(rig_pin(g, l[i].t, 1, TNM_READ, &p), TNM_OK);
        CHECK(sim_at(&g->sim, &p) == l[i].at); /* where it lies, not a copy */
        CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
        CHECK_EQ(l[i].released, 0);
    }
    rig_end(g);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(l[i].released, 1);
}

EACH(a_write_gives_it_bytes_of_its_own) {
    lent l;
    rig_pair(g, kind, rig_room(2, ONE));
    lend(g, &l, 1, 0, 0, 1);
    in_call = 1;
    CHECK_EQ(tnm_tensor_destroy(g->ctx, rig_tensor(g, 16, 0)), TNM_OK);
    in_call = 0;
    rig_change(g, l.t, 0, 1, 2);
    rig_rest(g);
    CHECK_EQ(l.released, 1);
    rig_expect(g, l.t, 1, 2);
    rig_expect(g, l.t, 0, 2);
    rig_end(g);
    CHECK_EQ(l.released, 1);
}

/* Advice may come later: what is ours is wiped when it leaves, what was lent is as it was. */
EACH(a_lent_range_is_never_scrubbed) {
    lent l;
    rig_pair(g, kind, rig_room(2, ONE));
    lend(g, &l, 1, 0, 0, 1);
    rig_expect(g, l.t, 0, 1);
    CHECK_EQ(tnm_advise(g->ctx, l.t, TNM_SCRUB), TNM_OK);
    kept = 1;
    kept_key = 1;
    rig_change(g, l.t, 0, 1, 2);
    rig_rest(g);
    CHECK_EQ(l.released, 1);
    CHECK_EQ(kept, 2);
    kept = 0;
    for (int i = 0; i < ONE; i++)
        if (l.at[i] != SIM_POISON) check_fail(__FILE__, __LINE__, "written after it was let go");
    rig_expect(g, l.t, 1, 2);
    rig_end(g);
}

EACH(discard_lets_the_range_go) {
    lent l;
    rig_pair(g, kind, rig_room(2, ONE));
    lend(g, &l, 1, 64, 0, 1);
    rig_write(g, l.t, 0, 5);
    rig_rest(g);
    CHECK_EQ(l.released, 1);
    rig_expect(g, l.t, 1, 5);
    rig_end(g);
}

EACH(read_only_cannot_be_written_in_place) {
    lent l;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(2, ONE));
    lend(g, &l, 1, 0, 0, 1);
    CHECK_EQ(rig_pin(g, l.t, 1, TNM_WRITE, &p), TNM_ERR_BUSY);
    CHECK(sim_same(l.at, 1, 0, ONE));
    rig_expect(g, l.t, 0, 1);
    rig_end(g);
}

EACH(plain_write_to_read_only) {
    static uint8_t what[ONE];
    lent l;
    rig_pair(g, kind, rig_room(2, ONE));
    lend(g, &l, 1, 0, 0, 1);
    sim_fill(what, 7, 0, ONE);
    CHECK_EQ(tnm_write(g->ctx, l.t, 100, what + 100, 50), TNM_OK);
    if (l.released == 0) CHECK(sim_same(l.at, 1, 0, ONE));
    memset(what, 0, ONE);
    CHECK_EQ(tnm_read(g->ctx, l.t, 0, what, ONE), TNM_OK);
    CHECK(sim_same(what, 1, 0, 100));
    CHECK(sim_same(what + 100, 7, 100, 50));
    CHECK(sim_same(what + 150, 1, 150, ONE - 150));
    rig_end(g);
    CHECK_EQ(l.released, 1);
}

EACH(writable_takes_write_backs) {
    lent l;
    tnm_tensor other;
    tnm_result r;
    rig_pair(g, kind, rig_room(1, ONE));
    lend(g, &l, 1, 96, 1, 1);
    rig_write(g, l.t, 0, 2);
    CHECK_EQ(l.released, 0);
    RIG_UNTIL(r, g, tnm_flush(g->ctx, l.t, 1));
    CHECK_EQ(r, TNM_OK);
    CHECK(sim_same(l.at, 2, 0, ONE));
    rig_write(g, l.t, 0, 3);
    other = rig_tensor(g, ONE, 0);
    rig_write(g, other, 0, 9); /* pushes it out, into the range */
    CHECK(sim_same(l.at, 3, 0, ONE));
    CHECK_EQ(l.released, 0);
    CHECK_EQ(rig_stats(g, 1).used_bytes, 0);
    rig_expect(g, l.t, 0, 3);
    rig_end(g);
    CHECK_EQ(l.released, 1);
}

EACH(released_after_the_last_reader) {
    lent l;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(2, ONE));
    lend(g, &l, 1, 0, 0, 1);
    CHECK_EQ(rig_pin(g, l.t, 1, TNM_READ, &p), TNM_OK);
    CHECK_EQ(tnm_tensor_destroy(g->ctx, l.t), TNM_OK);
    rig_pump(g, 10);
    CHECK_EQ(l.released, 0);
    CHECK(sim_same(sim_at(&g->sim, &p), 1, 0, ONE));
    in_call = 1;
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    in_call = 0;
    rig_rest(g);
    CHECK_EQ(l.released, 1);
    rig_end(g);
}

EACH(released_after_a_copy_that_reads_it) {
    lent l;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(2, ONE));
    lend(g, &l, 1, 0, 0, 1);
    CHECK_EQ(rig_try(g, l.t, 0, TNM_READ, &p), TNM_PENDING);
    tnm_pump(g->ctx, 2 * KIB);
    in_call = 1;
    CHECK_EQ(tnm_tensor_destroy(g->ctx, l.t), TNM_OK);
    in_call = 0;
    rig_rest(g); /* the device compares the source's bytes when a copy ends */
    CHECK_EQ(l.released, 1);
    rig_end(g);
}

EACH(views_of_adopted) {
    lent l;
    tnm_tensor v;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(2, ONE));
    lend(g, &l, 1, 32, 0, 1);
    v = rig_view(g, l.t, 1000, 100);
    CHECK_EQ(tnm_tensor_destroy(g->ctx, l.t), TNM_OK);
    rig_rest(g);
    CHECK_EQ(l.released, 0);
    CHECK_EQ(rig_pin(g, v, 0, TNM_READ, &p), TNM_OK);
    CHECK(sim_same(sim_at(&g->sim, &p), 1, 1000, 100));
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    CHECK_EQ(tnm_tensor_destroy(g->ctx, v), TNM_OK);
    rig_rest(g);
    CHECK_EQ(l.released, 1);
    rig_end(g);
}

EACH(odd_offsets_under_a_granularity) { /* the device refuses reads that are not on its grain */
    static const uint64_t offsets[] = { 0, 1, 32, 511, 512, 513, 4096, 4128 };
    enum { COUNT = sizeof offsets / sizeof offsets[0] };
    lent l[COUNT];
    rig_tier(g, "fast", kind, rig_room(2, ONE));
    rig_tier(g, "host", SIM_PLAIN, rig_room(3, ONE) + 64 * KIB);
    g->tiers[1].segment_bytes = 32 * KIB;
    rig_tier(g, "disk", SIM_HIDDEN | (kind & SIM_ASYNC), 0);
    g->tiers[2].backend.granularity = g->sim.device[2].granularity = 512;
    rig_create(g);
    for (int i = 0; i < COUNT; i++)
        lend(g, &l[i], 2, offsets[i], 0, (uint64_t)i);
    for (int i = 0; i < COUNT; i++)
        rig_expect(g, l[i].t, i & 1, (uint64_t)i);
    for (int i = 0; i < COUNT; i++)
        rig_expect(g, l[i].t, 0, (uint64_t)i);
    rig_end(g);
}

EACH(odd_ends_that_the_backend_takes) { /* one copy each, and no staging */
    static const uint64_t offsets[] = { 0, 32, 512, 544, 1, 4128 };
    enum { COUNT = sizeof offsets / sizeof offsets[0] };
    lent l[COUNT];
    if (kind & SIM_HIDDEN) return; /* they need staging for another reason */
    rig_tier(g, "fast", kind, rig_room(2, ONE) + 64 * KIB);
    rig_tier(g, "disk", SIM_HIDDEN | (kind & SIM_ASYNC), 0);
    g->tiers[1].backend.granularity = 512;
    g->tiers[1].backend.odd_ends = 1;
    rig_create(g);
    for (int i = 0; i < COUNT; i++)
        lend(g, &l[i], 1, offsets[i], 0, (uint64_t)i);
    for (int i = 0; i < COUNT; i++)
        rig_expect(g, l[i].t, 0, (uint64_t)i);
    CHECK(g->ctx->e.move.stage_state == TNMI_STAGING_NONE);
    rig_end(g);
}

EACH(many_ranges_of_one_file) { /* they share `mem`; each is told of by its offset */
    enum { COUNT = 6 };
    lent l[COUNT];
    sim_device *d;
    uint64_t mem;
    rig_pair(g, kind, rig_room(2, ONE));
    d = &g->sim.device[1];
    mem = sim_lend(d, COUNT * ONE);
    for (uint64_t i = 0; i < COUNT; i++) {
        l[i].mem = mem;
        lend_part(g, &l[i], d, i * ONE, 0, i);
    }
    for (uint64_t i = 0; i < COUNT; i++)
        rig_expect(g, l[i].t, 0, i);
    CHECK_EQ(tnm_tensor_destroy(g->ctx, l[2].t), TNM_OK);
    rig_write(g, l[4].t, 0, 44);
    rig_rest(g);
    for (uint64_t i = 0; i < COUNT; i++)
        CHECK_EQ(l[i].released, i == 2 || i == 4);
    for (uint64_t i = 0; i < COUNT; i += 3)
        rig_expect(g, l[i].t, 0, i);
    rig_expect(g, l[4].t, 1, 44);
    rig_end(g);
}

TEST(a_host_pointer_on_a_default_tier) {
    static uint8_t mine[3][ONE];
    static rig g;
    tnm_tensor t[3];
    rig_start(&g, 1);
    g.desc.tier_count = 2;
    g.tiers[0].budget_bytes = rig_room(1, ONE);
    CHECK_EQ(tnm_create(&g.desc, &g.ctx), TNM_OK);
    for (int i = 0; i < 3; i++) {
        tnm_adopt_desc ad;
        memset(&ad, 0, sizeof ad);
        sim_fill(mine[i], (uint64_t)i, 0, ONE);
        ad.tier = 1;
        ad.host = mine[i];
        ad.writable = i == 2;
        t[i] = rig_adopt(&g, &ad, ONE);
    }
    for (int i = 0; i < 9; i++)
        rig_expect(&g, t[i % 3], 0, (uint64_t)(i % 3));
    rig_write(&g, t[1], 0, 10);
    rig_write(&g, t[2], 0, 20);
    rig_expect(&g, t[0], 0, 0);
    rig_expect(&g, t[1], 1, 10);
    rig_expect(&g, t[2], 1, 20);
    CHECK(sim_same(mine[1], 1, 0, ONE));  /* read only: as it was */
    CHECK(sim_same(mine[2], 20, 0, ONE)); /* writable: landed */
    CHECK_EQ(tnm_check(g.ctx), 0);
    CHECK_EQ(tnm_destroy(g.ctx), TNM_OK);
}

TEST(a_file) {
    static rig g;
    static uint8_t what[5 * ONE];
    const char *path = "build/adopt_test.tmp";
    FILE *f = fopen(path, "wb");
    tnm_file_desc fd;
    tnm_backend disk;
    uint64_t mem = 0, size = 0;
    tnm_tensor t[4];
    if (f == NULL) f = fopen(path = "/tmp/tensormem_adopt_test.tmp", "wb");
    CHECK(f != NULL);
    if (f == NULL) return;
    for (uint64_t i = 0; i < 4; i++)
        sim_fill(what + i * (ONE + 32) + 32, i, 0, ONE);
    CHECK_EQ(fwrite(what, 1, 4 * (ONE + 32), f), 4 * (ONE + 32));
    fclose(f);
    memset(&fd, 0, sizeof fd);
    fd.threads = 1;
    CHECK_EQ(tnm_file_open(&fd, &disk), TNM_ERR_ARGUMENT); /* it is built without threads */
    fd.threads = 0;
    CHECK_EQ(tnm_file_open(&fd, &disk), TNM_OK);
    CHECK_EQ(tnm_file_adopt(&disk, path, &mem, &size), TNM_OK);
    CHECK_EQ(size, 4 * (ONE + 32));
    rig_start(&g, 1);
    rig_tier(&g, "fast", SIM_PLAIN, rig_room(2, ONE));
    g.desc.tier_count = 2;
    g.tiers[1].backend = disk;
    CHECK_EQ(tnm_create(&g.desc, &g.ctx), TNM_OK);
    for (uint64_t i = 0; i < 4; i++) {
        tnm_adopt_desc ad;
        memset(&ad, 0, sizeof ad);
        ad.tier = 1;
        ad.mem = mem;
        ad.offset = i * (ONE + 32) + 32;
        t[i] = rig_adopt(&g, &ad, ONE);
    }
    for (int i = 0; i < 12; i++)
        rig_expect(&g, t[i % 4], 0, (uint64_t)(i % 4));
    CHECK_EQ(tnm_check(g.ctx), 0);
    CHECK_EQ(tnm_destroy(g.ctx), TNM_OK);
    rig_close_sim(&g);
    tnm_file_close(&disk);
    remove(path);
}

int main(void) {
    RUN(a_lent_range_is_never_scrubbed);
    RUN(read_only_costs_nothing_below);
    RUN(a_write_gives_it_bytes_of_its_own);
    RUN(discard_lets_the_range_go);
    RUN(read_only_cannot_be_written_in_place);
    RUN(plain_write_to_read_only);
    RUN(writable_takes_write_backs);
    RUN(released_after_the_last_reader);
    RUN(released_after_a_copy_that_reads_it);
    RUN(views_of_adopted);
    RUN(odd_offsets_under_a_granularity);
    RUN(odd_ends_that_the_backend_takes);
    RUN(many_ranges_of_one_file);
    RUN(a_host_pointer_on_a_default_tier);
    RUN(a_file);
    return check_done();
}
