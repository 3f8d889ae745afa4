/* device_work.h: what a driver alone cannot give subject_cuda.h: a kernel that adds a number to
 * each byte of a tensor, compiled by NVRTC when the program runs, so that the kit's rules of
 * compute order are played on a GPU; and the driver's own copies between pinned places, for the
 * bench.
 * Include examples/backends/cuda.h and conformance.h before it.
 *
 *     device_work w;
 *     if (device_work_open(&w, rt, NULL)) ... device_work_add(&w, rt, queue, at, add)
 *     device_work_close(&w, rt);                          // before tnm_cuda_close
 */
#ifndef TENSORMEM_TESTS_DEVICE_WORK_H
#define TENSORMEM_TESTS_DEVICE_WORK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DEVICE_WORK_NVRTC(X)                                                                       \
    X(make, nvrtcCreateProgram,                                                                    \
      (void **, const char *, const char *, int, const void *, const void *))                      \
    X(compile, nvrtcCompileProgram, (void *, int, const char *const *))                            \
    X(log_size, nvrtcGetProgramLogSize, (void *, size_t *))                                        \
    X(log, nvrtcGetProgramLog, (void *, char *))                                                   \
    X(ptx_size, nvrtcGetPTXSize, (void *, size_t *))                                               \
    X(ptx, nvrtcGetPTX, (void *, char *))                                                          \
    X(drop, nvrtcDestroyProgram, (void **))

#define DEVICE_WORK_DRIVER(X)                                                                      \
    X(load, cuModuleLoadData, (void **, const void *))                                             \
    X(unload, cuModuleUnload, (void *))                                                            \
    X(find, cuModuleGetFunction, (void **, void *, const char *))                                  \
    X(launch, cuLaunchKernel,                                                                      \
      (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *,       \
       void **, void **))

#define DEVICE_WORK_MEMBER(name, symbol, parameters) int(TNM_CUDA_API * name) parameters;
typedef struct device_work_nvrtc {
    DEVICE_WORK_NVRTC(DEVICE_WORK_MEMBER)
} device_work_nvrtc;

typedef struct device_work {
    DEVICE_WORK_DRIVER(DEVICE_WORK_MEMBER)
    void *module, *kernel;
    char why[256]; /* one sentence, when there is none */
} device_work;
#undef DEVICE_WORK_MEMBER

enum {
    DEVICE_WORK_WIDTH = 256,
    DEVICE_WORK_GROUPS = 1024
}; /* threads of a group; groups at most */

static const char device_work_text[] =
    "extern \"C\" __global__ void add(unsigned char *at, unsigned long long bytes,\n"
    "                               unsigned char value) {\n"
    "    unsigned long long all = (unsigned long long)gridDim.x * blockDim.x;\n"
    "    for (unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;\n"
    "         i < bytes; i += all)\n"
    "        at[i] += value;\n"
    "}\n";

/* ---- compiling ---- */
static inline int device_work_symbol(device_work *w, void *library, const char *name, void *out) {
    void *at = library ? tnm_cuda_symbol(library, name) : NULL;
    memcpy(out, &at, sizeof at);
    if (!at) snprintf(w->why, sizeof w->why, "there is no %s", name);
    return at != NULL;
}

