/* Many tensors from outside: what goes over all of them lets the lock go in between, goes on where
 * it was, and ends whatever it meets. No time is measured: locked intervals are counted. */
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "check.h"

enum { MANY = 20000, WIDE = 8 }; /* several steps of every walk */

static struct {
    tnm_ctx *ctx;
    tnm_tensor t[MANY];
    uint64_t holds;          /* how often the lock was taken */
    uint64_t most;           /* more than so often is for ever; 0 = no limit */
    void (*meanwhile)(void); /* what another thread does when it is let go */
    int locked;
} many;

static void lock(void *user) {
    (void)user;
    CHECK_EQ(many.locked++, 0);
    if (++many.holds != many.most) return;
    printf("a call does not end\n");
    exit(1);
}

static void unlock(void *user) {
    void (*meanwhile)(void) = many.meanwhile;
    (void)user;
    CHECK_EQ(--many.locked, 0);
    if (!meanwhile) return;
    many.meanwhile = NULL;
    meanwhile();
}

/* A context of these tiers, whose lock is counted. */
static void open_tiers(tnm_tier_desc *tiers, int count, void (*log)(void *, const tnm_log *)) {
    tnm_desc desc;
    memset(&desc, 0, sizeof desc);
    for (int i = 0; i < count; i++)
        tiers[i].alignment = WIDE;
    desc.tiers = tiers;
    desc.tier_count = count;
    desc.alloc = check_alloc;
    desc.release = check_release;
    desc.lock = lock;
    desc.unlock = unlock;
    desc.log = log;
    CHECK_EQ(tnm_create(&desc, &many.ctx), TNM_OK);
}

/* Two tiers; the fast one has one segment and room for `room` tensors. */
static void open_many(uint64_t room) {
    tnm_tier_desc tiers[2];
    memset(tiers, 0, sizeof tiers);
    tiers[0].name = "fast";
    tiers[0].budget_bytes = room * WIDE;
    tiers[1].name = "slow";
    open_tiers(tiers, 2, NULL);
}

static tnm_tensor tensor(void) {
    tnm_tensor_desc d;
    tnm_tensor t;
    memset(&d, 0, sizeof d);
    d.bytes = WIDE;
    CHECK_EQ(tnm_tensor_create(many.ctx, &d, &t), TNM_OK);
    return t;
}

static tnm_result pin(tnm_tensor t, int tier, tnm_access access, tnm_pinned *out) {
    tnm_use use;
    memset(&use, 0, sizeof use);
    use.tensor = t;
    use.tier = tier;
    use.access = access;
    return tnm_pin(many.ctx, &use, 1, out);
}

static void fill(int i) {
    tnm_pinned p;
    CHECK_EQ(pin(many.t[i], 0, TNM_DISCARD, &p), TNM_OK);
    memset(p.host, i & 0xff, WIDE);
    CHECK_EQ(tnm_unpin(many.ctx, &p, 1, 0), TNM_OK);
}

static void make_many(void) {
    for (int i = 0; i < MANY; i++) {
        many.t[i] = tensor();
        fill(i);
    }
}

static void expect_many(int step) {
    unsigned char got[WIDE];
    for (int i = 0; i < MANY; i += step) {
        CHECK_EQ(tnm_read(many.ctx, many.t[i], 0, got, WIDE), TNM_OK);
        CHECK_EQ(got[0], i & 0xff);
        CHECK_EQ(got[WIDE - 1], i & 0xff);
    }
}

static tnm_tier_stats stats(int tier) {
    tnm_tier_stats s;
    CHECK_EQ(tnm_stats(many.ctx, tier, &s), TNM_OK);
    return s;
}

static tnm_result shrink(uint64_t bytes) { /* as far as it goes */
    tnm_result r = TNM_PENDING;
    for (int i = 0; i < MANY && r == TNM_PENDING; i++) {
        r = tnm_set_budget(many.ctx, 0, bytes);
        if (r == TNM_PENDING) tnm_pump(many.ctx, TNM_ALL);
    }
    return r;
}

static void close_many(void) {
    CHECK_EQ(tnm_check(many.ctx), 0);
    CHECK_EQ(tnm_destroy(many.ctx), TNM_OK);
    CHECK_EQ(check_live_blocks(), 0);
}

TEST(a_segment_with_many_drains) {
    open_many(MANY);
    make_many();
    CHECK_EQ(stats(0).tensors, MANY);
    CHECK_EQ(shrink(0), TNM_OK);
    CHECK_EQ(stats(0).reserved_bytes, 0);
    CHECK_EQ(tnm_check(many.ctx), 0);
    expect_many(7);
    close_many();
}

