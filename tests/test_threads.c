/* needs: -pthread */
/* Several threads on one context. Wrong payloads are what a broken pin protocol gives, and no tool
 * sees them (everything is ordered): so every pinned payload is looked at. Under ThreadSanitizer
 * the same file shows the races. Built three ways: with our lock (here), without atomics, with the
 * application's lock (test_threads_noatomics.c, test_threads_ownlock.c). */
#ifndef THREADS_OWN_LOCK
#    define TENSORMEM_THREADS
#endif
#define _POSIX_C_SOURCE 200809L
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "sim.h"

#ifndef CHECK_PTHREADS
int main(void) {
    SKIP("threads", "written for pthreads");
    return check_done();
}
#else
#    include <pthread.h>
#    include <sched.h>
#    include <signal.h>
#    include <time.h>

enum { SLOTS = 24, WORDS = 96, WIDE = WORDS * 8, PLACES = 9 };

typedef struct slot {
    pthread_mutex_t mutex; /* of the pair below, never held over a call */
    tnm_tensor handle;
    uint64_t key;
} slot;

typedef struct arena {
    rig g;
    slot slot[SLOTS];
    pthread_mutex_t lock; /* the context's, when the application brings one */
    int stop;
    uint64_t keys;
    long pins, stale, refused;
    tnm_pinned mailbox; /* pinned by one thread, unpinned by another */
    pthread_mutex_t mail;
} arena;

static arena a;

