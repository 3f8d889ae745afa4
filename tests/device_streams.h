/* device_streams.h: the scenes that backends for runtimes of streams and events share, over a
 * stand-in that watches the runtime's rules: CUDA, HIP, Ascend. Before it a test includes its
 * backend and says
 *
 *   #define RT(name) tnm_cuda_##name       the backend's names
 *   typedef tnm_cuda device;
 *   typedef tnm_cuda_desc device_desc;
 *   #define RT_CONTEXTS                    if an application may bring a context of its own
 *
 * after it the three hooks below, and in main: facts, device_load(), device_scenes(). */
#ifndef TENSORMEM_TESTS_DEVICE_STREAMS_H
#define TENSORMEM_TESTS_DEVICE_STREAMS_H

#include <pthread.h>
#include <time.h>

#include "standin.h"

static struct {
    const char *built;        /* the stand-in */
    const char *stranger;     /* a library that speaks another language */
    const char *first;        /* the call it lacks first */
    int refused, broken;      /* codes: a call fails, the device breaks */
    const char *says_refused; /* how they are told */
    const char *says_no_memory, *says_broken;
    const char *enter, *mark, *query; /* calls: of every callback, of a mark, of `passed` */
    int few_calls;                    /* `open` makes at least so many */
    uint64_t alignment;               /* of the pieces worked with by hand */
    int eager;                        /* copies are queued at once, not by submit */
    int at_once;                      /* pageable memory has a call of its own */
    int cannot_tell;                  /* whether adopted memory is page-locked */
    uint64_t users;                   /* of the runtime in this process; 0 = it does not count */
    void (*tier)(tnm_tier_desc *tier);
} facts;

static void *current_now(void);    /* the thread's context or device; nothing was left behind */
static void *another_begins(void); /* of the application, current now: what current_now says */
static void another_ends(void *at);

static standin stand;

static int device_load(void) {
    void *handle = RT(library)(facts.built);
    if (!handle) printf("%s cannot be loaded: build it first\n", facts.built);
    return handle && standin_load(&stand, RT(symbol), handle);
}

static void describe(device_desc *desc, const char *name) {
    memset(desc, 0, sizeof *desc);
    desc->library = name;
}

static device *open_number(int number, uint32_t depth) {
    device_desc desc;
    device *rt = NULL;
    describe(&desc, facts.built);
    desc.device = number;
    desc.queue_depth = depth;
    CHECK_EQ(RT(open)(&desc, &rt), TNM_OK);
    if (!rt) printf("%s\n", RT(error)(NULL));
    return rt;
}

static void revive(void) {
    if (stand.revive) stand.revive();
}

static void nothing_left(void) {
    CHECK_EQ(stand.live(), 0);
    CHECK_EQ(stand.objects(), 0);
    if (facts.users) CHECK_EQ(stand.count("users"), facts.users);
}

static int says(const device *rt, const char *part) {
    const char *said = RT(error)(rt);
    if (!strstr(said, part)) printf("'%s', without '%s'\n", said, part);
    return strstr(said, part) != NULL;
}

/* ---- a small world: device over host, and a shadow of what each tensor holds ---- */
enum { TENSORS = 6, BYTES = 20000 };

typedef struct world {
    device *rt;
    tnm_ctx *mem;
    tnm_tensor tensor[TENSORS];
    unsigned char first[TENSORS], added[TENSORS]; /* byte i of a tensor: first + i / 7 + added */
    unsigned char seen[BYTES];
} world;

static void quiet(void *user, const tnm_log *item) {
    (void)user, (void)item;
}

static void tier_over(tnm_tier_desc *tier, uint64_t budget) { /* its backend is there already */
    tier->budget_bytes = budget;
    if (facts.tier) facts.tier(tier);
}

