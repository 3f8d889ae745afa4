/* subject_sim.h: a device that is only a simulation, for the conformance kit. As it is it keeps
 * every rule; told to, it breaks one, so that the kit can be seen to name it. Include the
 * implementation of tensormem.h and conformance.h before it.
 *
 * Its memory is an arena the CPU may or may not see. Copies run late, one at a time and in an order
 * drawn by chance, whenever somebody asks; kernels run on two queues. A sibling is its peer. */
#ifndef TENSORMEM_TESTS_SUBJECT_SIM_H
#define TENSORMEM_TESTS_SUBJECT_SIM_H

#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { SUBJECT_SIM_SEEN = 1, SUBJECT_SIM_SHARE = 2, SUBJECT_SIM_AT_ONCE = 4 }; /* kinds */

typedef enum subject_sim_defect {
    SIM_NO_DEFECT,
    SIM_FORGETS_OFFSET,  /* of the destination, when it is odd */
    SIM_ROUNDS_OFFSET,   /* of the source, to 4 */
    SIM_DROPS_TAIL,      /* behind the last multiple of 4 */
    SIM_COPIES_MORE,     /* up to the next multiple of 4 */
    SIM_DROPS_LARGE,     /* what is behind 4 MiB */
    SIM_SWAPS_WITHIN,    /* destination and source, inside one piece */
    SIM_TAKES_OTHER,     /* piece of its own for the second one */
    SIM_HURTS_SOURCE,    /* its last byte */
    SIM_LATE_PLAIN,      /* copies from plain memory are OK before they have run */
    SIM_TOKEN_ADOPTED,   /* adopted memory is looked up by its token */
    SIM_OWN_PEER,        /* a sibling's token is looked up among its own */
    SIM_TOUCHES_TICKET,  /* and then says UNSUPPORTED */
    SIM_FORGETFUL_ROUTE, /* every other time a route is UNSUPPORTED */
    SIM_ANY_TOKEN,       /* a stranger's is taken for its own */
    SIM_ZERO_TICKET,
    SIM_EARLY,            /* OK when another copy is still under way */
    SIM_EARLY_WAIT,       /* wait is OK at once */
    SIM_REUSES_TICKET,    /* of a copy that is under way */
    SIM_ONE_DOORBELL,     /* submit rings for 16 copies at most */
    SIM_STAYS_FULL,       /* a queue that was full once is BUSY for ever */
    SIM_HALF_ALLOC,       /* half of the bytes */
    SIM_MISALIGNED,       /* past 4096 */
    SIM_TRUNCATES_SIZE,   /* to 32 bits */
    SIM_KEEPS_RELEASED,   /* memory that is given back when full */
    SIM_LEAKS,            /* every 8th piece that comes back */
    SIM_SHADOW,           /* the CPU sees a copy of the arena */
    SIM_SAYS_VISIBLE,     /* and gives no CPU address */
    SIM_MARK_ZERO,        /* every 16th mark is 0 */
    SIM_PASSED_BACK,      /* now and then it says one less */
    SIM_FENCE_EARLY,      /* has passed before its kernels have run */
    SIM_STAYS_BROKEN,     /* fails for ever after a failure */
    SIM_SWALLOWS_FAILURE, /* OK, and nothing was copied */
    SIM_WRITES_DEAD,      /* a copy that failed runs nevertheless */
    SIM_ONE_THREAD,       /* alloc is refused on any but the first */
    SIM_LOST_IS_BACKEND,  /* a dead device answers BACKEND */
    SIM_NO_PLACE,         /* full when half is free: a budget is not to be met */
    SIM_DEFECTS
} subject_sim_defect;

enum {
    SUBJECT_SIM_BLOCKS = 512,
    SUBJECT_SIM_DEPTH = 96,
    SUBJECT_SIM_KERNELS = 256,
    SUBJECT_SIM_QUEUES = 2
};
#define SUBJECT_SIM_BYTES (UINT64_C(24) << 20)

typedef struct subject_sim_block { /* token: index + 1 */
    uint64_t at, size;
    int used;
} subject_sim_block;

typedef struct subject_sim_copying {
    unsigned char *to;
    const unsigned char *from;
    uint64_t size, ticket;
    int out, rung, failed; /* out 2 = dead, and yet it runs */
} subject_sim_copying;

