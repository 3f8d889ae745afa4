/* sim.h: backends that lie in wait. A test includes tensormem.h, then this.
 *
 * A `sim` is a world of up to SIM_DEVICES backends for one context. A hidden device keeps its CPU
 * addresses to itself and scrambles its tokens, so that whoever follows one of them falls on his
 * face; a plain one is memory with a CPU address. Copies finish at once or after a drawn number of
 * polls. Until then their destination holds garbage, and their source must not change. Every
 * callback is held against the contract in [types]; a breach is a failed check.
 *
 * A `rig` is a world with a context: tiers, budgets, leak-counting allocator, fences, log, trace.
 * Everything is drawn from one seed: same seed and same calls, same answers. */
#ifndef TENSORMEM_TESTS_SIM_H
#define TENSORMEM_TESTS_SIM_H

#include "check.h"

/* A test that begins ten thousand times from the same world has a smaller one. */
#ifndef SIM_COUNTS
#    define SIM_COUNTS SIM_BLOCKS = 512, SIM_COPIES = 128, SIM_HOLDS = 256
#endif
#ifndef SIM_TURN /* and may let another thread run while a callback does */
#    define SIM_TURN() ((void)0)
#endif
enum {
    SIM_DEVICES = 6,
    SIM_COUNTS,
    SIM_QUEUES = 4,
    SIM_ALIGN = 1 << 22, /* no device gives more */
    SIM_GUARD = 64,      /* bytes on either side of a block that nobody may touch */
    SIM_POISON = 0xDB,
    SIM_GARBAGE = 0xE7,
    SIM_FENCE = 0xC3
};
enum { SIM_PLAIN = 0, SIM_HIDDEN = 1, SIM_ASYNC = 2, SIM_SUBMIT = 4, SIM_WAIT = 8 }; /* kinds */
enum { SIM_ALLOC, SIM_COPY, SIM_POLL, SIM_PASSED, SIM_HOST_ALLOC, SIM_CLASSES };

typedef struct sim_block {
    uint8_t *raw, *at; /* raw NULL = free slot, or the caller's own memory when lent */
    uint64_t mem, size;
    int lent; /* not from alloc: to be adopted */
} sim_block;

typedef struct sim_device {
    struct sim *world;
    int tier, kind, lost;
    uint64_t capacity; /* alloc refuses past it; 0 = never */
    uint64_t limit;    /* the budget in force: growing past it is a breach */
    uint64_t held, peak;
    uint32_t depth, granularity; /* copies at once; grain of adopted memory */
    int no_self;                 /* declines copies inside itself: such a tier is not compacted */
    int alone;                   /* declines every route but plain memory that is not adopted */
    int full;                    /* every copy is BUSY */
    int top;                     /* blocks from here on were never used */
    sim_block blocks[SIM_BLOCKS];
} sim_device;

typedef struct sim_copying {
    sim_device *by; /* NULL = free slot */
    sim_device *touches[2];
    uint8_t *to, *from;
    uint64_t size, ticket, hash;
    int left, submitted, doomed, fails;
} sim_copying;

typedef struct sim_held { /* memory a pin or a fence promises not to touch */
    uint8_t *at;
    uint64_t size, id, fence;
    int write;
} sim_held;

typedef struct sim {
    sim_device device[SIM_DEVICES];
    sim_copying copies[SIM_COPIES];
    sim_held holds[SIM_HOLDS];
    uint64_t random;
    int delay;            /* a copy ends after 0 .. delay polls, drawn */
    int share;            /* up to so many copies under one ticket; 0 and 1 = one */
    int recycle;          /* ticket numbers come back as soon as they are answered */
    int stuck;            /* nothing ever ends */
    int reading;          /* a tnm_read runs: the one reader beside a writer */
    int busy, deny, fail; /* chances in 256: copy is BUSY, alloc refuses, copy or poll fails */
    int peers;            /* hidden devices can copy to each other */
    int lives_on;         /* a device that dies ends no copy of another from or to its memory: 1 =
                           * such a copy ends well, with what it finds; 2 = in its time, badly */
    int inside;
    uint64_t tickets, open_ticket, open_count;
    uint64_t calls[SIM_CLASSES];
    int fault_class, fault_forever; /* fault_at 0 = none; forever: every so many calls from there */
    tnm_result fault_result;        /* of a copy or a poll, 0 = BACKEND */
    uint64_t fault_at, fired;
    const uint8_t *waits; /* how many polls each copy takes, in turn, 0 = drawn */
    uint32_t wait_count, wait_next;
    void (*between)(void *user); /* called inside every callback, when its own work is done */
    void *between_user;
    uint64_t now[SIM_QUEUES], told[SIM_QUEUES]; /* what has passed, and what we said */
    int fence_stuck;
    uint64_t asked_queue[SIM_QUEUES];
    uint64_t idle_limit, idles; /* rounds after which idle gives up; 0 = a hang is a breach */
    uint64_t copied, copied_bytes, accepted_bytes; /* ended, and handed to a device */
    uint64_t trace_hash, events;
    uint64_t seen[16]; /* events by kind */
    tnm_event last_event;
    uint64_t logs[3];
    int loud; /* print log items as they come */
    tnm_log last_log;
    char rule[200];
} sim;

