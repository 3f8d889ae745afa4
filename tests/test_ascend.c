/* examples/backends/ascend.h from outside, over tests/standin_ascend.c: the present release
 * (STANDIN_ASCEND names the built library; else build/standin/libascend.so) and one that lacks
 * what older ones lack (STANDIN_ASCEND_OLD; else build/standin/libascend_old.so). */
/* needs: -pthread -ldl */
#define _POSIX_C_SOURCE 200809L
#define TENSORMEM_IMPLEMENTATION
#include "../tensormem.h"
#include "check.h"

#include <pthread.h>
#include <sched.h>

#include "../examples/backends/ascend.h"

enum { PLAIN_ERROR = 107000, BROKEN = 507010, OUT_OF_MEMORY = 207001 };

static const char *library;
static int old; /* the release that lacks things */
static struct {
    void (*fail)(const char *call, int nth, int code);
    int (*fired)(void);
    void (*lose)(void);
    void (*spoil)(int silent);
    uint64_t (*live)(void);
    uint64_t (*objects)(void);
    uint64_t (*count)(const char *what);
    int (*add)(void *on, uintptr_t at, size_t bytes, unsigned char add);
    int (*init)(const char *config); /* and what an application calls itself */
    int (*set_device)(int32_t device);
    int (*reset_device)(int32_t device);
    int (*get)(void **context);
    int (*set)(void *context);
    int (*create)(void **context, int32_t device);
    int (*destroy)(void *context);
    int (*stream)(void **stream);
    int (*unstream)(void *stream);
} standin;

static int find(void *handle, const char *name, void *function) {
    void *at = tnm_ascend_symbol(handle, name);
    memcpy(function, &at, sizeof at);
    if (!at) printf("the stand-in has no %s\n", name);
    return at != NULL;
}

static int load(const char *variable, const char *otherwise) {
    const char *path = getenv(variable);
    library = path && *path ? path : otherwise;
    void *handle = tnm_ascend_library(library);
    if (!handle) {
        printf("%s cannot be loaded: build it first\n", library);
        return 0;
    }
    int found = find(handle, "standin_fail", &standin.fail) &&
                find(handle, "standin_fired", &standin.fired) &&
                find(handle, "standin_lose", &standin.lose) &&
                find(handle, "standin_spoil", &standin.spoil) &&
                find(handle, "standin_live", &standin.live) &&
                find(handle, "standin_objects", &standin.objects) &&
                find(handle, "standin_count", &standin.count) &&
                find(handle, "standin_add", &standin.add) &&
                find(handle, "aclInit", &standin.init) &&
                find(handle, "aclrtSetDevice", &standin.set_device) &&
                find(handle, "aclrtResetDevice", &standin.reset_device) &&
                find(handle, "aclrtGetCurrentContext", &standin.get) &&
                find(handle, "aclrtSetCurrentContext", &standin.set) &&
                find(handle, "aclrtCreateContext", &standin.create) &&
                find(handle, "aclrtDestroyContext", &standin.destroy) &&
                find(handle, "aclrtCreateStream", &standin.stream) &&
                find(handle, "aclrtDestroyStream", &standin.unstream);
    return found && standin.init(NULL) == 0;
}

static void describe(tnm_ascend_desc *desc, const char *name) {
    memset(desc, 0, sizeof *desc);
    desc->library = name;
}

static tnm_ascend *open_number(int number, uint32_t depth) {
    tnm_ascend_desc desc;
    tnm_ascend *rt = NULL;
    describe(&desc, library);
    desc.device = number;
    desc.queue_depth = depth;
    CHECK_EQ(tnm_ascend_open(&desc, &rt), TNM_OK);
    if (!rt) printf("%s\n", tnm_ascend_error(NULL));
    return rt;
}

static void nothing_left(void) {
    CHECK_EQ(standin.live(), 0);
    CHECK_EQ(standin.objects(), 0);
    if (!old) CHECK_EQ(standin.count("users"), 1); /* of AscendCL: this program */
}

static void *current_now(void) {
    void *context = NULL;
    (void)standin.get(&context);
    return context;
}

/* ---- a small world: device over host, and a shadow of what each tensor holds ---- */
enum { TENSORS = 6, BYTES = 20000, PLACE = 20224 };

typedef struct world {
    tnm_ascend *rt;
    tnm_ctx *mem;
    tnm_tensor tensor[TENSORS];
    unsigned char first[TENSORS], added[TENSORS]; /* byte i of a tensor: first + i / 7 + added */
    unsigned char seen[BYTES];
} world;

