/* The rooms from inside against the simplest thing that could be right: places in a segment against
 * a cell for each granule, the heap and the tables against a search through an array, the sort
 * against an insertion, and who leaves first against a list of who was pinned when. The first byte
 * of the head chooses which; a record is one operation. */
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "../tests/inside.h"

#define MUTATE_HEAD   8
#define MUTATE_RECORD 8
#define MUTATE_TAG    0x70
#include "mutate.h"

enum { FUZZ_GRANULES = 160, FUZZ_SEGMENTS = 3, FUZZ_NODES = 400, FUZZ_OWNERS = 96 };

/* ---- [space]: a cell says who uses its granule ---- */
enum { CELL_FREE = 0, CELL_HELD = -1 };

typedef struct fuzz_space {
    tnmi_space space;
    uint32_t edge[FUZZ_SEGMENTS], granules[FUZZ_SEGMENTS]; /* 0 = closed */
    int cell[FUZZ_SEGMENTS][FUZZ_GRANULES];
    uint32_t node[FUZZ_OWNERS], segment[FUZZ_OWNERS]; /* of an owner, TNMI_NONE = not placed */
    uint32_t held[FUZZ_OWNERS];
} fuzz_space;

/* Where it would fit, by a look at every granule; 1 = somewhere. */
static int fuzz_fits(const fuzz_space *f, uint32_t s, uint32_t start, const tnmi_room *room) {
    if (start < room->from || start % room->align != room->phase % room->align) return 0;
    if ((uint64_t)start + room->need > f->granules[s]) return 0;
    if ((uint64_t)start + room->need > room->to) return 0;
    for (uint32_t i = start; i < start + room->need; i++)
        if (f->cell[s][i] != CELL_FREE) return 0;
    return 1;
}

static int fuzz_fits_somewhere(const fuzz_space *f, const tnmi_room *room) {
    for (uint32_t s = 0; s < FUZZ_SEGMENTS; s++)
        for (uint32_t start = 0; start < f->granules[s]; start++)
            if (fuzz_fits(f, s, start, room)) return 1;
    return 0;
}

/* the place is the first or the last that fits in the gap it was taken from */
static void fuzz_check_place(const fuzz_space *f, uint32_t s, uint32_t start,
                             const tnmi_room *room) {
    uint32_t low = start, high = start;
    CHECK(fuzz_fits(f, s, start, room));
    while (low > 0 && f->cell[s][low - 1] == CELL_FREE)
        low--;
    while (high + 1 < f->granules[s] && f->cell[s][high + 1] == CELL_FREE)
        high++;
    for (uint32_t i = low; i <= high; i++)
        if (room->high ? i > start : i < start) CHECK(!fuzz_fits(f, s, i, room));
}

static void fuzz_paint(fuzz_space *f, uint32_t s, uint32_t node, int value) {
    const tnmi_node *n = tnmi_space_node(&f->space, node);
    for (uint32_t i = 0; i < tnmi_space_size(n); i++)
        f->cell[s][n->offset + i] = value;
}

static void fuzz_place(fuzz_space *f, const uint8_t *at) {
    uint32_t owner = at[1] % FUZZ_OWNERS, node;
    tnmi_room room = room_of(1 + at[2] % 48, 1u << at[3] % 6, at[4], at[5] & 1);
    if (f->node[owner] != TNMI_NONE || f->held[owner] != TNMI_NONE) return;
    if (at[5] & 2) room.from = at[6] % FUZZ_GRANULES;
    if (at[5] & 4) room.to = at[7] % FUZZ_GRANULES;
    node = tnmi_space_find(&f->space, &room);
    CHECK_EQ(node != TNMI_NONE, fuzz_fits_somewhere(f, &room));
    if (node == TNMI_NONE) return;
    f->segment[owner] = segment_of(&f->space, node);
    tnmi_space_take(&f->space, node, &room, owner);
    f->node[owner] = node;
    CHECK_EQ(tnmi_space_size(tnmi_space_node(&f->space, node)), room.need);
    fuzz_check_place(f, f->segment[owner], tnmi_space_node(&f->space, node)->offset, &room);
    fuzz_paint(f, f->segment[owner], node, (int)owner + 1);
}

/* back to all, or for somebody: then the granules stay out of reach until they are let go */
static void fuzz_leave(fuzz_space *f, const uint8_t *at) {
    uint32_t owner = at[1] % FUZZ_OWNERS, node = f->node[owner];
    int hold = at[2] & 1;
    if (f->held[owner] != TNMI_NONE) {
        fuzz_paint(f, f->segment[owner], f->held[owner], CELL_FREE);
        tnmi_space_unhold(&f->space, f->held[owner]);
        f->held[owner] = TNMI_NONE;
    } else if (node != TNMI_NONE) {
        fuzz_paint(f, f->segment[owner], node, hold ? CELL_HELD : CELL_FREE);
        tnmi_space_free(&f->space, node, hold ? owner : TNMI_NONE);
        f->node[owner] = TNMI_NONE;
        if (hold) f->held[owner] = node;
    }
}

