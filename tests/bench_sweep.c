/* bench_sweep.c - a cyclic sweep whose order is declared: bytes moved per steady sweep.
 *
 * N bytes are swept through a tier of C. No method moves less than N - C. A periodic schedule
 * splits the tensors into kept and streamed ones, so that a sweep moves N - kept bytes, that is
 * (N - C) + W + P + g: W + P is the ring the streamed ones share (tnm_tier_stats.stream_bytes), g
 * what is left over, less than one tensor. The bound is computed from the engine's own W + P, and g
 * is allowed up to one largest tensor; so W + P has a line of its own.
 *
 * `pump` runs tnm_pump to rest after each tnm_step, as a program with overlap does; `demand` never
 * does. With equal sizes and one pinned at a time a second line compares with Belady's optimum on
 * demand plus one tensor, plus W where the engine chose a look-ahead. A plain LRU, the same calls
 * without the schedule, moves N: the contrast. The worst of the steady sweeps counts; what a
 * tier gets ahead over the end of a sweep counts in the sweep that uses it. The bytes are adopted
 * below, so nothing is written back.
 */
#include "bench.h"

enum { WARM = 3, STEADY = 4, MOST = 1024 };

typedef struct {
    const char *name;
    int count;  /* tensors */
    int in_set; /* tensors pinned together */
    uint64_t bytes[MOST];
    uint64_t total, largest;
} model;

static void model_add(model *m, uint64_t bytes) {
    m->bytes[m->count++] = bytes;
    m->total += bytes;
    if (bytes > m->largest) m->largest = bytes;
}

static void model_equal(model *m, int count) {
    memset(m, 0, sizeof *m);
    m->name = "equal";
    m->in_set = 1;
    for (int i = 0; i < count; i++)
        model_add(m, 1u << 20);
}

static void model_llama(model *m, int in_set) {
    memset(m, 0, sizeof *m);
    m->name = in_set > 1 ? "llama_layers" : "llama";
    m->in_set = in_set;
    for (int i = 0; i < BENCH_LLAMA_LAYERS * BENCH_LLAMA_PARTS; i++) {
        model_add(m, bench_llama_bytes(i % BENCH_LLAMA_PARTS));
    }
}

typedef struct {
    bench_paper paper;
    tnm_ctx *ctx;
    tnm_use use[MOST];
    const model *m;
    int tiers, pump;
    uint64_t step;
} sweep;

/* budgets[i] of every tier but the last, which is storage, where the bytes are. */
static void sweep_open(sweep *s, const model *m, const uint64_t *budgets, int tiers,
                       int scheduled) {
    static const char *const names[3] = { "device", "host", "storage" };
    tnm_tier_desc tier[3];
    tnm_desc desc;
    uint64_t offset = 0;
    memset(s, 0, sizeof *s);
    memset(&desc, 0, sizeof desc);
    for (int i = 0; i < tiers; i++) {
        tier[i] = bench_paper_tier(&s->paper, names[i], i < tiers - 1 ? budgets[i] : 0);
    }
    desc.tiers = tier;
    desc.tier_count = tiers;
    s->ctx = bench_create(&desc);
    s->m = m;
    s->tiers = tiers;
    for (int i = 0; i < m->count; i++) {
        tnm_tensor t = bench_adopt(s->ctx, tiers - 1, m->bytes[i], offset, NULL);
        s->use[i] = bench_use(t, TNM_READ, (uint64_t)(i / m->in_set));
        offset += m->bytes[i];
    }
    if (scheduled) {
        bench_ok(tnm_schedule(s->ctx, 0, s->use, m->count, (uint32_t)(m->count / m->in_set)),
                 "tnm_schedule");
    }
}

static void sweep_once(sweep *s) {
    tnm_pinned pinned[BENCH_LLAMA_PARTS];
    int set = s->m->in_set;
    for (int i = 0; i < s->m->count; i += set) {
        bench_ok(tnm_step(s->ctx, 0, s->step++), "tnm_step");
        while (s->pump && tnm_pump(s->ctx, TNM_ALL) == TNM_PENDING)
            continue;
        bench_ok(tnm_pin(s->ctx, &s->use[i], set, pinned), "tnm_pin");
        bench_ok(tnm_unpin(s->ctx, pinned, set, 0), "tnm_unpin");
    }
}

