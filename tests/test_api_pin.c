/* needs: tensormem.o */
/* Pins from outside: sets, views, WRITE and DISCARD, BUSY both ways, try_pin and claims, misuse.
 * Proves P1, P3, P4, P6 and the pin rows of the table of events. */
#include "tensormem.h"
#include "sim.h"

enum { KIB = 1024, ONE = 8 * KIB };

static uint64_t total_calls(const rig *g) {
    uint64_t n = 0;
    for (int i = 0; i < SIM_HOST_ALLOC; i++)
        n += g->sim.calls[i];
    return n;
}

/* ---- bytes ---- */
EACH(bytes_survive_eviction) { /* P1 */
    tnm_tensor t[6];
    rig_pair(g, kind, rig_room(2, ONE));
    for (int i = 0; i < 6; i++) {
        t[i] = rig_tensor(g, ONE - (uint64_t)i * 100, 0);
        rig_write(g, t[i], 0, (uint64_t)i);
    }
    for (int round = 0; round < 3; round++)
        rig_expect_all(g, t, 6, round & 1);
    CHECK(rig_stats(g, 0).peak_bytes <= rig_room(2, ONE));
    CHECK(rig_stats(g, 0).evictions > 0);
    rig_end(g);
}

EACH(write_keeps_what_it_does_not_touch) {
    tnm_tensor t;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 1, 5);
    CHECK_EQ(rig_pin(g, t, 0, TNM_WRITE, &p), TNM_OK);
    CHECK(sim_same(sim_at(&g->sim, &p), 5, 0, ONE));
    sim_at(&g->sim, &p)[77] ^= 0xFF;
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    CHECK_EQ(rig_pin(g, t, 1, TNM_READ, &p), TNM_OK);
    CHECK(sim_same(sim_at(&g->sim, &p), 5, 0, 77));
    CHECK_EQ(sim_at(&g->sim, &p)[77], 0xFF ^ sim_byte(5, 77));
    CHECK(sim_same(sim_at(&g->sim, &p) + 78, 5, 78, ONE - 78));
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_end(g);
}

EACH(write_drops_other_replicas_at_the_grant) {
    tnm_tensor t;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 1, 1);
    rig_expect(g, t, 0, 1);
    CHECK_EQ(rig_state(g, t, 0), TNM_STATE_READY);
    CHECK_EQ(rig_state(g, t, 1), TNM_STATE_READY);
    CHECK_EQ(rig_info(g, t, 0).dirty, 0);
    CHECK_EQ(rig_pin(g, t, 0, TNM_WRITE, &p), TNM_OK);
    CHECK_EQ(rig_state(g, t, 1), TNM_STATE_ABSENT);
    CHECK_EQ(rig_info(g, t, 0).dirty, 1);
    sim_fill(sim_at(&g->sim, &p), 2, 0, ONE);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_expect(g, t, 1, 2);
    rig_expect(g, t, 0, 2);
    rig_end(g);
}

EACH(empty_cannot_be_read) {
    tnm_tensor t;
    tnm_pinned p;
    uint8_t byte = 0;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    CHECK_EQ(rig_info(g, t, 0).empty, 1);
    CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &p), TNM_ERR_EMPTY);
    CHECK_EQ(rig_pin(g, t, 0, TNM_WRITE, &p), TNM_ERR_EMPTY);
    CHECK_EQ(rig_try(g, t, 1, TNM_READ, &p), TNM_ERR_EMPTY);
    CHECK_EQ(tnm_read(g->ctx, t, 0, &byte, 1), TNM_ERR_EMPTY);
    CHECK_EQ(g->sim.calls[SIM_COPY], 0);
    rig_write(g, t, 0, 3);
    CHECK_EQ(rig_info(g, t, 0).empty, 0);
    rig_expect(g, t, 1, 3);
    rig_end(g);
}

EACH(discard_fetches_nothing) {
    tnm_tensor t;
    tnm_pinned p;
    uint64_t before;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 1, 1);
    before = g->sim.calls[SIM_COPY];
    CHECK_EQ(rig_pin(g, t, 0, TNM_DISCARD, &p), TNM_OK);
    CHECK_EQ(g->sim.calls[SIM_COPY], before);
    CHECK_EQ(rig_state(g, t, 1), TNM_STATE_ABSENT);
    sim_fill(sim_at(&g->sim, &p), 9, 0, ONE);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_expect(g, t, 1, 9);
    rig_end(g);
}

EACH(discard_refused_loses_nothing) { /* P5: the old replica goes only when the new place exists */
    tnm_tensor t, wall;
    tnm_pinned p, q;
    rig_pair(g, kind, rig_room(1, ONE));
    t = rig_tensor(g, ONE, 0);
    wall = rig_tensor(g, ONE, 0);
    rig_write(g, t, 1, 4);
    CHECK_EQ(rig_pin(g, wall, 0, TNM_DISCARD, &q), TNM_OK);
    CHECK_EQ(rig_pin(g, t, 0, TNM_DISCARD, &p), TNM_ERR_BUDGET);
    CHECK_EQ(rig_unpin(g, &q, 0), TNM_OK);
    rig_expect(g, t, 1, 4);
    rig_end(g);
}

EACH(scrub_shows_zeros) {
    tnm_tensor dirt, t;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(1, ONE));
    dirt = rig_tensor(g, ONE, 0);
    t = rig_tensor(g, ONE, TNM_SCRUB);
    rig_write(g, dirt, 0, 1);
    CHECK_EQ(rig_pin(g, t, 0, TNM_DISCARD, &p), TNM_OK);
    CHECK(sim_all(sim_at(&g->sim, &p), 0, ONE));
    sim_fill(sim_at(&g->sim, &p), 2, 0, ONE);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_expect(g, dirt, 0, 1);
    rig_expect(g, t, 0, 2);
    rig_end(g);
}

