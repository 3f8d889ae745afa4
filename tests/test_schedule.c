/* needs: -pthread */
/* Every order of two or three threads, up to two preemptions; beyond, orders by chance.
 *
 *   test_schedule                     a part of it: the gate's
 *   test_schedule --all [N]           every schedule to N (2) preemptions, then some by chance
 *   test_schedule --chance SEED [N]   N (2000) schedules by chance of each scenario
 *   test_schedule NAME TURNS          one schedule again, as a failure prints it
 *
 * A scenario is a line of the table: what there is at the beginning, and what two or three threads
 * do then, in letters (see play_call). After each schedule all that was taken is given back, every
 * tensor shows its bytes, tnm_check finds nothing and the context ends with every block released.
 * All callbacks are the sim's, which holds the engine to its contract: one at a time, never into
 * pinned memory, never past a budget. */
#if defined(_WIN32)
#    include "check.h"
int main(void) {
    SKIP("schedule", "its fibers need ucontext or pthreads");
    return check_done();
}
#else
#    define _GNU_SOURCE /* ucontext */
#    include "schedule.h"
#    ifndef SCHEDULE_OWN_LOCK /* the application's lock, and its idle to sleep in */
#        define TENSORMEM_THREADS
#    endif
#    define TENSORMEM_ASSERT(x) ((x) ? (void)0 : schedule_fail("assertion failed: " #    x))
#    define TENSORMEM_IMPLEMENTATION
#    include "tensormem.h"

/* ---- memory: all of it in one place, so that the beginning can be had again ---- */
enum { ARENA = 1 << 20 };

static uint64_t arena_words[ARENA / 8];
static uint8_t *const arena = (uint8_t *)arena_words;
static size_t arena_used;
static long arena_live;
#    ifndef SCHEDULE_ANEW
static uint8_t beginning[ARENA];
static size_t arena_begin;
static long live_begin;
#    endif

static void *arena_take(size_t size) {
    size_t at = __atomic_fetch_add(&arena_used, (size + 79) & ~(size_t)63, __ATOMIC_RELAXED);
    if (size > ARENA || at > ARENA - size - 64) return NULL;
    __atomic_fetch_add(&arena_live, 1, __ATOMIC_RELAXED);
    memcpy(arena + at, &size, sizeof size);
    return arena + at + 16;
}

static void arena_give(void *ptr) {
    size_t size;
    if (ptr == NULL) return;
    memcpy(&size, (uint8_t *)ptr - 16, sizeof size);
    if (size > ARENA) schedule_fail("a block is released twice");
    memset(ptr, 0xDD, size); /* who looks at it still will not like it */
    memset((uint8_t *)ptr - 16, 0xFF, 16);
    __atomic_fetch_add(&arena_live, -1, __ATOMIC_RELAXED);
}

#    define malloc(size) arena_take(size)
#    define free(ptr)    arena_give(ptr)
#    define SIM_TURN()   schedule_point("callback", NULL, 1)
#    define SIM_COUNTS   SIM_BLOCKS = 24, SIM_COPIES = 16, SIM_HOLDS = 24
#    include "sim.h"
#    undef malloc
#    undef free

/* ---- the table's words ---- */
enum { TENSORS = 6, SIZE = 256, ACTORS = 4, QUEUE = 1 };
enum {
    DEEP = 1,  /* three tiers */
    TWINS = 2, /* each thread has a context of its own */
    LATE = 4,  /* the threads make the context */
    PUMPED = 8,
    NARROW = 16, /* places are segments of their own */
    IDLES = 32,  /* idle gives up */
    AUTO = 64,
    SMALL = 128, /* tables are fixed */
    ONE = 512,   /* tier, and nowhere to go */
    MINE = 256   /* who reads and who writes the bytes is between the threads, and they race */
};
#    define MAY(error) (1u << -(int)(error))
enum {
    BUDGET = MAY(TNM_ERR_BUDGET),
    STALE = MAY(TNM_ERR_STALE),
    BUSY = MAY(TNM_ERR_BUSY),
    EMPTY = MAY(TNM_ERR_EMPTY),
    LOST = MAY(TNM_ERR_LOST),
    BACKEND = MAY(TNM_ERR_BACKEND),
    CAPACITY = MAY(TNM_ERR_CAPACITY),
    WRONG = MAY(TNM_ERR_ARGUMENT)
};

typedef struct scenario {
    const char *name;
    int kind, places;
    const char *where; /* on which tier tensor i begins; - = nowhere */
    const char *first; /* done before the threads begin */
    const char *thread[3];
    unsigned may, how;
} scenario;

typedef struct side { /* a context and what is in it */
    rig g;
    tnm_tensor t[TENSORS];
    uint64_t key[TENSORS]; /* of its payload */
    uint32_t version[TENSORS];
    int writing[TENSORS], dead[TENSORS], count;
    uint64_t passed, fences, step, written;
    schedule_mutex lock;
    tnm_adopt_desc lent; /* memory of the slow tier's device that is the threads' own */
} side;

