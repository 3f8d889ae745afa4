/* needs: tensormem.o -pthread -ldl */
/* examples/backends/ascend.h from outside, over tests/standin_ascend.c: the present release
 * (STANDIN_ASCEND names the built library; else build/standin/libascend.so) and one that lacks
 * what older ones lack (STANDIN_ASCEND_OLD; else build/standin/libascend_old.so). */
#define _POSIX_C_SOURCE 200809L
#include "../tensormem.h"
#include "check.h"

#include "../examples/backends/ascend.h"
#define RT(name) tnm_ascend_##name
#define RT_CONTEXTS
typedef tnm_ascend device;
typedef tnm_ascend_desc device_desc;
#include "device_streams.h"

static int old; /* the release that lacks things */
static struct {
    void (*spoil)(int silent);
    int (*init)(const char *config); /* and what an application calls itself */
    int (*set_device)(int32_t device);
    int (*reset_device)(int32_t device);
    int (*get)(void **context);
    int (*create)(void **context, int32_t device);
    int (*destroy)(void *context);
    int (*stream)(void **stream);
    int (*unstream)(void *stream);
} acl;

static int acl_load(void *handle) {
    return standin_find(RT(symbol), handle, "standin_spoil", &acl.spoil) &&
           standin_find(RT(symbol), handle, "aclInit", &acl.init) &&
           standin_find(RT(symbol), handle, "aclrtSetDevice", &acl.set_device) &&
           standin_find(RT(symbol), handle, "aclrtResetDevice", &acl.reset_device) &&
           standin_find(RT(symbol), handle, "aclrtGetCurrentContext", &acl.get) &&
           standin_find(RT(symbol), handle, "aclrtCreateContext", &acl.create) &&
           standin_find(RT(symbol), handle, "aclrtDestroyContext", &acl.destroy) &&
           standin_find(RT(symbol), handle, "aclrtCreateStream", &acl.stream) &&
           standin_find(RT(symbol), handle, "aclrtDestroyStream", &acl.unstream);
}

static void *current_now(void) {
    void *context = NULL;
    (void)acl.get(&context);
    return context;
}

static void *another_begins(void) {
    void *mine = NULL;
    CHECK_EQ(acl.create(&mine, 1), 0);
    return mine;
}

static void another_ends(void *at) {
    CHECK_EQ(acl.destroy(at), 0);
}

/* ---- opening ---- */
TEST(a_machine_without_one_shows_none) {
    device_desc desc;
    describe(&desc, facts.built);
    stand.fail("aclrtGetDeviceCount", 1, 507033); /* how a machine without NPU answers */
    refused(&desc, "shows 0 devices");
    nothing_left();
}

TEST(the_process_stays_initialised_for_the_others) {
    device_desc desc;
    device *rt = NULL;
    uint64_t users = stand.count("users");
    describe(&desc, facts.built);
    CHECK_EQ(RT(open)(&desc, &rt), TNM_OK);
    CHECK_EQ(stand.count("users"), users + 1);
    RT(close)(rt);
    CHECK_EQ(stand.count("users"), users + (uint64_t)old); /* the old one cannot count down */
    desc.finalize = 1;
    CHECK_EQ(RT(open)(&desc, &rt), TNM_OK);
    RT(close)(rt);
    CHECK_EQ(stand.count("users"), old ? 0 : users);
    if (old) CHECK_EQ(acl.init(NULL), 0);
    nothing_left();
}

/* ---- the calling thread ---- */
TEST(the_default_context_is_shared) {
    device *rt = open_number(0, 0);
    CHECK(rt && current_now() == RT(context)(rt)); /* it had none, and none can be set */
    RT(close)(rt);
    CHECK(current_now() == NULL);   /* it went with the device */
    CHECK_EQ(acl.set_device(0), 0); /* as torch_npu does */
    void *theirs = current_now();
    rt = open_number(0, 0);
    if (rt) CHECK(RT(context)(rt) == theirs);
    if (rt) the_round(rt, theirs, theirs); /* and the device was not reset under them */
    CHECK_EQ(acl.reset_device(0), 0);
    nothing_left();
}

TEST(a_context_and_streams_of_the_application) {
    void *mine = another_begins(), *streams[2];
    for (int i = 0; i < 2; i++)
        CHECK_EQ(acl.stream(&streams[i]), 0);
    a_round_in_the_applications(mine, streams, 3);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(acl.unstream(streams[i]), 0);
    another_ends(mine);
    nothing_left();
}

