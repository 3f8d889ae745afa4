/* vulkan_watch.h: what stands between examples/backends/vulkan.h and the real runtime in tests, as
 * its desc.get_proc. Instances get the validation layer where it is installed, and what it says is
 * counted; allocations are counted; calls can be made to fail, and the device can die. */
#ifndef TENSORMEM_TESTS_VULKAN_WATCH_H
#define TENSORMEM_TESTS_VULKAN_WATCH_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct watch_said { /* the head of VkDebugUtilsMessengerCallbackDataEXT */
    uint32_t type;
    const void *next;
    uint32_t flags;
    const char *name;
    int32_t number;
    const char *message;
} watch_said;

typedef uint32_t(TNM_VULKAN_CALL *watch_listener)(uint32_t, uint32_t, const watch_said *, void *);

typedef struct watch_messenger { /* VkDebugUtilsMessengerCreateInfoEXT */
    uint32_t type;
    const void *next;
    uint32_t flags, severity, kinds;
    watch_listener listen;
    void *user;
} watch_messenger;

typedef struct watch_features { /* VkValidationFeaturesEXT */
    uint32_t type;
    const void *next;
    uint32_t enabled;
    const uint32_t *enable;
    uint32_t disabled;
    const uint32_t *disable;
} watch_features;

typedef struct watch_layer { /* VkLayerProperties */
    char name[256];
    uint32_t spec, implementation;
    char description[256];
} watch_layer;

typedef struct watch_world {
    tnm_vulkan_get_proc get;
    tnm_vulkan_api real;
    int validating; /* 1: the layer is there and was asked for */
    long said;      /* by the layer */
    uint64_t live;  /* allocations */
    const char *failing;
    int nth, code, dead;
    struct {
        tnm_vulkan_vk_instance instance; /* NULL = a free place */
        uint64_t messenger;
    } heard[8];
} watch_world;

static watch_world watch;

/* 0, or what this call is to answer. */
static inline int32_t watch_error(const char *call) {
    if (watch.dead) return TNM_VULKAN_DEVICE_LOST;
    if (watch.nth == 0 || (watch.failing && strcmp(watch.failing, call) != 0)) return 0;
    return --watch.nth > 0 ? 0 : watch.code;
}

static inline void watch_fail(const char *call, int nth, int code) {
    watch.failing = call;
    watch.nth = nth;
    watch.code = code ? code : -2; /* VK_ERROR_OUT_OF_DEVICE_MEMORY */
}

/* ---- calls that can fail ---- */
#define WATCH_CALLS(X)                                                                             \
    X(CreateBuffer,                                                                                \
      (tnm_vulkan_vk_device d, const tnm_vulkan_buffer_info *i, const void *a,                     \
       tnm_vulkan_vk_buffer *out),                                                                 \
      (d, i, a, out))                                                                              \
    X(AllocateMemory,                                                                              \
      (tnm_vulkan_vk_device d, const tnm_vulkan_allocate_info *i, const void *a,                   \
       tnm_vulkan_vk_memory *out),                                                                 \
      (d, i, a, out))                                                                              \
    X(BindBufferMemory,                                                                            \
      (tnm_vulkan_vk_device d, tnm_vulkan_vk_buffer b, tnm_vulkan_vk_memory m, uint64_t at),       \
      (d, b, m, at))                                                                               \
    X(MapMemory,                                                                                   \
      (tnm_vulkan_vk_device d, tnm_vulkan_vk_memory m, uint64_t at, uint64_t size, uint32_t flags, \
       void **out),                                                                                \
      (d, m, at, size, flags, out))                                                                \
    X(BeginCommandBuffer, (tnm_vulkan_vk_commands c, const tnm_vulkan_begin_info *i), (c, i))      \
    X(EndCommandBuffer, (tnm_vulkan_vk_commands c), (c))                                           \
    X(QueueSubmit,                                                                                 \
      (tnm_vulkan_vk_queue q, uint32_t n, const tnm_vulkan_submit_info *i, tnm_vulkan_vk_fence f), \
      (q, n, i, f))                                                                                \
    X(QueueWaitIdle, (tnm_vulkan_vk_queue q), (q))                                                 \
    X(GetSemaphoreCounterValue,                                                                    \
      (tnm_vulkan_vk_device d, tnm_vulkan_vk_semaphore s, uint64_t * out), (d, s, out))            \
    X(WaitSemaphores, (tnm_vulkan_vk_device d, const tnm_vulkan_wait_info *i, uint64_t ns),        \
      (d, i, ns))

