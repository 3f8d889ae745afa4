/* dlpack.h: tensors of tensormem for NumPy, PyTorch, JAX, CuPy, TVM, and theirs for tensormem,
 * where they lie: nothing is copied. Copy it beside tensormem.h and include it after tensormem.h.
 * Neither DLPack's header nor Python is needed; if <dlpack/dlpack.h> was included before, its types
 * are used. Both forms of the ABI: the old one (v0.x, Python's capsule "dltensor") and, in the
 * functions called _versioned, that of v1 ("dltensor_versioned").
 *
 *     tnm_dlpack_export_desc lend = { .use = { .tensor = weights, .access = TNM_WRITE } };
 *     tnm_dlpack_managed *m;
 *     if (tnm_dlpack_export(mem, &lend, &m) != TNM_OK) return puts(lend.why);
 *     ... PyCapsule_New(m, "dltensor", ...) ...      // whoever takes it calls m->deleter(m), once
 *
 *     tnm_dlpack_import_desc take = { .tier = 1 };
 *     tnm_tensor t;
 *     if (tnm_dlpack_import(mem, &take, theirs, &t) != TNM_OK) return puts(take.why);
 *     ... t is a tensor like any other; theirs->deleter runs when we no longer look at it ...
 *
 * An export is a pin. It holds room in its tier as long as the consumer keeps it, tnm_destroy is
 * BUSY meanwhile, and the deleter is the unpin. What is not to wait hands over a pin of its own
 * (`pinned`). Pins on one tier do not exclude each other: two exports of one tensor see each
 * other's writes. A TNM_READ pin is marked read only in the form of v1; the old form cannot say it,
 * so there `only_reads` has to vouch for the consumer. A TNM_DISCARD pin shows undefined bytes to a
 * consumer that has promised to write them all.
 *
 * Where the consumer computes on a device that is behind, `fence` is asked when it lets go, and the
 * place is kept until that has passed. The deleter may run on any thread, if the context has a lock
 * (TENSORMEM_THREADS, or yours), but not inside a callback of the same context; where max_fences
 * are outstanding it waits for one. Before you export to another queue, order it behind yours: that
 * is what the `stream` of Python's __dlpack__ is for. In Python let the interpreter's lock go
 * around calls that wait or pump (ctypes does): deleters of Python's producers take it.
 *
 * An import is tnm_tensor_adopt: the foreign memory becomes the bottom replica, is not charged, and
 * faster tiers are filled from it. writable 0: the first write gives the tensor bytes of its own
 * and the foreign ones are let go, never changed. writable 1: writes on `tier` and write-backs land
 * in them; tnm_flush before the producer looks. What the producer changes while it is lent is not
 * seen by copies in faster tiers. Their deleter runs once, after the last pin, copy and name, in a
 * call that pumps (or in tnm_destroy), on its thread, and it must not call this context. Until an
 * import has answered OK the tensor is the caller's, whatever went wrong, and with it the deleter.
 *
 * What fits: elements in row-major order without gaps (dimensions of size 1 may have any stride),
 * at least one, of a dtype both sides have. DLPack has no Q4_0 and Q8_0, the old form no 8-bit
 * floats; tensormem has no unsigned numbers above 8 bits, complex or packed ones, no vectors
 * (lanes). TNM_BYTES goes out as uint8; bool comes in as TNM_U8. More than TNM_MAX_DIMS dimensions
 * are merged, outermost first; none become one of 1. Exports have no byte_offset, which some
 * consumers forget to add, except where `data` is a handle (OpenCL, Vulkan, Metal). */
#ifndef TENSORMEM_DLPACK_H
#define TENSORMEM_DLPACK_H

#ifndef TNM_VERSION
#    error "include tensormem.h before dlpack.h"
#endif

#include <stdlib.h>
#include <string.h>

/* ---- the ABI ---- */

