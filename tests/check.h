/* check.h: the test harness. One test binary = one C (or C++) file that includes this once.
 *
 *   TEST(name) { CHECK(cond); CHECK_EQ(a, b); }     a test; a failed check is recorded, it goes on
 *   int main(void) { RUN(name); SKIP("x", "why"); return check_done(); }
 *
 * The last line printed is "N passed, N failed, N skipped"; the exit status is 1 if any failed.
 * A test that leaves more blocks of check_alloc alive than it found has failed.
 *
 * check_scale(full, reduced) is `reduced` when TNM_TEST_SCALE=small is in the environment: the runs
 * under Valgrind and the sanitizers set it, so every loop that takes more than a second asks it. */
#ifndef TENSORMEM_TESTS_CHECK_H
#define TENSORMEM_TESTS_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#    define CHECK_ASAN
#elif defined(__has_feature)
#    if __has_feature(address_sanitizer)
#        define CHECK_ASAN
#    endif
#endif
#ifdef CHECK_ASAN
#    include <sanitizer/asan_interface.h>
#endif
#ifdef TENSORMEM_VALGRIND
#    include <valgrind/memcheck.h>
#endif

/* Are there pthreads? mingw has them; WebAssembly only if it is asked to. */
#if defined(__EMSCRIPTEN__)
#    ifdef __EMSCRIPTEN_PTHREADS__
#        define CHECK_PTHREADS
#    endif
#elif defined(__MINGW32__) || !(defined(_WIN32) || defined(__wasi__))
#    define CHECK_PTHREADS
#endif

#if defined(__GNUC__)
#    define CHECK_ADD(counter, n) __atomic_add_fetch(&(counter), (n), __ATOMIC_SEQ_CST)
#else /* one thread only */
#    define CHECK_ADD(counter, n) ((counter) += (n))
#endif

#if defined(TENSORMEM_NO_ATOMICS) && defined(CHECK_PTHREADS) /* helgrind and DRD know no other */
#    include <pthread.h>
static pthread_mutex_t check_lock = PTHREAD_MUTEX_INITIALIZER;
#    define CHECK_LOCK()   (void)pthread_mutex_lock(&check_lock)
#    define CHECK_UNLOCK() (void)pthread_mutex_unlock(&check_lock)
#elif defined(__GNUC__)
static int check_lock;
#    define CHECK_LOCK()                                                                           \
        while (__atomic_exchange_n(&check_lock, 1, __ATOMIC_ACQUIRE) != 0)                         \
        continue
#    define CHECK_UNLOCK() __atomic_store_n(&check_lock, 0, __ATOMIC_RELEASE)
#else
#    define CHECK_LOCK()   (void)0
#    define CHECK_UNLOCK() (void)0
#endif

static int check_bad, check_passed, check_failed, check_skipped;

static inline void check_fail(const char *file, int line, const char *text) {
    int bad = CHECK_ADD(check_bad, 1);
    if (bad <= 20) printf("%s:%d: %s\n", file, line, text);
    if (bad == 20) printf("(further failures of this test are counted, not printed)\n");
    fflush(stdout);
}

static inline void check_equal(const char *file, int line, const char *text, long long a,
                               long long b) {
    char full[512];
    if (a == b) return;
    snprintf(full, sizeof full, "%s: %lld != %lld", text, a, b);
    check_fail(file, line, full);
}

