/* needs: tensormem.o */
/* Stats, dumps, the pump's allowance, log and trace from outside. P9. */
#define _POSIX_C_SOURCE 200809L
#include "tensormem.h"
#include "sim.h"

enum { KIB = 1024, ONE = 8 * KIB, TEXT = 1 << 20 };

static char text[TEXT];
static uint64_t text_used, text_calls, text_stop;

static int gather(void *user, const char *what, uint64_t bytes) {
    CHECK(user == (void *)text);
    if (text_stop > 0 && ++text_calls >= text_stop) return 1;
    CHECK(text_used + bytes < TEXT);
    memcpy(text + text_used, what, (size_t)bytes);
    text_used += bytes;
    text[text_used] = '\0';
    return 0;
}

static tnm_result dump(rig *g, tnm_dump_format format) {
    tnm_writer w = { gather, NULL };
    w.user = text;
    text_used = text_calls = 0;
    text[0] = '\0';
    return tnm_dump(g->ctx, format, &w);
}

static tnm_tensor t[8];

static void busy_rig(rig *g, int kind) {
    tnm_tensor_desc d;
    rig_pair(g, kind, rig_room(3, ONE));
    memset(&d, 0, sizeof d);
    d.bytes = ONE;
    for (int i = 0; i < 6; i++) {
        d.label = i == 2 ? "a \"quoted\"\\ \n\x01 label" : i == 3 ? NULL : "blk.0.ffn_up";
        CHECK_EQ(tnm_tensor_create(g->ctx, &d, &t[i]), TNM_OK);
        if (i < 5) rig_write(g, t[i], 0, (uint64_t)i);
    }
}

#if defined(_WIN32) || defined(__wasm__)
#    define SHELL(line) ((void)(line), -1) /* there is none */
#else
#    define SHELL(line) system(line)
#endif

static int have_python(void) {
    return SHELL("python3 -c 'import json' >/dev/null 2>&1") == 0;
}

static int is_json(void) {
    const char *path = "build/dump_test.json";
    char line[200];
    FILE *f = fopen(path, "wb");
    if (f == NULL) f = fopen(path = "/tmp/tensormem_dump_test.json", "wb");
    CHECK(f != NULL);
    if (f == NULL) return 0;
    CHECK_EQ(fwrite(text, 1, (size_t)text_used, f), text_used);
    fclose(f);
    snprintf(line, sizeof line, "python3 -c 'import json; json.load(open(\"%s\"))'", path);
    return SHELL(line) == 0;
}

TEST(dump_as_json) {
    static rig g;
    tnm_pinned p;
    tnm_use u;
    if (!have_python()) {
        printf("  python3 is not here: JSON is not parsed\n");
        return;
    }
    rig_start(&g, 1);
    busy_rig(&g, SIM_HIDDEN | SIM_ASYNC);
    CHECK_EQ(rig_pin(&g, t[2], 0, TNM_READ, &p), TNM_OK);
    CHECK_EQ(rig_unpin(&g, &p, TNM_FENCE(0, 3)), TNM_OK);
    u = rig_use(t[1], 0, TNM_READ);
    CHECK(tnm_prefetch(g.ctx, 0, &u, 1) >= 0);
    tnm_pump(g.ctx, 2 * KIB);
    CHECK_EQ(dump(&g, TNM_DUMP_JSON), TNM_OK);
    CHECK(strstr(text, "blk.0.ffn_up") != NULL);
    CHECK(is_json());
    rig_end(&g);
    rig_start(&g, 1);
    rig_pair(&g, SIM_PLAIN, 0); /* nothing in it */
    CHECK_EQ(dump(&g, TNM_DUMP_JSON), TNM_OK);
    CHECK(is_json());
    rig_end(&g);
}

EACH(a_writer_can_stop_a_dump) {
    busy_rig(g, kind);
    for (text_stop = 1; text_stop < 4; text_stop++)
        CHECK_EQ(dump(g, TNM_DUMP_JSON), TNM_ERR_BACKEND);
    text_stop = 0;
    CHECK_EQ(tnm_check(g->ctx), 0);
    rig_end(g);
}

