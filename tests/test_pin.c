/* The pin that hits, from inside. What another thread may do between a hit's look at the records
 * and its compare-and-swap is done here at that very point, in one thread, so that it happens each
 * time. No race detector sees a wrong record (everything is ordered): the payload tells. */
static void between(void);
#define TNMI_TEST_HIT() between()
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "check.h"

enum { SIZE = 4096 };

static struct {
    tnm_ctx *ctx;
    tnm_tensor a, b;
    void (*act)(void); /* what happens in between, once */
    int acted;
} at;

static void between(void) {
    void (*act)(void) = at.act;
    at.act = NULL;
    if (act == NULL) return;
    at.acted++;
    act();
}

static tnm_use use_of(tnm_tensor tensor, int tier, tnm_access access) {
    tnm_use use;
    memset(&use, 0, sizeof use);
    use.tensor = tensor;
    use.tier = tier;
    use.access = access;
    return use;
}

static tnm_tensor filled(int tier, int payload) {
    tnm_tensor_desc desc;
    tnm_tensor tensor = { 0 };
    tnm_pinned p;
    memset(&desc, 0, sizeof desc);
    desc.bytes = SIZE;
    CHECK_EQ(tnm_tensor_create(at.ctx, &desc, &tensor), TNM_OK);
    tnm_use use = use_of(tensor, tier, TNM_DISCARD);
    CHECK_EQ(tnm_pin(at.ctx, &use, 1, &p), TNM_OK);
    memset(p.host, payload, SIZE);
    CHECK_EQ(tnm_unpin(at.ctx, &p, 1, 0), TNM_OK);
    return tensor;
}

static void open_store(void) {
    tnm_tier_desc tiers[2];
    tnm_desc desc;
    memset(&at, 0, sizeof at);
    memset(tiers, 0, sizeof tiers);
    memset(&desc, 0, sizeof desc);
    tiers[0].name = "fast";
    tiers[0].budget_bytes = 4 * SIZE;
    tiers[1].name = "slow";
    desc.tiers = tiers;
    desc.tier_count = 2;
    desc.alloc = check_alloc;
    desc.release = check_release;
    CHECK_EQ(tnm_create(&desc, &at.ctx), TNM_OK);
    at.a = filled(0, 'a');
}

static void close_store(void) {
    CHECK_EQ(at.acted, 1);
    CHECK_EQ(tnm_check(at.ctx), 0);
    CHECK_EQ(tnm_destroy(at.ctx), TNM_OK); /* BUSY if a pin of the wrong record were left */
}

static uint64_t hits(void) {
    tnm_tier_stats stats;
    CHECK_EQ(tnm_stats(at.ctx, 0, &stats), TNM_OK);
    return stats.hits;
}

/* `a` is destroyed, `b` gets its slot and its record. */
static void replace_a(void) {
    CHECK_EQ(tnm_tensor_destroy(at.ctx, at.a), TNM_OK);
    at.b = filled(0, 'b');
    CHECK_EQ(at.b.id & 0x3ffffff, at.a.id & 0x3ffffff);
}

static void a_name_that_dies_under_a_hit_is_stale(void) {
    tnm_pinned p;
    open_store();
    tnm_use use = use_of(at.a, 0, TNM_READ);
    uint64_t before = hits();
    at.act = replace_a;
    CHECK_EQ(tnm_pin(at.ctx, &use, 1, &p), TNM_ERR_STALE);
    CHECK(p.host == NULL && p.id == 0 && p.bytes == 0);
    CHECK_EQ(hits(), before);
    CHECK_EQ(tnm_tensor_destroy(at.ctx, at.b), TNM_OK);
    close_store();
}

/* `a` leaves the tier, `b` gets its record there. */
static void take_the_record(void) {
    uint32_t record = *tnmi_tensor_rep(&at.ctx->e.tensors, (uint32_t)at.a.id & 0x3ffffff, 0);
    while (tnm_evict(at.ctx, at.a, 0) == TNM_PENDING)
        tnm_pump(at.ctx, TNM_ALL);
    at.b = filled(0, 'b');
    CHECK_EQ(*tnmi_tensor_rep(&at.ctx->e.tensors, (uint32_t)at.b.id & 0x3ffffff, 0), record);
}

static void a_record_that_is_anothers_is_not_pinned(int count, tnm_access access) {
    tnm_pinned p[2];
    tnm_use use[2];
    open_store();
    tnm_tensor c = filled(0, 'c');
    use[0] = use_of(at.a, 0, access);
    use[1] = use_of(c, 0, TNM_READ);
    at.act = take_the_record;
    CHECK_EQ(tnm_pin(at.ctx, use, count, p), TNM_OK);
    CHECK_EQ(((char *)p[0].host)[0], 'a');
    CHECK_EQ(((char *)p[0].host)[SIZE - 1], 'a');
    if (count > 1) CHECK_EQ(((char *)p[1].host)[0], 'c');
    CHECK_EQ(tnm_unpin(at.ctx, p, count, 0), TNM_OK);
    close_store();
}

static void a_recycled_record_alone(void) {
    a_record_that_is_anothers_is_not_pinned(1, TNM_READ);
}

static void a_recycled_record_to_be_written(void) {
    a_record_that_is_anothers_is_not_pinned(1, TNM_WRITE);
}

static void a_recycled_record_in_a_set(void) {
    a_record_that_is_anothers_is_not_pinned(2, TNM_READ);
}

/* Half full the word leaves the rest to the lock, and nothing is lost between the two ways. */
static void many_pins_and_many_hits(void) {
    enum { MANY = 40000 };
    static tnm_pinned p[MANY];
    open_store();
    tnm_use use = use_of(at.a, 0, TNM_READ);
    uint64_t before = hits();
    at.acted = 1;
    for (int i = 0; i < MANY; i++)
        if (tnm_pin(at.ctx, &use, 1, &p[i]) != TNM_OK) CHECK(0);
    CHECK_EQ(hits() - before, MANY);
    CHECK_EQ(tnm_destroy(at.ctx), TNM_ERR_BUSY);
    for (int i = 0; i < MANY; i++)
        if (tnm_unpin(at.ctx, &p[i], 1, 0) != TNM_OK) CHECK(0);
    close_store();
}

int main(void) {
    RUN(a_name_that_dies_under_a_hit_is_stale);
    RUN(a_recycled_record_alone);
    RUN(a_recycled_record_to_be_written);
    RUN(a_recycled_record_in_a_set);
    RUN(many_pins_and_many_hits);
    return check_done();
}
