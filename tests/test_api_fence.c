/* needs: tensormem.o */
/* Fences from outside: what a pending one holds and what it does not, several queues, a dead queue,
 * a full table, and waiting. P3, P4. */
#include "tensormem.h"
#include "sim.h"

enum { KIB = 1024, ONE = 8 * KIB };

/* a tensor of payload 1 whose pin on tier 0 hangs on a fence */
static tnm_tensor fenced(rig *g, tnm_access access, uint64_t fence) {
    tnm_tensor t = rig_tensor(g, ONE, 0);
    tnm_pinned p;
    rig_write(g, t, 0, 1);
    CHECK_EQ(rig_pin(g, t, 0, access, &p), TNM_OK);
    CHECK_EQ(rig_unpin(g, &p, fence), TNM_OK);
    return t;
}

EACH(a_fence_keeps_the_pin) {
    tnm_tensor t;
    tnm_result r;
    rig_pair(g, kind, rig_room(2, ONE));
    t = fenced(g, TNM_READ, TNM_FENCE(1, 4));
    rig_pump(g, 20);
    CHECK_EQ(rig_info(g, t, 0).pins, 1);
    CHECK_EQ(rig_info(g, t, 0).fenced, 1);
    CHECK_EQ(tnm_evict(g->ctx, t, 0), TNM_PENDING); /* it ends without the caller */
    CHECK(g->sim.asked_queue[1] > 0);
    CHECK_EQ(g->sim.asked_queue[0], 0);
    g->sim.now[1] = 3;
    rig_pump(g, 20);
    CHECK_EQ(rig_info(g, t, 0).fenced, 1);
    g->sim.now[1] = 4;
    tnm_pump(g->ctx, TNM_ALL);
    CHECK_EQ(rig_info(g, t, 0).pins, 0);
    RIG_UNTIL(r, g, tnm_evict(g->ctx, t, 0));
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(rig_state(g, t, 0), TNM_STATE_ABSENT);
    rig_expect(g, t, 1, 1);
    rig_end(g);
}

EACH(a_pending_fence_lets_the_same_tier_in) {
    tnm_tensor t;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(1, ONE));
    t = fenced(g, TNM_WRITE, TNM_FENCE(0, 9));
    CHECK_EQ(rig_try(g, t, 0, TNM_READ, &p), TNM_OK); /* ordered by the caller's own queue */
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    CHECK_EQ(rig_try(g, t, 0, TNM_WRITE, &p), TNM_OK);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    CHECK_EQ(g->sim.now[0], 0); /* nobody waited */
    rig_end(g);
}

EACH(a_pending_write_fence_holds_other_tiers_up) {
    tnm_tensor t;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(2, ONE));
    t = fenced(g, TNM_WRITE, TNM_FENCE(2, 7));
    for (int i = 0; i < 30; i++) {
        CHECK_EQ(rig_try(g, t, 1, TNM_READ, &p), TNM_PENDING); /* PENDING, not BUSY */
        tnm_pump(g->ctx, TNM_ALL);
    }
    rig_expect(g, t, 1, 1); /* a blocking pin waits for it */
    CHECK(g->sim.told[2] >= 7);
    rig_end(g);
}

EACH(a_pending_read_fence_holds_writers_up) {
    tnm_tensor t;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(2, ONE));
    t = fenced(g, TNM_READ, TNM_FENCE(2, 7));
    CHECK_EQ(rig_try(g, t, 1, TNM_WRITE, &p), TNM_PENDING);
    CHECK_EQ(rig_pin(g, t, 1, TNM_READ, &p), TNM_OK); /* readers share */
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    CHECK_EQ(g->sim.told[2], 0);
    CHECK_EQ(rig_pin(g, t, 1, TNM_WRITE, &p), TNM_OK);
    CHECK(g->sim.told[2] >= 7);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_end(g);
}

EACH(read_waits_for_a_writing_fence) {
    static uint8_t back[ONE];
    tnm_tensor t;
    rig_pair(g, kind, rig_room(2, ONE));
    t = fenced(g, TNM_WRITE, TNM_FENCE(2, 7));
    CHECK_EQ(tnm_read(g->ctx, t, 0, back, ONE), TNM_OK);
    CHECK(g->sim.told[2] >= 7);
    CHECK(sim_same(back, 1, 0, ONE));
    rig_end(g);
}

