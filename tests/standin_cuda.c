/* needs: -pthread */
/* standin_cuda.c: a CUDA driver over host memory, for machines without a device. A shared library
 * with the functions that examples/backends/cuda.h calls. It does what their documentation says,
 * late, and enforces what it demands: the rules of standin_machine.h, and
 *
 *   - device addresses are aligned to 256 and no more; page-locked memory to 512
 *   - memory is of the device that a copy names
 *   - copies of pageable memory are not in the background: to the host they are done at the return,
 *     from it the bytes were taken
 *   - a fatal error stays: every later call into that context answers it
 *   - what pushes a context pops it; what was retained is released as often
 *
 * Environment besides that of the machine, read by cuInit: STANDIN_UNIFIED (0; 1 = integrated, 2 =
 * the host's page tables), STANDIN_BATCH (1).
 *
 * For tests: standin_lose() breaks every device. standin_capture() begins or ends the capture of a
 * stream: its events cannot be asked for, nor can it.
 *
 * tests/standin_hip.c is this behind the names of HIP. */
#ifdef STANDIN_HIP
#    define FIRST_CALL "hipInit"
#else
#    define FIRST_CALL "cuInit"
#endif
#include "standin_machine.h"

enum { STACK = 16 };
enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101 };
enum { INVALID_CONTEXT = 201, NOT_FOUND = 500, NOT_READY = 600, BROKEN = 700, ALREADY = 704 };
enum { UNSUPPORTED = 801, CAPTURING = 900, CAPTURED = 907 };

static int unified, batch_can;
#ifdef STANDIN_HIP
enum { INTEGRATED = 16, PAGE_TABLES = 66 };
static __thread int current_device;
static __thread int last_error;
#else
enum { INTEGRATED = 18, PAGE_TABLES = 100 };
static __thread context *stack[STACK];
static __thread int depth;
#endif

/* ---- what is the machine's to ask ---- */
static int is_fatal(int code) {
    return code == 4 || code == 214 || code == 220 || code == 700 || code == 702 || code == 709 ||
           code == 710 || (code >= 714 && code <= 719);
}

static context *current(void) {
#ifdef STANDIN_HIP
    return &contexts[current_device];
#else
    return depth > 0 ? stack[depth - 1] : NULL;
#endif
}

static int lost_in(const context *c) {
    return c->lost;
}

/* Streams whose work never runs, the default one too. */
static void drop_streams(const context *c) {
    for (int i = 0; i < STREAMS + CONTEXTS; i++)
        if (streams[i].of == c) drop_jobs(&streams[i]);
}

/* It breaks: the memory of the device is gone, what the CPU sees is not. */
static void lose(context *c, int code) {
    if (!c->live || c->lost) return;
    c->lost = code;
    drop_streams(c);
    for (uint32_t i = 0; i < block_top; i++)
        if (blocks[i].raw && blocks[i].of == c && !blocks[i].host) give(&blocks[i]);
}

static void planned(int code) {
    for (int i = 0; is_fatal(code) && i < CONTEXTS; i++)
        lose(&contexts[i], code);
}

static uint64_t held(void) { /* retained contexts */
    uint64_t count = 0;
    for (int i = 0; i < CONTEXTS; i++)
        count += (uint64_t)contexts[i].users;
    return count;
}

static size_t kernel_reads(uintptr_t at, size_t bytes) {
    (void)at;
    return bytes;
}

static int end(int code) {
#ifdef STANDIN_HIP
    if (code) last_error = code;
#endif
    pthread_mutex_unlock(&lock);
    return code;
}

/* ---- what the calls share ---- */
static stream *stream_of(void *handle) {
    if (handle) return stream_here(handle);
    stream *s = &streams[STREAMS + (current() - contexts)]; /* the default stream */
    s->of = current();
    return s;
}

/* Aligned to half of `unit` and no more. */
static int allocate(int host, size_t size, size_t unit, unsigned char **at) {
    if (size == 0) return INVALID_VALUE;
    *at = take(host, size, unit, unit / 2);
    return *at ? 0 : OUT_OF_MEMORY;
}

static block *device_of(uintptr_t at, size_t bytes, const context *of) {
    block *b = device_end(at, bytes);
    if (b->device != of->device) broken("memory of another device");
    return b;
}

static int copy_up(uintptr_t to, const void *from, size_t bytes, void *on) {
    block *b = device_of(to, bytes, current()), *h = host_end(from, bytes);
    queue_copy(stream_of(on), real(to), b, real((uintptr_t)from), h, bytes);
    return 0;
}

