/* standin_cuda.c: a CUDA driver over host memory, for machines without a device. A shared library
 * with the functions that examples/backends/cuda.h calls. It does what their documentation says,
 * late, and enforces what it demands: a broken rule aborts with a sentence.
 *
 *   - a call that needs a current context has one; streams, events and memory belong to it
 *   - handles live; a copy stays inside one allocation, and this is of the device it names
 *   - device addresses are no addresses for the CPU, and aligned to 256 and no more; page-locked
 *     memory to 512
 *   - copies run some queries after they were queued (drawn), their destination holds garbage until
 *     then; the source in page-locked memory does not change meanwhile; nothing is freed under them
 *   - what runs on two streams does not touch the same bytes, unless both read
 *   - copies of pageable memory are not in the background: to the host they are done at the return,
 *     from it the bytes were taken
 *   - a fatal error stays: every later call into that context answers it
 *   - what pushes a context pops it; what was retained is released as often
 *
 * Environment, read by cuInit: STANDIN_DEVICES (2), STANDIN_BYTES of each (512 MiB),
 * STANDIN_HOST_BYTES page-locked in all (no limit), STANDIN_SEED, STANDIN_DELAY (3 queries at
 * most), STANDIN_UNIFIED (0; 1 = integrated, 2 = the host's page tables), STANDIN_PEER (1),
 * STANDIN_BATCH (1).
 *
 * For tests: standin_fail(call, nth, code) makes the nth call from now of that name, or of one in a
 * list of names, (NULL: of any) fail once, and all of them until further notice if nth is -1; calls
 * that free or destroy do their work nevertheless, as the documentation allows. standin_lose()
 * breaks every device, standin_revive() gives fresh ones. standin_capture() begins or ends the
 * capture of a stream: its events cannot be asked for, nor can it.
 *
 * tests/standin_hip.c is the same machine behind the names of HIP. */
/* needs: -pthread */
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    DEVICES = 8,
    CONTEXTS = 16,
    STREAMS = 64,
    EVENTS = 1 << 12,
    BLOCKS = 1 << 14,
    STACK = 16,
    GARBAGE = 0xE7,
    POISON = 0xDB
};
enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101 };
enum { INVALID_CONTEXT = 201, NOT_READY = 600, BROKEN = 700, ALREADY = 704, UNSUPPORTED = 801 };
enum { CAPTURING = 900, CAPTURED = 907 };
#define HIDE ((uintptr_t)1 << 62) /* set in device addresses: no CPU address has it */

typedef struct context {
    int live, device, lost, primary, retained;
    struct context *peers[CONTEXTS];
    int peer_count;
} context;

typedef enum job_kind { JOB_COPY, JOB_MARK, JOB_ADD } job_kind;

typedef struct job {
    struct job *next;
    job_kind kind;
    int delay;
    unsigned char *to, *from; /* real addresses */
    unsigned char *taken;     /* the bytes of a pageable source */
    size_t bytes;
    uint64_t hash; /* of a page-locked source */
    int hashed;
    unsigned char add;
    struct event *event;
    uint64_t turn; /* of the event's record */
} job;

typedef struct stream {
    int live; /* 0 with jobs left: they run on */
    int captured;
    context *of;
    job *first, *last;
} stream;

typedef struct event {
    int live, captured;
    context *of;
    stream *on;
    uint64_t asked, done; /* records queued, records passed */
    clock_t at;           /* when the latest passed */
} event;

typedef struct block {
    unsigned char *raw, *at; /* raw NULL = free slot */
    size_t size;
    int host; /* page-locked memory */
    context *of;
} block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static context contexts[CONTEXTS];
static stream streams[STREAMS], nulls[CONTEXTS];
static event events[EVENTS];
static block blocks[BLOCKS];
static uint32_t next_event, block_top;
static int initialised, device_count, delay_most, unified, peers_can, batch_can;
static uint64_t device_limit, host_limit, device_used[DEVICES], host_used;
static uint64_t draws = 88172645463325252u, pageable_bytes, batched, copies_done;
static const char *current_call = "?";
static struct {
    char call[128]; /* "" = any */
    int nth, code, fired;
} plan;
static uint64_t calls_made;
#ifdef STANDIN_HIP
enum { INTEGRATED = 16, PAGE_TABLES = 66 };
static __thread int current_device;
static __thread int last_error;
#else
enum { INTEGRATED = 18, PAGE_TABLES = 100 };
static __thread context *stack[STACK];
static __thread int depth;
#endif

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

