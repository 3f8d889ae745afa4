/* The room [tier] from inside: the ledger through random lives of segments, the size of the next
 * segment against its rules, back-off, draining and its taking back. */
#define TENSORMEM_REDZONE_BYTES 24 /* counts in every placement */
#define TENSORMEM_IMPLEMENTATION
#include "../tensormem.h"
#include "inside.h"

static void set_granule(tnmi_tier *tier, uint64_t granule) { /* a power of two */
    tier->granule = granule;
    tier->granule_log = tnmi_base_log2((uint32_t)granule);
}

static tnmi_tier tier_of(uint64_t budget, uint64_t granule) {
    tnmi_tier tier;
    memset(&tier, 0, sizeof tier);
    tier.budget = budget;
    set_granule(&tier, granule);
    tier.segments = tier.last_segment = TNMI_NONE;
    return tier;
}

/* ---- sizes ---- */
TEST(placed_bytes_are_whole_granules_or_refused) {
    tnmi_tier tier = tier_of(UINT64_MAX, 256);
    uint64_t most = tier.granule * TNMI_SPACE_MAX;
    CHECK_EQ(tnmi_tier_placed(&tier, 1, 0), 256);
    CHECK_EQ(tnmi_tier_placed(&tier, 256 - TENSORMEM_REDZONE_BYTES, 0), 256);
    CHECK_EQ(tnmi_tier_placed(&tier, 257 - TENSORMEM_REDZONE_BYTES, 0), 512);
    CHECK_EQ(tnmi_tier_placed(&tier, 256 - TENSORMEM_REDZONE_BYTES, 1), 512);
    CHECK_EQ(tnmi_tier_placed(&tier, most - TENSORMEM_REDZONE_BYTES, 0), most);
    CHECK_EQ(tnmi_tier_placed(&tier, most - TENSORMEM_REDZONE_BYTES + 1, 0), 0);
    tier.desc.tail_bytes = 232;
    CHECK_EQ(tnmi_tier_placed(&tier, 1, 0), 512);
    tier.desc.tail_bytes = UINT32_MAX;
    for (uint64_t i = 0; i < 600; i++) { /* no sum wraps into something small */
        CHECK_EQ(tnmi_tier_placed(&tier, UINT64_MAX - i, 0), 0);
        CHECK_EQ(tnmi_tier_placed(&tier, UINT64_MAX - UINT32_MAX - i, 0), 0);
        CHECK_EQ(tnmi_tier_placed(&tier, i, UINT64_MAX - i), 0);
        CHECK_EQ(tnmi_tier_placed(&tier, UINT64_MAX - i, i + 1), 0);
    }
    for (int i = 0; i < check_scale(100000, 2000); i++) {
        uint64_t bytes = draw(3000), shift = draw(300), sum;
        set_granule(&tier, (uint64_t)8 << draw(8));
        tier.desc.tail_bytes = draw(100);
        sum = bytes + shift + tier.desc.tail_bytes + TENSORMEM_REDZONE_BYTES;
        CHECK_EQ(tnmi_tier_placed(&tier, bytes, shift),
                 (sum + tier.granule - 1) / tier.granule * tier.granule);
    }
}

TEST(what_can_never_fit_is_known_at_once) {
    tnmi_tier tier = tier_of(1000, 8);
    CHECK(tnmi_tier_can_ever(&tier, 1000));
    CHECK(!tnmi_tier_can_ever(&tier, 1001));
    CHECK(!tnmi_tier_can_ever(&tier, 0)); /* a placement that was refused */
    tier.set_aside = 400;
    CHECK(tnmi_tier_can_ever(&tier, 600) && !tnmi_tier_can_ever(&tier, 601));
    tier.set_aside = 2000;
    CHECK(!tnmi_tier_can_ever(&tier, 1));
    tier.set_aside = 0;
    tier.reserved = 1000; /* what is there now may go */
    CHECK(tnmi_tier_can_ever(&tier, 1000));
    tier.budget = 0;
    CHECK(!tnmi_tier_can_ever(&tier, 1));
}

