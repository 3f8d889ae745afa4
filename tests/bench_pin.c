/* needs: -pthread */
/* bench_pin.c - what a pin that hits costs, fence 0, no trace callback.
 *
 * The floor is two bare atomic read-modify-writes on one word: take and let go. The usual way is a
 * mutex around a look-up by handle, a counter and a splice in an intrusive LRU list, as caches do
 * it.
 *
 * Threads: the context gets lock and unlock, as a program with threads would give; a hit must not
 * call them. Times are CPU time of the thread, so that a busy machine does not count, except for
 * the mutex, whose sleeping is its price. Two threads use two tensors: `far` ones are created 64
 * apart, `near` ones one after the other, as the weights of a layer are: the worse of two such
 * pairs, since records may lie two to a cache line.
 */
#include "bench.h"
#include <pthread.h>

enum { ROUNDS = 15, PAIRS = 1000000, TENSORS = 128, FAR = 64 };

/* ---- contestants: each makes `pairs` takes and releases on object `which` ---- */

typedef struct {
    uint64_t word;
    char apart[120]; /* never on the neighbour's line, nor on the line fetched with it */
} lone_word;

static lone_word bare[TENSORS];

static void run_bare(void *user, int which, int pairs) {
    uint64_t *word = &bare[which].word;
    (void)user;
    for (int i = 0; i < pairs; i++) {
        __atomic_fetch_add(word, 1, __ATOMIC_ACQUIRE);
        __atomic_fetch_sub(word, 1, __ATOMIC_RELEASE);
    }
}

typedef struct {
    tnm_ctx *ctx;
    tnm_tensor tensor[TENSORS];
    tnm_access access;
    pthread_mutex_t mutex;
    uint64_t locked;
} store;

static void run_pin(void *user, int which, int pairs) {
    store *s = (store *)user;
    tnm_use use = bench_use(s->tensor[which], s->access, 0);
    tnm_pinned pinned;
    for (int i = 0; i < pairs; i++) {
        if (tnm_pin(s->ctx, &use, 1, &pinned) != TNM_OK) bench_die("a hit failed");
        if (tnm_unpin(s->ctx, &pinned, 1, 0) != TNM_OK) bench_die("an unpin failed");
    }
}

/* All tensors in turn: a hit with its lines in the second-level cache. */
static void run_pin_round(void *user, int which, int pairs) {
    store *s = (store *)user;
    tnm_use use[TENSORS]; /* built before: copying a use just written stalls its reader */
    tnm_pinned pinned;
    (void)which;
    for (int i = 0; i < TENSORS; i++)
        use[i] = bench_use(s->tensor[i], s->access, 0);
    for (int i = 0; i < pairs; i++) {
        if (tnm_pin(s->ctx, &use[i % TENSORS], 1, &pinned) != TNM_OK) bench_die("a hit failed");
        if (tnm_unpin(s->ctx, &pinned, 1, 0) != TNM_OK) bench_die("an unpin failed");
    }
}

typedef struct entry {
    struct entry *prev, *next;
    uint32_t pins, generation;
} entry;

static struct {
    pthread_mutex_t mutex;
    entry head, item[TENSORS];
} list = { .mutex = PTHREAD_MUTEX_INITIALIZER };

static void list_front(entry *e) {
    e->prev = &list.head;
    e->next = list.head.next;
    e->next->prev = e;
    list.head.next = e;
}

/* A handle is a generation and an index, as ours. */
static entry *list_entry(uint64_t handle) {
    uint32_t index = (uint32_t)handle;
    if (index >= TENSORS || list.item[index].generation != handle >> 32) bench_die("stale");
    return &list.item[index];
}

static void run_list(void *user, int which, int pairs) {
    volatile uint64_t handle = (uint64_t)1 << 32 | (uint64_t)which;
    (void)user;
    for (int i = 0; i < pairs; i++) {
        entry *e;
        pthread_mutex_lock(&list.mutex);
        e = list_entry(handle);
        e->pins++;
        e->prev->next = e->next;
        e->next->prev = e->prev;
        list_front(e);
        pthread_mutex_unlock(&list.mutex);
        pthread_mutex_lock(&list.mutex);
        list_entry(handle)->pins--;
        pthread_mutex_unlock(&list.mutex);
    }
}

/* ---- timing ---- */

