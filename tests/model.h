/* model.h: a naive model of tensormem and a player that holds the engine against it.
 *
 * The model knows contents (their bytes, as an array), names (windows into contents), pins (live
 * or waiting for a fence) and budgets. It does not know where replicas are: any result the contract
 * allows is legal, and whatever is shown must be the model's bytes. A run is drawn from a stream of
 * bytes, from a seed or from a fuzzer; the first few choose the tree of tiers and how nasty its
 * backends are.
 *
 * A stream that begins with MODEL_RECORDS is a head of two records and then one record for each
 * call: what a call draws beyond its record follows from the record, so that it means the same
 * wherever it stands. Records whose first byte is MODEL_SPECIAL or more go to `special`, if there
 * is one.
 *
 * Other clients of the context: whoever sets a lock may call model_interrupt from the callbacks.
 * The call it plays runs while another one waits, as if from another thread. */
#ifndef TENSORMEM_TESTS_MODEL_H
#define TENSORMEM_TESTS_MODEL_H

#include "sim.h"

enum {
    MODEL_CONTENTS = 28,
    MODEL_NAMES = 44,
    MODEL_PINS = 24,
    MODEL_DEAD = 8,
    MODEL_BYTES = 6000, /* of the largest content */
    MODEL_SET = 4,
    MODEL_TREES = 6,
    MODEL_RECORD = 8,    /* bytes */
    MODEL_RECORDS = 0xA7, /* the first byte of a stream of records */
    MODEL_SPECIAL = 0xE0,
    MODEL_DEPTH = 3 /* calls inside one another */
};
enum { MODEL_EMPTY, MODEL_FULL, MODEL_LOST };

typedef struct model_content {
    int used, state, names, maybe_dropped;
    uint32_t advice;
    uint64_t bytes;
    uint8_t now[MODEL_BYTES];
    uint8_t *lent; /* adopted memory, NULL = none */
    int writable, released, lent_tier;
    int open;   /* calls under way that may have been given it, which the model does not know */
    int racing; /* of these, what reads or writes its bytes: no other client's business */
} model_content;

typedef struct model_name {
    int used, content;
    tnm_tensor handle;
    uint64_t offset, bytes;
} model_name;

typedef struct model_pin {
    int used, content;
    tnm_pinned p;
    uint8_t *at;
    uint64_t offset, fence; /* 0 = live */
} model_pin;

typedef struct model {
    rig g;
    const uint8_t *data; /* NULL = drawn from the seed */
    size_t size, next;
    uint64_t random, version;
    int tree, tight, noisy; /* tight: BUDGET may be right even without pins; noisy: faults */
    int dedicated;          /* one alloc for each tensor: 1 on the first tier, 2 on all */
    int shrunk[SIM_DEVICES];
    int was_shrunk;             /* what failed then is told later, once */
    uint64_t full[SIM_DEVICES]; /* the budget it began with */
    uint64_t steps[TNM_MAX_LANES];
    model_content content[MODEL_CONTENTS];
    model_name name[MODEL_NAMES];
    model_pin pin[MODEL_PINS];
    tnm_tensor dead[MODEL_DEAD];
    uint64_t deaths, asked, granted, op;
    int records;
    size_t end;                      /* of the record */
    int starved;                     /* the host allocator may refuse, too */
    void (*special)(struct model *); /* what else a record may be */
    int depth, reserved;             /* calls interrupted now, and pins they may still be given */
    uint64_t interrupts;
    int verbose, traced; /* set by the test */
} model;

/* ---- the stream ---- */
static inline int model_over(const model *m) {
    return m->data != NULL && (m->records ? m->end : m->next) >= m->size;
}

static inline uint32_t model_byte(model *m) {
    if (m->data != NULL && (!m->records || m->next < m->end))
        return m->next < m->size ? m->data[m->next++] : 0;
    m->random = m->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(m->random >> 56);
}

static inline uint32_t model_draw(model *m, uint32_t below) {
    uint32_t b = model_byte(m);
    return (below > 256 ? b << 8 | model_byte(m) : b) % below;
}

/* the next `bytes` of the stream are what is drawn from, and then what follows from them */
static inline void model_record(model *m, size_t bytes) {
    m->next = m->end;
    m->end += bytes;
    m->random = 0x5EED;
    for (size_t i = m->next; i < m->end && i < m->size; i++)
        m->random = sim_mix(m->random, m->data[i]);
}

/* ---- the model's own rules ---- */
static inline int model_pins(const model *m, int content, int tier, int live, int write) {
    int n = 0;
    for (int i = 0; i < MODEL_PINS; i++) {
        const model_pin *p = &m->pin[i];
        if (!p->used || (content >= 0 && p->content != content)) continue;
        if (tier >= 0 && p->p.tier != tier) continue;
        if (live && p->fence != 0) continue;
        n += !write || p->p.access != TNM_READ;
    }
    return n;
}

/* does a live pin on another tier conflict with this use? */
static inline int model_conflict(const model *m, int content, int tier, tnm_access access) {
    int here = model_pins(m, content, tier, 1, access == TNM_READ);
    return model_pins(m, content, -1, 1, access == TNM_READ) > here;
}

static inline int model_shrunk(const model *m) {
    for (int i = 0; i < SIM_DEVICES; i++)
        if (m->shrunk[i]) return 1;
    return 0;
}

/* May a request for this set be refused for want of room? Only if something stands in the way. */
static inline int model_may_lack_room(const model *m, const tnm_use *u, int count) {
    uint64_t need[SIM_DEVICES] = { 0 };
    if (m->tight || m->noisy || model_shrunk(m) || model_pins(m, -1, -1, 1, 0) > 0) return 1;
    for (int i = 0; i < count; i++)
        need[u[i].tier] += MODEL_BYTES + 1024;
    for (int t = 0; t < m->g.desc.tier_count; t++)
        if (m->full[t] > 0 && need[t] > m->full[t] / 2) return 1;
    return 0;
}

/* one tier and the CPU does not see it: there is nowhere to take zeros from, and a tnm_write that
 * fails half-way has spoilt the sole copy */
static inline int model_no_staging(const model *m) {
    return m->g.desc.tier_count == 1 && (m->g.sim.device[0].kind & SIM_HIDDEN) != 0;
}

/* its bytes still lie in memory that only its owner may write */
static inline int model_is_read_only(const model_content *c) {
    return c->lent != NULL && !c->writable && !c->released;
}

static inline int model_new_content(model *m, uint64_t bytes) {
    for (int i = 0; i < MODEL_CONTENTS; i++) {
        model_content *c = &m->content[i];
        if (c->used) continue;
        memset(c, 0, offsetof(model_content, now));
        c->used = 1;
        c->bytes = bytes;
        c->lent = NULL;
        c->released = 0;
        return i;
    }
    return -1;
}

static inline int model_new_name(model *m) {
    for (int i = 0; i < MODEL_NAMES; i++)
        if (!m->name[i].used) return i;
    return -1;
}

static inline int model_some_name(model *m) {
    uint32_t at = model_draw(m, MODEL_NAMES);
    for (uint32_t i = 0; i < MODEL_NAMES; i++)
        if (m->name[(at + i) % MODEL_NAMES].used) return (int)((at + i) % MODEL_NAMES);
    return -1;
}

