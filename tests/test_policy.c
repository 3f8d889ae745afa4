/* The room [policy] from inside, on tables built by hand: the key against textbook LRU and against
 * the farthest next use, what may leave, and windows against every run there is. */
#define TENSORMEM_IMPLEMENTATION
#include "../tensormem.h"
#include "inside.h"

enum { TIERS = 3, MOST = 64, NODES = 300, GRANULES = 400 };

/* ---- a yard: the tables the policy looks at, and nothing that acts on them ---- */
static struct {
    tnmi_tensors tensors;
    tnmi_residents on[TIERS];
    tnmi_hints hints;
    tnmi_space space[TIERS];
    uint64_t below[TIERS];
    uint32_t in[TIERS], out[TIERS];
    int spill[TIERS], sick;
    uint64_t clock;
    uint32_t edge[TIERS];
} yard;

/* tier 0 stands on 1 and that on 2; or, as a tree, 0 and 1 both stand on 2 */
static void yard_open(int tree) {
    memset(&yard, 0, sizeof yard);
    yard.clock = (uint64_t)1 << 40;
    tnmi_store_init(&yard.tensors.names, "names", sizeof(tnmi_tensor), offsetof(tnmi_tensor, use),
                    MOST, 1);
    tnmi_store_init(&yard.tensors.regions, "regions", sizeof(tnmi_region),
                    offsetof(tnmi_region, refs), MOST, 1);
    bring(&yard.tensors.names);
    bring(&yard.tensors.regions);
    yard.tensors.on = yard.on;
    yard.tensors.tiers = TIERS;
    yard.tensors.last_region = TNMI_NONE;
    tnmi_hint_init(&yard.hints, MOST, 0, 1);
    bring(&yard.hints.uses);
    for (int t = 0; t < TIERS; t++) {
        tnmi_store_init(&yard.on[t].replicas, "replicas", sizeof(tnmi_replica),
                        offsetof(tnmi_replica, content), MOST, 1);
        tnmi_store_init(&yard.on[t].order.slots, "slots", sizeof(tnmi_slot), 0, MOST, 1);
        bring(&yard.on[t].replicas);
        tnmi_store_init(&yard.on[t].order.places, "places", 4, 0, NODES, 1);
        bring(&yard.on[t].order.slots);
        bring(&yard.on[t].order.places);
        tnmi_space_init(&yard.space[t], NODES, 1);
        bring(&yard.space[t].nodes);
        yard.edge[t] = tnmi_space_open(&yard.space[t], 0, GRANULES);
        yard.in[t] = yard.out[t] = t == 0 ? 1 : t == 1 ? 8 : 64;
    }
    yard.spill[0] = tree ? 2 : 1;
    yard.spill[1] = 2;
    yard.spill[2] = -1;
    yard.below[2] = 4;
    yard.below[1] = 2 | 4;
    yard.below[0] = tree ? 1 | 4 : 1 | 2 | 4;
}

/* Under TNM_POLICY_AUTO: there is a habit for every content. */
static void yard_learn(void) {
    tnmi_store_init(&yard.hints.learned.habits, "habits", sizeof(tnmi_habit), 0, MOST, 1);
    bring(&yard.hints.learned.habits);
    yard.hints.learned.on = 1;
}

static void yard_close(void) {
    if (yard.hints.learned.on) give_back(&yard.hints.learned.habits);
    give_back(&yard.tensors.names);
    give_back(&yard.tensors.regions);
    give_back(&yard.hints.uses);
    for (int t = 0; t < TIERS; t++) {
        give_back(&yard.on[t].replicas);
        give_back(&yard.on[t].order.slots);
        give_back(&yard.on[t].order.places);
        give_back(&yard.space[t].nodes);
    }
}

static tnmi_view view_of(uint32_t tier) {
    tnmi_view view;
    memset(&view, 0, sizeof view);
    view.tensors = &yard.tensors;
    view.hints = &yard.hints;
    view.space = &yard.space[tier];
    view.below = yard.below;
    view.cost_in = yard.in;
    view.cost_out = yard.out;
    view.tier = tier;
    view.wall = TNMI_NONE;
    view.spill = yard.spill[tier];
    view.sick = yard.sick;
    view.clock = yard.clock;
    return view;
}

static uint32_t content(uint32_t advice) {
    uint32_t c = tnmi_tensor_new(&yard.tensors);
    CHECK(c != TNMI_NONE);
    tnmi_tensor_set_flags(tnmi_tensor_at(&yard.tensors, c), TNMI_NAMED, ~(uint32_t)0);
    tnmi_tensor_set_field(tnmi_tensor_at(&yard.tensors, c), TNMI_ADVICE_SHIFT, 5, advice);
    return c;
}

static tnmi_replica *at(uint32_t c, uint32_t tier) {
    return tnmi_tensor_on(&yard.tensors, c, tier);
}

/* A current replica of so many granules, last pinned at `stamp`. */
static tnmi_replica *put(uint32_t c, uint32_t tier, uint32_t granules, uint64_t stamp) {
    tnmi_room room = room_of(granules, 1, 0, 0);
    uint32_t node = tnmi_space_find(&yard.space[tier], &room);
    uint32_t index = tnmi_tensor_place(&yard.tensors, c, tier, 0);
    tnmi_replica *replica = tnmi_tensor_replica(&yard.tensors, tier, index);
    CHECK(node != TNMI_NONE && index != TNMI_NONE);
    tnmi_space_take(&yard.space[tier], node, &room, index);
    replica->node = node;
    replica->segment = 0;
    replica->stamp = stamp;
    tnmi_tensor_mark(replica, TNMI_READY, TNMI_BUSY);
    return replica;
}

static tnmi_replica *adopt(uint32_t c, uint32_t tier) {
    tnm_adopt_desc desc;
    uint32_t index = tnmi_tensor_place(&yard.tensors, c, tier, 0);
    tnmi_replica *replica = tnmi_tensor_replica(&yard.tensors, tier, index);
    memset(&desc, 0, sizeof desc);
    desc.tier = (int)tier;
    replica->segment = tnmi_tensor_adopt(&yard.tensors, &desc);
    tnmi_tensor_mark(replica, TNMI_READY, TNMI_BUSY);
    return replica;
}