static int world_open(world *w, device *rt) {
    tnm_tier_desc tier[2];
    tnm_desc desc;
    memset(w, 0, sizeof *w);
    memset(tier, 0, sizeof tier);
    memset(&desc, 0, sizeof desc);
    w->rt = rt;
    RT(backend)(rt, &tier[0].backend);
    RT(host)(rt, &tier[1].backend);
    tier_over(&tier[0], 3 * 20480);
    tier_over(&tier[1], 1 << 20);
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

static int add_to(device *rt, const tnm_pinned *at, size_t bytes, unsigned char add) {
    return stand.add(RT(queue)(rt, 0), (uintptr_t)RT(pointer)(at), bytes, add);
}

/* A kernel on a pinned tensor, unpinned with its fence. */
static tnm_result world_work(world *w, int i) {
    tnm_use use;
    tnm_pinned at;
    memset(&use, 0, sizeof use);
    use.tensor = w->tensor[i];
    use.access = TNM_WRITE;
    tnm_result r = tnm_pin(w->mem, &use, 1, &at);
    if (r != TNM_OK) return r;
    CHECK(!at.host);
    int done = add_to(w->rt, &at, BYTES, 3) == 0;
    if (done) w->added[i] = (unsigned char)(w->added[i] + 3);
    uint64_t value = RT(mark)(w->rt, 0);
    if (!value) value = RT(mark)(w->rt, 0); /* failed once: not twice */
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
    RT(close)(w->rt);
}

/* ---- opening ---- */
static void refused(const device_desc *desc, const char *part) {
    device *rt = (device *)(uintptr_t)8;
    CHECK_EQ(RT(open)(desc, &rt), TNM_ERR_UNSUPPORTED);
    CHECK(rt == NULL);
    CHECK(says(NULL, part));
    RT(close)(rt);
}

TEST(open_says_what_is_missing) {
    device_desc desc;
    char lacks[200];
    describe(&desc, "/nowhere/libnothing.so");
    refused(&desc, "/nowhere/libnothing.so cannot be loaded");
    describe(&desc, facts.stranger);
    snprintf(lacks, sizeof lacks, "%s has no function %s", facts.stranger, facts.first);
    refused(&desc, lacks);
    describe(&desc, facts.built);
    desc.device = 2;
    refused(&desc, "shows 2 devices: no number 2");
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
    describe(&desc, facts.built);
    desc.queue_depth = 4;
    for (;; n += n < 40 ? 1 : facts.few_calls / 20) {
        device *rt = NULL;
        stand.fail(NULL, n, facts.refused);
        tnm_result r = RT(open)(&desc, &rt);
        int fired = stand.fired();
        stand.fail(NULL, 0, 0);
        CHECK_EQ(rt != NULL, r == TNM_OK);
        failed += r != TNM_OK;
        if (r != TNM_OK) CHECK(says(NULL, facts.says_refused));
        if (r != TNM_OK) CHECK(!strstr(RT(error)(NULL), "Solution")); /* one line */
        RT(close)(rt);
        nothing_left();
        if (!fired) break;
    }
    CHECK(failed > 20);
    CHECK(n > facts.few_calls);
}

/* ---- the calling thread ---- */
static void the_round(device *rt, void *before, void *after) {
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
    CHECK(current_now() == after);
}

static void a_round_on_a_fresh_device(void) {
    void *was = current_now();
    device *rt = open_number(0, 0);
    if (rt) the_round(rt, current_now(), was);
    nothing_left();
}

TEST(the_calling_thread_keeps_what_was_current) {
    a_round_on_a_fresh_device(); /* nothing was, or the first device */
    void *mine = another_begins();
    device *rt = open_number(0, 0);
    CHECK(current_now() == mine);
    if (rt) the_round(rt, mine, mine);
    another_ends(mine);
    nothing_left();
}

#ifdef RT_CONTEXTS
/* `objects` are still the application's in the end. */
static void a_round_in_the_applications(void *mine, void *const streams[2], uint64_t objects) {
    device_desc desc;
    device *rt = NULL;
    describe(&desc, facts.built);
    desc.context = mine;
    desc.streams = streams;
    desc.stream_count = 2;
    desc.device = 77; /* the context says which */
    CHECK_EQ(RT(open)(&desc, &rt), TNM_OK);
    if (rt) {
        CHECK(RT(context)(rt) == mine);
        CHECK(RT(queue)(rt, 0) == streams[0] && RT(queue)(rt, 1) == streams[1]);
        CHECK(RT(queue)(rt, 2) == NULL);
        the_round(rt, mine, mine);
    }
    CHECK_EQ(stand.objects(), objects);
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
    stand.fail(facts.mark, 1, facts.refused);
    CHECK_EQ(RT(mark)(rt, 0), 0);
    CHECK(says(rt, facts.mark) && says(rt, facts.says_refused));
    CHECK_EQ(RT(mark)(rt, 0), last + 1);
    stand.fail(facts.query, 1, facts.refused); /* says nothing about the fence */
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

enum { PIECE = 256 << 10, ROOM = PIECE + 64 };

static int bench_open(bench *b, uint32_t depth) {
    void *none = NULL;
    memset(b, 0, sizeof *b);
    b->rt = open_number(0, depth);
    if (!b->rt) return 0;
    RT(backend)(b->rt, &b->dev);
    RT(host)(b->rt, &b->host);
    CHECK_EQ(b->dev.alloc(b->rt, ROOM, facts.alignment, NULL, &b->mem, &none), TNM_OK);
    CHECK_EQ(b->mem % facts.alignment, 0);
    CHECK(none == NULL);
    b->on_device.backend = &b->dev;
    b->on_device.mem = b->mem;
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(b->host.alloc(b->rt, PIECE, facts.alignment, NULL, &b->locked[i], &b->at[i]),
                 TNM_OK);
        b->on_host[i].backend = &b->host;
        b->on_host[i].mem = b->locked[i];
        b->on_host[i].host = b->at[i];
        memset(b->at[i], 1 + i, PIECE);
    }
    return 1;
}

static void bench_close(bench *b) {
    b->dev.release(b->rt, b->mem, ROOM);
    for (int i = 0; i < 2; i++)
        b->host.release(b->rt, b->locked[i], PIECE);
    RT(close)(b->rt);
    nothing_left();
}

/* Page-locked memory goes up in the background. */
static tnm_result bench_up(bench *b, int i, uint64_t bytes, uint64_t *ticket) {
    return b->dev.copy(b->rt, &b->on_device, &b->on_host[i], bytes, ticket);
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
    CHECK_EQ(bench_up(&b, 0, 1000, &ticket[2]), TNM_PENDING);
    CHECK(ticket[2] != ticket[0]);
    b.dev.submit(b.rt);
    while (b.dev.poll(b.rt, ticket[2]) == TNM_PENDING)
        continue;
    bench_close(&b);
}

TEST(pageable_memory_takes_the_right_way) {
    bench b;
    static unsigned char pageable[PIECE];
    uint64_t ticket = 0, before = stand.count("pageable"), once = stand.count("at once");
    if (!bench_open(&b, 0)) return;
    tnm_span mine, foreign, locked = b.on_host[1];
    memset(&mine, 0, sizeof mine);
    memset(&foreign, 0, sizeof foreign);
    mine.host = pageable;
    mine.tier = -1;
    memset(pageable, 9, PIECE);
    /* the caller's: at once */
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &mine, PIECE, &ticket), TNM_OK);
    memset(pageable, 0, PIECE);
    CHECK_EQ(b.dev.copy(b.rt, &mine, &b.on_device, PIECE, &ticket), TNM_OK);
    CHECK_EQ(pageable[0] + pageable[PIECE - 1], 18);
    CHECK_EQ(stand.count("pageable") - before, 2 * PIECE);
    /* adopted: small at once, large through staging */
    mine.tier = 1;
    mine.adopted = 1;
    mine.backend = &b.host;
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &mine, 1000, &ticket), TNM_OK);
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &mine, PIECE, &ticket), TNM_ERR_UNSUPPORTED);
    CHECK_EQ(stand.count("at once") - once, facts.at_once ? 3 : 0);
    /* adopted and page-locked: in the background, if the runtime can say that it is */
    locked.adopted = 1;
    tnm_result r = b.dev.copy(b.rt, &b.on_device, &locked, PIECE, &ticket);
    CHECK_EQ(r, facts.cannot_tell ? TNM_ERR_UNSUPPORTED : TNM_PENDING);
    b.dev.submit(b.rt);
    if (r == TNM_PENDING) CHECK(ticket != 0 && b.dev.wait(b.rt, ticket) == TNM_OK);
    CHECK_EQ(stand.count("pageable") - before, 2 * PIECE + 1000);
    /* what is neither ours nor the CPU's */
    CHECK_EQ(b.dev.copy(b.rt, &b.on_device, &foreign, 8, &ticket), TNM_ERR_UNSUPPORTED);
    CHECK_EQ(b.host.copy(b.rt, &b.on_host[0], &b.on_device, 8, &ticket), TNM_ERR_UNSUPPORTED);
    bench_close(&b);
}