/* ---- the size of the next segment ---- */
TEST(the_next_segment_by_the_rules) {
    tnmi_tier tier = tier_of(1 << 20, 256);
    uint64_t mega = 1 << 20;
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 0), mega); /* the budget in one piece */
    CHECK_EQ(tnmi_tier_segment_size(&tier, mega, 0), mega);
    CHECK_EQ(tnmi_tier_segment_size(&tier, mega + 256, 0), 0);
    tier.reserved = mega - 1000;
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 0), 768); /* what is left, in whole granules */
    CHECK_EQ(tnmi_tier_segment_size(&tier, 1024, 0), 0);
    tier.set_aside = 744;
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 0), 256);
    tier.set_aside = 745;
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 0), 0);
    tier.set_aside = 0;
    tier.spared = 744;
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 0), 256);
    tier.spared = 745; /* what is needed may take that */
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 0), 768);
    CHECK_EQ(tnmi_tier_segment_size(&tier, 1024, 0), 0);
    tier.spared = 0;
    tier.reserved = tier.set_aside = 0;
    tier.refused = mega; /* halved while alloc refuses */
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 0), mega / 2);
    tier.refused = 768;
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 0), 256);
    CHECK_EQ(tnmi_tier_segment_size(&tier, 512, 0), 512); /* but never below the need */
    tier.refused = 0;
    tier.desc.segment_bytes = 4096;
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 0), 4096);
    CHECK_EQ(tnmi_tier_segment_size(&tier, 8192, 0), 8192);
    tier.reserved = mega - 1024;
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 0), 1024);
    tier.desc.segment_bytes = TNM_DEDICATED;
    CHECK_EQ(tnmi_tier_segment_size(&tier, 768, 0), 768);
    CHECK_EQ(tnmi_tier_segment_size(&tier, 1280, 0), 0);
}

TEST(an_unlimited_tier_doubles_within_bounds) {
    tnmi_tier tier = tier_of(UINT64_MAX, 256);
    uint64_t mega = 1 << 20;
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 0), 16 * mega);
    tier.reserved = 100 * mega;
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 0), 100 * mega);
    tier.reserved = 5000 * mega;
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 0), 1024 * mega);
    CHECK_EQ(tnmi_tier_segment_size(&tier, 2048 * mega, 0), 2048 * mega);
    set_granule(&tier, 8); /* no segment has more granules than a node can say */
    tier.desc.segment_bytes = (uint64_t)1 << 40;
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 0), (uint64_t)TNMI_SPACE_MAX * 8);
}

/* 0, or: enough, whole granules, within what the ledger leaves, and where that is enough without
 * what is spared. 0 only with a reason. */
static void check_size(const tnmi_tier *tier, uint64_t need, uint64_t tick) {
    uint64_t size = tnmi_tier_segment_size(tier, need, tick), left = 0;
    if (tier->budget > tier->reserved) left = tier->budget - tier->reserved;
    left = left > tier->set_aside ? left - tier->set_aside : 0;
    int off = tier->scant.level > 0 && tick < tier->scant.until;
    CHECK_EQ(size == 0, off || need > left);
    if (size == 0) return;
    CHECK(size >= need && size <= left && size % tier->granule == 0);
    if (left >= tier->spared && left - tier->spared >= need) CHECK(size <= left - tier->spared);
    CHECK(size / tier->granule <= TNMI_SPACE_MAX);
    if (tier->desc.segment_bytes == TNM_DEDICATED)
        CHECK(size == need);
    else if (tier->desc.segment_bytes)
        CHECK(size == need || size <= tier->desc.segment_bytes);
    if (tier->refused && size > need) CHECK(size <= tier->refused / 2);
}

TEST(the_next_segment_never_passes_the_ledger) {
    for (int i = 0; i < check_scale(200000, 4000); i++) {
        tnmi_tier tier = tier_of(draw(8) ? draw(100000) : UINT64_MAX, (uint64_t)8 << draw(8));
        static const uint64_t unlimited[] = { 0, TNM_DEDICATED, 1 << 20 };
        uint64_t tick = draw(20);
        tier.desc.segment_bytes = draw(2) ? unlimited[draw(3)] : draw(5000) + 1;
        tier.reserved = draw(2) ? 0 : draw(120000);
        tier.set_aside = draw(2) ? 0 : draw(30000);
        tier.spared = draw(2) ? 0 : draw(30000);
        tier.refused = draw(2) ? 0 : draw(60000) + 1;
        tier.scant.level = draw(2);
        tier.scant.until = draw(20);
        check_size(&tier, (draw(draw(2) ? 8 : 400) + 1) * tier.granule, tick);
    }
}

