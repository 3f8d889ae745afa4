/* ascend.h: tensormem on Huawei Ascend NPUs, by CANN's AscendCL. Copy it beside tensormem.h.
 *
 * No toolkit is needed to build: what it calls is declared here and looked up at run time in
 * libascendcl.so (source CANN's set_env.sh first). Older C libraries want -ldl.
 *
 * It has been run on a stand-in for the runtime (tests/standin_ascend.c), not yet on a device.
 *
 *     #include "tensormem.h"
 *     #include "ascend.h"
 *
 *     tnm_ascend *npu;
 *     tnm_ctx *mem;
 *     tnm_ascend_desc which = {0};                                  // the first device
 *     if (tnm_ascend_open(&which, &npu) < 0) return puts(tnm_ascend_error(NULL));
 *     tnm_tier_desc tiers[2] = {{.name = "npu", .budget_bytes = 4ull << 30}, {.name = "host"}};
 *     tnm_desc desc = {.tiers = tiers, .tier_count = 2, .user = npu, .passed = tnm_ascend_passed};
 *     tnm_ascend_backend(npu, &tiers[0].backend);
 *     tnm_ascend_host(npu, &tiers[1].backend);                      // page-locked
 *     tnm_ascend_tier(npu, &tiers[0]), tnm_ascend_tier(npu, &tiers[1]);
 *     if (tnm_create(&desc, &mem) < 0) ...
 *     tnm_pin(mem, &use, 1, &at);
 *     launch(tnm_ascend_pointer(&at), tnm_ascend_queue(npu, 0));    // yours, asynchronous
 *     tnm_unpin(mem, &at, 1, TNM_FENCE(0, tnm_ascend_mark(npu, 0)));
 *     ...
 *     tnm_destroy(mem);
 *     tnm_ascend_close(npu);
 *
 * What the runtime demands, and who sees to it:
 *   - A tensor starts at a multiple of 64 and may be read up to its length rounded up to 32, and 32
 *     bytes more: tnm_ascend_tier writes that into a tnm_tier_desc (alignment, tail_bytes). Call it
 *     for the device tier and for the page-locked one.
 *   - Up to CANN 8.1 aclrtMemcpyAsync wants both addresses at multiples of 64 and host memory from
 *     aclrtMallocHost; what else it is given it copies wrong, or breaks the device, without a word.
 *     Only such copies are made in the background, with every release. The others (the caller's
 *     memory in tnm_read and tnm_write, odd places) aclrtMemcpy makes at once. Adopted memory (a
 *     mapped model) of more than 64 KiB a chunk goes through the context's staging instead as soon
 *     as tnm_ascend_host was taken: the CPU copies it into page-locked memory, and the device
 *     fetches it from there while kernels run. So go the bytes of a file below.
 *   - A thread that calls has a current context. Each callback sets ours and puts back what was
 *     there; on a thread that had none ours stays, since the runtime cannot take one away.
 *
 * Copies run on three streams of our own (up, down, within and between devices) beside your
 * kernels; what is pinned is what orders them. The copies of a run share one event, their ticket.
 *
 * The context is the device's default one, which torch_npu uses too (aclrtSetDevice counts its
 * users, aclrtResetDevice in close counts one less), or yours (desc.context). Streams that you hand
 * over belong to that context. Huge pages come first (desc.policy).
 *
 * aclInit is called by every open, which the runtime allows; close calls aclFinalizeReference where
 * the release counts. Older ones have aclFinalize alone, for the whole process: that is the
 * application's, or set desc.finalize in the tnm_ascend that you close last.
 *
 * Several devices: one tnm_ascend each. Their backends recognise each other and copy directly where
 * the devices can, else the bytes go through staging; the Atlas inference and training series want
 * desc.policy = 3 (ACL_MEM_MALLOC_HUGE_FIRST_P2P) for that. A page-locked tier serves them all.
 * There is one tnm_desc.passed: write one that asks tnm_ascend_passed of the device a queue is of,
 * and give each queue a number of its own in TNM_FENCE. So too where desc.user must be yours.
 *
 * Threads: one tnm_ascend belongs to one context of tensormem (open another for another).
 * tnm_ascend_mark may run beside everything else, by one thread at a time.
 *
 * Errors: out of memory is a refusal. A broken device (lost heartbeat, memory errors, the context
 * gone, a copy that failed when nobody can say any more which) is TNM_ERR_LOST everywhere and
 * UINT64_MAX from tnm_ascend_passed. Everything else is TNM_ERR_BACKEND, the number and the
 * runtime's words in tnm_ascend_error; where it hides how a copy ended, that copy stays PENDING
 * until the runtime says.
 *
 * What it does not do: repair or reset a device, run on the device's own CPU (RC mode), virtual
 * memory, batched copies (still a trial in CANN), sharing between processes, launching kernels.
 * The library is never unloaded. */
#ifndef TENSORMEM_ASCEND_H
#define TENSORMEM_ASCEND_H

#ifndef TNM_VERSION
#    error "include tensormem.h before ascend.h"
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#    include <windows.h>
#else
#    include <dlfcn.h>
#endif

typedef struct tnm_ascend tnm_ascend; /* one device: its streams and events */

typedef struct tnm_ascend_desc {
    int device;            /* the n-th that the runtime shows; ignored with a context */
    const char *library;   /* NULL = libascendcl.so */
    uint32_t queue_depth;  /* copies out at once, at most 128; 0 = 16 */
    void *context;         /* your aclrtContext, or NULL = the device's default one */
    void *const *streams;  /* your compute streams (aclrtStream): fence queues 0 .. */
    uint32_t stream_count; /* how many, at most 8; without `streams` made here, 0 = 1 */
    int policy;            /* aclrtMemMallocPolicy; 0 = huge pages first, 3 = the same for peers */
    int finalize;          /* 1: close ends AscendCL for the process where it does not count */
} tnm_ascend_desc;

enum {
    TNM_ASCEND_UP, /* lanes: host to device, device to host, device to device; kinds less one */
    TNM_ASCEND_DOWN,
    TNM_ASCEND_ACROSS,
    TNM_ASCEND_LANES,
    TNM_ASCEND_DEPTH = 128, /* where events are limited (1023 a device) all of ours fit */
    TNM_ASCEND_QUEUES = 8,
    TNM_ASCEND_MARKS = 64, /* fences outstanding in a queue */
    TNM_ASCEND_PEERS = 16,
    TNM_ASCEND_SMALL = 64 << 10, /* pageable memory that is not worth staging */
    TNM_ASCEND_ALIGN = 64, /* where copies start and end in the background, and tensors start */
    TNM_ASCEND_TAIL = 32,  /* readable behind a tensor; its place is a multiple of 64 */
    TNM_ASCEND_TRIES = 8,  /* of a call that must not be left undone */
    TNM_ASCEND_DOUBT = 16, /* NOT_READY so often in a row: is the stream still alive? */
    TNM_ASCEND_NO_CONTEXT = 107002
};

