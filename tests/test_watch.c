/* The room [watch] from inside: what info, stats and why say against what is; dumps against a JSON
 * reader; and tnm_check, which must find every corruption planted in the tables, one at a time. */
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "sim.h"
#include "inside.h"

enum { KIB = 1024, ONE = 8 * KIB, TENSORS = 10 };

static rig g;
static tnm_tensor tensor[TENSORS];

static void open_pair(int kind, uint64_t room) {
    rig_start(&g, 1);
    rig_pair(&g, kind, room ? rig_room(room, ONE) : 0);
    for (int i = 0; i < TENSORS; i++)
        tensor[i] = rig_tensor(&g, ONE, 0);
}

static tnmi_engine *engine(void) {
    return &g.ctx->e;
}

static uint32_t slot_of(tnm_tensor t) {
    return slot_at(&engine()->tensors, t);
}

/* ---- info ---- */
TEST(info_through_a_life) {
    tnm_tensor_info i;
    tnm_pinned p, q;
    tnm_result r;
    open_pair(SIM_HIDDEN | SIM_ASYNC, 3);
    i = rig_info(&g, tensor[0], 0);
    CHECK(i.empty && i.state == TNM_STATE_ABSENT && !i.dirty && !i.adopted && i.pins == 0);
    CHECK(i.next_use == UINT64_MAX && i.last_error == TNM_OK && !i.is_view && i.bytes == ONE);
    rig_write(&g, tensor[1], 1, 2); /* the slow tier has its segment */
    rig_write(&g, tensor[0], 0, 1);
    i = rig_info(&g, tensor[0], 0);
    CHECK(!i.empty && i.state == TNM_STATE_READY && i.dirty);
    CHECK_EQ(rig_state(&g, tensor[0], 1), TNM_STATE_ABSENT);
    CHECK_EQ(tnm_flush(g.ctx, tensor[0], 1), TNM_PENDING);
    CHECK_EQ(rig_state(&g, tensor[0], 1), TNM_STATE_BUSY);
    CHECK(rig_info(&g, tensor[0], 0).dirty); /* not before it has arrived */
    RIG_UNTIL(r, &g, tnm_flush(g.ctx, tensor[0], 1));
    CHECK_EQ(r, TNM_OK);
    CHECK(!rig_info(&g, tensor[0], 0).dirty && !rig_info(&g, tensor[0], 1).dirty);
    CHECK_EQ(rig_state(&g, tensor[0], 1), TNM_STATE_READY);
    CHECK_EQ(rig_pin(&g, tensor[0], 0, TNM_READ, &p), TNM_OK);
    CHECK_EQ(rig_pin(&g, tensor[0], 0, TNM_READ, &q), TNM_OK);
    i = rig_info(&g, tensor[0], 0);
    CHECK(i.pins == 2 && i.fenced == 0);
    g.sim.fence_stuck = 1;
    CHECK_EQ(rig_unpin(&g, &q, TNM_FENCE(1, 5)), TNM_OK);
    i = rig_info(&g, tensor[0], 0);
    CHECK(i.pins == 2 && i.fenced == 1);
    CHECK_EQ(rig_unpin(&g, &p, TNM_FENCE(2, 5)), TNM_OK);
    CHECK_EQ(rig_info(&g, tensor[0], 0).fenced, 2);
    CHECK_EQ(rig_info(&g, tensor[1], 0).fenced, 0);
    g.sim.fence_stuck = 0;
    g.sim.now[1] = 5;
    tnm_pump(g.ctx, 0);
    i = rig_info(&g, tensor[0], 0);
    CHECK(i.pins == 1 && i.fenced == 1);
    g.sim.now[2] = 5;
    tnm_pump(g.ctx, 0);
    CHECK_EQ(rig_info(&g, tensor[0], 0).pins, 0);
    rig_end(&g);
}

TEST(info_of_a_view_and_of_what_is_adopted) {
    tnm_tensor_desc desc;
    tnm_adopt_desc where;
    tnm_tensor_info i;
    tnm_tensor v, a;
    int user = 0;
    open_pair(SIM_PLAIN, 4);
    memset(&desc, 0, sizeof desc);
    desc.dtype = TNM_F32;
    desc.shape[0] = 4;
    desc.shape[1] = 16;
    desc.label = "part";
    desc.user = &user;
    CHECK_EQ(tnm_tensor_view(g.ctx, tensor[0], 512, &desc, &v), TNM_OK);
    CHECK_EQ(tnm_advise(g.ctx, tensor[0], TNM_KEEP | TNM_DROPPABLE), TNM_OK);
    rig_write(&g, tensor[0], 0, 1);
    i = rig_info(&g, v, 0);
    CHECK(i.is_view && i.bytes == 256 && i.dtype == TNM_F32 && i.user == (void *)&user);
    CHECK(i.shape[0] == 4 && i.shape[1] == 16 && i.shape[2] == 0);
    CHECK(strcmp(i.label, "part") == 0 && i.advice == (TNM_KEEP | TNM_DROPPABLE));
    CHECK(!i.empty && i.state == TNM_STATE_READY && i.dirty); /* the whole content's */
    where = sim_lent(&g.sim.device[1], sim_lend(&g.sim.device[1], 2 * KIB), 0);
    a = rig_adopt(&g, &where, 2 * KIB);
    i = rig_info(&g, a, 1);
    CHECK(i.adopted && i.state == TNM_STATE_READY && !i.dirty && !i.empty);
    CHECK_EQ(rig_info(&g, a, 0).adopted, 0);
    rig_end(&g);
}

TEST(info_tells_the_next_use_and_the_last_error) {
    tnm_use use;
    open_pair(SIM_PLAIN, 3);
    rig_write(&g, tensor[0], 1, 1);
    use = rig_use(tensor[0], 0, TNM_READ);
    use.step = 7;
    CHECK_EQ(tnm_step(g.ctx, 0, 0), TNM_OK);
    CHECK_EQ(tnm_prefetch(g.ctx, 0, &use, 1), TNM_OK);
    CHECK_EQ(rig_info(&g, tensor[0], 0).next_use, 7);
    CHECK_EQ(rig_info(&g, tensor[0], 1).next_use, 7); /* it goes through here */
    CHECK_EQ(tnm_step(g.ctx, 0, 3), TNM_OK);
    CHECK_EQ(rig_info(&g, tensor[0], 0).next_use, 4);
    g.sim.fail = 256;
    tnm_pump(g.ctx, TNM_ALL);
    tnm_pump(g.ctx, TNM_ALL);
    CHECK_EQ(rig_info(&g, tensor[0], 0).last_error, TNM_ERR_BACKEND);
    CHECK(rig_stats(&g, 0).failures >= 1);
    g.sim.fail = 0;
    rig_end(&g);
}

