/* examples/backends/cuda.h from outside, over tests/standin_cuda.c (STANDIN_CUDA names the built
 * library; else build/standin/libcuda.so). tests/test_hip.c is this file for hip.h. */
/* needs: -pthread -ldl */
#define _POSIX_C_SOURCE 200809L
#define TENSORMEM_IMPLEMENTATION
#include "../tensormem.h"
#include "check.h"

#include <pthread.h>
#include <time.h>

#ifdef TEST_HIP
#    include "../examples/backends/hip.h"
#    define RT(name)   tnm_hip_##name
#    define RT_SIZE(n) TNM_HIP_##n
#    define STANDIN    "STANDIN_HIP"
#    define LIBRARY    "build/standin/libhip.so"
#    define OTHER      "STANDIN_CUDA"
#    define OTHER_LIB  "build/standin/libcuda.so"
#    define FIRST_CALL "hipInit"
#    define OOM_NAME   "hipErrorOutOfMemory (2)"
#    define LOST_NAME  "hipErrorIllegalAddress (700)"
#    define CALL_ALLOC "hipMalloc"
#    define CALL_UP    "hipMemcpyHtoDAsync"
#    define CALL_PEER  "hipMemcpyPeerAsync"
#    define CALL_ENTER "hipGetDevice"
#    define CALL_MARK  "hipEventRecord"
#    define CALL_QUERY "hipEventQuery"
#    define CALL_ENDS  "hipEventQuery hipEventSynchronize hipStreamSynchronize hipStreamQuery"
#    define CALL_DARK  "hipEventRecord hipStreamSynchronize"
typedef tnm_hip device;
typedef tnm_hip_desc device_desc;
#else
#    include "../examples/backends/cuda.h"
#    define RT(name)   tnm_cuda_##name
#    define RT_SIZE(n) TNM_CUDA_##n
#    define STANDIN    "STANDIN_CUDA"
#    define LIBRARY    "build/standin/libcuda.so"
#    define OTHER      "STANDIN_HIP"
#    define OTHER_LIB  "build/standin/libhip.so"
#    define FIRST_CALL "cuInit"
#    define OOM_NAME   "CUDA_ERROR_OUT_OF_MEMORY (2)"
#    define LOST_NAME  "CUDA_ERROR_ILLEGAL_ADDRESS (700)"
#    define CALL_ALLOC "cuMemAlloc_v2"
#    define CALL_UP    "cuMemcpyHtoDAsync_v2"
#    define CALL_PEER  "cuMemcpyPeerAsync"
#    define CALL_ENTER "cuCtxPushCurrent_v2"
#    define CALL_MARK  "cuEventRecord"
#    define CALL_QUERY "cuEventQuery"
#    define CALL_ENDS  "cuEventQuery cuEventSynchronize cuStreamSynchronize cuStreamQuery"
#    define CALL_DARK  "cuEventRecord cuStreamSynchronize"
typedef tnm_cuda device;
typedef tnm_cuda_desc device_desc;
#endif

enum { PLAIN_ERROR = 304, BROKEN = 700 };

static const char *library;
static struct {
    void (*fail)(const char *call, int nth, int code);
    void (*capture)(void *stream, int active);
    int (*fired)(void);
    void (*lose)(void);
    void (*revive)(void);
    uint64_t (*live)(void);
    uint64_t (*objects)(void);
    uint64_t (*count)(const char *what);
    int (*add)(void *on, uintptr_t at, size_t bytes, unsigned char add);
} standin;

static int find(void *handle, const char *name, void *function) {
    void *at = RT(symbol)(handle, name);
    memcpy(function, &at, sizeof at);
    if (!at) printf("the stand-in has no %s\n", name);
    return at != NULL;
}

static int load(void) {
    const char *path = getenv(STANDIN);
    library = path && *path ? path : LIBRARY;
    void *handle = RT(library)(library);
    if (!handle) {
        printf("%s cannot be loaded: build it first\n", library);
        return 0;
    }
    return find(handle, "standin_fail", &standin.fail) &&
           find(handle, "standin_capture", &standin.capture) &&
           find(handle, "standin_fired", &standin.fired) &&
           find(handle, "standin_lose", &standin.lose) &&
#ifdef TEST_HIP
           find(handle, "standin_revive", &standin.revive) &&
#endif
           find(handle, "standin_live", &standin.live) &&
           find(handle, "standin_objects", &standin.objects) &&
           find(handle, "standin_count", &standin.count) &&
           find(handle, "standin_add", &standin.add);
}

static void describe(device_desc *desc, const char *name) {
    memset(desc, 0, sizeof *desc);
    desc->library = name;
}

static device *open_number(int number, uint32_t depth) {
    device_desc desc;
    device *rt = NULL;
    describe(&desc, library);
    desc.device = number;
    desc.queue_depth = depth;
    CHECK_EQ(RT(open)(&desc, &rt), TNM_OK);
    if (!rt) printf("%s\n", RT(error)(NULL));
    return rt;
}