/* ---- the runtime: result 0 is success; handles are pointers, enumerations 32 bits ---- */
typedef struct tnm_ascend_attributes { /* aclrtPtrAttributes */
    uint32_t id;
    int type; /* 0 = host memory from the runtime */
    uint32_t page, reserved[4];
    uint32_t spare[16]; /* should a later release write more */
} tnm_ascend_attributes;

#define TNM_ASCEND_CALLS(X)                                                                        \
    X(init, aclInit, (const char *config))                                                         \
    X(count, aclrtGetDeviceCount, (uint32_t * count))                                              \
    X(set_device, aclrtSetDevice, (int32_t device))                                                \
    X(reset_device, aclrtResetDevice, (int32_t device))                                            \
    X(get_device, aclrtGetDevice, (int32_t * device))                                              \
    X(get_current, aclrtGetCurrentContext, (void **context))                                       \
    X(set_current, aclrtSetCurrentContext, (void *context))                                        \
    X(mem_info, aclrtGetMemInfo, (int attribute, size_t *available, size_t *total))                \
    X(mem_alloc, aclrtMalloc, (void **mem, size_t bytes, int policy))                              \
    X(mem_free, aclrtFree, (void *mem))                                                            \
    X(host_alloc, aclrtMallocHost, (void **host, size_t bytes))                                    \
    X(host_free, aclrtFreeHost, (void *host))                                                      \
    X(copy_now, aclrtMemcpy,                                                                       \
      (void *to, size_t capacity, const void *from, size_t bytes, int kind))                       \
    X(copy, aclrtMemcpyAsync,                                                                      \
      (void *to, size_t capacity, const void *from, size_t bytes, int kind, void *stream))         \
    X(stream_create, aclrtCreateStream, (void **stream))                                           \
    X(stream_wait, aclrtSynchronizeStream, (void *stream))                                         \
    X(stream_destroy, aclrtDestroyStream, (void *stream))                                          \
    X(event_create, aclrtCreateEvent, (void **event))                                              \
    X(event_record, aclrtRecordEvent, (void *event, void *stream))                                 \
    X(event_query, aclrtQueryEventStatus, (void *event, int *status))                              \
    X(event_wait, aclrtSynchronizeEvent, (void *event))                                            \
    X(event_destroy, aclrtDestroyEvent, (void *event))                                             \
    X(peer_can, aclrtDeviceCanAccessPeer, (int32_t * can, int32_t device, int32_t peer))           \
    X(peer_enable, aclrtDeviceEnablePeerAccess, (int32_t peer, uint32_t flags))

#define TNM_ASCEND_EXTRAS(X) /* NULL where a release lacks them */                                 \
    X(finalize, aclFinalize, (void))                                                               \
    X(let_go, aclFinalizeReference, (uint64_t * users))                                            \
    X(mem_alloc_32, aclrtMallocAlign32, (void **mem, size_t bytes, int policy))                    \
    X(event_create_flag, aclrtCreateEventWithFlag, (void **event, uint32_t flag))                  \
    X(stream_query, aclrtStreamQuery, (void *stream, int *status))                                 \
    X(attributes, aclrtPointerGetAttributes, (const void *at, tnm_ascend_attributes *out))

typedef struct tnm_ascend_runtime {
#define TNM_ASCEND_DECLARE(name, symbol, args) int(*name) args;
    TNM_ASCEND_CALLS(TNM_ASCEND_DECLARE)
    TNM_ASCEND_EXTRAS(TNM_ASCEND_DECLARE)
#undef TNM_ASCEND_DECLARE
    const char *(*message)(void); /* aclGetRecentErrMsg, or NULL */
} tnm_ascend_runtime;

typedef enum tnm_ascend_state {
    TNM_ASCEND_FREE, /* nobody waits for it; the last answer stands */
    TNM_ASCEND_OPEN, /* copies may be added */
    TNM_ASCEND_OUT,  /* its event is on the stream, behind them */
    TNM_ASCEND_DARK, /* they may run, without an event: only the stream says when they have ended */
    TNM_ASCEND_ENDED /* the answer is known and has not been told */
} tnm_ascend_state;

typedef struct tnm_ascend_batch { /* copies with one ticket */
    void *event;
    uint64_t ticket;
    uint32_t count;
    int lane;
    tnm_ascend_state state;
    tnm_result answer;
} tnm_ascend_batch;

typedef struct tnm_ascend_lane {
    void *stream;
    uint32_t open;    /* the batch that waits for the doorbell, + 1; 0 = none */
    uint32_t trusted; /* batches answered OK by their events since the stream said so itself */
    int failed;       /* something that ran did, and the stream has not been waited out yet */
} tnm_ascend_lane;

typedef struct tnm_ascend_shift { /* memory that starts behind what the runtime gave */
    struct tnm_ascend_shift *next;
    uint64_t mem;
    void *base;
} tnm_ascend_shift;

typedef struct tnm_ascend_peer {
    int32_t device;
    int reached;
} tnm_ascend_peer;

struct tnm_ascend {
    tnm_ascend_runtime acl;
    int32_t device;
    int policy, inited, is_set, finalize, host_taken;
    int lost; /* shared with tnm_ascend_mark, like `gone`, `marked` and `said` */
    int gone; /* the context is no more: no call into the runtime is safe */
    void *context;
    tnm_ascend_peer peer[TNM_ASCEND_PEERS];
    uint32_t peers, depth, out, unsure;
    uint64_t tickets;
    tnm_ascend_lane lane[TNM_ASCEND_LANES];
    tnm_ascend_batch batch[TNM_ASCEND_DEPTH];
    tnm_ascend_shift *shifts;
    uint32_t queues;
    int queues_made;
    void *queue[TNM_ASCEND_QUEUES];
    void *mark[TNM_ASCEND_QUEUES][TNM_ASCEND_MARKS]; /* fence v is at v % TNM_ASCEND_MARKS */
    uint64_t marked[TNM_ASCEND_QUEUES], seen[TNM_ASCEND_QUEUES];
    char error[2][240]; /* of the callbacks, of tnm_ascend_mark */
    int said;           /* which of them is the later one */
};