static void drop(uint32_t c, uint32_t tier) {
    uint32_t index = *tnmi_tensor_rep(&yard.tensors, c, tier);
    tnmi_space_free(&yard.space[tier], at(c, tier)->node, TNMI_NONE);
    tnmi_tensor_detach(&yard.tensors, tier, index);
    tnmi_store_give(&yard.on[tier].replicas, index);
}

static void announce(uint32_t c, uint32_t tier, uint64_t steps, int sure) {
    tnmi_use use;
    memset(&use, 0, sizeof use);
    use.step = steps;
    use.content = c;
    use.tier = (uint8_t)tier;
    use.flags = (uint8_t)(TNMI_USE_SINGLE | (sure ? TNMI_USE_SURE : 0));
    CHECK(tnmi_store_spare(&yard.hints.uses) > 0);
    tnmi_hint_add_single(&yard.hints, &yard.tensors, &use);
}

static uint64_t key_of(uint32_t c, uint32_t tier) {
    tnmi_view view = view_of(tier);
    return tnmi_policy_key(&view, at(c, tier));
}

/* Who would leave first? */
static uint32_t first_of(const uint32_t *all, int count, uint32_t tier) {
    int best = 0;
    for (int i = 1; i < count; i++)
        if (key_of(all[i], tier) < key_of(all[best], tier)) best = i;
    return all[best];
}

/* ---- the key ---- */
TEST(with_nothing_known_it_is_lru) {
    enum { COUNT = 24 };
    uint32_t list[COUNT]; /* the least recently pinned first: the textbook's list */
    yard_open(0);
    for (int i = 0; i < COUNT; i++) {
        list[i] = content(draw(2) ? 0 : TNM_DROPPABLE);
        put(list[i], 0, 1 + draw(9), ++yard.clock);
        if (draw(3) == 0) put(list[i], 1 + draw(2), 3, draw(1000)); /* costs differ, ages do not */
    }
    for (int round = 0; round < 4000; round++) {
        int i = (int)draw(COUNT);
        uint32_t c = list[i];
        if (draw(4) == 0) { /* the victim leaves and comes back: it is the newest */
            c = first_of(list, COUNT, 0);
            CHECK_EQ(c, list[0]);
            drop(c, 0);
            put(c, 0, 1 + draw(9), 0);
            for (i = 0; list[i] != c;)
                i++;
        }
        at(c, 0)->stamp = ++yard.clock;
        for (; i + 1 < COUNT; i++)
            list[i] = list[i + 1];
        list[COUNT - 1] = c;
        yard.clock += draw(3);
        for (i = 0; i + 1 < COUNT; i++)
            CHECK(key_of(list[i], 0) < key_of(list[i + 1], 0));
    }
    yard_close();
}

TEST(the_farthest_known_use_leaves_first) {
    enum { COUNT = 20 };
    for (int round = 0; round < 200; round++) {
        uint32_t all[COUNT];
        uint64_t next[COUNT], last = 0;
        yard_open(0);
        for (int i = 0; i < COUNT; i++) {
            all[i] = content(0);
            put(all[i], 0, 1, yard.clock - draw(5000)); /* ages say nothing here */
            put(all[i], 1, 1, 1);
            next[i] = UINT64_MAX;
            for (uint32_t n = 1 + draw(3); n > 0; n--) {
                uint64_t steps = 1 + draw(3000);
                announce(all[i], 0, steps, (int)draw(2));
                if (steps < next[i]) next[i] = steps;
            }
            if (next[i] > last) last = next[i];
        }
        uint32_t victim = first_of(all, COUNT, 0);
        for (int i = 0; i < COUNT; i++)
            if (all[i] == victim) CHECK_EQ(next[i], last);
        yard_close();
    }
}

TEST(a_known_use_outranks_age) {
    yard_open(0);
    uint32_t old = content(0), young = content(0);
    put(old, 0, 1, yard.clock - 100000);
    put(old, 1, 1, 1);
    put(young, 0, 1, yard.clock - 50);
    put(young, 1, 1, 1);
    CHECK(key_of(old, 0) < key_of(young, 0));
    announce(old, 0, 20, 0); /* needed in 20: it may be as old as it likes */
    CHECK(key_of(old, 0) > key_of(young, 0));
    announce(young, 0, 10, 0);
    CHECK(key_of(old, 0) < key_of(young, 0));
    yard_close();
}

TEST(a_use_above_counts_for_the_tiers_it_goes_through) {
    yard_open(0);
    uint32_t a = content(0), b = content(0), c = content(0);
    put(a, 1, 1, yard.clock - 900);
    put(b, 1, 1, yard.clock - 300);
    put(c, 1, 1, yard.clock - 600);
    announce(a, 0, 5, 0); /* it will be fetched from here */
    announce(c, 2, 5, 0); /* this passes by below */
    CHECK(key_of(c, 1) < key_of(b, 1));
    CHECK(key_of(b, 1) < key_of(a, 1));
    yard_close();
}

TEST(advice_outranks_everything) {
    yard_open(0);
    uint32_t wont = content(TNM_WONT_NEED), keep = content(TNM_KEEP), once = content(TNM_ONCE);
    uint32_t plain = content(0), soon = content(0), kept = content(0);
    put(wont, 0, 1, yard.clock);
    put(keep, 0, 1, 1);
    put(once, 0, 1, yard.clock);
    put(plain, 0, 1, 1);
    put(soon, 0, 1, 1);
    put(kept, 0, 1, 1);
    announce(soon, 0, 1, 1);
    announce(wont, 0, 1, 1);
    announce(once, 0, 1, 1);
    tnmi_tensor_set_field(tnmi_tensor_at(&yard.tensors, kept), TNMI_KEPT_SHIFT, 7, 1);
    CHECK(key_of(wont, 0) < key_of(plain, 0) && key_of(once, 0) < key_of(plain, 0));
    CHECK(key_of(plain, 0) < key_of(soon, 0));
    CHECK(key_of(soon, 0) < key_of(keep, 0));
    CHECK_EQ(key_of(keep, 0), TNMI_KEY_KEEP);
    CHECK_EQ(key_of(kept, 0), TNMI_KEY_KEEP); /* by the schedule, on this tier */
    put(kept, 1, 1, 1);
    CHECK(key_of(kept, 1) != TNMI_KEY_KEEP);
    tnmi_tensor_mark(at(once, 0), TNMI_FRESH, 0); /* fetched for its one use: not before that */
    CHECK(key_of(once, 0) > key_of(plain, 0));
    yard_close();
}

