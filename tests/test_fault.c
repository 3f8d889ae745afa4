/* needs: -pthread */
/* Every n-th effect fails: once and for ever, in every manner, in every scenario; and two of them.
 * What must hold: the call says so, or nobody needs to be told; nothing is lost but what lay on a
 * device that is lost; tnm_check is content; the same call succeeds once the fault is over;
 * everything ends and is given back.
 *
 * A scenario is a story (a program without a branch) on a tree of tiers under an option.
 *
 *   test_fault                       the gate: a part of all of it
 *   test_fault --all [--part I/N]    every single fault of every scenario
 *   test_fault --pairs [--part I/N]  every pair of faults of the short ones
 *   test_fault --scenario S [--pairs] [--at N[:MANNER][+] [--at ...]] [--loud]
 *   test_fault --list
 *
 * A finding prints the line that repeats it. */
#if defined(__linux__)
#    define _GNU_SOURCE
#endif
#include "faults.h"
#include <setjmp.h>
#include <signal.h>
#ifndef _WIN32
#    include <unistd.h>
#endif

enum { ONE = 1280, MOST = 24, PATIENCE = 700, MODEL = 16 * 1024 };

/* ---- trees, options ---- */
enum {
    TREE_ONE,
    TREE_TWO,
    TREE_BUILTIN,
    TREE_THREE,
    TREE_ROOTS,
    TREE_PEERS,
    TREE_FILE,
    TREE_DEVICE_FILE,
    TREE_ROOTS_FILE,
    TREES
};
static const char *const tree_names[TREES] = { "one",   "two",  "builtin",     "three",     "roots",
                                               "peers", "file", "device_file", "roots_file" };
enum {
    OPT_SYNC,
    OPT_LATE,
    OPT_WAIT,
    OPT_FIXED,
    OPT_SEGMENTS,
    OPT_SCRUB,
    OPT_AUTO,
    OPT_RING,
    OPT_RING_DIRECT,
    OPT_DIRECT,
    OPTS
};
static const char *const opt_names[OPTS] = { "sync",  "late", "wait", "fixed",       "segments",
                                             "scrub", "auto", "ring", "ring_direct", "direct" };

typedef struct play {
    tnm_ctx *ctx;
    tnm_desc desc;
    tnm_tier_desc tiers[WORLD_TIERS];
    int tree, option, kind;
    int top, side, low, bottom; /* roles of tiers; top: also where there is only one */
    tnm_backend disk;
    int has_disk;
    uint64_t model, model_size; /* the adopted file */
    int lent_count, let_go, lent_tier;
    tnm_tensor t[MOST];
    uint64_t key[MOST], bytes[MOST]; /* key 0: holds nothing yet */
    uint64_t keys;
    uint32_t advice[MOST];
    int lost[MOST];        /* its only copy may have been on what was lost */
    int empty[MOST];       /* it may have been dropped */
    uint32_t writes[MOST]; /* queues with fences under which it is written */
    tnm_pinned *held;      /* a pin that stays, taken before any loss */
    int ended, part;       /* part: a tensor that nobody watches over */
} play;

static play P;
static jmp_buf out_of_it; /* of a call that does not end; what it holds is left behind */
static struct {
    uint64_t singles, pairs, fired, findings, scenarios, effects;
    int scenario, planned, quiet;
} T;

static void repeat_line(void) {
    printf("  repeat: test_fault --scenario %d", T.scenario);
    for (int i = 0; i < 2; i++)
        if (W.flaw[i].at > 0)
            printf(" --at %llu:%d%s", (unsigned long long)W.flaw[i].at, W.flaw[i].pick,
                   W.flaw[i].sticky ? "+" : "");
    printf("\n");
    for (int i = 0; i < 2; i++)
        if (W.flaw[i].fired > 0)
            printf("    %s of tier %d, manner %d\n", effects[W.flaw[i].kind].name, W.flaw[i].tier,
                   W.flaw[i].pick % W.flaw[i].manners);
    fflush(stdout);
}

static void world_hangs(const char *how) {
    printf("HANG: %s\n", how);
    check_fail(__FILE__, __LINE__, "a call does not end");
    longjmp(out_of_it, 1);
}

#ifdef SIGALRM
static void too_long(int sig) {
    (void)sig;
    printf("HANG: no effect and no end\n");
    repeat_line();
    exit(3);
}
#endif

/* ---- what surrounds every call ---- */
static unsigned said(int active) { /* of the flaws that fired: what calls may say */
    unsigned all = 0;
    for (int i = 0; i < 2; i++) {
        const flaw *f = &W.flaw[i];
        if (f->fired == 0 || (active && f->over)) continue;
        all |= effects[f->kind].how[f->pick % f->manners].what | 0x1000;
        if ((effects[f->kind].how[f->pick % f->manners].what & IS_HARMLESS) == 0) all |= 0x2000;
    }
    return all;
}

static int legal(tnm_result r) {
    unsigned by = said(0);
    int gave_up = W.gave_up;
    W.gave_up = 0;
    switch (r) {
    case TNM_ERR_BACKEND:
        return (by & 0x2000) != 0;
    case TNM_ERR_MEMORY:
        return (by & SAYS_MEMORY) != 0;
    case TNM_ERR_BUDGET:
        return (by & SAYS_BUDGET) != 0;
    case TNM_ERR_LOST:
        return (by & SAYS_LOST) != 0;
    case TNM_PENDING:
        return gave_up || (said(1) & SAYS_PENDING) != 0;
    default:
        return 0;
    }
}

static void pumps(play *p, int n) {
    for (int i = 0; i < n && p->ctx != NULL; i++)
        tnm_pump(p->ctx, TNM_ALL);
}

static tnm_state state_of(play *p, int i, int tier) {
    tnm_tensor_info about;
    if (tnm_info(p->ctx, p->t[i], tier, &about) != TNM_OK) return TNM_STATE_ABSENT;
    return about.state;
}

static void on_loss(int tier) {
    play *p = &P;
    for (int i = 0; i < MOST && p->ctx != NULL; i++) {
        int other = 0;
        if (p->key[i] == 0) continue;
        for (int k = 0; k < p->desc.tier_count; k++)
            other |= k != tier && state_of(p, i, k) == TNM_STATE_READY;
        p->lost[i] |= !other;
    }
}

static void on_death(int queue) {
    for (int i = 0; i < MOST; i++)
        if ((P.writes[i] >> queue & 1) != 0) P.lost[i] = 1;
}

static tnm_result take_in(play *p, int i, uint8_t *back) {
    tnm_result r;
    W.reading = 1;
    r = tnm_read(p->ctx, p->t[i], 0, back, p->bytes[i]);
    W.reading = 0;
    return r;
}

static tnm_result plain_write(play *p, int i, uint64_t from, uint64_t bytes, uint64_t key) {
    uint8_t what[2 * ONE];
    world_fill(what, key, from, bytes);
    return tnm_write(p->ctx, p->t[i], from, what, bytes);
}

static void wrong(play *p, int i, const char *how, tnm_result r) {
    printf("tensor %d: %s (%s)\n", i, how, tnm_result_string(r));
    (void)p;
    check_fail(__FILE__, __LINE__, how);
}