static char tnm_ascend_open_error[240];

#if defined(__GNUC__)
#    define TNM_ASCEND_GET(at)        __atomic_load_n(at, __ATOMIC_ACQUIRE)
#    define TNM_ASCEND_PUT(at, value) __atomic_store_n(at, value, __ATOMIC_RELEASE)
#else /* MSVC on x86 and x64: a volatile access is an acquire or a release */
#    define TNM_ASCEND_GET(at)        (*(at))
#    define TNM_ASCEND_PUT(at, value) (*(at) = (value))
#endif

/* ---- errors ---- */
static inline int tnm_ascend_is_fatal(int code) {
    static const int fatal[] = { TNM_ASCEND_NO_CONTEXT,
                                 507010 /* lost heartbeat */,
                                 507033 /* device set-up */,
                                 507053 /* memory error */,
                                 507054 /* HBM, several bits */,
                                 507055 /* memory suspected */,
                                 507901 /* connection closed */ };
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++)
        if (code == fatal[i]) return 1;
    return 0;
}

/* What a code means for the caller; the sentence goes to `page` of the error texts. */
static inline tnm_result tnm_ascend_blame(tnm_ascend *rt, int page, int code, const char *call) {
    if (code == 0) return TNM_OK;
    const char *why = rt->acl.message ? rt->acl.message() : NULL;
    if (!why) why = "";
    snprintf(rt->error[page], sizeof rt->error[page], "%s failed: %d%s%.*s", call, code,
             *why ? ": " : "", (int)strcspn(why, "\r\n"), why);
    TNM_ASCEND_PUT(&rt->said, page);
    if (tnm_ascend_is_fatal(code)) {
        if (code == TNM_ASCEND_NO_CONTEXT) TNM_ASCEND_PUT(&rt->gone, code);
        TNM_ASCEND_PUT(&rt->lost, 1);
        return TNM_ERR_LOST;
    }
    int memory = code == 207001 || code == 207018 || code == 200000 || code == 300000;
    return memory ? TNM_ERR_MEMORY : TNM_ERR_BACKEND;
}

static inline tnm_result tnm_ascend_judge(tnm_ascend *rt, int code, const char *call) {
    return tnm_ascend_blame(rt, 0, code, call);
}

static inline const char *tnm_ascend_error(const tnm_ascend *rt) {
    return rt ? rt->error[TNM_ASCEND_GET(&rt->said)] : tnm_ascend_open_error;
}

/* What is current on this thread, NULL = nothing. */
static inline int tnm_ascend_now(tnm_ascend *rt, void **context) {
    int code = 0;
    for (int i = 0; i < TNM_ASCEND_TRIES; i++) {
        *context = NULL;
        code = rt->acl.get_current(context);
        if (code == 0) return 0;
        *context = NULL;
        if (code == TNM_ASCEND_NO_CONTEXT) return 0;
    }
    return code;
}

/* Our context becomes the calling thread's; 0 = it is, and `was` must be put back. */
static inline int tnm_ascend_enter(tnm_ascend *rt, void **was) {
    int gone = TNM_ASCEND_GET(&rt->gone);
    if (gone) return gone;
    int code = tnm_ascend_now(rt, was);
    if (code || *was == rt->context) return code;
    return rt->acl.set_current(rt->context);
}

static inline void tnm_ascend_leave(tnm_ascend *rt, void *was) {
    if (!was || was == rt->context) return;
    for (int i = 0; i < TNM_ASCEND_TRIES; i++)
        if (rt->acl.set_current(was) == 0) return;
}

/* For what must not be left undone. */
static inline int tnm_ascend_insist(tnm_ascend *rt, void **was) {
    int code = tnm_ascend_enter(rt, was);
    for (int i = 1; code && !tnm_ascend_is_fatal(code) && i < TNM_ASCEND_TRIES; i++)
        code = tnm_ascend_enter(rt, was);
    (void)tnm_ascend_judge(rt, code, "aclrtSetCurrentContext");
    return code;
}

/* A lane was waited for. If something of it failed, that may be any of the copies it had: those
 * whose ticket is out have failed, and if others were answered OK already, the device is lost. */
static inline tnm_result tnm_ascend_verdict(tnm_ascend *rt, tnm_ascend_lane *lane) {
    tnm_result r = lane->failed ? TNM_ERR_BACKEND : TNM_OK;
    for (uint32_t i = 0; r != TNM_OK && i < rt->depth; i++) {
        tnm_ascend_batch *batch = &rt->batch[i];
        if (&rt->lane[batch->lane] != lane || batch->state == TNM_ASCEND_FREE ||
            batch->state == TNM_ASCEND_ENDED)
            continue;
        batch->state = TNM_ASCEND_ENDED;
        batch->answer = TNM_ERR_BACKEND;
        lane->open = 0;
    }
    if (r != TNM_OK && lane->trusted) {
        TNM_ASCEND_PUT(&rt->lost, 1);
        r = TNM_ERR_LOST;
    }
    lane->trusted = 0;
    lane->failed = 0;
    return r;
}

/* Wait until nothing of a stream runs. OK: all went well. BACKEND: something did not (codes from
 * 500000 on are of what ran, the others of the call), but it is over. LOST: the runtime says so.
 * PENDING: no end can be learnt at present; errors of the call do not say that a device is gone,
 * however often they come. */
static inline tnm_result tnm_ascend_settle(tnm_ascend *rt, void *stream) {
    tnm_ascend_lane *lane = NULL; /* NULL: a stream of kernels */
    int failed = 0;
    for (int i = 0; i < TNM_ASCEND_LANES; i++)
        if (rt->lane[i].stream == stream) lane = &rt->lane[i];
    for (int i = 0; i < TNM_ASCEND_TRIES; i++) {
        int code = rt->acl.stream_wait(stream);
        tnm_result r = tnm_ascend_judge(rt, code, "aclrtSynchronizeStream");
        if (r == TNM_ERR_LOST) return r;
        if (r == TNM_OK && lane) return tnm_ascend_verdict(rt, lane);
        if (r == TNM_OK) return failed ? TNM_ERR_BACKEND : TNM_OK;
        if (code < 500000) continue;
        failed = 1;
        if (lane) lane->failed = 1;
    }
    return TNM_PENDING;
}