static void quiet(void *user, const tnm_log *item) {
    (void)user, (void)item;
}

static int world_open(world *w, tnm_ascend *rt) {
    tnm_tier_desc tier[2];
    tnm_desc desc;
    memset(w, 0, sizeof *w);
    memset(tier, 0, sizeof tier);
    memset(&desc, 0, sizeof desc);
    w->rt = rt;
    tnm_ascend_backend(rt, &tier[0].backend);
    tnm_ascend_host(rt, &tier[1].backend);
    tnm_ascend_tier(rt, &tier[0]);
    tnm_ascend_tier(rt, &tier[1]);
    tier[0].budget_bytes = 3 * PLACE;
    tier[1].budget_bytes = 1 << 20;
    desc.tiers = tier;
    desc.tier_count = 2;
    desc.chunk_bytes = 4096;
    desc.user = rt;
    desc.passed = tnm_ascend_passed;
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

/* An operator on a pinned tensor, unpinned with its fence. */
static tnm_result world_work(world *w, int i) {
    tnm_use use;
    tnm_pinned at;
    memset(&use, 0, sizeof use);
    use.tensor = w->tensor[i];
    use.access = TNM_WRITE;
    tnm_result r = tnm_pin(w->mem, &use, 1, &at);
    if (r != TNM_OK) return r;
    CHECK(!at.host);
    int done =
        standin.add(tnm_ascend_queue(w->rt, 0), (uintptr_t)tnm_ascend_pointer(&at), BYTES, 3) == 0;
    if (done) w->added[i] = (unsigned char)(w->added[i] + 3);
    uint64_t value = tnm_ascend_mark(w->rt, 0);
    if (!value) value = tnm_ascend_mark(w->rt, 0); /* failed once: not twice */
    r = tnm_unpin(w->mem, &at, 1, value ? TNM_FENCE(0, value) : 0);
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
    tnm_ascend_close(w->rt);
}

/* ---- opening ---- */
static void refused(const tnm_ascend_desc *desc, const char *part) {
    tnm_ascend *rt = (tnm_ascend *)(uintptr_t)8;
    CHECK_EQ(tnm_ascend_open(desc, &rt), TNM_ERR_UNSUPPORTED);
    CHECK(rt == NULL);
    CHECK(strstr(tnm_ascend_error(NULL), part) != NULL);
    if (!strstr(tnm_ascend_error(NULL), part))
        printf("'%s', without '%s'\n", tnm_ascend_error(NULL), part);
    tnm_ascend_close(rt);
}

TEST(open_says_what_is_missing) {
    tnm_ascend_desc desc;
    describe(&desc, "/nowhere/libnothing.so");
    refused(&desc, "/nowhere/libnothing.so cannot be loaded");
    describe(&desc, "libc.so.6"); /* loads, but speaks another language */
    refused(&desc, "libc.so.6 has no function aclInit");
    describe(&desc, library);
    desc.device = 2;
    refused(&desc, "shows 2 devices: no number 2");
    desc.device = -1;
    refused(&desc, "no number -1");
    desc.device = 0;
    setenv("STANDIN_DEVICES", "0", 1);
    refused(&desc, "shows 0 devices");
    unsetenv("STANDIN_DEVICES");
    standin.fail("aclrtGetDeviceCount", 1, 507033); /* how a machine without NPU answers */
    refused(&desc, "shows 0 devices");
    nothing_left();
}

TEST(open_fails_at_every_call) {
    tnm_ascend_desc desc;
    int n = 1, failed = 0;
    describe(&desc, library);
    desc.queue_depth = 4;
    for (;; n += n < 30 ? 1 : 7) {
        tnm_ascend *rt = NULL;
        standin.fail(NULL, n, PLAIN_ERROR);
        tnm_result r = tnm_ascend_open(&desc, &rt);
        int fired = standin.fired();
        standin.fail(NULL, 0, 0);
        CHECK_EQ(rt != NULL, r == TNM_OK);
        failed += r != TNM_OK;
        if (r != TNM_OK) CHECK(strstr(tnm_ascend_error(NULL), "failed: 107000: EZ9999") != NULL);
        if (r != TNM_OK) CHECK(strstr(tnm_ascend_error(NULL), "Solution") == NULL); /* one line */
        tnm_ascend_close(rt);
        nothing_left();
        if (!fired) break;
    }
    CHECK(failed > 20);
    CHECK(n > 70);
}

TEST(the_process_stays_initialised_for_the_others) {
    tnm_ascend_desc desc;
    tnm_ascend *rt = NULL;
    uint64_t users = standin.count("users");
    describe(&desc, library);
    CHECK_EQ(tnm_ascend_open(&desc, &rt), TNM_OK);
    CHECK_EQ(standin.count("users"), users + 1);
    tnm_ascend_close(rt);
    CHECK_EQ(standin.count("users"), users + (uint64_t)old); /* the old one cannot count down */
    desc.finalize = 1;
    CHECK_EQ(tnm_ascend_open(&desc, &rt), TNM_OK);
    tnm_ascend_close(rt);
    CHECK_EQ(standin.count("users"), old ? 0 : users);
    if (old) CHECK_EQ(standin.init(NULL), 0);
    nothing_left();
}

/* ---- the calling thread ---- */
static void the_round(tnm_ascend *rt, void *before) {
    world w;
    if (!world_open(&w, rt)) return;
    for (int i = 0; i < TENSORS; i++) {
        CHECK_EQ(world_fill(&w, i), TNM_OK);
        CHECK(current_now() == before);
    }
    for (int i = 0; i < 4 * TENSORS; i++) {
        CHECK_EQ(world_work(&w, i % TENSORS), TNM_OK);
        CHECK(current_now() == before);
        (void)tnm_pump(w.mem, TNM_ALL);
        CHECK(current_now() == before);
    }
    for (int i = 0; i < TENSORS; i++)
        CHECK_EQ(world_read(&w, i), TNM_OK);
    CHECK(current_now() == before);
    world_close(&w);
}

TEST(the_calling_thread_keeps_its_context) {
    void *mine = NULL;
    tnm_ascend *rt = open_number(0, 0);
    if (!rt) return;
    CHECK(current_now() == tnm_ascend_context(rt)); /* it had none, and none can be set */
    the_round(rt, tnm_ascend_context(rt));
    CHECK(current_now() == NULL); /* it went with the device */
    CHECK_EQ(standin.create(&mine, 1), 0);
    rt = open_number(0, 0);
    CHECK(current_now() == mine);
    if (rt) the_round(rt, mine);
    CHECK(current_now() == mine);
    CHECK_EQ(standin.destroy(mine), 0);
    nothing_left();
}

TEST(the_default_context_is_shared) {
    CHECK_EQ(standin.set_device(0), 0); /* as torch_npu does */
    void *theirs = current_now();
    tnm_ascend *rt = open_number(0, 0);
    if (rt) CHECK(tnm_ascend_context(rt) == theirs);
    if (rt) the_round(rt, theirs);
    CHECK(current_now() == theirs); /* and the device was not reset under them */
    CHECK_EQ(standin.reset_device(0), 0);
    nothing_left();
}

TEST(a_context_and_streams_of_the_application) {
    tnm_ascend_desc desc;
    tnm_ascend *rt = NULL;
    void *mine = NULL, *streams[2];
    describe(&desc, library);
    CHECK_EQ(standin.create(&mine, 1), 0);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(standin.stream(&streams[i]), 0);
    desc.context = mine;
    desc.streams = streams;
    desc.stream_count = 2;
    desc.device = 77; /* the context says which */
    CHECK_EQ(tnm_ascend_open(&desc, &rt), TNM_OK);
    if (rt) {
        CHECK(tnm_ascend_context(rt) == mine);
        CHECK(tnm_ascend_queue(rt, 0) == streams[0] && tnm_ascend_queue(rt, 1) == streams[1]);
        CHECK(tnm_ascend_queue(rt, 2) == NULL);
        the_round(rt, mine);
    }
    CHECK_EQ(standin.objects(), 3); /* they are still theirs */
    for (int i = 0; i < 2; i++)
        CHECK_EQ(standin.unstream(streams[i]), 0);
    CHECK_EQ(standin.destroy(mine), 0);
    nothing_left();
}

/* ---- fences ---- */
TEST(fences_pass_in_order) {
    tnm_ascend *rt = open_number(0, 0);
    if (!rt) return;
    uint64_t last = 0, seen = 0;
    for (int i = 1; i <= 300; i++) { /* more than are kept at once */
        uint64_t value = tnm_ascend_mark(rt, 0);
        CHECK_EQ(value, i);
        uint64_t now = tnm_ascend_passed(rt, 0, 0);
        CHECK(now >= seen && now <= value);
        seen = now;
        last = value;
    }
    CHECK_EQ(tnm_ascend_passed(rt, 0, last), last);
    CHECK_EQ(tnm_ascend_passed(rt, 0, last + 9), last); /* nobody marked it: no wait for it */
    CHECK_EQ(tnm_ascend_mark(rt, 1), 0);
    CHECK(tnm_ascend_passed(rt, 1, 0) == UINT64_MAX);
    standin.fail("aclrtRecordEvent", 1, PLAIN_ERROR);
    CHECK_EQ(tnm_ascend_mark(rt, 0), 0);
    CHECK(strstr(tnm_ascend_error(rt), "aclrtRecordEvent failed: 107000") != NULL);
    CHECK_EQ(tnm_ascend_mark(rt, 0), last + 1);
    standin.fail("aclrtQueryEventStatus", 1, PLAIN_ERROR); /* then the stream is waited for */
    CHECK_EQ(tnm_ascend_passed(rt, 0, 0), last + 1);
    tnm_ascend_close(rt);
    nothing_left();
}

/* ---- callbacks by hand ---- */
typedef struct bench { /* one device, one piece there and two here */
    tnm_ascend *rt;
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
    tnm_ascend_backend(b->rt, &b->dev);
    tnm_ascend_host(b->rt, &b->host);
    CHECK_EQ(b->dev.alloc(b->rt, PIECE + 64, 64, NULL, &b->mem, &none), TNM_OK);
    CHECK(none == NULL);
    b->on_device.backend = &b->dev;
    b->on_device.mem = b->mem;
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(b->host.alloc(b->rt, PIECE, 64, NULL, &b->locked[i], &b->at[i]), TNM_OK);
        b->on_host[i].backend = &b->host;
        b->on_host[i].mem = b->locked[i];
        b->on_host[i].host = b->at[i];
        memset(b->at[i], 1 + i, PIECE);
    }
    return 1;
}