enum { /* device types; a number that is not here is handed on as an address */
       TNM_DLPACK_CPU = 1,
       TNM_DLPACK_CUDA = 2,
       TNM_DLPACK_CUDA_HOST = 3, /* page-locked */
       TNM_DLPACK_OPENCL = 4,    /* data is a cl_mem */
       TNM_DLPACK_VULKAN = 7,
       TNM_DLPACK_METAL = 8,
       TNM_DLPACK_ROCM = 10,
       TNM_DLPACK_ROCM_HOST = 11,
       TNM_DLPACK_EXT_DEV = 12, /* whatever else two sides agree on: Ascend */
       TNM_DLPACK_CUDA_MANAGED = 13,
       TNM_DLPACK_ONE_API = 14
};

enum { /* dtype codes */
       TNM_DLPACK_INT = 0,
       TNM_DLPACK_UINT = 1,
       TNM_DLPACK_FLOAT = 2,
       TNM_DLPACK_BFLOAT = 4,
       TNM_DLPACK_BOOL = 6,
       TNM_DLPACK_E4M3 = 10, /* what others call e4m3fn; since v1.1 */
       TNM_DLPACK_E5M2 = 12
};

#define TNM_DLPACK_READ_ONLY UINT64_C(1) /* flags */
#define TNM_DLPACK_MAJOR     1           /* the version we write, and the one we read */
#define TNM_DLPACK_MINOR     1

#ifdef DLPACK_DLPACK_H_
typedef DLDeviceType tnm_dlpack_device_type;
typedef DLTensor tnm_dlpack_tensor;
typedef DLManagedTensor tnm_dlpack_managed;
#else
typedef int32_t tnm_dlpack_device_type; /* an enum of theirs */

typedef struct tnm_dlpack_device {
    tnm_dlpack_device_type device_type;
    int32_t device_id;
} tnm_dlpack_device;

typedef struct tnm_dlpack_data_type {
    uint8_t code, bits;
    uint16_t lanes;
} tnm_dlpack_data_type;

typedef struct tnm_dlpack_tensor {
    void *data; /* an address, or a handle */
    tnm_dlpack_device device;
    int32_t ndim;
    tnm_dlpack_data_type dtype;
    int64_t *shape, *strides; /* in elements; strides NULL = row-major */
    uint64_t byte_offset;
} tnm_dlpack_tensor;

typedef struct tnm_dlpack_managed {
    tnm_dlpack_tensor dl_tensor;
    void *manager_ctx;
    void (*deleter)(struct tnm_dlpack_managed *self);
} tnm_dlpack_managed;
#endif

#if defined(DLPACK_DLPACK_H_) && defined(DLPACK_MAJOR_VERSION)
typedef DLManagedTensorVersioned tnm_dlpack_versioned;
#else
typedef struct tnm_dlpack_version {
    uint32_t major, minor;
} tnm_dlpack_version;

typedef struct tnm_dlpack_versioned {
    tnm_dlpack_version version;
    void *manager_ctx;
    void (*deleter)(struct tnm_dlpack_versioned *self);
    uint64_t flags;
    tnm_dlpack_tensor dl_tensor;
} tnm_dlpack_versioned;
#endif

/* ---- what you say ---- */

typedef struct tnm_dlpack_export_desc {
    tnm_use use;                /* what to pin, where, and for what */
    tnm_pinned *pinned;         /* a pin of use.tensor that you hold: taken over and zeroed */
    int device_type, device_id; /* of the tier, as the consumer counts; type 0 = the CPU */
    int only_reads;             /* 1: this consumer writes nothing, though it is not told so */
    /* What the consumer calls the memory of a token; NULL: by the token, as CUDA, HIP and OpenCL
     * do. NULL from it is a refusal. */
    void *(*handle)(void *user, uint64_t mem);
    /* Asked when the consumer lets go, on its thread: TNM_FENCE(queue, value) behind what it has
     * queued; 0 = it has finished, and if no fence can be had (a mark that failed), see to it that
     * it has. */
    uint64_t (*fence)(void *user);
    void *user;
    const char *why; /* out: what was in the way, or NULL */
} tnm_dlpack_export_desc;

