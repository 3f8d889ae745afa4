/* needs: tensormem.o */
/* Every field of tnm_desc, tnm_tier_desc and tnm_backend, and every argument of every call, at its
 * limits and beyond: NULL, 0, what wraps around, what is no value of its enum. A broken rule of
 * [types] is ARGUMENT and nothing else is, before a table of our own; what is made of the rest is
 * a context in which written bytes are read back, within its budgets, or MEMORY.
 *
 * A record sets one field of a plain two-tier context (first byte below 128) or makes one call. The
 * host's memory ends at FUZZ_MEMORY: no number of the input costs more. */
#include "tensormem.h"
#include "../tests/sim.h"

#define MUTATE_HEAD   8
#define MUTATE_RECORD 8
#define MUTATE_TAG    0x39
#include "mutate.h"

enum { FUZZ_MEMORY = 24 << 20, FUZZ_DEVICE = 1 << 18, FUZZ_TENSORS = 8, FUZZ_BYTES = 700 };

typedef struct fuzz_world {
    rig g;
    int bad;   /* the descriptor breaks a rule */
    int large; /* it asks for tables that need not fit */
    tnm_tensor tensor[FUZZ_TENSORS];
    uint8_t wrote[FUZZ_TENSORS]; /* 0 = nothing yet; else every byte is this one */
    tnm_pinned pinned;
} fuzz_world;

static fuzz_world world;

/* a small number, shifted, a little less or more */
static uint64_t fuzz_number(const uint8_t *at) {
    uint64_t value = (uint64_t)(at[0] >> 2) << (at[1] & 63);
    return value + (uint64_t)(at[0] & 3) - (uint64_t)(at[1] >> 6);
}

static void *fuzz_alloc(void *user, size_t size) {
    if (size > FUZZ_MEMORY || check_live_bytes() + (long long)size > FUZZ_MEMORY) return NULL;
    return rig_alloc(user, size);
}

static void fuzz_lock(void *user) {
    (void)user;
}

static int fuzz_write_text(void *user, const char *text, uint64_t bytes) {
    (void)user;
    (void)text;
    return bytes > 100000;
}

/* ---- the descriptor ---- */
static void fuzz_set_backend(tnm_tier_desc *t, sim_device *d, const uint8_t *at) {
    uint64_t n = fuzz_number(at + 2);
    switch (at[4] % 10) {
    case 0:
        t->backend.alloc = NULL;
        break;
    case 1:
        t->backend.release = NULL;
        break;
    case 2:
        t->backend.copy = NULL;
        break;
    case 3:
        t->backend.available = at[5] & 1 ? sim_available : NULL;
        break;
    case 4:
        t->backend.granularity = (uint32_t)n;
        d->granularity = (uint32_t)n;
        break;
    case 5:
        t->backend.odd_ends = (uint32_t)n;
        break;
    case 6:
        d->capacity = n;
        break; /* it refuses beyond */
    case 7:
        d->no_self = at[5] & 1;
        break;
    default: /* all of it: the context's own memory */
        memset(&t->backend, 0, sizeof t->backend);
        t->backend.granularity = (uint32_t)(at[5] & 1 ? n : 0);
        if ((at[5] & 30) == 30) t->backend.poll = sim_poll;
        break;
    }
}

static void fuzz_set_tier(fuzz_world *w, const uint8_t *at) {
    int i = at[1] % w->g.desc.tier_count;
    tnm_tier_desc *t = &w->g.tiers[i];
    uint64_t n = fuzz_number(at + 2);
    switch (at[0] % 16) {
    case 0:
        t->name = at[4] & 1 ? NULL : "";
        break;
    case 1:
        t->budget_bytes = n;
        break;
    case 2:
        t->segment_bytes = at[4] & 1 ? TNM_DEDICATED : n;
        break;
    case 3:
        t->alignment = (uint32_t)n;
        break;
    case 4:
        t->tail_bytes = (uint32_t)n;
        break;
    case 5:
        t->queue_depth = (uint32_t)n;
        break;
    case 6:
        t->read_cost = (uint32_t)n;
        break;
    case 7:
        t->write_cost = (uint32_t)n;
        break;
    case 8:
        t->spill_to = (int)(at[2] % 8) - 2;
        break;
    case 9:
        t->spill_to = (int)(uint32_t)n;
        break;
    default:
        fuzz_set_backend(t, &w->g.sim.device[i], at);
        break;
    }
}

