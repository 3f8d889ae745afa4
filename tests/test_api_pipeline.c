/* needs: tensormem.o */
/* Copies on links that take (virtual) time, from outside: bytes move while the program computes,
 * both ways at once, over three hops, with a pump thread's beat and with one pump a frame. What is
 * held against max(compute, busiest link) is the same in every run: no clock is read. */
#include "tensormem.h"
#include "check.h"
#include "links.h"

enum { KIB = 1024, LAYERS = 32, MOST_PARTS = 8, WARM = 3, SWEEPS = 6 };

typedef struct world {
    links w; /* first: callbacks get a pointer to it */
    tnm_tier_desc tier[3];
    tnm_ctx *ctx;
    tnm_use use[LAYERS * MOST_PARTS];
    uint64_t total;
} world;

static world W;

static int on_idle(void *user, uint64_t rounds) {
    links *w = (links *)user;
    uint64_t next = links_next(w);
    if (next == LINKS_NEVER) return rounds > 8; /* nothing will ever end */
    w->now = next;
    return 0;
}

/* A device over a host, over a disk if there are three: 1 GB/s up and down, a quarter for it. */
static void open_world(int tiers, uint64_t device, uint64_t host, const tnm_desc *wishes) {
    static const char *const names[3] = { "device", "host", "disk" };
    tnm_desc desc = *wishes;
    memset(&W, 0, sizeof W);
    for (int i = 0; i < tiers; i++)
        W.tier[i] = links_tier(&W.w, i, names[i], i == tiers - 1 ? 0 : i ? host : device);
    for (int i = 0; i < tiers; i++)
        if (i == tiers - 1) W.tier[i].segment_bytes = 1 << 24;
    links_route(&W.w, 1, 0, 0, links_add(&W.w, "up", 1000, 2000), -1);
    links_route(&W.w, 0, 1, 0, links_add(&W.w, "down", 1000, 2000), -1);
    if (tiers == 3) {
        int disk = links_add(&W.w, "disk", 250, 20000);
        W.tier[2].queue_depth = 16;
        links_route(&W.w, 2, 1, 2, disk, -1);
        links_route(&W.w, 1, 2, 2, disk, -1);
    }
    desc.tiers = W.tier;
    desc.tier_count = tiers;
    desc.staging_tier = 1;
    desc.chunk_bytes = 16 * KIB;
    desc.user = &W;
    desc.idle = on_idle;
    desc.passed = links_passed;
    CHECK_EQ(tnm_create(&desc, &W.ctx), TNM_OK);
}

static void close_world(void) {
    CHECK_EQ(tnm_check(W.ctx), 0);
    CHECK_EQ(tnm_destroy(W.ctx), TNM_OK);
}

/* `parts` tensors a layer, adopted on the bottom, or made there by the program to be written. */
static void make_layers(const uint64_t *bytes, int parts, tnm_access access, int bottom) {
    int n = 0;
    for (int l = 0; l < LAYERS; l++)
        for (int p = 0; p < parts; p++, n++) {
            tnm_tensor_desc desc;
            tnm_adopt_desc adopt;
            tnm_use *u = &W.use[n];
            memset(&desc, 0, sizeof desc);
            memset(&adopt, 0, sizeof adopt);
            desc.bytes = bytes[p];
            adopt.tier = bottom;
            adopt.mem = (uint64_t)n + 1;
            u->access = access;
            u->step = (uint64_t)l;
            if (access == TNM_READ) {
                CHECK_EQ(tnm_tensor_adopt(W.ctx, &desc, &adopt, &u->tensor), TNM_OK);
                continue;
            }
            CHECK_EQ(tnm_tensor_create(W.ctx, &desc, &u->tensor), TNM_OK);
            tnm_use make = *u;
            tnm_pinned p0;
            make.access = TNM_DISCARD;
            make.tier = bottom;
            CHECK_EQ(tnm_pin(W.ctx, &make, 1, &p0), TNM_OK);
            CHECK_EQ(tnm_unpin(W.ctx, &p0, 1, 0), TNM_OK);
        }
    CHECK_EQ(tnm_schedule(W.ctx, 0, W.use, n, LAYERS), TNM_OK);
}

static uint64_t sum_of(const uint64_t *bytes, int parts) {
    uint64_t sum = 0;
    for (int p = 0; p < parts; p++)
        sum += (bytes[p] + TENSORMEM_REDZONE_BYTES + 255) / 256 * 256;
    return sum;
}

