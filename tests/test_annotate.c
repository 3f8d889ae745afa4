/* Bugs planted inside an arena: an overrun into the neighbour, a touch below the start, a use after
 * the replica left, a read of bytes nobody wrote. A checker must report each of them, and nothing
 * in the clean run. `test_annotate BUG` commits one; without an argument annotate.sh builds this
 * file for each checker and judges. */
#define _POSIX_C_SOURCE 200809L
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "check.h"

enum { SIZE = 1000 };

static tnm_ctx *mem;
static tnm_tensor t[3];
static volatile unsigned char sink;

static unsigned char *pin(int i, tnm_access access, tnm_pinned *p) {
    tnm_use u;
    memset(&u, 0, sizeof u);
    u.tensor = t[i];
    u.access = access;
    if (tnm_pin(mem, &u, 1, p) != TNM_OK) exit(3);
    return (unsigned char *)p->host;
}

static void fill(int i) {
    tnm_pinned p;
    memset(pin(i, TNM_DISCARD, &p), i, SIZE);
    if (tnm_unpin(mem, &p, 1, 0) != TNM_OK) exit(3);
}

static void clean(void) {
    for (int i = 0; i < 3; i++) {
        tnm_pinned p;
        unsigned char *at = pin(i, TNM_WRITE, &p);
        for (int k = 0; k < SIZE; k++)
            sink = at[k];
        at[SIZE - 1] = 7;
        tnm_unpin(mem, &p, 1, 0);
        while (tnm_evict(mem, t[i], 0) == TNM_PENDING)
            tnm_pump(mem, TNM_ALL);
    }
}

static void overrun(void) {
    tnm_pinned p;
    unsigned char *at = pin(0, TNM_WRITE, &p);
    for (int k = 0; k < 8; k++)
        at[SIZE + k] = 1;
    tnm_unpin(mem, &p, 1, 0);
}

static void underrun(void) {
    tnm_pinned p;
    unsigned char *at = pin(1, TNM_WRITE, &p);
    for (int k = 1; k <= 8; k++)
        *(at - k) = 1;
    tnm_unpin(mem, &p, 1, 0);
}

static void after_it_left(void) {
    tnm_pinned p;
    unsigned char *at = pin(1, TNM_READ, &p);
    tnm_unpin(mem, &p, 1, 0);
    while (tnm_evict(mem, t[1], 0) == TNM_PENDING)
        tnm_pump(mem, TNM_ALL);
    sink = at[10];
}

static void after_destroy(void) {
    tnm_pinned p;
    unsigned char *at = pin(1, TNM_READ, &p);
    tnm_unpin(mem, &p, 1, 0);
    tnm_tensor_destroy(mem, t[1]);
    while (tnm_pump(mem, TNM_ALL) == TNM_PENDING)
        continue;
    sink = at[10];
}

static void never_written(void) {
    tnm_pinned p;
    unsigned char *at;
    while (tnm_evict(mem, t[2], 0) == TNM_PENDING)
        tnm_pump(mem, TNM_ALL);
    at = pin(2, TNM_DISCARD, &p);
    if (at[500] == 17) puts("seventeen"); /* a decision upon nothing */
    tnm_unpin(mem, &p, 1, 0);
}

static int commit(const char *what) {
    static const struct {
        const char *name;
        void (*run)(void);
    } bugs[] = { { "clean", clean },
                 { "overrun", overrun },
                 { "underrun", underrun },
                 { "after_it_left", after_it_left },
                 { "after_destroy", after_destroy },
                 { "never_written", never_written } };
    tnm_tier_desc tiers[2];
    tnm_desc d;
    tnm_tensor_desc td;
    memset(tiers, 0, sizeof tiers);
    memset(&d, 0, sizeof d);
    memset(&td, 0, sizeof td);
    tiers[0].budget_bytes = 16384;
    d.tiers = tiers;
    d.tier_count = 2;
    td.bytes = SIZE;
    if (tnm_create(&d, &mem) != TNM_OK) return 3;
    for (int i = 0; i < 3; i++)
        if (tnm_tensor_create(mem, &td, &t[i]) != TNM_OK) return 3;
    for (int i = 0; i < 3; i++)
        fill(i);
    for (size_t i = 0; i < sizeof bugs / sizeof bugs[0]; i++) {
        if (strcmp(bugs[i].name, what) != 0) continue;
        bugs[i].run();
        printf("survived %s\n", what);
        return tnm_destroy(mem) != TNM_OK;
    }
    return 3;
}

/* counts the script's PASS, FAIL and SKIP lines as tests */
static void judge(void) {
    char line[400];
#ifdef _WIN32
    FILE *f = NULL;
#else
    FILE *f = popen("sh tests/annotate.sh 2>&1", "r");
#endif
    int lines = 0;
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        char *name = line + 5;
        line[strcspn(line, "\r\n")] = '\0';
        if (strncmp(line, "PASS ", 5) == 0)
            check_passed++;
        else if (strncmp(line, "FAIL ", 5) == 0)
            check_failed++;
        else if (strncmp(line, "SKIP ", 5) == 0)
            check_skipped++;
        else
            continue;
        printf("%.4s annotate %s\n", line, name);
        lines++;
    }
#ifndef _WIN32
    if (f != NULL) pclose(f);
#endif
    if (lines == 0) SKIP("annotate", "tests/annotate.sh did not run (no sh, or another directory)");
}

int main(int argc, char **argv) {
    if (argc > 1) return commit(argv[1]);
    if (check_scale(0, 1))
        SKIP("annotate", "builds its own checkers: at full scale only");
    else
        judge();
    return check_done();
}
