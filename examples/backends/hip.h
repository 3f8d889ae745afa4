/* hip.h: tensormem on AMD devices, by the HIP runtime. Copy it beside tensormem.h.
 *
 * No ROCm is needed to build: what it calls is declared here and looked up at run time in
 * libamdhip64.so (amdhip64_6.dll). Older C libraries want -ldl. Built of the same parts as cuda.h.
 *
 * It has been run on a stand-in for the runtime (tests/standin_hip.c), not yet on a device.
 *
 *     #include "tensormem.h"
 *     #include "hip.h"
 *
 *     tnm_hip *gpu;
 *     tnm_ctx *mem;
 *     tnm_hip_desc which = {0};                                     // the first device
 *     if (tnm_hip_open(&which, &gpu) < 0) return puts(tnm_hip_error(NULL));
 *     tnm_tier_desc tiers[2] = {{.name = "gpu", .budget_bytes = 4000000000}, {.name = "host"}};
 *     tnm_desc desc = {.tiers = tiers, .tier_count = 2, .user = gpu, .passed = tnm_hip_passed};
 *     tnm_hip_backend(gpu, &tiers[0].backend);
 *     tnm_hip_host(gpu, &tiers[1].backend);                         // page-locked
 *     if (tnm_create(&desc, &mem) < 0) ...
 *     tnm_pin(mem, &use, 1, &at);
 *     launch(tnm_hip_pointer(&at), tnm_hip_queue(gpu, 0));          // yours, asynchronous
 *     tnm_unpin(mem, &at, 1, TNM_FENCE(0, tnm_hip_mark(gpu, 0)));   // its place is kept until then
 *     ...
 *     tnm_destroy(mem);
 *     tnm_hip_close(gpu);
 *
 * Copies run on three streams of our own (up, down, within and between devices) that wait for no
 * other stream, so they overlap with kernels; what is pinned is what orders them. A run of copies
 * has one event that is the ticket of them all.
 *
 * Each callback makes its device the current one and puts back what was: the calling thread's
 * device stays, and so does an empty hipGetLastError.
 *
 * Page-locked memory. Only from and to such memory does HIP copy in the background: tnm_hip_host
 * gives it, and what you adopt may be registered (hipHostRegister, each range in one piece). Copies
 * of pageable memory are made at once and waited for: so for the memory of tnm_read and tnm_write.
 * Adopted pageable memory (a mapped model) of more than 64 KiB a chunk goes through the context's
 * staging instead as soon as tnm_hip_host was taken: the CPU then copies into page-locked memory at
 * its own speed, and the device fetches it while kernels run. So go the bytes of a file below.
 *
 * One memory (tnm_hip_is_unified). TNM_HIP_ONE_MEMORY, as on an APU: copies between device and host
 * would be copies within one memory. Leave the device tier out, make the fastest tier of
 * tnm_hip_host, and hand at.host to your kernels. TNM_HIP_ONE_SPACE: two memories that see each
 * other; keep both tiers, and know that a kernel may also read at.host of the lower one.
 *
 * Graphs: a stream that you capture must not be marked, and calls that allocate or wait (pin, pump)
 * stay out of the capture, or it may fail. What a graph names stays pinned while it is launched.
 *
 * Several devices: one tnm_hip each. Their backends recognise each other and copy directly where
 * the devices can, else HIP does it by way of the host. A page-locked tier serves them all.
 * There is one tnm_desc.passed: write one that asks tnm_hip_passed of the device a queue is of, and
 * give each queue a number of its own in TNM_FENCE. So too where desc.user must be yours.
 *
 * Threads: one tnm_hip belongs to one context (open another for another). tnm_hip_mark may run
 * beside everything else, by one thread at a time.
 *
 * Errors: out of memory is a refusal. A broken device (illegal address, ECC, launch failure) is
 * TNM_ERR_LOST everywhere and UINT64_MAX from tnm_hip_passed, where HIP lets the process live to
 * see it. Everything else is TNM_ERR_BACKEND, its name and number in tnm_hip_error; where it hides
 * how a copy ended, that copy stays PENDING until the runtime says.
 *
 * What it does not do: reset a broken device (hipDeviceReset, for all who use it, is yours; until
 * then its memory stays taken), batches (hipMemcpyBatchAsync is young, and its releases differ in
 * what they refuse), managed memory, memory pools, sharing between processes, launching kernels.
 * The library is never unloaded. */
#ifndef TENSORMEM_HIP_H
#define TENSORMEM_HIP_H

#ifndef TNM_VERSION
#    error "include tensormem.h before hip.h"
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#    include <windows.h>
#    define TNM_HIP_API __stdcall
#else
#    include <dlfcn.h>
#    define TNM_HIP_API
#endif

typedef struct tnm_hip tnm_hip; /* one device: its streams and events */
typedef uintptr_t tnm_hip_ptr;  /* hipDeviceptr_t; also the token of device memory */

typedef struct tnm_hip_desc {
    int device;            /* the n-th that HIP shows */
    const char *library;   /* NULL = the usual names */
    uint32_t queue_depth;  /* copies out at once, at most 256; 0 = 16 */
    void *const *streams;  /* your compute streams (hipStream_t): fence queues 0 .. */
    uint32_t stream_count; /* how many, at most 16; without `streams` made here, 0 = 1 */
} tnm_hip_desc;

enum { TNM_HIP_TWO_MEMORIES, TNM_HIP_ONE_MEMORY, TNM_HIP_ONE_SPACE };