typedef struct subject_sim_kernel {
    unsigned char *at;
    uint64_t bytes, value;
    uint8_t add;
} subject_sim_kernel;

typedef struct subject_sim_device {
    struct subject_sim_world *world;
    unsigned char *raw, *arena, *shadow;
    subject_sim_block block[SUBJECT_SIM_BLOCKS];
    subject_sim_copying copy[SUBJECT_SIM_DEPTH];
    uint64_t tickets, released, routes;
    int stuck, kept;
} subject_sim_device;

typedef struct subject_sim_world {
    subject_sim_device device, peer;
    subject_sim_kernel kernel[SUBJECT_SIM_QUEUES][SUBJECT_SIM_KERNELS]; /* rings */
    uint64_t launched[SUBJECT_SIM_QUEUES], run[SUBJECT_SIM_QUEUES];
    uint64_t marks[SUBJECT_SIM_QUEUES], passed[SUBJECT_SIM_QUEUES], mark_at[SUBJECT_SIM_QUEUES][64];
    uint64_t random, asked;
    subject_sim_defect defect;
    int kind, dead, broken, nth;
    const char *failing;
#ifdef CONFORM_THREADS
    pthread_t first;
    pthread_mutex_t mutex; /* a program queues and marks while a context asks what has passed */
#endif
} subject_sim_world;

static inline int subject_sim_is(const subject_sim_device *d, subject_sim_defect defect) {
    return d->world->defect == defect;
}

static inline uint64_t subject_sim_draw(subject_sim_world *w, uint64_t below) {
    w->random = w->random * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (w->random >> 33) % below;
}

/* Is this call to fail? */
static inline int subject_sim_fails(subject_sim_world *w, const char *call) {
    if (w->broken) return 1;
    if (w->nth == 0 || (w->failing && strcmp(w->failing, call) != 0)) return 0;
    if (--w->nth > 0) return 0;
    w->broken = w->defect == SIM_STAYS_BROKEN;
    return 1;
}

static inline tnm_result subject_sim_lost(const subject_sim_world *w) {
    return w->defect == SIM_LOST_IS_BACKEND ? TNM_ERR_BACKEND : TNM_ERR_LOST;
}

/* ---- memory ---- */

/* First fit in the gaps between the pieces. */
static inline int subject_sim_place(const subject_sim_device *d, uint64_t size, uint64_t align,
                                    uint64_t *out) {
    uint64_t at = 0, limit = SUBJECT_SIM_BYTES;
    int moved = 1;
    if (subject_sim_is(d, SIM_NO_PLACE)) limit = 4 << 20;
    while (moved) {
        moved = 0;
        at = (at + align - 1) / align * align;
        if (at > limit || size > limit - at) return 0;
        for (int i = 0; i < SUBJECT_SIM_BLOCKS; i++) {
            const subject_sim_block *b = &d->block[i];
            if (!b->used || at >= b->at + b->size || b->at >= at + size) continue;
            at = b->at + b->size;
            moved = 1;
        }
    }
    *out = at;
    return 1;
}

static inline int subject_sim_wrong_thread(const subject_sim_device *d) {
#ifdef CONFORM_THREADS
    return subject_sim_is(d, SIM_ONE_THREAD) && !pthread_equal(d->world->first, pthread_self());
#else
    (void)d;
    return 0;
#endif
}

static inline tnm_result subject_sim_alloc(void *user, uint64_t size, uint64_t align, void *item,
                                           uint64_t *mem, void **host) {
    subject_sim_device *d = (subject_sim_device *)user;
    subject_sim_world *w = d->world;
    uint64_t at;
    int i = 0;
    (void)item;
    if (w->dead) return subject_sim_lost(w);
    if (subject_sim_fails(w, "alloc") || subject_sim_wrong_thread(d)) return TNM_ERR_BACKEND;
    if (subject_sim_is(d, SIM_TRUNCATES_SIZE)) size &= UINT32_MAX;
    if (subject_sim_is(d, SIM_HALF_ALLOC)) size = (size + 1) / 2;
    if (subject_sim_is(d, SIM_MISALIGNED) && align > 4096) align = 4096;
    if (!subject_sim_place(d, size, align, &at)) {
        d->kept = subject_sim_is(d, SIM_KEEPS_RELEASED);
        return TNM_ERR_MEMORY;
    }
    while (i < SUBJECT_SIM_BLOCKS && d->block[i].used)
        i++;
    if (i == SUBJECT_SIM_BLOCKS) return TNM_ERR_BACKEND;
    d->block[i].at = at;
    d->block[i].size = size;
    d->block[i].used = 1;
    memset(d->arena + at, 0xDB, (size_t)size);
    *mem = (uint64_t)i + 1;
    *host = d->world->kind & SUBJECT_SIM_SEEN ? d->shadow + at : NULL;
    return TNM_OK;
}