/* ---- memory ---- */
static inline int tnm_ascend_grab(tnm_ascend *rt, int host, size_t bytes, void **base) {
    *base = NULL;
    int code = host                   ? rt->acl.host_alloc(base, bytes)
               : rt->acl.mem_alloc_32 ? rt->acl.mem_alloc_32(base, bytes, rt->policy)
                                      : rt->acl.mem_alloc(base, bytes, rt->policy);
    return code || *base ? code : 207001; /* no memory and no error: taken for the error */
}

static inline tnm_result tnm_ascend_take(tnm_ascend *rt, int host, uint64_t size, uint64_t align,
                                         uint64_t *mem) {
    void *was, *base = NULL;
    uint64_t mask = align - 1;
    if (size > PTRDIFF_MAX / 2 || align > PTRDIFF_MAX / 4) return TNM_ERR_MEMORY;
    int code = tnm_ascend_enter(rt, &was);
    if (code) return tnm_ascend_judge(rt, code, "aclrtSetCurrentContext");
    code = tnm_ascend_grab(rt, host, (size_t)size, &base);
    if (!code && ((uintptr_t)base & mask)) { /* 64 is promised; more is paid for */
        tnm_ascend_shift *shift = (tnm_ascend_shift *)malloc(sizeof *shift);
        (void)(host ? rt->acl.host_free(base) : rt->acl.mem_free(base));
        code = shift ? tnm_ascend_grab(rt, host, (size_t)(size + align), &base) : 200000;
        if (code) {
            free(shift);
        } else {
            shift->base = base;
            shift->mem = ((uintptr_t)base + mask) & ~mask;
            shift->next = rt->shifts;
            rt->shifts = shift;
        }
    }
    tnm_ascend_leave(rt, was);
    *mem = ((uintptr_t)base + mask) & ~mask;
    return tnm_ascend_judge(rt, code, host ? "aclrtMallocHost" : "aclrtMalloc");
}

static inline void tnm_ascend_give(tnm_ascend *rt, int host, uint64_t mem) {
    void *was, *base = (void *)(uintptr_t)mem;
    for (tnm_ascend_shift **at = &rt->shifts; *at; at = &(*at)->next) {
        tnm_ascend_shift *shift = *at;
        if (shift->mem != mem) continue;
        base = shift->base;
        *at = shift->next;
        free(shift);
        break;
    }
    if (tnm_ascend_insist(rt, &was)) return; /* the context is gone, and the memory with it */
    int code = host ? rt->acl.host_free(base) : rt->acl.mem_free(base);
    tnm_ascend_leave(rt, was);
    (void)tnm_ascend_judge(rt, code, host ? "aclrtFreeHost" : "aclrtFree");
}

static inline tnm_result tnm_ascend_alloc(void *user, uint64_t size, uint64_t align, void *item,
                                          uint64_t *mem, void **host) {
    tnm_ascend *rt = (tnm_ascend *)user;
    (void)item;
    *host = NULL;
    if (TNM_ASCEND_GET(&rt->lost)) return TNM_ERR_LOST;
    return tnm_ascend_take(rt, 0, size, align, mem);
}

static inline void tnm_ascend_release(void *user, uint64_t mem, uint64_t size) {
    (void)size;
    tnm_ascend_give((tnm_ascend *)user, 0, mem);
}

static inline tnm_result tnm_ascend_host_alloc(void *user, uint64_t size, uint64_t align,
                                               void *item, uint64_t *mem, void **host) {
    (void)item;
    tnm_result r = tnm_ascend_take((tnm_ascend *)user, 1, size, align, mem);
    *host = r == TNM_OK ? (void *)(uintptr_t)*mem : NULL;
    return r;
}

static inline void tnm_ascend_host_release(void *user, uint64_t mem, uint64_t size) {
    (void)size;
    tnm_ascend_give((tnm_ascend *)user, 1, mem);
}

/* Between host and host only: what touches a device is asked of that device. */
static inline tnm_result tnm_ascend_host_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                              uint64_t size, uint64_t *ticket) {
    (void)user, (void)ticket;
    if (!dst->host || !src->host) return TNM_ERR_UNSUPPORTED;
    if (size > SIZE_MAX / 2) return TNM_ERR_BACKEND;
    memcpy(dst->host, src->host, (size_t)size);
    return TNM_OK;
}

/* What the driver calls HBM, or DDR where there is none of the former. */
static inline uint64_t tnm_ascend_available(void *user) {
    tnm_ascend *rt = (tnm_ascend *)user;
    size_t available = 0, total = 0;
    void *was;
    if (TNM_ASCEND_GET(&rt->lost)) return 0;
    if (tnm_ascend_enter(rt, &was)) return UINT64_MAX; /* unknown: alloc will tell */
    for (int attribute = 1; attribute >= 0 && total == 0; attribute--)
        if (rt->acl.mem_info(attribute, &available, &total)) total = 0;
    tnm_ascend_leave(rt, was);
    return total ? available : UINT64_MAX;
}

/* ---- copies ---- */
static inline tnm_result tnm_ascend_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                         uint64_t size, uint64_t *ticket);

/* The device whose memory this is, or NULL. */
static inline tnm_ascend *tnm_ascend_of(const tnm_span *span) {
    int ours = span->backend && span->backend->copy == tnm_ascend_copy;
    return ours ? (tnm_ascend *)span->backend->user : NULL;
}

static inline int tnm_ascend_knows(tnm_ascend *rt, const void *at) {
    tnm_ascend_attributes found;
    memset(&found, 0, sizeof found);
    found.type = -1;
    return rt->acl.attributes(at, &found) == 0 && found.type == 0;
}

/* Is this host memory page-locked? Asked of the runtime where it is worth the call. */
static inline int tnm_ascend_is_locked(tnm_ascend *rt, const tnm_span *span, size_t size) {
    void *was;
    if (!span->adopted && span->backend && span->backend->copy == tnm_ascend_host_copy) return 1;
    if (!rt->acl.attributes || size <= TNM_ASCEND_SMALL) return 0;
    if ((uintptr_t)span->host % TNM_ASCEND_ALIGN || tnm_ascend_enter(rt, &was)) return 0;
    int locked =
        tnm_ascend_knows(rt, span->host) && tnm_ascend_knows(rt, (char *)span->host + size - 1);
    tnm_ascend_leave(rt, was);
    return locked;
}

