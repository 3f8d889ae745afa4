/* device.h: what the tests of backends over real runtimes share: OpenCL, Vulkan. Before it a test
 * includes its backend and says
 *
 *   #define RT(name) tnm_opencl_##name     the backend's names
 *   typedef tnm_opencl device;
 *   typedef tnm_opencl_desc device_desc;
 *   enum { HALF = ..., REST = ... };       of BYTES: a kernel fills REST bytes behind HALF
 *
 * and after it the hooks below. */
#ifndef TENSORMEM_TESTS_DEVICE_H
#define TENSORMEM_TESTS_DEVICE_H

#include <pthread.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { KIB = 1024, MIB = 1024 * KIB };

static device *a_device(void);     /* the first, with two fence queues */
static void nothing_is_left(void); /* of those that are closed */

/* Drivers, layers and compilers keep what they like. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libpocl\nleak:libLLVM\nleak:libOpenCL\n"
           "leak:libvulkan\nleak:libVkLayer\nleak:libdrm\nleak:dlopen\n";
}
const char *__lsan_default_options(void);
const char *__lsan_default_options(void) {
    return "print_suppressions=0";
}

static int under_valgrind(void) { /* which does not know all that drivers compile to */
    const char *preload = getenv("LD_PRELOAD");
    return preload && strstr(preload, "vgpreload");
}

/* ---- open and close ---- */
static void refused(const device_desc *desc, const char *says) {
    device *rt = (device *)(uintptr_t)1;
    CHECK_EQ(RT(open)(desc, &rt), TNM_ERR_UNSUPPORTED);
    CHECK(rt == NULL);
    CHECK(strstr(RT(error)(NULL), says) != NULL);
}

TEST(no_descriptor_is_the_default_one) {
    device *rt;
    CHECK_EQ(RT(open)(NULL, &rt), TNM_OK);
    RT(close)(rt);
}

/* A library that is none or of something else, and devices that are not there. */
static void refused_as_any(device_desc *desc, const char *first_call) {
    memset(desc, 0, sizeof *desc);
    desc->library = "/nonexistent";
    refused(desc, "/nonexistent");
    desc->library = "libm.so.6";
    refused(desc, first_call);
    desc->library = NULL;
    desc->device = 1000;
    refused(desc, "no device 1000");
    desc->device = -1;
    refused(desc, "no device -1");
    desc->device = 0;
}

TEST(closing_twice_or_nothing_is_harmless) {
    device *rt = a_device(), *other = a_device();
    RT(close)(NULL);
    RT(close)(rt);
    RT(close)(rt);
    CHECK_EQ(RT(mark)(other, 0), 1);
    RT(close)(other);
    nothing_is_left();
}

/* ---- copies ---- */
static tnm_span device_span(const tnm_backend *b, uint64_t mem, uint64_t offset) {
    tnm_span s;
    memset(&s, 0, sizeof s);
    s.backend = b;
    s.mem = mem;
    s.offset = offset;
    return s;
}

static tnm_span plain_span(void *host) {
    tnm_span s;
    memset(&s, 0, sizeof s);
    s.host = host;
    s.tier = -1;
    return s;
}

static tnm_result copy_now(const tnm_backend *b, tnm_span dst, tnm_span src, uint64_t size) {
    uint64_t ticket = 0;
    tnm_result r = b->copy(b->user, &dst, &src, size, &ticket);
    if (r != TNM_PENDING) return r;
    CHECK(ticket != 0);
    b->submit(b->user);
    while ((r = b->wait(b->user, ticket)) == TNM_PENDING)
        continue;
    return r;
}

static void pattern(unsigned char *at, size_t size, unsigned key) {
    for (size_t i = 0; i < size; i++)
        at[i] = (unsigned char)(i * 7 + (i >> 9) + key * 31);
}

/* ---- fences ---- */
static void *mark_many(void *user) {
    uint64_t last = 0;
    for (int i = 0; i < 300; i++) {
        uint64_t value = RT(mark)((device *)user, 0);
        CHECK(value > last);
        last = value;
    }
    return NULL;
}

/* Two threads mark; `beside` is what goes on meanwhile, or NULL. */
static void marks_of_threads(device *rt, void (*beside)(device *rt)) {
    pthread_t thread[2];
    uint64_t seen = 0;
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, mark_many, rt), 0);
    while (seen < 600) {
        uint64_t now = RT(passed)(rt, 0, seen + 1);
        CHECK(now >= seen && now <= 600);
        seen = now;
        if (beside) beside(rt);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
}

/* ---- through a context ---- */
enum { TIERS = 3, TENSORS = 24, BYTES = 100003 };

/* What a tier's backend is not given for is plain memory. */
static tnm_ctx *context_over(device *rt, const tnm_backend *top, const tnm_backend *pinned,
                             const tnm_backend *spill) {
    tnm_tier_desc tiers[TIERS];
    tnm_desc desc;
    tnm_ctx *mem = NULL;
    memset(tiers, 0, sizeof tiers);
    memset(&desc, 0, sizeof desc);
    tiers[0].backend = *top;
    if (pinned) tiers[1].backend = *pinned;
    if (spill) tiers[2].backend = *spill;
    tiers[0].budget_bytes = 6 * 102400;
    tiers[0].alignment = RT(alignment)(rt);
    tiers[1].budget_bytes = MIB;
    desc.tiers = tiers;
    desc.tier_count = TIERS;
    desc.chunk_bytes = 64 * KIB;
    desc.user = rt;
    desc.passed = RT(passed);
    desc.alloc = check_alloc;
    desc.release = check_release;
    CHECK_EQ(tnm_create(&desc, &mem), TNM_OK);
    return mem;
}