#define SIM_MUST(cond)                                                                             \
    ((cond) ? (void)0 : check_fail(__FILE__, __LINE__, "backend contract: " #cond))

/* ---- draws and patterns ---- */
static inline uint64_t sim_draw(sim *w, uint64_t below) {
    return check_draw(&w->random, below);
}

static inline int sim_chance(sim *w, int in256) {
    return in256 > 0 && (int)sim_draw(w, 256) < in256;
}

static inline uint64_t sim_mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
    return hash ^ (hash >> 29);
}

static inline uint64_t sim_hash(const uint8_t *at, uint64_t size) {
    uint64_t hash = size;
    for (uint64_t i = 0; i < size; i++)
        hash = (hash ^ at[i]) * 0x100000001B3u;
    return hash;
}

/* the byte at `offset` of the payload named `key` */
static inline uint8_t sim_byte(uint64_t key, uint64_t offset) {
    uint64_t name = sim_mix(0x51ED, key);
    return (uint8_t)((name >> (8 * (offset & 7))) ^ ((offset >> 3) * 0x9D + (offset >> 11)));
}

static inline void sim_fill(void *at, uint64_t key, uint64_t offset, uint64_t size) {
    for (uint64_t i = 0; i < size; i++)
        ((uint8_t *)at)[i] = sim_byte(key, offset + i);
}

/* 1 if memory holds [offset, offset + size) of the payload */
static inline int sim_same(const void *at, uint64_t key, uint64_t offset, uint64_t size) {
    for (uint64_t i = 0; i < size; i++)
        if (((const uint8_t *)at)[i] != sim_byte(key, offset + i)) return 0;
    return 1;
}

static inline int sim_all(const void *at, int value, uint64_t size) {
    for (uint64_t i = 0; i < size; i++)
        if (((const uint8_t *)at)[i] != value) return 0;
    return 1;
}

/* ---- blocks ---- */
static inline sim_block *sim_find(sim_device *d, uint64_t mem) {
    for (int i = 0; i < d->top; i++)
        if (d->blocks[i].at != NULL && d->blocks[i].mem == mem) return &d->blocks[i];
    return NULL;
}

static inline uint64_t sim_token(sim_device *d, sim_block *b) {
    uint64_t slot = (uint64_t)(b - d->blocks);
    if ((d->kind & SIM_HIDDEN) == 0) return (uint64_t)(uintptr_t)b->at;
    return 0xBAD0000000000000u ^ (slot * 0x10001u + (uint64_t)d->tier * 0x777u + 1);
}

static inline sim_block *sim_make(sim_device *d, uint64_t size, uint64_t align) {
    sim_block *b = d->blocks;
    uint64_t room = size + align + 2 * SIM_GUARD;
    while (b < d->blocks + d->top && b->at != NULL)
        b++;
    if (b == d->blocks + SIM_BLOCKS || room < size || align > SIM_ALIGN) return NULL;
    if ((b->raw = (uint8_t *)malloc((size_t)room)) == NULL) {
        return NULL;
    }
    if (b == d->blocks + d->top) d->top++;
    b->at = b->raw + SIM_GUARD;
    b->at += (align - (uintptr_t)b->at % align) % align;
    b->size = size;
    b->lent = 0;
    b->mem = sim_token(d, b);
    memset(b->at - SIM_GUARD, SIM_FENCE, SIM_GUARD);
    memset(b->at, SIM_POISON, (size_t)size);
    memset(b->at + size, SIM_FENCE, SIM_GUARD);
    return b;
}

static inline void sim_unmake(sim_block *b) {
    SIM_MUST(sim_all(b->at - SIM_GUARD, SIM_FENCE, SIM_GUARD));
    SIM_MUST(sim_all(b->at + b->size, SIM_FENCE, SIM_GUARD));
    memset(b->at, SIM_POISON, (size_t)b->size);
    free(b->raw);
    memset(b, 0, sizeof *b);
}

/* memory of the device that is not from alloc: for tnm_tensor_adopt */
static inline uint64_t sim_lend(sim_device *d, uint64_t size) {
    sim_block *b = sim_make(d, size, 4096);
    if (b != NULL) b->lent = 1;
    return b != NULL ? b->mem : 0;
}

static inline tnm_adopt_desc sim_lent(sim_device *d, uint64_t mem, uint64_t offset) {
    tnm_adopt_desc a;
    sim_block *b = sim_find(d, mem);
    memset(&a, 0, sizeof a);
    a.tier = d->tier;
    a.mem = mem;
    a.offset = offset;
    a.host = (d->kind & SIM_HIDDEN) != 0 || b == NULL ? NULL : b->at + offset;
    return a;
}

static inline int sim_overlap(const uint8_t *a, uint64_t na, const uint8_t *b, uint64_t nb) {
    return (uintptr_t)a < (uintptr_t)b + nb && (uintptr_t)b < (uintptr_t)a + na;
}

/* ---- the callbacks ---- */
static inline int sim_fires(sim *w, int kind) { /* one more call: is it the one to fail? */
    uint64_t n = CHECK_ADD(w->calls[kind], 1);
    int fires = w->fault_at > 0 && w->fault_class == kind &&
                (n == w->fault_at || (w->fault_forever > 0 && n > w->fault_at &&
                                      (n - w->fault_at) % (uint64_t)w->fault_forever == 0));
    if (fires) w->fired++;
    return fires;
}

/* the n-th call of the kind from now fails, once or for ever; until fault_at = 0 */
static inline void sim_break(sim *w, int kind, uint64_t n, int forever) {
    w->fault_class = kind;
    w->fault_forever = forever;
    w->fault_at = w->calls[kind] + n;
}

static inline tnm_result sim_enter(sim *w, int kind, tnm_result fault) {
    SIM_MUST(CHECK_ADD(w->inside, 1) == 1); /* one callback of a context at a time */
    SIM_TURN();
    if (fault == TNM_ERR_BACKEND && w->fault_result != TNM_OK) fault = w->fault_result;
    return sim_fires(w, kind) ? fault : TNM_OK;
}

static inline void sim_leave(sim *w) {
    if (w->between != NULL) (w->between)(w->between_user);
    CHECK_ADD(w->inside, -1);
}

static inline int sim_may_hold(sim_device *d, uint64_t size) {
    int fits = d->held + size <= d->limit;
    SIM_MUST(fits); /* P2: never past the budget, not even for an instant */
    return fits && (d->capacity == 0 || d->held + size <= d->capacity);
}

static inline tnm_result sim_alloc(void *user, uint64_t size, uint64_t align, void *item,
                                   uint64_t *mem, void **host) {
    sim_device *d = (sim_device *)user;
    tnm_result r = sim_enter(d->world, SIM_ALLOC, TNM_ERR_MEMORY);
    sim_block *b = NULL;
    (void)item;
    SIM_MUST(size >= 1 && align >= 1 && (align & (align - 1)) == 0);
    if (r == TNM_OK && d->lost) r = TNM_ERR_LOST;
    if (r == TNM_OK && (!sim_may_hold(d, size) || sim_chance(d->world, d->world->deny)))
        r = TNM_ERR_MEMORY;
    if (r == TNM_OK && (b = sim_make(d, size, align)) == NULL) r = TNM_ERR_MEMORY;
    if (b != NULL) {
        d->held += size;
        if (d->held > d->peak) d->peak = d->held;
        *mem = b->mem;
        *host = (d->kind & SIM_HIDDEN) != 0 ? NULL : b->at;
    }
    sim_leave(d->world);
    return r;
}

static inline int sim_runs_in(sim *w, const sim_block *b) {
    for (int i = 0; i < SIM_COPIES; i++) {
        const sim_copying *c = &w->copies[i];
        if (c->by == NULL || c->doomed) continue;
        if (sim_overlap(c->to, c->size, b->at, b->size)) return 1;
        if (sim_overlap(c->from, c->size, b->at, b->size)) return 1;
    }
    return 0;
}

static inline int sim_fence_open(const sim *w, uint64_t fence) {
    uint64_t value = fence & 0x007FFFFFFFFFFFFFu; /* as TNM_FENCE lays it out */
    return fence == 0 || value > w->told[(fence >> 55) % SIM_QUEUES];
}

static inline int sim_held_in(sim *w, const uint8_t *at, uint64_t size, int only_write) {
    for (int i = 0; i < SIM_HOLDS; i++) {
        const sim_held *h = &w->holds[i];
        if (h->at == NULL || (only_write && !h->write) || !sim_fence_open(w, h->fence)) continue;
        if (sim_overlap(h->at, h->size, at, size)) return 1;
    }
    return 0;
}

static inline void sim_release(void *user, uint64_t mem, uint64_t size) {
    sim_device *d = (sim_device *)user;
    sim_block *b = sim_find(d, mem);
    SIM_MUST(CHECK_ADD(d->world->inside, 1) == 1);
    SIM_TURN();
    SIM_MUST(b != NULL && !b->lent);
    if (b != NULL && !b->lent) {
        SIM_MUST(b->size == size);
        SIM_MUST(!sim_runs_in(d->world, b));
        SIM_MUST(d->lost || !sim_held_in(d->world, b->at, b->size, 0)); /* P3 */
        d->held -= b->size;
        sim_unmake(b);
    }
    sim_leave(d->world);
}

/* where one end of a copy really is; NULL = not ours to reach */
static inline uint8_t *sim_reach(const tnm_span *s, uint64_t size, sim_device **device) {
    sim_block *b;
    *device = NULL;
    if (s->backend == NULL) {
        SIM_MUST(s->tier == -1 && s->host != NULL && !s->adopted);
        return (uint8_t *)s->host;
    }
    SIM_MUST(s->tier >= 0);
    if (s->backend->alloc != sim_alloc) return (uint8_t *)s->host;
    *device = (sim_device *)s->backend->user;
    b = sim_find(*device, s->mem);
    SIM_MUST((*device)->tier == s->tier);
    SIM_MUST(b != NULL && s->offset <= b->size && size <= b->size - s->offset);
    if (b == NULL || s->offset > b->size || size > b->size - s->offset) return NULL;
    SIM_MUST(s->adopted == b->lent);
    SIM_MUST(s->host == (((*device)->kind & SIM_HIDDEN) != 0 ? NULL : b->at + s->offset));
    return b->at + s->offset;
}

static inline int sim_plain_end(const tnm_span *s) {
    return s->host != NULL;
}

/* is it a route of this device? One end is its own memory, the other one it can reach. */
static inline int sim_route(const sim_device *d, const tnm_span *dst, const tnm_span *src) {
    int mine_dst = dst->backend != NULL && dst->backend->user == d;
    int mine_src = src->backend != NULL && src->backend->user == d;
    const tnm_span *other = mine_dst ? src : dst;
    if (!mine_dst && !mine_src) return 0;
    if (mine_dst && mine_src) return !d->no_self;
    if (d->alone && other->adopted) return 0;
    return sim_plain_end(other) || d->world->peers;
}

static inline void sim_check_clear(sim *w, uint8_t *to, uint8_t *from, uint64_t size,
                                   int user_end) {
    SIM_MUST(!sim_overlap(to, size, from, size));
    for (int i = 0; i < SIM_COPIES; i++) {
        const sim_copying *c = &w->copies[i];
        if (c->by == NULL || c->doomed) continue;
        SIM_MUST(!sim_overlap(to, size, c->to, c->size));
        SIM_MUST(!sim_overlap(to, size, c->from, c->size));
        SIM_MUST(!sim_overlap(from, size, c->to, c->size));
    }
    if (user_end) return; /* tnm_read and tnm_write are the caller's own accesses */
    SIM_MUST(!sim_held_in(w, to, size, 0));   /* P3: nothing lands in pinned memory */
    if (!w->reading) SIM_MUST(!sim_held_in(w, from, size, 1)); /* nor read while it is written */
}

static inline uint64_t sim_ticket(sim *w) {
    uint64_t t = 1;
    if (w->open_ticket != 0 && w->open_count < (uint64_t)w->share) {
        w->open_count++;
        return w->open_ticket;
    }
    if (!w->recycle) t = ++w->tickets;
    for (int i = 0; w->recycle && i < SIM_COPIES; i++) {
        if (w->copies[i].by == NULL || w->copies[i].ticket != t) continue;
        t++;
        i = -1;
    }
    w->open_ticket = w->share > 1 ? t : 0;
    w->open_count = 1;
    return t;
}

static inline uint32_t sim_running(const sim_device *d) {
    uint32_t n = 0;
    for (int i = 0; i < SIM_COPIES; i++)
        n += d->world->copies[i].by == d;
    return n;
}

static inline void sim_land(sim *w, sim_copying *c) {
    SIM_MUST(sim_hash(c->from, c->size) == c->hash); /* the source changed under the copy */
    memcpy(c->to, c->from, (size_t)c->size);
    w->copied++;
    w->copied_bytes += c->size;
}

static inline tnm_result sim_start(sim_copying what, uint64_t *ticket) {
    sim *w = what.by->world;
    sim_copying *c = w->copies;
    while (c < w->copies + SIM_COPIES && c->by != NULL)
        c++;
    SIM_MUST(sim_running(what.by) < what.by->depth); /* queue_depth */
    if (c == w->copies + SIM_COPIES) return TNM_ERR_BUSY;
    what.hash = sim_hash(what.from, what.size);
    if ((what.by->kind & SIM_ASYNC) == 0 || (w->delay == 0 && sim_chance(w, 64))) {
        sim_land(w, &what);
        return TNM_OK;
    }
    memset(what.to, SIM_GARBAGE, (size_t)what.size);
    what.left = w->wait_count > 0 ? w->waits[w->wait_next++ % w->wait_count]
                                  : (int)sim_draw(w, (uint64_t)w->delay + 1);
    what.ticket = sim_ticket(w);
    *c = what;
    *ticket = c->ticket;
    return TNM_PENDING;
}

static inline tnm_result sim_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                  uint64_t size, uint64_t *ticket) {
    sim_copying c = { (sim_device *)user, { NULL, NULL }, NULL, NULL, size, 0, 0, 0, 0, 0, 0 };
    sim *w = c.by->world;
    tnm_result r = sim_enter(w, SIM_COPY, TNM_ERR_BACKEND);
    SIM_MUST(size >= 1);
    c.to = sim_reach(dst, size, &c.touches[0]);
    c.from = sim_reach(src, size, &c.touches[1]);
    if (src->adopted && c.touches[1] != NULL && c.touches[1]->granularity > 1)
        SIM_MUST(src->offset % c.touches[1]->granularity == 0 &&
                 size % c.touches[1]->granularity == 0);
    if (r == TNM_OK && c.by->lost) r = TNM_ERR_LOST;
    if (r == TNM_OK && (c.to == NULL || c.from == NULL || !sim_route(c.by, dst, src)))
        r = TNM_ERR_UNSUPPORTED;
    if (r == TNM_OK) sim_check_clear(w, c.to, c.from, size, dst->tier < 0 || src->tier < 0);
    if (r == TNM_OK && (c.by->full || sim_chance(w, w->busy))) r = TNM_ERR_BUSY;
    if (r == TNM_OK && sim_chance(w, w->fail)) r = TNM_ERR_BACKEND;
    for (int i = 0; r == TNM_OK && w->lives_on == 2 && i < 2; i++)
        if (c.touches[i] != NULL && c.touches[i]->lost) r = TNM_ERR_BACKEND;
    if (r != TNM_OK && r != TNM_ERR_BUSY && r != TNM_ERR_UNSUPPORTED && !c.by->lost && c.to != NULL)
        memset(c.to, SIM_GARBAGE, (size_t)(size + 1) / 2);
    if (r == TNM_OK) r = sim_start(c, ticket);
    if (r >= 0) w->accepted_bytes += size;
    sim_leave(w);
    return r;
}

