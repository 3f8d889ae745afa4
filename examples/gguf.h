/* gguf.h - read and write GGUF, the file format of llama.cpp models (versions 2 and 3).
 *
 * A GGUF file is: magic, version, two counts; that many key/value pairs; that many tensor
 * descriptions; padding; the tensors' bytes. Everything is little-endian. gguf_load_path and
 * gguf_load_memory read all but the tensors' bytes, whose place in the file they give.
 *
 * A file comes from anywhere, so nothing in it is believed before it is checked: a count must fit
 * in the bytes that are left, arithmetic is checked, an offset must lie inside the file. What the
 * reader accepts can be used without further tests. What it refuses is named in file.error, one
 * line, with the byte where reading stopped.
 *
 * Header only, C99, no state; every function is static inline. */
#ifndef GGUF_H
#define GGUF_H

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GGUF_MAX_DIMS = 4, GGUF_MAX_NAME = 64, GGUF_ERROR_BYTES = 240 };

/* Far above any model, far below what would hurt: a sparse file can claim almost anything. */
#define GGUF_MAX_ITEMS  (UINT64_C(1) << 24) /* pairs, tensors, items of an array */
#define GGUF_MAX_STRING (UINT64_C(1) << 26)
#define GGUF_MAX_HEADER (UINT64_C(1) << 30)
#ifndef GGUF_CHUNK_BYTES
#    define GGUF_CHUNK_BYTES 65536 /* 1 gives every item its own malloc: what a fuzzer wants */
#endif

typedef enum gguf_value {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
} gguf_value;

enum { GGUF_TYPE_F32 = 0, GGUF_TYPE_F16 = 1, GGUF_TYPE_Q8_0 = 8, GGUF_TYPE_BF16 = 30 };

typedef struct gguf_string {
    const char *text; /* a NUL follows, and may also be inside */
    uint64_t length;
} gguf_string;

typedef struct gguf_pair {
    gguf_string key;
    gguf_value type; /* of the value, or of the items of an array; never GGUF_ARRAY */
    int is_array;
    uint64_t count;   /* 1 unless an array */
    const void *data; /* gguf_string[count], or packed little-endian items */
} gguf_pair;

typedef struct gguf_tensor {
    gguf_string name;
    uint32_t type;
    uint32_t dims;
    uint64_t shape[GGUF_MAX_DIMS]; /* fastest first, filled up with 1 */
    uint64_t offset, bytes;        /* in the file */
} gguf_tensor;

typedef struct gguf_chunk gguf_chunk;

typedef struct gguf_file {
    uint32_t version;
    uint64_t alignment, data_offset, size;
    gguf_pair *pairs;
    uint64_t pair_count;
    gguf_tensor *tensors;
    uint64_t tensor_count;
    const gguf_string **pairs_by_key, **tensors_by_name; /* see gguf_index */
    gguf_chunk *chunks;                                  /* everything above lives here */
    char error[GGUF_ERROR_BYTES];
} gguf_file;

typedef struct gguf_source { /* read: 0 = all bytes are there */
    int (*read)(void *user, uint64_t offset, void *dst, size_t bytes);
    void *user;
    uint64_t size;
} gguf_source;

/* ---- sizes and names of types ---- */

typedef struct gguf_type_info {
    const char *name;
    uint32_t block, bytes; /* so many elements in so many bytes */
} gguf_type_info;

