/* needs: tensormem.o -ldl -pthread */
/* examples/backends/vulkan.h from outside: over whatever Vulkan shows first, lavapipe in the gate,
 * under the validation layer: one word of it fails the test. That it keeps the contract is
 * tests/conformance.c's; here is what is Vulkan's own. */
#define _POSIX_C_SOURCE 200809L
#include "tensormem.h"
#include "examples/backends/vulkan.h"
#include "check.h"
#include "vulkan_watch.h"

#define RT(name) tnm_vulkan_##name
typedef tnm_vulkan device;
typedef tnm_vulkan_desc device_desc;
enum { HALF = 50000, REST = 50000 }; /* fills are of words */
#include "device.h"

static uint64_t kept; /* allocations of the device that stays open all the time: see main */

static tnm_vulkan *opened_with(tnm_vulkan_desc *desc) {
    tnm_vulkan *vk;
    desc->get_proc = watch_get;
    tnm_result r = tnm_vulkan_open(desc, &vk);
    if (r != TNM_OK) printf("%s\n", tnm_vulkan_error(NULL));
    CHECK_EQ(r, TNM_OK);
    if (r != TNM_OK) exit(1);
    return vk;
}

static tnm_vulkan *opened(void) {
    tnm_vulkan_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.queues = 2;
    return opened_with(&desc);
}

static device *a_device(void) {
    return opened();
}

static void nothing_is_left(void) {
    CHECK_EQ(watch.live, kept);
}

/* ---- open and close ---- */
TEST(what_cannot_be_opened_says_why) {
    tnm_vulkan_desc desc;
    refused_as_any(&desc, "vkGetInstanceProcAddr");
    desc.queues = TNM_VULKAN_QUEUES + 1;
    refused(&desc, "queues");
    desc.queues = 0;
    desc.logical = (tnm_vulkan_vk_device)(uintptr_t)64;
    refused(&desc, "compute");
}

static tnm_vulkan_function TNM_VULKAN_CALL get_less(tnm_vulkan_vk_instance instance,
                                                    const char *name) {
    const char *without = getenv("WITHOUT_CALL");
    return strcmp(name, without) == 0 ? NULL : watch.get(instance, name);
}

TEST(a_runtime_that_lacks_a_call_is_refused) {
    static const char *const lacks[][2] = { { "vkEnumerateInstanceVersion", "1.0" },
                                            { "vkCreateInstance", "vkCreateInstance" },
                                            { "vkCreateDevice", "vkCreateDevice" },
                                            { "vkDestroyInstance", "vkDestroyInstance" } };
    tnm_vulkan_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.get_proc = get_less;
    for (int i = 0; i < 3; i++) { /* the last is what ends an instance: see the list */
        setenv("WITHOUT_CALL", lacks[i][0], 1);
        refused(&desc, lacks[i][1]);
    }
}

TEST(no_driver_is_no_device) { /* in a process of its own: the loader reads this once */
    int status = -1;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        tnm_vulkan_desc desc;
        tnm_vulkan *vk;
        memset(&desc, 0, sizeof desc);
        setenv("VK_ICD_FILENAMES", "/nonexistent.json", 1);
        setenv("VK_DRIVER_FILES", "/nonexistent.json", 1);
        if (tnm_vulkan_open(&desc, &vk) != TNM_ERR_UNSUPPORTED || vk) _exit(1);
        _exit(strstr(tnm_vulkan_error(NULL), "no device") ? 0 : 2);
    }
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
}

TEST(an_open_that_fails_halfway_leaves_nothing) {
    static const char *const calls[] = { "vkCreateBuffer",       "vkAllocateMemory",
                                         "vkMapMemory",          "vkBindBufferMemory",
                                         "vkBeginCommandBuffer", "vkEndCommandBuffer" };
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        for (int nth = 1; nth <= 2; nth++) {
            tnm_vulkan_desc desc;
            tnm_vulkan *vk;
            memset(&desc, 0, sizeof desc);
            desc.get_proc = watch_get;
            desc.queues = 2;
            watch_fail(calls[i], nth, 0);
            if (tnm_vulkan_open(&desc, &vk) == TNM_OK) tnm_vulkan_close(vk);
            CHECK(nth == 2 || watch.nth == 0);
            watch_fail(NULL, 0, 0);
            CHECK_EQ(watch.live, kept);
        }
    }
}