typedef struct actor { /* a thread */
    const scenario *s;
    side *at;
    tnm_pinned pin[TENSORS];
    uint32_t version[TENSORS];
    int held[TENSORS];
    const char *program;
    uint64_t outcome; /* of all its calls */
} actor;

static struct world {
    side side[2];
    actor actor[ACTORS];
} w;
#    ifndef SCHEDULE_ANEW
static struct world w_begin;
#    endif

#    define SEE(x)    __atomic_load_n(&(x), __ATOMIC_RELAXED) /* orders nothing, to no tool */
#    define SET(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)

static tnm_tensor name_of(side *at, int i) {
    tnm_tensor t;
    t.id = SEE(at->t[i].id);
    return t;
}

static void say(const char *what, int tensor, long result) {
    char text[160];
    snprintf(text, sizeof text, "'%s' of tensor %d answered %ld", what, tensor, result);
    check_fail("scenario", 0, text);
}

/* ---- callbacks: the sim's, in which others get their turn ---- */
static side *side_of(sim *world) {
    return (side *)(void *)world; /* the first member of the first member */
}

#    ifdef SCHEDULE_OWN_LOCK
static void play_lock(void *user) {
    schedule_lock(&side_of((sim *)user)->lock);
}

static void play_unlock(void *user) {
    schedule_unlock(&side_of((sim *)user)->lock);
}
#    endif

static uint64_t play_passed(void *user, uint32_t queue, uint64_t wait_for) {
    side *at = side_of((sim *)user);
    if (queue == QUEUE) at->g.sim.now[QUEUE] = SEE(at->passed);
    (void)wait_for; /* may sleep; does not */
    return sim_passed(user, queue, 0);
}

static int play_idle(void *user, uint64_t rounds) {
    (void)user;
    schedule_yield();
    return (w.actor[0].s->how & IDLES) && rounds > 2;
}

static int play_idle_alone(void *user, uint64_t rounds) { /* one thread is left: it is the device */
    side *at = side_of((sim *)user);
    SET(at->passed, SEE(at->fences));
    return rounds > 1000;
}

static void *play_take(void *user, size_t size) {
    (void)user;
    schedule_point("allocator", NULL, 1);
    return arena_take(size);
}

static void play_give(void *user, void *ptr, size_t size) {
    (void)user;
    (void)size;
    schedule_point("allocator", NULL, 1);
    arena_give(ptr);
}

static void play_log(void *user, const tnm_log *item) {
    (void)user;
    if (item->rule == NULL || item->rule[0] == '\0') check_fail("log", 0, "an item has no rule");
}

static int play_write(void *user, const char *text, uint64_t bytes) {
    (void)user;
    (void)text;
    (void)bytes;
    return 0;
}

/* ---- pins ---- */
static uint8_t *bytes_of(actor *a, const tnm_pinned *p) {
#    ifdef SCHEDULE_TSAN
    (void)a;
    return (uint8_t *)p->host; /* hidden devices are not for it: their books are the sim's */
#    else
    return sim_at(&a->at->g.sim, p);
#    endif
}

/* Who reads what is being written, or was meanwhile, sees anything: that is between the threads. */
static void begin_write(actor *a, int i, int by) {
    SET(a->at->writing[i], SEE(a->at->writing[i]) + by);
    SET(a->at->version[i], SEE(a->at->version[i]) + 1);
}

/* A pin was granted on tensor i: its bytes are there, and stay. */
static void take_pin(actor *a, int i, const tnm_pinned *p) {
    side *at = a->at;
    int shown = SEE(at->writing[i]) == (p->access != TNM_READ) && !SEE(at->g.sim.device[0].lost);
    if (p->access != TNM_DISCARD && shown && !sim_same(bytes_of(a, p), SEE(at->key[i]), 0, SIZE))
        check_fail("scenario", 0, "P1: a pin shows other bytes than the tensor's");
    if (a->held[i]) check_fail("scenario", 0, "the program pins what it holds");
    a->pin[i] = *p;
    a->held[i] = 1;
    a->version[i] = shown ? SEE(at->version[i]) : UINT32_MAX;
#    ifndef SCHEDULE_TSAN
    sim_hold(&at->g.sim, p);
#    endif
    if (p->access == TNM_READ) return;
    SET(at->key[i], __atomic_add_fetch(&at->written, 1, __ATOMIC_RELAXED) + 100);
    sim_fill(bytes_of(a, p), SEE(at->key[i]), 0, SIZE);
}