TEST(info_of_what_is_lost) {
    open_pair(SIM_HIDDEN, 3);
    rig_write(&g, tensor[0], 0, 1);
    rig_write(&g, tensor[1], 0, 2);
    tnm_result r;
    RIG_UNTIL(r, &g, tnm_evict(g.ctx, tensor[1], 0));
    CHECK_EQ(r, TNM_OK);
    tnm_pinned held;
    CHECK_EQ(rig_pin(&g, tensor[0], 0, TNM_READ, &held), TNM_OK);
    sim_lose(&g.sim.device[0]);
    tnm_use use = rig_use(tensor[1], 0, TNM_READ);
    tnm_pinned p;
    CHECK(tnm_pin(g.ctx, &use, 1, &p) < 0); /* a copy or alloc there says LOST */
    CHECK_EQ(rig_state(&g, tensor[0], 0), TNM_STATE_LOST);
    CHECK_EQ(rig_info(&g, tensor[0], 0).pins, 1); /* which must still be undone */
    CHECK_EQ(rig_unpin(&g, &held, 0), TNM_OK);
    rig_rest(&g);
    CHECK_EQ(rig_state(&g, tensor[0], 0), TNM_STATE_LOST);
    CHECK(rig_info(&g, tensor[0], 0).empty);
    CHECK_EQ(rig_state(&g, tensor[1], 1), TNM_STATE_READY);
    g.sim.device[0].lost = 0;
    CHECK_EQ(tnm_check(g.ctx), 0);
    rig_end(&g);
}

/* ---- stats ---- */
TEST(stats_are_the_sums_of_infos) {
    tnm_pinned held[TENSORS];
    uint64_t granted = 0, placed = rig_room(1, ONE);
    int pinned[TENSORS] = { 0 };
    open_pair(SIM_HIDDEN | SIM_ASYNC, 6);
    for (int round = 0; round < 400; round++) {
        int k = (int)sim_draw(&g.sim, TENSORS);
        if (pinned[k]) {
            CHECK_EQ(rig_unpin(&g, &held[k], 0), TNM_OK);
            pinned[k] = 0;
        } else if (rig_info(&g, tensor[k], 0).empty) {
            rig_write(&g, tensor[k], 0, (uint64_t)k);
            granted++;
        } else if (rig_pin(&g, tensor[k], 0, TNM_READ, &held[k]) == TNM_OK) {
            pinned[k] = 1;
            granted++;
        }
        if (sim_draw(&g.sim, 4) == 0) tnm_pump(g.ctx, TNM_ALL);
        for (int t = 0; t < 2; t++) {
            uint64_t here = 0, dirty = 0, pins = 0;
            tnm_tier_stats s = rig_stats(&g, t);
            for (int i = 0; i < TENSORS; i++) {
                tnm_tensor_info n = rig_info(&g, tensor[i], t);
                here += n.state != TNM_STATE_ABSENT;
                dirty += n.dirty ? placed : 0;
                pins += n.pins ? placed : 0;
            }
            CHECK_EQ(s.tensors, here);
            CHECK_EQ(s.dirty_bytes, dirty);
            CHECK_EQ(s.pinned_bytes, pins);
            CHECK(s.used_bytes >= here * placed && s.used_bytes <= s.reserved_bytes);
            CHECK_EQ(s.stuck_bytes, 0);
            if (t == 0) CHECK_EQ(s.hits + s.late + s.misses, granted);
            CHECK(s.evictions_clean <= s.evictions);
            CHECK(s.largest_free_bytes <= s.reserved_bytes - s.used_bytes);
        }
    }
    for (int k = 0; k < TENSORS; k++)
        if (pinned[k]) CHECK_EQ(rig_unpin(&g, &held[k], 0), TNM_OK);
    rig_end(&g);
}

TEST(stuck_bytes_are_dirty_above_a_tier_that_refuses) {
    tnm_pinned p;
    open_pair(SIM_PLAIN, 2);
    rig_write(&g, tensor[0], 0, 1);
    rig_write(&g, tensor[1], 0, 2);
    rig_rest(&g);
    rig_write(&g, tensor[0], 0, 1); /* dirty again */
    CHECK_EQ(rig_stats(&g, 0).stuck_bytes, 0);
    g.sim.fail = 256;
    CHECK_EQ(tnm_flush(g.ctx, tensor[0], 1), TNM_PENDING);
    tnm_pump(g.ctx, TNM_ALL);
    CHECK(rig_stats(&g, 0).dirty_bytes >= ONE);
    CHECK_EQ(rig_stats(&g, 0).stuck_bytes, rig_stats(&g, 0).dirty_bytes);
    CHECK(rig_stats(&g, 1).failures > 0 && rig_stats(&g, 1).stuck_bytes == 0);
    g.sim.fail = 0;
    CHECK_EQ(rig_pin(&g, tensor[1], 0, TNM_READ, &p), TNM_OK);
    CHECK_EQ(rig_unpin(&g, &p, 0), TNM_OK);
    rig_end(&g);
}

