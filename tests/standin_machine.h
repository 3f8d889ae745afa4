/* standin_machine.h: what the stand-ins for vendors' runtimes are made of: devices over host memory
 * whose streams work late, and rules that are watched. A broken one aborts with a sentence:
 *
 *   - the runtime is initialised; a call that needs a current context has one; streams, events and
 *     memory belong to it; handles live
 *   - a copy stays inside one allocation; device addresses are no addresses for the CPU
 *   - copies run some queries after they were queued (drawn), their destination holds garbage until
 *     then; the source in page-locked memory does not change meanwhile; nothing is freed under them
 *   - what runs on two streams does not touch the same bytes, unless both read
 *
 * Environment, read by start(): STANDIN_DEVICES (2), STANDIN_BYTES of each (512 MiB),
 * STANDIN_HOST_BYTES page-locked in all (no limit), STANDIN_SEED, STANDIN_DELAY (3 queries at
 * most), STANDIN_PEER (1).
 *
 * For tests: standin_fail(call, nth, code) makes the nth call from now of that name, or of one in a
 * list of names, (NULL: of any) fail once, and all of them until further notice if nth is -1; calls
 * that free or destroy do their work nevertheless, as their documentation allows.
 * standin_add() is a kernel. Live allocations, objects and counts can be asked.
 *
 * The stand-in defines FIRST_CALL before it includes this, and the functions under "what differs"
 * after it. That each sentence is said when it should be is tests/test_standin_*.c's. */
#ifndef TENSORMEM_TESTS_STANDIN_MACHINE_H
#define TENSORMEM_TESTS_STANDIN_MACHINE_H

#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEVICES = 8,
    CONTEXTS = 64, /* the first of them are the devices' own */
    STREAMS = 64,
    EVENTS = 1 << 12,
    BLOCKS = 1 << 14,
    GARBAGE = 0xE7,
    POISON = 0xDB
};
#define HIDE                                                                                       \
    ((uintptr_t)1 << (sizeof(uintptr_t) * 8 - 2)) /* in device addresses, never the CPU's */

typedef struct context {
    int live, device;
    int own;        /* the device's: the primary, the default one */
    int users;      /* who retained it, or set the device */
    int lost;       /* the code of what broke it */
    uint64_t peers; /* a bit for each that was enabled */
} context;

typedef enum job_kind { JOB_COPY, JOB_MARK, JOB_ADD } job_kind;

typedef struct job {
    struct job *next;
    job_kind kind;
    int delay, spoiled;
    unsigned char *to, *from; /* real addresses */
    unsigned char *taken;     /* the bytes of a pageable source */
    size_t bytes, reach;      /* reach: what a kernel reads */
    uint64_t hash;            /* of a page-locked source */
    int hashed;
    unsigned char add;
    struct event *event;
    uint64_t turn; /* of the event's record */
} job;

typedef struct stream {
    int live;           /* 0 with jobs left: they run on */
    int failed, silent; /* a failure nobody was told of */
    int captured;       /* what is queued becomes a graph, and cannot be asked for */
    context *of;
    job *first, *last;
} stream;

typedef struct event {
    int live, scarce, captured;
    int queued; /* jobs that will record it */
    context *of;
    stream *on;
    uint64_t asked, done, broken; /* records queued, passed, behind a failure */
} event;

typedef struct block {
    unsigned char *raw, *at; /* raw NULL = free slot */
    size_t size;
    int host, device; /* host: page-locked memory */
    context *of;
} block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static context contexts[CONTEXTS];
static stream streams[STREAMS + CONTEXTS]; /* at the end each context's default stream */
static event events[EVENTS];
static block blocks[BLOCKS];
static uint32_t next_event, block_top;
static int users, device_count, delay_most, peers_can;
static int spoil; /* the next copy fails when it runs: 1 = and says so, 2 = in silence */
static uint64_t device_limit, host_limit, device_used[DEVICES], host_used;
static uint64_t draws = 88172645463325252u;
static const char *current_call = "?";
static struct {
    char call[128]; /* a list; "" = any */
    int nth, code, fired;
} plan;
static struct { uint64_t pageable, batched, at_once, copies, calls; /* pageable: bytes */ } counts;

/* ---- what differs ---- */
static context *current(void);        /* of this thread, or NULL */
static int lost_in(const context *c); /* the code of what broke it, or 0 */
static void planned(int code);        /* a call was made to fail with it: what else breaks? */
static uint64_t held(void);           /* what is used besides streams and events */
static size_t kernel_reads(uintptr_t at, size_t bytes); /* of a tensor of so many */