static inline void sim_submit(void *user) {
    sim_device *d = (sim_device *)user;
    SIM_MUST(CHECK_ADD(d->world->inside, 1) == 1);
    SIM_TURN();
    for (int i = 0; i < SIM_COPIES; i++)
        if (d->world->copies[i].by == d) d->world->copies[i].submitted = 1;
    d->world->open_ticket = 0;
    sim_leave(d->world);
}

/* ends every copy under the ticket, well or badly */
static inline void sim_answer(sim_device *d, uint64_t ticket, int well) {
    for (int i = 0; i < SIM_COPIES; i++) {
        sim_copying *c = &d->world->copies[i];
        if (c->by != d || c->ticket != ticket) continue;
        if (well) sim_land(d->world, c);
        c->by = NULL;
    }
    if (d->world->open_ticket == ticket) d->world->open_ticket = 0;
}

/* counts the ticket's copies that are not due; -1 = there is no such ticket */
static inline int sim_due(sim_device *d, uint64_t ticket, int now, int *doomed) {
    int found = 0, waiting = 0;
    *doomed = 0;
    for (int i = 0; i < SIM_COPIES; i++) {
        sim_copying *c = &d->world->copies[i];
        if (c->by != d || c->ticket != ticket) continue;
        SIM_MUST(c->submitted || (d->kind & SIM_SUBMIT) == 0);
        *doomed |= c->doomed | c->fails;
        found = 1;
        if (!now && c->left-- > 0) waiting++;
    }
    return found ? waiting : -1;
}

