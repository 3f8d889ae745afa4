/* llama.h - a small Llama engine over GGUF files: what llm_stream.c streams. */
/*
 * Knows nothing of tensormem: it reads what the file says (model), turns text into tokens and
 * back (vocabulary), computes one layer after the other from addresses it is given (transformer),
 * and can write a model with random weights to try all that (writer). F32, F16, BF16 and Q8_0
 * matrices, rotary positions, grouped-query attention, SwiGLU; one token at a time, by several
 * threads.
 *
 * Sections: messages, team, kernels, model, vocabulary, transformer, writer. Needs -lm -pthread. */
#ifndef LLAMA_H
#define LLAMA_H

#include "gguf.h"

#include <math.h>
#if !defined(_WIN32) && !defined(LLAMA_NO_THREADS)
#    define LLAMA_THREADS 1
#    include <pthread.h>
#    include <sched.h>
#endif
#if defined(__AVX2__)
#    include <immintrin.h>
#endif

/* ---- messages ------------------------------------------------------------------------------- */

typedef struct message { /* one line for a person; empty = all is well */
    char text[400];
} message;

GGUF_FORMAT(2, 3)
static inline int
refuse(message *why, const char *format, ...) { /* the first reason stays; always 0 */
    va_list args;
    if (why->text[0] == 0) {
        va_start(args, format);
        vsnprintf(why->text, sizeof(why->text), format, args);
        va_end(args);
    }
    return 0;
}

/* ---- team -----------------------------------------------------------------------------------
 * Threads that share a job of `count` items: whoever is free takes the next one. The caller works
 * too and waits only for items that others have taken, so a member that sleeps, or whose core is
 * busy with something else, delays nobody. Without threads the caller does it all. */

typedef void team_call(void *user, size_t item);

#if defined(LLAMA_THREADS)
enum { TEAM_MOST = 64, TEAM_PATIENCE = 2000 }; /* looks for work before a member sleeps */

typedef struct team {
    team_call *call; /* the job: written while `left` is 0 and nobody is inside an item */
    void *user;
    size_t count;
    uint64_t left;     /* atomic: number of the job << 32 | items that nobody has taken */
    uint32_t done;     /* atomic: items that others have finished */
    uint32_t sleepers; /* atomic */
    int stop;          /* under the lock */
    int members;       /* beside the caller */
    pthread_t thread[TEAM_MOST];
    pthread_mutex_t lock;
    pthread_cond_t bell;
} team;

static inline void team_pause(void) {
#    if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#    endif
}

/* Takes an item. The number of the job is part of the word, so that who was slow cannot take one
 * of a job he has not seen. */
static inline int team_take(team *t, size_t *item) {
    uint64_t left = __atomic_load_n(&t->left, __ATOMIC_SEQ_CST);
    while ((uint32_t)left != 0) {
        if (__atomic_compare_exchange_n(&t->left, &left, left - 1, 1, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            *item = t->count - (uint32_t)left;
            return 1;
        }
    }
    return 0;
}

/* Sleeps until there is an item; 0 = the team goes home. Who starts a job looks for sleepers after
 * it has put its items there, and a sleeper looks for items after it has said that it sleeps. */
static inline int team_sleep(team *t) {
    pthread_mutex_lock(&t->lock);
    __atomic_add_fetch(&t->sleepers, 1, __ATOMIC_SEQ_CST);
    while (!t->stop && (uint32_t)__atomic_load_n(&t->left, __ATOMIC_SEQ_CST) == 0) {
        pthread_cond_wait(&t->bell, &t->lock);
    }
    __atomic_sub_fetch(&t->sleepers, 1, __ATOMIC_SEQ_CST);
    int stop = t->stop;
    pthread_mutex_unlock(&t->lock);
    return !stop;
}

static inline void *team_member(void *user) {
    team *t = (team *)user;
    size_t item;
    do {
        for (int idle = 0; idle < TEAM_PATIENCE; idle++) {
            while (team_take(t, &item)) {
                t->call(t->user, item);
                __atomic_add_fetch(&t->done, 1, __ATOMIC_RELEASE);
                idle = 0;
            }
            team_pause();
        }
    } while (team_sleep(t));
    return NULL;
}

static inline void team_wake(team *t, int stop) {
    pthread_mutex_lock(&t->lock);
    t->stop |= stop;
    pthread_cond_broadcast(&t->bell);
    pthread_mutex_unlock(&t->lock);
}

/* Fewer members than asked for are no failure. */
static inline void team_open(team *t, int threads) {
    memset(t, 0, sizeof(*t));
    if (threads < 2 || pthread_mutex_init(&t->lock, NULL) != 0) {
        return;
    }
    if (pthread_cond_init(&t->bell, NULL) != 0) {
        pthread_mutex_destroy(&t->lock);
        return;
    }
    while (t->members + 1 < threads && t->members < TEAM_MOST &&
           pthread_create(&t->thread[t->members], NULL, team_member, t) == 0) {
        t->members++;
    }
    if (t->members == 0) {
        pthread_cond_destroy(&t->bell);
        pthread_mutex_destroy(&t->lock);
    }
}

static inline void team_close(team *t) {
    if (t->members == 0) {
        return;
    }
    team_wake(t, 1);
    for (int i = 0; i < t->members; i++) {
        pthread_join(t->thread[i], NULL);
    }
    t->members = 0;
    pthread_cond_destroy(&t->bell);
    pthread_mutex_destroy(&t->lock);
}

static inline void team_run_all(team *t, team_call *call, void *user, size_t count) {
    uint64_t job = (__atomic_load_n(&t->left, __ATOMIC_RELAXED) >> 32) + 1;
    uint32_t mine = 0;
    size_t item;
    t->call = call;
    t->user = user;
    t->count = count;
    __atomic_store_n(&t->done, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&t->left, job << 32 | count, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&t->sleepers, __ATOMIC_SEQ_CST) != 0) {
        team_wake(t, 0);
    }
    for (; team_take(t, &item); mine++) {
        call(user, item);
    }
    for (int looks = 0; __atomic_load_n(&t->done, __ATOMIC_ACQUIRE) != count - mine; looks++) {
        if (looks > TEAM_PATIENCE) {
            sched_yield(); /* its core may be this one */
        }
        team_pause();
    }
}
#else
typedef struct team {
    int members;
} team;

static inline void team_open(team *t, int threads) {
    (void)threads;
    t->members = 0;
}

static inline void team_close(team *t) {
    (void)t;
}
#endif

static inline void team_run(team *t, team_call *call, void *user, size_t count) {
#if defined(LLAMA_THREADS)
    if (t != NULL && t->members > 0 && count > 1 && count < UINT32_MAX) {
        team_run_all(t, call, user, count);
        return;
    }
#endif
    (void)t;
    for (size_t item = 0; item < count; item++) {
        call(user, item);
    }
}

/* ---- kernels --------------------------------------------------------------------------------
 * Loops the compiler turns into vector code at -O3. Matrices are row-major as in the file; a row
 * is the weights of one output. Q8_0 is blocks of 34 bytes: a half as scale, then 32 signed
 * bytes. */

enum { BLOCK = 32, BLOCK_BYTES = 34, LANES = 16, AHEAD = 4096 }; /* bytes asked for early */

typedef struct matrix {
    const void *data;
    uint32_t type; /* GGUF_TYPE_* */
    size_t rows, cols;
} matrix;

typedef struct quantized { /* a vector as the matrix likes it: as Q8_0, scales apart */
    int8_t *values;
    float *scales;
    float *rounded; /* or rounded to what an F16 or BF16 matrix is made of */
} quantized;

static inline float float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static inline uint32_t bits_from_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline float float_from_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t rest = (uint32_t)(half & 0x7fffu) << 13;
    uint32_t bits =
        bits_from_float(float_from_bits(rest) * 0x1p112f); /* also right for subnormals */
    bits = (half & 0x7c00u) == 0x7c00u ? rest | 0x7f800000u : bits;
    return float_from_bits(bits | sign);
}