/* The tensor shows what was last written; what is lost is built anew. */
static void intact_one(play *p, int i) {
    uint8_t back[2 * ONE];
    for (int tries = 0;; tries++) {
        int losses = W.losses;
        tnm_result r = take_in(p, i, back);
        if (r == TNM_OK) {
            if (!world_same(back, p->key[i], 0, p->bytes[i])) wrong(p, i, "wrong bytes", r);
            if (losses == W.losses) p->lost[i] = 0; /* else it may have been lost since */
            return;
        }
        if (r == TNM_ERR_EMPTY && p->empty[i]) return;
        if (r == TNM_ERR_LOST && p->lost[i]) {
            r = plain_write(p, i, 0, p->bytes[i], p->keys + 1);
            if (r == TNM_ERR_BUSY) return; /* a pin of the story is in the way */
            if (r == TNM_OK) p->key[i] = ++p->keys;
            if (r == TNM_OK) p->lost[i] = 0;
            if (r == TNM_OK) return;
        }
        if (!legal(r)) {
            wrong(p, i, "unreadable", r);
            return;
        }
        world_heal();
        if (tries > 14) wrong(p, i, "unreadable after the fault", r);
        if (tries > 14) return;
        pumps(p, tries > 1 ? 1 << (tries < 8 ? tries : 7) : 0);
    }
}

static void intact(play *p) {
    for (int i = 0; i < MOST; i++)
        if (p->key[i] != 0) intact_one(p, i);
}

/* While the flaw stays: what has a copy elsewhere, where the CPU sees it, is readable. */
static void alone(play *p) {
    uint8_t back[2 * ONE];
    int tier = -1, flaws = 0;
    for (int i = 0; i < 2; i++) {
        flaws += W.flaw[i].at > 0;
        if (W.flaw[i].fired > 0 && !W.flaw[i].over && W.flaw[i].sticky) tier = W.flaw[i].tier;
    }
    if (flaws != 1 || tier < 0 || said(1) & SAYS_PENDING) return;
    for (int i = 0; i < MOST; i++) {
        int at_hand = 0;
        tnm_result r;
        if (p->key[i] == 0) continue;
        for (int k = 0; k < p->desc.tier_count; k++)
            at_hand |= k != tier && k != W.file_tier && (W.device[k].kind & KIND_HIDDEN) == 0 &&
                       state_of(p, i, k) == TNM_STATE_READY;
        r = take_in(p, i, back);
        if (r == TNM_OK && !world_same(back, p->key[i], 0, p->bytes[i]))
            wrong(p, i, "wrong bytes beside a fault", r);
        if (r != TNM_OK && at_hand) wrong(p, i, "at hand, and unreadable", r);
        if (r != TNM_OK && !legal(r) && !(r == TNM_ERR_EMPTY && p->empty[i]))
            wrong(p, i, "unreadable beside a fault", r);
    }
}

/* A pin whose memory is gone keeps nothing but the place: it is let go. */
static void let_go_of_lost(play *p) {
    tnm_pinned *at = p->held;
    if (at == NULL || at->id == 0 || W.device[at->tier].losses == 0) return;
    CHECK_EQ(tnm_unpin(p->ctx, at, 1, 0), TNM_OK);
}

/* A call was refused: is it our fault? Then end the fault, and say "again". */
static int again(play *p, tnm_result r, int *tries) {
    int lost = p->part && r == TNM_ERR_LOST;
    if (W.flaw[0].fired == 0 && W.flaw[1].fired == 0) return 0;
    if (!legal(r)) {
        printf("a fault came back as %s\n", tnm_result_string(r));
        return 0;
    }
    let_go_of_lost(p);
    if (said(1) != 0) {
        if (p->ctx != NULL) alone(p);
        world_heal();
        if (p->ctx != NULL) CHECK_EQ(tnm_check(p->ctx), 0);
        intact(p);
    } else
        pumps(p, 1 << (*tries < 8 ? *tries : 7));
    if (r == TNM_ERR_LOST) intact(p);
    for (int i = 0; i < MOST; i++)
        lost |= p->lost[i];
    if (r == TNM_ERR_LOST && lost && *tries > 2) return -1;
    return ++*tries < 16;
}

#define MUST(call)                                                                                 \
    do {                                                                                           \
        int must_n = 0, must_go = 1;                                                               \
        tnm_result must_r = TNM_OK;                                                                \
        while (must_go > 0 && (must_r = (call)) != TNM_OK)                                         \
            must_go = again(p, must_r, &must_n);                                                   \
        if (must_go >= 0) CHECK_EQ(must_r, TNM_OK);                                                \
    } while (0)

#define UNTIL(result, call)                                                                        \
    for (int until_n = 0; until_n < PATIENCE && ((result) = (call)) == TNM_PENDING; until_n++)     \
    tnm_pump(p->ctx, TNM_ALL)

/* ---- building trees ---- */
static int is_direct(int option) {
    return option == OPT_RING_DIRECT || option == OPT_DIRECT;
}

static uint64_t room(uint64_t n) { /* for so many tensors */
    uint64_t unit = is_direct(P.option) ? 512 : 256;
    return n * ((ONE + TENSORMEM_REDZONE_BYTES + unit - 1) / unit * unit);
}

static tnm_tier_desc *add(play *p, const char *name, int kind, uint64_t budget, uint64_t segment) {
    int i = p->desc.tier_count++;
    tnm_tier_desc *t = &p->tiers[i];
    t->name = name;
    t->budget_bytes = budget;
    t->segment_bytes = segment;
    world_device(i, kind, budget, &t->backend);
    return t;
}

static void add_host(play *p, uint64_t budget) { /* memory of the context's allocator */
    tnm_tier_desc *t = &p->tiers[p->desc.tier_count++];
    t->name = "host";
    t->budget_bytes = budget;
    t->segment_bytes = 16 * 1024;
}

static void add_file(play *p) {
#ifdef FAULTS_FILE
    tnm_file_desc d;
    int i = p->desc.tier_count++, o = p->option;
    memset(&d, 0, sizeof d);
    d.path = o == OPT_SEGMENTS || o == OPT_RING ? "folder" : "spill";
    d.depth = 4;
    d.sync = o != OPT_RING && o != OPT_RING_DIRECT && o != OPT_LATE;
    d.direct = o == OPT_RING_DIRECT || o == OPT_DIRECT;
    d.alloc = world_alloc;
    d.release = world_release;
    W.file_tier = i;
    disk_put(MODEL);
    for (int k = 0; k < MODEL / ONE; k++)
        world_fill(&disk[0][96 + k * ONE], (uint64_t)k + 1000, 0, ONE);
    MUST(tnm_file_open(&d, &p->disk));
    p->has_disk = p->disk.copy != NULL;
    MUST(tnm_file_adopt(&p->disk, "model", &p->model, &p->model_size));
    p->tiers[i].name = "file";
    p->tiers[i].backend = p->disk;
    if (p->disk.poll != NULL) p->tiers[i].backend.poll = ring_poll;
    p->tiers[i].segment_bytes = 32 * 1024;
#else
    (void)p;
#endif
}

