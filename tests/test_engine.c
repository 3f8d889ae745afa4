/* The room [engine] from inside: the step function driven by hand. The test plays the door and
 * answers each ask as it likes, so that every row of the table of states and events can be stood
 * on: ABSENT, BUSY (placed, filling, draining), READY; ALONE SOURCE FRESH CLAIM NOTIFY LOST.
 * There is no memory behind the tiers at all: what moves here is knowledge. */
#define TENSORMEM_IMPLEMENTATION
#include "../tensormem.h"
#include "sim.h"
#include "inside.h"

enum { KIB = 1024, ONE = 8 * KIB, CHUNK = 4 * KIB, TENSORS = 8, TICKETS = 4096 };

static struct {
    tnm_result copy, alloc;          /* what a copy and an alloc are answered */
    tnm_result poll[TICKETS];        /* and a ticket, when it is polled */
    uint64_t ticket, mem, passed[2]; /* the last one given */
    int copies, polls, allocs, releases;
    int shut; /* the test is the door: no callback may run */
} hand;

static rig g;
static tnm_ctx *ctx;
static tnmi_engine *e;
static tnm_tensor tensor[TENSORS];
static int made[TENSORS]; /* has been written: its bytes must survive */

/* ---- callbacks: only create and destroy may reach them ---- */
static tnm_result hand_alloc(void *user, uint64_t size, uint64_t align, void *item, uint64_t *mem,
                             void **host) {
    (void)user;
    (void)size;
    (void)align;
    (void)item;
    CHECK(!hand.shut);
    *mem = ++hand.mem;
    *host = NULL;
    return TNM_OK;
}

static void hand_release(void *user, uint64_t mem, uint64_t size) {
    (void)user;
    (void)mem;
    (void)size;
    CHECK(!hand.shut);
}

static tnm_result hand_copy(void *user, const tnm_span *dst, const tnm_span *src, uint64_t size,
                            uint64_t *ticket) {
    (void)user;
    (void)dst;
    (void)src;
    (void)size;
    (void)ticket;
    CHECK(!hand.shut);
    return TNM_OK;
}

static tnm_result hand_poll(void *user, uint64_t ticket) {
    (void)user;
    (void)ticket;
    CHECK(!hand.shut);
    return TNM_OK;
}

static uint64_t hand_passed(void *user, uint32_t queue, uint64_t wait_for) {
    (void)user;
    (void)queue;
    CHECK(!hand.shut);
    return wait_for;
}

static uint64_t room_for(uint64_t n) {
    return rig_room(n, ONE);
}

static void new_tensor(int i, uint32_t advice) {
    tensor[i] = rig_tensor(&g, ONE, advice);
    made[i] = 0;
}

static void open_tiers(uint64_t fast, uint64_t slow, int count) {
    memset(&hand, 0, sizeof hand);
    rig_start(&g, 1);
    g.desc.passed = hand_passed;
    g.desc.chunk_bytes = CHUNK;
    g.desc.staging_bytes = 0;
    for (int t = 0; t < count; t++) {
        tnm_backend *b = &g.tiers[t].backend;
        rig_tier(&g, "tier", SIM_HIDDEN | SIM_ASYNC, t == 0 ? fast : t == 1 ? slow : 0);
        b->alloc = hand_alloc;
        b->release = hand_release;
        b->copy = hand_copy;
        b->poll = hand_poll;
    }
    CHECK_EQ(tnm_create(&g.desc, &g.ctx), TNM_OK);
    ctx = g.ctx;
    e = &ctx->e;
    hand.shut = 1;
    for (int i = 0; i < TENSORS; i++)
        new_tensor(i, 0);
}

static void close_tiers(void) {
    hand.shut = 0;
    CHECK_EQ(tnm_check(ctx), 0);
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
}

/* ---- looking ---- */
static uint32_t slot_of(int i) {
    uint64_t offset;
    uint32_t name = slot_at(&e->tensors, tensor[i]);
    return name == TNMI_NONE ? TNMI_NONE : tnmi_tensor_content(&e->tensors, name, &offset);
}

static tnmi_replica *on(int i, uint32_t tier) {
    return tnmi_tensor_on(&e->tensors, slot_of(i), tier);
}

static uint64_t word(int i, uint32_t tier) {
    const tnmi_replica *replica = on(i, tier);
    return replica ? replica->word : 0;
}

static uint32_t state(int i, uint32_t tier) {
    return (uint32_t)word(i, tier) & TNMI_STATE;
}

static int has(int i, uint32_t tier, uint32_t flag) {
    return (word(i, tier) & flag) != 0;
}

static const tnmi_op *op_of(int i, uint32_t tier) {
    static tnmi_op none;
    CHECK_EQ(state(i, tier), TNMI_BUSY);
    return state(i, tier) == TNMI_BUSY ? tnmi_move_op(&e->move, on(i, tier)->offset) : &none;
}

static uint64_t used(int tier) {
    return rig_stats(&g, tier).used_bytes;
}

/* What holds between any two steps: the tables agree, and nothing that was written has no copy. */
static void sound(void) {
    CHECK_EQ(tnm_check(ctx), 0);
    for (int i = 0; i < TENSORS; i++) {
        int copies = 0;
        if (!made[i] || slot_of(i) == TNMI_NONE) continue;
        for (uint32_t t = 0; t < e->tiers.count; t++)
            copies += state(i, t) == TNMI_READY && !has(i, t, TNMI_LOST);
        CHECK(copies > 0);
    }
    for (uint32_t t = 0; t < e->tiers.count; t++)
        CHECK(e->tiers.tier[t].reserved <= e->tiers.tier[t].budget);
}

/* ---- the door, by hand ---- */
static void begin_round(void) {
    e->allowance = TNM_ALL;
    e->demand_only = e->collect_only = 0;
    tnmi_engine_round(e);
}

/* The next ask that is not about host memory. */
static tnmi_ask take(void) {
    tnmi_ask ask;
    for (;;) {
        tnmi_engine_next(e, &ask);
        if (ask.kind != TNMI_ASK_HOST) return ask;
        ask.got = check_alloc(NULL, (size_t)ask.size);
        memset(ask.got, 0, (size_t)ask.size);
        tnmi_engine_answer(e, &ask);
    }
}