/* ---- back-off ---- */
TEST(back_off_doubles_from_1_to_256_and_stays) {
    tnmi_backoff off;
    uint64_t tick = 0, wait = 1;
    memset(&off, 0, sizeof off);
    CHECK(!tnmi_tier_is_off(&off, 0));
    for (int i = 0; i < 12; i++, wait = wait < 256 ? wait * 2 : 256) {
        tnmi_tier_back_off(&off, tick);
        for (uint64_t t = tick; t < tick + wait; t++)
            CHECK(tnmi_tier_is_off(&off, t));
        CHECK(!tnmi_tier_is_off(&off, tick + wait));
        CHECK(!tnmi_tier_is_off(&off, UINT64_MAX));
        tick += wait;
    }
    tnmi_tier_forgive(&off);
    CHECK(!tnmi_tier_is_off(&off, 0) && !tnmi_tier_is_off(&off, tick));
    tnmi_tier_back_off(&off, 1000); /* from the beginning again */
    CHECK(tnmi_tier_is_off(&off, 1000) && !tnmi_tier_is_off(&off, 1001));
}

TEST(a_scant_tier_asks_for_nothing_until_its_time) {
    tnmi_tier tier = tier_of(4096, 256);
    tnmi_tier_back_off(&tier.scant, 10);
    tnmi_tier_back_off(&tier.scant, 11);
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 12), 0);
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 13), 4096);
    tnmi_tier_back_off(&tier.scant, 13);
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 16), 0);
    tnmi_tier_forgive(&tier.scant);
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 16), 4096);
    tnmi_tier_back_off(&tier.sick, 16); /* writes fail, or copies: room may still be asked for */
    tnmi_tier_back_off(&tier.stiff, 16);
    CHECK_EQ(tnmi_tier_segment_size(&tier, 256, 16), 4096);
}

/* ---- the lives of segments ---- *
 * The world does what the engine does with the room: wants, asks, answers, places, frees, drains.
 * Beside it the ages of the segments, the order of the asks and the bytes are kept twice. */
enum { TIERS = 2, MOST = 20, NODES = 3000, OP = 3 };

typedef struct world {
    tnmi_tiers tiers;
    tnmi_tier tier[TIERS]; /* 1 is dedicated */
    uint32_t age[TIERS][MOST], ages[TIERS];
    uint32_t todo[MOST + 1], todos;
    uint32_t asked; /* the segment alloc or release is running for */
    uint64_t stage[TIERS], before[TIERS], peak[TIERS], tick;
} world;

static tnmi_segment *at(const world *w, uint32_t index) {
    return tnmi_tier_segment(&w->tiers, index);
}

static tnmi_node *node_at(const world *w, uint32_t tier, uint32_t node) {
    return tnmi_space_node(&w->tier[tier].space, node);
}

static void world_begin(world *w) {
    memset(w, 0, sizeof *w);
    w->tiers.tier = w->tier;
    w->tiers.count = TIERS;
    w->tiers.todo_head = w->asked = TNMI_NONE;
    tnmi_store_init(&w->tiers.segments, "segments", sizeof(tnmi_segment),
                    offsetof(tnmi_segment, next), MOST, 1);
    bring(&w->tiers.segments);
    for (uint32_t t = 0; t < TIERS; t++) {
        w->tier[t] = tier_of(4000, 8);
        tnmi_space_init(&w->tier[t].space, NODES, 1);
        bring(&w->tier[t].space.nodes);
    }
    w->tier[0].desc.segment_bytes = 320;
    w->tier[1].desc.segment_bytes = TNM_DEDICATED;
}

static void world_end(world *w) {
    give_back(&w->tiers.segments);
    for (uint32_t t = 0; t < TIERS; t++)
        give_back(&w->tier[t].space.nodes);
}

