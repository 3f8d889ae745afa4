/* llm_stream.c - a language model decodes with a quarter of its weights on the device. */
/* needs: -lm -pthread */
/*
 * A Llama transformer reads every weight once for every token. Here the weights lie in a GGUF
 * file, the host may hold half of them and the device a quarter, and tensormem moves them so that
 * each layer is on the device when its turn comes. The program runs twice, without limits and
 * with, and shows that both give the same tokens, what was moved, and what the least possible
 * would have been.
 *
 *     make demo                                     writes a model of about 0.5 GiB and runs it
 *     llm_stream --model llama.gguf --prompt "Once upon a time" --device-share 30%
 *     llm_stream --backend opencl                   a real device computes (llama_device.h); cuda
 *
 * What an engine has to do to stream is in the section "memory": adopt the file, declare the
 * order, then for each layer step, pin, compute, unpin, pump. Where a device computes, unpin hands
 * over a fence and the program goes on to the next layer. The engine itself is in llama.h,
 * which does not know; the rest of this file measures, and draws what happened.
 *
 * Sections: tools, device, recorder, memory, runs, table, pictures, options, demo. Exit status: 0
 * good, 1 the runs differ, a budget was exceeded or something failed, 2 the model file or the
 * command line cannot be used. */
#if !defined(_WIN32) && !defined(_POSIX_C_SOURCE)
#    define _POSIX_C_SOURCE 200809L
#endif
#if !defined(_FILE_OFFSET_BITS)
#    define _FILE_OFFSET_BITS 64
#endif
#define TENSORMEM_IMPLEMENTATION
#if !defined(_WIN32)
#    define TENSORMEM_THREADS /* for --pump thread */
#endif
#include "../tensormem.h"

#include "llama_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#if defined(_WIN32)
#    include <direct.h>
#    include <io.h>
#    include <process.h>
#else
#    include <unistd.h>
#endif

enum { EXIT_WRONG = 1, EXIT_INPUT = 2 };

/* ---- tools ---------------------------------------------------------------------------------- */

static double seconds_now(void) {
#if defined(_WIN32)
    return (double)clock() / CLOCKS_PER_SEC;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
#endif
}

static int is_terminal(void) {
#if defined(_WIN32)
    return _isatty(_fileno(stderr));
#else
    return isatty(fileno(stderr));
#endif
}

static void make_folder(const char *path) {
#if defined(_WIN32)
    (void)_mkdir(path);
#else
    (void)mkdir(path, 0777);
#endif
}

static int cores(void) {
#if defined(_SC_NPROCESSORS_ONLN)
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count < 1 ? 1 : count > 64 ? 64 : (int)count;
#else
    return 1;
#endif
}

static long process_number(void) {
#if defined(_WIN32)
    return (long)_getpid();
#else
    return (long)getpid();
#endif
}

static double mib(uint64_t bytes) {
    return (double)bytes / 1048576.0;
}

/* A bar on a terminal, a line for each quarter in a log. */
static void progress(const char *what, uint64_t done, uint64_t total) {
    static const char full[] = "########################################";
    static int quarter;
    int percent = total == 0 ? 100 : (int)(100.0 * (double)done / (double)total);
    if (is_terminal()) {
        fprintf(stderr, "\r%-10s [%-40.*s] %3d %%%s", what, percent * 2 / 5, full, percent,
                done == total ? "\n" : "");
    } else if (done == 0 || percent / 25 != quarter) {
        fprintf(stderr, "%-10s %3d %%\n", what, percent);
    }
    quarter = percent / 25;
}

static uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes) { /* FNV-1a */
    const unsigned char *b = (const unsigned char *)data;
    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ b[i]) * UINT64_C(1099511628211);
    }
    return hash;
}

/* ---- device ---------------------------------------------------------------------------------
 * A stand-in for an accelerator: its memory is ordinary, but nobody is told where it is. The
 * engine gets tokens and no host pointer, and compute asks device_address for what it has
 * pinned, so that a byte nobody moved here cannot be read by accident. */

enum { DEVICE_BLOCKS = 256 };

typedef struct device {
    struct {
        void *raw;
        unsigned char *base;
    } block[DEVICE_BLOCKS];
    uint64_t held, peak; /* its own count of what was asked of it */
} device;

static unsigned char *device_address(const device *d, uint64_t mem, uint64_t offset) {
    return d->block[mem - 1].base + offset;
}

static tnm_result device_alloc(void *user, uint64_t size, uint64_t align, void *item, uint64_t *mem,
                               void **host) {
    device *d = (device *)user;
    int slot = 0;
    (void)item;
    while (slot < DEVICE_BLOCKS && d->block[slot].raw != NULL) {
        slot++;
    }
    if (slot == DEVICE_BLOCKS || size > SIZE_MAX - align) {
        return TNM_ERR_MEMORY;
    }
    d->block[slot].raw = malloc((size_t)(size + align));
    if (d->block[slot].raw == NULL) {
        return TNM_ERR_MEMORY;
    }
    uintptr_t address = (uintptr_t)d->block[slot].raw;
    d->block[slot].base = (unsigned char *)d->block[slot].raw + (align - address % align) % align;
    d->held += size;
    d->peak = d->held > d->peak ? d->held : d->peak;
    *mem = (uint64_t)slot + 1;
    *host = NULL;
    return TNM_OK;
}

static void device_release(void *user, uint64_t mem, uint64_t size) {
    device *d = (device *)user;
    free(d->block[mem - 1].raw);
    d->block[mem - 1].raw = NULL;
    d->held -= size;
}

static tnm_result device_copy(void *user, const tnm_span *dst, const tnm_span *src, uint64_t size,
                              uint64_t *ticket);

static void *device_end(const tnm_span *span) { /* NULL: neither ours nor visible to the CPU */
    if (span->backend != NULL && span->backend->copy == device_copy) {
        return device_address((const device *)span->backend->user, span->mem, span->offset);
    }
    return span->host;
}

static tnm_result device_copy(void *user, const tnm_span *dst, const tnm_span *src, uint64_t size,
                              uint64_t *ticket) {
    void *to = device_end(dst), *from = device_end(src);
    (void)user;
    (void)ticket;
    if (to == NULL || from == NULL) {
        return TNM_ERR_UNSUPPORTED; /* a file: those bytes come through the host */
    }
    memcpy(to, from, (size_t)size);
    return TNM_OK;
}

/* ---- recorder -------------------------------------------------------------------------------
 * Listens to the trace of a run: what moved where and when, step by step. A step is one piece of a
 * layer for one token; a sweep is all steps of one token. With a pump thread the trace is told on
 * either thread, by one at a time; `at` is all they share. */

enum { DEVICE, HOST, STORAGE, PROGRAM, PLACES }; /* the tiers, and plain memory */

typedef struct step_record {
    double begin, pinned, computed, end; /* seconds since the run began */
    double starved;                      /* seconds that a device had nothing to do, for bytes */
    uint64_t moved[PLACES][PLACES];      /* from, to */
    uint64_t used[STORAGE];              /* bytes on device and host afterwards */
} step_record;

typedef struct slice { /* one copy */
    double begin, end;
    uint64_t bytes;
    const char *label;
    int from, to, class_;
    size_t step, used_at; /* used_at: the step that first pinned it, SIZE_MAX = none */
} slice;

typedef struct stretch { /* of time in which a device was seen to have work all along */
    double begin, end;
} stretch;

typedef struct open_copy {
    uint64_t ticket;
    double begin;
} open_copy;

typedef struct known_tensor { /* to find the last copy of a tensor by its handle */
    uint64_t id;
    size_t last_slice;
} known_tensor;

enum { OPEN_COPIES = 64 };

typedef struct recorder {
    double start;
    step_record *step;
    size_t steps, at;       /* room, current (atomic) */
    int place[STORAGE + 1]; /* of each tier */
    slice *slice;
    size_t slices, slice_room;
    stretch *stretch;
    size_t stretches, stretch_room;
    open_copy open[OPEN_COPIES]; /* the latest */
    size_t opened;
    known_tensor *known;  /* sorted by id */
    char (*kv_label)[24]; /* borrowed by the tensors, and by the slices, which outlive them */
    size_t known_count;
    int keep_slices;
} recorder;

static void recorder_enter(recorder *r, size_t step) {
#if defined(LLAMA_THREADS)
    __atomic_store_n(&r->at, step, __ATOMIC_RELAXED);
#else
    r->at = step;
#endif
}

static size_t recorder_at(const recorder *r) {
#if defined(LLAMA_THREADS)
    return __atomic_load_n(&r->at, __ATOMIC_RELAXED);
#else
    return r->at;
#endif
}

static int recorder_open(recorder *r, size_t steps, int keep_slices) {
    memset(r, 0, sizeof(*r));
    r->steps = steps;
    r->keep_slices = keep_slices;
    r->step = (step_record *)calloc(steps, sizeof(*r->step));
    r->start = seconds_now();
    return r->step != NULL;
}

static void recorder_close(recorder *r) {
    free(r->step);
    free(r->slice);
    free(r->stretch);
    free(r->known);
    free(r->kv_label);
    memset(r, 0, sizeof(*r));
}

static int compare_known(const void *a, const void *b) {
    uint64_t x = ((const known_tensor *)a)->id, y = ((const known_tensor *)b)->id;
    return (x > y) - (x < y);
}

static known_tensor *recorder_find(recorder *r, uint64_t id) {
    known_tensor probe = { id, 0 };
    return r->known_count == 0 ? NULL
                               : (known_tensor *)bsearch(&probe, r->known, r->known_count,
                                                         sizeof(probe), compare_known);
}

static void recorder_know(recorder *r, const tnm_tensor *tensor, size_t count) {
    known_tensor *grown =
        (known_tensor *)realloc(r->known, (r->known_count + count) * sizeof(*r->known));
    if (grown == NULL) {
        return; /* the picture will lack arrows */
    }
    r->known = grown;
    for (size_t i = 0; i < count; i++) {
        r->known[r->known_count].id = tensor[i].id;
        r->known[r->known_count++].last_slice = SIZE_MAX;
    }
    qsort(r->known, r->known_count, sizeof(*r->known), compare_known);
}

static slice *recorder_slice(recorder *r) {
    if (r->slices == r->slice_room) {
        size_t room = r->slice_room * 2 + 1024;
        slice *grown = (slice *)realloc(r->slice, room * sizeof(*grown));
        if (grown == NULL) {
            return NULL;
        }
        r->slice = grown;
        r->slice_room = room;
    }
    return &r->slice[r->slices++];
}

static void recorder_stretch(recorder *r, double begin, double end) {
    if (!r->keep_slices || end <= begin) {
        return;
    }
    if (r->stretches == r->stretch_room) {
        size_t room = r->stretch_room * 2 + 1024;
        stretch *grown = (stretch *)realloc(r->stretch, room * sizeof(*grown));
        if (grown == NULL) {
            return; /* less is said to be hidden than was */
        }
        r->stretch = grown;
        r->stretch_room = room;
    }
    r->stretch[r->stretches].begin = begin - r->start;
    r->stretch[r->stretches++].end = end - r->start;
}

static double recorder_now(const recorder *r) {
    return seconds_now() - r->start;
}

/* When the copy with this ticket began. A chunk that is told to go another way gets a new ticket
 * and no end, so the places are used in turn. */
static double recorder_began(const recorder *r, uint64_t ticket, double otherwise) {
    for (int i = 0; i < OPEN_COPIES; i++) {
        if (r->open[i].ticket == ticket) {
            return r->open[i].begin;
        }
    }
    return otherwise;
}

static void recorder_copy_begin(recorder *r, const tnm_event *e) {
    open_copy *place = &r->open[r->opened++ % OPEN_COPIES];
    place->ticket = e->ticket;
    place->begin = recorder_now(r);
}

