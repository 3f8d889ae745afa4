/* bench_trace.c - a KV cache of equal blocks under a trace of requests.
 *
 * The trace is a JSONL file, one request a line, "hash_ids" naming the blocks of its prefix in
 * order: TNM_TRACE in the environment, else ../shared/traces/kv_synthetic.jsonl beside the
 * repository, else one of the same shape is made up here. Each reference pins its block with READ
 * and lets go; the first one of a block writes it (DISCARD). Blocks are 4 KiB on paper, and tier 0
 * holds exactly so many.
 *
 * Without foresight every single reference must agree with a textbook LRU run beside it; whether
 * it hits is asked with TNM_IF_READY before the pin. On the known file the ratios must also be
 * those of the published table. A second run has the blocks adopted below, where none is dirty.
 *
 * With foresight of W requests a request is a step of lane 0, and each block's next use within the
 * next W requests is announced with tnm_prefetch and TNM_SURE (of each block only the nearest is
 * told: when its request comes into sight, or when the use before it is over). tnm_pump is never
 * called. A reference is a hit only if no load of its block was admitted since the reference
 * before: what a prefetch brought does not count, whenever it ran. The floor is a plain simulation
 * that evicts by LRU among the blocks no known request will use; it falls once the window holds
 * more than the cache, and the engine must not. It is taken from the published table where that has
 * it, else simulated here, in three digits both. The blocks are adopted, so that all cost the same
 * to lose and hits are what there is to win; with written ones the engine weighs the cost of
 * writing them down too, and its hits are told in a comment.
 */
#include "bench.h"
#include <errno.h>

enum { SIZES = 6, WINDOWS = 3, BLOCK = 4096, NONE = -1 };

static const int cache_blocks[SIZES] = { 439, 878, 2196, 4392, 8784, 21962 };
static const int window[WINDOWS] = { 10, 100, 1000 };

typedef struct {
    int *block;   /* of each reference */
    int *request; /* of each reference */
    int *next;    /* the block's next reference, or NONE */
    int *begin;   /* of each request: its first reference; one more at the end */
    int refs, requests, blocks;
    int refs_max, requests_max;
    const char *name;
} trace;

/* ---- reading ---- */

static void *grow(void *array, int *max, int used, size_t size) {
    void *bigger;
    if (used < *max) return array;
    *max = *max ? 2 * *max : 4096;
    bigger = realloc(array, (size_t)*max * size);
    if (!bigger) bench_die("out of memory");
    return bigger;
}

static void add_request(trace *t) {
    t->begin = (int *)grow(t->begin, &t->requests_max, t->requests + 1, sizeof *t->begin);
    t->begin[t->requests++] = t->refs;
}

static void add_reference(trace *t, long id) {
    if (id < 0 || id > 100000000) bench_die("a hash id is out of range");
    t->block = (int *)grow(t->block, &t->refs_max, t->refs, sizeof *t->block);
    t->block[t->refs++] = (int)id;
}

/* One line: "hash_ids": [1, 2, 3]. Anything else in it is skipped. */
static void read_line(trace *t, const char *line) {
    const char *at = strstr(line, "\"hash_ids\"");
    if (!at || !(at = strchr(at, '['))) bench_die("a line of the trace has no hash_ids");
    add_request(t);
    for (at++; *at && *at != ']';) {
        char *end;
        long id;
        errno = 0;
        id = strtol(at, &end, 10);
        if (end == at || errno) bench_die("a hash id is not a number");
        add_reference(t, id);
        at = end + strspn(end, ", \t");
    }
    if (*at != ']') bench_die("a line of the trace is cut short");
}

static void read_file(trace *t, FILE *f) {
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, f) > 0) {
        if (strspn(line, " \t\r\n") < strlen(line)) read_line(t, line);
    }
    free(line);
}

static void made_up(void *of, int id, int first) {
    trace *t = (trace *)of;
    if (first) add_request(t);
    add_reference(t, id);
}

