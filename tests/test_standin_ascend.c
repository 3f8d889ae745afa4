/* tests/standin_ascend.c keeps its word: each rule it enforces is broken here, and it says so. */
/* needs: -pthread */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include "standin_ascend.c"
#include "standin_rules.h"

enum { BYTES = 4096, H2H = HOST_TO_HOST, H2D = HOST_TO_DEVICE, D2H = DEVICE_TO_HOST };
enum { D2D = DEVICE_TO_DEVICE };

static void *mem, *far_mem, *host, *lane[2], *far_lane, *mark, *far_mark;
static char room[BYTES + ALIGN], *plain; /* pageable */

static void set_up(void) { /* device 0 is current, with two streams, memory there and here */
    plain = room + ALIGN - (uintptr_t)room % ALIGN;
    (void)aclInit(NULL);
    (void)aclrtSetDevice(1);
    (void)aclrtMalloc(&far_mem, BYTES, 0);
    (void)aclrtCreateStream(&far_lane);
    (void)aclrtCreateEvent(&far_mark);
    (void)aclrtSetDevice(0);
    (void)aclrtMalloc(&mem, BYTES, 0);
    (void)aclrtMallocHost(&host, BYTES);
    for (int i = 0; i < 2; i++)
        (void)aclrtCreateStream(&lane[i]);
    (void)aclrtCreateEvent(&mark);
}

static char *beyond(void *at, size_t bytes) {
    return (char *)at + bytes;
}

/* Background copies of so many bytes, and one that is done at the return. */
static void later(void *to, const void *from, size_t bytes, int kind, int on) {
    (void)aclrtMemcpyAsync(to, bytes, from, bytes, kind, lane[on]);
}

static void now(void *to, const void *from, size_t bytes, int kind) {
    (void)aclrtMemcpy(to, bytes, from, bytes, kind);
}

static void up(int on) {
    later(mem, host, BYTES, H2D, on);
}

static void down(int on) {
    later(host, mem, BYTES, D2H, on);
}

static void operate(int on, void *at, size_t bytes) {
    (void)standin_add(lane[on], (uintptr_t)at, bytes, 1);
}

TEST(calls_come_in_their_order) {
    size_t n;
    int32_t can;
    if (breaks("the runtime was not initialised")) {
        (void)aclFinalize();
        (void)aclrtGetDevice(&can);
    }
    if (breaks("a configuration the stand-in does not know")) (void)aclInit("acl.json");
    if (breaks("reset more often than set"))
        for (int i = 0; i < 3; i++)
            (void)aclrtResetDevice(5);
    if (breaks("an attribute the stand-in does not know")) (void)aclrtGetMemInfo(2, &n, &n);
    if (breaks("no pair")) (void)aclrtDeviceCanAccessPeer(&can, 0, 0);
    if (breaks("no such device")) (void)aclrtDeviceCanAccessPeer(&can, 9, 0);
    if (breaks("the current device is no peer, and no flags are"))
        (void)aclrtDeviceEnablePeerAccess(0, 0);
    if (breaks("no such device")) (void)aclrtDeviceEnablePeerAccess(9, 0);
    if (breaks("the current device is no peer, and no flags are"))
        (void)aclrtDeviceEnablePeerAccess(1, 1);
    if (breaks("the devices cannot reach each other")) {
        peers_can = 0;
        (void)aclrtDeviceEnablePeerAccess(1, 0);
    }
    breaks(NULL);
}

TEST(contexts_are_current_and_live) {
    context *c;
    if (breaks("no context is current")) {
        (void)aclrtCreateContext(&c, 0);
        (void)aclrtDestroyContext(c);
        (void)aclrtMallocHost(&host, 8);
    }
    for (int way = 0; way < 2; way++)
        if (breaks(way ? "a context of a device that was reset"
                       : "the current context was destroyed, or its device reset")) {
            (void)aclrtGetCurrentContext(&c);
            for (int i = 0; i < 2; i++)
                (void)aclrtDestroyStream(lane[i]);
            (void)aclrtDestroyEvent(mark);
            (void)aclrtResetDevice(0);
            if (way) (void)aclrtSetCurrentContext(c);
            (void)aclrtMallocHost(&host, 8);
        }
    if (breaks("NULL is no context")) (void)aclrtSetCurrentContext(NULL);
    if (breaks("not a context that was created")) {
        (void)aclrtGetCurrentContext(&c);
        (void)aclrtDestroyContext(c);
    }
    breaks(NULL);
}

