/* The room [tensor] from inside: handles and generations to the last one, the pin word against a
 * record of plain numbers, shapes, flags, replicas, adopted regions. */
#define TENSORMEM_IMPLEMENTATION
#include "../tensormem.h"
#include "inside.h"

/* ---- a room of its own, of six tiers: more than a slot has in line by itself ---- */
enum { TIERS = 6, NAMES = 40, RECORDS = 12, REGIONS = 8 };

typedef struct room {
    tnmi_tensors t;
    tnmi_residents on[TIERS];
} room;

static void room_begin(room *r, uint32_t tiers) {
    uint32_t in_line = tiers < TNMI_INLINE_TIERS ? TNMI_INLINE_TIERS : tiers;
    size_t slot = offsetof(tnmi_tensor, rep) + (in_line + 1) / 2 * 8;
    memset(r, 0, sizeof *r);
    r->t.on = r->on;
    r->t.tiers = tiers;
    tnmi_tensor_set_tag(&r->t, 0xa5);
    r->t.last_region = TNMI_NONE;
    tnmi_store_init(&r->t.names, "max_tensors", slot, offsetof(tnmi_tensor, use), NAMES, 1);
    tnmi_store_init(&r->t.regions, "adopted regions", sizeof(tnmi_region),
                    offsetof(tnmi_region, refs), REGIONS, 1);
    bring(&r->t.names);
    bring(&r->t.regions);
    for (uint32_t i = 0; i < tiers; i++) {
        tnmi_store_init(&r->on[i].replicas, "max_replicas", sizeof(tnmi_replica),
                        offsetof(tnmi_replica, content), RECORDS, 1);
        tnmi_store_init(&r->on[i].order.slots, "max_replicas", sizeof(tnmi_slot), 0, RECORDS, 1);
        bring(&r->on[i].replicas);
        tnmi_store_init(&r->on[i].order.places, "max_replicas", 4, 0, RECORDS, 1);
        bring(&r->on[i].order.slots);
        bring(&r->on[i].order.places);
    }
}

static void room_end(room *r) {
    give_back(&r->t.names);
    give_back(&r->t.regions);
    for (uint32_t i = 0; i < r->t.tiers; i++) {
        give_back(&r->on[i].replicas);
        give_back(&r->on[i].order.slots);
        give_back(&r->on[i].order.places);
    }
}

static uint64_t handle(uint64_t generation, uint64_t tag, uint64_t index) {
    return tag << 62 | generation << 32 | tag >> 2 << 26 | index;
}

static tnm_result find(const room *r, uint64_t id, uint32_t *index) {
    tnm_result why;
    *index = tnmi_tensor_find(&r->t, id, &why);
    return *index != TNMI_NONE ? TNM_OK : why;
}

static uint64_t name_new(room *r) {
    uint32_t index = tnmi_tensor_new(&r->t);
    CHECK(index != TNMI_NONE);
    tnmi_tensor_set_flags(tnmi_tensor_at(&r->t, index), TNMI_NAMED, 0);
    return tnmi_tensor_id(&r->t, index);
}

static void name_end(room *r, uint64_t id) {
    uint32_t index;
    CHECK_EQ(find(r, id, &index), TNM_OK);
    if (index == TNMI_NONE) return;
    tnmi_tensor_unname(tnmi_tensor_at(&r->t, index));
    CHECK_EQ(find(r, id, &index), TNM_ERR_STALE);
    tnmi_tensor_delete(&r->t, (uint32_t)(id & ((1u << 26) - 1)));
}

/* ---- handles ---- */
TEST(a_handle_is_ours_or_gone_or_an_error) {
    static room r;
    uint32_t index;
    room_begin(&r, 2);
    CHECK_EQ(find(&r, handle(1, 0xa5, 0), &index), TNM_ERR_ARGUMENT); /* there is none yet */
    uint64_t first = name_new(&r), id = name_new(&r);
    CHECK(first == handle(1, 0xa5, 0) && id == handle(1, 0xa5, 1));
    CHECK(find(&r, id, &index) == TNM_OK && index == 1);
    CHECK_EQ(find(&r, 0, &index), TNM_ERR_ARGUMENT);
    CHECK_EQ(find(&r, UINT64_MAX, &index), TNM_ERR_ARGUMENT);
    CHECK_EQ(find(&r, handle(0, 0xa5, 1), &index), TNM_ERR_ARGUMENT);
    CHECK_EQ(find(&r, handle(2, 0xa5, 1), &index), TNM_ERR_ARGUMENT); /* not given out yet */
    for (uint64_t tag = 0; tag < 256; tag++)
        if (tag != 0xa5) /* another context's */
            CHECK_EQ(find(&r, handle(1, tag, 1), &index), TNM_ERR_ARGUMENT);
    CHECK_EQ(find(&r, handle(1, 0xa5, 2), &index), TNM_ERR_ARGUMENT);
    CHECK_EQ(find(&r, handle(1, 0xa5, NAMES), &index), TNM_ERR_ARGUMENT);
    CHECK_EQ(find(&r, handle(1, 0xa5, (1u << 26) - 1), &index), TNM_ERR_ARGUMENT);
    name_end(&r, id);
    CHECK_EQ(name_new(&r), handle(2, 0xa5, 1)); /* the same slot under another name */
    CHECK_EQ(find(&r, id, &index), TNM_ERR_STALE);
    room_end(&r);
}

