/* 06_two_devices (difficulty 5 of 5): two devices over one host over a file. The model file is
 * adopted: never copied whole, never charged, never written to the spill file. Each device has its
 * own shard of every layer; the norms are one content that both devices hold at once. The devices
 * meet in a reduction, where a pin on one waits for the fence of the other.
 *
 * Host memory plays the devices. Kernels run when they are submitted, but their fences pass late.
 * The result must be that of a loop over the same weights in plain memory. */
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"

#include <stdio.h>
#include <string.h>

enum { GPU0, GPU1, HOST, DISK, TIERS };
enum { LAYERS = 12, TOKENS = 6, WIDTH = 4096, SHARD = 8 * WIDTH, LAYER = WIDTH + 2 * SHARD };

typedef struct layer {
    tnm_tensor norm, shard[2];
} layer;

typedef struct engine {
    tnm_ctx *mem;
    layer layers[LAYERS];
    tnm_tensor x, part[2];
    uint64_t submitted[2], done[2];
} engine;

static uint32_t model[LAYERS][LAYER]; /* for the reference; an engine would not have it */

static uint64_t fences_passed(void *user, uint32_t queue, uint64_t wait_for) {
    engine *e = (engine *)user;
    if (e->done[queue] < e->submitted[queue]) e->done[queue]++;
    if (e->done[queue] < wait_for) e->done[queue] = wait_for;
    return e->done[queue];
}

/* ---- the kernels ---- */

static void shard_kernel(uint32_t *out, const uint32_t *x, const uint32_t *norm,
                         const uint32_t *shard) {
    for (uint32_t i = 0; i < WIDTH; i++) {
        uint32_t sum = 0;
        for (uint32_t k = 0; k < SHARD / WIDTH; k++)
            sum += shard[k * WIDTH + i] * (k + 1);
        out[i] = x[i] * norm[i] + sum;
    }
}

static void reduce_kernel(uint32_t *x, const uint32_t *a, const uint32_t *b) {
    for (uint32_t i = 0; i < WIDTH; i++)
        x[i] = a[i] ^ (b[i] * 3u);
}

/* ---- the model file ---- */

static int write_model(const char *path) {
    uint32_t seed = 1;
    FILE *f = fopen(path, "wb");
    if (!f) return 0;
    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < LAYER; i++)
            model[l][i] = seed = seed * 1664525u + 1013904223u;
    int ok = fwrite(model, sizeof model, 1, f) == 1;
    if (fclose(f) == 0 && ok) return 1;
    remove(path);
    return 0;
}

static int adopt(engine *e, uint64_t file, uint64_t first, uint64_t count, tnm_tensor *out) {
    tnm_tensor_desc desc = { .label = "weights", .dtype = TNM_I32, .shape = { (int64_t)count } };
    tnm_adopt_desc where = { .tier = DISK, .mem = file, .offset = first * sizeof(uint32_t) };
    return tnm_tensor_adopt(e->mem, &desc, &where, out) == TNM_OK;
}

static int adopt_model(engine *e, uint64_t file) {
    tnm_use uses[LAYERS * 4];
    for (uint64_t l = 0; l < LAYERS; l++) {
        layer *y = &e->layers[l];
        uint64_t at = l * LAYER;
        if (!adopt(e, file, at, WIDTH, &y->norm)) return 0;
        if (!adopt(e, file, at + WIDTH, SHARD, &y->shard[0])) return 0;
        if (!adopt(e, file, at + WIDTH + SHARD, SHARD, &y->shard[1])) return 0;
        uses[4 * l] = (tnm_use){ .tensor = y->norm, .tier = GPU0, .step = l };
        uses[4 * l + 1] = (tnm_use){ .tensor = y->norm, .tier = GPU1, .step = l };
        uses[4 * l + 2] = (tnm_use){ .tensor = y->shard[0], .tier = GPU0, .step = l };
        uses[4 * l + 3] = (tnm_use){ .tensor = y->shard[1], .tier = GPU1, .step = l };
    }
    return tnm_schedule(e->mem, 0, uses, LAYERS * 4, LAYERS) == TNM_OK;
}

static int make_state(engine *e, const uint32_t *x) {
    tnm_tensor_desc desc = { .label = "state", .dtype = TNM_I32, .shape = { WIDTH } };
    desc.advice = TNM_KEEP;
    if (tnm_tensor_create(e->mem, &desc, &e->x) < 0) return 0;
    if (tnm_tensor_create(e->mem, &desc, &e->part[0]) < 0) return 0;
    if (tnm_tensor_create(e->mem, &desc, &e->part[1]) < 0) return 0;
    return tnm_write(e->mem, e->x, 0, x, WIDTH * sizeof *x) == TNM_OK;
}

/* ---- one layer ---- */

/* Device d's half: its members of the set are 4 pins in a row, and its fence is its own. */
static int half_layer(engine *e, int d, tnm_pinned *at) {
    shard_kernel((uint32_t *)at[3].host, (const uint32_t *)at[0].host, (const uint32_t *)at[1].host,
                 (const uint32_t *)at[2].host);
    return tnm_unpin(e->mem, at, 4, TNM_FENCE(d, ++e->submitted[d])) == TNM_OK;
}