/* A way to a sibling's memory, asked for once; NULL = there is none. The context is ours. */
static inline tnm_ascend_peer *tnm_ascend_befriend(tnm_ascend *rt, const tnm_ascend *kin) {
    int32_t can = 0;
    for (uint32_t i = 0; i < rt->peers; i++)
        if (rt->peer[i].device == kin->device) return rt->peer[i].reached ? &rt->peer[i] : NULL;
    if (rt->peers == TNM_ASCEND_PEERS) return NULL;
    tnm_ascend_peer *peer = &rt->peer[rt->peers];
    peer->device = kin->device;
    peer->reached = rt->device == kin->device;
    if (!peer->reached) {
        if (rt->acl.peer_can(&can, rt->device, kin->device)) return NULL; /* ask again */
        if (can && rt->acl.peer_enable(kin->device, 0)) return NULL;
        peer->reached = can != 0;
    }
    rt->peers++;
    return peer->reached ? peer : NULL;
}

/* A batch of a lane that nobody has yet. There is one: each that is out holds a copy at least. */
static inline uint32_t tnm_ascend_fresh(tnm_ascend *rt, int lane, tnm_ascend_state state) {
    uint32_t slot = 0;
    while (rt->batch[slot].state != TNM_ASCEND_FREE)
        slot++;
    tnm_ascend_batch *fresh = &rt->batch[slot];
    fresh->ticket = ++rt->tickets * TNM_ASCEND_DEPTH + slot;
    fresh->state = state;
    fresh->lane = lane;
    fresh->count = 0;
    return slot;
}

/* The ticket of the lane's open batch, with one copy more. */
static inline uint64_t tnm_ascend_add(tnm_ascend *rt, int which) {
    tnm_ascend_lane *lane = &rt->lane[which];
    if (!lane->open) lane->open = tnm_ascend_fresh(rt, which, TNM_ASCEND_OPEN) + 1;
    tnm_ascend_batch *batch = &rt->batch[lane->open - 1];
    batch->count++;
    rt->out++;
    return batch->ticket;
}

/* The ticket of one that was refused with `answer`, and may run all the same. */
static inline uint64_t tnm_ascend_owe(tnm_ascend *rt, int lane, tnm_result answer) {
    tnm_ascend_batch *batch = &rt->batch[tnm_ascend_fresh(rt, lane, TNM_ASCEND_DARK)];
    batch->answer = answer;
    batch->count = 1;
    rt->out++;
    return batch->ticket;
}

/* One copy, in the background or (odd places, pageable memory) done when it returns. What was
 * refused may have been begun: the stream is waited for, so that an error says that nothing is
 * written any more; where it cannot be, the answer is PENDING. The context is ours. */
static inline tnm_result tnm_ascend_issue(tnm_ascend *rt, int lane, void *to, const void *from,
                                          size_t bytes, const tnm_ascend *kin, int now,
                                          uint64_t *ticket) {
    void *stream = rt->lane[lane].stream;
    tnm_ascend_peer *peer = NULL;
    if (kin != rt) {
        peer = tnm_ascend_befriend(rt, kin);
        if (!peer) return TNM_ERR_UNSUPPORTED;
    }
    int code = now ? rt->acl.copy_now(to, bytes, from, bytes, lane + 1)
                   : rt->acl.copy(to, bytes, from, bytes, lane + 1, stream);
    if (code == 0) return TNM_OK;
    if (peer && code == 207000) { /* not a feature of this pair */
        peer->reached = 0;
        return TNM_ERR_UNSUPPORTED;
    }
    if (peer && tnm_ascend_is_fatal(code)) code = 507057; /* a remote error, unless settle knows */
    tnm_result r = tnm_ascend_judge(rt, code, now ? "aclrtMemcpy" : "aclrtMemcpyAsync");
    if (r == TNM_ERR_LOST) return r;
    tnm_result end = tnm_ascend_settle(rt, stream);
    if (end == TNM_PENDING) *ticket = tnm_ascend_owe(rt, lane, r);
    return end == TNM_PENDING || end == TNM_ERR_LOST ? end : r;
}

static inline tnm_result tnm_ascend_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                         uint64_t size, uint64_t *ticket) {
    tnm_ascend *rt = (tnm_ascend *)user, *to = tnm_ascend_of(dst), *from = tnm_ascend_of(src);
    const tnm_span *end = to ? src : dst; /* the one in host memory, if one is */
    int lane = !from ? TNM_ASCEND_UP : !to ? TNM_ASCEND_DOWN : TNM_ASCEND_ACROSS;
    void *was;
    if (TNM_ASCEND_GET(&rt->lost)) return TNM_ERR_LOST;
    if (to ? to != rt : from != rt) return TNM_ERR_UNSUPPORTED;
    if (to && from ? TNM_ASCEND_GET(&from->lost) || from->acl.init != rt->acl.init : !end->host)
        return TNM_ERR_UNSUPPORTED;
    if (size > SIZE_MAX / 2) return TNM_ERR_BACKEND;
    uintptr_t a = to ? (uintptr_t)(dst->mem + dst->offset) : (uintptr_t)dst->host;
    uintptr_t b = from ? (uintptr_t)(src->mem + src->offset) : (uintptr_t)src->host;
    int locked = (to && from) || tnm_ascend_is_locked(rt, end, (size_t)size);
    int odd = (a | b) % TNM_ASCEND_ALIGN != 0;
    if (!locked && end->adopted && rt->host_taken && size > TNM_ASCEND_SMALL)
        return TNM_ERR_UNSUPPORTED;
    if (rt->out == rt->depth) return TNM_ERR_BUSY;
    int code = tnm_ascend_enter(rt, &was);
    tnm_result r = tnm_ascend_judge(rt, code, "aclrtSetCurrentContext");
    if (r != TNM_OK) return r;
    const tnm_ascend *kin = to && from ? from : rt;
    int now = !locked || odd;
    r = tnm_ascend_issue(rt, lane, (void *)a, (const void *)b, (size_t)size, kin, now, ticket);
    if (r == TNM_OK && !now) {
        *ticket = tnm_ascend_add(rt, lane);
        r = TNM_PENDING;
    }
    tnm_ascend_leave(rt, was);
    return r;
}

/* The doorbell: an event behind the copies of each lane. */
static inline void tnm_ascend_submit(void *user) {
    tnm_ascend *rt = (tnm_ascend *)user;
    void *was = NULL;
    int code = 0, entered = 0;
    for (int i = 0; i < TNM_ASCEND_LANES; i++) {
        tnm_ascend_lane *lane = &rt->lane[i];
        if (!lane->open) continue;
        if (!entered++) code = tnm_ascend_insist(rt, &was);
        tnm_ascend_batch *batch = &rt->batch[lane->open - 1];
        lane->open = 0;
        batch->state = TNM_ASCEND_DARK;
        batch->answer = TNM_OK;
        if (code) continue; /* for now: only the stream will tell */
        int unrecorded = rt->acl.event_record(batch->event, lane->stream);
        if (tnm_ascend_judge(rt, unrecorded, "aclrtRecordEvent") == TNM_OK)
            batch->state = TNM_ASCEND_OUT;
    }
    if (entered && !code) tnm_ascend_leave(rt, was);
}