TEST(a_handle_once_gone_is_stale_for_ever) {
    enum { DEAD = 500 };
    static room r;
    static uint64_t dead[DEAD], live[NAMES];
    uint32_t index, deads = 0, lives = 0;
    room_begin(&r, 1);
    for (int i = 0; i < check_scale(20000, 1000); i++) {
        if (lives > 0 && (lives == NAMES || draw(2))) {
            uint32_t at = draw(lives);
            name_end(&r, live[at]);
            dead[deads++ % DEAD] = live[at];
            live[at] = live[--lives];
        } else {
            live[lives++] = name_new(&r);
        }
        if (lives == NAMES) { /* and nothing behind the last slot is looked at */
            CHECK(tnmi_tensor_new(&r.t) == TNMI_NONE);
            CHECK_EQ(find(&r, handle(1, 0xa5, NAMES), &index), TNM_ERR_ARGUMENT);
        }
        for (uint32_t n = 0; n < lives; n++)
            CHECK(find(&r, live[n], &index) == TNM_OK && tnmi_tensor_id(&r.t, index) == live[n]);
        uint64_t gone = dead[draw(deads < DEAD && deads ? deads : DEAD)];
        if (deads) CHECK_EQ(find(&r, gone, &index), TNM_ERR_STALE);
    }
    room_end(&r);
}

TEST(a_slot_whose_generations_are_used_up_retires) {
    static room r;
    uint32_t index;
    room_begin(&r, 1);
    for (uint32_t i = 0; i < NAMES; i++)
        CHECK_EQ(name_new(&r), handle(1, 0xa5, i));
    tnmi_tensor_at(&r.t, 7)->generation =
        (uint32_t)(handle(TNMI_GENERATION_MAX - 2, 0xa5, 7) >> 32);
    name_end(&r, handle(TNMI_GENERATION_MAX - 2, 0xa5, 7));
    CHECK_EQ(name_new(&r), handle(TNMI_GENERATION_MAX - 1, 0xa5, 7)); /* the last one */
    CHECK(tnmi_tensor_new(&r.t) == TNMI_NONE);
    tnmi_tensor_set_flags(tnmi_tensor_at(&r.t, 7), TNMI_VIEW | TNMI_BROKEN, 0);
    name_end(&r, handle(TNMI_GENERATION_MAX - 1, 0xa5, 7));
    CHECK(r.t.names.live == NAMES - 1 && r.t.names.retired == 1);
    CHECK(tnmi_tensor_new(&r.t) == TNMI_NONE && !tnmi_store_allows(&r.t.names, 1));
    CHECK_EQ(tnmi_tensor_at(&r.t, 7)->flags, 0);
    for (uint64_t generation = TNMI_GENERATION_MAX - 9; generation < TNMI_GENERATION_MAX;)
        CHECK_EQ(find(&r, handle(generation++, 0xa5, 7), &index), TNM_ERR_STALE);
    CHECK_EQ(find(&r, handle(1, 0xa5, 7), &index), TNM_ERR_STALE);
    name_end(&r, handle(1, 0xa5, 8)); /* the others go on */
    CHECK_EQ(name_new(&r), handle(2, 0xa5, 8));
    room_end(&r);
}

TEST(a_new_slot_knows_nothing_of_the_old_one) {
    static room r;
    room_begin(&r, TIERS);
    for (uint32_t i = 0; i < NAMES; i++) { /* each beside its neighbours: the last tier is in it */
        tnmi_tensor *tensor = tnmi_tensor_at(&r.t, tnmi_tensor_new(&r.t));
        tnmi_tensor_set_flags(tensor, UINT32_MAX, 0);
        tensor->refs = tensor->use = tensor->mark = tensor->failed = 99;
        for (uint32_t t = 0; t < TIERS; t++)
            *tnmi_tensor_rep(&r.t, i, t) = i * 16 + t;
    }
    for (uint32_t i = 0; i < NAMES; i++)
        for (uint32_t t = 0; t < TIERS; t++)
            CHECK_EQ(*tnmi_tensor_rep(&r.t, i, t), i * 16 + t);
    for (uint32_t i = NAMES; i-- > 0;) {
        tnmi_tensor *tensor = tnmi_tensor_at(&r.t, i);
        tnmi_tensor_unname(tensor);
        CHECK(!(tensor->flags & TNMI_NAMED) && tensor->generation == handle(2, 0xa5, i) >> 32);
        tnmi_tensor_delete(&r.t, i);
    }
    for (uint32_t i = 0; i < NAMES; i++) {
        const tnmi_tensor *tensor = tnmi_tensor_at(&r.t, i);
        CHECK_EQ(tnmi_tensor_new(&r.t), i);
        CHECK(tensor->flags == 0 && tensor->refs == 1);
        CHECK(tensor->generation == handle(2, 0xa5, i) >> 32);
        CHECK(tensor->use == TNMI_NONE && tensor->mark == 0 && tensor->failed == 0);
        for (uint32_t t = 0; t < TIERS; t++)
            CHECK(*tnmi_tensor_rep(&r.t, i, t) == TNMI_NONE && !tnmi_tensor_on(&r.t, i, t));
        CHECK(tnmi_tensor_rep(&r.t, i, 3) == tensor->rep + 3);
    }
    room_end(&r);
}

