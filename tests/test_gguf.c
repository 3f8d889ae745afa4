/* test_gguf.c - examples/gguf.h, llama.h and llm_stream.c: damaged, truncated, hostile and foreign
 * files get one clear line and status 2; good ones are read, computed and streamed correctly. */
/* needs: -lm -pthread */
#if !defined(_POSIX_C_SOURCE)
#    define _POSIX_C_SOURCE 200809L
#endif
#include <stdlib.h>

/* One allocation of the program below can be made to fail. */
static long allocations_before = -1; /* so many succeed first; < 0: none fails */

static int allocation_fails(void) {
    return allocations_before >= 0 && allocations_before-- == 0;
}

static void *failing_malloc(size_t bytes) {
    return allocation_fails() ? NULL : malloc(bytes);
}

static void *failing_calloc(size_t count, size_t bytes) {
    return allocation_fails() ? NULL : calloc(count, bytes);
}

static void *failing_realloc(void *old, size_t bytes) {
    return allocation_fails() ? NULL : realloc(old, bytes);
}

#define malloc  failing_malloc
#define calloc  failing_calloc
#define realloc failing_realloc
#define LLM_STREAM_NO_MAIN
#include "../examples/llm_stream.c"
#undef malloc
#undef calloc
#undef realloc

#include "check.h"

/* ---- a good small file, and ways to spoil a copy of it ---- */

typedef struct bytes {
    unsigned char *data;
    size_t size;
} bytes;

static const recipe small_recipe = { 3, 64, 96, 4, 2, GGUF_TYPE_F32, 1 };
static char said[GGUF_ERROR_BYTES + 200];

static void no_progress(const char *what, uint64_t done, uint64_t total) {
    (void)what;
    (void)done;
    (void)total;
}

static int write_small(const char *path, const recipe *r) {
    message why = { "" };
    make_folder("build");
    return recipe_check(r, &why) && write_model(path, r, no_progress, &why);
}

static bytes read_bytes(const char *path) {
    bytes b = { NULL, 0 };
    FILE *f = fopen(path, "rb");
    if (f != NULL && fseek(f, 0, SEEK_END) == 0) {
        b.size = (size_t)ftell(f);
        rewind(f);
        b.data = (unsigned char *)malloc(b.size);
        if (b.data != NULL && fread(b.data, 1, b.size, f) != b.size) {
            b.size = 0;
        }
    }
    if (f != NULL) {
        fclose(f);
    }
    return b;
}

static bytes small_file(uint32_t type) {
    recipe r = small_recipe;
    r.type = type;
    CHECK(write_small("build/test_gguf.gguf", &r));
    return read_bytes("build/test_gguf.gguf");
}

static int write_bytes(const char *path, const void *data, size_t size) {
    FILE *f = fopen(path, "wb");
    int good = f != NULL && fwrite(data, 1, size, f) == size;
    return f != NULL && fclose(f) == 0 && good;
}

/* What is wrong with these bytes; "" = nothing. The copy is exact, so that memory checkers see the
 * first byte behind it. */
static const char *verdict(const unsigned char *data, size_t size) {
    llama m;
    vocabulary v;
    unsigned char *exact = (unsigned char *)malloc(size > 0 ? size : 1);
    memset(&m, 0, sizeof(m));
    memset(&v, 0, sizeof(v));
    said[0] = 0;
    if (exact == NULL) {
        return "no memory";
    }
    memcpy(exact, data, size);
    if (!gguf_load_memory(&m.file, exact, size)) {
        snprintf(said, sizeof(said), "%s", m.file.error);
        CHECK(said[0] != 0);
    } else if (!llama_understand(&m) || !vocabulary_open(&v, &m)) {
        snprintf(said, sizeof(said), "%s", m.why.text);
        CHECK(said[0] != 0);
    }
    for (uint64_t i = 0; i < m.file.tensor_count; i++) {
        const gguf_tensor *t = &m.file.tensors[i];
        CHECK(t->offset <= size && t->bytes <= size - t->offset);
    }
    CHECK(strchr(said, '\n') == NULL);
    vocabulary_close(&v);
    llama_close(&m);
    free(exact);
    return said;
}

static int says(const bytes *b, const char *wanted) {
    if (strstr(verdict(b->data, b->size), wanted) != NULL) {
        return *wanted != 0 || said[0] == 0; /* wanted "": nothing may be wrong */
    }
    printf("said '%s', wanted '%s'\n", said, wanted);
    return 0;
}

