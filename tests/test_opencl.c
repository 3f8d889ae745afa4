/* needs: tensormem.o -ldl -pthread */
/* examples/backends/opencl.h from outside: over whatever OpenCL shows first, PoCL in the gate. That
 * it keeps the contract is tests/conformance.c's; here is what is OpenCL's own. */
#define _POSIX_C_SOURCE 200809L
#ifdef __has_include
#    if __has_include(<CL/cl.h>)
#        define CL_TARGET_OPENCL_VERSION 120
#        define CL_USE_DEPRECATED_OPENCL_1_1_APIS
#        include <CL/cl.h>
#        include <CL/cl_ext.h>
#    endif
#endif
#include "tensormem.h"
#include "examples/backends/opencl.h"
#include "check.h"

#define RT(name) tnm_opencl_##name
typedef tnm_opencl device;
typedef tnm_opencl_desc device_desc;
enum { HALF = 50001, REST = 50002 };
#include "device.h"

static tnm_opencl *opened(int number, const tnm_opencl *beside) {
    tnm_opencl_desc desc;
    tnm_opencl *cl;
    memset(&desc, 0, sizeof desc);
    desc.device = number;
    desc.peers = !beside;
    desc.beside = beside;
    desc.queues = 2;
    tnm_result r = tnm_opencl_open(&desc, &cl);
    if (r != TNM_OK) printf("%s\n", tnm_opencl_error(NULL));
    CHECK_EQ(r, TNM_OK);
    if (r != TNM_OK) exit(1);
    return cl;
}

static device *a_device(void) {
    return opened(0, NULL);
}

static void nothing_is_left(void) { /* nobody counts, but in more_marks_than_places */
}

