/* needs: -pthread */
/* The built-in file backend from outside: the same bytes whoever carries the copies out, adopted
 * files, a full disk, a disk that does not answer. P1, P4, P5. */
#if defined(__wasm__)
#    include <sys/stat.h>
#    include <unistd.h>
#elif !defined(_WIN32)
#    ifndef _GNU_SOURCE
#        define _GNU_SOURCE
#    endif
#    define HAS_LIMITS /* and signals, and calls that can be hooked */
#    include <signal.h>
#    include <stddef.h>
#    include <stdint.h>
#    include <sys/resource.h>
#    include <sys/types.h>
#    include <unistd.h>
static ssize_t stall_pread(int fd, void *at, size_t size, int64_t offset);
#    define TNMI_SHELF_PREAD stall_pread
#endif
#ifndef __wasm__
#    define TENSORMEM_THREADS
#endif
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "check.h"

enum { COUNT = 40, LARGEST = 30000, FAST = 160 * 1024 };

static char folder[512];
static uint64_t seed = 1;

typedef struct way {
    const char *name;
    uint32_t threads, depth;
    int sync;
} way;

static const way ways[] = {
    { "queue", 0, 0, 0 },      { "queue, one at a time", 0, 1, 0 }, { "at once", 0, 0, 1 },
#ifdef TENSORMEM_THREADS
    { "one thread", 1, 0, 0 }, { "three threads", 3, 5, 0 },
#endif
};

enum { WAYS = sizeof ways / sizeof *ways };

static void payload(unsigned char *at, uint64_t key, uint64_t size) {
    uint64_t state = key * 2 + 1;
    for (uint64_t i = 0; i < size; i++)
        at[i] = (unsigned char)(check_random(&state) >> 40);
}

