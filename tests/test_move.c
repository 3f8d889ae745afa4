/* The room [move] from inside: queues against a sorted array, slots and staging chunks against what
 * was handed out, the cutting into chunks for every small transfer; and the room at work in a
 * context over simulated devices, looked at between any two calls. */
#define TENSORMEM_IMPLEMENTATION
#include "../tensormem.h"
#include "sim.h"
#include "inside.h"

/* ---- a room of its own ---- */
enum { OPS = 60, SLOTS = 12, STAGES = 6 };

static tnmi_copy slot_memory[SLOTS];
static uint32_t stage_memory[STAGES];

static void move_begin(tnmi_move *move) {
    tnmi_move_init(move, OPS, 1);
    bring(&move->ops);
    memset(slot_memory, 0x5a, sizeof slot_memory);
    tnmi_move_slots(move, slot_memory, SLOTS);
    move->stage_next = stage_memory;
}

static void move_end(tnmi_move *move) {
    give_back(&move->ops);
}

static uint32_t op_of(tnmi_move *move, tnm_class class_, uint64_t step) {
    uint32_t index = tnmi_move_new(move, TNMI_OP_FILL, class_, step);
    CHECK(index != TNMI_NONE);
    return index;
}

/* ---- transfers ---- */
TEST(a_new_transfer_has_nothing_and_an_old_one_leaves_nothing_behind) {
    static tnmi_move move;
    move_begin(&move);
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < OPS; i++) {
            uint32_t index = tnmi_move_new(&move, TNMI_OP_READ, TNM_CLASS_SURE, 40 + i);
            CHECK(index != TNMI_NONE);
            if (index == TNMI_NONE) return;
            tnmi_op *op = tnmi_move_op(&move, index);
            CHECK(op->kind == TNMI_OP_READ && op->class_ == TNM_CLASS_SURE && op->step == 40 + i);
            CHECK(op->content == TNMI_NONE && op->replica == TNMI_NONE && op->from == TNMI_NONE);
            CHECK(op->window == TNMI_NONE && op->request == TNMI_NONE && op->plan == TNMI_NONE);
            CHECK(op->place == TNMI_NONE && op->queued < 0 && op->out == 0 && op->claims == 0);
            CHECK(op->next == 0 && op->done == 0 && op->bytes == 0 && op->error == TNM_OK);
            CHECK(op->route == 0 && !op->via && !op->fresh && !op->loose && op->plain == NULL);
            memset(op, 0x77, sizeof *op);
            op->queued = -1;
        }
        CHECK(tnmi_move_new(&move, TNMI_OP_READ, TNM_CLASS_SURE, 0) == TNMI_NONE);
        for (uint32_t i = 0; i < OPS; i++)
            tnmi_move_delete(&move, i);
    }
    CHECK_EQ(move.ops.live, 0);
    move_end(&move);
}

/* ---- queues against sorted arrays ---- */
typedef struct lines {
    uint32_t op[TNMI_MOVE_QUEUES][OPS], count[TNMI_MOVE_QUEUES];
    uint64_t step[OPS]; /* of each transfer, with its class: as it should be */
    int class_[OPS], in[OPS], live[OPS];
} lines;

static void line_leave(lines *l, uint32_t index) {
    int queue = l->in[index];
    uint32_t at = 0;
    if (queue < 0) return;
    while (l->op[queue][at] != index)
        at++;
    l->count[queue]--;
    for (; at < l->count[queue]; at++)
        l->op[queue][at] = l->op[queue][at + 1];
    l->in[index] = -1;
}

static void line_enter(lines *l, uint32_t index, int queue) { /* behind all that are not later */
    line_leave(l, index);
    uint32_t at = l->count[queue]++;
    for (; at > 0 && l->step[l->op[queue][at - 1]] > l->step[index]; at--)
        l->op[queue][at] = l->op[queue][at - 1];
    l->op[queue][at] = index;
    l->in[index] = queue;
}