static inline int model_some_tier(model *m) {
    return (int)model_draw(m, (uint32_t)m->g.desc.tier_count);
}

/* a content goes with its last name and pin */
static inline void model_settle(model *m, int content) {
    model_content *c = &m->content[content];
    if (c->names == 0 && model_pins(m, content, -1, 0, 0) == 0 && c->lent == NULL) c->used = 0;
}

static inline void model_say(const model *m, const char *what, long long a, long long b,
                             long long r) {
    if (m->verbose)
        printf("  op %llu %s %lld %lld -> %lld\n", (unsigned long long)m->op, what, a, b, r);
}

static inline void model_breach(const model *m, const char *what, tnm_result r) {
    char text[200];
    snprintf(text, sizeof text, "op %llu tree %d: %s answered %d", (unsigned long long)m->op,
             m->tree, what, (int)r);
    check_fail(__FILE__, __LINE__, text);
    if (m->verbose) tnm_dump(m->g.ctx, TNM_DUMP_JSON, NULL);
}

#define MODEL_LEGAL(m, what, r, cond)                                                              \
    do {                                                                                           \
        if (!(cond)) model_breach(m, what, r);                                                     \
    } while (0)

/* Did another client do something while the call ran, or does a call stand open that may have been
 * given what it asks for, and we do not know? Then what was sure before is not. */
static inline int model_stirred(const model *m, uint64_t interrupts) {
    return m->depth > 0 || m->interrupts != interrupts;
}

/* may a client touch the bytes? */
static inline int model_is_racing(const model *m, int name) {
    return name >= 0 && m->depth > 0 && m->content[m->name[name].content].racing > 0;
}

static inline int model_matches(const model *m, int content, uint64_t offset, const uint8_t *at,
                                uint64_t bytes) {
    (void)m;
    return memcmp(m->content[content].now + offset, at, (size_t)bytes) == 0;
}

/* new bytes through a write pin (or by the device, for a fenced one), in the model as well */
static inline void model_scribble(model *m, const model_pin *p, uint64_t from, uint64_t bytes) {
    uint64_t key = ++m->version;
    sim_fill(p->at + from, key, from, bytes);
    sim_fill(m->content[p->content].now + p->offset + from, key, from, bytes);
}

/* ---- fences: the device writes until its fence has passed ---- */
static inline uint64_t model_passed(void *user, uint32_t queue, uint64_t wait_for) {
    model *m = (model *)user; /* the sim is the first member of the rig, the rig of the model */
    uint64_t now = sim_passed(&m->g.sim, queue, wait_for);
    for (int i = 0; i < MODEL_PINS; i++) {
        model_pin *p = &m->pin[i];
        if (!p->used || p->fence == 0 || (p->fence >> 55) % 256 != queue) continue;
        if ((p->fence & 0x007FFFFFFFFFFFFFu) > now) continue;
        if (p->p.access != TNM_READ) model_scribble(m, p, p->p.bytes / 2, p->p.bytes / 3);
        p->used = 0;
        model_settle(m, p->content);
    }
    return now;
}

static inline void model_released(void *user, uint64_t mem, uint64_t offset) {
    model_content *c = (model_content *)user;
    (void)mem;
    (void)offset;
    SIM_MUST(c->lent != NULL && !c->released);
    c->released = 1;
    if (c->lent == NULL) return;
    if (!c->writable) CHECK(sim_same(c->lent, 0xADu + c->bytes, 0, c->bytes)); /* never written */
    memset(c->lent, SIM_POISON, (size_t)c->bytes); /* never read again */
}

/* ---- trees ---- */
static inline void model_add(model *m, int kind, uint64_t budget, uint64_t segment) {
    sim_device *d = rig_tier(&m->g, "tier", kind, budget);
    m->full[d->tier] = budget;
    if (m->dedicated == 2 || (m->dedicated && d->tier == 0)) segment = TNM_DEDICATED;
    m->g.tiers[d->tier].segment_bytes = segment;
}

static inline void model_build(model *m) {
    int kind = (int)model_draw(m, 16);
    uint64_t seg = model_draw(m, 2) ? 8192 : 0;
    m->tree = (int)model_draw(m, 6 * MODEL_TREES);
    m->dedicated = m->tree < 4 * MODEL_TREES ? 0 : m->tree / MODEL_TREES - 3;
    m->tree %= MODEL_TREES;
    if (m->tree == 0) model_add(m, kind, 49152, 0);
    if (m->tree == 1 || m->tree == 5) model_add(m, kind, 24576, seg);
    if (m->tree == 1) model_add(m, SIM_PLAIN | (kind & SIM_ASYNC), 0, 65536);
    if (m->tree == 5) model_add(m, SIM_PLAIN, 65536, 0);
    if (m->tree == 2 || m->tree == 3) {
        model_add(m, kind, 24576, seg);
        if (m->tree == 3) model_add(m, kind ^ SIM_ASYNC, 24576, 0);
        model_add(m, SIM_PLAIN, 65536 + 16384, 16384);
        model_add(m, SIM_HIDDEN | (kind & ~SIM_HIDDEN), 0, 65536);
        if (m->tree == 3) m->g.tiers[0].spill_to = m->g.tiers[1].spill_to = 2;
        m->g.desc.staging_tier = m->tree == 3 ? 2 : 1;
    }
    if (m->tree == 4) {
        model_add(m, kind & ~SIM_HIDDEN, 16384, 0);
        model_add(m, SIM_PLAIN, 32768, seg);
        model_add(m, SIM_PLAIN | SIM_ASYNC, 0, 65536);
    }
    m->tight = m->tree == 0 || m->tree == 5;
}

static inline void model_behave(model *m) {
    static const int delays[] = { 0, 1, 3, 12 };
    sim *w = &m->g.sim;
    w->delay = delays[model_draw(m, 4)];
    w->share = (int)model_draw(m, 5);
    w->recycle = (int)model_draw(m, 2);
    w->busy = model_draw(m, 4) == 0 ? 60 : 0;
    w->peers = (int)model_draw(m, 2);
    m->noisy = model_draw(m, 3) == 0;
    w->fail = m->noisy ? 10 : 0;
    w->deny = m->noisy ? 30 : 0;
    m->g.desc.chunk_bytes = model_draw(m, 2) ? 4096 : 1024;
    m->g.desc.passed = model_passed;
    m->g.desc.tag = model_byte(m);
    m->g.desc.policy = m->g.desc.tag & 1 ? TNM_POLICY_AUTO : TNM_POLICY_LRU;
    if (model_draw(m, 4) == 0 || m->traced) m->g.desc.trace = sim_trace;
    if (m->tree == 2 || m->tree == 3) { /* someone's files lie on sectors */
        int bottom = m->g.desc.tier_count - 1;
        uint32_t grain = model_draw(m, 2) ? 512 : 0;
        m->g.sim.device[bottom].granularity = m->g.tiers[bottom].backend.granularity = grain;
    }
}