/* More than a step of a walk that cannot leave, in front of all that can. */
TEST(a_drain_goes_on_behind_pins) {
    enum { PINS = 6000 };
    static tnm_pinned p[PINS];
    open_many(MANY);
    make_many();
    for (int i = 0; i < PINS; i++)
        CHECK_EQ(pin(many.t[i], 0, TNM_READ, &p[i]), TNM_OK);
    tnm_set_budget(many.ctx, 0, 0);
    for (int i = 0; i < 4 * MANY && stats(0).tensors > PINS; i++)
        tnm_pump(many.ctx, TNM_ALL);
    CHECK_EQ(stats(0).tensors, PINS);
    CHECK_EQ(tnm_set_budget(many.ctx, 0, 0), TNM_ERR_BUSY);
    CHECK_EQ(tnm_check(many.ctx), 0);
    for (int i = 0; i < PINS; i++)
        CHECK_EQ(tnm_unpin(many.ctx, &p[i], 1, 0), TNM_OK);
    CHECK_EQ(shrink(0), TNM_OK);
    expect_many(11);
    close_many();
}

/* Two tiers drain behind pins, and the first has as much to look at as one step, or two, reach: the
 * second comes to its end all the same, and with it the call that waits for neither. */
TEST(no_drain_keeps_another_from_its_end) {
    static tnm_pinned p[8202];
    for (int n = 4090; n < 8200; n += n == 4098 ? 4087 : 1) {
        tnm_tier_desc tiers[3];
        memset(tiers, 0, sizeof tiers);
        tiers[0].budget_bytes = (uint64_t)n * WIDE;
        tiers[1].budget_bytes = 64;
        open_tiers(tiers, 3, NULL);
        for (int i = 0; i <= n; i++)
            CHECK_EQ(pin(tensor(), i == n, TNM_DISCARD, &p[i]), TNM_OK);
        CHECK_EQ(tnm_set_budget(many.ctx, 0, WIDE), TNM_ERR_BUSY);
        CHECK_EQ(tnm_set_budget(many.ctx, 1, WIDE), TNM_ERR_BUSY);
        many.most = many.holds + 10000;
        CHECK_EQ(pin(tensor(), 2, TNM_DISCARD, &p[n + 1]), TNM_OK); /* its memory is asked for */
        many.most = 0;
        CHECK_EQ(tnm_unpin(many.ctx, p, n + 2, 0), TNM_OK);
        close_many();
    }
}

/* The budget comes back while a drain is under way: all gaps give room again. */
TEST(a_drain_that_is_called_off_gives_all_room_back) {
    open_many(MANY);
    make_many();
    for (int i = 0; i < MANY; i += 2)
        CHECK_EQ(tnm_tensor_destroy(many.ctx, many.t[i]), TNM_OK);
    tnm_set_budget(many.ctx, 0, MANY * WIDE / 2);
    for (int i = 0; i < 8; i++)
        tnm_pump(many.ctx, 64 * WIDE);
    tnm_set_budget(many.ctx, 0, MANY * WIDE);
    for (int i = 0; i < MANY; i += 2)
        many.t[i] = tensor();
    for (int i = 0; i < 64; i++)
        tnm_pump(many.ctx, TNM_ALL);
    CHECK_EQ(tnm_check(many.ctx), 0);
    uint64_t evictions = stats(0).evictions, tensors = stats(0).tensors;
    for (int i = 0; i < MANY && stats(0).tensors < MANY; i += 2, tensors++)
        fill(i);
    CHECK_EQ(stats(0).evictions, evictions);
    CHECK_EQ(stats(0).tensors, tensors);
    close_many();
}

/* ---- what goes over all lets the lock go in between ---- */
static tnm_result gone_copy(void *user, const tnm_span *dst, const tnm_span *src, uint64_t size,
                            uint64_t *ticket) {
    (void)ticket;
    if (*(const int *)user) return TNM_ERR_LOST;
    memcpy(dst->host, src->host, (size_t)size);
    return TNM_OK;
}

static tnm_result gone_alloc(void *user, uint64_t size, uint64_t align, void *item, uint64_t *mem,
                             void **host) {
    (void)user;
    (void)align;
    (void)item;
    *host = check_alloc(NULL, (size_t)size);
    *mem = (uint64_t)(uintptr_t)*host;
    return *host ? TNM_OK : TNM_ERR_MEMORY;
}

