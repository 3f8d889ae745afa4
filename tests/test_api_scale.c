/* Many tensors from outside: what goes over all of them lets the lock go in between, goes on where it
 * was, and comes to its end whatever it meets. No time is measured: locked intervals are counted. */
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "check.h"

enum { MANY = 20000, SIZE = 8 }; /* several steps of every walk */

static struct {
    tnm_ctx *ctx;
    tnm_tensor t[MANY];
    uint64_t holds; /* how often the lock was taken */
    int locked;
} many;

static void lock(void *user) {
    (void)user;
    CHECK_EQ(many.locked++, 0);
    many.holds++;
}

static void unlock(void *user) {
    (void)user;
    CHECK_EQ(--many.locked, 0);
}

/* Two tiers; the fast one has one segment and room for `room` tensors. */
static void open_many(uint64_t room) {
    tnm_tier_desc tiers[2];
    tnm_desc desc;
    memset(tiers, 0, sizeof tiers);
    memset(&desc, 0, sizeof desc);
    tiers[0].name = "fast";
    tiers[0].budget_bytes = room * SIZE;
    tiers[0].alignment = SIZE;
    tiers[1].name = "slow";
    tiers[1].alignment = SIZE;
    desc.tiers = tiers;
    desc.tier_count = 2;
    desc.alloc = check_alloc;
    desc.release = check_release;
    desc.lock = lock;
    desc.unlock = unlock;
    CHECK_EQ(tnm_create(&desc, &many.ctx), TNM_OK);
}

static tnm_tensor tensor(void) {
    tnm_tensor_desc d;
    tnm_tensor t;
    memset(&d, 0, sizeof d);
    d.bytes = SIZE;
    CHECK_EQ(tnm_tensor_create(many.ctx, &d, &t), TNM_OK);
    return t;
}

static tnm_result pin(tnm_tensor t, int tier, tnm_access access, tnm_pinned *out) {
    tnm_use use;
    memset(&use, 0, sizeof use);
    use.tensor = t;
    use.tier = tier;
    use.access = access;
    return tnm_pin(many.ctx, &use, 1, out);
}

static void fill(int i) {
    tnm_pinned p;
    CHECK_EQ(pin(many.t[i], 0, TNM_DISCARD, &p), TNM_OK);
    memset(p.host, i & 0xff, SIZE);
    CHECK_EQ(tnm_unpin(many.ctx, &p, 1, 0), TNM_OK);
}

static void make_many(void) {
    for (int i = 0; i < MANY; i++) {
        many.t[i] = tensor();
        fill(i);
    }
}

static void expect_many(int step) {
    unsigned char got[SIZE];
    for (int i = 0; i < MANY; i += step) {
        CHECK_EQ(tnm_read(many.ctx, many.t[i], 0, got, SIZE), TNM_OK);
        CHECK_EQ(got[0], i & 0xff);
        CHECK_EQ(got[SIZE - 1], i & 0xff);
    }
}

static tnm_tier_stats stats(int tier) {
    tnm_tier_stats s;
    CHECK_EQ(tnm_stats(many.ctx, tier, &s), TNM_OK);
    return s;
}

static tnm_result shrink(uint64_t bytes) { /* as far as it goes */
    tnm_result r = TNM_PENDING;
    for (int i = 0; i < MANY && r == TNM_PENDING; i++) {
        r = tnm_set_budget(many.ctx, 0, bytes);
        if (r == TNM_PENDING) tnm_pump(many.ctx, TNM_ALL);
    }
    return r;
}

static void close_many(void) {
    CHECK_EQ(tnm_check(many.ctx), 0);
    CHECK_EQ(tnm_destroy(many.ctx), TNM_OK);
    CHECK_EQ(check_live_blocks(), 0);
}

TEST(a_segment_with_many_drains) {
    open_many(MANY);
    make_many();
    CHECK_EQ(stats(0).tensors, MANY);
    CHECK_EQ(shrink(0), TNM_OK);
    CHECK_EQ(stats(0).reserved_bytes, 0);
    CHECK_EQ(tnm_check(many.ctx), 0);
    expect_many(7);
    close_many();
}

/* More than a step of a walk that cannot leave, in front of all that can. */
TEST(a_drain_goes_on_behind_pins) {
    enum { PINS = 6000 };
    static tnm_pinned p[PINS];
    open_many(MANY);
    make_many();
    for (int i = 0; i < PINS; i++)
        CHECK_EQ(pin(many.t[i], 0, TNM_READ, &p[i]), TNM_OK);
    tnm_set_budget(many.ctx, 0, 0);
    for (int i = 0; i < 4 * MANY && stats(0).tensors > PINS; i++)
        tnm_pump(many.ctx, TNM_ALL);
    CHECK_EQ(stats(0).tensors, PINS);
    CHECK_EQ(tnm_set_budget(many.ctx, 0, 0), TNM_ERR_BUSY);
    CHECK_EQ(tnm_check(many.ctx), 0);
    for (int i = 0; i < PINS; i++)
        CHECK_EQ(tnm_unpin(many.ctx, &p[i], 1, 0), TNM_OK);
    CHECK_EQ(shrink(0), TNM_OK);
    expect_many(11);
    close_many();
}

/* The budget comes back while a drain is under way: all gaps give room again. */
TEST(a_drain_that_is_called_off_gives_all_room_back) {
    open_many(MANY);
    make_many();
    for (int i = 0; i < MANY; i += 2)
        CHECK_EQ(tnm_tensor_destroy(many.ctx, many.t[i]), TNM_OK);
    tnm_set_budget(many.ctx, 0, MANY * SIZE / 2);
    for (int i = 0; i < 8; i++)
        tnm_pump(many.ctx, 64 * SIZE);
    tnm_set_budget(many.ctx, 0, MANY * SIZE);
    for (int i = 0; i < MANY; i += 2)
        many.t[i] = tensor();
    for (int i = 0; i < 64; i++)
        tnm_pump(many.ctx, TNM_ALL);
    CHECK_EQ(tnm_check(many.ctx), 0);
    uint64_t evictions = stats(0).evictions, tensors = stats(0).tensors;
    for (int i = 0; i < MANY && stats(0).tensors < MANY; i += 2, tensors++)
        fill(i);
    CHECK_EQ(stats(0).evictions, evictions);
    CHECK_EQ(stats(0).tensors, tensors);
    close_many();
}

int main(void) {
    RUN(a_segment_with_many_drains);
    RUN(a_drain_goes_on_behind_pins);
    RUN(a_drain_that_is_called_off_gives_all_room_back);
    return check_done();
}