static inline tnm_result sim_ask(sim_device *d, uint64_t ticket, int now) {
    sim *w = d->world;
    tnm_result r = sim_enter(w, SIM_POLL, TNM_ERR_BACKEND);
    int doomed = 0, waiting;
    if (d->lost) {
        sim_leave(w);
        return TNM_ERR_LOST;
    }
    waiting = sim_due(d, ticket, now, &doomed);
    SIM_MUST(waiting >= 0); /* never given, or answered before */
    if (r == TNM_OK && w->stuck) r = TNM_PENDING;
    if (r == TNM_OK && doomed) r = TNM_ERR_BACKEND;
    if (r == TNM_OK && waiting > 0) r = TNM_PENDING;
    if (r == TNM_OK && sim_chance(w, w->fail)) r = TNM_ERR_BACKEND;
    if (r != TNM_PENDING) sim_answer(d, ticket, r == TNM_OK);
    sim_leave(w);
    return r;
}

static inline tnm_result sim_poll(void *user, uint64_t ticket) {
    return sim_ask((sim_device *)user, ticket, 0);
}

static inline tnm_result sim_wait(void *user, uint64_t ticket) {
    return sim_ask((sim_device *)user, ticket, 1);
}

static inline uint64_t sim_available(void *user) {
    sim_device *d = (sim_device *)user;
    return d->capacity == 0 ? UINT64_MAX : d->capacity > d->held ? d->capacity - d->held : 0;
}

