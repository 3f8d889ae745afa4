/* schedule.h: threads as fibers, and every order in which they may come. A test includes this, then
 * tensormem.h with TENSORMEM_THREADS: from here on its pthread calls are those of this file, and
 * TNMI_TEST_ATOMIC is the seam to its atomics.
 *
 * Each fiber runs until it is told to let another one run: before a lock, an unlock, a signal, an
 * atomic access, and inside a callback. A schedule is the list of those tellings. Exploring means
 * all schedules with at most so many preemptions (leaving a fiber that could go on; who blocks,
 * ends or yields is left for nothing), each from the same state at the beginning, by the list of
 * the one before. Beyond that, priorities by chance which fall at places drawn by chance (PCT). A
 * schedule in which everyone is blocked has failed, and so has one without end.
 *
 * A word that one fiber alone touches, or that nobody changes, is no place to switch at: what
 * others touch is learned from the schedules before, and the search begins anew until nothing is
 * learned.
 *
 * To ThreadSanitizer a fiber is a thread, and a switch orders nothing: what the explored code does
 * without a lock of its own is reported as the race it is. */
#ifndef TENSORMEM_TESTS_SCHEDULE_H
#define TENSORMEM_TESTS_SCHEDULE_H

#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#if defined(__has_feature)
#    if __has_feature(thread_sanitizer)
#        define SCHEDULE_TSAN 1
#    elif __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
#        define SCHEDULE_ANEW 1
#    endif
#endif
#if defined(__SANITIZE_THREAD__)
#    define SCHEDULE_TSAN 1
#elif defined(__SANITIZE_ADDRESS__)
#    define SCHEDULE_ANEW 1
#endif

#ifdef SCHEDULE_TSAN
#    include <sanitizer/tsan_interface.h>
#    define SCHEDULE_ANEW       1
#    define SCHEDULE_QUIET      __attribute__((no_sanitize_thread, noinline, unused))
#    define SCHEDULE_ACQUIRE(x) __tsan_acquire(x)
#    define SCHEDULE_RELEASE(x) __tsan_release(x)
#else
#    define SCHEDULE_QUIET      __attribute__((unused))
#    define SCHEDULE_ACQUIRE(x) ((void)(x))
#    define SCHEDULE_RELEASE(x) ((void)(x))
#endif

/* One baton among pthreads does where there is no ucontext, and where a tool watches the stacks;
 * what it was told of memory cannot be copied back. */
#if !defined(SCHEDULE_BATON) && (!defined(__GLIBC__) || defined(TENSORMEM_VALGRIND))
#    define SCHEDULE_BATON 1
#endif
#if defined(TENSORMEM_VALGRIND) && !defined(SCHEDULE_ANEW)
#    define SCHEDULE_ANEW 1
#endif
#ifndef SCHEDULE_BATON
#    include <ucontext.h>
#endif

enum {
    SCHEDULE_MOST = 4, /* fibers */
    SCHEDULE_STACK = 1 << 18,
    SCHEDULE_TURNS = 1 << 14,
    SCHEDULE_STEPS = 40000, /* more, and a schedule has no end */
    SCHEDULE_WORDS = 1 << 12
};
enum { SCHEDULE_FREE, SCHEDULE_READY, SCHEDULE_BLOCKED, SCHEDULE_DONE };
enum { SCHEDULE_MAIN = SCHEDULE_MOST, SCHEDULE_NOBODY = -1 };

typedef struct schedule_mutex {
    int owner; /* fiber + 1; -1 = ended */
} schedule_mutex;

typedef struct schedule_bell {
    int rung;
} schedule_bell;

typedef struct schedule_fiber {
    void *(*run)(void *);
    void *arg;
    int state;
    unsigned waits; /* it has yielded until these have run */
    const void *on; /* blocked on */
    const char *at; /* told of the last place */
    uint64_t priority;
#ifdef SCHEDULE_BATON
    uintptr_t ticket; /* of its thread; 0 = it has none */
#else
    ucontext_t context;
#endif
    void *tsan;
} schedule_fiber;

