/* vulkan.h: a Vulkan device as a tier of tensormem. Copy it beside tensormem.h and include it after
 * tensormem.h in one C or C++ file. No SDK is needed to build: the loader is loaded when a device
 * is opened. Needed is Vulkan 1.2, or 1.1 with VK_KHR_timeline_semaphore. It has been run on
 * lavapipe (the CPU) under the validation layer so far.
 *
 *     tnm_vulkan *vk;
 *     tnm_ctx *mem;
 *     tnm_vulkan_desc first = { 0 };                     // the first device there is
 *     if (tnm_vulkan_open(&first, &vk) != TNM_OK) return puts(tnm_vulkan_error(NULL));
 *     tnm_tier_desc tiers[2] = { { .name = "device" }, { .name = "host" } };
 *     tnm_vulkan_backend(vk, &tiers[0].backend);
 *     tnm_vulkan_host(vk, &tiers[1].backend);
 *     tiers[0].budget_bytes = 2ull << 30;
 *     tiers[0].alignment = tnm_vulkan_alignment(vk);     // descriptors may begin there
 *     tnm_desc desc = { .tiers = tiers, .tier_count = 2, .user = vk };
 *     desc.passed = tnm_vulkan_passed;                   // fences of its compute queues
 *     tnm_create(&desc, &mem);
 *     ... pin, submit to tnm_vulkan_queue(vk, 0, NULL), waiting for tnm_vulkan_semaphore ...
 *     tnm_unpin(mem, at, n, TNM_FENCE(0, tnm_vulkan_mark(vk, 0)));
 *     tnm_destroy(mem);
 *     tnm_vulkan_close(vk);
 *
 * Memory. One VkDeviceMemory and one VkBuffer for each segment; a token is a tnm_vulkan_block, and
 * a pinned tensor is tnm_vulkan_buffer(vk, at.mem) at at.offset: the buffer and offset of a
 * descriptor. What lies in a segment is at most what the device allows in one allocation, and
 * their number is limited: what is beyond is a refusal like any other. The host tier is mapped,
 * coherent and, where there is such a type, cached memory; it needs no flushes. A VkBuffer of your
 * own is adopted as { .mem = (uint64_t)(uintptr_t)&block } with block = { .buffer = yours }.
 * Where tnm_vulkan_is_unified says 1 the host tier is as near to the device as the device tier is:
 * leave the device tier out there, the host tier's tensors are buffers to shaders as well.
 *
 * Copies go through queues of their own where the device has them (one for uploads and what stays
 * on the device, one for downloads), else through the first compute queue. What is recorded until
 * the engine's `submit` is one submission, or several of 16 MiB; its ticket is the value a timeline
 * semaphore will have. Memory that is not this host tier's (a tnm_read's, adopted, another
 * device's) goes through a few mapped pieces: its copy in has left it before copy() answers, its
 * copy out arrives when the poll answers. What is larger than a piece is waited for inside of
 * copy(). Two devices copy through the host tier, and the bytes of a file below bounce there.
 *
 * What you order. When a pin is granted its bytes are there. Your submission that uses them waits
 * for the semaphore and value of tnm_vulkan_semaphore, which have passed and cost nothing: this is
 * what makes them visible to your queue. The other way round it is the fence of your unpin: copies
 * begin when it has passed, and wait for its semaphore. Give it by tnm_vulkan_mark, behind what is
 * submitted, or let your own submission signal what tnm_vulkan_signal tells. Fences of your own
 * (desc.passed) do as well where they are semaphores or VkFences; tensors of the host tier that
 * shaders write need a barrier to VK_ACCESS_HOST_READ_BIT in front of them, which mark has.
 *
 * Several devices: one tnm_vulkan each. There is one tnm_desc.passed: write one that asks
 * tnm_vulkan_passed of the device a queue is of, and give each queue a number of its own in
 * TNM_FENCE. So too where desc.user must be yours.
 *
 * Your own instance, device and queues are used if the desc names them: the device with the feature
 * timelineSemaphore enabled. All that calls vkQueueSubmit on a queue that copies or marks use must
 * take turns: one thread, or desc.lock, or tnm_vulkan_lock around your submissions. A queue that
 * copies share must not stand waiting for what the thread that pins has still to submit.
 *
 * Threads. The callbacks keep to the rule of [types]: one tnm_vulkan serves one context. mark,
 * signal and semaphore may be called from any thread beside them; all else by one thread at a time,
 * opening and closing by one in the process.
 * Close after tnm_destroy, when your submissions are done, before you destroy what you gave. At
 * exit copies are waited for; who closes later than that gets his memory back, nothing crashes.
 *
 * Errors. VK_ERROR_DEVICE_LOST is TNM_ERR_LOST, from then on for everything, and the queues are
 * dead. Links with -ldl where the C library is old. The library stays loaded for good. Not here:
 * images, sparse memory, import of host pointers, external memory; MoltenVK wants an instance of
 * yours. */
#ifndef TENSORMEM_VULKAN_H
#define TENSORMEM_VULKAN_H

#ifndef TNM_VERSION
#    error "include tensormem.h before vulkan.h"
#endif

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#    ifndef WIN32_LEAN_AND_MEAN
#        define WIN32_LEAN_AND_MEAN
#    endif
#    include <windows.h>
#    include <intrin.h>
#    define TNM_VULKAN_CALL __stdcall
#else
#    include <dlfcn.h>
#    include <sched.h>
#    define TNM_VULKAN_CALL
#endif

/* ---- what we need of the API. The handles are vulkan.h's own types, before or after it ---- */
typedef struct VkInstance_T *tnm_vulkan_vk_instance;
typedef struct VkPhysicalDevice_T *tnm_vulkan_vk_physical;
typedef struct VkDevice_T *tnm_vulkan_vk_device;
typedef struct VkQueue_T *tnm_vulkan_vk_queue;
typedef struct VkCommandBuffer_T *tnm_vulkan_vk_commands;
#if UINTPTR_MAX > 0xFFFFFFFFu
typedef struct VkBuffer_T *tnm_vulkan_vk_buffer;
typedef struct VkDeviceMemory_T *tnm_vulkan_vk_memory;
typedef struct VkSemaphore_T *tnm_vulkan_vk_semaphore;
typedef struct VkCommandPool_T *tnm_vulkan_vk_pool;
typedef struct VkFence_T *tnm_vulkan_vk_fence;
#else
typedef uint64_t tnm_vulkan_vk_buffer, tnm_vulkan_vk_memory;
typedef uint64_t tnm_vulkan_vk_semaphore, tnm_vulkan_vk_pool, tnm_vulkan_vk_fence;
#endif

enum { /* results and bits */
       TNM_VULKAN_DEVICE_LOST = -4,
       TNM_VULKAN_QUEUE_COMPUTE = 2,
       TNM_VULKAN_QUEUE_TRANSFER = 4,
       TNM_VULKAN_DEVICE_LOCAL = 1,
       TNM_VULKAN_HOST_VISIBLE = 2,
       TNM_VULKAN_HOST_COHERENT = 4,
       TNM_VULKAN_HOST_CACHED = 8,
       TNM_VULKAN_USAGES = 0x1FF, /* all of 1.0: copies, texel, uniform, storage .. indirect */
       TNM_VULKAN_USAGE_ADDRESS = 0x20000,
       TNM_VULKAN_ALLOCATE_ADDRESS = 2,
       TNM_VULKAN_CONCURRENT = 1,
       TNM_VULKAN_INTEGRATED = 1, /* kinds of device */
       TNM_VULKAN_CPU = 4,
       TNM_VULKAN_STAGE_TRANSFER = 0x1000,
       TNM_VULKAN_STAGE_HOST = 0x4000,
       TNM_VULKAN_STAGE_ALL = 0x10000,
       TNM_VULKAN_TRANSFER_WRITE = 0x1000, /* accesses */
       TNM_VULKAN_HOST_READ = 0x2000,
       TNM_VULKAN_MEMORY_WRITE = 0x10000,
       TNM_VULKAN_POOL_RESET = 2,
       TNM_VULKAN_ONE_TIME = 1, /* of command buffers */
       TNM_VULKAN_SIMULTANEOUS = 4,
       TNM_VULKAN_TIMELINE = 1
};

enum { /* VkStructureType */
       TNM_VULKAN_IS_APPLICATION = 0,
       TNM_VULKAN_IS_INSTANCE = 1,
       TNM_VULKAN_IS_QUEUE = 2,
       TNM_VULKAN_IS_DEVICE = 3,
       TNM_VULKAN_IS_SUBMIT = 4,
       TNM_VULKAN_IS_ALLOCATE = 5,
       TNM_VULKAN_IS_SEMAPHORE = 9,
       TNM_VULKAN_IS_BUFFER = 12,
       TNM_VULKAN_IS_POOL = 39,
       TNM_VULKAN_IS_COMMANDS = 40,
       TNM_VULKAN_IS_BEGIN = 42,
       TNM_VULKAN_IS_BARRIER = 46,
       TNM_VULKAN_IS_FEATURES = 1000059000,
       TNM_VULKAN_IS_PROPERTIES = 1000059001,
       TNM_VULKAN_IS_MEMORY = 1000059006,
       TNM_VULKAN_IS_ALLOCATE_FLAGS = 1000060000,
       TNM_VULKAN_IS_MAINTENANCE3 = 1000168000,
       TNM_VULKAN_IS_TIMELINE_FEATURES = 1000207000,
       TNM_VULKAN_IS_SEMAPHORE_TYPE = 1000207002,
       TNM_VULKAN_IS_TIMELINE_SUBMIT = 1000207003,
       TNM_VULKAN_IS_WAIT = 1000207004,
       TNM_VULKAN_IS_BUDGET = 1000237000,
       TNM_VULKAN_IS_MAINTENANCE4 = 1000413001
};
#define TNM_VULKAN_VERSION(minor) (1u << 22 | (uint32_t)(minor) << 12)

typedef struct tnm_vulkan_application {
    uint32_t type;
    const void *next;
    const char *application;
    uint32_t application_version;
    const char *engine;
    uint32_t engine_version, api;
} tnm_vulkan_application;

typedef struct tnm_vulkan_instance_info {
    uint32_t type;
    const void *next;
    uint32_t flags;
    const tnm_vulkan_application *application;
    uint32_t layers;
    const char *const *layer;
    uint32_t extensions;
    const char *const *extension;
} tnm_vulkan_instance_info;

typedef struct tnm_vulkan_limits {
    uint32_t first[9], allocations, samplers;
    uint64_t granularity, sparse;
    uint32_t shaders[59];
    size_t map_alignment;
    uint64_t texel_alignment, uniform_alignment, storage_alignment;
    uint32_t offsets[35];
    uint64_t copy_alignment, row_alignment, atom;
} tnm_vulkan_limits;

typedef struct tnm_vulkan_properties { /* VkPhysicalDeviceProperties2 */
    uint32_t type;
    void *next;
    struct {
        uint32_t api, driver, vendor, device, kind;
        char name[256];
        uint8_t uuid[16];
        tnm_vulkan_limits limits;
        uint32_t sparse[5];
    } is;
} tnm_vulkan_properties;

