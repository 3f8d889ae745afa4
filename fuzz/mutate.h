/* mutate.h: a mutator that knows records. An input is a head of MUTATE_HEAD bytes, whose first is
 * MUTATE_TAG, and records of MUTATE_RECORD bytes; both are defined before this is included. Whole
 * records are put in, taken out, exchanged, copied to another place and crossed over between two
 * inputs; one byte at a time is changed inside them. It is libFuzzer's and others' interface, under
 * FUZZ_MUTATE: where an input is only replayed, nothing of it is left. */
#ifndef TENSORMEM_FUZZ_MUTATE_H
#define TENSORMEM_FUZZ_MUTATE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#ifdef FUZZ_MUTATE
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned int seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size,
                                 uint8_t *out, size_t max, unsigned int seed);

typedef struct mutate_input {
    uint8_t *record; /* the first one, behind the head */
    size_t count, most;
    uint64_t random;
} mutate_input;

static uint32_t mutate_draw(mutate_input *m, size_t below) {
    m->random = m->random * 6364136223846793005u + 1442695040888963407u;
    return below > 0 ? (uint32_t)((m->random >> 33) % below) : 0;
}

static uint8_t *mutate_at(mutate_input *m, size_t index) {
    return m->record + index * MUTATE_RECORD;
}

static uint8_t *mutate_some(mutate_input *m) {
    return mutate_at(m, mutate_draw(m, m->count));
}

/* a gap of `n` records before `at`, or 0: there is no room */
static int mutate_open(mutate_input *m, size_t at, size_t n) {
    if (n > m->most - m->count) return 0;
    memmove(mutate_at(m, at + n), mutate_at(m, at), (m->count - at) * MUTATE_RECORD);
    m->count += n;
    return 1;
}

static void mutate_byte(mutate_input *m, uint8_t *at) {
    switch (mutate_draw(m, 5)) {
    case 0:
        *at = (uint8_t)mutate_draw(m, 256);
        break;
    case 1:
        *at = (uint8_t)mutate_draw(m, 8);
        break;
    case 2:
        *at = (uint8_t)(*at + 1);
        break;
    case 3:
        *at = (uint8_t)(*at - 1);
        break;
    default:
        *at = (uint8_t)(*at ^ 1u << mutate_draw(m, 8));
        break;
    }
}

static void mutate_insert(mutate_input *m) {
    size_t at = mutate_draw(m, m->count + 1);
    int small = (int)mutate_draw(m, 3);
    if (!mutate_open(m, at, 1)) return;
    for (size_t i = 0; i < MUTATE_RECORD; i++) /* indices are small, sizes are not */
        mutate_at(m, at)[i] = (uint8_t)mutate_draw(m, small > 0 && i > 0 ? 8 : 256);
}

/* a run of records once more, at another place */
static void mutate_copy(mutate_input *m) {
    uint8_t run[16 * MUTATE_RECORD];
    size_t from = mutate_draw(m, m->count), n = 1 + mutate_draw(m, 1 + mutate_draw(m, 16));
    size_t to = mutate_draw(m, m->count + 1);
    if (m->count == 0) return;
    if (n > m->count - from) n = m->count - from;
    memcpy(run, mutate_at(m, from), n * MUTATE_RECORD);
    if (!mutate_open(m, to, n)) return;
    memcpy(mutate_at(m, to), run, n * MUTATE_RECORD);
    if (mutate_draw(m, 2) > 0) mutate_byte(m, mutate_at(m, to) + mutate_draw(m, MUTATE_RECORD));
}

static void mutate_delete(mutate_input *m) {
    size_t at = mutate_draw(m, m->count), n = 1 + mutate_draw(m, 1 + mutate_draw(m, 12));
    if (m->count == 0) return;
    if (n > m->count - at) n = m->count - at;
    memmove(mutate_at(m, at), mutate_at(m, at + n), (m->count - at - n) * MUTATE_RECORD);
    m->count -= n;
}