static void revive(void) {
    if (standin.revive) standin.revive();
}

static void nothing_left(void) {
    CHECK_EQ(standin.live(), 0);
    CHECK_EQ(standin.objects(), 0);
}

/* ---- the thread's current context or device ---- */
static struct {
#ifdef TEST_HIP
    int (*get)(int *device);
    int (*set)(int device);
    int (*error)(void);
#else
    int (*get)(void **context);
    int (*create)(void **context, unsigned flags, int device);
    int (*destroy)(void *context);
    int (*stream)(void **stream, unsigned flags);
    int (*unstream)(void *stream);
#endif
} current;

static int current_load(void) {
    void *handle = RT(library)(library);
#ifdef TEST_HIP
    return find(handle, "hipGetDevice", &current.get) &&
           find(handle, "hipSetDevice", &current.set) &&
           find(handle, "hipPeekAtLastError", &current.error);
#else
    return find(handle, "cuCtxGetCurrent", &current.get) &&
           find(handle, "cuCtxCreate_v2", &current.create) &&
           find(handle, "cuCtxDestroy_v2", &current.destroy) &&
           find(handle, "cuStreamCreate", &current.stream) &&
           find(handle, "cuStreamDestroy_v2", &current.unstream);
#endif
}

/* What is current, and that no error of ours was left behind. */
static void *current_now(void) {
#ifdef TEST_HIP
    int number = -1;
    CHECK_EQ(current.error(), 0);
    (void)current.get(&number);
    return (void *)(intptr_t)(number + 1);
#else
    void *context = NULL;
    (void)current.get(&context);
    return context;
#endif
}

/* ---- a small world: device over host, and a shadow of what each tensor holds ---- */
enum { TENSORS = 6, BYTES = 20000 };

typedef struct world {
    device *rt;
    tnm_ctx *mem;
    tnm_tensor tensor[TENSORS];
    unsigned char first[TENSORS], added[TENSORS]; /* byte i of a tensor: first + i / 7 + added */
    unsigned char seen[BYTES];
    int doubtful; /* a call failed half-way: what this tensor holds is not known */
} world;

static void quiet(void *user, const tnm_log *item) {
    (void)user, (void)item;
}

static int world_open(world *w, device *rt) {
    tnm_tier_desc tier[2];
    tnm_desc desc;
    memset(w, 0, sizeof *w);
    memset(tier, 0, sizeof tier);
    memset(&desc, 0, sizeof desc);
    w->rt = rt;
    tier[0].budget_bytes = 3 * 20480;
    RT(backend)(rt, &tier[0].backend);
    RT(host)(rt, &tier[1].backend);
    tier[1].budget_bytes = 1 << 20;
    desc.tiers = tier;
    desc.tier_count = 2;
    desc.chunk_bytes = 4096;
    desc.user = rt;
    desc.passed = RT(passed);
    desc.log = quiet;
    return tnm_create(&desc, &w->mem) == TNM_OK;
}

static unsigned char world_byte(const world *w, int i, int at) {
    return (unsigned char)(w->first[i] + at / 7 + w->added[i]);
}

static tnm_result world_fill(world *w, int i) {
    tnm_tensor_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.bytes = BYTES;
    if (!w->tensor[i].id) {
        tnm_result r = tnm_tensor_create(w->mem, &desc, &w->tensor[i]);
        if (r != TNM_OK) return r;
    }
    w->first[i] = (unsigned char)(31 * i + 5);
    w->added[i] = 0;
    for (int at = 0; at < BYTES; at++)
        w->seen[at] = world_byte(w, i, at);
    return tnm_write(w->mem, w->tensor[i], 0, w->seen, BYTES);
}

/* A kernel on a pinned tensor, unpinned with its fence. */
static tnm_result world_work(world *w, int i, uint32_t queue) {
    tnm_use use;
    tnm_pinned at;
    memset(&use, 0, sizeof use);
    use.tensor = w->tensor[i];
    use.access = TNM_WRITE;
    tnm_result r = tnm_pin(w->mem, &use, 1, &at);
    if (r != TNM_OK) return r;
    CHECK(!at.host);
    int done = standin.add(RT(queue)(w->rt, queue), RT(pointer)(&at), BYTES, 3) == 0;
    if (done) w->added[i] = (unsigned char)(w->added[i] + 3);
    uint64_t value = RT(mark)(w->rt, queue);
    if (!value) value = RT(mark)(w->rt, queue); /* failed once: not twice */
    r = tnm_unpin(w->mem, &at, 1, value ? TNM_FENCE(queue, value) : 0);
    return done ? r : TNM_ERR_LOST;
}

/* OK and right, or an error; OK and wrong is a failure of the test. */
static tnm_result world_read(world *w, int i) {
    tnm_result r = tnm_read(w->mem, w->tensor[i], 0, w->seen, BYTES);
    for (int at = 0; r == TNM_OK && at < BYTES; at++)
        if (w->seen[at] != world_byte(w, i, at)) {
            CHECK_EQ(w->seen[at], world_byte(w, i, at));
            printf("(tensor %d, byte %d)\n", i, at);
            break;
        }
    return r;
}

