/* cuda.h: tensormem on NVIDIA devices, by the CUDA driver API. Copy it beside tensormem.h.
 *
 * No toolkit is needed to build: what it calls is declared here and looked up at run time in
 * libcuda.so.1 (nvcuda.dll), which comes with the driver. Older C libraries want -ldl. NVIDIA has a
 * cuda.h too: keep this one's folder off the include path of who wants that, or rename it.
 *
 * It has been run on a stand-in for the driver (tests/standin_cuda.c), not yet on a device.
 *
 *     #include "tensormem.h"
 *     #include "cuda.h"
 *
 *     tnm_cuda *gpu;
 *     tnm_ctx *mem;
 *     tnm_cuda_desc which = {0};                                    // the first device
 *     if (tnm_cuda_open(&which, &gpu) < 0) return puts(tnm_cuda_error(NULL));
 *     tnm_tier_desc tiers[2] = {{.name = "gpu", .budget_bytes = 4000000000}, {.name = "host"}};
 *     tnm_desc desc = {.tiers = tiers, .tier_count = 2, .user = gpu, .passed = tnm_cuda_passed};
 *     tnm_cuda_backend(gpu, &tiers[0].backend);
 *     tnm_cuda_host(gpu, &tiers[1].backend);                        // page-locked
 *     if (tnm_create(&desc, &mem) < 0) ...
 *     tnm_pin(mem, &use, 1, &at);
 *     launch(tnm_cuda_pointer(&at), tnm_cuda_queue(gpu, 0));        // yours, asynchronous
 *     tnm_unpin(mem, &at, 1, TNM_FENCE(0, tnm_cuda_mark(gpu, 0)));  // its place is kept until then
 *     ...
 *     tnm_destroy(mem);
 *     tnm_cuda_close(gpu);
 *
 * Copies run on three streams of our own (up, down, within and between devices) that wait for no
 * other stream, so they overlap with kernels; what is pinned is what orders them. A run of copies
 * goes out as one batch where the driver has cuMemcpyBatchAsync_v2 (CUDA 13), with one event that
 * is the ticket of them all.
 *
 * The context is the device's primary one, which the runtime API (cudaMalloc, PyTorch) uses too, or
 * yours (desc.context). Each callback pushes it and pops it again: the calling thread's current
 * context stays as it was.
 *
 * Page-locked memory. Only from and to such memory does the driver copy in the background:
 * tnm_cuda_host gives it, and what you adopt may be registered (cuMemHostRegister, each range in
 * one piece). Copies of pageable memory are made at once and waited for, as the driver does it: so
 * for the memory of tnm_read and tnm_write. Adopted pageable memory (a mapped model) of more than
 * 64 KiB a chunk goes through the context's staging instead as soon as tnm_cuda_host was taken: the
 * CPU then copies into page-locked memory at its own speed, and the device fetches it while kernels
 * run. So go the bytes of a file below.
 *
 * One memory (tnm_cuda_is_unified). TNM_CUDA_ONE_MEMORY, as on Jetson: copies between device and
 * host would be copies within one memory. Leave the device tier out, make the fastest tier of
 * tnm_cuda_host, and hand at.host to your kernels. TNM_CUDA_ONE_SPACE, as on Grace Hopper: two
 * memories of different speed that see each other; keep both tiers, and know that a kernel may also
 * read at.host of the lower one.
 *
 * Graphs: a stream that you capture must not be marked, and calls that allocate or wait (pin, pump)
 * stay out of the capture, or it may fail. What a graph names stays pinned while it is launched.
 *
 * Several devices: one tnm_cuda each. Their backends recognise each other and copy directly where
 * the devices can, else the driver does it by way of the host. A page-locked tier serves them all.
 * There is one tnm_desc.passed: write one that asks tnm_cuda_passed of the device a queue is of,
 * and give each queue a number of its own in TNM_FENCE. So too where desc.user must be yours.
 *
 * Threads: one tnm_cuda belongs to one context (open another for another: they share the device's
 * primary context). tnm_cuda_mark may run beside everything else, by one thread at a time.
 *
 * Errors: out of memory is a refusal. A broken device (illegal address, ECC, launch failure, the
 * context destroyed: the codes that CUDA documents to stay) is TNM_ERR_LOST everywhere and
 * UINT64_MAX from tnm_cuda_passed. Everything else is TNM_ERR_BACKEND, its name and number in
 * tnm_cuda_error; where it hides how a copy ended, that copy stays PENDING until the driver says.
 *
 * What it does not do: reset a broken device (cuDevicePrimaryCtxReset, for all who use it, is
 * yours; until then its memory stays taken), managed memory, memory pools, sharing between
 * processes, launching kernels. The driver library is never unloaded: it does not survive that. */
#ifndef TENSORMEM_CUDA_H
#define TENSORMEM_CUDA_H

#ifndef TNM_VERSION
#    error "include tensormem.h before cuda.h"
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#    include <windows.h>
#    define TNM_CUDA_API __stdcall
#else
#    include <dlfcn.h>
#    define TNM_CUDA_API
#endif

typedef struct tnm_cuda tnm_cuda; /* one device: its streams and events */
typedef uintptr_t tnm_cuda_ptr;   /* CUdeviceptr; also the token of device memory */

typedef struct tnm_cuda_desc {
    int device;            /* the n-th that the driver shows; ignored with a context */
    const char *library;   /* NULL = the driver's */
    uint32_t queue_depth;  /* copies out at once, at most 256; 0 = 16 */
    void *context;         /* your CUcontext, which outlives this; NULL = the primary one */
    void *const *streams;  /* your compute streams (CUstream): fence queues 0 .. */
    uint32_t stream_count; /* how many, at most 16; without `streams` made here, 0 = 1 */
} tnm_cuda_desc;

