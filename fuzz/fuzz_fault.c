/* needs: tensormem.o */
/* The calls of fuzz_api while what the context stands on fails: a record arms the n-th call of a
 * class from there (alloc, copy, poll, passed, the host's allocator), once, at every k-th, or for
 * ever, with an answer of the contract or beyond it. What fails may be refused, never lost, and
 * when the faults end every byte is there and everything is given back. */
#include "tensormem.h"
#include "../tests/model.h"

#define MUTATE_HEAD   (2 * MODEL_RECORD)
#define MUTATE_RECORD MODEL_RECORD
#define MUTATE_TAG    MODEL_RECORDS
#include "mutate.h"

/* a fence that never passes is no fault but a hang of the device: every other time at most */
static void fuzz_arm(model *m) {
    static const int answers[] = { 0, 0, 0, 0, TNM_ERR_MEMORY, TNM_ERR_EMPTY, TNM_ABSENT, 77, -77 };
    sim *w = &m->g.sim;
    int kind = (int)model_draw(m, SIM_CLASSES);
    uint64_t n = 1 + model_draw(m, 24);
    int every = (int)model_draw(m, 8);
    if (every > 4) every = 0; /* once */
    if (kind == SIM_PASSED && every == 1) every = 2;
    w->fault_result = (tnm_result)answers[model_draw(m, sizeof answers / sizeof answers[0])];
    sim_break(w, kind, n, every);
    if (model_draw(m, 4) == 0) w->fault_at = 0; /* the fault clears */
    model_say(m, "fault: class, n", kind, (long long)n, (long long)w->fault_at);
}

/* The head's last bytes: it may already fail while the context is made. */
static int fuzz_create(model *m) {
    uint64_t n;
    int every;
    tnm_result r;
    m->noisy = m->starved = 1;
    m->special = fuzz_arm;
    rig_staging(&m->g);
    n = model_draw(m, 320);
    every = (int)model_draw(m, 3);
    if (n < 40) sim_break(&m->g.sim, SIM_HOST_ALLOC, 1 + n, every);
    r = tnm_create(&m->g.desc, &m->g.ctx);
    if (r == TNM_OK) return 1;
    CHECK_EQ(r, TNM_ERR_MEMORY);
    CHECK(m->g.sim.fired > 0 && m->g.ctx == NULL);
    rig_close_sim(&m->g);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static model world;
    if (size < MUTATE_HEAD || data[0] != MODEL_RECORDS) return 0;
    world.verbose = getenv("FUZZ_TELL") != NULL;
    model_begin(&world, data, size, 0);
    if (fuzz_create(&world)) model_go_on(&world, 4000);
    if (check_bad > 0 || check_live_blocks() != 0) abort();
    return 0;
}