typedef struct tnm_vulkan_maintenance3 {
    uint32_t type;
    void *next;
    uint32_t descriptors;
    uint64_t allocation; /* the largest */
} tnm_vulkan_maintenance3;

typedef struct tnm_vulkan_maintenance4 {
    uint32_t type;
    void *next;
    uint64_t buffer; /* the largest */
} tnm_vulkan_maintenance4;

typedef struct tnm_vulkan_features { /* VkPhysicalDeviceFeatures2 */
    uint32_t type;
    void *next;
    uint32_t all[55];
} tnm_vulkan_features;

typedef struct tnm_vulkan_timeline_features {
    uint32_t type;
    void *next;
    uint32_t timeline;
} tnm_vulkan_timeline_features;

typedef struct tnm_vulkan_memory { /* VkPhysicalDeviceMemoryProperties2 */
    uint32_t type;
    void *next;
    uint32_t kinds;
    struct {
        uint32_t flags, heap;
    } kind[32];
    uint32_t heaps;
    struct {
        uint64_t size;
        uint32_t flags;
    } heap[16];
} tnm_vulkan_memory;

typedef struct tnm_vulkan_budget {
    uint32_t type;
    void *next;
    uint64_t budget[16], usage[16];
} tnm_vulkan_budget;

typedef struct tnm_vulkan_family {
    uint32_t flags, count, timestamp_bits, granularity[3];
} tnm_vulkan_family;

typedef struct tnm_vulkan_extension {
    char name[256];
    uint32_t version;
} tnm_vulkan_extension;

typedef struct tnm_vulkan_queue_info {
    uint32_t type;
    const void *next;
    uint32_t flags, family, count;
    const float *priorities;
} tnm_vulkan_queue_info;

typedef struct tnm_vulkan_device_info {
    uint32_t type;
    const void *next;
    uint32_t flags, queues;
    const tnm_vulkan_queue_info *queue;
    uint32_t layers;
    const char *const *layer;
    uint32_t extensions;
    const char *const *extension;
    const void *features;
} tnm_vulkan_device_info;

typedef struct tnm_vulkan_buffer_info {
    uint32_t type;
    const void *next;
    uint32_t flags;
    uint64_t size;
    uint32_t usage, sharing, families;
    const uint32_t *family;
} tnm_vulkan_buffer_info;

typedef struct tnm_vulkan_requirements {
    uint64_t size, alignment;
    uint32_t kinds;
} tnm_vulkan_requirements;

typedef struct tnm_vulkan_allocate_info {
    uint32_t type;
    const void *next;
    uint64_t size;
    uint32_t kind;
} tnm_vulkan_allocate_info;

typedef struct tnm_vulkan_allocate_flags {
    uint32_t type;
    const void *next;
    uint32_t flags, devices;
} tnm_vulkan_allocate_flags;

typedef struct tnm_vulkan_pool_info {
    uint32_t type;
    const void *next;
    uint32_t flags, family;
} tnm_vulkan_pool_info;

typedef struct tnm_vulkan_commands_info {
    uint32_t type;
    const void *next;
    tnm_vulkan_vk_pool pool;
    uint32_t level, count;
} tnm_vulkan_commands_info;

typedef struct tnm_vulkan_begin_info {
    uint32_t type;
    const void *next;
    uint32_t flags;
    const void *inheritance;
} tnm_vulkan_begin_info;

typedef struct tnm_vulkan_region {
    uint64_t from, to, size;
} tnm_vulkan_region;

typedef struct tnm_vulkan_barrier {
    uint32_t type;
    const void *next;
    uint32_t from, to; /* accesses */
} tnm_vulkan_barrier;

typedef struct tnm_vulkan_semaphore_type {
    uint32_t type;
    const void *next;
    uint32_t kind;
    uint64_t value;
} tnm_vulkan_semaphore_type;

typedef struct tnm_vulkan_semaphore_info {
    uint32_t type;
    const void *next;
    uint32_t flags;
} tnm_vulkan_semaphore_info;

typedef struct tnm_vulkan_timeline_submit {
    uint32_t type;
    const void *next;
    uint32_t waits;
    const uint64_t *wait;
    uint32_t signals;
    const uint64_t *signal;
} tnm_vulkan_timeline_submit;

typedef struct tnm_vulkan_submit_info {
    uint32_t type;
    const void *next;
    uint32_t waits;
    const tnm_vulkan_vk_semaphore *wait;
    const uint32_t *stages;
    uint32_t count;
    const tnm_vulkan_vk_commands *commands;
    uint32_t signals;
    const tnm_vulkan_vk_semaphore *signal;
} tnm_vulkan_submit_info;

typedef struct tnm_vulkan_wait_info {
    uint32_t type;
    const void *next;
    uint32_t flags, count;
    const tnm_vulkan_vk_semaphore *semaphore;
    const uint64_t *value;
} tnm_vulkan_wait_info;

typedef void tnm_vulkan_none, tnm_vulkan_one_barrier, tnm_vulkan_image_barrier; /* NULL here */
typedef void(TNM_VULKAN_CALL *tnm_vulkan_function)(void);
typedef tnm_vulkan_function(TNM_VULKAN_CALL *tnm_vulkan_get_proc)(tnm_vulkan_vk_instance,
                                                                  const char *);
typedef tnm_vulkan_function(TNM_VULKAN_CALL *tnm_vulkan_get_device_proc)(tnm_vulkan_vk_device,
                                                                         const char *);

#define TNM_VULKAN_INSTANCE_CALLS(X)                                                               \
    X(void, DestroyInstance, (tnm_vulkan_vk_instance, const tnm_vulkan_none *))                    \
    X(int32_t, EnumeratePhysicalDevices,                                                           \
      (tnm_vulkan_vk_instance, uint32_t *, tnm_vulkan_vk_physical *))                              \
    X(void, GetPhysicalDeviceProperties2, (tnm_vulkan_vk_physical, tnm_vulkan_properties *))       \
    X(void, GetPhysicalDeviceFeatures2, (tnm_vulkan_vk_physical, tnm_vulkan_features *))           \
    X(void, GetPhysicalDeviceMemoryProperties2, (tnm_vulkan_vk_physical, tnm_vulkan_memory *))     \
    X(void, GetPhysicalDeviceQueueFamilyProperties,                                                \
      (tnm_vulkan_vk_physical, uint32_t *, tnm_vulkan_family *))                                   \
    X(int32_t, EnumerateDeviceExtensionProperties,                                                 \
      (tnm_vulkan_vk_physical, const char *, uint32_t *, tnm_vulkan_extension *))                  \
    X(int32_t, CreateDevice,                                                                       \
      (tnm_vulkan_vk_physical, const tnm_vulkan_device_info *, const tnm_vulkan_none *,            \
       tnm_vulkan_vk_device *))                                                                    \
    X(tnm_vulkan_function, GetDeviceProcAddr, (tnm_vulkan_vk_device, const char *))

#define TNM_VULKAN_DEVICE_CALLS(X)                                                                 \
    X(void, DestroyDevice, (tnm_vulkan_vk_device, const tnm_vulkan_none *))                        \
    X(int32_t, DeviceWaitIdle, (tnm_vulkan_vk_device))                                             \
    X(void, GetDeviceQueue, (tnm_vulkan_vk_device, uint32_t, uint32_t, tnm_vulkan_vk_queue *))     \
    X(int32_t, CreateBuffer,                                                                       \
      (tnm_vulkan_vk_device, const tnm_vulkan_buffer_info *, const tnm_vulkan_none *,              \
       tnm_vulkan_vk_buffer *))                                                                    \
    X(void, DestroyBuffer, (tnm_vulkan_vk_device, tnm_vulkan_vk_buffer, const tnm_vulkan_none *))  \
    X(void, GetBufferMemoryRequirements,                                                           \
      (tnm_vulkan_vk_device, tnm_vulkan_vk_buffer, tnm_vulkan_requirements *))                     \
    X(int32_t, AllocateMemory,                                                                     \
      (tnm_vulkan_vk_device, const tnm_vulkan_allocate_info *, const tnm_vulkan_none *,            \
       tnm_vulkan_vk_memory *))                                                                    \
    X(void, FreeMemory, (tnm_vulkan_vk_device, tnm_vulkan_vk_memory, const tnm_vulkan_none *))     \
    X(int32_t, BindBufferMemory,                                                                   \
      (tnm_vulkan_vk_device, tnm_vulkan_vk_buffer, tnm_vulkan_vk_memory, uint64_t))                \
    X(int32_t, MapMemory,                                                                          \
      (tnm_vulkan_vk_device, tnm_vulkan_vk_memory, uint64_t, uint64_t, uint32_t, void **))         \
    X(int32_t, CreateCommandPool,                                                                  \
      (tnm_vulkan_vk_device, const tnm_vulkan_pool_info *, const tnm_vulkan_none *,                \
       tnm_vulkan_vk_pool *))                                                                      \
    X(void, DestroyCommandPool,                                                                    \
      (tnm_vulkan_vk_device, tnm_vulkan_vk_pool, const tnm_vulkan_none *))                         \
    X(int32_t, AllocateCommandBuffers,                                                             \
      (tnm_vulkan_vk_device, const tnm_vulkan_commands_info *, tnm_vulkan_vk_commands *))          \
    X(int32_t, BeginCommandBuffer, (tnm_vulkan_vk_commands, const tnm_vulkan_begin_info *))        \
    X(int32_t, EndCommandBuffer, (tnm_vulkan_vk_commands))                                         \
    X(void, CmdCopyBuffer,                                                                         \
      (tnm_vulkan_vk_commands, tnm_vulkan_vk_buffer, tnm_vulkan_vk_buffer, uint32_t,               \
       const tnm_vulkan_region *))                                                                 \
    X(void, CmdPipelineBarrier,                                                                    \
      (tnm_vulkan_vk_commands, uint32_t, uint32_t, uint32_t, uint32_t, const tnm_vulkan_barrier *, \
       uint32_t, const tnm_vulkan_one_barrier *, uint32_t, const tnm_vulkan_image_barrier *))      \
    X(int32_t, QueueSubmit,                                                                        \
      (tnm_vulkan_vk_queue, uint32_t, const tnm_vulkan_submit_info *, tnm_vulkan_vk_fence))        \
    X(int32_t, QueueWaitIdle, (tnm_vulkan_vk_queue))                                               \
    X(int32_t, CreateSemaphore,                                                                    \
      (tnm_vulkan_vk_device, const tnm_vulkan_semaphore_info *, const tnm_vulkan_none *,           \
       tnm_vulkan_vk_semaphore *))                                                                 \
    X(void, DestroySemaphore,                                                                      \
      (tnm_vulkan_vk_device, tnm_vulkan_vk_semaphore, const tnm_vulkan_none *))                    \
    X(int32_t, GetSemaphoreCounterValue,                                                           \
      (tnm_vulkan_vk_device, tnm_vulkan_vk_semaphore, uint64_t *))                                 \
    X(int32_t, WaitSemaphores, (tnm_vulkan_vk_device, const tnm_vulkan_wait_info *, uint64_t))

