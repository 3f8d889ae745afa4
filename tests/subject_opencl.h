/* subject_opencl.h: OpenCL for the conformance kit, PoCL included. Include tensormem.h,
 * examples/backends/opencl.h and conformance.h before it.
 *
 * The backend's calls into the runtime go through a table of its own, and so through here: buffers
 * are counted, calls and commands can be made to fail, and the device can die. */
#ifndef TENSORMEM_TESTS_SUBJECT_OPENCL_H
#define TENSORMEM_TESTS_SUBJECT_OPENCL_H

#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifndef _WIN32
int setenv(const char *name, const char *value, int overwrite); /* strict C99 hides it */
#endif

#define SUBJECT_OPENCL_COMMAND "a command" /* not a call: what was queued fails later */

typedef struct subject_opencl_kernel { /* adds a number to bytes; the functions are the runtime's */
    void *program, *kernel;
    int32_t(TNM_OPENCL_CALL *set_arg)(void *, uint32_t, size_t, const void *);
    int32_t(TNM_OPENCL_CALL *run)(tnm_opencl_cl_queue, void *, uint32_t, const size_t *,
                                  const size_t *, const size_t *, uint32_t,
                                  const tnm_opencl_event *, tnm_opencl_event *);
    int32_t(TNM_OPENCL_CALL *release_kernel)(void *);
    int32_t(TNM_OPENCL_CALL *release_program)(void *);
} subject_opencl_kernel;

typedef struct subject_opencl_world {
    tnm_opencl *cl, *peer;
    tnm_opencl_api real;
    uint64_t buffers, events; /* alive */
    const char *failing;      /* the call that fails when `nth` gets to 0; NULL = any */
    int nth, code, dead;
    subject_opencl_kernel add;
    uint32_t launches;
} subject_opencl_world;

static subject_opencl_world subject_opencl_the;

/* ---- in front of the runtime ---- */

/* 0, or what this call is to answer. */
static inline int32_t subject_opencl_error(const char *call) {
    subject_opencl_world *w = &subject_opencl_the;
    if (w->dead) return TNM_OPENCL_DEVICE_NOT_AVAILABLE;
    if (w->nth == 0 || (w->failing && strcmp(w->failing, call) != 0)) return 0;
    return --w->nth > 0 ? 0 : w->code;
}

static inline void subject_opencl_count(uint64_t *counter, int up) {
    __atomic_add_fetch(counter, up ? 1 : UINT64_MAX, __ATOMIC_SEQ_CST); /* marks have threads */
}

static inline int32_t subject_opencl_made(int32_t code, const tnm_opencl_event *event) {
    if (code == 0 && event) subject_opencl_count(&subject_opencl_the.events, 1);
    return code;
}

static inline tnm_opencl_mem TNM_OPENCL_CALL subject_opencl_create(tnm_opencl_cl_context context,
                                                                   uint64_t flags, size_t size,
                                                                   void *host, int32_t *code) {
    tnm_opencl_mem mem = NULL;
    *code = subject_opencl_error("clCreateBuffer");
    if (*code == 0) mem = subject_opencl_the.real.CreateBuffer(context, flags, size, host, code);
    if (mem) subject_opencl_count(&subject_opencl_the.buffers, 1);
    return mem;
}

static inline tnm_opencl_mem TNM_OPENCL_CALL subject_opencl_part(tnm_opencl_mem whole,
                                                                 uint64_t flags, uint32_t type,
                                                                 const void *region,
                                                                 int32_t *code) {
    tnm_opencl_mem mem = NULL;
    *code = subject_opencl_error("clCreateSubBuffer");
    if (*code == 0) mem = subject_opencl_the.real.CreateSubBuffer(whole, flags, type, region, code);
    if (mem) subject_opencl_count(&subject_opencl_the.buffers, 1);
    return mem;
}