static void world_close(world *w) {
    CHECK_EQ(tnm_check(w->mem), 0);
    CHECK_EQ(tnm_destroy(w->mem), TNM_OK);
    RT(close)(w->rt);
}

/* ---- opening ---- */
static void refused(const device_desc *desc, const char *part) {
    device *rt = (device *)(uintptr_t)8;
    CHECK_EQ(RT(open)(desc, &rt), TNM_ERR_UNSUPPORTED);
    CHECK(rt == NULL);
    CHECK(strstr(RT(error)(NULL), part) != NULL);
    if (!strstr(RT(error)(NULL), part)) printf("'%s', without '%s'\n", RT(error)(NULL), part);
    RT(close)(rt);
}

TEST(open_says_what_is_missing) {
    device_desc desc;
    const char *path = getenv(OTHER);
    describe(&desc, "/nowhere/libnothing.so");
    refused(&desc, "/nowhere/libnothing.so");
    describe(&desc, path && *path ? path : OTHER_LIB); /* loads, but speaks another language */
    refused(&desc, "no function " FIRST_CALL);
    describe(&desc, library);
    desc.device = 2;
    refused(&desc, "no number 2");
    desc.device = -1;
    refused(&desc, "no number -1");
    desc.device = 0;
    setenv("STANDIN_DEVICES", "0", 1);
    refused(&desc, "shows 0 devices");
    unsetenv("STANDIN_DEVICES");
    nothing_left();
}

TEST(open_fails_at_every_call) {
    device_desc desc;
    int n = 1, failed = 0;
    describe(&desc, library);
    desc.queue_depth = 4;
    for (;; n += n < 40 ? 1 : 13) {
        device *rt = NULL;
        standin.fail(NULL, n, PLAIN_ERROR);
        tnm_result r = RT(open)(&desc, &rt);
        int fired = standin.fired();
        standin.fail(NULL, 0, 0);
        CHECK_EQ(rt != NULL, r == TNM_OK);
        failed += r != TNM_OK;
        if (r != TNM_OK) CHECK(strstr(RT(error)(NULL), "(304)") != NULL);
        RT(close)(rt);
        nothing_left();
        if (!fired) break;
    }
    CHECK(failed > 20);
    CHECK(n > 250);
}

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

/* ---- the calling thread ---- */
static void the_round(device *rt, void *before) {
    world w;
    if (!world_open(&w, rt)) return;
    for (int i = 0; i < TENSORS; i++) {
        CHECK_EQ(world_fill(&w, i), TNM_OK);
        CHECK(current_now() == before);
    }
    for (int i = 0; i < 4 * TENSORS; i++) {
        CHECK_EQ(world_work(&w, i % TENSORS, 0), TNM_OK);
        CHECK(current_now() == before);
        (void)tnm_pump(w.mem, TNM_ALL);
        CHECK(current_now() == before);
    }
    for (int i = 0; i < TENSORS; i++)
        CHECK_EQ(world_read(&w, i), TNM_OK);
    CHECK(current_now() == before);
    world_close(&w);
    CHECK(current_now() == before);
}

TEST(the_calling_thread_keeps_what_was_current) {
    device *rt = open_number(0, 0);
    if (!rt) return;
    the_round(rt, current_now()); /* nothing, or the first device */
#ifdef TEST_HIP
    CHECK_EQ(current.set(1), 0);
#else
    void *mine = NULL;
    CHECK_EQ(current.create(&mine, 0, 1), 0);
#endif
    rt = open_number(0, 0);
    if (rt) the_round(rt, current_now());
#ifdef TEST_HIP
    CHECK_EQ(current.set(0), 0);
#else
    CHECK_EQ(current.destroy(mine), 0);
#endif
    nothing_left();
}

#ifndef TEST_HIP
TEST(a_context_and_streams_of_the_application) {
    device_desc desc;
    device *rt = NULL;
    void *mine = NULL, *streams[2], *now;
    describe(&desc, library);
    CHECK_EQ(standin.objects(), 0);
    rt = open_number(0, 0); /* initialises the driver */
    RT(close)(rt);
    CHECK_EQ(current.create(&mine, 0, 1), 0);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(current.stream(&streams[i], 1), 0);
    desc.context = mine;
    desc.streams = streams;
    desc.stream_count = 2;
    desc.device = 77; /* the context says which */
    CHECK_EQ(RT(open)(&desc, &rt), TNM_OK);
    if (rt) {
        CHECK(RT(context)(rt) == mine);
        CHECK(RT(queue)(rt, 0) == streams[0] && RT(queue)(rt, 1) == streams[1]);
        CHECK(RT(queue)(rt, 2) == NULL);
        the_round(rt, mine);
    }
    CHECK_EQ(standin.objects(), 2); /* the streams are still theirs */
    for (int i = 0; i < 2; i++)
        CHECK_EQ(current.unstream(streams[i]), 0);
    now = current_now();
    CHECK(now == mine);
    CHECK_EQ(current.destroy(mine), 0);
    nothing_left();
}
#endif