EACH(stats_add_up) {
    tnm_tier_stats s;
    tnm_pinned p;
    busy_rig(g, kind);
    CHECK_EQ(rig_pin(g, t[0], 0, TNM_READ, &p), TNM_OK);
    s = rig_stats(g, 0);
    CHECK_EQ(s.budget_bytes, rig_room(3, ONE));
    CHECK(s.pinned_bytes >= ONE && s.pinned_bytes <= s.used_bytes);
    CHECK(s.used_bytes <= s.reserved_bytes && s.reserved_bytes <= s.peak_bytes);
    CHECK(s.peak_bytes <= s.budget_bytes);
    CHECK_EQ(s.hits + s.misses + s.late, 6); /* five writes and this pin */
    CHECK_EQ(s.tensors, 3);
    CHECK(s.bytes_in >= ONE && s.bytes_out >= 3 * ONE);
    CHECK(s.evictions >= 3 && s.evictions_clean <= s.evictions);
    CHECK_EQ(s.failures, 0);
    s = rig_stats(g, 1);
    CHECK_EQ(s.budget_bytes, UINT64_MAX);
    CHECK(s.bytes_in >= 3 * ONE);
    CHECK_EQ(s.dirty_bytes, 0); /* a bottom replica is never dirty */
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    CHECK_EQ(rig_stats(g, 0).pinned_bytes, 0);
    rig_end(g);
}

EACH(pump_starts_no_more_than_it_was_given) {
    tnm_pinned p;
    tnm_result r = TNM_PENDING;
    rig_pair(g, kind, rig_room(3, ONE));
    t[0] = rig_tensor(g, ONE, 0);
    rig_write(g, t[0], 1, 1);
    for (int i = 0; i < 200 && r == TNM_PENDING; i++) {
        uint64_t before;
        r = rig_try(g, t[0], 0, TNM_READ, &p);
        before = g->sim.accepted_bytes;
        if (r == TNM_PENDING) tnm_pump(g->ctx, 700);
        CHECK(g->sim.accepted_bytes - before <= 700);
    }
    CHECK_EQ(r, TNM_OK); /* and it always got on */
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_end(g);
}

/* ---- trace ---- */
static uint64_t traced_run(rig *g, int kind, uint64_t *events) {
    uint64_t hash;
    rig_start(g, 42);
    g->desc.trace = sim_trace;
    g->sim.delay = 7;
    rig_pair(g, kind, rig_room(2, ONE));
    for (int i = 0; i < 6; i++) {
        t[i] = rig_tensor(g, ONE - (uint64_t)i * 10, 0);
        rig_write(g, t[i], 0, (uint64_t)i);
    }
    for (int i = 0; i < 20; i++) {
        tnm_use u = rig_use(t[(i + 2) % 6], 0, TNM_READ);
        u.step = (uint64_t)i;
        CHECK(tnm_prefetch(g->ctx, 0, &u, 1) >= 0);
        tnm_pump(g->ctx, 3000);
        rig_expect(g, t[i * 5 % 6], 0, (uint64_t)(i * 5 % 6));
    }
    rig_end(g);
    hash = g->sim.trace_hash;
    *events = g->sim.events;
    return hash;
}

EACH(same_calls_same_trace) { /* P9: byte for byte, wherever malloc puts things */
    uint64_t n[2], hash = traced_run(g, kind, &n[0]);
    void *noise = malloc(12345);
    CHECK_EQ(traced_run(g, kind, &n[1]), hash);
    CHECK_EQ(n[0], n[1]);
    CHECK(n[0] > 50);
    CHECK(g->sim.seen[TNM_EVENT_PIN] >= 26);
    CHECK_EQ(g->sim.seen[TNM_EVENT_PIN], g->sim.seen[TNM_EVENT_UNPIN]);
    CHECK_EQ(g->sim.seen[TNM_EVENT_COPY_BEGIN], g->sim.seen[TNM_EVENT_COPY_END]);
    CHECK(g->sim.seen[TNM_EVENT_LEAVE] > 0 && g->sim.seen[TNM_EVENT_READY] > 0);
    CHECK_EQ(g->sim.seen[TNM_EVENT_SEGMENT] > 0, 1);
    free(noise);
}