enum {
    TNM_HIP_UP, /* lanes: host to device, device to host, device to device */
    TNM_HIP_DOWN,
    TNM_HIP_ACROSS,
    TNM_HIP_LANES,
    TNM_HIP_DEPTH = 256,
    TNM_HIP_QUEUES = 16,
    TNM_HIP_MARKS = 256,      /* fences outstanding in a queue */
    TNM_HIP_SMALL = 64 << 10, /* pageable memory that is not worth staging */
    TNM_HIP_TRIES = 8,        /* of a call that must not be left undone */
    TNM_HIP_NOT_READY = 600,  /* hipErrorNotReady */
    TNM_HIP_CAPTURING = 900   /* hipErrorStreamCaptureUnsupported */
};

/* ---- the runtime: result 0 is success; hipDeviceptr_t, a void *, is a number here ---- */
#define TNM_HIP_CALLS(X)                                                                           \
    X(init, hipInit, (unsigned flags))                                                             \
    X(count, hipGetDeviceCount, (int *count))                                                      \
    X(attribute, hipDeviceGetAttribute, (int *value, int attribute, int device))                   \
    X(get_device, hipGetDevice, (int *device))                                                     \
    X(set_device, hipSetDevice, (int device))                                                      \
    X(peek_error, hipPeekAtLastError, (void))                                                      \
    X(take_error, hipGetLastError, (void))                                                         \
    X(mem_info, hipMemGetInfo, (size_t * available, size_t * total))                               \
    X(mem_alloc, hipMalloc, (tnm_hip_ptr * mem, size_t bytes))                                     \
    X(mem_range, hipMemGetAddressRange, (tnm_hip_ptr * base, size_t * bytes, tnm_hip_ptr at))      \
    X(mem_free, hipFree, (tnm_hip_ptr base))                                                       \
    X(host_alloc, hipHostMalloc, (void **host, size_t bytes, unsigned flags))                      \
    X(host_free, hipHostFree, (void *host))                                                        \
    X(host_pointer, hipHostGetDevicePointer, (void **device, void *host, unsigned flags))          \
    X(stream_create, hipStreamCreateWithFlags, (void **stream, unsigned flags))                    \
    X(stream_query, hipStreamQuery, (void *stream))                                                \
    X(stream_wait, hipStreamSynchronize, (void *stream))                                           \
    X(stream_destroy, hipStreamDestroy, (void *stream))                                            \
    X(event_create, hipEventCreateWithFlags, (void **event, unsigned flags))                       \
    X(event_record, hipEventRecord, (void *event, void *stream))                                   \
    X(event_query, hipEventQuery, (void *event))                                                   \
    X(event_wait, hipEventSynchronize, (void *event))                                              \
    X(event_destroy, hipEventDestroy, (void *event))                                               \
    X(copy_up, hipMemcpyHtoDAsync, (tnm_hip_ptr to, const void *from, size_t bytes, void *stream)) \
    X(copy_down, hipMemcpyDtoHAsync, (void *to, tnm_hip_ptr from, size_t bytes, void *stream))     \
    X(copy_within, hipMemcpyDtoDAsync,                                                             \
      (tnm_hip_ptr to, tnm_hip_ptr from, size_t bytes, void *stream))                              \
    X(copy_peer, hipMemcpyPeerAsync,                                                               \
      (tnm_hip_ptr to, int to_device, tnm_hip_ptr from, int from_device, size_t bytes,             \
       void *stream))                                                                              \
    X(peer_can, hipDeviceCanAccessPeer, (int *can, int device, int peer))                          \
    X(peer_enable, hipDeviceEnablePeerAccess, (int peer, unsigned flags))

typedef struct tnm_hip_driver {
#define TNM_HIP_DECLARE(name, symbol, args) int(TNM_HIP_API * name) args;
    TNM_HIP_CALLS(TNM_HIP_DECLARE)
#undef TNM_HIP_DECLARE
    const char *(TNM_HIP_API *error_name)(int code);          /* hipGetErrorName */
    int(TNM_HIP_API *is_captured)(void *stream, int *status); /* NULL before ROCm 4.3 */
} tnm_hip_driver;

typedef struct tnm_hip_lane { /* a stream, and the copies that wait for the doorbell */
    void *stream;
    uint32_t open; /* the batch they belong to, + 1; 0 = none waits */
    uint32_t count;
    tnm_hip_ptr to[TNM_HIP_DEPTH], from[TNM_HIP_DEPTH];
    size_t bytes[TNM_HIP_DEPTH];
    tnm_hip *other[TNM_HIP_DEPTH]; /* the sibling whose memory `from` is, or NULL */
} tnm_hip_lane;

typedef enum tnm_hip_state {
    TNM_HIP_FREE, /* nobody waits for it; the last answer stands */
    TNM_HIP_OPEN, /* copies may be added */
    TNM_HIP_OUT,  /* on the stream, its event behind them */
    TNM_HIP_DARK, /* on the stream without an event: only the stream says when they have ended */
    TNM_HIP_ENDED /* the answer is known and has not been told */
} tnm_hip_state;

typedef struct tnm_hip_batch { /* copies with one ticket */
    void *event;
    uint64_t ticket;
    uint32_t count;
    int lane;
    tnm_hip_state state;
    tnm_result answer;
} tnm_hip_batch;

