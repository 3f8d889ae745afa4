/* faults.h: a world in which every effect can be made to fail. A test includes this instead of
 * tensormem.h.
 *
 * Whatever the header does to the outside goes through here and is counted: its allocator, the
 * callbacks of backends, fences, `idle`, and the system behind the built-in file, which is a file
 * system, a ring and a direct mode in memory. A `flaw` names one effect by its number, how it
 * fails, and whether everything of its kind on its tier fails from then on.
 *
 * The devices hold the header to its contract meanwhile: budgets, bounds, copies that overlap,
 * sources that change, memory released under a copy or a pin, tickets, submit before poll. What
 * they say depends on nothing but the calls: no clock, no address, no number by chance. */
#ifndef TENSORMEM_TESTS_FAULTS_H
#define TENSORMEM_TESTS_FAULTS_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__) && defined(__GNUC__)
#    define FAULTS_FILE
#    include <fcntl.h>
#    include <sys/mman.h>
#    include <sys/stat.h>
#    include <sys/types.h>
#    include <unistd.h>
static int os_openat(int folder, const char *path, int flags, ...);
static int os_unlinkat(int folder, const char *path, int flags);
static int os_ftruncate(int fd, int64_t size);
static int64_t os_lseek(int fd, int64_t offset, int from);
static int os_fstat(int fd, struct stat *about);
static ssize_t os_noise(int fd, void *at, size_t size);
static int os_close(int fd);
static ssize_t os_pread(int fd, void *at, size_t size, int64_t offset);
static ssize_t os_pwrite(int fd, const void *at, size_t size, int64_t offset);
static int os_fallocate(int fd, int how, int64_t at, int64_t size);
static int os_statx(int fd, uint32_t *about);
static int os_switch(int fd, int flags);
static ssize_t os_copy_range(int src, int64_t *from, int dst, int64_t *to, size_t size,
                             unsigned flags);
static long os_setup(uint32_t count, uint32_t *about);
static long os_enter(int fd, uint32_t submit, uint32_t answers, uint32_t flags);
static void *os_mmap(void *at, size_t size, int allow, int how, int fd, int64_t what);
static int os_munmap(void *at, size_t size);
#    define TNMI_SHELF_OPENAT     os_openat
#    define TNMI_SHELF_UNLINKAT   os_unlinkat
#    define TNMI_SHELF_FTRUNCATE  os_ftruncate
#    define TNMI_SHELF_LSEEK      os_lseek
#    define TNMI_SHELF_FSTAT      os_fstat
#    define TNMI_SHELF_NOISE      os_noise
#    define TNMI_SHELF_CLOSE      os_close
#    define TNMI_SHELF_PREAD      os_pread
#    define TNMI_SHELF_PWRITE     os_pwrite
#    define TNMI_SHELF_FALLOCATE  os_fallocate
#    define TNMI_SHELF_STATX      os_statx
#    define TNMI_SHELF_SWITCH     os_switch
#    define TNMI_SHELF_COPY_RANGE os_copy_range
#    define TNMI_SHELF_SETUP      os_setup
#    define TNMI_SHELF_ENTER      os_enter
#    define TNMI_SHELF_MMAP       os_mmap
#    define TNMI_SHELF_MUNMAP     os_munmap
#endif
#if defined(TENSORMEM_THREADS) && !defined(_WIN32)
#    include <pthread.h>
static int os_thread(pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *), void *of);
static int os_mutex(pthread_mutex_t *mutex, const pthread_mutexattr_t *how);
static int os_bell(pthread_cond_t *bell, const pthread_condattr_t *how);
#    define TNMI_BASE_THREAD os_thread
#    define TNMI_BASE_MUTEX  os_mutex
#    define TNMI_BASE_BELL   os_bell
#endif
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "check.h"

enum {
    WORLD_TIERS = 5,
    WORLD_BLOCKS = 48,
    WORLD_COPIES = 48,
    WORLD_HOLDS = 96,
    WORLD_QUEUES = 4,
    WORLD_GUARD = 32,   /* bytes on either side of a block that nobody may touch */
    WORLD_LONG = 300000 /* effects: nothing ends so late by itself */
};
enum { KIND_HIDDEN = 1, KIND_ASYNC = 2, KIND_SUBMIT = 4, KIND_WAIT = 8, KIND_ROOM = 16 };

/* ---- effects, and the ways in which each may fail ---- */
typedef enum effect {
    ON_HOST, /* the application's allocator */
    ON_ALLOC,
    ON_AVAILABLE,
    ON_COPY,
    ON_POLL,
    ON_WAIT,
    ON_PASSED,
    ON_IDLE,
    ON_WRITER,
    ON_THREAD,
    ON_MUTEX,
    ON_BELL,
    ON_OPEN,
    ON_UNLINK,
    ON_TRUNCATE,
    ON_SEEK,
    ON_STAT,
    ON_NOISE,
    ON_PREAD,
    ON_PWRITE,
    ON_RESERVE,
    ON_STATX,
    ON_SWITCH,
    ON_RANGE,
    ON_SETUP,
    ON_ENTER,
    ON_MAP,
    ON_ANSWER,
    EFFECTS
} effect;

enum { /* what a call may say of it, beside BACKEND; and what it does to the world */
       SAYS_MEMORY = 1,
       SAYS_BUDGET = 2,
       SAYS_PENDING = 4,
       SAYS_UNSUPPORTED = 8,
       SAYS_LOST = 16,
       IS_SIGNAL = 32,  /* EINTR: it does not go on for ever */
       IS_HARMLESS = 64 /* nobody needs to be told */
};

typedef struct manner { /* of failing: a result or an errno, and the above */
    int with;
    unsigned what;
} manner;

enum { MANNERS = 6, PARTLY = 10001, LATE = 10002, DOOMED = 10003, NOTHING = 10004 };