/* ---- rules ---- */
static void broken(const char *rule, ...) {
    va_list args;
    fprintf(stderr, "standin: %s: ", current_call);
    va_start(args, rule);
    vfprintf(stderr, rule, args);
    va_end(args);
    fprintf(stderr, "\n");
    fflush(stderr);
    abort();
}

static uint64_t draw(uint64_t below) {
    draws ^= draws << 13, draws ^= draws >> 7, draws ^= draws << 17;
    return (draws >> 20) % below;
}

static uint64_t env(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

static void start(void) {
    users++;
    device_count = (int)env("STANDIN_DEVICES", 2);
    if (device_count > DEVICES) device_count = DEVICES;
    device_limit = env("STANDIN_BYTES", (uint64_t)512 << 20);
    host_limit = env("STANDIN_HOST_BYTES", UINT64_MAX);
    delay_most = (int)env("STANDIN_DELAY", 3);
    peers_can = (int)env("STANDIN_PEER", 1);
    if (getenv("STANDIN_SEED")) draws = env("STANDIN_SEED", 1) * 2 + 1;
}

static int is_planned(const char *call) {
    size_t length = strlen(call);
    for (const char *at = strstr(plan.call, call); at; at = strstr(at + 1, call))
        if ((at == plan.call || at[-1] == ' ') && (!at[length] || at[length] == ' ')) return 1;
    return !plan.call[0];
}

/* Begins a call: the lock is held after it. The code that was planned for it, or 0. */
static int begin(const char *call) {
    pthread_mutex_lock(&lock);
    current_call = call;
    counts.calls++;
    if (!users && strcmp(call, FIRST_CALL) != 0) broken("the runtime was not initialised");
    if (plan.nth == 0 || !is_planned(call) || (plan.nth > 0 && --plan.nth > 0)) return 0;
    plan.fired = 1;
    planned(plan.code);
    return plan.code;
}

/* The same for calls that need a context: its broken state, too. */
static int begin_inside(const char *call) {
    int code = begin(call);
    const context *c = current();
    if (!c) broken("no context is current");
    if (!c->live) broken("the current context was destroyed, or its device reset");
    return code ? code : lost_in(c);
}

static void a_device(int number) {
    if (number < 0 || number >= device_count) broken("no such device");
}

static context *make_context(int device, int own) {
    for (int i = own ? device : DEVICES; i < CONTEXTS; i++) {
        context *c = &contexts[i];
        if (c->live) continue;
        c->live = 1;
        c->device = device;
        c->own = own;
        return c;
    }
    broken("too many contexts for the test itself");
    return NULL;
}

/* ---- memory ---- */
static unsigned char *real(uintptr_t at) {
    return (unsigned char *)(at & ~HIDE);
}

static size_t round_up(size_t size, size_t unit) {
    return (size + unit - 1) / unit * unit;
}

/* The block that holds a byte, or NULL. */
static block *find(const void *at) {
    const unsigned char *byte = (const unsigned char *)at;
    for (uint32_t i = 0; i < block_top; i++) {
        block *b = &blocks[i];
        if (b->raw && byte >= b->at && byte < b->at + b->size) return b;
    }
    return NULL;
}

static block *within(const void *at, size_t bytes) {
    block *b = find(at);
    if (b && (size_t)((const unsigned char *)at - b->at) + bytes > b->size)
        broken("past an allocation of %zu reach %zu bytes", b->size, bytes);
    return b;
}

static block *device_end(uintptr_t at, size_t bytes) {
    if (!(at & HIDE)) broken("no address of device memory: %#zx", (size_t)at);
    block *b = within(real(at), bytes);
    if (!b || b->host) broken("device memory that is not allocated");
    return b;
}

/* NULL: pageable. */
static block *host_end(const void *at, size_t bytes) {
    if ((uintptr_t)at & HIDE) broken("a device address where the host's is due");
    block *b = within(at, bytes);
    if (b && !b->host) broken("memory of a device where the host's is due");
    return b;
}

static int overlap(const unsigned char *a, size_t n, const unsigned char *b, size_t m) {
    return a && b && a < b + m && b < a + n;
}

/* Does a job of the stream read or write these bytes? Readers do not mind readers. */
static int in_hand_on(const stream *s, const unsigned char *at, size_t bytes, int write) {
    for (const job *j = s->first; j; j = j->next) {
        if (j->kind == JOB_MARK) continue;
        if (overlap(at, bytes, j->to, write && j->reach ? j->reach : j->bytes)) return 1;
        if (write && !j->taken && overlap(at, bytes, j->from, j->bytes)) return 1;
    }
    return 0;
}

static int in_hand(const stream *but, const unsigned char *at, size_t bytes, int write) {
    for (int i = 0; i < STREAMS + CONTEXTS; i++)
        if (streams[i].first && &streams[i] != but && in_hand_on(&streams[i], at, bytes, write))
            return 1;
    return 0;
}

static void no_clash(const stream *but, const unsigned char *at, size_t bytes, int write) {
    if (in_hand(but, at, bytes, write))
        broken("touches bytes that a copy or a kernel (with what it may read behind its tensor) on "
               "another stream has in hand, and nothing orders the two");
}

/* Memory of the current context, `beyond` behind a multiple of `unit`; NULL = none left. */
static unsigned char *take(int host, size_t size, size_t unit, size_t beyond) {
    int device = current()->device;
    uint64_t *used = host ? &host_used : &device_used[device];
    uint64_t limit = host ? host_limit : device_limit;
    uint32_t slot = 0;
    if (*used > limit || size > limit - *used) return NULL;
    while (slot < BLOCKS && blocks[slot].raw)
        slot++;
    if (slot == BLOCKS) return NULL;
    block *b = &blocks[slot];
    b->raw = (unsigned char *)malloc(size + 2 * unit);
    if (!b->raw) return NULL;
    b->at = (unsigned char *)round_up((uintptr_t)b->raw, unit) + beyond;
    b->size = size;
    b->host = host;
    b->device = device;
    b->of = current();
    memset(b->at, POISON, size);
    *used += size;
    if (slot >= block_top) block_top = slot + 1;
    return b->at;
}

static void give(block *b) {
    *(b->host ? &host_used : &device_used[b->device]) -= b->size;
    free(b->raw);
    b->raw = NULL;
}

static block *allocated(const void *at, int host) {
    block *b = find(at);
    if (!b || b->at != at || b->host != host) broken("not an address that was allocated so");
    return b;
}

static void give_back(block *b) {
    if (in_hand(NULL, b->at, b->size, 1)) broken("memory freed under a copy or a kernel");
    give(b);
}

/* ---- streams and events ---- */
static stream *live_stream(void *handle) {
    stream *s = (stream *)handle;
    if (s < streams || s >= streams + STREAMS || !s->live) broken("a stream that does not live");
    return s;
}

static stream *stream_here(void *handle) {
    stream *s = live_stream(handle);
    if (s->of != current()) broken("a stream of another context");
    return s;
}

static event *event_here(void *handle) {
    event *e = (event *)handle;
    if (e < events || e >= events + EVENTS || !e->live) broken("an event that does not live");
    if (e->of != current()) broken("an event of another context");
    return e;
}

static stream *make_stream(void) { /* NULL = too many */
    for (int i = 0; i < STREAMS; i++) {
        stream *s = &streams[i];
        if (s->live || s->first) continue;
        memset(s, 0, sizeof *s);
        s->live = 1;
        s->of = current();
        return s;
    }
    return NULL;
}

static event *make_event(void) { /* NULL = too many */
    for (uint32_t i = 0; i < EVENTS; i++) {
        event *e = &events[next_event++ % EVENTS];
        if (e->live || e->queued) continue;
        memset(e, 0, sizeof *e);
        e->live = 1;
        e->of = current();
        return e;
    }
    return NULL;
}

static uint64_t hash(const unsigned char *at, size_t size) {
    uint64_t h = size;
    for (size_t i = 0; i + 8 <= size; i += 8) {
        uint64_t word;
        memcpy(&word, at + i, 8);
        h = (h ^ word) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
    }
    for (size_t i = size & ~(size_t)7; i < size; i++)
        h = (h ^ at[i]) * 0x100000001B3u;
    return h;
}

static void run_copy(stream *s, const job *j) {
    if (j->hashed && hash(j->from, j->bytes) != j->hash)
        broken("the source of a copy was changed before it was done");
    if (!j->spoiled) memcpy(j->to, j->taken ? j->taken : j->from, j->bytes);
    counts.copies++;
    if (!j->spoiled) return;
    s->failed = 1;
    s->silent = j->spoiled == 2;
}

static void run_mark(const stream *s, const job *j) {
    event *e = j->event;
    if (s->failed && !s->silent) {
        e->broken = j->turn;
    } else if (e->done < j->turn) {
        e->done = j->turn;
    }
}

static job *shift(stream *s) { /* takes the first job off */
    job *j = s->first;
    s->first = j->next;
    if (!s->first) s->last = NULL;
    if (j->kind == JOB_MARK) j->event->queued--;
    return j;
}

static void drop(job *j) {
    free(j->taken);
    free(j);
}

static void run_first(stream *s) {
    job *j = shift(s);
    if (j->kind == JOB_COPY) run_copy(s, j);
    if (j->kind == JOB_MARK) run_mark(s, j);
    for (size_t i = 0; j->kind == JOB_ADD && i < j->bytes; i++)
        j->to[i] = (unsigned char)(j->to[i] + j->add);
    drop(j);
}

static void finish(stream *s) {
    while (s->first)
        run_first(s);
}

static void drop_jobs(stream *s) { /* they never run */
    while (s->first)
        drop(shift(s));
}

/* Time passes whenever somebody looks. */
static void step_all(void) {
    for (int i = 0; i < STREAMS + CONTEXTS; i++) {
        stream *s = &streams[i];
        while (s->first && s->first->delay == 0)
            run_first(s);
        if (s->first) s->first->delay--;
    }
}

static job *append(stream *s, job_kind kind) {
    job *j = (job *)calloc(1, sizeof *j);
    if (!j) broken("no memory for the test itself");
    j->kind = kind;
    j->delay = kind == JOB_MARK ? 0 : (int)draw((uint64_t)delay_most + 1);
    if (s->last)
        s->last->next = j;
    else
        s->first = j;
    s->last = j;
    return j;
}

static void record(event *e, stream *s) {
    job *j = append(s, JOB_MARK);
    j->event = e;
    j->turn = ++e->asked;
    e->queued++;
    e->on = s;
}

static void wait_event(const event *e) {
    while (e->done != e->asked && e->broken != e->asked && e->on->first)
        run_first(e->on);
}

/* Behind what the stream has. Of a pageable source (NULL) the bytes are taken now, and to pageable
 * memory the copy is done at the return. */
static void queue_copy(stream *s, unsigned char *to, const block *to_in, unsigned char *from,
                       const block *from_in, size_t bytes) {
    no_clash(s, to, bytes, 1);
    no_clash(s, from, bytes, 0);
    int fresh = !in_hand_on(s, to, bytes, 1);
    job *j = append(s, JOB_COPY);
    j->to = to;
    j->from = from;
    j->bytes = bytes;
    j->spoiled = spoil;
    spoil = 0;
    if (!from_in) {
        counts.pageable += bytes;
        j->taken = (unsigned char *)malloc(bytes);
        if (!j->taken) broken("no memory for the test itself");
        memcpy(j->taken, from, bytes);
    } else if (from_in->host) {
        j->hashed = 1;
        j->hash = hash(from, bytes);
    }
    if (!to_in) {
        counts.pageable += bytes;
        finish(s);
    } else if (fresh) {
        memset(to, GARBAGE, bytes);
    }
}

/* ---- for tests ---- */
void standin_fail(const char *call, int nth, int code) {
    pthread_mutex_lock(&lock);
    snprintf(plan.call, sizeof plan.call, "%s", call ? call : "");
    plan.nth = nth;
    plan.code = code;
    plan.fired = 0;
    pthread_mutex_unlock(&lock);
}

int standin_fired(void) { /* since the last standin_fail */
    return plan.fired;
}

uint64_t standin_live(void) { /* allocations */
    uint64_t count = 0;
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < block_top; i++)
        count += blocks[i].raw != NULL;
    pthread_mutex_unlock(&lock);
    return count;
}