/* ---- fences ---- */
TEST(fences_pass_in_order) {
    device *rt = open_number(0, 0);
    if (!rt) return;
    uint64_t last = 0, seen = 0;
    for (int i = 1; i <= 700; i++) { /* more than are kept at once */
        uint64_t value = RT(mark)(rt, 0);
        CHECK_EQ(value, i);
        uint64_t now = RT(passed)(rt, 0, 0);
        CHECK(now >= seen && now <= value);
        seen = now;
        last = value;
    }
    CHECK_EQ(RT(passed)(rt, 0, last), last);
    CHECK_EQ(RT(passed)(rt, 0, last + 9), last); /* nobody marked it: no wait for it */
    CHECK_EQ(RT(mark)(rt, 1), 0);
    CHECK(RT(passed)(rt, 1, 0) == UINT64_MAX);
    standin.fail(CALL_MARK, 1, PLAIN_ERROR);
    CHECK_EQ(RT(mark)(rt, 0), 0);
    CHECK(strstr(RT(error)(rt), "(304)") != NULL);
    CHECK_EQ(RT(mark)(rt, 0), last + 1);
    standin.fail(CALL_QUERY, 1, PLAIN_ERROR); /* says nothing about the fence */
    CHECK(RT(passed)(rt, 0, 0) <= last + 1);
    CHECK_EQ(RT(passed)(rt, 0, last + 1), last + 1);
    RT(close)(rt);
    nothing_left();
}

/* ---- callbacks by hand ---- */
typedef struct bench { /* one device, one piece there and two here */
    device *rt;
    tnm_backend dev, host;
    uint64_t mem, locked[2];
    void *at[2];
    tnm_span on_device, on_host[2];
} bench;

enum { PIECE = 256 << 10 };

static int bench_open(bench *b, uint32_t depth) {
    void *none = NULL;
    memset(b, 0, sizeof *b);
    b->rt = open_number(0, depth);
    if (!b->rt) return 0;
    RT(backend)(b->rt, &b->dev);
    RT(host)(b->rt, &b->host);
    CHECK_EQ(b->dev.alloc(b->rt, PIECE, 4096, NULL, &b->mem, &none), TNM_OK);
    CHECK_EQ(b->mem % 4096, 0);
    CHECK(none == NULL);
    b->on_device.backend = &b->dev;
    b->on_device.mem = b->mem;
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(b->host.alloc(b->rt, PIECE, 4096, NULL, &b->locked[i], &b->at[i]), TNM_OK);
        b->on_host[i].backend = &b->host;
        b->on_host[i].mem = b->locked[i];
        b->on_host[i].host = b->at[i];
        memset(b->at[i], 1 + i, PIECE);
    }
    return 1;
}

static void bench_close(bench *b) {
    b->dev.release(b->rt, b->mem, PIECE);
    for (int i = 0; i < 2; i++)
        b->host.release(b->rt, b->locked[i], PIECE);
    RT(close)(b->rt);
    nothing_left();
}

TEST(a_full_queue_is_busy) {
    bench b;
    uint64_t ticket[3] = { 0 };
    if (!bench_open(&b, 2)) return;
    for (int i = 0; i < 3; i++) {
        tnm_span to = b.on_device, from = b.on_host[0];
        to.offset = (uint64_t)i * 1000;
        from.host = (char *)b.at[0] + i * 1000;
        CHECK_EQ(b.dev.copy(b.rt, &to, &from, 1000, &ticket[i]),
                 i < 2 ? TNM_PENDING : TNM_ERR_BUSY);
    }
    CHECK(ticket[0] != 0 && ticket[0] == ticket[1]); /* one event for the run */
    b.dev.submit(b.rt);
    CHECK_EQ(b.dev.wait(b.rt, ticket[0]), TNM_OK);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &b.on_host[0], 1000, &ticket[2]), TNM_PENDING);
    CHECK(ticket[2] != ticket[0]);
    b.dev.submit(b.rt);
    while (b.dev.poll(b.rt, ticket[2]) == TNM_PENDING)
        continue;
    bench_close(&b);
}