static const struct {
    const char *name;
    manner how[MANNERS]; /* ends at with == 0 */
} effects[EFFECTS] = {
    { "alloc of the context", { { TNM_ERR_MEMORY, SAYS_MEMORY | SAYS_BUDGET } } },
    { "alloc",
      { { TNM_ERR_MEMORY, SAYS_MEMORY | SAYS_BUDGET },
        { TNM_ERR_BACKEND, SAYS_MEMORY | SAYS_BUDGET },
        { TNM_ERR_LOST, SAYS_MEMORY | SAYS_BUDGET | SAYS_LOST } } },
    { "available", { { NOTHING, SAYS_MEMORY | SAYS_BUDGET } } },
    { "copy",
      { { TNM_ERR_BACKEND, 0 },
        { TNM_ERR_BUSY, SAYS_PENDING },
        { DOOMED, 0 },
        { TNM_ERR_LOST, SAYS_BUDGET | SAYS_LOST } } },
    { "poll",
      { { TNM_ERR_BACKEND, 0 },
        { LATE, SAYS_PENDING },
        { TNM_ERR_LOST, SAYS_BUDGET | SAYS_LOST } } },
    { "wait",
      { { TNM_ERR_BACKEND, 0 },
        { LATE, SAYS_PENDING },
        { TNM_ERR_LOST, SAYS_BUDGET | SAYS_LOST } } },
    { "passed", { { LATE, SAYS_PENDING | SAYS_BUDGET }, { NOTHING, SAYS_LOST } } },
    { "idle", { { NOTHING, SAYS_PENDING } } },
    { "writer", { { NOTHING, 0 } } },
    { "thread", { { EAGAIN, SAYS_MEMORY } } },
    { "mutex", { { ENOMEM, SAYS_MEMORY } } },
    { "bell", { { ENOMEM, SAYS_MEMORY } } },
    { "open", { { EACCES, 0 }, { EMFILE, 0 }, { EINTR, IS_SIGNAL | IS_HARMLESS } } },
    { "unlink", { { EACCES, 0 } } },
    { "ftruncate", { { EIO, SAYS_BUDGET }, { EINTR, IS_SIGNAL | IS_HARMLESS } } },
    { "lseek", { { EIO, 0 } } },
    { "fstat", { { EIO, 0 } } },
    { "noise", { { EIO, 0 }, { PARTLY, 0 } } },
    { "pread",
      { { EIO, 0 },
        { PARTLY, IS_HARMLESS },
        { EINTR, IS_SIGNAL | IS_HARMLESS },
        { NOTHING, 0 },
        { EINVAL, 0 } } },
    { "pwrite",
      { { EIO, SAYS_BUDGET },
        { ENOSPC, SAYS_BUDGET },
        { PARTLY, IS_HARMLESS },
        { EINTR, IS_SIGNAL | IS_HARMLESS },
        { EINVAL, SAYS_BUDGET } } },
    { "fallocate",
      { { ENOSPC, SAYS_BUDGET | SAYS_MEMORY },
        { EINTR, IS_SIGNAL | IS_HARMLESS },
        { EOPNOTSUPP, IS_HARMLESS },
        { EIO, SAYS_BUDGET | SAYS_MEMORY } } },
    { "statx", { { EIO, IS_HARMLESS }, { NOTHING, IS_HARMLESS } } },
    { "F_SETFL", { { EINVAL, IS_HARMLESS } } },
    { "copy_file_range",
      { { EXDEV, IS_HARMLESS },
        { PARTLY, IS_HARMLESS },
        { EINTR, IS_SIGNAL | IS_HARMLESS },
        { NOTHING, IS_HARMLESS } } },
    { "io_uring_setup", { { ENOSYS, IS_HARMLESS } } },
    { "io_uring_enter",
      { { EAGAIN, IS_HARMLESS }, { EPERM, IS_HARMLESS }, { EINTR, IS_SIGNAL | IS_HARMLESS } } },
    { "mmap", { { ENOMEM, IS_HARMLESS } } },
    { "answer of the ring",
      { { EIO, SAYS_BUDGET },
        { PARTLY, IS_HARMLESS },
        { ENOSPC, SAYS_BUDGET },
        { EINVAL, IS_HARMLESS },
        { EAGAIN, IS_HARMLESS },
        { ECANCELED, IS_HARMLESS } } },
};

typedef struct flaw { /* the effect with this number fails; 0 = none */
    uint64_t at;
    int pick, sticky; /* in which manner; and all of its kind and tier from then on */
    /* as it happened */
    int kind, tier, manners, over;
    uint64_t fired;
} flaw;

/* ---- the world ---- */
typedef struct block {
    uint8_t *raw, *at; /* at NULL = free slot */
    uint64_t mem, size;
    int lent; /* not from alloc: to be adopted */
} block;

typedef struct device {
    int tier, kind, used, lost, peers;
    uint64_t limit, held; /* the budget in force: growing past it is a breach */
    int losses;           /* how often its memory went */
    int top;              /* no block at or behind it */
    block blocks[WORLD_BLOCKS];
} device;

typedef struct copying {
    device *by; /* NULL = free slot */
    device *touches[2];
    uint8_t *to, *from;
    uint64_t size, ticket, hash;
    int left, submitted, doomed;
} copying;

typedef struct hold { /* memory a pin or a fence promises not to touch */
    uint8_t *at;
    uint64_t size, fence;
    int write, tier;
} hold;

enum { FILES = 3, FILE_BYTES = 1 << 18, FDS = 16, FD_FIRST = 1000, RING_MOST = 16 };

typedef struct disk_file {
    int used, links, opens, read_only;
    uint64_t size;
} disk_file;

typedef struct disk_fd {
    int what; /* 0 = closed; 1 + file; or one of the below */
    int flags;
} disk_fd;

enum { FD_NOISE = 100, FD_FOLDER, FD_RING };

static struct world {
    uint64_t effects;
    flaw flaw[2];
    int armed;   /* any flaw that is not over */
    int gave_up; /* `idle` said so, in a call that was not heard yet */
    int stays;   /* the one that fired last goes on */
    uint64_t counts[EFFECTS];
    device device[WORLD_TIERS];
    copying copies[WORLD_COPIES];
    int copies_top;
    hold holds[WORLD_HOLDS];
    int holds_top;
    uint64_t tickets;
    int inside;
    uint64_t now[WORLD_QUEUES], told[WORLD_QUEUES];
    uint64_t asked[WORLD_QUEUES];
    int dead[WORLD_QUEUES];
    uint64_t log_items, events, text;
    int reading, loud;
    void (*on_loss)(int tier);   /* a device dies with everything on it */
    void (*on_death)(int queue); /* a queue is dead */
    /* the system */
    disk_file file[FILES];
    disk_fd fd[FDS];
    int maps, losses;
    int file_tier;
} W;