TEST(what_is_current_above_and_below_costs_nothing) {
    yard_open(0);
    uint32_t twin = content(0), bottom = content(0), top = content(0), old = content(0);
    put(twin, 0, 1, 1);
    put(twin, 1, 1, yard.clock);
    put(twin, 2, 1, 1);
    put(bottom, 1, 1, yard.clock - 1); /* nothing above */
    put(bottom, 2, 1, 1);
    put(top, 0, 1, 1); /* nothing below */
    put(top, 1, 1, yard.clock - 1);
    put(old, 1, 1, 5);
    CHECK(key_of(twin, 1) < key_of(old, 1));
    CHECK(key_of(bottom, 1) > key_of(old, 1));
    CHECK(key_of(top, 1) > key_of(old, 1));
    announce(twin, 0, 1, 1); /* the one above serves it */
    CHECK(key_of(twin, 1) < key_of(old, 1));
    CHECK(key_of(twin, 0) > key_of(old, 1));
    yard_close();
}

/* Distance over cost: what is cheap to bring back leaves before what is dear. */
TEST(costs_divide_known_distances) {
    enum { CLEAN, BELOW, DIRTY, DROPS, KINDS };
    static const uint64_t ratio[KINDS] = { 1, 8, 2, 1 }; /* in 8; from 64; in 8 and out 8; in 8 */
    for (int round = 0; round < 300; round++) {
        int kind[2];
        uint64_t steps[2];
        uint32_t c[2];
        yard_open(0);
        for (int i = 0; i < 2; i++) {
            kind[i] = (int)draw(KINDS);
            steps[i] = 1 + draw(4000);
            c[i] = content(kind[i] == DROPS ? TNM_DROPPABLE : 0);
            put(c[i], 0, 1, 1);
            if (kind[i] == CLEAN) put(c[i], 1, 1, 1);
            if (kind[i] == BELOW) put(c[i], 2, 1, 1);
            announce(c[i], 0, steps[i], 0);
        }
        uint64_t a = steps[0] * ratio[kind[1]], b = steps[1] * ratio[kind[0]];
        uint64_t tick = ratio[kind[0]] * ratio[kind[1]]; /* less than a tick apart: either */
        if (a > b + tick) CHECK(key_of(c[0], 0) < key_of(c[1], 0));
        if (b > a + tick) CHECK(key_of(c[1], 0) < key_of(c[0], 0));
        yard_close();
    }
}

/* A content that was used `uses` times, every `gap` ticks, the last time `age` ago. */
static tnmi_replica *used(uint32_t gap, uint32_t uses, uint32_t age) {
    uint32_t c = content(TNM_NORMAL);
    for (uint32_t i = uses; i > 0; i--)
        tnmi_hint_used(&yard.hints, c, yard.clock - age - (uint64_t)(i - 1) * gap, 1);
    adopt(c, 1);
    return put(c, 0, 1, yard.clock - age);
}

/* With equal costs what is not regular leaves by age, exactly; else age too is divided. */
TEST(auto_divides_ages_by_cost_and_equal_costs_are_lru) {
    tnmi_replica *list[12];
    yard_open(0);
    yard_learn();
    for (int i = 0; i < 12; i++) { /* two uses of which nothing follows yet */
        list[i] = used(40, 1 + (uint32_t)i % 2, 300 + (uint32_t)i * 7);
        CHECK_EQ(key_of(list[i]->content, 0), list[i]->stamp);
    }
    for (int i = 1; i < 12; i++)
        CHECK(key_of(list[i]->content, 0) < key_of(list[i - 1]->content, 0));
    uint32_t dirty = content(TNM_NORMAL), far_ = content(TNM_NORMAL);
    tnmi_hint_used(&yard.hints, dirty, yard.clock - 800, 1);
    tnmi_hint_used(&yard.hints, far_, yard.clock - 800, 1);
    put(dirty, 0, 1, yard.clock - 800);
    put(far_, 0, 1, yard.clock - 800);
    adopt(far_, 2);
    CHECK_EQ(key_of(dirty, 0), yard.clock - 400); /* in and out: twice a reload */
    CHECK_EQ(key_of(far_, 0), yard.clock - 100);  /* 64 a byte against 8 */
    yard.out[1] = 56;                             /* writing is dear */
    CHECK_EQ(key_of(dirty, 0), yard.clock - 100);
    yard_close();
}

/* What comes in turn leaves by when it comes next, once that has proved right. */
TEST(auto_goes_by_the_gaps_that_agree) {
    yard_open(0);
    yard_learn();
    tnmi_replica *soon = used(100, 5, 90), *late = used(100, 5, 10), *over = used(100, 5, 130);
    tnmi_replica *two = used(100, 3, 10);
    CHECK_EQ(key_of(soon->content, 0), yard.clock - 10);
    CHECK_EQ(key_of(late->content, 0), yard.clock - 90); /* most recently used, and farthest */
    CHECK_EQ(key_of(over->content, 0), over->stamp);     /* it did not come: by age */
    CHECK_EQ(key_of(two->content, 0), two->stamp);       /* two gaps are not believed as they are */
    yard.hints.learned.right[0] = TNMI_SURE_ENOUGH;
    CHECK_EQ(key_of(two->content, 0), yard.clock - 90); /* unless one is */
    yard.hints.learned.right[0] = 0;
    for (int i = 0; i < 100; i++) { /* four gaps that agree are followed by another: no more */
        tnmi_habit *habit = tnmi_hint_habit(&yard.hints, late->content), before = *habit;
        tnmi_hint_used(&yard.hints, late->content, yard.clock, 1);
        *habit = before;
    }
    CHECK(yard.hints.falls > 0);
    CHECK_EQ(key_of(soon->content, 0), soon->stamp);
    yard_close();
}