/* The compiler comes with the toolkit, not with the driver. 0: w->why. */
static inline int device_work_compiler(device_work *w, device_work_nvrtc *c) {
    static const char *const names[] = { "libnvrtc.so.13",
                                         "libnvrtc.so.12",
                                         "libnvrtc.so.11.2",
                                         "libnvrtc.so",
                                         "nvrtc64_130_0.dll",
                                         "nvrtc64_120_0.dll",
                                         NULL };
    void *library = NULL;
    int good = 1;
    for (int i = 0; names[i] && !library; i++)
        library = tnm_cuda_library(names[i]);
    snprintf(w->why, sizeof w->why, "there is no libnvrtc");
    if (!library) return 0;
#define DEVICE_WORK_FIND(name, symbol, parameters)                                                 \
    good = good && device_work_symbol(w, library, #symbol, &c->name);
    DEVICE_WORK_NVRTC(DEVICE_WORK_FIND)
#undef DEVICE_WORK_FIND
    return good;
}

/* PTX for devices of this version and later, for free(); NULL: w->why. */
static inline char *device_work_compile(device_work *w, int major, int minor, const char *text) {
    device_work_nvrtc c;
    char version[48], *out = NULL;
    const char *const options[] = { version };
    void *program = NULL;
    size_t bytes = 0;
    memset(&c, 0, sizeof c);
    if (!device_work_compiler(w, &c)) return NULL;
    snprintf(version, sizeof version, "--gpu-architecture=compute_%d%d", major, minor);
    int code = c.make(&program, text, "device_work.cu", 0, NULL, NULL);
    if (!code) {
        code = c.compile(program, 1, options);
        int size = code ? c.log_size(program, &bytes) : c.ptx_size(program, &bytes);
        if (!size) out = (char *)calloc(bytes + 1, 1);
        if (out) (void)(code ? c.log(program, out) : c.ptx(program, out));
        (void)c.drop(&program);
    }
    snprintf(w->why, sizeof w->why, "NVRTC answered %d %.200s", code, code && out ? out : "");
    if (!code) return out;
    free(out);
    return NULL;
}

/* ---- working ---- */
static inline void device_work_close(device_work *w, tnm_cuda *rt) {
    if (w->module && tnm_cuda_enter(rt) == 0) {
        (void)w->unload(w->module);
        tnm_cuda_leave(rt);
    }
    w->module = w->kernel = NULL;
}

/* The kernel on the device of rt, whose driver is `library`, NULL = the usual one. 0: w->why. */
static inline int device_work_open(device_work *w, tnm_cuda *rt, const char *library) {
    enum { MAJOR = 75, MINOR = 76 }; /* attributes */
    void *driver = tnm_cuda_library(library);
    int major = 7, minor = 5, good = 1;
    memset(w, 0, sizeof *w);
#define DEVICE_WORK_FIND(name, symbol, parameters)                                                 \
    good = good && device_work_symbol(w, driver, #symbol, &w->name);
    DEVICE_WORK_DRIVER(DEVICE_WORK_FIND)
#undef DEVICE_WORK_FIND
    if (!good) return 0;
    (void)rt->cu.attribute(&major, MAJOR, rt->device);
    (void)rt->cu.attribute(&minor, MINOR, rt->device);
    char *ptx = device_work_compile(w, major, minor, device_work_text);
    if (!ptx) return 0;
    int code = tnm_cuda_enter(rt);
    if (!code) {
        code = w->load(&w->module, ptx);
        if (!code) code = w->find(&w->kernel, w->module, "add");
        tnm_cuda_leave(rt);
    }
    free(ptx);
    if (!code) return 1;
    snprintf(w->why, sizeof w->why, "the driver took no kernel: %d", code);
    device_work_close(w, rt);
    return 0;
}

/* For conform_subject.work: queued, not waited for. 0 = failed. */
static inline int device_work_add(device_work *w, tnm_cuda *rt, uint32_t queue,
                                  const tnm_pinned *at, uint8_t add) {
    tnm_cuda_ptr base = tnm_cuda_pointer(at);
    unsigned long long bytes = at->bytes, groups = (bytes - 1) / DEVICE_WORK_WIDTH + 1;
    void *arguments[] = { &base, &bytes, &add };
    if (groups > DEVICE_WORK_GROUPS) groups = DEVICE_WORK_GROUPS;
    if (!w->kernel || bytes == 0 || tnm_cuda_enter(rt) != 0) return 0;
    int code = w->launch(w->kernel, (unsigned)groups, 1, 1, DEVICE_WORK_WIDTH, 1, 1, 0,
                         tnm_cuda_queue(rt, queue), arguments, NULL);
    tnm_cuda_leave(rt);
    return code == 0;
}

/* ---- the driver's own copies ---- */
#ifdef CLOCK_MONOTONIC
static inline double device_work_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* For conform_subject.raw_pairs_s: all queued at once, on the stream that our own copies take. */
static inline double device_work_pairs(tnm_cuda *rt, int to_device, const tnm_pinned *device,
                                       const tnm_pinned *host, int count) {
    void *stream = rt->lane[to_device ? TNM_CUDA_UP : TNM_CUDA_DOWN].stream;
    int code = tnm_cuda_enter(rt);
    if (code) return -1;
    double since = device_work_clock();
    for (int i = 0; i < count && !code; i++) {
        tnm_cuda_ptr there = tnm_cuda_pointer(&device[i]);
        size_t bytes = (size_t)device[i].bytes;
        code = to_device ? rt->cu.copy_up(there, host[i].host, bytes, stream)
                         : rt->cu.copy_down(host[i].host, there, bytes, stream);
    }
    int waited = rt->cu.stream_wait(stream);
    double took = device_work_clock() - since;
    tnm_cuda_leave(rt);
    return code || waited ? -1 : took;
}
#endif

#endif