static inline gguf_type_info gguf_type(uint32_t type) {
    static const gguf_type_info types[] = {
        { "F32", 1, 4 },        { "F16", 1, 2 },        { "Q4_0", 32, 18 },
        { "Q4_1", 32, 20 },     { NULL, 0, 0 },         { NULL, 0, 0 },
        { "Q5_0", 32, 22 },     { "Q5_1", 32, 24 },     { "Q8_0", 32, 34 },
        { "Q8_1", 32, 36 },     { "Q2_K", 256, 84 },    { "Q3_K", 256, 110 },
        { "Q4_K", 256, 144 },   { "Q5_K", 256, 176 },   { "Q6_K", 256, 210 },
        { "Q8_K", 256, 292 },   { "IQ2_XXS", 256, 66 }, { "IQ2_XS", 256, 74 },
        { "IQ3_XXS", 256, 98 }, { "IQ1_S", 256, 50 },   { "IQ4_NL", 32, 18 },
        { "IQ3_S", 256, 110 },  { "IQ2_S", 256, 82 },   { "IQ4_XS", 256, 136 },
        { "I8", 1, 1 },         { "I16", 1, 2 },        { "I32", 1, 4 },
        { "I64", 1, 8 },        { "F64", 1, 8 },        { "IQ1_M", 256, 56 },
        { "BF16", 1, 2 },
    };
    static const gguf_type_info unknown = { NULL, 0, 0 };
    return type < sizeof(types) / sizeof(types[0]) ? types[type] : unknown;
}

static inline uint32_t gguf_value_bytes(uint32_t type) { /* 0: strings, arrays, unknown */
    static const uint8_t bytes[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
    return type < sizeof(bytes) ? bytes[type] : 0;
}

/* A name from a file, fit for a terminal. */
static inline const char *gguf_printable(char *out, size_t bytes, gguf_string name) {
    size_t length = name.length < bytes ? (size_t)name.length : bytes - 1;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)name.text[i];
        out[i] = c >= 32 && c < 127 ? (char)c : '?';
    }
    out[length] = 0;
    return out;
}

/* ---- memory: chunks freed together ---- */

struct gguf_chunk {
    gguf_chunk *next;
    size_t used, capacity;
    union {
        uint64_t number;
        void *pointer;
    } data; /* the first of `capacity` bytes */
};

static inline void *gguf_alloc(gguf_file *file, uint64_t bytes) {
    gguf_chunk *chunk = file->chunks;
    if (bytes > SIZE_MAX / 2) {
        return NULL;
    }
    size_t need = ((size_t)bytes + 7) & ~(size_t)7;
    if (chunk == NULL || chunk->capacity - chunk->used < need) {
        size_t capacity = need > GGUF_CHUNK_BYTES ? need : GGUF_CHUNK_BYTES;
        chunk = (gguf_chunk *)malloc(offsetof(gguf_chunk, data) + capacity);
        if (chunk == NULL) {
            return NULL;
        }
        chunk->next = file->chunks;
        chunk->used = 0;
        chunk->capacity = capacity;
        file->chunks = chunk;
    }
    void *at = (unsigned char *)chunk + offsetof(gguf_chunk, data) + chunk->used;
    chunk->used += need;
    return at;
}

static inline void gguf_free(gguf_file *file) {
    while (file->chunks != NULL) {
        gguf_chunk *next = file->chunks->next;
        free(file->chunks);
        file->chunks = next;
    }
    file->pair_count = file->tensor_count = 0;
}

/* ---- reading: a cursor that stops at the first error ---- */

typedef struct gguf_reader {
    gguf_file *file;
    gguf_source source;
    uint64_t at;                      /* next byte of the file */
    uint64_t buffer_at, buffer_bytes; /* what `buffer` holds */
    int failed;
    unsigned char buffer[16384];
} gguf_reader;

#if defined(__MINGW_PRINTF_FORMAT) /* what is meant by %zu on Windows depends on the library */
#    define GGUF_FORMAT(text, first) __attribute__((format(__MINGW_PRINTF_FORMAT, text, first)))
#elif defined(__GNUC__)
#    define GGUF_FORMAT(text, first) __attribute__((format(printf, text, first)))
#else
#    define GGUF_FORMAT(text, first)
#endif

GGUF_FORMAT(2, 3)
static inline int
gguf_fail(gguf_reader *r, const char *format, ...) {
    if (!r->failed) {
        va_list args;
        int n =
            snprintf(r->file->error, GGUF_ERROR_BYTES, "byte %llu: ", (unsigned long long)r->at);
        va_start(args, format);
        vsnprintf(r->file->error + n, GGUF_ERROR_BYTES - (size_t)n, format, args);
        va_end(args);
    }
    r->failed = 1;
    return 0;
}

static inline uint64_t gguf_left(const gguf_reader *r) {
    return r->source.size - r->at;
}