static inline uint16_t half_from_float(float value) { /* to nearest, ties to even */
    uint32_t bits = bits_from_float(value);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    float magnitude = float_from_bits(bits & 0x7fffffffu);
    if (!(magnitude < 65520.0f)) {
        return (uint16_t)(sign | (magnitude >= 65520.0f ? 0x7c00u : 0x7e00u));
    }
    if (magnitude < 0x1p-14f) { /* subnormal: the sum rounds at the right bit */
        return (uint16_t)(sign | (bits_from_float(magnitude + 0.5f) - 0x3f000000u));
    }
    bits = bits_from_float(magnitude);
    bits += 0xfffu + (bits >> 13 & 1u);
    return (uint16_t)(sign | ((bits - (112u << 23)) >> 13));
}

static inline float float_from_bfloat(uint16_t value) {
    return float_from_bits((uint32_t)value << 16);
}

static inline uint16_t bfloat_from_float(float value) {
    uint32_t bits = bits_from_float(value);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static inline float sum_lanes(const float *lane) {
    float sum = 0.0f;
    for (int j = 0; j < LANES; j++) {
        sum += lane[j];
    }
    return sum;
}

static inline float dot_f32(const float *w, const float *x, size_t n) {
    float lane[LANES] = { 0.0f };
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            lane[j] += w[i + (size_t)j] * x[i + (size_t)j];
        }
    }
    for (; i < n; i++) {
        lane[0] += w[i] * x[i];
    }
    return sum_lanes(lane);
}

static inline float dot_f16(const uint16_t *w, const float *x, size_t n) {
    float lane[LANES] = { 0.0f }, wide[LANES];
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            wide[j] = float_from_half(w[i + (size_t)j]);
        }
        for (int j = 0; j < LANES; j++) {
            lane[j] += wide[j] * x[i + (size_t)j];
        }
    }
    for (; i < n; i++) {
        lane[0] += float_from_half(w[i]) * x[i];
    }
    return sum_lanes(lane);
}

static inline float dot_bf16(const uint16_t *w, const float *x, size_t n) {
    float lane[LANES] = { 0.0f };
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            lane[j] += float_from_bfloat(w[i + (size_t)j]) * x[i + (size_t)j];
        }
    }
    for (; i < n; i++) {
        lane[0] += float_from_bfloat(w[i]) * x[i];
    }
    return sum_lanes(lane);
}

#if defined(__AVX2__)
static inline float half_scale(const unsigned char *block) {
    uint16_t scale;
    memcpy(&scale, block, sizeof(scale));
#    if defined(__F16C__)
    return _cvtsh_ss(scale);
#    else
    return float_from_half(scale);
#    endif
}

/* 32 products, four (of bytes) in a lane. The first factor must be without a sign, so the second
 * gets it: |w| fits for -128 too, and what quantize makes never is -128, so no pair overflows. */
static inline __m256 block_product(const unsigned char *block, const int8_t *x) {
    __m256i w = _mm256_loadu_si256((const __m256i *)(const void *)(block + 2));
    __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)x);
    __m256i positive = _mm256_abs_epi8(w), other = _mm256_sign_epi8(v, w);
#    if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    __m256i sum = _mm256_dpbusd_epi32(_mm256_setzero_si256(), positive, other);
#    else
    __m256i pairs = _mm256_maddubs_epi16(positive, other);
    __m256i sum = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#    endif
    return _mm256_cvtepi32_ps(sum);
}

static inline float dot_q8_0(const unsigned char *row, quantized x, size_t n) {
    __m256 sum[2] = { _mm256_setzero_ps(), _mm256_setzero_ps() };
    float lane[8], total = 0.0f;
    for (size_t b = 0; b < n / BLOCK; b++) {
        const unsigned char *block = row + b * BLOCK_BYTES;
        _mm_prefetch((const char *)block + AHEAD, _MM_HINT_T0);
        __m256 scale = _mm256_set1_ps(half_scale(block) * x.scales[b]);
        __m256 product = block_product(block, x.values + b * BLOCK);
#    if defined(__FMA__)
        sum[b % 2] = _mm256_fmadd_ps(product, scale, sum[b % 2]);
#    else
        sum[b % 2] = _mm256_add_ps(sum[b % 2], _mm256_mul_ps(product, scale));
#    endif
    }
    _mm256_storeu_ps(lane, _mm256_add_ps(sum[0], sum[1]));
    for (int j = 0; j < 8; j++) {
        total += lane[j];
    }
    return total;
}
#else
static inline float dot_q8_0(const unsigned char *row, quantized x, size_t n) {
    float sum = 0.0f;
    for (size_t b = 0; b < n / BLOCK; b++) {
        const int8_t *w = (const int8_t *)(row + b * BLOCK_BYTES + 2);
        const int8_t *v = x.values + b * BLOCK;
        uint16_t scale;
        int32_t block = 0;
        for (int j = 0; j < BLOCK; j++) {
            block += w[j] * v[j];
        }
        memcpy(&scale, row + b * BLOCK_BYTES, sizeof(scale));
        sum += (float)block * (float_from_half(scale) * x.scales[b]);
    }
    return sum;
}
#endif

/* As ggml does it: the scale is rounded to a half, the values are not scaled by the rounded one. */
static inline void quantize(quantized out, const float *x, size_t n) {
    for (size_t b = 0; b < n / BLOCK; b++) {
        const float *v = x + b * BLOCK;
        float most = 0.0f;
        for (int j = 0; j < BLOCK; j++) {
            float size = fabsf(v[j]);
            most = size > most ? size : most;
        }
        out.scales[b] = float_from_half(half_from_float(most / 127.0f));
        float inverse = out.scales[b] > 0.0f ? 127.0f / most : 0.0f; /* never infinite */
        for (int j = 0; j < BLOCK; j++) {
            float value = v[j] * inverse;
            value = value < 127.0f ? value : 127.0f; /* also catches what is not a number */
            value += value < 0.0f ? -0.5f : 0.5f;
            out.values[b * BLOCK + (size_t)j] = (int8_t)(int32_t)value;
        }
    }
}

/* As ggml does it: F16 and BF16 matrices meet vectors of their own precision. */
static inline void round_like(quantized out, const float *x, size_t n, uint32_t type) {
    for (size_t i = 0; i < n; i++) {
        out.rounded[i] = type == GGUF_TYPE_F16 ? float_from_half(half_from_float(x[i]))
                                               : float_from_bfloat(bfloat_from_float(x[i]));
    }
}

static inline size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

static inline size_t bytes_of_row(uint32_t type, size_t cols) {
    gguf_type_info info = gguf_type(type);
    return cols / info.block * info.bytes;
}

typedef struct product { /* a job: an item is so many rows */
    matrix m;
    float *out;
    const float *x;
    quantized prepared;
    size_t rows_of_item;
} product;

enum { ITEM_BYTES = 256 << 10 };

static inline void product_item(void *user, size_t item) {
    const product *p = (const product *)user;
    const unsigned char *data = (const unsigned char *)p->m.data;
    size_t row_bytes = bytes_of_row(p->m.type, p->m.cols), n = p->m.cols;
    size_t first = item * p->rows_of_item, end = first + p->rows_of_item;
    for (size_t r = first; r < end && r < p->m.rows; r++) {
        const unsigned char *row = data + r * row_bytes;
        switch (p->m.type) {
        case GGUF_TYPE_F32:
            p->out[r] = dot_f32((const float *)(const void *)row, p->x, n);
            break;
        case GGUF_TYPE_F16:
            p->out[r] = dot_f16((const uint16_t *)(const void *)row, p->prepared.rounded, n);
            break;
        case GGUF_TYPE_BF16:
            p->out[r] = dot_bf16((const uint16_t *)(const void *)row, p->prepared.rounded, n);
            break;
        default:
            p->out[r] = dot_q8_0(row, p->prepared, n);
            break;
        }
    }
}

/* x as a matrix of this type likes it. */
static inline void prepare(quantized out, const float *x, size_t n, uint32_t type) {
    if (type == GGUF_TYPE_Q8_0) {
        quantize(out, x, n);
    } else if (type != GGUF_TYPE_F32) {
        round_like(out, x, n, type);
    }
}

/* out = m x, with x also as prepare made it for this type of matrix. */
static inline void multiply(team *t, float *out, matrix m, const float *x, quantized prepared) {
    product p = { m, out, x, prepared, 1 };
    p.rows_of_item = larger(1, ITEM_BYTES / larger(1, bytes_of_row(m.type, m.cols)));
    team_run(t, product_item, &p, (m.rows + p.rows_of_item - 1) / p.rows_of_item);
}

