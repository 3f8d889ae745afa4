/* tests/standin_hip.c keeps its word: tests/test_standin_cuda.c for HIP. */
/* needs: -pthread */
#define TEST_HIP
#include "test_standin_cuda.c"
