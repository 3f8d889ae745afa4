/* Another thread's calls, from outside, in every moment in which a call lets the lock go. One
 * thread does all of it: the lock is the application's, and what the other thread does is done
 * where it is let go, so that each such moment is tried, and each run is the same. */
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "sim.h"

enum { SIZE = 2048, TENSORS = 12 };

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

static void open_rig(uint64_t seed, int kind, uint64_t budget) {
    moments = nested = 0;
    rig_start(&g, seed);
    g.desc.lock = lock;
    g.desc.unlock = unlock;
    g.desc.idle = idle;
    rig_pair(&g, kind, budget);
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
        rig_tensor(&g, SIZE, 0);
}

/* ---- adopted memory takes a name, a record and a region, all at once ---- */
static uint64_t lent;
static int regions; /* the other thread adopts from a region of its own each time */

static tnm_tensor adopt(void *user) {
    tnm_adopt_desc a = sim_lent(&g.sim.device[1], lent, 0);
    a.user = user;
    return rig_adopt(&g, &a, SIZE);
}

static void begin_adopting(void) {
    open_rig(1, SIM_PLAIN, rig_room(3, SIZE));
    lent = sim_lend(&g.sim.device[1], SIZE);
    sim_fill(sim_find(&g.sim.device[1], lent)->at, 5, 0, SIZE);
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
    open_rig(1, SIM_PLAIN, rig_room(3, SIZE));
    t[0] = rig_tensor(&g, SIZE, 0);
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
    rig_tensor(&g, SIZE, 0);
    CHECK_EQ(told, TNM_ERR_BACKEND);
}

TEST(a_failure_is_told_while_a_table_grows) {
    in_each_moment(begin_failed, flush_it, name_one);
}

/* ---- a question claims nothing, whoever gets on meanwhile ---- */
static void begin_below(void) {
    open_rig(1, SIM_PLAIN, rig_room(3, SIZE));
    t[0] = rig_tensor(&g, SIZE, 0);
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
    open_rig(1, SIM_PLAIN, rig_room(3, SIZE));
    rig_make(&g, t + 1, 1, SIZE, 0); /* the fast tier has its memory; the slow one has none */
    t[0] = rig_tensor(&g, SIZE, 0);
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
    uint8_t part[SIZE / 2], back[SIZE];
    sim_fill(part, 3, 0, sizeof part);
    CHECK_EQ(tnm_write(g.ctx, t[0], 0, part, sizeof part), TNM_OK);
    int left = moments;
    moments = 0;
    CHECK_EQ(tnm_read(g.ctx, t[0], 0, back, SIZE), TNM_OK);
    moments = left;
    CHECK(sim_same(back, 3, 0, sizeof part) || (wrote && sim_same(back, 7, 0, sizeof part)));
    if (wrote)
        CHECK(sim_same(back + sizeof part, 7, sizeof part, SIZE - sizeof part));
    else
        CHECK(sim_all(back + sizeof part, 0, SIZE - sizeof part));
}

TEST(a_first_write_leaves_what_was_written_meanwhile) {
    in_each_moment(begin_empty, write_all, write_part);
}

/* ---- a view is there as long as its own name is ---- */
static void begin_viewed(void) { /* what is adopted has come without a request */
    tnm_adopt_desc a;
    open_rig(1, SIM_PLAIN, rig_room(3, SIZE));
    lent = sim_lend(&g.sim.device[1], SIZE);
    sim_fill(sim_find(&g.sim.device[1], lent)->at, 5, 0, SIZE);
    a = sim_lent(&g.sim.device[1], lent, 0);
    a.writable = 1;
    t[0] = rig_adopt(&g, &a, SIZE);
    t[1] = rig_view(&g, t[0], 8, SIZE - 8);
}

static void end_the_first_name(void) {
    CHECK_EQ(tnm_tensor_destroy(g.ctx, t[0]), TNM_OK);
}

static void read_view(void) {
    uint8_t back[SIZE - 8];
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
    open_rig(1, SIM_PLAIN, rig_room(3, SIZE));
    t[0] = rig_tensor(&g, SIZE, TNM_ONCE); /* a pin of it takes the slow way */
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

TEST(a_pin_if_ready_starts_nothing) {
    in_each_moment(begin_ready, take_it_away, pin_if_ready);
}

int main(void) {
    RUN(what_is_adopted_has_all_it_takes);
    RUN(a_failure_is_told_while_a_table_grows);
    RUN(a_question_claims_nothing);
    RUN(a_first_write_leaves_what_was_written_meanwhile);
    RUN(a_view_outlives_the_first_name_in_a_call);
    RUN(a_pin_if_ready_starts_nothing);
    return check_done();
}
