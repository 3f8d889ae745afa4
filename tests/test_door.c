/* The room [door] from inside: arguments, what a callback may call, that no callback runs under the
 * lock, and that a context which cannot be made leaves nothing behind. */
#define TENSORMEM_IMPLEMENTATION
#include "../tensormem.h"
#include "sim.h"

enum { KIB = 1024, ONE = 8 * KIB, CHUNK = 4 * KIB };
enum { /* the callbacks there are */
       IN_ALLOC,
       IN_RELEASE,
       IN_COPY,
       IN_SUBMIT,
       IN_POLL,
       IN_WAIT,
       IN_AVAILABLE,
       IN_HOST,
       IN_PASSED,
       IN_IDLE,
       IN_LOG,
       IN_TRACE,
       IN_RELEASED,
       IN_WRITER,
       CALLBACKS
};

static tnm_ctx *ctx;
static tnm_tensor known;
static uint32_t seen; /* callbacks that ran, as bits */
static tnm_tensor doomed;
static int depth, locks, probing, threaded;
static tnm_log last;
static char last_call[32], last_rule[160];
static int logs, floods, dropped, curious;

/* ---- what a callback does: try everything ---- */
static void expect(int got, int want, const char *what) {
    char text[80];
    if (got == want) return;
    snprintf(text, sizeof text, "%s from a callback: %d, not %d", what, got, want);
    check_fail(__FILE__, __LINE__, text);
}

static int writes(void *user, const char *text, uint64_t bytes);

static void forbidden(void) {
    tnm_tensor_desc desc;
    tnm_adopt_desc where;
    tnm_tensor t = { 0 };
    tnm_use use = rig_use(known, 0, TNM_READ);
    tnm_pinned p;
    char byte = 0;
    tnm_writer writer = { writes, NULL };
    memset(&desc, 0, sizeof desc);
    memset(&where, 0, sizeof where);
    memset(&p, 0, sizeof p);
    desc.bytes = 1;
    where.host = &byte;
    expect(tnm_tensor_create(ctx, &desc, &t), TNM_ERR_ARGUMENT, "tensor_create");
    expect(tnm_tensor_adopt(ctx, &desc, &where, &t), TNM_ERR_ARGUMENT, "tensor_adopt");
    expect(tnm_tensor_view(ctx, known, 0, &desc, &t), TNM_ERR_ARGUMENT, "tensor_view");
    expect(tnm_tensor_destroy(ctx, known), TNM_ERR_ARGUMENT, "tensor_destroy");
    expect(tnm_pin(ctx, &use, 1, &p), TNM_ERR_ARGUMENT, "pin");
    expect(tnm_try_pin(ctx, &use, 1, &p), TNM_ERR_ARGUMENT, "try_pin");
    expect(tnm_unpin(ctx, &p, 1, 0), TNM_ERR_ARGUMENT, "unpin");
    expect(tnm_unpin(ctx, NULL, 0, 0), TNM_ERR_ARGUMENT, "unpin of none");
    expect(tnm_read(ctx, known, 0, &byte, 1), TNM_ERR_ARGUMENT, "read");
    expect(tnm_write(ctx, known, 0, &byte, 1), TNM_ERR_ARGUMENT, "write");
    expect(tnm_schedule(ctx, 0, NULL, 0, 0), TNM_ERR_ARGUMENT, "schedule");
    expect(tnm_step(ctx, 0, 1), TNM_ERR_ARGUMENT, "step");
    expect(tnm_prefetch(ctx, 0, &use, 1), TNM_ERR_ARGUMENT, "prefetch");
    expect(tnm_cancel(ctx, &known, 1), TNM_ERR_ARGUMENT, "cancel");
    expect(tnm_advise(ctx, known, 0), TNM_ERR_ARGUMENT, "advise");
    expect(tnm_evict(ctx, known, 0), TNM_ERR_ARGUMENT, "evict");
    expect(tnm_flush(ctx, known, 0), TNM_ERR_ARGUMENT, "flush");
    expect(tnm_set_budget(ctx, 0, 0), TNM_ERR_ARGUMENT, "set_budget");
    expect(tnm_pump(ctx, 0), TNM_ERR_ARGUMENT, "pump");
    expect(tnm_wait(ctx), TNM_ERR_ARGUMENT, "wait");
    expect(tnm_dump(ctx, TNM_DUMP_TEXT, &writer), TNM_ERR_ARGUMENT, "dump");
    expect(tnm_destroy(ctx), TNM_ERR_ARGUMENT, "destroy");
}

static void allowed(void) {
    tnm_tensor_info info;
    tnm_tier_stats stats;
    tnm_shortage why;
    tnm_use use = rig_use(known, 0, TNM_READ);
    expect(tnm_info(ctx, known, 0, &info), TNM_OK, "info");
    CHECK_EQ(info.bytes, ONE);
    expect(tnm_stats(ctx, 0, &stats), TNM_OK, "stats");
    expect(tnm_why(ctx, &use, 1, &why), TNM_OK, "why");
    CHECK(strcmp(tnm_result_string(TNM_OK), "OK") == 0);
}

static void probe(int where) {
    seen |= 1u << where;
    CHECK_EQ(depth, 0); /* never under the lock */
    if (ctx == NULL || known.id == 0 || probing) return;
    probing = 1;
    if (!threaded) forbidden(); /* with several threads the flag cannot know: it is the contract */
    allowed();
    CHECK_EQ(depth, 0);
    probing = 0;
}

/* ---- the callbacks ---- */
static void hold(void *user) {
    (void)user;
    CHECK_EQ(depth, 0);
    depth++;
    locks++;
}