/* `places` tensors fit into the fastest tier, some more into the one below it */
static void tree(play *p, uint64_t places) {
    uint64_t top = room(places);
    uint64_t mid = room(places + 2) + 32 * 1024;
    if (is_direct(p->option)) mid += 128 * 1024; /* staging goes by pages */
    int kind = p->kind, hidden = kind | KIND_HIDDEN;
    p->side = p->top = 0;
    switch (p->tree) {
    case TREE_ONE:
        add(p, "only", kind, room(MOST), 0)->spill_to = TNM_NOWHERE;
        break;
    case TREE_TWO:
        add(p, "fast", kind, top, 0);
        add(p, "slow", kind & KIND_ASYNC, 0, 16 * 1024);
        break;
    case TREE_BUILTIN:
        add(p, "fast", hidden, top, 0);
        add_host(p, 0);
        break;
    case TREE_THREE:
        add(p, "fast", hidden, top, 0);
        add(p, "host", KIND_ROOM, mid, 16 * 1024);
        add(p, "disk", hidden, 0, 16 * 1024);
        break;
    case TREE_ROOTS:
        add(p, "left", hidden, top, 0)->spill_to = 2;
        add(p, "right", kind, top, 0);
        add_host(p, 0);
        p->side = 1;
        break;
    case TREE_PEERS:
        add(p, "near", hidden, top, 0);
        add(p, "far", hidden, mid, 16 * 1024);
        add(p, "host", 0, 0, 16 * 1024);
        W.device[0].peers = 1;
        break;
    case TREE_FILE:
        if (p->option == OPT_SCRUB) /* its own bytes are wiped by staging: it must be known */
            add_host(p, top + 1024);
        else
            add(p, "host", kind, top + 1024, 0);
        add_file(p);
        break;
    case TREE_DEVICE_FILE:
        add(p, "fast", hidden, top, 0);
        add_host(p, mid);
        add_file(p);
        break;
    default:
        add(p, "left", hidden, top, 0)->spill_to = 2;
        add(p, "right", hidden, top, 0);
        add(p, "host", 0, mid, 16 * 1024);
        add_file(p);
        p->side = 1;
    }
    p->bottom = p->desc.tier_count - 1;
    p->low = p->tiers[0].spill_to > 0 ? p->tiers[0].spill_to : p->bottom > 0 ? 1 : 0;
}

static void options(play *p) {
    tnm_desc *d = &p->desc;
    d->chunk_bytes = 512;
    d->staging_bytes = 4096;
    if (T.quiet < 0) d->trace = world_trace;
    switch (p->option) {
    case OPT_FIXED:
        d->max_tensors = 32;
        d->max_fences = 96;
        d->trace = world_trace;
        break;
    case OPT_SEGMENTS:
        for (int i = 0; i < d->tier_count; i++)
            if (p->tiers[i].budget_bytes > 0) p->tiers[i].segment_bytes = room(2);
        break;
    case OPT_AUTO:
        d->policy = TNM_POLICY_AUTO;
        p->tiers[0].segment_bytes = TNM_DEDICATED;
        break;
    case OPT_RING_DIRECT:
    case OPT_DIRECT:
        d->staging_bytes = 64 * 1024;
        d->chunk_bytes = 4096;
        for (int i = 0; i < d->tier_count - 1; i++)
            p->tiers[i].alignment = 512;
        break;
    default:
        break;
    }
    if (p->option == OPT_WAIT) d->guess_bytes = 256;
    for (int i = d->tier_count - 1; i > 0 && d->staging_tier == 0; i--)
        if ((W.device[i].kind & KIND_HIDDEN) == 0 && i != W.file_tier) d->staging_tier = i;
}

static void begin(play *p) {
    options(p);
    MUST(tnm_create(&p->desc, &p->ctx));
}

static int kind_of(int option) {
    return option == OPT_LATE || option == OPT_RING || option == OPT_AUTO ? KIND_ASYNC
           : option == OPT_WAIT || option == OPT_RING_DIRECT
               ? KIND_ASYNC | KIND_SUBMIT | KIND_WAIT | KIND_ROOM
           : option == OPT_SEGMENTS ? KIND_ROOM
                                    : 0;
}

/* ---- small words for the stories ---- */
static uint8_t *where(play *p, const tnm_pinned *at) { /* where a kernel would find it */
    block *b;
    if (at->id == 0) return NULL;
    if (at->host != NULL) return (uint8_t *)at->host;
#ifdef FAULTS_FILE
    if (at->tier == W.file_tier) {
        if ((at->mem & TNMI_SHELF_SPILL) == 0) return &disk[0][at->offset];
        for (int i = 1; i < FILES; i++)
            if (W.file[i].used) return &disk[i][(at->mem & ~TNMI_SHELF_SPILL) + at->offset];
    }
#endif
    b = world_find(&W.device[at->tier], at->mem);
    if (b == NULL && W.device[at->tier].lost == 0) check_fail(__FILE__, __LINE__, "no such memory");
    (void)p;
    return b != NULL ? b->at + at->offset : NULL;
}

static void name(play *p, int i, uint64_t bytes, uint32_t advice) {
    tnm_tensor_desc d;
    memset(&d, 0, sizeof d);
    d.bytes = p->bytes[i] = bytes;
    d.advice = advice | (p->option == OPT_SCRUB ? (uint32_t)TNM_SCRUB : 0u);
    d.label = "tensor";
    p->advice[i] = d.advice;
    p->lost[i] = p->empty[i] = 0;
    p->writes[i] = 0;
    MUST(tnm_tensor_create(p->ctx, &d, &p->t[i]));
}

static void names(play *p, int n) {
    for (int i = 0; i < n; i++)
        name(p, i, ONE - (uint64_t)(i % 5) * 75, 0);
}

static tnm_use use(play *p, int i, int tier, tnm_access access) {
    tnm_use u;
    memset(&u, 0, sizeof u);
    u.tensor = p->t[i];
    u.tier = tier;
    u.access = access;
    return u;
}

/* One pin of one tensor; 0 = it is lost, and the story goes on without. */
static int pin(play *p, int i, int tier, tnm_access access, tnm_pinned *at, int polled) {
    tnm_use u = use(p, i, tier, access);
    tnm_result r = TNM_PENDING;
    memset(at, 0, sizeof *at);
    if (polled) {
        int n = 0, go = 1;
        while (go > 0) {
            UNTIL(r, tnm_try_pin(p->ctx, &u, 1, at));
            go = r == TNM_OK ? 0 : again(p, r, &n);
        }
        if (go == 0) CHECK_EQ(r, TNM_OK);
    } else
        MUST(tnm_pin(p->ctx, &u, 1, at));
    if (at->id == 0) return 0;
    CHECK_EQ(at->tier, tier);
    CHECK_EQ(at->bytes, p->bytes[i]);
    world_hold(where(p, at), at);
    return where(p, at) != NULL;
}

static void unpin(play *p, int i, tnm_pinned *at, uint64_t fence) {
    unsigned queue = (unsigned)(fence >> TNMI_FENCE_BITS) % WORLD_QUEUES;
    if (at->id == 0) return;
    world_let_go(where(p, at), at, fence);
    if (fence != 0 && at->access != TNM_READ) {
        p->writes[i] |= 1u << queue;
        if (W.dead[queue]) p->lost[i] = 1;
    }
    MUST(tnm_unpin(p->ctx, at, 1, fence));
}

static void new_bytes(play *p, int i, const tnm_pinned *at) {
    uint8_t *to = where(p, at);
    p->key[i] = ++p->keys;
    p->lost[i] = 0;
    if (to != NULL) world_fill(to, p->key[i], 0, p->bytes[i]);
}

static void shows(play *p, int i, const tnm_pinned *at) {
    uint8_t *from = where(p, at);
    if (from != NULL && !world_same(from, p->key[i], 0, p->bytes[i]))
        wrong(p, i, "wrong bytes in a pin", TNM_OK);
    p->lost[i] = 0;
}