TEST(pageable_memory_takes_the_right_way) {
    bench b;
    static unsigned char pageable[PIECE];
    uint64_t ticket = 0, before = standin.count("pageable");
    if (!bench_open(&b, 0)) return;
    tnm_span mine;
    memset(&mine, 0, sizeof mine);
    mine.host = pageable;
    mine.tier = -1;
    memset(pageable, 9, PIECE);
    /* the caller's: at once */
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &mine, PIECE, &ticket), TNM_OK);
    memset(pageable, 0, PIECE);
    CHECK_EQ(b.dev.copy(b.rt, &mine, &b.on_device, PIECE, &ticket), TNM_OK);
    CHECK_EQ(pageable[0] + pageable[PIECE - 1], 18);
    CHECK_EQ(standin.count("pageable") - before, 2 * PIECE);
    /* adopted: small at once, large through staging */
    mine.tier = 1;
    mine.adopted = 1;
    mine.backend = &b.host;
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &mine, 1000, &ticket), TNM_OK);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &mine, PIECE, &ticket), TNM_ERR_UNSUPPORTED);
    /* adopted and page-locked: in the background */
    tnm_span locked = b.on_host[1];
    locked.adopted = 1;
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &locked, PIECE, &ticket), TNM_PENDING);
    b.dev.submit(b.rt);
    CHECK_EQ(b.dev.wait(b.rt, ticket), TNM_OK);
    CHECK_EQ(standin.count("pageable") - before, 2 * PIECE + 1000);
    CHECK_EQ(ticket == 0, 0);
    /* what is neither ours nor the CPU's */
    tnm_span foreign;
    memset(&foreign, 0, sizeof foreign);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &foreign, 8, &ticket), TNM_ERR_UNSUPPORTED);
    CHECK_EQ(b.host.copy(b.rt, &b.on_host[0], &b.on_device, 8, &ticket), TNM_ERR_UNSUPPORTED);
    bench_close(&b);
}

TEST(an_adopted_model_streams_through_staging) {
    device *rt = open_number(0, 0);
    static unsigned char model[4][200000];
    tnm_tier_desc tier[2];
    tnm_desc desc;
    tnm_ctx *mem = NULL;
    tnm_tensor t[4];
    uint64_t before = standin.count("pageable");
    memset(tier, 0, sizeof tier);
    memset(&desc, 0, sizeof desc);
    if (!rt) return;
    RT(backend)(rt, &tier[0].backend);
    RT(host)(rt, &tier[1].backend);
    tier[0].budget_bytes = 420000;
    tier[1].budget_bytes = 8 << 20;
    desc.tiers = tier;
    desc.tier_count = 2;
    CHECK_EQ(tnm_create(&desc, &mem), TNM_OK);
    for (int i = 0; i < 4; i++) {
        tnm_tensor_desc what;
        tnm_adopt_desc where;
        memset(&what, 0, sizeof what);
        memset(&where, 0, sizeof where);
        what.bytes = sizeof model[i];
        where.tier = 1;
        where.host = model[i];
        for (size_t at = 0; at < sizeof model[i]; at++)
            model[i][at] = (unsigned char)(at / 3 + (size_t)i);
        CHECK_EQ(tnm_tensor_adopt(mem, &what, &where, &t[i]), TNM_OK);
    }
    for (int i = 0; i < 12; i++) {
        tnm_use use;
        tnm_pinned at;
        memset(&use, 0, sizeof use);
        use.tensor = t[i % 4];
        CHECK_EQ(tnm_pin(mem, &use, 1, &at), TNM_OK);
        CHECK_EQ(tnm_unpin(mem, &at, 1, 0), TNM_OK);
    }
    CHECK_EQ(standin.count("pageable"), before); /* every byte came from page-locked memory */
    CHECK_EQ(tnm_destroy(mem), TNM_OK);
    RT(close)(rt);
    nothing_left();
}