static void let_go(void *user) {
    (void)user;
    CHECK_EQ(depth, 1);
    depth--;
    if (doomed.id == 0) return;
    tnm_tensor name = doomed; /* what another thread does as soon as it can */
    doomed.id = 0;
    CHECK_EQ(tnm_tensor_destroy(ctx, name), TNM_OK);
}

static void *host_alloc(void *user, size_t size) {
    probe(IN_HOST);
    return check_alloc(user, size);
}

static tnm_result alloc(void *user, uint64_t size, uint64_t align, void *item, uint64_t *mem,
                        void **host) {
    (void)user;
    (void)align;
    (void)item;
    probe(IN_ALLOC);
    *host = malloc((size_t)size);
    *mem = (uint64_t)(uintptr_t)*host;
    return *host != NULL ? TNM_OK : TNM_ERR_MEMORY;
}

static void release(void *user, uint64_t mem, uint64_t size) {
    (void)user;
    (void)size;
    probe(IN_RELEASE);
    free((void *)(uintptr_t)mem);
}

static int polls_left, give_up;
static uint64_t out_ticket, in_ticket, headroom;
static tnm_result copy_says;

static tnm_result copy(void *user, const tnm_span *dst, const tnm_span *src, uint64_t size,
                       uint64_t *ticket) {
    (void)user;
    probe(IN_COPY);
    if (copy_says != TNM_OK) return copy_says;
    memcpy(dst->host, src->host, (size_t)size);
    *ticket = ++out_ticket;
    polls_left = 3;
    return TNM_PENDING;
}

static void submit(void *user) {
    (void)user;
    probe(IN_SUBMIT);
}

static tnm_result poll(void *user, uint64_t ticket) {
    (void)user;
    probe(IN_POLL);
    CHECK(ticket >= 1 && ticket <= out_ticket);
    in_ticket = ticket;
    return give_up || polls_left-- > 0 ? TNM_PENDING : TNM_OK;
}

static tnm_result wait_for(void *user, uint64_t ticket) {
    (void)user;
    (void)ticket;
    probe(IN_WAIT);
    return TNM_PENDING; /* it may sleep: it need not succeed */
}

static uint64_t available(void *user) {
    (void)user;
    probe(IN_AVAILABLE);
    return headroom;
}

static uint64_t passed(void *user, uint32_t queue, uint64_t wait) {
    (void)user;
    (void)queue;
    (void)wait;
    probe(IN_PASSED);
    return 1;
}

static int idle(void *user, uint64_t rounds) {
    (void)user;
    CHECK(rounds >= 1 && rounds < 1000);
    probe(IN_IDLE);
    return give_up;
}

static void listen(void *user, const tnm_log *item) {
    (void)user;
    CHECK_EQ(depth, 0);
    logs++;
    last = *item;
    snprintf(last_call, sizeof last_call, "%s", item->call != NULL ? item->call : "");
    snprintf(last_rule, sizeof last_rule, "%s", item->rule);
    if (item->result == TNM_ERR_CAPACITY && strstr(item->rule, "dropped") != NULL)
        dropped = (int)item->need;
    if (curious) { /* once: a probe leaves items of its own */
        curious = 0;
        probe(IN_LOG);
    }
    while (floods > 0) {
        tnm_tier_stats stats;
        floods--;
        CHECK_EQ(tnm_stats(ctx, 77, &stats), TNM_ERR_ARGUMENT); /* each leaves an item */
    }
}

static void trace(void *user, const tnm_event *event) {
    (void)user;
    (void)event;
    probe(IN_TRACE);
}

static void released(void *user, uint64_t mem, uint64_t offset) {
    (void)user;
    (void)mem;
    (void)offset;
    probe(IN_RELEASED);
}

static int writes(void *user, const char *text, uint64_t bytes) {
    (void)user;
    CHECK(text != NULL && bytes > 0);
    probe(IN_WRITER);
    return 0;
}

/* ---- a context ---- */
static tnm_tier_desc tiers[2];
static tnm_desc desc_;

static tnm_desc *describe(void) {
    memset(tiers, 0, sizeof tiers);
    memset(&desc_, 0, sizeof desc_);
    for (int t = 0; t < 2; t++) {
        tnm_backend *b = &tiers[t].backend;
        b->alloc = alloc;
        b->release = release;
        b->copy = copy;
        b->poll = poll;
        b->submit = submit;
        b->wait = wait_for;
        b->available = available;
        tiers[t].segment_bytes = t ? 1 << 18 : 0;
    }
    tiers[0].budget_bytes = 4 * (ONE + (TENSORMEM_REDZONE_BYTES + 255) / 256 * 256);
    desc_.tiers = tiers;
    desc_.tier_count = 2;
    desc_.chunk_bytes = CHUNK;
    desc_.alloc = host_alloc;
    desc_.release = check_release;
    desc_.passed = passed;
    desc_.idle = idle;
    desc_.log = listen;
    ctx = NULL;
    known.id = 0;
    seen = 0;
    depth = locks = probing = threaded = give_up = logs = floods = dropped = curious = 0;
    headroom = UINT64_MAX;
    copy_says = TNM_OK;
    return &desc_;
}

static void create(void) {
    tnm_tensor_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.bytes = ONE;
    CHECK_EQ(tnm_create(&desc_, &ctx), TNM_OK);
    CHECK_EQ(tnm_tensor_create(ctx, &desc, &known), TNM_OK);
}

