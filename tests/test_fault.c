/* The n-th callback of each class fails, once and for ever, for every n, in every scenario. What
 * must hold: the call says so, nothing is lost, tnm_check is content, the same call succeeds once
 * the fault is gone, everything ends and is given back. */
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "sim.h"

enum { KIB = 1024, ONE = 5 * KIB, MOST = 40, PATIENCE = 300 };

typedef struct play {
    rig g;
    tnm_tensor t[MOST];
    uint64_t key[MOST], bytes[MOST]; /* key 0: holds nothing yet */
    uint64_t keys;
    int kind, faulty, seen;
} play;

/* ---- what surrounds every call ---- */
static void intact(play *p) { /* every tensor still shows what was last written */
    static uint8_t back[16 * KIB];
    for (int i = 0; i < MOST; i++) {
        tnm_result r;
        if (p->key[i] == 0) continue;
        r = tnm_read(p->g.ctx, p->t[i], 0, back, p->bytes[i]);
        CHECK_EQ(r, TNM_OK);
        if (r == TNM_OK) CHECK(sim_same(back, p->key[i], 0, p->bytes[i]));
    }
}

/* A call failed: is it our fault? Then end the fault, and say "again". */
static int ours(play *p, tnm_result r) {
    int legal =
        r == TNM_ERR_BACKEND || r == TNM_ERR_MEMORY || r == TNM_ERR_BUDGET || r == TNM_PENDING;
    if (p->g.sim.fired == 0) return 0;
    if (!legal) printf("a fault of class %d came back as %d\n", p->g.sim.fault_class, (int)r);
    CHECK(legal);
    p->seen++;
    p->g.sim.fault_at = 0;
    p->g.sim.idle_limit = 0;
    if (p->g.ctx == NULL) return 1;
    CHECK_EQ(tnm_check(p->g.ctx), 0);
    intact(p);
    for (int i = 0; i < 600; i++)
        tnm_pump(p->g.ctx, TNM_ALL); /* back-offs end */
    return 1;
}

#define MUST(p, call)                                                                              \
    do {                                                                                           \
        tnm_result must_r = (call);                                                                \
        if (must_r != TNM_OK && ours(p, must_r)) must_r = (call);                                  \
        CHECK_EQ(must_r, TNM_OK);                                                                  \
    } while (0)

#define UNTIL(p, result, call)                                                                     \
    for (int until_n = 0; until_n < PATIENCE && ((result) = (call)) == TNM_PENDING; until_n++)     \
    tnm_pump((p)->g.ctx, TNM_ALL)

/* ---- small words for the scenarios ---- */
static void tiers2(play *p, uint64_t places) {
    rig_tier(&p->g, "fast", p->kind, rig_room(places, ONE));
    rig_tier(&p->g, "slow", SIM_PLAIN | (p->kind & SIM_ASYNC), 0);
}

static void tiers3(play *p, uint64_t fast, uint64_t host) {
    rig_tier(&p->g, "fast", p->kind | SIM_HIDDEN, rig_room(fast, ONE));
    rig_tier(&p->g, "host", SIM_PLAIN, rig_room(host, ONE) + 32 * KIB);
    p->g.tiers[1].segment_bytes = 16 * KIB;
    rig_tier(&p->g, "disk", SIM_HIDDEN | (p->kind & SIM_ASYNC), 0);
}

static void begin(play *p) {
    rig_staging(&p->g);
    MUST(p, tnm_create(&p->g.desc, &p->g.ctx));
}

static void name(play *p, int i, uint64_t bytes, uint32_t advice) {
    tnm_tensor_desc d;
    memset(&d, 0, sizeof d);
    d.bytes = p->bytes[i] = bytes;
    d.advice = advice;
    MUST(p, tnm_tensor_create(p->g.ctx, &d, &p->t[i]));
}