TEST(scrub_wipes_what_leaves) { /* plain memory, so that the test can look at the old place */
    static rig g;
    tnm_tensor t, other;
    tnm_pinned p;
    const uint8_t *was;
    rig_start(&g, 1);
    rig_pair(&g, SIM_PLAIN, rig_room(2, ONE));
    other = rig_tensor(&g, ONE, 0);
    rig_write(&g, other, 0, 1);
    t = rig_tensor(&g, ONE, TNM_SCRUB);
    CHECK_EQ(rig_pin(&g, t, 0, TNM_DISCARD, &p), TNM_OK);
    was = sim_at(&g.sim, &p);
    sim_fill(sim_at(&g.sim, &p), 2, 0, ONE);
    CHECK_EQ(rig_unpin(&g, &p, 0), TNM_OK);
    CHECK_EQ(tnm_tensor_destroy(g.ctx, t), TNM_OK);
    rig_rest(&g);
    t = rig_tensor(&g, ONE, 0);
    CHECK_EQ(rig_pin(&g, t, 0, TNM_DISCARD, &p), TNM_OK);
#ifdef TENSORMEM_VALGRIND /* what DISCARD shows is undefined to a program, but this one looks */
    (void)VALGRIND_MAKE_MEM_DEFINED(was, ONE);
#endif
    if (p.host == was) CHECK(sim_all(was, 0, ONE));
    CHECK(p.host == was); /* the only place there is */
    CHECK_EQ(rig_unpin(&g, &p, 0), TNM_OK);
    rig_end(&g);
}

/* ---- BUSY both ways ---- */
EACH(write_is_busy_beside_a_pin_elsewhere) {
    tnm_tensor t;
    tnm_pinned r, w;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 1, 1);
    CHECK_EQ(rig_pin(g, t, 1, TNM_READ, &r), TNM_OK);
    CHECK_EQ(rig_pin(g, t, 0, TNM_WRITE, &w), TNM_ERR_BUSY);
    CHECK_EQ(rig_pin(g, t, 0, TNM_DISCARD, &w), TNM_ERR_BUSY);
    CHECK_EQ(rig_try(g, t, 0, TNM_WRITE, &w), TNM_ERR_BUSY);
    CHECK(sim_same(sim_at(&g->sim, &r), 1, 0, ONE));
    CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &w), TNM_OK); /* readers share */
    CHECK_EQ(rig_unpin(g, &w, 0), TNM_OK);
    CHECK_EQ(rig_unpin(g, &r, 0), TNM_OK);
    CHECK_EQ(rig_pin(g, t, 0, TNM_WRITE, &w), TNM_OK);
    CHECK_EQ(rig_pin(g, t, 1, TNM_READ, &r), TNM_ERR_BUSY);
    CHECK_EQ(rig_try(g, t, 1, TNM_READ, &r), TNM_ERR_BUSY);
    CHECK_EQ(rig_pin(g, t, 1, TNM_WRITE, &r), TNM_ERR_BUSY);
    CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &r), TNM_OK); /* the same tier is the caller's order */
    CHECK_EQ(rig_unpin(g, &r, 0), TNM_OK);
    CHECK_EQ(rig_unpin(g, &w, 0), TNM_OK);
    rig_expect(g, t, 1, 1);
    rig_end(g);
}

EACH(busy_reaches_through_views) {
    tnm_tensor t, v;
    tnm_pinned r, w;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 1, 1);
    v = rig_view(g, t, 512, 512);
    CHECK_EQ(rig_pin(g, v, 1, TNM_READ, &r), TNM_OK);
    CHECK_EQ(rig_pin(g, t, 0, TNM_WRITE, &w), TNM_ERR_BUSY);
    CHECK_EQ(rig_unpin(g, &r, 0), TNM_OK);
    CHECK_EQ(rig_pin(g, v, 0, TNM_WRITE, &w), TNM_OK);
    CHECK_EQ(rig_pin(g, t, 1, TNM_READ, &r), TNM_ERR_BUSY);
    CHECK_EQ(rig_unpin(g, &w, 0), TNM_OK);
    rig_end(g);
}

/* ---- views ---- */
EACH(view_is_a_window) {
    tnm_tensor t, v, w;
    tnm_pinned p, q;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 6);
    v = rig_view(g, t, 1000, 500);
    w = rig_view(g, v, 100, 50); /* a view of a view */
    CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &p), TNM_OK);
    CHECK_EQ(rig_pin(g, w, 0, TNM_READ, &q), TNM_OK);
    CHECK(sim_at(&g->sim, &q) == sim_at(&g->sim, &p) + 1100);
    CHECK_EQ(q.bytes, 50);
    CHECK_EQ(rig_info(g, t, 0).pins, 2);
    CHECK_EQ(rig_info(g, v, 0).is_view, 1);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    CHECK_EQ(rig_unpin(g, &q, 0), TNM_OK);
    CHECK_EQ(tnm_tensor_destroy(g->ctx, t), TNM_OK); /* the bytes live while a name does */
    CHECK_EQ(rig_pin(g, v, 1, TNM_READ, &p), TNM_OK);
    CHECK(sim_same(sim_at(&g->sim, &p), 6, 1000, 500));
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    CHECK_EQ(tnm_tensor_destroy(g->ctx, v), TNM_OK);
    CHECK_EQ(rig_pin(g, w, 0, TNM_READ, &p), TNM_OK);
    CHECK(sim_same(sim_at(&g->sim, &p), 6, 1100, 50));
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    CHECK_EQ(tnm_tensor_destroy(g->ctx, w), TNM_OK);
    rig_rest(g);
    CHECK_EQ(rig_stats(g, 0).used_bytes, 0);
    CHECK_EQ(rig_stats(g, 1).used_bytes, 0);
    rig_end(g);
}

EACH(discard_through_a_part_is_a_write) {
    tnm_tensor t, v, whole, blank, half;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 1, 1);
    v = rig_view(g, t, 0, ONE / 2);
    CHECK_EQ(rig_pin(g, v, 0, TNM_DISCARD, &p), TNM_OK);
    CHECK(sim_same(sim_at(&g->sim, &p), 1, 0, ONE / 2)); /* fetched, as WRITE does */
    sim_fill(sim_at(&g->sim, &p), 2, 0, ONE / 2);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    CHECK_EQ(rig_pin(g, t, 1, TNM_READ, &p), TNM_OK);
    CHECK(sim_same(sim_at(&g->sim, &p), 2, 0, ONE / 2));
    CHECK(sim_same(sim_at(&g->sim, &p) + ONE / 2, 1, ONE / 2, ONE / 2));
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    blank = rig_tensor(g, ONE, 0);
    half = rig_view(g, blank, 0, ONE / 2);
    whole = rig_view(g, blank, 0, ONE);
    CHECK_EQ(rig_pin(g, half, 0, TNM_DISCARD, &p), TNM_ERR_EMPTY);
    rig_write(g, whole, 0, 8);
    rig_expect(g, blank, 1, 8);
    rig_end(g);
}