static void use_in_turn(tnm_ctx *mem, const tnm_tensor *t, int count, int turns) {
    for (int i = 0; i < turns; i++) {
        tnm_use use;
        tnm_pinned at;
        memset(&use, 0, sizeof use);
        use.tensor = t[i % count];
        CHECK_EQ(tnm_pin(mem, &use, 1, &at), TNM_OK);
        CHECK_EQ(tnm_unpin(mem, &at, 1, 0), TNM_OK);
    }
}

TEST(an_adopted_model_streams_through_staging) {
    device *rt = open_number(0, 0);
    static unsigned char model[4][200000];
    tnm_tier_desc tier[2];
    tnm_desc desc;
    tnm_ctx *mem = NULL;
    tnm_tensor t[4];
    uint64_t before = stand.count("pageable"), once = stand.count("at once");
    memset(tier, 0, sizeof tier);
    memset(&desc, 0, sizeof desc);
    if (!rt) return;
    RT(backend)(rt, &tier[0].backend);
    RT(host)(rt, &tier[1].backend);
    tier_over(&tier[0], 420000);
    tier_over(&tier[1], 8 << 20);
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
    use_in_turn(mem, t, 4, 12);
    CHECK_EQ(stand.count("pageable"), before); /* every byte came from page-locked memory */
    CHECK_EQ(stand.count("at once"), once);    /* and in the background */
    CHECK_EQ(tnm_destroy(mem), TNM_OK);
    RT(close)(rt);
    nothing_left();
}

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
    CHECK(says(rt, facts.says_no_memory));
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
    device *rt = open_number(0, 0);
    if (!rt || !world_open(&w, rt)) return;
    RT(backend)(rt, &dev);
    for (int i = 0; i < TENSORS; i++)
        CHECK_EQ(world_fill(&w, i), TNM_OK);
    CHECK_EQ(world_work(&w, 0), TNM_OK); /* newer there than here */
    stand.lose();
    CHECK_EQ(RT(mark)(rt, 0), 0);
    CHECK(says(rt, facts.says_broken));
    CHECK(RT(passed)(rt, 0, 1) == UINT64_MAX);
    CHECK_EQ(dev.alloc(rt, 4096, 256, NULL, &mem, &host), TNM_ERR_LOST);
    CHECK_EQ(dev.available(rt), 0);
    CHECK_EQ(world_read(&w, 0), TNM_ERR_LOST);
    for (int i = 1; i < TENSORS; i++)
        CHECK_EQ(world_read(&w, i), TNM_OK); /* the host tier is page-locked, and still there */
    CHECK(world_work(&w, 1) < 0);
    world_close(&w);
    revive();
    nothing_left();
    a_round_on_a_fresh_device();
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
        if (pumps & 1) CHECK_EQ(world_work(&w, 0), TNM_OK);
        CHECK_EQ(tnm_prefetch(w.mem, 0, use, 3), TNM_OK);
        for (int i = 0; i < pumps; i++)
            (void)tnm_pump(w.mem, TNM_ALL);
        world_close(&w);
        nothing_left();
    }
}