struct tnm_hip {
    tnm_hip_driver hip;
    int device, unified, host_taken;
    int lost;       /* shared with tnm_hip_mark, like `marked` and `said` */
    int gone;       /* the runtime is no more: no call into it is safe */
    uint64_t peers; /* a bit for each device whose memory we asked to reach */
    uint32_t depth, out, strikes;
    uint64_t tickets;
    tnm_hip_lane lane[TNM_HIP_LANES];
    tnm_hip_batch batch[TNM_HIP_DEPTH];
    uint32_t queues;
    int queues_made;
    void *queue[TNM_HIP_QUEUES];
    void *mark[TNM_HIP_QUEUES][TNM_HIP_MARKS]; /* events: fence v is at v % TNM_HIP_MARKS */
    uint64_t marked[TNM_HIP_QUEUES], seen[TNM_HIP_QUEUES];
    char error[2][200]; /* of the callbacks, of tnm_hip_mark */
    int said;           /* which of them is the later one */
};

static char tnm_hip_open_error[200];

#if defined(__GNUC__)
#    define TNM_HIP_GET(at)        __atomic_load_n(at, __ATOMIC_ACQUIRE)
#    define TNM_HIP_PUT(at, value) __atomic_store_n(at, value, __ATOMIC_RELEASE)
#else /* MSVC on x86 and x64: a volatile access is an acquire or a release */
#    define TNM_HIP_GET(at)        (*(at))
#    define TNM_HIP_PUT(at, value) (*(at) = (value))
#endif

/* ---- errors ---- */
static inline int tnm_hip_is_fatal(int code) {
    static const short fatal[] = { 4, 201, 214, 700, 702, 709, 710, 719 };
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++)
        if (code == fatal[i]) return 1;
    return 0;
}

/* What a code means for the caller; the sentence goes to `page` of the error texts. */
static inline tnm_result tnm_hip_blame(tnm_hip *rt, int page, int code, const char *call) {
    if (code == 0) return TNM_OK;
    const char *name = rt->hip.error_name(code);
    snprintf(rt->error[page], sizeof rt->error[page], "%s failed: %s (%d)", call,
             name ? name : "unknown error", code);
    TNM_HIP_PUT(&rt->said, page);
    if (tnm_hip_is_fatal(code)) {
        if (code == 4) TNM_HIP_PUT(&rt->gone, code);
        TNM_HIP_PUT(&rt->lost, 1);
        return TNM_ERR_LOST;
    }
    return code == 2 ? TNM_ERR_MEMORY : TNM_ERR_BACKEND;
}

static inline tnm_result tnm_hip_judge(tnm_hip *rt, int code, const char *call) {
    return tnm_hip_blame(rt, 0, code, call);
}

static inline const char *tnm_hip_error(const tnm_hip *rt) {
    return rt ? rt->error[TNM_HIP_GET(&rt->said)] : tnm_hip_open_error;
}

typedef struct tnm_hip_before { /* what the calling thread had */
    int device, error;
} tnm_hip_before;

/* Our device as the calling thread's; 0 = it is, and must be left again. */
static inline int tnm_hip_enter(tnm_hip *rt, tnm_hip_before *before) {
    int code = TNM_HIP_GET(&rt->gone);
    if (code) return code;
    before->error = rt->hip.peek_error();
    code = rt->hip.get_device(&before->device);
    if (!code && before->device != rt->device) code = rt->hip.set_device(rt->device);
    if (code && !before->error) (void)rt->hip.take_error();
    return code;
}

/* An error of ours that is left behind would be found by whoever checks his own next launch. */
static inline void tnm_hip_leave(tnm_hip *rt, const tnm_hip_before *before) {
    if (before->device != rt->device) (void)rt->hip.set_device(before->device);
    if (!before->error) (void)rt->hip.take_error();
}

/* For what must not be left undone. */
static inline int tnm_hip_insist(tnm_hip *rt, tnm_hip_before *before) {
    int code = tnm_hip_enter(rt, before);
    for (int i = 1; code && !tnm_hip_is_fatal(code) && i < TNM_HIP_TRIES; i++)
        code = tnm_hip_enter(rt, before);
    return code;
}

/* Wait until nothing of a stream runs. OK, LOST, or PENDING: no end can be learnt at present. Only
 * the runtime's own word says that a device is gone; errors of the call, such as those of a stream
 * that is being captured, do not, however often they come. */
static inline tnm_result tnm_hip_settle(tnm_hip *rt, void *stream) {
    for (int i = 0; i < TNM_HIP_TRIES; i++) {
        int code = rt->hip.stream_wait(stream);
        tnm_result r = tnm_hip_judge(rt, code, "hipStreamSynchronize");
        if (r == TNM_OK || r == TNM_ERR_LOST) return r;
    }
    return TNM_PENDING;
}

/* ---- device memory ---- */
static inline tnm_result tnm_hip_alloc(void *user, uint64_t size, uint64_t align, void *item,
                                       uint64_t *mem, void **host) {
    tnm_hip *rt = (tnm_hip *)user;
    tnm_hip_before before;
    tnm_hip_ptr base = 0, mask = (tnm_hip_ptr)align - 1;
    (void)item;
    *host = NULL;
    if (TNM_HIP_GET(&rt->lost)) return TNM_ERR_LOST;
    if (size > SIZE_MAX / 2 || align > SIZE_MAX / 2) return TNM_ERR_MEMORY;
    int code = tnm_hip_enter(rt, &before);
    if (code) return tnm_hip_judge(rt, code, "hipSetDevice");
    code = rt->hip.mem_alloc(&base, (size_t)size);
    if (!code && (base & mask)) { /* 256 is promised; more is paid for */
        (void)rt->hip.mem_free(base);
        code = rt->hip.mem_alloc(&base, (size_t)(size + align));
    }
    tnm_hip_leave(rt, &before);
    *mem = (base + mask) & ~mask;
    return tnm_hip_judge(rt, code, "hipMalloc");
}