typedef struct schedule_turn { /* one telling where there was a choice */
    uint8_t count, taken, costs, spent;
    long step; /* where: the same whatever is known of the words */
} schedule_turn;

typedef struct schedule_word {
    const void *at;
    uint8_t looked, changed, shared; /* by which fibers, in any schedule so far */
} schedule_word;

static struct schedule {
    schedule_fiber fiber[SCHEDULE_MOST + 1];
    int count, now, running, spent, bound;
    long steps;
    const char *verdict; /* why this schedule has failed */
    schedule_turn turn[SCHEDULE_TURNS];
    int turns, given; /* told so far; so many are given */
    int by_chance, loud;
    int quiet;             /* that one fails is what is looked for */
    const char *by_string; /* the turns of schedule_print are given */
    uint64_t random, lowest;
    long change[4], longest;
    schedule_word word[SCHEDULE_WORDS];
    int news;
} schedule;

#ifndef SCHEDULE_BATON
static uint64_t schedule_stack[SCHEDULE_MOST][SCHEDULE_STACK / 8];
#endif

/* ---- the machine: who runs ---- */
#ifdef SCHEDULE_BATON
static pthread_mutex_t schedule_hand = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t schedule_baton = PTHREAD_COND_INITIALIZER;
static uintptr_t schedule_holder, schedule_tickets; /* the main program's is 0 */
static pthread_t schedule_threads[1 << 10];
static int schedule_over;

static void schedule_await(uintptr_t ticket) {
    while (schedule_holder != ticket && !schedule_over)
        pthread_cond_wait(&schedule_baton, &schedule_hand);
    pthread_mutex_unlock(&schedule_hand);
    if (schedule_over) pthread_exit(NULL);
}

static void schedule_go(int from, int to) {
    uintptr_t ticket = schedule.fiber[from].ticket;
    pthread_mutex_lock(&schedule_hand);
    schedule_holder = schedule.fiber[to].ticket;
    pthread_cond_broadcast(&schedule_baton);
    schedule_await(ticket);
}
#else
SCHEDULE_QUIET static void schedule_go(int from, int to) {
#    ifdef SCHEDULE_TSAN /* only the main program's own switches order anything */
    __tsan_switch_to_fiber(schedule.fiber[to].tsan, from == SCHEDULE_MAIN || to == SCHEDULE_MAIN
                                                        ? 0
                                                        : __tsan_switch_to_fiber_no_sync);
#    endif
    swapcontext(&schedule.fiber[from].context, &schedule.fiber[to].context);
}
#endif

SCHEDULE_QUIET static void schedule_switch(int to) {
    int from = schedule.now;
    schedule.now = to;
    for (int i = 0; i < schedule.count; i++)
        schedule.fiber[i].waits &= ~(1u << to);
    if (to != from) schedule_go(from, to);
}

/* This schedule has failed, and goes no further. */
SCHEDULE_QUIET static void schedule_fail(const char *why) {
    if (schedule.verdict == NULL) schedule.verdict = why;
    if (schedule.running && schedule.now != SCHEDULE_MAIN) schedule_switch(SCHEDULE_MAIN);
}

SCHEDULE_QUIET static uint64_t schedule_draw(uint64_t below) {
    return check_draw(&schedule.random, below);
}

/* What the string says of this step; 0 = nothing. */
SCHEDULE_QUIET static int schedule_said(void) {
    const char *s = schedule.by_string;
    while (s != NULL && *s) {
        char *end;
        long step = strtol(s, &end, 10), taken = *end == ':' ? strtol(end + 1, &end, 10) : 0;
        if (step == schedule.steps) return (int)taken;
        s = *end == ',' ? end + 1 : "";
    }
    return 0;
}