static int recorder_place(const recorder *r, int tier) {
    return tier < 0 ? PROGRAM : r->place[tier];
}

static void recorder_copy_end(recorder *r, const tnm_event *e) {
    double now = recorder_now(r), began = recorder_began(r, e->ticket, now);
    int from = recorder_place(r, e->from), to = recorder_place(r, e->tier);
    size_t at = recorder_at(r);
    if (e->result != TNM_OK) {
        return;
    }
    r->step[at].moved[from][to] += e->bytes;
    slice *s = r->keep_slices ? recorder_slice(r) : NULL;
    if (s != NULL) {
        known_tensor *known = e->tier == 0 ? recorder_find(r, e->tensor) : NULL;
        s->begin = began;
        s->end = now;
        s->bytes = e->bytes;
        s->label = e->label;
        s->from = from;
        s->to = to;
        s->class_ = (int)e->class_;
        s->step = at;
        s->used_at = SIZE_MAX;
        if (known != NULL) {
            known->last_slice = r->slices - 1;
        }
    }
}

static void recorder_pin(recorder *r, const tnm_event *e) {
    known_tensor *known = recorder_find(r, e->tensor);
    if (known != NULL && known->last_slice != SIZE_MAX) {
        r->slice[known->last_slice].used_at = recorder_at(r);
        known->last_slice = SIZE_MAX;
    }
}

static void recorder_event(void *user, const tnm_event *e) {
    recorder *r = (recorder *)user;
    if (e->kind == TNM_EVENT_COPY_BEGIN) {
        recorder_copy_begin(r, e);
    } else if (e->kind == TNM_EVENT_COPY_END) {
        recorder_copy_end(r, e);
    } else if (e->kind == TNM_EVENT_PIN && e->tier == 0) {
        recorder_pin(r, e);
    }
}

/* ---- memory ---------------------------------------------------------------------------------
 * This is all an engine has to do. One token is `period` steps: the first looks up the embedding,
 * then each piece of the model is one, in order. Pieces and norms are adopted where they lie in the
 * file, at the bottom; the keys and values of a layer are a tensor like its weights, but written;
 * what a step wants is pinned on the fastest tier as one set. */

enum { WEIGHTS, NORM, KV, SET_MAX, LANE = 0, STEPS_AHEAD = 8 };

typedef struct budgets {
    uint64_t device, host; /* 0 = unlimited */
    int tiers;             /* 3: device, host, storage; 2: no device, the host computes */
    int schedule;          /* 0: nothing is declared, and the engine is left with LRU */
    int direct;
    int pump_thread; /* 1: bytes move under the compute; 0: in tnm_pump between two steps */
    const gpu_runtime *runtime; /* what computes; NULL: the CPU, on the device above */
} budgets;

typedef struct decode { /* what to compute, the same for every run */
    const llama *model;
    const char *path;
    const uint32_t *prompt;
    size_t prompt_count, new_count;
    model_piece *piece;
    size_t pieces;
    int threads;
} decode;

typedef struct memory {
    const llama *model;
    size_t context; /* positions the keys and values have room for */
    uint64_t kv_bytes;
    tnm_ctx *ctx;
    device device;
    gpu *gpu;         /* NULL: the device above, and the CPU computes */
    uint64_t marked;  /* the last fence behind what it was given to do */
    double busy_from; /* since when it has had work all along; 0: it was seen without */
    double busy_at;   /* when it was last seen busy */
    tnm_backend file;
    const model_piece *piece; /* the steps after the first */
    size_t pieces;
    tnm_tensor *name; /* all below, in one array */
    size_t names;
    tnm_tensor *weight, *norm, *kv; /* of each piece; of a piece that has one; of each layer */
    tnm_tensor *embedding, *factors;
    uint64_t pump_bytes; /* 0: a thread pumps */
    int bottom;          /* the tier of the file */
    int scheduled;
    recorder *recorder;
    void *row;            /* room for one of the embedding */
    unsigned char *plain; /* instead of all that: the whole file, to compare with (--check) */
    float **plain_kv;
    message why;
} memory;

typedef struct pinned_set {
    tnm_use use[SET_MAX];
    tnm_pinned pin[SET_MAX];
    int what[SET_MAX], count;
    spot at[SET_MAX]; /* by what: WEIGHTS, NORM, KV (which the set lists as WRITE) */
} pinned_set;

static size_t memory_period(const memory *m) {
    return m->pieces + 1;
}

/* What a step touches. `fresh`: the first token builds its keys and values, others extend them. */
static int memory_uses(const memory *m, size_t step, int fresh, tnm_use *use, int *what) {
    const model_piece *p = step == 0 ? NULL : &m->piece[step - 1];
    int count = 0;
    memset(use, 0, SET_MAX * sizeof(*use));
    if (p == NULL) {
        return 0;
    }
    what[count] = WEIGHTS;
    use[count++].tensor = m->weight[step - 1];
    if (p->norm != NULL) {
        what[count] = NORM;
        use[count++].tensor = m->norm[step - 1];
    }
    if (p->attends) {
        what[count] = KV;
        use[count].access = fresh ? TNM_DISCARD : TNM_WRITE;
        use[count++].tensor = m->kv[p->layer];
    }
    for (int i = 0; i < count; i++) {
        use[i].step = step;
    }
    return count;
}

static tnm_dtype memory_dtype(uint32_t type) {
    return type == GGUF_TYPE_F32    ? TNM_F32
           : type == GGUF_TYPE_F16  ? TNM_F16
           : type == GGUF_TYPE_BF16 ? TNM_BF16
                                    : TNM_Q8_0;
}

/* Some rows of a tensor of the file become a name for the bytes where they are. */
static int memory_adopt_rows(memory *m, uint64_t mem, const gguf_tensor *t, size_t first,
                             size_t rows, tnm_tensor *out) {
    tnm_tensor_desc desc;
    tnm_adopt_desc where;
    memset(&desc, 0, sizeof(desc));
    memset(&where, 0, sizeof(where));
    desc.label = t->name.text;
    desc.dtype = memory_dtype(t->type);
    desc.shape[0] = (int64_t)rows;
    desc.shape[1] = (int64_t)t->shape[0];
    where.tier = m->bottom;
    where.mem = mem;
    where.offset = t->offset + first * bytes_of_row(t->type, (size_t)t->shape[0]);
    tnm_result r = tnm_tensor_adopt(m->ctx, &desc, &where, out);
    return r == TNM_OK ? 1
                       : refuse(&m->why, "cannot adopt %s: %s", t->name.text, tnm_result_string(r));
}

/* All that the model needs of the file. Nothing is read. */
static int memory_adopt(memory *m, const char *path) {
    const llama *model = m->model;
    uint64_t mem, size;
    tnm_result r = tnm_file_adopt(&m->file, path, &mem, &size);
    if (r != TNM_OK || size != model->file.size) {
        return refuse(&m->why, "cannot adopt %s: %s", path,
                      r != TNM_OK ? tnm_result_string(r) : "it changed while it was read");
    }
    for (size_t i = 0; i < m->pieces; i++) {
        const model_piece *p = &m->piece[i];
        if (!memory_adopt_rows(m, mem, p->tensor, p->first, p->rows, &m->weight[i]) ||
            (p->norm != NULL && !memory_adopt_rows(m, mem, p->norm, 0, 1, &m->norm[i]))) {
            return 0;
        }
    }
    return memory_adopt_rows(m, mem, model->embedding, 0, model->vocab, m->embedding) &&
           (model->rope_factors == NULL ||
            memory_adopt_rows(m, mem, model->rope_factors, 0, 1, m->factors));
}

static int memory_make_names(memory *m) {
    m->names = 2 * m->pieces + m->model->layers + 2;
    m->name = (tnm_tensor *)calloc(m->names, sizeof(*m->name));
    m->weight = m->name;
    m->norm = m->weight + m->pieces;
    m->kv = m->norm + m->pieces;
    m->embedding = m->kv + m->model->layers;
    m->factors = m->embedding + 1;
    return m->name != NULL;
}

/* Keys and values have a name now and memory when the first token pins them. */
static int memory_create_kv(memory *m) {
    for (size_t i = 0; i < m->model->layers; i++) {
        tnm_tensor_desc desc;
        memset(&desc, 0, sizeof(desc));
        char *label = m->recorder->kv_label[i];
        snprintf(label, sizeof(m->recorder->kv_label[i]), "kv.%zu", i);
        desc.label = label;
        desc.dtype = TNM_F32;
        desc.shape[0] = 2;
        desc.shape[1] = (int64_t)m->context;
        desc.shape[2] = (int64_t)m->model->kv_dim;
        tnm_result r = tnm_tensor_create(m->ctx, &desc, &m->kv[i]);
        if (r != TNM_OK) {
            return refuse(&m->why, "cannot create %s: %s", desc.label, tnm_result_string(r));
        }
    }
    return 1;
}

/* The order of the layers, said once. */
static int memory_schedule(memory *m) {
    size_t period = memory_period(m);
    tnm_use *use = (tnm_use *)malloc(period * SET_MAX * sizeof(*use));
    int what[SET_MAX], count = 0;
    if (use == NULL) {
        return refuse(&m->why, "out of memory");
    }
    for (size_t step = 0; step < period; step++) {
        count += memory_uses(m, step, 0, use + count, what);
    }
    tnm_result r = tnm_schedule(m->ctx, LANE, use, count, (uint32_t)period);
    free(use);
    return r == TNM_OK ? 1 : refuse(&m->why, "tnm_schedule: %s", tnm_result_string(r));
}

/* Device over host over the model's file, with a spill file beside it for what was written; or
 * without the device: the host over the file. */
static void memory_describe_tiers(memory *m, const budgets *b, tnm_tier_desc *tier) {
    tnm_tier_desc all[STORAGE + 1];
    int first = STORAGE + 1 - b->tiers;
    memset(all, 0, sizeof(all));
    all[DEVICE].name = "device";
    all[DEVICE].backend.alloc = device_alloc;
    all[DEVICE].backend.release = device_release;
    all[DEVICE].backend.copy = device_copy;
    all[DEVICE].backend.user = &m->device;
    all[DEVICE].budget_bytes = b->device;
    all[HOST].name = "host"; /* no backend: memory from malloc */
    all[HOST].budget_bytes = b->host;
    if (m->gpu != NULL) {
        all[DEVICE].backend = m->gpu->device;
        all[HOST].backend = m->gpu->host;
    }
    all[STORAGE].name = "storage";
    all[STORAGE].backend = m->file;
    all[STORAGE].spill_to = TNM_NOWHERE;
    m->bottom = b->tiers - 1;
    for (int i = 0; i < b->tiers; i++) {
        tier[i] = all[first + i];
        tier[i].segment_bytes = tier[i].budget_bytes == 0 ? 64u << 20 : 0;
        m->recorder->place[i] = first + i;
    }
}

static void memory_event(void *user, const tnm_event *e) {
    recorder_event(((const memory *)user)->recorder, e);
}

/* What the device has done. Each look is also noted, to know how long it had work: to when it was
 * last seen to have some, or when whoever slept for the end of it woke up. */
static uint64_t memory_passed(void *user, uint32_t queue, uint64_t wait_for) {
    memory *m = (memory *)user;
    uint64_t passed = m->gpu->runtime->passed(m->gpu, 0);
    (void)queue;
    if (passed < m->marked) {
        passed = wait_for > passed ? m->gpu->runtime->passed(m->gpu, wait_for) : passed;
        m->busy_at = seconds_now();
    }
    if (passed >= m->marked && m->busy_from > 0.0) {
        recorder_stretch(m->recorder, m->busy_from, m->busy_at);
        m->busy_from = 0.0;
    }
    return passed;
}