static void fuzz_set_desc(fuzz_world *w, const uint8_t *at) {
    tnm_desc *d = &w->g.desc;
    uint64_t n = fuzz_number(at + 2);
    switch (at[0] % 24) {
    case 0:
        d->tiers = NULL;
        break;
    case 1:
        d->tier_count = at[4] & 1 ? (int)(uint32_t)n : 1 + at[4] / 2 % SIM_DEVICES;
        break;
    case 2:
        d->staging_tier = at[4] & 1 ? (int)(uint32_t)n : at[4] / 2 % 8;
        break;
    case 3:
        d->policy = (tnm_policy)(at[4] & 1 ? (int)(uint32_t)n : at[4] / 2 % 2);
        break;
    case 4:
        d->max_tensors = (uint32_t)n;
        break;
    case 5:
        d->max_replicas = (uint32_t)n;
        break;
    case 6:
        d->max_uses = (uint32_t)n;
        break;
    case 7:
        d->max_fences = (uint32_t)n;
        break;
    case 8:
        d->chunk_bytes = n;
        break;
    case 9:
        d->staging_bytes = n;
        break;
    case 10:
        d->guess_bytes = n;
        break;
    case 11:
        d->pump_thread = (int)(uint32_t)n;
        break;
    case 12:
        d->tag = (uint32_t)n;
        break;
    case 13:
        d->alloc = NULL;
        break;
    case 14:
        d->release = NULL;
        break;
    case 15:
        d->lock = fuzz_lock;
        break;
    case 16:
        d->unlock = fuzz_lock;
        break;
    case 17:
        d->passed = NULL;
        break;
    case 18:
        d->trace = sim_trace;
        break;
    case 19:
        d->lock = d->unlock = fuzz_lock;
        break;
    default:
        d->max_tensors = at[4];
        break;
    }
}

static int fuzz_is_power(uint64_t n) {
    return n != 0 && (n & (n - 1)) == 0;
}

/* what [types] says of a tier */
static int fuzz_is_tier_bad(const tnm_desc *d, int i) {
    const tnm_tier_desc *t = &d->tiers[i];
    const tnm_backend *b = &t->backend;
    int all = b->alloc != NULL && b->release != NULL && b->copy != NULL;
    int none = b->alloc == NULL && b->release == NULL && b->copy == NULL && b->poll == NULL &&
               b->wait == NULL && b->submit == NULL && b->available == NULL;
    if (!all && !none) return 1;
    if (b->granularity != 0 && !fuzz_is_power(b->granularity)) return 1;
    if (t->alignment != 0 && !fuzz_is_power(t->alignment)) return 1;
    return t->spill_to != 0 && t->spill_to != TNM_NOWHERE &&
           (t->spill_to <= i || t->spill_to >= d->tier_count);
}

static int fuzz_is_bad(const tnm_desc *d) {
    if (d->tiers == NULL || d->tier_count < 1 || d->tier_count > TNM_MAX_TIERS) return 1;
    for (int i = 0; i < d->tier_count; i++)
        if (fuzz_is_tier_bad(d, i)) return 1;
    return d->staging_tier < 0 || d->staging_tier >= d->tier_count ||
           (d->alloc == NULL) != (d->release == NULL) || (d->lock == NULL) != (d->unlock == NULL) ||
           d->tag > 255 || (int)d->policy < 0 || (int)d->policy > TNM_POLICY_AUTO ||
           d->pump_thread != 0;
}

/* might its tables exceed our memory? */
static int fuzz_is_large(const tnm_desc *d) {
    uint64_t depth = 0, link = d->chunk_bytes > 0 ? d->chunk_bytes : 4 << 20;
    uint64_t stage = d->staging_bytes > 0 ? d->staging_bytes : 16 << 20;
    for (int i = 0; i < d->tier_count; i++)
        depth += d->tiers[i].queue_depth;
    return d->max_tensors > 1000 || d->max_replicas > 1000 || d->max_uses > 10000 ||
           d->max_fences > 10000 || depth > 1000 || stage / link > 10000 ||
           d->max_tensors > 0; /* and the segments of its budgets, at once */
}