/* ---- our declarations are the vendor's ---- */
#ifdef CL_VERSION_1_2
#    define SAME(result, name, parameters)                                                         \
        {                                                                                          \
            __typeof__(&cl##name) vendor =                                                         \
                NULL; /* assigned without a cast: or it does not build */                          \
            api.name = vendor;                                                                     \
        }

TEST(the_declarations_are_those_of_the_vendor) {
    tnm_opencl_api api;
    TNM_OPENCL_CALLS(SAME)
    CHECK(api.Finish == NULL);
    CHECK_EQ(TNM_OPENCL_DEVICE_NOT_AVAILABLE, CL_DEVICE_NOT_AVAILABLE);
    CHECK_EQ(TNM_OPENCL_INVALID_DEVICE, CL_INVALID_DEVICE);
    CHECK_EQ(TNM_OPENCL_INVALID_CONTEXT, CL_INVALID_CONTEXT);
    CHECK_EQ(TNM_OPENCL_INVALID_QUEUE, CL_INVALID_COMMAND_QUEUE);
    CHECK_EQ(TNM_OPENCL_DEVICE_MAX_ALLOC, CL_DEVICE_MAX_MEM_ALLOC_SIZE);
    CHECK_EQ(TNM_OPENCL_DEVICE_ALIGN, CL_DEVICE_MEM_BASE_ADDR_ALIGN);
    CHECK_EQ(TNM_OPENCL_DEVICE_MEMORY, CL_DEVICE_GLOBAL_MEM_SIZE);
    CHECK_EQ(TNM_OPENCL_DEVICE_VERSION, CL_DEVICE_VERSION);
#    ifdef CL_DEVICE_GLOBAL_FREE_MEMORY_AMD
    CHECK_EQ(TNM_OPENCL_DEVICE_FREE_AMD, CL_DEVICE_GLOBAL_FREE_MEMORY_AMD);
#    endif
    CHECK_EQ(TNM_OPENCL_CONTEXT_DEVICES, CL_CONTEXT_DEVICES);
    CHECK_EQ(TNM_OPENCL_QUEUE_CONTEXT, CL_QUEUE_CONTEXT);
    CHECK_EQ(TNM_OPENCL_QUEUE_DEVICE, CL_QUEUE_DEVICE);
    CHECK_EQ(TNM_OPENCL_EVENT_STATUS, CL_EVENT_COMMAND_EXECUTION_STATUS);
    CHECK_EQ(TNM_OPENCL_BUFFER_REGION, CL_BUFFER_CREATE_TYPE_REGION);
    CHECK_EQ(TNM_OPENCL_READ_WRITE, CL_MEM_READ_WRITE);
    CHECK_EQ(TNM_OPENCL_HOST_PTR, CL_MEM_ALLOC_HOST_PTR);
    CHECK_EQ(TNM_OPENCL_MAP_BOTH, CL_MAP_READ | CL_MAP_WRITE);
    CHECK_EQ(TNM_OPENCL_ALL_DEVICES, CL_DEVICE_TYPE_ALL);
    CHECK_EQ(CL_COMPLETE, 0);
    CHECK_EQ(sizeof(tnm_opencl_region), sizeof(cl_buffer_region));
    CHECK_EQ(offsetof(tnm_opencl_region, size), offsetof(cl_buffer_region, size));
}

TEST(codes_have_their_names) {
#    define NAMED(code) CHECK(strcmp(tnm_opencl_code(code), #    code) == 0)
    NAMED(CL_DEVICE_NOT_FOUND);
    NAMED(CL_DEVICE_NOT_AVAILABLE);
    NAMED(CL_MEM_OBJECT_ALLOCATION_FAILURE);
    NAMED(CL_OUT_OF_RESOURCES);
    NAMED(CL_OUT_OF_HOST_MEMORY);
    NAMED(CL_MISALIGNED_SUB_BUFFER_OFFSET);
    NAMED(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST);
    NAMED(CL_INVALID_VALUE);
    NAMED(CL_INVALID_DEVICE);
    NAMED(CL_INVALID_CONTEXT);
    NAMED(CL_INVALID_COMMAND_QUEUE);
    NAMED(CL_INVALID_MEM_OBJECT);
    NAMED(CL_INVALID_EVENT);
    NAMED(CL_INVALID_BUFFER_SIZE);
    CHECK(tnm_opencl_code(-9999) != NULL);
}
#endif

/* ---- open and close ---- */
TEST(what_cannot_be_opened_says_why) {
    tnm_opencl_desc desc;
    refused_as_any(&desc, "clGetPlatformIDs");
}

TEST(an_applications_context_and_queues_are_used_and_kept) {
    tnm_opencl *app = opened(0, NULL), *cl;
    tnm_opencl_cl_queue theirs[2] = { tnm_opencl_queue(app, 1), tnm_opencl_queue(app, 0) };
    tnm_opencl_desc desc;
    tnm_backend b;
    uint64_t mem;
    void *host;
    memset(&desc, 0, sizeof desc);
    desc.context = tnm_opencl_context(app);
    desc.device = 99;
    refused(&desc, "no device 99");
    desc.device = 0;
    desc.compute = theirs;
    desc.queues = 2;
    for (int i = 0; i < 2; i++) { /* the context named, and found by the queue */
        CHECK_EQ(tnm_opencl_open(&desc, &cl), TNM_OK);
        CHECK(tnm_opencl_context(cl) == tnm_opencl_context(app));
        CHECK(tnm_opencl_device(cl) == tnm_opencl_device(app));
        CHECK(tnm_opencl_queue(cl, 0) == theirs[0] && tnm_opencl_queue(cl, 1) == theirs[1]);
        CHECK(tnm_opencl_queue(cl, 2) == NULL);
        if (i == 0) tnm_opencl_close(cl);
        desc.context = NULL;
    }
    tnm_opencl *other = opened(0, NULL), *none = cl;
    theirs[1] = tnm_opencl_queue(other, 0);
    CHECK_EQ(tnm_opencl_open(&desc, &none), TNM_ERR_ARGUMENT);
    CHECK(none == NULL);
    CHECK(strstr(tnm_opencl_error(NULL), "compute queue 1") != NULL);
    tnm_opencl_close(other);
    tnm_opencl_close(app); /* ours holds on to them */
    tnm_opencl_backend(cl, &b);
    CHECK_EQ(b.alloc(b.user, MIB, 256, NULL, &mem, &host), TNM_OK);
    CHECK_EQ(tnm_opencl_mark(cl, 1), 1);
    CHECK_EQ(tnm_opencl_passed(cl, 1, 1), 1);
    b.release(b.user, mem, MIB);
    tnm_opencl_close(cl);
}

/* ---- memory ---- */
TEST(memory_beyond_a_buffers_limit_is_refused) {
    tnm_opencl *cl = opened(0, NULL);
    tnm_backend b;
    uint64_t mem, before;
    void *host = cl;
    tnm_opencl_backend(cl, &b);
    before = b.available(b.user);
    CHECK(before > 0);
    CHECK(b.alloc(b.user, cl->largest + 1, 256, NULL, &mem, &host) == TNM_ERR_BACKEND);
    CHECK(strstr(tnm_opencl_error(cl), "the device allows") != NULL);
    CHECK(b.alloc(b.user, UINT64_MAX, 256, NULL, &mem, &host) == TNM_ERR_BACKEND);
    CHECK_EQ(b.alloc(b.user, 3 * MIB, 256, NULL, &mem, &host), TNM_OK);
    CHECK(host == NULL); /* a CPU device's buffers too */
    CHECK(b.available(b.user) <= before - 3 * MIB);
    b.release(b.user, mem, 3 * MIB);
    tnm_opencl_host(cl, &b);
    CHECK(b.alloc(b.user, cl->largest + 1, 4096, NULL, &mem, &host) == TNM_ERR_BACKEND);
    CHECK(b.alloc(b.user, UINT64_MAX - 5, 4096, NULL, &mem, &host) == TNM_ERR_BACKEND);
    CHECK_EQ(b.alloc(b.user, 100, 65536, NULL, &mem, &host), TNM_OK);
    CHECK_EQ((uintptr_t)host % 65536, 0);
    memset(host, 1, 100);
    b.release(b.user, mem, 100);
    tnm_opencl_close(cl);
}

TEST(a_sub_buffer_is_the_pinned_bytes) {
    tnm_opencl *cl = opened(0, NULL);
    tnm_backend b;
    tnm_pinned at;
    void *host;
    memset(&at, 0, sizeof at);
    tnm_opencl_backend(cl, &b);
    CHECK_EQ(b.alloc(b.user, 64 * KIB, 256, NULL, &at.mem, &host), TNM_OK);
    at.offset = 3 * (uint64_t)tnm_opencl_alignment(cl);
    at.bytes = 777;
    tnm_opencl_mem sub = tnm_opencl_sub(cl, &at);
    unsigned char in[777], out[777];
    memset(in, 0xA5, sizeof in);
    CHECK(sub != NULL);
    CHECK_EQ(cl->api.EnqueueWriteBuffer(tnm_opencl_queue(cl, 0), sub, 1, 0, 777, in, 0, NULL, NULL),
             0);
    cl->api.ReleaseMemObject(sub);
    CHECK_EQ(cl->api.EnqueueReadBuffer(tnm_opencl_queue(cl, 0), tnm_opencl_buffer(cl, at.mem), 1,
                                       (size_t)at.offset, 777, out, 0, NULL, NULL),
             0);
    CHECK(memcmp(in, out, 777) == 0);
    at.offset += 1;
    if (tnm_opencl_alignment(cl) > 1) {
        CHECK(tnm_opencl_sub(cl, &at) == NULL);
        CHECK(strstr(tnm_opencl_error(cl), "clCreateSubBuffer") != NULL);
    }
    b.release(b.user, at.mem, 64 * KIB);
    tnm_opencl_close(cl);
}

/* ---- copies ---- */
TEST(a_full_queue_is_busy_until_a_ticket_is_answered) {
    enum { N = 16, EACH = 64 * KIB };
    static unsigned char in[(N + 1) * EACH], out[(N + 1) * EACH];
    tnm_opencl *cl = opened(0, NULL);
    tnm_backend b;
    uint64_t mem, ticket[N + 1];
    void *host;
    tnm_opencl_backend(cl, &b);
    CHECK_EQ(b.alloc(b.user, sizeof in, 256, NULL, &mem, &host), TNM_OK);
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (unsigned char)(i * 7 + (i >> 9));
    for (uint64_t i = 0; i <= N; i++) {
        tnm_span dst = device_span(&b, mem, i * EACH), src = plain_span(in + i * EACH);
        CHECK_EQ(b.copy(b.user, &dst, &src, EACH, &ticket[i]), i < N ? TNM_PENDING : TNM_ERR_BUSY);
        if (i < N) continue;
        b.submit(b.user);
        CHECK_EQ(b.wait(b.user, ticket[5]), TNM_OK); /* any of them makes room */
        CHECK_EQ(b.copy(b.user, &dst, &src, EACH, &ticket[5]), TNM_PENDING);
    }
    b.submit(b.user);
    for (int i = N - 1; i >= 0; i--)
        CHECK_EQ(b.wait(b.user, ticket[i]), TNM_OK);
    CHECK_EQ(b.poll(b.user, ticket[0]), TNM_ERR_ARGUMENT); /* answered: it is nobody's */
    CHECK_EQ(b.poll(b.user, 0), TNM_ERR_ARGUMENT);
    CHECK_EQ(b.poll(b.user, N + 1), TNM_ERR_ARGUMENT);
    CHECK_EQ(copy_now(&b, plain_span(out), device_span(&b, mem, 0), sizeof out), TNM_OK);
    CHECK(memcmp(in, out, sizeof in) == 0);
    b.release(b.user, mem, sizeof in);
    tnm_opencl_close(cl);
}

TEST(devices_of_one_context_copy_directly_and_others_by_staging) {
    static unsigned char in[100003], out[100003];
    tnm_opencl *first = opened(0, NULL), *second = opened(1, first), *stranger = opened(1, NULL);
    tnm_backend b[3];
    uint64_t mem[3], ticket = 7;
    void *host;
    tnm_opencl_backend(first, &b[0]);
    tnm_opencl_backend(second, &b[1]);
    tnm_opencl_backend(stranger, &b[2]);
    CHECK(tnm_opencl_device(first) != tnm_opencl_device(second));
    for (int i = 0; i < 3; i++)
        CHECK_EQ(b[i].alloc(b[i].user, 200000, 256, NULL, &mem[i], &host), TNM_OK);
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (unsigned char)(i % 251);
    tnm_span far = device_span(&b[2], mem[2], 0), here = device_span(&b[0], mem[0], 0);
    CHECK_EQ(copy_now(&b[0], device_span(&b[0], mem[0], 5), plain_span(in), sizeof in), TNM_OK);
    CHECK_EQ(
        copy_now(&b[1], device_span(&b[1], mem[1], 99), device_span(&b[0], mem[0], 5), sizeof in),
        TNM_OK);
    CHECK_EQ(copy_now(&b[1], plain_span(out), device_span(&b[1], mem[1], 99), sizeof out), TNM_OK);
    CHECK(memcmp(in, out, sizeof in) == 0);
    CHECK_EQ(b[2].copy(b[2].user, &far, &here, 10, &ticket), TNM_ERR_UNSUPPORTED);
    CHECK_EQ(b[0].copy(b[0].user, &far, &here, 10, &ticket), TNM_ERR_UNSUPPORTED);
    CHECK_EQ(ticket, 7);
    for (int i = 0; i < 3; i++)
        b[i].release(b[i].user, mem[i], 200000);
    tnm_opencl_close(stranger);
    tnm_opencl_close(first); /* in any order: the context is theirs together */
    tnm_opencl_close(second);
}

/* ---- fences ---- */
typedef struct gate { /* a queue stands still until it is opened */
    tnm_opencl_event event;
    int32_t(TNM_OPENCL_CALL *set)(tnm_opencl_event, int32_t);
    int32_t status;
    const tnm_opencl *cl;
} gate;

static gate closed(const tnm_opencl *cl, uint32_t queue) {
    gate g;
    int32_t code = 0;
    tnm_opencl_event(TNM_OPENCL_CALL * make)(tnm_opencl_cl_context, int32_t *);
    int32_t(TNM_OPENCL_CALL * barrier)(tnm_opencl_cl_queue, uint32_t, const tnm_opencl_event *,
                                       tnm_opencl_event *);
    memset(&g, 0, sizeof g);
    g.cl = cl;
    CHECK(tnm_opencl_find(cl, "clCreateUserEvent", &make, sizeof make));
    CHECK(tnm_opencl_find(cl, "clSetUserEventStatus", &g.set, sizeof g.set));
    CHECK(tnm_opencl_find(cl, "clEnqueueBarrierWithWaitList", &barrier, sizeof barrier));
    g.event = make(tnm_opencl_context(cl), &code);
    CHECK_EQ(code, 0);
    CHECK_EQ(barrier(tnm_opencl_queue(cl, queue), 1, &g.event, NULL), 0);
    return g;
}

static void open_gate(gate *g) {
    CHECK_EQ(g->set(g->event, g->status), 0);
    g->cl->api.ReleaseEvent(g->event);
}

static void *open_later(void *user) {
    struct timespec pause = { 0, 30 * 1000 * 1000 };
    nanosleep(&pause, NULL);
    open_gate((gate *)user);
    return NULL;
}

TEST(a_fence_passes_with_its_queue_and_sleeps_only_if_asked) {
    tnm_opencl *cl = opened(0, NULL);
    pthread_t thread;
    CHECK_EQ(tnm_opencl_passed(cl, 0, 0), 0);
    CHECK_EQ(tnm_opencl_passed(cl, 0, 9), 0); /* never marked: nothing to sleep for */
    CHECK_EQ(tnm_opencl_passed(cl, 2, 0), (long long)UINT64_MAX); /* no such queue */
    CHECK_EQ(tnm_opencl_mark(cl, 2), 0);
    CHECK_EQ(tnm_opencl_mark(cl, 0), 1);
    CHECK_EQ(tnm_opencl_passed(cl, 0, 1), 1);
    gate g = closed(cl, 0);
    CHECK_EQ(tnm_opencl_mark(cl, 0), 2);
    CHECK_EQ(tnm_opencl_mark(cl, 1), 1);
    CHECK_EQ(tnm_opencl_passed(cl, 1, 1), 1); /* queues do not wait for each other */
    CHECK_EQ(tnm_opencl_passed(cl, 0, 0), 1);
    CHECK_EQ(tnm_opencl_passed(cl, 0, 1), 1);
    CHECK_EQ(pthread_create(&thread, NULL, open_later, &g), 0);
    CHECK_EQ(tnm_opencl_passed(cl, 0, 2), 2);
    pthread_join(thread, NULL);
    tnm_opencl_close(cl);
}

static int counted_markers; /* alive */
static tnm_opencl_api uncounted;

static int32_t TNM_OPENCL_CALL counted_marker(tnm_opencl_cl_queue queue, uint32_t n,
                                              const tnm_opencl_event *list,
                                              tnm_opencl_event *event) {
    counted_markers++;
    return uncounted.EnqueueMarkerWithWaitList(queue, n, list, event);
}

static int32_t TNM_OPENCL_CALL counted_retain(tnm_opencl_event event) {
    counted_markers++;
    return uncounted.RetainEvent(event);
}

static int32_t TNM_OPENCL_CALL counted_release(tnm_opencl_event event) {
    counted_markers--;
    return uncounted.ReleaseEvent(event);
}

TEST(more_marks_than_places_never_pass_early) {
    enum { MARKS = 3 * TNM_OPENCL_FENCES + 5 };
    tnm_opencl *cl = opened(0, NULL);
    gate g = closed(cl, 0);
    counted_markers = 1; /* the gate */
    uncounted = cl->api;
    cl->api.EnqueueMarkerWithWaitList = counted_marker;
    cl->api.RetainEvent = counted_retain;
    cl->api.ReleaseEvent = counted_release;
    for (uint64_t i = 1; i <= MARKS; i++)
        CHECK_EQ(tnm_opencl_mark(cl, 0), i);
    CHECK_EQ(tnm_opencl_passed(cl, 0, 0), 0);
    open_gate(&g);
    CHECK(tnm_opencl_passed(cl, 0, TNM_OPENCL_FENCES + 1) > TNM_OPENCL_FENCES);
    CHECK_EQ(tnm_opencl_passed(cl, 0, MARKS), MARKS);
    CHECK_EQ(tnm_opencl_mark(cl, 0), MARKS + 1);
    CHECK_EQ(counted_markers, 1);
    tnm_opencl_close(cl); /* with a marker that nobody looked at */
    CHECK_EQ(counted_markers, 0);
}

TEST(marks_come_from_any_thread) {
    tnm_opencl *cl = opened(0, NULL);
    marks_of_threads(cl, NULL);
    tnm_opencl_close(cl);
}

/* ---- a runtime that fails: its calls are the backend's own table ---- */
static int32_t broken_code, broken_status;
static tnm_opencl_api whole;

static int32_t TNM_OPENCL_CALL broken_info(tnm_opencl_event event, uint32_t what, size_t size,
                                           void *value, size_t *bytes) {
    int32_t code = whole.GetEventInfo(event, what, size, value, bytes);
    if (broken_status && *(int32_t *)value == 0) *(int32_t *)value = broken_status;
    return broken_code ? broken_code : code;
}

static int32_t TNM_OPENCL_CALL broken_flush(tnm_opencl_cl_queue queue) {
    return broken_code ? broken_code : whole.Flush(queue);
}

static tnm_opencl *breakable(void) {
    tnm_opencl *cl = opened(0, NULL);
    whole = cl->api;
    cl->api.GetEventInfo = broken_info;
    cl->api.Flush = broken_flush;
    broken_code = broken_status = 0;
    return cl;
}

TEST(a_failed_command_is_an_error_and_a_dead_device_is_lost) {
    static unsigned char bytes[4096];
    tnm_opencl *cl = breakable();
    tnm_backend b;
    uint64_t mem, ticket;
    void *host;
    tnm_opencl_backend(cl, &b);
    CHECK_EQ(b.alloc(b.user, 4096, 256, NULL, &mem, &host), TNM_OK);
    tnm_span dst = device_span(&b, mem, 0), src = plain_span(bytes);
    broken_status = -5;
    CHECK_EQ(copy_now(&b, dst, src, 4096), TNM_ERR_BACKEND);
    CHECK(strstr(tnm_opencl_error(cl), "-5 (CL_OUT_OF_RESOURCES)") != NULL);
    broken_status = 0;
    broken_code = -6; /* nobody can say: the answer is an error, and the copy is over */
    CHECK_EQ(b.copy(b.user, &dst, &src, 4096, &ticket), TNM_PENDING);
    CHECK_EQ(b.poll(b.user, ticket), TNM_ERR_BACKEND);
    broken_code = 0;
    CHECK_EQ(copy_now(&b, dst, src, 4096), TNM_OK);
    CHECK_EQ(b.copy(b.user, &dst, &src, 4096, &ticket), TNM_PENDING);
    broken_code = -2;
    b.submit(b.user);
    CHECK_EQ(b.poll(b.user, ticket), TNM_ERR_LOST);
    broken_code = 0; /* once dead, dead for ever */
    CHECK_EQ(b.copy(b.user, &dst, &src, 4096, &ticket), TNM_ERR_LOST);
    CHECK_EQ(b.alloc(b.user, 4096, 256, NULL, &ticket, &host), TNM_ERR_LOST);
    CHECK_EQ(b.available(b.user), 0);
    CHECK_EQ(tnm_opencl_mark(cl, 0), 0);
    CHECK_EQ(tnm_opencl_passed(cl, 0, 1), (long long)UINT64_MAX);
    CHECK(strstr(tnm_opencl_error(cl), "CL_DEVICE_NOT_AVAILABLE") != NULL);
    b.release(b.user, mem, 4096);
    tnm_opencl_close(cl);
}

TEST(a_failed_kernel_ends_its_queue_and_no_other) {
    tnm_opencl *cl = breakable();
    uint64_t value = tnm_opencl_mark(cl, 0);
    broken_code = -6; /* not to be had now is not dead */
    CHECK_EQ(tnm_opencl_passed(cl, 0, value), 0);
    broken_code = 0;
    CHECK_EQ(tnm_opencl_passed(cl, 0, value), (long long)value);
    value = tnm_opencl_mark(cl, 0);
    broken_status = -9999;
    CHECK_EQ(tnm_opencl_passed(cl, 0, value), (long long)UINT64_MAX);
    broken_status = 0;
    value = tnm_opencl_mark(cl, 1);
    CHECK_EQ(tnm_opencl_passed(cl, 1, value), (long long)value);
    CHECK_EQ(tnm_opencl_passed(cl, 0, 0), (long long)UINT64_MAX);
    tnm_opencl_close(cl);
}

/* ---- through a context ---- */
static tnm_ctx *over(tnm_opencl *cl, tnm_opencl *peer) {
    tnm_backend top, pinned, spill;
    tnm_opencl_backend(cl, &top);
    tnm_opencl_host(cl, &pinned);
    if (peer) tnm_opencl_backend(peer, &spill);
    return context_over(cl, &top, &pinned, peer ? &spill : NULL);
}

static uint64_t fill(void *user, uint32_t queue, const tnm_pinned *at, uint8_t value) {
    tnm_opencl *cl = (tnm_opencl *)user;
    int32_t(TNM_OPENCL_CALL * enqueue)(tnm_opencl_cl_queue, tnm_opencl_mem, const void *, size_t,
                                       size_t, size_t, uint32_t, const tnm_opencl_event *,
                                       tnm_opencl_event *);
    CHECK(tnm_opencl_find(cl, "clEnqueueFillBuffer", &enqueue, sizeof enqueue));
    CHECK(at->host == NULL);
    tnm_opencl_mem sub = tnm_opencl_sub(cl, at);
    CHECK(sub != NULL);
    CHECK_EQ(enqueue(tnm_opencl_queue(cl, queue), sub, &value, 1, HALF, REST, 0, NULL, NULL), 0);
    cl->api.ReleaseMemObject(sub);
    return tnm_opencl_mark(cl, queue);
}

TEST(more_tensors_than_fit_are_worked_through) {
    tnm_opencl *cl = opened(0, NULL), *peer = opened(0, cl), *stranger = opened(0, NULL);
    int rounds = check_scale(8, 2);
    tnm_opencl *const lowest[3] = { NULL, peer, stranger }; /* plain, a sibling, one beyond reach */
    for (int i = 0; i < 3; i++) {
        through_a_context(over(cl, lowest[i]), fill, cl, rounds);
        CHECK_EQ(cl->held, 0);
    }
    tnm_opencl_close(stranger);
    tnm_opencl_close(peer);
    tnm_opencl_close(cl);
}

/* ---- ends ---- */
TEST(a_context_and_a_device_end_with_copies_in_flight) {
    static unsigned char many[16 * MIB];
    tnm_opencl *cl = opened(0, NULL);
    tnm_backend b;
    uint64_t token, ticket;
    void *host;
    a_context_ends_with_copies_in_flight(over(cl, NULL));
    tnm_opencl_backend(cl, &b); /* and of a device whose copies nobody waits for */
    CHECK_EQ(b.alloc(b.user, sizeof many, 256, NULL, &token, &host), TNM_OK);
    memset(many, 1, sizeof many);
    CHECK_EQ(copy_now(&b, device_span(&b, token, 0), plain_span(many), sizeof many), TNM_OK);
    memset(many, 2, sizeof many);
    for (int i = 0; i < 8; i++) {
        tnm_span src = device_span(&b, token, 0), dst = plain_span(many);
        CHECK_EQ(b.copy(b.user, &dst, &src, sizeof many, &ticket), TNM_PENDING);
    }
    b.release(b.user, token, sizeof many);
    tnm_opencl_close(cl);
    CHECK(many[sizeof many - 1] == 1); /* it has waited, and nobody writes any more */
    memset(many, 3, sizeof many);
    CHECK(memcmp(many, many + 1, sizeof many - 1) == 0);
}

/* How many devices, up to two. Asked in a process of its own: see the test of exit. */
static int devices_here(void) {
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        tnm_opencl_desc desc;
        tnm_opencl *cl;
        memset(&desc, 0, sizeof desc);
        while (desc.device < 2 && tnm_opencl_open(&desc, &cl) == TNM_OK)
            desc.device++;
        if (desc.device == 0) printf("%s\n", tnm_opencl_error(NULL));
        fflush(stdout);
        _exit(desc.device);
    }
    return child > 0 && waitpid(child, &status, 0) == child ? WEXITSTATUS(status) : 0;
}