static void check_lines(const tnmi_move *move, const lines *l) {
    for (int q = 0; q < TNMI_MOVE_QUEUES; q++) {
        uint32_t before = TNMI_NONE, i = move->queue[q].head;
        for (uint32_t n = 0; n < l->count[q]; n++) {
            CHECK_EQ(i, l->op[q][n]);
            if (i == TNMI_NONE) return;
            CHECK_EQ(tnmi_move_op(move, i)->prev_op, before);
            CHECK_EQ(tnmi_move_op(move, i)->queued, q);
            before = i;
            i = tnmi_move_op(move, i)->next_op;
        }
        CHECK(i == TNMI_NONE && move->queue[q].tail == before);
    }
    for (uint32_t i = 0; i < OPS; i++) {
        if (!l->live[i]) continue;
        CHECK_EQ(tnmi_move_op(move, i)->queued, l->in[i]);
        CHECK_EQ(tnmi_move_op(move, i)->step, l->step[i]);
        CHECK_EQ(tnmi_move_op(move, i)->class_, l->class_[i]);
    }
}

/* A later request: a higher class brings its own deadline, the same class only an earlier one. */
static void line_raise(tnmi_move *move, lines *l, uint32_t index) {
    int class_ = (int)draw(TNMI_MOVE_CLASSES), queue = l->in[index];
    uint64_t step = draw(12);
    tnmi_move_raise(move, index, (tnm_class)class_, step);
    if (class_ < l->class_[index] || (class_ == l->class_[index] && step >= l->step[index])) return;
    l->class_[index] = class_;
    l->step[index] = step;
    if (queue >= 0) line_enter(l, index, queue == TNMI_MOVE_ROOM ? queue : class_);
}

static void line_step(tnmi_move *move, lines *l) {
    uint32_t index = draw(OPS), what = draw(8);
    if (!l->live[index]) {
        int class_ = (int)draw(TNMI_MOVE_CLASSES);
        uint64_t step = draw(12);
        index = op_of(move, (tnm_class)class_, step);
        CHECK(index < OPS && !l->live[index]);
        l->live[index] = 1;
        l->class_[index] = class_;
        l->step[index] = step;
        l->in[index] = -1;
    } else if (what < 4) {
        int queue = draw(4) ? l->class_[index] : TNMI_MOVE_ROOM;
        tnmi_move_enqueue(move, index, queue);
        line_enter(l, index, queue);
    } else if (what < 5) {
        tnmi_move_unqueue(move, index);
        line_leave(l, index);
    } else if (what < 7) {
        line_raise(move, l, index);
    } else {
        tnmi_move_delete(move, index);
        line_leave(l, index);
        l->live[index] = 0;
    }
}

TEST(a_queue_is_ordered_by_deadline_and_then_by_age) {
    static tnmi_move move;
    static lines l;
    memset(&l, 0, sizeof l);
    move_begin(&move);
    for (int i = 0; i < check_scale(100000, 3000) && check_bad < 20; i++) {
        line_step(&move, &l);
        check_lines(&move, &l);
    }
    move_end(&move);
}

