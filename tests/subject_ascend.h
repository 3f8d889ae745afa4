/* subject_ascend.h: Ascend for the conformance kit: the runtime, if one is here and shows a device,
 * and the stand-in always (STANDIN_ASCEND names it; else build/standin/libascend.so). */
#ifndef TENSORMEM_TESTS_SUBJECT_ASCEND_H
#define TENSORMEM_TESTS_SUBJECT_ASCEND_H

#include "conformance.h"
#include "../examples/backends/ascend.h"

typedef struct subject_ascend_state {
    tnm_ascend *rt, *peer;
    const char *library; /* NULL = the runtime */
    void (*fail)(const char *call, int nth, int code);
    void (*lose)(void);
    uint64_t (*live)(void);
    int (*add)(void *stream, uintptr_t at, size_t bytes, unsigned char add);
} subject_ascend_state;

static subject_ascend_state subject_ascend_states[2];

static const char *const subject_ascend_calls[] = { "aclrtMallocAlign32",
                                                    "aclrtMallocHost",
                                                    "aclrtGetCurrentContext",
                                                    "aclrtSetCurrentContext",
                                                    "aclrtMemcpy",
                                                    "aclrtMemcpyAsync",
                                                    "aclrtPointerGetAttributes",
                                                    "aclrtSynchronizeStream",
                                                    "aclrtStreamQuery",
                                                    "aclrtRecordEvent",
                                                    "aclrtQueryEventStatus",
                                                    "aclrtSynchronizeEvent",
                                                    NULL };

static uint64_t subject_ascend_passed(void *user, uint32_t queue, uint64_t wait_for) {
    return tnm_ascend_passed(((subject_ascend_state *)user)->rt, queue, wait_for);
}

static uint64_t subject_ascend_mark(void *user, uint32_t queue) {
    return tnm_ascend_mark(((subject_ascend_state *)user)->rt, queue);
}

static int subject_ascend_work(void *user, uint32_t queue, const tnm_pinned *at, uint8_t add) {
    subject_ascend_state *s = (subject_ascend_state *)user;
    void *stream = tnm_ascend_queue(s->rt, queue);
    return s->add(stream, (uintptr_t)tnm_ascend_pointer(at), (size_t)at->bytes, add) == 0;
}

static uint64_t subject_ascend_live(void *user) {
    return ((subject_ascend_state *)user)->live();
}

static void subject_ascend_fail(void *user, const char *call, int nth, int code) {
    int plain = call && strstr(call, "Malloc") ? 207001 : 107000; /* no memory; bad parameter */
    ((subject_ascend_state *)user)->fail(call, nth, code ? code : plain);
}

static void subject_ascend_lose(void *user) {
    ((subject_ascend_state *)user)->lose();
}

static void subject_ascend_shut(subject_ascend_state *s) {
    tnm_ascend_close(s->rt);
    tnm_ascend_close(s->peer);
    s->rt = s->peer = NULL;
}

#ifdef CLOCK_MONOTONIC
static double subject_ascend_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The runtime's own copy, all rounds queued one behind the other and waited for once. */
static double subject_ascend_raw(void *user, int to_device, uint64_t bytes, int rounds) {
    tnm_ascend *rt = ((subject_ascend_state *)user)->rt;
    uint64_t mem = 0, locked = 0;
    void *was, *none = NULL, *host = NULL, *stream = rt->lane[!to_device].stream;
    double seconds = -1;
    tnm_result r = tnm_ascend_alloc(rt, bytes, 256, NULL, &mem, &none);
    if (r != TNM_OK) return -1;
    r = tnm_ascend_host_alloc(rt, bytes, 256, NULL, &locked, &host);
    if (r == TNM_OK && tnm_ascend_enter(rt, &was) == 0) {
        void *device = (void *)(uintptr_t)mem;
        memset(host, 1, (size_t)bytes); /* every page is there now */
        double since = subject_ascend_clock();
        int code = 0;
        for (int i = 0; i < rounds && !code; i++)
            code = rt->acl.copy(to_device ? device : host, (size_t)bytes, to_device ? host : device,
                                (size_t)bytes, 2 - to_device, stream);
        if (rt->acl.stream_wait(stream) == 0 && !code) seconds = subject_ascend_clock() - since;
        tnm_ascend_leave(rt, was);
    }
    if (r == TNM_OK) tnm_ascend_host_release(rt, locked, bytes);
    tnm_ascend_release(rt, mem, bytes);
    return seconds;
}
#else
#    define subject_ascend_raw NULL
#endif