static tnm_result pin(play *p, int i, int tier, tnm_access access, tnm_pinned *at) {
    tnm_use u = rig_use(p->t[i], tier, access);
    return tnm_pin(p->g.ctx, &u, 1, at);
}

static tnm_result try_pin(play *p, int i, int tier, tnm_access access, tnm_pinned *at) {
    tnm_use u = rig_use(p->t[i], tier, access);
    tnm_result r = TNM_PENDING;
    UNTIL(p, r, tnm_try_pin(p->g.ctx, &u, 1, at));
    return r;
}

static void new_bytes(play *p, int i, tnm_pinned *at) {
    p->key[i] = ++p->keys;
    if (at->id != 0) sim_fill(sim_at(&p->g.sim, at), p->key[i], 0, p->bytes[i]);
}

static void fill(play *p, int i, int tier) {
    tnm_pinned at;
    MUST(p, pin(p, i, tier, TNM_DISCARD, &at));
    if (at.id == 0) return;
    new_bytes(p, i, &at);
    MUST(p, tnm_unpin(p->g.ctx, &at, 1, 0));
}

static void change(play *p, int i, int tier) {
    tnm_pinned at;
    MUST(p, pin(p, i, tier, TNM_WRITE, &at));
    if (at.id == 0) return;
    CHECK(sim_same(sim_at(&p->g.sim, &at), p->key[i], 0, p->bytes[i]));
    new_bytes(p, i, &at);
    MUST(p, tnm_unpin(p->g.ctx, &at, 1, 0));
}

static void look(play *p, int i, int tier) {
    tnm_pinned at;
    MUST(p, pin(p, i, tier, TNM_READ, &at));
    if (at.id == 0) return;
    CHECK(sim_same(sim_at(&p->g.sim, &at), p->key[i], 0, p->bytes[i]));
    MUST(p, tnm_unpin(p->g.ctx, &at, 1, 0));
}

static void names(play *p, int n) {
    for (int i = 0; i < n; i++)
        name(p, i, ONE - (uint64_t)(i % 5) * 300, 0);
}

static void fills(play *p, int n, int tier) {
    for (int i = 0; i < n; i++)
        fill(p, i, tier);
}

static void looks(play *p, int n, int tier) {
    for (int i = 0; i < n; i++)
        look(p, i, tier);
}

static void forget(play *p, int i) {
    p->key[i] = 0;
    MUST(p, tnm_tensor_destroy(p->g.ctx, p->t[i]));
}

static void budget(play *p, int tier, uint64_t bytes) {
    tnm_result r = TNM_PENDING;
    UNTIL(p, r, rig_budget(&p->g, tier, bytes));
    if (r != TNM_OK && ours(p, r)) UNTIL(p, r, rig_budget(&p->g, tier, bytes));
    CHECK_EQ(r, TNM_OK);
}

static void pumps(play *p, int n) {
    for (int i = 0; i < n; i++)
        CHECK(tnm_pump(p->g.ctx, TNM_ALL) >= 0);
}

/* ---- the scenarios ---- */
static void create_only(play *p) {
    tiers2(p, 2);
    begin(p);
}

static void create_three_tiers(play *p) {
    tiers3(p, 2, 3);
    begin(p);
}

static void fixed_tables(play *p) {
    tiers2(p, 2);
    p->g.desc.max_tensors = 8;
    begin(p);
    names(p, 6);
    fills(p, 6, 0);
    looks(p, 6, 0);
}

static void many_names(play *p) {
    tiers2(p, 2);
    begin(p);
    for (int i = 0; i < MOST; i++)
        name(p, i, 64, 0);
    for (int i = 0; i < MOST; i += 7)
        fill(p, i, 0);
    for (int i = 0; i < MOST; i += 3)
        forget(p, i);
    for (int i = 0; i < MOST; i += 3)
        name(p, i, 64, 0);
}

static void first_write(play *p) {
    tiers2(p, 2);
    begin(p);
    names(p, 2);
    fills(p, 2, 0);
}

