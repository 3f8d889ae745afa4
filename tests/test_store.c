/* The room [store] from inside: tables against a plain array, the heap against a linear search, the
 * sort against stability. */
#define TENSORMEM_IMPLEMENTATION
#include "../tensormem.h"
#include "inside.h"

typedef struct entry {
    uint64_t stamp;
    uint32_t pad, link;
} entry;

static int lacks(const tnmi_table *table, uint64_t need) { /* must a chunk be brought first? */
    return tnmi_store_spare(table) < need && table->capacity < table->limit;
}

static tnmi_table table_of(uint32_t limit, int fixed) {
    tnmi_table table;
    tnmi_store_init(&table, "entries", sizeof(entry), offsetof(entry, link), limit, fixed);
    return table;
}

TEST(a_growing_table_never_moves_an_entry) {
    enum { COUNT = 5000 };
    static entry *at[COUNT];
    tnmi_table table = table_of(UINT32_MAX - 1, 0);
    for (uint32_t i = 0; i < COUNT; i++) {
        if (lacks(&table, 1)) bring(&table);
        CHECK_EQ(tnmi_store_take(&table), i);
        at[i] = (entry *)tnmi_store_at(&table, i);
        CHECK(at[i]->stamp == 0 && at[i]->link == 0);
        at[i]->stamp = i * 3u + 1u;
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        CHECK(tnmi_store_at(&table, i) == (void *)at[i]);
        CHECK_EQ(at[i]->stamp, i * 3u + 1u);
    }
    CHECK_EQ(table.live, COUNT);
    CHECK_EQ(tnmi_store_spare(&table), table.capacity - COUNT);
    give_back(&table);
}

TEST(a_fixed_table_is_one_chunk_of_exactly_its_limit) {
    for (uint32_t limit = 1; limit < 300; limit += 7) {
        tnmi_table table = table_of(limit, 1);
        CHECK(lacks(&table, 1));
        CHECK_EQ(tnmi_store_grow_bytes(&table), limit * sizeof(entry));
        bring(&table);
        CHECK_EQ(table.capacity, limit);
        CHECK_EQ(tnmi_store_grow_bytes(&table), 0);
        for (uint32_t i = 0; i < limit; i++) CHECK_EQ(tnmi_store_take(&table), i);
        CHECK(tnmi_store_take(&table) == TNMI_NONE);
        CHECK(!lacks(&table, 1));
        CHECK(!tnmi_store_allows(&table, 1));
        give_back(&table);
    }
}

TEST(a_growing_table_stops_at_its_limit) {
    tnmi_table table = table_of(1000, 0);
    CHECK(tnmi_store_allows(&table, 1000));
    CHECK(!tnmi_store_allows(&table, 1001));
    CHECK(tnmi_store_take(&table) == TNMI_NONE);
    while (lacks(&table, 1000)) bring(&table);
    CHECK_EQ(table.capacity, 1000);
    for (int i = 0; i < 1000; i++) CHECK(tnmi_store_take(&table) != TNMI_NONE);
    CHECK(tnmi_store_take(&table) == TNMI_NONE);
    give_back(&table);
}

TEST(a_huge_limit_does_not_overflow) {
    tnmi_table table = table_of(UINT32_MAX, 0);
    uint32_t chunks = 0;
    while (tnmi_store_grow_count(&table) > 0) { /* without memory: only the arithmetic */
        CHECK(tnmi_store_grow_bytes(&table) / sizeof(entry) == tnmi_store_grow_count(&table));
        table.capacity += tnmi_store_grow_count(&table);
        chunks++;
    }
    CHECK_EQ(table.capacity, UINT32_MAX);
    CHECK(chunks <= TNMI_STORE_CHUNKS);
}

TEST(freed_entries_come_back_first_and_keep_what_they_held) {
    tnmi_table table = table_of(64, 1);
    bring(&table);
    for (uint32_t i = 0; i < 10; i++) {
        uint32_t index = tnmi_store_take(&table);
        ((entry *)tnmi_store_at(&table, index))->stamp = 100 + index;
    }
    tnmi_store_give(&table, 3);
    tnmi_store_give(&table, 8);
    CHECK_EQ(table.live, 8);
    CHECK_EQ(tnmi_store_take(&table), 8);
    CHECK_EQ(((entry *)tnmi_store_at(&table, 8))->stamp, 108);
    CHECK_EQ(tnmi_store_take(&table), 3);
    CHECK_EQ(((entry *)tnmi_store_at(&table, 3))->stamp, 103);
    CHECK_EQ(tnmi_store_take(&table), 10);
    give_back(&table);
}