static tnm_result drop_pin(actor *a, int i, uint64_t fence) {
    side *at = a->at;
    tnm_pinned p = a->pin[i];
    tnm_result r;
    if (!a->held[i]) return TNM_OK;
    if (p.access == TNM_READ && a->version[i] == SEE(at->version[i]) &&
        !SEE(at->g.sim.device[0].lost) && !sim_same(bytes_of(a, &p), SEE(at->key[i]), 0, SIZE))
        check_fail("scenario", 0, "P3: pinned bytes have changed");
#    ifndef SCHEDULE_TSAN
    sim_let_go(&at->g.sim, &p, fence);
#    endif
    if (p.access != TNM_READ) begin_write(a, i, -1);
    a->held[i] = 0;
    r = tnm_unpin(at->g.ctx, &a->pin[i], 1, fence);
    if (r != TNM_OK) say("unpin", i, r);
    return r;
}

/* ---- calls ---- */
static int number(actor *a) { /* the digit that follows */
    return *a->program >= '0' && *a->program <= '9' ? *a->program++ - '0' : 0;
}

static tnm_result pin_set(actor *a, int count, int tier, tnm_access access, int waits,
                          uint32_t flags) {
    tnm_use u[3];
    tnm_pinned p[3];
    int i[3];
    tnm_result r;
    for (int k = 0; k < count; k++) {
        i[k] = number(a);
        u[k] = rig_use(name_of(a->at, i[k]), tier, access);
        u[k].flags = flags;
        if (access != TNM_READ) begin_write(a, i[k], 1);
    }
    r = waits ? tnm_pin(a->at->g.ctx, u, count, p) : tnm_try_pin(a->at->g.ctx, u, count, p);
    for (int k = 0; k < count; k++)
        if (r == TNM_OK)
            take_pin(a, i[k], &p[k]);
        else if (access != TNM_READ)
            begin_write(a, i[k], -1);
    for (int k = 0; r != TNM_OK && k < count; k++)
        if (p[k].id != 0 || p[k].host != NULL) check_fail("scenario", 0, "an output is not zeroed");
    return r;
}

/* One look from time to time, until the answer is not PENDING. */
static tnm_result insist(actor *a, tnm_result (*ask)(actor *a, int i, int n), int i, int n) {
    tnm_result r = TNM_PENDING;
    for (int k = 0; k < 300; k++) {
        if ((r = ask(a, i, n)) != TNM_PENDING) return r;
        tnm_pump(a->at->g.ctx, TNM_ALL);
        schedule_yield();
    }
    check_fail("scenario", 0, "P4: PENDING for ever");
    return r;
}

static tnm_result ask_evict(actor *a, int i, int n) {
    (void)n;
    return tnm_evict(a->at->g.ctx, name_of(a->at, i), 0);
}

static tnm_result ask_flush(actor *a, int i, int n) {
    (void)n;
    return tnm_flush(a->at->g.ctx, name_of(a->at, i), 1);
}

static tnm_result ask_budget(actor *a, int i, int n) {
    (void)i;
    return tnm_set_budget(a->at->g.ctx, 0, n == 9 ? TNM_ALL : rig_room((uint64_t)n, SIZE));
}

static tnm_result ask_pin(actor *a, int i, int n) {
    const char *program = a->program;
    char digit[2] = { (char)('0' + i), 0 };
    tnm_result r;
    (void)n;
    a->program = digit;
    r = pin_set(a, 1, 0, TNM_READ, 0, 0);
    a->program = program;
    return r;
}

static tnm_result ask_rest(actor *a, int i, int n) {
    (void)i;
    (void)n;
    return tnm_pump(a->at->g.ctx, TNM_ALL);
}

static tnm_result new_tensor(actor *a, int i) {
    tnm_tensor_desc d;
    tnm_tensor t;
    tnm_result r;
    memset(&d, 0, sizeof d);
    d.bytes = SIZE;
    r = tnm_tensor_create(a->at->g.ctx, &d, &t);
    SET(a->at->t[i].id, t.id);
    SET(a->at->dead[i], r != TNM_OK);
    return r;
}

/* One as large as two, if there is a gap for it or others make one. */
static tnm_result large_tensor(actor *a) {
    tnm_tensor_desc d;
    tnm_tensor t;
    tnm_pinned p;
    tnm_use u;
    tnm_result r;
    memset(&d, 0, sizeof d);
    d.bytes = rig_room(2, SIZE);
    r = tnm_tensor_create(a->at->g.ctx, &d, &t);
    if (r != TNM_OK) return r;
    u = rig_use(t, 0, TNM_DISCARD);
    r = tnm_pin(a->at->g.ctx, &u, 1, &p);
    if (r == TNM_OK) memset(p.host, 1, (size_t)d.bytes);
    if (r == TNM_OK) CHECK_EQ(tnm_unpin(a->at->g.ctx, &p, 1, 0), TNM_OK);
    CHECK_EQ(tnm_tensor_destroy(a->at->g.ctx, t), TNM_OK);
    return r;
}

