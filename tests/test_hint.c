/* The room [hint] from inside: lanes, cycles, single uses and the next use that follows from them,
 * against a list of uses and nothing else. The calls feed the room, as they do in a program. */
#define TENSORMEM_IMPLEMENTATION
#include "../tensormem.h"
#include "sim.h"
#include "inside.h"

enum { TENSORS = 12, TIERS = 3, LANES = 3, MOST = 400 };

/* ---- the naive model: every use anybody has announced ---- */
typedef struct note {
    uint64_t step;
    int tensor, tier, lane, single, sure, live;
    tnm_access access;
} note;

static rig g;
static tnm_ctx *ctx;
static tnmi_hints *hints;
static tnm_tensor tensor[TENSORS];
static note notes[MOST];
static int noted;
static uint32_t period[TNM_MAX_LANES];
static uint64_t step_of[TNM_MAX_LANES], began[TNM_MAX_LANES];

/* tiers 0 and 1 both stand on tier 2 */
static int serves(int use, int tier) {
    return use == tier || tier == 2;
}

static void open_context(uint32_t max_tensors, uint32_t max_uses) {
    rig_start(&g, 1);
    for (int t = 0; t < TIERS; t++)
        rig_tier(&g, "tier", SIM_PLAIN, 0);
    g.tiers[0].spill_to = 2;
    g.desc.max_tensors = max_tensors;
    g.desc.max_uses = max_uses;
    rig_create(&g);
    ctx = g.ctx;
    hints = &ctx->e.hints;
    noted = 0;
    memset(period, 0, sizeof period);
    memset(step_of, 0, sizeof step_of);
}

static void close_context(void) {
    rig_end(&g);
}

static void new_tensor(int i) {
    tensor[i] = rig_tensor(&g, 64, 0);
}

static uint32_t slot_of(int i) {
    return slot_at(&ctx->e.tensors, tensor[i]);
}

static tnm_use use_of(int i, int tier, uint64_t step, uint32_t flags) {
    tnm_use use = rig_use(tensor[i], tier, TNM_READ);
    use.step = step;
    use.flags = flags;
    return use;
}

static void remember(const tnm_use *use, int i, int lane, int single) {
    note *n = &notes[noted++];
    CHECK(noted < MOST);
    n->step = use->step;
    n->tensor = i;
    n->tier = use->tier;
    n->lane = lane;
    n->single = single;
    n->sure = (use->flags & TNM_SURE) != 0;
    n->access = use->access;
    n->live = 1;
}

static void sweep(void) { /* the dead leave the list */
    int kept = 0;
    for (int k = 0; k < noted; k++)
        if (notes[k].live) notes[kept++] = notes[k];
    noted = kept;
}

/* ---- the calls, told to both ---- */
static void say_schedule(int lane, const tnm_use *uses, const int *of, int count, uint32_t every) {
    CHECK_EQ(tnm_schedule(ctx, (uint32_t)lane, uses, count, every), TNM_OK);
    for (int k = 0; k < noted; k++)
        if (notes[k].lane == lane && !notes[k].single) notes[k].live = 0;
    sweep();
    period[lane] = count ? every : 0;
    for (int k = 0; k < count; k++)
        remember(&uses[k], of[k], lane, 0);
}

static void say_step(int lane, uint64_t step) {
    CHECK_EQ(tnm_step(ctx, (uint32_t)lane, step), TNM_OK);
    step_of[lane] = step;
    began[lane] = ctx->e.clock;
    for (int k = 0; k < noted; k++)
        if (notes[k].lane == lane && notes[k].single && notes[k].step < step) notes[k].live = 0;
    sweep();
}

/* A guess gives way to any later word on its tensor, tier and lane; sure uses stand side by side,
 * once for each step. */
static void say_prefetch(int lane, int i, tnm_use use) {
    int known = 0;
    CHECK_EQ(tnm_prefetch(ctx, (uint32_t)lane, &use, 1), TNM_OK);
    if (use.step < step_of[lane]) use.step = step_of[lane]; /* past = now */
    for (int k = 0; k < noted; k++) {
        note *n = &notes[k];
        if (!n->single || n->lane != lane || n->tensor != i || n->tier != use.tier) continue;
        if (n->sure && n->step == use.step) known = 1;
    }
    for (int k = 0; k < noted && !known; k++) {
        note *n = &notes[k];
        if (!n->single || n->lane != lane || n->tensor != i || n->tier != use.tier) continue;
        if (!n->sure) n->live = 0;
    }
    sweep();
    if (!known) remember(&use, i, lane, 1);
}