/* ---- contents and views ---- */
TEST(a_view_stands_for_its_content) {
    static room r;
    static const uint64_t begin[] = { 0, 1, UINT32_MAX, (uint64_t)1 << 32, UINT64_MAX };
    uint64_t offset = 5;
    room_begin(&r, 1);
    uint32_t parent = tnmi_tensor_new(&r.t), view = tnmi_tensor_new(&r.t);
    *tnmi_tensor_rep(&r.t, parent, 1) = *tnmi_tensor_rep(&r.t, parent, 2) = 3;
    CHECK(tnmi_tensor_content(&r.t, parent, &offset) == parent && offset == 0);
    tnmi_tensor_set_flags(tnmi_tensor_at(&r.t, view), TNMI_VIEW, 0);
    for (size_t i = 0; i < sizeof begin / sizeof begin[0]; i++) {
        *tnmi_tensor_rep(&r.t, view, 0) = parent;
        *tnmi_tensor_rep(&r.t, view, 1) = (uint32_t)begin[i];
        *tnmi_tensor_rep(&r.t, view, 2) = (uint32_t)(begin[i] >> 32);
        CHECK_EQ(tnmi_tensor_content(&r.t, view, &offset), parent);
        CHECK(offset == begin[i]);
    }
    room_end(&r);
}

TEST(a_label_lives_as_long_as_its_name) {
    static room r;
    static const char label[] = "layer";
    room_begin(&r, 1);
    uint64_t id = name_new(&r);
    tnmi_tensor *tensor = tnmi_tensor_at(&r.t, 0);
    tensor->label = label;
    CHECK(tnmi_tensor_label(&r.t, 0) == label);
    tnmi_tensor_unname(tensor); /* the bytes may live on in a view */
    CHECK(tnmi_tensor_label(&r.t, 0) == NULL);
    CHECK(tnmi_tensor_id(&r.t, 0) != id);
    room_end(&r);
}

TEST(the_fields_of_the_flags_do_not_touch) {
    static const struct {
        uint32_t shift, bits;
    } field[] = { { TNMI_DTYPE_SHIFT, 5 },  { TNMI_RANK_SHIFT, 3 }, { TNMI_BIG_SHIFT, 3 },
                  { TNMI_ADVICE_SHIFT, 5 }, { TNMI_KEPT_SHIFT, 7 }, { TNMI_TOLD_SHIFT, 4 } };
    enum { FIELDS = 6 };
    uint32_t want[FIELDS] = { 0 }, single = TNMI_VIEW | TNMI_NAMED | TNMI_BROKEN;
    tnmi_tensor tensor;
    memset(&tensor, 0, sizeof tensor);
    for (int i = 0; i < check_scale(20000, 1000); i++) {
        uint32_t at = draw(FIELDS), bit = (uint32_t)1 << draw(32);
        want[at] = draw((uint64_t)1 << field[at].bits);
        tnmi_tensor_set_field(&tensor, field[at].shift, field[at].bits, want[at]);
        uint32_t flags = tensor.flags & single;
        if (bit & single) tnmi_tensor_set_flags(&tensor, flags & bit ? 0 : bit, flags & bit);
        CHECK_EQ(tensor.flags & single, bit & single ? flags ^ bit : flags);
        for (int f = 0; f < FIELDS; f++)
            CHECK_EQ(tnmi_tensor_field(&tensor, field[f].shift, field[f].bits), want[f]);
        CHECK_EQ(tnmi_tensor_advice(&tensor), want[3]);
    }
    for (int f = 0; f < FIELDS; f++)
        CHECK(((((uint32_t)1 << field[f].bits) - 1) << field[f].shift & single) == 0);
    CHECK(TNM_MAX_LANES < 16 && TNM_MAX_TIERS < 128 && TNM_MAX_DIMS < 8 && TNM_Q8_0 < 32);
}

/* ---- the pin word ---- */
typedef struct parts { /* the same as plain numbers */
    uint64_t pins, hits, writers, recycle, flags;
} parts;

static uint64_t word_of(parts p) {
    return p.pins << 48 | p.hits << 32 | p.writers << 24 | p.recycle << 8 | p.flags;
}

static void check_word(uint64_t word, parts p) {
    CHECK(word == word_of(p));
    CHECK(tnmi_tensor_pins(word) == p.pins && tnmi_tensor_writers(word) == p.writers);
    CHECK_EQ(tnmi_tensor_recycle(word), p.recycle);
    for (uint32_t state = 0; state < 4; state++)
        CHECK_EQ(tnmi_tensor_is(word, state), (p.flags & 3) == state);
}

static int may_hit(parts p, tnm_access access) {
    if ((p.flags & 3) != TNMI_READY || (p.flags & (TNMI_LOST | TNMI_CLAIM))) return 0;
    if (p.pins >= 0x8000 || p.hits >= 0x8000) return 0; /* half a field is full: the lock's turn */
    if (access == TNM_READ) return 1;
    return (p.flags & TNMI_ALONE) && !(p.flags & TNMI_SOURCE) && p.writers < 0x80;
}

/* What the word must do at each event, whatever else is in it. */
static void check_events(parts p, tnm_access access) {
    tnmi_replica replica;
    parts next = p;
    int writes = access != TNM_READ;
    memset(&replica, 0, sizeof replica);
    replica.word = word_of(p);
    CHECK_EQ(hit(&replica, access), may_hit(p, access));
    if (may_hit(p, access)) {
        next.pins++;
        next.hits++;
        next.writers += (uint64_t)writes;
        next.flags &= ~(uint64_t)TNMI_FRESH; /* used */
    }
    check_word(replica.word, next);
    if (next.writers > 0 || !writes) {
        uint64_t before = tnmi_tensor_unpin(&replica, access);
        CHECK(before == word_of(next));
        if (next.pins > 0) { /* else it was no pin, and nothing happened */
            next.pins--;
            next.writers -= (uint64_t)writes;
        }
        check_word(replica.word, next);
    }
    int claims = (next.flags & 3) == TNMI_READY && next.pins == 0;
    CHECK_EQ(tnmi_tensor_claim(&replica), claims);
    if (claims) next.flags ^= TNMI_READY | TNMI_BUSY;
    check_word(replica.word, next);
    if (claims) {
        tnmi_tensor_unclaim(&replica);
        next.flags ^= TNMI_READY | TNMI_BUSY;
        check_word(replica.word, next);
    }
}

