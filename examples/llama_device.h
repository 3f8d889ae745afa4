/* llama_device.h - the layers of llama.h on a device: kernels for OpenCL and CUDA in one text. */
/*
 * The device keeps the floats of an engine in a buffer of its own, each at the same distance from
 * the first; the operations below put a kernel in the device's queue and return. Weights, keys and
 * values are where tensormem has pinned them. The kernels are OpenCL C, and CUDA C by a few macros;
 * they are compiled when the device is opened, by the OpenCL driver or by NVRTC, which is part of
 * the CUDA toolkit. They compute what the CPU's do and sum in another order. They have been run by
 * OpenCL on a CPU (PoCL); NVRTC has compiled them, and no CUDA device has run them yet.
 *
 * A group of WIDTH lanes makes one sum. On a CPU that shows itself as a device WIDTH is 1.
 *
 * Sections: kernels, OpenCL, CUDA, operations, open and close. Include tensormem.h first. */
#ifndef LLAMA_DEVICE_H
#define LLAMA_DEVICE_H

#include "backends/cuda.h"
#include "backends/opencl.h"
#include "llama.h"

/* ---- kernels -------------------------------------------------------------------------------- */

typedef struct gpu_job { /* of a kernel: places in the floats, and where the tensor begins */
    uint64_t at, row_bytes;
    uint32_t out, x, y, rows, cols, type, position, unused;
} gpu_job;

#define GPU_KERNELS(X)                                                                             \
    X(rms_norm) X(quantize) X(round_like) X(multiply) X(turn) X(keep) X(attend) X(swiglu) X(add)

enum gpu_kernel {
#define GPU_NUMBER(name) GPU_##name,
    GPU_KERNELS(GPU_NUMBER)
#undef GPU_NUMBER
        GPU_KERNEL_COUNT
};

#define GPU_NAME(name) #name,
static const char *const gpu_kernel_name[GPU_KERNEL_COUNT] = { GPU_KERNELS(GPU_NAME) };
#undef GPU_NAME

#define GPU_TEXT(...) #__VA_ARGS__

/* clang-format off */

static const char gpu_opencl_words[] =
    "#define KERNEL __kernel __attribute__((reqd_work_group_size(WIDTH, 1, 1))) void\n"
    "#define FUNCTION\n"
    "#define GLOBAL __global\n"
    "#define LOCAL __local\n"
    "#define NEAR __local\n" /* what points there */
    "#define GROUP ((uint)get_group_id(0))\n"
    "#define GROUPS ((uint)get_num_groups(0))\n"
    "#define LANE ((uint)get_local_id(0))\n"
    "#define MEET barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE)\n"
    "#define BITS as_uint\n"
    "#define FLOAT as_float\n"
    "#define schar char\n"
    "float from_half(__global const ushort *at) {\n"
    "    return vload_half(0, (__global const half *)at);\n"
    "}\n"
    "float through_half(float value) {\n"
    "    ushort bits;\n"
    "    vstore_half_rte(value, 0, (half *)&bits);\n"
    "    return vload_half(0, (const half *)&bits);\n"
    "}\n";

static const char gpu_cuda_words[] =
    "#define KERNEL extern \"C\" __global__ void __launch_bounds__(WIDTH)\n"
    "#define FUNCTION static __device__\n"
    "#define GLOBAL\n"
    "#define LOCAL __shared__\n"
    "#define NEAR\n"
    "#define GROUP blockIdx.x\n"
    "#define GROUPS gridDim.x\n"
    "#define LANE threadIdx.x\n"
    "#define MEET __syncthreads()\n"
    "#define BITS __float_as_uint\n"
    "#define FLOAT __uint_as_float\n"
    "#define schar signed char\n"
    "#define uchar unsigned char\n"
    "#define ushort unsigned short\n"
    "#define uint unsigned\n"
    "#define ulong unsigned long long\n"
    "#define exp expf\n"
    "#define sqrt sqrtf\n"
    "#define fabs fabsf\n"
    "static __device__ float from_half(const ushort *at) {\n"
    "    float value;\n"
    "    asm(\"cvt.f32.f16 %0, %1;\" : \"=f\"(value) : \"h\"(*at));\n"
    "    return value;\n"
    "}\n"
    "static __device__ float through_half(float value) {\n"
    "    ushort bits;\n"
    "    asm(\"cvt.rn.f16.f32 %0, %1;\" : \"=h\"(bits) : \"f\"(value));\n"
    "    return from_half(&bits);\n"
    "}\n";