#define TNM_VULKAN_MEMBER(result, name, parameters) result(TNM_VULKAN_CALL *name) parameters;
typedef struct tnm_vulkan_api {
    int32_t(TNM_VULKAN_CALL *CreateInstance)(const tnm_vulkan_instance_info *, const void *,
                                             tnm_vulkan_vk_instance *);
    TNM_VULKAN_INSTANCE_CALLS(TNM_VULKAN_MEMBER)
    TNM_VULKAN_DEVICE_CALLS(TNM_VULKAN_MEMBER)
} tnm_vulkan_api;

/* ---- a device ---- */
typedef struct tnm_vulkan tnm_vulkan; /* one device: its queues, semaphores, memory */

typedef struct tnm_vulkan_block { /* a segment; the token is its address. Yours: the buffer alone */
    tnm_vulkan_vk_buffer buffer;
    tnm_vulkan_vk_memory memory;
    uint64_t size; /* of the memory */
    uint32_t heap;
} tnm_vulkan_block;

typedef struct tnm_vulkan_line { /* a queue and its family */
    tnm_vulkan_vk_queue queue;
    uint32_t family;
} tnm_vulkan_line;

typedef struct tnm_vulkan_desc {
    int device;             /* the n-th the instance shows */
    const char *library;    /* NULL = the usual names */
    uint32_t queue_depth;   /* copies out at once, each way; 0 = 16 */
    uint32_t queues;        /* compute queues, up to 16; more than there are share; 0 = 1 */
    uint64_t staging_bytes; /* of the mapped pieces for all other memory, together; 0 = 16 MiB */
    uint32_t usage;         /* VkBufferUsageFlags beside those of 1.0 */
    tnm_vulkan_get_proc get_proc;     /* your vkGetInstanceProcAddr, no library */
    tnm_vulkan_vk_instance instance;  /* yours, instead of one of our own */
    tnm_vulkan_vk_physical physical;  /* with `logical`; alone: of this one we make a device */
    tnm_vulkan_vk_device logical;     /* yours; needs `instance`, `physical` and `compute` */
    const tnm_vulkan_line *compute;   /* `queues` of yours */
    const tnm_vulkan_line *copies[2]; /* yours, into the device and out; NULL = compute[0] */
    void (*lock)(void *lock_user);    /* around every use of a queue; NULL = tnm_vulkan_lock's */
    void (*unlock)(void *lock_user);
    void *lock_user;
} tnm_vulkan_desc;

enum {
    TNM_VULKAN_UP,
    TNM_VULKAN_DOWN,
    TNM_VULKAN_WAYS,
    TNM_VULKAN_QUEUES = 16, /* for compute */
    TNM_VULKAN_LINES = TNM_VULKAN_WAYS + TNM_VULKAN_QUEUES,
    TNM_VULKAN_PIECES = 4,
    TNM_VULKAN_BATCH = 16 << 20, /* lavapipe takes as long to begin one as to copy 320 KiB */
    TNM_VULKAN_MANY = 64
};

typedef struct tnm_vulkan_batch { /* copies of one submission */
    tnm_vulkan_vk_commands commands;
    uint64_t value; /* what the semaphore says when they are done; 0 = free */
    uint64_t bytes, copies;
    tnm_result failed; /* to submit */
} tnm_vulkan_batch;

typedef struct tnm_vulkan_way {
    tnm_vulkan_line line;
    tnm_vulkan_vk_pool pool;
    tnm_vulkan_vk_semaphore semaphore;
    tnm_vulkan_batch *batch, *open;
    uint64_t last, sent, seen; /* values: given to a batch, submitted, reached */
    uint32_t out;              /* copies without an answer */
} tnm_vulkan_way;

typedef struct tnm_vulkan_fences { /* a compute queue */
    tnm_vulkan_line line;
    tnm_vulkan_vk_pool pool;
    tnm_vulkan_vk_commands show; /* what was written, to the CPU */
    tnm_vulkan_vk_semaphore semaphore;
    uint64_t marked, sent, passed;
} tnm_vulkan_fences;

typedef struct tnm_vulkan_piece { /* of the mapped memory that all other goes through */
    uint64_t value;               /* of the batch that uses it; 0 = free */
    int way;
    void *to; /* where the bytes go when they have come */
    size_t size;
} tnm_vulkan_piece;

struct tnm_vulkan {
    tnm_vulkan_api api;
    tnm_vulkan_get_proc get_proc;
    tnm_vulkan_vk_instance instance;
    tnm_vulkan_vk_physical physical;
    tnm_vulkan_vk_device device;
    int own_instance, own_device, budgeted;
    tnm_vulkan_memory memory;
    uint64_t held[16], largest;            /* bytes: by heap, of one allocation */
    uint32_t blocks, blocks_most, kind[2]; /* memory types: the device's, the host's */
    uint32_t alignment, usage, families, family[TNM_VULKAN_LINES], device_kind;
    tnm_vulkan_way way[TNM_VULKAN_WAYS];
    uint32_t depth, queues;
    tnm_vulkan_fences fences[TNM_VULKAN_QUEUES];
    tnm_vulkan_piece piece[TNM_VULKAN_PIECES];
    tnm_vulkan_block *staging;
    unsigned char *mapped;
    size_t piece_bytes;
    void (*user_lock)(void *);
    void (*user_unlock)(void *);
    void *lock_user;
    long turn, guard; /* around queues; around what other threads may read */
    int lost;         /* the device is gone */
    char error[160];
    struct tnm_vulkan *others;
};

/* All that are open, so that a second close is harmless and exit waits for copies. */
static tnm_vulkan *tnm_vulkan_all;
static int tnm_vulkan_exiting; /* the runtime may be gone: it is not called any more */
static char tnm_vulkan_why[160];

static inline void tnm_vulkan_take(long *lock) {
#ifdef _MSC_VER
    while (_InterlockedExchange(lock, 1) != 0)
        SwitchToThread();
#elif defined(_WIN32)
    while (__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE) != 0)
        SwitchToThread();
#else
    while (__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE) != 0)
        sched_yield();
#endif
}

static inline void tnm_vulkan_give(long *lock) {
#ifdef _MSC_VER
    _InterlockedExchange(lock, 0);
#else
    __atomic_store_n(lock, 0, __ATOMIC_RELEASE);
#endif
}

/* Hold it around what you submit to a queue that this backend uses too, where threads meet. Inside
 * only the API is called, nothing of this file. With desc.lock it is that. */
static inline void tnm_vulkan_lock(tnm_vulkan *vk) {
    if (vk->user_lock)
        vk->user_lock(vk->lock_user);
    else
        tnm_vulkan_take(&vk->turn);
}

static inline void tnm_vulkan_unlock(tnm_vulkan *vk) {
    if (vk->user_lock)
        vk->user_unlock(vk->lock_user);
    else
        tnm_vulkan_give(&vk->turn);
}

/* ---- errors ---- */
static inline const char *tnm_vulkan_code(int32_t code) {
    static const struct {
        int32_t code;
        const char *name;
    } known[] = { { 2, "VK_TIMEOUT" },
                  { -1, "VK_ERROR_OUT_OF_HOST_MEMORY" },
                  { -2, "VK_ERROR_OUT_OF_DEVICE_MEMORY" },
                  { -3, "VK_ERROR_INITIALIZATION_FAILED" },
                  { -4, "VK_ERROR_DEVICE_LOST" },
                  { -5, "VK_ERROR_MEMORY_MAP_FAILED" },
                  { -7, "VK_ERROR_EXTENSION_NOT_PRESENT" },
                  { -8, "VK_ERROR_FEATURE_NOT_PRESENT" },
                  { -9, "VK_ERROR_INCOMPATIBLE_DRIVER" },
                  { -10, "VK_ERROR_TOO_MANY_OBJECTS" },
                  { -13, "VK_ERROR_UNKNOWN" } };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].code == code) return known[i].name;
    return "see vulkan_core.h";
}

/* Note what the runtime answered; the answer for the engine. */
static inline tnm_result tnm_vulkan_fail(tnm_vulkan *vk, const char *call, int32_t code) {
    tnm_vulkan_take(&vk->guard);
    snprintf(vk->error, sizeof vk->error, "%s answered %d (%s)", call, (int)code,
             tnm_vulkan_code(code));
    if (code == TNM_VULKAN_DEVICE_LOST) vk->lost = 1;
    tnm_result result = vk->lost ? TNM_ERR_LOST : TNM_ERR_BACKEND;
    tnm_vulkan_give(&vk->guard);
    return result;
}

/* What we refuse ourselves, before the driver is asked. */
static inline tnm_result tnm_vulkan_refuse(tnm_vulkan *vk, const char *what, uint64_t bytes,
                                           uint64_t most) {
    tnm_vulkan_take(&vk->guard);
    snprintf(vk->error, sizeof vk->error, "%s %llu, allowed are %llu", what,
             (unsigned long long)bytes, (unsigned long long)most);
    tnm_vulkan_give(&vk->guard);
    return TNM_ERR_BACKEND;
}

static inline int tnm_vulkan_gone(tnm_vulkan *vk) {
    tnm_vulkan_take(&vk->guard);
    int lost = vk->lost;
    tnm_vulkan_give(&vk->guard);
    return lost || tnm_vulkan_exiting;
}

/* One sentence on the last failure; NULL: of the last open. */
static inline const char *tnm_vulkan_error(const tnm_vulkan *vk) {
    return vk ? vk->error : tnm_vulkan_why;
}

/* ---- semaphores ---- */
static inline uint64_t tnm_vulkan_read(tnm_vulkan *vk, const uint64_t *value) {
    tnm_vulkan_take(&vk->guard);
    uint64_t now = *value;
    tnm_vulkan_give(&vk->guard);
    return now;
}

static inline void tnm_vulkan_raise(tnm_vulkan *vk, uint64_t *value, uint64_t now) {
    tnm_vulkan_take(&vk->guard);
    if (*value < now) *value = now;
    tnm_vulkan_give(&vk->guard);
}

static inline int32_t tnm_vulkan_sleep(tnm_vulkan *vk, tnm_vulkan_vk_semaphore semaphore,
                                       uint64_t value, uint64_t ns) {
    tnm_vulkan_wait_info info;
    memset(&info, 0, sizeof info);
    info.type = TNM_VULKAN_IS_WAIT;
    info.count = 1;
    info.semaphore = &semaphore;
    info.value = &value;
    return vk->api.WaitSemaphores(vk->device, &info, ns);
}

/* One submission that signals. Under the lock of the queues. What has passed on the other queues is
 * waited for by `waits`: that makes it visible here, and costs nothing. */