static void pressure(play *p) {
    tiers2(p, 2);
    begin(p);
    names(p, 5);
    fills(p, 5, 0);
    looks(p, 5, 0);
}

static void clean_reload(play *p) {
    tiers2(p, 2);
    begin(p);
    names(p, 4);
    fills(p, 4, 1);
    looks(p, 4, 0);
    looks(p, 4, 0);
}

static void write_shared(play *p) {
    tiers2(p, 3);
    begin(p);
    names(p, 2);
    fills(p, 2, 1);
    looks(p, 2, 0);
    change(p, 0, 0);
    change(p, 1, 1);
    look(p, 0, 1);
    look(p, 1, 0);
}

static void discard_again(play *p) {
    tiers2(p, 2);
    begin(p);
    names(p, 3);
    fills(p, 3, 1);
    fills(p, 3, 0);
    fills(p, 3, 1);
    looks(p, 3, 0);
}

static tnm_result pin_set(play *p, int from, int n, int tier, tnm_pinned *at, int blocking) {
    tnm_use u[8];
    tnm_result r = TNM_PENDING;
    for (int i = 0; i < n; i++)
        u[i] = rig_use(p->t[from + i], tier, TNM_READ);
    if (blocking) return tnm_pin(p->g.ctx, u, n, at);
    UNTIL(p, r, tnm_try_pin(p->g.ctx, u, n, at));
    return r;
}

static void use_set(play *p, int from, int n, int tier, int blocking) {
    tnm_pinned at[8];
    MUST(p, pin_set(p, from, n, tier, at, blocking));
    for (int i = 0; i < n && at[i].id != 0; i++)
        CHECK(sim_same(sim_at(&p->g.sim, &at[i]), p->key[from + i], 0, p->bytes[from + i]));
    if (at[0].id != 0) MUST(p, tnm_unpin(p->g.ctx, at, n, 0));
}

static void equal_names(play *p, int n) {
    for (int i = 0; i < n; i++)
        name(p, i, ONE, 0);
}

/* twice the room of a set: a tier whose first alloc was refused comes in two halves */
static void sets_of_nine(play *p, int tier) {
    tiers2(p, 6);
    begin(p);
    equal_names(p, 9);
    fills(p, 9, tier);
}

static void sets(play *p) {
    sets_of_nine(p, 0);
    use_set(p, 0, 3, 0, 1);
    use_set(p, 5, 3, 0, 1);
    use_set(p, 1, 3, 0, 1);
}

static void sets_polled(play *p) {
    sets_of_nine(p, 1);
    for (int i = 0; i < 9; i += 3)
        use_set(p, i, 3, 0, 0);
}

static void polled(play *p) {
    tnm_pinned at;
    tiers2(p, 1);
    begin(p);
    names(p, 3);
    fills(p, 3, 0);
    for (int i = 0; i < 3; i++) {
        MUST(p, try_pin(p, i, 0, TNM_WRITE, &at));
        if (at.id == 0) continue;
        new_bytes(p, i, &at);
        MUST(p, tnm_unpin(p->g.ctx, &at, 1, 0));
    }
    looks(p, 3, 1);
}

static void prefetch(play *p) {
    tnm_use u[3];
    tiers2(p, 3);
    begin(p);
    names(p, 5);
    fills(p, 5, 1);
    for (int i = 0; i < 3; i++)
        u[i] = rig_use(p->t[i], 0, TNM_READ);
    u[1].flags = TNM_SURE;
    MUST(p, tnm_prefetch(p->g.ctx, 0, u, 3));
    pumps(p, 20);
    looks(p, 5, 0);
}