static void end(void) {
    known.id = 0; /* it goes with the context */
    CHECK_EQ(tnm_check(ctx), 0);
    CHECK_EQ(tnm_destroy(ctx), TNM_OK);
    CHECK_EQ(depth, 0);
    ctx = NULL;
}

/* Every callback runs at least once. */
static void live(void) {
    static unsigned char bytes[ONE], lent[ONE];
    tnm_writer writer = { writes, NULL };
    tnm_adopt_desc where;
    tnm_tensor_desc desc;
    tnm_tensor t, many[300];
    tnm_pinned p;
    memset(&where, 0, sizeof where);
    memset(&desc, 0, sizeof desc);
    desc.bytes = ONE;
    memset(bytes, 7, sizeof bytes);
    CHECK_EQ(tnm_write(ctx, known, 0, bytes, ONE), TNM_OK);
    tnm_use use = rig_use(known, 0, TNM_READ);
    CHECK_EQ(tnm_pin(ctx, &use, 1, &p), TNM_OK);
    CHECK_EQ(memcmp(p.host, bytes, ONE), 0);
    CHECK_EQ(tnm_unpin(ctx, &p, 1, TNM_FENCE(0, 1)), TNM_OK);
    CHECK(tnm_pump(ctx, TNM_ALL) >= 0);
    CHECK(tnm_wait(ctx) >= 0);
    where.tier = 1;
    where.host = lent;
    where.mem = (uint64_t)(uintptr_t)lent;
    where.released = released;
    CHECK_EQ(tnm_tensor_adopt(ctx, &desc, &where, &t), TNM_OK);
    CHECK_EQ(tnm_tensor_destroy(ctx, t), TNM_OK);
    CHECK(tnm_pump(ctx, TNM_ALL) >= 0);
    CHECK_EQ(tnm_dump(ctx, TNM_DUMP_JSON, &writer), TNM_OK);
    CHECK_EQ(tnm_dump(ctx, TNM_DUMP_TEXT, &writer), TNM_OK);
    curious = 1;
    CHECK_EQ(tnm_advise(ctx, known, 4711), TNM_ERR_ARGUMENT); /* a log item */
    for (int i = 0; i < 300; i++)                             /* tables grow */
        CHECK_EQ(tnm_tensor_create(ctx, &desc, &many[i]), TNM_OK);
    for (int i = 0; i < 300; i++)
        CHECK_EQ(tnm_tensor_destroy(ctx, many[i]), TNM_OK);
    CHECK_EQ(tnm_flush(ctx, known, 1), TNM_OK);
    CHECK_EQ(tnm_evict(ctx, known, 0), TNM_OK);
    while (tnm_set_budget(ctx, 0, 0) == TNM_PENDING)
        tnm_pump(ctx, TNM_ALL); /* a release */
    CHECK_EQ(tnm_read(ctx, known, 0, bytes, ONE), TNM_OK);
    CHECK(bytes[0] == 7 && bytes[ONE - 1] == 7);
}

TEST(from_a_callback_only_sight_is_allowed) {
    describe()->trace = trace;
    create();
    live();
    CHECK_EQ(seen, (1u << CALLBACKS) - 1); /* each of them was tried from */
    end();
}

static void create_locked(void) { /* by an application that brings its own lock */
    desc_.lock = hold;
    desc_.unlock = let_go;
    threaded = 1;
    create();
}

TEST(no_callback_runs_under_the_lock) {
    describe()->trace = trace;
    create_locked();
    CHECK(depth == 0 && locks > 0);
    live();
    CHECK_EQ(depth, 0);
    CHECK_EQ(seen, (1u << CALLBACKS) - 1);
    end();
}

TEST(a_name_destroyed_while_its_pin_waits_is_stale) { /* its content has another name */
    tnm_tensor_desc part;
    tnm_tensor view;
    tnm_pinned p;
    describe();
    create_locked();
    memset(&part, 0, sizeof part);
    part.bytes = 64;
    tnm_use use = rig_use(known, 0, TNM_DISCARD);
    CHECK_EQ(tnm_pin(ctx, &use, 1, &p), TNM_OK);
    CHECK_EQ(tnm_unpin(ctx, &p, 1, 0), TNM_OK);
    CHECK_EQ(tnm_tensor_view(ctx, known, 0, &part, &view), TNM_OK);
    use = rig_use(view, 1, TNM_READ);
    doomed = view;
    tnm_result r = tnm_pin(ctx, &use, 1, &p);
    CHECK_EQ(doomed.id, 0);
    CHECK_EQ(r, TNM_ERR_STALE);
    CHECK_EQ(tnm_check(ctx), 0);
    end();
}

TEST(a_hit_takes_no_lock) {
    tnm_pinned p;
    describe();
    create_locked();
    tnm_use use = rig_use(known, 0, TNM_DISCARD);
    CHECK_EQ(tnm_pin(ctx, &use, 1, &p), TNM_OK);
    CHECK_EQ(tnm_unpin(ctx, &p, 1, 0), TNM_OK);
    int before = locks;
    for (int i = 0; i < 100; i++) {
        use.access = i % 2 ? TNM_WRITE : TNM_READ;
        CHECK_EQ(i % 3 ? tnm_pin(ctx, &use, 1, &p) : tnm_try_pin(ctx, &use, 1, &p), TNM_OK);
        CHECK_EQ(tnm_unpin(ctx, &p, 1, 0), TNM_OK);
    }
    if (TNMI_ATOMICS)
        CHECK_EQ(locks, before);
    else
        CHECK(locks > before);
    end();
}

