/* The room [space] from inside: random placement against a map with one cell for each granule, the
 * fit and the bins against a search, and the room's own check against planted damage. */
#define TENSORMEM_IMPLEMENTATION
#include "../tensormem.h"
#include "inside.h"

/* ---- a space with all the nodes it may use ---- */
static void space_of(tnmi_space *space, uint32_t nodes) {
    memset(space, 0x5a, sizeof *space);
    tnmi_space_init(space, nodes, 1);
    bring(&space->nodes);
}

static void space_end(tnmi_space *space) {
    give_back(&space->nodes);
}

static uint32_t place(tnmi_space *space, uint32_t need, uint32_t owner) { /* anywhere */
    tnmi_room room = room_of(need, 1, 0, 0);
    uint32_t node = tnmi_space_find(space, &room);
    if (node != TNMI_NONE) tnmi_space_take(space, node, &room, owner);
    return node;
}

/* ---- the bins ---- */
TEST(a_larger_gap_is_never_in_a_lower_bin) {
    uint32_t before = 0;
    for (uint32_t size = 1; size < 1 << 16; size++) {
        uint32_t bin = tnmi_space_bin_of(size);
        CHECK(bin == before || bin == before + 1);
        before = bin;
    }
    for (uint32_t log = 4; log < 29; log++)
        for (uint32_t part = 0; part < 16; part++) {
            uint32_t first = ((uint32_t)1 << log) + (part << (log - 4));
            uint32_t last = first + ((uint32_t)1 << (log - 4)) - 1;
            CHECK_EQ(tnmi_space_bin_of(first), tnmi_space_bin_of(last));
            CHECK_EQ(tnmi_space_bin_of(first - 1), tnmi_space_bin_of(first) - 1);
        }
    CHECK(tnmi_space_bin_of(TNMI_SPACE_MAX) < TNMI_SPACE_BINS);
}

TEST(the_next_bin_is_what_a_search_finds) {
    static tnmi_space space;
    tnmi_space_init(&space, 1, 1);
    space.free_granules = UINT64_MAX; /* what lies behind the map is not read */
    CHECK_EQ(tnmi_space_bin_next(&space, 0), TNMI_SPACE_BINS);
    for (int round = 0; round < check_scale(200, 20); round++) {
        uint32_t bin = draw(TNMI_SPACE_BINS);
        space.map[bin / 32] ^= (uint32_t)1 << (bin % 32);
        for (uint32_t from = 0; from <= TNMI_SPACE_BINS + 1; from++) {
            uint32_t want = from;
            while (want < TNMI_SPACE_BINS && !(space.map[want / 32] >> (want % 32) & 1u))
                want++;
            if (want > TNMI_SPACE_BINS) want = TNMI_SPACE_BINS;
            CHECK_EQ(tnmi_space_bin_next(&space, from), want);
        }
    }
}

/* ---- the fit ---- */
static uint32_t search_fit(uint32_t offset, uint32_t size, const tnmi_room *room) {
    uint32_t best = TNMI_NONE;
    uint64_t end = (uint64_t)offset + size;
    if (end > room->to) end = room->to;
    for (uint64_t start = offset; start + room->need <= end; start++) {
        if (start % room->align != room->phase % room->align || start < room->from) continue;
        best = (uint32_t)start;
        if (!room->high) break;
    }
    return best;
}

TEST(the_fit_is_the_first_or_last_aligned_start) {
    for (int i = 0; i < check_scale(200000, 5000); i++) {
        uint32_t offset = draw(40), size = draw(40), align = (uint32_t)1 << draw(6);
        uint32_t need = 1 + draw(24), phase = draw(2 * align);
        tnmi_room room = room_of(need, align, phase, (int)draw(2));
        if (draw(4) == 0) offset = TNMI_SPACE_MAX - size; /* a gap at the far end */
        CHECK_EQ(tnmi_space_fit(offset, offset + size, &room), search_fit(offset, size, &room));
        room.from = draw(2) ? offset + draw(50) - draw(10) % (offset + 1) : 0;
        room.to = draw(2) ? offset + draw(50) : UINT32_MAX;
        CHECK_EQ(tnmi_space_fit(offset, offset + size, &room), search_fit(offset, size, &room));
    }
}