static const char *in_folder(const char *name) {
    static char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static tnm_backend open_disk(const way *w, int direct, int spills) {
    tnm_file_desc desc;
    tnm_backend disk;
    memset(&desc, 0, sizeof desc);
    desc.path = spills ? folder : NULL;
    desc.direct = direct;
    desc.threads = w->threads;
    desc.depth = w->depth;
    desc.sync = w->sync;
    desc.alloc = check_alloc;
    desc.release = check_release;
    CHECK_EQ(tnm_file_open(&desc, &disk), TNM_OK);
    CHECK(strlen(tnm_file_how(&disk)) > 0);
    return disk;
}

static tnm_ctx *open_context(const tnm_backend *disk, tnm_desc *desc) {
    tnm_tier_desc tiers[2];
    tnm_ctx *ctx = NULL;
    memset(tiers, 0, sizeof tiers);
    tiers[0].name = "fast";
    tiers[0].budget_bytes = FAST;
    tiers[0].segment_bytes = FAST / 4;
    tiers[1].name = "disk";
    tiers[1].backend = *disk;
    tiers[1].segment_bytes = 1 << 18;
    desc->tiers = tiers;
    desc->tier_count = 2;
    desc->chunk_bytes = 12000; /* several for a tensor, and odd */
    desc->alloc = check_alloc;
    desc->release = check_release;
    CHECK_EQ(tnm_create(desc, &ctx), TNM_OK);
    return ctx;
}

static tnm_tensor make(tnm_ctx *ctx, uint64_t bytes) {
    tnm_tensor_desc desc;
    tnm_tensor t;
    memset(&desc, 0, sizeof desc);
    desc.bytes = bytes;
    CHECK_EQ(tnm_tensor_create(ctx, &desc, &t), TNM_OK);
    return t;
}

static tnm_use use_of(tnm_tensor t, tnm_access access) {
    tnm_use use;
    memset(&use, 0, sizeof use);
    use.tensor = t;
    use.access = access;
    return use;
}

/* Reads or rewrites a tensor through a pin, against its key. */
static void visit(tnm_ctx *ctx, tnm_tensor t, uint64_t bytes, uint64_t *key, int writes) {
    static unsigned char want[LARGEST];
    tnm_use use = use_of(t, *key == 0 ? TNM_DISCARD : writes ? TNM_WRITE : TNM_READ);
    tnm_pinned at;
    CHECK_EQ(tnm_pin(ctx, &use, 1, &at), TNM_OK);
    if (at.host == NULL) return;
    payload(want, *key, bytes);
    if (*key) CHECK(memcmp(at.host, want, (size_t)bytes) == 0);
    if (writes || *key == 0) {
        *key = 1 + check_draw(&seed, 1 << 30);
        payload((unsigned char *)at.host, *key, bytes);
    }
    CHECK_EQ(tnm_unpin(ctx, &at, 1, 0), TNM_OK);
}

static void play(const way *w, int direct) {
    tnm_backend disk = open_disk(w, direct, 1);
    tnm_desc desc;
    tnm_tensor t[COUNT];
    uint64_t bytes[COUNT], key[COUNT];
    memset(&desc, 0, sizeof desc);
    memset(key, 0, sizeof key);
    tnm_ctx *ctx = open_context(&disk, &desc);
    for (int i = 0; i < COUNT; i++) {
        bytes[i] = 1 + check_draw(&seed, LARGEST - 1);
        t[i] = make(ctx, bytes[i]);
    }
    for (int i = 0; i < check_scale(400, 120); i++) {
        uint64_t k = check_draw(&seed, COUNT);
        tnm_use soon = use_of(t[(k + 7) % COUNT], TNM_READ);
        if (key[(k + 7) % COUNT]) CHECK(tnm_prefetch(ctx, 0, &soon, 1) >= 0);
        if (check_draw(&seed, 4) == 0 && key[k]) CHECK(tnm_evict(ctx, t[k], 0) >= 0);
        visit(ctx, t[k], bytes[k], &key[k], check_draw(&seed, 2) == 0);
        CHECK(tnm_pump(ctx, TNM_ALL) >= 0);
    }
    for (int i = 0; i < COUNT; i++)
        visit(ctx, t[i], bytes[i], &key[i], 0);
    tnm_tier_stats stats; /* whole pages where copies are direct */
    CHECK_EQ(tnm_stats(ctx, 1, &stats), TNM_OK);
    CHECK(stats.used_bytes > 0 && (disk.granularity <= 1 || stats.used_bytes % 4096 == 0));
    CHECK_EQ(tnm_check(ctx), 0);
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
    tnm_file_close(&disk);
}

TEST(the_same_bytes_whoever_copies) {
    for (int w = 0; w < WAYS; w++)
        for (int direct = 0; direct < 2; direct++)
            play(&ways[w], direct);
}

TEST(an_adopted_file_at_odd_places) {
    enum { PARTS = 24, STEP = LARGEST - 1000 };
    static unsigned char all[PARTS * STEP + 77], back[LARGEST];
    payload(all, 3, sizeof all);
    FILE *file = fopen(in_folder("model"), "wb");
    CHECK(file && fwrite(all, 1, sizeof all, file) == sizeof all);
    if (file) fclose(file);
    for (int w = 0; w < WAYS; w++)
        for (int direct = 0; direct < 2; direct++) {
            tnm_backend disk = open_disk(&ways[w], direct, 0);
            tnm_desc desc;
            tnm_tensor t[PARTS];
            uint64_t mem, size;
            memset(&desc, 0, sizeof desc);
            CHECK_EQ(tnm_file_adopt(&disk, in_folder("model"), &mem, &size), TNM_OK);
            CHECK_EQ(size, sizeof all);
            tnm_ctx *ctx = open_context(&disk, &desc);
            for (uint64_t i = 0; i < PARTS; i++) {
                tnm_tensor_desc td;
                tnm_adopt_desc ad;
                memset(&td, 0, sizeof td);
                memset(&ad, 0, sizeof ad);
                td.bytes = STEP - i;
                ad.tier = 1;
                ad.mem = mem;
                ad.offset = i * STEP + i * 3; /* the last one ends where the file does, or nearly */
                CHECK_EQ(tnm_tensor_adopt(ctx, &td, &ad, &t[i]), TNM_OK);
            }
            for (uint64_t k = 0; k < 3 * PARTS; k++) {
                uint64_t i = k < PARTS ? k : check_draw(&seed, PARTS), bytes = STEP - i;
                tnm_use use = use_of(t[i], TNM_READ), next = use_of(t[(i + 1) % PARTS], TNM_READ);
                tnm_pinned at;
                CHECK(tnm_prefetch(ctx, 0, &next, 1) >= 0);
                CHECK_EQ(tnm_pin(ctx, &use, 1, &at), TNM_OK);
                CHECK(at.host && memcmp(at.host, all + i * STEP + i * 3, (size_t)bytes) == 0);
                CHECK_EQ(tnm_unpin(ctx, &at, 1, 0), TNM_OK);
                CHECK_EQ(tnm_read(ctx, t[i], 5, back, bytes - 5), TNM_OK);
                CHECK(memcmp(back, all + i * STEP + i * 3 + 5, (size_t)bytes - 5) == 0);
            }
            CHECK_EQ(tnm_destroy(ctx), TNM_OK);
            tnm_file_close(&disk);
        }
    remove(in_folder("model"));
}

#ifdef HAS_LIMITS
static void quiet(void *user, const tnm_log *item) {
    (void)user;
    (void)item;
}

/* No file may grow past a segment: what cannot go down stays readable, and the error is told. */
TEST(a_disk_that_is_full) {
    struct rlimit before, now;
    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    for (int w = 0; w < WAYS; w++) {
        tnm_backend disk = open_disk(&ways[w], 0, 1);
        tnm_desc desc;
        tnm_tensor t[COUNT];
        uint64_t key[COUNT];
        int told = 0;
        memset(&desc, 0, sizeof desc);
        memset(key, 0, sizeof key);
        desc.log = quiet;
        tnm_ctx *ctx = open_context(&disk, &desc);
        now = before;
        now.rlim_cur = 1 << 18;
        CHECK_EQ(setrlimit(RLIMIT_FSIZE, &now), 0);
        for (int i = 0; i < COUNT; i++) {
            tnm_use use = use_of(t[i] = make(ctx, LARGEST), TNM_DISCARD);
            tnm_pinned at;
            tnm_result r = tnm_pin(ctx, &use, 1, &at);
            CHECK(r == TNM_OK || r == TNM_ERR_BACKEND || r == TNM_ERR_BUDGET);
            if (r != TNM_OK) {
                told++;
                continue;
            }
            key[i] = (uint64_t)i + 1;
            payload((unsigned char *)at.host, key[i], LARGEST);
            CHECK_EQ(tnm_unpin(ctx, &at, 1, 0), TNM_OK);
        }
        CHECK(told > 0);
        for (int i = 0; i < COUNT; i++) { /* where they lie: there is no room to swap two */
            static unsigned char want[LARGEST], have[LARGEST];
            if (key[i] == 0) continue;
            payload(want, key[i], LARGEST);
            CHECK_EQ(tnm_read(ctx, t[i], 0, have, LARGEST), TNM_OK);
            CHECK(memcmp(have, want, LARGEST) == 0);
        }
        CHECK_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
        CHECK_EQ(tnm_check(ctx), 0);
        CHECK_EQ(tnm_destroy(ctx), TNM_OK);
        tnm_file_close(&disk);
    }
}

static int stalled; /* the disk does not answer while it is set */

static ssize_t stall_pread(int fd, void *at, size_t size, int64_t offset) {
    while (CHECK_ADD(stalled, 0))
        usleep(1000);
    return tnmi_shelf_pread(fd, at, size, offset);
}

static int give_up(void *user, uint64_t rounds) {
    (void)user;
    return rounds > 3;
}

/* The disk hangs: what is here is had at once, who waits may give up, nothing is lost. */
TEST(a_disk_that_does_not_answer) {
    tnm_backend disk = open_disk(&ways[3], 0, 1);
    tnm_desc desc;
    tnm_tensor t[8];
    uint64_t key[8];
    tnm_pinned at, other;
    tnm_result r;
    memset(&desc, 0, sizeof desc);
    memset(key, 0, sizeof key);
    disk.wait = NULL; /* so that `idle` is asked */
    desc.idle = give_up;
    desc.log = quiet;
    tnm_ctx *ctx = open_context(&disk, &desc);
    for (int i = 0; i < 8; i++) {
        t[i] = make(ctx, LARGEST);
        do {
            tnm_use use = use_of(t[i], TNM_DISCARD);
            r = tnm_pin(ctx, &use, 1, &at);
        } while (r == TNM_PENDING);
        CHECK_EQ(r, TNM_OK);
        payload((unsigned char *)at.host, key[i] = (uint64_t)i + 1, LARGEST);
        CHECK_EQ(tnm_unpin(ctx, &at, 1, 0), TNM_OK);
    }
    while ((r = tnm_evict(ctx, t[0], 0)) == TNM_PENDING)
        tnm_pump(ctx, TNM_ALL);
    CHECK_EQ(r, TNM_OK);
    CHECK_ADD(stalled, 1);
    tnm_use gone = use_of(t[0], TNM_READ), here = use_of(t[7], TNM_READ);
    CHECK_EQ(tnm_try_pin(ctx, &gone, 1, &at), TNM_PENDING);
    for (int i = 0; i < 50; i++) {
        tnm_pump(ctx, TNM_ALL);
        CHECK_EQ(tnm_try_pin(ctx, &gone, 1, &at), TNM_PENDING);
        CHECK_EQ(tnm_pin(ctx, &here, 1, &other), TNM_OK); /* a hit */
        CHECK_EQ(tnm_unpin(ctx, &other, 1, 0), TNM_OK);
    }
    CHECK_EQ(tnm_pin(ctx, &gone, 1, &at), TNM_PENDING); /* given up */
    CHECK_ADD(stalled, -1);
    while ((r = tnm_pin(ctx, &gone, 1, &at)) == TNM_PENDING)
        usleep(1000);
    CHECK_EQ(r, TNM_OK);
    static unsigned char want[LARGEST];
    payload(want, key[0], LARGEST);
    CHECK(at.host && memcmp(at.host, want, LARGEST) == 0);
    CHECK_EQ(tnm_unpin(ctx, &at, 1, 0), TNM_OK);
    while ((r = tnm_destroy(ctx)) == TNM_PENDING)
        usleep(1000);
    CHECK_EQ(r, TNM_OK);
    tnm_file_close(&disk);
}

static int make_folder(void) {
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/api-file-XXXXXX", base && *base ? base : "/tmp");
    return mkdtemp(folder) != NULL;
}
#elif defined(__wasm__)
static int make_folder(void) {
    snprintf(folder, sizeof folder, "build/api-file");
    return mkdir(folder, 0700) == 0;
}
#else
static int make_folder(void) {
    snprintf(folder, sizeof folder, "api-file-%lu", (unsigned long)GetCurrentProcessId());
    return CreateDirectoryA(folder, NULL);
}

static int rmdir(const char *path) {
    return RemoveDirectoryA(path) ? 0 : -1;
}
#endif

int main(void) {
    if (!make_folder()) return printf("cannot make %s\n", folder), 1;
    RUN(the_same_bytes_whoever_copies);
    RUN(an_adopted_file_at_odd_places);
#ifdef HAS_LIMITS
    RUN(a_disk_that_is_full);
    RUN(a_disk_that_does_not_answer);
#else
    SKIP("a_disk_that_is_full", "this system limits no file");
    SKIP("a_disk_that_does_not_answer", "the calls of this system have no hook");
#endif
    if (rmdir(folder) != 0) printf("%s is not empty\n", folder), check_failed++;
    return check_done();
}