static void bench_close(bench *b) {
    b->dev.release(b->rt, b->mem, PIECE + 64);
    for (int i = 0; i < 2; i++)
        b->host.release(b->rt, b->locked[i], PIECE);
    tnm_ascend_close(b->rt);
    nothing_left();
}

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
    CHECK_EQ(standin.live(), 3);
    CHECK(b.dev.alloc(b.rt, UINT64_MAX - 5, 256, NULL, &mem[0], &at) < 0);
    CHECK(b.dev.alloc(b.rt, (uint64_t)1 << 40, 65536, NULL, &mem[0], &at) < 0);
    bench_close(&b);
}

TEST(a_full_queue_is_busy) {
    bench b;
    uint64_t ticket[3] = { 0 };
    if (!bench_open(&b, 2)) return;
    for (int i = 0; i < 3; i++) {
        tnm_span to = b.on_device, from = b.on_host[0];
        to.offset = (uint64_t)i * 1024;
        from.host = (char *)b.at[0] + i * 1024;
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

TEST(copies_take_the_right_way) {
    bench b;
    static unsigned char pageable[PIECE];
    uint64_t ticket = 0, before = standin.count("pageable"), once = standin.count("at once");
    if (!bench_open(&b, 0)) return;
    tnm_span mine, odd;
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
    /* odd places, either end: at once; odd sizes go as they are */
    odd = b.on_device;
    odd.offset = 8;
    CHECK_EQ(b.dev.copy(b.rt, &odd, &b.on_host[0], 500, &ticket), TNM_OK);
    odd = b.on_host[0];
    odd.host = (char *)odd.host + 1;
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &odd, 7, &ticket), TNM_OK);
    CHECK_EQ(standin.count("at once") - once, 4);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &b.on_host[0], 7, &ticket), TNM_PENDING);
    b.dev.submit(b.rt);
    CHECK_EQ(b.dev.wait(b.rt, ticket), TNM_OK);
    /* adopted: small at once, large through staging */
    mine.tier = 1;
    mine.adopted = 1;
    mine.backend = &b.host;
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &mine, 1000, &ticket), TNM_OK);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &mine, PIECE, &ticket), TNM_ERR_UNSUPPORTED);
    /* adopted and page-locked: in the background, if the runtime can say that it is */
    tnm_span locked = b.on_host[1];
    locked.adopted = 1;
    tnm_result r = b.dev.copy(b.rt, &b.on_device, &locked, PIECE, &ticket);
    CHECK_EQ(r, old ? TNM_ERR_UNSUPPORTED : TNM_PENDING);
    b.dev.submit(b.rt);
    if (r == TNM_PENDING) CHECK_EQ(b.dev.wait(b.rt, ticket), TNM_OK);
    CHECK_EQ(standin.count("pageable") - before, 2 * PIECE + 1000);
    /* what is neither ours nor the CPU's */
    tnm_span foreign;
    memset(&foreign, 0, sizeof foreign);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &foreign, 8, &ticket), TNM_ERR_UNSUPPORTED);
    CHECK_EQ(b.host.copy(b.rt, &b.on_host[0], &b.on_device, 8, &ticket), TNM_ERR_UNSUPPORTED);
    bench_close(&b);
}