enum { TNM_CUDA_TWO_MEMORIES, TNM_CUDA_ONE_MEMORY, TNM_CUDA_ONE_SPACE };

enum {
    TNM_CUDA_UP, /* lanes: host to device, device to host, device to device */
    TNM_CUDA_DOWN,
    TNM_CUDA_ACROSS,
    TNM_CUDA_LANES,
    TNM_CUDA_DEPTH = 256,
    TNM_CUDA_QUEUES = 16,
    TNM_CUDA_MARKS = 256, /* fences outstanding in a queue */
    TNM_CUDA_PEERS = 16,
    TNM_CUDA_SMALL = 64 << 10, /* pageable memory that is not worth staging */
    TNM_CUDA_TRIES = 8,        /* of a call that must not be left undone */
    TNM_CUDA_NOT_READY = 600,  /* CUDA_ERROR_NOT_READY */
    TNM_CUDA_CAPTURING = 900   /* .._STREAM_CAPTURE_UNSUPPORTED */
};

/* ---- the driver: result 0 is success; suffixed names where the plain one is an older ABI ---- */
typedef struct tnm_cuda_where { /* CUmemLocation */
    int type, id;
} tnm_cuda_where;

typedef struct tnm_cuda_manner { /* CUmemcpyAttributes */
    int order;                   /* 1 = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM */
    tnm_cuda_where from, to;     /* hints for managed memory; zero = none */
    unsigned flags;
} tnm_cuda_manner;

#define TNM_CUDA_CALLS(X)                                                                          \
    X(init, cuInit, (unsigned flags))                                                              \
    X(count, cuDeviceGetCount, (int *count))                                                       \
    X(get, cuDeviceGet, (int *device, int ordinal))                                                \
    X(attribute, cuDeviceGetAttribute, (int *value, int attribute, int device))                    \
    X(retain, cuDevicePrimaryCtxRetain, (void **context, int device))                              \
    X(let_go, cuDevicePrimaryCtxRelease_v2, (int device))                                          \
    X(push, cuCtxPushCurrent_v2, (void *context))                                                  \
    X(pop, cuCtxPopCurrent_v2, (void **context))                                                   \
    X(whose, cuCtxGetDevice, (int *device))                                                        \
    X(error_name, cuGetErrorName, (int code, const char **name))                                   \
    X(mem_info, cuMemGetInfo_v2, (size_t * available, size_t * total))                             \
    X(mem_alloc, cuMemAlloc_v2, (tnm_cuda_ptr * mem, size_t bytes))                                \
    X(mem_range, cuMemGetAddressRange_v2, (tnm_cuda_ptr * base, size_t * bytes, tnm_cuda_ptr at))  \
    X(mem_free, cuMemFree_v2, (tnm_cuda_ptr base))                                                 \
    X(host_alloc, cuMemHostAlloc, (void **host, size_t bytes, unsigned flags))                     \
    X(host_free, cuMemFreeHost, (void *host))                                                      \
    X(pointer, cuPointerGetAttribute, (void *value, int attribute, tnm_cuda_ptr at))               \
    X(stream_create, cuStreamCreate, (void **stream, unsigned flags))                              \
    X(stream_query, cuStreamQuery, (void *stream))                                                 \
    X(stream_wait, cuStreamSynchronize, (void *stream))                                            \
    X(stream_destroy, cuStreamDestroy_v2, (void *stream))                                          \
    X(event_create, cuEventCreate, (void **event, unsigned flags))                                 \
    X(event_record, cuEventRecord, (void *event, void *stream))                                    \
    X(event_query, cuEventQuery, (void *event))                                                    \
    X(event_wait, cuEventSynchronize, (void *event))                                               \
    X(event_destroy, cuEventDestroy_v2, (void *event))                                             \
    X(copy_up, cuMemcpyHtoDAsync_v2,                                                               \
      (tnm_cuda_ptr to, const void *from, size_t bytes, void *stream))                             \
    X(copy_down, cuMemcpyDtoHAsync_v2, (void *to, tnm_cuda_ptr from, size_t bytes, void *stream))  \
    X(copy_within, cuMemcpyDtoDAsync_v2,                                                           \
      (tnm_cuda_ptr to, tnm_cuda_ptr from, size_t bytes, void *stream))                            \
    X(copy_peer, cuMemcpyPeerAsync,                                                                \
      (tnm_cuda_ptr to, void *to_context, tnm_cuda_ptr from, void *from_context, size_t bytes,     \
       void *stream))                                                                              \
    X(peer_can, cuDeviceCanAccessPeer, (int *can, int device, int peer))                           \
    X(peer_enable, cuCtxEnablePeerAccess, (void *context, unsigned flags))

typedef struct tnm_cuda_driver {
#define TNM_CUDA_DECLARE(name, symbol, args) int(TNM_CUDA_API * name) args;
    TNM_CUDA_CALLS(TNM_CUDA_DECLARE)
#undef TNM_CUDA_DECLARE
    /* cuMemcpyBatchAsync_v2, NULL where the driver is older than CUDA 13 */
    int(TNM_CUDA_API *copy_batch)(tnm_cuda_ptr *to, tnm_cuda_ptr *from, size_t *bytes, size_t count,
                                  tnm_cuda_manner *manner, size_t *first_of_manner, size_t manners,
                                  void *stream);
    int(TNM_CUDA_API *is_captured)(void *stream, int *status); /* NULL before CUDA 10 */
} tnm_cuda_driver;

typedef struct tnm_cuda_lane { /* a stream, and the copies that wait for the doorbell */
    void *stream;
    uint32_t open; /* the batch they belong to, + 1; 0 = none waits */
    uint32_t count;
    tnm_cuda_ptr to[TNM_CUDA_DEPTH], from[TNM_CUDA_DEPTH];
    size_t bytes[TNM_CUDA_DEPTH];
    tnm_cuda *other[TNM_CUDA_DEPTH]; /* the sibling whose memory `from` is, or NULL */
} tnm_cuda_lane;