static void reply(tnmi_ask *ask) {
    switch (ask->kind) {
    case TNMI_ASK_ALLOC:
        hand.allocs++;
        ask->result = hand.alloc;
        ask->mem = ++hand.mem;
        break;
    case TNMI_ASK_RELEASE:
        hand.releases++;
        break;
    case TNMI_ASK_COPY:
        CHECK(ask->size >= 1 && ask->size <= CHUNK);
        CHECK(ask->dst.tier >= 0 && ask->src.tier >= 0 && ask->dst.tier != ask->src.tier);
        hand.copies++;
        ask->result = hand.copy;
        if (hand.copy == TNM_PENDING) {
            ask->ticket = ++hand.ticket;
            CHECK(hand.ticket < TICKETS);
            hand.poll[hand.ticket] = TNM_PENDING;
        }
        break;
    case TNMI_ASK_POLL:
        hand.polls++;
        ask->result = hand.poll[ask->ticket];
        break;
    case TNMI_ASK_PASSED:
        ask->value = ask->index < 2 ? hand.passed[ask->index] : 0;
        break;
    case TNMI_ASK_HOST:
    case TNMI_ASK_SUBMIT:
    case TNMI_ASK_WAIT:
    case TNMI_ASK_RELEASED:
    case TNMI_ASK_ZERO:
    case TNMI_ASK_BREATH:
    case TNMI_ASK_IDLE:
    case TNMI_ASK_DONE:
        break;
    }
    tnmi_engine_answer(e, ask);
}

/* All asks of one round, answered as `hand` says. */
static void turn(void) {
    tnmi_ask ask;
    int count = 0;
    begin_round();
    while ((ask = take()).kind != TNMI_ASK_DONE && count++ < 500)
        reply(&ask);
    CHECK(count < 500);
    sound();
}

static void turns(int count) {
    while (count-- > 0)
        turn();
}

/* everything that is out ends so */
static void end_all(tnm_result result) {
    for (uint64_t k = 1; k <= hand.ticket; k++)
        hand.poll[k] = result;
}

static tnm_use use_of(int i, int tier, tnm_access access) {
    return rig_use(tensor[i], tier, access);
}

static tnm_result try_pin(int i, int tier, tnm_access access, tnm_pinned *p) {
    tnm_use use = use_of(i, tier, access);
    tnm_result r = tnm_try_pin(ctx, &use, 1, p);
    if (r == TNM_OK && access != TNM_READ) made[i] = 1;
    return r;
}

static void unpin(tnm_pinned *p) {
    CHECK_EQ(tnm_unpin(ctx, p, 1, 0), TNM_OK);
}

/* Ask and turn until it is answered; copies end at once. */
static tnm_result pin(int i, int tier, tnm_access access, tnm_pinned *p) {
    tnm_result r, copy = hand.copy;
    hand.copy = TNM_OK;
    for (int n = 0; (r = try_pin(i, tier, access, p)) == TNM_PENDING && n < 60; n++)
        turn();
    hand.copy = copy;
    return r;
}

static void make(int i, int tier) { /* written there and nowhere else */
    tnm_pinned p;
    CHECK_EQ(pin(i, tier, TNM_DISCARD, &p), TNM_OK);
    unpin(&p);
}

static void fetch(int i, int tier) { /* current there as well */
    tnm_pinned p;
    CHECK_EQ(pin(i, tier, TNM_READ, &p), TNM_OK);
    unpin(&p);
}

static void guess(int i, int tier, uint32_t flags) {
    tnm_use use = use_of(i, tier, TNM_READ);
    use.flags = flags;
    CHECK_EQ(tnm_prefetch(ctx, 0, &use, 1), TNM_OK);
}

/* Both tiers have their segment, nothing is in them. */
static void open_ready(uint64_t fast) {
    open_tiers(room_for(fast), 0, 2);
    make(0, 0);
    make(1, 1);
    CHECK_EQ(tnm_tensor_destroy(ctx, tensor[0]), TNM_OK);
    CHECK_EQ(tnm_tensor_destroy(ctx, tensor[1]), TNM_OK);
    new_tensor(0, 0);
    new_tensor(1, 0);
    CHECK(used(0) == 0 && used(1) == 0);
    hand.copies = 0;
}

/* ---- what an ask depends on is marked before the lock opens ---- */
TEST(an_ask_is_asked_once) {
    tnm_pinned p;
    open_tiers(room_for(4), 0, 2);
    CHECK_EQ(try_pin(0, 0, TNM_DISCARD, &p), TNM_PENDING);
    begin_round();
    tnmi_ask alloc = take();
    CHECK(alloc.kind == TNMI_ASK_ALLOC && alloc.size == room_for(4));
    CHECK_EQ(e->tiers.tier[0].reserved, alloc.size); /* charged before it is asked for */
    tnmi_ask other = take();                         /* another thread comes by */
    CHECK(other.kind == TNMI_ASK_DONE);
    CHECK_EQ(try_pin(0, 0, TNM_DISCARD, &p), TNM_PENDING);
    reply(&alloc);
    turn();
    CHECK_EQ(try_pin(0, 0, TNM_DISCARD, &p), TNM_OK);
    unpin(&p);
    CHECK_EQ(hand.allocs, 1);
    make(1, 1);
    hand.copy = TNM_PENDING;
    CHECK_EQ(try_pin(1, 0, TNM_READ, &p), TNM_PENDING);
    turn();
    CHECK(hand.ticket == 2 && hand.polls == 0); /* not before the next round */
    begin_round();
    tnmi_ask one = take(), two = take();
    CHECK(one.kind == TNMI_ASK_POLL && two.kind == TNMI_ASK_POLL && one.ticket != two.ticket);
    CHECK(take().kind == TNMI_ASK_DONE); /* each by one thread at a time */
    one.result = TNM_OK;
    two.result = TNM_PENDING;
    tnmi_engine_answer(e, &two);
    tnmi_engine_answer(e, &one);
    begin_round();
    tnmi_ask again = take();
    CHECK(again.kind == TNMI_ASK_POLL && again.ticket == two.ticket); /* one is never asked again */
    again.result = TNM_OK;
    tnmi_engine_answer(e, &again);
    CHECK_EQ(try_pin(1, 0, TNM_READ, &p), TNM_OK);
    unpin(&p);
    close_tiers();
}

