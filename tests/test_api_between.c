/* Another thread's calls, from outside, in every moment in which a call lets the lock go. One
 * thread does all of it: the lock is the application's, and what the other thread does is done
 * where it is let go, so that each such moment is tried, and each run is the same. */
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "sim.h"

enum { WIDE = 2048, TENSORS = 12 };

static rig g;
static int locked;              /* by one at a time */
static int moments;             /* until the other thread does its work; 0 = it does none */
static void (*meanwhile)(void); /* that */
static int nested;              /* it is at it */

static void lock(void *user) {
    (void)user;
    CHECK_EQ(locked++, 0);
}

static void unlock(void *user) {
    (void)user;
    CHECK_EQ(--locked, 0);
    if (nested || moments == 0 || --moments > 0) return;
    nested = 1;
    meanwhile();
    nested = 0;
}

/* who drives is in the outer call, and cannot get on: a nested one that waits gives up */
static int idle(void *user, uint64_t rounds) {
    return nested ? 1 : sim_idle(user, rounds);
}

static void start_rig(uint64_t seed) {
    moments = nested = 0;
    rig_start(&g, seed);
    g.desc.lock = lock;
    g.desc.unlock = unlock;
    g.desc.idle = idle;
}

static void open_rig(void) {
    start_rig(1);
    rig_pair(&g, SIM_PLAIN, rig_room(3, WIDE));
}

/* Runs `call` once for each moment: `what` happens in the first, in the second .., until there are
 * no more. `begin` and `end` stand around each time. */
static void in_each_moment(void (*begin)(void), void (*what)(void), void (*call)(void)) {
    int at = 1;
    for (int more = 1; more && at < 1000; at++) {
        begin();
        meanwhile = what;
        moments = at;
        call();
        more = moments == 0;
        moments = 0;
        rig_end(&g);
    }
    CHECK(at > 3 && at < 1000); /* it was let go more than once */
}

static void use_names_up(void) { /* the next name needs a table to grow */
    while (tnmi_store_spare(&g.ctx->e.tensors.names) > 0)
        rig_tensor(&g, WIDE, 0);
}

/* ---- adopted memory takes a name, a record and a region, all at once ---- */
static uint64_t lent;
static int regions; /* the other thread adopts from a region of its own each time */

static tnm_tensor adopt(void *user) {
    tnm_adopt_desc a = sim_lent(&g.sim.device[1], lent, 0);
    a.user = user;
    return rig_adopt(&g, &a, WIDE);
}

static void begin_adopting(void) {
    open_rig();
    lent = sim_lend(&g.sim.device[1], WIDE);
    sim_fill(sim_find(&g.sim.device[1], lent)->at, 5, 0, WIDE);
    use_names_up();
}

static void adopt_the_rest(void) {
    const tnmi_table *table =
        regions ? &g.ctx->e.tensors.regions : &g.ctx->e.tensors.on[1].replicas;
    char *user = NULL;
    do
        adopt(regions ? ++user : NULL);
    while (tnmi_store_spare(table) > 0);
}

static void adopt_one(void) {
    rig_expect(&g, adopt(&g), 0, 5);
}

TEST(what_is_adopted_has_all_it_takes) {
    for (regions = 0; regions < 2; regions++)
        in_each_moment(begin_adopting, adopt_the_rest, adopt_one);
}

/* ---- a failure that is told once is told to the one who asks ---- */
static tnm_tensor t[TENSORS];
static tnm_result told;

static void begin_failed(void) {
    open_rig();
    t[0] = rig_tensor(&g, WIDE, 0);
    rig_write(&g, t[0], 0, 1);
    sim_break(&g.sim, SIM_COPY, 1, 0);
    for (int i = 0; i < 9 && g.sim.fired == 0; i++) {
        CHECK_EQ(tnm_flush(g.ctx, t[0], 1), TNM_PENDING);
        rig_pump(&g, 1);
    }
    CHECK_EQ(g.sim.fired, 1);
    use_names_up();
    told = TNM_ERR_BACKEND;
}

