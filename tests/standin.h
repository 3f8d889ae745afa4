/* standin.h: a stand-in (standin_*.c) as a test sees it: a library in place of the vendor's, with
 * functions of its own. */
#ifndef TENSORMEM_TESTS_STANDIN_H
#define TENSORMEM_TESTS_STANDIN_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *(*standin_symbol)(void *library, const char *name);

typedef struct standin {
    void (*fail)(const char *call, int nth, int code);
    int (*fired)(void);
    void (*lose)(void);
    void (*revive)(void); /* NULL: to close what uses the device is enough */
    uint64_t (*live)(void);
    uint64_t (*objects)(void);
    uint64_t (*count)(const char *what);
    int (*add)(void *stream, uintptr_t at, size_t bytes, unsigned char add);
} standin;

/* The library's name: as the environment has it, or else where make builds it. */
static inline const char *standin_path(const char *variable, const char *otherwise) {
    const char *path = getenv(variable);
    return path && *path ? path : otherwise;
}

static inline int standin_find(standin_symbol symbol, void *library, const char *name,
                               void *function) {
    void *at = symbol(library, name);
    memcpy(function, &at, sizeof at);
    if (!at) printf("the stand-in has no %s\n", name);
    return at != NULL;
}

static inline int standin_load(standin *s, standin_symbol symbol, void *library) {
    void *revive = symbol(library, "standin_revive");
    memcpy(&s->revive, &revive, sizeof revive);
    return standin_find(symbol, library, "standin_fail", &s->fail) &&
           standin_find(symbol, library, "standin_fired", &s->fired) &&
           standin_find(symbol, library, "standin_lose", &s->lose) &&
           standin_find(symbol, library, "standin_live", &s->live) &&
           standin_find(symbol, library, "standin_objects", &s->objects) &&
           standin_find(symbol, library, "standin_count", &s->count) &&
           standin_find(symbol, library, "standin_add", &s->add);
}

#endif
