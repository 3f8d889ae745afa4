/* standin_ascend.c: CANN's AscendCL runtime over host memory, for machines without an NPU. A shared
 * library with the functions that examples/backends/ascend.h calls. It does what their
 * documentation says, late, and enforces what it demands: a broken rule aborts with a sentence.
 *
 *   - aclInit comes first; a call that needs a context has one on its thread, of a device that was
 *     not reset; NULL cannot be made current; streams and events belong to the context they are
 *     used in
 *   - background copies begin and end at multiples of 64, in host memory from aclrtMallocHost, in
 *     the direction they name, within the capacity they name; none is between host and host
 *   - memory of another device is reached only where aclrtDeviceEnablePeerAccess was called
 *   - addresses are aligned to 64 and no more, and those of devices are no addresses for the CPU
 *   - copies run some queries after they were queued (drawn), their destination holds garbage until
 *     then; their source in host memory does not change meanwhile; aclrtFree waits for nobody, so
 *     nothing is freed under them; aclrtMemcpy is done at once and waits for no stream either
 *   - what runs on two streams does not touch the same bytes, unless both read; an operator reads
 *     its tensor up to the length rounded up to 32, and 32 bytes more
 *   - events are recorded before they are queried, streams are idle when they are destroyed, and
 *     nothing of a device is left when its last user resets it
 *
 * Environment, read by aclInit: STANDIN_DEVICES (2), STANDIN_BYTES of each (512 MiB),
 * STANDIN_HOST_BYTES page-locked in all (no limit), STANDIN_SEED, STANDIN_DELAY (3 queries at
 * most), STANDIN_PEER (1), STANDIN_DDR (0; 1 = no device has HBM). Built with -DSTANDIN_OLD it
 * lacks what older releases lack.
 *
 * For tests: standin_fail(call, nth, code) makes the nth call from now of that name, or of one in a
 * list of names, (NULL: of any) fail once, and all of them until further notice if nth is -1; calls
 * that free or destroy do their work nevertheless. standin_lose() breaks every
 * device until it is reset. standin_spoil(silent): the next background copy fails when it runs;
 * what is recorded behind it stays NOT_READY, or (silent) completes as if nothing were, and the
 * stream says so to the first who waits for it. */
/* needs: -pthread */
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEVICES = 8,
    CONTEXTS = 64,
    STREAMS = 128,
    EVENTS = 1 << 12,
    EVENTS_OF_DEVICE = 1023, /* of those that synchronise streams */
    BLOCKS = 1 << 14,
    ALIGN = 64,
    TAIL = 32,
    GARBAGE = 0xE7,
    POISON = 0xDB
};
enum { INVALID_PARAM = 100000, REPEATED = 100002, NO_CONTEXT = 107002, BAD_DEVICE = 107001 };
enum { OUT_OF_MEMORY = 207001, NO_EVENT = 207007, SYS_DMA = 507013, BROKEN = 507010 };
enum { HOST_TO_HOST, HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE };
#define HIDE ((uintptr_t)1 << (sizeof(uintptr_t) * 8 - 2)) /* set in device addresses */

typedef struct context {
    int live, device, made; /* made: by aclrtCreateContext */
} context;

typedef struct device {
    int users, lost, reach[DEVICES], events;
    context *first; /* the default context */
    uint64_t used;
} device;

typedef enum job_kind { JOB_COPY, JOB_MARK, JOB_ADD } job_kind;

typedef struct job {
    struct job *next;
    job_kind kind;
    int delay, spoiled;
    unsigned char *to, *from; /* real addresses */
    size_t bytes, reach;      /* reach: what an operator reads */
    uint64_t hash;            /* of a source in host memory */
    int hashed;
    unsigned char add;
    struct event *event;
    uint64_t turn; /* of the event's record */
} job;

typedef struct stream {
    int live, failed, silent; /* a failure nobody was told of */
    context *of;
    job *first, *last;
} stream;