/* Ids become 0 .. blocks-1 in order of appearance; next references are linked backwards. */
static void finish(trace *t) {
    int most = 0, *name, *last;
    for (int i = 0; i < t->refs; i++)
        most = t->block[i] > most ? t->block[i] : most;
    name = (int *)bench_alloc((size_t)most + 1, sizeof *name);
    last = (int *)bench_alloc((size_t)most + 1, sizeof *last);
    t->next = (int *)bench_alloc((size_t)t->refs, sizeof *t->next);
    t->request = (int *)bench_alloc((size_t)t->refs, sizeof *t->request);
    for (int i = 0; i < t->refs; i++) {
        int *known = &name[t->block[i]];
        if (*known == 0) *known = ++t->blocks;
        t->block[i] = *known - 1;
    }
    for (int b = 0; b < t->blocks; b++)
        last[b] = NONE;
    for (int i = t->refs - 1; i >= 0; i--) {
        t->next[i] = last[t->block[i]];
        last[t->block[i]] = i;
    }
    add_request(t);
    t->requests--; /* the end of the last one */
    for (int r = 0; r < t->requests; r++) {
        for (int i = t->begin[r]; i < t->begin[r + 1]; i++)
            t->request[i] = r;
    }
    free(name);
    free(last);
}

static void load(trace *t) {
    const char *path = getenv("TNM_TRACE");
    FILE *f;
    memset(t, 0, sizeof *t);
    t->name = path ? path : "../shared/traces/kv_synthetic.jsonl";
    f = fopen(t->name, "r");
    if (path && !f) bench_die("TNM_TRACE names a file that cannot be read");
    if (f) {
        read_file(t, f);
        fclose(f);
    } else {
        t->name = "made up here";
        bench_talks(made_up, t);
    }
    if (t->refs == 0) bench_die("the trace is empty");
    finish(t);
}

/* ---- the textbook ---- */

typedef struct {
    int *prev, *next; /* of each block; index `blocks` is the head of the ring */
    char *in;
    int blocks, used, room;
} ring;

static void ring_unlink(ring *l, int b) {
    l->next[l->prev[b]] = l->next[b];
    l->prev[l->next[b]] = l->prev[b];
}

static void ring_front(ring *l, int b) {
    int head = l->blocks;
    l->prev[b] = head;
    l->next[b] = l->next[head];
    l->prev[l->next[b]] = b;
    l->next[head] = b;
}

static void ring_open(ring *l, int blocks, int room) {
    l->prev = (int *)bench_alloc((size_t)blocks + 1, sizeof *l->prev);
    l->next = (int *)bench_alloc((size_t)blocks + 1, sizeof *l->next);
    l->in = (char *)bench_alloc((size_t)blocks + 1, 1);
    l->blocks = blocks;
    l->prev[blocks] = l->next[blocks] = blocks;
    l->used = 0;
    l->room = room;
}

static void ring_close(ring *l) {
    free(l->prev);
    free(l->next);
    free(l->in);
}

static int lru_reference(const trace *t, int room, char *hit) {
    ring l;
    int hits = 0;
    ring_open(&l, t->blocks, room);
    for (int i = 0; i < t->refs; i++) {
        int b = t->block[i];
        hit[i] = l.in[b];
        hits += hit[i];
        if (l.in[b]) {
            ring_unlink(&l, b);
        } else if (l.used == room) {
            int old = l.prev[l.blocks];
            ring_unlink(&l, old);
            l.in[old] = 0;
        } else {
            l.used++;
        }
        l.in[b] = 1;
        ring_front(&l, b);
    }
    ring_close(&l);
    return hits;
}

/* ---- farthest next use: a heap of (when, block), stale entries left in it ---- */

typedef struct {
    int when, block;
} mark;

typedef struct {
    mark *m;
    int count, max;
} heap;

static void heap_push(heap *h, int when, int block) {
    int i;
    h->m = (mark *)grow(h->m, &h->max, h->count, sizeof *h->m);
    for (i = h->count++; i > 0 && h->m[(i - 1) / 2].when < when; i = (i - 1) / 2) {
        h->m[i] = h->m[(i - 1) / 2];
    }
    h->m[i].when = when;
    h->m[i].block = block;
}

static void heap_pop(heap *h) {
    mark last = h->m[--h->count];
    int i = 0, child;
    while ((child = 2 * i + 1) < h->count) {
        if (child + 1 < h->count && h->m[child + 1].when > h->m[child].when) child++;
        if (h->m[child].when <= last.when) break;
        h->m[i] = h->m[child];
        i = child;
    }
    if (h->count) h->m[i] = last;
}

