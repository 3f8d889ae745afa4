/* standin_rules.h: every rule that a stand-in enforces, broken. A stand-in that lets a broken rule
 * pass is a test that cannot fail. Include it behind the stand-in's own source and check.h.
 *
 *   TEST(memory_is_freed_once) {
 *       if (breaks("not an address that was allocated so")) (void)cuMemFree_v2(mem + 256);
 *       breaks(NULL);
 *   }
 *
 * What stands behind `if (breaks(...))` runs in a process of its own, after set_up(). It must abort
 * there with that sentence. `no_sentence_is_left_out` reads the sources for those nobody broke. */
#ifndef TENSORMEM_TESTS_STANDIN_RULES_H
#define TENSORMEM_TESTS_STANDIN_RULES_H

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void set_up(void); /* of the file that includes this */

static int rules_inside; /* 1: this process was made to break one */
static char rules_said[1 << 14];

/* Reads what the child says until it is gone. */
static void rules_listen(int from, const char *sentence, pid_t child) {
    static char said[1 << 12];
    size_t size = 0;
    ssize_t got;
    int status = 0;
    while ((got = read(from, said + size, sizeof said - 1 - size)) > 0)
        size += (size_t)got;
    said[size] = '\0';
    close(from);
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    char *own = strstr(said, "standin: ");
    CHECK(own && strstr(own, sentence));
    if (!own || !strstr(own, sentence)) printf("not said: '%s'\nbut: '%s'\n", sentence, said);
    if (!own) return;
    own[strcspn(own, "\n") + 1] = '\0';
    size = strlen(rules_said);
    if (!strstr(rules_said, own)) snprintf(rules_said + size, sizeof rules_said - size, "%s", own);
}

/* 1 in a child that is to break the rule, 0 in the parent once that child is gone. NULL: the end of
 * a list of rules, which no child may reach. */
static int breaks(const char *sentence) {
    int way[2];
    if (rules_inside) _exit(0); /* it went on, and nothing was said */
    if (!sentence) return 0;
    fflush(stdout);
    if (pipe(way) != 0) check_fail(__FILE__, __LINE__, "pipe");
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        rules_inside = 1;
        dup2(way[1], STDERR_FILENO);
        close(way[0]);
        signal(SIGABRT, SIG_DFL);
        set_up();
        return 1;
    }
    close(way[1]);
    rules_listen(way[0], sentence, child);
    return 0;
}

/* Every broken("... of a source was said by somebody: as far as it stands between the first quote
 * and the next, or what is filled in. */
static void rules_of_source(const char *path) {
    char line[256];
    int count = 0;
    FILE *file = fopen(path, "r");
    CHECK(file != NULL);
    while (file && fgets(line, sizeof line, file)) {
        char *text = strstr(line, "broken(\"");
        if (!text || strstr(line, "for the test itself")) continue;
        text += strlen("broken(\"");
        text[strcspn(text, "%\"\n")] = '\0';
        CHECK(strlen(text) > 4 && strstr(rules_said, text));
        if (!strstr(rules_said, text)) printf("%s: nobody broke '%s'\n", path, text);
        count++;
    }
    CHECK(count > 0);
    if (file) fclose(file);
}

#endif
