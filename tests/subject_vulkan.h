/* subject_vulkan.h: Vulkan for the conformance kit, lavapipe included. Include tensormem.h,
 * examples/backends/vulkan.h and conformance.h before it. Where the validation layer is installed,
 * what it says is an error of the subject: see subject_vulkan_end. Under NDEBUG it is not asked. */
#ifndef TENSORMEM_TESTS_SUBJECT_VULKAN_H
#define TENSORMEM_TESTS_SUBJECT_VULKAN_H

#include "vulkan_watch.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__has_include)
#    if __has_include(<vulkan/vulkan_core.h>)
#        define VK_NO_PROTOTYPES
#        include <vulkan/vulkan_core.h>
#        define SUBJECT_VULKAN_KERNEL /* its shader needs more of the API than the backend */
#    endif
#endif

enum { SUBJECT_VULKAN_LAUNCHES = 64 };

typedef struct subject_vulkan_world {
    tnm_vulkan *vk;
#ifdef SUBJECT_VULKAN_KERNEL
    VkShaderModule shader;
    VkDescriptorSetLayout set_layout;
    VkPipelineLayout layout;
    VkPipeline pipeline;
    VkDescriptorPool sets;
    VkCommandPool pool;
    VkSemaphore done; /* the value is the number of the launch */
    VkDescriptorSet set[SUBJECT_VULKAN_LAUNCHES];
    VkCommandBuffer commands[SUBJECT_VULKAN_LAUNCHES];
    uint64_t launches;
#endif
} subject_vulkan_world;

static subject_vulkan_world subject_vulkan_the;

/* ---- a shader ---- */
#ifdef SUBJECT_VULKAN_KERNEL
/* #version 450
 * layout(local_size_x = 64) in;
 * layout(std430, binding = 0) buffer B { uint w[]; };
 * layout(push_constant) uniform P { uint bytes; uint add; };
 * void main() { // four bytes each, add is the same byte four times
 *     uint i = gl_GlobalInvocationID.x;
 *     if (4 * i >= bytes) return;
 *     uint v = w[i], left = bytes - 4 * i;
 *     uint mask = left >= 4 ? 0xffffffffu : (1u << (8 * left)) - 1;
 *     uint sum = ((v & 0x7f7f7f7fu) + (add & 0x7f7f7f7fu)) ^ ((v ^ add) & 0x80808080u);
 *     w[i] = (sum & mask) | (v & ~mask);
 * } */