static int is_fatal(int code) {
    return code == 4 || code == 214 || code == 220 || code == 700 || code == 702 ||
           code == 709 || code == 710 || (code >= 714 && code <= 719);
}

static context *current(void) {
#ifdef STANDIN_HIP
    return &contexts[current_device];
#else
    return depth > 0 ? stack[depth - 1] : NULL;
#endif
}

/* They never run; what waits for their events is not kept. */
static void drop_jobs(stream *s) {
    while (s->first) {
        job *j = s->first;
        s->first = j->next;
        if (j->kind == JOB_MARK && j->event->done < j->turn) j->event->done = j->turn;
        free(j->taken);
        free(j);
    }
    s->last = NULL;
}

static void give(block *b) {
    *(b->host ? &host_used : &device_used[b->of->device]) -= b->size;
    free(b->raw);
    b->raw = NULL;
}

/* It breaks: the memory of the device is gone, what the CPU sees is not. */
static void lose(context *c, int code) {
    if (!c || !c->live || c->lost) return;
    c->lost = code;
    for (int i = 0; i < STREAMS; i++)
        if (streams[i].of == c) drop_jobs(&streams[i]);
    drop_jobs(&nulls[c - contexts]);
    for (uint32_t i = 0; i < block_top; i++)
        if (blocks[i].raw && blocks[i].of == c && !blocks[i].host) give(&blocks[i]);
}

/* Begins a call: the lock is held after it. The code that was planned for it, or 0. */
static int named(const char *list, const char *call) { /* empty: all are */
    size_t length = strlen(call);
    for (const char *at = strstr(list, call); at; at = strstr(at + 1, call))
        if ((at == list || at[-1] == ' ') && (!at[length] || at[length] == ' ')) return 1;
    return !*list;
}

static int begin(const char *call) {
    pthread_mutex_lock(&lock);
    current_call = call;
    calls_made++;
    if (!initialised && strcmp(call, "cuInit") != 0 && strcmp(call, "hipInit") != 0)
        broken("the driver was not initialised");
    if (plan.nth == 0 || !named(plan.call, call) || (plan.nth > 0 && --plan.nth > 0)) return 0;
    plan.fired = 1;
    for (int i = 0; is_fatal(plan.code) && i < CONTEXTS; i++)
        lose(&contexts[i], plan.code);
    return plan.code;
}

static int end(int code) {
#ifdef STANDIN_HIP
    if (code) last_error = code;
#endif
    pthread_mutex_unlock(&lock);
    return code;
}

/* The same for calls that need a context: its broken state, too. */
static int begin_inside(const char *call) {
    int code = begin(call);
    context *c = current();
    if (!c) broken("no context is current");
    if (!c->live) broken("the current context was destroyed");
    return code ? code : c->lost;
}

/* ---- memory ---- */
static unsigned char *real(uintptr_t at) {
    return (unsigned char *)(at & ~HIDE);
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
        broken("%zu bytes reach past an allocation of %zu", bytes, b->size);
    return b;
}

static int overlap(const unsigned char *a, size_t n, const unsigned char *b, size_t m) {
    return a && b && a < b + m && b < a + n;
}

static const char *const clash_rule = "touches bytes that a copy or a kernel on another stream has "
                                      "in hand, and nothing orders the two";

/* The first job on a stream other than `but` that reads or writes these bytes. */
static int in_hand_on(const stream *s, const unsigned char *at, size_t bytes, int write) {
    for (const job *j = s->first; j; j = j->next) {
        if (j->kind == JOB_MARK) continue;
        if (overlap(at, bytes, j->to, j->bytes)) return 1;
        if (write && !j->taken && overlap(at, bytes, j->from, j->bytes)) return 1;
    }
    return 0;
}