static int run_layer(engine *e, const layer *y) {
    tnm_use both[8];
    tnm_pinned at[8];
    for (int d = 0; d < 2; d++) {
        both[4 * d] = (tnm_use){ .tensor = e->x, .tier = d };
        both[4 * d + 1] = (tnm_use){ .tensor = y->norm, .tier = d };
        both[4 * d + 2] = (tnm_use){ .tensor = y->shard[d], .tier = d };
        both[4 * d + 3] = (tnm_use){ .tensor = e->part[d], .tier = d, .access = TNM_DISCARD };
    }
    if (tnm_pin(e->mem, both, 8, at) != TNM_OK) return 0;
    if (!half_layer(e, GPU0, at) || !half_layer(e, GPU1, at + 4)) return 0;
    /* part[1] was written on the other device: this pin waits for its fence, then for the copy */
    tnm_use reduce[3] = { { .tensor = e->x, .tier = GPU0, .access = TNM_WRITE },
                          { .tensor = e->part[0], .tier = GPU0 },
                          { .tensor = e->part[1], .tier = GPU0 } };
    if (tnm_pin(e->mem, reduce, 3, at) != TNM_OK) return 0;
    reduce_kernel((uint32_t *)at[0].host, (const uint32_t *)at[1].host,
                  (const uint32_t *)at[2].host);
    return tnm_unpin(e->mem, at, 3, TNM_FENCE(GPU0, ++e->submitted[0])) == TNM_OK;
}

static int run(engine *e, uint32_t *x) {
    static uint32_t a[WIDTH], b[WIDTH], result[WIDTH];
    for (uint64_t step = 0; step < TOKENS * LAYERS; step++) {
        const uint32_t *w = model[step % LAYERS];
        if (tnm_step(e->mem, 0, step) < 0 || !run_layer(e, &e->layers[step % LAYERS])) return 0;
        if (tnm_pump(e->mem, TNM_ALL) < 0) return 0;
        shard_kernel(a, x, w, w + WIDTH);
        shard_kernel(b, x, w, w + WIDTH + SHARD);
        reduce_kernel(x, a, b);
    }
    if (tnm_read(e->mem, e->x, 0, result, sizeof result) != TNM_OK) return 0;
    return memcmp(result, x, sizeof result) == 0;
}

static int run_on(engine *e, const tnm_backend *disk, const char *path) {
    static uint32_t x[WIDTH];
    uint64_t mem, size;
    for (uint32_t i = 0; i < WIDTH; i++)
        x[i] = i;
    if (tnm_file_adopt(disk, path, &mem, &size) != TNM_OK || size != sizeof model) return 0;
    if (!adopt_model(e, mem) || !make_state(e, x) || !run(e, x)) return 0;
    return tnm_dump(e->mem, TNM_DUMP_TEXT, NULL) == TNM_OK;
}

static int kept_budgets(const engine *e, const tnm_tier_desc *tiers) {
    for (int t = 0; t < DISK; t++) {
        tnm_tier_stats s;
        if (tnm_stats(e->mem, t, &s) != TNM_OK || s.peak_bytes > tiers[t].budget_bytes) return 0;
    }
    return 1;
}

static int run_from(const char *path, const char *spill) {
    static engine e;
    tnm_backend disk;
    tnm_file_desc file = { .path = spill };
    tnm_tier_desc tiers[TIERS] = {
        { .name = "gpu0", .budget_bytes = 640 << 10, .spill_to = HOST },
        { .name = "gpu1", .budget_bytes = 640 << 10, .spill_to = HOST },
        { .name = "host", .budget_bytes = 1 << 20, .spill_to = DISK },
        { .name = "disk", .spill_to = TNM_NOWHERE },
    };
    tnm_desc desc = { .tiers = tiers, .tier_count = TIERS, .user = &e, .passed = fences_passed };
    if (tnm_file_open(&file, &disk) != TNM_OK) return 0;
    tiers[DISK].backend = disk;
    int good =
        tnm_create(&desc, &e.mem) == TNM_OK && run_on(&e, &disk, path) && kept_budgets(&e, tiers);
    if (e.mem && tnm_destroy(e.mem) != TNM_OK) return 0; /* it may still need the file */
    tnm_file_close(&disk);
    return good;
}

int main(void) {
    const char *path = "build/06_two_devices.model", *spill = "build/06_two_devices.spill";
    if (!write_model(path)) { /* without a build directory: here */
        path += 6, spill += 6;
        if (!write_model(path)) return printf("cannot write %s\n", path), 2;
    }
    remove(spill); /* one that a crash left behind; a spill file is only ever made new */
    int good = run_from(path, spill);
    remove(path);
    printf("%s\n", good ? "same as in plain memory" : "FAILED");
    return good ? 0 : 1;
}