static inline void subject_sim_release(void *user, uint64_t mem, uint64_t size) {
    subject_sim_device *d = (subject_sim_device *)user;
    (void)size;
    if (d->kept) return;
    if (subject_sim_is(d, SIM_LEAKS) && ++d->released % 8 == 0) return;
    d->block[mem - 1].used = 0;
}

/* ---- copies ---- */

static inline tnm_result subject_sim_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                          uint64_t size, uint64_t *ticket);

/* Where a span lies in this simulation; NULL = not ours to reach. */
static inline unsigned char *subject_sim_reach(subject_sim_device *d, const tnm_span *s) {
    subject_sim_device *of = d;
    if (s->adopted && s->host && subject_sim_is(d, SIM_TOKEN_ADOPTED))
        return d->arena + d->block[s->mem % SUBJECT_SIM_BLOCKS].at + s->offset % 4096;
    if (!s->backend || s->backend->copy != subject_sim_copy) {
        if (s->host || !s->backend || !subject_sim_is(d, SIM_ANY_TOKEN))
            return (unsigned char *)s->host;
    } else if (!subject_sim_is(d, SIM_OWN_PEER))
        of = (subject_sim_device *)s->backend->user;
    return of->arena + of->block[(s->mem - 1) % SUBJECT_SIM_BLOCKS].at + s->offset;
}

static inline void subject_sim_run(subject_sim_device *d, subject_sim_copying *c) {
    if (c->failed && subject_sim_is(d, SIM_SWALLOWS_FAILURE)) {
        c->failed = 0;
        return;
    }
    if (!c->failed || subject_sim_is(d, SIM_WRITES_DEAD)) memmove(c->to, c->from, (size_t)c->size);
    if (subject_sim_is(d, SIM_HURTS_SOURCE)) ((unsigned char *)(uintptr_t)c->from)[c->size - 1]++;
}

/* The defects that are in what is copied. */
static inline void subject_sim_spoil(subject_sim_device *d, const tnm_span *dst,
                                     const tnm_span *src, subject_sim_copying *c) {
    unsigned char *was = c->to;
    int inside = dst->backend && src->backend && dst->backend->copy == src->backend->copy;
    switch (d->world->defect) {
    case SIM_FORGETS_OFFSET:
        if (dst->offset % 2) c->to -= dst->offset;
        break;
    case SIM_ROUNDS_OFFSET:
        c->from -= src->offset % 4;
        break;
    case SIM_DROPS_TAIL:
        c->size &= ~(uint64_t)3;
        break;
    case SIM_COPIES_MORE:
        c->size = (c->size + 3) & ~(uint64_t)3;
        break;
    case SIM_DROPS_LARGE:
        if (c->size > 4 << 20 && src->offset % 2) c->size = 4 << 20;
        break;
    case SIM_SWAPS_WITHIN:
        if (!inside || dst->mem != src->mem) break;
        c->to = (unsigned char *)(uintptr_t)c->from;
        c->from = was;
        break;
    case SIM_TAKES_OTHER:
        if (inside && dst->mem != src->mem) c->from = c->to - dst->offset;
        break;
    default:
        break;
    }
}