TEST(a_refused_alloc_is_refunded) {
    tnm_pinned p;
    open_tiers(room_for(4), 0, 2);
    hand.alloc = TNM_ERR_MEMORY;
    tnm_result r = TNM_PENDING;
    for (int n = 0; n < 40 && r == TNM_PENDING; n++) {
        r = try_pin(0, 0, TNM_DISCARD, &p);
        turn();
    }
    CHECK_EQ(r, TNM_ERR_BACKEND);
    CHECK(hand.allocs > 1); /* half as much was asked for before giving up */
    CHECK_EQ(e->tiers.tier[0].reserved, 0);
    hand.alloc = TNM_OK;
    turns(4);
    CHECK_EQ(pin(0, 0, TNM_DISCARD, &p), TNM_OK);
    unpin(&p);
    close_tiers();
}

/* ---- READ pins ---- */
TEST(read_of_what_is_absent) {
    tnm_pinned p;
    open_ready(4);
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_ERR_EMPTY);
    CHECK_EQ(state(0, 0), TNMI_ABSENT);
    make(0, 1);
    CHECK(has(0, 1, TNMI_ALONE));
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_PENDING);
    CHECK(op_of(0, 0)->state == TNMI_OP_PLACED && op_of(0, 0)->class_ == TNM_CLASS_DEMAND);
    CHECK(!has(0, 1, TNMI_ALONE) && !has(0, 1, TNMI_SOURCE));
    CHECK_EQ(used(0), room_for(1));
    hand.copy = TNM_PENDING;
    turn(); /* both chunks are issued */
    CHECK(op_of(0, 0)->state == TNMI_OP_FILLING && hand.copies == 2);
    CHECK(has(0, 1, TNMI_SOURCE));
    hand.poll[1] = TNM_OK;
    turn();
    CHECK(state(0, 0) == TNMI_BUSY && has(0, 1, TNMI_SOURCE)); /* not before the last one */
    hand.poll[2] = TNM_OK;
    turn();
    CHECK(state(0, 0) == TNMI_READY && !has(0, 1, TNMI_SOURCE));
    CHECK(!has(0, 0, TNMI_ALONE) && !has(0, 1, TNMI_ALONE) && !has(0, 0, TNMI_FRESH));
    CHECK(has(0, 0, TNMI_CLAIM)); /* it is kept for the one who asked */
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_OK);
    CHECK(!has(0, 0, TNMI_CLAIM) && tnmi_tensor_pins(word(0, 0)) == 1);
    unpin(&p);
    close_tiers();
}

TEST(read_joins_a_guess_and_raises_it) {
    tnm_pinned p;
    for (int filling = 0; filling < 2; filling++) {
        open_ready(4);
        make(0, 1);
        hand.copy = filling ? TNM_PENDING : TNM_ERR_BUSY;
        guess(0, 0, 0);
        turn();
        CHECK_EQ(op_of(0, 0)->class_, TNM_CLASS_GUESS);
        CHECK_EQ(op_of(0, 0)->state, TNMI_OP_FILLING); /* asked, if only to be told BUSY */
        uint32_t op = on(0, 0)->offset, ops = e->move.ops.live;
        CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_PENDING);
        CHECK(on(0, 0)->offset == op && e->move.ops.live == ops); /* the same transfer */
        CHECK(op_of(0, 0)->class_ == TNM_CLASS_DEMAND && op_of(0, 0)->claims == 1);
        CHECK_EQ(tnm_cancel(ctx, &tensor[1], 1), TNM_OK); /* another's */
        guess(0, 0, 0);                                   /* a later guess lowers nothing */
        turn();
        CHECK_EQ(op_of(0, 0)->class_, TNM_CLASS_DEMAND);
        hand.copy = TNM_OK;
        end_all(TNM_OK);
        turns(2);
        CHECK(state(0, 0) == TNMI_READY && !has(0, 0, TNMI_FRESH)); /* a prefetch no more */
        CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_OK);
        unpin(&p);
        close_tiers();
    }
}

TEST(a_guess_is_fresh_until_it_is_used) {
    tnm_pinned p;
    open_ready(4);
    make(0, 1);
    guess(0, 0, 0);
    turns(2);
    CHECK(state(0, 0) == TNMI_READY && has(0, 0, TNMI_FRESH));
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_OK);
    CHECK(!has(0, 0, TNMI_FRESH));
    unpin(&p);
    uint64_t before = word(0, 0) >> 32 & 0xffff;
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_OK); /* a hit is counted in the word */
    CHECK_EQ((word(0, 0) >> 32 & 0xffff) - before, 1);
    unpin(&p);
    close_tiers();
}

/* ---- WRITE and DISCARD pins ---- */
TEST(write_drops_the_others_at_the_grant) {
    tnm_pinned p, q;
    open_ready(4);
    make(0, 1);
    fetch(0, 0);
    CHECK(state(0, 0) == TNMI_READY && state(0, 1) == TNMI_READY);
    CHECK_EQ(try_pin(0, 1, TNM_READ, &q), TNM_OK);
    CHECK_EQ(try_pin(0, 0, TNM_WRITE, &p), TNM_ERR_BUSY); /* a live pin elsewhere */
    CHECK(state(0, 0) == TNMI_READY && state(0, 1) == TNMI_READY && !has(0, 0, TNMI_CLAIM));
    unpin(&q);
    CHECK_EQ(try_pin(0, 0, TNM_WRITE, &p), TNM_OK);
    CHECK(state(0, 1) == TNMI_ABSENT && has(0, 0, TNMI_ALONE));
    CHECK_EQ(tnmi_tensor_writers(word(0, 0)), 1);
    CHECK_EQ(try_pin(0, 1, TNM_READ, &q), TNM_ERR_BUSY); /* and the other way round */
    unpin(&p);
    CHECK_EQ(tnmi_tensor_writers(word(0, 0)), 0);
    CHECK_EQ(try_pin(0, 0, TNM_WRITE, &p), TNM_OK); /* ALONE: a hit now */
    unpin(&p);
    close_tiers();
}