/* Fails: a breach of the contract by the header. */
#define WORLD_MUST(cond)                                                                           \
    ((cond) ? (void)0 : check_fail(__FILE__, __LINE__, "backend contract: " #cond))

static void world_hangs(const char *how); /* the test's: prints how to repeat it and exits */

static int world_manners(int kind) {
    int n = 0;
    while (n < MANNERS && effects[kind].how[n].with != 0)
        n++;
    return n;
}

/* One more effect: NULL, or the manner in which it fails. */
static const manner *world_struck(int kind, int tier) {
    const manner *found = NULL;
    for (int i = 0; i < 2; i++) {
        flaw *f = &W.flaw[i];
        if (f->at == 0 || f->over || found != NULL) continue;
        if (f->fired == 0) {
            if (W.effects != f->at) continue;
            f->kind = kind;
            f->tier = tier;
            f->manners = world_manners(kind);
        } else if (!f->sticky || f->kind != kind || f->tier != tier)
            continue;
        found = &effects[kind].how[f->pick % f->manners];
        if ((found->what & IS_SIGNAL) != 0 && f->fired % 4 == 3) { /* it comes through at last */
            found = NULL;
            f->fired++;
            continue;
        }
        f->fired++;
        W.stays = f->sticky;
    }
    return found;
}

static inline const manner *world_effect(int kind, int tier) {
    W.counts[kind]++;
    if (++W.effects > WORLD_LONG) world_hangs("effects without end");
    return W.armed ? world_struck(kind, tier) : NULL;
}

/* ---- payloads: a pure function of name and offset, in words ---- */
static inline uint64_t world_word(uint64_t key, uint64_t k) {
    uint64_t x = (key * 0x9E3779B97F4A7C15u) ^ (k * 0xD6E8FEB86659FD93u);
    return (x ^ (x >> 29)) | 0x0101010101010101u; /* never zeros */
}

static void world_fill(uint8_t *at, uint64_t key, uint64_t offset, uint64_t size) {
    for (uint64_t i = 0; i < size;) {
        uint64_t word = world_word(key, (offset + i) / 8), skip = (offset + i) % 8;
        uint64_t part = 8 - skip < size - i ? 8 - skip : size - i;
        memcpy(at + i, (const uint8_t *)&word + skip, (size_t)part);
        i += part;
    }
}

static int world_same(const uint8_t *at, uint64_t key, uint64_t offset, uint64_t size) {
    for (uint64_t i = 0; i < size;) {
        uint64_t word = world_word(key, (offset + i) / 8), skip = (offset + i) % 8;
        uint64_t part = 8 - skip < size - i ? 8 - skip : size - i;
        if (memcmp(at + i, (const uint8_t *)&word + skip, (size_t)part) != 0) return 0;
        i += part;
    }
    return 1;
}

static int world_all(const uint8_t *at, int value, uint64_t size) {
    for (uint64_t i = 0; i < size; i++)
        if (at[i] != value) return 0;
    return 1;
}

static uint64_t world_hash(const uint8_t *at, uint64_t size) {
    uint64_t hash = size, word = 0;
    for (uint64_t i = 0; i + 8 <= size; i += 8) {
        memcpy(&word, at + i, 8);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 31;
    }
    for (uint64_t i = size & ~(uint64_t)7; i < size; i++)
        hash = (hash ^ at[i]) * 0x100000001B3u;
    return hash;
}

/* ---- blocks of a device ---- */
static block *world_find(device *d, uint64_t mem) {
    for (int i = 0; i < d->top; i++)
        if (d->blocks[i].at != NULL && d->blocks[i].mem == mem) return &d->blocks[i];
    return NULL;
}

static block *world_make(device *d, uint64_t size, uint64_t align) {
    block *b = d->blocks;
    uint64_t room = size + align + 2 * WORLD_GUARD;
    while (b < d->blocks + WORLD_BLOCKS && b->at != NULL)
        b++;
    if (b == d->blocks + WORLD_BLOCKS || room < size) return NULL;
    b->raw = (uint8_t *)malloc((size_t)room);
    if (b->raw == NULL) return NULL;
    b->at = b->raw + WORLD_GUARD;
    b->at += (align - (uintptr_t)b->at % align) % align;
    b->size = size;
    b->lent = 0;
    b->mem = (uint64_t)(uintptr_t)b->at;
    if ((d->kind & KIND_HIDDEN) != 0)
        b->mem = 0xBAD0000000000000u ^
                 ((uint64_t)(b - d->blocks) * 0x10001u + (uint64_t)d->tier * 0x777u + 1);
    if (d->top <= (int)(b - d->blocks)) d->top = (int)(b - d->blocks) + 1;
    memset(b->at - WORLD_GUARD, 0xC3, WORLD_GUARD);
    memset(b->at, 0xDA, (size_t)size);
    memset(b->at + size, 0xC3, WORLD_GUARD);
    return b;
}

static void world_unmake(block *b) {
    WORLD_MUST(world_all(b->at - WORLD_GUARD, 0xC3, WORLD_GUARD));
    WORLD_MUST(world_all(b->at + b->size, 0xC3, WORLD_GUARD));
    tnmi_base_ordinary(b->at, b->size);
    memset(b->at, 0xDA, (size_t)b->size);
    free(b->raw);
    memset(b, 0, sizeof *b);
}

static int world_overlap(const uint8_t *a, uint64_t na, const uint8_t *b, uint64_t nb) {
    return (uintptr_t)a < (uintptr_t)b + nb && (uintptr_t)b < (uintptr_t)a + na;
}

/* ---- what pins and fences promise ---- */
static int world_open(uint64_t fence) {
    unsigned queue = (unsigned)(fence >> TNMI_FENCE_BITS) % WORLD_QUEUES;
    return fence == 0 || (!W.dead[queue] && tnmi_engine_fence_value(fence) > W.told[queue]);
}

static int world_held(const uint8_t *at, uint64_t size, int only_write) {
    for (int i = 0; i < W.holds_top; i++) {
        const hold *h = &W.holds[i];
        if (h->at == NULL || (only_write && !h->write) || !world_open(h->fence)) continue;
        if (world_overlap(h->at, h->size, at, size)) return 1;
    }
    return 0;
}

static void world_hold(uint8_t *at, const tnm_pinned *p) {
    int i = 0;
    if (at == NULL) return;
    while (i < WORLD_HOLDS && W.holds[i].at != NULL && world_open(W.holds[i].fence))
        i++;
    WORLD_MUST(i < WORLD_HOLDS);
    if (i == WORLD_HOLDS) return;
    if (W.holds_top <= i) W.holds_top = i + 1;
    W.holds[i].at = at;
    W.holds[i].size = p->bytes;
    W.holds[i].fence = 0;
    W.holds[i].write = p->access != TNM_READ;
    W.holds[i].tier = p->tier;
}

/* before the unpin; a fence keeps it */
static void world_let_go(uint8_t *at, const tnm_pinned *p, uint64_t fence) {
    for (int i = 0; at != NULL && i < W.holds_top; i++) {
        hold *h = &W.holds[i];
        if (h->at != at || h->fence != 0 || h->size != p->bytes) continue;
        if (h->write != (p->access != TNM_READ)) continue;
        h->fence = fence;
        if (fence == 0) memset(h, 0, sizeof *h);
        return;
    }
}

/* ---- the callbacks of a device ---- */
static void world_enter(void) {
    WORLD_MUST(W.inside == 0); /* one callback at a time */
    W.inside++;
}

static void world_lose(device *d, int again) {
    if (!again && W.on_loss) W.on_loss(d->tier);
    d->lost = 1;
    d->losses++;
    W.losses++;
    for (int i = 0; i < W.copies_top; i++) {
        copying *c = &W.copies[i];
        if (c->by == NULL || (c->by != d && c->touches[0] != d && c->touches[1] != d)) continue;
        c->doomed = 1;
        if (c->by == d) c->by = NULL;
    }
    for (int i = 0; i < W.holds_top; i++)
        if (W.holds[i].tier == d->tier) memset(&W.holds[i], 0, sizeof W.holds[i]);
    for (int i = 0; !again && i < d->top; i++) {
        if (d->blocks[i].at == NULL) continue;
        tnmi_base_ordinary(d->blocks[i].at, d->blocks[i].size); /* the engine's marks are void */
        memset(d->blocks[i].at, 0xDA, (size_t)d->blocks[i].size);
    }
}

/* How the callback fails, or OK; a device that says LOST is gone, once or until it is revived. */
static tnm_result world_verdict(device *d, const manner *m) {
    if (d->lost) return TNM_ERR_LOST;
    if (m == NULL || m->with > 0) return TNM_OK;
    if (m->with == TNM_ERR_LOST) {
        world_lose(d, 0);
        d->lost = W.stays;
    }
    return (tnm_result)m->with;
}

static tnm_result device_alloc(void *user, uint64_t size, uint64_t align, void *item, uint64_t *mem,
                               void **host) {
    device *d = (device *)user;
    const manner *m;
    block *b = NULL;
    tnm_result r;
    (void)item;
    world_enter();
    m = world_effect(ON_ALLOC, d->tier);
    r = world_verdict(d, m);
    WORLD_MUST(size >= 1 && align >= 1 && (align & (align - 1)) == 0);
    WORLD_MUST(d->held + size <= d->limit); /* P2: not even for an instant */
    if (r == TNM_OK && (b = world_make(d, size, align)) == NULL) r = TNM_ERR_MEMORY;
    if (b != NULL) {
        d->held += size;
        *mem = b->mem;
        *host = (d->kind & KIND_HIDDEN) != 0 ? NULL : b->at;
    }
    W.inside--;
    return r;
}

static void device_release(void *user, uint64_t mem, uint64_t size) {
    device *d = (device *)user;
    block *b = world_find(d, mem);
    world_enter();
    WORLD_MUST(b != NULL && !b->lent);
    if (b != NULL && !b->lent) {
        WORLD_MUST(b->size == size);
        for (int i = 0; i < W.copies_top; i++) {
            const copying *c = &W.copies[i];
            if (c->by == NULL || c->doomed) continue;
            WORLD_MUST(!world_overlap(c->to, c->size, b->at, b->size));
            WORLD_MUST(!world_overlap(c->from, c->size, b->at, b->size));
        }
        WORLD_MUST(!world_held(b->at, b->size, 0)); /* P3 */
        d->held -= b->size;
        world_unmake(b);
    }
    W.inside--;
}

static uint64_t device_available(void *user) {
    device *d = (device *)user;
    const manner *m;
    world_enter();
    m = world_effect(ON_AVAILABLE, d->tier);
    W.inside--;
    return m != NULL ? 0 : UINT64_MAX;
}

/* where one end of a copy really is; NULL = not a place of ours */
static uint8_t *world_reach(const tnm_span *s, uint64_t size, device **of) {
    block *b;
    *of = NULL;
    if (s->backend == NULL || s->backend->alloc != device_alloc) return (uint8_t *)s->host;
    *of = (device *)s->backend->user;
    b = world_find(*of, s->mem);
    WORLD_MUST((*of)->tier == s->tier);
    WORLD_MUST(b != NULL && s->offset <= b->size && size <= b->size - s->offset);
    if (b == NULL || s->offset > b->size || size > b->size - s->offset) return NULL;
    WORLD_MUST(s->adopted == b->lent);
    WORLD_MUST(s->host == (((*of)->kind & KIND_HIDDEN) != 0 ? NULL : b->at + s->offset));
    return b->at + s->offset;
}

static int world_route(const device *d, const tnm_span *dst, const tnm_span *src) {
    int to = dst->backend != NULL && dst->backend->user == d;
    int from = src->backend != NULL && src->backend->user == d;
    const tnm_span *other = to ? src : dst;
    if (!to && !from) return 0;
    return (to && from) || other->host != NULL || d->peers;
}

static void world_clear(const uint8_t *to, const uint8_t *from, uint64_t size, int user_end) {
    WORLD_MUST(!world_overlap(to, size, from, size));
    for (int i = 0; i < W.copies_top; i++) {
        const copying *c = &W.copies[i];
        if (c->by == NULL || c->doomed) continue;
        WORLD_MUST(!world_overlap(to, size, c->to, c->size));
        WORLD_MUST(!world_overlap(to, size, c->from, c->size));
        WORLD_MUST(!world_overlap(from, size, c->to, c->size));
    }
    if (user_end) return;                 /* tnm_read and tnm_write are the caller's own accesses */
    WORLD_MUST(!world_held(to, size, 0)); /* P3: nothing lands in pinned memory */
    if (!W.reading) WORLD_MUST(!world_held(from, size, 1)); /* nor is it read while it is written */
}

static tnm_result world_start(copying what, uint64_t *ticket) {
    int i = 0;
    while (i < WORLD_COPIES && W.copies[i].by != NULL)
        i++;
    if (i == WORLD_COPIES) return TNM_ERR_BUSY;
    if ((what.by->kind & KIND_ASYNC) == 0 && !what.doomed) {
        memcpy(what.to, what.from, (size_t)what.size);
        return TNM_OK;
    }
    what.hash = world_hash(what.from, what.size);
    memset(what.to, 0xE7, (size_t)what.size);
    what.ticket = ++W.tickets;
    what.left = (int)(what.ticket * 7 % 4);
    if (W.copies_top <= i) W.copies_top = i + 1;
    W.copies[i] = what;
    *ticket = what.ticket;
    return TNM_PENDING;
}

static tnm_result device_copy(void *user, const tnm_span *dst, const tnm_span *src, uint64_t size,
                              uint64_t *ticket) {
    copying c;
    const manner *m;
    tnm_result r;
    memset(&c, 0, sizeof c);
    c.by = (device *)user;
    c.size = size;
    world_enter();
    c.to = world_reach(dst, size, &c.touches[0]);
    c.from = world_reach(src, size, &c.touches[1]);
    WORLD_MUST(size >= 1);
    if (c.to == NULL || c.from == NULL || !world_route(c.by, dst, src)) {
        W.inside--;
        return TNM_ERR_UNSUPPORTED;
    }
    m = world_effect(ON_COPY, c.by->tier);
    r = world_verdict(c.by, m);
    if (r == TNM_OK) world_clear(c.to, c.from, size, dst->tier < 0 || src->tier < 0);
    if (r == TNM_ERR_BACKEND) memset(c.to, 0xE7, (size_t)(size + 1) / 2);
    c.doomed = m != NULL && m->with == DOOMED && (c.by->kind & KIND_ASYNC) != 0;
    if (m != NULL && m->with == DOOMED && !c.doomed) r = TNM_ERR_BACKEND;
    if (r == TNM_OK) r = world_start(c, ticket);
    W.inside--;
    return r;
}

static void device_submit(void *user) {
    world_enter();
    for (int i = 0; i < W.copies_top; i++)
        if (W.copies[i].by == (device *)user) W.copies[i].submitted = 1;
    W.inside--;
}

static tnm_result world_ask(device *d, uint64_t ticket, int kind) {
    const manner *m;
    copying *c = NULL;
    tnm_result r;
    world_enter();
    for (int i = 0; i < W.copies_top; i++)
        if (W.copies[i].by == d && W.copies[i].ticket == ticket) c = &W.copies[i];
    WORLD_MUST(c != NULL || d->lost || ticket <= W.tickets);
    m = world_effect(kind, d->tier);
    r = world_verdict(d, m);
    if (c == NULL) { /* it went with the device */
        W.inside--;
        return r == TNM_OK ? TNM_ERR_LOST : r;
    }
    WORLD_MUST(c->submitted || (d->kind & KIND_SUBMIT) == 0);
    if (r == TNM_OK && m != NULL && m->with == LATE) r = TNM_PENDING;
    if (r == TNM_OK && kind == ON_POLL && c->left-- > 0) r = TNM_PENDING;
    if (r == TNM_OK && c->doomed) r = TNM_ERR_BACKEND;
    if (r == TNM_OK) {
        WORLD_MUST(world_hash(c->from, c->size) == c->hash); /* the source changed */
        memcpy(c->to, c->from, (size_t)c->size);
    }
    if (r != TNM_PENDING) c->by = NULL;
    W.inside--;
    return r;
}

static tnm_result device_poll(void *user, uint64_t ticket) {
    return world_ask((device *)user, ticket, ON_POLL);
}

static tnm_result device_wait(void *user, uint64_t ticket) {
    return world_ask((device *)user, ticket, ON_WAIT);
}

static device *world_device(int tier, int kind, uint64_t budget, tnm_backend *out) {
    device *d = &W.device[tier];
    memset(out, 0, sizeof *out);
    d->used = 1;
    d->tier = tier;
    d->kind = kind;
    d->limit = budget > 0 ? budget : UINT64_MAX;
    out->alloc = device_alloc;
    out->release = device_release;
    out->copy = device_copy;
    if ((kind & KIND_ASYNC) != 0) out->poll = device_poll;
    if ((kind & KIND_SUBMIT) != 0) out->submit = device_submit;
    if ((kind & KIND_WAIT) != 0) out->wait = device_wait;
    if ((kind & KIND_ROOM) != 0) out->available = device_available;
    out->user = d;
    return d;
}

/* ---- the context's callbacks ---- */
static void *world_alloc(void *user, size_t size) {
    (void)user;
    return world_effect(ON_HOST, -1) != NULL ? NULL : check_alloc(NULL, size);
}

static void world_release(void *user, void *ptr, size_t size) {
    (void)user;
    check_release(NULL, ptr, size);
}

static uint64_t world_passed(void *user, uint32_t queue, uint64_t wait_for) {
    const manner *m;
    (void)user;
    world_enter();
    WORLD_MUST(queue < WORLD_QUEUES);
    queue %= WORLD_QUEUES;
    m = world_effect(ON_PASSED, (int)queue);
    if (m != NULL && m->with == NOTHING && !W.dead[queue]) {
        W.dead[queue] = 1;
        if (W.on_death) W.on_death((int)queue);
    }
    if (m == NULL && ++W.asked[queue] % 4 == 0) W.now[queue]++; /* the device gets on */
    if (m == NULL && wait_for > W.now[queue]) W.now[queue] = wait_for;
    if (m == NULL) W.told[queue] = W.now[queue];
    W.inside--;
    return W.dead[queue] ? UINT64_MAX : W.told[queue];
}

static void world_heal(void);

/* What a program does that waits: it gives up what a flaw keeps from ending, and nothing else. What
 * is copied to or from plain memory is waited for all the same: then the device gets on at last. */
static int world_idle(void *user, uint64_t rounds) {
    int gives_up = 0;
    (void)user;
    if (world_effect(ON_IDLE, -1) != NULL) W.gave_up = 1;
    for (int i = 0; i < 2; i++) {
        const flaw *f = &W.flaw[i];
        if (f->fired == 0 || f->over || !f->sticky) continue;
        gives_up |= (effects[f->kind].how[f->pick % f->manners].what & SAYS_PENDING) != 0;
    }
    if (gives_up && rounds > 200) world_heal();
    if (rounds > 3000) world_hangs("a call waits for nothing"); /* P4 */
    W.gave_up |= gives_up && rounds >= 40;
    return W.gave_up;
}

static void world_log(void *user, const tnm_log *item) {
    (void)user;
    WORLD_MUST(item->rule != NULL && item->rule[0] != '\0');
    W.log_items++;
    if (W.loud)
        printf("  log %d %s: %s (%d) tier %d\n", (int)item->level,
               item->call != NULL ? item->call : "-", item->rule, (int)item->result, item->tier);
}

static void world_trace(void *user, const tnm_event *e) {
    (void)user;
    W.events++;
    WORLD_MUST(e->seq > 0 || W.events >= 1);
    if (W.loud)
        printf("  event %d tier %d from %d result %d tensor %llx offset %llu bytes %llu detail "
               "%llu\n",
               (int)e->kind, e->tier, e->from, (int)e->result, (unsigned long long)e->tensor,
               (unsigned long long)e->offset, (unsigned long long)e->bytes,
               (unsigned long long)e->detail);
}

static int world_write(void *user, const char *text, uint64_t bytes) {
    (void)user;
    (void)text;
    W.text += bytes;
    return world_effect(ON_WRITER, -1) != NULL;
}

#ifdef FAULTS_FILE
/* ---- a file system in memory ---- */
static uint8_t disk[FILES][FILE_BYTES];

static int os_fail(const manner *m) {
    errno = m->with;
    return -1;
}

static disk_file *os_file(int fd) {
    int i = fd - FD_FIRST;
    WORLD_MUST(i >= 0 && i < FDS && W.fd[i].what >= 1 && W.fd[i].what <= FILES);
    if (i < 0 || i >= FDS || W.fd[i].what < 1 || W.fd[i].what > FILES) return NULL;
    return &W.file[W.fd[i].what - 1];
}

static int os_direct(int fd) {
    return (W.fd[fd - FD_FIRST].flags & TNMI_SHELF_DIRECT) != 0;
}

static int os_new_fd(int what, int flags) {
    for (int i = 0; i < FDS; i++) {
        if (W.fd[i].what != 0) continue;
        W.fd[i].what = what;
        W.fd[i].flags = flags;
        if (what <= FILES) W.file[what - 1].opens++;
        return FD_FIRST + i;
    }
    errno = EMFILE;
    return -1;
}

static int os_new_file(int links, int flags) {
    for (int i = 0; i < FILES; i++) {
        if (W.file[i].used) continue;
        memset(&W.file[i], 0, sizeof W.file[i]);
        W.file[i].used = 1;
        W.file[i].links = links;
        return os_new_fd(1 + i, flags);
    }
    errno = ENOSPC;
    return -1;
}

/* A file of the application's; file 0 */
static void disk_put(uint64_t size) {
    W.file[0].used = W.file[0].links = W.file[0].read_only = 1;
    W.file[0].size = size;
}

static int os_openat(int folder, const char *path, int flags, ...) {
    const manner *m = world_effect(ON_OPEN, W.file_tier);
    if (m != NULL) return os_fail(m);
    if (strcmp(path, "/dev/urandom") == 0) return os_new_fd(FD_NOISE, flags);
    if (strcmp(path, "folder") == 0) {
        errno = EEXIST;
        return (flags & O_CREAT) != 0 ? -1 : os_new_fd(FD_FOLDER, flags);
    }
    if (strcmp(path, "model") == 0) {
        WORLD_MUST((flags & (O_CREAT | O_RDWR | O_WRONLY)) == 0);
        return os_new_fd(1, flags);
    }
    if (strcmp(path, ".") == 0) return os_new_file(0, flags);
    WORLD_MUST((flags & O_CREAT) != 0 && (flags & O_EXCL) != 0);
    (void)folder;
    return os_new_file(1, flags);
}

static int os_unlinkat(int folder, const char *path, int flags) {
    const manner *m = world_effect(ON_UNLINK, W.file_tier);
    (void)folder;
    (void)flags;
    (void)path;
    for (int i = 1; i < FILES; i++) {
        if (W.file[i].links == 0) continue;
        if (m == NULL || m->with != EACCES) W.file[i].links = 0;
        if (m == NULL) return 0;
        W.file[i].links = 0; /* the name stays, and is nobody's file any more */
        return os_fail(m);
    }
    check_fail(__FILE__, __LINE__, "no such name");
    return -1;
}

static int os_close(int fd) {
    int i = fd - FD_FIRST;
    WORLD_MUST(i >= 0 && i < FDS && W.fd[i].what != 0);
    if (i < 0 || i >= FDS || W.fd[i].what == 0) return -1;
    if (W.fd[i].what <= FILES) {
        disk_file *f = &W.file[W.fd[i].what - 1];
        if (--f->opens == 0 && f->links == 0) f->used = 0;
    }
    memset(&W.fd[i], 0, sizeof W.fd[i]);
    return 0;
}

static void disk_grow(disk_file *f, uint64_t size) {
    if (size > f->size) memset(&disk[f - W.file][f->size], 0, (size_t)(size - f->size));
    f->size = size;
}

static int os_ftruncate(int fd, int64_t size) {
    const manner *m = world_effect(ON_TRUNCATE, W.file_tier);
    if (m != NULL) return os_fail(m);
    WORLD_MUST(!os_file(fd)->read_only);
    if (size > FILE_BYTES) {
        errno = ENOSPC;
        return -1;
    }
    disk_grow(os_file(fd), (uint64_t)size);
    return 0;
}

static int64_t os_lseek(int fd, int64_t offset, int from) {
    const manner *m = world_effect(ON_SEEK, W.file_tier);
    WORLD_MUST(offset == 0 && from == SEEK_END);
    return m != NULL ? os_fail(m) : (int64_t)os_file(fd)->size;
}

static int os_fstat(int fd, struct stat *about) {
    const manner *m = world_effect(ON_STAT, W.file_tier);
    memset(about, 0, sizeof *about);
    about->st_mode = S_IFREG;
    (void)os_file(fd);
    return m != NULL ? os_fail(m) : 0;
}

static ssize_t os_noise(int fd, void *at, size_t size) {
    const manner *m = world_effect(ON_NOISE, W.file_tier);
    WORLD_MUST(W.fd[fd - FD_FIRST].what == FD_NOISE);
    memset(at, 0x42 + (int)(W.effects & 7), size);
    return m == NULL ? (ssize_t)size : m->with == PARTLY ? (ssize_t)size - 1 : os_fail(m);
}

static int os_fits(int fd, const void *at, uint64_t size, int64_t offset) {
    if (!os_direct(fd)) return 1;
    return (uint64_t)offset % 512 == 0 && size % 512 == 0 && (uintptr_t)at % 512 == 0;
}

static ssize_t disk_read(int fd, void *at, uint64_t size, int64_t offset) {
    disk_file *f = os_file(fd);
    uint64_t there = (uint64_t)offset < f->size ? f->size - (uint64_t)offset : 0;
    if (!os_fits(fd, at, size, offset)) {
        errno = EINVAL;
        return -1;
    }
    if (size > there) size = there;
    memcpy(at, &disk[f - W.file][offset], (size_t)size);
    return (ssize_t)size;
}

static ssize_t disk_write(int fd, const void *at, uint64_t size, int64_t offset) {
    disk_file *f = os_file(fd);
    WORLD_MUST(!f->read_only);
    if (!os_fits(fd, at, size, offset) || f->read_only) {
        errno = EINVAL;
        return -1;
    }
    if ((uint64_t)offset + size > FILE_BYTES) {
        errno = ENOSPC;
        return -1;
    }
    if ((uint64_t)offset > f->size) disk_grow(f, (uint64_t)offset);
    memcpy(&disk[f - W.file][offset], at, (size_t)size);
    if ((uint64_t)offset + size > f->size) f->size = (uint64_t)offset + size;
    return (ssize_t)size;
}

static uint64_t os_short(int fd, uint64_t size) { /* of a direct transfer whole sectors */
    return os_direct(fd) ? (size > 512 ? size / 1024 * 512 + 512 : size) : (size + 2) / 3;
}

static ssize_t os_pread(int fd, void *at, size_t size, int64_t offset) {
    const manner *m = world_effect(ON_PREAD, W.file_tier);
    if (m == NULL) return disk_read(fd, at, size, offset);
    if (m->with == NOTHING) return 0;
    if (m->with == PARTLY) return disk_read(fd, at, os_short(fd, size), offset);
    if (m->with == EIO) memset(at, 0xE7, size / 2);
    return os_fail(m);
}

static ssize_t os_pwrite(int fd, const void *at, size_t size, int64_t offset) {
    const manner *m = world_effect(ON_PWRITE, W.file_tier);
    if (m == NULL) return disk_write(fd, at, size, offset);
    if (m->with == PARTLY) return disk_write(fd, at, os_short(fd, size), offset);
    if (m->with == EIO && !os_direct(fd)) (void)disk_write(fd, at, size / 2, offset);
    return os_fail(m);
}

static int os_fallocate(int fd, int how, int64_t at, int64_t size) {
    disk_file *f = os_file(fd);
    const manner *m = world_effect(ON_RESERVE, W.file_tier);
    uint64_t end = (uint64_t)at + (uint64_t)size;
    WORLD_MUST(!f->read_only && size > 0);
    if (m != NULL) return os_fail(m);
    if (how != 0) { /* a hole */
        if ((uint64_t)at < f->size) {
            uint64_t bytes = (end < f->size ? end : f->size) - (uint64_t)at;
            memset(&disk[f - W.file][at], 0, (size_t)bytes);
        }
        return 0;
    }
    if (end > FILE_BYTES) {
        errno = ENOSPC;
        return -1;
    }
    if (end > f->size) disk_grow(f, end);
    return 0;
}

static int os_statx(int fd, uint32_t *about) {
    const manner *m = world_effect(ON_STATX, W.file_tier);
    (void)os_file(fd);
    if (m != NULL && m->with == EIO) return os_fail(m);
    about[0] = 0x2000;
    about[38] = about[39] = m != NULL ? 0 : 512;
    return 0;
}

static int os_switch(int fd, int flags) {
    const manner *m = world_effect(ON_SWITCH, W.file_tier);
    (void)os_file(fd);
    if (m != NULL) return os_fail(m);
    W.fd[fd - FD_FIRST].flags = flags;
    return 0;
}

static ssize_t os_copy_range(int src, int64_t *from, int dst, int64_t *to, size_t size,
                             unsigned flags) {
    const manner *m = world_effect(ON_RANGE, W.file_tier);
    disk_file *f = os_file(src);
    ssize_t done;
    (void)flags;
    WORLD_MUST(!os_direct(src) && !os_direct(dst));
    if (m != NULL && m->with == NOTHING) return 0;
    if (m != NULL && m->with != PARTLY) return os_fail(m);
    if (m != NULL) size = (size + 2) / 3;
    if ((uint64_t)*from >= f->size) return 0;
    if (size > f->size - (uint64_t)*from) size = (size_t)(f->size - (uint64_t)*from);
    done = disk_write(dst, &disk[f - W.file][*from], size, *to);
    if (done > 0) *from += done;
    if (done > 0) *to += done;
    return done;
}

/* ---- a ring: carries a transfer out when it answers, the youngest first now and then ---- */
static struct ring {
    tnmi_shelf_entry entry[RING_MOST], held[RING_MOST];
    uint32_t queue[16 + RING_MOST + RING_MOST * 8]; /* aligned as the entries are */
    tnmi_shelf_vec vec[RING_MOST][TNMI_SHELF_VECS];
    uint32_t count, size; /* held; entries of the queue */
    uint64_t told;
} ring;

static long os_setup(uint32_t count, uint32_t *about) {
    const manner *m = world_effect(ON_SETUP, W.file_tier);
    uint32_t size = 1;
    if (m != NULL) return os_fail(m);
    while (size < count)
        size *= 2;
    WORLD_MUST(size <= RING_MOST);
    memset(ring.queue, 0, sizeof ring.queue);
    ring.count = 0;
    ring.size = about[0] = size;
    about[1] = 2 * size;
    about[5] = 7;
    about[10] = 0; /* offsets of: sq head, tail */
    about[11] = 4;
    about[16] = 64; /* sq array */
    about[20] = 8;  /* cq head, tail */
    about[21] = 12;
    about[25] = 64 + 4 * RING_MOST; /* answers */
    return os_new_fd(FD_RING, 0);
}

static void *os_mmap(void *at, size_t size, int allow, int how, int fd, int64_t what) {
    const manner *m = world_effect(ON_MAP, W.file_tier);
    (void)at;
    (void)allow;
    (void)how;
    WORLD_MUST(W.fd[fd - FD_FIRST].what == FD_RING);
    WORLD_MUST(what ? size <= sizeof ring.entry : size <= sizeof ring.queue);
    if (m != NULL) errno = m->with;
    if (m != NULL) return MAP_FAILED;
    W.maps++;
    return what ? (void *)ring.entry : (void *)ring.queue;
}

static int os_munmap(void *at, size_t size) {
    (void)at;
    (void)size;
    W.maps--;
    WORLD_MUST(ring.count == 0); /* nobody pulls the memory from under a transfer */
    return 0;
}

static uint64_t ring_bytes(uint32_t k) {
    uint64_t all = 0;
    for (uint32_t i = 0; i < ring.held[k].count; i++)
        all += ring.vec[k][i].size;
    return all;
}

static int64_t ring_transfer(uint32_t k, uint64_t left) {
    const tnmi_shelf_entry *e = &ring.held[k];
    int64_t done = 0;
    for (uint32_t i = 0; i < e->count && left > 0; i++) {
        const tnmi_shelf_vec *v = &ring.vec[k][i];
        uint64_t size = v->size < left ? v->size : left;
        int64_t at = (int64_t)e->offset + done;
        ssize_t now =
            e->code == 2 ? disk_write(e->fd, v->at, size, at) : disk_read(e->fd, v->at, size, at);
        if (now < 0) return done ? done : -errno;
        done += now;
        left -= (uint64_t)now;
        if ((uint64_t)now < size) break;
    }
    return done;
}

static void ring_answer(void) {
    const manner *m = world_effect(ON_ANSWER, W.file_tier);
    uint32_t k = ++ring.told % 3 == 0 ? ring.count - 1 : 0;
    uint32_t *head = &ring.queue[2], *tail = &ring.queue[3];
    tnmi_shelf_answer *answers = (tnmi_shelf_answer *)(void *)&ring.queue[16 + RING_MOST];
    tnmi_shelf_answer *out = &answers[*tail % (2 * ring.size)];
    WORLD_MUST(*tail - *head < 2 * ring.size); /* an answer would be lost */
    out->user = ring.held[k].user;
    if (m == NULL)
        out->result = (int32_t)ring_transfer(k, UINT64_MAX);
    else if (m->with == PARTLY)
        out->result = (int32_t)ring_transfer(k, os_short(ring.held[k].fd, ring_bytes(k)));
    else
        out->result = -m->with;
    if (out->result < 0 && ring.held[k].code == 1) memset(ring.vec[k][0].at, 0xE7, 1);
    tnmi_base_store32(tail, *tail + 1);
    ring.count--;
    ring.held[k] = ring.held[ring.count];
    memcpy(ring.vec[k], ring.vec[ring.count], sizeof ring.vec[k]);
}

static int ring_clash(uint32_t a, uint32_t b) {
    const tnmi_shelf_entry *x = &ring.held[a], *y = &ring.held[b];
    if (x->fd != y->fd || (x->code == 1 && y->code == 1)) return 0;
    if (x->code != y->code && os_direct(x->fd)) return 0; /* whole pages: the rest is as it was */
    return x->offset < y->offset + ring_bytes(b) && y->offset < x->offset + ring_bytes(a);
}

static void ring_take(void) {
    uint32_t *head = &ring.queue[0], k = ring.count++;
    const tnmi_shelf_entry *e = &ring.entry[ring.queue[16 + *head % ring.size]];
    WORLD_MUST(k < RING_MOST && e->count >= 1 && e->count <= TNMI_SHELF_VECS);
    ring.held[k] = *e;
    memcpy(ring.vec[k], (const void *)(uintptr_t)e->at, e->count * sizeof(tnmi_shelf_vec));
    for (uint32_t i = 0; i < k; i++)
        WORLD_MUST(!ring_clash(i, k));
    tnmi_base_store32(head, *head + 1);
}

static long os_enter(int fd, uint32_t submit, uint32_t answers, uint32_t flags) {
    const manner *m = world_effect(ON_ENTER, W.file_tier);
    (void)flags;
    WORLD_MUST(W.fd[fd - FD_FIRST].what == FD_RING);
    if (m != NULL) {
        if (ring.count > 0) ring_answer(); /* what it has goes on */
        return os_fail(m);
    }
    WORLD_MUST(ring.queue[1] - ring.queue[0] == submit);
    for (uint32_t i = 0; i < submit; i++)
        ring_take();
    WORLD_MUST(answers == 0 || ring.count > 0); /* it would sleep for ever */
    if (answers > 0 && ring.count > 0) ring_answer();
    if (ring.count > 1 && ring.told % 2 == 0) ring_answer();
    return (long)submit;
}

/* Its poll, with the kernel at work in between. */
static tnm_result ring_poll(void *user, uint64_t ticket) {
    if (ring.count > 0) ring_answer();
    return tnmi_shelf_file_poll(user, ticket);
}
#endif

#if defined(TENSORMEM_THREADS) && !defined(_WIN32)
/* ---- threads: they start, and leave the work to the one that asks ---- */
static void *os_nothing(void *of) {
    return of;
}

static int os_thread(pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *), void *of) {
    const manner *m = world_effect(ON_THREAD, -1);
    (void)run;
    if (m != NULL) return m->with;
    return pthread_create(thread, how, os_nothing, of);
}

static int os_mutex(pthread_mutex_t *mutex, const pthread_mutexattr_t *how) {
    const manner *m = world_effect(ON_MUTEX, -1);
    return m != NULL ? m->with : pthread_mutex_init(mutex, how);
}

static int os_bell(pthread_cond_t *bell, const pthread_condattr_t *how) {
    const manner *m = world_effect(ON_BELL, -1);
    return m != NULL ? m->with : pthread_cond_init(bell, how);
}
#endif

/* ---- its beginning and its end ---- */
static void world_start_over(void) {
    memset(&W, 0, offsetof(struct world, device));
    for (int i = 0; i < WORLD_TIERS; i++) {
        device *d = &W.device[i];
        memset(d, 0, offsetof(device, blocks) + (size_t)d->top * sizeof(block));
    }
    memset(W.copies, 0, (size_t)W.copies_top * sizeof(copying));
    memset(&W.copies_top, 0, sizeof W - offsetof(struct world, copies_top));
}

/* Whoever failed does so no longer. */
static void world_heal(void) {
    W.armed = 0;
    for (int i = 0; i < 2; i++) {
        if (W.flaw[i].fired > 0) W.flaw[i].over = 1;
        W.armed |= W.flaw[i].at > 0 && !W.flaw[i].over;
    }
    for (int i = 0; i < WORLD_TIERS; i++)
        W.device[i].lost = 0;
}

/* Everything was given back. */
static void world_end(void) {
    for (int i = 0; i < WORLD_COPIES; i++)
        CHECK(W.copies[i].by == NULL);
    for (int i = 0; i < WORLD_TIERS; i++)
        for (int k = 0; k < W.device[i].top; k++) {
            block *b = &W.device[i].blocks[k];
            if (b->at == NULL) continue;
            CHECK(b->lent);
            world_unmake(b);
        }
    for (int i = 0; i < FDS; i++)
        CHECK_EQ(W.fd[i].what, 0);
    for (int i = 1; i < FILES; i++)
        CHECK_EQ(W.file[i].used, 0);
    CHECK_EQ(W.maps, 0);
}

#endif