static int in_hand(const stream *but, const unsigned char *at, size_t bytes, int write) {
    for (int i = 0; i < STREAMS; i++)
        if (&streams[i] != but && streams[i].first && in_hand_on(&streams[i], at, bytes, write))
            return 1;
    for (int i = 0; i < CONTEXTS; i++)
        if (&nulls[i] != but && nulls[i].first && in_hand_on(&nulls[i], at, bytes, write)) return 1;
    return 0;
}

static int take(context *c, size_t size, int host, unsigned char **at) {
    uint64_t *used = host ? &host_used : &device_used[c->device];
    if (size == 0) return INVALID_VALUE;
    if (size > (host ? host_limit : device_limit) - *used) return OUT_OF_MEMORY;
    uint32_t slot = 0;
    while (slot < BLOCKS && blocks[slot].raw)
        slot++;
    if (slot == BLOCKS) return OUT_OF_MEMORY;
    block *b = &blocks[slot];
    b->raw = (unsigned char *)malloc(size + 8192);
    if (!b->raw) return OUT_OF_MEMORY;
    uintptr_t unit = host ? 1024 : 512, raw = (uintptr_t)b->raw; /* aligned to half of it */
    b->at = (unsigned char *)((raw + unit - 1) / unit * unit + unit / 2);
    b->size = size;
    b->host = host;
    b->of = c;
    memset(b->at, POISON, size);
    *used += size;
    if (slot >= block_top) block_top = slot + 1;
    *at = b->at;
    return 0;
}

static void give_at(unsigned char *at, int host) {
    block *b = find(at);
    if (!b || b->at != at || b->host != host) broken("not an address that was allocated so");
    if (in_hand(NULL, b->at, b->size, 1)) broken("memory freed under a copy or a kernel");
    give(b);
}

/* ---- streams and events ---- */
static stream *stream_of(void *handle) {
    if (!handle) { /* the default stream */
        stream *s = &nulls[current() - contexts];
        s->live = 1;
        s->of = current();
        return s;
    }
    stream *s = (stream *)handle;
    if (s < streams || s >= streams + STREAMS || !s->live) broken("a stream that does not live");
    if (s->of != current()) broken("a stream of another context");
    return s;
}