TEST(write_waits_for_a_copy_that_reads) {
    tnm_pinned p;
    open_ready(4);
    make(0, 1);
    make(1, 1);
    make(0, 0);
    hand.copy = TNM_PENDING;
    CHECK_EQ(tnm_flush(ctx, tensor[0], 1), TNM_PENDING);
    turn();
    CHECK(has(0, 0, TNMI_SOURCE) && state(0, 1) == TNMI_BUSY);
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_OK); /* readers are not in its way */
    unpin(&p);
    CHECK_EQ(try_pin(0, 0, TNM_WRITE, &p), TNM_PENDING); /* the bytes under way are stale soon */
    turn();
    CHECK_EQ(op_of(0, 1)->state, TNMI_OP_DRAINING);
    CHECK_EQ(try_pin(0, 0, TNM_WRITE, &p), TNM_PENDING);
    hand.poll[hand.ticket] = TNM_OK;
    turn();
    CHECK_EQ(try_pin(0, 0, TNM_WRITE, &p), TNM_PENDING); /* one of its chunks is out still */
    end_all(TNM_OK);
    turn();
    CHECK(state(0, 1) == TNMI_ABSENT && !has(0, 0, TNMI_SOURCE));
    CHECK_EQ(try_pin(0, 0, TNM_WRITE, &p), TNM_OK);
    turn();
    CHECK_EQ(tnm_flush(ctx, tensor[0], 1), TNM_ERR_BUSY); /* no copy starts beside a writer */
    unpin(&p);
    close_tiers();
}

TEST(write_does_not_take_back_what_another_waits_for) {
    tnm_pinned p, q;
    open_ready(4);
    make(0, 1);
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_PENDING);
    CHECK_EQ(try_pin(0, 1, TNM_WRITE, &q), TNM_PENDING);
    CHECK(op_of(0, 0)->claims == 1 && op_of(0, 0)->state == TNMI_OP_PLACED);
    turns(2);
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_OK);
    unpin(&p);
    CHECK_EQ(try_pin(0, 1, TNM_WRITE, &q), TNM_OK);
    CHECK_EQ(state(0, 0), TNMI_ABSENT);
    unpin(&q);
    close_tiers();
}

TEST(discard_fetches_nothing_and_keeps_the_old_until_it_has_a_place) {
    tnm_pinned p;
    open_ready(1);
    make(0, 1);
    make(1, 0); /* the fast tier is full, and dirty */
    hand.copies = 0;
    hand.copy = TNM_PENDING;
    CHECK_EQ(try_pin(0, 0, TNM_DISCARD, &p), TNM_PENDING);
    CHECK_EQ(state(0, 1), TNMI_READY);
    turn();
    CHECK(hand.copies == 2 && op_of(1, 1)->kind == TNMI_OP_FILL); /* the victim goes down */
    CHECK(state(0, 1) == TNMI_READY && state(1, 0) == TNMI_READY);
    end_all(TNM_OK);
    turn();
    CHECK_EQ(state(1, 0), TNMI_ABSENT);
    CHECK_EQ(try_pin(0, 0, TNM_DISCARD, &p), TNM_OK);
    CHECK(state(0, 0) == TNMI_READY && has(0, 0, TNMI_ALONE) && state(0, 1) == TNMI_ABSENT);
    CHECK_EQ(hand.copies, 2); /* none of them for it */
    unpin(&p);
    close_tiers();
}

/* ---- failures ---- */
TEST(a_failed_copy_drains_before_its_place_is_freed) {
    tnm_pinned p;
    open_ready(4);
    make(0, 1);
    hand.copy = TNM_PENDING;
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_PENDING);
    turn();
    CHECK_EQ(hand.ticket, 2);
    hand.poll[1] = TNM_ERR_BACKEND;
    turn();
    CHECK_EQ(op_of(0, 0)->state, TNMI_OP_DRAINING);
    CHECK_EQ(used(0), room_for(1)); /* the device may still write there */
    CHECK(has(0, 1, TNMI_SOURCE));
    turns(3);
    CHECK_EQ(used(0), room_for(1));
    CHECK_EQ(hand.ticket, 2); /* and no further chunk is issued */
    hand.poll[2] = TNM_OK;
    turn();
    CHECK(state(0, 0) == TNMI_ABSENT && used(0) == 0 && !has(0, 1, TNMI_SOURCE));
    CHECK(state(0, 1) == TNMI_READY && has(0, 1, TNMI_ALONE));
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_ERR_BACKEND); /* told once */
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_PENDING);     /* then anew */
    hand.copy = TNM_OK;
    turn();
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_OK);
    unpin(&p);
    close_tiers();
}

TEST(a_copy_refused_at_once_leaves_at_once) {
    tnm_pinned p;
    open_ready(4);
    make(0, 1);
    hand.copy = TNM_ERR_BACKEND;
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_PENDING);
    turn();
    CHECK(state(0, 0) == TNMI_ABSENT && used(0) == 0);
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_ERR_BACKEND);
    hand.copy = TNM_ERR_BUSY; /* a full queue is no failure */
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_PENDING);
    turns(3);
    CHECK_EQ(state(0, 0), TNMI_BUSY);
    hand.copy = TNM_ERR_UNSUPPORTED; /* nobody's route, and there is no staging here */
    tnm_result r = TNM_PENDING;
    for (int n = 0; n < 20 && r == TNM_PENDING; n++) {
        turn();
        r = try_pin(0, 0, TNM_READ, &p);
    }
    CHECK_EQ(r, TNM_ERR_UNSUPPORTED);
    hand.copy = TNM_OK;
    close_tiers();
}

TEST(a_pin_meets_a_draining_transfer) {
    tnm_pinned p;
    open_ready(4);
    make(0, 1);
    hand.copy = TNM_PENDING;
    guess(0, 0, 0);
    turn();
    CHECK_EQ(tnm_cancel(ctx, &tensor[0], 1), TNM_OK);
    CHECK_EQ(op_of(0, 0)->state, TNMI_OP_DRAINING);
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_PENDING);
    turn();
    CHECK_EQ(op_of(0, 0)->state, TNMI_OP_DRAINING);
    hand.copy = TNM_OK;
    end_all(TNM_OK);
    turns(2); /* drained, then filled again for the pin */
    CHECK_EQ(state(0, 0), TNMI_READY);
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_OK);
    unpin(&p);
    close_tiers();
}

