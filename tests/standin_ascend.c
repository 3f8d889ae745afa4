/* needs: -pthread */
/* standin_ascend.c: CANN's AscendCL runtime over host memory, for machines without an NPU. A shared
 * library with the functions that examples/backends/ascend.h calls. It does what their
 * documentation says, late, and enforces what it demands: the rules of standin_machine.h, and
 *
 *   - the current context is of a device that was not reset; NULL cannot be made current
 *   - background copies begin and end at multiples of 64, in host memory from aclrtMallocHost, in
 *     the direction they name, within the capacity they name; none is between host and host
 *   - memory of another device is reached only where aclrtDeviceEnablePeerAccess was called
 *   - addresses are aligned to 64 and no more
 *   - aclrtFree waits for nobody; aclrtMemcpy is done at once and waits for no stream either
 *   - an operator reads its tensor up to the length rounded up to 32, and 32 bytes more
 *   - events are recorded before they are queried, streams are idle when they are destroyed, and
 *     nothing of a device is left when its last user resets it
 *
 * Environment besides that of the machine, read by aclInit: STANDIN_DDR (0; 1 = no device has HBM).
 * Built with -DSTANDIN_OLD it lacks what older releases lack.
 *
 * For tests: standin_lose() breaks every device until it is reset. standin_spoil(silent): the next
 * background copy fails when it runs; what is recorded behind it stays NOT_READY, or (silent)
 * completes as if nothing were, and the stream says so to the first who waits for it. */
#define FIRST_CALL "aclInit"
#include "standin_machine.h"

enum { EVENTS_OF_DEVICE = 1023 /* of those that synchronise streams */, ALIGN = 64, TAIL = 32 };
enum { INVALID_PARAM = 100000, REPEATED = 100002, NO_CONTEXT = 107002, BAD_DEVICE = 107001 };
enum { OUT_OF_MEMORY = 207001, NO_EVENT = 207007, NO_STREAM = 207008, SYS_DMA = 507013 };
enum { BROKEN = 507010 };
enum { HOST_TO_HOST, HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE };

static int no_hbm, scarce_events[DEVICES];
static __thread context *here; /* contexts[n] is the default one of device n and stands for it */
static __thread char message[128];

/* ---- what is the machine's to ask ---- */
static context *current(void) {
    return here;
}

static int lost_in(const context *c) {
    return contexts[c->device].lost;
}

static void lose(int number) {
    contexts[number].lost = BROKEN;
    for (int i = 0; i < STREAMS; i++)
        if (streams[i].live && streams[i].of->device == number) drop_jobs(&streams[i]);
}

static void planned(int code) {
    if (code == BROKEN && here && here->live) lose(here->device);
}

static uint64_t held(void) { /* contexts, and users of devices */
    uint64_t count = 0;
    for (int i = 0; i < CONTEXTS; i++)
        count += (uint64_t)(contexts[i].live + contexts[i].users);
    return count;
}

static size_t kernel_reads(uintptr_t at, size_t bytes) {
    if (at % ALIGN) broken("a tensor that is not at a multiple of 64");
    return round_up(bytes, TAIL) + TAIL;
}

static int end(int code) {
    if (code)
        snprintf(message, sizeof message, "EZ9999: %s was told to say %d.\n\tSolution: none.",
                 current_call, code);
    pthread_mutex_unlock(&lock);
    return code;
}

/* ---- what the calls share ---- */
static event *recorded(void *handle) {
    event *e = event_here(handle);
    if (!e->asked) broken("an event that was never recorded");
    return e;
}

/* One end of a copy. NULL: pageable. */
static block *side_of(const void *at, size_t bytes, int on_device) {
    if (!at) broken("a NULL address");
    return on_device ? device_end((uintptr_t)at, bytes) : host_end(at, bytes);
}