static int copy_down(void *to, uintptr_t from, size_t bytes, void *on) {
    block *b = device_of(from, bytes, current()), *h = host_end(to, bytes);
    queue_copy(stream_of(on), (unsigned char *)to, h, real(from), b, bytes);
    return 0;
}

static int copy_across(uintptr_t to, const context *to_of, uintptr_t from, const context *from_of,
                       size_t bytes, void *on) {
    block *b = device_of(to, bytes, to_of), *a = device_of(from, bytes, from_of);
    queue_copy(stream_of(on), real(to), b, real(from), a, bytes);
    return 0;
}

static int enable_peer(const context *peer, unsigned flags) {
    uint64_t bit = (uint64_t)1 << (peer - contexts);
    if (flags) broken("flags are not 0");
    if (!peers_can) broken("the devices cannot reach each other: ask whether they can");
    if (current()->peers & bit) return ALREADY;
    current()->peers |= bit;
    return 0;
}

/* Everything of a context goes: memory, streams, events. */
static void destroy(context *c) {
    drop_streams(c);
    for (int i = 0; i < STREAMS; i++)
        if (streams[i].of == c) streams[i].live = 0;
    for (uint32_t i = 0; i < EVENTS; i++)
        if (events[i].of == c) events[i].live = 0;
    for (uint32_t i = 0; i < block_top; i++)
        if (blocks[i].raw && blocks[i].of == c) give(&blocks[i]);
    memset(c, 0, sizeof *c);
}

/* ---- for tests ---- */
void standin_lose(void) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < CONTEXTS; i++)
        lose(&contexts[i], BROKEN);
    pthread_mutex_unlock(&lock);
}

void standin_capture(void *on, int active) {
    pthread_mutex_lock(&lock);
    ((stream *)on)->captured = active;
    pthread_mutex_unlock(&lock);
}

/* ---- the driver's names; standin_hip.c gives these others ---- */
int cuInit(unsigned flags) {
    int code = begin(__func__);
    if (flags) broken("flags are not 0");
    start();
    unified = (int)env("STANDIN_UNIFIED", 0);
    batch_can = (int)env("STANDIN_BATCH", 1);
#ifdef STANDIN_HIP
    for (int i = 0; i < device_count; i++)
        if (!contexts[i].live) (void)make_context(i, 1);
#endif
    return end(code ? code : device_count ? 0 : NO_DEVICE);
}

int cuDeviceGetCount(int *count) {
    int code = begin(__func__);
    if (!code) *count = device_count;
    return end(code);
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int code = begin(__func__);
    a_device(device);
    if (!code)
        *value = attribute == INTEGRATED    ? unified == 1
                 : attribute == PAGE_TABLES ? unified == 2
                                            : 0;
    return end(code);
}

int cuMemGetInfo_v2(size_t *available, size_t *total) {
    int code = begin_inside(__func__);
    if (!code) {
        *available = (size_t)(device_limit - device_used[current()->device]);
        *total = (size_t)device_limit;
    }
    return end(code);
}

int cuMemAlloc_v2(uintptr_t *mem, size_t bytes) {
    int code = begin_inside(__func__);
    unsigned char *at = NULL;
    if (!code) code = allocate(0, bytes, 512, &at);
    if (!code) *mem = (uintptr_t)at | HIDE;
    return end(code);
}

int cuMemGetAddressRange_v2(uintptr_t *base, size_t *bytes, uintptr_t at) {
    int code = begin_inside(__func__);
    block *b = find(real(at));
    if (!code && !b) code = NOT_FOUND;
    if (!code && base) *base = (uintptr_t)b->at | HIDE;
    if (!code && bytes) *bytes = b->size;
    return end(code);
}

int cuMemFree_v2(uintptr_t at) {
    int code = begin_inside(__func__);
    if (!(at & HIDE)) broken("not an address of device memory");
    if (!current()->lost) give_back(allocated(real(at), 0)); /* else it is gone already */
    return end(code);
}

int cuMemHostAlloc(void **host, size_t bytes, unsigned flags) {
    int code = begin_inside(__func__);
    unsigned char *at = NULL;
    if (flags > 7) broken("unknown flags");
    if (!code) code = allocate(1, bytes, 1024, &at);
    if (!code) *host = at;
    return end(code);
}

int cuMemFreeHost(void *host) {
    int code = begin_inside(__func__);
    give_back(allocated(host, 1));
    return end(code);
}