/* ---- arguments ---- */
/* The call was refused, and its log item names it. */
static void refused(int got, const char *call, int line) {
    if (got != TNM_ERR_ARGUMENT || strcmp(last_call, call) != 0 || last_rule[0] == 0 ||
        last.level != TNM_LOG_ERROR || last.result != TNM_ERR_ARGUMENT) {
        char text[300];
        snprintf(text, sizeof text, "%s answered %d; the last item is of %s: %s", call, got,
                 last_call, last_rule);
        check_fail(__FILE__, line, text);
    }
    last_call[0] = 0;
}

#define REFUSED(call, args) refused((int)call args, #call, __LINE__)

TEST(nothing_works_without_a_context) {
    tnm_tensor_desc desc;
    tnm_adopt_desc where;
    tnm_tensor t = { 5 };
    tnm_use use;
    tnm_pinned p;
    tnm_tensor_info info;
    tnm_tier_stats stats;
    tnm_shortage why;
    char byte = 0;
    memset(&desc, 0, sizeof desc);
    memset(&where, 0, sizeof where);
    memset(&use, 0, sizeof use);
    memset(&p, 0, sizeof p);
    ctx = (tnm_ctx *)&desc;
    CHECK_EQ(tnm_create(NULL, &ctx), TNM_ERR_ARGUMENT);
    CHECK(ctx == NULL);
    CHECK_EQ(tnm_create(describe(), NULL), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_destroy(NULL), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_tensor_create(NULL, &desc, &t), TNM_ERR_ARGUMENT);
    CHECK_EQ(t.id, 0); /* outputs are zeroed */
    CHECK_EQ(tnm_tensor_adopt(NULL, &desc, &where, &t), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_tensor_view(NULL, t, 0, &desc, &t), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_tensor_destroy(NULL, t), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_pin(NULL, &use, 1, &p), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_try_pin(NULL, &use, 1, &p), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_unpin(NULL, &p, 1, 0), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_read(NULL, t, 0, &byte, 1), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_write(NULL, t, 0, &byte, 1), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_schedule(NULL, 0, &use, 1, 1), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_step(NULL, 0, 0), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_prefetch(NULL, 0, &use, 1), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_cancel(NULL, &t, 1), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_advise(NULL, t, 0), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_evict(NULL, t, 0), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_flush(NULL, t, 0), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_set_budget(NULL, 0, 0), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_pump(NULL, 0), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_wait(NULL), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_info(NULL, t, 0, &info), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_stats(NULL, 0, &stats), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_why(NULL, &use, 1, &why), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_dump(NULL, TNM_DUMP_TEXT, NULL), TNM_ERR_ARGUMENT);
    CHECK(tnm_check(NULL) != 0);
}

TEST(arguments_of_tensors) {
    tnm_tensor_desc desc, bad;
    tnm_adopt_desc where;
    tnm_tensor t;
    char byte = 0;
    describe();
    create();
    memset(&desc, 0, sizeof desc);
    memset(&where, 0, sizeof where);
    desc.bytes = 16;
    where.tier = 1;
    where.host = &byte;
    REFUSED(tnm_tensor_create, (ctx, NULL, &t));
    REFUSED(tnm_tensor_create, (ctx, &desc, NULL));
    bad = desc;
    bad.bytes = 0;
    REFUSED(tnm_tensor_create, (ctx, &bad, &t));
    bad.bytes = (uint64_t)1 << 63;
    REFUSED(tnm_tensor_create, (ctx, &bad, &t));
    bad = desc;
    bad.advice = 64;
    REFUSED(tnm_tensor_create, (ctx, &bad, &t));
    bad = desc;
    bad.dtype = (tnm_dtype)99;
    REFUSED(tnm_tensor_create, (ctx, &bad, &t));
    bad.dtype = TNM_F32; /* needs a shape */
    REFUSED(tnm_tensor_create, (ctx, &bad, &t));
    bad.shape[0] = 5; /* 20 bytes, not 16 */
    REFUSED(tnm_tensor_create, (ctx, &bad, &t));
    REFUSED(tnm_tensor_adopt, (ctx, NULL, &where, &t));
    REFUSED(tnm_tensor_adopt, (ctx, &desc, NULL, &t));
    REFUSED(tnm_tensor_adopt, (ctx, &desc, &where, NULL));
    where.tier = 2;
    t = known;
    REFUSED(tnm_tensor_adopt, (ctx, &desc, &where, &t));
    CHECK_EQ(t.id, 0);
    where.tier = -1;
    REFUSED(tnm_tensor_adopt, (ctx, &desc, &where, &t));
    where.tier = 1;
    where.offset = UINT64_MAX - 3;
    REFUSED(tnm_tensor_adopt, (ctx, &desc, &where, &t));
    where.offset = 0;
    bad = desc;
    bad.bytes = 0;
    REFUSED(tnm_tensor_adopt, (ctx, &bad, &where, &t));
    bad = desc;
    bad.advice = TNM_SCRUB;
    REFUSED(tnm_tensor_adopt, (ctx, &bad, &where, &t));
    t.id = known.id + 1; /* never given */
    REFUSED(tnm_tensor_destroy, (ctx, t));
    t.id = 0;
    REFUSED(tnm_tensor_destroy, (ctx, t));
    t.id = known.id | (uint64_t)7 << TNMI_INDEX_BITS; /* another context's */
    REFUSED(tnm_tensor_destroy, (ctx, t));
    end();
}