static event *event_of(void *handle) {
    event *e = (event *)handle;
    if (e < events || e >= events + EVENTS || !e->live) broken("an event that does not live");
    if (e->of != current()) broken("an event of another context");
    return e;
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

static void run_first(stream *s) {
    job *j = s->first;
    s->first = j->next;
    if (!s->first) s->last = NULL;
    if (j->kind == JOB_COPY) {
        if (j->hashed && hash(j->from, j->bytes) != j->hash)
            broken("the page-locked source of a copy was changed before it was done");
        memcpy(j->to, j->taken ? j->taken : j->from, j->bytes);
        copies_done++;
    } else if (j->kind == JOB_ADD) {
        for (size_t i = 0; i < j->bytes; i++)
            j->to[i] = (unsigned char)(j->to[i] + j->add);
    } else if (j->event->done < j->turn) {
        j->event->done = j->turn;
        j->event->at = clock();
    }
    free(j->taken);
    free(j);
}

static void finish(stream *s) {
    while (s->first)
        run_first(s);
}

static void step(stream *s) {
    while (s->first && s->first->delay == 0)
        run_first(s);
    if (s->first) s->first->delay--;
}

/* Time passes whenever somebody looks. */
static void step_all(void) {
    for (int i = 0; i < STREAMS; i++)
        if (streams[i].first) step(&streams[i]);
    for (int i = 0; i < CONTEXTS; i++)
        if (nulls[i].first) step(&nulls[i]);
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

/* One copy; ends that are NULL are pageable. */
static void copy(stream *s, unsigned char *to, block *to_block, unsigned char *from,
                 block *from_block, size_t bytes) {
    if (in_hand(s, to, bytes, 1) || in_hand(s, from, bytes, 0)) broken("%s", clash_rule);
    int fresh = !in_hand_on(s, to, bytes, 1);
    job *j = append(s, JOB_COPY);
    j->to = to;
    j->from = from;
    j->bytes = bytes;
    if (!from_block) {
        pageable_bytes += bytes;
        j->taken = (unsigned char *)malloc(bytes);
        if (!j->taken) broken("no memory for the test itself");
        memcpy(j->taken, from, bytes);
    } else if (from_block->host) {
        j->hashed = 1;
        j->hash = hash(from, bytes);
    }
    if (!to_block) {
        pageable_bytes += bytes;
        finish(s);
    } else if (fresh) {
        memset(to, GARBAGE, bytes);
    }
}

static block *device_end(uintptr_t at, size_t bytes, const context *of) {
    if (!(at & HIDE)) broken("%#zx is no address of device memory", (size_t)at);
    block *b = within(real(at), bytes);
    if (!b || b->host) broken("device memory that is not allocated");
    if (b->of->device != of->device) broken("memory of another device");
    return b;
}

static block *host_end(const void *at, size_t bytes) {
    if ((uintptr_t)at & HIDE) broken("a device address where the host's is due");
    block *b = within(at, bytes);
    if (b && !b->host) broken("memory of a device where the host's is due");
    return b;
}

static int copy_up(uintptr_t to, const void *from, size_t bytes, void *on) {
    block *b = device_end(to, bytes, current()), *h = host_end(from, bytes);
    copy(stream_of(on), real(to), b, real((uintptr_t)from), h, bytes);
    return 0;
}

static int copy_down(void *to, uintptr_t from, size_t bytes, void *on) {
    block *b = device_end(from, bytes, current()), *h = host_end(to, bytes);
    copy(stream_of(on), (unsigned char *)to, h, real(from), b, bytes);
    return 0;
}

static int copy_across(uintptr_t to, const context *to_of, uintptr_t from, const context *from_of,
                       size_t bytes, void *on) {
    block *b = device_end(to, bytes, to_of), *a = device_end(from, bytes, from_of);
    copy(stream_of(on), real(to), b, real(from), a, bytes);
    return 0;
}

static int make_stream(void **out, unsigned flags) {
    if (flags > 1) broken("unknown stream flags");
    for (int i = 0; i < STREAMS; i++) {
        if (streams[i].live || streams[i].first) continue;
        streams[i].live = 1;
        streams[i].of = current();
        *out = &streams[i];
        return 0;
    }
    return OUT_OF_MEMORY;
}

static int make_event(void **out, unsigned flags) {
    if (flags > 3) broken("unknown event flags");
    for (uint32_t i = 0; i < EVENTS; i++) {
        event *e = &events[next_event++ % EVENTS];
        if (e->live || e->done != e->asked) continue;
        e->live = 1;
        e->of = current();
        e->on = NULL;
        e->asked = e->done = 0;
        *out = e;
        return 0;
    }
    return OUT_OF_MEMORY;
}

static int record(event *e, stream *s) {
    job *j = append(s, JOB_MARK);
    j->event = e;
    j->turn = ++e->asked;
    e->on = s;
    return 0;
}

static int query_event(const event *e) {
    step_all();
    return e->done == e->asked ? 0 : NOT_READY;
}

static void wait_event(const event *e) {
    while (e->done != e->asked && e->on->first)
        run_first(e->on);
}

static void destroy_event(event *e) { /* nobody waits; the slot is free once it has passed */
    e->live = 0;
}

/* Everything of a context goes: memory, streams, events. */
static void destroy(context *c) {
    for (int i = 0; i < STREAMS; i++)
        if (streams[i].of == c && (streams[i].live || streams[i].first)) {
            drop_jobs(&streams[i]);
            streams[i].live = 0;
        }
    drop_jobs(&nulls[c - contexts]);
    for (uint32_t i = 0; i < EVENTS; i++)
        if (events[i].live && events[i].of == c) events[i].live = 0;
    for (uint32_t i = 0; i < EVENTS; i++)
        if (events[i].of == c) events[i].done = events[i].asked;
    for (uint32_t i = 0; i < block_top; i++)
        if (blocks[i].raw && blocks[i].of == c) give(&blocks[i]);
    memset(c, 0, sizeof *c);
}

static context *make_context(int device, int primary) {
    for (int i = primary ? device : DEVICES; i < CONTEXTS; i++) {
        context *c = &contexts[i];
        if (c->live) continue;
        c->live = 1;
        c->device = device;
        c->primary = primary;
        return c;
    }
    broken("too many contexts for the test itself");
    return NULL;
}

static void start(void) {
    initialised = 1;
    device_count = (int)env("STANDIN_DEVICES", 2);
    if (device_count > DEVICES) device_count = DEVICES;
    device_limit = env("STANDIN_BYTES", (uint64_t)512 << 20);
    host_limit = env("STANDIN_HOST_BYTES", UINT64_MAX);
    delay_most = (int)env("STANDIN_DELAY", 3);
    unified = (int)env("STANDIN_UNIFIED", 0);
    peers_can = (int)env("STANDIN_PEER", 1);
    batch_can = (int)env("STANDIN_BATCH", 1);
    if (getenv("STANDIN_SEED")) draws = env("STANDIN_SEED", 1) * 2 + 1;
#ifdef STANDIN_HIP
    for (int i = 0; i < device_count; i++)
        if (!contexts[i].live) (void)make_context(i, 1);
#endif
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

void standin_capture(void *on, int active) {
    pthread_mutex_lock(&lock);
    ((stream *)on)->captured = active;
    pthread_mutex_unlock(&lock);
}

int standin_fired(void) { /* since the last standin_fail */
    return plan.fired;
}

void standin_lose(void) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < CONTEXTS; i++)
        lose(&contexts[i], BROKEN);
    pthread_mutex_unlock(&lock);
}

void standin_revive(void) { /* as a reset of every device would */
    pthread_mutex_lock(&lock);
    for (int i = 0; i < CONTEXTS; i++) {
        int primary = contexts[i].primary, retained = contexts[i].retained;
        if (!contexts[i].live) continue;
        destroy(&contexts[i]);
        if (!primary) continue;
        (void)make_context(i, 1);
        contexts[i].retained = retained;
    }
    pthread_mutex_unlock(&lock);
}

uint64_t standin_live(void) { /* allocations */
    uint64_t count = 0;
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < block_top; i++)
        count += blocks[i].raw != NULL;
    pthread_mutex_unlock(&lock);
    return count;
}

