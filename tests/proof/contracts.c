/* What the arithmetic of the header promises, for Frama-C's WP (tests/proof.sh): where its
 * `requires` hold, no proved function overflows, leaves an array or divides by zero, and its result
 * is the mathematical one.
 *
 * `admitted`: the four functions that are bit tricks. Their contracts are used here and proved
 * elsewhere, on the compiled header: tnmi_base_odd by tests/proof/odd.smt2 as a bit vector, the
 * others by tests/proof/exhaust.c, which tries every 32-bit argument. */
#define TENSORMEM_NO_ATOMICS
#define TENSORMEM_NO_FILE
#define TENSORMEM_NO_STDIO
#define NDEBUG
#define TENSORMEM_IMPLEMENTATION
#include "tensormem.h"

/*@ axiomatic powers {
      predicate power(integer a);
      axiom power_positive: \forall integer a; power(a) ==> 1 <= a <= 9223372036854775808;
    } */

/* ---- [base] ---- */
/*@ requires \valid(out);
    assigns *out;
    ensures \result != 0 <==> a + b <= UINT64_MAX;
    ensures \result != 0 ==> *out == a + b; */
static int tnmi_base_add(uint64_t a, uint64_t b, uint64_t *out);

/*@ requires \valid(out);
    assigns *out;
    ensures \result != 0 <==> a * b <= UINT64_MAX;
    ensures \result != 0 ==> *out == a * b; */
static int tnmi_base_mul(uint64_t a, uint64_t b, uint64_t *out);

/*@ requires power(power);
    assigns \nothing;
    ensures admitted: \result == a % power; */
static uint64_t tnmi_base_odd(uint64_t a, uint64_t power);

/*@ requires \valid(out) && power(power);
    assigns *out;
    ensures \result != 0 <==> a + power - 1 <= UINT64_MAX;
    ensures \result != 0 ==> *out == (a + power - 1) - (a + power - 1) % power;
    ensures \result != 0 ==> a <= *out < a + power; */
static int tnmi_base_align(uint64_t a, uint64_t power, uint64_t *out);

/*@ assigns \nothing;
    ensures \result == (a < b ? a : b); */
static uint64_t tnmi_base_min(uint64_t a, uint64_t b);

/*@ assigns \nothing;
    ensures \result == (a > b ? a : b); */
static uint64_t tnmi_base_max(uint64_t a, uint64_t b);

/*@ assigns \nothing;
    ensures \result == (a > b ? a - b : 0); */
static uint64_t tnmi_base_less(uint64_t a, uint64_t b);

/*@ requires c >= 1;
    assigns \nothing;
    ensures a * b <= UINT64_MAX ==> \result == (a * b) / c;
    ensures a * b > UINT64_MAX && (a / c) * b <= UINT64_MAX ==> \result == (a / c) * b;
    ensures a * b > UINT64_MAX && (a / c) * b > UINT64_MAX ==> \result == UINT64_MAX; */
static uint64_t tnmi_base_scale(uint64_t a, uint64_t b, uint64_t c);

/*@ requires a != 0;
    assigns \nothing;
    ensures admitted: \result < 32;
    ensures admitted: (1 << \result) <= a < (2 << \result); */
static uint32_t tnmi_base_log2(uint32_t a);

/*@ requires a != 0;
    assigns \nothing;
    ensures admitted: \result < 32;
    ensures admitted: a % (1 << \result) == 0; */
static uint32_t tnmi_base_low_bit(uint32_t a);

/* ---- [store] ---- */
/*@ assigns \nothing;
    ensures admitted: \result <= 26;
    ensures admitted: \result == 0 <==> index < 64; */
static size_t tnmi_store_chunk(uint32_t index);

/*@ predicate grows(tnmi_table *table) = table->first < 32 && 1 <= (1 << table->first) &&
      table->capacity <= table->limit; */

/*@ requires \valid_read(table) && grows(table);
    assigns \nothing;
    ensures table->capacity == table->limit <==> \result == 0;
    ensures \result <= table->limit - table->capacity;
    ensures table->capacity > 0 ==> \result <= table->capacity; */
static uint32_t tnmi_store_grow_count(const tnmi_table *table);

/*@ requires \valid_read(table) && grows(table);
    assigns \nothing;
    ensures \result <= (table->limit - table->capacity) * table->stride;
    ensures \result % (table->stride == 0 ? 1 : table->stride) == 0; */
static uint64_t tnmi_store_grow_bytes(const tnmi_table *table);