/* Hits leave no more than a count and the last stamp: the mean gap follows from both. */
TEST(auto_reads_hits_out_of_the_word) {
    yard_open(0);
    yard_learn();
    tnmi_replica *r = used(100, 6, 100);
    CHECK_EQ(key_of(r->content, 0), yard.clock); /* due now */
    r->stamp = yard.clock;
    tnmi_tensor_mark(r, TNMI_HIT, 0); /* and pinned, which only the word knows */
    CHECK_EQ(key_of(r->content, 0), yard.clock - 100);
    yard_close();
}

TEST(the_cheapest_survivor_counts) {
    yard_open(0);
    uint32_t both = content(0), deep = content(0);
    put(both, 0, 1, 1);
    put(both, 1, 1, 1);
    put(both, 2, 1, 1);
    put(deep, 0, 1, 1);
    put(deep, 2, 1, 1);
    tnmi_view view = view_of(0);
    CHECK_EQ(tnmi_policy_survivor(&view, both, 0), 1);
    CHECK_EQ(tnmi_policy_survivor(&view, deep, 0), 2);
    yard.in[1] = 70; /* the nearer one may be the dearer one */
    CHECK_EQ(tnmi_policy_survivor(&view, both, 0), 2);
    view = view_of(2);
    CHECK(tnmi_policy_survivor(&view, deep, 2) == TNMI_NONE); /* what is above does not stay */
    yard_close();
}

TEST(a_sibling_is_no_survivor) {
    yard_open(1);
    uint32_t c = content(0), lent = content(0);
    put(c, 0, 1, 1);
    put(c, 1, 1, 1); /* two devices over one host: neither may count on the other */
    tnmi_view zero = view_of(0), one = view_of(1);
    CHECK(tnmi_policy_is_dirty(&zero, c, 0) && tnmi_policy_is_dirty(&one, c, 1));
    CHECK_EQ(tnmi_policy_may_leave(&zero, at(c, 0)), TNMI_LEAVE_DIRTY);
    CHECK_EQ(tnmi_policy_may_leave(&one, at(c, 1)), TNMI_LEAVE_DIRTY);
    put(c, 2, 1, 1);
    CHECK(!tnmi_policy_is_dirty(&zero, c, 0) && !tnmi_policy_is_dirty(&one, c, 1));
    put(lent, 0, 1, 1);
    adopt(lent, 1); /* adopted memory stays, wherever it is */
    CHECK(!tnmi_policy_is_dirty(&zero, lent, 0));
    CHECK_EQ(tnmi_policy_may_leave(&zero, at(lent, 0)), TNMI_LEAVE_NOW);
    yard_close();
}

TEST(what_was_announced_and_is_over_waits_for_the_horizon) {
    yard_open(0);
    uint32_t over = content(0), next = content(0), later = content(0), silent = content(0);
    uint64_t stamp = yard.clock - 10;
    yard.hints.lane[0].stepped = 1; /* before its first step a lane has no reach */
    put(over, 0, 1, stamp);
    put(next, 0, 1, stamp);
    put(later, 0, 1, stamp);
    put(silent, 0, 1, stamp);
    put(over, 1, 1, 1);
    put(next, 1, 1, 1);
    put(later, 1, 1, 1);
    put(silent, 1, 1, 1);
    announce(over, 0, 3, 1);
    tnmi_hint_forget_singles(&yard.hints, &yard.tensors, over);
    CHECK_EQ(tnmi_tensor_at(&yard.tensors, over)->use, TNMI_NONE);
    announce(next, 0, 40, 1);
    announce(later, 0, 500, 1);
    CHECK(key_of(over, 0) < key_of(later, 0)); /* not before the end of what was announced */
    CHECK(key_of(later, 0) < key_of(next, 0));
    CHECK(key_of(next, 0) < key_of(silent, 0)); /* nothing was ever said of it: its age */
    yard_close();
}

TEST(a_key_never_falls_by_itself) { /* so that a heap may correct its top lazily */
    yard_open(0);
    uint32_t all[12];
    uint64_t before[12];
    for (int i = 0; i < 12; i++) {
        all[i] = content(i % 4 == 3 ? TNM_KEEP : 0);
        put(all[i], 0, 1, yard.clock - draw(800));
        if (draw(2)) put(all[i], 1, 1, 1);
        if (draw(2)) announce(all[i], 0, 1 + draw(900), 1);
        before[i] = 0;
    }
    for (int round = 0; round < 300; round++) {
        yard.clock += draw(4);
        if (draw(3) == 0) at(all[draw(12)], 0)->stamp = yard.clock;
        for (int i = 0; i < 12; i++) {
            CHECK(key_of(all[i], 0) >= before[i]);
            before[i] = key_of(all[i], 0);
        }
    }
    yard_close();
}

/* ---- what may leave ---- */
static tnmi_leave leaves(uint32_t c, uint32_t tier) {
    tnmi_view view = view_of(tier);
    return tnmi_policy_may_leave(&view, at(c, tier));
}