#ifndef TEST_HIP
TEST(runs_of_copies_go_out_as_batches) {
    for (int can = 1; can >= 0; can--) {
        bench b;
        uint64_t before = standin.count("batched"), ticket = 0;
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
        CHECK_EQ(standin.count("batched") - before, can ? 20 : 0);
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

/* ---- refusals, and a device that dies ---- */
TEST(out_of_memory_is_a_refusal) {
    world w;
    tnm_backend dev;
    uint64_t mem = 0;
    void *host = NULL;
    setenv("STANDIN_BYTES", "50000", 1); /* the budget says 61440 */
    device *rt = open_number(0, 0);
    unsetenv("STANDIN_BYTES");
    if (!rt) return;
    RT(backend)(rt, &dev);
    CHECK_EQ(dev.available(rt), 50000);
    CHECK_EQ(dev.alloc(rt, 60000, 256, NULL, &mem, &host), TNM_ERR_MEMORY);
    CHECK(strstr(RT(error)(rt), OOM_NAME) != NULL);
    CHECK(world_open(&w, rt));
    for (int i = 0; i < TENSORS; i++)
        CHECK_EQ(world_fill(&w, i), TNM_OK);
    for (int i = 0; i < 3 * TENSORS; i++)
        CHECK_EQ(world_work(&w, i % TENSORS, 0), TNM_OK);
    for (int i = 0; i < TENSORS; i++)
        CHECK_EQ(world_read(&w, i), TNM_OK);
    world_close(&w);
    nothing_left();
}

TEST(a_lost_device_says_so_everywhere) {
    world w;
    tnm_backend dev;
    uint64_t mem = 0;
    void *host = NULL;
    device *rt = open_number(0, 0);
    if (!rt || !world_open(&w, rt)) return;
    RT(backend)(rt, &dev);
    for (int i = 0; i < TENSORS; i++)
        CHECK_EQ(world_fill(&w, i), TNM_OK);
    CHECK_EQ(world_work(&w, 0, 0), TNM_OK); /* newer there than here */
    standin.lose();
    CHECK_EQ(RT(mark)(rt, 0), 0);
    CHECK(strstr(RT(error)(rt), LOST_NAME) != NULL);
    CHECK(RT(passed)(rt, 0, 1) == UINT64_MAX);
    CHECK_EQ(dev.alloc(rt, 4096, 256, NULL, &mem, &host), TNM_ERR_LOST);
    CHECK_EQ(dev.available(rt), 0);
    CHECK_EQ(world_read(&w, 0), TNM_ERR_LOST);
    for (int i = 1; i < TENSORS; i++)
        CHECK_EQ(world_read(&w, i), TNM_OK); /* the host tier is page-locked, and still there */
    CHECK(world_work(&w, 1, 0) < 0);
    world_close(&w);
    revive();
    nothing_left();
    rt = open_number(0, 0); /* and a fresh one works */
    if (rt) the_round(rt, current_now());
    nothing_left();
}

TEST(a_context_ends_with_copies_in_flight) {
    for (int pumps = 0; pumps < 6; pumps++) {
        world w;
        tnm_use use[TENSORS];
        device *rt = open_number(0, 0);
        if (!rt || !world_open(&w, rt)) return;
        memset(use, 0, sizeof use);
        for (int i = 0; i < TENSORS; i++) {
            CHECK_EQ(world_fill(&w, i), TNM_OK);
            use[i].tensor = w.tensor[i];
        }
        if (pumps & 1) CHECK_EQ(world_work(&w, 0, 0), TNM_OK);
        CHECK_EQ(tnm_prefetch(w.mem, 0, use, 3), TNM_OK);
        for (int i = 0; i < pumps; i++)
            (void)tnm_pump(w.mem, TNM_ALL);
        world_close(&w);
        nothing_left();
    }
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
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &b.on_host[0], PIECE, &ticket[0]), TNM_PENDING);
    CHECK_EQ(b.dev.wait(b.rt, ticket[0]), TNM_OK);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &b.on_host[0], HALF, &ticket[0]), TNM_PENDING);
    b.dev.submit(b.rt);
    standin.fail(CALL_ENDS, -1, PLAIN_ERROR);
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
    standin.fail(CALL_DARK, -1, PLAIN_ERROR); /* submitted, and no event behind it */
    CHECK_EQ(b.dev.copy(b.rt, &b.on_host[1], &behind, HALF, &ticket[2]), TNM_PENDING);
    b.dev.submit(b.rt);
    CHECK_EQ(b.dev.wait(b.rt, ticket[2]), TNM_PENDING);
    standin.fail(CALL_ALLOC, -1, PLAIN_ERROR);
    for (int i = 0; i < 40; i++)
        CHECK_EQ(b.dev.alloc(b.rt, 4096, 256, NULL, &mem, &host), TNM_ERR_BACKEND);
    standin.fail(CALL_ENTER, -1, PLAIN_ERROR);
    for (int i = 0; i < 40; i++)
        CHECK_EQ(b.dev.poll(b.rt, ticket[0]), TNM_PENDING);
    standin.fail(NULL, 0, 0);
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
    standin.capture(RT(queue)(rt, 0), 1);
    for (int i = 0; i < 20; i++) {
        CHECK_EQ(RT(mark)(rt, 0), 0);
        CHECK(RT(passed)(rt, 0, 0) <= value);
    }
    CHECK(strstr(RT(error)(rt), "(900)") != NULL);
    standin.capture(RT(queue)(rt, 0), 0);
    CHECK_EQ(RT(mark)(rt, 0), value + 1);
    CHECK_EQ(RT(passed)(rt, 0, value + 1), value + 1);
    RT(close)(rt);
    nothing_left();
}

TEST(closing_waits_for_what_runs) {
    bench b;
    uint64_t ticket = 0, done = standin.count("copies");
    if (!bench_open(&b, 0)) return;
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &b.on_host[0], PIECE, &ticket), TNM_PENDING);
    b.dev.submit(b.rt);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_host[1], &b.on_device, 8, &ticket), TNM_PENDING);
    RT(close)(b.rt); /* what was never submitted never runs */
    CHECK_EQ(standin.count("copies") - done, 1);
    revive();
    nothing_left();
}