static inline int32_t TNM_OPENCL_CALL subject_opencl_drop(tnm_opencl_mem mem) {
    subject_opencl_count(&subject_opencl_the.buffers, 0);
    return subject_opencl_the.real.ReleaseMemObject(mem);
}

static inline int32_t TNM_OPENCL_CALL subject_opencl_read(tnm_opencl_cl_queue queue,
                                                          tnm_opencl_mem mem, uint32_t block,
                                                          size_t at, size_t size, void *to,
                                                          uint32_t n, const tnm_opencl_event *list,
                                                          tnm_opencl_event *event) {
    int32_t code = subject_opencl_error("clEnqueueReadBuffer");
    if (code) return code;
    return subject_opencl_made(
        subject_opencl_the.real.EnqueueReadBuffer(queue, mem, block, at, size, to, n, list, event),
        event);
}

static inline int32_t TNM_OPENCL_CALL subject_opencl_write(tnm_opencl_cl_queue queue,
                                                           tnm_opencl_mem mem, uint32_t block,
                                                           size_t at, size_t size, const void *from,
                                                           uint32_t n, const tnm_opencl_event *list,
                                                           tnm_opencl_event *event) {
    int32_t code = subject_opencl_error("clEnqueueWriteBuffer");
    if (code) return code;
    return subject_opencl_made(subject_opencl_the.real.EnqueueWriteBuffer(
                                   queue, mem, block, at, size, from, n, list, event),
                               event);
}

static inline int32_t TNM_OPENCL_CALL subject_opencl_copy(tnm_opencl_cl_queue queue,
                                                          tnm_opencl_mem from, tnm_opencl_mem to,
                                                          size_t begin, size_t at, size_t size,
                                                          uint32_t n, const tnm_opencl_event *list,
                                                          tnm_opencl_event *event) {
    int32_t code = subject_opencl_error("clEnqueueCopyBuffer");
    if (code) return code;
    return subject_opencl_made(
        subject_opencl_the.real.EnqueueCopyBuffer(queue, from, to, begin, at, size, n, list, event),
        event);
}

static inline void *TNM_OPENCL_CALL subject_opencl_map(tnm_opencl_cl_queue queue,
                                                       tnm_opencl_mem mem, uint32_t block,
                                                       uint64_t flags, size_t at, size_t size,
                                                       uint32_t n, const tnm_opencl_event *list,
                                                       tnm_opencl_event *event, int32_t *code) {
    *code = subject_opencl_error("clEnqueueMapBuffer");
    return *code ? NULL
                 : subject_opencl_the.real.EnqueueMapBuffer(queue, mem, block, flags, at, size, n,
                                                            list, event, code);
}

static inline int32_t TNM_OPENCL_CALL subject_opencl_unmap(tnm_opencl_cl_queue queue,
                                                           tnm_opencl_mem mem, void *mapped,
                                                           uint32_t n, const tnm_opencl_event *list,
                                                           tnm_opencl_event *event) {
    int32_t code = subject_opencl_error("clEnqueueUnmapMemObject");
    if (code) return code;
    return subject_opencl_the.real.EnqueueUnmapMemObject(queue, mem, mapped, n, list, event);
}

static inline int32_t TNM_OPENCL_CALL subject_opencl_marker(tnm_opencl_cl_queue queue, uint32_t n,
                                                            const tnm_opencl_event *list,
                                                            tnm_opencl_event *event) {
    int32_t code = subject_opencl_error("clEnqueueMarkerWithWaitList");
    if (code) return code;
    return subject_opencl_made(
        subject_opencl_the.real.EnqueueMarkerWithWaitList(queue, n, list, event), event);
}

/* A command that fails has ended first: it writes no more. */
static inline int32_t TNM_OPENCL_CALL subject_opencl_info(tnm_opencl_event event, uint32_t what,
                                                          size_t size, void *value, size_t *bytes) {
    int32_t code = subject_opencl_error("clGetEventInfo");
    if (code) return code;
    code = subject_opencl_the.real.GetEventInfo(event, what, size, value, bytes);
    if (code || what != TNM_OPENCL_EVENT_STATUS || *(int32_t *)value != 0) return code;
    *(int32_t *)value = subject_opencl_error(SUBJECT_OPENCL_COMMAND);
    return 0;
}