/* The byte behind `text` in the header, 0 = not there. */
static size_t behind(const bytes *b, const char *text) {
    size_t length = strlen(text);
    for (size_t i = 0; i + length <= b->size; i++) {
        if (memcmp(b->data + i, text, length) == 0) {
            return i + length;
        }
    }
    CHECK(text == NULL); /* the text is not in the file */
    return 0;
}

static void put(bytes *b, size_t at, uint64_t value, size_t size) {
    for (size_t i = 0; i < size && at + i < b->size; i++) {
        b->data[at + i] = (unsigned char)(value >> (8 * i));
    }
}

static void put_text(bytes *b, const char *old, const char *text) {
    size_t end = behind(b, old);
    CHECK_EQ(strlen(old), strlen(text));
    memcpy(b->data + end - strlen(old), text, strlen(text));
}

/* A spoiled copy must say `wanted`; `at` counts from behind `anchor` (NULL: the start). */
static void spoil(const bytes *good, const char *anchor, size_t at, uint64_t value, size_t size,
                  const char *wanted) {
    bytes b = { (unsigned char *)malloc(good->size), good->size };
    memcpy(b.data, good->data, good->size);
    put(&b, (anchor == NULL ? 0 : behind(&b, anchor)) + at, value, size);
    CHECK(says(&b, wanted));
    free(b.data);
}

static void rename_to(const bytes *good, const char *old, const char *text, const char *wanted) {
    bytes b = { (unsigned char *)malloc(good->size), good->size };
    memcpy(b.data, good->data, good->size);
    put_text(&b, old, text);
    CHECK(says(&b, wanted));
    free(b.data);
}

/* Behind the name of a matrix: dimensions 4, sizes 8 + 8, type 4, offset 8. */
enum { AT_DIMS = 0, AT_COLS = 4, AT_ROWS = 12, AT_TYPE = 20, AT_OFFSET = 24, AT_NORM_TYPE = 12 };

#define MATRIX "blk.1.ffn_up.weight"

TEST(good_files_are_read) {
    const uint32_t types[] = { GGUF_TYPE_F32, GGUF_TYPE_F16, GGUF_TYPE_BF16, GGUF_TYPE_Q8_0 };
    for (int i = 0; i < 4; i++) {
        bytes b = small_file(types[i]);
        llama m;
        CHECK(says(&b, ""));
        CHECK(llama_open(&m, "build/test_gguf.gguf"));
        CHECK_EQ(m.layers, small_recipe.layers);
        CHECK_EQ(m.dim, small_recipe.dim);
        CHECK_EQ(m.ffn, small_recipe.ffn);
        CHECK_EQ(m.heads, small_recipe.heads);
        CHECK_EQ(m.kv_heads, small_recipe.kv_heads);
        CHECK_EQ(m.vocab, BYTE_VOCAB);
        CHECK_EQ(m.output->type, types[i]);
        CHECK(recipe_matches(&m, &small_recipe) == (types[i] == GGUF_TYPE_F32));
        CHECK_EQ(m.file.tensors[m.file.tensor_count - 1].offset + m.output->bytes <= b.size, 1);
        llama_close(&m);
        free(b.data);
    }
}

TEST(a_long_path_is_written_and_a_bad_one_leaves_nothing) {
#if defined(_WIN32)
    char path[220] = "build"; /* a path of 260 is too long there */
#else
    char path[1500] = "build";
#endif
    message why = { "" };
    for (size_t i = strlen(path); i + 20 < sizeof(path); i += 2) {
        memcpy(path + i, "/.", 3);
    }
    memcpy(path + strlen(path), "/test_gguf.long", 16);
    CHECK(write_small(path, &small_recipe));
    CHECK_EQ(remove("build/test_gguf.long"), 0);
    CHECK(!write_model("build/no/such.gguf", &small_recipe, no_progress, &why));
    CHECK(strstr(why.text, "cannot write build/no/such.gguf: ") != NULL);
    why.text[0] = 0;
    CHECK(!write_model("build/.", &small_recipe, no_progress, &why)); /* build/..part, renamed */
    CHECK(why.text[0] != 0 && remove("build/..part") != 0);
}

TEST(a_full_disk_is_said) {
    message why = { "" };
    if (system("test -c /dev/full && ln -sf /dev/full build/test_gguf.full.part") != 0) {
        SKIP("a_full_disk_is_said", "no /dev/full");
        return;
    }
    CHECK(!write_model("build/test_gguf.full", &small_recipe, progress, &why));
    CHECK(strstr(why.text, strerror(ENOSPC)) != NULL);
    CHECK(remove("build/test_gguf.full.part") != 0); /* gone already */
}

