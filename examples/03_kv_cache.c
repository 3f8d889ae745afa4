/* 03_kv_cache (difficulty 3 of 5): the KV cache of many conversations on a device that holds half
 * of it. The scheduler knows who is served next, so it says so: a lane whose step is the pass, and
 * tnm_prefetch with TNM_SURE for the head of the queue. A conversation that leaves is cancelled.
 * The system prompt is one content; every conversation has its own view of it.
 *
 * The same work runs twice, without and with telling the queue. Every block is checked at every
 * pass; the two lines at the end show what foresight is worth. */
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"

#include <stdio.h>
#include <string.h>

enum { TALKS = 12, MAX_BLOCKS = 16, AHEAD = 3, PASSES = 240, LANE = 1 };
enum { DEVICE, HOST };
enum { BLOCK_BYTES = 16 << 10, PREFIX_BYTES = 64 << 10, DEVICE_BYTES = 832 << 10 };

typedef struct talk {
    tnm_tensor prefix; /* this conversation's view of the shared prompt */
    tnm_tensor block[MAX_BLOCKS];
    uint32_t id;
    int blocks;
} talk;

typedef struct server {
    tnm_ctx *mem;
    tnm_tensor prompt;
    talk queue[TALKS]; /* [0] is served next */
    uint64_t pass;
    uint32_t talks_seen, random;
    int foresight;
    long wrong;
} server;

static unsigned char fill_of(uint32_t id, int block) {
    return (unsigned char)(id * 37u + (uint32_t)block * 11u + 1u);
}

static long count_wrong(const tnm_pinned *at, unsigned char want) {
    const unsigned char *p = (const unsigned char *)at->host;
    long wrong = 0;
    for (uint64_t i = 0; i < at->bytes; i++)
        wrong += p[i] != want;
    return wrong;
}

static int join(server *s, talk *t) {
    tnm_tensor_desc whole = { .label = "prompt", .bytes = PREFIX_BYTES };
    *t = (talk){ .id = ++s->talks_seen };
    return tnm_tensor_view(s->mem, s->prompt, 0, &whole, &t->prefix) == TNM_OK;
}

/* Cancel first: what was on its way for this conversation need not arrive. */
static int leave(server *s, talk *t) {
    int ok = t->blocks == 0 || tnm_cancel(s->mem, t->block, t->blocks) == TNM_OK;
    for (int i = 0; i < t->blocks; i++)
        ok &= tnm_tensor_destroy(s->mem, t->block[i]) == TNM_OK;
    return ok && tnm_tensor_destroy(s->mem, t->prefix) == TNM_OK;
}

/* Tell who comes in the next passes; a later call for the same block replaces the earlier one. */
static int announce(server *s) {
    for (int k = 0; s->foresight && k < AHEAD; k++) {
        tnm_use uses[MAX_BLOCKS];
        const talk *t = &s->queue[k];
        for (int i = 0; i < t->blocks; i++)
            uses[i] = (tnm_use){ .tensor = t->block[i],
                                 .tier = DEVICE,
                                 .flags = TNM_SURE,
                                 .step = s->pass + 1 + (uint64_t)k };
        if (t->blocks > 0 && tnm_prefetch(s->mem, LANE, uses, t->blocks) < 0) return 0;
    }
    return 1;
}

/* One decode pass: read the prompt and every block, write one new block. */
static int serve(server *s, talk *t) {
    tnm_tensor_desc desc = { .label = "kv", .bytes = BLOCK_BYTES };
    tnm_use set[MAX_BLOCKS + 1] = { { .tensor = t->prefix, .tier = DEVICE } };
    tnm_pinned at[MAX_BLOCKS + 1];
    int fresh = t->blocks, count = t->blocks + 2;
    if (tnm_tensor_create(s->mem, &desc, &t->block[t->blocks++]) < 0) return 0;
    for (int i = 0; i < t->blocks; i++)
        set[1 + i] = (tnm_use){ .tensor = t->block[i],
                                .tier = DEVICE,
                                .access = i == fresh ? TNM_DISCARD : TNM_READ };
    tnm_result r = tnm_pin(s->mem, set, count, at);
    if (r != TNM_OK) return printf("pass: %s\n", tnm_result_string(r)), 0;
    s->wrong += count_wrong(&at[0], 0xAA);
    for (int i = 0; i < fresh; i++)
        s->wrong += count_wrong(&at[1 + i], fill_of(t->id, i));
    memset(at[1 + fresh].host, fill_of(t->id, fresh), BLOCK_BYTES);
    return tnm_unpin(s->mem, at, count, 0) == TNM_OK;
}

