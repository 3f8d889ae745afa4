/* fuzz_gguf.c - any bytes as a GGUF file: refused with a reason, or fit for all we do to one. */
/* needs: -lm -pthread */
#if !defined(_POSIX_C_SOURCE)
#    define _POSIX_C_SOURCE 200809L
#endif
#define GGUF_CHUNK_BYTES 1 /* every item its own block: an overrun does not stay inside an arena */
#include "../examples/llama.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t sink; /* what was read matters to nobody, but it must be read */

static void require(int held) {
    if (!held) {
        abort();
    }
}

static uint64_t hash_text(const char *text, uint64_t length) {
    uint64_t hash = 0;
    for (uint64_t i = 0; i < length; i++) {
        hash = hash * 31 + (unsigned char)text[i];
    }
    return hash;
}

static void walk_pairs(const gguf_file *file) {
    for (uint64_t i = 0; i < file->pair_count; i++) {
        const gguf_pair *pair = &file->pairs[i];
        require(gguf_find_pair(file, pair->key.text) == pair);
        for (uint64_t j = 0; j < pair->count; j++) {
            sink += gguf_item_uint(pair, j) + (gguf_item_float(pair, j) > 0.5 ? 1u : 0u);
            if (pair->type == GGUF_STRING) {
                const gguf_string *text = (const gguf_string *)pair->data + j;
                require(text->text[text->length] == 0);
                sink += hash_text(text->text, text->length);
            }
        }
    }
}

static void walk_tensors(const gguf_file *file, const uint8_t *data, size_t size) {
    for (uint64_t i = 0; i < file->tensor_count; i++) {
        const gguf_tensor *t = &file->tensors[i];
        require(gguf_find_tensor(file, t->name.text) == t);
        require(t->offset <= size && t->bytes <= size - t->offset && t->offset % 8 == 0);
        sink += hash_text((const char *)data + t->offset, t->bytes);
    }
}

static spot spot_at(const void *bytes) { /* weights are only read */
    spot where = { 0 };
    where.host = (void *)(uintptr_t)bytes;
    return where;
}

static void speak(const llama *m, const uint32_t *token, size_t count, const uint8_t *data) {
    engine e;
    enum { PIECE_BYTES = 256 }; /* few rows at a time, as who has little memory would */
    size_t room = 2 * count * m->kv_dim, pieces = llama_pieces(m, PIECE_BYTES, NULL);
    float *kv = (float *)calloc(m->layers * room, sizeof(float));
    model_piece *piece = (model_piece *)calloc(pieces, sizeof(*piece));
    if (engine_open(&e, m, count, 1) && kv != NULL && piece != NULL) {
        size_t row_bytes = bytes_of_row(m->embedding->type, m->dim);
        const gguf_tensor *factors = m->rope_factors;
        if (factors != NULL) {
            memcpy(e.rope_factors, data + factors->offset, (size_t)factors->bytes);
        }
        require(llama_pieces(m, PIECE_BYTES, piece) == pieces);
        for (size_t at = 0; at < count; at++) {
            engine_begin(&e, data + m->embedding->offset + token[at] * row_bytes, at);
            for (size_t i = 0; i < pieces; i++) {
                const model_piece *p = &piece[i];
                const void *norm = p->norm == NULL ? NULL : data + p->norm->offset;
                float *cache = p->layer < m->layers ? kv + p->layer * room : NULL;
                engine_piece(&e, p, spot_at(data + piece_offset(p)), spot_at(norm), spot_at(cache),
                             at);
            }
            sink += engine_best(&e);
        }
    }
    engine_close(&e);
    free(piece);
    free(kv);
}

static void use(llama *m, const uint8_t *data) {
    vocabulary v;
    uint32_t token[64];
    char piece[128];
    if (vocabulary_open(&v, m)) {
        size_t count = vocabulary_encode(&v, "a b\xc3\xa9!", token);
        require(count > 0 && count < 28);
        for (size_t i = 0; i < count; i++) {
            require(token[i] < m->vocab);
            require(vocabulary_decode(&v, token[i], piece, sizeof(piece)) <= sizeof(piece));
        }
        for (uint32_t i = 0; i < v.count; i++) {
            require(vocabulary_decode(&v, i, piece, 5) <= 5);
        }
        if (m->weight_bytes < 65536 && m->layers * m->kv_dim < 65536) {
            speak(m, token, count < 2 ? count : 2, data);
        }
    }
    vocabulary_close(&v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    llama m;
    memset(&m, 0, sizeof(m));
    if (!gguf_load_memory(&m.file, data, size)) {
        require(m.file.error[0] != 0 && strchr(m.file.error, '\n') == NULL);
        return 0;
    }
    walk_pairs(&m.file);
    walk_tensors(&m.file, data, size);
    if (llama_understand(&m)) {
        use(&m, data);
    } else {
        require(m.why.text[0] != 0 && strchr(m.why.text, '\n') == NULL);
    }
    llama_close(&m);
    return 0;
}