static uint32_t fit(uint32_t offset, uint32_t size, uint32_t need, uint32_t align, uint32_t phase,
                    int high) {
    tnmi_room room = room_of(need, align, phase, high);
    return tnmi_space_fit(offset, offset + size, &room);
}

TEST(the_fit_at_its_limits) {
    uint32_t max = TNMI_SPACE_MAX;
    for (int high = 0; high < 2; high++) {
        CHECK_EQ(fit(0, max, max, 1, 0, high), 0);
        CHECK(fit(0, max, max, 2, 1, high) == TNMI_NONE);
        CHECK(fit(1, max - 1, max, 1, 0, high) == TNMI_NONE);
        CHECK_EQ(fit(0, max, 1, (max + 1) / 2, max / 2, high), max / 2);
        CHECK_EQ(fit(0, max, 1, max + 1, max - 1, high), max - 1);
        CHECK(fit(0, max, 1, max + 1, max, high) == TNMI_NONE);
        CHECK(fit(5, 10, 2, (uint32_t)1 << 31, 0, high) == TNMI_NONE);
        CHECK(fit(5, 10, UINT32_MAX, 1, 0, high) == TNMI_NONE);
        CHECK(fit(5, 1, 1, 4, 0, high) == TNMI_NONE);
    }
    CHECK_EQ(fit(0, 10, 4, 4, 0, 1), 4);
    CHECK_EQ(fit(0, 10, 4, 4, 0, 0), 0);
    CHECK_EQ(fit(3, 1, 1, 4, 3, 1), 3);
    CHECK(fit(0, 2, 1, 4, 3, 1) == TNMI_NONE);
}

/* ---- the map: one cell for each granule ---- */
enum { SEGMENTS = 3, WIDE = 160 };
#define HELD ((uint32_t)1 << 31) /* in a cell: held, and by whom */

typedef struct map {
    tnmi_space space;
    uint32_t edge[SEGMENTS]; /* TNMI_NONE: no such segment now */
    uint32_t wide[SEGMENTS];
    uint32_t cell[SEGMENTS][WIDE]; /* 0 = free, an owner, HELD | holder */
    uint32_t owners;
} map;

static tnmi_node *node_at(const map *m, uint32_t index) {
    return tnmi_space_node(&m->space, index);
}

static uint32_t cell_of(const tnmi_node *node) { /* what the cells of this node must say */
    uint32_t kind = tnmi_space_kind(node);
    return kind == TNMI_SPACE_FREE ? 0 : kind == TNMI_SPACE_HELD ? HELD | node->a : node->a;
}

static void paint(map *m, uint32_t segment, uint32_t from, uint32_t size, uint32_t value) {
    for (uint32_t i = 0; i < size; i++)
        m->cell[segment][from + i] = value;
}

/* Every node says what its cells say, and a free one is as long as the cells allow. */
static uint32_t check_ring(const map *m, uint32_t segment) {
    const uint32_t *cell = m->cell[segment];
    uint32_t count = 1, at = 0, edge = m->edge[segment];
    CHECK_EQ(tnmi_space_kind(node_at(m, edge)), TNMI_SPACE_EDGE);
    CHECK_EQ(node_at(m, edge)->a, segment);
    for (uint32_t i = node_at(m, edge)->next; i != edge && count <= WIDE; count++) {
        const tnmi_node *node = node_at(m, i);
        uint32_t size = tnmi_space_size(node);
        CHECK_EQ(node->offset, at);
        CHECK(size > 0 && at + size <= m->wide[segment]);
        for (uint32_t g = at; g < at + size && g < WIDE; g++)
            CHECK_EQ(cell[g], cell_of(node));
        at += size;
        if (cell_of(node) == 0) {
            CHECK(at - size == 0 || cell[at - size - 1] != 0);
            CHECK(at == m->wide[segment] || cell[at] != 0);
        }
        i = node->next;
    }
    CHECK_EQ(at, m->wide[segment]);
    return count;
}