static inline int32_t tnm_vulkan_send(tnm_vulkan *vk, tnm_vulkan_vk_queue queue,
                                      tnm_vulkan_vk_commands commands,
                                      tnm_vulkan_vk_semaphore signal, uint64_t value, int waits) {
    tnm_vulkan_vk_semaphore wait[TNM_VULKAN_LINES];
    uint64_t values[TNM_VULKAN_LINES];
    uint32_t stages[TNM_VULKAN_LINES];
    tnm_vulkan_timeline_submit timeline;
    tnm_vulkan_submit_info info;
    memset(&timeline, 0, sizeof timeline);
    memset(&info, 0, sizeof info);
    for (uint32_t i = 0; waits && i < TNM_VULKAN_WAYS + vk->queues; i++) {
        int copies = i < TNM_VULKAN_WAYS;
        tnm_vulkan_fences *f = &vk->fences[copies ? 0 : i - TNM_VULKAN_WAYS];
        uint64_t passed = tnm_vulkan_read(vk, copies ? &vk->way[i].seen : &f->passed);
        if (passed == 0) continue;
        wait[info.waits] = copies ? vk->way[i].semaphore : f->semaphore;
        values[info.waits] = passed;
        stages[info.waits++] = TNM_VULKAN_STAGE_TRANSFER;
    }
    timeline.type = TNM_VULKAN_IS_TIMELINE_SUBMIT;
    timeline.waits = info.waits;
    timeline.wait = values;
    timeline.signals = 1;
    timeline.signal = &value;
    info.type = TNM_VULKAN_IS_SUBMIT;
    info.next = &timeline;
    info.wait = wait;
    info.stages = stages;
    info.count = 1;
    info.commands = &commands;
    info.signals = 1;
    info.signal = &signal;
    return vk->api.QueueSubmit(queue, 1, &info, 0);
}

static inline void tnm_vulkan_show(tnm_vulkan *vk, tnm_vulkan_vk_commands commands, uint32_t stage,
                                   uint32_t access) {
    tnm_vulkan_barrier barrier;
    memset(&barrier, 0, sizeof barrier);
    barrier.type = TNM_VULKAN_IS_BARRIER;
    barrier.from = access;
    barrier.to = TNM_VULKAN_HOST_READ;
    vk->api.CmdPipelineBarrier(commands, stage, TNM_VULKAN_STAGE_HOST, 0, 1, &barrier, 0, NULL, 0,
                               NULL);
}

/* ---- memory ---- */
static inline int32_t tnm_vulkan_buffer_make(tnm_vulkan *vk, uint64_t size,
                                             tnm_vulkan_vk_buffer *out) {
    tnm_vulkan_buffer_info info;
    memset(&info, 0, sizeof info);
    info.type = TNM_VULKAN_IS_BUFFER;
    info.size = size;
    info.usage = vk->usage;
    if (vk->families > 1) { /* any queue may use it: no transfers of ownership */
        info.sharing = TNM_VULKAN_CONCURRENT;
        info.families = vk->families;
        info.family = vk->family;
    }
    return vk->api.CreateBuffer(vk->device, &info, NULL, out);
}

static inline void tnm_vulkan_drop(tnm_vulkan *vk, tnm_vulkan_block *block) {
    if (!tnm_vulkan_exiting) {
        vk->api.DestroyBuffer(vk->device, block->buffer, NULL);
        if (block->memory) vk->api.FreeMemory(vk->device, block->memory, NULL);
    }
    if (block->memory) vk->blocks--;
    vk->held[block->heap] -= block->size;
    free(block);
}

static inline tnm_result tnm_vulkan_allocate(tnm_vulkan *vk, tnm_vulkan_block *block, uint64_t size,
                                             uint32_t kind) {
    tnm_vulkan_allocate_flags flags;
    tnm_vulkan_allocate_info info;
    uint32_t heap = vk->memory.kind[kind].heap;
    uint64_t most = vk->memory.heap[heap].size;
    if (most > vk->largest) most = vk->largest;
    if (size > most) return tnm_vulkan_refuse(vk, "bytes of one allocation:", size, most);
    memset(&flags, 0, sizeof flags);
    flags.type = TNM_VULKAN_IS_ALLOCATE_FLAGS;
    flags.flags = TNM_VULKAN_ALLOCATE_ADDRESS;
    memset(&info, 0, sizeof info);
    info.type = TNM_VULKAN_IS_ALLOCATE;
    if (vk->usage & TNM_VULKAN_USAGE_ADDRESS) info.next = &flags;
    info.size = size;
    info.kind = kind;
    int32_t code = vk->api.AllocateMemory(vk->device, &info, NULL, &block->memory);
    if (code) {
        block->memory = 0;
        return tnm_vulkan_fail(vk, "vkAllocateMemory", code);
    }
    block->heap = heap;
    block->size = size;
    vk->held[heap] += size;
    vk->blocks++;
    return TNM_OK;
}

/* Its memory mapped and bound so that the CPU sees the buffer's first byte at the alignment; 1 in
 * *more: that would need `align` bytes more. */
static inline tnm_result tnm_vulkan_map(tnm_vulkan *vk, tnm_vulkan_block *block, uint64_t align,
                                        const tnm_vulkan_requirements *need, void **host,
                                        int *more) {
    void *mapped = NULL;
    int32_t code = vk->api.MapMemory(vk->device, block->memory, 0, UINT64_MAX, 0, &mapped);
    if (code) return tnm_vulkan_fail(vk, "vkMapMemory", code);
    uint64_t past = (0 - (uint64_t)(uintptr_t)mapped) & (align - 1);
    *more = past > 0 && block->size < need->size + align;
    if (*more) return TNM_ERR_BACKEND;
    if (past % need->alignment != 0)
        return tnm_vulkan_refuse(vk, "alignment of mapped memory:", align, need->alignment);
    *host = (char *)mapped + past;
    code = vk->api.BindBufferMemory(vk->device, block->buffer, block->memory, past);
    return code ? tnm_vulkan_fail(vk, "vkBindBufferMemory", code) : TNM_OK;
}

/* A buffer with memory of its own; host != NULL: of the host's kind, and where it is mapped. */
static inline tnm_result tnm_vulkan_make_with(tnm_vulkan *vk, uint64_t size, uint64_t align,
                                              uint64_t slack, tnm_vulkan_block **out, void **host,
                                              int *more) {
    tnm_vulkan_requirements need;
    tnm_vulkan_block *block = (tnm_vulkan_block *)calloc(1, sizeof *block);
    if (!block) return TNM_ERR_MEMORY;
    memset(&need, 0, sizeof need);
    int32_t code = tnm_vulkan_buffer_make(vk, size, &block->buffer);
    tnm_result result = code ? tnm_vulkan_fail(vk, "vkCreateBuffer", code) : TNM_OK;
    if (result != TNM_OK) {
        free(block);
        return result;
    }
    vk->api.GetBufferMemoryRequirements(vk->device, block->buffer, &need);
    result = need.size + slack < need.size
                 ? TNM_ERR_BACKEND
                 : tnm_vulkan_allocate(vk, block, need.size + slack, vk->kind[host != NULL]);
    if (result == TNM_OK && host) {
        result = tnm_vulkan_map(vk, block, align, &need, host, more);
    } else if (result == TNM_OK) {
        code = vk->api.BindBufferMemory(vk->device, block->buffer, block->memory, 0);
        if (code) result = tnm_vulkan_fail(vk, "vkBindBufferMemory", code);
    }
    if (result == TNM_OK)
        *out = block;
    else
        tnm_vulkan_drop(vk, block);
    return result;
}

static inline tnm_result tnm_vulkan_make(tnm_vulkan *vk, uint64_t size, uint64_t align,
                                         tnm_vulkan_block **out, void **host) {
    int more = 0;
    if (tnm_vulkan_gone(vk)) return TNM_ERR_LOST;
    if (size > vk->largest)
        return tnm_vulkan_refuse(vk, "bytes of one allocation:", size, vk->largest);
    if (vk->blocks >= vk->blocks_most)
        return tnm_vulkan_refuse(vk, "allocations:", vk->blocks + 1ull, vk->blocks_most);
    tnm_result result = tnm_vulkan_make_with(vk, size, align, 0, out, host, &more);
    return more ? tnm_vulkan_make_with(vk, size, align, align, out, host, &more) : result;
}

/* What is free of that kind of memory by the driver's account; without one, of four fifths. */
static inline uint64_t tnm_vulkan_room(tnm_vulkan *vk, uint32_t kind) {
    tnm_vulkan_budget budget;
    tnm_vulkan_memory memory;
    uint32_t heap = vk->memory.kind[kind].heap;
    uint64_t most = vk->memory.heap[heap].size / 5 * 4, used = vk->held[heap];
    if (tnm_vulkan_gone(vk)) return 0;
    if (vk->budgeted) {
        memset(&budget, 0, sizeof budget);
        budget.type = TNM_VULKAN_IS_BUDGET;
        memset(&memory, 0, sizeof memory);
        memory.type = TNM_VULKAN_IS_MEMORY;
        memory.next = &budget;
        vk->api.GetPhysicalDeviceMemoryProperties2(vk->physical, &memory);
        most = budget.budget[heap];
        used = budget.usage[heap];
    }
    return most > used ? most - used : 0;
}

/* ---- the device tier ---- */
static inline tnm_result tnm_vulkan_alloc(void *user, uint64_t size, uint64_t align, void *item,
                                          uint64_t *token, void **host) {
    tnm_vulkan_block *block = NULL;
    (void)item; /* and offsets in a buffer are what is aligned; where it begins is the driver's */
    tnm_result result = tnm_vulkan_make((tnm_vulkan *)user, size, align, &block, NULL);
    if (result != TNM_OK) return result;
    *token = (uint64_t)(uintptr_t)block;
    *host = NULL;
    return TNM_OK;
}

static inline void tnm_vulkan_release(void *user, uint64_t token, uint64_t size) {
    (void)size;
    tnm_vulkan_drop((tnm_vulkan *)user, (tnm_vulkan_block *)(uintptr_t)token);
}

static inline uint64_t tnm_vulkan_available(void *user) {
    return tnm_vulkan_room((tnm_vulkan *)user, ((tnm_vulkan *)user)->kind[0]);
}

static inline tnm_result tnm_vulkan_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                         uint64_t size, uint64_t *ticket);

static inline tnm_result tnm_vulkan_host_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                              uint64_t size, uint64_t *ticket);

static inline int tnm_vulkan_is_device(const tnm_span *span) {
    return span->backend && span->backend->copy == tnm_vulkan_copy;
}

/* The buffer at one end of a copy if it is of this device or its host tier; else 0. */
static inline tnm_vulkan_vk_buffer tnm_vulkan_reach(const tnm_vulkan *vk, const tnm_span *span) {
    int host = span->backend && span->backend->copy == tnm_vulkan_host_copy && !span->adopted;
    if ((!host && !tnm_vulkan_is_device(span)) || span->backend->user != vk) return 0;
    return ((tnm_vulkan_block *)(uintptr_t)span->mem)->buffer;
}

static inline tnm_vulkan_batch *tnm_vulkan_find(tnm_vulkan *vk, uint64_t ticket, int *way) {
    uint64_t number = ticket / TNM_VULKAN_WAYS;
    *way = (int)(ticket % TNM_VULKAN_WAYS);
    tnm_vulkan_batch *batch = &vk->way[*way].batch[number % vk->depth];
    return batch->value && batch->value == number / vk->depth ? batch : NULL;
}