static inline tnm_result subject_sim_queue(subject_sim_device *d, subject_sim_copying c,
                                           uint64_t *ticket) {
    subject_sim_copying *slot = d->copy, *under_way = NULL;
    while (slot < d->copy + SUBJECT_SIM_DEPTH && slot->out)
        slot++;
    if (slot == d->copy + SUBJECT_SIM_DEPTH || d->stuck) {
        d->stuck = subject_sim_is(d, SIM_STAYS_FULL);
        return TNM_ERR_BUSY;
    }
    for (int i = 0; i < SUBJECT_SIM_DEPTH; i++)
        if (d->copy[i].out && (!d->copy[i].rung || subject_sim_is(d, SIM_REUSES_TICKET)))
            under_way = &d->copy[i];
    c.ticket = ++d->tickets;
    if (under_way && d->world->kind & SUBJECT_SIM_SHARE) c.ticket = under_way->ticket;
    if (under_way && subject_sim_is(d, SIM_REUSES_TICKET)) c.ticket = under_way->ticket;
    c.out = 1;
    *slot = c;
    *ticket = subject_sim_is(d, SIM_ZERO_TICKET) ? 0 : c.ticket;
    return TNM_PENDING;
}

static inline tnm_result subject_sim_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                          uint64_t size, uint64_t *ticket) {
    subject_sim_device *d = (subject_sim_device *)user;
    subject_sim_world *w = d->world;
    subject_sim_copying c;
    memset(&c, 0, sizeof c);
    if (w->dead) return subject_sim_lost(w);
    c.to = subject_sim_reach(d, dst);
    c.from = subject_sim_reach(d, src);
    c.size = size;
    if (subject_sim_is(d, SIM_FORGETFUL_ROUTE) && src->tier < 0 && ++d->routes % 2) c.to = NULL;
    if (!c.to || !c.from) {
        if (subject_sim_is(d, SIM_TOUCHES_TICKET)) *ticket = 0;
        return TNM_ERR_UNSUPPORTED;
    }
    if (subject_sim_fails(w, "copy") && !subject_sim_is(d, SIM_SWALLOWS_FAILURE))
        return TNM_ERR_BACKEND;
    subject_sim_spoil(d, dst, src, &c);
    c.failed = subject_sim_fails(w, "a command");
    if (subject_sim_is(d, SIM_LATE_PLAIN) && src->tier < 0) {
        tnm_result r = subject_sim_queue(d, c, ticket);
        return r == TNM_PENDING ? TNM_OK : r;
    }
    if (w->kind & SUBJECT_SIM_AT_ONCE || (dst->tier | src->tier) < 0) { /* pageable: synchronous */
        subject_sim_run(d, &c);
        return c.failed ? TNM_ERR_BACKEND : TNM_OK;
    }
    if (c.size > 0) memset(c.to, 0xE7, (size_t)c.size);
    return subject_sim_queue(d, c, ticket);
}

static inline void subject_sim_submit(void *user) {
    subject_sim_device *d = (subject_sim_device *)user;
    int most = subject_sim_is(d, SIM_ONE_DOORBELL) ? 16 : SUBJECT_SIM_DEPTH;
    for (int i = 0; i < SUBJECT_SIM_DEPTH; i++)
        if (d->copy[i].out && most-- > 0) d->copy[i].rung = 1;
}

/* A kernel more on each queue, while somebody looks. */
static inline void subject_sim_kernels(subject_sim_world *w, uint32_t q) {
    const subject_sim_kernel *k;
    if (w->run[q] == w->launched[q]) return;
    k = &w->kernel[q][w->run[q]++ % SUBJECT_SIM_KERNELS];
    for (uint64_t i = 0; i < k->bytes; i++)
        k->at[i] = (unsigned char)(k->at[i] + k->add);
}

/* One copy by chance ends. */
static inline void subject_sim_advance(subject_sim_device *d) {
    int first = (int)subject_sim_draw(d->world, SUBJECT_SIM_DEPTH);
    for (int i = 0; i < SUBJECT_SIM_DEPTH; i++) {
        subject_sim_copying *c = &d->copy[(first + i) % SUBJECT_SIM_DEPTH];
        if (!c->out || (!c->rung && !subject_sim_is(d, SIM_LATE_PLAIN))) continue;
        if (c->failed && c->out == 1) continue;
        subject_sim_run(d, c);
        c->out = 0;
        return;
    }
}

