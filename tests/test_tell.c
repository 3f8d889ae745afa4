/* The room [tell] from inside: result names; a ring that keeps order and counts what it drops. */
#define TENSORMEM_IMPLEMENTATION
#include "../tensormem.h"
#include "check.h"

enum { CAPACITY = 5 };

static tnmi_tell_item ring[CAPACITY];

static tnmi_tell listener(int events, int logs) {
    tnmi_tell tell;
    memset(&tell, 0, sizeof tell);
    memset(ring, 0x5a, sizeof ring);
    tell.ring = ring;
    tell.capacity = CAPACITY;
    tell.events = events;
    tell.logs = logs;
    return tell;
}

static tnmi_tell_item popped(tnmi_tell *tell) {
    tnmi_tell_item item;
    memset(&item, 0, sizeof item);
    CHECK(tnmi_tell_pop(tell, &item));
    return item;
}

TEST(every_result_has_its_own_name) {
    const char *names[TNM_ABSENT - TNM_ERR_LOST + 1];
    int count = 0;
    for (int result = TNM_ERR_LOST; result <= TNM_ABSENT; result++) {
        names[count] = tnmi_tell_result((tnm_result)result);
        CHECK(names[count] != NULL && names[count][0] != 0);
        CHECK(strcmp(names[count], "unknown result") != 0);
        CHECK(strcmp(tnm_result_string((tnm_result)result), names[count]) == 0);
        for (int i = 0; i < count; i++) CHECK(strcmp(names[i], names[count]) != 0);
        count++;
    }
    CHECK_EQ(count, 13);
    CHECK(strcmp(tnmi_tell_result(TNM_OK), "OK") == 0);
    CHECK(strcmp(tnmi_tell_result(TNM_ERR_LOST), "LOST") == 0);
    CHECK(strcmp(tnm_result_string((tnm_result)99), "unknown result") == 0);
    CHECK(strcmp(tnm_result_string((tnm_result)-99), "unknown result") == 0);
    CHECK_EQ(tnm_version(), TNM_VERSION);
}

TEST(nobody_listening_costs_nothing) {
    tnmi_tell tell = listener(0, 0);
    tnmi_tell_item item;
    CHECK(tnmi_tell_event(&tell, TNM_EVENT_PIN) == NULL);
    CHECK(tnmi_tell_log(&tell, TNM_LOG_ERROR, TNM_ERR_STALE, "rule") == NULL);
    CHECK_EQ(tell.count, 0);
    CHECK_EQ(tell.dropped, 0);
    CHECK(!tnmi_tell_pop(&tell, &item));
}

TEST(a_new_item_is_zero_but_for_what_it_is) {
    tnmi_tell tell = listener(1, 1);
    tnm_event *event = tnmi_tell_event(&tell, TNM_EVENT_LOAD);
    tnm_log *log = tnmi_tell_log(&tell, TNM_LOG_WARNING, TNM_ERR_BUSY, "a rule");
    CHECK(event != NULL && log != NULL);
    if (event == NULL || log == NULL) return;
    CHECK_EQ(event->kind, TNM_EVENT_LOAD);
    CHECK(event->tier == -1 && event->from == -1);
    CHECK(event->tensor == 0 && event->bytes == 0 && event->label == NULL && event->ticket == 0);
    CHECK_EQ(log->level, TNM_LOG_WARNING);
    CHECK_EQ(log->result, TNM_ERR_BUSY);
    CHECK(strcmp(log->rule, "a rule") == 0);
    CHECK(log->tier == -1 && log->tensor == 0 && log->need == 0 && log->have == 0);
}