/* By read-modify-writes: helgrind and DRD take a plain atomic access for one without a lock. */
static int is_set(int *flag) {
    int seen = 0;
    __atomic_compare_exchange_n(flag, &seen, 0, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    return seen;
}

static void set(int *flag) {
    CHECK_ADD(*flag, 1);
}

static int stopped(void) {
    return is_set(&a.stop);
}

static void stop(void) {
    set(&a.stop);
}

static int yield_idle(void *user, uint64_t rounds) {
    (void)user;
    sched_yield();
    if (rounds == 5000000) check_fail(__FILE__, __LINE__, "a waiting call got nowhere");
    return rounds >= 5000000;
}

static void own_lock(void *user) {
    (void)user;
    pthread_mutex_lock(&a.lock);
}

static void own_unlock(void *user) {
    (void)user;
    pthread_mutex_unlock(&a.lock);
}

static uint64_t all_passed(void *user, uint32_t queue, uint64_t wait_for) {
    (void)user;
    (void)queue;
    (void)wait_for;
    return ((uint64_t)1 << 56) - 1;
}

static void quiet(void *user, const tnm_log *item) {
    (void)user;
    (void)item;
}

static void open_arena(int kind, uint64_t places) {
    memset(&a, 0, sizeof a);
    rig_start(&a.g, 11);
    a.g.sim.delay = 2;
    pthread_mutex_init(&a.lock, NULL);
    pthread_mutex_init(&a.mail, NULL);
    a.g.desc.alloc = check_alloc;
    a.g.desc.release = check_release;
    a.g.desc.idle = yield_idle;
    a.g.desc.passed = all_passed;
    a.g.desc.log = quiet;
#    ifdef THREADS_OWN_LOCK
    a.g.desc.lock = own_lock;
    a.g.desc.unlock = own_unlock;
#    else
    (void)own_lock;
    (void)own_unlock;
#    endif
    a.g.desc.chunk_bytes = 256;
    rig_tier(&a.g, "fast", kind, places > 0 ? rig_room(places, WIDE) : 0);
    rig_tier(&a.g, "slow", SIM_PLAIN | (kind & SIM_ASYNC), 0);
}

static void fill_words(void *at, uint64_t key) {
    for (int i = 0; i < WORDS; i++)
        ((uint64_t *)at)[i] = key * 0x9E3779B97F4A7C15u + (uint64_t)i;
}

static void check_words(const void *at, uint64_t key) {
    for (int i = 0; i < WORDS; i++) {
        if (((const uint64_t *)at)[i] == key * 0x9E3779B97F4A7C15u + (uint64_t)i) continue;
        check_fail(__FILE__, __LINE__, "P1: a pinned payload is another tensor's or an older one");
        return;
    }
}

/* a new tensor with a payload of its own, and the key of that payload */
static tnm_tensor new_tensor(uint64_t *key) {
    tnm_tensor t = { 0 };
    tnm_tensor_desc d;
    tnm_use u;
    tnm_pinned p;
    tnm_result r = TNM_ERR_BUDGET;
    memset(&d, 0, sizeof d);
    d.bytes = WIDE;
    *key = __atomic_add_fetch(&a.keys, 1, __ATOMIC_RELAXED);
    CHECK_EQ(tnm_tensor_create(a.g.ctx, &d, &t), TNM_OK);
    u = rig_use(t, (int)(*key & 1), TNM_DISCARD);
    for (int i = 0; i < 100000 && r == TNM_ERR_BUDGET; i++) { /* other threads' pins pass */
        r = tnm_pin(a.g.ctx, &u, 1, &p);
        if (r == TNM_ERR_BUDGET) sched_yield();
    }
    CHECK_EQ(r, TNM_OK);
    if (r != TNM_OK) return t;
    fill_words(p.host, *key);
    CHECK_EQ(tnm_unpin(a.g.ctx, &p, 1, 0), TNM_OK);
    return t;
}

static void fill_slots(void) {
    for (int i = 0; i < SLOTS; i++) {
        pthread_mutex_init(&a.slot[i].mutex, NULL);
        a.slot[i].handle = new_tensor(&a.slot[i].key);
    }
}

static tnm_tensor look_up(int i, uint64_t *key) {
    tnm_tensor t;
    pthread_mutex_lock(&a.slot[i].mutex);
    t = a.slot[i].handle;
    *key = a.slot[i].key;
    pthread_mutex_unlock(&a.slot[i].mutex);
    return t;
}

static void count_result(tnm_result r) {
    if (r == TNM_OK)
        CHECK_ADD(a.pins, 1);
    else if (r == TNM_ERR_STALE)
        CHECK_ADD(a.stale, 1);
    else if (r == TNM_ERR_BUDGET || r == TNM_ERR_BUSY || r == TNM_PENDING || r == TNM_ABSENT)
        CHECK_ADD(a.refused, 1);
    else
        CHECK_EQ(r, TNM_OK);
}

/* ---- the cast ---- */
static void hand_over(tnm_pinned *p) {
    tnm_pinned old;
    pthread_mutex_lock(&a.mail);
    old = a.mailbox;
    a.mailbox = *p;
    pthread_mutex_unlock(&a.mail);
    if (old.id != 0) CHECK_EQ(tnm_unpin(a.g.ctx, &old, 1, 0), TNM_OK);
}

static void *pinner(void *arg) {
    uint64_t seed = (uintptr_t)arg;
    while (!stopped()) {
        uint64_t key;
        tnm_tensor t = look_up((int)check_draw(&seed, SLOTS), &key);
        tnm_use u = rig_use(t, check_draw(&seed, 4) == 0, TNM_READ);
        tnm_pinned p;
        uint64_t how = check_draw(&seed, 8);
        tnm_result r;
        if (how == 0) u.flags = TNM_IF_READY;
        r = how < 4 ? tnm_try_pin(a.g.ctx, &u, 1, &p) : tnm_pin(a.g.ctx, &u, 1, &p);
        count_result(r);
        if (r != TNM_OK) continue;
        check_words(p.host, key);
        if (how == 7) sched_yield();
        check_words(p.host, key);
        if (how == 6)
            hand_over(&p);
        else
            CHECK_EQ(tnm_unpin(a.g.ctx, &p, 1, how == 5 ? TNM_FENCE(1, 5) : 0), TNM_OK);
    }
    return NULL;
}

static void *set_pinner(void *arg) {
    uint64_t seed = (uintptr_t)arg;
    while (!stopped()) {
        tnm_use u[3];
        tnm_pinned p[3];
        uint64_t key[3];
        tnm_result r;
        for (int i = 0; i < 3; i++) {
            tnm_tensor t = look_up((int)check_draw(&seed, SLOTS), &key[i]);
            u[i] = rig_use(t, 0, TNM_READ);
        }
        r = tnm_pin(a.g.ctx, u, 3, p);
        count_result(r);
        if (r != TNM_OK) continue;
        for (int i = 0; i < 3; i++)
            check_words(p[i].host, key[i]);
        CHECK_EQ(tnm_unpin(a.g.ctx, p, 3, 0), TNM_OK);
    }
    return NULL;
}

static void *mover(void *arg) {
    uint64_t seed = (uintptr_t)arg;
    while (!stopped()) {
        uint64_t key;
        tnm_tensor t = look_up((int)check_draw(&seed, SLOTS), &key);
        tnm_use u = rig_use(t, 0, TNM_READ);
        tnm_result r = TNM_OK;
        switch (check_draw(&seed, 5)) {
        case 0:
            r = tnm_evict(a.g.ctx, t, (int)check_draw(&seed, 2));
            break;
        case 1:
            r = tnm_prefetch(a.g.ctx, 0, &u, 1);
            break;
        case 2:
            r = tnm_flush(a.g.ctx, t, 1);
            break;
        case 3:
            r = tnm_cancel(a.g.ctx, &t, 1);
            break;
        default:
            tnm_pump(a.g.ctx, 512);
            break;
        }
        CHECK(r != TNM_ERR_LOST && r != TNM_ERR_BACKEND);
        tnm_pump(a.g.ctx, TNM_ALL);
    }
    return NULL;
}

static void *churner(void *arg) {
    uint64_t seed = (uintptr_t)arg;
    while (!stopped()) {
        uint64_t key;
        tnm_tensor fresh = new_tensor(&key), old;
        slot *s = &a.slot[check_draw(&seed, SLOTS)];
        pthread_mutex_lock(&s->mutex);
        old = s->handle;
        s->handle = fresh;
        s->key = key;
        pthread_mutex_unlock(&s->mutex);
        CHECK_EQ(tnm_tensor_destroy(a.g.ctx, old), TNM_OK);
    }
    return NULL;
}

static void *writer(void *arg) { /* on tensors of its own: the order on a replica is its own */
    uint64_t seed = (uintptr_t)arg;
    uint64_t key[3];
    tnm_tensor t[3];
    for (int i = 0; i < 3; i++)
        t[i] = new_tensor(&key[i]);
    while (!stopped()) {
        int i = (int)check_draw(&seed, 3);
        tnm_access access = (tnm_access)check_draw(&seed, 3);
        tnm_use u = rig_use(t[i], (int)check_draw(&seed, 2), access);
        tnm_pinned p;
        tnm_result r = tnm_pin(a.g.ctx, &u, 1, &p);
        if (r == TNM_ERR_BUDGET) continue;
        CHECK_EQ(r, TNM_OK);
        if (r != TNM_OK) break;
        if (access != TNM_DISCARD) check_words(p.host, key[i]);
        if (access != TNM_READ) {
            key[i] = __atomic_add_fetch(&a.keys, 1, __ATOMIC_RELAXED);
            fill_words(p.host, key[i]);
        }
        CHECK_EQ(tnm_unpin(a.g.ctx, &p, 1, 0), TNM_OK);
    }
    for (int i = 0; i < 3; i++)
        CHECK_EQ(tnm_tensor_destroy(a.g.ctx, t[i]), TNM_OK);
    return NULL;
}

static void *shrinker(void *arg) {
    uint64_t seed = (uintptr_t)arg;
    while (!stopped()) {
        tnm_result r = tnm_set_budget(a.g.ctx, 0, rig_room(4 + check_draw(&seed, PLACES), WIDE));
        CHECK(r >= 0 || r == TNM_ERR_BUSY);
        for (int i = 0; i < 50; i++)
            tnm_pump(a.g.ctx, TNM_ALL);
    }
    return NULL;
}

static void *onlooker(void *arg) {
    uint64_t seed = (uintptr_t)arg;
    while (!stopped()) {
        uint64_t key;
        tnm_tensor t = look_up((int)check_draw(&seed, SLOTS), &key);
        tnm_use u = rig_use(t, 0, TNM_READ);
        tnm_tensor_info info;
        tnm_tier_stats stats;
        tnm_shortage why;
        tnm_result r = tnm_info(a.g.ctx, t, 0, &info);
        CHECK(r == TNM_OK || r == TNM_ERR_STALE);
        CHECK_EQ(tnm_stats(a.g.ctx, 0, &stats), TNM_OK);
        tnm_why(a.g.ctx, &u, 1, &why);
        CHECK_EQ(tnm_check(a.g.ctx), 0);
        sched_yield();
    }
    return NULL;
}

/* at least so long and until there were `enough` pins */
static void run_for(int full_ms, void *(*const *cast)(void *), int count, long enough) {
    pthread_t thread[12];
    int ms = check_scale(full_ms, full_ms / 4);
    struct timespec nap = { ms / 1000, (ms % 1000) * 1000000L };
    for (int i = 0; i < count; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, cast[i], (void *)(uintptr_t)(i * 7919 + 1)), 0);
    nanosleep(&nap, NULL);
    nap.tv_sec = 0;
    nap.tv_nsec = 10000000;
    for (int i = 0; i < 2000 && __atomic_load_n(&a.pins, __ATOMIC_RELAXED) < enough; i++)
        nanosleep(&nap, NULL); /* a busy machine: longer, but not less is looked at */
    stop();
    for (int i = 0; i < count; i++)
        pthread_join(thread[i], NULL);
    CHECK(a.pins >= enough);
}

