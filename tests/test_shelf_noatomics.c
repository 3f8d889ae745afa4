/* needs: -pthread */
/* The built-in file backend without atomics, so without io_uring: the same tests. */
#define TENSORMEM_NO_ATOMICS
#include "test_shelf.c"