TEST(a_failed_call_keeps_no_memory) {
    bench b;
    uint64_t mem = 0;
    void *host = NULL;
    if (!bench_open(&b, 0)) return;
    uint64_t before = standin.live();
    CHECK_EQ(b.dev.alloc(b.rt, 1000, 256, NULL, &mem, &host), TNM_OK);
    standin.fail(CALL_ENTER, 1, PLAIN_ERROR);
    b.dev.release(b.rt, mem, 1000);
    CHECK_EQ(standin.live(), before);
    CHECK_EQ(b.host.alloc(b.rt, 1000, 65536, NULL, &mem, &host), TNM_OK);
    CHECK_EQ((uintptr_t)host % 65536, 0);
    standin.fail(CALL_ENTER, 1, PLAIN_ERROR);
    b.host.release(b.rt, mem, 1000);
    CHECK_EQ(standin.live(), before);
    bench_close(&b);
}

TEST(nothing_is_begun_on_a_lost_device) {
    bench b;
    uint64_t ticket = 0;
    if (!bench_open(&b, 0)) return;
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &b.on_host[0], PIECE, &ticket), TNM_PENDING);
    standin.lose();
    CHECK_EQ(RT(mark)(b.rt, 0), 0); /* now it is known, and what is there may be given back */
    uint64_t before = standin.count("calls");
    b.dev.submit(b.rt);
    CHECK_EQ(standin.count("calls"), before);
    CHECK_EQ(b.dev.poll(b.rt, ticket), TNM_ERR_LOST);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &b.on_host[0], PIECE, &ticket), TNM_ERR_LOST);
    b.dev.release(b.rt, b.mem, PIECE);
    for (int i = 0; i < 2; i++)
        b.host.release(b.rt, b.locked[i], PIECE);
    RT(close)(b.rt);
    revive();
    nothing_left();
}

/* ---- siblings ---- */
static void move_between(device *near, device *far) {
    tnm_tier_desc tier[3];
    tnm_desc desc;
    tnm_ctx *mem = NULL;
    tnm_tensor t;
    tnm_tensor_desc what;
    static unsigned char bytes[300000], back[300000];
    memset(tier, 0, sizeof tier);
    memset(&desc, 0, sizeof desc);
    memset(&what, 0, sizeof what);
    RT(backend)(near, &tier[0].backend);
    RT(backend)(far, &tier[1].backend);
    RT(host)(near, &tier[2].backend);
    for (int i = 0; i < 3; i++)
        tier[i].budget_bytes = 4 << 20;
    tier[0].spill_to = tier[1].spill_to = 2;
    desc.tiers = tier;
    desc.tier_count = 3;
    desc.log = quiet;
    CHECK_EQ(tnm_create(&desc, &mem), TNM_OK);
    what.bytes = sizeof bytes;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(i / 5);
    CHECK_EQ(tnm_tensor_create(mem, &what, &t), TNM_OK);
    CHECK_EQ(tnm_write(mem, t, 0, bytes, sizeof bytes), TNM_OK);
    for (int i = 0; i < 6; i++) {
        tnm_use use;
        tnm_pinned at;
        memset(&use, 0, sizeof use);
        use.tensor = t;
        use.tier = i % 2;
        use.access = TNM_WRITE; /* so that the other one's bytes are stale each time */
        tnm_result r = tnm_pin(mem, &use, 1, &at);
        if (r == TNM_ERR_BACKEND && standin.fired()) r = tnm_pin(mem, &use, 1, &at);
        CHECK_EQ(r, TNM_OK);
        if (r != TNM_OK) break;
        CHECK_EQ(standin.add(RT(queue)(i % 2 ? far : near, 0), RT(pointer)(&at), sizeof bytes, 1),
                 0);
        uint64_t value = RT(mark)(i % 2 ? far : near, 0);
        while (RT(passed)(i % 2 ? far : near, 0, value) < value)
            continue;
        CHECK_EQ(tnm_unpin(mem, &at, 1, 0), TNM_OK);
    }
    CHECK_EQ(tnm_read(mem, t, 0, back, sizeof back), TNM_OK);
    for (size_t i = 0; i < sizeof bytes; i++)
        if (back[i] != (unsigned char)(bytes[i] + 6)) {
            CHECK_EQ(back[i], (unsigned char)(bytes[i] + 6));
            break;
        }
    CHECK_EQ(tnm_destroy(mem), TNM_OK);
}

TEST(siblings_copy_to_each_other) {
    for (int reach = 1; reach >= 0; reach--) {
        setenv("STANDIN_PEER", reach ? "1" : "0", 1);
        device *near = open_number(0, 0), *far = open_number(1, 0);
        if (near && far) {
            standin.fail(CALL_PEER, 1, PLAIN_ERROR); /* proof that this call is made */
            move_between(near, far);
            CHECK(standin.fired());
            standin.fail(NULL, 0, 0);
            move_between(near, far);
        }
        RT(close)(near);
        RT(close)(far);
        nothing_left();
    }
    unsetenv("STANDIN_PEER");
}

TEST(two_of_one_device_copy_within_it) {
    device *one = open_number(0, 0), *two = open_number(0, 0);
    if (one && two) move_between(one, two);
    RT(close)(one);
    RT(close)(two);
    nothing_left();
}