/*@ requires \valid_read(table) && table->live + table->retired <= table->capacity;
    assigns \nothing;
    ensures \result == table->capacity - table->live - table->retired; */
static uint32_t tnmi_store_spare(const tnmi_table *table);

/*@ requires \valid_read(table) && need <= UINT64_MAX - 2 * UINT32_MAX;
    assigns \nothing;
    ensures \result != 0 <==> table->live + table->retired + need <= table->limit; */
static int tnmi_store_allows(const tnmi_table *table, uint64_t need);

/* ---- [tell] ---- */
/*@ predicate ring(tnmi_tell *tell) = 1 <= tell->capacity <= 2147483648 &&
      tell->head < tell->capacity && tell->count <= tell->capacity &&
      \valid(tell->ring + (0 .. tell->capacity - 1)); */

/*@ requires \valid(tell) && \valid(out) && ring(tell);
    requires \separated(tell, out, tell->ring + (0 .. tell->capacity - 1));
    assigns *out, tell->head, tell->count;
    ensures ring(tell);
    ensures \old(tell->count) == 0 <==> \result == 0;
    ensures \result != 0 ==> tell->count == \old(tell->count) - 1;
    ensures \result == 0 ==> tell->count == 0 && tell->head == \old(tell->head);
    ensures \result != 0 ==> tell->head == (\old(tell->head) + 1) % tell->capacity; */
static int tnmi_tell_pop(tnmi_tell *tell, tnmi_tell_item *out);

/* ---- [space] ---- */
/*@ requires size < 1073741824;
    assigns \nothing;
    ensures admitted: \result < TNMI_SPACE_BINS; */
static uint32_t tnmi_space_bin_of(uint32_t size);

/*@ requires \valid_read(room) && power(room->align) && room->align <= 536870912;
    requires start <= end <= 536870912;
    assigns \nothing;
    ensures \result != TNMI_NONE ==> start <= \result && room->from <= \result;
    ensures \result != TNMI_NONE ==> \result + room->need <= end;
    ensures \result != TNMI_NONE ==> \result + room->need <= room->to; */
static uint32_t tnmi_space_fit(uint32_t start, uint32_t end, const tnmi_room *room);

/* ---- [move] ---- */
/*@ assigns \nothing;
    ensures \result <= 3; */
static uint32_t tnmi_move_stage_reserve(tnm_class class_, int downward);

/*@ requires \valid_read(op) && \valid(bounce) && \separated(op, bounce);
    requires op->next < op->bytes && source + op->bytes <= UINT64_MAX;
    requires 1 <= grain <= 4294967296 && most <= INT64_MAX && op->bytes <= INT64_MAX;
    assigns *bounce;
    ensures 1 <= \result <= op->bytes - op->next;
    ensures *bounce == 0 || *bounce == 1;
    ensures *bounce == 1 ==> \result <= grain;
    ensures *bounce == 0 && odd_ends == 0 && grain > 1 ==>
            (source + op->next) % grain == 0; */
static uint64_t tnmi_move_cut(const tnmi_op *op, uint64_t most, uint64_t source, uint64_t grain,
                              int odd_ends, int *bounce);

/* ---- [tensor]: the word, handles, shapes ---- */
/*@ assigns \nothing;
    ensures \result == (access == TNM_READ ? 281474976710656 : 281474976710656 + 16777216); */
static uint64_t tnmi_tensor_pin_of(tnm_access access);

/*@ assigns \nothing;
    ensures \result == (write != 0 ? 65537 : 1); */
static uint32_t tnmi_tensor_fence_unit(int write);

/*@ requires \valid(elements) && \valid(bytes) && \separated(elements, bytes);
    assigns *elements, *bytes;
    ensures \result != 0 ==> *elements == 1 || *elements == 32;
    ensures \result != 0 ==> 1 <= *bytes <= 34;
    ensures \result != 0 <==> 0 <= dtype <= TNM_Q8_0; */
static int tnmi_tensor_block(tnm_dtype dtype, uint64_t *elements, uint64_t *bytes);

/*@ requires \valid_read(desc) && \valid(rank) && \valid(bytes);
    requires \separated(desc, rank, bytes);
    assigns *rank, *bytes;
    ensures 0 <= *rank <= TNM_MAX_DIMS;
    ensures *bytes <= INT64_MAX || \result != \null; */
static const char *tnmi_tensor_shape(const tnm_tensor_desc *desc, int *rank, uint64_t *bytes);