typedef struct event {
    int live, scarce;
    context *of;
    stream *on;
    uint64_t asked, done, broken; /* records queued, passed, behind a failure */
} event;

typedef struct block {
    unsigned char *raw, *at; /* raw NULL = free slot */
    size_t size;
    int device; /* -1: page-locked host memory */
} block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static device devices[DEVICES];
static context contexts[CONTEXTS];
static stream streams[STREAMS];
static event events[EVENTS];
static block blocks[BLOCKS];
static uint32_t next_event, block_top;
static int users, device_count, delay_most, peers_can, no_hbm, spoil;
static uint64_t device_limit, host_limit, host_used;
static uint64_t draws = 88172645463325252u, pageable_bytes, at_once, copies_done, calls_made;
static const char *current_call = "?";
static struct {
    char call[128]; /* "" = any */
    int nth, code, fired;
} plan;
static __thread context *current;
static __thread char message[128];

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

static void drop_jobs(stream *s) { /* they never run */
    while (s->first) {
        job *j = s->first;
        s->first = j->next;
        free(j);
    }
    s->last = NULL;
}

static void lose(int number, int code) {
    devices[number].lost = code;
    for (int i = 0; i < STREAMS; i++)
        if (streams[i].live && streams[i].of->device == number) drop_jobs(&streams[i]);
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
    if (!users && strcmp(call, "aclInit") != 0) broken("aclInit was not called");
    if (plan.nth == 0 || !named(plan.call, call) || (plan.nth > 0 && --plan.nth > 0)) return 0;
    plan.fired = 1;
    if (plan.code == BROKEN && current && current->live) lose(current->device, plan.code);
    return plan.code;
}

static int end(int code) {
    if (code)
        snprintf(message, sizeof message, "EZ9999: %s was told to say %d.\n\tSolution: none.",
                 current_call, code);
    pthread_mutex_unlock(&lock);
    return code;
}

/* The same for calls that need a context: its device's broken state, too. */
static int begin_inside(const char *call) {
    int code = begin(call);
    if (!current) broken("no context is current on this thread");
    if (!current->live) broken("the current context is of a device that was reset");
    return code ? code : devices[current->device].lost;
}

/* ---- memory ---- */
static unsigned char *real(const void *at) {
    return (unsigned char *)((uintptr_t)at & ~HIDE);
}

static size_t round_up(size_t size, size_t unit) {
    return (size + unit - 1) / unit * unit;
}

/* The block that holds a byte, or NULL. */
static block *find(const unsigned char *byte) {
    for (uint32_t i = 0; i < block_top; i++) {
        block *b = &blocks[i];
        if (b->raw && byte >= b->at && byte < b->at + b->size) return b;
    }
    return NULL;
}

static block *within(const unsigned char *at, size_t bytes) {
    block *b = find(at);
    if (b && (size_t)(at - b->at) + bytes > b->size)
        broken("%zu bytes reach past an allocation of %zu", bytes, b->size);
    return b;
}

static int overlap(const unsigned char *a, size_t n, const unsigned char *b, size_t m) {
    return a && b && a < b + m && b < a + n;
}

/* The first job of a stream that reads or writes these bytes. */
static int in_hand_on(const stream *s, const unsigned char *at, size_t bytes, int write) {
    for (const job *j = s->first; j; j = j->next) {
        if (j->kind == JOB_MARK) continue;
        if (overlap(at, bytes, j->to, write && j->reach ? j->reach : j->bytes)) return 1;
        if (write && overlap(at, bytes, j->from, j->bytes)) return 1;
    }
    return 0;
}

static void no_clash(const stream *but, const unsigned char *at, size_t bytes, int write) {
    for (int i = 0; i < STREAMS; i++)
        if (&streams[i] != but && in_hand_on(&streams[i], at, bytes, write))
            broken("touches bytes that a copy or an operator (with the 32 bytes behind its "
                   "tensor) on another stream has in hand, and nothing orders the two");
}