/* the device dies with everything on it; every answer is LOST until it is revived */
static inline void sim_lose(sim_device *d) {
    sim *w = d->world;
    d->lost = 1;
    for (int i = 0; i < SIM_COPIES; i++) {
        sim_copying *c = &w->copies[i];
        if (c->by == NULL) continue;
        if (c->by != d && c->touches[0] != d && c->touches[1] != d) continue;
        if (c->by != d && w->lives_on) {
            c->fails = w->lives_on == 2;
            continue;
        }
        c->doomed = 1;
        if (c->by == d) c->by = NULL;
    }
    for (int i = 0; i < d->top; i++) {
        if (d->blocks[i].at == NULL) continue;
        check_ordinary(d->blocks[i].at, d->blocks[i].size); /* the engine's marks are void */
        memset(d->blocks[i].at, SIM_POISON, (size_t)d->blocks[i].size);
    }
    for (int i = 0; i < SIM_COPIES; i++) /* those that run on read what is there now */
        if (w->copies[i].by != NULL && !w->copies[i].doomed)
            w->copies[i].hash = sim_hash(w->copies[i].from, w->copies[i].size);
}

/* ---- fences, idle, log, trace ---- */
static inline uint64_t sim_passed(void *user, uint32_t queue, uint64_t wait_for) {
    sim *w = (sim *)user;
    tnm_result r = sim_enter(w, SIM_PASSED, TNM_ERR_BACKEND);
    uint64_t now;
    SIM_MUST(queue < SIM_QUEUES);
    queue %= SIM_QUEUES;
    w->asked_queue[queue]++;
    if (r == TNM_OK && wait_for > w->now[queue] && !w->fence_stuck) w->now[queue] = wait_for;
    now = r == TNM_OK ? w->now[queue] : w->told[queue]; /* a fault: "not yet", once more */
    w->told[queue] = now;
    sim_leave(w);
    return now;
}

static inline int sim_idle(void *user, uint64_t rounds) {
    sim *w = (sim *)user;
    w->idles++;
    for (int q = 0; q < SIM_QUEUES && !w->fence_stuck && rounds % 16 == 15; q++)
        w->now[q]++; /* the devices get on while we wait */
    if (w->idle_limit > 0) return rounds >= w->idle_limit;
    SIM_MUST(rounds < 4000); /* P4: a hang of the engine's own making */
    return rounds >= 4000;
}

static inline void sim_log(void *user, const tnm_log *item) {
    sim *w = (sim *)user;
    SIM_MUST(item->rule != NULL && item->rule[0] != '\0');
    w->last_log = *item;
    if (item->rule != NULL) snprintf(w->rule, sizeof w->rule, "%s", item->rule);
    w->logs[(unsigned)item->level % 3]++;
    if (w->loud)
        printf("log %d %s: %s (%d) tier %d\n", (int)item->level,
               item->call != NULL ? item->call : "-", w->rule, (int)item->result, item->tier);
}

