/* The bit tricks under the contracts, proved by trying every argument there is. */
#define TENSORMEM_NO_FILE
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"
#include <stdio.h>

/* powers of two become larger with a; bins too, and each is left before the next begins */
static const char *wrong(uint32_t a, uint32_t *bin, size_t *chunk) {
    uint32_t log = tnmi_base_log2(a), low = tnmi_base_low_bit(a);
    if (log >= 32 || (uint64_t)1 << log > a || (uint64_t)2 << log <= a) return "tnmi_base_log2";
    if (low > log || a % ((uint64_t)1 << low) || !(a >> low & 1)) return "tnmi_base_low_bit";
    size_t now = tnmi_store_chunk(a);
    if (now < *chunk || now > *chunk + 1 || now > 26) return "tnmi_store_chunk";
    if ((now == 0) != (a < 64) || (now && (a >> (now + 5)) != 1)) return "tnmi_store_chunk";
    *chunk = now;
    if (a >= (uint32_t)1 << 30) return NULL;
    uint32_t next = tnmi_space_bin_of(a);
    if (next < *bin || next > *bin + 1 || next >= TNMI_SPACE_BINS) return "tnmi_space_bin_of";
    *bin = next;
    return NULL;
}

int main(void) {
    uint32_t bin = tnmi_space_bin_of(0);
    size_t chunk = tnmi_store_chunk(0);
    for (uint32_t a = 1; a != 0; a++) {
        const char *name = wrong(a, &bin, &chunk);
        if (name) {
            printf("%s(%lu) breaks its contract\n", name, (unsigned long)a);
            return 1;
        }
    }
    return 0;
}