TEST(a_request_that_joins_never_lowers) {
    static tnmi_move move;
    move_begin(&move);
    uint32_t index = op_of(&move, TNM_CLASS_SURE, 10);
    const tnmi_op *op = tnmi_move_op(&move, index);
    tnmi_move_enqueue(&move, index, TNM_CLASS_SURE);
    tnmi_move_raise(&move, index, TNM_CLASS_GUESS, 1);
    tnmi_move_raise(&move, index, TNM_CLASS_WRITE_BACK, 0);
    tnmi_move_raise(&move, index, TNM_CLASS_SURE, 11);
    CHECK(op->class_ == TNM_CLASS_SURE && op->step == 10 && op->queued == TNM_CLASS_SURE);
    tnmi_move_raise(&move, index, TNM_CLASS_SURE, 9);
    CHECK(op->class_ == TNM_CLASS_SURE && op->step == 9);
    tnmi_move_raise(&move, index, TNM_CLASS_DEMAND, 9);
    CHECK(op->class_ == TNM_CLASS_DEMAND && op->queued == TNM_CLASS_DEMAND);
    CHECK(move.queue[TNM_CLASS_SURE].head == TNMI_NONE);
    CHECK_EQ(move.queue[TNM_CLASS_DEMAND].head, index);
    tnmi_move_enqueue(&move, index, TNMI_MOVE_ROOM); /* who waits for room stays in that queue */
    tnmi_move_raise(&move, index, TNM_CLASS_DEMAND, 2);
    CHECK(op->queued == TNMI_MOVE_ROOM && op->step == 2);
    tnmi_move_unqueue(&move, index);
    tnmi_move_unqueue(&move, index);
    tnmi_move_raise(&move, index, TNM_CLASS_DEMAND, 1); /* who is in none is put into none */
    CHECK(op->queued < 0 && op->step == 1);
    CHECK(move.queue[TNMI_MOVE_ROOM].head == TNMI_NONE);
    move_end(&move);
}

/* ---- slots and staging ---- */
static void check_slots(const tnmi_move *move, const uint32_t *live, uint32_t count) {
    uint32_t i = move->live_copy, used = 0, free_slots = 0, out[OPS];
    uint64_t number = 0;
    memset(out, 0, sizeof out);
    for (; i != TNMI_NONE && used < SLOTS; i = move->copy[i].next, used++) {
        CHECK_EQ(i, live[used]); /* oldest first */
        CHECK(move->copy[i].number > number);
        number = move->copy[i].number;
        out[move->copy[i].op]++;
    }
    CHECK(i == TNMI_NONE && used == count && move->used == count);
    CHECK_EQ(move->last_live, count ? live[count - 1] : TNMI_NONE);
    for (i = move->free_copy; i != TNMI_NONE && free_slots < SLOTS; i = move->copy[i].next) {
        CHECK_EQ(move->copy[i].state, TNMI_COPY_FREE);
        free_slots++;
    }
    CHECK(i == TNMI_NONE);
    CHECK_EQ(used + free_slots, SLOTS);
    for (i = 0; i < move->ops.fresh; i++)
        CHECK_EQ(tnmi_move_op(move, i)->out, out[i]);
}

static void check_stages(const tnmi_move *move, const uint32_t *live, uint32_t count) {
    uint32_t seen = 0, free_chunks = 0;
    for (uint32_t n = 0; n < count; n++) {
        uint32_t stage = move->copy[live[n]].stage;
        if (stage == TNMI_NONE) continue;
        CHECK(stage < STAGES && !(seen >> stage & 1u)); /* nobody else has it */
        seen |= 1u << stage;
    }
    for (uint32_t i = move->stage_free; i != TNMI_NONE && free_chunks <= STAGES;) {
        CHECK(i < STAGES && !(seen >> i & 1u));
        seen |= 1u << i;
        free_chunks++;
        i = move->stage_next[i];
    }
    CHECK_EQ(move->stage_count, free_chunks);
    CHECK_EQ(seen, (1u << STAGES) - 1);
}

static uint32_t give_slot(tnmi_move *move, uint32_t *live, uint32_t count) {
    uint32_t at = draw(count), index = live[at];
    tnmi_move_slot_give(move, index);
    CHECK_EQ(move->copy[index].state, TNMI_COPY_FREE);
    for (; at + 1 < count; at++)
        live[at] = live[at + 1];
    return count - 1;
}