TEST(the_word_does_at_its_limits_what_it_does_between_them) {
    static const uint64_t count[] = { 0, 1, 2, 0xfffe, 0xffff }, few[] = { 0, 1, 0xfe, 0xff };
    static const tnm_access access[] = { TNM_READ, TNM_WRITE, TNM_DISCARD };
    for (uint64_t flags = 0; flags < 256; flags++)
        for (int i = 0; i < 5 * 5 * 4 * 3; i++) {
            parts p;
            p.pins = count[i % 5];
            p.hits = count[i / 5 % 5];
            p.writers = few[i / 25 % 4];
            p.recycle = flags & 1 ? 0xffff : 0;
            p.flags = flags;
            if (p.writers <= p.pins) check_events(p, access[i / 100]);
        }
}

TEST(no_pin_undone_leaves_a_trace) {
    tnmi_replica replica;
    parts p = { 0, 7, 0, 9, TNMI_READY | TNMI_FRESH };
    memset(&replica, 0, sizeof replica);
    for (int i = 0; i < 3; i++) { /* of a word without pins, as of a record used by another now */
        replica.word = word_of(p);
        CHECK(tnmi_tensor_unpin(&replica, TNM_READ) == word_of(p));
        check_word(replica.word, p);
        CHECK(tnmi_tensor_unpin(&replica, TNM_WRITE) == word_of(p));
        check_word(replica.word, p);
        p.hits = i ? 0 : 0xffff;
        p.writers = i ? 0xff : 0;
    }
}

TEST(pins_and_hits_saturate) {
    tnmi_replica replica;
    parts p = { 0, 0, 0, 0x1234, TNMI_READY | TNMI_ALONE };
    memset(&replica, 0, sizeof replica);
    replica.word = word_of(p);
    for (; p.writers < 0x80; p.writers++, p.pins++, p.hits++)
        CHECK(hit(&replica, TNM_WRITE));
    check_word(replica.word, p);
    CHECK(!hit(&replica, TNM_WRITE) && !hit(&replica, TNM_DISCARD));
    for (; p.pins < 0x8000; p.pins++, p.hits++)
        CHECK(hit(&replica, TNM_READ));
    CHECK(!hit(&replica, TNM_READ));
    check_word(replica.word, p);
    for (; p.writers > 0; p.writers--, p.pins--)
        tnmi_tensor_unpin(&replica, TNM_DISCARD);
    check_word(replica.word, p);
    CHECK(!hit(&replica, TNM_READ)); /* until the hits are counted */
    for (; p.pins > 0; p.pins--)
        CHECK_EQ(tnmi_tensor_pins(tnmi_tensor_unpin(&replica, TNM_READ)), p.pins);
    check_word(replica.word, p);
    CHECK(tnmi_tensor_claim(&replica));
}

TEST(marks_set_and_clear_in_one_step) {
    tnmi_replica replica;
    memset(&replica, 0, sizeof replica);
    for (int i = 0; i < check_scale(10000, 1000); i++) {
        uint64_t word = replica.word, set = draw(256), clear = draw(256);
        CHECK(tnmi_tensor_mark(&replica, set, clear) == word);
        CHECK(replica.word == ((word | set) & ~clear));
        if (i % 100 == 0) replica.word = (uint64_t)draw(1u << 30) << 32 | draw(1u << 30);
    }
}

TEST(ready_is_current_and_home_is_a_place_without_bytes) {
    tnmi_replica replica;
    memset(&replica, 0, sizeof replica);
    CHECK(!tnmi_tensor_is_ready(NULL) && !tnmi_tensor_is_home(NULL));
    for (uint64_t flags = 0; flags < 256; flags++) {
        replica.word = (uint64_t)0xfedcba9876543200u | flags;
        CHECK_EQ(tnmi_tensor_is_ready(&replica), (flags & 3) == TNMI_READY && !(flags & TNMI_LOST));
        CHECK_EQ(tnmi_tensor_is_home(&replica), (flags & 3) == TNMI_ABSENT);
    }
}

/* ---- fences ---- */
TEST(fenced_pins_are_counted_for_each_replica) {
    static room r;
    static uint32_t want[2][TIERS][RECORDS];
    room_begin(&r, TIERS);
    for (uint32_t t = 1; t < TIERS; t++) { /* tier 0 never had a fence */
        tnmi_store_init(&r.on[t].fenced, "max_replicas", 4, 0, RECORDS, 1);
        bring(&r.on[t].fenced);
    }
    for (int round = 0; round < 200; round++) {
        uint32_t tier = 1 + draw(TIERS - 1), index = draw(RECORDS);
        int write = (int)draw(2);
        uint32_t live = want[1][tier][index], pins = want[0][tier][index];
        uint32_t unit = tnmi_tensor_fence_unit(write), *held;
        held = tnmi_tensor_fenced_at(&r.t, tier, index);
        if ((write ? live : pins - live) > 0 && draw(2)) {
            *held -= unit;
            want[0][tier][index]--;
            want[1][tier][index] -= (uint32_t)write;
        } else {
            uint32_t count = 1 + draw(write ? 5 : 2000);
            *held += count * unit;
            want[0][tier][index] += count;
            if (write) want[1][tier][index] += count;
        }
        for (uint32_t t = 0; t < TIERS; t++)
            for (uint32_t i = 0; i < RECORDS; i++)
                for (int writes = 0; writes < 2; writes++)
                    CHECK_EQ(tnmi_tensor_fenced(&r.t, t, i, writes), want[writes][t][i]);
    }
    for (uint32_t t = 1; t < TIERS; t++)
        give_back(&r.on[t].fenced);
    room_end(&r);
}