static tnm_result plain_read(actor *a, int i) {
    uint8_t to[SIZE];
    side *at = a->at;
    uint32_t version = SEE(at->version[i]);
    int writing = SEE(at->writing[i]);
    tnm_result r = tnm_read(at->g.ctx, name_of(at, i), 0, to, SIZE);
    if (r == TNM_OK && !writing && version == SEE(at->version[i]) &&
        !SEE(at->g.sim.device[0].lost) && !sim_same(to, SEE(at->key[i]), 0, SIZE))
        check_fail("scenario", 0, "P1: tnm_read gives other bytes than the tensor's");
    return r;
}

static tnm_result plain_write(actor *a, int i) {
    uint8_t from[SIZE];
    side *at = a->at;
    uint64_t key = __atomic_add_fetch(&at->written, 1, __ATOMIC_RELAXED) + 200;
    tnm_result r;
    sim_fill(from, key, 0, SIZE);
    begin_write(a, i, 1);
    r = tnm_write(at->g.ctx, name_of(at, i), 0, from, SIZE);
    if (r == TNM_OK) SET(at->key[i], key);
    begin_write(a, i, -1);
    return r;
}

static tnm_result adopt(actor *a, int i) {
    tnm_tensor_desc d;
    memset(&d, 0, sizeof d);
    d.bytes = SIZE;
    SET(a->at->dead[i], 0);
    SET(a->at->key[i], 77);
    return tnm_tensor_adopt(a->at->g.ctx, &d, &a->at->lent, &a->at->t[i]);
}

static tnm_result look(actor *a, char what, int i) {
    const tnm_writer nobody = { play_write, NULL };
    tnm_use u = rig_use(name_of(a->at, i), 0, TNM_READ);
    tnm_tensor_info info;
    tnm_tier_stats stats;
    tnm_shortage why;
    tnm_result r;
    switch (what) {
    case 'D':
        return tnm_dump(a->at->g.ctx, TNM_DUMP_JSON, &nobody);
    case 'I':
        return tnm_info(a->at->g.ctx, name_of(a->at, i), 0, &info);
    case 'Y':
        return tnm_why(a->at->g.ctx, &u, 1, &why);
    case 'C':
        if (tnm_check(a->at->g.ctx) != 0) check_fail("scenario", 0, "tnm_check, by a thread");
        return TNM_OK;
    default:
        r = tnm_stats(a->at->g.ctx, i, &stats);
        if (stats.used_bytes > stats.reserved_bytes) check_fail("scenario", 0, "used > reserved");
        return r;
    }
}

static tnm_result plan(actor *a, char what, int i) { /* foresight, on lane 0 */
    tnm_ctx *ctx = a->at->g.ctx;
    tnm_use u[TENSORS];
    switch (what) {
    case 'g':
        u[0] = rig_use(name_of(a->at, i), 0, TNM_READ);
        return tnm_prefetch(ctx, 0, u, 1);
    case 'h':
        return tnm_step(ctx, 0, __atomic_add_fetch(&a->at->step, 1, __ATOMIC_RELAXED));
    case 'H':
        for (int k = 0; k < a->at->count; k++) {
            u[k] = rig_use(name_of(a->at, k), 0, TNM_READ);
            u[k].step = (uint64_t)k;
        }
        return tnm_schedule(ctx, 0, u, i ? a->at->count : 0, (uint32_t)a->at->count);
    case 'k':
        return tnm_record(ctx, 0);
    default:
        return tnm_replay(ctx, 0);
    }
}

static void make_context(actor *a);

static tnm_result change(actor *a, char what, int i) { /* names, and the context itself */
    side *at = a->at;
    tnm_tensor gone;
    switch (what) {
    case 'n':
        return new_tensor(a, i);
    case 'X':
        return large_tensor(a);
    case 'x':
        gone = name_of(at, i);
        SET(at->dead[i], 1);
        return tnm_tensor_destroy(at->g.ctx, gone);
    case 'y': /* tensor i + 1 is another name of i */
        at->key[i + 1] = at->key[i];
        at->t[i + 1] = rig_view(&at->g, at->t[i], 0, SIZE);
        return TNM_OK;
    case 'o':
        return adopt(a, i);
    case 'N':
        make_context(a);
        return TNM_OK;
    case 'Z': {
        tnm_result r = tnm_destroy(at->g.ctx);
        if (r == TNM_OK) at->g.ctx = NULL;
        return r;
    }
    default:
        return tnm_advise(at->g.ctx, name_of(at, i), what == 'A' ? TNM_WONT_NEED : TNM_ONCE);
    }
}