static void gone_release(void *user, uint64_t mem, uint64_t size) {
    (void)user;
    check_release(NULL, (void *)(uintptr_t)mem, (size_t)size);
}

static uint64_t holds_since(uint64_t before) {
    return many.holds - before;
}

static void nowhere(void *user, const tnm_log *item) {
    (void)user;
    (void)item;
}

static int count_rows(void *user, const char *text, uint64_t bytes) {
    for (uint64_t i = 0; i < bytes; i++)
        *(uint64_t *)user += text[i] == '\n';
    return 0;
}

TEST(sight_of_many_is_cut_into_steps) {
    uint64_t before, rows = 0;
    tnm_use use;
    tnm_shortage shortage;
    tnm_writer writer;
    memset(&use, 0, sizeof use);
    memset(&writer, 0, sizeof writer);
    writer.user = &rows;
    writer.write = count_rows;
    open_many(MANY);
    make_many();
    before = many.holds;
    CHECK_EQ(stats(0).tensors, MANY);
    CHECK(holds_since(before) > MANY / 1024);
    CHECK_EQ(stats(0).dirty_bytes, MANY * WIDE);
    use.tensor = many.t[0];
    before = many.holds;
    CHECK_EQ(tnm_why(many.ctx, &use, 1, &shortage), TNM_OK);
    CHECK(holds_since(before) > MANY / 1024);
    CHECK_EQ(shortage.result, TNM_OK);
    CHECK_EQ(shortage.pinned_bytes, 0);
    CHECK_EQ(shortage.largest_gap_bytes, MANY * WIDE);
    CHECK_EQ(tnm_dump(many.ctx, TNM_DUMP_JSON, &writer), TNM_OK);
    CHECK(rows > MANY);
    before = many.holds;
    CHECK_EQ(tnm_check(many.ctx), 0); /* the one that is not: O(all) in one hold */
    CHECK_EQ(holds_since(before), 1);
    before = many.holds;
    CHECK_EQ(tnm_destroy(many.ctx), TNM_OK);
    CHECK(holds_since(before) > 2 * MANY / 1024);
    CHECK_EQ(check_live_blocks(), 0);
}

TEST(a_flush_of_many_goes_on_where_it_was) {
    tnm_tensor all = { 0 };
    tnm_result r;
    int calls = 0;
    open_many(MANY);
    make_many();
    do {
        uint64_t before = many.holds;
        r = tnm_flush(many.ctx, all, 1);
        CHECK(holds_since(before) > 1);
        tnm_pump(many.ctx, TNM_ALL);
    } while (r == TNM_PENDING && ++calls < MANY);
    CHECK_EQ(r, TNM_OK);
    CHECK(calls < MANY / 500); /* each starts many, and none begins anew */
    CHECK_EQ(stats(0).dirty_bytes, 0);
    CHECK_EQ(stats(1).tensors, MANY);
    close_many();
}

/* Two tiers whose backends, when `gone`, say that their memory is. Half of the tensors lie on both,
 * half on the first alone. */
static int gone;

static void open_lossy(void) {
    tnm_tier_desc tiers[2];
    tnm_tensor all = { 0 };
    memset(tiers, 0, sizeof tiers);
    gone = 0;
    for (int t = 0; t < 2; t++) {
        tiers[t].name = "tier";
        tiers[t].backend.alloc = gone_alloc;
        tiers[t].backend.release = gone_release;
        tiers[t].backend.copy = gone_copy;
        tiers[t].backend.user = &gone;
    }
    open_tiers(tiers, 2, nowhere);
    for (int i = 0; i < MANY / 2; i++) {
        many.t[i] = tensor();
        fill(i);
    }
    while (tnm_flush(many.ctx, all, 1) == TNM_PENDING)
        tnm_pump(many.ctx, TNM_ALL);
    for (int i = MANY / 2; i < MANY; i++) {
        many.t[i] = tensor();
        fill(i);
    }
}