/* An event whose task failed stays NOT_READY for ever: now and then the stream is looked at, or a
 * lane waited for where streams cannot be asked. The context is ours. */
static inline tnm_result tnm_ascend_doubt(tnm_ascend *rt, void *event, void *stream, int lane) {
    int status = 0, code = 0; /* of a stream: 0 = ACL_STREAM_STATUS_COMPLETE */
    uint32_t patience = rt->acl.stream_query ? TNM_ASCEND_DOUBT : 64 * TNM_ASCEND_DOUBT;
    if (++rt->unsure % patience || (lane < 0 && !rt->acl.stream_query)) return TNM_PENDING;
    if (rt->acl.stream_query) code = rt->acl.stream_query(stream, &status);
    if (code == 0 && status != 0) return TNM_PENDING;
    if (tnm_ascend_judge(rt, code, "aclrtStreamQuery") == TNM_ERR_LOST) return TNM_ERR_LOST;
    tnm_result r = tnm_ascend_settle(rt, stream);
    if (r != TNM_OK) return r;
    code = rt->acl.event_query(event, &status);  /* of an event: 1 = complete */
    if (code == 0 && status != 1) code = 507006; /* ACL_ERROR_RT_EVENT_NOT_COMPLETE */
    return tnm_ascend_judge(rt, code, "aclrtQueryEventStatus");
}

/* The same of a stream that has no event behind the work. The context is ours. */
static inline tnm_result tnm_ascend_ask_stream(tnm_ascend *rt, void *stream, int wait) {
    int status = 0; /* ACL_STREAM_STATUS_COMPLETE */
    if (!wait && rt->acl.stream_query && rt->acl.stream_query(stream, &status) == 0 && status != 0)
        return TNM_PENDING;
    return tnm_ascend_settle(rt, stream);
}

/* What an event says about the work before it, or the stream if there is none: OK, PENDING, LOST,
 * or BACKEND: something failed, and nothing of the stream runs any more. */
static inline tnm_result tnm_ascend_ask(tnm_ascend *rt, void *event, void *stream, int lane,
                                        int wait) {
    void *was;
    int status = 0, code = 0; /* 1 = ACL_EVENT_RECORDED_STATUS_COMPLETE */
    if (tnm_ascend_insist(rt, &was)) return TNM_PENDING; /* unless it is lost, which is known now */
    if (event) code = wait ? rt->acl.event_wait(event) : rt->acl.event_query(event, &status);
    tnm_result r =
        tnm_ascend_judge(rt, code, wait ? "aclrtSynchronizeEvent" : "aclrtQueryEventStatus");
    if (code && r != TNM_ERR_LOST) {
        r = tnm_ascend_settle(rt, stream);
        if (r == TNM_OK) r = TNM_ERR_BACKEND;
    } else if (!event) {
        r = tnm_ascend_ask_stream(rt, stream, wait);
    } else if (r == TNM_OK && !wait && status != 1) {
        r = tnm_ascend_doubt(rt, event, stream, lane);
    }
    if (r != TNM_PENDING) rt->unsure = 0;
    tnm_ascend_leave(rt, was);
    return r;
}

/* An event completes whether or not the copies before it went well: only waiting for the stream
 * tells. That is done when a batch was the last one out, and takes no time then. */
static inline tnm_result tnm_ascend_prove(tnm_ascend *rt, const tnm_ascend_batch *batch) {
    tnm_ascend_lane *lane = &rt->lane[batch->lane];
    void *was;
    for (uint32_t i = 0; i < rt->depth; i++) {
        const tnm_ascend_batch *other = &rt->batch[i];
        if (other == batch || other->lane != batch->lane) continue;
        if (other->state != TNM_ASCEND_OUT && other->state != TNM_ASCEND_OPEN) continue;
        lane->trusted++;
        return TNM_OK;
    }
    if (tnm_ascend_insist(rt, &was)) return TNM_PENDING;
    tnm_result r = tnm_ascend_settle(rt, lane->stream);
    tnm_ascend_leave(rt, was);
    return r;
}

static inline tnm_result tnm_ascend_end(tnm_ascend *rt, uint64_t ticket, int wait) {
    tnm_ascend_batch *batch = &rt->batch[ticket % TNM_ASCEND_DEPTH];
    if (batch->ticket != ticket) return TNM_ERR_BACKEND; /* not ours, or answered long ago */
    if (batch->state == TNM_ASCEND_FREE) return batch->answer;
    if (batch->state == TNM_ASCEND_OPEN) tnm_ascend_submit(rt);
    tnm_result r = batch->answer;
    if (batch->state != TNM_ASCEND_ENDED) {
        void *event = batch->state == TNM_ASCEND_OUT ? batch->event : NULL;
        r = tnm_ascend_ask(rt, event, rt->lane[batch->lane].stream, batch->lane, wait);
        if (r == TNM_OK && event) r = tnm_ascend_prove(rt, batch);
        if (r == TNM_OK) r = batch->answer;
    }
    if (TNM_ASCEND_GET(&rt->lost)) r = TNM_ERR_LOST;
    if (r == TNM_PENDING) return r;
    batch->answer = r;
    batch->state = TNM_ASCEND_FREE;
    rt->out -= batch->count;
    return r;
}

static inline tnm_result tnm_ascend_poll(void *user, uint64_t ticket) {
    return tnm_ascend_end((tnm_ascend *)user, ticket, 0);
}

static inline tnm_result tnm_ascend_wait(void *user, uint64_t ticket) {
    return tnm_ascend_end((tnm_ascend *)user, ticket, 1);
}

static inline void tnm_ascend_backend(tnm_ascend *rt, tnm_backend *out) {
    memset(out, 0, sizeof *out);
    out->alloc = tnm_ascend_alloc;
    out->release = tnm_ascend_release;
    out->copy = tnm_ascend_copy;
    out->submit = tnm_ascend_submit;
    out->poll = tnm_ascend_poll;
    out->wait = tnm_ascend_wait;
    out->available = tnm_ascend_available;
    out->user = rt;
}