typedef enum tnm_cuda_state {
    TNM_CUDA_FREE, /* nobody waits for it; the last answer stands */
    TNM_CUDA_OPEN, /* copies may be added */
    TNM_CUDA_OUT,  /* on the stream, its event behind them */
    TNM_CUDA_DARK, /* on the stream without an event: only the stream says when they have ended */
    TNM_CUDA_ENDED /* the answer is known and has not been told */
} tnm_cuda_state;

typedef struct tnm_cuda_batch { /* copies with one ticket */
    void *event;
    uint64_t ticket;
    uint32_t count;
    int lane;
    tnm_cuda_state state;
    tnm_result answer;
} tnm_cuda_batch;

struct tnm_cuda {
    tnm_cuda_driver cu;
    int device, retained, unified, host_taken;
    int lost; /* shared with tnm_cuda_mark, like `marked` and `said` */
    int gone; /* the context is no more: no call into the driver is safe */
    void *context;
    void *peers[TNM_CUDA_PEERS]; /* contexts whose memory we asked to reach */
    uint32_t peer_count;
    uint32_t depth, out, strikes;
    uint64_t tickets;
    tnm_cuda_lane lane[TNM_CUDA_LANES];
    tnm_cuda_batch batch[TNM_CUDA_DEPTH];
    uint32_t queues;
    int queues_made;
    void *queue[TNM_CUDA_QUEUES];
    void *mark[TNM_CUDA_QUEUES][TNM_CUDA_MARKS]; /* events: fence v is at v % TNM_CUDA_MARKS */
    uint64_t marked[TNM_CUDA_QUEUES], seen[TNM_CUDA_QUEUES];
    char error[2][200]; /* of the callbacks, of tnm_cuda_mark */
    int said;           /* which of them is the later one */
};

static char tnm_cuda_open_error[200];

#if defined(__GNUC__)
#    define TNM_CUDA_GET(at)        __atomic_load_n(at, __ATOMIC_ACQUIRE)
#    define TNM_CUDA_PUT(at, value) __atomic_store_n(at, value, __ATOMIC_RELEASE)
#else /* MSVC on x86 and x64: a volatile access is an acquire or a release */
#    define TNM_CUDA_GET(at)        (*(at))
#    define TNM_CUDA_PUT(at, value) (*(at) = (value))
#endif

/* ---- errors ---- */
static inline int tnm_cuda_is_fatal(int code) {
    static const short fatal[] = { 4,   201, 214, 220, 226, 700, 702, 709, 710,
                                   714, 715, 716, 717, 718, 719, 721, 810 };
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++)
        if (code == fatal[i]) return 1;
    return 0;
}

/* What a code means for the caller; the sentence goes to `page` of the error texts. */
static inline tnm_result tnm_cuda_blame(tnm_cuda *rt, int page, int code, const char *call) {
    const char *name = NULL;
    if (code == 0) return TNM_OK;
    if (rt->cu.error_name(code, &name) != 0 || !name) name = "unknown error";
    snprintf(rt->error[page], sizeof rt->error[page], "%s failed: %s (%d)", call, name, code);
    TNM_CUDA_PUT(&rt->said, page);
    if (tnm_cuda_is_fatal(code)) {
        if (code == 4 || code == 201 || code == 709) TNM_CUDA_PUT(&rt->gone, code);
        TNM_CUDA_PUT(&rt->lost, 1);
        return TNM_ERR_LOST;
    }
    return code == 2 ? TNM_ERR_MEMORY : TNM_ERR_BACKEND;
}

static inline tnm_result tnm_cuda_judge(tnm_cuda *rt, int code, const char *call) {
    return tnm_cuda_blame(rt, 0, code, call);
}

static inline const char *tnm_cuda_error(const tnm_cuda *rt) {
    return rt ? rt->error[TNM_CUDA_GET(&rt->said)] : tnm_cuda_open_error;
}

/* Our context on top of the calling thread's stack; 0 = it is, and must be left again. */
static inline int tnm_cuda_enter(tnm_cuda *rt) {
    int gone = TNM_CUDA_GET(&rt->gone);
    return gone ? gone : rt->cu.push(rt->context);
}

static inline void tnm_cuda_leave(tnm_cuda *rt) {
    void *ours;
    (void)rt->cu.pop(&ours);
}

/* For what must not be left undone. */
static inline int tnm_cuda_insist(tnm_cuda *rt) {
    int code = tnm_cuda_enter(rt);
    for (int i = 1; code && !tnm_cuda_is_fatal(code) && i < TNM_CUDA_TRIES; i++)
        code = tnm_cuda_enter(rt);
    return code;
}

/* Wait until nothing of a stream runs. OK, LOST, or PENDING: no end can be learnt at present. Only
 * the runtime's own word says that a device is gone; errors of the call, such as those of a stream
 * that is being captured, do not, however often they come. */
static inline tnm_result tnm_cuda_settle(tnm_cuda *rt, void *stream) {
    for (int i = 0; i < TNM_CUDA_TRIES; i++) {
        int code = rt->cu.stream_wait(stream);
        tnm_result r = tnm_cuda_judge(rt, code, "cuStreamSynchronize");
        if (r == TNM_OK || r == TNM_ERR_LOST) return r;
    }
    return TNM_PENDING;
}

