/* subject_hip.h: HIP for the conformance kit: the runtime, and tests/standin_hip.c. */
#ifndef TENSORMEM_TESTS_SUBJECT_HIP_H
#define TENSORMEM_TESTS_SUBJECT_HIP_H

#include "subject_streams.h"
#include "../examples/backends/hip.h"

#define RT(name)      tnm_hip_##name
#define RT_DEVICE     tnm_hip
#define SUBJECT(name) subject_hip_##name

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

static const subject_facts subject_hip_facts = {
    { "hip", "hip (stand-in)" }, "STANDIN_HIP", "build/standin/libhip.so", "alloc", 2, 304,
    subject_hip_calls,           NULL
};

static int subject_hip_copies(tnm_hip *rt, int up, uint64_t mem, void *host, size_t bytes,
                              int rounds) {
    void *stream = rt->lane[up ? TNM_HIP_UP : TNM_HIP_DOWN].stream;
    tnm_hip_before before;
    int code = tnm_hip_enter(rt, &before);
    if (code) return code;
    for (int i = 0; i < rounds && !code; i++)
        code = up ? rt->hip.copy_up((tnm_hip_ptr)mem, host, bytes, stream)
                  : rt->hip.copy_down(host, (tnm_hip_ptr)mem, bytes, stream);
    int waited = rt->hip.stream_wait(stream);
    tnm_hip_leave(rt, &before);
    return code ? code : waited;
}

#include "subject_streams.h"

#endif