static inline void tnm_hip_release(void *user, uint64_t mem, uint64_t size) {
    tnm_hip *rt = (tnm_hip *)user;
    tnm_hip_before before;
    tnm_hip_ptr base = 0;
    size_t bytes = 0;
    (void)size;
    if (tnm_hip_insist(rt, &before)) return; /* the runtime is gone, and the memory with it */
    int code = rt->hip.mem_range(&base, &bytes, (tnm_hip_ptr)mem); /* the token may lie inside */
    for (int i = 1; code && !tnm_hip_is_fatal(code) && i < TNM_HIP_TRIES; i++)
        code = rt->hip.mem_range(&base, &bytes, (tnm_hip_ptr)mem);
    if (!code) code = rt->hip.mem_free(base);
    tnm_hip_leave(rt, &before);
    (void)tnm_hip_judge(rt, code, "hipMemGetAddressRange or hipFree");
}

static inline uint64_t tnm_hip_available(void *user) {
    tnm_hip *rt = (tnm_hip *)user;
    tnm_hip_before before;
    size_t available = 0, total = 0;
    if (TNM_HIP_GET(&rt->lost) || tnm_hip_enter(rt, &before)) return 0;
    if (rt->hip.mem_info(&available, &total)) available = 0;
    tnm_hip_leave(rt, &before);
    return available;
}

/* ---- page-locked memory ---- */
static inline tnm_result tnm_hip_host_alloc(void *user, uint64_t size, uint64_t align, void *item,
                                            uint64_t *mem, void **host) {
    tnm_hip *rt = (tnm_hip *)user;
    tnm_hip_before before;
    void *at = NULL;
    uintptr_t mask = (uintptr_t)align - 1;
    (void)item;
    if (size > SIZE_MAX / 2 || align > SIZE_MAX / 2) return TNM_ERR_MEMORY;
    int code = tnm_hip_enter(rt, &before);
    if (code) return tnm_hip_judge(rt, code, "hipSetDevice");
    code = rt->hip.host_alloc(&at, (size_t)size, 1); /* hipHostMallocPortable: for all devices */
    if (!code && ((uintptr_t)at & mask)) {           /* no alignment is promised: it is paid for */
        (void)rt->hip.host_free(at);
        code = rt->hip.host_alloc(&at, (size_t)(size + align), 1);
    }
    tnm_hip_leave(rt, &before);
    *mem = (uint64_t)(uintptr_t)at; /* the token to free; where the bytes begin is *host */
    *host = code ? NULL : (void *)(((uintptr_t)at + mask) & ~mask);
    return tnm_hip_judge(rt, code, "hipHostMalloc");
}

static inline void tnm_hip_host_release(void *user, uint64_t mem, uint64_t size) {
    tnm_hip *rt = (tnm_hip *)user;
    tnm_hip_before before;
    (void)size;
    if (tnm_hip_insist(rt, &before)) return;
    int code = rt->hip.host_free((void *)(uintptr_t)mem);
    tnm_hip_leave(rt, &before);
    (void)tnm_hip_judge(rt, code, "hipHostFree");
}

/* Between host and host only: what touches a device is asked of that device. */
static inline tnm_result tnm_hip_host_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                           uint64_t size, uint64_t *ticket) {
    (void)user, (void)ticket;
    if (!dst->host || !src->host) return TNM_ERR_UNSUPPORTED;
    if (size > SIZE_MAX / 2) return TNM_ERR_BACKEND;
    memcpy(dst->host, src->host, (size_t)size);
    return TNM_OK;
}

/* ---- copies ---- */
static inline tnm_result tnm_hip_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                      uint64_t size, uint64_t *ticket);

/* The device whose memory this is, or NULL. */
static inline tnm_hip *tnm_hip_of(const tnm_span *span) {
    int ours = span->backend && span->backend->copy == tnm_hip_copy;
    return ours ? (tnm_hip *)span->backend->user : NULL;
}

/* Is this byte of host memory page-locked? The device is ours. */
static inline int tnm_hip_knows(tnm_hip *rt, void *at) {
    void *device; /* the numbers of hipMemoryType changed between releases; this did not */
    return rt->hip.host_pointer(&device, at, 0) == 0;
}

static inline int tnm_hip_is_locked(tnm_hip *rt, const tnm_span *span, size_t size) {
    if (!span->adopted && span->backend && span->backend->copy == tnm_hip_host_copy) return 1;
    return tnm_hip_knows(rt, span->host) && tnm_hip_knows(rt, (char *)span->host + size - 1);
}

/* Ask once for a direct way to a sibling's memory. Without it HIP goes by way of the host. */
static inline void tnm_hip_befriend(tnm_hip *rt, const tnm_hip *other) {
    int can = 0;
    uint64_t bit = (uint64_t)1 << (other->device & 63);
    if (rt->device == other->device || (rt->peers & bit)) return;
    rt->peers |= bit;
    if (rt->hip.peer_can(&can, rt->device, other->device) == 0 && can)
        (void)rt->hip.peer_enable(other->device, 0); /* somebody else may have done it: no matter */
}