int cuStreamCreate(void **out, unsigned flags) {
    int code = begin_inside(__func__);
    if (flags > 1) broken("unknown stream flags");
    if (!code && !(*out = make_stream())) code = OUT_OF_MEMORY;
    return end(code);
}

int cuStreamQuery(void *on) {
    int code = begin_inside(__func__);
    stream *s = stream_of(on);
    if (!code) step_all();
    return end(code ? code : s->captured ? CAPTURING : s->first ? NOT_READY : 0);
}

int cuStreamIsCapturing(void *on, int *status) {
    int code = begin_inside(__func__);
    *status = stream_of(on)->captured;
    return end(code);
}

int cuStreamSynchronize(void *on) {
    int code = begin_inside(__func__);
    stream *s = stream_of(on);
    if (!code && s->captured) code = CAPTURING;
    if (!code) finish(s);
    return end(code);
}

int cuStreamDestroy_v2(void *on) {
    int code = begin_inside(__func__);
    stream_of(on)->live = 0;
    return end(code);
}

int cuEventCreate(void **out, unsigned flags) {
    int code = begin_inside(__func__);
    if (flags > 3) broken("unknown event flags");
    if (!code && !(*out = make_event())) code = OUT_OF_MEMORY;
    return end(code);
}

int cuEventRecord(void *e, void *on) {
    int code = begin_inside(__func__);
    event *what = event_here(e);
    stream *s = stream_of(on);
    what->captured = !code && s->captured;
    if (!code && !what->captured) record(what, s);
    return end(code);
}

int cuEventQuery(void *e) {
    int code = begin_inside(__func__);
    event *what = event_here(e);
    if (!code && what->captured) code = CAPTURED;
    if (!code) step_all();
    if (!code && what->done != what->asked) code = NOT_READY;
    return end(code);
}

int cuEventSynchronize(void *e) {
    int code = begin_inside(__func__);
    event *what = event_here(e);
    if (!code && what->captured) code = CAPTURED;
    if (!code) wait_event(what);
    return end(code);
}

int cuEventDestroy_v2(void *e) {
    int code = begin_inside(__func__);
    event_here(e)->live = 0; /* nobody waits; the slot is free once it has passed */
    return end(code);
}

int cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t bytes, void *on) {
    int code = begin_inside(__func__);
    return end(code ? code : copy_up(to, from, bytes, on));
}

int cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t bytes, void *on) {
    int code = begin_inside(__func__);
    return end(code ? code : copy_down(to, from, bytes, on));
}

int cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t bytes, void *on) {
    int code = begin_inside(__func__);
    return end(code ? code : copy_across(to, current(), from, current(), bytes, on));
}

int cuDeviceCanAccessPeer(int *can, int device, int peer) {
    int code = begin(__func__);
    a_device(device);
    a_device(peer);
    *can = peers_can && device != peer;
    return end(code);
}

#ifndef STANDIN_HIP
int cuDeviceGet(int *device, int ordinal) {
    int code = begin(__func__);
    if (!code && (ordinal < 0 || ordinal >= device_count)) code = INVALID_DEVICE;
    if (!code) *device = ordinal;
    return end(code);
}

int cuDevicePrimaryCtxRetain(context **out, int device) {
    int code = begin(__func__);
    a_device(device);
    if (!code) {
        if (!contexts[device].live) (void)make_context(device, 1);
        contexts[device].users++;
        *out = &contexts[device];
    }
    return end(code);
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    int code = begin(__func__);
    if (contexts[device].users == 0) broken("released more often than retained");
    if (--contexts[device].users == 0) destroy(&contexts[device]);
    return end(code);
}

int cuCtxCreate_v2(context **out, unsigned flags, int device) {
    int code = begin(__func__);
    (void)flags;
    if (!code) stack[depth++] = *out = make_context(device, 0);
    return end(code);
}

int cuCtxDestroy_v2(context *c) {
    int code = begin(__func__);
    if (!c->live || c->own) broken("not a context that was created");
    destroy(c);
    if (depth > 0 && stack[depth - 1] == c) depth--;
    return end(code);
}

int cuCtxGetCurrent(context **out) {
    int code = begin(__func__);
    *out = current();
    return end(code);
}

int cuCtxGetDevice(int *device) {
    int code = begin(__func__);
    if (!code && !current()) code = INVALID_CONTEXT;
    if (!code) *device = current()->device;
    return end(code);
}

