/* needs: -pthread -ldl -lm */
/* bench_backends.c - the edge between a device and the host tier of its runtime.
 *
 * backend_<name>_up_*    tensors whose bytes lie in the host tier are prefetched and pinned on the
 *                        device, one after the other, until all are there.
 * backend_<name>_down_*  they were written on the device; now they are sent down again.
 * By tensors of 4 MiB and of 64 MiB, chunks and queues as by default. The rival is the runtime's
 * own copy of as many bytes from and to page-locked memory, in turns with ours. Each figure is the
 * median of ROUNDS, in MiB per second.
 *
 * A runtime that is not here is a line `skip`; a stand-in moves no bytes over any bus and is not
 * measured. Arguments: names of backends; none = all. */
#include "bench.h"

#include "conformance.h"
#include "backends.h"

enum { ROUNDS = 7, LAPS = 3, MOST = 64 };

typedef struct house {
    conform_subject *s;
    tnm_ctx *ctx;
    tnm_tensor tensor[MOST];
    int count;
    uint64_t bytes, step;
} house;

static uint64_t house_passed(void *user, uint32_t queue, uint64_t wait_for) {
    const conform_subject *s = ((house *)user)->s;
    return s->passed ? s->passed(s->user, queue, wait_for) : UINT64_MAX;
}

static void house_open(house *h, conform_subject *s, uint64_t bytes) {
    uint64_t room = s->device_bytes ? s->device_bytes : UINT64_C(256) << 20;
    tnm_tier_desc tier[2];
    tnm_desc desc;
    memset(h, 0, sizeof *h);
    memset(tier, 0, sizeof tier);
    memset(&desc, 0, sizeof desc);
    h->s = s;
    h->bytes = bytes;
    h->count = (int)(room / 2 / bytes); /* the other half is the rival's */
    if (h->count > MOST) h->count = MOST;
    if (h->count < 1) bench_die("the device is too small");
    tier[0].name = "device";
    tier[0].backend = s->device;
    tier[0].alignment = s->alignment;
    tier[0].tail_bytes = s->tail_bytes;
    tier[0].budget_bytes = (uint64_t)(h->count + 1) * bytes;
    tier[1].name = "host";
    tier[1].backend = s->host;
    tier[1].budget_bytes = tier[0].budget_bytes;
    desc.tiers = tier;
    desc.tier_count = 2;
    desc.user = h;
    desc.passed = house_passed;
    h->ctx = bench_create(&desc);
    for (int i = 0; i < h->count; i++) {
        void *zeros = bench_alloc(1, (size_t)bytes);
        h->tensor[i] = bench_tensor(h->ctx, bytes, "bench");
        bench_ok(tnm_write(h->ctx, h->tensor[i], 0, zeros, bytes), "tnm_write");
        free(zeros);
    }
}

/* Gone from the device: at once where the host tier has the bytes. */
static void house_leave(house *h) {
    bench_ok(tnm_step(h->ctx, 0, ++h->step), "tnm_step"); /* what was foreseen is past */
    for (int left = 1; left > 0;) {
        left = 0;
        for (int i = 0; i < h->count; i++) {
            tnm_result r = tnm_evict(h->ctx, h->tensor[i], 0);
            if (r != TNM_PENDING) bench_ok(r, "tnm_evict");
            left += r == TNM_PENDING;
        }
        if (left > 0) (void)tnm_wait(h->ctx);
    }
}

static double house_up(house *h) {
    tnm_use use[MOST];
    double start;
    house_leave(h);
    for (int i = 0; i < h->count; i++)
        use[i] = bench_use(h->tensor[i], TNM_READ, h->step);
    start = bench_wall();
    bench_ok(tnm_prefetch(h->ctx, 0, use, h->count), "tnm_prefetch");
    for (int i = 0; i < h->count; i++)
        bench_touch(h->ctx, h->tensor[i], TNM_READ);
    return bench_wall() - start;
}

static double house_down(house *h) {
    double start;
    for (int i = 0; i < h->count; i++)
        bench_touch(h->ctx, h->tensor[i], TNM_WRITE);
    start = bench_wall();
    house_leave(h);
    return bench_wall() - start;
}

/* MiB per second both ways, ours and theirs, in turns. */
static int measure(house *h, double ours[2][ROUNDS], double raw[2][ROUNDS]) {
    double total = (double)h->bytes * h->count * LAPS / 1048576.0;
    (void)house_up(h); /* once, so that all memory has been touched */
    (void)house_down(h);
    for (int round = 0; round < ROUNDS; round++)
        for (int up = 0; up < 2; up++) {
            double seconds = 0,
                   theirs = h->s->raw_copy_s(h->s->user, up, h->bytes, h->count * LAPS);
            for (int lap = 0; lap < LAPS; lap++)
                seconds += up ? house_up(h) : house_down(h);
            if (theirs <= 0) return 0;
            ours[up][round] = total / seconds;
            raw[up][round] = total / theirs;
        }
    return 1;
}

static void bench_subject(const char *name, conform_subject *s) {
    static const uint64_t sizes[] = { 4, 64 };
    for (int i = 0; i < 2; i++) {
        double ours[2][ROUNDS], raw[2][ROUNDS];
        house h;
        int good;
        house_open(&h, s, sizes[i] << 20);
        good = measure(&h, ours, raw);
        for (int up = 1; up >= 0; up--) {
            char line[64];
            snprintf(line, sizeof line, "backend_%s_%s_%dm", name, up ? "up" : "down",
                     (int)sizes[i]);
            if (good) {
                double value = bench_median(ours[up], ROUNDS),
                       rival = bench_median(raw[up], ROUNDS);
                bench_line(line, value, "MiB/s", "raw", value / rival, BENCH_GE, 0.95);
            } else
                printf("skip %s: the runtime's own copy failed\n", line);
        }
        house_leave(&h);
        bench_ok(tnm_destroy(h.ctx), "tnm_destroy");
    }
}

static void bench_backend(const backends_entry *b) {
    conform_subject all[BACKENDS_SUBJECTS];
    const char *why = "";
    int count, real = 0;
    memset(all, 0, sizeof all);
    count = b->open(all, &why);
    for (int i = 0; i < count; i++) {
        if (all[i].real && all[i].raw_copy_s) bench_subject(b->name, &all[i]);
        real |= all[i].real;
        b->end(&all[i]);
    }
    if (!real && strcmp(b->name, "file") != 0 && strcmp(b->name, "sim") != 0)
        printf("skip backend_%s: %s\n", b->name, why);
}

int main(int argc, char **argv) {
    bench_machine("backends");
    for (int i = 0; i < BACKENDS_COUNT; i++)
        if (backends_wanted(backends_all[i].name, argc, argv)) bench_backend(&backends_all[i]);
    return 0;
}
