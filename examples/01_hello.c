/* 01_hello (difficulty 1 of 5): the shortest program. Twice the bytes that the fast tier holds. */
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"

int main(void) { /* 128 MiB of weights through a 64 MiB fast tier */
    tnm_tier_desc tiers[] = {{.name = "fast", .budget_bytes = 64u << 20}, {.name = "slow"}};
    tnm_desc desc = {.tiers = tiers, .tier_count = 2};
    tnm_ctx *mem;
    tnm_tensor w[32];
    if (tnm_create(&desc, &mem) != TNM_OK) return 1;
    for (int i = 0; i < 32; i++)
        tnm_tensor_create(mem, &(tnm_tensor_desc){.bytes = 4u << 20}, &w[i]);
    for (int step = 0; step < 96; step++) {
        tnm_use use = {.tensor = w[step % 32], .access = step < 32 ? TNM_DISCARD : TNM_WRITE};
        tnm_pinned now;
        if (tnm_pin(mem, &use, 1, &now) != TNM_OK) return 2;
        ((unsigned char *)now.host)[0] = (unsigned char)step; /* compute */
        tnm_unpin(mem, &now, 1, 0);
    }
    tnm_dump(mem, TNM_DUMP_TEXT, NULL);
    return tnm_destroy(mem);
}