static void check_map(const map *m) {
    uint64_t free_sum = 0, used_sum = 0, held_sum = 0, bins = 0, want[3] = { 0, 0, 0 };
    uint32_t nodes = 0, run = 0, largest = 0;
    for (uint32_t s = 0; s < SEGMENTS; s++) {
        if (m->edge[s] == TNMI_NONE) continue;
        nodes += check_ring(m, s);
        CHECK_EQ(tnmi_space_check_segment(&m->space, m->edge[s], &free_sum, &used_sum, &held_sum),
                 0);
        for (uint32_t g = 0; g < m->wide[s]; g++) {
            uint32_t value = m->cell[s][g];
            want[value == 0 ? 0 : value & HELD ? 2 : 1]++;
            run = value == 0 && g > 0 ? run + 1 : value == 0;
            if (run > largest) largest = run;
        }
        run = 0;
    }
    CHECK_EQ(tnmi_space_check_bins(&m->space, &bins), 0);
    CHECK(free_sum == want[0] && used_sum == want[1] && held_sum == want[2] && bins == want[0]);
    CHECK_EQ(m->space.free_granules, want[0]);
    CHECK_EQ(m->space.used_granules, want[1]);
    CHECK_EQ(m->space.held_granules, want[2]);
    CHECK_EQ(m->space.nodes.live, nodes);
    CHECK_EQ(tnmi_space_largest(&m->space), largest);
}

/* ---- the moves ---- */
static void map_open(map *m, uint32_t segment) {
    m->wide[segment] = draw(8) == 0 ? 1 : 1 + draw(WIDE);
    m->edge[segment] = tnmi_space_open(&m->space, segment, m->wide[segment]);
    paint(m, segment, 0, m->wide[segment], 0);
}

static int map_is_used(const map *m, uint32_t segment) {
    for (uint32_t g = 0; g < m->wide[segment]; g++)
        if (m->cell[segment][g] != 0 && !(m->cell[segment][g] & HELD)) return 1;
    return 0;
}

static int map_has_fit(const map *m, const tnmi_room *room) {
    for (uint32_t s = 0; s < SEGMENTS; s++)
        for (uint32_t g = room->from; m->edge[s] != TNMI_NONE && g < m->wide[s]; g++) {
            uint32_t end = g;
            if (g % room->align != room->phase % room->align) continue;
            while (end < m->wide[s] && end < g + room->need && m->cell[s][end] == 0)
                end++;
            if (end == g + room->need && end <= room->to) return 1;
        }
    return 0;
}

static void move_take(map *m) {
    uint32_t align = (uint32_t)1 << draw(6), need = 1 + draw(draw(4) == 0 ? WIDE : 12);
    tnmi_room room = room_of(need, align, draw(align), (int)draw(2));
    if (draw(3) == 0) room.from = draw(WIDE);
    if (draw(3) == 0) room.to = draw(WIDE);
    uint32_t index = tnmi_space_find(&m->space, &room), live = m->space.nodes.live;
    CHECK_EQ(index != TNMI_NONE, map_has_fit(m, &room));
    if (index == TNMI_NONE) return;
    uint32_t segment = segment_of(&m->space, index), offset = node_at(m, index)->offset;
    uint32_t size = tnmi_space_size(node_at(m, index)), start = search_fit(offset, size, &room);
    CHECK_EQ(tnmi_space_kind(node_at(m, index)), TNMI_SPACE_FREE);
    tnmi_space_take(&m->space, index, &room, ++m->owners);
    CHECK(start != TNMI_NONE && node_at(m, index)->offset == start); /* the node keeps its index */
    CHECK_EQ(tnmi_space_size(node_at(m, index)), room.need);
    CHECK_EQ(node_at(m, index)->b, 0);
    CHECK(m->space.nodes.live <= live + 2);
    if (start != TNMI_NONE) paint(m, segment, start, room.need, m->owners);
}

static uint32_t any_node(const map *m, uint32_t kind) { /* of a kind; TNMI_NONE = none met */
    uint32_t segment = draw(SEGMENTS), steps = draw(60), i = m->edge[segment];
    while (i != TNMI_NONE && steps-- > 0) {
        i = node_at(m, i)->next;
        if (steps < 30 && tnmi_space_kind(node_at(m, i)) == kind) return i;
    }
    return TNMI_NONE;
}