static void prefetch_cancelled(play *p) {
    tnm_use u[4];
    tiers2(p, 3);
    begin(p);
    names(p, 4);
    fills(p, 4, 1);
    for (int i = 0; i < 4; i++)
        u[i] = rig_use(p->t[i], 0, TNM_READ);
    MUST(p, tnm_prefetch(p->g.ctx, 0, u, 4));
    CHECK(tnm_pump(p->g.ctx, 2 * KIB) >= 0);
    CHECK(tnm_cancel(p->g.ctx, p->t, 4) >= 0);
    pumps(p, 10);
    looks(p, 4, 0);
}

static void scheduled(play *p) {
    tnm_use u[6];
    tiers2(p, 3);
    begin(p);
    names(p, 6);
    fills(p, 6, 1);
    for (int i = 0; i < 6; i++) {
        u[i] = rig_use(p->t[i], 0, TNM_READ);
        u[i].step = (uint64_t)i;
    }
    MUST(p, tnm_schedule(p->g.ctx, 0, u, 6, 6));
    for (int step = 0; step < 12; step++) {
        MUST(p, tnm_step(p->g.ctx, 0, (uint64_t)step));
        pumps(p, 2);
        look(p, step % 6, 0);
    }
}

static tnm_result evicted(play *p, int i, int tier) {
    tnm_result r = TNM_PENDING;
    UNTIL(p, r, tnm_evict(p->g.ctx, p->t[i], tier));
    return r;
}

static void evict(play *p) {
    tiers2(p, 3);
    begin(p);
    names(p, 3);
    fills(p, 3, 0);
    for (int i = 0; i < 3; i++)
        MUST(p, evicted(p, i, 0));
    looks(p, 3, 0);
}

static tnm_result flushed(play *p, tnm_tensor t, int tier) {
    tnm_result r = TNM_PENDING;
    UNTIL(p, r, tnm_flush(p->g.ctx, t, tier));
    return r;
}

/* several tensors may have failed, and each failure is told once */
static void flush_all(play *p, int tier) {
    tnm_tensor all = { 0 };
    tnm_result r = flushed(p, all, tier);
    if (r != TNM_OK && ours(p, r))
        for (int i = 0; i < 4 && r != TNM_OK; i++)
            r = flushed(p, all, tier);
    CHECK_EQ(r, TNM_OK);
}

static void flush(play *p) {
    tiers2(p, 4);
    begin(p);
    names(p, 4);
    fills(p, 4, 0);
    MUST(p, flushed(p, p->t[0], 1));
    flush_all(p, 1);
    looks(p, 4, 1);
}

static void flush_three(play *p) {
    tiers3(p, 3, 4);
    begin(p);
    names(p, 3);
    fills(p, 3, 0);
    MUST(p, flushed(p, p->t[0], 1));
    flush_all(p, 2);
    looks(p, 3, 0);
}

static void shrink(play *p) {
    tiers2(p, 3);
    begin(p);
    names(p, 3);
    fills(p, 3, 0);
    budget(p, 0, 0);
    looks(p, 3, 1);
    budget(p, 0, rig_room(2, ONE));
    looks(p, 3, 0);
}

static void shrink_segments(play *p) {
    tiers2(p, 4);
    p->g.tiers[0].segment_bytes = rig_room(1, ONE);
    begin(p);
    names(p, 4);
    fills(p, 4, 0);
    budget(p, 0, rig_room(2, ONE));
    looks(p, 4, 0);
}

static tnm_result plain_write(play *p, int i, uint64_t from, uint64_t bytes, uint64_t key) {
    static uint8_t what[16 * KIB];
    sim_fill(what, key, from, bytes);
    return tnm_write(p->g.ctx, p->t[i], from, what, bytes);
}

static void plain(play *p) {
    static uint8_t back[ONE];
    tiers2(p, 2);
    begin(p);
    names(p, 3);
    for (int round = 0; round < 2; round++) { /* into nothing, then over what lies there */
        for (int i = 0; i < 3; i++) {
            MUST(p, plain_write(p, i, 0, p->bytes[i], p->keys + 1));
            p->key[i] = ++p->keys;
            MUST(p, tnm_read(p->g.ctx, p->t[i], 0, back, p->bytes[i]));
            CHECK(sim_same(back, p->key[i], 0, p->bytes[i]));
        }
        looks(p, 3, 0);
    }
}