#define WATCH_COUNT(name) (strcmp(#name, "AllocateMemory") == 0)
#define WATCH_ENDS(name)  (strcmp(#name, "EndCommandBuffer") == 0) /* failed, it is ended too */
#define WATCH_DEFINE(name, parameters, arguments)                                                  \
    static inline int32_t TNM_VULKAN_CALL watch_##name parameters {                                \
        int32_t code = watch_error("vk" #name);                                                    \
        if (!code || WATCH_ENDS(name)) code |= watch.real.name arguments;                          \
        if (!code && WATCH_COUNT(name)) watch.live++;                                              \
        return code;                                                                               \
    }
WATCH_CALLS(WATCH_DEFINE)
#undef WATCH_DEFINE

static inline void TNM_VULKAN_CALL watch_FreeMemory(tnm_vulkan_vk_device device,
                                                    tnm_vulkan_vk_memory memory,
                                                    const void *allocator) {
    watch.live--;
    watch.real.FreeMemory(device, memory, allocator);
}

/* ---- the layer ---- */
static inline uint32_t TNM_VULKAN_CALL watch_listen(uint32_t severity, uint32_t kinds,
                                                    const watch_said *said, void *user) {
    (void)severity, (void)kinds, (void)user;
    if (said->name && strcmp(said->name, "UNASSIGNED-VkSemaphore-state-timeout") == 0)
        return 0; /* "this is most likely a validation bug": it was, until 2024 */
    __atomic_add_fetch(&watch.said, 1, __ATOMIC_SEQ_CST);
    printf("validation: %s\n", said->message);
    return 0;
}

static inline int watch_layer_there(const char *name) {
    int32_t(TNM_VULKAN_CALL * list)(uint32_t *, watch_layer *);
    watch_layer all[64];
    uint32_t count = 64;
    tnm_vulkan_function found = watch.get(NULL, "vkEnumerateInstanceLayerProperties");
    memcpy(&list, &found, sizeof found);
    if (!found || list(&count, all) < 0) return 0;
    while (count-- > 0)
        if (strcmp(all[count].name, name) == 0) return 1;
    return 0;
}

static inline int32_t TNM_VULKAN_CALL watch_CreateInstance(const tnm_vulkan_instance_info *info,
                                                           const void *allocator,
                                                           tnm_vulkan_vk_instance *out) {
    static const char *const layer[] = { "VK_LAYER_KHRONOS_validation" };
    static const char *const extension[] = { "VK_EXT_debug_utils", "VK_EXT_validation_features" };
    static const uint32_t synchronization = 4;
    int32_t(TNM_VULKAN_CALL * make)(tnm_vulkan_vk_instance, const watch_messenger *, const void *,
                                    uint64_t *);
    tnm_vulkan_instance_info mine = *info;
    watch_messenger messenger;
    watch_features features;
    memset(&features, 0, sizeof features);
    features.type = 1000247000;
    features.enabled = 1;
    features.enable = &synchronization; /* hazards between copies of a submission, too */
    memset(&messenger, 0, sizeof messenger);
    messenger.type = 1000128004;
    messenger.severity = 0x1100; /* warnings, errors */
    messenger.kinds = 6;         /* validation, performance */
    messenger.listen = watch_listen;
    messenger.next = &features;
#ifndef NDEBUG /* it is in the way of what is measured */
    watch.validating = watch_layer_there(layer[0]);
#endif
    if (watch.validating) {
        mine.layers = 1;
        mine.extensions = 2;
        mine.layer = layer;
        mine.extension = extension;
        mine.next = &messenger; /* while the instance is made and destroyed */
    }
    int32_t code = watch.real.CreateInstance(&mine, allocator, out);
    if (code || !watch.validating) return code;
    messenger.next = NULL;
    tnm_vulkan_function found = watch.get(*out, "vkCreateDebugUtilsMessengerEXT");
    memcpy(&make, &found, sizeof found);
    int i = 0;
    while (i < 7 && watch.heard[i].instance)
        i++;
    watch.heard[i].instance = *out;
    if (!found || make(*out, &messenger, NULL, &watch.heard[i].messenger) != 0)
        watch.validating = 0;
    return code;
}