static void move_free(map *m) {
    uint32_t index = any_node(m, TNMI_SPACE_USED), live = m->space.nodes.live;
    if (index == TNMI_NONE) return;
    uint32_t holder = draw(2) ? TNMI_NONE : draw(3), segment = segment_of(&m->space, index);
    uint32_t offset = node_at(m, index)->offset, size = tnmi_space_size(node_at(m, index));
    node_at(m, index)->b = draw(2) ? 77 : 0; /* the engine's mark goes with its owner */
    tnmi_space_free(&m->space, index, holder);
    paint(m, segment, offset, size, holder == TNMI_NONE ? 0 : HELD | holder);
    if (holder != TNMI_NONE) CHECK_EQ(node_at(m, index)->b, 0);
    CHECK(m->space.nodes.live <= live);
}

static void move_hold(map *m, int hold) {
    uint32_t index = any_node(m, hold ? TNMI_SPACE_FREE : TNMI_SPACE_HELD), holder = draw(3);
    uint32_t live = m->space.nodes.live;
    if (index == TNMI_NONE) return;
    paint(m, segment_of(&m->space, index), node_at(m, index)->offset,
          tnmi_space_size(node_at(m, index)), hold ? HELD | holder : 0);
    if (hold)
        tnmi_space_hold(&m->space, index, holder);
    else
        tnmi_space_unhold(&m->space, index);
    CHECK(m->space.nodes.live <= live);
}

/* A window: held nodes side by side become one, a part of it is used, the rest is free again. */
static void move_window(map *m) {
    uint32_t first = any_node(m, TNMI_SPACE_HELD), live = m->space.nodes.live;
    if (first == TNMI_NONE) return;
    uint32_t segment = segment_of(&m->space, first), offset = node_at(m, first)->offset,
             end = offset;
    uint32_t holder = node_at(m, first)->a;
    for (uint32_t i = first; tnmi_space_kind(node_at(m, i)) == TNMI_SPACE_HELD;) {
        if (node_at(m, i)->a != holder || (i != first && draw(4) == 0)) break;
        end = node_at(m, i)->offset + tnmi_space_size(node_at(m, i));
        i = node_at(m, i)->next;
    }
    tnmi_space_join(&m->space, first, end);
    CHECK_EQ(node_at(m, first)->offset, offset);
    CHECK_EQ(tnmi_space_size(node_at(m, first)), end - offset);
    CHECK_EQ(tnmi_space_kind(node_at(m, first)), TNMI_SPACE_FREE);
    CHECK(m->space.nodes.live <= live);
    live = m->space.nodes.live;
    uint32_t start = offset + draw(end - offset), need = 1 + draw(end - start);
    tnmi_space_carve(&m->space, first, start, need, ++m->owners);
    CHECK_EQ(node_at(m, first)->offset, start);
    CHECK(m->space.nodes.live <= live + 2);
    paint(m, segment, offset, end - offset, 0);
    paint(m, segment, start, need, m->owners);
}

static void move_segment(map *m) {
    uint32_t segment = draw(SEGMENTS);
    if (m->edge[segment] == TNMI_NONE) {
        map_open(m, segment);
    } else if (!map_is_used(m, segment)) {
        m->space.look = TNMI_NONE; /* the tier's part: it may stand there */
        tnmi_space_close(&m->space, m->edge[segment]);
        m->edge[segment] = TNMI_NONE;
    }
}

/* A walk that was interrupted stands on a node of the segment, whatever was merged meanwhile. */
static void check_look(const map *m, uint32_t segment) {
    uint32_t i = m->space.look;
    if (i == TNMI_NONE || segment == TNMI_NONE) return;
    for (i = m->edge[segment]; i != m->space.look;) {
        i = node_at(m, i)->next;
        if (i == m->edge[segment]) break;
    }
    CHECK_EQ(i, m->space.look);
}

