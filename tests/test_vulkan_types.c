/* The declarations of examples/backends/vulkan.h are the vendor's, field for field: where Debian's
 * libvulkan-dev or an SDK has put <vulkan/vulkan_core.h>.
 * needs: below */
/* needs: -ldl */
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include "examples/backends/vulkan.h"
#include "check.h"
#ifdef __has_include
#    if __has_include(<vulkan/vulkan_core.h>)
#        include <vulkan/vulkan_core.h> /* after it: the handles are the same types */
#    endif
#endif

#ifdef VULKAN_CORE_H_

#    define SIZE(ours, theirs) CHECK_EQ(sizeof(tnm_vulkan_##ours), sizeof(theirs))
#    define FIELD(ours, field, theirs, member)                                                     \
        do {                                                                                       \
            tnm_vulkan_##ours mine;                                                                \
            theirs its;                                                                            \
            CHECK_EQ(offsetof(tnm_vulkan_##ours, field), offsetof(theirs, member));                \
            CHECK_EQ(sizeof mine.field, sizeof its.member);                                        \
        } while (0)

TEST(handles_are_the_vendors_own) { /* assigned without a cast: or it does not build */
    VkInstance instance = NULL;
    VkPhysicalDevice physical = NULL;
    VkDevice device = NULL;
    VkQueue queue = NULL;
    VkCommandBuffer commands = NULL;
    VkBuffer buffer = VK_NULL_HANDLE;
    VkDeviceMemory memory = VK_NULL_HANDLE;
    VkSemaphore semaphore = VK_NULL_HANDLE;
    VkCommandPool pool = VK_NULL_HANDLE;
    VkFence fence = VK_NULL_HANDLE;
    tnm_vulkan_vk_instance *a = &instance;
    tnm_vulkan_vk_physical *b = &physical;
    tnm_vulkan_vk_device *c = &device;
    tnm_vulkan_vk_queue *d = &queue;
    tnm_vulkan_vk_commands *e = &commands;
    tnm_vulkan_vk_buffer *f = &buffer;
    tnm_vulkan_vk_memory *g = &memory;
    tnm_vulkan_vk_semaphore *h = &semaphore;
    tnm_vulkan_vk_pool *i = &pool;
    tnm_vulkan_vk_fence *j = &fence;
    CHECK(!*a && !*b && !*c && !*d && !*e && !*f && !*g && !*h && !*i && !*j);
}

TEST(what_describes_the_device_is_the_vendors) {
    SIZE(application, VkApplicationInfo);
    FIELD(application, engine, VkApplicationInfo, pEngineName);
    FIELD(application, api, VkApplicationInfo, apiVersion);
    SIZE(instance_info, VkInstanceCreateInfo);
    FIELD(instance_info, application, VkInstanceCreateInfo, pApplicationInfo);
    FIELD(instance_info, layers, VkInstanceCreateInfo, enabledLayerCount);
    FIELD(instance_info, extension, VkInstanceCreateInfo, ppEnabledExtensionNames);
    SIZE(limits, VkPhysicalDeviceLimits);
    FIELD(limits, allocations, VkPhysicalDeviceLimits, maxMemoryAllocationCount);
    FIELD(limits, map_alignment, VkPhysicalDeviceLimits, minMemoryMapAlignment);
    FIELD(limits, texel_alignment, VkPhysicalDeviceLimits, minTexelBufferOffsetAlignment);
    FIELD(limits, uniform_alignment, VkPhysicalDeviceLimits, minUniformBufferOffsetAlignment);
    FIELD(limits, storage_alignment, VkPhysicalDeviceLimits, minStorageBufferOffsetAlignment);
    FIELD(limits, copy_alignment, VkPhysicalDeviceLimits, optimalBufferCopyOffsetAlignment);
    FIELD(limits, atom, VkPhysicalDeviceLimits, nonCoherentAtomSize);
    SIZE(properties, VkPhysicalDeviceProperties2);
    FIELD(properties, is, VkPhysicalDeviceProperties2, properties);
    FIELD(properties, is.api, VkPhysicalDeviceProperties2, properties.apiVersion);
    FIELD(properties, is.kind, VkPhysicalDeviceProperties2, properties.deviceType);
    FIELD(properties, is.name, VkPhysicalDeviceProperties2, properties.deviceName);
    FIELD(properties, is.limits, VkPhysicalDeviceProperties2, properties.limits);
    SIZE(maintenance3, VkPhysicalDeviceMaintenance3Properties);
    FIELD(maintenance3, allocation, VkPhysicalDeviceMaintenance3Properties,
          maxMemoryAllocationSize);
    SIZE(features, VkPhysicalDeviceFeatures2);
    FIELD(features, all, VkPhysicalDeviceFeatures2, features);
    SIZE(timeline_features, VkPhysicalDeviceTimelineSemaphoreFeatures);
    FIELD(timeline_features, timeline, VkPhysicalDeviceTimelineSemaphoreFeatures,
          timelineSemaphore);
    SIZE(family, VkQueueFamilyProperties);
    FIELD(family, flags, VkQueueFamilyProperties, queueFlags);
    FIELD(family, count, VkQueueFamilyProperties, queueCount);
    SIZE(extension, VkExtensionProperties);
    FIELD(extension, name, VkExtensionProperties, extensionName);
    SIZE(queue_info, VkDeviceQueueCreateInfo);
    FIELD(queue_info, family, VkDeviceQueueCreateInfo, queueFamilyIndex);
    FIELD(queue_info, count, VkDeviceQueueCreateInfo, queueCount);
    FIELD(queue_info, priorities, VkDeviceQueueCreateInfo, pQueuePriorities);
    SIZE(device_info, VkDeviceCreateInfo);
    FIELD(device_info, queues, VkDeviceCreateInfo, queueCreateInfoCount);
    FIELD(device_info, queue, VkDeviceCreateInfo, pQueueCreateInfos);
    FIELD(device_info, extensions, VkDeviceCreateInfo, enabledExtensionCount);
    FIELD(device_info, extension, VkDeviceCreateInfo, ppEnabledExtensionNames);
}

TEST(what_describes_memory_is_the_vendors) {
    SIZE(memory, VkPhysicalDeviceMemoryProperties2);
    FIELD(memory, kinds, VkPhysicalDeviceMemoryProperties2, memoryProperties.memoryTypeCount);
    FIELD(memory, kind, VkPhysicalDeviceMemoryProperties2, memoryProperties.memoryTypes);
    FIELD(memory, kind[1].flags, VkPhysicalDeviceMemoryProperties2,
          memoryProperties.memoryTypes[1].propertyFlags);
    FIELD(memory, kind[1].heap, VkPhysicalDeviceMemoryProperties2,
          memoryProperties.memoryTypes[1].heapIndex);
    FIELD(memory, heap, VkPhysicalDeviceMemoryProperties2, memoryProperties.memoryHeaps);
    FIELD(memory, heap[1].size, VkPhysicalDeviceMemoryProperties2,
          memoryProperties.memoryHeaps[1].size);
    SIZE(budget, VkPhysicalDeviceMemoryBudgetPropertiesEXT);
    FIELD(budget, budget, VkPhysicalDeviceMemoryBudgetPropertiesEXT, heapBudget);
    FIELD(budget, usage, VkPhysicalDeviceMemoryBudgetPropertiesEXT, heapUsage);
    SIZE(buffer_info, VkBufferCreateInfo);
    FIELD(buffer_info, size, VkBufferCreateInfo, size);
    FIELD(buffer_info, usage, VkBufferCreateInfo, usage);
    FIELD(buffer_info, sharing, VkBufferCreateInfo, sharingMode);
    FIELD(buffer_info, families, VkBufferCreateInfo, queueFamilyIndexCount);
    FIELD(buffer_info, family, VkBufferCreateInfo, pQueueFamilyIndices);
    SIZE(requirements, VkMemoryRequirements);
    FIELD(requirements, alignment, VkMemoryRequirements, alignment);
    FIELD(requirements, kinds, VkMemoryRequirements, memoryTypeBits);
    SIZE(allocate_info, VkMemoryAllocateInfo);
    FIELD(allocate_info, size, VkMemoryAllocateInfo, allocationSize);
    FIELD(allocate_info, kind, VkMemoryAllocateInfo, memoryTypeIndex);
    SIZE(allocate_flags, VkMemoryAllocateFlagsInfo);
    FIELD(allocate_flags, flags, VkMemoryAllocateFlagsInfo, flags);
#    ifdef VK_VERSION_1_3
    SIZE(maintenance4, VkPhysicalDeviceMaintenance4Properties);
    FIELD(maintenance4, buffer, VkPhysicalDeviceMaintenance4Properties, maxBufferSize);
#    endif
}

TEST(what_describes_work_is_the_vendors) {
    SIZE(pool_info, VkCommandPoolCreateInfo);
    FIELD(pool_info, family, VkCommandPoolCreateInfo, queueFamilyIndex);
    SIZE(commands_info, VkCommandBufferAllocateInfo);
    FIELD(commands_info, pool, VkCommandBufferAllocateInfo, commandPool);
    FIELD(commands_info, level, VkCommandBufferAllocateInfo, level);
    FIELD(commands_info, count, VkCommandBufferAllocateInfo, commandBufferCount);
    SIZE(begin_info, VkCommandBufferBeginInfo);
    FIELD(begin_info, flags, VkCommandBufferBeginInfo, flags);
    SIZE(region, VkBufferCopy);
    FIELD(region, from, VkBufferCopy, srcOffset);
    FIELD(region, to, VkBufferCopy, dstOffset);
    FIELD(region, size, VkBufferCopy, size);
    SIZE(barrier, VkMemoryBarrier);
    FIELD(barrier, from, VkMemoryBarrier, srcAccessMask);
    FIELD(barrier, to, VkMemoryBarrier, dstAccessMask);
    SIZE(semaphore_type, VkSemaphoreTypeCreateInfo);
    FIELD(semaphore_type, kind, VkSemaphoreTypeCreateInfo, semaphoreType);
    FIELD(semaphore_type, value, VkSemaphoreTypeCreateInfo, initialValue);
    SIZE(semaphore_info, VkSemaphoreCreateInfo);
    SIZE(timeline_submit, VkTimelineSemaphoreSubmitInfo);
    FIELD(timeline_submit, waits, VkTimelineSemaphoreSubmitInfo, waitSemaphoreValueCount);
    FIELD(timeline_submit, wait, VkTimelineSemaphoreSubmitInfo, pWaitSemaphoreValues);
    FIELD(timeline_submit, signals, VkTimelineSemaphoreSubmitInfo, signalSemaphoreValueCount);
    FIELD(timeline_submit, signal, VkTimelineSemaphoreSubmitInfo, pSignalSemaphoreValues);
    SIZE(submit_info, VkSubmitInfo);
    FIELD(submit_info, waits, VkSubmitInfo, waitSemaphoreCount);
    FIELD(submit_info, wait, VkSubmitInfo, pWaitSemaphores);
    FIELD(submit_info, stages, VkSubmitInfo, pWaitDstStageMask);
    FIELD(submit_info, count, VkSubmitInfo, commandBufferCount);
    FIELD(submit_info, commands, VkSubmitInfo, pCommandBuffers);
    FIELD(submit_info, signals, VkSubmitInfo, signalSemaphoreCount);
    FIELD(submit_info, signal, VkSubmitInfo, pSignalSemaphores);
    SIZE(wait_info, VkSemaphoreWaitInfo);
    FIELD(wait_info, count, VkSemaphoreWaitInfo, semaphoreCount);
    FIELD(wait_info, semaphore, VkSemaphoreWaitInfo, pSemaphores);
    FIELD(wait_info, value, VkSemaphoreWaitInfo, pValues);
}

/* The calls by their parameters' sizes, in order: pointers to structs are ours by design. */
TEST(numbers_are_the_vendors) {
    static const long long pairs[][2] = {
        { TNM_VULKAN_IS_APPLICATION, VK_STRUCTURE_TYPE_APPLICATION_INFO },
        { TNM_VULKAN_IS_INSTANCE, VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO },
        { TNM_VULKAN_IS_QUEUE, VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO },
        { TNM_VULKAN_IS_DEVICE, VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO },
        { TNM_VULKAN_IS_SUBMIT, VK_STRUCTURE_TYPE_SUBMIT_INFO },
        { TNM_VULKAN_IS_ALLOCATE, VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO },
        { TNM_VULKAN_IS_SEMAPHORE, VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO },
        { TNM_VULKAN_IS_BUFFER, VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO },
        { TNM_VULKAN_IS_POOL, VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO },
        { TNM_VULKAN_IS_COMMANDS, VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO },
        { TNM_VULKAN_IS_BEGIN, VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO },
        { TNM_VULKAN_IS_BARRIER, VK_STRUCTURE_TYPE_MEMORY_BARRIER },
        { TNM_VULKAN_IS_FEATURES, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2 },
        { TNM_VULKAN_IS_PROPERTIES, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2 },
        { TNM_VULKAN_IS_MEMORY, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2 },
        { TNM_VULKAN_IS_ALLOCATE_FLAGS, VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO },
        { TNM_VULKAN_IS_MAINTENANCE3, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES },
        { TNM_VULKAN_IS_TIMELINE_FEATURES,
          VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES },
        { TNM_VULKAN_IS_SEMAPHORE_TYPE, VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO },
        { TNM_VULKAN_IS_TIMELINE_SUBMIT, VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO },
        { TNM_VULKAN_IS_WAIT, VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO },
        { TNM_VULKAN_IS_BUDGET, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT },
#    ifdef VK_VERSION_1_3
        { TNM_VULKAN_IS_MAINTENANCE4, VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_4_PROPERTIES },
        { TNM_VULKAN_VERSION(3), VK_API_VERSION_1_3 },
#    endif
        { TNM_VULKAN_VERSION(1), VK_API_VERSION_1_1 },
        { TNM_VULKAN_DEVICE_LOST, VK_ERROR_DEVICE_LOST },
        { TNM_VULKAN_QUEUE_COMPUTE, VK_QUEUE_COMPUTE_BIT },
        { TNM_VULKAN_QUEUE_TRANSFER, VK_QUEUE_TRANSFER_BIT },
        { TNM_VULKAN_DEVICE_LOCAL, VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT },
        { TNM_VULKAN_HOST_VISIBLE, VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT },
        { TNM_VULKAN_HOST_COHERENT, VK_MEMORY_PROPERTY_HOST_COHERENT_BIT },
        { TNM_VULKAN_HOST_CACHED, VK_MEMORY_PROPERTY_HOST_CACHED_BIT },
        { TNM_VULKAN_USAGES, VK_BUFFER_USAGE_INDIRECT_BUFFER_BIT * 2 - 1 },
        { TNM_VULKAN_USAGE_ADDRESS, VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT },
        { TNM_VULKAN_ALLOCATE_ADDRESS, VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT },
        { TNM_VULKAN_CONCURRENT, VK_SHARING_MODE_CONCURRENT },
        { TNM_VULKAN_INTEGRATED, VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU },
        { TNM_VULKAN_CPU, VK_PHYSICAL_DEVICE_TYPE_CPU },
        { TNM_VULKAN_STAGE_TRANSFER, VK_PIPELINE_STAGE_TRANSFER_BIT },
        { TNM_VULKAN_STAGE_HOST, VK_PIPELINE_STAGE_HOST_BIT },
        { TNM_VULKAN_STAGE_ALL, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT },
        { TNM_VULKAN_TRANSFER_WRITE, VK_ACCESS_TRANSFER_WRITE_BIT },
        { TNM_VULKAN_HOST_READ, VK_ACCESS_HOST_READ_BIT },
        { TNM_VULKAN_MEMORY_WRITE, VK_ACCESS_MEMORY_WRITE_BIT },
        { TNM_VULKAN_POOL_RESET, VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT },
        { TNM_VULKAN_ONE_TIME, VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT },
        { TNM_VULKAN_SIMULTANEOUS, VK_COMMAND_BUFFER_USAGE_SIMULTANEOUS_USE_BIT },
        { TNM_VULKAN_TIMELINE, VK_SEMAPHORE_TYPE_TIMELINE },
        { VK_COMMAND_BUFFER_LEVEL_PRIMARY, 0 },
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        if (pairs[i][0] != pairs[i][1]) printf("pair %d\n", (int)i);
        CHECK_EQ(pairs[i][0], pairs[i][1]);
    }
}

TEST(codes_have_their_names) {
#    define NAMED(code) CHECK(strcmp(tnm_vulkan_code(code), #    code) == 0)
    NAMED(VK_TIMEOUT);
    NAMED(VK_ERROR_OUT_OF_HOST_MEMORY);
    NAMED(VK_ERROR_OUT_OF_DEVICE_MEMORY);
    NAMED(VK_ERROR_INITIALIZATION_FAILED);
    NAMED(VK_ERROR_DEVICE_LOST);
    NAMED(VK_ERROR_MEMORY_MAP_FAILED);
    NAMED(VK_ERROR_EXTENSION_NOT_PRESENT);
    NAMED(VK_ERROR_FEATURE_NOT_PRESENT);
    NAMED(VK_ERROR_INCOMPATIBLE_DRIVER);
    NAMED(VK_ERROR_TOO_MANY_OBJECTS);
    NAMED(VK_ERROR_UNKNOWN);
    CHECK(tnm_vulkan_code(-9999) != NULL);
}

/* From here on our structs bear the vendor's names, and so the parameters of our calls do. */
#    define tnm_vulkan_none           VkAllocationCallbacks
#    define tnm_vulkan_one_barrier    VkBufferMemoryBarrier
#    define tnm_vulkan_image_barrier  VkImageMemoryBarrier
#    define tnm_vulkan_properties     VkPhysicalDeviceProperties2
#    define tnm_vulkan_features       VkPhysicalDeviceFeatures2
#    define tnm_vulkan_memory         VkPhysicalDeviceMemoryProperties2
#    define tnm_vulkan_family         VkQueueFamilyProperties
#    define tnm_vulkan_extension      VkExtensionProperties
#    define tnm_vulkan_device_info    VkDeviceCreateInfo
#    define tnm_vulkan_buffer_info    VkBufferCreateInfo
#    define tnm_vulkan_requirements   VkMemoryRequirements
#    define tnm_vulkan_allocate_info  VkMemoryAllocateInfo
#    define tnm_vulkan_pool_info      VkCommandPoolCreateInfo
#    define tnm_vulkan_commands_info  VkCommandBufferAllocateInfo
#    define tnm_vulkan_begin_info     VkCommandBufferBeginInfo
#    define tnm_vulkan_region         VkBufferCopy
#    define tnm_vulkan_barrier        VkMemoryBarrier
#    define tnm_vulkan_submit_info    VkSubmitInfo
#    define tnm_vulkan_semaphore_info VkSemaphoreCreateInfo
#    define tnm_vulkan_wait_info      VkSemaphoreWaitInfo
#    define SAME(result, name, parameters)                                                         \
        {                                                                                          \
            PFN_vk##name vendor = NULL;                                                            \
            result(TNM_VULKAN_CALL *ours) parameters = vendor; /* no cast: or it does not build */ \
            CHECK(ours == NULL);                                                                   \
        }

TEST(every_call_is_the_vendors) {
    TNM_VULKAN_INSTANCE_CALLS(SAME)
    TNM_VULKAN_DEVICE_CALLS(SAME)
}
#endif

int main(void) {
#ifdef VULKAN_CORE_H_
    RUN(handles_are_the_vendors_own);
    RUN(what_describes_the_device_is_the_vendors);
    RUN(what_describes_memory_is_the_vendors);
    RUN(what_describes_work_is_the_vendors);
    RUN(numbers_are_the_vendors);
    RUN(codes_have_their_names);
    RUN(every_call_is_the_vendors);
#else
    SKIP("vulkan_types", "vulkan/vulkan_core.h is not installed");
#endif
    return check_done();
}