TEST(arguments_of_views) {
    tnm_tensor_desc desc, bad;
    tnm_tensor t;
    describe();
    create();
    memset(&desc, 0, sizeof desc);
    desc.bytes = 16;
    REFUSED(tnm_tensor_view, (ctx, known, 0, NULL, &t));
    REFUSED(tnm_tensor_view, (ctx, known, 0, &desc, NULL));
    t = known;
    REFUSED(tnm_tensor_view, (ctx, known, ONE - 15, &desc, &t));
    CHECK_EQ(t.id, 0);
    REFUSED(tnm_tensor_view, (ctx, known, UINT64_MAX, &desc, &t));
    REFUSED(tnm_tensor_view, (ctx, known, UINT64_MAX - 3, &desc, &t));
    bad = desc;
    bad.bytes = ONE + 1;
    REFUSED(tnm_tensor_view, (ctx, known, 0, &bad, &t));
    CHECK_EQ(tnm_tensor_view(ctx, known, ONE - 16, &desc, &t), TNM_OK);
    CHECK_EQ(tnm_tensor_destroy(ctx, t), TNM_OK);
    CHECK_EQ(tnm_tensor_destroy(ctx, t), TNM_ERR_STALE);
    CHECK(strcmp(last_call, "tnm_tensor_destroy") == 0);
    end();
}

TEST(arguments_of_uses) {
    tnm_use use;
    tnm_pinned p, q;
    char byte = 0;
    describe();
    create();
    use = rig_use(known, 0, TNM_READ);
    memset(&p, 0x5a, sizeof p);
    REFUSED(tnm_pin, (ctx, &use, -1, &p));
    REFUSED(tnm_pin, (ctx, NULL, 1, &p));
    REFUSED(tnm_pin, (ctx, &use, 1, NULL));
    REFUSED(tnm_try_pin, (ctx, &use, -1, &p));
    use.tier = 2;
    REFUSED(tnm_pin, (ctx, &use, 1, &p));
    CHECK(p.id == 0 && p.host == NULL && p.bytes == 0);
    use.tier = -1;
    REFUSED(tnm_try_pin, (ctx, &use, 1, &p));
    use = rig_use(known, 0, (tnm_access)3);
    REFUSED(tnm_pin, (ctx, &use, 1, &p));
    use = rig_use(known, 0, (tnm_access)-1);
    REFUSED(tnm_pin, (ctx, &use, 1, &p));
    use = rig_use(known, 0, TNM_READ);
    use.flags = 8;
    REFUSED(tnm_pin, (ctx, &use, 1, &p));
    use.flags = 0x80;
    REFUSED(tnm_pin, (ctx, &use, 1, &p));
    use.flags = TNM_QUEUED; /* reserved */
    REFUSED(tnm_pin, (ctx, &use, 1, &p));
    use.flags = TNMI_WHOLE; /* ours */
    REFUSED(tnm_pin, (ctx, &use, 1, &p));
    REFUSED(tnm_unpin, (ctx, &p, 1, 0)); /* zeroed: names nothing */
    REFUSED(tnm_unpin, (ctx, &p, -1, 0));
    REFUSED(tnm_unpin, (ctx, NULL, 1, 0));
    use = rig_use(known, 0, TNM_DISCARD);
    CHECK_EQ(tnm_pin(ctx, &use, 1, &p), TNM_OK);
    q = p;
    REFUSED(tnm_unpin, (ctx, &p, 1, TNM_FENCE(3, 0)));
    q.tier = 1;
    REFUSED(tnm_unpin, (ctx, &q, 1, 0));
    q = p;
    q.id++;
    REFUSED(tnm_unpin, (ctx, &q, 1, 0));
    q = p;
    CHECK_EQ(tnm_unpin(ctx, &p, 1, 0), TNM_OK);
    CHECK(p.id == 0 && p.host == NULL);
    REFUSED(tnm_unpin, (ctx, &q, 1, 0)); /* twice */
    use = rig_use(known, 0, (tnm_access)3); /* and so where it would be a hit */
    REFUSED(tnm_pin, (ctx, &use, 1, &p));
    use = rig_use(known, 0, (tnm_access)-1);
    REFUSED(tnm_pin, (ctx, &use, 1, &p));
    use = rig_use(known, 0, TNM_READ);
    CHECK_EQ(tnm_pin(ctx, &use, 1, &p), TNM_OK);
    q = p;
    q.access = TNM_WRITE; /* of another access than was granted */
    REFUSED(tnm_unpin, (ctx, &q, 1, 0));
    q = p;
    q.access = (tnm_access)3;
    REFUSED(tnm_unpin, (ctx, &q, 1, 0));
    CHECK_EQ(tnm_unpin(ctx, &p, 1, 0), TNM_OK);
    tnm_use twice[2] = { rig_use(known, 0, TNM_READ), rig_use(known, 0, TNM_READ) };
    tnm_pinned both[2];
    twice[1].flags = TNM_SURE; /* a word for tnm_prefetch: here it changes nothing */
    CHECK_EQ(tnm_pin(ctx, twice, 2, both), TNM_OK);
    CHECK_EQ(tnm_unpin(ctx, both, 2, 0), TNM_OK);
    CHECK_EQ(tnm_pin(ctx, NULL, 0, NULL), TNM_OK);
    CHECK_EQ(tnm_unpin(ctx, NULL, 0, 0), TNM_OK);
    REFUSED(tnm_read, (ctx, known, 0, NULL, 1));
    REFUSED(tnm_read, (ctx, known, ONE, &byte, 1));
    REFUSED(tnm_read, (ctx, known, 0, &byte, UINT64_MAX));
    REFUSED(tnm_read, (ctx, known, UINT64_MAX, &byte, 1));
    REFUSED(tnm_write, (ctx, known, 0, NULL, 1));
    REFUSED(tnm_write, (ctx, known, ONE, &byte, 1));
    REFUSED(tnm_write, (ctx, known, UINT64_MAX, &byte, 1));
    CHECK_EQ(tnm_read(ctx, known, ONE, NULL, 0), TNM_OK);
    CHECK_EQ(tnm_write(ctx, known, ONE, NULL, 0), TNM_OK);
    REFUSED(tnm_write, (ctx, known, 0, &byte, UINT64_MAX));
    end();
}

