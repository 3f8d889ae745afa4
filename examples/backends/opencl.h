/* opencl.h: an OpenCL device as a tier of tensormem. Copy it beside tensormem.h and include it
 * after tensormem.h in one C or C++ file. No SDK is needed to build: the runtime is loaded when a
 * device is opened. It serves whatever has an OpenCL 1.2 driver: GPUs, FPGAs, CPUs through PoCL,
 * which is what it has been run on so far.
 *
 *     tnm_opencl *cl;
 *     tnm_ctx *mem;
 *     tnm_opencl_desc first = { 0 };                     // the first device there is
 *     if (tnm_opencl_open(&first, &cl) != TNM_OK) return puts(tnm_opencl_error(NULL));
 *     tnm_tier_desc tiers[2] = { { .name = "device" }, { .name = "pinned" } };
 *     tnm_opencl_backend(cl, &tiers[0].backend);
 *     tnm_opencl_host(cl, &tiers[1].backend);
 *     tiers[0].budget_bytes = 2ull << 30;
 *     tiers[0].alignment = tnm_opencl_alignment(cl);     // for tnm_opencl_sub
 *     tnm_desc desc = { .tiers = tiers, .tier_count = 2, .user = cl };
 *     desc.passed = tnm_opencl_passed;                   // fences of its compute queues
 *     tnm_create(&desc, &mem);
 *     ... pin, enqueue kernels on tnm_opencl_queue(cl, 0) ...
 *     tnm_unpin(mem, at, n, TNM_FENCE(0, tnm_opencl_mark(cl, 0)));
 *     tnm_destroy(mem);
 *     tnm_opencl_close(cl);
 *
 * Memory. A token is the cl_mem of a whole segment; a pinned tensor is that buffer and an offset.
 * The cheap way to a kernel is an argument for each: (__global uchar *base, ulong offset). A kernel
 * that wants a cl_mem of its own is given tnm_opencl_sub(cl, &at), which the tier's alignment must
 * allow: set it to tnm_opencl_alignment. Your own cl_mem of the same context can be adopted: its
 * token is (uint64_t)(uintptr_t)mem. A segment is touched when it is made, so that a driver which
 * promises memory and has none says so then; what it refuses is a refusal like any other.
 *
 * The host tier is memory the runtime allocates (CL_MEM_ALLOC_HOST_PTR), mapped as long as it
 * lives: page-locked where the driver does that. Copies to and from any other memory are right as
 * well, and as asynchronous as the driver makes them. No kernel may use the host tier's buffers.
 * The bytes of a file below bounce there.
 *
 * Copies run on three in-order queues of our own, one for each direction and one for what stays on
 * the device, so that uploads, downloads and your kernels overlap. Kernels run on the compute
 * queues: `queues` of ours, or yours in desc.compute. A copy that was answered and a fence that has
 * passed are synchronisation points: no event need be carried from one queue to another.
 *
 * Several devices: open the first with `peers`, so that its context holds its whole platform, and
 * the next ones with `beside` = the first. These copy to each other directly; others by staging.
 * There is one tnm_desc.passed: write one that asks tnm_opencl_passed of the device a queue is of,
 * and give each queue a number of its own in TNM_FENCE. So too where desc.user must be yours.
 * Some drivers keep a second copy of a buffer on whichever device of its context touches it: that
 * is outside of every budget, so `peers` is a choice.
 *
 * Threads. The callbacks keep to the rule of [types]: one tnm_opencl serves one context. mark may
 * be called from any thread beside them; all else by one thread at a time, opening and closing by
 * one in the process.
 * Close after tnm_destroy; it waits for copies, not for kernels. At exit the copies are waited for
 * before the runtime goes; whoever destroys and closes later than that only gets his host memory
 * back, and nothing crashes.
 *
 * Errors. A device that is gone answers TNM_ERR_LOST to everything, and its queues are dead. Your
 * context and your queues are retained here; releasing them once too often is beyond our help.
 * What OpenCL calls out of resources is not always a dead device: it is answered BACKEND.
 *
 * Links with -ldl where the C library is old. The library stays loaded for good: drivers have
 * threads that do not survive its going. Not here: images, pipes, shared virtual memory. */
#ifndef TENSORMEM_OPENCL_H
#define TENSORMEM_OPENCL_H

#ifndef TNM_VERSION
#    error "include tensormem.h before opencl.h"
#endif

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#    ifndef WIN32_LEAN_AND_MEAN
#        define WIN32_LEAN_AND_MEAN
#    endif
#    include <windows.h>
#    include <intrin.h>
#    define TNM_OPENCL_CALL __stdcall
#else
#    include <dlfcn.h>
#    define TNM_OPENCL_CALL
#endif

/* ---- what we need of the runtime; after CL/cl.h the handles are its own types ---- */
#ifdef CL_VERSION_1_2
typedef cl_platform_id tnm_opencl_platform_id;
typedef cl_device_id tnm_opencl_device_id;
typedef cl_context tnm_opencl_cl_context;
typedef cl_command_queue tnm_opencl_cl_queue;
typedef cl_mem tnm_opencl_mem;
typedef cl_event tnm_opencl_event;
#else
typedef void *tnm_opencl_platform_id, *tnm_opencl_device_id, *tnm_opencl_cl_context;
typedef void *tnm_opencl_cl_queue, *tnm_opencl_mem, *tnm_opencl_event;
#endif

enum {
    TNM_OPENCL_DEVICE_NOT_AVAILABLE = -2,
    TNM_OPENCL_INVALID_DEVICE = -33,
    TNM_OPENCL_INVALID_CONTEXT = -34,
    TNM_OPENCL_INVALID_QUEUE = -36,
    TNM_OPENCL_DEVICE_MAX_ALLOC = 0x1010,
    TNM_OPENCL_DEVICE_ALIGN = 0x1019, /* in bits */
    TNM_OPENCL_DEVICE_MEMORY = 0x101F,
    TNM_OPENCL_DEVICE_VERSION = 0x102F,
    TNM_OPENCL_DEVICE_FREE_AMD = 0x4039, /* KiB: all that is free, the largest block */
    TNM_OPENCL_CONTEXT_DEVICES = 0x1081,
    TNM_OPENCL_QUEUE_CONTEXT = 0x1090,
    TNM_OPENCL_QUEUE_DEVICE = 0x1091,
    TNM_OPENCL_EVENT_STATUS = 0x11D3,
    TNM_OPENCL_BUFFER_REGION = 0x1220,
    TNM_OPENCL_READ_WRITE = 1,
    TNM_OPENCL_HOST_PTR = 16, /* CL_MEM_ALLOC_HOST_PTR */
    TNM_OPENCL_MAP_BOTH = 3
};
#define TNM_OPENCL_ALL_DEVICES 0xFFFFFFFFu