/* A backend that ends what it has between two pumps, while more waits, starves. */
TEST(starved_counts_pumps_that_came_too_late) {
    tnm_use use;
    rig_start(&g, 1);
    rig_tier(&g, "fast", SIM_HIDDEN | SIM_ASYNC, rig_room(4, 16 * KIB));
    g.tiers[0].queue_depth = g.sim.device[0].depth = 2;
    rig_tier(&g, "slow", SIM_PLAIN, 0);
    rig_create(&g);
    g.sim.delay = 1;
    tensor[0] = rig_tensor(&g, 16 * KIB, 0); /* four chunks */
    rig_write(&g, tensor[0], 1, 1);
    use = rig_use(tensor[0], 0, TNM_READ);
    use.flags = TNM_SURE;
    CHECK_EQ(tnm_prefetch(g.ctx, 0, &use, 1), TNM_OK);
    g.sim.stuck = 1;
    rig_pump(&g, 4); /* still busy: nobody starves */
    CHECK_EQ(rig_stats(&g, 0).in_flight_bytes, 2 * g.desc.chunk_bytes);
    CHECK_EQ(rig_stats(&g, 0).starved, 0);
    g.sim.stuck = 0;
    for (int i = 0; i < SIM_COPIES; i++)
        g.sim.copies[i].left = 0; /* both end long before */
    tnm_pump(g.ctx, TNM_ALL);
    CHECK_EQ(rig_stats(&g, 0).starved, 1);
    CHECK_EQ(rig_stats(&g, 1).starved, 0); /* it answers nothing: it is never idle */
    for (int i = 0; i < SIM_COPIES; i++)
        g.sim.copies[i].left = 0;
    tnm_pump(g.ctx, TNM_ALL); /* the last two: nothing waited for them */
    CHECK_EQ(rig_state(&g, tensor[0], 0), TNM_STATE_READY);
    CHECK_EQ(rig_stats(&g, 0).starved, 1);
    CHECK_EQ(tnm_evict(g.ctx, tensor[0], 0), TNM_OK);
    rig_expect(&g, tensor[0], 0, 1); /* a call that waits looks all the time */
    CHECK_EQ(rig_stats(&g, 0).starved, 1);
    rig_end(&g);
}

/* ---- why ---- */
static tnm_shortage why_of(const tnm_use *set, int count) {
    tnm_shortage why;
    memset(&why, 0x5a, sizeof why);
    CHECK_EQ(tnm_why(g.ctx, set, count, &why), TNM_OK);
    return why;
}

TEST(why_names_numbers_and_blockers) {
    tnm_pinned p[4];
    tnm_use want;
    tnm_shortage why;
    open_pair(SIM_HIDDEN | SIM_ASYNC, 4);
    tnm_tensor small = rig_tensor(&g, KIB, 0), big = rig_tensor(&g, 2 * ONE, 0);
    rig_write(&g, big, 1, 9);
    want = rig_use(big, 0, TNM_READ);
    why = why_of(&want, 1);
    CHECK(why.result == TNM_PENDING && why.blocker_count == 0 && why.tier == 0);
    CHECK_EQ(why.budget_bytes, rig_room(4, ONE));
    CHECK_EQ(why.free_bytes, rig_room(4, ONE));
    CHECK_EQ(why.largest_gap_bytes, rig_room(4, ONE));
    CHECK_EQ(rig_pin(&g, tensor[0], 0, TNM_DISCARD, &p[0]), TNM_OK);
    CHECK_EQ(rig_pin(&g, small, 0, TNM_DISCARD, &p[1]), TNM_OK);
    CHECK_EQ(rig_pin(&g, tensor[1], 0, TNM_DISCARD, &p[2]), TNM_OK);
    CHECK_EQ(rig_pin(&g, tensor[1], 0, TNM_READ, &p[3]), TNM_OK);
    why = why_of(&want, 1);
    CHECK(why.result == TNM_ERR_BUDGET && why.tier == 0);
    CHECK(why.need_bytes >= 2 * ONE && why.need_bytes > why.largest_gap_bytes);
    CHECK_EQ(why.pinned_bytes, 2 * rig_room(1, ONE) + rig_room(1, KIB));
    CHECK(why.fenced_bytes == 0 && why.claimed_bytes == 0 && why.in_flight_bytes == 0);
    CHECK_EQ(why.reserved_bytes, rig_room(4, ONE));
    CHECK_EQ(why.blocker_count, 3);
    CHECK(why.blockers[0].bytes >= why.blockers[1].bytes);
    CHECK(why.blockers[2].tensor == small.id && why.blockers[2].pins == 1);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(why.blockers[i].tier, 0);
        CHECK_EQ(why.blockers[i].pins, why.blockers[i].tensor == tensor[1].id ? 2 : 1);
    }
    g.sim.fence_stuck = 1;
    CHECK_EQ(rig_unpin(&g, &p[0], TNM_FENCE(0, 9)), TNM_OK);
    CHECK_EQ(rig_unpin(&g, &p[2], TNM_FENCE(0, 9)), TNM_OK);
    CHECK_EQ(rig_unpin(&g, &p[3], TNM_FENCE(1, 9)), TNM_OK);
    CHECK_EQ(rig_unpin(&g, &p[1], 0), TNM_OK);
    why = why_of(&want, 1);
    CHECK_EQ(why.result, TNM_PENDING); /* fences end without the caller */
    CHECK_EQ(why.fenced_bytes, 2 * rig_room(1, ONE));
    CHECK(why.pinned_bytes == 0 && why.blocker_count == 2);
    CHECK(why.blockers[0].fenced == why.blockers[0].pins);
    g.sim.fence_stuck = 0;
    g.sim.now[0] = g.sim.now[1] = 9;
    tnm_result r;
    RIG_UNTIL(r, &g, tnm_evict(g.ctx, tensor[0], 0));
    CHECK_EQ(r, TNM_OK);
    RIG_UNTIL(r, &g, tnm_evict(g.ctx, small, 0));
    CHECK_EQ(r, TNM_OK);
    RIG_UNTIL(r, &g, tnm_evict(g.ctx, tensor[1], 0));
    CHECK_EQ(r, TNM_OK);
    CHECK_EQ(rig_try(&g, big, 0, TNM_READ, &p[0]), TNM_PENDING);
    why = why_of(&want, 1);
    CHECK(why.result == TNM_PENDING && why.in_flight_bytes == rig_room(1, 2 * ONE));
    for (int i = 0; i < 200 && rig_state(&g, big, 0) != TNM_STATE_READY; i++)
        rig_pump(&g, 1);
    why = why_of(&want, 1);
    CHECK(why.result == TNM_OK && why.in_flight_bytes == 0);
    CHECK_EQ(why.claimed_bytes, rig_room(1, 2 * ONE)); /* the try_pin's, not asked for again yet */
    CHECK_EQ(tnm_cancel(g.ctx, &big, 1), TNM_OK);
    rig_end(&g);
}

/* Who discards writes every byte: what a later copy reads must be defined. */
static void write_whole(const tnm_pinned *p) {
    sim_fill(sim_at(&g.sim, p), 7, 0, p->bytes);
}