TEST(what_may_leave) {
    yard_open(0);
    uint32_t clean = content(0), dirty = content(0), drops = content(TNM_DROPPABLE);
    put(clean, 0, 2, 1);
    put(clean, 2, 2, 1);
    put(dirty, 0, 2, 1);
    put(drops, 0, 2, 1);
    CHECK_EQ(leaves(clean, 0), TNMI_LEAVE_NOW);
    CHECK_EQ(leaves(dirty, 0), TNMI_LEAVE_DIRTY);
    CHECK_EQ(leaves(drops, 0), TNMI_LEAVE_NOW);   /* it becomes EMPTY */
    CHECK_EQ(leaves(clean, 2), TNMI_LEAVE_STUCK); /* what is above does not survive for it */
    yard.sick = 1;
    CHECK_EQ(leaves(dirty, 0), TNMI_LEAVE_SICK);
    CHECK_EQ(leaves(clean, 0), TNMI_LEAVE_NOW);
    CHECK_EQ(leaves(drops, 0), TNMI_LEAVE_NOW);
    yard.sick = 0;
    put(dirty, 1, 2, 1);
    CHECK_EQ(leaves(dirty, 0), TNMI_LEAVE_NOW);
    CHECK_EQ(leaves(dirty, 1), TNMI_LEAVE_DIRTY);
    for (int flag = TNMI_SOURCE; flag <= TNMI_CLAIM; flag += TNMI_CLAIM - TNMI_SOURCE) {
        tnmi_tensor_mark(at(clean, 0), (uint64_t)flag, 0);
        CHECK_EQ(leaves(clean, 0), TNMI_LEAVE_LATER); /* a copy reads it; a request waits */
        tnmi_tensor_mark(at(clean, 0), 0, (uint64_t)flag);
    }
    tnmi_space_node(&yard.space[0], at(clean, 0)->node)->b = 7; /* in another window */
    CHECK_EQ(leaves(clean, 0), TNMI_LEAVE_LATER);
    tnmi_space_node(&yard.space[0], at(clean, 0)->node)->b = 0;
    CHECK(hit(at(clean, 0), TNM_READ));
    tnmi_tensor_mark(at(clean, 0), TNMI_SOURCE, 0);
    CHECK_EQ(leaves(clean, 0), TNMI_LEAVE_PINNED);
    tnmi_tensor_mark(at(clean, 0), 0, TNMI_SOURCE);
    tnmi_tensor_unpin(at(clean, 0), TNM_READ);
    CHECK(tnmi_tensor_claim(at(clean, 0)));
    CHECK_EQ(leaves(clean, 0), TNMI_LEAVE_LATER); /* BUSY */
    yard_close();
}

/* The memory of a tier is gone, and its records have not been told yet. */
TEST(what_is_being_lost_is_no_survivor) {
    yard_open(0);
    uint32_t c = content(0);
    put(c, 0, 2, 1);
    put(c, 1, 2, 1);
    tnmi_view view = view_of(0);
    CHECK_EQ(tnmi_policy_survivor(&view, c, 0), 1);
    CHECK(!tnmi_policy_is_source(&view, c, 0));
    view.losing = (uint64_t)1 << 1;
    CHECK_EQ(tnmi_policy_survivor(&view, c, 0), TNMI_NONE);
    CHECK_EQ(tnmi_policy_may_leave(&view, at(c, 0)), TNMI_LEAVE_DIRTY);
    put(c, 2, 2, 1);
    CHECK_EQ(tnmi_policy_survivor(&view, c, 0), 2);
    yard_close();
    yard_open(1);
    c = content(0);
    put(c, 0, 2, 1);
    tnmi_tensor_mark(put(c, 1, 2, 1), TNMI_BUSY, TNMI_READY); /* a sibling is filled from it */
    view = view_of(0);
    CHECK(tnmi_policy_is_source(&view, c, 0));
    view.losing = (uint64_t)1 << 1; /* in vain */
    CHECK(!tnmi_policy_is_source(&view, c, 0));
    yard_close();
}

/* A lane that was told of its end of time, and an age on top: the key stays the largest. */
TEST(distances_never_wrap) {
    yard_open(0);
    uint32_t over = content(0), other = content(0);
    put(over, 0, 2, 1);
    put(other, 0, 2, 1);
    yard.hints.lane[0].pace = 16;
    yard.hints.lane[0].stepped = 1;
    announce(over, 0, UINT64_MAX - 5, 1);
    tnmi_view view = view_of(0);
    uint64_t known = tnmi_policy_distance(&view, over, 1, 0, TNMI_NONE);
    CHECK(known >= tnmi_policy_distance(&view, other, 1, 0, TNMI_NONE));
    tnmi_hint_delete_single(&yard.hints, &yard.tensors,
                            tnmi_tensor_at(&yard.tensors, over)->use);
    CHECK(tnmi_hint_reach(&yard.hints, tnmi_tensor_at(&yard.tensors, over)) > 0);
    CHECK_EQ(tnmi_policy_distance(&view, over, 1, 0, 1), UINT64_MAX);
    yard_close();
}

/* Kept is what lies below the wall; adopted memory lies nowhere, and no tensor takes its place. */
TEST(adopted_memory_may_be_kept) {
    yard_open(0);
    uint32_t c = content(0), d = content(0);
    tnmi_tensor_set_field(tnmi_tensor_at(&yard.tensors, c), TNMI_KEPT_SHIFT, 7, 1);
    tnmi_tensor_set_field(tnmi_tensor_at(&yard.tensors, d), TNMI_KEPT_SHIFT, 7, 1);
    tnmi_view view = view_of(0);
    view.wall = 5;
    CHECK(tnmi_policy_is_kept(&view, adopt(c, 0)));
    CHECK(!tnmi_policy_is_kept(&view, put(d, 0, 8, 1)));
    yard_close();
}

TEST(the_only_source_of_a_load_stays) {
    yard_open(0);
    uint32_t c = content(TNM_DROPPABLE);
    put(c, 1, 2, 1);
    CHECK_EQ(leaves(c, 1), TNMI_LEAVE_NOW);
    put(c, 0, 2, 1);
    CHECK(tnmi_tensor_claim(at(c, 0))); /* on its way up */
    CHECK_EQ(leaves(c, 1), TNMI_LEAVE_LATER);
    put(c, 2, 2, 1); /* another place to read from */
    CHECK_EQ(leaves(c, 1), TNMI_LEAVE_NOW);
    CHECK(tnmi_tensor_claim(at(c, 2))); /* BUSY as well, and below */
    CHECK_EQ(leaves(c, 1), TNMI_LEAVE_LATER);
    tnmi_tensor_unclaim(at(c, 0));
    CHECK_EQ(leaves(c, 1), TNMI_LEAVE_NOW);
    drop(c, 0); /* a write-back: what it makes is no load of a faster tier */
    CHECK_EQ(leaves(c, 1), TNMI_LEAVE_NOW);
    yard_close();
}

/* ---- windows ---- */
typedef struct piece { /* a node, as the brute force sees it */
    uint32_t node, start, size;
    int wall, keep, empty;
    double cost;
} piece;

static piece pieces[NODES];
static int piece_count;