typedef struct tnm_opencl_region { /* cl_buffer_region */
    size_t origin, size;
} tnm_opencl_region;

typedef void(TNM_OPENCL_CALL *tnm_opencl_notify)(const char *, const void *, size_t, void *);

#define TNM_OPENCL_CALLS(X)                                                                        \
    X(int32_t, GetPlatformIDs, (uint32_t, tnm_opencl_platform_id *, uint32_t *))                   \
    X(int32_t, GetDeviceIDs,                                                                       \
      (tnm_opencl_platform_id, uint64_t, uint32_t, tnm_opencl_device_id *, uint32_t *))            \
    X(int32_t, GetDeviceInfo, (tnm_opencl_device_id, uint32_t, size_t, void *, size_t *))          \
    X(tnm_opencl_cl_context, CreateContext,                                                        \
      (const intptr_t *, uint32_t, const tnm_opencl_device_id *, tnm_opencl_notify, void *,        \
       int32_t *))                                                                                 \
    X(int32_t, RetainContext, (tnm_opencl_cl_context))                                             \
    X(int32_t, ReleaseContext, (tnm_opencl_cl_context))                                            \
    X(int32_t, GetContextInfo, (tnm_opencl_cl_context, uint32_t, size_t, void *, size_t *))        \
    X(tnm_opencl_cl_queue, CreateCommandQueue,                                                     \
      (tnm_opencl_cl_context, tnm_opencl_device_id, uint64_t, int32_t *))                          \
    X(int32_t, RetainCommandQueue, (tnm_opencl_cl_queue))                                          \
    X(int32_t, ReleaseCommandQueue, (tnm_opencl_cl_queue))                                         \
    X(int32_t, GetCommandQueueInfo, (tnm_opencl_cl_queue, uint32_t, size_t, void *, size_t *))     \
    X(tnm_opencl_mem, CreateBuffer, (tnm_opencl_cl_context, uint64_t, size_t, void *, int32_t *))  \
    X(tnm_opencl_mem, CreateSubBuffer,                                                             \
      (tnm_opencl_mem, uint64_t, uint32_t, const void *, int32_t *))                               \
    X(int32_t, ReleaseMemObject, (tnm_opencl_mem))                                                 \
    X(int32_t, EnqueueReadBuffer,                                                                  \
      (tnm_opencl_cl_queue, tnm_opencl_mem, uint32_t, size_t, size_t, void *, uint32_t,            \
       const tnm_opencl_event *, tnm_opencl_event *))                                              \
    X(int32_t, EnqueueWriteBuffer,                                                                 \
      (tnm_opencl_cl_queue, tnm_opencl_mem, uint32_t, size_t, size_t, const void *, uint32_t,      \
       const tnm_opencl_event *, tnm_opencl_event *))                                              \
    X(int32_t, EnqueueCopyBuffer,                                                                  \
      (tnm_opencl_cl_queue, tnm_opencl_mem, tnm_opencl_mem, size_t, size_t, size_t, uint32_t,      \
       const tnm_opencl_event *, tnm_opencl_event *))                                              \
    X(void *, EnqueueMapBuffer,                                                                    \
      (tnm_opencl_cl_queue, tnm_opencl_mem, uint32_t, uint64_t, size_t, size_t, uint32_t,          \
       const tnm_opencl_event *, tnm_opencl_event *, int32_t *))                                   \
    X(int32_t, EnqueueUnmapMemObject,                                                              \
      (tnm_opencl_cl_queue, tnm_opencl_mem, void *, uint32_t, const tnm_opencl_event *,            \
       tnm_opencl_event *))                                                                        \
    X(int32_t, EnqueueMarkerWithWaitList,                                                          \
      (tnm_opencl_cl_queue, uint32_t, const tnm_opencl_event *, tnm_opencl_event *))               \
    X(int32_t, GetEventInfo, (tnm_opencl_event, uint32_t, size_t, void *, size_t *))               \
    X(int32_t, WaitForEvents, (uint32_t, const tnm_opencl_event *))                                \
    X(int32_t, RetainEvent, (tnm_opencl_event))                                                    \
    X(int32_t, ReleaseEvent, (tnm_opencl_event))                                                   \
    X(int32_t, Flush, (tnm_opencl_cl_queue))                                                       \
    X(int32_t, Finish, (tnm_opencl_cl_queue))

#define TNM_OPENCL_MEMBER(result, name, parameters) result(TNM_OPENCL_CALL *name) parameters;
typedef struct tnm_opencl_api {
    TNM_OPENCL_CALLS(TNM_OPENCL_MEMBER)
} tnm_opencl_api;

/* ---- a device ---- */
typedef struct tnm_opencl tnm_opencl; /* one device: its queues, events, memory tokens */

typedef struct tnm_opencl_desc {
    int device;               /* the n-th of all platforms; with `context` or `beside`, the n-th
                                    * of that context */
    const char *library;      /* NULL = the usual names */
    uint32_t queue_depth;     /* copies out at once; 0 = 16 */
    uint32_t queues;          /* compute queues; 0 = 1 */
    int peers;                /* 1: a context of all devices of its platform, to open others */
    const tnm_opencl *beside; /* ... beside this one: copies between the two are direct */
    tnm_opencl_cl_context context; /* yours, instead of one of our own; NULL = that of compute[0] */
    const tnm_opencl_cl_queue *compute; /* `queues` of yours, for one device; NULL = ours */
} tnm_opencl_desc;