/* ---- sets ---- */
EACH(set_is_all_or_nothing) { /* P6, and P4: refused before anything moves */
    tnm_tensor t[4];
    tnm_use u[4];
    tnm_pinned p[4];
    uint64_t copies;
    rig_pair(g, kind, rig_room(3, ONE));
    for (int i = 0; i < 4; i++) {
        t[i] = rig_tensor(g, ONE, 0);
        rig_write(g, t[i], 1, (uint64_t)i);
        u[i] = rig_use(t[i], 0, TNM_READ);
    }
    copies = g->sim.calls[SIM_COPY];
    CHECK_EQ(tnm_pin(g->ctx, u, 4, p), TNM_ERR_BUDGET);
    CHECK_EQ(g->sim.calls[SIM_COPY], copies);
    for (int i = 0; i < 4; i++)
        CHECK(p[i].id == 0 && p[i].bytes == 0);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(rig_info(g, t[i], 0).pins, 0);
    CHECK_EQ(tnm_pin(g->ctx, u, 3, p), TNM_OK);
    for (int i = 0; i < 3; i++)
        CHECK(sim_same(sim_at(&g->sim, &p[i]), (uint64_t)i, 0, ONE));
    CHECK_EQ(tnm_unpin(g->ctx, p, 3, 0), TNM_OK);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(p[i].id, 0);
    CHECK_EQ(rig_stats(g, 0).pinned_bytes, 0);
    rig_end(g);
}

EACH(set_with_one_bad_member_holds_nothing) {
    tnm_tensor a, empty, dead;
    tnm_use u[2];
    tnm_pinned p[2];
    rig_pair(g, kind, rig_room(3, ONE));
    a = rig_tensor(g, ONE, 0);
    empty = rig_tensor(g, ONE, 0);
    dead = rig_tensor(g, ONE, 0);
    CHECK_EQ(tnm_tensor_destroy(g->ctx, dead), TNM_OK);
    rig_write(g, a, 0, 1);
    u[0] = rig_use(a, 0, TNM_READ);
    u[1] = rig_use(empty, 0, TNM_READ);
    CHECK_EQ(tnm_pin(g->ctx, u, 2, p), TNM_ERR_EMPTY);
    u[1].tensor = dead;
    CHECK_EQ(tnm_pin(g->ctx, u, 2, p), TNM_ERR_STALE);
    u[1] = rig_use(a, 7, TNM_READ);
    CHECK_EQ(tnm_pin(g->ctx, u, 2, p), TNM_ERR_ARGUMENT);
    CHECK(p[0].id == 0 && p[1].id == 0);
    CHECK_EQ(rig_info(g, a, 0).pins, 0);
    rig_end(g);
}

EACH(set_with_duplicates_and_views) {
    tnm_tensor t, v;
    tnm_use u[3];
    tnm_pinned p[3];
    rig_pair(g, kind, rig_room(1, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 1, 1);
    v = rig_view(g, t, 256, 256);
    u[0] = rig_use(t, 0, TNM_READ);
    u[1] = rig_use(t, 0, TNM_WRITE);
    u[2] = rig_use(v, 0, TNM_READ);
    CHECK_EQ(tnm_pin(g->ctx, u, 3, p), TNM_OK);
    CHECK(sim_at(&g->sim, &p[0]) == sim_at(&g->sim, &p[1]));
    CHECK(sim_at(&g->sim, &p[2]) == sim_at(&g->sim, &p[0]) + 256);
    CHECK_EQ(p[2].bytes, 256);
    CHECK(sim_same(sim_at(&g->sim, &p[0]), 1, 0, ONE));
    CHECK(rig_info(g, t, 0).pins >= 1);
    CHECK_EQ(tnm_unpin(g->ctx, p, 3, 0), TNM_OK);
    CHECK_EQ(rig_info(g, t, 0).pins, 0);
    rig_expect(g, t, 1, 1);
    rig_end(g);
}

EACH(set_with_one_content_on_two_tiers) {
    tnm_tensor t;
    tnm_use u[2];
    tnm_pinned p[2];
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 1, 1);
    u[0] = rig_use(t, 0, TNM_WRITE);
    u[1] = rig_use(t, 1, TNM_READ);
    CHECK_EQ(tnm_pin(g->ctx, u, 2, p), TNM_ERR_ARGUMENT);
    u[0].access = TNM_DISCARD;
    CHECK_EQ(tnm_pin(g->ctx, u, 2, p), TNM_ERR_ARGUMENT);
    u[0].access = TNM_READ;
    CHECK_EQ(tnm_pin(g->ctx, u, 2, p), TNM_OK);
    CHECK(sim_same(sim_at(&g->sim, &p[0]), 1, 0, ONE));
    CHECK(sim_same(sim_at(&g->sim, &p[1]), 1, 0, ONE));
    CHECK_EQ(tnm_unpin(g->ctx, p, 2, 0), TNM_OK);
    rig_end(g);
}

EACH(set_evicts_what_it_does_not_name) {
    tnm_tensor t[6];
    tnm_use u[3];
    tnm_pinned p[3];
    rig_pair(g, kind, rig_room(3, ONE));
    rig_make(g, t, 6, ONE, 0);
    for (int round = 0; round < 6; round++) {
        for (int i = 0; i < 3; i++)
            u[i] = rig_use(t[(round * 2 + i * 2) % 6], 0, TNM_READ);
        CHECK_EQ(tnm_pin(g->ctx, u, 3, p), TNM_OK);
        for (int i = 0; i < 3; i++)
            CHECK(sim_same(sim_at(&g->sim, &p[i]), (uint64_t)((round * 2 + i * 2) % 6), 0, ONE));
        CHECK_EQ(tnm_unpin(g->ctx, p, 3, 0), TNM_OK);
        rig_healthy(g);
    }
    rig_end(g);
}

/* ---- what a pin is ---- */
EACH(pinned_never_moves) { /* P3 */
    tnm_tensor t[8];
    tnm_pinned p, other;
    const uint8_t *at;
    rig_pair(g, kind, rig_room(3, ONE));
    rig_make(g, t, 8, ONE, 1);
    CHECK_EQ(rig_pin(g, t[0], 0, TNM_READ, &p), TNM_OK);
    at = sim_at(&g->sim, &p);
    for (int i = 0; i < 40; i++) {
        CHECK_EQ(rig_pin(g, t[1 + i % 7], 0, TNM_READ, &other), TNM_OK);
        CHECK_EQ(rig_unpin(g, &other, 0), TNM_OK);
        CHECK(sim_at(&g->sim, &p) == at && sim_same(at, 0, 0, ONE));
    }
    CHECK_EQ(tnm_evict(g->ctx, t[0], 0), TNM_ERR_BUSY);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_end(g);
}