TEST(nothing_is_left_of_what_ends) {
    context *c;
    if (breaks("a stream of it was not destroyed")) (void)aclrtResetDevice(0);
    if (breaks("a stream of it was not destroyed")) {
        (void)aclrtCreateContext(&c, 0);
        (void)aclrtCreateStream(&lane[0]);
        (void)aclrtDestroyContext(c);
    }
    if (breaks("an event of it was not destroyed")) {
        for (int i = 0; i < 2; i++)
            (void)aclrtDestroyStream(lane[i]);
        (void)aclrtResetDevice(0);
    }
    if (breaks("a context of it was not destroyed")) {
        for (int i = 0; i < 2; i++)
            (void)aclrtDestroyStream(lane[i]);
        (void)aclrtDestroyEvent(mark);
        (void)aclrtCreateContext(&c, 0);
        (void)aclrtResetDevice(0);
    }
    if (breaks("work is left on it")) {
        up(0);
        (void)aclrtDestroyStream(lane[0]);
    }
    breaks(NULL);
}

TEST(memory_is_what_it_is_said_to_be) {
    if (breaks("policy 9")) (void)aclrtMalloc(&mem, 8, 9);
    if (breaks("past an allocation of ")) now(mem, beyond(host, 8), BYTES, H2D);
    if (breaks("past an allocation of ")) now(beyond(mem, 256), host, BYTES, H2D);
    if (breaks("a NULL address")) now(NULL, host, 8, H2D);
    if (breaks("no address of device memory: 0x")) now(plain, host, 8, H2D);
    if (breaks("a device address where the host's is due")) later(mem, host, 512, D2H, 0);
    if (breaks("a device address where the host's is due")) later(mem, host, 512, H2H, 0);
    if (breaks("device memory that is not allocated")) {
        (void)aclrtFree(mem);
        now(mem, host, 8, H2D);
    }
    if (breaks("device memory that is not allocated"))
        now((void *)((uintptr_t)host | HIDE), plain, 8, H2D);
    if (breaks("memory of a device where the host's is due"))
        now(real((uintptr_t)mem), host, 8, H2H);
    if (breaks("kind 4")) now(mem, host, 8, 4);
    if (breaks("capacity ")) (void)aclrtMemcpy(mem, 511, host, 512, H2D);
    if (breaks("capacity ")) now(mem, host, 0, H2D);
    breaks(NULL);
}

TEST(memory_is_given_back_once_and_by_nobody_else) {
    if (breaks("not an address of device memory")) (void)aclrtFree(host);
    if (breaks("not an address that was allocated so")) (void)aclrtFree(beyond(mem, 64));
    if (breaks("not an address that was allocated so"))
        (void)aclrtFree((void *)((uintptr_t)host | HIDE));
    if (breaks("not an address that was allocated so"))
        for (int i = 0; i < 2; i++)
            (void)aclrtFree(mem);
    if (breaks("not an address that was allocated so")) (void)aclrtFreeHost(plain);
    if (breaks("not an address that was allocated so"))
        for (int i = 0; i < 2; i++)
            (void)aclrtFreeHost(host);
    if (breaks("memory of another device")) (void)aclrtFree(far_mem);
    for (int way = 0; way < 4; way++)
        if (breaks("memory freed under a copy or a kernel")) {
            if (way & 1)
                up(0);
            else
                down(0);
            (void)(way & 2 ? aclrtFree(mem) : aclrtFreeHost(host));
        }
    if (breaks("memory freed under a copy or a kernel")) {
        operate(0, mem, 8);
        (void)aclrtFree(mem);
    }
    breaks(NULL);
}

TEST(devices_are_reached_as_they_may) {
    if (breaks("and peer access was not enabled")) now(far_mem, mem, 512, D2D);
    if (breaks("and peer access was not enabled")) later(mem, far_mem, 512, D2D, 0);
    if (breaks("no end is on the current device")) {
        (void)aclrtDeviceEnablePeerAccess(1, 0);
        now(beyond(far_mem, 512), far_mem, 512, D2D);
    }
    if (breaks("no end is on the current device")) {
        (void)aclrtDeviceEnablePeerAccess(1, 0);
        later(far_mem, host, 512, H2D, 0);
    }
    if (breaks("source and destination overlap")) now(beyond(mem, 64), mem, 512, D2D);
    breaks(NULL);
}

TEST(background_copies_are_aligned_and_page_locked) {
    if (breaks("the destination is not at a multiple of 64"))
        later(beyond(mem, 32), host, 512, H2D, 0);
    if (breaks("the source is not at a multiple of 64")) later(mem, beyond(host, 8), 512, H2D, 0);
    if (breaks("not from aclrtMallocHost")) later(mem, plain, 512, H2D, 0);
    if (breaks("not from aclrtMallocHost")) later(plain, mem, 512, D2H, 0);
    if (breaks("in the background from host to host")) later(host, beyond(host, 1024), 512, H2H, 0);
    breaks(NULL);
}