/* ---- checks after every call ---- */
static inline void model_check_pin(model *m, const model_pin *p) {
    if (m->content[p->content].state == MODEL_LOST) return;
    if (m->content[p->content].racing) return; /* a write is under way there */
    if (model_matches(m, p->content, p->offset, p->at, p->p.bytes)) return;
    check_fail(__FILE__, __LINE__, "P1/P3: pinned memory does not show what was written last");
    model_breach(m, "pinned bytes", TNM_OK);
}

static inline void model_check_info(model *m, int name, int tier) {
    const model_content *c = &m->content[m->name[name].content];
    tnm_tensor_info i;
    int all = model_pins(m, m->name[name].content, tier, 0, 0);
    CHECK_EQ(tnm_info(m->g.ctx, m->name[name].handle, tier, &i), TNM_OK);
    CHECK_EQ(i.bytes, m->name[name].bytes);
    CHECK(i.pins >= (uint32_t)all && i.pins <= (uint32_t)(all + c->open));
    CHECK_EQ(i.fenced, all - model_pins(m, m->name[name].content, tier, 1, 0));
    if (c->racing) return;
    if (all > 0) CHECK_EQ(i.state, c->state == MODEL_LOST ? TNM_STATE_LOST : TNM_STATE_READY);
    if (c->state == MODEL_EMPTY) CHECK(i.empty);
    if (c->state == MODEL_FULL && !c->maybe_dropped) CHECK(!i.empty);
}

static inline void model_after(model *m) {
    int name = model_some_name(m);
    for (int i = 0; i < MODEL_CONTENTS; i++) {
        model_content *c = &m->content[i];
        if ((c->advice & TNM_DROPPABLE) != 0 && model_pins(m, i, -1, 1, 0) == 0)
            c->maybe_dropped = 1;
    }
    for (int i = 0; i < MODEL_PINS; i++)
        if (m->pin[i].used) model_check_pin(m, &m->pin[i]);
    if (name >= 0) model_check_info(m, name, model_some_tier(m));
    rig_healthy(&m->g);
}

/* ---- names ---- */
/* a name was to come to be: without memory for it nothing has happened */
static inline void model_named(model *m, int at, tnm_result r) {
    model_content *c = &m->content[m->name[at].content];
    if (r == TNM_OK) return;
    MODEL_LEGAL(m, "a new name", r, m->starved && r == TNM_ERR_MEMORY);
    CHECK_EQ(m->name[at].handle.id, 0);
    m->name[at].used = 0;
    if (--c->names == 0) c->used = 0;
}

static inline void model_op_create(model *m) {
    static const uint32_t advices[] = { 0, 0, 0, TNM_KEEP, TNM_ONCE, TNM_SCRUB, TNM_DROPPABLE, 0 };
    tnm_tensor_desc d;
    int at = model_new_name(m), content;
    if (at < 0) return;
    content = model_new_content(m, 1 + model_draw(m, MODEL_BYTES));
    if (content < 0) return;
    memset(&d, 0, sizeof d);
    d.bytes = m->content[content].bytes;
    d.advice = m->content[content].advice = advices[model_draw(m, 8)];
    d.user = content & 1 ? &m->content[content] : NULL; /* the `item` of a segment of its own */
    m->name[at].used = 1;
    m->name[at].content = content;
    m->name[at].offset = 0;
    m->name[at].bytes = d.bytes;
    m->content[content].names = 1;
    model_named(m, at, tnm_tensor_create(m->g.ctx, &d, &m->name[at].handle));
    model_say(m, "create", at, content, 0);
}

static inline void model_op_view(model *m) {
    int at = model_new_name(m), of = model_some_name(m);
    uint64_t offset, bytes;
    tnm_tensor_desc d;
    if (at < 0 || of < 0) return;
    offset = model_draw(m, 4) ? model_draw(m, 65535) % m->name[of].bytes : 0;
    bytes = m->name[of].bytes - offset;
    if (model_draw(m, 4)) bytes = 1 + model_draw(m, 65535) % bytes;
    m->name[at] = m->name[of];
    m->name[at].offset += offset;
    m->name[at].bytes = bytes;
    m->content[m->name[of].content].names++;
    memset(&d, 0, sizeof d);
    d.bytes = bytes;
    model_named(m, at,
                tnm_tensor_view(m->g.ctx, m->name[of].handle, offset, &d, &m->name[at].handle));
    model_say(m, "view", at, of, 0);
}

static inline void model_op_adopt(model *m) {
    sim_device *d = &m->g.sim.device[m->g.desc.tier_count - 1];
    tnm_tensor_desc what;
    tnm_adopt_desc a;
    tnm_result r;
    model_content *c;
    uint64_t mem, front = model_draw(m, 2) ? model_draw(m, 1000) : 0;
    int at = model_new_name(m), content;
    if (at < 0 || (content = model_new_content(m, 1 + model_draw(m, MODEL_BYTES))) < 0) return;
    c = &m->content[content];
    mem = sim_lend(d, (front + c->bytes + 511) / 512 * 512);
    if (mem == 0) {
        c->used = 0;
        return;
    }
    a = sim_lent(d, mem, front);
    c->lent = sim_find(d, mem)->at + front;
    c->lent_tier = d->tier;
    sim_fill(c->lent, 0xADu + c->bytes, 0, c->bytes);
    sim_fill(c->now, 0xADu + c->bytes, 0, c->bytes);
    c->writable = (int)model_draw(m, 2);
    c->state = MODEL_FULL;
    c->names = 1;
    a.writable = c->writable;
    a.released = model_released;
    a.user = c;
    m->name[at] = (model_name){ 1, content, { 0 }, 0, c->bytes };
    memset(&what, 0, sizeof what);
    what.bytes = c->bytes;
    r = tnm_tensor_adopt(m->g.ctx, &what, &a, &m->name[at].handle);
    if (r != TNM_OK) {
        c->lent = NULL;
        sim_unmake(sim_find(d, mem));
    }
    model_named(m, at, r);
    model_say(m, "adopt", at, content, c->writable);
}

static inline void model_kill(model *m, int name) {
    CHECK_EQ(tnm_tensor_destroy(m->g.ctx, m->name[name].handle), TNM_OK);
    m->dead[m->deaths++ % MODEL_DEAD] = m->name[name].handle;
    m->name[name].used = 0;
    m->content[m->name[name].content].names--;
    model_settle(m, m->name[name].content);
    model_say(m, "destroy", name, m->name[name].content, 0);
}

static inline void model_op_destroy(model *m) {
    int name = model_some_name(m);
    if (name >= 0) model_kill(m, name);
}

