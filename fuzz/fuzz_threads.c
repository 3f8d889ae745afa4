/* needs: -pthread */
/* Two to four real threads on one context with the built-in lock, one of them perhaps the pump of
 * its own. Each plays the records whose first byte chooses it. A tensor is written by its owner
 * alone and pinned by all: the owner always finds its last version, whole, and so does the end.
 * Needs pthreads. For ThreadSanitizer; no two schedules are the same, so a finding is to be
 * replayed many times. */
#define TENSORMEM_IMPLEMENTATION
#define TENSORMEM_THREADS
#include "tensormem.h"
#include <pthread.h>
#include "../tests/check.h"

#define MUTATE_HEAD   8
#define MUTATE_RECORD 4
#define MUTATE_TAG    0x2D
#include "mutate.h"

enum { FUZZ_THREADS = 4, FUZZ_OWN = 4, FUZZ_BYTES = 600, FUZZ_MOST = 240 };

typedef struct fuzz_thread {
    tnm_ctx *ctx;
    const tnm_tensor *tensor; /* of all: thread k owns [k * FUZZ_OWN, (k + 1) * FUZZ_OWN) */
    const uint8_t *at;
    size_t count;
    int self, threads;
    uint8_t wrote[FUZZ_OWN]; /* every byte of its own */
} fuzz_thread;

/* bytes of one version; a reader may meet the next one on its way only through a race of ours */
static void fuzz_whole(const uint8_t *bytes) {
    for (int i = 1; i < FUZZ_BYTES; i++)
        if (bytes[i] != bytes[0]) check_fail(__FILE__, __LINE__, "two versions in one tensor");
}

static int fuzz_is_error(tnm_result r) { /* what other threads' pins may lead to */
    return r == TNM_ERR_BUDGET || r == TNM_ERR_BUSY || r == TNM_PENDING || r == TNM_ABSENT;
}

static void fuzz_write(fuzz_thread *t, int own, int how) {
    uint8_t next[FUZZ_BYTES];
    tnm_use u;
    tnm_pinned p;
    tnm_result r;
    memset(&u, 0, sizeof u);
    memset(next, t->wrote[own] + 1, sizeof next);
    u.tensor = t->tensor[t->self * FUZZ_OWN + own];
    u.access = how & 1 ? TNM_WRITE : TNM_DISCARD;
    u.tier = how >> 1 & 1;
    r = how & 4 ? tnm_try_pin(t->ctx, &u, 1, &p) : tnm_pin(t->ctx, &u, 1, &p);
    if (r != TNM_OK) {
        CHECK(fuzz_is_error(r));
        return;
    }
    if (how & 1) CHECK(((uint8_t *)p.host)[0] == t->wrote[own]);
    if (how & 1) fuzz_whole((const uint8_t *)p.host);
    memcpy(p.host, next, sizeof next);
    t->wrote[own] = next[0];
    CHECK_EQ(tnm_unpin(t->ctx, &p, 1, 0), TNM_OK);
}

/* Of its own: a pin for reading on one tier beside the owner's writing on the same one is the
 * application's race, so others only hold the place, and do not look. */
static void fuzz_read(fuzz_thread *t, int which, int how) {
    uint8_t back[FUZZ_BYTES];
    tnm_use u;
    tnm_pinned p;
    tnm_result r;
    int own = which - t->self * FUZZ_OWN;
    memset(&u, 0, sizeof u);
    u.tensor = t->tensor[which];
    u.tier = how >> 1 & 1;
    if (own >= 0 && own < FUZZ_OWN && (how & 8)) {
        r = tnm_read(t->ctx, u.tensor, 0, back, sizeof back);
        if (r == TNM_OK) CHECK(back[0] == t->wrote[own]);
        if (r == TNM_OK) fuzz_whole(back);
        CHECK(r == TNM_OK || fuzz_is_error(r));
        return;
    }
    r = how & 4 ? tnm_try_pin(t->ctx, &u, 1, &p) : tnm_pin(t->ctx, &u, 1, &p);
    CHECK(r == TNM_OK || fuzz_is_error(r));
    if (r != TNM_OK) return;
    if (own >= 0 && own < FUZZ_OWN) CHECK(((uint8_t *)p.host)[0] == t->wrote[own]);
    CHECK_EQ(tnm_unpin(t->ctx, &p, 1, 0), TNM_OK);
}