static inline void tnm_ascend_host(tnm_ascend *rt, tnm_backend *out) {
    memset(out, 0, sizeof *out);
    out->alloc = tnm_ascend_host_alloc;
    out->release = tnm_ascend_host_release;
    out->copy = tnm_ascend_host_copy;
    out->user = rt;
    out->host_visible = 1;
    rt->host_taken = 1;
}

/* What operators and copies want of the places in a tier; raises, never lowers. */
static inline void tnm_ascend_tier(const tnm_ascend *rt, tnm_tier_desc *tier) {
    (void)rt;
    if (tier->alignment && tier->alignment < TNM_ASCEND_ALIGN) tier->alignment = TNM_ASCEND_ALIGN;
    if (tier->tail_bytes < TNM_ASCEND_TAIL) tier->tail_bytes = TNM_ASCEND_TAIL;
}

/* ---- fences: the n-th mark of a queue is fence value n ---- */
/* A value behind all work queued there so far. Waits while 64 are outstanding. 0 = failed: as
 * a fence it is refused and the pin stays, so wait for the stream, then unpin with fence 0. */
static inline uint64_t tnm_ascend_mark(tnm_ascend *rt, uint32_t queue) {
    void *was;
    if (queue >= rt->queues || TNM_ASCEND_GET(&rt->lost)) return 0;
    uint64_t value = rt->marked[queue] + 1;
    void *event = rt->mark[queue][value % TNM_ASCEND_MARKS];
    int code = tnm_ascend_enter(rt, &was);
    if (tnm_ascend_blame(rt, 1, code, "aclrtSetCurrentContext") != TNM_OK) return 0;
    if (value > TNM_ASCEND_MARKS) code = rt->acl.event_wait(event);
    if (!code) code = rt->acl.event_record(event, rt->queue[queue]);
    tnm_ascend_leave(rt, was);
    if (tnm_ascend_blame(rt, 1, code, "aclrtRecordEvent") != TNM_OK) return 0;
    TNM_ASCEND_PUT(&rt->marked[queue], value);
    return value;
}

/* For tnm_desc.passed. An event that tnm_ascend_mark records anew meanwhile passes later, not
 * earlier. Where kernels failed the fence passes when nothing runs any more: the error is for
 * whoever waits for the stream. */
static inline uint64_t tnm_ascend_passed(void *user, uint32_t queue, uint64_t wait_for) {
    tnm_ascend *rt = (tnm_ascend *)user;
    tnm_result r = TNM_OK;
    if (queue >= rt->queues) return UINT64_MAX;
    uint64_t marked = TNM_ASCEND_GET(&rt->marked[queue]);
    while (r != TNM_PENDING && rt->seen[queue] < marked && !TNM_ASCEND_GET(&rt->lost)) {
        uint64_t next = rt->seen[queue] + 1; /* waiting for one is waiting for all before it */
        if (wait_for > next && wait_for <= marked) next = wait_for;
        r = tnm_ascend_ask(rt, rt->mark[queue][next % TNM_ASCEND_MARKS], rt->queue[queue], -1,
                           wait_for >= next);
        if (r == TNM_OK || r == TNM_ERR_BACKEND) rt->seen[queue] = next;
    }
    return TNM_ASCEND_GET(&rt->lost) ? UINT64_MAX : rt->seen[queue];
}

/* ---- for whoever launches kernels ---- */
static inline void *tnm_ascend_pointer(const tnm_pinned *at) { /* of the device tier */
    return (void *)(uintptr_t)(at->mem + at->offset);
}

static inline void *tnm_ascend_queue(const tnm_ascend *rt, uint32_t queue) { /* an aclrtStream */
    return queue < rt->queues ? rt->queue[queue] : NULL;
}

static inline void *tnm_ascend_context(const tnm_ascend *rt) { /* the aclrtContext */
    return rt->context;
}

/* ---- open and close ---- */
static inline void *tnm_ascend_symbol(void *library, const char *name) {
#ifdef _WIN32
    void *at = NULL;
    FARPROC found = GetProcAddress((HMODULE)library, name);
    memcpy(&at, &found, sizeof at);
    return at;
#else
    return dlsym(library, name);
#endif
}

static inline void *tnm_ascend_library(const char *name) {
#ifdef _WIN32
    return name ? (void *)LoadLibraryA(name) : NULL; /* CANN is for Linux */
#else
    return dlopen(name ? name : "libascendcl.so", RTLD_NOW | RTLD_LOCAL);
#endif
}

