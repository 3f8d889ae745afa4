/* 04_own_backend (difficulty 4 of 5): a backend of your own, in about a hundred lines.
 *
 * What the backend in the guide's chapter 11 leaves out: two devices that copy to each other, the
 * fast tier above host memory and "pool" below it, from one backend; what the doorbell and the full
 * queue cost is counted, and a schedule brings each tensor before its turn.
 *
 * 1 MiB of counters is worked on through 256 KiB of device and 512 KiB of host memory. */
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BLOCKS = 64, MAX_COPIES = 4, MAX_KERNELS = 16 };

typedef struct copy_command {
    unsigned char *to;
    const unsigned char *from;
    uint64_t bytes;
} copy_command;

typedef struct kernel { /* adds 1 to every counter */
    uint32_t *counters;
    uint64_t count;
} kernel;

typedef struct device {
    unsigned char *block[MAX_BLOCKS]; /* the token of block i is i + 1 */
    copy_command copies[MAX_COPIES];  /* a ring: copy n lies at n % MAX_COPIES */
    uint64_t queued, rung, copied;    /* copies accepted, submitted, finished */
    kernel kernels[MAX_KERNELS];
    uint64_t launched, executed;
    uint64_t doorbells, refused, peer_copies;
} device;

/* ---- the backend ---- */

static tnm_result device_alloc(void *user, uint64_t size, uint64_t align, void *item, uint64_t *mem,
                               void **host) {
    device *d = (device *)user;
    (void)align, (void)item; /* blocks of this device start at 0: aligned to everything */
    for (int i = 0; i < MAX_BLOCKS; i++) {
        if (d->block[i]) continue;
        d->block[i] = size > SIZE_MAX ? NULL : (unsigned char *)malloc((size_t)size);
        if (!d->block[i]) break;
        *mem = (uint64_t)i + 1;
        *host = NULL; /* the CPU cannot see it */
        return TNM_OK;
    }
    return TNM_ERR_BACKEND; /* not a failure of the program: less will be asked for */
}

static void device_release(void *user, uint64_t mem, uint64_t size) {
    device *d = (device *)user;
    (void)size;
    free(d->block[mem - 1]);
    d->block[mem - 1] = NULL;
}

static tnm_result device_copy(void *user, const tnm_span *dst, const tnm_span *src, uint64_t size,
                              uint64_t *ticket);

/* Where one end of a copy lies, if this device can reach it. */
static unsigned char *reach(const tnm_span *span) {
    if (span->backend &&
        span->backend->copy == device_copy) /* a device of our kind, maybe a peer */
        return ((device *)span->backend->user)->block[span->mem - 1] + span->offset;
    return (unsigned char *)span->host; /* this very byte, or NULL */
}

static tnm_result device_copy(void *user, const tnm_span *dst, const tnm_span *src, uint64_t size,
                              uint64_t *ticket) {
    device *d = (device *)user;
    unsigned char *to = reach(dst);
    const unsigned char *from = reach(src);
    if (!to || !from) return TNM_ERR_UNSUPPORTED; /* not my route: then through staging */
    if (d->queued - d->copied == MAX_COPIES) {
        d->refused++;
        return TNM_ERR_BUSY; /* full: asked again later */
    }
    d->peer_copies += dst->backend && src->backend && dst->backend->copy == src->backend->copy &&
                      dst->backend->user != src->backend->user;
    d->copies[d->queued % MAX_COPIES] = (copy_command){ to, from, size };
    *ticket = ++d->queued;
    return TNM_PENDING;
}

static void device_submit(void *user) {
    device *d = (device *)user;
    d->rung = d->queued;
    d->doorbells++;
}

/* The device gets on a little whenever somebody looks. */
static tnm_result device_poll(void *user, uint64_t ticket) {
    device *d = (device *)user;
    if (d->copied < d->rung) {
        const copy_command *c = &d->copies[d->copied++ % MAX_COPIES];
        memcpy(c->to, c->from, (size_t)c->bytes);
    }
    return ticket <= d->copied ? TNM_OK : TNM_PENDING;
}

static tnm_result device_wait(void *user, uint64_t ticket) {
    device *d = (device *)user;
    while (ticket <= d->rung && ticket > d->copied)
        (void)device_poll(user, ticket);
    return ticket <= d->copied ? TNM_OK : TNM_PENDING;
}

static tnm_backend device_backend(device *d) {
    tnm_backend b = { .alloc = device_alloc, .release = device_release, .copy = device_copy };
    b.submit = device_submit; /* these three because copies are asynchronous */
    b.poll = device_poll;
    b.wait = device_wait;
    b.user = d;
    return b;
}

/* ---- kernels and their clock: this part belongs to the application, not to the backend ---- */