/* Put one copy on its stream. */
static inline int tnm_hip_issue(tnm_hip *rt, int lane, tnm_hip_ptr to, tnm_hip_ptr from,
                                size_t bytes, tnm_hip *other) {
    void *stream = rt->lane[lane].stream;
    if (lane == TNM_HIP_UP) return rt->hip.copy_up(to, (const void *)from, bytes, stream);
    if (lane == TNM_HIP_DOWN) return rt->hip.copy_down((void *)to, from, bytes, stream);
    if (!other) return rt->hip.copy_within(to, from, bytes, stream);
    tnm_hip_befriend(rt, other);
    int code = rt->hip.copy_peer(to, rt->device, from, other->device, bytes, stream);
    if (!tnm_hip_is_fatal(code)) return code;
    int own = rt->hip.stream_query(stream);                  /* which of the two died? */
    return own == 0 || own == TNM_HIP_NOT_READY ? 217 : own; /* 217: no way to the peer */
}

static inline const char *tnm_hip_lane_name(int lane) {
    static const char *const name[] = { "hipMemcpyHtoDAsync", "hipMemcpyDtoHAsync",
                                        "hipMemcpyDtoDAsync or hipMemcpyPeerAsync" };
    return name[lane];
}

/* A batch of a lane that nobody has yet. There is one: each that is out holds a copy at least. */
static inline uint32_t tnm_hip_fresh(tnm_hip *rt, int lane, tnm_hip_state state) {
    uint32_t slot = 0;
    while (rt->batch[slot].state != TNM_HIP_FREE)
        slot++;
    tnm_hip_batch *fresh = &rt->batch[slot];
    fresh->ticket = ++rt->tickets * TNM_HIP_DEPTH + slot;
    fresh->state = state;
    fresh->lane = lane;
    fresh->count = 0;
    return slot;
}

/* Pageable memory: HIP's own way, waited for, here if that can be done. */
static inline tnm_result tnm_hip_copy_now(tnm_hip *rt, int lane, tnm_hip_ptr to, tnm_hip_ptr from,
                                          size_t bytes, uint64_t *ticket) {
    int code = tnm_hip_issue(rt, lane, to, from, bytes, NULL);
    tnm_result r = tnm_hip_judge(rt, code, tnm_hip_lane_name(lane));
    tnm_result end = r == TNM_ERR_LOST ? r : tnm_hip_settle(rt, rt->lane[lane].stream);
    if (end != TNM_PENDING) return end == TNM_OK ? r : end;
    tnm_hip_batch *batch = &rt->batch[tnm_hip_fresh(rt, lane, TNM_HIP_DARK)];
    batch->answer = r;
    batch->count = 1;
    rt->out++;
    *ticket = batch->ticket;
    return TNM_PENDING;
}

/* Add a copy to the lane's open batch. */
static inline uint64_t tnm_hip_add(tnm_hip *rt, int which, tnm_hip_ptr to, tnm_hip_ptr from,
                                   size_t bytes, tnm_hip *other) {
    tnm_hip_lane *lane = &rt->lane[which];
    if (!lane->open) {
        lane->open = tnm_hip_fresh(rt, which, TNM_HIP_OPEN) + 1;
        lane->count = 0;
    }
    tnm_hip_batch *batch = &rt->batch[lane->open - 1];
    lane->to[lane->count] = to;
    lane->from[lane->count] = from;
    lane->bytes[lane->count] = bytes;
    lane->other[lane->count++] = other;
    batch->count++;
    rt->out++;
    return batch->ticket;
}

static inline tnm_result tnm_hip_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                      uint64_t size, uint64_t *ticket) {
    tnm_hip *rt = (tnm_hip *)user, *to = tnm_hip_of(dst), *from = tnm_hip_of(src);
    tnm_hip_before before;
    const tnm_span *end = to ? src : dst; /* the one in host memory, if one is */
    int lane = !from ? TNM_HIP_UP : !to ? TNM_HIP_DOWN : TNM_HIP_ACROSS;
    if (TNM_HIP_GET(&rt->lost)) return TNM_ERR_LOST;
    if (to ? to != rt : from != rt) return TNM_ERR_UNSUPPORTED;
    if (to && from ? TNM_HIP_GET(&from->lost) || from->hip.init != rt->hip.init : !end->host)
        return TNM_ERR_UNSUPPORTED;
    if (size > SIZE_MAX / 2) return TNM_ERR_BACKEND;
    if (rt->out == rt->depth) return TNM_ERR_BUSY;
    tnm_hip_ptr a = to ? (tnm_hip_ptr)(dst->mem + dst->offset) : (tnm_hip_ptr)dst->host;
    tnm_hip_ptr b = from ? (tnm_hip_ptr)(src->mem + src->offset) : (tnm_hip_ptr)src->host;
    if (lane != TNM_HIP_ACROSS) {
        int code = tnm_hip_enter(rt, &before);
        tnm_result r = tnm_hip_judge(rt, code, "hipSetDevice");
        if (r != TNM_OK) return r;
        int locked = tnm_hip_is_locked(rt, end, (size_t)size);
        int staged = !locked && end->adopted && rt->host_taken && size > TNM_HIP_SMALL;
        if (!locked && !staged) r = tnm_hip_copy_now(rt, lane, a, b, (size_t)size, ticket);
        tnm_hip_leave(rt, &before);
        if (staged) return TNM_ERR_UNSUPPORTED;
        if (!locked) return r;
    }
    *ticket = tnm_hip_add(rt, lane, a, b, (size_t)size, from && from != rt ? from : NULL);
    return TNM_PENDING;
}