static void flush_it(void) {
    told = tnm_flush(g.ctx, t[0], 1);
}

static void name_one(void) {
    rig_tensor(&g, WIDE, 0);
    CHECK_EQ(told, TNM_ERR_BACKEND);
}

TEST(a_failure_is_told_while_a_table_grows) {
    in_each_moment(begin_failed, flush_it, name_one);
}

/* ---- a question claims nothing, whoever gets on meanwhile ---- */
static void begin_below(void) {
    open_rig();
    t[0] = rig_tensor(&g, WIDE, 0);
    rig_write(&g, t[0], 1, 1);
}

static void get_on(void) {
    rig_pump(&g, 20);
}

static void ask_why(void) {
    tnm_use use = rig_use(t[0], 0, TNM_READ);
    tnm_shortage why;
    tnm_result r;
    CHECK_EQ(tnm_why(g.ctx, &use, 1, &why), TNM_OK);
    rig_rest(&g);
    RIG_UNTIL(r, &g, tnm_evict(g.ctx, t[0], 0));
    CHECK_EQ(r, TNM_OK);
}

TEST(a_question_claims_nothing) {
    in_each_moment(begin_below, get_on, ask_why);
}

/* ---- a first write in part leaves what was written meanwhile ---- */
static int wrote;

static void begin_empty(void) {
    open_rig();
    rig_make(&g, t + 1, 1, WIDE, 0); /* the fast tier has its memory; the slow one has none */
    t[0] = rig_tensor(&g, WIDE, 0);
    wrote = 0;
}

static void write_all(void) {
    tnm_pinned p;
    if (rig_pin(&g, t[0], 0, TNM_DISCARD, &p) != TNM_OK) return;
    sim_fill(sim_at(&g.sim, &p), 7, 0, p.bytes);
    CHECK_EQ(rig_unpin(&g, &p, 0), TNM_OK);
    wrote = 1;
}

static void write_part(void) {
    uint8_t part[WIDE / 2], back[WIDE];
    sim_fill(part, 3, 0, sizeof part);
    CHECK_EQ(tnm_write(g.ctx, t[0], 0, part, sizeof part), TNM_OK);
    int left = moments;
    moments = 0;
    CHECK_EQ(tnm_read(g.ctx, t[0], 0, back, WIDE), TNM_OK);
    moments = left;
    CHECK(sim_same(back, 3, 0, sizeof part) || (wrote && sim_same(back, 7, 0, sizeof part)));
    if (wrote)
        CHECK(sim_same(back + sizeof part, 7, sizeof part, WIDE - sizeof part));
    else
        CHECK(sim_all(back + sizeof part, 0, WIDE - sizeof part));
}

TEST(a_first_write_leaves_what_was_written_meanwhile) {
    in_each_moment(begin_empty, write_all, write_part);
}

static void write_rest(void) {
    uint8_t rest[WIDE / 2];
    sim_fill(rest, 9, WIDE / 2, sizeof rest);
    wrote = tnm_write(g.ctx, t[0], WIDE / 2, rest, sizeof rest) == TNM_OK;
}

static void write_front(void) {
    uint8_t part[WIDE / 2], back[WIDE];
    sim_fill(part, 3, 0, sizeof part);
    CHECK_EQ(tnm_write(g.ctx, t[0], 0, part, sizeof part), TNM_OK);
    int left = moments;
    moments = 0;
    CHECK_EQ(tnm_read(g.ctx, t[0], 0, back, WIDE), TNM_OK);
    moments = left;
    CHECK(sim_same(back, 3, 0, sizeof part));
    if (wrote)
        CHECK(sim_same(back + sizeof part, 9, sizeof part, WIDE - sizeof part));
    else
        CHECK(sim_all(back + sizeof part, 0, WIDE - sizeof part));
}