static tnm_result move(actor *a, char what, int i) { /* bytes go somewhere */
    side *at = a->at;
    switch (what) {
    case 'e':
        return ask_evict(a, i, 0);
    case 'E':
        return insist(a, ask_evict, i, 0);
    case 'f':
        return ask_flush(a, i, 0);
    case 'F':
        return insist(a, ask_flush, i, 0);
    case 'G': {
        const tnm_tensor all = { 0 };
        return tnm_flush(at->g.ctx, all, 1);
    }
    case 'c': {
        const tnm_tensor t = name_of(at, i);
        return tnm_cancel(at->g.ctx, &t, 1);
    }
    case 'r':
        return plain_read(a, i);
    case 'R':
        return plain_write(a, i);
    case 'm':
        return ask_rest(a, 0, 0);
    case 'M':
        return insist(a, ask_rest, 0, 0);
    case 'z':
        return tnm_wait(at->g.ctx);
    case 'b':
        return ask_budget(a, 0, i);
    case 'B':
        return insist(a, ask_budget, 0, i);
    case 'l':
        sim_lose(&at->g.sim.device[0]);
        return TNM_OK;
    default: /* 'a': the device comes to its next fence */
        schedule_point("device", NULL, 1);
        SET(at->passed, SEE(at->passed) + 1);
        return TNM_OK;
    }
}

/* One call of a thread's program. What it answers must be fine, or be in the scenario's list. */
static void play_call(actor *a) {
    char what = *a->program++, text[2] = { what, 0 };
    int i = *a->program >= '0' && *a->program <= '9' ? *a->program - '0' : 0;
    int at_set = strchr("pPqjwWdtis", what) != NULL;
    tnm_result r;
    if (!at_set) number(a);
    if (what == 'p' || what == 'P') /* a READ pin, on tier 0 or 1 */
        r = pin_set(a, 1, what == 'P', TNM_READ, 1, 0);
    else if (what == 'q' || what == 'j') /* the same without waiting; if it is there */
        r = pin_set(a, 1, 0, TNM_READ, 0, what == 'j' ? TNM_IF_READY : 0);
    else if (what == 'Q')
        r = insist(a, ask_pin, i, 0);
    else if (what == 'w' || what == 'W') /* a WRITE pin, on tier 0 or 1 */
        r = pin_set(a, 1, what == 'W', TNM_WRITE, 1, 0);
    else if (what == 'd' || what == 't')
        r = pin_set(a, 1, what == 't', TNM_DISCARD, 1, 0);
    else if (what == 'i') /* a place for new bytes, without waiting */
        r = pin_set(a, 1, 0, TNM_DISCARD, 0, 0);
    else if (what == 's') /* a set of two */
        r = pin_set(a, 2, 0, TNM_READ, 1, 0);
    else if (what == 'u')
        r = drop_pin(a, i, 0);
    else if (what == 'v')
        r = drop_pin(a, i,
                     TNM_FENCE(QUEUE, __atomic_add_fetch(&a->at->fences, 1, __ATOMIC_RELAXED)));
    else if (strchr("ghHkK", what))
        r = plan(a, what, i);
    else if (strchr("nXxyoNZAO", what))
        r = change(a, what, i);
    else if (strchr("DIYTC", what))
        r = look(a, what, i);
    else
        r = move(a, what, i);
    if (r < 0 && !(a->s->may >> -(int)r & 1u)) say(text, i, r);
    a->outcome = sim_mix(a->outcome, (uint64_t)(int64_t)r);
}

static void *play_program(void *of) {
    actor *a = (actor *)of;
    while (*a->program)
        if (*a->program == ' ')
            a->program++;
        else
            play_call(a);
    return NULL;
}

/* ---- a scenario: its beginning and its end ---- */
static void make_context(actor *a) {
    const scenario *s = a->s;
    side *at = a->at;
    rig *g = &at->g;
    rig_start(g, 5);
    g->sim.delay = 1;
    g->desc.chunk_bytes = SIZE / 2;
    g->desc.staging_bytes = SIZE;
    g->desc.alloc = play_take;
    g->desc.release = play_give;
    g->desc.idle = play_idle;
    g->desc.passed = play_passed;
    g->desc.log = play_log;
#    ifdef SCHEDULE_OWN_LOCK
    g->desc.lock = play_lock;
    g->desc.unlock = play_unlock;
#    endif
    g->desc.pump_thread = (s->how & PUMPED) != 0;
    g->desc.policy = s->how & AUTO ? TNM_POLICY_AUTO : TNM_POLICY_LRU;
    g->desc.max_tensors = s->how & SMALL ? TENSORS : 0;
    rig_tier(g, "fast", s->kind, rig_room((uint64_t)s->places, SIZE));
    if (s->how & DEEP) rig_tier(g, "mid", SIM_PLAIN | SIM_ASYNC, rig_room(2, SIZE));
    if (!(s->how & ONE)) rig_tier(g, "slow", SIM_PLAIN | (s->kind & SIM_ASYNC), 0);
    for (int t = 0; t < g->desc.tier_count; t++) {
        g->tiers[t].segment_bytes = rig_room(t == 0 && s->how & NARROW ? 1 : 8, SIZE);
        /* a budget falls while a thread is on its way to alloc: what it had charged is kept to */
        g->sim.device[t].limit = UINT64_MAX;
    }
    g->desc.staging_tier = g->desc.tier_count - 1;
    CHECK_EQ(tnm_create(&g->desc, &g->ctx), TNM_OK);
}