typedef struct tnm_dlpack_import_desc {
    int tier;                   /* whose backend can copy from this memory */
    int device_type, device_id; /* what that tier is; type 0 = memory the CPU sees, of any kind */
    int writable;               /* as in tnm_adopt_desc */
    uint32_t alignment;         /* demanded of the first byte; 0 = the element's size */
    tnm_tensor_desc tensor;     /* in: label, advice, user. out: dtype, shape, bytes */
    const char *why;            /* out: what was in the way, or NULL */
} tnm_dlpack_import_desc;

/* ---- both ways ---- */

static inline int tnm_dlpack_is_handle(int device_type) {
    return device_type == TNM_DLPACK_OPENCL || device_type == TNM_DLPACK_VULKAN ||
           device_type == TNM_DLPACK_METAL;
}

static inline int tnm_dlpack_is_host(int device_type) { /* the CPU may use data as an address */
    return device_type == TNM_DLPACK_CPU || device_type == TNM_DLPACK_CUDA_HOST ||
           device_type == TNM_DLPACK_ROCM_HOST || device_type == TNM_DLPACK_CUDA_MANAGED;
}

typedef struct tnm_dlpack_type {
    tnm_dtype dtype;
    uint8_t code, bits, since; /* since: 1 = the form of v1 alone has it */
} tnm_dlpack_type;

/* The row of a dtype, or of a code and its bits; NULL = one side has no such type. */
static inline const tnm_dlpack_type *tnm_dlpack_find(int dtype, int code, int bits) {
    static const tnm_dlpack_type types[] = {
        { TNM_BYTES, TNM_DLPACK_UINT, 8, 0 },   { TNM_U8, TNM_DLPACK_UINT, 8, 0 },
        { TNM_U8, TNM_DLPACK_BOOL, 8, 0 },      { TNM_I8, TNM_DLPACK_INT, 8, 0 },
        { TNM_I16, TNM_DLPACK_INT, 16, 0 },     { TNM_I32, TNM_DLPACK_INT, 32, 0 },
        { TNM_I64, TNM_DLPACK_INT, 64, 0 },     { TNM_F16, TNM_DLPACK_FLOAT, 16, 0 },
        { TNM_BF16, TNM_DLPACK_BFLOAT, 16, 0 }, { TNM_F32, TNM_DLPACK_FLOAT, 32, 0 },
        { TNM_F64, TNM_DLPACK_FLOAT, 64, 0 },   { TNM_F8_E4M3, TNM_DLPACK_E4M3, 8, 1 },
        { TNM_F8_E5M2, TNM_DLPACK_E5M2, 8, 1 },
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (dtype >= 0
                ? (int)types[i].dtype == dtype
                : types[i].dtype != TNM_BYTES && types[i].code == code && types[i].bits == bits)
            return &types[i];
    }
    return NULL;
}

/* ---- export ---- */

typedef struct tnm_dlpack_lent { /* what the consumer sees, and what its deleter needs */
    tnm_ctx *ctx;
    tnm_pinned at;
    uint64_t (*fence)(void *user);
    void *user;
    int64_t shape[TNM_MAX_DIMS], strides[TNM_MAX_DIMS];
    tnm_dlpack_managed old;
    tnm_dlpack_versioned versioned;
} tnm_dlpack_lent;

/* A fence may find the table of fences full: what passes makes room. Where there is no memory to
 * note one, or it is refused (of a mark that failed), the pin is kept for ever rather than let go
 * under a kernel, and tnm_destroy is BUSY. */
