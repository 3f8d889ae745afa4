/* needs: -pthread */
/* The room [shelf] from inside: host memory, spill files, adopted files. The system calls that move
 * and reserve bytes pass through hooks here, so that interrupted, short and failing ones happen. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#    define _GNU_SOURCE
#endif
#include <stddef.h>
#include <stdint.h>
#if defined(__wasm__) /* no threads there, and nothing to hook */
#    include <fcntl.h>
#    include <sys/stat.h>
#    include <unistd.h>
#elif !defined(_WIN32)
#    include <errno.h>
#    include <fcntl.h>
#    include <sys/stat.h>
#    include <sys/types.h>
#    include <unistd.h>
static ssize_t hook_pread(int fd, void *at, size_t size, int64_t offset);
static ssize_t hook_pwrite(int fd, const void *at, size_t size, int64_t offset);
#    define TNMI_SHELF_PREAD  hook_pread
#    define TNMI_SHELF_PWRITE hook_pwrite
static int hook_openat(int folder, const char *path, int flags, int mode);
static int hook_unlinkat(int folder, const char *path, int flags);
static int hook_ftruncate(int fd, int64_t size);
static int64_t hook_lseek(int fd, int64_t at, int from);
static int hook_fstat(int fd, struct stat *about);
static ssize_t hook_noise(int fd, void *at, size_t size);
#    define TNMI_SHELF_OPENAT    hook_openat
#    define TNMI_SHELF_UNLINKAT  hook_unlinkat
#    define TNMI_SHELF_FTRUNCATE hook_ftruncate
#    define TNMI_SHELF_LSEEK     hook_lseek
#    define TNMI_SHELF_FSTAT     hook_fstat
#    define TNMI_SHELF_NOISE     hook_noise
#    define TNMI_SHELF_CLOSE     close
#    include <pthread.h>
static int hook_make(void); /* 0 = no mutex, condition or thread can be made */
#    define TNMI_BASE_THREAD(thread, about, run, of)                                               \
        (hook_make() ? pthread_create(thread, about, run, of) : EAGAIN)
#    define TNMI_BASE_MUTEX(mutex, about)                                                          \
        (hook_make() ? pthread_mutex_init(mutex, about) : ENOMEM)
#    define TNMI_BASE_BELL(bell, about) (hook_make() ? pthread_cond_init(bell, about) : ENOMEM)
#endif
#if defined(__linux__)
#    include <dirent.h>
#    include <sys/mman.h>
#    include <sys/mount.h>
#    include <sys/wait.h>
static int hook_unnamed = O_TMPFILE;
static int hook_fallocate(int fd, int how, int64_t at, int64_t size);
static int hook_switch(int fd, int flags);
static int hook_madvise(void *at, size_t size, int advice);
static long hook_statx(int fd, uint32_t *about);
#    define TNMI_SHELF_STATX     hook_statx
#    define TNMI_SHELF_MADVISE   hook_madvise
#    define TNMI_SHELF_UNNAMED   hook_unnamed
#    define TNMI_SHELF_FALLOCATE hook_fallocate
#    define TNMI_SHELF_SWITCH    hook_switch
#    if defined(TENSORMEM_NO_ATOMICS) || !defined(__GCC_ATOMIC_LLONG_LOCK_FREE) /* no ring */
#    elif __GCC_ATOMIC_LLONG_LOCK_FREE == 2
static long fake_setup(uint32_t count, uint32_t *about);
static long fake_enter(int fd, uint32_t submit, uint32_t answers, uint32_t flags);
static void *fake_mmap(void *at, size_t size, int allow, int how, int fd, int64_t what);
static int fake_munmap(void *at, size_t size);
#        define TNMI_SHELF_SETUP  fake_setup
#        define TNMI_SHELF_ENTER  fake_enter
#        define TNMI_SHELF_MMAP   fake_mmap
#        define TNMI_SHELF_MUNMAP fake_munmap
#    endif
#    ifdef __GLIBC__
static ssize_t hook_copy_range(int src, int64_t *from, int dst, int64_t *to, size_t size,
                               unsigned flags);
#        define TNMI_SHELF_COPY_RANGE hook_copy_range
#    endif
#endif
static int asserted; /* broken contracts seen by the room */
#define TENSORMEM_ASSERT(x) ((x) ? (void)0 : (void)asserted++)
#ifndef __wasm__
#    define TENSORMEM_THREADS
#endif
#define TENSORMEM_IMPLEMENTATION
#include "../tensormem.h"
#include "inside.h"

/* ---- small things ---- */
static void fill(unsigned char *at, size_t size, uint64_t from) {
    for (size_t i = 0; i < size; i++)
        at[i] = (unsigned char)((from + i) * 2654435761u >> 13);
}

static tnm_span plain(void *host) {
    tnm_span span;
    memset(&span, 0, sizeof span);
    span.host = host;
    span.tier = -1;
    return span;
}

static tnm_span stored(const tnm_backend *backend, uint64_t mem, uint64_t offset) {
    tnm_span span;
    memset(&span, 0, sizeof span);
    span.backend = backend;
    span.mem = mem;
    span.offset = offset;
    return span;
}

/* One copy, waited for. */
static tnm_result copy(const tnm_backend *by, tnm_span dst, tnm_span src, uint64_t size) {
    uint64_t ticket = 0;
    tnm_result result = by->copy(by->user, &dst, &src, size, &ticket);
    CHECK_EQ(result == TNM_PENDING, ticket != 0);
    if (result != TNM_PENDING) return result;
    by->submit(by->user);
    return by->wait(by->user, ticket);
}

/* ---- host memory ---- */
static char host_user;

static void *host_take(void *user, size_t size) {
    CHECK(user == &host_user);
    return check_alloc(NULL, size);
}

static void host_give(void *user, void *ptr, size_t size) {
    CHECK(user == &host_user);
    check_release(NULL, ptr, size);
}

static tnmi_shelf_host host_heap(void) {
    tnmi_shelf_host heap;
    heap.alloc = host_take;
    heap.release = host_give;
    heap.user = &host_user;
    return heap;
}

TEST(host_blocks_are_aligned_and_given_back_exactly) {
    tnmi_shelf_host heap = host_heap();
    tnm_backend backend;
    tnmi_shelf_host_backend(&heap, &backend);
    CHECK(backend.user == &heap && backend.granularity == 0 && !backend.poll);
    for (uint64_t align = 1; align <= 1 << 20; align *= 2)
        for (uint64_t size = 1; size <= 70000; size = size * 3 + 1) {
            uint64_t mem;
            void *host;
            CHECK_EQ(backend.alloc(backend.user, size, align, NULL, &mem, &host), TNM_OK);
            CHECK_EQ(mem % align, 0);
            CHECK(mem == (uint64_t)(uintptr_t)host);
            memset(host, 0x5a, (size_t)size); /* check_release and the sanitizers see an overrun */
            backend.release(backend.user, mem, size);
        }
    backend.release(backend.user, 0, 0);
}

#if defined(__linux__)
static struct {
    uintptr_t first, last;
    int calls, advice;
} advised;

static int hook_madvise(void *at, size_t size, int advice) {
    advised.first = (uintptr_t)at;
    advised.last = (uintptr_t)at + size;
    advised.advice = advice;
    advised.calls++;
    return -1; /* a refusal changes nothing */
}

TEST(large_host_blocks_ask_for_large_pages) {
    const uint64_t page = (uint64_t)1 << 21;
    tnmi_shelf_host heap = host_heap(), plain_heap;
    tnm_backend backend, own;
    uint64_t mem;
    void *host;
    memset(&plain_heap, 0, sizeof plain_heap);
    tnmi_shelf_host_backend(&plain_heap, &backend);
    tnmi_shelf_host_backend(&heap, &own);
    for (uint64_t size = page / 4; size <= 8 * page; size += page / 4) {
        advised.calls = 0;
        CHECK_EQ(backend.alloc(backend.user, size, 256, NULL, &mem, &host), TNM_OK);
        if (size >= 2 * page) CHECK_EQ(advised.calls, 1);
        if (size < page / 2) CHECK_EQ(advised.calls, 0);
        if (advised.calls) {
            CHECK_EQ(advised.advice, 14);
            CHECK_EQ(advised.first % page, 0);
            CHECK_EQ(advised.last % page, 0);
            CHECK(advised.first + 1024 >= mem && advised.last <= mem + size + 256);
            CHECK(advised.last - advised.first + 2 * page > size);
        }
        if (size >= 8 * page) CHECK_EQ(advised.last, mem + size); /* the ring lies there */
        backend.release(backend.user, mem, size);
        advised.calls = 0;
        CHECK_EQ(own.alloc(own.user, size, 256, NULL, &mem, &host), TNM_OK);
        CHECK_EQ(advised.calls, 0);
        own.release(own.user, mem, size);
    }
}

/* through the front door: a context without an allocator of its own is malloc's as well */
TEST(the_memory_of_a_context_asks_for_large_pages) {
    for (int own = 0; own < 2; own++) {
        tnm_tier_desc tier;
        tnm_desc desc;
        tnm_ctx *ctx;
        memset(&tier, 0, sizeof tier);
        memset(&desc, 0, sizeof desc);
        tier.budget_bytes = 8 << 20;
        desc.tiers = &tier;
        desc.tier_count = 1;
        if (own) {
            desc.alloc = host_take;
            desc.release = host_give;
            desc.user = &host_user;
        }
        advised.calls = 0;
        CHECK_EQ(tnm_create(&desc, &ctx), TNM_OK);
        tnm_tensor_desc about;
        tnm_tensor t;
        memset(&about, 0, sizeof about);
        about.bytes = 1 << 20;
        CHECK_EQ(tnm_tensor_create(ctx, &about, &t), TNM_OK);
        tnm_use use;
        tnm_pinned at;
        memset(&use, 0, sizeof use);
        use.tensor = t;
        use.access = TNM_DISCARD;
        CHECK_EQ(tnm_pin(ctx, &use, 1, &at), TNM_OK);
        CHECK_EQ(advised.calls, own ? 0 : 1);
        CHECK_EQ(tnm_unpin(ctx, &at, 1, 0), TNM_OK);
        CHECK_EQ(tnm_destroy(ctx), TNM_OK);
    }
}
#endif

TEST(host_refuses_what_cannot_be) {
    static const uint64_t sizes[] = { UINT64_MAX, UINT64_MAX - 16, (uint64_t)PTRDIFF_MAX,
                                      (uint64_t)PTRDIFF_MAX + 1, (uint64_t)SIZE_MAX - 8,
                                      UINT64_MAX - 255 };
    tnmi_shelf_host heap = host_heap();
    tnm_backend backend;
    uint64_t mem = 1;
    void *host = &heap;
    long long asked = check_alloc_count();
    tnmi_shelf_host_backend(&heap, &backend);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        CHECK_EQ(backend.alloc(backend.user, sizes[i], 256, NULL, &mem, &host), TNM_ERR_MEMORY);
        CHECK(mem == 0 && host == NULL);
    }
    CHECK_EQ(backend.alloc(backend.user, 64, (uint64_t)1 << 63, NULL, &mem, &host), TNM_ERR_MEMORY);
    CHECK_EQ(backend.alloc(backend.user, 64, 48, NULL, &mem, &host), TNM_ERR_ARGUMENT);
    CHECK_EQ(check_alloc_count(), asked); /* the allocator was never asked */
    check_fail_alloc(1, 0);
    CHECK_EQ(backend.alloc(backend.user, 64, 64, NULL, &mem, &host), TNM_ERR_MEMORY);
    CHECK(mem == 0 && host == NULL);
}

TEST(host_copies_what_the_cpu_sees) {
    tnmi_shelf_host heap;
    tnm_backend backend;
    unsigned char from[100], to[100];
    memset(&heap, 0, sizeof heap); /* malloc and free */
    tnmi_shelf_host_backend(&heap, &backend);
    fill(from, sizeof from, 7);
    memset(to, 0, sizeof to);
    CHECK_EQ(copy(&backend, plain(to), plain(from), sizeof to), TNM_OK);
    CHECK(memcmp(from, to, sizeof to) == 0);
    CHECK_EQ(copy(&backend, stored(&backend, 5, 0), plain(from), 1), TNM_ERR_UNSUPPORTED);
    CHECK_EQ(copy(&backend, plain(to), stored(&backend, 5, 0), 1), TNM_ERR_UNSUPPORTED);
    CHECK_EQ(copy(&backend, plain(to), plain(from), UINT64_MAX), TNM_ERR_BACKEND);
    uint64_t mem;
    void *host;
    CHECK_EQ(backend.alloc(backend.user, 1000, 4096, NULL, &mem, &host), TNM_OK);
    memset(host, 1, 1000);
    backend.release(backend.user, mem, 1000);
}

static char folder[512]; /* a fresh folder of this run */

static const char *in_folder(const char *name) {
    static char path[4][600];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

/* who carries the copies out: `way` */
#ifdef TENSORMEM_THREADS
enum { QUEUE, SYNC, THREAD, THREADS, WAYS };
#else
enum { QUEUE, SYNC, WAYS, THREAD, THREADS };
#endif
static int way;
static uint32_t deep; /* copies at once, 0 = the default */

static tnm_result open_at(const char *path, int direct, tnm_backend *out) {
    tnm_file_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.path = path;
    desc.direct = direct;
    desc.alloc = check_alloc;
    desc.release = check_release;
    desc.sync = way == SYNC;
    desc.threads = way >= THREAD ? (uint32_t)(way - THREAD + 1) : 0;
    desc.depth = deep;
    return tnmi_shelf_file_open(&desc, out);
}

static tnmi_shelf_state *state_of(const tnm_backend *backend) {
    return (tnmi_shelf_state *)backend->user;
}

static uint64_t must_alloc(const tnm_backend *backend, uint64_t size, uint64_t align) {
    uint64_t mem = 0;
    void *host = &mem;
    CHECK_EQ(backend->alloc(backend->user, size, align, NULL, &mem, &host), TNM_OK);
    CHECK(mem != 0 && host == NULL);
    return mem;
}

static tnm_result try_alloc(const tnm_backend *backend, uint64_t size, uint64_t align) {
    uint64_t mem = 1;
    void *host = &mem;
    tnm_result result = backend->alloc(backend->user, size, align, NULL, &mem, &host);
    if (result < 0) CHECK(mem == 0 && host == NULL);
    return result;
}

static void make_file(const char *path, uint64_t size, uint64_t from) {
    unsigned char block[4096];
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL);
    for (uint64_t at = 0; file && at < size; at += sizeof block) {
        size_t now = (size_t)tnmi_base_min(size - at, sizeof block);
        fill(block, now, from + at);
        CHECK_EQ(fwrite(block, 1, now, file), now);
    }
    if (file) fclose(file);
}

/* Every promise of the free list, and that file and list agree. */
static void check_ranges(const tnm_backend *backend) {
    const tnmi_shelf_state *state = state_of(backend);
    uint64_t end = 0;
    CHECK(state->free_count <= state->live);
    CHECK(state->live <= state->free_capacity);
    for (uint32_t k = 0; k < state->free_count; k++) {
        const tnmi_shelf_range *range = &state->free[k];
        CHECK(range->size > 0 && (range->at | range->size) % TNMI_SHELF_PAGE == 0);
        CHECK(k == 0 || range->at > end); /* equal would be two that touch */
        end = range->at + range->size;
    }
    CHECK(state->free_count == 0 || end < state->spill.size);
    CHECK(state->live > 0 || state->spill.size == 0);
}

/* ---- everywhere: open, alloc, copy ---- */
TEST(open_refuses_bad_descriptors) {
    tnm_file_desc desc;
    tnm_backend backend;
    uint64_t mem = 1, size = 1;
    memset(&desc, 0, sizeof desc);
    CHECK_EQ(tnmi_shelf_file_open(&desc, NULL), TNM_ERR_ARGUMENT);
    backend.user = &desc;
    CHECK_EQ(tnmi_shelf_file_open(NULL, &backend), TNM_ERR_ARGUMENT);
    CHECK(backend.user == NULL); /* zeroed on failure */
    desc.alloc = check_alloc;
    CHECK_EQ(tnmi_shelf_file_open(&desc, &backend), TNM_ERR_ARGUMENT);
    desc.alloc = NULL;
    desc.release = check_release;
    CHECK_EQ(tnmi_shelf_file_open(&desc, &backend), TNM_ERR_ARGUMENT);
    desc.release = NULL;
    desc.path = "";
    CHECK_EQ(tnmi_shelf_file_open(&desc, &backend), TNM_ERR_ARGUMENT);
    desc.path = NULL;
    desc.threads = 1;
    desc.sync = 1;
    CHECK_EQ(tnmi_shelf_file_open(&desc, &backend), TNM_ERR_ARGUMENT);
    desc.threads = 0;
    desc.sync = 0;
    CHECK_EQ(tnmi_shelf_file_open(&desc, &backend), TNM_OK); /* malloc, adopted files only */
    CHECK_EQ(try_alloc(&backend, 4096, 1), TNM_ERR_UNSUPPORTED);
    CHECK_EQ(tnmi_shelf_file_adopt(&backend, NULL, &mem, &size), TNM_ERR_ARGUMENT);
    CHECK(mem == 0 && size == 0);
    CHECK_EQ(tnmi_shelf_file_adopt(&backend, "", &mem, &size), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnmi_shelf_file_adopt(&backend, "x", NULL, &size), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnmi_shelf_file_adopt(&backend, "x", &mem, NULL), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnmi_shelf_file_adopt(NULL, "x", &mem, &size), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnmi_shelf_file_adopt(&backend, in_folder("nothing"), &mem, &size), TNM_ERR_BACKEND);
    CHECK_EQ(tnmi_shelf_file_adopt(&backend, folder, &mem, &size), TNM_ERR_BACKEND);
    CHECK(mem == 0 && size == 0);
    tnmi_shelf_file_close(&backend);
    CHECK(backend.copy == NULL && backend.user == NULL);
    CHECK_EQ(tnmi_shelf_file_adopt(&backend, "x", &mem, &size), TNM_ERR_ARGUMENT);
    tnmi_shelf_file_close(&backend); /* a zeroed one */
    tnmi_shelf_file_close(NULL);
    CHECK_EQ(open_at(in_folder("no/such/folder"), 0, &backend), TNM_ERR_BACKEND);
}

