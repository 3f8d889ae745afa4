/* standalone.c - replays a corpus without libFuzzer: give it files and folders. */
#if !defined(_POSIX_C_SOURCE)
#    define _POSIX_C_SOURCE 200809L
#endif
#if !defined(_FILE_OFFSET_BITS)
#    define _FILE_OFFSET_BITS 64 /* or a 32-bit program cannot read every folder */
#endif
#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned long replayed;

static int complain(const char *path) {
    fprintf(stderr, "cannot read %s\n", path);
    return 0;
}

/* The input lies in a block of exactly its size: a sanitizer sees the first byte too many. */
static int replay_file(const char *path, size_t size) {
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(size > 0 ? size : 1);
    int good = file != NULL && data != NULL && fread(data, 1, size, file) == size;
    if (file != NULL) {
        fclose(file);
    }
    if (good) {
        LLVMFuzzerTestOneInput(data, size);
        replayed++;
    }
    free(data);
    return good ? 1 : complain(path);
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int replay(const char *path);

/* In the order of the names, so that a failure is the same one everywhere. */
static int replay_names(char **name, size_t count) {
    int good = 1;
    qsort(name, count, sizeof(*name), compare_names);
    for (size_t i = 0; i < count; i++) {
        good = replay(name[i]) && good;
        free(name[i]);
    }
    free(name);
    return good;
}

static int replay_folder(const char *path) {
    DIR *folder = opendir(path);
    char **name = NULL;
    size_t count = 0;
    if (folder == NULL) {
        return complain(path);
    }
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        size_t room = strlen(path) + strlen(entry->d_name) + 2;
        if (entry->d_name[0] == '.') {
            continue;
        }
        char *full = malloc(room);
        char **grown = realloc(name, (count + 1) * sizeof(*name));
        if (full == NULL || grown == NULL) {
            abort();
        }
        snprintf(full, room, "%s/%s", path, entry->d_name);
        name = grown;
        name[count++] = full;
    }
    closedir(folder);
    return replay_names(name, count);
}

static int replay(const char *path) {
    struct stat info;
    if (stat(path, &info) != 0) {
        return complain(path);
    }
    return S_ISDIR(info.st_mode) ? replay_folder(path) : replay_file(path, (size_t)info.st_size);
}

int main(int argc, char **argv) {
    int good = argc > 1;
    if (argc < 2) {
        fprintf(stderr, "usage: %s FILE|FOLDER...\n", argv[0]);
    }
    for (int i = 1; i < argc; i++) {
        good = replay(argv[i]) && good;
    }
    printf("%lu inputs replayed\n", replayed);
    return good && replayed > 0 ? 0 : 1;
}