EACH(nothing_is_read_while_the_device_writes) { /* no write-back before the fence */
    tnm_tensor t;
    tnm_result r = TNM_OK;
    tnm_pinned p, q;
    uint8_t *at;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    CHECK_EQ(rig_pin(g, t, 0, TNM_WRITE, &p), TNM_OK);
    at = sim_at(&g->sim, &p);
    q = p;
    CHECK_EQ(rig_unpin(g, &p, TNM_FENCE(0, 5)), TNM_OK);
    for (int i = 0; i < 30; i++) {
        r = tnm_flush(g->ctx, t, 1);
        tnm_pump(g->ctx, TNM_ALL);
    }
    CHECK_EQ(r, TNM_PENDING);
    sim_fill(at, 2, 0, q.bytes); /* the device is done only now */
    g->sim.now[0] = 5;
    RIG_UNTIL(r, g, tnm_flush(g->ctx, t, 1));
    CHECK_EQ(r, TNM_OK);
    rig_expect(g, t, 1, 2);
    rig_end(g);
}

EACH(room_under_a_fence_is_waited_for) { /* not BUDGET: it passes without the caller */
    tnm_tensor t, other;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(1, ONE));
    t = fenced(g, TNM_READ, TNM_FENCE(3, 2));
    other = rig_tensor(g, ONE, 0);
    rig_write(g, other, 1, 5);
    CHECK_EQ(rig_try(g, other, 0, TNM_READ, &p), TNM_PENDING);
    rig_expect(g, other, 0, 5);
    CHECK(g->sim.told[3] >= 2);
    rig_expect(g, t, 0, 1);
    rig_end(g);
}

EACH(several_queues_on_one_replica) {
    tnm_tensor t;
    tnm_pinned p[3];
    tnm_result r;
    rig_pair(g, kind, rig_room(1, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &p[i]), TNM_OK);
    for (uint32_t i = 0; i < 3; i++)
        CHECK_EQ(rig_unpin(g, &p[i], TNM_FENCE(i, 10 - i)), TNM_OK);
    CHECK_EQ(rig_info(g, t, 0).fenced, 3);
    g->sim.now[2] = 50;
    tnm_pump(g->ctx, 0);
    CHECK_EQ(rig_info(g, t, 0).fenced, 2);
    g->sim.now[0] = 10;
    tnm_pump(g->ctx, 0);
    CHECK_EQ(rig_info(g, t, 0).fenced, 1);
    CHECK_EQ(tnm_evict(g->ctx, t, 0), TNM_PENDING);
    g->sim.now[1] = 9;
    RIG_UNTIL(r, g, tnm_evict(g->ctx, t, 0));
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(rig_info(g, t, 0).pins, 0);
    rig_end(g);
}

EACH(fences_fall_in_the_order_of_their_values) { /* threads may tell them in another */
    static const uint64_t value[] = { 5, 3, 9, 4, 3, 9, 1 };
    enum { COUNT = sizeof value / sizeof value[0] };
    tnm_tensor t[COUNT], late;
    rig_pair(g, kind, rig_room(COUNT + 1, ONE));
    for (int i = 0; i < COUNT; i++)
        t[i] = fenced(g, TNM_READ, TNM_FENCE(1, value[i]));
    for (uint64_t now = 0; now < 5; now++) {
        CHECK_EQ(tnm_check(g->ctx), 0);
        g->sim.now[1] = now;
        tnm_pump(g->ctx, 0);
        for (int i = 0; i < COUNT; i++)
            CHECK_EQ(rig_info(g, t[i], 0).fenced, value[i] > now);
    }
    late = fenced(g, TNM_READ, TNM_FENCE(1, 7)); /* between those that are left */
    CHECK_EQ(tnm_check(g->ctx), 0);
    g->sim.now[1] = 7;
    tnm_pump(g->ctx, 0);
    CHECK_EQ(rig_info(g, late, 0).fenced, 0);
    CHECK_EQ(rig_info(g, t[0], 0).fenced, 0);
    CHECK_EQ(rig_info(g, t[2], 0).fenced, 1);
    rig_end(g);
}