TEST(close_leaves_other_backends_alone) {
    tnmi_shelf_host heap = host_heap();
    tnm_backend backend;
    tnmi_shelf_host_backend(&heap, &backend);
    tnmi_shelf_file_close(&backend);
    CHECK(backend.user == &heap);
    uint64_t mem, size;
    CHECK_EQ(tnmi_shelf_file_adopt(&backend, "x", &mem, &size), TNM_ERR_ARGUMENT);
}

TEST(an_existing_file_is_refused_and_untouched) {
    tnm_backend backend;
    unsigned char block[100], want[100];
    make_file(in_folder("mine"), sizeof block, 3);
    CHECK_EQ(open_at(in_folder("mine"), 0, &backend), TNM_ERR_BACKEND);
    CHECK(backend.copy == NULL);
    FILE *file = fopen(in_folder("mine"), "rb");
    CHECK(file != NULL);
    if (!file) return;
    CHECK_EQ(fread(block, 1, sizeof block, file), sizeof block);
    fclose(file);
    fill(want, sizeof want, 3);
    CHECK(memcmp(block, want, sizeof want) == 0);
    remove(in_folder("mine"));
}

TEST(hostile_sizes_are_refused) {
    static const uint64_t sizes[] = { UINT64_MAX, UINT64_MAX - 4095, UINT64_MAX - 4096,
                                      (uint64_t)1 << 63, (uint64_t)INT64_MAX };
    tnm_backend backend;
    unsigned char block[64];
    CHECK_EQ(open_at(in_folder("spill"), 0, &backend), TNM_OK);
    uint64_t mem = must_alloc(&backend, 8192, 1);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        tnm_span far_away = stored(&backend, mem, sizes[i]);
        CHECK(try_alloc(&backend, sizes[i], 256) < 0);
        check_ranges(&backend);
        CHECK_EQ(copy(&backend, far_away, plain(block), 64), TNM_ERR_BACKEND);
        CHECK_EQ(copy(&backend, plain(block), far_away, 64), TNM_ERR_BACKEND);
        CHECK_EQ(copy(&backend, plain(block), stored(&backend, mem, 0), sizes[i]), TNM_ERR_BACKEND);
    }
    CHECK_EQ(try_alloc(&backend, 0, 256), TNM_ERR_ARGUMENT);
    CHECK_EQ(try_alloc(&backend, 64, 5000), TNM_ERR_ARGUMENT);
    CHECK(try_alloc(&backend, 64, (uint64_t)1 << 63) < 0);
    memset(block, 0, sizeof block);
    CHECK_EQ(copy(&backend, plain(block), stored(&backend, mem, 8192 - 63), 64), TNM_ERR_BACKEND);
    CHECK_EQ(copy(&backend, stored(&backend, mem, 8192 - 63), plain(block), 64), TNM_ERR_BACKEND);
    CHECK_EQ(copy(&backend, stored(&backend, mem, 8192), plain(block), 1), TNM_ERR_BACKEND);
    CHECK_EQ(copy(&backend, plain(block), stored(&backend, mem, 8192 - 64), 64), TNM_OK);
    CHECK_EQ(copy(&backend, plain(block), stored(&backend, 0, 0), 1), TNM_ERR_BACKEND);
    CHECK_EQ(copy(&backend, plain(block), stored(&backend, 1, 0), 1), TNM_ERR_BACKEND);
    CHECK_EQ(copy(&backend, plain(block), stored(&backend, UINT64_MAX, 0), 1), TNM_ERR_BACKEND);
    CHECK_EQ(copy(&backend, plain(block), stored(&backend, UINT64_MAX, UINT64_MAX), 1),
             TNM_ERR_BACKEND);
    backend.release(backend.user, mem, 8192);
    tnmi_shelf_file_close(&backend);
}

TEST(a_release_of_what_was_not_given_is_ignored) {
    tnm_backend backend;
    CHECK_EQ(open_at(in_folder("spill"), 0, &backend), TNM_OK);
    uint64_t a = must_alloc(&backend, 4096, 1), b = must_alloc(&backend, 4096, 1);
    asserted = 0;
    backend.release(backend.user, a, 4096);
    CHECK_EQ(asserted, 0);
    backend.release(backend.user, a, 4096);     /* twice */
    backend.release(backend.user, a, 3 * 4096); /* past the end */
    backend.release(backend.user, 1, 4096);     /* an adopted file's token */
    backend.release(backend.user, b, 0);
    backend.release(backend.user, b, UINT64_MAX);
    backend.release(backend.user, b, UINT64_MAX - 4095);
    CHECK_EQ(asserted, 6);
    check_ranges(&backend);
    uint64_t c = must_alloc(&backend, 2 * 4096, 1);
    backend.release(backend.user, c, 2 * 4096); /* the end of the file has gone with it */
    backend.release(backend.user, c, 4096);
    CHECK_EQ(asserted, 7);
    check_ranges(&backend);
    backend.release(backend.user, b, 4096);
    backend.release(backend.user, b, 4096); /* nothing is live */
    CHECK_EQ(asserted, 8);
    check_ranges(&backend);
    a = must_alloc(&backend, 2 * 4096, 1);
    b = must_alloc(&backend, 4096, 1);
    backend.release(backend.user, a, 2 * 4096);
    backend.release(backend.user, a + 4096, 4096); /* the second half again */
    CHECK_EQ(asserted, 9);
    asserted = 0;
    check_ranges(&backend);
    backend.release(backend.user, b, 4096);
    tnmi_shelf_file_close(&backend);
}

TEST(an_array_that_cannot_grow_stays) {
    tnmi_shelf_host heap = host_heap();
    uint32_t most = (uint32_t)1 << 31, half = (uint32_t)1 << 30;
    long long asked = check_alloc_count();
    CHECK(tnmi_shelf_grow(&heap, NULL, &most, 1) == NULL); /* more entries than can be counted */
    CHECK(tnmi_shelf_grow(&heap, NULL, &half, SIZE_MAX) == NULL);
    CHECK(tnmi_shelf_grow(&heap, NULL, &half, (size_t)PTRDIFF_MAX / half) == NULL);
    CHECK(most == (uint32_t)1 << 31 && half == (uint32_t)1 << 30);
    CHECK_EQ(check_alloc_count(), asked);
}

TEST(released_ranges_are_reused_and_coalesced) {
    tnm_backend backend;
    uint64_t mem[6];
    CHECK_EQ(open_at(in_folder("spill"), 0, &backend), TNM_OK);
    const tnmi_shelf_state *state = state_of(&backend);
    for (int i = 0; i < 6; i++) {
        mem[i] = must_alloc(&backend, 5000, 1); /* two pages */
        CHECK_EQ(mem[i] & ~TNMI_SHELF_SPILL, i * 8192);
    }
    backend.release(backend.user, mem[1], 5000);
    backend.release(backend.user, mem[3], 5000);
    CHECK_EQ(state->free_count, 2);
    CHECK(must_alloc(&backend, 8192, 1) == mem[1]); /* first fit */
    backend.release(backend.user, mem[1], 8192);
    backend.release(backend.user, mem[2], 5000); /* joins both neighbours */
    CHECK_EQ(state->free_count, 1);
    CHECK_EQ(state->free[0].size, 3 * 8192);
    CHECK(must_alloc(&backend, 3 * 8192, 1) == mem[1]);
    CHECK_EQ(state->free_count, 0);
    CHECK_EQ(state->spill.size, 6 * 8192);
    backend.release(backend.user, mem[1], 3 * 8192);
    backend.release(backend.user, mem[5], 5000); /* the end shrinks */
    CHECK_EQ(state->spill.size, 5 * 8192);
    backend.release(backend.user, mem[4], 5000); /* and swallows the free range before it */
    CHECK_EQ(state->spill.size, 8192);
    CHECK_EQ(state->free_count, 0);
    uint64_t high = must_alloc(&backend, 4096, 65536); /* the gap before it is free */
    CHECK_EQ(high & ~TNMI_SHELF_SPILL, 65536);
    CHECK(must_alloc(&backend, 4096, 1) == mem[1]);
    check_ranges(&backend);
    tnmi_shelf_file_close(&backend);
}

enum { PAGES = 512, SEGMENTS = 24 };

/* Random segments against a map of pages. */
TEST(segments_never_overlap) {
    tnm_backend backend;
    unsigned char owner[PAGES];
    struct {
        uint64_t mem, size;
    } live[SEGMENTS];
    memset(owner, 0, sizeof owner);
    memset(live, 0, sizeof live);
    CHECK_EQ(open_at(in_folder("spill"), 0, &backend), TNM_OK);
    for (int round = 0; round < check_scale(4000, 400); round++) {
        unsigned i = (unsigned)draw(SEGMENTS);
        if (live[i].size != 0) {
            uint64_t first = (live[i].mem & ~TNMI_SHELF_SPILL) / 4096;
            for (uint64_t page = first; page < first + (live[i].size + 4095) / 4096; page++) {
                CHECK_EQ(owner[page], i + 1);
                owner[page] = 0;
            }
            backend.release(backend.user, live[i].mem, live[i].size);
            live[i].size = 0;
        } else {
            uint64_t align = (uint64_t)1 << draw(16), size = 1 + draw(40000);
            live[i].mem = must_alloc(&backend, size, align);
            live[i].size = size;
            uint64_t first = (live[i].mem & ~TNMI_SHELF_SPILL) / 4096;
            CHECK_EQ((live[i].mem & ~TNMI_SHELF_SPILL) % tnmi_base_max(align, 4096), 0);
            for (uint64_t page = first; page < first + (size + 4095) / 4096 && page < PAGES;
                 page++) {
                CHECK_EQ(owner[page], 0);
                owner[page] = (unsigned char)(i + 1);
            }
        }
        check_ranges(&backend);
    }
    for (int i = 0; i < SEGMENTS; i++)
        if (live[i].size) backend.release(backend.user, live[i].mem, live[i].size);
    CHECK_EQ(state_of(&backend)->spill.size, 0);
    CHECK_EQ(state_of(&backend)->free_count, 0);
    tnmi_shelf_file_close(&backend);
}

/* Random copies between a segment and memory, odd everywhere, against a plain array. */
enum { ROOM = 300000 };

static void play(int direct, int rounds) {
    tnm_backend backend;
    unsigned char *shadow = (unsigned char *)calloc(1, ROOM);
    unsigned char *raw = (unsigned char *)malloc(ROOM + 8192);
    CHECK(shadow && raw);
    unsigned char *paged = raw + (4096 - (uintptr_t)raw % 4096);
    CHECK_EQ(open_at(in_folder("spill"), direct, &backend), TNM_OK);
    uint64_t pad = must_alloc(&backend, 4096, 1), mem = must_alloc(&backend, ROOM, 1);
    memset(paged, 0, ROOM);
    CHECK_EQ(copy(&backend, stored(&backend, mem, 0), plain(paged), ROOM), TNM_OK);
    for (int i = 0; i < rounds; i++) {
        uint64_t size = 1 + draw(draw(2) ? 70000 : 9000), at = draw(ROOM - size);
        uint64_t odd = draw(3) ? at % 4096 : draw(4096); /* often the same remainder as the file */
        if (draw(4) == 0) at -= at % 4096, odd = 0;
        tnm_span there = stored(&backend, mem, at);
        if (draw(2)) {
            fill(paged + odd, (size_t)size, draw(1000000));
            memcpy(shadow + at, paged + odd, (size_t)size);
            CHECK_EQ(copy(&backend, there, plain(paged + odd), size), TNM_OK);
        } else {
            memset(paged + odd, 0xee, (size_t)size);
            CHECK_EQ(copy(&backend, plain(paged + odd), there, size), TNM_OK);
            CHECK(memcmp(shadow + at, paged + odd, (size_t)size) == 0);
        }
    }
    CHECK_EQ(copy(&backend, plain(paged), stored(&backend, mem, 0), ROOM), TNM_OK);
    CHECK(memcmp(shadow, paged, ROOM) == 0);
    backend.release(backend.user, pad, 4096);
    tnmi_shelf_file_close(&backend);
    free(shadow);
    free(raw);
}

TEST(bytes_come_back_buffered) {
    play(0, check_scale(400, 150));
}

TEST(bytes_come_back_direct) {
    play(1, check_scale(400, 150));
}

static void play_between(int direct) {
    enum { SIZE = 200000 };
    tnm_backend one, two;
    unsigned char guard[40];
    unsigned char *bytes = (unsigned char *)malloc(SIZE), *back = (unsigned char *)malloc(SIZE);
    CHECK(bytes && back);
    CHECK_EQ(open_at(in_folder("one"), direct, &one), TNM_OK);
    CHECK_EQ(open_at(in_folder("two"), 0, &two), TNM_OK);
    uint64_t a = must_alloc(&one, SIZE, 1), b = must_alloc(&one, SIZE, 1);
    uint64_t c = must_alloc(&two, SIZE, 1);
    fill(bytes, SIZE, 99);
    memset(guard, 0xa7, sizeof guard);
    CHECK_EQ(copy(&one, stored(&one, a, 0), plain(bytes), SIZE), TNM_OK);
    for (uint64_t shift = 0; shift < 5000; shift += 1237) {
        uint64_t size = SIZE - 5000 - 40;
        tnm_span mid = stored(&one, b, 5000 - shift), far_end = stored(&two, c, shift);
        tnm_span mid_end = stored(&one, b, 5000 - shift + size);
        tnm_span far_guard = stored(&two, c, shift + size);
        CHECK_EQ(copy(&one, mid_end, plain(guard), sizeof guard), TNM_OK);
        CHECK_EQ(copy(&two, far_guard, plain(guard), sizeof guard), TNM_OK);
        CHECK_EQ(copy(&one, mid, stored(&one, a, shift), size), TNM_OK); /* within one file */
        CHECK_EQ(copy(&two, far_end, mid, size), TNM_OK);                /* across two */
        CHECK_EQ(copy(&two, plain(back), far_end, size), TNM_OK);
        CHECK(memcmp(back, bytes + shift, (size_t)size) == 0);
        CHECK_EQ(copy(&one, plain(back), mid_end, sizeof guard), TNM_OK); /* and not a byte more */
        CHECK(memcmp(back, guard, sizeof guard) == 0);
        CHECK_EQ(copy(&two, plain(back), far_guard, sizeof guard), TNM_OK);
        CHECK(memcmp(back, guard, sizeof guard) == 0);
    }
    tnmi_shelf_file_close(&two);
    tnmi_shelf_file_close(&one);
    free(bytes);
    free(back);
}

TEST(bytes_move_between_files) {
    play_between(0);
    play_between(1);
}

TEST(adopted_files_are_read_at_any_offset) {
    enum { SIZE = 30001 };
    static unsigned char want[SIZE], raw[SIZE + 8192];
    unsigned char *paged = raw + (4096 - (uintptr_t)raw % 4096);
    make_file(in_folder("model"), SIZE, 0);
    fill(want, SIZE, 0);
    for (int direct = 0; direct < 2; direct++) {
        tnm_backend backend;
        uint64_t mem, again, size;
        CHECK_EQ(open_at(NULL, direct, &backend), TNM_OK);
        CHECK_EQ(backend.granularity, direct ? 4096 : 1);
        const tnmi_shelf_state *state = state_of(&backend);
        for (uint32_t i = 0; i < state->depth; i++) {
            const unsigned char *bounce = state->op[i].bounce;
            CHECK_EQ((uintptr_t)bounce % 4096, 0);
            CHECK(bounce >= (const unsigned char *)&state->op[state->depth]);
            CHECK(bounce + TNMI_SHELF_BOUNCE <= (const unsigned char *)state + state->bytes);
            CHECK(i == 0 || bounce == state->op[i - 1].bounce + TNMI_SHELF_BOUNCE);
        }
        CHECK_EQ(tnmi_shelf_file_adopt(&backend, in_folder("model"), &mem, &size), TNM_OK);
        CHECK_EQ(size, SIZE);
        CHECK_EQ(tnmi_shelf_file_adopt(&backend, in_folder("model"), &again, &size), TNM_OK);
        CHECK(mem != again);
        CHECK(direct || !state->adopted[0].direct);
        for (int i = 0; i < check_scale(200, 100); i++) {
            uint64_t bytes = 1 + draw(SIZE - 1), at = draw(SIZE - bytes + 1);
            uint64_t odd = draw(2) ? at % 4096 : draw(4096);
            uint64_t token = draw(2) ? mem : again;
            memset(paged + odd, 0xee, (size_t)bytes);
            CHECK_EQ(copy(&backend, plain(paged + odd), stored(&backend, token, at), bytes),
                     TNM_OK);
            CHECK(memcmp(paged + odd, want + at, (size_t)bytes) == 0);
        }
        tnmi_shelf_file_close(&backend);
    }
    remove(in_folder("model"));
}

