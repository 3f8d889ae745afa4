/* needs: tensormem.o */
/* Shapes, types, sizes, offsets: what tnm_tensor_create, _view, _adopt, tnm_read and tnm_write say
 * to them against arithmetic that cannot overflow. A record is one name: an operation, a type, and
 * five dimensions as small numbers, shifted, so that the limits lie close together. */
#include "tensormem.h"
#include "../tests/check.h"

#define MUTATE_HEAD   8
#define MUTATE_RECORD 16
#define MUTATE_TAG    0x51
#include "mutate.h"

enum { FUZZ_LIMBS = 12, FUZZ_NAMES = 16 };

/* 384 bits, the least significant first: five dimensions of 63 bits and a type's size fit */
typedef struct wide {
    uint32_t limb[FUZZ_LIMBS];
} wide;

static wide wide_of(uint64_t value) {
    wide w;
    memset(&w, 0, sizeof w);
    w.limb[0] = (uint32_t)value;
    w.limb[1] = (uint32_t)(value >> 32);
    return w;
}

static wide wide_times_small(wide a, uint32_t b) {
    uint64_t carry = 0;
    for (int i = 0; i < FUZZ_LIMBS; i++) {
        carry += (uint64_t)a.limb[i] * b;
        a.limb[i] = (uint32_t)carry;
        carry >>= 32;
    }
    CHECK_EQ(carry, 0);
    return a;
}

static wide wide_plus(wide a, wide b) {
    uint64_t carry = 0;
    for (int i = 0; i < FUZZ_LIMBS; i++) {
        carry += (uint64_t)a.limb[i] + b.limb[i];
        a.limb[i] = (uint32_t)carry;
        carry >>= 32;
    }
    CHECK_EQ(carry, 0);
    return a;
}

static wide wide_times(wide a, uint64_t b) {
    wide high = wide_times_small(a, (uint32_t)(b >> 32));
    CHECK_EQ(high.limb[FUZZ_LIMBS - 1], 0);
    memmove(high.limb + 1, high.limb, (FUZZ_LIMBS - 1) * sizeof high.limb[0]);
    high.limb[0] = 0;
    return wide_plus(wide_times_small(a, (uint32_t)b), high);
}

static wide wide_over_32(wide a) { /* a multiple of 32 */
    for (int i = 0; i < FUZZ_LIMBS; i++)
        a.limb[i] = a.limb[i] >> 5 | (i + 1 < FUZZ_LIMBS ? a.limb[i + 1] << 27 : 0);
    return a;
}

static int wide_is_large(const wide *a) {
    for (int i = 2; i < FUZZ_LIMBS; i++)
        if (a->limb[i] != 0) return 1;
    return 0;
}

/* as a number; UINT64_MAX stands for whatever is more */
static uint64_t wide_value(wide a) {
    return wide_is_large(&a) ? UINT64_MAX : (uint64_t)a.limb[1] << 32 | a.limb[0];
}

/* ---- what the contract says ---- */
typedef struct fuzz_name {
    tnm_tensor tensor;
    tnm_tensor_desc desc; /* as info shall tell it */
    int view;
} fuzz_name;

/* The bytes of a descriptor, or 0: it breaks a rule. */
static uint64_t fuzz_bytes(const tnm_tensor_desc *d) {
    static const uint32_t size[] = { 1, 1, 1, 2, 4, 8, 2, 2, 4, 8, 1, 1, 18, 34 };
    wide total = wide_of(1);
    int rank = 0, blocks = d->dtype == TNM_Q4_0 || d->dtype == TNM_Q8_0;
    uint64_t bytes = d->bytes;
    if ((int)d->dtype < 0 || (int)d->dtype > TNM_Q8_0) return 0;
    for (int i = 0; i < TNM_MAX_DIMS; i++) {
        if (d->shape[i] < 0) return 0;
        if (d->shape[i] > 0 && rank < i) return 0; /* goes on behind its first 0 */
        if (d->shape[i] == 0) continue;
        total = wide_times(total, (uint64_t)d->shape[i]);
        rank++;
    }
    if (rank == 0 && d->dtype != TNM_BYTES) return 0;
    if (rank > 0 && blocks && d->shape[rank - 1] % 32 != 0) return 0;
    if (rank > 0 && blocks) total = wide_over_32(total);
    if (rank > 0) bytes = wide_value(wide_times_small(total, size[d->dtype]));
    if (rank > 0 && d->bytes != 0 && d->bytes != bytes) return 0;
    return bytes <= INT64_MAX ? bytes : 0;
}