/* ---- shapes ---- */
static const char *shape_of(tnm_dtype dtype, int64_t a, int64_t b, int64_t c, int *rank,
                            uint64_t *bytes) {
    tnm_tensor_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.dtype = dtype;
    desc.shape[0] = a;
    desc.shape[1] = b;
    desc.shape[2] = c;
    return tnmi_tensor_shape(&desc, rank, bytes);
}

TEST(bytes_of_every_dtype) {
    static const uint64_t of32[] = { 32, 32, 32, 64, 128, 256, 64, 64, 128, 256, 32, 32, 18, 34 };
    int rank;
    uint64_t bytes;
    for (int dtype = TNM_BYTES; dtype <= TNM_Q8_0; dtype++) {
        CHECK(shape_of((tnm_dtype)dtype, 3, 64, 0, &rank, &bytes) == NULL);
        CHECK(rank == 2 && bytes == 6 * of32[dtype]);
        CHECK_EQ(shape_of((tnm_dtype)dtype, 0, 0, 0, &rank, &bytes) == NULL, dtype == TNM_BYTES);
        CHECK(rank == 0 && bytes == 0);
    }
    CHECK(shape_of((tnm_dtype)(TNM_Q8_0 + 1), 1, 0, 0, &rank, &bytes) != NULL);
    CHECK(shape_of((tnm_dtype)31, 1, 0, 0, &rank, &bytes) != NULL);
}

TEST(a_shape_that_cannot_be_is_refused) {
    int rank;
    uint64_t bytes;
    int64_t half = (int64_t)1 << 32, most = INT64_MAX;
    CHECK(strstr(shape_of(TNM_U8, -1, 0, 0, &rank, &bytes), "negative") != NULL);
    CHECK(strstr(shape_of(TNM_U8, -1, -1, 0, &rank, &bytes), "negative") != NULL);
    CHECK(shape_of(TNM_U8, 4, INT64_MIN, 2, &rank, &bytes) != NULL);
    CHECK(shape_of(TNM_U8, 0, 4, 0, &rank, &bytes) != NULL); /* goes on behind its end */
    CHECK(shape_of(TNM_U8, 4, 0, 4, &rank, &bytes) != NULL);
    CHECK(shape_of(TNM_BYTES, 0, 0, 4, &rank, &bytes) != NULL);
    CHECK(shape_of(TNM_U8, most, 0, 0, &rank, &bytes) == NULL && bytes == INT64_MAX);
    CHECK(shape_of(TNM_U8, most, 2, 0, &rank, &bytes) != NULL);
    CHECK(shape_of(TNM_U8, most, 3, 0, &rank, &bytes) != NULL);
    CHECK(shape_of(TNM_U8, half, half, 0, &rank, &bytes) != NULL);     /* 2^64 is not 0 */
    CHECK(shape_of(TNM_U8, half, half / 2, 0, &rank, &bytes) != NULL); /* 2^63: not in an int64 */
    CHECK(shape_of(TNM_U8, half, half / 2 - 1, 0, &rank, &bytes) == NULL);
    CHECK(shape_of(TNM_I64, most / 8, 0, 0, &rank, &bytes) == NULL);
    CHECK(shape_of(TNM_I64, most / 8 + 1, 0, 0, &rank, &bytes) != NULL);
    CHECK(shape_of(TNM_F64, most, 0, 0, &rank, &bytes) != NULL);
    CHECK(shape_of(TNM_Q4_0, 2, 31, 0, &rank, &bytes) != NULL);
    CHECK(shape_of(TNM_Q4_0, 2, 33, 0, &rank, &bytes) != NULL);
    CHECK(shape_of(TNM_Q4_0, 32, 2, 0, &rank, &bytes) != NULL); /* blocks lie along the innermost */
    CHECK(shape_of(TNM_Q4_0, 2, 32, 0, &rank, &bytes) == NULL && bytes == 36);
    CHECK(shape_of(TNM_Q4_0, most / 32 * 32, 0, 0, &rank, &bytes) == NULL);
}

static int64_t draw_dimension(int big) {
    return big ? 1 + (int64_t)draw((uint64_t)1 << 31) * (int64_t)(1 + draw(4))
               : 1 + (int64_t)draw(9);
}

TEST(a_shape_is_told_as_it_was_given) {
    int told = 0;
    for (int i = 0; i < check_scale(50000, 3000); i++) {
        int64_t shape[TNM_MAX_DIMS];
        tnm_tensor_desc desc;
        tnmi_tensor tensor;
        int rank, want = (int)draw(TNM_MAX_DIMS + 1), big = (int)draw(5);
        memset(&desc, 0, sizeof desc);
        memset(&tensor, 0x33, sizeof tensor);
        tensor.flags = 0;
        desc.dtype = want ? (tnm_dtype)draw(TNM_Q8_0 + 1) : TNM_BYTES;
        for (int d = 0; d < want; d++)
            desc.shape[d] = draw_dimension(d == big || draw(9) == 0);
        if (desc.dtype >= TNM_Q4_0) desc.shape[want - 1] = desc.shape[want - 1] % 99999 * 32 + 32;
        if (tnmi_tensor_shape(&desc, &rank, &tensor.bytes) != NULL) continue;
        CHECK_EQ(rank, want);
        if (rank == 0) tensor.bytes = 100;
        tnmi_tensor_set_field(&tensor, TNMI_DTYPE_SHIFT, 5, (uint32_t)desc.dtype);
        tnmi_tensor_keep_shape(&tensor, &desc, rank);
        memset(shape, 0x55, sizeof shape);
        tnmi_tensor_tell_shape(&tensor, shape);
        CHECK(memcmp(shape, desc.shape, sizeof shape) == 0);
        told++;
    }
    CHECK(told > check_scale(50000, 3000) / 3);
}