/* ---- copies ---- */
TEST(copies_before_one_submit_are_one_submission) {
    enum { N = 16, EACH = 64 * KIB };
    tnm_vulkan *vk = opened();
    tnm_backend b, h;
    uint64_t mem, pinned, ticket[N + 1];
    void *host, *at;
    tnm_vulkan_backend(vk, &b);
    tnm_vulkan_host(vk, &h);
    CHECK_EQ(b.alloc(vk, N * EACH, 256, NULL, &mem, &host), TNM_OK);
    CHECK_EQ(h.alloc(vk, N * EACH, 256, NULL, &pinned, &at), TNM_OK);
    CHECK(host == NULL && at != NULL);
    pattern((unsigned char *)at, N * EACH, 1);
    for (uint64_t i = 0; i <= N; i++) {
        tnm_span dst = device_span(&b, mem, i * EACH), src = device_span(&h, pinned, i * EACH);
        src.host = (char *)at + i * EACH;
        CHECK_EQ(b.copy(vk, &dst, &src, EACH, &ticket[i]), i < N ? TNM_PENDING : TNM_ERR_BUSY);
        if (i < N) CHECK_EQ(ticket[i], ticket[0]);
    }
    b.submit(vk);
    CHECK_EQ(vk->way[TNM_VULKAN_UP].sent, 1);
    while (b.wait(vk, ticket[0]) == TNM_PENDING)
        continue;
    CHECK_EQ(b.poll(vk, ticket[0]), TNM_ERR_ARGUMENT); /* answered: it is nobody's */
    CHECK_EQ(b.poll(vk, 0), TNM_ERR_ARGUMENT);
    CHECK_EQ(b.poll(vk, UINT64_MAX), TNM_ERR_ARGUMENT);
    unsigned char *out = (unsigned char *)calloc(N, EACH);
    CHECK_EQ(copy_now(&b, plain_span(out), device_span(&b, mem, 0), N * EACH), TNM_OK);
    CHECK(memcmp(at, out, N * EACH) == 0);
    free(out);
    b.release(vk, mem, N * EACH);
    h.release(vk, pinned, N * EACH);
    tnm_vulkan_close(vk);
}

TEST(other_memory_goes_through_the_pieces_whatever_its_size) {
    enum { SIZE = 100003 };
    static unsigned char in[SIZE + 1], out[SIZE + 2];
    tnm_vulkan_desc desc;
    tnm_backend b;
    uint64_t mem, ticket[8], last = 0;
    void *host;
    memset(&desc, 0, sizeof desc);
    desc.staging_bytes = 4 * KIB; /* pieces of 1 KiB */
    tnm_vulkan *vk = opened_with(&desc);
    tnm_vulkan_backend(vk, &b);
    CHECK_EQ(b.alloc(vk, 2 * SIZE, 256, NULL, &mem, &host), TNM_OK);
    for (uint64_t size = 1; size <= SIZE; size = size * 3 + 1) {
        pattern(in, sizeof in, (unsigned)size);
        memset(out, 0xEE, sizeof out);
        CHECK_EQ(copy_now(&b, device_span(&b, mem, 17), plain_span(in + 1), size), TNM_OK);
        CHECK_EQ(copy_now(&b, plain_span(out + 1), device_span(&b, mem, 17), size), TNM_OK);
        CHECK(memcmp(in + 1, out + 1, (size_t)size) == 0);
        CHECK(out[0] == 0xEE && out[size + 1] == 0xEE);
    }
    for (uint64_t i = 0; i < 5; i++) { /* four pieces; a copy that waits inside lets others be */
        tnm_span dst = device_span(&b, mem, i * 1000), src = plain_span(in + i * 1000);
        CHECK_EQ(b.copy(vk, &dst, &src, 1000, &ticket[i]), i < 4 ? TNM_PENDING : TNM_ERR_BUSY);
    }
    CHECK_EQ(b.wait(vk, ticket[0]), TNM_OK); /* all of them: one ticket */
    for (uint64_t i = 0; i < 2; i++) {
        tnm_span dst = device_span(&b, mem, i * 1000), src = plain_span(in + i * 1000);
        CHECK_EQ(b.copy(vk, &dst, &src, 1000, &ticket[i]), TNM_PENDING);
    }
    tnm_span dst = device_span(&b, mem, SIZE), src = plain_span(in);
    CHECK_EQ(b.copy(vk, &dst, &src, 50 * KIB, &last), TNM_PENDING);
    CHECK(last != ticket[1]);
    while (b.wait(vk, ticket[1]) == TNM_PENDING)
        continue;
    while (b.wait(vk, last) == TNM_PENDING)
        continue;
    CHECK_EQ(copy_now(&b, plain_span(out), device_span(&b, mem, SIZE), 50 * KIB), TNM_OK);
    CHECK(memcmp(in, out, 50 * KIB) == 0);
    CHECK_EQ(copy_now(&b, plain_span(out), device_span(&b, mem, 0), 2000), TNM_OK);
    CHECK(memcmp(in, out, 2000) == 0);
    b.release(vk, mem, 2 * SIZE);
    tnm_vulkan_close(vk);
}