static int memory_create_tiers(memory *m, const budgets *b) {
    tnm_tier_desc tier[STORAGE + 1];
    tnm_file_desc file;
    tnm_desc desc;
    char spill[64]; /* several may run at a time */
    memset(&file, 0, sizeof(file));
    memset(&desc, 0, sizeof(desc));
    snprintf(spill, sizeof(spill), "build/llm_stream.%ld.spill", process_number());
    file.path = spill;
    file.direct = b->direct;
#if defined(TENSORMEM_THREADS)
    file.threads = m->gpu != NULL ? 2 : 0; /* where a device computes, these have the time */
#endif
    tnm_result r = tnm_file_open(&file, &m->file);
    if (r != TNM_OK) {
        return refuse(&m->why, "cannot make %s: %s", file.path, tnm_result_string(r));
    }
    memory_describe_tiers(m, b, tier);
    desc.tiers = tier;
    desc.tier_count = b->tiers;
    desc.chunk_bytes = 1u << 20;
    /* paid from the host's budget; it is all reads from a file past the page cache go through, and
     * without that almost nothing does */
    desc.staging_bytes = b->direct ? 4u << 20 : 1u << 20;
    desc.staging_tier = HOST - (STORAGE - m->bottom); /* of two tiers 0, the default: the host */
    desc.pump_thread = b->pump_thread;
    desc.user = m;
    desc.trace = memory_event;
    desc.passed = m->gpu != NULL ? memory_passed : NULL;
    r = tnm_create(&desc, &m->ctx);
    return r == TNM_OK ? 1 : refuse(&m->why, "tnm_create: %s", tnm_result_string(r));
}

static int memory_open(memory *m, const decode *d, size_t context, const budgets *b, gpu *g,
                       recorder *r) {
    const llama *model = d->model;
    memset(m, 0, sizeof(*m));
    m->model = model;
    m->gpu = g;
    m->piece = d->piece;
    m->pieces = d->pieces;
    m->context = context;
    m->kv_bytes = 2 * (uint64_t)context * model->kv_dim * sizeof(float);
    m->recorder = r;
    r->kv_label = (char(*)[24])calloc(model->layers, sizeof(*r->kv_label));
    m->row = malloc(bytes_of_row(model->embedding->type, model->dim));
    if (r->kv_label == NULL || m->row == NULL || !memory_make_names(m)) {
        return refuse(&m->why, "out of memory");
    }
    if (!memory_create_tiers(m, b) || !memory_adopt(m, d->path) || !memory_create_kv(m)) {
        return 0;
    }
    recorder_know(r, m->name, m->names);
    /* About a step's worth of transfers between two steps: as much as a step needs over both links
     * when most of the model is kept. */
    m->pump_bytes = b->pump_thread ? 0 : model->weight_bytes / memory_period(m) + (1u << 20);
    m->scheduled = b->schedule;
    return b->schedule ? memory_schedule(m) : 1;
}

static void memory_close(memory *m) {
    if (m->ctx != NULL) {
        tnm_result r = tnm_destroy(m->ctx);
        if (r != TNM_OK) {
            refuse(&m->why, "tnm_destroy: %s", tnm_result_string(r));
        }
    }
    if (m->file.copy != NULL) {
        tnm_file_close(&m->file);
    }
    for (size_t i = 0; m->plain_kv != NULL && i < m->model->layers; i++) {
        free(m->plain_kv[i]);
    }
    free((void *)m->plain_kv);
    free(m->plain);
    free(m->name);
    free(m->row);
    m->name = NULL;
}

/* The same without tensormem, the way small programs do it: read everything, point into it. */
static int memory_open_plain(memory *m, const decode *d, size_t context) {
    const llama *model = d->model;
    FILE *file = fopen(d->path, "rb");
    memset(m, 0, sizeof(*m));
    m->model = model;
    m->piece = d->piece;
    m->pieces = d->pieces;
    m->context = context;
    m->plain = (unsigned char *)malloc((size_t)model->file.size);
    m->plain_kv = (float **)calloc(model->layers, sizeof(float *));
    m->row = malloc(bytes_of_row(model->embedding->type, model->dim));
    int good = file != NULL && m->plain != NULL && m->plain_kv != NULL && m->row != NULL;
    for (size_t i = 0; good && i < model->layers; i++) {
        m->plain_kv[i] = (float *)calloc(2 * context, model->kv_dim * sizeof(float));
        good = m->plain_kv[i] != NULL;
    }
    good = good && fread(m->plain, 1, (size_t)model->file.size, file) == model->file.size;
    if (file != NULL) {
        fclose(file);
    }
    return good ? 1 : refuse(&m->why, "cannot hold the whole model in plain memory");
}

static void memory_pin_plain(const memory *m, size_t step, pinned_set *set) {
    const model_piece *p = &m->piece[step - 1];
    set->at[WEIGHTS].host = m->plain + piece_offset(p);
    set->at[NORM].host = p->norm != NULL ? m->plain + p->norm->offset : NULL;
    set->at[KV].host = p->attends ? m->plain_kv[p->layer] : NULL;
}

/* A refusal comes with its numbers. */
static int memory_explain(memory *m, const pinned_set *set, size_t step, tnm_result result) {
    tnm_shortage s;
    if (result == TNM_ERR_BUDGET && tnm_why(m->ctx, set->use, set->count, &s) == TNM_OK) {
        return refuse(&m->why,
                      "step %llu does not fit: it needs %.2f MiB more on tier %d, whose budget is "
                      "%.2f MiB with at most %.2f MiB to be had in one piece",
                      (unsigned long long)step, mib(s.need_bytes), s.tier, mib(s.budget_bytes),
                      mib(s.largest_gap_bytes));
    }
    return refuse(&m->why, "cannot enter step %llu: %s", (unsigned long long)step,
                  tnm_result_string(result));
}

/* Where a pinned tensor is. Keys and values begin as zeros where the CPU computes: DISCARD shows
 * undefined bytes. A device reads only what it has written. */
static spot memory_spot(const memory *m, const tnm_pinned *pin, int is_new) {
    spot at = { pin->host, pin->mem, pin->offset };
    if (at.host == NULL && m->gpu == NULL) {
        at.host = device_address(&m->device, pin->mem, pin->offset);
    }
    if (is_new && at.host != NULL) {
        memset(at.host, 0, (size_t)m->kv_bytes);
    }
    return at;
}

/* The device gets something to do: had it nothing while this pin waited for bytes? At most since it
 * was last seen busy. */
static void memory_note_starved(memory *m, double pin_began) {
    if (memory_passed(m, 0, 0) >= m->marked) {
        double since = m->busy_at > pin_began ? m->busy_at : pin_began;
        m->recorder->step[recorder_at(m->recorder)].starved = seconds_now() - since;
    }
}

/* Until the device has done all but the last `left` steps it was given, bytes move. A program that
 * runs far ahead of its device holds all memory with pins that are not used yet, and nothing can be
 * fetched before it is pinned. */
static int memory_await(memory *m, uint64_t left) {
    tnm_result r = TNM_PENDING;
    uint64_t until = m->marked > left ? m->marked - left : 0, passed = UINT64_MAX;
    while (m->gpu != NULL && r >= 0) {
        passed = memory_passed(m, 0, r == TNM_OK ? until : 0); /* OK: nothing to move, sleep */
        if (passed >= until) {
            break;
        }
        r = tnm_wait(m->ctx);
    }
    if (m->gpu != NULL && passed == UINT64_MAX) {
        return refuse(&m->why, "the device is lost: %s", gpu_why(m->gpu));
    }
    return r >= 0 ? 1 : refuse(&m->why, "tnm_wait: %s", tnm_result_string(r));
}

/* Step and pin: afterwards the set has the places of the step's tensors. */
static int memory_enter(memory *m, size_t sweep, size_t step, pinned_set *set) {
    memset(set->at, 0, sizeof(set->at));
    set->count = 0;
    if (m->plain != NULL) {
        if (step > 0) {
            memory_pin_plain(m, step, set);
        }
        return 1;
    }
    if (!memory_await(m, STEPS_AHEAD)) {
        return 0;
    }
    set->count = memory_uses(m, step, sweep == 0, set->use, set->what);
    tnm_result r = TNM_OK;
    if (m->scheduled) {
        r = tnm_step(m->ctx, LANE, (uint64_t)sweep * memory_period(m) + step);
    }
    double pin_began = seconds_now();
    if (r == TNM_OK && set->count > 0) {
        r = tnm_pin(m->ctx, set->use, set->count, set->pin);
    }
    if (r != TNM_OK) {
        return memory_explain(m, set, step, r);
    }
    for (int i = 0; i < set->count; i++) {
        int is_new = set->what[i] == KV && sweep == 0;
        set->at[set->what[i]] = memory_spot(m, &set->pin[i], is_new);
    }
    if (m->gpu != NULL && step > 0) {
        memory_note_starved(m, pin_began);
    }
    return 1;
}

/* The fence behind what the device was given to do in this step; 0: there is none, the CPU is done
 * when it says so. */
static int memory_fence(memory *m, uint64_t *fence) {
    *fence = 0;
    if (m->gpu == NULL) {
        return 1;
    }
    m->marked = m->gpu->why.text[0] != 0 ? 0 : m->gpu->runtime->mark(m->gpu);
    m->busy_at = seconds_now();
    m->busy_from = m->busy_from > 0.0 ? m->busy_from : m->busy_at;
    *fence = TNM_FENCE(0, m->marked);
    return m->marked != 0 ? 1 : refuse(&m->why, "%s", gpu_why(m->gpu));
}

/* Unpin, then let the next steps' bytes move: under what the device still has to do. */
static int memory_leave(memory *m, pinned_set *set) {
    uint64_t fence;
    if (m->plain != NULL) {
        return 1;
    }
    if (!memory_fence(m, &fence)) {
        (void)tnm_unpin(m->ctx, set->pin, set->count, 0);
        return 0;
    }
    tnm_result r = set->count == 0 ? TNM_OK : tnm_unpin(m->ctx, set->pin, set->count, fence);
    if (r == TNM_OK && m->pump_bytes > 0) {
        r = tnm_pump(m->ctx, m->pump_bytes);
    }
    return r >= 0 ? 1 : refuse(&m->why, "unpin and pump: %s", tnm_result_string(r));
}

/* Part of a tensor into plain memory, from wherever it is: one row of a large table. */
static int memory_read(memory *m, const gguf_tensor *t, const tnm_tensor *name, uint64_t offset,
                       void *out, uint64_t bytes) {
    if (m->plain != NULL) {
        memcpy(out, m->plain + t->offset + offset, (size_t)bytes);
        return 1;
    }
    tnm_result r = tnm_read(m->ctx, *name, offset, out, bytes);
    return r == TNM_OK ? 1
                       : refuse(&m->why, "cannot read %s: %s", t->name.text, tnm_result_string(r));
}

/* Of a place; one that has no tier here answers zeros. */
static int memory_stats(memory *m, int place, tnm_tier_stats *out) {
    int tier = place - (STORAGE - m->bottom);
    memset(out, 0, sizeof(*out));
    tnm_result r = tier < 0 ? TNM_OK : tnm_stats(m->ctx, tier, out);
    return r == TNM_OK ? 1 : refuse(&m->why, "tnm_stats: %s", tnm_result_string(r));
}

/* ---- runs ----------------------------------------------------------------------------------- */

enum { LOGITS_KEPT = 16 << 20 }; /* numbers, to compare with another run's */