TEST(the_largest_shapes_are_told_as_well) {
    static const int64_t large[][TNM_MAX_DIMS] = {
        { INT64_MAX, 0, 0, 0, 0 },
        { INT64_MAX / 3, 3, 0, 0, 0 },
        { 1, 1, 1, 1, INT64_MAX },
        { UINT32_MAX, ((int64_t)1 << 31) - 1, 0, 0, 0 },
        { ((int64_t)1 << 31), UINT32_MAX, 0, 0, 0 },
        { UINT32_MAX, 1, ((int64_t)1 << 31) - 1, 1, 1 },
        { 1, 1, 1, 1, 1 },
    };
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        int64_t shape[TNM_MAX_DIMS];
        int rank;
        tnm_tensor_desc desc;
        tnmi_tensor tensor;
        memset(&desc, 0, sizeof desc);
        memset(&tensor, 0, sizeof tensor);
        desc.dtype = TNM_U8;
        memcpy(desc.shape, large[i], sizeof desc.shape);
        CHECK(tnmi_tensor_shape(&desc, &rank, &tensor.bytes) == NULL);
        tnmi_tensor_set_field(&tensor, TNMI_DTYPE_SHIFT, 5, TNM_U8);
        tnmi_tensor_keep_shape(&tensor, &desc, rank);
        tnmi_tensor_tell_shape(&tensor, shape);
        CHECK(memcmp(shape, large[i], sizeof shape) == 0);
    }
}

/* ---- replicas ---- */
TEST(a_record_comes_and_goes_and_its_count_goes_on) {
    static room r;
    room_begin(&r, TIERS);
    uint32_t content = tnmi_tensor_new(&r.t), other = tnmi_tensor_new(&r.t), tier = TIERS - 1;
    uint64_t recycle = 0;
    tnmi_heap *order = &r.on[tier].order;
    for (int i = 0; i < check_scale(70000, 200); i++) { /* past 16 bits */
        uint32_t index = tnmi_tensor_place(&r.t, content, tier, 41);
        CHECK_EQ(index, 0);
        tnmi_replica *replica = tnmi_tensor_replica(&r.t, tier, index);
        CHECK(replica->word == (recycle << 8 | TNMI_BUSY)); /* an old pin knows it by the count */
        CHECK(replica->content == content && replica->offset == 41 && replica->stamp == 0);
        CHECK(replica->node == TNMI_NONE && replica->segment == TNMI_NONE);
        CHECK(tnmi_tensor_on(&r.t, content, tier) == replica);
        CHECK(!tnmi_store_heap_has(order, 5) && order->count == 0);
        replica->node = replica->segment = 5;
        replica->stamp = 77;
        tnmi_tensor_mark(replica, TNMI_READY | TNMI_ALONE | TNMI_FRESH, TNMI_BUSY);
        if (i % 3) CHECK(hit(replica, TNM_WRITE));
        if (i % 2) tnmi_store_heap_push(order, replica->node, 9);
        tnmi_tensor_detach(&r.t, tier, index);
        recycle = (recycle + 1) & 0xffff;
        CHECK(replica->word == recycle << 8); /* nothing else of the old owner is left */
        CHECK(tnmi_tensor_on(&r.t, content, tier) == NULL && order->count == 0);
        CHECK(!tnmi_store_heap_has(order, 5));
        tnmi_store_give(&r.on[tier].replicas, index);
        if (i % 4 == 0) { /* a neighbour does not matter */
            CHECK(tnmi_tensor_on(&r.t, other, tier) == NULL);
            CHECK(tnmi_tensor_on(&r.t, content, tier - 1) == NULL);
        }
    }
    room_end(&r);
}

TEST(a_tier_without_records_takes_nothing) {
    static room r;
    room_begin(&r, 2);
    for (uint32_t i = 0; i <= RECORDS; i++) {
        uint32_t content = tnmi_tensor_new(&r.t), index = tnmi_tensor_place(&r.t, content, 1, i);
        CHECK_EQ(index, i < RECORDS ? i : TNMI_NONE);
        CHECK_EQ(*tnmi_tensor_rep(&r.t, content, 1), index);
        CHECK_EQ(*tnmi_tensor_rep(&r.t, content, 0), TNMI_NONE);
    }
    CHECK_EQ(tnmi_tensor_place(&r.t, RECORDS, 0, 9), 0); /* the other tier has its own */
    for (uint32_t i = 0; i < RECORDS; i++)
        CHECK_EQ(tnmi_tensor_on(&r.t, i, 1)->offset, i);
    room_end(&r);
}

