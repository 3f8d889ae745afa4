/* needs: -pthread */
/* examples/dlpack.h: the ABI against DLPack's own header, what goes out and what comes in, who
 * deletes, how often and when. What others make of it is tests/dlpack_consumer.py. */
#define TENSORMEM_THREADS
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "examples/dlpack.h"
#include "check.h"

#ifdef __has_include
#    if __has_include(<dlpack/dlpack.h>)
#        include <dlpack/dlpack.h> /* behind ours: so both declarations are here */
#        define HAVE_DLPACK 1
#    endif
#endif
#ifndef _WIN32
#    include <pthread.h>
#endif

/* ---- the ABI ---- */

#ifdef HAVE_DLPACK
#    define SAME(ours, member, theirs, name)                                                       \
        (CHECK_EQ(offsetof(ours, member), offsetof(theirs, name)),                                 \
         CHECK_EQ(sizeof((ours *)0)->member, sizeof((theirs *)0)->name))

TEST(abi_of_the_old_form) {
    CHECK_EQ(sizeof(tnm_dlpack_tensor), sizeof(DLTensor));
    CHECK_EQ(sizeof(tnm_dlpack_managed), sizeof(DLManagedTensor));
    CHECK_EQ(sizeof(tnm_dlpack_device), sizeof(DLDevice));
    CHECK_EQ(sizeof(tnm_dlpack_data_type), sizeof(DLDataType));
    SAME(tnm_dlpack_tensor, data, DLTensor, data);
    SAME(tnm_dlpack_tensor, device.device_type, DLTensor, device.device_type);
    SAME(tnm_dlpack_tensor, device.device_id, DLTensor, device.device_id);
    SAME(tnm_dlpack_tensor, ndim, DLTensor, ndim);
    SAME(tnm_dlpack_tensor, dtype.code, DLTensor, dtype.code);
    SAME(tnm_dlpack_tensor, dtype.bits, DLTensor, dtype.bits);
    SAME(tnm_dlpack_tensor, dtype.lanes, DLTensor, dtype.lanes);
    SAME(tnm_dlpack_tensor, shape, DLTensor, shape);
    SAME(tnm_dlpack_tensor, strides, DLTensor, strides);
    SAME(tnm_dlpack_tensor, byte_offset, DLTensor, byte_offset);
    SAME(tnm_dlpack_managed, dl_tensor, DLManagedTensor, dl_tensor);
    SAME(tnm_dlpack_managed, manager_ctx, DLManagedTensor, manager_ctx);
    SAME(tnm_dlpack_managed, deleter, DLManagedTensor, deleter);
    CHECK_EQ(TNM_DLPACK_CPU, kDLCPU);
    CHECK_EQ(TNM_DLPACK_CUDA, kDLCUDA);
    CHECK_EQ(TNM_DLPACK_CUDA_HOST, kDLCUDAHost);
    CHECK_EQ(TNM_DLPACK_OPENCL, kDLOpenCL);
    CHECK_EQ(TNM_DLPACK_VULKAN, kDLVulkan);
    CHECK_EQ(TNM_DLPACK_METAL, kDLMetal);
    CHECK_EQ(TNM_DLPACK_ROCM, kDLROCM);
    CHECK_EQ(TNM_DLPACK_ROCM_HOST, kDLROCMHost);
    CHECK_EQ(TNM_DLPACK_EXT_DEV, kDLExtDev);
    CHECK_EQ(TNM_DLPACK_CUDA_MANAGED, kDLCUDAManaged);
    CHECK_EQ(TNM_DLPACK_INT, kDLInt);
    CHECK_EQ(TNM_DLPACK_UINT, kDLUInt);
    CHECK_EQ(TNM_DLPACK_FLOAT, kDLFloat);
    CHECK_EQ(TNM_DLPACK_BFLOAT, kDLBfloat);
}
#endif

#if UINTPTR_MAX > UINT32_MAX
/* by the numbers that v1's header gives where pointers have 64 bits: a header of v1 is rare yet */
TEST(abi_of_v1) {
    CHECK_EQ(sizeof(tnm_dlpack_versioned), 80);
    CHECK_EQ(offsetof(tnm_dlpack_versioned, version.major), 0);
    CHECK_EQ(offsetof(tnm_dlpack_versioned, version.minor), 4);
    CHECK_EQ(offsetof(tnm_dlpack_versioned, manager_ctx), 8);
    CHECK_EQ(offsetof(tnm_dlpack_versioned, deleter), 16);
    CHECK_EQ(offsetof(tnm_dlpack_versioned, flags), 24);
    CHECK_EQ(offsetof(tnm_dlpack_versioned, dl_tensor), 32);
    CHECK_EQ(offsetof(tnm_dlpack_versioned, dl_tensor.byte_offset), 72);
}
#endif

/* ---- a context: a device the CPU does not see, over two kinds of plain memory ---- */

enum { DEVICE, FAST, HOST, TIERS, LINE = 64, LATE = 3 };

static uint64_t fences_passed, fences_most;

static tnm_result device_alloc(void *user, uint64_t size, uint64_t align, void *item, uint64_t *mem,
                               void **host) {
    void *at = NULL;
    (void)user, (void)item, (void)align;
    if (size <= 1 << 20) at = malloc((size_t)size);
    *mem = (uint64_t)(uintptr_t)at;
    *host = NULL;
    return at ? TNM_OK : TNM_ERR_MEMORY;
}

static void device_release(void *user, uint64_t mem, uint64_t size) {
    (void)user, (void)size;
    free((void *)(uintptr_t)mem);
}