/* Belady's optimum that may decline to admit a block. */
static int optimum(const trace *t, int room) {
    heap h = { NULL, 0, 0 };
    int *due = (int *)bench_alloc((size_t)t->blocks, sizeof *due), used = 0, hits = 0;
    for (int b = 0; b < t->blocks; b++)
        due[b] = NONE; /* not held */
    for (int i = 0; i < t->refs; i++) {
        int b = t->block[i], when = t->next[i] == NONE ? t->refs : t->next[i];
        if (due[b] != NONE) {
            hits++;
        } else if (used < room) {
            used++;
        } else {
            while (due[h.m[0].block] != h.m[0].when)
                heap_pop(&h);
            if (h.m[0].when <= when) continue; /* declined */
            due[h.m[0].block] = NONE;
            heap_pop(&h);
        }
        due[b] = when;
        heap_push(&h, when, b);
    }
    free(due);
    free(h.m);
    return hits;
}

/* ---- two plain simulations with foresight: LRU among the held blocks without a known use; when
 * all have one, the floor takes the least recent of them, the guide takes the farthest ---- */

typedef struct {
    const trace *t;
    ring all, idle; /* held blocks, and those without a known use, by recency */
    heap known;     /* stale entries too: checked against `held` and `due` */
    int *due;       /* the known next reference of each block, or NONE */
    char *held;
    int used, room, visible; /* requests below `visible` are known */
    int guide;
} plain;

static void plain_know(plain *p, int b, int ref) {
    if (p->held[b] && p->due[b] == NONE) ring_unlink(&p->idle, b);
    p->due[b] = ref;
    heap_push(&p->known, ref, b);
}

static int plain_farthest(plain *p) {
    heap *h = &p->known;
    while (!p->held[h->m[0].block] || p->due[h->m[0].block] != h->m[0].when)
        heap_pop(h);
    return h->m[0].block;
}

static void plain_evict(plain *p) {
    int head = p->idle.blocks, old = p->idle.prev[head];
    if (old != head) {
        ring_unlink(&p->idle, old);
    } else if (p->guide) {
        old = plain_farthest(p);
    } else {
        old = p->all.prev[head];
    }
    ring_unlink(&p->all, old);
    p->held[old] = 0;
    p->used--;
}

static int plain_reference(plain *p, int ref) {
    const trace *t = p->t;
    int b = t->block[ref], next = t->next[ref], hit = p->held[b];
    if (hit && p->due[b] == NONE) ring_unlink(&p->idle, b);
    if (hit) {
        ring_unlink(&p->all, b);
    } else {
        if (p->used == p->room) plain_evict(p);
        p->held[b] = 1;
        p->used++;
    }
    p->due[b] = NONE;
    ring_front(&p->all, b);
    ring_front(&p->idle, b);
    if (next != NONE && t->request[next] < p->visible) plain_know(p, b, next);
    return hit;
}

static int plain_foresight(const trace *t, int room, int w, int guide) {
    plain p;
    char *met = (char *)bench_alloc((size_t)t->blocks, 1);
    int hits = 0;
    memset(&p, 0, sizeof p);
    p.t = t;
    p.room = room;
    p.guide = guide;
    p.due = (int *)bench_alloc((size_t)t->blocks, sizeof *p.due);
    p.held = (char *)bench_alloc((size_t)t->blocks, 1);
    for (int b = 0; b < t->blocks; b++)
        p.due[b] = NONE;
    ring_open(&p.idle, t->blocks, room);
    ring_open(&p.all, t->blocks, room);
    for (int r = 0; r < t->requests; r++) {
        for (; p.visible <= r + w && p.visible < t->requests; p.visible++) {
            for (int i = t->begin[p.visible]; i < t->begin[p.visible + 1]; i++) {
                int b = t->block[i];
                if (met[b] && p.due[b] == NONE) plain_know(&p, b, i);
            }
        }
        for (int i = t->begin[r]; i < t->begin[r + 1]; i++) {
            hits += plain_reference(&p, i);
            met[t->block[i]] = 1;
        }
    }
    ring_close(&p.idle);
    ring_close(&p.all);
    free(p.due);
    free(p.held);
    free(p.known.m);
    free(met);
    return hits;
}

/* ---- the engine at play ---- */

typedef struct {
    const trace *t;
    bench_paper paper;
    tnm_ctx *ctx;
    tnm_tensor *tensor;
    char *label;  /* one byte each: an event's label tells its block */
    char *loaded; /* a load was admitted since the block's last reference */
    char *met;    /* referenced before, so it holds something */
    char *told;   /* a next use is announced */
    tnm_use *use;
    int visible, clean;
} play;

static void on_event(void *user, const tnm_event *event) {
    play *p = (play *)user;
    if (event->kind != TNM_EVENT_LOAD || event->tier != 0 || !event->label) return;
    p->loaded[event->label - p->label] = 1;
}

