/* test_device_work.c - tests/device_work.h: its kernel is compiled where NVRTC is, launched for
 * every byte, and run where there is a GPU; its copies are made by the stand-in (STANDIN_CUDA names
 * it; else build/standin/libcuda.so). */
/* needs: -pthread -ldl */
#define _POSIX_C_SOURCE 200809L
#define TENSORMEM_IMPLEMENTATION
#include "../tensormem.h"
#include "check.h"

#include "../examples/backends/cuda.h"
#include "conformance.h"
#include "device_work.h"

#if defined(__has_feature)
#    if __has_feature(thread_sanitizer)
#        define FOREIGN "the threads of a GPU's compiler are unknown to the sanitizer"
#    endif
#elif defined(__SANITIZE_THREAD__)
#    define FOREIGN "the threads of a GPU's compiler are unknown to the sanitizer"
#elif defined(TENSORMEM_VALGRIND)
#    define FOREIGN "a GPU's compiler takes too long under valgrind"
#endif
#ifndef FOREIGN
#    define FOREIGN NULL
#endif

/* The compiler keeps what it made until the process ends. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libnvrtc\n";
}

TEST(nvrtc_compiles_the_kernel) {
    static const int version[][2] = { { 7, 5 }, { 8, 0 }, { 9, 0 } };
    const char *foreign = FOREIGN;
    device_work_nvrtc c;
    device_work w;
    memset(&w, 0, sizeof w);
    if (foreign || !device_work_compiler(&w, &c)) {
        SKIP("nvrtc_compiles_the_kernel", foreign ? foreign : "no GPU toolkit");
        return;
    }
    for (size_t i = 0; i < sizeof version / sizeof version[0]; i++) {
        char *ptx = device_work_compile(&w, version[i][0], version[i][1], device_work_text);
        CHECK(ptx && strstr(ptx, ".entry add(") != NULL);
        CHECK(ptx && strstr(ptx, "st.global.u8") != NULL);
        free(ptx);
    }
    CHECK(device_work_compile(&w, 7, 5, "this is no kernel") == NULL);
    CHECK(strstr(w.why, "NVRTC answered 6 ") == w.why); /* NVRTC_ERROR_COMPILATION */
    CHECK(strstr(w.why, "device_work.cu") != NULL);
}

/* ---- a driver that only launches ---- */
static struct {
    unsigned groups, width;
    void *stream;
    int inside, answer;
} made;

static int TNM_CUDA_API push(void *context) {
    (void)context;
    made.inside++;
    return 0;
}

static int TNM_CUDA_API pop(void **context) {
    *context = NULL;
    made.inside--;
    return 0;
}

/* What the kernel does, by its own numbers. */
static int TNM_CUDA_API launch(void *kernel, unsigned gx, unsigned gy, unsigned gz, unsigned wx,
                               unsigned wy, unsigned wz, unsigned shared, void *stream,
                               void **arguments, void **more) {
    uint8_t *at = (uint8_t *)*(tnm_cuda_ptr *)arguments[0];
    unsigned long long bytes = *(unsigned long long *)arguments[1];
    uint8_t value = *(uint8_t *)arguments[2];
    CHECK(kernel != NULL && more == NULL && shared == 0 && made.inside == 1);
    CHECK_EQ(gy * gz * wy * wz, 1);
    made.groups = gx;
    made.width = wx;
    made.stream = stream;
    for (unsigned long long first = 0; first < (unsigned long long)gx * wx; first++)
        for (unsigned long long i = first; i < bytes; i += (unsigned long long)gx * wx)
            at[i] = (uint8_t)(at[i] + value);
    return made.answer;
}

TEST(every_byte_is_added_to_once) {
    enum { BYTES = DEVICE_WORK_WIDTH * DEVICE_WORK_GROUPS * 2 + 77 };
    static const uint64_t sizes[] = { 1, 255, 256, 257, 70000, BYTES };
    static uint8_t memory[BYTES + 2];
    void *queue[2] = { &memory[0], &memory[1] };
    tnm_cuda rt;
    device_work w;
    tnm_pinned at;
    memset(&rt, 0, sizeof rt);
    memset(&w, 0, sizeof w);
    memset(&at, 0, sizeof at);
    rt.cu.push = push;
    rt.cu.pop = pop;
    rt.queues = 2;
    rt.queue[1] = queue[1];
    w.launch = launch;
    at.mem = (uint64_t)(uintptr_t)memory;
    at.offset = 1;
    CHECK(!device_work_add(&w, &rt, 1, &at, 7)); /* no kernel */
    w.kernel = &w;
    CHECK(!device_work_add(&w, &rt, 1, &at, 7)); /* no bytes */
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        long wrong = 0;
        memset(memory, 250, sizeof memory);
        at.bytes = sizes[s];
        CHECK(device_work_add(&w, &rt, 1, &at, 7));
        for (size_t i = 0; i < sizeof memory; i++)
            wrong += memory[i] != (i >= 1 && i <= sizes[s] ? 1 : 250);
        CHECK_EQ(wrong, 0);
        CHECK(made.groups <= DEVICE_WORK_GROUPS && made.width == DEVICE_WORK_WIDTH);
        CHECK(made.stream == queue[1] && made.inside == 0);
    }
    made.answer = 1;
    CHECK(!device_work_add(&w, &rt, 1, &at, 7));
}