static void sides(void *to, size_t capacity, const void *from, size_t bytes, int kind,
                  block *both[2]) {
    if (kind < HOST_TO_HOST || kind > DEVICE_TO_DEVICE) broken("kind %d", kind);
    if (bytes == 0 || capacity < bytes) broken("capacity %zu for %zu bytes", capacity, bytes);
    both[0] = side_of(to, capacity, kind != HOST_TO_HOST && kind != DEVICE_TO_HOST);
    both[1] = side_of(from, bytes, kind >= DEVICE_TO_HOST);
    int near = 0, own = here->device;
    for (int i = 0; i < 2; i++) {
        if (!both[i] || both[i]->host) continue;
        int far = both[i]->device;
        near |= far == own;
        if (far != own && !(contexts[own].peers >> far & 1))
            broken("memory of device %d from device %d, and peer access was not enabled", far, own);
    }
    if (kind != HOST_TO_HOST && !near) broken("no end is on the current device");
    if (overlap(real((uintptr_t)to), bytes, real((uintptr_t)from), bytes))
        broken("source and destination overlap");
}

static void copy_later(void *to, const void *from, size_t bytes, block *both[2], stream *s) {
    if ((uintptr_t)to % ALIGN) broken("the destination is not at a multiple of 64");
    if ((uintptr_t)from % ALIGN) broken("the source is not at a multiple of 64");
    if (!both[0] || !both[1]) broken("host memory that is not from aclrtMallocHost");
    if (both[0]->host && both[1]->host) broken("in the background from host to host");
    queue_copy(s, real((uintptr_t)to), both[0], real((uintptr_t)from), both[1], bytes);
}

static int give_event(int code, int scarce, void **out) {
    event *e = NULL;
    if (!code && !(scarce && scarce_events[here->device] == EVENTS_OF_DEVICE)) e = make_event();
    if (!code && !e) code = NO_EVENT;
    if (code) return end(code);
    e->scarce = scarce;
    scarce_events[here->device] += scarce;
    *out = e;
    return end(0);
}

static int give_out(int code, int host, size_t size, void **out) {
    if (!code && size == 0) code = INVALID_PARAM;
    unsigned char *at = code ? NULL : take(host, size, 512, ALIGN * (size_t)draw(4));
    if (!code && !at) code = OUT_OF_MEMORY;
    if (!code) *out = (void *)((uintptr_t)at | (host ? 0 : HIDE));
    return end(code);
}

static void no_rest(const context *c) {
    for (int i = 0; i < STREAMS; i++)
        if (streams[i].live && streams[i].of == c) broken("a stream of it was not destroyed");
    for (int i = 0; i < EVENTS; i++)
        if (events[i].live && events[i].of == c) broken("an event of it was not destroyed");
}

/* ---- for tests ---- */
void standin_lose(void) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < DEVICES; i++)
        if (contexts[i].users) lose(i);
    pthread_mutex_unlock(&lock);
}

void standin_spoil(int silent) {
    pthread_mutex_lock(&lock);
    spoil = silent ? 2 : 1;
    pthread_mutex_unlock(&lock);
}

/* ---- the runtime's names ---- */
int aclInit(const char *config) {
    int code = begin(__func__);
    if (config) broken("a configuration the stand-in does not know");
    if (code) return end(code);
    start();
    no_hbm = (int)env("STANDIN_DDR", 0);
    return end(users > 1 ? REPEATED : 0);
}

int aclFinalize(void) {
    int code = begin(__func__);
    users = 0;
    return end(code);
}

const char *aclGetRecentErrMsg(void) {
    static __thread char last[sizeof message];
    memcpy(last, message, sizeof last);
    message[0] = 0;
    return last[0] ? last : NULL;
}

int aclrtGetDeviceCount(uint32_t *count) {
    int code = begin(__func__);
    if (!code) *count = (uint32_t)device_count;
    return end(code);
}

int aclrtSetDevice(int32_t number) {
    int code = begin(__func__);
    if (!code && (number < 0 || number >= device_count)) code = BAD_DEVICE;
    if (!code) code = contexts[number].lost;
    if (code) return end(code);
    here = &contexts[number];
    if (here->users++ == 0) (void)make_context(number, 1);
    return end(0);
}

