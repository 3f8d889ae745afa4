/* subject_ascend.h: Ascend for the conformance kit: the runtime, and tests/standin_ascend.c. */
#ifndef TENSORMEM_TESTS_SUBJECT_ASCEND_H
#define TENSORMEM_TESTS_SUBJECT_ASCEND_H

#include "subject_streams.h"
#include "../examples/backends/ascend.h"

#define RT(name)      tnm_ascend_##name
#define RT_DEVICE     tnm_ascend
#define SUBJECT(name) subject_ascend_##name

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

static void subject_ascend_tier(tnm_tier_desc *tier) {
    tnm_ascend_tier(NULL, tier);
}

static const subject_facts subject_ascend_facts = { { "ascend", "ascend (stand-in)" },
                                                    "STANDIN_ASCEND",
                                                    "build/standin/libascend.so",
                                                    "Malloc",
                                                    207001,
                                                    107000,
                                                    subject_ascend_calls,
                                                    subject_ascend_tier };

static int subject_ascend_copies(tnm_ascend *rt, int up, uint64_t mem, void *host, size_t bytes,
                                 int rounds) {
    void *was, *stream = rt->lane[up ? TNM_ASCEND_UP : TNM_ASCEND_DOWN].stream;
    void *device = (void *)(uintptr_t)mem;
    int code = tnm_ascend_enter(rt, &was);
    if (code) return code;
    for (int i = 0; i < rounds && !code; i++)
        code =
            rt->acl.copy(up ? device : host, bytes, up ? host : device, bytes, up ? 1 : 2, stream);
    int waited = rt->acl.stream_wait(stream);
    tnm_ascend_leave(rt, was);
    return code ? code : waited;
}

#include "subject_streams.h"

#endif