static void make_tensors(actor *a) {
    side *at = a->at;
    at->count = (int)strlen(a->s->where);
    for (int i = 0; i < at->count; i++) {
        char where = a->s->where[i];
        CHECK_EQ(new_tensor(a, i), TNM_OK);
        at->key[i] = (uint64_t)i + 1;
        if (where == '-')
            at->dead[i] = 1; /* holds nothing: nothing to look at in the end */
        else
            rig_write(&at->g, name_of(at, i), where - '0', at->key[i]);
    }
}

static void arrange(const scenario *s) {
    int sides = s->how & TWINS ? 2 : 1;
#    ifdef SCHEDULE_ANEW
    tnmi_base_ordinary(arena, arena_used);
#    endif
    memset(&w, 0, sizeof w);
    arena_used = 0;
    arena_live = 0;
    for (int k = 0; k < ACTORS; k++) {
        w.actor[k].s = s;
        w.actor[k].at = &w.side[k % sides];
        w.actor[k].program = k < 3 ? s->thread[k] : s->first;
        if (w.actor[k].program == NULL) w.actor[k].program = "";
    }
    for (int k = 0; k < sides; k++) {
        if (s->how & LATE) continue;
        make_context(&w.actor[k]);
        sim_device *slow = &w.side[k].g.sim.device[1];
        w.side[k].lent = sim_lent(slow, sim_lend(slow, SIZE), 0);
        sim_fill(w.side[k].lent.host, 77, 0, SIZE);
        make_tensors(&w.actor[k]);
    }
    play_program(&w.actor[3]);
}

static void scenario_begin(const void *of) {
    const scenario *s = (const scenario *)of;
#    ifdef SCHEDULE_ANEW
    arrange(s);
#    else
    memcpy(arena, beginning, arena_begin);
    memcpy(&w, &w_begin, sizeof w);
    arena_used = arena_begin;
    arena_live = live_begin;
#    endif
    for (int k = 0; k < 3; k++)
        if (s->thread[k] != NULL) schedule_spawn(play_program, &w.actor[k]);
}

static uint64_t outcomes[4096];
static int outcome_count;

static void note_outcome(void) {
    uint64_t all = 0;
    for (int k = 0; k < 3; k++)
        all = sim_mix(all, w.actor[k].outcome);
    for (int i = 0; i < outcome_count; i++)
        if (outcomes[i] == all) return;
    if (outcome_count < 4096) outcomes[outcome_count++] = all;
}

/* All threads have ended: their pins go, the rest drains, and everything is looked at. */
static void side_end(side *at) {
    tnm_result r = TNM_PENDING;
    uint8_t to[SIZE];
    at->g.desc.idle = play_idle_alone;
    at->g.ctx->desc.idle = play_idle_alone;
    SET(at->passed, at->fences);
    for (int k = 0; k < 300 && r == TNM_PENDING; k++)
        r = tnm_pump(at->g.ctx, TNM_ALL);
    if (r != TNM_OK) check_fail("scenario", 0, "P4: it never comes to rest");
    rig_healthy(&at->g);
    for (int i = 0; i < at->count; i++) {
        if (at->dead[i] || at->g.sim.device[0].lost) continue;
        r = tnm_read(at->g.ctx, name_of(at, i), 0, to, SIZE);
        if (r != TNM_OK) say("the last tnm_read", i, r);
        if (r == TNM_OK && !sim_same(to, at->key[i], 0, SIZE))
            check_fail("scenario", 0, "P1: bytes were lost");
    }
    r = TNM_PENDING; /* whatever stays now is held by nobody */
    for (int k = 0; k < 300 && r == TNM_PENDING && at->g.desc.tier_count > 1; k++) {
        r = tnm_set_budget(at->g.ctx, 0, 0);
        tnm_pump(at->g.ctx, TNM_ALL);
    }
    if (at->g.desc.tier_count > 1 && r != TNM_OK) say("the last tnm_set_budget", 0, r);
    CHECK_EQ(tnm_destroy(at->g.ctx), TNM_OK);
    rig_close_sim(&at->g);
}

static void scenario_end(const void *of) {
    const scenario *s = (const scenario *)of;
    note_outcome();
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < TENSORS; i++)
            drop_pin(&w.actor[k], i, 0);
    for (int k = 0; k < (s->how & TWINS ? 2 : 1); k++)
        if (w.side[k].g.ctx != NULL)
            side_end(&w.side[k]);
        else
            rig_close_sim(&w.side[k].g);
    CHECK_EQ(arena_live, 0);
}

/* ---- the table ---- */
#    define ASYNC SIM_ASYNC
#    define PLAIN SIM_PLAIN

static const scenario scenarios[] = {
#    include "schedule_table.h"
};