TEST(slots_and_staging_are_handed_out_once_and_come_back) {
    static tnmi_move move;
    uint32_t live[SLOTS], count = 0;
    move_begin(&move);
    move.stage_size = 128;
    move.stage_bytes = STAGES * 128;
    tnmi_move_staging(&move, 77, slot_memory);
    CHECK(move.stage_state == TNMI_STAGING_LIVE && move.stage_mem == 77);
    CHECK(move.stage_host == (unsigned char *)slot_memory);
    for (int i = 0; i < 5; i++)
        (void)op_of(&move, TNM_CLASS_DEMAND, 0);
    for (int i = 0; i < check_scale(100000, 3000) && check_bad < 20; i++) {
        if (count > 0 && draw(5) < (uint32_t)(i / 100 % 2 ? 3 : 2)) {
            count = give_slot(&move, live, count);
        } else {
            uint32_t op = draw(5), index = tnmi_move_slot(&move, op);
            CHECK_EQ(index == TNMI_NONE, count == SLOTS);
            if (index == TNMI_NONE) continue;
            tnmi_copy *copy = &move.copy[index];
            CHECK(copy->op == op && copy->stage == TNMI_NONE && copy->state == TNMI_COPY_FREE);
            CHECK(copy->at == 0 && copy->size == 0 && copy->ticket == 0 && !copy->begun);
            memset(&copy->at, 0x77, 2 * sizeof copy->at);
            copy->ticket = copy->lead = copy->pad = 9;
            copy->begun = 1;
            copy->state = TNMI_COPY_OUT;
            if (draw(2)) copy->stage = tnmi_move_stage_take(&move);
            live[count++] = index;
        }
        check_slots(&move, live, count);
        check_stages(&move, live, count);
    }
    while (count > 0)
        count = give_slot(&move, live, count);
    check_slots(&move, live, 0);
    check_stages(&move, live, 0);
    move_end(&move);
}

TEST(staging_is_given_back_when_nothing_is_under_way) {
    static tnmi_move move;
    move_begin(&move);
    move.stage_size = 128;
    move.stage_bytes = STAGES * 128;
    move.stage_tier = 1;
    CHECK(!tnmi_move_unstage(&move, 1)); /* there is none */
    tnmi_move_staging(&move, 77, slot_memory);
    CHECK(!tnmi_move_unstage(&move, 0)); /* it is another tier's */
    uint32_t slot = tnmi_move_slot(&move, op_of(&move, TNM_CLASS_DEMAND, 0));
    CHECK(slot != TNMI_NONE && !tnmi_move_unstage(&move, 1));
    CHECK_EQ(move.stage_state, TNMI_STAGING_LIVE);
    CHECK_EQ(give_slot(&move, &slot, 1), 0);
    CHECK(tnmi_move_unstage(&move, 1));
    CHECK_EQ(move.stage_state, TNMI_STAGING_UNWANTED);
    CHECK(!tnmi_move_unstage(&move, 1));
    move_end(&move);
}

TEST(staging_is_cut_within_its_bounds) {
    static tnmi_move move;
    move_begin(&move);
    for (uint64_t extra = 0; extra < 128; extra += 127) { /* a rest that is no chunk is not used */
        uint32_t taken = 0;
        move.stage_size = 128;
        move.stage_bytes = (STAGES - 1) * 128 + extra;
        tnmi_move_staging(&move, 1, NULL);
        CHECK_EQ(move.stage_count, STAGES - 1);
        for (uint32_t stage; (stage = tnmi_move_stage_take(&move)) != TNMI_NONE;) {
            CHECK(stage * move.stage_size + move.stage_size <= move.stage_bytes);
            CHECK(!(taken >> stage & 1u));
            taken |= 1u << stage;
        }
        CHECK(taken == (1u << (STAGES - 1)) - 1 && move.stage_count == 0);
        tnmi_move_stage_give(&move, TNMI_NONE); /* a copy without staging gives none */
        CHECK(move.stage_count == 0 && tnmi_move_stage_take(&move) == TNMI_NONE);
    }
    move_end(&move);
}