/* ---- memory ---- */
TEST(memory_beyond_the_devices_limits_is_refused) {
    tnm_vulkan *vk = opened();
    tnm_backend b, h;
    uint64_t mem, before;
    void *host = vk;
    tnm_vulkan_backend(vk, &b);
    tnm_vulkan_host(vk, &h);
    before = b.available(vk);
    CHECK(before > 0 && h.available(vk) > 0);
    CHECK_EQ(b.alloc(vk, vk->largest + 1, 256, NULL, &mem, &host), TNM_ERR_BACKEND);
    CHECK(strstr(tnm_vulkan_error(vk), "allowed are") != NULL);
    CHECK_EQ(h.alloc(vk, UINT64_MAX - 5, 4096, NULL, &mem, &host), TNM_ERR_BACKEND);
    CHECK_EQ(b.alloc(vk, 3 * MIB, 256, NULL, &mem, &host), TNM_OK);
    CHECK(host == NULL);
    if (!vk->budgeted) CHECK(b.available(vk) <= before - 3 * MIB);
    b.release(vk, mem, 3 * MIB);
    if (!vk->budgeted) CHECK_EQ(b.available(vk), before);
    uint32_t most = vk->blocks_most;
    vk->blocks_most = vk->blocks; /* as if the device's limit were near */
    CHECK_EQ(b.alloc(vk, 4096, 256, NULL, &mem, &host), TNM_ERR_BACKEND);
    CHECK_EQ(h.alloc(vk, 4096, 256, NULL, &mem, &host), TNM_ERR_BACKEND);
    CHECK(strstr(tnm_vulkan_error(vk), "allocations") != NULL);
    vk->blocks_most = most;
    for (uint64_t align = 1; align <= 2 * MIB; align *= 2) {
        CHECK_EQ(h.alloc(vk, 100, align, NULL, &mem, &host), TNM_OK);
        CHECK_EQ((uintptr_t)host % align, 0);
        memset(host, 1, 100);
        CHECK_EQ(copy_now(&b, plain_span(&before), device_span(&h, mem, 3), 5), TNM_OK);
        CHECK(((unsigned char *)&before)[4] == 1); /* the buffer begins where the CPU sees it */
        h.release(vk, mem, 100);
    }
    CHECK_EQ(vk->blocks, 1); /* the pieces */
    tnm_vulkan_close(vk);
    CHECK_EQ(watch.live, kept);
}

TEST(what_a_shader_needs_to_know_is_told) {
    tnm_vulkan *vk = opened();
    uint32_t alignment = tnm_vulkan_alignment(vk), family = 99;
    CHECK(alignment >= 16 && (alignment & (alignment - 1)) == 0);
    CHECK(tnm_vulkan_queue(vk, 0, &family) != NULL && family != 99);
    CHECK(tnm_vulkan_queue(vk, 1, NULL) != NULL);
    CHECK(tnm_vulkan_queue(vk, 2, NULL) == NULL);
    CHECK(tnm_vulkan_instance(vk) && tnm_vulkan_physical(vk) && tnm_vulkan_device(vk));
    if (vk->device_kind == TNM_VULKAN_CPU) CHECK_EQ(tnm_vulkan_is_unified(vk), 1);
    vk->device_kind = 2; /* as if discrete, with heaps of its own */
    vk->memory.heap[1] = vk->memory.heap[0];
    vk->memory.kinds = 3;
    vk->memory.kind[0].flags = TNM_VULKAN_DEVICE_LOCAL;
    vk->memory.kind[1].flags = TNM_VULKAN_HOST_VISIBLE | TNM_VULKAN_HOST_COHERENT;
    vk->memory.kind[1].heap = 1;
    vk->memory.kind[2] = vk->memory.kind[1];
    vk->memory.kind[2].flags |= TNM_VULKAN_HOST_CACHED;
    uint32_t was[2] = { vk->kind[0], vk->kind[1] };
    CHECK_EQ(vk->kind[0] = tnm_vulkan_choose_kind(vk, 7, 0), 0);
    CHECK_EQ(vk->kind[1] = tnm_vulkan_choose_kind(vk, 7, 1), 2);
    CHECK_EQ(tnm_vulkan_is_unified(vk), 0);
    CHECK_EQ(tnm_vulkan_choose_kind(vk, 3, 1), 1);       /* no cached one is allowed */
    vk->memory.kind[1].flags |= TNM_VULKAN_DEVICE_LOCAL; /* a small window into the device */
    CHECK_EQ(tnm_vulkan_choose_kind(vk, 7, 0), 0);
    CHECK_EQ(tnm_vulkan_choose_kind(vk, 7, 1), 2);
    CHECK_EQ(tnm_vulkan_choose_kind(vk, 1, 1), UINT32_MAX);
    vk->kind[0] = was[0];
    vk->kind[1] = was[1];
    tnm_vulkan_close(vk);
}

/* ---- queues and families ---- */
static tnm_vulkan_family made[4];
static uint32_t made_count, asked[8], asked_count;

static void TNM_VULKAN_CALL made_families(tnm_vulkan_vk_physical physical, uint32_t *count,
                                          tnm_vulkan_family *out) {
    (void)physical;
    *count = made_count;
    memcpy(out, made, made_count * sizeof *out);
}

static void TNM_VULKAN_CALL made_queue(tnm_vulkan_vk_device logical, uint32_t family,
                                       uint32_t index, tnm_vulkan_vk_queue *out) {
    (void)logical, (void)out;
    asked[asked_count++] = family * 100 + index;
}

static void families_are(uint32_t flags0, uint32_t count0, uint32_t flags1, uint32_t count1) {
    memset(made, 0, sizeof made);
    made[0].flags = flags0;
    made[0].count = count0;
    made[1].flags = flags1;
    made[1].count = count1;
    made_count = count1 ? 2 : 1;
}