static void plain_part(play *p) {
    static uint8_t back[ONE];
    tiers2(p, 2);
    begin(p);
    name(p, 0, ONE, 0);
    MUST(p, plain_write(p, 0, 100, 1000, 7)); /* into nothing: zeros around it */
    MUST(p, tnm_read(p->g.ctx, p->t[0], 0, back, ONE));
    CHECK(sim_all(back, 0, 100) && sim_same(back + 100, 7, 100, 1000));
    CHECK(sim_all(back + 1100, 0, ONE - 1100));
}

static void plain_three(play *p) {
    static uint8_t back[ONE];
    tiers3(p, 1, 2);
    begin(p);
    names(p, 4);
    fills(p, 4, 0);
    for (int i = 0; i < 4; i++) {
        MUST(p, tnm_read(p->g.ctx, p->t[i], 10, back, 200));
        CHECK(sim_same(back, p->key[i], 10, 200));
    }
    MUST(p, plain_write(p, 0, 0, p->bytes[0], p->keys + 1));
    p->key[0] = ++p->keys;
    looks(p, 4, 0);
}

static void scrub(play *p) {
    tnm_pinned at;
    tiers2(p, 1);
    begin(p);
    name(p, 0, ONE, 0);
    name(p, 1, ONE, TNM_SCRUB);
    fill(p, 0, 0);
    MUST(p, pin(p, 1, 0, TNM_DISCARD, &at));
    if (at.id != 0) {
        CHECK(sim_all(sim_at(&p->g.sim, &at), 0, ONE));
        new_bytes(p, 1, &at);
        MUST(p, tnm_unpin(p->g.ctx, &at, 1, 0));
    }
    looks(p, 2, 0);
    forget(p, 1);
    look(p, 0, 0);
}

static void views(play *p) {
    tnm_tensor_desc d;
    tnm_tensor v;
    tnm_pinned at;
    tnm_use u;
    tiers2(p, 1);
    begin(p);
    names(p, 2);
    fills(p, 2, 0);
    memset(&d, 0, sizeof d);
    d.bytes = 500;
    MUST(p, tnm_tensor_view(p->g.ctx, p->t[0], 1000, &d, &v));
    u = rig_use(v, 0, TNM_READ);
    MUST(p, tnm_pin(p->g.ctx, &u, 1, &at));
    if (at.id != 0) {
        CHECK(sim_same(sim_at(&p->g.sim, &at), p->key[0], 1000, 500));
        MUST(p, tnm_unpin(p->g.ctx, &at, 1, 0));
    }
    forget(p, 0);
    look(p, 1, 0);
    MUST(p, tnm_tensor_destroy(p->g.ctx, v));
}

static int let_go;
static void released(void *user, uint64_t mem, uint64_t offset) {
    (void)user;
    (void)mem;
    (void)offset;
    let_go++;
}

static const uint8_t *adopt(play *p, int i, int tier, uint64_t front, int writable) {
    sim_device *d = &p->g.sim.device[tier];
    tnm_tensor_desc t;
    tnm_adopt_desc a;
    uint8_t *at;
    memset(&t, 0, sizeof t);
    t.bytes = p->bytes[i] = ONE;
    a = sim_lent(d, sim_lend(d, 16 * KIB), front);
    a.writable = writable;
    a.released = released;
    at = sim_find(d, a.mem)->at + front;
    sim_fill(at, ++p->keys, 0, ONE);
    MUST(p, tnm_tensor_adopt(p->g.ctx, &t, &a, &p->t[i]));
    p->key[i] = p->keys;
    return at;
}