enum { TNM_OPENCL_UP, TNM_OPENCL_DOWN, TNM_OPENCL_WITHIN, TNM_OPENCL_WAYS };
enum { TNM_OPENCL_FENCES = 256, TNM_OPENCL_MANY = 64 };

typedef struct tnm_opencl_fences { /* a compute queue and the markers that have not passed */
    tnm_opencl_cl_queue queue;
    tnm_opencl_event event[TNM_OPENCL_FENCES];
    uint64_t value[TNM_OPENCL_FENCES]; /* ascending from `first`, round the end */
    uint32_t first, count;
    uint64_t marked, passed;
    int dead; /* a kernel failed */
} tnm_opencl_fences;

typedef struct tnm_opencl_block { /* a segment of the host tier; the token is its address */
    tnm_opencl_mem mem;
    void *mapped;
} tnm_opencl_block;

struct tnm_opencl {
    tnm_opencl_api api;
    void *library;
    tnm_opencl_device_id device;
    tnm_opencl_cl_context context;
    tnm_opencl_cl_queue way[TNM_OPENCL_WAYS];
    unsigned unsent; /* ways with copies that were not submitted */
    tnm_opencl_event *copies;
    uint32_t depth, next; /* copy slots, and where to look for a free one */
    tnm_opencl_fences *fences;
    uint32_t queues;
    uint64_t total, largest, held; /* bytes: of the device, of one buffer, allocated here */
    uint32_t alignment;
    long lost;    /* the device is gone */
    long fencing; /* locks `fences` and the queues in it: marks have threads of their own */
    long telling; /* locks `error` */
    char error[160];
    struct tnm_opencl *others;
};

/* All that are open, so that a second close is harmless and exit waits for copies. */
static tnm_opencl *tnm_opencl_all;
static long tnm_opencl_exiting; /* the runtime may be gone: it is not called any more */
static char tnm_opencl_why[160];

static inline void tnm_opencl_lock(long *lock) { /* for the time of a few calls */
#ifdef _MSC_VER
    while (_InterlockedExchange(lock, 1) != 0)
        continue;
#else
    while (__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE) != 0)
        continue;
#endif
}

static inline void tnm_opencl_set(long *flag, long value) {
#ifdef _MSC_VER
    _InterlockedExchange(flag, value);
#else
    __atomic_store_n(flag, value, __ATOMIC_RELEASE);
#endif
}

static inline long tnm_opencl_get(const long *flag) {
#ifdef _MSC_VER
    return *(const volatile long *)flag;
#else
    return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
#endif
}

/* ---- errors ---- */
static inline const char *tnm_opencl_code(int32_t code) {
    static const struct {
        int32_t code;
        const char *name;
    } known[] = { { -1, "CL_DEVICE_NOT_FOUND" },
                  { -2, "CL_DEVICE_NOT_AVAILABLE" },
                  { -4, "CL_MEM_OBJECT_ALLOCATION_FAILURE" },
                  { -5, "CL_OUT_OF_RESOURCES" },
                  { -6, "CL_OUT_OF_HOST_MEMORY" },
                  { -13, "CL_MISALIGNED_SUB_BUFFER_OFFSET" },
                  { -14, "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST" },
                  { -30, "CL_INVALID_VALUE" },
                  { -33, "CL_INVALID_DEVICE" },
                  { -34, "CL_INVALID_CONTEXT" },
                  { -36, "CL_INVALID_COMMAND_QUEUE" },
                  { -38, "CL_INVALID_MEM_OBJECT" },
                  { -58, "CL_INVALID_EVENT" },
                  { -61, "CL_INVALID_BUFFER_SIZE" },
                  { -1001, "no platform" } };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].code == code) return known[i].name;
    return "see CL/cl.h";
}

/* Note what the runtime answered; the answer for the engine. */
static inline tnm_result tnm_opencl_fail(tnm_opencl *cl, const char *call, int32_t code) {
    tnm_opencl_lock(&cl->telling);
    snprintf(cl->error, sizeof cl->error, "%s answered %d (%s)", call, (int)code,
             tnm_opencl_code(code));
    tnm_opencl_set(&cl->telling, 0);
    if (code == TNM_OPENCL_DEVICE_NOT_AVAILABLE || code == TNM_OPENCL_INVALID_DEVICE ||
        code == TNM_OPENCL_INVALID_CONTEXT || code == TNM_OPENCL_INVALID_QUEUE)
        tnm_opencl_set(&cl->lost, 1);
    return tnm_opencl_get(&cl->lost) ? TNM_ERR_LOST : TNM_ERR_BACKEND;
}

static inline int tnm_opencl_gone(const tnm_opencl *cl) {
    return tnm_opencl_get(&cl->lost) || tnm_opencl_get(&tnm_opencl_exiting);
}

/* One sentence on the last failure; NULL: of the last open. */
static inline const char *tnm_opencl_error(const tnm_opencl *cl) {
    return cl ? cl->error : tnm_opencl_why;
}

/* ---- events ---- */

/* OK, PENDING, what the command failed with, or BUSY: the runtime cannot say now. Only a wait makes
 * what was written visible to other queues: to have seen that a command is complete does not, says
 * the specification. This one returns at once. */
static inline tnm_result tnm_opencl_look(tnm_opencl *cl, tnm_opencl_event event, const char *what) {
    int32_t status = 0;
    int32_t code =
        cl->api.GetEventInfo(event, TNM_OPENCL_EVENT_STATUS, sizeof status, &status, NULL);
    if (code == 0 && status > 0) return TNM_PENDING;
    if (code == 0 && status < 0) return tnm_opencl_fail(cl, what, status);
    if (code == 0) code = cl->api.WaitForEvents(1, &event);
    if (code == 0) return TNM_OK;
    return tnm_opencl_fail(cl, "a look at an event", code) == TNM_ERR_LOST ? TNM_ERR_LOST
                                                                           : TNM_ERR_BUSY;
}