static uint64_t kernels_done(void *user, uint32_t queue, uint64_t wait_for) {
    device *d = (device *)user;
    (void)queue; /* one queue: its fence value is the number of the launch */
    uint64_t until = wait_for > d->executed ? wait_for : d->executed + 1;
    for (; d->executed < until && d->executed < d->launched; d->executed++) {
        const kernel *k = &d->kernels[d->executed % MAX_KERNELS];
        for (uint64_t i = 0; i < k->count; i++)
            k->counters[i]++;
    }
    return d->executed;
}

static uint64_t launch(device *d, const tnm_pinned *at) {
    if (d->launched - d->executed == MAX_KERNELS) (void)kernels_done(d, 0, d->executed + 1);
    void *counters = d->block[at->mem - 1] + at->offset;
    d->kernels[d->launched % MAX_KERNELS] = (kernel){ (uint32_t *)counters, at->bytes / 4 };
    return ++d->launched;
}

enum { DEVICE, HOST, POOL, TIERS, TENSORS = 16, COUNTERS = 16 << 10, ROUNDS = 6 };

static int fill(tnm_ctx *mem, tnm_tensor *t) {
    static uint32_t first[COUNTERS];
    tnm_tensor_desc what = { .label = "counters", .dtype = TNM_I32, .shape = { COUNTERS } };
    tnm_use cycle[TENSORS];
    for (uint32_t i = 0; i < TENSORS; i++) {
        for (uint32_t k = 0; k < COUNTERS; k++)
            first[k] = i * COUNTERS + k;
        if (tnm_tensor_create(mem, &what, &t[i]) != TNM_OK) return 0;
        if (tnm_write(mem, t[i], 0, first, sizeof first) != TNM_OK) return 0;
        cycle[i] = (tnm_use){ .tensor = t[i], .tier = DEVICE, .access = TNM_WRITE, .step = i };
    }
    return tnm_schedule(mem, 0, cycle, TENSORS, TENSORS) == TNM_OK;
}

static int work(tnm_ctx *mem, device *gpu, const tnm_tensor *t) {
    for (int step = 0; step < ROUNDS * TENSORS; step++) {
        tnm_use use = { .tensor = t[step % TENSORS], .tier = DEVICE, .access = TNM_WRITE };
        tnm_pinned at;
        if (tnm_step(mem, 0, (uint64_t)step) < 0) return 0;
        if (tnm_pin(mem, &use, 1, &at) != TNM_OK || at.host) return 0;
        uint64_t value = launch(gpu, &at); /* first submit, then hand the fence over */
        if (tnm_unpin(mem, &at, 1, TNM_FENCE(0, value)) != TNM_OK) return 0;
        if (tnm_pump(mem, TNM_ALL) < 0) return 0;
    }
    return 1;
}

static int verify(tnm_ctx *mem, const tnm_tensor *t) {
    static uint32_t out[COUNTERS];
    for (uint32_t i = 0; i < TENSORS; i++) {
        if (tnm_read(mem, t[i], 0, out, sizeof out) != TNM_OK) return 0;
        for (uint32_t k = 0; k < COUNTERS; k++)
            if (out[k] != i * COUNTERS + k + ROUNDS) return 0;
    }
    return 1;
}

int main(void) {
    static device gpu, pool;
    tnm_tier_desc tiers[TIERS] = { { .name = "device", .budget_bytes = 256 << 10 },
                                   { .name = "host", .budget_bytes = 512 << 10 },
                                   { .name = "pool" } };
    tnm_desc desc = { .tiers = tiers, .tier_count = TIERS, .user = &gpu, .passed = kernels_done };
    tnm_tensor t[TENSORS];
    tnm_ctx *mem;
    tiers[DEVICE].backend = device_backend(&gpu);
    tiers[POOL].backend = device_backend(&pool);
    if (tnm_create(&desc, &mem) != TNM_OK) return 1;
    int good = fill(mem, t) && work(mem, &gpu, t) && verify(mem, t) &&
               tnm_dump(mem, TNM_DUMP_TEXT, NULL) == TNM_OK;
    if (tnm_destroy(mem) != TNM_OK || !good) return 2;
    for (int i = 0; i < MAX_BLOCKS; i++)
        if (gpu.block[i] || pool.block[i]) return 3; /* everything was given back */
    printf("%llu + %llu copies (%llu between the devices), %llu doorbells, %llu times full\n",
           (unsigned long long)gpu.copied, (unsigned long long)pool.copied,
           (unsigned long long)(gpu.peer_copies + pool.peer_copies),
           (unsigned long long)(gpu.doorbells + pool.doorbells),
           (unsigned long long)(gpu.refused + pool.refused));
    return 0;
}