static void say_cancel(int i) {
    CHECK_EQ(tnm_cancel(ctx, &tensor[i], 1), TNM_OK);
    for (int k = 0; k < noted; k++)
        if (notes[k].tensor == i && notes[k].single) notes[k].live = 0;
    sweep();
}

static void say_destroy(int i) {
    tnm_tensor old = tensor[i];
    CHECK_EQ(tnm_tensor_destroy(ctx, tensor[i]), TNM_OK);
    for (int k = 0; k < noted; k++)
        if (notes[k].tensor == i) notes[k].live = 0;
    sweep();
    new_tensor(i);
    CHECK(tensor[i].id != old.id);
}

/* ---- what must hold ---- */
static int is_note(const tnmi_use *use, const note *n) {
    return use->step == n->step && use->content == slot_of(n->tensor) && use->tier == n->tier &&
           use->lane == n->lane && ((use->flags & TNMI_USE_SINGLE) != 0) == n->single &&
           ((use->flags & TNMI_USE_SURE) != 0) == n->sure && use->access == n->access;
}

static uint32_t after(uint32_t use, int single) { /* a cycle is a list, single uses are a tree */
    return single ? tnmi_hint_after(hints, use) : tnmi_hint_use(hints, use)->next;
}

/* Every use of a lane's list is one of the notes, each once, in the order of steps. */
static void check_list(int lane, uint32_t head, int single) {
    int taken[MOST] = { 0 }, count = 0, want = 0;
    uint64_t before = 0;
    for (uint32_t u = head; u != TNMI_NONE; u = after(u, single)) {
        const tnmi_use *use = tnmi_hint_use(hints, u);
        int k = 0;
        while (k < noted && (taken[k] || !is_note(use, &notes[k])))
            k++;
        CHECK(k < noted);
        if (k < noted) taken[k] = 1;
        CHECK(use->lane == lane && ((use->flags & TNMI_USE_SINGLE) != 0) == single);
        CHECK(use->step >= before);
        before = use->step;
        if (++count > MOST) break;
    }
    for (int k = 0; k < noted; k++)
        want += notes[k].lane == lane && notes[k].single == single;
    CHECK_EQ(count, want);
}

static void check_lane(int lane) {
    const tnmi_lane *l = &hints->lane[lane];
    uint32_t want = TNMI_NONE, count = 0;
    check_list(lane, l->cycle, 0);
    check_list(lane, l->single, 1);
    CHECK_EQ(l->period, period[lane]);
    for (uint32_t u = l->cycle; u != TNMI_NONE; u = tnmi_hint_use(hints, u)->next) {
        uint64_t now = period[lane] ? step_of[lane] % period[lane] : 0;
        if (want == TNMI_NONE && tnmi_hint_use(hints, u)->step >= now) want = u;
        count++;
    }
    CHECK_EQ(l->cycle_count, count);
    CHECK_EQ(l->cursor, want); /* the first use of this step or later */
}

/* A content's list holds its uses and nobody else's. */
static void check_content(int i) {
    int count = 0, want = 0;
    uint32_t slot = slot_of(i);
    for (uint32_t u = tnmi_tensor_at(&ctx->e.tensors, slot)->use; u != TNMI_NONE;
         u = tnmi_hint_use(hints, u)->same) {
        CHECK_EQ(tnmi_hint_use(hints, u)->content, slot);
        if (++count > MOST) break;
    }
    for (int k = 0; k < noted; k++)
        want += notes[k].tensor == i;
    CHECK_EQ(count, want);
}

static uint64_t steps_until(const note *n, int used) {
    uint64_t now = step_of[n->lane], at = n->step;
    if (n->single) return at > now ? at - now : used ? UINT64_MAX : 0;
    for (uint64_t s = now + (uint64_t)(used != 0);; s++) /* the first step it falls on */
        if (s % period[n->lane] == at) return s - now;
}

/* Ticks until the tensor is needed on or through a tier, when it was last pinned at `stamp`. */
static uint64_t next_use(int i, int tier, uint64_t stamp) {
    uint64_t best = UINT64_MAX;
    for (int k = 0; k < noted; k++) {
        const note *n = &notes[k];
        if (n->tensor != i || !serves(n->tier, tier)) continue;
        uint64_t steps = steps_until(n, stamp >= began[n->lane]);
        if (steps == UINT64_MAX) continue;
        steps = steps * hints->lane[n->lane].pace / 16;
        if (steps < best) best = steps;
    }
    return best;
}