TEST(cancel) {
    tnm_pinned p;
    open_ready(4);
    make(0, 1);
    make(1, 1);
    guess(0, 0, 0);
    begin_round();
    tnmi_ask ask = take();
    CHECK_EQ(ask.kind, TNMI_ASK_COPY);
    CHECK_EQ(tnm_cancel(ctx, &tensor[0], 1), TNM_OK); /* while it is being handed over */
    ask.result = TNM_PENDING;
    ask.ticket = ++hand.ticket;
    hand.poll[hand.ticket] = TNM_PENDING;
    tnmi_engine_answer(e, &ask);
    sound();
    CHECK_EQ(op_of(0, 0)->state, TNMI_OP_DRAINING);
    end_all(TNM_OK);
    turn();
    CHECK(state(0, 0) == TNMI_ABSENT && used(0) == 0);
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_PENDING); /* placed */
    CHECK_EQ(op_of(0, 0)->state, TNMI_OP_PLACED);
    CHECK_EQ(tnm_cancel(ctx, &tensor[0], 1), TNM_OK); /* takes back unanswered try_pins */
    CHECK(state(0, 0) == TNMI_ABSENT && used(0) == 0 && e->requests.live == 0);
    guess(0, 0, 0);
    hand.copy = TNM_PENDING;
    turn();
    tnm_use set[2] = { use_of(0, 0, TNM_READ), use_of(1, 0, TNM_READ) };
    uint32_t request;
    CHECK_EQ(tnmi_engine_new_request(e, set, 2, 1, &request), TNM_OK); /* a call that waits */
    tnm_pinned two[2];
    CHECK_EQ(tnmi_engine_ask_request(e, request, set, 2, two), TNM_PENDING);
    CHECK_EQ(tnm_cancel(ctx, tensor, 2), TNM_OK); /* void: it is waited for */
    CHECK(op_of(0, 0)->state == TNMI_OP_FILLING && op_of(1, 0)->claims == 1);
    end_all(TNM_OK);
    hand.copy = TNM_OK;
    turns(2);
    CHECK_EQ(tnmi_engine_ask_request(e, request, set, 2, two), TNM_OK);
    CHECK_EQ(tnm_unpin(ctx, two, 2, 0), TNM_OK);
    close_tiers();
}

/* ---- admission ---- */
TEST(a_set_is_admitted_whole_or_holds_nothing) {
    tnm_pinned p[3], held;
    open_ready(3);
    for (int i = 0; i < 4; i++)
        make(i, 1);
    fetch(3, 0);
    CHECK_EQ(try_pin(3, 0, TNM_READ, &held), TNM_OK);
    tnm_use set[3] = { use_of(0, 0, TNM_READ), use_of(1, 0, TNM_READ), use_of(2, 0, TNM_READ) };
    uint64_t before = used(0);
    CHECK_EQ(tnm_try_pin(ctx, set, 3, p), TNM_ERR_BUDGET); /* two would fit beside the pin */
    for (int i = 0; i < 3; i++)
        CHECK_EQ(state(i, 0), TNMI_ABSENT);
    CHECK(used(0) == before && e->requests.live == 0 && e->members.live == 0);
    CHECK_EQ(e->move.ops.live, 0);
    CHECK_EQ(tnm_try_pin(ctx, set, 2, p), TNM_PENDING);
    CHECK(op_of(0, 0)->claims == 1 && op_of(1, 0)->claims == 1); /* both in one step */
    unpin(&held);
    CHECK_EQ(try_pin(2, 0, TNM_READ, p), TNM_PENDING); /* what is claimed is nobody's victim */
    turns(2);
    CHECK(state(0, 0) == TNMI_READY && state(1, 0) == TNMI_READY);
    CHECK_EQ(tnm_try_pin(ctx, set, 2, p), TNM_OK);
    CHECK_EQ(tnm_unpin(ctx, p, 2, 0), TNM_OK);
    close_tiers();
}

TEST(an_empty_member_refuses_the_whole_set) {
    tnm_pinned p[2];
    open_ready(3);
    make(0, 1);
    tnm_use set[2] = { use_of(0, 0, TNM_READ), use_of(1, 0, TNM_READ) };
    CHECK_EQ(tnm_try_pin(ctx, set, 2, p), TNM_ERR_EMPTY);
    CHECK(state(0, 0) == TNMI_ABSENT && e->move.ops.live == 0 && e->requests.live == 0);
    set[1] = use_of(0, 1, TNM_WRITE); /* one content on two tiers, one of them written */
    CHECK_EQ(tnm_try_pin(ctx, set, 2, p), TNM_ERR_ARGUMENT);
    CHECK(e->requests.live == 0 && e->members.live == 0);
    set[1] = use_of(0, 0, TNM_READ); /* twice the same is one place with two pins */
    CHECK_EQ(tnm_try_pin(ctx, set, 2, p), TNM_PENDING);
    turns(2);
    CHECK_EQ(tnm_try_pin(ctx, set, 2, p), TNM_OK);
    CHECK_EQ(tnmi_tensor_pins(word(0, 0)), 2);
    CHECK_EQ(tnm_unpin(ctx, p, 2, 0), TNM_OK);
    close_tiers();
}

TEST(the_oldest_waiting_call_goes_first) {
    tnm_pinned p[2], held;
    uint32_t older, younger;
    open_ready(2);
    for (int i = 0; i < 4; i++)
        make(i, 1);
    fetch(3, 0);
    CHECK_EQ(try_pin(3, 0, TNM_READ, &held), TNM_OK);
    CHECK_EQ(tnm_unpin(ctx, &held, 1, TNM_FENCE(0, 7)), TNM_OK); /* half the tier, for now */
    tnm_use both[2] = { use_of(0, 0, TNM_READ), use_of(1, 0, TNM_READ) };
    tnm_use one = use_of(2, 0, TNM_READ), here = use_of(3, 0, TNM_READ);
    CHECK_EQ(tnmi_engine_new_request(e, both, 2, 1, &older), TNM_OK);
    CHECK_EQ(tnmi_engine_ask_request(e, older, both, 2, p), TNM_PENDING);
    CHECK_EQ(tnmi_engine_new_request(e, &one, 1, 1, &younger), TNM_OK);
    CHECK_EQ(tnmi_engine_ask_request(e, younger, &one, 1, p), TNM_PENDING); /* though it fits */
    turns(3);
    CHECK_EQ(state(2, 0), TNMI_ABSENT);
    CHECK_EQ(tnm_try_pin(ctx, &here, 1, &held), TNM_OK); /* younger ones may take hits */
    unpin(&held);
    hand.passed[0] = 7;
    turns(4);
    CHECK_EQ(tnmi_engine_ask_request(e, older, both, 2, p), TNM_OK);
    CHECK_EQ(tnm_unpin(ctx, p, 2, 0), TNM_OK);
    turns(4);
    CHECK_EQ(tnmi_engine_ask_request(e, younger, &one, 1, p), TNM_OK);
    CHECK_EQ(tnm_unpin(ctx, p, 1, 0), TNM_OK);
    close_tiers();
}