/* P8: what is dead stays dead, whatever call it is given to */
static inline void model_op_stale(model *m) {
    tnm_tensor t = m->dead[model_draw(m, MODEL_DEAD)];
    tnm_use u = rig_use(t, 0, (tnm_access)model_draw(m, 3));
    tnm_pinned p;
    tnm_tensor_info i;
    uint8_t byte = 0;
    tnm_result want = t.id == 0 ? TNM_ERR_ARGUMENT : TNM_ERR_STALE;
    CHECK_EQ(tnm_pin(m->g.ctx, &u, 1, &p), want);
    CHECK_EQ(tnm_try_pin(m->g.ctx, &u, 1, &p), want);
    CHECK_EQ(tnm_info(m->g.ctx, t, 0, &i), want);
    CHECK_EQ(tnm_read(m->g.ctx, t, 0, &byte, 1), want);
    CHECK_EQ(tnm_evict(m->g.ctx, t, 0), want);
    CHECK_EQ(tnm_advise(m->g.ctx, t, 0), want);
    CHECK_EQ(tnm_tensor_destroy(m->g.ctx, t), want);
    if (t.id != 0) CHECK_EQ(tnm_flush(m->g.ctx, t, 0), want);
}

/* ---- pins ---- */
static inline int model_covers(const model *m, const model_name *n) {
    return n->offset == 0 && n->bytes == m->content[n->content].bytes;
}

/* what the engine may answer to a use, as a set of bits by -result; 0 in `ok` = it must fail */
static inline uint32_t model_use_may(const model *m, const model_name *n, const tnm_use *u,
                                     int *ok) {
    const model_content *c = &m->content[n->content];
    int builds = u->access == TNM_DISCARD && model_covers(m, n);
    uint32_t may = 0;
    if (!builds && c->state == MODEL_EMPTY) {
        may |= 1u << -TNM_ERR_EMPTY;
        *ok = 0;
    }
    if (!builds && c->maybe_dropped) may |= 1u << -TNM_ERR_EMPTY;
    if (!builds && c->state == MODEL_LOST) {
        may |= 1u << -TNM_ERR_LOST;
        *ok = 0;
    }
    if (c->state == MODEL_LOST && model_pins(m, n->content, u->tier, 1, 0) > 0) {
        may |= 1u << -TNM_ERR_BUSY; /* the spoilt place is still held */
        *ok = 0;
    }
    if (builds && model_no_staging(m)) /* zeros for SCRUB, perhaps before the advice was changed */
        may |= 1u << -TNM_ERR_UNSUPPORTED;
    if (u->access != TNM_READ && model_is_read_only(c) && u->tier == c->lent_tier)
        may |= 1u << -TNM_ERR_BUSY;
    if (model_conflict(m, n->content, u->tier, u->access)) {
        may |= 1u << -TNM_ERR_BUSY;
        *ok = 0;
    }
    return may;
}

/* the same content on two tiers with a write among the two is a broken contract */
static inline int model_bad_set(const model *m, const tnm_use *u, const int *names, int count) {
    for (int i = 0; i < count; i++)
        for (int k = 0; k < i; k++) {
            if (m->name[names[i]].content != m->name[names[k]].content) continue;
            if (u[i].tier == u[k].tier) continue;
            if (u[i].access != TNM_READ || u[k].access != TNM_READ) return 1;
        }
    return 0;
}

static inline void model_take(model *m, const tnm_pinned *p, const model_name *n,
                              int before_full) {
    model_content *c = &m->content[n->content];
    model_pin *slot = m->pin;
    while (slot->used)
        slot++;
    slot->used = 1;
    slot->content = n->content;
    slot->p = *p;
    slot->at = sim_at(&m->g.sim, p);
    slot->offset = n->offset;
    slot->fence = 0;
    CHECK_EQ(p->bytes, n->bytes);
    sim_hold(&m->g.sim, p);
    if (before_full && slot->at != NULL) model_check_pin(m, slot);
    c->maybe_dropped = 0;
    if (p->access == TNM_READ || slot->at == NULL) return;
    c->state = MODEL_FULL;
    model_scribble(m, slot, 0, before_full ? p->bytes / 2 : p->bytes);
}

static inline void model_granted(model *m, const tnm_use *u, const model_name *n, int count,
                                 tnm_pinned *p) {
    int shows[MODEL_SET];
    for (int i = 0; i < count; i++) {
        shows[i] = u[i].access != TNM_DISCARD || !model_covers(m, &n[i]);
        for (int k = 0; k < count; k++) /* a DISCARD elsewhere in the set has not been filled yet */
            if (k != i && u[k].access == TNM_DISCARD && n[k].content == n[i].content) shows[i] = 0;
    }
    for (int i = 0; i < count; i++)
        if (shows[i])
            CHECK(model_matches(m, n[i].content, n[i].offset, sim_at(&m->g.sim, &p[i]),
                                p[i].bytes));
    for (int i = 0; i < count; i++) { /* neither a live pin nor a fence of another tier stands by */
        int write = u[i].access != TNM_READ, content = n[i].content;
        CHECK_EQ(model_pins(m, content, -1, 0, !write),
                 model_pins(m, content, u[i].tier, 0, !write));
    }
    for (int i = 0; i < count; i++) {
        CHECK_EQ(p[i].tier, u[i].tier);
        CHECK_EQ(p[i].access, u[i].access);
        model_take(m, &p[i], &n[i], shows[i] && count == 1);
    }
    m->granted++;
}

/* While a call is open its contents stay, and those whose bytes it builds or copies are its own. */
static inline void model_open(model *m, const model_name *n, const tnm_use *u, int count, int by) {
    for (int i = 0; i < count; i++) {
        m->content[n[i].content].names += by;
        m->content[n[i].content].open += by;
        if (u == NULL || u[i].access == TNM_DISCARD) m->content[n[i].content].racing += by;
        if (u != NULL) m->reserved += by;
    }
    for (int i = 0; i < count && by < 0; i++)
        model_settle(m, n[i].content);
}

/* a content that could have been dropped: is it there at this moment? */
static inline void model_resolve(model *m, int name) {
    model_content *c = &m->content[m->name[name].content];
    tnm_tensor_info i;
    if (!c->maybe_dropped) return;
    CHECK_EQ(tnm_info(m->g.ctx, m->name[name].handle, 0, &i), TNM_OK);
    if (i.empty && c->state != MODEL_LOST) c->state = MODEL_EMPTY;
    c->maybe_dropped = 0;
}

/* Not both as arguments of one call, whose order is the compiler's own: a stream must mean the same
 * everywhere. Seeds keep the order in which gcc drew, streams that of clang. */
static inline tnm_use model_draw_use(model *m, int name) {
    uint32_t first = model_draw(m, m->data == NULL ? 3 : (uint32_t)m->g.desc.tier_count);
    uint32_t then = model_draw(m, m->data == NULL ? (uint32_t)m->g.desc.tier_count : 3);
    return rig_use(m->name[name].handle, (int)(m->data == NULL ? then : first),
                   (tnm_access)(m->data == NULL ? first : then));
}

static inline int model_draw_set(model *m, tnm_use *u, int *names) {
    int count = model_draw(m, 3) ? 1 : 1 + (int)model_draw(m, MODEL_SET);
    int room = MODEL_PINS - model_pins(m, -1, -1, 0, 0) - m->reserved;
    for (int i = 0; i < count; i++) {
        names[i] = model_some_name(m);
        if (names[i] < 0 || model_is_racing(m, names[i])) return 0;
        u[i] = model_draw_use(m, names[i]);
        for (int k = 0; k < i; k++) /* two accesses of one content: never with a DISCARD */
            if (m->name[names[k]].content == m->name[names[i]].content &&
                (u[i].access == TNM_DISCARD || u[k].access == TNM_DISCARD))
                u[i].access = u[k].access = TNM_READ;
    }
    return count <= room ? count : 0;
}