/* ---- fences ---- */
TEST(a_fence_that_cannot_be_asked_is_waited_for) {
    device *rt = open_number(0, 0);
    if (!rt) return;
    CHECK_EQ(RT(mark)(rt, 0), 1);
    stand.fail(facts.query, 1, facts.refused); /* then the stream is waited for */
    CHECK_EQ(RT(passed)(rt, 0, 0), 1);
    RT(close)(rt);
    nothing_left();
}

/* ---- memory and copies ---- */
TEST(tiers_get_what_operators_want) {
    tnm_tier_desc tier;
    memset(&tier, 0, sizeof tier);
    tnm_ascend_tier(NULL, &tier);
    CHECK_EQ(tier.alignment, 0); /* the default is 256 */
    CHECK_EQ(tier.tail_bytes, 32);
    tier.alignment = 16;
    tier.tail_bytes = 100;
    tnm_ascend_tier(NULL, &tier);
    CHECK_EQ(tier.alignment, 64);
    CHECK_EQ(tier.tail_bytes, 100);
}

TEST(memory_starts_where_it_is_asked_to) {
    bench b;
    uint64_t mem[40];
    void *at;
    if (!bench_open(&b, 0)) return;
    for (int host = 0; host < 2; host++) {
        tnm_backend *of = host ? &b.host : &b.dev;
        for (int i = 0; i < 40; i++) {
            uint64_t align = (uint64_t)1 << i % 17;
            CHECK_EQ(of->alloc(b.rt, 1000, align, NULL, &mem[i], &at), TNM_OK);
            CHECK_EQ(mem[i] % align, 0);
            CHECK(at == (host ? (void *)(uintptr_t)mem[i] : NULL));
        }
        for (int i = 0; i < 40; i++) /* in an order of its own */
            of->release(b.rt, mem[i * 7 % 40], 1000);
    }
    CHECK_EQ(stand.live(), 3);
    CHECK(b.dev.alloc(b.rt, UINT64_MAX - 5, 256, NULL, &mem[0], &at) < 0);
    CHECK(b.dev.alloc(b.rt, (uint64_t)1 << 40, 65536, NULL, &mem[0], &at) < 0);
    bench_close(&b);
}

TEST(odd_places_are_copied_at_once) { /* either end; odd sizes go as they are */
    bench b;
    uint64_t ticket = 0, once = stand.count("at once");
    if (!bench_open(&b, 0)) return;
    tnm_span odd = b.on_device;
    odd.offset = 8;
    CHECK_EQ(b.dev.copy(b.rt, &odd, &b.on_host[0], 500, &ticket), TNM_OK);
    odd = b.on_host[0];
    odd.host = (char *)odd.host + 1;
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &odd, 7, &ticket), TNM_OK);
    CHECK_EQ(stand.count("at once") - once, 2);
    CHECK_EQ(bench_up(&b, 0, 7, &ticket), TNM_PENDING);
    b.dev.submit(b.rt);
    CHECK_EQ(b.dev.wait(b.rt, ticket), TNM_OK);
    bench_close(&b);
}

/* The event behind a copy that failed stays NOT_READY: neither a hang nor a copy that is OK. */
TEST(a_copy_that_fails_when_it_runs_says_so) {
    for (int wait = 0; wait < 3; wait++) { /* 2: somebody else was told by the stream */
        bench b;
        uint64_t ticket = 0;
        tnm_result r = TNM_PENDING;
        if (!bench_open(&b, 0)) return;
        acl.spoil(0);
        CHECK_EQ(bench_up(&b, 0, PIECE, &ticket), TNM_PENDING);
        b.dev.submit(b.rt);
        if (wait == 2) CHECK_EQ(b.rt->acl.stream_wait(b.rt->lane[TNM_ASCEND_UP].stream), 507013);
        for (int i = 0; i < 2000 && r == TNM_PENDING; i++)
            r = wait == 1 ? b.dev.wait(b.rt, ticket) : b.dev.poll(b.rt, ticket);
        CHECK_EQ(r, TNM_ERR_BACKEND);
        const char *why = wait == 2 ? "failed: 507006" : "failed: 507013";
        CHECK(says(b.rt, why));
        CHECK_EQ(bench_up(&b, 0, PIECE, &ticket), TNM_PENDING);
        b.dev.submit(b.rt);
        CHECK_EQ(b.dev.wait(b.rt, ticket), TNM_OK);
        bench_close(&b);
    }
}