/* The doorbell of one lane; the device is ours. */
static inline void tnm_hip_ring(tnm_hip *rt, int which) {
    tnm_hip_lane *lane = &rt->lane[which];
    tnm_hip_batch *batch = &rt->batch[lane->open - 1];
    int code = 0;
    for (uint32_t i = 0; !code && i < lane->count; i++)
        code = tnm_hip_issue(rt, which, lane->to[i], lane->from[i], lane->bytes[i], lane->other[i]);
    batch->answer = tnm_hip_judge(rt, code, tnm_hip_lane_name(which));
    batch->state = TNM_HIP_OUT;
    lane->open = 0;
    if (!code) {
        code = rt->hip.event_record(batch->event, lane->stream);
        (void)tnm_hip_judge(rt, code, "hipEventRecord");
    }
    if (!code) return;
    /* a failed ticket promises that nothing of it still runs */
    tnm_result end = TNM_HIP_GET(&rt->lost) ? TNM_ERR_LOST : tnm_hip_settle(rt, lane->stream);
    batch->state = end == TNM_PENDING ? TNM_HIP_DARK : TNM_HIP_ENDED;
    if (end < 0) batch->answer = end;
}

static inline void tnm_hip_submit(void *user) {
    tnm_hip *rt = (tnm_hip *)user;
    tnm_hip_before before;
    int lost = TNM_HIP_GET(&rt->lost); /* then what was to be copied may be gone already */
    int code = lost ? 0 : tnm_hip_enter(rt, &before);
    for (int i = 0; i < TNM_HIP_LANES; i++) {
        if (!rt->lane[i].open) continue;
        if (!lost && !code) {
            tnm_hip_ring(rt, i);
            continue;
        }
        tnm_hip_batch *batch = &rt->batch[rt->lane[i].open - 1];
        batch->answer = lost ? TNM_ERR_LOST : tnm_hip_judge(rt, code, "hipSetDevice");
        batch->state = TNM_HIP_ENDED;
        rt->lane[i].open = 0;
    }
    if (!lost && !code) tnm_hip_leave(rt, &before);
}

/* What an event says about the work before it, or the stream if there is none: OK, PENDING or LOST.
 * An answer that says nothing about the work is no answer: it is asked again. */
static inline tnm_result tnm_hip_ask(tnm_hip *rt, void *event, void *stream, int wait) {
    tnm_hip_before before;
    int code = tnm_hip_enter(rt, &before), in = !code;
    const char *call = wait ? "hipEventSynchronize" : "hipEventQuery";
    if (in && event)
        code = wait ? rt->hip.event_wait(event) : rt->hip.event_query(event);
    else if (in)
        code = wait ? rt->hip.stream_wait(stream) : rt->hip.stream_query(stream);
    tnm_result r = TNM_PENDING;
    if (code != TNM_HIP_NOT_READY) r = tnm_hip_judge(rt, code, in ? call : "hipSetDevice");
    if (r == TNM_OK || r == TNM_PENDING) {
        rt->strikes = 0;
    } else if (r != TNM_ERR_LOST) {
        r = TNM_PENDING;
        if (++rt->strikes % TNM_HIP_TRIES == 0 && in) r = tnm_hip_settle(rt, stream);
    }
    if (in) tnm_hip_leave(rt, &before);
    return r;
}

static inline tnm_result tnm_hip_end(tnm_hip *rt, uint64_t ticket, int wait) {
    tnm_hip_batch *batch = &rt->batch[ticket % TNM_HIP_DEPTH];
    if (batch->ticket != ticket) return TNM_ERR_BACKEND; /* not ours, or answered long ago */
    if (batch->state == TNM_HIP_FREE) return batch->answer;
    if (batch->state == TNM_HIP_OPEN) tnm_hip_submit(rt);
    tnm_result r = batch->answer;
    if (batch->state != TNM_HIP_ENDED) {
        void *event = batch->state == TNM_HIP_OUT ? batch->event : NULL;
        r = tnm_hip_ask(rt, event, rt->lane[batch->lane].stream, wait);
        if (r == TNM_OK) r = batch->answer;
    }
    if (TNM_HIP_GET(&rt->lost)) r = TNM_ERR_LOST;
    if (r == TNM_PENDING) return r;
    batch->answer = r;
    batch->state = TNM_HIP_FREE;
    rt->out -= batch->count;
    return r;
}

static inline tnm_result tnm_hip_poll(void *user, uint64_t ticket) {
    return tnm_hip_end((tnm_hip *)user, ticket, 0);
}

static inline tnm_result tnm_hip_wait(void *user, uint64_t ticket) {
    return tnm_hip_end((tnm_hip *)user, ticket, 1);
}

static inline void tnm_hip_backend(tnm_hip *rt, tnm_backend *out) {
    memset(out, 0, sizeof *out);
    out->alloc = tnm_hip_alloc;
    out->release = tnm_hip_release;
    out->copy = tnm_hip_copy;
    out->submit = tnm_hip_submit;
    out->poll = tnm_hip_poll;
    out->wait = tnm_hip_wait;
    out->available = tnm_hip_available;
    out->user = rt;
}

static inline void tnm_hip_host(tnm_hip *rt, tnm_backend *out) {
    memset(out, 0, sizeof *out);
    out->alloc = tnm_hip_host_alloc;
    out->release = tnm_hip_host_release;
    out->copy = tnm_hip_host_copy;
    out->user = rt;
    out->host_visible = 1;
    rt->host_taken = 1;
}

/* ---- fences: the n-th mark of a queue is fence value n ---- */
/* What is recorded while a stream is captured goes into the graph: it says nothing of what runs. */
static inline int tnm_hip_record(tnm_hip *rt, void *event, void *stream) {
    int captured = 0, code = 0;
    if (rt->hip.is_captured) code = rt->hip.is_captured(stream, &captured);
    if (!code && captured) code = TNM_HIP_CAPTURING;
    return code ? code : rt->hip.event_record(event, stream);
}