static void fill(play *p, int i, int tier) {
    tnm_pinned at;
    if (pin(p, i, tier, TNM_DISCARD, &at, 0)) {
        if (p->key[i] == 0 && (p->advice[i] & TNM_SCRUB) != 0)
            CHECK(world_all(where(p, &at), 0, p->bytes[i]));
        new_bytes(p, i, &at);
    }
    unpin(p, i, &at, 0);
}

static void change(play *p, int i, int tier) {
    tnm_pinned at;
    if (pin(p, i, tier, TNM_WRITE, &at, 0)) {
        shows(p, i, &at);
        new_bytes(p, i, &at);
    }
    unpin(p, i, &at, 0);
}

static void look(play *p, int i, int tier) {
    tnm_pinned at;
    if (pin(p, i, tier, TNM_READ, &at, 0)) shows(p, i, &at);
    unpin(p, i, &at, 0);
}

static void fills(play *p, int n, int tier) {
    for (int i = 0; i < n; i++)
        fill(p, i, tier);
}

static void looks(play *p, int n, int tier) {
    for (int i = 0; i < n; i++)
        look(p, i, tier);
}

static void forget(play *p, int i) {
    p->key[i] = 0;
    p->lost[i] = 0;
    MUST(tnm_tensor_destroy(p->ctx, p->t[i]));
}

#define EVENTUALLY(call)                                                                           \
    do {                                                                                           \
        tnm_result ev_r = TNM_PENDING;                                                             \
        int ev_n = 0, ev_go = 1;                                                                   \
        while (ev_go > 0) {                                                                        \
            UNTIL(ev_r, call);                                                                     \
            ev_go = ev_r == TNM_OK ? 0 : again(p, ev_r, &ev_n);                                    \
        }                                                                                          \
        if (ev_go == 0) CHECK_EQ(ev_r, TNM_OK);                                                    \
    } while (0)

static void budget(play *p, int tier, uint64_t bytes) {
    W.device[tier].limit = bytes; /* in force from the call on */
    EVENTUALLY(tnm_set_budget(p->ctx, tier, bytes));
}

static void evict(play *p, int i, int tier) {
    if (tier != p->bottom) EVENTUALLY(tnm_evict(p->ctx, p->t[i], tier));
}

static void flush(play *p, int i, int tier) {
    tnm_tensor all = { 0 };
    EVENTUALLY(tnm_flush(p->ctx, i >= 0 ? p->t[i] : all, tier));
}

/* ---- the stories ---- */
static void create_only(play *p) {
    begin(p);
}

static void many_names(play *p) {
    begin(p);
    for (int i = 0; i < MOST; i++)
        name(p, i, 64, 0);
    for (int i = 0; i < MOST; i += 7)
        fill(p, i, p->top);
    for (int i = 0; i < MOST; i += 3)
        forget(p, i);
    for (int i = 0; i < MOST; i += 3)
        name(p, i, 64, 0);
}

static void first_write(play *p) {
    begin(p);
    names(p, 2);
    fills(p, 2, p->top);
}

static void pressure(play *p) {
    begin(p);
    names(p, 5);
    fills(p, 5, p->top);
    looks(p, 5, p->top);
}

static void clean_reload(play *p) {
    begin(p);
    names(p, 4);
    fills(p, 4, p->low);
    looks(p, 4, p->top);
    looks(p, 4, p->top);
}

static void deep(play *p) { /* more than the two fastest tiers hold */
    begin(p);
    names(p, 9);
    fills(p, 9, p->top);
    looks(p, 9, p->top);
    change(p, 0, p->top);
    look(p, 0, p->low);
}

static void write_shared(play *p) {
    begin(p);
    names(p, 2);
    fills(p, 2, p->low);
    looks(p, 2, p->top);
    change(p, 0, p->top);
    change(p, 1, p->low);
    look(p, 0, p->low);
    look(p, 1, p->top);
}

static void discard_again(play *p) {
    begin(p);
    names(p, 3);
    fills(p, 3, p->low);
    fills(p, 3, p->top);
    fills(p, 3, p->low);
    looks(p, 3, p->top);
}

static void use_set(play *p, int from, int n, int tier, int blocking) {
    tnm_pinned at[8];
    tnm_use u[8];
    memset(at, 0, sizeof at);
    for (int i = 0; i < n; i++)
        u[i] = use(p, from + i, tier, i == 1 ? TNM_WRITE : TNM_READ);
    if (blocking)
        MUST(tnm_pin(p->ctx, u, n, at));
    else
        EVENTUALLY(tnm_try_pin(p->ctx, u, n, at));
    for (int i = 0; i < n && at[i].id != 0; i++) {
        world_hold(where(p, &at[i]), &at[i]);
        shows(p, from + i, &at[i]);
        if (i == 1) new_bytes(p, from + i, &at[i]);
    }
    for (int i = 0; i < n && at[i].id != 0; i++)
        world_let_go(where(p, &at[i]), &at[i], 0);
    if (at[0].id != 0) MUST(tnm_unpin(p->ctx, at, n, 0));
}

/* Places that are refused come back in halves: there is room for two sets. */
static void sets(play *p) {
    begin(p);
    for (int i = 0; i < 9; i++)
        name(p, i, ONE, 0);
    fills(p, 9, p->top);
    use_set(p, 0, 3, p->top, 1);
    use_set(p, 5, 3, p->top, 1);
    use_set(p, 1, 3, p->top, 1);
}

static void sets_polled(play *p) {
    begin(p);
    for (int i = 0; i < 9; i++)
        name(p, i, ONE, 0);
    fills(p, 9, p->low);
    for (int i = 0; i < 9; i += 3)
        use_set(p, i, 3, p->top, 0);
}

static void polled(play *p) {
    tnm_pinned at;
    begin(p);
    names(p, 3);
    fills(p, 3, p->top);
    for (int i = 0; i < 3; i++) {
        if (pin(p, i, p->top, TNM_WRITE, &at, 1)) new_bytes(p, i, &at);
        unpin(p, i, &at, 0);
    }
    looks(p, 3, p->low);
}

static void prefetch(play *p) {
    tnm_use u[3];
    begin(p);
    names(p, 5);
    fills(p, 5, p->low);
    for (int i = 0; i < 3; i++)
        u[i] = use(p, i, p->top, TNM_READ);
    u[1].flags = TNM_SURE;
    MUST(tnm_prefetch(p->ctx, 0, u, 3));
    pumps(p, 20);
    looks(p, 5, p->top);
}

static void prefetch_cancelled(play *p) {
    tnm_use u[4];
    begin(p);
    names(p, 4);
    fills(p, 4, p->low);
    for (int i = 0; i < 4; i++)
        u[i] = use(p, i, p->top, TNM_READ);
    MUST(tnm_prefetch(p->ctx, 0, u, 4));
    CHECK(tnm_pump(p->ctx, 512) >= 0);
    CHECK(tnm_cancel(p->ctx, p->t, 4) >= 0);
    pumps(p, 10);
    looks(p, 4, p->top);
}

static void asked_and_taken_back(play *p) { /* try_pins nobody asks for again */
    tnm_pinned at;
    begin(p);
    names(p, 4);
    fills(p, 4, p->low);
    for (int i = 0; i < 3; i++) {
        tnm_use u = use(p, i, p->top, TNM_READ);
        if (tnm_try_pin(p->ctx, &u, 1, &at) == TNM_OK) MUST(tnm_unpin(p->ctx, &at, 1, 0));
        tnm_pump(p->ctx, 600);
    }
    CHECK(tnm_cancel(p->ctx, p->t, 2) >= 0);
    pumps(p, 90); /* the third one's claim lapses */
    looks(p, 4, p->top);
}