/* ---- what must hold after every step ---- */
/* A live segment holds nothing for a drain, a draining one gives no room. */
static void check_nodes(const world *w, uint32_t index, uint64_t *sums) {
    const tnmi_segment *s = at(w, index);
    const tnmi_space *space = &w->tier[s->tier].space;
    uint32_t used = 0;
    CHECK_EQ(tnmi_space_check_segment(space, s->edge, &sums[0], &sums[1], &sums[2]), 0);
    CHECK(s->state == TNMI_SEGMENT_LIVE || s->state == TNMI_SEGMENT_DRAINING);
    for (uint32_t i = tnmi_space_node(space, s->edge)->next; i != s->edge;) {
        const tnmi_node *node = tnmi_space_node(space, i);
        int held = tnmi_space_kind(node) == TNMI_SPACE_HELD && node->a == TNMI_SPACE_DRAIN;
        if (s->state == TNMI_SEGMENT_LIVE)
            CHECK(!held);
        else
            CHECK(tnmi_space_kind(node) != TNMI_SPACE_FREE);
        used += tnmi_space_kind(node) == TNMI_SPACE_USED;
        i = node->next;
    }
    CHECK_EQ(used, s->used);
}

static void check_tier(world *w, uint32_t t) {
    const tnmi_tier *tier = &w->tier[t];
    uint64_t sums[4] = { 0, 0, 0, 0 }, reserved = w->stage[t];
    uint32_t i = tier->segments, before = TNMI_NONE, draining = 0, coming = 0;
    for (uint32_t n = 0; n < w->ages[t]; n++, before = i, i = at(w, i)->next) {
        CHECK_EQ(i, w->age[t][n]); /* oldest first */
        if (i == TNMI_NONE) return;
        const tnmi_segment *s = at(w, i);
        CHECK_EQ(s->prev, before);
        CHECK_EQ(s->tier, t);
        reserved += s->size;
        draining += s->state == TNMI_SEGMENT_DRAINING;
        coming += s->state == TNMI_SEGMENT_WANTED || s->state == TNMI_SEGMENT_ALLOCATING;
        if (s->edge != TNMI_NONE) check_nodes(w, i, sums);
    }
    CHECK(i == TNMI_NONE && tier->last_segment == before);
    CHECK(tier->segment_count == w->ages[t] && tier->draining == draining);
    CHECK_EQ(tier->coming, coming);
    CHECK_EQ(tier->reserved, reserved);
    if (reserved > w->before[t]) CHECK(reserved <= tier->budget); /* never grows past it */
    w->before[t] = reserved;
    if (reserved > w->peak[t]) w->peak[t] = reserved;
    CHECK_EQ(tier->peak, w->peak[t]);
    CHECK_EQ(tnmi_tier_room(tier), tier->budget > reserved ? tier->budget - reserved : 0);
    CHECK_EQ(tnmi_space_check_bins(&tier->space, &sums[3]), 0);
    CHECK(sums[0] == tier->space.free_granules && sums[3] == sums[0]);
    CHECK(sums[1] == tier->space.used_granules && sums[2] == tier->space.held_granules);
}

static void check_world(world *w) {
    uint32_t i = w->tiers.todo_head, live = 0;
    for (uint32_t n = 0; n < w->todos; n++, i = at(w, i)->todo) {
        CHECK_EQ(i, w->todo[n]); /* first come, first served */
        if (i == TNMI_NONE) return;
    }
    CHECK(i == TNMI_NONE);
    for (uint32_t t = 0; t < TIERS; t++) {
        check_tier(w, t);
        live += w->ages[t];
    }
    CHECK_EQ(w->tiers.segments.live, live);
}

/* ---- steps ---- */
static uint32_t any_segment(const world *w, tnmi_segment_state state) {
    uint32_t t = draw(TIERS), from = w->ages[t] ? draw(w->ages[t]) : 0;
    for (uint32_t n = 0; n < w->ages[t]; n++) {
        uint32_t index = w->age[t][(from + n) % w->ages[t]];
        if (at(w, index)->state == (uint32_t)state) return index;
    }
    return TNMI_NONE;
}