static void close_arena(void) {
    tnm_pinned none;
    memset(&none, 0, sizeof none);
    hand_over(&none);
    rig_healthy(&a.g);
    CHECK_EQ(tnm_destroy(a.g.ctx), TNM_OK);
    rig_close_sim(&a.g);
    for (int i = 0; i < SLOTS; i++)
        if (a.slot[i].handle.id != 0) pthread_mutex_destroy(&a.slot[i].mutex);
    pthread_mutex_destroy(&a.mail);
    pthread_mutex_destroy(&a.lock);
}

static void churn(int kind, int ms) {
    void *(*const cast[])(void *) = { pinner, pinner, pinner, mover, churner, writer, set_pinner };
    open_arena(kind, PLACES);
    if (!rig_create(&a.g)) return;
    fill_slots();
    run_for(ms, cast, 7, 100);
    close_arena();
    printf("  %ld pins, %ld stale, %ld refused\n", a.pins, a.stale, a.refused);
}

TEST(payloads_with_synchronous_copies) {
    churn(SIM_PLAIN, 1000);
}

TEST(payloads_with_asynchronous_copies) {
    churn(SIM_PLAIN | SIM_ASYNC, 1000);
}

TEST(budget_changes_under_load) {
    void *(*const cast[])(void *) = { pinner, pinner, shrinker, churner, onlooker };
    open_arena(SIM_PLAIN | SIM_ASYNC, PLACES);
    a.g.tiers[0].segment_bytes = rig_room(1, WIDE);
    a.g.sim.device[0].limit = UINT64_MAX; /* read by the device while a thread sets it */
    if (!rig_create(&a.g)) return;
    fill_slots();
    run_for(600, cast, 5, 50);
    close_arena();
}

