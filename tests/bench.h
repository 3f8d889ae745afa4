/* bench.h - what the benchmarks share: clocks, medians, the printed line, paper memory.
 *
 * Every measurement is one line:
 *
 *   bench <name> value=<x> unit=<u> rival=<name> ratio=<r> target=<op><t> met=<yes|no>
 *
 * The target always binds `ratio`, and ratio is value / rival; a rival called limit_<n><unit> is a
 * plain number. Lines that start with # are for people: the machine, and figures without a target.
 * A benchmark never gates: it exits 0 with targets missed, and 1 only when it could not measure.
 *
 * Include this file before the library: it asks the system headers for POSIX clocks.
 */
#ifndef TENSORMEM_TESTS_BENCH_H
#define TENSORMEM_TESTS_BENCH_H

#ifndef _POSIX_C_SOURCE
#    define _POSIX_C_SOURCE 200809L
#endif
#ifndef NDEBUG
#    define NDEBUG /* assertions are not what is measured */
#endif
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TENSORMEM_IMPLEMENTATION
#include "../tensormem.h"

/* ---- failing: the bench itself broke ---- */

static inline void bench_die(const char *what) {
    fprintf(stderr, "bench: %s\n", what);
    exit(1);
}

static inline void bench_ok(tnm_result result, const char *what) {
    if (result == TNM_OK) return;
    fprintf(stderr, "bench: %s: %s\n", what, tnm_result_string(result));
    exit(1);
}

static inline void *bench_alloc(size_t count, size_t size) {
    void *p = calloc(count, size);
    if (!p) bench_die("out of memory");
    return p;
}

/* ---- clocks ---- */

static inline double bench_clock(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t) != 0) bench_die("no clock");
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline double bench_wall(void) {
    return bench_clock(CLOCK_MONOTONIC);
}

/* Seconds this thread ran: a neighbour that takes the core does not count, cache lines that
 * travel between cores do. Only for code that never sleeps. */
static inline double bench_cpu(void) {
    return bench_clock(CLOCK_THREAD_CPUTIME_ID);
}

/* ---- numbers ---- */

static inline uint64_t bench_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = (*state += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static inline uint64_t bench_below(uint64_t *state, uint64_t n) {
    return bench_random(state) % n;
}

static inline double bench_unit(uint64_t *state) { /* [0, 1) */
    return (double)(bench_random(state) >> 11) / 9007199254740992.0;
}

static inline int bench_order(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double bench_median(double *v, int n) { /* sorts v */
    qsort(v, (size_t)n, sizeof *v, bench_order);
    return n % 2 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
}

/* ---- a trace made up ---- */

/* Conversations that grow turn by turn over one of a few common prefixes, a few in fashion at a
 * time; the shape of the published KV-cache trace. Each request tells its blocks by number;
 * `first` begins one. */
static inline void bench_talks(void (*use)(void *of, int id, int first), void *of) {
    enum { REQUESTS = 4000, TALKS = 900, PREFIXES = 12, LONGEST = 240 };
    static int length[TALKS], id[TALKS][LONGEST];
    uint64_t seed = 7;
    int fresh = 0, prefix[PREFIXES][8];
    memset(length, 0, sizeof length);
    for (int p = 0; p < PREFIXES; p++) {
        for (int i = 0; i < 8; i++)
            prefix[p][i] = fresh++;
    }
    for (int r = 0; r < REQUESTS; r++) {
        int near = (int)(bench_below(&seed, 40) * bench_below(&seed, 40) / 4);
        int talk = (r / 5 + near) % TALKS, more = 1 + (int)bench_below(&seed, 24);
        if (length[talk] == 0 || length[talk] + more > LONGEST) { /* a new one */
            memcpy(id[talk], prefix[bench_below(&seed, PREFIXES)], sizeof prefix[0]);
            length[talk] = 8;
        }
        while (more-- > 0)
            id[talk][length[talk]++] = fresh++;
        for (int i = 0; i < length[talk]; i++)
            use(of, id[talk][i], i == 0);
    }
}

/* ---- lines ---- */

enum bench_op { BENCH_LE, BENCH_LT, BENCH_GE, BENCH_GT, BENCH_EQ };

static inline int bench_met(double ratio, enum bench_op op, double target) {
    switch (op) {
    case BENCH_LE:
        return ratio <= target;
    case BENCH_LT:
        return ratio < target;
    case BENCH_GE:
        return ratio >= target;
    case BENCH_GT:
        return ratio > target;
    case BENCH_EQ:
        return ratio >= target && ratio <= target;
    }
    return 0;
}

static inline void bench_line(const char *name, double value, const char *unit, const char *rival,
                              double ratio, enum bench_op op, double target) {
    static const char *const sign[] = { "<=", "<", ">=", ">", "==" };
    printf("bench %s value=%.6g unit=%s rival=%s ratio=%.6g target=%s%g met=%s\n", name, value,
           unit, rival, ratio, sign[op], target, bench_met(ratio, op, target) ? "yes" : "no");
    fflush(stdout);
}

#ifndef BENCH_FLAGS /* a build system may pass the real ones as a string */
#    ifdef __OPTIMIZE__
#        define BENCH_FLAGS "optimized, NDEBUG"
#    else
#        define BENCH_FLAGS "NOT OPTIMIZED"
#    endif
#endif
#if defined(__clang__)
#    define BENCH_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#    define BENCH_COMPILER "gcc " __VERSION__
#else
#    define BENCH_COMPILER "unknown"
#endif

static inline void bench_machine(const char *bench) {
    char line[256], cpu[128] = "unknown";
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "model name : %127[^\n]", cpu) == 1) break;
    }
    if (f) fclose(f);
    printf("# machine cpu=\"%s\" cpus=%ld compiler=\"%s\" flags=\"%s\" bench=%s tensormem=%d\n",
           cpu, sysconf(_SC_NPROCESSORS_ONLN), BENCH_COMPILER, BENCH_FLAGS, bench, tnm_version());
}