/* The queues of two compute numbers, of uploads and of downloads, as family * 100 + index. */
static void queues_are(uint32_t a, uint32_t b, uint32_t up, uint32_t down) {
    tnm_vulkan_queue_info queue[2];
    tnm_vulkan_family family[TNM_VULKAN_MANY];
    tnm_vulkan vk;
    uint32_t compute = 9, copies = 9;
    memset(&vk, 0, sizeof vk);
    memset(queue, 0, sizeof queue);
    vk.queues = 2;
    vk.api.GetPhysicalDeviceQueueFamilyProperties = made_families;
    vk.api.GetDeviceQueue = made_queue;
    CHECK(tnm_vulkan_families(&vk, &compute, &copies, family));
    uint32_t most = compute == copies ? 4 : 2;
    queue[0].family = compute;
    queue[0].count = family[compute].count < most ? family[compute].count : most;
    queue[1].family = copies;
    queue[1].count = family[copies].count < 2 ? 1 : 2;
    asked_count = 0;
    tnm_vulkan_share(&vk, queue, compute != copies);
    CHECK_EQ(asked_count, 4);
    CHECK_EQ(asked[0], a);
    CHECK_EQ(asked[1], b);
    CHECK_EQ(asked[2], up);
    CHECK_EQ(asked[3], down);
}

TEST(queues_are_chosen_as_the_device_has_them) {
    enum { GRAPHICS = 1, COMPUTE = 2, TRANSFER = 4, SPARSE = 8, VIDEO = 32 };
    families_are(GRAPHICS | COMPUTE | TRANSFER, 1, 0, 0); /* one queue for all */
    queues_are(0, 0, 0, 0);
    families_are(GRAPHICS | COMPUTE | TRANSFER, 2, 0, 0); /* a second: for the copies */
    queues_are(0, 0, 1, 1);
    families_are(GRAPHICS | COMPUTE | TRANSFER, 3, 0, 0);
    queues_are(0, 0, 2, 1);
    families_are(GRAPHICS | COMPUTE | TRANSFER, 16, 0, 0);
    queues_are(0, 1, 3, 2);
    families_are(GRAPHICS | COMPUTE | TRANSFER, 16, TRANSFER | SPARSE, 2); /* engines for copies */
    queues_are(0, 1, 100, 101);
    families_are(GRAPHICS | COMPUTE | TRANSFER, 1, TRANSFER, 1);
    queues_are(0, 0, 100, 100);
    families_are(GRAPHICS | COMPUTE | TRANSFER, 1, COMPUTE | TRANSFER, 4); /* beside the graphics */
    queues_are(0, 0, 100, 101);
    families_are(GRAPHICS | COMPUTE | TRANSFER, 1, VIDEO | TRANSFER, 4); /* that is not for us */
    queues_are(0, 0, 0, 0);
    families_are(TRANSFER, 1, COMPUTE, 1);
    queues_are(100, 100, 0, 0);
}

/* ---- an application's own device ---- */
static int turns, holding;

static void take_turn(void *user) {
    CHECK(user == &turns && !holding);
    holding = 1;
    turns++;
}

static void give_turn(void *user) {
    CHECK(user == &turns && holding);
    holding = 0;
}

static tnm_vulkan *opened_over(tnm_vulkan *app, tnm_vulkan_line *line) {
    tnm_vulkan_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.instance = tnm_vulkan_instance(app);
    desc.physical = tnm_vulkan_physical(app);
    desc.logical = tnm_vulkan_device(app);
    for (uint32_t i = 0; i < 2; i++)
        line[i].queue = tnm_vulkan_queue(app, i, &line[i].family);
    desc.compute = line;
    desc.queues = 2;
    desc.copies[TNM_VULKAN_DOWN] = &line[1];
    desc.lock = take_turn;
    desc.unlock = give_turn;
    desc.lock_user = &turns;
    return opened_with(&desc);
}

TEST(an_applications_device_and_queues_are_used_and_kept) {
    static unsigned char in[5000], out[5000];
    tnm_vulkan *app = opened(), *vk;
    tnm_vulkan_line line[2];
    tnm_backend b, other;
    uint64_t mem, strange, ticket = 7;
    void *host;
    pattern(in, sizeof in, 1);
    for (int turn = 0; turn < 2; turn++) {
        vk = opened_over(app, line);
        turns = 0;
        tnm_vulkan_backend(vk, &b);
        tnm_vulkan_backend(app, &other);
        CHECK(tnm_vulkan_device(vk) == tnm_vulkan_device(app));
        CHECK_EQ(b.alloc(vk, 5000, 256, NULL, &mem, &host), TNM_OK);
        CHECK_EQ(other.alloc(app, 5000, 256, NULL, &strange, &host), TNM_OK);
        CHECK_EQ(copy_now(&b, device_span(&b, mem, 0), plain_span(in), 5000), TNM_OK);
        CHECK_EQ(copy_now(&b, plain_span(out), device_span(&b, mem, 0), 5000), TNM_OK);
        CHECK(memcmp(in, out, 5000) == 0);
        CHECK_EQ(tnm_vulkan_mark(vk, 1), 1);
        while (tnm_vulkan_passed(vk, 1, 1) < 1)
            continue;
        CHECK_EQ(turns, 3);
        tnm_span dst = device_span(&b, mem, 0), src = device_span(&other, strange, 0);
        CHECK_EQ(b.copy(vk, &dst, &src, 10, &ticket), TNM_ERR_UNSUPPORTED); /* not its own */
        CHECK_EQ(ticket, 7);
        b.release(vk, mem, 5000);
        other.release(app, strange, 5000);
        tnm_vulkan_close(vk);
        CHECK_EQ(tnm_vulkan_mark(app, 0), turn + 1); /* still there */
    }
    tnm_vulkan_close(app);
}