static void step_want(world *w) {
    uint32_t t = draw(TIERS);
    tnmi_tier *tier = &w->tier[t];
    uint64_t need = (1 + draw(draw(8) ? 20 : 200)) * tier->granule, reserved = tier->reserved;
    check_size(tier, need, w->tick);
    uint64_t size = tnmi_tier_segment_size(tier, need, w->tick);
    if (size == 0) return;
    int full = tnmi_store_spare(&w->tiers.segments) == 0;
    uint32_t index = tnmi_tier_want(&w->tiers, t, size);
    CHECK_EQ(index == TNMI_NONE, full);
    CHECK_EQ(tier->reserved, full ? reserved : reserved + size); /* before alloc is asked */
    if (index == TNMI_NONE) return;
    CHECK(at(w, index)->state == TNMI_SEGMENT_WANTED && at(w, index)->used == 0);
    CHECK(at(w, index)->edge == TNMI_NONE && at(w, index)->size == size);
    at(w, index)->least = need;
    at(w, index)->dedicated = t == 1;
    w->age[t][w->ages[t]++] = index;
    w->todo[w->todos++] = index;
}

static void step_ask(world *w) {
    uint32_t index = tnmi_tier_next_todo(&w->tiers);
    CHECK_EQ(index, w->todos ? w->todo[0] : TNMI_NONE);
    if (index == TNMI_NONE) return;
    memmove(w->todo, w->todo + 1, --w->todos * sizeof w->todo[0]);
    w->asked = index;
    if (at(w, index)->state == TNMI_SEGMENT_WANTED) at(w, index)->state = TNMI_SEGMENT_ALLOCATING;
}

static void forget(world *w, uint32_t index) {
    uint32_t t = at(w, index)->tier, n = 0;
    uint64_t reserved = w->tier[t].reserved, size = at(w, index)->size;
    while (w->age[t][n] != index)
        n++;
    w->ages[t]--;
    memmove(&w->age[t][n], &w->age[t][n + 1], (w->ages[t] - n) * sizeof w->age[t][0]);
    tnmi_tier_forget(&w->tiers, index);
    CHECK_EQ(w->tier[t].reserved, reserved - size); /* after release came back */
    CHECK_EQ(at(w, index)->state, TNMI_SEGMENT_NONE);
}

static void step_answer(world *w) {
    uint32_t index = w->asked;
    if (index == TNMI_NONE) {
        step_ask(w);
        return;
    }
    tnmi_segment *s = at(w, index);
    tnmi_tier *tier = &w->tier[s->tier];
    w->asked = TNMI_NONE;
    if (s->state == TNMI_SEGMENT_RELEASING) {
        tier->refused = 0;
        forget(w, index);
        return;
    }
    tier->coming--;
    if (draw(4) == 0) { /* refused: a smaller one next time, or not for a while */
        if (s->size > s->least)
            tier->refused = s->size;
        else
            tnmi_tier_back_off(&tier->scant, w->tick);
        forget(w, index);
        return;
    }
    tnmi_tier_forgive(&tier->scant);
    s->state = TNMI_SEGMENT_LIVE;
    if (!s->dedicated)
        s->edge = tnmi_space_open(&tier->space, index, (uint32_t)(s->size / tier->granule));
}

static void step_place(world *w) {
    tnmi_room room;
    tnmi_space *space = &w->tier[0].space;
    uint32_t index = any_segment(w, TNMI_SEGMENT_LIVE), node;
    if (index != TNMI_NONE && at(w, index)->dedicated) {
        at(w, index)->used = 1;
        return;
    }
    room = room_of(1 + draw(12), 1, 0, (int)draw(2));
    node = tnmi_space_find(space, &room);
    if (node == TNMI_NONE) return;
    index = segment_of(space, node);
    CHECK_EQ(at(w, index)->state, TNMI_SEGMENT_LIVE);
    CHECK_EQ(tnmi_space_node(space, at(w, index)->edge)->a, index);
    tnmi_space_take(space, node, &room, 1);
    at(w, index)->used++;
}

static uint32_t any_node(const world *w, uint32_t segment, uint32_t kind, uint32_t holder) {
    uint32_t edge = at(w, segment)->edge, steps = draw(40), i = edge;
    while (edge != TNMI_NONE && steps-- > 0) {
        i = node_at(w, 0, i)->next;
        const tnmi_node *node = node_at(w, 0, i);
        if (tnmi_space_kind(node) == kind && (!holder || node->a == holder)) return i;
    }
    return TNMI_NONE;
}

