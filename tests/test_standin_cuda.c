/* tests/standin_cuda.c keeps its word: each rule it enforces is broken here, and it says so.
 * tests/test_standin_hip.c is this file for HIP. */
/* needs: -pthread */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#ifdef TEST_HIP
#    include "standin_hip.c"
#else
#    include "standin_cuda.c"
#endif
#include "standin_rules.h"

enum { BYTES = 4096 };

static uintptr_t mem, far_mem;
static void *host, *lane[2], *far_lane, *mark, *far_mark;
static char plain[BYTES];
#ifndef TEST_HIP
static context *near_by, *far_off;
#endif

static void enter(int device) {
#ifdef TEST_HIP
    (void)hipSetDevice(device);
#else
    context **c = device ? &far_off : &near_by;
    (void)cuDevicePrimaryCtxRetain(c, device);
    (void)cuCtxPushCurrent_v2(*c);
#endif
}

static void set_up(void) { /* device 0 is current, with two streams, memory there and here */
    (void)cuInit(0);
    enter(1);
    (void)cuMemAlloc_v2(&far_mem, BYTES);
    (void)cuStreamCreate(&far_lane, 0);
    (void)cuEventCreate(&far_mark, 0);
    enter(0);
    (void)cuMemAlloc_v2(&mem, BYTES);
    (void)cuMemHostAlloc(&host, BYTES, 0);
    for (int i = 0; i < 2; i++)
        (void)cuStreamCreate(&lane[i], 0);
    (void)cuEventCreate(&mark, 0);
}

static void up(int on) {
    (void)cuMemcpyHtoDAsync_v2(mem, host, BYTES, lane[on]);
}

static void down(int on) {
    (void)cuMemcpyDtoHAsync_v2(host, mem, BYTES, lane[on]);
}

TEST(calls_come_in_their_order) {
    int n;
    if (breaks("the runtime was not initialised")) {
        users = 0;
        (void)cuDeviceGetCount(&n);
    }
    if (breaks("flags are not 0")) (void)cuInit(1);
    if (breaks("no such device")) (void)cuDeviceGetAttribute(&n, 1, 9);
    if (breaks("no such device")) (void)cuDeviceCanAccessPeer(&n, 0, 9);
    if (breaks("no such device")) (void)cuDeviceCanAccessPeer(&n, -1, 0);
    breaks(NULL);
}

TEST(memory_is_what_it_is_said_to_be) {
    if (breaks("past an allocation of 4096 reach 4096 bytes"))
        (void)cuMemcpyHtoDAsync_v2(mem + 8, host, BYTES, NULL);
    if (breaks("past an allocation of 4096 reach 4096 bytes"))
        (void)cuMemcpyDtoHAsync_v2((char *)host + 8, mem, BYTES, NULL);
    if (breaks("no address of device memory: 0x"))
        (void)cuMemcpyHtoDAsync_v2((uintptr_t)host, host, 8, NULL);
    if (breaks("device memory that is not allocated"))
        (void)cuMemcpyHtoDAsync_v2((uintptr_t)host | HIDE, host, 8, NULL);
    if (breaks("memory of another device")) (void)cuMemcpyHtoDAsync_v2(far_mem, host, 8, NULL);
    if (breaks("memory of another device")) (void)cuMemcpyDtoDAsync_v2(mem, far_mem, 8, NULL);
    if (breaks("a device address where the host's is due"))
        (void)cuMemcpyHtoDAsync_v2(mem, (void *)mem, 8, NULL);
    if (breaks("memory of a device where the host's is due"))
        (void)cuMemcpyDtoHAsync_v2((void *)(mem & ~HIDE), mem, 8, NULL);
    if (breaks("memory of another device")) (void)standin_add(lane[0], far_mem, 8, 1);
    if (breaks("unknown flags")) (void)cuMemHostAlloc(&host, BYTES, 8);
    breaks(NULL);
}

TEST(memory_is_given_back_once_and_by_nobody_else) {
    if (breaks("not an address of device memory")) (void)cuMemFree_v2((uintptr_t)host);
    if (breaks("not an address that was allocated so")) (void)cuMemFree_v2(mem + 256);
    if (breaks("not an address that was allocated so")) (void)cuMemFree_v2((uintptr_t)host | HIDE);
    if (breaks("not an address that was allocated so")) (void)cuMemFreeHost(plain);
    if (breaks("not an address that was allocated so")) {
        (void)cuMemFreeHost(host);
        (void)cuMemFreeHost(host);
    }
    for (int way = 0; way < 2; way++) {
        if (breaks("memory freed under a copy or a kernel")) {
            if (way)
                up(0);
            else
                down(0);
            (void)cuMemFree_v2(mem);
        }
        if (breaks("memory freed under a copy or a kernel")) {
            (void)cuMemcpyHtoDAsync_v2(mem, host, 8, way ? lane[0] : NULL);
            (void)cuMemFreeHost(host);
        }
    }
    if (breaks("memory freed under a copy or a kernel")) {
        (void)standin_add(lane[0], mem, 8, 1);
        (void)cuMemFree_v2(mem);
    }
    breaks(NULL);
}