/* Wall per cent of max(compute, busiest link), over the steady sweeps. */
static uint64_t sweep(int parts, uint64_t compute) {
    uint64_t wall = 0, busy[3] = { 0, 0, 0 }, most = compute * LAYERS * (SWEEPS - WARM);
    tnm_pinned pinned[MOST_PARTS];
    for (uint64_t step = 0; step < (uint64_t)SWEEPS * LAYERS; step++) {
        if (step == WARM * LAYERS) {
            wall = W.w.now;
            for (int i = 0; i < W.w.count; i++)
                busy[i] = links_busy(&W.w, i);
        }
        CHECK_EQ(tnm_step(W.ctx, 0, step), TNM_OK);
        tnm_pump(W.ctx, TNM_ALL);
        CHECK_EQ(tnm_pin(W.ctx, W.use + step % LAYERS * (uint64_t)parts, parts, pinned), TNM_OK);
        tnm_pump(W.ctx, TNM_ALL);
        links_compute(&W.w, W.ctx, compute, 1);
        CHECK_EQ(tnm_unpin(W.ctx, pinned, parts, 0), TNM_OK);
    }
    for (int i = 0; i < W.w.count; i++)
        most = links_max(most, links_busy(&W.w, i) - busy[i]);
    return (W.w.now - wall) * 100 / most;
}

static const uint64_t equal[4] = { 64 * KIB, 64 * KIB, 64 * KIB, 64 * KIB };
static const uint64_t mixed[7] = { 16 * KIB, 4 * KIB,  4 * KIB, 16 * KIB,
                                   64 * KIB, 64 * KIB, 64 * KIB };

/* Compute takes as long as the bytes that half of the model must move: the hardest case. */
static uint64_t two_tiers(const uint64_t *bytes, int parts, tnm_access access) {
    static const tnm_desc plain;
    uint64_t layer = sum_of(bytes, parts), percent;
    open_world(2, layer * LAYERS / 2, 0, &plain);
    make_layers(bytes, parts, access, 1);
    percent = sweep(parts, layer / 2);
    CHECK(links_busy(&W.w, 0) > 0);
    CHECK((links_busy(&W.w, 1) > 0) == (access != TNM_READ));
    close_world();
    return percent;
}

TEST(what_a_step_reads_comes_under_the_step_before) {
    CHECK(two_tiers(equal, 4, TNM_READ) <= 105);
    CHECK(two_tiers(mixed, 7, TNM_READ) <= 110);
}

TEST(what_a_step_wrote_goes_while_the_next_comes) {
    CHECK(two_tiers(equal, 4, TNM_WRITE) <= 105);
    CHECK(two_tiers(mixed, 7, TNM_WRITE) <= 120);
}

TEST(three_hops_at_once) {
    static const tnm_desc plain;
    uint64_t layer = sum_of(equal, 4), total = layer * LAYERS, percent;
    open_world(3, total / 4, total / 4, &plain);
    make_layers(equal, 4, TNM_READ, 2);
    percent = sweep(4, layer * 2); /* half of the model at a quarter of the rate */
    CHECK(percent <= 110);
    close_world();
}

/* Of sizes that differ two sets pass through the host: with one the disk rested at times. */
TEST(three_hops_of_mixed_sizes) {
    static const tnm_desc plain;
    uint64_t layer = sum_of(mixed, 7), total = layer * LAYERS;
    open_world(3, total / 4, total / 2, &plain);
    make_layers(mixed, 7, TNM_READ, 2);
    CHECK(sweep(7, layer) <= 101); /* a quarter of it at a quarter of the rate */
    close_world();
}

/* Beside what comes there is room for what goes down, and that goes before its room is needed. */
TEST(three_hops_both_ways) {
    static const tnm_desc plain;
    uint64_t layer = sum_of(equal, 4), total = layer * LAYERS;
    for (uint64_t ratio = 1; ratio <= 4; ratio *= 2) { /* of the disk: half, all, two */
        open_world(3, total / 12, total / 6, &plain);
        make_layers(equal, 4, TNM_WRITE, 2);
        uint64_t percent = sweep(4, layer * 3 * ratio);
        CHECK(percent <= 105);
        close_world();
    }
}

/* What is current on device and host goes on to the disk from the host: the device's link is not
 * asked for it a second time. */
TEST(a_hop_down_begins_where_the_last_one_ended) {
    static const tnm_desc plain;
    tnm_result r = TNM_PENDING;
    tnm_pinned pinned;
    open_world(3, 256 * KIB, 256 * KIB, &plain);
    make_layers(equal, 1, TNM_WRITE, 2);
    CHECK_EQ(tnm_pin(W.ctx, W.use, 1, &pinned), TNM_OK);
    CHECK_EQ(tnm_unpin(W.ctx, &pinned, 1, 0), TNM_OK);
    for (int tier = 1; tier <= 2; tier++) {
        while ((r = tnm_flush(W.ctx, W.use[0].tensor, tier)) == TNM_PENDING)
            CHECK(tnm_wait(W.ctx) >= 0);
        CHECK_EQ(r, TNM_OK);
    }
    CHECK_EQ(W.w.link[1].bytes, 64 * KIB); /* down */
    close_world();
}