static void step_free(world *w) {
    uint32_t index = any_segment(w, draw(2) ? TNMI_SEGMENT_LIVE : TNMI_SEGMENT_DRAINING);
    if (index == TNMI_NONE) return;
    tnmi_segment *s = at(w, index);
    if (s->dedicated) {
        s->used = 0;
        return;
    }
    uint32_t node = any_node(w, index, TNMI_SPACE_USED, 0);
    if (node == TNMI_NONE) return;
    tnmi_space_free(&w->tier[0].space, node, draw(4) ? tnmi_tier_holder(s) : OP);
    s->used--;
}

/* A window stands in a segment, and is given up again. */
static void step_window(world *w) {
    uint32_t index = any_segment(w, draw(2) ? TNMI_SEGMENT_LIVE : TNMI_SEGMENT_DRAINING), node;
    tnmi_space *space = &w->tier[0].space;
    if (index == TNMI_NONE) return;
    if ((node = any_node(w, index, TNMI_SPACE_HELD, OP)) != TNMI_NONE) {
        node_at(w, 0, node)->a = tnmi_tier_holder(at(w, index));
        if (node_at(w, 0, node)->a == TNMI_NONE) tnmi_space_unhold(space, node);
    } else if ((node = any_node(w, index, TNMI_SPACE_FREE, 0)) != TNMI_NONE) {
        tnmi_space_hold(space, node, OP);
    }
}

static uint64_t held_by_op(const world *w, uint32_t index) {
    uint64_t sum = 0;
    uint32_t edge = at(w, index)->edge, i = edge;
    while (edge != TNMI_NONE && (i = node_at(w, 0, i)->next) != edge)
        if (tnmi_space_kind(node_at(w, 0, i)) == TNMI_SPACE_HELD && node_at(w, 0, i)->a == OP)
            sum += tnmi_space_size(node_at(w, 0, i));
    return sum;
}

static void step_drain(world *w, int drain) {
    uint32_t index = any_segment(w, drain ? TNMI_SEGMENT_LIVE : TNMI_SEGMENT_DRAINING);
    if (index == TNMI_NONE) return;
    tnmi_segment *s = at(w, index);
    uint64_t held = held_by_op(w, index), reserved = w->tier[s->tier].reserved;
    if (drain)
        tnmi_tier_drain(&w->tier[s->tier], s);
    else
        tnmi_tier_revive(&w->tier[s->tier], s);
    CHECK_EQ(s->state, drain ? TNMI_SEGMENT_DRAINING : TNMI_SEGMENT_LIVE);
    CHECK_EQ(tnmi_tier_holder(s), drain ? TNMI_SPACE_DRAIN : TNMI_NONE);
    CHECK_EQ(held_by_op(w, index), held); /* what was promised to a window stays so */
    CHECK_EQ(w->tier[s->tier].reserved, reserved);
}

static void step_retire(world *w) {
    uint32_t index = any_segment(w, draw(4) ? TNMI_SEGMENT_DRAINING : TNMI_SEGMENT_LIVE);
    if (index == TNMI_NONE || at(w, index)->used || held_by_op(w, index)) return;
    uint64_t reserved = w->tier[at(w, index)->tier].reserved;
    tnmi_tier *tier = &w->tier[at(w, index)->tier];
    if (draw(2) && at(w, index)->edge != TNMI_NONE) { /* the look for the largest gap stands here */
        tier->look = index + 1;
        tier->space.look = node_at(w, at(w, index)->tier, at(w, index)->edge)->next;
    }
    tnmi_tier_retire(&w->tiers, index);
    CHECK(tier->look != index + 1); /* and goes on in the next segment, or ends */
    CHECK(tier->look == 0 || tier->look == at(w, index)->next + 1);
    CHECK(tier->space.look == TNMI_NONE);
    tier->look = 0;
    CHECK_EQ(at(w, index)->state, TNMI_SEGMENT_RELEASING);
    CHECK_EQ(w->tier[at(w, index)->tier].reserved, reserved); /* still charged */
    w->todo[w->todos++] = index;
}

