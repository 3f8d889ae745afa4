/* needs: tensormem.o */
/* Tensors from outside: dtypes, shapes and sizes, hostile numbers, and handles that are stale,
 * foreign, zero or invented. P8. */
#include "tensormem.h"
#include "sim.h"

enum { KIB = 1024, ONE = 4 * KIB };

static rig g;

static void open_rig(void) {
    rig_start(&g, 1);
    rig_pair(&g, SIM_PLAIN, 0);
}

static tnm_tensor_desc shaped(tnm_dtype dtype, int64_t a, int64_t b, int64_t c) {
    tnm_tensor_desc d;
    memset(&d, 0, sizeof d);
    d.dtype = dtype;
    d.shape[0] = a;
    d.shape[1] = b;
    d.shape[2] = c;
    return d;
}

static tnm_result make(tnm_tensor_desc d, tnm_tensor *t) {
    t->id = 0xDEAD;
    return tnm_tensor_create(g.ctx, &d, t);
}

static void has_bytes(tnm_tensor_desc d, uint64_t bytes) {
    tnm_tensor t;
    tnm_tensor_info i;
    CHECK_EQ(make(d, &t), TNM_OK);
    CHECK(t.id != 0);
    CHECK_EQ(tnm_info(g.ctx, t, 0, &i), TNM_OK);
    CHECK_EQ(i.bytes, bytes);
    CHECK_EQ(i.dtype, d.dtype);
    for (int k = 0; k < TNM_MAX_DIMS; k++)
        CHECK_EQ(i.shape[k], d.shape[k]);
    CHECK_EQ(i.is_view, 0);
    CHECK_EQ(i.empty, 1);
    CHECK_EQ(tnm_tensor_destroy(g.ctx, t), TNM_OK);
}

static void is_refused(tnm_tensor_desc d) {
    tnm_tensor t;
    uint64_t logs = g.sim.logs[TNM_LOG_ERROR];
    CHECK_EQ(make(d, &t), TNM_ERR_ARGUMENT);
    CHECK_EQ(t.id, 0); /* outputs are zeroed */
    CHECK(g.sim.logs[TNM_LOG_ERROR] > logs);
}

TEST(dtypes_have_their_sizes) {
    static const struct {
        tnm_dtype dtype;
        uint64_t bytes;
    } plain[] = { { TNM_U8, 1 },  { TNM_I8, 1 },      { TNM_I16, 2 },    { TNM_I32, 4 },
                  { TNM_I64, 8 }, { TNM_F16, 2 },     { TNM_BF16, 2 },   { TNM_F32, 4 },
                  { TNM_F64, 8 }, { TNM_F8_E4M3, 1 }, { TNM_F8_E5M2, 1 } };
    open_rig();
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        has_bytes(shaped(plain[i].dtype, 7, 0, 0), 7 * plain[i].bytes);
        has_bytes(shaped(plain[i].dtype, 2, 3, 5), 30 * plain[i].bytes);
    }
    has_bytes(shaped(TNM_Q4_0, 64, 0, 0), 36);
    has_bytes(shaped(TNM_Q4_0, 3, 32, 0), 54);
    has_bytes(shaped(TNM_Q8_0, 5, 64, 0), 5 * 68);
    rig_end(&g);
}

TEST(bytes_and_shape_agree) {
    tnm_tensor_desc d;
    open_rig();
    d = shaped(TNM_F32, 4, 4, 0);
    d.bytes = 64;
    has_bytes(d, 64);
    d.bytes = 63;
    is_refused(d);
    d.bytes = 65;
    is_refused(d);
    d = shaped(TNM_BYTES, 0, 0, 0);
    d.bytes = 17;
    has_bytes(d, 17);
    d.bytes = 0;
    is_refused(d);
    is_refused(shaped(TNM_F32, 0, 0, 0)); /* a dtype needs a shape */
    d = shaped(TNM_BYTES, 5, 6, 0);
    has_bytes(d, 30);
    rig_end(&g);
}

