/* backends.h: the backends that conformance.c plays and bench_backends.c measures. Include the
 * implementation of tensormem.h and conformance.h before it. A backend more: its header, its
 * subject, its line in the table. */
#ifndef TENSORMEM_TESTS_BACKENDS_H
#define TENSORMEM_TESTS_BACKENDS_H

#include "subject_builtin.h"
#include "subject_sim.h"

#include "../examples/backends/opencl.h"
#include "subject_opencl.h"
#include "../examples/backends/vulkan.h"
#include "vulkan_watch.h"
#include "subject_vulkan.h"
#include "../examples/backends/cuda.h"
#include "../examples/backends/hip.h"
#include "subject_cuda.h"
#include "subject_hip.h"
#include "../examples/backends/ascend.h"
#include "subject_ascend.h"

enum { BACKENDS_SUBJECTS = 4 }; /* at most, of one backend */

typedef struct backends_entry {
    const char *name;
    int (*open)(conform_subject *out, const char **why); /* how many subjects */
    void (*end)(conform_subject *s);
    int gpu; /* the real one needs hardware that most machines have not */
} backends_entry;

static inline int backends_sim(conform_subject *out, const char **why) {
    *why = "no memory";
    return subject_sim(out, SUBJECT_SIM_SHARE, SIM_NO_DEFECT);
}

static const backends_entry backends_all[] = {
    { "host", subject_host, subject_host_end, 0 },
    { "file", subject_file, subject_file_end, 0 },
    { "sim", backends_sim, subject_sim_end, 0 },
    { "opencl", subject_opencl, subject_opencl_end, 0 },
    { "vulkan", subject_vulkan, subject_vulkan_end, 0 },
    { "cuda", subject_cuda_with_work, subject_cuda_end_work, 1 },
    { "hip", subject_hip_all, subject_hip_end, 1 },
    { "ascend", subject_ascend_all, subject_ascend_end, 1 },
};

enum { BACKENDS_COUNT = sizeof backends_all / sizeof backends_all[0] };

/* Is it among the names on the command line, or are there none? */
static inline int backends_wanted(const char *name, int count, char **names) {
    for (int i = 1; i < count; i++)
        if (strcmp(name, names[i]) == 0) return 1;
    return count < 2;
}

#endif