static unsigned char *device_at(const tnm_span *span) {
    return span->host ? (unsigned char *)span->host
                      : (unsigned char *)(uintptr_t)span->mem + span->offset;
}

static tnm_result device_copy(void *user, const tnm_span *dst, const tnm_span *src, uint64_t size,
                              uint64_t *ticket) {
    (void)user, (void)ticket;
    memcpy(device_at(dst), device_at(src), (size_t)size);
    return TNM_OK;
}

static uint64_t passed(void *user, uint32_t queue, uint64_t wait_for) {
    uint64_t now = __atomic_load_n(&fences_passed, __ATOMIC_ACQUIRE);
    (void)user, (void)queue;
    if (wait_for > now && wait_for <= fences_most) {
        __atomic_store_n(&fences_passed, wait_for, __ATOMIC_RELEASE);
        now = wait_for;
    }
    return now;
}

static int many_rounds(void *user, uint64_t rounds) {
    (void)user;
    return rounds > 100000;
}

static void silent(void *user, const tnm_log *item) {
    (void)user, (void)item;
}

static tnm_ctx *context(uint32_t max_tensors, uint32_t max_fences) {
    tnm_tier_desc tiers[TIERS];
    tnm_desc desc;
    tnm_ctx *ctx = NULL;
    memset(tiers, 0, sizeof tiers);
    memset(&desc, 0, sizeof desc);
    tiers[DEVICE].budget_bytes = 64 << 10;
    tiers[DEVICE].backend.alloc = device_alloc;
    tiers[DEVICE].backend.release = device_release;
    tiers[DEVICE].backend.copy = device_copy;
    tiers[FAST].budget_bytes = 64 << 10;
    desc.tiers = tiers;
    desc.tier_count = TIERS;
    desc.max_tensors = max_tensors;
    desc.max_fences = max_fences;
    desc.alloc = check_alloc;
    desc.release = check_release;
    desc.passed = passed;
    desc.idle = many_rounds;
    desc.log = silent;
    fences_passed = 0;
    fences_most = UINT64_MAX / 2;
    CHECK_EQ(tnm_create(&desc, &ctx), TNM_OK);
    return ctx;
}

static tnm_tensor filled(tnm_ctx *ctx, tnm_dtype dtype, int64_t a, int64_t b) {
    static unsigned char bytes[16384];
    tnm_tensor_desc desc;
    tnm_tensor_info info;
    tnm_tensor t;
    memset(&desc, 0, sizeof desc);
    desc.dtype = dtype;
    desc.shape[0] = a;
    desc.shape[1] = b;
    CHECK_EQ(tnm_tensor_create(ctx, &desc, &t), TNM_OK);
    CHECK_EQ(tnm_info(ctx, t, HOST, &info), TNM_OK);
    for (uint64_t i = 0; i < info.bytes; i++)
        bytes[i] = (unsigned char)(i * 7 + 3);
    CHECK_EQ(tnm_write(ctx, t, 0, bytes, info.bytes), TNM_OK);
    return t;
}

static int pattern(const void *at, uint64_t from, uint64_t bytes) {
    const unsigned char *byte = (const unsigned char *)at;
    for (uint64_t i = 0; i < bytes; i++)
        if (byte[i] != (unsigned char)((from + i) * 7 + 3)) return 0;
    return 1;
}

static uint32_t pins(tnm_ctx *ctx, tnm_tensor t, int tier) {
    tnm_tensor_info info;
    CHECK_EQ(tnm_info(ctx, t, tier, &info), TNM_OK);
    return info.pins;
}

static void rest(tnm_ctx *ctx) {
    for (int i = 0; i < 100 && tnm_pump(ctx, TNM_ALL) == TNM_PENDING; i++)
        continue;
}

static tnm_dlpack_export_desc want(tnm_tensor t, int tier, tnm_access access) {
    tnm_dlpack_export_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.use.tensor = t;
    desc.use.tier = tier;
    desc.use.access = access;
    return desc;
}

/* ---- export ---- */

TEST(every_dtype_goes_out) {
    static const struct {
        tnm_dtype dtype;
        int code, bits, since;
    } row[] = { { TNM_BYTES, 1, 8, 0 }, { TNM_U8, 1, 8, 0 },       { TNM_I8, 0, 8, 0 },
                { TNM_I16, 0, 16, 0 },  { TNM_I32, 0, 32, 0 },     { TNM_I64, 0, 64, 0 },
                { TNM_F16, 2, 16, 0 },  { TNM_BF16, 4, 16, 0 },    { TNM_F32, 2, 32, 0 },
                { TNM_F64, 2, 64, 0 },  { TNM_F8_E4M3, 10, 8, 1 }, { TNM_F8_E5M2, 12, 8, 1 },
                { TNM_Q4_0, -1, 0, 0 }, { TNM_Q8_0, -1, 0, 0 } };
    tnm_ctx *ctx = context(0, 0);
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        tnm_tensor t = filled(ctx, row[i].dtype, 3, 32);
        tnm_dlpack_export_desc desc = want(t, FAST, TNM_WRITE);
        tnm_dlpack_managed *old;
        tnm_dlpack_versioned *versioned;
        tnm_result r = tnm_dlpack_export(ctx, &desc, &old);
        int has = row[i].code >= 0;
        CHECK_EQ(r, has && !row[i].since ? TNM_OK : TNM_ERR_UNSUPPORTED);
        CHECK((r == TNM_OK) == (desc.why == NULL) && (r == TNM_OK) == (old != NULL));
        if (old) CHECK_EQ(old->dl_tensor.dtype.code, row[i].code);
        if (old) CHECK_EQ(old->dl_tensor.dtype.bits, row[i].bits);
        if (old) CHECK_EQ(old->dl_tensor.dtype.lanes, 1);
        if (old) old->deleter(old);
        r = tnm_dlpack_export_versioned(ctx, &desc, &versioned);
        CHECK_EQ(r, has ? TNM_OK : TNM_ERR_UNSUPPORTED);
        if (versioned) CHECK_EQ(versioned->dl_tensor.dtype.code, row[i].code);
        if (versioned) CHECK_EQ(versioned->version.major, 1);
        if (versioned) versioned->deleter(versioned);
        CHECK_EQ(pins(ctx, t, FAST), 0);
    }
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
}

