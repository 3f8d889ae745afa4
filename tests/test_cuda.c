/* needs: tensormem.o -pthread -ldl */
/* examples/backends/cuda.h from outside, over tests/standin_cuda.c (STANDIN_CUDA names the built
 * library; else build/standin/libcuda.so). tests/test_hip.c is this file for hip.h. */
#define _POSIX_C_SOURCE 200809L
#include "../tensormem.h"
#include "check.h"

#ifdef TEST_HIP
#    include "../examples/backends/hip.h"
#    define RT(name)   tnm_hip_##name
#    define RT_SIZE(n) TNM_HIP_##n
#    define CALL_ALLOC "hipMalloc"
#    define CALL_ENDS  "hipEventQuery hipEventSynchronize hipStreamSynchronize hipStreamQuery"
#    define CALL_DARK  "hipEventRecord hipStreamSynchronize"
typedef tnm_hip device;
typedef tnm_hip_desc device_desc;
#else
#    include "../examples/backends/cuda.h"
#    define RT(name)   tnm_cuda_##name
#    define RT_SIZE(n) TNM_CUDA_##n
#    define CALL_ALLOC "cuMemAlloc_v2"
#    define CALL_ENDS  "cuEventQuery cuEventSynchronize cuStreamSynchronize cuStreamQuery"
#    define CALL_DARK  "cuEventRecord cuStreamSynchronize"
#    define RT_CONTEXTS
typedef tnm_cuda device;
typedef tnm_cuda_desc device_desc;
#endif
#include "device_streams.h"

static void (*capture)(void *stream, int active); /* the stand-in's: begins, ends */

/* ---- the thread's current context or device ---- */
#ifdef TEST_HIP
static struct {
    int (*get)(int *device);
    int (*set)(int device);
    int (*error)(void);
} current;

static int current_load(void *handle) {
    return standin_find(RT(symbol), handle, "hipGetDevice", &current.get) &&
           standin_find(RT(symbol), handle, "hipSetDevice", &current.set) &&
           standin_find(RT(symbol), handle, "hipPeekAtLastError", &current.error);
}

static void *current_now(void) {
    int number = -1;
    CHECK_EQ(current.error(), 0);
    (void)current.get(&number);
    return (void *)(intptr_t)(number + 1);
}

static void *another_begins(void) {
    CHECK_EQ(current.set(1), 0);
    return current_now();
}

static void another_ends(void *at) {
    (void)at;
    CHECK_EQ(current.set(0), 0);
}
#else
static struct {
    int (*get)(void **context);
    int (*create)(void **context, unsigned flags, int device);
    int (*destroy)(void *context);
    int (*stream)(void **stream, unsigned flags);
    int (*unstream)(void *stream);
} current;

static int current_load(void *handle) {
    return standin_find(RT(symbol), handle, "cuCtxGetCurrent", &current.get) &&
           standin_find(RT(symbol), handle, "cuCtxCreate_v2", &current.create) &&
           standin_find(RT(symbol), handle, "cuCtxDestroy_v2", &current.destroy) &&
           standin_find(RT(symbol), handle, "cuStreamCreate", &current.stream) &&
           standin_find(RT(symbol), handle, "cuStreamDestroy_v2", &current.unstream);
}

static void *current_now(void) {
    void *context = NULL;
    (void)current.get(&context);
    return context;
}

static void *another_begins(void) {
    void *mine = NULL;
    CHECK_EQ(current.create(&mine, 0, 1), 0);
    return mine;
}

static void another_ends(void *at) {
    CHECK_EQ(current.destroy(at), 0);
}

TEST(a_context_and_streams_of_the_application) {
    void *mine, *streams[2];
    CHECK_EQ(stand.objects(), 0);
    RT(close)(open_number(0, 0)); /* initialises the driver */
    mine = another_begins();
    for (int i = 0; i < 2; i++)
        CHECK_EQ(current.stream(&streams[i], 1), 0);
    a_round_in_the_applications(mine, streams, 2);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(current.unstream(streams[i]), 0);
    CHECK(current_now() == mine);
    another_ends(mine);
    nothing_left();
}