static inline int32_t TNM_OPENCL_CALL subject_opencl_await(uint32_t n,
                                                           const tnm_opencl_event *list) {
    int32_t code = subject_opencl_error("clWaitForEvents");
    return code ? code : subject_opencl_the.real.WaitForEvents(n, list);
}

static inline int32_t TNM_OPENCL_CALL subject_opencl_retain(tnm_opencl_event event) {
    int32_t code = subject_opencl_error("clRetainEvent");
    return code ? code : subject_opencl_made(subject_opencl_the.real.RetainEvent(event), &event);
}

static inline int32_t TNM_OPENCL_CALL subject_opencl_let(tnm_opencl_event event) {
    subject_opencl_count(&subject_opencl_the.events, 0);
    return subject_opencl_the.real.ReleaseEvent(event);
}

static inline int32_t TNM_OPENCL_CALL subject_opencl_flush(tnm_opencl_cl_queue queue) {
    int32_t code = subject_opencl_error("clFlush");
    return code ? code : subject_opencl_the.real.Flush(queue);
}

static inline int32_t TNM_OPENCL_CALL subject_opencl_finish(tnm_opencl_cl_queue queue) {
    int32_t code = subject_opencl_error("clFinish");
    return code ? code : subject_opencl_the.real.Finish(queue);
}

static inline void subject_opencl_watch(tnm_opencl *cl) {
    tnm_opencl_api *api = &cl->api;
    subject_opencl_the.real = *api;
    api->CreateBuffer = subject_opencl_create;
    api->CreateSubBuffer = subject_opencl_part;
    api->ReleaseMemObject = subject_opencl_drop;
    api->EnqueueReadBuffer = subject_opencl_read;
    api->EnqueueWriteBuffer = subject_opencl_write;
    api->EnqueueCopyBuffer = subject_opencl_copy;
    api->EnqueueMapBuffer = subject_opencl_map;
    api->EnqueueUnmapMemObject = subject_opencl_unmap;
    api->EnqueueMarkerWithWaitList = subject_opencl_marker;
    api->GetEventInfo = subject_opencl_info;
    api->WaitForEvents = subject_opencl_await;
    api->RetainEvent = subject_opencl_retain;
    api->ReleaseEvent = subject_opencl_let;
    api->Flush = subject_opencl_flush;
    api->Finish = subject_opencl_finish;
}

static inline uint64_t subject_opencl_live(void *user) {
    return ((subject_opencl_world *)user)->buffers;
}

static inline void subject_opencl_fail(void *user, const char *call, int nth, int code) {
    subject_opencl_world *w = (subject_opencl_world *)user;
    w->failing = call;
    w->nth = nth;
    w->code = code ? code : -5; /* CL_OUT_OF_RESOURCES */
}

/* What runs has run when a device is gone: nobody writes any more. */
static inline void subject_opencl_lose(void *user) {
    subject_opencl_world *w = (subject_opencl_world *)user;
    tnm_opencl *both[2] = { w->cl, w->peer };
    for (int i = 0; i < 2; i++)
        if (both[i]) tnm_opencl_quiet(both[i]);
    w->dead = 1;
}