TEST(no_file_is_written_that_would_not_be_read) {
    const uint64_t shape[2] = { 33, 2 };
    FILE *file = tmpfile();
    gguf_writer w;
    CHECK(file != NULL);
    gguf_write_begin(&w, file, 1, 0);
    CHECK_EQ(gguf_write_tensor(&w, "good", GGUF_TYPE_F16, shape, 2), 132);
    CHECK_EQ(w.failed, 0);
    CHECK_EQ(gguf_write_tensor(&w, "no blocks", GGUF_TYPE_Q8_0, shape, 2), 0);
    CHECK_EQ(w.failed, EINVAL);
    gguf_write_begin(&w, file, 1, 0);
    CHECK_EQ(gguf_write_tensor(&w, "no type", 4, shape, 2), 0);
    CHECK_EQ(w.failed, EINVAL);
    fclose(file);
}

TEST(every_truncation_is_refused) {
    bytes b = small_file(GGUF_TYPE_F32);
    llama m;
    CHECK(llama_open(&m, "build/test_gguf.gguf"));
    size_t header = (size_t)m.file.data_offset;
    llama_close(&m);
    for (size_t size = 0; size < header; size += (size_t)check_scale(1, 7)) {
        CHECK(verdict(b.data, size)[0] != 0);
    }
    for (size_t size = header; size + 32 < b.size; size += 997) {
        CHECK(verdict(b.data, size)[0] != 0);
    }
    CHECK(verdict(b.data, 0)[0] != 0);
    free(b.data);
}

TEST(damage_never_crashes) {
    bytes b = small_file(GGUF_TYPE_Q8_0);
    llama m;
    uint64_t state = 42;
    CHECK(llama_open(&m, "build/test_gguf.gguf"));
    size_t header = (size_t)m.file.data_offset;
    llama_close(&m);
    for (size_t at = 0; at < header; at += (size_t)check_scale(1, 11)) {
        unsigned char keep = b.data[at];
        b.data[at] = (unsigned char)(keep + 1 + random_next(&state) % 255);
        verdict(b.data, b.size);
        b.data[at] = 0xff;
        verdict(b.data, b.size);
        b.data[at] = keep;
    }
    for (int round = 0; round < check_scale(4000, 200); round++) {
        size_t at = (size_t)(random_next(&state) % (header - 8));
        unsigned char keep[8];
        memcpy(keep, b.data + at, 8);
        put(&b, at, random_next(&state) >> random_next(&state) % 64, 8);
        verdict(b.data, b.size);
        memcpy(b.data + at, keep, 8);
    }
    CHECK(says(&b, ""));
    free(b.data);
}

TEST(foreign_starts_are_refused) {
    bytes b = small_file(GGUF_TYPE_F32);
    spoil(&b, NULL, 0, 0x46474747, 4, "not a GGUF file");
    spoil(&b, NULL, 4, 1, 4, "version 1");
    spoil(&b, NULL, 4, 4, 4, "version 4");
    spoil(&b, NULL, 4, 3u << 24, 4, "big-endian");
    spoil(&b, NULL, 8, UINT64_MAX, 8, "tensors do not fit");
    spoil(&b, NULL, 16, UINT64_MAX, 8, "pairs do not fit");
    spoil(&b, NULL, 8, 31, 8, "byte "); /* one more than there are */
    CHECK(strstr(verdict((const unsigned char *)"PK\3\4, an archive of some kind", 28),
                 "not a GGUF"));
    CHECK(strstr(verdict((const unsigned char *)"", 0), "not a GGUF"));
    free(b.data);
}

TEST(hostile_pairs_are_refused) {
    bytes b = small_file(GGUF_TYPE_F32);
    spoil(&b, NULL, 24, UINT64_MAX, 8, "does not fit in the file");
    spoil(&b, NULL, 24, UINT64_C(1) << 40, 8, "does not fit in the file");
    spoil(&b, NULL, 24, 0, 8, "a key of 0 bytes");
    spoil(&b, NULL, 35, 0, 1, "zero byte inside");
    spoil(&b, "general.name", 0, 13, 4, "unknown value type 13");
    spoil(&b, "tokenizer.ggml.scores", 4, 9, 4, "arrays inside arrays");
    spoil(&b, "tokenizer.ggml.scores", 8, UINT64_MAX, 8, "items do not fit");
    spoil(&b, "tokenizer.ggml.scores", 8, UINT64_MAX / 4 + 2, 8, "items do not fit");
    spoil(&b, "tokenizer.ggml.tokens", 8, UINT64_C(1) << 60, 8, "items do not fit");
    spoil(&b, "general.alignment", 4, 0, 4, "general.alignment");
    spoil(&b, "general.alignment", 4, 48, 4, "general.alignment");
    spoil(&b, "general.alignment", 4, 1u << 31, 4, "general.alignment");
    rename_to(&b, "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
              "tokenizer.ggml.eos_token_id is there twice");
    free(b.data);
}