/* A ring whose sizes differ does not break up: no sweep loads more than what is not kept. */
TEST(sizes_that_come_back_find_their_places) {
    static const tnm_desc plain;
    uint64_t layer = sum_of(mixed, 7), total = layer * LAYERS;
    tnm_tier_stats before, after;
    open_world(2, total / 4, 0, &plain);
    make_layers(mixed, 7, TNM_READ, 1);
    sweep(7, layer);
    CHECK_EQ(tnm_stats(W.ctx, 0, &before), TNM_OK);
    sweep(7, layer);
    CHECK_EQ(tnm_stats(W.ctx, 0, &after), TNM_OK);
    CHECK(after.bytes_in - before.bytes_in <= SWEEPS * (total - after.kept_bytes) + 2 * layer);
    CHECK_EQ(after.prefetches_wasted, 0);
    close_world();
}

/* Nobody waits: try_pin and one pump a frame. With a queue as deep as a frame needs the link never
 * rests, whoever tells what comes: a schedule, sure uses, or a byte budget that is just enough. */
static void frames(uint64_t budget, uint64_t frame, int threaded) {
    static const tnm_desc plain;
    uint64_t layer = sum_of(equal, 4), count = 0, start = 0, busy = 0, step = 0;
    tnm_pinned pinned[4];
    open_world(2, layer * LAYERS / 2, 0, &plain);
    CHECK_EQ(tnm_destroy(W.ctx), TNM_OK);
    W.tier[0].queue_depth = 64;
    tnm_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.tiers = W.tier;
    desc.tier_count = 2;
    desc.chunk_bytes = 16 * KIB;
    desc.user = &W;
    desc.idle = on_idle;
    CHECK_EQ(tnm_create(&desc, &W.ctx), TNM_OK);
    make_layers(equal, 4, TNM_READ, 1);
    for (; step < SWEEPS * LAYERS && count < 10000; count++) {
        CHECK_EQ(tnm_step(W.ctx, 0, step), TNM_OK);
        tnm_pump(W.ctx, budget); /* before the frame's pins: what has come is collected here */
        tnm_result r = tnm_try_pin(W.ctx, W.use + step % LAYERS * 4, 4, pinned);
        CHECK(r >= 0);
        links_sleep(&W.w, W.ctx, W.w.now + frame, threaded);
        if (r != TNM_OK) continue;
        CHECK_EQ(tnm_unpin(W.ctx, pinned, 4, 0), TNM_OK);
        if (++step == WARM * LAYERS) {
            start = W.w.now;
            busy = links_busy(&W.w, 0);
        }
    }
    CHECK_EQ(step, SWEEPS * LAYERS);
    uint64_t most = links_max(links_busy(&W.w, 0) - busy, frame * (SWEEPS - WARM) * LAYERS);
    CHECK((W.w.now - start) * 100 <= most * 105);
    close_world();
}

TEST(one_pump_a_frame_keeps_the_link_busy) {
    frames(TNM_ALL, 250000, 0); /* what a step misses comes within a frame */
    frames(200 * KIB, 250000, 0);
    frames(TNM_ALL, 60000, 0); /* the link is what they wait for */
    frames(TNM_ALL, 60000, 1);
}

/* A place in the ring that a step has left is on its way to the next tensor after one pump, and not
 * when the program comes back from its next compute. */
TEST(one_pump_hands_a_place_on) {
    static const tnm_desc plain;
    uint64_t layer = sum_of(equal, 1), came = 0;
    tnm_tier_stats before, after;
    tnm_pinned pinned;
    open_world(2, layer * (LAYERS - 3), 0, &plain);
    make_layers(equal, 1, TNM_READ, 1);
    for (uint64_t step = 0; step < (uint64_t)SWEEPS * LAYERS; step++) {
        CHECK_EQ(tnm_stats(W.ctx, 0, &before), TNM_OK);
        CHECK_EQ(tnm_step(W.ctx, 0, step), TNM_OK);
        CHECK_EQ(tnm_pin(W.ctx, &W.use[step % LAYERS], 1, &pinned), TNM_OK);
        CHECK_EQ(tnm_unpin(W.ctx, &pinned, 1, 0), TNM_OK);
        tnm_pump(W.ctx, TNM_ALL);
        CHECK_EQ(tnm_stats(W.ctx, 0, &after), TNM_OK);
        if (step < WARM * LAYERS || after.bytes_in == before.bytes_in) continue;
        CHECK(after.in_flight_bytes > 0);
        came++;
    }
    CHECK(came >= SWEEPS - WARM);
    close_world();
}

int main(void) {
    RUN(what_a_step_reads_comes_under_the_step_before);
    RUN(what_a_step_wrote_goes_while_the_next_comes);
    RUN(three_hops_at_once);
    RUN(three_hops_of_mixed_sizes);
    RUN(three_hops_both_ways);
    RUN(a_hop_down_begins_where_the_last_one_ended);
    RUN(sizes_that_come_back_find_their_places);
    RUN(one_pump_a_frame_keeps_the_link_busy);
    RUN(one_pump_hands_a_place_on);
    return check_done();
}
