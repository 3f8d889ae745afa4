/* subject_cuda.h: CUDA for the conformance kit: the driver, and tests/standin_cuda.c. */
#ifndef TENSORMEM_TESTS_SUBJECT_CUDA_H
#define TENSORMEM_TESTS_SUBJECT_CUDA_H

#include "subject_streams.h"
#include "../examples/backends/cuda.h"
#include "device_work.h"

#define RT(name)      tnm_cuda_##name
#define RT_DEVICE     tnm_cuda
#define SUBJECT(name) subject_cuda_##name

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

static const subject_facts subject_cuda_facts = { { "cuda", "cuda (stand-in)" },
                                                  "STANDIN_CUDA",
                                                  "build/standin/libcuda.so",
                                                  "Alloc",
                                                  2,
                                                  304,
                                                  subject_cuda_calls,
                                                  NULL };

static int subject_cuda_copies(tnm_cuda *rt, int up, uint64_t mem, void *host, size_t bytes,
                               int rounds) {
    void *stream = rt->lane[up ? TNM_CUDA_UP : TNM_CUDA_DOWN].stream;
    int code = tnm_cuda_enter(rt);
    if (code) return code;
    for (int i = 0; i < rounds && !code; i++)
        code = up ? rt->cu.copy_up((tnm_cuda_ptr)mem, host, bytes, stream)
                  : rt->cu.copy_down(host, (tnm_cuda_ptr)mem, bytes, stream);
    int waited = rt->cu.stream_wait(stream);
    tnm_cuda_leave(rt);
    return code ? code : waited;
}

#include "subject_streams.h"

/* ---- a real device: the kernel is compiled where NVRTC is ---- */
static device_work subject_cuda_kernel;

static int subject_cuda_launch(void *user, uint32_t queue, const tnm_pinned *at, uint8_t add) {
    subject_cuda_state *s = (subject_cuda_state *)user;
    return device_work_add(&subject_cuda_kernel, s->rt, queue, at, add);
}

#ifdef CLOCK_MONOTONIC
static double subject_cuda_pairs(void *user, int to_device, const tnm_pinned *device,
                                 const tnm_pinned *host, int count) {
    return device_work_pairs(((subject_cuda_state *)user)->rt, to_device, device, host, count);
}
#else
#    define subject_cuda_pairs NULL
#endif

static int subject_cuda_with_work(conform_subject *out, const char **why) {
    int count = subject_cuda_all(out, why);
    for (int i = 0; i < count; i++) {
        tnm_cuda *rt = ((subject_cuda_state *)out[i].user)->rt;
        out[i].raw_pairs_s = subject_cuda_pairs;
        if (out[i].real && device_work_open(&subject_cuda_kernel, rt, NULL))
            out[i].work = subject_cuda_launch;
    }
    return count;
}

static void subject_cuda_end_work(conform_subject *s) {
    tnm_cuda *rt = ((subject_cuda_state *)s->user)->rt;
    if (s->real && rt) device_work_close(&subject_cuda_kernel, rt);
    subject_cuda_end(s);
}

#endif
