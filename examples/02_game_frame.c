/* 02_game_frame (difficulty 2 of 5): textures with levels of detail in a frame loop that never
 * stalls. Nothing here waits: `try_pin` asks, TNM_IF_READY looks, one pump a frame moves at most
 * FRAME_BYTES, and a fence per frame holds what the GPU still draws. In the middle of the run the
 * operating system takes half of the video memory away, and later gives it back.
 *
 * The "GPU" is a function that runs each draw two frames after it was submitted and checks every
 * byte then: a texture that moved under a fence would be caught. */
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"

#include <stdio.h>
#include <string.h>

enum { OBJECTS = 24, LEVELS = 3, VIEW = 3, FRAMES = 72, LAG = 2, MAX_DRAWS = 4 * (2 * VIEW + 1) };
enum { VRAM, HOST };

static const uint64_t level_bytes[LEVELS] = { 256u << 10, 64u << 10, 16u << 10 };
static const uint64_t VRAM_BYTES = 3u << 20, FRAME_BYTES = 384u << 10;

typedef struct draw {
    const unsigned char *bytes;
    uint64_t size, frame;
    unsigned char seed;
} draw;

typedef struct gpu { /* in order, LAG frames behind */
    draw queue[MAX_DRAWS];
    int count, wrong;
    uint64_t done; /* frames finished: the clock of the fences */
} gpu;

typedef struct game {
    tnm_ctx *mem;
    tnm_tensor texture[OBJECTS][LEVELS];
    gpu gpu;
    uint64_t budget;
    int shrinking, bad;
} game;

static unsigned char seed_of(int object, int level) {
    return (unsigned char)(1 + object * LEVELS + level);
}

static void gpu_finish(gpu *g, uint64_t frame) {
    int kept = 0;
    for (int i = 0; i < g->count; i++) {
        const draw *d = &g->queue[i];
        if (d->frame > frame) {
            g->queue[kept++] = *d;
            continue;
        }
        for (uint64_t k = 0; k < d->size; k++)
            g->wrong += d->bytes[k] != d->seed;
    }
    g->count = kept;
    if (frame > g->done) g->done = frame;
}

/* wait_for is only set by calls that wait; here that is tnm_destroy. */
static uint64_t frames_done(void *user, uint32_t queue, uint64_t wait_for) {
    gpu *g = &((game *)user)->gpu;
    (void)queue;
    if (g->done < wait_for) gpu_finish(g, wait_for);
    return g->done;
}

static int load_level(game *g, int object, int level) {
    tnm_tensor *name = &g->texture[object][level];
    tnm_tensor_desc desc = { .label = "texture", .bytes = level_bytes[level] };
    tnm_use build = { .tier = HOST, .access = TNM_DISCARD };
    tnm_pinned at;
    desc.advice = level == LEVELS - 1 ? TNM_KEEP : TNM_NORMAL; /* the coarsest is the safety net */
    if (tnm_tensor_create(g->mem, &desc, name) < 0) return 0;
    build.tensor = *name;
    if (tnm_pin(g->mem, &build, 1, &at) != TNM_OK) return 0;
    memset(at.host, seed_of(object, level), (size_t)at.bytes);
    if (tnm_unpin(g->mem, &at, 1, 0) != TNM_OK) return 0;
    if (level < LEVELS - 1) return 1;
    build.tier = VRAM; /* behind the loading screen one may wait */
    build.access = TNM_READ;
    return tnm_pin(g->mem, &build, 1, &at) == TNM_OK && tnm_unpin(g->mem, &at, 1, 0) == TNM_OK;
}

/* What comes into view next is known: ask for what it will need first. */
static void look_ahead(game *g, int object) {
    tnm_use soon[2] = { { .tensor = g->texture[object][2], .tier = VRAM, .flags = TNM_SURE },
                        { .tensor = g->texture[object][1], .tier = VRAM } };
    if (tnm_prefetch(g->mem, 0, soon, 2) < 0) g->bad = 1;
}