static void adopted(play *p) {
    const uint8_t *at;
    let_go = 0;
    tiers2(p, 2);
    begin(p);
    at = adopt(p, 0, 1, 96, 0);
    adopt(p, 1, 1, 0, 0);
    name(p, 2, ONE, 0);
    fill(p, 2, 0);
    looks(p, 3, 0);
    looks(p, 3, 1);
    change(p, 0, 0); /* bytes of its own from here on */
    pumps(p, 20);
    CHECK_EQ(let_go, 1);
    CHECK(sim_same(at, 1, 0, ONE));
    looks(p, 3, 1);
    forget(p, 1);
    pumps(p, 20);
    CHECK_EQ(let_go, 2);
}

static void adopted_writable(play *p) {
    const uint8_t *at;
    let_go = 0;
    tiers2(p, 1);
    begin(p);
    at = adopt(p, 0, 1, 96, 1);
    name(p, 1, ONE, 0);
    change(p, 0, 0);
    fill(p, 1, 0);
    MUST(p, flushed(p, p->t[0], 1));
    CHECK(sim_same(at, p->key[0], 0, ONE));
    CHECK_EQ(let_go, 0);
    looks(p, 2, 0);
}

static void adopted_from_disk(play *p) {
    tiers3(p, 2, 3);
    p->g.tiers[2].backend.granularity = p->g.sim.device[2].granularity = 512;
    begin(p);
    adopt(p, 0, 2, 96, 0); /* an odd offset: head and tail bounce */
    adopt(p, 1, 2, 1024, 0);
    adopt(p, 2, 2, 32, 0);
    looks(p, 3, 0);
    looks(p, 3, 1);
    change(p, 0, 0);
    looks(p, 3, 0);
}

static void fences(play *p) {
    tnm_pinned at;
    tiers2(p, 1);
    begin(p);
    names(p, 2);
    fills(p, 2, 1);
    for (uint64_t n = 1; n <= 4; n++) {
        MUST(p, pin(p, (int)(n & 1), 0, TNM_READ, &at)); /* the fence in the way is waited for */
        if (at.id == 0) continue;
        CHECK(sim_same(sim_at(&p->g.sim, &at), p->key[n & 1], 0, p->bytes[n & 1]));
        MUST(p, tnm_unpin(p->g.ctx, &at, 1, TNM_FENCE(2, n)));
    }
    change(p, 0, 1);
    looks(p, 2, 0);
}

static void many_fences(play *p) {
    tnm_pinned at;
    tiers2(p, 2);
    begin(p);
    names(p, 1);
    fill(p, 0, 1);
    for (uint64_t n = 1; n <= 80; n++) {
        MUST(p, pin(p, 0, 0, TNM_READ, &at));
        if (at.id != 0) MUST(p, tnm_unpin(p->g.ctx, &at, 1, TNM_FENCE(n % 3, n)));
    }
    change(p, 0, 1);
}

static void staged(play *p) {
    tiers3(p, 1, 1);
    begin(p);
    names(p, 5);
    fills(p, 5, 0);
    looks(p, 5, 0);
    looks(p, 5, 1);
}

static void two_roots(play *p) {
    rig_tier(&p->g, "left", p->kind, rig_room(1, ONE));
    rig_tier(&p->g, "right", p->kind, rig_room(1, ONE));
    rig_tier(&p->g, "host", SIM_PLAIN, 0);
    p->g.tiers[0].spill_to = 2;
    begin(p);
    names(p, 4);
    fills(p, 2, 0);
    fill(p, 2, 1);
    fill(p, 3, 1);
    looks(p, 4, 1);
    looks(p, 4, 0);
    change(p, 1, 1);
    look(p, 1, 0);
}

static void dedicated(play *p) {
    tiers2(p, 2);
    p->g.tiers[0].segment_bytes = TNM_DEDICATED;
    begin(p);
    names(p, 4);
    fills(p, 4, 0);
    looks(p, 4, 0);
}