TEST(a_pin_as_long_as_the_consumer_keeps_it) {
    tnm_ctx *ctx = context(0, 0);
    tnm_tensor t = filled(ctx, TNM_F32, 6, 10);
    tnm_dlpack_export_desc desc = want(t, FAST, TNM_WRITE);
    tnm_dlpack_managed *m;
    unsigned char now;
    CHECK_EQ(tnm_dlpack_export(ctx, &desc, &m), TNM_OK);
    CHECK_EQ(m->dl_tensor.ndim, 2);
    CHECK(m->dl_tensor.shape[0] == 6 && m->dl_tensor.shape[1] == 10);
    CHECK(m->dl_tensor.strides[0] == 10 && m->dl_tensor.strides[1] == 1);
    CHECK_EQ(m->dl_tensor.byte_offset, 0);
    CHECK_EQ(m->dl_tensor.device.device_type, TNM_DLPACK_CPU);
    CHECK(pattern(m->dl_tensor.data, 0, 240));
    CHECK_EQ(pins(ctx, t, FAST), 1);
    CHECK_EQ(tnm_destroy(ctx), TNM_ERR_BUSY);
    CHECK_EQ(tnm_tensor_destroy(ctx, t), TNM_OK); /* the pin survives its handle */
    rest(ctx);
    CHECK(pattern(m->dl_tensor.data, 0, 240));
    m->deleter(m);
    t = filled(ctx, TNM_U8, 100, 0);
    desc = want(t, HOST, TNM_WRITE);
    CHECK_EQ(tnm_dlpack_export(ctx, &desc, &m), TNM_OK);
    ((unsigned char *)m->dl_tensor.data)[5] = 77;
    m->deleter(m);
    CHECK_EQ(tnm_read(ctx, t, 5, &now, 1), TNM_OK);
    CHECK_EQ(now, 77);
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
}

TEST(views_and_bytes) {
    tnm_ctx *ctx = context(0, 0);
    tnm_tensor whole = filled(ctx, TNM_U8, 1000, 0), part;
    tnm_tensor_desc what;
    tnm_dlpack_versioned *m;
    memset(&what, 0, sizeof what);
    what.bytes = 100;
    CHECK_EQ(tnm_tensor_view(ctx, whole, 333, &what, &part), TNM_OK);
    tnm_dlpack_export_desc desc = want(part, FAST, TNM_READ);
    CHECK_EQ(tnm_dlpack_export_versioned(ctx, &desc, &m), TNM_OK);
    CHECK_EQ(m->dl_tensor.ndim, 1);
    CHECK(m->dl_tensor.shape[0] == 100 && m->dl_tensor.strides[0] == 1);
    CHECK(pattern(m->dl_tensor.data, 333, 100));
    CHECK_EQ(m->flags, TNM_DLPACK_READ_ONLY);
    m->deleter(m);
    CHECK_EQ(pins(ctx, whole, FAST), 0);
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
}

TEST(read_only_is_said_or_vouched_for) {
    tnm_ctx *ctx = context(0, 0);
    tnm_tensor t = filled(ctx, TNM_I64, 8, 0);
    tnm_dlpack_export_desc desc = want(t, FAST, TNM_READ);
    tnm_dlpack_managed *old;
    tnm_dlpack_versioned *m;
    CHECK_EQ(tnm_dlpack_export(ctx, &desc, &old), TNM_ERR_UNSUPPORTED);
    CHECK(desc.why && !old);
    CHECK_EQ(pins(ctx, t, FAST), 0);
    desc.only_reads = 1;
    CHECK_EQ(tnm_dlpack_export(ctx, &desc, &old), TNM_OK);
    old->deleter(old);
    desc = want(t, FAST, TNM_WRITE);
    CHECK_EQ(tnm_dlpack_export_versioned(ctx, &desc, &m), TNM_OK);
    CHECK_EQ(m->flags, 0);
    m->deleter(m);
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
}

TEST(a_pin_that_is_held_is_handed_over) {
    tnm_ctx *ctx = context(0, 0);
    tnm_tensor t = filled(ctx, TNM_F32, 16, 0), other = filled(ctx, TNM_F32, 17, 0);
    tnm_pinned at, kept;
    tnm_dlpack_export_desc desc = want(t, FAST, TNM_WRITE);
    tnm_dlpack_versioned *m;
    CHECK_EQ(tnm_pin(ctx, &desc.use, 1, &at), TNM_OK);
    kept = at;
    desc.pinned = &at;
    desc.use.tensor = other; /* not the one that is pinned */
    CHECK_EQ(tnm_dlpack_export_versioned(ctx, &desc, &m), TNM_ERR_UNSUPPORTED);
    CHECK(memcmp(&kept, &at, sizeof at) == 0);
    desc.use.tensor = t;
    CHECK_EQ(tnm_dlpack_export_versioned(ctx, &desc, &m), TNM_OK);
    CHECK_EQ(at.id, 0);
    CHECK_EQ(pins(ctx, t, FAST), 1);
    CHECK(m->dl_tensor.data == kept.host);
    m->deleter(m);
    CHECK_EQ(pins(ctx, t, FAST), 0);
    CHECK_EQ(tnm_dlpack_export_versioned(ctx, &desc, &m), TNM_ERR_ARGUMENT); /* it holds none */
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
}

