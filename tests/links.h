/* links.h: tiers whose copies take time on simulated links, under a virtual clock.
 *
 * A link is a server: copies are served one after the other in the order they were handed over,
 * each for bytes / rate, and arrive `latency` later, so that several under way hide the latency. A
 * route is one link or two in a row (a port, then a fabric others share too); the bytes cut
 * through. Routes of both directions may name one link: half duplex. Nothing sleeps and no byte
 * exists: the clock moves when somebody computes (links_compute) or waits (links_next in `idle`),
 * so the same calls take the same virtual time on every machine, every run.
 *
 * Include it after the library. */
#ifndef TENSORMEM_TESTS_LINKS_H
#define TENSORMEM_TESTS_LINKS_H

#include <stdint.h>
#include <string.h>

enum { LINKS_MOST = 160, LINKS_COPIES = 4096, LINKS_KERNELS = 64 };
#define LINKS_NEVER UINT64_MAX

typedef struct links_link {
    const char *name;
    uint64_t rate;    /* bytes per microsecond (MB/s) */
    uint64_t latency; /* ns */
    uint64_t free_at, busy, bytes;
} links_link;

typedef struct links_end { /* one tier's backend */
    struct links *world;
    int tier;
} links_end;

typedef struct links {
    uint64_t now; /* ns */
    links_end end[TNM_MAX_TIERS];
    links_link link[LINKS_MOST];
    int count;
    struct {
        uint8_t link[2], by; /* link + 1; 0 = none. `by`: whose backend takes the copies */
    } route[TNM_MAX_TIERS][TNM_MAX_TIERS];
    uint64_t done[LINKS_COPIES]; /* when a copy's answer is there; 0 = unused */
    int out[LINKS_COPIES], outs; /* those under way */
    uint64_t tokens, copies;
    /* a device that runs submitted kernels in order: fence k passes at kernel[k % KERNELS] */
    uint64_t kernel[LINKS_KERNELS], submitted, passed, computed;
} links;

static inline int links_add(links *w, const char *name, uint64_t rate, uint64_t latency) {
    links_link *l = &w->link[w->count];
    memset(l, 0, sizeof *l);
    l->name = name;
    l->rate = rate;
    l->latency = latency;
    return w->count++;
}

/* Copies from one tier to another go over `link`, and over `beyond` if that is not negative. The
 * tier `by`'s backend takes them, as a driver or a disk does; host memory takes none. */
static inline void links_route(links *w, int from, int to, int by, int link, int beyond) {
    w->route[from][to].link[0] = (uint8_t)(link + 1);
    w->route[from][to].link[1] = (uint8_t)(beyond + 1);
    w->route[from][to].by = (uint8_t)by;
}

static inline uint64_t links_max(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* The link is taken for so many bytes from `from` on; when they have passed. */
static inline uint64_t links_serve(links_link *l, uint64_t from, uint64_t bytes) {
    uint64_t takes = bytes * 1000 / l->rate;
    l->free_at = links_max(from, l->free_at) + takes;
    l->busy += takes;
    l->bytes += bytes;
    return l->free_at;
}

/* What a link has worked until now, without what is queued on it. */
static inline uint64_t links_busy(const links *w, int link) {
    const links_link *l = &w->link[link];
    return l->busy - (l->free_at > w->now ? l->free_at - w->now : 0);
}

/* ---- the backend ---- */
static inline tnm_result links_alloc(void *user, uint64_t size, uint64_t align, void *item,
                                     uint64_t *mem, void **host) {
    links *w = ((const links_end *)user)->world;
    (void)size;
    (void)align;
    (void)item;
    *mem = ++w->tokens;
    *host = NULL;
    return TNM_OK;
}

static inline void links_release(void *user, uint64_t mem, uint64_t size) {
    (void)user;
    (void)mem;
    (void)size;
}

static inline tnm_result links_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                    uint64_t size, uint64_t *ticket) {
    const links_end *end = (const links_end *)user;
    links *w = end->world;
    uint64_t at, latency;
    int slot = 0;
    if (src->tier < 0 || dst->tier < 0) return TNM_ERR_UNSUPPORTED; /* there are no bytes */
    if (src->tier == dst->tier) return TNM_OK;                      /* compaction crosses no link */
    const uint8_t *route = w->route[src->tier][dst->tier].link;
    if (!route[0] || w->route[src->tier][dst->tier].by != end->tier) return TNM_ERR_UNSUPPORTED;
    while (slot < LINKS_COPIES && w->done[slot])
        slot++;
    if (slot == LINKS_COPIES) return TNM_ERR_BUSY;
    links_link *first = &w->link[route[0] - 1];
    at = links_serve(first, w->now, size);
    latency = first->latency;
    if (route[1]) {
        links_link *second = &w->link[route[1] - 1];
        at = links_max(at, links_serve(second, at - size * 1000 / first->rate, size));
        latency += second->latency;
    }
    w->done[slot] = at + latency;
    w->out[w->outs++] = slot;
    w->copies++;
    *ticket = (uint64_t)slot + 1;
    return TNM_PENDING;
}