/* Which of n? `costs`: all but the first are preemptions. */
SCHEDULE_QUIET static int schedule_choose(int n, int costs, int wish) {
    schedule_turn *turn = &schedule.turn[schedule.turns];
    int taken = schedule.by_chance ? wish : schedule_said();
    if (n < 2) return 0;
    if (schedule.turns == SCHEDULE_TURNS - 1) {
        schedule_fail("no end: too many turns");
        return 0;
    }
    if (schedule.turns < schedule.given) taken = turn->taken;
    if (taken >= n) {
        schedule_fail("the same turns have led elsewhere: the test is not deterministic");
        return 0;
    }
    turn->step = schedule.steps;
    turn->count = (uint8_t)n;
    turn->taken = (uint8_t)taken;
    turn->costs = (uint8_t)costs;
    turn->spent = (uint8_t)schedule.spent;
    schedule.turns++;
    if (costs && taken && schedule.spent < 255) schedule.spent++;
    return taken;
}

SCHEDULE_QUIET static int schedule_is_ready(int i, int fair) {
    const schedule_fiber *f = &schedule.fiber[i];
    if (f->state != SCHEDULE_READY) return 0;
    if (!fair) return 1;
    for (int k = 0; k < schedule.count; k++)
        if ((f->waits >> k & 1u) && schedule.fiber[k].state == SCHEDULE_READY) return 0;
    return 1;
}

/* The others that can run, after `list[0..n)`. */
SCHEDULE_QUIET static int schedule_others(int *list, int n, int fair) {
    int from = schedule.now == SCHEDULE_MAIN ? schedule.count - 1 : schedule.now;
    for (int k = 1; k <= schedule.count; k++) {
        int i = (from + k) % schedule.count;
        if (i != schedule.now && schedule_is_ready(i, fair)) list[n++] = i;
    }
    return n;
}

SCHEDULE_QUIET static int schedule_highest(const int *list, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (schedule.fiber[list[i]].priority > schedule.fiber[list[best]].priority) best = i;
    return best;
}

/* Who runs next; stay: this one could. */
SCHEDULE_QUIET static int schedule_pick(int stay) {
    int list[SCHEDULE_MOST + 1], n = 0;
    if (stay) list[n++] = schedule.now;
    n = schedule_others(list, n, !stay);
    if (n == 0) n = schedule_others(list, n, 0);
    if (n == 0 && schedule.now != SCHEDULE_MAIN &&
        schedule.fiber[schedule.now].state == SCHEDULE_READY)
        list[n++] = schedule.now; /* it yields to nobody */
    if (n == 0) return SCHEDULE_NOBODY;
    return list[schedule_choose(n, stay, schedule_highest(list, n))];
}

/* This fiber cannot go on: another one, or none, and then all is done or stuck. */
SCHEDULE_QUIET static void schedule_leave(void) {
    int to;
    schedule.steps++;
    to = schedule_pick(0);
    for (int i = 0; to == SCHEDULE_NOBODY && i < schedule.count; i++)
        if (schedule.fiber[i].state == SCHEDULE_BLOCKED)
            schedule_fail("deadlock: everyone who is left is blocked");
    schedule_switch(to == SCHEDULE_NOBODY ? SCHEDULE_MAIN : to);
}

SCHEDULE_QUIET static void schedule_block(const void *on) {
    schedule_fiber *f = &schedule.fiber[schedule.now];
    f->state = SCHEDULE_BLOCKED;
    f->on = on;
    schedule_leave();
}

SCHEDULE_QUIET static void schedule_wake(const void *on) {
    for (int i = 0; i < schedule.count; i++)
        if (schedule.fiber[i].state == SCHEDULE_BLOCKED && schedule.fiber[i].on == on)
            schedule.fiber[i].state = SCHEDULE_READY;
}

SCHEDULE_QUIET static int schedule_is_fiber(void) {
    return schedule.running && schedule.now != SCHEDULE_MAIN;
}