static inline tnm_result subject_sim_poll(void *user, uint64_t ticket) {
    subject_sim_device *d = (subject_sim_device *)user;
    int under_way = 0, others = 0, failed = 0;
    if (d->world->dead) return subject_sim_lost(d->world);
    for (int i = 0; i < SUBJECT_SIM_DEPTH; i++) {
        subject_sim_copying *c = &d->copy[i];
        if (!c->out || c->out == 2) continue;
        if (c->ticket != ticket) {
            others++;
        } else if (c->failed && !subject_sim_is(d, SIM_SWALLOWS_FAILURE)) {
            failed = 1;
            c->out = subject_sim_is(d, SIM_WRITES_DEAD) ? 2 : 0;
        } else if (c->failed) {
            c->out = 0;
        } else
            under_way++;
    }
    if (subject_sim_draw(d->world, 3) > 0) subject_sim_advance(d);
    if (failed && under_way == 0) return TNM_ERR_BACKEND;
    if (failed) { /* of several under the ticket: those that go on must end first */
        for (int i = 0; i < SUBJECT_SIM_DEPTH; i++)
            if (d->copy[i].out == 1 && d->copy[i].ticket == ticket) d->copy[i].out = 0;
        return TNM_ERR_BACKEND;
    }
    if (under_way > 1 && subject_sim_is(d, SIM_REUSES_TICKET)) return TNM_OK;
    if (under_way && others && subject_sim_is(d, SIM_EARLY)) return TNM_OK;
    return under_way ? TNM_PENDING : TNM_OK;
}

static inline tnm_result subject_sim_wait(void *user, uint64_t ticket) {
    subject_sim_device *d = (subject_sim_device *)user;
    tnm_result r = TNM_PENDING;
    if (subject_sim_is(d, SIM_EARLY_WAIT)) return TNM_OK;
    for (int i = 0; i < 1000 && r == TNM_PENDING; i++)
        r = subject_sim_poll(user, ticket);
    return r;
}

static inline tnm_backend subject_sim_backend(subject_sim_device *d) {
    tnm_backend b;
    memset(&b, 0, sizeof b);
    b.alloc = subject_sim_alloc;
    b.release = subject_sim_release;
    b.copy = subject_sim_copy;
    b.submit = subject_sim_submit;
    b.poll = subject_sim_poll;
    b.wait = subject_sim_wait;
    b.user = d;
    return b;
}

/* ---- fences ---- */

static inline void subject_sim_lock(subject_sim_world *w) {
#ifdef CONFORM_THREADS
    pthread_mutex_lock(&w->mutex);
#endif
    (void)w;
}

static inline void subject_sim_unlock(subject_sim_world *w) {
#ifdef CONFORM_THREADS
    pthread_mutex_unlock(&w->mutex);
#endif
    (void)w;
}

static inline uint64_t subject_sim_mark(void *user, uint32_t queue) {
    subject_sim_world *w = (subject_sim_world *)user;
    uint64_t value;
    subject_sim_lock(w);
    value = ++w->marks[queue];
    w->mark_at[queue][value % 64] = w->launched[queue];
    subject_sim_unlock(w);
    return w->defect == SIM_MARK_ZERO && value % 16 == 0 ? 0 : value;
}

static inline uint64_t subject_sim_passed(void *user, uint32_t queue, uint64_t wait_for) {
    subject_sim_world *w = (subject_sim_world *)user;
    uint64_t now;
    if (w->dead) return UINT64_MAX;
    subject_sim_lock(w);
    for (int i = 0; i < 1000; i++) {
        uint64_t next = w->passed[queue] + 1;
        int ran = next + 64 <= w->marks[queue] || w->defect == SIM_FENCE_EARLY ||
                  (next <= w->marks[queue] && w->mark_at[queue][next % 64] <= w->run[queue]);
        if (next <= w->marks[queue] && ran)
            w->passed[queue] = next;
        else
            subject_sim_kernels(w, queue);
        if (w->passed[queue] >= wait_for) break;
    }
    now = w->passed[queue];
    if (w->defect == SIM_PASSED_BACK && ++w->asked % 7 == 0 && now > 0) now--;
    subject_sim_unlock(w);
    return now;
}

static inline int subject_sim_work(void *user, uint32_t queue, const tnm_pinned *at, uint8_t add) {
    subject_sim_world *w = (subject_sim_world *)user;
    subject_sim_kernel *k;
    subject_sim_lock(w);
    if (w->launched[queue] - w->run[queue] == SUBJECT_SIM_KERNELS) subject_sim_kernels(w, queue);
    k = &w->kernel[queue][w->launched[queue]++ % SUBJECT_SIM_KERNELS];
    k->at = w->device.arena + w->device.block[at->mem - 1].at + at->offset;
    k->bytes = at->bytes;
    k->add = add;
    subject_sim_unlock(w);
    return 1;
}