static inline int gguf_refill(gguf_reader *r) {
    uint64_t bytes = gguf_left(r);
    bytes = bytes < sizeof(r->buffer) ? bytes : sizeof(r->buffer);
    if (r->source.read(r->source.user, r->at, r->buffer, (size_t)bytes) != 0) {
        return gguf_fail(r, "cannot read %llu bytes", (unsigned long long)bytes);
    }
    r->buffer_at = r->at;
    r->buffer_bytes = bytes;
    return 1;
}

static inline int gguf_take(gguf_reader *r, void *dst, uint64_t bytes) {
    unsigned char *out = (unsigned char *)dst;
    if (r->failed) {
        return 0;
    }
    if (bytes > gguf_left(r)) {
        return gguf_fail(r, "the file ends after %llu bytes, inside its header",
                         (unsigned long long)r->source.size);
    }
    while (bytes > 0) {
        uint64_t inside = r->at - r->buffer_at;
        uint64_t have = inside < r->buffer_bytes ? r->buffer_bytes - inside : 0;
        if (have == 0) {
            if (!gguf_refill(r)) {
                return 0;
            }
            continue;
        }
        have = have < bytes ? have : bytes;
        memcpy(out, r->buffer + inside, (size_t)have);
        out += have;
        r->at += have;
        bytes -= have;
    }
    if (r->at > GGUF_MAX_HEADER) {
        return gguf_fail(r, "the header is larger than 1 GiB");
    }
    return 1;
}

static inline uint64_t gguf_load_uint(const void *from, uint32_t bytes) {
    const unsigned char *b = (const unsigned char *)from;
    uint64_t value = 0;
    for (uint32_t i = 0; i < bytes; i++) {
        value |= (uint64_t)b[i] << (8 * i);
    }
    return value;
}

static inline uint64_t gguf_take_uint(gguf_reader *r, uint32_t bytes) { /* 0 once failed */
    unsigned char b[8];
    return gguf_take(r, b, bytes) ? gguf_load_uint(b, bytes) : 0;
}

static inline int gguf_take_string(gguf_reader *r, gguf_string *out) {
    uint64_t length = gguf_take_uint(r, 8);
    if (r->failed) {
        return 0;
    }
    if (length > gguf_left(r) || length > GGUF_MAX_STRING) {
        return gguf_fail(r, "a string of %llu bytes does not fit in the file",
                         (unsigned long long)length);
    }
    char *text = (char *)gguf_alloc(r->file, length + 1);
    if (text == NULL) {
        return gguf_fail(r, "out of memory");
    }
    text[length] = 0;
    out->text = text;
    out->length = length;
    return gguf_take(r, text, length);
}

static inline int gguf_take_name(gguf_reader *r, const char *what, uint64_t most,
                                 gguf_string *out) {
    if (!gguf_take_string(r, out)) {
        return 0;
    }
    if (out->length == 0 || out->length > most || memchr(out->text, 0, (size_t)out->length)) {
        return gguf_fail(r, "a %s of %llu bytes%s", what, (unsigned long long)out->length,
                         out->length == 0 || out->length > most ? "" : " with a zero byte inside");
    }
    return 1;
}

/* ---- key/value pairs ---- */

static inline int gguf_take_strings(gguf_reader *r, gguf_pair *pair) {
    gguf_string *items = (gguf_string *)gguf_alloc(r->file, pair->count * sizeof(gguf_string));
    if (items == NULL) {
        return gguf_fail(r, "out of memory");
    }
    for (uint64_t i = 0; i < pair->count; i++) {
        if (!gguf_take_string(r, &items[i])) {
            return 0;
        }
    }
    pair->data = items;
    return 1;
}

static inline int gguf_take_items(gguf_reader *r, gguf_pair *pair) {
    uint32_t bytes = gguf_value_bytes((uint32_t)pair->type);
    uint32_t least = pair->type == GGUF_STRING ? 8 : bytes;
    if (pair->count > GGUF_MAX_ITEMS || pair->count > gguf_left(r) / least) {
        return gguf_fail(r, "%llu items do not fit in the file", (unsigned long long)pair->count);
    }
    if (pair->type == GGUF_STRING) {
        return gguf_take_strings(r, pair);
    }
    void *data = gguf_alloc(r->file, pair->count * bytes);
    pair->data = data;
    return data == NULL ? gguf_fail(r, "out of memory") : gguf_take(r, data, pair->count * bytes);
}