TEST(two_first_writes_in_part_leave_each_other) {
    in_each_moment(begin_empty, write_rest, write_front);
}

/* ---- a view is there as long as its own name is ---- */
static void begin_viewed(void) { /* what is adopted has come without a request */
    tnm_adopt_desc a;
    open_rig();
    lent = sim_lend(&g.sim.device[1], WIDE);
    sim_fill(sim_find(&g.sim.device[1], lent)->at, 5, 0, WIDE);
    a = sim_lent(&g.sim.device[1], lent, 0);
    a.writable = 1;
    t[0] = rig_adopt(&g, &a, WIDE);
    t[1] = rig_view(&g, t[0], 8, WIDE - 8);
}

static void end_the_first_name(void) {
    CHECK_EQ(tnm_tensor_destroy(g.ctx, t[0]), TNM_OK);
}

static void read_view(void) {
    uint8_t back[WIDE - 8];
    CHECK_EQ(tnm_read(g.ctx, t[1], 0, back, sizeof back), TNM_OK);
    CHECK(sim_same(back, 5, 8, sizeof back));
}

static void write_view(void) {
    uint8_t byte = 1, back = 0;
    CHECK_EQ(tnm_write(g.ctx, t[1], 9, &byte, 1), TNM_OK);
    CHECK_EQ(tnm_read(g.ctx, t[1], 9, &back, 1), TNM_OK);
    CHECK_EQ(back, byte);
}

TEST(a_view_outlives_the_first_name_in_a_call) {
    in_each_moment(begin_viewed, end_the_first_name, read_view);
    in_each_moment(begin_viewed, end_the_first_name, write_view);
}

/* ---- IF_READY starts nothing ---- */
static void begin_ready(void) {
    tnm_result r;
    open_rig();
    t[0] = rig_tensor(&g, WIDE, TNM_ONCE); /* a pin of it takes the slow way */
    rig_write(&g, t[0], 1, 1);
    rig_pump(&g, 2);
    RIG_UNTIL(r, &g, tnm_flush(g.ctx, t[0], 1));
    tnm_use use = rig_use(t[0], 0, TNM_READ);
    CHECK(tnm_prefetch(g.ctx, 0, &use, 1) >= 0);
    rig_pump(&g, 9);
    CHECK_EQ(rig_state(&g, t[0], 0), TNM_STATE_READY);
}

static void take_it_away(void) {
    tnm_evict(g.ctx, t[0], 0);
}

static void pin_if_ready(void) { /* a set for which the table of members has to grow */
    tnm_use use[1024];
    tnm_pinned p[1024];
    int count = (int)tnmi_store_spare(&g.ctx->e.members) + 1;
    CHECK(count <= 1024);
    for (int i = 0; i < count; i++) {
        use[i] = rig_use(t[0], 0, TNM_READ);
        use[i].flags = TNM_IF_READY;
    }
    tnm_result r = tnm_try_pin(g.ctx, use, count, p);
    CHECK(r == TNM_OK || r == TNM_ABSENT);
    if (r == TNM_OK)
        CHECK_EQ(tnm_unpin(g.ctx, p, count, 0), TNM_OK);
    else
        CHECK_EQ(rig_state(&g, t[0], 0), TNM_STATE_ABSENT);
}

/* ---- a budget is told what keeps a tier above it now, not what another call has seen ---- */
enum { LITTLE = 256, MANY = 400 };

static tnm_tensor little[MANY];
static tnm_pinned held[MANY];
static int told_apart;

static void begin_pinned(void) {
    start_rig(1);
    rig_pair(&g, SIM_PLAIN, rig_room(MANY, LITTLE));
    rig_make(&g, little, MANY, LITTLE, 0);
    for (int i = 0; i < MANY; i++) {
        tnm_use use = rig_use(little[i], 0, TNM_READ);
        CHECK_EQ(tnm_pin(g.ctx, &use, 1, &held[i]), TNM_OK);
    }
}