EACH(a_fence_that_has_passed_already) {
    tnm_tensor t;
    rig_pair(g, kind, rig_room(1, ONE));
    g->sim.now[0] = 100;
    t = fenced(g, TNM_READ, TNM_FENCE(0, 100));
    tnm_pump(g->ctx, 0);
    CHECK_EQ(rig_info(g, t, 0).pins, 0);
    rig_end(g);
}

EACH(destroyed_under_a_fence) {
    tnm_tensor t;
    rig_pair(g, kind, rig_room(1, ONE));
    t = fenced(g, TNM_READ, TNM_FENCE(0, 3));
    CHECK_EQ(tnm_tensor_destroy(g->ctx, t), TNM_OK);
    rig_pump(g, 10);
    CHECK(rig_stats(g, 0).used_bytes > 0); /* the device still reads it */
    g->sim.now[0] = 3;
    rig_rest(g);
    CHECK_EQ(rig_stats(g, 0).used_bytes, 0);
    rig_end(g);
}

EACH(a_full_table_unpins_nothing) {
    enum { MOST = 8 };
    tnm_tensor t;
    tnm_pinned p[MOST + 2];
    rig_tier(g, "fast", kind, rig_room(1, ONE));
    rig_tier(g, "slow", SIM_PLAIN, 0);
    g->desc.max_tensors = 4;
    g->desc.max_fences = MOST;
    rig_create(g);
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    for (int i = 0; i < MOST + 2; i++)
        CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &p[i]), TNM_OK);
    for (int i = 0; i < MOST; i++)
        CHECK_EQ(rig_unpin(g, &p[i], TNM_FENCE(0, (uint64_t)i + 1)), TNM_OK);
    CHECK_EQ(tnm_unpin(g->ctx, p + MOST, 2, TNM_FENCE(0, 50)), TNM_ERR_CAPACITY);
    CHECK(p[MOST].id != 0 && p[MOST + 1].id != 0);
    CHECK_EQ(rig_info(g, t, 0).pins, MOST + 2);
    CHECK_EQ(rig_info(g, t, 0).fenced, MOST);
    g->sim.now[0] = 2;
    tnm_pump(g->ctx, 0); /* "pump and call again" */
    CHECK_EQ(tnm_unpin(g->ctx, p + MOST, 2, TNM_FENCE(0, 50)), TNM_OK);
    g->sim.now[0] = 50;
    memset(g->sim.holds, 0, sizeof g->sim.holds);
    rig_rest(g);
    CHECK_EQ(rig_info(g, t, 0).pins, 0);
    rig_end(g);
}

/* More replicas than the first chunk of a table has; the first fence is on the last of them. Names
 * die under their fences and others take their records over. */