/* Each takes as long as it may: guesses leave some to demand, demands the last to the way down. */
TEST(staging_keeps_some_for_demand_and_for_the_way_down) {
    static const tnm_class low[] = { TNM_CLASS_WRITE_BACK, TNM_CLASS_GUESS, TNM_CLASS_SURE };
    for (int i = 0; i < 3; i++) {
        uint32_t left = 4; /* the fewest the engine asks for */
        while (left > tnmi_move_stage_reserve(low[i], 0))
            left--;
        CHECK_EQ(left, 3);
        while (left > tnmi_move_stage_reserve(TNM_CLASS_DEMAND, 0))
            left--;
        CHECK_EQ(left, 1);
        while (left > tnmi_move_stage_reserve(low[i], 1))
            left--;
        CHECK_EQ(left, 0);
    }
    CHECK_EQ(tnmi_move_stage_reserve(TNM_CLASS_DEMAND, 1), 0);
}

/* ---- chunks ---- */
static void check_cut(uint64_t bytes, uint64_t most, uint64_t source, uint64_t grain) {
    tnmi_op op;
    uint64_t pieces = 0, end = source + bytes;
    memset(&op, 0, sizeof op);
    op.bytes = bytes;
    while (op.next < bytes) {
        int bounce = -1;
        uint64_t from = source + op.next;
        uint64_t size = tnmi_move_cut(&op, most, source, grain, 0, &bounce);
        CHECK(size > 0 && size <= bytes - op.next);
        if (size == 0 || size > bytes - op.next) return;
        CHECK(bounce == 0 || bounce == 1);
        if (grain <= 1)
            CHECK(!bounce && size <= (most ? most : 1));
        else if (bounce)
            CHECK(from / grain == (from + size - 1) / grain); /* within one grain */
        else
            CHECK(from % grain == 0 && size % grain == 0 && size <= (most > grain ? most : grain));
        if (bounce) /* only the odd head and tail */
            CHECK(from == source || from + size == end);
        if (!bounce && size < bytes - op.next && grain > 1) CHECK(size >= grain);
        op.next += size;
        pieces++;
    }
    uint64_t step = most > grain ? most - most % grain : grain; /* as few as may be */
    CHECK(pieces <= bytes / step + 3);
}

/* A backend that takes odd ends: nothing bounces, what is cut is cut on the grain if it can be. */
static void check_odd_cut(uint64_t bytes, uint64_t most, uint64_t source, uint64_t grain) {
    tnmi_op op;
    memset(&op, 0, sizeof op);
    op.bytes = bytes;
    while (op.next < bytes) {
        int bounce = -1;
        uint64_t from = source + op.next;
        uint64_t size = tnmi_move_cut(&op, most, source, grain, 1, &bounce);
        CHECK(bounce == 0 && size > 0 && size <= bytes - op.next && size <= (most ? most : 1));
        if (size == 0 || size > bytes - op.next) return;
        if (size < bytes - op.next && most >= grain) CHECK_EQ((from + size) % grain, 0);
        op.next += size;
    }
}

TEST(chunks_tile_the_transfer_and_keep_to_the_grain) {
    int widest = check_scale(40, 18);
    for (uint64_t bytes = 1; bytes < (uint64_t)widest; bytes++)
        for (uint64_t most = 0; most < (uint64_t)widest + 2; most++)
            for (uint64_t grain = 0; grain <= 16; grain = grain ? grain * 2 : 1)
                for (uint64_t source = 0; source <= grain; source++) {
                    check_cut(bytes, most, source, grain ? grain : 1);
                    check_odd_cut(bytes, most, source, grain ? grain : 1);
                }
    check_cut((uint64_t)1 << 40, (uint64_t)1 << 34, 4095, 4096);
    check_cut(((uint64_t)1 << 40) + 1, UINT64_MAX, 0, 4096);
    check_cut(UINT64_MAX / 2, UINT64_MAX, 0, 1);
}

/* ---- the room at work ---- */
enum { KIB = 1024, TENSORS = 14 };