#define CHECK(cond) ((cond) ? (void)0 : check_fail(__FILE__, __LINE__, "CHECK(" #cond ")"))
#define CHECK_EQ(a, b)                                                                             \
    check_equal(__FILE__, __LINE__, "CHECK_EQ(" #a ", " #b ")", (long long)(a), (long long)(b))
#define TEST(name)         static void name(void)
#define RUN(name)          check_run(#name, name)
#define SKIP(name, reason) (check_skipped++, printf("SKIP %s: %s\n", name, reason), (void)0)

/* ---- numbers by chance, the same in every run ---- */
static inline uint64_t check_random(uint64_t *state) { /* xorshift64*; a state is never 0 */
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1Du;
}

static inline uint64_t check_draw(uint64_t *state, uint64_t below) { /* 1 .. 2^31 */
    return (check_random(state) >> 33) % below;
}

/* ---- an allocator for tnm_desc that counts, checks and can be told to fail ---- */
typedef struct check_block { /* kept apart from the block, whose edges sanitizers then guard */
    struct check_block *next;
    void *ptr;
    size_t size;
} check_block;

static check_block *check_live[1024];
static long long check_bytes, check_blocks, check_asked, check_refused, check_fail_in;
static int check_fail_sticky;
/* Fail the n-th allocation from now (1 = the next), once or (sticky) for ever; n 0 = none. */
static inline void check_fail_alloc(long long n, int sticky) {
    check_fail_in = n;
    check_fail_sticky = sticky;
}

static inline int check_refuse(void) {
    if (check_fail_in == 0 || --check_fail_in > 0) return 0;
    if (check_fail_sticky) check_fail_in = 1;
    check_refused++;
    return 1;
}

static inline check_block **check_bucket(const void *ptr) {
    return &check_live[((uintptr_t)ptr >> 4) * 2654435761u % 1024];
}

static inline void *check_alloc(void *user, size_t size) {
    check_block *block = NULL;
    (void)user;
    CHECK_LOCK();
    check_asked++;
    if (!check_refuse()) block = (check_block *)malloc(sizeof *block);
    if (block != NULL && (block->ptr = malloc(size > 0 ? size : 1)) == NULL) {
        free(block);
        block = NULL;
    }
    if (block != NULL) {
        block->size = size;
        block->next = *check_bucket(block->ptr);
        *check_bucket(block->ptr) = block;
        check_bytes += (long long)size;
        check_blocks++;
    }
    CHECK_UNLOCK();
    return block != NULL ? block->ptr : NULL;
}

static inline void check_release(void *user, void *ptr, size_t size) {
    check_block **at = check_bucket(ptr), *block;
    (void)user;
    CHECK_LOCK();
    while (*at != NULL && (*at)->ptr != ptr)
        at = &(*at)->next;
    if ((block = *at) != NULL) {
        *at = block->next;
        check_bytes -= (long long)block->size;
        check_blocks--;
    }
    CHECK_UNLOCK();
    if (block == NULL) check_fail("check_release", 0, "not a live block (released twice?)");
    if (block == NULL) return;
    check_equal("check_release", 0, "size", (long long)size, (long long)block->size);
    free(block->ptr);
    free(block);
}

#define check_live_bytes()    (check_bytes + 0)
#define check_live_blocks()   (check_blocks + 0)
#define check_alloc_count()   (check_asked + 0)   /* asked so far, refused ones included */
#define check_alloc_refused() (check_refused + 0) /* made to fail so far */

/* Marks of the library on memory that is ours again are void. */
static inline void check_ordinary(void *at, uint64_t size) {
#ifdef CHECK_ASAN
    __asan_unpoison_memory_region(at, (size_t)size);
#endif
#ifdef TENSORMEM_VALGRIND
    (void)VALGRIND_MAKE_MEM_UNDEFINED(at, (size_t)size);
#endif
    (void)at;
    (void)size;
}

/* ---- running ---- */
static inline int check_scale(int full, int reduced) {
    const char *scale = getenv("TNM_TEST_SCALE");
    return scale != NULL && strcmp(scale, "small") == 0 ? reduced : full;
}

static inline void check_run(const char *name, void (*test)(void)) {
    long long blocks = check_blocks;
    check_bad = 0;
    test();
    check_fail_alloc(0, 0);
    check_equal(name, 0, "blocks alive before and after", blocks, check_blocks);
    *(check_bad == 0 ? &check_passed : &check_failed) += 1;
    printf("%s %s\n", check_bad == 0 ? "PASS" : "FAIL", name);
    fflush(stdout);
}

static inline int check_done(void) {
    printf("%d passed, %d failed, %d skipped\n", check_passed, check_failed, check_skipped);
    return check_failed != 0;
}

#endif