/* No copy of ours is under way any more. Kernels are their owner's: they may wait for him. */
static inline void tnm_opencl_quiet(tnm_opencl *cl) {
    for (int way = 0; way < TNM_OPENCL_WAYS; way++)
        if (cl->way[way]) (void)cl->api.Finish(cl->way[way]);
}

/* ---- the device tier ---- */

/* Drivers that promise memory first and look for it later are made to look now. */
static inline int32_t tnm_opencl_touch(tnm_opencl *cl, tnm_opencl_mem mem, size_t size) {
    tnm_opencl_cl_queue queue = cl->way[TNM_OPENCL_WITHIN];
    unsigned char zero = 0;
    int32_t code = cl->api.EnqueueWriteBuffer(queue, mem, 1, size - 1, 1, &zero, 0, NULL, NULL);
    return code ? code : cl->api.EnqueueWriteBuffer(queue, mem, 1, 0, 1, &zero, 0, NULL, NULL);
}

static inline tnm_result tnm_opencl_make(tnm_opencl *cl, uint64_t size, uint64_t flags,
                                         tnm_opencl_mem *mem) {
    int32_t code = 0;
    if (tnm_opencl_gone(cl)) return TNM_ERR_LOST;
    if (size > cl->largest || size > SIZE_MAX) {
        tnm_opencl_lock(&cl->telling); /* mark may fail meanwhile */
        snprintf(cl->error, sizeof cl->error, "%llu bytes in one buffer, the device allows %llu",
                 (unsigned long long)size, (unsigned long long)cl->largest);
        tnm_opencl_set(&cl->telling, 0);
        return TNM_ERR_BACKEND;
    }
    *mem = cl->api.CreateBuffer(cl->context, flags, (size_t)size, NULL, &code);
    return *mem && !code ? TNM_OK : tnm_opencl_fail(cl, "clCreateBuffer", code);
}

static inline tnm_result tnm_opencl_alloc(void *user, uint64_t size, uint64_t align, void *item,
                                          uint64_t *token, void **host) {
    tnm_opencl *cl = (tnm_opencl *)user;
    tnm_opencl_mem mem;
    (void)align, (void)item; /* offsets in a buffer are what is aligned; its base is the driver's */
    tnm_result result = tnm_opencl_make(cl, size, TNM_OPENCL_READ_WRITE, &mem);
    if (result != TNM_OK) return result;
    int32_t code = tnm_opencl_touch(cl, mem, (size_t)size);
    if (code) {
        cl->api.ReleaseMemObject(mem);
        return tnm_opencl_fail(cl, "clEnqueueWriteBuffer, into a new buffer,", code);
    }
    cl->held += size;
    *token = (uint64_t)(uintptr_t)mem;
    *host = NULL;
    return TNM_OK;
}

static inline void tnm_opencl_release(void *user, uint64_t token, uint64_t size) {
    tnm_opencl *cl = (tnm_opencl *)user;
    cl->held -= size;
    if (!tnm_opencl_get(&tnm_opencl_exiting))
        cl->api.ReleaseMemObject((tnm_opencl_mem)(uintptr_t)token);
}

static inline uint64_t tnm_opencl_available(void *user) {
    tnm_opencl *cl = (tnm_opencl *)user;
    size_t room[2] = { 0, 0 };
    if (tnm_opencl_gone(cl)) return 0;
    if (cl->api.GetDeviceInfo(cl->device, TNM_OPENCL_DEVICE_FREE_AMD, sizeof room, room, NULL) == 0)
        return (uint64_t)room[0] << 10;
    return cl->total > cl->held ? cl->total - cl->held : 0;
}

static inline tnm_result tnm_opencl_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                         uint64_t size, uint64_t *ticket);

/* The buffer at one end of a copy if it is of this context; else NULL. */
static inline tnm_opencl_mem tnm_opencl_reach(const tnm_opencl *cl, const tnm_span *span) {
    if (!span->backend || span->backend->copy != tnm_opencl_copy) return NULL;
    const tnm_opencl *owner = (const tnm_opencl *)span->backend->user;
    return owner->context == cl->context ? (tnm_opencl_mem)(uintptr_t)span->mem : NULL;
}

static inline tnm_result tnm_opencl_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                         uint64_t size, uint64_t *ticket) {
    tnm_opencl *cl = (tnm_opencl *)user;
    tnm_opencl_mem to = tnm_opencl_reach(cl, dst), from = tnm_opencl_reach(cl, src);
    static const char *const call[] = { "clEnqueueWriteBuffer", "clEnqueueReadBuffer",
                                        "clEnqueueCopyBuffer" };
    size_t n = (size_t)size, at = (size_t)dst->offset, begin = (size_t)src->offset;
    int32_t code;
    if (tnm_opencl_gone(cl)) return TNM_ERR_LOST;
    if (!(to || from) || !(to || dst->host) || !(from || src->host)) return TNM_ERR_UNSUPPORTED;
    uint32_t slot = cl->next, looked = 0;
    for (; cl->copies[slot]; slot = slot + 1 == cl->depth ? 0 : slot + 1)
        if (++looked == cl->depth) return TNM_ERR_BUSY;
    int way = to && from ? TNM_OPENCL_WITHIN : to ? TNM_OPENCL_UP : TNM_OPENCL_DOWN;
    tnm_opencl_cl_queue queue = cl->way[way];
    tnm_opencl_event *event = &cl->copies[slot];
    if (to && from)
        code = cl->api.EnqueueCopyBuffer(queue, from, to, begin, at, n, 0, NULL, event);
    else if (to)
        code = cl->api.EnqueueWriteBuffer(queue, to, 0, at, n, src->host, 0, NULL, event);
    else
        code = cl->api.EnqueueReadBuffer(queue, from, 0, begin, n, dst->host, 0, NULL, event);
    if (code) {
        *event = NULL;
        return tnm_opencl_fail(cl, call[way], code);
    }
    cl->unsent |= 1u << way;
    cl->next = slot + 1 == cl->depth ? 0 : slot + 1;
    *ticket = (uint64_t)slot + 1;
    return TNM_PENDING;
}