TEST(random_moves_agree_with_the_map) {
    static map m;
    space_of(&m.space, SEGMENTS * (WIDE + 1));
    m.owners = 0;
    for (uint32_t s = 0; s < SEGMENTS; s++)
        map_open(&m, s);
    for (int i = 0; i < check_scale(60000, 2500) && check_bad < 20; i++) {
        int empty = i / 500 % 4 == 3; /* by turns it fills and empties, so that segments close */
        uint32_t what = draw(16), look = m.space.look = any_node(&m, draw(3));
        uint32_t segment = look == TNMI_NONE ? TNMI_NONE : segment_of(&m.space, look);
        if (what < (empty ? 1 : 7))
            move_take(&m);
        else if (what < 10)
            move_free(&m);
        else if (what < 12)
            move_hold(&m, !empty);
        else if (what < 14)
            move_hold(&m, 0);
        else if (what < 15)
            move_window(&m);
        else
            move_segment(&m);
        check_look(&m, segment);
        check_map(&m);
    }
    space_end(&m.space);
}

/* ---- promises one by one ---- */
TEST(a_fitting_gap_is_found_behind_any_number_that_do_not_fit) {
    static tnmi_space space;
    uint32_t gap[64], count = 64;
    tnmi_room room = room_of(3, 4, 0, 0);
    space_of(&space, 600);
    tnmi_space_open(&space, 0, 64 * 8);
    for (uint32_t i = 0; i < count; i++) { /* gaps of 3 at 8 i + 1: no start is a multiple of 4 */
        CHECK(place(&space, 1, 1) != TNMI_NONE);
        gap[i] = place(&space, 3, 2);
        CHECK(place(&space, 4, 3) != TNMI_NONE);
    }
    for (uint32_t i = 0; i < count; i++)
        tnmi_space_free(&space, gap[i], TNMI_NONE);
    CHECK_EQ(space.free_granules, 3 * count);
    CHECK(tnmi_space_find(&space, &room) == TNMI_NONE);
    room.phase = 1;
    CHECK(tnmi_space_find(&space, &room) != TNMI_NONE);
    room = room_of(3, 512, 1, 0); /* only the oldest gap, the last of its bin */
    CHECK_EQ(tnmi_space_find(&space, &room), gap[0]);
    room = room_of(3, 512, 505, 1);
    CHECK_EQ(tnmi_space_find(&space, &room), gap[count - 1]);
    room = room_of(2, 512, 258, 0); /* from a smaller bin upwards as well */
    CHECK_EQ(tnmi_space_find(&space, &room), gap[32]);
    space_end(&space);
}

TEST(a_fitting_gap_is_found_behind_several_bins_that_do_not_fit) {
    static tnmi_space space;
    uint32_t gap[3][20];
    space_of(&space, 400);
    tnmi_space_open(&space, 0, 20 * 32);
    for (uint32_t i = 0; i < 20; i++) /* gaps of 3, 5 and 7; none starts at a multiple of 32 */
        for (uint32_t k = 0; k < 3; k++) {
            CHECK(place(&space, k == 0 ? 1 : 5, 1) != TNMI_NONE);
            gap[k][i] = place(&space, 3 + 2 * k, 2);
            if (k == 2) CHECK(place(&space, 6, 3) != TNMI_NONE);
        }
    for (uint32_t i = 0; i < 20; i++)
        for (uint32_t k = 0; k < 3; k++)
            tnmi_space_free(&space, gap[k][i], TNMI_NONE);
    for (uint32_t k = 0; k < 3; k++)
        for (uint32_t i = 0; i < 20; i++) { /* room for just this one */
            const tnmi_node *node = tnmi_space_node(&space, gap[k][i]);
            tnmi_room room = room_of(3, 1024, node->offset + (k > 0 ? 1 + k : 0), (int)draw(2));
            CHECK_EQ(tnmi_space_find(&space, &room), gap[k][i]);
            room.phase = node->offset + tnmi_space_size(node) - 2;
            CHECK(tnmi_space_find(&space, &room) == TNMI_NONE);
        }
    space_end(&space);
}