/* What the other call has looked at is let go; what it has not is pinned as it was. */
static void let_go_what_was_seen(void) {
    const tnmi_heap *order = &g.ctx->e.tensors.on[0].order;
    uint32_t seen[TNMI_PIECE];
    for (uint32_t i = 0; i < TNMI_PIECE; i++)
        seen[i] =
            tnmi_space_node(&g.ctx->e.tiers.tier[0].space, tnmi_store_slot(order, i)->owner)->a;
    for (int i = 0; i < MANY; i++)
        for (uint32_t k = 0; k < TNMI_PIECE; k++)
            if (held[i].id && (uint32_t)held[i].id == seen[k])
                CHECK_EQ(tnm_unpin(g.ctx, &held[i], 1, 0), TNM_OK);
    tnm_result r = rig_budget(&g, 0, 0);
    CHECK(r == TNM_PENDING || r == TNM_OK); /* most of it may leave */
    told_apart += r == TNM_PENDING;
}

static void shrink_to_nothing(int moment) {
    meanwhile = let_go_what_was_seen;
    moments = moment;
    tnm_result r = rig_budget(&g, 0, 0);
    CHECK(r == TNM_ERR_BUSY || r == TNM_PENDING);
    moments = 0;
    for (int i = 0; i < MANY; i++)
        if (held[i].id) CHECK_EQ(tnm_unpin(g.ctx, &held[i], 1, 0), TNM_OK);
    RIG_UNTIL(r, &g, rig_budget(&g, 0, 0));
    CHECK_EQ(r, TNM_OK);
    rig_expect(&g, little[MANY - 1], 1, MANY - 1);
}

TEST(a_budget_is_told_what_is) {
    told_apart = 0;
    for (int moment = 1; moment < 4; moment++) {
        begin_pinned();
        shrink_to_nothing(moment);
        rig_end(&g);
    }
    CHECK(told_apart > 0);
}

TEST(a_pin_if_ready_starts_nothing) {
    in_each_moment(begin_ready, take_it_away, pin_if_ready);
}

/* ---- whatever it does, whenever: calls by chance within calls by chance ---- */
static uint64_t chance, keys;
static uint64_t key[TENSORS];  /* of the payload; 0 = there is no such tensor */
static uint64_t made[TENSORS]; /* which content this is, under whatever name */
static int moved[TENSORS];     /* a tnm_read or tnm_write of it runs: nobody else writes */

static int draw(uint64_t below) {
    return (int)check_draw(&chance, below);
}

static int is(int i, uint64_t was) { /* still the same? */
    return key[i] > 0 && made[i] == was;
}

static void look(int i, uint64_t was, tnm_pinned *p) {
    if (is(i, was) && !moved[i]) CHECK(sim_same(sim_at(&g.sim, p), key[i], 0, p->bytes));
}

static void expect_result(tnm_result r) {
    if (r != TNM_ERR_STALE && r != TNM_ERR_BUSY && r != TNM_ERR_BUDGET) CHECK_EQ(r < 0 ? r : 0, 0);
}

static void make_or_end(int i, int tier) {
    tnm_pinned p;
    tnm_tensor fresh = t[i];
    if (key[i] > 0) {
        key[i] = 0;
        CHECK_EQ(tnm_tensor_destroy(g.ctx, fresh), TNM_OK);
        return;
    }
    fresh = rig_tensor(&g, 1 + (uint64_t)draw(WIDE), draw(4) ? 0 : TNM_ONCE);
    tnm_result r = rig_pin(&g, fresh, tier, TNM_DISCARD, &p);
    expect_result(r);
    if (r == TNM_OK) sim_fill(sim_at(&g.sim, &p), ++keys, 0, p.bytes);
    uint64_t mine = keys;
    if (r == TNM_OK) CHECK_EQ(rig_unpin(&g, &p, 0), TNM_OK);
    if (r == TNM_OK && key[i] == 0) {
        made[i] = key[i] = mine;
        t[i] = fresh;
    } else
        CHECK_EQ(tnm_tensor_destroy(g.ctx, fresh), TNM_OK);
}

