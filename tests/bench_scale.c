/* bench_scale.c - one context with up to 10 million tensors: what a call costs as they grow in
 * number, and how long the lock is held at most. A target of its own: make bench-scale.
 *
 * Two tiers of paper memory, half of the tensors (64 bytes each) fit the fast one, which has 16
 * segments. With `lock` and `unlock` of its own the bench times every locked interval, on the wall
 * and by the thread's CPU clock; the second is what the targets bind, since a shared machine takes
 * the core away while the lock is held, and the first is said beside it (wall=). Where both were
 * measured the clock itself adds some 0.2 us to each interval.
 *
 * scale_<op>_<n>_p999, _max   of the locked intervals of one kind of call: at most 1 ms
 * scale_<op>_<n>_call         CPU time of a whole call, clocks off, against the same with 1 k
 *
 * 10 m need about 4 GB of books, and are left out where the machine has less than 6 GB free.
 * Arguments: the scales to run, of 1k 100k 1m 10m; without any, all of them.
 */
#include "bench.h"

enum { SIZE = 64, SEGMENTS = 16, SAMPLES = 1 << 22, ROUNDS = 5 };

/* ---- intervals of the lock ---- */

typedef struct {
    double begin_wall, begin_cpu, worst_wall, worst_cpu;
    float *wall, *cpu;
    uint32_t count;
    uint64_t holds;
    int on; /* 0: clocks off; 1: wall; 2: both */
} watch;

static watch held;

static void lock(void *user) {
    (void)user;
    if (!held.on) return;
    held.begin_wall = bench_wall();
    if (held.on > 1) held.begin_cpu = bench_cpu();
}