/* ---- paper memory: a tier that exists only in its books, so that a terabyte costs nothing and
 * only the engine is measured. Copies are done at once and counted per edge. ---- */

enum { BENCH_TIERS = 4 };

typedef struct bench_paper {
    uint64_t tokens, live_bytes;
    uint64_t moved[BENCH_TIERS][BENCH_TIERS]; /* [from][to], bytes */
} bench_paper;

static inline tnm_result bench_paper_alloc(void *user, uint64_t size, uint64_t align, void *item,
                                           uint64_t *mem, void **host) {
    bench_paper *paper = (bench_paper *)user;
    (void)align;
    (void)item;
    paper->live_bytes += size;
    *mem = ++paper->tokens;
    *host = NULL;
    return TNM_OK;
}

static inline void bench_paper_release(void *user, uint64_t mem, uint64_t size) {
    bench_paper *paper = (bench_paper *)user;
    (void)mem;
    paper->live_bytes -= size;
}

static inline tnm_result bench_paper_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                          uint64_t size, uint64_t *ticket) {
    bench_paper *paper = (bench_paper *)user;
    (void)ticket;
    if (src->tier < 0 || dst->tier < 0) return TNM_ERR_UNSUPPORTED; /* there are no bytes to show */
    paper->moved[src->tier][dst->tier] += size;
    return TNM_OK;
}

static inline tnm_tier_desc bench_paper_tier(bench_paper *paper, const char *name,
                                             uint64_t budget) {
    tnm_tier_desc tier;
    memset(&tier, 0, sizeof tier);
    tier.name = name;
    tier.backend.alloc = bench_paper_alloc;
    tier.backend.release = bench_paper_release;
    tier.backend.copy = bench_paper_copy;
    tier.backend.user = paper;
    tier.budget_bytes = budget;
    if (budget == 0) tier.segment_bytes = UINT64_C(1) << 30;
    return tier;
}

static inline tnm_ctx *bench_create(const tnm_desc *desc) {
    tnm_ctx *ctx;
    bench_ok(tnm_create(desc, &ctx), "tnm_create");
    return ctx;
}

/* ---- uses ---- */

static inline tnm_use bench_use(tnm_tensor tensor, tnm_access access, uint64_t step) {
    tnm_use use;
    memset(&use, 0, sizeof use);
    use.tensor = tensor;
    use.access = access;
    use.step = step;
    return use;
}

static inline void bench_touch(tnm_ctx *ctx, tnm_tensor tensor, tnm_access access) {
    tnm_use use = bench_use(tensor, access, 0);
    tnm_pinned pinned;
    bench_ok(tnm_pin(ctx, &use, 1, &pinned), "tnm_pin");
    bench_ok(tnm_unpin(ctx, &pinned, 1, 0), "tnm_unpin");
}

/* A tensor whose bytes lie in `tier` already, on paper or anywhere else. */
static inline tnm_tensor bench_adopt(tnm_ctx *ctx, int tier, uint64_t bytes, uint64_t offset,
                                     const char *label) {
    tnm_tensor_desc desc;
    tnm_adopt_desc adopt;
    tnm_tensor out;
    memset(&desc, 0, sizeof desc);
    memset(&adopt, 0, sizeof adopt);
    desc.bytes = bytes;
    desc.label = label;
    adopt.tier = tier;
    adopt.mem = 1;
    adopt.offset = offset;
    bench_ok(tnm_tensor_adopt(ctx, &desc, &adopt, &out), "tnm_tensor_adopt");
    return out;
}

static inline tnm_tensor bench_tensor(tnm_ctx *ctx, uint64_t bytes, const char *label) {
    tnm_tensor_desc desc;
    tnm_tensor out;
    memset(&desc, 0, sizeof desc);
    desc.bytes = bytes;
    desc.label = label;
    bench_ok(tnm_tensor_create(ctx, &desc, &out), "tnm_tensor_create");
    return out;
}

static inline tnm_tier_stats bench_stats(tnm_ctx *ctx, int tier) {
    tnm_tier_stats stats;
    bench_ok(tnm_stats(ctx, tier, &stats), "tnm_stats");
    return stats;
}

/* ---- a real model's tensors, for sizes: an 8B Llama in Q8_0, per layer, without the embedding
 * and the output matrix (each larger than any layer) ---- */

enum { BENCH_LLAMA_LAYERS = 32, BENCH_LLAMA_PARTS = 9 };

static inline uint64_t bench_llama_bytes(int part) {
    const uint64_t d = 4096, kv = 1024, ff = 14336;
    const uint64_t elements[BENCH_LLAMA_PARTS] = {
        0, d * d, d * kv, d * kv, d * d, 0, d * ff, d * ff, d * ff,
    };
    return elements[part] ? elements[part] / 32 * 34 : d * 4; /* the norms are F32 */
}

#endif