/* What the state of a transfer says, between two calls. */
static void check_op(const tnmi_move *move, uint32_t index) {
    const tnmi_op *op = tnmi_move_op(move, index);
    CHECK(op->next <= op->bytes && op->done <= op->next);
    switch (op->state) {
    case TNMI_OP_ROOM:
        CHECK(op->queued == TNMI_MOVE_ROOM && op->out == 0 && op->next == 0);
        break;
    case TNMI_OP_PLACED:
        CHECK(op->out == 0 && op->done == 0);
        CHECK(op->queued == (int)op->class_ || op->kind == TNMI_OP_BUILD);
        break;
    case TNMI_OP_FILLING:
        CHECK(op->out > 0 || op->next < op->bytes || op->kind == TNMI_OP_BUILD);
        CHECK_EQ(op->queued, op->next < op->bytes ? (int)op->class_ : -1);
        break;
    case TNMI_OP_DRAINING:
        CHECK(op->out > 0 && op->queued < 0); /* over when the last has come home */
        break;
    case TNMI_OP_DONE: /* only while read or write runs */
        CHECK(0);
        break;
    }
}

static void check_copies(const tnmi_engine *e) {
    const tnmi_move *move = &e->move;
    uint32_t used = 0, chunks = 0, flying[TNM_MAX_TIERS];
    uint64_t number = 0, bytes[TNM_MAX_TIERS];
    memset(flying, 0, sizeof flying);
    memset(bytes, 0, sizeof bytes);
    for (uint32_t i = move->live_copy; i != TNMI_NONE; i = move->copy[i].next, used++) {
        const tnmi_copy *copy = &move->copy[i];
        CHECK(copy->number > number); /* oldest first */
        number = copy->number;
        CHECK(copy->state == TNMI_COPY_READY || copy->state == TNMI_COPY_OUT);
        CHECK(copy->size > 0 && copy->at + copy->size <= tnmi_move_op(move, copy->op)->bytes);
        CHECK(copy->hop == TNMI_HOP_DIRECT || copy->stage != TNMI_NONE);
        if (copy->stage != TNMI_NONE) {
            CHECK(copy->lead + copy->size + copy->pad <= move->stage_size);
            chunks++;
        }
        if (copy->state != TNMI_COPY_OUT) continue;
        CHECK(copy->ticket != 0);
        flying[copy->tier]++;
        bytes[copy->tier] += copy->size;
    }
    CHECK_EQ(move->used, used);
    for (uint32_t i = move->free_copy; i != TNMI_NONE; i = move->copy[i].next)
        used++;
    CHECK_EQ(used, move->copies);
    if (move->stage_state == TNMI_STAGING_LIVE)
        CHECK_EQ(move->stage_count + chunks, move->stage_bytes / move->stage_size);
    else
        CHECK_EQ(chunks, 0);
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        CHECK_EQ(e->tiers.tier[t].in_flight, flying[t]);
        CHECK_EQ(e->tiers.tier[t].in_flight_bytes, bytes[t]);
        CHECK(flying[t] <= e->tiers.tier[t].desc.queue_depth);
    }
}

static void check_move(const tnmi_engine *e) {
    uint32_t out = 0, queued = 0;
    check_copies(e);
    for (int q = 0; q < TNMI_MOVE_QUEUES; q++) {
        uint64_t step = 0;
        for (uint32_t i = e->move.queue[q].head; i != TNMI_NONE;) {
            const tnmi_op *op = tnmi_move_op(&e->move, i);
            CHECK(op->queued == q && op->step >= step);
            step = op->step;
            i = op->next_op;
            queued++;
        }
    }
    for (uint32_t t = 0; t < e->tiers.count; t++) /* the transfer of every BUSY replica */
        for (uint32_t i = 0; i < e->tensors.on[t].replicas.fresh; i++) {
            const tnmi_replica *r = tnmi_tensor_replica(&e->tensors, t, i);
            if (!tnmi_tensor_is(r->word, TNMI_BUSY)) continue;
            CHECK_EQ(tnmi_move_op(&e->move, r->offset)->replica, i);
            check_op(&e->move, r->offset);
            out += tnmi_move_op(&e->move, r->offset)->out;
        }
    CHECK(out <= e->move.used && queued <= e->move.ops.live);
}