static inline void rms_norm(float *out, const float *x, matrix weight, float epsilon) {
    const float *w = (const float *)weight.data;
    double sum = 0.0;
    for (size_t i = 0; i < weight.cols; i++) {
        sum += (double)x[i] * (double)x[i];
    }
    float scale = 1.0f / sqrtf((float)(sum / (double)weight.cols) + epsilon);
    for (size_t i = 0; i < weight.cols; i++) {
        out[i] = x[i] * scale * w[i];
    }
}

/* Turns pairs of neighbours by position x frequency; `turn` holds a cosine and a sine for each. */
static inline void rotate(float *head, const float *turn, size_t rope_dim) {
    for (size_t i = 0; i + 1 < rope_dim; i += 2) {
        float a = head[i], b = head[i + 1];
        head[i] = a * turn[i] - b * turn[i + 1];
        head[i + 1] = a * turn[i + 1] + b * turn[i];
    }
}

static inline void softmax(float *x, size_t n) {
    float most = x[0];
    double sum = 0.0;
    for (size_t i = 1; i < n; i++) {
        most = x[i] > most ? x[i] : most;
    }
    for (size_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - most);
        sum += (double)x[i];
    }
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)((double)x[i] / sum);
    }
}

static inline void swiglu(float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i++) {
        gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    }
}

static inline void add(float *x, const float *y, size_t n) {
    for (size_t i = 0; i < n; i++) {
        x[i] += y[i];
    }
}

/* One row of a matrix of any supported type, as floats. */
static inline void widen_row(float *out, const void *row, uint32_t type, size_t n) {
    const unsigned char *bytes = (const unsigned char *)row;
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        if (type == GGUF_TYPE_F32) {
            memcpy(&out[i], bytes + 4 * i, 4);
        } else if (type == GGUF_TYPE_Q8_0) {
            const unsigned char *block = bytes + i / BLOCK * BLOCK_BYTES;
            memcpy(&half, block, 2);
            out[i] = float_from_half(half) * (float)(int8_t)block[2 + i % BLOCK];
        } else {
            memcpy(&half, bytes + 2 * i, 2);
            out[i] = type == GGUF_TYPE_F16 ? float_from_half(half) : float_from_bfloat(half);
        }
    }
}

/* ---- model ----------------------------------------------------------------------------------
 * What the file says about the transformer. Every number and every shape is checked here, so
 * that the code below need not ask. */

typedef enum role {
    ATTN_NORM,
    ATTN_Q,
    ATTN_K,
    ATTN_V,
    ATTN_OUTPUT,
    FFN_NORM,
    FFN_GATE,
    FFN_UP,
    FFN_DOWN,
    LAYER_TENSORS
} role;

static const char *const role_name[LAYER_TENSORS] = { "attn_norm", "attn_q",      "attn_k",
                                                      "attn_v",    "attn_output", "ffn_norm",
                                                      "ffn_gate",  "ffn_up",      "ffn_down" };

typedef struct layer {
    const gguf_tensor *tensor[LAYER_TENSORS];
} layer;

typedef struct llama {
    gguf_file file;
    size_t dim, layers, ffn, heads, kv_heads, head_dim, kv_dim, rope_dim, vocab, context;
    float epsilon, rope_base;
    const gguf_tensor *embedding, *output_norm, *output, *rope_factors; /* the last may be NULL */
    layer *layer;
    uint64_t weight_bytes; /* of all tensors */
    message why;
} llama;

static inline size_t llama_number(llama *m, const char *key, uint64_t least, uint64_t most,
                                  int needed, size_t otherwise) {
    const gguf_pair *pair = gguf_find_pair(&m->file, key);
    if (pair == NULL) {
        if (needed) {
            refuse(&m->why, "the key %s is missing", key);
        }
        return otherwise;
    }
    if (pair->is_array || pair->type == GGUF_STRING || pair->type == GGUF_F32 ||
        pair->type == GGUF_F64) {
        refuse(&m->why, "the key %s is not an integer", key);
        return otherwise;
    }
    uint64_t value = gguf_item_uint(pair, 0);
    if (value < least || value > most) {
        refuse(&m->why, "%s is %lld, not between %llu and %llu", key, (long long)value,
               (unsigned long long)least, (unsigned long long)most);
        return otherwise;
    }
    return (size_t)value;
}

static inline float llama_float(llama *m, const char *key, float otherwise) {
    const gguf_pair *pair = gguf_find_pair(&m->file, key);
    if (pair == NULL) {
        return otherwise;
    }
    double value = gguf_item_float(pair, 0);
    if (pair->is_array || (pair->type != GGUF_F32 && pair->type != GGUF_F64) ||
        !(value >= 1e-30 && value < 1e30)) {
        refuse(&m->why, "the key %s is not a positive number", key);
        return otherwise;
    }
    return (float)value;
}

static inline gguf_string llama_text(const llama *m, const char *key) {
    gguf_string none = { "", 0 };
    const gguf_pair *pair = gguf_find_pair(&m->file, key);
    int good = pair != NULL && pair->type == GGUF_STRING && !pair->is_array;
    return good ? *(const gguf_string *)pair->data : none;
}

static inline int text_is(gguf_string text, const char *wanted) {
    return text.length == strlen(wanted) && memcmp(text.text, wanted, (size_t)text.length) == 0;
}

/* Finds a tensor of rows x cols (rows 0: a vector), or says what is wrong with it. */
static inline const gguf_tensor *llama_tensor(llama *m, const char *name, size_t rows,
                                              size_t cols) {
    const gguf_tensor *t = gguf_find_tensor(&m->file, name);
    if (t == NULL) {
        refuse(&m->why, "the tensor %s is missing", name);
        return NULL;
    }
    int plain = t->type == GGUF_TYPE_F32;
    int matrix_type =
        plain || t->type == GGUF_TYPE_F16 || t->type == GGUF_TYPE_BF16 || t->type == GGUF_TYPE_Q8_0;
    if (rows == 0 ? !plain : !matrix_type) {
        refuse(&m->why, "the tensor %s has type %s; only %s can be used here", name,
               gguf_type(t->type).name, rows == 0 ? "F32" : "F32, F16, BF16 and Q8_0");
        return NULL;
    }
    if (t->shape[0] != cols || t->shape[1] != (rows == 0 ? 1 : rows) || t->shape[2] != 1 ||
        t->shape[3] != 1) {
        refuse(&m->why, "the tensor %s is %llu x %llu x %llu, not %zu x %zu", name,
               (unsigned long long)t->shape[0], (unsigned long long)t->shape[1],
               (unsigned long long)t->shape[2], cols, rows == 0 ? (size_t)1 : rows);
        return NULL;
    }
    return t;
}

static inline int llama_check_kind(llama *m) {
    char text[48];
    gguf_string kind = llama_text(m, "general.architecture");
    gguf_string scaling = llama_text(m, "llama.rope.scaling.type");
    if (kind.length == 0) {
        return refuse(&m->why, "the key general.architecture is missing");
    }
    if (!text_is(kind, "llama")) {
        return refuse(&m->why, "the architecture is '%s', not 'llama'",
                      gguf_printable(text, sizeof(text), kind));
    }
    if (scaling.length != 0 && !text_is(scaling, "none")) {
        return refuse(&m->why, "rotary scaling '%s' is not supported",
                      gguf_printable(text, sizeof(text), scaling));
    }
    if (llama_number(m, "llama.expert_count", 0, UINT32_MAX, 0, 0) != 0) {
        return refuse(&m->why, "mixtures of experts are not supported");
    }
    return 1;
}