/* The event behind a copy that failed stays NOT_READY: neither a hang nor a copy that is OK. */
TEST(a_copy_that_fails_when_it_runs_says_so) {
    for (int wait = 0; wait < 3; wait++) { /* 2: somebody else was told by the stream */
        bench b;
        uint64_t ticket = 0;
        tnm_result r = TNM_PENDING;
        if (!bench_open(&b, 0)) return;
        standin.spoil(0);
        CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &b.on_host[0], PIECE, &ticket), TNM_PENDING);
        b.dev.submit(b.rt);
        if (wait == 2) CHECK_EQ(b.rt->acl.stream_wait(b.rt->lane[TNM_ASCEND_UP].stream), 507013);
        for (int i = 0; i < 2000 && r == TNM_PENDING; i++)
            r = wait == 1 ? b.dev.wait(b.rt, ticket) : b.dev.poll(b.rt, ticket);
        CHECK_EQ(r, TNM_ERR_BACKEND);
        const char *why = wait == 2 ? "failed: 507006" : "failed: 507013";
        CHECK(strstr(tnm_ascend_error(b.rt), why) != NULL);
        CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &b.on_host[0], PIECE, &ticket), TNM_PENDING);
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
        standin.spoil(1);
        for (int i = 0; i < runs; i++) {
            b.on_device.offset = (uint64_t)i * 4096;
            CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &b.on_host[i], 4096, &ticket[i]), TNM_PENDING);
            b.dev.submit(b.rt);
        }
        if (runs == 2) CHECK_EQ(b.dev.wait(b.rt, ticket[0]), TNM_OK); /* too early to know */
        CHECK_EQ(b.dev.wait(b.rt, ticket[runs - 1]), runs == 1 ? TNM_ERR_BACKEND : TNM_ERR_LOST);
        CHECK(strstr(tnm_ascend_error(b.rt), "aclrtSynchronizeStream failed: 507013") != NULL);
        bench_close(&b);
    }
}