TEST(hostile_tensors_are_refused) {
    bytes b = small_file(GGUF_TYPE_F32);
    spoil(&b, MATRIX, AT_DIMS, 0, 4, MATRIX " has 0 dimensions");
    spoil(&b, MATRIX, AT_DIMS, 5, 4, MATRIX " has 5 dimensions");
    spoil(&b, MATRIX, AT_COLS, 0, 8, MATRIX " has a dimension of 0");
    spoil(&b, MATRIX, AT_COLS, UINT64_MAX, 8, "more elements than can be counted");
    spoil(&b, MATRIX, AT_ROWS, UINT64_C(1) << 58, 8, "more elements than can be counted");
    spoil(&b, MATRIX, AT_ROWS, UINT64_C(1) << 40, 8, MATRIX " needs");
    spoil(&b, MATRIX, AT_TYPE, 99, 4, MATRIX " has the unknown type 99");
    spoil(&b, MATRIX, AT_TYPE, 4, 4, MATRIX " has the unknown type 4");
    spoil(&b, MATRIX, AT_TYPE, 12, 4, "not whole Q4_K blocks");
    spoil(&b, MATRIX, AT_OFFSET, 4, 8, "not a multiple of 32");
    spoil(&b, MATRIX, AT_OFFSET, UINT64_MAX - 31, 8, MATRIX " needs");
    spoil(&b, MATRIX, AT_OFFSET, b.size & ~UINT64_C(31), 8, MATRIX " needs");
    spoil(&b, MATRIX, AT_OFFSET, 0, 8, "overlap");
    rename_to(&b, MATRIX, "blk.2.ffn_up.weight", "blk.2.ffn_up.weight is there twice");
    rename_to(&b, MATRIX, "blk.1.ffn_up\nweight", "the tensor " MATRIX " is missing");
    free(b.data);
}

TEST(other_models_are_refused) {
    bytes b = small_file(GGUF_TYPE_F32);
    rename_to(&b, "general.architecture", "general.Architecture",
              "general.architecture is missing");
    spoil(&b, "general.architecture", 12, 'L', 1, "the architecture is 'Llama'");
    rename_to(&b, "llama.block_count", "llama.Block_count", "llama.block_count is missing");
    spoil(&b, "llama.block_count", 4, 0, 4, "llama.block_count is 0");
    spoil(&b, "llama.block_count", 4, 4, 4, "blk.3.attn_norm.weight is missing");
    spoil(&b, "llama.block_count", 4, 4000, 4, "blk.3.attn_norm.weight is missing");
    spoil(&b, "llama.block_count", 4, 2, 4, "is not part of a plain Llama model");
    spoil(&b, "llama.block_count", 0, GGUF_F32, 4, "llama.block_count is not an integer");
    spoil(&b, "llama.embedding_length", 4, UINT32_MAX, 4, "llama.embedding_length is 4294967295");
    spoil(&b, "llama.embedding_length", 4, 128, 4, "not 128 x");
    spoil(&b, "llama.feed_forward_length", 4, 97, 4,
          "blk.0.ffn_gate.weight is 64 x 96 x 1, not 64 x 97");
    spoil(&b, "llama.attention.head_count", 4, 3, 4, "do not divide");
    spoil(&b, "llama.attention.head_count_kv", 4, 3, 4, "do not divide");
    spoil(&b, "llama.attention.head_count_kv", 4, 4, 4, "blk.0.attn_k.weight is 64 x 32 x 1");
    spoil(&b, "llama.rope.dimension_count", 4, 7, 4, "7 rotated");
    spoil(&b, "llama.attention.layer_norm_rms_epsilon", 4, 0x7fc00000, 4, "not a positive number");
    spoil(&b, "tokenizer.ggml.bos_token_id", 4, 259, 4, "tokenizer.ggml.bos_token_id is 259");
    rename_to(&b, "tokenizer.ggml.tokens", "tokenizer.ggml.Tokens", "not a list of 259 strings");
    free(b.data);
}