/* A value behind all work queued there so far. Waits while 256 are outstanding. 0 = failed, as it
 * does while the stream is captured: as a fence it is refused and the pin stays, so wait for the
 * stream, then unpin with fence 0. */
static inline uint64_t tnm_hip_mark(tnm_hip *rt, uint32_t queue) {
    tnm_hip_before before;
    if (queue >= rt->queues || TNM_HIP_GET(&rt->lost)) return 0;
    uint64_t value = rt->marked[queue] + 1;
    void *event = rt->mark[queue][value % TNM_HIP_MARKS];
    int code = tnm_hip_enter(rt, &before);
    if (tnm_hip_blame(rt, 1, code, "hipSetDevice") != TNM_OK) return 0;
    if (value > TNM_HIP_MARKS) code = rt->hip.event_wait(event);
    if (!code) code = tnm_hip_record(rt, event, rt->queue[queue]);
    tnm_hip_leave(rt, &before);
    if (tnm_hip_blame(rt, 1, code, "hipEventRecord") != TNM_OK) return 0;
    TNM_HIP_PUT(&rt->marked[queue], value);
    return value;
}

/* For tnm_desc.passed. An event that tnm_hip_mark records anew meanwhile passes later, not
 * earlier. */
static inline uint64_t tnm_hip_passed(void *user, uint32_t queue, uint64_t wait_for) {
    tnm_hip *rt = (tnm_hip *)user;
    tnm_result r = TNM_OK;
    if (queue >= rt->queues) return UINT64_MAX;
    uint64_t marked = TNM_HIP_GET(&rt->marked[queue]);
    while (r == TNM_OK && rt->seen[queue] < marked && !TNM_HIP_GET(&rt->lost)) {
        uint64_t next = rt->seen[queue] + 1; /* waiting for one is waiting for all before it */
        if (wait_for > next && wait_for <= marked) next = wait_for;
        r = tnm_hip_ask(rt, rt->mark[queue][next % TNM_HIP_MARKS], rt->queue[queue],
                        wait_for >= next);
        if (r == TNM_OK) rt->seen[queue] = next;
    }
    return TNM_HIP_GET(&rt->lost) ? UINT64_MAX : rt->seen[queue];
}

/* ---- for whoever launches kernels ---- */
static inline tnm_hip_ptr tnm_hip_pointer(const tnm_pinned *at) { /* of the device tier */
    return (tnm_hip_ptr)(at->mem + at->offset);
}

static inline void *tnm_hip_queue(const tnm_hip *rt, uint32_t queue) { /* a hipStream_t */
    return queue < rt->queues ? rt->queue[queue] : NULL;
}

static inline int tnm_hip_device(const tnm_hip *rt) { /* its number, for hipSetDevice */
    return rt->device;
}

static inline int tnm_hip_is_unified(const tnm_hip *rt) { /* TNM_HIP_TWO_MEMORIES .. */
    return rt->unified;
}

/* ---- open and close ---- */
static inline void *tnm_hip_symbol(void *library, const char *name) {
#ifdef _WIN32
    void *at = NULL;
    FARPROC found = GetProcAddress((HMODULE)library, name);
    memcpy(&at, &found, sizeof at);
    return at;
#else
    return dlsym(library, name);
#endif
}

static inline void *tnm_hip_library(const char *name) {
#ifdef _WIN32
    static const char *const usual[] = { "amdhip64_7.dll", "amdhip64_6.dll", "amdhip64.dll" };
    void *library = name ? (void *)LoadLibraryA(name) : NULL;
    for (size_t i = 0; !name && !library && i < sizeof usual / sizeof *usual; i++)
        library = (void *)LoadLibraryA(usual[i]);
#else
    static const char *const usual[] = { "libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6",
                                         "libamdhip64.so.5" };
    void *library = name ? dlopen(name, RTLD_NOW | RTLD_LOCAL) : NULL;
    for (size_t i = 0; !name && !library && i < sizeof usual / sizeof *usual; i++)
        library = dlopen(usual[i], RTLD_NOW | RTLD_LOCAL);
#endif
    return library;
}