/* 30001 bytes are 7 pages and 1329 bytes: the last page may be asked for whole when direct. */
TEST(adopted_files_end_where_they_end) {
    static unsigned char raw[16384], zero[4096];
    unsigned char *paged = raw + (4096 - (uintptr_t)raw % 4096);
    make_file(in_folder("model"), 30001, 0);
    for (int direct = 0; direct < 2; direct++) {
        tnm_backend backend;
        uint64_t mem, size;
        tnm_result tail = direct ? TNM_OK : TNM_ERR_BACKEND;
        CHECK_EQ(open_at(NULL, direct, &backend), TNM_OK);
        CHECK_EQ(tnmi_shelf_file_adopt(&backend, in_folder("model"), &mem, &size), TNM_OK);
        memset(raw, 0xee, sizeof raw);
        CHECK_EQ(copy(&backend, plain(paged), stored(&backend, mem, 28672), 4096), tail);
        CHECK(!direct || memcmp(paged + 1329, zero, 4096 - 1329) == 0);
        CHECK_EQ(paged[4096], 0xee);
        CHECK_EQ(copy(&backend, plain(paged), stored(&backend, mem, 30001), 1), tail);
        CHECK_EQ(copy(&backend, plain(paged), stored(&backend, mem, 28672), 1329), TNM_OK);
        CHECK_EQ(copy(&backend, plain(paged), stored(&backend, mem, 28673), 4096), TNM_ERR_BACKEND);
        CHECK_EQ(copy(&backend, plain(paged), stored(&backend, mem, 32768), 1), TNM_ERR_BACKEND);
        CHECK_EQ(copy(&backend, plain(paged), stored(&backend, mem + 1, 0), 1), TNM_ERR_BACKEND);
        CHECK_EQ(copy(&backend, stored(&backend, mem, 0), plain(paged), 1), TNM_ERR_BACKEND);
        tnmi_shelf_file_close(&backend);
    }
    remove(in_folder("model"));
}

TEST(an_empty_file_may_be_adopted) {
    tnm_backend backend;
    unsigned char byte;
    uint64_t mem, size = 1;
    make_file(in_folder("model"), 0, 0);
    CHECK_EQ(open_at(NULL, 0, &backend), TNM_OK);
    CHECK_EQ(tnmi_shelf_file_adopt(&backend, in_folder("model"), &mem, &size), TNM_OK);
    CHECK(mem != 0 && size == 0);
    CHECK_EQ(copy(&backend, plain(&byte), stored(&backend, mem, 0), 1), TNM_ERR_BACKEND);
    tnmi_shelf_file_close(&backend);
    remove(in_folder("model"));
}

TEST(an_adopted_file_that_shrank_is_an_error) {
    tnm_backend backend;
    unsigned char block[4096];
    uint64_t mem, size;
    make_file(in_folder("model"), 20000, 0);
    CHECK_EQ(open_at(NULL, 0, &backend), TNM_OK);
    CHECK_EQ(tnmi_shelf_file_adopt(&backend, in_folder("model"), &mem, &size), TNM_OK);
    make_file(in_folder("model"), 10000, 0);
    CHECK_EQ(copy(&backend, plain(block), stored(&backend, mem, 8000), 4096), TNM_ERR_BACKEND);
    CHECK_EQ(copy(&backend, plain(block), stored(&backend, mem, 5000), 4096), TNM_OK);
    tnmi_shelf_file_close(&backend);
    remove(in_folder("model"));
}

TEST(adopted_bytes_copy_into_a_spill_file) {
    enum { SIZE = 150001 };
    static unsigned char want[SIZE + 8192], got[SIZE + 8192];
    make_file(in_folder("model"), SIZE, 17);
    fill(want, SIZE, 17); /* zeros behind it */
    for (int direct = 0; direct < 2; direct++) {
        tnm_backend backend;
        uint64_t model, size, padded = direct ? 151552 : SIZE;
        CHECK_EQ(open_at(in_folder("spill"), direct, &backend), TNM_OK);
        uint64_t mem = must_alloc(&backend, padded, 1);
        CHECK_EQ(tnmi_shelf_file_adopt(&backend, in_folder("model"), &model, &size), TNM_OK);
        if (backend.granularity <= 1) padded = SIZE;
        tnm_span there = stored(&backend, mem, 0);
        CHECK_EQ(copy(&backend, there, stored(&backend, model, 0), padded), TNM_OK);
        CHECK_EQ(copy(&backend, plain(got), there, padded), TNM_OK);
        CHECK(memcmp(got, want, (size_t)padded) == 0);
        CHECK_EQ(copy(&backend, stored(&backend, model, 0), there, 10), TNM_ERR_BACKEND);
        tnmi_shelf_file_close(&backend);
    }
    remove(in_folder("model"));
}

TEST(spans_of_others_are_not_our_route) {
    tnm_backend backend, device;
    unsigned char block[64], other[64];
    CHECK_EQ(open_at(in_folder("spill"), 0, &backend), TNM_OK);
    uint64_t mem = must_alloc(&backend, 4096, 1);
    memset(&device, 0, sizeof device);
    tnm_span ours = stored(&backend, mem, 0), theirs = stored(&device, mem, 0);
    CHECK_EQ(copy(&backend, theirs, ours, 1), TNM_ERR_UNSUPPORTED);
    CHECK_EQ(copy(&backend, ours, theirs, 1), TNM_ERR_UNSUPPORTED);
    CHECK_EQ(copy(&backend, plain(NULL), ours, 1), TNM_ERR_UNSUPPORTED);
    CHECK_EQ(copy(&backend, ours, plain(NULL), 1), TNM_ERR_UNSUPPORTED);
    CHECK_EQ(open_at(in_folder("other"), 0, &device), TNM_OK);
    CHECK_EQ(copy(&device, ours, plain(block), 1), TNM_ERR_UNSUPPORTED); /* whose it is does it */
    CHECK_EQ(copy(&backend, ours, ours, 0), TNM_OK);
    tnmi_shelf_file_close(&device);
    CHECK_EQ(open_at(in_folder("other"), 1, &device), TNM_OK);
    tnm_span direct = stored(&device, must_alloc(&device, 4096, 1), 0);
    CHECK_EQ(copy(&device, direct, direct, 0), TNM_OK);
    tnmi_shelf_file_close(&device);
    memset(&device, 0, sizeof device);
    fill(block, sizeof block, 1);
    tnm_span mapped = stored(&backend, 0, 0); /* a mapped file adopted on this tier */
    mapped.host = block;
    CHECK_EQ(copy(&backend, plain(other), mapped, 64), TNM_OK);
    CHECK(memcmp(block, other, 64) == 0);
    CHECK_EQ(copy(&backend, ours, mapped, 64), TNM_OK);
    memset(other, 0, sizeof other);
    CHECK_EQ(copy(&backend, plain(other), ours, 64), TNM_OK);
    CHECK(memcmp(block, other, 64) == 0);
    tnmi_shelf_file_close(&backend);
}

/* ---- many at once ---- */
enum { FIELD = 256 * 1024, MOST = 40000, CREWS = 20 };

typedef struct flight {      /* a copy under way */
    uint64_t at, from, size; /* in the segment; `from`: of a copy within it */
    uint64_t ticket;
    unsigned char *block, *here; /* here: within block */
    int kind, live;
} flight;

typedef struct storm {
    tnm_backend disk;
    uint64_t mem, done;
    flight crew[CREWS];
    unsigned char *truth, *spoiled; /* spoiled: a failed write may have left anything */
    int failures;                   /* copies that failed */
    int out;
} storm;

static int touches(uint64_t a, uint64_t b, uint64_t size, uint64_t other) {
    return a < b + other && b < a + size;
}

/* Two copies that are under way never overlap, but where both read. */
static int is_free(const storm *s, uint64_t at, uint64_t size, int writes) {
    for (int i = 0; i < CREWS; i++) {
        const flight *f = &s->crew[i];
        if (!f->live) continue;
        int reads = f->kind == TNMI_SHELF_READ;
        if ((writes || !reads) && touches(f->at, at, f->size, size)) return 0;
        if (writes && f->kind == TNMI_SHELF_BETWEEN && touches(f->from, at, f->size, size))
            return 0;
    }
    return 1;
}

static void storm_land(storm *s, flight *f, tnm_result result) {
    CHECK(result == TNM_OK || result == TNM_ERR_BACKEND);
    f->live = 0;
    s->out--;
    s->done++;
    if (result != TNM_OK) s->failures++;
    if (f->kind == TNMI_SHELF_READ) {
        int same = 1;
        for (uint64_t i = 0; result == TNM_OK && i < f->size; i++)
            same &= s->spoiled[f->at + i] || f->here[i] == s->truth[f->at + i];
        CHECK(same);
        CHECK(f->here[f->size] == 0x5c); /* and not a byte more */
        return;
    }
    const unsigned char *what = f->kind == TNMI_SHELF_WRITE ? f->here : s->truth + f->from;
    memcpy(s->truth + f->at, what, (size_t)f->size);
    memset(s->spoiled + f->at, result != TNM_OK, (size_t)f->size);
    for (uint64_t i = 0; f->kind == TNMI_SHELF_BETWEEN && i < f->size; i++)
        s->spoiled[f->at + i] |= s->spoiled[f->from + i];
}

static void storm_launch(storm *s, flight *f) {
    uint64_t size = 1 + draw(draw(3) ? 9000 : MOST), odd = draw(3) ? 0 : draw(4096);
    uint64_t at = draw(FIELD - size + 1), from = draw(FIELD - size + 1);
    const flight *before = &s->crew[draw(CREWS)];
    int kind = (int)draw(10);
    kind = kind < 4 ? TNMI_SHELF_READ : kind < 9 ? TNMI_SHELF_WRITE : TNMI_SHELF_BETWEEN;
    if (draw(3) == 0) at -= at % 4096;
    if (draw(3) == 0) at = before->at + before->size; /* beside another one */
    if (at + size > FIELD || !is_free(s, at, size, kind != TNMI_SHELF_READ)) return;
    if (kind == TNMI_SHELF_BETWEEN && (!is_free(s, from, size, 0) || touches(at, from, size, size)))
        return;
    tnm_span there = stored(&s->disk, s->mem, at);
    f->kind = kind;
    f->at = at;
    f->from = from;
    f->size = size;
    f->ticket = 0;
    f->here = f->block + (4096 - (uintptr_t)f->block % 4096) + (draw(2) ? at % 4096 : odd);
    tnm_span here = kind == TNMI_SHELF_BETWEEN ? stored(&s->disk, s->mem, from) : plain(f->here);
    if (kind == TNMI_SHELF_WRITE) fill(f->here, (size_t)size, draw(1000000));
    if (kind == TNMI_SHELF_READ) memset(f->here, 0xee, (size_t)size);
    f->here[size] = 0x5c;
    int reads = kind == TNMI_SHELF_READ;
    tnm_result result = s->disk.copy(s->disk.user, reads ? &here : &there, reads ? &there : &here,
                                     size, &f->ticket);
    if (result == TNM_ERR_BUSY) {
        CHECK_EQ(s->out, state_of(&s->disk)->depth);
        return;
    }
    f->live = 1;
    s->out++;
    if (result != TNM_PENDING) storm_land(s, f, result);
}

static void storm_open(storm *s, int direct) {
    memset(s, 0, sizeof *s);
    s->truth = (unsigned char *)calloc(1, FIELD);
    s->spoiled = (unsigned char *)malloc(FIELD);
    CHECK(s->truth && s->spoiled);
    memset(s->spoiled, 1, FIELD); /* nobody has written there */
    for (int i = 0; i < CREWS; i++)
        s->crew[i].block = (unsigned char *)malloc(MOST + 3 * 4096);
    CHECK_EQ(open_at(in_folder("spill"), direct, &s->disk), TNM_OK);
    must_alloc(&s->disk, 4096, 1);
    s->mem = must_alloc(&s->disk, FIELD, 1);
}

static void storm_close(storm *s) {
    tnmi_shelf_file_close(&s->disk);
    for (int i = 0; i < CREWS; i++)
        free(s->crew[i].block);
    free(s->truth);
    free(s->spoiled);
}

/* Copies come and go in any order, until so many have ended; then all of it is read. */
static void storm_blow(storm *s, uint64_t copies) {
    static unsigned char all[FIELD];
    while (s->done < copies || s->out > 0) {
        flight *f = &s->crew[draw(CREWS)];
        if (!f->live && s->done < copies) storm_launch(s, f);
        if (draw(3) == 0 && s->disk.submit) s->disk.submit(s->disk.user);
        f = &s->crew[draw(CREWS)];
        if (!f->live) continue;
        int waits = draw(4) == 0;
        tnm_result result =
            waits ? s->disk.wait(s->disk.user, f->ticket) : s->disk.poll(s->disk.user, f->ticket);
        if (waits) CHECK(result != TNM_PENDING);
        if (result != TNM_PENDING) storm_land(s, f, result);
    }
    tnm_result result = copy(&s->disk, plain(all), stored(&s->disk, s->mem, 0), FIELD);
    int same = 1;
    for (int i = 0; result == TNM_OK && i < FIELD; i++)
        same &= s->spoiled[i] || all[i] == s->truth[i];
    CHECK(same);
}

/* 0 = no copy failed */
static int play_storm(int direct, int copies) {
    static storm s;
    storm_open(&s, direct);
    storm_blow(&s, (uint64_t)copies);
    storm_close(&s);
    return s.failures;
}

TEST(storms_leave_every_byte_right) {
    static const uint32_t depths[] = { 0, 1, 2, 5 };
    for (size_t i = 0; i < sizeof depths / sizeof *depths; i++)
        for (int direct = 0; direct < 2; direct++) {
            deep = depths[i];
            CHECK_EQ(play_storm(direct, check_scale(150, 60)), 0);
        }
    deep = 0;
}

TEST(a_few_threads_race) {
    for (int direct = 0; direct < 2; direct++)
        CHECK_EQ(play_storm(direct, 60), 0);
}

TEST(a_full_table_is_busy) {
    enum { SIZE = 5000, DEEP = 3 };
    static unsigned char block[DEEP + 1][SIZE], back[SIZE];
    tnm_backend disk;
    uint64_t ticket[DEEP + 1] = { 0 };
    deep = DEEP;
    CHECK_EQ(open_at(in_folder("spill"), 0, &disk), TNM_OK);
    if (!disk.poll) {
        tnmi_shelf_file_close(&disk);
        return;
    }
    uint64_t mem = must_alloc(&disk, (DEEP + 1) * SIZE, 1);
    for (int i = 0; i <= DEEP; i++) {
        tnm_span from = plain(block[i]), to = stored(&disk, mem, (uint64_t)i * SIZE);
        fill(block[i], SIZE, (uint64_t)i * 77);
        tnm_result result = disk.copy(disk.user, &to, &from, SIZE, &ticket[i]);
        CHECK_EQ(result, i < DEEP ? TNM_PENDING : TNM_ERR_BUSY);
        for (int k = 0; k < i; k++)
            CHECK(ticket[i] != ticket[k]);
    }
    for (int i = DEEP - 1; i >= 0; i--) /* though nobody called submit */
        CHECK_EQ(disk.wait(disk.user, ticket[i]), TNM_OK);
    asserted = 0;
    CHECK_EQ(disk.poll(disk.user, ticket[0]), TNM_ERR_BACKEND); /* it was answered */
    CHECK_EQ(disk.poll(disk.user, 0), TNM_ERR_BACKEND);
    CHECK_EQ(disk.poll(disk.user, UINT64_MAX), TNM_ERR_BACKEND);
    CHECK_EQ(asserted, 3);
    asserted = 0;
    for (int i = 0; i < DEEP; i++) {
        CHECK_EQ(copy(&disk, plain(back), stored(&disk, mem, (uint64_t)i * SIZE), SIZE), TNM_OK);
        CHECK(memcmp(back, block[i], SIZE) == 0);
    }
    tnmi_shelf_file_close(&disk);
    deep = 0;
}

/* A broken contract, or an application that gave up: memory goes only when nobody writes to it. */
TEST(close_waits_for_what_is_out) {
    enum { SIZE = 1 << 20, COUNT = 8 };
    for (int submits = 0; submits < 2; submits++)
        for (int direct = 0; direct < 2; direct++) {
            tnm_backend disk;
            unsigned char *block[COUNT];
            CHECK_EQ(open_at(in_folder("spill"), direct, &disk), TNM_OK);
            tnm_result begun = disk.poll ? TNM_PENDING : TNM_OK;
            uint64_t mem = must_alloc(&disk, COUNT * SIZE, 1), ticket;
            for (int i = 0; i < COUNT; i++) {
                block[i] = (unsigned char *)malloc(SIZE);
                memset(block[i], i, SIZE);
                tnm_span here = plain(block[i]), there = stored(&disk, mem, (uint64_t)i * SIZE);
                int reads = i % 2;
                CHECK_EQ(disk.copy(disk.user, reads ? &here : &there, reads ? &there : &here, SIZE,
                                   &ticket),
                         begun);
            }
            if (submits && disk.submit) disk.submit(disk.user);
            tnmi_shelf_file_close(&disk);
            for (int i = 0; i < COUNT; i++)
                free(block[i]); /* a sanitizer sees who writes there now */
        }
}

/* A thread that ends takes along what it has started, where the system does so: begun anew. */
enum { GONE_SIZE = 1 << 20, GONE_COUNT = 12 };

static struct gone {
    tnm_backend disk;
    uint64_t mem, ticket[GONE_COUNT];
    unsigned char *block[GONE_COUNT];
    int reads, begun;
} gone;

