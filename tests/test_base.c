/* The room [base] from inside: checked arithmetic, bits and the atomics' single-thread meaning. */
#define TENSORMEM_IMPLEMENTATION
#include "../tensormem.h"
#include "check.h"

static uint64_t seed = 1;

static uint64_t draw(void) { /* numbers of every magnitude */
    uint64_t value = check_random(&seed);
    return value >> check_draw(&seed, 64);
}

TEST(add_says_when_it_wraps) {
    uint64_t out;
    CHECK(tnmi_base_add(0, 0, &out) && out == 0);
    CHECK(tnmi_base_add(UINT64_MAX - 5, 5, &out) && out == UINT64_MAX);
    CHECK(!tnmi_base_add(UINT64_MAX - 5, 6, &out));
    CHECK(!tnmi_base_add(UINT64_MAX, UINT64_MAX, &out));
    for (int i = 0; i < check_scale(100000, 1000); i++) {
        uint64_t a = draw(), b = draw();
        CHECK_EQ(tnmi_base_add(a, b, &out), b <= UINT64_MAX - a);
        if (b <= UINT64_MAX - a) CHECK(out - a == b);
    }
}

TEST(multiply_says_when_it_wraps) {
    uint64_t out;
    CHECK(tnmi_base_mul(0, UINT64_MAX, &out) && out == 0);
    CHECK(tnmi_base_mul(UINT64_MAX, 0, &out) && out == 0);
    CHECK(tnmi_base_mul(1, UINT64_MAX, &out) && out == UINT64_MAX);
    CHECK(tnmi_base_mul(UINT32_MAX, (uint64_t)UINT32_MAX + 2, &out) && out == UINT64_MAX);
    CHECK(!tnmi_base_mul((uint64_t)1 << 32, (uint64_t)1 << 32, &out));
    CHECK(!tnmi_base_mul(3, UINT64_MAX / 3 + 1, &out));
    for (int i = 0; i < check_scale(100000, 1000); i++) {
        uint64_t a = draw() + 1, b = draw();
        if (a == 0) continue;
        CHECK_EQ(tnmi_base_mul(a, b, &out), b <= UINT64_MAX / a);
        if (b <= UINT64_MAX / a) CHECK(out / a == b && out % a == 0);
    }
}

TEST(align_rounds_up_or_refuses) {
    uint64_t out;
    CHECK(tnmi_base_align(0, 256, &out) && out == 0);
    CHECK(tnmi_base_align(1, 256, &out) && out == 256);
    CHECK(tnmi_base_align(256, 256, &out) && out == 256);
    CHECK(tnmi_base_align(UINT64_MAX, 1, &out) && out == UINT64_MAX);
    CHECK(!tnmi_base_align(UINT64_MAX, 2, &out));
    CHECK(tnmi_base_align(UINT64_MAX - 255, 256, &out) && out == UINT64_MAX - 255);
    CHECK(!tnmi_base_align(UINT64_MAX - 254, 256, &out));
    for (int i = 0; i < check_scale(100000, 1000); i++) {
        uint64_t a = draw(), align = (uint64_t)1 << (i % 64);
        int fits = a <= UINT64_MAX - (align - 1);
        CHECK_EQ(tnmi_base_align(a, align, &out), fits);
        if (fits) CHECK(out >= a && out - a < align && out % align == 0);
    }
}

TEST(powers_and_bits) {
    CHECK(!tnmi_base_is_power(0));
    CHECK(!tnmi_base_is_power(UINT64_MAX));
    for (uint32_t i = 0; i < 64; i++) {
        CHECK(tnmi_base_is_power((uint64_t)1 << i));
        if (i > 1) CHECK(!tnmi_base_is_power(((uint64_t)1 << i) + 1));
        if (i > 1) CHECK(!tnmi_base_is_power(((uint64_t)1 << i) - 1));
    }
    for (uint32_t i = 0; i < 32; i++) {
        uint32_t bit = (uint32_t)1 << i;
        CHECK_EQ(tnmi_base_log2(bit), i);
        CHECK_EQ(tnmi_base_log2(bit | (bit - 1)), i);
        CHECK_EQ(tnmi_base_low_bit(bit), i);
        CHECK_EQ(tnmi_base_low_bit(UINT32_MAX << i), i);
    }
}

TEST(min_max_less) {
    CHECK(tnmi_base_min(1, UINT64_MAX) == 1 && tnmi_base_min(UINT64_MAX, 1) == 1);
    CHECK(tnmi_base_max(1, UINT64_MAX) == UINT64_MAX && tnmi_base_max(UINT64_MAX, 1) == UINT64_MAX);
    CHECK(tnmi_base_less(5, 3) == 2);
    CHECK(tnmi_base_less(3, 3) == 0);
    CHECK(tnmi_base_less(0, UINT64_MAX) == 0);
}