static inline void sim_trace(void *user, const tnm_event *e) {
    sim *w = (sim *)user;
    uint64_t h = w->trace_hash;
    const uint64_t all[] = { e->seq,
                             (uint64_t)e->kind,
                             (uint64_t)(int64_t)e->tier,
                             (uint64_t)(int64_t)e->from,
                             (uint64_t)e->class_,
                             (uint64_t)e->found,
                             (uint64_t)(int64_t)e->result,
                             e->tensor,
                             e->offset,
                             e->bytes,
                             e->detail,
                             e->ticket };
    SIM_MUST(w->events == 0 || e->seq == w->last_event.seq + 1);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        h = sim_mix(h, all[i]);
    for (const char *c = e->label; c != NULL && *c != '\0'; c++)
        h = sim_mix(h, (uint64_t)*c);
    w->trace_hash = h;
    w->events++;
    w->seen[(unsigned)e->kind % 16]++;
    w->last_event = *e;
}

/* ---- holds: what P3 promises ---- */
static inline uint8_t *sim_at(sim *w, const tnm_pinned *p) { /* where a kernel would find it */
    static uint8_t nowhere[1 << 16]; /* a test whose pin failed goes on, and fails */
    sim_block *b;
    if (p->id == 0) return nowhere;
    if (p->host != NULL || p->tier < 0 || p->tier >= SIM_DEVICES) return (uint8_t *)p->host;
    b = sim_find(&w->device[p->tier], p->mem);
    SIM_MUST(b != NULL && p->offset <= b->size && p->bytes <= b->size - p->offset);
    return b != NULL ? b->at + p->offset : nowhere;
}

static inline void sim_hold(sim *w, const tnm_pinned *p) {
    sim_held *h = w->holds;
    while (h < w->holds + SIM_HOLDS && h->at != NULL && sim_fence_open(w, h->fence))
        h++;
    SIM_MUST(h < w->holds + SIM_HOLDS);
    if (h == w->holds + SIM_HOLDS) return;
    h->at = sim_at(w, p);
    h->size = p->bytes;
    h->id = p->id;
    h->fence = 0;
    h->write = p->access != TNM_READ;
}

/* call before the unpin that lets go; a fence keeps the hold until it was told */
static inline void sim_let_go(sim *w, const tnm_pinned *p, uint64_t fence) {
    if (p->id == 0) return;
    for (int i = 0; i < SIM_HOLDS; i++) {
        sim_held *h = &w->holds[i];
        if (h->at == NULL || h->id != p->id || h->fence != 0) continue;
        if (h->write != (p->access != TNM_READ)) continue;
        if (h->at != sim_at(w, p) || h->size != p->bytes) continue; /* views share an id */
        if (fence == 0)
            memset(h, 0, sizeof *h);
        else
            h->fence = fence;
        return;
    }
    check_fail(__FILE__, __LINE__, "sim_let_go: not held");
}

/* ---- the rig: a world with a context ---- */
typedef struct rig {
    struct sim sim;
    tnm_tier_desc tiers[SIM_DEVICES];
    tnm_desc desc;
    tnm_ctx *ctx;
} rig;

static inline void *rig_alloc(void *user, size_t size) {
    return sim_fires((sim *)user, SIM_HOST_ALLOC) ? NULL : check_alloc(NULL, size);
}

static inline void rig_release(void *user, void *ptr, size_t size) {
    (void)user;
    check_release(NULL, ptr, size);
}

/* chunks are small so that a tensor of a few KiB takes several */
static inline void rig_start(rig *g, uint64_t seed) {
    for (int i = 0; i < SIM_DEVICES; i++) /* not the blocks: what lies beyond `top` is not read */
        memset(&g->sim.device[i], 0, offsetof(sim_device, blocks));
    memset((char *)&g->sim + offsetof(sim, copies), 0, sizeof *g - offsetof(sim, copies));
    g->sim.random = seed * 2 + 0x9E3779B97F4A7C15u;
    g->sim.delay = 3;
    g->desc.tiers = g->tiers;
    g->desc.chunk_bytes = 4096;
    g->desc.staging_bytes = 16384;
    g->desc.user = &g->sim;
    g->desc.alloc = rig_alloc;
    g->desc.release = rig_release;
    g->desc.passed = sim_passed;
    g->desc.idle = sim_idle;
    g->desc.log = sim_log;
}

static inline sim_device *rig_tier(rig *g, const char *name, int kind, uint64_t budget) {
    int i = g->desc.tier_count++;
    sim_device *d = &g->sim.device[i];
    tnm_tier_desc *t = &g->tiers[i];
    d->world = &g->sim;
    d->tier = i;
    d->kind = kind;
    d->limit = budget > 0 ? budget : UINT64_MAX;
    d->depth = 8;
    t->name = name;
    t->budget_bytes = budget;
    t->segment_bytes = budget == 0 ? 1 << 18 : 0; /* not 16 MiB to be poisoned each time */
    t->backend.alloc = sim_alloc;
    t->backend.release = sim_release;
    t->backend.copy = sim_copy;
    t->backend.poll = (kind & SIM_ASYNC) != 0 ? sim_poll : NULL;
    t->backend.submit = (kind & SIM_SUBMIT) != 0 ? sim_submit : NULL;
    t->backend.wait = (kind & SIM_WAIT) != 0 ? sim_wait : NULL;
    t->backend.user = d;
    return d;
}