uint64_t standin_objects(void) { /* streams, events, and retained contexts */
    uint64_t count = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < STREAMS; i++)
        count += (uint64_t)streams[i].live;
    for (int i = 0; i < EVENTS; i++)
        count += (uint64_t)events[i].live;
    for (int i = 0; i < CONTEXTS; i++)
        count += (uint64_t)contexts[i].retained;
    pthread_mutex_unlock(&lock);
    return count;
}

uint64_t standin_count(const char *what) {
    if (strcmp(what, "pageable") == 0) return pageable_bytes;
    if (strcmp(what, "batched") == 0) return batched;
    if (strcmp(what, "copies") == 0) return copies_done;
    return calls_made;
}

/* A kernel that adds to every byte. `on` and `at` as the driver's calls take them. */
int standin_add(void *on, uintptr_t at, size_t bytes, unsigned char add) {
    pthread_mutex_lock(&lock);
    current_call = "a kernel";
    stream *s = (stream *)on; /* whose context need not be current: as a launch, but simpler */
    if (!s || !s->live) broken("a stream that does not live");
    int code = s->of->lost;
    if (!code) {
        (void)device_end(at, bytes, s->of);
        if (in_hand(s, real(at), bytes, 1)) broken("%s", clash_rule);
        job *j = append(s, JOB_ADD);
        j->to = real(at);
        j->bytes = bytes;
        j->add = add;
    }
    pthread_mutex_unlock(&lock);
    return code;
}