TEST(streams_and_events_live_and_are_of_the_context) {
    if (breaks("unknown stream flags")) (void)cuStreamCreate(&lane[0], 2);
    if (breaks("unknown event flags")) (void)cuEventCreate(&mark, 4);
    if (breaks("a stream that does not live")) (void)cuStreamSynchronize(plain);
    if (breaks("a stream that does not live")) {
        (void)cuStreamDestroy_v2(lane[0]);
        up(0);
    }
    if (breaks("a stream that does not live")) {
        (void)cuStreamDestroy_v2(lane[0]);
        (void)standin_add(lane[0], mem, 8, 1);
    }
    if (breaks("a stream of another context")) (void)cuStreamQuery(far_lane);
    if (breaks("an event that does not live")) (void)cuEventQuery(plain);
    if (breaks("an event that does not live")) {
        (void)cuEventDestroy_v2(mark);
        (void)cuEventRecord(mark, lane[0]);
    }
    if (breaks("an event of another context")) (void)cuEventSynchronize(far_mark);
    if (breaks("an event of another context")) (void)cuEventRecord(far_mark, lane[0]);
    breaks(NULL);
}

/* What one stream has in hand, another leaves alone, and so does the CPU. */
TEST(what_is_in_hand_is_left_alone) {
    const char *clash = "touches bytes that a copy or a kernel (with";
    if (breaks("source of a copy was changed before it was done")) {
        up(0);
        memset(host, 77, BYTES);
        (void)cuStreamSynchronize(lane[0]);
    }
    for (int way = 0; way < 4; way++)
        if (breaks(clash)) {
            if (way & 1)
                up(0);
            else
                down(0);
            if (way & 2)
                up(1);
            else
                (void)cuMemcpyHtoDAsync_v2(mem, plain, 8, NULL);
        }
    if (breaks(clash)) {
        up(0);
        down(1);
    }
    if (breaks(clash)) {
        down(0);
        (void)standin_add(lane[1], mem + 8, 8, 1);
    }
    if (breaks(clash)) {
        (void)standin_add(lane[0], mem, 8, 1);
        (void)cuMemcpyDtoHAsync_v2(host, mem + 7, 8, lane[1]);
    }
    breaks(NULL);
}

#ifdef TEST_HIP
TEST(devices_are_those_there_are) {
    void *at;
    if (breaks("flags are not 0")) (void)hipHostGetDevicePointer(&at, host, 1);
    if (breaks("no such device")) (void)hipMemcpyPeerAsync(mem, 0, far_mem, 9, 8, lane[0]);
    if (breaks("no such device")) (void)hipMemcpyPeerAsync(mem, -1, far_mem, 1, 8, lane[0]);
    if (breaks("memory of another device"))
        (void)hipMemcpyPeerAsync(mem, 1, far_mem, 1, 8, lane[0]);
    if (breaks("no such device")) (void)hipDeviceEnablePeerAccess(9, 0);
    if (breaks("flags are not 0")) (void)hipDeviceEnablePeerAccess(1, 1);
    if (breaks("the devices cannot reach each other")) {
        peers_can = 0;
        (void)hipDeviceEnablePeerAccess(1, 0);
    }
    breaks(NULL);
}
#else
static context *made_and_destroyed(void) {
    context *c;
    (void)cuCtxCreate_v2(&c, 0, 0);
    (void)cuCtxDestroy_v2(c);
    return c;
}

TEST(contexts_are_current_and_live) {
    context *c;
    if (breaks("no context is current")) {
        (void)cuCtxPopCurrent_v2(&c);
        (void)cuCtxPopCurrent_v2(&c);
        (void)cuStreamSynchronize(NULL);
    }
    if (breaks("the current context was destroyed, or")) {
        (void)cuCtxCreate_v2(&c, 0, 0);
        (void)cuCtxPushCurrent_v2(c);
        (void)cuCtxDestroy_v2(c);
        (void)cuMemAlloc_v2(&mem, 8);
    }
    if (breaks("no such device")) (void)cuDevicePrimaryCtxRetain(&c, 9);
    if (breaks("released more often than retained"))
        for (int i = 0; i < 2; i++)
            (void)cuDevicePrimaryCtxRelease_v2(0);
    if (breaks("not a context that was created")) (void)cuCtxDestroy_v2(near_by);
    if (breaks("not a context that was created")) (void)cuCtxDestroy_v2(made_and_destroyed());
    if (breaks("a context that does not live")) (void)cuCtxPushCurrent_v2(NULL);
    if (breaks("a context that does not live")) (void)cuCtxPushCurrent_v2(made_and_destroyed());
    if (breaks("contexts are pushed and never popped"))
        for (int i = 0; i <= STACK; i++)
            (void)cuCtxPushCurrent_v2(near_by);
    if (breaks("no context was pushed"))
        for (int i = 0; i < 3; i++)
            (void)cuCtxPopCurrent_v2(&c);
    breaks(NULL);
}