int aclrtResetDevice(int32_t number) {
    int code = begin(__func__);
    context *c = &contexts[number];
    if (c->users == 0) broken("reset more often than set");
    if (--c->users > 0) return end(code);
    no_rest(c);
    for (int i = 0; i < CONTEXTS; i++)
        if (contexts[i].live && !contexts[i].own && contexts[i].device == number)
            broken("a context of it was not destroyed");
    for (uint32_t i = 0; i < block_top; i++)
        if (blocks[i].raw && !blocks[i].host && blocks[i].device == number) give(&blocks[i]);
    memset(c, 0, sizeof *c);
    return end(code);
}

int aclrtGetDevice(int32_t *number) {
    int code = begin(__func__);
    if (!code && !here) code = NO_CONTEXT;
    if (!code) *number = here->device;
    return end(code);
}

int aclrtCreateContext(context **out, int32_t number) {
    int code = begin(__func__);
    if (!code && (number < 0 || number >= device_count)) code = BAD_DEVICE;
    if (!code) *out = here = make_context(number, 0);
    return end(code);
}

int aclrtDestroyContext(context *c) {
    int code = begin(__func__);
    if (!c->live || c->own) broken("not a context that was created");
    no_rest(c);
    c->live = 0;
    if (here == c) here = NULL;
    return end(code);
}

int aclrtGetCurrentContext(context **out) {
    int code = begin(__func__);
    if (!code && (!here || !here->live)) code = NO_CONTEXT;
    if (!code) *out = here;
    return end(code);
}

int aclrtSetCurrentContext(context *c) {
    int code = begin(__func__);
    if (!c) broken("NULL is no context");
    if (!c->live) broken("a context of a device that was reset");
    if (!code) here = c;
    return end(code);
}

int aclrtGetMemInfo(int attribute, size_t *available, size_t *total) {
    int code = begin_inside(__func__);
    if (attribute != 0 && attribute != 1) broken("an attribute the stand-in does not know");
    if (!code) {
        *total = attribute == 1 && no_hbm ? 0 : (size_t)device_limit;
        *available = *total ? (size_t)(device_limit - device_used[here->device]) : 0;
    }
    return end(code);
}

int aclrtMalloc(void **mem, size_t size, int policy) {
    int code = begin_inside(__func__);
    if (policy < 0 || policy > 7) broken("policy %d", policy);
    return give_out(code, 0, size ? round_up(size, TAIL) + TAIL : 0, mem);
}

int aclrtFree(void *mem) {
    int code = begin_inside(__func__);
    if (!((uintptr_t)mem & HIDE)) broken("not an address of device memory");
    block *b = allocated(real((uintptr_t)mem), 0);
    if (b->device != here->device) broken("memory of another device");
    give_back(b);
    return end(code);
}

int aclrtMallocHost(void **host, size_t size) {
    int code = begin_inside(__func__);
    return give_out(code, 1, size, host);
}

int aclrtFreeHost(void *host) {
    int code = begin_inside(__func__);
    give_back(allocated(host, 1));
    return end(code);
}

int aclrtMemcpy(void *to, size_t capacity, const void *from, size_t bytes, int kind) {
    int code = begin_inside(__func__);
    unsigned char *a = real((uintptr_t)to), *b = real((uintptr_t)from);
    block *both[2];
    sides(to, capacity, from, bytes, kind, both);
    no_clash(NULL, a, bytes, 1);
    no_clash(NULL, b, bytes, 0);
    if (code) return end(code);
    memcpy(a, b, bytes);
    counts.at_once++;
    if (!both[0] || !both[1]) counts.pageable += bytes;
    return end(0);
}

int aclrtMemcpyAsync(void *to, size_t capacity, const void *from, size_t bytes, int kind,
                     void *on) {
    int code = begin_inside(__func__);
    stream *s = stream_here(on);
    block *both[2];
    sides(to, capacity, from, bytes, kind, both);
    if (!code) copy_later(to, from, bytes, both, s);
    return end(code);
}