/* With `clean` the blocks lie below from the start; else each is written at its first reference. */
static void play_open(play *p, const trace *t, int room, int clean, int watched) {
    tnm_tier_desc tiers[2];
    tnm_desc desc;
    size_t n = (size_t)t->blocks;
    memset(p, 0, sizeof *p);
    memset(&desc, 0, sizeof desc);
    p->t = t;
    p->clean = clean;
    p->tensor = (tnm_tensor *)bench_alloc(n, sizeof *p->tensor);
    p->use = (tnm_use *)bench_alloc(n, sizeof *p->use);
    p->label = (char *)bench_alloc(n, 1);
    p->loaded = (char *)bench_alloc(n, 1);
    p->met = (char *)bench_alloc(n, 1);
    p->told = (char *)bench_alloc(n, 1);
    tiers[0] = bench_paper_tier(&p->paper, "device", (uint64_t)room * BLOCK);
    tiers[1] = bench_paper_tier(&p->paper, "host", 0);
    desc.tiers = tiers;
    desc.tier_count = 2;
    desc.user = p;
    if (watched) desc.trace = on_event;
    p->ctx = bench_create(&desc);
    for (int b = 0; b < t->blocks; b++) {
        p->tensor[b] = clean ? bench_adopt(p->ctx, 1, BLOCK, (uint64_t)b * BLOCK, p->label + b)
                             : bench_tensor(p->ctx, BLOCK, p->label + b);
    }
}

static void play_close(play *p) {
    bench_ok(tnm_destroy(p->ctx), "tnm_destroy");
    free(p->tensor);
    free(p->use);
    free(p->label);
    free(p->loaded);
    free(p->met);
    free(p->told);
}

static void play_touch(play *p, int b) {
    bench_touch(p->ctx, p->tensor[b], p->met[b] || p->clean ? TNM_READ : TNM_DISCARD);
    p->met[b] = 1;
}

/* Is it here? Asking starts nothing. */
static int play_ready(play *p, int b) {
    tnm_use use = bench_use(p->tensor[b], TNM_READ, 0);
    tnm_pinned pinned;
    tnm_result r;
    use.flags = TNM_IF_READY;
    r = tnm_try_pin(p->ctx, &use, 1, &pinned);
    if (r == TNM_ABSENT) return 0;
    bench_ok(r, "tnm_try_pin");
    bench_ok(tnm_unpin(p->ctx, &pinned, 1, 0), "tnm_unpin");
    return 1;
}

/* Hits without foresight. *agreed counts the references on which engine and textbook agree, less
 * what the tier's own hit counter is off. */
static int play_lru(const trace *t, int room, int clean, const char *expected, int *agreed) {
    static play p;
    int hits = 0, counted;
    play_open(&p, t, room, clean, 0);
    *agreed = 0;
    for (int i = 0; i < t->refs; i++) {
        int b = t->block[i], hit = p.met[b] && play_ready(&p, b);
        if (!hit) play_touch(&p, b);
        hits += hit;
        *agreed += hit == expected[i];
    }
    counted = (int)bench_stats(p.ctx, 0).hits;
    *agreed -= counted > hits ? counted - hits : hits - counted;
    play_close(&p);
    return hits;
}

static void tell(play *p, int count) {
    bench_ok(tnm_prefetch(p->ctx, 0, p->use, count), "tnm_prefetch");
}

static void foresee(play *p, int b, int request, int slot) {
    tnm_access access = p->met[b] || p->clean ? TNM_READ : TNM_DISCARD;
    p->use[slot] = bench_use(p->tensor[b], access, (uint64_t)request);
    p->use[slot].flags = TNM_SURE;
    p->told[b] = 1;
}

/* Requests up to `until` come into sight: all their blocks that have no nearer known use. */
static void come_into_sight(play *p, int until) {
    const trace *t = p->t;
    for (; p->visible <= until && p->visible < t->requests; p->visible++) {
        int count = 0;
        for (int i = t->begin[p->visible]; i < t->begin[p->visible + 1]; i++) {
            int b = t->block[i];
            if (!p->told[b]) foresee(p, b, p->visible, count++);
        }
        if (count) tell(p, count);
    }
}