static void cycle(play *p, int n, tnm_access access) {
    tnm_use u[8];
    for (int i = 0; i < n; i++) {
        u[i] = use(p, i, p->top, access);
        u[i].step = (uint64_t)i;
    }
    MUST(tnm_schedule(p->ctx, 0, u, n, (uint32_t)n));
}

static void scheduled(play *p) {
    begin(p);
    names(p, 6);
    fills(p, 6, p->low);
    cycle(p, 6, TNM_READ);
    for (int step = 0; step < 12; step++) {
        MUST(tnm_step(p->ctx, 0, (uint64_t)step));
        pumps(p, 2);
        look(p, step % 6, p->top);
    }
}

static void scheduled_writes(play *p) { /* and what is dirty goes down ahead of its time */
    begin(p);
    names(p, 5);
    fills(p, 5, p->top);
    cycle(p, 5, TNM_WRITE);
    for (int step = 0; step < 10; step++) {
        MUST(tnm_step(p->ctx, 0, (uint64_t)step));
        pumps(p, 3);
        change(p, step % 5, p->top);
    }
    MUST(tnm_schedule(p->ctx, 0, NULL, 0, 0));
    pumps(p, 5);
    looks(p, 5, p->top);
}

static void replayed(play *p) {
    begin(p);
    names(p, 5);
    fills(p, 5, p->low);
    MUST(tnm_record(p->ctx, 1));
    looks(p, 5, p->top);
    { /* what was not noted for want of memory: the cycle stands, nothing else is lost */
        tnm_result r = tnm_replay(p->ctx, 1);
        if (r != TNM_OK)
            CHECK(r == TNM_ERR_ARGUMENT || r == TNM_ERR_MEMORY || r == TNM_ERR_CAPACITY);
        if (r != TNM_OK) CHECK(W.flaw[0].fired + W.flaw[1].fired > 0);
    }
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 5; i++) {
            pumps(p, 2);
            look(p, i, p->top);
        }
}

static void evicted(play *p) {
    begin(p);
    names(p, 3);
    fills(p, 3, p->top);
    for (int i = 0; i < 3; i++)
        evict(p, i, p->top);
    looks(p, 3, p->top);
    flush(p, -1, p->bottom); /* else what is dirty above is written down ahead of its time */
    for (int i = 0; i < 2; i++)
        evict(p, i, p->low);
    looks(p, 3, p->top);
}

static void flushed(play *p) {
    begin(p);
    names(p, 4);
    fills(p, 4, p->top);
    flush(p, 0, p->low);
    flush(p, -1, p->low);
    looks(p, 4, p->low);
}

static void flushed_deep(play *p) {
    begin(p);
    names(p, 3);
    fills(p, 3, p->top);
    flush(p, 0, p->low);
    flush(p, -1, p->bottom);
    looks(p, 3, p->top);
}

static void shrunk(play *p) {
    begin(p);
    names(p, 3);
    fills(p, 3, p->top);
    budget(p, p->top, 0);
    looks(p, 3, p->low);
    budget(p, p->top, room(2));
    looks(p, 3, p->top);
}

static void shrunk_by_half(play *p) {
    begin(p);
    names(p, 4);
    fills(p, 4, p->top);
    budget(p, p->top, room(2));
    looks(p, 4, p->low);
    budget(p, p->top, room(4));
    looks(p, 4, p->top);
}

static void plain(play *p) {
    uint8_t back[ONE];
    begin(p);
    names(p, 3);
    for (int round = 0; round < 2; round++) { /* into nothing, then over what lies there */
        for (int i = 0; i < 3; i++) {
            MUST(plain_write(p, i, 0, p->bytes[i], p->keys + 1));
            p->key[i] = ++p->keys;
            p->lost[i] = 0;
            MUST(take_in(p, i, back));
            if (!p->lost[i]) CHECK(world_same(back, p->key[i], 0, p->bytes[i]));
        }
        looks(p, 3, p->top);
    }
}

static void plain_part(play *p) {
    uint8_t back[ONE];
    begin(p);
    name(p, 0, ONE, 0);
    p->part = 1;
    MUST(plain_write(p, 0, 100, 1000, 7)); /* into nothing: zeros around it */
    if ((said(0) & SAYS_LOST) != 0) return;
    W.reading = 1;
    MUST(tnm_read(p->ctx, p->t[0], 0, back, ONE));
    W.reading = 0;
    if ((said(0) & SAYS_LOST) != 0) return;
    CHECK(world_all(back, 0, 100) && world_same(back + 100, 7, 100, 1000));
    CHECK(world_all(back + 1100, 0, ONE - 1100));
}

static void plain_deep(play *p) {
    uint8_t back[ONE];
    begin(p);
    names(p, 4);
    fills(p, 4, p->top);
    for (int i = 0; i < 4; i++) {
        MUST(tnm_read(p->ctx, p->t[i], 10, back, 200));
        if (!p->lost[i]) CHECK(world_same(back, p->key[i], 10, 200));
    }
    MUST(plain_write(p, 0, 0, p->bytes[0], p->keys + 1));
    p->key[0] = ++p->keys;
    looks(p, 4, p->top);
}

static void scrubbed(play *p) {
    begin(p);
    name(p, 0, ONE, 0);
    name(p, 1, ONE, TNM_SCRUB);
    fill(p, 0, p->top);
    fill(p, 1, p->top);
    looks(p, 2, p->top);
    forget(p, 1);
    look(p, 0, p->top);
}

static void views(play *p) {
    tnm_tensor_desc d;
    tnm_tensor v;
    tnm_pinned at;
    tnm_use u;
    begin(p);
    names(p, 2);
    fills(p, 2, p->top);
    memset(&d, 0, sizeof d);
    d.bytes = 500;
    MUST(tnm_tensor_view(p->ctx, p->t[0], 600, &d, &v));
    u = use(p, 0, p->top, TNM_READ);
    u.tensor = v;
    memset(&at, 0, sizeof at);
    MUST(tnm_pin(p->ctx, &u, 1, &at));
    if (at.id != 0) {
        if (where(p, &at) != NULL) CHECK(world_same(where(p, &at), p->key[0], 600, 500));
        MUST(tnm_unpin(p->ctx, &at, 1, 0));
    }
    forget(p, 0);
    look(p, 1, p->top);
    MUST(tnm_tensor_destroy(p->ctx, v));
}

static void released(void *user, uint64_t mem, uint64_t offset) {
    (void)mem;
    (void)offset;
    ((play *)user)->let_go++;
}

/* Adopted on the slowest tier: a range of the model, or what a device or the application lends. */
static void adopt(play *p, int i, uint64_t offset, int writable) {
    static uint8_t own[MOST][2 * ONE];
    tnm_tensor_desc t;
    tnm_adopt_desc a;
    int tier = p->bottom;
    memset(&t, 0, sizeof t);
    memset(&a, 0, sizeof a);
    t.bytes = p->bytes[i] = ONE;
    p->advice[i] = 0;
    a.tier = tier;
    a.writable = writable;
    a.released = released;
    a.user = p;
    a.offset = offset;
    uint64_t key = ++p->keys;
    if (tier == W.file_tier) {
        a.mem = p->model;
        a.offset = 96 + (uint64_t)i * ONE;
        key = 1000 + (uint64_t)i;
    } else if (W.device[tier].used) {
        block *b = world_make(&W.device[tier], 2 * ONE, 4096);
        b->lent = 1;
        a.mem = b->mem;
        if ((W.device[tier].kind & KIND_HIDDEN) == 0) a.host = b->at + offset;
        world_fill(b->at + offset, key, 0, ONE);
    } else {
        a.host = own[i] + offset;
        a.mem = (uint64_t)(uintptr_t)own[i];
        world_fill(own[i] + offset, key, 0, ONE);
    }
    MUST(tnm_tensor_adopt(p->ctx, &t, &a, &p->t[i]));
    p->key[i] = key;
}