static const uint32_t subject_vulkan_words[] = {
    0x7230203, 0x10000,    0x8000b,    0x61,       0,       0x20011,    1,       0x6000b,
    1,         0x4c534c47, 0x6474732e, 0x3035342e, 0,       0x3000e,    0,       1,
    0x6000f,   5,          4,          0x6e69616d, 0,       0xb,        0x60010, 4,
    0x11,      0x40,       1,          1,          0x40047, 0xb,        0xb,     0x1c,
    0x50048,   0x13,       0,          0x23,       0,       0x50048,    0x13,    1,
    0x23,      4,          0x30047,    0x13,       2,       0x40047,    0x21,    6,
    4,         0x50048,    0x22,       0,          0x23,    0,          0x30047, 0x22,
    3,         0x40047,    0x24,       0x22,       0,       0x40047,    0x24,    0x21,
    0,         0x40047,    0x59,       0xb,        0x19,    0x20013,    2,       0x30021,
    3,         2,          0x40015,    6,          0x20,    0,          0x40017, 9,
    6,         3,          0x40020,    0xa,        1,       9,          0x4003b, 0xa,
    0xb,       1,          0x4002b,    6,          0xc,     0,          0x40020, 0xd,
    1,         6,          0x4002b,    6,          0x10,    4,          0x4001e, 0x13,
    6,         6,          0x40020,    0x14,       9,       0x13,       0x4003b, 0x14,
    0x15,      9,          0x40015,    0x16,       0x20,    1,          0x4002b, 0x16,
    0x17,      0,          0x40020,    0x18,       9,       6,          0x20014, 0x1b,
    0x3001d,   0x21,       6,          0x3001e,    0x22,    0x21,       0x40020, 0x23,
    2,         0x22,       0x4003b,    0x23,       0x24,    2,          0x40020, 0x26,
    2,         6,          0x4002b,    6,          0x35,    0xffffffff, 0x4002b, 6,
    0x37,      1,          0x4002b,    6,          0x38,    8,          0x4002b, 6,
    0x40,      0x7f7f7f7f, 0x4002b,    0x16,       0x42,    1,          0x4002b, 6,
    0x4b,      0x80808080, 0x4002b,    6,          0x58,    0x40,       0x6002c, 9,
    0x59,      0x58,       0x37,       0x37,       0x50036, 2,          4,       0,
    3,         0x200f8,    5,          0x300f7,    0x5a,    0,          0x300fb, 0xc,
    0x5b,      0x200f8,    0x5b,       0x50041,    0xd,     0xe,        0xb,     0xc,
    0x4003d,   6,          0xf,        0xe,        0x50084, 6,          0x12,    0x10,
    0xf,       0x50041,    0x18,       0x19,       0x15,    0x17,       0x4003d, 6,
    0x1a,      0x19,       0x500ae,    0x1b,       0x1c,    0x12,       0x1a,    0x300f7,
    0x1e,      0,          0x400fa,    0x1c,       0x1d,    0x1e,       0x200f8, 0x1d,
    0x200f9,   0x5a,       0x200f8,    0x1e,       0x60041, 0x26,       0x27,    0x24,
    0x17,      0xf,        0x4003d,    6,          0x28,    0x27,       0x50082, 6,
    0x2e,      0x1a,       0x12,       0x500ae,    0x1b,    0x31,       0x2e,    0x10,
    0x300f7,   0x34,       0,          0x400fa,    0x31,    0x33,       0x36,    0x200f8,
    0x33,      0x200f9,    0x34,       0x200f8,    0x36,    0x50084,    6,       0x3a,
    0x38,      0x2e,       0x500c4,    6,          0x3b,    0x37,       0x3a,    0x50082,
    6,         0x3c,       0x3b,       0x37,       0x200f9, 0x34,       0x200f8, 0x34,
    0x700f5,   6,          0x60,       0x35,       0x33,    0x3c,       0x36,    0x500c7,
    6,         0x41,       0x28,       0x40,       0x50041, 0x18,       0x43,    0x15,
    0x42,      0x4003d,    6,          0x44,       0x43,    0x500c7,    6,       0x45,
    0x44,      0x40,       0x50080,    6,          0x46,    0x41,       0x45,    0x500c6,
    6,         0x4a,       0x28,       0x44,       0x500c7, 6,          0x4c,    0x4a,
    0x4b,      0x500c6,    6,          0x4d,       0x46,    0x4c,       0x500c7, 6,
    0x51,      0x4d,       0x60,       0x400c8,    6,       0x54,       0x60,    0x500c7,
    6,         0x55,       0x28,       0x54,       0x500c5, 6,          0x56,    0x51,
    0x55,      0x3003e,    0x27,       0x56,       0x200f9, 0x5a,       0x200f8, 0x5a,
    0x100fd,   0x10038
};