static void step_ledger(world *w) {
    uint32_t t = draw(TIERS);
    tnmi_tier *tier = &w->tier[t];
    uint64_t reserved = tier->reserved;
    switch (draw(4)) {
    case 0:
        tier->set_aside = draw(2) ? 0 : draw(600);
        tier->spared = draw(2) ? 0 : draw(600);
        break;
    case 1: /* staging comes and goes */
        if (w->stage[t]) {
            tnmi_tier_refund(tier, w->stage[t]);
            w->stage[t] = 0;
        } else if (tnmi_tier_room(tier) > 0) {
            w->stage[t] = 1 + draw(tnmi_tier_room(tier));
            if (w->stage[t] > 500) w->stage[t] = 500;
            tnmi_tier_charge(tier, w->stage[t]);
        }
        break;
    default:
        tier->budget = draw(8) == 0 ? 0 : draw(8) == 0 ? UINT64_MAX : draw(6000);
        CHECK_EQ(tier->reserved, reserved);
        if (tier->budget <= reserved) CHECK_EQ(tnmi_tier_segment_size(tier, 8, w->tick), 0);
    }
}

TEST(the_ledger_holds_through_any_lives_of_segments) {
    static world w;
    world_begin(&w);
    for (int i = 0; i < check_scale(100000, 3000) && check_bad < 20; i++) {
        uint64_t what = draw(20);
        w.tick += draw(2);
        if (what < 3)
            step_want(&w);
        else if (what < 6)
            step_answer(&w);
        else if (what < 10)
            step_place(&w);
        else if (what < 13)
            step_free(&w);
        else if (what < 15)
            step_window(&w);
        else if (what < 17)
            step_drain(&w, what == 15);
        else if (what < 19)
            step_retire(&w);
        else
            step_ledger(&w);
        check_world(&w);
    }
    world_end(&w);
}

/* ---- one at a time ---- */
TEST(a_revived_segment_gives_all_its_room_again) {
    static world w;
    uint32_t node[20];
    tnmi_room room = room_of(2, 1, 0, 0);
    world_begin(&w);
    uint32_t index = tnmi_tier_want(&w.tiers, 0, 320);
    tnmi_space *space = &w.tier[0].space;
    at(&w, index)->state = TNMI_SEGMENT_LIVE;
    at(&w, index)->edge = tnmi_space_open(space, index, 40);
    for (uint32_t i = 0; i < 20; i++) {
        uint32_t gap = tnmi_space_find(space, &room);
        tnmi_space_take(space, gap, &room, i);
        node[i] = gap;
    }
    for (uint32_t i = 0; i < 20; i += 4) /* gaps before the drain, and after it: side by side */
        tnmi_space_free(space, node[i], TNMI_NONE);
    tnmi_tier_drain(&w.tier[0], at(&w, index));
    CHECK(tnmi_space_find(space, &room) == TNMI_NONE && space->free_granules == 0);
    for (uint32_t i = 0; i < 20; i++)
        if (i % 4 == 1 || i % 4 == 2)
            tnmi_space_free(space, node[i], tnmi_tier_holder(at(&w, index)));
    CHECK(tnmi_space_find(space, &room) == TNMI_NONE);
    tnmi_tier_revive(&w.tier[0], at(&w, index));
    CHECK(space->free_granules == 30 && space->held_granules == 0);
    CHECK_EQ(tnmi_space_largest(space), 6);
    CHECK_EQ(space->nodes.live, 11); /* five gaps, five tensors, the sentinel */
    world_end(&w);
}

int main(void) {
    RUN(placed_bytes_are_whole_granules_or_refused);
    RUN(what_can_never_fit_is_known_at_once);
    RUN(the_next_segment_by_the_rules);
    RUN(an_unlimited_tier_doubles_within_bounds);
    RUN(the_next_segment_never_passes_the_ledger);
    RUN(back_off_doubles_from_1_to_256_and_stays);
    RUN(a_scant_tier_asks_for_nothing_until_its_time);
    RUN(the_ledger_holds_through_any_lives_of_segments);
    RUN(a_revived_segment_gives_all_its_room_again);
    return check_done();
}