static void *the_handle(void *user, uint64_t mem) {
    *(uint64_t *)user = mem;
    return user;
}

TEST(memory_the_cpu_does_not_see) {
    tnm_ctx *ctx = context(0, 0);
    tnm_tensor first = filled(ctx, TNM_F32, 10, 0), t = filled(ctx, TNM_F32, 64, 0);
    tnm_dlpack_export_desc desc = want(first, DEVICE, TNM_WRITE);
    tnm_dlpack_managed *m, *before;
    tnm_pinned at;
    uint64_t token = 0;
    CHECK_EQ(tnm_dlpack_export(ctx, &desc, &m), TNM_ERR_UNSUPPORTED); /* as if the CPU could */
    CHECK_EQ(pins(ctx, first, DEVICE), 0);
    desc.device_type = TNM_DLPACK_CUDA;
    desc.device_id = 3;
    CHECK_EQ(tnm_dlpack_export(ctx, &desc, &before), TNM_OK); /* so that the next has an offset */
    CHECK_EQ(before->dl_tensor.device.device_type, TNM_DLPACK_CUDA);
    CHECK_EQ(before->dl_tensor.device.device_id, 3);
    desc.use.tensor = t;
    CHECK_EQ(tnm_pin(ctx, &desc.use, 1, &at), TNM_OK);
    CHECK(at.offset > 0);
    CHECK_EQ(tnm_dlpack_export(ctx, &desc, &m), TNM_OK); /* an address */
    CHECK_EQ((uintptr_t)m->dl_tensor.data, at.mem + at.offset);
    CHECK_EQ(m->dl_tensor.byte_offset, 0);
    CHECK(pattern(m->dl_tensor.data, 0, 256)); /* this device's memory is memory after all */
    m->deleter(m);
    desc.device_type = TNM_DLPACK_OPENCL;
    CHECK_EQ(tnm_dlpack_export(ctx, &desc, &m), TNM_OK); /* a handle */
    CHECK_EQ((uintptr_t)m->dl_tensor.data, at.mem);
    CHECK_EQ(m->dl_tensor.byte_offset, at.offset);
    m->deleter(m);
    desc.device_type = TNM_DLPACK_VULKAN;
    desc.handle = the_handle;
    desc.user = &token;
    CHECK_EQ(tnm_dlpack_export(ctx, &desc, &m), TNM_OK); /* a handle by another name */
    CHECK(m->dl_tensor.data == &token);
    CHECK_EQ(token, at.mem);
    m->deleter(m);
    before->deleter(before);
    CHECK_EQ(tnm_unpin(ctx, &at, 1, 0), TNM_OK);
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
}

static uint64_t next_fence(void *user) {
    return TNM_FENCE(LATE, ++*(uint64_t *)user);
}

TEST(a_fence_keeps_the_place) {
    tnm_ctx *ctx = context(0, 0);
    tnm_tensor t = filled(ctx, TNM_F32, 16, 0);
    tnm_dlpack_export_desc desc = want(t, FAST, TNM_WRITE);
    tnm_dlpack_versioned *m;
    uint64_t value = 0;
    desc.fence = next_fence;
    desc.user = &value;
    fences_most = 0; /* the consumer's queue does not get on */
    CHECK_EQ(tnm_dlpack_export_versioned(ctx, &desc, &m), TNM_OK);
    CHECK_EQ(value, 0); /* asked when it lets go, not before */
    m->deleter(m);
    CHECK_EQ(value, 1);
    rest(ctx);
    CHECK_EQ(pins(ctx, t, FAST), 1);
    fences_passed = 1;
    rest(ctx);
    CHECK_EQ(pins(ctx, t, FAST), 0);
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
}

TEST(a_full_table_of_fences) {
    tnm_ctx *ctx = context(16, 2);
    tnm_tensor t = filled(ctx, TNM_F32, 16, 0);
    tnm_dlpack_export_desc desc = want(t, FAST, TNM_WRITE);
    tnm_dlpack_versioned *m[6];
    uint64_t value = 0;
    desc.fence = next_fence;
    desc.user = &value;
    for (int i = 0; i < 6; i++)
        CHECK_EQ(tnm_dlpack_export_versioned(ctx, &desc, &m[i]), TNM_OK);
    for (int i = 0; i < 6; i++)
        m[i]->deleter(m[i]); /* the third waits until a fence has passed */
    CHECK_EQ(value, 6);
    CHECK(fences_passed >= 1); /* nobody else asked for one */
    for (int i = 0; i < 10 && tnm_wait(ctx) == TNM_PENDING; i++)
        continue;
    CHECK_EQ(pins(ctx, t, FAST), 0);
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
}