static inline tnm_result tnm_ascend_load(tnm_ascend *rt, const char *name) {
    void *library = tnm_ascend_library(name), *at;
    if (!name) name = "libascendcl.so";
    if (!library) {
        snprintf(rt->error[0], sizeof rt->error[0],
                 "the AscendCL runtime %s cannot be loaded: CANN's set_env.sh tells where it is",
                 name);
        return TNM_ERR_UNSUPPORTED;
    }
#define TNM_ASCEND_FIND(member, symbol, args)                                                      \
    at = tnm_ascend_symbol(library, #symbol);                                                      \
    if (!at) {                                                                                     \
        snprintf(rt->error[0], sizeof rt->error[0], "%s has no function %s", name, #symbol);       \
        return TNM_ERR_UNSUPPORTED;                                                                \
    }                                                                                              \
    memcpy(&rt->acl.member, &at, sizeof at);
#define TNM_ASCEND_SEEK(member, symbol, args)                                                      \
    at = tnm_ascend_symbol(library, #symbol);                                                      \
    memcpy(&rt->acl.member, &at, sizeof at);
    TNM_ASCEND_CALLS(TNM_ASCEND_FIND)
    TNM_ASCEND_EXTRAS(TNM_ASCEND_SEEK)
#undef TNM_ASCEND_FIND
#undef TNM_ASCEND_SEEK
    at = tnm_ascend_symbol(library, "aclGetRecentErrMsg");
    memcpy(&rt->acl.message, &at, sizeof at);
    return TNM_OK;
}

/* The runtime and what it shows. */
static inline tnm_result tnm_ascend_start(tnm_ascend *rt, const tnm_ascend_desc *desc) {
    uint32_t count = 0;
    const char *call = "aclInit";
    int code = rt->acl.init(NULL);
    rt->inited = code == 0 || code == 100002; /* ACL_ERROR_REPEAT_INITIALIZE: not the first */
    if (rt->inited) {
        code = rt->acl.count(&count);
        call = "aclrtGetDeviceCount";
    }
    int absent =
        code == 207004 || code == 507008 || code == 507033; /* no device, not of this kind */
    if (absent) count = 0;
    if (code && !absent) return tnm_ascend_judge(rt, code, call);
    if (!absent && (desc->context || (desc->device >= 0 && (uint32_t)desc->device < count)))
        return TNM_OK;
    snprintf(rt->error[0], sizeof rt->error[0], "AscendCL shows %u devices: no number %d",
             (unsigned)count, desc->device);
    return TNM_ERR_UNSUPPORTED;
}

/* The device and its context, which is left current. */
static inline tnm_result tnm_ascend_choose(tnm_ascend *rt, const tnm_ascend_desc *desc) {
    int code;
    if (desc->context) {
        code = rt->acl.set_current(desc->context);
    } else {
        code = rt->acl.set_device(desc->device);
        rt->is_set = !code;
        rt->device = desc->device;
    }
    if (code)
        return tnm_ascend_judge(rt, code,
                                desc->context ? "aclrtSetCurrentContext" : "aclrtSetDevice");
    code = rt->acl.get_device(&rt->device);
    if (code) return tnm_ascend_judge(rt, code, "aclrtGetDevice");
    code = rt->acl.get_current(&rt->context);
    return tnm_ascend_judge(rt, code, "aclrtGetCurrentContext");
}

/* An event that follows a stream and is no synchronisation between streams: those are scarce. */
static inline int tnm_ascend_event(tnm_ascend *rt, void **event) {
    if (rt->acl.event_create_flag) /* ACL_EVENT_CAPTURE_STREAM_PROGRESS */
        return rt->acl.event_create_flag(event, 2);
    return rt->acl.event_create(event);
}

/* Streams and events. The context is ours. */
static inline tnm_result tnm_ascend_equip(tnm_ascend *rt, const tnm_ascend_desc *desc) {
    int code = 0;
    for (int i = 0; !code && i < TNM_ASCEND_LANES; i++)
        code = rt->acl.stream_create(&rt->lane[i].stream);
    for (uint32_t q = 0; !code && q < rt->queues; q++) {
        if (desc->streams)
            rt->queue[q] = desc->streams[q];
        else
            code = rt->acl.stream_create(&rt->queue[q]);
    }
    if (code) return tnm_ascend_judge(rt, code, "aclrtCreateStream");
    for (uint32_t i = 0; !code && i < rt->depth; i++)
        code = tnm_ascend_event(rt, &rt->batch[i].event);
    for (uint32_t i = 0; !code && i < rt->queues * TNM_ASCEND_MARKS; i++)
        code = tnm_ascend_event(rt, &rt->mark[i / TNM_ASCEND_MARKS][i % TNM_ASCEND_MARKS]);
    return tnm_ascend_judge(rt, code, "aclrtCreateEvent");
}

/* What still runs on it is waited for. The context is ours. */
static inline void tnm_ascend_end_stream(tnm_ascend *rt, void *stream) {
    if (!stream) return;
    (void)rt->acl.stream_wait(stream);
    (void)rt->acl.stream_destroy(stream);
}

static inline void tnm_ascend_strip(tnm_ascend *rt) {
    for (int i = 0; i < TNM_ASCEND_LANES; i++)
        tnm_ascend_end_stream(rt, rt->lane[i].stream);
    for (uint32_t q = 0; rt->queues_made && q < rt->queues; q++)
        tnm_ascend_end_stream(rt, rt->queue[q]);
    for (uint32_t i = 0; i < rt->depth; i++)
        if (rt->batch[i].event) (void)rt->acl.event_destroy(rt->batch[i].event);
    for (uint32_t i = 0; i < rt->queues * TNM_ASCEND_MARKS; i++) {
        void *event = rt->mark[i / TNM_ASCEND_MARKS][i % TNM_ASCEND_MARKS];
        if (event) (void)rt->acl.event_destroy(event);
    }
}

/* After tnm_destroy. */
static inline void tnm_ascend_close(tnm_ascend *rt) {
    void *was;
    if (!rt) return;
    if (rt->context && !tnm_ascend_insist(rt, &was)) {
        tnm_ascend_strip(rt);
        tnm_ascend_leave(rt, was);
    }
    while (rt->shifts) {
        tnm_ascend_shift *next = rt->shifts->next;
        free(rt->shifts);
        rt->shifts = next;
    }
    if (rt->is_set) (void)rt->acl.reset_device(rt->device);
    if (rt->inited && rt->acl.let_go)
        (void)rt->acl.let_go(NULL);
    else if (rt->inited && rt->finalize && rt->acl.finalize)
        (void)rt->acl.finalize();
    free(rt);
}

static inline tnm_result tnm_ascend_set_up(tnm_ascend *rt, const tnm_ascend_desc *desc) {
    void *was = NULL;
    tnm_result r = tnm_ascend_load(rt, desc->library);
    if (r == TNM_OK) r = tnm_ascend_start(rt, desc);
    if (r != TNM_OK) return r;
    int code = tnm_ascend_now(rt, &was);
    if (code) return tnm_ascend_judge(rt, code, "aclrtGetCurrentContext");
    r = tnm_ascend_choose(rt, desc);
    if (r == TNM_OK) r = tnm_ascend_equip(rt, desc);
    tnm_ascend_leave(rt, was);
    return r;
}

/* UNSUPPORTED: no library, it lacks a function, or it shows no such device. */
static inline tnm_result tnm_ascend_open(const tnm_ascend_desc *desc, tnm_ascend **out) {
    tnm_ascend_desc none;
    memset(&none, 0, sizeof none);
    if (!desc) desc = &none;
    *out = NULL;
    tnm_ascend_open_error[0] = 0;
    tnm_ascend *rt = (tnm_ascend *)calloc(1, sizeof *rt);
    if (!rt) return TNM_ERR_MEMORY;
    rt->depth = desc->queue_depth ? desc->queue_depth : 16;
    if (rt->depth > TNM_ASCEND_DEPTH) rt->depth = TNM_ASCEND_DEPTH;
    rt->queues = desc->stream_count || desc->streams ? desc->stream_count : 1;
    if (rt->queues > TNM_ASCEND_QUEUES) rt->queues = TNM_ASCEND_QUEUES;
    rt->queues_made = !desc->streams;
    rt->policy = desc->policy;
    rt->finalize = desc->finalize;
    tnm_result r = tnm_ascend_set_up(rt, desc);
    if (r == TNM_OK) {
        *out = rt;
        return TNM_OK;
    }
    snprintf(tnm_ascend_open_error, sizeof tnm_ascend_open_error, "%s", tnm_ascend_error(rt));
    tnm_ascend_close(rt);
    return r;
}

#endif