static void in_flight_destroyed(play *p) {
    tnm_pinned at;
    tnm_use u;
    tiers2(p, 2);
    begin(p);
    names(p, 3);
    fills(p, 3, 1);
    u = rig_use(p->t[0], 0, TNM_READ);
    if (tnm_try_pin(p->g.ctx, &u, 1, &at) == TNM_OK) MUST(p, tnm_unpin(p->g.ctx, &at, 1, 0));
    CHECK(tnm_pump(p->g.ctx, 1500) >= 0);
    forget(p, 0);
    pumps(p, 20);
    look(p, 1, 0);
    look(p, 2, 0);
}

static void context_in_flight(play *p) { /* ends with copies under way */
    tnm_use u[2];
    tiers2(p, 2);
    begin(p);
    names(p, 4);
    fills(p, 4, 0);
    for (int i = 0; i < 2; i++)
        u[i] = rig_use(p->t[i], 0, TNM_READ);
    MUST(p, tnm_prefetch(p->g.ctx, 0, u, 2));
    CHECK(tnm_pump(p->g.ctx, 2 * KIB) >= 0);
}

static void compacted(play *p) { /* a bottom tier with holes between what must stay */
    rig_tier(&p->g, "only", p->kind, rig_room(8, 1024));
    begin(p);
    for (int i = 0; i < 8; i++) {
        name(p, i, 1024, 0);
        fill(p, i, 0);
    }
    for (int i = 0; i < 8; i += 2)
        forget(p, i);
    name(p, 0, 2 * 1024, 0);
    fill(p, 0, 0);
    for (int i = 1; i < 8; i += 2)
        look(p, i, 0);
    look(p, 0, 0);
}

static void droppable(play *p) {
    tnm_pinned at;
    tnm_result r;
    tiers2(p, 1);
    begin(p);
    name(p, 0, ONE, 0);
    name(p, 1, ONE, TNM_DROPPABLE);
    fill(p, 1, 0);
    p->key[1] = 0; /* from here on it may be gone */
    fill(p, 0, 0);
    r = pin(p, 1, 1, TNM_READ, &at);
    if (r != TNM_OK && r != TNM_ERR_EMPTY && ours(p, r)) r = pin(p, 1, 1, TNM_READ, &at);
    CHECK(r == TNM_OK || r == TNM_ERR_EMPTY);
    if (r == TNM_OK) MUST(p, tnm_unpin(p->g.ctx, &at, 1, 0));
    look(p, 0, 0);
}

static void waiting(play *p) {
    tnm_use u;
    tiers2(p, 2);
    begin(p);
    names(p, 2);
    fills(p, 2, 1);
    u = rig_use(p->t[0], 0, TNM_READ);
    MUST(p, tnm_prefetch(p->g.ctx, 0, &u, 1));
    CHECK(tnm_pump(p->g.ctx, 2 * KIB) >= 0);
    for (int i = 0; i < 10; i++)
        CHECK(tnm_wait(p->g.ctx) >= 0);
    looks(p, 2, 0);
}

static int count_text(void *user, const char *text, uint64_t bytes) {
    (void)text;
    *(uint64_t *)user += bytes;
    return 0;
}

static void looked_at(play *p) {
    uint64_t text = 0;
    tnm_writer w = { count_text, NULL };
    tnm_shortage why;
    tnm_use u;
    w.user = &text;
    tiers2(p, 2);
    begin(p);
    names(p, 3);
    fills(p, 3, 0);
    u = rig_use(p->t[0], 0, TNM_READ);
    MUST(p, tnm_why(p->g.ctx, &u, 1, &why));
    MUST(p, tnm_dump(p->g.ctx, TNM_DUMP_TEXT, &w));
    MUST(p, tnm_dump(p->g.ctx, TNM_DUMP_JSON, &w));
    CHECK(text > 0);
}

/* ---- the machine ---- */
typedef struct scenario {
    const char *name;
    void (*run)(play *p);
} scenario;