static uint64_t edge_into(const sweep *s, int tier) {
    uint64_t sum = 0;
    for (int from = 0; from < BENCH_TIERS; from++) {
        if (from != tier) sum += s->paper.moved[from][tier]; /* compaction is not traffic */
    }
    return sum;
}

static uint64_t edge_out_of(const sweep *s, int tier) {
    uint64_t sum = 0;
    for (int to = 0; to < BENCH_TIERS; to++) {
        if (to != tier) sum += s->paper.moved[tier][to];
    }
    return sum;
}

/* Fetched into a tier and not used yet, or on its way there: bytes that are here early. */
static uint64_t early_on(const sweep *s, int i, uint32_t tier) {
    const tnmi_engine *e = &s->ctx->e;
    tnm_result why;
    uint32_t content = tnmi_tensor_find(&e->tensors, s->use[i].tensor.id, &why);
    const tnmi_replica *replica = tnmi_engine_on(e, content, tier);
    if (tnmi_engine_is_busy(replica)) return tnmi_engine_filling(e, replica)->next;
    return replica && (replica->word & TNMI_FRESH) ? s->m->bytes[i] : 0;
}

static uint64_t ahead_on(const sweep *s, uint32_t tier) {
    uint64_t sum = 0;
    for (int i = 0; i < s->m->count; i++)
        sum += early_on(s, i, tier);
    return sum;
}

/* The same of what left storage, for whichever tier above it. */
static uint64_t ahead_of(const sweep *s, uint32_t storage) {
    uint64_t sum = 0;
    for (int i = 0; i < s->m->count; i++) {
        uint64_t most = 0;
        for (uint32_t t = 0; t < storage; t++) {
            uint64_t early = early_on(s, i, t);
            if (early > most) most = early;
        }
        sum += most;
    }
    return sum;
}

typedef struct {
    uint64_t device_in, storage_out; /* the worst steady sweep */
    uint64_t stream[2], kept[2];     /* of tier 0 and 1, at the end */
} sweep_result;

static sweep_result sweep_run(const model *m, const uint64_t *budgets, int tiers, int scheduled,
                              int pump) {
    static sweep s;
    sweep_result result;
    memset(&result, 0, sizeof result);
    sweep_open(&s, m, budgets, tiers, scheduled);
    s.pump = pump;
    for (int i = 0; i < WARM + STEADY; i++) {
        uint64_t in = edge_into(&s, 0) - ahead_on(&s, 0);
        uint64_t out = edge_out_of(&s, tiers - 1) - ahead_of(&s, (uint32_t)tiers - 1);
        sweep_once(&s);
        in = edge_into(&s, 0) - ahead_on(&s, 0) - in;
        out = edge_out_of(&s, tiers - 1) - ahead_of(&s, (uint32_t)tiers - 1) - out;
        if (i >= WARM && in > result.device_in) result.device_in = in;
        if (i >= WARM && out > result.storage_out) result.storage_out = out;
    }
    for (int t = 0; t < tiers - 1; t++) {
        tnm_tier_stats stats = bench_stats(s.ctx, t);
        result.stream[t] = stats.stream_bytes;
        result.kept[t] = stats.kept_bytes;
    }
    bench_ok(tnm_destroy(s.ctx), "tnm_destroy");
    return result;
}

static double mib(uint64_t bytes) {
    return (double)bytes / 1048576;
}

/* Neither kept nor ring: a remainder smaller than a tensor, or no split was made. */
static uint64_t leftover(const model *m, uint64_t budget, uint64_t kept, uint64_t stream) {
    uint64_t taken = kept + stream, rest = budget > taken ? budget - taken : 0;
    return rest < m->largest ? rest : m->largest;
}

/* ---- two tiers ---- */

/* Belady on demand: the tensor in use must be admitted. On a cycle of n with room for c it misses
 * n (n - c) / (n - 1) times a sweep in the long run. */
static double belady_bytes(const model *m, uint64_t budget) {
    double n = m->count, c = (double)(budget / m->largest);
    return n * (n - c) / (n - 1) * (double)m->largest;
}