TEST(a_claim_lapses_after_64_ticks) {
    tnm_pinned p;
    int ticks = 0;
    open_ready(1);
    make(0, 1);
    make(1, 1);
    hand.copy = TNM_PENDING;
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_PENDING);
    for (int n = 0; n < 200; n++)
        turn(); /* it never lapses while it is on its way */
    CHECK_EQ(op_of(0, 0)->claims, 1);
    end_all(TNM_OK);
    turn();
    CHECK(has(0, 0, TNMI_CLAIM));
    CHECK_EQ(tnm_evict(ctx, tensor[0], 0), TNM_PENDING); /* kept for the one who asked */
    while (has(0, 0, TNMI_CLAIM) && ticks < 200) {
        turn();
        ticks++;
    }
    CHECK(ticks >= 63 && ticks <= 65);
    CHECK_EQ(e->requests.live, 0);
    CHECK_EQ(tnm_evict(ctx, tensor[0], 0), TNM_OK);
    close_tiers();
}

/* ---- victims ---- */
TEST(a_dirty_victim_stays_until_its_bytes_are_below) {
    tnm_pinned p, q;
    open_ready(2);
    make(0, 1);
    make(1, 0);
    make(2, 0);
    hand.copy = TNM_PENDING;
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_PENDING);
    CHECK_EQ(op_of(0, 0)->state, TNMI_OP_ROOM);
    turn();
    CHECK(state(1, 0) == TNMI_READY && has(1, 0, TNMI_SOURCE) && state(1, 1) == TNMI_BUSY);
    CHECK_EQ(state(2, 0), TNMI_READY); /* the oldest is enough */
    CHECK(!has(2, 0, TNMI_SOURCE));
    CHECK_EQ(try_pin(1, 0, TNM_READ, &q), TNM_OK); /* it is an ordinary hit until it is gone */
    end_all(TNM_OK);
    turn();
    CHECK_EQ(state(1, 0), TNMI_READY); /* pinned: it stays, */
    CHECK_EQ(state(1, 1), TNMI_READY); /* and is clean now */
    end_all(TNM_OK);
    turns(2);
    CHECK(state(2, 0) == TNMI_ABSENT && state(2, 1) == TNMI_READY); /* another one instead */
    unpin(&q);
    end_all(TNM_OK);
    turns(3);
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_OK);
    unpin(&p);
    close_tiers();
}

/* Two victims side by side make one window; a pin that comes to the second at the last moment (as
 * another thread's may) leaves the first where it was. */
TEST(victims_are_claimed_in_one_step_or_not_at_all) {
    tnm_pinned p;
    open_ready(2);
    CHECK_EQ(tnm_tensor_destroy(ctx, tensor[0]), TNM_OK);
    tensor[0] = rig_tensor(&g, ONE + KIB, 0); /* needs both places */
    make(0, 1);
    make(1, 0);
    make(2, 0);
    hand.copy = TNM_PENDING;
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_PENDING);
    turn();
    CHECK(has(1, 0, TNMI_SOURCE) && has(2, 0, TNMI_SOURCE));
    hand.poll[hand.ticket] = hand.poll[hand.ticket - 1] = TNM_OK;
    turn();
    CHECK(state(1, 0) == TNMI_READY && state(2, 0) == TNMI_READY); /* both wait for the slower */
    CHECK(hit(on(2, 0), TNM_READ));
    end_all(TNM_OK);
    turns(3);
    CHECK(state(1, 0) == TNMI_READY && state(2, 0) == TNMI_READY);
    CHECK(state(1, 1) == TNMI_READY && state(2, 1) == TNMI_READY);
    CHECK(state(0, 0) == TNMI_ABSENT || op_of(0, 0)->state == TNMI_OP_ROOM);
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_ERR_BUDGET); /* a live pin forbids it now */
    tnmi_tensor_unpin(on(2, 0), TNM_READ);
    e->changed++;
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_PENDING);
    turn(); /* clean: both leave in the same step, and it has its place */
    CHECK(state(1, 0) == TNMI_ABSENT && state(2, 0) == TNMI_ABSENT);
    CHECK_EQ(op_of(0, 0)->state, TNMI_OP_FILLING);
    end_all(TNM_OK);
    turns(3);
    end_all(TNM_OK);
    turns(3);
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_OK);
    unpin(&p);
    close_tiers();
}

TEST(a_failed_write_back_leaves_the_victim_and_makes_the_tier_sick) {
    tnm_pinned p;
    open_ready(1);
    make(0, 1);
    make(1, 0);
    hand.copy = TNM_PENDING;
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_PENDING);
    turn();
    end_all(TNM_ERR_BACKEND);
    begin_round();
    for (int k = 0; k < 2; k++) {
        tnmi_ask ask = take();
        CHECK_EQ(ask.kind, TNMI_ASK_POLL);
        reply(&ask);
    }
    CHECK(state(1, 0) == TNMI_READY && state(1, 1) == TNMI_ABSENT && !has(1, 0, TNMI_SOURCE));
    CHECK(tnmi_tier_is_off(&e->tiers.tier[0].sick, e->tick));
    CHECK_EQ(take().kind, TNMI_ASK_DONE); /* planned anew: nothing clean could leave instead */
    sound();
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_ERR_BACKEND);
    hand.copy = TNM_OK;
    turns(3); /* the back-off ends */
    CHECK_EQ(pin(0, 0, TNM_READ, &p), TNM_OK);
    unpin(&p);
    close_tiers();
}

TEST(a_droppable_victim_becomes_empty) {
    tnm_pinned p;
    open_ready(1);
    make(0, 1);
    CHECK_EQ(tnm_advise(ctx, tensor[1], TNM_DROPPABLE), TNM_OK);
    make(1, 0);
    made[1] = 0;
    hand.copies = 0;
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_PENDING);
    turns(2);
    CHECK(state(1, 0) == TNMI_ABSENT && state(1, 1) == TNMI_ABSENT && hand.copies == 2);
    CHECK_EQ(try_pin(1, 0, TNM_READ, &p), TNM_ERR_EMPTY);
    close_tiers();
}