static void gone_start(void) {
    gone.begun = 0;
    for (int i = 0; i < GONE_COUNT; i++) {
        tnm_span here = plain(gone.block[i]);
        tnm_span there = stored(&gone.disk, gone.mem, (uint64_t)i * GONE_SIZE);
        tnm_result result = gone.disk.copy(gone.disk.user, gone.reads ? &here : &there,
                                           gone.reads ? &there : &here, GONE_SIZE, &gone.ticket[i]);
        gone.begun += result == (gone.disk.poll ? TNM_PENDING : TNM_OK);
    }
    if (gone.disk.submit) gone.disk.submit(gone.disk.user);
}

#ifdef _WIN32
static DWORD WINAPI gone_main(LPVOID unused) {
    (void)unused;
    gone_start();
    return 0;
}

static void gone_thread(void) {
    HANDLE thread = CreateThread(NULL, 0, gone_main, NULL, 0, NULL);
    CHECK(thread != NULL);
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}
#elif defined(TENSORMEM_THREADS)
static void *gone_main(void *unused) {
    (void)unused;
    gone_start();
    return NULL;
}

static void gone_thread(void) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, gone_main, NULL), 0);
    pthread_join(thread, NULL);
}
#else
static void gone_thread(void) {
    gone_start();
}
#endif

TEST(the_copies_of_a_thread_that_ended_arrive) {
    for (int round = 0; round < 8; round++) {
        gone.reads = round & 1;
        if (!gone.reads) {
            CHECK_EQ(open_at(in_folder("spill"), round & 2, &gone.disk), TNM_OK);
            gone.mem = must_alloc(&gone.disk, GONE_COUNT * GONE_SIZE, 1);
        }
        for (int i = 0; i < GONE_COUNT; i++) {
            if (!gone.reads) gone.block[i] = (unsigned char *)malloc(GONE_SIZE);
            memset(gone.block[i], gone.reads ? 0 : round + i, GONE_SIZE);
        }
#if defined(__linux__)
        if (gone.reads) /* nothing of it is in memory: it is read from the disk */
            (void)fdatasync(state_of(&gone.disk)->spill.fd),
                (void)posix_fadvise(state_of(&gone.disk)->spill.fd, 0, 0, POSIX_FADV_DONTNEED);
#endif
        gone_thread();
        CHECK_EQ(gone.begun, GONE_COUNT);
        for (int i = 0; i < GONE_COUNT; i++) {
            const unsigned char *block = gone.block[i];
            if (gone.disk.poll) CHECK_EQ(gone.disk.wait(gone.disk.user, gone.ticket[i]), TNM_OK);
            CHECK(block[0] == round - gone.reads + i);
            CHECK(memcmp(block, block + 1, GONE_SIZE - 1) == 0);
        }
        if (!gone.reads) continue;
        for (int i = 0; i < GONE_COUNT; i++)
            free(gone.block[i]);
        CHECK(strstr(tnmi_shelf_file_how(&gone.disk), "ended") == NULL);
        tnmi_shelf_file_close(&gone.disk);
    }
}

static int says(const char *text, const char *part) {
    return strstr(text, part) != NULL;
}

TEST(what_was_granted_is_told) {
    tnm_backend disk;
    uint64_t mem, size;
    make_file(in_folder("model"), 5000, 0);
    for (int direct = 0; direct < 2; direct++)
        for (way = QUEUE; way < WAYS; way++) {
            CHECK_EQ(open_at(in_folder("spill"), direct, &disk), TNM_OK);
            const char *how = tnmi_shelf_file_how(&disk);
            CHECK(way != SYNC || says(how, "synchronous, "));
            CHECK(way != THREAD || says(how, "1 thread, "));
            CHECK(way != THREADS || says(how, "2 threads, "));
            CHECK_EQ(strlen(tnmi_shelf_file_how(NULL)), 0);
            CHECK(says(how, "buffered") == !state_of(&disk)->spill.direct);
            CHECK(says(how, "synchronous") == !disk.poll && !disk.poll == !disk.wait);
            CHECK(way == QUEUE || (way == SYNC) == !disk.poll); /* the system may have no queue */
            CHECK_EQ(tnmi_shelf_file_adopt(&disk, in_folder("model"), &mem, &size), TNM_OK);
            CHECK(says(tnmi_shelf_file_how(&disk), direct ? "direct" : "buffered") ||
                  !state_of(&disk)->spill.direct);
            tnmi_shelf_file_close(&disk);
            CHECK_EQ(strlen(tnmi_shelf_file_how(&disk)), 0);
        }
    way = QUEUE;
    remove(in_folder("model"));
}

TEST(too_much_is_as_much_as_there_is) {
    tnm_file_desc desc;
    tnm_backend disk;
    memset(&desc, 0, sizeof desc);
    desc.threads = 1000;
    CHECK_EQ(tnmi_shelf_file_open(&desc, &disk), TNM_OK);
    CHECK(strcmp(tnmi_shelf_file_how(&disk), "64 threads, buffered") == 0);
    tnmi_shelf_file_close(&disk);
    desc.threads = 1;
    desc.depth = UINT32_MAX;
    CHECK_EQ(tnmi_shelf_file_open(&desc, &disk), TNM_OK);
    CHECK_EQ(state_of(&disk)->depth, TNMI_SHELF_DEPTH_MOST);
    tnmi_shelf_file_close(&disk);
}

/* The n-th allocation fails, for every n: nothing leaks, and a second try works. */
TEST(every_allocation_may_fail) {
    make_file(in_folder("model"), 100, 0);
    for (int n = 1; n < 100; n++) {
        tnm_backend backend;
        uint64_t mem = 0, size;
        long long refused = check_alloc_refused();
        check_fail_alloc(n, 0);
        tnm_result result = open_at(in_folder("spill"), 0, &backend);
        if (result == TNM_ERR_MEMORY) continue;
        CHECK_EQ(result, TNM_OK);
        for (int i = 0; i < 40; i++) {
            result = try_alloc(&backend, 4096, 1);
            CHECK(result == TNM_OK || result == TNM_ERR_MEMORY);
            if (result != TNM_OK) must_alloc(&backend, 4096, 1);
            check_ranges(&backend);
            result = tnmi_shelf_file_adopt(&backend, in_folder("model"), &mem, &size);
            CHECK(result == TNM_OK || (result == TNM_ERR_MEMORY && mem == 0 && size == 0));
            if (result != TNM_OK)
                result = tnmi_shelf_file_adopt(&backend, in_folder("model"), &mem, &size);
            CHECK_EQ(result, TNM_OK);
            CHECK_EQ(mem, i + 1);
        }
        tnmi_shelf_file_close(&backend);
        CHECK(n < 8 || check_alloc_refused() == refused); /* 1 and 2 times 2 growths are asked */
        if (check_alloc_refused() == refused) break;
        CHECK(n < 50);
    }
    remove(in_folder("model"));
}

/* The hooks of the transfers hold one thread: the caller's, or one of the backend's. */
#define RUN_HOOKED(name) (way = SYNC, RUN(name), way = THREAD, RUN(name), way = QUEUE)

static void run_copies(void) {
    static const char *const name[] = { "the system's queue", "at once", "a thread", "2 threads" };
    for (way = QUEUE; way < WAYS; way++) {
        printf("by %s:\n", name[way]);
        RUN(bytes_come_back_buffered);
        RUN(bytes_come_back_direct);
        RUN(bytes_move_between_files);
        RUN(adopted_files_are_read_at_any_offset);
        RUN(adopted_files_end_where_they_end);
        RUN(adopted_bytes_copy_into_a_spill_file);
        RUN(a_few_threads_race);
        RUN(storms_leave_every_byte_right);
        RUN(a_full_table_is_busy);
        RUN(close_waits_for_what_is_out);
        RUN(the_copies_of_a_thread_that_ended_arrive);
    }
    way = QUEUE;
}

#ifndef __EMSCRIPTEN__
/* ---- offsets that 32 bits cannot hold, in files that are nearly all hole ---- */
enum { FAR_BLOCK = 5000 };
static const uint64_t FAR_SIZE = (uint64_t)5 << 30, FAR_OFF = ((uint64_t)4 << 30) + 123;

/* "model" has FAR_SIZE bytes: the block at FAR_OFF, else zeros */
static void reach_beyond_4_gib(const unsigned char block[FAR_BLOCK]) {
    unsigned char back[FAR_BLOCK], zero[FAR_BLOCK];
    tnm_backend backend;
    uint64_t model, size;
    memset(zero, 0, sizeof zero);
    for (int direct = 0; direct < 2; direct++) {
        CHECK_EQ(open_at(in_folder("spill"), direct, &backend), TNM_OK);
        CHECK_EQ(tnmi_shelf_file_adopt(&backend, in_folder("model"), &model, &size), TNM_OK);
        CHECK(size == FAR_SIZE);
        tnm_span source = stored(&backend, model, FAR_OFF);
        CHECK_EQ(copy(&backend, plain(back), source, sizeof back), TNM_OK);
        CHECK(memcmp(block, back, sizeof back) == 0);
        uint64_t mem = must_alloc(&backend, FAR_SIZE, 1), next = must_alloc(&backend, 8192, 1);
        tnm_span there = stored(&backend, mem, FAR_OFF), behind = stored(&backend, next, 7);
        CHECK((next & ~TNMI_SHELF_SPILL) == FAR_SIZE);
        CHECK_EQ(copy(&backend, there, source, FAR_BLOCK), TNM_OK);
        CHECK_EQ(copy(&backend, behind, plain((void *)(uintptr_t)block), FAR_BLOCK), TNM_OK);
        CHECK_EQ(copy(&backend, plain(back), stored(&backend, mem, 123), sizeof back), TNM_OK);
        CHECK(memcmp(zero, back, sizeof back) == 0); /* not cut to 32 bits */
        CHECK_EQ(copy(&backend, plain(back), there, sizeof back), TNM_OK);
        CHECK(memcmp(block, back, sizeof back) == 0);
        CHECK_EQ(copy(&backend, plain(back), behind, sizeof back), TNM_OK);
        CHECK(memcmp(block, back, sizeof back) == 0);
        tnmi_shelf_file_close(&backend);
    }
}
#endif

static void run_everywhere(void) {
    RUN(host_blocks_are_aligned_and_given_back_exactly);
#if defined(__linux__)
    RUN(large_host_blocks_ask_for_large_pages);
    RUN(the_memory_of_a_context_asks_for_large_pages);
#endif
    RUN(host_refuses_what_cannot_be);
    RUN(host_copies_what_the_cpu_sees);
    RUN(open_refuses_bad_descriptors);
    RUN(close_leaves_other_backends_alone);
    RUN(an_existing_file_is_refused_and_untouched);
    RUN(hostile_sizes_are_refused);
    RUN(a_release_of_what_was_not_given_is_ignored);
    RUN(released_ranges_are_reused_and_coalesced);
    RUN(segments_never_overlap);
    RUN(an_array_that_cannot_grow_stays);
    RUN(too_much_is_as_much_as_there_is);
    RUN(an_empty_file_may_be_adopted);
    RUN(an_adopted_file_that_shrank_is_an_error);
    RUN(spans_of_others_are_not_our_route);
    RUN(every_allocation_may_fail);
    RUN(what_was_granted_is_told);
    run_copies();
}

#ifdef _WIN32
/* ---- Windows ---- */
static int exists(const char *path) {
    return GetFileAttributesA(path) != INVALID_FILE_ATTRIBUTES;
}

TEST(a_spill_file_is_removed_by_close) {
    for (int direct = 0; direct < 2; direct++) {
        tnm_backend backend;
        CHECK_EQ(open_at(in_folder("spill"), direct, &backend), TNM_OK);
        CHECK(exists(in_folder("spill")));
        CHECK_EQ(backend.granularity, direct && state_of(&backend)->spill.direct ? 4096 : 1);
        tnmi_shelf_file_close(&backend);
        CHECK(!exists(in_folder("spill")));
        CHECK_EQ(open_at(folder, direct, &backend), TNM_OK); /* a name of its own inside */
        must_alloc(&backend, 100000, 1);
        tnmi_shelf_file_close(&backend);
    }
}

TEST(offsets_beyond_4_gib) {
    unsigned char block[FAR_BLOCK];
    LARGE_INTEGER at;
    DWORD done = 0;
    fill(block, sizeof block, 11);
    HANDLE fd = CreateFileA(in_folder("model"), GENERIC_WRITE, 0, NULL, CREATE_NEW, 0, NULL);
    CHECK(fd != INVALID_HANDLE_VALUE);
    at.QuadPart = (LONGLONG)FAR_SIZE;
    CHECK(SetFilePointerEx(fd, at, NULL, FILE_BEGIN) && SetEndOfFile(fd));
    at.QuadPart = (LONGLONG)FAR_OFF;
    CHECK(SetFilePointerEx(fd, at, NULL, FILE_BEGIN));
    CHECK(WriteFile(fd, block, FAR_BLOCK, &done, NULL) && done == FAR_BLOCK);
    CloseHandle(fd);
    reach_beyond_4_gib(block);
    remove(in_folder("model"));
}

static int has_room(uint64_t bytes) { /* nothing says that the holes cost nothing */
    ULARGE_INTEGER room;
    return GetDiskFreeSpaceExA(folder, &room, NULL, NULL) && room.QuadPart >= bytes;
}