TEST(an_applications_buffer_is_adopted) {
    static unsigned char in[3000], out[3000];
    tnm_vulkan *vk = opened();
    tnm_tier_desc tiers[2];
    tnm_desc desc;
    tnm_ctx *mem = NULL;
    tnm_backend b;
    uint64_t token;
    void *host;
    tnm_tensor t;
    tnm_tensor_desc what;
    tnm_adopt_desc adopt;
    tnm_vulkan_block mine;
    memset(tiers, 0, sizeof tiers);
    memset(&desc, 0, sizeof desc);
    memset(&what, 0, sizeof what);
    memset(&adopt, 0, sizeof adopt);
    memset(&mine, 0, sizeof mine);
    tnm_vulkan_backend(vk, &b);
    CHECK_EQ(b.alloc(vk, 4096, 256, NULL, &token, &host), TNM_OK); /* as if it were theirs */
    pattern(in, sizeof in, 3);
    CHECK_EQ(copy_now(&b, device_span(&b, token, 512), plain_span(in), 3000), TNM_OK);
    mine.buffer = tnm_vulkan_buffer(vk, token);
    tiers[0].backend = b;
    tiers[0].budget_bytes = MIB;
    tnm_vulkan_host(vk, &tiers[1].backend);
    desc.tiers = tiers;
    desc.tier_count = 2;
    CHECK_EQ(tnm_create(&desc, &mem), TNM_OK);
    what.bytes = 3000;
    adopt.tier = 0;
    adopt.mem = (uint64_t)(uintptr_t)&mine;
    adopt.offset = 512;
    CHECK_EQ(tnm_tensor_adopt(mem, &what, &adopt, &t), TNM_OK);
    CHECK_EQ(tnm_read(mem, t, 0, out, 3000), TNM_OK);
    CHECK(memcmp(in, out, 3000) == 0);
    CHECK_EQ(tnm_destroy(mem), TNM_OK);
    b.release(vk, token, 4096);
    tnm_vulkan_close(vk);
}

/* ---- work of an application: fills, on a queue of compute ---- */
typedef struct worker {
    tnm_vulkan *vk;
    tnm_vulkan_vk_pool pool;
    tnm_vulkan_vk_commands commands[64];
    uint64_t used;
    tnm_vulkan_vk_semaphore done, gate;
    void(TNM_VULKAN_CALL *fill)(tnm_vulkan_vk_commands, tnm_vulkan_vk_buffer, uint64_t, uint64_t,
                                uint32_t);
    int32_t(TNM_VULKAN_CALL *open)(tnm_vulkan_vk_device, const void *);
} worker;

static worker hired(tnm_vulkan *vk) {
    worker w;
    uint32_t family = 0;
    memset(&w, 0, sizeof w);
    w.vk = vk;
    (void)tnm_vulkan_queue(vk, 0, &family);
    CHECK_EQ(tnm_vulkan_commands(vk, family, 64, &w.pool, w.commands), 0);
    CHECK_EQ(tnm_vulkan_timeline(vk, &w.done), 0);
    CHECK_EQ(tnm_vulkan_timeline(vk, &w.gate), 0);
    CHECK(tnm_vulkan_find_call(vk, "vkCmdFillBuffer", &w.fill, sizeof w.fill));
    CHECK(tnm_vulkan_find_call(vk, "vkSignalSemaphore", &w.open, sizeof w.open));
    return w;
}

static void dismissed(worker *w) {
    (void)tnm_vulkan_sleep(w->vk, w->done, w->used, UINT64_MAX);
    w->vk->api.DestroyCommandPool(w->vk->device, w->pool, NULL);
    w->vk->api.DestroySemaphore(w->vk->device, w->done, NULL);
    w->vk->api.DestroySemaphore(w->vk->device, w->gate, NULL);
}

static void gate_opens(worker *w, uint64_t value) {
    struct {
        uint32_t type;
        const void *next;
        tnm_vulkan_vk_semaphore semaphore;
        uint64_t value;
    } info;
    memset(&info, 0, sizeof info);
    info.type = 1000207005; /* VkSemaphoreSignalInfo */
    info.semaphore = w->gate;
    info.value = value;
    CHECK_EQ(w->open(w->vk->device, &info), 0);
}