static void fuzz_begin(fuzz_world *w, const uint8_t *head) {
    rig_start(&w->g, head[1]);
    for (int i = 0; i < SIM_DEVICES; i++) {
        int kind = head[2 + i % 4] & (SIM_HIDDEN | SIM_ASYNC | SIM_SUBMIT | SIM_WAIT);
        rig_tier(&w->g, "tier", i + 1 < SIM_DEVICES ? kind : SIM_PLAIN, i > 1 ? 0 : 8192u << i);
    }
    w->g.desc.tier_count = 2;
    w->g.desc.alloc = fuzz_alloc;
    w->g.sim.peers = 1;
}

/* The devices learn what they were declared to be. */
static void fuzz_declare(fuzz_world *w) {
    tnm_desc *d = &w->g.desc;
    w->bad = fuzz_is_bad(d);
    w->large = w->bad || fuzz_is_large(d);
    for (int i = 0; i < SIM_DEVICES; i++) {
        tnm_tier_desc *t = &w->g.tiers[i];
        w->g.sim.device[i].limit = t->budget_bytes > 0 ? t->budget_bytes : UINT64_MAX;
        w->g.sim.device[i].depth = t->queue_depth > 0 ? t->queue_depth : 8;
        if (w->g.sim.device[i].capacity - 1 >= FUZZ_DEVICE)
            w->g.sim.device[i].capacity = FUZZ_DEVICE;
    }
    if (d->tier_count > SIM_DEVICES && !w->bad) d->tier_count = SIM_DEVICES;
    if (d->alloc == NULL && d->release == NULL && w->large) { /* not without an end to memory */
        d->alloc = fuzz_alloc;
        d->release = rig_release;
    }
}

/* ---- calls ---- */
static int fuzz_some(const uint8_t *at) {
    return at[1] % FUZZ_TENSORS;
}

/* a handle of ours, one of nobody, or {0} */
static tnm_tensor fuzz_handle(const fuzz_world *w, const uint8_t *at) {
    tnm_tensor t = w->tensor[fuzz_some(at)];
    if (at[1] >= 0xF8) t.id = fuzz_number(at + 2);
    return t;
}

static int fuzz_tier(const uint8_t *at) {
    return at[3] >= 0xF8 ? (int)(uint32_t)fuzz_number(at + 4) : at[3] % 3;
}

/* is it anyone's? Others are ARGUMENT or STALE */
static int fuzz_is_ours(const fuzz_world *w, tnm_tensor t) {
    for (int i = 0; i < FUZZ_TENSORS; i++)
        if (t.id != 0 && w->tensor[i].id == t.id) return 1;
    return 0;
}

static void fuzz_answer(const char *call, tnm_result r, int good) {
    char text[100];
    snprintf(text, sizeof text, "%s answered %d to what is %s", call, (int)r,
             good ? "right" : "wrong");
    if ((int)r < TNM_ERR_LOST || (int)r > TNM_ABSENT) check_fail(__FILE__, __LINE__, text);
    if (good && r == TNM_ERR_ARGUMENT) check_fail(__FILE__, __LINE__, text);
    if (!good && r != TNM_ERR_ARGUMENT && r != TNM_ERR_STALE) check_fail(__FILE__, __LINE__, text);
}

static void fuzz_create_tensor(fuzz_world *w, const uint8_t *at) {
    tnm_tensor_desc d;
    int i = fuzz_some(at);
    tnm_result r;
    if (w->tensor[i].id != 0) return;
    memset(&d, 0, sizeof d);
    d.bytes = FUZZ_BYTES;
    d.advice = at[2] & 1 ? (uint32_t)fuzz_number(at + 3) : 0;
    r = tnm_tensor_create(w->g.ctx, at[2] == 255 ? NULL : &d, &w->tensor[i]);
    fuzz_answer("tnm_tensor_create", r,
                at[2] != 255 && (d.advice & ~(uint32_t)(3 | TNM_DROPPABLE | TNM_SCRUB)) == 0);
    w->wrote[i] = 0;
    if (d.advice & TNM_DROPPABLE) tnm_advise(w->g.ctx, w->tensor[i], TNM_NORMAL);
}