/* ---- a kernel ---- */
static inline int subject_opencl_build(subject_opencl_world *w) {
    static const char source[] =
        "__kernel void add(__global uchar *base, ulong offset, uchar value) {\n"
        "    base[offset + get_global_id(0)] += value;\n"
        "}\n";
    const char *text = source;
    subject_opencl_kernel *k = &w->add;
    tnm_opencl_device_id device = tnm_opencl_device(w->cl);
    int32_t code = 0;
    void *(TNM_OPENCL_CALL * make)(tnm_opencl_cl_context, uint32_t, const char **, const size_t *,
                                   int32_t *);
    int32_t(TNM_OPENCL_CALL * build)(void *, uint32_t, const tnm_opencl_device_id *, const char *,
                                     void *, void *);
    void *(TNM_OPENCL_CALL * kernel)(void *, const char *, int32_t *);
    if (k->kernel) return 1;
    if (!tnm_opencl_find(w->cl, "clCreateProgramWithSource", &make, sizeof make) ||
        !tnm_opencl_find(w->cl, "clBuildProgram", &build, sizeof build) ||
        !tnm_opencl_find(w->cl, "clCreateKernel", &kernel, sizeof kernel) ||
        !tnm_opencl_find(w->cl, "clSetKernelArg", &k->set_arg, sizeof k->set_arg) ||
        !tnm_opencl_find(w->cl, "clEnqueueNDRangeKernel", &k->run, sizeof k->run) ||
        !tnm_opencl_find(w->cl, "clReleaseKernel", &k->release_kernel, sizeof k->release_kernel) ||
        !tnm_opencl_find(w->cl, "clReleaseProgram", &k->release_program, sizeof k->release_program))
        return 0;
    k->program = make(tnm_opencl_context(w->cl), 1, &text, NULL, &code);
    if (!k->program) return 0;
    code = build(k->program, 1, &device, "", NULL, NULL);
    if (code == 0) k->kernel = kernel(k->program, "add", &code);
    return k->kernel != NULL;
}

/* Every other launch is given a buffer of its own, the others the segment and an offset. */
static inline int subject_opencl_work(void *user, uint32_t queue, const tnm_pinned *at,
                                      uint8_t add) {
    subject_opencl_world *w = (subject_opencl_world *)user;
    tnm_opencl_mem base = tnm_opencl_buffer(w->cl, at->mem), sub = NULL;
    uint64_t offset = at->offset;
    size_t n = (size_t)at->bytes;
    if (w->dead || !subject_opencl_build(w)) return 0;
    if (w->launches++ % 2 && offset % tnm_opencl_alignment(w->cl) == 0) {
        sub = tnm_opencl_sub(w->cl, at);
        if (!sub) return 0;
        base = sub;
        offset = 0;
    }
    int good = w->add.set_arg(w->add.kernel, 0, sizeof base, &base) == 0 &&
               w->add.set_arg(w->add.kernel, 1, sizeof offset, &offset) == 0 &&
               w->add.set_arg(w->add.kernel, 2, sizeof add, &add) == 0 &&
               w->add.run(tnm_opencl_queue(w->cl, queue), w->add.kernel, 1, NULL, &n, NULL, 0, NULL,
                          NULL) == 0;
    if (sub) w->cl->api.ReleaseMemObject(sub); /* the runtime keeps it until the kernel has run */
    return good;
}

static inline void subject_opencl_unbuild(subject_opencl_world *w) {
    if (w->add.kernel) w->add.release_kernel(w->add.kernel);
    if (w->add.program) w->add.release_program(w->add.program);
    memset(&w->add, 0, sizeof w->add);
}

/* ---- the runtime's own copy ---- */
#ifdef CLOCK_MONOTONIC
static inline double subject_opencl_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Between pinned places, all queued at once on the queue that our own copies take. */
static inline double subject_opencl_pairs(void *user, int to_device, const tnm_pinned *device,
                                          const tnm_pinned *host, int count) {
    subject_opencl_world *w = (subject_opencl_world *)user;
    tnm_opencl_cl_queue queue = w->cl->way[to_device ? TNM_OPENCL_UP : TNM_OPENCL_DOWN];
    int32_t code = 0;
    double since = subject_opencl_clock();
    for (int i = 0; i < count && code == 0; i++) {
        tnm_opencl_mem buffer = tnm_opencl_buffer(w->cl, device[i].mem);
        size_t at = (size_t)device[i].offset, n = (size_t)device[i].bytes;
        code =
            to_device
                ? w->real.EnqueueWriteBuffer(queue, buffer, 0, at, n, host[i].host, 0, NULL, NULL)
                : w->real.EnqueueReadBuffer(queue, buffer, 0, at, n, host[i].host, 0, NULL, NULL);
    }
    return w->real.Finish(queue) == 0 && code == 0 ? subject_opencl_clock() - since : -1;
}
#else
#    define subject_opencl_pairs NULL
#endif