int main(void) {
    snprintf(folder, sizeof folder, "shelf-%lu", (unsigned long)GetCurrentProcessId());
    CHECK(CreateDirectoryA(folder, NULL));
    run_everywhere();
    RUN(a_spill_file_is_removed_by_close);
    if (has_room(3 * FAR_SIZE))
        RUN(offsets_beyond_4_gib);
    else
        SKIP("offsets_beyond_4_gib", "less than 15 GiB free");
    if (!RemoveDirectoryA(folder)) printf("%s is not empty\n", folder), check_failed++;
    return check_done();
}
#elif defined(__wasm__)
/* ---- WebAssembly ---- */
#    ifdef __EMSCRIPTEN__
TEST(offsets_beyond_4_gib) { /* its calls take 32 bits of them: a spill file ends before */
    tnm_backend backend;
    CHECK_EQ(open_at(in_folder("spill"), 0, &backend), TNM_OK);
    CHECK(try_alloc(&backend, (uint64_t)5 << 30, 1) != TNM_OK);
    must_alloc(&backend, 1 << 20, 1);
    CHECK(try_alloc(&backend, (uint64_t)1 << 31, 1) != TNM_OK);
    must_alloc(&backend, 1 << 20, 1);
    tnmi_shelf_file_close(&backend);
}
#    else
TEST(offsets_beyond_4_gib) {
    unsigned char block[FAR_BLOCK];
    fill(block, sizeof block, 11);
    int fd = open(in_folder("model"), O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK_EQ(pwrite(fd, block, sizeof block, (off_t)FAR_OFF), sizeof block);
    CHECK_EQ(pwrite(fd, "", 1, (off_t)FAR_SIZE - 1), 1);
    close(fd);
    reach_beyond_4_gib(block);
    remove(in_folder("model"));
}
#    endif

int main(void) {
    snprintf(folder, sizeof folder, "build/shelf");
    CHECK_EQ(mkdir(folder, 0700), 0);
    run_everywhere();
    RUN(offsets_beyond_4_gib);
    if (rmdir(folder) != 0) printf("%s is not empty\n", folder), check_failed++;
    return check_done();
}
#else
/* ---- POSIX: hooks ---- */
static struct hooks {
    int interrupt;        /* every call fails with EINTR first */
    int was;              /* ... and this one already did */
    size_t most;          /* bytes moved by one call; 0 = all */
    int fail_in;          /* the n-th call from now fails with ... */
    int error;            /* ... this; 0: moves nothing */
    int refuse_direct;    /* EINVAL while the descriptor is direct */
    int copies;           /* copy_file_range: 0 works, -1 moves nothing, else errno */
    int reserve;          /* fallocate: 0 works, else errno */
    int64_t reserve_most; /* a longer fallocate is interrupted */
    int reserve_left;     /* so many work, then ENOSPC; 0 = all */
    int no_switch;        /* F_SETFL is refused */
    int open_error;       /* of the n-th open, close to the first; open_all: of all from then on */
    int open_in, open_all;
    int unlink, cut, cut_in, seek, stat, short_noise; /* errno; cut_in: of the n-th ftruncate */
    int make_in, make_all;                            /* the n-th mutex, condition or thread */
    uint32_t about[64]; /* statx: [0] what is known; 0 = the real one, 1 = refused */
    int calls, direct_calls, range_calls, reserve_calls;
} hook;

static int hook_openat(int folder_fd, const char *path, int flags, int mode) {
    if (hook.open_in && --hook.open_in == 0) {
        hook.open_in = hook.open_all;
        errno = hook.open_error;
        return -1;
    }
    return tnmi_shelf_openat(folder_fd, path, flags, mode);
}

static int hook_unlinkat(int folder_fd, const char *path, int flags) {
    int done = tnmi_shelf_unlinkat(folder_fd, path, flags); /* the name is not to stay */
    errno = hook.unlink;
    return hook.unlink ? -1 : done;
}

static int hook_ftruncate(int fd, int64_t size) {
    if (hook.cut_in == 0 || --hook.cut_in > 0) return tnmi_shelf_ftruncate(fd, size);
    errno = hook.cut;
    return -1;
}

static int64_t hook_lseek(int fd, int64_t at, int from) {
    errno = hook.seek;
    return hook.seek ? -1 : tnmi_shelf_lseek(fd, at, from);
}

static int hook_fstat(int fd, struct stat *about) {
    errno = hook.stat;
    return hook.stat ? -1 : fstat(fd, about);
}

static ssize_t hook_noise(int fd, void *at, size_t size) {
    return hook.short_noise ? hook.short_noise : read(fd, at, size);
}

static int hook_make(void) {
    if (hook.make_in == 0 || --hook.make_in > 0) return 1;
    hook.make_in = hook.make_all;
    return 0;
}

static int is_direct(int fd) {
#    if defined(__linux__)
    return (fcntl(fd, F_GETFL) & O_DIRECT) != 0;
#    else
    return fd < 0;
#    endif
}

/* 1 = the call ends here with `result` */
static int hooked(int fd, ssize_t *result) {
    if (way == THREADS) return 0; /* several at a time: they are not counted */
    hook.calls++;
    hook.direct_calls += is_direct(fd);
    *result = -1;
    if (hook.interrupt && (hook.was = !hook.was) != 0) {
        errno = EINTR;
        return 1;
    }
    if (hook.refuse_direct && is_direct(fd)) {
        errno = EINVAL;
        return 1;
    }
    if (hook.fail_in == 0 || --hook.fail_in > 0) return 0;
    errno = hook.error;
    if (hook.error == 0) *result = 0;
    return 1;
}

static ssize_t hook_pread(int fd, void *at, size_t size, int64_t offset) {
    ssize_t result;
    if (hooked(fd, &result)) return result;
    return tnmi_shelf_pread(fd, at, hook.most && hook.most < size ? hook.most : size, offset);
}

static ssize_t hook_pwrite(int fd, const void *at, size_t size, int64_t offset) {
    ssize_t result;
    if (hooked(fd, &result)) return result;
    return tnmi_shelf_pwrite(fd, at, hook.most && hook.most < size ? hook.most : size, offset);
}

TEST(interrupted_and_short_transfers_go_on) {
    memset(&hook, 0, sizeof hook);
    hook.interrupt = 1;
    play(0, 60);
    play(1, 60);
    for (hook.most = 512; hook.most < 40000; hook.most = hook.most * 3 + 1) {
        if (hook.most == 512) hook.most = 1001;
        play(0, 30);
    }
    hook.most = 4096; /* direct ones may only be cut at pages, buffered ones anywhere */
    play(1, 60);
    hook.copies = EXDEV;
    play_between(0);
    play_between(1);
    memset(&hook, 0, sizeof hook);
    hook.fail_in = 3;
    hook.error = EAGAIN; /* a file system in user space may say so */
    play(0, 10);
    CHECK_EQ(hook.fail_in, 0);
    memset(&hook, 0, sizeof hook);
}

TEST(a_failed_transfer_is_told_and_the_next_works) {
    static const int errors[] = { EIO, ENOSPC, EBADF, EINVAL, 0 };
    static unsigned char block[20000], back[20000];
    tnm_backend backend;
    CHECK_EQ(open_at(in_folder("spill"), 0, &backend), TNM_OK);
    uint64_t mem = must_alloc(&backend, 40000, 1);
    fill(block, sizeof block, 5);
    tnm_span there = stored(&backend, mem, 0), copied = stored(&backend, mem, 20000);
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        for (int n = 1; n <= 4; n++) {
            memset(&hook, 0, sizeof hook);
            hook.most = 5000;
            hook.copies = ENOSYS;
            hook.error = errors[i];
            hook.fail_in = n;
            CHECK_EQ(copy(&backend, there, plain(block), 20000), TNM_ERR_BACKEND);
            CHECK_EQ(copy(&backend, there, plain(block), 20000), TNM_OK);
            hook.fail_in = n;
            CHECK_EQ(copy(&backend, plain(back), there, 20000), TNM_ERR_BACKEND);
            hook.fail_in = n + 4; /* the reads come before the writes of one bounce */
            CHECK_EQ(copy(&backend, copied, there, 20000), TNM_ERR_BACKEND);
            CHECK_EQ(copy(&backend, copied, there, 20000), TNM_OK);
            memset(back, 0, sizeof back);
            CHECK_EQ(copy(&backend, plain(back), copied, 20000), TNM_OK);
            CHECK(memcmp(block, back, sizeof back) == 0);
        }
    memset(&hook, 0, sizeof hook);
    tnmi_shelf_file_close(&backend);
}

static int count_in(const char *path) { /* entries of a folder, or of our table of descriptors */
#    if defined(__linux__)
    int count = 0;
    DIR *dir = opendir(path);
    if (!dir) return -1;
    while (readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count;
#    else
    (void)path;
    return 0;
#    endif
}

TEST(a_refused_file_is_told_and_leaves_nothing) {
    int before = count_in("/proc/self/fd"), entries = count_in(folder);
    tnm_backend disk;
    uint64_t mem, size;
    memset(&hook, 0, sizeof hook);
    hook.open_error = EINTR; /* that is nothing */
    hook.open_in = 1;
    CHECK_EQ(open_at(in_folder("spill"), 0, &disk), TNM_OK);
    tnmi_shelf_file_close(&disk);
    hook.unlink = EACCES; /* a file that would keep its name */
    CHECK_EQ(open_at(in_folder("spill"), 0, &disk), TNM_ERR_BACKEND);
    memset(&hook, 0, sizeof hook);
    char slashed[600];
    snprintf(slashed, sizeof slashed, "%s/", folder); /* a folder, in the system's other words */
    CHECK_EQ(open_at(slashed, 0, &disk), TNM_OK);
    tnmi_shelf_file_close(&disk);
    make_file(in_folder("model"), 100, 0);
    CHECK_EQ(open_at(NULL, 0, &disk), TNM_OK);
    hook.stat = EIO;
    CHECK_EQ(tnmi_shelf_file_adopt(&disk, in_folder("model"), &mem, &size), TNM_ERR_BACKEND);
    hook.stat = EOVERFLOW; /* large, and so a file */
    CHECK_EQ(tnmi_shelf_file_adopt(&disk, in_folder("model"), &mem, &size), TNM_OK);
    CHECK_EQ(size, 100);
    hook.seek = ESPIPE;
    CHECK_EQ(tnmi_shelf_file_adopt(&disk, in_folder("model"), &mem, &size), TNM_ERR_BACKEND);
    tnmi_shelf_file_close(&disk);
    memset(&hook, 0, sizeof hook);
    remove(in_folder("model"));
    CHECK_EQ(count_in(folder), entries);
    CHECK_EQ(count_in("/proc/self/fd"), before);
}

#    if defined(__linux__)
/* Inside a folder, on a system without unnamed files: names by chance until one is free. */
TEST(a_folder_that_takes_no_file_is_refused) {
    int before = count_in("/proc/self/fd"), entries = count_in(folder);
    tnm_backend disk;
    for (int how = 0; how < 4; how++) {
        memset(&hook, 0, sizeof hook);
        hook_unnamed = 0;
        hook.open_error = how == 1 ? EACCES : EEXIST;
        hook.open_in = 5; /* as a new file, the folder, as an unnamed file, the noise, a name */
        if (how == 0) hook.open_in = 4; /* no noise to be had */
        if (how == 1) hook.open_all = 1;
        if (how == 2) hook.unlink = EACCES;
        if (how == 3) hook.short_noise = 7;
        CHECK_EQ(open_at(folder, 0, &disk), TNM_ERR_BACKEND);
    }
    memset(&hook, 0, sizeof hook);
    hook.open_error = EEXIST;
    hook.open_in = 5; /* one such name is there already */
    CHECK_EQ(open_at(folder, 0, &disk), TNM_OK);
    tnmi_shelf_file_close(&disk);
    memset(&hook, 0, sizeof hook);
    hook_unnamed = O_TMPFILE;
    CHECK_EQ(count_in(folder), entries);
    CHECK_EQ(count_in("/proc/self/fd"), before);
}

static long hook_statx(int fd, uint32_t *about) {
#        ifdef SYS_statx
    if (hook.about[0] == 0) return tnmi_shelf_syscall(SYS_statx, fd, "", 0x1000, 0x2000, about);
#        endif
    (void)fd;
    memcpy(about, hook.about, sizeof hook.about);
    return hook.about[0] > 1 ? 0 : -1;
}

TEST(direct_is_aligned_as_the_system_says) {
    static const uint32_t says_so[][4] = {
        /* known, memory, offsets; direct? */
        { 1, 0, 0, 1 },           { 0x1000, 0, 0, 1 },     { 0x2000, 0, 512, 0 },
        { 0x2000, 512, 0, 0 },    { 0x2000, 48, 512, 0 },  { 0x2000, 512, 8192, 0 },
        { 0x2000, 512, 4096, 1 }, { 0x3000, 4096, 512, 1 }
    };
    for (size_t i = 0; i < sizeof says_so / sizeof *says_so; i++) {
        tnm_backend disk;
        memset(&hook, 0, sizeof hook);
        CHECK_EQ(open_at(in_folder("spill"), 1, &disk), TNM_OK);
        int can = state_of(&disk)->spill.direct;
        tnmi_shelf_file_close(&disk);
        hook.about[0] = says_so[i][0];
        hook.about[38] = says_so[i][1];
        hook.about[39] = says_so[i][2];
        CHECK_EQ(open_at(in_folder("spill"), 1, &disk), TNM_OK);
        CHECK_EQ(state_of(&disk)->spill.direct, can && says_so[i][3]);
        if (i >= 6) CHECK_EQ(state_of(&disk)->spill.align, says_so[i][1]);
        tnmi_shelf_file_close(&disk);
    }
    memset(&hook, 0, sizeof hook);
    play(1, 30);
}
#    endif

/* The n-th mutex, condition or thread cannot be made: fewer threads, or none, and none is lost. */
TEST(a_crew_is_as_large_as_it_can_be) {
    tnm_backend disk;
    for (int n = 1; n < 8; n++)
        for (int all = 0; all < 2; all++) {
            memset(&hook, 0, sizeof hook);
            way = THREADS;
            hook.make_in = n;
            hook.make_all = all;
            CHECK_EQ(open_at(in_folder("spill"), 0, &disk), TNM_OK);
            const char *how = tnmi_shelf_file_how(&disk);
            CHECK_EQ(says(how, "synchronous"), n <= 3 || n == 4); /* the first thread is needed */
            CHECK_EQ(says(how, "1 thread,"), n == 5);
            CHECK_EQ(says(how, "2 threads,"), n > 5);
            tnmi_shelf_file_close(&disk);
        }
    memset(&hook, 0, sizeof hook);
    way = QUEUE;
}

/* The same through the front door: a context makes four locks and a thread, or none is left. */
TEST(a_context_has_its_locks_or_is_none) {
    for (int n = 1; n <= 6; n++) {
        tnm_tier_desc tier;
        tnm_desc desc;
        tnm_ctx *ctx;
        memset(&tier, 0, sizeof tier);
        memset(&desc, 0, sizeof desc);
        tier.budget_bytes = 1 << 16;
        desc.tiers = &tier;
        desc.tier_count = 1;
        desc.pump_thread = 1;
        desc.alloc = check_alloc;
        desc.release = check_release;
        memset(&hook, 0, sizeof hook);
        hook.make_in = n;
        tnm_result r = tnm_create(&desc, &ctx);
        hook.make_in = 0;
        CHECK_EQ(r == TNM_OK, n == 6);
        CHECK_EQ(r < 0, ctx == NULL);
        if (r == TNM_OK) CHECK_EQ(tnm_destroy(ctx), TNM_OK);
    }
}

TEST(links_and_pipes_at_the_path_are_refused) {
    tnm_backend backend;
    struct stat about;
    uint64_t mem, size;
    CHECK_EQ(symlink(in_folder("victim"), in_folder("link")), 0); /* dangling */
    CHECK_EQ(open_at(in_folder("link"), 0, &backend), TNM_ERR_BACKEND);
    CHECK(lstat(in_folder("victim"), &about) != 0);
    make_file(in_folder("victim"), 10, 0);
    CHECK_EQ(open_at(in_folder("link"), 0, &backend), TNM_ERR_BACKEND);
    CHECK(stat(in_folder("victim"), &about) == 0 && about.st_size == 10);
    CHECK_EQ(open_at(NULL, 0, &backend), TNM_OK); /* a model may well be a link */
    CHECK_EQ(tnmi_shelf_file_adopt(&backend, in_folder("link"), &mem, &size), TNM_OK);
    CHECK_EQ(size, 10);
    CHECK_EQ(mkfifo(in_folder("pipe"), 0600), 0); /* and opening a pipe would wait for ever */
    CHECK_EQ(tnmi_shelf_file_adopt(&backend, in_folder("pipe"), &mem, &size), TNM_ERR_BACKEND);
    CHECK_EQ(tnmi_shelf_file_adopt(&backend, "/dev/zero", &mem, &size), TNM_ERR_BACKEND);
    tnmi_shelf_file_close(&backend);
    CHECK_EQ(open_at(in_folder("pipe"), 0, &backend), TNM_ERR_BACKEND);
    remove(in_folder("link"));
    CHECK_EQ(symlink(folder, in_folder("link")), 0); /* to a folder */
    CHECK_EQ(open_at(in_folder("link"), 0, &backend), TNM_ERR_BACKEND);
    remove(in_folder("link"));
    remove(in_folder("pipe"));
    remove(in_folder("victim"));
}

static void check_private(const tnm_backend *backend) {
    struct stat about;
    int fd = state_of(backend)->spill.fd;
    CHECK_EQ(fstat(fd, &about), 0);
    CHECK(S_ISREG(about.st_mode));
    CHECK_EQ(about.st_mode & 07777, 0600);
    CHECK_EQ(about.st_nlink, 0); /* nobody can open it any more */
    CHECK_EQ(about.st_uid, geteuid());
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

TEST(a_spill_file_is_private_and_has_no_name) {
    mode_t mask = umask(0);
    int entries = count_in(folder);
    for (int direct = 0; direct < 2; direct++) {
        tnm_backend backend;
        CHECK_EQ(open_at(in_folder("spill"), direct, &backend), TNM_OK);
        check_private(&backend);
        CHECK(access(in_folder("spill"), F_OK) != 0);
        tnmi_shelf_file_close(&backend);
        CHECK_EQ(open_at(folder, direct, &backend), TNM_OK);
        check_private(&backend);
        tnmi_shelf_file_close(&backend);
#    if defined(__linux__)
        hook_unnamed = 0; /* as on a system without unnamed files */
        CHECK_EQ(open_at(folder, direct, &backend), TNM_OK);
        check_private(&backend);
        tnmi_shelf_file_close(&backend);
        hook_unnamed = O_TMPFILE;
#    endif
        CHECK_EQ(count_in(folder), entries);
    }
    umask(mask);
}

TEST(names_inside_a_folder_differ) {
    char one[48], two[48];
    uint64_t a[2] = { 0, 0 }, b[2] = { 0, 0 };
    CHECK(tnmi_shelf_os_noise(a) && tnmi_shelf_os_noise(b));
    tnmi_shelf_name(one, a[0], a[1]);
    tnmi_shelf_name(two, b[0], b[1]);
    CHECK_EQ(strlen(one), 42);
    CHECK(strcmp(one, two) != 0);
    tnmi_shelf_name(one, 0x0123456789abcdef, 0xfedcba9876543210);
    CHECK(strcmp(one, "tensormem-0123456789abcdeffedcba9876543210") == 0);
}

TEST(paths_are_taken_as_they_are) {
    static const char *const names[] = { "\xff\xfe\x01", "%s%n", "a b\nc", "-rf", "\xc3\xa9" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        tnm_backend backend;
        uint64_t mem, size;
        make_file(in_folder(names[i]), 5, 0);
        CHECK_EQ(open_at(in_folder(names[i]), 0, &backend), TNM_ERR_BACKEND);
        CHECK_EQ(open_at(NULL, 0, &backend), TNM_OK);
        CHECK_EQ(tnmi_shelf_file_adopt(&backend, in_folder(names[i]), &mem, &size), TNM_OK);
        CHECK_EQ(size, 5);
        tnmi_shelf_file_close(&backend);
        remove(in_folder(names[i]));
        CHECK_EQ(open_at(in_folder(names[i]), 0, &backend), TNM_OK);
        tnmi_shelf_file_close(&backend);
    }
}

#    if defined(__linux__)
/* ---- Linux: the disk itself ---- */
static int hook_fallocate(int fd, int how, int64_t at, int64_t size) {
    hook.reserve_calls++;
    if (how == 0 && hook.reserve_most && size > hook.reserve_most) {
        errno = EINTR;
        return -1;
    }
    if (how == 0 && hook.reserve_left && --hook.reserve_left == 0) {
        hook.reserve_left = 1;
        errno = ENOSPC;
        return -1;
    }
    if (hook.reserve == 0) return tnmi_shelf_fallocate(fd, how, at, size);
    errno = hook.reserve;
    return -1;
}

#        ifdef TNMI_SHELF_COPY_RANGE
static ssize_t hook_copy_range(int src, int64_t *from, int dst, int64_t *to, size_t size,
                               unsigned flags) {
    if (way == THREADS) return tnmi_shelf_copy_range(src, from, dst, to, size, flags);
    hook.range_calls++;
    if (hook.interrupt && (hook.was = !hook.was) != 0) {
        errno = EINTR;
        return -1;
    }
    if (hook.copies < 0) return 0;
    if (hook.copies != 0) {
        errno = hook.copies;
        return -1;
    }
    return tnmi_shelf_copy_range(src, from, dst, to,
                                 hook.most && hook.most < size ? hook.most : size, flags);
}
#        endif

static int hook_switch(int fd, int flags) {
    if (!hook.no_switch) return fcntl(fd, F_SETFL, flags);
    errno = EINVAL;
    return -1;
}

#        ifdef TNMI_SHELF_HAS_RING
/* ---- Linux: a kernel of our own behind the ring ----
 * It carries a transfer out when it answers, in any order, so that a buffer that was given away too
 * early, or two that meet, are seen. */
enum { FAKE_ENTRIES = 64 };

static struct fake {
    int on;                    /* else the real one is asked */
    int no_setup, no_map, old; /* errno of setup; the n-th mmap fails; features it lacks */
    int few;                   /* 1, 2: fewer entries, fewer answers than were asked for */
    int deaf;                  /* so many calls to enter take nothing */
    int refuse_in, refuse;     /* the n-th call to enter fails with this errno, */
    int refuse_all;            /* and all after it */
    int fail_in, fail;         /* the n-th answer is this errno */
    int fail_all;
    uint32_t take; /* entries taken by one call; 0 = all */
    size_t most;   /* bytes moved by one transfer; 0 = all */
    int stall;     /* answers only when waited for */
    int misfit_in; /* from the n-th answer on nothing direct is taken any more */
    int fired, enters, answers, joined, maps;
    /* what the kernel has */
    tnmi_shelf_entry entry[FAKE_ENTRIES], held[FAKE_ENTRIES];
    uint32_t queue[16 + FAKE_ENTRIES + FAKE_ENTRIES * 8]; /* aligned as the entries are */
    tnmi_shelf_vec vec[FAKE_ENTRIES][TNMI_SHELF_VECS];
    int way[FAKE_ENTRIES]; /* held: went direct */
    uint32_t count, size;  /* held; entries of the queue */
    int fd;
} fake;

static long fake_setup(uint32_t count, uint32_t *about) {
    uint32_t size = 1;
    if (fake.no_setup) {
        errno = fake.no_setup;
        return -1;
    }
    if (!fake.on) return tnmi_shelf_syscall(SYS_io_uring_setup, count, about);
    while (size < count)
        size *= 2;
    CHECK(size <= FAKE_ENTRIES);
    fake.size = about[0] = size;
    about[1] = 2 * size;
    if (fake.few == 1) about[0] = count - 1;
    if (fake.few == 2) about[1] = count - 1;
    about[5] = 7 & ~(uint32_t)fake.old;
    about[10] = 0; /* offsets of: sq head, tail */
    about[11] = 4;
    about[16] = 64; /* sq array */
    about[20] = 8;  /* cq head, tail */
    about[21] = 12;
    about[25] = 64 + 4 * FAKE_ENTRIES; /* answers */
    memset(fake.queue, 0, sizeof fake.queue);
    fake.count = 0;
    fake.fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    return fake.fd;
}

static void *fake_mmap(void *at, size_t size, int allow, int how, int fd, int64_t what) {
    if (fake.no_map && --fake.no_map == 0) {
        fake.fired++;
        errno = ENOMEM;
        return MAP_FAILED;
    }
    fake.maps++;
    if (!fake.on) return tnmi_shelf_mmap(at, size, allow, how, fd, what);
    CHECK(what ? size <= sizeof fake.entry : size <= sizeof fake.queue);
    return what ? (void *)fake.entry : (void *)fake.queue;
}

static int fake_munmap(void *at, size_t size) {
    fake.maps--;
    if (!fake.on) return munmap(at, size);
    CHECK_EQ(fake.count, 0); /* nobody pulls the memory from under a transfer */
    return 0;
}

static uint64_t held_bytes(uint32_t k) {
    uint64_t all = 0;
    for (uint32_t i = 0; i < fake.held[k].count; i++)
        all += fake.vec[k][i].size;
    return all;
}

static int64_t fake_transfer(uint32_t k) {
    const tnmi_shelf_entry *e = &fake.held[k];
    int64_t done = 0;
    uint64_t left = held_bytes(k);
    CHECK_EQ(is_direct(e->fd), fake.way[k]); /* as it was when it began */
    if (fake.misfit_in && fake.answers >= fake.misfit_in) hook.refuse_direct = 1;
    if (hook.refuse_direct && is_direct(e->fd)) return -EINVAL;
    if (fake.most && left > fake.most) left = fake.most, fake.fired++;
    for (uint32_t i = 0; i < e->count && left > 0; i++) {
        const tnmi_shelf_vec *v = &fake.vec[k][i];
        size_t size = (size_t)tnmi_base_min(v->size, left);
        int64_t at = (int64_t)e->offset + done;
        ssize_t now = e->code == 2 ? tnmi_shelf_pwrite(e->fd, v->at, size, at)
                                   : tnmi_shelf_pread(e->fd, v->at, size, at);
        if (now < 0) return done ? done : -errno;
        done += now;
        left -= (uint64_t)now;
        if ((size_t)now < size) break;
    }
    return done;
}

/* One of those that are held, whichever. */
static void fake_answer(void) {
    uint32_t k = draw(fake.count), *head = &fake.queue[2], *tail = &fake.queue[3];
    tnmi_shelf_answer *answers = (tnmi_shelf_answer *)(void *)&fake.queue[16 + FAKE_ENTRIES];
    tnmi_shelf_answer *out = &answers[*tail % (2 * fake.size)];
    CHECK(*tail - *head < 2 * fake.size); /* an answer would be lost */
    out->user = fake.held[k].user;
    fake.answers++;
    if (fake.fail_in && --fake.fail_in <= 0) {
        fake.fail_in = fake.fail_all;
        fake.fired++;
        if (fake.held[k].code == 1) memset(fake.vec[k][0].at, 0xdd, fake.vec[k][0].size);
        out->result = -fake.fail;
    } else
        out->result = (int32_t)fake_transfer(k);
    tnmi_base_store32(tail, *tail + 1);
    fake.count--;
    fake.held[k] = fake.held[fake.count];
    fake.way[k] = fake.way[fake.count];
    memcpy(fake.vec[k], fake.vec[fake.count], sizeof fake.vec[k]);
}

static void fake_take(void) {
    uint32_t *head = &fake.queue[0];
    const tnmi_shelf_entry *e = &fake.entry[fake.queue[16 + *head % fake.size]];
    uint32_t k = fake.count++;
    CHECK(k < FAKE_ENTRIES && e->count >= 1 && e->count <= TNMI_SHELF_VECS);
    fake.held[k] = *e;
    fake.way[k] = is_direct(e->fd);
    memcpy(fake.vec[k], (const void *)(uintptr_t)e->at, e->count * sizeof(tnmi_shelf_vec));
    fake.joined += e->count > 1;
    for (uint32_t i = 0; i < k; i++) {
        int reads = (fake.held[i].code == 1) + (e->code == 1);
        if (fake.held[i].fd != e->fd || reads == 2) continue;
        if (reads == 1 && is_direct(e->fd))
            continue; /* whole pages: the other's part is as it was */
        CHECK(!touches(fake.held[i].offset, e->offset, held_bytes(i), held_bytes(k)));
    }
    tnmi_base_store32(head, *head + 1);
}

static long fake_enter(int fd, uint32_t submit, uint32_t answers, uint32_t flags) {
    fake.enters++;
    if (fake.refuse_in && --fake.refuse_in <= 0) {
        fake.refuse_in = fake.refuse_all;
        fake.fired++;
        errno = fake.refuse;
        if (fake.on && fake.count) fake_answer(); /* what it has goes on */
        return -1;
    }
    if (!fake.on)
        return tnmi_shelf_syscall(SYS_io_uring_enter, fd, submit, answers, flags, NULL, 0);
    uint32_t taken = fake.take && fake.take < submit ? fake.take : submit;
    CHECK_EQ(fake.queue[1] - fake.queue[0], submit);
    if (submit && fake.deaf && fake.deaf--) return 0;
    for (uint32_t i = 0; i < taken; i++)
        fake_take();
    CHECK(!answers || fake.count > 0); /* it would sleep for ever */
    if (answers && fake.count) fake_answer();
    while (!fake.stall && fake.count && draw(2))
        fake_answer();
    return (long)taken;
}

TEST(a_ring_that_is_refused_at_the_start) {
    static const int errors[] = { ENOSYS, EPERM, ENOMEM, EMFILE };
    int before = count_in("/proc/self/fd");
    tnm_backend disk;
    for (int i = 0; i < 4 + 2 + 3 + 2; i++) {
        memset(&fake, 0, sizeof fake);
        fake.on = 1;
        if (i < 4) fake.no_setup = errors[i];
        if (i >= 4 && i < 6) fake.no_map = i - 3;
        if (i >= 6 && i < 9) fake.old = 1 << (i - 6);
        if (i >= 9) fake.few = i - 8;
        CHECK_EQ(open_at(in_folder("spill"), 0, &disk), TNM_OK);
        CHECK(strcmp(tnmi_shelf_file_how(&disk), "synchronous, buffered") == 0);
        CHECK(!disk.poll && !disk.wait && !disk.submit);
        tnmi_shelf_file_close(&disk);
        if (i < 6) CHECK_EQ(play_storm(i & 1, 50), 0);
        CHECK_EQ(fake.maps, 0);
        CHECK_EQ(count_in("/proc/self/fd"), before);
    }
    memset(&fake, 0, sizeof fake);
}

TEST(answers_in_any_order) {
    int joined = 0;
    for (int direct = 0; direct < 2; direct++)
        for (int how = 0; how < 8; how++) {
            memset(&fake, 0, sizeof fake);
            fake.on = 1;
            fake.stall = how & 1;
            fake.take = how & 2 ? 1 : 0;
            fake.most = how & 4 ? 8192 : 0; /* direct ones may only be cut at pages */
            CHECK_EQ(play_storm(direct, check_scale(150, 60)), 0);
            CHECK(fake.answers > 20);
            CHECK_EQ(fake.fired > 0, (how & 4) != 0);
            CHECK_EQ(fake.maps, 0);
            joined += fake.joined;
        }
    CHECK(joined > 0);
    memset(&fake, 0, sizeof fake);
}

/* The n-th call, and all from there on: everything still arrives, and nothing is told to fail. */
TEST(a_ring_that_is_refused_in_mid_flight) {
    static const int errors[] = { EINTR, EAGAIN, EBUSY, EPERM, EBADF };
    for (int e = 0; e < 5; e++)
        for (int n = 1; n < check_scale(24, 9); n++)
            for (int real = 0; real < 2; real++) {
                memset(&fake, 0, sizeof fake);
                fake.on = !real;
                fake.refuse = errors[e];
                fake.refuse_in = n;
                fake.refuse_all = errors[e] != EINTR && n % 2;
                fake.stall = n % 3 == 0;
                CHECK_EQ(play_storm(n & 1, 60), 0);
                CHECK_EQ(fake.maps, 0);
            }
    memset(&fake, 0, sizeof fake);
}

/* What may be the queue's fault is done without it; what is the disk's is told. */
TEST(answers_that_are_errors) {
    static const int errors[] = { EINTR,  EAGAIN, ECANCELED, EINVAL, EOPNOTSUPP,
                                  ENOMEM, EIO,    ENOSPC,    EDQUOT,  EFBIG };
    for (int e = 0; e < 10; e++)
        for (int n = 1; n < check_scale(24, 9); n++) {
            memset(&fake, 0, sizeof fake);
            fake.on = 1;
            fake.fail = errors[e];
            fake.fail_in = n;
            fake.fail_all = n % 4 == 3;
            int failures = play_storm(n & 1, 60);
            CHECK(fake.fired > 0);
            CHECK(e < 6 ? failures == 0 : failures <= fake.fired);
            if (e >= 6 && fake.fail_all && fake.joined == 0) CHECK(failures > 0);
        }
    memset(&fake, 0, sizeof fake);
}

/* A thread that ends takes along what it has handed in, but not the queue. */
TEST(what_a_thread_leaves_behind_is_done) {
    static const int errors[] = { EINTR, ECANCELED, EFAULT, EOPNOTSUPP };
    for (int e = 0; e < 4; e++) {
        static storm s;
        memset(&fake, 0, sizeof fake);
        fake.on = 1;
        fake.fail = errors[e];
        fake.fail_in = fake.fail_all = 1;
        storm_open(&s, 0);
        storm_blow(&s, 60);
        CHECK(fake.fired >= TNMI_SHELF_STRIKES);
        CHECK_EQ(s.failures, 0);
        CHECK_EQ(says(tnmi_shelf_file_how(&s.disk), "ended"), e == 3);
        storm_close(&s);
    }
    memset(&fake, 0, sizeof fake);
}

TEST(direct_that_is_refused_in_mid_flight) {
    for (int n = 1; n < check_scale(60, 20); n += 1 + n / 8)
        for (int stall = 0; stall < 2; stall++) {
            static storm s;
            memset(&fake, 0, sizeof fake);
            fake.on = 1;
            fake.stall = stall;
            fake.misfit_in = n;
            storm_open(&s, 1);
            int direct = state_of(&s.disk)->spill.direct;
            storm_blow(&s, 100);
            CHECK_EQ(s.failures, 0);
            CHECK_EQ(state_of(&s.disk)->spill.direct, 0);
            CHECK(says(tnmi_shelf_file_how(&s.disk), "io_uring, buffered"));
            storm_close(&s);
            memset(&hook, 0, sizeof hook);
            if (!direct) break; /* there was nothing to refuse */
        }
    memset(&fake, 0, sizeof fake);
}

/* In the midst of a copy between files that no longer goes direct: the rest is the system's. */
TEST(a_copy_between_files_goes_on_buffered) {
    enum { SIZE = 150000 };
    static unsigned char block[SIZE], back[SIZE];
    fill(block, SIZE, 6);
    for (int n = 1; n < 14; n++) {
        tnm_backend disk;
        memset(&fake, 0, sizeof fake);
        fake.on = 1;
        CHECK_EQ(open_at(in_folder("spill"), 1, &disk), TNM_OK);
        uint64_t mem = must_alloc(&disk, SIZE, 1), other = must_alloc(&disk, SIZE, 1);
        CHECK_EQ(copy(&disk, stored(&disk, mem, 0), plain(block), SIZE), TNM_OK);
        fake.misfit_in = fake.answers + n;
        CHECK_EQ(copy(&disk, stored(&disk, other, 0), stored(&disk, mem, 0), SIZE), TNM_OK);
        CHECK_EQ(copy(&disk, plain(back), stored(&disk, other, 0), SIZE), TNM_OK);
        CHECK(memcmp(back, block, SIZE) == 0);
        tnmi_shelf_file_close(&disk);
        memset(&hook, 0, sizeof hook);
    }
    memset(&fake, 0, sizeof fake);
}

TEST(a_ring_that_ends_is_told) {
    static unsigned char block[5000];
    tnm_backend disk;
    memset(&fake, 0, sizeof fake);
    fake.on = 1;
    CHECK_EQ(open_at(in_folder("spill"), 0, &disk), TNM_OK);
    uint64_t mem = must_alloc(&disk, 5000, 1);
    CHECK(strcmp(tnmi_shelf_file_how(&disk), "io_uring, buffered") == 0);
    CHECK_EQ(copy(&disk, stored(&disk, mem, 0), plain(block), 5000), TNM_OK);
    fake.refuse_in = 1;
    fake.refuse = EPERM;
    CHECK_EQ(copy(&disk, stored(&disk, mem, 0), plain(block), 5000), TNM_OK);
    CHECK(strcmp(tnmi_shelf_file_how(&disk), "synchronous (io_uring ended), buffered") == 0);
    int enters = fake.enters;
    CHECK_EQ(copy(&disk, stored(&disk, mem, 0), plain(block), 5000), TNM_OK);
    CHECK_EQ(fake.enters, enters); /* it is left alone */
    tnmi_shelf_file_close(&disk);
    memset(&fake, 0, sizeof fake);
    fake.on = 1;
    fake.refuse_in = fake.refuse_all = 1;
    fake.refuse = EPERM;
    CHECK_EQ(open_at(in_folder("spill"), 1, &disk), TNM_OK);
    mem = must_alloc(&disk, 5000, 1);
    CHECK_EQ(copy(&disk, stored(&disk, mem, 0), plain(block), 5000), TNM_OK);
    hook.refuse_direct = 1; /* then that it does not fit is seen at once */
    CHECK_EQ(copy(&disk, stored(&disk, mem, 0), plain(block), 5000), TNM_OK);
    tnmi_shelf_file_close(&disk);
    memset(&hook, 0, sizeof hook);
    memset(&fake, 0, sizeof fake);
}

/* Neighbours go to the disk as one, but not all of them: several transfers keep it busy. */
TEST(sequential_copies_are_joined) {
    enum { SIZE = 8192, COUNT = 10 };
    static unsigned char raw[COUNT * SIZE + 4096], back[COUNT * SIZE];
    unsigned char *paged = raw + (4096 - (uintptr_t)raw % 4096);
    static const int order[COUNT] = { 3, 4, 5, 0, 1, 2, 9, 8, 7, 6 };
    for (int direct = 0; direct < 2; direct++) {
        tnm_backend disk;
        uint64_t ticket[COUNT];
        memset(&fake, 0, sizeof fake);
        fake.on = 1;
        CHECK_EQ(open_at(in_folder("spill"), direct, &disk), TNM_OK);
        uint64_t mem = must_alloc(&disk, sizeof back, 1);
        fill(paged, sizeof back, 4);
        for (int i = 0; i < COUNT; i++) { /* the memory is in another order than the file */
            tnm_span from = plain(paged + order[i] * SIZE);
            tnm_span to = stored(&disk, mem, (uint64_t)(COUNT - 1 - i) * SIZE);
            CHECK_EQ(disk.copy(disk.user, &to, &from, SIZE, &ticket[i]), TNM_PENDING);
        }
        disk.submit(disk.user);
        CHECK_EQ(fake.enters, 1);
        for (int i = 0; i < COUNT; i++)
            CHECK_EQ(disk.wait(disk.user, ticket[i]), TNM_OK);
        CHECK(fake.answers >= 4 && fake.answers <= COUNT / 2);
        CHECK_EQ(copy(&disk, plain(back), stored(&disk, mem, 0), sizeof back), TNM_OK);
        for (int i = 0; i < COUNT; i++)
            CHECK(memcmp(back + (COUNT - 1 - i) * SIZE, paged + order[i] * SIZE, SIZE) == 0);
        tnmi_shelf_file_close(&disk);
    }
    memset(&fake, 0, sizeof fake);
}

/* Reads of neighbours in two files, in an order that joins what can be joined. */
static void read_neighbours(tnm_backend *disk, const uint64_t *mem, uint64_t size, int count,
                            unsigned char *to, uint64_t *ticket) {
    for (int i = 0; i < count; i++) {
        tnm_span from = stored(disk, mem[i], (uint64_t)i * size);
        tnm_span into = plain(to + (uint64_t)i * size);
        CHECK_EQ(disk->copy(disk->user, &into, &from, size, &ticket[i]), TNM_PENDING);
    }
}

TEST(what_joins_is_of_one_file_and_of_so_many_pieces) {
    enum { SIZE = 1000, COUNT = 64 };
    static unsigned char want[COUNT * SIZE], back[COUNT * SIZE];
    uint64_t mem[COUNT], ticket[COUNT], size;
    tnm_backend disk;
    make_file(in_folder("model"), sizeof want, 0);
    make_file(in_folder("other"), sizeof want, 0);
    fill(want, sizeof want, 0);
    deep = COUNT;
    for (int files = 1; files <= 2; files++) {
        memset(&fake, 0, sizeof fake);
        fake.on = 1;
        fake.deaf = files - 1; /* once it takes nothing: then it is done without it */
        CHECK_EQ(open_at(NULL, 0, &disk), TNM_OK);
        CHECK_EQ(tnmi_shelf_file_adopt(&disk, in_folder("model"), &mem[0], &size), TNM_OK);
        CHECK_EQ(tnmi_shelf_file_adopt(&disk, in_folder("other"), &mem[1], &size), TNM_OK);
        for (int i = 2; i < COUNT; i++)
            mem[i] = mem[files == 2 ? i % 2 : 0];
        if (files == 1) mem[1] = mem[0];
        for (int again = 0; again < 2; again++) {
            int before = fake.answers;
            memset(back, 0, sizeof back);
            read_neighbours(&disk, mem, SIZE, COUNT, back, ticket);
            disk.submit(disk.user);
            for (int i = COUNT - 1; i >= 0; i--)
                CHECK_EQ(disk.wait(disk.user, ticket[i]), TNM_OK);
            CHECK(memcmp(back, want, sizeof want) == 0);
            if (files == 1) CHECK(fake.answers - before < COUNT / 4);
            if (files == 2) CHECK_EQ(fake.answers - before, again ? COUNT : 0);
        }
        tnmi_shelf_file_close(&disk);
    }
    memset(&fake, 0, sizeof fake);
    deep = 0;
    remove(in_folder("other"));
    remove(in_folder("model"));
}

/* The first of those that were joined is whole, the others got nothing: they go on. */
TEST(a_short_answer_to_several_is_shared_out) {
    enum { SIZE = 1000, COUNT = 40 };
    static unsigned char want[COUNT * SIZE], back[COUNT * SIZE];
    uint64_t mem[COUNT], ticket[COUNT], size;
    tnm_backend disk;
    make_file(in_folder("model"), sizeof want, 0);
    fill(want, sizeof want, 0);
    deep = COUNT;
    memset(&fake, 0, sizeof fake);
    fake.on = 1;
    CHECK_EQ(open_at(NULL, 0, &disk), TNM_OK);
    CHECK_EQ(tnmi_shelf_file_adopt(&disk, in_folder("model"), &mem[0], &size), TNM_OK);
    for (int i = 1; i < COUNT; i++)
        mem[i] = mem[0];
    for (fake.most = SIZE / 2; fake.most <= 3 * SIZE; fake.most += SIZE / 2) {
        memset(back, 0, sizeof back);
        fake.fail = EIO; /* of one of them, perhaps: each is tried by itself */
        fake.fail_in = fake.most > 2 * SIZE;
        read_neighbours(&disk, mem, SIZE, COUNT, back, ticket);
        disk.submit(disk.user);
        for (int i = 0; i < COUNT; i++)
            CHECK_EQ(disk.wait(disk.user, ticket[i]), TNM_OK);
        CHECK(memcmp(back, want, sizeof want) == 0);
    }
    tnmi_shelf_file_close(&disk);
    memset(&fake, 0, sizeof fake);
    deep = 0;
    remove(in_folder("model"));
}

/* Two writes that end in the same page wait for one another: each writes the page as it read it. */
TEST(writes_that_share_a_page_are_not_out_together) {
    static unsigned char one[8192], two[8192], back[8192];
    uint64_t ticket[2];
    tnm_backend disk;
    memset(&fake, 0, sizeof fake);
    fake.on = fake.stall = 1;
    CHECK_EQ(open_at(in_folder("spill"), 1, &disk), TNM_OK);
    int direct = state_of(&disk)->spill.direct;
    uint64_t mem = must_alloc(&disk, 8192, 1);
    memset(one, 1, sizeof one);
    memset(two, 2, sizeof two);
    CHECK_EQ(copy(&disk, stored(&disk, mem, 0), plain(back), 8192), TNM_OK);
    for (uint64_t second = 0; second < 2; second++) { /* ends below the other, or above it */
        tnm_span to = stored(&disk, mem, 0), from = plain(one);
        CHECK_EQ(disk.copy(disk.user, &to, &from, 6000, &ticket[0]), TNM_PENDING);
        from = plain(two);
        CHECK_EQ(disk.copy(disk.user, &to, &from, 5000 + 2000 * second, &ticket[1]), TNM_PENDING);
        disk.submit(disk.user);
        if (direct) CHECK_EQ(state_of(&disk)->out, 1);
        CHECK_EQ(disk.wait(disk.user, ticket[1]), TNM_OK);
        CHECK_EQ(disk.wait(disk.user, ticket[0]), TNM_OK);
        CHECK_EQ(copy(&disk, plain(back), stored(&disk, mem, 0), 8192), TNM_OK);
        if (direct) CHECK(memcmp(back, two, (size_t)(5000 + 2000 * second)) == 0);
        CHECK_EQ(back[5999], second ? 2 : 1);
    }
    tnmi_shelf_file_close(&disk);
    memset(&fake, 0, sizeof fake);
}

/* Another backend reads the file of one that is about to leave direct, and has a copy out. */
TEST(a_file_changes_its_way_when_nothing_is_out) {
    static unsigned char block[8192], back[8192];
    uint64_t ticket = 0, later = 0;
    tnm_backend disk, at_once, other;
    memset(&fake, 0, sizeof fake);
    fake.on = fake.stall = 1;
    CHECK_EQ(open_at(in_folder("spill"), 1, &disk), TNM_OK);
    way = SYNC;
    CHECK_EQ(open_at(NULL, 0, &at_once), TNM_OK);
    way = THREAD;
    CHECK_EQ(open_at(NULL, 0, &other), TNM_OK);
    way = QUEUE;
    uint64_t mem = must_alloc(&disk, 8192, 1);
    fill(block, sizeof block, 3);
    CHECK_EQ(copy(&disk, stored(&disk, mem, 0), plain(block), 8192), TNM_OK);
    if (state_of(&disk)->spill.direct) {
        tnm_span from = stored(&disk, mem, 0), to = plain(back);
        CHECK_EQ(disk.copy(disk.user, &to, &from, 8192, &ticket), TNM_PENDING);
        disk.submit(disk.user);
        state_of(&disk)->spill.direct = 0; /* as a transfer that was refused leaves it */
        CHECK_EQ(copy(&at_once, plain(back), from, 100), TNM_ERR_BUSY);
        CHECK_EQ(other.copy(other.user, &to, &from, 100, &later), TNM_PENDING);
        CHECK_EQ(other.wait(other.user, later), TNM_PENDING); /* for what only `disk` can end */
        CHECK_EQ(disk.wait(disk.user, ticket), TNM_OK);
        CHECK_EQ(other.wait(other.user, later), TNM_OK);
        CHECK(memcmp(back, block, sizeof back) == 0);
        CHECK_EQ(copy(&at_once, plain(back), from, 100), TNM_OK);
    }
    tnmi_shelf_file_close(&other);
    tnmi_shelf_file_close(&at_once);
    tnmi_shelf_file_close(&disk);
    memset(&fake, 0, sizeof fake);
}

/* Closed with a copy out that the queue fails: it is not begun anew, whoever asked has gone. */
TEST(what_fails_while_closing_is_not_begun_anew) {
    static unsigned char block[8192];
    uint64_t ticket;
    tnm_backend disk;
    memset(&fake, 0, sizeof fake);
    memset(&hook, 0, sizeof hook);
    fake.on = fake.stall = 1;
    CHECK_EQ(open_at(in_folder("spill"), 0, &disk), TNM_OK);
    uint64_t mem = must_alloc(&disk, 8192, 1);
    tnm_span to = stored(&disk, mem, 0), from = plain(block);
    CHECK_EQ(disk.copy(disk.user, &to, &from, 8192, &ticket), TNM_PENDING);
    disk.submit(disk.user);
    CHECK_EQ(fake.count, 1);
    fake.fail_in = 1;
    fake.fail = EAGAIN;
    tnmi_shelf_file_close(&disk);
    CHECK(fake.fired == 1 && hook.calls == 0);
    memset(&fake, 0, sizeof fake);
}

TEST(an_answer_that_is_there_is_not_slept_for) {
    static unsigned char block[8192];
    uint64_t ticket;
    tnm_backend disk;
    memset(&fake, 0, sizeof fake);
    fake.on = fake.stall = 1;
    CHECK_EQ(open_at(in_folder("spill"), 0, &disk), TNM_OK);
    uint64_t mem = must_alloc(&disk, 8192, 1);
    tnm_span to = stored(&disk, mem, 0), from = plain(block);
    CHECK_EQ(disk.copy(disk.user, &to, &from, 8192, &ticket), TNM_PENDING);
    disk.submit(disk.user);
    fake_answer(); /* between our look and our sleep */
    int enters = fake.enters;
    tnmi_shelf_sleep(state_of(&disk), tnmi_shelf_find(state_of(&disk), ticket));
    CHECK_EQ(fake.enters, enters);
    CHECK_EQ(disk.wait(disk.user, ticket), TNM_OK);
    tnmi_shelf_file_close(&disk);
    memset(&fake, 0, sizeof fake);
}

/* A read with odd ends is one transfer where memory and file lie alike in their pages. */
TEST(odd_reads_go_at_once) {
    enum { SIZE = 40000, PAGE = 4096 };
    static const uint64_t at[] = { 32, 32, 0, 4000, 4095, 8192 + 1, 32 };
    static const uint64_t bytes[] = { 5 * PAGE, SIZE - 32, 2 * PAGE + 7, 2 * PAGE, PAGE + 1,
                                      SIZE - 8193, PAGE - 32 };
    static unsigned char want[SIZE], raw[SIZE + 3 * PAGE];
    unsigned char *paged = raw + (PAGE - (uintptr_t)raw % PAGE);
    make_file(in_folder("model"), SIZE, 0);
    fill(want, SIZE, 0);
    static const uint64_t parts[] = { 0, 512, PAGE, 3 * PAGE, 4 * PAGE + 512 }; /* 0: whole */
    for (size_t part = 0; part < sizeof parts / sizeof *parts; part++) {
        tnm_backend disk;
        uint64_t mem, size;
        memset(&fake, 0, sizeof fake);
        fake.on = 1;
        fake.most = (size_t)parts[part];
        CHECK_EQ(open_at(NULL, 1, &disk), TNM_OK);
        CHECK_EQ(tnmi_shelf_file_adopt(&disk, in_folder("model"), &mem, &size), TNM_OK);
        int direct = state_of(&disk)->adopted[0].direct;
        for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
            unsigned char *to = paged + at[i] % PAGE;
            int before = fake.answers;
            memset(raw, 0xee, sizeof raw);
            CHECK_EQ(copy(&disk, plain(to), stored(&disk, mem, at[i]), bytes[i]), TNM_OK);
            CHECK(memcmp(to, want + at[i], (size_t)bytes[i]) == 0);
            CHECK_EQ(to[-1], 0xee);
            CHECK_EQ(to[bytes[i]], 0xee);
            if (part == 0 && direct && state_of(&disk)->adopted[0].direct)
                CHECK_EQ(fake.answers - before, 1);
        }
        tnmi_shelf_file_close(&disk);
    }
    memset(&fake, 0, sizeof fake);
    remove(in_folder("model"));
}

#        endif /* TNMI_SHELF_HAS_RING */

/* A child of fork has the table, but neither the threads nor what the kernel writes. */
TEST(a_child_neither_hangs_nor_takes_our_answers) {
#        if defined(__SANITIZE_THREAD__)
    SKIP("a_child_neither_hangs_nor_takes_our_answers", "no fork with threads under this checker");
#        else
    enum { SIZE = 300000, DEEP = 3 };
    static unsigned char block[SIZE], back[DEEP][SIZE];
    fill(block, SIZE, 8);
    deep = DEEP;
    for (way = QUEUE; way <= THREADS; way++) {
        tnm_backend disk;
        uint64_t ticket[DEEP] = { 0 };
        CHECK_EQ(open_at(in_folder("spill"), way & 1, &disk), TNM_OK);
        uint64_t mem = must_alloc(&disk, SIZE, 1);
        CHECK_EQ(copy(&disk, stored(&disk, mem, 0), plain(block), SIZE), TNM_OK);
        tnm_span from = stored(&disk, mem, 0);
        tnm_result result = TNM_PENDING;
        memset(back, 0, sizeof back);
        for (int i = 0; i < DEEP && result == TNM_PENDING; i++) { /* all there is room for */
            tnm_span to = plain(back[i]);
            result = disk.copy(disk.user, &to, &from, SIZE, &ticket[i]);
        }
        if (disk.submit) disk.submit(disk.user);
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            int bad = 0;
            if (disk.submit) disk.submit(disk.user);
            for (int i = 0; i < DEEP && ticket[i]; i++)
                bad |= disk.poll(disk.user, ticket[i]) == TNM_PENDING;
            memset(back, 0, sizeof back);
            bad |= copy(&disk, plain(back[0]), from, SIZE) != TNM_OK;
            bad |= memcmp(block, back[0], SIZE) != 0;
            tnmi_shelf_file_close(&disk);
            _exit(bad);
        }
        int status = -1;
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
        CHECK(result == TNM_PENDING || memcmp(block, back[0], SIZE) == 0);
        for (int i = 0; i < DEEP && ticket[i]; i++) {
            CHECK_EQ(disk.wait(disk.user, ticket[i]), TNM_OK);
            CHECK(memcmp(block, back[i], SIZE) == 0);
        }
        tnmi_shelf_file_close(&disk);
    }
    way = QUEUE;
    deep = 0;
#        endif
}

/* What the child gives back is still the parent's. */
TEST(a_child_never_changes_the_file) {
#        if defined(__SANITIZE_THREAD__)
    SKIP("a_child_never_changes_the_file", "no fork with threads under this checker");
#        else
    enum { SIZE = 50000 };
    static unsigned char block[SIZE], back[SIZE];
    fill(block, SIZE, 9);
    for (way = QUEUE; way <= THREADS; way++) {
        tnm_backend disk;
        CHECK_EQ(open_at(in_folder("spill"), way & 1, &disk), TNM_OK);
        uint64_t mem = must_alloc(&disk, SIZE, 1), last = must_alloc(&disk, SIZE, 1);
        tnm_span here = stored(&disk, mem, 0), there = stored(&disk, last, 0);
        CHECK_EQ(copy(&disk, here, plain(block), SIZE), TNM_OK);
        CHECK_EQ(copy(&disk, there, plain(block), SIZE), TNM_OK);
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            int bad = copy(&disk, here, plain(back), 100) != TNM_ERR_BACKEND;
            bad |= copy(&disk, here, there, 100) != TNM_ERR_BACKEND;
            bad |= try_alloc(&disk, 4096, 1) != TNM_ERR_BACKEND;
            disk.release(disk.user, mem, SIZE);  /* a hole */
            disk.release(disk.user, last, SIZE); /* a shorter file */
            tnmi_shelf_file_close(&disk);
            _exit(bad);
        }
        int status = -1;
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
        CHECK_EQ(copy(&disk, plain(back), here, SIZE), TNM_OK);
        CHECK(memcmp(block, back, SIZE) == 0);
        CHECK_EQ(copy(&disk, plain(back), there, SIZE), TNM_OK);
        CHECK(memcmp(block, back, SIZE) == 0);
        tnmi_shelf_file_close(&disk);
    }
    way = QUEUE;
#        endif
}