static void work_step(rig *g, const tnm_tensor *t, int tiers) {
    uint32_t which = draw(TENSORS), tier = draw((uint32_t)tiers), what = draw(16);
    tnm_use use = rig_use(t[which], (int)tier, TNM_READ);
    tnm_pinned pinned;
    use.access = draw(3) ? TNM_READ : TNM_WRITE;
    if (what < 6) {
        if (tnm_try_pin(g->ctx, &use, 1, &pinned) == TNM_OK) tnm_unpin(g->ctx, &pinned, 1, 0);
    } else if (what < 9) {
        use.access = TNM_READ;
        use.step = draw(20);
        use.flags = draw(2) ? TNM_SURE : 0;
        tnm_prefetch(g->ctx, 0, &use, 1);
    } else if (what < 10) {
        tnm_cancel(g->ctx, &use.tensor, 1);
    } else if (what < 11) {
        tnm_evict(g->ctx, use.tensor, use.tier);
    } else {
        tnm_pump(g->ctx, draw(4) ? TNM_ALL : draw(20000));
    }
}

static void work(rig *g, int tiers) {
    tnm_tensor t[TENSORS];
    for (uint32_t i = 0; i < TENSORS; i++) {
        t[i] = rig_tensor(g, 512 * (1 + draw(50)), 0);
        rig_write(g, t[i], tiers - 1, i);
    }
    g->sim.busy = 40;
    for (int i = 0; i < 600 && check_bad < 20; i++) {
        work_step(g, t, tiers);
        check_move(&g->ctx->e);
    }
    g->sim.busy = 0;
    rig_rest(g);
    check_move(&g->ctx->e);
    CHECK(g->ctx->e.move.used == 0 && g->ctx->e.move.live_copy == TNMI_NONE);
    for (uint32_t i = 0; i < TENSORS; i++)
        rig_expect(g, t[i], tiers - 1, i);
    rig_end(g);
}

TEST(the_room_at_work) {
    static rig g;
    for (int i = 0; i < check_scale(120, 6) && check_bad == 0; i++) {
        inside_seed = (uint64_t)i + 1;
        rig_start(&g, (uint64_t)i);
        rig_tier(&g, "fast", rig_kinds[i % 6], 64 * KIB);
        if (i % 4 < 2) { /* through staging: hidden devices that do not know each other */
            rig_tier(&g, "mid", SIM_PLAIN, 256 * KIB);
            g.desc.staging_tier = 1;
        }
        rig_tier(&g, "slow", i % 4 < 2 ? SIM_HIDDEN | SIM_ASYNC : SIM_PLAIN, 0);
        if (rig_create(&g)) work(&g, g.desc.tier_count);
        if (check_bad > 0) printf("at work: round %d\n", i);
    }
}

/* ---- what one device cannot take does not stand in another's way ---- */
TEST(a_device_that_is_full_leaves_slots_to_the_others) {
    enum { MANY = 60 };
    static rig g;
    tnm_tensor t[MANY + 1];
    tnm_pinned p;
    tnm_result r = TNM_PENDING;
    rig_start(&g, 1);
    rig_tier(&g, "full", SIM_PLAIN | SIM_ASYNC, rig_room(MANY, 512));
    rig_tier(&g, "mid", SIM_PLAIN | SIM_ASYNC, rig_room(MANY, 512));
    rig_tier(&g, "slow", SIM_PLAIN, 0);
    if (!rig_create(&g)) return;
    rig_make(&g, t, MANY + 1, 512, 2);
    g.sim.device[0].full = 1;
    for (int i = 0; i < MANY; i++) {
        tnm_use use = rig_use(t[i], 0, TNM_READ);
        CHECK(tnm_prefetch(g.ctx, 0, &use, 1) >= 0);
        CHECK_EQ(rig_try(&g, t[i], 0, TNM_READ, &p), TNM_PENDING);
        tnm_pump(g.ctx, TNM_ALL);
    }
    CHECK(g.ctx->e.move.used < g.ctx->e.move.copies / 2);
    for (int i = 0; i < 100 && g.ctx->e.move.queue[TNM_CLASS_DEMAND].head != TNMI_NONE; i++)
        tnm_cancel(g.ctx, &t[i % MANY], 1);
    for (int i = 0; i < 100 && r == TNM_PENDING; i++) {
        r = rig_try(&g, t[MANY], 1, TNM_READ, &p);
        tnm_pump(g.ctx, TNM_ALL);
    }
    CHECK_EQ(r, TNM_OK);
    if (r == TNM_OK) CHECK_EQ(rig_unpin(&g, &p, 0), TNM_OK);
    g.sim.device[0].full = 0;
    rig_rest(&g);
    rig_end(&g);
}

