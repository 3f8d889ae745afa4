/* inside.h: what the tests share that look at a room from inside. A test includes tensormem.h, then
 * this. */
#ifndef TENSORMEM_TESTS_INSIDE_H
#define TENSORMEM_TESTS_INSIDE_H

#include "check.h"

static uint64_t inside_seed = 1;

static inline uint32_t draw(uint64_t below) {
    return (uint32_t)check_draw(&inside_seed, below);
}

#endif