static inline void tnm_vulkan_submit_way(tnm_vulkan *vk, int way) {
    tnm_vulkan_way *w = &vk->way[way];
    tnm_vulkan_batch *batch = w->open;
    if (!batch || tnm_vulkan_gone(vk)) return;
    w->open = NULL;
    w->last = batch->value;
    if (way == TNM_VULKAN_DOWN)
        tnm_vulkan_show(vk, batch->commands, TNM_VULKAN_STAGE_TRANSFER, TNM_VULKAN_TRANSFER_WRITE);
    int32_t code = vk->api.EndCommandBuffer(batch->commands);
    if (code) {
        batch->failed = tnm_vulkan_fail(vk, "vkEndCommandBuffer", code);
        return;
    }
    tnm_vulkan_lock(vk);
    code = tnm_vulkan_send(vk, w->line.queue, batch->commands, w->semaphore, batch->value, 1);
    tnm_vulkan_unlock(vk);
    if (code)
        batch->failed = tnm_vulkan_fail(vk, "vkQueueSubmit", code);
    else
        w->sent = batch->value;
}

/* A batch to record in; one that is large enough goes at once, so that the queue is not idle while
 * its answer is taken. BUSY: too many copies without an answer. */
static inline tnm_result tnm_vulkan_begin(tnm_vulkan *vk, int way) {
    tnm_vulkan_begin_info info;
    tnm_vulkan_way *w = &vk->way[way];
    tnm_vulkan_batch *batch = w->batch;
    if (w->out == vk->depth) return TNM_ERR_BUSY;
    if (w->open && w->open->bytes >= TNM_VULKAN_BATCH) tnm_vulkan_submit_way(vk, way);
    if (w->open) return TNM_OK;
    while (batch->value) /* fewer copies than batches: one is free */
        batch++;
    memset(&info, 0, sizeof info);
    info.type = TNM_VULKAN_IS_BEGIN;
    info.flags = TNM_VULKAN_ONE_TIME;
    int32_t code = vk->api.BeginCommandBuffer(batch->commands, &info);
    if (code) return tnm_vulkan_fail(vk, "vkBeginCommandBuffer", code);
    batch->value = w->last + 1;
    batch->bytes = batch->copies = 0;
    batch->failed = TNM_OK;
    w->open = batch;
    return TNM_OK;
}

static inline tnm_result tnm_vulkan_record(tnm_vulkan *vk, int way, tnm_vulkan_vk_buffer to,
                                           tnm_vulkan_vk_buffer from, tnm_vulkan_region region,
                                           uint64_t *ticket) {
    tnm_vulkan_way *w = &vk->way[way];
    tnm_result result = tnm_vulkan_begin(vk, way);
    if (result != TNM_OK) return result;
    vk->api.CmdCopyBuffer(w->open->commands, from, to, 1, &region);
    w->open->copies++;
    w->open->bytes += region.size;
    w->out++;
    *ticket = (w->open->value * vk->depth + (uint64_t)(w->open - w->batch)) * TNM_VULKAN_WAYS +
              (uint64_t)way;
    return TNM_PENDING;
}

static inline void tnm_vulkan_submit(void *user) {
    for (int way = 0; way < TNM_VULKAN_WAYS; way++)
        tnm_vulkan_submit_way((tnm_vulkan *)user, way);
}

/* OK, PENDING or LOST. If the runtime cannot say, the queue is waited for: then all is done. */
static inline tnm_result tnm_vulkan_look(tnm_vulkan *vk, tnm_vulkan_way *w, uint64_t value) {
    uint64_t now = 0;
    if (w->seen >= value) return TNM_OK;
    int32_t code = vk->api.GetSemaphoreCounterValue(vk->device, w->semaphore, &now);
    if (code == 0 && now > w->sent) code = TNM_VULKAN_DEVICE_LOST; /* then it may say anything */
    if (code && tnm_vulkan_fail(vk, "vkGetSemaphoreCounterValue", code) != TNM_ERR_LOST) {
        tnm_vulkan_lock(vk);
        code = vk->api.QueueWaitIdle(w->line.queue);
        tnm_vulkan_unlock(vk);
        now = w->sent;
    }
    if (code) /* nothing is known of it any more */
        return tnm_vulkan_fail(vk, "vkQueueWaitIdle", TNM_VULKAN_DEVICE_LOST);
    tnm_vulkan_raise(vk, &w->seen, now);
    return w->seen >= value ? TNM_OK : TNM_PENDING;
}

/* All copies of the batch are answered; what came for other memory is handed over. */
static inline void tnm_vulkan_answer(tnm_vulkan *vk, int way, tnm_vulkan_batch *batch,
                                     tnm_result result) {
    for (int i = 0; i < TNM_VULKAN_PIECES; i++) {
        tnm_vulkan_piece *piece = &vk->piece[i];
        if (piece->way != way || piece->value != batch->value) continue;
        if (result == TNM_OK && piece->to)
            memcpy(piece->to, vk->mapped + (size_t)i * vk->piece_bytes, piece->size);
        piece->value = 0;
    }
    if (vk->way[way].open == batch) vk->way[way].open = NULL; /* lost before it was submitted */
    vk->way[way].out -= (uint32_t)batch->copies;
    batch->value = 0;
}

static inline tnm_result tnm_vulkan_poll(void *user, uint64_t ticket) {
    tnm_vulkan *vk = (tnm_vulkan *)user;
    int way;
    tnm_result result = TNM_ERR_LOST;
    tnm_vulkan_batch *batch = tnm_vulkan_find(vk, ticket, &way);
    if (!batch) return TNM_ERR_ARGUMENT;
    if (batch == vk->way[way].open) tnm_vulkan_submit_way(vk, way);
    if (!tnm_vulkan_gone(vk))
        result = batch->failed != TNM_OK ? batch->failed
                                         : tnm_vulkan_look(vk, &vk->way[way], batch->value);
    if (result != TNM_PENDING) tnm_vulkan_answer(vk, way, batch, result);
    return result;
}

static inline tnm_result tnm_vulkan_wait(void *user, uint64_t ticket) {
    tnm_vulkan *vk = (tnm_vulkan *)user;
    int way;
    const tnm_vulkan_batch *batch = tnm_vulkan_find(vk, ticket, &way);
    if (batch && batch == vk->way[way].open) tnm_vulkan_submit_way(vk, way);
    if (batch && batch->failed == TNM_OK && !tnm_vulkan_gone(vk) &&
        vk->way[way].seen < batch->value) /* the poll says how it ended */
        (void)tnm_vulkan_sleep(vk, vk->way[way].semaphore, batch->value, 100000000);
    return tnm_vulkan_poll(user, ticket);
}

/* One part of a copy with memory that is no buffer of ours, through a mapped piece. */
static inline tnm_result tnm_vulkan_through(tnm_vulkan *vk, tnm_vulkan_vk_buffer to,
                                            tnm_vulkan_vk_buffer from, void *plain,
                                            tnm_vulkan_region region, uint64_t *ticket) {
    int way = to ? TNM_VULKAN_UP : TNM_VULKAN_DOWN, i = 0;
    while (i < TNM_VULKAN_PIECES && vk->piece[i].value)
        i++;
    if (i == TNM_VULKAN_PIECES) return TNM_ERR_BUSY;
    tnm_vulkan_piece *piece = &vk->piece[i];
    uint64_t at = (uint64_t)i * vk->piece_bytes;
    *(to ? &region.from : &region.to) = at;
    tnm_result result = tnm_vulkan_record(vk, way, to ? to : vk->staging->buffer,
                                          to ? vk->staging->buffer : from, region, ticket);
    if (result != TNM_PENDING) return result;
    if (to) memcpy(vk->mapped + at, plain, (size_t)region.size);
    piece->value = vk->way[way].open->value;
    piece->way = way;
    piece->to = to ? NULL : plain;
    piece->size = (size_t)region.size;
    return TNM_PENDING;
}

/* All parts but the last are waited for, each in a batch of its own: others share no ticket. */
static inline tnm_result tnm_vulkan_staged(tnm_vulkan *vk, tnm_vulkan_vk_buffer to,
                                           tnm_vulkan_vk_buffer from, void *plain,
                                           tnm_vulkan_region region, uint64_t *ticket) {
    uint64_t left = region.size;
    int way = to ? TNM_VULKAN_UP : TNM_VULKAN_DOWN;
    while (left > vk->piece_bytes) {
        uint64_t part = 0;
        tnm_vulkan_submit_way(vk, way);
        region.size = vk->piece_bytes;
        tnm_result result = tnm_vulkan_through(vk, to, from, plain, region, &part);
        while (result == TNM_PENDING)
            result = tnm_vulkan_wait(vk, part);
        if (result != TNM_OK) return result;
        plain = (char *)plain + vk->piece_bytes;
        region.from += from ? vk->piece_bytes : 0;
        region.to += to ? vk->piece_bytes : 0;
        left -= vk->piece_bytes;
    }
    region.size = left;
    return tnm_vulkan_through(vk, to, from, plain, region, ticket);
}

static inline tnm_result tnm_vulkan_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                         uint64_t size, uint64_t *ticket) {
    tnm_vulkan *vk = (tnm_vulkan *)user;
    tnm_vulkan_vk_buffer to = tnm_vulkan_reach(vk, dst), from = tnm_vulkan_reach(vk, src);
    tnm_vulkan_region region;
    if (tnm_vulkan_gone(vk)) return TNM_ERR_LOST;
    if (!(to || from) || !(to || dst->host) || !(from || src->host)) return TNM_ERR_UNSUPPORTED;
    region.from = src->offset;
    region.to = dst->offset;
    region.size = size;
    if (!to || !from)
        return tnm_vulkan_staged(vk, to, from, to ? src->host : dst->host, region, ticket);
    return tnm_vulkan_record(vk, tnm_vulkan_is_device(dst) ? TNM_VULKAN_UP : TNM_VULKAN_DOWN, to,
                             from, region, ticket);
}

/* The device tier. */
static inline void tnm_vulkan_backend(tnm_vulkan *vk, tnm_backend *out) {
    memset(out, 0, sizeof *out);
    out->alloc = tnm_vulkan_alloc;
    out->release = tnm_vulkan_release;
    out->copy = tnm_vulkan_copy;
    out->submit = tnm_vulkan_submit;
    out->poll = tnm_vulkan_poll;
    out->wait = tnm_vulkan_wait;
    out->available = tnm_vulkan_available;
    out->user = vk;
}

/* ---- the host tier ---- */
static inline tnm_result tnm_vulkan_host_alloc(void *user, uint64_t size, uint64_t align,
                                               void *item, uint64_t *token, void **host) {
    tnm_vulkan_block *block = NULL;
    void *at = NULL;
    (void)item;
    tnm_result result = tnm_vulkan_make((tnm_vulkan *)user, size, align, &block, &at);
    if (result != TNM_OK) return result;
    *token = (uint64_t)(uintptr_t)block;
    *host = at;
    return TNM_OK;
}