static inline void tnm_opencl_submit(void *user) {
    tnm_opencl *cl = (tnm_opencl *)user;
    for (int way = 0; way < TNM_OPENCL_WAYS && !tnm_opencl_gone(cl); way++) {
        if ((cl->unsent & (1u << way)) == 0) continue;
        int32_t code = cl->api.Flush(cl->way[way]);
        if (code == 0) cl->unsent &= ~(1u << way); /* else the next poll tries again */
        if (code) (void)tnm_opencl_fail(cl, "clFlush", code);
    }
}

static inline tnm_result tnm_opencl_poll(void *user, uint64_t ticket) {
    tnm_opencl *cl = (tnm_opencl *)user;
    tnm_result result = TNM_ERR_LOST;
    if (ticket - 1 >= cl->depth || !cl->copies[ticket - 1]) return TNM_ERR_ARGUMENT;
    tnm_opencl_event *event = &cl->copies[ticket - 1];
    if (cl->unsent) tnm_opencl_submit(cl);
    if (!tnm_opencl_gone(cl)) result = tnm_opencl_look(cl, *event, "a copy");
    if (result == TNM_PENDING) return result;
    if (!tnm_opencl_get(&tnm_opencl_exiting)) {
        /* an error promises that the copy is over: where the runtime did not say so, see to it */
        if (result == TNM_ERR_BUSY || result == TNM_ERR_LOST) tnm_opencl_quiet(cl);
        cl->api.ReleaseEvent(*event);
    }
    if (result == TNM_ERR_BUSY) result = TNM_ERR_BACKEND;
    *event = NULL;
    return result;
}

static inline tnm_result tnm_opencl_wait(void *user, uint64_t ticket) {
    tnm_opencl *cl = (tnm_opencl *)user;
    if (ticket - 1 < cl->depth && cl->copies[ticket - 1] && !tnm_opencl_gone(cl))
        (void)cl->api.WaitForEvents(1, &cl->copies[ticket - 1]); /* the poll says how it ended */
    return tnm_opencl_poll(user, ticket);
}

/* The device tier. */
static inline void tnm_opencl_backend(tnm_opencl *cl, tnm_backend *out) {
    memset(out, 0, sizeof *out);
    out->alloc = tnm_opencl_alloc;
    out->release = tnm_opencl_release;
    out->copy = tnm_opencl_copy;
    out->submit = tnm_opencl_submit;
    out->poll = tnm_opencl_poll;
    out->wait = tnm_opencl_wait;
    out->available = tnm_opencl_available;
    out->user = cl;
}

/* ---- the host tier ---- */
static inline void tnm_opencl_unmap(tnm_opencl *cl, const tnm_opencl_block *block) {
    tnm_opencl_cl_queue queue = cl->way[TNM_OPENCL_WITHIN];
    if (cl->api.EnqueueUnmapMemObject(queue, block->mem, block->mapped, 0, NULL, NULL) == 0)
        (void)cl->api.Finish(queue); /* it is given back when we return */
    cl->api.ReleaseMemObject(block->mem);
}

static inline tnm_result tnm_opencl_map(tnm_opencl *cl, uint64_t size, tnm_opencl_block *block) {
    int32_t code = 0;
    tnm_result result =
        tnm_opencl_make(cl, size, TNM_OPENCL_READ_WRITE | TNM_OPENCL_HOST_PTR, &block->mem);
    if (result != TNM_OK) return result;
    block->mapped =
        cl->api.EnqueueMapBuffer(cl->way[TNM_OPENCL_WITHIN], block->mem, 1, TNM_OPENCL_MAP_BOTH, 0,
                                 (size_t)size, 0, NULL, NULL, &code);
    if (block->mapped && !code) return TNM_OK;
    cl->api.ReleaseMemObject(block->mem);
    return tnm_opencl_fail(cl, "clEnqueueMapBuffer", code);
}

/* Drivers align large memory to pages; one that does not is asked for more. */
static inline tnm_result tnm_opencl_host_alloc(void *user, uint64_t size, uint64_t align,
                                               void *item, uint64_t *token, void **host) {
    tnm_opencl *cl = (tnm_opencl *)user;
    tnm_opencl_block *block = (tnm_opencl_block *)calloc(1, sizeof *block);
    (void)item;
    if (!block) return TNM_ERR_MEMORY;
    tnm_result result = tnm_opencl_map(cl, size, block);
    uint64_t past = (uint64_t)(uintptr_t)block->mapped & (align - 1);
    if (result == TNM_OK && past) {
        tnm_opencl_unmap(cl, block);
        result = tnm_opencl_map(cl, size + align, block); /* no overflow: size was to be had */
        past = (uint64_t)(uintptr_t)block->mapped & (align - 1);
    }
    if (result != TNM_OK) {
        free(block);
        return result;
    }
    *token = (uint64_t)(uintptr_t)block;
    *host = (char *)block->mapped + (size_t)(past ? align - past : 0);
    return TNM_OK;
}

static inline void tnm_opencl_host_release(void *user, uint64_t token, uint64_t size) {
    tnm_opencl_block *block = (tnm_opencl_block *)(uintptr_t)token;
    (void)size;
    if (!tnm_opencl_get(&tnm_opencl_exiting)) tnm_opencl_unmap((tnm_opencl *)user, block);
    free(block);
}

/* From memory to memory. What goes to a device or comes from one is that device's business. */
static inline tnm_result tnm_opencl_host_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                              uint64_t size, uint64_t *ticket) {
    (void)user, (void)ticket;
    if (!dst->host || !src->host) return TNM_ERR_UNSUPPORTED;
    if (tnm_opencl_get(&tnm_opencl_exiting)) return TNM_ERR_LOST;
    memcpy(dst->host, src->host, (size_t)size);
    return TNM_OK;
}

/* The host tier beside it: memory that the runtime copies from fastest. */
static inline void tnm_opencl_host(tnm_opencl *cl, tnm_backend *out) {
    memset(out, 0, sizeof *out);
    out->alloc = tnm_opencl_host_alloc;
    out->release = tnm_opencl_host_release;
    out->copy = tnm_opencl_host_copy;
    out->user = cl;
    out->host_visible = 1;
}

/* ---- fences ---- */