static void check_all(void) {
    uint64_t clock = ctx->e.clock, oldest = clock > 40 ? clock - 40 : 0;
    for (int lane = 0; lane < LANES; lane++)
        check_lane(lane);
    CHECK_EQ(hints->uses.live, noted);
    for (int i = 0; i < TENSORS; i++) {
        const tnmi_tensor *content = tnmi_tensor_at(&ctx->e.tensors, slot_of(i));
        uint64_t stamp = oldest + draw(41);
        check_content(i);
        for (int t = 0; t < TIERS; t++) {
            uint64_t got = tnmi_hint_distance(hints, content, ctx->e.below, (uint32_t)t, stamp);
            CHECK_EQ(got, next_use(i, t, stamp));
        }
    }
}

static void start(void) {
    open_context(0, 0);
    for (int i = 0; i < TENSORS; i++)
        new_tensor(i);
    for (int lane = 0; lane < LANES; lane++)
        say_step(lane, 0);
}

static void random_schedule(int lane) {
    tnm_use uses[24];
    int of[24], count = (int)draw(24);
    uint32_t every = 1 + draw(20);
    for (int k = 0; k < count; k++) {
        of[k] = (int)draw(TENSORS);
        uses[k] = use_of(of[k], (int)draw(TIERS), draw(every), 0);
        uses[k].access = (tnm_access)draw(3);
    }
    say_schedule(lane, uses, of, count, count ? every : draw(2));
}

static void random_call(void) {
    int lane = (int)draw(LANES), i = (int)draw(TENSORS);
    tnm_use use = use_of(i, (int)draw(TIERS), step_of[lane] + draw(12), draw(2) ? TNM_SURE : 0);
    switch (draw(16)) {
    case 0:
        random_schedule(lane);
        break;
    case 1: /* a jump */
        say_step(lane, step_of[lane] + draw(60));
        break;
    case 2: /* a restart */
        say_step(lane, step_of[lane] ? draw((uint32_t)step_of[lane]) : 0);
        break;
    case 3:
        say_cancel(i);
        break;
    case 4:
        say_destroy(i);
        break;
    case 5: /* an announcement of what is over */
        use.step = step_of[lane] / 2;
        say_prefetch(lane, i, use);
        break;
    case 6:
    case 7:
    case 8:
    case 9:
        if (noted < MOST - 80) say_prefetch(lane, i, use);
        break;
    case 10: /* work: the clock goes on */
        ctx->e.clock += draw(30);
        break;
    default:
        say_step(lane, step_of[lane] + 1);
    }
}

TEST(all_against_a_list_of_uses) {
    int rounds = check_scale(6000, 600);
    start();
    for (int round = 0; round < rounds; round++) {
        random_call();
        check_all();
    }
    CHECK_EQ(tnm_check(ctx), 0);
    close_context();
}

TEST(a_cycle_comes_round) {
    tnm_use uses[3];
    int of[3] = { 0, 1, 2 };
    start();
    uses[0] = use_of(0, 0, 0, 0);
    uses[1] = use_of(1, 0, 4, 0);
    uses[2] = use_of(2, 0, 9, 0);
    say_schedule(2, uses, of, 3, 10);
    for (uint64_t s = 1; s < 45; s++) {
        uint64_t before = ctx->e.clock; /* nothing was pinned yet in this step */
        say_step(2, s);
        CHECK_EQ(next_use(0, 0, before), (10 - s % 10) % 10);
        CHECK_EQ(next_use(1, 0, before), (14 - s % 10) % 10);
        check_all();
    }
    say_schedule(2, NULL, NULL, 0, 0); /* forgotten */
    CHECK(hints->lane[2].cycle == TNMI_NONE && hints->lane[2].period == 0);
    CHECK_EQ(hints->uses.live, 0);
    check_all();
    close_context();
}

static uint64_t distance_of(int i, int tier, uint64_t stamp) {
    const tnmi_tensor *content = tnmi_tensor_at(&ctx->e.tensors, slot_of(i));
    return tnmi_hint_distance(hints, content, ctx->e.below, (uint32_t)tier, stamp);
}