static uint64_t blocks_of(const tnm_backend *backend) {
    struct stat about;
    CHECK_EQ(fstat(state_of(backend)->spill.fd, &about), 0);
    return (uint64_t)about.st_blocks * 512;
}

TEST(no_descriptor_leaks) {
    int before = count_in("/proc/self/fd");
    make_file(in_folder("model"), 100, 0);
    for (int i = 0; i < 10; i++) {
        tnm_backend backend;
        uint64_t mem, size;
        hook_unnamed = i % 2 ? O_TMPFILE : 0;
        CHECK_EQ(open_at(i % 3 ? folder : in_folder("spill"), i & 1, &backend), TNM_OK);
        for (int k = 0; k < 20; k++)
            CHECK_EQ(tnmi_shelf_file_adopt(&backend, in_folder("model"), &mem, &size), TNM_OK);
        CHECK_EQ(tnmi_shelf_file_adopt(&backend, folder, &mem, &size), TNM_ERR_BACKEND);
        CHECK_EQ(count_in("/proc/self/fd"),
                 before + 21 + says(tnmi_shelf_file_how(&backend), "io_uring"));
        CHECK(fcntl(state_of(&backend)->spill.fd, F_GETFD) & FD_CLOEXEC); /* nor to a child */
        for (int k = 0; k < 20; k++)
            CHECK(fcntl(state_of(&backend)->adopted[k].fd, F_GETFD) & FD_CLOEXEC);
        tnmi_shelf_file_close(&backend);
        CHECK_EQ(open_at(in_folder("model"), 0, &backend), TNM_ERR_BACKEND);
        check_fail_alloc(1, 0);
        CHECK_EQ(open_at(in_folder("spill"), 0, &backend), TNM_ERR_MEMORY);
        CHECK_EQ(count_in("/proc/self/fd"), before);
    }
    hook_unnamed = O_TMPFILE;
    remove(in_folder("model"));
}

