/* needs: tensormem.o */
/* The calls of fuzz_api by three clients of one context. Records choose after how many polls each
 * copy ends, so in which order, and put other clients' calls into the callbacks of a call that
 * waits: that is what another thread can do there, played by one, with the application's own lock.
 * No callback may come with the lock held, nor two at a time. */
#include "tensormem.h"
#include "../tests/model.h"

#define MUTATE_HEAD   (2 * MODEL_RECORD)
#define MUTATE_RECORD MODEL_RECORD
#define MUTATE_TAG    MODEL_RECORDS
#include "mutate.h"

enum { FUZZ_CLIENTS = 8 };

typedef struct fuzz_call { /* another client's: its record, and in which callback from now */
    uint8_t record[MODEL_RECORD];
    uint64_t due; /* 0 = none */
} fuzz_call;

static model world;
static fuzz_call calls[FUZZ_CLIENTS];
static uint8_t waits[MODEL_RECORD];
static uint64_t callbacks;
static int locked;

static void fuzz_lock(void *user) {
    (void)user;
    CHECK_EQ(locked, 0);
    locked = 1;
}

static void fuzz_unlock(void *user) {
    (void)user;
    CHECK_EQ(locked, 1);
    locked = 0;
}

static void fuzz_between(void *user) {
    model *m = (model *)user;
    CHECK_EQ(locked, 0);
    callbacks++;
    for (int i = 0; i < FUZZ_CLIENTS; i++) {
        uint8_t record[MODEL_RECORD];
        if (calls[i].due == 0 || calls[i].due > callbacks) continue;
        if (m->depth + 1 == MODEL_DEPTH) return;
        calls[i].due = 0;
        memcpy(record, calls[i].record, sizeof record);
        model_say(m, "-- another client", i, m->depth + 1, 0);
        model_interrupt(m, record);
        model_say(m, "-- back", i, m->depth, 0);
    }
}

/* One who waits for another that drives does not wait for long: that one cannot go on before. */
static int fuzz_idle(void *user, uint64_t rounds) {
    sim *w = (sim *)user;
    if (w->between != NULL) fuzz_between(&world);
    return world.depth > 0 ? rounds > 2 : sim_idle(w, rounds);
}

/* another client's call, the record that follows; or how long copies take */
static void fuzz_client(model *m) {
    uint32_t what = model_draw(m, 4), due = 1 + model_draw(m, 32);
    if (what == 0) {
        m->g.sim.waits = waits;
        m->g.sim.wait_count = 1 + model_draw(m, MODEL_RECORD);
        for (int i = 0; i < MODEL_RECORD; i++)
            waits[i] = (uint8_t)model_draw(m, 24);
    } else if (m->depth == 0 && m->data != NULL && m->end + MODEL_RECORD <= m->size) {
        fuzz_call *c = &calls[what + (uint32_t)(m->op & 1) * 4];
        memcpy(c->record, m->data + m->end, MODEL_RECORD);
        m->end += MODEL_RECORD;
        c->due = callbacks + due;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < MUTATE_HEAD || data[0] != MODEL_RECORDS) return 0;
    memset(calls, 0, sizeof calls);
    callbacks = 0;
    world.verbose = getenv("FUZZ_TELL") != NULL;
    world.special = fuzz_client;
    model_begin(&world, data, size, 0);
    world.g.sim.between = fuzz_between;
    world.g.sim.between_user = &world;
    world.g.desc.lock = fuzz_lock;
    world.g.desc.unlock = fuzz_unlock;
    world.g.desc.idle = fuzz_idle;
    if (rig_create(&world.g)) model_go_on(&world, 4000);
    CHECK_EQ(locked, 0);
    if (check_bad > 0 || check_live_blocks() != 0) abort();
    return 0;
}