/* ---- places to switch at ---- */
SCHEDULE_QUIET static int schedule_is_shared(const void *at, int changes) {
    uint32_t i = (uint32_t)(((uintptr_t)at >> 2) * 2654435761u) % SCHEDULE_WORDS;
    uint8_t me = (uint8_t)(1u << schedule.now);
    if (at == NULL) return 1;
    while (schedule.word[i].at != NULL && schedule.word[i].at != at)
        i = (i + 1) % SCHEDULE_WORDS;
    schedule.word[i].at = at;
    if (schedule.by_string && schedule_said()) return 1;
    if (changes)
        schedule.word[i].changed |= me;
    else
        schedule.word[i].looked |= me;
    return schedule.word[i].shared;
}

/* What was learned holds from now on. 0 = nothing. */
SCHEDULE_QUIET static int schedule_learn(void) {
    int news = 0;
    for (int i = 0; i < SCHEDULE_WORDS; i++) {
        schedule_word *w = &schedule.word[i];
        unsigned all = w->looked | w->changed;
        int shared = w->at != NULL && w->changed && (all & (all - 1)) != 0;
        news += shared && !w->shared;
        if (shared) w->shared = 1;
    }
    return news;
}

/* Before something that another fiber may see. at NULL: always a place to switch at. */
SCHEDULE_QUIET static void schedule_point(const char *what, const void *at, int changes) {
    int to;
    if (!schedule_is_fiber()) return;
    schedule.fiber[schedule.now].at = what;
    if (++schedule.steps > SCHEDULE_STEPS) schedule_fail("no end: too many steps");
    if (!schedule_is_shared(at, changes)) return;
    if (schedule.loud > 1) printf("      %d: %s %p\n", schedule.now, what, at);
    for (int i = 0; schedule.by_chance && i < 4; i++)
        if (schedule.change[i] == schedule.steps)
            schedule.fiber[schedule.now].priority = --schedule.lowest;
    to = schedule_pick(1);
    if (to == schedule.now) return;
    if (schedule.loud) printf("    %d is left at %s\n", schedule.now, what);
    schedule_switch(to);
}

/* It would only look again: the others first. */
SCHEDULE_QUIET static void schedule_yield(void) {
    schedule_fiber *f = &schedule.fiber[schedule.now];
    if (!schedule_is_fiber()) return;
    if (++schedule.steps > SCHEDULE_STEPS) schedule_fail("no end: too many steps");
    f->at = "yield";
    f->waits = ((1u << schedule.count) - 1) & ~(1u << schedule.now);
    f->priority = --schedule.lowest;
    schedule_switch(schedule_pick(0));
}

/* ---- what the header takes for pthreads ---- */
SCHEDULE_QUIET static int schedule_mutex_init(schedule_mutex *m, const void *how) {
    (void)how;
    m->owner = 0;
    return 0;
}

SCHEDULE_QUIET static int schedule_mutex_destroy(schedule_mutex *m) {
    if (m->owner) schedule_fail("a lock is ended that is held, or was ended");
    m->owner = -1;
    return 0;
}

SCHEDULE_QUIET static int schedule_lock(schedule_mutex *m) {
    schedule_point("lock", m, 1);
    if (m->owner == schedule.now + 1) schedule_fail("a lock is taken twice");
    if (m->owner < 0) schedule_fail("a lock is taken that was ended");
    while (m->owner)
        schedule_block(m);
    m->owner = schedule.now + 1;
    SCHEDULE_ACQUIRE(m);
    return 0;
}

SCHEDULE_QUIET static int schedule_trylock(schedule_mutex *m) {
    schedule_point("try lock", m, 1);
    if (m->owner < 0) schedule_fail("a lock is taken that was ended");
    if (m->owner) return 16; /* EBUSY */
    m->owner = schedule.now + 1;
    SCHEDULE_ACQUIRE(m);
    return 0;
}

SCHEDULE_QUIET static int schedule_unlock(schedule_mutex *m) {
    schedule_point("unlock", m, 1);
    if (m->owner != schedule.now + 1) schedule_fail("a lock is opened by another than its owner");
    SCHEDULE_RELEASE(m);
    m->owner = 0;
    schedule_wake(m);
    return 0;
}