/* Those of a tier leave by their stamps; who comes or goes in between disturbs nobody's place. */
TEST(the_order_of_leaving_is_the_order_of_the_stamps) {
    static room r;
    uint32_t in[RECORDS] = { 0 };
    room_begin(&r, 1);
    tnmi_heap *order = &r.on[0].order;
    for (uint32_t i = 0; i < RECORDS; i++)
        (void)tnmi_tensor_new(&r.t);
    for (int i = 0; i < check_scale(20000, 1000); i++) {
        uint32_t content = draw(RECORDS), best = TNMI_NONE;
        uint32_t index = *tnmi_tensor_rep(&r.t, content, 0);
        if (index == TNMI_NONE) {
            index = tnmi_tensor_place(&r.t, content, 0, 0);
            CHECK(index < RECORDS && !tnmi_store_heap_has(order, index ^ 1));
            tnmi_replica *replica = tnmi_tensor_replica(&r.t, 0, index);
            replica->stamp = draw(1000);
            replica->node = index ^ 1; /* the owners in the order are nodes */
            if (draw(3)) tnmi_store_heap_push(order, replica->node, replica->stamp);
        } else {
            tnmi_tensor_detach(&r.t, 0, index);
            tnmi_store_give(&r.on[0].replicas, index);
        }
        uint32_t count = 0;
        for (uint32_t n = 0; n < RECORDS; n++) {
            index = *tnmi_tensor_rep(&r.t, n, 0);
            if (index == TNMI_NONE || !tnmi_store_heap_has(order, index ^ 1)) continue;
            CHECK_EQ(tnmi_tensor_replica(&r.t, 0, index)->content, n);
            in[count++] = index;
            if (best == TNMI_NONE || tnmi_tensor_replica(&r.t, 0, index)->stamp <
                                         tnmi_tensor_replica(&r.t, 0, best)->stamp)
                best = index;
        }
        CHECK_EQ(order->count, count);
        if (count > 0)
            CHECK(tnmi_store_key(tnmi_store_slot(order, 0)) ==
                  tnmi_tensor_replica(&r.t, 0, best)->stamp);
        for (uint32_t n = 0; n < count; n++)
            CHECK(tnmi_store_heap_key(order, in[n] ^ 1) ==
                  tnmi_tensor_replica(&r.t, 0, in[n])->stamp);
    }
    room_end(&r);
}

/* ---- where else are the bytes? ---- */
enum { NOT_THERE, FILLING, CURRENT, LOST, HOME, LENT, OWN, KINDS }; /* the last three: adopted */

static void put_replica(room *r, uint32_t content, uint32_t tier, int kind) {
    static const uint32_t flags[KINDS] = {
        0, TNMI_BUSY, TNMI_READY, TNMI_READY | TNMI_LOST, TNMI_ABSENT, TNMI_READY, TNMI_READY
    };
    uint32_t index = *tnmi_tensor_rep(&r->t, content, tier);
    if (index != TNMI_NONE) {
        tnmi_tensor_detach(&r->t, tier, index);
        tnmi_store_give(&r->on[tier].replicas, index);
    }
    if (kind == NOT_THERE) return;
    tnmi_replica *replica =
        tnmi_tensor_replica(&r->t, tier, tnmi_tensor_place(&r->t, content, tier, 0));
    replica->node = kind >= HOME ? TNMI_NONE : 1;
    replica->segment = kind == LENT ? 0 : 1; /* region 1 is writable, 0 is not */
    if (kind == FILLING) replica->node = replica->segment = TNMI_NONE; /* no place yet */
    tnmi_tensor_mark(replica, flags[kind] | (draw(2) ? TNMI_ALONE : 0),
                     TNMI_BUSY ^ (flags[kind] & 1));
}

static void check_alone(const room *r, const int *kind, uint32_t content) {
    int holds = 0, ready = 0;
    for (int t = 0; t < TIERS; t++) {
        holds += kind[t] != NOT_THERE && kind[t] != HOME;
        ready += kind[t] == CURRENT || kind[t] == LENT || kind[t] == OWN;
    }
    CHECK_EQ(tnmi_tensor_is_empty(&r->t, content), ready == 0);
    CHECK_EQ(tnmi_tensor_copies(&r->t, content), holds);
    for (uint32_t t = 0; t < TIERS; t++) {
        const tnmi_replica *replica = tnmi_tensor_on(&r->t, content, t);
        CHECK_EQ(replica == NULL, kind[t] == NOT_THERE);
        CHECK_EQ(tnmi_tensor_is_lent(&r->t, replica), kind[t] == LENT);
        if (kind[t] == NOT_THERE || kind[t] == HOME) continue;
        CHECK_EQ((replica->word & TNMI_ALONE) != 0, holds == 1 && kind[t] != LENT);
    }
}

TEST(alone_says_that_a_write_has_nothing_to_drop) {
    static room r;
    tnm_adopt_desc desc;
    int kind[TIERS] = { 0 };
    memset(&desc, 0, sizeof desc);
    room_begin(&r, TIERS);
    CHECK_EQ(tnmi_tensor_adopt(&r.t, &desc), 0);
    desc.writable = 1;
    CHECK_EQ(tnmi_tensor_adopt(&r.t, &desc), 1);
    uint32_t content = tnmi_tensor_new(&r.t);
    for (int i = 0; i < check_scale(30000, 2000); i++) {
        uint32_t tier = draw(TIERS);
        kind[tier] = draw(2) ? (int)draw(KINDS) : NOT_THERE;
        put_replica(&r, content, tier, kind[tier]);
        tnmi_tensor_set_alone(&r.t, content);
        check_alone(&r, kind, content);
    }
    room_end(&r);
}

/* ---- adopted regions ---- */
static void released_a(void *user, uint64_t mem, uint64_t offset) {
    (void)user;
    (void)mem;
    (void)offset;
}

static void released_b(void *user, uint64_t mem, uint64_t offset) {
    released_a(user, mem, offset);
}

static tnm_adopt_desc file_range(uint64_t offset) {
    static char memory[1000], user;
    tnm_adopt_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.tier = 2;
    desc.mem = 55;
    desc.offset = offset;
    desc.host = memory + offset;
    desc.released = released_a;
    desc.user = &user;
    return desc;
}