static inline void tnm_dlpack_let_go(tnm_dlpack_lent *lent) {
    uint64_t fence = lent->fence ? lent->fence(lent->user) : 0;
    tnm_result r = tnm_unpin(lent->ctx, &lent->at, 1, fence);
    for (int patience = 1000; r == TNM_ERR_CAPACITY || (r == TNM_ERR_MEMORY && patience > 0);
         patience--) {
        (void)tnm_wait(lent->ctx);
        r = tnm_unpin(lent->ctx, &lent->at, 1, fence);
    }
    free(lent);
}

static inline void tnm_dlpack_delete(tnm_dlpack_managed *self) {
    if (self) tnm_dlpack_let_go((tnm_dlpack_lent *)self->manager_ctx);
}

static inline void tnm_dlpack_delete_versioned(tnm_dlpack_versioned *self) {
    if (self) tnm_dlpack_let_go((tnm_dlpack_lent *)self->manager_ctx);
}

/* Where the pinned bytes lie, in the consumer's words. Returns what is in the way, or NULL. */
static inline const char *tnm_dlpack_place(const tnm_dlpack_export_desc *desc, const tnm_pinned *at,
                                           tnm_dlpack_tensor *t) {
    int type = desc->device_type ? desc->device_type : TNM_DLPACK_CPU;
    t->device.device_type = (tnm_dlpack_device_type)type;
    t->device.device_id = desc->device_id;
    t->byte_offset = 0;
    if (tnm_dlpack_is_host(type) && at->host) {
        t->data = at->host;
        return NULL;
    }
    if (tnm_dlpack_is_host(type) && type != TNM_DLPACK_CUDA_MANAGED)
        return "the CPU does not see the memory of this tier: give its device_type";
    uint64_t token = at->mem;
    if (desc->handle) token = (uint64_t)(uintptr_t)desc->handle(desc->user, token);
    if (token == 0) return "this memory has no name the consumer knows";
    if (tnm_dlpack_is_handle(type))
        t->byte_offset = at->offset;
    else
        token += at->offset;
    t->data = (void *)(uintptr_t)token;
    return (uintptr_t)token == token ? NULL : "the device's address does not fit a pointer";
}

/* Row-major, each stride given: v1 wants them. A tensor without a shape is its bytes. */
static inline void tnm_dlpack_lay_out(tnm_dlpack_lent *lent, const tnm_tensor_info *info,
                                      tnm_dlpack_tensor *t) {
    const tnm_dlpack_type *type = tnm_dlpack_find((int)info->dtype, 0, 0);
    int64_t step = 1;
    int rank = 0;
    while (rank < TNM_MAX_DIMS && info->shape[rank] > 0) {
        lent->shape[rank] = info->shape[rank];
        rank++;
    }
    if (rank == 0) lent->shape[rank++] = (int64_t)info->bytes;
    for (int i = rank; i-- > 0; step *= lent->shape[i])
        lent->strides[i] = step;
    t->ndim = rank;
    t->shape = lent->shape;
    t->strides = lent->strides;
    t->dtype.code = type->code;
    t->dtype.bits = type->bits;
    t->dtype.lanes = 1;
}

/* What can be known before anything is pinned. */
static inline const char *tnm_dlpack_may_export(const tnm_dlpack_export_desc *desc,
                                                const tnm_tensor_info *info, int versioned) {
    const tnm_dlpack_type *type = tnm_dlpack_find((int)info->dtype, 0, 0);
    tnm_access access = desc->pinned ? desc->pinned->access : desc->use.access;
    if (!type) return "DLPack has no type for blocks of quantised numbers: export a view of bytes";
    if (type->since > versioned) return "8-bit floats need the versioned form";
    if (!versioned && access == TNM_READ && !desc->only_reads)
        return "the old form cannot say read only: pin for TNM_WRITE, or vouch by only_reads";
    if (desc->pinned && desc->pinned->bytes != info->bytes)
        return "`pinned` is not a pin of use.tensor";
    return NULL;
}