TEST(a_failure_is_told_to_all_it_may_be_of) {
    bench b;
    uint64_t ticket[2];
    if (!bench_open(&b, 0)) return;
    for (int i = 0; i < 2; i++) {
        if (i == 1) standin.spoil(1);
        b.on_device.offset = (uint64_t)i * 4096;
        CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &b.on_host[i], 4096, &ticket[i]), TNM_PENDING);
        b.dev.submit(b.rt);
    }
    standin.fail("aclrtSynchronizeEvent", 1,
                 PLAIN_ERROR); /* so the stream is asked for the first */
    CHECK_EQ(b.dev.wait(b.rt, ticket[0]), TNM_ERR_BACKEND);
    CHECK_EQ(b.dev.wait(b.rt, ticket[1]), TNM_ERR_BACKEND);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &b.on_host[0], 4096, &ticket[0]), TNM_PENDING);
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
    uint64_t value = tnm_ascend_mark(b.rt, 0);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &b.on_host[0], PIECE, &ticket[0]), TNM_PENDING);
    CHECK_EQ(b.dev.wait(b.rt, ticket[0]), TNM_OK);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &b.on_host[0], HALF, &ticket[0]), TNM_PENDING);
    b.dev.submit(b.rt);
    behind.offset = HALF;
    standin.fail("aclrtQueryEventStatus aclrtSynchronizeEvent aclrtSynchronizeStream", -1,
                 PLAIN_ERROR);
    for (int i = 0; i < 40; i++) {
        CHECK_EQ(b.dev.poll(b.rt, ticket[0]), TNM_PENDING);
        CHECK_EQ(b.dev.wait(b.rt, ticket[0]), TNM_PENDING);
        CHECK(tnm_ascend_passed(b.rt, 0, i & 1 ? value : 0) < value);
    }
    standin.fail("aclrtRecordEvent aclrtSynchronizeStream", -1, PLAIN_ERROR);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_host[1], &behind, HALF, &ticket[1]), TNM_PENDING);
    b.dev.submit(b.rt); /* no event behind it */
    CHECK_EQ(b.dev.wait(b.rt, ticket[1]), TNM_PENDING);
    standin.fail("aclrtMemcpyAsync aclrtSynchronizeStream", -1, PLAIN_ERROR);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_host[1], &behind, HALF, &ticket[2]), TNM_PENDING);
    CHECK(ticket[2] != ticket[1]); /* refused, but who knows what was begun */
    CHECK_EQ(b.dev.wait(b.rt, ticket[2]), TNM_PENDING);
    standin.fail("aclrtGetCurrentContext", -1, PLAIN_ERROR);
    for (int i = 0; i < 40; i++)
        CHECK_EQ(b.dev.poll(b.rt, ticket[0]), TNM_PENDING);
    standin.fail("aclrtMalloc aclrtMallocAlign32", -1, PLAIN_ERROR);
    for (int i = 0; i < 40; i++)
        CHECK_EQ(b.dev.alloc(b.rt, 4096, 64, NULL, &mem, &host), TNM_ERR_BACKEND);
    standin.fail(NULL, 0, 0);
    CHECK_EQ(b.dev.wait(b.rt, ticket[0]), TNM_OK);
    CHECK_EQ(b.dev.wait(b.rt, ticket[1]), TNM_OK);
    CHECK_EQ(b.dev.wait(b.rt, ticket[2]), TNM_ERR_BACKEND);
    CHECK(memcmp(b.at[1], b.at[0], HALF) == 0);
    CHECK_EQ(tnm_ascend_passed(b.rt, 0, value), value);
    bench_close(&b);
}