/* ---- the driver's names; standin_hip.c gives these others ---- */
int cuInit(unsigned flags) {
    int code = begin(__func__);
    if (flags) broken("flags are not 0");
    start();
    return end(code ? code : device_count ? 0 : NO_DEVICE);
}

int cuDeviceGetCount(int *count) {
    int code = begin(__func__);
    if (!code) *count = device_count;
    return end(code);
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int code = begin(__func__);
    if (device < 0 || device >= device_count) broken("no such device");
    if (!code)
        *value = attribute == INTEGRATED    ? unified == 1
                 : attribute == PAGE_TABLES ? unified == 2
                                            : 0;
    return end(code);
}

int cuMemGetInfo_v2(size_t *available, size_t *total) {
    int code = begin_inside(__func__);
    if (!code) {
        *available = (size_t)(device_limit - device_used[current()->device]);
        *total = (size_t)device_limit;
    }
    return end(code);
}

int cuMemAlloc_v2(uintptr_t *mem, size_t bytes) {
    int code = begin_inside(__func__);
    unsigned char *at = NULL;
    if (!code) code = take(current(), bytes, 0, &at);
    if (!code) *mem = (uintptr_t)at | HIDE;
    return end(code);
}

int cuMemGetAddressRange_v2(uintptr_t *base, size_t *bytes, uintptr_t at) {
    int code = begin_inside(__func__);
    block *b = find(real(at));
    if (!code && !b) code = 500; /* CUDA_ERROR_NOT_FOUND */
    if (!code && base) *base = (uintptr_t)b->at | HIDE;
    if (!code && bytes) *bytes = b->size;
    return end(code);
}

int cuMemFree_v2(uintptr_t at) {
    int code = begin_inside(__func__);
    if (!(at & HIDE)) broken("not an address of device memory");
    if (!current()->lost) give_at(real(at), 0); /* else it is gone already */
    return end(code);
}

int cuMemHostAlloc(void **host, size_t bytes, unsigned flags) {
    int code = begin_inside(__func__);
    unsigned char *at = NULL;
    if (flags > 7) broken("unknown flags");
    if (!code) code = take(current(), bytes, 1, &at);
    if (!code) *host = at;
    return end(code);
}

int cuMemFreeHost(void *host) {
    int code = begin_inside(__func__);
    give_at((unsigned char *)host, 1);
    return end(code);
}

int cuStreamCreate(void **out, unsigned flags) {
    int code = begin_inside(__func__);
    return end(code ? code : make_stream(out, flags));
}

int cuStreamQuery(void *on) {
    int code = begin_inside(__func__);
    stream *s = stream_of(on);
    if (!code) step_all();
    return end(code ? code : s->captured ? CAPTURING : s->first ? NOT_READY : 0);
}

int cuStreamIsCapturing(void *on, int *status) {
    int code = begin_inside(__func__);
    *status = stream_of(on)->captured;
    return end(code);
}

int cuStreamSynchronize(void *on) {
    int code = begin_inside(__func__);
    stream *s = stream_of(on);
    if (!code && s->captured) code = CAPTURING;
    if (!code) finish(s);
    return end(code);
}

int cuStreamDestroy_v2(void *on) {
    int code = begin_inside(__func__);
    stream_of(on)->live = 0;
    return end(code);
}

int cuEventCreate(void **out, unsigned flags) {
    int code = begin_inside(__func__);
    return end(code ? code : make_event(out, flags));
}

int cuEventRecord(void *e, void *on) {
    int code = begin_inside(__func__);
    event *what = event_of(e);
    stream *s = stream_of(on);
    what->captured = !code && s->captured;
    return end(code || what->captured ? code : record(what, s));
}

int cuEventQuery(void *e) {
    int code = begin_inside(__func__);
    event *what = event_of(e);
    if (!code && what->captured) code = CAPTURED;
    return end(code ? code : query_event(what));
}