TEST(a_failed_call_keeps_no_memory) {
    bench b;
    uint64_t mem = 0;
    void *host = NULL;
    if (!bench_open(&b, 0)) return;
    uint64_t before = stand.live();
    CHECK_EQ(b.dev.alloc(b.rt, 1000, 256, NULL, &mem, &host), TNM_OK);
    stand.fail(facts.enter, 1, facts.refused);
    b.dev.release(b.rt, mem, 1000);
    CHECK_EQ(stand.live(), before);
    CHECK_EQ(b.host.alloc(b.rt, 1000, 65536, NULL, &mem, &host), TNM_OK);
    CHECK_EQ((uintptr_t)host % 65536, 0);
    stand.fail(facts.enter, 1, facts.refused);
    b.host.release(b.rt, mem, 1000);
    CHECK_EQ(stand.live(), before);
    bench_close(&b);
}

TEST(nothing_is_begun_on_a_lost_device) {
    bench b;
    uint64_t ticket = 0;
    if (!bench_open(&b, 0)) return;
    CHECK_EQ(bench_up(&b, 0, PIECE, &ticket), TNM_PENDING);
    stand.lose();
    CHECK_EQ(RT(mark)(b.rt, 0), 0); /* now it is known, and what is there may be given back */
    uint64_t before = stand.count("calls");
    b.dev.submit(b.rt);
    if (!facts.eager) CHECK_EQ(stand.count("calls"), before);
    CHECK_EQ(b.dev.poll(b.rt, ticket), TNM_ERR_LOST);
    CHECK_EQ(bench_up(&b, 0, PIECE, &ticket), TNM_ERR_LOST);
    b.dev.release(b.rt, b.mem, ROOM);
    for (int i = 0; i < 2; i++)
        b.host.release(b.rt, b.locked[i], PIECE);
    RT(close)(b.rt);
    revive();
    nothing_left();
}