/* A fill that waits for a semaphore and signals `done`, and also what `signal` says. */
static void works(worker *w, uint32_t queue, tnm_vulkan_vk_buffer buffer, uint64_t at,
                  uint64_t size, uint8_t value, tnm_vulkan_vk_semaphore wait, uint64_t waited,
                  tnm_vulkan_vk_semaphore signal, uint64_t signaled) {
    tnm_vulkan_vk_commands commands = w->commands[w->used % 64];
    tnm_vulkan_timeline_submit timeline;
    tnm_vulkan_submit_info info;
    tnm_vulkan_begin_info begin;
    uint32_t stage = TNM_VULKAN_STAGE_TRANSFER;
    uint64_t values[2];
    tnm_vulkan_vk_semaphore signals[2];
    if (w->used >= 64) CHECK_EQ(tnm_vulkan_sleep(w->vk, w->done, w->used - 63, UINT64_MAX), 0);
    memset(&begin, 0, sizeof begin);
    begin.type = TNM_VULKAN_IS_BEGIN;
    CHECK_EQ(w->vk->api.BeginCommandBuffer(commands, &begin), 0);
    if (size) w->fill(commands, buffer, at, size, value * 0x01010101u);
    CHECK_EQ(w->vk->api.EndCommandBuffer(commands), 0);
    values[0] = ++w->used;
    values[1] = signaled;
    signals[0] = w->done;
    signals[1] = signal;
    memset(&timeline, 0, sizeof timeline);
    timeline.type = TNM_VULKAN_IS_TIMELINE_SUBMIT;
    timeline.waits = 1;
    timeline.wait = &waited;
    timeline.signals = signaled ? 2 : 1;
    timeline.signal = values;
    memset(&info, 0, sizeof info);
    info.type = TNM_VULKAN_IS_SUBMIT;
    info.next = &timeline;
    info.waits = 1;
    info.wait = &wait;
    info.stages = &stage;
    info.count = 1;
    info.commands = &commands;
    info.signals = timeline.signals;
    info.signal = signals;
    tnm_vulkan_lock(w->vk);
    CHECK_EQ(w->vk->api.QueueSubmit(tnm_vulkan_queue(w->vk, queue, NULL), 1, &info, 0), 0);
    tnm_vulkan_unlock(w->vk);
}

/* ---- fences ---- */
static worker *gated;

static void *open_later(void *user) {
    struct timespec pause = { 0, 30 * 1000 * 1000 };
    (void)user;
    nanosleep(&pause, NULL);
    gate_opens(gated, 2);
    return NULL;
}

static uint64_t passed_in_the_end(tnm_vulkan *vk, uint32_t queue, uint64_t value) {
    uint64_t now;
    for (int i = 0; (now = tnm_vulkan_passed(vk, queue, value)) < value && i < 100; i++)
        continue;
    return now;
}

/* Without the layer: one from before 2024 may wait for itself where the CPU signals a semaphore. */
static tnm_vulkan *opened_bare(void) {
    tnm_vulkan_desc desc;
    tnm_vulkan *vk;
    memset(&desc, 0, sizeof desc);
    desc.queues = 2;
    CHECK_EQ(tnm_vulkan_open(&desc, &vk), TNM_OK);
    return vk;
}

TEST(a_fence_passes_with_its_queue_and_sleeps_only_if_asked) {
    tnm_vulkan *vk = opened_bare();
    worker w = hired(vk);
    pthread_t thread;
    gated = &w;
    CHECK_EQ(tnm_vulkan_passed(vk, 0, 0), 0);
    CHECK_EQ(tnm_vulkan_passed(vk, 0, 9), 0); /* never marked: nothing to sleep for */
    CHECK_EQ(tnm_vulkan_passed(vk, 2, 0), (long long)UINT64_MAX); /* no such queue */
    CHECK_EQ(tnm_vulkan_mark(vk, 2), 0);
    CHECK_EQ(tnm_vulkan_mark(vk, 0), 1);
    CHECK_EQ(passed_in_the_end(vk, 0, 1), 1);
    works(&w, 0, 0, 0, 0, 0, w.gate, 1, 0, 0); /* stands still until the gate is opened */
    CHECK_EQ(tnm_vulkan_mark(vk, 0), 2);
    CHECK_EQ(tnm_vulkan_passed(vk, 0, 0), 1);
    CHECK_EQ(tnm_vulkan_passed(vk, 0, 2), 1); /* it does not sleep for ever */
    CHECK_EQ(pthread_create(&thread, NULL, open_later, NULL), 0);
    CHECK_EQ(passed_in_the_end(vk, 0, 2), 2);
    pthread_join(thread, NULL);
    dismissed(&w);
    tnm_vulkan_close(vk);
}

TEST(an_applications_submission_is_a_fence) {
    tnm_vulkan *vk = opened();
    worker w = hired(vk);
    tnm_vulkan_vk_semaphore fence = 0;
    CHECK_EQ(tnm_vulkan_signal(vk, 2, &fence), 0);
    CHECK_EQ(tnm_vulkan_signal(vk, 1, &fence), 1);
    CHECK_EQ(tnm_vulkan_passed(vk, 1, 1), 0); /* told, and not yet submitted */
    works(&w, 1, 0, 0, 0, 0, w.gate, 0, fence, 1);
    CHECK_EQ(passed_in_the_end(vk, 1, 1), 1);
    CHECK_EQ(tnm_vulkan_mark(vk, 1), 2); /* both ways by turns */
    CHECK_EQ(passed_in_the_end(vk, 1, 2), 2);
    dismissed(&w);
    tnm_vulkan_close(vk);
}

static tnm_backend beside;
static uint64_t beside_mem;

static void copy_beside(tnm_vulkan *vk) { /* the callbacks go on */
    static unsigned char bytes[4096];
    uint64_t value;
    tnm_span there = device_span(&beside, beside_mem, 0);
    CHECK_EQ(copy_now(&beside, there, plain_span(bytes), 4096), TNM_OK);
    (void)tnm_vulkan_semaphore(vk, &value);
    CHECK_EQ(value, vk->way[TNM_VULKAN_UP].sent);
}

TEST(marks_come_from_any_thread) {
    tnm_vulkan *vk = opened();
    void *host;
    tnm_vulkan_backend(vk, &beside);
    CHECK_EQ(beside.alloc(vk, 4096, 256, NULL, &beside_mem, &host), TNM_OK);
    marks_of_threads(vk, copy_beside);
    beside.release(vk, beside_mem, 4096);
    tnm_vulkan_close(vk);
}