/* Let go of the markers that have passed. Under the lock. */
static inline void tnm_opencl_reap(tnm_opencl *cl, tnm_opencl_fences *f) {
    while (f->count > 0) {
        tnm_result result = tnm_opencl_look(cl, f->event[f->first], "a kernel");
        if (result == TNM_PENDING || result == TNM_ERR_BUSY) return;
        if (result != TNM_OK) f->dead = 1;
        if (result == TNM_OK) f->passed = f->value[f->first];
        cl->api.ReleaseEvent(f->event[f->first]);
        f->first = (f->first + 1) % TNM_OPENCL_FENCES;
        f->count--;
    }
}

/* A fence value behind everything queued on that queue so far, which is flushed. 0 = failed: as
 * a fence it is refused and the pin stays, so finish the queue, then unpin with fence 0. */
static inline uint64_t tnm_opencl_mark(tnm_opencl *cl, uint32_t queue) {
    tnm_opencl_event event = NULL;
    uint64_t value = 0;
    if (queue >= cl->queues || tnm_opencl_gone(cl)) return 0;
    tnm_opencl_fences *f = &cl->fences[queue];
    tnm_opencl_lock(&cl->fencing);
    int32_t code = cl->api.EnqueueMarkerWithWaitList(f->queue, 0, NULL, &event);
    if (!code) code = cl->api.Flush(f->queue);
    if (code) {
        (void)tnm_opencl_fail(cl, "clEnqueueMarkerWithWaitList", code);
        if (event) cl->api.ReleaseEvent(event);
    } else {
        if (f->count == TNM_OPENCL_FENCES) tnm_opencl_reap(cl, f);
        if (f->count == TNM_OPENCL_FENCES) /* the newest stands for the one before it as well */
            cl->api.ReleaseEvent(f->event[(f->first + --f->count) % TNM_OPENCL_FENCES]);
        uint32_t at = (f->first + f->count++) % TNM_OPENCL_FENCES;
        f->event[at] = event;
        value = f->value[at] = ++f->marked;
    }
    tnm_opencl_set(&cl->fencing, 0);
    return value;
}

/* Sleeps only if wait_for was marked and has not passed. For tnm_desc.passed, user = the device. */
static inline uint64_t tnm_opencl_passed(void *user, uint32_t queue, uint64_t wait_for) {
    tnm_opencl *cl = (tnm_opencl *)user;
    tnm_opencl_event event = NULL;
    if (queue >= cl->queues || tnm_opencl_gone(cl)) return UINT64_MAX;
    tnm_opencl_fences *f = &cl->fences[queue];
    tnm_opencl_lock(&cl->fencing);
    tnm_opencl_reap(cl, f);
    for (uint32_t i = 0; i < f->count && f->passed < wait_for && !event; i++) {
        uint32_t at = (f->first + i) % TNM_OPENCL_FENCES;
        if (f->value[at] >= wait_for && cl->api.RetainEvent(f->event[at]) == 0)
            event = f->event[at];
    }
    if (event) { /* slept for outside the lock: others may mark meanwhile */
        tnm_opencl_set(&cl->fencing, 0);
        (void)cl->api.WaitForEvents(1, &event);
        cl->api.ReleaseEvent(event);
        tnm_opencl_lock(&cl->fencing);
        tnm_opencl_reap(cl, f);
    }
    uint64_t passed = f->dead || tnm_opencl_get(&cl->lost) ? UINT64_MAX : f->passed;
    tnm_opencl_set(&cl->fencing, 0);
    return passed;
}

/* ---- for whoever writes kernels ---- */

/* The buffer a pinned tensor of the device tier lies in, at at->offset. */
static inline tnm_opencl_mem tnm_opencl_buffer(const tnm_opencl *cl, uint64_t mem) {
    (void)cl;
    return (tnm_opencl_mem)(uintptr_t)mem;
}

/* A cl_mem of exactly the pinned bytes, or NULL: then the offset is no multiple of the alignment.
 * Release it with clReleaseMemObject as soon as the kernels that use it are queued. */
static inline tnm_opencl_mem tnm_opencl_sub(tnm_opencl *cl, const tnm_pinned *at) {
    tnm_opencl_region region;
    int32_t code = 0;
    if (tnm_opencl_gone(cl)) return NULL;
    region.origin = (size_t)at->offset;
    region.size = (size_t)at->bytes;
    tnm_opencl_mem sub =
        cl->api.CreateSubBuffer((tnm_opencl_mem)(uintptr_t)at->mem, TNM_OPENCL_READ_WRITE,
                                TNM_OPENCL_BUFFER_REGION, &region, &code);
    if (code) (void)tnm_opencl_fail(cl, "clCreateSubBuffer", code);
    return code ? NULL : sub;
}

/* For tnm_tier_desc.alignment: what sub-buffers must start on. */
static inline uint32_t tnm_opencl_alignment(const tnm_opencl *cl) {
    return cl->alignment;
}

static inline tnm_opencl_cl_context tnm_opencl_context(const tnm_opencl *cl) {
    return cl->context;
}

static inline tnm_opencl_device_id tnm_opencl_device(const tnm_opencl *cl) {
    return cl->device;
}

/* Compute queue `queue`; what `mark` and `passed` call by the same number. */
static inline tnm_opencl_cl_queue tnm_opencl_queue(const tnm_opencl *cl, uint32_t queue) {
    return queue < cl->queues ? cl->fences[queue].queue : NULL;
}

/* Any function of the loaded library: int32_t (*create)(...); tnm_opencl_find(cl, "clFinish",
 * &create, sizeof create). 0 = it has none of that name. */
static inline int tnm_opencl_find(const tnm_opencl *cl, const char *name, void *out, size_t size) {
#ifdef _WIN32
    FARPROC found = GetProcAddress((HMODULE)cl->library, name);
#else
    void *found = dlsym(cl->library, name);
#endif
    memset(out, 0, size);
    if (!found || size != sizeof found) return 0;
    memcpy(out, &found, size); /* ISO C has no cast from an object to a function */
    return 1;
}

/* ---- open and close ---- */