EACH(pins_never_wait_for_pins) { /* P4 */
    tnm_tensor a, b;
    tnm_pinned p, q;
    tnm_shortage why;
    tnm_use u;
    rig_pair(g, kind, rig_room(1, ONE));
    a = rig_tensor(g, ONE, 0);
    b = rig_tensor(g, ONE, 0);
    rig_write(g, a, 1, 1);
    rig_write(g, b, 1, 2);
    CHECK_EQ(rig_pin(g, a, 0, TNM_READ, &p), TNM_OK);
    u = rig_use(b, 0, TNM_READ);
    CHECK_EQ(rig_pin(g, b, 0, TNM_READ, &q), TNM_ERR_BUDGET);
    CHECK_EQ(rig_try(g, b, 0, TNM_READ, &q), TNM_ERR_BUDGET);
    CHECK_EQ(tnm_why(g->ctx, &u, 1, &why), TNM_OK);
    CHECK_EQ(why.result, TNM_ERR_BUDGET);
    CHECK_EQ(why.tier, 0);
    CHECK(why.need_bytes >= ONE && why.pinned_bytes >= ONE);
    CHECK(why.largest_gap_bytes < ONE);
    CHECK_EQ(why.blocker_count, 1);
    CHECK_EQ(why.blockers[0].tensor, a.id);
    CHECK_EQ(why.blockers[0].pins, 1);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    CHECK_EQ(tnm_why(g->ctx, &u, 1, &why), TNM_OK);
    CHECK(why.result >= 0);
    CHECK_EQ(rig_pin(g, b, 0, TNM_READ, &q), TNM_OK);
    CHECK_EQ(rig_unpin(g, &q, 0), TNM_OK);
    rig_end(g);
}

EACH(larger_than_the_tier_is_refused) {
    tnm_tensor t;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(1, ONE));
    t = rig_tensor(g, 4 * ONE, 0);
    rig_write(g, t, 1, 1);
    CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &p), TNM_ERR_BUDGET);
    CHECK_EQ(rig_try(g, t, 0, TNM_READ, &p), TNM_ERR_BUDGET);
    rig_expect(g, t, 1, 1);
    rig_end(g);
}

EACH(destroy_while_pinned) {
    tnm_tensor t;
    tnm_pinned p, q;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 3);
    CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &p), TNM_OK);
    CHECK_EQ(tnm_tensor_destroy(g->ctx, t), TNM_OK);
    CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &q), TNM_ERR_STALE);
    CHECK_EQ(tnm_tensor_destroy(g->ctx, t), TNM_ERR_STALE);
    rig_rest(g);
    CHECK(sim_same(sim_at(&g->sim, &p), 3, 0, ONE));
    CHECK_EQ(tnm_destroy(g->ctx), TNM_ERR_BUSY); /* a pin is held, nothing happens */
    CHECK(sim_same(sim_at(&g->sim, &p), 3, 0, ONE));
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_rest(g);
    CHECK_EQ(rig_stats(g, 0).used_bytes, 0);
    CHECK_EQ(rig_stats(g, 0).tensors, 0);
    rig_end(g);
}