TEST(other_tensors_are_refused) {
    bytes b = small_file(GGUF_TYPE_F32);
    rename_to(&b, "blk.2.attn_output.weight", "blk.2.attn_0utput.weight",
              "blk.2.attn_output.weight is missing");
    rename_to(&b, "token_embd.weight", "token_embd.Weight", "token_embd.weight is missing");
    spoil(&b, MATRIX, AT_TYPE, 2, 4, MATRIX " has type Q4_0; only F32, F16, BF16 and Q8_0");
    spoil(&b, MATRIX, AT_TYPE, 24, 4, MATRIX " has type I8");
    spoil(&b, "blk.1.ffn_norm.weight", AT_NORM_TYPE, GGUF_TYPE_F16, 4,
          "has type F16; only F32 can");
    spoil(&b, MATRIX, AT_ROWS, 95, 8, MATRIX " is 64 x 95 x 1, not 64 x 96");
    free(b.data);
}

/* A vector takes its first size only: more bytes than that must never be read as one. */
TEST(vectors_have_one_dimension) {
    bytes b = small_file(GGUF_TYPE_F32);
    for (int dim = 1; dim < GGUF_MAX_DIMS; dim++) {
        llama m;
        memset(&m, 0, sizeof(m));
        CHECK(gguf_load_memory(&m.file, b.data, b.size));
        for (uint64_t i = 0; i < m.file.tensor_count; i++) {
            if (strcmp(m.file.tensors[i].name.text, "output_norm.weight") == 0) {
                m.file.tensors[i].shape[dim] = 2;
            }
        }
        CHECK(!llama_understand(&m));
        CHECK(strstr(m.why.text, "output_norm.weight is 64 x ") != NULL);
        llama_close(&m);
    }
    free(b.data);
}

/* ---- numbers ---- */

TEST(halves_survive_the_round_trip) {
    for (uint32_t half = 0; half < 65536; half++) {
        float wide = float_from_half((uint16_t)half);
        if (wide == wide) {
            CHECK_EQ(half_from_float(wide), half);
        }
    }
    CHECK_EQ(half_from_float(65504.0f), 0x7bff);
    CHECK_EQ(half_from_float(65520.0f), 0x7c00);
    CHECK_EQ(half_from_float(-1e30f), 0xfc00);
    CHECK_EQ(half_from_float(1.0f + 0x1p-11f), 0x3c00); /* a tie, to even */
    CHECK_EQ(half_from_float(1.0f + 0x1.8p-10f), 0x3c02);
    CHECK_EQ(bfloat_from_float(1.0f + 0x1p-8f), 0x3f80);
}

static float naive_product(const void *row, uint32_t type, const float *x, size_t n) {
    float *wide = (float *)malloc(n * sizeof(float));
    double sum = 0.0;
    widen_row(wide, row, type, n);
    for (size_t i = 0; i < n; i++) {
        sum += (double)wide[i] * (double)x[i];
    }
    free(wide);
    return (float)sum;
}

TEST(products_are_right_in_every_type) {
    const uint32_t types[] = { GGUF_TYPE_F32, GGUF_TYPE_F16, GGUF_TYPE_BF16, GGUF_TYPE_Q8_0 };
    enum { N = 96 + 32 };
    int8_t values[N], quants[N];
    unsigned char row[N * 4 + BLOCK_BYTES];
    float x[N], scales[N / BLOCK], rounded[N], out;
    quantized scratch = { quants, scales, rounded };
    uint64_t state = 7;
    for (int round = 0; round < 4 * 50; round++) {
        uint32_t type = types[round % 4];
        size_t n = type == GGUF_TYPE_Q8_0 ? N : (size_t)N - (size_t)(round / 4 % 20);
        matrix m = { row, type, 1, n };
        random_values(values, N, &state);
        encode_row(row, values, n, half_from_float(0.01f), type);
        random_values(values, N, &state);
        for (int i = 0; i < N; i++) {
            x[i] = (float)values[i] / 64.0f;
        }
        prepare(scratch, x, n, type);
        multiply(NULL, &out, m, x, scratch);
        float exact = naive_product(row, type, x, n);
        CHECK(fabsf(out - exact) < (type == GGUF_TYPE_Q8_0 ? 0.2f : 1e-3f));
    }
}

static void count_item(void *user, size_t item) {
    ((unsigned char *)user)[item]++;
}

/* Jobs follow each other at once, while members are asleep, awake, or late from the last one. */
TEST(a_team_does_every_item_once) {
    enum { MOST = 300 };
    unsigned char done[MOST];
    for (int threads = 1; threads <= 4; threads++) {
        team t;
        team_open(&t, threads);
        for (size_t round = 0; round < 400; round++) {
            size_t count = round % 7 == 0 ? MOST : round % 7, wrong = 0;
            memset(done, 0, sizeof(done));
            team_run(&t, count_item, done, count);
            for (size_t i = 0; i < MOST; i++) {
                wrong += done[i] != (i < count);
            }
            CHECK_EQ(wrong, 0);
        }
        team_close(&t);
    }
}