static void unlock(void *user) {
    (void)user;
    if (!held.on) return;
    double cpu = held.on > 1 ? bench_cpu() - held.begin_cpu : 0;
    double wall = bench_wall() - held.begin_wall;
    if (held.on == 1) cpu = wall;
    held.holds++;
    if (wall > held.worst_wall) held.worst_wall = wall;
    if (cpu > held.worst_cpu) held.worst_cpu = cpu;
    if (held.count == SAMPLES) return;
    held.wall[held.count] = (float)wall;
    held.cpu[held.count++] = (float)cpu;
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static const char *scale_name;

static void start(int on) {
    held.count = 0;
    held.holds = 0;
    held.worst_wall = held.worst_cpu = 0;
    held.on = on;
}

static void stop(const char *op) {
    char name[96];
    int both = held.on > 1;
    held.on = 0;
    if (held.count == 0) bench_die("no locked interval");
    qsort(held.cpu, held.count, sizeof *held.cpu, by_size);
    qsort(held.wall, held.count, sizeof *held.wall, by_size);
    double p999 = 1e6 * (double)held.cpu[held.count - 1 - held.count / 1000];
    double most = 1e6 * held.worst_cpu;
    printf("# scale_%s_%s holds=%llu p50=%.3g us p99=%.3g p999=%.3g max=%.4g wall: p999=%.3g "
           "max=%.4g%s\n",
           op, scale_name, (unsigned long long)held.holds, 1e6 * (double)held.cpu[held.count / 2],
           1e6 * (double)held.cpu[held.count - 1 - held.count / 100], p999, most,
           1e6 * (double)held.wall[held.count - 1 - held.count / 1000], 1e6 * held.worst_wall,
           both ? "" : " (wall only)");
    snprintf(name, sizeof name, "scale_%s_%s_p999", op, scale_name);
    bench_line(name, p999, "us", "limit_1000us", p999 / 1000, BENCH_LE, 1);
    snprintf(name, sizeof name, "scale_%s_%s_max", op, scale_name);
    bench_line(name, most, "us", "limit_1000us", most / 1000, BENCH_LE, 1);
}

/* ---- the field ---- */

static bench_paper paper;
static int lost; /* the fast tier's backend says so */
static tnm_ctx *ctx;
static tnm_tensor *tensor;
static uint32_t n, cursor; /* cursor: the next to miss, in the order in which they were made */

static tnm_result copy(void *user, const tnm_span *dst, const tnm_span *src, uint64_t size,
                       uint64_t *ticket) {
    if (lost && (dst->tier == 0 || src->tier == 0)) return TNM_ERR_LOST;
    return bench_paper_copy(user, dst, src, size, ticket);
}

static void *plain_alloc(void *user, size_t size) {
    (void)user;
    return malloc(size);
}

static void plain_release(void *user, void *at, size_t size) {
    (void)user;
    (void)size;
    free(at);
}

static void quiet(void *user, const tnm_log *item) {
    (void)user;
    (void)item;
}

static void open_field(uint32_t count) {
    tnm_tier_desc tiers[2];
    tnm_desc desc;
    memset(&paper, 0, sizeof paper);
    memset(&desc, 0, sizeof desc);
    tiers[0] = bench_paper_tier(&paper, "fast", (uint64_t)count / 2 / SEGMENTS * SEGMENTS * SIZE);
    tiers[1] = bench_paper_tier(&paper, "slow", 0);
    tiers[0].segment_bytes = tiers[0].budget_bytes / SEGMENTS;
    for (int t = 0; t < 2; t++) {
        tiers[t].alignment = SIZE;
        tiers[t].backend.copy = copy;
    }
    desc.tiers = tiers;
    desc.tier_count = 2;
    desc.lock = lock;
    desc.unlock = unlock;
    desc.alloc = plain_alloc;
    desc.release = plain_release;
    desc.log = quiet;
    n = count;
    lost = 0;
    cursor = 0;
    ctx = bench_create(&desc);
    tensor = (tnm_tensor *)bench_alloc(count, sizeof *tensor);
}

static void pin_unpin(tnm_tensor t, tnm_access access) {
    bench_touch(ctx, t, access);
}

/* the next in the order of making that is not on the fast tier: LRU's victims are the same order */
static tnm_tensor missing(void) {
    tnm_tensor_info info;
    int on = held.on;
    held.on = 0;
    for (uint32_t i = 0; i < n; i++) {
        tnm_tensor t = tensor[cursor];
        cursor = (cursor + 1) % n;
        if (tnm_info(ctx, t, 0, &info) != TNM_OK) bench_die("tnm_info failed");
        if (info.state == TNM_STATE_READY) continue;
        held.on = on;
        return t;
    }
    bench_die("nothing is missing");
    return tensor[0];
}

static void pump_out(void) {
    while (tnm_pump(ctx, TNM_ALL) == TNM_PENDING)
        continue;
}

/* ---- whole calls: CPU time with the clocks off ---- */

enum call { CREATE, HIT, MISS_DIRTY, MISS_CLEAN, EVICT, DESTROY, CALLS };
static const char *const call_name[CALLS] = { "create",         "pin_hit", "pin_miss_dirty",
                                              "pin_miss_clean", "evict",   "destroy" };
static double call_ns[4][CALLS];

static void calls(int scale, enum call call, void (*run)(uint32_t), uint32_t count) {
    double sample[ROUNDS];
    for (int r = 0; r < ROUNDS; r++) {
        double begin = bench_cpu();
        run(count);
        sample[r] = 1e9 * (bench_cpu() - begin) / count;
    }
    call_ns[scale][call] = bench_median(sample, ROUNDS);
}

static tnm_tensor made[4096];

static void run_create(uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        made[i] = bench_tensor(ctx, SIZE, NULL);
    for (uint32_t i = 0; i < count; i++)
        bench_ok(tnm_tensor_destroy(ctx, made[i]), "tnm_tensor_destroy");
}

static void run_hit(uint32_t count) { /* those that came last are there */
    for (uint32_t i = 0; i < count; i++)
        pin_unpin(tensor[n - 1 - i % (n / 4)], TNM_READ);
}

static tnm_tensor away[4096];

static void find_away(uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        away[i] = missing();
}

static void run_miss(uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        pin_unpin(away[i], TNM_READ);
}

static void misses(int scale, enum call call) {
    double sample[ROUNDS];
    uint32_t count = n / 8 < 4096 ? n / 8 : 4096;
    for (int r = 0; r < ROUNDS; r++) {
        find_away(count);
        double begin = bench_cpu();
        run_miss(count);
        sample[r] = 1e9 * (bench_cpu() - begin) / count;
    }
    call_ns[scale][call] = bench_median(sample, ROUNDS);
}

/* clean ones, which leave at once; they are fetched back with the clock stopped */
static void evictions(int scale) {
    double sample[ROUNDS];
    uint32_t count = n / 8 < 1024 ? n / 8 : 1024;
    for (int r = 0; r < ROUNDS; r++) {
        find_away(count);
        run_miss(count);
        double begin = bench_cpu();
        for (uint32_t i = 0; i < count; i++)
            bench_ok(tnm_evict(ctx, away[i], 0), "tnm_evict");
        sample[r] = 1e9 * (bench_cpu() - begin) / count;
        run_miss(count);
    }
    call_ns[scale][EVICT] = bench_median(sample, ROUNDS);
}

static void destroys(int scale) {
    double sample[ROUNDS];
    uint32_t count = n / 16 < 4096 ? n / 16 : 4096;
    for (int r = 0; r < ROUNDS; r++) {
        uint32_t from = (uint32_t)r * count;
        double begin = bench_cpu();
        for (uint32_t i = from; i < from + count; i++)
            bench_ok(tnm_tensor_destroy(ctx, tensor[i]), "tnm_tensor_destroy");
        sample[r] = 1e9 * (bench_cpu() - begin) / count;
        for (uint32_t i = from; i < from + count; i++) {
            tensor[i] = bench_tensor(ctx, SIZE, NULL);
            pin_unpin(tensor[i], TNM_DISCARD);
        }
    }
    call_ns[scale][DESTROY] = bench_median(sample, ROUNDS);
}

/* ---- locked intervals of each kind of call ---- */

static void fill(void) { /* half of it evicts, dirty, while the tables grow */
    start(2);
    for (uint32_t i = 0; i < n; i++) {
        tensor[i] = bench_tensor(ctx, SIZE, NULL);
        if (i % 2 == 0) pin_unpin(tensor[i], TNM_DISCARD);
    }
    stop("create");
    start(2);
    for (uint32_t i = 1; i < n; i += 2)
        pin_unpin(tensor[i], TNM_DISCARD);
    stop("pin_new_evicts_dirty");
}

static void small_ops(uint32_t ops) {
    tnm_tensor_desc desc;
    tnm_tensor t;
    memset(&desc, 0, sizeof desc);
    desc.bytes = SIZE / 2;
    start(2);
    for (uint32_t i = 0; i < ops; i++) {
        bench_ok(tnm_tensor_view(ctx, tensor[(uint64_t)i * 7919 % n], SIZE / 2, &desc, &t), "view");
        bench_ok(tnm_tensor_destroy(ctx, t), "destroy");
    }
    stop("view");
    start(2);
    for (uint32_t i = 0; i < ops; i++)
        bench_ok(
            tnm_advise(ctx, tensor[(uint64_t)i * 7919 % n], i % 2 ? TNM_WONT_NEED : TNM_NORMAL),
            "advise");
    stop("advise");
    start(2);
    for (uint32_t i = 0; i < ops; i++) {
        uint32_t at = (uint32_t)((uint64_t)i * 7919 % n);
        bench_ok(tnm_tensor_destroy(ctx, tensor[at]), "destroy");
        tensor[at] = bench_tensor(ctx, SIZE, NULL);
        pin_unpin(tensor[at], TNM_DISCARD);
    }
    stop("destroy");
}

static void pins(uint32_t ops) {
    tnm_pinned pinned;
    tnm_result r;
    start(2);
    for (uint32_t i = 0; i < ops; i++)
        pin_unpin(missing(), TNM_WRITE);
    stop("pin_miss_dirty");
    start(2);
    for (uint32_t i = 0; i < ops; i++) {
        tnm_use use = bench_use(missing(), TNM_READ, 0);
        while ((r = tnm_try_pin(ctx, &use, 1, &pinned)) == TNM_PENDING)
            tnm_pump(ctx, TNM_ALL);
        bench_ok(r, "tnm_try_pin");
        bench_ok(tnm_unpin(ctx, &pinned, 1, 0), "tnm_unpin");
    }
    stop("try_pin_pump");
}

static void foresight(uint32_t ops) {
    uint32_t length = n / 10, i;
    tnm_use *cycle = (tnm_use *)bench_alloc(length, sizeof *cycle);
    start(2);
    for (i = 0; i < ops; i++) {
        tnm_use use = bench_use(missing(), TNM_READ, 1 + i / 16);
        bench_ok(tnm_prefetch(ctx, 1, &use, 1), "tnm_prefetch");
        if (i % 16) continue;
        bench_ok(tnm_step(ctx, 1, i / 16), "tnm_step");
        tnm_pump(ctx, 64 * SIZE);
    }
    stop("prefetch_pump");
    start(2);
    for (i = 0; i < ops; i++)
        bench_ok(tnm_cancel(ctx, &tensor[(uint64_t)i * 7919 % n], 1), "tnm_cancel");
    stop("cancel");
    for (i = 0; i < length; i++)
        cycle[i] = bench_use(tensor[(uint64_t)i * 7 % n], TNM_READ, i / 4);
    start(2);
    bench_ok(tnm_schedule(ctx, 0, cycle, (int)length, length / 4 + 1), "tnm_schedule");
    stop("schedule");
    start(2);
    for (i = 0; i < ops; i++) {
        bench_ok(tnm_step(ctx, 0, i), "tnm_step");
        tnm_pump(ctx, 64 * SIZE);
    }
    stop("step_pump");
    start(2);
    bench_ok(tnm_step(ctx, 0, length / 8), "tnm_step");
    stop("step_far");
    start(2);
    bench_ok(tnm_schedule(ctx, 0, NULL, 0, 0), "tnm_schedule");
    stop("schedule_forget");
    free(cycle);
}

static void flushes(uint32_t ops) {
    tnm_tensor all = { 0 };
    start(2);
    for (uint32_t i = 0; i < ops; i++)
        if (tnm_flush(ctx, tensor[n - 1 - i], 1) < 0) bench_die("tnm_flush failed");
    stop("flush_one");
    start(2);
    while (tnm_flush(ctx, all, 1) == TNM_PENDING)
        pump_out();
    stop("flush_all");
}

static void budgets(void) {
    uint64_t whole = bench_stats(ctx, 0).budget_bytes;
    tnm_result r;
    start(2);
    while ((r = tnm_set_budget(ctx, 0, whole - whole / 4)) == TNM_PENDING)
        pump_out();
    bench_ok(r, "tnm_set_budget");
    stop("budget_down");
    start(2);
    bench_ok(tnm_set_budget(ctx, 0, whole), "tnm_set_budget");
    stop("budget_up");
    for (uint32_t i = 0; i < n / 8; i++) /* full again */
        pin_unpin(missing(), TNM_READ);
}

static void sight(uint32_t ops) {
    tnm_tier_stats stats;
    tnm_shortage shortage;
    tnm_writer nowhere;
    memset(&nowhere, 0, sizeof nowhere);
    (void)nowhere;
    start(2);
    for (int i = 0; i < 3; i++)
        bench_ok(tnm_stats(ctx, i % 2, &stats), "tnm_stats");
    stop("stats");
    start(2);
    for (uint32_t i = 0; i < (ops < 20 ? ops : 20); i++) {
        tnm_use use = bench_use(missing(), TNM_READ, 0);
        bench_ok(tnm_why(ctx, &use, 1, &shortage), "tnm_why");
    }
    stop("why");
}

/* A pin in each segment, and a tensor as large as one: refused. */
static void refusal(void) {
    tnm_pinned pinned[SEGMENTS * 64], out;
    tnm_use use;
    uint32_t count = 0, step = n / 2 / (SEGMENTS * 4);
    for (uint32_t i = 0; i < n && count < SEGMENTS * 64; i += step) {
        use = bench_use(tensor[i], TNM_READ, 0);
        use.flags = TNM_IF_READY;
        if (tnm_pin(ctx, &use, 1, &pinned[count]) == TNM_OK) count++;
    }
    tnm_tensor large = bench_tensor(ctx, bench_stats(ctx, 0).budget_bytes / SEGMENTS, NULL);
    use = bench_use(large, TNM_DISCARD, 0);
    start(2);
    tnm_result r = tnm_pin(ctx, &use, 1, &out);
    stop("refusal");
    if (r != TNM_ERR_BUDGET) printf("# refusal: answered %s\n", tnm_result_string(r));
    if (r == TNM_OK) bench_ok(tnm_unpin(ctx, &out, 1, 0), "tnm_unpin");
    for (uint32_t i = 0; i < count; i++)
        bench_ok(tnm_unpin(ctx, &pinned[i], 1, 0), "tnm_unpin");
    bench_ok(tnm_tensor_destroy(ctx, large), "tnm_tensor_destroy");
}

static void ends(void) {
    tnm_use use = bench_use(missing(), TNM_READ, 0);
    tnm_pinned out;
    lost = 1;
    start(2);
    tnm_result r = tnm_pin(ctx, &use, 1, &out);
    if (r == TNM_OK) bench_die("a lost tier granted a pin");
    stop("lose_tier");
    lost = 0;
    start(2);
    bench_ok(tnm_destroy(ctx), "tnm_destroy");
    stop("close");
    if (paper.live_bytes) bench_die("memory was not given back");
    free(tensor);
}

static void scale(int at, uint32_t count) {
    static const char *const name[] = { "1k", "100k", "1m", "10m" };
    uint32_t ops = count / 16 < 4096 ? count / 16 : 4096;
    double begin = bench_wall();
    scale_name = name[at];
    open_field(count);
    fill();
    misses(at, MISS_DIRTY);
    pins(ops);
    calls(at, HIT, run_hit, ops);
    flushes(ops);
    misses(at, MISS_CLEAN);
    evictions(at);
    calls(at, CREATE, run_create, ops < 1024 ? ops : 1024);
    destroys(at);
    small_ops(ops);
    foresight(ops);
    refusal();
    sight(ops);
    budgets();
    ends();
    printf("# scale %s took %.1f s\n", scale_name, bench_wall() - begin);
    fflush(stdout);
    for (int c = 0; c < CALLS; c++) {
        char line[96];
        snprintf(line, sizeof line, "scale_%s_%s_call", call_name[c], scale_name);
        if (at > 0 && call_ns[0][c] > 0)
            bench_line(line, call_ns[at][c], "ns", "1k_live", call_ns[at][c] / call_ns[0][c],
                       BENCH_LE, 3);
        else
            printf("# %s %.0f ns\n", line, call_ns[at][c]);
    }
}

static int enough_memory(void) {
    long pages = sysconf(_SC_AVPHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages >= ((int64_t)6 << 30) / page;
}

int main(int argc, char **argv) {
    static const char *const name[] = { "1k", "100k", "1m", "10m" };
    static const uint32_t count[] = { 1000, 100000, 1000000, 10000000 };
    bench_machine("scale");
    held.wall = (float *)bench_alloc(SAMPLES, sizeof(float));
    held.cpu = (float *)bench_alloc(SAMPLES, sizeof(float));
    for (int s = 0; s < 4; s++) {
        int wanted = argc < 2;
        for (int i = 1; i < argc; i++)
            wanted |= strcmp(argv[i], name[s]) == 0;
        if (!wanted) continue;
        if (s == 3 && !enough_memory())
            printf("skip scale_10m: less than 6 GB of memory are free\n");
        else
            scale(s, count[s]);
    }
    return 0;
}