/* From memory to memory. What goes to a device or comes from one is that device's business. */
static inline tnm_result tnm_vulkan_host_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                              uint64_t size, uint64_t *ticket) {
    (void)user, (void)ticket;
    if (!dst->host || !src->host) return TNM_ERR_UNSUPPORTED;
    if (tnm_vulkan_exiting) return TNM_ERR_LOST;
    memcpy(dst->host, src->host, (size_t)size);
    return TNM_OK;
}

static inline uint64_t tnm_vulkan_host_available(void *user) {
    return tnm_vulkan_room((tnm_vulkan *)user, ((tnm_vulkan *)user)->kind[1]);
}

/* The host tier beside it: mapped memory that the device copies from and to. */
static inline void tnm_vulkan_host(tnm_vulkan *vk, tnm_backend *out) {
    memset(out, 0, sizeof *out);
    out->alloc = tnm_vulkan_host_alloc;
    out->release = tnm_vulkan_release;
    out->copy = tnm_vulkan_host_copy;
    out->available = tnm_vulkan_host_available;
    out->user = vk;
    out->host_visible = 1;
}

/* ---- fences ---- */

static inline uint64_t tnm_vulkan_next(tnm_vulkan *vk, tnm_vulkan_fences *f) {
    tnm_vulkan_take(&vk->guard);
    uint64_t value = ++f->marked;
    tnm_vulkan_give(&vk->guard);
    return value;
}

/* A fence value behind everything submitted to that queue so far. 0 = failed: as a fence it is
 * refused and the pin stays, so wait for the queue, then unpin with fence 0. */
static inline uint64_t tnm_vulkan_mark(tnm_vulkan *vk, uint32_t queue) {
    if (queue >= vk->queues || tnm_vulkan_gone(vk)) return 0;
    tnm_vulkan_fences *f = &vk->fences[queue];
    tnm_vulkan_lock(vk);
    uint64_t value = tnm_vulkan_next(vk, f); /* before it can pass */
    int32_t code = tnm_vulkan_send(vk, f->line.queue, f->show, f->semaphore, value, 0);
    if (!code) f->sent = value;
    tnm_vulkan_unlock(vk);
    if (!code) return value;
    (void)tnm_vulkan_fail(vk, "vkQueueSubmit", code);
    return 0;
}

/* The same without a submission of ours: your next one to that queue signals *semaphore with this
 * value. Submit it before the next mark or signal of that queue; 0 = failed. */
static inline uint64_t tnm_vulkan_signal(tnm_vulkan *vk, uint32_t queue,
                                         tnm_vulkan_vk_semaphore *semaphore) {
    if (queue >= vk->queues || tnm_vulkan_gone(vk)) return 0;
    *semaphore = vk->fences[queue].semaphore;
    return tnm_vulkan_next(vk, &vk->fences[queue]);
}

/* Where the queue stands; UINT64_MAX: nowhere any more. */
static inline uint64_t tnm_vulkan_stands(tnm_vulkan *vk, tnm_vulkan_fences *f) {
    uint64_t now = 0;
    int32_t code = vk->api.GetSemaphoreCounterValue(vk->device, f->semaphore, &now);
    if (code == 0 && now > tnm_vulkan_read(vk, &f->marked)) code = TNM_VULKAN_DEVICE_LOST;
    if (code == 0) tnm_vulkan_raise(vk, &f->passed, now);
    if (code && tnm_vulkan_fail(vk, "vkGetSemaphoreCounterValue", code) == TNM_ERR_LOST)
        return UINT64_MAX;
    return tnm_vulkan_read(vk, &f->passed);
}

/* Sleeps for a tenth of a second at most, and only if wait_for was marked and has not passed. For
 * tnm_desc.passed, user = the device. */
static inline uint64_t tnm_vulkan_passed(void *user, uint32_t queue, uint64_t wait_for) {
    tnm_vulkan *vk = (tnm_vulkan *)user;
    if (queue >= vk->queues || tnm_vulkan_gone(vk)) return UINT64_MAX;
    tnm_vulkan_fences *f = &vk->fences[queue];
    uint64_t now = tnm_vulkan_stands(vk, f);
    if (now >= wait_for || wait_for > tnm_vulkan_read(vk, &f->marked)) return now;
    (void)tnm_vulkan_sleep(vk, f->semaphore, wait_for, 100000000);
    return tnm_vulkan_stands(vk, f);
}

/* ---- for whoever writes shaders ---- */

/* The buffer a pinned tensor of the device or the host tier lies in, at at->offset. */
static inline tnm_vulkan_vk_buffer tnm_vulkan_buffer(const tnm_vulkan *vk, uint64_t mem) {
    (void)vk;
    return ((const tnm_vulkan_block *)(uintptr_t)mem)->buffer;
}

/* What a submission waits for that uses pinned tensors of the device tier: it has passed. */
static inline tnm_vulkan_vk_semaphore tnm_vulkan_semaphore(tnm_vulkan *vk, uint64_t *value) {
    *value = tnm_vulkan_read(vk, &vk->way[TNM_VULKAN_UP].seen);
    return vk->way[TNM_VULKAN_UP].semaphore;
}

/* For tnm_tier_desc.alignment: where descriptors of every kind of buffer may begin. */
static inline uint32_t tnm_vulkan_alignment(const tnm_vulkan *vk) {
    return vk->alignment;
}

/* 1: the host tier's memory is the device's own, and one tier is enough. */
static inline int tnm_vulkan_is_unified(const tnm_vulkan *vk) {
    return vk->device_kind == TNM_VULKAN_INTEGRATED || vk->device_kind == TNM_VULKAN_CPU ||
           vk->memory.kind[vk->kind[0]].heap == vk->memory.kind[vk->kind[1]].heap;
}

static inline tnm_vulkan_vk_instance tnm_vulkan_instance(const tnm_vulkan *vk) {
    return vk->instance;
}

static inline tnm_vulkan_vk_physical tnm_vulkan_physical(const tnm_vulkan *vk) {
    return vk->physical;
}

static inline tnm_vulkan_vk_device tnm_vulkan_device(const tnm_vulkan *vk) {
    return vk->device;
}

/* Compute queue `queue` and its family; what `mark` and `passed` call by the same number. */
static inline tnm_vulkan_vk_queue tnm_vulkan_queue(const tnm_vulkan *vk, uint32_t queue,
                                                   uint32_t *family) {
    if (queue >= vk->queues) return NULL;
    if (family) *family = vk->fences[queue].line.family;
    return vk->fences[queue].line.queue;
}

/* Any function of the device: VkResult (*submit)(...); tnm_vulkan_find_call(vk, "vkQueueSubmit",
 * &submit, sizeof submit). A call of 1.1 and later may bear its extension's name. 0 = none. */
static inline int tnm_vulkan_find_call(const tnm_vulkan *vk, const char *name, void *out,
                                       size_t size) {
    char khr[80];
    tnm_vulkan_function found = NULL;
    memset(out, 0, size);
    if (size != sizeof found) return 0;
    for (int i = 0; i < 2 && !found; i++) {
        snprintf(khr, sizeof khr, "%s%s", name, i ? "KHR" : "");
        found = vk->device ? vk->api.GetDeviceProcAddr(vk->device, khr)
                           : vk->get_proc(vk->instance, khr);
    }
    memcpy(out, &found, size);
    return found != NULL;
}

/* ---- open ---- */
static inline tnm_result tnm_vulkan_missing(tnm_vulkan *vk, const char *what, const char *name) {
    snprintf(vk->error, sizeof vk->error, "%s %s", what, name);
    return TNM_ERR_UNSUPPORTED;
}

/* The library stays, however open ends. */
static inline tnm_result tnm_vulkan_load(tnm_vulkan *vk, const char *name) {
#ifdef _WIN32
    static const char *const usual[] = { "vulkan-1.dll" };
    FARPROC found = NULL;
#elif defined(__APPLE__)
    static const char *const usual[] = { "libvulkan.1.dylib", "libMoltenVK.dylib" };
    void *found = NULL;
#else
    static const char *const usual[] = { "libvulkan.so.1", "libvulkan.so" };
    void *found = NULL;
#endif
    void *library = NULL;
    for (size_t i = 0; i < sizeof usual / sizeof usual[0] && !library; i++) {
        const char *file = name ? name : usual[i];
#ifdef _WIN32
        library = (void *)LoadLibraryA(file);
#else
        library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
#endif
    }
    if (!library) return tnm_vulkan_missing(vk, "no library", name ? name : usual[0]);
#ifdef _WIN32
    found = GetProcAddress((HMODULE)library, "vkGetInstanceProcAddr");
#else
    found = dlsym(library, "vkGetInstanceProcAddr");
#endif
    if (!found)
        return tnm_vulkan_missing(vk, "no vkGetInstanceProcAddr in", name ? name : usual[0]);
    memcpy(&vk->get_proc, &found, sizeof found); /* ISO C has no cast from object to function */
    return TNM_OK;
}