/* ---- a driver ---- */
static tnm_cuda *opened(const char *library) {
    tnm_cuda_desc desc;
    tnm_cuda *rt = NULL;
    memset(&desc, 0, sizeof desc);
    desc.library = library;
    (void)tnm_cuda_open(&desc, &rt);
    return rt;
}

enum { PAIRS = 3, PIECE = 5000 };

/* Memory at both ends, in pieces, each of its own. */
static void pairs_of(tnm_cuda *rt, tnm_pinned *device, tnm_pinned *host) {
    tnm_backend near, far;
    void *none;
    tnm_cuda_backend(rt, &near);
    tnm_cuda_host(rt, &far);
    memset(device, 0, PAIRS * sizeof *device);
    memset(host, 0, PAIRS * sizeof *host);
    CHECK_EQ(near.alloc(near.user, PAIRS * PIECE, 256, NULL, &device[0].mem, &none), TNM_OK);
    CHECK_EQ(far.alloc(far.user, PAIRS * PIECE, 256, NULL, &host[0].mem, &host[0].host), TNM_OK);
    for (int i = 0; i < PAIRS; i++) {
        device[i].mem = device[0].mem;
        device[i].offset = (uint64_t)i * PIECE;
        host[i].host = (char *)host[0].host + i * PIECE;
        device[i].bytes = host[i].bytes = PIECE;
    }
}

static void pairs_end(tnm_cuda *rt, const tnm_pinned *device, const tnm_pinned *host) {
    tnm_backend near, far;
    tnm_cuda_backend(rt, &near);
    tnm_cuda_host(rt, &far);
    near.release(near.user, device[0].mem, PAIRS * PIECE);
    far.release(far.user, host[0].mem, PAIRS * PIECE);
}

/* There and back; 1 = every byte is what it was, and `add` more. */
static int comes_back(tnm_cuda *rt, device_work *w, uint8_t add) {
    tnm_pinned device[PAIRS], host[PAIRS];
    int wrong = 0;
    pairs_of(rt, device, host);
    uint8_t *bytes = (uint8_t *)host[0].host;
    for (int i = 0; i < PAIRS * PIECE; i++)
        bytes[i] = (uint8_t)(i % 251);
    CHECK(device_work_pairs(rt, 1, device, host, PAIRS) > 0);
    for (int i = 0; i < PAIRS && add; i++)
        CHECK(device_work_add(w, rt, 0, &device[i], add));
    if (add) (void)tnm_cuda_passed(rt, 0, tnm_cuda_mark(rt, 0));
    memset(bytes, 0, PAIRS * PIECE);
    CHECK(device_work_pairs(rt, 0, device, host, PAIRS) > 0);
    for (int i = 0; i < PAIRS * PIECE; i++)
        wrong += bytes[i] != (uint8_t)(i % 251 + add);
    pairs_end(rt, device, host);
    return wrong == 0;
}

TEST(pairs_are_copied_both_ways) { /* by the stand-in, late */
    const char *path = getenv("STANDIN_CUDA");
    device_work w;
    tnm_cuda *rt = opened(path && *path ? path : "build/standin/libcuda.so");
    if (!rt) {
        SKIP("pairs_are_copied_both_ways", tnm_cuda_error(NULL));
        return;
    }
    CHECK(comes_back(rt, NULL, 0));
    CHECK(!device_work_open(&w, rt, path && *path ? path : "build/standin/libcuda.so"));
    CHECK(strstr(w.why, "there is no cu") == w.why && !w.kernel); /* it takes no modules */
    device_work_close(&w, rt);
    tnm_cuda_close(rt);
}

TEST(a_device_adds) {
    device_work w;
    const char *foreign = FOREIGN;
    tnm_cuda *rt = foreign ? NULL : opened(NULL);
    if (!rt) {
        SKIP("a_device_adds", foreign ? foreign : "no GPU");
        return;
    }
    if (device_work_open(&w, rt, NULL))
        CHECK(comes_back(rt, &w, 9));
    else
        SKIP("a_device_adds", "no GPU toolkit");
    device_work_close(&w, rt);
    tnm_cuda_close(rt);
}

int main(void) {
    RUN(nvrtc_compiles_the_kernel);
    RUN(every_byte_is_added_to_once);
    RUN(pairs_are_copied_both_ways);
    RUN(a_device_adds);
    return check_done();
}