static int subject_ascend_fill(subject_ascend_state *s, conform_subject *out);

static int subject_ascend_again(void *user, conform_subject *out) {
    subject_ascend_shut((subject_ascend_state *)user);
    return subject_ascend_fill((subject_ascend_state *)user, out);
}

static void subject_ascend_describe(const subject_ascend_state *s, tnm_ascend_desc *desc) {
    memset(desc, 0, sizeof *desc);
    desc->library = s->library;
    desc->stream_count = 2;
}

static int subject_ascend_fill(subject_ascend_state *s, conform_subject *out) {
    tnm_ascend_desc desc;
    tnm_tier_desc tier;
    memset(out, 0, sizeof *out);
    memset(&tier, 0, sizeof tier);
    subject_ascend_describe(s, &desc);
    if (tnm_ascend_open(&desc, &s->rt) != TNM_OK) return 0;
    tnm_ascend_backend(s->rt, &out->device);
    tnm_ascend_host(s->rt, &out->host);
    tnm_ascend_tier(s->rt, &tier);
    out->alignment = tier.alignment;
    out->tail_bytes = tier.tail_bytes;
    desc.device = 1;
    if (tnm_ascend_open(&desc, &s->peer) == TNM_OK) tnm_ascend_backend(s->peer, &out->peer);
    out->name = s->library ? "ascend (stand-in)" : "ascend";
    out->queues = 2;
    out->passed = subject_ascend_passed;
    out->mark = subject_ascend_mark;
    out->raw_copy_s = subject_ascend_raw;
    out->user = s;
    out->real = !s->library;
    if (out->real) return 1;
    out->work = subject_ascend_work;
    out->live = subject_ascend_live;
    out->fail = subject_ascend_fail;
    out->lose = subject_ascend_lose;
    out->again = subject_ascend_again;
    out->calls = subject_ascend_calls;
    return 1;
}

static int subject_ascend_symbol(void *library, const char *name, void *function) {
    void *at = tnm_ascend_symbol(library, name);
    memcpy(function, &at, sizeof at);
    return at != NULL;
}

/* Fills up to two of `out`. */
static int subject_ascend(conform_subject *out, const char **why) {
    static char reason[256];
    subject_ascend_state *real = &subject_ascend_states[0], *standin = &subject_ascend_states[1];
    int count = subject_ascend_fill(real, &out[0]);
    const char *path = getenv("STANDIN_ASCEND");
    standin->library = path && *path ? path : "build/standin/libascend.so";
    snprintf(reason, sizeof reason, "%s", tnm_ascend_error(NULL));
    void *library = tnm_ascend_library(standin->library);
    *why = reason;
    if (!library) return count;
    if (subject_ascend_symbol(library, "standin_fail", &standin->fail) &&
        subject_ascend_symbol(library, "standin_lose", &standin->lose) &&
        subject_ascend_symbol(library, "standin_live", &standin->live) &&
        subject_ascend_symbol(library, "standin_add", &standin->add))
        count += subject_ascend_fill(standin, &out[count]);
    return count;
}

static void subject_ascend_end(conform_subject *s) {
    subject_ascend_shut((subject_ascend_state *)s->user);
    memset(s, 0, sizeof *s);
}

#endif