TEST(the_disk_is_reserved_and_given_back) {
    tnm_backend backend;
    memset(&hook, 0, sizeof hook);
    CHECK_EQ(open_at(in_folder("spill"), 0, &backend), TNM_OK);
    uint64_t a = must_alloc(&backend, 1 << 20, 1), b = must_alloc(&backend, 1 << 20, 1);
    uint64_t c = must_alloc(&backend, 1 << 20, 1);
    uint64_t full = blocks_of(&backend);
    CHECK(full >= 3 << 20);
    backend.release(backend.user, a, 1 << 20); /* a hole */
    CHECK(blocks_of(&backend) <= full - (1 << 20));
    backend.release(backend.user, c, 1 << 20); /* a shorter file */
    CHECK(blocks_of(&backend) <= full - (2 << 20));
    CHECK(must_alloc(&backend, 1 << 20, 1) == a);
    CHECK(blocks_of(&backend) >= 2 << 20); /* reserved again, not written */
    backend.release(backend.user, a, 1 << 20);
    backend.release(backend.user, b, 1 << 20);
    CHECK(blocks_of(&backend) < 1 << 20);
    tnmi_shelf_file_close(&backend);
}

TEST(a_refused_reservation_changes_nothing) {
    static const int errors[] = { ENOSPC, EFBIG, EDQUOT, EIO };
    tnm_backend backend;
    memset(&hook, 0, sizeof hook);
    CHECK_EQ(open_at(in_folder("spill"), 0, &backend), TNM_OK);
    uint64_t a = must_alloc(&backend, 65536, 1), b = must_alloc(&backend, 4096, 1);
    backend.release(backend.user, a, 65536);
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        struct stat about;
        hook.reserve = errors[i];
        CHECK_EQ(try_alloc(&backend, 4096, 1), TNM_ERR_BACKEND);  /* in the free range */
        CHECK_EQ(try_alloc(&backend, 99999, 1), TNM_ERR_BACKEND); /* at the end */
        check_ranges(&backend);
        CHECK_EQ(state_of(&backend)->spill.size, 65536 + 4096);
        CHECK_EQ(state_of(&backend)->free_count, 1);
        CHECK_EQ(fstat(state_of(&backend)->spill.fd, &about), 0);
        CHECK_EQ(about.st_size, 65536 + 4096);
    }
    hook.reserve = EOPNOTSUPP; /* cannot reserve: the file only gets longer */
    CHECK(must_alloc(&backend, 4096, 1) == a);
    hook.reserve = ENOSYS;
    hook.cut = EINTR;
    hook.cut_in = 1;
    must_alloc(&backend, 99999, 1);
    hook.cut = EFBIG;
    hook.cut_in = 1;
    CHECK_EQ(try_alloc(&backend, 1 << 20, 1), TNM_ERR_BACKEND);
    check_ranges(&backend);
    hook.reserve = 0;
    hook.reserve_most = 3 << 20; /* longer ones are interrupted for ever */
    uint64_t c = must_alloc(&backend, 20 << 20, 1);
    CHECK(blocks_of(&backend) >= 20 << 20);
    struct stat about;
    CHECK_EQ(fstat(state_of(&backend)->spill.fd, &about), 0);
    CHECK_EQ(about.st_size, state_of(&backend)->spill.size);
    backend.release(backend.user, c, 20 << 20);
    backend.release(backend.user, b, 4096);
    memset(&hook, 0, sizeof hook);
    tnmi_shelf_file_close(&backend);
}