static inline tnm_result tnm_dlpack_lend(tnm_ctx *ctx, tnm_dlpack_export_desc *desc, int versioned,
                                         tnm_dlpack_lent **out) {
    tnm_tensor_info info;
    int tier = desc->pinned ? desc->pinned->tier : desc->use.tier;
    desc->why = "tensormem refused: its log names the rule";
    if (desc->pinned && desc->pinned->id == 0) desc->why = "`pinned` holds no pin";
    if (desc->pinned && desc->pinned->id == 0) return TNM_ERR_ARGUMENT;
    tnm_result r = tnm_info(ctx, desc->use.tensor, tier, &info);
    if (r != TNM_OK) return r;
    const char *why = tnm_dlpack_may_export(desc, &info, versioned);
    if (why) desc->why = why;
    if (why) return TNM_ERR_UNSUPPORTED;
    tnm_dlpack_lent *lent = (tnm_dlpack_lent *)calloc(1, sizeof *lent);
    if (!lent) desc->why = "no memory";
    if (!lent) return TNM_ERR_MEMORY;
    tnm_dlpack_tensor *t = versioned ? &lent->versioned.dl_tensor : &lent->old.dl_tensor;
    if (desc->pinned)
        lent->at = *desc->pinned;
    else
        r = tnm_pin(ctx, &desc->use, 1, &lent->at);
    if (r == TNM_OK && (why = tnm_dlpack_place(desc, &lent->at, t)) != NULL) {
        desc->why = why;
        r = TNM_ERR_UNSUPPORTED;
        if (!desc->pinned) (void)tnm_unpin(ctx, &lent->at, 1, 0);
    }
    if (r != TNM_OK) { /* ABSENT or PENDING too: what was asked for is not here */
        free(lent);
        return r;
    }
    if (desc->pinned) memset(desc->pinned, 0, sizeof *desc->pinned);
    tnm_dlpack_lay_out(lent, &info, t);
    lent->ctx = ctx;
    lent->fence = desc->fence;
    lent->user = desc->user;
    desc->why = NULL;
    *out = lent;
    return TNM_OK;
}

/* Pin, or take over a pin, and hand it out. Waits as tnm_pin does, and answers what it does; then
 * UNSUPPORTED (DLPack cannot say it: desc->why), MEMORY. On failure nothing is held, and what was
 * to be taken over is still yours. */
static inline tnm_result tnm_dlpack_export(tnm_ctx *ctx, tnm_dlpack_export_desc *desc,
                                           tnm_dlpack_managed **out) {
    tnm_dlpack_lent *lent;
    if (out) *out = NULL;
    if (!ctx || !desc || !out) return TNM_ERR_ARGUMENT;
    tnm_result r = tnm_dlpack_lend(ctx, desc, 0, &lent);
    if (r != TNM_OK) return r;
    lent->old.manager_ctx = lent;
    lent->old.deleter = tnm_dlpack_delete;
    *out = &lent->old;
    return TNM_OK;
}

static inline tnm_result tnm_dlpack_export_versioned(tnm_ctx *ctx, tnm_dlpack_export_desc *desc,
                                                     tnm_dlpack_versioned **out) {
    tnm_dlpack_lent *lent;
    if (out) *out = NULL;
    if (!ctx || !desc || !out) return TNM_ERR_ARGUMENT;
    tnm_result r = tnm_dlpack_lend(ctx, desc, 1, &lent);
    if (r != TNM_OK) return r;
    lent->versioned.version.major = TNM_DLPACK_MAJOR;
    lent->versioned.version.minor = TNM_DLPACK_MINOR;
    lent->versioned.flags = lent->at.access == TNM_READ ? TNM_DLPACK_READ_ONLY : 0;
    lent->versioned.manager_ctx = lent;
    lent->versioned.deleter = tnm_dlpack_delete_versioned;
    *out = &lent->versioned;
    return TNM_OK;
}

/* ---- import ---- */