/* ---- every call fails once ---- */
/* Made again until it works. A tier that failed is left alone for some pumps. */
static tnm_result insist(tnm_result (*call)(world *w, int i), world *w, int i) {
    tnm_result r = call(w, i);
    for (int tries = 0; tries < 8 && r != TNM_OK && r != TNM_ERR_LOST; tries++) {
        (void)tnm_pump(w->mem, TNM_ALL);
        r = call(w, i);
    }
    return r;
}

static tnm_result work_0(world *w, int i) {
    return world_work(w, i, 0);
}

static int scenario(int n, int code) {
    world w;
    int lost = 0, fired;
    device *rt = open_number(0, 0);
    if (!rt || !world_open(&w, rt)) return 0;
    standin.fail(NULL, n, code);
    for (int i = 0; i < TENSORS; i++)
        lost |= insist(world_fill, &w, i) != TNM_OK;
    for (int i = 0; i < 2 * TENSORS && !lost; i++) {
        lost = insist(work_0, &w, i % TENSORS) != TNM_OK;
        (void)tnm_pump(w.mem, TNM_ALL);
    }
    fired = standin.fired();
    if (!lost) standin.fail(NULL, 0, 0);
    for (int i = 0; i < TENSORS; i++) {
        tnm_result r = world_read(&w, i);
        if (code == PLAIN_ERROR) CHECK_EQ(r, TNM_OK);
    }
    if (code == PLAIN_ERROR) CHECK(!lost);
    world_close(&w);
    standin.fail(NULL, 0, 0);
    if (code == BROKEN) revive();
    nothing_left();
    return fired;
}

TEST(each_call_of_a_scenario_fails_once) {
    int n = 1, step = check_scale(1, 7);
    while (scenario(n, PLAIN_ERROR))
        n += step;
    CHECK(n > 100);
}

TEST(the_device_breaks_at_each_call_of_a_scenario) {
    int n = 1, step = check_scale(1, 7);
    while (scenario(n, BROKEN))
        n += step;
    CHECK(n > 100);
}

/* ---- marks beside a context that pumps ---- */
static int marking;

static void *marks(void *user) {
    device *rt = (device *)user;
    struct timespec pause = { 0, 20000 };
    while (__atomic_load_n(&marking, __ATOMIC_ACQUIRE)) {
        (void)RT(mark)(rt, 0);
        nanosleep(&pause, NULL);
    }
    return NULL;
}

TEST(marks_run_beside_the_callbacks) {
    world w;
    pthread_t thread;
    device *rt = open_number(0, 0);
    if (!rt || !world_open(&w, rt)) return;
    for (int i = 0; i < TENSORS; i++)
        CHECK_EQ(world_fill(&w, i), TNM_OK);
    marking = 1;
    CHECK_EQ(pthread_create(&thread, NULL, marks, rt), 0);
    for (int i = 0; i < 8 * TENSORS; i++) {
        tnm_use use;
        tnm_pinned at;
        memset(&use, 0, sizeof use);
        use.tensor = w.tensor[i % TENSORS];
        CHECK_EQ(tnm_pin(w.mem, &use, 1, &at), TNM_OK);
        uint64_t now = RT(passed)(rt, 0, 0);
        CHECK_EQ(tnm_unpin(w.mem, &at, 1, TNM_FENCE(0, now + 1)), TNM_OK);
        (void)tnm_pump(w.mem, TNM_ALL);
    }
    __atomic_store_n(&marking, 0, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    CHECK(RT(mark)(rt, 0) > 0); /* the last fence waits for one more */
    for (int i = 0; i < TENSORS; i++)
        CHECK_EQ(world_read(&w, i), TNM_OK);
    world_close(&w);
    nothing_left();
}

int main(void) {
    if (!load() || !current_load()) return 1;
    RUN(open_says_what_is_missing);
    RUN(open_fails_at_every_call);
    RUN(unified_memory_is_recognised);
    RUN(the_calling_thread_keeps_what_was_current);
#ifndef TEST_HIP
    RUN(a_context_and_streams_of_the_application);
    RUN(runs_of_copies_go_out_as_batches);
#endif
    RUN(fences_pass_in_order);
    RUN(a_full_queue_is_busy);
    RUN(pageable_memory_takes_the_right_way);
    RUN(an_adopted_model_streams_through_staging);
    RUN(out_of_memory_is_a_refusal);
    RUN(a_lost_device_says_so_everywhere);
    RUN(a_context_ends_with_copies_in_flight);
    RUN(errors_without_end_are_no_dead_device);
    RUN(a_captured_stream_is_not_marked);
    RUN(closing_waits_for_what_runs);
    RUN(a_failed_call_keeps_no_memory);
    RUN(nothing_is_begun_on_a_lost_device);
    RUN(siblings_copy_to_each_other);
    RUN(two_of_one_device_copy_within_it);
    RUN(each_call_of_a_scenario_fails_once);
    RUN(the_device_breaks_at_each_call_of_a_scenario);
    RUN(marks_run_beside_the_callbacks);
    return check_done();
}