int cuEventSynchronize(void *e) {
    int code = begin_inside(__func__);
    event *what = event_of(e);
    if (!code && what->captured) code = CAPTURED;
    if (!code) wait_event(what);
    return end(code);
}

int cuEventDestroy_v2(void *e) {
    int code = begin_inside(__func__);
    destroy_event(event_of(e));
    return end(code);
}

int cuEventElapsedTime(float *ms, void *from, void *to) {
    int code = begin_inside(__func__);
    const event *a = event_of(from), *b = event_of(to);
    if (a->asked != a->done || b->asked != b->done) code = NOT_READY;
    *ms = (float)(b->at - a->at) * 1000.0f / (float)CLOCKS_PER_SEC;
    return end(code);
}

int cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t bytes, void *on) {
    int code = begin_inside(__func__);
    return end(code ? code : copy_up(to, from, bytes, on));
}

int cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t bytes, void *on) {
    int code = begin_inside(__func__);
    return end(code ? code : copy_down(to, from, bytes, on));
}

int cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t bytes, void *on) {
    int code = begin_inside(__func__);
    return end(code ? code : copy_across(to, current(), from, current(), bytes, on));
}

int cuDeviceCanAccessPeer(int *can, int device, int peer) {
    int code = begin(__func__);
    if (device < 0 || device >= device_count || peer < 0 || peer >= device_count)
        broken("no such device");
    *can = peers_can && device != peer;
    return end(code);
}

#ifndef STANDIN_HIP
int cuDeviceGet(int *device, int ordinal) {
    int code = begin(__func__);
    if (!code && (ordinal < 0 || ordinal >= device_count)) code = INVALID_DEVICE;
    if (!code) *device = ordinal;
    return end(code);
}

int cuDevicePrimaryCtxRetain(context **out, int device) {
    int code = begin(__func__);
    if (device < 0 || device >= device_count) broken("no such device");
    if (!code) {
        if (!contexts[device].live) (void)make_context(device, 1);
        contexts[device].retained++;
        *out = &contexts[device];
    }
    return end(code);
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    int code = begin(__func__);
    if (contexts[device].retained == 0) broken("released more often than retained");
    if (--contexts[device].retained == 0) destroy(&contexts[device]);
    return end(code);
}

int cuCtxCreate_v2(context **out, unsigned flags, int device) {
    int code = begin(__func__);
    (void)flags;
    if (!code) stack[depth++] = *out = make_context(device, 0);
    return end(code);
}

int cuCtxDestroy_v2(context *c) {
    int code = begin(__func__);
    if (!c->live || c->primary) broken("not a context that was created");
    destroy(c);
    if (depth > 0 && stack[depth - 1] == c) depth--;
    return end(code);
}

int cuCtxGetCurrent(context **out) {
    int code = begin(__func__);
    *out = current();
    return end(code);
}

int cuCtxGetDevice(int *device) {
    int code = begin(__func__);
    if (!code && !current()) code = INVALID_CONTEXT;
    if (!code) *device = current()->device;
    return end(code);
}

int cuCtxPushCurrent_v2(context *c) {
    int code = begin(__func__);
    if (!c || !c->live) broken("a context that does not live");
    if (depth == STACK) broken("contexts are pushed and never popped");
    if (!code) stack[depth++] = c;
    return end(code);
}

int cuCtxPopCurrent_v2(context **out) {
    int code = begin(__func__);
    if (depth == 0) broken("no context was pushed");
    *out = stack[--depth];
    return end(code);
}