TEST(a_gap_of_the_own_size_goes_before_a_larger_one) {
    static tnmi_space space;
    uint32_t exact, walls[3];
    space_of(&space, 64);
    tnmi_space_open(&space, 0, 400);
    exact = place(&space, 20, 1);
    walls[0] = place(&space, 1, 2);
    CHECK(exact != TNMI_NONE && walls[0] != TNMI_NONE);
    tnmi_space_free(&space, exact, TNMI_NONE);
    CHECK_EQ(tnmi_space_node(&space, place(&space, 20, 3))->offset, 0);
    CHECK_EQ(tnmi_space_node(&space, place(&space, 20, 4))->offset, 21);
    space_end(&space);
}

TEST(freeing_needs_no_node) {
    static tnmi_space space;
    static uint32_t node[300];
    space_of(&space, 302);
    tnmi_space_open(&space, 0, 301);
    for (uint32_t i = 0; i < 300; i++)
        node[i] = place(&space, 1, i + 1);
    CHECK_EQ(tnmi_store_spare(&space.nodes), 0);
    for (uint32_t i = 300; i > 1; i--) { /* in any order, to everyone or to a holder */
        uint32_t other = draw(i), keep = node[other];
        node[other] = node[i - 1];
        node[i - 1] = keep;
        tnmi_space_free(&space, keep, draw(2) ? TNMI_NONE : 5);
        if (tnmi_space_kind(tnmi_space_node(&space, keep)) == TNMI_SPACE_HELD)
            tnmi_space_unhold(&space, keep);
    }
    tnmi_space_free(&space, node[0], TNMI_NONE);
    CHECK_EQ(space.nodes.live, 2); /* one gap and the sentinel */
    CHECK_EQ(tnmi_space_largest(&space), 301);
    space_end(&space);
}

TEST(what_is_drained_becomes_one_node_with_the_gaps_beside_it) {
    static tnmi_space space;
    uint32_t node[6], edge;
    uint64_t sum[4] = { 0, 0, 0, 0 };
    space_of(&space, 16);
    edge = tnmi_space_open(&space, 0, 60);
    for (uint32_t i = 0; i < 6; i++)
        node[i] = place(&space, 10, i + 1);
    tnmi_space_free(&space, node[1], TNMI_NONE);
    tnmi_space_free(&space, node[2], TNMI_SPACE_DRAIN);
    tnmi_space_gather(&space, node[2]); /* a gap on the left, a used node on the right */
    CHECK(tnmi_space_node(&space, node[2])->offset == 10 && space.held_granules == 20);
    tnmi_space_free(&space, node[4], TNMI_SPACE_DRAIN);
    tnmi_space_gather(&space, node[4]); /* used on both sides */
    CHECK_EQ(tnmi_space_size(tnmi_space_node(&space, node[4])), 10);
    tnmi_space_free(&space, node[5], 3); /* held by somebody else */
    tnmi_space_free(&space, node[3], TNMI_SPACE_DRAIN);
    tnmi_space_gather(&space, node[3]); /* drained on both sides */
    CHECK_EQ(tnmi_space_node(&space, node[3])->offset, 10);
    CHECK_EQ(tnmi_space_size(tnmi_space_node(&space, node[3])), 40);
    tnmi_space_free(&space, node[0], TNMI_NONE);
    tnmi_space_unhold(&space, node[5]);
    tnmi_space_gather(&space, node[3]); /* gaps on both sides */
    CHECK_EQ(tnmi_space_size(tnmi_space_node(&space, node[3])), 60);
    CHECK(space.held_granules == 60 && space.free_granules == 0 && space.nodes.live == 2);
    CHECK_EQ(tnmi_space_check_segment(&space, edge, &sum[0], &sum[1], &sum[2]), 0);
    CHECK_EQ(tnmi_space_check_bins(&space, &sum[3]), 0);
    CHECK(sum[2] == 60 && sum[3] == 0);
    space_end(&space);
}