/* Its event completes all the same: the stream knows. */
TEST(a_copy_that_fails_in_silence_is_found_out) {
    for (int runs = 1; runs < 3; runs++) {
        bench b;
        uint64_t ticket[2];
        if (!bench_open(&b, 0)) return;
        acl.spoil(1);
        for (int i = 0; i < runs; i++) {
            b.on_device.offset = (uint64_t)i * 4096;
            CHECK_EQ(bench_up(&b, i, 4096, &ticket[i]), TNM_PENDING);
            b.dev.submit(b.rt);
        }
        if (runs == 2) CHECK_EQ(b.dev.wait(b.rt, ticket[0]), TNM_OK); /* too early to know */
        CHECK_EQ(b.dev.wait(b.rt, ticket[runs - 1]), runs == 1 ? TNM_ERR_BACKEND : TNM_ERR_LOST);
        CHECK(says(b.rt, "aclrtSynchronizeStream failed: 507013"));
        bench_close(&b);
    }
}

TEST(a_failure_is_told_to_all_it_may_be_of) {
    bench b;
    uint64_t ticket[2];
    if (!bench_open(&b, 0)) return;
    for (int i = 0; i < 2; i++) {
        if (i == 1) acl.spoil(1);
        b.on_device.offset = (uint64_t)i * 4096;
        CHECK_EQ(bench_up(&b, i, 4096, &ticket[i]), TNM_PENDING);
        b.dev.submit(b.rt);
    }
    /* so the stream is asked for the first */
    stand.fail("aclrtSynchronizeEvent", 1, facts.refused);
    CHECK_EQ(b.dev.wait(b.rt, ticket[0]), TNM_ERR_BACKEND);
    CHECK_EQ(b.dev.wait(b.rt, ticket[1]), TNM_ERR_BACKEND);
    CHECK_EQ(bench_up(&b, 0, 4096, &ticket[0]), TNM_PENDING);
    CHECK_EQ(b.dev.wait(b.rt, ticket[0]), TNM_OK); /* not lost: nothing was answered before */
    bench_close(&b);
}

/* Errors that say nothing of the work are no end of it, and no end of the device. */
TEST(errors_without_end_are_no_dead_device) {
    enum { HALF = PIECE / 2 };
    bench b;
    uint64_t ticket[3] = { 0 }, mem = 0;
    void *host = NULL;
    if (!bench_open(&b, 0)) return;
    tnm_span behind = b.on_device;
    uint64_t value = RT(mark)(b.rt, 0);
    CHECK_EQ(bench_up(&b, 0, PIECE, &ticket[0]), TNM_PENDING);
    CHECK_EQ(b.dev.wait(b.rt, ticket[0]), TNM_OK);
    CHECK_EQ(bench_up(&b, 0, HALF, &ticket[0]), TNM_PENDING);
    b.dev.submit(b.rt);
    behind.offset = HALF;
    stand.fail("aclrtQueryEventStatus aclrtSynchronizeEvent aclrtSynchronizeStream", -1,
               facts.refused);
    for (int i = 0; i < 40; i++) {
        CHECK_EQ(b.dev.poll(b.rt, ticket[0]), TNM_PENDING);
        CHECK_EQ(b.dev.wait(b.rt, ticket[0]), TNM_PENDING);
        CHECK(RT(passed)(b.rt, 0, i & 1 ? value : 0) < value);
    }
    stand.fail("aclrtRecordEvent aclrtSynchronizeStream", -1, facts.refused);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_host[1], &behind, HALF, &ticket[1]), TNM_PENDING);
    b.dev.submit(b.rt); /* no event behind it */
    CHECK_EQ(b.dev.wait(b.rt, ticket[1]), TNM_PENDING);
    stand.fail("aclrtMemcpyAsync aclrtSynchronizeStream", -1, facts.refused);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_host[1], &behind, HALF, &ticket[2]), TNM_PENDING);
    CHECK(ticket[2] != ticket[1]); /* refused, but who knows what was begun */
    CHECK_EQ(b.dev.wait(b.rt, ticket[2]), TNM_PENDING);
    stand.fail(facts.enter, -1, facts.refused);
    for (int i = 0; i < 40; i++)
        CHECK_EQ(b.dev.poll(b.rt, ticket[0]), TNM_PENDING);
    stand.fail("aclrtMalloc aclrtMallocAlign32", -1, facts.refused);
    for (int i = 0; i < 40; i++)
        CHECK_EQ(b.dev.alloc(b.rt, 4096, 64, NULL, &mem, &host), TNM_ERR_BACKEND);
    stand.fail(NULL, 0, 0);
    CHECK_EQ(b.dev.wait(b.rt, ticket[0]), TNM_OK);
    CHECK_EQ(b.dev.wait(b.rt, ticket[1]), TNM_OK);
    CHECK_EQ(b.dev.wait(b.rt, ticket[2]), TNM_ERR_BACKEND);
    CHECK(memcmp(b.at[1], b.at[0], HALF) == 0);
    CHECK_EQ(RT(passed)(b.rt, 0, value), value);
    bench_close(&b);
}