/* why is a rehearsal: it says what the next try_pin says, and leaves no trace of itself. */
TEST(why_answers_what_try_pin_would) {
    tnm_pinned held[TENSORS], p[3];
    int pinned[TENSORS] = { 0 }, rounds = check_scale(1500, 200), seen = 0;
    open_pair(SIM_HIDDEN | SIM_ASYNC, 4);
    for (int round = 0; round < rounds; round++) {
        int k = (int)sim_draw(&g.sim, TENSORS - 1),
            count = 1 + (int)sim_draw(&g.sim, 3); /* 9: EMPTY */
        if (pinned[k]) {
            uint64_t fence = sim_draw(&g.sim, 2) ? TNM_FENCE(0, g.sim.now[0] + 1) : 0;
            CHECK_EQ(rig_unpin(&g, &held[k], fence), TNM_OK);
            pinned[k] = 0;
        } else {
            tnm_access access = rig_info(&g, tensor[k], 0).empty || sim_draw(&g.sim, 4) == 0
                                    ? TNM_DISCARD
                                    : (tnm_access)sim_draw(&g.sim, 2);
            pinned[k] =
                rig_pin(&g, tensor[k], (int)sim_draw(&g.sim, 2), access, &held[k]) == TNM_OK;
            if (pinned[k] && access == TNM_DISCARD) write_whole(&held[k]);
        }
        tnm_use set[3];
        uint64_t copied = g.sim.copied, allocs = g.sim.calls[SIM_ALLOC];
        for (int i = 0; i < count; i++)
            set[i] = rig_use(tensor[sim_draw(&g.sim, TENSORS)], (int)sim_draw(&g.sim, 2),
                             (tnm_access)sim_draw(&g.sim, 3));
        tnm_shortage why, twice;
        memset(&why, 0, sizeof why);
        tnm_result r = tnm_why(g.ctx, set, count, &why);
        CHECK_EQ(tnm_check(g.ctx), 0);
        CHECK(g.sim.copied == copied && g.sim.calls[SIM_ALLOC] == allocs);
        if (r == TNM_OK) {
            CHECK_EQ(tnm_why(g.ctx, set, count, &twice), TNM_OK);
            CHECK(memcmp(&why, &twice, sizeof why) == 0);
        }
        tnm_result got = tnm_try_pin(g.ctx, set, count, p);
        CHECK_EQ(got, r == TNM_OK ? why.result : r);
        if (why.result == TNM_ERR_BUDGET) CHECK(why.need_bytes > 0 && why.tier >= 0);
        for (int i = 1; i < why.blocker_count; i++)
            CHECK(why.blockers[i - 1].bytes >= why.blockers[i].bytes);
        if (got <= 1 && got >= -6) seen |= 1 << (1 - (int)got);
        for (int i = 0; got == TNM_OK && i < count; i++)
            if (set[i].access == TNM_DISCARD) write_whole(&p[i]);
        if (got == TNM_OK) CHECK_EQ(tnm_unpin(g.ctx, p, count, 0), TNM_OK);
        for (int i = 0; i < count; i++)
            CHECK_EQ(tnm_cancel(g.ctx, &set[i].tensor, 1), TNM_OK);
        if (sim_draw(&g.sim, 4) == 0) g.sim.now[0]++;
        if (sim_draw(&g.sim, 3) == 0) tnm_pump(g.ctx, TNM_ALL);
    }
    CHECK((seen & 3) == 3); /* OK and PENDING, */
    CHECK(seen >> 6 & 1);   /* BUDGET, */
    CHECK(seen >> 7 & 1);   /* and BUSY were among the answers */
    for (int k = 0; k < TENSORS; k++)
        if (pinned[k]) CHECK_EQ(rig_unpin(&g, &held[k], 0), TNM_OK);
    g.sim.now[0] += 1 << 20;
    rig_rest(&g);
    rig_end(&g);
}

TEST(at_most_eight_blockers_the_largest) {
    tnm_tensor of[13]; /* by size */
    tnm_pinned p[12];
    tnm_use want;
    rig_start(&g, 1);
    rig_pair(&g, SIM_PLAIN, rig_room(13, ONE));
    for (int i = 0; i < 12; i++) {
        int size = 1 + i * 5 % 12;
        of[size] = rig_tensor(&g, (uint64_t)size * 512, 0);
        CHECK_EQ(rig_pin(&g, of[size], 0, TNM_DISCARD, &p[i]), TNM_OK);
    }
    want = rig_use(rig_tensor(&g, 12 * ONE, 0), 0, TNM_DISCARD);
    tnm_shortage why = why_of(&want, 1);
    CHECK_EQ(why.result, TNM_ERR_BUDGET);
    CHECK_EQ(why.blocker_count, TNM_MAX_BLOCKERS);
    for (int i = 0; i < TNM_MAX_BLOCKERS; i++) {
        CHECK_EQ(why.blockers[i].bytes, rig_room(1, (uint64_t)(12 - i) * 512));
        CHECK_EQ(why.blockers[i].tensor, of[12 - i].id);
    }
    for (int i = 0; i < 12; i++)
        CHECK_EQ(rig_unpin(&g, &p[i], 0), TNM_OK);
    rig_end(&g);
}

/* ---- dumps ---- */
static char text[1 << 17];
static uint64_t text_used;

static int gather(void *user, const char *what, uint64_t bytes) {
    (void)user;
    CHECK(text_used + bytes < sizeof text);
    memcpy(text + text_used, what, (size_t)bytes);
    text_used += bytes;
    text[text_used] = 0;
    return 0;
}

static void dump(tnm_dump_format format) {
    tnm_writer writer = { gather, NULL };
    text_used = 0;
    CHECK_EQ(tnm_dump(g.ctx, format, &writer), TNM_OK);
}

/* A reader of JSON as RFC 8259 has it; numbers are whole here. NULL = not JSON. */
static const char *json_blank(const char *s) {
    while (*s == ' ' || *s == '\n' || *s == '\t' || *s == '\r')
        s++;
    return s;
}

static const char *json_string(const char *s) {
    if (*s++ != '"') return NULL;
    for (; *s != '"'; s++) {
        if ((unsigned char)*s < 0x20) return NULL;
        if (*s != '\\') continue;
        s++;
        if (*s == 0 || strchr("\"\\/bfnrtu", *s) == NULL) return NULL;
        for (int i = 0; *s == 'u' && i < 4; i++)
            if (strchr("0123456789abcdefABCDEF", s[1 + i]) == NULL || s[1 + i] == 0) return NULL;
    }
    return s + 1;
}