TEST(an_adopted_model_streams_through_staging) {
    tnm_ascend *rt = open_number(0, 0);
    static unsigned char model[4][200000];
    tnm_tier_desc tier[2];
    tnm_desc desc;
    tnm_ctx *mem = NULL;
    tnm_tensor t[4];
    uint64_t before = standin.count("pageable"), once = standin.count("at once");
    memset(tier, 0, sizeof tier);
    memset(&desc, 0, sizeof desc);
    if (!rt) return;
    tnm_ascend_backend(rt, &tier[0].backend);
    tnm_ascend_host(rt, &tier[1].backend);
    tier[0].budget_bytes = 420000;
    tier[1].budget_bytes = 8 << 20;
    for (int i = 0; i < 2; i++)
        tnm_ascend_tier(rt, &tier[i]);
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
    CHECK_EQ(standin.count("at once"), once);    /* and in the background */
    CHECK_EQ(tnm_destroy(mem), TNM_OK);
    tnm_ascend_close(rt);
    nothing_left();
}

/* ---- refusals, and a device that dies ---- */
TEST(out_of_memory_is_a_refusal) {
    world w;
    tnm_backend dev;
    uint64_t mem = 0;
    void *host = NULL;
    setenv("STANDIN_BYTES", "50000", 1); /* the budget says 60672 */
    setenv("STANDIN_DDR", "1", 1);
    tnm_ascend *rt = open_number(0, 0);
    unsetenv("STANDIN_BYTES");
    unsetenv("STANDIN_DDR");
    if (!rt) return;
    tnm_ascend_backend(rt, &dev);
    CHECK_EQ(dev.available(rt), 50000);
    standin.fail("aclrtGetMemInfo", 1, PLAIN_ERROR); /* HBM cannot be asked: DDR is */
    CHECK_EQ(dev.available(rt), 50000);
    CHECK_EQ(dev.alloc(rt, 60000, 256, NULL, &mem, &host), TNM_ERR_MEMORY);
    CHECK(strstr(tnm_ascend_error(rt), "aclrtMalloc failed: 207001") != NULL);
    CHECK(world_open(&w, rt));
    for (int i = 0; i < TENSORS; i++)
        CHECK_EQ(world_fill(&w, i), TNM_OK);
    for (int i = 0; i < 3 * TENSORS; i++)
        CHECK_EQ(world_work(&w, i % TENSORS), TNM_OK);
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
    tnm_ascend *rt = open_number(0, 0);
    if (!rt || !world_open(&w, rt)) return;
    tnm_ascend_backend(rt, &dev);
    for (int i = 0; i < TENSORS; i++)
        CHECK_EQ(world_fill(&w, i), TNM_OK);
    CHECK_EQ(world_work(&w, 0), TNM_OK); /* newer there than here */
    standin.lose();
    CHECK_EQ(tnm_ascend_mark(rt, 0), 0);
    CHECK(strstr(tnm_ascend_error(rt), "failed: 507010") != NULL);
    CHECK(tnm_ascend_passed(rt, 0, 1) == UINT64_MAX);
    CHECK_EQ(dev.alloc(rt, 4096, 256, NULL, &mem, &host), TNM_ERR_LOST);
    CHECK_EQ(dev.available(rt), 0);
    CHECK_EQ(world_read(&w, 0), TNM_ERR_LOST);
    for (int i = 1; i < TENSORS; i++)
        CHECK_EQ(world_read(&w, i), TNM_OK); /* the host tier is page-locked, and still there */
    CHECK(world_work(&w, 1) < 0);
    world_close(&w);
    nothing_left();
    rt = open_number(0, 0); /* the last user reset it, and a fresh one works */
    if (rt) the_round(rt, tnm_ascend_context(rt));
    nothing_left();
}