int cuGetErrorName(int code, const char **name) {
    static const struct {
        int code;
        const char *name;
    } names[] = { { 1, "CUDA_ERROR_INVALID_VALUE" },       { 2, "CUDA_ERROR_OUT_OF_MEMORY" },
                  { 4, "CUDA_ERROR_DEINITIALIZED" },       { 46, "CUDA_ERROR_DEVICE_UNAVAILABLE" },
                  { 100, "CUDA_ERROR_NO_DEVICE" },         { 201, "CUDA_ERROR_INVALID_CONTEXT" },
                  { 214, "CUDA_ERROR_ECC_UNCORRECTABLE" }, { 304, "CUDA_ERROR_OPERATING_SYSTEM" },
                  { 600, "CUDA_ERROR_NOT_READY" },         { 700, "CUDA_ERROR_ILLEGAL_ADDRESS" },
                  { 719, "CUDA_ERROR_LAUNCH_FAILED" },     { 801, "CUDA_ERROR_NOT_SUPPORTED" } };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].code == code) {
            *name = names[i].name;
            return 0;
        }
    *name = NULL;
    return INVALID_VALUE;
}

int cuPointerGetAttribute(void *value, int attribute, uintptr_t at) {
    int code = begin_inside(__func__);
    block *b = find(real(at));
    if (attribute != 2) broken("an attribute the stand-in does not know");
    if (!code && !b) code = INVALID_VALUE;
    if (!code) *(unsigned *)value = b->host ? 1 : 2;
    return end(code);
}

int cuMemcpyPeerAsync(uintptr_t to, context *to_of, uintptr_t from, context *from_of, size_t bytes,
                      void *on) {
    int code = begin_inside(__func__);
    if (!to_of->live || !from_of->live) broken("a context that does not live");
    if (!code) code = to_of->lost ? to_of->lost : from_of->lost;
    return end(code ? code : copy_across(to, to_of, from, from_of, bytes, on));
}

typedef struct manner {
    int order, from[2], to[2];
    unsigned flags;
} manner;

int cuMemcpyBatchAsync_v2(uintptr_t *to, uintptr_t *from, size_t *bytes, size_t count, manner *how,
                          size_t *first, size_t manners, void *on) {
    int code = begin_inside(__func__);
    if (!code && !batch_can) code = UNSUPPORTED;
    if (count == 0 || manners != 1 || first[0] != 0) broken("what is how is not said of each copy");
    if (how->order != 1 || how->flags) broken("not in the order of the stream");
    if (!on) broken("a batch on the default stream");
    uint64_t turn = draw(count); /* in no order that one may rely on */
    for (uint64_t i = 0; !code && i < count; i++) {
        size_t n = (size_t)((i + turn) % count);
        if (to[n] & HIDE)
            code = copy_up(to[n], (const void *)from[n], bytes[n], on);
        else
            code = copy_down((void *)to[n], from[n], bytes[n], on);
        batched += !code;
    }
    return end(code);
}

int cuCtxEnablePeerAccess(context *peer, unsigned flags) {
    int code = begin_inside(__func__);
    context *c = current();
    if (!peer->live || flags) broken("a context that does not live, or flags");
    if (!peers_can) broken("the devices cannot reach each other: ask cuDeviceCanAccessPeer");
    for (int i = 0; !code && i < c->peer_count; i++)
        if (c->peers[i] == peer) code = ALREADY;
    if (!code) c->peers[c->peer_count++] = peer;
    return end(code);
}

/* The names without a suffix are the interface of 2010, with 32-bit sizes. */
#    define OLD(name)                                                                              \
        int name(void);                                                                            \
        int name(void) {                                                                           \
            current_call = #name;                                                                  \
            broken("the old interface; the present one has a suffix");                             \
            return INVALID_VALUE;                                                                  \
        }
OLD(cuMemAlloc)
OLD(cuMemFree)
OLD(cuMemGetInfo)
OLD(cuMemGetAddressRange)
OLD(cuMemcpyHtoDAsync)
OLD(cuMemcpyDtoHAsync)
OLD(cuMemcpyDtoDAsync)
OLD(cuStreamDestroy)
OLD(cuEventDestroy)
OLD(cuCtxDestroy)
OLD(cuCtxPushCurrent)
OLD(cuCtxPopCurrent)
OLD(cuDevicePrimaryCtxRelease)
OLD(cuMemcpyBatchAsync)
#endif