static void fuzz_transfer(fuzz_world *w, const uint8_t *at) {
    static uint8_t plain[FUZZ_BYTES];
    int i = fuzz_some(at), whole = (at[3] & 3) != 0;
    tnm_tensor t = fuzz_handle(w, at);
    uint64_t offset = whole ? 0 : fuzz_number(at + 4), bytes = whole ? FUZZ_BYTES : at[6];
    int good = fuzz_is_ours(w, t) && offset <= FUZZ_BYTES && bytes <= FUZZ_BYTES - offset;
    tnm_result r;
    if (at[0] & 1) {
        memset(plain, 1 + at[7] % 200, sizeof plain);
        if (!whole && good) return;
        r = tnm_write(w->g.ctx, t, offset, at[3] == 9 ? NULL : plain, bytes);
        fuzz_answer("tnm_write", r, good && at[3] != 9);
        if (r == TNM_OK && good) w->wrote[i] = (uint8_t)(1 + at[7] % 200);
        if (r == TNM_ERR_LOST) w->wrote[i] = 0; /* half a write in place */
    } else {
        r = tnm_read(w->g.ctx, t, offset, at[3] == 9 ? NULL : plain, bytes);
        fuzz_answer("tnm_read", r, good && (at[3] != 9));
        if (r == TNM_OK && good) CHECK(w->wrote[i] != 0);
        if (r == TNM_OK && good) CHECK(sim_all(plain, w->wrote[i], bytes));
        if (r == TNM_ERR_EMPTY) CHECK_EQ(w->wrote[i], 0);
    }
}

static void fuzz_pin(fuzz_world *w, const uint8_t *at) {
    tnm_use u;
    tnm_pinned p;
    tnm_shortage why;
    int good, count = at[5] >= 0xF0 ? (int)at[5] - 0xF8 : 1, i = fuzz_some(at);
    tnm_result r;
    memset(&u, 0, sizeof u);
    u.tensor = fuzz_handle(w, at);
    u.tier = fuzz_tier(at);
    u.access = (tnm_access)(at[6] < 250 ? at[6] % 2 : at[6] - 252);
    u.flags = at[7] < 128 ? 0 : at[7];
    if (count > 1) count = 1;
    good = count == 0 ||
           (count == 1 && fuzz_is_ours(w, u.tensor) && u.tier >= 0 &&
            u.tier < w->g.desc.tier_count && (int)u.access >= 0 && (int)u.access <= TNM_DISCARD &&
            (u.flags & ~(uint32_t)(TNM_IF_READY | TNM_SURE)) == 0);
    if (w->pinned.id != 0 && good) return;
    fuzz_answer("tnm_why", tnm_why(w->g.ctx, &u, count, &why), good);
    r = at[0] & 1 ? tnm_pin(w->g.ctx, &u, count, &p) : tnm_try_pin(w->g.ctx, &u, count, &p);
    fuzz_answer("a pin", r, good);
    if (r != TNM_OK || count == 0) return;
    sim_hold(&w->g.sim, &p);
    if (u.access == TNM_DISCARD) {
        memset(sim_at(&w->g.sim, &p), 77, (size_t)p.bytes);
        w->wrote[i] = 77;
    }
    CHECK(sim_all(sim_at(&w->g.sim, &p), w->wrote[i], p.bytes));
    w->pinned = p;
}

static int fuzz_is_fence(const fuzz_world *w, uint64_t fence) {
    uint64_t last = ((uint64_t)1 << 55) - 1, value = fence & last;
    return fence == 0 ||
           (w->g.desc.passed != NULL && fence >> 63 == 1 && value > 0 && value < last);
}