static inline int gguf_take_pair(gguf_reader *r, gguf_pair *pair) {
    char name[96];
    if (!gguf_take_name(r, "key", 65535, &pair->key)) {
        return 0;
    }
    uint32_t type = (uint32_t)gguf_take_uint(r, 4);
    pair->count = 1;
    if (type == GGUF_ARRAY) {
        pair->is_array = 1;
        type = (uint32_t)gguf_take_uint(r, 4);
        pair->count = gguf_take_uint(r, 8);
    }
    if (r->failed) {
        return 0;
    }
    if (type == GGUF_ARRAY) {
        return gguf_fail(r, "key %s: arrays inside arrays are not supported",
                         gguf_printable(name, sizeof(name), pair->key));
    }
    if (type > GGUF_F64) {
        return gguf_fail(r, "key %s has the unknown value type %u",
                         gguf_printable(name, sizeof(name), pair->key), type);
    }
    pair->type = (gguf_value)type;
    return gguf_take_items(r, pair);
}

/* ---- tensor descriptions ---- */

static inline int gguf_take_shape(gguf_reader *r, gguf_tensor *t, const char *name) {
    t->dims = (uint32_t)gguf_take_uint(r, 4);
    if (!r->failed && (t->dims < 1 || t->dims > GGUF_MAX_DIMS)) {
        return gguf_fail(r, "tensor %s has %u dimensions, not 1 to 4", name, t->dims);
    }
    for (uint32_t i = 0; i < GGUF_MAX_DIMS; i++) {
        t->shape[i] = !r->failed && i < t->dims ? gguf_take_uint(r, 8) : 1;
    }
    for (uint32_t i = 0; i < GGUF_MAX_DIMS; i++) {
        if (!r->failed && t->shape[i] == 0) {
            return gguf_fail(r, "tensor %s has a dimension of 0", name);
        }
    }
    return !r->failed;
}

static inline int gguf_take_tensor(gguf_reader *r, gguf_tensor *t) {
    char name[96];
    uint64_t elements = 1;
    if (!gguf_take_name(r, "tensor name", GGUF_MAX_NAME, &t->name)) {
        return 0;
    }
    gguf_printable(name, sizeof(name), t->name);
    if (!gguf_take_shape(r, t, name)) {
        return 0;
    }
    t->type = (uint32_t)gguf_take_uint(r, 4);
    t->offset = gguf_take_uint(r, 8);
    if (r->failed) {
        return 0;
    }
    gguf_type_info type = gguf_type(t->type);
    if (type.block == 0) {
        return gguf_fail(r, "tensor %s has the unknown type %u", name, t->type);
    }
    for (uint32_t i = 0; i < t->dims; i++) {
        if (t->shape[i] > (uint64_t)INT64_MAX / 512 / elements) {
            return gguf_fail(r, "tensor %s has more elements than can be counted", name);
        }
        elements *= t->shape[i];
    }
    if (t->shape[0] % type.block != 0) {
        return gguf_fail(r, "tensor %s: rows of %llu elements are not whole %s blocks of %u", name,
                         (unsigned long long)t->shape[0], type.name, type.block);
    }
    t->bytes = elements / type.block * type.bytes;
    return 1;
}

/* ---- finding things: names sorted once, which also finds what is there twice ---- */

static inline int gguf_compare_text(gguf_string a, gguf_string b) {
    uint64_t least = a.length < b.length ? a.length : b.length;
    int order = memcmp(a.text, b.text, (size_t)least);
    return order != 0 ? order : (a.length > b.length) - (a.length < b.length);
}

static inline int gguf_compare_names(const void *a, const void *b) {
    return gguf_compare_text(**(const gguf_string *const *)a, **(const gguf_string *const *)b);
}