static void pin_one(int i, int tier, tnm_access access) {
    tnm_pinned p;
    uint64_t was = made[i];
    tnm_result r =
        draw(2) ? rig_try(&g, t[i], tier, access, &p) : rig_pin(&g, t[i], tier, access, &p);
    expect_result(r);
    if (r != TNM_OK) return;
    look(i, was, &p);
    if (access == TNM_WRITE && !moved[i]) {
        sim_fill(sim_at(&g.sim, &p), ++keys, 0, p.bytes);
        if (is(i, was)) key[i] = keys;
    }
    uint64_t fence = access == TNM_READ && draw(3) == 0 ? TNM_FENCE(0, g.sim.now[0] + 1) : 0;
    CHECK_EQ(rig_unpin(&g, &p, fence), TNM_OK);
}

static void pin_some(int i) {
    tnm_use use[3];
    tnm_pinned p[3];
    int at[3];
    uint64_t was[3];
    for (int n = 0; n < 3; n++) {
        at[n] = key[(i + n) % TENSORS] > 0 ? (i + n) % TENSORS : i;
        was[n] = made[at[n]];
        use[n] = rig_use(t[at[n]], draw(2), TNM_READ);
    }
    tnm_result r = draw(2) ? tnm_pin(g.ctx, use, 3, p) : tnm_try_pin(g.ctx, use, 3, p);
    expect_result(r);
    for (int n = 0; r == TNM_OK && n < 3; n++)
        look(at[n], was[n], &p[n]);
    if (r == TNM_OK) CHECK_EQ(tnm_unpin(g.ctx, p, 3, 0), TNM_OK);
}

static void read_or_write(int i) {
    static uint8_t bytes[2][WIDE];
    tnm_tensor it = t[i];
    uint64_t was = made[i], size = rig_info(&g, it, 0).bytes, mine;
    uint8_t *at = bytes[nested];
    int writes = draw(2);
    if (moved[i]) return;
    mine = ++keys;
    sim_fill(at, mine, 0, size);
    moved[i] = 1;
    tnm_result r = writes ? tnm_write(g.ctx, it, 0, at, size) : tnm_read(g.ctx, it, 0, at, size);
    moved[i] = 0;
    expect_result(r);
    if (r == TNM_OK && is(i, was) && writes) key[i] = mine;
    if (r == TNM_OK && is(i, was) && !writes) CHECK(sim_same(at, key[i], 0, size));
}

static void foresee(int i, int tier) {
    tnm_use use = rig_use(t[i], tier, TNM_READ);
    uint32_t lane = (uint32_t)draw(2);
    tnm_result r = TNM_OK;
    switch (draw(5)) {
    case 0:
        r = tnm_prefetch(g.ctx, lane, &use, 1);
        break;
    case 1:
        r = tnm_schedule(g.ctx, lane, &use, 1, 1);
        break;
    case 2:
        CHECK_EQ(tnm_record(g.ctx, lane), TNM_OK);
        break;
    case 3:
        tnm_replay(g.ctx, lane); /* ARGUMENT if nothing was recorded */
        break;
    default:
        CHECK_EQ(tnm_step(g.ctx, lane, (uint64_t)draw(9)), TNM_OK);
    }
    expect_result(r);
}

static void view_instead(int i) {
    tnm_tensor_desc d;
    tnm_tensor it = t[i], view;
    memset(&d, 0, sizeof d);
    d.bytes = rig_info(&g, it, 0).bytes;
    tnm_result r = tnm_tensor_view(g.ctx, it, 0, &d, &view);
    expect_result(r);
    if (r != TNM_OK) return;
    if (key[i] > 0 && t[i].id == it.id) {
        t[i] = view;
        view = it;
    }
    CHECK_EQ(tnm_tensor_destroy(g.ctx, view), TNM_OK);
}