static const scenario scenarios[] = {
    { "create_only", create_only },
    { "create_three_tiers", create_three_tiers },
    { "fixed_tables", fixed_tables },
    { "many_names", many_names },
    { "first_write", first_write },
    { "pressure", pressure },
    { "clean_reload", clean_reload },
    { "write_shared", write_shared },
    { "discard_again", discard_again },
    { "sets", sets },
    { "sets_polled", sets_polled },
    { "polled", polled },
    { "prefetch", prefetch },
    { "prefetch_cancelled", prefetch_cancelled },
    { "scheduled", scheduled },
    { "evict", evict },
    { "flush", flush },
    { "flush_three", flush_three },
    { "shrink", shrink },
    { "shrink_segments", shrink_segments },
    { "plain", plain },
    { "plain_part", plain_part },
    { "plain_three", plain_three },
    { "scrub", scrub },
    { "views", views },
    { "adopted", adopted },
    { "adopted_writable", adopted_writable },
    { "adopted_from_disk", adopted_from_disk },
    { "fences", fences },
    { "many_fences", many_fences },
    { "staged", staged },
    { "two_roots", two_roots },
    { "dedicated", dedicated },
    { "in_flight_destroyed", in_flight_destroyed },
    { "context_in_flight", context_in_flight },
    { "compacted", compacted },
    { "droppable", droppable },
    { "waiting", waiting },
    { "looked_at", looked_at },
};

static play stage;

/* one run; returns how often the fault fired */
static uint64_t perform(const scenario *s, int kind, int class_, uint64_t n, int forever) {
    play *p = &stage;
    uint64_t fired;
    rig_start(&p->g, 3);
    memset(p->key, 0, sizeof p->key);
    p->keys = 0;
    p->seen = 0;
    p->kind = kind;
    p->g.desc.chunk_bytes = 2 * KIB;
    p->g.sim.fault_class = class_;
    p->g.sim.fault_at = n;
    p->g.sim.fault_forever = forever;
    if (n > 0) p->g.sim.idle_limit = PATIENCE;
    s->run(p);
    fired = p->g.sim.fired;
    p->g.sim.fault_at = 0;
    p->g.sim.idle_limit = 0;
    if (p->g.ctx != NULL) {
        CHECK_EQ(tnm_check(p->g.ctx), 0);
        if (s->run != context_in_flight) intact(p);
    }
    rig_end(&p->g);
    return fired;
}

static void every_n(const scenario *s, int kind, int class_, int forever) {
    int stride = check_scale(1, 7);
    for (uint64_t n = 1; n < 100000; n += (uint64_t)stride) {
        int before = check_bad;
        long long blocks = check_live_blocks();
        uint64_t fired = perform(s, kind, class_, n, forever);
        CHECK_EQ(check_live_blocks(), blocks);
        if (check_bad != before) {
            printf("%s: kind %d, class %d, n %d, %s\n", s->name, kind, class_, (int)n,
                   forever ? "for ever" : "once");
            return;
        }
        if (fired == 0) return;
    }
}

static const scenario *current;
static int only = -1; /* this class of callbacks */

TEST(scenario_with_every_fault) {
    static const int kinds[] = { SIM_PLAIN, SIM_HIDDEN | SIM_ASYNC };
    for (int k = 0; k < 2; k++) {
        perform(current, kinds[k], SIM_CLASSES, 0, 0);
        for (int class_ = 0; class_ < SIM_CLASSES && check_bad == 0; class_++) {
            if (only >= 0 && class_ != only) continue;
            every_n(current, kinds[k], class_, 0);
            every_n(current, kinds[k], class_, 1);
        }
    }
}

int main(int argc, char **argv) { /* test_fault [SCENARIO [CLASS]] */
    if (argc > 2) only = atoi(argv[2]);
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        if (argc > 1 && strcmp(argv[1], scenarios[i].name) != 0) continue;
        current = &scenarios[i];
        check_run(current->name, scenario_with_every_fault);
    }
    return check_done();
}