static int fuzz_is_inside(uint64_t offset, uint64_t bytes, uint64_t all) {
    wide end = wide_plus(wide_of(offset), wide_of(bytes));
    return !wide_is_large(&end) && wide_value(end) <= all;
}

/* ---- the input ---- */
/* a small number, shifted, a little less or more */
static uint64_t fuzz_number(const uint8_t *at) {
    uint64_t value = (uint64_t)(at[0] >> 2) << (at[1] & 63);
    return value + (uint64_t)(at[0] & 3) - (uint64_t)(at[1] >> 6);
}

static tnm_tensor_desc fuzz_desc(const uint8_t *at) {
    tnm_tensor_desc d;
    memset(&d, 0, sizeof d);
    d.dtype = (tnm_dtype)(at[1] < 240 ? at[1] % 14 : at[1] - 250);
    for (int i = 0; i < TNM_MAX_DIMS && i < at[2] % 8; i++)
        d.shape[i] = (int64_t)fuzz_number(at + 4 + 2 * i);
    if ((at[2] & 8) != 0) d.bytes = fuzz_number(at + 14);
    if ((at[2] & 16) != 0 && fuzz_bytes(&d) != 0) d.bytes = fuzz_bytes(&d);
    return d;
}

/* what was answered, and what is told of it */
static void fuzz_named(tnm_ctx *ctx, fuzz_name *n, uint64_t bytes, tnm_result r) {
    tnm_tensor_info i;
    CHECK_EQ(r, bytes > 0 ? TNM_OK : TNM_ERR_ARGUMENT);
    CHECK((n->tensor.id != 0) == (r == TNM_OK));
    if (r != TNM_OK) return;
    CHECK_EQ(tnm_info(ctx, n->tensor, 0, &i), TNM_OK);
    CHECK(i.bytes == bytes);
    CHECK(memcmp(i.shape, n->desc.shape, sizeof i.shape) == 0);
    CHECK(i.dtype == n->desc.dtype && i.is_view == n->view);
    n->desc.bytes = bytes;
}

static void fuzz_make(tnm_ctx *ctx, fuzz_name *n, const fuzz_name *of, const uint8_t *at) {
    static uint8_t memory[64];
    tnm_adopt_desc a;
    tnm_result r;
    uint64_t offset = fuzz_number(at + 12), bytes;
    memset(n, 0, sizeof *n);
    n->desc = fuzz_desc(at);
    bytes = fuzz_bytes(&n->desc);
    if (at[0] % 4 == 1 && of->tensor.id != 0) {
        n->view = 1;
        if (!fuzz_is_inside(offset, bytes, of->desc.bytes)) bytes = 0;
        r = tnm_tensor_view(ctx, of->tensor, offset, &n->desc, &n->tensor);
    } else if (at[0] % 4 == 2) {
        memset(&a, 0, sizeof a);
        a.tier = 1;
        a.host = memory;
        a.offset = offset;
        if (!fuzz_is_inside(offset, bytes, UINT64_MAX)) bytes = 0;
        if (bytes > sizeof memory) return; /* it would be read */
        r = tnm_tensor_adopt(ctx, &n->desc, &a, &n->tensor);
    } else {
        r = tnm_tensor_create(ctx, &n->desc, &n->tensor);
    }
    fuzz_named(ctx, n, bytes, r);
}