TEST(the_largest_gap_is_looked_for_in_bounded_time) {
    enum { MANY = TNMI_SPACE_LOOKS + 50 };
    static tnmi_space space;
    static uint32_t gap[MANY];
    space_of(&space, 2 * MANY + 2);
    tnmi_space_open(&space, 0, MANY * 34);
    for (uint32_t i = 0; i < MANY; i++) { /* of 33 granules, the first of 32: the same bin */
        gap[i] = place(&space, i == 0 ? 32 : 33, 1);
        CHECK(place(&space, 1, 2) != TNMI_NONE);
    }
    CHECK_EQ(tnmi_space_bin_of(32), tnmi_space_bin_of(33));
    tnmi_space_free(&space, gap[1], TNMI_NONE);
    tnmi_space_free(&space, gap[0], TNMI_NONE);
    CHECK_EQ(tnmi_space_largest(&space), 33);
    for (uint32_t i = 2; i < MANY; i++)
        tnmi_space_free(&space, gap[i], TNMI_NONE);
    CHECK_EQ(tnmi_space_largest(&space), 33);
    space_end(&space);
}

TEST(a_segment_can_be_as_large_as_a_node_can_say) {
    static tnmi_space space;
    uint64_t free_sum = 0, used_sum = 0, held_sum = 0;
    space_of(&space, 16);
    uint32_t edge = tnmi_space_open(&space, 9, TNMI_SPACE_MAX);
    CHECK_EQ(tnmi_space_largest(&space), TNMI_SPACE_MAX);
    uint32_t all = place(&space, TNMI_SPACE_MAX, 1);
    CHECK(all != TNMI_NONE && place(&space, 1, 2) == TNMI_NONE);
    CHECK_EQ(tnmi_space_largest(&space), 0);
    tnmi_space_free(&space, all, 4);
    CHECK_EQ(space.held_granules, TNMI_SPACE_MAX);
    CHECK(place(&space, 1, 2) == TNMI_NONE); /* held is not free */
    tnmi_space_join(&space, all, TNMI_SPACE_MAX);
    tnmi_space_carve(&space, all, TNMI_SPACE_MAX - 1, 1, 3);
    CHECK_EQ(tnmi_space_largest(&space), TNMI_SPACE_MAX - 1);
    CHECK_EQ(tnmi_space_check_segment(&space, edge, &free_sum, &used_sum, &held_sum), 0);
    CHECK(free_sum == TNMI_SPACE_MAX - 1 && used_sum == 1 && held_sum == 0);
    tnmi_space_free(&space, all, TNMI_NONE);
    tnmi_space_close(&space, edge);
    CHECK(space.nodes.live == 0 && space.free_granules == 0);
    space_end(&space);
}

/* ---- the check itself ---- */
static int broken(const tnmi_space *space, uint32_t edge) {
    uint64_t sum[4] = { 0, 0, 0, 0 };
    int count = tnmi_space_check_segment(space, edge, &sum[0], &sum[1], &sum[2]);
    count += tnmi_space_check_bins(space, &sum[3]);
    return count + (sum[0] != sum[3]);
}

/* One word is damaged, the check must see it, and the word is put back. */
static void damage(const tnmi_space *space, uint32_t edge, uint32_t *word, uint32_t value) {
    uint32_t before = *word;
    CHECK(before != value);
    CHECK_EQ(broken(space, edge), 0);
    *word = value;
    CHECK(broken(space, edge) > 0);
    *word = before;
}

TEST(the_check_sees_damage) {
    static tnmi_space space;
    uint32_t used[4];
    space_of(&space, 32);
    uint32_t edge = tnmi_space_open(&space, 0, 100);
    for (uint32_t i = 0; i < 4; i++)
        used[i] = place(&space, 10, i + 1);
    tnmi_space_free(&space, used[1], TNMI_NONE);
    tnmi_node *gap = tnmi_space_node(&space, used[1]), *held = tnmi_space_node(&space, used[2]);
    tnmi_node *end = tnmi_space_node(&space, edge), *rest = tnmi_space_node(&space, end->prev);
    tnmi_space_free(&space, used[2], 7);
    damage(&space, edge, &held->offset, 21);                      /* no tiling */
    damage(&space, edge, &held->span, 9 << 2 | TNMI_SPACE_HELD);  /* a hole */
    damage(&space, edge, &held->span, 10 << 2 | TNMI_SPACE_EDGE); /* two sentinels */
    damage(&space, edge, &held->span, TNMI_SPACE_HELD);           /* nothing at all */
    damage(&space, edge, &held->span, 10 << 2 | TNMI_SPACE_FREE); /* free neighbours */
    damage(&space, edge, &gap->span, 10 << 2 | TNMI_SPACE_USED);  /* used, in a bin */
    damage(&space, edge, &end->offset, 101);                      /* a segment that ends early */
    damage(&space, edge, &held->prev, edge);                      /* a ring one way only */
    damage(&space, edge, &gap->b, used[0]);                       /* a bin one way only */
    damage(&space, edge, &space.bin[10], TNMI_NONE);              /* a gap in no bin */
    damage(&space, edge, &space.bin[11], end->prev);              /* in the bin of another size */
    damage(&space, edge, &space.map[0], space.map[0] ^ 1u << 10); /* a bit that is not set */
    damage(&space, edge, &space.map[0], space.map[0] ^ 1u << 11); /* one that should not be */
    CHECK_EQ(tnmi_space_size(rest), 60);
    space_end(&space);
}