EACH(many_pins_on_one_replica) {
    tnm_tensor t;
    static tnm_pinned p[300];
    tnm_use u;
    rig_pair(g, kind, rig_room(1, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 3);
    u = rig_use(t, 0, TNM_READ);
    for (int i = 0; i < 300; i++)
        CHECK_EQ(tnm_pin(g->ctx, &u, 1, &p[i]), TNM_OK);
    CHECK_EQ(rig_info(g, t, 0).pins, 300);
    CHECK_EQ(tnm_unpin(g->ctx, p, 300, 0), TNM_OK);
    CHECK_EQ(rig_info(g, t, 0).pins, 0);
    rig_end(g);
}

EACH(pin_count_does_not_wrap) {
    enum { MOST = 70000 };
    tnm_pinned *p = (tnm_pinned *)calloc(MOST, sizeof *p);
    tnm_tensor t;
    tnm_use u;
    int n = 0;
    rig_pair(g, kind, rig_room(1, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 3);
    u = rig_use(t, 0, TNM_READ);
    while (n < MOST && tnm_try_pin(g->ctx, &u, 1, &p[n]) == TNM_OK)
        n++;
    CHECK(n >= 32767 && n < MOST);
    CHECK_EQ(tnm_try_pin(g->ctx, &u, 1, &p[n]), TNM_ERR_CAPACITY);
    CHECK_EQ(rig_info(g, t, 0).pins, n);
    CHECK_EQ(tnm_check(g->ctx), 0);
    for (int i = 0; i < n; i++)
        tnm_unpin(g->ctx, &p[i], 1, 0);
    CHECK_EQ(rig_info(g, t, 0).pins, 0);
    rig_expect(g, t, 1, 3);
    free(p);
    rig_end(g);
}

EACH(writer_count_does_not_wrap) {
    enum { MOST = 600 };
    static tnm_pinned p[MOST];
    tnm_tensor t;
    tnm_use u;
    int n = 0;
    rig_pair(g, kind, rig_room(1, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 3);
    u = rig_use(t, 0, TNM_WRITE);
    while (n < MOST && tnm_try_pin(g->ctx, &u, 1, &p[n]) == TNM_OK)
        n++;
    CHECK(n >= 127);
    if (n < MOST) CHECK_EQ(tnm_try_pin(g->ctx, &u, 1, &p[n]), TNM_ERR_CAPACITY);
    CHECK_EQ(rig_info(g, t, 0).pins, n);
    for (int i = 0; i < n; i++)
        CHECK_EQ(tnm_unpin(g->ctx, &p[i], 1, 0), TNM_OK);
    CHECK_EQ(tnm_check(g->ctx), 0);
    rig_expect(g, t, 1, 3); /* no writer is left behind */
    rig_end(g);
}

/* ---- misuse ---- */
EACH(unpin_misuse) {
    tnm_tensor t;
    tnm_pinned p, copy, junk;
    tnm_result r;
    rig_pair(g, kind, rig_room(1, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 3);
    CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &p), TNM_OK);
    copy = p;
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    CHECK(tnm_unpin(g->ctx, &p, 1, 0) < 0);    /* already zeroed */
    CHECK(tnm_unpin(g->ctx, &copy, 1, 0) < 0); /* nobody pins it any more */
    memset(&junk, 0x5A, sizeof junk);
    CHECK(tnm_unpin(g->ctx, &junk, 1, 0) < 0);
    CHECK(tnm_unpin(g->ctx, NULL, 1, 0) < 0);
    CHECK(tnm_unpin(g->ctx, &p, -1, 0) < 0);
    CHECK_EQ(tnm_check(g->ctx), 0);
    CHECK_EQ(rig_info(g, t, 0).pins, 0);
    rig_expect(g, t, 1, 3);
    RIG_UNTIL(r, g, tnm_evict(g->ctx, t, 0));
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(rig_state(g, t, 0), TNM_STATE_ABSENT);
    rig_end(g);
}

/* ---- try_pin ---- */
EACH(try_pin_runs_no_callback) {
    tnm_tensor t;
    tnm_pinned p;
    tnm_result r = TNM_PENDING;
    rig_pair(g, kind, rig_room(1, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 1, 3);
    for (int i = 0; i < 1000 && r == TNM_PENDING; i++) {
        uint64_t calls = total_calls(g);
        r = rig_try(g, t, 0, TNM_READ, &p);
        CHECK_EQ(total_calls(g), calls);
        if (r == TNM_PENDING) tnm_pump(g->ctx, TNM_ALL);
    }
    CHECK_EQ(r, TNM_OK);
    CHECK(sim_same(sim_at(&g->sim, &p), 3, 0, ONE));
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    CHECK_EQ(rig_stats(g, 0).misses, 1);
    CHECK_EQ(rig_stats(g, 0).hits, 0);
    rig_end(g);
}

EACH(why_says_what_try_pin_answers) {
    tnm_tensor t[3];
    tnm_pinned p[3];
    tnm_shortage why;
    rig_pair(g, kind, rig_room(2, ONE));
    rig_make(g, t, 3, ONE, 1);
    for (int i = 0; i < 3; i++) {
        tnm_use u = rig_use(t[i], 0, TNM_READ);
        tnm_result r = TNM_PENDING;
        for (int n = 0; n < 1000 && r == TNM_PENDING; n++) {
            uint64_t calls = total_calls(g);
            CHECK_EQ(tnm_why(g->ctx, &u, 1, &why), TNM_OK);
            CHECK_EQ(total_calls(g), calls); /* starts nothing */
            r = rig_try(g, t[i], 0, TNM_READ, &p[i]);
            CHECK_EQ(why.result, r);
            if (r == TNM_PENDING) tnm_pump(g->ctx, TNM_ALL);
        }
        CHECK_EQ(r, i < 2 ? TNM_OK : TNM_ERR_BUDGET);
    }
    CHECK_EQ(rig_unpin(g, &p[0], 0), TNM_OK);
    CHECK_EQ(rig_unpin(g, &p[1], 0), TNM_OK);
    rig_end(g);
}

EACH(if_ready_starts_nothing) {
    tnm_tensor t;
    tnm_pinned p;
    tnm_use u;
    uint64_t copies;
    rig_pair(g, kind, rig_room(1, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 1, 3);
    u = rig_use(t, 0, TNM_READ);
    u.flags = TNM_IF_READY;
    copies = g->sim.calls[SIM_COPY];
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(tnm_try_pin(g->ctx, &u, 1, &p), TNM_ABSENT);
        CHECK_EQ(p.id, 0);
        tnm_pump(g->ctx, TNM_ALL);
    }
    CHECK_EQ(tnm_pin(g->ctx, &u, 1, &p), TNM_ABSENT);
    CHECK_EQ(g->sim.calls[SIM_COPY], copies);
    rig_expect(g, t, 0, 3);
    CHECK_EQ(tnm_try_pin(g->ctx, &u, 1, &p), TNM_OK);
    CHECK(sim_same(sim_at(&g->sim, &p), 3, 0, ONE));
    CHECK_EQ(tnm_unpin(g->ctx, &p, 1, 0), TNM_OK);
    rig_end(g);
}

/* two pollers want disjoint sets that only fit one at a time: both must be served */
EACH(two_pollers_are_both_served) { /* P6: no livelock */
    tnm_tensor t[4];
    tnm_use u[2][2];
    tnm_pinned p[2];
    int served[2] = { 0, 0 };
    rig_pair(g, kind, rig_room(2, ONE));
    for (int i = 0; i < 4; i++) {
        t[i] = rig_tensor(g, ONE, 0);
        rig_write(g, t[i], 1, (uint64_t)i);
        u[i / 2][i % 2] = rig_use(t[i], 0, TNM_READ);
    }
    for (int frame = 0; frame < 3000 && (served[0] < 5 || served[1] < 5); frame++) {
        for (int k = 0; k < 2; k++) {
            tnm_result r = tnm_try_pin(g->ctx, u[k], 2, p);
            CHECK(r == TNM_OK || r == TNM_PENDING);
            if (r != TNM_OK) continue;
            served[k]++;
            for (int i = 0; i < 2; i++)
                CHECK(sim_same(sim_at(&g->sim, &p[i]), (uint64_t)(2 * k + i), 0, ONE));
            CHECK_EQ(tnm_unpin(g->ctx, p, 2, 0), TNM_OK);
        }
        tnm_pump(g->ctx, ONE);
    }
    CHECK(served[0] >= 5 && served[1] >= 5);
    rig_end(g);
}

EACH(a_forgotten_claim_lapses) {
    tnm_tensor a, b;
    tnm_pinned p;
    tnm_result r = TNM_PENDING;
    int frames = 0;
    rig_pair(g, kind, rig_room(1, ONE));
    a = rig_tensor(g, ONE, 0);
    b = rig_tensor(g, ONE, 0);
    rig_write(g, a, 1, 1);
    rig_write(g, b, 1, 2);
    CHECK_EQ(rig_try(g, a, 0, TNM_READ, &p), TNM_PENDING); /* and never asked again */
    while (frames < 500 && (r = rig_try(g, b, 0, TNM_READ, &p)) == TNM_PENDING) {
        tnm_pump(g->ctx, TNM_ALL);
        frames++;
    }
    CHECK_EQ(r, TNM_OK);
    CHECK(sim_same(sim_at(&g->sim, &p), 2, 0, ONE));
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    CHECK_EQ(rig_try(g, a, 0, TNM_READ, &p), TNM_PENDING);
    rig_expect(g, b, 0, 2); /* a blocking call is not held up for ever either */
    rig_end(g);
}

EACH(who_joined_a_lost_window_is_not_forgotten) { /* P4, P6 */
    tnm_tensor t[3];
    tnm_use alone, both[2];
    tnm_pinned held, p, two[2];
    tnm_result r;
    rig_pair(g, kind, rig_room(2, ONE));
    for (int i = 0; i < 3; i++) {
        t[i] = rig_tensor(g, ONE, 0);
        rig_write(g, t[i], i == 0, (uint64_t)i);
    }
    alone = both[0] = rig_use(t[0], 0, TNM_READ);
    both[1] = rig_use(t[2], 0, TNM_READ);
    CHECK_EQ(tnm_try_pin(g->ctx, &alone, 1, &p), TNM_PENDING); /* in the place of t[1] */
    CHECK_EQ(tnm_try_pin(g->ctx, both, 2, two), TNM_PENDING);  /* joins */
    CHECK_EQ(rig_pin(g, t[1], 0, TNM_READ, &held), TNM_OK);    /* a hit: the place is lost */
    RIG_UNTIL(r, g, tnm_try_pin(g->ctx, &alone, 1, &p));       /* in the place of t[2], then */
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(tnm_check(g->ctx), 0);
    RIG_UNTIL(r, g, tnm_try_pin(g->ctx, both, 2, two));
    CHECK_EQ(r, TNM_ERR_BUDGET);
    CHECK_EQ(rig_unpin(g, &held, 0), TNM_OK);
    RIG_UNTIL(r, g, tnm_try_pin(g->ctx, both, 2, two));
    CHECK_EQ(r, TNM_OK);
    if (r == TNM_OK) CHECK_EQ(tnm_unpin(g->ctx, two, 2, 0), TNM_OK);
    CHECK_EQ(tnm_unpin(g->ctx, &p, 1, 0), TNM_OK);
    rig_expect_all(g, t, 3, 0);
    rig_end(g);
}

EACH(cancel_takes_back_an_unanswered_ask) {
    tnm_tensor a, b;
    tnm_pinned p;
    tnm_result r;
    rig_pair(g, kind, rig_room(1, ONE));
    a = rig_tensor(g, ONE, 0);
    b = rig_tensor(g, ONE, 0);
    rig_write(g, a, 1, 1);
    rig_write(g, b, 1, 2);
    CHECK_EQ(rig_try(g, a, 0, TNM_READ, &p), TNM_PENDING);
    tnm_pump(g->ctx, 1024);
    CHECK_EQ(tnm_cancel(g->ctx, &a, 1), TNM_OK);
    rig_pump(g, 20);
    RIG_UNTIL(r, g, rig_try(g, b, 0, TNM_READ, &p));
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_expect(g, a, 0, 1);
    rig_end(g);
}

EACH(a_pending_ask_keeps_its_bytes) {
    tnm_tensor a, b;
    tnm_pinned p;
    rig_pair(g, kind, rig_room(2, ONE));
    a = rig_tensor(g, ONE, 0);
    b = rig_tensor(g, 2 * ONE, 0);
    rig_write(g, a, 1, 1);
    rig_write(g, b, 1, 2);
    CHECK_EQ(rig_try(g, a, 0, TNM_READ, &p), TNM_PENDING);
    rig_rest(g);
    CHECK_EQ(rig_try(g, b, 0, TNM_READ, &p), TNM_PENDING); /* cannot push the claim out */
    rig_pump(g, 20);
    CHECK_EQ(rig_try(g, a, 0, TNM_READ, &p), TNM_OK);
    CHECK(sim_same(sim_at(&g->sim, &p), 1, 0, ONE));
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_expect(g, b, 0, 2);
    rig_end(g);
}

EACH(try_write_waits_for_copies_under_way) {
    tnm_tensor t;
    tnm_pinned p;
    tnm_result r;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    CHECK(tnm_flush(g->ctx, t, 1) >= 0); /* a write-back is on its way down */
    tnm_pump(g->ctx, 2048);
    RIG_UNTIL(r, g, rig_try(g, t, 0, TNM_WRITE, &p));
    CHECK_EQ(r, TNM_OK);
    sim_fill(sim_at(&g->sim, &p), 2, 0, ONE);
    rig_pump(g, 50);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_expect(g, t, 1, 2);
    rig_end(g);
}

EACH(hit_late_and_miss_are_counted_once) {
    tnm_tensor t;
    tnm_pinned p;
    tnm_use u;
    tnm_result r;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 1, 1);
    rig_expect(g, t, 0, 1);
    CHECK_EQ(rig_stats(g, 0).misses, 1);
    rig_expect(g, t, 0, 1);
    CHECK_EQ(rig_stats(g, 0).hits, 1);
    RIG_UNTIL(r, g, tnm_evict(g->ctx, t, 0));
    CHECK_EQ(r, TNM_OK);
    u = rig_use(t, 0, TNM_READ);
    CHECK(tnm_prefetch(g->ctx, 0, &u, 1) >= 0);
    if ((kind & SIM_ASYNC) != 0) {
        tnm_pump(g->ctx, 4096);
        CHECK_EQ(rig_state(g, t, 0), TNM_STATE_BUSY);
        rig_expect(g, t, 0, 1);
        CHECK_EQ(rig_stats(g, 0).late, 1);
    }
    CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &p), TNM_OK);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_end(g);
}