/* ---- device memory ---- */
static inline tnm_result tnm_cuda_alloc(void *user, uint64_t size, uint64_t align, void *item,
                                        uint64_t *mem, void **host) {
    tnm_cuda *rt = (tnm_cuda *)user;
    tnm_cuda_ptr base = 0, mask = (tnm_cuda_ptr)align - 1;
    (void)item;
    *host = NULL;
    if (TNM_CUDA_GET(&rt->lost)) return TNM_ERR_LOST;
    if (size > SIZE_MAX / 2 || align > SIZE_MAX / 2) return TNM_ERR_MEMORY;
    int code = tnm_cuda_enter(rt);
    if (code) return tnm_cuda_judge(rt, code, "cuCtxPushCurrent");
    code = rt->cu.mem_alloc(&base, (size_t)size);
    if (!code && (base & mask)) { /* 256 is promised; more is paid for */
        (void)rt->cu.mem_free(base);
        code = rt->cu.mem_alloc(&base, (size_t)(size + align));
    }
    tnm_cuda_leave(rt);
    *mem = (base + mask) & ~mask;
    return tnm_cuda_judge(rt, code, "cuMemAlloc");
}

static inline void tnm_cuda_release(void *user, uint64_t mem, uint64_t size) {
    tnm_cuda *rt = (tnm_cuda *)user;
    tnm_cuda_ptr base = 0;
    size_t bytes = 0;
    (void)size;
    if (tnm_cuda_insist(rt)) return; /* the context is gone, and the memory with it */
    int code = rt->cu.mem_range(&base, &bytes, (tnm_cuda_ptr)mem); /* the token may lie inside */
    for (int i = 1; code && !tnm_cuda_is_fatal(code) && i < TNM_CUDA_TRIES; i++)
        code = rt->cu.mem_range(&base, &bytes, (tnm_cuda_ptr)mem);
    if (!code) code = rt->cu.mem_free(base);
    tnm_cuda_leave(rt);
    (void)tnm_cuda_judge(rt, code, "cuMemGetAddressRange or cuMemFree");
}

static inline uint64_t tnm_cuda_available(void *user) {
    tnm_cuda *rt = (tnm_cuda *)user;
    size_t available = 0, total = 0;
    if (TNM_CUDA_GET(&rt->lost) || tnm_cuda_enter(rt)) return 0;
    if (rt->cu.mem_info(&available, &total)) available = 0;
    tnm_cuda_leave(rt);
    return available;
}

/* ---- page-locked memory ---- */
static inline tnm_result tnm_cuda_host_alloc(void *user, uint64_t size, uint64_t align, void *item,
                                             uint64_t *mem, void **host) {
    tnm_cuda *rt = (tnm_cuda *)user;
    void *at = NULL;
    uintptr_t mask = (uintptr_t)align - 1;
    (void)item;
    if (size > SIZE_MAX / 2 || align > SIZE_MAX / 2) return TNM_ERR_MEMORY;
    int code = tnm_cuda_enter(rt);
    if (code) return tnm_cuda_judge(rt, code, "cuCtxPushCurrent");
    code = rt->cu.host_alloc(&at, (size_t)size, 1); /* CU_MEMHOSTALLOC_PORTABLE: for all devices */
    if (!code && ((uintptr_t)at & mask)) {          /* no alignment is promised: it is paid for */
        (void)rt->cu.host_free(at);
        code = rt->cu.host_alloc(&at, (size_t)(size + align), 1);
    }
    tnm_cuda_leave(rt);
    *mem = (uint64_t)(uintptr_t)at; /* the token to free; where the bytes begin is *host */
    *host = code ? NULL : (void *)(((uintptr_t)at + mask) & ~mask);
    return tnm_cuda_judge(rt, code, "cuMemHostAlloc");
}

static inline void tnm_cuda_host_release(void *user, uint64_t mem, uint64_t size) {
    tnm_cuda *rt = (tnm_cuda *)user;
    (void)size;
    if (tnm_cuda_insist(rt)) return;
    int code = rt->cu.host_free((void *)(uintptr_t)mem);
    tnm_cuda_leave(rt);
    (void)tnm_cuda_judge(rt, code, "cuMemFreeHost");
}

/* Between host and host only: what touches a device is asked of that device. */
static inline tnm_result tnm_cuda_host_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                            uint64_t size, uint64_t *ticket) {
    (void)user, (void)ticket;
    if (!dst->host || !src->host) return TNM_ERR_UNSUPPORTED;
    if (size > SIZE_MAX / 2) return TNM_ERR_BACKEND;
    memcpy(dst->host, src->host, (size_t)size);
    return TNM_OK;
}

/* ---- copies ---- */
static inline tnm_result tnm_cuda_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                       uint64_t size, uint64_t *ticket);

/* The device whose memory this is, or NULL. */
static inline tnm_cuda *tnm_cuda_of(const tnm_span *span) {
    int ours = span->backend && span->backend->copy == tnm_cuda_copy;
    return ours ? (tnm_cuda *)span->backend->user : NULL;
}

/* Is this byte of host memory page-locked? The context is ours. */
static inline int tnm_cuda_knows(tnm_cuda *rt, const void *at) {
    unsigned type = 0; /* 2 = CU_POINTER_ATTRIBUTE_MEMORY_TYPE, 1 = CU_MEMORYTYPE_HOST */
    return rt->cu.pointer(&type, 2, (tnm_cuda_ptr)at) == 0 && type == 1;
}

static inline int tnm_cuda_is_locked(tnm_cuda *rt, const tnm_span *span, size_t size) {
    if (!span->adopted && span->backend && span->backend->copy == tnm_cuda_host_copy) return 1;
    return tnm_cuda_knows(rt, span->host) && tnm_cuda_knows(rt, (char *)span->host + size - 1);
}

/* Ask once for a direct way to a sibling's memory. Without it the driver goes through the host. */
static inline void tnm_cuda_befriend(tnm_cuda *rt, const tnm_cuda *other) {
    int can = 0;
    for (uint32_t i = 0; i < rt->peer_count; i++)
        if (rt->peers[i] == other->context) return;
    if (rt->peer_count == TNM_CUDA_PEERS) return;
    rt->peers[rt->peer_count++] = other->context;
    if (rt->device == other->device) return;
    if (rt->cu.peer_can(&can, rt->device, other->device) == 0 && can)
        (void)rt->cu.peer_enable(other->context, 0); /* somebody else may have done it: no matter */
}