TEST(hits_of_different_tensors) { /* everything fits: nothing but the pin word at work */
    void *(*const cast[])(void *) = { pinner, pinner, pinner, pinner };
    open_arena(SIM_PLAIN, 0);
    if (!rig_create(&a.g)) return;
    fill_slots();
    run_for(400, cast, 4, 1000);
    CHECK_EQ(a.stale, 0); /* nobody destroys */
    close_arena();
}

static void *recorder(void *arg) { /* hits take the lock, or not, from one moment to the next */
    uint64_t seed = (uintptr_t)arg;
    while (!stopped()) {
        uint32_t lane = (uint32_t)check_draw(&seed, 3);
        CHECK_EQ(tnm_record(a.g.ctx, lane), TNM_OK);
        sched_yield();
        if (check_draw(&seed, 2)) CHECK_EQ(tnm_step(a.g.ctx, lane, check_draw(&seed, 9)), TNM_OK);
        tnm_result r = tnm_replay(a.g.ctx, lane);
        CHECK(r == TNM_OK || r == TNM_ERR_ARGUMENT);
        sched_yield();
        if (check_draw(&seed, 2)) CHECK_EQ(tnm_schedule(a.g.ctx, lane, NULL, 0, 0), TNM_OK);
        CHECK_EQ(tnm_check(a.g.ctx), 0);
    }
    return NULL;
}