EACH(fences_are_counted_for_each_replica) {
    enum { MANY = 100, SMALL = 64, LIVE = 40, QUEUES = 3 };
    static tnm_tensor t[MANY];
    static tnm_pinned p[LIVE];
    static uint64_t until[MANY][QUEUES][8]; /* values of its fences, 0 = none */
    int rounds = check_scale(1500, 300), at[LIVE];
    memset(until, 0, sizeof until);
    memset(p, 0, sizeof p);
    rig_pair(g, kind, rig_room(MANY * 2, SMALL));
    rig_make(g, t, MANY, SMALL, 0);
    CHECK_EQ(rig_pin(g, t[MANY - 1], 0, TNM_READ, &p[0]), TNM_OK);
    CHECK_EQ(rig_unpin(g, &p[0], TNM_FENCE(0, 1)), TNM_OK);
    until[MANY - 1][0][0] = 1;
    for (int round = 0; round < rounds; round++) {
        int slot = (int)sim_draw(&g->sim, LIVE), i = (int)sim_draw(&g->sim, MANY);
        uint32_t q = (uint32_t)sim_draw(&g->sim, QUEUES), fenced = 0;
        if (p[slot].id == 0) { /* few tensors often, so that one has several fences */
            at[slot] = round & 1 ? i : MANY - 1 - (i & 3);
            if (rig_try(g, t[at[slot]], 0, sim_draw(&g->sim, 3) ? TNM_READ : TNM_WRITE, &p[slot]) !=
                TNM_OK)
                CHECK_EQ(p[slot].id, 0);
        } else {
            uint64_t value = g->sim.now[q] + 1 + sim_draw(&g->sim, 3);
            int k = 0;
            while (k < 8 && until[at[slot]][q][k] > g->sim.now[q])
                k++;
            if (k == 8) value = 0;
            if (value) until[at[slot]][q][k] = value;
            CHECK_EQ(rig_unpin(g, &p[slot], value ? TNM_FENCE(q, value) : 0), TNM_OK);
        }
        if (sim_draw(&g->sim, 4) == 0) {
            g->sim.now[q]++;
            tnm_pump(g->ctx, 0);
        }
        for (uint32_t of = 0; of < QUEUES; of++)
            for (int k = 0; k < 8; k++)
                fenced += until[i][of][k] > g->sim.now[of];
        CHECK_EQ(rig_info(g, t[i], 0).fenced, fenced);
        CHECK_EQ(tnm_check(g->ctx), 0);
        for (slot = 0; slot < LIVE && (p[slot].id == 0 || at[slot] != i);)
            slot++;
        if (slot < LIVE || sim_draw(&g->sim, 4)) continue;
        CHECK_EQ(tnm_tensor_destroy(g->ctx, t[i]), TNM_OK);
        t[i] = rig_tensor(g, SMALL, 0);
        rig_write(g, t[i], 0, (uint64_t)i);
        memset(until[i], 0, sizeof until[i]);
    }
    for (int slot = 0; slot < LIVE; slot++)
        if (p[slot].id) CHECK_EQ(rig_unpin(g, &p[slot], 0), TNM_OK);
    for (int q = 0; q < QUEUES; q++)
        g->sim.now[q] += 3;
    rig_rest(g);
    for (int i = 0; i < MANY; i++)
        CHECK(rig_info(g, t[i], 0).pins == 0 && rig_info(g, t[i], 0).fenced == 0);
    rig_end(g);
}

TEST(a_fence_without_memory_unpins_nothing) {
    enum { MANY = 70 }; /* the last one's count is behind the first chunk */
    static rig g;
    tnm_tensor t = { 0 };
    tnm_pinned p;
    tnm_result r = TNM_ERR_MEMORY;
    int tries = 0;
    rig_start(&g, 1);
    rig_pair(&g, SIM_PLAIN, rig_room(MANY, ONE));
    for (int i = 0; i < MANY; i++) {
        t = rig_tensor(&g, ONE, 0);
        rig_write(&g, t, 0, 1);
    }
    CHECK_EQ(rig_pin(&g, t, 0, TNM_READ, &p), TNM_OK);
    for (; r == TNM_ERR_MEMORY && tries < 10; tries++) {
        check_fail_alloc(1 + tries, 0);
        r = rig_unpin(&g, &p, TNM_FENCE(0, 1));
        check_fail_alloc(0, 0);
        CHECK((p.id == 0) == (r == TNM_OK));
        CHECK_EQ(rig_info(&g, t, 0).fenced, r == TNM_OK);
        CHECK_EQ(tnm_check(g.ctx), 0);
    }
    CHECK_EQ(r, TNM_OK);
    CHECK(tries > 1);
    g.sim.now[0] = 1;
    rig_rest(&g);
    CHECK_EQ(rig_info(&g, t, 0).pins, 0);
    rig_end(&g);
}

/* A queue that could not be marked says 0, or -1: no fence may come of that, nor "done now", while
 * the device may still be reading. */