static void adopted(play *p) {
    begin(p);
    adopt(p, 0, 96, 0);
    adopt(p, 1, 0, 0);
    name(p, 2, ONE, 0);
    fill(p, 2, p->top);
    looks(p, 3, p->top);
    looks(p, 3, p->low);
    change(p, 0, p->top); /* bytes of its own from here on */
    pumps(p, 20);
    if ((said(0) & SAYS_LOST) == 0) CHECK_EQ(p->let_go, 1);
    looks(p, 3, p->low);
    forget(p, 1);
    pumps(p, 20);
    if ((said(0) & SAYS_LOST) == 0) CHECK_EQ(p->let_go, 2);
}

static void adopted_many(play *p) {
    begin(p);
    for (int i = 0; i < 4; i++)
        adopt(p, i, (uint64_t)i * 16, 0);
    cycle(p, 4, TNM_READ);
    for (int step = 0; step < 8; step++) {
        MUST(tnm_step(p->ctx, 0, (uint64_t)step));
        pumps(p, 2);
        look(p, step % 4, p->top);
    }
    change(p, 3, p->top);
    looks(p, 4, p->top);
    for (int i = 0; i < 4; i++)
        forget(p, i);
    pumps(p, 20);
    if ((said(0) & SAYS_LOST) == 0) CHECK_EQ(p->let_go, 4);
}

static void adopted_writable(play *p) {
    begin(p);
    adopt(p, 0, 96, p->bottom != W.file_tier);
    name(p, 1, ONE, 0);
    change(p, 0, p->top);
    fill(p, 1, p->top);
    flush(p, 0, p->bottom);
    if ((said(0) & SAYS_LOST) == 0 && p->bottom != W.file_tier) CHECK_EQ(p->let_go, 0);
    looks(p, 2, p->top);
}

static void fences(play *p) {
    tnm_pinned at;
    begin(p);
    names(p, 2);
    fills(p, 2, p->low);
    for (uint64_t n = 1; n <= 4; n++) {
        int i = (int)(n & 1);
        if (pin(p, i, p->top, TNM_READ, &at, 0)) shows(p, i, &at);
        unpin(p, i, &at, TNM_FENCE(2, n));
    }
    change(p, 0, p->low);
    looks(p, 2, p->top);
}

static void fenced_writes(play *p) {
    tnm_pinned at;
    begin(p);
    names(p, 3);
    fills(p, 3, p->top);
    for (uint64_t n = 1; n <= 6; n++) {
        int i = (int)(n % 3);
        if (pin(p, i, p->top, TNM_WRITE, &at, n > 3)) {
            shows(p, i, &at);
            new_bytes(p, i, &at);
        }
        unpin(p, i, &at, TNM_FENCE(1, n));
        pumps(p, 1);
    }
    for (int i = 0; i < 8; i++)
        CHECK(tnm_wait(p->ctx) >= 0);
    if (p->low != p->top) change(p, 0, p->low);
    looks(p, 3, p->top);
}

static void many_fences(play *p) {
    tnm_pinned at;
    begin(p);
    names(p, 1);
    fill(p, 0, p->low);
    for (uint64_t n = 1; n <= 80; n++) {
        (void)pin(p, 0, p->top, TNM_READ, &at, 0);
        unpin(p, 0, &at, TNM_FENCE(n % 3, n));
        if (p->option == OPT_FIXED && n % 20 == 0) pumps(p, 3);
    }
    change(p, 0, p->low);
}

static void staged(play *p) {
    begin(p);
    names(p, 5);
    fills(p, 5, p->top);
    looks(p, 5, p->top);
    looks(p, 5, p->low);
    looks(p, 5, p->top);
}

static void two_roots(play *p) {
    begin(p);
    names(p, 4);
    fills(p, 2, p->top);
    fill(p, 2, p->side);
    fill(p, 3, p->side);
    looks(p, 4, p->side);
    looks(p, 4, p->top);
    change(p, 1, p->side);
    look(p, 1, p->top);
}

static void in_flight_destroyed(play *p) {
    tnm_pinned at;
    tnm_use u;
    begin(p);
    names(p, 3);
    fills(p, 3, p->low);
    u = use(p, 0, p->top, TNM_READ);
    if (tnm_try_pin(p->ctx, &u, 1, &at) == TNM_OK) MUST(tnm_unpin(p->ctx, &at, 1, 0));
    CHECK(tnm_pump(p->ctx, 600) >= 0);
    forget(p, 0);
    pumps(p, 20);
    look(p, 1, p->top);
    look(p, 2, p->top);
}

static void context_in_flight(play *p) { /* ends with copies under way */
    tnm_use u[2];
    begin(p);
    names(p, 4);
    fills(p, 4, p->top);
    for (int i = 0; i < 2; i++)
        u[i] = use(p, i, p->top, TNM_READ);
    MUST(tnm_prefetch(p->ctx, 0, u, 2));
    CHECK(tnm_pump(p->ctx, 512) >= 0);
    p->ended = 1;
}

static void compacted(play *p) { /* holes between what must stay */
    begin(p);
    for (int i = 0; i < 8; i++) {
        name(p, i, 512, 0);
        fill(p, i, p->top);
    }
    for (int i = 0; i < 8; i += 2)
        forget(p, i);
    name(p, 0, 2 * 512, 0);
    fill(p, 0, p->top);
    for (int i = 1; i < 8; i += 2)
        look(p, i, p->top);
    look(p, 0, p->top);
}

static void droppable(play *p) {
    tnm_pinned at;
    tnm_result r;
    int n = 0, go = 1;
    begin(p);
    name(p, 0, ONE, 0);
    name(p, 1, ONE, TNM_DROPPABLE);
    fill(p, 1, p->top);
    p->empty[1] = 1; /* from here on it may be gone */
    fill(p, 0, p->top);
    while (go > 0) {
        tnm_use u = use(p, 1, p->low, TNM_READ);
        r = tnm_pin(p->ctx, &u, 1, &at);
        go = r == TNM_OK || r == TNM_ERR_EMPTY ? 0 : again(p, r, &n);
        if (go == 0) CHECK(r == TNM_OK || r == TNM_ERR_EMPTY);
    }
    if (at.id != 0) MUST(tnm_unpin(p->ctx, &at, 1, 0));
    look(p, 0, p->top);
}

static void advised(play *p) {
    static const uint32_t advice[] = { TNM_KEEP, TNM_ONCE, TNM_WONT_NEED, TNM_NORMAL };
    begin(p);
    names(p, 6);
    for (int i = 0; i < 6; i++) {
        fill(p, i, p->top);
        if ((p->advice[i] & TNM_SCRUB) == 0) MUST(tnm_advise(p->ctx, p->t[i], advice[i % 4]));
        pumps(p, 1);
    }
    looks(p, 6, p->top);
}