/* Too large is refused, and what leaves the tensor; nothing is ever asked of memory it has not. */
static void fuzz_touch(tnm_ctx *ctx, const fuzz_name *n, const uint8_t *at) {
    static uint8_t plain[4096];
    uint64_t offset = fuzz_number(at + 4), bytes = fuzz_number(at + 6);
    int inside = fuzz_is_inside(offset, bytes, n->desc.bytes);
    tnm_use u;
    tnm_pinned p;
    tnm_shortage why;
    tnm_result r;
    memset(&u, 0, sizeof u);
    u.tensor = n->tensor;
    u.access = TNM_DISCARD;
    u.tier = at[2] & 1;
    CHECK_EQ(tnm_why(ctx, &u, 1, &why), TNM_OK);
    r = tnm_pin(ctx, &u, 1, &p);
    CHECK(r == TNM_OK || r == TNM_ERR_BUDGET || r == TNM_ERR_BUSY ||
          (n->view && r == TNM_ERR_EMPTY)); /* a part of nothing */
    if (n->desc.bytes > 65536) CHECK(r != TNM_OK);
    if (r == TNM_OK) {
        CHECK(p.bytes == n->desc.bytes);
        memset(p.host, 1, (size_t)p.bytes);
        CHECK_EQ(tnm_unpin(ctx, &p, 1, 0), TNM_OK);
    }
    if (inside && bytes > sizeof plain) return;
    r = tnm_write(ctx, n->tensor, offset, plain, bytes);
    CHECK(inside ? r == TNM_OK || r == TNM_ERR_BUDGET || r == TNM_ERR_BUSY : r == TNM_ERR_ARGUMENT);
    r = tnm_read(ctx, n->tensor, offset, plain, bytes);
    CHECK(inside ? r == TNM_OK || r == TNM_ERR_EMPTY || r == TNM_ERR_BUDGET
                 : r == TNM_ERR_ARGUMENT);
}

static void fuzz_no_log(void *user, const tnm_log *item) {
    (void)user;
    (void)item;
}

static tnm_ctx *fuzz_open(const uint8_t *head) {
    tnm_tier_desc tiers[2];
    tnm_desc d;
    tnm_ctx *ctx = NULL;
    memset(&d, 0, sizeof d);
    memset(tiers, 0, sizeof tiers);
    tiers[0].budget_bytes = 16384;
    tiers[1].budget_bytes = 65536;
    tiers[0].alignment = head[1] & 7 ? 1u << (head[1] & 7) : 0;
    tiers[0].tail_bytes = (uint32_t)fuzz_number(head + 2);
    tiers[1].tail_bytes = (uint32_t)head[4];
    d.tiers = tiers;
    d.tier_count = 2;
    d.log = fuzz_no_log;
    d.alloc = check_alloc;
    d.release = check_release;
    CHECK_EQ(tnm_create(&d, &ctx), TNM_OK);
    return ctx;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_name names[FUZZ_NAMES];
    uint32_t made = 0;
    tnm_ctx *ctx;
    if (size < MUTATE_HEAD) return 0;
    memset(names, 0, sizeof names);
    ctx = fuzz_open(data);
    for (size_t i = MUTATE_HEAD; ctx != NULL && i + MUTATE_RECORD <= size; i += MUTATE_RECORD) {
        const uint8_t *at = data + i;
        fuzz_name *some = &names[at[3] % FUZZ_NAMES];
        if (at[0] % 4 == 3) {
            if (some->tensor.id != 0) fuzz_touch(ctx, some, at);
        } else {
            fuzz_make(ctx, &names[made++ % FUZZ_NAMES], some, at);
        }
        CHECK_EQ(tnm_check(ctx), 0);
    }
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
    if (check_bad > 0 || check_live_blocks() != 0) abort();
    return 0;
}