TEST(streams_and_events_live_and_are_of_the_context) {
    int status;
    if (breaks("a stream that does not live")) (void)aclrtSynchronizeStream(NULL);
    if (breaks("a stream that does not live")) {
        (void)aclrtDestroyStream(lane[0]);
        up(0);
    }
    if (breaks("a stream that does not live")) (void)standin_add(NULL, (uintptr_t)mem, 8, 1);
    if (breaks("a stream that does not live")) {
        (void)aclrtDestroyStream(lane[0]);
        operate(0, mem, 8);
    }
    if (breaks("a stream of another context")) (void)aclrtSynchronizeStream(far_lane);
    if (breaks("a stream of another context")) (void)aclrtRecordEvent(mark, far_lane);
    if (breaks("an event that does not live")) (void)aclrtRecordEvent(plain, lane[0]);
    if (breaks("an event that does not live"))
        for (int i = 0; i < 2; i++)
            (void)aclrtDestroyEvent(mark);
    if (breaks("an event of another context")) (void)aclrtRecordEvent(far_mark, lane[0]);
    if (breaks("an event that was never recorded")) (void)aclrtQueryEventStatus(mark, &status);
    if (breaks("an event that was never recorded")) (void)aclrtSynchronizeEvent(mark);
    breaks(NULL);
}

/* What one stream has in hand, another leaves alone, and so do the CPU and copies at once. */
TEST(what_is_in_hand_is_left_alone) {
    const char *clash = "touches bytes that a copy or a kernel (with";
    if (breaks("source of a copy was changed before it was done")) {
        up(0);
        memset(host, 77, BYTES);
        (void)aclrtSynchronizeStream(lane[0]);
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
                now(mem, plain, 8, H2D);
        }
    for (int way = 0; way < 2; way++)
        if (breaks(clash)) {
            up(0);
            if (way)
                down(1);
            else
                now(plain, mem, 8, D2H);
        }
    if (breaks(clash)) {
        down(0);
        operate(1, beyond(mem, 64), 8);
    }
    if (breaks(clash)) { /* what an operator may read behind its tensor */
        operate(0, mem, 1000);
        later(beyond(mem, 1024), host, 64, H2D, 1);
    }
    if (breaks(clash)) {
        later(beyond(mem, 1024), host, 64, H2D, 1);
        operate(0, mem, 1000);
    }
    breaks(NULL);
}

TEST(operators_get_the_memory_they_want) {
    if (breaks("a tensor that is not at a multiple of 64")) operate(0, beyond(mem, 32), 100);
    if (breaks("memory of another device")) operate(0, far_mem, 100);
    if (breaks("no address of device memory: 0x")) operate(0, host, 100);
    if (breaks("past an allocation of ")) operate(0, mem, BYTES + 1);
    breaks(NULL);
}

TEST(what_older_releases_lack_has_its_rules_too) {
    if (breaks("policy -1")) (void)aclrtMallocAlign32(&mem, 8, -1);
    if (breaks("flag 0")) (void)aclrtCreateEventWithFlag(&mark, 0);
    if (breaks("flag 0x40")) (void)aclrtCreateEventWithFlag(&mark, 0x40);
    if (breaks("a stream of another context")) (void)aclrtStreamQuery(far_lane, NULL);
    if (breaks("past an allocation of ")) {
        (void)aclrtMallocAlign32(&mem, BYTES, 0);
        operate(0, mem, BYTES);
    }
    breaks(NULL);
}

TEST(no_sentence_is_left_out) {
    rules_of_source("tests/standin_ascend.c");
    rules_of_source("tests/standin_machine.h");
}

int main(void) {
    if (sizeof(void *) < 8) {
        SKIP("rules", "the addresses of devices need a bit that 32 do not leave");
        return check_done();
    }
    RUN(calls_come_in_their_order);
    RUN(contexts_are_current_and_live);
    RUN(nothing_is_left_of_what_ends);
    RUN(memory_is_what_it_is_said_to_be);
    RUN(memory_is_given_back_once_and_by_nobody_else);
    RUN(devices_are_reached_as_they_may);
    RUN(background_copies_are_aligned_and_page_locked);
    RUN(streams_and_events_live_and_are_of_the_context);
    RUN(what_is_in_hand_is_left_alone);
    RUN(operators_get_the_memory_they_want);
    RUN(what_older_releases_lack_has_its_rules_too);
    RUN(no_sentence_is_left_out);
    return check_done();
}