static void fuzz_segment(fuzz_space *f, const uint8_t *at) {
    uint32_t s = at[1] % FUZZ_SEGMENTS;
    if (f->granules[s] == 0) {
        f->granules[s] = 1 + at[2] % FUZZ_GRANULES;
        f->edge[s] = tnmi_space_open(&f->space, s, f->granules[s]);
        memset(f->cell[s], 0, sizeof f->cell[s]);
        return;
    }
    for (uint32_t i = 0; i < f->granules[s]; i++)
        if (f->cell[s][i] > 0) return;
    for (uint32_t i = 0; i < FUZZ_OWNERS; i++)
        if (f->held[i] != TNMI_NONE && f->segment[i] == s) f->held[i] = TNMI_NONE;
    tnmi_space_close(&f->space, f->edge[s]);
    f->granules[s] = 0;
}

/* Everything the room says of itself against the cells. */
static void fuzz_check_space(const fuzz_space *f) {
    uint64_t count[3] = { 0, 0, 0 }, sums[3] = { 0, 0, 0 }, binned = 0;
    uint32_t largest = 0, run = 0;
    for (uint32_t s = 0; s < FUZZ_SEGMENTS; s++) {
        if (f->granules[s] == 0) continue;
        CHECK_EQ(tnmi_space_check_segment(&f->space, f->edge[s], &sums[0], &sums[1], &sums[2]), 0);
        run = 0;
        for (uint32_t i = 0; i < f->granules[s]; i++) {
            int c = f->cell[s][i];
            count[c == CELL_FREE ? 0 : c == CELL_HELD ? 2 : 1]++;
            run = c == CELL_FREE ? run + 1 : 0;
            largest = run > largest ? run : largest;
        }
    }
    CHECK_EQ(tnmi_space_check_bins(&f->space, &binned), 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(sums[i], count[i]);
    CHECK_EQ(binned, count[0]);
    CHECK_EQ(f->space.free_granules, count[0]);
    CHECK_EQ(f->space.used_granules, count[1]);
    CHECK_EQ(f->space.held_granules, count[2]);
    CHECK_EQ(tnmi_space_largest(&f->space), largest);
}

static void fuzz_spaces(const uint8_t *at, size_t count) {
    static fuzz_space f;
    memset(&f, 0, sizeof f);
    memset(f.node, 0xff, sizeof f.node);
    memset(f.held, 0xff, sizeof f.held);
    tnmi_space_init(&f.space, FUZZ_NODES, 1);
    bring(&f.space.nodes);
    for (size_t i = 0; i < count; i++, at += MUTATE_RECORD) {
        switch (at[0] % 8) {
        case 0:
            fuzz_segment(&f, at);
            break;
        case 1:
        case 2:
        case 3:
            fuzz_leave(&f, at);
            break;
        default:
            fuzz_place(&f, at);
            break;
        }
        fuzz_check_space(&f);
    }
    give_back(&f.space.nodes);
}

/* ---- [store]: a heap over the owners, against the smallest of an array ---- */
static void fuzz_heap(const uint8_t *at, size_t count) {
    static uint64_t key[FUZZ_OWNERS];
    static int in[FUZZ_OWNERS];
    tnmi_heap heap;
    uint32_t members = 0;
    memset(&heap, 0, sizeof heap);
    memset(in, 0, sizeof in);
    tnmi_store_init(&heap.slots, "slots", sizeof(tnmi_slot), 0, FUZZ_OWNERS, 0);
    tnmi_store_init(&heap.places, "places", sizeof(uint32_t), 0, FUZZ_OWNERS, 0);
    while (heap.slots.capacity < FUZZ_OWNERS)
        bring(&heap.slots);
    while (heap.places.capacity < FUZZ_OWNERS)
        bring(&heap.places);
    for (size_t i = 0; i < count; i++, at += MUTATE_RECORD) {
        uint32_t owner = at[1] % FUZZ_OWNERS, least = TNMI_NONE;
        uint64_t next = (uint64_t)at[3] << (at[2] % 57);
        CHECK_EQ(tnmi_store_heap_has(&heap, owner), in[owner]);
        if (in[owner]) CHECK(tnmi_store_heap_key(&heap, owner) == key[owner]);
        if (in[owner] && at[0] % 3 == 0) {
            tnmi_store_heap_drop(&heap, owner);
            members--;
            in[owner] = 0;
        } else {
            key[owner] = next;
            if (in[owner]) tnmi_store_heap_rekey(&heap, owner, next);
            if (!in[owner]) tnmi_store_heap_push(&heap, owner, next);
            members += (uint32_t)!in[owner];
            in[owner] = 1;
        }
        CHECK_EQ(heap.count, members);
        for (uint32_t k = 0; k < FUZZ_OWNERS; k++)
            if (in[k] && (least == TNMI_NONE || key[k] < key[least])) least = k;
        if (members > 0) CHECK_EQ(tnmi_store_slot(&heap, 0)->owner, least);
    }
    give_back(&heap.slots);
    give_back(&heap.places);
}

/* ---- [store]: a table that grows, against who has which index ---- */
static void fuzz_table(const uint8_t *head, const uint8_t *at, size_t count) {
    static uint8_t used[1024]; /* 0 = free, 1 = taken, 2 = retired */
    tnmi_table t;
    uint32_t limit = 1 + head[1] * 4u, taken = 0, retired = 0, room;
    memset(used, 0, sizeof used);
    tnmi_store_init(&t, "table", 8, 4, limit, head[2] & 1);
    t.spread = head[2] >> 1 & 1;
    if (head[2] & 1) bring(&t);
    for (size_t i = 0; i < count; i++, at += MUTATE_RECORD) {
        uint32_t index = (at[1] | (uint32_t)at[2] << 8) % limit;
        for (uint32_t n = at[3] % 8; at[0] % 4 < 2 && n > 0; n--) {
            room = t.capacity;
            CHECK_EQ(tnmi_store_spare(&t), t.capacity - taken - retired);
            CHECK_EQ(tnmi_store_allows(&t, 1), taken + retired < limit);
            if (tnmi_store_spare(&t) == 0 && tnmi_store_grow_count(&t) > 0) bring(&t);
            index = tnmi_store_take(&t);
            CHECK_EQ(index == TNMI_NONE, taken + retired == limit);
            if (index == TNMI_NONE) break;
            CHECK(index < t.capacity && t.capacity <= limit && t.capacity >= room);
            CHECK(used[index] == 0);
            memset(tnmi_store_at(&t, index), 0xEE, 8);
            used[index] = 1;
            taken++;
        }
        if (at[0] % 4 < 2 || used[index] != 1) continue;
        if (at[0] % 4 == 2) tnmi_store_give(&t, index);
        if (at[0] % 4 == 3) tnmi_store_retire(&t);
        retired += at[0] % 4 == 3;
        used[index] = at[0] % 4 == 3 ? 2 : 0;
        taken--;
    }
    give_back(&t);
}

/* ---- [store]: the sort, against a walk along what it made ---- */
typedef struct fuzz_list {
    uint32_t next[512];
    uint8_t key[512];
} fuzz_list;

static uint32_t *fuzz_next(void *of, uint32_t index) {
    return &((fuzz_list *)of)->next[index];
}

static int fuzz_before(void *of, uint32_t a, uint32_t b) {
    return ((fuzz_list *)of)->key[a] < ((fuzz_list *)of)->key[b];
}

static void fuzz_sort(const uint8_t *at, size_t bytes) {
    static fuzz_list list;
    tnmi_order order = { &list, fuzz_next, fuzz_before };
    uint32_t count = bytes < 512 ? (uint32_t)bytes : 512, last = TNMI_NONE, seen = 0;
    for (uint32_t i = 0; i < count; i++) {
        list.key[i] = at[i];
        list.next[i] = i + 1 < count ? i + 1 : TNMI_NONE;
    }
    for (uint32_t i = tnmi_store_sort(&order, count > 0 ? 0 : TNMI_NONE); i != TNMI_NONE;
         last = i, i = list.next[i], seen++) {
        if (last != TNMI_NONE) CHECK(list.key[last] <= list.key[i]);
        if (last != TNMI_NONE && list.key[last] == list.key[i]) CHECK(last < i); /* stable */
        if (seen > count) break;
    }
    CHECK_EQ(seen, count);
}

/* ---- who leaves: equal sizes, nothing told; the least recently pinned, always ---- */
enum { FUZZ_BYTES = 256, FUZZ_LRU = 24 };

typedef struct fuzz_lru {
    tnm_ctx *ctx;
    tnm_tensor t[FUZZ_LRU];
    uint64_t when[FUZZ_LRU]; /* of the last pin; 0 = not on the fast tier */
    tnm_pinned pin[FUZZ_LRU];
    uint64_t clock;
    int room;
} fuzz_lru;

static int fuzz_held(const fuzz_lru *f) {
    int held = 0;
    for (int k = 0; k < FUZZ_LRU; k++)
        held += f->pin[k].id != 0;
    return held;
}

/* A pin that is held while room is looked for counts as used then, or not, as the search comes upon
 * it: a miss is asked for beside no other pin. */
static void fuzz_pin(fuzz_lru *f, int i, int write) {
    tnm_use u;
    int here = 0, victim = -1;
    memset(&u, 0, sizeof u);
    u.tensor = f->t[i];
    u.access = write ? TNM_WRITE : TNM_READ;
    for (int k = 0; k < FUZZ_LRU; k++) {
        here += f->when[k] > 0;
        if (f->when[k] > 0 && (victim < 0 || f->when[k] < f->when[victim])) victim = k;
    }
    if (f->when[i] == 0 && fuzz_held(f) > 0) return;
    CHECK_EQ(tnm_pin(f->ctx, &u, 1, &f->pin[i]), TNM_OK);
    if (f->when[i] == 0 && here == f->room) f->when[victim] = 0;
    f->when[i] = ++f->clock;
}

static tnm_ctx *fuzz_two_tiers(int room, int dedicated) {
    tnm_tier_desc tiers[2];
    tnm_desc d;
    tnm_ctx *ctx = NULL;
    memset(&d, 0, sizeof d);
    memset(tiers, 0, sizeof tiers);
    tiers[0].budget_bytes = (uint64_t)room * FUZZ_BYTES;
    tiers[0].segment_bytes = dedicated ? TNM_DEDICATED : 0;
    tiers[1].segment_bytes = 16384;
    d.tiers = tiers;
    d.tier_count = 2;
    d.alloc = check_alloc;
    d.release = check_release;
    CHECK_EQ(tnm_create(&d, &ctx), TNM_OK);
    return ctx;
}

static void fuzz_leavers(const uint8_t *head, const uint8_t *at, size_t count) {
    static uint8_t bytes[FUZZ_BYTES];
    fuzz_lru f;
    tnm_tensor_desc d;
    tnm_tensor_info info;
    memset(&f, 0, sizeof f);
    memset(&d, 0, sizeof d);
    d.bytes = FUZZ_BYTES;
    f.room = 1 + head[1] % 12;
    f.ctx = fuzz_two_tiers(f.room, head[2] & 1);
    for (int i = 0; i < FUZZ_LRU; i++) {
        tnm_use u;
        memset(&u, 0, sizeof u);
        CHECK_EQ(tnm_tensor_create(f.ctx, &d, &f.t[i]), TNM_OK);
        u.tensor = f.t[i];
        u.tier = 1;
        u.access = TNM_DISCARD;
        CHECK_EQ(tnm_pin(f.ctx, &u, 1, &f.pin[i]), TNM_OK);
        memcpy(f.pin[i].host, bytes, sizeof bytes);
        CHECK_EQ(tnm_unpin(f.ctx, &f.pin[i], 1, 0), TNM_OK);
    }
    for (size_t n = 0; n < count; n++, at += MUTATE_RECORD) {
        int i = at[1] % FUZZ_LRU;
        if (f.pin[i].id != 0)
            CHECK_EQ(tnm_unpin(f.ctx, &f.pin[i], 1, 0), TNM_OK);
        else
            fuzz_pin(&f, i, at[0] & 1);
        if (at[2] & 1 && f.pin[i].id != 0) CHECK_EQ(tnm_unpin(f.ctx, &f.pin[i], 1, 0), TNM_OK);
        if (at[2] & 4 && fuzz_held(&f) == 0) tnm_pump(f.ctx, TNM_ALL);
        for (int k = 0; k < FUZZ_LRU; k++) {
            CHECK_EQ(tnm_info(f.ctx, f.t[k], 0, &info), TNM_OK);
            CHECK_EQ(info.state == TNM_STATE_READY, f.when[k] > 0);
        }
    }
    for (int i = 0; i < FUZZ_LRU; i++)
        if (f.pin[i].id != 0) CHECK_EQ(tnm_unpin(f.ctx, &f.pin[i], 1, 0), TNM_OK);
    CHECK_EQ(tnm_destroy(f.ctx), TNM_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *at = data + MUTATE_HEAD;
    size_t count;
    if (size < MUTATE_HEAD) return 0;
    count = (size - MUTATE_HEAD) / MUTATE_RECORD;
    if (count > 400) count = 400;
    switch (data[4] % 8) {
    case 0:
        fuzz_heap(at, count);
        break;
    case 1:
        fuzz_table(data, at, count);
        break;
    case 2:
        fuzz_sort(at, size - MUTATE_HEAD);
        break;
    case 3:
    case 4:
        fuzz_leavers(data, at, count);
        break;
    default:
        fuzz_spaces(at, count);
        break;
    }
    if (check_bad > 0 || check_live_blocks() != 0) abort();
    return 0;
}