EACH(failures_are_told) {
    tnm_pinned p;
    tnm_tensor_info info;
    tnm_use u;
    rig_pair(g, kind, rig_room(2, ONE));
    t[0] = rig_tensor(g, ONE, 0);
    rig_write(g, t[0], 1, 1);
    sim_break(&g->sim, SIM_COPY, 1, 1);
    u = rig_use(t[0], 0, TNM_READ);
    CHECK(tnm_prefetch(g->ctx, 0, &u, 1) >= 0); /* one that nobody joins */
    for (int i = 0; i < 20; i++)
        CHECK(tnm_pump(g->ctx, TNM_ALL) >= 0);
    CHECK(rig_stats(g, 0).failures > 0);
    CHECK(g->sim.logs[TNM_LOG_WARNING] + g->sim.logs[TNM_LOG_ERROR] > 0);
    CHECK_EQ(tnm_info(g->ctx, t[0], 0, &info), TNM_OK);
    CHECK_EQ(info.last_error, TNM_ERR_BACKEND);
    CHECK_EQ(rig_pin(g, t[0], 0, TNM_READ, &p), TNM_ERR_BACKEND); /* its own attempt */
    g->sim.fault_at = 0;
    CHECK_EQ(rig_pin(g, t[0], 0, TNM_READ, &p), TNM_OK);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_end(g);
}

EACH(no_prefetch_makes_way_for_what_pins_forbid) { /* and why knows it */
    tnm_pinned held, p;
    tnm_use use;
    tnm_shortage why;
    rig_pair(g, kind, rig_room(2, ONE));
    rig_make(g, t, 2, ONE, 1);
    t[2] = rig_tensor(g, 2 * ONE, 0);
    rig_write(g, t[2], 1, 2);
    CHECK_EQ(rig_pin(g, t[0], 0, TNM_READ, &held), TNM_OK);
    use = rig_use(t[1], 0, TNM_READ);
    CHECK(tnm_prefetch(g->ctx, 0, &use, 1) >= 0);
    tnm_pump(g->ctx, 0);
    CHECK_EQ(rig_state(g, t[1], 0), TNM_STATE_BUSY);
    use = rig_use(t[2], 0, TNM_READ);
    CHECK_EQ(tnm_why(g->ctx, &use, 1, &why), TNM_OK);
    CHECK_EQ(why.result, TNM_ERR_BUDGET);
    CHECK_EQ(rig_try(g, t[2], 0, TNM_READ, &p), TNM_ERR_BUDGET);
    CHECK_EQ(rig_state(g, t[1], 0), TNM_STATE_BUSY);
    CHECK_EQ(rig_unpin(g, &held, 0), TNM_OK);
    rig_expect(g, t[2], 0, 2);
    rig_end(g);
}

EACH(why_knows_which_segments_pins_keep) { /* and no other is emptied in vain */
    tnm_pinned held[2], p;
    tnm_shortage why;
    rig_tier(g, "fast", kind, rig_room(4, ONE));
    rig_tier(g, "slow", SIM_PLAIN, 0);
    g->tiers[0].segment_bytes = rig_room(2, ONE);
    rig_create(g);
    rig_make(g, t, 4, ONE, 0);
    t[4] = rig_tensor(g, 3 * ONE, 0); /* more than a segment: both have to go */
    tnm_use use = rig_use(t[4], 0, TNM_DISCARD);
    for (int pins = 2; pins >= 0; pins--) {
        for (int i = 0; i < pins; i++)
            CHECK_EQ(rig_pin(g, t[2 * i], 0, TNM_READ, &held[i]), TNM_OK);
        tnm_result want = pins > 0 ? TNM_ERR_BUDGET : TNM_PENDING;
        CHECK_EQ(tnm_why(g->ctx, &use, 1, &why), TNM_OK);
        CHECK_EQ(why.result, want);
        CHECK_EQ(rig_try(g, t[4], 0, TNM_DISCARD, &p), want);
        for (int i = 0; i < pins; i++)
            CHECK_EQ(rig_unpin(g, &held[i], 0), TNM_OK);
        for (int i = 0; i < 4 && pins > 0; i++)
            CHECK_EQ(rig_state(g, t[i], 0), TNM_STATE_READY);
        if (pins > 0) rig_pump(g, 9);
        for (int i = 0; i < 4 && pins > 0; i++)
            CHECK_EQ(rig_state(g, t[i], 0), TNM_STATE_READY);
    }
    rig_end(g);
}