/* ---- a runtime that fails ---- */
TEST(a_failed_submission_is_an_error_and_a_dead_device_is_lost) {
    static unsigned char bytes[4096];
    tnm_vulkan *vk = opened();
    tnm_backend b, h;
    uint64_t mem, pinned, ticket, again;
    void *host, *at;
    tnm_vulkan_backend(vk, &b);
    tnm_vulkan_host(vk, &h);
    CHECK_EQ(b.alloc(vk, 4096, 256, NULL, &mem, &host), TNM_OK);
    CHECK_EQ(h.alloc(vk, 4096, 256, NULL, &pinned, &at), TNM_OK);
    tnm_span dst = device_span(&b, mem, 0), src = plain_span(bytes);
    watch_fail("vkQueueSubmit", 1, 0);
    CHECK_EQ(copy_now(&b, dst, src, 4096), TNM_ERR_BACKEND);
    CHECK(strstr(tnm_vulkan_error(vk), "vkQueueSubmit answered -2 (VK_ERROR_OUT_OF_DEV") != NULL);
    watch_fail("vkQueueSubmit", 1, 0);
    CHECK_EQ(tnm_vulkan_mark(vk, 0), 0);
    uint64_t value = tnm_vulkan_mark(vk, 0); /* a value that failed is passed over */
    CHECK_EQ(value, 2);
    CHECK_EQ(passed_in_the_end(vk, 0, 2), 2);
    CHECK_EQ(copy_now(&b, dst, src, 4096), TNM_OK);
    watch_fail("vkGetSemaphoreCounterValue", 1, 0); /* nobody can say: then it is waited for */
    CHECK_EQ(b.copy(vk, &dst, &src, 4096, &ticket), TNM_PENDING);
    CHECK_EQ(b.poll(vk, ticket), TNM_OK);
    CHECK_EQ(b.copy(vk, &dst, &src, 4096, &ticket), TNM_PENDING);
    b.submit(vk);
    CHECK_EQ(b.copy(vk, &dst, &src, 4096, &again), TNM_PENDING); /* and one not submitted */
    (void)vk->api.DeviceWaitIdle(vk->device);
    watch.dead = 1;
    CHECK_EQ(b.poll(vk, ticket), TNM_ERR_LOST);
    watch.dead = 0; /* once dead, dead for ever */
    CHECK_EQ(b.poll(vk, again), TNM_ERR_LOST);
    CHECK_EQ(b.copy(vk, &dst, &src, 4096, &ticket), TNM_ERR_LOST);
    CHECK_EQ(b.alloc(vk, 4096, 256, NULL, &ticket, &host), TNM_ERR_LOST);
    CHECK_EQ(h.alloc(vk, 4096, 256, NULL, &ticket, &host), TNM_ERR_LOST);
    CHECK_EQ(b.available(vk), 0);
    CHECK_EQ(tnm_vulkan_mark(vk, 0), 0);
    CHECK_EQ(tnm_vulkan_passed(vk, 0, 1), (long long)UINT64_MAX);
    CHECK(strstr(tnm_vulkan_error(vk), "VK_ERROR_DEVICE_LOST") != NULL);
    dst = plain_span(bytes);
    src = device_span(&h, pinned, 0);
    src.host = at;
    CHECK_EQ(h.copy(vk, &dst, &src, 4096, &ticket), TNM_OK); /* it is memory like any other */
    b.release(vk, mem, 4096);
    h.release(vk, pinned, 4096);
    tnm_vulkan_close(vk);
    CHECK_EQ(watch.live, kept);
}

TEST(a_device_that_cannot_be_seen_any_more_is_lost) {
    static unsigned char bytes[4096];
    tnm_vulkan *vk = opened();
    tnm_backend b;
    uint64_t mem, ticket;
    void *host;
    tnm_vulkan_backend(vk, &b);
    CHECK_EQ(b.alloc(vk, 4096, 256, NULL, &mem, &host), TNM_OK);
    tnm_span dst = device_span(&b, mem, 0), src = plain_span(bytes);
    CHECK_EQ(b.copy(vk, &dst, &src, 4096, &ticket), TNM_PENDING);
    b.submit(vk);
    watch.code = -1;
    watch.failing = NULL; /* every call */
    for (tnm_result r = TNM_PENDING; r == TNM_PENDING;) {
        watch.nth = 1;
        r = b.poll(vk, ticket); /* one fails: it is asked otherwise */
        CHECK(r == TNM_OK || r == TNM_PENDING);
    }
    watch.nth = 0;
    b.release(vk, mem, 4096);
    tnm_vulkan_close(vk);
}

/* ---- through a context ---- */
static tnm_ctx *over(tnm_vulkan *vk, int unified) {
    tnm_backend device_backend, host;
    tnm_vulkan_backend(vk, &device_backend);
    tnm_vulkan_host(vk, &host);
    return context_over(vk, unified ? &host : &device_backend, unified ? NULL : &host, NULL);
}