static int take(int number, size_t size, unsigned char **at) {
    uint64_t *used = number < 0 ? &host_used : &devices[number].used;
    uint64_t limit = number < 0 ? host_limit : device_limit;
    uint32_t slot = 0;
    if (size == 0) return INVALID_PARAM;
    if (*used > limit || size > limit - *used) return OUT_OF_MEMORY;
    while (slot < BLOCKS && blocks[slot].raw)
        slot++;
    if (slot == BLOCKS) return OUT_OF_MEMORY;
    block *b = &blocks[slot];
    b->raw = (unsigned char *)malloc(size + 1024);
    if (!b->raw) return OUT_OF_MEMORY;
    b->at = (unsigned char *)round_up((uintptr_t)b->raw, 512) + ALIGN * draw(4);
    b->size = size;
    b->device = number;
    memset(b->at, POISON, size);
    *used += size;
    if (slot >= block_top) block_top = slot + 1;
    *at = b->at;
    return 0;
}

static void give(block *b) {
    *(b->device < 0 ? &host_used : &devices[b->device].used) -= b->size;
    free(b->raw);
    b->raw = NULL;
}

static void give_at(unsigned char *at, int host) {
    block *b = find(at);
    if (!b || b->at != at || (b->device < 0) != host) broken("not an address allocated so");
    if (!host && b->device != current->device) broken("memory of another device");
    for (int i = 0; i < STREAMS; i++)
        if (in_hand_on(&streams[i], b->at, b->size, 1)) broken("freed under a copy or an operator");
    give(b);
}

/* ---- streams and events ---- */
static stream *stream_of(void *handle) {
    stream *s = (stream *)handle;
    if (s < streams || s >= streams + STREAMS || !s->live) broken("a stream that does not live");
    if (s->of != current) broken("the stream is not in the current context");
    return s;
}

static event *event_of(void *handle) {
    event *e = (event *)handle;
    if (e < events || e >= events + EVENTS || !e->live) broken("an event that does not live");
    if (e->of != current) broken("an event of another context");
    return e;
}

static event *recorded(void *handle) {
    event *e = event_of(handle);
    if (!e->asked) broken("an event that was never recorded");
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
            broken("the source of a copy was changed before it was done");
        if (j->spoiled) {
            s->failed = SYS_DMA;
            s->silent = j->spoiled == 2;
        } else
            memcpy(j->to, j->from, j->bytes);
        copies_done++;
    } else if (j->kind == JOB_ADD) {
        for (size_t i = 0; i < j->bytes; i++)
            j->to[i] = (unsigned char)(j->to[i] + j->add);
    } else if (s->failed && !s->silent) {
        j->event->broken = j->turn;
    } else if (j->event->done < j->turn) {
        j->event->done = j->turn;
    }
    free(j);
}