/* what a set may be refused with; 0 in `ok` = it must be */
static inline uint32_t model_set_may(const model *m, const tnm_use *u, const int *names, int count,
                                     int blocking, int *ok) {
    uint32_t may = 0;
    for (int i = 0; i < count; i++)
        may |= model_use_may(m, &m->name[names[i]], &u[i], ok);
    if (model_may_lack_room(m, u, count)) may |= 1u << -TNM_ERR_BUDGET;
    if (!blocking && m->was_shrunk) may |= 1u << -TNM_ERR_BUDGET; /* what an earlier ask has left */
    if (m->noisy) may |= 1u << -TNM_ERR_BACKEND;
    if (m->noisy) may |= 1u << -TNM_ERR_MEMORY;
    if (model_bad_set(m, u, names, count)) {
        may |= 1u << -TNM_ERR_ARGUMENT;
        *ok = 0;
    }
    return may;
}

static inline void model_refused(model *m, const int *names, int count, int blocking, uint32_t may,
                                 int stirred, tnm_result r) {
    if (stirred)
        may |= 1u << -TNM_ERR_BUDGET | 1u << -TNM_ERR_BUSY | 1u << -TNM_ERR_EMPTY |
               1u << -TNM_ERR_LOST | 1u << -TNM_ERR_STALE;
    if (r == TNM_PENDING)
        MODEL_LEGAL(m, "blocking pin, or one that must fail", r,
                    !blocking || (m->depth > 0 && stirred));
    else
        MODEL_LEGAL(m, "pin", r, r < 0 && (may >> -r & 1u) != 0);
    for (int i = 0; i < count && r == TNM_ERR_EMPTY; i++)
        if (m->name[names[i]].used) model_resolve(m, names[i]);
}

static inline void model_op_pin(model *m, int blocking, int ask_why) {
    tnm_use u[MODEL_SET];
    tnm_pinned p[MODEL_SET];
    tnm_shortage why;
    model_name n[MODEL_SET];
    int names[MODEL_SET], count = model_draw_set(m, u, names), ok = 1, stirred;
    int bad = count > 0 && model_bad_set(m, u, names, count);
    uint64_t before = m->interrupts;
    uint32_t may;
    tnm_result r;
    if (count == 0) return;
    may = model_set_may(m, u, names, count, blocking, &ok);
    for (int i = 0; i < count; i++)
        n[i] = m->name[names[i]];
    if (ask_why) {
        r = tnm_why(m->g.ctx, u, count, &why);
        CHECK(r == TNM_OK || (bad && r == TNM_ERR_ARGUMENT) ||
              (m->starved && r == TNM_ERR_MEMORY));
        if (r != TNM_OK) ask_why = 0;
    }
    if (blocking) model_open(m, n, u, count, 1);
    r = blocking ? tnm_pin(m->g.ctx, u, count, p) : tnm_try_pin(m->g.ctx, u, count, p);
    stirred = model_stirred(m, before);
    if (blocking && r != TNM_OK) model_open(m, n, u, count, -1);
    for (int i = 0; i < count; i++)
        model_say(m, blocking ? "pin: name, tier*10+access" : "try_pin: name, tier*10+access",
                  names[i], u[i].tier * 10 + (int)u[i].access, r);
    if (ask_why && !blocking && !m->starved) CHECK_EQ(why.result, r);
    m->asked += (uint64_t)ok;
    if (r == TNM_OK) {
        MODEL_LEGAL(m, "pin that must fail", r, ok || stirred);
        model_granted(m, u, n, count, p);
        if (blocking) model_open(m, n, u, count, -1);
        return;
    }
    for (int i = 0; i < count; i++)
        CHECK(p[i].id == 0 && p[i].host == NULL && p[i].bytes == 0);
    if (r == TNM_PENDING) MODEL_LEGAL(m, "one that must fail", r, ok || stirred);
    model_refused(m, names, count, blocking, may, stirred, r);
}

static inline int model_some_pin(model *m, int write) {
    uint32_t at = model_draw(m, MODEL_PINS);
    for (uint32_t i = 0; i < MODEL_PINS; i++) {
        model_pin *p = &m->pin[(at + i) % MODEL_PINS];
        if (!p->used || p->fence != 0 || (write && p->p.access == TNM_READ)) continue;
        return (int)((at + i) % MODEL_PINS);
    }
    return -1;
}

static inline void model_op_unpin(model *m, int fenced) {
    int at = model_some_pin(m, 0), content;
    model_pin *p;
    tnm_pinned gone; /* unpin zeroes it; the model must remember what the device still does */
    uint32_t queue = model_draw(m, SIM_QUEUES);
    uint64_t fence = 0;
    tnm_result r;
    if (at < 0) return;
    p = &m->pin[at];
    gone = p->p;
    content = p->content;
    if (fenced) fence = TNM_FENCE(queue, m->g.sim.now[queue] + 1 + model_draw(m, 3));
    if (!fenced) sim_let_go(&m->g.sim, &p->p, 0);
    if (!fenced) p->used = 0;
    r = tnm_unpin(m->g.ctx, &gone, 1, fence);
    model_say(m, "unpin", at, (long long)((fence >> 55) % 256), r);
    if (fenced && m->starved && r == TNM_ERR_MEMORY) { /* nothing was unpinned */
        CHECK(gone.id == p->p.id && gone.bytes == p->p.bytes && gone.offset == p->p.offset);
        return;
    }
    if (fenced) sim_let_go(&m->g.sim, &p->p, fence);
    if (fenced) p->fence = fence;
    CHECK_EQ(r, TNM_OK);
    CHECK(gone.id == 0 && gone.host == NULL && gone.bytes == 0);
    model_settle(m, content);
}

static inline void model_op_scribble(model *m) {
    int at = model_some_pin(m, 1);
    uint64_t from, bytes;
    if (at < 0 || (m->depth > 0 && m->content[m->pin[at].content].racing)) return;
    from = model_draw(m, 65535) % m->pin[at].p.bytes;
    bytes = 1 + model_draw(m, 65535) % (m->pin[at].p.bytes - from);
    model_scribble(m, &m->pin[at], from, bytes);
}

/* ---- plain memory ---- */
/* what a read or a write may answer to other clients of the context */
static inline int model_is_stir(const model *m, int stirred, tnm_result r) {
    return stirred && (r == TNM_ERR_BUDGET || r == TNM_ERR_BUSY || r == TNM_ERR_STALE ||
                       r == TNM_ERR_EMPTY || (r == TNM_PENDING && m->depth > 0));
}