static void learn_and_record(uint64_t places) {
    void *(*const cast[])(void *) = { pinner, pinner, set_pinner, recorder, churner };
    open_arena(SIM_PLAIN | SIM_ASYNC, places);
    a.g.desc.policy = TNM_POLICY_AUTO;
    if (!rig_create(&a.g)) return;
    fill_slots();
    run_for(400, cast, 5, 50);
    close_arena();
}

TEST(learning_and_recording_among_hits) {
    learn_and_record(PLACES);
    learn_and_record(0);
}

/* Cycles of more uses than one hold of the lock puts in or takes out, by several at once. */
static void *scheduler(void *arg) {
    enum { USES = 3 * TNMI_PIECE + 5 };
    uint64_t seed = (uintptr_t)arg;
    tnm_use *cycle = (tnm_use *)malloc(USES * sizeof *cycle);
    while (cycle && !stopped()) {
        uint32_t lane = (uint32_t)check_draw(&seed, 2);
        for (int i = 0; i < USES; i++) {
            uint64_t key;
            tnm_tensor t = look_up((int)check_draw(&seed, SLOTS), &key);
            cycle[i] = rig_use(t, (int)check_draw(&seed, 2), TNM_READ);
            cycle[i].step = check_draw(&seed, USES);
        }
        tnm_result r = tnm_schedule(a.g.ctx, lane, cycle, USES, USES);
        CHECK(r == TNM_OK || r == TNM_ERR_STALE);
        for (int i = 0; i < 3; i++)
            CHECK_EQ(tnm_step(a.g.ctx, lane, check_draw(&seed, 3 * USES)), TNM_OK);
        if (check_draw(&seed, 3) == 0) CHECK_EQ(tnm_schedule(a.g.ctx, lane, NULL, 0, 0), TNM_OK);
        CHECK_EQ(tnm_check(a.g.ctx), 0);
    }
    free(cycle);
    return NULL;
}

TEST(cycles_come_and_go_among_others) {
    void *(*const cast[])(void *) = { scheduler, scheduler, recorder, churner, pinner };
    open_arena(SIM_PLAIN | SIM_ASYNC, PLACES);
    if (!rig_create(&a.g)) return;
    fill_slots();
    run_for(600, cast, 5, 20);
    for (uint32_t lane = 0; lane < 3; lane++)
        CHECK_EQ(tnm_schedule(a.g.ctx, lane, NULL, 0, 0), TNM_OK);
    CHECK_EQ(tnm_check(a.g.ctx), 0);
    close_arena();
}

TEST(sets_against_sets) { /* P6: nobody starves, nobody hangs */
    void *(*const cast[])(void *) = { set_pinner, set_pinner, set_pinner };
    open_arena(SIM_PLAIN | SIM_ASYNC, 4);
    if (!rig_create(&a.g)) return;
    fill_slots();
    run_for(400, cast, 3, 20);
    close_arena();
}

/* ---- a blocking pin joins another thread's transfer ---- */
static void *one_pin(void *arg) {
    uint64_t key;
    tnm_use u = rig_use(look_up(0, &key), 0, TNM_READ);
    tnm_pinned p;
    tnm_result r = tnm_pin(a.g.ctx, &u, 1, &p);
    (void)arg;
    CHECK_EQ(r, TNM_OK);
    count_result(r);
    if (r != TNM_OK) return NULL;
    check_words(p.host, key);
    CHECK_EQ(tnm_unpin(a.g.ctx, &p, 1, 0), TNM_OK);
    return NULL;
}

TEST(blocking_pins_share_one_transfer) {
    void *(*const cast[])(void *) = { one_pin, one_pin, one_pin };
    open_arena(SIM_PLAIN | SIM_ASYNC, 2);
    a.g.sim.delay = 400;
    if (!rig_create(&a.g)) return;
    pthread_mutex_init(&a.slot[0].mutex, NULL);
    do { /* one whose payload begins on the slow tier */
        a.slot[0].handle = new_tensor(&a.slot[0].key);
    } while ((a.slot[0].key & 1) == 0);
    a.g.sim.copied_bytes = 0;
    run_for(40, cast, 3, 3);
    CHECK_EQ(a.pins, 3);
    CHECK_EQ(a.g.sim.copied_bytes, WIDE);
    close_arena();
}