static inline tnm_result links_poll(void *user, uint64_t ticket) {
    links *w = ((const links_end *)user)->world;
    int slot = (int)(ticket - 1);
    if (w->done[slot] > w->now) return TNM_PENDING;
    w->done[slot] = 0;
    for (int i = 0; i < w->outs; i++) {
        if (w->out[i] != slot) continue;
        w->out[i] = w->out[--w->outs];
        break;
    }
    return TNM_OK;
}

static inline tnm_tier_desc links_tier(links *w, int index, const char *name, uint64_t budget) {
    tnm_tier_desc tier;
    w->end[index].world = w;
    w->end[index].tier = index;
    memset(&tier, 0, sizeof tier);
    tier.name = name;
    tier.backend.alloc = links_alloc;
    tier.backend.release = links_release;
    tier.backend.copy = links_copy;
    tier.backend.poll = links_poll;
    tier.backend.user = &w->end[index];
    tier.budget_bytes = budget;
    if (budget == 0) tier.segment_bytes = (uint64_t)1 << 34;
    return tier;
}

/* ---- time ---- */
/* When the next copy or kernel ends, LINKS_NEVER if none is under way. */
static inline uint64_t links_next(const links *w) {
    uint64_t next = LINKS_NEVER;
    for (int i = 0; i < w->outs; i++) {
        uint64_t done = w->done[w->out[i]];
        if (done > w->now && done < next) next = done;
    }
    for (uint64_t k = w->passed + 1; k <= w->submitted; k++) {
        uint64_t done = w->kernel[k % LINKS_KERNELS];
        if (done > w->now && done < next) next = done;
    }
    return next;
}

/* Time passes up to `until`. With `pump`, as with a pump thread: one that sleeps until a copy has
 * ended, collects it and starts the next. */
static inline void links_sleep(links *w, tnm_ctx *ctx, uint64_t until, int pump) {
    while (pump && links_next(w) <= until) {
        w->now = links_next(w);
        tnm_pump(ctx, TNM_ALL);
    }
    w->now = links_max(w->now, until);
}

static inline void links_compute(links *w, tnm_ctx *ctx, uint64_t ns, int pump) {
    w->computed += ns;
    links_sleep(w, ctx, w->now + ns, pump);
}

/* Hands a kernel to the device behind those before it; its fence is on queue 0. */
static inline uint64_t links_submit(links *w, uint64_t ns) {
    uint64_t before = w->submitted ? w->kernel[w->submitted % LINKS_KERNELS] : 0;
    w->computed += ns;
    w->submitted++;
    w->kernel[w->submitted % LINKS_KERNELS] = links_max(before, w->now) + ns;
    return TNM_FENCE(0, w->submitted);
}

static inline uint64_t links_passed(void *user, uint32_t queue, uint64_t wait_for) {
    links *w = (links *)user;
    (void)queue;
    if (wait_for) w->now = links_max(w->now, w->kernel[wait_for % LINKS_KERNELS]);
    while (w->passed < w->submitted && w->kernel[(w->passed + 1) % LINKS_KERNELS] <= w->now)
        w->passed++;
    return w->passed;
}

#endif