/* ---- siblings ---- */
/* One tensor, worked on there and here by turns. `fails`: a pin may, once, by our doing. */
static void move_between(device *near, device *far, int fails) {
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
        tier_over(&tier[i], 4 << 20);
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
        device *there = i % 2 ? far : near;
        tnm_use use;
        tnm_pinned at;
        memset(&use, 0, sizeof use);
        use.tensor = t;
        use.tier = i % 2;
        use.access = TNM_WRITE; /* so that the other one's bytes are stale each time */
        tnm_result r = tnm_pin(mem, &use, 1, &at);
        if (fails && r == TNM_ERR_BACKEND && stand.fired()) r = tnm_pin(mem, &use, 1, &at);
        CHECK_EQ(r, TNM_OK);
        if (r != TNM_OK) break;
        CHECK_EQ(add_to(there, &at, sizeof bytes, 1), 0);
        uint64_t value = RT(mark)(there, 0);
        while (RT(passed)(there, 0, value) < value)
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

/* With devices that reach each other and with such that do not. That `call` is made is proved by
 * its failing once: if `always`, in both cases, and the pin fails with it. */
static void siblings(const char *call, int always, void (*then)(const device *near, int reach)) {
    for (int reach = 1; reach >= 0; reach--) {
        setenv("STANDIN_PEER", reach ? "1" : "0", 1);
        device *near = open_number(0, 0), *far = open_number(1, 0);
        if (near && far) {
            stand.fail(call, 1, facts.refused);
            move_between(near, far, always);
            CHECK_EQ(stand.fired(), always || reach);
            stand.fail(NULL, 0, 0);
            move_between(near, far, 0);
            if (then) then(near, reach);
        }
        RT(close)(near);
        RT(close)(far);
        nothing_left();
    }
    unsetenv("STANDIN_PEER");
}

TEST(two_of_one_device_copy_within_it) {
    device *one = open_number(0, 0), *two = open_number(0, 0);
    if (one && two) move_between(one, two, 0);
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

static int scenario(int n, int code) {
    world w;
    int lost = 0, fired;
    device *rt = open_number(0, 0);
    if (!rt || !world_open(&w, rt)) return 0;
    stand.fail(NULL, n, code);
    for (int i = 0; i < TENSORS; i++)
        lost |= insist(world_fill, &w, i) != TNM_OK;
    for (int i = 0; i < 2 * TENSORS && !lost; i++) {
        lost = insist(world_work, &w, i % TENSORS) != TNM_OK;
        (void)tnm_pump(w.mem, TNM_ALL);
    }
    fired = stand.fired();
    if (!lost) stand.fail(NULL, 0, 0);
    for (int i = 0; i < TENSORS; i++) {
        tnm_result r = world_read(&w, i);
        if (code == facts.refused) CHECK_EQ(r, TNM_OK);
    }
    if (code == facts.refused) CHECK(!lost);
    world_close(&w);
    stand.fail(NULL, 0, 0);
    if (code == facts.broken) revive();
    nothing_left();
    return fired;
}

static void scenario_at_each_call(int code) {
    int n = 1, step = check_scale(1, 7);
    while (scenario(n, code))
        n += step;
    CHECK(n > 100);
}

TEST(each_call_of_a_scenario_fails_once) {
    scenario_at_each_call(facts.refused);
}

TEST(the_device_breaks_at_each_call_of_a_scenario) {
    scenario_at_each_call(facts.broken);
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

static void device_scenes(void) {
    RUN(open_says_what_is_missing);
    RUN(open_fails_at_every_call);
    RUN(the_calling_thread_keeps_what_was_current);
    RUN(fences_pass_in_order);
    RUN(a_full_queue_is_busy);
    RUN(pageable_memory_takes_the_right_way);
    RUN(an_adopted_model_streams_through_staging);
    RUN(out_of_memory_is_a_refusal);
    RUN(a_lost_device_says_so_everywhere);
    RUN(a_context_ends_with_copies_in_flight);
    RUN(a_failed_call_keeps_no_memory);
    RUN(nothing_is_begun_on_a_lost_device);
    RUN(two_of_one_device_copy_within_it);
    RUN(each_call_of_a_scenario_fails_once);
    RUN(the_device_breaks_at_each_call_of_a_scenario);
    RUN(marks_run_beside_the_callbacks);
}

#endif