/* The last pin is let go without the lock. What follows under the lock may come so late that the
 * record is free, or another's: made here by hand, in the order in which it went wrong. */
TEST(a_late_unpin_ends_nothing_else) {
    uint64_t key;
    tnm_tensor t, fresh[3];
    tnm_pinned p;
    tnm_use u;
    open_arena(SIM_PLAIN, 4);
    if (!rig_create(&a.g)) return;
    tnmi_engine *e = &a.g.ctx->e;
    do
        t = new_tensor(&key);
    while (key & 1);
    u = rig_use(t, 0, TNM_READ);
    CHECK_EQ(tnm_pin(a.g.ctx, &u, 1, &p), TNM_OK);
    CHECK_EQ(tnm_tensor_destroy(a.g.ctx, t), TNM_OK);
    uint32_t index = (uint32_t)p.id, names = e->tensors.names.live;
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, 0, index);
    uint64_t before = tnmi_tensor_unpin(replica, TNM_READ);
    CHECK(tnm_set_budget(a.g.ctx, 0, 0) >= 0); /* another thread empties the tier */
    rig_rest(&a.g);
    CHECK(tnmi_tensor_is(tnmi_base_load64(&replica->word), TNMI_ABSENT));
    CHECK_EQ(e->tensors.names.live, names - 1); /* its content has ended, once */
    tnmi_engine_unpinned(e, 0, index, before);
    CHECK_EQ(e->tensors.names.live, names - 1);
    CHECK_EQ(tnm_set_budget(a.g.ctx, 0, rig_room(4, WIDE)), TNM_OK);
    for (int i = 0; i < 3; i++)
        fresh[i] = new_tensor(&key);
    CHECK(fresh[0].id != fresh[1].id && fresh[1].id != fresh[2].id && fresh[0].id != fresh[2].id);
    close_arena();
}

/* While the table of uses grows for what was pinned, another thread destroys just that. */
static tnm_tensor doomed;

static void *destroyer(void *arg) {
    (void)arg;
    CHECK_EQ(tnm_tensor_destroy(a.g.ctx, doomed), TNM_OK);
    return NULL;
}

static void *destroy_and_alloc(void *user, size_t size) {
    pthread_t thread;
    if (doomed.id != 0) {
        CHECK_EQ(pthread_create(&thread, NULL, destroyer, NULL), 0);
        pthread_join(thread, NULL);
        doomed.id = 0;
    }
    return check_alloc(user, size);
}

TEST(what_is_destroyed_before_it_is_noted_is_not_recorded) {
    uint64_t key;
    tnm_pinned p;
    open_arena(SIM_PLAIN, PLACES);
    a.g.desc.alloc = destroy_and_alloc;
    if (!rig_create(&a.g)) return;
    tnm_tensor kept = new_tensor(&key), gone = new_tensor(&key);
    tnm_use u = rig_use(kept, 0, TNM_READ);
    CHECK_EQ(tnm_record(a.g.ctx, 0), TNM_OK);
    tnmi_table *uses = &a.g.ctx->e.hints.uses;
    do {
        CHECK_EQ(tnm_pin(a.g.ctx, &u, 1, &p), TNM_OK);
        CHECK_EQ(tnm_unpin(a.g.ctx, &p, 1, 0), TNM_OK);
    } while (tnmi_store_spare(uses) > 0);
    doomed = gone;
    u = rig_use(gone, 0, TNM_READ);
    CHECK_EQ(tnm_pin(a.g.ctx, &u, 1, &p), TNM_OK);
    CHECK_EQ(doomed.id, 0);
    CHECK_EQ(tnm_unpin(a.g.ctx, &p, 1, 0), TNM_OK);
    CHECK_EQ(tnm_check(a.g.ctx), 0);
    CHECK_EQ(tnm_replay(a.g.ctx, 0), TNM_OK);
    tnm_tensor fresh = new_tensor(&key), other = new_tensor(&key);
    CHECK(fresh.id != other.id);
    CHECK_EQ(tnm_check(a.g.ctx), 0);
    CHECK_EQ(tnm_schedule(a.g.ctx, 0, NULL, 0, 0), TNM_OK);
    close_arena();
}