static int fits(const tnmi_room *room, uint32_t start, uint32_t end) {
    for (uint32_t s = start; s + room->need <= end; s++)
        if (s % room->align == room->phase % room->align) return 1;
    return 0;
}

static void look(const tnmi_wish *wish) {
    tnmi_view view = view_of(0);
    const tnmi_space *space = &yard.space[0];
    piece_count = 0;
    for (uint32_t n = tnmi_space_node(space, yard.edge[0])->next; n != yard.edge[0];
         n = tnmi_space_node(space, n)->next) {
        const tnmi_node *node = tnmi_space_node(space, n);
        piece *p = &pieces[piece_count++];
        memset(p, 0, sizeof *p);
        p->node = n;
        p->start = node->offset;
        p->size = tnmi_space_size(node);
        p->wall = tnmi_space_kind(node) == TNMI_SPACE_HELD;
        p->empty = tnmi_space_kind(node) == TNMI_SPACE_FREE;
        if (tnmi_space_kind(node) != TNMI_SPACE_USED) continue;
        const tnmi_replica *replica = tnmi_tensor_replica(&yard.tensors, 0, node->a);
        tnmi_leave leave = tnmi_policy_may_leave(&view, replica);
        uint64_t key = tnmi_policy_key(&view, replica);
        p->wall = leave != TNMI_LEAVE_NOW && (leave != TNMI_LEAVE_DIRTY || wish->clean);
        p->wall |= key >= wish->before;
        p->keep = key == TNMI_KEY_KEEP;
        if (wish->guess) p->wall |= p->keep || (replica->word & TNMI_FRESH);
        if (!p->keep) p->cost = p->size / (double)(yard.clock - key + 1);
    }
}

/* The least of all runs: kept granules first, then bytes over age. 0 = there is none. */
static int least(const tnmi_wish *wish, uint32_t *kept, double *cost, int *first_end) {
    int found = 0;
    *first_end = -1; /* where the first run without kept ones ends */
    for (int i = 0; i < piece_count; i++) {
        uint32_t k = 0;
        double c = 0;
        for (int j = i; j < piece_count && !pieces[j].wall; j++) {
            k += pieces[j].keep ? pieces[j].size : 0;
            c += pieces[j].cost;
            if (!fits(&wish->room, pieces[i].start, pieces[j].start + pieces[j].size)) continue;
            if (k == 0 && (*first_end < 0 || j < *first_end)) *first_end = j;
            if (found && (k > *kept || (k == *kept && c >= *cost))) continue;
            found = 1;
            *kept = k;
            *cost = c;
        }
    }
    return found;
}

/* The window is a run of whole nodes that may be taken; what it costs. */
static double price(const tnmi_wish *wish, const tnmi_window *w, uint32_t *kept, int *last) {
    double cost = 0;
    int i = 0;
    while (i < piece_count && pieces[i].node != w->first)
        i++;
    CHECK(i < piece_count && pieces[i].start == w->start);
    CHECK(fits(&wish->room, w->start, w->end));
    *kept = 0;
    *last = i;
    for (; i < piece_count && pieces[i].start < w->end; i++) {
        CHECK(!pieces[i].wall);
        *kept += pieces[i].keep ? pieces[i].size : 0;
        cost += pieces[i].cost;
        *last = i;
    }
    CHECK_EQ(pieces[*last].start + pieces[*last].size, w->end);
    return cost;
}

static void random_segment(void) {
    uint32_t advice[] = { 0, 0, 0, 0, 0, TNM_KEEP, TNM_DROPPABLE, TNM_WONT_NEED };
    int count = 6 + (int)draw(34);
    yard_open(0);
    for (int i = 0; i < count; i++) {
        uint32_t c = content(advice[draw(8)]);
        tnmi_replica *replica = put(c, 0, 1 + draw(9), yard.clock - draw(draw(2) ? 30 : 9000));
        if (draw(2)) put(c, 1, 1, 1);
        if (draw(5) == 0) announce(c, 0, 1 + draw(300), (int)draw(2));
        if (draw(6) == 0) tnmi_tensor_mark(replica, TNMI_FRESH, 0);
        if (draw(14) == 0) CHECK(hit(replica, TNM_READ));
        if (draw(14) == 0) tnmi_tensor_mark(replica, TNMI_SOURCE, 0);
    }
    for (uint32_t c = 0; c < yard.tensors.names.fresh; c++) { /* gaps, free and held */
        if (draw(5) != 0 || tnmi_tensor_pins(at(c, 0)->word)) continue;
        drop(c, 0);
    }
    tnmi_room two = room_of(2, 1, 0, 0), rest = room_of(150, 1, 0, 0);
    uint32_t held = draw(3) == 0 ? tnmi_space_find(&yard.space[0], &two) : TNMI_NONE;
    if (held != TNMI_NONE) tnmi_space_hold(&yard.space[0], held, 5);
    held = draw(6) ? tnmi_space_find(&yard.space[0], &rest) : TNMI_NONE;
    if (held != TNMI_NONE) tnmi_space_hold(&yard.space[0], held, TNMI_SPACE_DRAIN);
}

static tnmi_wish random_wish(void) {
    tnmi_wish wish;
    memset(&wish, 0, sizeof wish);
    wish.room = room_of(1 + draw(40), draw(4) ? 1 : 1u << draw(4), 0, 0);
    wish.room.phase = draw(wish.room.align);
    wish.before = draw(4) ? UINT64_MAX : yard.clock - draw(2000);
    wish.guess = draw(4) == 0;
    wish.clean = draw(5) == 0;
    return wish;
}

static tnmi_window scan(const tnmi_wish *wish) {
    tnmi_view view = view_of(0);
    tnmi_window best;
    memset(&best, 0, sizeof best);
    best.first = TNMI_NONE;
    tnmi_policy_scan(&view, wish, tnmi_space_node(&yard.space[0], yard.edge[0])->next, UINT32_MAX,
                     &best);
    return best;
}