static int play_reference(play *p, int i) {
    const trace *t = p->t;
    int b = t->block[i], next = t->next[i], met = p->met[b], hit;
    play_touch(p, b);
    hit = met && !p->loaded[b];
    p->loaded[b] = 0;
    p->told[b] = 0;
    if (next != NONE && t->request[next] < p->visible) {
        foresee(p, b, t->request[next], 0);
        tell(p, 1);
    }
    return hit;
}

static int play_window(const trace *t, int room, int w, int clean) {
    static play p;
    int hits = 0;
    play_open(&p, t, room, clean, 1);
    for (int r = 0; r < t->requests; r++) {
        bench_ok(tnm_step(p.ctx, 0, (uint64_t)r), "tnm_step");
        come_into_sight(&p, r + w);
        for (int i = t->begin[r]; i < t->begin[r + 1]; i++)
            hits += play_reference(&p, i);
    }
    play_close(&p);
    return hits;
}

/* ---- the published figures, for the published file ---- */

static const double published_lru[SIZES] = { .0343, .0758, .1548, .2598, .3905, .5888 };
/* The third row's first is published as .172, which is .17148 rounded twice. */
static const double published_floor[SIZES][WINDOWS] = {
    { .067, .119, .059 },
    { .095, .190, .115 },
    { .171, .254, .229 },
    { .269, .328, .407 },
};

static int is_published(const trace *t) {
    return t->requests == 3993 && t->refs == 121877 && t->blocks == 43924;
}

static double digits(double x, double scale) { /* as published: 10,000 for four of them */
    return (double)(long)(x * scale + 0.5) / scale;
}

static double report_lru(const trace *t, int size) {
    int room = cache_blocks[size], agreed, hits = 0;
    char *hit = (char *)bench_alloc((size_t)t->refs, 1), name[64];
    int expected = lru_reference(t, room, hit);
    double ratio, refs = t->refs;
    for (int clean = 1; clean >= 0; clean--) {
        hits = play_lru(t, room, clean, hit, &agreed);
        snprintf(name, sizeof name, "trace_lru_%s%d", clean ? "clean_" : "", room);
        printf("# %s: engine %d hits, textbook %d, optimum %.4f\n", name, hits, expected,
               optimum(t, room) / refs);
        bench_line(name, hits / refs, "hit_ratio", "textbook_each_reference", agreed / refs,
                   BENCH_EQ, 1);
    }
    free(hit);
    ratio = hits / refs;
    if (is_published(t)) {
        snprintf(name, sizeof name, "trace_lru_%d_published", room);
        bench_line(name, ratio, "hit_ratio", "published",
                   digits(ratio, 10000) / published_lru[size], BENCH_EQ, 1);
    }
    return ratio;
}

static double report_window(const trace *t, int size, int w) {
    int room = cache_blocks[size], ahead = window[w];
    double refs = t->refs, ratio = play_window(t, room, ahead, 1) / refs;
    double plain_ratio = plain_foresight(t, room, ahead, 0) / refs;
    int published = is_published(t) && published_floor[size][w] > 0;
    double floor = published ? published_floor[size][w] : digits(plain_ratio, 1000);
    char name[64];
    snprintf(name, sizeof name, "trace_window_%d_%d", ahead, room);
    bench_line(name, ratio, "hit_ratio", published ? "published_floor" : "plain_simulation",
               digits(ratio, 1000) / floor, BENCH_GE, 1);
    printf("# %s: plain simulation %.5f, farthest first among the known %.5f; written blocks "
           "%.5f\n",
           name, plain_ratio, plain_foresight(t, room, ahead, 1) / refs,
           play_window(t, room, ahead, 0) / refs);
    return ratio;
}

static void report_windows(const trace *t, int size, double lru) {
    double before = lru, least = 1e9;
    char name[64];
    for (int w = 0; w < WINDOWS; w++) {
        double ratio = report_window(t, size, w);
        if (ratio / before < least) least = ratio / before;
        before = ratio;
    }
    snprintf(name, sizeof name, "trace_windows_grow_%d", cache_blocks[size]);
    bench_line(name, least, "of_the_smaller_window", "smaller_window", least, BENCH_GE, 1);
}

int main(void) {
    static trace t;
    bench_machine("trace");
    load(&t);
    printf("# trace \"%s\": %d requests, %d references, %d blocks%s\n", t.name, t.requests, t.refs,
           t.blocks, is_published(&t) ? ", the published one" : "");
    for (int s = 0; s < SIZES; s++)
        report_windows(&t, s, report_lru(&t, s));
    free(t.block);
    free(t.request);
    free(t.next);
    free(t.begin);
    return 0;
}