static void two_tiers(const model *m, int percent, int pump) {
    uint64_t budget = m->total / 100 * (uint64_t)percent, least = m->total - budget;
    sweep_result plain = sweep_run(m, &budget, 2, 0, 0);
    sweep_result r = sweep_run(m, &budget, 2, 1, pump);
    uint64_t g = leftover(m, budget, r.kept[0], r.stream[0]);
    double bound = (double)(least + r.stream[0] + g), moved = (double)r.device_in;
    char base[64], name[96];
    snprintf(base, sizeof base, "sweep_%s_c%d_%s", m->name, percent, pump ? "pump" : "demand");
    printf("# %s: N=%.1f C=%.1f N-C=%.1f W+P=%.1f g=%.1f kept=%.1f moved=%.1f lru=%.1f MiB\n", base,
           mib(m->total), mib(budget), mib(least), mib(r.stream[0]), mib(g), mib(r.kept[0]),
           mib(r.device_in), mib(plain.device_in));
    bench_line(base, moved / 1048576, "MiB", "bound_N-C+W+P+g", moved / bound, BENCH_LE, 1);
    snprintf(name, sizeof name, "%s_vs_lru", base);
    bench_line(name, moved / 1048576, "MiB", "lru_no_schedule", moved / (double)plain.device_in,
               BENCH_LT, 1);
    if (m->in_set > 1) return;
    if (strcmp(m->name, "equal") == 0) {
        double ahead = (double)(r.stream[0] > m->largest ? r.stream[0] - m->largest : 0); /* W */
        snprintf(name, sizeof name, "%s_vs_optimum", base);
        bench_line(name, moved / 1048576, "MiB", "belady_plus_one_tensor_plus_W",
                   moved / (belady_bytes(m, budget) + (double)m->largest + ahead), BENCH_LE, 1);
    } else {
        snprintf(name, sizeof name, "%s_ring", base);
        bench_line(name, mib(r.stream[0]), "MiB", "N-C", (double)r.stream[0] / (double)least,
                   BENCH_LE, 0.05);
    }
}

/* ---- three tiers: device 25 %, host 50 %, the model adopted in storage ---- */

static void three_tiers(const model *m, int pump) {
    uint64_t budget[2] = { m->total / 4, m->total / 2 };
    uint64_t least = m->total - budget[0] - budget[1], spare[2];
    sweep_result plain = sweep_run(m, budget, 3, 0, 0);
    sweep_result r = sweep_run(m, budget, 3, 1, pump);
    double bound, device;
    char base[64], name[96];
    for (int t = 0; t < 2; t++) {
        spare[t] = r.stream[t] + leftover(m, budget[t], r.kept[t], r.stream[t]);
    }
    bound = (double)(least + spare[0] + spare[1]);
    device = (double)(m->total - budget[0] + spare[0]);
    snprintf(base, sizeof base, "sweep3_%s_%s", m->name, pump ? "pump" : "demand");
    printf("# %s: N=%.1f device=%.1f host=%.1f least=%.1f device W+P=%.1f kept=%.1f host W+P=%.1f "
           "kept=%.1f from storage=%.1f lru=%.1f MiB\n",
           base, mib(m->total), mib(budget[0]), mib(budget[1]), mib(least), mib(r.stream[0]),
           mib(r.kept[0]), mib(r.stream[1]), mib(r.kept[1]), mib(r.storage_out),
           mib(plain.storage_out));
    snprintf(name, sizeof name, "%s_storage", base);
    bench_line(name, mib(r.storage_out), "MiB", "bound_N-C+W+P+g", (double)r.storage_out / bound,
               BENCH_LE, 1);
    snprintf(name, sizeof name, "%s_device", base);
    bench_line(name, mib(r.device_in), "MiB", "bound_N-C+W+P+g", (double)r.device_in / device,
               BENCH_LE, 1);
    snprintf(name, sizeof name, "%s_storage_vs_lru", base);
    bench_line(name, mib(r.storage_out), "MiB", "lru_no_schedule",
               (double)r.storage_out / (double)plain.storage_out, BENCH_LT, 1);
}

int main(void) {
    static const int percent[4] = { 25, 50, 75, 90 };
    static model equal, llama, layers;
    bench_machine("sweep");
    model_equal(&equal, 200);
    model_llama(&llama, 1);
    model_llama(&layers, BENCH_LLAMA_PARTS);
    for (int pump = 0; pump <= 1; pump++) {
        for (int i = 0; i < 4; i++)
            two_tiers(&equal, percent[i], pump);
        for (int i = 0; i < 4; i++)
            two_tiers(&llama, percent[i], pump);
        for (int i = 0; i < 4; i++)
            two_tiers(&layers, percent[i], pump);
        three_tiers(&equal, pump);
        three_tiers(&llama, pump);
        three_tiers(&layers, pump);
    }
    return 0;
}