TEST(a_use_that_was_made_is_over_until_it_comes_again) {
    tnm_use uses[1];
    int of[1] = { 3 };
    start();
    uses[0] = use_of(3, 0, 5, 0);
    say_schedule(0, uses, of, 1, 8);
    say_prefetch(0, 4, use_of(4, 0, 5, 0));
    say_step(0, 5);
    CHECK_EQ(distance_of(3, 0, began[0] - 1), 0); /* now, and not pinned yet */
    CHECK_EQ(distance_of(4, 0, began[0] - 1), 0);
    CHECK_EQ(distance_of(3, 0, began[0]), 8 * hints->lane[0].pace / 16); /* a period on */
    CHECK(distance_of(4, 0, began[0]) == TNMI_NEVER);
    CHECK(distance_of(5, 0, 0) == TNMI_NEVER); /* nobody said anything */
    close_context();
}

TEST(a_use_reaches_down_its_own_spill_path_only) {
    start();
    say_prefetch(0, 0, use_of(0, 0, 6, 0));
    say_prefetch(0, 1, use_of(1, 1, 6, 0));
    say_prefetch(0, 2, use_of(2, 2, 6, 0));
    CHECK_EQ(distance_of(0, 0, 0), 6);
    CHECK_EQ(distance_of(0, 2, 0), 6);
    CHECK(distance_of(0, 1, 0) == TNMI_NEVER); /* a sibling */
    CHECK_EQ(distance_of(1, 1, 0), 6);
    CHECK_EQ(distance_of(1, 2, 0), 6);
    CHECK(distance_of(1, 0, 0) == TNMI_NEVER);
    CHECK_EQ(distance_of(2, 2, 0), 6);
    CHECK(distance_of(2, 0, 0) == TNMI_NEVER); /* not upwards */
    close_context();
}

TEST(guesses_replace_and_sure_uses_add_up) {
    start();
    for (uint64_t s = 3; s < 9; s++)
        say_prefetch(0, 0, use_of(0, 0, s, 0));
    CHECK_EQ(hints->uses.live, 1);
    CHECK_EQ(distance_of(0, 0, 0), 8); /* the last word */
    say_prefetch(0, 0, use_of(0, 1, 2, 0));
    CHECK_EQ(hints->uses.live, 2); /* another tier is another guess */
    for (uint64_t s = 3; s < 9; s++)
        say_prefetch(0, 1, use_of(1, 0, s, TNM_SURE));
    CHECK_EQ(hints->uses.live, 8);
    CHECK_EQ(distance_of(1, 0, 0), 3);
    say_prefetch(0, 1, use_of(1, 0, 5, TNM_SURE)); /* known */
    CHECK_EQ(hints->uses.live, 8);
    say_step(0, 4);
    CHECK_EQ(distance_of(1, 0, 0), 0);
    CHECK_EQ(hints->uses.live, 6); /* the guess of step 2 and the sure use of step 3 are over */
    check_all();
    say_cancel(1);
    CHECK_EQ(hints->uses.live, 1);
    CHECK(distance_of(1, 0, 0) == TNMI_NEVER);
    check_all();
    close_context();
}

TEST(cancel_never_takes_the_schedule) {
    tnm_use uses[2];
    int of[2] = { 0, 0 };
    start();
    uses[0] = use_of(0, 0, 2, 0);
    uses[1] = use_of(0, 1, 6, 0);
    say_schedule(0, uses, of, 2, 8);
    say_prefetch(0, 0, use_of(0, 0, 1, TNM_SURE));
    say_cancel(0);
    CHECK_EQ(hints->uses.live, 2);
    CHECK_EQ(distance_of(0, 0, 0), 2);
    check_all();
    say_destroy(0);
    CHECK_EQ(hints->uses.live, 0);
    CHECK_EQ(hints->lane[0].cycle_count, 0);
    check_all();
    close_context();
}

TEST(lanes_are_clocks_of_their_own) {
    start();
    say_step(0, 100);
    say_prefetch(0, 0, use_of(0, 0, 103, 0));
    say_prefetch(1, 0, use_of(0, 0, 50, 0));
    CHECK_EQ(hints->uses.live, 2); /* one guess a lane */
    say_step(0, 200);
    CHECK_EQ(hints->uses.live, 1);
    CHECK_EQ(distance_of(0, 0, 0), 50 * hints->lane[1].pace / 16);
    say_step(1, 49);
    check_all();
    say_step(1, 51);
    CHECK_EQ(hints->uses.live, 0);
    close_context();
}