EACH(blocking_pin_with_a_dead_backend_gives_up) { /* P4: idle ends it */
    tnm_tensor t;
    tnm_pinned p;
    if ((kind & SIM_ASYNC) == 0) return;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 1, 1);
    g->sim.stuck = 1;
    g->sim.idle_limit = 20;
    CHECK_EQ(rig_pin(g, t, 0, TNM_READ, &p), TNM_PENDING);
    CHECK(g->sim.idles >= 20);
    CHECK_EQ(rig_info(g, t, 0).pins, 0); /* holds nothing */
    CHECK_EQ(tnm_check(g->ctx), 0);
    CHECK_EQ(tnm_destroy(g->ctx), TNM_PENDING);
    rig_expect(g, t, 1, 1); /* the context still exists */
    g->sim.stuck = 0;
    g->sim.idle_limit = 0;
    rig_expect(g, t, 0, 1);
    rig_end(g);
}

/* a's old bytes must leave the fast tier to make room for b, and a is built anew where they would
 * go: they go further down, or the set is refused */
EACH(a_set_does_not_wait_for_what_it_builds_itself) { /* P4, P6 */
    for (int tiers = 2; tiers <= 3; tiers++) {
        tnm_use u[2];
        tnm_pinned p[2];
        tnm_tensor a, b;
        rig_start(g, 1);
        rig_tier(g, "fast", kind, rig_room(1, ONE));
        rig_tier(g, "mid", SIM_PLAIN, rig_room(2, ONE));
        if (tiers == 3) rig_tier(g, "slow", SIM_PLAIN, 0);
        if (!rig_create(g)) return;
        a = rig_tensor(g, ONE, 0);
        b = rig_tensor(g, ONE, 0);
        rig_write(g, a, 0, 1);
        u[0] = rig_use(b, 0, TNM_DISCARD);
        u[1] = rig_use(a, 1, TNM_DISCARD);
        CHECK_EQ(tnm_pin(g->ctx, u, 2, p), tiers == 3 ? TNM_OK : TNM_ERR_BUDGET);
        if (tiers == 3) CHECK_EQ(tnm_unpin(g->ctx, p, 2, 0), TNM_OK);
        if (tiers == 2) rig_expect(g, a, 0, 1);
        rig_end(g);
    }
}