enum { SCENARIOS = (int)(sizeof scenarios / sizeof scenarios[0]) };

static long all_schedules;

static schedule_play open_scenario(const scenario *s) {
    schedule_play play = { s->name, s, scenario_begin, scenario_end };
    schedule_forget();
    outcome_count = 0;
#    ifndef SCHEDULE_ANEW
    arrange(s);
    memcpy(beginning, arena, arena_used);
    memcpy(&w_begin, &w, sizeof w);
    arena_begin = arena_used;
    live_begin = arena_live;
#    endif
    return play;
}

static void tell_scenario(const scenario *s, const char *what) {
    printf("%s %-28s %s\n", check_bad == 0 ? "PASS" : "FAIL", s->name, what);
    *(check_bad == 0 ? &check_passed : &check_failed) += 1;
    fflush(stdout);
}

/* One preemption wholly; then two if there are not more than `most` of those, else so many by
 * chance. */
static void explore(const scenario *s, int bound, long most) {
    schedule_play play = open_scenario(s);
    char text[120];
    long n = 0, more;
    int whole = 1, reached = 0;
    check_bad = 0;
    for (int b = 0; b <= bound && whole; b++) {
        if (b > 1 && n * n / 2 > most) break;
        n = schedule_explore(&play, b, most, &whole);
        if (n < 0) break;
        all_schedules += n;
        if (whole) reached = b;
    }
    more = n < 0 ? 0 : reached < bound ? most / 4 : most / 20;
    if (more > 20000) more = 20000;
    schedule_chance(&play, 1, more);
    all_schedules += more;
    snprintf(text, sizeof text,
             "%7ld schedules, all to %d preemptions; %4ld by chance; %2d outcomes", n, reached,
             more, outcome_count);
    tell_scenario(s, text);
}

static void by_chance(const scenario *s, uint64_t seed, long n) {
    schedule_play play = open_scenario(s);
    int whole;
    check_bad = 0;
    schedule_explore(&play, 0, 1000, &whole); /* learns how long it is */
    schedule_chance(&play, seed, n);
    all_schedules += n;
    tell_scenario(s, "by chance");
}

/* ---- does the search find what it is for? Small models with a bug, and without ---- */
typedef struct model { /* two records, and a name that says in which of them its bytes are */
    uint64_t word[2], bytes[2], sum;
    uint32_t rep;
    int flag, stop, moved;
    schedule_mutex lock[2];
    schedule_bell bell;
} model;

static model mo;
static int bug; /* 0 = none */

enum { MODEL_READY = 1, MODEL_PIN = 256 };

static void *model_pin(void *of) { /* B3: pin, then look a second time */
    uint32_t at = tnmi_base_load32(&mo.rep);
    uint64_t word = tnmi_base_peek64(&mo.word[at]);
    (void)of;
    if (!(word & MODEL_READY)) return NULL;
    if (!tnmi_base_swap64(&mo.word[at], &word, word + MODEL_PIN)) return NULL;
    if (bug == 1 || tnmi_base_load32(&mo.rep) == at) {
        schedule_point("the bytes", &mo.bytes[at], 0);
        if (mo.bytes[at] != 7) schedule_fail("a pin shows another's bytes");
    }
    if (tnmi_base_sub64(&mo.word[at], MODEL_PIN) < MODEL_PIN) schedule_fail("a pin has gone");
    return NULL;
}

static void *model_move(void *of) { /* record 0 becomes another's, record 1 ours */
    uint64_t word = tnmi_base_peek64(&mo.word[0]);
    (void)of;
    if (bug != 2 && word >= MODEL_PIN) return NULL;
    if (bug == 3) /* no compare-and-swap: who came between is forgotten */
        tnmi_base_poke64(&mo.word[0], 0);
    else if (!tnmi_base_swap64(&mo.word[0], &word, word & ~(uint64_t)MODEL_READY))
        return NULL;
    mo.bytes[1] = 7;
    tnmi_base_store32(&mo.rep, 1);
    schedule_point("the bytes of the other", &mo.bytes[0], 1);
    mo.bytes[0] = 8;
    word = tnmi_base_peek64(&mo.word[0]);
    while (!tnmi_base_swap64(&mo.word[0], &word, word | MODEL_READY))
        continue;
    tnmi_base_poke64(&mo.word[1], MODEL_READY);
    return NULL;
}

static void *model_sleep(void *of) {
    (void)of;
    schedule_lock(&mo.lock[0]);
    while (!mo.flag) {
        if (bug == 4) { /* the look and the sleep are two steps */
            schedule_unlock(&mo.lock[0]);
            schedule_lock(&mo.lock[0]);
        }
        schedule_listen(&mo.bell, &mo.lock[0]);
    }
    schedule_unlock(&mo.lock[0]);
    return NULL;
}

static void *model_wake(void *of) {
    (void)of;
    schedule_lock(&mo.lock[0]);
    mo.flag = 1;
    schedule_ring(&mo.bell);
    schedule_unlock(&mo.lock[0]);
    return NULL;
}

