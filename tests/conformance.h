/* conformance.h: does this backend keep the contract of tensormem.h? For whoever writes one.
 *
 *   #include "tensormem.h"
 *   #include "conformance.h"
 *
 *   int main(void) {
 *       conform_subject s;
 *       memset(&s, 0, sizeof s);
 *       s.name = "mine";
 *       s.device = my_backend(); // and what else there is: host, peer, mark and passed, ...
 *       return conform(&s);
 *   }
 *
 * `conform` plays rules, first on the callbacks themselves, as the engine would call them: one at a
 * time, the destination's backend asked first, submit before poll, never a poll after an answer.
 * Then through whole contexts: the device above its host tier above a storage of the kit's own. A
 * broken rule is one line,
 *
 *   conform opencl: copy-odd: 1 byte at offset 3 arrived at offset 0 (a copy moves just its bytes)
 *
 * with the first breach, and what breaks it again is not printed. The last line counts the rules
 * and names those that could not be played here, with the reason. What one rule found broken may
 * break others: begin with the first line.
 *
 * Nothing but libc is needed, and pthreads for the rules about threads (not for MSVC). The
 * environment: CONFORM_ONLY="copy-odd fence" plays these rules alone, TNM_TEST_SCALE=small makes
 * the long ones short. A callback that never answers is given up after CONFORM_PATIENCE seconds
 * (20). After that, and after copies that outlive their answer, no memory is safe: what is held is
 * left alone and the other rules are not played. */
#ifndef TENSORMEM_TESTS_CONFORMANCE_H
#define TENSORMEM_TESTS_CONFORMANCE_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__EMSCRIPTEN__) ? defined(__EMSCRIPTEN_PTHREADS__)                                     \
                            : defined(__MINGW32__) || !(defined(_WIN32) || defined(__wasi__))
#    include <pthread.h>
#    include <sched.h>
#    define CONFORM_THREADS 4
#endif

/* ---- the face ---- */

typedef struct conform_subject {
    const char *name;   /* "opencl", "cuda (stand-in)", "hip (stand-in)" */
    tnm_backend device; /* what is held against the contract */
    tnm_backend host;   /* the host tier the runtime wants beside it; all zero = plain memory */
    tnm_backend peer;   /* a sibling device of the same runtime; all zero = none */
    uint32_t alignment, tail_bytes; /* for tnm_tier_desc; 0 = the default */
    uint64_t device_bytes; /* how much of the device the kit may take at once; 0 = 256 MiB */
    uint32_t queues;       /* fence queues 0 .. queues-1 that `mark` serves; 0 = no fences */
    uint64_t (*passed)(void *user, uint32_t queue, uint64_t wait_for);
    uint64_t (*mark)(void *user, uint32_t queue); /* a fence value behind all queued; 0 = failed */
    /* queue a kernel that adds `add` to each byte; NULL = none; 0 = failed */
    int (*work)(void *user, uint32_t queue, const tnm_pinned *at, uint8_t add);
    uint64_t (*live)(void *user); /* allocations the runtime holds for us; NULL = cannot say */
    /* Stand-ins: the nth call of the function `call` from now (1 = the next) answers the runtime's
     * error `code`; call NULL = of any function that can fail, code 0 = its plain failure. The
     * latest order replaces the one before; nth 0 takes it back. NULL = cannot. */
    void (*fail)(void *user, const char *call, int nth, int code);
    void (*lose)(void *user); /* stand-ins: the device dies now; NULL = cannot */
    /* A fresh device after lose, the dead one closed: 1, and out as if it were new. `user` of the
     * subject stays what it is for the one who ends it. NULL = cannot. */
    int (*again)(void *user, struct conform_subject *out);
    /* The runtime's own copy from or to page-locked memory, seconds for all rounds; for benches. It
     * walks through memory: 4 MiB again and again would come from a cache. */
    double (*raw_copy_s)(void *user, int to_device, uint64_t bytes, int rounds);
    void *user;
    int real; /* 1 = a real runtime (a CPU one counts), 0 = a stand-in */
    /* Names for `fail`, each tried for itself, NULL at the end; none = call NULL is used. */
    const char *const *calls;
    /* The same between the very places of tensors that are pinned on the device and on the host
     * tier, all queued at once: what a bench sets beside our own copies of them. NULL = cannot. */
    double (*raw_pairs_s)(void *user, int to_device, const tnm_pinned *device,
                          const tnm_pinned *host, int count);
} conform_subject;

static inline int conform(const conform_subject *s); /* how many rules are broken */

/* ---- the rules ---- */

#define CONFORM_RULES(X)                                                                           \
    X(ALLOC_ALIGN, "alloc-align", "memory starts at the alignment asked, up to 64 KiB")            \
    X(ALLOC_DISTINCT, "alloc-distinct", "every piece of memory is its own, of the size asked")     \
    X(ALLOC_ORDER, "alloc-order", "memory may be given back and taken again in any order")         \
    X(ALLOC_REFUSE, "alloc-refuse", "what is too large is refused with an error, nothing held")    \
    X(ALLOC_FULL, "alloc-full", "a full device refuses, and gives again what was released")        \
    X(ALLOC_HOST, "alloc-host", "the CPU address shows the bytes that copies move")                \
    X(ALLOC_ITEM, "alloc-item", "item is the program's affair, and NULL is one")                   \
    X(ALLOC_AVAILABLE, "alloc-available", "what available says there is, alloc gives")             \
    X(COPY_ROUTE, "copy-route", "a route is known or UNSUPPORTED, always, and ticket untouched")   \
    X(COPY_WHOLE, "copy-whole", "a copy brings every byte")                                        \
    X(COPY_ODD, "copy-odd", "a copy moves just its bytes, whatever its size and offsets")          \
    X(COPY_EDGE, "copy-edge", "sizes around pages and chunks are sizes like all others")           \
    X(COPY_WITHIN, "copy-within", "memory copies to itself where it does not overlap")             \
    X(COPY_BETWEEN, "copy-between", "two pieces of one device copy to each other")                 \
    X(COPY_PLAIN, "copy-plain", "the caller's own memory is pageable and starts anywhere")         \
    X(COPY_HOST, "copy-host", "the host tier copies within itself and to plain memory")            \
    X(COPY_ADOPTED, "copy-adopted", "adopted memory is not from alloc: only its address counts")   \
    X(COPY_PEER, "copy-peer", "a sibling's memory is a sibling's")                                 \
    X(COPY_SOURCE, "copy-source", "the source of a copy stays as it was")                          \
    X(TICKET_ZERO, "ticket-zero", "PENDING comes with a ticket that is not 0")                     \
    X(TICKET_DONE, "ticket-done", "OK says that every copy under the ticket is done")              \
    X(TICKET_ORDER, "ticket-order", "tickets are polled at once, late, in any order")              \
    X(TICKET_WAIT, "ticket-wait", "wait ends a copy as poll does")                                 \
    X(TICKET_MANY, "ticket-many", "many copies go before one submit, and all arrive")              \
    X(QUEUE_BUSY, "queue-busy", "a full queue is BUSY, and goes on after polls")                   \
    X(HANG, "hang", "what was started ends")                                                       \
    X(FENCE_MARK, "fence-mark", "marks grow, from 1, to 2^55-2 at most")                           \
    X(FENCE_PASSED, "fence-passed", "passed never goes back, and reaches what was marked")         \
    X(FENCE_WORK, "fence-work", "a fence has passed when the kernels before it have run")          \
    X(FAIL_CLEAR, "fail-clear", "a failure is an error, and the next call is as if none had been") \
    X(FAIL_DEAD, "fail-dead", "a copy that ended with an error writes no more")                    \
    X(THREAD_HOP, "thread-hop", "every callback may run on another thread than the one before")    \
    X(CTX_TRIP, "ctx-trip", "a tensor comes back from the device and from below it")               \
    X(CTX_SWEEP, "ctx-sweep", "more tensors than fit are worked through the device")               \
    X(CTX_PEER, "ctx-peer", "tensors move between two devices")                                    \
    X(CTX_WORK, "ctx-work", "what a kernel uses stays until its fence has passed")                 \
    X(CTX_FULL, "ctx-full", "a budget beyond the device's memory makes do with what there is")     \
    X(CTX_SMALL, "ctx-small", "very many small tensors")                                           \
    X(CTX_DEDICATED, "ctx-dedicated", "a tier gives each tensor memory of its own")                \
    X(CTX_THREADS, "ctx-threads", "threads share a context")                                       \
    X(CTX_PUMP, "ctx-pump", "a thread pumps while kernels are queued and marked by another")       \
    X(CTX_DESTROY, "ctx-destroy", "a context ends with copies in flight")                          \
    X(CTX_REFUSED, "ctx-refused", "a create that fails touches no device")                         \
    X(CTX_FAIL, "ctx-fail", "a failing call loses nothing, and the same call works afterwards")    \
    X(LEAK, "leak", "what was given back is held no more")                                         \
    X(LOST, "lost", "a dead device answers LOST, and what lies below it is not lost")              \
    X(AGAIN, "again", "after a device died a fresh one works")

#define CONFORM_NAME(id, name, sentence) CONFORM_##id,
enum { CONFORM_RULES(CONFORM_NAME) CONFORM_COUNT };
#undef CONFORM_NAME

enum {
    CONFORM_FLIGHTS = 1024,
    CONFORM_SMALL = 2048,            /* the pieces odd copies are tried on */
    CONFORM_LAB = (4 << 20) + 65536, /* the largest piece the rules on callbacks move */
    CONFORM_TIERS = 4
};

typedef struct conform_end {    /* a piece of memory that copies may begin or end in */
    const tnm_backend *backend; /* NULL: the caller's plain memory */
    unsigned char *host;
    uint64_t mem, size;
    int tier, adopted;
} conform_end;

typedef struct conform_flight { /* a copy under way */
    const tnm_backend *by;
    uint64_t ticket;
    tnm_result result; /* PENDING until its ticket is answered */
} conform_flight;

typedef struct conform_kit {
    conform_subject s;
    tnm_backend host; /* the subject's, or the kit's for plain memory */
    int broken[CONFORM_COUNT], played[CONFORM_COUNT];
    const char *unplayed[CONFORM_COUNT];
    int rule, dead; /* being played; a hang: touch nothing any more */
    conform_flight flight[CONFORM_FLIGHTS];
    int flights;          /* used so far */
    uint64_t unsubmitted; /* copies since the last submit */
    tnm_result answer;    /* of the latest copy */
    conform_end lab;      /* CPU memory that is good for copies to the device */
    unsigned char *seen;  /* what was read back */
    uint64_t random, keys;
    char said[200];       /* the context's latest log item */
    uint64_t cap, capped; /* ctx-full: what alloc may give, and has given */
    uint64_t told[256];   /* by `passed`, of each queue */
    int patience, skipped;
    const char *only; /* names of rules, or NULL */
} conform_kit;

static inline const char *conform_rule_name(int rule) {
#define CONFORM_NAME(id, name, sentence) name,
    static const char *const names[] = { CONFORM_RULES(CONFORM_NAME) };
#undef CONFORM_NAME
    return names[rule];
}

static inline const char *conform_rule_sentence(int rule) {
#define CONFORM_NAME(id, name, sentence) sentence,
    static const char *const sentences[] = { CONFORM_RULES(CONFORM_NAME) };
#undef CONFORM_NAME
    return sentences[rule];
}

#ifdef __GNUC__
__attribute__((format(printf, 3, 4)))
#endif
static inline void
conform_broken(conform_kit *k, int rule, const char *format, ...) {
    va_list list;
    if (k->dead) return; /* what follows from it is no news */
    if (rule == CONFORM_TICKET_DONE || rule == CONFORM_FAIL_DEAD || rule == CONFORM_HANG)
        k->dead = 1;                   /* somebody may write any time: nothing is given back */
    if (k->broken[rule]++ > 0) return; /* the first breach is the one to look at */
    printf("conform %s: %s: ", k->s.name, conform_rule_name(rule));
    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    if (k->rule != rule && k->rule < CONFORM_COUNT) printf(", in %s", conform_rule_name(k->rule));
    printf(" (%s)\n", conform_rule_sentence(rule));
    fflush(stdout);
}

static inline unsigned long long conform_n(uint64_t n) { /* for printf */
    return (unsigned long long)n;
}

static inline int conform_small_scale(void) {
    const char *scale = getenv("TNM_TEST_SCALE");
    return scale && strcmp(scale, "small") == 0;
}

static inline uint64_t conform_draw(conform_kit *k, uint64_t below) {
    k->random ^= k->random >> 12;
    k->random ^= k->random << 25;
    k->random ^= k->random >> 27;
    return (k->random * UINT64_C(0x2545F4914F6CDD1D) >> 33) % below;
}

/* ---- payloads: a byte tells its content and its offset. Odd keys have the high bit set and even
 * ones have not, so that a payload is never mistaken for what lay there before ---- */

static inline uint64_t conform_word(uint64_t key, uint64_t word) { /* 8 bytes of it */
    uint64_t h =
        (key + 1) * UINT64_C(0x9E3779B97F4A7C15) ^ (word + 1) * UINT64_C(0xBF58476D1CE4E5B9);
    h ^= h >> 29;
    h *= UINT64_C(0x94D049BB133111EB);
    h = (h ^ h >> 32) & UINT64_C(0x7F7F7F7F7F7F7F7F);
    return key & 1 ? h | UINT64_C(0x8080808080808080) : h;
}

static inline unsigned char conform_byte(uint64_t key, uint64_t at) {
    return (unsigned char)(conform_word(key, at / 8) >> (at % 8 * 8));
}

static inline void conform_fill(void *to, uint64_t key, uint64_t at, uint64_t size) {
    unsigned char *byte = (unsigned char *)to;
    for (uint64_t i = 0; i < size;) {
        uint64_t word = conform_word(key, (at + i) / 8) >> ((at + i) % 8 * 8);
        do {
            byte[i++] = (unsigned char)word;
            word >>= 8;
        } while (i < size && (at + i) % 8 != 0);
    }
}