int aclrtCreateStream(void **out) {
    int code = begin_inside(__func__);
    if (!code && !(*out = make_stream())) code = NO_STREAM;
    return end(code);
}

int aclrtSynchronizeStream(void *on) {
    int code = begin_inside(__func__);
    stream *s = stream_here(on);
    if (code) return end(code);
    finish(s);
    if (s->failed) code = SYS_DMA;
    s->failed = 0;
    return end(code);
}

int aclrtDestroyStream(void *on) {
    int code = begin_inside(__func__);
    stream *s = stream_here(on);
    if (s->first && !plan.fired) broken("work is left on it: wait for it first");
    drop_jobs(s);
    s->live = 0;
    return end(code);
}

int aclrtCreateEvent(void **out) {
    int code = begin_inside(__func__);
    return give_event(code, 1, out);
}

int aclrtDestroyEvent(void *handle) {
    int code = begin_inside(__func__);
    event *e = event_here(handle);
    e->live = 0; /* the slot is free once it has passed */
    scarce_events[here->device] -= e->scarce;
    return end(code);
}

int aclrtRecordEvent(void *handle, void *on) {
    int code = begin_inside(__func__);
    event *e = event_here(handle);
    stream *s = stream_here(on);
    if (!code) record(e, s);
    return end(code);
}

int aclrtQueryEventStatus(void *handle, int *status) {
    int code = begin_inside(__func__);
    event *e = recorded(handle);
    if (code) return end(code);
    step_all();
    *status = e->done == e->asked; /* 1 = complete, the other way round than aclrtQueryEvent */
    return end(0);
}

int aclrtSynchronizeEvent(void *handle) {
    int code = begin_inside(__func__);
    event *e = recorded(handle);
    if (!code) wait_event(e);
    if (!code && e->done != e->asked) code = SYS_DMA;
    return end(code);
}

int aclrtDeviceCanAccessPeer(int32_t *can, int32_t number, int32_t peer) {
    int code = begin(__func__);
    a_device(number);
    a_device(peer);
    if (peer == number) broken("a device and itself are no pair");
    if (!code) *can = peers_can;
    return end(code);
}

int aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t flags) {
    int code = begin_inside(__func__);
    a_device(peer);
    if (peer == here->device || flags) broken("the current device is no peer, and no flags are");
    if (!peers_can) broken("the devices cannot reach each other: ask aclrtDeviceCanAccessPeer");
    if (!code) contexts[here->device].peers |= (uint64_t)1 << peer;
    return end(code);
}

#ifndef STANDIN_OLD
int aclFinalizeReference(uint64_t *left) {
    int code = begin(__func__);
    users--;
    if (left) *left = (uint64_t)users;
    return end(code);
}

int aclrtMallocAlign32(void **mem, size_t size, int policy) {
    int code = begin_inside(__func__);
    if (policy < 0 || policy > 7) broken("policy %d", policy);
    return give_out(code, 0, round_up(size, TAIL), mem);
}

int aclrtCreateEventWithFlag(void **out, uint32_t flag) {
    int code = begin_inside(__func__);
    if (flag == 0 || flag & ~0x3Bu) broken("flag %#x", flag);
    return give_event(code, (int)(flag & 1), out);
}

int aclrtStreamQuery(void *on, int *status) {
    int code = begin_inside(__func__);
    stream *s = stream_here(on);
    if (code) return end(code);
    step_all();
    *status = s->first != NULL; /* 0 = complete */
    return end(0);
}

typedef struct attributes {
    uint32_t id;
    int type;
    uint32_t page, reserved[4];
} attributes;

int aclrtPointerGetAttributes(const void *at, attributes *out) {
    int code = begin_inside(__func__);
    block *b = find(real((uintptr_t)at));
    if (!code) out->type = !b ? 2 : !b->host; /* unregistered, device, host */
    return end(code);
}
#endif