static void fuzz_unpin(fuzz_world *w, const uint8_t *at) {
    tnm_pinned p = w->pinned, none;
    uint64_t fence = at[1] & 1 ? fuzz_number(at + 2) : 0;
    uint32_t queue = (uint32_t)(fence >> 55) % 256;
    tnm_result r;
    memset(&none, 0, sizeof none);
    none.id = at[1] & 4 ? fuzz_number(at + 4) : 0;
    none.tier = at[6];
    if (p.id == 0) { /* what was never pinned is refused */
        if (none.id != 0) fuzz_answer("tnm_unpin", tnm_unpin(w->g.ctx, &none, 1, 0), 0);
        return;
    }
    if (queue >= SIM_QUEUES) return;
    sim_let_go(&w->g.sim, &p, fence);
    r = tnm_unpin(w->g.ctx, &p, 1, fence);
    if (r == TNM_OK) {
        memset(&w->pinned, 0, sizeof w->pinned);
        return;
    }
    fuzz_answer("tnm_unpin", r, fuzz_is_fence(w, fence));
    p = w->pinned;
    CHECK_EQ(tnm_unpin(w->g.ctx, &p, 1, 0), TNM_OK);
    memset(&w->pinned, 0, sizeof w->pinned);
    for (int i = 0; i < SIM_HOLDS; i++)
        w->g.sim.holds[i].at = NULL;
}

static void fuzz_foresee(fuzz_world *w, const uint8_t *at) {
    tnm_use u[2];
    uint32_t lane = at[3] >= 0xF0 ? (uint32_t)fuzz_number(at + 4) : at[3] % 9;
    uint64_t step = fuzz_number(at + 4), period = fuzz_number(at + 6);
    int ours, laned = lane < TNM_MAX_LANES;
    memset(u, 0, sizeof u);
    u[0].tensor = fuzz_handle(w, at);
    u[1].tensor = w->tensor[0];
    u[0].tier = u[1].tier = at[5] % 2;
    u[0].step = step;
    ours = fuzz_is_ours(w, u[0].tensor) && u[0].tier < w->g.desc.tier_count;
    switch (at[0] % 5) {
    case 0:
        fuzz_answer("tnm_schedule", tnm_schedule(w->g.ctx, lane, u, 1, (uint32_t)period),
                    laned && ours && step < (uint32_t)period);
        break;
    case 1:
        u[0].flags = at[2] & 1 ? (uint32_t)TNM_SURE : 0;
        fuzz_answer("tnm_prefetch", tnm_prefetch(w->g.ctx, lane, u, 1), laned && ours);
        break;
    case 2:
        fuzz_answer("tnm_step", tnm_step(w->g.ctx, lane, step), laned);
        break;
    case 3:
        fuzz_answer("tnm_record", tnm_record(w->g.ctx, lane), laned);
        break;
    default:
        if (tnm_replay(w->g.ctx, lane) == TNM_OK) CHECK(laned);
        break;
    }
}

static void fuzz_other(fuzz_world *w, const uint8_t *at) {
    tnm_writer to = { fuzz_write_text, NULL };
    tnm_tensor t = fuzz_handle(w, at);
    int tier = fuzz_tier(at), ours = fuzz_is_ours(w, t);
    int placed = tier >= 0 && tier < w->g.desc.tier_count;
    uint64_t n = fuzz_number(at + 4);
    tnm_tensor_info info;
    tnm_tier_stats stats;
    switch (at[0] % 12) {
    case 0:
        fuzz_answer("tnm_evict", tnm_evict(w->g.ctx, t, tier), ours && placed);
        break;
    case 1:
        fuzz_answer("tnm_flush", tnm_flush(w->g.ctx, t, tier), (ours || t.id == 0) && placed);
        break;
    case 2:
        fuzz_answer("tnm_info", tnm_info(w->g.ctx, t, tier, &info), ours && placed);
        break;
    case 3:
        fuzz_answer("tnm_stats", tnm_stats(w->g.ctx, tier, &stats), placed);
        break;
    case 4:
        fuzz_answer("tnm_dump", tnm_dump(w->g.ctx, (tnm_dump_format)(at[4] % 3), &to),
                    at[4] % 3 < 2);
        break;
    case 5:
        fuzz_answer("tnm_pump", tnm_pump(w->g.ctx, n), 1);
        break;
    case 6:
        fuzz_answer("tnm_wait", tnm_wait(w->g.ctx), 1);
        break;
    case 7:
        fuzz_answer("tnm_cancel", tnm_cancel(w->g.ctx, &t, 1), ours);
        break;
    case 8:
        if (at[5] & TNM_DROPPABLE) break; /* then nothing could be said of its bytes */
        fuzz_answer("tnm_advise", tnm_advise(w->g.ctx, t, at[5]),
                    ours && (at[5] & ~(3 | TNM_DROPPABLE | TNM_SCRUB)) == 0);
        break;
    case 9:
        if (placed && w->g.tiers[tier].backend.alloc != NULL) w->g.sim.device[tier].limit = n;
        fuzz_answer("tnm_set_budget", tnm_set_budget(w->g.ctx, tier, n), placed);
        break;
    case 10:
        if (!ours || at[5] > 20) break;
        fuzz_answer("tnm_tensor_destroy", tnm_tensor_destroy(w->g.ctx, t), 1);
        w->tensor[fuzz_some(at)].id = 0;
        break;
    default:
        CHECK(tnm_result_string((tnm_result)(int)(uint32_t)n) != NULL);
        break;
    }
}

