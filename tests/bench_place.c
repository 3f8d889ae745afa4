/* needs: -lm -ldl */
/* bench_place.c - names and places: what they cost, how many bytes of books they need, and how full
 * they keep a tier.
 *
 * place_*  a tensor is made, pinned with DISCARD, unpinned and destroyed, while n others live.
 *          `fresh` is the newest tensor coming and going; `churn` replaces a random one of the n,
 *          so that its records are cold, and how that grows with n is the machine's caches: no
 *          target beyond 1 k. The memory is paper: only the books work. Beside it, malloc and free
 *          of the same sizes under the same regime: glibc's here, jemalloc's and mimalloc's in a
 *          child of this program that is started with them preloaded. They keep no names, no
 *          generations and no order of leaving, so there is no target against them.
 * space_*  the placement alone: a random one of the blocks goes and one of another's size comes,
 *          with 93 % of the granules taken. What finds no gap counts as failed.
 * meta_*   bytes asked of the context's allocator for each tensor. With all tables fixed at create:
 *          divided by the number of tensors. With tables that grow: what twice as many tensors take
 *          more, full both times; tables double, so just grown ones have twice the bytes.
 * fill_*   a tier of 32 of its largest tensors, clean tensors loaded on demand, three times as many
 *          bytes as fit. `resident` is the time average of placed bytes / budget; `misses` compares
 *          loaded bytes with an ideal LRU of the same budget that never fragments.
 */
#include "bench.h"
#include <dlfcn.h>
#include <math.h>

/* ---- create, pin, unpin, destroy ---- */

enum { SCALES = 3, ROUNDS = 9, OPS = 20000, SIZES = 4096 };

static const uint32_t scale_count[SCALES] = { 1000, 100000, 1000000 };
static const char *const scale_name[SCALES] = { "1k", "100k", "1m" };
static uint32_t small_size[SIZES]; /* log-uniform, 64 .. 512 bytes */

typedef struct {
    bench_paper paper;
    tnm_ctx *ctx;
    tnm_tensor *tensor;
    void **block; /* the rival's */
    uint32_t count;
    uint64_t seed;
} field;

static tnm_tensor field_make(field *f, uint32_t size) {
    tnm_tensor_desc desc;
    tnm_tensor t;
    tnm_use use;
    tnm_pinned pinned;
    memset(&desc, 0, sizeof desc);
    desc.bytes = size;
    if (tnm_tensor_create(f->ctx, &desc, &t) != TNM_OK) bench_die("create failed");
    use = bench_use(t, TNM_DISCARD, 0);
    if (tnm_pin(f->ctx, &use, 1, &pinned) != TNM_OK) bench_die("pin failed");
    if (tnm_unpin(f->ctx, &pinned, 1, 0) != TNM_OK) bench_die("unpin failed");
    return t;
}

static void field_drop(field *f, tnm_tensor t) {
    if (tnm_tensor_destroy(f->ctx, t) != TNM_OK) bench_die("destroy failed");
}

static void *block_make(uint32_t size) {
    char *p = (char *)malloc(size);
    if (!p) bench_die("out of memory");
    *(volatile char *)p = 1; /* as a user would; also keeps the pair from being optimised away */
    return p;
}

static void field_open(field *f, uint32_t count) {
    tnm_tier_desc tier;
    tnm_desc desc;
    memset(f, 0, sizeof *f);
    memset(&desc, 0, sizeof desc);
    tier = bench_paper_tier(&f->paper, "paper", UINT64_C(16) << 30);
    tier.alignment = 64;
    desc.tiers = &tier;
    desc.tier_count = 1;
    f->ctx = bench_create(&desc);
    f->count = count;
    f->seed = count;
    f->tensor = (tnm_tensor *)bench_alloc(count, sizeof *f->tensor);
    f->block = (void **)bench_alloc(count, sizeof *f->block);
    for (uint32_t i = 0; i < count; i++)
        f->tensor[i] = field_make(f, small_size[i % SIZES]);
    for (uint32_t i = 0; i < count; i++)
        f->block[i] = block_make(small_size[i % SIZES]);
}

static void field_close(field *f) {
    for (uint32_t i = 0; i < f->count; i++)
        free(f->block[i]);
    bench_ok(tnm_destroy(f->ctx), "tnm_destroy");
    if (f->paper.live_bytes) bench_die("memory was not given back");
    free(f->tensor);
    free(f->block);
}