typedef void (*contestant)(void *user, int which, int pairs);

typedef struct {
    contestant run;
    void *user;
    int which, pairs;
    int *ready;
    double begin, end, seconds; /* of the wall; of the CPU */
} job;

static void *job_main(void *arg) {
    job *j = (job *)arg;
    double cpu;
    __atomic_sub_fetch(j->ready, 1, __ATOMIC_ACQ_REL);
    while (__atomic_load_n(j->ready, __ATOMIC_ACQUIRE) > 0)
        continue;
    j->begin = bench_wall();
    cpu = bench_cpu();
    j->run(j->user, j->which, j->pairs);
    j->seconds = bench_cpu() - cpu;
    j->end = bench_wall();
    return NULL;
}

/* Both threads' mean CPU time a pair, in nanoseconds, or the wall's for those that sleep; *shared
 * gets the share of the time in which both ran. */
static double try_two(contestant run, void *user, int a, int b, int pairs, int wall,
                      double *shared) {
    int ready = 2;
    job jobs[2] = { { run, user, a, pairs, &ready, 0, 0, 0 },
                    { run, user, b, pairs, &ready, 0, 0, 0 } };
    pthread_t other;
    double begin, end;
    if (pthread_create(&other, NULL, job_main, &jobs[1]) != 0) bench_die("no thread");
    job_main(&jobs[0]);
    pthread_join(other, NULL);
    begin = jobs[0].begin < jobs[1].begin ? jobs[0].begin : jobs[1].begin;
    end = jobs[0].end > jobs[1].end ? jobs[0].end : jobs[1].end;
    *shared = (jobs[0].seconds + jobs[1].seconds) / (2 * (end - begin));
    if (wall) return 1e9 * (end - begin) / pairs;
    return 1e9 * 0.5 * (jobs[0].seconds + jobs[1].seconds) / pairs;
}

/* On a busy machine two threads take turns and never meet. So the runs are short, and of several
 * the one counts in which they met most. */
static double together, together_count;

static double two_threads(contestant run, void *user, int a, int b, int pairs, int wall) {
    double most = -1, best = 0, shared;
    if (wall) return try_two(run, user, a, b, pairs, 1, &shared);
    for (int i = 0; i < 40 && most < 0.85; i++) {
        double time = try_two(run, user, a, b, pairs, 0, &shared);
        if (shared <= most) continue;
        most = shared;
        best = time;
    }
    together += most;
    together_count++;
    return best;
}

static double one_thread(contestant run, void *user, int which, int pairs) {
    double begin = bench_cpu();
    run(user, which, pairs);
    return 1e9 * (bench_cpu() - begin) / pairs;
}

/* ---- the stores ---- */

static void take(void *user) {
    store *s = (store *)user;
    pthread_mutex_lock(&s->mutex);
    s->locked++;
}

static void give(void *user) {
    store *s = (store *)user;
    pthread_mutex_unlock(&s->mutex);
}

static void store_open(store *s, tnm_access access, int threads) {
    tnm_tier_desc tier;
    tnm_desc desc;
    memset(s, 0, sizeof *s);
    memset(&tier, 0, sizeof tier);
    memset(&desc, 0, sizeof desc);
    pthread_mutex_init(&s->mutex, NULL);
    tier.name = "host";
    tier.budget_bytes = 4u << 20;
    desc.tiers = &tier;
    desc.tier_count = 1;
    desc.user = s;
    if (threads) desc.lock = take;
    if (threads) desc.unlock = give;
    s->ctx = bench_create(&desc);
    s->access = access;
    for (int i = 0; i < TENSORS; i++) {
        s->tensor[i] = bench_tensor(s->ctx, 4096, NULL);
        bench_touch(s->ctx, s->tensor[i], TNM_DISCARD);
    }
}

static void store_close(store *s) {
    bench_ok(tnm_destroy(s->ctx), "tnm_destroy");
    pthread_mutex_destroy(&s->mutex);
}

/* ---- the rounds, contestants taking turns ---- */

enum {
    BARE,
    BARE_2,
    READ,
    READ_LOCKED,
    WRITE_LOCKED,
    READ_FAR,
    READ_NEAR,
    WRITE_FAR,
    READ_SAME,
    READ_ROUND,
    LIST,
    LIST_2,
    KINDS
};

static store plain, reader, writer;
static double sample[KINDS][ROUNDS];