/* The first byte that is not the payload's, each raised by `add`, or size. */
static inline uint64_t conform_differs(const void *seen, uint64_t key, uint64_t at, uint64_t size,
                                       unsigned add) {
    const unsigned char *byte = (const unsigned char *)seen;
    for (uint64_t i = 0; i < size;) {
        uint64_t word = conform_word(key, (at + i) / 8) >> ((at + i) % 8 * 8);
        do {
            if (byte[i] != (unsigned char)(word + add)) return i;
            i++;
            word >>= 8;
        } while (i < size && (at + i) % 8 != 0);
    }
    return size;
}

/* ---- patience ---- */

static inline int conform_late(conform_kit *k, time_t since) {
    return difftime(time(NULL), since) > k->patience;
}

static inline void conform_breathe(void) {
#ifdef CONFORM_THREADS
    sched_yield();
#endif
}

/* Memory a hanging copy may still write to is never freed. */
static inline void **conform_kept(void) {
    static void *kept[256];
    return kept;
}

static inline void conform_keep(void *memory) {
    void **kept = conform_kept();
    for (int i = 0; i < 256; i++) {
        if (kept[i]) continue;
        kept[i] = memory;
        return;
    }
}

/* ---- the host tier, where the subject has none: what tensormem.h gives for an all-zero backend */

static inline tnm_result conform_host_alloc(void *user, uint64_t size, uint64_t align, void *item,
                                            uint64_t *mem, void **host) {
    unsigned char *raw, *at;
    (void)user, (void)item;
    if (align < sizeof raw) align = sizeof raw;
    if (size > PTRDIFF_MAX / 2) return TNM_ERR_MEMORY;
    raw = (unsigned char *)malloc((size_t)(size + align + sizeof raw));
    if (!raw) return TNM_ERR_MEMORY;
    at = raw + sizeof raw;
    at += (align - (uintptr_t)at % align) % align;
    memcpy(at - sizeof raw, &raw, sizeof raw);
    *mem = (uint64_t)(uintptr_t)at;
    *host = at;
    return TNM_OK;
}

static inline void conform_host_release(void *user, uint64_t mem, uint64_t size) {
    unsigned char *raw;
    (void)user, (void)size;
    memcpy(&raw, (unsigned char *)(uintptr_t)mem - sizeof raw, sizeof raw);
    free(raw);
}

static inline tnm_result conform_host_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                           uint64_t size, uint64_t *ticket) {
    (void)user, (void)ticket;
    if (!dst->host || !src->host) return TNM_ERR_UNSUPPORTED;
    memcpy(dst->host, src->host, (size_t)size);
    return TNM_OK;
}

/* ---- a storage below all: its memory has no CPU address, and it copies to what has one ---- */

static inline tnm_result conform_store_alloc(void *user, uint64_t size, uint64_t align, void *item,
                                             uint64_t *mem, void **host) {
    tnm_result r = conform_host_alloc(user, size, align, item, mem, host);
    *host = NULL;
    return r;
}

static inline tnm_result conform_store_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                            uint64_t size, uint64_t *ticket);

static inline unsigned char *conform_store_reach(const tnm_span *span) {
    if (!span->host && span->backend && span->backend->copy == conform_store_copy)
        return (unsigned char *)(uintptr_t)span->mem + span->offset;
    return (unsigned char *)span->host;
}

static inline tnm_result conform_store_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                            uint64_t size, uint64_t *ticket) {
    unsigned char *to = conform_store_reach(dst), *from = conform_store_reach(src);
    (void)user, (void)ticket;
    if (!to || !from) return TNM_ERR_UNSUPPORTED;
    memcpy(to, from, (size_t)size);
    return TNM_OK;
}

/* ---- memory of a stranger that nobody can reach ---- */

static inline tnm_result conform_alien_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                            uint64_t size, uint64_t *ticket) {
    (void)user, (void)dst, (void)src, (void)size, (void)ticket;
    return TNM_ERR_UNSUPPORTED;
}

/* ---- the mouth: callbacks asked as the engine asks them ---- */

static inline tnm_result conform_take(conform_kit *k, const tnm_backend *b, uint64_t size,
                                      uint64_t align, conform_end *out) {
    void *host = NULL;
    tnm_result r;
    memset(out, 0, sizeof *out);
    if (k->dead) return TNM_ERR_BACKEND;
    r = b->alloc(b->user, size, align, NULL, &out->mem, &host);
    if (r != TNM_OK) return r;
    if (b->host_visible && !host)
        conform_broken(k, CONFORM_ALLOC_HOST, "host_visible, and %llu bytes have no CPU address",
                       conform_n(size));
    out->backend = b;
    out->host = (unsigned char *)host;
    out->size = size;
    out->tier = b == &k->s.device ? 0 : b == &k->host ? 1 : 2;
    return r;
}

static inline void conform_give(conform_kit *k, conform_end *end) {
    if (end->backend && end->size && !k->dead)
        end->backend->release(end->backend->user, end->mem, end->size);
    memset(end, 0, sizeof *end);
}

/* Memory that may still be written to stays where it is, and known to who looks for leaks. */
static inline void conform_abandon(const conform_end *end) {
    unsigned char *raw = end->host;
    if (end->backend && end->backend->copy == conform_host_copy && !end->adopted && raw)
        memcpy(&raw, end->host - sizeof raw, sizeof raw);
    conform_keep(raw);
}

static inline conform_end conform_plain(void *memory, uint64_t size) {
    conform_end end;
    memset(&end, 0, sizeof end);
    end.host = (unsigned char *)memory;
    end.size = size;
    end.tier = -1;
    return end;
}

static inline tnm_span conform_span(const conform_end *end, uint64_t at) {
    tnm_span span;
    memset(&span, 0, sizeof span);
    span.backend = end->backend;
    span.tier = end->tier;
    span.adopted = end->adopted;
    span.host = end->host ? end->host + at : NULL;
    if (end->backend) {
        span.mem = end->mem;
        span.offset = at;
    }
    return span;
}

/* One backend is asked for a copy. UNSUPPORTED must leave the ticket as it is. */
static inline tnm_result conform_ask(conform_kit *k, const tnm_backend *by, const tnm_span *dst,
                                     const tnm_span *src, uint64_t size, uint64_t *ticket) {
    const uint64_t before = UINT64_C(0xA5A5A5A5A5A5A5A5);
    tnm_result r;
    if (!by || !by->copy) return TNM_ERR_UNSUPPORTED;
    *ticket = before;
    r = by->copy(by->user, dst, src, size, ticket);
    if (r == TNM_ERR_UNSUPPORTED && *ticket != before)
        conform_broken(k, CONFORM_COPY_ROUTE, "UNSUPPORTED came with ticket %llu",
                       conform_n(*ticket));
    if (r == TNM_PENDING && (*ticket == 0 || *ticket == before)) {
        conform_broken(k, CONFORM_TICKET_ZERO, "PENDING came with %s for %llu bytes",
                       *ticket == 0 ? "ticket 0" : "no ticket", conform_n(size));
        r = TNM_ERR_BACKEND;
    }
    if (r == TNM_PENDING && !by->poll) {
        conform_broken(k, CONFORM_TICKET_ZERO, "PENDING, and there is no poll");
        r = TNM_ERR_BACKEND;
    }
    return r;
}

static inline void conform_submit(conform_kit *k) {
    const tnm_backend *const all[] = { &k->s.device, &k->host, &k->s.peer };
    if (k->unsubmitted == 0) return;
    k->unsubmitted = 0;
    for (int i = 0; i < 3; i++)
        if (all[i]->submit) all[i]->submit(all[i]->user);
}

/* What a ticket answers goes for every copy under it, and it is never polled again. */
static inline tnm_result conform_poll(conform_kit *k, int i, int wait) {
    const conform_flight f = k->flight[i];
    tnm_result r = f.result;
    if (r != TNM_PENDING || k->dead) return r;
    conform_submit(k);
    r = wait && f.by->wait ? f.by->wait(f.by->user, f.ticket) : f.by->poll(f.by->user, f.ticket);
    if (r == TNM_PENDING) return r;
    for (int j = 0; j < k->flights; j++) {
        conform_flight *other = &k->flight[j];
        if (other->result == TNM_PENDING && other->by == f.by && other->ticket == f.ticket)
            other->result = r;
    }
    return r;
}

static inline tnm_result conform_end_of(conform_kit *k, int i) {
    time_t since = time(NULL);
    while (i >= 0 && conform_poll(k, i, 0) == TNM_PENDING && !k->dead) {
        if (conform_late(k, since))
            conform_broken(k, CONFORM_HANG, "ticket %llu is PENDING for %d s",
                           conform_n(k->flight[i].ticket), k->patience);
        conform_breathe();
    }
    return i >= 0 ? k->flight[i].result : k->answer;
}

static inline void conform_land(conform_kit *k) { /* all that is under way */
    for (int i = 0; i < k->flights; i++)
        (void)conform_end_of(k, i);
    k->flights = 0;
}

/* Start a copy: the number of its flight, or -1 with the reason in k->answer. When the queue is
 * full it polls what is under way, and without anything under way that is a breach. */
static inline int conform_go(conform_kit *k, const conform_end *to, uint64_t to_at,
                             const conform_end *from, uint64_t from_at, uint64_t size) {
    tnm_span dst = conform_span(to, to_at), src = conform_span(from, from_at);
    time_t since = time(NULL);
    if (k->flights == CONFORM_FLIGHTS) conform_land(k);
    for (;;) {
        conform_flight *f = &k->flight[k->flights];
        int waiting = 0;
        if (k->dead) return -1;
        f->by = to->backend;
        f->result = conform_ask(k, f->by, &dst, &src, size, &f->ticket);
        if (f->result == TNM_ERR_UNSUPPORTED) {
            f->by = from->backend;
            f->result = conform_ask(k, f->by, &dst, &src, size, &f->ticket);
        }
        k->answer = f->result;
        if (f->result == TNM_PENDING) k->unsubmitted++;
        if (f->result >= 0) return k->flights++;
        if (f->result != TNM_ERR_BUSY) return -1;
        for (int i = 0; i < k->flights; i++)
            waiting += conform_poll(k, i, 0) == TNM_PENDING;
        if (waiting == 0 && conform_late(k, since)) {
            conform_broken(k, CONFORM_QUEUE_BUSY, "BUSY for %d s with nothing under way",
                           k->patience);
            return -1;
        }
        conform_breathe();
    }
}

static inline tnm_result conform_move(conform_kit *k, const conform_end *to, uint64_t to_at,
                                      const conform_end *from, uint64_t from_at, uint64_t size) {
    return conform_end_of(k, conform_go(k, to, to_at, from, from_at, size));
}

/* ---- the instrument: whole pieces in and out, from the first byte ---- */

static inline int conform_put(conform_kit *k, const conform_end *to, uint64_t key) {
    tnm_result r = TNM_OK;
    if (to->host && to->backend != &k->s.device) {
        conform_fill(to->host, key, 0, to->size);
        return 1;
    }
    conform_fill(k->lab.host, key, 0, to->size);
    r = conform_move(k, to, 0, &k->lab, 0, to->size);
    if (r != TNM_OK)
        conform_broken(k, CONFORM_COPY_WHOLE, "%llu bytes into the device: %s", conform_n(to->size),
                       tnm_result_string(r));
    return r == TNM_OK;
}

static inline const unsigned char *conform_get(conform_kit *k, const conform_end *from) {
    tnm_result r = TNM_OK;
    if (from->host && from->backend != &k->s.device) return from->host;
    memset(k->lab.host, 0x55, (size_t)from->size);
    r = conform_move(k, &k->lab, 0, from, 0, from->size);
    if (r != TNM_OK) {
        conform_broken(k, CONFORM_COPY_WHOLE, "%llu bytes out of the device: %s",
                       conform_n(from->size), tnm_result_string(r));
        return NULL;
    }
    memcpy(k->seen, k->lab.host, (size_t)from->size);
    return k->seen;
}

typedef struct conform_trial { /* one copy and what is around it */
    conform_end to, from;
    uint64_t to_at, from_at, size, to_key, from_key;
} conform_trial;

/* Where the payload went instead, in words; it lies where the old bytes have changed. */
static inline void conform_explain(conform_kit *k, int rule, const conform_trial *t,
                                   const unsigned char *seen) {
    uint64_t first = 0, bad;
    const char *s = t->size == 1 ? "" : "s";
    bad = conform_differs(seen + t->to_at, t->from_key, t->from_at, t->size, 0);
    while (first < t->to.size && ((first >= t->to_at && first < t->to_at + t->size) ||
                                  seen[first] == conform_byte(t->to_key, first)))
        first++;
    if (first < t->to.size && conform_differs(seen + first, t->from_key, t->from_at, 1, 0) == 1)
        conform_broken(k, rule, "%llu byte%s at offset %llu arrived at offset %llu",
                       conform_n(t->size), s, conform_n(t->to_at), conform_n(first));
    else if (first < t->to.size)
        conform_broken(k, rule, "%llu byte%s at offset %llu: the byte at %llu changed too",
                       conform_n(t->size), s, conform_n(t->to_at), conform_n(first));
    else if (seen[t->to_at + bad] == conform_byte(t->to_key, t->to_at + bad))
        conform_broken(k, rule, "%llu byte%s from offset %llu to %llu: byte %llu did not arrive",
                       conform_n(t->size), s, conform_n(t->from_at), conform_n(t->to_at),
                       conform_n(bad));
    else
        conform_broken(k, rule, "%llu byte%s from offset %llu to %llu: byte %llu is wrong",
                       conform_n(t->size), s, conform_n(t->from_at), conform_n(t->to_at),
                       conform_n(bad));
}