/* Take queue[i] out and put `t` at the end. */
static void requeue(server *s, int i, talk t) {
    memmove(&s->queue[i], &s->queue[i + 1], (size_t)(TALKS - 1 - i) * sizeof s->queue[0]);
    s->queue[TALKS - 1] = t;
}

static int run_pass(server *s) {
    talk head = s->queue[0];
    if (tnm_step(s->mem, LANE, s->pass) < 0 || !serve(s, &head)) return 0;
    if (head.blocks == MAX_BLOCKS && !(leave(s, &head) && join(s, &head))) return 0;
    requeue(s, 0, head);
    s->random = s->random * 1664525u + 1013904223u;
    if (s->random >> 29 == 0) { /* someone hangs up, often one who was announced */
        int who = (int)(s->random >> 8) % AHEAD;
        talk other = s->queue[who];
        if (!leave(s, &other) || !join(s, &other)) return 0;
        requeue(s, who, other);
    }
    return announce(s) && tnm_pump(s->mem, TNM_ALL) >= 0;
}

static int start(server *s) {
    static const tnm_tier_desc tiers[2] = { { .name = "device", .budget_bytes = DEVICE_BYTES },
                                            { .name = "host" } };
    tnm_desc desc = { .tiers = tiers, .tier_count = 2 };
    tnm_tensor_desc prompt = { .label = "prompt", .bytes = PREFIX_BYTES, .advice = TNM_KEEP };
    static unsigned char text[PREFIX_BYTES];
    memset(text, 0xAA, sizeof text);
    if (tnm_create(&desc, &s->mem) != TNM_OK) return 0;
    if (tnm_tensor_create(s->mem, &prompt, &s->prompt) < 0) return 0;
    if (tnm_write(s->mem, s->prompt, 0, text, sizeof text) != TNM_OK) return 0;
    for (int i = 0; i < TALKS; i++)
        if (!join(s, &s->queue[i])) return 0;
    return 1;
}

static int run_passes(server *s, tnm_tier_stats *device) {
    for (s->pass = 0; s->pass < PASSES; s->pass++)
        if (!run_pass(s)) return 0;
    /* the name dies, the views keep the bytes: one more pass reads them */
    if (tnm_tensor_destroy(s->mem, s->prompt) < 0 || !serve(s, &s->queue[0])) return 0;
    return tnm_stats(s->mem, DEVICE, device) == TNM_OK && tnm_check(s->mem) == 0;
}

static int run(int foresight) {
    server s = { .foresight = foresight, .random = 7 };
    tnm_tier_stats device;
    int good = start(&s) && run_passes(&s, &device);
    if (s.mem && tnm_destroy(s.mem) != TNM_OK) return 0; /* also after a failure */
    if (!good) return 0;
    printf("%s %llu hits, %llu late, %llu misses, %llu prefetches (%llu wasted), peak %llu of %d "
           "KiB, %ld wrong bytes\n",
           foresight ? "queue told: " : "plain LRU:  ", (unsigned long long)device.hits,
           (unsigned long long)device.late, (unsigned long long)device.misses,
           (unsigned long long)device.prefetches, (unsigned long long)device.prefetches_wasted,
           (unsigned long long)device.peak_bytes >> 10, DEVICE_BYTES >> 10, s.wrong);
    return device.peak_bytes <= DEVICE_BYTES && s.wrong == 0;
}

int main(void) {
    int plain = run(0), told = run(1);
    return plain && told ? 0 : 1;
}
