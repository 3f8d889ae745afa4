/* inside.h: what the tests share that look at a room from inside. A test includes tensormem.h, then
 * this. */
#ifndef TENSORMEM_TESTS_INSIDE_H
#define TENSORMEM_TESTS_INSIDE_H

#include "check.h"

static uint64_t inside_seed = 1;

static inline uint32_t draw(uint64_t below) {
    return (uint32_t)check_draw(&inside_seed, below);
}

/* ---- the door's part: a table that is short is brought a chunk, zeroed ---- */
static inline void bring(tnmi_table *table) {
    size_t bytes = (size_t)tnmi_store_grow_bytes(table);
    void *chunk = check_alloc(NULL, bytes);
    CHECK(bytes > 0 && chunk != NULL);
    if (chunk == NULL) return;
    memset(chunk, 0, bytes);
    tnmi_store_grow(table, chunk);
}

static inline void give_back(tnmi_table *table) {
    while (table->capacity) {
        uint64_t bytes;
        void *chunk = tnmi_store_shed(table, &bytes);
        check_release(NULL, chunk, (size_t)bytes);
    }
}

/* ---- pins ---- */
static inline int hit(tnmi_replica *replica, tnm_access access) {
    uint64_t before;
    return tnmi_tensor_hit(replica, access, 0, &before);
}

/* ---- names ---- */
static inline uint32_t slot_at(const tnmi_tensors *tensors, tnm_tensor t) {
    tnm_result why;
    return tnmi_tensor_find(tensors, t.id, &why);
}

/* ---- places ---- */
static inline tnmi_room room_of(uint32_t need, uint32_t align, uint32_t phase, int high) {
    tnmi_room room;
    memset(&room, 0, sizeof room);
    room.need = need;
    room.align = align;
    room.phase = phase;
    room.to = UINT32_MAX;
    room.high = high;
    return room;
}

/* the segment in which a node lies */
static inline uint32_t segment_of(const tnmi_space *space, uint32_t node) {
    while (tnmi_space_kind(tnmi_space_node(space, node)) != TNMI_SPACE_EDGE)
        node = tnmi_space_node(space, node)->next;
    return tnmi_space_node(space, node)->a;
}

#endif