/* Pointers to `count` names in their order; the next name lies `stride` bytes behind the last. A
 * pair and a tensor begin with their name: a pointer to it is one to them. NULL = failed. */
static inline const gguf_string **gguf_index(gguf_reader *r, const char *what, const void *first,
                                             uint64_t count, size_t stride) {
    char name[96];
    const gguf_string **index =
        (const gguf_string **)gguf_alloc(r->file, count * sizeof(void *) + 1);
    if (index == NULL) {
        gguf_fail(r, "out of memory");
        return NULL;
    }
    for (uint64_t i = 0; i < count; i++) {
        const void *at = (const unsigned char *)first + i * stride;
        index[i] = (const gguf_string *)at;
    }
    qsort(index, (size_t)count, sizeof(void *), gguf_compare_names);
    for (uint64_t i = 1; i < count; i++) {
        if (gguf_compare_text(*index[i - 1], *index[i]) == 0) {
            gguf_fail(r, "the %s %s is there twice", what,
                      gguf_printable(name, sizeof(name), *index[i]));
            return NULL;
        }
    }
    return index;
}

static inline const gguf_string *gguf_find(const gguf_string *const *index, uint64_t count,
                                           const char *text, size_t length) {
    gguf_string probe;
    const gguf_string *wanted = &probe;
    probe.text = text;
    probe.length = length;
    const void *at =
        count == 0 ? NULL
                   : bsearch(&wanted, index, (size_t)count, sizeof(void *), gguf_compare_names);
    return at == NULL ? NULL : *(const gguf_string *const *)at;
}

static inline const gguf_pair *gguf_find_pair(const gguf_file *file, const char *key) {
    return (const gguf_pair *)(const void *)gguf_find(file->pairs_by_key, file->pair_count, key,
                                                      strlen(key));
}

static inline const gguf_tensor *gguf_find_tensor(const gguf_file *file, const char *name) {
    return (const gguf_tensor *)(const void *)gguf_find(file->tensors_by_name, file->tensor_count,
                                                        name, strlen(name));
}

/* An item of a pair as a number. Strings are 0; a negative integer is huge. */
static inline uint64_t gguf_item_uint(const gguf_pair *pair, uint64_t index) {
    uint32_t bytes = gguf_value_bytes((uint32_t)pair->type);
    if (bytes == 0 || index >= pair->count) {
        return 0;
    }
    uint64_t value = gguf_load_uint((const unsigned char *)pair->data + index * bytes, bytes);
    int is_signed = pair->type == GGUF_I8 || pair->type == GGUF_I16 || pair->type == GGUF_I32;
    if (is_signed && (value >> (8 * bytes - 1)) != 0) {
        value |= UINT64_MAX << (8 * bytes - 1);
    }
    return value;
}

static inline double gguf_item_float(const gguf_pair *pair, uint64_t index) {
    uint64_t bits = gguf_item_uint(pair, index);
    if (pair->type == GGUF_F32) {
        uint32_t narrow = (uint32_t)bits;
        float value;
        memcpy(&value, &narrow, sizeof(value));
        return (double)value;
    }
    if (pair->type == GGUF_F64) {
        double value;
        memcpy(&value, &bits, sizeof(value));
        return value;
    }
    return (double)(int64_t)bits;
}

/* ---- the whole file ---- */

static inline int gguf_take_start(gguf_reader *r) {
    unsigned char magic[4] = { 0, 0, 0, 0 };
    if (gguf_left(r) < 24 || !gguf_take(r, magic, 4) || memcmp(magic, "GGUF", 4) != 0) {
        r->at = 0;
        return gguf_fail(r, "not a GGUF file");
    }
    r->file->version = (uint32_t)gguf_take_uint(r, 4);
    if (r->file->version >> 24 != 0 && (r->file->version & 0xffffffu) == 0) {
        return gguf_fail(r, "a big-endian GGUF file; only little-endian ones are supported");
    }
    if (!r->failed && (r->file->version < 2 || r->file->version > 3)) {
        return gguf_fail(r, "GGUF version %u; only 2 and 3 are supported", r->file->version);
    }
    r->file->tensor_count = gguf_take_uint(r, 8);
    r->file->pair_count = gguf_take_uint(r, 8);
    return !r->failed;
}

