/* needs: -pthread */
/* The application's lock instead of ours: the same tests. */
#define THREADS_OWN_LOCK
#include "test_threads.c"