TEST(what_pin_refuses) {
    tnm_ctx *ctx = context(0, 0);
    tnm_tensor t = filled(ctx, TNM_F32, 16, 0), empty;
    tnm_tensor_desc what;
    tnm_dlpack_export_desc desc = want(t, TIERS, TNM_WRITE);
    tnm_dlpack_managed *m;
    CHECK_EQ(tnm_dlpack_export(ctx, &desc, &m), TNM_ERR_ARGUMENT); /* no such tier */
    CHECK(desc.why && !m);
    memset(&what, 0, sizeof what);
    what.bytes = 64;
    CHECK_EQ(tnm_tensor_create(ctx, &what, &empty), TNM_OK);
    desc = want(empty, FAST, TNM_WRITE);
    CHECK_EQ(tnm_dlpack_export(ctx, &desc, &m), TNM_ERR_EMPTY);
    CHECK(desc.why && !m);
    desc = want(t, FAST, TNM_WRITE);
    desc.use.flags = TNM_IF_READY;
    CHECK_EQ(tnm_dlpack_export(ctx, &desc, &m), TNM_ABSENT);
    CHECK(!m);
    CHECK_EQ(tnm_tensor_destroy(ctx, t), TNM_OK);
    CHECK_EQ(tnm_dlpack_export(ctx, &desc, &m), TNM_ERR_STALE);
    CHECK_EQ(tnm_dlpack_export(ctx, NULL, &m), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_dlpack_export(ctx, &desc, NULL), TNM_ERR_ARGUMENT);
    tnm_dlpack_delete(NULL);
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
}

#ifndef _WIN32
enum { THREADS = 4, ROUNDS = 200, SLOTS = 8 };

static struct {
    tnm_ctx *ctx;
    tnm_tensor t[SLOTS];
    tnm_dlpack_versioned *slot[SLOTS]; /* whoever takes one out deletes it */
    int wrong;
} shared;

static void *hand_round(void *number) {
    uint64_t random = 77 + *(uint64_t *)number;
    for (int i = 0; i < check_scale(ROUNDS * 10, ROUNDS); i++) {
        tnm_dlpack_export_desc desc = want(shared.t[check_draw(&random, SLOTS)], FAST, TNM_READ);
        tnm_dlpack_versioned *m;
        if (tnm_dlpack_export_versioned(shared.ctx, &desc, &m) != TNM_OK) return number;
        if (!pattern(m->dl_tensor.data, 0, 256))
            __atomic_store_n(&shared.wrong, 1, __ATOMIC_SEQ_CST);
        m = __atomic_exchange_n(&shared.slot[check_draw(&random, SLOTS)], m, __ATOMIC_ACQ_REL);
        if (m && !pattern(m->dl_tensor.data, 0, 256))
            __atomic_store_n(&shared.wrong, 1, __ATOMIC_SEQ_CST);
        if (m) m->deleter(m);
    }
    return NULL;
}