static void *model_both(void *of) { /* bug 5: the two locks in either order */
    int first = bug == 5 && of == &mo.rep;
    schedule_lock(&mo.lock[first]);
    schedule_lock(&mo.lock[!first]);
    mo.sum++;
    schedule_unlock(&mo.lock[!first]);
    schedule_unlock(&mo.lock[first]);
    return NULL;
}

static void *model_wait(void *of) { /* bug 6: for what never comes */
    (void)of;
    while (tnmi_base_load64(&mo.sum) < (bug == 6 ? 2u : 1u))
        schedule_yield();
    return NULL;
}

static void *model_come(void *of) {
    (void)of;
    tnmi_base_poke64(&mo.sum, 1);
    return NULL;
}

typedef struct model_play {
    void *(*thread[2])(void *);
    int bugs[3]; /* of these there is one at a time; 0 = none */
} model_play;

static const model_play model_plays[] = {
    { { model_pin, model_move }, { 1, 2, 3 } },
    { { model_sleep, model_wake }, { 4, 0, 0 } },
    { { model_both, model_both }, { 5, 0, 0 } },
    { { model_wait, model_come }, { 6, 0, 0 } },
};

static void model_begin(const void *of) {
    const model_play *play = (const model_play *)of;
    memset(&mo, 0, sizeof mo);
    mo.word[0] = MODEL_READY;
    mo.bytes[0] = 7;
    mo.word[1] = 0;
    mo.sum = 0;
    schedule_spawn(play->thread[0], NULL);
    schedule_spawn(play->thread[1], &mo.rep);
}

static void model_end(const void *of) {
    (void)of;
    for (int i = 0; i < 2; i++)
        if (mo.word[i] >= MODEL_PIN) schedule_fail("a pin was lost");
}

/* Found with at most two preemptions, by the string that was told again, and by chance; and without
 * the bug there is nothing to find. */
static void search_model(const model_play *m, int with) {
    schedule_play play = { "model", m, model_begin, model_end };
    int whole;
    long n;
    bug = with;
    schedule.quiet = with != 0;
    schedule_forget();
    for (int b = 0; b <= 2; b++) {
        n = schedule_explore(&play, b, 100000, &whole);
        CHECK(whole || with);
        if (n < 0) break;
    }
    CHECK_EQ(n < 0, with != 0);
    CHECK_EQ(schedule_chance(&play, 7, 2000), with == 0);
    schedule.quiet = 0;
}

TEST(planted_bugs_are_found) {
    for (int k = 0; k < (int)(sizeof model_plays / sizeof model_plays[0]); k++) {
        search_model(&model_plays[k], 0);
#    ifndef SCHEDULE_TSAN /* which sees them as the races they are */
        for (int i = 0; i < 3; i++)
            if (model_plays[k].bugs[i]) search_model(&model_plays[k], model_plays[k].bugs[i]);
#    endif
    }
}

/* ---- running ---- */
static schedule_play at_work;

static void crashed(int number) { /* the schedule that did it is worth more than a core */
    schedule_print(&at_work, "a schedule ends in a signal");
    signal(number, SIG_DFL);
    raise(number);
}

static int again(const char *name, const char *turns) {
    const scenario *s = scenarios;
    while (s < scenarios + SCENARIOS && strcmp(s->name, name) != 0)
        s++;
    if (s == scenarios + SCENARIOS) return 2;
    schedule_play play = open_scenario(s);
    schedule.loud = 1;
    return !schedule_replay(&play, turns);
}

int main(int argc, char **argv) {
    int all = argc > 1 && strcmp(argv[1], "--all") == 0;
    int chance = argc > 1 && strcmp(argv[1], "--chance") == 0;
    if (argc == 3 && !all && !chance) return again(argv[1], argv[2]);
    if (!chance) RUN(planted_bugs_are_found);
    for (int i = 0; i < SCENARIOS; i++) {
#    ifdef SCHEDULE_OWN_LOCK
        if (scenarios[i].how & PUMPED) continue;
#    endif
#    ifdef SCHEDULE_TSAN
        if ((scenarios[i].how & MINE) || (scenarios[i].kind & SIM_HIDDEN)) continue;
#    endif
        at_work.name = scenarios[i].name;
        signal(SIGSEGV, crashed);
        if (chance)
            by_chance(&scenarios[i], strtoull(argc > 2 ? argv[2] : "1", NULL, 10),
                      argc > 3 ? atol(argv[3]) : 2000);
        else
            explore(&scenarios[i], all && argc > 2 ? atoi(argv[2]) : 2,
                    all ? 3000000 : check_scale(3000, 60));
    }
    schedule_close();
    printf("%ld schedules of %d scenarios\n", all_schedules, check_passed + check_failed - !chance);
    return check_done();
}
#endif