/* Sums over the lanes of a group; EACH shares items out to the lanes of all groups. */
static const char gpu_common[] =
    "#define EACH(i, n) for (uint i = GROUP * WIDTH + LANE; i < (n); i += GROUPS * WIDTH)\n"
    GPU_TEXT(
typedef struct job {
    ulong at, row_bytes;
    uint out, x, y, rows, cols, type, position, unused;
} job;

FUNCTION float sum_of(NEAR float *lane, float mine) {
    lane[LANE] = mine;
    MEET;
    for (uint apart = WIDTH / 2; apart > 0; apart /= 2) {
        if (LANE < apart) lane[LANE] += lane[LANE + apart];
        MEET;
    }
    float sum = lane[0];
    MEET;
    return sum;
}

FUNCTION float most_of(NEAR float *lane, float mine) {
    lane[LANE] = mine;
    MEET;
    float most = lane[0];
    for (uint i = 1; i < WIDTH; i++) most = lane[i] > most ? lane[i] : most;
    MEET;
    return most;
}

KERNEL rms_norm(GLOBAL float *f, GLOBAL uchar *w, job j) {
    LOCAL float lane[WIDTH];
    GLOBAL const float *weight = (GLOBAL const float *)(w + j.at);
    float sum = 0;
    for (uint i = LANE; i < j.cols; i += WIDTH) sum += f[j.x + i] * f[j.x + i];
    float scale = 1 / sqrt(sum_of(lane, sum) / j.cols + EPSILON);
    for (uint i = LANE; i < j.cols; i += WIDTH) f[j.out + i] = f[j.x + i] * scale * weight[i];
}

KERNEL add(GLOBAL float *f, GLOBAL uchar *w, job j) {
    EACH(i, j.cols) f[j.out + i] += f[j.x + i];
}

KERNEL swiglu(GLOBAL float *f, GLOBAL uchar *w, job j) {
    EACH(i, j.cols) {
        float gate = f[j.out + i];
        f[j.out + i] = gate / (1 + exp(-gate)) * f[j.x + i];
    }
}
);