typedef struct run {
    const char *name;
    const model_piece *piece; /* of the steps after the first */
    size_t period;
    size_t sweeps, warm_up; /* one sweep a token; the last token needs none */
    uint32_t *token;        /* generated */
    uint64_t hash;          /* of all logits of all sweeps */
    float *logits;          /* of the first `kept` sweeps */
    size_t kept, vocab;
    float margin;   /* the closest the best token came to the second */
    double seconds; /* of a sweep, after warm-up: computing, waiting for pins, pumping */
    double computing, waiting, pumping, reading; /* reading: storage was busy, by whatever thread */
    double copying, hidden; /* any copy between tiers was under way; and the device had work */
    double working;         /* it had work */
    double starved;         /* it had none, for bytes */
    char device[64];        /* what computed; empty: the CPU */
    recorder recorder;
    tnm_tier_stats stats[STORAGE + 1];
    uint64_t device_peak; /* as the device counted */
    message why;
} run;

static float run_margin(const engine *e, uint32_t best) {
    float second = -INFINITY;
    for (uint32_t i = 0; i < e->model->vocab; i++) {
        second = i != best && e->logits[i] > second ? e->logits[i] : second;
    }
    return e->logits[best] - second;
}

static int run_begin(engine *e, memory *m, uint32_t token, size_t position) {
    const gguf_tensor *table = e->model->embedding;
    uint64_t row_bytes = bytes_of_row(table->type, e->model->dim);
    if (!memory_read(m, table, m->embedding, token * row_bytes, m->row, row_bytes)) {
        return 0;
    }
    engine_begin(e, m->row, position);
    return 1;
}

/* Step s of the sweep that puts `token` at `position`: enter, compute on what is pinned, leave. */
static int run_step(engine *e, memory *m, size_t step, uint32_t token, size_t position) {
    step_record *record = &m->recorder->step[recorder_at(m->recorder)];
    pinned_set set;
    record->begin = recorder_now(m->recorder);
    if (!memory_enter(m, position, step, &set)) {
        return 0;
    }
    record->pinned = recorder_now(m->recorder);
    if (step == 0) {
        if (!run_begin(e, m, token, position)) {
            return 0;
        }
    } else {
        engine_piece(e, &m->piece[step - 1], set.at[WEIGHTS], set.at[NORM], set.at[KV], position);
    }
    record->computed = recorder_now(m->recorder);
    return memory_leave(m, &set);
}

static int run_sample(memory *m, recorder *r) {
    for (int tier = DEVICE; m->ctx != NULL && tier < STORAGE; tier++) {
        tnm_tier_stats stats;
        if (!memory_stats(m, tier, &stats)) {
            return 0;
        }
        r->step[recorder_at(r)].used[tier] = stats.used_bytes;
    }
    r->step[recorder_at(r)].end = recorder_now(r);
    return 1;
}

static int run_sweep(run *u, engine *e, memory *m, uint32_t token, size_t position) {
    size_t period = u->period;
    for (size_t step = 0; step < period; step++) {
        recorder_enter(&u->recorder, position * period + step);
        if (!run_step(e, m, step, token, position) || !run_sample(m, &u->recorder)) {
            return 0;
        }
    }
    progress(u->name, position + 1, u->sweeps);
    return memory_await(m, 0); /* the logits are there */
}

static int run_tokens(run *u, const decode *d, engine *e, memory *m) {
    uint32_t token = 0;
    progress(u->name, 0, u->sweeps);
    for (size_t position = 0; position < u->sweeps; position++) {
        token = position < d->prompt_count ? d->prompt[position] : token;
        if (!run_sweep(u, e, m, token, position)) {
            return 0;
        }
        u->hash = hash_bytes(u->hash, e->logits, u->vocab * sizeof(float));
        if (position < u->kept) {
            memcpy(u->logits + position * u->vocab, e->logits, u->vocab * sizeof(float));
        }
        token = engine_best(e);
        if (position + 1 >= d->prompt_count) {
            float margin = run_margin(e, token);
            u->margin = margin < u->margin ? margin : u->margin;
            u->token[position + 1 - d->prompt_count] = token;
        }
    }
    return 1;
}

/* What of [begin, end) lies in stretches of the device's work. *last: how many begin before it;
 * from one call to the next time runs back. */
static double run_covered(const recorder *r, double begin, double end, size_t *last) {
    double sum = 0.0;
    while (*last > 0 && r->stretch[*last - 1].begin >= end) {
        (*last)--;
    }
    for (size_t i = *last; i > 0 && r->stretch[i - 1].end > begin; i--) {
        const stretch *w = &r->stretch[i - 1];
        sum += (w->end < end ? w->end : end) - (w->begin > begin ? w->begin : begin);
    }
    return sum;
}

/* How long copies from a place (< 0: from any tier) were under way, a sweep, and in *covered how
 * long of that the device had work. Slices come in the order they ended: from the last to the first
 * each adds what lies before everything later. */
static double run_busy(const run *u, double begin, int from_place, double *covered) {
    const recorder *r = &u->recorder;
    double busy = 0.0, low = INFINITY, sweeps = (double)(u->sweeps - u->warm_up);
    size_t last = r->stretches;
    *covered = 0.0;
    for (size_t i = r->slices; i > 0 && r->slice[i - 1].end > begin; i--) {
        const slice *s = &r->slice[i - 1];
        double from = s->begin > begin ? s->begin : begin, to = s->end < low ? s->end : low;
        int wanted =
            from_place < 0 ? s->from != PROGRAM && s->to != PROGRAM : s->from == from_place;
        if (wanted && to > from) {
            busy += to - from;
            *covered += run_covered(r, from, to, &last);
        }
        low = wanted && from < low ? from : low;
    }
    *covered /= sweeps;
    return busy / sweeps;
}

static void run_account(run *u) {
    const size_t period = u->period;
    const double sweeps = (double)(u->sweeps - u->warm_up);
    for (size_t i = u->warm_up * period; i < u->sweeps * period; i++) {
        const step_record *s = &u->recorder.step[i];
        u->waiting += (s->pinned - s->begin) / sweeps;
        u->computing += (s->computed - s->pinned) / sweeps;
        u->pumping += (s->end - s->computed) / sweeps;
        u->starved += s->starved / sweeps;
    }
    const double begin = u->recorder.step[u->warm_up * period].begin;
    size_t last = u->recorder.stretches;
    u->working = run_covered(&u->recorder, begin, INFINITY, &last) / sweeps;
    u->reading = run_busy(u, begin, STORAGE, &u->hidden);
    u->copying = run_busy(u, begin, -1, &u->hidden);
}

static int run_measure(run *u, memory *m) {
    const step_record *first = &u->recorder.step[u->warm_up * u->period];
    const step_record *last = &u->recorder.step[u->sweeps * u->period - 1];
    u->seconds = (last->end - first->begin) / (double)(u->sweeps - u->warm_up);
    u->device_peak = m->device.peak;
    for (int tier = DEVICE; m->ctx != NULL && tier <= STORAGE; tier++) {
        if (!memory_stats(m, tier, &u->stats[tier])) {
            return 0;
        }
    }
    return 1;
}

static int run_read_factors(engine *e, memory *m) {
    const gguf_tensor *t = e->model->rope_factors;
    return t == NULL || memory_read(m, t, m->factors, 0, e->rope_factors, t->bytes);
}

static int run_open_gpu(run *u, engine *e, gpu *g, const gpu_runtime *runtime) {
    int good = gpu_open(g, runtime, e) || refuse(&u->why, "%s", g->why.text);
    memcpy(u->device, g->name, sizeof(u->device));
    return good;
}

/* `b` NULL: the plain program. 0 = failed: u->why. */
static int run_decode(run *u, const char *name, const decode *d, const budgets *b,
                      int keep_slices) {
    engine e;
    memory m;
    gpu g;
    memset(u, 0, sizeof(*u));
    memset(&m, 0, sizeof(m));
    memset(&g, 0, sizeof(g));
    u->name = name;
    u->piece = d->piece;
    u->period = d->pieces + 1;
    u->sweeps = d->prompt_count + d->new_count - 1;
    u->warm_up = u->sweeps / 2 < 4 ? u->sweeps / 2 : 4;
    u->hash = UINT64_C(14695981039346656037);
    u->margin = INFINITY;
    u->token = (uint32_t *)calloc(d->new_count, sizeof(*u->token));
    u->vocab = d->model->vocab;
    u->kept = LOGITS_KEPT / u->vocab < u->sweeps ? LOGITS_KEPT / u->vocab : u->sweeps;
    u->logits = (float *)malloc((u->kept + 1) * u->vocab * sizeof(float));
    int good = engine_open(&e, d->model, u->sweeps, d->threads) && u->token != NULL &&
               u->logits != NULL && recorder_open(&u->recorder, u->sweeps * u->period, keep_slices);
    if (!good) {
        refuse(&u->why, "out of memory");
    } else {
        int computes = b != NULL && b->runtime != NULL;
        good = (!computes || run_open_gpu(u, &e, &g, b->runtime)) &&
               (b == NULL ? memory_open_plain(&m, d, u->sweeps)
                          : memory_open(&m, d, u->sweeps, b, computes ? &g : NULL, &u->recorder));
        m.recorder = &u->recorder;
        good = good && run_read_factors(&e, &m) && run_tokens(u, d, &e, &m) && run_measure(u, &m);
        memory_close(&m);
        gpu_close(&g);
        good = good && m.why.text[0] == 0;
        if (good) {
            run_account(u);
        }
        refuse(&u->why, "%s", m.why.text);
    }
    engine_close(&e);
    return good;
}

static void run_close(run *u) {
    recorder_close(&u->recorder);
    free(u->token);
    free(u->logits);
    u->token = NULL;
    u->logits = NULL;
}

static int runs_agree(const run *a, const run *b, size_t tokens) {
    return a->hash == b->hash && memcmp(a->token, b->token, tokens * sizeof(*a->token)) == 0;
}

/* How far the logits of two runs are from each other at most, in parts of the largest there is, as
 * long as both were given the same tokens: with another one they speak of something else. */
static double runs_apart(const run *a, const run *b, size_t prompt) {
    double most = 0.0, largest = 0.0;
    for (size_t s = 0; s < a->kept && s < b->kept; s++) {
        if (s >= prompt && a->token[s - prompt] != b->token[s - prompt]) {
            break;
        }
        for (size_t i = s * a->vocab; i < (s + 1) * a->vocab; i++) {
            double x = (double)a->logits[i], apart = fabs(x - (double)b->logits[i]);
            apart = isfinite(apart) ? apart : INFINITY;
            most = apart > most ? apart : most;
            largest = fabs(x) > largest ? fabs(x) : largest;
        }
    }
    return largest > 0.0 ? most / largest : most;
}

/* Bytes over an edge per token, in steady state. from or to < 0: any. */
static double run_moved(const run *u, int from, int to) {
    size_t period = u->period;
    uint64_t sum = 0;
    for (size_t s = u->warm_up * period; s < u->recorder.steps; s++) {
        for (int i = 0; i < PLACES; i++) {
            for (int j = 0; j < PLACES; j++) {
                int wanted = (from < 0 || i == from) && (to < 0 || j == to);
                sum += wanted ? u->recorder.step[s].moved[i][j] : 0;
            }
        }
    }
    return (double)sum / (double)(u->sweeps - u->warm_up);
}

/* ---- table ---------------------------------------------------------------------------------- */

typedef struct bounds { /* what one token reads, and what must come over an edge at least */
    uint64_t needed;    /* N: every weight the sweep touches, the keys and values, one embedding */
    uint64_t kept;      /* C: what device and host can hold together */
    double storage, device;
} bounds;

static bounds bounds_of(const llama *m, const budgets *b, size_t context) {
    bounds out;
    uint64_t row = bytes_of_row(m->embedding->type, m->dim);
    out.needed = m->weight_bytes + 2 * (uint64_t)context * m->kv_dim * sizeof(float) * m->layers;
    out.needed -= m->rope_factors != NULL ? m->rope_factors->bytes : 0;
    if (m->output != m->embedding) {
        out.needed -= m->embedding->bytes - row;
    }
    out.kept = b->device + b->host < out.needed ? b->device + b->host : out.needed;
    out.storage = (double)(out.needed - out.kept);
    out.storage = out.storage > (double)row ? out.storage : (double)row; /* it is never kept */
    out.device =
        b->tiers > STORAGE && b->device < out.needed ? (double)(out.needed - b->device) : 0.0;
    return out;
}

