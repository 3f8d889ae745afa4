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

#include "subject_builtin.h"
#include "subject_sim.h"

enum { MOST_SUBJECTS = 4 };

typedef struct backend {
    const char *name;
    int (*open)(conform_subject *out, const char **why); /* how many subjects */
    void (*end)(conform_subject *s);
    int gpu; /* the real one needs hardware */
} backend;

static int open_sim(conform_subject *out, const char **why) {
    *why = "no memory";
    return subject_sim(out, SUBJECT_SIM_SHARE, SIM_NO_DEFECT);
}

static const backend backends[] = {
    { "host", subject_host, subject_host_end, 0 },
    { "file", subject_file, subject_file_end, 0 },
    { "sim", open_sim, subject_sim_end, 0 },
};

static const conform_subject *played;

TEST(play) {
    CHECK_EQ(conform(played), 0);
}

static void play_backend(const backend *b) {
    static char reason[300];
    conform_subject all[MOST_SUBJECTS];
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

static int wanted(const char *name, int count, char **names) {
    for (int i = 1; i < count; i++)
        if (strcmp(name, names[i]) == 0) return 1;
    return count < 2;
}

int main(int argc, char **argv) {
    enum { COUNT = sizeof backends / sizeof backends[0] };
    int known = 0;
    for (int i = 0; i < COUNT; i++) {
        known += wanted(backends[i].name, argc, argv);
        if (wanted(backends[i].name, argc, argv)) play_backend(&backends[i]);
    }
    if (argc > 1 && known < argc - 1) {
        printf("there are:");
        for (int i = 0; i < COUNT; i++)
            printf(" %s", backends[i].name);
        printf("\n");
        return 2;
    }
    return check_done();
}