static inline int llama_read_numbers(llama *m) {
    const uint64_t most = 1u << 20;
    m->layers = llama_number(m, "llama.block_count", 1, 4096, 1, 1);
    m->dim = llama_number(m, "llama.embedding_length", 1, most, 1, 1);
    m->ffn = llama_number(m, "llama.feed_forward_length", 1, most * 16, 1, 1);
    m->heads = llama_number(m, "llama.attention.head_count", 1, most, 1, 1);
    m->kv_heads = llama_number(m, "llama.attention.head_count_kv", 1, most, 0, m->heads);
    m->context = llama_number(m, "llama.context_length", 1, UINT32_MAX, 1, 1);
    m->epsilon = llama_float(m, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    m->rope_base = llama_float(m, "llama.rope.freq_base", 10000.0f);
    if (m->why.text[0] == 0 && (m->heads % m->kv_heads != 0 || m->dim % m->heads != 0)) {
        refuse(&m->why, "%zu heads, %zu for keys and a width of %zu do not divide", m->heads,
               m->kv_heads, m->dim);
    }
    m->head_dim = llama_number(m, "llama.attention.key_length", 2, most, 0, m->dim / m->heads);
    if (llama_number(m, "llama.attention.value_length", 2, most, 0, m->head_dim) != m->head_dim) {
        refuse(&m->why, "keys and values of different length are not supported");
    }
    m->rope_dim = llama_number(m, "llama.rope.dimension_count", 2, m->head_dim, 0, m->head_dim);
    if (m->why.text[0] == 0 && (m->rope_dim % 2 != 0 || m->head_dim > most * 16 / m->heads)) {
        refuse(&m->why, "heads of %zu with %zu rotated cannot be used", m->head_dim, m->rope_dim);
    }
    m->kv_dim = m->kv_heads * m->head_dim;
    return m->why.text[0] == 0;
}

static inline int llama_find_layer(llama *m, size_t index) {
    const size_t q_dim = m->heads * m->head_dim;
    const size_t rows[LAYER_TENSORS] = { 0, q_dim,  m->kv_dim, m->kv_dim, m->dim,
                                         0, m->ffn, m->ffn,    m->dim };
    const size_t cols[LAYER_TENSORS] = { m->dim, m->dim, m->dim, m->dim, q_dim,
                                         m->dim, m->dim, m->dim, m->ffn };
    char name[64];
    for (int r = 0; r < LAYER_TENSORS; r++) {
        snprintf(name, sizeof(name), "blk.%zu.%s.weight", index, role_name[r]);
        m->layer[index].tensor[r] = llama_tensor(m, name, rows[r], cols[r]);
        if (m->layer[index].tensor[r] == NULL) {
            return 0;
        }
    }
    return 1;
}

static inline int llama_find_tensors(llama *m) {
    const gguf_tensor *embedding = gguf_find_tensor(&m->file, "token_embd.weight");
    m->vocab = embedding != NULL && embedding->shape[1] <= GGUF_MAX_ITEMS
                   ? (size_t)embedding->shape[1]
                   : 1;
    m->embedding = llama_tensor(m, "token_embd.weight", m->vocab, m->dim);
    m->output_norm = llama_tensor(m, "output_norm.weight", 0, m->dim);
    m->output = m->embedding; /* some models use the same table at both ends */
    if (gguf_find_tensor(&m->file, "output.weight") != NULL) {
        m->output = llama_tensor(m, "output.weight", m->vocab, m->dim);
    }
    if (gguf_find_tensor(&m->file, "rope_freqs.weight") != NULL) {
        m->rope_factors = llama_tensor(m, "rope_freqs.weight", 0, m->rope_dim / 2);
    }
    if (m->why.text[0] != 0) {
        return 0;
    }
    m->layer = (layer *)calloc(m->layers, sizeof(layer));
    if (m->layer == NULL) {
        return refuse(&m->why, "out of memory");
    }
    for (size_t i = 0; i < m->layers; i++) {
        if (!llama_find_layer(m, i)) {
            return 0;
        }
    }
    return 1;
}

static inline int llama_uses(const llama *m, const gguf_tensor *t) {
    if (t == m->embedding || t == m->output_norm || t == m->output || t == m->rope_factors) {
        return 1;
    }
    for (size_t i = 0; i < m->layers * LAYER_TENSORS; i++) {
        if (t == m->layer[i / LAYER_TENSORS].tensor[i % LAYER_TENSORS]) {
            return 1;
        }
    }
    return 0;
}

/* A tensor we would ignore (a bias, an adapter) would make the answers silently wrong. */
static inline int llama_check_rest(llama *m) {
    char name[96];
    uint64_t used = 2 + (uint64_t)m->layers * LAYER_TENSORS;
    used += m->output != m->embedding ? 1 : 0;
    used += m->rope_factors != NULL ? 1 : 0;
    for (uint64_t i = 0; i < m->file.tensor_count; i++) {
        m->weight_bytes += m->file.tensors[i].bytes;
        if (used != m->file.tensor_count && !llama_uses(m, &m->file.tensors[i])) {
            return refuse(&m->why, "the tensor %s is not part of a plain Llama model",
                          gguf_printable(name, sizeof(name), m->file.tensors[i].name));
        }
    }
    return 1;
}

static inline void llama_close(llama *m) {
    free(m->layer);
    m->layer = NULL;
    gguf_free(&m->file);
}

/* After gguf_load_path or gguf_load_memory into m->file. 0 = refused: m->why says why. */
static inline int llama_understand(llama *m) {
    return llama_check_kind(m) && llama_read_numbers(m) && llama_find_tensors(m) &&
           llama_check_rest(m);
}

static inline int llama_open(llama *m, const char *path) {
    memset(m, 0, sizeof(*m));
    if (!gguf_load_path(&m->file, path)) {
        return refuse(&m->why, "%s", m->file.error);
    }
    return llama_understand(m);
}

/* What a token is computed from, in this order: some rows of a matrix, and what is wanted with
 * them. Who has little memory takes few rows at a time and need not hold a whole layer at once. */
enum { LOGITS = LAYER_TENSORS }; /* the role of the output's rows, in no layer */

typedef struct model_piece {
    size_t layer, first, rows;
    int role;
    int attends; /* the last of Q, K and V: wants the keys and values of the layer */
    const gguf_tensor *tensor, *norm; /* norm: NULL unless this begins a new vector */
} model_piece;

static inline size_t llama_cut(const llama *m, size_t index, int part, uint64_t most,
                               model_piece *out) {
    const gguf_tensor *const *t = m->layer[index < m->layers ? index : 0].tensor;
    const gguf_tensor *whole = part == LOGITS ? m->output : t[part];
    size_t rows = (size_t)whole->shape[1];
    size_t row_bytes = bytes_of_row(whole->type, (size_t)whole->shape[0]);
    size_t each = most < row_bytes ? 1 : (size_t)(most / row_bytes);
    size_t count = rows == 0 ? 0 : (rows + each - 1) / each;
    each = count == 0 ? 0 : (rows + count - 1) / count;
    for (size_t i = 0; out != NULL && i < count; i++) {
        out[i].layer = index;
        out[i].first = i * each;
        out[i].rows = i * each + each < rows ? each : rows - i * each;
        out[i].role = part;
        out[i].attends = part == ATTN_V && i + 1 == count;
        out[i].tensor = whole;
        out[i].norm = i > 0                 ? NULL
                      : part == ATTN_Q      ? t[ATTN_NORM]
                      : part == FFN_GATE    ? t[FFN_NORM]
                      : part == (int)LOGITS ? m->output_norm
                                            : NULL;
    }
    return count;
}

/* All pieces, of at most so many bytes where a row is no more; `out` NULL only counts. */
static inline size_t llama_pieces(const llama *m, uint64_t most, model_piece *out) {
    size_t count = 0;
    for (size_t l = 0; l < m->layers; l++) {
        for (int part = 0; part < LAYER_TENSORS; part++) {
            if (part != ATTN_NORM && part != FFN_NORM) {
                count += llama_cut(m, l, part, most, out == NULL ? NULL : out + count);
            }
        }
    }
    return count + llama_cut(m, m->layers, LOGITS, most, out == NULL ? NULL : out + count);
}

static inline uint64_t piece_offset(const model_piece *p) { /* in the file */
    const gguf_tensor *t = p->tensor;
    return t->offset + p->first * bytes_of_row(t->type, (size_t)t->shape[0]);
}

static inline matrix matrix_of(const gguf_tensor *t, const void *data) {
    matrix m;
    m.data = data;
    m.type = t->type;
    m.cols = (size_t)t->shape[0];
    m.rows = (size_t)t->shape[1];
    return m;
}

/* ---- vocabulary -----------------------------------------------------------------------------
 * Text to tokens by merging the best pair until none is left: best by score where the file has
 * scores (SentencePiece), by rank, which is the token's number, where it has not (byte-level
 * BPE, without its splitting rules, so that rare texts may be cut differently). */

typedef struct vocabulary {
    const gguf_string *text;
    uint32_t count;
    const gguf_pair *scores; /* may be NULL */
    const gguf_string **by_text;
    int byte_level;                /* tokens spell bytes as printable characters, as GPT-2 does */
    int space_prefix;              /* SentencePiece puts a space in front */
    uint32_t begin, unknown, none; /* none: no such token */
} vocabulary;

static inline uint32_t vocabulary_find(const vocabulary *v, const char *text, size_t length) {
    const gguf_string *at = gguf_find(v->by_text, v->count, text, length);
    return at == NULL ? v->none : (uint32_t)(at - v->text);
}

static inline uint32_t vocabulary_token(llama *m, const vocabulary *v, const char *key) {
    return (uint32_t)llama_number(m, key, 0, v->count - 1, 0, v->none);
}

static inline int vocabulary_open(vocabulary *v, llama *m) {
    const gguf_pair *tokens = gguf_find_pair(&m->file, "tokenizer.ggml.tokens");
    const gguf_pair *scores = gguf_find_pair(&m->file, "tokenizer.ggml.scores");
    memset(v, 0, sizeof(*v));
    if (tokens == NULL || tokens->type != GGUF_STRING || !tokens->is_array ||
        tokens->count != m->vocab) {
        return refuse(&m->why, "tokenizer.ggml.tokens is not a list of %zu strings", m->vocab);
    }
    if (scores != NULL && (scores->type != GGUF_F32 || scores->count != tokens->count)) {
        return refuse(&m->why, "tokenizer.ggml.scores is not a list of %zu numbers", m->vocab);
    }
    v->text = (const gguf_string *)tokens->data;
    v->count = (uint32_t)tokens->count;
    v->none = v->count;
    v->byte_level = text_is(llama_text(m, "tokenizer.ggml.model"), "gpt2");
    v->scores = v->byte_level ? NULL : scores;
    v->space_prefix =
        !v->byte_level && llama_number(m, "tokenizer.ggml.add_space_prefix", 0, 1, 0, 1) == 1;
    v->begin = vocabulary_token(m, v, "tokenizer.ggml.bos_token_id");
    v->unknown = vocabulary_token(m, v, "tokenizer.ggml.unknown_token_id");
    if (llama_number(m, "tokenizer.ggml.add_bos_token", 0, 1, 0, 1) == 0) {
        v->begin = v->none;
    }
    v->by_text = (const gguf_string **)malloc(v->count * sizeof(*v->by_text));
    if (v->by_text == NULL || m->why.text[0] != 0) {
        return refuse(&m->why, "out of memory");
    }
    for (uint32_t i = 0; i < v->count; i++) {
        v->by_text[i] = &v->text[i];
    }
    qsort(v->by_text, v->count, sizeof(*v->by_text), gguf_compare_names);
    return 1;
}

static inline void vocabulary_close(vocabulary *v) {
    free((void *)v->by_text);
    v->by_text = NULL;
}

static inline size_t utf8_write(char *out, uint32_t code) { /* code < 0x10000 */
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    out[0] = (char)(0xe0 | code >> 12);
    out[1] = (char)(0x80 | (code >> 6 & 0x3f));
    out[2] = (char)(0x80 | (code & 0x3f));
    return 3;
}

static inline size_t utf8_length(char first) {
    unsigned char c = (unsigned char)first;
    return c < 0xc0 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

/* The bytes of the first character; 0 = this is not well-formed: cut, too long, or no character. */
static inline size_t utf8_read(const char *text, size_t length, uint32_t *code) {
    static const uint32_t least[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    unsigned char first = (unsigned char)text[0];
    size_t size = utf8_length(text[0]);
    if (size > length || (first >= 0x80 && first < 0xc0) || first >= 0xf8) {
        return 0;
    }
    *code = size == 1 ? first : first & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        unsigned char next = (unsigned char)text[i];
        if ((next & 0xc0) != 0x80) {
            return 0;
        }
        *code = *code << 6 | (next & 0x3f);
    }
    return *code < least[size] || *code > 0x10ffff || *code >> 11 == 0xd800 >> 11 ? 0 : size;
}

/* GPT-2's alphabet: bytes that print stand for themselves, the others for 256 and up, in turn. */
static inline uint32_t byte_level_code(unsigned char byte) {
    return byte < 33     ? 256u + byte
           : byte < 127  ? byte
           : byte < 161  ? 256u + 33 + byte - 127
           : byte == 173 ? 256u + 33 + 34
                         : byte;
}

/* The prompt in the alphabet of the vocabulary; `out` has room for 3 bytes for each, and 3 more. */
static inline size_t vocabulary_spell(const vocabulary *v, const char *text, char *out) {
    size_t length = v->space_prefix ? utf8_write(out, 0x2581) : 0;
    for (; *text != 0; text++) {
        if (v->byte_level) {
            length += utf8_write(out + length, byte_level_code((unsigned char)*text));
        } else if (*text == ' ') {
            length += utf8_write(out + length, 0x2581);
        } else {
            out[length++] = *text;
        }
    }
    return length;
}

static inline double vocabulary_score(const vocabulary *v, const char *text, size_t length) {
    uint32_t token = vocabulary_find(v, text, length);
    if (token == v->none) {
        return -INFINITY;
    }
    double score = v->scores != NULL ? gguf_item_float(v->scores, token) : -(double)token;
    return score > -1e30 ? score : -1e30; /* a file may say NaN */
}

/* Merges; piece[i] is where the i-th piece starts, piece[count] the end. Returns the new count. */
static inline size_t vocabulary_merge(const vocabulary *v, const char *text, size_t *piece,
                                      size_t count) {
    for (;;) {
        double best = -INFINITY;
        size_t at = 0;
        for (size_t i = 0; i + 2 <= count; i++) {
            double score = vocabulary_score(v, text + piece[i], piece[i + 2] - piece[i]);
            if (score > best) {
                best = score;
                at = i;
            }
        }
        if (best < -1e31) {
            return count;
        }
        memmove(&piece[at + 1], &piece[at + 2], (count - at - 1) * sizeof(*piece));
        count--;
    }
}

enum { BYTE_NAME = 8 };

static inline void name_of_byte(char *out, unsigned byte) { /* how vocabularies name a bare byte */
    snprintf(out, BYTE_NAME, "<0x%02X>", byte & 0xff);
}

/* A piece without a token becomes its bytes. */
static inline size_t vocabulary_emit(const vocabulary *v, const char *text, size_t length,
                                     uint32_t *out) {
    char name[BYTE_NAME];
    uint32_t token = vocabulary_find(v, text, length);
    if (token != v->none) {
        out[0] = token;
        return 1;
    }
    for (size_t i = 0; i < length; i++) {
        name_of_byte(name, (unsigned char)text[i]);
        token = vocabulary_find(v, name, strlen(name));
        out[i] = token != v->none ? token : v->unknown != v->none ? v->unknown : 0;
    }
    return length;
}

/* Room for 3 x strlen(text) + 4 tokens; 0 = out of memory. */
static inline size_t vocabulary_encode(const vocabulary *v, const char *text, uint32_t *out) {
    size_t room = 3 * strlen(text) + 4, count = 0, pieces = 0;
    char *spelled = (char *)malloc(room);
    size_t *piece = (size_t *)malloc((room + 1) * sizeof(*piece));
    if (spelled != NULL && piece != NULL) {
        size_t length = *text == 0 ? 0 : vocabulary_spell(v, text, spelled);
        for (size_t at = 0; at < length; at += utf8_length(spelled[at])) {
            piece[pieces++] = at;
        }
        piece[pieces] = length;
        pieces = vocabulary_merge(v, spelled, piece, pieces);
        if (v->begin != v->none || length == 0) {
            out[count++] = v->begin != v->none ? v->begin : 0;
        }
        for (size_t i = 0; i < pieces; i++) {
            count += vocabulary_emit(v, spelled + piece[i], piece[i + 1] - piece[i], out + count);
        }
    }
    free(spelled);
    free(piece);
    return count;
}

static inline size_t decode_byte_level(gguf_string text, char *out) {
    size_t length = 0;
    for (uint64_t i = 0; i < text.length;) {
        uint32_t code = 0;
        size_t size = utf8_read(text.text + i, (size_t)(text.length - i), &code);
        for (unsigned byte = 0; size > 0 && byte < 256; byte++) {
            if (byte_level_code((unsigned char)byte) == code) {
                out[length++] = (char)byte;
            }
        }
        i += size > 0 ? size : 1;
    }
    return length;
}

static inline int decode_bare_byte(gguf_string text) { /* -1 = the token is not one */
    char name[BYTE_NAME];
    unsigned byte = text.length == 6 ? (unsigned)strtoul(text.text + 3, NULL, 16) : 0;
    name_of_byte(name, byte);
    return text_is(text, name) ? (int)byte : -1;
}

/* A token as bytes, cut to `room`, which is not 0; not yet fit for a terminal. */
static inline size_t vocabulary_decode(const vocabulary *v, uint32_t token, char *out,
                                       size_t room) {
    gguf_string text = v->text[token];
    size_t length = 0;
    int byte = decode_bare_byte(text);
    if (byte >= 0) {
        out[0] = (char)byte;
        return 1;
    }
    if (text.length > room) {
        text.length = room;
    }
    if (v->byte_level) {
        return decode_byte_level(text, out);
    }
    for (uint64_t i = 0; i < text.length; i++) {
        if (text.length - i >= 3 && memcmp(text.text + i, "\xe2\x96\x81", 3) == 0) {
            out[length++] = ' ';
            i += 2;
        } else {
            out[length++] = text.text[i];
        }
    }
    return length;
}

/* What a model says may hold anything: only well-formed text reaches the terminal. */
static inline void print_text(const char *text, size_t length) {
    for (size_t i = 0; i < length;) {
        uint32_t code = 0;
        size_t size = utf8_read(text + i, length - i, &code);
        if (size > 0 && code >= 32 && !(code >= 127 && code < 160)) {
            fwrite(text + i, 1, size, stdout);
        } else {
            fputs(text[i] == '\n' ? " / " : ".", stdout);
        }
        i += size > 0 ? size : 1;
    }
}

/* ---- transformer ----------------------------------------------------------------------------
 * Computes from places it is given, and does not care whose memory that is. What a layer is made of
 * is a table of operations: the CPU's are here; a device that computes brings its own, and keeps
 * the engine's floats itself, each at the same distance from the first (llama_device.h). */

typedef struct spot { /* of a tensor's bytes: where the CPU sees them, or what a device calls it */
    void *host;
    uint64_t mem, offset;
} spot;

typedef struct engine engine;

typedef struct operations {   /* vectors are the engine's; they may be done later, but in order */
    void (*begin)(engine *e); /* x and turn are there */
    void (*norm)(engine *e, float *out, const float *x, const gguf_tensor *t, spot weight);
    void (*multiply)(engine *e, float *out, const float *x, const model_piece *p, spot rows);
    void (*attend)(engine *e, spot kv, size_t position);
    void (*swiglu)(engine *e); /* gate and up, into gate */
    void (*add)(engine *e);    /* projected to x */
    void (*end)(engine *e);    /* logits are wanted */
} operations;

struct engine {
    const llama *model;
    const operations *does;
    void *device;   /* of `does`; the CPU's need none */
    size_t context; /* positions there is room for */
    float *x, *normed, *q, *k, *v, *attended, *projected, *gate, *up, *scores, *turn, *logits;
    float *rope_factors; /* all one unless the file has others */
    quantized scratch;
    float *memory; /* all of the floats above */
    size_t floats; /* their number */
    team team;
};

static inline void engine_at_hand(engine *e) { /* the CPU need not fetch what it computed */
    (void)e;
}

static inline void engine_norm(engine *e, float *out, const float *x, const gguf_tensor *t,
                               spot weight) {
    rms_norm(out, x, matrix_of(t, weight.host), e->model->epsilon);
}

static inline void engine_multiply(engine *e, float *out, const float *x, const model_piece *p,
                                   spot rows) {
    matrix m = matrix_of(p->tensor, rows.host);
    m.rows = p->rows;
    if (p->first == 0) {
        prepare(e->scratch, x, m.cols, m.type);
    }
    multiply(&e->team, out, m, x, e->scratch);
}

typedef struct attention { /* a job: an item is a head */
    engine *e;
    const float *keys, *values;
    size_t position;
} attention;

/* One head over all positions so far; several query heads share a head of keys and values. */
static inline void attention_head(void *user, size_t head) {
    const attention *a = (const attention *)user;
    const llama *m = a->e->model;
    const size_t shared = head / (m->heads / m->kv_heads) * m->head_dim;
    const float *q = a->e->q + head * m->head_dim;
    float *out = a->e->attended + head * m->head_dim, *score = a->e->scores + head * a->e->context;
    const float scale = 1.0f / sqrtf((float)m->head_dim);
    for (size_t p = 0; p <= a->position; p++) {
        score[p] = dot_f32(a->keys + p * m->kv_dim + shared, q, m->head_dim) * scale;
    }
    softmax(score, a->position + 1);
    memset(out, 0, m->head_dim * sizeof(float));
    for (size_t p = 0; p <= a->position; p++) {
        const float *v = a->values + p * m->kv_dim + shared;
        for (size_t i = 0; i < m->head_dim; i++) {
            out[i] += score[p] * v[i];
        }
    }
}

/* All of Q, K and V are there: put the new key and value to the others, and attend. */
static inline void engine_attend(engine *e, spot kv, size_t position) {
    const llama *m = e->model;
    float *keys = (float *)kv.host, *values = keys + e->context * m->kv_dim;
    attention a = { e, keys, values, position };
    for (size_t h = 0; h < m->heads; h++) {
        rotate(e->q + h * m->head_dim, e->turn, m->rope_dim);
    }
    for (size_t h = 0; h < m->kv_heads; h++) {
        rotate(e->k + h * m->head_dim, e->turn, m->rope_dim);
    }
    memcpy(keys + position * m->kv_dim, e->k, m->kv_dim * sizeof(float));
    memcpy(values + position * m->kv_dim, e->v, m->kv_dim * sizeof(float));
    team_run(&e->team, attention_head, &a, m->heads);
}

enum { SWIGLU_ITEM = 512 };

static inline void swiglu_item(void *user, size_t item) {
    const engine *e = (const engine *)user;
    size_t first = item * SWIGLU_ITEM, rest = e->model->ffn - first;
    swiglu(e->gate + first, e->up + first, rest < SWIGLU_ITEM ? rest : SWIGLU_ITEM);
}

static inline void engine_swiglu(engine *e) {
    team_run(&e->team, swiglu_item, e, (e->model->ffn + SWIGLU_ITEM - 1) / SWIGLU_ITEM);
}

static inline void engine_add(engine *e) {
    add(e->x, e->projected, e->model->dim);
}

static const operations cpu_operations = { engine_at_hand, engine_norm,   engine_multiply,
                                           engine_attend,  engine_swiglu, engine_add,
                                           engine_at_hand };

static inline int engine_open(engine *e, const llama *m, size_t context, int threads) {
    size_t q_dim = m->heads * m->head_dim;
    size_t widest = larger(larger(m->dim, q_dim), m->ffn);
    const struct {
        float **part;
        size_t size;
    } parts[] = { { &e->x, m->dim },         { &e->normed, m->dim },
                  { &e->q, q_dim },          { &e->k, m->kv_dim },
                  { &e->v, m->kv_dim },      { &e->attended, q_dim },
                  { &e->projected, m->dim }, { &e->gate, m->ffn },
                  { &e->up, m->ffn },        { &e->scores, context * m->heads },
                  { &e->turn, m->rope_dim }, { &e->rope_factors, m->rope_dim / 2 },
                  { &e->logits, m->vocab } };
    size_t total = 0;
    memset(e, 0, sizeof(*e));
    e->model = m;
    e->does = &cpu_operations;
    e->context = context;
    team_open(&e->team, threads);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        total += parts[i].size;
    }
    e->floats = total;
    e->memory = (float *)calloc(total, sizeof(float));
    e->scratch.values = (int8_t *)malloc(widest);
    e->scratch.scales = (float *)malloc((widest / BLOCK + 1) * sizeof(float));
    e->scratch.rounded = (float *)malloc(widest * sizeof(float));
    total = 0;
    for (size_t i = 0; e->memory != NULL && i < sizeof(parts) / sizeof(parts[0]); i++) {
        *parts[i].part = e->memory + total;
        total += parts[i].size;
    }
    for (size_t i = 0; e->memory != NULL && i < m->rope_dim / 2; i++) {
        e->rope_factors[i] = 1.0f;
    }
    return e->memory != NULL && e->scratch.values != NULL && e->scratch.scales != NULL &&
           e->scratch.rounded != NULL;
}

static inline void engine_close(engine *e) {
    team_close(&e->team);
    free(e->memory);
    free(e->scratch.values);
    free(e->scratch.scales);
    free(e->scratch.rounded);
}

/* What every token begins with: its row of the embedding, and the angles of its position. */
static inline void engine_begin(engine *e, const void *row, size_t position) {
    const llama *m = e->model;
    widen_row(e->x, row, m->embedding->type, m->dim);
    for (size_t i = 0; i < m->rope_dim / 2; i++) {
        float power = -2.0f * (float)i / (float)m->rope_dim;
        float angle = (float)position * powf(m->rope_base, power) / e->rope_factors[i];
        e->turn[2 * i] = cosf(angle);
        e->turn[2 * i + 1] = sinf(angle);
    }
    e->does->begin(e);
}

/* What follows when the last rows of a matrix are done. */
static inline void engine_finish(engine *e, const model_piece *p, spot kv, size_t position) {
    if (p->attends) {
        e->does->attend(e, kv, position);
    } else if (p->role == ATTN_OUTPUT || p->role == FFN_DOWN) {
        e->does->add(e);
    } else if (p->role == FFN_UP) {
        e->does->swiglu(e);
    } else if (p->role == LOGITS) {
        e->does->end(e);
    }
}

/* The next piece: its rows, its norm if it has one, and if it attends the keys and values of its
 * layer, for `context` positions each. */
static inline void engine_piece(engine *e, const model_piece *p, spot rows, spot norm, spot kv,
                                size_t position) {
    float *const out[LAYER_TENSORS + 1] = { NULL, e->q,    e->k,  e->v,         e->projected,
                                            NULL, e->gate, e->up, e->projected, e->logits };
    const float *from = p->role == ATTN_OUTPUT ? e->attended
                        : p->role == FFN_DOWN  ? e->gate
                                               : e->normed;
    if (p->norm != NULL) {
        e->does->norm(e, e->normed, e->x, p->norm, norm);
    }
    e->does->multiply(e, out[p->role] + p->first, from, p, rows);
    if (p->first + p->rows == p->tensor->shape[1]) {
        engine_finish(e, p, kv, position);
    }
}

static inline uint32_t engine_best(const engine *e) { /* greedy: the first of the largest */
    uint32_t best = 0;
    for (uint32_t i = 1; i < e->model->vocab; i++) {
        best = e->logits[i] > e->logits[best] ? i : best;
    }
    return best;
}

/* ---- writer ---------------------------------------------------------------------------------
 * A model nobody trained: random weights of the right size from a seed, a vocabulary of bytes.
 * The output can say small letters and spaces only, so that its nonsense can at least be read
 * aloud. The same seed gives the same numbers in every type, up to the rounding of F16 and BF16. */

enum { BYTE_VOCAB = 259, WRITER_PAIRS = 23 };

typedef void progress_call(const char *what, uint64_t done, uint64_t total);

typedef struct recipe {
    size_t layers, dim, ffn, heads, kv_heads;
    uint32_t type;
    uint32_t seed;
} recipe;

static inline int recipe_check(const recipe *r, message *why) {
    size_t least = r->type == GGUF_TYPE_Q8_0 ? BLOCK : 1;
    if (r->layers < 1 || r->layers > 4096 || r->dim < 1 || r->dim > 65536 || r->ffn < 1 ||
        r->ffn > 262144 || r->heads < 1 || r->kv_heads < 1 || r->dim % r->heads != 0 ||
        r->heads % r->kv_heads != 0 || r->dim / r->heads % 2 != 0 || r->dim % least != 0 ||
        r->ffn % least != 0) {
        return refuse(
            why, "these sizes make no model: heads must divide the width into even parts, "
                 "kv-heads must divide heads, Q8_0 needs multiples of 32; at most 4096 layers, "
                 "a width of 65536, and 262144 between");
    }
    return 1;
}

static inline void write_vocabulary(gguf_writer *w) {
    char name[BYTE_NAME];
    gguf_write_pair_array(w, "tokenizer.ggml.tokens", GGUF_STRING, BYTE_VOCAB);
    gguf_write_string(w, "<unk>");
    gguf_write_string(w, "<s>");
    gguf_write_string(w, "</s>");
    for (unsigned byte = 0; byte < 256; byte++) {
        name_of_byte(name, byte);
        gguf_write_string(w, name);
    }
    gguf_write_pair_array(w, "tokenizer.ggml.scores", GGUF_F32, BYTE_VOCAB);
    for (int i = 0; i < BYTE_VOCAB; i++) {
        gguf_write_float(w, 0.0f);
    }
    gguf_write_pair_array(w, "tokenizer.ggml.token_type", GGUF_I32, BYTE_VOCAB);
    for (int i = 0; i < BYTE_VOCAB; i++) {
        gguf_write_uint(w, i == 0 ? 2 : i < 3 ? 3 : 6, 4); /* unknown, control, byte */
    }
    gguf_write_pair_u32(w, "tokenizer.ggml.bos_token_id", 1);
    gguf_write_pair_u32(w, "tokenizer.ggml.eos_token_id", 2);
    gguf_write_pair_u32(w, "tokenizer.ggml.unknown_token_id", 0);
    gguf_write_key(w, "tokenizer.ggml.add_space_prefix", GGUF_BOOL);
    gguf_write_uint(w, 0, 1);
}

static inline uint32_t recipe_file_type(const recipe *r) { /* general.file_type's own numbers */
    return r->type == GGUF_TYPE_F32    ? 0
           : r->type == GGUF_TYPE_F16  ? 1
           : r->type == GGUF_TYPE_BF16 ? 32
                                       : 7;
}

static inline void write_pairs(gguf_writer *w, const recipe *r) {
    gguf_write_pair_string(w, "general.architecture", "llama");
    gguf_write_pair_string(w, "general.name", "tensormem demo");
    gguf_write_pair_u32(w, "general.file_type", recipe_file_type(r));
    gguf_write_pair_u32(w, "general.alignment", 32);
    gguf_write_pair_u32(w, "tensormem.demo.seed", r->seed);
    gguf_write_pair_u32(w, "llama.context_length", 4096);
    gguf_write_pair_u32(w, "llama.embedding_length", (uint32_t)r->dim);
    gguf_write_pair_u32(w, "llama.block_count", (uint32_t)r->layers);
    gguf_write_pair_u32(w, "llama.feed_forward_length", (uint32_t)r->ffn);
    gguf_write_pair_u32(w, "llama.attention.head_count", (uint32_t)r->heads);
    gguf_write_pair_u32(w, "llama.attention.head_count_kv", (uint32_t)r->kv_heads);
    gguf_write_pair_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_write_pair_u32(w, "llama.rope.dimension_count", (uint32_t)(r->dim / r->heads));
    gguf_write_pair_f32(w, "llama.rope.freq_base", 10000.0f);
    gguf_write_pair_u32(w, "llama.vocab_size", BYTE_VOCAB);
    gguf_write_pair_string(w, "tokenizer.ggml.model", "llama");
    write_vocabulary(w);
}

typedef struct planned { /* a tensor to write: rows 0 is a norm */
    char name[48];
    size_t rows, cols;
} planned;

static inline size_t recipe_tensors(const recipe *r) {
    return 3 + r->layers * LAYER_TENSORS;
}

static inline planned recipe_tensor(const recipe *r, size_t index) {
    const size_t kv_dim = r->dim / r->heads * r->kv_heads;
    const size_t rows[LAYER_TENSORS] = { 0, r->dim, kv_dim, kv_dim, r->dim,
                                         0, r->ffn, r->ffn, r->dim };
    planned p = { "", BYTE_VOCAB, r->dim };
    size_t in_layers = index - 1;
    if (index == 0) {
        snprintf(p.name, sizeof(p.name), "token_embd.weight");
    } else if (in_layers / LAYER_TENSORS < r->layers) {
        size_t part = in_layers % LAYER_TENSORS;
        snprintf(p.name, sizeof(p.name), "blk.%zu.%s.weight", in_layers / LAYER_TENSORS,
                 role_name[part]);
        p.rows = rows[part];
        p.cols = part == FFN_DOWN ? r->ffn : r->dim;
    } else if (index + 1 < recipe_tensors(r)) {
        snprintf(p.name, sizeof(p.name), "output_norm.weight");
        p.rows = 0;
    } else {
        snprintf(p.name, sizeof(p.name), "output.weight");
    }
    return p;
}

static inline uint64_t random_next(uint64_t *state) { /* xorshift64 */
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static inline uint64_t random_start(const recipe *r, size_t tensor) { /* never 0 */
    uint64_t state = (r->seed + UINT64_C(1)) * UINT64_C(0x9e3779b97f4a7c15) + tensor;
    state = (state ^ state >> 29) * UINT64_C(0xbf58476d1ce4e5b9) | 1;
    for (int i = 0; i < 8; i++) {
        random_next(&state);
    }
    return state;
}

static inline void random_values(int8_t *out, size_t n, uint64_t *state) { /* -127 .. 127 */
    for (size_t i = 0; i < n; i += 8) {
        uint64_t bits = random_next(state);
        for (size_t j = 0; j < 8 && i + j < n; j++) {
            int value = (int)(bits >> (8 * j) & 0xff) - 128;
            out[i + j] = (int8_t)(value == -128 ? 127 : value);
        }
    }
}

/* values x scale in the type of the file */
static inline void encode_row(unsigned char *out, const int8_t *values, size_t n, uint16_t scale,
                              uint32_t type) {
    float wide = float_from_half(scale);
    for (size_t b = 0; type == GGUF_TYPE_Q8_0 && b < n / BLOCK; b++) {
        memcpy(out + b * BLOCK_BYTES, &scale, 2);
        memcpy(out + b * BLOCK_BYTES + 2, values + b * BLOCK, BLOCK);
    }
    for (size_t i = 0; type != GGUF_TYPE_Q8_0 && i < n; i++) {
        float value = (float)values[i] * wide;
        uint16_t half = type == GGUF_TYPE_F16 ? half_from_float(value) : bfloat_from_float(value);
        if (type == GGUF_TYPE_F32) {
            memcpy(out + 4 * i, &value, 4);
        } else {
            memcpy(out + 2 * i, &half, 2);
        }
    }
}

static inline void write_norm(gguf_writer *w, size_t n, uint64_t *state) { /* near one */
    for (size_t i = 0; i < n; i++) {
        gguf_write_float(w, 1.0f + (float)(random_next(state) >> 56) / 1024.0f - 0.125f);
    }
}

static inline int is_vowel(int byte) {
    return byte > ' ' && strchr("aeiou", byte) != NULL;
}

/* A token carries its kind, vowel or not, in the first eighth of its embedding; the output looks
 * there for the other kind. That is all this model knows. */
static inline void write_kind(int8_t *values, size_t n, int byte, int is_output) {
    int8_t kind = is_vowel(byte) != is_output ? 127 : -127;
    for (size_t i = 0; i < n / 8; i++) {
        values[i] = kind;
    }
}

/* How far a row's values spread: by itself in the embedding, by what a sum over the row gives in
 * the others. Queries and keys are wide, so that attention chooses instead of averaging; what a
 * layer adds is narrow, as training makes it in a deep model, or rounding would run away. */
static inline float matrix_spread(const recipe *r, const planned *p, int is_table, int is_output) {
    int picks = strstr(p->name, "attn_q") != NULL || strstr(p->name, "attn_k") != NULL;
    int adds = strstr(p->name, "attn_output") != NULL || strstr(p->name, "ffn_down") != NULL;
    float spread = is_output ? 4.0f : picks ? 2.0f : adds ? 2.0f / sqrtf((float)r->layers) : 1.0f;
    return is_table ? 1.0f : spread / sqrtf((float)p->cols);
}

static inline void write_matrix(gguf_writer *w, const recipe *r, const planned *p, uint64_t *state,
                                int8_t *values, unsigned char *row) {
    int is_table = strcmp(p->name, "token_embd.weight") == 0;
    int is_output = strcmp(p->name, "output.weight") == 0;
    /* the values deviate by 73.3, as uniform ones from -127 to 127 do */
    uint16_t scale = half_from_float(matrix_spread(r, p, is_table, is_output) / 73.3f);
    for (size_t i = 0; i < p->rows; i++) {
        int byte = (int)i - 3;
        int says = byte == ' ' || (byte >= 'a' && byte <= 'z');
        random_values(values, p->cols, state);
        if (is_table || is_output) {
            write_kind(values, p->cols, byte, is_output);
        }
        encode_row(row, values, p->cols, is_output && !says ? 0 : scale, r->type);
        gguf_write(w, row, bytes_of_row(r->type, p->cols));
    }
}

static inline void write_tensors(gguf_writer *w, const recipe *r, int8_t *values,
                                 unsigned char *row, progress_call *report) {
    uint64_t start, total;
    for (size_t i = 0; i < recipe_tensors(r); i++) {
        planned p = recipe_tensor(r, i);
        const uint64_t shape[2] = { p.cols, p.rows };
        gguf_write_tensor(w, p.name, p.rows == 0 ? (uint32_t)GGUF_TYPE_F32 : r->type, shape,
                          p.rows == 0 ? 1 : 2);
    }
    gguf_write_pad(w);
    start = w->at;
    total = w->data;
    report("writing", 0, total);
    for (size_t i = 0; i < recipe_tensors(r) && !w->failed; i++) {
        planned p = recipe_tensor(r, i);
        uint64_t state = random_start(r, i);
        if (p.rows == 0) {
            write_norm(w, p.cols, &state);
        } else {
            write_matrix(w, r, &p, &state, values, row);
        }
        gguf_write_pad(w);
        report("writing", w->at - start, total);
    }
}

/* Under another name until it is complete, so that a broken run leaves no half model. */
static inline int write_model(const char *path, const recipe *r, progress_call *report,
                              message *why) {
    gguf_writer w;
    size_t widest = larger(r->dim, r->ffn), name_bytes = strlen(path) + sizeof(".part");
    int8_t *values = (int8_t *)malloc(widest);
    unsigned char *row = (unsigned char *)malloc(widest * sizeof(float));
    char *unfinished = (char *)malloc(name_bytes);
    FILE *file = NULL;
    int failed = ENOMEM;
    if (values != NULL && row != NULL && unfinished != NULL) {
        snprintf(unfinished, name_bytes, "%s.part", path);
        file = fopen(unfinished, "wb");
        failed = file == NULL ? errno : 0;
    }
    if (file != NULL) {
        gguf_write_begin(&w, file, recipe_tensors(r), WRITER_PAIRS);
        write_pairs(&w, r);
        write_tensors(&w, r, values, row, report);
        failed = w.failed;
        if (fclose(file) != 0 && failed == 0) {
            failed = errno;
        }
    }
#if defined(_WIN32)
    if (failed == 0 && remove(path) != 0 && errno != ENOENT) { /* rename does not replace there */
        failed = errno;
    }
#endif
    if (failed == 0 && rename(unfinished, path) != 0) {
        failed = errno;
    }
    if (failed != 0) {
        refuse(why, "cannot write %s: %s", path, strerror(failed));
    }
    if (failed != 0 && file != NULL) {
        remove(unfinished);
    }
    free(values);
    free(row);
    free(unfinished);
    return failed == 0;
}

/* Is this file the one the recipe would write? */
static inline int recipe_matches(llama *m, const recipe *r) {
    const gguf_pair *seed = gguf_find_pair(&m->file, "tensormem.demo.seed");
    return seed != NULL && gguf_item_uint(seed, 0) == r->seed && m->layers == r->layers &&
           m->dim == r->dim && m->ffn == r->ffn && m->heads == r->heads &&
           m->kv_heads == r->kv_heads && m->output->type == r->type;
}

#endif /* LLAMA_H */