TEST(items_come_out_in_order) {
    tnmi_tell tell = listener(1, 1);
    tnmi_tell_item item;
    uint64_t in = 0, out = 0;
    for (int round = 0; round < 1000; round++) {
        for (int i = 0; i < round % (CAPACITY + 1); i++) {
            tnm_event *event = tnmi_tell_event(&tell, TNM_EVENT_STEP);
            CHECK(event != NULL);
            if (event != NULL) event->offset = in++;
        }
        CHECK_EQ(tell.count, round % (CAPACITY + 1));
        while (tnmi_tell_pop(&tell, &item)) {
            CHECK(item.is_event);
            CHECK_EQ(item.event.offset, out);
            CHECK_EQ(item.event.seq, out);
            out++;
        }
        CHECK_EQ(in, out);
    }
    CHECK_EQ(tell.dropped, 0);
}

TEST(logs_and_events_share_the_order_and_only_events_are_numbered) {
    tnmi_tell tell = listener(1, 1);
    tnmi_tell_item item;
    CHECK(tnmi_tell_event(&tell, TNM_EVENT_PIN) != NULL);
    CHECK(tnmi_tell_log(&tell, TNM_LOG_INFO, TNM_OK, "between") != NULL);
    CHECK(tnmi_tell_event(&tell, TNM_EVENT_UNPIN) != NULL);
    item = popped(&tell);
    CHECK(item.is_event && item.event.seq == 0);
    item = popped(&tell);
    CHECK(!item.is_event && strcmp(item.log.rule, "between") == 0);
    item = popped(&tell);
    CHECK(item.is_event && item.event.seq == 1);
    CHECK(!tnmi_tell_pop(&tell, &item));
}

TEST(a_full_ring_drops_the_newest_and_counts) {
    tnmi_tell tell = listener(1, 1);
    for (uint64_t i = 0; i < CAPACITY; i++) {
        tnm_event *event = tnmi_tell_event(&tell, TNM_EVENT_STEP);
        if (event != NULL) event->offset = i;
    }
    CHECK(tnmi_tell_event(&tell, TNM_EVENT_STEP) == NULL);
    CHECK(tnmi_tell_log(&tell, TNM_LOG_ERROR, TNM_ERR_LOST, "lost") == NULL);
    CHECK_EQ(tell.dropped, 2);
    for (uint64_t i = 0; i < CAPACITY; i++) CHECK_EQ(popped(&tell).event.offset, i);
    CHECK(tnmi_tell_event(&tell, TNM_EVENT_STEP) != NULL);
    CHECK_EQ(tell.dropped, 2);
}

TEST(what_was_dropped_is_admitted_once) {
    tnmi_tell tell = listener(1, 1);
    tnmi_tell_item item;
    for (int round = 1; round < 4; round++) {
        tnmi_tell_admit(&tell);
        CHECK_EQ(tell.count, 0); /* nothing to say */
        for (int i = 0; i < CAPACITY + round; i++) tnmi_tell_event(&tell, TNM_EVENT_STEP);
        for (int i = 0; i < CAPACITY; i++) CHECK(popped(&tell).is_event);
        tnmi_tell_admit(&tell);
        CHECK_EQ(tell.count, 1);
        item = popped(&tell);
        CHECK(!item.is_event && item.log.level == TNM_LOG_WARNING);
        CHECK_EQ(item.log.need, round); /* since the last time, not in all */
        CHECK_EQ(item.log.have, CAPACITY);
    }
    tell = listener(1, 0); /* nobody reads logs: nothing is queued, and it is not said later */
    for (int i = 0; i < CAPACITY + 1; i++) tnmi_tell_event(&tell, TNM_EVENT_STEP);
    while (tnmi_tell_pop(&tell, &item)) continue;
    tnmi_tell_admit(&tell);
    CHECK_EQ(tell.count, 0);
    CHECK_EQ(tell.dropped, tell.said);
}

int main(void) {
    RUN(every_result_has_its_own_name);
    RUN(nobody_listening_costs_nothing);
    RUN(a_new_item_is_zero_but_for_what_it_is);
    RUN(items_come_out_in_order);
    RUN(logs_and_events_share_the_order_and_only_events_are_numbered);
    RUN(a_full_ring_drops_the_newest_and_counts);
    RUN(what_was_dropped_is_admitted_once);
    return check_done();
}