/* ---- one tensor many times in a set ---- */
EACH(who_discards_never_misses_bytes) { /* though he joined a fetch that found none any more */
    tnm_pinned p;
    tnm_result r;
    tnm_tensor t;
    rig_pair(g, kind, rig_room(2, ONE));
    rig_write(g, rig_tensor(g, ONE, 0), 1, 0); /* both tiers have memory */
    t = rig_tensor(g, ONE, TNM_DROPPABLE);
    rig_write(g, t, 0, 1);
    CHECK_EQ(rig_try(g, t, 1, TNM_READ, &p), TNM_PENDING);
    CHECK_EQ(rig_try(g, t, 1, TNM_DISCARD, &p), TNM_PENDING);
    CHECK_EQ(tnm_evict(g->ctx, t, 0), TNM_OK); /* dropped: nothing has been read yet */
    CHECK_EQ(rig_try(g, t, 1, TNM_READ, &p), TNM_ERR_EMPTY);
    tnm_pump(g->ctx, TNM_ALL);
    RIG_UNTIL(r, g, rig_try(g, t, 1, TNM_DISCARD, &p));
    CHECK_EQ(r, TNM_OK);
    sim_fill(sim_at(&g->sim, &p), 2, 0, ONE);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_expect(g, t, 0, 2);
    rig_end(g);
}

EACH(no_zeros_arrive_after_the_grant) { /* SCRUB is taken back while they are on their way */
    tnm_tensor t;
    tnm_pinned p;
    tnm_result r;
    g->sim.delay = 12;
    rig_pair(g, kind, rig_room(2, ONE));
    rig_write(g, rig_tensor(g, ONE, 0), 0, 0);
    t = rig_tensor(g, ONE, TNM_SCRUB);
    r = rig_try(g, t, 0, TNM_DISCARD, &p);
    for (int i = 0; i < 4; i++)
        tnm_pump(g->ctx, TNM_ALL);
    CHECK_EQ(tnm_advise(g->ctx, t, TNM_NORMAL), TNM_OK);
    if (r == TNM_PENDING) RIG_UNTIL(r, g, rig_try(g, t, 0, TNM_DISCARD, &p));
    CHECK_EQ(r, TNM_OK);
    sim_fill(sim_at(&g->sim, &p), 7, 0, ONE);
    for (int i = 0; i < 100; i++)
        tnm_pump(g->ctx, TNM_ALL);
    CHECK(sim_same(sim_at(&g->sim, &p), 7, 0, ONE));
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_expect(g, t, 1, 7);
    rig_end(g);
}

EACH(zeros_are_made_though_asked_for_late) { /* SCRUB comes while the place waits for a set */
    tnm_tensor t[2];
    tnm_use set[2];
    tnm_pinned p[2];
    tnm_result r;
    uint8_t zeros[ONE] = { 0 };
    rig_pair(g, kind, rig_room(3, ONE));
    rig_make(g, t, 1, ONE, 1);
    rig_expect(g, t[0], 0, 0);
    RIG_UNTIL(r, g, tnm_evict(g->ctx, t[0], 0)); /* used memory is there */
    t[1] = rig_tensor(g, ONE, 0);
    set[0] = rig_use(t[0], 0, TNM_READ);
    set[1] = rig_use(t[1], 0, TNM_DISCARD);
    CHECK_EQ(tnm_try_pin(g->ctx, set, 2, p), TNM_PENDING);
    CHECK_EQ(tnm_advise(g->ctx, t[1], TNM_SCRUB), TNM_OK);
    RIG_UNTIL(r, g, tnm_try_pin(g->ctx, set, 2, p));
    CHECK_EQ(r, TNM_OK);
    CHECK(memcmp(sim_at(&g->sim, &p[1]), zeros, ONE) == 0);
    sim_fill(sim_at(&g->sim, &p[1]), 7, 0, ONE);
    CHECK_EQ(tnm_unpin(g->ctx, p, 2, 0), TNM_OK);
    rig_expect(g, t[1], 1, 7);
    rig_end(g);
}

EACH(a_claim_goes_with_its_replica) { /* and is not taken back from the next one's */
    tnm_tensor t[2];
    tnm_use both[2];
    tnm_pinned p[2];
    tnm_result r;
    rig_pair(g, kind, rig_room(4, ONE));
    rig_make(g, t, 2, ONE, 1);
    rig_expect(g, t[0], 0, 0);
    both[0] = rig_use(t[0], 0, TNM_READ);
    both[1] = rig_use(t[1], 0, TNM_READ);
    CHECK_EQ(tnm_try_pin(g->ctx, both, 2, p), TNM_PENDING); /* claims what is there */
    rig_change(g, t[0], 1, 0, 5);                            /* which a writer drops */
    CHECK_EQ(rig_try(g, t[0], 0, TNM_READ, p), TNM_PENDING);
    CHECK_EQ(tnm_cancel(g->ctx, &t[1], 1), TNM_OK); /* the first ask is taken back */
    CHECK_EQ(tnm_evict(g->ctx, t[0], 0), TNM_PENDING);
    CHECK_EQ(rig_state(g, t[0], 0), TNM_STATE_BUSY); /* the second is still waited for */
    RIG_UNTIL(r, g, rig_try(g, t[0], 0, TNM_READ, p));
    CHECK_EQ(r, TNM_OK);
    CHECK(sim_same(sim_at(&g->sim, p), 5, 0, ONE));
    CHECK_EQ(rig_unpin(g, p, 0), TNM_OK);
    rig_end(g);
}