TEST(a_distance_is_in_ticks_of_the_clock) {
    start();
    say_prefetch(1, 0, use_of(0, 0, 3, 0));
    CHECK_EQ(distance_of(0, 0, 0), 3); /* a step is a tick until something is known */
    for (uint64_t s = 1; s <= 40; s++) {
        ctx->e.clock += 99; /* and one for the step: a hundred ticks each */
        say_step(0, s);
    }
    say_prefetch(0, 1, use_of(1, 0, 47, 0));
    uint64_t before = distance_of(1, 0, 0); /* seven hundred; the pace follows in strides */
    CHECK(before >= 400 && before <= 1100);
    for (uint64_t s = 41; s <= 46; s++) { /* work gets slower: so do the steps, by and by */
        ctx->e.clock += 999;
        say_step(0, s);
    }
    CHECK(distance_of(1, 0, 0) > before / 7 && distance_of(1, 0, 0) <= 1100); /* one step now */
    ctx->e.clock += 5000;
    say_step(0, 48); /* a jump of five steps counts as five */
    CHECK(hints->lane[0].pace / 16 <= 1001);
    close_context();
}

TEST(a_step_is_never_less_than_a_tick) {
    start();
    for (uint64_t s = 1; s < 60; s++)
        say_step(0, s * 100); /* as fast as can be said */
    say_prefetch(0, 0, use_of(0, 0, 5907, 0));
    CHECK_EQ(distance_of(0, 0, 0), 7);
    close_context();
}

TEST(a_full_table_changes_nothing) {
    tnm_use uses[9];
    open_context(4, 8);
    new_tensor(0);
    for (int k = 0; k < 9; k++)
        uses[k] = use_of(0, 0, (uint64_t)k, TNM_SURE);
    CHECK_EQ(tnm_prefetch(ctx, 0, uses, 9), TNM_ERR_CAPACITY);
    CHECK_EQ(hints->uses.live, 0);
    CHECK_EQ(tnm_schedule(ctx, 0, uses, 9, 9), TNM_ERR_CAPACITY);
    CHECK_EQ(hints->uses.live, 0);
    for (int round = 0; round < 50; round++) { /* entries come back */
        CHECK_EQ(tnm_prefetch(ctx, 0, uses, 8), TNM_OK);
        CHECK_EQ(hints->uses.live, 8);
        CHECK_EQ(tnm_prefetch(ctx, 1, uses, 1), TNM_ERR_CAPACITY);
        CHECK_EQ(tnm_cancel(ctx, &tensor[0], 1), TNM_OK);
        CHECK_EQ(tnm_schedule(ctx, 1, uses, 8, 9), TNM_OK);
        CHECK_EQ(tnm_schedule(ctx, 1, NULL, 0, 0), TNM_OK);
        CHECK_EQ(hints->uses.live, 0);
    }
    close_context();
}

/* ---- habits ---- */
TEST(a_gap_is_kept_to_a_thousandth) {
    tnmi_habit habit;
    memset(&habit, 0, sizeof habit);
    for (uint64_t ticks = 0; ticks <= UINT32_MAX; ticks = ticks * 9 / 8 + 1) {
        tnmi_hint_set_gap(&habit, (uint32_t)ticks);
        CHECK(tnmi_hint_gap(&habit) <= ticks);
        CHECK(ticks - tnmi_hint_gap(&habit) <= ticks / 1024);
    }
    tnmi_hint_set_gap(&habit, UINT32_MAX);
    CHECK(UINT32_MAX - tnmi_hint_gap(&habit) <= UINT32_MAX / 1024);
}

TEST(gaps_that_agree_are_a_habit) {
    tnmi_habit even, odd, hits;
    uint64_t clock = ((uint64_t)1 << 48) - 500; /* the low half wraps on the way */
    memset(&even, 0, sizeof even);
    memset(&odd, 0, sizeof odd);
    memset(&hits, 0, sizeof hits);
    for (uint32_t i = 0; i < 12; i++) {
        tnmi_hint_learn(&even, clock + i * 100 + i % 3, 1);
        tnmi_hint_learn(&odd, clock + (i / 2) * 100 + i % 2, 1);
        if (i % 4 == 0) tnmi_hint_learn(&hits, clock + i * 100, i ? 4 : 1);
    }
    CHECK(tnmi_hint_gap(&even) >= 95 && tnmi_hint_gap(&even) <= 105);
    CHECK_EQ(tnmi_hint_agree(&even), 2);
    CHECK_EQ(tnmi_hint_agree(&odd), -1);
    CHECK_EQ(tnmi_hint_gap(&hits), 100); /* four at once tell their mean */
    CHECK_EQ(hits.uses, 9);
    for (uint32_t i = 0; i < 300; i++)
        tnmi_hint_learn(&even, clock + 1200 + i, 1);
    CHECK_EQ(even.uses, 255);
}