static double field_fresh(field *f, uint32_t ops) {
    double begin = bench_cpu();
    for (uint32_t i = 0; i < ops; i++)
        field_drop(f, field_make(f, small_size[i % SIZES]));
    return 1e9 * (bench_cpu() - begin) / ops;
}

static double field_churn(field *f, uint32_t ops) {
    double begin = bench_cpu();
    for (uint32_t i = 0; i < ops; i++) {
        uint64_t r = bench_random(&f->seed);
        tnm_tensor *t = &f->tensor[(uint32_t)(r >> 32) % f->count];
        field_drop(f, *t);
        *t = field_make(f, small_size[r % SIZES]);
    }
    return 1e9 * (bench_cpu() - begin) / ops;
}

static double block_fresh(uint32_t ops) {
    double begin = bench_cpu();
    for (uint32_t i = 0; i < ops; i++)
        free(block_make(small_size[i % SIZES]));
    return 1e9 * (bench_cpu() - begin) / ops;
}

static double block_churn(void **blocks, uint32_t count, uint64_t *seed, uint32_t ops) {
    double begin = bench_cpu();
    for (uint32_t i = 0; i < ops; i++) {
        uint64_t r = bench_random(seed);
        void **p = &blocks[(uint32_t)(r >> 32) % count];
        free(*p);
        *p = block_make(small_size[r % SIZES]);
    }
    return 1e9 * (bench_cpu() - begin) / ops;
}

/* ---- other allocators: this program once more, with one of them in place of malloc ---- */

static void draw_sizes(void) {
    uint64_t seed = 1;
    for (int i = 0; i < SIZES; i++)
        small_size[i] = (uint32_t)(64 * pow(8, bench_unit(&seed)));
}

/* In the child. marker: a function only that library has. */
static int rival_child(const char *marker) {
    void *self = dlopen(NULL, RTLD_LAZY);
    if (!self || !dlsym(self, marker)) return 2;
    draw_sizes();
    for (int s = 0; s < SCALES; s++) {
        uint32_t n = scale_count[s];
        void **blocks = (void **)bench_alloc(n, sizeof *blocks);
        double fresh[ROUNDS], churn[ROUNDS];
        uint64_t seed = n;
        for (uint32_t i = 0; i < n; i++)
            blocks[i] = block_make(small_size[i % SIZES]);
        block_churn(blocks, n, &seed, n);
        for (int r = 0; r < ROUNDS; r++) {
            fresh[r] = block_fresh(OPS);
            churn[r] = block_churn(blocks, n, &seed, OPS);
        }
        printf("%g %g ", bench_median(fresh, ROUNDS), bench_median(churn, ROUNDS));
        for (uint32_t i = 0; i < n; i++)
            free(blocks[i]);
        free(blocks);
    }
    return 0;
}

static void rival(const char *program, const char *name, const char *library, const char *marker,
                  double mid[SCALES][2]) {
    char command[1024];
    double v[2 * SCALES];
    int got = 0;
    FILE *child;
    snprintf(command, sizeof command, "LD_PRELOAD=%s '%s' --blocks %s 2>/dev/null", library,
             program, marker);
    child = popen(command, "r");
    if (child)
        while (got < 2 * SCALES && fscanf(child, "%lf", &v[got]) == 1)
            got++;
    if (!child || pclose(child) != 0 || got < 2 * SCALES) {
        printf("skip place_%s: %s is not installed\n", name, library);
        return;
    }
    for (int s = 0; s < SCALES; s++)
        printf("# place %s live against %s: malloc+free fresh %.1f ns (ours %.1f x), churn %.1f ns "
               "(ours %.1f x)\n",
               scale_name[s], name, v[2 * s], mid[s][0] / v[2 * s], v[2 * s + 1],
               mid[s][1] / v[2 * s + 1]);
}

enum { FRESH, CHURN, BLOCK_FRESH, BLOCK_CHURN, KINDS };