#    ifndef THREADS_OWN_LOCK
TEST(pump_thread_brings_a_prefetch) {
    tnm_use u;
    tnm_tensor_info info = { 0 };
    uint64_t key;
    struct timespec nap = { 0, 2000000 };
    open_arena(SIM_PLAIN | SIM_ASYNC, 4);
    a.g.desc.pump_thread = 1;
    if (!rig_create(&a.g)) return;
    fill_slots();
    u = rig_use(look_up(1, &key), 0, TNM_READ);
    CHECK(tnm_prefetch(a.g.ctx, 0, &u, 1) >= 0);
    for (int i = 0; i < 2000 && info.state != TNM_STATE_READY; i++) {
        nanosleep(&nap, NULL);
        CHECK_EQ(tnm_info(a.g.ctx, u.tensor, 0, &info), TNM_OK);
    }
    CHECK_EQ(info.state, TNM_STATE_READY);
    one_pin(NULL);
    close_arena();
}

/* A synchronous backend whose first copy waits for the caller to be asleep in its pin, and whose
 * third for the pin to be granted. */
typedef struct held {
    int copies, asking, granted; /* atomic */
    int in_time, deaf; /* deaf: the thread we started blocks signals, but not faults */
} held;

static int held_wait(int *flag) { /* ten seconds, then it did not come */
    struct timespec nap = { 0, 2000000 };
    for (int i = 0; i < 5000 && !is_set(flag); i++)
        nanosleep(&nap, NULL);
    return is_set(flag);
}

static void *held_memory;

static tnm_result held_alloc(void *user, uint64_t size, uint64_t align, void *item, uint64_t *mem,
                             void **host) {
    (void)user;
    (void)item;
    if ((held_memory = malloc((size_t)(size + align))) == NULL) return TNM_ERR_MEMORY;
    *mem = 1;
    *host = (char *)held_memory + (size_t)((align - (uintptr_t)held_memory % align) % align);
    return TNM_OK;
}

static void held_release(void *user, uint64_t mem, uint64_t size) {
    (void)user;
    (void)mem;
    (void)size;
    free(held_memory);
}

static tnm_result held_copy(void *user, const tnm_span *dst, const tnm_span *src, uint64_t size,
                            uint64_t *ticket) {
    held *h = (held *)user;
    int copy = __atomic_add_fetch(&h->copies, 1, __ATOMIC_RELEASE);
    struct timespec nap = { 0, 50000000 };
    (void)ticket;
    if (copy == 1) {
#    ifndef _WIN32
        sigset_t mask;
        CHECK_EQ(pthread_sigmask(SIG_SETMASK, NULL, &mask), 0);
        h->deaf = sigismember(&mask, SIGINT) && sigismember(&mask, SIGUSR1) &&
                  !sigismember(&mask, SIGSEGV);
#    else
        h->deaf = 1; /* there are none */
#    endif
        held_wait(&h->asking);
        nanosleep(&nap, NULL);
    }
    if (copy == 3) h->in_time = held_wait(&h->granted);
    memcpy(dst->host, src->host, (size_t)size);
    return TNM_OK;
}

