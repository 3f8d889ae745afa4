/* subject_hip.h: HIP for the conformance kit: the runtime, if one is here and shows a device, and
 * the stand-in always (STANDIN_HIP names it; else build/standin/libhip.so). */
#ifndef TENSORMEM_TESTS_SUBJECT_HIP_H
#define TENSORMEM_TESTS_SUBJECT_HIP_H

#include "conformance.h"
#include "../examples/backends/hip.h"

typedef struct subject_hip_state {
    tnm_hip *rt, *peer;
    const char *library; /* NULL = the runtime */
    void (*fail)(const char *call, int nth, int code);
    void (*lose)(void);
    void (*revive)(void);
    uint64_t (*live)(void);
    int (*add)(void *stream, uintptr_t at, size_t bytes, unsigned char add);
} subject_hip_state;

static subject_hip_state subject_hip_states[2];

static const char *const subject_hip_calls[] = { "hipMalloc",
                                                 "hipHostMalloc",
                                                 "hipGetDevice",
                                                 "hipSetDevice",
                                                 "hipMemcpyHtoDAsync",
                                                 "hipMemcpyDtoHAsync",
                                                 "hipMemcpyDtoDAsync",
                                                 "hipHostGetDevicePointer",
                                                 "hipStreamSynchronize",
                                                 "hipEventRecord",
                                                 "hipEventQuery",
                                                 "hipEventSynchronize",
                                                 NULL };

static uint64_t subject_hip_passed(void *user, uint32_t queue, uint64_t wait_for) {
    return tnm_hip_passed(((subject_hip_state *)user)->rt, queue, wait_for);
}

static uint64_t subject_hip_mark(void *user, uint32_t queue) {
    return tnm_hip_mark(((subject_hip_state *)user)->rt, queue);
}

static int subject_hip_work(void *user, uint32_t queue, const tnm_pinned *at, uint8_t add) {
    subject_hip_state *s = (subject_hip_state *)user;
    return s->add(tnm_hip_queue(s->rt, queue), tnm_hip_pointer(at), (size_t)at->bytes, add) == 0;
}

static uint64_t subject_hip_live(void *user) {
    return ((subject_hip_state *)user)->live();
}

static void subject_hip_fail(void *user, const char *call, int nth, int code) {
    int plain = call && strstr(call, "alloc") ? 2 : 304; /* out of memory; the system refused */
    ((subject_hip_state *)user)->fail(call, nth, code ? code : plain);
}

static void subject_hip_lose(void *user) {
    ((subject_hip_state *)user)->lose();
}

static void subject_hip_shut(subject_hip_state *s) {
    tnm_hip_close(s->rt);
    tnm_hip_close(s->peer);
    s->rt = s->peer = NULL;
}

static int subject_hip_symbol(void *library, const char *name, void *function) {
    void *at = tnm_hip_symbol(library, name);
    memcpy(function, &at, sizeof at);
    return at != NULL;
}

/* The runtime's own copies, timed by its own events. 0 = something failed. */
static double subject_hip_raw(void *user, int to_device, uint64_t bytes, int rounds) {
    subject_hip_state *s = (subject_hip_state *)user;
    tnm_hip *rt = s->rt;
    tnm_hip_driver *d = &rt->hip;
    int(TNM_HIP_API * elapsed)(float *ms, void *from, void *to) = NULL;
    void *library = tnm_hip_library(s->library), *host = NULL, *mark[2] = { NULL, NULL };
    void *stream = rt->lane[to_device ? TNM_HIP_UP : TNM_HIP_DOWN].stream;
    tnm_hip_ptr mem = 0;
    size_t size = (size_t)bytes;
    float ms = 0;
    tnm_hip_before before;
    if (!library || !subject_hip_symbol(library, "hipEventElapsedTime", &elapsed)) return 0;
    if (tnm_hip_enter(rt, &before)) return 0;
    int bad = d->mem_alloc(&mem, size) || d->host_alloc(&host, size, 1) ||
              d->event_create(&mark[0], 0) || d->event_create(&mark[1], 0) ||
              d->event_record(mark[0], stream);
    for (int i = 0; i < rounds && !bad; i++)
        bad =
            to_device ? d->copy_up(mem, host, size, stream) : d->copy_down(host, mem, size, stream);
    bad = bad || d->event_record(mark[1], stream);
    bad = d->stream_wait(stream) || bad || elapsed(&ms, mark[0], mark[1]);
    for (int i = 0; i < 2; i++)
        if (mark[i]) (void)d->event_destroy(mark[i]);
    if (host) (void)d->host_free(host);
    if (mem) (void)d->mem_free(mem);
    tnm_hip_leave(rt, &before);
    return bad ? 0 : (double)ms / 1000;
}

static int subject_hip_fill(subject_hip_state *s, conform_subject *out);

static int subject_hip_again(void *user, conform_subject *out) {
    subject_hip_shut((subject_hip_state *)user);
    ((subject_hip_state *)user)->revive(); /* as hipDeviceReset in a process of its own would */
    return subject_hip_fill((subject_hip_state *)user, out);
}

static tnm_result subject_hip_open(const subject_hip_state *s, int device, tnm_hip **out) {
    tnm_hip_desc zero, *desc = &zero;
    memset(desc, 0, sizeof *desc);
    desc->library = s->library;
    desc->device = device;
    desc->stream_count = 2;
    return tnm_hip_open(desc, out);
}

static int subject_hip_fill(subject_hip_state *s, conform_subject *out) {
    memset(out, 0, sizeof *out);
    if (subject_hip_open(s, 0, &s->rt) != TNM_OK) return 0;
    tnm_hip_backend(s->rt, &out->device);
    tnm_hip_host(s->rt, &out->host);
    if (subject_hip_open(s, 1, &s->peer) == TNM_OK) tnm_hip_backend(s->peer, &out->peer);
    out->name = s->library ? "hip (stand-in)" : "hip";
    out->queues = 2;
    out->passed = subject_hip_passed;
    out->mark = subject_hip_mark;
    out->raw_copy_s = subject_hip_raw;
    out->user = s;
    out->real = !s->library;
    if (out->real) return 1;
    out->work = subject_hip_work;
    out->live = subject_hip_live;
    out->fail = subject_hip_fail;
    out->lose = subject_hip_lose;
    out->again = subject_hip_again;
    out->calls = subject_hip_calls;
    return 1;
}

/* Fills up to two of `out`. */
static int subject_hip(conform_subject *out, const char **why) {
    static char reason[256];
    subject_hip_state *real = &subject_hip_states[0], *standin = &subject_hip_states[1];
    int count = subject_hip_fill(real, &out[0]);
    const char *path = getenv("STANDIN_HIP");
    standin->library = path && *path ? path : "build/standin/libhip.so";
    snprintf(reason, sizeof reason, "%s", tnm_hip_error(NULL));
    void *library = tnm_hip_library(standin->library);
    *why = reason;
    if (!library) return count;
    if (subject_hip_symbol(library, "standin_fail", &standin->fail) &&
        subject_hip_symbol(library, "standin_lose", &standin->lose) &&
        subject_hip_symbol(library, "standin_revive", &standin->revive) &&
        subject_hip_symbol(library, "standin_live", &standin->live) &&
        subject_hip_symbol(library, "standin_add", &standin->add))
        count += subject_hip_fill(standin, &out[count]);
    return count;
}

static void subject_hip_end(conform_subject *s) {
    subject_hip_shut((subject_hip_state *)s->user);
    memset(s, 0, sizeof *s);
}

#endif