/* ---- the subject ---- */
static inline uint64_t subject_opencl_mark(void *user, uint32_t queue) {
    return tnm_opencl_mark(((subject_opencl_world *)user)->cl, queue);
}

static inline uint64_t subject_opencl_passed(void *user, uint32_t queue, uint64_t wait_for) {
    return tnm_opencl_passed(((subject_opencl_world *)user)->cl, queue, wait_for);
}

static inline int subject_opencl_again(void *user, conform_subject *out);

static inline int subject_opencl_start(conform_subject *out) {
    static const char *const calls[] = { "clCreateBuffer",
                                         "clEnqueueReadBuffer",
                                         "clEnqueueWriteBuffer",
                                         "clEnqueueCopyBuffer",
                                         "clGetEventInfo",
                                         "clWaitForEvents",
                                         "clFlush",
                                         "clFinish",
                                         SUBJECT_OPENCL_COMMAND,
                                         NULL };
    subject_opencl_world *w = &subject_opencl_the;
    tnm_opencl_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.queues = 2;
    desc.peers = 1;
    if (tnm_opencl_open(&desc, &w->cl) != TNM_OK) return 0;
    desc.peers = 0;
    desc.beside = w->cl;
    desc.device = 1;
    (void)tnm_opencl_open(&desc, &w->peer); /* or the platform has one device only */
    subject_opencl_watch(w->cl);
    if (w->peer) subject_opencl_watch(w->peer);
    memset(out, 0, sizeof *out);
    out->name = "opencl";
    tnm_opencl_backend(w->cl, &out->device);
    tnm_opencl_host(w->cl, &out->host);
    if (w->peer) tnm_opencl_backend(w->peer, &out->peer);
    out->alignment = tnm_opencl_alignment(w->cl);
    out->queues = 2;
    out->passed = subject_opencl_passed;
    out->mark = subject_opencl_mark;
    out->work = subject_opencl_work;
    out->live = subject_opencl_live;
    out->fail = subject_opencl_fail;
    out->lose = subject_opencl_lose;
    out->again = subject_opencl_again;
    out->raw_pairs_s = subject_opencl_pairs;
    out->calls = calls;
    out->user = w;
    out->real = 1;
    return 1;
}

/* How many subjects; 0 = *why there is none. A CPU is shown twice, if that can be had. */
static inline int subject_opencl(conform_subject *out, const char **why) {
#ifndef _WIN32
    setenv("POCL_DEVICES", "pthread pthread", 0);
#endif
    memset(&subject_opencl_the, 0, sizeof subject_opencl_the);
    *why = "";
    if (subject_opencl_start(out)) return 1;
    *why = tnm_opencl_error(NULL);
    return 0;
}

static inline void subject_opencl_end(conform_subject *s) {
    subject_opencl_world *w = (subject_opencl_world *)s->user;
    subject_opencl_unbuild(w);
    tnm_opencl_close(w->peer);
    tnm_opencl_close(w->cl);
    w->peer = w->cl = NULL;
}

static inline int subject_opencl_again(void *user, conform_subject *out) {
    subject_opencl_world *w = (subject_opencl_world *)user;
    conform_subject dead;
    dead.user = w;
    subject_opencl_end(&dead);
    w->dead = w->nth = 0;
    return subject_opencl_start(out);
}

#endif