static const char *json_value(const char *s, int depth) {
    s = json_blank(s);
    if (*s == '"') return json_string(s);
    if (*s >= '0' && *s <= '9') {
        if (*s == '0' && s[1] >= '0' && s[1] <= '9') return NULL;
        while (*s >= '0' && *s <= '9')
            s++;
        return s;
    }
    char open = *s++, close = (char)(open + 2);
    if ((open != '{' && open != '[') || depth > 10) return NULL;
    s = json_blank(s);
    if (*s == close) return s + 1;
    for (;; s++) {
        if (open == '{') {
            if ((s = json_string(json_blank(s))) == NULL) return NULL;
            s = json_blank(s);
            if (*s++ != ':') return NULL;
        }
        if ((s = json_value(s, depth + 1)) == NULL) return NULL;
        s = json_blank(s);
        if (*s == close) return s + 1;
        if (*s != ',') return NULL;
    }
}

static void check_json(void) {
    const char *end;
    dump(TNM_DUMP_JSON);
    end = json_value(text, 0);
    CHECK(end != NULL && *json_blank(end) == 0);
}

/* the number behind the key, after the n-th row that begins so */
static uint64_t number_of(const char *row, const char *key) {
    char quoted[64];
    const char *at = strstr(text, row);
    snprintf(quoted, sizeof quoted, "\"%s\": ", key);
    if (at != NULL) at = strstr(at, quoted);
    CHECK(at != NULL);
    return at != NULL ? strtoull(at + strlen(quoted), NULL, 10) : 0;
}

static int count_of(const char *what) {
    int count = 0;
    for (const char *at = text; (at = strstr(at, what)) != NULL; at++)
        count++;
    return count;
}