/* What storage moves for a token beyond that, as a share of N: where nearly all is kept the least
 * is next to nothing, and many times that may be little. */
static double run_excess(const run *u, const bounds *least) {
    double moved = run_moved(u, STORAGE, -1) + run_moved(u, -1, STORAGE);
    return (moved - least->storage) / (double)least->needed;
}

static void table_edge(const char *name, const run *free_run, const run *tight, int from, int to,
                       double bound) {
    double moved = run_moved(tight, from, to), without = run_moved(free_run, from, to);
    if (bound < 0.0 && moved < 1.0 && without < 1.0) {
        return;
    }
    printf("  %-30s %10.2f MiB %10.2f MiB", name, without / 1048576.0, moved / 1048576.0);
    if (bound >= 0.0) {
        printf(" %13.2f MiB", bound / 1048576.0);
    }
    printf("\n");
}

static void table_row(const char *name, uint64_t a, uint64_t b) {
    printf("  %-30s %14llu %14llu\n", name, (unsigned long long)a, (unsigned long long)b);
}

static void table_peaks(const run *tight, const budgets *b) {
    const uint64_t budget[STORAGE] = { b->device, b->host };
    const char *const name[STORAGE] = { "device", "host" };
    printf("\n  %-30s %14s %14s\n", "memory of the limited run", "peak", "budget");
    for (int tier = STORAGE + 1 - b->tiers; tier < STORAGE; tier++) {
        printf("  %-30s %10.2f MiB %10.2f MiB\n", name[tier], mib(tight->stats[tier].peak_bytes),
               mib(budget[tier]));
    }
}

/* Where the time of a token went. Copies from storage that nobody waited for were hidden. */
static void table_time(const run *u) {
    double moved = run_moved(u, STORAGE, HOST) + run_moved(u, STORAGE, DEVICE);
    double stalled = u->waiting + u->pumping;
    printf("\n  %s: a token takes %.4f s: %.4f s of compute, %.4f s waiting, %.4f s pumping\n",
           u->name, u->seconds, u->computing, u->waiting, u->pumping);
    if (u->reading > 0.0) {
        printf("  %.2f MiB come from storage in %.4f s (%.2f GB/s); %.0f %% of that is hidden:\n"
               "  the program neither waits nor pumps for so much of that time\n",
               moved / 1048576.0, u->reading, moved / u->reading / 1e9,
               stalled < u->reading ? 100.0 * (1.0 - stalled / u->reading) : 0.0);
    }
}

/* The share of the copies' time in which the device was seen to have work. */
static double table_hidden(const run *u) {
    return u->copying > 0.0 ? u->hidden / u->copying : 1.0;
}

/* The same where a device computes: it is given work, and looked at when it needs more. */
static void table_device(const run *u) {
    double moved = run_moved(u, -1, DEVICE) + run_moved(u, DEVICE, -1);
    printf(
        "\n  %s: a token takes %.4f s, and for %.4f s of it there is work for\n  %s.\n"
        "  %.2f MiB come to it and go from it. Copies between tiers are under way for %.4f s, and\n"
        "  for %.4f s of these it has work: %.0f %% is hidden. A pin waits while it has none for\n"
        "  %.4f s at most\n",
        u->name, u->seconds, u->working, u->device, moved / 1048576.0, u->copying, u->hidden,
        100.0 * table_hidden(u), u->starved);
}

static void table_times(const run *u) {
    if (u->device[0] != 0) {
        table_device(u);
    } else {
        table_time(u);
    }
}

static void table_print(const llama *m, const run *free_run, const run *tight, const budgets *b,
                        const bounds *least) {
    const int top = STORAGE + 1 - b->tiers;
    const tnm_tier_stats *a = &free_run->stats[top], *c = &tight->stats[top];
    printf("\n  %-30s %14s %14s\n", "", "unlimited", "limited");
    printf("  %-30s %14.2f %14.2f\n", "tokens per second", 1.0 / free_run->seconds,
           1.0 / tight->seconds);
    table_row("pins: there already (hits)", a->hits, c->hits);
    table_row("pins: on the way (late)", a->late, c->late);
    table_row("pins: nobody had asked (misses)", a->misses, c->misses);
    printf("\n  %-30s %14s %14s %17s\n", "moved per token, steady state", "unlimited", "limited",
           "least possible");
    table_edge("storage -> host", free_run, tight, STORAGE, HOST, least->storage);
    table_edge("host -> device", free_run, tight, HOST, DEVICE, least->device);
    table_edge("storage -> device", free_run, tight, STORAGE, DEVICE, -1.0);
    table_edge("device -> host", free_run, tight, DEVICE, HOST, -1.0);
    table_edge("host -> storage", free_run, tight, HOST, STORAGE, -1.0);
    table_edge("storage -> program", free_run, tight, STORAGE, PROGRAM, -1.0);
    table_times(tight);
    table_peaks(tight, b);
    printf("\n  A token reads N = %.2f MiB (weights of %.2f MiB, keys and values). %s\n"
           "  hold%s C = %.2f MiB%s, so at least N - C = %.2f MiB must come from storage.\n",
           mib(least->needed), mib(m->weight_bytes), top == HOST ? "The host" : "Device and host",
           top == HOST ? "s" : "", mib(least->kept), top == HOST ? "" : " together",
           least->storage / 1048576.0);
    printf(
        "  Here it is %.2f %% of N more: room for staging, and for what is on its way, in use or\n"
        "  given to a device ahead, keeps nothing.\n",
        100.0 * run_excess(tight, least));
}

/* ---- pictures -------------------------------------------------------------------------------
 * build/demo.json is for ui.perfetto.dev or chrome://tracing: one event a line. build/demo.svg
 * needs nothing but a browser. Both show the limited run. */

enum { TRACK_COMPUTE = 1, TRACK_EDGES = 2, EDGES = 4 };
enum { TRACK_OTHER = TRACK_EDGES + EDGES, TRACK_DEVICE, TRACKS };

typedef struct edge {
    const char *name;
    int from, to;
} edge;

static const edge edges[EDGES] = { { "storage to host", STORAGE, HOST },
                                   { "host to device", HOST, DEVICE },
                                   { "device to host", DEVICE, HOST },
                                   { "host to storage", HOST, STORAGE } };

static const char *step_name(const model_piece *p, size_t step, char *out, size_t bytes) {
    if (step == 0) {
        snprintf(out, bytes, "embedding");
    } else if (p[step - 1].role != LOGITS) {
        snprintf(out, bytes, "layer %llu %s", (unsigned long long)p[step - 1].layer + 1,
                 role_name[p[step - 1].role]);
    } else {
        snprintf(out, bytes, "output");
    }
    return out;
}

static void json_names(FILE *f) {
    fprintf(f, "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":1,\"args\":{\"name\":\"llm_stream, "
               "limited run\"}},\n");
    for (int tid = TRACK_COMPUTE; tid < TRACKS; tid++) {
        const char *name = tid == TRACK_COMPUTE  ? "compute"
                           : tid == TRACK_OTHER  ? "other copies"
                           : tid == TRACK_DEVICE ? "device has work"
                                                 : edges[tid - TRACK_EDGES].name;
        fprintf(f,
                "{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":%d,"
                "\"args\":{\"name\":\"%s\"}},\n",
                tid, name);
        fprintf(f,
                "{\"name\":\"thread_sort_index\",\"ph\":\"M\",\"pid\":1,\"tid\":%d,"
                "\"args\":{\"sort_index\":%d}},\n",
                tid, tid);
    }
}

static void json_slice(FILE *f, int tid, const char *prefix, const char *name, double begin,
                       double end) {
    fprintf(f, "{\"name\":\"%s%s\",\"ph\":\"X\",\"pid\":1,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f",
            prefix, name, tid, begin * 1e6, (end - begin) * 1e6);
}

static void json_step(FILE *f, const run *u, size_t index) {
    const step_record *s = &u->recorder.step[index];
    static const char *const tier[STORAGE] = { "device", "host" };
    char name[48];
    size_t period = u->period;
    step_name(u->piece, index % period, name, sizeof(name));
    json_slice(f, TRACK_COMPUTE, "wait for ", name, s->begin, s->pinned);
    fprintf(f, "},\n");
    json_slice(f, TRACK_COMPUTE, "", name, s->pinned, s->computed);
    fprintf(f, ",\"args\":{\"token\":%zu}},\n", index / period);
    json_slice(f, TRACK_COMPUTE, "pump", "", s->computed, s->end);
    fprintf(f, "},\n");
    for (int i = DEVICE; i < STORAGE; i++) {
        fprintf(
            f,
            "{\"name\":\"%s MiB\",\"ph\":\"C\",\"pid\":1,\"ts\":%.3f,\"args\":{\"MiB\":%.3f}},\n",
            tier[i], s->end * 1e6, mib(s->used[i]));
    }
}

/* A copy between tiers, and for a prefetch an arrow to the step that first used it. */
static void json_copy(FILE *f, const recorder *r, size_t index) {
    static const char *const class_name[] = { "write-back", "guess", "scheduled", "demand" };
    const slice *s = &r->slice[index];
    int tid = TRACK_EDGES;
    while (tid < TRACK_OTHER &&
           (edges[tid - TRACK_EDGES].from != s->from || edges[tid - TRACK_EDGES].to != s->to)) {
        tid++;
    }
    if (s->from == PROGRAM || s->to == PROGRAM) {
        return;
    }
    json_slice(f, tid, "", s->label != NULL ? s->label : "staging", s->begin, s->end);
    fprintf(f, ",\"args\":{\"bytes\":%llu,\"class\":\"%s\"}},\n", (unsigned long long)s->bytes,
            class_name[s->class_ & 3]);
    if (s->used_at == SIZE_MAX || s->class_ == (int)TNM_CLASS_DEMAND) {
        return;
    }
    fprintf(f,
            "{\"name\":\"first use\",\"cat\":\"use\",\"ph\":\"s\",\"id\":%zu,\"pid\":1,\"tid\":%d,"
            "\"ts\":%.3f},\n",
            index, tid, s->begin * 1e6);
    fprintf(f,
            "{\"name\":\"first use\",\"cat\":\"use\",\"ph\":\"f\",\"bp\":\"e\",\"id\":%zu,"
            "\"pid\":1,\"tid\":%d,\"ts\":%.3f},\n",
            index, TRACK_COMPUTE, r->step[s->used_at].pinned * 1e6);
}

static void json_stretch(FILE *f, const stretch *w) {
    json_slice(f, TRACK_DEVICE, "work", "", w->begin, w->end);
    fprintf(f, "},\n");
}