/* The bytes of the trial, and those around them, in what was read back. */
static inline int conform_arrived(conform_kit *k, int rule, const conform_trial *t,
                                  const unsigned char *seen) {
    uint64_t end = t->to_at + t->size;
    if (!seen) return 0;
    if (conform_differs(seen, t->to_key, 0, t->to_at, 0) == t->to_at &&
        conform_differs(seen + t->to_at, t->from_key, t->from_at, t->size, 0) == t->size &&
        conform_differs(seen + end, t->to_key, end, t->to.size - end, 0) == t->to.size - end)
        return 1;
    conform_explain(k, rule, t, seen);
    return 0;
}

/* One copy, alone: 1 = it went well, or the route is not known. */
static inline int conform_try(conform_kit *k, int rule, conform_trial *t) {
    const unsigned char *seen;
    tnm_result r;
    uint64_t bad;
    t->to_key = 2 * ++k->keys + 1;
    t->from_key = 2 * k->keys;
    if (!conform_put(k, &t->to, t->to_key) || !conform_put(k, &t->from, t->from_key)) return 0;
    r = conform_move(k, &t->to, t->to_at, &t->from, t->from_at, t->size);
    if (r == TNM_ERR_UNSUPPORTED) return 1;
    if (r != TNM_OK) {
        conform_broken(k, rule, "%llu bytes from offset %llu to %llu: %s", conform_n(t->size),
                       conform_n(t->from_at), conform_n(t->to_at), tnm_result_string(r));
        return 0;
    }
    seen = conform_get(k, &t->from);
    bad = seen ? conform_differs(seen, t->from_key, 0, t->from.size, 0) : t->from.size;
    if (bad < t->from.size)
        conform_broken(k, CONFORM_COPY_SOURCE,
                       "%llu bytes from offset %llu: the source's byte %llu changed",
                       conform_n(t->size), conform_n(t->from_at), conform_n(bad));
    if (t->from.host && t->from.backend != &k->s.device) /* what is done needs it no more */
        memset(t->from.host, 0x55, (size_t)t->from.size);
    return conform_arrived(k, rule, t, conform_get(k, &t->to));
}

/* Every size to 257 at offsets that step through all remainders of 64. */
static inline int conform_try_odd(conform_kit *k, int rule, conform_end to, conform_end from) {
    conform_trial t;
    uint64_t step = conform_small_scale() ? 7 : 1;
    t.to = to;
    t.from = from;
    for (t.size = 1; t.size <= 257; t.size += step) {
        t.to_at = 3 + t.size * 37 % 509;
        t.from_at = 1 + t.size * 11 % 251;
        if (t.size % 5 == 0) t.to_at &= ~(uint64_t)3; /* lined up on one side only */
        if (t.size % 7 == 0) t.from_at = 0;
        if (t.size % 11 == 0) t.to_at = 0;
        if (!conform_try(k, rule, &t)) return 0;
    }
    return 1;
}

/* Around pages and the default chunk. */
static inline int conform_try_edge(conform_kit *k, int rule, conform_end to, conform_end from) {
    static const uint64_t sizes[] = {
        4095, 4096, 4097, 65535, 65537, (4 << 20) - 1, (4 << 20) + 1
    };
    conform_trial t;
    t.to = to;
    t.from = from;
    for (int i = 0; i < (int)(sizeof sizes / sizeof sizes[0]); i++) {
        if (conform_small_scale() && i == 5) continue;
        t.size = sizes[i];
        t.to.size = t.from.size = sizes[i] + 8192; /* what lies behind is not looked at */
        for (int odd = conform_small_scale() && i > 4; odd < 2; odd++) {
            t.to_at = odd ? 129 : 0;
            t.from_at = odd ? 63 : 4096;
            if (!conform_try(k, rule, &t)) return 0;
        }
    }
    return 1;
}

/* ---- rules on alloc and release ---- */

static inline uint64_t conform_room(const conform_kit *k) {
    return k->s.device_bytes ? k->s.device_bytes : UINT64_C(256) << 20;
}

/* Does the device see this memory at the alignment? The token is its own affair; what can be held
 * against it is the CPU address. */
static inline void conform_aligned(conform_kit *k, const tnm_backend *b, const char *of) {
    conform_end end, before; /* which nothing can lie in front of */
    (void)conform_take(k, b, 5000, 1, &before);
    for (uint64_t align = 1; align <= 65536; align *= 2) {
        for (uint64_t size = 1; size <= 100000; size = size * 9 + 1) {
            tnm_result r = conform_take(k, b, size, align, &end);
            if (r != TNM_OK) {
                conform_broken(k, CONFORM_ALLOC_ALIGN, "%s: %llu bytes at alignment %llu: %s", of,
                               conform_n(size), conform_n(align), tnm_result_string(r));
                break;
            }
            if ((uintptr_t)end.host % align != 0)
                conform_broken(k, CONFORM_ALLOC_ALIGN,
                               "%s: %llu bytes at alignment %llu start at %p", of, conform_n(size),
                               conform_n(align), (void *)end.host);
            conform_give(k, &end);
        }
    }
    conform_give(k, &before);
}

static inline void conform_play_align(conform_kit *k) {
    conform_aligned(k, &k->s.device, "device");
    if (k->s.host.alloc) conform_aligned(k, &k->host, "host tier");
    if (k->s.peer.alloc) conform_aligned(k, &k->s.peer, "peer");
}

/* Tensors of TNM_DEDICATED tiers name their user; a backend of ours only passes it by. */
static inline void conform_play_item(conform_kit *k) {
    uint64_t item[4] = { 1, 2, 3, 4 }, mem = 0;
    void *host = NULL;
    tnm_result r = k->s.device.alloc(k->s.device.user, 10000, 256, item, &mem, &host);
    if (r == TNM_OK) k->s.device.release(k->s.device.user, mem, 10000);
    if (r != TNM_OK)
        conform_broken(k, CONFORM_ALLOC_ITEM, "10000 bytes with an item: %s", tnm_result_string(r));
    if (item[0] != 1 || item[1] != 2 || item[2] != 3 || item[3] != 4)
        conform_broken(k, CONFORM_ALLOC_ITEM, "the item was written to");
}

static inline void conform_play_available(conform_kit *k) {
    uint64_t most = conform_room(k) / 2, size;
    conform_end end;
    tnm_result r;
    if (!k->s.device.available) {
        k->unplayed[CONFORM_ALLOC_AVAILABLE] = "no available";
        return;
    }
    size = k->s.device.available(k->s.device.user) / 2;
    if (size > most) size = most;
    if (size < 4096)
        conform_broken(k, CONFORM_ALLOC_AVAILABLE, "an empty device says %llu bytes",
                       conform_n(k->s.device.available(k->s.device.user)));
    r = conform_take(k, &k->s.device, size, 256, &end);
    if (r != TNM_OK)
        conform_broken(k, CONFORM_ALLOC_AVAILABLE, "%llu bytes, half of it at most: %s",
                       conform_n(size), tnm_result_string(r));
    conform_give(k, &end);
}

/* Pieces with sizes that are no powers of two, each filled to its last byte with bytes of its own,
 * all read back when all are full. */
static inline void conform_play_distinct(conform_kit *k) {
    enum { PIECES = 24 };
    conform_end end[PIECES];
    uint64_t key[PIECES], bad;
    int count = 0;
    for (; count < PIECES; count++) {
        uint64_t size = 1 + (uint64_t)(count * count) * 977;
        tnm_result r = conform_take(k, &k->s.device, size, 256, &end[count]);
        key[count] = 2 * ++k->keys;
        if (r == TNM_OK && conform_put(k, &end[count], key[count])) continue;
        if (r != TNM_OK)
            conform_broken(k, CONFORM_ALLOC_DISTINCT, "piece %d, of %llu bytes: %s", count,
                           conform_n(size), tnm_result_string(r));
        break;
    }
    for (int i = 0; i < count; i++) {
        const unsigned char *seen = conform_get(k, &end[i]);
        if (!seen) break;
        bad = conform_differs(seen, key[i], 0, end[i].size, 0);
        if (bad < end[i].size)
            conform_broken(k, CONFORM_ALLOC_DISTINCT,
                           "piece %d, of %llu bytes: byte %llu is not what was stored", i,
                           conform_n(end[i].size), conform_n(bad));
    }
    while (count-- > 0)
        conform_give(k, &end[count]);
}

static inline void conform_play_order(conform_kit *k) {
    enum { PIECES = 12 };
    conform_end end[PIECES];
    uint64_t key[PIECES];
    memset(end, 0, sizeof end);
    for (int turn = 0; turn < 120 && !k->broken[CONFORM_ALLOC_ORDER]; turn++) {
        int i = (int)conform_draw(k, PIECES);
        const unsigned char *seen;
        if (end[i].size) { /* still what was stored, whatever came and went beside it? */
            seen = conform_get(k, &end[i]);
            if (!seen) break;
            if (conform_differs(seen, key[i], 0, end[i].size, 0) < end[i].size)
                conform_broken(k, CONFORM_ALLOC_ORDER,
                               "turn %d: %llu bytes changed as others came and went", turn,
                               conform_n(end[i].size));
            conform_give(k, &end[i]);
        } else {
            uint64_t size = 1 + conform_draw(k, 200000);
            tnm_result r = conform_take(k, &k->s.device, size, 256, &end[i]);
            key[i] = 2 * ++k->keys;
            if (r != TNM_OK)
                conform_broken(k, CONFORM_ALLOC_ORDER, "turn %d: %llu bytes: %s", turn,
                               conform_n(size), tnm_result_string(r));
            if (r != TNM_OK || !conform_put(k, &end[i], key[i])) break;
        }
    }
    for (int i = 0; i < PIECES; i++)
        conform_give(k, &end[i]);
}

static inline void conform_play_refuse(conform_kit *k) {
    static const uint64_t sizes[] = { UINT64_C(1) << 62, UINT64_C(1) << 63, UINT64_MAX,
                                      UINT64_MAX - 4095 };
    uint64_t live = k->s.live ? k->s.live(k->s.user) : 0;
    conform_end end;
    for (int i = 0; i < 8; i++) {
        uint64_t align = i < 4 ? 256 : 65536;
        tnm_result r = conform_take(k, &k->s.device, sizes[i % 4], align, &end);
        if (r == TNM_OK) conform_give(k, &end);
        if (r >= 0)
            conform_broken(k, CONFORM_ALLOC_REFUSE, "%llu bytes: %s", conform_n(sizes[i % 4]),
                           tnm_result_string(r));
    }
    if (k->s.live && k->s.live(k->s.user) != live)
        conform_broken(k, CONFORM_ALLOC_REFUSE, "%llu allocations before, %llu after refusals",
                       conform_n(live), conform_n(k->s.live(k->s.user)));
    if (conform_take(k, &k->s.device, 4096, 256, &end) != TNM_OK)
        conform_broken(k, CONFORM_ALLOC_REFUSE, "after refusals 4096 bytes are refused too");
    conform_give(k, &end);
}

/* Up to what the subject lets us take; a stand-in is filled until it refuses. */
static inline void conform_play_full(conform_kit *k) {
    enum { PIECES = 64 };
    conform_end end[PIECES];
    uint64_t most = conform_room(k), size = most / 16;
    int count = 0, again = 0;
    tnm_result r = TNM_OK;
    if (!k->s.real) most *= 3;
    while (count < PIECES && (uint64_t)(count + 1) * size <= most) {
        r = conform_take(k, &k->s.device, size, 256, &end[count]);
        if (r != TNM_OK) break;
        count++;
    }
    if (r == TNM_ERR_LOST || r > 0)
        conform_broken(k, CONFORM_ALLOC_FULL, "piece %d, of %llu bytes: %s", count, conform_n(size),
                       tnm_result_string(r));
    if (count < 4)
        conform_broken(k, CONFORM_ALLOC_FULL, "only %d pieces of %llu bytes: set device_bytes",
                       count, conform_n(size));
    for (int i = 0; i < count; i += 2)
        conform_give(k, &end[i]);
    for (int i = 0; i < count; i += 2)
        again += conform_take(k, &k->s.device, size, 256, &end[i]) == TNM_OK;
    if (again < (count + 1) / 2)
        conform_broken(k, CONFORM_ALLOC_FULL, "%d pieces released, %d could be taken again",
                       (count + 1) / 2, again);
    for (int i = 0; i < count; i++)
        conform_give(k, &end[i]);
}

static inline void conform_play_host(conform_kit *k) {
    conform_end end, hidden;
    uint64_t key = 2 * ++k->keys;
    if (k->s.host.alloc && conform_take(k, &k->host, 10000, 256, &end) == TNM_OK)
        conform_give(k, &end);
    if (conform_take(k, &k->s.device, 100003, 256, &end) != TNM_OK) return;
    if (!end.host) {
        k->unplayed[CONFORM_ALLOC_HOST] = "no CPU address";
    } else if (conform_put(k, &end, key)) {
        if (conform_differs(end.host, key, 0, end.size, 0) < end.size)
            conform_broken(k, CONFORM_ALLOC_HOST, "the CPU does not see byte %llu of a copy",
                           conform_n(conform_differs(end.host, key, 0, end.size, 0)));
        conform_fill(end.host, key + 1, 0, end.size);
        hidden = end;
        if (conform_get(k, &hidden) && conform_differs(k->seen, key + 1, 0, end.size, 0) < end.size)
            conform_broken(k, CONFORM_ALLOC_HOST, "a copy does not see what the CPU wrote");
    }
    conform_give(k, &end);
}

/* ---- rules on copy ---- */

typedef struct conform_pieces { /* what the copies are tried on */
    conform_end device, other, host, peer, plain, adopted;
} conform_pieces;