/* Its fence is a mark, or is signaled by the submission. */
static uint64_t fill(void *user, uint32_t queue, const tnm_pinned *at, uint8_t byte) {
    worker *w = (worker *)user;
    uint64_t passed, value = 0;
    tnm_vulkan_vk_semaphore fence = 0, brought = tnm_vulkan_semaphore(w->vk, &passed);
    int signals = w->used % 3 == 0;
    if (signals) value = tnm_vulkan_signal(w->vk, queue, &fence);
    works(w, queue, tnm_vulkan_buffer(w->vk, at->mem), at->offset + HALF, REST, byte, brought,
          passed, fence, value);
    return signals ? value : tnm_vulkan_mark(w->vk, queue);
}

static void filled_through(tnm_vulkan *vk, int unified, int rounds) {
    worker w = hired(vk);
    through_a_context(over(vk, unified), fill, &w, rounds);
    dismissed(&w);
    CHECK_EQ(vk->blocks, 1);
}

TEST(more_tensors_than_fit_are_worked_through) {
    tnm_vulkan *vk = opened();
    int rounds = check_scale(8, 2);
    filled_through(vk, 0, rounds);
    if (tnm_vulkan_is_unified(vk)) filled_through(vk, 1, rounds); /* where one tier is enough */
    tnm_vulkan_close(vk);
}

/* ---- ends ---- */
TEST(a_context_and_a_device_end_with_copies_in_flight) {
    static unsigned char many[4 * MIB]; /* four copies of a quarter each */
    tnm_vulkan *vk = opened();
    tnm_backend b;
    uint64_t token, ticket;
    void *host;
    a_context_ends_with_copies_in_flight(over(vk, 0));
    tnm_vulkan_backend(vk, &b); /* and of a device whose copies nobody waits for */
    CHECK_EQ(b.alloc(b.user, sizeof many, 256, NULL, &token, &host), TNM_OK);
    for (int i = 0; i < 4; i++) {
        tnm_span dst = device_span(&b, token, (uint64_t)i * MIB), src = plain_span(many + i * MIB);
        CHECK_EQ(b.copy(b.user, &dst, &src, MIB, &ticket), TNM_PENDING);
        if (i < 2) b.submit(b.user);
    }
    tnm_vulkan_quiet(vk,
                     UINT64_MAX); /* the engine would: memory is given back when no copy uses it */
    b.release(b.user, token, sizeof many);
    tnm_vulkan_close(vk);
    CHECK_EQ(watch.live, kept);
}

TEST(the_validation_layer_had_nothing_to_say) {
    CHECK_EQ(watch.said, 0);
}

static int device_here(char *why, size_t size) { /* asked in a process of its own: see exit */
    int tell[2], status = 1;
    if (pipe(tell) != 0) return 0;
    pid_t child = fork();
    if (child == 0) {
        tnm_vulkan_desc desc;
        tnm_vulkan *vk;
        memset(&desc, 0, sizeof desc);
        if (tnm_vulkan_open(&desc, &vk) == TNM_OK) _exit(0);
        if (write(tell[1], tnm_vulkan_error(NULL), strlen(tnm_vulkan_error(NULL))) < 0) _exit(2);
        _exit(1);
    }
    close(tell[1]);
    ssize_t got = read(tell[0], why, size - 1);
    why[got > 0 ? got : 0] = '\0';
    close(tell[0]);
    if (child > 0) waitpid(child, &status, 0);
    return status == 0;
}

int main(void) {
    static char why[200], all[300];
    const char *reason;
    if (under_valgrind() || !device_here(why, sizeof why)) {
        snprintf(all, sizeof all, "%s (a GPU, or lavapipe)",
                 under_valgrind() ? "no device for Valgrind"
                 : why[0]         ? why
                                  : "a driver that ends");
        SKIP("vulkan", all);
        return check_done();
    }
    CHECK(watch_begin(&reason));
    RUN(exit_with_copies_in_flight_is_quiet);
    RUN(no_driver_is_no_device);
    (void)opened(); /* left to exit: a driver that is unloaded is a stranger to leak checkers */
    kept = watch.live;
    RUN(no_descriptor_is_the_default_one);
    RUN(what_cannot_be_opened_says_why);
    RUN(a_runtime_that_lacks_a_call_is_refused);
    RUN(closing_twice_or_nothing_is_harmless);
    RUN(an_open_that_fails_halfway_leaves_nothing);
    RUN(copies_before_one_submit_are_one_submission);
    RUN(other_memory_goes_through_the_pieces_whatever_its_size);
    RUN(memory_beyond_the_devices_limits_is_refused);
    RUN(what_a_shader_needs_to_know_is_told);
    RUN(queues_are_chosen_as_the_device_has_them);
    RUN(an_applications_device_and_queues_are_used_and_kept);
    RUN(an_applications_buffer_is_adopted);
    RUN(a_fence_passes_with_its_queue_and_sleeps_only_if_asked);
    RUN(an_applications_submission_is_a_fence);
    RUN(marks_come_from_any_thread);
    RUN(a_failed_submission_is_an_error_and_a_dead_device_is_lost);
    RUN(a_device_that_cannot_be_seen_any_more_is_lost);
    RUN(more_tensors_than_fit_are_worked_through);
    RUN(a_context_and_a_device_end_with_copies_in_flight);
    if (watch.validating)
        RUN(the_validation_layer_had_nothing_to_say);
    else
        SKIP("validation", "VK_LAYER_KHRONOS_validation is not installed");
    return check_done();
}