TEST(pieces_cover_the_model_once) {
    const uint64_t sizes[] = { 1, 300, 1 << 20 };
    free(small_file(GGUF_TYPE_F32).data);
    llama m;
    CHECK(llama_open(&m, "build/test_gguf.gguf"));
    for (int i = 0; i < 3; i++) {
        size_t count = llama_pieces(&m, sizes[i], NULL);
        uint64_t sum = m.embedding->bytes;
        model_piece *p = (model_piece *)calloc(count, sizeof(*p));
        CHECK(p != NULL && llama_pieces(&m, sizes[i], p) == count);
        for (size_t k = 0; p != NULL && k < count; k++) {
            uint64_t row = bytes_of_row(p[k].tensor->type, (size_t)p[k].tensor->shape[0]);
            CHECK(p[k].rows == 1 || p[k].rows * row <= sizes[i]);
            CHECK(p[k].first == 0 ||
                  (p[k - 1].tensor == p[k].tensor && p[k - 1].first + p[k - 1].rows == p[k].first));
            sum += p[k].rows * row + (p[k].norm != NULL ? p[k].norm->bytes : 0);
        }
        CHECK_EQ(sum, m.weight_bytes);
        free(p);
    }
    llama_close(&m);
}

TEST(quantizing_survives_what_is_no_number) {
    float x[BLOCK] = { 1.0f, -INFINITY, INFINITY, NAN, 1e38f };
    int8_t quants[BLOCK];
    float scale;
    quantized out = { quants, &scale, NULL };
    quantize(out, x, BLOCK);
    memset(x, 0, sizeof(x));
    quantize(out, x, BLOCK);
    CHECK(scale == 0.0f && quants[0] == 0);
    x[3] = -1e-40f; /* 127 divided by this is infinite */
    quantize(out, x, BLOCK);
    CHECK(scale == 0.0f && quants[0] == 0 && quants[3] == 0);
    x[3] = -2.54f;
    quantize(out, x, BLOCK);
    CHECK_EQ(quants[3], -127);
    CHECK(fabsf(scale - 0.02f) < 1e-4f);
}

/* ---- the vocabulary ---- */

TEST(text_becomes_bytes_and_returns) {
    bytes b = small_file(GGUF_TYPE_F32);
    llama m;
    vocabulary v;
    uint32_t token[64];
    char piece[16];
    const unsigned char expected[] = { 'a', 0xe2, 0x96, 0x81, 0xc3, 0xa9, 0xff };
    CHECK(llama_open(&m, "build/test_gguf.gguf") && vocabulary_open(&v, &m));
    CHECK_EQ(vocabulary_encode(&v, "a \xc3\xa9\xff", token), 8);
    CHECK_EQ(token[0], 1); /* begin */
    for (int i = 0; i < 7; i++) {
        CHECK_EQ(token[i + 1], expected[i] + 3);
        CHECK_EQ(vocabulary_decode(&v, token[i + 1], piece, sizeof(piece)), 1);
        CHECK_EQ((unsigned char)piece[0], expected[i]);
    }
    CHECK_EQ(vocabulary_encode(&v, "", token), 1);
    vocabulary_close(&v);
    llama_close(&m);
    free(b.data);
}

TEST(only_the_name_of_a_byte_is_one) {
    static const char *const names[] = {
        "<0x-1>", "<0x+1>", "<0x 4>", "<0x4>>", "<0x411", "<0x0x>"
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        bytes b = small_file(GGUF_TYPE_F32);
        llama m;
        vocabulary v;
        char piece[16];
        put_text(&b, "<0x41>", names[i]);
        memset(&m, 0, sizeof(m));
        CHECK(gguf_load_memory(&m.file, b.data, b.size) && llama_understand(&m));
        CHECK(vocabulary_open(&v, &m));
        CHECK_EQ(vocabulary_decode(&v, 3 + 0x41, piece, sizeof(piece)), 6);
        CHECK(memcmp(piece, names[i], 6) == 0);
        CHECK_EQ(vocabulary_decode(&v, 3 + 0x41, piece, 5), 5);
        vocabulary_close(&v);
        llama_close(&m);
        free(b.data);
    }
}