/* The shape, without gaps: counts the elements. Returns what is in the way, or NULL. */
static inline const char *tnm_dlpack_shape(const tnm_dlpack_tensor *t, uint64_t *count) {
    *count = 1;
    if (t->ndim < 0 || t->ndim > 64) return "the number of dimensions is none";
    if (t->ndim > 0 && !t->shape) return "dimensions without a shape";
    for (int32_t i = t->ndim; i-- > 0;) {
        int64_t size = t->shape[i];
        if (size < 0) return "a dimension is negative";
        if (size == 0) return "it has no elements";
        if (t->strides && size > 1 && (t->strides[i] < 0 || (uint64_t)t->strides[i] != *count))
            return "its elements are not in row-major order without gaps: copy it there first";
        if (*count > (uint64_t)INT64_MAX / (uint64_t)size) return "its shape overflows";
        *count *= (uint64_t)size;
    }
    return NULL;
}

/* At most TNM_MAX_DIMS of them: those of size 1 go first, then the outermost are merged. */
static inline void tnm_dlpack_dims(const tnm_dlpack_tensor *t, int64_t *shape) {
    int32_t left = t->ndim, at = 0;
    int64_t merged = 1;
    memset(shape, 0, TNM_MAX_DIMS * sizeof shape[0]);
    for (int32_t i = 0; i < t->ndim; i++)
        left -= left > TNM_MAX_DIMS && t->shape[i] == 1;
    int32_t ones = t->ndim - left; /* to leave out */
    for (int32_t i = 0; i < t->ndim; i++) {
        if (ones > 0 && t->shape[i] == 1) {
            ones--;
            continue;
        }
        merged *= t->shape[i];
        if (left-- > TNM_MAX_DIMS) continue; /* the next one takes this one in */
        shape[at++] = merged;
        merged = 1;
    }
    if (at == 0) shape[0] = 1;
}

/* Where it lies and whether we may look there. */
static inline const char *tnm_dlpack_reach(const tnm_dlpack_tensor *t, uint64_t bytes,
                                           const tnm_dlpack_import_desc *desc,
                                           tnm_adopt_desc *adopt) {
    int theirs = (int)t->device.device_type;
    int ours = desc->device_type ? desc->device_type : TNM_DLPACK_CPU;
    uint64_t data = (uint64_t)(uintptr_t)t->data, end = data + t->byte_offset;
    if (!t->data) return "it has no data";
    if (ours == TNM_DLPACK_CPU ? !tnm_dlpack_is_host(theirs)
                               : theirs != ours || t->device.device_id != desc->device_id)
        return "it lies on another device than this tier";
    if (end < data || end + bytes < end) return "its address overflows";
    if (ours == TNM_DLPACK_CPU && (uintptr_t)(end + bytes) != end + bytes)
        return "its address overflows";
    uint64_t grain = desc->alignment ? desc->alignment : (uint64_t)(t->dtype.bits / 8);
    if ((tnm_dlpack_is_handle(theirs) ? t->byte_offset : end) % grain != 0)
        return "its first byte is not aligned";
    if (ours == TNM_DLPACK_CPU) {
        adopt->host = (void *)(uintptr_t)end;
    } else {
        adopt->mem = data;
        adopt->offset = t->byte_offset;
    }
    return NULL;
}

static inline const char *tnm_dlpack_accept(const tnm_dlpack_tensor *t,
                                            tnm_dlpack_import_desc *desc, tnm_adopt_desc *adopt) {
    uint64_t count;
    const tnm_dlpack_type *type = tnm_dlpack_find(-1, t->dtype.code, t->dtype.bits);
    if (t->dtype.lanes != 1) return "its elements are vectors";
    if (!type) return "tensormem has no such dtype";
    const char *why = tnm_dlpack_shape(t, &count);
    if (why) return why;
    if (count > (uint64_t)INT64_MAX / (type->bits / 8u)) return "its shape overflows";
    uint64_t bytes = count * (type->bits / 8u);
    why = tnm_dlpack_reach(t, bytes, desc, adopt);
    if (why) return why;
    tnm_dlpack_dims(t, desc->tensor.shape);
    desc->tensor.dtype = type->dtype;
    desc->tensor.bytes = bytes;
    adopt->tier = desc->tier;
    adopt->writable = desc->writable;
    return NULL;
}