/* The disk fills halfway through: what was got is given back, in a hole and at the end. */
TEST(half_a_reservation_is_given_back) {
    tnm_backend backend;
    memset(&hook, 0, sizeof hook);
    CHECK_EQ(open_at(in_folder("spill"), 0, &backend), TNM_OK);
    uint64_t a = must_alloc(&backend, 8 << 20, 1);
    must_alloc(&backend, 4096, 1);
    backend.release(backend.user, a, 8 << 20);
    uint64_t before = blocks_of(&backend);
    CHECK(before < 1 << 20);
    for (int size = 8 << 20; size <= 16 << 20; size *= 2) {
        hook.reserve_most = 1 << 20;
        hook.reserve_left = 5;
        hook.reserve_calls = 0;
        CHECK_EQ(try_alloc(&backend, (uint64_t)size, 1), TNM_ERR_BACKEND);
        CHECK(hook.reserve_calls > 5);
        CHECK(blocks_of(&backend) <= before + 8192); /* its own books may have grown */
        check_ranges(&backend);
    }
    memset(&hook, 0, sizeof hook);
    tnmi_shelf_file_close(&backend);
}

/* A file system of 1 MiB that is really full. */
TEST(a_full_disk_refuses_at_alloc) {
    static unsigned char block[65536];
    char place[600];
    tnm_backend backend;
    uint64_t mem[32], count = 0;
    void *host;
    snprintf(place, sizeof place, "%s/small", folder);
    CHECK_EQ(mkdir(place, 0700), 0);
    if (mount("none", place, "tmpfs", 0, "size=1m") != 0) {
        rmdir(place);
        SKIP("a_full_disk_refuses_at_alloc", "mounting a small file system needs root");
        return;
    }
    memset(&hook, 0, sizeof hook);
    CHECK_EQ(open_at(place, 0, &backend), TNM_OK);
    CHECK_EQ(try_alloc(&backend, 2 << 20, 1), TNM_ERR_BACKEND); /* leaves nothing behind */
    CHECK_EQ(blocks_of(&backend), 0);
    while (count < 32 &&
           backend.alloc(backend.user, sizeof block, 1, NULL, &mem[count], &host) == TNM_OK)
        count++;
    CHECK(count >= 12 && count <= 16);
    for (uint64_t i = 0; i < count; i++) { /* whatever was granted can be written */
        fill(block, sizeof block, i);
        CHECK_EQ(copy(&backend, stored(&backend, mem[i], 0), plain(block), sizeof block), TNM_OK);
    }
    CHECK_EQ(try_alloc(&backend, sizeof block, 1), TNM_ERR_BACKEND);
    backend.release(backend.user, mem[2], sizeof block);
    CHECK(must_alloc(&backend, sizeof block, 1) == mem[2]);
    tnmi_shelf_file_close(&backend);
    CHECK_EQ(umount(place), 0);
    CHECK_EQ(rmdir(place), 0);
}

TEST(offsets_beyond_4_gib) {
    unsigned char block[FAR_BLOCK];
    fill(block, sizeof block, 11);
    memset(&hook, 0, sizeof hook);
    make_file(in_folder("model"), 1, 0);
    int fd = tnmi_shelf_openat(TNMI_SHELF_CWD, in_folder("model"), O_WRONLY);
    CHECK_EQ(tnmi_shelf_ftruncate(fd, (int64_t)FAR_SIZE), 0);
    CHECK_EQ(tnmi_shelf_pwrite(fd, block, sizeof block, (int64_t)FAR_OFF), sizeof block);
    close(fd);
    hook.reserve = EOPNOTSUPP; /* sparse */
    reach_beyond_4_gib(block);
    memset(&hook, 0, sizeof hook);
    remove(in_folder("model"));
}

TEST(direct_is_direct_where_it_can_be) {
    static unsigned char raw[65536 + 8192];
    unsigned char *paged = raw + (4096 - (uintptr_t)raw % 4096);
    tnm_backend backend;
    memset(&hook, 0, sizeof hook);
    CHECK_EQ(open_at(in_folder("spill"), 1, &backend), TNM_OK);
    if (!state_of(&backend)->spill.direct) {
        CHECK_EQ(backend.granularity, 1);
        tnmi_shelf_file_close(&backend);
        SKIP("direct_is_direct_where_it_can_be", "the file system here has no direct access");
        return;
    }
    uint64_t mem = must_alloc(&backend, 65536, 1);
    CHECK_EQ(copy(&backend, stored(&backend, mem, 0), plain(paged), 65536), TNM_OK);
    CHECK(hook.calls == 1 && hook.direct_calls == 1);
    hook.error = EIO; /* the disk's fault, not that of going direct */
    hook.fail_in = 1;
    CHECK_EQ(copy(&backend, stored(&backend, mem, 0), plain(paged), 65536), TNM_ERR_BACKEND);
    CHECK_EQ(state_of(&backend)->spill.direct, 1);
    memset(&hook, 0, sizeof hook); /* head, pages, tail */
    CHECK_EQ(copy(&backend, plain(paged + 100), stored(&backend, mem, 100), 60000), TNM_OK);
    CHECK(hook.calls == 3 && hook.direct_calls == 3);
    memset(&hook, 0, sizeof hook); /* different remainders: by way of the bounce buffer */
    CHECK_EQ(copy(&backend, plain(paged + 1), stored(&backend, mem, 100), 60000), TNM_OK);
    CHECK(hook.calls == 1 && hook.direct_calls == 1);
    memset(&hook, 0, sizeof hook); /* load a page, store it; the pages; the same again */
    CHECK_EQ(copy(&backend, stored(&backend, mem, 100), plain(paged + 100), 60000), TNM_OK);
    CHECK(hook.calls == 5 && hook.direct_calls == 5);
    tnmi_shelf_file_close(&backend);
    memset(&hook, 0, sizeof hook);
}

TEST(direct_that_is_refused_becomes_buffered) {
    tnm_backend backend;
    uint64_t mem, size;
    memset(&hook, 0, sizeof hook);
    hook.no_switch = 1; /* at the open */
    CHECK_EQ(open_at(in_folder("spill"), 1, &backend), TNM_OK);
    CHECK_EQ(backend.granularity, 1);
    CHECK_EQ(state_of(&backend)->spill.direct, 0);
    tnmi_shelf_file_close(&backend);
    make_file(in_folder("model"), 9000, 0);
    CHECK_EQ(open_at(NULL, 1, &backend), TNM_OK);
    CHECK_EQ(tnmi_shelf_file_adopt(&backend, in_folder("model"), &mem, &size), TNM_OK);
    CHECK_EQ(state_of(&backend)->adopted[0].direct, 0);
    tnmi_shelf_file_close(&backend);
    play(1, 30);
    hook.no_switch = 0;
    CHECK_EQ(open_at(in_folder("spill"), 1, &backend), TNM_OK);
    hook.no_switch = 1; /* of the second file only */
    CHECK_EQ(tnmi_shelf_file_adopt(&backend, in_folder("model"), &mem, &size), TNM_OK);
    CHECK_EQ(says(tnmi_shelf_file_how(&backend), "partly"), state_of(&backend)->spill.direct);
    tnmi_shelf_file_close(&backend);
    hook.no_switch = 0;
    hook.refuse_direct = 1; /* only at the transfer */
    play(1, 100);
    play_between(1);
    memset(&hook, 0, sizeof hook); /* and it cannot be left: an error, not for ever */
    CHECK_EQ(open_at(in_folder("spill"), 1, &backend), TNM_OK);
    hook.refuse_direct = hook.no_switch = 1;
    static unsigned char raw[16384];
    unsigned char *paged = raw + (4096 - (uintptr_t)raw % 4096);
    int direct = state_of(&backend)->spill.direct;
    mem = must_alloc(&backend, 8192, 1);
    CHECK_EQ(copy(&backend, stored(&backend, mem, 0), plain(paged), 8192),
             direct ? TNM_ERR_BACKEND : TNM_OK);
    tnmi_shelf_file_close(&backend);
    memset(&hook, 0, sizeof hook);
    remove(in_folder("model"));
}

/* A file that lies about its size, as those of the kernel do. */
TEST(a_short_file_is_an_error) {
    tnm_backend backend;
    unsigned char block[4096];
    uint64_t mem, size;
    CHECK_EQ(open_at(NULL, 0, &backend), TNM_OK);
    if (tnmi_shelf_file_adopt(&backend, "/sys/kernel/mm/transparent_hugepage/enabled", &mem,
                              &size) != TNM_OK ||
        size != 4096)
        SKIP("a_short_file_is_an_error", "no such file in this kernel");
    else
        CHECK_EQ(copy(&backend, plain(block), stored(&backend, mem, 0), 4096), TNM_ERR_BACKEND);
    tnmi_shelf_file_close(&backend);
}

TEST(the_system_copies_or_we_do) {
    static const int errors[] = { 0, EXDEV, ENOSYS, EOPNOTSUPP, EINVAL, -1 };
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        memset(&hook, 0, sizeof hook);
        hook.copies = errors[i];
        hook.interrupt = i == 0;
        hook.most = i == 0 ? 70001 : 0;
        play_between(0);
        play_between(1);
#        ifdef TNMI_SHELF_COPY_RANGE
        CHECK(hook.range_calls > 0);
        tnm_backend backend;
        CHECK_EQ(open_at(in_folder("spill"), 0, &backend), TNM_OK);
        uint64_t mem = must_alloc(&backend, 100000, 1);
        hook.calls = 0;
        CHECK_EQ(copy(&backend, stored(&backend, mem, 0), stored(&backend, mem, 50000), 50000),
                 TNM_OK);
        CHECK_EQ(hook.calls > 0, errors[i] != 0);
        tnmi_shelf_file_close(&backend);
#        endif
    }
    memset(&hook, 0, sizeof hook);
}
#    endif /* Linux */

static int make_folder(void) {
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/shelf-XXXXXX", base && *base ? base : "/tmp");
    return mkdtemp(folder) != NULL;
}

/* "threads": only what the race checkers should see that take a hundred times as long */
int main(int argc, char **argv) {
    if (!make_folder()) return printf("cannot make %s\n", folder), 1;
    if (argc > 1 && strcmp(argv[1], "threads") == 0) {
        way = THREADS;
        RUN(a_few_threads_race);
        RUN(a_full_table_is_busy);
        RUN(close_waits_for_what_is_out);
        RUN(the_copies_of_a_thread_that_ended_arrive);
        return rmdir(folder) != 0 || check_done();
    }
    run_everywhere();
    RUN_HOOKED(interrupted_and_short_transfers_go_on);
    RUN_HOOKED(a_failed_transfer_is_told_and_the_next_works);
    RUN(a_refused_file_is_told_and_leaves_nothing);
    RUN(a_crew_is_as_large_as_it_can_be);
    RUN(a_context_has_its_locks_or_is_none);
    RUN(links_and_pipes_at_the_path_are_refused);
    RUN(a_spill_file_is_private_and_has_no_name);
    RUN(names_inside_a_folder_differ);
    RUN(paths_are_taken_as_they_are);
#    if defined(__linux__)
#        ifdef TNMI_SHELF_HAS_RING
    RUN(a_ring_that_is_refused_at_the_start);
    RUN(answers_in_any_order);
    RUN(a_ring_that_is_refused_in_mid_flight);
    RUN(answers_that_are_errors);
    RUN(what_a_thread_leaves_behind_is_done);
    RUN(direct_that_is_refused_in_mid_flight);
    RUN(a_copy_between_files_goes_on_buffered);
    RUN(a_ring_that_ends_is_told);
    RUN(sequential_copies_are_joined);
    RUN(what_joins_is_of_one_file_and_of_so_many_pieces);
    RUN(a_short_answer_to_several_is_shared_out);
    RUN(writes_that_share_a_page_are_not_out_together);
    RUN(a_file_changes_its_way_when_nothing_is_out);
    RUN(what_fails_while_closing_is_not_begun_anew);
    RUN(an_answer_that_is_there_is_not_slept_for);
    RUN(odd_reads_go_at_once);
#        endif
    RUN(a_folder_that_takes_no_file_is_refused);
    RUN(direct_is_aligned_as_the_system_says);
    RUN(a_child_neither_hangs_nor_takes_our_answers);
    RUN(a_child_never_changes_the_file);
    RUN(no_descriptor_leaks);
    RUN(the_disk_is_reserved_and_given_back);
    RUN(a_refused_reservation_changes_nothing);
    RUN(half_a_reservation_is_given_back);
    RUN(a_full_disk_refuses_at_alloc);
    RUN(offsets_beyond_4_gib);
    RUN_HOOKED(direct_is_direct_where_it_can_be);
    RUN_HOOKED(direct_that_is_refused_becomes_buffered);
    RUN(a_short_file_is_an_error);
    RUN_HOOKED(the_system_copies_or_we_do);
#    endif
    if (rmdir(folder) != 0) printf("%s is not empty\n", folder), check_failed++;
    return check_done();
}
#endif /* POSIX */