static inline tnm_result tnm_hip_load(tnm_hip *rt, const char *name) {
    void *library = tnm_hip_library(name), *at;
    if (!library) {
        snprintf(rt->error[0], sizeof rt->error[0], "the HIP runtime %s cannot be loaded",
                 name ? name : "libamdhip64.so (amdhip64_6.dll)");
        return TNM_ERR_UNSUPPORTED;
    }
#define TNM_HIP_FIND(member, symbol, args)                                                         \
    at = tnm_hip_symbol(library, #symbol);                                                         \
    if (!at) {                                                                                     \
        snprintf(rt->error[0], sizeof rt->error[0], "%s has no function %s",                       \
                 name ? name : "the HIP runtime", #symbol);                                        \
        return TNM_ERR_UNSUPPORTED;                                                                \
    }                                                                                              \
    memcpy(&rt->hip.member, &at, sizeof at);
    TNM_HIP_CALLS(TNM_HIP_FIND)
#undef TNM_HIP_FIND
    at = tnm_hip_symbol(library, "hipGetErrorName");
    if (!at) {
        snprintf(rt->error[0], sizeof rt->error[0], "the HIP runtime has no hipGetErrorName");
        return TNM_ERR_UNSUPPORTED;
    }
    memcpy(&rt->hip.error_name, &at, sizeof at);
    at = tnm_hip_symbol(library, "hipStreamIsCapturing");
    memcpy(&rt->hip.is_captured, &at, sizeof at);
    return TNM_OK;
}

/* The device, left current. */
static inline tnm_result tnm_hip_choose(tnm_hip *rt, const tnm_hip_desc *desc,
                                        tnm_hip_before *before) {
    int code = rt->hip.init(0), count = 0;
    if (!code) code = rt->hip.count(&count);
    int absent = !code && (desc->device < 0 || desc->device >= count);
    if (code == 100 || absent) { /* 100 = hipErrorNoDevice */
        snprintf(rt->error[0], sizeof rt->error[0],
                 "the HIP runtime shows %d devices: no number %d", count, desc->device);
        return TNM_ERR_UNSUPPORTED;
    }
    if (code) return tnm_hip_judge(rt, code, "hipInit or hipGetDeviceCount");
    rt->device = desc->device;
    code = tnm_hip_enter(rt, before);
    return tnm_hip_judge(rt, code, "hipSetDevice");
}

/* Streams and events. The device is ours. */
static inline tnm_result tnm_hip_equip(tnm_hip *rt, const tnm_hip_desc *desc) {
    int code, one = 0, space = 0;
    code = rt->hip.attribute(&one, 16, rt->device);              /* Integrated */
    if (!code) code = rt->hip.attribute(&space, 66, rt->device); /* ..UsesHostPageTables */
    if (code) return tnm_hip_judge(rt, code, "hipDeviceGetAttribute");
    rt->unified = one ? TNM_HIP_ONE_MEMORY : space ? TNM_HIP_ONE_SPACE : TNM_HIP_TWO_MEMORIES;
    for (int i = 0; !code && i < TNM_HIP_LANES; i++)
        code = rt->hip.stream_create(&rt->lane[i].stream, 1); /* hipStreamNonBlocking */
    for (uint32_t q = 0; !code && q < rt->queues; q++) {
        if (desc->streams)
            rt->queue[q] = desc->streams[q];
        else
            code = rt->hip.stream_create(&rt->queue[q], 1);
    }
    if (code) return tnm_hip_judge(rt, code, "hipStreamCreateWithFlags");
    for (uint32_t i = 0; !code && i < rt->depth; i++)
        code = rt->hip.event_create(&rt->batch[i].event, 2); /* hipEventDisableTiming */
    for (uint32_t i = 0; !code && i < rt->queues * TNM_HIP_MARKS; i++)
        code = rt->hip.event_create(&rt->mark[i / TNM_HIP_MARKS][i % TNM_HIP_MARKS], 2);
    return tnm_hip_judge(rt, code, "hipEventCreateWithFlags");
}

/* After tnm_destroy. What still runs is waited for. */
static inline void tnm_hip_close(tnm_hip *rt) {
    tnm_hip_before before;
    if (!rt) return;
    if (rt->lane[0].stream && !tnm_hip_insist(rt, &before)) {
        for (int i = 0; i < TNM_HIP_LANES; i++)
            if (rt->lane[i].stream) {
                (void)rt->hip.stream_wait(rt->lane[i].stream);
                (void)rt->hip.stream_destroy(rt->lane[i].stream);
            }
        for (uint32_t i = 0; i < rt->depth; i++)
            if (rt->batch[i].event) (void)rt->hip.event_destroy(rt->batch[i].event);
        for (uint32_t q = 0; q < rt->queues; q++) {
            for (int i = 0; i < TNM_HIP_MARKS; i++)
                if (rt->mark[q][i]) (void)rt->hip.event_destroy(rt->mark[q][i]);
            if (!rt->queues_made || !rt->queue[q]) continue;
            (void)rt->hip.stream_wait(rt->queue[q]);
            (void)rt->hip.stream_destroy(rt->queue[q]);
        }
        tnm_hip_leave(rt, &before);
    }
    free(rt);
}

/* UNSUPPORTED: no library, it lacks a function, or it shows no such device. */
static inline tnm_result tnm_hip_open(const tnm_hip_desc *desc, tnm_hip **out) {
    tnm_hip_before before;
    tnm_hip_desc none;
    memset(&none, 0, sizeof none);
    if (!desc) desc = &none;
    *out = NULL;
    tnm_hip_open_error[0] = 0;
    tnm_hip *rt = (tnm_hip *)calloc(1, sizeof *rt);
    if (!rt) return TNM_ERR_MEMORY;
    rt->depth = desc->queue_depth ? desc->queue_depth : 16;
    if (rt->depth > TNM_HIP_DEPTH) rt->depth = TNM_HIP_DEPTH;
    rt->queues = desc->stream_count || desc->streams ? desc->stream_count : 1;
    if (rt->queues > TNM_HIP_QUEUES) rt->queues = TNM_HIP_QUEUES;
    rt->queues_made = !desc->streams;
    tnm_result r = tnm_hip_load(rt, desc->library);
    if (r == TNM_OK) {
        int had = rt->hip.peek_error();
        r = tnm_hip_choose(rt, desc, &before);
        if (r == TNM_OK) {
            r = tnm_hip_equip(rt, desc);
            tnm_hip_leave(rt, &before);
        } else if (!had) {
            (void)rt->hip.take_error();
        }
    }
    if (r == TNM_OK) {
        *out = rt;
        return TNM_OK;
    }
    snprintf(tnm_hip_open_error, sizeof tnm_hip_open_error, "%s", tnm_hip_error(rt));
    tnm_hip_close(rt);
    return r;
}

#endif