/* ---- the subject ---- */

static inline uint64_t subject_sim_live(void *user) {
    const subject_sim_world *w = (const subject_sim_world *)user;
    uint64_t n = 0;
    for (int i = 0; i < SUBJECT_SIM_BLOCKS; i++)
        n += (uint64_t)(w->device.block[i].used + w->peer.block[i].used);
    return n;
}

static inline void subject_sim_fail(void *user, const char *call, int nth, int code) {
    subject_sim_world *w = (subject_sim_world *)user;
    (void)code;
    w->failing = call;
    w->nth = nth;
}

static inline void subject_sim_lose(void *user) {
    subject_sim_world *w = (subject_sim_world *)user;
    w->dead = 1;
    memset(w->device.copy, 0, sizeof w->device.copy);
    memset(w->peer.copy, 0, sizeof w->peer.copy);
    check_ordinary(w->device.arena, SUBJECT_SIM_BYTES); /* the engine's marks are void */
    memset(w->device.arena, 0xDB, (size_t)SUBJECT_SIM_BYTES);
}

static inline void subject_sim_fill(subject_sim_world *w, conform_subject *out);

static inline int subject_sim_again(void *user, conform_subject *out) {
    subject_sim_world *w = (subject_sim_world *)user;
    w->dead = 0;
    memset(w->launched, 0, sizeof w->launched);
    memset(w->run, 0, sizeof w->run);
    subject_sim_fill(w, out);
    return 1;
}

static inline void subject_sim_fill(subject_sim_world *w, conform_subject *out) {
    static const char *const calls[] = { "alloc", "copy", "a command", NULL };
    memset(out, 0, sizeof *out);
    out->name = "sim";
    out->device = subject_sim_backend(&w->device);
    out->device.host_visible = (w->kind & SUBJECT_SIM_SEEN) || w->defect == SIM_SAYS_VISIBLE;
    out->peer = subject_sim_backend(&w->peer);
    out->device_bytes = SUBJECT_SIM_BYTES - (4 << 20);
    out->queues = SUBJECT_SIM_QUEUES;
    out->passed = subject_sim_passed;
    out->mark = subject_sim_mark;
    out->work = subject_sim_work;
    out->live = subject_sim_live;
    out->fail = subject_sim_fail;
    out->lose = subject_sim_lose;
    out->again = subject_sim_again;
    out->calls = calls;
    out->user = w;
}

static inline unsigned char *subject_sim_arena(subject_sim_device *d) {
    d->raw = (unsigned char *)malloc((size_t)SUBJECT_SIM_BYTES + 131072);
    if (!d->raw) return NULL;
    d->arena = d->raw + (65536 - (uintptr_t)d->raw % 65536);
    d->shadow = d->arena;
    return d->raw;
}

static inline void subject_sim_end(conform_subject *s) {
    subject_sim_world *w = (subject_sim_world *)s->user;
    if (w->device.shadow != w->device.arena) free(w->device.shadow);
    free(w->device.raw);
    free(w->peer.raw);
    free(w);
    memset(s, 0, sizeof *s);
}

/* 1, or 0 = no memory */
static inline int subject_sim(conform_subject *out, int kind, subject_sim_defect defect) {
    subject_sim_world *w = (subject_sim_world *)calloc(1, sizeof *w);
    if (!w) return 0;
    w->device.world = w->peer.world = w;
    w->random = 42;
    w->kind = kind;
    w->defect = defect;
#ifdef CONFORM_THREADS
    w->first = pthread_self();
    pthread_mutex_init(&w->mutex, NULL);
#endif
    subject_sim_fill(w, out);
    if (subject_sim_arena(&w->device) && subject_sim_arena(&w->peer)) {
        if (defect == SIM_SHADOW)
            w->device.shadow = (unsigned char *)calloc(1, (size_t)SUBJECT_SIM_BYTES);
        if (w->device.shadow) return 1;
    }
    subject_sim_end(out);
    return 0;
}

#endif
