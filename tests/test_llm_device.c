/* test_llm_device.c - examples/llama_device.h: with little memory and without limits a device gives
 * the same logits, and the tokens of the CPU; what fails on it is said, and nothing is lost. */
/* needs: -lm -pthread */
#if !defined(_POSIX_C_SOURCE)
#    define _POSIX_C_SOURCE 200809L
#endif
#define LLM_STREAM_NO_MAIN
#include "../examples/llm_stream.c"
#include "check.h"

#if defined(__has_feature)
#    if __has_feature(thread_sanitizer)
#        define UNDER_TSAN
#    endif
#elif defined(__SANITIZE_THREAD__)
#    define UNDER_TSAN
#endif

/* The runtime and its compiler keep what they made until the process ends. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libpocl\nleak:libOpenCL\nleak:libLLVM\nleak:libclang\nleak:libhwloc\n";
}

static char model_path[64], trace_path[64], picture_path[64], text_path[64]; /* of this process */
static const recipe small_recipe = { 6, 128, 256, 4, 2, GGUF_TYPE_F32, 7 };
static const recipe middling_recipe = { 12, 256, 768, 8, 4, GGUF_TYPE_Q8_0, 7 };
static gpu_runtime runtime;  /* OpenCL, changed by a test */
static long launches_before; /* one fails; -1 = none */

#if defined(UNDER_TSAN)
static const char *const stranger = "the threads of a GPU's runtime are unknown to the sanitizer";
#elif defined(TENSORMEM_VALGRIND)
static const char *const stranger =
    "a GPU's runtime on a CPU compiles for one that valgrind does not know";
#else
static const char *const stranger = NULL;
#endif

static const char *missing(void) { /* NULL = there is a device */
    static char why[200];
    tnm_opencl_desc first;
    tnm_opencl *cl = NULL;
    if (stranger != NULL) {
        return stranger;
    }
    memset(&first, 0, sizeof(first));
    tnm_result r = tnm_opencl_open(&first, &cl);
    snprintf(why, sizeof(why), "no GPU and no OpenCL on the CPU: %s", tnm_opencl_error(NULL));
    tnm_opencl_close(cl);
    return r == TNM_OK ? NULL : why;
}

#define NEED_A_DEVICE(name)                                                                        \
    if (missing() != NULL) {                                                                       \
        SKIP(name, missing());                                                                     \
        return;                                                                                    \
    }

static void quiet(const char *what, uint64_t done, uint64_t total) {
    (void)what, (void)done, (void)total;
}

static int written(demo *d, const recipe *r) { /* a model, to run on `runtime` */
    static char name[] = "llm_stream", *argv[] = { name };
    memset(d, 0, sizeof(*d));
    d->path = model_path;
    if (!write_model(d->path, r, quiet, &d->why) || !parse_options(&d->options, 1, argv, &d->why)) {
        return 0;
    }
    d->options.tokens = 10;
    d->options.trace = trace_path;
    d->options.picture = picture_path;
    d->options.runtime = &runtime;
    return 1;
}

static int prepared(demo *d, uint32_t type) { /* a small one of this type */
    recipe r = small_recipe;
    r.type = type;
    return written(d, &r) && demo_prepare(d);
}

/* The sums differ in their last bits, by a few millionths of the largest logit; where vectors are
 * rounded before a product a last bit can decide to which of two values: in F16 one part in 2000,
 * in BF16 and Q8_0 one in 250. Where the best token is further ahead than that, it is the CPU's. */
static double apart_most(uint32_t type) {
    return type == GGUF_TYPE_F32 ? 2e-5 : type == GGUF_TYPE_F16 ? 5e-3 : 0.08;
}

static void streams(uint32_t type, float clear) {
    demo *d = (demo *)calloc(1, sizeof(*d));
    CHECK(d != NULL && prepared(d, type));
    CHECK_EQ(demo_run(d), 0);
    CHECK(runs_agree(&d->unlimited, &d->limited, d->decode.new_count));
    CHECK(runs_apart(&d->unlimited, &d->limited, d->decode.prompt_count) <= 0.0);
    CHECK(runs_apart(&d->plain, &d->limited, d->decode.prompt_count) <= apart_most(type));
    CHECK(apart_most(type) < demo_apart_most(d));
    CHECK_EQ(d->limited.kept, d->limited.sweeps);
    CHECK(run_moved(&d->limited, HOST, DEVICE) > 0.0);
    CHECK_EQ(run_moved(&d->unlimited, HOST, DEVICE), 0.0);
    for (size_t i = 0; d->limited.margin > clear && i < d->decode.new_count; i++) {
        CHECK_EQ(d->limited.token[i], d->plain.token[i]);
    }
    CHECK(d->limited.margin > clear || (type != GGUF_TYPE_F32 && type != GGUF_TYPE_F16));
    CHECK(d->why.text[0] == 0);
    demo_close(d);
    free(d);
}