static inline int conform_pieces_take(conform_kit *k, uint64_t size, conform_pieces *p) {
    void *memory = malloc((size_t)size + 64);
    tnm_result r;
    memset(p, 0, sizeof *p);
    p->plain = conform_plain(memory, memory ? size : 0);
    p->adopted = conform_plain(malloc((size_t)size + 64), size);
    p->adopted.host += 1; /* nothing is promised of where it starts */
    p->adopted.backend = &k->host;
    p->adopted.tier = 1;
    p->adopted.adopted = 1;
    r = conform_take(k, &k->s.device, size, 256, &p->device);
    if (r == TNM_OK) r = conform_take(k, &k->s.device, size, 256, &p->other);
    if (r == TNM_OK) r = conform_take(k, &k->host, size, 256, &p->host);
    if (r == TNM_OK && k->s.peer.alloc) r = conform_take(k, &k->s.peer, size, 256, &p->peer);
    if (r != TNM_OK)
        conform_broken(k, CONFORM_ALLOC_FULL, "%llu bytes for a few copies: %s", conform_n(size),
                       tnm_result_string(r));
    return r == TNM_OK && memory != NULL;
}

static inline void conform_pieces_give(conform_kit *k, conform_pieces *p) {
    if (k->dead) {
        conform_abandon(&p->plain);
        conform_abandon(&p->host);
        conform_keep(p->adopted.host - 1);
        return;
    }
    conform_give(k, &p->device);
    conform_give(k, &p->other);
    conform_give(k, &p->host);
    conform_give(k, &p->peer);
    free(p->plain.host);
    free(p->adopted.host - 1);
}

/* 1 = known both ways, 0 = not known, and asked again it is not known either. */
static inline int conform_knows(conform_kit *k, const conform_end *to, const conform_end *from,
                                const char *what) {
    int known = 0;
    for (int i = 0; i < 3; i++) {
        tnm_result r = conform_move(k, to, 0, from, 0, 512);
        if (r != TNM_OK && r != TNM_ERR_UNSUPPORTED)
            conform_broken(k, CONFORM_COPY_ROUTE, "%s: %s", what, tnm_result_string(r));
        known += r == TNM_OK;
    }
    if (known != 0 && known != 3)
        conform_broken(k, CONFORM_COPY_ROUTE, "%s: known %d times of 3", what, known);
    return known == 3;
}

/* What the device must at least know: one way in and out beside which the engine can stage. */
static inline void conform_play_route(conform_kit *k) {
    conform_pieces p;
    conform_end alien;
    tnm_backend other;
    if (conform_pieces_take(k, 4096, &p)) {
        int in = conform_knows(k, &p.device, &p.host, "device from its host tier");
        int out = conform_knows(k, &p.host, &p.device, "host tier from its device");
        if (!in || !out)
            conform_broken(k, CONFORM_COPY_ROUTE, "no way %s the device %s the host tier",
                           in ? "out of" : "into", in ? "to" : "from");
        (void)conform_knows(k, &p.device, &p.plain, "device from plain memory");
        (void)conform_knows(k, &p.plain, &p.device, "plain memory from device");
        (void)conform_knows(k, &p.device, &p.adopted, "device from adopted memory");
        (void)conform_knows(k, &p.adopted, &p.device, "adopted memory from device");
        (void)conform_knows(k, &p.device, &p.other, "device from itself");
        memset(&other, 0, sizeof other);
        other.alloc = conform_store_alloc;
        other.release = conform_host_release;
        other.copy = conform_alien_copy;
        alien = p.plain;
        alien.host = NULL;
        alien.backend = &other;
        alien.tier = 2;
        alien.mem = p.device.mem; /* a token that would be one of ours */
        if (conform_move(k, &p.device, 0, &alien, 0, 512) != TNM_ERR_UNSUPPORTED ||
            conform_move(k, &alien, 0, &p.device, 0, 512) != TNM_ERR_UNSUPPORTED)
            conform_broken(k, CONFORM_COPY_ROUTE, "another backend's memory was taken for its own");
    }
    conform_land(k);
    conform_pieces_give(k, &p);
}

static inline void conform_play_whole(conform_kit *k) {
    static const uint64_t sizes[] = { 256, 4096, 1 << 20, CONFORM_LAB };
    for (int i = 0; i < 4; i++) {
        conform_end end;
        uint64_t key = 2 * ++k->keys, bad;
        if (conform_take(k, &k->s.device, sizes[i], 256, &end) != TNM_OK) continue;
        if (conform_put(k, &end, key)) {
            const unsigned char *seen = conform_get(k, &end);
            bad = seen ? conform_differs(seen, key, 0, end.size, 0) : end.size;
            if (bad < end.size)
                conform_broken(k, CONFORM_COPY_WHOLE, "%llu bytes in and out: byte %llu is wrong",
                               conform_n(end.size), conform_n(bad));
        }
        conform_give(k, &end);
    }
}

static inline void conform_both(conform_kit *k, int rule, uint64_t size, conform_end a,
                                conform_end b) {
    if (size == CONFORM_SMALL) {
        if (conform_try_odd(k, rule, a, b)) (void)conform_try_odd(k, rule, b, a);
    } else if (conform_try_edge(k, rule, a, b))
        (void)conform_try_edge(k, rule, b, a);
}

static inline void conform_play_odd(conform_kit *k) {
    conform_pieces p;
    if (conform_pieces_take(k, CONFORM_SMALL, &p))
        conform_both(k, CONFORM_COPY_ODD, CONFORM_SMALL, p.device, p.host);
    conform_pieces_give(k, &p);
}

static inline void conform_play_edge(conform_kit *k) {
    conform_pieces p;
    if (conform_pieces_take(k, CONFORM_LAB, &p))
        conform_both(k, CONFORM_COPY_EDGE, CONFORM_LAB, p.device, p.host);
    conform_pieces_give(k, &p);
}

static inline void conform_play_between(conform_kit *k) {
    conform_pieces p;
    for (int i = 0; i < 2; i++) {
        uint64_t size = i ? CONFORM_LAB : CONFORM_SMALL;
        if (conform_pieces_take(k, size, &p))
            conform_both(k, CONFORM_COPY_BETWEEN, size, p.device, p.other);
        conform_pieces_give(k, &p);
    }
}

static inline void conform_play_plain(conform_kit *k) {
    conform_pieces p;
    for (int i = 0; i < 2; i++) {
        uint64_t size = i ? CONFORM_LAB : CONFORM_SMALL;
        if (conform_pieces_take(k, size, &p))
            conform_both(k, CONFORM_COPY_PLAIN, size, p.device, p.plain);
        conform_pieces_give(k, &p);
    }
}

static inline void conform_play_copy_host(conform_kit *k) {
    conform_pieces p;
    conform_end other;
    if (!k->s.host.alloc) {
        k->unplayed[CONFORM_COPY_HOST] = "plain memory";
        return;
    }
    for (int i = 0; i < 2; i++) {
        uint64_t size = i ? CONFORM_LAB : CONFORM_SMALL;
        if (conform_pieces_take(k, size, &p)) {
            conform_both(k, CONFORM_COPY_HOST, size, p.host, p.plain);
            if (conform_take(k, &k->host, size, 256, &other) == TNM_OK)
                conform_both(k, CONFORM_COPY_HOST, size, p.host, other);
            conform_give(k, &other);
        }
        conform_pieces_give(k, &p);
    }
}

static inline void conform_play_adopted(conform_kit *k) {
    conform_pieces p;
    for (int i = 0; i < 2; i++) {
        uint64_t size = i ? CONFORM_LAB : CONFORM_SMALL;
        if (conform_pieces_take(k, size, &p)) {
            conform_both(k, CONFORM_COPY_ADOPTED, size, p.device, p.adopted);
            conform_both(k, CONFORM_COPY_ADOPTED, size, p.host, p.adopted);
        }
        conform_pieces_give(k, &p);
    }
}

static inline void conform_play_peer(conform_kit *k) {
    conform_pieces p;
    if (!k->s.peer.alloc) {
        k->unplayed[CONFORM_COPY_PEER] = "no peer";
        return;
    }
    for (int i = 0; i < 2; i++) {
        uint64_t size = i ? CONFORM_LAB : CONFORM_SMALL;
        if (conform_pieces_take(k, size, &p)) {
            conform_both(k, CONFORM_COPY_PEER, size, p.device, p.peer);
            conform_both(k, CONFORM_COPY_PEER, size, p.peer, p.host);
        }
        conform_pieces_give(k, &p);
    }
}

/* Within one piece, on both sides of the gap, with nothing between the two but the guard. */
static inline void conform_play_within(conform_kit *k) {
    conform_end end;
    if (conform_take(k, &k->s.device, CONFORM_SMALL, 256, &end) != TNM_OK) return;
    for (uint64_t size = 1; size <= 257; size += 4) {
        uint64_t key = 2 * ++k->keys, low = size % 13, high = low + size + size % 3, bad;
        uint64_t to = size % 8 < 4 ? low : high, from = low + high - to;
        const unsigned char *seen;
        tnm_result r;
        if (!conform_put(k, &end, key)) break;
        r = conform_move(k, &end, to, &end, from, size);
        if (r == TNM_ERR_UNSUPPORTED) {
            k->unplayed[CONFORM_COPY_WITHIN] = "the route is UNSUPPORTED";
            break;
        }
        seen = r == TNM_OK ? conform_get(k, &end) : NULL;
        bad = seen ? conform_differs(seen, key, 0, to, 0) : end.size;
        if (bad == to) bad += conform_differs(seen + to, key, from, size, 0);
        if (bad == to + size) bad += conform_differs(seen + bad, key, bad, end.size - bad, 0);
        if (r == TNM_OK && bad == end.size) continue;
        conform_broken(k, CONFORM_COPY_WITHIN, "%llu bytes from %llu to %llu: %s, byte %llu",
                       conform_n(size), conform_n(from), conform_n(to), tnm_result_string(r),
                       conform_n(bad));
        break;
    }
    conform_give(k, &end);
}

/* ---- rules on tickets ---- */

enum { CONFORM_CELLS = 64, CONFORM_CELL = 8192 };

typedef struct conform_crowd { /* many copies of one piece at once, a cell each */
    conform_end to, from;
    int flight[CONFORM_CELLS];
    unsigned char checked[CONFORM_CELLS];
    uint64_t key, next;
    int down; /* from the device, so that the CPU sees the destination */
} conform_crowd;

static inline int conform_crowd_start(conform_kit *k, conform_crowd *c, int cells) {
    c->key = 2 * ++k->keys;
    c->next = 2 * ++k->keys + 1;
    memset(c->checked, 0, sizeof c->checked);
    if (!conform_put(k, &c->to, c->next) || !conform_put(k, &c->from, c->key)) return 0;
    conform_land(k); /* from here on the flights are numbered from 0 */
    for (int i = 0; i < cells; i++) {
        uint64_t at = (uint64_t)i * CONFORM_CELL;
        c->flight[i] = conform_go(k, &c->to, at, &c->from, at, CONFORM_CELL);
        if (c->flight[i] >= 0) continue;
        conform_broken(k, CONFORM_TICKET_MANY, "copy %d of %d: %s", i, cells,
                       tnm_result_string(k->answer));
        return 0;
    }
    return 1;
}

/* Cells whose copies have been answered: what the CPU sees must be there now, and the source is
 * the CPU's again: it is overwritten at once. */
static inline void conform_crowd_look(conform_kit *k, conform_crowd *c, int cells) {
    for (int i = 0; i < cells; i++) {
        uint64_t at = (uint64_t)i * CONFORM_CELL, bad;
        tnm_result r = k->flight[c->flight[i]].result;
        if (c->checked[i] || r == TNM_PENDING) continue;
        c->checked[i] = 1;
        if (r != TNM_OK)
            conform_broken(k, k->rule, "copy %d of %d: %s", i, cells, tnm_result_string(r));
        if (!c->down) {
            conform_fill(c->from.host + at, c->next, at, CONFORM_CELL);
            continue;
        }
        bad = conform_differs(c->to.host + at, c->key, at, CONFORM_CELL, 0);
        if (bad < CONFORM_CELL)
            conform_broken(k, CONFORM_TICKET_DONE,
                           "OK for copy %d of %d, but its byte %llu is not there", i, cells,
                           conform_n(bad));
    }
}

static inline void conform_crowd_end(conform_kit *k, conform_crowd *c, int cells) {
    const unsigned char *seen;
    uint64_t bytes = (uint64_t)cells * CONFORM_CELL, bad;
    conform_land(k);
    seen = conform_get(k, &c->to);
    bad = seen ? conform_differs(seen, c->key, 0, bytes, 0) : bytes;
    if (bad < bytes && !c->down)
        conform_broken(k, CONFORM_TICKET_DONE,
                       "OK for copy %d of %d, but its source was read later, or not all of it",
                       (int)(bad / CONFORM_CELL), cells);
    else if (bad < bytes)
        conform_broken(k, CONFORM_TICKET_DONE, "copy %d of %d is OK, but its byte %llu is wrong",
                       (int)(bad / CONFORM_CELL), cells, conform_n(bad % CONFORM_CELL));
}

enum { CONFORM_AT_ONCE, CONFORM_LATE, CONFORM_REVERSE, CONFORM_ANY, CONFORM_WAIT };

/* Ask for tickets in the order given until all are answered. */
static inline void conform_crowd_drive(conform_kit *k, conform_crowd *c, int cells, int order) {
    time_t since = time(NULL);
    int left = cells;
    if (order == CONFORM_LATE) {
        clock_t until = clock() + CLOCKS_PER_SEC / 100;
        conform_submit(k);
        while (clock() < until)
            conform_breathe();
    }
    while (left > 0 && !k->dead) {
        left = 0;
        for (int i = 0; i < cells; i++) {
            int at = order == CONFORM_REVERSE ? cells - 1 - i : i;
            if (order == CONFORM_ANY) at = (int)conform_draw(k, (uint64_t)cells);
            if (conform_poll(k, c->flight[at], order == CONFORM_WAIT) == TNM_PENDING) left++;
            conform_crowd_look(k, c, cells);
        }
        if (order == CONFORM_ANY) {
            left = 0;
            for (int i = 0; i < cells; i++)
                left += k->flight[c->flight[i]].result == TNM_PENDING;
        }
        if (left == 0 || !conform_late(k, since)) continue;
        conform_broken(k, CONFORM_HANG, "%d of %d copies are PENDING for %d s", left, cells,
                       k->patience);
    }
}