TEST(a_context_ends_with_copies_in_flight) {
    for (int pumps = 0; pumps < 6; pumps++) {
        world w;
        tnm_use use[TENSORS];
        tnm_ascend *rt = open_number(0, 0);
        if (!rt || !world_open(&w, rt)) return;
        memset(use, 0, sizeof use);
        for (int i = 0; i < TENSORS; i++) {
            CHECK_EQ(world_fill(&w, i), TNM_OK);
            use[i].tensor = w.tensor[i];
        }
        if (pumps & 1) CHECK_EQ(world_work(&w, 0), TNM_OK);
        CHECK_EQ(tnm_prefetch(w.mem, 0, use, 3), TNM_OK);
        for (int i = 0; i < pumps; i++)
            (void)tnm_pump(w.mem, TNM_ALL);
        world_close(&w);
        nothing_left();
    }
}

TEST(closing_waits_for_what_runs) {
    bench b;
    uint64_t ticket = 0, done = standin.count("copies");
    CHECK_EQ(standin.set_device(0), 0); /* so that the memory outlives the close */
    if (!bench_open(&b, 0)) return;
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &b.on_host[0], PIECE, &ticket), TNM_PENDING);
    b.dev.submit(b.rt);
    b.on_device.offset = PIECE;
    CHECK_EQ(b.dev.copy(b.rt, &b.on_host[1], &b.on_device, 8, &ticket), TNM_PENDING);
    tnm_ascend_close(b.rt);
    CHECK_EQ(standin.count("copies") - done, 2);
    b.rt = open_number(0, 0);
    CHECK_EQ(standin.reset_device(0), 0);
    bench_close(&b);
}

/* ---- siblings ---- */
static void move_between(tnm_ascend *one, tnm_ascend *two) {
    tnm_tier_desc tier[3];
    tnm_desc desc;
    tnm_ctx *mem = NULL;
    tnm_tensor t;
    tnm_tensor_desc what;
    static unsigned char bytes[300000], back[300000];
    memset(tier, 0, sizeof tier);
    memset(&desc, 0, sizeof desc);
    memset(&what, 0, sizeof what);
    tnm_ascend_backend(one, &tier[0].backend);
    tnm_ascend_backend(two, &tier[1].backend);
    tnm_ascend_host(one, &tier[2].backend);
    for (int i = 0; i < 3; i++) {
        tier[i].budget_bytes = 4 << 20;
        tnm_ascend_tier(one, &tier[i]);
    }
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
        tnm_ascend *there = i % 2 ? two : one;
        tnm_use use;
        tnm_pinned at;
        memset(&use, 0, sizeof use);
        use.tensor = t;
        use.tier = i % 2;
        use.access = TNM_WRITE; /* so that the other one's bytes are stale each time */
        tnm_result r = tnm_pin(mem, &use, 1, &at);
        CHECK_EQ(r, TNM_OK);
        if (r != TNM_OK) break;
        void *queue = tnm_ascend_queue(there, 0);
        CHECK_EQ(standin.add(queue, (uintptr_t)tnm_ascend_pointer(&at), sizeof bytes, 1), 0);
        uint64_t value = tnm_ascend_mark(there, 0);
        while (tnm_ascend_passed(there, 0, value) < value)
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
        tnm_ascend *one = open_number(0, 0), *two = open_number(1, 0);
        if (one && two) {
            standin.fail("aclrtDeviceEnablePeerAccess", 1, PLAIN_ERROR); /* staging, then again */
            move_between(one, two);
            CHECK_EQ(standin.fired(), reach);
            standin.fail(NULL, 0, 0);
            move_between(one, two);
            CHECK_EQ(one->peers, 1);
            CHECK_EQ(one->peer[0].reached, reach);
        }
        tnm_ascend_close(one);
        tnm_ascend_close(two);
        nothing_left();
    }
    unsetenv("STANDIN_PEER");
}