TEST(arguments_of_the_rest) {
    tnm_use use;
    tnm_tensor_info info;
    tnm_tier_stats stats;
    tnm_shortage why;
    tnm_writer none = { NULL, NULL }, writer = { writes, NULL };
    describe()->passed = NULL;
    create();
    use = rig_use(known, 0, TNM_READ);
    REFUSED(tnm_prefetch, (ctx, 0, NULL, 1));
    REFUSED(tnm_prefetch, (ctx, 0, &use, -1));
    REFUSED(tnm_prefetch, (ctx, TNM_MAX_LANES, &use, 1));
    REFUSED(tnm_schedule, (ctx, 0, &use, 1, 0));
    REFUSED(tnm_schedule, (ctx, 0, NULL, 1, 1));
    REFUSED(tnm_schedule, (ctx, 0, &use, -1, 1));
    use.step = 4; /* outside its period */
    REFUSED(tnm_schedule, (ctx, 0, &use, 1, 4));
    use = rig_use(known, 5, TNM_READ);
    REFUSED(tnm_schedule, (ctx, 0, &use, 1, 4));
    REFUSED(tnm_prefetch, (ctx, 0, &use, 1));
    use = rig_use(known, 0, TNM_READ);
    REFUSED(tnm_schedule, (ctx, TNM_MAX_LANES, &use, 1, 1));
    REFUSED(tnm_step, (ctx, TNM_MAX_LANES, 1));
    REFUSED(tnm_cancel, (ctx, NULL, 1));
    REFUSED(tnm_cancel, (ctx, &known, -1));
    REFUSED(tnm_advise, (ctx, known, 32));
    REFUSED(tnm_evict, (ctx, known, 2));
    REFUSED(tnm_evict, (ctx, known, -1));
    REFUSED(tnm_flush, (ctx, known, 2));
    REFUSED(tnm_set_budget, (ctx, 2, 0));
    REFUSED(tnm_set_budget, (ctx, -1, 0));
    memset(&info, 0x5a, sizeof info);
    memset(&stats, 0x5a, sizeof stats);
    memset(&why, 0x5a, sizeof why);
    REFUSED(tnm_info, (ctx, known, 2, &info));
    REFUSED(tnm_info, (ctx, known, -1, &info));
    REFUSED(tnm_info, (ctx, known, 0, NULL));
    REFUSED(tnm_stats, (ctx, -1, &stats));
    REFUSED(tnm_stats, (ctx, 2, &stats));
    REFUSED(tnm_stats, (ctx, 0, NULL));
    REFUSED(tnm_why, (ctx, &use, -1, &why));
    REFUSED(tnm_why, (ctx, NULL, 1, &why));
    REFUSED(tnm_why, (ctx, &use, 1, NULL));
    CHECK(info.bytes == 0 && stats.budget_bytes == 0 && why.need_bytes == 0);
    REFUSED(tnm_dump, (ctx, TNM_DUMP_TEXT, &none));
    REFUSED(tnm_dump, (ctx, (tnm_dump_format)2, &writer));
    use = rig_use(known, 0, TNM_DISCARD);
    tnm_pinned p;
    CHECK_EQ(tnm_pin(ctx, &use, 1, &p), TNM_OK);
    REFUSED(tnm_unpin, (ctx, &p, 1, TNM_FENCE(0, 1))); /* a fence needs passed */
    CHECK_EQ(tnm_destroy(ctx), TNM_ERR_BUSY);          /* and nothing happened */
    CHECK(strcmp(last_call, "tnm_destroy") == 0);
    CHECK_EQ(tnm_check(ctx), 0);
    CHECK_EQ(tnm_unpin(ctx, &p, 1, 0), TNM_OK);
    end();
}

/* ---- asks ---- */
/* a context whose tensor has its bytes below, and a use that brings them up */
static tnm_use create_below(void) {
    char byte = 1;
    describe();
    create();
    CHECK_EQ(tnm_write(ctx, known, 0, &byte, 1), TNM_OK);
    return rig_use(known, 0, TNM_READ);
}

TEST(odd_answers_of_a_backend_are_failures) {
    const int odd[] = { 2, 77, -11, -1000, TNM_ERR_STALE, TNM_ERR_EMPTY, TNM_ERR_MEMORY };
    tnm_use use = create_below();
    tnm_pinned p;
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        copy_says = (tnm_result)odd[i];
        CHECK_EQ(tnm_pin(ctx, &use, 1, &p), TNM_ERR_BACKEND);
    }
    copy_says = TNM_PENDING; /* with a ticket that names nothing */
    CHECK_EQ(tnm_pin(ctx, &use, 1, &p), TNM_ERR_BACKEND);
    copy_says = TNM_OK;
    CHECK_EQ(tnm_pin(ctx, &use, 1, &p), TNM_OK);
    CHECK_EQ(tnm_unpin(ctx, &p, 1, 0), TNM_OK);
    end();
}