static void mutate_swap(mutate_input *m) {
    uint8_t was[MUTATE_RECORD], *a, *b;
    if (m->count < 2) return;
    a = mutate_some(m);
    b = mutate_some(m);
    memcpy(was, a, MUTATE_RECORD);
    memmove(a, b, MUTATE_RECORD);
    memcpy(b, was, MUTATE_RECORD);
}

/* the engine's own ways, which know the dictionary and what was compared with what */
static void mutate_inside(mutate_input *m) {
    uint8_t copy[MUTATE_RECORD], *at;
    if (m->count == 0) return;
    at = mutate_some(m);
    memcpy(copy, at, MUTATE_RECORD);
    LLVMFuzzerMutate(copy, MUTATE_RECORD, MUTATE_RECORD);
    memcpy(at, copy, MUTATE_RECORD);
}

static void mutate_once(mutate_input *m, uint8_t *head) {
    switch (mutate_draw(m, 16)) {
    case 0:
        mutate_delete(m);
        break;
    case 1:
    case 2:
        mutate_copy(m);
        break;
    case 3:
        mutate_swap(m);
        break;
    case 4:
        mutate_inside(m);
        break;
    case 5:
        if (MUTATE_HEAD > 1) mutate_byte(m, head + 1 + mutate_draw(m, MUTATE_HEAD - 1));
        break;
    case 6:
    case 7:
    case 8:
    case 9:
        if (m->count > 0) mutate_byte(m, mutate_some(m) + mutate_draw(m, MUTATE_RECORD));
        break;
    case 10:
        if (m->count > 0) mutate_byte(m, mutate_some(m));
        break;
    default:
        mutate_insert(m);
        break;
    }
}

/* A whole head and whole records. */
static size_t mutate_trim(uint8_t *data, size_t size, size_t max) {
    if (max < MUTATE_HEAD) return 0;
    if (size < MUTATE_HEAD) memset(data + size, 0, MUTATE_HEAD - size);
    if (size < MUTATE_HEAD) size = MUTATE_HEAD;
    data[0] = MUTATE_TAG;
    return MUTATE_HEAD + (size - MUTATE_HEAD) / MUTATE_RECORD * MUTATE_RECORD;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned int seed) {
    mutate_input m;
    size = mutate_trim(data, size, max);
    if (size == 0) return 0;
    m.record = data + MUTATE_HEAD;
    m.count = (size - MUTATE_HEAD) / MUTATE_RECORD;
    m.most = (max - MUTATE_HEAD) / MUTATE_RECORD;
    m.random = seed;
    for (uint32_t n = 1 + mutate_draw(&m, 1 + mutate_draw(&m, 6)); n > 0; n--)
        mutate_once(&m, data);
    return MUTATE_HEAD + m.count * MUTATE_RECORD;
}

/* The head of one; the beginning of one and the end of the other. */
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size,
                                 uint8_t *out, size_t max, unsigned int seed) {
    mutate_input m;
    size_t kept, from, added;
    if (a_size < MUTATE_HEAD || b_size < MUTATE_HEAD || max < MUTATE_HEAD) return 0;
    m.random = seed;
    m.most = (max - MUTATE_HEAD) / MUTATE_RECORD;
    kept = mutate_draw(&m, (a_size - MUTATE_HEAD) / MUTATE_RECORD + 1);
    from = mutate_draw(&m, (b_size - MUTATE_HEAD) / MUTATE_RECORD + 1);
    added = (b_size - MUTATE_HEAD) / MUTATE_RECORD - from;
    if (kept > m.most) kept = m.most;
    if (added > m.most - kept) added = m.most - kept;
    memcpy(out, a, MUTATE_HEAD);
    memcpy(out + MUTATE_HEAD, a + MUTATE_HEAD, kept * MUTATE_RECORD);
    memcpy(out + MUTATE_HEAD + kept * MUTATE_RECORD, b + MUTATE_HEAD + from * MUTATE_RECORD,
           added * MUTATE_RECORD);
    return mutate_trim(out, MUTATE_HEAD + (kept + added) * MUTATE_RECORD, max);
}
#endif
#endif