TEST(duels_say_whether_frequency_pays) {
    rig_start(&g, 1);
    for (int t = 0; t < 2; t++)
        rig_tier(&g, "tier", SIM_PLAIN, 0);
    g.desc.policy = TNM_POLICY_AUTO;
    rig_create(&g);
    tnmi_hints *h = &g.ctx->e.hints;
    tnm_tensor often = rig_tensor(&g, 64, 0), seldom = rig_tensor(&g, 64, 0);
    uint32_t a = slot_at(&g.ctx->e.tensors, often), b = slot_at(&g.ctx->e.tensors, seldom);
    rig_write(&g, often, 0, 1);
    for (int i = 0; i < 40; i++)
        rig_expect(&g, often, 0, 1);
    rig_write(&g, seldom, 0, 2);
    for (int i = 0; i < 30; i++) /* the older one is the one that is used often */
        g.ctx->e.clock++;
    const tnmi_replica *ra = tnmi_tensor_on(&g.ctx->e.tensors, a, 0);
    const tnmi_replica *rb = tnmi_tensor_on(&g.ctx->e.tensors, b, 0);
    for (int i = 0; i < 20; i++) { /* it leaves by age, and comes back first */
        tnmi_hint_fight(h, &g.ctx->e.tensors, 0, g.ctx->e.clock, ra, rb);
        CHECK_EQ(h->learned.duel[i].left, a);
        tnmi_hint_returns(h, &g.ctx->e.tensors, a);
        CHECK_EQ(h->learned.duel[i].left, 0);
    }
    CHECK(h->learned.by_frequency);
    for (int i = 0; i < 40; i++) { /* the other leaves by frequency, and comes back first */
        tnmi_hint_fight(h, &g.ctx->e.tensors, 0, g.ctx->e.clock, rb, ra);
        tnmi_hint_returns(h, &g.ctx->e.tensors, b);
    }
    CHECK(!h->learned.by_frequency);
    CHECK(h->falls >= 2);
    tnmi_hint_fight(h, &g.ctx->e.tensors, 0, g.ctx->e.clock, ra, rb);
    CHECK_EQ(tnm_tensor_destroy(g.ctx, seldom), TNM_OK); /* who stayed is a view by then */
    CHECK_EQ(slot_at(&g.ctx->e.tensors, rig_view(&g, often, 0, 8)), b);
    CHECK_EQ(tnmi_hint_last(h, &g.ctx->e.tensors, b, 0), 0);
    tnmi_hint_returns(h, &g.ctx->e.tensors, a);
    rig_end(&g);
}

TEST(what_is_foretold_is_bounded_and_goes_with_its_content) {
    static tnm_tensor many[TNMI_FORETOLD + 44];
    rig_start(&g, 1);
    rig_tier(&g, "tier", SIM_PLAIN, 0);
    g.desc.policy = TNM_POLICY_AUTO;
    g.desc.max_tensors = TNMI_FORETOLD + 44;
    g.desc.max_uses = 1;
    rig_create(&g);
    tnmi_hints *h = &g.ctx->e.hints;
    for (int i = 0; i < TNMI_FORETOLD + 44; i++) {
        many[i] = rig_tensor(&g, 64, 0);
        uint32_t c = slot_at(&g.ctx->e.tensors, many[i]);
        for (uint32_t k = 0; k < 6; k++)
            tnmi_hint_used(h, c, g.ctx->e.clock - 5000 + k * 1000, 1);
        tnmi_hint_foretell(h, &g.ctx->e.tensors, c, 0, g.ctx->e.clock);
    }
    CHECK_EQ(h->learned.foretold, TNMI_FORETOLD);
    CHECK_EQ(tnm_check(g.ctx), 0);
    CHECK_EQ(tnm_tensor_destroy(g.ctx, many[3]), TNM_OK);
    tnmi_hint_untell(h, &g.ctx->e.tensors, slot_at(&g.ctx->e.tensors, many[4]));
    CHECK_EQ(tnm_cancel(g.ctx, &many[5], 1), TNM_OK);
    CHECK_EQ(h->learned.foretold, TNMI_FORETOLD - 3);
    g.ctx->e.clock += 1500; /* what did not come is over */
    tnm_pump(g.ctx, TNM_ALL);
    CHECK_EQ(h->learned.foretold, 0);
    rig_end(&g);
}

