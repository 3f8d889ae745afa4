/* The C side of tests/dlpack_consumer.py: tensormem and examples/dlpack.h as a shared library, with
 * as little of its own as can be. Python holds the capsules, the arrays and the checks. */
#ifdef __has_include
#    if __has_include(<dlpack/dlpack.h>)
#        include <dlpack/dlpack.h> /* in front of ours: its types are used then */
#    endif
#endif
#define TENSORMEM_THREADS
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "examples/dlpack.h"

#if defined(_WIN32)
#    define CONSUMER_API __declspec(dllexport)
#else
#    define CONSUMER_API __attribute__((visibility("default")))
#endif

enum { FAST, SLOW };

CONSUMER_API tnm_ctx *consumer_open(void);
CONSUMER_API int consumer_close(tnm_ctx *ctx);
CONSUMER_API uint64_t consumer_make(tnm_ctx *ctx, int dtype, int rank, const int64_t *shape);
CONSUMER_API int consumer_forget(tnm_ctx *ctx, uint64_t tensor);
CONSUMER_API int consumer_write(tnm_ctx *ctx, uint64_t t, uint64_t at, const void *from,
                                uint64_t n);
CONSUMER_API int consumer_read(tnm_ctx *ctx, uint64_t tensor, uint64_t at, void *to, uint64_t n);
CONSUMER_API int consumer_change(tnm_ctx *ctx, uint64_t tensor, uint64_t at, unsigned char byte);
CONSUMER_API uint64_t consumer_pins(tnm_ctx *ctx, uint64_t tensor);
CONSUMER_API void *consumer_export(tnm_ctx *ctx, uint64_t tensor, int access, int versioned);
CONSUMER_API void consumer_delete(void *managed, int versioned);
CONSUMER_API uint64_t consumer_import(tnm_ctx *ctx, void *managed, int versioned, int writable);
CONSUMER_API const char *consumer_why(void);
CONSUMER_API int consumer_shape(tnm_ctx *ctx, uint64_t tensor, int64_t *shape);

static const char *why;

static tnm_tensor tensor_of(uint64_t id) {
    tnm_tensor t;
    t.id = id;
    return t;
}

tnm_ctx *consumer_open(void) { /* a fast tier over a slow one */
    tnm_tier_desc tiers[2];
    tnm_desc desc;
    tnm_ctx *ctx;
    memset(tiers, 0, sizeof tiers);
    memset(&desc, 0, sizeof desc);
    tiers[FAST].budget_bytes = 1 << 20;
    desc.tiers = tiers;
    desc.tier_count = 2;
    return tnm_create(&desc, &ctx) == TNM_OK ? ctx : NULL;
}

int consumer_close(tnm_ctx *ctx) {
    return tnm_destroy(ctx);
}

uint64_t consumer_make(tnm_ctx *ctx, int dtype, int rank, const int64_t *shape) {
    tnm_tensor_desc desc;
    tnm_tensor t;
    memset(&desc, 0, sizeof desc);
    desc.dtype = (tnm_dtype)dtype;
    for (int i = 0; i < rank; i++)
        desc.shape[i] = shape[i];
    return tnm_tensor_create(ctx, &desc, &t) == TNM_OK ? t.id : 0;
}

int consumer_forget(tnm_ctx *ctx, uint64_t tensor) {
    tnm_result r = tnm_tensor_destroy(ctx, tensor_of(tensor));
    while (tnm_pump(ctx, TNM_ALL) == TNM_PENDING)
        continue;
    return r;
}

int consumer_write(tnm_ctx *ctx, uint64_t t, uint64_t at, const void *from, uint64_t n) {
    return tnm_write(ctx, tensor_of(t), at, from, n);
}

int consumer_read(tnm_ctx *ctx, uint64_t tensor, uint64_t at, void *to, uint64_t n) {
    return tnm_read(ctx, tensor_of(tensor), at, to, n);
}

/* One byte, in the fast tier; then down to where it came from. */
int consumer_change(tnm_ctx *ctx, uint64_t tensor, uint64_t at, unsigned char byte) {
    tnm_use use = { { 0 }, FAST, TNM_WRITE, 0, 0 };
    tnm_pinned pinned;
    use.tensor = tensor_of(tensor);
    tnm_result r = tnm_pin(ctx, &use, 1, &pinned);
    if (r != TNM_OK) return r;
    ((unsigned char *)pinned.host)[at] = byte;
    r = tnm_unpin(ctx, &pinned, 1, 0);
    while (r == TNM_OK && (r = tnm_flush(ctx, use.tensor, SLOW)) == TNM_PENDING)
        r = tnm_pump(ctx, TNM_ALL) < 0 ? TNM_ERR_BACKEND : TNM_OK;
    return r;
}

uint64_t consumer_pins(tnm_ctx *ctx, uint64_t tensor) {
    tnm_tensor_info info;
    return tnm_info(ctx, tensor_of(tensor), FAST, &info) == TNM_OK ? info.pins : UINT64_MAX;
}

void *consumer_export(tnm_ctx *ctx, uint64_t tensor, int access, int versioned) {
    tnm_dlpack_export_desc desc;
    tnm_dlpack_managed *old = NULL;
    tnm_dlpack_versioned *now = NULL;
    memset(&desc, 0, sizeof desc);
    desc.use.tensor = tensor_of(tensor);
    desc.use.access = (tnm_access)access;
    if (versioned)
        (void)tnm_dlpack_export_versioned(ctx, &desc, &now);
    else
        (void)tnm_dlpack_export(ctx, &desc, &old);
    why = desc.why;
    return versioned ? (void *)now : (void *)old;
}

void consumer_delete(void *managed, int versioned) {
    if (versioned)
        ((tnm_dlpack_versioned *)managed)->deleter((tnm_dlpack_versioned *)managed);
    else
        ((tnm_dlpack_managed *)managed)->deleter((tnm_dlpack_managed *)managed);
}

uint64_t consumer_import(tnm_ctx *ctx, void *managed, int versioned, int writable) {
    tnm_dlpack_import_desc desc;
    tnm_tensor t;
    memset(&desc, 0, sizeof desc);
    desc.tier = SLOW;
    desc.writable = writable;
    if (versioned)
        (void)tnm_dlpack_import_versioned(ctx, &desc, (tnm_dlpack_versioned *)managed, &t);
    else
        (void)tnm_dlpack_import(ctx, &desc, (tnm_dlpack_managed *)managed, &t);
    why = desc.why;
    return t.id;
}

const char *consumer_why(void) { /* of the last export or import */
    return why;
}

int consumer_shape(tnm_ctx *ctx, uint64_t tensor, int64_t *shape) { /* and the dtype */
    tnm_tensor_info info;
    if (tnm_info(ctx, tensor_of(tensor), SLOW, &info) != TNM_OK) return -1;
    memcpy(shape, info.shape, sizeof info.shape);
    return (int)info.dtype;
}