#    define SUBJECT_VULKAN_CALL(name, ...)                                                         \
        do {                                                                                       \
            PFN_vk##name call;                                                                     \
            if (tnm_vulkan_find_call(w->vk, "vk" #name, &call, sizeof call)) call(__VA_ARGS__);    \
        } while (0)

static inline void subject_vulkan_shader(subject_vulkan_world *w) {
    VkDevice device = tnm_vulkan_device(w->vk);
    VkShaderModuleCreateInfo code;
    VkDescriptorSetLayoutBinding binding;
    VkDescriptorSetLayoutCreateInfo bindings;
    VkPushConstantRange range;
    VkPipelineLayoutCreateInfo layout;
    VkComputePipelineCreateInfo pipeline;
    memset(&code, 0, sizeof code);
    memset(&binding, 0, sizeof binding);
    memset(&bindings, 0, sizeof bindings);
    memset(&layout, 0, sizeof layout);
    memset(&pipeline, 0, sizeof pipeline);
    code.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO;
    code.codeSize = sizeof subject_vulkan_words;
    code.pCode = subject_vulkan_words;
    SUBJECT_VULKAN_CALL(CreateShaderModule, device, &code, NULL, &w->shader);
    binding.descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
    binding.descriptorCount = 1;
    binding.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT;
    bindings.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO;
    bindings.bindingCount = 1;
    bindings.pBindings = &binding;
    SUBJECT_VULKAN_CALL(CreateDescriptorSetLayout, device, &bindings, NULL, &w->set_layout);
    range.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT;
    range.offset = 0;
    range.size = 8;
    layout.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO;
    layout.setLayoutCount = 1;
    layout.pSetLayouts = &w->set_layout;
    layout.pushConstantRangeCount = 1;
    layout.pPushConstantRanges = &range;
    SUBJECT_VULKAN_CALL(CreatePipelineLayout, device, &layout, NULL, &w->layout);
    pipeline.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO;
    pipeline.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
    pipeline.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
    pipeline.stage.module = w->shader;
    pipeline.stage.pName = "main";
    pipeline.layout = w->layout;
    SUBJECT_VULKAN_CALL(CreateComputePipelines, device, VK_NULL_HANDLE, 1, &pipeline, NULL,
                        &w->pipeline);
}

/* The shader, and a set and a command buffer for each launch that may be out. */
static inline int subject_vulkan_build(subject_vulkan_world *w) {
    VkDevice device = tnm_vulkan_device(w->vk);
    VkDescriptorPoolSize size;
    VkDescriptorPoolCreateInfo sets;
    VkDescriptorSetAllocateInfo set;
    if (w->pipeline) return 1;
    subject_vulkan_shader(w);
    size.type = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
    size.descriptorCount = SUBJECT_VULKAN_LAUNCHES;
    memset(&sets, 0, sizeof sets);
    sets.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO;
    sets.maxSets = SUBJECT_VULKAN_LAUNCHES;
    sets.poolSizeCount = 1;
    sets.pPoolSizes = &size;
    SUBJECT_VULKAN_CALL(CreateDescriptorPool, device, &sets, NULL, &w->sets);
    memset(&set, 0, sizeof set);
    set.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO;
    set.descriptorPool = w->sets;
    set.descriptorSetCount = 1;
    set.pSetLayouts = &w->set_layout;
    for (int i = 0; i < SUBJECT_VULKAN_LAUNCHES; i++)
        SUBJECT_VULKAN_CALL(AllocateDescriptorSets, device, &set, &w->set[i]);
    uint32_t family = 0;
    (void)tnm_vulkan_queue(w->vk, 0, &family);
    return w->pipeline && tnm_vulkan_timeline(w->vk, &w->done) == 0 &&
           tnm_vulkan_commands(w->vk, family, SUBJECT_VULKAN_LAUNCHES, &w->pool, w->commands) == 0;
}

static inline void subject_vulkan_unbuild(subject_vulkan_world *w) {
    VkDevice device = tnm_vulkan_device(w->vk);
    if (!w->pipeline) return;
    SUBJECT_VULKAN_CALL(DeviceWaitIdle, device);
    SUBJECT_VULKAN_CALL(DestroyPipeline, device, w->pipeline, NULL);
    SUBJECT_VULKAN_CALL(DestroyPipelineLayout, device, w->layout, NULL);
    SUBJECT_VULKAN_CALL(DestroyDescriptorPool, device, w->sets, NULL);
    SUBJECT_VULKAN_CALL(DestroyDescriptorSetLayout, device, w->set_layout, NULL);
    SUBJECT_VULKAN_CALL(DestroyShaderModule, device, w->shader, NULL);
    SUBJECT_VULKAN_CALL(DestroyCommandPool, device, w->pool, NULL);
    SUBJECT_VULKAN_CALL(DestroySemaphore, device, w->done, NULL);
    memset(w, 0, sizeof *w);
}

static inline void subject_vulkan_record(subject_vulkan_world *w, VkCommandBuffer commands,
                                         VkDescriptorSet set, const tnm_pinned *at, uint8_t add) {
    VkDescriptorBufferInfo buffer;
    VkWriteDescriptorSet write;
    VkMemoryBarrier barrier;
    uint32_t push[2];
    push[0] = (uint32_t)at->bytes;
    push[1] = add * 0x01010101u;
    buffer.buffer = tnm_vulkan_buffer(w->vk, at->mem);
    buffer.offset = at->offset;
    buffer.range = (at->bytes + 3) / 4 * 4;
    memset(&write, 0, sizeof write);
    write.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET;
    write.dstSet = set;
    write.descriptorCount = 1;
    write.descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
    write.pBufferInfo = &buffer;
    SUBJECT_VULKAN_CALL(UpdateDescriptorSets, tnm_vulkan_device(w->vk), 1, &write, 0, NULL);
    memset(&barrier, 0, sizeof barrier); /* a kernel on the same bytes may be before it */
    barrier.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
    barrier.srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT;
    barrier.dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT;
    SUBJECT_VULKAN_CALL(CmdPipelineBarrier, commands, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
                        VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, 0, 1, &barrier, 0, NULL, 0, NULL);
    SUBJECT_VULKAN_CALL(CmdBindPipeline, commands, VK_PIPELINE_BIND_POINT_COMPUTE, w->pipeline);
    SUBJECT_VULKAN_CALL(CmdBindDescriptorSets, commands, VK_PIPELINE_BIND_POINT_COMPUTE, w->layout,
                        0, 1, &set, 0, NULL);
    SUBJECT_VULKAN_CALL(CmdPushConstants, commands, w->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, 8,
                        push);
    SUBJECT_VULKAN_CALL(CmdDispatch, commands, (uint32_t)((at->bytes + 255) / 256), 1, 1);
}

/* As an application does it: its submission waits for what brought the bytes. */
static inline int subject_vulkan_work(void *user, uint32_t queue, const tnm_pinned *at,
                                      uint8_t add) {
    subject_vulkan_world *w = (subject_vulkan_world *)user;
    VkTimelineSemaphoreSubmitInfo values;
    VkCommandBufferBeginInfo begin;
    VkSubmitInfo info;
    VkPipelineStageFlags stage = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT;
    uint64_t waited;
    if (watch.dead || !subject_vulkan_build(w)) return 0;
    VkCommandBuffer commands = w->commands[w->launches % SUBJECT_VULKAN_LAUNCHES];
    VkDescriptorSet set = w->set[w->launches % SUBJECT_VULKAN_LAUNCHES];
    if (w->launches >= SUBJECT_VULKAN_LAUNCHES)
        (void)tnm_vulkan_sleep(w->vk, w->done, w->launches - SUBJECT_VULKAN_LAUNCHES + 1,
                               UINT64_MAX);
    memset(&begin, 0, sizeof begin);
    begin.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
    SUBJECT_VULKAN_CALL(BeginCommandBuffer, commands, &begin);
    subject_vulkan_record(w, commands, set, at, add);
    SUBJECT_VULKAN_CALL(EndCommandBuffer, commands);
    uint64_t value = ++w->launches;
    VkSemaphore wait = tnm_vulkan_semaphore(w->vk, &waited);
    memset(&values, 0, sizeof values);
    values.sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO;
    values.waitSemaphoreValueCount = values.signalSemaphoreValueCount = 1;
    values.pWaitSemaphoreValues = &waited;
    values.pSignalSemaphoreValues = &value;
    memset(&info, 0, sizeof info);
    info.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
    info.pNext = &values;
    info.waitSemaphoreCount = info.commandBufferCount = info.signalSemaphoreCount = 1;
    info.pWaitSemaphores = &wait;
    info.pWaitDstStageMask = &stage;
    info.pCommandBuffers = &commands;
    info.pSignalSemaphores = &w->done;
    tnm_vulkan_lock(w->vk);
    PFN_vkQueueSubmit submit;
    int good = tnm_vulkan_find_call(w->vk, "vkQueueSubmit", &submit, sizeof submit) &&
               submit(tnm_vulkan_queue(w->vk, queue, NULL), 1, &info, VK_NULL_HANDLE) == 0;
    tnm_vulkan_unlock(w->vk);
    return good;
}
#else
#    define subject_vulkan_work NULL
static inline void subject_vulkan_unbuild(subject_vulkan_world *w) {
    (void)w;
}
#endif

/* ---- the runtime's own copy ---- */
#ifdef CLOCK_MONOTONIC
static inline double subject_vulkan_clock(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Between pinned places, in one command buffer and one submission. */
static inline double subject_vulkan_pairs(void *user, int to_device, const tnm_pinned *device,
                                          const tnm_pinned *host, int count) {
    tnm_vulkan *vk = ((subject_vulkan_world *)user)->vk;
    const tnm_vulkan_line *line = &vk->way[to_device ? TNM_VULKAN_UP : TNM_VULKAN_DOWN].line;
    tnm_vulkan_vk_semaphore done;
    tnm_vulkan_vk_commands commands;
    tnm_vulkan_vk_pool pool;
    tnm_vulkan_begin_info begin;
    double took = -1;
    if (tnm_vulkan_timeline(vk, &done) != 0) return -1;
    if (tnm_vulkan_commands(vk, line->family, 1, &pool, &commands) == 0) {
        double since = subject_vulkan_clock();
        memset(&begin, 0, sizeof begin);
        begin.type = TNM_VULKAN_IS_BEGIN;
        (void)vk->api.BeginCommandBuffer(commands, &begin);
        for (int i = 0; i < count; i++) {
            tnm_vulkan_vk_buffer there = tnm_vulkan_buffer(vk, device[i].mem),
                                 here = tnm_vulkan_buffer(vk, host[i].mem);
            tnm_vulkan_region region;
            region.from = to_device ? host[i].offset : device[i].offset;
            region.to = to_device ? device[i].offset : host[i].offset;
            region.size = device[i].bytes;
            vk->api.CmdCopyBuffer(commands, to_device ? here : there, to_device ? there : here, 1,
                                  &region);
        }
        (void)vk->api.EndCommandBuffer(commands);
        tnm_vulkan_lock(vk);
        int32_t code = tnm_vulkan_send(vk, line->queue, commands, done, 1, 0);
        tnm_vulkan_unlock(vk);
        if (code == 0 && tnm_vulkan_sleep(vk, done, 1, UINT64_MAX) == 0)
            took = subject_vulkan_clock() - since;
        vk->api.DestroyCommandPool(vk->device, pool, NULL);
    }
    vk->api.DestroySemaphore(vk->device, done, NULL);
    return took;
}
#else
#    define subject_vulkan_pairs NULL
#endif

/* ---- the subject ---- */
static inline uint64_t subject_vulkan_mark(void *user, uint32_t queue) {
    return tnm_vulkan_mark(((subject_vulkan_world *)user)->vk, queue);
}

static inline uint64_t subject_vulkan_passed(void *user, uint32_t queue, uint64_t wait_for) {
    return tnm_vulkan_passed(((subject_vulkan_world *)user)->vk, queue, wait_for);
}

static inline uint64_t subject_vulkan_live(void *user) {
    (void)user;
    return watch.live;
}

static inline void subject_vulkan_fail(void *user, const char *call, int nth, int code) {
    (void)user;
    watch_fail(call, nth, code);
}

/* What runs has run when a device is gone: nobody writes any more. */
static inline void subject_vulkan_lose(void *user) {
    tnm_vulkan *vk = ((subject_vulkan_world *)user)->vk;
    (void)vk->api.DeviceWaitIdle(vk->device);
    watch.dead = 1;
}

static inline int subject_vulkan_again(void *user, conform_subject *out);

static inline int subject_vulkan_start(conform_subject *out) {
    static const char *const calls[] = { "vkCreateBuffer",       "vkAllocateMemory",
                                         "vkBindBufferMemory",   "vkMapMemory",
                                         "vkBeginCommandBuffer", "vkEndCommandBuffer",
                                         "vkQueueSubmit",        "vkGetSemaphoreCounterValue",
                                         "vkWaitSemaphores",     NULL };
    subject_vulkan_world *w = &subject_vulkan_the;
    tnm_vulkan_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.queues = 2;
    desc.get_proc = watch_get;
    if (tnm_vulkan_open(&desc, &w->vk) != TNM_OK) return 0;
    memset(out, 0, sizeof *out);
    out->name = "vulkan";
    tnm_vulkan_backend(w->vk, &out->device);
    tnm_vulkan_host(w->vk, &out->host);
    out->alignment = tnm_vulkan_alignment(w->vk);
    out->queues = 2;
    out->passed = subject_vulkan_passed;
    out->mark = subject_vulkan_mark;
    out->work = subject_vulkan_work;
    out->live = subject_vulkan_live;
    out->fail = subject_vulkan_fail;
    out->lose = subject_vulkan_lose;
    out->again = subject_vulkan_again;
    out->raw_pairs_s = subject_vulkan_pairs;
    out->calls = calls;
    out->user = w;
    out->real = 1;
    return 1;
}

/* How many subjects; 0 = *why there is none. */
static inline int subject_vulkan(conform_subject *out, const char **why) {
    *why = "";
    memset(&subject_vulkan_the, 0, sizeof subject_vulkan_the);
    if (!watch_begin(why)) return 0;
    if (subject_vulkan_start(out)) return 1;
    *why = tnm_vulkan_error(NULL);
    return 0;
}

static inline void subject_vulkan_end(conform_subject *s) {
    subject_vulkan_world *w = (subject_vulkan_world *)s->user;
    tnm_vulkan *vk = w->vk;
    subject_vulkan_unbuild(w);
    tnm_vulkan_close(vk);
    w->vk = NULL;
    if (watch.said == 0) return;
    printf("conform vulkan: the validation layer has said %ld things\n", watch.said);
#ifdef TENSORMEM_TESTS_CHECK_H
    check_failed++;
#endif
}

static inline int subject_vulkan_again(void *user, conform_subject *out) {
    conform_subject dead;
    dead.user = user;
    subject_vulkan_end(&dead);
    watch.dead = watch.nth = 0;
    return subject_vulkan_start(out);
}

#endif