static void waiting(play *p) {
    tnm_use u;
    begin(p);
    names(p, 2);
    fills(p, 2, p->low);
    u = use(p, 0, p->top, TNM_READ);
    MUST(tnm_prefetch(p->ctx, 0, &u, 1));
    CHECK(tnm_pump(p->ctx, 512) >= 0);
    for (int i = 0; i < 10; i++)
        CHECK(tnm_wait(p->ctx) >= 0);
    looks(p, 2, p->top);
}

static void looked_at(play *p) {
    tnm_writer w;
    tnm_shortage why;
    tnm_use u;
    tnm_tier_stats s;
    memset(&w, 0, sizeof w);
    w.write = world_write;
    begin(p);
    names(p, 3);
    fills(p, 3, p->top);
    u = use(p, 0, p->top, TNM_READ);
    MUST(tnm_why(p->ctx, &u, 1, &why));
    MUST(tnm_dump(p->ctx, TNM_DUMP_TEXT, &w));
    MUST(tnm_dump(p->ctx, TNM_DUMP_JSON, &w));
    for (int i = 0; i < p->desc.tier_count; i++)
        MUST(tnm_stats(p->ctx, i, &s));
    CHECK(W.text > 0);
}

static void pinned_meanwhile(play *p) { /* a pin that stays while others come and go */
    tnm_pinned at;
    int held;
    begin(p);
    names(p, 5);
    fills(p, 5, p->low);
    held = pin(p, 0, p->top, TNM_READ, &at, 0) && W.device[p->top].losses == 0;
    p->held = held ? &at : NULL;
    for (int i = 1; i < 5; i++)
        look(p, i, p->top);
    change(p, 1, p->top);
    evict(p, 1, p->top);
    if (held && at.id != 0 && W.device[p->top].losses == 0) shows(p, 0, &at);
    p->held = NULL;
    unpin(p, 0, &at, 0);
    looks(p, 5, p->top);
}

static void everything(play *p) { /* a bit of all of it, one after the other */
    tnm_pinned at;
    begin(p);
    adopt(p, 5, 32, 0);
    names(p, 5);
    fills(p, 5, p->top);
    cycle(p, 5, TNM_READ);
    for (int step = 0; step < 5; step++) {
        MUST(tnm_step(p->ctx, 0, (uint64_t)step));
        look(p, step, p->top);
        pumps(p, 1);
    }
    if (pin(p, 2, p->top, TNM_WRITE, &at, 1)) new_bytes(p, 2, &at);
    unpin(p, 2, &at, TNM_FENCE(1, 1));
    MUST(tnm_schedule(p->ctx, 0, NULL, 0, 0)); /* else it fetches what is evicted */
    evict(p, 3, p->top);
    flush(p, -1, p->low);
    change(p, 5, p->top);
    forget(p, 4);
    look(p, 5, p->low);
    looks(p, 4, p->top);
}

#if defined(TENSORMEM_THREADS) && !defined(_WIN32)
static void with_threads(play *p) { /* the pump's, and a crew's that is given nothing to do */
    tnm_file_desc d;
    tnm_backend crew;
    memset(&d, 0, sizeof d);
    d.threads = 2;
    d.alloc = world_alloc;
    d.release = world_release;
    MUST(tnm_file_open(&d, &crew));
    tnm_file_close(&crew);
    p->desc.pump_thread = 1;
    begin(p);
    names(p, 2);
}
#endif

/* ---- the machine ---- */
enum {
    LOWER = 1 /* wants a tier below */,
    SIDES = 2 /* two roots */,
    STAGES = 4 /* where staging must fit */,
    LENGTHY = 8
};

typedef struct story {
    const char *name;
    void (*run)(play *p);
    int places; /* of the fastest tier */
    int wants;
} story;

static const story stories[] = {
    { "create_only", create_only, 2, 0 },
    { "many_names", many_names, 2, 0 },
    { "first_write", first_write, 2, 0 },
    { "pressure", pressure, 2, 0 },
    { "clean_reload", clean_reload, 2, 0 },
    { "deep", deep, 2, 0 },
    { "write_shared", write_shared, 3, LOWER },
    { "discard_again", discard_again, 2, 0 },
    { "sets", sets, 6, 0 },
    { "sets_polled", sets_polled, 6, 0 },
    { "polled", polled, 1, 0 },
    { "prefetch", prefetch, 3, LOWER },
    { "prefetch_cancelled", prefetch_cancelled, 3, LOWER },
    { "asked_and_taken_back", asked_and_taken_back, 2, LOWER },
    { "scheduled", scheduled, 3, 0 },
    { "scheduled_writes", scheduled_writes, 3, 0 },
    { "replayed", replayed, 3, 0 },
    { "evicted", evicted, 3, 0 },
    { "flushed", flushed, 4, LOWER },
    { "flushed_deep", flushed_deep, 3, LOWER },
    { "shrunk", shrunk, 3, LOWER },
    { "shrunk_by_half", shrunk_by_half, 4, LOWER },
    { "plain", plain, 2, 0 },
    { "plain_part", plain_part, 2, STAGES },
    { "plain_deep", plain_deep, 1, 0 },
    { "scrubbed", scrubbed, 1, 0 },
    { "views", views, 1, 0 },
    { "adopted", adopted, 2, LOWER },
    { "adopted_many", adopted_many, 2, LOWER },
    { "adopted_writable", adopted_writable, 1, LOWER },
    { "fences", fences, 1, LOWER },
    { "fenced_writes", fenced_writes, 2, 0 },
    { "many_fences", many_fences, 2, LOWER | LENGTHY },
    { "staged", staged, 1, 0 },
    { "two_roots", two_roots, 1, SIDES },
    { "in_flight_destroyed", in_flight_destroyed, 2, LOWER },
    { "context_in_flight", context_in_flight, 2, 0 },
    { "compacted", compacted, 4, 0 },
    { "droppable", droppable, 1, 0 },
    { "advised", advised, 2, 0 },
    { "waiting", waiting, 2, LOWER },
    { "looked_at", looked_at, 2, 0 },
    { "pinned_meanwhile", pinned_meanwhile, 3, LOWER },
    { "everything", everything, 3, LOWER },
#if defined(TENSORMEM_THREADS) && !defined(_WIN32)
    { "with_threads", with_threads, 2, 0 },
#endif
};
enum { STORIES = (int)(sizeof stories / sizeof stories[0]), SCENARIOS = STORIES * TREES * OPTS };

static int has_file(int tree_) {
    return tree_ >= TREE_FILE;
}

static int is_scenario(int s) {
    const story *of = &stories[s / (TREES * OPTS)];
    int tree_ = s / OPTS % TREES, option = s % OPTS;
#ifndef FAULTS_FILE
    if (has_file(tree_)) return 0;
#endif
    if (option >= OPT_RING && !has_file(tree_)) return 0;
    if ((of->wants & LOWER) != 0 && tree_ == TREE_ONE) return 0;
    if ((of->wants & SIDES) != 0 && tree_ != TREE_ROOTS && tree_ != TREE_ROOTS_FILE) return 0;
    if ((of->wants & STAGES) != 0 && tree_ == TREE_FILE && is_direct(option)) return 0;
    if ((of->wants & LENGTHY) != 0 && (tree_ + option) % 4 != 0) return 0;
    return 1;
}

