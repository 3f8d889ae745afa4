/* Words instead of atomics: the same tests. */
#define TENSORMEM_NO_ATOMICS
#include "test_base.c"