/* Put one copy on its stream. */
static inline int tnm_cuda_issue(tnm_cuda *rt, int lane, tnm_cuda_ptr to, tnm_cuda_ptr from,
                                 size_t bytes, tnm_cuda *other) {
    void *stream = rt->lane[lane].stream;
    if (lane == TNM_CUDA_UP) return rt->cu.copy_up(to, (const void *)from, bytes, stream);
    if (lane == TNM_CUDA_DOWN) return rt->cu.copy_down((void *)to, from, bytes, stream);
    if (!other) return rt->cu.copy_within(to, from, bytes, stream);
    tnm_cuda_befriend(rt, other);
    int code = rt->cu.copy_peer(to, rt->context, from, other->context, bytes, stream);
    if (!tnm_cuda_is_fatal(code)) return code;
    int own = rt->cu.stream_query(stream);                    /* which of the two died? */
    return own == 0 || own == TNM_CUDA_NOT_READY ? 217 : own; /* 217: no way to the peer */
}

static inline const char *tnm_cuda_lane_name(int lane) {
    static const char *const name[] = { "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync",
                                        "cuMemcpyDtoDAsync or cuMemcpyPeerAsync" };
    return name[lane];
}

/* A batch of a lane that nobody has yet. There is one: each that is out holds a copy at least. */
static inline uint32_t tnm_cuda_fresh(tnm_cuda *rt, int lane, tnm_cuda_state state) {
    uint32_t slot = 0;
    while (rt->batch[slot].state != TNM_CUDA_FREE)
        slot++;
    tnm_cuda_batch *fresh = &rt->batch[slot];
    fresh->ticket = ++rt->tickets * TNM_CUDA_DEPTH + slot;
    fresh->state = state;
    fresh->lane = lane;
    fresh->count = 0;
    return slot;
}

/* Pageable memory: the driver's own way, waited for, here if that can be done. */
static inline tnm_result tnm_cuda_copy_now(tnm_cuda *rt, int lane, tnm_cuda_ptr to,
                                           tnm_cuda_ptr from, size_t bytes, uint64_t *ticket) {
    int code = tnm_cuda_issue(rt, lane, to, from, bytes, NULL);
    tnm_result r = tnm_cuda_judge(rt, code, tnm_cuda_lane_name(lane));
    tnm_result end = r == TNM_ERR_LOST ? r : tnm_cuda_settle(rt, rt->lane[lane].stream);
    if (end != TNM_PENDING) return end == TNM_OK ? r : end;
    tnm_cuda_batch *batch = &rt->batch[tnm_cuda_fresh(rt, lane, TNM_CUDA_DARK)];
    batch->answer = r;
    batch->count = 1;
    rt->out++;
    *ticket = batch->ticket;
    return TNM_PENDING;
}

/* Add a copy to the lane's open batch. */
static inline uint64_t tnm_cuda_add(tnm_cuda *rt, int which, tnm_cuda_ptr to, tnm_cuda_ptr from,
                                    size_t bytes, tnm_cuda *other) {
    tnm_cuda_lane *lane = &rt->lane[which];
    if (!lane->open) {
        lane->open = tnm_cuda_fresh(rt, which, TNM_CUDA_OPEN) + 1;
        lane->count = 0;
    }
    tnm_cuda_batch *batch = &rt->batch[lane->open - 1];
    lane->to[lane->count] = to;
    lane->from[lane->count] = from;
    lane->bytes[lane->count] = bytes;
    lane->other[lane->count++] = other;
    batch->count++;
    rt->out++;
    return batch->ticket;
}

static inline tnm_result tnm_cuda_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                       uint64_t size, uint64_t *ticket) {
    tnm_cuda *rt = (tnm_cuda *)user, *to = tnm_cuda_of(dst), *from = tnm_cuda_of(src);
    const tnm_span *end = to ? src : dst; /* the one in host memory, if one is */
    int lane = !from ? TNM_CUDA_UP : !to ? TNM_CUDA_DOWN : TNM_CUDA_ACROSS;
    if (TNM_CUDA_GET(&rt->lost)) return TNM_ERR_LOST;
    if (to ? to != rt : from != rt) return TNM_ERR_UNSUPPORTED;
    if (to && from ? TNM_CUDA_GET(&from->lost) || from->cu.init != rt->cu.init : !end->host)
        return TNM_ERR_UNSUPPORTED;
    if (size > SIZE_MAX / 2) return TNM_ERR_BACKEND;
    if (rt->out == rt->depth) return TNM_ERR_BUSY;
    tnm_cuda_ptr a = to ? (tnm_cuda_ptr)(dst->mem + dst->offset) : (tnm_cuda_ptr)dst->host;
    tnm_cuda_ptr b = from ? (tnm_cuda_ptr)(src->mem + src->offset) : (tnm_cuda_ptr)src->host;
    if (lane != TNM_CUDA_ACROSS) {
        int code = tnm_cuda_enter(rt);
        tnm_result r = tnm_cuda_judge(rt, code, "cuCtxPushCurrent");
        if (r != TNM_OK) return r;
        int locked = tnm_cuda_is_locked(rt, end, (size_t)size);
        int staged = !locked && end->adopted && rt->host_taken && size > TNM_CUDA_SMALL;
        if (!locked && !staged) r = tnm_cuda_copy_now(rt, lane, a, b, (size_t)size, ticket);
        tnm_cuda_leave(rt);
        if (staged) return TNM_ERR_UNSUPPORTED;
        if (!locked) return r;
    }
    *ticket = tnm_cuda_add(rt, lane, a, b, (size_t)size, from && from != rt ? from : NULL);
    return TNM_PENDING;
}