#define TNM_VULKAN_LOAD(result, name, parameters)                                                  \
    if (!tnm_vulkan_find_call(vk, "vk" #name, &vk->api.name, sizeof vk->api.name))                 \
        missing = "vk" #name;

static inline tnm_result tnm_vulkan_get_instance(tnm_vulkan *vk, const tnm_vulkan_desc *desc) {
    tnm_vulkan_application application;
    tnm_vulkan_instance_info info;
    int32_t(TNM_VULKAN_CALL * version)(uint32_t *);
    uint32_t has = 0;
    int32_t code = 0;
    const char *missing = NULL;
    vk->instance = desc->instance;
    if (!vk->instance) {
        if (!tnm_vulkan_find_call(vk, "vkEnumerateInstanceVersion", &version, sizeof version) ||
            version(&has) || has < TNM_VULKAN_VERSION(1))
            return tnm_vulkan_missing(vk, "the library knows Vulkan 1.0 only,", "needed is 1.1");
        if (!tnm_vulkan_find_call(vk, "vkCreateInstance", &vk->api.CreateInstance,
                                  sizeof vk->api.CreateInstance))
            return tnm_vulkan_missing(vk, "the library has no", "vkCreateInstance");
        memset(&application, 0, sizeof application);
        application.type = TNM_VULKAN_IS_APPLICATION;
        application.engine = "tensormem";
        application.api = TNM_VULKAN_VERSION(3); /* the most that is made use of */
        memset(&info, 0, sizeof info);
        info.type = TNM_VULKAN_IS_INSTANCE;
        info.application = &application;
        code = vk->api.CreateInstance(&info, NULL, &vk->instance);
        if (code) { /* no driver at all is such an error */
            vk->instance = NULL;
            (void)tnm_vulkan_fail(vk, "no device: vkCreateInstance", code);
            return TNM_ERR_UNSUPPORTED;
        }
        vk->own_instance = 1;
    }
    TNM_VULKAN_INSTANCE_CALLS(TNM_VULKAN_LOAD)
    return missing ? tnm_vulkan_missing(vk, "the instance has no", missing) : TNM_OK;
}

static inline tnm_result tnm_vulkan_get_physical(tnm_vulkan *vk, const tnm_vulkan_desc *desc) {
    tnm_vulkan_vk_physical all[TNM_VULKAN_MANY];
    uint32_t count = TNM_VULKAN_MANY;
    vk->physical = desc->physical;
    if (vk->physical) return TNM_OK;
    int32_t code = vk->api.EnumeratePhysicalDevices(vk->instance, &count, all);
    if (code < 0) return tnm_vulkan_fail(vk, "vkEnumeratePhysicalDevices", code);
    if (desc->device < 0 || (uint32_t)desc->device >= count) {
        snprintf(vk->error, sizeof vk->error, "Vulkan shows %u devices, there is no device %d",
                 (unsigned)count, desc->device);
        return TNM_ERR_UNSUPPORTED;
    }
    vk->physical = all[desc->device];
    return TNM_OK;
}

/* Does the physical device have this extension? */
static inline int tnm_vulkan_has(tnm_vulkan *vk, const char *name) {
    uint32_t count = 0;
    int has = 0;
    if (vk->api.EnumerateDeviceExtensionProperties(vk->physical, NULL, &count, NULL) < 0) return 0;
    tnm_vulkan_extension *all = (tnm_vulkan_extension *)calloc(count ? count : 1, sizeof *all);
    if (all && vk->api.EnumerateDeviceExtensionProperties(vk->physical, NULL, &count, all) == 0)
        for (uint32_t i = 0; i < count && !has; i++)
            has = strcmp(all[i].name, name) == 0;
    free(all);
    return has;
}

/* What the physical device is and allows; its version is the answer. */
static inline uint32_t tnm_vulkan_measure(tnm_vulkan *vk) {
    tnm_vulkan_maintenance3 three;
    tnm_vulkan_maintenance4 four;
    tnm_vulkan_properties properties;
    const tnm_vulkan_limits *limits = &properties.is.limits;
    memset(&properties, 0, sizeof properties);
    properties.type = TNM_VULKAN_IS_PROPERTIES;
    vk->api.GetPhysicalDeviceProperties2(vk->physical, &properties);
    memset(&four, 0, sizeof four);
    four.type = TNM_VULKAN_IS_MAINTENANCE4;
    memset(&three, 0, sizeof three);
    three.type = TNM_VULKAN_IS_MAINTENANCE3;
    if (vk->own_instance && properties.is.api >= TNM_VULKAN_VERSION(3)) three.next = &four;
    if (properties.is.api >= TNM_VULKAN_VERSION(1)) properties.next = &three;
    vk->api.GetPhysicalDeviceProperties2(vk->physical, &properties);
    vk->largest = three.allocation ? three.allocation : UINT64_C(1) << 30;
    if (four.buffer && four.buffer < vk->largest) vk->largest = four.buffer;
    if (vk->largest > SIZE_MAX / 2) vk->largest = SIZE_MAX / 2;
    vk->blocks_most = limits->allocations;
    vk->device_kind = properties.is.kind;
    const uint64_t all[] = { 16, limits->texel_alignment, limits->uniform_alignment,
                             limits->storage_alignment, limits->copy_alignment };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (vk->alignment < all[i]) vk->alignment = (uint32_t)all[i]; /* powers of two */
    memset(&vk->memory, 0, sizeof vk->memory);
    vk->memory.type = TNM_VULKAN_IS_MEMORY;
    vk->api.GetPhysicalDeviceMemoryProperties2(vk->physical, &vk->memory);
    vk->budgeted = tnm_vulkan_has(vk, "VK_EXT_memory_budget");
    return properties.is.api;
}

/* Families for compute and for copies: one that only copies, or one beside the graphics, or the
 * same. 0 = none computes. */
static inline int tnm_vulkan_families(tnm_vulkan *vk, uint32_t *compute, uint32_t *copies,
                                      tnm_vulkan_family *family) {
    uint32_t count = TNM_VULKAN_MANY, best = 0;
    int found = 0;
    vk->api.GetPhysicalDeviceQueueFamilyProperties(vk->physical, &count, family);
    for (uint32_t i = count; i-- > 0;)
        if (family[i].flags & TNM_VULKAN_QUEUE_COMPUTE && family[i].count) *compute = i, found = 1;
    *copies = *compute;
    for (uint32_t i = 0; i < count && found; i++) {
        uint32_t flags = family[i].flags & ~(uint32_t)(8 | 16); /* sparse, protected: no matter */
        uint32_t good = flags == TNM_VULKAN_QUEUE_TRANSFER                     ? 2
                        : (flags & 3) == TNM_VULKAN_QUEUE_COMPUTE && flags < 8 ? 1
                                                                               : 0;
        if (i == *compute || good <= best || !family[i].count) continue;
        best = good;
        *copies = i;
    }
    return found;
}

/* The extensions a device of ours needs; -1: it has no timelines. */
static inline int tnm_vulkan_extensions(tnm_vulkan *vk, uint32_t api, const char **out) {
    tnm_vulkan_timeline_features timeline;
    tnm_vulkan_features features;
    const char *name = "VK_KHR_timeline_semaphore";
    int count = 0, known = api >= TNM_VULKAN_VERSION(2);
    memset(&timeline, 0, sizeof timeline);
    memset(&features, 0, sizeof features);
    timeline.type = TNM_VULKAN_IS_TIMELINE_FEATURES;
    features.type = TNM_VULKAN_IS_FEATURES;
    features.next = &timeline;
    if (!known && tnm_vulkan_has(vk, name)) out[count++] = name;
    if (known || count) vk->api.GetPhysicalDeviceFeatures2(vk->physical, &features);
    if (tnm_vulkan_has(vk, "VK_KHR_portability_subset")) out[count++] = "VK_KHR_portability_subset";
    return timeline.timeline ? count : -1;
}

/* Of what was made of the two families, which queue is whose: what is not there is shared. */
static inline void tnm_vulkan_share(tnm_vulkan *vk, const tnm_vulkan_queue_info *made, int apart) {
    uint32_t spare = apart ? 0 : made[0].count > 2 ? 2 : made[0].count - 1;
    for (uint32_t i = 0; i < vk->queues; i++) {
        tnm_vulkan_line *line = &vk->fences[i].line;
        line->family = made[0].family;
        vk->api.GetDeviceQueue(vk->device, line->family, i % (made[0].count - spare), &line->queue);
    }
    for (uint32_t i = 0; i < TNM_VULKAN_WAYS; i++) {
        tnm_vulkan_line *line = &vk->way[i].line;
        uint32_t at = apart ? i % made[1].count : spare ? made[0].count - 1 - i % spare : 0;
        line->family = made[1].family;
        vk->api.GetDeviceQueue(vk->device, line->family, at, &line->queue);
    }
}

/* A device of our own, with as many queues as are asked and there are. */
static inline tnm_result tnm_vulkan_make_device(tnm_vulkan *vk, uint32_t api) {
    tnm_vulkan_family family[TNM_VULKAN_MANY];
    tnm_vulkan_timeline_features timeline;
    tnm_vulkan_queue_info queue[2];
    tnm_vulkan_device_info info;
    const char *extension[2], *missing = NULL;
    float priority[TNM_VULKAN_LINES];
    uint32_t compute = 0, copies = 0;
    int extensions = tnm_vulkan_extensions(vk, api, extension);
    if (extensions < 0) return tnm_vulkan_missing(vk, "the device has no", "timeline semaphores");
    if (!tnm_vulkan_families(vk, &compute, &copies, family))
        return tnm_vulkan_missing(vk, "the device has no", "queue that computes");
    int apart = compute != copies;
    uint32_t asked = vk->queues + (apart ? 0u : (uint32_t)TNM_VULKAN_WAYS);
    for (int i = 0; i < TNM_VULKAN_LINES; i++)
        priority[i] = 1;
    memset(queue, 0, sizeof queue);
    queue[0].type = queue[1].type = TNM_VULKAN_IS_QUEUE;
    queue[0].priorities = queue[1].priorities = priority;
    queue[0].family = compute;
    queue[0].count = asked < family[compute].count ? asked : family[compute].count;
    queue[1].family = copies;
    queue[1].count = family[copies].count < 2 ? 1 : 2;
    memset(&timeline, 0, sizeof timeline);
    timeline.type = TNM_VULKAN_IS_TIMELINE_FEATURES;
    timeline.timeline = 1;
    memset(&info, 0, sizeof info);
    info.type = TNM_VULKAN_IS_DEVICE;
    info.next = &timeline;
    info.queues = apart ? 2 : 1;
    info.queue = queue;
    info.extensions = (uint32_t)extensions;
    info.extension = extension;
    int32_t code = vk->api.CreateDevice(vk->physical, &info, NULL, &vk->device);
    if (code) {
        vk->device = NULL;
        return tnm_vulkan_fail(vk, "vkCreateDevice", code);
    }
    vk->own_device = 1;
    TNM_VULKAN_DEVICE_CALLS(TNM_VULKAN_LOAD)
    if (missing) return tnm_vulkan_missing(vk, "the device has no", missing);
    tnm_vulkan_share(vk, queue, apart);
    return TNM_OK;
}

/* The device, ours or the caller's, and its queues. */
static inline tnm_result tnm_vulkan_settle(tnm_vulkan *vk, const tnm_vulkan_desc *desc) {
    const char *missing = NULL;
    tnm_result result = tnm_vulkan_get_instance(vk, desc);
    if (result == TNM_OK) result = tnm_vulkan_get_physical(vk, desc);
    if (result != TNM_OK) return result;
    uint32_t api = tnm_vulkan_measure(vk);
    if (!desc->logical) return tnm_vulkan_make_device(vk, api);
    vk->device = desc->logical;
    TNM_VULKAN_DEVICE_CALLS(TNM_VULKAN_LOAD)
    if (missing) return tnm_vulkan_missing(vk, "the device has no", missing);
    for (uint32_t i = 0; i < vk->queues; i++)
        vk->fences[i].line = desc->compute[i];
    for (int i = 0; i < TNM_VULKAN_WAYS; i++)
        vk->way[i].line = desc->copies[i] ? *desc->copies[i] : desc->compute[0];
    return TNM_OK;
}
#undef TNM_VULKAN_LOAD

/* The families that use buffers, each once. */
static inline void tnm_vulkan_list_families(tnm_vulkan *vk) {
    for (uint32_t i = 0; i < vk->queues + TNM_VULKAN_WAYS; i++) {
        uint32_t one =
            i < vk->queues ? vk->fences[i].line.family : vk->way[i - vk->queues].line.family;
        uint32_t at = 0;
        while (at < vk->families && vk->family[at] != one)
            at++;
        if (at == vk->families) vk->family[vk->families++] = one;
    }
}

/* The kind of memory for the device tier, or for the host's: visible, coherent, and cached if such
 * there is; for the device its own, and rather what the CPU does not see, of the larger heap. */
static inline uint32_t tnm_vulkan_choose_kind(const tnm_vulkan *vk, uint32_t kinds, int host) {
    const uint32_t both = TNM_VULKAN_HOST_VISIBLE | TNM_VULKAN_HOST_COHERENT;
    uint32_t best = UINT32_MAX;
    int most = -1;
    for (uint32_t i = 0; i < vk->memory.kinds; i++) {
        uint32_t flags = vk->memory.kind[i].flags;
        int local = (flags & TNM_VULKAN_DEVICE_LOCAL) != 0, score;
        if (!(kinds >> i & 1) || flags > 15) continue; /* lazy, protected, slow for debugging */
        if (host && (flags & both) != both) continue;
        score = host ? ((flags & TNM_VULKAN_HOST_CACHED) ? 2 : 0) + !local
                     : 2 * local + !(flags & TNM_VULKAN_HOST_VISIBLE);
        if (score < most) continue;
        if (score == most && vk->memory.heap[vk->memory.kind[i].heap].size <=
                                 vk->memory.heap[vk->memory.kind[best].heap].size)
            continue;
        most = score;
        best = i;
    }
    return best;
}

static inline int32_t tnm_vulkan_timeline(tnm_vulkan *vk, tnm_vulkan_vk_semaphore *out) {
    tnm_vulkan_semaphore_type kind;
    tnm_vulkan_semaphore_info info;
    memset(&kind, 0, sizeof kind);
    kind.type = TNM_VULKAN_IS_SEMAPHORE_TYPE;
    kind.kind = TNM_VULKAN_TIMELINE;
    memset(&info, 0, sizeof info);
    info.type = TNM_VULKAN_IS_SEMAPHORE;
    info.next = &kind;
    return vk->api.CreateSemaphore(vk->device, &info, NULL, out);
}

static inline int32_t tnm_vulkan_commands(tnm_vulkan *vk, uint32_t family, uint32_t count,
                                          tnm_vulkan_vk_pool *pool, tnm_vulkan_vk_commands *out) {
    tnm_vulkan_pool_info info;
    tnm_vulkan_commands_info what;
    memset(&info, 0, sizeof info);
    info.type = TNM_VULKAN_IS_POOL;
    info.flags = TNM_VULKAN_POOL_RESET;
    info.family = family;
    int32_t code = vk->api.CreateCommandPool(vk->device, &info, NULL, pool);
    if (code) return code;
    memset(&what, 0, sizeof what);
    what.type = TNM_VULKAN_IS_COMMANDS;
    what.pool = *pool;
    what.count = count;
    return vk->api.AllocateCommandBuffers(vk->device, &what, out);
}

static inline tnm_result tnm_vulkan_equip_way(tnm_vulkan *vk, tnm_vulkan_way *w) {
    w->batch = (tnm_vulkan_batch *)calloc(vk->depth, sizeof *w->batch);
    tnm_vulkan_vk_commands *all = (tnm_vulkan_vk_commands *)calloc(vk->depth, sizeof *all);
    int32_t code = -1;
    if (w->batch && all) {
        code = tnm_vulkan_commands(vk, w->line.family, vk->depth, &w->pool, all);
        for (uint32_t i = 0; i < vk->depth; i++)
            w->batch[i].commands = all[i];
        if (!code) code = tnm_vulkan_timeline(vk, &w->semaphore);
    }
    free(all);
    return code ? tnm_vulkan_fail(vk, "making the ways", code) : TNM_OK;
}

/* A compute queue's semaphore, and what shows the CPU what was written before a mark. */
static inline tnm_result tnm_vulkan_equip_fences(tnm_vulkan *vk, tnm_vulkan_fences *f) {
    tnm_vulkan_begin_info info;
    memset(&info, 0, sizeof info);
    info.type = TNM_VULKAN_IS_BEGIN;
    info.flags = TNM_VULKAN_SIMULTANEOUS;
    int32_t code = tnm_vulkan_commands(vk, f->line.family, 1, &f->pool, &f->show);
    if (!code) code = vk->api.BeginCommandBuffer(f->show, &info);
    if (!code) {
        tnm_vulkan_show(vk, f->show, TNM_VULKAN_STAGE_ALL, TNM_VULKAN_MEMORY_WRITE);
        code = vk->api.EndCommandBuffer(f->show);
    }
    if (!code) code = tnm_vulkan_timeline(vk, &f->semaphore);
    return code ? tnm_vulkan_fail(vk, "making the fences", code) : TNM_OK;
}

static inline tnm_result tnm_vulkan_equip(tnm_vulkan *vk, const tnm_vulkan_desc *desc) {
    tnm_vulkan_requirements need;
    tnm_vulkan_vk_buffer probe;
    void *mapped = NULL;
    tnm_vulkan_list_families(vk);
    int32_t code = tnm_vulkan_buffer_make(vk, 256, &probe);
    if (code) return tnm_vulkan_fail(vk, "vkCreateBuffer", code);
    vk->api.GetBufferMemoryRequirements(vk->device, probe, &need);
    vk->api.DestroyBuffer(vk->device, probe, NULL);
    for (int host = 0; host < 2; host++) { /* the kinds are the same for all of one usage */
        vk->kind[host] = tnm_vulkan_choose_kind(vk, need.kinds, host);
        if (vk->kind[host] == UINT32_MAX)
            return tnm_vulkan_missing(vk, "the device has no memory", host ? "to map" : "for it");
    }
    tnm_result result = TNM_OK;
    for (int i = 0; i < TNM_VULKAN_WAYS && result == TNM_OK; i++)
        result = tnm_vulkan_equip_way(vk, &vk->way[i]);
    for (uint32_t i = 0; i < vk->queues && result == TNM_OK; i++)
        result = tnm_vulkan_equip_fences(vk, &vk->fences[i]);
    if (result != TNM_OK) return result;
    uint64_t bytes = desc->staging_bytes ? desc->staging_bytes : 16u << 20;
    vk->piece_bytes = (size_t)(bytes / TNM_VULKAN_PIECES + 255) / 256 * 256;
    result = tnm_vulkan_make(vk, (uint64_t)vk->piece_bytes * TNM_VULKAN_PIECES, 64, &vk->staging,
                             &mapped);
    vk->mapped = (unsigned char *)mapped;
    return result;
}

/* ---- close ---- */
/* Nothing of ours is under way any more, or so much time has passed for each queue. */
static inline void tnm_vulkan_quiet(tnm_vulkan *vk, uint64_t ns) {
    if (!vk->device || !vk->staging) return; /* it was never open */
    for (uint32_t i = 0; i < TNM_VULKAN_WAYS + vk->queues && !tnm_vulkan_gone(vk); i++) {
        const tnm_vulkan_way *w = i < TNM_VULKAN_WAYS ? &vk->way[i] : NULL;
        const tnm_vulkan_fences *f = w ? NULL : &vk->fences[i - TNM_VULKAN_WAYS];
        uint64_t sent = w ? w->sent : f->sent;
        if (sent) (void)tnm_vulkan_sleep(vk, w ? w->semaphore : f->semaphore, sent, ns);
    }
}

static inline void tnm_vulkan_dismantle(tnm_vulkan *vk) {
    if (vk->staging) tnm_vulkan_drop(vk, vk->staging);
    if (vk->own_device && vk->api.DeviceWaitIdle) (void)vk->api.DeviceWaitIdle(vk->device);
    for (uint32_t i = 0; i < TNM_VULKAN_WAYS + vk->queues; i++) {
        tnm_vulkan_way *w = i < TNM_VULKAN_WAYS ? &vk->way[i] : NULL;
        tnm_vulkan_fences *f = w ? NULL : &vk->fences[i - TNM_VULKAN_WAYS];
        tnm_vulkan_vk_semaphore semaphore = w ? w->semaphore : f->semaphore;
        tnm_vulkan_vk_pool pool = w ? w->pool : f->pool;
        if (semaphore) vk->api.DestroySemaphore(vk->device, semaphore, NULL);
        if (pool) vk->api.DestroyCommandPool(vk->device, pool, NULL);
    }
    if (vk->own_device && vk->api.DestroyDevice) vk->api.DestroyDevice(vk->device, NULL);
    if (vk->own_instance && vk->api.DestroyInstance) vk->api.DestroyInstance(vk->instance, NULL);
}

/* Registered after the runtime was woken, so it runs before the runtime's own farewell. */
static inline void tnm_vulkan_at_exit(void) {
    for (tnm_vulkan *vk = tnm_vulkan_all; vk; vk = vk->others)
        tnm_vulkan_quiet(vk, 2000000000); /* not for ever: nobody is left to feed a queue */
    tnm_vulkan_exiting = 1;
}

/* After tnm_destroy. Waits for what is under way. NULL, and what is closed already, do nothing. */
static inline void tnm_vulkan_close(tnm_vulkan *vk) {
    tnm_vulkan **at = &tnm_vulkan_all;
    while (*at && *at != vk)
        at = &(*at)->others;
    if (!vk || !*at) return;
    *at = vk->others;
    if (!tnm_vulkan_exiting) {
        tnm_vulkan_quiet(vk, UINT64_MAX);
        tnm_vulkan_dismantle(vk);
    } else
        free(vk->staging);
    for (int i = 0; i < TNM_VULKAN_WAYS; i++)
        free(vk->way[i].batch);
    free(vk);
}

/* TNM_ERR_UNSUPPORTED: no library or no such device; tnm_vulkan_error(NULL) says. */
static inline tnm_result tnm_vulkan_open(const tnm_vulkan_desc *desc, tnm_vulkan **out) {
    static int watched;
    tnm_vulkan_desc none;
    tnm_result result = TNM_OK;
    memset(&none, 0, sizeof none);
    if (!desc) desc = &none;
    *out = NULL;
    tnm_vulkan *vk = (tnm_vulkan *)calloc(1, sizeof *vk);
    if (!vk) {
        snprintf(tnm_vulkan_why, sizeof tnm_vulkan_why, "no memory");
        return TNM_ERR_MEMORY;
    }
    vk->get_proc = desc->get_proc;
    vk->depth = desc->queue_depth ? desc->queue_depth : 16;
    vk->queues = desc->queues ? desc->queues : 1;
    vk->usage = TNM_VULKAN_USAGES | desc->usage;
    vk->user_lock = desc->lock && desc->unlock ? desc->lock : NULL;
    vk->user_unlock = desc->unlock;
    vk->lock_user = desc->lock_user;
    if (vk->queues > TNM_VULKAN_QUEUES)
        result = tnm_vulkan_missing(vk, "too many", "queues");
    else if (desc->logical && (!desc->instance || !desc->physical || !desc->compute))
        result = tnm_vulkan_missing(vk, "your device without its", "instance, physical, compute");
    else if (tnm_vulkan_exiting)
        result = tnm_vulkan_missing(vk, "the program", "is exiting");
    if (result == TNM_OK && !vk->get_proc) result = tnm_vulkan_load(vk, desc->library);
    if (result == TNM_OK) result = tnm_vulkan_settle(vk, desc);
    if (result == TNM_OK && !watched) watched = atexit(tnm_vulkan_at_exit) == 0;
    if (result == TNM_OK) result = tnm_vulkan_equip(vk, desc);
    vk->others = tnm_vulkan_all; /* listed, so that close finds it */
    tnm_vulkan_all = vk;
    memcpy(tnm_vulkan_why, vk->error, sizeof tnm_vulkan_why);
    if (result == TNM_OK)
        *out = vk;
    else
        tnm_vulkan_close(vk);
    return result;
}

#endif /* TENSORMEM_VULKAN_H */
