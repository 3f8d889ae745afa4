/* subject_builtin.h: what tensormem.h itself brings, for the conformance kit: memory of the host,
 * and files, buffered and direct. Include the implementation of tensormem.h and conformance.h
 * before it. */
#ifndef TENSORMEM_TESTS_SUBJECT_BUILTIN_H
#define TENSORMEM_TESTS_SUBJECT_BUILTIN_H

#include <stdlib.h>
#include <string.h>

/* A checker's malloc ends the program where the system's returns NULL. */
static inline void *subject_host_alloc(void *user, size_t size) {
    (void)user;
    return (uint64_t)size >> 40 ? NULL : malloc(size);
}

static inline void subject_host_release(void *user, void *ptr, size_t size) {
    (void)user, (void)size;
    free(ptr);
}

static inline int subject_host(conform_subject *out, const char **why) {
    static tnmi_shelf_host heap;
    heap.alloc = subject_host_alloc;
    heap.release = subject_host_release;
    memset(out, 0, sizeof *out);
    out->name = "host";
    tnmi_shelf_host_backend(&heap, &out->device);
    out->real = 1;
    *why = "";
    return 1;
}

static inline void subject_host_end(conform_subject *s) {
    memset(s, 0, sizeof *s);
}

static inline int subject_file(conform_subject *out, const char **why) {
    int count = 0;
    for (int direct = 0; direct < 2; direct++) {
        tnm_file_desc desc;
        conform_subject *s = &out[count];
        memset(s, 0, sizeof *s);
        memset(&desc, 0, sizeof desc);
        desc.direct = direct;
        desc.path = "build"; /* where it exists, and else where we are */
        if (tnm_file_open(&desc, &s->device) != TNM_OK) {
            desc.path = ".";
            if (tnm_file_open(&desc, &s->device) != TNM_OK) continue;
        }
        s->name = direct ? "file (direct)" : "file";
        s->device_bytes = UINT64_C(64) << 20;
        count++;
    }
    *why = "no file could be made";
    return count;
}

static inline void subject_file_end(conform_subject *s) {
    tnm_file_close(&s->device);
}

#endif