static void place_report(double mid[SCALES][KINDS]) {
    char name[64];
    for (int s = 0; s < SCALES; s++) {
        printf("# place %s live: fresh %.0f ns (malloc+free %.0f), churn %.0f ns (malloc+free "
               "%.0f)\n",
               scale_name[s], mid[s][FRESH], mid[s][BLOCK_FRESH], mid[s][CHURN],
               mid[s][BLOCK_CHURN]);
    }
    bench_line("place_fresh_1k", mid[0][FRESH], "ns", "limit_100ns", mid[0][FRESH] / 100, BENCH_LE,
               1);
    bench_line("place_churn_1k", mid[0][CHURN], "ns", "limit_100ns", mid[0][CHURN] / 100, BENCH_LE,
               1);
    for (int s = 1; s < SCALES; s++) {
        snprintf(name, sizeof name, "place_fresh_%s", scale_name[s]);
        bench_line(name, mid[s][FRESH], "ns", "1k_live", mid[s][FRESH] / mid[0][FRESH], BENCH_LE,
                   3);
    }
}

static void place(const char *program) {
    static field f[SCALES];
    static double sample[SCALES][KINDS][ROUNDS], mid[SCALES][KINDS], ours[SCALES][2];
    draw_sizes();
    for (int s = 0; s < SCALES; s++)
        field_open(&f[s], scale_count[s]);
    for (int s = 0; s < SCALES; s++)
        field_churn(&f[s], scale_count[s]); /* a worn field */
    for (int r = 0; r < ROUNDS; r++) {
        for (int s = 0; s < SCALES; s++) {
            sample[s][FRESH][r] = field_fresh(&f[s], OPS);
            sample[s][BLOCK_FRESH][r] = block_fresh(OPS);
            sample[s][CHURN][r] = field_churn(&f[s], OPS);
            sample[s][BLOCK_CHURN][r] = block_churn(f[s].block, f[s].count, &f[s].seed, OPS);
        }
    }
    for (int s = 0; s < SCALES; s++) {
        for (int k = 0; k < KINDS; k++)
            mid[s][k] = bench_median(sample[s][k], ROUNDS);
        ours[s][0] = mid[s][FRESH];
        ours[s][1] = mid[s][CHURN];
        field_close(&f[s]);
    }
    place_report(mid);
    rival(program, "jemalloc", "libjemalloc.so.2", "mallctl", ours);
    rival(program, "mimalloc", "libmimalloc.so.2.0", "mi_version", ours);
}

/* ---- the placement alone, 93 % full ---- */

enum { SPACE_OPS = 200000, SPACE_MOST = 1 << 16 };

typedef struct {
    uint32_t node, size; /* node TNMI_NONE: it found no gap, and waits for its turn */
} space_block;

/* Blocks of `least` to `least` * `range` granules in `granules`; ns a free and a take. */
static void space_churn(const char *name, uint32_t granules, uint32_t least, double range) {
    static tnmi_space space;
    static space_block block[SPACE_MOST];
    tnmi_room room = { 0, 1, 0, 0, TNMI_NONE, 0 };
    uint64_t seed = 7, used = 0, failed = 0;
    uint32_t count = 0, carried;
    double begin, ns;
    void *chunk;
    memset(&space, 0, sizeof space);
    tnmi_space_init(&space, 2 * SPACE_MOST + 64, 1);
    chunk = bench_alloc(1, (size_t)tnmi_store_grow_bytes(&space.nodes));
    tnmi_store_grow(&space.nodes, chunk);
    tnmi_space_open(&space, 0, granules);
    while (count < SPACE_MOST) {
        space_block *b = &block[count];
        b->size = (uint32_t)(least * pow(range, bench_unit(&seed)));
        if (used + b->size > granules / 100 * 93) break;
        room.need = b->size;
        b->node = tnmi_space_find(&space, &room);
        if (b->node == TNMI_NONE) break;
        tnmi_space_take(&space, b->node, &room, count++);
        used += b->size;
    }
    carried = block[0].size;
    begin = bench_cpu();
    for (uint32_t i = 0; i < SPACE_OPS; i++) {
        space_block *b = &block[bench_below(&seed, count)];
        uint32_t size = b->size;
        if (b->node != TNMI_NONE) tnmi_space_free(&space, b->node, TNMI_NONE);
        room.need = b->size = carried;
        carried = size;
        b->node = tnmi_space_find(&space, &room);
        if (b->node != TNMI_NONE)
            tnmi_space_take(&space, b->node, &room, 0);
        else
            failed++;
    }
    ns = 1e9 * (bench_cpu() - begin) / SPACE_OPS;
    printf("# space %s: %u blocks, %.1f %% full at the start, free+take %.1f ns, failed %.2f %%\n",
           name, count, 100.0 * (double)used / granules, ns, 100.0 * (double)failed / SPACE_OPS);
    free(chunk);
}