uint64_t standin_objects(void) { /* streams, events, and contexts */
    pthread_mutex_lock(&lock);
    uint64_t count = held();
    for (int i = 0; i < STREAMS; i++)
        count += (uint64_t)streams[i].live;
    for (int i = 0; i < EVENTS; i++)
        count += (uint64_t)events[i].live;
    pthread_mutex_unlock(&lock);
    return count;
}

uint64_t standin_count(const char *what) {
    if (strcmp(what, "pageable") == 0) return counts.pageable;
    if (strcmp(what, "batched") == 0) return counts.batched;
    if (strcmp(what, "at once") == 0) return counts.at_once;
    if (strcmp(what, "copies") == 0) return counts.copies;
    if (strcmp(what, "users") == 0) return (uint64_t)users;
    if (strcmp(what, "calls") != 0) broken("nobody counts '%s' for the test itself", what);
    return counts.calls;
}

/* A kernel that adds to every byte. `on` and `at` as the runtime's calls take them. The stream's
 * context need not be current: as a launch, but simpler. */
int standin_add(void *on, uintptr_t at, size_t bytes, unsigned char add) {
    pthread_mutex_lock(&lock);
    current_call = "a kernel";
    stream *s = live_stream(on);
    int code = lost_in(s->of);
    if (!code) {
        size_t reach = kernel_reads(at, bytes);
        if (device_end(at, reach)->device != s->of->device) broken("memory of another device");
        no_clash(s, real(at), bytes, 1);
        no_clash(s, real(at), reach, 0);
        job *j = append(s, JOB_ADD);
        j->to = real(at);
        j->bytes = bytes;
        j->reach = reach;
        j->add = add;
    }
    pthread_mutex_unlock(&lock);
    return code;
}

#endif