TEST(siblings_reach_each_other_as_they_may) {
    if (breaks("a context that does not live"))
        (void)cuMemcpyPeerAsync(mem, near_by, far_mem, made_and_destroyed(), 8, lane[0]);
    if (breaks("a context that does not live"))
        (void)cuMemcpyPeerAsync(mem, made_and_destroyed(), far_mem, far_off, 8, lane[0]);
    if (breaks("memory of another device"))
        (void)cuMemcpyPeerAsync(mem, far_off, far_mem, far_off, 8, lane[0]);
    if (breaks("a context that does not live"))
        (void)cuCtxEnablePeerAccess(made_and_destroyed(), 0);
    if (breaks("flags are not 0")) (void)cuCtxEnablePeerAccess(far_off, 1);
    if (breaks("the devices cannot reach each other")) {
        peers_can = 0;
        (void)cuCtxEnablePeerAccess(far_off, 0);
    }
    breaks(NULL);
}

TEST(batches_say_what_they_are) {
    unsigned kind;
    manner how = { 1, { 0, 0 }, { 0, 0 }, 0 }, other = { 2, { 0, 0 }, { 0, 0 }, 0 };
    size_t bytes = 8, first = 0, late = 1;
    uintptr_t from;
    if (breaks("an attribute the stand-in does not know"))
        (void)cuPointerGetAttribute(&kind, 3, mem);
    from = (uintptr_t)plain;
    if (breaks("how is not said of each copy"))
        (void)cuMemcpyBatchAsync_v2(&mem, &from, &bytes, 0, &how, &first, 1, lane[0]);
    if (breaks("how is not said of each copy"))
        (void)cuMemcpyBatchAsync_v2(&mem, &from, &bytes, 1, &how, &late, 1, lane[0]);
    if (breaks("not in the order of the stream"))
        (void)cuMemcpyBatchAsync_v2(&mem, &from, &bytes, 1, &other, &first, 1, lane[0]);
    other = how;
    other.flags = 1;
    if (breaks("not in the order of the stream"))
        (void)cuMemcpyBatchAsync_v2(&mem, &from, &bytes, 1, &other, &first, 1, lane[0]);
    if (breaks("a batch on the default stream"))
        (void)cuMemcpyBatchAsync_v2(&mem, &from, &bytes, 1, &how, &first, 1, NULL);
    breaks(NULL);
}

TEST(the_interface_of_2010_is_not_called) {
    static int (*const old[])(void) = { cuMemAlloc,
                                        cuMemFree,
                                        cuMemGetInfo,
                                        cuMemGetAddressRange,
                                        cuMemcpyHtoDAsync,
                                        cuMemcpyDtoHAsync,
                                        cuMemcpyDtoDAsync,
                                        cuStreamDestroy,
                                        cuEventDestroy,
                                        cuCtxDestroy,
                                        cuCtxPushCurrent,
                                        cuCtxPopCurrent,
                                        cuDevicePrimaryCtxRelease,
                                        cuMemcpyBatchAsync };
    for (size_t i = 0; i < sizeof old / sizeof *old; i++)
        if (breaks("the old interface")) (void)old[i]();
    breaks(NULL);
}
#endif

TEST(no_sentence_is_left_out) {
#ifdef TEST_HIP
    rules_of_source("tests/standin_hip.c");
#else
    rules_of_source("tests/standin_cuda.c");
    rules_of_source("tests/standin_machine.h");
#endif
}

int main(void) {
    if (sizeof(void *) < 8) {
        SKIP("rules", "the addresses of devices need a bit that 32 do not leave");
        return check_done();
    }
    RUN(calls_come_in_their_order);
    RUN(memory_is_what_it_is_said_to_be);
    RUN(memory_is_given_back_once_and_by_nobody_else);
    RUN(streams_and_events_live_and_are_of_the_context);
    RUN(what_is_in_hand_is_left_alone);
#ifdef TEST_HIP
    RUN(devices_are_those_there_are);
#else
    RUN(contexts_are_current_and_live);
    RUN(siblings_reach_each_other_as_they_may);
    RUN(batches_say_what_they_are);
    RUN(the_interface_of_2010_is_not_called);
#endif
    RUN(no_sentence_is_left_out);
    return check_done();
}