static inline void conform_crowd_play(conform_kit *k, int order, int cells) {
    conform_pieces p;
    conform_crowd c;
    if (conform_pieces_take(k, (uint64_t)CONFORM_CELLS * CONFORM_CELL, &p)) {
        for (c.down = 0; c.down < 2 && !k->dead; c.down++) {
            c.to = c.down ? p.host : p.device;
            c.from = c.down ? p.device : p.host;
            if (!c.to.host && !c.from.host) break; /* a host tier the CPU cannot see */
            if (!conform_crowd_start(k, &c, cells)) continue;
            conform_crowd_drive(k, &c, cells, order);
            conform_crowd_end(k, &c, cells);
        }
    }
    conform_land(k);
    conform_pieces_give(k, &p);
}

static inline void conform_play_done(conform_kit *k) {
    for (int cells = 1; cells <= 8; cells++)
        conform_crowd_play(k, CONFORM_AT_ONCE, cells);
}

static inline void conform_play_tickets(conform_kit *k) {
    for (int order = CONFORM_AT_ONCE; order <= CONFORM_ANY; order++)
        conform_crowd_play(k, order, 8);
}

static inline void conform_play_wait(conform_kit *k) {
    if (!k->s.device.wait)
        k->unplayed[CONFORM_TICKET_WAIT] = "no wait";
    else
        conform_crowd_play(k, CONFORM_WAIT, 8);
}

static inline void conform_play_many(conform_kit *k) {
    conform_crowd_play(k, CONFORM_AT_ONCE, CONFORM_CELLS);
    conform_crowd_play(k, CONFORM_REVERSE, CONFORM_CELLS);
}

/* More copies than any queue holds, and no poll until it says BUSY. */
static inline void conform_play_busy(conform_kit *k) {
    conform_pieces p;
    conform_trial t;
    int ok = 1;
    if (conform_pieces_take(k, (uint64_t)CONFORM_FLIGHTS * 64, &p)) {
        uint64_t to_key = 2 * ++k->keys + 1, from_key = 2 * k->keys;
        ok = conform_put(k, &p.device, to_key) && conform_put(k, &p.host, from_key);
        for (int i = 0; ok && i < CONFORM_FLIGHTS - 4; i++) {
            uint64_t at = (uint64_t)i * 64;
            if (conform_go(k, &p.device, at, &p.host, at, 64) >= 0) continue;
            conform_broken(k, CONFORM_QUEUE_BUSY, "copy %d: %s", i, tnm_result_string(k->answer));
            break;
        }
        conform_land(k);
        t.to = p.device;
        t.to_key = to_key;
        t.from_key = from_key;
        t.to_at = t.from_at = 0;
        t.size = (uint64_t)(CONFORM_FLIGHTS - 4) * 64;
        if (ok) (void)conform_arrived(k, CONFORM_QUEUE_BUSY, &t, conform_get(k, &p.device));
    }
    conform_pieces_give(k, &p);
}

/* ---- rules on fences ---- */

static inline int conform_has_fences(conform_kit *k, int rule, int kernels) {
    const char *why = NULL;
    if (!k->s.queues || !k->s.mark || !k->s.passed) why = "no fences";
    if (!why && kernels && !k->s.work) why = "no kernels";
    if (why) k->unplayed[rule] = why;
    return !why;
}

static inline uint64_t conform_mark(conform_kit *k, uint32_t queue, uint64_t before) {
    uint64_t value = k->s.mark(k->s.user, queue);
    if (value == 0 || value < before || value > ((uint64_t)1 << 55) - 2)
        conform_broken(k, CONFORM_FENCE_MARK, "queue %u: %llu after %llu", (unsigned)queue,
                       conform_n(value), conform_n(before));
    return value;
}

/* What `passed` says, which never goes back. */
static inline uint64_t conform_asked(conform_kit *k, uint32_t queue, uint64_t wait_for) {
    uint64_t now = k->s.passed(k->s.user, queue, wait_for), *told = &k->told[queue % 256];
    if (now == UINT64_MAX || now < *told)
        conform_broken(k, CONFORM_FENCE_PASSED, "queue %u: %s%llu after %llu", (unsigned)queue,
                       now == UINT64_MAX ? "dead: " : "", conform_n(now), conform_n(*told));
    else
        *told = now;
    return now;
}

/* Sleeps in `passed` until the value has passed, or asks again and again. It may come back early,
 * but not for ever. */
static inline int conform_reach(conform_kit *k, uint32_t queue, uint64_t value, int sleep) {
    time_t since = time(NULL);
    uint64_t now;
    while ((now = conform_asked(k, queue, sleep ? value : 0)) < value) {
        if (!conform_late(k, since)) continue;
        conform_broken(k, CONFORM_FENCE_PASSED, "queue %u: %llu did not pass, it stands at %llu",
                       (unsigned)queue, conform_n(value), conform_n(now));
        return 0;
    }
    return now != UINT64_MAX;
}

static inline void conform_play_mark(conform_kit *k) {
    if (!conform_has_fences(k, CONFORM_FENCE_MARK, 0)) return;
    for (uint32_t q = 0; q < k->s.queues; q++) {
        uint64_t value = 0, now;
        for (int i = 0; i < 300 && !k->broken[CONFORM_FENCE_MARK]; i++) {
            value = conform_mark(k, q, value);
            for (int twice = 0; twice < 2; twice++) {
                now = conform_asked(k, q, 0);
                if (now > value && now != UINT64_MAX)
                    conform_broken(k, CONFORM_FENCE_PASSED, "queue %u: %llu, and %llu was marked",
                                   (unsigned)q, conform_n(now), conform_n(value));
            }
        }
        if (!conform_reach(k, q, value, 1)) return;
    }
}

static inline void conform_play_passed(conform_kit *k) {
    uint64_t value[256];
    if (!conform_has_fences(k, CONFORM_FENCE_PASSED, 0)) return;
    for (int i = 0; i < 40; i++) { /* marked in one order, waited for in another */
        for (uint32_t q = 0; q < k->s.queues && q < 256; q++)
            value[q] = conform_mark(k, q, 0);
        for (uint32_t q = k->s.queues < 256 ? k->s.queues : 256; q-- > 0;)
            if (!conform_reach(k, q, value[q], i % 2)) return;
    }
}

static inline tnm_pinned conform_pinned_at(const conform_end *end, uint64_t at, uint64_t bytes) {
    tnm_pinned p;
    memset(&p, 0, sizeof p);
    p.host = end->host ? end->host + at : NULL;
    p.mem = end->mem;
    p.offset = at;
    p.bytes = bytes;
    p.id = 1;
    p.access = TNM_WRITE;
    return p;
}

/* Kernels on every queue, each on a piece of its own; no copy is asked before the fence passed. */
static inline void conform_kernels(conform_kit *k, int sleep) {
    conform_end end[8];
    uint64_t key[8], value[8], bytes = 300 * 1024;
    int count = 0;
    for (; count < 8; count++) {
        key[count] = 2 * ++k->keys;
        if (conform_take(k, &k->s.device, bytes, 256, &end[count]) != TNM_OK) break;
        if (!conform_put(k, &end[count], key[count])) break;
    }
    for (int i = 0; i < count; i++) {
        uint32_t queue = (uint32_t)i % k->s.queues;
        tnm_pinned at = conform_pinned_at(&end[i], 256, bytes - 512);
        for (int n = 0; n < 5; n++)
            if (!k->s.work(k->s.user, queue, &at, (uint8_t)(n + i)))
                conform_broken(k, CONFORM_FENCE_WORK, "queue %u: kernel %d could not be queued",
                               (unsigned)queue, n);
        value[i] = conform_mark(k, queue, 0);
    }
    for (int i = count - 1; i >= 0 && !k->broken[CONFORM_FENCE_WORK]; i--) {
        const unsigned char *seen;
        if (!conform_reach(k, (uint32_t)i % k->s.queues, value[i], sleep)) break;
        seen = conform_get(k, &end[i]);
        if (seen && (conform_differs(seen, key[i], 0, 256, 0) < 256 ||
                     conform_differs(seen + 256, key[i], 256, bytes - 512, (unsigned)(10 + 5 * i)) <
                         bytes - 512 ||
                     conform_differs(seen + bytes - 256, key[i], bytes - 256, 256, 0) < 256))
            conform_broken(k, CONFORM_FENCE_WORK,
                           "queue %u: value %llu has passed, byte %llu is not as its kernels say",
                           (unsigned)i % k->s.queues, conform_n(value[i]),
                           conform_n(256 + conform_differs(seen + 256, key[i], 256, bytes - 512,
                                                           (unsigned)(10 + 5 * i))));
    }
    while (count-- > 0)
        conform_give(k, &end[count]);
}

static inline void conform_play_kernels(conform_kit *k) {
    if (!conform_has_fences(k, CONFORM_FENCE_WORK, 1)) return;
    conform_kernels(k, 1);
    conform_kernels(k, 0);
}

/* ---- rules on failures ---- */

/* All a device does, once: memory, a copy in, a copy out. The first error ends it. */
static inline tnm_result conform_round(conform_kit *k, conform_pieces *p, uint64_t key) {
    conform_end end;
    tnm_result r = conform_take(k, &k->s.device, CONFORM_SMALL, 256, &end);
    if (r != TNM_OK) return r;
    conform_fill(p->host.host, key, 0, CONFORM_SMALL);
    conform_fill(p->plain.host, key + 1, 0, CONFORM_SMALL);
    r = conform_move(k, &end, 0, &p->host, 0, CONFORM_SMALL);
    if (r == TNM_OK) r = conform_move(k, &p->device, 0, &end, 0, CONFORM_SMALL);
    if (r == TNM_ERR_UNSUPPORTED) r = conform_move(k, &p->device, 0, &p->host, 0, CONFORM_SMALL);
    if (r == TNM_OK) {
        conform_fill(p->host.host, key + 1, 0, CONFORM_SMALL);
        r = conform_move(k, &p->host, 0, &p->device, 0, CONFORM_SMALL);
        if (r != TNM_OK) { /* dead: what lies there now must stay */
            conform_fill(p->host.host, key + 3, 0, CONFORM_SMALL);
            for (int i = 0; i < 8; i++)
                (void)conform_move(k, &p->other, 0, &p->device, 0, CONFORM_SMALL);
            if (conform_differs(p->host.host, key + 3, 0, CONFORM_SMALL, 0) < CONFORM_SMALL)
                conform_broken(k, CONFORM_FAIL_DEAD,
                               "a copy answered %s and wrote its destination afterwards",
                               tnm_result_string(r));
        } else if (conform_differs(p->host.host, key, 0, CONFORM_SMALL, 0) < CONFORM_SMALL)
            conform_broken(k, CONFORM_FAIL_CLEAR, "OK, but byte %llu is wrong",
                           conform_n(conform_differs(p->host.host, key, 0, CONFORM_SMALL, 0)));
    }
    conform_give(k, &end);
    return r;
}

static inline void conform_fail_call(conform_kit *k, conform_pieces *p, const char *call) {
    int quiet = 0;
    for (int n = 1; n < 40 && quiet < 4 && !k->dead; n++) {
        const char *of = call ? call : "any";
        tnm_result r;
        k->s.fail(k->s.user, call, n, 0);
        r = conform_round(k, p, 4 * ++k->keys);
        k->s.fail(k->s.user, call, 0, 0);
        quiet = r == TNM_OK ? quiet + 1 : 0;
        if (r == TNM_ERR_LOST || r == TNM_ERR_UNSUPPORTED || r == TNM_ERR_ARGUMENT || r > 0)
            conform_broken(k, CONFORM_FAIL_CLEAR, "call %d of %s failed and came back as: %s", n,
                           of, tnm_result_string(r));
        r = conform_round(k, p, 4 * ++k->keys);
        if (r == TNM_OK) continue;
        conform_broken(k, CONFORM_FAIL_CLEAR, "call %d of %s had failed, and then without it: %s",
                       n, of, tnm_result_string(r));
        return;
    }
}

static inline void conform_play_fail(conform_kit *k) {
    conform_pieces p;
    if (!k->s.fail) {
        k->unplayed[CONFORM_FAIL_CLEAR] = "calls cannot be made to fail";
        return;
    }
    if (conform_pieces_take(k, CONFORM_SMALL, &p) && p.host.host) {
        if (!k->s.calls) conform_fail_call(k, &p, NULL);
        for (int i = 0; k->s.calls && k->s.calls[i]; i++)
            conform_fail_call(k, &p, k->s.calls[i]);
    }
    conform_pieces_give(k, &p);
}

/* ---- callbacks on a thread that is new for each ---- */

typedef struct conform_hop {
    conform_kit *k;
    conform_end end, *from;
    uint64_t key;
    int step, flight;
} conform_hop;

static inline void *conform_hop_step(void *of) {
    conform_hop *h = (conform_hop *)of;
    conform_kit *k = h->k;
    switch (h->step) {
    case 0:
        if (conform_take(k, &k->s.device, CONFORM_SMALL, 256, &h->end) != TNM_OK)
            conform_broken(k, CONFORM_THREAD_HOP, "alloc was refused on another thread");
        break;
    case 1:
        h->flight = conform_go(k, &h->end, 0, h->from, 0, CONFORM_SMALL);
        if (h->flight < 0)
            conform_broken(k, CONFORM_THREAD_HOP, "copy on another thread: %s",
                           tnm_result_string(k->answer));
        break;
    case 2:
        conform_submit(k);
        break;
    case 3:
        if (conform_end_of(k, h->flight) != TNM_OK)
            conform_broken(k, CONFORM_THREAD_HOP, "poll on another thread: %s",
                           tnm_result_string(conform_end_of(k, h->flight)));
        k->flights = 0;
        break;
    case 4:
        if (conform_get(k, &h->end) &&
            conform_differs(k->seen, h->key, 0, CONFORM_SMALL, 0) < CONFORM_SMALL)
            conform_broken(k, CONFORM_THREAD_HOP, "bytes are wrong on another thread");
        break;
    default:
        conform_give(k, &h->end);
        break;
    }
    return NULL;
}

