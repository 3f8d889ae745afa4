/* needs: -pthread -ldl -lm */
/* bench_backends.c - the edge between a device and the host tier of its runtime.
 *
 * backend_<name>_up_*    tensors whose bytes lie in the host tier are prefetched, for sure, and
 *                        pinned on the device, one after the other, until all are there.
 * backend_<name>_down_*  they were written on the device; now they are sent down again.
 * By tensors of 4, 16 and 64 MiB, chunks and queues as by default, 128 MiB a lap. The rival is the
 * runtime's own copy of the same bytes between the same places, all of them queued at once. A round
 * is ours up, theirs down, theirs up, ours down: each comes behind a copy of all bytes the other
 * way, so that caches favour nobody. The ratio is the median of the rounds' own ratios, and the
 * value the median of ours, in MiB per second. A line with # tells the quartiles; the best of ours
 * to the best of theirs, which a busy machine disturbs least; and the quartiles of the runtime's
 * copy to its own of the round before: closer than that nothing here can say. Where other programs
 * run beside it, `chrt -f 5` in front of it keeps them from between a copy's end and the next one.
 *
 * A runtime that is not here is a line `skip`; a stand-in moves no bytes over any bus and is not
 * measured. Arguments: names of backends; none = all. */
#include "bench.h"

#include "conformance.h"
#include "backends.h"

enum { ROUNDS = 41, MOST = 32, DOWN = 0, UP = 1 };

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
    h->count = (int)(room / 2 / bytes);
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
    for (int i = 0; i < h->count; i++) {
        use[i] = bench_use(h->tensor[i], TNM_READ, h->step);
        use[i].flags = TNM_SURE;
    }
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

/* All pinned at both ends, and copied there and back by the runtime alone; by a subject that knows
 * no places, in memory of its own. */
static int house_raw(house *h, double took[2]) {
    const conform_subject *s = h->s;
    tnm_use use[2][MOST];
    tnm_pinned at[2][MOST];
    for (int tier = 0; tier < 2; tier++) {
        for (int i = 0; i < h->count; i++) {
            use[tier][i] = bench_use(h->tensor[i], TNM_READ, 0);
            use[tier][i].tier = tier;
        }
        bench_ok(tnm_pin(h->ctx, use[tier], h->count, at[tier]), "tnm_pin");
    }
    for (int way = 0; way < 2; way++)
        took[way] = s->raw_pairs_s ? s->raw_pairs_s(s->user, way, at[0], at[1], h->count)
                                   : s->raw_copy_s(s->user, way, h->bytes, h->count);
    for (int tier = 0; tier < 2; tier++)
        bench_ok(tnm_unpin(h->ctx, at[tier], h->count, 0), "tnm_unpin");
    return took[DOWN] > 0 && took[UP] > 0;
}

typedef struct figures { /* of each round, for each way */
    double ours[2][ROUNDS], raw[2][ROUNDS], ratio[2][ROUNDS], itself[2][ROUNDS];
} figures;

static int measure(house *h, figures *f) {
    double total = (double)h->bytes * h->count / 1048576.0, raw[2], before[2] = { 0, 0 };
    for (int round = -2; round < ROUNDS; round++) { /* the first ones touch all memory */
        double ours[2];
        ours[UP] = house_up(h);
        if (!house_raw(h, raw)) return 0;
        ours[DOWN] = house_down(h);
        for (int way = 0; way < 2 && round >= 0; way++) {
            f->ours[way][round] = total / ours[way];
            f->raw[way][round] = total / raw[way];
            f->ratio[way][round] = raw[way] / ours[way];
            f->itself[way][round] = before[way] / raw[way];
        }
        memcpy(before, raw, sizeof before);
    }
    return 1;
}

static void tell(const char *name, int mib, int way, figures *f) {
    const int low = ROUNDS / 4, high = ROUNDS * 3 / 4, last = ROUNDS - 1;
    char line[64];
    double value = bench_median(f->ours[way], ROUNDS), ratio = bench_median(f->ratio[way], ROUNDS);
    (void)bench_median(f->raw[way], ROUNDS);
    (void)bench_median(f->itself[way], ROUNDS);
    snprintf(line, sizeof line, "backend_%s_%s_%dm", name, way == UP ? "up" : "down", mib);
    bench_line(line, value, "MiB/s", "raw", ratio, BENCH_GE, 0.95);
    printf("# %s of %d rounds: quartiles %.3f %.3f, best to best %.3f, raw to itself %.3f %.3f\n",
           line, ROUNDS, f->ratio[way][low], f->ratio[way][high],
           f->ours[way][last] / f->raw[way][last], f->itself[way][low], f->itself[way][high]);
}

static void bench_subject(const char *name, conform_subject *s) {
    static const int sizes[] = { 4, 16, 64 };
    for (int i = 0; i < 3; i++) {
        figures *f = (figures *)bench_alloc(1, sizeof *f);
        house h;
        house_open(&h, s, (uint64_t)sizes[i] << 20);
        if (measure(&h, f)) {
            tell(name, sizes[i], UP, f);
            tell(name, sizes[i], DOWN, f);
        } else
            printf("skip backend_%s_%dm: the runtime's own copy failed\n", name, sizes[i]);
        house_leave(&h);
        bench_ok(tnm_destroy(h.ctx), "tnm_destroy");
        free(f);
    }
}

static void bench_backend(const backends_entry *b) {
    conform_subject all[BACKENDS_SUBJECTS];
    const char *why = "";
    int count, real = 0;
    memset(all, 0, sizeof all);
    count = b->open(all, &why);
    for (int i = 0; i < count; i++) {
        if (all[i].real && (all[i].raw_pairs_s || all[i].raw_copy_s))
            bench_subject(b->name, &all[i]);
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