static int json_write(const char *path, const run *u) {
    FILE *f = fopen(path, "w");
    if (f == NULL) {
        return 0;
    }
    fprintf(f, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n");
    json_names(f);
    for (size_t i = 0; i < u->recorder.slices; i++) {
        json_copy(f, &u->recorder, i);
    }
    for (size_t i = 0; i < u->recorder.stretches; i++) {
        json_stretch(f, &u->recorder.stretch[i]);
    }
    for (size_t i = 0; i < u->recorder.steps; i++) {
        json_step(f, u, i);
    }
    fprintf(f, "{\"name\":\"end\",\"ph\":\"i\",\"s\":\"g\",\"pid\":1,\"tid\":1,\"ts\":%.3f}\n]}\n",
            u->recorder.step[u->recorder.steps - 1].end * 1e6);
    int bad = ferror(f);
    return fclose(f) == 0 && !bad;
}

enum { SVG_WIDTH = 980, SVG_LEFT = 76, SVG_RIGHT = 770, SVG_BINS = 460, SVG_TOP = 112 };

typedef struct chart { /* steps gathered into bins of about a pixel and a half */
    FILE *f;
    const llama *model;
    const run *run;
    size_t period, per_sweep, bins;
} chart;

typedef struct panel {
    double top, height, most; /* most: the value at the upper edge */
} panel;

static double chart_x(const chart *c, double bin) {
    return SVG_LEFT + (SVG_RIGHT - SVG_LEFT) * bin / (double)c->bins;
}

static double panel_y(const panel *p, double value) {
    return p->top + p->height * (1.0 - value / p->most);
}

static size_t chart_first_step(const chart *c, size_t bin) {
    return bin / c->per_sweep * c->period + bin % c->per_sweep * c->period / c->per_sweep;
}

/* MiB a step over an edge, on average in the bin. */
static double chart_traffic(const chart *c, size_t bin, const edge *e) {
    size_t first = chart_first_step(c, bin), end = chart_first_step(c, bin + 1);
    uint64_t sum = 0;
    for (size_t s = first; s < end; s++) {
        sum += c->run->recorder.step[s].moved[e->from][e->to];
    }
    return mib(sum) / (double)(end - first);
}

static double chart_used(const chart *c, size_t bin, int tier) { /* MiB, the most in the bin */
    uint64_t most = 0;
    for (size_t s = chart_first_step(c, bin); s < chart_first_step(c, bin + 1); s++) {
        uint64_t used = c->run->recorder.step[s].used[tier];
        most = used > most ? used : most;
    }
    return mib(most);
}

static double nice_step(double most) { /* 1, 2 or 5 times a power of ten: three to five lines */
    double unit = pow(10.0, floor(log10(most > 0.0 ? most : 1.0)));
    double lines = most / unit;
    return lines > 5.0 ? 2.0 * unit : lines > 2.5 ? unit : lines > 1.25 ? unit / 2.0 : unit / 4.0;
}

static void svg_head(const chart *c, double height, double device_share, double host_share) {
    const char *style =
        ".bg{fill:#ffffff}.ink{fill:#1f2328}.dim{fill:#656d76}.grid{stroke:#d8dee4}"
        ".axis{stroke:#8c959f}.device{stroke:#2463c4;fill:#2463c4}.host{stroke:#bf6a02;fill:#"
        "bf6a02}"
        ".storage{stroke:#6e7781;fill:#6e7781}.least{stroke:#1f2328}.shade{fill:#f3f5f8}"
        "@media(prefers-color-scheme:dark){.bg{fill:#0d1117}.ink{fill:#e6edf3}.dim{fill:#8d96a0}"
        ".grid{stroke:#262c36}.axis{stroke:#6e7681}.device{stroke:#6aa5f8;fill:#6aa5f8}"
        ".host{stroke:#e8a13a;fill:#e8a13a}.storage{stroke:#9ea7b3;fill:#9ea7b3}"
        ".least{stroke:#e6edf3}.shade{fill:#161b22}}"
        ".fill{stroke:none;fill-opacity:.16}.bar{stroke:none;fill-opacity:.75}"
        ".line{fill:none;stroke-width:1.6;stroke-linejoin:round}.dash{fill:none;stroke-width:1.2;"
        "stroke-dasharray:5 4}.thin{stroke-width:1}.text{stroke:none}"
        "text{font:12px system-ui,-apple-system,'Segoe UI','DejaVu "
        "Sans',Helvetica,Arial,sans-serif}"
        ".title{font-size:19px;font-weight:600}.small{font-size:11px}.strong{font-weight:600}";
    fprintf(c->f,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %.0f\" width=\"%d\" "
            "height=\"%.0f\" role=\"img\" aria-label=\"Memory used and bytes moved while a model "
            "decodes\">\n<style>%s</style>\n<rect class=\"bg\" width=\"%d\" height=\"%.0f\"/>\n",
            SVG_WIDTH, height, SVG_WIDTH, height, style, SVG_WIDTH, height);
    fprintf(
        c->f,
        "<text class=\"ink title\" x=\"%d\" y=\"36\">%.0f MiB of weights, %.0f %% of that on the "
        "device, %.0f %% on the host</text>\n",
        SVG_LEFT, mib(c->model->weight_bytes), device_share * 100.0, host_share * 100.0);
    fprintf(
        c->f,
        "<text class=\"dim\" x=\"%d\" y=\"58\">%zu layers; every token reads them all, in order. "
        "Time runs in steps: each is a matrix of a layer, or some of its rows.</text>\n",
        SVG_LEFT, c->model->layers);
}

static void svg_grid(const chart *c, const panel *p, const char *title, const char *unit) {
    double step = nice_step(p->most);
    for (double value = 0.0; value <= p->most * 1.0001; value += step) {
        double y = panel_y(p, value);
        fprintf(c->f, "<path class=\"%s thin\" d=\"M%d %.1fH%d\"/>\n",
                value == 0.0 ? "axis" : "grid", SVG_LEFT, y, SVG_RIGHT);
        fprintf(c->f,
                "<text class=\"dim small\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
                SVG_LEFT - 8, y + 4.0, value);
    }
    fprintf(c->f,
            "<text class=\"ink strong\" x=\"%d\" y=\"%.1f\">%s<tspan class=\"dim\" "
            "font-weight=\"400\">, %s</tspan></text>\n",
            SVG_LEFT, p->top - 12.0, title, unit);
}

static void svg_label(const chart *c, double y, const char *tone, const char *text, double value,
                      const char *unit) {
    fprintf(c->f, "<text class=\"%s text small\" x=\"%d\" y=\"%.1f\">%s %.*f %s</text>\n", tone,
            SVG_RIGHT + 10, y + 4.0, text, value < 10.0 ? 2 : 0, value, unit);
}

static void svg_dash(const chart *c, const panel *p, const char *tone, double value,
                     double from_bin) {
    double y = panel_y(p, value);
    fprintf(c->f, "<path class=\"%s dash\" d=\"M%.1f %.1fH%d\"/>\n", tone, chart_x(c, from_bin), y,
            SVG_RIGHT);
}

/* Up to `tiers` of them on top of each other. */
static double chart_stack(const chart *c, size_t bin, int tiers) {
    double sum = 0.0;
    for (int tier = DEVICE; tier < tiers; tier++) {
        sum += chart_used(c, bin, tier);
    }
    return sum;
}

/* The area between the tiers below this one and this one, and its upper edge. */
static void svg_tier(const chart *c, const panel *p, int tier, const char *tone) {
    for (int fill = 1; fill >= 0; fill--) {
        fprintf(c->f, "<path class=\"%s %s\" d=\"M%.1f %.1f", tone, fill ? "fill" : "line",
                chart_x(c, 0.0), panel_y(p, 0.0));
        for (size_t i = 0; i < c->bins; i++) {
            fprintf(c->f, "L%.1f %.1f", chart_x(c, (double)i + 1.0),
                    panel_y(p, chart_stack(c, i, tier + 1)));
        }
        for (size_t i = c->bins; fill && i > 0; i--) {
            fprintf(c->f, "L%.1f %.1f", chart_x(c, (double)i),
                    panel_y(p, chart_stack(c, i - 1, tier)));
        }
        fprintf(c->f, "%s\"/>\n", fill ? "Z" : "");
    }
}

static void svg_occupancy(const chart *c, const panel *p, const budgets *b) {
    double all = mib(c->model->weight_bytes), both = mib(b->device + b->host);
    svg_grid(c, p, "Held in memory, the host on top of the device", "MiB");
    svg_tier(c, p, HOST, "host");
    svg_tier(c, p, DEVICE, "device");
    svg_dash(c, p, "storage", all, 0.0);
    svg_dash(c, p, "host", both, 0.0);
    svg_dash(c, p, "device", mib(b->device), 0.0);
    svg_label(c, panel_y(p, all), "storage", "all weights, in storage", all, "MiB");
    svg_label(c, panel_y(p, both), "host", "budget of the host", mib(b->host), "MiB");
    svg_label(c, panel_y(p, mib(b->device)), "device", "budget of the device", mib(b->device),
              "MiB");
}

/* The scale fits the steady state; the empty tiers at the start may fill faster than that. */
static double svg_scale(const chart *c, panel *p, const edge *e) {
    double highest = 0.0;
    for (size_t i = 0; i < c->bins; i++) {
        double value = chart_traffic(c, i, e);
        highest = value > highest ? value : highest;
        if (i >= c->run->warm_up * c->per_sweep) {
            p->most = value > p->most ? value : p->most;
        }
    }
    p->most = p->most > 0.0 ? p->most * 1.25 : 1.0;
    return highest;
}

/* Bars of traffic, the average of the steady state, and what it could be at best. */
static void svg_edge(const chart *c, panel *p, const edge *e, const char *tone, double least) {
    double moved = run_moved(c->run, e->from, e->to) / 1048576.0 / (double)c->period;
    double highest = svg_scale(c, p, e);
    svg_grid(c, p, e->name, "MiB a step");
    fprintf(c->f, "<path class=\"%s bar\" d=\"", tone);
    for (size_t i = 0; i < c->bins; i++) {
        double value = chart_traffic(c, i, e);
        if (value > 0.0) {
            fprintf(c->f, "M%.1f %.1fV%.1fH%.1fV%.1fZ", chart_x(c, (double)i), panel_y(p, 0.0),
                    panel_y(p, value < p->most ? value : p->most), chart_x(c, (double)i + 1.0),
                    panel_y(p, 0.0));
        }
    }
    fprintf(c->f, "\"/>\n");
    if (highest > p->most) {
        fprintf(c->f,
                "<text class=\"dim small\" x=\"%d\" y=\"%.1f\">up to %.0f at the start</text>\n",
                SVG_LEFT + 8, p->top + 8.0, highest);
    }
    double mean_y = panel_y(p, moved);
    svg_label(c, mean_y - (least >= 0.0 ? 8.0 : 0.0), tone, "average", moved, "MiB a step");
    if (least >= 0.0) {
        double bound = least / 1048576.0 / (double)c->period;
        svg_dash(c, p, "least", bound, (double)(c->run->warm_up * c->per_sweep));
        svg_label(c, mean_y + 8.0, "ink", "least possible", bound, "MiB a step");
    }
}

static void svg_axis(const chart *c, double top, double bottom, size_t prompt) {
    size_t every = 1 + c->run->sweeps / 24;
    for (size_t s = 0; s <= c->run->sweeps; s++) {
        double x = chart_x(c, (double)(s * c->per_sweep));
        fprintf(c->f, "<path class=\"grid thin\" d=\"M%.1f %.1fV%.1f\"/>\n", x, bottom,
                bottom + 5.0);
        if (s < c->run->sweeps && s % every == 0) {
            fprintf(c->f,
                    "<text class=\"dim small\" x=\"%.1f\" y=\"%.1f\" "
                    "text-anchor=\"middle\">%zu</text>\n",
                    chart_x(c, ((double)s + 0.5) * (double)c->per_sweep), bottom + 18.0, s + 1);
        }
    }
    fprintf(c->f,
            "<text class=\"ink\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">token, %zu steps "
            "each</text>\n",
            SVG_RIGHT, bottom + 40.0, c->period);
    double first = chart_x(c, (double)(prompt * c->per_sweep));
    fprintf(c->f, "<path class=\"axis thin\" d=\"M%.1f %.1fV%.1f\"/>\n", first, top, bottom + 44.0);
    fprintf(c->f,
            "<text class=\"dim small\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">prompt</text>\n"
            "<text class=\"dim small\" x=\"%.1f\" y=\"%.1f\">new tokens</text>\n",
            first - 6.0, bottom + 40.0, first + 6.0, bottom + 40.0);
}

/* The edges below each other, where bytes moved; without a file only `p` moves down. */
static void svg_panels(const chart *c, const bounds *least, panel *p) {
    static const char *const tone[EDGES] = { "host", "device", "host", "storage" };
    const double bound[EDGES] = { least->storage, least->device, -1.0, -1.0 };
    for (int i = 0; i < EDGES; i++) {
        if (i < 2 || run_moved(c->run, edges[i].from, edges[i].to) >= 1.0) {
            p->top += p->height + 46.0;
            p->height = 84.0;
            p->most = 0.0;
            if (c->f != NULL) {
                svg_edge(c, p, &edges[i], tone[i], bound[i]);
            }
        }
    }
}

static int svg_write(const char *path, const llama *m, const run *u, const budgets *b,
                     const bounds *least, size_t prompt) {
    chart c = { NULL, m, u, u->period, 0, 0 };
    double both = mib(b->device + b->host), all = mib(m->weight_bytes);
    panel p = { SVG_TOP, 190.0, (both > all ? both : all) * 1.04 }, below = p;
    c.per_sweep = SVG_BINS / u->sweeps;
    c.per_sweep = c.per_sweep < 1 ? 1 : c.per_sweep > c.period ? c.period : c.per_sweep;
    c.bins = c.per_sweep * u->sweeps;
    svg_panels(&c, least, &below);
    double bottom = below.top + below.height;
    c.f = fopen(path, "w");
    if (c.f == NULL) {
        return 0;
    }
    svg_head(&c, bottom + 56.0, (double)b->device / (double)m->weight_bytes,
             (double)b->host / (double)m->weight_bytes);
    fprintf(c.f, "<rect class=\"shade\" x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>\n",
            SVG_LEFT, p.top, chart_x(&c, (double)(prompt * c.per_sweep)) - SVG_LEFT,
            bottom - p.top);
    svg_occupancy(&c, &p, b);
    svg_panels(&c, least, &p);
    svg_axis(&c, SVG_TOP, bottom, prompt);
    fprintf(c.f, "</svg>\n");
    int bad = ferror(c.f);
    return fclose(c.f) == 0 && !bad;
}

/* ---- options -------------------------------------------------------------------------------- */

static const recipe demo_recipe = { 80, 768, 2048, 12, 4, GGUF_TYPE_Q8_0, 3 };

typedef struct options {
    const char *model, *prompt, *trace, *picture, *write;
    double device_share, host_share;
    uint64_t device_bytes, host_bytes; /* 0: by share */
    uint64_t tokens, threads, tiers, piece_bytes;
    int schedule, direct, check, once, pump_thread, help;
    const gpu_runtime *runtime; /* NULL: sim */
    recipe recipe;
} options;

static const char help_text[] =
    "usage: llm_stream [options]\n"
    "Decodes with a Llama model twice, without limits and with little memory, and compares.\n"
    "\n"
    "  --backend B           sim: the CPU computes on a stand-in for a device (default); opencl,\n"
    "                        cuda: the first device of that runtime computes\n"
    "  --model PATH          a GGUF file (F32, F16, BF16, Q8_0); default: one made for the demo\n"
    "  --prompt TEXT         what the model continues; default \"tensor\"\n"
    "  --tokens N            new tokens, 1 to 4096; default 16\n"
    "  --device-share S      device budget as a share of the weights: 25% or 0.25, the default\n"
    "  --host-share S        host budget likewise; default 50%\n"
    "  --device-bytes N      device budget in bytes; K, M and G are powers of 1024\n"
    "  --host-bytes N        host budget in bytes\n"
    "  --policy P            auto-schedule: the layer order is declared (default);\n"
    "                        lru: nothing is, and the least recently used leaves\n"
    "  --no-schedule         the same as --policy lru\n"
    "  --direct              read the file past the page cache\n"
    "  --tiers N             3: device over host over storage (default); 2: no device, the host\n"
    "                        computes where storage was read to\n"
    "  --pump P              calls: bytes move between two steps (default); thread: under them\n"
    "  --threads N           that compute, 1 to 64; default: one for each core\n"
    "  --piece-bytes N       at most so many bytes of a matrix move as one; default: 1/256 of the\n"
    "                        model, but not below 1M\n"
    "  --once                the limited run only, and where a device computes the CPU's beside\n"
    "                        it, to compare with\n"
    "  --check               also compare with a plain program that holds everything\n"
    "  --trace FILE          the timeline for ui.perfetto.dev; default build/demo.json\n"
    "  --picture FILE        the picture; default build/demo.svg\n"
    "  --write-model PATH    only write a model with random weights, of these sizes:\n"
    "                        --layers --dim --ffn --heads --kv-heads N, --seed N,\n"
    "                        --dtype f32|f16|bf16|q8_0\n"
    "  --help                this text\n"
    "\n"
    "The last line, a token in steady state: storage_bytes_per_token moved from and to storage;\n"
    "optimum, the least possible with these budgets; ratio of the two; excess, their difference\n"
    "as a share of all that a token reads. hidden: of the time in which copies between tiers were\n"
    "under way, the share in which the device was seen to have work all along.\n"
    "cpu_logits_apart: the largest difference to the CPU's logits, in parts of the largest of\n"
    "these, while both have the same tokens; cpu_tokens: same, or where they part.\n"
    "\n"
    "Exit status: 0 same numbers within the budgets; 1 not so, or a failure; 2 unusable input.\n";

static int parse_number(const char *text, uint64_t least, uint64_t most, uint64_t *out) {
    char *end = NULL;
    unsigned shift = 0;
    if (*text < '0' || *text > '9') {
        return 0;
    }
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*end == 'K' || *end == 'M' || *end == 'G') {
        shift = *end == 'K' ? 10 : *end == 'M' ? 20 : 30;
        end++;
    }
    if (errno != 0 || *end != 0 || value > UINT64_MAX >> shift) {
        return 0;
    }
    *out = (uint64_t)value << shift;
    return *out >= least && *out <= most;
}