TEST(runs_of_copies_go_out_as_batches) {
    for (int can = 1; can >= 0; can--) {
        bench b;
        uint64_t before = stand.count("batched"), ticket = 0;
        setenv("STANDIN_BATCH", can ? "1" : "0", 1);
        if (!bench_open(&b, 64)) break;
        for (int i = 0; i < 20; i++) {
            tnm_span to = b.on_device, from = b.on_host[0];
            to.offset = (uint64_t)i * 4096;
            from.host = (char *)b.at[0] + i * 4096;
            memset(from.host, i, 4096);
            CHECK_EQ(b.dev.copy(b.rt, &to, &from, 4096, &ticket), TNM_PENDING);
        }
        b.dev.submit(b.rt);
        CHECK_EQ(b.dev.wait(b.rt, ticket), TNM_OK);
        CHECK_EQ(stand.count("batched") - before, can ? 20 : 0);
        CHECK_EQ(b.dev.copy(b.rt, &b.on_host[1], &b.on_device, PIECE, &ticket), TNM_PENDING);
        b.dev.submit(b.rt);
        CHECK_EQ(b.dev.wait(b.rt, ticket), TNM_OK);
        for (int i = 0; i < 20 * 4096; i++)
            if (((unsigned char *)b.at[1])[i] != i / 4096) {
                CHECK_EQ(((unsigned char *)b.at[1])[i], i / 4096);
                break;
            }
        bench_close(&b);
    }
    unsetenv("STANDIN_BATCH");
}
#endif

TEST(unified_memory_is_recognised) {
    static const struct {
        const char *mode;
        int is;
    } modes[] = { { "0", RT_SIZE(TWO_MEMORIES) },
                  { "1", RT_SIZE(ONE_MEMORY) },
                  { "2", RT_SIZE(ONE_SPACE) } };
    for (int i = 0; i < 3; i++) {
        setenv("STANDIN_UNIFIED", modes[i].mode, 1);
        device *rt = open_number(0, 0);
        if (rt) CHECK_EQ(RT(is_unified)(rt), modes[i].is);
        RT(close)(rt);
    }
    unsetenv("STANDIN_UNIFIED");
}

/* Errors that say nothing of the work are no end of it, and no end of the device. */
TEST(errors_without_end_are_no_dead_device) {
    enum { HALF = PIECE / 2 };
    bench b;
    static unsigned char pageable[4096];
    uint64_t ticket[3] = { 0 }, mem = 0;
    void *host = NULL;
    if (!bench_open(&b, 0)) return;
    uint64_t value = RT(mark)(b.rt, 0);
    CHECK_EQ(bench_up(&b, 0, PIECE, &ticket[0]), TNM_PENDING);
    CHECK_EQ(b.dev.wait(b.rt, ticket[0]), TNM_OK);
    CHECK_EQ(bench_up(&b, 0, HALF, &ticket[0]), TNM_PENDING);
    b.dev.submit(b.rt);
    stand.fail(CALL_ENDS, -1, facts.refused);
    tnm_span mine;
    memset(&mine, 0, sizeof mine);
    mine.host = pageable;
    mine.tier = -1;
    tnm_span behind = b.on_device; /* pageable: begun, and nobody can say whether it is done */
    behind.offset = HALF;
    CHECK_EQ(b.dev.copy(b.rt, &mine, &behind, sizeof pageable, &ticket[1]), TNM_PENDING);
    for (int i = 0; i < 40; i++) {
        CHECK_EQ(b.dev.poll(b.rt, ticket[0]), TNM_PENDING);
        CHECK_EQ(b.dev.wait(b.rt, ticket[0]), TNM_PENDING);
        CHECK_EQ(b.dev.poll(b.rt, ticket[1]), TNM_PENDING);
        CHECK(RT(passed)(b.rt, 0, i & 1 ? value : 0) < value);
    }
    stand.fail(CALL_DARK, -1, facts.refused); /* submitted, and no event behind it */
    CHECK_EQ(b.dev.copy(b.rt, &b.on_host[1], &behind, HALF, &ticket[2]), TNM_PENDING);
    b.dev.submit(b.rt);
    CHECK_EQ(b.dev.wait(b.rt, ticket[2]), TNM_PENDING);
    stand.fail(CALL_ALLOC, -1, facts.refused);
    for (int i = 0; i < 40; i++)
        CHECK_EQ(b.dev.alloc(b.rt, 4096, 256, NULL, &mem, &host), TNM_ERR_BACKEND);
    stand.fail(facts.enter, -1, facts.refused);
    for (int i = 0; i < 40; i++)
        CHECK_EQ(b.dev.poll(b.rt, ticket[0]), TNM_PENDING);
    stand.fail(NULL, 0, 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(b.dev.wait(b.rt, ticket[i]), TNM_OK);
    CHECK(memcmp(b.at[1], b.at[0], HALF) == 0);
    CHECK(memcmp(pageable, b.at[0], sizeof pageable) == 0);
    CHECK_EQ(RT(passed)(b.rt, 0, value), value);
    CHECK_EQ(b.dev.alloc(b.rt, 4096, 256, NULL, &mem, &host), TNM_OK);
    b.dev.release(b.rt, mem, 4096);
    bench_close(&b);
}

/* Marking a stream while it is captured is the caller's mistake: no fence, and no dead device. */
TEST(a_captured_stream_is_not_marked) {
    device *rt = open_number(0, 0);
    if (!rt) return;
    uint64_t value = RT(mark)(rt, 0);
    capture(RT(queue)(rt, 0), 1);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(RT(mark)(rt, 0), 0);
        CHECK(RT(passed)(rt, 0, 0) <= value);
    }
    CHECK(says(rt, "(900)"));
    capture(RT(queue)(rt, 0), 0);
    CHECK_EQ(RT(mark)(rt, 0), value + 1);
    CHECK_EQ(RT(passed)(rt, 0, value + 1), value + 1);
    RT(close)(rt);
    nothing_left();
}