EACH(a_try_pin_learns_of_a_failure_once) {
    tnm_pinned p;
    tnm_result r;
    rig_pair(g, kind, rig_room(2, ONE));
    t[0] = rig_tensor(g, ONE, 0);
    rig_write(g, t[0], 1, 1);
    sim_break(&g->sim, SIM_COPY, 1, 0);
    RIG_UNTIL(r, g, rig_try(g, t[0], 0, TNM_READ, &p));
    CHECK_EQ(r, TNM_ERR_BACKEND);
    RIG_UNTIL(r, g, rig_try(g, t[0], 0, TNM_READ, &p));
    CHECK_EQ(r, TNM_OK);
    CHECK(sim_same(sim_at(&g->sim, &p), 1, 0, ONE));
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_end(g);
}

EACH(why_knows_that_a_hit_asks_for_no_failure) { /* one that an earlier ask has left */
    tnm_pinned p;
    tnm_use use;
    tnm_shortage why;
    rig_pair(g, kind, rig_room(2, ONE));
    rig_make(g, t, 1, ONE, 1);
    use = rig_use(t[0], 0, TNM_READ);
    sim_break(&g->sim, SIM_COPY, 1, 0);
    CHECK_EQ(rig_try(g, t[0], 0, TNM_READ, &p), TNM_PENDING);
    for (int i = 0; i < 20; i++)
        tnm_pump(g->ctx, TNM_ALL);
    CHECK_EQ(tnm_why(g->ctx, &use, 1, &why), TNM_OK);
    CHECK_EQ(why.result, TNM_ERR_BACKEND);
    rig_expect(g, t[0], 0, 0);
    CHECK_EQ(tnm_why(g->ctx, &use, 1, &why), TNM_OK);
    CHECK_EQ(why.result, TNM_OK);
    CHECK_EQ(rig_try(g, t[0], 0, TNM_READ, &p), TNM_OK);
    CHECK_EQ(rig_unpin(g, &p, 0), TNM_OK);
    rig_end(g);
}

/* A log callback that asks after what its item is about makes another item each time. */
static tnm_ctx *asked;
static tnm_tensor gone;
static int items;

static void log_that_asks(void *user, const tnm_log *item) {
    tnm_tensor_info info;
    (void)user;
    (void)item;
    if (++items < 100000) (void)tnm_info(asked, gone, 0, &info);
}

TEST(a_log_callback_that_makes_items_is_not_fed_for_ever) {
    tnm_tier_desc tier;
    tnm_desc desc;
    tnm_tensor_desc d;
    char byte = 0;
    memset(&tier, 0, sizeof tier);
    memset(&desc, 0, sizeof desc);
    memset(&d, 0, sizeof d);
    desc.tiers = &tier;
    desc.tier_count = 1;
    desc.log = log_that_asks;
    d.bytes = 100;
    CHECK_EQ(tnm_create(&desc, &asked), TNM_OK);
    CHECK_EQ(tnm_tensor_create(asked, &d, &gone), TNM_OK);
    CHECK_EQ(tnm_tensor_destroy(asked, gone), TNM_OK);
    CHECK_EQ(tnm_read(asked, gone, 0, &byte, 1), TNM_ERR_STALE);
    CHECK(items > 0 && items < 10000);
    CHECK_EQ(tnm_destroy(asked), TNM_OK);
}

int main(void) {
    RUN(dump_as_json);
    RUN(a_writer_can_stop_a_dump);
    RUN(stats_add_up);
    RUN(pump_starts_no_more_than_it_was_given);
    RUN(same_calls_same_trace);
    RUN(failures_are_told);
    RUN(no_prefetch_makes_way_for_what_pins_forbid);
    RUN(why_knows_which_segments_pins_keep);
    RUN(a_try_pin_learns_of_a_failure_once);
    RUN(why_knows_that_a_hit_asks_for_no_failure);
    RUN(a_log_callback_that_makes_items_is_not_fed_for_ever);
    return check_done();
}