static inline void model_op_read(model *m, int name) {
    static uint8_t back[MODEL_DEPTH][MODEL_BYTES];
    model_name n = m->name[name];
    model_content *c = &m->content[n.content];
    uint64_t from = model_draw(m, 65535) % n.bytes, before = m->interrupts;
    uint64_t bytes = 1 + model_draw(m, 65535) % (n.bytes - from);
    int was = m->g.sim.reading, stirred;
    tnm_result r;
    if (model_is_racing(m, name)) return;
    model_open(m, &n, NULL, 1, 1);
    m->g.sim.reading = 1; /* beside a writer of its own: through staging that is a copy as any */
    r = tnm_read(m->g.ctx, n.handle, from, back[m->depth], bytes);
    m->g.sim.reading = was;
    stirred = model_stirred(m, before);
    model_say(m, "read", name, n.content, r);
    if (r == TNM_OK) {
        MODEL_LEGAL(m, "read of nothing", r, c->state == MODEL_FULL);
        CHECK(model_matches(m, n.content, n.offset + from, back[m->depth], bytes));
    } else {
        MODEL_LEGAL(m, "read", r,
                    (r == TNM_ERR_EMPTY && (c->state == MODEL_EMPTY || c->maybe_dropped)) ||
                        (r == TNM_ERR_LOST && c->state == MODEL_LOST) ||
                        (r == TNM_ERR_BUSY && model_pins(m, n.content, -1, 1, 1) > 0) ||
                        (r == TNM_ERR_BUDGET && (m->tight || m->noisy || model_shrunk(m))) ||
                        (m->noisy && (r == TNM_ERR_BACKEND || r == TNM_ERR_MEMORY)) ||
                        model_is_stir(m, stirred, r));
        if (r == TNM_ERR_EMPTY && m->name[name].used) model_resolve(m, name);
    }
    model_open(m, &n, NULL, 1, -1);
}

/* what a write that was refused may have been refused with */
static inline void model_not_written(model *m, const model_name *n, int stirred, tnm_result r) {
    model_content *c = &m->content[n->content];
    tnm_use u = rig_use(n->handle, 0, TNM_WRITE);
    if (r == TNM_ERR_LOST && c->state == MODEL_FULL && m->noisy &&
        (model_no_staging(m) || model_shrunk(m)))
        c->state = MODEL_LOST;
    MODEL_LEGAL(m, "write", r,
                (r == TNM_ERR_LOST && c->state == MODEL_LOST) ||
                    (r == TNM_ERR_BUSY && model_pins(m, n->content, -1, 1, 0) > 0) ||
                    ((r == TNM_ERR_BUSY || r == TNM_ERR_UNSUPPORTED) && model_is_read_only(c) &&
                     m->g.desc.tier_count == 1) ||
                    (r == TNM_ERR_UNSUPPORTED && c->state == MODEL_EMPTY && model_no_staging(m)) ||
                    (r == TNM_ERR_BUDGET && model_may_lack_room(m, &u, 1)) ||
                    (m->noisy && (r == TNM_ERR_BACKEND || r == TNM_ERR_MEMORY)) ||
                    model_is_stir(m, stirred, r));
}

static inline void model_op_write(model *m) {
    static uint8_t what[MODEL_DEPTH][MODEL_BYTES];
    int name = model_some_name(m);
    model_name n = m->name[name < 0 ? 0 : name];
    model_content *c = &m->content[n.content];
    uint64_t from, bytes, before = m->interrupts;
    tnm_result r;
    if (name < 0 || model_is_racing(m, name)) return;
    model_resolve(m, name);
    from = model_draw(m, 2) ? model_draw(m, 65535) % n.bytes : 0;
    bytes = n.bytes - from;
    if (model_draw(m, 2)) bytes = 1 + model_draw(m, 65535) % bytes;
    sim_fill(what[m->depth], ++m->version, 0, bytes);
    /* dropped before the write or in the middle of it: what a part leaves around it is another */
    int part = bytes < c->bytes && (c->advice & TNM_DROPPABLE);
    if (part) tnm_advise(m->g.ctx, n.handle, c->advice & ~(uint32_t)TNM_DROPPABLE);
    model_open(m, &n, NULL, 1, 1);
    r = tnm_write(m->g.ctx, n.handle, from, what[m->depth], bytes);
    if (part && m->name[name].used) tnm_advise(m->g.ctx, n.handle, c->advice);
    model_say(m, "write", name, n.content, r);
    if (r == TNM_OK) {
        if (c->state != MODEL_FULL) memset(c->now, 0, (size_t)c->bytes);
        memcpy(c->now + n.offset + from, what[m->depth], (size_t)bytes);
        c->state = MODEL_FULL;
    } else {
        model_not_written(m, &n, model_stirred(m, before), r);
    }
    model_open(m, &n, NULL, 1, -1);
}

/* ---- moving down ---- */
static inline int model_is_bottom(const model *m, int tier) {
    return m->g.tiers[tier].spill_to == TNM_NOWHERE || tier + 1 == m->g.desc.tier_count;
}

static inline void model_op_evict(model *m) {
    int name = model_some_name(m), tier = model_some_tier(m), live, any;
    tnm_tensor_info i;
    tnm_result r;
    if (name < 0) return;
    live = model_pins(m, m->name[name].content, tier, 1, 0);
    any = model_pins(m, m->name[name].content, tier, 0, 0);
    r = tnm_evict(m->g.ctx, m->name[name].handle, tier);
    model_say(m, "evict", name, tier, r);
    if (live > 0)
        MODEL_LEGAL(m, "evict of a pinned one", r, r == TNM_ERR_BUSY);
    else
        MODEL_LEGAL(
            m, "evict", r,
            r >= 0 || m->noisy || m->tight || m->depth > 0 || model_is_bottom(m, tier) ||
                (r == TNM_ERR_BUDGET && (m->was_shrunk || model_may_lack_room(m, NULL, 0))));
    if (r == TNM_OK) {
        MODEL_LEGAL(m, "evict under a fence", r, any == 0);
        CHECK_EQ(tnm_info(m->g.ctx, m->name[name].handle, tier, &i), TNM_OK);
        CHECK(i.state == TNM_STATE_ABSENT || i.state == TNM_STATE_LOST || i.adopted);
    }
}

/* is `tier` or something further down its path current? */
static inline int model_is_down(model *m, int name, int tier) {
    tnm_tensor_info i;
    while (tier < m->g.desc.tier_count) {
        CHECK_EQ(tnm_info(m->g.ctx, m->name[name].handle, tier, &i), TNM_OK);
        if (i.state == TNM_STATE_READY) return 1;
        if (model_is_bottom(m, tier)) break;
        tier = m->g.tiers[tier].spill_to > 0 ? m->g.tiers[tier].spill_to : tier + 1;
    }
    return 0;
}

static inline void model_op_flush(model *m, int all) {
    int name = model_some_name(m), tier = model_some_tier(m);
    tnm_tensor t = { 0 };
    tnm_result r;
    if (name < 0) return;
    if (!all) t = m->name[name].handle;
    r = tnm_flush(m->g.ctx, t, tier);
    model_say(m, "flush", all ? -1 : name, tier, r);
    MODEL_LEGAL(m, "flush", r,
                r >= 0 || m->noisy || m->tight || m->depth > 0 ||
                    (r == TNM_ERR_BUSY && model_pins(m, -1, -1, 1, 1) > 0) ||
                    (r == TNM_ERR_BUDGET && (m->was_shrunk || model_may_lack_room(m, NULL, 0))) ||
                    (r == TNM_ERR_EMPTY && m->content[m->name[name].content].state == MODEL_EMPTY));
    const model_content *c = &m->content[m->name[name].content];
    if (r != TNM_OK || all || m->tree == 3 || c->maybe_dropped || c->racing) return;
    if (c->state == MODEL_FULL) CHECK(model_is_down(m, name, tier));
}