/* 32-byte entries that are taken one after the other must not meet on a line, wherever the chunk
 * begins, nor on two lines that are fetched together. */
TEST(a_spread_table_hands_neighbours_out_late) {
    for (uint32_t limit = 1; limit < 700; limit += 1 + limit / 9) {
        static unsigned char seen[700];
        tnmi_table table = table_of(limit, limit % 2);
        uint32_t last = TNMI_NONE;
        memset(seen, 0, sizeof seen);
        table.spread = 1;
        for (uint32_t i = 0; i < limit; i++) {
            if (tnmi_store_spare(&table) == 0) bring(&table);
            uint32_t index = tnmi_store_take(&table);
            CHECK(index < limit && !seen[index]);
            if (index >= limit) break;
            seen[index] = 1;
            CHECK_EQ(((entry *)tnmi_store_at(&table, index))->stamp, 0);
            if (i % 16) CHECK(limit - last < 64 || last + 4 == index);
            last = index;
        }
        CHECK_EQ(table.live, limit);
        CHECK(tnmi_store_take(&table) == TNMI_NONE);
        tnmi_store_give(&table, 0);
        CHECK_EQ(tnmi_store_take(&table), 0);
        give_back(&table);
    }
}

TEST(a_retired_entry_is_gone_for_ever) {
    tnmi_table table = table_of(4, 1);
    bring(&table);
    for (int i = 0; i < 4; i++) (void)tnmi_store_take(&table);
    tnmi_store_retire(&table);
    CHECK(table.live == 3 && table.retired == 1);
    CHECK_EQ(tnmi_store_spare(&table), 0);
    CHECK(!tnmi_store_allows(&table, 1));
    CHECK(tnmi_store_take(&table) == TNMI_NONE);
    tnmi_store_give(&table, 0);
    CHECK(tnmi_store_allows(&table, 1));
    CHECK(!tnmi_store_allows(&table, 2));
    CHECK_EQ(tnmi_store_take(&table), 0);
    CHECK(tnmi_store_take(&table) == TNMI_NONE);
    give_back(&table);
}

TEST(random_takes_and_gives_never_hand_out_an_entry_twice) {
    enum { COUNT = 700 };
    static unsigned char used[COUNT];
    tnmi_table table = table_of(COUNT, 0);
    uint32_t live = 0;
    memset(used, 0, sizeof used);
    for (int i = 0; i < check_scale(200000, 5000); i++) {
        uint32_t index = draw(COUNT);
        if (draw(2) == 0 && used[index]) {
            tnmi_store_give(&table, index);
            used[index] = 0;
            live--;
        } else if (live < COUNT) {
            if (lacks(&table, 1)) bring(&table);
            index = tnmi_store_take(&table);
            CHECK(index < COUNT && !used[index]);
            if (index < COUNT) used[index] = 1;
            live++;
        }
        CHECK_EQ(table.live, live);
    }
    give_back(&table);
}

/* ---- the heap ---- */
enum { OWNERS = 200 };

static tnmi_heap heap_of(uint32_t owners) {
    tnmi_heap heap;
    memset(&heap, 0, sizeof heap);
    tnmi_store_init(&heap.slots, "slots", sizeof(tnmi_slot), 0, owners, 0);
    tnmi_store_init(&heap.places, "places", sizeof(uint32_t), 0, owners, 0);
    while (lacks(&heap.slots, owners)) bring(&heap.slots);
    while (lacks(&heap.places, owners)) bring(&heap.places);
    return heap;
}

static void heap_end(tnmi_heap *heap) {
    give_back(&heap->slots);
    give_back(&heap->places);
}

static uint32_t smallest(const uint64_t *key, const unsigned char *in) {
    uint32_t best = TNMI_NONE;
    for (uint32_t i = 0; i < OWNERS; i++)
        if (in[i] && (best == TNMI_NONE || key[i] < key[best])) best = i;
    return best;
}