TEST(only_well_formed_text_is_read) {
    static const char *const good[] = { "A",
                                        "\x7f",
                                        "\xc2\x80",
                                        "\xe0\xa0\x80",
                                        "\xed\x9f\xbf",
                                        "\xef\xbf\xbf",
                                        "\xf0\x90\x80\x80",
                                        "\xf4\x8f\xbf\xbf" };
    static const uint32_t codes[] = { 'A', 0x7f, 0x80, 0x800, 0xd7ff, 0xffff, 0x10000, 0x10ffff };
    /* the rest of a character, an escape spelt too long three times, a half, too large, no start */
    static const char *const bad[] = { "\x80",         "\xc0\x9b",
                                       "\xe0\x80\x9b", "\xf0\x80\x80\x9b",
                                       "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                       "\xf8",         "\xff" };
    uint32_t code = 0;
    for (size_t i = 0; i < 8; i++) {
        size_t size = strlen(good[i]);
        CHECK_EQ(utf8_read(good[i], size, &code), size);
        CHECK_EQ(code, codes[i]);
        CHECK_EQ(utf8_read(good[i], size - 1, &code), 0);
        CHECK_EQ(utf8_read(bad[i], strlen(bad[i]), &code), 0);
    }
    CHECK_EQ(utf8_read("\xc3(", 2, &code), 0);
}

TEST(the_alphabet_of_bytes_counts_what_does_not_print) {
    uint32_t next = 256;
    for (uint32_t b = 0; b < 256; b++) {
        int prints = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        CHECK_EQ(byte_level_code((unsigned char)b), prints ? b : next);
        next += prints ? 0 : 1;
    }
}

/* ---- the program ---- */

static int run_program(const char *const *argument) {
    char *argv[24] = { (char *)(uintptr_t) "llm_stream" };
    int argc = 1;
    while (argument[argc - 1] != NULL) {
        argv[argc] = (char *)(uintptr_t)argument[argc - 1];
        argc++;
    }
    return llm_stream_main(argc, argv);
}

#define PROGRAM(...) run_program((const char *const[]){ __VA_ARGS__, NULL })

TEST(unusable_input_is_status_2) {
    bytes b = small_file(GGUF_TYPE_F32);
    CHECK_EQ(PROGRAM("--model", "build/no/such/file"), 2);
    CHECK_EQ(PROGRAM("--model", "build"), 2);
    CHECK(write_bytes("build/test_gguf.bad", "", 0));
    CHECK_EQ(PROGRAM("--model", "build/test_gguf.bad"), 2);
    CHECK(write_bytes("build/test_gguf.bad", b.data, b.size / 2));
    CHECK_EQ(PROGRAM("--model", "build/test_gguf.bad"), 2);
    CHECK_EQ(PROGRAM("--model", "build/test_gguf.gguf", "--tokens", "4097"), 2);
    CHECK_EQ(PROGRAM("--model", "build/test_gguf.gguf", "--tokens", "4096"), 2); /* context */
    CHECK_EQ(PROGRAM("--tokens"), 2);
    CHECK_EQ(PROGRAM("--tokens", "0"), 2);
    CHECK_EQ(PROGRAM("--tokens", "12x"), 2);
    CHECK_EQ(PROGRAM("--tokens", "-1"), 2);
    CHECK_EQ(PROGRAM("--device-bytes", "99999999999999999999"), 2);
    CHECK_EQ(PROGRAM("--device-bytes", "99999999999G"), 2);
    CHECK_EQ(PROGRAM("--device-share", "0"), 2);
    CHECK_EQ(PROGRAM("--host-share", "nan"), 2);
    CHECK_EQ(PROGRAM("--policy", "fifo"), 2);
    CHECK_EQ(PROGRAM("--model", ""), 2);
    CHECK_EQ(PROGRAM("--tiers", "4"), 2);
    CHECK_EQ(PROGRAM("--threads", "0"), 2);
    CHECK_EQ(PROGRAM("--pump", "never"), 2);
    CHECK_EQ(PROGRAM("--nonsense", "1"), 2);
    CHECK_EQ(PROGRAM("--write-model", "build/x.gguf", "--dim", "100", "--heads", "3"), 2);
    CHECK_EQ(PROGRAM("--write-model", "build/x.gguf", "--layers", "4097"), 2);
    CHECK_EQ(PROGRAM("--write-model", "build/x.gguf", "--kv-heads", "65537"), 2);
    CHECK_EQ(PROGRAM("--help"), 0);
    remove("build/test_gguf.bad");
    free(b.data);
}

#define SMALL                                                                                      \
    "--model", "build/test_gguf.gguf", "--trace", "build/test_gguf.json", "--picture",             \
        "build/test_gguf.svg", "--check"

TEST(small_models_stream) {
    const uint32_t types[] = { GGUF_TYPE_F32, GGUF_TYPE_F16, GGUF_TYPE_BF16, GGUF_TYPE_Q8_0 };
    recipe r = small_recipe;
    r.layers = 12;
    for (int i = 0; i < check_scale(4, 1); i++) {
        r.type = types[3 - i];
        CHECK(write_small("build/test_gguf.gguf", &r));
        CHECK_EQ(PROGRAM(SMALL, "--tokens", "6"), 0);
        CHECK_EQ(PROGRAM(SMALL, "--tokens", "6", "--policy", "lru"), 0);
        CHECK_EQ(PROGRAM(SMALL, "--tokens", "3", "--device-share", "40%", "--host-share", "15%"),
                 0);
        CHECK_EQ(PROGRAM(SMALL, "--tokens", "3", "--device-share", "2", "--host-share", "2"), 0);
        CHECK_EQ(PROGRAM(SMALL, "--tokens", "3", "--no-schedule", "--direct"), 0);
        CHECK_EQ(PROGRAM(SMALL, "--tokens", "4", "--tiers", "2", "--piece-bytes", "700", "--once",
                         "--threads", "3"),
                 0);
    }
}

#if defined(TENSORMEM_THREADS)
TEST(a_thread_pumps_under_the_compute) {
    recipe r = small_recipe;
    r.layers = 12;
    r.type = GGUF_TYPE_Q8_0;
    CHECK(write_small("build/test_gguf.gguf", &r));
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(PROGRAM(SMALL, "--tokens", "5", "--pump", "thread", "--threads", "2", "--tiers",
                         i == 0 ? "2" : "3", "--piece-bytes", "2K", "--direct"),
                 0);
    }
}
#endif

