/* needs: -pthread -ldl -lm */
/* conformance.c: every backend that is present is held against the contract by conformance.h.
 *
 *   conformance [name ...]     host file sim opencl ...; none = all
 *
 * A runtime that is not here is one line, SKIP name: why. What is held against a stand-in instead
 * of the runtime says so in its name. The last line is "N passed, N failed, N skipped". */
#define TENSORMEM_IMPLEMENTATION
#define TENSORMEM_THREADS
#include "tensormem.h"
#include "check.h"
#include "conformance.h"

#include "backends.h"

static const conform_subject *played;

TEST(play) {
    CHECK_EQ(conform(played), 0);
}

static void play_backend(const backends_entry *b) {
    static char reason[300];
    conform_subject all[BACKENDS_SUBJECTS];
    const char *why = "";
    int count, real = 0;
    memset(all, 0, sizeof all);
    count = b->open(all, &why);
    snprintf(reason, sizeof reason, "%s%s", b->gpu ? "no GPU here: " : "", why);
    for (int i = 0; i < count; i++) {
        real |= all[i].real;
        played = &all[i];
        check_run(all[i].name, play);
        b->end(&all[i]);
    }
    if (count == 0 || (b->gpu && !real)) SKIP(b->name, reason);
}

int main(int argc, char **argv) {
    int known = 0;
    for (int i = 0; i < BACKENDS_COUNT; i++) {
        known += backends_wanted(backends_all[i].name, argc, argv);
        if (backends_wanted(backends_all[i].name, argc, argv)) play_backend(&backends_all[i]);
    }
    if (argc > 1 && known < argc - 1) {
        printf("there are:");
        for (int i = 0; i < BACKENDS_COUNT; i++)
            printf(" %s", backends_all[i].name);
        printf("\n");
        return 2;
    }
    return check_done();
}