TEST(a_tier_with_many_is_lost_in_steps) {
    tnm_pinned p;
    open_lossy();
    gone = 1;
    uint64_t before = many.holds;
    CHECK_EQ(tnm_flush(many.ctx, many.t[MANY - 1], 1), TNM_PENDING);
    tnm_pump(many.ctx, TNM_ALL); /* the copy down says LOST: the destination's backend goes */
    CHECK(holds_since(before) > MANY / 2 / 1024);
    gone = 0;
    CHECK_EQ(stats(1).tensors, 0);
    CHECK_EQ(tnm_check(many.ctx), 0);
    expect_many(13);                                   /* all of it is still above */
    CHECK_EQ(pin(many.t[0], 1, TNM_READ, &p), TNM_OK); /* and the tier starts empty */
    CHECK_EQ(tnm_unpin(many.ctx, &p, 1, 0), TNM_OK);
    CHECK_EQ(stats(1).tensors, 1);
    close_many();
}

static tnm_state state(int i, int tier) {
    tnm_tensor_info info;
    CHECK_EQ(tnm_info(many.ctx, many.t[i], tier, &info), TNM_OK);
    return info.state;
}

static int between; /* how often something was asked for in the middle of a loss */

/* What lies on both tiers, one of which is being lost, leaves the other; it is written there, so
 * that the other's went. */
static void ask_amid_the_loss(void) {
    const int last = MANY / 2 - 1;
    tnm_pinned p;
    tnm_use use;
    if (state(0, 1) != TNM_STATE_ABSENT || state(last - 1, 1) != TNM_STATE_READY) {
        many.meanwhile = ask_amid_the_loss;
        return;
    }
    gone = 0;
    between++;
    CHECK_EQ(tnm_evict(many.ctx, many.t[last - 1], 0), TNM_PENDING);
    memset(&use, 0, sizeof use);
    use.tensor = many.t[last];
    use.tier = 1;
    use.access = TNM_WRITE;
    CHECK_EQ(tnm_try_pin(many.ctx, &use, 1, &p), TNM_PENDING);
}

TEST(what_a_loss_will_take_is_nobodys_only_copy) {
    unsigned char got[WIDE];
    open_lossy();
    gone = 1;
    between = 0;
    CHECK_EQ(tnm_flush(many.ctx, many.t[MANY - 1], 1), TNM_PENDING);
    many.meanwhile = ask_amid_the_loss;
    tnm_pump(many.ctx, TNM_ALL);
    many.meanwhile = NULL;
    CHECK_EQ(between, 1);
    CHECK_EQ(tnm_check(many.ctx), 0);
    for (int i = MANY / 2 - 2; i < MANY / 2; i++) {
        CHECK_EQ(tnm_read(many.ctx, many.t[i], 0, got, WIDE), TNM_OK);
        CHECK_EQ(got[0], i & 0xff);
    }
    close_many();
}

/* While a table grows for a flush or an eviction, its tensor ends, and its slot is a view's. */
static int evicts, same_slot;
static tnm_tensor whole;

static void end_it(void) {
    CHECK_EQ(tnm_tensor_destroy(many.ctx, many.t[0]), TNM_OK);
}

static void end_and_view(void) {
    tnm_tensor_desc d;
    tnm_tensor view;
    CHECK_EQ(tnm_tensor_destroy(many.ctx, many.t[0]), TNM_OK);
    memset(&d, 0, sizeof d);
    d.bytes = WIDE / 2;
    CHECK_EQ(tnm_tensor_view(many.ctx, whole, (uint64_t)1 << 29, &d, &view), TNM_OK);
    same_slot = (uint32_t)view.id == (uint32_t)many.t[0].id;
}

TEST(a_flush_whose_tensor_ends_leaves_its_successor_alone) {
    tnm_tensor_desc d;
    memset(&d, 0, sizeof d);
    d.bytes = (uint64_t)1 << 30; /* it never holds any */
    for (evicts = 0; evicts < 2; evicts++) {
        open_many(64);
        many.t[0] = tensor();
        fill(0);
        CHECK_EQ(tnm_tensor_create(many.ctx, &d, &whole), TNM_OK);
        many.meanwhile = end_and_view;
        CHECK_EQ(evicts ? tnm_evict(many.ctx, many.t[0], 0) : tnm_flush(many.ctx, many.t[0], 1),
                 TNM_ERR_STALE);
        CHECK(many.meanwhile == NULL && same_slot);
        CHECK_EQ(stats(0).tensors, 0);
        close_many();
    }
}

static int letting_go; /* how often the lock is let go before the tensor ends */
static int views;

static void end_later(void) {
    if (--letting_go > 0)
        many.meanwhile = end_later;
    else if (views)
        end_and_view();
    else
        end_it();
}