EACH(a_claim_goes_with_its_transfer) { /* though another member's had failed before */
    tnm_tensor t[2];
    tnm_use both[2];
    tnm_pinned p[2];
    rig_pair(g, kind, rig_room(4, ONE));
    rig_make(g, t, 2, ONE, 1);
    rig_expect_all(g, t, 2, 0); /* the fast tier has its memory, */
    for (int i = 0; i < 2; i++) {
        tnm_result r;
        RIG_UNTIL(r, g, tnm_evict(g->ctx, t[i], 0));
        both[i] = rig_use(t[i], 0, TNM_READ);
    }
    CHECK_EQ(tnm_try_pin(g->ctx, both, 2, p), TNM_PENDING);
    sim_break(&g->sim, SIM_COPY, 1, 1);
    for (int i = 0; i < 40; i++)
        tnm_pump(g->ctx, TNM_ALL); /* and both fetches fail */
    g->sim.fault_at = 0;
    CHECK_EQ(rig_try(g, t[0], 0, TNM_READ, p), TNM_PENDING);
    CHECK_EQ(tnm_cancel(g->ctx, &t[1], 1), TNM_OK);
    CHECK_EQ(tnm_evict(g->ctx, t[0], 0), TNM_PENDING);
    CHECK_EQ(rig_state(g, t[0], 0), TNM_STATE_BUSY);
    CHECK_EQ(tnm_cancel(g->ctx, &t[0], 1), TNM_OK);
    rig_end(g);
}

EACH(uses_that_cannot_be_counted_are_refused) { /* P3: 65536 pins are not none */
    enum { MANY = 65536 };
    tnm_use *u = (tnm_use *)calloc(MANY, sizeof *u);
    tnm_pinned *p = (tnm_pinned *)calloc(MANY, sizeof *p);
    tnm_tensor t;
    rig_pair(g, kind, rig_room(2, ONE));
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 0, 1);
    for (int i = 0; u != NULL && p != NULL && i < MANY; i++)
        u[i] = rig_use(t, 0, TNM_READ);
    CHECK_EQ(tnm_pin(g->ctx, u, MANY, p), TNM_ERR_CAPACITY);
    CHECK_EQ(rig_info(g, t, 0).pins, 0);
    CHECK_EQ(tnm_pin(g->ctx, u, 60000, p), TNM_OK);
    CHECK_EQ(rig_info(g, t, 0).pins, 60000);
    CHECK_EQ(tnm_unpin(g->ctx, p, 60000, 0), TNM_OK);
    for (int i = 0; i < 256; i++)
        u[i].access = TNM_WRITE; /* 256 writers would be none, too */
    CHECK_EQ(tnm_try_pin(g->ctx, u, 256, p), TNM_ERR_CAPACITY);
    CHECK_EQ(tnm_try_pin(g->ctx, u, 200, p), TNM_OK);
    CHECK_EQ(tnm_unpin(g->ctx, p, 200, 0), TNM_OK);
    rig_expect(g, t, 1, 1);
    free(u);
    free(p);
    rig_end(g);
}

EACH(one_content_twice_on_each_of_two_tiers) { /* one place on each, whatever the order */
    tnm_use u[4];
    tnm_pinned p[4];
    tnm_tensor t;
    rig_tier(g, "fast", kind, rig_room(1, ONE));
    rig_tier(g, "mid", SIM_PLAIN, rig_room(1, ONE));
    rig_tier(g, "slow", SIM_PLAIN, 0);
    if (!rig_create(g)) return;
    t = rig_tensor(g, ONE, 0);
    rig_write(g, t, 2, 1);
    for (int i = 0; i < 4; i++)
        u[i] = rig_use(t, i > 1, TNM_READ);
    CHECK_EQ(tnm_pin(g->ctx, u, 4, p), TNM_OK);
    CHECK_EQ(rig_info(g, t, 0).pins, 2);
    CHECK_EQ(rig_info(g, t, 1).pins, 2);
    CHECK_EQ(tnm_unpin(g->ctx, p, 4, 0), TNM_OK);
    u[3].access = TNM_WRITE;
    CHECK_EQ(tnm_pin(g->ctx, u, 4, p), TNM_ERR_ARGUMENT);
    rig_end(g);
}

int main(void) {
    RUN(bytes_survive_eviction);
    RUN(write_keeps_what_it_does_not_touch);
    RUN(write_drops_other_replicas_at_the_grant);
    RUN(empty_cannot_be_read);
    RUN(discard_fetches_nothing);
    RUN(discard_refused_loses_nothing);
    RUN(scrub_shows_zeros);
    RUN(scrub_wipes_what_leaves);
    RUN(write_is_busy_beside_a_pin_elsewhere);
    RUN(busy_reaches_through_views);
    RUN(view_is_a_window);
    RUN(discard_through_a_part_is_a_write);
    RUN(set_is_all_or_nothing);
    RUN(set_with_one_bad_member_holds_nothing);
    RUN(set_with_duplicates_and_views);
    RUN(set_with_one_content_on_two_tiers);
    RUN(set_evicts_what_it_does_not_name);
    RUN(pinned_never_moves);
    RUN(pins_never_wait_for_pins);
    RUN(larger_than_the_tier_is_refused);
    RUN(destroy_while_pinned);
    RUN(many_pins_on_one_replica);
    RUN(pin_count_does_not_wrap);
    RUN(writer_count_does_not_wrap);
    RUN(unpin_misuse);
    RUN(try_pin_runs_no_callback);
    RUN(why_says_what_try_pin_answers);
    RUN(if_ready_starts_nothing);
    RUN(two_pollers_are_both_served);
    RUN(a_forgotten_claim_lapses);
    RUN(who_joined_a_lost_window_is_not_forgotten);
    RUN(cancel_takes_back_an_unanswered_ask);
    RUN(a_pending_ask_keeps_its_bytes);
    RUN(try_write_waits_for_copies_under_way);
    RUN(hit_late_and_miss_are_counted_once);
    RUN(blocking_pin_with_a_dead_backend_gives_up);
    RUN(a_set_does_not_wait_for_what_it_builds_itself);
    RUN(who_discards_never_misses_bytes);
    RUN(no_zeros_arrive_after_the_grant);
    RUN(zeros_are_made_though_asked_for_late);
    RUN(a_claim_goes_with_its_replica);
    RUN(a_claim_goes_with_its_transfer);
    RUN(uses_that_cannot_be_counted_are_refused);
    RUN(one_content_twice_on_each_of_two_tiers);
    return check_done();
}
