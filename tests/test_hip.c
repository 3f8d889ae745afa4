/* needs: tensormem.o -pthread -ldl */
/* examples/backends/hip.h from outside: tests/test_cuda.c over tests/standin_hip.c (STANDIN_HIP
 * names the built library; else build/standin/libhip.so). */
#define TEST_HIP
#include "test_cuda.c"