static tnm_result ask(int kind) {
    static unsigned char bytes[WIDE];
    tnm_pinned p;
    tnm_use use;
    tnm_shortage why;
    tnm_result r;
    memset(&use, 0, sizeof use);
    use.tensor = many.t[0];
    use.access = TNM_DISCARD;
    if (kind == 0) return tnm_write(many.ctx, many.t[0], 0, bytes, WIDE);
    if (kind == 1) return tnm_why(many.ctx, &use, 1, &why);
    if (kind == 2) return tnm_schedule(many.ctx, 0, &use, 1, 1);
    r = kind == 3 ? tnm_pin(many.ctx, &use, 1, &p) : tnm_try_pin(many.ctx, &use, 1, &p);
    if (r == TNM_OK) CHECK_EQ(tnm_unpin(many.ctx, &p, 1, 0), TNM_OK);
    return r;
}

/* Wherever a call lets the lock go, its tensor may end there, and its slot be a view's. */
TEST(a_call_whose_tensor_ends_fails) {
    tnm_tensor_desc d;
    memset(&d, 0, sizeof d);
    d.bytes = (uint64_t)1 << 30;
    for (int kind = 0; kind < 5; kind++)
        for (int at = 1, more = 1; more && at < 64; at++)
            for (views = 0; views < 2; views++) {
                open_many(64);
                CHECK_EQ(tnm_tensor_create(many.ctx, &d, &whole), TNM_OK);
                many.t[0] = tensor();
                letting_go = at;
                many.meanwhile = end_later;
                tnm_result r = ask(kind);
                more = many.meanwhile == NULL;
                many.meanwhile = NULL;
                CHECK(r == TNM_OK || r == TNM_PENDING || r == TNM_ERR_STALE);
                CHECK(at != 1 || r == TNM_ERR_STALE);
                close_many();
            }
}

/* ---- foresight of many: a cycle goes and comes in pieces ---- */
enum { USES = 2 * TNMI_PIECE + 3, GROUPS = 3 }; /* the cycle before, the new one, another's */

static tnm_use foreseen[GROUPS][USES];

static void foresee(int group, int i) {
    tnm_use *use = &foreseen[group][i];
    memset(use, 0, sizeof *use);
    use->tensor = many.t[group * USES + i];
    use->step = (uint64_t)(USES - 1 - i) / 2;
}

static tnm_result schedule(int group) {
    return tnm_schedule(many.ctx, 0, foreseen[group], USES, USES);
}

/* How many of a group's tensors have a next use. */
static int foretold(int group) {
    tnm_tensor_info info;
    int count = 0;
    for (int i = 0; i < USES; i++) {
        CHECK_EQ(tnm_info(many.ctx, foreseen[group][i].tensor, 0, &info), TNM_OK);
        count += info.next_use != UINT64_MAX;
    }
    return count;
}

static void pin_group(int group) {
    tnm_pinned p;
    for (int i = 0; i < USES; i++) {
        CHECK_EQ(pin(foreseen[group][i].tensor, 0, TNM_READ, &p), TNM_OK);
        CHECK_EQ(tnm_unpin(many.ctx, &p, 1, 0), TNM_OK);
    }
}

static int action, gone;

/* The first, the last and one in between, whose slots have other contents at once. */
static void others_take_the_slots(void) {
    static const int at[] = { 0, USES / 2, USES - 1 };
    for (int g = 0; g < 2; g++)
        for (int k = 0; k < 3; k++) {
            int i = g * USES + at[k];
            CHECK_EQ(tnm_tensor_destroy(many.ctx, many.t[i]), TNM_OK);
            many.t[i] = tensor();
            fill(i);
        }
    for (int g = 0; g < 2; g++) /* what the call was told it reads no more, or finds stale */
        for (int k = 0; k < 3; k++)
            foresee(g, at[k]);
    gone = 3;
}

static void act(void) {
    CHECK_EQ(tnm_check(many.ctx), 0);
    if (action == 0) others_take_the_slots();
    if (action == 1) CHECK_EQ(schedule(2), TNM_OK);
    if (action == 2) CHECK_EQ(tnm_schedule(many.ctx, 0, NULL, 0, 0), TNM_OK);
    if (action == 3) CHECK_EQ(tnm_step(many.ctx, 0, USES / 3), TNM_OK);
    if (action == 4) {
        CHECK_EQ(tnm_record(many.ctx, 0), TNM_OK);
        pin_group(2);
        CHECK_EQ(tnm_replay(many.ctx, 0), TNM_OK);
    }
    if (action == 5) CHECK(tnm_set_budget(many.ctx, 0, 0) >= 0);
    tnm_pump(many.ctx, TNM_ALL);
    CHECK_EQ(tnm_check(many.ctx), 0);
}