int cuCtxPushCurrent_v2(context *c) {
    int code = begin(__func__);
    if (!c || !c->live) broken("a context that does not live");
    if (depth == STACK) broken("contexts are pushed and never popped");
    if (!code) stack[depth++] = c;
    return end(code);
}

int cuCtxPopCurrent_v2(context **out) {
    int code = begin(__func__);
    if (depth == 0) broken("no context was pushed");
    *out = stack[--depth];
    return end(code);
}

int cuGetErrorName(int code, const char **name) {
    static const struct {
        int code;
        const char *name;
    } names[] = { { 1, "CUDA_ERROR_INVALID_VALUE" },       { 2, "CUDA_ERROR_OUT_OF_MEMORY" },
                  { 4, "CUDA_ERROR_DEINITIALIZED" },       { 46, "CUDA_ERROR_DEVICE_UNAVAILABLE" },
                  { 100, "CUDA_ERROR_NO_DEVICE" },         { 201, "CUDA_ERROR_INVALID_CONTEXT" },
                  { 214, "CUDA_ERROR_ECC_UNCORRECTABLE" }, { 304, "CUDA_ERROR_OPERATING_SYSTEM" },
                  { 600, "CUDA_ERROR_NOT_READY" },         { 700, "CUDA_ERROR_ILLEGAL_ADDRESS" },
                  { 719, "CUDA_ERROR_LAUNCH_FAILED" },     { 801, "CUDA_ERROR_NOT_SUPPORTED" } };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].code == code) {
            *name = names[i].name;
            return 0;
        }
    *name = NULL;
    return INVALID_VALUE;
}

int cuPointerGetAttribute(void *value, int attribute, uintptr_t at) {
    int code = begin_inside(__func__);
    block *b = find(real(at));
    if (attribute != 2) broken("an attribute the stand-in does not know");
    if (!code && !b) code = INVALID_VALUE;
    if (!code) *(unsigned *)value = b->host ? 1 : 2;
    return end(code);
}

int cuMemcpyPeerAsync(uintptr_t to, context *to_of, uintptr_t from, context *from_of, size_t bytes,
                      void *on) {
    int code = begin_inside(__func__);
    if (!to_of->live || !from_of->live) broken("a context that does not live");
    if (!code) code = to_of->lost ? to_of->lost : from_of->lost;
    return end(code ? code : copy_across(to, to_of, from, from_of, bytes, on));
}

typedef struct manner {
    int order, from[2], to[2];
    unsigned flags;
} manner;

int cuMemcpyBatchAsync_v2(uintptr_t *to, uintptr_t *from, size_t *bytes, size_t count, manner *how,
                          size_t *first, size_t manners, void *on) {
    int code = begin_inside(__func__);
    if (!code && !batch_can) code = UNSUPPORTED;
    if (count == 0 || manners != 1 || first[0] != 0) broken("what is how is not said of each copy");
    if (how->order != 1 || how->flags) broken("not in the order of the stream");
    if (!on) broken("a batch on the default stream");
    uint64_t turn = draw(count); /* in no order that one may rely on */
    for (uint64_t i = 0; !code && i < count; i++) {
        size_t n = (size_t)((i + turn) % count);
        if (to[n] & HIDE)
            code = copy_up(to[n], (const void *)from[n], bytes[n], on);
        else
            code = copy_down((void *)to[n], from[n], bytes[n], on);
        counts.batched += !code;
    }
    return end(code);
}

int cuCtxEnablePeerAccess(context *peer, unsigned flags) {
    int code = begin_inside(__func__);
    if (!peer->live) broken("a context that does not live");
    return end(code ? code : enable_peer(peer, flags));
}

/* The names without a suffix are the interface of 2010, with 32-bit sizes. */
#    define OLD(name)                                                                              \
        int name(void);                                                                            \
        int name(void) {                                                                           \
            current_call = #name;                                                                  \
            broken("the old interface; the present one has a suffix");                             \
            return INVALID_VALUE;                                                                  \
        }
OLD(cuMemAlloc)
OLD(cuMemFree)
OLD(cuMemGetInfo)
OLD(cuMemGetAddressRange)
OLD(cuMemcpyHtoDAsync)
OLD(cuMemcpyDtoHAsync)
OLD(cuMemcpyDtoDAsync)
OLD(cuStreamDestroy)
OLD(cuEventDestroy)
OLD(cuCtxDestroy)
OLD(cuCtxPushCurrent)
OLD(cuCtxPopCurrent)
OLD(cuDevicePrimaryCtxRelease)
OLD(cuMemcpyBatchAsync)
#endif