TEST(what_is_foretold_needs_an_entry) {
    tnm_use uses[3];
    rig_start(&g, 1);
    rig_tier(&g, "tier", SIM_PLAIN, 0);
    g.desc.policy = TNM_POLICY_AUTO;
    rig_create(&g);
    tnmi_hints *h = &g.ctx->e.hints;
    tensor[0] = rig_tensor(&g, 64, 0);
    uint32_t c = slot_at(&g.ctx->e.tensors, tensor[0]), taken = 0;
    for (uint32_t k = 0; k < 6; k++)
        tnmi_hint_used(h, c, g.ctx->e.clock - 5000 + k * 1000, 1);
    for (int k = 0; k < 3; k++)
        uses[k] = use_of(0, 0, (uint64_t)k, TNM_SURE);
    CHECK_EQ(tnm_prefetch(g.ctx, 0, uses, 3), TNM_OK);
    while (tnmi_store_spare(&h->uses) > 0) /* nobody may wait for memory here */
        (void)tnmi_store_take(&h->uses), taken++;
    tnmi_hint_foretell(h, &g.ctx->e.tensors, c, 0, g.ctx->e.clock);
    CHECK_EQ(h->learned.foretold, 0);
    while (taken > 0)
        tnmi_store_give(&h->uses, h->uses.fresh - taken--);
    tnmi_hint_foretell(h, &g.ctx->e.tensors, c, 0, g.ctx->e.clock);
    CHECK_EQ(h->learned.foretold, 1);
    rig_end(&g);
}

/* More duels than there is room for: the oldest is judged by whether who stayed was used. */
TEST(an_old_duel_makes_room) {
    rig_start(&g, 1);
    for (int t = 0; t < 2; t++)
        rig_tier(&g, "tier", SIM_PLAIN, 0);
    g.desc.policy = TNM_POLICY_AUTO;
    rig_create(&g);
    tnmi_engine *e = &g.ctx->e;
    tnmi_hints *h = &e->hints;
    tnm_tensor often = rig_tensor(&g, 64, 0), seldom = rig_tensor(&g, 64, 0);
    uint32_t a = slot_at(&e->tensors, often), b = slot_at(&e->tensors, seldom);
    rig_write(&g, often, 0, 1);
    for (int i = 0; i < 40; i++)
        rig_expect(&g, often, 0, 1);
    rig_write(&g, seldom, 0, 2);
    for (int i = 0; i < 30; i++)
        e->clock++;
    const tnmi_replica *ra = tnmi_tensor_on(&e->tensors, a, 0);
    const tnmi_replica *rb = tnmi_tensor_on(&e->tensors, b, 0);
    for (int i = 0; i < TNMI_DUELS; i++)
        tnmi_hint_fight(h, &e->tensors, 0, e->clock, ra, rb);
    int32_t before = h->learned.score;
    tnmi_hint_fight(h, &e->tensors, 0, e->clock, ra, rb); /* nobody was used: nobody has won */
    CHECK_EQ(h->learned.score, before);
    h->learned.duel[h->learned.fought % TNMI_DUELS].last--; /* who stayed was used, who left not */
    tnmi_hint_fight(h, &e->tensors, 0, e->clock, ra, rb);
    CHECK(h->learned.score < before); /* age was right */
    rig_end(&g);
}

TEST(a_place_in_a_step_is_counted_so_far) {
    tnmi_use use;
    memset(&use, 0, sizeof use);
    tnmi_hint_put(&use, 7, 12);
    CHECK(tnmi_hint_set(&use) == 7 && tnmi_hint_place(&use) == 12);
    tnmi_hint_put(&use, 7, 100000);
    CHECK(tnmi_hint_set(&use) == 7 && tnmi_hint_place(&use) == TNMI_USE_PLACES - 1);
}

/* Another thread's step goes round the cycle while a new one is being put in its place: where the
 * cursor would stand is behind the end, and the walk for passed uses finds it. */