TEST(hostile_shapes) { /* I38 */
    tnm_tensor_desc d;
    open_rig();
    is_refused(shaped(TNM_F32, -1, 0, 0));
    is_refused(shaped(TNM_F32, 2, -2, 0));
    is_refused(shaped(TNM_F32, 2, 0, 3)); /* goes on behind its first 0 */
    is_refused(shaped(TNM_Q4_0, 33, 0, 0));
    is_refused(shaped(TNM_Q8_0, 32, 31, 0));
    is_refused(shaped((tnm_dtype)99, 4, 0, 0));
    is_refused(shaped((tnm_dtype)-1, 4, 0, 0));
    is_refused(shaped(TNM_F64, INT64_MAX, INT64_MAX, 0));
    is_refused(shaped(TNM_F64, INT64_MAX, 0, 0));
    is_refused(shaped(TNM_U8, (int64_t)1 << 32, (int64_t)1 << 32, 0));
    is_refused(shaped(TNM_F32, (int64_t)1 << 62, 0, 0));
    is_refused(shaped(TNM_Q8_0, (int64_t)1 << 40, (int64_t)1 << 23, 0));
    is_refused(shaped(TNM_U8, INT64_MAX, 3, 0));
    d = shaped(TNM_BYTES, 0, 0, 0);
    d.bytes = UINT64_MAX;
    is_refused(d);
    d = shaped(TNM_U8, 2, 2, 2);
    d.shape[3] = 2;
    d.shape[4] = 2;
    has_bytes(d, 32);
    d.shape[4] = INT64_MAX;
    is_refused(d);
    rig_end(&g);
}

TEST(large_names_need_no_memory) { /* a name is O(1), whatever its size */
    tnm_tensor t;
    tnm_pinned p;
    open_rig();
    CHECK_EQ(make(shaped(TNM_F32, (int64_t)1 << 40, 3, 0), &t), TNM_OK);
    CHECK_EQ(g.sim.calls[SIM_ALLOC], 0);
    CHECK(rig_pin(&g, t, 0, TNM_DISCARD, &p) < 0); /* nobody has 12 TiB */
    CHECK_EQ(tnm_check(g.ctx), 0);
    CHECK_EQ(tnm_tensor_destroy(g.ctx, t), TNM_OK);
    rig_end(&g);
}

TEST(advice_is_checked) {
    tnm_tensor_desc d = shaped(TNM_U8, 8, 0, 0);
    tnm_tensor t;
    tnm_tensor_info i;
    open_rig();
    d.advice = 4;
    is_refused(d);
    d.advice = 0xFFFF;
    is_refused(d);
    d.advice = TNM_KEEP | TNM_DROPPABLE | TNM_SCRUB;
    CHECK_EQ(make(d, &t), TNM_OK);
    CHECK_EQ(tnm_info(g.ctx, t, 0, &i), TNM_OK);
    CHECK_EQ(i.advice, d.advice);
    CHECK_EQ(tnm_advise(g.ctx, t, 77), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_advise(g.ctx, t, TNM_ONCE), TNM_OK);
    CHECK_EQ(tnm_info(g.ctx, t, 0, &i), TNM_OK);
    CHECK_EQ(i.advice & 3, TNM_ONCE);
    rig_end(&g);
}

TEST(label_and_user_come_back) {
    static int mine;
    tnm_tensor_desc d = shaped(TNM_U8, 8, 0, 0);
    tnm_tensor t;
    tnm_tensor_info i;
    open_rig();
    d.label = "blk.0.attn_q";
    d.user = &mine;
    CHECK_EQ(make(d, &t), TNM_OK);
    CHECK_EQ(tnm_info(g.ctx, t, 1, &i), TNM_OK);
    CHECK(i.label == d.label && i.user == &mine);
    CHECK_EQ(i.state, TNM_STATE_ABSENT);
    CHECK_EQ(i.next_use, UINT64_MAX);
    rig_end(&g);
}

/* every call that takes a handle refuses this one, and touches nothing */
static void refuse_everywhere(tnm_tensor t, tnm_result want) {
    tnm_tensor_desc d = shaped(TNM_U8, 1, 0, 0);
    tnm_tensor_info info;
    tnm_shortage why;
    tnm_tensor v;
    tnm_pinned p;
    uint8_t byte = 0;
    tnm_use u = rig_use(t, 0, TNM_READ);
    CHECK_EQ(tnm_info(g.ctx, t, 0, &info), want);
    CHECK_EQ(info.bytes, 0);
    CHECK_EQ(tnm_pin(g.ctx, &u, 1, &p), want);
    CHECK_EQ(tnm_try_pin(g.ctx, &u, 1, &p), want);
    CHECK_EQ(tnm_why(g.ctx, &u, 1, &why), want);
    CHECK_EQ(tnm_read(g.ctx, t, 0, &byte, 1), want);
    CHECK_EQ(tnm_write(g.ctx, t, 0, &byte, 1), want);
    CHECK_EQ(tnm_tensor_view(g.ctx, t, 0, &d, &v), want);
    CHECK_EQ(tnm_advise(g.ctx, t, 0), want);
    CHECK_EQ(tnm_evict(g.ctx, t, 0), want);
    CHECK_EQ(tnm_schedule(g.ctx, 0, &u, 1, 4), want);
    CHECK_EQ(tnm_tensor_destroy(g.ctx, t), want);
    if (t.id != 0) CHECK_EQ(tnm_flush(g.ctx, t, 0), want); /* {0} is "all" there */
    CHECK_EQ(tnm_check(g.ctx), 0);
}