static int parse_share(const char *text, double *out) {
    char *end = NULL;
    double value = strtod(text, &end);
    if (*end == '%') {
        value /= 100.0;
        end++;
    }
    *out = value;
    return end != text && *end == 0 && value > 0.0 && value <= 100.0;
}

static int parse_type(const char *text, uint32_t *out) {
    static const char *const names[] = { "f32", "f16", "bf16", "q8_0" };
    static const uint32_t types[] = { GGUF_TYPE_F32, GGUF_TYPE_F16, GGUF_TYPE_BF16,
                                      GGUF_TYPE_Q8_0 };
    for (size_t i = 0; i < 4; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = types[i];
            return 1;
        }
    }
    return 0;
}

static int parse_size(const char *text, size_t *out) { /* recipe_check knows what is sensible */
    uint64_t value = 0;
    int good = parse_number(text, 1, UINT32_MAX, &value);
    *out = (size_t)value;
    return good;
}

static int parse_pump(const char *text, options *o) {
    o->pump_thread = strcmp(text, "thread") == 0;
#if !defined(TENSORMEM_THREADS)
    return strcmp(text, "calls") == 0;
#else
    return o->pump_thread || strcmp(text, "calls") == 0;
#endif
}

static int parse_policy(const char *text, options *o) {
    o->schedule = strcmp(text, "auto-schedule") == 0;
    return o->schedule || strcmp(text, "lru") == 0;
}

static int parse_backend(const char *text, options *o) {
    o->runtime = NULL;
    for (size_t i = 0; i < sizeof(gpu_runtimes) / sizeof(gpu_runtimes[0]); i++) {
        if (strcmp(text, gpu_runtimes[i]->name) == 0) {
            o->runtime = gpu_runtimes[i];
        }
    }
    return o->runtime != NULL || strcmp(text, "sim") == 0;
}

/* 1 = taken, 0 = a bad value, -1 = no such option. */
static int parse_value(options *o, const char *name, const char *value) {
    const struct {
        const char *name, **out;
    } texts[] = { { "--model", &o->model },
                  { "--prompt", &o->prompt },
                  { "--trace", &o->trace },
                  { "--picture", &o->picture },
                  { "--write-model", &o->write } };
    const struct {
        const char *name;
        size_t *out;
    } sizes[] = { { "--layers", &o->recipe.layers },
                  { "--dim", &o->recipe.dim },
                  { "--ffn", &o->recipe.ffn },
                  { "--heads", &o->recipe.heads },
                  { "--kv-heads", &o->recipe.kv_heads } };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        if (strcmp(name, texts[i].name) == 0) {
            *texts[i].out = value;
            return *value != 0 || texts[i].out == &o->prompt;
        }
    }
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        if (strcmp(name, sizes[i].name) == 0) {
            return parse_size(value, sizes[i].out);
        }
    }
    if (strcmp(name, "--seed") == 0) {
        uint64_t seed = 0;
        int good = parse_number(value, 0, UINT32_MAX, &seed);
        o->recipe.seed = (uint32_t)seed;
        return good;
    }
    return strcmp(name, "--tokens") == 0         ? parse_number(value, 1, 4096, &o->tokens)
           : strcmp(name, "--device-share") == 0 ? parse_share(value, &o->device_share)
           : strcmp(name, "--host-share") == 0   ? parse_share(value, &o->host_share)
           : strcmp(name, "--device-bytes") == 0
               ? parse_number(value, 1, UINT64_MAX / 4, &o->device_bytes)
           : strcmp(name, "--host-bytes") == 0
               ? parse_number(value, 1, UINT64_MAX / 4, &o->host_bytes)
           : strcmp(name, "--piece-bytes") == 0
               ? parse_number(value, 1, UINT64_MAX / 4, &o->piece_bytes)
           : strcmp(name, "--threads") == 0 ? parse_number(value, 1, 64, &o->threads)
           : strcmp(name, "--tiers") == 0   ? parse_number(value, 2, 3, &o->tiers)
           : strcmp(name, "--pump") == 0    ? parse_pump(value, o)
           : strcmp(name, "--policy") == 0  ? parse_policy(value, o)
           : strcmp(name, "--backend") == 0 ? parse_backend(value, o)
           : strcmp(name, "--dtype") == 0   ? parse_type(value, &o->recipe.type)
                                            : -1;
}

static int parse_flag(options *o, const char *name) {
    int *const out = strcmp(name, "--direct") == 0  ? &o->direct
                     : strcmp(name, "--check") == 0 ? &o->check
                     : strcmp(name, "--once") == 0  ? &o->once
                     : strcmp(name, "--help") == 0  ? &o->help
                     : strcmp(name, "-h") == 0      ? &o->help
                                                    : NULL;
    if (strcmp(name, "--no-schedule") == 0) {
        o->schedule = 0;
        return 1;
    }
    if (out != NULL) {
        *out = 1;
    }
    return out != NULL;
}

static int parse_options(options *o, int argc, char **argv, message *why) {
    memset(o, 0, sizeof(*o));
    o->prompt = "tensor";
    o->trace = "build/demo.json";
    o->picture = "build/demo.svg";
    o->device_share = 0.25;
    o->host_share = 0.5;
    o->tokens = 16;
    o->tiers = 3;
    o->threads = (uint64_t)cores();
    o->schedule = 1;
    o->recipe = demo_recipe;
    for (int i = 1; i < argc; i++) {
        if (parse_flag(o, argv[i])) {
            continue;
        }
        int taken = parse_value(o, argv[i], i + 1 < argc ? argv[i + 1] : "");
        if (taken < 0) {
            return refuse(why, "there is no option %s; --help lists them", argv[i]);
        }
        if (taken == 0) {
            return refuse(why, "%s cannot be %s; --help says what it takes", argv[i],
                          i + 1 < argc ? argv[i + 1] : "left empty");
        }
        i++;
    }
    return 1;
}

/* ---- demo ----------------------------------------------------------------------------------- */

