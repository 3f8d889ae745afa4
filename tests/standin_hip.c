/* needs: -pthread */
/* standin_hip.c: the HIP runtime over host memory: the machine of standin_cuda.c behind HIP's
 * names, for examples/backends/hip.h. The same rules are enforced, with the thread's current device
 * in place of its current context; what fails is remembered for hipGetLastError.
 *
 * For tests: standin_revive() gives fresh devices, as hipDeviceReset of each in a process of its
 * own would. */
#define STANDIN_HIP
#define cuInit                  hipInit
#define cuDeviceGetCount        hipGetDeviceCount
#define cuDeviceGetAttribute    hipDeviceGetAttribute
#define cuMemGetInfo_v2         hipMemGetInfo
#define cuMemAlloc_v2           hipMalloc
#define cuMemGetAddressRange_v2 hipMemGetAddressRange
#define cuMemFree_v2            hipFree
#define cuMemHostAlloc          hipHostMalloc
#define cuMemFreeHost           hipHostFree
#define cuStreamCreate          hipStreamCreateWithFlags
#define cuStreamQuery           hipStreamQuery
#define cuStreamIsCapturing     hipStreamIsCapturing
#define cuStreamSynchronize     hipStreamSynchronize
#define cuStreamDestroy_v2      hipStreamDestroy
#define cuEventCreate           hipEventCreateWithFlags
#define cuEventRecord           hipEventRecord
#define cuEventQuery            hipEventQuery
#define cuEventSynchronize      hipEventSynchronize
#define cuEventDestroy_v2       hipEventDestroy
#define cuMemcpyHtoDAsync_v2    hipMemcpyHtoDAsync
#define cuMemcpyDtoHAsync_v2    hipMemcpyDtoHAsync
#define cuMemcpyDtoDAsync_v2    hipMemcpyDtoDAsync
#define cuDeviceCanAccessPeer   hipDeviceCanAccessPeer
#include "standin_cuda.c"

void standin_revive(void) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < device_count; i++) {
        destroy(&contexts[i]);
        (void)make_context(i, 1);
    }
    pthread_mutex_unlock(&lock);
}

int hipGetDevice(int *device) {
    int code = begin(__func__);
    if (!code) *device = current_device;
    return end(code);
}

int hipSetDevice(int device) {
    int code = begin(__func__);
    if (!code && (device < 0 || device >= device_count)) code = INVALID_DEVICE;
    if (!code) current_device = device;
    return end(code);
}

int hipPeekAtLastError(void) {
    return last_error;
}

int hipGetLastError(void) {
    int code = last_error;
    last_error = 0;
    return code;
}

const char *hipGetErrorName(int code) {
    return code == 1     ? "hipErrorInvalidValue"
           : code == 2   ? "hipErrorOutOfMemory"
           : code == 100 ? "hipErrorNoDevice"
           : code == 304 ? "hipErrorOperatingSystem"
           : code == 700 ? "hipErrorIllegalAddress"
                         : "hipErrorUnknown";
}

int hipHostGetDevicePointer(void **device, void *host, unsigned flags) {
    int code = begin_inside(__func__);
    block *b = find(host);
    if (flags) broken("flags are not 0");
    if (!code && (!b || !b->host)) code = INVALID_VALUE;
    if (!code) *device = host;
    return end(code);
}

int hipMemcpyPeerAsync(uintptr_t to, int to_device, uintptr_t from, int from_device, size_t bytes,
                       void *on) {
    int code = begin_inside(__func__);
    a_device(to_device);
    a_device(from_device);
    const context *to_of = &contexts[to_device], *from_of = &contexts[from_device];
    if (!code) code = to_of->lost ? to_of->lost : from_of->lost;
    return end(code ? code : copy_across(to, to_of, from, from_of, bytes, on));
}

int hipDeviceEnablePeerAccess(int peer, unsigned flags) {
    int code = begin_inside(__func__);
    a_device(peer);
    return end(code ? code : enable_peer(&contexts[peer], flags));
}