TEST(a_cycle_that_wraps_while_it_is_put_in) {
    tnm_use uses[2];
    uint32_t list = TNMI_NONE;
    open_context(4, 8);
    new_tensor(0);
    uses[0] = use_of(0, 0, 2, 0);
    uses[1] = use_of(0, 0, 7, 0);
    tnmi_lane *lane = &hints->lane[0];
    say_step(0, 5);
    CHECK_EQ(tnmi_door_gather(ctx, 0, uses, 2, "test", &list), TNM_OK);
    list = tnmi_hint_sort(hints, list);
    lane->period = 10;
    list = tnmi_hint_append(hints, &ctx->e.tensors, list, 0);
    CHECK_EQ(lane->cursor, TNMI_NONE); /* 2 has passed */
    tnmi_hint_step(hints, 0, 11, ctx->e.clock);
    CHECK(lane->wraps);
    list = tnmi_hint_append(hints, &ctx->e.tensors, list, 0);
    CHECK(list == TNMI_NONE && lane->cursor == TNMI_NONE);
    while (!tnmi_engine_pass(&ctx->e, 0, 100))
        continue;
    CHECK(!lane->wraps && lane->cursor != TNMI_NONE);
    CHECK_EQ(tnmi_hint_use(hints, lane->cursor)->step, 2);
    CHECK_EQ(tnm_check(ctx), 0);
    close_context();
}

/* Which set comes how many steps on? Where the walk over passed uses lags behind, as after a step
 * of hundreds, the set of the present step is found by its content, and is no step away. */
TEST(a_set_of_this_step_is_no_step_away) {
    tnm_pinned at;
    open_context(0, 0);
    CHECK_EQ(tnm_record(ctx, 0), TNM_OK);
    for (int i = 0; i < 4; i++) {
        new_tensor(i);
        tnm_use use = rig_use(tensor[i], 0, TNM_DISCARD);
        CHECK_EQ(tnm_pin(ctx, &use, 1, &at), TNM_OK);
        CHECK_EQ(tnm_unpin(ctx, &at, 1, 0), TNM_OK);
    }
    CHECK_EQ(tnm_replay(ctx, 0), TNM_OK);
    tnmi_lane *lane = &hints->lane[0];
    CHECK_EQ(lane->period, 4);
    lane->cursor = tnmi_hint_use(hints, tnmi_hint_use(hints, lane->cycle)->next)->next;
    lane->step = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t c = slot_of(i), name = tnmi_hint_name(0, c, 0);
        CHECK_EQ(tnmi_hint_advance(hints, &ctx->e.tensors, 0, name, c, 0), i);
    }
    lane->cursor = lane->cycle;
    close_context();
}

TEST(lanes_and_steps_are_checked) {
    tnm_use use;
    start();
    use = use_of(0, 0, 5, 0);
    CHECK_EQ(tnm_step(ctx, TNM_MAX_LANES, 0), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_prefetch(ctx, TNM_MAX_LANES, &use, 1), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_schedule(ctx, TNM_MAX_LANES, &use, 1, 6), TNM_ERR_ARGUMENT);
    CHECK_EQ(tnm_schedule(ctx, 0, &use, 1, 5), TNM_ERR_ARGUMENT); /* outside its period */
    CHECK_EQ(tnm_schedule(ctx, 0, &use, 1, 0), TNM_ERR_ARGUMENT);
    CHECK_EQ(hints->uses.live, 0);
    use.step = UINT64_MAX; /* as far ahead as there is: a distance does not wrap */
    ctx->e.clock += 1000;
    say_step(0, 1);
    CHECK_EQ(tnm_prefetch(ctx, 0, &use, 1), TNM_OK);
    CHECK(distance_of(0, 0, 0) > UINT64_MAX / 32);
    close_context();
}

int main(void) {
    RUN(all_against_a_list_of_uses);
    RUN(a_cycle_comes_round);
    RUN(a_use_that_was_made_is_over_until_it_comes_again);
    RUN(a_use_reaches_down_its_own_spill_path_only);
    RUN(guesses_replace_and_sure_uses_add_up);
    RUN(cancel_never_takes_the_schedule);
    RUN(lanes_are_clocks_of_their_own);
    RUN(a_distance_is_in_ticks_of_the_clock);
    RUN(a_step_is_never_less_than_a_tick);
    RUN(a_full_table_changes_nothing);
    RUN(a_gap_is_kept_to_a_thousandth);
    RUN(gaps_that_agree_are_a_habit);
    RUN(duels_say_whether_frequency_pays);
    RUN(what_is_foretold_is_bounded_and_goes_with_its_content);
    RUN(what_is_foretold_needs_an_entry);
    RUN(an_old_duel_makes_room);
    RUN(a_place_in_a_step_is_counted_so_far);
    RUN(a_cycle_that_wraps_while_it_is_put_in);
    RUN(a_set_of_this_step_is_no_step_away);
    RUN(lanes_and_steps_are_checked);
    return check_done();
}