static void space_alone(void) {
    printf("# space: others' figures on the machine of the reference (not run here, another mix of "
           "sizes): "
           "OffsetAllocator 31-60 ns, 0.5-1.6 %%; VMA's virtual block 36-152, 0-1.9 %%; TLSF "
           "36-597\n");
    space_churn("64k_16m", 1u << 18, 16, 256); /* 1 GiB of 4 KiB granules */
    space_churn("64k_512k", 1u << 20, 16, 8);  /* 4 GiB */
    space_churn("16k", 1u << 17, 4, 1);        /* equal blocks */
}

/* 10 M live tensors must be possible; said, not compared. Left out on small machines. */
static void place_10m(void) {
    static field f;
    double begin = bench_cpu(), made;
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages < ((int64_t)8 << 30) / page) return;
    memset(&f, 0, sizeof f);
    {
        tnm_tier_desc tier = bench_paper_tier(&f.paper, "paper", UINT64_C(16) << 30);
        tnm_desc desc;
        memset(&desc, 0, sizeof desc);
        tier.alignment = 64;
        desc.tiers = &tier;
        desc.tier_count = 1;
        f.ctx = bench_create(&desc);
    }
    for (uint32_t i = 0; i < 10000000; i++)
        field_make(&f, small_size[i % SIZES]);
    made = 1e9 * (bench_cpu() - begin) / 1e7;
    printf("# place 10m live: %.0f ns to make one, fresh %.0f ns\n", made, field_fresh(&f, OPS));
    fflush(stdout);
    bench_ok(tnm_destroy(f.ctx), "tnm_destroy");
}

/* ---- bytes of books per tensor ---- */

typedef struct {
    uint64_t live, peak;
} purse;

static void *purse_alloc(void *user, size_t size) {
    purse *p = (purse *)user;
    p->live += size;
    if (p->live > p->peak) p->peak = p->live;
    return malloc(size);
}

static void purse_release(void *user, void *ptr, size_t size) {
    purse *p = (purse *)user;
    p->live -= size;
    free(ptr);
}

enum meta_kind { META_ONE, META_TWO, META_ADOPTED };

/* Bytes per tensor with n of them: one placed replica, two, or one over an adopted one. With
 * `fixed` every table has the size it needs from the start; else they grow, by doubling. */
static double meta_bytes(enum meta_kind kind, uint32_t n, int fixed, int learns) {
    static bench_paper paper;
    purse p = { 0, 0 };
    tnm_tier_desc tiers[2];
    tnm_desc desc;
    tnm_ctx *ctx;
    double bytes;
    memset(&desc, 0, sizeof desc);
    tiers[0] = bench_paper_tier(&paper, "fast", UINT64_C(8) << 30);
    tiers[1] = bench_paper_tier(&paper, "slow", UINT64_C(8) << 30);
    desc.tiers = tiers;
    desc.tier_count = 2;
    desc.user = &p;
    desc.alloc = purse_alloc;
    desc.release = purse_release;
    desc.policy = learns ? TNM_POLICY_AUTO : TNM_POLICY_LRU;
    if (fixed) {
        desc.max_tensors = n;
        desc.max_replicas = kind == META_ONE ? n : 2 * n;
        desc.max_uses = 16;
        desc.max_fences = 16;
    }
    ctx = bench_create(&desc);
    for (uint32_t i = 0; i < n; i++) {
        if (kind == META_ADOPTED) {
            bench_touch(ctx, bench_adopt(ctx, 1, 512, (uint64_t)i * 512, NULL), TNM_READ);
        } else {
            tnm_tensor t = bench_tensor(ctx, 512, NULL);
            bench_touch(ctx, t, TNM_DISCARD);
            if (kind == META_TWO) { /* a copy below, and the one above stays */
                while (tnm_flush(ctx, t, 1) == TNM_PENDING)
                    tnm_pump(ctx, TNM_ALL);
            }
        }
    }
    if (bench_stats(ctx, 0).tensors != n) bench_die("not every tensor is on the fast tier");
    if (kind != META_ONE && bench_stats(ctx, 1).tensors != n) bench_die("no second replica");
    bytes = (double)p.live / n;
    bench_ok(tnm_destroy(ctx), "tnm_destroy");
    if (p.live) bench_die("the allocator's books do not balance");
    return bytes;
}