enum { PIECE_LEAST = 1 << 20 }; /* below that a disk spends its time on requests */

static int demo_model(const char *path, message *why) {
    llama m;
    int there = llama_open(&m, path) && recipe_matches(&m, &demo_recipe);
    llama_close(&m);
    return there || write_model(path, &demo_recipe, progress, why);
}

typedef struct demo {
    options options;
    const char *path;
    llama model;
    vocabulary vocabulary;
    uint32_t *prompt;
    decode decode;
    budgets budgets;
    bounds least;
    run plain, unlimited, limited;
    message why;
} demo;

static uint64_t demo_budget(uint64_t bytes, double share, uint64_t weights) {
    uint64_t part = (uint64_t)(share * (double)weights);
    return bytes != 0 ? bytes : part != 0 ? part : 1; /* 0 would be no limit */
}

static int demo_prepare(demo *d) {
    const options *o = &d->options;
    size_t room = 3 * strlen(o->prompt) + 4;
    if (!llama_open(&d->model, d->path) || !vocabulary_open(&d->vocabulary, &d->model)) {
        return refuse(&d->why, "%s: %s", d->path, d->model.why.text);
    }
    if (strlen(o->prompt) > 4096) {
        return refuse(&d->why, "the prompt is longer than 4096 bytes");
    }
    if (o->runtime != NULL && (o->tiers == 2 || o->pump_thread)) {
        return refuse(&d->why,
                      "--backend %s computes beside the program, on the fastest of three "
                      "tiers: --pump calls, --tiers 3",
                      o->runtime->name);
    }
    uint64_t piece = o->piece_bytes != 0 ? o->piece_bytes : d->model.weight_bytes / 256;
    piece = o->piece_bytes == 0 && piece < PIECE_LEAST ? PIECE_LEAST : piece;
    d->prompt = (uint32_t *)malloc(room * sizeof(*d->prompt));
    d->decode.model = &d->model;
    d->decode.path = d->path;
    d->decode.prompt = d->prompt;
    d->decode.pieces = llama_pieces(&d->model, piece, NULL);
    d->decode.piece = (model_piece *)calloc(d->decode.pieces, sizeof(*d->decode.piece));
    d->decode.new_count = (size_t)o->tokens;
    d->decode.threads = (int)o->threads;
    d->decode.prompt_count =
        d->prompt == NULL ? 0 : vocabulary_encode(&d->vocabulary, o->prompt, d->prompt);
    if (d->decode.prompt_count == 0 || d->decode.piece == NULL) {
        return refuse(&d->why, "out of memory");
    }
    llama_pieces(&d->model, piece, d->decode.piece);
    if (d->decode.prompt_count + d->decode.new_count > d->model.context) {
        return refuse(&d->why,
                      "%zu tokens of prompt and %zu new ones, but the model was made for %zu",
                      d->decode.prompt_count, d->decode.new_count, d->model.context);
    }
    d->budgets.tiers = (int)o->tiers;
    d->budgets.pump_thread = o->pump_thread;
    d->budgets.device =
        o->tiers == 2 ? 0 : demo_budget(o->device_bytes, o->device_share, d->model.weight_bytes);
    d->budgets.host = demo_budget(o->host_bytes, o->host_share, d->model.weight_bytes);
    d->budgets.schedule = o->schedule;
    d->budgets.direct = o->direct;
    d->budgets.runtime = o->runtime;
    d->least = bounds_of(&d->model, &d->budgets, d->decode.prompt_count + d->decode.new_count - 1);
    return 1;
}

static void demo_print_text(const demo *d) {
    char piece[256], *text = (char *)malloc(d->decode.new_count * sizeof(piece));
    size_t length = 0;
    for (size_t i = 0; text != NULL && i < d->decode.new_count; i++) {
        size_t bytes = vocabulary_decode(&d->vocabulary, d->limited.token[i], piece, sizeof(piece));
        memcpy(text + length, piece, bytes);
        length += bytes;
    }
    printf("\n  prompt     ");
    print_text(d->options.prompt, strlen(d->options.prompt));
    printf("\n  continued  ");
    print_text(text, length);
    printf("\n  token ids ");
    for (size_t i = 0; i < d->decode.prompt_count; i++) {
        printf(" %u", d->prompt[i]);
    }
    printf(" |");
    for (size_t i = 0; i < d->decode.new_count; i++) {
        printf(" %u", d->limited.token[i]);
    }
    printf("\n  the closest second best was %.3g behind\n", (double)d->limited.margin);
    free(text);
}

static int demo_runs(demo *d) {
    budgets none = d->budgets, cpu = d->budgets;
    none.device = none.host = 0;
    cpu.runtime = NULL;
    if (d->options.runtime != NULL && !d->options.check &&
        !run_decode(&d->plain, "cpu", &d->decode, &cpu, 0)) {
        return refuse(&d->why, "run on the CPU: %s", d->plain.why.text);
    }
    if (d->options.check && !run_decode(&d->plain, "plain", &d->decode, NULL, 0)) {
        return refuse(&d->why, "plain run: %s", d->plain.why.text);
    }
    if (!d->options.once && !run_decode(&d->unlimited, "unlimited", &d->decode, &none, 0)) {
        return refuse(&d->why, "unlimited run: %s", d->unlimited.why.text);
    }
    if (!run_decode(&d->limited, "limited", &d->decode, &d->budgets, 1)) {
        return refuse(&d->why, "limited run: %s", d->limited.why.text);
    }
    return 1;
}

static int demo_pictures(demo *d) {
    if (!json_write(d->options.trace, &d->limited)) {
        return refuse(&d->why, "cannot write %s", d->options.trace);
    }
    if (!svg_write(d->options.picture, &d->model, &d->limited, &d->budgets, &d->least,
                   d->decode.prompt_count)) {
        return refuse(&d->why, "cannot write %s", d->options.picture);
    }
    printf("\n  pictures   %s (open it in ui.perfetto.dev), %s\n", d->options.trace,
           d->options.picture);
    return 1;
}

/* How far a device's logits may be from the CPU's. Its sums are made in another order; where
 * vectors are rounded before a product, the last bit of a sum can decide to which of two values. */
static double demo_apart_most(const demo *d) {
    double most = 1e-3;
    for (size_t i = 0; i < d->decode.pieces; i++) {
        uint32_t type = d->decode.piece[i].tensor->type;
        double its = type == GGUF_TYPE_F32 ? 1e-3 : type == GGUF_TYPE_F16 ? 1e-2 : 0.1;
        most = its > most ? its : most;
    }
    return most;
}

/* What a device adds to that line. With two tokens close to each other the better one may be
 * another than the CPU's. */
static void demo_print_device(const demo *d) {
    const run *u = &d->limited;
    size_t same = 0, count = d->decode.new_count;
    while (same < count && d->plain.token[same] == u->token[same]) {
        same++;
    }
    printf(" backend=%s moved_bytes_per_token=%.0f hidden=%.3f cpu_logits_apart=%.3g "
           "cpu_tokens=",
           d->options.runtime->name, run_moved(u, -1, DEVICE) + run_moved(u, DEVICE, -1),
           table_hidden(u), runs_apart(&d->plain, u, d->decode.prompt_count));
    if (same == count) {
        printf("same");
    } else {
        printf("other_from_%zu", same);
    }
}

/* Are the numbers those of the other runs: the same bits where the same kernels made them? */
static int demo_agrees(const demo *d) {
    const run *u = &d->limited;
    if (!d->options.once && !runs_agree(&d->unlimited, u, d->decode.new_count)) {
        return 0;
    }
    if (d->options.runtime == NULL) {
        return !d->options.check || runs_agree(&d->plain, u, d->decode.new_count);
    }
    return runs_apart(&d->plain, u, d->decode.prompt_count) <= demo_apart_most(d);
}

/* The line for machines. */
static int demo_verdict(const demo *d) {
    const run *u = &d->limited;
    int computes = d->options.runtime != NULL;
    int compared = !d->options.once || d->options.check || computes, agrees = demo_agrees(d);
    int peak_ok = u->stats[DEVICE].peak_bytes <= d->budgets.device &&
                  u->stats[HOST].peak_bytes <= d->budgets.host &&
                  u->device_peak <= d->budgets.device;
    double moved = run_moved(u, STORAGE, -1) + run_moved(u, -1, STORAGE);
    double weights = (double)d->model.weight_bytes;
    double ratio = d->least.storage > 0.0 ? moved / d->least.storage : moved > 0.0 ? INFINITY : 1.0;
    printf("demo tokens=%zu identical=%s device_share=%.3f host_share=%.3f "
           "storage_bytes_per_token=%.0f optimum=%.0f ratio=%.3f excess=%.4f peak_ok=%s "
           "tokens_per_second=%.3f",
           d->decode.new_count,
           !compared ? "unchecked"
           : agrees  ? "yes"
                     : "no",
           (double)d->budgets.device / weights, (double)d->budgets.host / weights, moved,
           d->least.storage, ratio, run_excess(u, &d->least), peak_ok ? "yes" : "no",
           1.0 / u->seconds);
    if (computes) {
        demo_print_device(d);
    }
    printf("\n");
    return agrees && peak_ok ? 0 : EXIT_WRONG;
}

static int demo_run(demo *d) {
    const llama *m = &d->model;
    printf(
        "%s: %zu layers of width %zu, %zu heads (%zu for keys and values), %.1f MiB of weights\n",
        d->path, m->layers, m->dim, m->heads, m->kv_heads, mib(m->weight_bytes));
    fflush(stdout);
    if (!demo_runs(d)) {
        return EXIT_WRONG;
    }
    demo_print_text(d);
    if (d->options.once) {
        table_times(&d->limited);
        table_peaks(&d->limited, &d->budgets);
    } else {
        table_print(m, &d->unlimited, &d->limited, &d->budgets, &d->least);
    }
    if (!demo_pictures(d)) {
        return EXIT_WRONG;
    }
    return demo_verdict(d);
}

static void demo_close(demo *d) {
    run_close(&d->plain);
    run_close(&d->unlimited);
    run_close(&d->limited);
    vocabulary_close(&d->vocabulary);
    llama_close(&d->model);
    free(d->prompt);
    free(d->decode.piece);
}

static int demo_main(demo *d) {
    const options *o = &d->options;
    int status = EXIT_INPUT;
    d->path = o->model != NULL ? o->model : "build/demo.gguf";
    if (o->write != NULL) {
        int good = recipe_check(&o->recipe, &d->why);
        return !good                                                  ? EXIT_INPUT
               : write_model(o->write, &o->recipe, progress, &d->why) ? 0
                                                                      : EXIT_WRONG;
    }
    make_folder("build");
    if (o->model == NULL && !demo_model(d->path, &d->why)) {
        return EXIT_WRONG;
    }
    if (demo_prepare(d)) {
        status = demo_run(d);
    }
    demo_close(d);
    return status;
}

int llm_stream_main(int argc, char **argv);

/* main, but a test can call it. */
int llm_stream_main(int argc, char **argv) {
    const uint16_t probe = 1;
    int status = EXIT_INPUT;
    demo *d = (demo *)calloc(1, sizeof(*d));
    if (d == NULL || *(const unsigned char *)&probe != 1) {
        fprintf(stderr, "llm_stream: needs a little-endian machine with memory\n");
        free(d);
        return EXIT_WRONG;
    }
    if (parse_options(&d->options, argc, argv, &d->why)) {
        status = 0;
        if (d->options.help) {
            fputs(help_text, stdout);
        } else {
            status = demo_main(d);
        }
    }
    if (d->why.text[0] != 0) {
        fprintf(stderr, "llm_stream: %s\n", d->why.text);
    }
    free(d);
    return status;
}

#if !defined(LLM_STREAM_NO_MAIN)
int main(int argc, char **argv) {
    return llm_stream_main(argc, argv);
}
#endif
