/* needs: tensormem.o */
/* Bytes become calls: trees of tiers, backends with delays, reordering, refusals and faults, and
 * the naive model of tests/model.h as the oracle; tnm_check after every call. */
#include "tensormem.h"
#include "../tests/model.h"

#define MUTATE_HEAD   (2 * MODEL_RECORD)
#define MUTATE_RECORD MODEL_RECORD
#define MUTATE_TAG    MODEL_RECORDS
#include "mutate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static model world;
    world.verbose = getenv("FUZZ_TELL") != NULL; /* every call, for whoever replays a finding */
    model_play(&world, data, size, size > 0 ? data[0] : 0, 4000);
    if (check_bad > 0 || check_live_blocks() != 0) abort();
    return 0;
}
