/* subject_cuda.h: CUDA for the conformance kit: the driver, if one is here and shows a device, and
 * the stand-in always (STANDIN_CUDA names it; else build/standin/libcuda.so). */
#ifndef TENSORMEM_TESTS_SUBJECT_CUDA_H
#define TENSORMEM_TESTS_SUBJECT_CUDA_H

#include "conformance.h"
#include "../examples/backends/cuda.h"

typedef struct subject_cuda_state {
    tnm_cuda *rt, *peer;
    const char *library; /* NULL = the driver */
    void (*fail)(const char *call, int nth, int code);
    void (*lose)(void);
    uint64_t (*live)(void);
    int (*add)(void *stream, uintptr_t at, size_t bytes, unsigned char add);
} subject_cuda_state;

static subject_cuda_state subject_cuda_states[2];

static const char *const subject_cuda_calls[] = { "cuMemAlloc_v2",
                                                  "cuMemHostAlloc",
                                                  "cuCtxPushCurrent_v2",
                                                  "cuMemcpyHtoDAsync_v2",
                                                  "cuMemcpyDtoHAsync_v2",
                                                  "cuMemcpyDtoDAsync_v2",
                                                  "cuMemcpyBatchAsync_v2",
                                                  "cuPointerGetAttribute",
                                                  "cuStreamSynchronize",
                                                  "cuEventRecord",
                                                  "cuEventQuery",
                                                  "cuEventSynchronize",
                                                  NULL };

static uint64_t subject_cuda_passed(void *user, uint32_t queue, uint64_t wait_for) {
    return tnm_cuda_passed(((subject_cuda_state *)user)->rt, queue, wait_for);
}

static uint64_t subject_cuda_mark(void *user, uint32_t queue) {
    return tnm_cuda_mark(((subject_cuda_state *)user)->rt, queue);
}

static int subject_cuda_work(void *user, uint32_t queue, const tnm_pinned *at, uint8_t add) {
    subject_cuda_state *s = (subject_cuda_state *)user;
    return s->add(tnm_cuda_queue(s->rt, queue), tnm_cuda_pointer(at), (size_t)at->bytes, add) == 0;
}

static uint64_t subject_cuda_live(void *user) {
    return ((subject_cuda_state *)user)->live();
}

static void subject_cuda_fail(void *user, const char *call, int nth, int code) {
    int plain = call && strstr(call, "Alloc") ? 2 : 304; /* out of memory; the system refused */
    ((subject_cuda_state *)user)->fail(call, nth, code ? code : plain);
}

static void subject_cuda_lose(void *user) {
    ((subject_cuda_state *)user)->lose();
}

static void subject_cuda_shut(subject_cuda_state *s) {
    tnm_cuda_close(s->rt);
    tnm_cuda_close(s->peer);
    s->rt = s->peer = NULL;
}

static int subject_cuda_symbol(void *library, const char *name, void *function) {
    void *at = tnm_cuda_symbol(library, name);
    memcpy(function, &at, sizeof at);
    return at != NULL;
}

/* The runtime's own copies, timed by its own events. 0 = something failed. */
static double subject_cuda_raw(void *user, int to_device, uint64_t bytes, int rounds) {
    subject_cuda_state *s = (subject_cuda_state *)user;
    tnm_cuda *rt = s->rt;
    tnm_cuda_driver *d = &rt->cu;
    int(TNM_CUDA_API * elapsed)(float *ms, void *from, void *to) = NULL;
    void *library = tnm_cuda_library(s->library), *host = NULL, *mark[2] = { NULL, NULL };
    void *stream = rt->lane[to_device ? TNM_CUDA_UP : TNM_CUDA_DOWN].stream;
    tnm_cuda_ptr mem = 0;
    size_t size = (size_t)bytes;
    float ms = 0;
    if (!library || !subject_cuda_symbol(library, "cuEventElapsedTime", &elapsed)) return 0;
    if (tnm_cuda_enter(rt)) return 0;
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
    tnm_cuda_leave(rt);
    return bad ? 0 : (double)ms / 1000;
}

static int subject_cuda_fill(subject_cuda_state *s, conform_subject *out);

static int subject_cuda_again(void *user, conform_subject *out) {
    subject_cuda_shut((subject_cuda_state *)user);
    return subject_cuda_fill((subject_cuda_state *)user, out);
}

static tnm_result subject_cuda_open(const subject_cuda_state *s, int device, tnm_cuda **out) {
    tnm_cuda_desc zero, *desc = &zero;
    memset(desc, 0, sizeof *desc);
    desc->library = s->library;
    desc->device = device;
    desc->stream_count = 2;
    return tnm_cuda_open(desc, out);
}

static int subject_cuda_fill(subject_cuda_state *s, conform_subject *out) {
    memset(out, 0, sizeof *out);
    if (subject_cuda_open(s, 0, &s->rt) != TNM_OK) return 0;
    tnm_cuda_backend(s->rt, &out->device);
    tnm_cuda_host(s->rt, &out->host);
    if (subject_cuda_open(s, 1, &s->peer) == TNM_OK) tnm_cuda_backend(s->peer, &out->peer);
    out->name = s->library ? "cuda (stand-in)" : "cuda";
    out->queues = 2;
    out->passed = subject_cuda_passed;
    out->mark = subject_cuda_mark;
    out->raw_copy_s = subject_cuda_raw;
    out->user = s;
    out->real = !s->library;
    if (out->real) return 1;
    out->work = subject_cuda_work;
    out->live = subject_cuda_live;
    out->fail = subject_cuda_fail;
    out->lose = subject_cuda_lose;
    out->again = subject_cuda_again;
    out->calls = subject_cuda_calls;
    return 1;
}

/* Fills up to two of `out`. */
static int subject_cuda(conform_subject *out, const char **why) {
    static char reason[256];
    subject_cuda_state *real = &subject_cuda_states[0], *standin = &subject_cuda_states[1];
    int count = subject_cuda_fill(real, &out[0]);
    const char *path = getenv("STANDIN_CUDA");
    standin->library = path && *path ? path : "build/standin/libcuda.so";
    snprintf(reason, sizeof reason, "%s", tnm_cuda_error(NULL));
    void *library = tnm_cuda_library(standin->library);
    *why = reason;
    if (!library) return count;
    if (subject_cuda_symbol(library, "standin_fail", &standin->fail) &&
        subject_cuda_symbol(library, "standin_lose", &standin->lose) &&
        subject_cuda_symbol(library, "standin_live", &standin->live) &&
        subject_cuda_symbol(library, "standin_add", &standin->add))
        count += subject_cuda_fill(standin, &out[count]);
    return count;
}

static void subject_cuda_end(conform_subject *s) {
    subject_cuda_shut((subject_cuda_state *)s->user);
    memset(s, 0, sizeof *s);
}

#endif