static inline void TNM_VULKAN_CALL watch_DestroyInstance(tnm_vulkan_vk_instance instance,
                                                         const void *allocator) {
    void(TNM_VULKAN_CALL * drop)(tnm_vulkan_vk_instance, uint64_t, const void *);
    tnm_vulkan_function found = watch.get(instance, "vkDestroyDebugUtilsMessengerEXT");
    memcpy(&drop, &found, sizeof found);
    for (int i = 0; i < 8 && found && watch.validating; i++) {
        if (watch.heard[i].instance != instance) continue;
        drop(instance, watch.heard[i].messenger, NULL);
        watch.heard[i].instance = NULL;
    }
    watch.real.DestroyInstance(instance, allocator);
}

/* ---- in front of the runtime ---- */
#define WATCH_REPLACE(member, parameters, arguments)                                               \
    if (found && strcmp(name, "vk" #member) == 0) {                                                \
        int32_t(TNM_VULKAN_CALL *mine) parameters = watch_##member;                                \
        memcpy(&watch.real.member, &found, sizeof found);                                          \
        memcpy(&found, &mine, sizeof mine);                                                        \
    } else

static inline tnm_vulkan_function TNM_VULKAN_CALL watch_get_device(tnm_vulkan_vk_device device,
                                                                   const char *name) {
    tnm_vulkan_function found = watch.real.GetDeviceProcAddr(device, name);
    WATCH_CALLS(WATCH_REPLACE)
    if (found && strcmp(name, "vkFreeMemory") == 0) {
        void(TNM_VULKAN_CALL * mine)(tnm_vulkan_vk_device, tnm_vulkan_vk_memory, const void *) =
            watch_FreeMemory;
        memcpy(&watch.real.FreeMemory, &found, sizeof found);
        memcpy(&found, &mine, sizeof mine);
    }
    return found;
}
#undef WATCH_REPLACE

static inline tnm_vulkan_function TNM_VULKAN_CALL watch_get(tnm_vulkan_vk_instance instance,
                                                            const char *name) {
    tnm_vulkan_function found = watch.get(instance, name);
    if (!found) return found;
    if (strcmp(name, "vkCreateInstance") == 0) {
        int32_t(TNM_VULKAN_CALL * mine)(const tnm_vulkan_instance_info *, const void *,
                                        tnm_vulkan_vk_instance *) = watch_CreateInstance;
        memcpy(&watch.real.CreateInstance, &found, sizeof found);
        memcpy(&found, &mine, sizeof mine);
    } else if (strcmp(name, "vkDestroyInstance") == 0) {
        void(TNM_VULKAN_CALL * mine)(tnm_vulkan_vk_instance, const void *) = watch_DestroyInstance;
        memcpy(&watch.real.DestroyInstance, &found, sizeof found);
        memcpy(&found, &mine, sizeof mine);
    } else if (strcmp(name, "vkGetDeviceProcAddr") == 0) {
        tnm_vulkan_get_device_proc mine = watch_get_device;
        memcpy(&watch.real.GetDeviceProcAddr, &found, sizeof found);
        memcpy(&found, &mine, sizeof mine);
    }
    return found;
}

/* 1, or 0 = *why there is no Vulkan library. */
static inline int watch_begin(const char **why) {
    static tnm_vulkan loaded;
    memset(&watch, 0, sizeof watch);
    if (tnm_vulkan_load(&loaded, NULL) == TNM_OK) {
        watch.get = loaded.get_proc;
        return 1;
    }
    *why = loaded.error;
    return 0;
}

#endif