static void one_round(int r) {
    double other_pair;
    sample[BARE][r] = one_thread(run_bare, NULL, 0, PAIRS);
    sample[READ][r] = one_thread(run_pin, &plain, 0, PAIRS);
    sample[READ_LOCKED][r] = one_thread(run_pin, &reader, 0, PAIRS);
    sample[WRITE_LOCKED][r] = one_thread(run_pin, &writer, 0, PAIRS);
    sample[READ_ROUND][r] = one_thread(run_pin_round, &reader, 0, PAIRS);
    sample[LIST][r] = one_thread(run_list, NULL, 0, PAIRS / 4);
    sample[BARE_2][r] = two_threads(run_bare, NULL, 0, FAR, PAIRS / 50, 0);
    sample[READ_FAR][r] = two_threads(run_pin, &reader, 0, FAR, PAIRS / 50, 0);
    sample[READ_NEAR][r] = two_threads(run_pin, &reader, 0, 1, PAIRS / 50, 0);
    other_pair = two_threads(run_pin, &reader, 1, 2, PAIRS / 50, 0);
    if (other_pair > sample[READ_NEAR][r]) sample[READ_NEAR][r] = other_pair;
    sample[WRITE_FAR][r] = two_threads(run_pin, &writer, 0, FAR, PAIRS / 50, 0);
    sample[READ_SAME][r] = two_threads(run_pin, &reader, 0, 0, PAIRS / 50, 0);
    sample[LIST_2][r] = two_threads(run_list, NULL, 0, FAR, PAIRS / 10, 1);
}

static double mid[KINDS];

static void against(const char *name, int kind, const char *rival, int other, enum bench_op op,
                    double target) {
    bench_line(name, mid[kind], "ns", rival, mid[kind] / mid[other], op, target);
}

static void report(void) {
    for (int k = 0; k < KINDS; k++)
        mid[k] = bench_median(sample[k], ROUNDS);
    printf("# two bare read-modify-writes %.2f ns, two threads %.2f ns; mutex + list splice %.1f "
           "ns, two threads %.1f ns\n",
           mid[BARE], mid[BARE_2], mid[LIST], mid[LIST_2]);
    against("pin_read", READ, "two_rmw", BARE, BENCH_LE, 1.5);
    against("pin_read_locked_context", READ_LOCKED, "two_rmw", BARE, BENCH_LE, 1.5);
    against("pin_write_locked_context", WRITE_LOCKED, "two_rmw", BARE, BENCH_LE, 1.5);
    against("pin_read_2_threads_far", READ_FAR, "one_thread", READ_LOCKED, BENCH_LE, 1.2);
    against("pin_read_2_threads_near", READ_NEAR, "one_thread", READ_LOCKED, BENCH_LE, 1.2);
    against("pin_write_2_threads_far", WRITE_FAR, "one_thread", WRITE_LOCKED, BENCH_LE, 1.2);
    against("pin_read_vs_list", READ_LOCKED, "mutex_lru_splice", LIST, BENCH_LT, 1);
    against("pin_read_2_threads_vs_list", READ_FAR, "mutex_lru_splice", LIST_2, BENCH_LT, 1);
    printf("# no target: two threads on the same tensor %.1f ns; %d tensors in turn %.2f ns\n",
           mid[READ_SAME], TENSORS, mid[READ_ROUND]);
}

int main(void) {
    uint64_t before;
    bench_machine("pin");
    store_open(&plain, TNM_READ, 0);
    store_open(&reader, TNM_READ, 1);
    store_open(&writer, TNM_WRITE, 1);
    list.head.prev = list.head.next = &list.head;
    for (int i = 0; i < TENSORS; i++) {
        entry *e = &list.item[i];
        e->generation = 1;
        list_front(e);
        e->next->prev = e;
    }
    before = reader.locked + writer.locked;
    for (int r = 0; r < ROUNDS; r++)
        one_round(r);
    report();
    printf("# locks taken in all these hits (one in 32,768 folds its counter): %llu\n",
           (unsigned long long)(reader.locked + writer.locked - before));
    printf(
        "# two threads ran side by side %.0f %% of the time; below 80 %% their ratios say little\n",
        100 * together / together_count);
    store_close(&plain);
    store_close(&reader);
    store_close(&writer);
    return 0;
}