static inline void conform_play_hop(conform_kit *k) {
#ifdef CONFORM_THREADS
    conform_pieces p;
    if (conform_pieces_take(k, CONFORM_SMALL, &p)) {
        conform_hop h;
        memset(&h, 0, sizeof h);
        h.k = k;
        h.from = p.host.host ? &p.host : &p.plain;
        h.key = 2 * ++k->keys;
        conform_fill(h.from->host, h.key, 0, CONFORM_SMALL);
        for (int turn = 0; turn < 8 && !k->broken[CONFORM_THREAD_HOP]; turn++)
            for (h.step = 0; h.step < 6; h.step++) {
                pthread_t thread;
                if (pthread_create(&thread, NULL, conform_hop_step, &h) != 0) break;
                pthread_join(thread, NULL);
                if (k->broken[CONFORM_THREAD_HOP]) break;
            }
        if (k->broken[CONFORM_THREAD_HOP]) conform_give(k, &h.end);
    }
    conform_pieces_give(k, &p);
#else
    k->unplayed[CONFORM_THREAD_HOP] = "no pthreads";
#endif
}

/* ---- whole contexts ---- */

enum { CONFORM_TENSORS = 96, CONFORM_MOST = 300 * 1024 };

typedef struct conform_rig {
    conform_kit *k;
    tnm_ctx *ctx;
    int rule;
    tnm_tier_desc tier[CONFORM_TIERS];
    int tiers, store; /* tier 0 is the device */
    int count;
    tnm_tensor tensor[CONFORM_TENSORS];
    uint64_t bytes[CONFORM_TENSORS], key[CONFORM_TENSORS];
    uint8_t add[CONFORM_TENSORS]; /* by kernels and the CPU, so far */
#ifdef CONFORM_THREADS
    pthread_mutex_t mutex;
#endif
    time_t since; /* the call that waits now began */
    unsigned char *buffer;
} conform_rig;

static inline void conform_on_log(void *user, const tnm_log *item) {
    conform_kit *k = ((conform_rig *)user)->k;
    snprintf(k->said, sizeof k->said, "%s", item->rule ? item->rule : "");
}

static inline uint64_t conform_on_passed(void *user, uint32_t queue, uint64_t wait_for) {
    conform_kit *k = ((conform_rig *)user)->k;
    return k->s.passed(k->s.user, queue, wait_for);
}

static inline int conform_on_idle(void *user, uint64_t rounds) {
    conform_rig *g = (conform_rig *)user;
    if (rounds <= 1) g->since = time(NULL);
    conform_breathe();
    return conform_late(g->k, g->since);
}

#if defined(CONFORM_THREADS) && !defined(TENSORMEM_THREADS)
static inline void conform_on_lock(void *user) {
    pthread_mutex_lock(&((conform_rig *)user)->mutex);
}

static inline void conform_on_unlock(void *user) {
    pthread_mutex_unlock(&((conform_rig *)user)->mutex);
}
#endif

/* One tensor of the rig, as bytes that an engine of 256-byte units and the subject's tail needs. */
static inline uint64_t conform_place(const conform_kit *k, uint64_t bytes) {
    uint64_t unit = k->s.alignment ? k->s.alignment : 256;
    if (!k->s.alignment && k->s.device.granularity > unit) unit = k->s.device.granularity;
    bytes += k->s.tail_bytes + TENSORMEM_REDZONE_BYTES;
    return (bytes + unit - 1) / unit * unit;
}

static inline int conform_rig_open(conform_kit *k, conform_rig *g, uint64_t device, uint64_t host,
                                   int peer) {
    tnm_desc desc;
    tnm_result r;
    memset(g, 0, sizeof *g);
    memset(&desc, 0, sizeof desc);
    g->k = k;
    g->rule = k->rule;
    for (int i = 0; i < 1 + (peer != 0); i++) {
        g->tier[i].name = i ? "peer" : "device";
        g->tier[i].backend = i ? k->s.peer : k->s.device;
        g->tier[i].budget_bytes = device;
        g->tier[i].alignment = k->s.alignment;
        g->tier[i].tail_bytes = k->s.tail_bytes;
        if (k->rule == CONFORM_CTX_DEDICATED) g->tier[i].segment_bytes = TNM_DEDICATED;
    }
    g->store = 2 + (peer != 0);
    g->tiers = g->store + 1;
    g->tier[g->store - 1].name = "host";
    g->tier[g->store - 1].backend = k->s.host;
    g->tier[g->store - 1].budget_bytes = host;
    g->tier[g->store].name = "store";
    g->tier[g->store].backend.alloc = conform_store_alloc;
    g->tier[g->store].backend.release = conform_host_release;
    g->tier[g->store].backend.copy = conform_store_copy;
    desc.tiers = g->tier;
    desc.tier_count = g->tiers;
    if (k->lab.backend && !k->s.host.host_visible) /* the CPU sees the subject's host tier */
        desc.staging_tier = g->store - 1;
    desc.user = g;
    desc.passed = k->s.passed ? conform_on_passed : NULL;
    desc.log = conform_on_log;
    desc.idle = conform_on_idle;
#if defined(TENSORMEM_THREADS)
    desc.pump_thread = k->rule == CONFORM_CTX_PUMP;
#elif defined(CONFORM_THREADS)
    desc.lock = conform_on_lock;
    desc.unlock = conform_on_unlock;
#endif
#ifdef CONFORM_THREADS
    pthread_mutex_init(&g->mutex, NULL);
#endif
    g->buffer = (unsigned char *)malloc(CONFORM_MOST);
    r = g->buffer ? tnm_create(&desc, &g->ctx) : TNM_ERR_MEMORY;
    if (r == TNM_OK) return 1;
    conform_broken(k, g->rule, "tnm_create: %s: %s", tnm_result_string(r), k->said);
    free(g->buffer);
    return 0;
}

static inline int conform_well(conform_rig *g, tnm_result r, const char *call, int i) {
    if (r == TNM_OK) return 1;
    if (r == TNM_PENDING) {
        conform_broken(g->k, CONFORM_HANG, "%s of tensor %d waits for %d s", call, i,
                       g->k->patience);
    } else
        conform_broken(g->k, g->rule, "%s of tensor %d (%llu bytes): %s: %s", call, i,
                       conform_n(g->bytes[i]), tnm_result_string(r), g->k->said);
    return 0;
}

static inline void conform_rig_end(conform_rig *g) {
    tnm_result r = TNM_OK;
    if (!g->k->dead) {
        if (tnm_check(g->ctx) != 0)
            conform_broken(g->k, g->rule, "tnm_check counts %d", tnm_check(g->ctx));
        r = tnm_destroy(g->ctx);
    }
    if (r != TNM_OK) {
        conform_broken(g->k, r == TNM_PENDING ? CONFORM_HANG : g->rule, "tnm_destroy: %s",
                       tnm_result_string(r));
        g->k->dead = 1;
    }
    if (g->k->dead) {
        conform_keep(g->ctx);
        conform_keep(g->buffer);
        return;
    }
#ifdef CONFORM_THREADS
    pthread_mutex_destroy(&g->mutex);
#endif
    free(g->buffer);
}

static inline int conform_add(conform_rig *g, uint64_t bytes) { /* a tensor more, with a payload */
    tnm_tensor_desc desc;
    int i = g->count;
    memset(&desc, 0, sizeof desc);
    desc.bytes = g->bytes[i] = bytes;
    desc.label = "conform";
    desc.user = &g->bytes[i];
    g->key[i] = ++g->k->keys;
    g->add[i] = 0;
    if (!conform_well(g, tnm_tensor_create(g->ctx, &desc, &g->tensor[i]), "create", i)) return 0;
    g->count++;
    conform_fill(g->buffer, g->key[i], 0, bytes);
    return conform_well(g, tnm_write(g->ctx, g->tensor[i], 0, g->buffer, bytes), "write", i);
}

static inline int conform_expect(conform_rig *g, int i) { /* it shows what was last written */
    uint64_t bad;
    memset(g->buffer, 0x55, (size_t)g->bytes[i]);
    if (!conform_well(g, tnm_read(g->ctx, g->tensor[i], 0, g->buffer, g->bytes[i]), "read", i))
        return 0;
    bad = conform_differs(g->buffer, g->key[i], 0, g->bytes[i], g->add[i]);
    if (bad == g->bytes[i]) return 1;
    conform_broken(g->k, g->rule, "byte %llu of tensor %d (%llu bytes) is wrong: 0x%02x",
                   conform_n(bad), i, conform_n(g->bytes[i]), (unsigned)g->buffer[bad]);
    return 0;
}

static inline int conform_expect_all(conform_rig *g) {
    int good = 1;
    for (int i = 0; i < g->count && good; i++)
        good = conform_expect(g, i);
    return good;
}

static inline int conform_pin(conform_rig *g, int i, int tier, tnm_access access, tnm_pinned *p) {
    const uint64_t align = g->k->s.alignment ? g->k->s.alignment : 256;
    tnm_use use;
    memset(&use, 0, sizeof use);
    use.tensor = g->tensor[i];
    use.tier = tier;
    use.access = access;
    if (!conform_well(g, tnm_pin(g->ctx, &use, 1, p), "pin", i)) return 0;
    if (p->offset % align != 0 || (uintptr_t)p->host % align != 0)
        conform_broken(g->k, g->rule, "tensor %d lies at offset %llu, address %p: alignment %llu",
                       i, conform_n(p->offset), p->host, conform_n(align));
    return 1;
}

/* What a program does on the device: by the CPU if it sees the memory, else by a kernel under a
 * fence, which may not have begun when the pin is let go; else it only looks. */
static inline int conform_use_once(conform_rig *g, int i, int tier) {
    conform_kit *k = g->k;
    int kernels = k->s.work && k->s.mark && k->s.passed && k->s.queues && tier == 0;
    uint32_t queue = kernels ? (uint32_t)i % k->s.queues : 0;
    uint64_t fence = 0;
    tnm_pinned p;
    if (!conform_pin(g, i, tier, TNM_WRITE, &p)) return 0;
    if (kernels) {
        if (!k->s.work(k->s.user, queue, &p, 7))
            conform_broken(k, g->rule, "a kernel for tensor %d could not be queued", i);
        g->add[i] = (uint8_t)(g->add[i] + 7);
        fence = TNM_FENCE(queue, conform_mark(k, queue, 0));
    } else if (p.host) {
        uint64_t bad = conform_differs(p.host, g->key[i], 0, p.bytes, g->add[i]);
        if (bad < p.bytes)
            conform_broken(k, g->rule, "byte %llu of tensor %d is wrong where the CPU sees it",
                           conform_n(bad), i);
        for (uint64_t at = 0; at < p.bytes; at++)
            ((unsigned char *)p.host)[at]++;
        g->add[i]++;
    }
    return conform_well(g, tnm_unpin(g->ctx, &p, 1, fence), "unpin", i);
}

static inline int conform_leave(conform_rig *g, int i, int tier) { /* evicted */
    tnm_result r;
    time_t since = time(NULL);
    while ((r = tnm_evict(g->ctx, g->tensor[i], tier)) == TNM_PENDING && !conform_late(g->k, since))
        (void)tnm_wait(g->ctx);
    return conform_well(g, r, "evict", i);
}

/* Every size once: up, changed, down one tier, down to the bottom, up again, changed, read. */
static inline void conform_trips(conform_kit *k) {
    static const uint64_t sizes[] = { 1, 3, 31, 255, 256, 257, 4095, 4097, 65536, 100003, 300000 };
    conform_rig g;
    int good = 1, count = (int)(sizeof sizes / sizeof sizes[0]);
    if (!conform_rig_open(k, &g, 4 << 20, 4 << 20, 0)) return;
    for (int i = 0; i < count && good; i++) {
        good = conform_add(&g, sizes[i]) && conform_use_once(&g, i, 0) && conform_expect(&g, i) &&
               conform_leave(&g, i, 0) && conform_expect(&g, i) && conform_use_once(&g, i, 0) &&
               conform_leave(&g, i, 0) && conform_leave(&g, i, g.store - 1) &&
               conform_expect(&g, i) && conform_leave(&g, i, g.store - 1) &&
               conform_use_once(&g, i, 0);
    }
    if (good) (void)conform_expect_all(&g);
    conform_rig_end(&g);
}

/* Tensors of mixed sizes, `fold` times what the device may hold and more than the host tier holds,
 * are used in turn, as a schedule says; then all are right. */
static inline void conform_sweep(conform_rig *g, int tensors, int rounds, int other) {
    tnm_use use[CONFORM_TENSORS];
    int good = 1;
    memset(use, 0, sizeof use);
    for (int i = 0; i < tensors && good; i++) {
        uint64_t bytes = 1 + conform_draw(g->k, i % 3 ? 20000 : 200000);
        good = conform_add(g, bytes);
        use[i].tensor = g->tensor[i];
        use[i].step = (uint64_t)i;
        use[i].access = TNM_WRITE;
        use[i].tier = other && i % 2 ? other : 0;
    }
    if (good)
        good = conform_well(g, tnm_schedule(g->ctx, 0, use, tensors, (uint32_t)tensors), "schedule",
                            0);
    for (int step = 0; step < rounds * tensors && good && !g->k->dead; step++) {
        int i = step % tensors;
        (void)tnm_step(g->ctx, 0, (uint64_t)step);
        good = conform_use_once(g, i, other && (i + step / tensors) % 2 ? other : 0);
        (void)tnm_pump(g->ctx, TNM_ALL);
    }
    if (good) (void)conform_expect_all(g);
}

static inline void conform_play_sweep(conform_kit *k) {
    conform_rig g;
    if (!conform_rig_open(k, &g, 1 << 20, 2 << 20, 0)) return;
    conform_sweep(&g, 80, conform_small_scale() ? 2 : 6, 0);
    conform_rig_end(&g);
}