static inline void model_op_budget(model *m) {
    int tier = model_some_tier(m);
    uint64_t full = m->full[tier], bytes = full;
    uint32_t how = model_draw(m, 8);
    tnm_result r;
    if (full == 0) full = bytes = TNM_ALL;
    if (how == 0) bytes = 0;
    if (how == 1) bytes = TNM_ALL;
    if (how == 2 && full != TNM_ALL) bytes = full / 2;
    if (model_is_bottom(m, tier) && bytes < full) bytes = full; /* a bottom has nowhere to go */
    r = rig_budget(&m->g, tier, bytes);
    model_say(m, "budget", tier, (long long)bytes, r);
    MODEL_LEGAL(m, "set_budget", r,
                r >= 0 || m->noisy || m->tight || m->depth > 0 ||
                    (r == TNM_ERR_BUSY && model_pins(m, -1, tier, 1, 0) > 0) ||
                    (r == TNM_ERR_BUDGET && (m->was_shrunk || model_may_lack_room(m, NULL, 0))));
    m->shrunk[tier] = r != TNM_OK || bytes < full;
    m->was_shrunk |= m->shrunk[tier];
    if (r == TNM_OK) CHECK(m->g.sim.device[tier].held <= bytes);
}

/* ---- foresight ---- */
static inline int model_draw_uses(model *m, tnm_use *u, int most) {
    int count = (int)model_draw(m, (uint32_t)most + 1), n = 0;
    for (int i = 0; i < count; i++) {
        int name = model_some_name(m);
        if (name < 0) return 0;
        u[n] = model_draw_use(m, name);
        u[n].step = model_draw(m, 8);
        n++;
    }
    return n;
}

static inline void model_op_foresee(model *m) {
    tnm_use u[8];
    uint32_t lane = model_draw(m, 3);
    int count = model_draw_uses(m, u, 8);
    tnm_result r;
    if (model_draw(m, 2)) {
        r = tnm_schedule(m->g.ctx, lane, u, count, count > 0 ? 8 : 0);
    } else {
        for (int i = 0; i < count; i++) {
            u[i].step += m->steps[lane];
            u[i].flags = model_draw(m, 2) ? (uint32_t)TNM_SURE : 0;
        }
        r = tnm_prefetch(m->g.ctx, lane, u, count);
    }
    model_say(m, "foresee", lane, count, r);
    MODEL_LEGAL(m, "schedule or prefetch", r, r >= 0 || (m->starved && r == TNM_ERR_MEMORY));
}

static inline void model_op_step(model *m) {
    uint32_t lane = model_draw(m, 3);
    m->steps[lane] = model_draw(m, 8) ? m->steps[lane] + 1 : model_draw(m, 100);
    CHECK_EQ(tnm_step(m->g.ctx, lane, m->steps[lane]), TNM_OK);
}

/* whatever was pinned since becomes a cycle: told, or followed from then on. By the number of the
 * call and the tag: nothing is drawn for it, so that what a stream says stays what it was. */
static inline void model_op_record(model *m) {
    uint32_t lane = (uint32_t)(m->op / 16 % 3);
    tnm_result r;
    if (m->op / 48 % 2 == 0) {
        CHECK_EQ(tnm_record(m->g.ctx, lane), TNM_OK);
        return;
    }
    r = tnm_replay(m->g.ctx, lane);
    model_say(m, "replay", lane, 0, r);
    MODEL_LEGAL(m, "replay", r, r >= 0 || r == TNM_ERR_ARGUMENT || m->noisy);
}

static inline void model_op_cancel(model *m) {
    tnm_tensor t[4];
    int n = 0;
    for (int i = 0; i < 4; i++) {
        int name = model_some_name(m);
        if (name >= 0) t[n++] = m->name[name].handle;
    }
    if (n > 0) CHECK(tnm_cancel(m->g.ctx, t, n) >= 0);
}

static inline void model_op_advise(model *m) {
    static const uint32_t advices[] = { TNM_NORMAL, TNM_KEEP, TNM_ONCE, TNM_WONT_NEED };
    int name = model_some_name(m);
    uint32_t advice = advices[model_draw(m, 4)];
    if (name < 0 || model_is_racing(m, name)) return;
    if (model_draw(m, 8) == 0) advice |= TNM_DROPPABLE;
    CHECK_EQ(tnm_advise(m->g.ctx, m->name[name].handle, advice), TNM_OK);
    m->content[m->name[name].content].advice = advice;
}

/* ---- heartbeat ---- */
static inline void model_op_pump(model *m) {
    static const uint64_t most[] = { 0, 512, 1024, 4096, 65536, TNM_ALL, TNM_ALL, TNM_ALL };
    uint64_t n = most[model_draw(m, 8)], copies = m->g.sim.calls[SIM_COPY];
    uint64_t before = m->interrupts;
    tnm_result r = tnm_pump(m->g.ctx, n);
    model_say(m, "pump", (long long)n, 0, r);
    MODEL_LEGAL(m, "pump", r, r >= 0); /* never another call's error */
    if (n == 0 && !model_stirred(m, before)) CHECK_EQ(m->g.sim.calls[SIM_COPY], copies);
}

static inline void model_op_wait(model *m) {
    tnm_result r = tnm_wait(m->g.ctx);
    model_say(m, "wait", 0, 0, r);
    MODEL_LEGAL(m, "wait", r, r >= 0);
}

static inline void model_op_advance(model *m) {
    uint32_t queue = model_draw(m, SIM_QUEUES);
    m->g.sim.now[queue] += 1 + model_draw(m, 3);
}

static inline void model_step(model *m) {
    uint32_t op;
    int name;
    if (m->records) model_record(m, MODEL_RECORD);
    op = model_byte(m);
    m->op++;
    if (m->records && m->special != NULL && op >= MODEL_SPECIAL) {
        m->special(m);
        return;
    }
    op %= 64;
    if (m->op % 16 == 5 && (m->g.desc.tag & 2)) model_op_record(m);
    if (op < 6)
        model_op_create(m);
    else if (op < 8)
        model_op_view(m);
    else if (op < 10)
        model_op_adopt(m);
    else if (op < 13)
        model_op_destroy(m);
    else if (op < 20)
        model_op_pin(m, 1, op < 15);
    else if (op < 27)
        model_op_pin(m, 0, op < 24);
    else if (op < 34)
        model_op_unpin(m, 0);
    else if (op < 38)
        model_op_unpin(m, 1);
    else if (op < 40)
        model_op_scribble(m);
    else if (op < 45)
        model_op_pump(m);
    else if (op == 45)
        model_op_wait(m);
    else if (op < 48 && (name = model_some_name(m)) >= 0)
        model_op_read(m, name);
    else if (op < 50)
        model_op_write(m);
    else if (op < 52)
        model_op_evict(m);
    else if (op < 54)
        model_op_flush(m, op == 53);
    else if (op < 56)
        model_op_budget(m);
    else if (op < 58)
        model_op_foresee(m);
    else if (op == 58)
        model_op_step(m);
    else if (op == 59)
        model_op_cancel(m);
    else if (op == 60)
        model_op_advise(m);
    else if (op < 63)
        model_op_advance(m);
    else
        model_op_stale(m);
    model_after(m);
}