TEST(deleted_by_whatever_thread) {
    pthread_t thread[THREADS];
    uint64_t number[THREADS];
    shared.ctx = context(0, 0);
    for (int i = 0; i < SLOTS; i++)
        shared.t[i] = filled(shared.ctx, TNM_F32, 64, 0);
    for (int i = 0; i < THREADS; i++) {
        number[i] = (uint64_t)i;
        CHECK_EQ(pthread_create(&thread[i], NULL, hand_round, &number[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        void *failed;
        CHECK_EQ(pthread_join(thread[i], &failed), 0);
        CHECK(!failed);
    }
    for (int i = 0; i < SLOTS; i++)
        if (shared.slot[i]) shared.slot[i]->deleter(shared.slot[i]);
    for (int i = 0; i < SLOTS; i++)
        CHECK_EQ(pins(shared.ctx, shared.t[i], FAST), 0);
    CHECK(!shared.wrong);
    CHECK_EQ(tnm_destroy(shared.ctx), TNM_OK);
}
#endif

/* ---- import ---- */

static int deleted; /* foreign tensors, since the test began */

typedef struct foreign {
    tnm_dlpack_managed old;
    tnm_dlpack_versioned versioned;
    int64_t shape[8], strides[8];
    unsigned char *bytes;
    int in_use;
} foreign;

static void drop(foreign *f) {
    CHECK_EQ(f->in_use, 0); /* never before the last pin */
    free(f->bytes);
    free(f); /* a second time is the sanitizer's to see */
    deleted++;
}

static void drop_old(tnm_dlpack_managed *self) {
    drop((foreign *)self->manager_ctx);
}

static void drop_versioned(tnm_dlpack_versioned *self) {
    drop((foreign *)self->manager_ctx);
}

/* 4-byte floats in rows, `skip` bytes behind where data points */
static foreign *make(int ndim, const int64_t *shape, uint64_t skip) {
    foreign *f = (foreign *)calloc(1, sizeof *f);
    tnm_dlpack_tensor *t = &f->old.dl_tensor;
    int64_t count = 1;
    for (int i = ndim; i-- > 0;) {
        f->shape[i] = shape[i];
        f->strides[i] = count;
        count *= shape[i];
    }
    f->bytes = (unsigned char *)malloc((size_t)count * 4 + (size_t)skip + 1);
    for (uint64_t i = 0; i < (uint64_t)count * 4; i++)
        f->bytes[skip + i] = (unsigned char)(i * 7 + 3);
    t->data = f->bytes;
    t->device.device_type = TNM_DLPACK_CPU;
    t->ndim = ndim;
    t->dtype.code = TNM_DLPACK_FLOAT;
    t->dtype.bits = 32;
    t->dtype.lanes = 1;
    t->shape = f->shape;
    t->strides = f->strides;
    t->byte_offset = skip;
    f->old.manager_ctx = f;
    f->old.deleter = drop_old;
    f->versioned.version.major = 1;
    f->versioned.manager_ctx = f;
    f->versioned.deleter = drop_versioned;
    f->versioned.dl_tensor = *t;
    deleted = 0;
    return f;
}

static const int64_t square[2] = { 8, 8 };

static tnm_dlpack_import_desc take(int tier) {
    tnm_dlpack_import_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.tier = tier;
    return desc;
}

TEST(an_import_is_read_where_it_lies) {
    tnm_ctx *ctx = context(0, 0);
    foreign *f = make(2, square, 8);
    tnm_dlpack_import_desc desc = take(HOST);
    tnm_dlpack_export_desc up;
    tnm_dlpack_versioned *there;
    tnm_tensor t;
    tnm_tensor_info info;
    tnm_tier_stats stats;
    tnm_use use = { { 0 }, HOST, TNM_READ, 0, 0 };
    tnm_pinned at;
    desc.tensor.label = "foreign";
    CHECK_EQ(tnm_dlpack_import(ctx, &desc, &f->old, &t), TNM_OK);
    CHECK(desc.why == NULL);
    CHECK_EQ(desc.tensor.bytes, 256);
    CHECK_EQ(tnm_info(ctx, t, HOST, &info), TNM_OK);
    CHECK(info.adopted && info.dtype == TNM_F32 && info.shape[0] == 8 && info.shape[1] == 8);
    CHECK(info.label && strcmp(info.label, "foreign") == 0);
    CHECK_EQ(tnm_stats(ctx, HOST, &stats), TNM_OK);
    CHECK_EQ(stats.reserved_bytes, 0);
    use.tensor = t;
    CHECK_EQ(tnm_pin(ctx, &use, 1, &at), TNM_OK);
    CHECK(at.host == f->bytes + 8);
    up = want(t, DEVICE, TNM_READ); /* and on, to somebody else's device */
    up.device_type = TNM_DLPACK_ROCM;
    CHECK_EQ(tnm_dlpack_export_versioned(ctx, &up, &there), TNM_OK);
    CHECK(pattern(there->dl_tensor.data, 0, 256));
    there->deleter(there);
    f->in_use = 1;
    CHECK_EQ(tnm_tensor_destroy(ctx, t), TNM_OK);
    rest(ctx);
    CHECK(pattern(at.host, 0, 256));
    CHECK_EQ(deleted, 0);
    f->in_use = 0;
    CHECK_EQ(tnm_unpin(ctx, &at, 1, 0), TNM_OK);
    CHECK_EQ(deleted, 0); /* in a call that pumps */
    rest(ctx);
    CHECK_EQ(deleted, 1);
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
    CHECK_EQ(deleted, 1);
}

TEST(destroy_lets_go_too) {
    tnm_ctx *ctx = context(0, 0);
    foreign *f = make(2, square, 0), *g = make(2, square, 4);
    tnm_dlpack_import_desc desc = take(HOST);
    tnm_tensor t;
    f->old.dl_tensor.strides = NULL;
    CHECK_EQ(tnm_dlpack_import(ctx, &desc, &f->old, &t), TNM_OK);
    CHECK_EQ(tnm_dlpack_import_versioned(ctx, &desc, &g->versioned, &t), TNM_OK);
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
    CHECK_EQ(deleted, 2);
}

TEST(no_deleter_is_a_deleter) {
    tnm_ctx *ctx = context(0, 0);
    foreign *f = make(2, square, 0);
    tnm_dlpack_import_desc desc = take(HOST);
    tnm_tensor t;
    f->old.deleter = NULL;
    CHECK_EQ(tnm_dlpack_import(ctx, &desc, &f->old, &t), TNM_OK);
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
    drop(f);
}

TEST(a_write_leaves_what_is_not_ours) {
    static const unsigned char nine = 9;
    tnm_ctx *ctx = context(0, 0);
    foreign *f = make(2, square, 0);
    tnm_dlpack_import_desc desc = take(HOST);
    tnm_use use = { { 0 }, FAST, TNM_WRITE, 0, 0 };
    tnm_pinned at;
    unsigned char back[256];
    f->versioned.flags = TNM_DLPACK_READ_ONLY;
    desc.writable = 1;
    CHECK_EQ(tnm_dlpack_import_versioned(ctx, &desc, &f->versioned, &use.tensor),
             TNM_ERR_UNSUPPORTED);
    CHECK(desc.why && strcmp(desc.why, "it is read only") == 0);
    desc.writable = 0;
    CHECK_EQ(tnm_dlpack_import_versioned(ctx, &desc, &f->versioned, &use.tensor), TNM_OK);
    CHECK_EQ(tnm_pin(ctx, &use, 1, &at), TNM_OK);
    CHECK(pattern(at.host, 0, 256));
    if (!deleted) CHECK(pattern(f->bytes, 0, 256));
    memcpy(at.host, &nine, 1);
    if (!deleted) CHECK(pattern(f->bytes, 0, 256));
    CHECK_EQ(tnm_unpin(ctx, &at, 1, 0), TNM_OK);
    rest(ctx);
    CHECK_EQ(deleted, 1); /* it has bytes of its own now */
    CHECK_EQ(tnm_read(ctx, use.tensor, 0, back, 256), TNM_OK);
    CHECK(back[0] == 9 && pattern(back + 1, 1, 255));
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
    CHECK_EQ(deleted, 1);
}

TEST(writable_takes_what_is_written) {
    tnm_ctx *ctx = context(0, 0);
    foreign *f = make(2, square, 12);
    tnm_dlpack_import_desc desc = take(HOST);
    tnm_use use = { { 0 }, DEVICE, TNM_WRITE, 0, 0 };
    tnm_pinned at;
    desc.writable = 1;
    CHECK_EQ(tnm_dlpack_import(ctx, &desc, &f->old, &use.tensor), TNM_OK);
    CHECK_EQ(tnm_pin(ctx, &use, 1, &at), TNM_OK);
    ((unsigned char *)(uintptr_t)at.mem)[at.offset + 200] = 1;
    CHECK_EQ(tnm_unpin(ctx, &at, 1, 0), TNM_OK);
    while (tnm_flush(ctx, use.tensor, HOST) == TNM_PENDING)
        tnm_pump(ctx, TNM_ALL);
    CHECK_EQ(f->bytes[12 + 200], 1);
    CHECK(pattern(f->bytes + 12, 0, 200));
    CHECK_EQ(deleted, 0);
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
    CHECK_EQ(deleted, 1);
}

TEST(dimensions) {
    static const struct {
        int ndim;
        int64_t shape[8], out[TNM_MAX_DIMS];
    } row[] = { { 0, { 0 }, { 1 } },
                { 1, { 1 }, { 1 } },
                { 5, { 1, 2, 1, 3, 1 }, { 1, 2, 1, 3, 1 } },
                { 6, { 1, 2, 1, 3, 1, 2 }, { 2, 1, 3, 1, 2 } },
                { 6, { 2, 3, 2, 3, 2, 3 }, { 6, 2, 3, 2, 3 } },
                { 7, { 2, 3, 2, 3, 2, 3, 1 }, { 6, 2, 3, 2, 3 } },
                { 8, { 2, 3, 2, 3, 2, 2, 2, 2 }, { 36, 2, 2, 2, 2 } },
                { 8, { 1, 1, 1, 1, 1, 1, 1, 1 }, { 1, 1, 1, 1, 1 } } };
    tnm_ctx *ctx = context(0, 0);
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        foreign *f = make(row[i].ndim, row[i].shape, 0);
        tnm_dlpack_import_desc desc = take(HOST);
        tnm_tensor t;
        tnm_tensor_info info;
        for (int k = 0; k < row[i].ndim; k++)
            if (f->shape[k] == 1) f->strides[k] = -12345; /* of size 1: nobody strides along it */
        CHECK_EQ(tnm_dlpack_import(ctx, &desc, &f->old, &t), TNM_OK);
        CHECK_EQ(tnm_info(ctx, t, HOST, &info), TNM_OK);
        for (int k = 0; k < TNM_MAX_DIMS; k++)
            CHECK_EQ(info.shape[k], row[i].out[k]);
        CHECK_EQ(tnm_tensor_destroy(ctx, t), TNM_OK);
        rest(ctx);
        CHECK_EQ(deleted, 1);
    }
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
}

enum { KINDS = 17 };

static const char *spoil(foreign *f, int kind, tnm_dlpack_import_desc *desc) { /* and why */
    tnm_dlpack_tensor *t = &f->old.dl_tensor;
    switch (kind) {
    case 0:
        return t->dtype.lanes = 4, "vectors";
    case 1:
        return t->dtype.code = TNM_DLPACK_UINT, "no such dtype";
    case 2:
        return t->dtype.code = 5, t->dtype.bits = 64, "no such dtype"; /* complex */
    case 3:
        return f->strides[0] = 1, f->strides[1] = 8, "row-major"; /* a transpose */
    case 4:
        return f->strides[0] = 16, "row-major"; /* every other row */
    case 5:
        return f->strides[1] = -1, "row-major";
    case 6:
        return f->strides[0] = 0, "row-major"; /* broadcast */
    case 7:
        return f->shape[1] = 0, "no elements";
    case 8:
        return f->shape[0] = -1, "negative";
    case 9:
        return f->shape[0] = INT64_MAX / 8, "overflows"; /* elements fit, bytes do not */
    case 10:
        return f->shape[0] = f->shape[1] = INT64_MAX / 2, t->strides = NULL, "overflows";
    case 11:
        return t->device.device_type = TNM_DLPACK_CUDA, "another device";
    case 12:
        return t->data = NULL, "no data";
    case 13:
        return t->byte_offset = 1, "not aligned";
    case 14:
        return t->byte_offset = UINT64_MAX - 64, "overflows";
    case 15:
        return t->ndim = -1, "dimensions";
    case 16:
        return desc->alignment = 1u << 30, "not aligned";
    }
    return NULL;
}

TEST(what_is_refused_stays_the_callers) {
    tnm_ctx *ctx = context(0, 0);
    for (int kind = 0; kind < KINDS; kind++) {
        foreign *f = make(2, square, 0);
        tnm_dlpack_import_desc desc = take(HOST);
        tnm_tensor t = { 5 };
        const char *why = spoil(f, kind, &desc);
        CHECK_EQ(tnm_dlpack_import(ctx, &desc, &f->old, &t), TNM_ERR_UNSUPPORTED);
        CHECK(desc.why && strstr(desc.why, why));
        if (!desc.why || !strstr(desc.why, why)) printf("  kind %d: %s\n", kind, desc.why);
        CHECK_EQ(t.id, 0);
        rest(ctx);
        CHECK_EQ(deleted, 0);
        f->old.deleter(&f->old);
    }
    foreign *f = make(2, square, 0);
    tnm_dlpack_import_desc desc = take(TIERS);
    tnm_tensor t;
    CHECK_EQ(tnm_dlpack_import(ctx, &desc, &f->old, &t), TNM_ERR_ARGUMENT); /* no such tier */
    CHECK(desc.why != NULL);
    desc = take(HOST);
    desc.tensor.advice = TNM_SCRUB;
    CHECK_EQ(tnm_dlpack_import(ctx, &desc, &f->old, &t), TNM_ERR_ARGUMENT);
    desc = take(HOST);
    f->versioned.version.major = 2;
    CHECK_EQ(tnm_dlpack_import_versioned(ctx, &desc, &f->versioned, &t), TNM_ERR_UNSUPPORTED);
    CHECK_EQ(tnm_dlpack_import(ctx, &desc, NULL, &t), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_dlpack_import(ctx, &desc, &f->old, NULL), TNM_ERR_ARGUMENT);
    CHECK_EQ(deleted, 0);
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
    CHECK_EQ(deleted, 0);
    f->old.deleter(&f->old);
}

TEST(memory_that_fails) {
    int refused = 0;
    for (int fail = 1; fail < 40; fail++) {
        tnm_ctx *ctx = context(0, 0);
        tnm_tensor_desc names;
        foreign *f = make(2, square, 0);
        tnm_dlpack_import_desc desc = take(HOST);
        tnm_tensor t;
        memset(&names, 0, sizeof names);
        names.bytes = 4;
        for (int i = 0; i < fail * 3; i++) /* tables grow at various moments */
            CHECK_EQ(tnm_tensor_create(ctx, &names, &t), TNM_OK);
        check_fail_alloc(1 + fail % 3, 0);
        tnm_result r = tnm_dlpack_import(ctx, &desc, &f->old, &t);
        check_fail_alloc(0, 0);
        CHECK(r == TNM_OK || r == TNM_ERR_MEMORY);
        CHECK_EQ(deleted, 0);
        refused += r != TNM_OK;
        if (r != TNM_OK) f->old.deleter(&f->old);
        CHECK_EQ(tnm_destroy(ctx), TNM_OK);
        CHECK_EQ(deleted, 1);
    }
    CHECK(refused > 0);
}

TEST(device_memory_comes_in) {
    tnm_ctx *ctx = context(0, 0);
    foreign *f = make(2, square, 16);
    tnm_dlpack_import_desc desc = take(DEVICE);
    tnm_use use = { { 0 }, DEVICE, TNM_READ, 0, 0 };
    tnm_pinned at;
    unsigned char back[256];
    f->old.dl_tensor.device.device_type = TNM_DLPACK_CUDA;
    f->old.dl_tensor.device.device_id = 1;
    desc.device_type = TNM_DLPACK_CUDA;
    CHECK_EQ(tnm_dlpack_import(ctx, &desc, &f->old, &use.tensor), TNM_ERR_UNSUPPORTED);
    desc.device_id = 1;
    CHECK_EQ(tnm_dlpack_import(ctx, &desc, &f->old, &use.tensor), TNM_OK);
    CHECK_EQ(tnm_pin(ctx, &use, 1, &at), TNM_OK);
    CHECK(at.host == NULL);
    CHECK_EQ(at.mem + at.offset, (uintptr_t)f->bytes + 16);
    CHECK_EQ(tnm_unpin(ctx, &at, 1, 0), TNM_OK);
    CHECK_EQ(tnm_read(ctx, use.tensor, 0, back, sizeof back), TNM_OK);
    CHECK(pattern(back, 0, 256));
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
    CHECK_EQ(deleted, 1);
}

TEST(from_one_context_to_another) {
    tnm_ctx *a = context(0, 0), *b = context(0, 0);
    tnm_tensor t = filled(a, TNM_I32, 5, 7), u;
    tnm_dlpack_export_desc out = want(t, FAST, TNM_READ);
    tnm_dlpack_import_desc in = take(HOST);
    tnm_dlpack_versioned *m;
    tnm_dlpack_managed *old;
    unsigned char back[140];
    CHECK_EQ(tnm_dlpack_export_versioned(a, &out, &m), TNM_OK);
    CHECK_EQ(tnm_dlpack_import_versioned(a, &in, m, &u), TNM_ERR_ARGUMENT); /* it has it already */
    CHECK(in.why != NULL);
    CHECK_EQ(tnm_dlpack_import_versioned(b, &in, m, &u), TNM_OK);
    CHECK_EQ(tnm_read(b, u, 0, back, sizeof back), TNM_OK);
    CHECK(pattern(back, 0, sizeof back));
    CHECK_EQ(tnm_destroy(a), TNM_ERR_BUSY);
    CHECK_EQ(tnm_tensor_destroy(b, u), TNM_OK);
    rest(b);
    CHECK_EQ(pins(a, t, FAST), 0);
    out.only_reads = 1;
    CHECK_EQ(tnm_dlpack_export(a, &out, &old), TNM_OK);
    CHECK_EQ(tnm_dlpack_import(a, &in, old, &u), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_dlpack_import(b, &in, old, &u), TNM_OK);
    CHECK_EQ(tnm_destroy(b), TNM_OK);
    CHECK_EQ(tnm_destroy(a), TNM_OK);
}

int main(void) {
#ifdef HAVE_DLPACK
    RUN(abi_of_the_old_form);
#else
    SKIP("abi_of_the_old_form", "dlpack/dlpack.h is not installed");
#endif
#if UINTPTR_MAX > UINT32_MAX
    RUN(abi_of_v1);
#endif
    RUN(every_dtype_goes_out);
    RUN(a_pin_as_long_as_the_consumer_keeps_it);
    RUN(views_and_bytes);
    RUN(read_only_is_said_or_vouched_for);
    RUN(a_pin_that_is_held_is_handed_over);
    RUN(memory_the_cpu_does_not_see);
    RUN(a_fence_keeps_the_place);
    RUN(a_full_table_of_fences);
    RUN(what_pin_refuses);
#ifndef _WIN32
    RUN(deleted_by_whatever_thread);
#endif
    RUN(an_import_is_read_where_it_lies);
    RUN(destroy_lets_go_too);
    RUN(no_deleter_is_a_deleter);
    RUN(a_write_leaves_what_is_not_ours);
    RUN(writable_takes_what_is_written);
    RUN(dimensions);
    RUN(what_is_refused_stays_the_callers);
    RUN(memory_that_fails);
    RUN(device_memory_comes_in);
    RUN(from_one_context_to_another);
    return check_done();
}