static void heap_step(tnmi_heap *heap, uint64_t *key, unsigned char *in) {
    uint32_t owner = draw(OWNERS);
    uint64_t fresh = (uint64_t)draw(50) << 30; /* few values: equal keys are common */
    CHECK_EQ(tnmi_store_heap_has(heap, owner), in[owner]);
    if (!in[owner]) {
        tnmi_store_heap_push(heap, owner, fresh);
        key[owner] = fresh;
        in[owner] = 1;
    } else if (draw(2) == 0) {
        tnmi_store_heap_rekey(heap, owner, fresh);
        key[owner] = fresh;
    } else {
        tnmi_store_heap_drop(heap, owner);
        in[owner] = 0;
    }
}

static void heap_agrees(const tnmi_heap *heap, const uint64_t *key, const unsigned char *in) {
    uint32_t best = smallest(key, in), count = 0;
    for (uint32_t i = 0; i < OWNERS; i++) {
        count += in[i];
        if (!in[i]) continue;
        uint32_t place = *tnmi_store_place(heap, i) - 1;
        CHECK(place < heap->count && tnmi_store_slot(heap, place)->owner == i);
        CHECK(tnmi_store_heap_key(heap, i) == key[i]);
    }
    CHECK_EQ(heap->count, count);
    if (best != TNMI_NONE) CHECK_EQ(tnmi_store_slot(heap, 0)->owner, best);
}

TEST(the_heap_top_is_what_a_search_finds) {
    static uint64_t key[OWNERS];
    static unsigned char in[OWNERS];
    tnmi_heap heap = heap_of(OWNERS);
    memset(in, 0, sizeof in);
    for (int i = 0; i < check_scale(20000, 1000); i++) {
        heap_step(&heap, key, in);
        heap_agrees(&heap, key, in);
    }
    heap_end(&heap);
}

TEST(equal_keys_leave_by_owner_so_that_traces_repeat) {
    tnmi_heap heap = heap_of(OWNERS);
    for (uint32_t i = 0; i < OWNERS; i++)
        tnmi_store_heap_push(&heap, (i * 77u) % OWNERS, 5); /* 77 and 200 have no common factor */
    for (uint32_t i = 0; i < OWNERS; i++) {
        CHECK_EQ(tnmi_store_slot(&heap, 0)->owner, i);
        tnmi_store_heap_drop(&heap, i);
    }
    CHECK_EQ(heap.count, 0);
    heap_end(&heap);
}

/* ---- the sort ---- */
typedef struct list {
    uint32_t next[3000], key[3000];
} list;

static uint32_t *list_next(void *of, uint32_t index) {
    return &((list *)of)->next[index];
}

static int list_before(void *of, uint32_t a, uint32_t b) {
    return ((list *)of)->key[a] < ((list *)of)->key[b];
}

TEST(the_sort_is_complete_and_stable) {
    static list all;
    tnmi_order order = { &all, list_next, list_before };
    CHECK(tnmi_store_sort(&order, TNMI_NONE) == TNMI_NONE);
    for (uint32_t count = 1; count <= 3000; count += count < 70 ? 1 : 733) {
        uint32_t seen = 0, head;
        for (uint32_t i = 0; i < count; i++) {
            all.key[i] = draw(20);
            all.next[i] = i + 1 < count ? i + 1 : TNMI_NONE;
        }
        head = tnmi_store_sort(&order, 0);
        for (uint32_t at = head; at != TNMI_NONE && seen <= count; at = all.next[at]) {
            uint32_t next = all.next[at];
            seen++;
            if (next == TNMI_NONE) continue;
            CHECK(all.key[at] < all.key[next] || (all.key[at] == all.key[next] && at < next));
        }
        CHECK_EQ(seen, count);
    }
}

int main(void) {
    RUN(a_growing_table_never_moves_an_entry);
    RUN(a_fixed_table_is_one_chunk_of_exactly_its_limit);
    RUN(a_growing_table_stops_at_its_limit);
    RUN(a_huge_limit_does_not_overflow);
    RUN(freed_entries_come_back_first_and_keep_what_they_held);
    RUN(a_spread_table_hands_neighbours_out_late);
    RUN(a_retired_entry_is_gone_for_ever);
    RUN(random_takes_and_gives_never_hand_out_an_entry_twice);
    RUN(the_heap_top_is_what_a_search_finds);
    RUN(equal_keys_leave_by_owner_so_that_traces_repeat);
    RUN(the_sort_is_complete_and_stable);
    return check_done();
}