/* The doorbell of one lane; the context is ours. A driver that refuses a batch gets the copies one
 * by one: what it took of them already is copied twice, which changes nothing. */
static inline void tnm_cuda_ring(tnm_cuda *rt, int which) {
    tnm_cuda_lane *lane = &rt->lane[which];
    tnm_cuda_batch *batch = &rt->batch[lane->open - 1];
    tnm_cuda_manner manner = { 1, { 0, 0 }, { 0, 0 }, 0 };
    size_t first = 0;
    int code = -1;
    if (rt->cu.copy_batch && lane->count > 1 && which != TNM_CUDA_ACROSS) {
        code = rt->cu.copy_batch(lane->to, lane->from, lane->bytes, lane->count, &manner, &first, 1,
                                 lane->stream);
        if (code) rt->cu.copy_batch = NULL;
    }
    for (uint32_t i = 0; code && i < lane->count; i++) {
        int one =
            tnm_cuda_issue(rt, which, lane->to[i], lane->from[i], lane->bytes[i], lane->other[i]);
        if (one || i + 1 == lane->count) {
            code = one;
            break;
        }
    }
    batch->answer = tnm_cuda_judge(rt, code, tnm_cuda_lane_name(which));
    batch->state = TNM_CUDA_OUT;
    lane->open = 0;
    if (!code) {
        code = rt->cu.event_record(batch->event, lane->stream);
        (void)tnm_cuda_judge(rt, code, "cuEventRecord");
    }
    if (!code) return;
    /* a failed ticket promises that nothing of it still runs */
    tnm_result end = TNM_CUDA_GET(&rt->lost) ? TNM_ERR_LOST : tnm_cuda_settle(rt, lane->stream);
    batch->state = end == TNM_PENDING ? TNM_CUDA_DARK : TNM_CUDA_ENDED;
    if (end < 0) batch->answer = end;
}

static inline void tnm_cuda_submit(void *user) {
    tnm_cuda *rt = (tnm_cuda *)user;
    int lost = TNM_CUDA_GET(&rt->lost); /* then what was to be copied may be gone already */
    int code = lost ? 0 : tnm_cuda_enter(rt);
    for (int i = 0; i < TNM_CUDA_LANES; i++) {
        if (!rt->lane[i].open) continue;
        if (!lost && !code) {
            tnm_cuda_ring(rt, i);
            continue;
        }
        tnm_cuda_batch *batch = &rt->batch[rt->lane[i].open - 1];
        batch->answer = lost ? TNM_ERR_LOST : tnm_cuda_judge(rt, code, "cuCtxPushCurrent");
        batch->state = TNM_CUDA_ENDED;
        rt->lane[i].open = 0;
    }
    if (!lost && !code) tnm_cuda_leave(rt);
}

/* What an event says about the work before it, or the stream if there is none: OK, PENDING or LOST.
 * An answer that says nothing about the work is no answer: it is asked again. */
static inline tnm_result tnm_cuda_ask(tnm_cuda *rt, void *event, void *stream, int wait) {
    int code = tnm_cuda_enter(rt), in = !code;
    const char *call = wait ? "cuEventSynchronize" : "cuEventQuery";
    if (in && event)
        code = wait ? rt->cu.event_wait(event) : rt->cu.event_query(event);
    else if (in)
        code = wait ? rt->cu.stream_wait(stream) : rt->cu.stream_query(stream);
    tnm_result r = TNM_PENDING;
    if (code != TNM_CUDA_NOT_READY) r = tnm_cuda_judge(rt, code, in ? call : "cuCtxPushCurrent");
    if (r == TNM_OK || r == TNM_PENDING) {
        rt->strikes = 0;
    } else if (r != TNM_ERR_LOST) {
        r = TNM_PENDING;
        if (++rt->strikes % TNM_CUDA_TRIES == 0 && in) r = tnm_cuda_settle(rt, stream);
    }
    if (in) tnm_cuda_leave(rt);
    return r;
}

static inline tnm_result tnm_cuda_end(tnm_cuda *rt, uint64_t ticket, int wait) {
    tnm_cuda_batch *batch = &rt->batch[ticket % TNM_CUDA_DEPTH];
    if (batch->ticket != ticket) return TNM_ERR_BACKEND; /* not ours, or answered long ago */
    if (batch->state == TNM_CUDA_FREE) return batch->answer;
    if (batch->state == TNM_CUDA_OPEN) tnm_cuda_submit(rt);
    tnm_result r = batch->answer;
    if (batch->state != TNM_CUDA_ENDED) {
        void *event = batch->state == TNM_CUDA_OUT ? batch->event : NULL;
        r = tnm_cuda_ask(rt, event, rt->lane[batch->lane].stream, wait);
        if (r == TNM_OK) r = batch->answer;
    }
    if (TNM_CUDA_GET(&rt->lost)) r = TNM_ERR_LOST;
    if (r == TNM_PENDING) return r;
    batch->answer = r;
    batch->state = TNM_CUDA_FREE;
    rt->out -= batch->count;
    return r;
}

static inline tnm_result tnm_cuda_poll(void *user, uint64_t ticket) {
    return tnm_cuda_end((tnm_cuda *)user, ticket, 0);
}

static inline tnm_result tnm_cuda_wait(void *user, uint64_t ticket) {
    return tnm_cuda_end((tnm_cuda *)user, ticket, 1);
}

static inline void tnm_cuda_backend(tnm_cuda *rt, tnm_backend *out) {
    memset(out, 0, sizeof *out);
    out->alloc = tnm_cuda_alloc;
    out->release = tnm_cuda_release;
    out->copy = tnm_cuda_copy;
    out->submit = tnm_cuda_submit;
    out->poll = tnm_cuda_poll;
    out->wait = tnm_cuda_wait;
    out->available = tnm_cuda_available;
    out->user = rt;
}