static inline void tnm_dlpack_released(void *user, uint64_t mem, uint64_t offset) {
    tnm_dlpack_managed *from = (tnm_dlpack_managed *)user;
    (void)mem, (void)offset;
    if (from->deleter) from->deleter(from);
}

static inline void tnm_dlpack_released_versioned(void *user, uint64_t mem, uint64_t offset) {
    tnm_dlpack_versioned *from = (tnm_dlpack_versioned *)user;
    (void)mem, (void)offset;
    if (from->deleter) from->deleter(from);
}

/* `lent`: it is an export of ours. Its deleter would call the context out of its own callback. */
static inline tnm_result tnm_dlpack_adopt(tnm_ctx *ctx, tnm_dlpack_import_desc *desc,
                                          const tnm_dlpack_tensor *t, const tnm_dlpack_lent *lent,
                                          tnm_adopt_desc *adopt, tnm_tensor *out) {
    if (lent && lent->ctx == ctx) desc->why = "it is a tensor of this context: make a view of it";
    if (lent && lent->ctx == ctx) return TNM_ERR_ARGUMENT;
    desc->why = tnm_dlpack_accept(t, desc, adopt);
    if (desc->why) return TNM_ERR_UNSUPPORTED;
    tnm_result r = tnm_tensor_adopt(ctx, &desc->tensor, adopt, out);
    if (r != TNM_OK) desc->why = "tensormem refused: its log names the rule";
    return r;
}

/* Make a foreign tensor one of ours. Fails: UNSUPPORTED (desc->why), ARGUMENT, MEMORY, CAPACITY;
 * it is still the caller's then, not touched. */
static inline tnm_result tnm_dlpack_import(tnm_ctx *ctx, tnm_dlpack_import_desc *desc,
                                           tnm_dlpack_managed *from, tnm_tensor *out) {
    tnm_adopt_desc adopt;
    const tnm_dlpack_lent *lent;
    if (out) out->id = 0;
    if (!ctx || !desc || !from || !out) return TNM_ERR_ARGUMENT;
    memset(&adopt, 0, sizeof adopt);
    adopt.released = tnm_dlpack_released;
    adopt.user = from;
    lent = from->deleter == tnm_dlpack_delete ? (const tnm_dlpack_lent *)from->manager_ctx : NULL;
    return tnm_dlpack_adopt(ctx, desc, &from->dl_tensor, lent, &adopt, out);
}

static inline tnm_result tnm_dlpack_import_versioned(tnm_ctx *ctx, tnm_dlpack_import_desc *desc,
                                                     tnm_dlpack_versioned *from, tnm_tensor *out) {
    tnm_adopt_desc adopt;
    const tnm_dlpack_lent *lent = NULL;
    if (out) out->id = 0;
    if (!ctx || !desc || !from || !out) return TNM_ERR_ARGUMENT;
    memset(&adopt, 0, sizeof adopt);
    adopt.released = tnm_dlpack_released_versioned;
    adopt.user = from;
    desc->why = NULL;
    if (from->version.major != TNM_DLPACK_MAJOR) desc->why = "it is of another DLPack than v1";
    if (!desc->why && desc->writable && (from->flags & TNM_DLPACK_READ_ONLY))
        desc->why = "it is read only";
    if (desc->why) return TNM_ERR_UNSUPPORTED;
    if (from->deleter == tnm_dlpack_delete_versioned)
        lent = (const tnm_dlpack_lent *)from->manager_ctx;
    return tnm_dlpack_adopt(ctx, desc, &from->dl_tensor, lent, &adopt, out);
}

#endif /* TENSORMEM_DLPACK_H */