static inline void conform_play_dedicated(conform_kit *k) {
    conform_rig g;
    if (!conform_rig_open(k, &g, 1 << 20, 2 << 20, 0)) return;
    conform_sweep(&g, 40, conform_small_scale() ? 2 : 4, 0);
    conform_rig_end(&g);
}

static inline void conform_play_ctx_peer(conform_kit *k) {
    conform_rig g;
    if (!k->s.peer.alloc) {
        k->unplayed[CONFORM_CTX_PEER] = "no peer";
        return;
    }
    if (!conform_rig_open(k, &g, 1 << 20, 2 << 20, 1)) return;
    conform_sweep(&g, 60, 4, 1);
    conform_rig_end(&g);
}

/* P3: three tensors fit, twelve are worked on, and no one waits. What left before its kernels ran
 * has lost their additions. */
static inline void conform_play_ctx_work(conform_kit *k) {
    conform_rig g;
    int good = 1;
    if (!conform_has_fences(k, CONFORM_CTX_WORK, 1)) return;
    if (!conform_rig_open(k, &g, 3 * conform_place(k, CONFORM_MOST) + (64 << 10), 8 << 20, 0))
        return;
    for (int i = 0; i < 12 && good; i++)
        good = conform_add(&g, CONFORM_MOST - (uint64_t)i);
    for (int turn = 0; turn < 12 * (conform_small_scale() ? 2 : 6) && good; turn++) {
        int i = turn * 5 % 12;
        uint32_t queue = (uint32_t)i % k->s.queues;
        tnm_pinned p;
        good = conform_pin(&g, i, 0, TNM_WRITE, &p);
        for (int n = 1; n <= 3 && good; n++) {
            good = k->s.work(k->s.user, queue, &p, (uint8_t)n);
            g.add[i] = (uint8_t)(g.add[i] + n);
        }
        if (good) {
            uint64_t fence = TNM_FENCE(queue, conform_mark(k, queue, 0));
            good = conform_well(&g, tnm_unpin(g.ctx, &p, 1, fence), "unpin", i);
        }
    }
    if (good) (void)conform_expect_all(&g);
    conform_rig_end(&g);
}

/* ---- a device smaller than its budget: alloc refuses past k->cap ---- */

static conform_kit *conform_capped; /* its alloc and release have the subject's user pointer */

static inline tnm_result conform_cap_alloc(void *user, uint64_t size, uint64_t align, void *item,
                                           uint64_t *mem, void **host) {
    conform_kit *k = conform_capped;
    tnm_result r = TNM_ERR_MEMORY;
    if (size <= k->cap && k->capped <= k->cap - size)
        r = k->s.device.alloc(user, size, align, item, mem, host);
    if (r == TNM_OK) k->capped += size;
    return r;
}

static inline void conform_cap_release(void *user, uint64_t mem, uint64_t size) {
    conform_kit *k = conform_capped;
    k->capped -= size;
    k->s.device.release(user, mem, size);
}

static inline uint64_t conform_cap_available(void *user) {
    (void)user;
    return UINT64_MAX; /* the refusal is the news */
}

static inline void conform_play_ctx_full(conform_kit *k) {
    tnm_backend device = k->s.device;
    conform_kit real = *k;
    conform_rig g;
    conform_capped = &real;
    real.cap = UINT64_C(3) << 20;
    if (real.cap > conform_room(k) / 2) real.cap = conform_room(k) / 2;
    k->s.device.alloc = conform_cap_alloc;
    k->s.device.release = conform_cap_release;
    k->s.device.available = conform_cap_available;
    if (conform_rig_open(k, &g, UINT64_C(1) << 30, 3 << 20, 0)) {
        conform_sweep(&g, 90, 3, 0);
        conform_rig_end(&g);
    }
    k->s.device = device;
    if (real.capped)
        conform_broken(k, CONFORM_LEAK, "%llu bytes of the device were not released",
                       conform_n(real.capped));
    if (k->dead || k->s.real) return; /* a stand-in's own limit, then, is met as well */
    if (conform_rig_open(k, &g, 4 * conform_room(k), 3 << 20, 0)) {
        conform_sweep(&g, 90, 2, 0);
        conform_rig_end(&g);
    }
}

/* ---- very many ---- */

static inline int conform_small_set(conform_rig *g, const tnm_tensor *tensor, int first,
                                    int count) {
    enum { SET = 64 };
    tnm_use use[SET];
    tnm_pinned at[SET];
    memset(use, 0, sizeof use);
    for (int i = 0; i < count; i++) {
        use[i].tensor = tensor[first + i];
        use[i].access = TNM_READ;
    }
    return conform_well(g, tnm_pin(g->ctx, use, count, at), "pin", 0) &&
           conform_well(g, tnm_unpin(g->ctx, at, count, 0), "unpin", 0);
}

static inline void conform_play_small(conform_kit *k) {
    int count = conform_small_scale() ? 2000 : k->s.real ? 1000000 : 20000, good = 1;
    uint64_t each = conform_place(k, 80), room = conform_room(k) / 2;
    tnm_tensor *tensor = (tnm_tensor *)malloc((size_t)count * sizeof *tensor);
    tnm_tensor_desc desc;
    conform_rig g;
    if (!tensor) return;
    if (room > (uint64_t)count * each / 4) room = (uint64_t)count * each / 4;
    if (!conform_rig_open(k, &g, room, (uint64_t)count * 256 / 2, 0)) {
        free(tensor);
        return;
    }
    memset(&desc, 0, sizeof desc);
    for (int i = 0; i < count && good; i++) {
        unsigned char small[80];
        desc.bytes = (uint64_t)(1 + i % 80);
        conform_fill(small, (uint64_t)i, 0, desc.bytes);
        g.bytes[0] = desc.bytes;
        good = conform_well(&g, tnm_tensor_create(g.ctx, &desc, &tensor[i]), "create", 0) &&
               conform_well(&g, tnm_write(g.ctx, tensor[i], 0, small, desc.bytes), "write", 0);
    }
    for (int i = 0; i < count && good; i += 64)
        good = conform_small_set(&g, tensor, i, count - i < 64 ? count - i : 64);
    for (int i = 0; i < count && good; i++) { /* from wherever each of them is now */
        unsigned char small[80];
        uint64_t bytes = (uint64_t)(1 + i % 80), bad;
        g.bytes[0] = bytes;
        good = conform_well(&g, tnm_read(g.ctx, tensor[i], 0, small, bytes), "read", 0);
        bad = good ? conform_differs(small, (uint64_t)i, 0, bytes, 0) : bytes;
        if (bad < bytes)
            conform_broken(k, CONFORM_CTX_SMALL, "byte %llu of tensor %d of %d is wrong",
                           conform_n(bad), i, count);
        good = good && bad == bytes;
    }
    conform_rig_end(&g);
    if (!k->dead) free(tensor);
}

/* ---- threads ---- */

#ifdef CONFORM_THREADS
typedef struct conform_worker {
    conform_rig *g;
    int number, turns, bad;
    tnm_result failed;
    pthread_t thread;
} conform_worker;

/* Its own tensors it writes, reads and changes; those of all it reads. */
static inline void *conform_worker_run(void *of) {
    enum { OWN = 6, BYTES = 3000 };
    conform_worker *w = (conform_worker *)of;
    conform_rig *g = w->g;
    unsigned char bytes[BYTES];
    tnm_result r = TNM_OK;
    for (int turn = 0; turn < w->turns && r == TNM_OK && !w->bad; turn++) {
        int own = w->number * OWN + turn % OWN, any = turn * 7 % (OWN * CONFORM_THREADS);
        uint64_t key = g->key[own] + 1000 * (uint64_t)turn;
        tnm_pinned p;
        tnm_use use;
        memset(&use, 0, sizeof use);
        conform_fill(bytes, key, 0, BYTES);
        r = tnm_write(g->ctx, g->tensor[own], 0, bytes, BYTES);
        use.tensor = g->tensor[own];
        if (r == TNM_OK) r = tnm_pin(g->ctx, &use, 1, &p);
        if (r == TNM_OK) {
            w->bad |= p.host && conform_differs(p.host, key, 0, BYTES, 0) < BYTES;
            r = tnm_unpin(g->ctx, &p, 1, 0);
        }
        if (r == TNM_OK) r = tnm_read(g->ctx, g->tensor[own], 0, bytes, BYTES);
        w->bad |= r == TNM_OK && conform_differs(bytes, key, 0, BYTES, 0) < BYTES;
        use.tensor = g->tensor[OWN * CONFORM_THREADS + any]; /* those that all only read */
        if (r == TNM_OK) r = tnm_pin(g->ctx, &use, 1, &p);
        if (r == TNM_OK) r = tnm_unpin(g->ctx, &p, 1, 0);
        if (turn % 8 == 0) (void)tnm_pump(g->ctx, TNM_ALL);
    }
    w->failed = r;
    return NULL;
}

static inline void conform_play_threads(conform_kit *k) {
    enum { OWN = 6, ALL = 2 * OWN * CONFORM_THREADS, BYTES = 3000 };
    conform_worker worker[CONFORM_THREADS];
    conform_rig g;
    int good = 1, started = 0;
    if (!conform_rig_open(k, &g, 16 * conform_place(k, BYTES), 1 << 20, 0)) return;
    for (int i = 0; i < ALL && good; i++)
        good = conform_add(&g, BYTES);
    for (; started < CONFORM_THREADS && good; started++) {
        conform_worker *w = &worker[started];
        memset(w, 0, sizeof *w);
        w->g = &g;
        w->number = started;
        w->turns = conform_small_scale() ? 60 : 600;
        if (pthread_create(&w->thread, NULL, conform_worker_run, w) != 0) break;
    }
    for (int i = 0; i < started; i++) {
        pthread_join(worker[i].thread, NULL);
        (void)conform_well(&g, worker[i].failed, "a thread's call", i);
        if (worker[i].bad)
            conform_broken(k, CONFORM_CTX_THREADS, "thread %d of %d saw wrong bytes", i, started);
    }
    for (int i = ALL / 2; i < ALL && good && !k->dead; i++)
        good = conform_expect(&g, i);
    conform_rig_end(&g);
}
#else
static inline void conform_play_threads(conform_kit *k) {
    k->unplayed[CONFORM_CTX_THREADS] = "no pthreads";
}
#endif

static inline void conform_play_pump(conform_kit *k) {
#ifdef TENSORMEM_THREADS
    conform_rig g;
    if (!conform_rig_open(k, &g, 1 << 20, 2 << 20, 0)) return;
    conform_sweep(&g, 60, conform_small_scale() ? 2 : 6, 0);
    conform_rig_end(&g);
#else
    k->unplayed[CONFORM_CTX_PUMP] = "no TENSORMEM_THREADS";
#endif
}

/* ---- ends ---- */

static inline void conform_play_destroy(conform_kit *k) {
    for (int turn = 0; turn < 12 && !k->dead; turn++) {
        conform_rig g;
        tnm_use use[24];
        int good = 1;
        if (!conform_rig_open(k, &g, 4 << 20, 8 << 20, 0)) return;
        memset(use, 0, sizeof use);
        for (int i = 0; i < 24 && good; i++) {
            good = conform_add(&g, 100000 + 7 * (uint64_t)i);
            use[i].tensor = g.tensor[i];
        }
        if (good && turn % 3 == 1) good = conform_use_once(&g, 3, 0); /* a fence is out as well */
        if (good) good = conform_well(&g, tnm_prefetch(g.ctx, 0, use, 24), "prefetch", 0);
        for (int i = 0; i < turn && good; i++)
            (void)tnm_pump(g.ctx, TNM_ALL);
        conform_rig_end(&g);
    }
}

static int conform_touched; /* calls of a device that should have had none */

static inline tnm_result conform_touch_alloc(void *user, uint64_t size, uint64_t align, void *item,
                                             uint64_t *mem, void **host) {
    (void)user, (void)size, (void)align, (void)item, (void)mem, (void)host;
    conform_touched++;
    return TNM_ERR_BACKEND;
}

static inline void *conform_no_memory(void *user, size_t size) {
    (void)user, (void)size;
    return NULL;
}

static inline void conform_no_release(void *user, void *ptr, size_t size) {
    (void)user, (void)ptr, (void)size;
}

/* Backends that were ready and never used: what the subject's close must live with. */
static inline void conform_play_refused(conform_kit *k) {
    tnm_tier_desc tier[2];
    tnm_desc desc;
    conform_rig g;
    tnm_ctx *ctx = NULL;
    memset(&desc, 0, sizeof desc);
    memset(tier, 0, sizeof tier);
    memset(&g, 0, sizeof g);
    g.k = k;
    tier[0].backend = k->s.device;
    tier[0].backend.alloc = conform_touch_alloc;
    tier[1].backend = k->s.host;
    desc.tiers = tier;
    desc.tier_count = 2;
    desc.user = &g;
    desc.log = conform_on_log;
    conform_touched = 0;
    tier[0].alignment = 3;
    if (tnm_create(&desc, &ctx) != TNM_ERR_ARGUMENT || ctx)
        conform_broken(k, CONFORM_CTX_REFUSED, "an alignment of 3 was accepted");
    tier[0].alignment = 0;
    desc.alloc = conform_no_memory;
    desc.release = conform_no_release;
    if (tnm_create(&desc, &ctx) != TNM_ERR_MEMORY || ctx)
        conform_broken(k, CONFORM_CTX_REFUSED, "a context without memory was made");
    if (conform_touched)
        conform_broken(k, CONFORM_CTX_REFUSED, "the device was asked %d times", conform_touched);
}

/* ---- failures in a context ---- */

/* One call of a program: a pin, a write or a read. */
static inline tnm_result conform_act(conform_rig *g, int i, int what) {
    tnm_use use;
    tnm_pinned p;
    tnm_result r;
    if (what == 1) return tnm_write(g->ctx, g->tensor[i], 0, g->buffer, g->bytes[i]);
    if (what == 2) return tnm_read(g->ctx, g->tensor[i], 0, g->buffer, g->bytes[i]);
    memset(&use, 0, sizeof use);
    use.tensor = g->tensor[i];
    r = tnm_pin(g->ctx, &use, 1, &p);
    return r == TNM_OK ? tnm_unpin(g->ctx, &p, 1, 0) : r;
}