/* The best level that can be drawn now, at most as fine as wanted; -1 = none. */
static int draw_object(game *g, int object, int want, uint64_t frame) {
    tnm_use use = { .tensor = g->texture[object][want], .tier = VRAM };
    tnm_pinned at;
    int level = want;
    tnm_result r = tnm_try_pin(g->mem, &use, 1, &at); /* PENDING also asks for it */
    while (r != TNM_OK && ++level < LEVELS) {
        use.tensor = g->texture[object][level];
        use.flags = level + 1 < LEVELS ? TNM_IF_READY : 0; /* look; only the last is asked for */
        r = tnm_try_pin(g->mem, &use, 1, &at);
    }
    if (r != TNM_OK) return -1;
    if (g->gpu.count == MAX_DRAWS) return g->bad = 1, -1;
    g->gpu.queue[g->gpu.count++] =
        (draw){ (const unsigned char *)at.host, at.bytes, frame, seed_of(object, level) };
    if (tnm_unpin(g->mem, &at, 1, TNM_FENCE(0, frame)) != TNM_OK) g->bad = 1;
    return level;
}

static void drive_budget(game *g, uint64_t frame) {
    if (frame == FRAMES / 3) g->budget = VRAM_BYTES / 2, g->shrinking = 1;
    if (frame == 2 * FRAMES / 3) g->budget = VRAM_BYTES, g->shrinking = 1;
    if (!g->shrinking) return;
    tnm_result r = tnm_set_budget(g->mem, VRAM, g->budget); /* PENDING: ask again next frame */
    if (r < 0) g->bad = 1;
    g->shrinking = r == TNM_PENDING;
}

static void check_budget(game *g, uint64_t frame, uint64_t *before) {
    tnm_tier_stats s;
    if (tnm_stats(g->mem, VRAM, &s) != TNM_OK) g->bad = 1;
    uint64_t limit = g->shrinking && *before > g->budget ? *before : g->budget;
    if (s.reserved_bytes > limit) g->bad = 1;
    *before = s.reserved_bytes;
    printf("  vram %4llu of %4llu KiB%s", (unsigned long long)(s.reserved_bytes >> 10),
           (unsigned long long)(g->budget >> 10), g->shrinking ? ", draining" : "");
    if (frame == FRAMES)
        printf("\n%llu hits, %llu misses, %llu late, %llu evictions", (unsigned long long)s.hits,
               (unsigned long long)s.misses, (unsigned long long)s.late,
               (unsigned long long)s.evictions);
    printf("\n");
}

static void run_frame(game *g, uint64_t frame, uint64_t *reserved) {
    int camera = (int)(frame / 4) % OBJECTS, drawn[LEVELS + 1] = { 0 };
    if (frame > LAG) gpu_finish(&g->gpu, frame - LAG);
    drive_budget(g, frame);
    int gone = (camera + OBJECTS - VIEW - 1) % OBJECTS; /* it just left the view */
    if (tnm_cancel(g->mem, g->texture[gone], LEVELS) < 0) g->bad = 1;
    look_ahead(g, (camera + VIEW + 1) % OBJECTS);
    for (int d = -VIEW; d <= VIEW; d++) {
        int want = d < -2 || d > 2 ? 2 : d < -1 || d > 1 ? 1 : 0;
        drawn[draw_object(g, (camera + d + OBJECTS) % OBJECTS, want, frame) + 1]++;
    }
    if (tnm_pump(g->mem, FRAME_BYTES) < 0) g->bad = 1;
    printf("frame %2llu: fine %d, middle %d, coarse %d, nothing %d", (unsigned long long)frame,
           drawn[1], drawn[2], drawn[3], drawn[0]);
    check_budget(g, frame, reserved);
}

static int play(game *g) {
    uint64_t reserved = 0;
    for (int i = 0; i < OBJECTS * LEVELS; i++)
        if (!load_level(g, i / LEVELS, i % LEVELS)) return 0;
    for (uint64_t frame = 1; frame <= FRAMES; frame++)
        run_frame(g, frame, &reserved);
    return 1;
}

int main(void) {
    static game g;
    tnm_tier_desc tiers[2] = { { .name = "vram", .budget_bytes = VRAM_BYTES }, { .name = "host" } };
    tnm_desc desc = { .tiers = tiers, .tier_count = 2, .user = &g, .passed = frames_done };
    tiers[VRAM].segment_bytes = VRAM_BYTES / 8; /* so that it can shrink by an eighth at a time */
    g.budget = VRAM_BYTES;
    if (tnm_create(&desc, &g.mem) != TNM_OK) return 1;
    int played = play(&g);
    if (tnm_destroy(g.mem) != TNM_OK || !played) return 2;
    printf("%d wrong bytes, budget %s\n", g.gpu.wrong, g.bad ? "BROKEN" : "kept");
    return g.gpu.wrong || g.bad;
}