/* Fills REST bytes behind HALF of a pinned tensor; the value of the fence behind that. */
typedef uint64_t (*device_fill)(void *user, uint32_t queue, const tnm_pinned *at, uint8_t value);

static void work_through(tnm_ctx *mem, device_fill fill, void *user, const tnm_tensor *t,
                         int rounds) {
    for (int i = 0; i < rounds * TENSORS; i++) {
        tnm_use use;
        tnm_pinned at;
        uint32_t queue = (uint32_t)i % 2;
        memset(&use, 0, sizeof use);
        use.tensor = t[i % TENSORS];
        use.access = TNM_WRITE;
        CHECK_EQ(tnm_pin(mem, &use, 1, &at), TNM_OK);
        if (at.id == 0) return;
        uint64_t value = fill(user, queue, &at, (uint8_t)(i / TENSORS));
        CHECK_EQ(tnm_unpin(mem, &at, 1, TNM_FENCE(queue, value)), TNM_OK);
        CHECK(tnm_pump(mem, TNM_ALL) >= 0);
    }
}

static tnm_tensor a_tensor(tnm_ctx *mem, const unsigned char *bytes) {
    tnm_tensor t;
    tnm_tensor_desc what;
    memset(&what, 0, sizeof what);
    what.bytes = BYTES;
    CHECK_EQ(tnm_tensor_create(mem, &what, &t), TNM_OK);
    CHECK_EQ(tnm_write(mem, t, 0, bytes, BYTES), TNM_OK);
    return t;
}

static void through_a_context(tnm_ctx *mem, device_fill fill, void *user, int rounds) {
    static unsigned char in[BYTES], out[BYTES];
    tnm_tensor t[TENSORS];
    for (unsigned i = 0; i < TENSORS; i++) {
        pattern(in, BYTES, i);
        t[i] = a_tensor(mem, in);
    }
    work_through(mem, fill, user, t, rounds);
    for (unsigned i = 0; i < TENSORS; i++) {
        pattern(in, BYTES, i);
        memset(in + HALF, rounds - 1, REST);
        CHECK_EQ(tnm_read(mem, t[i], 0, out, BYTES), TNM_OK);
        CHECK(memcmp(in, out, BYTES) == 0);
    }
    CHECK_EQ(tnm_check(mem), 0);
    CHECK_EQ(tnm_destroy(mem), TNM_OK);
}

/* ---- ends ---- */
static void a_context_ends_with_copies_in_flight(tnm_ctx *mem) {
    static unsigned char in[BYTES];
    tnm_use use[4];
    memset(use, 0, sizeof use);
    for (int i = 0; i < 4; i++)
        use[i].tensor = a_tensor(mem, in);
    CHECK(tnm_prefetch(mem, 0, use, 4) >= 0);
    CHECK(tnm_pump(mem, TNM_ALL) >= 0);
    CHECK_EQ(tnm_destroy(mem), TNM_OK);
}

enum { LATE = 32 * MIB };

static device *late;
static tnm_backend late_backend[2];
static uint64_t late_mem[2], late_ticket;
static unsigned char *late_bytes;

static void close_late(void) { /* registered first, so it runs when the runtime may be gone */
    if (late_bytes[LATE - 1] != 1) _exit(16); /* the copy was waited for */
    if (late_backend[0].wait(late, late_ticket) != TNM_ERR_LOST) _exit(11);
    if (late_backend[0].available(late) != 0) _exit(12);
    if (RT(mark)(late, 0) != 0) _exit(13);
    if (RT(passed)(late, 0, 5) != UINT64_MAX) _exit(14);
    for (int i = 0; i < 2; i++)
        late_backend[i].release(late, late_mem[i], LATE);
    RT(close)(late);
    RT(close)(late);
    device_desc desc;
    memset(&desc, 0, sizeof desc);
    if (RT(open)(&desc, &late) != TNM_ERR_UNSUPPORTED) _exit(15);
}

static void leave_it_to_exit(void) {
    void *host, *none;
    late = a_device();
    RT(backend)(late, &late_backend[0]);
    RT(host)(late, &late_backend[1]);
    if (late_backend[0].alloc(late, LATE, 256, NULL, &late_mem[0], &none) != TNM_OK ||
        late_backend[1].alloc(late, LATE, 256, NULL, &late_mem[1], &host) != TNM_OK)
        _exit(10);
    late_bytes = (unsigned char *)host;
    memset(host, 1, LATE);
    tnm_span there = device_span(&late_backend[0], late_mem[0], 0);
    tnm_span here = device_span(&late_backend[1], late_mem[1], 0);
    here.host = host;
    if (copy_now(&late_backend[0], there, here, LATE) != TNM_OK) _exit(10);
    memset(host, 2, LATE);
    if (late_backend[0].copy(late, &here, &there, LATE, &late_ticket) != TNM_PENDING) _exit(10);
    late_backend[0].submit(late);
    RT(mark)(late, 0);
}

/* Before anything is opened here: threads do not survive a fork. */
TEST(exit_with_copies_in_flight_is_quiet) {
    for (int way = 0; way < 2; way++) {
        int status = -1;
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            if (way == 0) atexit(close_late);
            leave_it_to_exit();
            exit(0); /* the other way, nobody closes at all */
        }
        CHECK(child > 0);
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK(WIFEXITED(status));
        CHECK_EQ(WEXITSTATUS(status), 0);
    }
}

#endif