TEST(limited_and_unlimited_agree) {
    NEED_A_DEVICE("limited_and_unlimited_agree")
    runtime = gpu_opencl;
    streams(GGUF_TYPE_Q8_0, 0.2f);
    streams(GGUF_TYPE_F32, 0.01f);
    streams(GGUF_TYPE_F16, 0.01f);
    streams(GGUF_TYPE_BF16, 0.1f);
}

static int forgetful_launch(gpu *g, int kernel, uint32_t groups, uint64_t mem, const gpu_job *job) {
    int forgets = kernel == GPU_add && launches_before-- == 0;
    return forgets ? 1 : gpu_opencl.launch(g, kernel, groups, mem, job);
}

TEST(once_is_compared_with_the_cpu) {
    NEED_A_DEVICE("once_is_compared_with_the_cpu")
    for (int forgets = 0; forgets < 2; forgets++) {
        demo *d = (demo *)calloc(1, sizeof(*d));
        runtime = gpu_opencl;
        runtime.launch = forgetful_launch;
        launches_before = forgets ? 100 : -1;
        CHECK(d != NULL && prepared(d, GGUF_TYPE_F32));
        d->options.once = 1;
        CHECK_EQ(demo_run(d), forgets ? EXIT_WRONG : 0);
        CHECK(d->unlimited.token == NULL && d->plain.token != NULL);
        CHECK(launches_before < -1); /* there were so many */
        CHECK(d->why.text[0] == 0);
        demo_close(d);
        free(d);
    }
}

/* Half on the device and half on the host hold all but the keys, the values and a row. What storage
 * moves beyond is the room nothing is kept in: an eighth of the host or 1 MiB for staging; on
 * either tier the largest tensor in use, with another one coming; and the steps given ahead. */
TEST(what_is_moved_beyond_the_least_is_working_room) {
    NEED_A_DEVICE("what_is_moved_beyond_the_least_is_working_room")
    demo *d = (demo *)calloc(1, sizeof(*d));
    uint64_t largest = 0, room;
    runtime = gpu_opencl;
    CHECK(d != NULL && written(d, &middling_recipe));
    d->options.once = 1;
    d->options.tokens = 6;
    d->options.device_share = d->options.host_share = 0.5;
    CHECK(demo_prepare(d));
    CHECK_EQ(demo_run(d), 0);
    for (size_t i = 0; i < d->decode.pieces; i++) {
        uint64_t bytes =
            d->decode.piece[i].rows * bytes_of_row(d->decode.piece[i].tensor->type,
                                                   (size_t)d->decode.piece[i].tensor->shape[0]);
        largest = bytes > largest ? bytes : largest;
    }
    room = d->budgets.host / 8 < 1u << 20 ? d->budgets.host / 8 : 1u << 20;
    room += (4 + STEPS_AHEAD) * largest;
    CHECK(run_excess(&d->limited, &d->least) * (double)d->least.needed <= (double)room);
    demo_close(d);
    free(d);
}

/* ---- what is hidden, and what the trace says ---- */

typedef struct span {
    double begin, end;
    int works; /* the device's; else a copy */
} span;