static void fuzz_call(fuzz_world *w, const uint8_t *at) {
    switch (at[0] / 16 % 8) {
    case 0:
    case 1:
        fuzz_create_tensor(w, at);
        break;
    case 2:
    case 3:
        fuzz_transfer(w, at);
        break;
    case 4:
        fuzz_pin(w, at);
        break;
    case 5:
        fuzz_unpin(w, at);
        break;
    case 6:
        fuzz_foresee(w, at);
        break;
    default:
        fuzz_other(w, at);
        break;
    }
    CHECK_EQ(tnm_check(w->g.ctx), 0);
}

/* ---- one input ---- */
static void fuzz_null(void) {
    tnm_ctx *none = NULL;
    tnm_desc d;
    memset(&d, 0, sizeof d);
    d.log = sim_log;
    d.user = &world.g.sim;
    CHECK_EQ(tnm_create(NULL, &none), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_create(&d, NULL), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_create(&d, &none), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_destroy(NULL), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_pump(NULL, 0), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_wait(NULL), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_pin(NULL, NULL, 0, NULL), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_step(NULL, 0, 0), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_dump(NULL, TNM_DUMP_TEXT, NULL), TNM_ERR_ARGUMENT);
}

static void fuzz_end(fuzz_world *w) {
    if (w->pinned.id != 0) sim_let_go(&w->g.sim, &w->pinned, 0);
    if (w->pinned.id != 0) CHECK_EQ(tnm_unpin(w->g.ctx, &w->pinned, 1, 0), TNM_OK);
    for (int q = 0; q < SIM_QUEUES; q++)
        w->g.sim.now[q] = (UINT64_MAX >> 9) - 1;
    for (int t = 0; t < w->g.desc.tier_count; t++) {
        tnm_tier_stats s;
        CHECK_EQ(tnm_stats(w->g.ctx, t, &s), TNM_OK);
        if (w->g.tiers[t].backend.alloc != NULL) CHECK(s.reserved_bytes >= w->g.sim.device[t].held);
    }
    CHECK_EQ(tnm_destroy(w->g.ctx), TNM_OK);
    rig_close_sim(&w->g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tnm_result r;
    if (size < MUTATE_HEAD) return 0;
    fuzz_begin(&world, data);
    memset(world.tensor, 0, sizeof world.tensor);
    memset(&world.pinned, 0, sizeof world.pinned);
    for (size_t i = MUTATE_HEAD; i + MUTATE_RECORD <= size; i += MUTATE_RECORD)
        if (data[i] < 64)
            fuzz_set_desc(&world, data + i);
        else if (data[i] < 128 && !fuzz_is_bad(&world.g.desc))
            fuzz_set_tier(&world, data + i);
    fuzz_declare(&world);
    r = tnm_create(&world.g.desc, &world.g.ctx);
    if (r != TNM_OK) {
        CHECK(r == (world.bad ? TNM_ERR_ARGUMENT : TNM_ERR_MEMORY) ||
              (r == TNM_ERR_ARGUMENT && world.g.desc.max_tensors >= 1u << 20));
        CHECK((world.bad || world.large) && world.g.ctx == NULL);
        if (data[7] == 0) fuzz_null();
    } else {
        CHECK(!world.bad);
        for (size_t i = MUTATE_HEAD; i + MUTATE_RECORD <= size; i += MUTATE_RECORD)
            if (data[i] >= 128) fuzz_call(&world, data + i);
        fuzz_end(&world);
    }
    if (check_bad > 0 || check_live_blocks() != 0) abort();
    return 0;
}