TEST(two_of_one_device_copy_within_it) {
    tnm_ascend *one = open_number(0, 0), *two = open_number(0, 0);
    if (one && two) move_between(one, two);
    tnm_ascend_close(one);
    tnm_ascend_close(two);
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

static int scenario(int n, int code) {
    world w;
    int lost = 0, fired;
    tnm_ascend *rt = open_number(0, 0);
    if (!rt || !world_open(&w, rt)) return 0;
    standin.fail(NULL, n, code);
    for (int i = 0; i < TENSORS; i++)
        lost |= insist(world_fill, &w, i) != TNM_OK;
    for (int i = 0; i < 2 * TENSORS && !lost; i++) {
        lost = insist(world_work, &w, i % TENSORS) != TNM_OK;
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
    tnm_ascend *rt = (tnm_ascend *)user;
    while (TNM_ASCEND_GET(&marking)) {
        (void)tnm_ascend_mark(rt, 0);
        sched_yield();
    }
    return NULL;
}

TEST(marks_run_beside_the_callbacks) {
    world w;
    pthread_t thread;
    tnm_ascend *rt = open_number(0, 0);
    if (!rt || !world_open(&w, rt)) return;
    for (int i = 0; i < TENSORS; i++)
        CHECK_EQ(world_fill(&w, i), TNM_OK);
    TNM_ASCEND_PUT(&marking, 1);
    CHECK_EQ(pthread_create(&thread, NULL, marks, rt), 0);
    for (int i = 0; i < 8 * TENSORS; i++) {
        tnm_use use;
        tnm_pinned at;
        memset(&use, 0, sizeof use);
        use.tensor = w.tensor[i % TENSORS];
        CHECK_EQ(tnm_pin(w.mem, &use, 1, &at), TNM_OK);
        uint64_t now = tnm_ascend_passed(rt, 0, 0);
        CHECK_EQ(tnm_unpin(w.mem, &at, 1, TNM_FENCE(0, now + 1)), TNM_OK);
        (void)tnm_pump(w.mem, TNM_ALL);
    }
    TNM_ASCEND_PUT(&marking, 0);
    pthread_join(thread, NULL);
    (void)tnm_ascend_mark(rt, 0);
    for (int i = 0; i < TENSORS; i++)
        CHECK_EQ(world_read(&w, i), TNM_OK);
    world_close(&w);
    nothing_left();
}

static void run_all(void) {
    RUN(open_says_what_is_missing);
    RUN(open_fails_at_every_call);
    RUN(the_process_stays_initialised_for_the_others);
    RUN(the_calling_thread_keeps_its_context);
    RUN(the_default_context_is_shared);
    RUN(a_context_and_streams_of_the_application);
    RUN(fences_pass_in_order);
    RUN(tiers_get_what_operators_want);
    RUN(memory_starts_where_it_is_asked_to);
    RUN(a_full_queue_is_busy);
    RUN(copies_take_the_right_way);
    RUN(a_copy_that_fails_when_it_runs_says_so);
    RUN(a_copy_that_fails_in_silence_is_found_out);
    RUN(a_failure_is_told_to_all_it_may_be_of);
    RUN(errors_without_end_are_no_dead_device);
    RUN(an_adopted_model_streams_through_staging);
    RUN(out_of_memory_is_a_refusal);
    RUN(a_lost_device_says_so_everywhere);
    RUN(a_context_ends_with_copies_in_flight);
    RUN(closing_waits_for_what_runs);
    RUN(siblings_copy_to_each_other);
    RUN(two_of_one_device_copy_within_it);
    RUN(each_call_of_a_scenario_fails_once);
    RUN(the_device_breaks_at_each_call_of_a_scenario);
    RUN(marks_run_beside_the_callbacks);
}

int main(void) {
    if (!load("STANDIN_ASCEND", "build/standin/libascend.so")) return 1;
    run_all();
    if (!load("STANDIN_ASCEND_OLD", "build/standin/libascend_old.so")) return 1;
    old = 1;
    run_all();
    return check_done();
}