TEST(a_granted_pin_does_not_wait_for_the_next_prefetch) {
    static unsigned char bytes[6][4096];
    held h = { 0, 0, 0, 0, 0 };
    tnm_tier_desc tiers[2];
    tnm_desc desc;
    tnm_ctx *ctx;
    tnm_use cycle[6];
    tnm_pinned at;
    memset(tiers, 0, sizeof tiers);
    memset(&desc, 0, sizeof desc);
    memset(cycle, 0, sizeof cycle);
    tiers[0].name = "fast";
    tiers[0].backend.alloc = held_alloc;
    tiers[0].backend.release = held_release;
    tiers[0].backend.copy = held_copy;
    tiers[0].backend.user = &h;
    tiers[0].budget_bytes = 8 * 4096;
    tiers[1].name = "slow";
    desc.tiers = tiers;
    desc.tier_count = 2;
    desc.pump_thread = 1;
    if (tnm_create(&desc, &ctx) != TNM_OK) return;
    for (int i = 0; i < 6; i++) {
        tnm_tensor_desc what = { 0 };
        tnm_adopt_desc where = { 0 };
        what.bytes = sizeof bytes[i];
        where.tier = 1;
        where.host = bytes[i];
        CHECK_EQ(tnm_tensor_adopt(ctx, &what, &where, &cycle[i].tensor), TNM_OK);
        cycle[i].step = (uint64_t)i;
    }
    CHECK_EQ(tnm_schedule(ctx, 0, cycle, 6, 6), TNM_OK);
    CHECK_EQ(tnm_step(ctx, 0, 0), TNM_OK);
    CHECK(held_wait(&h.copies));
    set(&h.asking);
    CHECK_EQ(tnm_pin(ctx, &cycle[1], 1, &at), TNM_OK);
    set(&h.granted);
    CHECK_EQ(tnm_unpin(ctx, &at, 1, 0), TNM_OK);
    for (int i = 0; i < 6; i++) {
        CHECK_EQ(tnm_pin(ctx, &cycle[i], 1, &at), TNM_OK);
        CHECK_EQ(tnm_unpin(ctx, &at, 1, 0), TNM_OK);
    }
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
    CHECK(h.in_time && h.deaf);
}
#    endif

#    ifndef THREADS_OWN_LOCK
static int locked, locks;

static void take_lock(void *user) {
    (void)user;
    CHECK(!locked);
    locked = 1;
    locks++;
}

static void give_lock(void *user) {
    (void)user;
    CHECK(locked);
    locked = 0;
}

/* Built with threads, and yet the application brings the lock. */
TEST(the_application_may_bring_its_lock) {
    static rig g;
    rig_start(&g, 1);
    rig_tier(&g, "fast", SIM_HIDDEN | SIM_ASYNC, rig_room(2, WIDE));
    rig_tier(&g, "slow", SIM_PLAIN | SIM_ASYNC, 0);
    g.sim.delay = 3;
    g.desc.lock = take_lock;
    g.desc.unlock = give_lock;
    locked = locks = 0;
    CHECK(rig_create(&g));
    tnm_tensor t[4];
    for (int i = 0; i < 4; i++) {
        t[i] = rig_tensor(&g, WIDE, 0);
        rig_write(&g, t[i], 0, (uint64_t)i + 1);
    }
    for (int i = 0; i < 4; i++)
        rig_expect(&g, t[i], 0, (uint64_t)i + 1);
    CHECK(locks > 8 && !locked);
    rig_end(&g);
}

/* A thread that knocks has the lock next: others wait in the anteroom. */
TEST(who_knocks_is_let_in_first) {
    static rig g;
    rig_start(&g, 1);
    rig_tier(&g, "fast", SIM_PLAIN, 0);
    CHECK(rig_create(&g));
    tnm_ctx *ctx = g.ctx;
    tnmi_base_store32(&ctx->knocking, 1);
    tnmi_door_lock(ctx);
    CHECK_EQ(tnmi_base_load32(&ctx->knocking), 0); /* and has come in */
    tnmi_door_unlock(ctx);
    rig_end(&g);
}
#    endif

int main(int argc, char **argv) { /* test_threads [sets] */
    if (argc > 1 && strcmp(argv[1], "sets") == 0) {
        RUN(sets_against_sets);
        return check_done();
    }
    RUN(payloads_with_synchronous_copies);
    RUN(payloads_with_asynchronous_copies);
    RUN(budget_changes_under_load);
    RUN(hits_of_different_tensors);
    RUN(learning_and_recording_among_hits);
    RUN(cycles_come_and_go_among_others);
    RUN(sets_against_sets);
    RUN(blocking_pins_share_one_transfer);
    RUN(a_late_unpin_ends_nothing_else);
    RUN(what_is_destroyed_before_it_is_noted_is_not_recorded);
#    ifndef THREADS_OWN_LOCK
    RUN(the_application_may_bring_its_lock);
    RUN(who_knocks_is_let_in_first);
    RUN(pump_thread_brings_a_prefetch);
    RUN(a_granted_pin_does_not_wait_for_the_next_prefetch);
#    endif
    return check_done();
}
#endif