/* floor(a * b / c) by long division of the 128-bit product, UINT64_MAX where it does not fit */
static uint64_t exact_scale(uint64_t a, uint64_t b, uint64_t c) {
    uint64_t low = (a & UINT32_MAX) * (b & UINT32_MAX), high = (a >> 32) * (b >> 32);
    uint64_t cross[2], quotient = 0, rest;
    cross[0] = (a >> 32) * (b & UINT32_MAX);
    cross[1] = (a & UINT32_MAX) * (b >> 32);
    for (int i = 0; i < 2; i++) {
        high += cross[i] >> 32;
        high += low + (cross[i] << 32) < low;
        low += cross[i] << 32;
    }
    if (high >= c) return UINT64_MAX;
    rest = high;
    for (int bit = 63; bit >= 0; bit--) {
        int carry = (int)(rest >> 63);
        rest = rest << 1 | (low >> bit & 1);
        if (!carry && rest < c) continue;
        rest -= c;
        quotient |= (uint64_t)1 << bit;
    }
    return quotient;
}

TEST(scale_is_exact_when_the_product_fits_and_never_wraps) {
    CHECK(exact_scale(UINT64_MAX, UINT64_MAX, UINT64_MAX) == UINT64_MAX);
    CHECK(exact_scale(7, 5, 2) == 17);
    CHECK(tnmi_base_scale(7, 5, 2) == 17);
    CHECK(tnmi_base_scale(UINT64_MAX, 1, 1) == UINT64_MAX);
    CHECK(tnmi_base_scale(UINT64_MAX, 2, 1) == UINT64_MAX);
    CHECK(tnmi_base_scale(0, 0, 1) == 0);
    for (int i = 0; i < check_scale(100000, 1000); i++) {
        uint64_t a = draw(), b = draw(), c = draw() | 1, product;
        uint64_t want = exact_scale(a, b, c), got = tnmi_base_scale(a, b, c);
        if (tnmi_base_mul(a, b, &product)) CHECK(got == want);
        else CHECK(got <= want && (want == UINT64_MAX || want - got <= b));
    }
}

TEST(mix_depends_on_both) {
    uint64_t bits = 0;
    CHECK(tnmi_base_mix(1, 2) == tnmi_base_mix(1, 2));
    CHECK(tnmi_base_mix(1, 2) != tnmi_base_mix(1, 3));
    CHECK(tnmi_base_mix(1, 2) != tnmi_base_mix(2, 2));
    for (uint64_t i = 0; i < 64; i++) bits |= tnmi_base_mix(0, i + 1);
    CHECK(bits == UINT64_MAX);
}

TEST(atomics_do_what_they_say) {
    uint64_t word = 5, expected = 4;
    uint32_t half = 7;
    CHECK(tnmi_base_load64(&word) == 5 && tnmi_base_peek64(&word) == 5);
    CHECK(!tnmi_base_swap64(&word, &expected, 9));
    CHECK(word == 5 && expected == 5);
    CHECK(tnmi_base_swap64(&word, &expected, UINT64_MAX));
    CHECK(word == UINT64_MAX);
    CHECK(tnmi_base_sub64(&word, (uint64_t)1 << 48) == UINT64_MAX);
    CHECK(word == UINT64_MAX - ((uint64_t)1 << 48));
    tnmi_base_poke64(&word, 3);
    CHECK(word == 3);
    CHECK(tnmi_base_load32(&half) == 7);
    tnmi_base_store32(&half, UINT32_MAX);
    CHECK(half == UINT32_MAX);
}

TEST(annotated_memory_comes_back_usable) {
    unsigned char *memory = (unsigned char *)check_alloc(NULL, 4096);
    CHECK(memory != NULL);
    if (memory == NULL) return;
    tnmi_base_noaccess(memory, 4096);
    tnmi_base_undefined(memory, 64);
    memset(memory, 1, 64);
    CHECK(memory[63] == 1);
    tnmi_base_ordinary(memory, 4096);
    memset(memory, 2, 4096);
    CHECK(memory[4095] == 2);
    tnmi_base_noaccess(NULL, 1);
    tnmi_base_undefined(NULL, 1);
    tnmi_base_ordinary(NULL, 1);
    check_release(NULL, memory, 4096);
}

int main(void) {
    RUN(add_says_when_it_wraps);
    RUN(multiply_says_when_it_wraps);
    RUN(align_rounds_up_or_refuses);
    RUN(powers_and_bits);
    RUN(min_max_less);
    RUN(scale_is_exact_when_the_product_fits_and_never_wraps);
    RUN(mix_depends_on_both);
    RUN(atomics_do_what_they_say);
    RUN(annotated_memory_comes_back_usable);
    return check_done();
}
