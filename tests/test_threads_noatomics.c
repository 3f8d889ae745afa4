/* needs: -pthread */
/* The pin word as a plain word under the lock: the same tests. */
#define TENSORMEM_NO_ATOMICS
#include "test_threads.c"