TEST(exchanges_without_spare_room_are_refused) {
    tnm_pinned p;
    open_tiers(room_for(1), room_for(1), 2); /* both full of dirty bytes, nothing below */
    make(0, 0);
    make(1, 1);
    CHECK_EQ(try_pin(1, 0, TNM_READ, &p), TNM_ERR_BUDGET);
    CHECK(state(0, 0) == TNMI_READY && state(1, 1) == TNMI_READY && e->move.ops.live == 0);
    close_tiers();
}

TEST(a_cascade_is_planned_whole) {
    tnm_pinned p;
    open_tiers(room_for(1), room_for(1), 3);
    make(2, 2);
    make(0, 0);
    make(1, 1);
    hand.copy = TNM_PENDING;
    CHECK_EQ(try_pin(2, 0, TNM_READ, &p), TNM_PENDING); /* 0 must go to 1, so 1 must go to 2 */
    CHECK(state(0, 1) == TNMI_BUSY && state(1, 2) == TNMI_BUSY && state(2, 0) == TNMI_BUSY);
    for (int n = 0; n < 12; n++) {
        turn();
        end_all(TNM_OK);
    }
    CHECK_EQ(state(0, 0), TNMI_ABSENT);
    CHECK(state(0, 1) == TNMI_READY && state(1, 2) == TNMI_READY && state(1, 1) == TNMI_ABSENT);
    CHECK_EQ(try_pin(2, 0, TNM_READ, &p), TNM_OK);
    unpin(&p);
    close_tiers();
}

/* ---- fences, destruction, loss ---- */
TEST(a_fence_holds_the_pin) {
    tnm_pinned p, q;
    open_ready(1);
    make(0, 1);
    make(1, 1);
    fetch(0, 0);
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_OK);
    CHECK_EQ(try_pin(0, 0, TNM_READ, &q), TNM_OK);
    CHECK_EQ(tnm_unpin(ctx, &p, 1, TNM_FENCE(0, 5)), TNM_OK);
    CHECK_EQ(tnm_unpin(ctx, &q, 1, TNM_FENCE(1, 3)), TNM_OK);
    CHECK_EQ(tnmi_tensor_pins(word(0, 0)), 2);
    CHECK_EQ(try_pin(1, 0, TNM_READ, &p), TNM_PENDING); /* it ends without the caller */
    hand.passed[0] = 4;
    hand.passed[1] = 3;
    turn();
    CHECK_EQ(tnmi_tensor_pins(word(0, 0)), 1); /* one queue of two */
    CHECK_EQ(tnm_evict(ctx, tensor[0], 0), TNM_PENDING);
    hand.passed[0] = 5;
    turns(3);
    CHECK_EQ(state(0, 0), TNMI_ABSENT);
    CHECK_EQ(try_pin(1, 0, TNM_READ, &p), TNM_OK);
    CHECK_EQ(e->fence_count, 0);
    unpin(&p);
    close_tiers();
}

TEST(a_dead_queue_loses_what_it_was_writing) {
    tnm_pinned p, q;
    open_ready(2);
    make(0, 0);
    make(1, 0);
    CHECK_EQ(try_pin(0, 0, TNM_WRITE, &p), TNM_OK);
    CHECK_EQ(try_pin(1, 0, TNM_READ, &q), TNM_OK);
    CHECK_EQ(tnm_unpin(ctx, &p, 1, TNM_FENCE(0, 5)), TNM_OK);
    CHECK_EQ(tnm_unpin(ctx, &q, 1, TNM_FENCE(0, 6)), TNM_OK);
    made[0] = 0;
    hand.passed[0] = UINT64_MAX;
    turn();
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_ERR_LOST);
    CHECK_EQ(try_pin(1, 0, TNM_READ, &p), TNM_OK); /* it only read this one */
    unpin(&p);
    CHECK_EQ(pin(0, 0, TNM_DISCARD, &p), TNM_OK); /* the way out */
    unpin(&p);
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_OK);
    unpin(&p);
    close_tiers();
}

TEST(destroyed_in_every_state) {
    tnm_pinned p;
    open_ready(4);
    for (int i = 0; i < 4; i++)
        make(i, 1);
    uint32_t names = e->tensors.names.live;
    CHECK_EQ(try_pin(0, 0, TNM_READ, &p), TNM_PENDING); /* placed */
    CHECK_EQ(tnm_tensor_destroy(ctx, tensor[0]), TNM_OK);
    CHECK(used(0) == 0 && e->tensors.names.live == names - 1 && e->requests.live == 0);
    hand.copy = TNM_PENDING;
    CHECK_EQ(try_pin(1, 0, TNM_READ, &p), TNM_PENDING); /* filling */
    turn();
    CHECK_EQ(tnm_tensor_destroy(ctx, tensor[1]), TNM_OK);
    CHECK_EQ(try_pin(1, 0, TNM_READ, &p), TNM_ERR_STALE);
    CHECK_EQ(used(0), room_for(1)); /* not before its copies have come home */
    turns(2);
    CHECK_EQ(used(0), room_for(1));
    end_all(TNM_OK);
    turn();
    CHECK(used(0) == 0 && e->tensors.names.live == names - 2);
    CHECK_EQ(try_pin(2, 1, TNM_READ, &p), TNM_OK); /* pinned */
    uint64_t before = used(1);
    CHECK_EQ(tnm_tensor_destroy(ctx, tensor[2]), TNM_OK);
    turns(2);
    CHECK_EQ(used(1), before);
    CHECK_EQ(e->tensors.names.live, names - 2);
    unpin(&p); /* a pin survives its handle, and the last one lets go */
    CHECK(used(1) == before - room_for(1) && e->tensors.names.live == names - 3);
    CHECK_EQ(tnm_tensor_destroy(ctx, tensor[3]), TNM_OK); /* READY */
    CHECK_EQ(e->tensors.names.live, names - 4);
    for (int i = 0; i < 4; i++)
        CHECK_EQ(tnm_tensor_destroy(ctx, tensor[i]), TNM_ERR_STALE);
    close_tiers();
}