TEST(closing_waits_for_what_runs) {
    bench b;
    uint64_t ticket = 0, done = stand.count("copies");
    if (!bench_open(&b, 0)) return;
    CHECK_EQ(bench_up(&b, 0, PIECE, &ticket), TNM_PENDING);
    b.dev.submit(b.rt);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_host[1], &b.on_device, 8, &ticket), TNM_PENDING);
    RT(close)(b.rt); /* what was never submitted never runs */
    CHECK_EQ(stand.count("copies") - done, 1);
    revive();
    nothing_left();
}

TEST(siblings_copy_to_each_other) {
#ifdef TEST_HIP
    siblings("hipMemcpyPeerAsync", 1, NULL);
#else
    siblings("cuMemcpyPeerAsync", 1, NULL);
#endif
}

int main(void) {
    const char *cuda = standin_path("STANDIN_CUDA", "build/standin/libcuda.so");
    const char *hip = standin_path("STANDIN_HIP", "build/standin/libhip.so");
    facts.refused = 304;
    facts.broken = 700;
    facts.says_refused = "(304)";
    facts.few_calls = 250;
    facts.alignment = 4096;
#ifdef TEST_HIP
    facts.built = hip;
    facts.stranger = cuda;
    facts.first = "hipInit";
    facts.says_no_memory = "hipErrorOutOfMemory (2)";
    facts.says_broken = "hipErrorIllegalAddress (700)";
    facts.enter = "hipGetDevice";
    facts.mark = "hipEventRecord";
    facts.query = "hipEventQuery";
#else
    facts.built = cuda;
    facts.stranger = hip;
    facts.first = "cuInit";
    facts.says_no_memory = "CUDA_ERROR_OUT_OF_MEMORY (2)";
    facts.says_broken = "CUDA_ERROR_ILLEGAL_ADDRESS (700)";
    facts.enter = "cuCtxPushCurrent_v2";
    facts.mark = "cuEventRecord";
    facts.query = "cuEventQuery";
#endif
    if (!device_load() || !current_load(RT(library)(facts.built))) return 1;
    if (!standin_find(RT(symbol), RT(library)(facts.built), "standin_capture", &capture))
        return 1;
    device_scenes();
#ifndef TEST_HIP
    RUN(a_context_and_streams_of_the_application);
    RUN(runs_of_copies_go_out_as_batches);
#endif
    RUN(unified_memory_is_recognised);
    RUN(errors_without_end_are_no_dead_device);
    RUN(a_captured_stream_is_not_marked);
    RUN(closing_waits_for_what_runs);
    RUN(siblings_copy_to_each_other);
    return check_done();
}