static void meta_report(const char *tables, double one, double two, double adopted) {
    char name[64];
    snprintf(name, sizeof name, "meta_one_placed_%s", tables);
    bench_line(name, one, "B", "limit_160B", one / 160, BENCH_LE, 1);
    snprintf(name, sizeof name, "meta_second_placed_%s", tables);
    bench_line(name, two - one, "B", "limit_72B", (two - one) / 72, BENCH_LE, 1);
    snprintf(name, sizeof name, "meta_adopted_below_%s", tables);
    bench_line(name, adopted - one, "B", "limit_32B", (adopted - one) / 32, BENCH_LE, 1);
}

static void meta(void) {
    const uint32_t n = 1u << 16, spare = 8; /* a gap, an edge, and what one more place would take */
    double grown[4];
    meta_report("fixed", meta_bytes(META_ONE, n, 1, 0), meta_bytes(META_TWO, n, 1, 0),
                meta_bytes(META_ADOPTED, n, 1, 0));
    for (int k = 0; k < 4; k++) { /* the last: one, and what TNM_POLICY_AUTO learns of it */
        enum meta_kind kind = k < 3 ? (enum meta_kind)k : META_ONE;
        double most = meta_bytes(kind, n - spare, 0, k == 3) * (n - spare);
        double half = meta_bytes(kind, n / 2 - spare, 0, k == 3) * (n / 2 - spare);
        grown[k] = (most - half) / (n / 2);
    }
    meta_report("growing", grown[META_ONE], grown[META_TWO], grown[META_ADOPTED]);
    bench_line("meta_one_placed_auto", grown[3], "B", "limit_160B", grown[3] / 160, BENCH_LE, 1);
}

/* ---- how full, and what it costs in reloads ---- */

typedef struct {
    uint64_t bytes;
    int prev, next; /* the ideal LRU's list; -1 ends it */
    int resident;
} item;

typedef struct {
    item *items;
    int count, head, tail;
    uint64_t used, budget, missed;
} ideal;

static void ideal_unlink(ideal *l, int i) {
    item *e = &l->items[i];
    if (e->prev >= 0) {
        l->items[e->prev].next = e->next;
    } else {
        l->head = e->next;
    }
    if (e->next >= 0) {
        l->items[e->next].prev = e->prev;
    } else {
        l->tail = e->prev;
    }
}

static void ideal_front(ideal *l, int i) {
    item *e = &l->items[i];
    e->prev = -1;
    e->next = l->head;
    if (l->head >= 0) {
        l->items[l->head].prev = i;
    } else {
        l->tail = i;
    }
    l->head = i;
}

static void ideal_touch(ideal *l, int i) {
    item *e = &l->items[i];
    if (e->resident) {
        ideal_unlink(l, i);
        ideal_front(l, i);
        return;
    }
    l->missed += e->bytes;
    l->used += e->bytes;
    while (l->used > l->budget) {
        int old = l->tail;
        ideal_unlink(l, old);
        l->items[old].resident = 0;
        l->used -= l->items[old].bytes;
    }
    e->resident = 1;
    ideal_front(l, i);
}

/* Popularity falls with the 0.8th power of the rank, ranks are shuffled: hot and cold, large and
 * small, in no relation. Returns the cumulative weights. */
static double *popularity(int count, uint64_t *seed) {
    double *weight = (double *)bench_alloc((size_t)count, sizeof *weight), sum = 0;
    for (int i = 0; i < count; i++)
        weight[i] = pow(i + 1, -0.8);
    for (int i = count - 1; i > 0; i--) {
        int j = (int)bench_below(seed, (uint64_t)i + 1);
        double w = weight[i];
        weight[i] = weight[j];
        weight[j] = w;
    }
    for (int i = 0; i < count; i++) {
        sum += weight[i];
        weight[i] = sum;
    }
    return weight;
}

static int pick(const double *sums, int count, uint64_t *seed) {
    double x = bench_unit(seed) * sums[count - 1];
    int low = 0, high = count - 1;
    while (low < high) {
        int mid = (low + high) / 2;
        if (sums[mid] > x) {
            high = mid;
        } else {
            low = mid + 1;
        }
    }
    return low;
}

typedef struct {
    double resident, misses; /* of the budget; against the ideal */
} fill_result;