EACH(a_mark_that_failed_lets_nothing_go) {
    static const uint64_t bad[] = { 0, UINT64_MAX, ((uint64_t)1 << 55) - 1 };
    static const uint32_t queues[] = { 0, 1, 255 };
    tnm_tensor t, other;
    tnm_pinned p, set[2];
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    other = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    rig_write(g, other, 0, 2);
    CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &p), TNM_OK);
    for (int q = 0; q < 3; q++)
        for (int i = 0; i < 3; i++) {
            tnm_pinned kept = p;
            uint64_t fence = TNM_FENCE(queues[q], bad[i]);
            CHECK(fence != 0);
            CHECK_EQ(tnm_unpin(g->ctx, &p, 1, fence), TNM_ERR_ARGUMENT);
            CHECK(memcmp(&kept, &p, sizeof p) == 0);
            CHECK_EQ(rig_info(g, t, 0).pins, 1);
            CHECK_EQ(rig_info(g, t, 0).fenced, 0);
        }
    CHECK_EQ(tnm_unpin(g->ctx, &p, 1, 7), TNM_ERR_ARGUMENT); /* a bare value is no fence */
    CHECK_EQ(tnm_unpin(g->ctx, &p, 1, UINT64_MAX >> 1), TNM_ERR_ARGUMENT);
    CHECK_EQ(rig_pin(g, other, 0, TNM_READ, &set[1]), TNM_OK);
    set[0] = p;
    CHECK_EQ(tnm_unpin(g->ctx, set, 2, TNM_FENCE(0, 0)), TNM_ERR_ARGUMENT); /* all or nothing */
    CHECK(set[0].id != 0 && set[1].id != 0);
    CHECK_EQ(tnm_evict(g->ctx, t, 0), TNM_ERR_BUSY);
    CHECK_EQ(tnm_destroy(g->ctx), TNM_ERR_BUSY);
    CHECK_EQ(rig_unpin(g, &set[1], 0), TNM_OK);
    CHECK_EQ(rig_unpin(g, &set[0], TNM_FENCE(0, 3)), TNM_OK); /* marked after all */
    CHECK_EQ(rig_info(g, t, 0).fenced, 1);
    g->sim.now[0] = 3;
    rig_rest(g);
    CHECK_EQ(rig_info(g, t, 0).pins, 0);
    rig_end(g);
}

/* What a fence can say goes to its queue, at both ends of what it can. */
static uint32_t asked_queue;
static uint64_t asked_until, stands_at;
static uint64_t one_passed(void *user, uint32_t queue, uint64_t wait_for) {
    asked_queue = queue;
    if (wait_for) stands_at = asked_until = wait_for;
    ((sim *)user)->told[queue % SIM_QUEUES] = stands_at;
    return stands_at;
}

TEST(first_and_last_queue_and_value) {
    static const uint32_t queues[] = { 0, 1, 127, 128, 254, 255 };
    static const uint64_t values[] = { 1, 2, ((uint64_t)1 << 54) + 1, ((uint64_t)1 << 55) - 2 };
    static rig g;
    for (int i = 0; i < 6 * 4; i++) {
        uint32_t queue = queues[i / 4];
        uint64_t value = values[i % 4];
        rig_start(&g, 1);
        g.desc.passed = one_passed;
        rig_pair(&g, SIM_PLAIN, rig_room(2, ONE));
        stands_at = value - 1;
        tnm_tensor t = fenced(&g, TNM_READ, TNM_FENCE(queue, value));
        rig_pump(&g, 4);
        CHECK_EQ(rig_info(&g, t, 0).fenced, 1);
        CHECK_EQ(asked_queue, queue);
        CHECK_EQ(tnm_wait(g.ctx), TNM_OK);
        CHECK_EQ(asked_until, value);
        CHECK_EQ(rig_info(&g, t, 0).pins, 0);
        rig_end(&g);
    }
}

/* ---- a queue that died ---- */
static int queue_is_dead;
static uint64_t dead_passed(void *user, uint32_t queue, uint64_t wait_for) {
    uint64_t now = sim_passed(user, queue, queue_is_dead ? 0 : wait_for);
    if (!queue_is_dead || queue != 1) return now;
    ((sim *)user)->told[1] = UINT64_MAX >> 8;
    return UINT64_MAX;
}

EACH(a_dead_queue_counts_as_passed) {
    tnm_tensor r, w;
    tnm_pinned p;
    uint8_t byte = 0;
    g->desc.passed = dead_passed;
    queue_is_dead = 0;
    rig_pair(g, kind, rig_room(3, ONE));
    r = fenced(g, TNM_READ, TNM_FENCE(1, 5));
    w = fenced(g, TNM_WRITE, TNM_FENCE(1, 6));
    queue_is_dead = 1;
    rig_pump(g, 5);
    CHECK_EQ(rig_info(g, r, 0).pins, 0);
    CHECK_EQ(rig_info(g, w, 0).pins, 0);
    rig_expect(g, r, 1, 1);                                 /* what it read is as it was */
    CHECK_EQ(rig_pin(g, w, 0, TNM_READ, &p), TNM_ERR_LOST); /* what it was writing is lost */
    CHECK_EQ(tnm_read(g->ctx, w, 0, &byte, 1), TNM_ERR_LOST);
    CHECK_EQ(tnm_check(g->ctx), 0);
    rig_write(g, w, 0, 8); /* DISCARD is the way out */
    rig_expect(g, w, 1, 8);
    rig_end(g);
}