static int slow_stuck;

static tnm_result accept_copy(void *user, const tnm_span *dst, const tnm_span *src, uint64_t size,
                              uint64_t *ticket) {
    (void)user;
    (void)dst;
    (void)src;
    (void)size;
    *ticket = 1;
    return TNM_PENDING;
}

static tnm_result accept_poll(void *user, uint64_t ticket) {
    (void)user;
    CHECK_EQ(ticket, 1);
    return slow_stuck ? TNM_PENDING : TNM_OK;
}

/* Staging stands on a device that takes one copy at a time: chunks wait for it with their slot. */
TEST(some_slots_are_kept_for_demand_and_for_the_way_down) {
    enum { MANY = 40 };
    static rig g;
    tnm_tensor t[MANY];
    tnm_pinned p;
    rig_start(&g, 1);
    rig_tier(&g, "fast", SIM_HIDDEN | SIM_ASYNC, 0);
    rig_tier(&g, "mid", SIM_PLAIN | SIM_ASYNC, 0);
    rig_tier(&g, "slow", SIM_HIDDEN, 0);
    g.tiers[0].spill_to = 2; /* so that the fills do not stop on the way */
    g.tiers[1].queue_depth = 1;
    g.desc.staging_tier = 1;
    g.desc.staging_bytes = 64 * 4096;
    if (!rig_create(&g)) return;
    rig_make(&g, t, MANY, 512, 2);
    const tnmi_move *move = &g.ctx->e.move;
    g.ctx->e.tiers.tier[1].desc.backend.copy = accept_copy;
    g.ctx->e.tiers.tier[1].desc.backend.poll = accept_poll;
    slow_stuck = 1;
    for (int i = 0; i < MANY; i++) {
        tnm_use use = rig_use(t[i], 0, TNM_READ);
        use.flags = TNM_SURE;
        CHECK(tnm_prefetch(g.ctx, 0, &use, 1) >= 0);
        tnm_pump(g.ctx, TNM_ALL);
        check_move(&g.ctx->e);
    }
    CHECK_EQ(move->copies - move->used, 3);
    for (int i = 0; i < MANY; i++) {
        CHECK_EQ(rig_try(&g, t[i], 0, TNM_READ, &p), TNM_PENDING);
        tnm_pump(g.ctx, TNM_ALL);
    }
    CHECK_EQ(move->copies - move->used, 1);
    slow_stuck = 0;
    rig_rest(&g);
    CHECK_EQ(move->used, 0);
    rig_end(&g);
}

int main(void) {
    RUN(a_new_transfer_has_nothing_and_an_old_one_leaves_nothing_behind);
    RUN(a_queue_is_ordered_by_deadline_and_then_by_age);
    RUN(a_request_that_joins_never_lowers);
    RUN(slots_and_staging_are_handed_out_once_and_come_back);
    RUN(staging_is_given_back_when_nothing_is_under_way);
    RUN(staging_is_cut_within_its_bounds);
    RUN(staging_keeps_some_for_demand_and_for_the_way_down);
    RUN(chunks_tile_the_transfer_and_keep_to_the_grain);
    RUN(the_room_at_work);
    RUN(a_device_that_is_full_leaves_slots_to_the_others);
    RUN(some_slots_are_kept_for_demand_and_for_the_way_down);
    return check_done();
}