SCHEDULE_QUIET static int schedule_bell_init(schedule_bell *b, const void *how) {
    (void)how;
    b->rung = 0;
    return 0;
}

SCHEDULE_QUIET static int schedule_bell_destroy(schedule_bell *b) {
    for (int i = 0; i < schedule.count; i++)
        if (schedule.fiber[i].state == SCHEDULE_BLOCKED && schedule.fiber[i].on == b)
            schedule_fail("a condition is ended on which somebody waits");
    return 0;
}

SCHEDULE_QUIET static int schedule_listen(schedule_bell *b, schedule_mutex *m) {
    schedule_point("wait", b, 1);
    if (m->owner != schedule.now + 1) schedule_fail("a wait without its lock");
    SCHEDULE_RELEASE(m);
    m->owner = 0;
    schedule_wake(m);
    if (schedule_is_fiber())
        schedule_block(b);
    else
        schedule_fail("a wait before there is anybody");
    while (m->owner)
        schedule_block(m);
    m->owner = schedule.now + 1;
    SCHEDULE_ACQUIRE(m);
    return 0;
}

SCHEDULE_QUIET static int schedule_ring_all(schedule_bell *b) {
    schedule_point("broadcast", b, 1);
    schedule_wake(b);
    return 0;
}

SCHEDULE_QUIET static int schedule_ring(schedule_bell *b) { /* any of those who wait */
    int list[SCHEDULE_MOST], n = 0;
    schedule_point("signal", b, 1);
    for (int i = 0; i < schedule.count; i++)
        if (schedule.fiber[i].state == SCHEDULE_BLOCKED && schedule.fiber[i].on == b) list[n++] = i;
    schedule.steps++;
    if (n > 0)
        schedule.fiber[list[schedule_choose(n, 0, schedule_highest(list, n))]].state =
            SCHEDULE_READY;
    return 0;
}

SCHEDULE_QUIET static int schedule_sigmask(int how, const sigset_t *set, sigset_t *before) {
    (void)how;
    (void)set;
    (void)before;
    return 0;
}

SCHEDULE_QUIET static int schedule_breathe(void) {
    schedule_yield();
    return 0;
}

/* ---- fibers ---- */
SCHEDULE_QUIET static void schedule_finish(void) {
    schedule_fiber *f = &schedule.fiber[schedule.now];
    SCHEDULE_RELEASE(f);
    f->state = SCHEDULE_DONE;
    schedule_wake(f);
    schedule_leave();
}

#ifdef SCHEDULE_BATON
static void *schedule_main(void *ticket) {
    for (;;) {
        pthread_mutex_lock(&schedule_hand);
        schedule_await((uintptr_t)ticket);
        schedule_fiber *f = &schedule.fiber[schedule.now];
        f->run(f->arg);
        schedule_finish();
    }
    return NULL;
}
#else
static void schedule_main(void) { /* the state of its stack is nobody's when it ends */
    schedule_fiber *f = &schedule.fiber[schedule.now];
    SCHEDULE_ACQUIRE(f);
    f->run(f->arg);
    schedule_finish();
}
#endif

#ifndef SCHEDULE_BATON
SCHEDULE_QUIET static void schedule_prepare(ucontext_t *context, void *stack) {
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = SCHEDULE_STACK;
    context->uc_link = NULL;
    makecontext(context, schedule_main, 0);
}
#endif

SCHEDULE_QUIET static int schedule_spawn(void *(*run)(void *), void *arg) {
    int i = schedule.count;
    schedule_fiber *f = &schedule.fiber[i];
    if (i == SCHEDULE_MOST) return -1;
    schedule.count++;
    f->run = run;
    f->arg = arg;
    f->state = SCHEDULE_READY;
    f->waits = 0;
    f->on = NULL;
    f->at = "its beginning";
    f->priority = (schedule_draw(1 << 20) << 8) + ((uint64_t)1 << 32);
    SCHEDULE_RELEASE(f);
#ifdef SCHEDULE_BATON
    if (f->ticket) return i;
    if (schedule_tickets == sizeof schedule_threads / sizeof schedule_threads[0]) return -1;
    f->ticket = ++schedule_tickets;
    return pthread_create(&schedule_threads[f->ticket - 1], NULL, schedule_main, (void *)f->ticket)
               ? -1
               : i;
#else
    schedule_prepare(&f->context, schedule_stack[i]);
#    ifdef SCHEDULE_TSAN
    if (f->tsan != NULL) __tsan_destroy_fiber(f->tsan);
    f->tsan = __tsan_create_fiber(0);
#    endif
    return i;
#endif
}