TEST(memory_is_ddr_where_there_is_no_hbm) {
    tnm_backend dev;
    setenv("STANDIN_BYTES", "50000", 1);
    setenv("STANDIN_DDR", "1", 1);
    device *rt = open_number(0, 0);
    unsetenv("STANDIN_BYTES");
    unsetenv("STANDIN_DDR");
    if (!rt) return;
    RT(backend)(rt, &dev);
    CHECK_EQ(dev.available(rt), 50000);
    stand.fail("aclrtGetMemInfo", 1, facts.refused); /* HBM cannot be asked: DDR is */
    CHECK_EQ(dev.available(rt), 50000);
    RT(close)(rt);
    nothing_left();
}

TEST(closing_waits_for_what_runs) {
    bench b;
    uint64_t ticket = 0, done = stand.count("copies");
    CHECK_EQ(acl.set_device(0), 0); /* so that the memory outlives the close */
    if (!bench_open(&b, 0)) return;
    CHECK_EQ(bench_up(&b, 0, PIECE, &ticket), TNM_PENDING);
    b.dev.submit(b.rt);
    b.on_device.offset = PIECE;
    CHECK_EQ(b.dev.copy(b.rt, &b.on_host[1], &b.on_device, 8, &ticket), TNM_PENDING);
    RT(close)(b.rt);
    CHECK_EQ(stand.count("copies") - done, 2);
    b.rt = open_number(0, 0);
    CHECK_EQ(acl.reset_device(0), 0);
    bench_close(&b);
}

static void known_once(const device *near, int reach) {
    CHECK_EQ(near->peers, 1);
    CHECK_EQ(near->peer[0].reached, reach);
}

TEST(siblings_copy_to_each_other) {
    siblings("aclrtDeviceEnablePeerAccess", 0, known_once); /* staging, then again */
}

static int run_all(const char *library) {
    facts.built = library;
    if (!device_load() || !acl_load(RT(library)(library)) || acl.init(NULL) != 0) return 0;
    device_scenes();
    RUN(a_machine_without_one_shows_none);
    RUN(the_process_stays_initialised_for_the_others);
    RUN(the_default_context_is_shared);
    RUN(a_context_and_streams_of_the_application);
    RUN(a_fence_that_cannot_be_asked_is_waited_for);
    RUN(tiers_get_what_operators_want);
    RUN(memory_starts_where_it_is_asked_to);
    RUN(odd_places_are_copied_at_once);
    RUN(a_copy_that_fails_when_it_runs_says_so);
    RUN(a_copy_that_fails_in_silence_is_found_out);
    RUN(a_failure_is_told_to_all_it_may_be_of);
    RUN(errors_without_end_are_no_dead_device);
    RUN(memory_is_ddr_where_there_is_no_hbm);
    RUN(closing_waits_for_what_runs);
    RUN(siblings_copy_to_each_other);
    return 1;
}

static void tier_wants(tnm_tier_desc *tier) {
    tnm_ascend_tier(NULL, tier);
}

int main(void) {
    facts.stranger = "libc.so.6";
    facts.first = "aclInit";
    facts.refused = 107000;
    facts.broken = 507010;
    facts.says_refused = "failed: 107000: EZ9999";
    facts.says_no_memory = "aclrtMalloc failed: 207001";
    facts.says_broken = "failed: 507010";
    facts.enter = "aclrtGetCurrentContext";
    facts.mark = "aclrtRecordEvent";
    facts.query = "aclrtQueryEventStatus";
    facts.few_calls = 70;
    facts.alignment = 64;
    facts.eager = facts.at_once = 1;
    facts.users = 1; /* this program */
    facts.tier = tier_wants;
    if (!run_all(standin_path("STANDIN_ASCEND", "build/standin/libascend.so"))) return 1;
    old = facts.cannot_tell = 1;
    facts.users = 0;
    if (!run_all(standin_path("STANDIN_ASCEND_OLD", "build/standin/libascend_old.so"))) return 1;
    return check_done();
}