TEST(no_headroom_no_alloc) {
    tnm_pinned p;
    tnm_use use;
    describe();
    create();
    use = rig_use(known, 0, TNM_DISCARD);
    headroom = 100;
    CHECK(tnm_pin(ctx, &use, 1, &p) < 0);
    CHECK(!(seen & (1u << IN_ALLOC)));
    headroom = UINT64_MAX;
    for (int i = 0; i < 300 && tnm_try_pin(ctx, &use, 1, &p) != TNM_OK; i++)
        tnm_pump(ctx, TNM_ALL);
    CHECK(p.id != 0);
    CHECK_EQ(tnm_unpin(ctx, &p, 1, 0), TNM_OK);
    end();
}

TEST(idle_gives_up_and_the_copies_go_on) {
    tnm_use use = create_below();
    tnm_pinned p;
    give_up = 1;
    CHECK_EQ(tnm_pin(ctx, &use, 1, &p), TNM_PENDING); /* and holds nothing */
    CHECK(p.id == 0 && ctx->e.requests.live == 0);
    CHECK_EQ(tnm_check(ctx), 0);
    CHECK_EQ(tnm_destroy(ctx), TNM_PENDING); /* the context still exists */
    CHECK_EQ(tnm_check(ctx), 0);
    give_up = 0;
    end();
}

TEST(a_flood_of_items_is_counted_not_kept) {
    tnm_tier_stats stats;
    describe();
    create();
    floods = 500; /* from within the log callback, so that nobody drains meanwhile */
    CHECK_EQ(tnm_stats(ctx, 77, &stats), TNM_ERR_ARGUMENT);
    CHECK(dropped > 0);
    CHECK_EQ(logs, 1 + (500 - dropped) + 1); /* the first, what the ring took, and the number */
    logs = dropped = 0;
    CHECK_EQ(tnm_stats(ctx, 77, &stats), TNM_ERR_ARGUMENT);
    CHECK(logs == 1 && dropped == 0); /* it is not said again */
    end();
}

/* ---- a context that cannot be made ---- */
static void starve(uint32_t max_tensors, int own) {
    for (int sticky = 0; sticky < 2; sticky++) {
        for (long long n = 1; n < 200; n++) {
            long long blocks = check_live_blocks(), before = check_alloc_refused();
            describe()->max_tensors = max_tensors;
            if (!own) {
                memset(&tiers[0].backend, 0, sizeof tiers[0].backend);
                memset(&tiers[1].backend, 0, sizeof tiers[1].backend);
            }
            check_fail_alloc(n, sticky);
            ctx = (tnm_ctx *)&desc_;
            tnm_result r = tnm_create(&desc_, &ctx);
            check_fail_alloc(0, 0);
            if (check_alloc_refused() == before) { /* it asks for fewer than n */
                CHECK(r == TNM_OK && n > 4);
                CHECK_EQ(tnm_destroy(ctx), TNM_OK);
                CHECK_EQ(check_live_blocks(), blocks);
                break;
            }
            CHECK(r == TNM_ERR_MEMORY || (r == TNM_OK && !sticky)); /* less may do */
            if (r == TNM_OK)
                CHECK_EQ(tnm_destroy(ctx), TNM_OK);
            else
                CHECK(ctx == NULL);
            CHECK_EQ(check_live_blocks(), blocks);
            ctx = NULL;
        }
    }
    ctx = NULL;
}

/* The second of a set was never pinned; the same pin stands twice in a set. */
TEST(a_pin_is_given_back_once) {
    tnm_use use;
    tnm_pinned p[2];
    describe();
    create();
    use = rig_use(known, 0, TNM_DISCARD);
    CHECK_EQ(tnm_pin(ctx, &use, 1, &p[0]), TNM_OK);
    memset(&p[1], 0, sizeof p[1]);
    REFUSED(tnm_unpin, (ctx, p, 2, 0));
    CHECK(p[0].id != 0); /* nothing was given back */
    p[1] = p[0];
    CHECK_EQ(tnm_unpin(ctx, p, 2, 0), TNM_ERR_ARGUMENT); /* the first was, the second could not */
    CHECK_EQ(p[0].id, 0);
    CHECK_EQ(tnm_check(ctx), 0);
    end();
}

static int refuses_in; /* the n-th piece of a dump */

static int refuses(void *user, const char *text, uint64_t bytes) {
    (void)user;
    CHECK(bytes > 0 && text != NULL);
    return --refuses_in == 0;
}

TEST(a_dump_ends_where_its_writer_does) {
    enum { MANY = 200 };
    tnm_tensor_desc about;
    tnm_tensor t;
    tnm_writer writer = { refuses, NULL };
    memset(&about, 0, sizeof about);
    about.bytes = 64;
    about.label = "a label of some length, so that there is more than one piece";
    describe();
    create();
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(tnm_tensor_create(ctx, &about, &t), TNM_OK);
    for (int json = 0; json < 2; json++) {
        int pieces = 0;
        for (int n = 1; n < 1000; n++) {
            refuses_in = n;
            tnm_result r = tnm_dump(ctx, json ? TNM_DUMP_JSON : TNM_DUMP_TEXT, &writer);
            if (r == TNM_OK) break;
            CHECK_EQ(r, TNM_ERR_BACKEND);
            pieces = n;
        }
        CHECK(pieces >= 2);
    }
    CHECK_EQ(tnm_dump(ctx, TNM_DUMP_TEXT, NULL), TNM_OK); /* to stdout */
    end();
}

