/* 05_moe_experts (difficulty 4 of 5): a mixture of experts of which the device holds a third. The
 * dense layers come in a known order: a schedule. A router chooses the experts at the last moment:
 * where one is on the device it runs there (TNM_IF_READY never waits), else the CPU runs it from
 * host memory. What the router will probably choose in the next layer is announced as a guess, and
 * no guess pushes out what is needed sooner. Runs without and with guesses, checks every byte. */
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"

#include <stdio.h>

enum { LAYERS = 6, EXPERTS = 16, TOP = 2, TOKENS = 80, LANE = 0 };
enum { DEVICE, HOST };
enum { DENSE_BYTES = 64 << 10, EXPERT_BYTES = 32 << 10, DEVICE_BYTES = 1280 << 10 };

typedef struct weights {
    tnm_tensor tensor;
    uint64_t sum; /* of its 64-bit words: what a "matrix product" must find */
} weights;

typedef struct model {
    tnm_ctx *mem;
    weights dense[LAYERS], expert[LAYERS][EXPERTS];
    uint64_t random, on_device, on_host;
    int guesses, wrong;
} model;

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static int build(model *m, weights *w, uint64_t bytes, uint64_t seed) {
    tnm_tensor_desc desc = { .dtype = TNM_I64, .shape = { (int64_t)(bytes / 8) } };
    tnm_use use = { .tier = HOST, .access = TNM_DISCARD };
    tnm_pinned at;
    if (tnm_tensor_create(m->mem, &desc, &w->tensor) < 0) return 0;
    use.tensor = w->tensor;
    if (tnm_pin(m->mem, &use, 1, &at) != TNM_OK) return 0;
    uint64_t *word = (uint64_t *)at.host;
    for (uint64_t i = 0; i < bytes / 8; i++)
        w->sum += (word[i] = next_random(&seed));
    return tnm_unpin(m->mem, &at, 1, 0) == TNM_OK;
}

/* Computes on one tensor where it is asked to; OK, ABSENT or an error. */
static tnm_result compute(model *m, const weights *w, int tier, uint32_t flags) {
    tnm_use use = { .tensor = w->tensor, .tier = tier, .flags = flags };
    tnm_pinned at;
    uint64_t sum = 0;
    tnm_result r = tnm_pin(m->mem, &use, 1, &at);
    if (r != TNM_OK) return r;
    for (uint64_t i = 0; i < at.bytes / 8; i++)
        sum += ((const uint64_t *)at.host)[i];
    m->wrong += sum != w->sum;
    return tnm_unpin(m->mem, &at, 1, 0);
}

/* Hot experts are likely; the router of a layer prefers others than that of the next. */
static void route(model *m, int layer, int out[TOP]) {
    for (int i = 0; i < TOP; i++) {
        uint64_t r = next_random(&m->random);
        uint64_t a = r % EXPERTS, b = (r >> 20) % EXPERTS, c = (r >> 40) % EXPERTS;
        uint64_t low = a < b ? a : b;
        out[i] = (int)(((low < c ? low : c) + (uint64_t)layer * 5) % EXPERTS);
    }
}

/* A router run one layer early is right most of the time, not always. */
static int guess(model *m, const int *next, int layer, uint64_t step) {
    tnm_use uses[TOP];
    for (int i = 0; i < TOP; i++) {
        uint64_t r = next_random(&m->random);
        int expert = r % 10 < 7 ? next[i] : (int)((r >> 8) % EXPERTS);
        uses[i] = (tnm_use){ .tensor = m->expert[layer][expert].tensor, .tier = DEVICE };
        uses[i].step = step;
    }
    return !m->guesses || tnm_prefetch(m->mem, LANE, uses, TOP) == TNM_OK;
}

static int run_layer(model *m, uint64_t step, const int *chosen, const int *next) {
    int layer = (int)(step % LAYERS);
    if (tnm_step(m->mem, LANE, step) < 0) return 0;
    if (!guess(m, next, (layer + 1) % LAYERS, step + 1)) return 0;
    if (compute(m, &m->dense[layer], DEVICE, 0) != TNM_OK) return 0;
    for (int i = 0; i < TOP; i++) {
        const weights *w = &m->expert[layer][chosen[i]];
        tnm_result r = compute(m, w, DEVICE, TNM_IF_READY);
        m->on_device += r == TNM_OK;
        if (r == TNM_ABSENT) {
            m->on_host++;
            r = compute(m, w, HOST, 0);
        }
        if (r != TNM_OK) return 0;
    }
    return tnm_pump(m->mem, TNM_ALL) >= 0; /* moves what the next layer needs */
}

static int load(model *m) {
    static const tnm_tier_desc tiers[2] = { { .name = "device", .budget_bytes = DEVICE_BYTES },
                                            { .name = "host" } };
    tnm_desc desc = { .tiers = tiers, .tier_count = 2 };
    tnm_use cycle[LAYERS];
    uint64_t seed = 1;
    if (tnm_create(&desc, &m->mem) != TNM_OK) return 0;
    for (int l = 0; l < LAYERS; l++) {
        if (!build(m, &m->dense[l], DENSE_BYTES, seed++)) return 0;
        for (int e = 0; e < EXPERTS; e++)
            if (!build(m, &m->expert[l][e], EXPERT_BYTES, seed++)) return 0;
        cycle[l] = (tnm_use){ .tensor = m->dense[l].tensor, .tier = DEVICE, .step = (uint64_t)l };
    }
    return tnm_schedule(m->mem, LANE, cycle, LAYERS, LAYERS) == TNM_OK;
}

static int run_tokens(model *m) {
    int chosen[TOP], next[TOP];
    route(m, 0, next);
    for (uint64_t step = 0; step < TOKENS * LAYERS; step++) {
        for (int i = 0; i < TOP; i++)
            chosen[i] = next[i];
        route(m, (int)((step + 1) % LAYERS), next);
        if (!run_layer(m, step, chosen, next)) return 0;
    }
    return 1;
}

static int run(int guesses) {
    static model m;
    tnm_tier_stats s;
    m = (model){ .random = 0x9E3779B97F4A7C15u, .guesses = guesses };
    int good = load(&m) && run_tokens(&m) && tnm_stats(m.mem, DEVICE, &s) == TNM_OK;
    if (m.mem && tnm_destroy(m.mem) != TNM_OK) return 0; /* also after a failure */
    if (!good) return 0;
    printf(
        "%s experts on the device %llu, on the host %llu; %llu KiB moved, %llu prefetches wasted, "
        "%d wrong\n",
        guesses ? "guessing:  " : "no guesses:", (unsigned long long)m.on_device,
        (unsigned long long)m.on_host, (unsigned long long)s.bytes_in >> 10,
        (unsigned long long)s.prefetches_wasted, m.wrong);
    return m.wrong == 0 && s.peak_bytes <= DEVICE_BYTES;
}

int main(void) {
    int without = run(0), with = run(1);
    return without && with ? 0 : 1;
}