EACH(what_is_lost_waits_for_its_fences) { /* and is BUSY under a live pin */
    uint8_t bytes[ONE];
    tnm_tensor t;
    tnm_pinned held;
    rig_tier(g, "only", kind | SIM_HIDDEN, rig_room(2, ONE));
    if (!rig_create(g)) return;
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    sim_fill(bytes, 2, 0, ONE);
    CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &held), TNM_OK);
    sim_break(&g->sim, SIM_COPY, 2, 0);
    CHECK_EQ(tnm_write(g->ctx, t, 0, bytes, ONE), TNM_ERR_LOST); /* half of it is there */
    CHECK_EQ(tnm_write(g->ctx, t, 0, bytes, ONE), TNM_ERR_BUSY);
    CHECK_EQ(rig_unpin(g, &held, TNM_FENCE(0, g->sim.now[0] + 1)), TNM_OK);
    CHECK_EQ(tnm_write(g->ctx, t, 0, bytes, ONE), TNM_OK);
    rig_expect(g, t, 0, 2);
    rig_end(g);
}

EACH(wait_sleeps_until_something_ends) {
    tnm_tensor t;
    tnm_result r = TNM_PENDING;
    rig_pair(g, kind, rig_room(1, ONE));
    CHECK_EQ(tnm_wait(g->ctx), TNM_OK); /* nothing under way */
    t = fenced(g, TNM_READ, TNM_FENCE(0, 3));
    for (int i = 0; i < 20 && r == TNM_PENDING; i++)
        r = tnm_wait(g->ctx);
    CHECK_EQ(r, TNM_OK);
    CHECK(g->sim.told[0] >= 3);
    CHECK_EQ(rig_info(g, t, 0).pins, 0);
    rig_end(g);
}

EACH(a_fence_that_never_passes_is_given_up) {
    tnm_tensor t;
    rig_pair(g, kind, rig_room(1, ONE));
    t = fenced(g, TNM_WRITE, TNM_FENCE(0, 3));
    g->sim.fence_stuck = 1;
    g->sim.idle_limit = 10;
    {
        tnm_pinned p;
        CHECK_EQ(rig_pin(g, t, 1, TNM_READ, &p), TNM_PENDING);
    }
    CHECK_EQ(tnm_destroy(g->ctx), TNM_PENDING);
    g->sim.fence_stuck = 0;
    g->sim.idle_limit = 0;
    rig_expect(g, t, 1, 1);
    rig_end(g);
}

int main(void) {
    RUN(a_fence_keeps_the_pin);
    RUN(a_pending_fence_lets_the_same_tier_in);
    RUN(a_pending_write_fence_holds_other_tiers_up);
    RUN(a_pending_read_fence_holds_writers_up);
    RUN(read_waits_for_a_writing_fence);
    RUN(nothing_is_read_while_the_device_writes);
    RUN(room_under_a_fence_is_waited_for);
    RUN(several_queues_on_one_replica);
    RUN(fences_fall_in_the_order_of_their_values);
    RUN(a_fence_that_has_passed_already);
    RUN(destroyed_under_a_fence);
    RUN(a_full_table_unpins_nothing);
    RUN(fences_are_counted_for_each_replica);
    RUN(a_fence_without_memory_unpins_nothing);
    RUN(a_mark_that_failed_lets_nothing_go);
    RUN(first_and_last_queue_and_value);
    RUN(a_dead_queue_counts_as_passed);
    RUN(what_is_lost_waits_for_its_fences);
    RUN(wait_sleeps_until_something_ends);
    RUN(a_fence_that_never_passes_is_given_up);
    return check_done();
}