/* staging where it is in nobody's way: the last tier the CPU sees that has no limit */
static inline void rig_staging(rig *g) {
    for (int i = g->desc.tier_count - 1; i > 0 && g->desc.staging_tier == 0; i--)
        if ((g->sim.device[i].kind & SIM_HIDDEN) == 0 && g->tiers[i].budget_bytes == 0)
            g->desc.staging_tier = i;
}

static inline int rig_create(rig *g) {
    tnm_result r;
    rig_staging(g);
    r = tnm_create(&g->desc, &g->ctx);
    CHECK_EQ(r, TNM_OK);
    return r == TNM_OK;
}

/* what holds between any two calls of one thread */
static inline void rig_healthy(rig *g) {
    tnm_tier_stats s;
    CHECK_EQ(tnm_check(g->ctx), 0);
    for (int i = 0; i < g->desc.tier_count; i++) {
        sim_device *d = &g->sim.device[i];
        CHECK_EQ(tnm_stats(g->ctx, i, &s), TNM_OK);
        if (d->world == NULL) continue;
        CHECK(s.reserved_bytes >= d->held); /* charged before alloc is asked */
        CHECK(s.peak_bytes >= d->peak);
        CHECK(s.used_bytes <= s.reserved_bytes);
    }
}

static inline void rig_close_sim(rig *g) {
    for (int i = 0; i < SIM_COPIES; i++)
        CHECK(g->sim.copies[i].by == NULL);
    for (int i = 0; i < SIM_DEVICES; i++) {
        for (int k = 0; k < g->sim.device[i].top; k++) {
            sim_block *b = &g->sim.device[i].blocks[k];
            if (b->at == NULL) continue;
            CHECK(b->lent); /* given back by tnm_destroy */
            sim_unmake(b);
        }
    }
}

static inline void rig_end(rig *g) {
    if (g->ctx != NULL) {
        rig_healthy(g);
        CHECK_EQ(tnm_destroy(g->ctx), TNM_OK);
    }
    rig_close_sim(g);
    g->ctx = NULL;
}

/* a budget into which n tensors of so many bytes fit, in any build */
static inline uint64_t rig_room(uint64_t n, uint64_t bytes) {
    return n * ((bytes + TENSORMEM_REDZONE_BYTES + 255) / 256 * 256);
}

static inline tnm_tensor rig_tensor(rig *g, uint64_t bytes, uint32_t advice) {
    tnm_tensor_desc d;
    tnm_tensor t = { 0 };
    memset(&d, 0, sizeof d);
    d.bytes = bytes;
    d.advice = advice;
    CHECK_EQ(tnm_tensor_create(g->ctx, &d, &t), TNM_OK);
    return t;
}

static inline tnm_tensor rig_view(rig *g, tnm_tensor of, uint64_t offset, uint64_t bytes) {
    tnm_tensor_desc d;
    tnm_tensor v = { 0 };
    memset(&d, 0, sizeof d);
    d.bytes = bytes;
    CHECK_EQ(tnm_tensor_view(g->ctx, of, offset, &d, &v), TNM_OK);
    return v;
}

static inline tnm_tensor rig_adopt(rig *g, const tnm_adopt_desc *a, uint64_t bytes) {
    tnm_tensor_desc d;
    tnm_tensor t = { 0 };
    memset(&d, 0, sizeof d);
    d.bytes = bytes;
    CHECK_EQ(tnm_tensor_adopt(g->ctx, &d, a, &t), TNM_OK);
    return t;
}

static inline tnm_use rig_use(tnm_tensor t, int tier, tnm_access access) {
    tnm_use u;
    memset(&u, 0, sizeof u);
    u.tensor = t;
    u.tier = tier;
    u.access = access;
    return u;
}

static inline tnm_result rig_pin(rig *g, tnm_tensor t, int tier, tnm_access access, tnm_pinned *p) {
    tnm_use u = rig_use(t, tier, access);
    tnm_result r = tnm_pin(g->ctx, &u, 1, p);
    if (r == TNM_OK)
        sim_hold(&g->sim, p);
    else
        CHECK(p->id == 0 && p->host == NULL && p->bytes == 0); /* outputs are zeroed */
    return r;
}

static inline tnm_result rig_try(rig *g, tnm_tensor t, int tier, tnm_access access, tnm_pinned *p) {
    tnm_use u = rig_use(t, tier, access);
    tnm_result r = tnm_try_pin(g->ctx, &u, 1, p);
    if (r == TNM_OK)
        sim_hold(&g->sim, p);
    else
        CHECK(p->id == 0 && p->host == NULL && p->bytes == 0);
    return r;
}

static inline tnm_result rig_unpin(rig *g, tnm_pinned *p, uint64_t fence) {
    tnm_pinned was = *p;
    tnm_result r;
    sim_let_go(&g->sim, p, fence);
    r = tnm_unpin(g->ctx, p, 1, fence);
    if (r == TNM_OK)
        CHECK(p->id == 0 && p->host == NULL && p->mem == 0 && p->bytes == 0);
    else
        sim_hold(&g->sim, &was);
    return r;
}