int main(void) {
    int devices;
    setenv("POCL_DEVICES", "pthread pthread", 0); /* a CPU, twice */
#ifdef CL_VERSION_1_2
    RUN(the_declarations_are_those_of_the_vendor);
    RUN(codes_have_their_names);
#else
    SKIP("declarations", "CL/cl.h is not installed");
#endif
    if (under_valgrind()) {
        SKIP("opencl", "Valgrind reports what loads PoCL and its threads, and there is no GPU");
        return check_done();
    }
    devices = devices_here();
    if (devices == 0) {
        SKIP("opencl", "no OpenCL library, or no GPU or PoCL behind it");
        return check_done();
    }
    RUN(exit_with_copies_in_flight_is_quiet);
    RUN(no_descriptor_is_the_default_one);
    RUN(what_cannot_be_opened_says_why);
    RUN(closing_twice_or_nothing_is_harmless);
    RUN(an_applications_context_and_queues_are_used_and_kept);
    RUN(memory_beyond_a_buffers_limit_is_refused);
    RUN(a_sub_buffer_is_the_pinned_bytes);
    RUN(a_full_queue_is_busy_until_a_ticket_is_answered);
    if (devices < 2)
        SKIP("devices_of_one_context_copy_directly_and_others_by_staging", "one GPU only");
    else
        RUN(devices_of_one_context_copy_directly_and_others_by_staging);
    RUN(a_fence_passes_with_its_queue_and_sleeps_only_if_asked);
    RUN(more_marks_than_places_never_pass_early);
    RUN(marks_come_from_any_thread);
    RUN(a_failed_command_is_an_error_and_a_dead_device_is_lost);
    RUN(a_failed_kernel_ends_its_queue_and_no_other);
    RUN(more_tensors_than_fit_are_worked_through);
    RUN(a_context_and_a_device_end_with_copies_in_flight);
    return check_done();
}