TEST(ranges_of_one_file_share_a_region) {
    static room r;
    static char elsewhere;
    tnm_adopt_desc desc = file_range(10), other = file_range(20);
    room_begin(&r, 3);
    uint32_t region = tnmi_tensor_adopt(&r.t, &desc);
    CHECK_EQ(tnmi_tensor_adopt(&r.t, &other), region);
    const tnmi_region *at = tnmi_tensor_region(&r.t, region);
    CHECK(at->refs == 2 && at->mem == 55 && at->tier == 2 && at->released == released_a);
    CHECK(at->base + 20 == (uintptr_t)other.host && at->user == desc.user && !at->writable);
    for (int i = 0; i < 7; i++) { /* one of its words is another: not the same region */
        other = file_range(30);
        if (i == 0) other.mem = 56;
        if (i == 1) other.tier = 1;
        if (i == 2) other.host = &elsewhere;
        if (i == 3) other.host = NULL;
        if (i == 4) other.released = released_b;
        if (i == 5) other.user = &elsewhere;
        if (i == 6) other.writable = 4;
        tnmi_tensor_unadopt(&r.t, tnmi_tensor_adopt(&r.t, &desc)); /* the last one again */
        uint32_t own = tnmi_tensor_adopt(&r.t, &other);
        CHECK(own != region && tnmi_tensor_region(&r.t, own)->refs == 1);
        CHECK_EQ(tnmi_tensor_region(&r.t, own)->writable, i == 6);
        tnmi_tensor_unadopt(&r.t, own);
        CHECK_EQ(r.t.regions.live, 1);
        r.t.last_region = region;
    }
    CHECK_EQ(at->refs, 2);
    tnmi_tensor_unadopt(&r.t, region);
    CHECK_EQ(r.t.regions.live, 1);
    tnmi_tensor_unadopt(&r.t, region);
    CHECK(r.t.regions.live == 0 && r.t.last_region == TNMI_NONE);
    room_end(&r);
}

TEST(a_region_given_up_is_nobodys) {
    static room r;
    tnm_adopt_desc desc = file_range(10), other = file_range(10);
    room_begin(&r, 3);
    other.mem = 99;
    uint32_t first = tnmi_tensor_adopt(&r.t, &desc), second = tnmi_tensor_adopt(&r.t, &other);
    CHECK(first != second);
    tnmi_tensor_unadopt(&r.t, first); /* not the last one: that stays what it is */
    CHECK_EQ(tnmi_tensor_adopt(&r.t, &other), second);
    CHECK_EQ(tnmi_tensor_region(&r.t, second)->refs, 2);
    tnmi_tensor_unadopt(&r.t, second);
    tnmi_tensor_unadopt(&r.t, second);
    CHECK_EQ(tnmi_tensor_region(&r.t, tnmi_tensor_adopt(&r.t, &other))->refs, 1);
    for (uint32_t i = 1; i < REGIONS; i++) {
        desc.mem = 100 + i;
        CHECK(tnmi_tensor_adopt(&r.t, &desc) != TNMI_NONE);
    }
    desc.mem = 200;
    CHECK(tnmi_tensor_adopt(&r.t, &desc) == TNMI_NONE);
    desc.mem = 100 + REGIONS - 1; /* the last one has room for more */
    CHECK(tnmi_tensor_adopt(&r.t, &desc) != TNMI_NONE);
    room_end(&r);
}

TEST(memory_told_from_its_first_byte_keeps_its_address_per_tensor) {
    static room r;
    tnm_adopt_desc desc = file_range(0);
    room_begin(&r, 3);
    uint32_t by_host = tnmi_tensor_adopt(&r.t, &desc);
    CHECK(tnmi_tensor_region(&r.t, by_host)->by_host && !tnmi_tensor_region(&r.t, by_host)->base);
    desc.host = (char *)desc.host + 64; /* the tensor's own address tells them apart */
    CHECK_EQ(tnmi_tensor_adopt(&r.t, &desc), by_host);
    desc.host = NULL;
    CHECK(tnmi_tensor_adopt(&r.t, &desc) != by_host);
    CHECK(!tnmi_tensor_region(&r.t, r.t.last_region)->by_host);
    CHECK(!tnmi_tensor_region(&r.t, r.t.last_region)->base);
    room_end(&r);
}

int main(void) {
    RUN(a_handle_is_ours_or_gone_or_an_error);
    RUN(a_handle_once_gone_is_stale_for_ever);
    RUN(a_slot_whose_generations_are_used_up_retires);
    RUN(a_new_slot_knows_nothing_of_the_old_one);
    RUN(a_view_stands_for_its_content);
    RUN(a_label_lives_as_long_as_its_name);
    RUN(the_fields_of_the_flags_do_not_touch);
    RUN(the_word_does_at_its_limits_what_it_does_between_them);
    RUN(no_pin_undone_leaves_a_trace);
    RUN(pins_and_hits_saturate);
    RUN(marks_set_and_clear_in_one_step);
    RUN(ready_is_current_and_home_is_a_place_without_bytes);
    RUN(fenced_pins_are_counted_for_each_replica);
    RUN(bytes_of_every_dtype);
    RUN(a_shape_that_cannot_be_is_refused);
    RUN(a_shape_is_told_as_it_was_given);
    RUN(the_largest_shapes_are_told_as_well);
    RUN(a_record_comes_and_goes_and_its_count_goes_on);
    RUN(a_tier_without_records_takes_nothing);
    RUN(the_order_of_leaving_is_the_order_of_the_stamps);
    RUN(alone_says_that_a_write_has_nothing_to_drop);
    RUN(ranges_of_one_file_share_a_region);
    RUN(a_region_given_up_is_nobodys);
    RUN(memory_told_from_its_first_byte_keeps_its_address_per_tensor);
    return check_done();
}