static void act_later(void) {
    if (--letting_go > 0)
        many.meanwhile = act_later;
    else
        act();
}

enum { SCHEDULES, FORGETS, REPLAYS, STEPS };

/* The call, and something else at its at-th pause. 0 = it has no such pause. */
static int interrupted(int call, int at) {
    static tnm_use told[USES];
    tnm_result r;
    open_many(GROUPS * USES);
    gone = 0;
    for (int i = 0; i < GROUPS * USES; i++) {
        many.t[i] = tensor();
        fill(i);
        foresee(i / USES, i % USES);
    }
    CHECK_EQ(schedule(0), TNM_OK);
    CHECK_EQ(tnm_step(many.ctx, 0, 1), TNM_OK);
    if (call == REPLAYS) {
        CHECK_EQ(tnm_record(many.ctx, 0), TNM_OK);
        pin_group(1);
    }
    letting_go = at;
    many.meanwhile = act_later;
    memcpy(told, foreseen[1], sizeof told);
    if (call == SCHEDULES)
        r = tnm_schedule(many.ctx, 0, told, USES, USES);
    else if (call == FORGETS)
        r = tnm_schedule(many.ctx, 0, NULL, 0, 0);
    else
        r = call == REPLAYS ? tnm_replay(many.ctx, 0) : tnm_step(many.ctx, 0, USES / 2);
    int acted = many.meanwhile == NULL;
    many.meanwhile = NULL;
    CHECK_EQ(tnm_check(many.ctx), 0);
    int before = foretold(0), new_ = foretold(1), other = foretold(2), stale = r == TNM_ERR_STALE;
    CHECK(r == TNM_OK || (call == SCHEDULES && action == 0 && stale));
    if (call == STEPS || stale) {
        CHECK(before == USES - gone || (before == 0 && acted));
    } else {
        int mine = call == FORGETS ? 0 : USES - gone; /* or what was told after it stands */
        CHECK_EQ(before, 0);
        CHECK((new_ == mine && other == 0) ||
              (acted && new_ == 0 && (other == USES || other == 0)));
    }
    CHECK(action == 1 || action == 4 || other == 0);
    CHECK_EQ(schedule(2), TNM_OK);
    CHECK(foretold(0) + foretold(1) == 0 && foretold(2) == USES);
    CHECK_EQ(tnm_schedule(many.ctx, 0, NULL, 0, 0), TNM_OK);
    CHECK_EQ(many.ctx->e.hints.uses.live, 0);
    close_many();
    return acted;
}

TEST(anything_may_happen_while_a_cycle_comes_or_goes) {
    for (int call = SCHEDULES; call <= STEPS; call++)
        for (action = 0; action < 6; action++) {
            int pauses = 0;
            while (interrupted(call, pauses + 1))
                pauses++;
            CHECK(pauses > 0);
        }
}

/* Its holds are as many as its uses ask for, and end when all of it is one tensor's, too. */
TEST(a_cycle_of_one_tensor_comes_and_goes) {
    open_many(64);
    many.t[0] = tensor();
    fill(0);
    for (int i = 0; i < USES; i++) {
        foresee(0, i);
        foreseen[0][i].tensor = many.t[0];
    }
    for (int forget = 0; forget < 2; forget++) {
        many.holds = 0;
        CHECK_EQ(tnm_schedule(many.ctx, 0, foreseen[0], forget ? 0 : USES, USES), TNM_OK);
        CHECK(many.holds > USES / TNMI_PIECE);
        CHECK_EQ(tnm_check(many.ctx), 0);
    }
    close_many();
}

int main(void) {
    RUN(sight_of_many_is_cut_into_steps);
    RUN(a_flush_of_many_goes_on_where_it_was);
    RUN(a_tier_with_many_is_lost_in_steps);
    RUN(a_flush_whose_tensor_ends_leaves_its_successor_alone);
    RUN(a_call_whose_tensor_ends_fails);
    RUN(anything_may_happen_while_a_cycle_comes_or_goes);
    RUN(a_cycle_of_one_tensor_comes_and_goes);
    RUN(what_a_loss_will_take_is_nobodys_only_copy);
    RUN(a_segment_with_many_drains);
    RUN(a_drain_goes_on_behind_pins);
    RUN(no_drain_keeps_another_from_its_end);
    RUN(a_drain_that_is_called_off_gives_all_room_back);
    return check_done();
}