static inline void tnm_cuda_host(tnm_cuda *rt, tnm_backend *out) {
    memset(out, 0, sizeof *out);
    out->alloc = tnm_cuda_host_alloc;
    out->release = tnm_cuda_host_release;
    out->copy = tnm_cuda_host_copy;
    out->user = rt;
    out->host_visible = 1;
    rt->host_taken = 1;
}

/* ---- fences: the n-th mark of a queue is fence value n ---- */
/* What is recorded while a stream is captured goes into the graph: it says nothing of what runs. */
static inline int tnm_cuda_record(tnm_cuda *rt, void *event, void *stream) {
    int captured = 0, code = 0;
    if (rt->cu.is_captured) code = rt->cu.is_captured(stream, &captured);
    if (!code && captured) code = TNM_CUDA_CAPTURING;
    return code ? code : rt->cu.event_record(event, stream);
}

/* A value behind all work queued there so far. Waits while 256 are outstanding. 0 = failed, as it
 * does while the stream is captured: as a fence it is refused and the pin stays, so wait for the
 * stream, then unpin with fence 0. */
static inline uint64_t tnm_cuda_mark(tnm_cuda *rt, uint32_t queue) {
    if (queue >= rt->queues || TNM_CUDA_GET(&rt->lost)) return 0;
    uint64_t value = rt->marked[queue] + 1;
    void *event = rt->mark[queue][value % TNM_CUDA_MARKS];
    int code = tnm_cuda_enter(rt);
    if (tnm_cuda_blame(rt, 1, code, "cuCtxPushCurrent") != TNM_OK) return 0;
    if (value > TNM_CUDA_MARKS) code = rt->cu.event_wait(event);
    if (!code) code = tnm_cuda_record(rt, event, rt->queue[queue]);
    tnm_cuda_leave(rt);
    if (tnm_cuda_blame(rt, 1, code, "cuEventRecord") != TNM_OK) return 0;
    TNM_CUDA_PUT(&rt->marked[queue], value);
    return value;
}

/* For tnm_desc.passed. An event that tnm_cuda_mark records anew meanwhile passes later, not
 * earlier. */
static inline uint64_t tnm_cuda_passed(void *user, uint32_t queue, uint64_t wait_for) {
    tnm_cuda *rt = (tnm_cuda *)user;
    tnm_result r = TNM_OK;
    if (queue >= rt->queues) return UINT64_MAX;
    uint64_t marked = TNM_CUDA_GET(&rt->marked[queue]);
    while (r == TNM_OK && rt->seen[queue] < marked && !TNM_CUDA_GET(&rt->lost)) {
        uint64_t next = rt->seen[queue] + 1; /* waiting for one is waiting for all before it */
        if (wait_for > next && wait_for <= marked) next = wait_for;
        r = tnm_cuda_ask(rt, rt->mark[queue][next % TNM_CUDA_MARKS], rt->queue[queue],
                         wait_for >= next);
        if (r == TNM_OK) rt->seen[queue] = next;
    }
    return TNM_CUDA_GET(&rt->lost) ? UINT64_MAX : rt->seen[queue];
}

/* ---- for whoever launches kernels ---- */
static inline tnm_cuda_ptr tnm_cuda_pointer(const tnm_pinned *at) { /* of the device tier */
    return (tnm_cuda_ptr)(at->mem + at->offset);
}

static inline void *tnm_cuda_queue(const tnm_cuda *rt, uint32_t queue) { /* a CUstream */
    return queue < rt->queues ? rt->queue[queue] : NULL;
}

static inline void *tnm_cuda_context(const tnm_cuda *rt) { /* the CUcontext */
    return rt->context;
}

static inline int tnm_cuda_is_unified(const tnm_cuda *rt) { /* TNM_CUDA_TWO_MEMORIES .. */
    return rt->unified;
}

/* ---- open and close ---- */
static inline void *tnm_cuda_symbol(void *library, const char *name) {
#ifdef _WIN32
    void *at = NULL;
    FARPROC found = GetProcAddress((HMODULE)library, name);
    memcpy(&at, &found, sizeof at);
    return at;
#else
    return dlsym(library, name);
#endif
}