static inline int gguf_take_pairs(gguf_reader *r) {
    gguf_file *f = r->file;
    uint64_t count = f->pair_count;
    f->pair_count = 0;
    if (count > GGUF_MAX_ITEMS || count > gguf_left(r) / 14) {
        return gguf_fail(r, "%llu key/value pairs do not fit in the file",
                         (unsigned long long)count);
    }
    f->pairs = (gguf_pair *)gguf_alloc(f, count * sizeof(gguf_pair) + 1);
    if (f->pairs == NULL) {
        return gguf_fail(r, "out of memory");
    }
    for (; f->pair_count < count; f->pair_count++) {
        memset(&f->pairs[f->pair_count], 0, sizeof(gguf_pair));
        if (!gguf_take_pair(r, &f->pairs[f->pair_count])) {
            return 0;
        }
    }
    f->pairs_by_key = gguf_index(r, "key", f->pairs, count, sizeof(gguf_pair));
    return f->pairs_by_key != NULL;
}

static inline int gguf_take_tensors(gguf_reader *r, uint64_t count) {
    gguf_file *f = r->file;
    if (count > GGUF_MAX_ITEMS || count > gguf_left(r) / 33) {
        return gguf_fail(r, "%llu tensors do not fit in the file", (unsigned long long)count);
    }
    f->tensors = (gguf_tensor *)gguf_alloc(f, count * sizeof(gguf_tensor) + 1);
    if (f->tensors == NULL) {
        return gguf_fail(r, "out of memory");
    }
    for (; f->tensor_count < count; f->tensor_count++) {
        memset(&f->tensors[f->tensor_count], 0, sizeof(gguf_tensor));
        if (!gguf_take_tensor(r, &f->tensors[f->tensor_count])) {
            return 0;
        }
    }
    f->tensors_by_name = gguf_index(r, "tensor", f->tensors, count, sizeof(gguf_tensor));
    return f->tensors_by_name != NULL;
}

static inline int gguf_take_alignment(gguf_reader *r) {
    const gguf_pair *pair = gguf_find_pair(r->file, "general.alignment");
    r->file->alignment = 32;
    if (pair == NULL) {
        return 1;
    }
    uint64_t value = gguf_item_uint(pair, 0);
    if (pair->type != GGUF_U32 || pair->is_array || value < 8 || value > 1048576 ||
        (value & (value - 1)) != 0) {
        return gguf_fail(r, "general.alignment is not a power of two from 8 to 1048576");
    }
    r->file->alignment = value;
    return 1;
}

/* Makes the offsets absolute: each aligned, inside the file, and nobody else's. */
static inline int gguf_place_tensors(gguf_reader *r) {
    gguf_file *f = r->file;
    char name[96];
    f->data_offset = (r->at + f->alignment - 1) & ~(f->alignment - 1);
    for (uint64_t i = 0; i < f->tensor_count; i++) {
        gguf_tensor *t = &f->tensors[i];
        uint64_t room = f->size > f->data_offset ? f->size - f->data_offset : 0;
        gguf_printable(name, sizeof(name), t->name);
        if (t->offset % f->alignment != 0) {
            return gguf_fail(r, "tensor %s starts at an offset that is not a multiple of %llu",
                             name, (unsigned long long)f->alignment);
        }
        if (t->offset > room || t->bytes > room - t->offset) {
            return gguf_fail(r,
                             "tensor %s needs %llu bytes from %llu on, but the data has only %llu",
                             name, (unsigned long long)t->bytes, (unsigned long long)t->offset,
                             (unsigned long long)room);
        }
        t->offset += f->data_offset;
    }
    return 1;
}

static inline int gguf_compare_offsets(const void *a, const void *b) {
    uint64_t x = (*(const gguf_tensor *const *)a)->offset;
    uint64_t y = (*(const gguf_tensor *const *)b)->offset;
    return (x > y) - (x < y);
}