/* The library stays, however open ends. */
static inline tnm_result tnm_opencl_load(tnm_opencl *cl, const char *name) {
#ifdef _WIN32
    static const char *const usual[] = { "OpenCL.dll" };
#elif defined(__APPLE__)
    static const char *const usual[] = { "/System/Library/Frameworks/OpenCL.framework/OpenCL" };
#else
    static const char *const usual[] = { "libOpenCL.so.1", "libOpenCL.so" };
#endif
    const char *missing = NULL;
    for (size_t i = 0; i < sizeof usual / sizeof usual[0] && !cl->library; i++) {
        const char *file = name ? name : usual[i];
#ifdef _WIN32
        cl->library = (void *)LoadLibraryA(file);
#else
        cl->library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
#endif
    }
    if (!cl->library) {
        snprintf(cl->error, sizeof cl->error, "no library %s", name ? name : usual[0]);
        return TNM_ERR_UNSUPPORTED;
    }
#define TNM_OPENCL_LOAD(result, name, parameters)                                                  \
    if (!missing && !tnm_opencl_find(cl, "cl" #name, &cl->api.name, sizeof cl->api.name))          \
        missing = "cl" #name;
    TNM_OPENCL_CALLS(TNM_OPENCL_LOAD)
#undef TNM_OPENCL_LOAD
    if (!missing) return TNM_OK;
    snprintf(cl->error, sizeof cl->error, "%s has no %s", name ? name : usual[0], missing);
    return TNM_ERR_UNSUPPORTED;
}

/* The n-th device of all platforms: `all` gets its platform's, their number is the answer, and
 * *device its place among them. 0 = there are fewer. */
static inline uint32_t tnm_opencl_choose(tnm_opencl *cl, int *device, tnm_opencl_device_id *all) {
    tnm_opencl_platform_id platform[TNM_OPENCL_MANY];
    uint32_t platforms = 0, seen = 0, wanted = *device < 0 ? UINT32_MAX : (uint32_t)*device;
    int32_t code = cl->api.GetPlatformIDs(TNM_OPENCL_MANY, platform, &platforms);
    for (uint32_t p = 0; !code && p < platforms && p < TNM_OPENCL_MANY; p++) {
        uint32_t n = 0;
        if (cl->api.GetDeviceIDs(platform[p], TNM_OPENCL_ALL_DEVICES, TNM_OPENCL_MANY, all, &n))
            continue; /* a platform without a device says so by an error */
        if (n > TNM_OPENCL_MANY) n = TNM_OPENCL_MANY;
        if (wanted - seen < n && wanted >= seen) {
            *device = (int)(wanted - seen);
            return n;
        }
        seen += n;
    }
    snprintf(cl->error, sizeof cl->error, "OpenCL shows %u devices, there is no device %d",
             (unsigned)seen, *device);
    return 0;
}

/* The context and the device: the caller's, a sibling's, or one of our own. */
static inline tnm_result tnm_opencl_settle(tnm_opencl *cl, const tnm_opencl_desc *desc) {
    tnm_opencl_device_id all[TNM_OPENCL_MANY];
    tnm_opencl_cl_context given = desc->beside ? desc->beside->context : desc->context;
    int32_t code = 0;
    size_t bytes = 0;
    int nth = desc->device;
    if (desc->compute && !given)
        code = cl->api.GetCommandQueueInfo(desc->compute[0], TNM_OPENCL_QUEUE_CONTEXT, sizeof given,
                                           &given, NULL);
    if (code) return tnm_opencl_fail(cl, "clGetCommandQueueInfo", code);
    if (!given) {
        uint32_t n = tnm_opencl_choose(cl, &nth, all);
        if (n == 0) return TNM_ERR_UNSUPPORTED;
        cl->device = all[nth];
        cl->context = cl->api.CreateContext(NULL, desc->peers ? n : 1,
                                            desc->peers ? all : &cl->device, NULL, NULL, &code);
        return cl->context && !code ? TNM_OK : tnm_opencl_fail(cl, "clCreateContext", code);
    }
    code = cl->api.GetContextInfo(given, TNM_OPENCL_CONTEXT_DEVICES, sizeof all, all, &bytes);
    if (code || (code = cl->api.RetainContext(given)) != 0)
        return tnm_opencl_fail(cl, "clRetainContext", code);
    cl->context = given;
    if (desc->compute) {
        code = cl->api.GetCommandQueueInfo(desc->compute[0], TNM_OPENCL_QUEUE_DEVICE,
                                           sizeof cl->device, &cl->device, NULL);
        return code ? tnm_opencl_fail(cl, "clGetCommandQueueInfo", code) : TNM_OK;
    }
    if (nth >= 0 && (size_t)nth < bytes / sizeof all[0]) {
        cl->device = all[nth];
        return TNM_OK;
    }
    snprintf(cl->error, sizeof cl->error, "that context has %u devices, there is no device %d",
             (unsigned)(bytes / sizeof all[0]), nth);
    return TNM_ERR_UNSUPPORTED;
}

static inline tnm_result tnm_opencl_measure(tnm_opencl *cl) {
    char version[64] = "";
    uint32_t bits = 0;
    int32_t code = cl->api.GetDeviceInfo(cl->device, TNM_OPENCL_DEVICE_MEMORY, sizeof cl->total,
                                         &cl->total, NULL);
    if (!code)
        code = cl->api.GetDeviceInfo(cl->device, TNM_OPENCL_DEVICE_MAX_ALLOC, sizeof cl->largest,
                                     &cl->largest, NULL);
    if (!code)
        code = cl->api.GetDeviceInfo(cl->device, TNM_OPENCL_DEVICE_ALIGN, sizeof bits, &bits, NULL);
    if (!code) /* longer than that: an error, and not from the days of 1.0 */
        (void)cl->api.GetDeviceInfo(cl->device, TNM_OPENCL_DEVICE_VERSION, sizeof version - 1,
                                    version, NULL);
    if (code) return tnm_opencl_fail(cl, "clGetDeviceInfo", code);
    cl->alignment = bits / 8 ? bits / 8 : 1;
    if (strncmp(version, "OpenCL 1.0", 10) && strncmp(version, "OpenCL 1.1", 10)) return TNM_OK;
    snprintf(cl->error, sizeof cl->error, "the device has %.40s, needed is 1.2", version);
    return TNM_ERR_UNSUPPORTED;
}

/* A compute queue of the caller's; it must be of this context and this device. */
static inline tnm_result tnm_opencl_take(tnm_opencl *cl, tnm_opencl_cl_queue queue) {
    tnm_opencl_cl_context context = NULL;
    tnm_opencl_device_id device = NULL;
    int32_t code = cl->api.GetCommandQueueInfo(queue, TNM_OPENCL_QUEUE_CONTEXT, sizeof context,
                                               &context, NULL);
    if (!code)
        code = cl->api.GetCommandQueueInfo(queue, TNM_OPENCL_QUEUE_DEVICE, sizeof device, &device,
                                           NULL);
    if (!code && (context != cl->context || device != cl->device)) {
        snprintf(cl->error, sizeof cl->error, "compute queue %u is of another context or device",
                 (unsigned)cl->queues);
        return TNM_ERR_ARGUMENT;
    }
    if (!code) code = cl->api.RetainCommandQueue(queue);
    if (code) return tnm_opencl_fail(cl, "clRetainCommandQueue", code);
    cl->fences[cl->queues++].queue = queue;
    return TNM_OK;
}

static inline tnm_result tnm_opencl_equip(tnm_opencl *cl, const tnm_opencl_desc *desc) {
    tnm_result result = TNM_OK;
    int32_t code = 0;
    uint32_t queues = desc->queues ? desc->queues : 1;
    cl->depth = desc->queue_depth ? desc->queue_depth : 16;
    cl->copies = (tnm_opencl_event *)calloc(cl->depth, sizeof *cl->copies);
    cl->fences = (tnm_opencl_fences *)calloc(queues, sizeof *cl->fences);
    if (!cl->copies || !cl->fences) {
        snprintf(cl->error, sizeof cl->error, "no memory");
        return TNM_ERR_MEMORY;
    }
    for (int way = 0; way < TNM_OPENCL_WAYS && !code; way++)
        cl->way[way] = cl->api.CreateCommandQueue(cl->context, cl->device, 0, &code);
    while (cl->queues < queues && !code && result == TNM_OK) {
        if (desc->compute)
            result = tnm_opencl_take(cl, desc->compute[cl->queues]);
        else
            cl->fences[cl->queues++].queue =
                cl->api.CreateCommandQueue(cl->context, cl->device, 0, &code);
    }
    return code ? tnm_opencl_fail(cl, "clCreateCommandQueue", code) : result;
}

/* The end of all calls into the runtime but one: what it gave is given back. */
static inline void tnm_opencl_dismantle(tnm_opencl *cl) {
    for (uint32_t i = 0; cl->copies && i < cl->depth; i++)
        if (cl->copies[i]) cl->api.ReleaseEvent(cl->copies[i]);
    for (uint32_t q = 0; cl->fences && q < cl->queues; q++) {
        tnm_opencl_fences *f = &cl->fences[q];
        for (; f->count > 0; f->count--, f->first = (f->first + 1) % TNM_OPENCL_FENCES)
            cl->api.ReleaseEvent(f->event[f->first]);
        if (f->queue) cl->api.ReleaseCommandQueue(f->queue);
    }
    for (int way = 0; way < TNM_OPENCL_WAYS; way++)
        if (cl->way[way]) cl->api.ReleaseCommandQueue(cl->way[way]);
    if (cl->context) cl->api.ReleaseContext(cl->context);
}

/* Registered after the runtime was woken, so it runs before the runtime's own farewell. */
static inline void tnm_opencl_at_exit(void) {
    for (tnm_opencl *cl = tnm_opencl_all; cl; cl = cl->others)
        tnm_opencl_quiet(cl);
    tnm_opencl_set(&tnm_opencl_exiting, 1);
}

/* After tnm_destroy. Waits for what is under way. NULL, and what is closed already, do nothing. */
static inline void tnm_opencl_close(tnm_opencl *cl) {
    tnm_opencl **at = &tnm_opencl_all;
    while (*at && *at != cl)
        at = &(*at)->others;
    if (!cl || !*at) return;
    *at = cl->others;
    if (!tnm_opencl_get(&tnm_opencl_exiting)) {
        tnm_opencl_quiet(cl);
        tnm_opencl_dismantle(cl);
    }
    free(cl->copies);
    free(cl->fences);
    free(cl);
}

/* TNM_ERR_UNSUPPORTED: no library or no such device; tnm_opencl_error(NULL) says. */
static inline tnm_result tnm_opencl_open(const tnm_opencl_desc *desc, tnm_opencl **out) {
    static int watched;
    tnm_opencl_desc none;
    tnm_result result = TNM_ERR_UNSUPPORTED;
    memset(&none, 0, sizeof none);
    if (!desc) desc = &none;
    *out = NULL;
    tnm_opencl *cl = (tnm_opencl *)calloc(1, sizeof *cl);
    if (!cl) {
        snprintf(tnm_opencl_why, sizeof tnm_opencl_why, "no memory");
        return TNM_ERR_MEMORY;
    }
    if (tnm_opencl_get(&tnm_opencl_exiting))
        snprintf(cl->error, sizeof cl->error, "the program is exiting");
    else
        result = tnm_opencl_load(cl, desc->library);
    if (result == TNM_OK) result = tnm_opencl_settle(cl, desc);
    if (result == TNM_OK && !watched) watched = atexit(tnm_opencl_at_exit) == 0;
    if (result == TNM_OK) result = tnm_opencl_measure(cl);
    if (result == TNM_OK) result = tnm_opencl_equip(cl, desc);
    cl->others = tnm_opencl_all; /* listed, so that close finds it */
    tnm_opencl_all = cl;
    memcpy(tnm_opencl_why, cl->error, sizeof tnm_opencl_why);
    if (result == TNM_OK)
        *out = cl;
    else
        tnm_opencl_close(cl);
    return result;
}

#endif /* TENSORMEM_OPENCL_H */