TEST(why_of_nothing_and_of_what_is_here) {
    tnm_shortage why;
    tnm_use use;
    tnm_pinned p;
    describe();
    create();
    CHECK_EQ(tnm_why(ctx, NULL, 0, &why), TNM_OK);
    CHECK(why.tier == -1 && why.result == TNM_OK);
    use = rig_use(known, 0, TNM_DISCARD);
    CHECK_EQ(tnm_pin(ctx, &use, 1, &p), TNM_OK);
    CHECK_EQ(tnm_unpin(ctx, &p, 1, 0), TNM_OK);
    use = rig_use(known, 0, TNM_READ);
    use.flags = TNM_IF_READY;
    CHECK_EQ(tnm_why(ctx, &use, 1, &why), TNM_OK);
    CHECK_EQ(why.result, TNM_OK);
    use.tier = 1;
    CHECK_EQ(tnm_why(ctx, &use, 1, &why), TNM_OK);
    CHECK_EQ(why.result, TNM_ABSENT);
    end();
}

/* A program that told its steps may have gone farther than a period can be long. */
TEST(a_recorded_pass_is_no_longer_than_a_period) {
    tnm_use use;
    tnm_pinned p;
    describe();
    create();
    use = rig_use(known, 0, TNM_DISCARD);
    CHECK_EQ(tnm_record(ctx, 0), TNM_OK);
    CHECK_EQ(tnm_step(ctx, 0, 0), TNM_OK);
    CHECK_EQ(tnm_pin(ctx, &use, 1, &p), TNM_OK);
    CHECK_EQ(tnm_unpin(ctx, &p, 1, 0), TNM_OK);
    CHECK_EQ(tnm_step(ctx, 0, UINT32_MAX), TNM_OK);
    REFUSED(tnm_replay, (ctx, 0));
    end();
}

TEST(no_memory_of_no_size) {
    describe();
    create();
    CHECK(tnmi_door_take(&ctx->desc, 0) == NULL);
    CHECK(tnmi_door_take(&ctx->desc, (uint64_t)SIZE_MAX / 2 + 1) == NULL);
    end();
}

/* Items without a listener: whatever an item has is printed, and nothing it has not. */
TEST(items_are_printed_with_what_they_have) {
    tnm_log log;
    memset(&log, 0, sizeof log);
    log.rule = "a test of what is printed";
    log.tier = -1;
    tnmi_door_print(&log);
    log.level = TNM_LOG_INFO;
    log.have = 5;
    log.label = "label";
    tnmi_door_print(&log);
    log.need = 7;
    log.have = 0;
    log.tier = 1;
    log.call = "tnm_test";
    tnmi_door_print(&log);
}

TEST(create_fails_at_every_allocation) {
    starve(0, 1);
    starve(16, 1);
    starve(0, 0);
    starve(16, 0); /* and takes its segments at create */
}

/* What clean bytes make room for is not kept waiting by a copy that has nothing to do with it. */
TEST(a_pin_that_needs_no_copy_waits_for_none) {
    enum { COUNT = 5 }; /* one more than there is room for */
    tnm_tensor tensor[COUNT];
    tnm_tensor_desc about;
    tnm_pinned p;
    tnm_result r;
    memset(&about, 0, sizeof about);
    about.bytes = ONE;
    describe();
    create();
    for (int i = 0; i < COUNT; i++) {
        CHECK_EQ(tnm_tensor_create(ctx, &about, &tensor[i]), TNM_OK);
        tnm_use use = rig_use(tensor[i], 0, TNM_DISCARD);
        if (i == COUNT - 1) { /* the first is below as well, the second on its way for ever */
            while ((r = tnm_flush(ctx, tensor[0], 1)) == TNM_PENDING)
                CHECK(tnm_wait(ctx) >= 0);
            CHECK_EQ(r, TNM_OK);
            give_up = 1;
            CHECK_EQ(tnm_flush(ctx, tensor[1], 1), TNM_PENDING);
            CHECK_EQ(tnm_pump(ctx, TNM_ALL), TNM_PENDING);
            seen = 0;
        }
        CHECK_EQ(tnm_pin(ctx, &use, 1, &p), TNM_OK);
        CHECK_EQ(tnm_unpin(ctx, &p, 1, 0), TNM_OK);
    }
    CHECK_EQ(seen & (1u << IN_WAIT | 1u << IN_IDLE), 0);
    CHECK_EQ(tnm_check(ctx), 0);
    give_up = 0;
    end();
}

int main(void) {
    RUN(from_a_callback_only_sight_is_allowed);
    RUN(no_callback_runs_under_the_lock);
    RUN(a_name_destroyed_while_its_pin_waits_is_stale);
    RUN(a_hit_takes_no_lock);
    RUN(nothing_works_without_a_context);
    RUN(arguments_of_tensors);
    RUN(arguments_of_views);
    RUN(arguments_of_uses);
    RUN(arguments_of_the_rest);
    RUN(odd_answers_of_a_backend_are_failures);
    RUN(no_headroom_no_alloc);
    RUN(idle_gives_up_and_the_copies_go_on);
    RUN(a_flood_of_items_is_counted_not_kept);
    RUN(a_pin_that_needs_no_copy_waits_for_none);
    RUN(a_pin_is_given_back_once);
    RUN(a_dump_ends_where_its_writer_does);
    RUN(why_of_nothing_and_of_what_is_here);
    RUN(a_recorded_pass_is_no_longer_than_a_period);
    RUN(no_memory_of_no_size);
    RUN(items_are_printed_with_what_they_have);
    RUN(create_fails_at_every_allocation);
    return check_done();
}