static fill_result fill_run(const uint64_t *bytes, int count, uint64_t budget, uint64_t seed) {
    enum { ACCESSES = 40000, WARM = 10000 };
    static bench_paper paper;
    tnm_tier_desc tiers[2];
    tnm_desc desc;
    tnm_ctx *ctx;
    tnm_tensor *t = (tnm_tensor *)bench_alloc((size_t)count, sizeof *t);
    ideal l = { NULL, count, -1, -1, 0, budget, 0 };
    double *sums = popularity(count, &seed);
    fill_result result = { 0, 0 };
    uint64_t moved = 0;
    l.items = (item *)bench_alloc((size_t)count, sizeof *l.items);
    memset(&paper, 0, sizeof paper);
    memset(&desc, 0, sizeof desc);
    tiers[0] = bench_paper_tier(&paper, "fast", budget);
    tiers[1] = bench_paper_tier(&paper, "slow", 0);
    desc.tiers = tiers;
    desc.tier_count = 2;
    ctx = bench_create(&desc);
    for (int i = 0; i < count; i++) {
        l.items[i].bytes = bytes[i];
        t[i] = bench_adopt(ctx, 1, bytes[i], 0, NULL);
    }
    for (int a = 0; a < ACCESSES; a++) {
        int i = pick(sums, count, &seed);
        if (a == WARM) l.missed = 0;
        if (a == WARM) moved = paper.moved[1][0];
        ideal_touch(&l, i);
        bench_touch(ctx, t[i], TNM_READ);
        if (a >= WARM) result.resident += (double)bench_stats(ctx, 0).used_bytes;
    }
    result.resident /= (double)(ACCESSES - WARM) * (double)budget;
    result.misses = (double)(paper.moved[1][0] - moved) / (double)l.missed;
    bench_ok(tnm_destroy(ctx), "tnm_destroy");
    free(l.items);
    free(sums);
    free(t);
    return result;
}

static void fill_report(const char *sizes, fill_result *runs, int count) {
    double resident[16], misses[16];
    char name[64];
    double r, m;
    for (int i = 0; i < count; i++)
        resident[i] = runs[i].resident;
    for (int i = 0; i < count; i++)
        misses[i] = runs[i].misses;
    r = bench_median(resident, count);
    m = bench_median(misses, count);
    snprintf(name, sizeof name, "fill_%s_resident", sizes);
    bench_line(name, r, "of_budget", "budget", r, BENCH_GE, 0.98);
    snprintf(name, sizeof name, "fill_%s_misses", sizes);
    bench_line(name, m, "of_ideal", "ideal_paged_lru", m, BENCH_LE, 1.03);
    printf("# %d seeds: resident %.4f .. %.4f, misses %.4f .. %.4f\n", count, resident[0],
           resident[count - 1], misses[0], misses[count - 1]);
}

static void fill(void) {
    enum { SEEDS = 5, MANY = 4096 };
    static uint64_t bytes[MANY];
    fill_result runs[SEEDS];
    const uint64_t largest = UINT64_C(16) << 20;
    for (int s = 0; s < SEEDS; s++) {
        uint64_t seed = 100 + (uint64_t)s, sum = 0;
        int n = 0;
        while (n < MANY && sum < 3 * 32 * largest) { /* 64 KiB .. 16 MiB */
            bytes[n] = (uint64_t)(65536 * pow(256, bench_unit(&seed))) / 256 * 256;
            sum += bytes[n++];
        }
        runs[s] = fill_run(bytes, n, 32 * largest, seed);
    }
    fill_report("log_uniform", runs, SEEDS);
    for (int s = 0; s < SEEDS; s++) {
        int n = BENCH_LLAMA_LAYERS * BENCH_LLAMA_PARTS;
        for (int i = 0; i < n; i++)
            bytes[i] = bench_llama_bytes(i % BENCH_LLAMA_PARTS);
        runs[s] = fill_run(bytes, n, 32 * bench_llama_bytes(BENCH_LLAMA_PARTS - 1), (uint64_t)s);
    }
    fill_report("llama_8b", runs, SEEDS);
}

int main(int argc, char **argv) {
    if (argc > 2 && strcmp(argv[1], "--blocks") == 0) return rival_child(argv[2]);
    bench_machine("place");
    place(argv[0]);
    space_alone();
    place_10m();
    meta();
    fill();
    return 0;
}