SCHEDULE_QUIET static int schedule_create(int *thread, const void *how, void *(*run)(void *),
                                          void *arg) {
    (void)how;
    *thread = schedule_spawn(run, arg);
    return *thread < 0 ? 11 : 0; /* EAGAIN */
}

SCHEDULE_QUIET static int schedule_join(int thread, void **out) {
    schedule_fiber *f = &schedule.fiber[thread];
    (void)out;
    schedule_point("join", NULL, 1);
    while (f->state != SCHEDULE_DONE)
        schedule_block(f);
    SCHEDULE_ACQUIRE(f);
    return 0;
}

/* ---- exploring ---- */
typedef struct schedule_play { /* what is explored */
    const char *name;
    const void *of;
    void (*begin)(const void *of); /* the same state each time; spawns the fibers */
    void (*end)(const void *of);   /* all have ended: look at what is left */
} schedule_play;

SCHEDULE_QUIET static void schedule_clear(void) {
#ifdef SCHEDULE_BATON /* who was left in the middle waits for ever */
    for (int i = 0; i < schedule.count; i++)
        if (schedule.fiber[i].state != SCHEDULE_DONE) schedule.fiber[i].ticket = 0;
#endif
    schedule.count = schedule.spent = schedule.turns = 0;
    schedule.steps = 0;
    schedule.verdict = NULL;
    schedule.now = SCHEDULE_MAIN;
    schedule.lowest = (uint64_t)1 << 31;
#ifdef SCHEDULE_TSAN
    schedule.fiber[SCHEDULE_MAIN].tsan = __tsan_get_current_fiber();
#endif
}

/* One schedule, the given turns first. 0 = it has failed. */
SCHEDULE_QUIET static int schedule_run(const schedule_play *play) {
    int bad = check_bad, first;
    schedule_clear();
    play->begin(play->of);
    schedule.running = 1;
    first = schedule_pick(0);
    if (first != SCHEDULE_NOBODY) schedule_switch(first);
    schedule.running = 0;
    for (int i = 0; i < schedule.count; i++)
        SCHEDULE_ACQUIRE(&schedule.fiber[i]);
    if (schedule.steps > schedule.longest) schedule.longest = schedule.steps;
    if (schedule.verdict == NULL) play->end(play->of);
    if (schedule.verdict != NULL && !schedule.quiet) check_fail(play->name, 0, schedule.verdict);
    return check_bad == bad && schedule.verdict == NULL;
}

/* The schedule that was run, as a string from which schedule_replay makes it again. */
SCHEDULE_QUIET static void schedule_print(const schedule_play *play, const char *why) {
    const char *between = "";
    printf("%s: %s; again with: %s ", play->name, why, play->name);
    for (int i = 0; i < schedule.turns; i++) {
        if (schedule.turn[i].taken == 0) continue;
        printf("%s%ld:%d", between, schedule.turn[i].step, (int)schedule.turn[i].taken);
        between = ",";
    }
    printf("%s\n", *between ? "" : "0:0");
    for (int i = 0; schedule.verdict != NULL && i < schedule.count; i++)
        printf("  fiber %d %s, last at %s\n", i,
               schedule.fiber[i].state == SCHEDULE_BLOCKED ? "is blocked"
               : schedule.fiber[i].state == SCHEDULE_DONE  ? "has ended"
                                                           : "could go on",
               schedule.fiber[i].at);
    fflush(stdout);
}