static void finish(play *p) {
    if (p->ctx != NULL) {
        if (!p->ended) intact(p);
        CHECK_EQ(tnm_check(p->ctx), 0);
        for (int i = 0; i < p->desc.tier_count; i++) {
            tnm_tier_stats s;
            CHECK_EQ(tnm_stats(p->ctx, i, &s), TNM_OK);
            CHECK(s.reserved_bytes >= W.device[i].held); /* charged before alloc is asked */
            CHECK(s.used_bytes <= s.reserved_bytes);
        }
        memset(p->key, 0, sizeof p->key); /* a PENDING one has begun to take names */
        MUST(tnm_destroy(p->ctx));
        p->ctx = NULL;
    }
    if (p->has_disk) tnm_file_close(&p->disk);
    world_end();
}

/* One run; how many of the planned flaws fired. */
static int perform(int s, const flaw *plan, int count) {
    play *p = &P;
    const story *of = &stories[s / (TREES * OPTS)];
    long long blocks = check_live_blocks();
    int bad = check_bad;
    memset(p, 0, sizeof *p);
    world_start_over();
    W.loud = T.quiet < 0;
    W.file_tier = -2;
    W.on_loss = on_loss;
    W.on_death = on_death;
    for (int i = 0; i < count; i++)
        W.flaw[i] = plan[i];
    W.armed = count > 0;
    T.scenario = s;
    p->tree = s / OPTS % TREES;
    p->option = s % OPTS;
    p->kind = kind_of(p->option);
    p->desc.tiers = p->tiers;
    p->desc.alloc = world_alloc;
    p->desc.release = world_release;
    p->desc.passed = world_passed;
    p->desc.idle = world_idle;
    p->desc.log = world_log;
    if (setjmp(out_of_it) == 0) {
        tree(p, (uint64_t)of->places);
        if (!has_file(p->tree) || p->has_disk) of->run(p);
        finish(p);
        CHECK_EQ(check_live_blocks(), blocks);
    }
    T.effects += W.effects;
    if (check_bad != bad) {
        printf("%s on %s, %s:\n", of->name, tree_names[p->tree], opt_names[p->option]);
        repeat_line();
        T.findings++;
    }
    return (W.flaw[0].fired > 0) + (W.flaw[1].fired > 0);
}

enum { FEW = 3 }; /* findings of one scenario, then the next one */

/* Every n, every manner, once and for ever, until none fires. `stride`: each n-th only. */
static void singles(int s, uint64_t stride) {
    uint64_t findings = T.findings;
    T.scenarios++;
    if (perform(s, NULL, 0) != 0 || T.findings != findings) return;
    for (uint64_t n = 1 + (uint64_t)s % stride; T.findings < findings + FEW; n += stride) {
        flaw f;
        int manners = 1;
        memset(&f, 0, sizeof f);
        f.at = n;
        for (f.pick = 0; f.pick < manners; f.pick++)
            for (f.sticky = 0; f.sticky < 2; f.sticky++) {
                int fired = perform(s, &f, 1);
                T.singles++;
                if (fired == 0) return;
                manners = W.flaw[0].manners;
            }
    }
}

/* Every pair, the first manner each; the second one once and for ever by turns. */
static void pairs(int s, uint64_t stride) {
    uint64_t findings = T.findings, turn = 0;
    T.scenarios++;
    for (uint64_t n = 1; T.findings < findings + FEW; n++) {
        flaw f[2];
        memset(f, 0, sizeof f);
        f[0].at = n;
        for (uint64_t m = n + 1 + n % stride; T.findings < findings + FEW; m += stride) {
            int fired;
            f[1].at = m;
            f[1].sticky = (int)(turn++ % 2);
            f[0].pick = (int)(turn / 2 % 5);
            f[1].pick = (int)(turn / 10 % 5);
            fired = perform(s, f, 2);
            T.pairs++;
            if (fired == 0) return;
            if (fired == 1 && W.flaw[1].fired == 0) break;
        }
    }
}

static void summary(void) {
    printf(
        "faults: %llu scenarios, %llu single runs, %llu pair runs, %llu effects, %llu findings\n",
        (unsigned long long)T.scenarios, (unsigned long long)T.singles, (unsigned long long)T.pairs,
        (unsigned long long)T.effects, (unsigned long long)T.findings);
    fflush(stdout);
}

/* ---- the campaign ---- */
static void campaign(int two, int part, int parts, uint64_t stride) {
    int turn = 0;
    for (int s = 0; s < SCENARIOS; s++) {
        uint64_t findings = T.findings;
        if (!is_scenario(s) || turn++ % parts != part) continue;
#ifdef SIGALRM
        alarm(600);
#endif
        if (two)
            pairs(s, stride);
        else
            singles(s, stride);
        if (s % (TREES * OPTS) / 7 == 0 || T.findings != findings) summary();
    }
    summary();
}

static void list(void) {
    for (int s = 0; s < SCENARIOS; s++)
        if (is_scenario(s)) {
            perform(s, NULL, 0);
            printf("%d %s %s %s %llu\n", s, stories[s / (TREES * OPTS)].name,
                   tree_names[s / OPTS % TREES], opt_names[s % OPTS],
                   (unsigned long long)W.effects);
        }
}

static int arguments(int argc, char **argv) {
    int two = 0, all = 0, scenario = -1, part = 0, parts = 1, count = 0;
    uint64_t stride = 1;
    flaw f[2];
    memset(f, 0, sizeof f);
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "0";
        if (strcmp(argv[i], "--all") == 0) all = 1;
        if (strcmp(argv[i], "--pairs") == 0) two = 1;
        if (strcmp(argv[i], "--loud") == 0) T.quiet = -1;
        if (strcmp(argv[i], "--list") == 0) list();
        if (strcmp(argv[i], "--scenario") == 0) scenario = atoi(value);
        if (strcmp(argv[i], "--stride") == 0) stride = strtoull(value, NULL, 10);
        if (strcmp(argv[i], "--part") == 0 && strchr(value, '/') != NULL) {
            part = atoi(value);
            parts = atoi(strchr(value, '/') + 1);
        }
        if (strcmp(argv[i], "--at") == 0 && count < 2) {
            const char *colon = strchr(value, ':');
            f[count].at = strtoull(value, NULL, 10);
            f[count].pick = colon != NULL ? atoi(colon + 1) : 0;
            f[count++].sticky = strchr(value, '+') != NULL;
        }
    }
    if (scenario >= 0 && count > 0) {
        int fired = perform(scenario, f, count);
        printf("%d fired, %llu effects\n", fired, (unsigned long long)W.effects);
    } else if (scenario >= 0) {
        if (two)
            pairs(scenario, stride);
        else
            singles(scenario, stride);
        summary();
    } else if (all || two)
        campaign(two, part, parts, stride);
    return T.findings != 0;
}

/* ---- the gate ---- */
static int current;

TEST(story_with_faults) { /* a part of the scenarios, and of their effects */
    int turn = 0;
    for (int s = current * TREES * OPTS; s < (current + 1) * TREES * OPTS; s++) {
        if (!is_scenario(s)) continue;
        if ((turn++ + current) % check_scale(9, 29) != 0) continue;
        singles(s, (uint64_t)check_scale(5, 31));
        if (turn < check_scale(10, 2)) pairs(s, (uint64_t)check_scale(23, 211));
    }
}

int main(int argc, char **argv) {
#ifdef SIGALRM
    signal(SIGALRM, too_long);
#endif
    if (argc > 1) return arguments(argc, argv);
    for (current = 0; current < STORIES; current++)
        check_run(stories[current].name, story_with_faults);
    summary();
    return check_done();
}