TEST(zero_handle) {
    open_rig();
    refuse_everywhere((tnm_tensor){ 0 }, TNM_ERR_ARGUMENT);
    rig_end(&g);
}

TEST(stale_handles_stay_stale) {
    tnm_tensor old[64], t;
    open_rig();
    for (int i = 0; i < 64; i++) { /* the slot is reused, the handle is not */
        old[i] = rig_tensor(&g, 16, 0);
        rig_write(&g, old[i], 0, (uint64_t)i);
        for (int k = 0; k < i; k++)
            CHECK(old[k].id != old[i].id);
        CHECK_EQ(tnm_tensor_destroy(g.ctx, old[i]), TNM_OK);
    }
    t = rig_tensor(&g, 16, 0);
    rig_write(&g, t, 0, 99);
    for (int i = 0; i < 64; i++)
        refuse_everywhere(old[i], TNM_ERR_STALE);
    rig_expect(&g, t, 1, 99);
    rig_end(&g);
}

TEST(foreign_handles) {
    static rig other;
    tnm_tensor mine, theirs;
    open_rig();
    rig_start(&other, 2);
    other.desc.tag = 77;
    rig_pair(&other, SIM_PLAIN, 0);
    mine = rig_tensor(&g, 16, 0);
    rig_write(&g, mine, 0, 1);
    theirs = rig_tensor(&other, 16, 0);
    refuse_everywhere(theirs, TNM_ERR_ARGUMENT);
    rig_expect(&g, mine, 0, 1);
    rig_end(&other);
    rig_end(&g);
}

TEST(invented_handles) {
    tnm_tensor real;
    uint64_t seed = 12345;
    tnm_tensor_info info;
    open_rig();
    real = rig_tensor(&g, 16, 0);
    rig_write(&g, real, 0, 1);
    for (int i = 0; i < 20000; i++) {
        tnm_tensor t = { check_random(&seed) };
        if (i % 3 == 0) t.id = real.id ^ ((uint64_t)1 << (i % 64)); /* one bit off */
        if (t.id == real.id) continue;
        CHECK(tnm_info(g.ctx, t, 0, &info) < 0);
        if (i % 97 == 0) CHECK(tnm_tensor_destroy(g.ctx, t) < 0);
    }
    rig_expect(&g, real, 1, 1);
    tnm_tensor next = rig_tensor(&g, 16, 0); /* what its slot is called next is not yet anybody's */
    CHECK_EQ(tnm_tensor_destroy(g.ctx, next), TNM_OK);
    next.id += (uint64_t)1 << 32;
    refuse_everywhere(next, TNM_ERR_ARGUMENT);
    rig_end(&g);
}

TEST(many_tensors) {
    int n = check_scale(20000, 2000);
    tnm_tensor *t = (tnm_tensor *)calloc((size_t)n, sizeof *t);
    open_rig();
    for (int i = 0; i < n; i++)
        t[i] = rig_tensor(&g, 64 + (uint64_t)(i % 7), 0);
    for (int i = 0; i < n; i += 13)
        rig_write(&g, t[i], 0, (uint64_t)i);
    CHECK_EQ(tnm_check(g.ctx), 0);
    for (int i = 0; i < n; i += 2)
        CHECK_EQ(tnm_tensor_destroy(g.ctx, t[i]), TNM_OK);
    for (int i = 13; i < n; i += 26)
        rig_expect(&g, t[i], 1, (uint64_t)i);
    for (int i = 1; i < n; i += 2)
        CHECK_EQ(tnm_tensor_destroy(g.ctx, t[i]), TNM_OK);
    rig_rest(&g);
    CHECK_EQ(rig_stats(&g, 0).used_bytes, 0);
    rig_end(&g);
    free(t);
}

int main(void) {
    RUN(dtypes_have_their_sizes);
    RUN(bytes_and_shape_agree);
    RUN(hostile_shapes);
    RUN(large_names_need_no_memory);
    RUN(advice_is_checked);
    RUN(label_and_user_come_back);
    RUN(zero_handle);
    RUN(stale_handles_stay_stale);
    RUN(foreign_handles);
    RUN(invented_handles);
    RUN(many_tensors);
    return check_done();
}
