/* needs: tensormem.o */
/* Random calls against a naive model, on six trees of tiers with delays, reordering, refusals and
 * faults; tnm_check after every call. `test_model SEED [ROUNDS]` replays and tells every call. */
#include "tensormem.h"
#include "model.h"

static model world;

TEST(random_calls) {
    int rounds = check_scale(400, 24), granted = 0;
    for (int i = 0; i < rounds; i++) {
        int before = check_bad;
        model_play(&world, NULL, 0, (uint64_t)i + 1, 300);
        granted += world.granted * 2 >= world.asked;
        if (check_bad == before) continue;
        printf("random_calls: seed %d, tree %d\n", i + 1, world.tree);
        if (check_bad > 20) break;
    }
    CHECK(granted > rounds / 2); /* a run in which nothing is ever granted tests nothing */
}

TEST(streams_that_once_failed) {
    static const uint64_t seeds[] = {
        3503,  /* a guess and a demand made and emptied one segment in turns, within a pump */
        17704, /* so did a guess and a write-back below that a demand waited for */
        501553 /* a budget was told BACKEND where no backend had refused anything */
    };
    for (size_t i = 0; i < sizeof seeds / sizeof seeds[0]; i++)
        model_play(&world, NULL, 0, seeds[i], 300);
}

TEST(same_calls_same_trace) { /* P9, with asynchronous backends */
    int rounds = check_scale(40, 6);
    world.traced = 1;
    for (int i = 0; i < rounds; i++) {
        uint64_t first = model_play(&world, NULL, 0, (uint64_t)i + 1000, 200);
        uint64_t events = world.g.sim.events;
        CHECK_EQ(model_play(&world, NULL, 0, (uint64_t)i + 1000, 200), first);
        CHECK_EQ(world.g.sim.events, events);
        CHECK(events > 100);
    }
    world.traced = 0;
}

static int replay(int argc, char **argv) {
    uint64_t seed = strtoull(argv[1], NULL, 0);
    int rounds = argc > 2 ? atoi(argv[2]) : 1;
    world.verbose = rounds == 1;
    for (int i = 0; i < rounds && check_bad == 0; i++) {
        model_play(&world, NULL, 0, seed + (uint64_t)i, 300);
        if (check_bad > 0) printf("seed %llu\n", (unsigned long long)(seed + (uint64_t)i));
    }
    printf("%s\n", check_bad == 0 ? "right" : "wrong");
    return check_bad != 0;
}

int main(int argc, char **argv) {
    if (argc > 1) return replay(argc, argv);
    printf("seeds 1 ..; replay one with: test_model SEED\n");
    RUN(random_calls);
    RUN(streams_that_once_failed);
    RUN(same_calls_same_trace);
    return check_done();
}