TEST(the_window_is_the_cheapest_of_all_runs) {
    int rounds = check_scale(6000, 600), windows = 0, none = 0;
    for (int round = 0; round < rounds; round++) {
        uint32_t kept = 0, mine;
        double cost = 0, paid;
        int end, last;
        random_segment();
        tnmi_wish wish = random_wish();
        look(&wish);
        int found = least(&wish, &kept, &cost, &end);
        tnmi_window best = scan(&wish);
        CHECK_EQ(best.first != TNMI_NONE, found);
        windows += found;
        none += !found;
        if (found && best.first != TNMI_NONE) {
            paid = price(&wish, &best, &mine, &last);
            CHECK_EQ(mine, kept);
            CHECK(paid <= cost * 1.000001 + 1e-9);
        }
        wish.low = 1; /* what is kept goes to the low end: the first run without kept ones */
        best = scan(&wish);
        CHECK_EQ(best.first != TNMI_NONE, found);
        if (found && end >= 0) {
            price(&wish, &best, &mine, &last);
            CHECK_EQ(mine, 0);
            CHECK_EQ(last, end);
        }
        yard_close();
    }
    CHECK(windows > rounds / 10 && none > rounds / 10);
}

TEST(equal_runs_go_by_the_lower_offset) {
    yard_open(0);
    for (int i = 0; i < 20; i++) {
        uint32_t c = content(0);
        put(c, 0, 4, yard.clock - 100);
    }
    tnmi_wish wish;
    memset(&wish, 0, sizeof wish);
    wish.room = room_of(10, 1, 0, 0);
    wish.before = UINT64_MAX;
    CHECK(hit(at(1, 0), TNM_READ));
    tnmi_room rest = room_of(GRANULES - 80, 1, 0, 0); /* no free room: it would cost nothing */
    uint32_t node = tnmi_space_find(&yard.space[0], &rest);
    tnmi_space_hold(&yard.space[0], node, 5);
    tnmi_window best = scan(&wish);
    CHECK_EQ(best.start, 8);
    CHECK_EQ(best.end, 20);
    yard_close();
}

TEST(a_victim_with_its_free_neighbours) {
    for (int round = 0; round < 2000; round++) {
        random_segment();
        tnmi_wish wish = random_wish();
        tnmi_view view = view_of(0);
        wish.before = UINT64_MAX;
        look(&wish);
        for (int i = 0; i < piece_count; i++) {
            tnmi_window w;
            uint32_t start = pieces[i].start, end = start + pieces[i].size;
            const tnmi_node *node = tnmi_space_node(&yard.space[0], pieces[i].node);
            if (tnmi_space_kind(node) != TNMI_SPACE_USED) continue;
            int own = fits(&wish.room, start, end);
            if (i > 0 && pieces[i - 1].empty) start = pieces[i - 1].start;
            if (i + 1 < piece_count && pieces[i + 1].empty) end += pieces[i + 1].size;
            int got = tnmi_policy_alone(&view, &wish, pieces[i].node, &w);
            CHECK_EQ(got, fits(&wish.room, start, end));
            if (!got) continue;
            CHECK(w.start >= start && w.end <= end && fits(&wish.room, w.start, w.end));
            CHECK_EQ(tnmi_space_node(&yard.space[0], w.first)->offset, w.start);
            if (own) CHECK(w.first == pieces[i].node && w.end - w.start == pieces[i].size);
        }
        yard_close();
    }
}

/* A tensor of a cycle, current on tier 0 and below, used next after so many steps. */
static uint32_t streamed(uint32_t granules, uint64_t steps) {
    uint32_t c = content(0);
    tnmi_use use;
    memset(&use, 0, sizeof use);
    use.content = c;
    use.step = steps;
    use.lane = 1;
    CHECK(tnmi_store_spare(&yard.hints.uses) > 0);
    tnmi_hint_new(&yard.hints, tnmi_tensor_at(&yard.tensors, c), &use);
    put(c, 0, granules, 1);
    put(c, 2, granules, 1);
    return c;
}

TEST(a_streamed_one_takes_the_place_of_its_like) {
    yard_open(0);
    yard.hints.lane[1].period = 100;
    yard.hints.lane[1].pace = 160; /* ten ticks a step */
    yard.hints.lane[1].stepped = 1;
    yard.hints.lane[1].began = 2;
    uint32_t plain = content(0);
    put(plain, 0, 8, 1);
    put(plain, 2, 8, 1);
    streamed(6, 95);
    uint32_t sooner = streamed(8, 50), later = streamed(9, 60), farther = streamed(8, 90);
    streamed(12, 99);
    tnmi_view view = view_of(0);
    tnmi_wish wish;
    tnmi_window w;
    memset(&wish, 0, sizeof wish);
    wish.room = room_of(8, 1, 0, 0);
    wish.guess = 1;
    wish.before = yard.clock - 10;
    CHECK(tnmi_policy_slot(&view, &wish, yard.edge[0], &w)); /* it fits exactly, and leaves first */
    CHECK_EQ(w.first, at(farther, 0)->node);
    CHECK_EQ(w.end - w.start, 8);
    CHECK(hit(at(farther, 0), TNM_READ));
    CHECK(tnmi_policy_slot(&view, &wish, yard.edge[0], &w));
    CHECK_EQ(w.first, at(sooner, 0)->node);
    tnmi_tensor_mark(at(sooner, 0), TNMI_FRESH, 0); /* fetched, and not used yet */
    CHECK(tnmi_policy_slot(&view, &wish, yard.edge[0], &w));
    CHECK_EQ(w.first, at(later, 0)->node); /* an eighth too large is as good */
    wish.before = yard.clock - 700;        /* what is needed sooner stays */
    CHECK(!tnmi_policy_slot(&view, &wish, yard.edge[0], &w));
    wish.before = yard.clock - 10;
    wish.room.from = tnmi_space_node(&yard.space[0], at(later, 0)->node)->offset + 9;
    CHECK(!tnmi_policy_slot(&view, &wish, yard.edge[0], &w)); /* not below the wall */
    wish.room.from = 0;
    drop(sooner, 0);
    CHECK(tnmi_policy_slot(&view, &wish, yard.edge[0], &w)); /* a gap of that size */
    CHECK_EQ(tnmi_space_kind(tnmi_space_node(&yard.space[0], w.first)), TNMI_SPACE_FREE);
    CHECK_EQ(w.end - w.start, 8);
    tnmi_tensor_unpin(at(farther, 0), TNM_READ);
    yard_close();
}