TEST(a_budget_too_small_is_said) {
    free(small_file(GGUF_TYPE_F32).data);
    CHECK_EQ(PROGRAM(SMALL, "--tokens", "2", "--device-bytes", "4K"), 1);
    CHECK_EQ(demo_budget(0, 1e-9, 1000), 1); /* 0 would be no limit */
    CHECK_EQ(demo_budget(0, 0.25, 1000), 250);
    CHECK_EQ(demo_budget(7, 0.25, 1000), 7);
}

/* Memory that is refused once ends in a refusal, or was for something that can be done without. */
TEST(every_allocation_may_fail) {
    recipe r = small_recipe;
    int status, failed = 0;
    r.layers = 12;
    CHECK(write_small("build/test_gguf.gguf", &r));
    for (long n = 0;; n += check_scale(1, 7)) {
        allocations_before = n;
        status = PROGRAM(SMALL, "--tokens", "2");
        if (allocations_before >= 0) { /* there were no more than n */
            break;
        }
        CHECK(status >= 0 && status <= 2);
        failed += status != 0;
    }
    allocations_before = -1;
    CHECK_EQ(status, 0);
    CHECK(failed > 0);
}

TEST(the_trace_is_json) {
    recipe r = small_recipe;
    r.layers = 8;
    CHECK(write_small("build/test_gguf.gguf", &r));
    CHECK_EQ(PROGRAM(SMALL, "--tokens", "3"), 0);
    if (system("python3 -c pass >/dev/null 2>&1") != 0) {
        SKIP("the_trace_is_json", "no python3");
        return;
    }
    CHECK_EQ(system("python3 -m json.tool build/test_gguf.json >/dev/null"), 0);
    CHECK_EQ(system("python3 -c \"import xml.dom.minidom as x; x.parse('build/test_gguf.svg')\""),
             0);
}

int main(void) {
    RUN(good_files_are_read);
    RUN(a_long_path_is_written_and_a_bad_one_leaves_nothing);
    RUN(a_full_disk_is_said);
    RUN(no_file_is_written_that_would_not_be_read);
    RUN(every_truncation_is_refused);
    RUN(damage_never_crashes);
    RUN(foreign_starts_are_refused);
    RUN(hostile_pairs_are_refused);
    RUN(hostile_tensors_are_refused);
    RUN(other_models_are_refused);
    RUN(other_tensors_are_refused);
    RUN(vectors_have_one_dimension);
    RUN(halves_survive_the_round_trip);
    RUN(products_are_right_in_every_type);
    RUN(a_team_does_every_item_once);
    RUN(pieces_cover_the_model_once);
    RUN(quantizing_survives_what_is_no_number);
    RUN(text_becomes_bytes_and_returns);
    RUN(only_the_name_of_a_byte_is_one);
    RUN(only_well_formed_text_is_read);
    RUN(the_alphabet_of_bytes_counts_what_does_not_print);
    RUN(unusable_input_is_status_2);
    RUN(small_models_stream);
#if defined(TENSORMEM_THREADS)
    RUN(a_thread_pumps_under_the_compute);
#endif
    RUN(a_budget_too_small_is_said);
    RUN(every_allocation_may_fail);
    RUN(the_trace_is_json);
    return check_done();
}