/* The next list of turns within the bound; 0 = there is none. */
SCHEDULE_QUIET static int schedule_advance(void) {
    for (int i = schedule.turns; i-- > 0;) {
        schedule_turn *t = &schedule.turn[i];
        if (t->taken + 1 >= t->count) continue;
        if (t->costs && t->spent >= schedule.bound) continue;
        t->taken++;
        schedule.given = i + 1;
        return 1;
    }
    return 0;
}

/* All schedules with at most `bound` preemptions, `most` at most. Returns how many; `whole` says
 * whether these were all; -1 = one has failed. */
SCHEDULE_QUIET static long schedule_explore(const schedule_play *play, int bound, long most,
                                            int *whole) {
    long n;
    schedule.bound = bound;
    schedule.by_chance = 0;
    do {
        *whole = 0;
        schedule.given = 0;
        for (n = 1;; n++) {
            if (!schedule_run(play)) {
                if (!schedule.quiet) schedule_print(play, "a schedule fails");
                return -1;
            }
            if (n == most) break;
            if (!schedule_advance()) {
                *whole = 1;
                break;
            }
        }
    } while (schedule_learn() && *whole);
    return n;
}

/* n schedules by priorities and places drawn from the seed. */
SCHEDULE_QUIET static int schedule_chance(const schedule_play *play, uint64_t seed, long n) {
    schedule.given = 0;
    for (long k = 0; k < n; k++) {
        schedule.by_chance = 1;
        schedule.random = (seed + (uint64_t)k) * 0x9E3779B97F4A7C15u | 1;
        for (int i = 0; i < 4; i++)
            schedule.change[i] = (long)schedule_draw((uint64_t)schedule.longest + 1) + 1;
        if (k % 64 == 0) schedule_learn();
        if (schedule_run(play)) continue;
        if (!schedule.quiet) schedule_print(play, "a schedule by chance fails");
        return 0;
    }
    return 1;
}

/* What schedule_print told. */
SCHEDULE_QUIET static int schedule_replay(const schedule_play *play, const char *turns) {
    int good;
    schedule.by_chance = schedule.given = 0;
    schedule.by_string = turns;
    good = schedule_run(play);
    schedule.by_string = NULL;
    return good;
}

SCHEDULE_QUIET static void schedule_forget(void) { /* before another play */
    memset(schedule.word, 0, sizeof schedule.word);
    schedule.longest = 0;
    schedule.random = 1;
}

/* Nothing is left of the fibers. */
SCHEDULE_QUIET static void schedule_close(void) {
#ifdef SCHEDULE_BATON
    pthread_mutex_lock(&schedule_hand);
    schedule_over = 1;
    pthread_cond_broadcast(&schedule_baton);
    pthread_mutex_unlock(&schedule_hand);
    for (uintptr_t i = 0; i < schedule_tickets; i++)
        pthread_join(schedule_threads[i], NULL);
#endif
}

/* ---- from here on a pthread is a fiber ---- */
#define pthread_mutex_t        schedule_mutex
#define pthread_cond_t         schedule_bell
#define pthread_t              int
#define pthread_mutex_init     schedule_mutex_init
#define pthread_mutex_destroy  schedule_mutex_destroy
#define pthread_mutex_lock     schedule_lock
#define pthread_mutex_trylock  schedule_trylock
#define pthread_mutex_unlock   schedule_unlock
#define pthread_cond_init      schedule_bell_init
#define pthread_cond_destroy   schedule_bell_destroy
#define pthread_cond_wait      schedule_listen
#define pthread_cond_signal    schedule_ring
#define pthread_cond_broadcast schedule_ring_all
#define pthread_create         schedule_create
#define pthread_join           schedule_join
#define pthread_sigmask        schedule_sigmask
#define sched_yield            schedule_breathe
#define TNMI_TEST_ATOMIC(at, changes)                                                              \
    schedule_point((changes) ? "atomic change" : "atomic look", (at), (changes))

#endif