/* A node without a replica is on its way: the end of a copy within the tier, or of one that was
 * given up. */
TEST(a_place_on_its_way_is_no_victim) {
    yard_open(0);
    yard.hints.lane[1].period = 100;
    yard.hints.lane[1].pace = 160;
    yard.hints.lane[1].stepped = 1;
    yard.hints.lane[1].began = 2;
    uint32_t one = streamed(8, 50), two = streamed(8, 60);
    tnmi_view view = view_of(0);
    tnmi_wish wish;
    tnmi_window w;
    memset(&wish, 0, sizeof wish);
    wish.room = room_of(8, 1, 0, 0);
    wish.guess = 1;
    wish.before = yard.clock - 10;
    uint32_t first = tnmi_space_node(&yard.space[0], yard.edge[0])->next;
    CHECK(tnmi_policy_slot(&view, &wish, yard.edge[0], &w) && w.first == at(two, 0)->node);
    tnmi_policy_pack(&view, &wish, first, &w);
    CHECK_EQ(w.first, at(one, 0)->node);
    tnmi_space_node(&yard.space[0], at(one, 0)->node)->a = TNMI_NONE;
    tnmi_space_node(&yard.space[0], at(two, 0)->node)->a = TNMI_NONE;
    CHECK(!tnmi_policy_slot(&view, &wish, yard.edge[0], &w));
    tnmi_policy_pack(&view, &wish, first, &w);
    CHECK(w.first != at(one, 0)->node && w.first != at(two, 0)->node);
    tnmi_space_node(&yard.space[0], at(one, 0)->node)->a = *tnmi_tensor_rep(&yard.tensors, one, 0);
    tnmi_space_node(&yard.space[0], at(two, 0)->node)->a = *tnmi_tensor_rep(&yard.tensors, two, 0);
    yard_close();
}

/* Gaps too small for an aligned place are not where a run begins. */
TEST(a_run_begins_at_no_splinter) {
    yard_open(0);
    yard.hints.lane[1].period = 100;
    yard.hints.lane[1].pace = 160;
    yard.hints.lane[1].stepped = 1;
    uint32_t c = streamed(2, 40), kept = content(0), big = streamed(8, 50);
    (void)big;
    put(kept, 0, 6, 1);
    tnmi_tensor_set_field(tnmi_tensor_at(&yard.tensors, kept), TNMI_KEPT_SHIFT, 7, 1);
    drop(c, 0); /* two granules at 0, where eight are wanted, at a multiple of eight */
    tnmi_view view = view_of(0);
    tnmi_wish wish;
    tnmi_window w;
    memset(&wish, 0, sizeof wish);
    wish.room = room_of(8, 8, 0, 0);
    wish.guess = 1;
    wish.before = yard.clock - 10;
    tnmi_policy_pack(&view, &wish, tnmi_space_node(&yard.space[0], yard.edge[0])->next, &w);
    CHECK(w.first != TNMI_NONE && w.start >= 2);
    yard_close();
}

TEST(a_scan_is_bounded) {
    enum { WIDE = 1100 };
    static tnmi_space space;
    tnmi_window w;
    tnmi_wish wish;
    yard_open(0);
    tnmi_space_init(&space, 2 * WIDE + 4, 1);
    bring(&space.nodes);
    uint32_t edge = tnmi_space_open(&space, 0, WIDE * 2), one = content(0);
    tnmi_replica *replica = put(one, 0, 1, 1);
    CHECK(hit(replica, TNM_READ));
    for (uint32_t i = 0; i < WIDE; i++) { /* pinned, gap, pinned, gap: nothing of two granules */
        tnmi_room room = room_of(1, 2, 0, 0);
        uint32_t node = tnmi_space_find(&space, &room);
        tnmi_space_take(&space, node, &room, *tnmi_tensor_rep(&yard.tensors, one, 0));
    }
    tnmi_view view = view_of(0);
    view.space = &space;
    memset(&wish, 0, sizeof wish);
    wish.room = room_of(2, 1, 0, 0);
    wish.before = UINT64_MAX;
    memset(&w, 0, sizeof w);
    w.first = TNMI_NONE;
    tnmi_policy_scan(&view, &wish, tnmi_space_node(&space, edge)->next, 64, &w);
    CHECK(w.first == TNMI_NONE);
    CHECK(!tnmi_policy_slot(&view, &wish, edge, &w));
    tnmi_tensor_unpin(replica, TNM_READ);
    give_back(&space.nodes);
    yard_close();
}

int main(void) {
    RUN(what_is_being_lost_is_no_survivor);
    RUN(distances_never_wrap);
    RUN(adopted_memory_may_be_kept);
    RUN(a_place_on_its_way_is_no_victim);
    RUN(a_run_begins_at_no_splinter);
    RUN(a_scan_is_bounded);
    RUN(with_nothing_known_it_is_lru);
    RUN(the_farthest_known_use_leaves_first);
    RUN(a_known_use_outranks_age);
    RUN(a_use_above_counts_for_the_tiers_it_goes_through);
    RUN(advice_outranks_everything);
    RUN(what_is_current_above_and_below_costs_nothing);
    RUN(costs_divide_known_distances);
    RUN(auto_divides_ages_by_cost_and_equal_costs_are_lru);
    RUN(auto_goes_by_the_gaps_that_agree);
    RUN(auto_reads_hits_out_of_the_word);
    RUN(the_cheapest_survivor_counts);
    RUN(a_sibling_is_no_survivor);
    RUN(what_was_announced_and_is_over_waits_for_the_horizon);
    RUN(a_key_never_falls_by_itself);
    RUN(what_may_leave);
    RUN(the_only_source_of_a_load_stays);
    RUN(the_window_is_the_cheapest_of_all_runs);
    RUN(equal_runs_go_by_the_lower_offset);
    RUN(a_victim_with_its_free_neighbours);
    RUN(a_streamed_one_takes_the_place_of_its_like);
    return check_done();
}