static inline int gguf_check_overlap(gguf_reader *r) {
    gguf_file *f = r->file;
    char name[96], other[96];
    const gguf_tensor **order =
        (const gguf_tensor **)gguf_alloc(f, f->tensor_count * sizeof(void *) + 1);
    if (order == NULL) {
        return gguf_fail(r, "out of memory");
    }
    for (uint64_t i = 0; i < f->tensor_count; i++) {
        order[i] = &f->tensors[i];
    }
    qsort(order, (size_t)f->tensor_count, sizeof(void *), gguf_compare_offsets);
    for (uint64_t i = 1; i < f->tensor_count; i++) {
        if (order[i]->offset - order[i - 1]->offset < order[i - 1]->bytes) {
            return gguf_fail(r, "the tensors %s and %s overlap",
                             gguf_printable(name, sizeof(name), order[i - 1]->name),
                             gguf_printable(other, sizeof(other), order[i]->name));
        }
    }
    return 1;
}

/* 1 = good; 0 = refused: file->error says why, and the file is empty. */
static inline int gguf_load(gguf_file *file, const gguf_source *source) {
    gguf_reader *r = (gguf_reader *)calloc(1, sizeof(*r));
    uint64_t tensors = 0;
    int good = 0;
    memset(file, 0, sizeof(*file));
    file->size = source->size;
    if (r == NULL) {
        snprintf(file->error, sizeof(file->error), "out of memory");
        return 0;
    }
    r->file = file;
    r->source = *source;
    if (gguf_take_start(r)) {
        tensors = file->tensor_count;
        file->tensor_count = 0;
        good = gguf_take_pairs(r) && gguf_take_alignment(r) && gguf_take_tensors(r, tensors) &&
               gguf_place_tensors(r) && gguf_check_overlap(r);
    }
    free(r);
    if (!good) {
        gguf_free(file);
    }
    return good;
}

typedef struct gguf_memory {
    const unsigned char *data;
    uint64_t size;
} gguf_memory;

static inline int gguf_read_memory(void *user, uint64_t offset, void *dst, size_t bytes) {
    const gguf_memory *memory = (const gguf_memory *)user;
    if (offset > memory->size || bytes > memory->size - offset) {
        return -1;
    }
    memcpy(dst, memory->data + offset, bytes);
    return 0;
}

static inline int gguf_load_memory(gguf_file *file, const void *data, uint64_t size) {
    gguf_memory memory;
    gguf_source source;
    memory.data = (const unsigned char *)data;
    memory.size = size;
    source.read = gguf_read_memory;
    source.user = &memory;
    source.size = size;
    return gguf_load(file, &source);
}

/* Seeking beyond 2 GiB has a different name everywhere; plain C ends there. */
static inline int gguf_seek(FILE *file, uint64_t offset, int from) {
#if defined(_WIN32)
    return _fseeki64(file, (int64_t)offset, from);
#elif defined(_POSIX_C_SOURCE)
    return fseeko(file, (off_t)offset, from);
#else
    return offset > (uint64_t)LONG_MAX ? -1 : fseek(file, (long)offset, from);
#endif
}

static inline int64_t gguf_tell(FILE *file) {
#if defined(_WIN32)
    return _ftelli64(file);
#elif defined(_POSIX_C_SOURCE)
    return ftello(file);
#else
    return ftell(file);
#endif
}

static inline int gguf_read_stdio(void *user, uint64_t offset, void *dst, size_t bytes) {
    FILE *file = (FILE *)user;
    return gguf_seek(file, offset, SEEK_SET) != 0 || fread(dst, 1, bytes, file) != bytes;
}

static inline int gguf_load_path(gguf_file *file, const char *path) {
    FILE *stream = fopen(path, "rb");
    gguf_source source;
    int64_t size = -1;
    int good = 0;
    memset(file, 0, sizeof(*file));
    if (stream == NULL || gguf_seek(stream, 0, SEEK_END) != 0 || (size = gguf_tell(stream)) < 0) {
        snprintf(file->error, sizeof(file->error), "cannot be opened for reading");
    } else {
        source.read = gguf_read_stdio;
        source.user = stream;
        source.size = (uint64_t)size;
        good = gguf_load(file, &source);
    }
    if (stream != NULL) {
        fclose(stream);
    }
    return good;
}