/* Another client's call in the middle of one that waits: `record` is what it does. */
static inline void model_interrupt(model *m, const uint8_t *record) {
    const uint8_t *data = m->data;
    size_t size = m->size, next = m->next, end = m->end;
    uint64_t random = m->random;
    if (m->depth + 1 == MODEL_DEPTH) return;
    m->data = record;
    m->size = MODEL_RECORD;
    m->end = 0;
    m->depth++;
    model_step(m);
    m->depth--;
    m->interrupts++;
    m->data = data;
    m->size = size;
    m->next = next;
    m->end = end;
    m->random = random;
}

/* ---- the end: faults stop, pins go, every byte is looked at, everything is given back ---- */
static inline void model_calm(model *m) {
    m->g.sim.fail = m->g.sim.deny = m->g.sim.busy = 0;
    m->g.sim.fault_at = 0;
    while (model_some_pin(m, 0) >= 0)
        model_op_unpin(m, 0);
    for (int q = 0; q < SIM_QUEUES; q++)
        m->g.sim.now[q] += 100;
    for (int t = 0; t < m->g.desc.tier_count; t++)
        rig_budget(&m->g, t, m->full[t] > 0 ? m->full[t] : TNM_ALL);
    for (int i = 0; i < (m->noisy ? 600 : 80); i++)
        tnm_pump(m->g.ctx, TNM_ALL); /* back-offs end, claims lapse */
    CHECK_EQ(tnm_check(m->g.ctx), 0);
    m->noisy = m->starved = 0;
    memset(m->shrunk, 0, sizeof m->shrunk);
}

static inline void model_verify_name(model *m, int name) {
    static uint8_t back[MODEL_BYTES];
    const model_name *n = &m->name[name];
    model_content *c = &m->content[n->content];
    tnm_result r;
    model_resolve(m, name);
    r = tnm_read(m->g.ctx, n->handle, 0, back, n->bytes);
    if (c->state == MODEL_LOST)
        CHECK_EQ(r, TNM_ERR_LOST);
    else if (c->state == MODEL_EMPTY || (c->advice & TNM_DROPPABLE) != 0)
        CHECK(r == TNM_ERR_EMPTY || (r == TNM_OK && c->state == MODEL_FULL));
    else
        MODEL_LEGAL(m, "read at the end", r, r == TNM_OK);
    if (r == TNM_OK) CHECK(model_matches(m, n->content, n->offset, back, n->bytes));
}

/* all bytes of a writable adopted content are in its memory once it is flushed to the bottom */
static inline void model_verify_lent(model *m, int name) {
    const model_name *n = &m->name[name];
    const model_content *c = &m->content[n->content];
    tnm_result r;
    if (c->lent == NULL || !c->writable || c->released) return;
    if (c->maybe_dropped || (c->advice & TNM_DROPPABLE)) return;
    if (c->state != MODEL_FULL) return;
    RIG_UNTIL(r, &m->g, tnm_flush(m->g.ctx, n->handle, c->lent_tier));
    if (r < 0) RIG_UNTIL(r, &m->g, tnm_flush(m->g.ctx, n->handle, c->lent_tier)); /* told once */
    MODEL_LEGAL(m, "flush to adopted memory", r, r == TNM_OK);
    if (r == TNM_OK) CHECK(memcmp(c->lent, c->now, (size_t)c->bytes) == 0);
}

static inline void model_finish(model *m) {
    m->g.sim.between = NULL; /* the other clients have left */
    if (m->g.desc.trace != NULL && !model_draw(m, 2)) {
        /* destroy with everything still under way */
        m->g.sim.fail = m->g.sim.deny = 0;
        m->g.sim.fault_at = 0;
    } else {
        model_calm(m);
        for (int i = 0; i < MODEL_NAMES; i++)
            if (m->name[i].used) model_verify_name(m, i);
        for (int i = 0; i < MODEL_NAMES; i++)
            if (m->name[i].used) model_verify_lent(m, i);
        for (int i = 0; i < MODEL_NAMES; i++)
            if (m->name[i].used) model_kill(m, i);
        rig_rest(&m->g);
        for (int t = 0; t < m->g.desc.tier_count; t++)
            CHECK_EQ(rig_stats(&m->g, t).used_bytes, 0);
    }
    while (model_some_pin(m, 0) >= 0)
        model_op_unpin(m, 0);
    rig_healthy(&m->g);
    CHECK_EQ(tnm_destroy(m->g.ctx), TNM_OK);
    m->g.ctx = NULL;
    for (int i = 0; i < MODEL_CONTENTS; i++)
        if (m->content[i].lent != NULL) CHECK(m->content[i].released);
    rig_close_sim(&m->g);
}

/* Begin: the stream, or the seed where there is none, says on what. */
static inline void model_begin(model *m, const uint8_t *data, size_t size, uint64_t seed) {
    memset(m->name, 0, sizeof m->name);
    memset(m->pin, 0, sizeof m->pin);
    memset(m->dead, 0, sizeof m->dead);
    memset(m->shrunk, 0, sizeof m->shrunk);
    m->was_shrunk = 0;
    memset(m->full, 0, sizeof m->full);
    memset(m->steps, 0, sizeof m->steps);
    for (int i = 0; i < MODEL_CONTENTS; i++)
        m->content[i].used = 0, m->content[i].lent = NULL;
    m->data = data;
    m->size = size;
    m->next = 0;
    m->random = sim_mix(seed, 0x5EED);
    m->version = m->deaths = m->asked = m->granted = m->op = m->interrupts = 0;
    m->depth = m->reserved = m->starved = 0;
    m->end = 0;
    m->records = size > 1 && data[0] == MODEL_RECORDS;
    if (m->records) model_record(m, 2 * MODEL_RECORD);
    if (m->records) seed = m->data[1];
    if (m->records) m->next = 2;
    rig_start(&m->g, seed + 7);
    model_build(m);
    model_behave(m);
    model_say(m, "tree, kind of tier 0", m->tree, m->g.sim.device[0].kind, m->dedicated);
    model_say(m, "delay, busy", m->g.sim.delay, m->g.sim.busy, m->noisy);
}

static inline void model_go_on(model *m, int ops) {
    for (int i = 0; i < ops && !model_over(m); i++)
        model_step(m);
    model_finish(m);
}

/* Play `ops` calls (or as many as the bytes give). Returns the hash of the trace, 0 without one. */
static inline uint64_t model_play(model *m, const uint8_t *data, size_t size, uint64_t seed,
                                  int ops) {
    model_begin(m, data, size, seed);
    if (!rig_create(&m->g)) return 0;
    model_go_on(m, ops);
    return m->g.sim.trace_hash;
}

#endif