static int by_time(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int is_in(const span *all, size_t count, double time, int works) {
    for (size_t i = 0; i < count; i++) {
        if (all[i].works == works && all[i].begin < time && time < all[i].end) {
            return 1;
        }
    }
    return 0;
}

/* Copies and work that the trace shows from the sweep `warm_up` on, in microseconds. */
static size_t spans_of_trace(const char *path, size_t warm_up, span *all, size_t room) {
    char line[400];
    size_t count = 0, sweeps = 0;
    double since = 0.0;
    FILE *f = fopen(path, "r");
    for (int pass = 0; f != NULL && pass < 2; pass++, rewind(f)) {
        while (fgets(line, sizeof(line), f) != NULL) {
            double at, took;
            int track;
            const char *place = strstr(line, "\"tid\":");
            if (strstr(line, "\"ph\":\"X\"") == NULL || place == NULL ||
                sscanf(place, "\"tid\":%d,\"ts\":%lf,\"dur\":%lf", &track, &at, &took) != 3) {
                continue;
            }
            if (pass == 0 && strstr(line, "\"wait for embedding\"") && sweeps++ == warm_up) {
                since = at;
            } else if (pass == 1 && track >= TRACK_EDGES && at + took > since && count < room) {
                all[count].begin = at > since ? at : since;
                all[count].end = at + took;
                all[count++].works = track == TRACK_DEVICE;
            }
        }
    }
    CHECK(f != NULL && fclose(f) == 0);
    return count;
}

/* Between any two moments at which something begins or ends nothing changes. */
static double share_of_trace(const span *all, size_t count, double *copying) {
    double *moment = (double *)calloc(2 * count + 1, sizeof(*moment)), hidden = 0.0;
    for (size_t i = 0; i < count; i++) {
        moment[2 * i] = all[i].begin;
        moment[2 * i + 1] = all[i].end;
    }
    qsort(moment, 2 * count, sizeof(*moment), by_time);
    *copying = 0.0;
    for (size_t i = 1; i < 2 * count; i++) {
        double middle = 0.5 * (moment[i - 1] + moment[i]), took = moment[i] - moment[i - 1];
        if (took > 0.0 && is_in(all, count, middle, 0)) {
            *copying += took;
            hidden += is_in(all, count, middle, 1) ? took : 0.0;
        }
    }
    free(moment);
    return *copying > 0.0 ? hidden / *copying : 1.0;
}

static int slow_launch(gpu *g, int kernel, uint32_t groups, uint64_t mem, const gpu_job *job) {
    for (int i = 0; i < 3 && kernel == GPU_rms_norm;
         i++) { /* the same again: there is more to do */
        (void)gpu_opencl.launch(g, kernel, groups, mem, job);
    }
    return gpu_opencl.launch(g, kernel, groups, mem, job);
}

TEST(hidden_is_what_the_trace_shows) {
    NEED_A_DEVICE("hidden_is_what_the_trace_shows")
    enum { SPANS = 20000 };
    demo *d = (demo *)calloc(1, sizeof(*d));
    span *all = (span *)calloc(SPANS, sizeof(*all));
    double copying, shown;
    runtime = gpu_opencl;
    runtime.launch = slow_launch;
    CHECK(d != NULL && all != NULL && written(d, &middling_recipe));
    d->options.once = 1;
    d->options.tokens = 4;
    CHECK(demo_prepare(d));
    CHECK_EQ(demo_run(d), 0);
    const run *u = &d->limited;
    size_t count = spans_of_trace(trace_path, u->warm_up, all, SPANS);
    CHECK(count > 0 && count < SPANS);
    shown = share_of_trace(all, count, &copying);
    CHECK(shown > 0.0);
    CHECK(fabs(shown - table_hidden(u)) < 1e-3);
    CHECK(fabs(copying * 1e-6 / (double)(u->sweeps - u->warm_up) - u->copying) < 1e-3 * u->copying);
    CHECK(u->starved >= 0.0 && u->hidden <= u->working && u->working <= u->seconds);
    demo_close(d);
    free(all);
    free(d);
}

static void told(recorder *r, int from, int to, double begin, double end) {
    slice *s = recorder_slice(r);
    memset(s, 0, sizeof(*s));
    s->from = from;
    s->to = to;
    s->begin = begin;
    s->end = end;
}

TEST(hidden_is_copies_under_work) { /* in a record made by hand */
    run u;
    double hidden;
    memset(&u, 0, sizeof(u));
    u.sweeps = 3;
    u.warm_up = 1;
    u.recorder.keep_slices = 1;
    recorder_stretch(&u.recorder, 1.0, 4.0);
    recorder_stretch(&u.recorder, 5.0, 5.0); /* nothing */
    recorder_stretch(&u.recorder, 6.0, 7.0);
    recorder_stretch(&u.recorder, 8.0, 12.0);
    CHECK_EQ(u.recorder.stretches, 3);
    told(&u.recorder, HOST, DEVICE, 0.0, 1.5);     /* before the time that counts */
    told(&u.recorder, STORAGE, HOST, 1.0, 3.0);    /* 2 .. 3 counts */
    told(&u.recorder, HOST, DEVICE, 2.5, 5.0);     /* two at a time count once */
    told(&u.recorder, STORAGE, PROGRAM, 5.0, 6.0); /* no copy between tiers */
    told(&u.recorder, DEVICE, HOST, 6.5, 9.0);
    told(&u.recorder, HOST, DEVICE, 11.0, 13.0);
    CHECK(fabs(run_busy(&u, 2.0, -1, &hidden) - (3.0 + 2.5 + 2.0) / 2.0) < 1e-12);
    CHECK(fabs(hidden - (2.0 + 0.5 + 1.0 + 1.0) / 2.0) < 1e-12);
    CHECK(fabs(run_busy(&u, 2.0, STORAGE, &hidden) - (1.0 + 1.0) / 2.0) < 1e-12);
    CHECK(fabs(hidden - 1.0 / 2.0) < 1e-12);
    recorder_close(&u.recorder);
}

static int open_wide(gpu *g) {
    g->width = 64;
    return gpu_opencl.open(g);
}

TEST(groups_of_many_lanes_agree) { /* as on a GPU */
    NEED_A_DEVICE("groups_of_many_lanes_agree")
    runtime = gpu_opencl;
    runtime.open = open_wide;
    streams(GGUF_TYPE_Q8_0, 0.2f);
    streams(GGUF_TYPE_F32, 0.01f);
    streams(GGUF_TYPE_F16, 0.01f);
}

static int failing_launch(gpu *g, int kernel, uint32_t groups, uint64_t mem, const gpu_job *job) {
    if (launches_before-- == 0) {
        return refuse(&g->why, "a launch was refused");
    }
    return gpu_opencl.launch(g, kernel, groups, mem, job);
}

static uint64_t failing_mark(gpu *g) {
    return launches_before-- == 0 ? 0 : gpu_opencl.mark(g);
}

static uint64_t dead(gpu *g, uint64_t wait_for) {
    (void)g, (void)wait_for;
    return UINT64_MAX;
}

static void fails(const char *said) {
    demo *d = (demo *)calloc(1, sizeof(*d));
    CHECK(d != NULL && prepared(d, GGUF_TYPE_Q8_0));
    d->options.once = 1;
    CHECK_EQ(demo_run(d), EXIT_WRONG);
    int says_so = strstr(d->why.text, said) != NULL;
    printf("%s%s", says_so ? "" : d->why.text, says_so ? "" : "\n");
    CHECK(says_so);
    demo_close(d);
    free(d);
}

TEST(what_fails_is_said) {
    NEED_A_DEVICE("what_fails_is_said")
    for (long n = 0; n < 800; n += 97) {
        runtime = gpu_opencl;
        runtime.launch = failing_launch;
        launches_before = n;
        fails("a launch was refused");
    }
    runtime = gpu_opencl;
    runtime.mark = failing_mark;
    launches_before = 40;
    fails("limited run: ");
    runtime = gpu_opencl;
    runtime.passed = dead;
    fails("lost");
    runtime = gpu_opencl;
    runtime.words = "this is no kernel\n";
    fails("cannot build the kernels");
}

/* What NVRTC knows without being told. */
static const char cuda_of_clang[] =
    "#define __global__ __attribute__((global))\n"
    "#define __device__ __attribute__((device))\n"
    "#define __shared__ __attribute__((shared))\n"
    "#define __launch_bounds__(n) __attribute__((launch_bounds(n)))\n"
    "struct place { unsigned x; };\n"
    "extern \"C\" __device__ place threadIdx, blockIdx, gridDim;\n"
    "extern \"C\" __device__ float expf(float), sqrtf(float), fabsf(float);\n"
    "extern \"C\" __device__ float __uint_as_float(unsigned);\n"
    "extern \"C\" __device__ unsigned __float_as_uint(float);\n";

static int keep_text(gpu *g, const char *const *text, uint32_t texts) {
    FILE *f = fopen(text_path, "w");
    CHECK(f != NULL && fputs(cuda_of_clang, f) >= 0);
    for (uint32_t i = 0; f != NULL && i < texts; i++) {
        CHECK(fputs(text[i], f) >= 0 && fputs("\n", f) >= 0);
    }
    CHECK(f != NULL && fclose(f) == 0);
    return refuse(&g->why, "that was all");
}

static int open_none(gpu *g) {
    g->width = 64;
    g->groups = 64;
    return 1;
}

static void close_none(gpu *g) {
    (void)g;
}

#define CLANG_PTX "clang -x cuda --cuda-device-only --cuda-gpu-arch=sm_70 -nocudainc -nocudalib "

TEST(the_kernels_are_cuda_too) { /* there is nobody to run them here */
    if (system("echo 'int x;' | " CLANG_PTX "-S -o /dev/null - >/dev/null 2>&1") != 0) {
        SKIP("the_kernels_are_cuda_too", "no clang that compiles for a GPU");
        return;
    }
    runtime = gpu_cuda;
    runtime.open = open_none;
    runtime.build = keep_text;
    runtime.close = close_none;
    fails("that was all");
    char command[400];
    snprintf(command, sizeof(command),
             CLANG_PTX "-Wno-unknown-cuda-version -Werror -O2 -S -o %s.ptx %s", text_path,
             text_path);
    CHECK_EQ(system(command), 0);
    for (int i = 0; i < GPU_KERNEL_COUNT; i++) {
        snprintf(command, sizeof(command), "grep -q '.entry %s($' %s.ptx", gpu_kernel_name[i],
                 text_path);
        CHECK_EQ(system(command), 0);
    }
    remove(text_path);
    snprintf(command, sizeof(command), "%s.ptx", text_path);
    remove(command);
}

static int TNM_CUDA_API any_attribute(int *value, int attribute, int which) { /* compute_90 */
    (void)which;
    *value = attribute == GPU_CU_MAJOR ? 9 : 0;
    return 0;
}

static int build_ptx(gpu *g, const char *const *text, uint32_t texts) {
    tnm_cuda rt;
    gpu_cuda_calls calls;
    memset(&rt, 0, sizeof(rt));
    memset(&calls, 0, sizeof(calls));
    rt.cu.attribute = any_attribute;
    g->rt.cuda = &rt;
    g->calls = &calls;
    char *all = gpu_nvrtc_load(g, &calls) ? gpu_cuda_join(text, texts) : NULL;
    char *ptx = all != NULL ? gpu_cuda_compile(g, all) : NULL;
    for (int i = 0; ptx != NULL && i < GPU_KERNEL_COUNT; i++) {
        char entry[48];
        snprintf(entry, sizeof(entry), ".entry %s(", gpu_kernel_name[i]);
        CHECK(strstr(ptx, entry) != NULL);
    }
    free(all);
    free(ptx);
    g->calls = NULL;
    return refuse(&g->why, "that was all");
}

TEST(nvrtc_compiles_the_kernels) {
    gpu g;
    gpu_cuda_calls calls;
    memset(&g, 0, sizeof(g));
    if (stranger != NULL || !gpu_nvrtc_load(&g, &calls)) {
        SKIP("nvrtc_compiles_the_kernels", stranger != NULL ? stranger : "no GPU toolkit");
        return;
    }
    runtime = gpu_cuda;
    runtime.open = open_none;
    runtime.build = build_ptx;
    runtime.close = close_none;
    fails("that was all");
    runtime.words = "this is no kernel\n";
    fails("NVRTC cannot build the kernels");
}

static int program(const char *option, const char *value, const char *more, const char *its_value) {
    char *argv[] = { (char *)(uintptr_t) "llm_stream", (char *)(uintptr_t) "--model",
                     (char *)(uintptr_t)model_path,    (char *)(uintptr_t)option,
                     (char *)(uintptr_t)value,         (char *)(uintptr_t)more,
                     (char *)(uintptr_t)its_value };
    return llm_stream_main(7, argv);
}

TEST(the_command_line_is_checked) {
    message why = { "" };
    CHECK(write_model(model_path, &small_recipe, quiet, &why));
    CHECK_EQ(program("--backend", "abacus", "--tokens", "1"), EXIT_INPUT);
    CHECK_EQ(program("--backend", "opencl", "--tiers", "2"), EXIT_INPUT);
#if defined(TENSORMEM_THREADS)
    CHECK_EQ(program("--backend", "opencl", "--pump", "thread"), EXIT_INPUT);
#endif
}

static void name_files(void) {
    long process = process_number();
    make_folder("build");
    snprintf(model_path, sizeof(model_path), "build/test_llm_device.%ld.gguf", process);
    snprintf(trace_path, sizeof(trace_path), "build/test_llm_device.%ld.json", process);
    snprintf(picture_path, sizeof(picture_path), "build/test_llm_device.%ld.svg", process);
    snprintf(text_path, sizeof(text_path), "build/test_llm_device.%ld.cu", process);
}

int main(void) {
    name_files();
    RUN(the_command_line_is_checked);
    RUN(limited_and_unlimited_agree);
    RUN(groups_of_many_lanes_agree);
    RUN(once_is_compared_with_the_cpu);
    RUN(what_is_moved_beyond_the_least_is_working_room);
    RUN(hidden_is_copies_under_work);
    RUN(hidden_is_what_the_trace_shows);
    RUN(what_fails_is_said);
    RUN(the_kernels_are_cuda_too);
    RUN(nvrtc_compiles_the_kernels);
    remove(model_path);
    remove(trace_path);
    remove(picture_path);
    return check_done();
}