TEST(the_json_reader_reads) { /* or the checks below prove nothing */
    CHECK(json_value("{\"a\": [1, 20, {}], \"b\\u00e4\": \"\"}", 0) != NULL);
    const char *bad[] = { "{",       "[1,]",   "{\"a\" 1}", "{\"a\": }",
                          "\"\\x\"", "\"\n\"", "[01]",      "{1: 2}" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK(json_value(bad[i], 0) == NULL);
}

TEST(a_dump_is_json_and_says_what_stats_say) {
    char every[256];
    tnm_tensor_desc desc;
    tnm_tensor t;
    tnm_pinned p;
    open_pair(SIM_HIDDEN | SIM_ASYNC, 3);
    check_json();
    for (int c = 1; c < 256; c++)
        every[c - 1] = (char)c;
    every[255] = 0;
    memset(&desc, 0, sizeof desc);
    desc.bytes = ONE;
    for (int i = 0; i < 254; i += 60) { /* every byte there is, in labels */
        desc.label = every + i;
        CHECK_EQ(tnm_tensor_create(g.ctx, &desc, &t), TNM_OK);
    }
    rig_write(&g, t, 0, 1);
    rig_write(&g, tensor[0], 0, 1);
    CHECK_EQ(rig_pin(&g, tensor[0], 0, TNM_READ, &p), TNM_OK);
    CHECK_EQ(tnm_flush(g.ctx, t, 1), TNM_PENDING);
    tnm_pump(g.ctx, TNM_ALL);
    check_json();
    CHECK_EQ(count_of("\"label\": "), TENSORS + 5);
    for (int k = 0; k < 2; k++) {
        const char *row = k ? "\"slow\"" : "\"fast\"";
        tnm_tier_stats s = rig_stats(&g, k);
        if (k == 0) CHECK_EQ(number_of(row, "budget_bytes"), s.budget_bytes);
        CHECK_EQ(number_of(row, "reserved_bytes"), s.reserved_bytes);
        CHECK_EQ(number_of(row, "used_bytes"), s.used_bytes);
        CHECK_EQ(number_of(row, "peak_bytes"), s.peak_bytes);
        CHECK_EQ(number_of(row, "pinned_bytes"), s.pinned_bytes);
        CHECK_EQ(number_of(row, "dirty_bytes"), s.dirty_bytes);
        CHECK_EQ(number_of(row, "tensors"), s.tensors);
        CHECK_EQ(number_of(row, "hits"), s.hits);
        CHECK_EQ(number_of(row, "misses"), s.misses);
        CHECK_EQ(number_of(row, "bytes_in"), s.bytes_in);
        CHECK_EQ(number_of(row, "bytes_out"), s.bytes_out);
        CHECK_EQ(number_of(row, "starved"), s.starved);
    }
    CHECK_EQ(count_of("\"budget_bytes\""), 1); /* none for a tier without a limit */
    CHECK_EQ(count_of("\"pins\": 1"), 1);
    CHECK_EQ(rig_unpin(&g, &p, 0), TNM_OK);
    rig_end(&g);
}

TEST(a_dump_as_text_is_a_table) {
    open_pair(SIM_PLAIN, 3);
    rig_write(&g, tensor[0], 0, 1);
    dump(TNM_DUMP_TEXT);
    CHECK_EQ(count_of("\n"), 3); /* a head and two tiers, in columns */
    const char *head = text, *one = strchr(text, '\n') + 1, *two = strchr(one, '\n') + 1;
    CHECK_EQ(one - head, two - one);
    CHECK_EQ(strlen(two), (size_t)(two - one));
    CHECK(strncmp(one, "fast ", 5) == 0 && strncmp(two, "slow ", 5) == 0);
    CHECK(strstr(one, "unlimited") > two);
    CHECK(strstr(head, "evictions\n") == one - strlen("evictions\n"));
    rig_end(&g);
}

TEST(a_dump_of_64_tiers_is_whole) {
    static tnm_tier_desc tiers[TNM_MAX_TIERS];
    tnm_desc desc;
    tnm_tensor_desc one;
    tnm_use use;
    tnm_pinned p;
    char label[100];
    memset(&g, 0, sizeof g);
    memset(&desc, 0, sizeof desc);
    memset(&one, 0, sizeof one);
    memset(label, 1, sizeof label); /* the longest there is in JSON */
    label[99] = 0;
    for (int t = 0; t < TNM_MAX_TIERS; t++) {
        tiers[t].name = label;
        tiers[t].segment_bytes = 4096;
    }
    desc.tiers = tiers;
    desc.tier_count = TNM_MAX_TIERS;
    CHECK_EQ(tnm_create(&desc, &g.ctx), TNM_OK);
    one.bytes = 64;
    one.label = label;
    for (int i = 0; i < 6; i++) {
        CHECK_EQ(tnm_tensor_create(g.ctx, &one, &use.tensor), TNM_OK);
        for (int t = 0; t < TNM_MAX_TIERS; t++) {
            use = rig_use(use.tensor, t, t ? TNM_READ : TNM_DISCARD);
            CHECK_EQ(tnm_pin(g.ctx, &use, 1, &p), TNM_OK);
            CHECK_EQ(tnm_unpin(g.ctx, &p, 1, 0), TNM_OK);
        }
    }
    check_json();
    CHECK_EQ(count_of("\"state\""), 6 * TNM_MAX_TIERS);
    dump(TNM_DUMP_TEXT);
    CHECK_EQ(count_of("\n"), 1 + TNM_MAX_TIERS);
    CHECK_EQ(tnm_destroy(g.ctx), TNM_OK);
}

/* ---- check: every invariant it knows, broken and mended ---- */
static int finds(void) {
    return tnm_check(g.ctx) > 0;
}

/* Plant a value; it must be found; put the old one back; all must be well. */
#define PLANT(lvalue, value)                                                                       \
    do {                                                                                           \
        int plant_found;                                                                           \
        CHECK_EQ(tnm_check(g.ctx), 0);                                                             \
        memcpy(saved, &(lvalue), sizeof(lvalue));                                                  \
        (lvalue) = (value);                                                                        \
        plant_found = finds();                                                                     \
        memcpy(&(lvalue), saved, sizeof(lvalue));                                                  \
        if (!plant_found) check_fail(__FILE__, __LINE__, "not found: " #lvalue " = " #value);      \
        CHECK_EQ(tnm_check(g.ctx), 0);                                                             \
    } while (0)

static unsigned char saved[16];

static tnmi_replica *replica_of(tnm_tensor t, uint32_t tier) {
    return tnmi_tensor_on(&engine()->tensors, slot_of(t), tier);
}

/* Three tensors on the fast tier, the middle one gone again: used, free, used, free. */
static void open_planted(int kind) {
    open_pair(kind, 6);
    for (int i = 0; i < 3; i++)
        rig_write(&g, tensor[i], 0, (uint64_t)i);
    CHECK_EQ(tnm_tensor_destroy(g.ctx, tensor[1]), TNM_OK);
    CHECK_EQ(tnm_check(g.ctx), 0);
}

TEST(check_finds_broken_replicas) {
    open_planted(SIM_PLAIN);
    tnmi_engine *e = engine();
    tnmi_replica *r = replica_of(tensor[0], 0);
    uint32_t index = *tnmi_tensor_rep(&e->tensors, slot_of(tensor[0]), 0);
    tnmi_node *node = tnmi_space_node(&e->tiers.tier[0].space, r->node);
    uint32_t *place = tnmi_store_place(&e->tensors.on[0].order, r->node);
    PLANT(*tnmi_tensor_rep(&e->tensors, slot_of(tensor[0]), 0), TNMI_NONE);
    PLANT(r->content, slot_of(tensor[2]));
    PLANT(node->a, index + 1);
    PLANT(node->span, (node->span & ~3u) | TNMI_SPACE_HELD);
    PLANT(node->b, TNMI_CLAIMED + 1);
    PLANT(r->word, r->word | TNMI_CLAIM);
    PLANT(r->word, r->word ^ TNMI_ALONE);
    PLANT(r->word, r->word + TNMI_WRITER); /* a writer without a pin */
    PLANT(*place, 0);                      /* READY and placed, not in the order of leaving */
    tnmi_tensor *t = tnmi_tensor_at(&e->tensors, slot_of(tensor[0]));
    PLANT(t->mark, 1); /* a mark outlived its call */
    rig_end(&g);
}

TEST(check_finds_broken_fences) {
    tnm_pinned p[4];
    open_planted(SIM_PLAIN);
    g.sim.fence_stuck = 1;
    for (int i = 0; i < 4; i++) { /* 0: a reader; 2: a writer, and a reader that lives */
        tnm_access access = i == 1 ? TNM_WRITE : TNM_READ;
        CHECK_EQ(rig_pin(&g, tensor[i == 0 ? 0 : 2], 0, access, &p[i]), TNM_OK);
        if (i < 2) CHECK_EQ(rig_unpin(&g, &p[i], TNM_FENCE(i, 5)), TNM_OK);
    }
    tnmi_engine *e = engine();
    uint32_t index[2];
    for (int i = 0; i < 2; i++)
        index[i] = *tnmi_tensor_rep(&e->tensors, slot_of(tensor[i * 2]), 0);
    uint32_t *reads = tnmi_tensor_fenced_at(&e->tensors, 0, index[0]);
    uint32_t *writes = tnmi_tensor_fenced_at(&e->tensors, 0, index[1]);
    tnmi_fence *fence = (tnmi_fence *)tnmi_store_at(&e->fences, e->fence_head[1]);
    CHECK(*reads == 1 && *writes == 0x10001u && fence->replica == index[1]);
    PLANT(*reads, 0);
    PLANT(*writes, 0x10002u); /* it has so many pins */
    PLANT(*writes, 1);
    PLANT(fence->count, 2);
    PLANT(fence->replica, index[0]);
    PLANT(fence->tier, 1);
    PLANT(fence->write, 0);
    PLANT(fence->prev, e->fence_tail[1]);
    CHECK_EQ(rig_unpin(&g, &p[2], TNM_FENCE(1, 6)), TNM_OK);
    PLANT(fence->value, 7); /* the next one is lower */
    PLANT(e->fence_count, 4);
    g.sim.fence_stuck = 0;
    CHECK_EQ(rig_unpin(&g, &p[3], 0), TNM_OK);
    g.sim.now[0] = g.sim.now[1] = 6;
    rig_rest(&g);
    CHECK(*reads == 0 && *writes == 0);
    rig_end(&g);
}

TEST(check_finds_broken_uses) {
    tnm_use uses[3];
    tnm_pinned p;
    open_planted(SIM_PLAIN);
    for (int i = 0; i < 3; i++) {
        uses[i] = rig_use(tensor[i == 1 ? 3 : i], 0, TNM_READ);
        uses[i].step = (uint64_t)(1 + 2 * i);
    }
    CHECK_EQ(tnm_schedule(g.ctx, 0, uses, 3, 10), TNM_OK);
    CHECK_EQ(tnm_prefetch(g.ctx, 1, uses, 3), TNM_OK);
    CHECK_EQ(tnm_record(g.ctx, 2), TNM_OK);
    for (int i = 0; i < 3; i += 2) {
        CHECK_EQ(rig_pin(&g, tensor[i], 0, TNM_READ, &p), TNM_OK);
        CHECK_EQ(rig_unpin(&g, &p, 0), TNM_OK);
    }
    tnmi_hints *h = &engine()->hints;
    tnmi_lane *cycle = &h->lane[0], *single = &h->lane[1], *notes = &h->lane[2];
    tnmi_use *first = tnmi_hint_use(h, cycle->cycle), *second = tnmi_hint_use(h, first->next);
    PLANT(first->lane, 1);
    PLANT(tnmi_hint_use(h, cycle->last)->step, 10); /* outside the period */
    PLANT(second->prev, TNMI_NONE);
    PLANT(first->step, 4); /* after the second */
    PLANT(cycle->watch, cycle->watch | TNMI_LANE_FOLLOWS);
    PLANT(cycle->cycle_count, 2);
    PLANT(cycle->last, first->next);
    PLANT(notes->record.count, 1);
    PLANT(notes->record.last, TNMI_NONE);
    PLANT(notes->watch, 0);
    PLANT(tnmi_hint_use(h, notes->record.first)->same,
          tnmi_hint_use(h, notes->record.first)->same + 1);
    tnmi_use *told = tnmi_hint_use(h, single->single);
    PLANT(told->lane, 0);
    PLANT(told->flags, (uint8_t)(told->flags & ~TNMI_USE_SINGLE));
    PLANT(told->prev, single->single);
    PLANT(single->root, single->root + 1);
    PLANT(h->lane[3].root, 0); /* a tree of none */
    PLANT(h->loose, 1);
    PLANT(h->watching, 0);
    rig_end(&g);
}

TEST(check_finds_broken_learning) {
    rig_start(&g, 1);
    rig_tier(&g, "tier", SIM_PLAIN, 0);
    g.desc.policy = TNM_POLICY_AUTO;
    rig_create(&g);
    CHECK_EQ(tnm_check(g.ctx), 0); /* without a tensor there is no habit */
    tensor[0] = rig_tensor(&g, 64, 0);
    tnmi_engine *e = engine();
    tnmi_hints *h = &e->hints;
    uint32_t c = slot_of(tensor[0]);
    for (uint32_t k = 0; k < 6; k++)
        tnmi_hint_used(h, c, e->clock - 5000 + k * 1000, 1);
    CHECK_EQ(tnmi_engine_table(e, &h->uses, TNMI_FORETOLD + 1), TNM_ABSENT);
    while (tnmi_engine_table(e, &h->uses, TNMI_FORETOLD + 1) == TNM_ABSENT)
        tnmi_door_grow(g.ctx);
    tnmi_hint_foretell(h, &e->tensors, c, 0, e->clock);
    tnmi_use *use = tnmi_hint_use(h, h->lane[TNMI_LANE_LEARNED].single);
    PLANT(h->learned.on, 0);
    PLANT(use->flags, (uint8_t)(use->flags | TNMI_USE_SURE));
    PLANT(h->learned.foretold, 2);
    PLANT(h->learned.habits.capacity, 0);
    while (h->learned.foretold < TNMI_FORETOLD)
        tnmi_hint_foretell(h, &e->tensors, c, 0, e->clock);
    CHECK_EQ(tnm_check(g.ctx), 0);
    h->learned.foretold--; /* one more than there may be */
    tnmi_hint_foretell(h, &e->tensors, c, 0, e->clock);
    h->learned.foretold++;
    CHECK_EQ(tnm_check(g.ctx), 1);
    tnmi_hint_untell(h, &e->tensors, c);
    rig_end(&g);
}

/* An open window, and nodes for its hand-over. */
TEST(check_finds_windows_without_nodes) {
    tnm_pinned p;
    open_pair(SIM_HIDDEN | SIM_ASYNC, 2);
    for (int i = 0; i < 2; i++)
        rig_write(&g, tensor[i], 0, (uint64_t)i); /* dirty: written down before they go */
    rig_write(&g, tensor[2], 1, 2);
    g.sim.stuck = 1;
    g.sim.delay = 200;
    CHECK_EQ(rig_try(&g, tensor[2], 0, TNM_READ, &p), TNM_PENDING);
    tnm_pump(g.ctx, TNM_ALL);
    tnmi_tier *t = &engine()->tiers.tier[0];
    CHECK(t->windows > 0);
    PLANT(t->windows, 0);
    PLANT(t->space.nodes.live, t->space.nodes.capacity);
    g.sim.stuck = 0;
    rig_end(&g);
}

/* Text that does not fit is cut, not written past the end. */
TEST(text_stays_in_its_place) {
    char buffer[8];
    tnmi_text row;
    memset(buffer, 'x', sizeof buffer);
    row.at = buffer;
    row.size = 5;
    row.used = 0;
    tnmi_watch_put(&row, "abcdefgh");
    CHECK(row.used == 5 && memcmp(buffer, "abcdexxx", 8) == 0);
}

TEST(check_finds_broken_transfers) {
    tnm_pinned p;
    open_planted(SIM_HIDDEN | SIM_ASYNC);
    tnmi_engine *e = engine();
    rig_write(&g, tensor[3], 1, 3);
    CHECK_EQ(rig_try(&g, tensor[3], 0, TNM_READ, &p), TNM_PENDING);
    g.sim.stuck = 1;
    g.sim.delay = 200;
    tnm_pump(g.ctx, TNM_ALL);
    CHECK(e->move.used > 0);
    tnmi_replica *r = replica_of(tensor[3], 0);
    CHECK_EQ(rig_state(&g, tensor[3], 0), TNM_STATE_BUSY);
    tnmi_op *op = tnmi_move_op(&e->move, r->offset);
    PLANT(op->replica, op->replica + 1);
    PLANT(op->tier, 1);
    PLANT(op->content, slot_of(tensor[0]));
    PLANT(r->word, r->word + TNMI_PIN); /* pinned before it is there */
    PLANT(e->move.used, e->move.used + 1);
    PLANT(e->move.copies, e->move.copies + 1);
    PLANT(e->move.free_copy, TNMI_NONE);
    PLANT(e->move.copy[e->move.live_copy].state, TNMI_COPY_FREE);
    g.sim.stuck = 0;
    rig_end(&g);
}

TEST(check_finds_broken_ledgers) {
    open_planted(SIM_PLAIN);
    tnmi_tier *t = &engine()->tiers.tier[0];
    tnmi_segment *s = tnmi_tier_segment(&engine()->tiers, t->segments);
    PLANT(t->reserved, t->reserved - 1);
    PLANT(t->peak, t->reserved - 1);
    PLANT(s->size, s->size + t->granule);
    PLANT(s->tier, 1);
    PLANT(s->state, TNMI_SEGMENT_NONE);
    PLANT(t->segments, TNMI_NONE);
    PLANT(engine()->move.stage_state, TNMI_STAGING_LIVE); /* staging that nobody charged */
    rig_end(&g);
}

TEST(check_counts_dedicated_places) {
    rig_start(&g, 1);
    rig_tier(&g, "fast", SIM_PLAIN, rig_room(4, ONE));
    g.tiers[0].segment_bytes = TNM_DEDICATED;
    rig_tier(&g, "slow", SIM_PLAIN, 0);
    rig_create(&g);
    for (int i = 0; i < 3; i++) {
        tensor[i] = rig_tensor(&g, ONE, 0);
        rig_write(&g, tensor[i], 0, (uint64_t)i);
    }
    tnmi_space *space = &engine()->tiers.tier[0].space;
    CHECK(space->used_granules > 0);
    PLANT(space->used_granules, space->used_granules + 1);
    PLANT(space->used_granules, 0);
    rig_end(&g);
}

TEST(check_finds_broken_spaces) {
    open_planted(SIM_PLAIN);
    tnmi_space *space = &engine()->tiers.tier[0].space;
    tnmi_node *used = tnmi_space_node(space, replica_of(tensor[0], 0)->node);
    tnmi_node *gap = tnmi_space_node(space, used->next);
    tnmi_node *after = tnmi_space_node(space, gap->next);
    uint32_t bin = tnmi_space_bin_of(tnmi_space_size(gap));
    CHECK_EQ(tnmi_space_kind(gap), TNMI_SPACE_FREE);
    CHECK_EQ(tnmi_space_kind(after), TNMI_SPACE_USED);
    PLANT(space->free_granules, space->free_granules + 1);
    PLANT(space->held_granules, space->held_granules + 1);
    PLANT(space->used_granules, space->used_granules + 1);
    PLANT(gap->offset, gap->offset + 1);
    PLANT(gap->span, gap->span + 4);
    PLANT(after->prev, used->prev);
    PLANT(after->span, (after->span & ~3u) | TNMI_SPACE_FREE); /* two free neighbours */
    PLANT(space->map[bin / 32], space->map[bin / 32] ^ (1u << (bin % 32)));
    PLANT(space->bin[bin], TNMI_NONE);
    PLANT(gap->b, 0);
    PLANT(gap->span, (gap->span & ~3u) | TNMI_SPACE_HELD);
    rig_end(&g);
}

/* what no single field can break: a gap in two pieces, a gap in another's bin */
TEST(check_finds_gaps_that_are_not_merged) {
    open_planted(SIM_PLAIN);
    tnmi_space *space = &engine()->tiers.tier[0].space;
    uint32_t gap = tnmi_space_node(space, replica_of(tensor[0], 0)->node)->next;
    tnmi_node *left = tnmi_space_node(space, gap);
    uint32_t size = tnmi_space_size(left), piece = tnmi_store_take(&space->nodes);
    CHECK(piece != TNMI_NONE && size > 1);
    tnmi_space_bin_drop(space, gap);
    left->span = 1u << 2 | TNMI_SPACE_FREE;
    tnmi_node *right = tnmi_space_node(space, piece);
    right->offset = left->offset + 1;
    right->span = (size - 1) << 2 | TNMI_SPACE_FREE;
    tnmi_space_link(space, gap, piece);
    tnmi_space_bin_add(space, gap);
    tnmi_space_bin_add(space, piece);
    CHECK_EQ(tnm_check(g.ctx), 1);
    tnmi_space_bin_drop(space, piece);
    tnmi_space_settle(space, piece);
    CHECK_EQ(tnm_check(g.ctx), 0);
    uint32_t bin = tnmi_space_bin_of(size), other = bin + 1;
    gap = space->bin[bin];
    CHECK(gap != TNMI_NONE && space->bin[other] == TNMI_NONE);
    tnmi_space_bin_drop(space, gap);
    tnmi_node *node = tnmi_space_node(space, gap);
    node->span += 4u * size; /* twice as large, for as long as it takes to file it */
    other = tnmi_space_bin_of(2 * size);
    tnmi_space_bin_add(space, gap);
    node->span -= 4u * size;
    space->free_granules -= size;
    CHECK_EQ(tnm_check(g.ctx), 1);
    space->bin[other] = node->a;
    if (node->a != TNMI_NONE) tnmi_space_node(space, node->a)->b = TNMI_NONE;
    if (node->a == TNMI_NONE) space->map[other / 32] &= ~(1u << (other % 32));
    space->free_granules -= size;
    tnmi_space_bin_add(space, gap);
    CHECK_EQ(tnm_check(g.ctx), 0);
    rig_end(&g);
}

int main(void) {
    RUN(info_through_a_life);
    RUN(info_of_a_view_and_of_what_is_adopted);
    RUN(info_tells_the_next_use_and_the_last_error);
    RUN(info_of_what_is_lost);
    RUN(stats_are_the_sums_of_infos);
    RUN(stuck_bytes_are_dirty_above_a_tier_that_refuses);
    RUN(starved_counts_pumps_that_came_too_late);
    RUN(why_names_numbers_and_blockers);
    RUN(why_answers_what_try_pin_would);
    RUN(at_most_eight_blockers_the_largest);
    RUN(the_json_reader_reads);
    RUN(a_dump_is_json_and_says_what_stats_say);
    RUN(a_dump_as_text_is_a_table);
    RUN(a_dump_of_64_tiers_is_whole);
    RUN(check_finds_broken_replicas);
    RUN(check_finds_broken_fences);
    RUN(check_finds_broken_uses);
    RUN(check_finds_broken_learning);
    RUN(check_finds_windows_without_nodes);
    RUN(text_stays_in_its_place);
    RUN(check_finds_broken_transfers);
    RUN(check_finds_broken_ledgers);
    RUN(check_counts_dedicated_places);
    RUN(check_finds_broken_spaces);
    RUN(check_finds_gaps_that_are_not_merged);
    return check_done();
}