static void push_about(int i, int tier) {
    tnm_use use = rig_use(t[i], tier, TNM_READ);
    tnm_shortage why;
    tnm_tensor all = { 0 };
    switch (draw(7)) {
    case 0:
        expect_result(tnm_evict(g.ctx, t[i], tier));
        break;
    case 1:
        expect_result(tnm_flush(g.ctx, draw(2) ? t[i] : all, tier));
        break;
    case 2:
        g.sim.device[0].limit = rig_room(4, WIDE);
        expect_result(tnm_set_budget(g.ctx, 0, rig_room(3 + (uint64_t)draw(2), WIDE)));
        break;
    case 3:
        expect_result(tnm_why(g.ctx, &use, 1, &why));
        break;
    case 4:
        expect_result(tnm_cancel(g.ctx, &t[i], 1));
        break;
    case 5:
        g.sim.now[0]++;
        tnm_pump(g.ctx, draw(2) ? TNM_ALL : 512);
        break;
    default:
        expect_result(tnm_advise(g.ctx, t[i], draw(2) ? TNM_KEEP : TNM_WONT_NEED));
    }
}

static void some_call(void) {
    int i = draw(TENSORS), tier = draw(2), what = draw(10);
    if (key[i] == 0 || what == 0)
        make_or_end(i, tier);
    else if (what < 4)
        pin_one(i, tier, what == 1 ? TNM_WRITE : TNM_READ);
    else if (what == 4)
        pin_some(i);
    else if (what == 5)
        read_or_write(i);
    else if (what == 6)
        foresee(i, tier);
    else if (what == 7)
        view_instead(i);
    else
        push_about(i, tier);
}

static void some_call_meanwhile(void) {
    some_call();
    CHECK_EQ(tnm_check(g.ctx), 0);
    if (draw(2)) moments = 1 + draw(9);
}

static void open_any(int round) {
    static const int kinds[] = { SIM_PLAIN, SIM_PLAIN | SIM_ASYNC, SIM_HIDDEN | SIM_ASYNC };
    static const uint64_t segments[] = { 0, 2 * WIDE, TNM_DEDICATED };
    start_rig((uint64_t)round);
    g.desc.policy = round & 1 ? TNM_POLICY_AUTO : TNM_POLICY_LRU;
    rig_tier(&g, "fast", kinds[round % 3], rig_room(4, WIDE));
    rig_tier(&g, "slow", SIM_PLAIN, 0);
    g.tiers[0].segment_bytes = segments[round / 3 % 3];
    rig_create(&g);
}

TEST(calls_within_calls) {
    int rounds = check_scale(400, 40), before = check_bad;
    for (int round = 0; round < rounds && check_bad == before; round++) {
        chance = (uint64_t)round * 2 + 1;
        memset(key, 0, sizeof key);
        open_any(round);
        for (int call = 0; call < 200; call++) {
            meanwhile = some_call_meanwhile;
            moments = draw(3) ? 1 + draw(9) : 0;
            some_call();
            moments = 0;
            CHECK_EQ(tnm_check(g.ctx), 0);
        }
        rig_end(&g);
        if (check_bad > before) printf("calls_within_calls: round %d\n", round);
    }
}

int main(void) {
    RUN(what_is_adopted_has_all_it_takes);
    RUN(a_failure_is_told_while_a_table_grows);
    RUN(a_question_claims_nothing);
    RUN(a_first_write_leaves_what_was_written_meanwhile);
    RUN(two_first_writes_in_part_leave_each_other);
    RUN(a_view_outlives_the_first_name_in_a_call);
    RUN(a_budget_is_told_what_is);
    RUN(a_pin_if_ready_starts_nothing);
    RUN(calls_within_calls);
    return check_done();
}