/* ---- writing: begin, the pairs, the tensors' descriptions, pad, then their bytes in order ---- */

typedef struct gguf_writer {
    FILE *file;
    uint64_t at;   /* bytes written */
    uint64_t data; /* where the next tensor will start, from the first on */
    int failed;    /* errno of the first failure, which stays */
} gguf_writer;

static inline void gguf_write(gguf_writer *w, const void *data, uint64_t bytes) {
    if (fwrite(data, 1, (size_t)bytes, w->file) != bytes && w->failed == 0) {
        w->failed = errno != 0 ? errno : EIO;
    }
    w->at += bytes;
}

static inline void gguf_write_uint(gguf_writer *w, uint64_t value, uint32_t bytes) {
    unsigned char b[8];
    for (uint32_t i = 0; i < bytes; i++) {
        b[i] = (unsigned char)(value >> (8 * i));
    }
    gguf_write(w, b, bytes);
}

static inline void gguf_write_float(gguf_writer *w, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    gguf_write_uint(w, bits, 4);
}

static inline void gguf_write_string(gguf_writer *w, const char *text) {
    gguf_write_uint(w, strlen(text), 8);
    gguf_write(w, text, strlen(text));
}

static inline void gguf_write_key(gguf_writer *w, const char *key, gguf_value type) {
    gguf_write_string(w, key);
    gguf_write_uint(w, (uint64_t)type, 4);
}

static inline void gguf_write_pair_u32(gguf_writer *w, const char *key, uint32_t value) {
    gguf_write_key(w, key, GGUF_U32);
    gguf_write_uint(w, value, 4);
}

static inline void gguf_write_pair_f32(gguf_writer *w, const char *key, float value) {
    gguf_write_key(w, key, GGUF_F32);
    gguf_write_float(w, value);
}

static inline void gguf_write_pair_string(gguf_writer *w, const char *key, const char *text) {
    gguf_write_key(w, key, GGUF_STRING);
    gguf_write_string(w, text);
}

/* Then `count` items follow. */
static inline void gguf_write_pair_array(gguf_writer *w, const char *key, gguf_value type,
                                         uint64_t count) {
    gguf_write_key(w, key, GGUF_ARRAY);
    gguf_write_uint(w, (uint64_t)type, 4);
    gguf_write_uint(w, count, 8);
}

static inline void gguf_write_begin(gguf_writer *w, FILE *file, uint64_t tensors, uint64_t pairs) {
    memset(w, 0, sizeof(*w));
    w->file = file;
    gguf_write(w, "GGUF", 4);
    gguf_write_uint(w, 3, 4);
    gguf_write_uint(w, tensors, 8);
    gguf_write_uint(w, pairs, 8);
}

/* dims sizes, fastest first; returns the bytes the tensor will need. Rows that are no whole blocks
 * of a known type are a failure of the writer. */
static inline uint64_t gguf_write_tensor(gguf_writer *w, const char *name, uint32_t type,
                                         const uint64_t *shape, uint32_t dims) {
    gguf_type_info info = gguf_type(type);
    uint64_t bytes = info.bytes;
    if (info.block == 0 || dims < 1 || dims > GGUF_MAX_DIMS || shape[0] % info.block != 0) {
        w->failed = EINVAL;
        return 0;
    }
    gguf_write_string(w, name);
    gguf_write_uint(w, dims, 4);
    for (uint32_t i = 0; i < dims; i++) {
        gguf_write_uint(w, shape[i], 8);
        bytes *= i == 0 ? shape[i] / info.block : shape[i];
    }
    gguf_write_uint(w, type, 4);
    gguf_write_uint(w, w->data, 8);
    w->data += (bytes + 31) & ~UINT64_C(31);
    return bytes;
}

/* After the descriptions and after each tensor's bytes. */
static inline void gguf_write_pad(gguf_writer *w) {
    static const unsigned char zeros[32];
    gguf_write(w, zeros, (32 - w->at % 32) % 32);
}

#endif /* GGUF_H */