TEST(a_lost_backend) {
    tnm_pinned p, held;
    open_ready(4);
    for (int i = 0; i < 4; i++)
        make(i, 1);
    fetch(0, 0);                                      /* elsewhere as well */
    make(1, 0);                                       /* nowhere else */
    CHECK_EQ(try_pin(1, 0, TNM_READ, &held), TNM_OK); /* and pinned */
    hand.copy = TNM_PENDING;
    CHECK_EQ(try_pin(2, 0, TNM_READ, &p), TNM_PENDING);
    turn();
    made[1] = 0;
    end_all(TNM_ERR_LOST);
    begin_round();
    tnmi_ask ask = take();
    CHECK_EQ(ask.kind, TNMI_ASK_POLL);
    reply(&ask);
    sound();
    CHECK_EQ(state(0, 0), TNMI_ABSENT); /* lives on below */
    CHECK_EQ(state(2, 0), TNMI_ABSENT); /* its other ticket counts as answered */
    CHECK(has(1, 0, TNMI_LOST));        /* pinned: must still be undone */
    CHECK_EQ(try_pin(1, 1, TNM_READ, &p), TNM_ERR_LOST);
    CHECK_EQ(e->move.used, 0);
    unpin(&held);
    CHECK_EQ(state(1, 0), TNMI_ABSENT);
    hand.copy = TNM_OK;
    turns(2);
    CHECK(hand.releases == 1 && used(0) == 0); /* its segment goes back: it starts empty */
    CHECK_EQ(pin(0, 0, TNM_READ, &p), TNM_OK);
    unpin(&p);
    close_tiers();
}

/* ---- other threads, between an ask and its answer ---- */
static tnm_pinned pins[TENSORS];

static void meddle(void) {
    int i = (int)draw(TENSORS), tier = (int)draw(e->tiers.count);
    switch (draw(9)) {
    case 0:
    case 1:
    case 2:
        if (pins[i].id == 0) try_pin(i, tier, (tnm_access)draw(made[i] ? 3 : 1), &pins[i]);
        if (!made[i] && pins[i].id == 0) try_pin(i, tier, TNM_DISCARD, &pins[i]);
        break;
    case 3:
    case 4:
        if (pins[i].id == 0) break;
        CHECK_EQ(tnm_unpin(ctx, &pins[i], 1, draw(3) ? 0 : TNM_FENCE(0, hand.passed[0] + 1)),
                 TNM_OK);
        break;
    case 5:
        guess(i, tier, draw(2) ? TNM_SURE : 0);
        break;
    case 6:
        if (draw(2))
            CHECK_EQ(tnm_cancel(ctx, &tensor[i], 1), TNM_OK);
        else
            CHECK_EQ(tnm_step(ctx, 0, e->hints.lane[0].step + 1), TNM_OK);
        break;
    case 7:
        if (draw(2))
            tnm_evict(ctx, tensor[i], tier);
        else
            tnm_flush(ctx, tensor[i], tier);
        break;
    default:
        if (draw(4) || pins[i].id) break;
        CHECK_EQ(tnm_tensor_destroy(ctx, tensor[i]), TNM_OK);
        new_tensor(i, 0);
    }
}

TEST(anything_may_happen_between_an_ask_and_its_answer) {
    int games = check_scale(60, 8), steps = 60;
    for (int game = 0; game < games; game++) {
        open_tiers(room_for(2 + draw(3)), room_for(3 + draw(9)), 3);
        memset(pins, 0, sizeof pins);
        for (int step = 0; step < steps && hand.ticket < TICKETS - 40; step++) {
            tnmi_ask ask;
            int count = 0;
            begin_round();
            if (draw(4) == 0) hand.passed[0]++;
            while ((ask = take()).kind != TNMI_ASK_DONE && count++ < 500) {
                for (uint32_t n = draw(4); n > 0; n--)
                    meddle();
                hand.copy = draw(8) ? (draw(2) ? TNM_PENDING : TNM_OK)
                                    : (draw(2) ? TNM_ERR_BUSY : TNM_ERR_BACKEND);
                hand.alloc = draw(12) ? TNM_OK : TNM_ERR_MEMORY;
                if (ask.kind == TNMI_ASK_POLL)
                    hand.poll[ask.ticket] =
                        draw(3) ? (draw(6) ? TNM_OK : TNM_ERR_BACKEND) : TNM_PENDING;
                reply(&ask);
                sound();
            }
            CHECK(count < 500);
            meddle();
            sound();
        }
        for (int i = 0; i < TENSORS; i++)
            if (pins[i].id) unpin(&pins[i]);
        hand.copy = hand.alloc = TNM_OK;
        end_all(TNM_OK);
        hand.passed[0] += 1000;
        turns(20);
        close_tiers();
    }
}

int main(void) {
    RUN(an_ask_is_asked_once);
    RUN(a_refused_alloc_is_refunded);
    RUN(read_of_what_is_absent);
    RUN(read_joins_a_guess_and_raises_it);
    RUN(a_guess_is_fresh_until_it_is_used);
    RUN(write_drops_the_others_at_the_grant);
    RUN(write_waits_for_a_copy_that_reads);
    RUN(write_does_not_take_back_what_another_waits_for);
    RUN(discard_fetches_nothing_and_keeps_the_old_until_it_has_a_place);
    RUN(a_failed_copy_drains_before_its_place_is_freed);
    RUN(a_copy_refused_at_once_leaves_at_once);
    RUN(a_pin_meets_a_draining_transfer);
    RUN(cancel);
    RUN(a_set_is_admitted_whole_or_holds_nothing);
    RUN(an_empty_member_refuses_the_whole_set);
    RUN(the_oldest_waiting_call_goes_first);
    RUN(a_claim_lapses_after_64_ticks);
    RUN(a_dirty_victim_stays_until_its_bytes_are_below);
    RUN(victims_are_claimed_in_one_step_or_not_at_all);
    RUN(a_failed_write_back_leaves_the_victim_and_makes_the_tier_sick);
    RUN(a_droppable_victim_becomes_empty);
    RUN(exchanges_without_spare_room_are_refused);
    RUN(a_cascade_is_planned_whole);
    RUN(a_fence_holds_the_pin);
    RUN(a_dead_queue_loses_what_it_was_writing);
    RUN(destroyed_in_every_state);
    RUN(a_lost_backend);
    RUN(anything_may_happen_between_an_ask_and_its_answer);
    return check_done();
}