static void fuzz_step(fuzz_thread *t, const uint8_t *at) {
    static const uint64_t budget[] = { 2048, 4096, 8192, TNM_ALL };
    int which = at[2] % (t->threads * FUZZ_OWN);
    tnm_tensor some = t->tensor[which];
    tnm_tensor_info info;
    tnm_shortage why;
    tnm_use u;
    memset(&u, 0, sizeof u);
    u.tensor = some;
    u.step = at[3];
    switch (at[1] % 16) {
    case 0:
        CHECK(tnm_pump(t->ctx, TNM_ALL) >= 0);
        break;
    case 1:
        CHECK(tnm_evict(t->ctx, some, 0) != TNM_ERR_ARGUMENT);
        break;
    case 2:
        CHECK(tnm_flush(t->ctx, some, 1) != TNM_ERR_ARGUMENT);
        break;
    case 3:
        CHECK(tnm_set_budget(t->ctx, 0, budget[at[3] % 4]) != TNM_ERR_ARGUMENT);
        break;
    case 4:
        CHECK(tnm_prefetch(t->ctx, (uint32_t)t->self, &u, 1) >= 0);
        break;
    case 5:
        CHECK_EQ(tnm_step(t->ctx, (uint32_t)t->self, at[3]), TNM_OK);
        break;
    case 6:
        CHECK_EQ(tnm_info(t->ctx, some, at[3] & 1, &info), TNM_OK);
        break;
    case 7:
        CHECK_EQ(tnm_why(t->ctx, &u, 1, &why), TNM_OK);
        break;
    case 8:
        CHECK(tnm_cancel(t->ctx, &some, 1) >= 0);
        break;
    case 9:
        CHECK_EQ(tnm_check(t->ctx), 0);
        break;
    case 10:
    case 11:
    case 12:
        fuzz_write(t, at[2] % FUZZ_OWN, at[3]);
        break;
    default:
        fuzz_read(t, which, at[3]);
        break;
    }
}

static void *fuzz_run(void *of) {
    fuzz_thread *t = (fuzz_thread *)of;
    for (size_t i = 0; i < t->count; i++)
        if (t->at[i * MUTATE_RECORD] % t->threads == t->self)
            fuzz_step(t, t->at + i * MUTATE_RECORD);
    return NULL;
}

static tnm_ctx *fuzz_open(const uint8_t *head, int threads, tnm_tensor *tensor) {
    tnm_tier_desc tiers[2];
    tnm_tensor_desc what;
    tnm_desc d;
    tnm_ctx *ctx = NULL;
    uint8_t zero[FUZZ_BYTES] = { 0 };
    memset(&d, 0, sizeof d);
    memset(&what, 0, sizeof what);
    memset(tiers, 0, sizeof tiers);
    tiers[0].budget_bytes = 8192;
    tiers[0].segment_bytes = head[2] & 1 ? 2048 : head[2] & 2 ? TNM_DEDICATED : 0;
    tiers[1].segment_bytes = 16384;
    d.tiers = tiers;
    d.tier_count = 2;
    d.chunk_bytes = 256;
    d.pump_thread = head[3] & 1;
    d.alloc = check_alloc;
    d.release = check_release;
    CHECK_EQ(tnm_create(&d, &ctx), TNM_OK);
    what.bytes = FUZZ_BYTES;
    for (int i = 0; ctx != NULL && i < threads * FUZZ_OWN; i++) {
        CHECK_EQ(tnm_tensor_create(ctx, &what, &tensor[i]), TNM_OK);
        CHECK_EQ(tnm_write(ctx, tensor[i], 0, zero, sizeof zero), TNM_OK);
    }
    return ctx;
}

/* What every owner wrote last is there, whoever did what beside it. */
static void fuzz_end(tnm_ctx *ctx, const fuzz_thread *t, const tnm_tensor *tensor) {
    uint8_t back[FUZZ_BYTES];
    CHECK(tnm_set_budget(ctx, 0, TNM_ALL) >= 0);
    for (int i = 0; i < t[0].threads * FUZZ_OWN; i++) {
        CHECK_EQ(tnm_read(ctx, tensor[i], 0, back, sizeof back), TNM_OK);
        CHECK(back[0] == t[i / FUZZ_OWN].wrote[i % FUZZ_OWN]);
        fuzz_whole(back);
    }
    CHECK_EQ(tnm_check(ctx), 0);
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tnm_tensor tensor[FUZZ_THREADS * FUZZ_OWN];
    fuzz_thread t[FUZZ_THREADS];
    pthread_t thread[FUZZ_THREADS];
    int threads, started = 0;
    tnm_ctx *ctx;
    if (size < MUTATE_HEAD) return 0;
    threads = 2 + data[1] % 3;
    ctx = fuzz_open(data, threads, tensor);
    if (ctx == NULL) abort();
    memset(t, 0, sizeof t);
    for (int k = 0; k < threads; k++) {
        t[k].ctx = ctx;
        t[k].tensor = tensor;
        t[k].at = data + MUTATE_HEAD;
        t[k].count = (size - MUTATE_HEAD) / MUTATE_RECORD;
        if (t[k].count > FUZZ_MOST) t[k].count = FUZZ_MOST;
        t[k].self = k;
        t[k].threads = threads;
        if (pthread_create(&thread[k], NULL, fuzz_run, &t[k]) != 0) break;
        started++;
    }
    for (int k = 0; k < started; k++)
        pthread_join(thread[k], NULL);
    fuzz_end(ctx, t, tensor);
    if (check_bad > 0 || check_live_blocks() != 0) abort();
    return 0;
}