static inline void *tnm_cuda_library(const char *name) {
#ifdef _WIN32
    return (void *)LoadLibraryA(name ? name : "nvcuda.dll");
#else
    return dlopen(name ? name : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
#endif
}

static inline tnm_result tnm_cuda_load(tnm_cuda *rt, const char *name) {
    void *library = tnm_cuda_library(name), *at;
    if (!library) {
        snprintf(rt->error[0], sizeof rt->error[0], "the CUDA driver %s cannot be loaded",
                 name ? name : "libcuda.so.1 (nvcuda.dll)");
        return TNM_ERR_UNSUPPORTED;
    }
#define TNM_CUDA_FIND(member, symbol, args)                                                        \
    at = tnm_cuda_symbol(library, #symbol);                                                        \
    if (!at) {                                                                                     \
        snprintf(rt->error[0], sizeof rt->error[0], "%s has no function %s",                       \
                 name ? name : "the CUDA driver", #symbol);                                        \
        return TNM_ERR_UNSUPPORTED;                                                                \
    }                                                                                              \
    memcpy(&rt->cu.member, &at, sizeof at);
    TNM_CUDA_CALLS(TNM_CUDA_FIND)
#undef TNM_CUDA_FIND
    at = tnm_cuda_symbol(library, "cuMemcpyBatchAsync_v2");
    memcpy(&rt->cu.copy_batch, &at, sizeof at);
    at = tnm_cuda_symbol(library, "cuStreamIsCapturing");
    memcpy(&rt->cu.is_captured, &at, sizeof at);
    return TNM_OK;
}

/* The device and its context, which is left current. */
static inline tnm_result tnm_cuda_choose(tnm_cuda *rt, const tnm_cuda_desc *desc) {
    int code = rt->cu.init(0), count = 0;
    if (!code) code = rt->cu.count(&count);
    int absent = !desc->context && !code && (desc->device < 0 || desc->device >= count);
    if (code == 100 || absent) { /* 100 = CUDA_ERROR_NO_DEVICE */
        snprintf(rt->error[0], sizeof rt->error[0],
                 "the CUDA driver shows %d devices: no number %d", count, desc->device);
        return TNM_ERR_UNSUPPORTED;
    }
    if (code) return tnm_cuda_judge(rt, code, "cuInit or cuDeviceGetCount");
    rt->context = desc->context;
    if (!rt->context) {
        code = rt->cu.get(&rt->device, desc->device);
        if (!code) code = rt->cu.retain(&rt->context, rt->device);
        rt->retained = !code;
        if (code) return tnm_cuda_judge(rt, code, "cuDevicePrimaryCtxRetain");
    }
    code = tnm_cuda_enter(rt);
    return tnm_cuda_judge(rt, code, "cuCtxPushCurrent");
}

/* Streams and events. The context is ours. */
static inline tnm_result tnm_cuda_equip(tnm_cuda *rt, const tnm_cuda_desc *desc) {
    int code = rt->cu.whose(&rt->device), one = 0, space = 0;
    if (!code) code = rt->cu.attribute(&one, 18, rt->device);    /* INTEGRATED */
    if (!code) code = rt->cu.attribute(&space, 100, rt->device); /* .._USES_HOST_PAGE_TABLES */
    if (code) return tnm_cuda_judge(rt, code, "cuDeviceGetAttribute");
    rt->unified = one ? TNM_CUDA_ONE_MEMORY : space ? TNM_CUDA_ONE_SPACE : TNM_CUDA_TWO_MEMORIES;
    for (int i = 0; !code && i < TNM_CUDA_LANES; i++)
        code = rt->cu.stream_create(&rt->lane[i].stream, 1); /* CU_STREAM_NON_BLOCKING */
    for (uint32_t q = 0; !code && q < rt->queues; q++) {
        if (desc->streams)
            rt->queue[q] = desc->streams[q];
        else
            code = rt->cu.stream_create(&rt->queue[q], 1);
    }
    if (code) return tnm_cuda_judge(rt, code, "cuStreamCreate");
    for (uint32_t i = 0; !code && i < rt->depth; i++)
        code = rt->cu.event_create(&rt->batch[i].event, 2); /* CU_EVENT_DISABLE_TIMING */
    for (uint32_t i = 0; !code && i < rt->queues * TNM_CUDA_MARKS; i++)
        code = rt->cu.event_create(&rt->mark[i / TNM_CUDA_MARKS][i % TNM_CUDA_MARKS], 2);
    return tnm_cuda_judge(rt, code, "cuEventCreate");
}

/* After tnm_destroy. What still runs is waited for. */
static inline void tnm_cuda_close(tnm_cuda *rt) {
    if (!rt) return;
    if (rt->context && !tnm_cuda_insist(rt)) {
        for (int i = 0; i < TNM_CUDA_LANES; i++)
            if (rt->lane[i].stream) {
                (void)rt->cu.stream_wait(rt->lane[i].stream);
                (void)rt->cu.stream_destroy(rt->lane[i].stream);
            }
        for (uint32_t i = 0; i < rt->depth; i++)
            if (rt->batch[i].event) (void)rt->cu.event_destroy(rt->batch[i].event);
        for (uint32_t q = 0; q < rt->queues; q++) {
            for (int i = 0; i < TNM_CUDA_MARKS; i++)
                if (rt->mark[q][i]) (void)rt->cu.event_destroy(rt->mark[q][i]);
            if (!rt->queues_made || !rt->queue[q]) continue;
            (void)rt->cu.stream_wait(rt->queue[q]);
            (void)rt->cu.stream_destroy(rt->queue[q]);
        }
        tnm_cuda_leave(rt);
    }
    if (rt->retained) (void)rt->cu.let_go(rt->device);
    free(rt);
}

/* UNSUPPORTED: no library, it lacks a function, or it shows no such device. */
static inline tnm_result tnm_cuda_open(const tnm_cuda_desc *desc, tnm_cuda **out) {
    tnm_cuda_desc none;
    memset(&none, 0, sizeof none);
    if (!desc) desc = &none;
    *out = NULL;
    tnm_cuda_open_error[0] = 0;
    tnm_cuda *rt = (tnm_cuda *)calloc(1, sizeof *rt);
    if (!rt) return TNM_ERR_MEMORY;
    rt->depth = desc->queue_depth ? desc->queue_depth : 16;
    if (rt->depth > TNM_CUDA_DEPTH) rt->depth = TNM_CUDA_DEPTH;
    rt->queues = desc->stream_count || desc->streams ? desc->stream_count : 1;
    if (rt->queues > TNM_CUDA_QUEUES) rt->queues = TNM_CUDA_QUEUES;
    rt->queues_made = !desc->streams;
    tnm_result r = tnm_cuda_load(rt, desc->library);
    if (r == TNM_OK) {
        r = tnm_cuda_choose(rt, desc);
        if (r == TNM_OK) {
            r = tnm_cuda_equip(rt, desc);
            tnm_cuda_leave(rt);
        }
    }
    if (r == TNM_OK) {
        *out = rt;
        return TNM_OK;
    }
    snprintf(tnm_cuda_open_error, sizeof tnm_cuda_open_error, "%s", tnm_cuda_error(rt));
    tnm_cuda_close(rt);
    return r;
}

#endif