/* give the tensor the payload `key` through a DISCARD pin on `tier` */
static inline void rig_write(rig *g, tnm_tensor t, int tier, uint64_t key) {
    tnm_pinned p;
    tnm_result r = rig_pin(g, t, tier, TNM_DISCARD, &p);
    CHECK_EQ(r, TNM_OK);
    if (r != TNM_OK) return;
    sim_fill(sim_at(&g->sim, &p), key, 0, p.bytes);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
}

/* `count` tensors, each with its number as payload, on `tier` */
static inline void rig_make(rig *g, tnm_tensor *t, int count, uint64_t bytes, int tier) {
    for (int i = 0; i < count; i++) {
        t[i] = rig_tensor(g, bytes, 0);
        rig_write(g, t[i], tier, (uint64_t)i);
    }
}

/* the payload `key` becomes `next` in place, through a WRITE pin on `tier` */
static inline void rig_change(rig *g, tnm_tensor t, int tier, uint64_t key, uint64_t next) {
    tnm_pinned p;
    tnm_result r = rig_pin(g, t, tier, TNM_WRITE, &p);
    CHECK_EQ(r, TNM_OK);
    if (r != TNM_OK) return;
    CHECK(sim_same(sim_at(&g->sim, &p), key, 0, p.bytes));
    sim_fill(sim_at(&g->sim, &p), next, 0, p.bytes);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
}

/* the tensor shows the payload `key` to a READ pin on `tier` */
static inline void rig_expect(rig *g, tnm_tensor t, int tier, uint64_t key) {
    tnm_pinned p;
    tnm_result r = rig_pin(g, t, tier, TNM_READ, &p);
    CHECK_EQ(r, TNM_OK);
    if (r != TNM_OK) return;
    CHECK(sim_same(sim_at(&g->sim, &p), key, 0, p.bytes));
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
}

/* what rig_make wrote */
static inline void rig_expect_all(rig *g, const tnm_tensor *t, int count, int tier) {
    for (int i = 0; i < count; i++)
        rig_expect(g, t[i], tier, (uint64_t)i);
}

/* pump until idle; a bounded number of times */
static inline void rig_rest(rig *g) {
    tnm_result r = TNM_PENDING;
    for (int i = 0; i < 20000 && r == TNM_PENDING; i++)
        r = tnm_pump(g->ctx, TNM_ALL);
    CHECK_EQ(r, TNM_OK);
}

static inline void rig_pump(rig *g, int times) {
    for (int i = 0; i < times; i++)
        tnm_pump(g->ctx, TNM_ALL);
}

static inline tnm_tensor_info rig_info(rig *g, tnm_tensor t, int tier) {
    tnm_tensor_info i;
    memset(&i, 0x5a, sizeof i);
    CHECK_EQ(tnm_info(g->ctx, t, tier, &i), TNM_OK);
    return i;
}

static inline tnm_state rig_state(rig *g, tnm_tensor t, int tier) {
    return rig_info(g, t, tier).state;
}

static inline tnm_tier_stats rig_stats(rig *g, int tier) {
    tnm_tier_stats s;
    memset(&s, 0, sizeof s);
    CHECK_EQ(tnm_stats(g->ctx, tier, &s), TNM_OK);
    return s;
}

static inline tnm_result rig_budget(rig *g, int tier, uint64_t bytes) {
    g->sim.device[tier].limit = bytes; /* in force from the call on */
    return tnm_set_budget(g->ctx, tier, bytes);
}

/* the ways a fast tier can behave; EACH(name) { ... } is a TEST that runs on all of them, with the
 * rig at `g` (started, no tier yet) and the kind in `kind` */
static const int rig_kinds[] = { SIM_PLAIN,
                                 SIM_PLAIN | SIM_ASYNC,
                                 SIM_HIDDEN,
                                 SIM_HIDDEN | SIM_ASYNC,
                                 SIM_HIDDEN | SIM_ASYNC | SIM_SUBMIT,
                                 SIM_HIDDEN | SIM_ASYNC | SIM_WAIT };

static inline void rig_each(const char *name, void (*test)(rig *g, int kind)) {
    static rig g;
    for (int i = 0; i < (int)(sizeof rig_kinds / sizeof rig_kinds[0]); i++) {
        int before = check_bad;
        rig_start(&g, (uint64_t)i + 1);
        test(&g, rig_kinds[i]);
        if (check_bad != before) printf("%s: failed on tiers of kind %d\n", name, rig_kinds[i]);
    }
}

#define EACH(name)                                                                                 \
    static void name##_on(rig *g, int kind);                                                       \
    TEST(name) {                                                                                   \
        rig_each(#name, name##_on);                                                                \
    }                                                                                              \
    static void name##_on(rig *g, int kind)

/* two tiers: a fast one of the kind with a budget, over plain memory without one */
static inline void rig_pair(rig *g, int kind, uint64_t budget) {
    rig_tier(g, "fast", kind, budget);
    rig_tier(g, "slow", SIM_PLAIN, 0);
    rig_create(g);
}

/* repeat a call while it answers PENDING, pumping in between */
#define RIG_UNTIL(result, g, call)                                                                 \
    do {                                                                                           \
        for (int rig_n = 0; rig_n < 20000 && ((result) = (call)) == TNM_PENDING; rig_n++)          \
            tnm_pump((g)->ctx, TNM_ALL);                                                           \
    } while (0)

#endif