static void step_all(void) { /* time passes whenever somebody looks */
    for (int i = 0; i < STREAMS; i++) {
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

static int wait_stream(stream *s) {
    while (s->first)
        run_first(s);
    int code = s->failed;
    s->failed = 0;
    return code;
}

/* ---- copies ---- */
typedef struct side { /* one end of a copy */
    unsigned char *at;
    block *in; /* NULL: pageable */
    int on_device;
} side;

static side side_of(const void *at, size_t bytes, int on_device) {
    side s = { real(at), NULL, on_device };
    if (!at) broken("a NULL address");
    if (((uintptr_t)at & HIDE ? 1 : 0) != on_device)
        broken("%p is %s memory, the kind says otherwise", at, on_device ? "host" : "device");
    s.in = within(s.at, bytes);
    if (on_device && (!s.in || s.in->device < 0)) broken("device memory that is not allocated");
    if (!on_device && s.in && s.in->device >= 0) broken("a device's memory by the CPU's address");
    return s;
}

static void sides(void *to, size_t capacity, const void *from, size_t bytes, int kind, side *a,
                  side *b) {
    if (kind < HOST_TO_HOST || kind > DEVICE_TO_DEVICE) broken("kind %d", kind);
    if (bytes == 0 || capacity < bytes) broken("%zu bytes into a capacity of %zu", bytes, capacity);
    *a = side_of(to, capacity, kind != HOST_TO_HOST && kind != DEVICE_TO_HOST);
    *b = side_of(from, bytes, kind >= DEVICE_TO_HOST);
    const side *both[2] = { a, b };
    int near = 0, own = current->device;
    for (int i = 0; i < 2; i++) {
        if (!both[i]->on_device) continue;
        int far = both[i]->in->device;
        near |= far == own;
        if (far != own && !devices[own].reach[far])
            broken("memory of device %d from device %d, and peer access was not enabled", far, own);
    }
    if (kind != HOST_TO_HOST && !near) broken("no end is on the current device");
    if (overlap(a->at, bytes, b->at, bytes)) broken("source and destination overlap");
}

static int copy_later(side to, side from, size_t bytes, stream *s) {
    const side *both[2] = { &to, &from };
    for (int i = 0; i < 2; i++) {
        if ((uintptr_t)both[i]->at % ALIGN)
            broken("%s is not at a multiple of 64", i ? "the source" : "the destination");
        if (!both[i]->on_device && !both[i]->in)
            broken("host memory that is not from aclrtMallocHost");
    }
    if (!to.on_device && !from.on_device) broken("in the background from host to host");
    no_clash(s, to.at, bytes, 1);
    no_clash(s, from.at, bytes, 0);
    int fresh = !in_hand_on(s, to.at, bytes, 1);
    job *j = append(s, JOB_COPY);
    j->to = to.at;
    j->from = from.at;
    j->bytes = bytes;
    j->spoiled = spoil;
    spoil = 0;
    j->hashed = !from.on_device;
    if (j->hashed) j->hash = hash(from.at, bytes);
    if (fresh) memset(to.at, GARBAGE, bytes);
    return 0;
}

static int make_event(void **out, int scarce) {
    device *d = &devices[current->device];
    if (scarce && d->events == EVENTS_OF_DEVICE) return NO_EVENT;
    for (uint32_t i = 0; i < EVENTS; i++) {
        event *e = &events[next_event++ % EVENTS];
        if (e->live) continue;
        memset(e, 0, sizeof *e);
        e->live = 1;
        e->of = current;
        e->scarce = scarce;
        d->events += scarce;
        *out = e;
        return 0;
    }
    return NO_EVENT;
}

static void forget_event(const event *e) { /* jobs that would record it go */
    for (int i = 0; i < STREAMS; i++)
        for (job **at = &streams[i].first; *at;) {
            job *j = *at;
            if (j->event != e) {
                streams[i].last = j;
                at = &j->next;
                continue;
            }
            *at = j->next;
            free(j);
            if (!streams[i].first) streams[i].last = NULL;
        }
}

static context *make_context(int number, int made) {
    for (int i = 0; i < CONTEXTS; i++) {
        context *c = &contexts[i];
        if (c->live) continue;
        c->live = 1;
        c->device = number;
        c->made = made;
        return c;
    }
    broken("too many contexts for the test itself");
    return NULL;
}

static void no_rest(const context *c) {
    for (int i = 0; i < STREAMS; i++)
        if (streams[i].live && streams[i].of == c) broken("a stream of it was not destroyed");
    for (int i = 0; i < EVENTS; i++)
        if (events[i].live && events[i].of == c) broken("an event of it was not destroyed");
}

static void start(void) {
    device_count = (int)env("STANDIN_DEVICES", 2);
    if (device_count > DEVICES) device_count = DEVICES;
    device_limit = env("STANDIN_BYTES", (uint64_t)512 << 20);
    host_limit = env("STANDIN_HOST_BYTES", UINT64_MAX);
    delay_most = (int)env("STANDIN_DELAY", 3);
    peers_can = (int)env("STANDIN_PEER", 1);
    no_hbm = (int)env("STANDIN_DDR", 0);
    if (getenv("STANDIN_SEED")) draws = env("STANDIN_SEED", 1) * 2 + 1;
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

void standin_lose(void) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < DEVICES; i++)
        if (devices[i].users) lose(i, BROKEN);
    pthread_mutex_unlock(&lock);
}

void standin_spoil(int silent) {
    pthread_mutex_lock(&lock);
    spoil = silent ? 2 : 1;
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

uint64_t standin_objects(void) { /* streams, events, contexts, and users of devices */
    uint64_t count = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < STREAMS; i++)
        count += (uint64_t)streams[i].live;
    for (int i = 0; i < EVENTS; i++)
        count += (uint64_t)events[i].live;
    for (int i = 0; i < CONTEXTS; i++)
        count += (uint64_t)contexts[i].live;
    for (int i = 0; i < DEVICES; i++)
        count += (uint64_t)devices[i].users;
    pthread_mutex_unlock(&lock);
    return count;
}

uint64_t standin_count(const char *what) {
    if (strcmp(what, "pageable") == 0) return pageable_bytes;
    if (strcmp(what, "at once") == 0) return at_once;
    if (strcmp(what, "copies") == 0) return copies_done;
    if (strcmp(what, "users") == 0) return (uint64_t)users;
    return calls_made;
}

/* An operator that adds to every byte. `on` and `at` as the runtime's calls take them. */
int standin_add(void *on, void *at, size_t bytes, unsigned char add) {
    pthread_mutex_lock(&lock);
    current_call = "an operator";
    stream *s = (stream *)on; /* whose context need not be current: as a launch, but simpler */
    if (s < streams || s >= streams + STREAMS || !s->live) broken("a stream that does not live");
    int code = devices[s->of->device].lost;
    if (!code) {
        size_t reach = round_up(bytes, TAIL) + TAIL;
        side tensor = side_of(at, reach, 1);
        if ((uintptr_t)at % ALIGN) broken("a tensor that is not at a multiple of 64");
        if (tensor.in->device != s->of->device) broken("memory of another device");
        no_clash(s, tensor.at, bytes, 1);
        no_clash(s, tensor.at, reach, 0);
        job *j = append(s, JOB_ADD);
        j->to = tensor.at;
        j->bytes = bytes;
        j->reach = reach;
        j->add = add;
    }
    pthread_mutex_unlock(&lock);
    return code;
}

/* ---- the runtime's names ---- */
int aclInit(const char *config) {
    int code = begin(__func__);
    if (config) broken("a configuration the stand-in does not know");
    if (code) return end(code);
    start();
    return end(users++ ? REPEATED : 0);
}

int aclFinalize(void) {
    int code = begin(__func__);
    users = 0;
    return end(code);
}

const char *aclGetRecentErrMsg(void) {
    static __thread char last[sizeof message];
    memcpy(last, message, sizeof last);
    message[0] = 0;
    return last[0] ? last : NULL;
}

int aclrtGetDeviceCount(uint32_t *count) {
    int code = begin(__func__);
    if (!code) *count = (uint32_t)device_count;
    return end(code);
}

int aclrtSetDevice(int32_t number) {
    int code = begin(__func__);
    if (!code && (number < 0 || number >= device_count)) code = BAD_DEVICE;
    if (!code) code = devices[number].lost;
    if (code) return end(code);
    device *d = &devices[number];
    if (d->users++ == 0) d->first = make_context(number, 0);
    current = d->first;
    return end(0);
}

int aclrtResetDevice(int32_t number) {
    int code = begin(__func__);
    device *d = &devices[number];
    if (d->users == 0) broken("reset more often than set");
    if (--d->users > 0) return end(code);
    no_rest(d->first);
    for (int i = 0; i < CONTEXTS; i++)
        if (contexts[i].live && contexts[i].made && contexts[i].device == number)
            broken("a context of it was not destroyed");
    for (uint32_t i = 0; i < block_top; i++)
        if (blocks[i].raw && blocks[i].device == number) give(&blocks[i]);
    d->first->live = 0;
    memset(d, 0, sizeof *d);
    return end(code);
}

int aclrtGetDevice(int32_t *number) {
    int code = begin(__func__);
    if (!code && !current) code = NO_CONTEXT;
    if (!code) *number = current->device;
    return end(code);
}

int aclrtCreateContext(context **out, int32_t number) {
    int code = begin(__func__);
    if (!code && (number < 0 || number >= device_count)) code = BAD_DEVICE;
    if (!code) *out = current = make_context(number, 1);
    return end(code);
}

int aclrtDestroyContext(context *c) {
    int code = begin(__func__);
    if (!c->live || !c->made) broken("not a context that was created");
    no_rest(c);
    c->live = 0;
    if (current == c) current = NULL;
    return end(code);
}

int aclrtGetCurrentContext(context **out) {
    int code = begin(__func__);
    if (!code && (!current || !current->live)) code = NO_CONTEXT;
    if (!code) *out = current;
    return end(code);
}

int aclrtSetCurrentContext(context *c) {
    int code = begin(__func__);
    if (!c) broken("NULL is no context");
    if (!c->live) broken("a context of a device that was reset");
    if (!code) current = c;
    return end(code);
}

int aclrtGetMemInfo(int attribute, size_t *available, size_t *total) {
    int code = begin_inside(__func__);
    if (attribute != 0 && attribute != 1) broken("an attribute the stand-in does not know");
    if (!code) {
        *total = attribute == 1 && no_hbm ? 0 : (size_t)device_limit;
        *available = *total ? (size_t)(device_limit - devices[current->device].used) : 0;
    }
    return end(code);
}

static int give_out(int code, int number, size_t size, void **out) {
    unsigned char *at = NULL;
    if (!code) code = take(number, size, &at);
    if (!code) *out = (void *)((uintptr_t)at | (number < 0 ? 0 : HIDE));
    return end(code);
}

int aclrtMalloc(void **mem, size_t size, int policy) {
    int code = begin_inside(__func__);
    if (policy < 0 || policy > 7) broken("policy %d", policy);
    return give_out(code, current->device, size ? round_up(size, TAIL) + TAIL : 0, mem);
}

int aclrtFree(void *mem) {
    int code = begin_inside(__func__);
    if (!((uintptr_t)mem & HIDE)) broken("not an address of device memory");
    give_at(real(mem), 0);
    return end(code);
}

int aclrtMallocHost(void **host, size_t size) {
    int code = begin_inside(__func__);
    return give_out(code, -1, size, host);
}

int aclrtFreeHost(void *host) {
    int code = begin_inside(__func__);
    give_at((unsigned char *)host, 1);
    return end(code);
}

int aclrtMemcpy(void *to, size_t capacity, const void *from, size_t bytes, int kind) {
    int code = begin_inside(__func__);
    side a, b;
    sides(to, capacity, from, bytes, kind, &a, &b);
    no_clash(NULL, a.at, bytes, 1);
    no_clash(NULL, b.at, bytes, 0);
    if (code) return end(code);
    memcpy(a.at, b.at, bytes);
    at_once++;
    if (!a.in || !b.in) pageable_bytes += bytes;
    return end(0);
}

int aclrtMemcpyAsync(void *to, size_t capacity, const void *from, size_t bytes, int kind,
                     void *on) {
    int code = begin_inside(__func__);
    stream *s = stream_of(on);
    side a, b;
    sides(to, capacity, from, bytes, kind, &a, &b);
    return end(code ? code : copy_later(a, b, bytes, s));
}

int aclrtCreateStream(void **out) {
    int code = begin_inside(__func__);
    int i = 0;
    while (i < STREAMS && streams[i].live)
        i++;
    if (!code && i == STREAMS) code = 207008; /* no stream resource */
    if (code) return end(code);
    memset(&streams[i], 0, sizeof streams[i]);
    streams[i].live = 1;
    streams[i].of = current;
    *out = &streams[i];
    return end(0);
}

int aclrtSynchronizeStream(void *on) {
    int code = begin_inside(__func__);
    stream *s = stream_of(on);
    return end(code ? code : wait_stream(s));
}

int aclrtDestroyStream(void *on) {
    int code = begin_inside(__func__);
    stream *s = stream_of(on);
    if (s->first && !plan.fired) broken("work is left on it: wait for it first");
    drop_jobs(s);
    s->live = 0;
    return end(code);
}

int aclrtCreateEvent(void **out) {
    int code = begin_inside(__func__);
    return end(code ? code : make_event(out, 1));
}

int aclrtDestroyEvent(void *handle) {
    int code = begin_inside(__func__);
    event *e = event_of(handle);
    forget_event(e);
    e->live = 0;
    devices[current->device].events -= e->scarce;
    return end(code);
}

int aclrtRecordEvent(void *handle, void *on) {
    int code = begin_inside(__func__);
    event *e = event_of(handle);
    stream *s = stream_of(on);
    if (code) return end(code);
    job *j = append(s, JOB_MARK);
    j->event = e;
    j->turn = ++e->asked;
    e->on = s;
    return end(0);
}

int aclrtQueryEventStatus(void *handle, int *status) {
    int code = begin_inside(__func__);
    event *e = recorded(handle);
    if (code) return end(code);
    step_all();
    *status = e->done == e->asked; /* 1 = complete, the other way round than aclrtQueryEvent */
    return end(0);
}

int aclrtSynchronizeEvent(void *handle) {
    int code = begin_inside(__func__);
    event *e = recorded(handle);
    while (!code && e->done != e->asked && e->broken != e->asked && e->on->first)
        run_first(e->on);
    if (!code && e->done != e->asked) code = SYS_DMA;
    return end(code);
}

int aclrtDeviceCanAccessPeer(int32_t *can, int32_t number, int32_t peer) {
    int code = begin(__func__);
    if (number < 0 || number >= device_count || peer < 0 || peer >= device_count || peer == number)
        broken("no such pair of devices");
    if (!code) *can = peers_can;
    return end(code);
}

int aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t flags) {
    int code = begin_inside(__func__);
    if (peer < 0 || peer >= device_count || peer == current->device || flags)
        broken("no such peer, or flags");
    if (!peers_can) broken("the devices cannot reach each other: ask aclrtDeviceCanAccessPeer");
    if (!code) devices[current->device].reach[peer] = 1;
    return end(code);
}

