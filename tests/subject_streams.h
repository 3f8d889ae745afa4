/* subject_streams.h: a runtime of streams and events for the conformance kit: the vendor's, if one
 * is here and shows a device, and its stand-in always. Each such runtime has a file that includes
 * this one, after its backend's header and
 *
 *   #define RT(name)      tnm_cuda_##name       the backend's names
 *   #define RT_DEVICE     tnm_cuda
 *   #define SUBJECT(name) subject_cuda_##name   the names made here
 *   static const subject_facts SUBJECT(facts) = ...
 *   static int SUBJECT(copies)(...)             the runtime's own copies, see below
 *
 * They are gone behind it: several runtimes go into one program. */
#ifndef TENSORMEM_TESTS_SUBJECT_STREAMS_H
#define TENSORMEM_TESTS_SUBJECT_STREAMS_H

#include "conformance.h"
#include "standin.h"

typedef struct subject_facts {
    const char *names[2];           /* of the runtime and of its stand-in */
    const char *variable, *built;   /* what names the stand-in, and where it is built */
    const char *allocates;          /* stands in the names of calls that may find no memory */
    int no_memory, refused;         /* the codes of failures: of these calls, of others */
    const char *const *calls;       /* that can be made to fail */
    /* What the runtime wants of a tier; NULL = nothing. */
    void (*tier)(tnm_tier_desc *tier);
} subject_facts;

#ifdef CLOCK_MONOTONIC
static inline double subject_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
#endif
#endif

#ifdef SUBJECT
typedef struct SUBJECT(state) {
    RT_DEVICE *rt, *peer;
    const char *library; /* NULL = the vendor's */
    standin in;
} SUBJECT(state);

static SUBJECT(state) SUBJECT(states)[2];

static uint64_t SUBJECT(passed)(void *user, uint32_t queue, uint64_t wait_for) {
    return RT(passed)(((SUBJECT(state) *)user)->rt, queue, wait_for);
}

static uint64_t SUBJECT(mark)(void *user, uint32_t queue) {
    return RT(mark)(((SUBJECT(state) *)user)->rt, queue);
}

static int SUBJECT(work)(void *user, uint32_t queue, const tnm_pinned *at, uint8_t add) {
    SUBJECT(state) *s = (SUBJECT(state) *)user;
    uintptr_t bytes = (uintptr_t)RT(pointer)(at);
    return s->in.add(RT(queue)(s->rt, queue), bytes, (size_t)at->bytes, add) == 0;
}

static uint64_t SUBJECT(live)(void *user) {
    return ((SUBJECT(state) *)user)->in.live();
}

static void SUBJECT(fail)(void *user, const char *call, int nth, int code) {
    const subject_facts *f = &SUBJECT(facts);
    int plain = call && strstr(call, f->allocates) ? f->no_memory : f->refused;
    ((SUBJECT(state) *)user)->in.fail(call, nth, code ? code : plain);
}

static void SUBJECT(lose)(void *user) {
    ((SUBJECT(state) *)user)->in.lose();
}

/* All rounds are queued one behind the other on the lane that the backend uses, and waited for
 * once. 0 = something failed. */
static double SUBJECT(raw)(void *user, int to_device, uint64_t bytes, int rounds) {
    double seconds = 0;
#ifdef CLOCK_MONOTONIC
    RT_DEVICE *rt = ((SUBJECT(state) *)user)->rt;
    uint64_t mem = 0, locked = 0;
    void *none = NULL, *host = NULL;
    if (RT(alloc)(rt, bytes, 256, NULL, &mem, &none) != TNM_OK) return 0;
    if (RT(host_alloc)(rt, bytes, 256, NULL, &locked, &host) == TNM_OK) {
        memset(host, 1, (size_t)bytes); /* every page is there now */
        double since = subject_seconds();
        if (SUBJECT(copies)(rt, to_device, mem, host, (size_t)bytes, rounds) == 0)
            seconds = subject_seconds() - since;
        RT(host_release)(rt, locked, bytes);
    }
    RT(release)(rt, mem, bytes);
#else
    (void)user, (void)to_device, (void)bytes, (void)rounds, (void)SUBJECT(copies);
#endif
    return seconds;
}

static void SUBJECT(shut)(SUBJECT(state) * s) {
    RT(close)(s->rt);
    RT(close)(s->peer);
    s->rt = s->peer = NULL;
}

static tnm_result SUBJECT(open)(const SUBJECT(state) * s, int device, RT_DEVICE **out) {
    RT(desc) zero, *desc = &zero;
    memset(desc, 0, sizeof *desc);
    desc->library = s->library;
    desc->device = device;
    desc->stream_count = 2;
    return RT(open)(desc, out);
}

static int SUBJECT(again)(void *user, conform_subject *out);

static int SUBJECT(fill)(SUBJECT(state) * s, conform_subject *out) {
    const subject_facts *f = &SUBJECT(facts);
    tnm_tier_desc tier;
    memset(out, 0, sizeof *out);
    memset(&tier, 0, sizeof tier);
    if (SUBJECT(open)(s, 0, &s->rt) != TNM_OK) return 0;
    RT(backend)(s->rt, &out->device);
    RT(host)(s->rt, &out->host);
    if (SUBJECT(open)(s, 1, &s->peer) == TNM_OK) RT(backend)(s->peer, &out->peer);
    if (f->tier) f->tier(&tier);
    out->alignment = tier.alignment;
    out->tail_bytes = tier.tail_bytes;
    out->name = f->names[s->library != NULL];
    out->queues = 2;
    out->passed = SUBJECT(passed);
    out->mark = SUBJECT(mark);
    out->raw_copy_s = SUBJECT(raw);
    out->user = s;
    out->real = !s->library;
    if (out->real) return 1;
    out->work = SUBJECT(work);
    out->live = SUBJECT(live);
    out->fail = SUBJECT(fail);
    out->lose = SUBJECT(lose);
    out->again = SUBJECT(again);
    out->calls = f->calls;
    return 1;
}

static int SUBJECT(again)(void *user, conform_subject *out) {
    SUBJECT(state) *s = (SUBJECT(state) *)user;
    SUBJECT(shut)(s);
    if (s->in.revive) s->in.revive();
    return SUBJECT(fill)(s, out);
}

/* Fills up to two of `out`. */
static int SUBJECT(all)(conform_subject *out, const char **why) {
    static char reason[256];
    SUBJECT(state) *vendor = &SUBJECT(states)[0], *stand = &SUBJECT(states)[1];
    int count = SUBJECT(fill)(vendor, &out[0]);
    stand->library = standin_path(SUBJECT(facts).variable, SUBJECT(facts).built);
    snprintf(reason, sizeof reason, "%s", RT(error)(NULL));
    *why = reason;
    void *library = RT(library)(stand->library);
    if (library && standin_load(&stand->in, RT(symbol), library))
        count += SUBJECT(fill)(stand, &out[count]);
    return count;
}

static void SUBJECT(end)(conform_subject *s) {
    SUBJECT(shut)((SUBJECT(state) *)s->user);
    memset(s, 0, sizeof *s);
}

#undef RT
#undef RT_DEVICE
#undef SUBJECT
#endif