/* From the fifth call on the n-th runtime call in each fails, until one of ours does. */
static inline void conform_fail_in(conform_kit *k, const char *call, int n) {
    static const char *const names[] = { "pin", "write", "read" };
    const char *of = call ? call : "any";
    conform_rig g;
    int good = 1, fails = 0;
    if (!conform_rig_open(k, &g, 256 << 10, 256 << 10, 0)) return;
    for (int i = 0; i < 8 && good; i++)
        good = conform_add(&g, 60000 + 11 * (uint64_t)i);
    for (int step = 0; step < 24 && good && fails < 3; step++) {
        int i = step * 3 % 8, what = step % 4 == 3 ? 1 + step / 4 % 2 : 0;
        tnm_result r;
        conform_fill(g.buffer, g.key[i], 0, g.bytes[i]);
        if (step >= 4) k->s.fail(k->s.user, call, n, 0);
        r = conform_act(&g, i, what);
        k->s.fail(k->s.user, call, 0, 0);
        if (r == TNM_OK) continue;
        fails++;
        if (r != TNM_ERR_BACKEND && r != TNM_ERR_MEMORY && r != TNM_ERR_BUDGET)
            conform_broken(k, CONFORM_CTX_FAIL, "call %d of %s failed, and a %s came back as: %s",
                           n, of, names[what], tnm_result_string(r));
        conform_fill(g.buffer, g.key[i], 0, g.bytes[i]);
        r = conform_act(&g, i, what);
        good = r == TNM_OK;
        if (!good)
            conform_broken(k, CONFORM_CTX_FAIL, "call %d of %s had failed, the same %s again: %s",
                           n, of, names[what], tnm_result_string(r));
    }
    if (good) (void)conform_expect_all(&g);
    conform_rig_end(&g);
}

static inline void conform_play_ctx_fail(conform_kit *k) {
    int most = conform_small_scale() ? 4 : 12;
    if (!k->s.fail) {
        k->unplayed[CONFORM_CTX_FAIL] = "calls cannot be made to fail";
        return;
    }
    for (int n = 1; n <= most && !k->dead; n++) {
        if (!k->s.calls) conform_fail_in(k, NULL, n);
        for (int i = 0; k->s.calls && k->s.calls[i]; i++)
            conform_fail_in(k, k->s.calls[i], n);
    }
}

/* ---- a device that dies ---- */

/* On the callbacks: everything answers LOST, and what is given back is taken. */
static inline void conform_lose_callbacks(conform_kit *k, conform_pieces *p, int flight) {
    conform_end end;
    tnm_result r = conform_end_of(k, flight);
    if (flight >= 0 && r != TNM_ERR_LOST && r != TNM_OK)
        conform_broken(k, CONFORM_LOST, "a copy under way answered: %s", tnm_result_string(r));
    r = conform_take(k, &k->s.device, 4096, 256, &end);
    if (r != TNM_ERR_LOST) conform_broken(k, CONFORM_LOST, "alloc: %s", tnm_result_string(r));
    if (r == TNM_OK) conform_give(k, &end);
    r = conform_move(k, &p->device, 0, &p->host, 0, 512);
    if (r != TNM_ERR_LOST)
        conform_broken(k, CONFORM_LOST, "a copy into it: %s", tnm_result_string(r));
    if (p->device.host) return; /* then the host tier copies by itself what the CPU sees */
    r = conform_move(k, &p->host, 0, &p->device, 0, 512);
    if (r != TNM_ERR_LOST)
        conform_broken(k, CONFORM_LOST, "a copy out of it: %s", tnm_result_string(r));
}

/* In a context: what has a copy below stays readable, what had none is LOST, and it ends. */
static inline void conform_lose_context(conform_rig *g, int clean) {
    conform_kit *k = g->k;
    for (int i = 0; i < g->count && !k->dead; i++) {
        tnm_use use;
        tnm_pinned p;
        tnm_result r;
        memset(&use, 0, sizeof use);
        use.tensor = g->tensor[i];
        r = tnm_pin(g->ctx, &use, 1, &p);
        if (r == TNM_PENDING) (void)conform_well(g, r, "pin", i);
        if (r == TNM_OK && p.host == NULL && i < clean)
            conform_broken(k, CONFORM_LOST, "tensor %d was pinned on a dead device", i);
        if (r == TNM_OK) (void)tnm_unpin(g->ctx, &p, 1, 0);
        if (k->dead) return;
        r = tnm_read(g->ctx, g->tensor[i], 0, g->buffer, g->bytes[i]);
        if (i < clean && (r != TNM_OK || conform_differs(g->buffer, g->key[i], 0, g->bytes[i],
                                                         g->add[i]) < g->bytes[i]))
            conform_broken(k, CONFORM_LOST, "tensor %d had its bytes below, and a read: %s", i,
                           tnm_result_string(r));
        if (i >= clean && r == TNM_OK &&
            conform_differs(g->buffer, g->key[i], 0, g->bytes[i], g->add[i]) < g->bytes[i])
            conform_broken(k, CONFORM_LOST, "a read of tensor %d was OK with wrong bytes", i);
    }
}

static inline void conform_play_lost(conform_kit *k) {
    conform_pieces p;
    conform_rig g;
    int good, flight = -1;
    if (!k->s.lose) {
        k->unplayed[CONFORM_LOST] = "it cannot be made to die";
        return;
    }
    good = conform_pieces_take(k, 1 << 20, &p);
    if (!conform_rig_open(k, &g, 2 << 20, 8 << 20, 0)) return;
    for (int i = 0; i < 8 && good; i++) {
        good = conform_add(&g, 100000 + (uint64_t)i);
        if (good && i >= 4) good = conform_use_once(&g, i, 0); /* only there is it as new as this */
        if (good && i >= 4) (void)tnm_wait(g.ctx);
    }
    if (good) {
        flight = conform_go(k, &p.device, 0, &p.host, 0, 1 << 20);
        conform_submit(k);
    }
    k->s.lose(k->s.user);
    if (good) {
        conform_lose_callbacks(k, &p, flight);
        conform_lose_context(&g, 4);
    }
    conform_rig_end(&g);
    conform_pieces_give(k, &p);
}

static inline void conform_play_again(conform_kit *k) {
    conform_subject fresh;
    tnm_backend host = k->host;
    if (!k->s.again || !k->s.lose) {
        k->unplayed[CONFORM_AGAIN] = "it cannot be made to die";
        return;
    }
    memset(&fresh, 0, sizeof fresh);
    if (!k->lab.backend) free(k->lab.host);
    conform_give(k, &k->lab); /* it is the dead runtime's */
    if (!k->s.again(k->s.user, &fresh)) {
        conform_broken(k, CONFORM_AGAIN, "there is no fresh device");
        k->dead = 1;
        return;
    }
    if (!fresh.name) fresh.name = k->s.name;
    k->s = fresh;
    if (fresh.host.alloc) host = fresh.host;
    k->host = host;
    k->lab = conform_plain(malloc(CONFORM_LAB), CONFORM_LAB);
    conform_play_whole(k);
    conform_trips(k);
}

/* ---- playing ---- */

typedef struct conform_step {
    int rule;
    void (*play)(conform_kit *k);
} conform_step;

static inline int conform_wanted(const conform_kit *k, int rule) {
    const char *only = k->only, *name = conform_rule_name(rule), *at;
    if (!only || !*only) return 1;
    for (at = strstr(only, name); at; at = strstr(at + 1, name)) {
        char end = at[strlen(name)];
        if ((at == only || at[-1] == ' ') && (end == ' ' || end == '\0')) return 1;
    }
    return 0;
}

static inline void conform_play(conform_kit *k, const conform_step *step) {
    uint64_t before = k->s.live ? k->s.live(k->s.user) : 0, after;
    if (k->dead || !conform_wanted(k, step->rule)) {
        k->skipped += k->dead;
        return;
    }
    k->rule = step->rule;
    k->played[step->rule] = 1;
    k->said[0] = '\0';
    step->play(k);
    conform_land(k);
    if (k->unplayed[step->rule]) k->played[step->rule] = 0;
    if (!k->s.live || k->dead || step->rule == CONFORM_LOST || step->rule == CONFORM_AGAIN) return;
    after = k->s.live(k->s.user);
    k->played[CONFORM_LEAK] = 1;
    if (after != before)
        conform_broken(k, CONFORM_LEAK, "%llu allocations before, %llu after", conform_n(before),
                       conform_n(after));
}

static inline int conform_begin(conform_kit *k, const conform_subject *s) {
    const char *patience = getenv("CONFORM_PATIENCE");
    memset(k, 0, sizeof *k);
    k->s = *s;
    if (!k->s.name) k->s.name = "?";
    k->only = getenv("CONFORM_ONLY");
    k->rule = CONFORM_COUNT;
    k->random = 88172645463325252u;
    k->patience = patience ? atoi(patience) : 20;
    k->host = s->host;
    if (!k->host.alloc) {
        k->host.alloc = conform_host_alloc;
        k->host.release = conform_host_release;
        k->host.copy = conform_host_copy;
    }
    k->seen = (unsigned char *)malloc(CONFORM_LAB);
    if (conform_take(k, &k->host, CONFORM_LAB, 4096, &k->lab) != TNM_OK || !k->lab.host) {
        conform_give(k, &k->lab);
        k->lab = conform_plain(malloc(CONFORM_LAB), CONFORM_LAB);
    }
    if (k->seen && k->lab.host) return 1;
    printf("conform %s: no memory for the kit\n", s->name);
    return 0;
}

static inline int conform_end_kit(conform_kit *k) {
    int held = 0, broken = 0, why = 0;
    if (k->dead) {
        conform_abandon(&k->lab);
        conform_keep(k->seen);
    } else {
        if (!k->lab.backend) free(k->lab.host);
        conform_give(k, &k->lab);
        free(k->seen);
    }
    for (int i = 0; i < CONFORM_COUNT; i++) {
        broken += k->broken[i] > 0;
        held += k->played[i] && !k->broken[i];
    }
    printf("conform %s: %d rules hold, %d broken", k->s.name, held, broken);
    for (int i = 0; i < CONFORM_COUNT; i++)
        if (k->unplayed[i])
            printf("%s%s (%s)", why++ ? ", " : "; not played: ", conform_rule_name(i),
                   k->unplayed[i]);
    if (k->skipped) printf("; %d left out: no memory is safe after the breach above", k->skipped);
    printf("\n");
    fflush(stdout);
    return broken;
}

static inline void conform_play_all(conform_kit *k) {
    static const conform_step steps[] = {
        { CONFORM_ALLOC_ALIGN, conform_play_align },
        { CONFORM_COPY_WHOLE, conform_play_whole },
        { CONFORM_ALLOC_DISTINCT, conform_play_distinct },
        { CONFORM_ALLOC_ORDER, conform_play_order },
        { CONFORM_ALLOC_REFUSE, conform_play_refuse },
        { CONFORM_ALLOC_FULL, conform_play_full },
        { CONFORM_ALLOC_HOST, conform_play_host },
        { CONFORM_ALLOC_ITEM, conform_play_item },
        { CONFORM_ALLOC_AVAILABLE, conform_play_available },
        { CONFORM_COPY_ROUTE, conform_play_route },
        { CONFORM_COPY_ODD, conform_play_odd },
        { CONFORM_COPY_EDGE, conform_play_edge },
        { CONFORM_COPY_WITHIN, conform_play_within },
        { CONFORM_COPY_BETWEEN, conform_play_between },
        { CONFORM_COPY_PLAIN, conform_play_plain },
        { CONFORM_COPY_HOST, conform_play_copy_host },
        { CONFORM_COPY_ADOPTED, conform_play_adopted },
        { CONFORM_COPY_PEER, conform_play_peer },
        { CONFORM_TICKET_DONE, conform_play_done },
        { CONFORM_TICKET_ORDER, conform_play_tickets },
        { CONFORM_TICKET_WAIT, conform_play_wait },
        { CONFORM_TICKET_MANY, conform_play_many },
        { CONFORM_QUEUE_BUSY, conform_play_busy },
        { CONFORM_FENCE_MARK, conform_play_mark },
        { CONFORM_FENCE_PASSED, conform_play_passed },
        { CONFORM_FENCE_WORK, conform_play_kernels },
        { CONFORM_FAIL_CLEAR, conform_play_fail },
        { CONFORM_THREAD_HOP, conform_play_hop },
        { CONFORM_CTX_TRIP, conform_trips },
        { CONFORM_CTX_SWEEP, conform_play_sweep },
        { CONFORM_CTX_PEER, conform_play_ctx_peer },
        { CONFORM_CTX_WORK, conform_play_ctx_work },
        { CONFORM_CTX_DEDICATED, conform_play_dedicated },
        { CONFORM_CTX_FULL, conform_play_ctx_full },
        { CONFORM_CTX_SMALL, conform_play_small },
        { CONFORM_CTX_THREADS, conform_play_threads },
        { CONFORM_CTX_PUMP, conform_play_pump },
        { CONFORM_CTX_DESTROY, conform_play_destroy },
        { CONFORM_CTX_REFUSED, conform_play_refused },
        { CONFORM_CTX_FAIL, conform_play_ctx_fail },
        { CONFORM_LOST, conform_play_lost },
        { CONFORM_AGAIN, conform_play_again },
    };
    for (int i = 0; i < (int)(sizeof steps / sizeof steps[0]); i++)
        conform_play(k, &steps[i]);
}

static inline int conform(const conform_subject *s) {
    conform_kit *k = (conform_kit *)malloc(sizeof *k);
    int broken = 1, begun = k && conform_begin(k, s);
    if (begun) {
        conform_play_all(k);
        broken = conform_end_kit(k);
    }
    if (begun && k->dead)
        conform_keep(k);
    else
        free(k);
    return broken;
}

#endif