/* Vectors as the matrix likes them (quantize and round_like of llama.h), and the products. */
static const char gpu_products[] = GPU_TEXT(
KERNEL quantize(GLOBAL float *f, GLOBAL uchar *w, job j) {
    EACH(b, j.cols / 32) {
        GLOBAL const float *v = f + j.x + b * 32;
        GLOBAL schar *out = (GLOBAL schar *)(f + VALUES) + b * 32;
        float most = 0;
        for (int i = 0; i < 32; i++) most = fabs(v[i]) > most ? fabs(v[i]) : most;
        float scale = through_half(most / 127);
        float inverse = scale > 0 ? 127 / most : 0;
        for (int i = 0; i < 32; i++) {
            float value = v[i] * inverse;
            value = value < 127 ? value : 127;
            out[i] = (schar)(int)(value + (value < 0 ? -0.5f : 0.5f));
        }
        f[SCALES + b] = scale;
    }
}

KERNEL round_like(GLOBAL float *f, GLOBAL uchar *w, job j) {
    EACH(i, j.cols) {
        uint bits = BITS(f[j.x + i]);
        float brief = FLOAT((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
        f[ROUNDED + i] = j.type == TYPE_F16 ? through_half(f[j.x + i]) : brief;
    }
}

FUNCTION float dot_f32(GLOBAL const float *w, GLOBAL const float *x, uint n) {
    float sum = 0;
    for (uint i = LANE; i < n; i += WIDTH) sum += w[i] * x[i];
    return sum;
}

FUNCTION float dot_f16(GLOBAL const ushort *w, GLOBAL const float *x, uint n) {
    float sum = 0;
    for (uint i = LANE; i < n; i += WIDTH) sum += from_half(w + i) * x[i];
    return sum;
}

FUNCTION float dot_bf16(GLOBAL const ushort *w, GLOBAL const float *x, uint n) {
    float sum = 0;
    for (uint i = LANE; i < n; i += WIDTH) sum += FLOAT((uint)w[i] << 16) * x[i];
    return sum;
}

FUNCTION float dot_q8_0(GLOBAL const uchar *row, GLOBAL const float *f, uint n) {
    float sum = 0;
    for (uint b = LANE; b < n / 32; b += WIDTH) {
        GLOBAL const uchar *block = row + b * 34;
        GLOBAL const schar *w = (GLOBAL const schar *)(block + 2);
        GLOBAL const schar *x = (GLOBAL const schar *)(f + VALUES) + b * 32;
        int dot = 0;
        for (int i = 0; i < 32; i++) dot += w[i] * x[i];
        sum += dot * (from_half((GLOBAL const ushort *)block) * f[SCALES + b]);
    }
    return sum;
}

KERNEL multiply(GLOBAL float *f, GLOBAL uchar *w, job j) {
    LOCAL float lane[WIDTH];
    for (uint r = GROUP; r < j.rows; r += GROUPS) {
        GLOBAL const uchar *row = w + j.at + r * j.row_bytes;
        GLOBAL const ushort *brief = (GLOBAL const ushort *)row;
        float sum = j.type == TYPE_F32    ? dot_f32((GLOBAL const float *)row, f + j.x, j.cols)
                    : j.type == TYPE_F16  ? dot_f16(brief, f + ROUNDED, j.cols)
                    : j.type == TYPE_BF16 ? dot_bf16(brief, f + ROUNDED, j.cols)
                                          : dot_q8_0(row, f, j.cols);
        sum = sum_of(lane, sum);
        if (LANE == 0) f[j.out + r] = sum;
    }
}
);

/* turn rotates `rows` heads; keep puts the new key and value to the others; attend takes a group a
 * head at a time. Positions after the last are never read: their bytes may be anything. */
static const char gpu_attention[] = GPU_TEXT(
KERNEL turn(GLOBAL float *f, GLOBAL uchar *w, job j) {
    EACH(i, j.rows * (ROPE_DIM / 2)) {
        uint pair = 2 * (i % (ROPE_DIM / 2));
        GLOBAL float *at = f + j.out + i / (ROPE_DIM / 2) * HEAD_DIM + pair;
        float a = at[0];
        float b = at[1];
        at[0] = a * f[j.x + pair] - b * f[j.x + pair + 1];
        at[1] = a * f[j.x + pair + 1] + b * f[j.x + pair];
    }
}

KERNEL keep(GLOBAL float *f, GLOBAL uchar *w, job j) {
    GLOBAL float *key = (GLOBAL float *)(w + j.at) + (ulong)j.position * KV_DIM;
    EACH(i, KV_DIM) {
        key[i] = f[j.x + i];
        key[(ulong)CONTEXT * KV_DIM + i] = f[j.y + i];
    }
}

FUNCTION void attend_head(GLOBAL float *f, GLOBAL uchar *w, job j, uint head, NEAR float *lane) {
    GLOBAL const float *key = (GLOBAL const float *)(w + j.at) + head / SHARED * HEAD_DIM;
    GLOBAL const float *value = key + (ulong)CONTEXT * KV_DIM;
    GLOBAL const float *q = f + j.x + head * HEAD_DIM;
    GLOBAL float *score = f + j.y + head * CONTEXT;
    float most = -3.4e38f;
    float sum = 0;
    for (uint p = LANE; p <= j.position; p += WIDTH) {
        float dot = 0;
        for (uint i = 0; i < HEAD_DIM; i++) dot += key[(ulong)p * KV_DIM + i] * q[i];
        score[p] = dot * SCALE;
        most = score[p] > most ? score[p] : most;
    }
    most = most_of(lane, most);
    for (uint p = LANE; p <= j.position; p += WIDTH) {
        score[p] = exp(score[p] - most);
        sum += score[p];
    }
    sum = sum_of(lane, sum);
    for (uint i = LANE; i < HEAD_DIM; i += WIDTH) {
        float out = 0;
        for (uint p = 0; p <= j.position; p++)
            out += score[p] / sum * value[(ulong)p * KV_DIM + i];
        f[j.out + head * HEAD_DIM + i] = out;
    }
}

KERNEL attend(GLOBAL float *f, GLOBAL uchar *w, job j) {
    LOCAL float lane[WIDTH];
    for (uint head = GROUP; head < j.rows; head += GROUPS) attend_head(f, w, j, head, lane);
}
);

/* clang-format on */

typedef struct gpu gpu;

typedef struct gpu_runtime {  /* what OpenCL and CUDA do in words of their own; 0 = no: g->why */
    const char *name, *words; /* for the kernels */
    int (*open)(gpu *g);      /* the device */
    int (*build)(gpu *g, const char *const *text, uint32_t texts); /* the kernels */
    int (*launch)(gpu *g, int kernel, uint32_t groups, uint64_t mem, const gpu_job *job);
    int (*write)(gpu *g, uint64_t offset, const void *from, size_t bytes); /* into the floats */
    int (*read)(gpu *g, uint64_t offset, void *to, size_t bytes);
    uint64_t (*mark)(gpu *g); /* a fence behind all that */
    uint64_t (*passed)(gpu *g, uint64_t wait_for);
    const char *(*error)(const gpu *g);
    void (*close)(gpu *g);
} gpu_runtime;

struct gpu {
    const gpu_runtime *runtime;
    union {
        tnm_opencl *opencl;
        tnm_cuda *cuda;
    } rt;
    tnm_backend device, host; /* the tiers it wants */
    uint32_t width, groups;   /* lanes that make a sum; groups that keep it busy */
    uint64_t floats, bytes;   /* a buffer: the engine's memory, then the vector of a product */
    uint32_t rounded, scales, values; /* which begins there, in floats */
    void *calls, *module, *kernel[GPU_KERNEL_COUNT];
    char name[64]; /* of the device */
    message why;
};

/* ---- OpenCL --------------------------------------------------------------------------------- */

#define GPU_OPENCL_CALLS(X)                                                                        \
    X(void *, clCreateProgramWithSource,                                                           \
      (tnm_opencl_cl_context, uint32_t, const char *const *, const size_t *, int32_t *))           \
    X(int32_t, clBuildProgram,                                                                     \
      (void *, uint32_t, const tnm_opencl_device_id *, const char *, void *, void *))              \
    X(int32_t, clGetProgramBuildInfo,                                                              \
      (void *, tnm_opencl_device_id, uint32_t, size_t, void *, size_t *))                          \
    X(int32_t, clReleaseProgram, (void *))                                                         \
    X(void *, clCreateKernel, (void *, const char *, int32_t *))                                   \
    X(int32_t, clSetKernelArg, (void *, uint32_t, size_t, const void *))                           \
    X(int32_t, clEnqueueNDRangeKernel,                                                             \
      (tnm_opencl_cl_queue, void *, uint32_t, const size_t *, const size_t *, const size_t *,      \
       uint32_t, const tnm_opencl_event *, tnm_opencl_event *))                                    \
    X(int32_t, clReleaseKernel, (void *))

typedef struct gpu_opencl_calls {
#define GPU_MEMBER(result, name, parameters) result(TNM_OPENCL_CALL *name) parameters;
    GPU_OPENCL_CALLS(GPU_MEMBER)
#undef GPU_MEMBER
} gpu_opencl_calls;

enum {
    GPU_CL_NAME = 0x102B,
    GPU_CL_TYPE = 0x1000,
    GPU_CL_UNITS = 0x1002,
    GPU_CL_BUILD_LOG = 0x1183,
    GPU_CL_CPU = 2
};

static inline int gpu_opencl_find(gpu *g) {
    gpu_opencl_calls *c = (gpu_opencl_calls *)calloc(1, sizeof(*c));
    g->calls = c;
    if (c == NULL) {
        return refuse(&g->why, "out of memory");
    }
#define GPU_FIND(result, name, parameters)                                                         \
    if (!tnm_opencl_find(g->rt.opencl, #name, &c->name, sizeof(c->name))) {                        \
        return refuse(&g->why, "the OpenCL library has no %s", #name);                             \
    }
    GPU_OPENCL_CALLS(GPU_FIND)
#undef GPU_FIND
    return 1;
}

static inline int gpu_opencl_open(gpu *g) {
    tnm_opencl_desc first;
    uint64_t type = 0;
    uint32_t units = 1;
    memset(&first, 0, sizeof(first));
    if (tnm_opencl_open(&first, &g->rt.opencl) != TNM_OK) {
        return refuse(&g->why, "%s", tnm_opencl_error(NULL));
    }
    tnm_opencl *cl = g->rt.opencl;
    tnm_opencl_device_id device = tnm_opencl_device(cl);
    if (cl->api.GetDeviceInfo(device, GPU_CL_NAME, sizeof(g->name), g->name, NULL) != 0) {
        snprintf(g->name, sizeof(g->name), "an OpenCL device"); /* the name is longer */
    }
    (void)cl->api.GetDeviceInfo(device, GPU_CL_TYPE, sizeof(type), &type, NULL);
    (void)cl->api.GetDeviceInfo(device, GPU_CL_UNITS, sizeof(units), &units, NULL);
    g->width = g->width != 0 ? g->width : (type & GPU_CL_CPU) != 0 ? 1 : 64;
    g->groups = units * ((type & GPU_CL_CPU) != 0 ? 1 : 32);
    tnm_opencl_backend(cl, &g->device);
    tnm_opencl_host(cl, &g->host);
    return gpu_opencl_find(g);
}

static inline int gpu_opencl_build(gpu *g, const char *const *text, uint32_t texts) {
    const gpu_opencl_calls *c = (const gpu_opencl_calls *)g->calls;
    tnm_opencl_device_id device = tnm_opencl_device(g->rt.opencl);
    char log[300] = "";
    int32_t code = 0;
    g->module =
        c->clCreateProgramWithSource(tnm_opencl_context(g->rt.opencl), texts, text, NULL, &code);
    code = code != 0 ? code : c->clBuildProgram(g->module, 1, &device, "", NULL, NULL);
    if (code != 0 && g->module != NULL) { /* a log that is longer is not given at all */
        (void)c->clGetProgramBuildInfo(g->module, device, GPU_CL_BUILD_LOG, sizeof(log), log, NULL);
    }
    for (int i = 0; i < GPU_KERNEL_COUNT && code == 0; i++) {
        g->kernel[i] = c->clCreateKernel(g->module, gpu_kernel_name[i], &code);
    }
    return code == 0 ? 1 : refuse(&g->why, "OpenCL cannot build the kernels (%d) %s", code, log);
}

static inline int gpu_opencl_launch(gpu *g, int kernel, uint32_t groups, uint64_t mem,
                                    const gpu_job *job) {
    const gpu_opencl_calls *c = (const gpu_opencl_calls *)g->calls;
    tnm_opencl_mem floats = (tnm_opencl_mem)(uintptr_t)g->floats;
    tnm_opencl_mem tensor = (tnm_opencl_mem)(uintptr_t)mem;
    size_t lanes = g->width, all = (size_t)groups * lanes;
    void *k = g->kernel[kernel];
    int32_t code = c->clSetKernelArg(k, 0, sizeof(floats), &floats);
    code = code != 0 ? code : c->clSetKernelArg(k, 1, sizeof(tensor), &tensor);
    code = code != 0 ? code : c->clSetKernelArg(k, 2, sizeof(*job), job);
    code = code != 0 ? code
                     : c->clEnqueueNDRangeKernel(tnm_opencl_queue(g->rt.opencl, 0), k, 1, NULL,
                                                 &all, &lanes, 0, NULL, NULL);
    return code == 0 ? 1
                     : refuse(&g->why, "OpenCL refuses to start %s: %d", gpu_kernel_name[kernel],
                              (int)code);
}

static inline int gpu_opencl_write(gpu *g, uint64_t offset, const void *from, size_t bytes) {
    tnm_opencl *cl = g->rt.opencl;
    int32_t code =
        cl->api.EnqueueWriteBuffer(tnm_opencl_queue(cl, 0), tnm_opencl_buffer(cl, g->floats), 0,
                                   (size_t)offset, bytes, from, 0, NULL, NULL);
    return code == 0 ? 1 : refuse(&g->why, "clEnqueueWriteBuffer answered %d", (int)code);
}

static inline int gpu_opencl_read(gpu *g, uint64_t offset, void *to, size_t bytes) {
    tnm_opencl *cl = g->rt.opencl;
    int32_t code =
        cl->api.EnqueueReadBuffer(tnm_opencl_queue(cl, 0), tnm_opencl_buffer(cl, g->floats), 0,
                                  (size_t)offset, bytes, to, 0, NULL, NULL);
    return code == 0 ? 1 : refuse(&g->why, "clEnqueueReadBuffer answered %d", (int)code);
}

static inline uint64_t gpu_opencl_mark(gpu *g) {
    return tnm_opencl_mark(g->rt.opencl, 0);
}

static inline uint64_t gpu_opencl_passed(gpu *g, uint64_t wait_for) {
    return tnm_opencl_passed(g->rt.opencl, 0, wait_for);
}

static inline const char *gpu_opencl_error(const gpu *g) {
    return tnm_opencl_error(g->rt.opencl);
}

static inline void gpu_opencl_close(gpu *g) {
    const gpu_opencl_calls *c = (const gpu_opencl_calls *)g->calls;
    for (int i = 0; i < GPU_KERNEL_COUNT; i++) {
        if (g->kernel[i] != NULL) {
            (void)c->clReleaseKernel(g->kernel[i]);
        }
    }
    if (g->module != NULL) {
        (void)c->clReleaseProgram(g->module);
    }
    tnm_opencl_close(g->rt.opencl);
}

static const gpu_runtime gpu_opencl = { "opencl",         gpu_opencl_words,  gpu_opencl_open,
                                        gpu_opencl_build, gpu_opencl_launch, gpu_opencl_write,
                                        gpu_opencl_read,  gpu_opencl_mark,   gpu_opencl_passed,
                                        gpu_opencl_error, gpu_opencl_close };

/* ---- CUDA ----------------------------------------------------------------------------------- */

#define GPU_NVRTC_CALLS(X)                                                                         \
    X(nvrtcCreateProgram, (void **, const char *, const char *, int, const void *, const void *))  \
    X(nvrtcCompileProgram, (void *, int, const char *const *))                                     \
    X(nvrtcGetProgramLogSize, (void *, size_t *))                                                  \
    X(nvrtcGetProgramLog, (void *, char *))                                                        \
    X(nvrtcGetPTXSize, (void *, size_t *))                                                         \
    X(nvrtcGetPTX, (void *, char *))                                                               \
    X(nvrtcDestroyProgram, (void **))

#define GPU_CUDA_CALLS(X)                                                                          \
    X(cuModuleLoadData, (void **, const void *))                                                   \
    X(cuModuleUnload, (void *))                                                                    \
    X(cuModuleGetFunction, (void **, void *, const char *))                                        \
    X(cuDeviceGetName, (char *, int, int))                                                         \
    X(cuLaunchKernel, (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,         \
                       unsigned, void *, void **, void **))

typedef struct gpu_cuda_calls {
#define GPU_MEMBER(name, parameters) int(TNM_CUDA_API * name) parameters;
    GPU_NVRTC_CALLS(GPU_MEMBER)
    GPU_CUDA_CALLS(GPU_MEMBER)
#undef GPU_MEMBER
} gpu_cuda_calls;

enum { GPU_CU_MULTIPROCESSORS = 16, GPU_CU_MAJOR = 75, GPU_CU_MINOR = 76 };

/* The compiler comes with the toolkit, not with the driver. */
static inline void *gpu_nvrtc_library(void) {
    static const char *const names[] = {
        "libnvrtc.so.13", "libnvrtc.so.12",    "libnvrtc.so.11.2",
        "libnvrtc.so",    "nvrtc64_130_0.dll", "nvrtc64_120_0.dll"
    };
    void *library = NULL;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && library == NULL; i++) {
        library = tnm_cuda_library(names[i]);
    }
    return library;
}

static inline int gpu_cuda_find(gpu *g, void *library, void *out, const char *name) {
    void *at = tnm_cuda_symbol(library, name);
    memcpy(out, &at, sizeof(at));
    return at != NULL ? 1 : refuse(&g->why, "there is no %s in the CUDA libraries", name);
}

static inline int gpu_nvrtc_load(gpu *g, gpu_cuda_calls *c) {
    void *library = gpu_nvrtc_library();
    if (library == NULL) {
        return refuse(&g->why, "NVRTC, which compiles the kernels, is not there: install the CUDA "
                               "toolkit, or its libnvrtc (libnvrtc.so.12)");
    }
#define GPU_FIND(name, parameters) gpu_cuda_find(g, library, &c->name, #name) &&
    return GPU_NVRTC_CALLS(GPU_FIND) 1;
}

static inline int gpu_cuda_load(gpu *g, gpu_cuda_calls *c) {
    void *library = tnm_cuda_library(NULL);
    return GPU_CUDA_CALLS(GPU_FIND) 1;
#undef GPU_FIND
}

static inline int gpu_cuda_open(gpu *g) {
    tnm_cuda_desc first;
    int units = 1;
    memset(&first, 0, sizeof(first));
    if (tnm_cuda_open(&first, &g->rt.cuda) != TNM_OK) {
        return refuse(&g->why, "%s", tnm_cuda_error(NULL));
    }
    tnm_cuda *rt = g->rt.cuda;
    tnm_cuda_backend(rt, &g->device);
    tnm_cuda_host(rt, &g->host);
    gpu_cuda_calls *c = (gpu_cuda_calls *)calloc(1, sizeof(*c));
    g->calls = c;
    if (c == NULL) {
        return refuse(&g->why, "out of memory");
    }
    if (!gpu_nvrtc_load(g, c) || !gpu_cuda_load(g, c)) {
        return 0;
    }
    (void)rt->cu.attribute(&units, GPU_CU_MULTIPROCESSORS, rt->device);
    if (c->cuDeviceGetName(g->name, (int)sizeof(g->name), rt->device) != 0) {
        snprintf(g->name, sizeof(g->name), "a CUDA device");
    }
    g->width = g->width != 0 ? g->width : 64;
    g->groups = (uint32_t)units * 32;
    return 1;
}

/* All texts in one, as NVRTC takes them; the caller's to free. */
static inline char *gpu_cuda_join(const char *const *text, uint32_t texts) {
    size_t bytes = 1;
    for (uint32_t i = 0; i < texts; i++) {
        bytes += strlen(text[i]) + 1;
    }
    char *all = (char *)calloc(bytes, 1);
    for (uint32_t i = 0; all != NULL && i < texts; i++) {
        size_t at = strlen(all);
        snprintf(all + at, bytes - at, "%s\n", text[i]);
    }
    return all;
}

/* To PTX for this device; the caller's to free. */
static inline char *gpu_cuda_compile(gpu *g, const char *text) {
    const gpu_cuda_calls *c = (const gpu_cuda_calls *)g->calls;
    char architecture[48], *out = NULL;
    const char *const options[] = { architecture };
    void *program = NULL;
    size_t bytes = 0;
    int major = 7, minor = 5;
    (void)g->rt.cuda->cu.attribute(&major, GPU_CU_MAJOR, g->rt.cuda->device);
    (void)g->rt.cuda->cu.attribute(&minor, GPU_CU_MINOR, g->rt.cuda->device);
    snprintf(architecture, sizeof(architecture), "--gpu-architecture=compute_%d%d", major, minor);
    int code = c->nvrtcCreateProgram(&program, text, "llama_device.cu", 0, NULL, NULL);
    if (code == 0) {
        code = c->nvrtcCompileProgram(program, 1, options);
        int size = code == 0 ? c->nvrtcGetPTXSize(program, &bytes)
                             : c->nvrtcGetProgramLogSize(program, &bytes);
        out = size == 0 ? (char *)calloc(bytes + 1, 1) : NULL;
        if (out != NULL) {
            (void)(code == 0 ? c->nvrtcGetPTX(program, out) : c->nvrtcGetProgramLog(program, out));
        }
        (void)c->nvrtcDestroyProgram(&program);
    }
    if (code != 0) {
        refuse(&g->why, "NVRTC cannot build the kernels (%d) %.300s", code, out != NULL ? out : "");
        free(out);
        out = NULL;
    }
    return out;
}

/* Every call below wants the device's context to be this thread's. */
static inline int gpu_cuda_check(gpu *g, int code, const char *what) {
    return code == 0 ? 1 : refuse(&g->why, "CUDA: %s failed with %d", what, code);
}

static inline int gpu_cuda_take(gpu *g, const char *ptx) {
    const gpu_cuda_calls *c = (const gpu_cuda_calls *)g->calls;
    int code = tnm_cuda_enter(g->rt.cuda);
    if (!gpu_cuda_check(g, code, "entering the context")) {
        return 0;
    }
    code = c->cuModuleLoadData(&g->module, ptx);
    for (int i = 0; i < GPU_KERNEL_COUNT && code == 0; i++) {
        code = c->cuModuleGetFunction(&g->kernel[i], g->module, gpu_kernel_name[i]);
    }
    tnm_cuda_leave(g->rt.cuda);
    return gpu_cuda_check(g, code, "loading the kernels");
}

static inline int gpu_cuda_build(gpu *g, const char *const *text, uint32_t texts) {
    char *all = gpu_cuda_join(text, texts), *ptx = all != NULL ? gpu_cuda_compile(g, all) : NULL;
    int good = ptx != NULL && gpu_cuda_take(g, ptx);
    free(all);
    free(ptx);
    return good ? 1 : refuse(&g->why, "out of memory");
}

static inline int gpu_cuda_launch(gpu *g, int kernel, uint32_t groups, uint64_t mem,
                                  const gpu_job *job) {
    const gpu_cuda_calls *c = (const gpu_cuda_calls *)g->calls;
    tnm_cuda_ptr floats = (tnm_cuda_ptr)g->floats, tensor = (tnm_cuda_ptr)mem;
    gpu_job its = *job;
    void *arguments[] = { &floats, &tensor, &its };
    int code = tnm_cuda_enter(g->rt.cuda);
    if (code == 0) {
        code = c->cuLaunchKernel(g->kernel[kernel], groups, 1, 1, g->width, 1, 1, 0,
                                 tnm_cuda_queue(g->rt.cuda, 0), arguments, NULL);
        tnm_cuda_leave(g->rt.cuda);
    }
    return gpu_cuda_check(g, code, gpu_kernel_name[kernel]);
}

/* The engine's floats are pageable: the driver has taken what is written when it returns, and
 * waits for what is read. */
static inline int gpu_cuda_write(gpu *g, uint64_t offset, const void *from, size_t bytes) {
    tnm_cuda *rt = g->rt.cuda;
    int code = tnm_cuda_enter(rt);
    if (code == 0) {
        code =
            rt->cu.copy_up((tnm_cuda_ptr)(g->floats + offset), from, bytes, tnm_cuda_queue(rt, 0));
        tnm_cuda_leave(rt);
    }
    return gpu_cuda_check(g, code, "cuMemcpyHtoDAsync");
}

static inline int gpu_cuda_read(gpu *g, uint64_t offset, void *to, size_t bytes) {
    tnm_cuda *rt = g->rt.cuda;
    int code = tnm_cuda_enter(rt);
    if (code == 0) {
        code =
            rt->cu.copy_down(to, (tnm_cuda_ptr)(g->floats + offset), bytes, tnm_cuda_queue(rt, 0));
        tnm_cuda_leave(rt);
    }
    return gpu_cuda_check(g, code, "cuMemcpyDtoHAsync");
}

static inline uint64_t gpu_cuda_mark(gpu *g) {
    return tnm_cuda_mark(g->rt.cuda, 0);
}

static inline uint64_t gpu_cuda_passed(gpu *g, uint64_t wait_for) {
    return tnm_cuda_passed(g->rt.cuda, 0, wait_for);
}

static inline const char *gpu_cuda_error(const gpu *g) {
    return tnm_cuda_error(g->rt.cuda);
}

static inline void gpu_cuda_close(gpu *g) {
    const gpu_cuda_calls *c = (const gpu_cuda_calls *)g->calls;
    if (g->module != NULL && tnm_cuda_enter(g->rt.cuda) == 0) {
        (void)c->cuModuleUnload(g->module);
        tnm_cuda_leave(g->rt.cuda);
    }
    tnm_cuda_close(g->rt.cuda);
}

static const gpu_runtime gpu_cuda = { "cuda",         gpu_cuda_words,  gpu_cuda_open,
                                      gpu_cuda_build, gpu_cuda_launch, gpu_cuda_write,
                                      gpu_cuda_read,  gpu_cuda_mark,   gpu_cuda_passed,
                                      gpu_cuda_error, gpu_cuda_close };

/* ---- operations -----------------------------------------------------------------------------
 * A failure is noted, and what follows does nothing: look at g->why after a step. */

static inline uint32_t gpu_at(const engine *e, const float *part) {
    return (uint32_t)(part - e->memory);
}

static inline void gpu_launch(gpu *g, int kernel, size_t items, uint64_t mem, gpu_job job) {
    size_t groups = (items + g->width - 1) / g->width;
    groups = groups > g->groups ? g->groups : larger(groups, 1);
    if (g->why.text[0] == 0) {
        (void)g->runtime->launch(g, kernel, (uint32_t)groups, mem != 0 ? mem : g->floats, &job);
    }
}

static inline gpu_job gpu_job_of(const engine *e, const float *out, const float *x, size_t cols) {
    gpu_job job;
    memset(&job, 0, sizeof(job));
    job.out = gpu_at(e, out);
    job.x = gpu_at(e, x);
    job.cols = (uint32_t)cols;
    return job;
}

static inline void gpu_copy(engine *e, const float *part, size_t count, int down) {
    gpu *g = (gpu *)e->device;
    uint64_t offset = gpu_at(e, part) * sizeof(float);
    if (g->why.text[0] != 0) {
        return;
    }
    if (down) {
        (void)g->runtime->read(g, offset, e->memory + gpu_at(e, part), count * sizeof(float));
    } else {
        (void)g->runtime->write(g, offset, part, count * sizeof(float));
    }
}

static inline void gpu_begin(engine *e) { /* nobody writes them before the logits are read */
    gpu_copy(e, e->x, e->model->dim, 0);
    gpu_copy(e, e->turn, e->model->rope_dim, 0);
}

static inline void gpu_end(engine *e) {
    gpu_copy(e, e->logits, e->model->vocab, 1);
}

static inline void gpu_norm(engine *e, float *out, const float *x, const gguf_tensor *t,
                            spot weight) {
    gpu_job job = gpu_job_of(e, out, x, (size_t)t->shape[0]);
    job.at = weight.offset;
    gpu_launch((gpu *)e->device, GPU_rms_norm, 1, weight.mem, job);
}

static inline void gpu_multiply(engine *e, float *out, const float *x, const model_piece *p,
                                spot rows) {
    gpu *g = (gpu *)e->device;
    gpu_job job = gpu_job_of(e, out, x, (size_t)p->tensor->shape[0]);
    job.type = p->tensor->type;
    if (p->first == 0 && job.type == GGUF_TYPE_Q8_0) {
        gpu_launch(g, GPU_quantize, job.cols / BLOCK, 0, job);
    } else if (p->first == 0 && job.type != GGUF_TYPE_F32) {
        gpu_launch(g, GPU_round_like, job.cols, 0, job);
    }
    job.at = rows.offset;
    job.rows = (uint32_t)p->rows;
    job.row_bytes = bytes_of_row(job.type, job.cols);
    gpu_launch(g, GPU_multiply, p->rows * g->width, rows.mem, job);
}

static inline void gpu_turn_heads(engine *e, float *part, size_t heads) {
    gpu_job job = gpu_job_of(e, part, e->turn, 0);
    job.rows = (uint32_t)heads;
    gpu_launch((gpu *)e->device, GPU_turn, heads * e->model->rope_dim / 2, 0, job);
}

static inline void gpu_attend(engine *e, spot kv, size_t position) {
    gpu *g = (gpu *)e->device;
    const llama *m = e->model;
    gpu_job keep = gpu_job_of(e, e->k, e->k, m->kv_dim), look = gpu_job_of(e, e->attended, e->q, 0);
    keep.at = look.at = kv.offset;
    keep.position = look.position = (uint32_t)position;
    keep.y = gpu_at(e, e->v);
    look.y = gpu_at(e, e->scores);
    look.rows = (uint32_t)m->heads;
    gpu_turn_heads(e, e->q, m->heads);
    gpu_turn_heads(e, e->k, m->kv_heads);
    gpu_launch(g, GPU_keep, m->kv_dim, kv.mem, keep);
    gpu_launch(g, GPU_attend, m->heads * g->width, kv.mem, look);
}

static inline void gpu_swiglu(engine *e) {
    gpu_launch((gpu *)e->device, GPU_swiglu, e->model->ffn, 0,
               gpu_job_of(e, e->gate, e->up, e->model->ffn));
}

static inline void gpu_add(engine *e) {
    gpu_launch((gpu *)e->device, GPU_add, e->model->dim, 0,
               gpu_job_of(e, e->x, e->projected, e->model->dim));
}

static const operations gpu_operations = { gpu_begin,  gpu_norm, gpu_multiply, gpu_attend,
                                           gpu_swiglu, gpu_add,  gpu_end };

/* ---- open and close ------------------------------------------------------------------------- */

static const gpu_runtime *const gpu_runtimes[] = { &gpu_opencl, &gpu_cuda };

/* One sentence on what failed. */
static inline const char *gpu_why(const gpu *g) {
    return g->why.text[0] != 0 ? g->why.text : g->runtime->error(g);
}

/* What the kernels must know: before the words of the runtime and what they are. */
static inline void gpu_numbers(const gpu *g, const engine *e, char *out, size_t room) {
    const llama *m = e->model;
    snprintf(out, room,
             "#define WIDTH %u\n#define EPSILON %.9ef\n#define SCALE %.9ef\n"
             "#define ROUNDED %u\n#define SCALES %u\n#define VALUES %u\n"
             "#define HEAD_DIM %zu\n#define ROPE_DIM %zu\n#define KV_DIM %zu\n"
             "#define SHARED %zu\n#define CONTEXT %zu\n"
             "#define TYPE_F32 %d\n#define TYPE_F16 %d\n#define TYPE_BF16 %d\n",
             (unsigned)g->width, (double)m->epsilon, 1.0 / sqrt((double)m->head_dim),
             (unsigned)g->rounded, (unsigned)g->scales, (unsigned)g->values, m->head_dim,
             m->rope_dim, m->kv_dim, m->heads / m->kv_heads, e->context, GGUF_TYPE_F32,
             GGUF_TYPE_F16, GGUF_TYPE_BF16);
}

/* Where the vector of a product lies behind the floats of the engine. 0 = too large for kernels
 * that count in 32 bits. */
static inline int gpu_lay_out(gpu *g, const engine *e) {
    const llama *m = e->model;
    size_t widest = larger(larger(m->dim, m->heads * m->head_dim), m->ffn);
    uint64_t all = (uint64_t)e->floats + widest + widest / BLOCK + 1 + widest / sizeof(float) + 1;
    g->rounded = (uint32_t)e->floats;
    g->scales = (uint32_t)(g->rounded + widest);
    g->values = (uint32_t)(g->scales + widest / BLOCK + 1);
    g->bytes = all * sizeof(float);
    return all <= UINT32_MAX / sizeof(float)
               ? 1
               : refuse(&g->why, "the vectors of this model are too long for the kernels");
}

static inline void gpu_close(gpu *g) {
    if (g->floats != 0) {
        g->device.release(g->device.user, g->floats, g->bytes);
    }
    if (g->runtime != NULL) {
        g->runtime->close(g);
    }
    free(g->calls);
    memset(g, 0, sizeof(*g));
}

/* The device, its kernels, and its copy of the engine's floats; from then on it computes for the
 * engine. Closed after the tensors it computed on are gone, whatever this answered. */
static inline int gpu_open(gpu *g, const gpu_runtime *runtime, engine *e) {
    char numbers[1024];
    const char *text[] = { numbers, runtime->words, gpu_common, gpu_products, gpu_attention };
    void *host = NULL;
    g->runtime = runtime;
    e->does = &gpu_operations;
    e->device = g;
    if (!runtime->open(g) || !gpu_lay_out(g, e)) {
        return 0;
    }
    gpu_numbers(g, e, numbers, sizeof(numbers));
    if (!runtime->build(g, text, sizeof(text) / sizeof(text[0]))) {
        return 0;
    }
    tnm_result r = g->device.alloc(g->device.user, g->bytes, 64, NULL, &g->floats, &host);
    return r == TNM_OK ? 1
                       : refuse(&g->why, "the device has no %llu bytes for vectors: %s",
                                (unsigned long long)g->bytes, runtime->error(g));
}

#endif /* LLAMA_DEVICE_H */
