/* The pin that hits, from inside. What another thread may do between a hit's look at the records
 * and its compare-and-swap is done here at that very point, in one thread, so that it happens each
 * time. No race detector sees a wrong record (everything is ordered): the payload tells. */
static void between(void);
#define TNMI_TEST_HIT() between()
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "sim.h"

enum { WIDE = 4096 };

static struct {
    rig g;
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

static tnm_tensor filled(uint64_t payload) {
    tnm_tensor tensor = rig_tensor(&at.g, WIDE, 0);
    rig_write(&at.g, tensor, 0, payload);
    return tensor;
}

static void open_store(void) {
    memset(&at, 0, sizeof at);
    rig_start(&at.g, 1);
    rig_pair(&at.g, SIM_PLAIN, rig_room(4, WIDE));
    at.a = filled('a');
}

static void close_store(void) {
    CHECK_EQ(at.acted, 1);
    rig_end(&at.g); /* BUSY if a pin of the wrong record were left */
}

static uint64_t hits(void) {
    return rig_stats(&at.g, 0).hits;
}

/* `a` is destroyed, `b` gets its slot and its record. */
static void replace_a(void) {
    CHECK_EQ(tnm_tensor_destroy(at.g.ctx, at.a), TNM_OK);
    at.b = filled('b');
    CHECK_EQ(at.b.id & 0x3ffffff, at.a.id & 0x3ffffff);
}

static void a_name_that_dies_under_a_hit_is_stale(void) {
    tnm_pinned p;
    open_store();
    tnm_use use = rig_use(at.a, 0, TNM_READ);
    uint64_t before = hits();
    at.act = replace_a;
    CHECK_EQ(tnm_pin(at.g.ctx, &use, 1, &p), TNM_ERR_STALE);
    CHECK(p.host == NULL && p.id == 0 && p.bytes == 0);
    CHECK_EQ(hits(), before);
    CHECK_EQ(tnm_tensor_destroy(at.g.ctx, at.b), TNM_OK);
    close_store();
}

/* `a` leaves the tier, `b` gets its record there. */
static void take_the_record(void) {
    uint32_t record = *tnmi_tensor_rep(&at.g.ctx->e.tensors, (uint32_t)at.a.id & 0x3ffffff, 0);
    tnm_result r;
    RIG_UNTIL(r, &at.g, tnm_evict(at.g.ctx, at.a, 0));
    CHECK_EQ(r, TNM_OK);
    at.b = filled('b');
    CHECK_EQ(*tnmi_tensor_rep(&at.g.ctx->e.tensors, (uint32_t)at.b.id & 0x3ffffff, 0), record);
}

static void a_record_that_is_anothers_is_not_pinned(int count, tnm_access access) {
    tnm_pinned p[2];
    tnm_use use[2];
    open_store();
    tnm_tensor c = filled('c');
    use[0] = rig_use(at.a, 0, access);
    use[1] = rig_use(c, 0, TNM_READ);
    at.act = take_the_record;
    CHECK_EQ(tnm_pin(at.g.ctx, use, count, p), TNM_OK);
    CHECK(sim_same(p[0].host, 'a', 0, WIDE));
    if (count > 1) CHECK(sim_same(p[1].host, 'c', 0, WIDE));
    CHECK_EQ(tnm_unpin(at.g.ctx, p, count, 0), TNM_OK);
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
    tnm_use use = rig_use(at.a, 0, TNM_READ);
    uint64_t before = hits();
    at.acted = 1;
    for (int i = 0; i < MANY; i++)
        if (tnm_pin(at.g.ctx, &use, 1, &p[i]) != TNM_OK) CHECK(0);
    CHECK_EQ(hits() - before, MANY);
    CHECK_EQ(tnm_destroy(at.g.ctx), TNM_ERR_BUSY);
    for (int i = 0; i < MANY; i++)
        if (tnm_unpin(at.g.ctx, &p[i], 1, 0) != TNM_OK) CHECK(0);
    close_store();
}

/* Threads pin the tensors of a layer at once, and a pin writes to its record. */
static void tensors_made_in_turn_share_no_cache_line(void) {
    const tnmi_tensors *tensors;
    uintptr_t before = 0;
    open_store();
    tensors = &at.g.ctx->e.tensors;
    at.acted = 1;
    for (uint32_t i = 0; i < 9; i++) {
        tnm_tensor t = rig_tensor(&at.g, 16, 0);
        rig_write(&at.g, t, 0, 1);
        uintptr_t now = (uintptr_t)tnmi_tensor_on(tensors, tnmi_tensor_index(tensors, t.id), 0);
        CHECK(now - before >= 64 + sizeof(tnmi_replica) && before - now >= 64);
        before = now;
    }
    close_store();
}

int main(void) {
    RUN(a_name_that_dies_under_a_hit_is_stale);
    RUN(a_recycled_record_alone);
    RUN(a_recycled_record_to_be_written);
    RUN(a_recycled_record_in_a_set);
    RUN(many_pins_and_many_hits);
    RUN(tensors_made_in_turn_share_no_cache_line);
    return check_done();
}