TEST(the_check_counts_each_breach_once) {
    static tnmi_space space;
    uint64_t sum[4] = { 0, 0, 0, 0 };
    space_of(&space, 32);
    uint32_t edge = tnmi_space_open(&space, 0, 100), gap = tnmi_space_node(&space, edge)->next;
    tnmi_space_bin_drop(&space, gap); /* two free nodes side by side, all else in order */
    tnmi_space_node(&space, gap)->span = 70 << 2 | TNMI_SPACE_FREE;
    uint32_t half = tnmi_store_take(&space.nodes);
    tnmi_space_node(&space, half)->offset = 70;
    tnmi_space_node(&space, half)->span = 30 << 2 | TNMI_SPACE_FREE;
    tnmi_space_link(&space, gap, half);
    tnmi_space_bin_add(&space, gap);
    tnmi_space_bin_add(&space, half);
    CHECK_EQ(tnmi_space_check_segment(&space, edge, &sum[0], &sum[1], &sum[2]), 1);
    CHECK_EQ(tnmi_space_check_bins(&space, &sum[3]), 0);
    CHECK(sum[0] == 100 && sum[1] == 0 && sum[2] == 0 && sum[3] == 100);
    for (uint32_t bin = 0; bin < TNMI_SPACE_BINS; bin += 149) { /* a node in any other bin */
        uint32_t own = tnmi_space_bin_of(30);
        space.bin[own] = TNMI_NONE;
        space.map[own / 32] &= ~((uint32_t)1 << (own % 32));
        space.bin[bin] = half;
        space.map[bin / 32] |= (uint32_t)1 << (bin % 32);
        CHECK_EQ(tnmi_space_check_bins(&space, &sum[3]), 1);
        space.bin[bin] = TNMI_NONE;
        CHECK_EQ(tnmi_space_check_bins(&space, &sum[3]), 1); /* a bit without a node */
        space.map[bin / 32] &= ~((uint32_t)1 << (bin % 32));
        space.bin[own] = half;
        CHECK_EQ(tnmi_space_check_bins(&space, &sum[3]), 1); /* a node without a bit */
        space.map[own / 32] |= (uint32_t)1 << (own % 32);
        CHECK_EQ(tnmi_space_check_bins(&space, &sum[3]), 0);
    }
    space_end(&space);
}

int main(void) {
    RUN(a_larger_gap_is_never_in_a_lower_bin);
    RUN(the_next_bin_is_what_a_search_finds);
    RUN(the_fit_is_the_first_or_last_aligned_start);
    RUN(the_fit_at_its_limits);
    RUN(random_moves_agree_with_the_map);
    RUN(a_fitting_gap_is_found_behind_any_number_that_do_not_fit);
    RUN(a_fitting_gap_is_found_behind_several_bins_that_do_not_fit);
    RUN(a_gap_of_the_own_size_goes_before_a_larger_one);
    RUN(freeing_needs_no_node);
    RUN(what_is_drained_becomes_one_node_with_the_gaps_beside_it);
    RUN(the_largest_gap_is_looked_for_in_bounded_time);
    RUN(a_segment_can_be_as_large_as_a_node_can_say);
    RUN(the_check_sees_damage);
    RUN(the_check_counts_each_breach_once);
    return check_done();
}