#ifndef STANDIN_OLD
int aclFinalizeReference(uint64_t *left) {
    int code = begin(__func__);
    users--;
    if (left) *left = (uint64_t)users;
    return end(code);
}

int aclrtMallocAlign32(void **mem, size_t size, int policy) {
    int code = begin_inside(__func__);
    if (policy < 0 || policy > 7) broken("policy %d", policy);
    return give_out(code, current->device, round_up(size, TAIL), mem);
}

int aclrtCreateEventWithFlag(void **out, uint32_t flag) {
    int code = begin_inside(__func__);
    if (flag == 0 || flag & ~0x3Bu) broken("flag %#x", flag);
    return end(code ? code : make_event(out, (int)(flag & 1)));
}

int aclrtStreamQuery(void *on, int *status) {
    int code = begin_inside(__func__);
    stream *s = stream_of(on);
    if (code) return end(code);
    step_all();
    *status = s->first != NULL; /* 0 = complete */
    return end(0);
}

typedef struct attributes {
    uint32_t id;
    int type;
    uint32_t page, reserved[4];
} attributes;

int aclrtPointerGetAttributes(const void *at, attributes *out) {
    int code = begin_inside(__func__);
    block *b = find(real(at));
    if (!code) out->type = !b ? 2 : b->device >= 0; /* unregistered, device, host */
    return end(code);
}
#endif
