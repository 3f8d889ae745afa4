/* tensormem.h - tensors that are bigger than the memory they are needed in
 *
 * tensormem 0.1.0                                             MIT OR Unlicense
 *
 * You name your tensors, say what you will touch next, and pin what you touch now. This header
 * moves the bytes between device memory, host memory and storage, inside budgets that are never
 * exceeded, so that a pin is already true when you ask for it. C99, also C++11. It needs the C
 * library and nothing else; it keeps no global state, starts no thread unless asked, and allocates
 * only through your allocator. It computes nothing and knows no device: you bring a backend, or use
 * the two built in (host memory, a file).
 *
 * In ONE C or C++ file:      #define TENSORMEM_IMPLEMENTATION
 *                            #include "tensormem.h"
 * In every other file:       #include "tensormem.h"
 *
 * CONTENTS. Search for a tag, brackets included, to jump to its room.
 *
 *   Front, for users           [title]   this page
 *                              [guide]   the model in words, and what it does not do
 *                              [config]  the TENSORMEM_* switches
 *                              [types]   handles, results, descriptors
 *                              [calls]   every function with its contract
 *   Back, under                [base]    checked arithmetic, atomics, memory annotations
 *   TENSORMEM_IMPLEMENTATION   [tell]    log items and trace events
 *                              [store]   tables that never move, a heap, sorting
 *                              [space]   placement inside a tier, as index arithmetic
 *                              [shelf]   the built-in backends: host memory, file
 *                              [tier]    budgets, segments, the byte ledger
 *                              [move]    copies in flight
 *                              [tensor]  names, contents, replicas, the pin word
 *                              [hint]    advice, lanes, schedules, next use
 *                              [policy]  who leaves, what comes next
 *                              [engine]  the step function: the only writer across rooms
 *                              [watch]   info, stats, why, dump, check
 *                              [door]    the public functions; the only room that runs your code
 *                              [end]     the two licences
 *
 * THE SHORTEST PROGRAM (examples/01_hello.c)
 *
 * @code
 * #define TENSORMEM_IMPLEMENTATION
 * #include "tensormem.h"
 *
 * int main(void) { // 128 MiB of weights through a 64 MiB fast tier
 *     tnm_tier_desc tiers[] = {{.name = "fast", .budget_bytes = 64u << 20}, {.name = "slow"}};
 *     tnm_desc desc = {.tiers = tiers, .tier_count = 2};
 *     tnm_ctx *mem;
 *     tnm_tensor w[32];
 *     if (tnm_create(&desc, &mem) != TNM_OK) return 1;
 *     for (int i = 0; i < 32; i++)
 *         tnm_tensor_create(mem, &(tnm_tensor_desc){.bytes = 4u << 20}, &w[i]);
 *     for (int step = 0; step < 96; step++) {
 *         tnm_use use = {.tensor = w[step % 32], .access = step < 32 ? TNM_DISCARD : TNM_WRITE};
 *         tnm_pinned now;
 *         if (tnm_pin(mem, &use, 1, &now) != TNM_OK) return 2;
 *         ((unsigned char *)now.host)[0] = (unsigned char)step; // compute
 *         tnm_unpin(mem, &now, 1, 0);
 *     }
 *     tnm_dump(mem, TNM_DUMP_TEXT, NULL);
 *     return tnm_destroy(mem);
 * }
 * @end
 */
#ifndef TENSORMEM_H
#    define TENSORMEM_H
/* [guide] ------------------------------------------------------------------- *
 * How to think about it, and what it does not do. The exact contract of each call is in [calls], of
 * each field in [types]. A sample between @code and @end is a complete program: `make test` cuts it
 * out, compiles it as C99 with every warning an error, and runs it.
 *
 * 1. THE MODEL
 *
 *   context   one memory manager; all state hangs off it, several live side by side
 *   tier      a place for bytes with a budget; index 0 is the fastest
 *   backend   the callbacks that make a tier real: alloc, release, copy, and poll if copies are
 *             asynchronous
 *   segment   one piece of memory a backend gave; tensors are placed inside it by offset
 *   tensor    a name: handle, dtype, shape, byte range. It has no memory until it is first written,
 *             adopted or pinned
 *   content   the bytes behind one or more names (a tensor and its views): the unit of residency,
 *             advice and pins
 *   replica   a content's bytes in one tier, at most one per tier
 *   dirty     no current replica further down the spill path. A clean replica leaves for free
 *   pin       the promise that a replica stays where it is: READ, WRITE (read and write) or DISCARD
 *             (write without fetching)
 *   fence     (queue, value) on a timeline of yours: the CPU is done with a pin, the device will be
 *   lane,step a clock of work: a model's layers, a scheduler's passes
 *   pump      one bounded step of work on your thread; the heartbeat
 *   tick      a pump, a round of a waiting call, or a try_pin that answered PENDING: what claims
 *             and back-offs are counted in. Ages and distances go by pins and steps instead
 *
 * The loop of every user: say what comes (schedule or prefetch), pin a set, compute on it, unpin,
 * step, pump. What was last written is what the next pin sees, whatever moved in between.
 *
 * 2. TIERS AND BUDGETS
 *
 * Tiers form a tree by `spill_to`: two devices over one host over one disk, or three kinds of host
 * memory. 0 means "the next one", TNM_NOWHERE makes a bottom. Leaving a tier means going further
 * down this path. Where device and CPU share one memory, leave the host tier out: one tier is both.
 *
 * A budget holds at every instant against `reserved_bytes`: whole segments, staging, rounding and
 * tails, charged before `alloc` is asked. What stands outside: adopted memory (it is yours) and the
 * context's own tables, which come from your allocator: some 150 bytes for a tensor with one
 * replica; where max_tensors fixes the tables, 370 for each with two tiers, and 32 for each of
 * max_uses (default: 4 x max_tensors).
 *
 * Staging is the bounce buffer of routes that no backend copies directly: staging_bytes, or an
 * eighth of its tier's budget if that is less. Where such a route is likely (a backend with a
 * granularity, two backends of yours, one of them among three tiers, or staging_tier was named)
 * that much is kept free of tensors, from the start where a tier is of the context's allocator, or
 * of a backend that says that the CPU sees all it gives (host_visible).
 *
 * segment_bytes 0 takes the whole budget as one piece, which packs best and cannot shrink a little.
 * If tnm_set_budget is to shrink a tier finely, give about 1/16 of the budget. TNM_DEDICATED asks
 * `alloc` once per tensor and passes desc.user as `item`: textures, committed resources.
 * tnm_set_budget binds from the call on; PENDING means that something is still above it, so pump
 * and call again. There 0 is none: in a descriptor 0 is the default, in an argument 0 is zero.
 *
 * 3. TENSORS, CONTENTS, VIEWS
 *
 * The content is what moves, always whole: make the tensor the size you want to move (a layer, an
 * expert, a KV block). A view is a second name for a range of the same content. It keeps the bytes
 * alive after the first name is destroyed, so a shared prompt prefix is one content and a view per
 * conversation. Two halves that must live on two devices are two tensors, not two views.
 *
 * Destroying kills the handle at once and for ever (later use answers STALE); the memory goes when
 * the last name, pin, copy and fence let go. A pin survives its handle: unpin names the replica.
 *
 * 4. PINS AND SETS
 *
 * A set is pinned all or nothing: it is admitted whole in one step, every member found or placed,
 * or it holds nothing. Once admitted it completes by I/O alone. The same content twice in a set is
 * one place with two pins; on two tiers with a WRITE among them it is ARGUMENT.
 *
 * @code
 * #define TENSORMEM_IMPLEMENTATION
 * #include "tensormem.h"
 *
 * enum { N = 256 };
 *
 * // y += a * x, where a fast tier has room for two of the three vectors only
 * static int axpy(tnm_ctx *mem, float a, tnm_tensor x, tnm_tensor y) {
 *     tnm_use set[2] = {{.tensor = x}, {.tensor = y, .access = TNM_WRITE}};
 *     tnm_pinned at[2];
 *     if (tnm_pin(mem, set, 2, at) < 0) return 0; // nothing is held on failure
 *     const float *from = (const float *)at[0].host;
 *     float *to = (float *)at[1].host;
 *     for (int i = 0; i < N; i++) to[i] += a * from[i];
 *     return tnm_unpin(mem, at, 2, 0) == TNM_OK;
 * }
 *
 * int main(void) {
 *     tnm_tier_desc tiers[2] = {{.name = "fast", .budget_bytes = 2048}, {.name = "slow"}};
 *     tnm_desc desc = {.tiers = tiers, .tier_count = 2};
 *     tnm_tensor_desc vec = {.dtype = TNM_F32, .shape = {N}};
 *     float one[N], out[N];
 *     tnm_ctx *mem;
 *     tnm_tensor v[3];
 *     for (int i = 0; i < N; i++) one[i] = 1.0f;
 *     if (tnm_create(&desc, &mem) < 0) return 1;
 *     for (int i = 0; i < 3; i++) {
 *         if (tnm_tensor_create(mem, &vec, &v[i]) < 0) return 2;
 *         if (tnm_write(mem, v[i], 0, one, sizeof one) != TNM_OK) return 3;
 *     }
 *     if (!axpy(mem, 2.0f, v[0], v[2]) || !axpy(mem, 4.0f, v[1], v[2])) return 4;
 *     if (tnm_read(mem, v[2], 0, out, sizeof out) != TNM_OK) return 5;
 *     for (int i = 0; i < N; i++)
 *         if (out[i] < 6.5f) return 6;
 *     return tnm_destroy(mem);
 * }
 * @end
 *
 * Pins never wait for pins. What stands in the way decides:
 *
 *   what is in the way                              tnm_pin         tnm_try_pin
 *   ----------------------------------------------  --------------  ---------------------------
 *   the bytes are elsewhere, or on their way        waits           PENDING
 *   room is held by what may leave (dirty or clean) waits           PENDING
 *   room is held by a fence, a claim or a copy      waits           PENDING
 *   a WRITE, and a copy still reads the old bytes   waits           PENDING
 *   a conflicting pin elsewhere that only a fence
 *     still holds                                   waits           PENDING
 *   a backend's queue is full                       waits           PENDING
 *   TNM_IF_READY, and it is not here                ABSENT          ABSENT, nothing is started
 *   room is held by live pins, whoever's            BUDGET at once  BUDGET at once
 *   a conflicting live pin on another tier          BUSY at once    BUSY at once
 *   nothing was ever written (not for DISCARD)      EMPTY           EMPTY
 *   the only copy is gone (not for DISCARD)         LOST            LOST
 *   no copy route between the tiers                 UNSUPPORTED     UNSUPPORTED
 *   what must leave is dirty, and the tier below
 *     refuses writes                                BACKEND         BACKEND
 *   the transfer failed                             BACKEND         BACKEND once, then anew
 *   a table cannot grow, or max_tensors fixed it    MEMORY or       MEMORY or
 *                                                   CAPACITY        CAPACITY
 *   nothing moves and your `idle` gave up           PENDING         -
 *
 * A refusal comes before anything has moved, and tnm_why names the tier, the numbers and the pins
 * in the way, also before asking. It is exact for one tensor and for the bytes of a set; a set is
 * placed largest first, which may refuse a packing that a cleverer search would find.
 *
 * A try_pin that answered PENDING leaves a claim: what arrived for it is kept for 64 ticks after it
 * is complete, so ask again every frame or take it back with tnm_cancel.
 *
 * 5. WRITING
 *
 * WRITE and DISCARD are granted when no other tier holds a pin on the content. At the grant the
 * other replicas stop being current. On one tier pins do not exclude each other: order between
 * several users of one replica is your queue's or your lock's business. A DISCARD pin shows
 * whatever the memory held before, and whoever unpins it vouches for every byte. Through a view
 * that does not cover its content DISCARD acts as WRITE. DISCARD is also the way out of EMPTY and
 * LOST.
 *
 * tnm_write into an EMPTY tensor covers it whole or zero-fills the rest; a LOST one it must cover
 * whole. Over existing bytes it works where the CPU sees them: if they are not on such a tier, they
 * are fetched to one first, unless none of them will be left, and a failure on the way changes
 * nothing. Where no tier that can hold the tensor is seen by the CPU, its sole copy is written in
 * place, and half a write is LOST.
 *
 * Dirty bytes travel down before they leave, and are lost if you destroy the context without
 * tnm_flush. TNM_DROPPABLE says that they may be dropped instead, and the tensor is EMPTY then.
 *
 * 6. FENCES
 *
 * tnm_unpin(..., TNM_FENCE(queue, value)) keeps the pin until passed(queue) >= value. It holds the
 * place, a pin that conflicts on another tier, tnm_write, and tnm_read if it wrote; it never holds
 * a pin on the same tier, whose order is your queue's. Unpin with a fence only after the work is
 * submitted: a fence that waits for its own caller is the one hang we cannot prevent. A game's
 * clock is its frame number: a fence per frame, and `passed` returns the number of the last frame
 * the device finished. A queue that answers UINT64_MAX is dead: its fences pass, and what it was
 * writing is LOST. Where a queue could not be marked there is no value: a fence of 0 or -1 is
 * ARGUMENT and the pin stays. Wait for what was submitted some other way, then unpin without one.
 *
 * 7. ADOPTED MEMORY
 *
 * A range of a file, a mapped file, a host pointer or a backend's allocation becomes a content's
 * bottom replica: not copied, not charged, clean by birth, so it leaves faster tiers for nothing
 * and never touches a spill file. writable 0: the first write elsewhere gives the tensor bytes of
 * its own, and the range is let go (`released`, run by a later call that pumps). writable 1:
 * write-backs and flushes land in it.
 *
 * @code
 * #define TENSORMEM_IMPLEMENTATION
 * #include "tensormem.h"
 *
 * static unsigned char model[4][65536]; // stands for a mapped model file
 *
 * int main(void) {
 *     tnm_tier_desc tiers[2] = {{.name = "fast", .budget_bytes = 2 * 65536}, {.name = "model"}};
 *     tnm_desc desc = {.tiers = tiers, .tier_count = 2};
 *     tnm_use cycle[4];
 *     tnm_ctx *mem;
 *     if (tnm_create(&desc, &mem) < 0) return 1;
 *     for (unsigned i = 0; i < 4; i++) {
 *         tnm_tensor_desc layer = {.label = "layer", .bytes = sizeof model[i]};
 *         tnm_adopt_desc where = {.tier = 1, .host = model[i]};
 *         model[i][0] = (unsigned char)i;
 *         cycle[i] = (tnm_use){.tier = 0, .step = i};
 *         if (tnm_tensor_adopt(mem, &layer, &where, &cycle[i].tensor) < 0) return 2;
 *     }
 *     if (tnm_schedule(mem, 0, cycle, 4, 4) < 0) return 3; // the order repeats every 4 steps
 *     for (uint64_t step = 0; step < 40; step++) {
 *         tnm_pinned at;
 *         tnm_step(mem, 0, step);
 *         if (tnm_pin(mem, &cycle[step % 4], 1, &at) != TNM_OK) return 4;
 *         if (((unsigned char *)at.host)[0] != step % 4) return 5; // compute
 *         tnm_unpin(mem, &at, 1, 0);
 *         tnm_pump(mem, TNM_ALL);
 *     }
 *     return tnm_destroy(mem);
 * }
 * @end
 *
 * Mapped memory is paged by the system behind our back, outside every budget: adopt ranges of the
 * file itself (tnm_file_adopt) where the budget is meant to be the truth.
 *
 * 8. FORESIGHT
 *
 * Without a word from you the least recently pinned leaves first. That is the worst possible order
 * for a loop larger than its tier; tell us the loop, let us watch a pass of it, or let us learn.
 *
 *   tnm_schedule  a lane's cycle: use i happens at steps step_i + k * period. Replaces the lane's
 *                 former cycle; the uses are copied
 *   tnm_record, tnm_replay   around a representative pass: what it pinned becomes the schedule
 *   tnm_step      work for this step of the lane begins; steps may jump, a smaller one restarts
 *   tnm_prefetch  single uses at steps of a lane. With TNM_SURE they rank with the schedule (a
 *                 scheduler's queue), without it they are guesses (a router's prediction)
 *   tnm_cancel    takes back prefetches and unanswered try_pins
 *   tnm_advise    KEEP last to leave, ONCE and WONT_NEED first; flags DROPPABLE, SCRUB
 *
 * Eight lanes are eight clocks: draft and target model, layers and passes. Sure uses stand beside
 * each other; a guess is replaced by the next use told for its tensor, tier and lane. A use that
 * will be built anew is announced with DISCARD and costs no fetch. Announce sure uses without gaps,
 * each tensor's next at least: if a lane told uses of a tensor before and tells none now, there is
 * taken to be none as far as the lane looks ahead. Such tensors leave first, by age.
 *
 * A guess cannot hurt: it never evicts what is needed sooner, what is claimed, or another unused
 * prefetch; at most `guess_bytes` of guesses stand before a demand on a link; the wasted ones are
 * counted. A larger guess_bytes overlaps more between rare pumps, a smaller one answers sooner.
 *
 * To watch one pass is enough (tnm_record before, tnm_replay behind): what was pinned is the cycle,
 * and where no step was told, each set that is pinned begins the next one from then on.
 *
 * @code
 * #define TENSORMEM_IMPLEMENTATION
 * #include "tensormem.h"
 *
 * int main(void) { // a program that knows nothing of schedules but where its loop begins
 *     tnm_tier_desc tiers[2] = {{.name = "fast", .budget_bytes = 8 << 10}, {.name = "slow"}};
 *     tnm_desc desc = {.tiers = tiers, .tier_count = 2};
 *     tnm_use use[16];
 *     tnm_ctx *mem;
 *     if (tnm_create(&desc, &mem) < 0) return 1;
 *     for (int i = 0; i < 16; i++) {
 *         tnm_tensor_desc layer = {.bytes = 1024};
 *         use[i] = (tnm_use){.access = TNM_DISCARD};
 *         if (tnm_tensor_create(mem, &layer, &use[i].tensor) < 0) return 2;
 *     }
 *     for (int pass = 0; pass < 9; pass++) {
 *         if (pass == 1 && tnm_record(mem, 0) < 0) return 3;
 *         for (int i = 0; i < 16; i++) {
 *             tnm_pinned at;
 *             if (tnm_pin(mem, &use[i], 1, &at) != TNM_OK) return 4;
 *             tnm_unpin(mem, &at, 1, 0); // compute
 *             use[i].access = TNM_READ;
 *             tnm_pump(mem, TNM_ALL);
 *         }
 *         if (pass == 1 && tnm_replay(mem, 0) < 0) return 5;
 *     }
 *     return tnm_destroy(mem);
 * }
 * @end
 *
 * With tnm_desc.policy = TNM_POLICY_AUTO nothing need be said or marked. Of each tensor it learns
 * after how many pins it is wanted again. Gaps that agree, where such were right before, foretell
 * the next use: it leaves by that, and comes back by a guess shortly before, no more of them ahead
 * than a 32nd of the tier. What is not regular leaves by age; by age over frequency while that has
 * the better of it, which is judged by pairs, one that left and one that stayed, by which of them
 * is used first. Distance and age are divided by what a byte costs to bring back. A loop is known
 * in its third pass. Eight bytes a tensor; a hit costs what it costs anyway.
 *
 * 9. PUMP AND FRAMES
 *
 * pin, read, write, wait and destroy wait, and pump while they do. Everything else returns at once,
 * and only create and pump beside them run backend callbacks. So an application that never stalls
 * uses try_pin, unpin with a fence and one tnm_pump(mem, bytes) a frame. The pump starts at most so
 * many bytes, evictions and write-backs included, and always gets on if bytes > 0. OK is "nothing
 * left to do at this step", PENDING is "more". A synchronous backend's copies run inside the pump.
 *
 * @code
 * #define TENSORMEM_IMPLEMENTATION
 * #include "tensormem.h"
 *
 * static uint64_t frames_done(void *user, uint32_t queue, uint64_t wait_for) {
 *     uint64_t *done = (uint64_t *)user;
 *     (void)queue;
 *     if (*done < wait_for) *done = wait_for; // a real one sleeps until the device is there
 *     return *done;
 * }
 *
 * int main(void) {
 *     uint64_t done = 0;
 *     tnm_tier_desc tiers[2] = {{.name = "vram", .budget_bytes = 1 << 20}, {.name = "host"}};
 *     tnm_desc desc = {.tiers = tiers, .tier_count = 2, .user = &done, .passed = frames_done};
 *     tnm_use draw = {.tier = 0};
 *     unsigned char pixel = 7;
 *     int drawn = 0;
 *     tnm_ctx *mem;
 *     if (tnm_create(&desc, &mem) < 0) return 1;
 *     if (tnm_tensor_create(mem, &(tnm_tensor_desc){.bytes = 1 << 18}, &draw.tensor) < 0) return 2;
 *     if (tnm_write(mem, draw.tensor, 0, &pixel, 1) != TNM_OK) return 3;
 *     for (uint64_t frame = 1; frame <= 16; frame++) {
 *         tnm_pinned at;
 *         tnm_result r = tnm_try_pin(mem, &draw, 1, &at); // never waits
 *         if (r < 0) return 4;
 *         if (r == TNM_OK) {
 *             drawn++; // submit the draw, then hand its fence over
 *             tnm_unpin(mem, &at, 1, TNM_FENCE(0, frame));
 *         } // else PENDING: draw something smaller, ask again in the next frame
 *         tnm_pump(mem, 1 << 20);
 *         if (frame > 2) done = frame - 2; // the device runs two frames behind
 *     }
 *     return drawn > 0 ? tnm_destroy(mem) : 5;
 * }
 * @end
 *
 * 10. WHO LEAVES
 *
 * One key for all: expected distance, divided by what a byte costs to bring back (and to write out
 * if dirty). Distance is the known next use; with none known, the time since the last pin. So with
 * nothing known and equal costs this is LRU: with equal sizes and one thread textbook LRU, exactly.
 * WONT_NEED and used ONCE go first, then what is current both above and below its tier, since it
 * costs nothing; KEEP goes last. What was announced and has no use ahead is expected after the end
 * of what was announced, and among its like by age. With unequal sizes the contiguous run with the
 * least bytes/distance leaves, so that room is not lost to fragments. Under TNM_POLICY_AUTO
 * distances that nobody told are learned, and ages are divided by cost too.
 *
 * Under a schedule each tier with a budget splits its tensors into kept ones that stay (those that
 * cost most to bring and, if the cycle writes them, to take down; then the largest) and streamed
 * ones that share a ring of look-ahead W plus the largest set P. With N bytes in the cycle and C in
 * the tier, a steady sweep moves at most (N - C) + W + P + less than one tensor; LRU would move N.
 * In a tier of one segment a wall keeps the two apart; in several, fragments may cost a few kept
 * tensors a load in each sweep.
 * Streamed replicas that will leave next are written down early, when nothing more urgent moves.
 *
 * 11. A BACKEND IN AN AFTERNOON
 *
 * Of OpenCL, Vulkan, CUDA, HIP and Ascend there is one to copy, each a file under examples/backends
 * that loads the vendor's library when it runs: no SDK, an error in words where it is missing,
 * page-locked memory for the host tier, queues as fences. For anything else, this is a whole one:
 *
 * @code
 * #define TENSORMEM_IMPLEMENTATION
 * #include "tensormem.h"
 *
 * enum { DEPTH = 8, MEMORY = 64 << 20 };
 *
 * typedef struct gpu { // yours has a stream and events here; this one gets on when it is looked at
 *     struct { unsigned char *to, *from; uint64_t bytes; } copies[DEPTH];
 *     uint64_t queued, rung, copied; // copies taken, submitted, finished: a ticket is their number
 *     unsigned char *kernels[DEPTH]; // each adds 1 to the byte it points to
 *     uint64_t launched, ran;        // a fence's value is the number of its launch
 *     uint64_t taken;                // of MEMORY
 * } gpu;
 *
 * static tnm_result gpu_alloc(void *user, uint64_t size, uint64_t align, void *item,
 *                             uint64_t *mem, void **host) {
 *     gpu *d = (gpu *)user;
 *     void *at = size <= MEMORY - d->taken ? malloc((size_t)size) : NULL;
 *     (void)item, (void)align;          // its addresses are (mem, offset): 0 is aligned
 *     if (!at) return TNM_ERR_MEMORY;   // a refusal: less will be asked for
 *     d->taken += size;
 *     *mem = (uint64_t)(uintptr_t)at; // the token may be anything
 *     *host = NULL;                   // the CPU cannot see it
 *     return TNM_OK;
 * }
 *
 * static void gpu_release(void *user, uint64_t mem, uint64_t size) {
 *     ((gpu *)user)->taken -= size;
 *     free((void *)(uintptr_t)mem);
 * }
 *
 * static tnm_result gpu_copy(void *user, const tnm_span *dst, const tnm_span *src, uint64_t size,
 *                            uint64_t *ticket);
 *
 * static unsigned char *gpu_reach(const tnm_span *span) {
 *     if (span->backend && span->backend->copy == gpu_copy) // ours, or a sibling's
 *         return (unsigned char *)(uintptr_t)span->mem + span->offset;
 *     return (unsigned char *)span->host; // this very byte, or NULL
 * }
 *
 * static tnm_result gpu_copy(void *user, const tnm_span *dst, const tnm_span *src, uint64_t size,
 *                            uint64_t *ticket) {
 *     gpu *d = (gpu *)user;
 *     unsigned char *to = gpu_reach(dst), *from = gpu_reach(src);
 *     if (!to || !from) return TNM_ERR_UNSUPPORTED; // not my route: through staging then
 *     if (d->queued - d->copied == DEPTH) return TNM_ERR_BUSY; // full: asked again later
 *     d->copies[d->queued % DEPTH].to = to;
 *     d->copies[d->queued % DEPTH].from = from;
 *     d->copies[d->queued % DEPTH].bytes = size;
 *     *ticket = ++d->queued; // never 0
 *     return TNM_PENDING;
 * }
 *
 * static void gpu_submit(void *user) { // one doorbell for a run of copies
 *     ((gpu *)user)->rung = ((gpu *)user)->queued;
 * }
 *
 * static tnm_result gpu_poll(void *user, uint64_t ticket) {
 *     gpu *d = (gpu *)user;
 *     if (d->copied < d->rung) {
 *         uint64_t i = d->copied++ % DEPTH;
 *         memcpy(d->copies[i].to, d->copies[i].from, (size_t)d->copies[i].bytes);
 *     }
 *     return ticket <= d->copied ? TNM_OK : TNM_PENDING; // OK: nothing of it is written any more
 * }
 *
 * static uint64_t gpu_passed(void *user, uint32_t queue, uint64_t wait_for) { // tnm_desc.passed
 *     gpu *d = (gpu *)user;
 *     (void)queue; // it has one
 *     do
 *         if (d->ran < d->launched) ++*d->kernels[d->ran++ % DEPTH];
 *     while (d->ran < wait_for && d->ran < d->launched);
 *     return d->ran;
 * }
 *
 * static uint64_t launch(gpu *d, const tnm_pinned *at) { // a kernel; the fence behind it
 *     if (d->launched - d->ran == DEPTH) gpu_passed(d, 0, d->ran + 1);
 *     d->kernels[d->launched++ % DEPTH] = (unsigned char *)(uintptr_t)at->mem + at->offset;
 *     return TNM_FENCE(0, d->launched);
 * }
 *
 * int main(void) { // 16 tensors through room for 4
 *     static gpu dev;
 *     tnm_backend own = {.alloc = gpu_alloc, .release = gpu_release, .copy = gpu_copy,
 *                        .submit = gpu_submit, .poll = gpu_poll, .user = &dev};
 *     tnm_tier_desc tiers[2] = {{.name = "gpu", .backend = own, .budget_bytes = 4 * 4096},
 *                               {.name = "host"}};
 *     tnm_desc desc = {.tiers = tiers, .tier_count = 2, .user = &dev, .passed = gpu_passed};
 *     tnm_use use[16];
 *     unsigned char byte = 0;
 *     tnm_ctx *mem;
 *     if (tnm_create(&desc, &mem) != TNM_OK) return 1;
 *     for (int i = 0; i < 16; i++) {
 *         use[i] = (tnm_use){.tier = 0, .access = TNM_WRITE};
 *         if (tnm_tensor_create(mem, &(tnm_tensor_desc){.bytes = 4096}, &use[i].tensor)) return 2;
 *         if (tnm_write(mem, use[i].tensor, 0, &byte, 1) != TNM_OK) return 3;
 *     }
 *     for (int i = 0; i < 48; i++) {
 *         tnm_pinned at;
 *         if (tnm_pin(mem, &use[i % 16], 1, &at) != TNM_OK) return 4;
 *         tnm_unpin(mem, &at, 1, launch(&dev, &at)); // the CPU is done with it, the device will be
 *     }
 *     for (int i = 0; i < 16; i++)
 *         if (tnm_read(mem, use[i].tensor, 0, &byte, 1) != TNM_OK || byte != 3) return 5;
 *     return tnm_destroy(mem);
 * }
 * @end
 *
 * What must be decided, in this order:
 *
 *   memory     what names a segment: an address, a handle, an index. *host only where the CPU may
 *              touch it while the device does; host_visible where that is so of all of it
 *   routes     what the copy engine reaches: its own memory, a sibling's, which memory of the CPU.
 *              Where it wants page-locked memory, give a backend for the host tier that allocates
 *              it (host_visible), and recognise that by its `copy` too. Other CPU memory is copied
 *              and waited for inside `copy`, or is UNSUPPORTED and goes through staging
 *   alignment  where tensors begin is tnm_tier_desc.alignment. Copies begin and end anywhere all
 *              the same: a device with a grain brings odd edges another way. `granularity` is for
 *              what is read out of adopted memory, tail_bytes for kernels that read past the end
 *   tickets    a number for each submission, which the copies in it may share; never used anew
 *              while one of them is unanswered. `wait`, if there is a way to sleep
 *   fences     a number for each queue of kernels, told behind what is queued there, and a `passed`
 *              that answers it: the program's affair, but best kept with the backend
 *   death      which of the runtime's codes say that the device is gone. They are LOST, from then
 *              on and from every callback: its replicas drop, what lived only there is LOST, and
 *              the tier starts empty
 *
 * The engine promises: one callback at a time, a copy is offered to the destination's backend first
 * and then to the source's; both ends stay where they are until it is answered; submit before poll;
 * no poll of a ticket after an answer; release only of what no copy uses. You promise that what was
 * answered OK is there, that what was answered with an error writes no more, and that a refusal
 * leaves nothing behind. tests/conformance.h holds you to it, and to some forty rules in all:
 *
 *     int main(void) { // behind your backend and #include "tests/conformance.h"
 *         conform_subject s = {.name = "mine", .device = my_backend()};
 *         return conform(&s); // a line for each rule that is broken, by the names below
 *     }
 *
 *   alloc-full    running out is an abort, or an error that holds half of what was asked
 *   copy-odd      sizes and offsets are rounded to what the copy engine likes: over a neighbour
 *   copy-adopted  `user` is trusted without comparing `copy`, or a token of adopted memory is taken
 *                 for one of alloc's: look at `adopted`
 *   copy-plain    the memory of tnm_read and tnm_write is taken for page-locked
 *   ticket-zero   the first ticket is 0
 *   ticket-done   OK when the copy was submitted, or when a later one on another queue is done
 *   queue-busy    a full queue is an error, or waits inside `copy`
 *   fail-dead     an error is answered while the copy still runs
 *   thread-hop    the current device was set when it was opened, on that thread
 *   fence-work    the mark was taken before the kernel was queued, or on another queue
 *
 * In examples/04_own_backend.c such a device has a sibling below host memory. Tensors go to NumPy,
 * PyTorch and whoever else speaks DLPack, and come from them, by examples/dlpack.h, not copied: an
 * export is a pin that the consumer's deleter ends, an import is adopted memory whose deleter runs
 * from `released`.
 *
 * Two ceilings to know where copies are asynchronous: a staged route moves at most staging_bytes
 * between two pumps, any route at most queue_depth x chunk_bytes. `starved` in the stats counts the
 * pumps that came too late for them.
 *
 * The built-in file backend copies in the background: by io_uring, by overlapped files on Windows,
 * or by `threads` of its own; where the system refuses and no threads were asked for, inside the
 * call that pumps. tnm_file_how says which it is. `direct` goes past the page cache, so that the
 * budgets are the whole truth; give the tiers beside it an alignment of 512 or more then, or odd
 * tensors go through a bounce buffer.
 *
 * 12. THREADS
 *
 * One thread at a time per context; or any, with your lock and unlock, or with TENSORMEM_THREADS,
 * which brings a lock and, with pump_thread, a pump of its own. A pin that hits takes no lock: one
 * compare-and-swap, and a subtraction to unpin. With a trace callback every hit takes the lock. The
 * thread that pins and the one that unpins may differ. Of several that wait one drives the
 * backends and the others sleep until it has news: with your own lock and without
 * TENSORMEM_THREADS, in `idle`. Your alloc, release, log and trace may run on another thread while
 * a backend callback runs.
 *
 * 13. ERRORS, AND WHO LEARNS
 *
 * `if (r < 0)` is the error test. PENDING is never an error: pump, then make the same call again. A
 * call that fails leaves things as they were and zeroes its output. The log item names the broken
 * rule and the numbers; under NDEBUG the default log is silent, so set one.
 *
 * A transfer that fails later is told to the blocking call that joined it; to a try_pin at its next
 * ask, once, and the ask after that starts anew; to evict, flush and set_budget instead of PENDING
 * for ever. A prefetch nobody joined is a log item, an event, `failures` in the stats and
 * last_error in tnm_info. A tier that refuses writes is left alone for 1, 2, 4 .. 256 pumps or
 * misses. Bytes stay readable wherever they were readable before.
 *
 * 14. MEMORY ANNOTATIONS
 *
 * Tensors lie side by side inside a segment, so an overrun stays invisible to a checker. Under
 * ASan, and with TENSORMEM_VALGRIND, what holds no tensor is unreadable where the CPU sees it; with
 * TENSORMEM_REDZONE_BYTES so is a gap behind each tensor. Under MSan and Valgrind the bytes of a
 * new place are undefined until they are written. Other builds contain nothing of this.
 *
 * 15. DETERMINISM
 *
 * Same calls, same answers from the backends: same trace, byte for byte, with one calling thread.
 * No clock, no random number, no order that depends on an address is ever used. A disk answers when
 * it likes: open the built-in file with `sync` where the trace is to be repeated.
 *
 * 16. SECURITY
 *
 * Numbers are checked, pointers are trusted: a descriptor's sizes, shapes and offsets may come from
 * a hostile file, its pointers and callbacks may not. Handles carry generations and an optional
 * tag; a tnm_pinned that you copied is as unsafe as a copied pointer. DISCARD shows old bytes of
 * the same context unless TNM_SCRUB; tenants that do not trust each other use two contexts. What
 * goes to storage is padded with zeros. The spill file is made exclusively, mode 0600, follows no
 * link, and is unlinked where the system can; it is neither encrypted nor checksummed.
 *
 * 17. WHAT IT DOES NOT DO
 *
 *   - compute, launch kernels, or know any device: CUDA, Vulkan and the like are backends you copy
 *   - move part of a content: the unit is the whole content, so cut your tensors
 *   - compress, convert, checksum or encrypt bytes on the way
 *   - keep anything across a restart, talk to a network, or share memory between processes
 *   - copy on write: a view shares, it does not fork
 *   - guess from your access pattern, unless TNM_POLICY_AUTO says so: without schedule, prefetch or
 *     advice it is LRU
 *   - catch page faults or replace malloc: an unpinned pointer is dead, nothing will warn you
 *     (outside the annotated builds)
 *   - share fairly between tenants: there are no quotas inside a context
 *   - promise LRU order for unequal sizes, or the same trace with several threads
 * -------------------------------------------------------------------------- */
/* [config] ------------------------------------------------------------------ *
 * You define TENSORMEM_*, we define TNM_* and tnm_*.                           *
 *                                                                             *
 *   TENSORMEM_IMPLEMENTATION  in exactly one C or C++ file: the code itself    *
 *   TENSORMEM_STATIC          every function static (one private copy)         *
 *   TENSORMEM_API             your own linkage, e.g. __declspec(dllexport)     *
 *   TENSORMEM_THREADS         built-in lock and condition (pthreads, Win32),   *
 *                             the optional pump thread, tnm_file_desc.threads  *
 *   TENSORMEM_NO_ATOMICS      no lock-free hits: pin and unpin take the lock;  *
 *                             nor io_uring                                     *
 *   TENSORMEM_NO_STDIO        no FILE: logs and dumps need your callbacks      *
 *   TENSORMEM_NO_FILE         no file backend (tnm_file_* are left out)        *
 *   TENSORMEM_VALGRIND        tell Valgrind what is inside a segment           *
 *   TENSORMEM_REDZONE_BYTES   bytes kept unreadable behind each tensor, for    *
 *                             annotated builds; charged like tail_bytes        *
 *   TENSORMEM_ASSERT(x)       checks of our own bugs; default assert()         *
 * -------------------------------------------------------------------------- */
#    define TNM_VERSION_MAJOR 0
#    define TNM_VERSION_MINOR 1
#    define TNM_VERSION_PATCH 0
#    define TNM_VERSION                                                                           \
        (TNM_VERSION_MAJOR * 10000 + TNM_VERSION_MINOR * 100 + TNM_VERSION_PATCH)

#    include <stddef.h>
#    include <stdint.h>

#    ifndef TENSORMEM_API
#        if defined(TENSORMEM_STATIC) && defined(__GNUC__)
#            define TENSORMEM_API __attribute__((unused)) static
#        elif defined(TENSORMEM_STATIC)
#            define TENSORMEM_API static
#        else
#            define TENSORMEM_API extern
#        endif
#    endif
#    ifndef TENSORMEM_REDZONE_BYTES
#        define TENSORMEM_REDZONE_BYTES 0
#    endif

#    ifdef __cplusplus
extern "C" {
#    endif
/* [types] ------------------------------------------------------------------- *
 * 0 in a descriptor is "the default"; 0 in an argument is zero. Sizes are      *
 * bytes unless the name says otherwise. Members are only ever appended, and    *
 * zero keeps the old behaviour.                                                *
 * -------------------------------------------------------------------------- */
#    define TNM_ALL       UINT64_MAX /* tnm_pump, tnm_set_budget: no limit */
#    define TNM_DEDICATED UINT64_MAX /* segment_bytes: one alloc per tensor, never compacted */
#    define TNM_NOWHERE   (-1)       /* spill_to: this tier is a bottom */
#    define TNM_MAX_DIMS  5
#    define TNM_MAX_TIERS 64
#    define TNM_MAX_LANES 8

/* A fence: (queue, value) on a timeline of the application's. queue 0 .. 255, value 1 .. 2^55-2,
 * never falling on a queue. It is no 0 whatever the value, and a value of 0 or -1, which is how a
 * queue says that it could not be marked, is refused. Bit 63 is set, 8 bits of queue, 55 of value.
 */
#    define TNM_FENCE(queue, value)                                                                \
        (((uint64_t)1 << 63) | ((uint64_t)(queue) << 55) | (uint64_t)(value))

typedef struct tnm_ctx tnm_ctx; /* one memory manager; there is no other state */

typedef struct tnm_tensor {
    uint64_t id; /* {0} is no tensor */
} tnm_tensor;

typedef enum tnm_result {
    TNM_OK = 0,
    TNM_PENDING = 1,          /* under way: pump, then make the same call again */
    TNM_ABSENT = 2,           /* TNM_IF_READY only: not here, nothing was started */
    TNM_ERR_ARGUMENT = -1,    /* contract broken; the log item names the rule */
    TNM_ERR_STALE = -2,       /* the handle's tensor was destroyed */
    TNM_ERR_MEMORY = -3,      /* the host allocator returned NULL */
    TNM_ERR_CAPACITY = -4,    /* a fixed table is full; the log item names the field */
    TNM_ERR_BUDGET = -5,      /* cannot fit beside the pins held now */
    TNM_ERR_BUSY = -6,        /* conflicts with a pin on another tier; from copy(): queue full */
    TNM_ERR_EMPTY = -7,       /* the tensor holds nothing to read */
    TNM_ERR_BACKEND = -8,     /* a callback failed; nothing was lost; the next call tries anew */
    TNM_ERR_UNSUPPORTED = -9, /* no copy route between two tiers; from copy(): not my route */
    TNM_ERR_LOST = -10        /* the sole copy is gone; from a callback: this memory is gone */
} tnm_result;

/* ---- backends: three callbacks make a tier; all zero = memory from the context's allocator ----
 *
 * One of these callbacks of a context runs at a time, on whichever thread runs create, destroy,
 * pump, wait, pin, read or write: set your current device first. From any callback only tnm_info,
 * tnm_stats, tnm_why and tnm_result_string may be called.
 *
 * alloc    gives `size` bytes at `align` (a power of two): a token in *mem, and in *host the CPU
 *          address, or NULL if the CPU cannot see them. `item` is the tensor's desc.user for
 *          TNM_DEDICATED tiers, else NULL. Any error is a refusal; the engine makes do with less.
 *          LOST says besides that what was given before is gone.
 * release  gives it back: the same token and size.
 * copy     moves `size` >= 1 bytes between two spans that never overlap. OK = done now. PENDING =
 *          under way, *ticket (never 0) will be polled; several copies may share a ticket.
 *          UNSUPPORTED = not my route; BUSY = queue full, ask later; any other error = failed. The
 *          destination's backend is asked first, then the source's, then the bytes go through
 *          staging.
 * submit   optional: called after a run of copies, before any of them is polled.
 * poll     required if copy may answer PENDING: asked until the answer is not PENDING, never
 *          after. An error promises that the copy is dead: it writes no more.
 * wait     optional: may sleep until the ticket is done. Without it, waiting calls poll.
 * available optional: headroom for new segments, asked before alloc.                          */
typedef struct tnm_backend tnm_backend;

typedef struct tnm_span { /* one end of a copy; filled by the core */
    const tnm_backend
        *backend; /* whose memory: compare ->copy, then use ->user; NULL: plain memory */
    void *item;   /* tnm_tensor_desc.user of the tensor, or NULL (staging) */
    uint64_t mem, offset;
    void *host;  /* CPU address of this very byte, or NULL */
    int tier;    /* -1: the caller's plain memory (tnm_read, tnm_write) */
    int adopted; /* 1: not from alloc (may be pageable, unaligned) */
} tnm_span;

struct tnm_backend {
    tnm_result (*alloc)(void *user, uint64_t size, uint64_t align, void *item, uint64_t *mem,
                        void **host);
    void (*release)(void *user, uint64_t mem, uint64_t size);
    tnm_result (*copy)(void *user, const tnm_span *dst, const tnm_span *src, uint64_t size,
                       uint64_t *ticket);
    void (*submit)(void *user);
    tnm_result (*poll)(void *user, uint64_t ticket);
    tnm_result (*wait)(void *user, uint64_t ticket);
    uint64_t (*available)(void *user);
    void *user;
    uint32_t granularity;  /* copies out of adopted memory start and end on multiples; 0 = 1 */
    uint32_t odd_ends;     /* 1: they may start and end anywhere, but multiples are faster */
    uint32_t host_visible; /* 1: alloc always gives *host, so that staging can be planned for here
                            * before it has given any; 0: each alloc says */
};

typedef struct tnm_tier_desc {
    const char *name; /* borrowed until destroy; NULL = "tier" */
    tnm_backend backend;
    uint64_t budget_bytes;          /* 0 = unlimited */
    uint64_t segment_bytes;         /* 0 = the budget in one piece, halved while alloc refuses;
                                     * without a budget 16 MiB, growing to 1 GiB */
    uint32_t alignment;             /* a power of two; adopted memory keeps its own; 0 = 256, or
                                     * the backend's granularity if that is more */
    uint32_t tail_bytes;            /* readable behind every tensor; charged, not copied */
    uint32_t queue_depth;           /* copies handed to this backend at once; 0 = 8 */
    uint32_t read_cost, write_cost; /* relative per byte; 0 = 8 times the tier before */
    int spill_to;                   /* 0 = the next tier; else a greater index, or TNM_NOWHERE */
} tnm_tier_desc;

typedef enum tnm_policy {                 /* of what nobody told; hints outrank it */
                          TNM_POLICY_LRU, /* least recently pinned first */
                          TNM_POLICY_AUTO /* learned: periods, frequency where it pays, cost */
} tnm_policy;

typedef enum tnm_class { /* of a transfer, ascending: a later request may raise it */
                         TNM_CLASS_WRITE_BACK,
                         TNM_CLASS_GUESS,
                         TNM_CLASS_SURE,
                         TNM_CLASS_DEMAND
} tnm_class;

typedef enum tnm_event_kind {
    TNM_EVENT_PIN,        /* a pin was granted; tier, access in `detail`, found in `found` */
    TNM_EVENT_UNPIN,      /* fence in `detail` (0 = done now) */
    TNM_EVENT_LOAD,       /* a fill of `tier` from `from` was admitted */
    TNM_EVENT_COPY_BEGIN, /* a chunk was handed to a backend, or the CPU copies for tnm_read or
                           * tnm_write: from -> tier (-1 = plain memory), offset, bytes */
    TNM_EVENT_COPY_END,   /* its answer: result */
    TNM_EVENT_READY,      /* the replica on `tier` became current */
    TNM_EVENT_LEAVE,      /* the replica on `tier` left; detail 1 = clean, 2 = dropped */
    TNM_EVENT_FAIL,       /* a fill or write-back of `tier` ended with `result` */
    TNM_EVENT_CANCEL,     /* a fill of `tier` was cancelled */
    TNM_EVENT_SEGMENT,    /* a segment came or was refused (bytes, result) */
    TNM_EVENT_RELEASE,    /* a segment went (bytes) */
    TNM_EVENT_BUDGET,     /* tnm_set_budget: bytes */
    TNM_EVENT_STEP,       /* lane in `detail`, step in `offset` */
    TNM_EVENT_REFUSE      /* a request was refused with `result` */
} tnm_event_kind;

enum { TNM_FOUND_HIT = 0, TNM_FOUND_LATE = 1, TNM_FOUND_MISS = 2 }; /* tnm_event.found */

/* What happened, in order. Carries slots and generations, no address and no time: the callback may
 * read a clock of its own. Same calls and same answers give the same events. */
typedef struct tnm_event {
    uint64_t seq; /* counts events */
    tnm_event_kind kind;
    int tier, from;   /* -1 = none */
    tnm_class class_; /* of a transfer */
    int found;        /* PIN only: TNM_FOUND_* */
    tnm_result result;
    uint64_t tensor;   /* handle id of the content's first name, 0 = none */
    const char *label; /* as given in tnm_tensor_desc, or NULL */
    uint64_t offset, bytes;
    uint64_t detail;
    uint64_t ticket; /* COPY_BEGIN and COPY_END of one chunk carry the same number */
} tnm_event;

typedef enum tnm_log_level { TNM_LOG_ERROR, TNM_LOG_WARNING, TNM_LOG_INFO } tnm_log_level;

typedef struct tnm_log {
    tnm_log_level level;
    tnm_result result;
    const char *call;    /* the public function, "tnm_pin", or NULL for background work */
    const char *rule;    /* one sentence: the rule that was broken, or what happened */
    int tier;            /* -1 = none */
    uint64_t tensor;     /* handle id, 0 = none */
    const char *label;   /* of the tensor, or NULL */
    uint64_t need, have; /* the two numbers that did not fit, 0 = none */
} tnm_log;

typedef struct tnm_desc {
    const tnm_tier_desc *tiers; /* fastest first; copied */
    int tier_count;             /* 1 .. TNM_MAX_TIERS */
    int staging_tier;           /* whose alloc gives the bounce buffer and whose budget pays; 0 =
                                 * the first of host memory, else the first with a CPU address:
                                 * host_visible, or as its memory has shown */
    tnm_policy policy;
    uint32_t max_tensors;   /* 0 = everything grows; else all tables are fixed at create */
    uint32_t max_replicas;  /* per tier; 0 = max_tensors */
    uint32_t max_uses;      /* schedule and prefetch entries; 0 = 4 x max_tensors */
    uint32_t max_fences;    /* fenced pins outstanding; 0 = 1024 with max_tensors, else any */
    uint64_t chunk_bytes;   /* copies are cut into these; 0 = 4 MiB */
    uint64_t staging_bytes; /* 0 = 16 MiB; at most 1/8 of the tier; taken if a route needs it */
    uint64_t guess_bytes;   /* guesses that may sit before a demand on a link; 0 = 2 chunks */
    int pump_thread;        /* 1 = one; needs TENSORMEM_THREADS */
    uint32_t tag;           /* 8 bits in every handle: another context's handle is refused */
    void *user;             /* passed to every callback below */
    void *(*alloc)(void *user, size_t size);             /* default malloc; on any calling thread */
    void (*release)(void *user, void *ptr, size_t size); /* default free; set both or none */
    void (*lock)(void *user); /* set both or none; default: one thread at a time */
    void (*unlock)(void *user);
    /* The highest fence value `queue` has passed; UINT64_MAX: the queue is dead. wait_for > 0: may
     * sleep until that value. Needed for fenced unpins. */
    uint64_t (*passed)(void *user, uint32_t queue, uint64_t wait_for);
    /* A waiting call made no progress for the rounds-th time in a row; non-zero = give up: the
     * call answers PENDING and holds nothing. (What a backend already copies for a tnm_read or
     * tnm_write is still waited for.) Under your lock and without TENSORMEM_THREADS every thread
     * that waits is in here, several at once. */
    int (*idle)(void *user, uint64_t rounds);
    void (*log)(void *user, const tnm_log *item);      /* default stderr; silent under NDEBUG */
    void (*trace)(void *user, const tnm_event *event); /* with it, every hit takes the lock */
} tnm_desc;

typedef enum tnm_dtype {
    TNM_BYTES, /* opaque: give `bytes` */
    TNM_U8,
    TNM_I8,
    TNM_I16,
    TNM_I32,
    TNM_I64,
    TNM_F16,
    TNM_BF16,
    TNM_F32,
    TNM_F64,
    TNM_F8_E4M3,
    TNM_F8_E5M2,
    TNM_Q4_0, /* blocks of 32 elements in 18 bytes along the innermost dimension */
    TNM_Q8_0  /* blocks of 32 elements in 34 bytes along the innermost dimension */
} tnm_dtype;

typedef enum tnm_advice { /* one of the first four, or'ed with flags */
                          TNM_NORMAL,
                          TNM_KEEP,      /* last to leave */
                          TNM_ONCE,      /* used once: first to leave after its pin */
                          TNM_WONT_NEED, /* first to leave; the next pin makes it NORMAL again */
                          TNM_DROPPABLE =
                              8, /* may be dropped instead of written back; then it is EMPTY */
                          TNM_SCRUB = 16 /* zeroed before it is first shown, wiped when it leaves */
} tnm_advice;

typedef struct tnm_tensor_desc {
    const char *label; /* borrowed until the name is destroyed; for logs and dumps */
    tnm_dtype dtype;
    int64_t shape[TNM_MAX_DIMS]; /* outermost first; ends at the first 0 */
    uint64_t bytes;  /* required for TNM_BYTES without a shape; else 0 or what follows */
    uint32_t advice; /* tnm_advice */
    void *user;      /* reaches the backend as `item` */
} tnm_tensor_desc;

typedef struct tnm_adopt_desc {
    int tier;             /* whose backend can copy from this memory */
    uint64_t mem, offset; /* as that backend understands them */
    void *host;           /* CPU address of the first byte, or NULL */
    int writable; /* 0: a write gives the tensor bytes of its own; 1: write-backs land here */
    void (*released)(void *user, uint64_t mem, uint64_t offset); /* not read or written any more */
    void *user;
} tnm_adopt_desc;

typedef enum tnm_access {
    TNM_READ,
    TNM_WRITE,  /* read and write */
    TNM_DISCARD /* write without fetching: the bytes shown are undefined */
} tnm_access;

enum { TNM_IF_READY = 1, TNM_QUEUED = 2 /* reserved */, TNM_SURE = 4 }; /* tnm_use.flags */

typedef struct tnm_use {
    tnm_tensor tensor;
    int tier;
    tnm_access access;
    uint32_t flags; /* pin: IF_READY, on any member for the whole set; prefetch: SURE */
    uint64_t step;  /* schedule: 0 .. period-1; prefetch: a step of the lane */
} tnm_use;

typedef struct tnm_pinned {
    void *host; /* CPU address, or NULL */
    uint64_t mem, offset, bytes;
    uint64_t ready; /* reserved, 0 */
    uint64_t id;    /* names the replica, so that unpin works after destroy; 0 = not pinned */
    int tier;
    tnm_access access;
} tnm_pinned;

typedef enum tnm_state {
    TNM_STATE_ABSENT,
    TNM_STATE_BUSY,
    TNM_STATE_READY,
    TNM_STATE_LOST
} tnm_state;

typedef struct tnm_tensor_info {
    const char *label;
    tnm_dtype dtype;
    int64_t shape[TNM_MAX_DIMS];
    uint64_t bytes;
    uint32_t advice;
    void *user;
    int is_view;
    int empty; /* nothing to read anywhere */
    /* of the asked tier */
    tnm_state state;
    int dirty; /* the only current replica on its spill path */
    int adopted;
    uint32_t pins, fenced; /* all pins; those that wait for a fence */
    uint64_t next_use;     /* how far away in the policy's clock, which goes with pins and steps;
                            * UINT64_MAX = none known */
    tnm_result last_error; /* of the last background failure, 0 = none */
} tnm_tensor_info;

typedef struct tnm_tier_stats {
    uint64_t budget_bytes;   /* UINT64_MAX = unlimited */
    uint64_t reserved_bytes; /* segments and staging: what the budget is held against */
    uint64_t used_bytes;     /* of tensors placed, rounding and tails included */
    uint64_t peak_bytes;     /* of reserved_bytes */
    uint64_t pinned_bytes, in_flight_bytes, dirty_bytes;
    uint64_t stuck_bytes; /* dirty, and the tier below refuses writes at present */
    uint64_t largest_free_bytes;
    uint64_t tensors;             /* replicas here, adopted ones included */
    uint64_t hits, misses, late;  /* of granted pins, by the first ask: late = it was on its way */
    uint64_t bytes_in, bytes_out; /* finished chunks, and what tnm_read and tnm_write copied */
    uint64_t evictions, evictions_clean;
    uint64_t prefetches, prefetches_wasted, prefetches_refused;
    uint64_t compactions, failures;
    uint64_t starved; /* pumps that found its copies all done and others waiting: pump more often,
                       * or raise queue_depth, chunk_bytes, staging_bytes */
    uint64_t lru_inexact;  /* victims that left out of their order, to end a search in time */
    uint64_t kept_bytes;   /* of the schedule's split: what stays */
    uint64_t stream_bytes; /* W + P: the ring the streamed ones share */
} tnm_tier_stats;

enum { TNM_MAX_BLOCKERS = 8 };

typedef struct tnm_shortage {
    tnm_result result;     /* what tnm_try_pin would answer to this set now */
    int tier;              /* the tier that is short, -1 = none */
    uint64_t need_bytes;   /* placed bytes the set still needs there */
    uint64_t budget_bytes; /* UINT64_MAX = unlimited */
    uint64_t reserved_bytes, free_bytes, largest_free_bytes;
    uint64_t largest_gap_bytes; /* the largest run once all that may leave has left */
    uint64_t pinned_bytes, fenced_bytes, claimed_bytes, in_flight_bytes;
    int blocker_count; /* tensors whose pins stand in the way, largest first */
    struct {
        uint64_t tensor;
        const char *label;
        int tier;
        uint64_t bytes;
        uint32_t pins, fenced;
    } blockers[TNM_MAX_BLOCKERS];
} tnm_shortage;

typedef struct tnm_writer { /* non-zero from write ends the dump with BACKEND */
    int (*write)(void *user, const char *text, uint64_t bytes);
    void *user;
} tnm_writer;

typedef enum tnm_dump_format { TNM_DUMP_TEXT, TNM_DUMP_JSON } tnm_dump_format;

typedef struct tnm_file_desc {
    const char *path; /* a new spill file, made exclusively; NULL: adopted files only */
    int direct;       /* 1: bypass the page cache where the system can */
    uint32_t threads; /* 0: the system's own queue (io_uring, overlapped files), else synchronous;
                       * n: so many threads of this backend, at most 64; needs TENSORMEM_THREADS */
    void *user;
    void *(*alloc)(void *user, size_t size); /* default malloc */
    void (*release)(void *user, void *ptr, size_t size);
    uint32_t depth; /* copies at once, 64 KiB of memory for each; 0 = 16, at most 1024 */
    int sync;       /* 1: a copy is done when the call that pumps returns: repeatable traces */
} tnm_file_desc;
/* [calls] ------------------------------------------------------------------- *
 * Unless a comment says otherwise: the caller keeps what it passes; a failed   *
 * call changes nothing and zeroes its output; `if (r < 0)` is the error test.  *
 * Threads: one at a time per context, or any if lock/unlock are set or         *
 * TENSORMEM_THREADS is defined. Only create, destroy, pump, wait, pin, read    *
 * and write wait and run backend callbacks; the rest returns at once.          *
 * -------------------------------------------------------------------------- */

/* Make a context. Fails: ARGUMENT, MEMORY. No backend of yours is asked yet. */
TENSORMEM_API tnm_result tnm_create(const tnm_desc *desc, tnm_ctx **out);

/* End a context: waits for copies and fences; dirty bytes are lost (flush first). BUSY while a pin
 * is held, and nothing happens. PENDING if `idle` gave up: the context still exists, without its
 * pump thread and what was asked of it; call again. OK = everything given back. */
TENSORMEM_API tnm_result tnm_destroy(tnm_ctx *ctx);

/* From now on nothing grows past `bytes` (literal: 0 is none, TNM_ALL no limit). PENDING until
 * what is above it has drained: pump and call again. BUSY if only live pins are left to wait for;
 * BACKEND if the tier below refuses what must be written, or what else its way there fails with;
 * BUDGET if there is no tier below. */
TENSORMEM_API tnm_result tnm_set_budget(tnm_ctx *ctx, int tier, uint64_t bytes);

/* ---- tensors ---- */

/* A name without memory. Fails: ARGUMENT (shape, dtype, bytes that do not agree or overflow),
 * MEMORY, CAPACITY (max_tensors). O(1). */
TENSORMEM_API tnm_result tnm_tensor_create(tnm_ctx *ctx, const tnm_tensor_desc *desc,
                                           tnm_tensor *out);

/* A name for bytes that exist already: they become its bottom replica, are not copied and not
 * charged. The memory stays the caller's; `released` (run by a later call that pumps) says when we
 * stop looking at it. Not with TNM_SCRUB. Where max_tensors fixes the tables there is room for 1024
 * regions (CAPACITY); tensors adopted one after the other from the same memory, with the same
 * writable, released and user, share one. */
TENSORMEM_API tnm_result tnm_tensor_adopt(tnm_ctx *ctx, const tnm_tensor_desc *desc,
                                          const tnm_adopt_desc *adopt, tnm_tensor *out);

/* Another name for [offset, offset + bytes) of `of`. Residency, advice, schedule and pins are the
 * whole content's; the bytes live as long as any name does. */
TENSORMEM_API tnm_result tnm_tensor_view(tnm_ctx *ctx, tnm_tensor of, uint64_t offset,
                                         const tnm_tensor_desc *desc, tnm_tensor *out);

/* The handle dies now; the memory goes when the last name, pin, copy and fence let go. */
TENSORMEM_API tnm_result tnm_tensor_destroy(tnm_ctx *ctx, tnm_tensor tensor);

/* ---- use ---- */

/* Make every member of `set` resident on its tier and hold it there, all or nothing. out[i] belongs
 * to set[i] and is valid until its unpin. Waits and pumps; never waits for another pin.
 * Fails: BUDGET (cannot fit beside the pins held now; tnm_why has the numbers), BUSY (a pin on
 * another tier conflicts), EMPTY, LOST, STALE, UNSUPPORTED, BACKEND, MEMORY, CAPACITY, ARGUMENT.
 * PENDING if `idle` gave up; ABSENT with TNM_IF_READY, at once. CAPACITY is a table that
 * max_tensors fixed, or a tensor's 65,281st pin on one tier, or its 241st that writes.
 * Cost of a hit: one compare-and-swap; threads that hit different tensors share no counter. */
TENSORMEM_API tnm_result tnm_pin(tnm_ctx *ctx, const tnm_use *set, int count, tnm_pinned *out);

/* The same without waiting and without any backend callback: PENDING = asked for, pump and make
 * the same call again. A PENDING ask keeps what arrived for 64 ticks after it is complete. */
TENSORMEM_API tnm_result tnm_try_pin(tnm_ctx *ctx, const tnm_use *set, int count, tnm_pinned *out);

/* Let go. fence 0: done now, one subtraction. Else TNM_FENCE(queue, value) of work already
 * submitted: the pins fall when `passed(queue)` reaches the value. Zeroes the members. CAPACITY:
 * max_fences are outstanding, nothing was unpinned, pump and call again; MEMORY likewise. ARGUMENT:
 * nothing was unpinned either (a value of 0 or -1: see TNM_FENCE). */
TENSORMEM_API tnm_result tnm_unpin(tnm_ctx *ctx, tnm_pinned *set, int count, uint64_t fence);

/* Copy between a tensor and plain memory; waits like tnm_pin, and for fences: tnm_read for those
 * that write, tnm_write for all on the replica it writes. tnm_write into an EMPTY tensor covers it
 * whole or zero-fills the rest, and if it fails, it is EMPTY still; a LOST one it must cover whole.
 * Over existing bytes it meets them on a tier whose memory the CPU sees, if one can hold the
 * tensor: what fails on the way there changes nothing, and a pin on another tier is BUSY. Where
 * none can, the backend writes in place, and a copy that fails, or is given up, half-way is the
 * loss of the sole copy: LOST. A copy between a backend and your memory that is under way is waited
 * for even if `idle` gives up: you could not free that memory before. */
TENSORMEM_API tnm_result tnm_read(tnm_ctx *ctx, tnm_tensor tensor, uint64_t offset, void *dst,
                                  uint64_t bytes);
TENSORMEM_API tnm_result tnm_write(tnm_ctx *ctx, tnm_tensor tensor, uint64_t offset,
                                   const void *src, uint64_t bytes);

/* ---- foresight: none of these waits ---- */

/* Replace the cycle of `lane` (0 .. TNM_MAX_LANES-1): use i happens at steps set[i].step + k *
 * period. Copied. count 0 forgets it. Foresight begins with the lane's first tnm_step. Threads that
 * are at work meanwhile may find a part of the old cycle or of the new one; of two calls for one
 * lane at a time the one that began its exchange last stands. */
TENSORMEM_API tnm_result tnm_schedule(tnm_ctx *ctx, uint32_t lane, const tnm_use *uses, int count,
                                      uint32_t period);

/* Work for this step of the lane begins. Steps may jump; a smaller one is a restart. */
TENSORMEM_API tnm_result tnm_step(tnm_ctx *ctx, uint32_t lane, uint64_t step);

/* A schedule from an example: what tnm_pin and tnm_try_pin grant from tnm_record on is noted, in
 * order, until tnm_replay makes it the lane's cycle, as if it had been given to tnm_schedule. Steps
 * are those of tnm_step if any is told meanwhile (a smaller one begins the pass anew; the period
 * goes from the first to the last), and are told on by the program. Else each set is a step, the
 * same set at once again being the same, and from tnm_replay on nobody need tell them: a pin of the
 * next set begins the next step. Where the program leaves something out or begins again, the lane
 * takes it up at the next set it knows, by the same members in any order; others mean nothing to
 * it. A tnm_step for the lane takes the telling back.
 * A pin never fails for what is noted. tnm_record on a lane that records begins anew, its cycle
 * stands until tnm_replay; tnm_schedule ends neither. tnm_replay fails: ARGUMENT (not recording, or
 * nothing was pinned), CAPACITY or MEMORY (there was no room for every use beside the cycle that
 * stands); nothing is recorded any more then, and the cycle stands.
 * Cost: while a lane records, or follows pins, every pin and unpin of the context takes the lock,
 * and each member pinned takes an entry of max_uses. */
TENSORMEM_API tnm_result tnm_record(tnm_ctx *ctx, uint32_t lane);
TENSORMEM_API tnm_result tnm_replay(tnm_ctx *ctx, uint32_t lane);

/* Single future uses at steps of the lane (past = now). With TNM_SURE a use ranks with the
 * schedule and is kept beside others; a guess is replaced by the next use told for its tensor,
 * tier and lane. */
TENSORMEM_API tnm_result tnm_prefetch(tnm_ctx *ctx, uint32_t lane, const tnm_use *uses, int count);

/* Take back prefetches and unanswered try_pins of these tensors; never the schedule, never a load
 * another call waits for. */
TENSORMEM_API tnm_result tnm_cancel(tnm_ctx *ctx, const tnm_tensor *set, int count);

TENSORMEM_API tnm_result tnm_advise(tnm_ctx *ctx, tnm_tensor tensor, uint32_t advice);

/* PENDING until it has left `tier`; BUSY while a live pin holds it; BUDGET if nothing below can
 * take what is dirty. Adopted bytes are at home and stay: OK. */
TENSORMEM_API tnm_result tnm_evict(tnm_ctx *ctx, tnm_tensor tensor, int tier);

/* PENDING until `tier` or a slower one holds current bytes; BUSY while a live WRITE or DISCARD pin
 * may still change them. {0} = every tensor: PENDING if any is, else the first obstacle. */
TENSORMEM_API tnm_result tnm_flush(tnm_ctx *ctx, tnm_tensor tensor, int tier);

/* ---- heartbeat ---- */

/* One bounded step of work: starts at most max_bytes of transfers (TNM_ALL = no limit; 0 only
 * collects what has finished). OK = nothing left to do, PENDING = more. While another thread drives
 * the backends it only answers. */
TENSORMEM_API tnm_result tnm_pump(tnm_ctx *ctx, uint64_t max_bytes);

/* Pump without a limit, and sleep (in a backend's wait, in `passed`, in `idle`) until a copy or a
 * fence ends or something else has changed. OK = nothing left to do and no fence outstanding;
 * PENDING = more, which may be for a pin of yours to end: then it does not sleep. */
TENSORMEM_API tnm_result tnm_wait(tnm_ctx *ctx);

/* ---- built-in storage ---- */
#    ifndef TENSORMEM_NO_FILE
/* A backend whose memory is a file: made exclusively (mode 0600, no link followed, unlinked at once
 * where the system can). Close it after tnm_destroy; what is still under way then is waited for.
 * A child of fork may read what its parent has stored, but stores nothing. */
TENSORMEM_API tnm_result tnm_file_open(const tnm_file_desc *desc, tnm_backend *out);

/* Open someone's regular file, read only, for tnm_tensor_adopt on the tier of this backend: its
 * token and its size. Closed by tnm_file_close. Not while another thread pumps. */
TENSORMEM_API tnm_result tnm_file_adopt(const tnm_backend *backend, const char *path, uint64_t *mem,
                                        uint64_t *size);
/* How its copies are carried out at present: "io_uring, direct", "2 threads, buffered",
 * "synchronous, partly direct": what the system refused shows here. Valid until the next call. */
TENSORMEM_API const char *tnm_file_how(const tnm_backend *backend);
TENSORMEM_API void tnm_file_close(tnm_backend *backend);
#    endif

/* ---- sight ---- */
TENSORMEM_API tnm_result tnm_info(tnm_ctx *ctx, tnm_tensor tensor, int tier, tnm_tensor_info *out);
TENSORMEM_API tnm_result tnm_stats(tnm_ctx *ctx, int tier, tnm_tier_stats *out);

/* Could this set be pinned now, and if not, the numbers and the blockers. Starts nothing and calls
 * no backend, but tables may grow: your alloc. */
TENSORMEM_API tnm_result tnm_why(tnm_ctx *ctx, const tnm_use *set, int count, tnm_shortage *out);

/* The tiers as a table of text, or tiers and tensors as JSON. writer NULL = stdout. Exact with one
 * thread, a moving picture with several. */
TENSORMEM_API tnm_result tnm_dump(tnm_ctx *ctx, tnm_dump_format format, const tnm_writer *writer);

/* The number of broken invariants; 0 is healthy. O(everything). */
TENSORMEM_API int tnm_check(tnm_ctx *ctx);
TENSORMEM_API const char *tnm_result_string(tnm_result result);
TENSORMEM_API int tnm_version(void);

#    ifdef __cplusplus
}
#    endif
#endif /* TENSORMEM_H */

#if defined(TENSORMEM_IMPLEMENTATION) && !defined(TENSORMEM_IMPLEMENTED)
#    define TENSORMEM_IMPLEMENTED

#    include <stdlib.h>
#    include <string.h>
#    ifndef TENSORMEM_NO_STDIO
#        include <stdio.h>
#    endif

/* [base] -------------------------------------------------------------------- *
 * Checked 64-bit arithmetic, bits, atomics, memory annotations, shims.         *
 * Calls: nothing.                                                              *
 * Invariant: sizes are only added, multiplied and aligned by the checked       *
 * helpers here, unless a bound stated on the spot makes overflow impossible.   *
 * -------------------------------------------------------------------------- */
#    ifndef TENSORMEM_ASSERT
#        include <assert.h>
#        define TENSORMEM_ASSERT(x) assert(x)
#    endif

#    if defined(TENSORMEM_NO_ATOMICS)
#        define TNMI_ATOMICS 0
#    elif defined(__GCC_ATOMIC_LLONG_LOCK_FREE)
#        if __GCC_ATOMIC_LLONG_LOCK_FREE == 2
#            define TNMI_ATOMICS 1
#        else
#            define TNMI_ATOMICS 0
#        endif
#    elif defined(_MSC_VER)
#        include <intrin.h>
#        define TNMI_ATOMICS 2
#    else
#        define TNMI_ATOMICS 0
#    endif

#    if defined(__has_feature)
#        if __has_feature(address_sanitizer)
#            define TNMI_ASAN 1
#        endif
#        if __has_feature(memory_sanitizer)
#            define TNMI_MSAN 1
#        endif
#    endif
#    if defined(__SANITIZE_ADDRESS__) && !defined(TNMI_ASAN)
#        define TNMI_ASAN 1
#    endif
#    ifdef TNMI_ASAN
#        include <sanitizer/asan_interface.h>
#    endif
#    ifdef TNMI_MSAN
#        include <sanitizer/msan_interface.h>
#    endif
#    ifdef TENSORMEM_VALGRIND
#        include <valgrind/memcheck.h>
#    endif

#    if defined(_WIN32) && (defined(TENSORMEM_THREADS) || !defined(TENSORMEM_NO_FILE))
#        ifndef WIN32_LEAN_AND_MEAN
#            define WIN32_LEAN_AND_MEAN
#        endif
#        ifndef NOMINMAX
#            define NOMINMAX
#        endif
#        include <windows.h>
#    elif defined(TENSORMEM_THREADS)
#        include <pthread.h>
#        include <sched.h>
#        include <signal.h>
#    endif
#    if !defined(_WIN32) && !defined(TENSORMEM_NO_FILE)
#        include <errno.h>
#        include <fcntl.h>
#        include <sys/stat.h>
#        include <sys/types.h>
#        include <unistd.h>
#        ifdef __linux__
#            include <sys/mman.h>
#            include <sys/syscall.h>
#        endif
#    endif

#    ifdef __cplusplus
extern "C" {
#    endif

#    define TNMI_NONE UINT32_MAX /* no index */

/* A test may act between a hit's look at the records and its compare-and-swap. */
#    ifndef TNMI_TEST_HIT
#        define TNMI_TEST_HIT() ((void)0)
#    endif

/* Or before an atomic access; `changes` 0: it only looks. */
#    ifndef TNMI_TEST_ATOMIC
#        define TNMI_TEST_ATOMIC(at, changes) ((void)0)
#    endif

/* INLINE: what a pin that hits runs through is one straight piece of code (left to clang it costs a
 * tenth more; gcc does it unasked). APART: its rare branches, which must not cost it registers.
 * RARE: what runs once in a context's life, or when something is told or looked at: compiled to be
 * small, and with it whatever only such functions call. */
#    if defined(__GNUC__)
#        define TNMI_INLINE inline __attribute__((always_inline))
#        define TNMI_APART  __attribute__((noinline))
#        define TNMI_RARE   __attribute__((noinline, cold))
#    elif defined(_MSC_VER)
#        define TNMI_INLINE __forceinline
#        define TNMI_APART  __declspec(noinline)
#        define TNMI_RARE   __declspec(noinline)
#    else
#        define TNMI_INLINE inline
#        define TNMI_APART
#        define TNMI_RARE
#    endif

static int tnmi_base_add(uint64_t a, uint64_t b, uint64_t *out) {
    *out = a + b;
    return a <= UINT64_MAX - b;
}

static int tnmi_base_mul(uint64_t a, uint64_t b, uint64_t *out) {
    *out = a * b;
    return a == 0 || *out / a == b;
}

/* a modulo a power of two */
static TNMI_INLINE uint64_t tnmi_base_odd(uint64_t a, uint64_t power) {
    return a & (power - 1);
}

/* up to a multiple of a power of two; 0 = there is none */
static int tnmi_base_align(uint64_t a, uint64_t power, uint64_t *out) {
    int fits = tnmi_base_add(a, power - 1, out);
    *out -= tnmi_base_odd(*out, power);
    return fits;
}

static int tnmi_base_is_power(uint64_t a) {
    return a != 0 && (a & (a - 1)) == 0;
}

static uint64_t tnmi_base_min(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static uint64_t tnmi_base_max(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* a - b, or 0 */
static uint64_t tnmi_base_less(uint64_t a, uint64_t b) {
    return a > b ? a - b : 0;
}

/* a * b / c without overflow for c >= 1, saturating */
static uint64_t tnmi_base_scale(uint64_t a, uint64_t b, uint64_t c) {
    uint64_t product;
    if (tnmi_base_mul(a, b, &product)) return product / c;
    if (!tnmi_base_mul(a / c, b, &product)) return UINT64_MAX;
    return product;
}

/* index of the highest set bit; a != 0 */
static TNMI_INLINE uint32_t tnmi_base_log2(uint32_t a) {
#    if defined(__GNUC__)
    return 31u ^ (uint32_t)__builtin_clz(a);
#    else
    uint32_t n = 0;
    while (a >>= 1)
        n++;
    return n;
#    endif
}

/* index of the lowest set bit; a != 0 */
static uint32_t tnmi_base_low_bit(uint32_t a) {
    return tnmi_base_log2(a & (0u - a));
}

static uint64_t tnmi_base_mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
    return hash ^ (hash >> 29);
}

/* ---- atomics: only what the pin protocol needs (the orders are argued in [tensor]) ---- */
static TNMI_INLINE uint64_t tnmi_base_load64(const uint64_t *at) { /* acquire */
    TNMI_TEST_ATOMIC(at, 0);
#    if TNMI_ATOMICS == 1
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
#    elif TNMI_ATOMICS == 2
    return (uint64_t)_InterlockedOr64((volatile long long *)at, 0);
#    else
    return *at;
#    endif
}

static TNMI_INLINE uint64_t tnmi_base_peek64(const uint64_t *at) { /* relaxed */
    TNMI_TEST_ATOMIC(at, 0);
#    if TNMI_ATOMICS == 1
    return __atomic_load_n(at, __ATOMIC_RELAXED);
#    else
    return tnmi_base_load64(at);
#    endif
}

static TNMI_INLINE void tnmi_base_poke64(uint64_t *at, uint64_t value) { /* relaxed */
    TNMI_TEST_ATOMIC(at, 1);
#    if TNMI_ATOMICS == 1
    __atomic_store_n(at, value, __ATOMIC_RELAXED);
#    elif TNMI_ATOMICS == 2
    _InterlockedExchange64((volatile long long *)at, (long long)value);
#    else
    *at = value;
#    endif
}

static TNMI_INLINE int tnmi_base_swap64(uint64_t *at, uint64_t *expected,
                                        uint64_t value) { /* acq_rel */
    TNMI_TEST_ATOMIC(at, 1);
#    if TNMI_ATOMICS == 1
    return __atomic_compare_exchange_n(at, expected, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
#    elif TNMI_ATOMICS == 2
    uint64_t before = (uint64_t)_InterlockedCompareExchange64(
        (volatile long long *)at, (long long)value, (long long)*expected);
    int same = before == *expected;
    *expected = before;
    return same;
#    else
    if (*at != *expected) {
        *expected = *at;
        return 0;
    }
    *at = value;
    return 1;
#    endif
}

static TNMI_INLINE uint64_t tnmi_base_sub64(uint64_t *at,
                                            uint64_t value) { /* acq_rel; the value before */
    TNMI_TEST_ATOMIC(at, 1);
#    if TNMI_ATOMICS == 1
    return __atomic_fetch_sub(at, value, __ATOMIC_ACQ_REL);
#    elif TNMI_ATOMICS == 2
    return (uint64_t)_InterlockedExchangeAdd64((volatile long long *)at, -(long long)value);
#    else
    uint64_t before = *at;
    *at = before - value;
    return before;
#    endif
}

static TNMI_INLINE uint32_t tnmi_base_load32(const uint32_t *at) { /* acquire */
    TNMI_TEST_ATOMIC(at, 0);
#    if TNMI_ATOMICS == 1
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
#    elif TNMI_ATOMICS == 2
    return (uint32_t)_InterlockedOr((volatile long *)at, 0);
#    else
    return *at;
#    endif
}

static TNMI_INLINE void tnmi_base_store32(uint32_t *at, uint32_t value) { /* release */
    TNMI_TEST_ATOMIC(at, 1);
#    if TNMI_ATOMICS == 1
    __atomic_store_n(at, value, __ATOMIC_RELEASE);
#    elif TNMI_ATOMICS == 2
    _InterlockedExchange((volatile long *)at, (long)value);
#    else
    *at = value;
#    endif
}

/* ---- annotations: an overrun inside an arena is invisible to every tool without them ---- */
static void tnmi_base_noaccess(void *at, uint64_t size) {
#    ifdef TNMI_ASAN
    if (at) __asan_poison_memory_region(at, (size_t)size);
#    endif
#    ifdef TENSORMEM_VALGRIND
    if (at) (void)VALGRIND_MAKE_MEM_NOACCESS(at, (size_t)size);
#    endif
    (void)at;
    (void)size;
}

/* Readable as any other memory, as the application's allocator wants it back. */
static void tnmi_base_ordinary(void *at, uint64_t size) {
#    ifdef TNMI_ASAN
    if (at) __asan_unpoison_memory_region(at, (size_t)size);
#    endif
#    ifdef TENSORMEM_VALGRIND
    if (at) (void)VALGRIND_MAKE_MEM_UNDEFINED(at, (size_t)size);
#    endif
    (void)at;
    (void)size;
}

/* A place: readable, but nothing was written there yet. */
static void tnmi_base_undefined(void *at, uint64_t size) {
    tnmi_base_ordinary(at, size);
#    ifdef TNMI_MSAN
    if (at) __msan_allocated_memory(at, (size_t)size);
#    endif
}

#    ifndef TENSORMEM_NO_FILE
/* Bytes that somebody wrote whom no tool sees: the system. */
static void tnmi_base_defined(void *at, uint64_t size) {
#        ifdef TNMI_MSAN
    __msan_unpoison(at, (size_t)size);
#        endif
#        ifdef TENSORMEM_VALGRIND
    (void)VALGRIND_MAKE_MEM_DEFINED(at, (size_t)size);
#        endif
    (void)at;
    (void)size;
}
#    endif

#    ifdef TENSORMEM_THREADS
/* ---- threads: pthreads or Win32 ---- */
#        ifdef _WIN32
typedef SRWLOCK tnmi_mutex;
typedef CONDITION_VARIABLE tnmi_bell;
typedef HANDLE tnmi_system_thread;
#        else
typedef pthread_mutex_t tnmi_mutex;
typedef pthread_cond_t tnmi_bell;
typedef pthread_t tnmi_system_thread;
#        endif

typedef struct tnmi_thread { /* stays where it is while it runs */
    tnmi_system_thread system;
    void (*run)(void *of);
    void *of;
} tnmi_thread;

#        ifdef _WIN32
static int tnmi_base_mutex(tnmi_mutex *mutex) {
    InitializeSRWLock(mutex);
    return 1;
}

static void tnmi_base_end_mutex(tnmi_mutex *mutex) {
    (void)mutex;
}

static int tnmi_base_bell(tnmi_bell *bell) {
    InitializeConditionVariable(bell);
    return 1;
}

static void tnmi_base_end_bell(tnmi_bell *bell) {
    (void)bell;
}

static int tnmi_base_try(tnmi_mutex *mutex) {
    return TryAcquireSRWLockExclusive(mutex) != 0;
}

static void tnmi_base_acquire(tnmi_mutex *mutex) {
    AcquireSRWLockExclusive(mutex);
}

static void tnmi_base_release(tnmi_mutex *mutex) {
    ReleaseSRWLockExclusive(mutex);
}

static void tnmi_base_listen(tnmi_bell *bell, tnmi_mutex *mutex) {
    SleepConditionVariableSRW(bell, mutex, INFINITE, 0);
}

static void tnmi_base_ring(tnmi_bell *bell, int all) {
    if (all)
        WakeAllConditionVariable(bell);
    else
        WakeConditionVariable(bell);
}

static void tnmi_base_breathe(void) {
    SwitchToThread();
}

static DWORD WINAPI tnmi_base_thread_main(LPVOID of) {
    tnmi_thread *thread = (tnmi_thread *)of;
    (thread->run)(thread->of);
    return 0;
}

static int tnmi_base_launch(tnmi_thread *thread) {
    thread->system = CreateThread(NULL, 0, tnmi_base_thread_main, thread, 0, NULL);
    return thread->system != NULL;
}

static void tnmi_base_join(tnmi_thread *thread) {
    WaitForSingleObject(thread->system, INFINITE);
    CloseHandle(thread->system);
}
#        else
#            ifndef TNMI_BASE_THREAD /* a test replaces these, which the system may refuse */
#                define TNMI_BASE_THREAD pthread_create
#                define TNMI_BASE_MUTEX  pthread_mutex_init
#                define TNMI_BASE_BELL   pthread_cond_init
#            endif

static int tnmi_base_mutex(tnmi_mutex *mutex) {
    return TNMI_BASE_MUTEX(mutex, NULL) == 0;
}

static void tnmi_base_end_mutex(tnmi_mutex *mutex) {
    pthread_mutex_destroy(mutex);
}

static int tnmi_base_bell(tnmi_bell *bell) {
    return TNMI_BASE_BELL(bell, NULL) == 0;
}

static void tnmi_base_end_bell(tnmi_bell *bell) {
    pthread_cond_destroy(bell);
}

static int tnmi_base_try(tnmi_mutex *mutex) {
    return pthread_mutex_trylock(mutex) == 0;
}

static void tnmi_base_acquire(tnmi_mutex *mutex) {
    pthread_mutex_lock(mutex);
}

static void tnmi_base_release(tnmi_mutex *mutex) {
    pthread_mutex_unlock(mutex);
}

static void tnmi_base_listen(tnmi_bell *bell, tnmi_mutex *mutex) {
    pthread_cond_wait(bell, mutex);
}

static void tnmi_base_ring(tnmi_bell *bell, int all) {
    if (all)
        pthread_cond_broadcast(bell);
    else
        pthread_cond_signal(bell);
}

static void tnmi_base_breathe(void) {
    sched_yield();
}

static void *tnmi_base_thread_main(void *of) {
    tnmi_thread *thread = (tnmi_thread *)of;
    (thread->run)(thread->of);
    return NULL;
}

/* The application's handlers do not run on threads it does not know of; its faults do. */
static int tnmi_base_launch(tnmi_thread *thread) {
#            ifdef SIG_SETMASK
    static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT };
    sigset_t all, before;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
#            endif
    int error = TNMI_BASE_THREAD(&thread->system, NULL, tnmi_base_thread_main, thread);
#            ifdef SIG_SETMASK
    pthread_sigmask(SIG_SETMASK, &before, NULL);
#            endif
    return error == 0;
}

static void tnmi_base_join(tnmi_thread *thread) {
    pthread_join(thread->system, NULL);
}
#        endif

/* 0 = the system has no thread left. */
static int tnmi_base_start(tnmi_thread *thread, void (*run)(void *of), void *of) {
    thread->run = run;
    thread->of = of;
    return tnmi_base_launch(thread);
}
#    endif

/* [tell] -------------------------------------------------------------------- *
 * Result names; the ring of log items and trace events.                        *
 * Calls: base.                                                                 *
 * Invariant: rooms only queue here; the door drains, outside the lock, in      *
 * order. A full ring counts what it drops and the door says so.                *
 * -------------------------------------------------------------------------- */
typedef struct tnmi_tell_item {
    int is_event;
    tnm_log log;
    tnm_event event;
} tnmi_tell_item;

typedef struct tnmi_tell {
    tnmi_tell_item *ring; /* owned by the door */
    uint32_t capacity, head, count;
    uint64_t seq, dropped, said; /* said: how many of those dropped an item has told of */
    int events;                  /* a trace callback is set */
    int logs;                    /* a log callback is set, or the default one is on */
} tnmi_tell;

static const char *tnmi_tell_result(tnm_result result) {
    switch (result) {
    case TNM_OK:
        return "OK";
    case TNM_PENDING:
        return "PENDING";
    case TNM_ABSENT:
        return "ABSENT";
    case TNM_ERR_ARGUMENT:
        return "ARGUMENT";
    case TNM_ERR_STALE:
        return "STALE";
    case TNM_ERR_MEMORY:
        return "MEMORY";
    case TNM_ERR_CAPACITY:
        return "CAPACITY";
    case TNM_ERR_BUDGET:
        return "BUDGET";
    case TNM_ERR_BUSY:
        return "BUSY";
    case TNM_ERR_EMPTY:
        return "EMPTY";
    case TNM_ERR_BACKEND:
        return "BACKEND";
    case TNM_ERR_UNSUPPORTED:
        return "UNSUPPORTED";
    case TNM_ERR_LOST:
        return "LOST";
    }
    return "unknown result";
}

static TNMI_RARE tnmi_tell_item *tnmi_tell_push(tnmi_tell *tell) {
    if (tell->count == tell->capacity) {
        tell->dropped++;
        return NULL;
    }
    uint32_t at = (tell->head + tell->count++) % tell->capacity;
    memset(&tell->ring[at], 0, sizeof tell->ring[at]);
    return &tell->ring[at];
}

/* The next event to fill in, or NULL when nobody listens. */
static tnm_event *tnmi_tell_event(tnmi_tell *tell, tnm_event_kind kind) {
    if (!tell->events) return NULL;
    tnmi_tell_item *item = tnmi_tell_push(tell);
    if (!item) return NULL;
    item->is_event = 1;
    item->event.seq = tell->seq++;
    item->event.kind = kind;
    item->event.tier = item->event.from = -1;
    return &item->event;
}

/* The next log item to fill in, or NULL when nobody listens. */
static TNMI_RARE tnm_log *tnmi_tell_log(tnmi_tell *tell, tnm_log_level level, tnm_result result,
                                        const char *rule) {
    if (!tell->logs) return NULL;
    tnmi_tell_item *item = tnmi_tell_push(tell);
    if (!item) return NULL;
    item->log.level = level;
    item->log.result = result;
    item->log.rule = rule;
    item->log.tier = -1;
    return &item->log;
}

static int tnmi_tell_pop(tnmi_tell *tell, tnmi_tell_item *out) {
    if (tell->count == 0) return 0;
    *out = tell->ring[tell->head];
    tell->head = (tell->head + 1) % tell->capacity;
    tell->count--;
    return 1;
}

/* The ring is empty: one item says how many found no place in it since the last one that did. */
static void tnmi_tell_admit(tnmi_tell *tell) {
    if (tell->dropped == tell->said) return;
    tnm_log *log = tnmi_tell_log(tell, TNM_LOG_WARNING, TNM_ERR_CAPACITY,
                                 "log items or events found the ring full and were dropped");
    if (log) {
        log->need = tell->dropped - tell->said;
        log->have = tell->capacity;
    }
    tell->said = tell->dropped;
}

/* [store] ------------------------------------------------------------------- *
 * Chunked tables that never move, free lists, a heap with positions, sorting.  *
 * Calls: base tell.                                                            *
 * Invariants: an entry's address never changes; the store never allocates: the *
 * door brings a chunk when the engine says that a table must grow.             *
 * -------------------------------------------------------------------------- */
enum { TNMI_STORE_CHUNKS = 32, TNMI_STORE_FIRST = 6, TNMI_STORE_SPREAD = 64 };

/* Chunk 0 holds 2^first entries, chunk k > 0 holds as many as all before it together. A fixed
 * table has one chunk of exactly `limit` entries. */
typedef struct tnmi_table {
    uint32_t stride;   /* bytes of an entry, a multiple of its alignment */
    uint32_t first;    /* log2 of chunk 0 */
    uint32_t fresh;    /* entries below were used at least once, or are on the free list */
    uint32_t capacity; /* entries in the chunks we have */
    uint32_t limit;    /* never more entries than this */
    uint32_t link_at;  /* where a free entry keeps the next free index */
    uint32_t spread;   /* threads write to entries: those taken in turn share no cache line */
    const char *name;  /* of the descriptor's field, for CAPACITY */
    uintptr_t base[TNMI_STORE_CHUNKS]; /* where entry 0 would lie if chunk k began there */
    /* from here on no look-up reads it, so that none waits for another thread that makes room */
    uint32_t free_head;
    uint32_t live;
    uint32_t retired; /* neither live nor free, for ever */
} tnmi_table;

static TNMI_RARE void tnmi_store_init(tnmi_table *table, const char *name, size_t stride,
                                      size_t link_at, uint32_t limit, int fixed) {
    memset(table, 0, sizeof *table);
    table->name = name;
    table->stride = (uint32_t)stride;
    table->link_at = (uint32_t)link_at;
    table->limit = limit;
    table->free_head = TNMI_NONE;
    table->first = TNMI_STORE_FIRST;
    if (fixed)
        while (((uint64_t)1 << table->first) < limit)
            table->first++;
}

static TNMI_INLINE size_t tnmi_store_chunk(uint32_t index) {
    return (size_t)tnmi_base_log2(index | ((1u << TNMI_STORE_FIRST) - 1)) - (TNMI_STORE_FIRST - 1);
}

/* An entry of a table whose stride the caller knows. */
static TNMI_INLINE void *tnmi_store_of(const tnmi_table *table, uint32_t index, size_t stride) {
    return (void *)(table->base[tnmi_store_chunk(index)] + (uintptr_t)index * stride);
}

static TNMI_INLINE void *tnmi_store_at(const tnmi_table *table, uint32_t index) {
    return tnmi_store_of(table, index, table->stride);
}

/* Entries of the chunk that would be added next; 0 = the table is at its limit. */
static uint32_t tnmi_store_grow_count(const tnmi_table *table) {
    if (table->capacity >= table->limit) return 0;
    uint64_t next = table->capacity ? table->capacity : (uint64_t)1 << table->first;
    return (uint32_t)tnmi_base_min(next, table->limit - table->capacity);
}

static uint64_t tnmi_store_grow_bytes(const tnmi_table *table) {
    return (uint64_t)tnmi_store_grow_count(table) * table->stride;
}

/* The chunk comes full of zeros: filling it is for those who do not hold the lock. */
static void tnmi_store_grow(tnmi_table *table, void *chunk) {
    uint32_t count = tnmi_store_grow_count(table);
    size_t k = tnmi_store_chunk(table->capacity);
    for (; k < TNMI_STORE_CHUNKS; k++) /* the one chunk of a fixed table is all of them */
        table->base[k] = (uintptr_t)chunk - (uintptr_t)table->capacity * table->stride;
    table->capacity += count;
}

/* The chunk that came last goes, of a table that has one. */
static void *tnmi_store_shed(tnmi_table *table, uint64_t *bytes) {
    uint32_t last = table->capacity - 1;
    uint32_t start = last >> table->first ? (uint32_t)1 << tnmi_base_log2(last) : 0;
    *bytes = (uint64_t)(table->capacity - start) * table->stride;
    table->capacity = start;
    return tnmi_store_at(table, start);
}

static uint32_t tnmi_store_spare(const tnmi_table *table) {
    return table->capacity - table->live - table->retired;
}

/* Could `need` more entries ever be had? */
static int tnmi_store_allows(const tnmi_table *table, uint64_t need) {
    return (uint64_t)table->live + table->retired + need <= table->limit;
}

static inline void tnmi_store_link(tnmi_table *table, uint32_t index) {
    memcpy((char *)tnmi_store_at(table, index) + table->link_at, &table->free_head, 4);
    table->free_head = index;
}

/* The next entries that were never used, in an order in which neighbours come late: every fourth,
 * then those between two of them, then the rest. */
static void tnmi_store_spread(tnmi_table *table) {
    static const uint32_t last_first[] = { 3, 1, 2, 0 };
    uint32_t from = table->fresh, count = table->capacity - from;
    if (count > TNMI_STORE_SPREAD) count = TNMI_STORE_SPREAD;
    tnmi_base_store32(&table->fresh, from + count);
    for (uint32_t k = 0; k < 4; k++)
        for (uint32_t i = count; i-- > 0;)
            if (i % 4 == last_first[k]) tnmi_store_link(table, from + i);
}

/* An index, or TNMI_NONE; the entry keeps what it held when it was freed (0 when never used). */
static inline uint32_t tnmi_store_take(tnmi_table *table) {
    if (table->spread && table->free_head == TNMI_NONE) tnmi_store_spread(table);
    uint32_t index = table->free_head;
    if (index != TNMI_NONE) {
        memcpy(&table->free_head, (char *)tnmi_store_at(table, index) + table->link_at, 4);
    } else {
        if (table->fresh == table->capacity) return TNMI_NONE;
        index = table->fresh;
        tnmi_base_store32(&table->fresh, index + 1); /* handles are checked against it, unlocked */
    }
    table->live++;
    return index;
}

static inline void tnmi_store_give(tnmi_table *table, uint32_t index) {
    tnmi_store_link(table, index);
    table->live--;
}

static void tnmi_store_retire(tnmi_table *table) {
    table->live--;
    table->retired++;
}

/* ---- a 4-ary min-heap over the entries of another table ---- *
 * The slots are the heap; `places` says where in it each owner stands. */
typedef struct tnmi_slot {
    uint32_t low, high; /* of the key: halves, so that a slot has 12 bytes */
    uint32_t owner;
} tnmi_slot;

typedef struct tnmi_heap {
    tnmi_table slots;  /* grows with what is in it */
    tnmi_table places; /* grows with the owners' table; an entry is a place + 1, 0 = not in here */
    uint32_t count;
} tnmi_heap;

static tnmi_slot *tnmi_store_slot(const tnmi_heap *heap, uint32_t place) {
    return (tnmi_slot *)tnmi_store_of(&heap->slots, place, sizeof(tnmi_slot));
}

static uint32_t *tnmi_store_place(const tnmi_heap *heap, uint32_t owner) {
    return (uint32_t *)tnmi_store_of(&heap->places, owner, sizeof(uint32_t));
}

static uint64_t tnmi_store_key(const tnmi_slot *slot) {
    return (uint64_t)slot->high << 32 | slot->low;
}

static int tnmi_store_heap_before(uint64_t key, uint32_t owner, const tnmi_slot *b) {
    uint64_t other = tnmi_store_key(b);
    return key != other ? key < other : owner < b->owner;
}

static inline void tnmi_store_heap_put(tnmi_heap *heap, uint32_t place, uint64_t key,
                                       uint32_t owner) {
    tnmi_slot *slot = tnmi_store_slot(heap, place);
    slot->low = (uint32_t)key;
    slot->high = (uint32_t)(key >> 32);
    slot->owner = owner;
    *tnmi_store_place(heap, owner) = place + 1;
}

/* The entry's way up from `place`, and there it is put. Returns where. */
static uint32_t tnmi_store_heap_up(tnmi_heap *heap, uint32_t place, uint64_t key, uint32_t owner) {
    while (place > 0) {
        uint32_t parent = (place - 1) / 4;
        const tnmi_slot *above = tnmi_store_slot(heap, parent);
        if (!tnmi_store_heap_before(key, owner, above)) break;
        tnmi_store_heap_put(heap, place, tnmi_store_key(above), above->owner);
        place = parent;
    }
    tnmi_store_heap_put(heap, place, key, owner);
    return place;
}

static void tnmi_store_heap_down(tnmi_heap *heap, uint32_t place, uint64_t key, uint32_t owner) {
    for (;;) {
        uint64_t child = (uint64_t)place * 4 + 1, best = child;
        if (child >= heap->count) break;
        const tnmi_slot *below = tnmi_store_slot(heap, (uint32_t)best);
        for (uint64_t i = child + 1; i < child + 4 && i < heap->count; i++) {
            const tnmi_slot *other = tnmi_store_slot(heap, (uint32_t)i);
            if (!tnmi_store_heap_before(tnmi_store_key(other), other->owner, below)) continue;
            best = i;
            below = other;
        }
        if (tnmi_store_heap_before(key, owner, below)) break;
        tnmi_store_heap_put(heap, place, tnmi_store_key(below), below->owner);
        place = (uint32_t)best;
    }
    tnmi_store_heap_put(heap, place, key, owner);
}

static int tnmi_store_heap_has(const tnmi_heap *heap, uint32_t owner) {
    return *tnmi_store_place(heap, owner) != 0;
}

/* The recorded key of an owner that is in the heap. */
static uint64_t tnmi_store_heap_key(const tnmi_heap *heap, uint32_t owner) {
    return tnmi_store_key(tnmi_store_slot(heap, *tnmi_store_place(heap, owner) - 1));
}

static void tnmi_store_heap_push(tnmi_heap *heap, uint32_t owner, uint64_t key) {
    tnmi_store_heap_up(heap, heap->count++, key, owner);
}

static void tnmi_store_heap_rekey(tnmi_heap *heap, uint32_t owner, uint64_t key) {
    uint32_t place = *tnmi_store_place(heap, owner) - 1;
    if (key < tnmi_store_key(tnmi_store_slot(heap, place)))
        tnmi_store_heap_up(heap, place, key, owner);
    else
        tnmi_store_heap_down(heap, place, key, owner);
}

static inline void tnmi_store_heap_drop(tnmi_heap *heap, uint32_t owner) {
    uint32_t place = *tnmi_store_place(heap, owner) - 1, last = --heap->count;
    *tnmi_store_place(heap, owner) = 0;
    if (place == last) return;
    const tnmi_slot *moved = tnmi_store_slot(heap, last);
    uint64_t key = tnmi_store_key(moved);
    uint32_t moving = moved->owner;
    if (tnmi_store_heap_up(heap, place, key, moving) == place)
        tnmi_store_heap_down(heap, place, key, moving);
}

/* ---- a stable merge sort of an index-linked list ---- */
typedef struct tnmi_order { /* how to walk and compare; `of` is the owner's struct */
    void *of;
    uint32_t *(*next)(void *of, uint32_t index);
    int (*before)(void *of, uint32_t a, uint32_t b);
} tnmi_order;

static uint32_t tnmi_store_merge(const tnmi_order *order, uint32_t a, uint32_t b) {
    uint32_t head = TNMI_NONE, *tail = &head;
    while (a != TNMI_NONE && b != TNMI_NONE) {
        uint32_t *from = order->before(order->of, b, a) ? &b : &a;
        *tail = *from;
        tail = order->next(order->of, *from);
        *from = *tail;
    }
    *tail = a != TNMI_NONE ? a : b;
    return head;
}

static uint32_t tnmi_store_sort(const tnmi_order *order, uint32_t head) {
    uint32_t run[32]; /* run[k] holds 2^k entries; 2^32 of them have no index */
    uint32_t k;
    for (k = 0; k < 32; k++)
        run[k] = TNMI_NONE;
    while (head != TNMI_NONE) {
        uint32_t one = head, *next = order->next(order->of, head);
        head = *next;
        *next = TNMI_NONE;
        for (k = 0; run[k] != TNMI_NONE; k++) {
            one = tnmi_store_merge(order, run[k], one);
            run[k] = TNMI_NONE;
        }
        run[k] = one;
    }
    for (k = 0; k < 32; k++)
        head = tnmi_store_merge(order, run[k], head);
    return head;
}

/* [space] ------------------------------------------------------------------- *
 * Placement inside a tier's segments as pure index arithmetic: nodes outside   *
 * the memory they describe, bins, held runs.                                   *
 * Calls: base tell store.                                                      *
 * Invariants: the nodes of a segment tile it, in a ring closed by a sentinel;  *
 * two free nodes never touch; a free node is in exactly the bin of its size;   *
 * freeing needs no memory; offsets count granules within the segment.          *
 * Bins after two-level segregated fit (Masmano 2004), with a bounded scan of   *
 * the request's own bin first, so that a fitting gap is always found.          *
 * -------------------------------------------------------------------------- */
enum {
    TNMI_SPACE_FREE = 0,
    TNMI_SPACE_USED = 1,
    TNMI_SPACE_HELD = 2, /* free, but promised: `a` says to whom */
    TNMI_SPACE_EDGE = 3, /* the sentinel: `a` is the segment */
    TNMI_SPACE_BINS = 448,
    TNMI_SPACE_SCAN = 8,
    TNMI_SPACE_LOOKS = 4096
};
#    define TNMI_SPACE_MAX   (((uint32_t)1 << 29) - 1) /* granules of a segment */
#    define TNMI_SPACE_DRAIN (TNMI_NONE - 1)           /* holder: a segment that is being emptied */

typedef struct tnmi_node {
    uint32_t offset;
    uint32_t span; /* granules << 2 | kind */
    uint32_t prev, next;
    uint32_t a; /* FREE: next in bin; USED: owner; HELD: holder */
    uint32_t b; /* FREE: previous in bin; USED: mark, 0 = none, the engine's to read */
} tnmi_node;

typedef struct tnmi_space {
    tnmi_table nodes;
    uint32_t bin[TNMI_SPACE_BINS];
    uint32_t map[TNMI_SPACE_BINS / 32];
    uint64_t free_granules, held_granules, used_granules;
    uint32_t at, look; /* where walks over many nodes go on, TNMI_NONE = none; kept in the ring */
} tnmi_space;

static tnmi_node *tnmi_space_node(const tnmi_space *space, uint32_t node) {
    return (tnmi_node *)tnmi_store_of(&space->nodes, node, sizeof(tnmi_node));
}

static uint32_t tnmi_space_kind(const tnmi_node *node) {
    return node->span & 3u;
}

static uint32_t tnmi_space_size(const tnmi_node *node) {
    return node->span >> 2;
}

static void tnmi_space_init(tnmi_space *space, uint32_t max_nodes, int fixed) {
    memset(space, 0, sizeof *space);
    tnmi_store_init(&space->nodes, "max_replicas", sizeof(tnmi_node), offsetof(tnmi_node, prev),
                    max_nodes, fixed);
    space->at = space->look = TNMI_NONE;
    for (uint32_t i = 0; i < TNMI_SPACE_BINS; i++)
        space->bin[i] = TNMI_NONE;
}

static uint32_t tnmi_space_bin_of(uint32_t size) {
    if (size < 16) return size;
    uint32_t log = tnmi_base_log2(size);
    return (log - 3) * 16 + ((size >> (log - 4)) & 15u);
}

static inline void tnmi_space_bin_add(tnmi_space *space, uint32_t index) {
    tnmi_node *node = tnmi_space_node(space, index);
    uint32_t bin = tnmi_space_bin_of(tnmi_space_size(node));
    node->a = space->bin[bin];
    node->b = TNMI_NONE;
    if (node->a != TNMI_NONE) tnmi_space_node(space, node->a)->b = index;
    space->bin[bin] = index;
    space->map[bin / 32] |= 1u << (bin % 32);
    space->free_granules += tnmi_space_size(node);
}

static inline void tnmi_space_bin_drop(tnmi_space *space, uint32_t index) {
    tnmi_node *node = tnmi_space_node(space, index);
    uint32_t bin = tnmi_space_bin_of(tnmi_space_size(node));
    if (node->a != TNMI_NONE) tnmi_space_node(space, node->a)->b = node->b;
    if (node->b != TNMI_NONE)
        tnmi_space_node(space, node->b)->a = node->a;
    else
        space->bin[bin] = node->a;
    if (space->bin[bin] == TNMI_NONE) space->map[bin / 32] &= ~(1u << (bin % 32));
    space->free_granules -= tnmi_space_size(node);
}

/* The first non-empty bin >= bin, or TNMI_SPACE_BINS. */
static uint32_t tnmi_space_bin_next(const tnmi_space *space, uint32_t bin) {
    while (bin < TNMI_SPACE_BINS) {
        uint32_t word = space->map[bin / 32] >> (bin % 32);
        if (word) return bin + tnmi_base_low_bit(word);
        bin = (bin / 32 + 1) * 32;
    }
    return TNMI_SPACE_BINS;
}

static void tnmi_space_link(tnmi_space *space, uint32_t after, uint32_t index) {
    tnmi_node *left = tnmi_space_node(space, after), *node = tnmi_space_node(space, index);
    node->prev = after;
    node->next = left->next;
    tnmi_space_node(space, left->next)->prev = index;
    left->next = index;
}

static void tnmi_space_unlink(tnmi_space *space, uint32_t index) {
    tnmi_node *node = tnmi_space_node(space, index);
    tnmi_space_node(space, node->prev)->next = node->next;
    tnmi_space_node(space, node->next)->prev = node->prev;
    if (space->at == index) space->at = node->next;
    if (space->look == index) space->look = node->next;
    tnmi_store_give(&space->nodes, index);
}

/* A new segment of one free node; takes two nodes, which must be there. Returns its sentinel. */
static uint32_t tnmi_space_open(tnmi_space *space, uint32_t segment, uint32_t granules) {
    uint32_t edge = tnmi_store_take(&space->nodes), all = tnmi_store_take(&space->nodes);
    tnmi_node *sentinel = tnmi_space_node(space, edge), *node = tnmi_space_node(space, all);
    sentinel->offset = granules;
    sentinel->span = TNMI_SPACE_EDGE;
    sentinel->prev = sentinel->next = edge;
    sentinel->a = segment;
    node->offset = 0;
    node->span = granules << 2 | TNMI_SPACE_FREE;
    tnmi_space_link(space, edge, all);
    tnmi_space_bin_add(space, all);
    return edge;
}

/* A request for room: granules, where it may start (a multiple of `align`, a power of two, plus
 * `phase`), and between which granules it must lie. */
typedef struct tnmi_room {
    uint32_t need, align, phase, from, to;
    int high; /* take the upper end of a gap */
} tnmi_room;

/* Where between two granules the room starts, or TNMI_NONE: it does not fit. */
static inline uint32_t tnmi_space_fit(uint32_t start, uint32_t end, const tnmi_room *room) {
    start = start > room->from ? start : room->from;
    end = end < room->to ? end : room->to;
    if (start >= end || room->need > end - start) return TNMI_NONE;
    uint32_t last = end - room->need; /* no start is beyond it */
    uint32_t up = (uint32_t)tnmi_base_odd(room->phase - start, room->align);
    if (up > last - start) return TNMI_NONE;
    start += up;
    return room->high ? last - (uint32_t)tnmi_base_odd(last - start, room->align) : start;
}

static inline uint32_t tnmi_space_fit_node(const tnmi_space *space, uint32_t index,
                                           const tnmi_room *room) {
    const tnmi_node *node = tnmi_space_node(space, index);
    return tnmi_space_fit(node->offset, node->offset + tnmi_space_size(node), room);
}

/* The first of at most `most` nodes of a bin that fits. */
static inline uint32_t tnmi_space_find_in(const tnmi_space *space, uint32_t bin,
                                          const tnmi_room *room, uint32_t most) {
    uint32_t index = space->bin[bin];
    for (uint32_t i = 0; i < most && index != TNMI_NONE; i++) {
        if (tnmi_space_fit_node(space, index, room) != TNMI_NONE) return index;
        index = tnmi_space_node(space, index)->a;
    }
    return TNMI_NONE;
}

/* A free node in which the room fits, or TNMI_NONE: then there is none (a full scan of the bins
 * that could hold it precedes that answer). */
static uint32_t tnmi_space_find(const tnmi_space *space, const tnmi_room *room) {
    uint32_t own = tnmi_space_bin_of(room->need), bin, found;
    if ((found = tnmi_space_find_in(space, own, room, TNMI_SPACE_SCAN)) != TNMI_NONE) return found;
    for (bin = tnmi_space_bin_next(space, own + 1); bin < TNMI_SPACE_BINS;
         bin = tnmi_space_bin_next(space, bin + 1)) {
        found = tnmi_space_find_in(space, bin, room, TNMI_SPACE_SCAN);
        if (found != TNMI_NONE) return found;
    }
    for (bin = tnmi_space_bin_next(space, own); bin < TNMI_SPACE_BINS;
         bin = tnmi_space_bin_next(space, bin + 1)) {
        found = tnmi_space_find_in(space, bin, room, UINT32_MAX);
        if (found != TNMI_NONE) return found;
    }
    return TNMI_NONE;
}

/* A neighbour that is free goes up in the node beside it. Returns its granules, else 0. */
static inline uint32_t tnmi_space_absorb(tnmi_space *space, uint32_t index) {
    const tnmi_node *node = tnmi_space_node(space, index);
    uint32_t size = tnmi_space_size(node);
    if (tnmi_space_kind(node) != TNMI_SPACE_FREE) return 0;
    tnmi_space_bin_drop(space, index);
    tnmi_space_unlink(space, index);
    return size;
}

/* A node that is FREE and in no bin merges with its free neighbours and goes to the bins. */
static void tnmi_space_settle(tnmi_space *space, uint32_t index) {
    tnmi_node *node = tnmi_space_node(space, index);
    uint32_t left = tnmi_space_absorb(space, node->prev);
    uint32_t right = tnmi_space_absorb(space, node->next);
    node->offset -= left;
    node->span = (left + tnmi_space_size(node) + right) << 2 | TNMI_SPACE_FREE;
    tnmi_space_bin_add(space, index);
}

/* A free piece of its own, merged with a free neighbour if there is one. */
static void tnmi_space_cut(tnmi_space *space, uint32_t after, uint32_t offset, uint32_t size) {
    uint32_t piece = tnmi_store_take(&space->nodes);
    tnmi_node *node = tnmi_space_node(space, piece);
    node->offset = offset;
    node->span = size << 2 | TNMI_SPACE_FREE;
    tnmi_space_link(space, after, piece);
    tnmi_space_settle(space, piece);
}

/* Use [start, start + need) of a node that is FREE but in no bin; the rest goes back to the bins.
 * Takes up to two nodes, which must be there. */
static inline void tnmi_space_carve(tnmi_space *space, uint32_t index, uint32_t start,
                                    uint32_t need, uint32_t owner) {
    tnmi_node *node = tnmi_space_node(space, index);
    uint32_t offset = node->offset, end = offset + tnmi_space_size(node);
    node->offset = start;
    node->span = need << 2 | TNMI_SPACE_USED;
    node->a = owner;
    node->b = 0;
    space->used_granules += need;
    if (start + need < end) tnmi_space_cut(space, index, start + need, end - start - need);
    if (offset < start) tnmi_space_cut(space, node->prev, offset, start - offset);
}

/* Use part of a free node found by tnmi_space_find. */
static void tnmi_space_take(tnmi_space *space, uint32_t index, const tnmi_room *room,
                            uint32_t owner) {
    uint32_t start = tnmi_space_fit_node(space, index, room);
    tnmi_space_bin_drop(space, index);
    tnmi_space_carve(space, index, start, room->need, owner);
}

/* What a drain holds is one node with the gaps beside it and what else it holds there: an empty
 * segment is one node, however many tensors it had. */
static void tnmi_space_gather(tnmi_space *space, uint32_t index) {
    tnmi_node *node = tnmi_space_node(space, index);
    const uint32_t side[2] = { node->prev, node->next };
    for (int i = 0; i < 2; i++) {
        const tnmi_node *beside = tnmi_space_node(space, side[i]);
        uint32_t kind = tnmi_space_kind(beside), size = tnmi_space_size(beside);
        if (kind == TNMI_SPACE_FREE) {
            tnmi_space_bin_drop(space, side[i]);
            space->held_granules += size;
        } else if (kind != TNMI_SPACE_HELD || beside->a != TNMI_SPACE_DRAIN)
            continue;
        if (i == 0) node->offset -= size;
        node->span += size << 2;
        tnmi_space_unlink(space, side[i]);
    }
}

/* Give back a used node: to everyone, or to a holder (TNMI_NONE = none). */
static void tnmi_space_free(tnmi_space *space, uint32_t index, uint32_t holder) {
    tnmi_node *node = tnmi_space_node(space, index);
    uint32_t size = tnmi_space_size(node);
    space->used_granules -= size;
    node->b = 0;
    if (holder == TNMI_NONE) {
        node->span = size << 2 | TNMI_SPACE_FREE;
        tnmi_space_settle(space, index);
    } else {
        node->span = size << 2 | TNMI_SPACE_HELD;
        node->a = holder;
        space->held_granules += size;
        if (holder == TNMI_SPACE_DRAIN) tnmi_space_gather(space, index);
    }
}

/* A free node is promised to a holder. */
static void tnmi_space_hold(tnmi_space *space, uint32_t index, uint32_t holder) {
    tnmi_node *node = tnmi_space_node(space, index);
    tnmi_space_bin_drop(space, index);
    node->span = (node->span & ~3u) | TNMI_SPACE_HELD;
    node->a = holder;
    space->held_granules += tnmi_space_size(node);
    if (holder == TNMI_SPACE_DRAIN) tnmi_space_gather(space, index);
}

static void tnmi_space_unhold(tnmi_space *space, uint32_t index) {
    tnmi_node *node = tnmi_space_node(space, index);
    space->held_granules -= tnmi_space_size(node);
    node->span = (node->span & ~3u) | TNMI_SPACE_FREE;
    tnmi_space_settle(space, index);
}

/* The held nodes from `first` on, up to granule `end`, become one node that is FREE and in no bin;
 * its index is `first`. */
static void tnmi_space_join(tnmi_space *space, uint32_t first, uint32_t end) {
    tnmi_node *node = tnmi_space_node(space, first);
    uint32_t size = tnmi_space_size(node);
    while (node->offset + size < end) {
        uint32_t next = node->next;
        size += tnmi_space_size(tnmi_space_node(space, next));
        tnmi_space_unlink(space, next);
    }
    space->held_granules -= size;
    node->span = size << 2 | TNMI_SPACE_FREE;
}

/* Forget a segment without used nodes. */
static void tnmi_space_close(tnmi_space *space, uint32_t edge) {
    uint32_t index = tnmi_space_node(space, edge)->next;
    while (index != edge) {
        tnmi_node *node = tnmi_space_node(space, index);
        uint32_t next = node->next;
        if (tnmi_space_kind(node) == TNMI_SPACE_FREE)
            tnmi_space_bin_drop(space, index);
        else
            space->held_granules -= tnmi_space_size(node);
        tnmi_space_unlink(space, index);
        index = next;
    }
    tnmi_space_unlink(space, edge);
}

/* Granules of the largest free gap. Among more than TNMI_SPACE_LOOKS of the top bin, which differ
 * by a sixteenth at most, one of the largest. */
static uint32_t tnmi_space_largest(const tnmi_space *space) {
    uint32_t word = TNMI_SPACE_BINS / 32, largest = 0;
    while (word > 0 && space->map[word - 1] == 0)
        word--;
    if (word == 0) return 0;
    uint32_t top = (word - 1) * 32 + tnmi_base_log2(space->map[word - 1]);
    uint32_t i = space->bin[top];
    for (int seen = 0; i != TNMI_NONE && seen < TNMI_SPACE_LOOKS; seen++) {
        uint32_t size = tnmi_space_size(tnmi_space_node(space, i));
        largest = size > largest ? size : largest;
        if (top < 32) break; /* all of one size */
        i = tnmi_space_node(space, i)->a;
    }
    return largest;
}

/* Broken invariants of one segment: tiling, kinds, no two free neighbours. */
static int tnmi_space_check_segment(const tnmi_space *space, uint32_t edge, uint64_t *free_sum,
                                    uint64_t *used_sum, uint64_t *held_sum) {
    int broken = 0;
    uint32_t at = 0, before = TNMI_SPACE_EDGE;
    const tnmi_node *sentinel = tnmi_space_node(space, edge);
    for (uint32_t i = sentinel->next; i != edge; i = tnmi_space_node(space, i)->next) {
        const tnmi_node *node = tnmi_space_node(space, i);
        uint32_t kind = tnmi_space_kind(node), size = tnmi_space_size(node);
        broken += node->offset != at;
        broken += size == 0 || kind == TNMI_SPACE_EDGE;
        broken += kind == TNMI_SPACE_FREE && before == TNMI_SPACE_FREE;
        broken += tnmi_space_node(space, node->next)->prev != i;
        if (kind == TNMI_SPACE_FREE) *free_sum += size;
        if (kind == TNMI_SPACE_USED) *used_sum += size;
        if (kind == TNMI_SPACE_HELD) *held_sum += size;
        before = kind;
        at += size;
    }
    return broken + (at != sentinel->offset);
}

/* Broken invariants of the bins: every node in the bin of its size, links and bits agree. */
static int tnmi_space_check_bins(const tnmi_space *space, uint64_t *free_sum) {
    int broken = 0;
    for (uint32_t bin = 0; bin < TNMI_SPACE_BINS; bin++) {
        int bit = (space->map[bin / 32] >> (bin % 32)) & 1u;
        broken += bit != (space->bin[bin] != TNMI_NONE);
        uint32_t before = TNMI_NONE;
        for (uint32_t i = space->bin[bin]; i != TNMI_NONE; i = tnmi_space_node(space, i)->a) {
            const tnmi_node *node = tnmi_space_node(space, i);
            broken += tnmi_space_kind(node) != TNMI_SPACE_FREE || node->b != before;
            broken += tnmi_space_bin_of(tnmi_space_size(node)) != bin;
            *free_sum += tnmi_space_size(node);
            before = i;
        }
    }
    return broken;
}

/* [shelf] ------------------------------------------------------------------- *
 * The built-in backends: host memory, and files (one spill file, any number of *
 * adopted ones).                                                               *
 * Calls: base, the C library, the system's file calls.                         *
 * Invariants:                                                                  *
 *   - a spill file is pages of 4 KiB. Its free ranges are sorted, never touch   *
 *     each other or the end: each has a live segment behind it, so there are    *
 *     at most as many as segments, and releasing needs no memory                *
 *   - a token with the top bit is an offset in the spill file; k is adopted     *
 *     file k; 0 is nothing                                                     *
 *   - only the spill file is written; a write to an adopted file, a range that  *
 *     is not there and a short file are BACKEND                                 *
 *   - all state is in the block tnm_backend.user points at: one thread at a     *
 *     time, as the engine promises. A worker has an operation from the moment   *
 *     it is queued until it is collected, and touches nothing else              *
 *   - an operation is free, queued, out (in the kernel, or a worker's) or done; *
 *     it is a row of steps, each one transfer of one range, and no more than    *
 *     one of them is under way. What the kernel may still write is out          *
 *   - a file that is opened direct is only read and written direct: whole       *
 *     pages, the odd ends of a range by way of the operation's bounce buffer.   *
 *     Two operations that write different parts of one page are never out       *
 *     together. The two ways are never mixed while anything is out: the system  *
 *     does not promise that its cache and the disk then agree                   *
 * A full disk is refused at alloc where the system can reserve (Linux, macOS,   *
 * Windows); where it cannot, at the write. Nothing is fsynced: a buffered       *
 * medium that fails after the write is not noticed, a direct one is.            *
 * Memory is not registered with the kernel: the segments are not ours to keep   *
 * pinned, and registered buffers gave 3 to 6 % on a virtual disk (direct, 128   *
 * KiB at depth 8, 4 MiB at 4): less than half of what the rounds differed by.   *
 * TNMI_SHELF_PREAD and its kin are test points.                                 *
 * -------------------------------------------------------------------------- */
typedef struct tnmi_shelf_host { /* the application's allocator; no functions: malloc and free */
    void *(*alloc)(void *user, size_t size);
    void (*release)(void *user, void *ptr, size_t size);
    void *user;
} tnmi_shelf_host;

typedef struct tnmi_shelf_front { /* lies in front of an aligned block */
    void *raw;
    size_t size;
} tnmi_shelf_front;

static void *tnmi_shelf_take(const tnmi_shelf_host *heap, size_t size) {
    return heap->alloc ? heap->alloc(heap->user, size) : malloc(size);
}

static void tnmi_shelf_give(const tnmi_shelf_host *heap, void *ptr, size_t size) {
    if (!ptr) return;
    if (heap->release)
        heap->release(heap->user, ptr, size);
    else
        free(ptr);
}

/* Can a function be declared here under another name than its symbol's? */
#    if defined(__linux__) && (defined(__GNUC__) || defined(__TINYC__))
#        define TNMI_SHELF_NAMES
#    endif

#    ifdef TNMI_SHELF_NAMES
#        ifndef TNMI_SHELF_MADVISE
extern int tnmi_shelf_madvise(void *, size_t, int) __asm__("madvise"); /* hidden by strict C */
#            define TNMI_SHELF_MADVISE tnmi_shelf_madvise
#        endif
#    endif

/* malloc's memory asks for large pages, as far as they lie inside it: a direct transfer is cut
 * where physical memory is. Measured in a virtual machine: direct reads of 4 MiB 2.7 times as fast
 * as into small pages, of 128 KiB 1.4 times, and far cheaper page faults. It is only advice, and
 * the memory of the application's allocator is left as it is. */
#    define TNMI_SHELF_LARGE ((uintptr_t)1 << 21)

static void tnmi_shelf_large_pages(const tnmi_shelf_host *heap, void *ptr, size_t size) {
#    ifdef TNMI_SHELF_MADVISE
    const uintptr_t page = TNMI_SHELF_LARGE;
    uintptr_t first = ((uintptr_t)ptr + page - 1) & ~(page - 1);
    uintptr_t last = ((uintptr_t)ptr + size) & ~(page - 1);
    if (!heap->alloc && first < last)
        (void)TNMI_SHELF_MADVISE((void *)first, (size_t)(last - first), 14 /* MADV_HUGEPAGE */);
#    endif
    (void)heap;
    (void)ptr;
    (void)size;
}

/* What a block of this size ends on a multiple of. What a schedule streams lies at the end of a
 * segment, few places that all go by: were one of them in the small pages that are left over, its
 * reads would be slow, and they all wait for it. They are left over at the start instead. */
static uintptr_t tnmi_shelf_host_end(const tnmi_shelf_host *heap, uint64_t size) {
#    ifdef TNMI_SHELF_MADVISE
    if (!heap->alloc && size >= 8 * TNMI_SHELF_LARGE) return TNMI_SHELF_LARGE;
#    endif
    (void)heap;
    (void)size;
    return 1;
}

static tnm_result tnmi_shelf_host_alloc(void *user, uint64_t size, uint64_t align, void *item,
                                        uint64_t *mem, void **host) {
    tnmi_shelf_front front;
    uint64_t total;
    (void)item;
    *mem = 0;
    *host = NULL;
    align = tnmi_base_max(align, 16);
    if (!tnmi_base_is_power(align)) return TNM_ERR_ARGUMENT;
    uintptr_t last = tnmi_shelf_host_end((const tnmi_shelf_host *)user, size) - 1;
    if (!tnmi_base_add(size, align - 1, &total) ||
        !tnmi_base_add(total, sizeof front + last, &total) || total > (uint64_t)PTRDIFF_MAX)
        return TNM_ERR_MEMORY;
    front.size = (size_t)total;
    front.raw = tnmi_shelf_take((const tnmi_shelf_host *)user, front.size);
    if (!front.raw) return TNM_ERR_MEMORY;
    uintptr_t raw = (uintptr_t)front.raw, mask = (uintptr_t)align - 1;
    uintptr_t end = (raw + sizeof front + mask + (uintptr_t)size + last) & ~last;
    unsigned char *at = (unsigned char *)front.raw + (((end - (uintptr_t)size) & ~mask) - raw);
    tnmi_shelf_large_pages((const tnmi_shelf_host *)user, at, (size_t)size);
    memcpy(at - sizeof front, &front, sizeof front);
    *host = at;
    *mem = (uint64_t)(uintptr_t)at;
    return TNM_OK;
}

static void tnmi_shelf_host_release(void *user, uint64_t mem, uint64_t size) {
    unsigned char *at = (unsigned char *)(uintptr_t)mem;
    tnmi_shelf_front front;
    if (!at) return;
    memcpy(&front, at - sizeof front, sizeof front);
    tnmi_base_ordinary(at, size);
    tnmi_shelf_give((const tnmi_shelf_host *)user, front.raw, front.size);
}

static tnm_result tnmi_shelf_host_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                       uint64_t size, uint64_t *ticket) {
    (void)user;
    (void)ticket;
    if (!dst->host || !src->host) return TNM_ERR_UNSUPPORTED;
    if (size > (uint64_t)PTRDIFF_MAX) return TNM_ERR_BACKEND;
    memcpy(dst->host, src->host, (size_t)size);
    return TNM_OK;
}

/* `heap` must outlive the backend. */
static void tnmi_shelf_host_backend(tnmi_shelf_host *heap, tnm_backend *out) {
    memset(out, 0, sizeof *out);
    out->alloc = tnmi_shelf_host_alloc;
    out->release = tnmi_shelf_host_release;
    out->copy = tnmi_shelf_host_copy;
    out->user = heap;
}

#    ifndef TENSORMEM_NO_FILE
#        define TNMI_SHELF_SPILL ((uint64_t)1 << 63)

/* DEPTH is two tiers' queue_depth. A virtual disk read blocks of 128 KiB at 0.9, 1.1, 1.5, 2.0, 1.9
 * and 2.3 GiB/s with 1, 2, 4, 8, 16 and 32 under way: beyond 8 the gain is within its noise. */
enum {
    TNMI_SHELF_PAGE = 4096,        /* of a spill file, and what direct transfers are multiples of */
    TNMI_SHELF_SECTOR = 512,       /* of memory for direct ones, where the system does not say */
    TNMI_SHELF_BOUNCE = 64 * 1024, /* of each operation */
    TNMI_SHELF_CALL = 1 << 30,     /* most bytes in one step */
    TNMI_SHELF_TRIES = 8,          /* names tried inside a folder */
    TNMI_SHELF_DEPTH = 16,         /* operations at once by default, at most, and as bits */
    TNMI_SHELF_DEPTH_MOST = 1024,
    TNMI_SHELF_DEPTH_BITS = 10,
    TNMI_SHELF_CREW_MOST = 64, /* threads */
    TNMI_SHELF_VECS = 16,      /* steps joined into one transfer, */
    TNMI_SHELF_JOIN = 1 << 20, /* their bytes, */
    TNMI_SHELF_FEW = 4,        /* and transfers under way before any are joined further */
    TNMI_SHELF_STRIKES = 8,    /* transfers the queue hands back before it is left alone */
    TNMI_SHELF_FAILED = -1,    /* of a step */
    TNMI_SHELF_MISFIT = -2,    /* the same, but only because it was direct */
    TNMI_SHELF_AGAIN = -3      /* it was taken back, and nobody is to blame */
};

#        ifdef _WIN32
typedef HANDLE tnmi_shelf_fd;
#        else
typedef int tnmi_shelf_fd;
#        endif

typedef struct tnmi_shelf_file {
    tnmi_shelf_fd fd;
#        ifdef _WIN32
    tnmi_shelf_fd past; /* a second handle of the same file, past the cache */
    int has_past;
#        endif
    int open;
    int direct;           /* how steps are to go */
    int mode;             /* how they go: follows when nothing is out */
    uint32_t page, align; /* direct: what offsets and sizes, and addresses, are multiples of */
    uint32_t out;         /* operations */
    uint64_t size;        /* adopted: when opened; spill: behind the last segment */
} tnmi_shelf_file;

typedef struct tnmi_shelf_range {
    uint64_t at, size;
} tnmi_shelf_range;

struct tnmi_shelf_state;

typedef struct tnmi_shelf_end { /* of an operation, in a file; as the file was when it started */
    struct tnmi_shelf_state *state;
    uint64_t offset;
    tnmi_shelf_fd fd;
    uint32_t file;        /* 0: the spill file; k: adopted file k */
    uint32_t page, align; /* 1: not direct */
    int direct;
} tnmi_shelf_end;

enum { TNMI_SHELF_READ, TNMI_SHELF_WRITE, TNMI_SHELF_BETWEEN };                       /* kinds */
enum { TNMI_SHELF_FREE, TNMI_SHELF_QUEUED, TNMI_SHELF_OUT, TNMI_SHELF_DONE };         /* states */
enum { TNMI_SHELF_AT_ONCE, TNMI_SHELF_RING, TNMI_SHELF_CREW, TNMI_SHELF_OVERLAPPED }; /* drivers */
enum { /* straight; by way of the bounce; a read whose first and last page alone go that way */
       TNMI_SHELF_MOVE,
       TNMI_SHELF_LOAD,
       TNMI_SHELF_STORE,
       TNMI_SHELF_SPREAD
};

typedef struct tnmi_shelf_leg { /* a range of one file, from or to memory */
    unsigned char *at;
    uint64_t offset, size, done;
    uint64_t skip, part; /* bounce: where the bytes that are wanted begin, and how many */
    uint64_t range, moved;
    int writes, phase;
    int narrow; /* no SPREAD any more */
} tnmi_shelf_leg;

typedef struct tnmi_shelf_vec { /* the system's struct iovec */
    void *at;
    size_t size;
} tnmi_shelf_vec;

typedef struct tnmi_shelf_step { /* one transfer; a driver may do only what comes before `more` */
    unsigned char *at;
    uint64_t size, offset;
    int writes;
    uint32_t mores;
    tnmi_shelf_vec more[2]; /* what follows in the file, elsewhere in memory */
} tnmi_shelf_step;

typedef struct tnmi_shelf_op {
    tnmi_shelf_end to, from;
    unsigned char *host, *bounce;
    uint64_t size, data; /* asked for; what the source has of it, the rest is zeros */
    uint64_t at;         /* BETWEEN: what has arrived */
    tnmi_shelf_leg leg;
    tnmi_shelf_step step;
    uint64_t serial;
    uint32_t next;  /* in a list */
    uint32_t chain; /* joined to it in one transfer */
    int kind, state, misfit;
    tnm_result result;
#        ifdef _WIN32
    OVERLAPPED over;
#        else
    tnmi_shelf_vec vec[TNMI_SHELF_VECS];
#        endif
} tnmi_shelf_op;

typedef struct tnmi_shelf_list { /* of operations, oldest first */
    uint32_t first, last;
} tnmi_shelf_list;

/* Android ends an application that asks its kernel for a ring. */
#        if defined(TNMI_SHELF_NAMES) && !defined(__ANDROID__) && TNMI_ATOMICS == 1
#            if defined(SYS_io_uring_setup) && defined(SYS_io_uring_enter)
#                define TNMI_SHELF_HAS_RING
#            endif
#        endif

#        ifdef TNMI_SHELF_HAS_RING
typedef struct tnmi_shelf_entry { /* the system's io_uring_sqe */
    uint8_t code, flags;
    uint16_t priority;
    int32_t fd;
    uint64_t offset, at;
    uint32_t count, how;
    uint64_t user, rest[3];
} tnmi_shelf_entry;

typedef struct tnmi_shelf_answer { /* and io_uring_cqe */
    uint64_t user;
    int32_t result;
    uint32_t flags;
} tnmi_shelf_answer;

typedef struct tnmi_shelf_ring {
    unsigned char *map;
    tnmi_shelf_entry *entry;
    tnmi_shelf_answer *answer;
    size_t map_size, entry_size;
    uint32_t *sq_head, *sq_tail, *cq_head, *cq_tail; /* shared with the kernel */
    uint32_t sq_mask, cq_mask;
    uint32_t queued; /* entries it has not been told of */
    uint32_t out;    /* answers it owes */
    uint32_t strikes;
    int fd, open;
    int refused;            /* takes nothing any more */
    tnmi_shelf_list launch; /* operations whose step goes in next */
} tnmi_shelf_ring;
#        endif

#        ifdef TENSORMEM_THREADS
typedef struct tnmi_shelf_crew {
    tnmi_mutex mutex; /* of all below, and of the operations in the lists */
    tnmi_bell work, done;
    tnmi_shelf_list todo, ready;
    int stop;
    uint32_t count; /* threads that run */
    tnmi_thread thread[TNMI_SHELF_CREW_MOST];
} tnmi_shelf_crew;
#        endif

typedef struct tnmi_shelf_state {
    tnmi_shelf_host heap;
    size_t bytes; /* of this block, operations and bounce buffers included */
    uint32_t granularity;
    tnmi_shelf_file spill;
    tnmi_shelf_range *free;
    uint32_t free_count, free_capacity, live; /* live segments */
    tnmi_shelf_file *adopted;
    uint32_t adopted_count, adopted_capacity;
    tnmi_shelf_op *op;
    uint32_t depth, free_op;
    tnmi_shelf_list queue;
    uint64_t serials;
    uint32_t out; /* operations */
    int driver, closing;
    int direct; /* was asked for */
    long owner; /* the process; a child of it has none of what is out */
    char how[48];
#        ifdef TNMI_SHELF_HAS_RING
    tnmi_shelf_ring ring;
#        endif
#        ifdef TENSORMEM_THREADS
    tnmi_shelf_crew crew;
#        endif
} tnmi_shelf_state;

/* The end its step is at: also what a write loads before is of its destination. */
static const tnmi_shelf_end *tnmi_shelf_side(const tnmi_shelf_op *op) {
    return op->leg.writes ? &op->to : &op->from;
}

/* "tensormem-" and 128 bits */
static void tnmi_shelf_name(char out[48], uint64_t high, uint64_t low) {
    static const char hex[] = "0123456789abcdef";
    memcpy(out, "tensormem-", 10);
    for (int i = 0; i < 16; i++) {
        out[10 + i] = hex[high >> (60 - 4 * i) & 15];
        out[26 + i] = hex[low >> (60 - 4 * i) & 15];
    }
    out[42] = 0;
}

#        ifdef _WIN32
/* ---- Windows: paths are in the code page of the process (UTF-8 if its manifest says so) ---- */
static void tnmi_shelf_os_close(tnmi_shelf_file *file) { /* the last handle removes a spill file */
    if (file->has_past) CloseHandle(file->past);
    if (file->open) CloseHandle(file->fd);
    memset(file, 0, sizeof *file);
}

static HANDLE tnmi_shelf_os_create(const char *path, int direct) {
    DWORD share = direct ? FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE : 0;
    DWORD flags = FILE_FLAG_DELETE_ON_CLOSE | FILE_FLAG_OPEN_REPARSE_POINT; /* follows no link */
    return CreateFileA(path, GENERIC_READ | GENERIC_WRITE | DELETE, share, NULL, CREATE_NEW,
                       flags | FILE_FLAG_OVERLAPPED, NULL);
}

static HANDLE tnmi_shelf_os_inside(const char *folder, int direct) {
    char path[1024], name[48];
    size_t length = strlen(folder);
    HANDLE fd = INVALID_HANDLE_VALUE;
    LARGE_INTEGER now;
    if (length > sizeof path - sizeof name - 1) return fd;
    memcpy(path, folder, length);
    path[length] = '\\';
    for (int i = 0; i < TNMI_SHELF_TRIES && fd == INVALID_HANDLE_VALUE; i++) {
        QueryPerformanceCounter(&now);
        uint64_t who = (uint64_t)GetCurrentProcessId() << 32 | GetCurrentThreadId();
        uint64_t when = tnmi_base_mix((uint64_t)now.QuadPart, (uint64_t)(uintptr_t)&now);
        tnmi_shelf_name(name, tnmi_base_mix(when, who), tnmi_base_mix(who, when));
        memcpy(path + length + 1, name, sizeof name);
        fd = tnmi_shelf_os_create(path, direct);
    }
    return fd;
}

static void tnmi_shelf_os_direct(tnmi_shelf_file *file, DWORD access) {
#            if defined(_WIN32_WINNT) && _WIN32_WINNT >= 0x0600
    DWORD share = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
    DWORD flags = FILE_FLAG_NO_BUFFERING | FILE_FLAG_OVERLAPPED;
    file->past = ReOpenFile(file->fd, access, share, flags);
    file->has_past = file->past != INVALID_HANDLE_VALUE;
    file->direct = file->mode = file->has_past;
    file->page = file->align = TNMI_SHELF_PAGE;
#            else
    (void)file;
    (void)access;
#            endif
}

static int tnmi_shelf_os_mode(tnmi_shelf_file *file, int direct) {
    file->mode = direct;
    return 1;
}

static tnmi_shelf_fd tnmi_shelf_os_fd(const tnmi_shelf_file *file) {
    return file->mode ? file->past : file->fd;
}

static int tnmi_shelf_os_new(const char *path, int direct, tnmi_shelf_file *file) {
    DWORD kind = GetFileAttributesA(path);
    DWORD either = FILE_ATTRIBUTE_DIRECTORY | FILE_ATTRIBUTE_REPARSE_POINT; /* no link to one */
    int folder = kind != INVALID_FILE_ATTRIBUTES && (kind & either) == FILE_ATTRIBUTE_DIRECTORY;
    file->fd = folder ? tnmi_shelf_os_inside(path, direct) : tnmi_shelf_os_create(path, direct);
    file->open = file->fd != INVALID_HANDLE_VALUE;
    if (file->open && direct) tnmi_shelf_os_direct(file, GENERIC_READ | GENERIC_WRITE);
    return file->open;
}

static int tnmi_shelf_os_open(const char *path, int direct, tnmi_shelf_file *file) {
    LARGE_INTEGER size;
    file->fd =
        CreateFileA(path, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                    NULL, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL | FILE_FLAG_OVERLAPPED, NULL);
    file->open = file->fd != INVALID_HANDLE_VALUE;
    if (!file->open || GetFileType(file->fd) != FILE_TYPE_DISK || !GetFileSizeEx(file->fd, &size))
        return 0;
    file->size = (uint64_t)size.QuadPart;
    if (direct) tnmi_shelf_os_direct(file, GENERIC_READ);
    return 1;
}

static int64_t tnmi_shelf_os_error(const tnmi_shelf_op *op, DWORD error) {
    if (error == ERROR_HANDLE_EOF) return 0;
    return tnmi_shelf_side(op)->direct && error == ERROR_INVALID_PARAMETER ? TNMI_SHELF_MISFIT
                                                                           : TNMI_SHELF_FAILED;
}

/* Starts the step; 0 = it is under way. The event of an operation tells its end, as a file has
 * several under way. */
static int64_t tnmi_shelf_os_start(tnmi_shelf_op *op) {
    const tnmi_shelf_step *step = &op->step;
    HANDLE fd = tnmi_shelf_side(op)->fd, event = op->over.hEvent;
    memset(&op->over, 0, sizeof op->over);
    op->over.hEvent = event;
    op->over.Offset = (DWORD)(step->offset & 0xffffffffu);
    op->over.OffsetHigh = (DWORD)(step->offset >> 32);
    BOOL fine = step->writes ? WriteFile(fd, step->at, (DWORD)step->size, NULL, &op->over)
                             : ReadFile(fd, step->at, (DWORD)step->size, NULL, &op->over);
    DWORD error = fine ? 0 : GetLastError();
    if (fine || error == ERROR_IO_PENDING) return 0;
    SetEvent(event);
    op->over.Internal = 0; /* it never began: */
    return error == ERROR_HANDLE_EOF ? TNMI_SHELF_FAILED : tnmi_shelf_os_error(op, error);
}

/* The bytes moved, FAILED, MISFIT or AGAIN: a thread that ends takes along what it has started.
 * 0 in `ended` = it is still under way. */
static int64_t tnmi_shelf_os_end(tnmi_shelf_op *op, int waits, int *ended) {
    HANDLE fd = tnmi_shelf_side(op)->fd;
    DWORD done = 0;
    *ended = 1;
    if (GetOverlappedResult(fd, &op->over, &done, waits)) return (int64_t)done;
    DWORD error = GetLastError();
    *ended = error != ERROR_IO_INCOMPLETE;
    if (error == ERROR_OPERATION_ABORTED) return TNMI_SHELF_AGAIN;
    return tnmi_shelf_os_error(op, error);
}

static int64_t tnmi_shelf_os_io(tnmi_shelf_op *op) {
    int ended;
    int64_t got;
    do {
        got = tnmi_shelf_os_start(op);
        if (got == 0) got = tnmi_shelf_os_end(op, 1, &ended);
    } while (got == TNMI_SHELF_AGAIN);
    return got;
}

static long tnmi_shelf_os_process(void) { /* nothing forks here */
    return 0;
}

static int tnmi_shelf_os_resize(tnmi_shelf_file *file, uint64_t size) {
    LARGE_INTEGER to;
    to.QuadPart = (LONGLONG)size;
    return SetFilePointerEx(file->fd, to, NULL, FILE_BEGIN) && SetEndOfFile(file->fd);
}

/* Setting the end reserves; what lies before the end was reserved so and stays. */
static int tnmi_shelf_os_reserve(tnmi_shelf_file *file, uint64_t at, uint64_t size) {
    return at + size <= file->size || tnmi_shelf_os_resize(file, at + size);
}

#        else
/* ---- POSIX ---- */
#            ifdef TNMI_SHELF_NAMES
/* Strict C hides most of these calls, 32-bit systems hide the 64-bit ones, unless a macro was set
 * before the first header, which we cannot do. So we name the symbols ourselves: the same in every
 * mode, with 64-bit offsets, and no clash with a declaration that is visible. */
#                if defined(__GLIBC__) || defined(__ANDROID__)
#                    define TNMI_SHELF_CALL64(name) __asm__(name "64")
#                else
#                    define TNMI_SHELF_CALL64(name) __asm__(name)
#                endif
extern ssize_t tnmi_shelf_pread(int, void *, size_t, int64_t) TNMI_SHELF_CALL64("pread");
extern ssize_t tnmi_shelf_pwrite(int, const void *, size_t, int64_t) TNMI_SHELF_CALL64("pwrite");
extern int tnmi_shelf_openat(int, const char *, int, ...) TNMI_SHELF_CALL64("openat");
extern int tnmi_shelf_ftruncate(int, int64_t) TNMI_SHELF_CALL64("ftruncate");
extern int tnmi_shelf_fallocate(int, int, int64_t, int64_t) TNMI_SHELF_CALL64("fallocate");
extern int64_t tnmi_shelf_lseek(int, int64_t, int) TNMI_SHELF_CALL64("lseek");
extern int tnmi_shelf_unlinkat(int, const char *, int) __asm__("unlinkat");
extern long tnmi_shelf_syscall(long, ...) __asm__("syscall");
extern int tnmi_shelf_yield(void) __asm__("sched_yield");
extern void *tnmi_shelf_mmap(void *, size_t, int, int, int, int64_t) TNMI_SHELF_CALL64("mmap");
#                define TNMI_SHELF_CWD       (-100) /* AT_FDCWD */
#                define TNMI_SHELF_KEEP_SIZE 1      /* of <linux/falloc.h> */
#                define TNMI_SHELF_PUNCH     2
#                if defined(__GLIBC__) && __GLIBC__ * 100 + __GLIBC_MINOR__ >= 227
extern ssize_t tnmi_shelf_copy_range(int, int64_t *, int, int64_t *, size_t,
                                     unsigned) __asm__("copy_file_range");
#                    ifndef TNMI_SHELF_COPY_RANGE
#                        define TNMI_SHELF_COPY_RANGE tnmi_shelf_copy_range
#                    endif
#                endif
#                ifndef TNMI_SHELF_FALLOCATE
#                    define TNMI_SHELF_FALLOCATE tnmi_shelf_fallocate
#                endif
#            else
typedef char tnmi_shelf_needs_64_bit_off_t[sizeof(off_t) == 8 ? 1 : -1];
#                define tnmi_shelf_pread     pread
#                define tnmi_shelf_pwrite    pwrite
#                define tnmi_shelf_openat    openat
#                define tnmi_shelf_ftruncate ftruncate
#                define tnmi_shelf_lseek     (lseek) /* WASI's macro of it is no C */
#                define tnmi_shelf_unlinkat  unlinkat
#                define TNMI_SHELF_CWD       AT_FDCWD
#                ifdef __wasi__
extern int tnmi_shelf_entropy(void *, size_t) __asm__("getentropy"); /* hidden by strict C */
#                endif
#            endif
#            ifndef TNMI_SHELF_PREAD
#                define TNMI_SHELF_PREAD tnmi_shelf_pread
#            endif
#            ifndef TNMI_SHELF_PWRITE
#                define TNMI_SHELF_PWRITE tnmi_shelf_pwrite
#            endif
#            if !defined(TNMI_SHELF_STATX) && defined(TNMI_SHELF_NAMES) && !defined(__ANDROID__)
#                ifdef SYS_statx
#                    define TNMI_SHELF_STATX(fd, about) /* of a descriptor: direct alignments */   \
                        tnmi_shelf_syscall(SYS_statx, fd, "", 0x1000, 0x2000, about)
#                endif
#            endif
#            ifdef TNMI_SHELF_HAS_RING
#                ifndef TNMI_SHELF_SETUP
#                    define TNMI_SHELF_SETUP(count, about)                                         \
                        tnmi_shelf_syscall(SYS_io_uring_setup, count, about)
#                endif
#                ifndef TNMI_SHELF_ENTER
#                    define TNMI_SHELF_ENTER(fd, submit, answers, flags)                           \
                        tnmi_shelf_syscall(SYS_io_uring_enter, fd, submit, answers, flags, NULL, 0)
#                endif
#                ifndef TNMI_SHELF_MMAP
#                    define TNMI_SHELF_MMAP   tnmi_shelf_mmap
#                    define TNMI_SHELF_MUNMAP munmap
#                endif
#            endif
#            ifndef TNMI_SHELF_OPENAT /* one test replaces all of these */
#                define TNMI_SHELF_OPENAT    tnmi_shelf_openat
#                define TNMI_SHELF_UNLINKAT  tnmi_shelf_unlinkat
#                define TNMI_SHELF_FTRUNCATE tnmi_shelf_ftruncate
#                define TNMI_SHELF_LSEEK     tnmi_shelf_lseek
#                define TNMI_SHELF_FSTAT     fstat
#                define TNMI_SHELF_NOISE     read
#                define TNMI_SHELF_CLOSE     close
#            endif
#            ifndef TNMI_SHELF_SWITCH
#                define TNMI_SHELF_SWITCH(fd, flags) fcntl(fd, F_SETFL, flags)
#            endif
#            ifdef __O_CLOEXEC /* glibc hides O_CLOEXEC and its kin in strict C, but not these */
#                define TNMI_SHELF_FLAG(name) __##name
#            else
#                define TNMI_SHELF_FLAG(name) name
#            endif
#            if defined(O_DIRECT) || defined(__O_DIRECT)
#                define TNMI_SHELF_DIRECT TNMI_SHELF_FLAG(O_DIRECT)
#            endif
#            if !defined(TNMI_SHELF_UNNAMED) && (defined(O_TMPFILE) || defined(__O_TMPFILE))
#                define TNMI_SHELF_UNNAMED TNMI_SHELF_FLAG(O_TMPFILE)
#            endif

static int tnmi_shelf_os_at(int folder, const char *path, int flags) {
    int fd;
    flags |= O_NOCTTY | TNMI_SHELF_FLAG(O_CLOEXEC);
    do
        fd = TNMI_SHELF_OPENAT(folder, path, flags, 0600);
    while (fd < 0 && errno == EINTR);
    return fd;
}

static int tnmi_shelf_os_create(int folder, const char *name) {
    int flags = O_RDWR | O_CREAT | O_EXCL | TNMI_SHELF_FLAG(O_NOFOLLOW);
    int fd = tnmi_shelf_os_at(folder, name, flags);
    if (fd < 0 || TNMI_SHELF_UNLINKAT(folder, name, 0) == 0) return fd;
    (void)TNMI_SHELF_CLOSE(fd);
    errno = EIO;
    return -1;
}

#            ifdef __wasi__
static int tnmi_shelf_os_noise(uint64_t noise[2]) { /* there is no such device */
    return tnmi_shelf_entropy(noise, 16) == 0;
}

static long tnmi_shelf_os_process(void) { /* nothing forks here */
    return 0;
}
#            else
static int tnmi_shelf_os_noise(uint64_t noise[2]) {
    int fd = tnmi_shelf_os_at(TNMI_SHELF_CWD, "/dev/urandom", O_RDONLY);
    if (fd < 0) return 0;
    ssize_t got = TNMI_SHELF_NOISE(fd, noise, 16);
    (void)TNMI_SHELF_CLOSE(fd);
    return got == 16;
}

static long tnmi_shelf_os_process(void) {
    return (long)getpid();
}
#            endif

static int tnmi_shelf_os_inside(const char *path) {
    char name[48];
    uint64_t noise[2];
    int fd = -1, flags = O_RDONLY | TNMI_SHELF_FLAG(O_DIRECTORY) | TNMI_SHELF_FLAG(O_NOFOLLOW);
    int folder = tnmi_shelf_os_at(TNMI_SHELF_CWD, path, flags);
    if (folder < 0) return -1;
#            ifdef TNMI_SHELF_UNNAMED
    fd = tnmi_shelf_os_at(folder, ".", O_RDWR | O_EXCL | TNMI_SHELF_UNNAMED);
#            endif
    for (int i = 0; fd < 0 && i < TNMI_SHELF_TRIES && tnmi_shelf_os_noise(noise); i++) {
        tnmi_shelf_name(name, noise[0], noise[1]);
        fd = tnmi_shelf_os_create(folder, name);
    }
    (void)TNMI_SHELF_CLOSE(folder);
    return fd;
}

/* One descriptor changes between buffered and direct, so no path is opened twice. */
static int tnmi_shelf_os_mode(tnmi_shelf_file *file, int direct) {
    int failed = 1;
#            if defined(TNMI_SHELF_DIRECT)
    failed = TNMI_SHELF_SWITCH(file->fd, direct ? TNMI_SHELF_DIRECT : 0);
#            elif defined(F_NOCACHE)
    failed = fcntl(file->fd, F_NOCACHE, direct);
#            endif
    if (failed == 0) file->mode = direct;
    return failed == 0;
}

static tnmi_shelf_fd tnmi_shelf_os_fd(const tnmi_shelf_file *file) {
    return file->fd;
}

/* Direct, if the system lets us; where it says how, as it says. Whole pages even where sectors
 * would do: a page is what its cache holds, and must not be seen in two ways. */
static void tnmi_shelf_os_direct(tnmi_shelf_file *file) {
    file->page = file->align = 1; /* the cache is only left alone, any range is fine */
#            if defined(TNMI_SHELF_DIRECT)
    file->page = TNMI_SHELF_PAGE;
    file->align = TNMI_SHELF_SECTOR;
#                ifdef TNMI_SHELF_STATX
    uint32_t about[64]; /* struct statx: [0] what is known, [38] [39] alignments */
    memset(about, 0, sizeof about);
    if (TNMI_SHELF_STATX(file->fd, about) == 0 && (about[0] & 0x2000) != 0) {
        if (about[38] == 0 || about[39] == 0) return; /* not this file */
        if (!tnmi_base_is_power(about[38]) || TNMI_SHELF_PAGE % about[39] != 0) return;
        file->align = about[38];
    }
#                endif
#            endif
    file->direct = tnmi_shelf_os_mode(file, 1);
}

static void tnmi_shelf_os_close(tnmi_shelf_file *file) {
    if (file->open) (void)TNMI_SHELF_CLOSE(file->fd);
    memset(file, 0, sizeof *file);
}

static int tnmi_shelf_os_new(const char *path, int direct, tnmi_shelf_file *file) {
    file->fd = tnmi_shelf_os_create(TNMI_SHELF_CWD, path);
    if (file->fd < 0 && (errno == EEXIST || errno == EISDIR)) file->fd = tnmi_shelf_os_inside(path);
    file->open = file->fd >= 0;
    if (file->open && direct) tnmi_shelf_os_direct(file);
    return file->open;
}

/* A file too large for a 32-bit off_t is regular: nothing else overflows. */
static int tnmi_shelf_os_measure(tnmi_shelf_file *file) {
    struct stat about;
    if (TNMI_SHELF_FSTAT(file->fd, &about) == 0) {
        if (!S_ISREG(about.st_mode)) return 0;
    } else if (errno != EOVERFLOW)
        return 0;
    int64_t end = TNMI_SHELF_LSEEK(file->fd, 0, SEEK_END);
    file->size = end > 0 ? (uint64_t)end : 0;
    return end >= 0;
}

static int tnmi_shelf_os_open(const char *path, int direct, tnmi_shelf_file *file) {
    int flags = O_RDONLY | O_NONBLOCK; /* a pipe would hang */
    file->fd = tnmi_shelf_os_at(TNMI_SHELF_CWD, path, flags);
    file->open = file->fd >= 0;
    if (!file->open || !tnmi_shelf_os_measure(file)) return 0;
    (void)TNMI_SHELF_SWITCH(file->fd, 0); /* whoever waits for the disk is to wait */
    if (direct) tnmi_shelf_os_direct(file);
    return 1;
}

static int64_t tnmi_shelf_os_error(const tnmi_shelf_op *op, int error) {
    return tnmi_shelf_side(op)->direct && error == EINVAL ? TNMI_SHELF_MISFIT : TNMI_SHELF_FAILED;
}

static int64_t tnmi_shelf_os_io(tnmi_shelf_op *op) {
    const tnmi_shelf_step *step = &op->step;
    tnmi_shelf_fd fd = tnmi_shelf_side(op)->fd;
    size_t size = (size_t)step->size;
    int64_t at = (int64_t)step->offset;
    ssize_t done;
    do
        done = step->writes ? TNMI_SHELF_PWRITE(fd, step->at, size, at)
                            : TNMI_SHELF_PREAD(fd, step->at, size, at);
    while (done < 0 && (errno == EINTR || errno == EAGAIN));
    return done >= 0 ? done : tnmi_shelf_os_error(op, errno);
}

static int tnmi_shelf_os_resize(tnmi_shelf_file *file, uint64_t size) {
    int failed;
#            ifdef __EMSCRIPTEN__
    if (size > INT32_MAX) return 0; /* its calls take the low 32 bits of an offset */
#            endif
    do
        failed = TNMI_SHELF_FTRUNCATE(file->fd, (int64_t)size);
    while (failed && errno == EINTR);
    return !failed;
}

#            if defined(TNMI_SHELF_FALLOCATE)
/* Makes the bytes exist on the disk. An interrupted call may have undone its work, so a shorter one
 * follows: a timer then cannot stop us for ever. */
static int tnmi_shelf_os_reserve(tnmi_shelf_file *file, uint64_t at, uint64_t size) {
    uint64_t end = at + size, step = size;
    while (at < end) {
        uint64_t now = tnmi_base_min(step, end - at);
        if (TNMI_SHELF_FALLOCATE(file->fd, 0, (int64_t)at, (int64_t)now) == 0)
            at += now;
        else if (errno == EINTR)
            step = tnmi_base_max(step / 2, (uint64_t)1 << 20);
        else if (errno == EOPNOTSUPP || errno == ENOSYS)
            return tnmi_shelf_os_resize(file, tnmi_base_max(end, file->size));
        else
            return 0;
    }
    return 1;
}

#            else
static int tnmi_shelf_os_reserve(tnmi_shelf_file *file, uint64_t at, uint64_t size) {
    uint64_t end = at + size;
    if (end <= file->size) return 1;
#                ifdef F_PREALLOCATE
    fstore_t more;
    memset(&more, 0, sizeof more);
    more.fst_flags = F_ALLOCATEALL;
    more.fst_posmode = F_PEOFPOSMODE;
    more.fst_length = (off_t)(end - file->size);
    if (fcntl(file->fd, F_PREALLOCATE, &more) != 0 && errno == ENOSPC) return 0;
#                endif
    return tnmi_shelf_os_resize(file, end);
}
#            endif
#        endif /* POSIX */

/* Gives the disk its room back; where it cannot, the file only stays larger. */
static void tnmi_shelf_os_punch(tnmi_shelf_file *file, uint64_t at, uint64_t size) {
#        ifdef TNMI_SHELF_FALLOCATE
    int how = TNMI_SHELF_KEEP_SIZE | TNMI_SHELF_PUNCH;
    (void)TNMI_SHELF_FALLOCATE(file->fd, how, (int64_t)at, (int64_t)size);
#        endif
    (void)file;
    (void)at;
    (void)size;
}

/* The bytes the system copied by itself; whatever stops it, the caller goes on from there. */
static uint64_t tnmi_shelf_os_copy(const tnmi_shelf_end *to, const tnmi_shelf_end *from,
                                   uint64_t size) {
    uint64_t done = 0;
#        ifdef TNMI_SHELF_COPY_RANGE
    int64_t out = (int64_t)to->offset, in = (int64_t)from->offset;
    while (done < size) {
        size_t step = (size_t)tnmi_base_min(size - done, TNMI_SHELF_CALL);
        ssize_t now = TNMI_SHELF_COPY_RANGE(from->fd, &in, to->fd, &out, step, 0);
        if (now < 0 && errno == EINTR) continue;
        if (now <= 0) break;
        done += (uint64_t)now;
    }
#        endif
    (void)to;
    (void)from;
    (void)size;
    return done;
}

/* ---- an operation, step by step: knows no driver ---- */
static void tnmi_shelf_begin(tnmi_shelf_op *op, int writes, void *at, uint64_t offset,
                             uint64_t size) {
    memset(&op->leg, 0, sizeof op->leg);
    op->leg.at = (unsigned char *)at;
    op->leg.offset = offset;
    op->leg.size = size;
    op->leg.writes = writes;
}

/* BETWEEN goes by pieces through the lower half of the bounce buffer; the upper one is for the odd
 * ends. A piece ends on a page of the destination, so that only its first and last are odd. */
static uint64_t tnmi_shelf_piece(const tnmi_shelf_op *op) {
    uint64_t odd = (op->to.offset + op->at) % TNMI_SHELF_PAGE;
    return tnmi_base_min(op->size - op->at, TNMI_SHELF_BOUNCE / 2 - odd);
}

static void tnmi_shelf_begin_read(tnmi_shelf_op *op) {
    uint64_t size = tnmi_base_min(tnmi_shelf_piece(op), tnmi_base_less(op->data, op->at));
    tnmi_shelf_begin(op, 0, op->bounce, op->from.offset + op->at, size);
}

static void tnmi_shelf_begin_first(tnmi_shelf_op *op) {
    op->at = 0;
    if (op->kind == TNMI_SHELF_BETWEEN)
        tnmi_shelf_begin_read(op);
    else if (op->kind == TNMI_SHELF_WRITE)
        tnmi_shelf_begin(op, 1, op->host, op->to.offset, op->size);
    else
        tnmi_shelf_begin(op, 0, op->host, op->from.offset, op->data);
}

/* A leg is done: the next one. 0 = there is none. */
static int tnmi_shelf_turn(tnmi_shelf_op *op) {
    const tnmi_shelf_leg *leg = &op->leg;
    if (op->kind == TNMI_SHELF_READ && op->data < op->size)
        memset(op->host + op->data, 0, (size_t)(op->size - op->data));
    if (op->kind != TNMI_SHELF_BETWEEN || op->at == op->size) return 0;
    uint64_t piece = tnmi_shelf_piece(op);
    if (leg->writes) {
        op->at += leg->size;
        tnmi_shelf_begin_read(op);
        return op->at < op->size;
    }
    memset(op->bounce + leg->size, 0, (size_t)(piece - leg->size)); /* behind the source's end */
    tnmi_shelf_begin(op, 1, op->bounce, op->to.offset + op->at, piece);
    return 1;
}

/* A read whose middle can go straight is one step, its odd ends too: their pages have the first two
 * of the bounce buffer. 0 = it is none. */
static int tnmi_shelf_spread(tnmi_shelf_op *op) {
    tnmi_shelf_leg *leg = &op->leg;
    tnmi_shelf_step *step = &op->step;
    const uint64_t page = op->from.page, offset = leg->offset + leg->done;
    const uint64_t skip = offset & (page - 1), head = skip ? page - skip : 0;
    const uint64_t left = tnmi_base_min(leg->size - leg->done, TNMI_SHELF_CALL);
    unsigned char *at = leg->at + leg->done;
    if (op->kind != TNMI_SHELF_READ || leg->narrow || left < head + page) return 0;
    const uint64_t tail = (left - head) & (page - 1), middle = left - head - tail;
    if (!head && !tail) return 0;
    leg->skip = skip;
    leg->part = left;
    leg->phase = TNMI_SHELF_SPREAD;
    step->at = head ? op->bounce : at;
    step->size = head ? page : middle;
    step->offset = offset - skip;
    step->writes = 0;
    if (head) {
        step->more[0].at = at + head;
        step->more[0].size = (size_t)middle;
        step->mores = 1;
    }
    if (tail) {
        step->more[step->mores].at = op->bounce + page;
        step->more[step->mores++].size = (size_t)page;
    }
    return 1;
}

/* What of it has come is made use of, in whole pages unless it is all. */
static void tnmi_shelf_spread_took(tnmi_shelf_op *op, uint64_t got) {
    tnmi_shelf_leg *leg = &op->leg;
    const uint64_t page = op->from.page, head = leg->skip ? page - leg->skip : 0;
    const uint64_t tail = (leg->part - head) & (page - 1), middle = leg->part - head - tail;
    unsigned char *at = leg->at + leg->done;
    leg->phase = TNMI_SHELF_MOVE;
    if (got < leg->skip + leg->part) got &= ~(page - 1);
    leg->narrow = got == 0; /* the file ends before it said */
    if (got == 0) return;
    got = tnmi_base_min(got - leg->skip, leg->part);
    if (head) memcpy(at, op->bounce + leg->skip, (size_t)head);
    if (got > head + middle) memcpy(at + head + middle, op->bounce + page, (size_t)tail);
    leg->done += got;
}

/* The step that follows: straight where both ends are as direct transfers want them, else whole
 * pages through the bounce buffer. A write that covers a page in part loads it first. */
static void tnmi_shelf_shape(tnmi_shelf_op *op) {
    tnmi_shelf_leg *leg = &op->leg;
    const tnmi_shelf_end *end = tnmi_shelf_side(op);
    uint64_t mask = end->page - 1, offset = leg->offset + leg->done, left = leg->size - leg->done;
    uint64_t upper = op->kind == TNMI_SHELF_BETWEEN ? (uint64_t)TNMI_SHELF_BOUNCE / 2 : 0;
    unsigned char *at = leg->at + leg->done, *bounce = op->bounce + upper;
    tnmi_shelf_step *step = &op->step;
    step->mores = 0;
    if (leg->phase == TNMI_SHELF_SPREAD) leg->phase = TNMI_SHELF_MOVE; /* it was not carried out */
    if (leg->phase == TNMI_SHELF_MOVE) {
        uint64_t skip = offset & mask, most = TNMI_SHELF_BOUNCE - upper - skip;
        uint64_t crooked = ((uint64_t)(uintptr_t)at + end->page - skip) & (end->align - 1);
        if (crooked == 0 && tnmi_shelf_spread(op)) return;
        if (skip == 0 && crooked == 0 && left > mask) {
            step->at = at;
            step->size = tnmi_base_min(left & ~mask, TNMI_SHELF_CALL);
            step->offset = offset;
            step->writes = leg->writes;
            return;
        }
        if (skip != 0 && crooked == 0) most = end->page - skip; /* from there it goes straight */
        leg->skip = skip;
        leg->part = tnmi_base_min(left, most);
        leg->range = (skip + leg->part + mask) & ~mask;
        leg->moved = 0;
        leg->phase = TNMI_SHELF_LOAD;
        if (leg->writes && leg->range == leg->part) {
            memcpy(bounce, at, (size_t)leg->part);
            leg->phase = TNMI_SHELF_STORE;
        }
    }
    step->at = bounce + leg->moved;
    step->size = leg->range - leg->moved;
    step->offset = offset - leg->skip + leg->moved;
    step->writes = leg->phase == TNMI_SHELF_STORE;
}

/* Shapes the next step; 0 = the operation has ended. */
static int tnmi_shelf_next(tnmi_shelf_op *op) {
    while (op->result == TNM_OK && op->leg.done == op->leg.size)
        if (!tnmi_shelf_turn(op)) return 0;
    if (op->result != TNM_OK) return 0;
    tnmi_shelf_shape(op);
    return 1;
}

/* So many bytes of it were written by the system. */
static void tnmi_shelf_came(const tnmi_shelf_step *step, uint64_t got) {
    tnmi_base_defined(step->at, tnmi_base_min(got, step->size));
    got = tnmi_base_less(got, step->size);
    for (uint32_t k = 0; k < step->mores; k++) {
        tnmi_base_defined(step->more[k].at, tnmi_base_min(got, step->more[k].size));
        got = tnmi_base_less(got, step->more[k].size);
    }
}

/* So many bytes of the step were moved, or FAILED, or MISFIT. */
static void tnmi_shelf_took(tnmi_shelf_op *op, int64_t got) {
    tnmi_shelf_leg *leg = &op->leg;
    unsigned char *at = leg->at + leg->done;
    uint64_t upper = op->kind == TNMI_SHELF_BETWEEN ? (uint64_t)TNMI_SHELF_BOUNCE / 2 : 0;
    unsigned char *wanted = op->bounce + upper + leg->skip;
    if (got == TNMI_SHELF_MISFIT)
        op->misfit = 1;
    else if (got <= 0) /* a file that ends here is shorter than it said */
        op->result = TNM_ERR_BACKEND;
    if (got <= 0) return;
    if (!op->step.writes) tnmi_shelf_came(&op->step, (uint64_t)got);
    if (leg->phase == TNMI_SHELF_SPREAD) {
        tnmi_shelf_spread_took(op, (uint64_t)got);
        return;
    }
    leg->moved += (uint64_t)got;
    if (leg->phase == TNMI_SHELF_MOVE) {
        leg->done += (uint64_t)got;
    } else if (leg->phase == TNMI_SHELF_STORE) {
        if (leg->moved < leg->range) return;
        leg->done += leg->part;
        leg->phase = TNMI_SHELF_MOVE;
    } else if (leg->writes) {
        if (leg->moved < leg->range) return;
        memcpy(wanted, at, (size_t)leg->part);
        leg->moved = 0;
        leg->phase = TNMI_SHELF_STORE;
    } else if (leg->moved >= leg->skip + leg->part) { /* the file may end within its last page */
        memcpy(at, wanted, (size_t)leg->part);
        leg->done += leg->part;
        leg->phase = TNMI_SHELF_MOVE;
    }
}

/* The whole of it on this thread, until it has ended or does not fit. Touches nothing else. */
static void tnmi_shelf_run(tnmi_shelf_op *op) {
    if (op->kind == TNMI_SHELF_BETWEEN && op->at == 0 && op->leg.done == 0 && !op->leg.writes &&
        !op->to.direct && !op->from.direct) {
        op->at = tnmi_shelf_os_copy(&op->to, &op->from, op->data);
        tnmi_shelf_begin_read(op);
        if (op->at == op->size) return;
    }
    while (!op->misfit && tnmi_shelf_next(op))
        tnmi_shelf_took(op, tnmi_shelf_os_io(op));
}

/* ---- the table of operations ---- */
static tnmi_shelf_file *tnmi_shelf_file_at(const tnmi_shelf_end *end) {
    return end->file ? &end->state->adopted[end->file - 1] : &end->state->spill;
}

static void tnmi_shelf_push(tnmi_shelf_state *state, tnmi_shelf_list *list, uint32_t index) {
    state->op[index].next = TNMI_NONE;
    if (list->first == TNMI_NONE)
        list->first = index;
    else
        state->op[list->last].next = index;
    list->last = index;
}

static void tnmi_shelf_unlink(tnmi_shelf_state *state, tnmi_shelf_list *list, uint32_t before) {
    uint32_t *link = before == TNMI_NONE ? &list->first : &state->op[before].next;
    uint32_t index = *link;
    *link = state->op[index].next;
    if (list->last == index) list->last = before;
}

#        if defined(TNMI_SHELF_HAS_RING) || defined(TENSORMEM_THREADS)
static uint32_t tnmi_shelf_pop(tnmi_shelf_state *state, tnmi_shelf_list *list) {
    uint32_t index = list->first;
    if (index != TNMI_NONE) tnmi_shelf_unlink(state, list, TNMI_NONE);
    return index;
}
#        endif

/* After a fork the child has neither our threads nor what the kernel writes, and the spill file is
 * the parent's: the child may read it as it is, but never changes it. */
static int tnmi_shelf_is_ours(const tnmi_shelf_state *state) {
    return state->owner == tnmi_shelf_os_process();
}

/* Pages that the operation writes in part: the first and the last one, or none. */
static void tnmi_shelf_edges(const tnmi_shelf_op *op, uint64_t edge[2]) {
    uint64_t from = op->to.offset, to = from + op->size;
    edge[0] = from % TNMI_SHELF_PAGE ? from / TNMI_SHELF_PAGE : UINT64_MAX;
    edge[1] = to % TNMI_SHELF_PAGE ? to / TNMI_SHELF_PAGE : UINT64_MAX;
}

/* Would each write back what the other has changed of a page they share? `a` writes. */
static int tnmi_shelf_clash(const tnmi_shelf_op *a, const tnmi_shelf_op *b) {
    uint64_t x[2], y[2];
    if (b->kind == TNMI_SHELF_READ) return 0;
    tnmi_shelf_edges(a, x);
    tnmi_shelf_edges(b, y);
    return (x[0] != UINT64_MAX && (x[0] == y[0] || x[0] == y[1])) ||
           (x[1] != UINT64_MAX && (x[1] == y[0] || x[1] == y[1]));
}

/* One end as its file is now. 0 = its way is to change, and something is out the old way. */
static int tnmi_shelf_settle_end(tnmi_shelf_end *end, int ours) {
    tnmi_shelf_file *file = tnmi_shelf_file_at(end);
    if (ours && file->mode != file->direct) {
        if (file->out > 0) return 0;
        (void)tnmi_shelf_os_mode(file, file->direct);
    }
    end->fd = tnmi_shelf_os_fd(file);
    end->direct = file->mode && file->direct; /* a way that cannot be left ends in an error */
    end->page = end->direct ? file->page : 1;
    end->align = end->direct ? file->align : 1;
    return 1;
}

/* May it start? Then its ends are as their files are now. */
static int tnmi_shelf_is_ready(tnmi_shelf_state *state, tnmi_shelf_op *op, int ours) {
    if (op->kind != TNMI_SHELF_WRITE && !tnmi_shelf_settle_end(&op->from, ours)) return 0;
    if (op->kind == TNMI_SHELF_READ) return 1;
    if (!tnmi_shelf_settle_end(&op->to, ours)) return 0;
    for (uint32_t i = 0; op->to.page > 1 && i < state->depth; i++) /* it is ours: it writes */
        if (state->op[i].state == TNMI_SHELF_OUT && tnmi_shelf_clash(op, &state->op[i])) return 0;
    return 1;
}

static void tnmi_shelf_count(tnmi_shelf_op *op, int up) {
    if (op->kind != TNMI_SHELF_WRITE) tnmi_shelf_file_at(&op->from)->out += (uint32_t)up;
    if (op->kind != TNMI_SHELF_READ) tnmi_shelf_file_at(&op->to)->out += (uint32_t)up;
}

/* The system refused a step for being direct: first let addresses sit on pages as well, then leave
 * it. Another operation may have learnt it before. */
static void tnmi_shelf_refit(tnmi_shelf_op *op) {
    const tnmi_shelf_end *end = tnmi_shelf_side(op);
    tnmi_shelf_file *file = tnmi_shelf_file_at(end);
    if (file->direct && end->align == file->align) {
        if (file->align < file->page)
            file->align = file->page;
        else
            file->direct = 0;
    }
    op->misfit = 0;
    op->leg.phase = TNMI_SHELF_MOVE;
}

/* It is no longer out: done, or once more in another way. */
static void tnmi_shelf_settle(tnmi_shelf_state *state, uint32_t index) {
    tnmi_shelf_op *op = &state->op[index];
    tnmi_shelf_count(op, -1);
    state->out--;
    op->state = TNMI_SHELF_DONE;
    if (!op->misfit) return;
    tnmi_shelf_refit(op);
    op->state = TNMI_SHELF_QUEUED;
    tnmi_shelf_push(state, &state->queue, index);
}

static tnm_result tnmi_shelf_op_give(tnmi_shelf_state *state, tnmi_shelf_op *op) {
    tnm_result result = op->result;
    op->state = TNMI_SHELF_FREE;
    op->serial = 0;
    op->next = state->free_op;
    state->free_op = (uint32_t)(op - state->op);
    return result;
}

static tnm_result tnmi_shelf_at_once(tnmi_shelf_state *state, tnmi_shelf_op *op, int ours) {
    do {
        if (op->misfit) tnmi_shelf_refit(op);
        if (tnmi_shelf_is_ready(state, op, ours))
            tnmi_shelf_run(op);
        else
            op->result = TNM_ERR_BUSY; /* another backend reads this file the old way */
    } while (op->misfit);
    return tnmi_shelf_op_give(state, op);
}

#        ifdef TNMI_SHELF_HAS_RING
/* ---- io_uring, by the system calls alone. The kernel reads entries only while we are in `enter`,
 * so what it has not taken can be taken back; it writes answers at any time: it owns what lies
 * behind cq_tail, we what lies before. There are as many entries as operations and twice as many
 * answers, so neither queue can overflow. ---- */
static void tnmi_shelf_ring_close(tnmi_shelf_ring *ring) {
    if (ring->entry) (void)TNMI_SHELF_MUNMAP(ring->entry, ring->entry_size);
    if (ring->map) (void)TNMI_SHELF_MUNMAP(ring->map, ring->map_size);
    if (ring->open) (void)TNMI_SHELF_CLOSE(ring->fd);
    memset(ring, 0, sizeof *ring);
}

static void *tnmi_shelf_ring_map(const tnmi_shelf_ring *ring, size_t size, int64_t what) {
    void *at = TNMI_SHELF_MMAP(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, what);
    return at == MAP_FAILED ? NULL : at;
}

/* 0 = this system has none for us: too old, forbidden, or short of memory */
static int tnmi_shelf_ring_open(tnmi_shelf_ring *ring, uint32_t depth) {
    uint32_t p[30]; /* struct io_uring_params: [0] entries [1] answers [5] features, offsets */
    memset(p, 0, sizeof p);
    ring->fd = (int)TNMI_SHELF_SETUP(depth, p);
    ring->open = ring->fd >= 0;
    ring->launch.first = ring->launch.last = TNMI_NONE;
    int fine = ring->open && (p[5] & 7) == 7 && p[0] >= depth && p[1] >= depth;
    if (fine) { /* one map for both queues, no answer dropped, nothing read after `enter` */
        size_t entries = p[16] + p[0] * sizeof(uint32_t);
        size_t answers = p[25] + p[1] * sizeof(tnmi_shelf_answer);
        ring->map_size = entries > answers ? entries : answers;
        ring->entry_size = p[0] * sizeof(tnmi_shelf_entry);
        ring->map = (unsigned char *)tnmi_shelf_ring_map(ring, ring->map_size, 0);
        ring->entry = (tnmi_shelf_entry *)tnmi_shelf_ring_map(ring, ring->entry_size, 0x10000000);
    }
    if (!ring->map || !ring->entry) {
        tnmi_shelf_ring_close(ring);
        return 0;
    }
    ring->sq_head = (uint32_t *)(void *)(ring->map + p[10]);
    ring->sq_tail = (uint32_t *)(void *)(ring->map + p[11]);
    ring->cq_head = (uint32_t *)(void *)(ring->map + p[20]);
    ring->cq_tail = (uint32_t *)(void *)(ring->map + p[21]);
    ring->answer = (tnmi_shelf_answer *)(void *)(ring->map + p[25]);
    ring->sq_mask = p[0] - 1;
    ring->cq_mask = p[1] - 1;
    uint32_t *slot = (uint32_t *)(void *)(ring->map + p[16]);
    for (uint32_t i = 0; i < p[0]; i++)
        slot[i] = i;
    return 1;
}

static void tnmi_shelf_ring_start(tnmi_shelf_state *state, uint32_t index) {
    tnmi_shelf_op *op = &state->op[index];
    int copies = 0;
#            ifdef TNMI_SHELF_COPY_RANGE
    copies = op->kind == TNMI_SHELF_BETWEEN && !op->to.direct && !op->from.direct;
#            endif
    if (copies || state->ring.refused)
        tnmi_shelf_run(op);
    else if (tnmi_shelf_next(op)) {
        tnmi_shelf_push(state, &state->ring.launch, index);
        return;
    }
    tnmi_shelf_settle(state, index);
}

/* After a step that was carried out: the next one, or the end. */
static void tnmi_shelf_ring_go_on(tnmi_shelf_state *state, uint32_t index) {
    tnmi_shelf_op *op = &state->op[index];
    if (!state->closing && !op->misfit && tnmi_shelf_next(op))
        tnmi_shelf_push(state, &state->ring.launch, index);
    else
        tnmi_shelf_settle(state, index);
}

static uint64_t tnmi_shelf_ring_size(const tnmi_shelf_step *step) { /* with what comes along */
    uint64_t size = step->size;
    for (uint32_t k = 0; k < step->mores; k++)
        size += step->more[k].size;
    return size;
}

/* Does the step of `b` go on where that of `a` ends? */
static int tnmi_shelf_ring_follows(const tnmi_shelf_op *a, const tnmi_shelf_op *b) {
    return a->step.writes == b->step.writes &&
           a->step.offset + tnmi_shelf_ring_size(&a->step) == b->step.offset &&
           tnmi_shelf_side(a)->fd == tnmi_shelf_side(b)->fd;
}

/* Of the steps that wait, the one before (or after) that of `index`, taken out; or TNMI_NONE. */
static uint32_t tnmi_shelf_ring_beside(tnmi_shelf_state *state, uint32_t index, int after,
                                       uint64_t most) {
    const tnmi_shelf_op *op = &state->op[index];
    uint32_t before = TNMI_NONE, i = state->ring.launch.first;
    for (; i != TNMI_NONE; before = i, i = state->op[i].next) {
        const tnmi_shelf_op *other = &state->op[i];
        if (tnmi_shelf_ring_size(&other->step) > most ||
            (after ? !tnmi_shelf_ring_follows(op, other) : !tnmi_shelf_ring_follows(other, op)))
            continue;
        tnmi_shelf_unlink(state, &state->ring.launch, before);
        return i;
    }
    return TNMI_NONE;
}

/* The next transfer: the oldest step that waits, and neighbours of it in the file. Its first
 * operation; the others are in its chain. `count` is of pieces of memory, three a step at most. */
static uint32_t tnmi_shelf_ring_join(tnmi_shelf_state *state, uint64_t share, uint32_t *count) {
    uint32_t first = tnmi_shelf_pop(state, &state->ring.launch), last = first;
    uint64_t all = tnmi_shelf_ring_size(&state->op[first].step);
    state->op[first].chain = TNMI_NONE;
    *count = 1 + state->op[first].step.mores;
    for (int after = 0; after < 2; after++)
        while (*count + 3 <= TNMI_SHELF_VECS && all < share) {
            uint64_t most = share - all;
            uint32_t i = tnmi_shelf_ring_beside(state, after ? last : first, after, most);
            if (i == TNMI_NONE) break;
            state->op[i].chain = after ? TNMI_NONE : first;
            if (after)
                last = state->op[last].chain = i;
            else
                first = i;
            all += tnmi_shelf_ring_size(&state->op[i].step);
            *count += 1 + state->op[i].step.mores;
        }
    return first;
}

/* Bytes of the transfers that go in next: what waits is joined to no fewer than keep a disk busy.
 * All in one would also end at once, so that the next ones are all in one again. */
static uint64_t tnmi_shelf_ring_share(const tnmi_shelf_state *state) {
    uint64_t all = 0, few = tnmi_base_less(TNMI_SHELF_FEW, state->ring.out);
    for (uint32_t i = state->ring.launch.first; i != TNMI_NONE; i = state->op[i].next)
        all += tnmi_shelf_ring_size(&state->op[i].step);
    return few ? tnmi_base_min(all / few, TNMI_SHELF_JOIN) : (uint64_t)TNMI_SHELF_JOIN;
}

static void tnmi_shelf_ring_fill(tnmi_shelf_state *state, uint64_t share) {
    tnmi_shelf_ring *ring = &state->ring;
    uint32_t count, index = tnmi_shelf_ring_join(state, share, &count), i = index;
    uint32_t tail = *ring->sq_tail;
    tnmi_shelf_op *op = &state->op[index];
    tnmi_shelf_entry *entry = &ring->entry[tail & ring->sq_mask];
    for (uint32_t k = 0; k < count; i = state->op[i].chain) {
        const tnmi_shelf_step *step = &state->op[i].step;
        op->vec[k].at = step->at;
        op->vec[k++].size = (size_t)step->size;
        for (uint32_t m = 0; m < step->mores; m++)
            op->vec[k++] = step->more[m];
    }
    memset(entry, 0, sizeof *entry);
    entry->code = op->step.writes ? 2 : 1; /* WRITEV, READV */
    entry->fd = tnmi_shelf_side(op)->fd;
    entry->offset = op->step.offset;
    entry->at = (uint64_t)(uintptr_t)op->vec;
    entry->count = count;
    entry->user = index;
    tnmi_base_store32(ring->sq_tail, tail + 1);
    ring->queued++;
}

/* What the system did with a transfer: bytes for one after the other, or a reason. Where the reason
 * may be the queue's, or one of several's, each step is carried out here and now and has its own
 * answer. When a thread ends, what it had handed in comes back, cancelled or with EFAULT: the queue
 * is none the worse for it. */
static void tnmi_shelf_ring_took(tnmi_shelf_state *state, uint32_t index, int64_t result) {
    int alone = state->op[index].chain == TNMI_NONE;
    int disk = result == -EIO || result == -ENOSPC || result == -EDQUOT || result == -EFBIG;
    int fit = result == -EINVAL && tnmi_shelf_side(&state->op[index])->direct;
    int lost = result == -EINTR || result == -ECANCELED || result == -EFAULT;
    if (result < 0 && !lost && !disk && !fit && ++state->ring.strikes >= TNMI_SHELF_STRIKES)
        state->ring.refused = 1;
    if (result > 0) state->ring.strikes = 0;
    for (uint32_t i = index; i != TNMI_NONE;) {
        tnmi_shelf_op *op = &state->op[i];
        uint32_t next = op->chain;
        int64_t got = result;
        if (result > 0 || (result == 0 && i != index)) {
            got = (int64_t)tnmi_base_min((uint64_t)result, tnmi_shelf_ring_size(&op->step));
            result -= got;
            if (got > 0) tnmi_shelf_took(op, got);
        } else if (result == 0 || (disk && alone) || state->closing) {
            tnmi_shelf_took(op, TNMI_SHELF_FAILED);
        } else
            tnmi_shelf_took(op, tnmi_shelf_os_io(op));
        tnmi_shelf_ring_go_on(state, i);
        i = next;
    }
}

static void tnmi_shelf_ring_collect(tnmi_shelf_state *state) {
    tnmi_shelf_ring *ring = &state->ring;
    uint32_t head = *ring->cq_head;
    while (head != tnmi_base_load32(ring->cq_tail)) {
        tnmi_shelf_answer answer = ring->answer[head & ring->cq_mask];
        tnmi_base_store32(ring->cq_head, ++head);
        ring->out--;
        tnmi_shelf_ring_took(state, (uint32_t)answer.user, answer.result);
    }
}

/* The kernel refuses to hear of more: what it has not taken is carried out here. */
static void tnmi_shelf_ring_back(tnmi_shelf_state *state) {
    tnmi_shelf_ring *ring = &state->ring;
    uint32_t tail = *ring->sq_tail - ring->queued, count = ring->queued;
    tnmi_base_store32(ring->sq_tail, tail);
    ring->queued = 0;
    for (uint32_t k = 0; k < count; k++) {
        uint32_t i = (uint32_t)ring->entry[(tail + k) & ring->sq_mask].user;
        while (i != TNMI_NONE) {
            uint32_t next = state->op[i].chain;
            tnmi_shelf_run(&state->op[i]);
            tnmi_shelf_settle(state, i);
            i = next;
        }
    }
}

/* Hands all waiting steps to the kernel with one call. */
static void tnmi_shelf_ring_launch(tnmi_shelf_state *state) {
    tnmi_shelf_ring *ring = &state->ring;
    uint64_t share = tnmi_shelf_ring_share(state);
    while (ring->launch.first != TNMI_NONE)
        tnmi_shelf_ring_fill(state, share);
    while (ring->queued > 0) {
        long taken = ring->refused ? -1 : TNMI_SHELF_ENTER(ring->fd, ring->queued, 0, 0);
        if (taken > 0) {
            ring->queued -= (uint32_t)taken;
            ring->out += (uint32_t)taken;
        } else if (taken == 0 || ring->refused || errno != EINTR) {
            if (taken < 0 && errno != EAGAIN && errno != EBUSY) ring->refused = 1;
            tnmi_shelf_ring_back(state);
        }
    }
}

static void tnmi_shelf_ring_sleep(const tnmi_shelf_ring *ring) {
    if (*ring->cq_head != tnmi_base_load32(ring->cq_tail)) return;
    if (TNMI_SHELF_ENTER(ring->fd, 0, 1, 1) < 0 && errno != EINTR)
        tnmi_shelf_yield(); /* forbidden since: any call lets answers come in */
}

static void tnmi_shelf_ring_stop(tnmi_shelf_state *state, int ours) {
    tnmi_shelf_ring *ring = &state->ring;
    while (ours && ring->out > 0) {
        tnmi_shelf_ring_sleep(ring);
        tnmi_shelf_ring_collect(state);
    }
    tnmi_shelf_ring_close(ring);
}
#        endif /* TNMI_SHELF_HAS_RING */

#        ifdef TENSORMEM_THREADS
/* ---- worker threads ---- */
static void tnmi_shelf_crew_work(void *of) {
    tnmi_shelf_state *state = (tnmi_shelf_state *)of;
    tnmi_shelf_crew *crew = &state->crew;
    tnmi_base_acquire(&crew->mutex);
    for (;;) {
        while (!crew->stop && crew->todo.first == TNMI_NONE)
            tnmi_base_listen(&crew->work, &crew->mutex);
        if (crew->stop) break;
        uint32_t index = tnmi_shelf_pop(state, &crew->todo);
        tnmi_base_release(&crew->mutex);
        tnmi_shelf_run(&state->op[index]);
        tnmi_base_acquire(&crew->mutex);
        tnmi_shelf_push(state, &crew->ready, index);
        tnmi_base_ring(&crew->done, 0);
    }
    tnmi_base_release(&crew->mutex);
}

static void tnmi_shelf_crew_start(tnmi_shelf_state *state, uint32_t index) {
    tnmi_base_acquire(&state->crew.mutex);
    tnmi_shelf_push(state, &state->crew.todo, index);
    tnmi_base_ring(&state->crew.work, 0);
    tnmi_base_release(&state->crew.mutex);
}

static void tnmi_shelf_crew_collect(tnmi_shelf_state *state) {
    for (;;) {
        tnmi_base_acquire(&state->crew.mutex);
        uint32_t index = tnmi_shelf_pop(state, &state->crew.ready);
        tnmi_base_release(&state->crew.mutex);
        if (index == TNMI_NONE) return;
        tnmi_shelf_settle(state, index);
    }
}

static void tnmi_shelf_crew_sleep(tnmi_shelf_state *state) {
    tnmi_shelf_crew *crew = &state->crew;
    tnmi_base_acquire(&crew->mutex);
    while (crew->ready.first == TNMI_NONE)
        tnmi_base_listen(&crew->done, &crew->mutex);
    tnmi_base_release(&crew->mutex);
}

/* Lets them end what they are at; what they have not begun never begins. */
static void tnmi_shelf_crew_stop(tnmi_shelf_state *state) {
    tnmi_shelf_crew *crew = &state->crew;
    tnmi_base_acquire(&crew->mutex);
    crew->stop = 1;
    tnmi_base_ring(&crew->work, 1);
    tnmi_base_release(&crew->mutex);
    for (uint32_t i = 0; i < crew->count; i++)
        tnmi_base_join(&crew->thread[i]);
    tnmi_base_end_bell(&crew->done);
    tnmi_base_end_bell(&crew->work);
    tnmi_base_end_mutex(&crew->mutex);
}

static int tnmi_shelf_crew_init(tnmi_shelf_crew *crew) {
    crew->todo.first = crew->todo.last = crew->ready.first = crew->ready.last = TNMI_NONE;
    if (!tnmi_base_mutex(&crew->mutex)) return 0;
    if (tnmi_base_bell(&crew->work)) {
        if (tnmi_base_bell(&crew->done)) return 1;
        tnmi_base_end_bell(&crew->work);
    }
    tnmi_base_end_mutex(&crew->mutex);
    return 0;
}

/* So many threads, or as many as there are to be had; 0 = none. */
static int tnmi_shelf_crew_open(tnmi_shelf_state *state, uint32_t count) {
    tnmi_shelf_crew *crew = &state->crew;
    if (!tnmi_shelf_crew_init(crew)) return 0;
    while (crew->count < count &&
           tnmi_base_start(&crew->thread[crew->count], tnmi_shelf_crew_work, state))
        crew->count++;
    if (crew->count == 0) tnmi_shelf_crew_stop(state);
    return crew->count > 0;
}
#        endif /* TENSORMEM_THREADS */

#        ifdef _WIN32
/* ---- overlapped files ---- */
/* A step that could not be started has ended. */
static void tnmi_shelf_over_go_on(tnmi_shelf_state *state, uint32_t index) {
    tnmi_shelf_op *op = &state->op[index];
    while (!state->closing && !op->misfit && tnmi_shelf_next(op)) {
        int64_t got = tnmi_shelf_os_start(op);
        if (got == 0) return;
        tnmi_shelf_took(op, got);
    }
    tnmi_shelf_settle(state, index);
}

static void tnmi_shelf_over_take(tnmi_shelf_state *state, uint32_t index, int waits) {
    int ended;
    int64_t got = tnmi_shelf_os_end(&state->op[index], waits, &ended);
    if (!ended) return;
    if (got != TNMI_SHELF_AGAIN) tnmi_shelf_took(&state->op[index], got);
    tnmi_shelf_over_go_on(state, index);
}

static void tnmi_shelf_over_collect(tnmi_shelf_state *state) {
    for (uint32_t i = 0; i < state->depth; i++)
        if (state->op[i].state == TNMI_SHELF_OUT) tnmi_shelf_over_take(state, i, 0);
}

static void tnmi_shelf_over_sleep(tnmi_shelf_state *state, tnmi_shelf_op *op) {
    uint32_t index = (uint32_t)(op - state->op);
    for (uint32_t i = 0; op->state != TNMI_SHELF_OUT && i < state->depth; i++)
        if (state->op[i].state == TNMI_SHELF_OUT) index = i; /* it waits for another one */
    if (state->op[index].state == TNMI_SHELF_OUT) tnmi_shelf_over_take(state, index, 1);
}

static void tnmi_shelf_over_stop(tnmi_shelf_state *state) {
    for (uint32_t i = 0; i < state->depth; i++) {
        if (state->op[i].state == TNMI_SHELF_OUT && state->driver == TNMI_SHELF_OVERLAPPED)
            tnmi_shelf_over_take(state, i, 1);
        if (state->op[i].over.hEvent) CloseHandle(state->op[i].over.hEvent);
    }
}
#        endif

/* ---- drivers: threads, or the one queue this system has; what is done at once has none ---- */
static void tnmi_shelf_start(tnmi_shelf_state *state, uint32_t index) {
    tnmi_shelf_op *op = &state->op[index];
    tnmi_shelf_count(op, 1);
    state->out++;
    op->state = TNMI_SHELF_OUT;
#        ifdef TENSORMEM_THREADS
    if (state->driver == TNMI_SHELF_CREW) {
        tnmi_shelf_crew_start(state, index);
        return;
    }
#        endif
#        ifdef TNMI_SHELF_HAS_RING
    tnmi_shelf_ring_start(state, index);
#        elif defined(_WIN32)
    tnmi_shelf_over_go_on(state, index);
#        elif !defined(TENSORMEM_THREADS)
    tnmi_shelf_run(op);
    tnmi_shelf_settle(state, index);
#        endif
}

/* Starts what is queued and may start; also what does not fit at once and is queued again. */
static void tnmi_shelf_dispatch(tnmi_shelf_state *state) {
    uint32_t before = TNMI_NONE, index = state->queue.first;
    while (index != TNMI_NONE) {
        if (tnmi_shelf_is_ready(state, &state->op[index], 1)) {
            tnmi_shelf_unlink(state, &state->queue, before);
            tnmi_shelf_start(state, index);
        } else
            before = index;
        index = before == TNMI_NONE ? state->queue.first : state->op[before].next;
    }
}

/* Collects what has ended, and starts what may start then. */
static void tnmi_shelf_advance(tnmi_shelf_state *state) {
#        ifdef TENSORMEM_THREADS
    if (state->driver == TNMI_SHELF_CREW) {
        tnmi_shelf_crew_collect(state);
        tnmi_shelf_dispatch(state);
        return;
    }
#        endif
#        ifdef TNMI_SHELF_HAS_RING
    for (;;) {
        tnmi_shelf_ring_collect(state);
        tnmi_shelf_dispatch(state);
        if (state->ring.launch.first == TNMI_NONE) return;
        tnmi_shelf_ring_launch(state);
    }
#        elif defined(_WIN32)
    tnmi_shelf_over_collect(state);
    tnmi_shelf_dispatch(state);
#        elif !defined(TENSORMEM_THREADS)
    tnmi_shelf_dispatch(state); /* of nothing: all is done at once */
#        endif
}

/* Until something more has ended, `op` at best; may be woken for nothing. Something is out, and
 * with a ring the kernel has it: what waited to be launched has just been. */
static void tnmi_shelf_sleep(tnmi_shelf_state *state, tnmi_shelf_op *op) {
    (void)state;
    (void)op;
#        ifdef TENSORMEM_THREADS
    if (state->driver == TNMI_SHELF_CREW) {
        tnmi_shelf_crew_sleep(state);
        return;
    }
#        endif
#        ifdef TNMI_SHELF_HAS_RING
    tnmi_shelf_ring_sleep(&state->ring);
#        elif defined(_WIN32)
    tnmi_shelf_over_sleep(state, op);
#        endif
}

/* Nothing of ours is written or read by anyone any more. */
static void tnmi_shelf_stop(tnmi_shelf_state *state) {
    int ours = tnmi_shelf_is_ours(state);
    state->closing = 1;
#        ifdef TENSORMEM_THREADS
    if (state->driver == TNMI_SHELF_CREW && ours) tnmi_shelf_crew_stop(state);
#        endif
#        ifdef TNMI_SHELF_HAS_RING
    if (state->ring.open) tnmi_shelf_ring_stop(state, ours);
#        endif
#        ifdef _WIN32
    tnmi_shelf_over_stop(state);
#        endif
    (void)ours;
}

/* ---- the callbacks ---- */

static int tnmi_shelf_locate(const tnm_span *span, uint64_t size, tnmi_shelf_end *out,
                             uint64_t *data) {
    tnmi_shelf_state *state = (tnmi_shelf_state *)span->backend->user;
    uint64_t base = 0, end, limit;
    memset(out, 0, sizeof *out);
    out->state = state;
    if (span->mem & TNMI_SHELF_SPILL) {
        base = span->mem & ~TNMI_SHELF_SPILL;
    } else {
        if (span->mem == 0 || span->mem > state->adopted_count) return 0;
        out->file = (uint32_t)span->mem;
    }
    const tnmi_shelf_file *file = tnmi_shelf_file_at(out);
    (void)tnmi_base_align(file->size, state->granularity, &limit); /* a file ends before 2^63 */
    if (!tnmi_base_add(base, span->offset, &out->offset) ||
        !tnmi_base_add(out->offset, size, &end) || end > limit)
        return 0;
    *data = tnmi_base_min(size, tnmi_base_less(file->size, out->offset));
    return 1;
}

/* A span with a CPU address is memory, whatever its backend. */
static tnm_result tnmi_shelf_file_copy(void *user, const tnm_span *dst, const tnm_span *src,
                                       uint64_t size, uint64_t *ticket) {
    tnmi_shelf_state *state = (tnmi_shelf_state *)user;
    int to_file = !dst->host && dst->backend && dst->backend->copy == tnmi_shelf_file_copy;
    int from_file = !src->host && src->backend && src->backend->copy == tnmi_shelf_file_copy;
    tnmi_shelf_end to, from;
    uint64_t data = size, room;
    if ((!to_file && !dst->host) || (!from_file && !src->host)) return TNM_ERR_UNSUPPORTED;
    if (!to_file && !from_file) return tnmi_shelf_host_copy(NULL, dst, src, size, ticket);
    if (from_file && !tnmi_shelf_locate(src, size, &from, &data)) return TNM_ERR_BACKEND;
    if (to_file && (!tnmi_shelf_locate(dst, size, &to, &room) || to.file != 0))
        return TNM_ERR_BACKEND;
    if (to_file && to.state != state) return TNM_ERR_UNSUPPORTED; /* its backend is asked first */
#        if PTRDIFF_MAX < INT64_MAX                               /* else no file is as large */
    if ((!to_file || !from_file) && size > (uint64_t)PTRDIFF_MAX) return TNM_ERR_BACKEND;
#        endif
    int ours = tnmi_shelf_is_ours(state);
    if (to_file && !ours) return TNM_ERR_BACKEND;
    if (state->free_op == TNMI_NONE) return TNM_ERR_BUSY;
    tnmi_shelf_op *op = &state->op[state->free_op];
    uint32_t index = state->free_op;
    state->free_op = op->next;
    op->kind = !to_file ? TNMI_SHELF_READ : from_file ? TNMI_SHELF_BETWEEN : TNMI_SHELF_WRITE;
    if (to_file) op->to = to;
    if (from_file) op->from = from;
    op->host = (unsigned char *)(to_file ? src->host : dst->host);
    op->size = size;
    op->data = data;
    op->result = TNM_OK;
    op->misfit = 0;
    tnmi_shelf_begin_first(op);
    if (state->driver == TNMI_SHELF_AT_ONCE || !ours) return tnmi_shelf_at_once(state, op, ours);
    op->serial = ++state->serials;
    op->state = TNMI_SHELF_QUEUED;
    tnmi_shelf_push(state, &state->queue, index);
    *ticket = op->serial << TNMI_SHELF_DEPTH_BITS | index;
    return TNM_PENDING;
}

static void tnmi_shelf_file_submit(void *user) {
    tnmi_shelf_state *state = (tnmi_shelf_state *)user;
    if (tnmi_shelf_is_ours(state)) tnmi_shelf_advance(state);
}

static tnmi_shelf_op *tnmi_shelf_find(tnmi_shelf_state *state, uint64_t ticket) {
    uint64_t index = ticket & (TNMI_SHELF_DEPTH_MOST - 1), serial = ticket >> TNMI_SHELF_DEPTH_BITS;
    if (index >= state->depth || serial == 0 || state->op[index].serial != serial) return NULL;
    return &state->op[index];
}

static tnm_result tnmi_shelf_file_poll(void *user, uint64_t ticket) {
    tnmi_shelf_state *state = (tnmi_shelf_state *)user;
    tnmi_shelf_op *op = tnmi_shelf_find(state, ticket);
    TENSORMEM_ASSERT(op);
    if (!op) return TNM_ERR_BACKEND;
    if (op->state != TNMI_SHELF_DONE) {
        if (!tnmi_shelf_is_ours(state)) { /* it happens in the parent */
            (void)tnmi_shelf_op_give(state, op);
            return TNM_ERR_BACKEND;
        }
        tnmi_shelf_advance(state);
    }
    return op->state == TNMI_SHELF_DONE ? tnmi_shelf_op_give(state, op) : TNM_PENDING;
}

static tnm_result tnmi_shelf_file_wait(void *user, uint64_t ticket) {
    tnmi_shelf_state *state = (tnmi_shelf_state *)user;
    tnm_result result = tnmi_shelf_file_poll(user, ticket);
    while (result == TNM_PENDING) {
        if (state->out == 0) break; /* it waits for what another backend does to the file */
        tnmi_shelf_sleep(state, tnmi_shelf_find(state, ticket));
        result = tnmi_shelf_file_poll(user, ticket);
    }
    return result;
}

/* A larger array with the old content, or NULL; the old one is given back. */
static void *tnmi_shelf_grow(const tnmi_shelf_host *heap, void *old, uint32_t *capacity,
                             size_t stride) {
    uint64_t count = *capacity ? 2 * (uint64_t)*capacity : 16, bytes;
    if (count > UINT32_MAX || !tnmi_base_mul(count, stride, &bytes) || bytes > PTRDIFF_MAX)
        return NULL;
    void *now = tnmi_shelf_take(heap, (size_t)bytes);
    if (!now) return NULL;
    if (old) memcpy(now, old, *capacity * stride);
    tnmi_shelf_give(heap, old, *capacity * stride);
    *capacity = (uint32_t)count;
    return now;
}

static int tnmi_shelf_room(tnmi_shelf_state *state) { /* for one more segment's release */
    if (state->live < state->free_capacity) return 1;
    void *now =
        tnmi_shelf_grow(&state->heap, state->free, &state->free_capacity, sizeof *state->free);
    if (now) state->free = (tnmi_shelf_range *)now;
    return now != NULL;
}

static void tnmi_shelf_remove(tnmi_shelf_state *state, uint32_t k) {
    state->free_count--;
    memmove(&state->free[k], &state->free[k + 1], (state->free_count - k) * sizeof *state->free);
}

/* Adds a free range to its neighbours; 0 = it overlaps one, and nothing was done. */
static int tnmi_shelf_insert(tnmi_shelf_state *state, uint64_t at, uint64_t size) {
    tnmi_shelf_range *list = state->free;
    uint32_t k = 0, count = state->free_count;
    while (k < count && list[k].at < at)
        k++;
    uint64_t below = k > 0 ? list[k - 1].at + list[k - 1].size : 0;
    uint64_t above = k < count ? list[k].at : UINT64_MAX;
    if (below > at || at + size > above) return 0;
    if (k > 0 && below == at) {
        list[k - 1].size += size;
        if (at + size != above) return 1;
        list[k - 1].size += list[k].size;
        tnmi_shelf_remove(state, k);
    } else if (at + size == above) {
        list[k].at = at;
        list[k].size += size;
    } else {
        memmove(&list[k + 1], &list[k], (count - k) * sizeof *list);
        list[k].at = at;
        list[k].size = size;
        state->free_count++;
    }
    return 1;
}

/* First fit: the free range and the place in it, or TNMI_NONE and a place at the end. */
static uint32_t tnmi_shelf_fit(const tnmi_shelf_state *state, uint64_t size, uint64_t align,
                               uint64_t *at) {
    for (uint32_t k = 0; k < state->free_count; k++) {
        tnmi_shelf_range range = state->free[k];
        (void)tnmi_base_align(range.at, align, at); /* both are 2^63 at most */
        if (*at - range.at <= range.size && size <= range.size - (*at - range.at)) return k;
    }
    uint64_t end;
    (void)tnmi_base_align(state->spill.size, align, at);
    if (!tnmi_base_add(*at, size, &end) || end > (uint64_t)INT64_MAX) *at = UINT64_MAX;
    return TNMI_NONE;
}

static void tnmi_shelf_carve(tnmi_shelf_state *state, uint32_t k, uint64_t at, uint64_t size) {
    if (k == TNMI_NONE) {
        uint64_t end = state->spill.size;
        state->spill.size = at + size;
        if (at > end) (void)tnmi_shelf_insert(state, end, at - end);
        return;
    }
    uint64_t start = state->free[k].at, end = start + state->free[k].size;
    tnmi_shelf_remove(state, k);
    if (at > start) (void)tnmi_shelf_insert(state, start, at - start);
    if (end > at + size) (void)tnmi_shelf_insert(state, at + size, end - at - size);
}

static tnm_result tnmi_shelf_file_alloc(void *user, uint64_t size, uint64_t align, void *item,
                                        uint64_t *mem, void **host) {
    tnmi_shelf_state *state = (tnmi_shelf_state *)user;
    uint64_t at;
    (void)item;
    *mem = 0;
    *host = NULL;
    align = tnmi_base_max(align, TNMI_SHELF_PAGE);
    if (!state->spill.open) return TNM_ERR_UNSUPPORTED;
    if (size == 0 || !tnmi_base_is_power(align)) return TNM_ERR_ARGUMENT;
    if (!tnmi_base_align(size, TNMI_SHELF_PAGE, &size)) return TNM_ERR_BACKEND;
    if (!tnmi_shelf_is_ours(state)) return TNM_ERR_BACKEND;
    if (!tnmi_shelf_room(state)) return TNM_ERR_MEMORY;
    uint32_t k = tnmi_shelf_fit(state, size, align, &at);
    if (at == UINT64_MAX) return TNM_ERR_BACKEND;
    if (!tnmi_shelf_os_reserve(&state->spill, at, size)) {
        if (k == TNMI_NONE)
            (void)tnmi_shelf_os_resize(&state->spill, state->spill.size);
        else
            tnmi_shelf_os_punch(&state->spill, at, size);
        return TNM_ERR_BACKEND;
    }
    state->live++;
    tnmi_shelf_carve(state, k, at, size);
    *mem = TNMI_SHELF_SPILL | at;
    return TNM_OK;
}

static void tnmi_shelf_file_release(void *user, uint64_t mem, uint64_t size) {
    tnmi_shelf_state *state = (tnmi_shelf_state *)user;
    uint64_t at = mem & ~TNMI_SHELF_SPILL, end;
    int ours = (mem & TNMI_SHELF_SPILL) != 0 && size > 0 && state->live > 0 &&
               tnmi_base_align(size, TNMI_SHELF_PAGE, &size) && tnmi_base_add(at, size, &end) &&
               end <= state->spill.size && tnmi_shelf_insert(state, at, size);
    TENSORMEM_ASSERT(ours);
    if (!ours) return;
    state->live--;
    if (!tnmi_shelf_is_ours(state)) return; /* the parent's bytes are there */
    tnmi_shelf_range last = state->free[state->free_count - 1];
    if (last.at + last.size == state->spill.size) {
        state->free_count--;
        state->spill.size = last.at;
        (void)tnmi_shelf_os_resize(&state->spill, last.at);
    } else
        tnmi_shelf_os_punch(&state->spill, at, size);
}

/* ---- open, adopt, close ---- */
static void tnmi_shelf_state_free(tnmi_shelf_state *state) {
    tnmi_shelf_host heap = state->heap;
    tnmi_shelf_stop(state);
    for (uint32_t k = 0; k < state->adopted_count; k++)
        tnmi_shelf_os_close(&state->adopted[k]);
    tnmi_shelf_os_close(&state->spill);
    tnmi_shelf_give(&heap, state->adopted, state->adopted_capacity * sizeof *state->adopted);
    tnmi_shelf_give(&heap, state->free, state->free_capacity * sizeof *state->free);
    tnmi_shelf_give(&heap, state, state->bytes);
}

/* The state, its operations and their bounce buffers are one block. */
static tnmi_shelf_state *tnmi_shelf_state_new(const tnm_file_desc *desc) {
    uint32_t depth = desc->depth ? desc->depth : (uint32_t)TNMI_SHELF_DEPTH;
    if (depth > TNMI_SHELF_DEPTH_MOST) depth = TNMI_SHELF_DEPTH_MOST;
    if (desc->sync) depth = 1;
    size_t front = sizeof(tnmi_shelf_state) + depth * sizeof(tnmi_shelf_op);
    size_t bytes = front + TNMI_SHELF_PAGE + (size_t)depth * TNMI_SHELF_BOUNCE;
    tnmi_shelf_host heap;
    heap.alloc = desc->alloc;
    heap.release = desc->release;
    heap.user = desc->user;
    tnmi_shelf_state *state = (tnmi_shelf_state *)tnmi_shelf_take(&heap, bytes);
    if (!state) return NULL;
    memset(state, 0, front);
    state->heap = heap;
    state->bytes = bytes;
    state->granularity = 1;
    state->depth = depth;
    state->direct = desc->direct != 0;
    state->owner = tnmi_shelf_os_process();
    state->op = (tnmi_shelf_op *)(state + 1);
    state->queue.first = state->queue.last = TNMI_NONE;
    unsigned char *bounce = (unsigned char *)state + front;
    bounce += TNMI_SHELF_PAGE - (uintptr_t)bounce % TNMI_SHELF_PAGE;
    for (uint32_t i = 0; i < depth; i++) {
        state->op[i].bounce = bounce + (size_t)i * TNMI_SHELF_BOUNCE;
        state->op[i].next = i + 1 < depth ? i + 1 : TNMI_NONE;
#        ifdef _WIN32
        state->op[i].over.hEvent = CreateEventA(NULL, TRUE, FALSE, NULL);
        if (!state->op[i].over.hEvent) {
            tnmi_shelf_state_free(state);
            return NULL;
        }
#        endif
    }
    return state;
}

/* Who carries out the copies: what was asked for, or whoever is there. */
static void tnmi_shelf_choose(tnmi_shelf_state *state, const tnm_file_desc *desc) {
    state->driver = TNMI_SHELF_AT_ONCE;
    if (desc->sync) return;
#        ifdef TENSORMEM_THREADS
    if (desc->threads) {
        uint32_t most = TNMI_SHELF_CREW_MOST;
        uint32_t threads = desc->threads < most ? desc->threads : most;
        if (tnmi_shelf_crew_open(state, threads)) state->driver = TNMI_SHELF_CREW;
        return;
    }
#        endif
#        if defined(TNMI_SHELF_HAS_RING)
    if (tnmi_shelf_ring_open(&state->ring, state->depth)) state->driver = TNMI_SHELF_RING;
#        elif defined(_WIN32)
    state->driver = TNMI_SHELF_OVERLAPPED;
#        endif
}

/* ARGUMENT: half an allocator, an empty path, threads without TENSORMEM_THREADS or with `sync`.
 * BACKEND: the spill file cannot be made: something of that name exists, or the system refuses. */
static tnm_result tnmi_shelf_file_open(const tnm_file_desc *desc, tnm_backend *out) {
    if (!out) return TNM_ERR_ARGUMENT;
    memset(out, 0, sizeof *out);
    if (!desc || !desc->alloc != !desc->release || (desc->path && !desc->path[0]) ||
        (desc->threads && desc->sync))
        return TNM_ERR_ARGUMENT;
#        ifndef TENSORMEM_THREADS
    if (desc->threads) return TNM_ERR_ARGUMENT;
#        endif
    tnmi_shelf_state *state = tnmi_shelf_state_new(desc);
    if (!state) return TNM_ERR_MEMORY;
    if (desc->path && !tnmi_shelf_os_new(desc->path, desc->direct != 0, &state->spill)) {
        tnmi_shelf_state_free(state);
        return TNM_ERR_BACKEND;
    }
    if (desc->direct && (!desc->path || state->spill.direct)) state->granularity = TNMI_SHELF_PAGE;
    tnmi_shelf_choose(state, desc);
    out->alloc = tnmi_shelf_file_alloc;
    out->release = tnmi_shelf_file_release;
    out->copy = tnmi_shelf_file_copy;
    if (state->driver != TNMI_SHELF_AT_ONCE) {
        out->submit = tnmi_shelf_file_submit;
        out->poll = tnmi_shelf_file_poll;
        out->wait = tnmi_shelf_file_wait;
    }
    out->user = state;
    out->granularity = state->granularity;
    out->odd_ends = 1;
    return TNM_OK;
}

/* Links are followed: the path is the caller's own. BACKEND: missing, unreadable or not regular. */
static tnm_result tnmi_shelf_file_adopt(const tnm_backend *backend, const char *path, uint64_t *mem,
                                        uint64_t *size) {
    if (mem) *mem = 0;
    if (size) *size = 0;
    if (!backend || backend->copy != tnmi_shelf_file_copy || !path || !path[0] || !mem || !size)
        return TNM_ERR_ARGUMENT;
    tnmi_shelf_state *state = (tnmi_shelf_state *)backend->user;
    if (state->adopted_count == state->adopted_capacity) {
        void *now = tnmi_shelf_grow(&state->heap, state->adopted, &state->adopted_capacity,
                                    sizeof *state->adopted);
        if (!now) return TNM_ERR_MEMORY;
        state->adopted = (tnmi_shelf_file *)now;
    }
    tnmi_shelf_file *file = &state->adopted[state->adopted_count];
    memset(file, 0, sizeof *file);
    if (!tnmi_shelf_os_open(path, state->granularity > 1, file)) {
        tnmi_shelf_os_close(file);
        return TNM_ERR_BACKEND;
    }
    *mem = ++state->adopted_count;
    *size = file->size;
    return TNM_OK;
}

static void tnmi_shelf_file_close(tnm_backend *backend) {
    if (!backend || backend->copy != tnmi_shelf_file_copy) return;
    tnmi_shelf_state_free((tnmi_shelf_state *)backend->user);
    memset(backend, 0, sizeof *backend);
}

static void tnmi_shelf_append(char **at, const char *text) {
    size_t length = strlen(text);
    memcpy(*at, text, length + 1);
    *at += length;
}

/* Who carries the copies out, and how many of the open files go past the cache. */
static const char *tnmi_shelf_file_how(const tnm_backend *backend) {
    if (!backend || backend->copy != tnmi_shelf_file_copy) return "";
    tnmi_shelf_state *state = (tnmi_shelf_state *)backend->user;
    char *at = state->how;
    const char *driver = "synchronous";
    uint32_t files = (uint32_t)state->spill.open, direct = (uint32_t)state->spill.direct;
    for (uint32_t i = 0; i < state->adopted_count; i++, files++)
        direct += (uint32_t)state->adopted[i].direct;
#        ifdef TNMI_SHELF_HAS_RING
    if (state->driver == TNMI_SHELF_RING)
        driver = state->ring.refused ? "synchronous (io_uring ended)" : "io_uring";
#        endif
#        ifdef TENSORMEM_THREADS
    if (state->driver == TNMI_SHELF_CREW) {
        uint32_t count = state->crew.count;
        if (count >= 10) *at++ = (char)('0' + count / 10);
        *at++ = (char)('0' + count % 10);
        driver = count > 1 ? " threads" : " thread";
    }
#        endif
#        ifdef _WIN32
    if (state->driver == TNMI_SHELF_OVERLAPPED) driver = "overlapped";
#        endif
    tnmi_shelf_append(&at, driver);
    if (files == 0)
        tnmi_shelf_append(&at, state->direct ? ", direct" : ", buffered");
    else
        tnmi_shelf_append(&at, direct == 0       ? ", buffered"
                               : direct == files ? ", direct"
                                                 : ", partly direct");
    return state->how;
}
#    endif /* TENSORMEM_NO_FILE */

/* [tier] -------------------------------------------------------------------- *
 * Budgets, segments, the byte ledger, back-off of a tier that refuses.         *
 * Calls: base tell store space.                                                *
 * Invariants: reserved == sizes of all segments asked for and not yet back +   *
 * staging; reserved grows before alloc is asked and falls after release came   *
 * back; it never grows past the budget.                                        *
 * -------------------------------------------------------------------------- */
typedef enum tnmi_segment_state {
    TNMI_SEGMENT_NONE,
    TNMI_SEGMENT_WANTED,     /* in the ledger, to be asked for */
    TNMI_SEGMENT_ALLOCATING, /* being asked for */
    TNMI_SEGMENT_LIVE,
    TNMI_SEGMENT_DRAINING, /* gives no room any more; released when empty */
    TNMI_SEGMENT_RELEASING /* empty, to be given back */
} tnmi_segment_state;

typedef struct tnmi_segment {
    uint64_t mem; /* with the next two, what a pin that hits reads of it */
    void *host;
    uint64_t unit;        /* the tier's, once more */
    uint64_t size, least; /* least: what it was asked for */
    uint64_t asked;       /* DRAINING or vacant: the tick at which it was last asked for */
    uint64_t age;         /* vacant: of the request that asked, as it is at that tick */
    void *item;           /* TNM_DEDICATED: desc.user of its tensor */
    uint32_t edge;        /* sentinel in the tier's space; TNMI_NONE for a dedicated one */
    uint32_t used;        /* replicas placed here */
    uint32_t tier;
    uint32_t next, prev; /* in the tier's list, oldest first */
    uint32_t todo;       /* in the list of segments to ask for or give back */
    uint32_t state;
    uint32_t owner;    /* dedicated: its replica, TNMI_NONE = none yet */
    uint8_t dedicated; /* 1: holds one tensor, whose node is in no segment's ring */
    uint8_t thaw;      /* LIVE, and some gaps are still held for the drain it was in */
    uint8_t stop;      /* DRAINING: 1 = a pin or claim is in the way; 2 = found by this walk */
} tnmi_segment;

typedef struct tnmi_backoff { /* 1, 2, 4 .. 256, counted by the caller's ticks */
    uint32_t level;
    uint64_t until;
} tnmi_backoff;

enum { TNMI_TIER_UNITS = 8 };   /* of a granule */
enum { TNMI_TIER_GAPS = 1024 }; /* nodes looked at in one go; the engine's walk does the rest */

/* What most of the code reads stands first: an offset below 128 is one byte of an instruction. */
typedef struct tnmi_tier {
    uint64_t budget, reserved, peak;
    uint64_t granule, unit; /* placement; a replica's offset counts units */
    uint64_t set_aside;     /* of the budget, for staging that a route will need */
    uint64_t spared;        /* left for staging by segments that may be smaller: nobody knows yet */
    uint64_t guess_bytes;   /* of guesses among the copies in flight */
    int spill;              /* -1 = a bottom */
    int own_backend;        /* the application's, not the context's allocator */
    uint32_t segments, last_segment; /* list */
    uint32_t segment_count, draining;
    uint32_t thawing;    /* segments with `thaw` */
    uint32_t walk;       /* segment + 1 in which the walk goes on at space.at, 0 = none */
    uint32_t coming;     /* segments asked for and not answered */
    uint32_t windows;    /* open ones */
    uint32_t vacant;     /* dedicated segments that wait for their tensor */
    uint32_t in_flight;  /* copies this backend has to answer */
    uint32_t losing;     /* its memory is gone: records, then segments, gone over so far, + 1 */
    uint32_t look;       /* the same of the look for the largest gap, at space.look */
    uint64_t walk_round; /* in which the walk last went on */
    uint64_t sought;     /* the round in which a write-back that is no guess last waited for room */
    tnmi_space space;
    tnmi_backoff scant; /* alloc refuses below the budget */
    tnmi_backoff sick;  /* what is dirty here cannot be written down: that failed, */
    tnm_result sick_of; /* with this */
    tnmi_backoff stiff; /* compaction's copies fail */
    tnm_tier_desc desc;
    int hidden, visible;  /* its backend gave memory without, with a CPU address, or will */
    int dark;             /* without one when staging was asked for */
    uint32_t granule_log; /* a granule is a power of two */
    uint64_t refused;     /* the smallest segment size alloc refused; 0 = none */
    uint32_t flush_at;    /* the name at which a flush of all goes on */
    uint64_t in_flight_bytes;
    uint64_t wanted[2]; /* until that round: one that goes up, down, waits for a slot */
    uint32_t downward;  /* of the copies in flight, those that go down */
    uint64_t hits, misses, late, bytes_in, bytes_out, evictions, evictions_clean;
    uint64_t prefetches, prefetches_wasted, prefetches_refused;
    uint64_t compactions, failures, starved, lru_inexact;
    uint64_t kept_bytes, stream_bytes, down_bytes; /* down: of the ring, for what goes on down */
    uint64_t moved_mark; /* what had changed when compaction found nothing to move */
    int compact;         /* somebody waits for compaction */
    int no_shift;        /* the backend has no copy within its tier */
} tnmi_tier;

/* All tiers; the segments of all of them are in one table, so that an index names one. */
typedef struct tnmi_tiers {
    tnmi_tier *tier;
    uint32_t count;
    uint32_t todo_head, todo_tail;
    tnmi_table segments;
} tnmi_tiers;

static uint64_t tnmi_tier_room(const tnmi_tier *tier) {
    return tnmi_base_less(tier->budget, tier->reserved);
}

/* Bytes of its places, rounding and tails included. */
static uint64_t tnmi_tier_used(const tnmi_tier *tier) {
    return tier->space.used_granules * tier->granule;
}

static void tnmi_tier_charge(tnmi_tier *tier, uint64_t bytes) {
    tier->reserved += bytes;
    tier->peak = tnmi_base_max(tier->peak, tier->reserved);
}

static void tnmi_tier_refund(tnmi_tier *tier, uint64_t bytes) {
    tier->reserved -= bytes;
}

static void tnmi_tier_back_off(tnmi_backoff *off, uint64_t tick) {
    if (off->level < 9) off->level++;
    off->until = tick + ((uint64_t)1 << (off->level - 1));
}

static int tnmi_tier_is_off(const tnmi_backoff *off, uint64_t tick) {
    return off->level > 0 && tick < off->until;
}

static void tnmi_tier_forgive(tnmi_backoff *off) {
    off->level = 0;
    off->until = 0;
}

/* Placed bytes: shift in the first granule, tail and red zone included. 0 = overflow. */
static uint64_t tnmi_tier_placed(const tnmi_tier *tier, uint64_t bytes, uint64_t shift) {
    uint64_t sum;
    if (!tnmi_base_add(bytes, shift, &sum)) return 0;
    if (!tnmi_base_add(sum, tier->desc.tail_bytes, &sum)) return 0;
    if (!tnmi_base_add(sum, TENSORMEM_REDZONE_BYTES, &sum)) return 0;
    if (!tnmi_base_align(sum, tier->granule, &sum)) return 0;
    return sum >> tier->granule_log > TNMI_SPACE_MAX ? 0 : sum;
}

/* Could this tier ever hold so much in one piece, with everything else gone? */
static int tnmi_tier_can_ever(const tnmi_tier *tier, uint64_t placed) {
    return placed != 0 && placed <= tnmi_base_less(tier->budget, tier->set_aside);
}

/* The size of the next segment, at least `need`; 0 = the ledger does not allow it. */
static uint64_t tnmi_tier_segment_size(const tnmi_tier *tier, uint64_t need, uint64_t tick) {
    uint64_t room = tnmi_base_less(tnmi_tier_room(tier), tier->set_aside), size;
    uint64_t most = tier->granule * TNMI_SPACE_MAX;
    if (need <= tnmi_base_less(room, tier->spared)) room -= tier->spared;
    if (need > room || tnmi_tier_is_off(&tier->scant, tick)) return 0;
    if (tier->desc.segment_bytes == TNM_DEDICATED) return need;
    if (tier->desc.segment_bytes)
        size = tnmi_base_min(tier->desc.segment_bytes, room);
    else if (tier->budget != UINT64_MAX)
        size = room;
    else
        size = tnmi_base_min(tnmi_base_max(tier->reserved, (uint64_t)16 << 20), (uint64_t)1 << 30);
    if (tier->refused) size = tnmi_base_min(size, tier->refused / 2);
    size = tnmi_base_min(size, most);
    size -= tnmi_base_odd(size, tier->granule);
    return tnmi_base_max(size, need);
}

static tnmi_segment *tnmi_tier_segment(const tnmi_tiers *tiers, uint32_t index) {
    return (tnmi_segment *)tnmi_store_of(&tiers->segments, index, sizeof(tnmi_segment));
}

/* A dedicated segment that waits for its tensor. It stays with those who ask for it: were it given
 * back with every attempt that lacks something else, attempts would take turns for ever. */
static int tnmi_tier_is_vacant(const tnmi_segment *segment) {
    return segment->dedicated && !segment->used && segment->state <= TNMI_SEGMENT_LIVE;
}

static void tnmi_tier_todo(tnmi_tiers *tiers, uint32_t index) {
    tnmi_tier_segment(tiers, index)->todo = TNMI_NONE;
    if (tiers->todo_head == TNMI_NONE)
        tiers->todo_head = index;
    else
        tnmi_tier_segment(tiers, tiers->todo_tail)->todo = index;
    tiers->todo_tail = index;
}

static uint32_t tnmi_tier_next_todo(tnmi_tiers *tiers) {
    uint32_t index = tiers->todo_head;
    if (index != TNMI_NONE) tiers->todo_head = tnmi_tier_segment(tiers, index)->todo;
    return index;
}

/* A segment enters the ledger, the list and the todo list; TNMI_NONE = no entry left. */
static uint32_t tnmi_tier_want(tnmi_tiers *tiers, uint32_t tier_index, uint64_t size) {
    tnmi_tier *tier = &tiers->tier[tier_index];
    uint32_t index = tnmi_store_take(&tiers->segments);
    if (index == TNMI_NONE) return TNMI_NONE;
    tnmi_segment *segment = tnmi_tier_segment(tiers, index);
    memset(segment, 0, sizeof *segment);
    segment->unit = tier->unit;
    segment->size = size;
    segment->tier = tier_index;
    segment->edge = TNMI_NONE;
    segment->next = TNMI_NONE;
    segment->prev = tier->last_segment;
    segment->owner = TNMI_NONE;
    segment->state = TNMI_SEGMENT_WANTED;
    if (tier->last_segment == TNMI_NONE)
        tier->segments = index;
    else
        tnmi_tier_segment(tiers, tier->last_segment)->next = index;
    tier->last_segment = index;
    tier->segment_count++;
    tier->coming++;
    tnmi_tier_charge(tier, size);
    tnmi_tier_todo(tiers, index);
    return index;
}

/* The walk is through with this segment, or it ends. */
static void tnmi_tier_pass(tnmi_tier *tier, const tnmi_segment *segment, uint32_t index) {
    if (tier->walk != index + 1) return;
    tier->walk = segment->next + 1; /* TNMI_NONE + 1 is 0 */
    tier->space.at = TNMI_NONE;
}

/* The segment ends: no walk stays in it. */
static void tnmi_tier_leave(tnmi_tier *tier, const tnmi_segment *segment, uint32_t index) {
    tnmi_tier_pass(tier, segment, index);
    if (tier->look != index + 1) return;
    tier->look = segment->next + 1;
    tier->space.look = TNMI_NONE;
}

/* A segment leaves the ledger and the list. */
static void tnmi_tier_forget(tnmi_tiers *tiers, uint32_t index) {
    tnmi_segment *segment = tnmi_tier_segment(tiers, index);
    tnmi_tier *tier = &tiers->tier[segment->tier];
    tnmi_tier_leave(tier, segment, index);
    if (segment->prev == TNMI_NONE)
        tier->segments = segment->next;
    else
        tnmi_tier_segment(tiers, segment->prev)->next = segment->next;
    if (segment->next == TNMI_NONE)
        tier->last_segment = segment->prev;
    else
        tnmi_tier_segment(tiers, segment->next)->prev = segment->prev;
    tnmi_tier_refund(tier, segment->size);
    tier->vacant -= (uint32_t)tnmi_tier_is_vacant(segment);
    segment->state = TNMI_SEGMENT_NONE;
    tier->segment_count--;
    tnmi_store_give(&tiers->segments, index);
}

/* A walk that is in this segment begins it anew: its gaps are held, or given back, from now on. */
static void tnmi_tier_rewalk(tnmi_tier *tier, const tnmi_segment *segment) {
    const tnmi_node *edge = tnmi_space_node(&tier->space, segment->edge);
    if (tier->walk == edge->a + 1) tier->space.at = edge->next;
}

/* From now on the segment gives no room: its gaps are held for the drain. The first ones at once;
 * what is placed in the others, before the walk of the drain comes there, leaves with the rest. */
static void tnmi_tier_drain(tnmi_tier *tier, tnmi_segment *segment) {
    tier->vacant -= (uint32_t)tnmi_tier_is_vacant(segment);
    segment->state = TNMI_SEGMENT_DRAINING;
    tier->draining++;
    tier->thawing -= segment->thaw;
    segment->thaw = segment->stop = 0;
    if (segment->edge == TNMI_NONE) return;
    uint32_t index = tnmi_space_node(&tier->space, segment->edge)->next;
    for (int i = 0; i < TNMI_TIER_GAPS && index != segment->edge; i++) {
        const tnmi_node *node = tnmi_space_node(&tier->space, index);
        if (tnmi_space_kind(node) == TNMI_SPACE_FREE)
            tnmi_space_hold(&tier->space, index, TNMI_SPACE_DRAIN);
        index = node->next;
    }
    tnmi_tier_rewalk(tier, segment);
}

/* Its bytes are wanted no more: it gives room again, all of it once the walk was there. */
static void tnmi_tier_revive(tnmi_tier *tier, tnmi_segment *segment) {
    segment->state = TNMI_SEGMENT_LIVE;
    tier->draining--;
    if (segment->edge == TNMI_NONE) return;
    uint32_t index = tnmi_space_node(&tier->space, segment->edge)->next;
    for (int i = 0; i < TNMI_TIER_GAPS && index != segment->edge; i++) {
        const tnmi_node *node = tnmi_space_node(&tier->space, index);
        if (tnmi_space_kind(node) == TNMI_SPACE_HELD && node->a == TNMI_SPACE_DRAIN)
            tnmi_space_unhold(&tier->space, index);
        index = node->next; /* a merge keeps this node */
    }
    segment->thaw = index != segment->edge;
    tier->thawing += segment->thaw;
    tnmi_tier_rewalk(tier, segment);
}

/* An empty segment is on its way out. */
static void tnmi_tier_retire(tnmi_tiers *tiers, uint32_t index) {
    tnmi_segment *segment = tnmi_tier_segment(tiers, index);
    tnmi_tier *tier = &tiers->tier[segment->tier];
    if (segment->state == TNMI_SEGMENT_DRAINING) tier->draining--;
    tnmi_tier_leave(tier, segment, index);
    if (segment->edge != TNMI_NONE) tnmi_space_close(&tier->space, segment->edge);
    segment->edge = TNMI_NONE;
    segment->state = TNMI_SEGMENT_RELEASING;
    tnmi_tier_todo(tiers, index);
}

/* The holder of what is freed in this segment. */
static uint32_t tnmi_tier_holder(const tnmi_segment *segment) {
    return segment->state == TNMI_SEGMENT_LIVE ? TNMI_NONE : TNMI_SPACE_DRAIN;
}

/* [move] -------------------------------------------------------------------- *
 * Transfers and the copies they are cut into: queues by class, chunks,         *
 * staging, tickets. Knows bytes and tiers, not tensors: `content` and          *
 * `replica` are cookies.                                                       *
 * Calls: base tell store tier.                                                 *
 * Invariants: used slots + free slots == all slots; a transfer's `out` counts  *
 * its slots; a copy starts only with every slot and staging chunk it will      *
 * need; second hops go before first ones.                                      *
 * -------------------------------------------------------------------------- */
typedef enum tnmi_op_kind {
    TNMI_OP_FILL,  /* bytes of another replica */
    TNMI_OP_BUILD, /* DISCARD: nothing to fetch, zeros if SCRUB */
    TNMI_OP_WIPE,  /* zeros over a SCRUB replica that leaves */
    TNMI_OP_SHIFT, /* compaction: the same tier, another place */
    TNMI_OP_READ,  /* to the caller's plain memory */
    TNMI_OP_WRITE  /* from the caller's plain memory; NULL = zeros */
} tnmi_op_kind;

typedef enum tnmi_op_state {
    TNMI_OP_ROOM,     /* has a window, waits until its victims may leave */
    TNMI_OP_PLACED,   /* has its place, nothing issued */
    TNMI_OP_FILLING,  /* chunks are out or were */
    TNMI_OP_DRAINING, /* failed or cancelled, chunks are still out */
    TNMI_OP_DONE      /* READ and WRITE: the waiting call collects `error` */
} tnmi_op_state;

typedef struct tnmi_op {
    tnmi_op_kind kind;
    tnmi_op_state state;
    uint64_t bytes, next, done; /* of the content: all, handed out, arrived */
    uint64_t step;              /* deadline: smaller is sooner, within a class */
    uint32_t content, replica;  /* cookies: what is filled */
    uint32_t tier;              /* of the destination (READ: of the source) */
    uint32_t from;              /* tier of the source, TNMI_NONE until chosen */
    uint32_t window;            /* first node of the window, TNMI_NONE = none */
    uint32_t window_end;        /* granule where it ends */
    uint32_t place;             /* SHIFT: the new node */
    uint32_t place_segment, place_offset;
    uint32_t shift;            /* bytes in front of the tensor in its first granule(s) */
    uint32_t need;             /* granules */
    uint32_t claims;           /* requests that joined */
    uint32_t request;          /* the request whose plan made it, until placed */
    uint32_t out;              /* slots in use */
    uint32_t next_op, prev_op; /* in the queue of its class, or of those that wait for room */
    uint32_t plan;             /* next in the plan that is being made */
    tnm_class class_;
    tnm_result error;
    int queued;            /* which queue it is in, -1 = none */
    int route;             /* 0 = ask the destination, 1 = the source, 2 = two hops by staging */
    int via;               /* an optional stop on the way of another fill */
    int fresh;             /* a prefetch nobody has used */
    int loose;             /* its place need not keep the remainder of adopted bytes */
    int astray;            /* nor lie on the schedule's side of the wall */
    int orphan;            /* its source was lost: it begins again, from another */
    uint64_t pass;         /* the last pass that looked at it while it waited for room */
    uint64_t plain_offset; /* READ, WRITE: where in the content the range starts */
    unsigned char *plain;
} tnmi_op;

typedef enum tnmi_copy_state {
    TNMI_COPY_FREE,
    TNMI_COPY_READY,  /* to be handed to a backend */
    TNMI_COPY_ASKING, /* copy() runs */
    TNMI_COPY_OUT,    /* a ticket is out */
    TNMI_COPY_POLLING
} tnmi_copy_state;

enum { TNMI_HOP_DIRECT, TNMI_HOP_IN, TNMI_HOP_OUT }; /* IN: to staging; OUT: from staging */

typedef struct tnmi_copy {
    uint64_t at, size;  /* range of the content */
    uint64_t lead, pad; /* bytes of rounding around it, in staging only */
    uint64_t ticket, number;
    uint64_t polled;    /* the round it was last polled in */
    uint32_t op, stage; /* staging chunk, TNMI_NONE = none */
    uint32_t asked;     /* which backend is asked: 0 destination's, 1 source's */
    uint32_t tier;      /* whose backend answers the ticket */
    uint32_t next;      /* in the list of live ones */
    tnmi_copy_state state;
    int hop, begun; /* begun: its event was told */
    tnm_class class_;
} tnmi_copy;

typedef enum tnmi_staging {
    TNMI_STAGING_NONE,
    TNMI_STAGING_REFUSED,
    TNMI_STAGING_WANTED,     /* to be asked for */
    TNMI_STAGING_ALLOCATING, /* being asked for; from here on it is in the ledger */
    TNMI_STAGING_LIVE,
    TNMI_STAGING_LOST,     /* its memory is gone, and copies are in it yet */
    TNMI_STAGING_UNWANTED, /* to be given back */
    TNMI_STAGING_RELEASING /* being given back */
} tnmi_staging;

enum { TNMI_MOVE_CLASSES = 4, TNMI_MOVE_ROOM = 4, TNMI_MOVE_QUEUES = 5 };

typedef struct tnmi_move {
    tnmi_table ops;
    tnmi_copy *copy;                       /* fixed at create */
    uint32_t copies, free_copy, live_copy; /* live: oldest first */
    uint32_t last_live, used;
    struct {
        uint32_t head, tail;
    } queue[TNMI_MOVE_QUEUES]; /* by class; [TNMI_MOVE_ROOM] those that wait for room */
    uint64_t chunk, numbers;
    /* staging */
    uint64_t stage_most;              /* what the application allows */
    uint64_t stage_links;             /* entries of stage_next */
    uint64_t stage_bytes, stage_size; /* all, and of one chunk */
    uint64_t stage_mem;
    unsigned char *stage_host;
    uint32_t stage_tier, stage_count, stage_free; /* chunks; free ones are linked */
    uint32_t *stage_next;
    tnmi_staging stage_state;
    int stage_short; /* refused for want of room, not by its backend */
} tnmi_move;

static tnmi_op *tnmi_move_op(const tnmi_move *move, uint32_t index) {
    return (tnmi_op *)tnmi_store_at(&move->ops, index);
}

static void tnmi_move_init(tnmi_move *move, uint32_t max_ops, int fixed) {
    memset(move, 0, sizeof *move);
    tnmi_store_init(&move->ops, "max_replicas", sizeof(tnmi_op), offsetof(tnmi_op, content),
                    max_ops, fixed);
    for (int i = 0; i < TNMI_MOVE_QUEUES; i++)
        move->queue[i].head = move->queue[i].tail = TNMI_NONE;
    move->free_copy = move->live_copy = move->last_live = TNMI_NONE;
    move->stage_free = TNMI_NONE;
}

static void tnmi_move_slots(tnmi_move *move, tnmi_copy *copy, uint32_t count) {
    move->copy = copy;
    move->copies = count;
    for (uint32_t i = count; i-- > 0;) {
        memset(&copy[i], 0, sizeof copy[i]);
        copy[i].next = move->free_copy;
        move->free_copy = i;
    }
}

/* ---- queues ---- */
static void tnmi_move_unqueue(tnmi_move *move, uint32_t index) {
    tnmi_op *op = tnmi_move_op(move, index);
    if (op->queued < 0) return;
    uint32_t *head = &move->queue[op->queued].head, *tail = &move->queue[op->queued].tail;
    if (op->prev_op == TNMI_NONE)
        *head = op->next_op;
    else
        tnmi_move_op(move, op->prev_op)->next_op = op->next_op;
    if (op->next_op == TNMI_NONE)
        *tail = op->prev_op;
    else
        tnmi_move_op(move, op->next_op)->prev_op = op->prev_op;
    op->queued = -1;
}

/* Into the queue, before the first one with a later deadline. Nearly always at the tail. */
static void tnmi_move_enqueue(tnmi_move *move, uint32_t index, int queue) {
    tnmi_op *op = tnmi_move_op(move, index);
    tnmi_move_unqueue(move, index);
    uint32_t after = move->queue[queue].tail;
    while (after != TNMI_NONE && tnmi_move_op(move, after)->step > op->step)
        after = tnmi_move_op(move, after)->prev_op;
    op->prev_op = after;
    op->next_op = after == TNMI_NONE ? move->queue[queue].head : tnmi_move_op(move, after)->next_op;
    if (op->prev_op == TNMI_NONE)
        move->queue[queue].head = index;
    else
        tnmi_move_op(move, op->prev_op)->next_op = index;
    if (op->next_op == TNMI_NONE)
        move->queue[queue].tail = index;
    else
        tnmi_move_op(move, op->next_op)->prev_op = index;
    op->queued = queue;
}

/* A later request may raise the class and bring the deadline forward, never the reverse. */
static void tnmi_move_raise(tnmi_move *move, uint32_t index, tnm_class class_, uint64_t step) {
    tnmi_op *op = tnmi_move_op(move, index);
    if (class_ < op->class_ || (class_ == op->class_ && step >= op->step)) return;
    op->class_ = class_;
    op->step = step;
    if (op->queued >= 0)
        tnmi_move_enqueue(move, index, op->queued == TNMI_MOVE_ROOM ? TNMI_MOVE_ROOM : (int)class_);
}

static uint32_t tnmi_move_new(tnmi_move *move, tnmi_op_kind kind, tnm_class class_, uint64_t step) {
    uint32_t index = tnmi_store_take(&move->ops);
    if (index == TNMI_NONE) return TNMI_NONE;
    tnmi_op *op = tnmi_move_op(move, index);
    memset(op, 0, sizeof *op);
    op->kind = kind;
    op->class_ = class_;
    op->step = step;
    op->from = op->window = op->request = op->plan = op->place = TNMI_NONE;
    op->replica = op->content = TNMI_NONE;
    op->queued = -1;
    return index;
}

static void tnmi_move_delete(tnmi_move *move, uint32_t index) {
    tnmi_move_unqueue(move, index);
    tnmi_store_give(&move->ops, index);
}

/* ---- slots and staging ---- */
static uint32_t tnmi_move_slot(tnmi_move *move, uint32_t op) {
    uint32_t index = move->free_copy;
    if (index == TNMI_NONE) return TNMI_NONE;
    tnmi_copy *copy = &move->copy[index];
    move->free_copy = copy->next;
    memset(copy, 0, sizeof *copy);
    copy->op = op;
    copy->stage = TNMI_NONE;
    copy->next = TNMI_NONE;
    copy->number = ++move->numbers;
    if (move->last_live == TNMI_NONE)
        move->live_copy = index;
    else
        move->copy[move->last_live].next = index;
    move->last_live = index;
    move->used++;
    tnmi_move_op(move, op)->out++;
    return index;
}

static void tnmi_move_stage_give(tnmi_move *move, uint32_t stage) {
    if (stage == TNMI_NONE) return;
    move->stage_next[stage] = move->stage_free;
    move->stage_free = stage;
    move->stage_count++;
}

static uint32_t tnmi_move_stage_take(tnmi_move *move) {
    uint32_t stage = move->stage_free;
    if (stage == TNMI_NONE) return TNMI_NONE;
    move->stage_free = move->stage_next[stage];
    move->stage_count--;
    return stage;
}

static void tnmi_move_slot_give(tnmi_move *move, uint32_t index) {
    uint32_t before = TNMI_NONE;
    for (uint32_t i = move->live_copy; i != index; i = move->copy[i].next)
        before = i;
    tnmi_copy *copy = &move->copy[index];
    if (before == TNMI_NONE)
        move->live_copy = copy->next;
    else
        move->copy[before].next = copy->next;
    if (move->last_live == index) move->last_live = before;
    tnmi_move_stage_give(move, copy->stage);
    tnmi_move_op(move, copy->op)->out--;
    copy->state = TNMI_COPY_FREE;
    copy->next = move->free_copy;
    move->free_copy = index;
    move->used--;
}

/* The staging memory has come: cut it into chunks. */
static void tnmi_move_staging(tnmi_move *move, uint64_t mem, void *host) {
    uint32_t count = (uint32_t)(move->stage_bytes / move->stage_size);
    move->stage_mem = mem;
    move->stage_host = (unsigned char *)host;
    move->stage_free = TNMI_NONE;
    move->stage_count = 0;
    for (uint32_t i = count; i-- > 0;)
        tnmi_move_stage_give(move, i);
    move->stage_state = TNMI_STAGING_LIVE;
}

static int tnmi_move_has_staging(const tnmi_move *move, uint32_t tier) {
    return move->stage_state == TNMI_STAGING_LIVE && move->stage_tier == tier;
}

/* The tier's staging is to be given back, if nothing is under way. */
static int tnmi_move_unstage(tnmi_move *move, uint32_t tier) {
    if (!tnmi_move_has_staging(move, tier) || move->used > 0) return 0;
    move->stage_state = TNMI_STAGING_UNWANTED;
    return 1;
}

/* What was lost is given back when nobody is in it any more. */
static void tnmi_move_unstage_lost(tnmi_move *move) {
    if (move->stage_state == TNMI_STAGING_LOST &&
        move->stage_count == move->stage_bytes / move->stage_size)
        move->stage_state = TNMI_STAGING_UNWANTED;
}

/* How many staging chunks, and slots, must stay free when a chunk of this class is started: guesses
 * leave three for demand, upward ones leave the last to the way down. */
static uint32_t tnmi_move_stage_reserve(tnm_class class_, int downward) {
    if (downward) return 0;
    return class_ == TNM_CLASS_DEMAND ? 1 : 3;
}

/* The next chunk of a transfer: at most `most` bytes, cut so that a read of adopted memory starts
 * and ends on the granularity of its backend wherever it can. `source` is the adopted offset of the
 * content's first byte. The odd head and tail go through staging, or the backend takes them. */
static uint64_t tnmi_move_cut(const tnmi_op *op, uint64_t most, uint64_t source, uint64_t grain,
                              int odd_ends, int *bounce) {
    uint64_t left = op->bytes - op->next, odd = (source + op->next) % grain;
    uint64_t size = tnmi_base_min(left, tnmi_base_max(most, 1));
    *bounce = 0;
    if (grain <= 1) return size;
    if (odd_ends) { /* only the transfer's own ends are odd, if they can be */
        uint64_t behind = (odd + size) % grain;
        return size < left && behind < size ? size - behind : size;
    }
    if (odd != 0 || left < grain) {
        *bounce = 1;
        return tnmi_base_min(left, grain - odd);
    }
    size -= size % grain;
    return size ? size : tnmi_base_min(left, grain);
}

/* [tensor] ------------------------------------------------------------------ *
 * Names, contents, replicas, the pin word, recency.                            *
 * Calls: base tell store.                                                      *
 * Invariants: at most one replica of a content per tier; READY ones are        *
 * current; an index in rep[] changes only under the lock; a word changes only  *
 * by read-modify-write; pins keep a READY replica's place fields constant.     *
 *                                                                              *
 * The word:  [ pins 16 | hits 16 | writers 8 | recycle 16 | flags 8 ]          *
 * A hit compare-and-swaps a READY word to one more pin (acquire), and THEN     *
 * reads rep[tier] and the name's generation again; on mismatch it unpins and   *
 * goes the slow way. Why that is enough:                                       *
 * (1) place fields are written only while the word is not READY; READY is      *
 *     published by a release the pin's acquire reads; no claim succeeds while  *
 *     the pin lives.                                                           *
 * (2) unpin is a release; a claim is an acquire that reads it or a later       *
 *     value of the same chain of read-modify-writes: all use of the bytes      *
 *     happens before their reuse.                                              *
 * (3) a record recycled before the pin was published READY after the old       *
 *     owner's rep[tier] or generation changed, so the second look sees the     *
 *     change; rep[tier] naming this record again means it is the right one.    *
 * Pins sit on top, so neither over- nor underflow reaches another field.       *
 * -------------------------------------------------------------------------- */
#    define TNMI_PIN      ((uint64_t)1 << 48)
#    define TNMI_HIT      ((uint64_t)1 << 32)
#    define TNMI_WRITER   ((uint64_t)1 << 24)
#    define TNMI_RECYCLE  ((uint64_t)1 << 8)
#    define TNMI_RECYCLES ((uint32_t)0xffff << 8)
#    define TNMI_PINNED   ((uint32_t)1 << 31)
/* Granted under the lock; what hits add meanwhile fits above. */
#    define TNMI_MOST_PINS    0xff00u
#    define TNMI_MOST_WRITERS 0xf0u

enum { /* the word's low 8 bits */
       TNMI_ABSENT = 0,
       TNMI_BUSY = 1,
       TNMI_READY = 2,
       TNMI_STATE = 3,
       TNMI_ALONE = 4,   /* no other replica of the content exists */
       TNMI_SOURCE = 8,  /* a copy reads it */
       TNMI_FRESH = 16,  /* prefetched, unused; the first pin clears it */
       TNMI_CLAIM = 32,  /* a request waits with it: pins go the slow way */
       TNMI_NOTIFY = 64, /* the last unpin goes the slow way */
       TNMI_LOST = 128   /* its memory is gone; pins must still be undone */
};

/* A handle: [ tag 2 | generation 30 | tag 6 | index 26 ]. A slot keeps the upper half as it is, and
 * the lower one without its tag is too large for an index unless the tag is ours: so two compares
 * know all of it. */
enum { TNMI_INDEX_BITS = 26, TNMI_INLINE_TIERS = 4 };
#    define TNMI_GENERATION_MAX (((uint32_t)1 << 30) - 1)

enum {                         /* flags of a name; the content's live in its first name's slot */
       TNMI_DTYPE_SHIFT = 0,   /* 5 bits */
       TNMI_RANK_SHIFT = 5,    /* 3 */
       TNMI_BIG_SHIFT = 8,     /* 3: the dimension that follows from the bytes */
       TNMI_ADVICE_SHIFT = 11, /* 5 */
       TNMI_KEPT_SHIFT = 19,   /* 7: tier + 1 the schedule keeps it on */
       TNMI_TOLD_SHIFT = 26    /* 4: lane + 1 that told a sure use of it */
};
#    define TNMI_VIEW   ((uint32_t)1 << 16)
#    define TNMI_NAMED  ((uint32_t)1 << 17)
#    define TNMI_BROKEN ((uint32_t)1 << 18)                /* the sole copy was lost */
#    define TNMI_FRAMED ((uint32_t)1 << 30)                /* zeros are put around a first write */
#    define TNMI_LEAVES ((uint32_t)2 << TNMI_ADVICE_SHIFT) /* ONCE or WONT_NEED */

typedef struct tnmi_tensor {
    const char *label;
    void *user;
    uint32_t refs;                    /* names that need this slot: its own, its views */
    uint32_t shape[TNM_MAX_DIMS - 1]; /* all but the big dimension */
    uint32_t use;                     /* first use in [hint]; free: next free */
    uint32_t mark;                    /* member + 1 of the set in the making */
    uint32_t failed;                  /* -result | tier << 8 | 1 << 16 = not reported yet */
    uint32_t flags;                   /* from here on it is what a pin that hits reads */
    uint32_t generation;              /* of the name: the upper half of its handle */
    uint64_t bytes;
    uint32_t rep[TNMI_INLINE_TIERS]; /* replica per tier; a view: parent, offset low, high */
} tnmi_tensor;

typedef struct tnmi_replica {
    uint64_t word;
    uint64_t stamp;   /* last pin; adopted: the byte offset */
    uint32_t content; /* free: next free */
    uint32_t node;    /* TNMI_NONE: adopted, or without a place yet */
    uint32_t offset;  /* units within the segment; BUSY: its transfer */
    uint32_t segment; /* adopted: the region */
} tnmi_replica;

typedef struct tnmi_region { /* adopted memory; one serves many ranges of the same file */
    uint64_t mem;
    uintptr_t base; /* host address of offset 0; 0 = the CPU cannot see it */
    void (*released)(void *user, uint64_t mem, uint64_t offset);
    void *user;
    uint32_t tier, refs;
    uint32_t writable, by_host; /* by_host: the offset told to backends is 0, base unused */
} tnmi_region;

enum { TNMI_QUEUES = 256, TNMI_FENCE_BITS = 55 }; /* of fences: queues, bits of a value */

typedef struct tnmi_fence { /* pins that fall when a queue has passed a value */
    uint64_t value;
    uint32_t replica, tier, count, write;
    uint32_t next, prev; /* of its queue: later values, earlier ones */
} tnmi_fence;

typedef struct tnmi_residents { /* the replicas of one tier and the order in which they leave */
    tnmi_table replicas;
    tnmi_table fenced; /* for each: its pins that fences hold, writers also * 2^16; grown by them */
    tnmi_heap order;   /* of the nodes of those that are placed and READY; adopted ones stay */
} tnmi_residents;

typedef struct tnmi_tensors {
    tnmi_table names;
    tnmi_table regions;
    tnmi_residents *on; /* per tier */
    uint32_t tiers;
    uint32_t tag_low, tag_high; /* the tag's bits where both halves of a handle have them */
    uint32_t last_region;
} tnmi_tensors;

static tnmi_tensor *tnmi_tensor_at(const tnmi_tensors *tensors, uint32_t index) {
    return (tnmi_tensor *)tnmi_store_at(&tensors->names, index);
}

/* A slot's rep[tier]; beyond TNMI_INLINE_TIERS the array goes on behind the struct. */
static TNMI_INLINE uint32_t *tnmi_tensor_rep_of(const tnmi_tensor *slot, uint32_t tier) {
    char *rep = (char *)(uintptr_t)slot + offsetof(tnmi_tensor, rep);
    return (uint32_t *)(void *)rep + tier;
}

static uint32_t *tnmi_tensor_rep(const tnmi_tensors *tensors, uint32_t index, uint32_t tier) {
    return tnmi_tensor_rep_of(tnmi_tensor_at(tensors, index), tier);
}

static TNMI_INLINE tnmi_replica *tnmi_tensor_replica_of(const tnmi_residents *on, uint32_t index) {
    return (tnmi_replica *)tnmi_store_of(&on->replicas, index, sizeof(tnmi_replica));
}

static tnmi_replica *tnmi_tensor_replica(const tnmi_tensors *tensors, uint32_t tier,
                                         uint32_t index) {
    return tnmi_tensor_replica_of(&tensors->on[tier], index);
}

/* The content's replica on a tier, or NULL. Under the lock. */
static inline tnmi_replica *tnmi_tensor_on(const tnmi_tensors *tensors, uint32_t content,
                                           uint32_t tier) {
    uint32_t index = *tnmi_tensor_rep(tensors, content, tier);
    return index == TNMI_NONE ? NULL : tnmi_tensor_replica(tensors, tier, index);
}

static tnmi_region *tnmi_tensor_region(const tnmi_tensors *tensors, uint32_t index) {
    return (tnmi_region *)tnmi_store_at(&tensors->regions, index);
}

/* ---- the word ---- */
static TNMI_INLINE uint32_t tnmi_tensor_pins(uint64_t word) {
    return (uint32_t)(word >> 48);
}

static TNMI_INLINE uint32_t tnmi_tensor_writers(uint64_t word) {
    return (uint32_t)(word >> 24) & 0xffu;
}

static uint32_t tnmi_tensor_recycle(uint64_t word) {
    return (uint32_t)(word >> 8) & 0xffffu;
}

static TNMI_INLINE uint32_t tnmi_tensor_pin_mark(uint64_t word) {
    return TNMI_PINNED | ((uint32_t)word & TNMI_RECYCLES);
}

/* What tnm_pinned.id says of a replica: its index, its recycle count, and that it is pinned. */
static TNMI_INLINE uint64_t tnmi_tensor_pin_id(uint64_t word, uint32_t index) {
    return (uint64_t)tnmi_tensor_pin_mark(word) << 32 | index;
}

/* Is there a pin of this id? */
static TNMI_INLINE int tnmi_tensor_is_pin(uint64_t word, uint64_t id) {
    return (uint32_t)(id >> 32) == tnmi_tensor_pin_mark(word) && word >= TNMI_PIN;
}

static TNMI_INLINE int tnmi_tensor_is(uint64_t word, uint32_t state) {
    return (word & TNMI_STATE) == state;
}

static int tnmi_tensor_is_ready(const tnmi_replica *replica) {
    return replica && (tnmi_base_load64(&replica->word) & (TNMI_STATE | TNMI_LOST)) == TNMI_READY;
}

/* Adopted memory keeps its record while the content lives if it is writable: ABSENT then means
 * that its bytes are not current. */
static int tnmi_tensor_is_home(const tnmi_replica *replica) {
    return replica && tnmi_tensor_is(tnmi_base_load64(&replica->word), TNMI_ABSENT);
}

/* Only pins still hold the record: its bytes are lost. */
static int tnmi_tensor_is_gone(const tnmi_replica *replica) {
    return replica && (tnmi_base_load64(&replica->word) & TNMI_LOST) != 0;
}

/* Set and clear bits; both by one read-modify-write. Returns the word before. */
static uint64_t tnmi_tensor_mark(tnmi_replica *replica, uint64_t set, uint64_t clear) {
    uint64_t word = tnmi_base_peek64(&replica->word);
    while (!tnmi_base_swap64(&replica->word, &word, (word | set) & ~clear))
        continue;
    return word;
}

/* READY without pins becomes BUSY, or nothing happens. */
static int tnmi_tensor_claim(tnmi_replica *replica) {
    uint64_t word = tnmi_base_peek64(&replica->word);
    do {
        if (!tnmi_tensor_is(word, TNMI_READY) || tnmi_tensor_pins(word) != 0) return 0;
    } while (!tnmi_base_swap64(&replica->word, &word, (word & ~(uint64_t)TNMI_STATE) | TNMI_BUSY));
    return 1;
}

static void tnmi_tensor_unclaim(tnmi_replica *replica) {
    tnmi_tensor_mark(replica, TNMI_READY, TNMI_BUSY);
}

/* Does the word allow a pin without the lock? Half a field's range counts as full: the lock has the
 * rest of it, and one mask says it all. */
static TNMI_INLINE int tnmi_tensor_may_hit(uint64_t word, tnm_access access) {
    const uint64_t full = (TNMI_PIN | TNMI_HIT) << 15, writers = TNMI_WRITER << 7;
    const uint64_t deny = full | TNMI_BUSY | TNMI_LOST | TNMI_CLAIM;
    const uint64_t alone = TNMI_READY | TNMI_ALONE;
    if (access == TNM_READ) return (word & (deny | TNMI_READY)) == TNMI_READY;
    return (word & (deny | writers | TNMI_SOURCE | alone)) == alone;
}

static TNMI_INLINE uint64_t tnmi_tensor_pin_of(tnm_access access) {
    return TNMI_PIN + (access != TNM_READ) * TNMI_WRITER;
}

static TNMI_INLINE int tnmi_tensor_hit_as(tnmi_replica *replica, tnm_access access, int once,
                                          uint64_t *before) {
    uint64_t word = tnmi_base_peek64(&replica->word), pin = tnmi_tensor_pin_of(access) + TNMI_HIT;
    do {
        if (!tnmi_tensor_may_hit(word, access)) return 0;
        if (tnmi_base_swap64(&replica->word, &word, (word + pin) & ~(uint64_t)TNMI_FRESH)) {
            *before = word;
            return 1;
        }
    } while (!once);
    return -1;
}

/* The compare-and-swap of a hit; what it compares and adds are constants for those who read and for
 * those who write. 0: the word allows no pin; -1: another thread was faster, and `once`. */
static TNMI_INLINE int tnmi_tensor_hit(tnmi_replica *replica, tnm_access access, int once,
                                       uint64_t *before) {
    if (access == TNM_READ) return tnmi_tensor_hit_as(replica, TNM_READ, once, before);
    if ((uint32_t)access > TNM_DISCARD) return 0;
    return tnmi_tensor_hit_as(replica, TNM_WRITE, once, before);
}

/* Let one pin go. Returns the word before; nothing happened if that had no pins. */
static TNMI_INLINE uint64_t tnmi_tensor_unpin(tnmi_replica *replica, tnm_access access) {
    uint64_t pin = tnmi_tensor_pin_of(access), before = tnmi_base_sub64(&replica->word, pin);
    if (tnmi_tensor_pins(before) == 0) tnmi_base_sub64(&replica->word, 0 - pin);
    return before;
}

/* ---- pins that fences hold: the table reaches as far as a fence ever did ---- */
static uint32_t *tnmi_tensor_fenced_at(const tnmi_tensors *tensors, uint32_t tier, uint32_t index) {
    return (uint32_t *)tnmi_store_of(&tensors->on[tier].fenced, index, sizeof(uint32_t));
}

/* Pins of a replica (of its writers, if `writes`) that are held by fences. */
static uint32_t tnmi_tensor_fenced(const tnmi_tensors *tensors, uint32_t tier, uint32_t index,
                                   int writes) {
    if (index >= tensors->on[tier].fenced.capacity) return 0;
    uint32_t held = *tnmi_tensor_fenced_at(tensors, tier, index);
    return writes ? held >> 16 : held & 0xffffu;
}

/* What one pin of a fence adds to the count of its replica. */
static uint32_t tnmi_tensor_fence_unit(int write) {
    return write ? 0x10001u : 1u;
}

/* ---- handles ---- */
static uint64_t tnmi_tensor_id(const tnmi_tensors *tensors, uint32_t index) {
    return (uint64_t)tnmi_tensor_at(tensors, index)->generation << 32 | (tensors->tag_low ^ index);
}

/* An entry that exists, or NULL: what a lock-free look-up finds may be out of date. */
static TNMI_INLINE const tnmi_tensor *tnmi_tensor_slot(const tnmi_tensors *tensors,
                                                       uint32_t index) {
    if (index >= tnmi_base_load32(&tensors->names.fresh)) return NULL;
    return (const tnmi_tensor *)tnmi_store_of(&tensors->names, index, tensors->names.stride);
}

/* Of a handle; one with another context's tag has an index that no slot has. */
static TNMI_INLINE uint32_t tnmi_tensor_index(const tnmi_tensors *tensors, uint64_t id) {
    return (uint32_t)id ^ tensors->tag_low;
}

/* Is the slot (if its flags say NAMED) the handle's? Asked before the rest of it is read, and
 * again afterwards: it may be destroyed meanwhile. */
static TNMI_INLINE int tnmi_tensor_is_named(const tnmi_tensor *slot, uint64_t id) {
    return tnmi_base_load32(&slot->generation) == (uint32_t)(id >> 32);
}

/* The slot a handle names, lock-free; TNMI_NONE: never ours (ARGUMENT) or gone (STALE). */
static inline uint32_t tnmi_tensor_find(const tnmi_tensors *tensors, uint64_t id, tnm_result *why) {
    uint32_t index = tnmi_tensor_index(tensors, id), generation = (uint32_t)(id >> 32);
    *why = TNM_ERR_ARGUMENT;
    const tnmi_tensor *slot = tnmi_tensor_slot(tensors, index);
    if (!slot) return TNMI_NONE;
    uint32_t now = tnmi_base_load32(&slot->generation), count = generation & TNMI_GENERATION_MAX;
    if ((generation ^ now) > TNMI_GENERATION_MAX || count == 0 || generation > now)
        return TNMI_NONE; /* another context's, or not given out yet */
    if (generation == now && (tnmi_base_load32(&slot->flags) & TNMI_NAMED)) return index;
    *why = generation == now ? TNM_ERR_ARGUMENT : TNM_ERR_STALE; /* the next name of the slot */
    return TNMI_NONE;
}

static TNMI_INLINE uint64_t tnmi_tensor_view_at(const tnmi_tensor *view) {
    uint32_t low = tnmi_base_load32(tnmi_tensor_rep_of(view, 1));
    uint32_t high = tnmi_base_load32(tnmi_tensor_rep_of(view, 2));
    return (uint64_t)high << 32 | low;
}

/* The content a name stands for, and where in it the name begins. */
static inline uint32_t tnmi_tensor_content(const tnmi_tensors *tensors, uint32_t name,
                                           uint64_t *offset) {
    const tnmi_tensor *slot = tnmi_tensor_at(tensors, name);
    *offset = 0;
    if (!(tnmi_base_load32(&slot->flags) & TNMI_VIEW)) return name;
    *offset = tnmi_tensor_view_at(slot);
    return tnmi_base_load32(tnmi_tensor_rep_of(slot, 0));
}

/* A new slot with one name; TNMI_NONE = none left. */
static uint32_t tnmi_tensor_new(tnmi_tensors *tensors) {
    uint32_t index = tnmi_store_take(&tensors->names);
    if (index == TNMI_NONE) return TNMI_NONE;
    tnmi_tensor *tensor = tnmi_tensor_at(tensors, index);
    if (tensor->generation == 0) tnmi_base_store32(&tensor->generation, tensors->tag_high | 1);
    tensor->refs = 1;
    tensor->use = TNMI_NONE;
    tensor->mark = 0;
    tensor->failed = 0;
    uint32_t count = (uint32_t)tnmi_base_max(tensors->tiers, TNMI_INLINE_TIERS);
    for (uint32_t i = 0; i < count; i++)
        tnmi_base_store32(tnmi_tensor_rep_of(tensor, i), TNMI_NONE);
    return index;
}

static void tnmi_tensor_set_tag(tnmi_tensors *tensors, uint32_t tag) {
    tensors->tag_high = tag << 30;
    tensors->tag_low = tag >> 2 << TNMI_INDEX_BITS;
}

static void tnmi_tensor_set_flags(tnmi_tensor *tensor, uint32_t set, uint32_t clear) {
    tnmi_base_store32(&tensor->flags, (tensor->flags & ~clear) | set);
}

/* The handle dies now. */
static void tnmi_tensor_unname(tnmi_tensor *tensor) {
    tnmi_tensor_set_flags(tensor, 0, TNMI_NAMED);
    tnmi_base_store32(&tensor->generation, tensor->generation + 1);
}

/* Which of the contents that have had a slot this is: its name may go before it where views stand
 * for it, and takes the generation on. */
static uint32_t tnmi_tensor_life(const tnmi_tensor *tensor) {
    return tensor->generation + ((tensor->flags & TNMI_NAMED) != 0);
}

/* Is it still that one, and has it a name? */
static int tnmi_tensor_lives(const tnmi_tensor *tensor, uint32_t life) {
    return tensor->refs > 0 && tnmi_tensor_life(tensor) == life;
}

/* The slot goes; one whose generations are used up is never used again. */
static void tnmi_tensor_delete(tnmi_tensors *tensors, uint32_t index) {
    tnmi_tensor *tensor = tnmi_tensor_at(tensors, index);
    tnmi_tensor_set_flags(tensor, 0, ~(uint32_t)0);
    tensor->refs = 0; /* no content: flags alone do not say so, of one whose name went */
    if ((tensor->generation & TNMI_GENERATION_MAX) == TNMI_GENERATION_MAX) {
        tnmi_store_retire(&tensors->names);
    } else {
        tnmi_store_give(&tensors->names, index);
    }
}

static uint32_t tnmi_tensor_field(const tnmi_tensor *tensor, uint32_t shift, uint32_t bits) {
    return (tensor->flags >> shift) & ((1u << bits) - 1);
}

static void tnmi_tensor_set_field(tnmi_tensor *tensor, uint32_t shift, uint32_t bits,
                                  uint32_t value) {
    uint32_t mask = ((1u << bits) - 1) << shift;
    tnmi_tensor_set_flags(tensor, value << shift, mask);
}

static uint32_t tnmi_tensor_advice(const tnmi_tensor *tensor) {
    return tnmi_tensor_field(tensor, TNMI_ADVICE_SHIFT, 5);
}

static const char *tnmi_tensor_label(const tnmi_tensors *tensors, uint32_t content) {
    const tnmi_tensor *tensor = tnmi_tensor_at(tensors, content);
    return tensor->flags & TNMI_NAMED ? tensor->label : NULL;
}

/* ---- shapes ---- */
static int tnmi_tensor_block(tnm_dtype dtype, uint64_t *elements, uint64_t *bytes) {
    static const unsigned char size[] = { 1, 1, 1, 2, 4, 8, 2, 2, 4, 8, 1, 1, 18, 34 };
    if ((int)dtype < 0 || (size_t)dtype >= sizeof size) return 0;
    *elements = dtype == TNM_Q4_0 || dtype == TNM_Q8_0 ? 32 : 1;
    *bytes = size[dtype];
    return 1;
}

/* Bytes of a shape; rank 0 = none given. Returns the rule that is broken, or NULL. */
static const char *tnmi_tensor_shape(const tnm_tensor_desc *desc, int *rank, uint64_t *bytes) {
    uint64_t elements, size, count = 1;
    *rank = 0;
    *bytes = 0;
    if (!tnmi_tensor_block(desc->dtype, &elements, &size)) return "dtype is none of tnm_dtype";
    /*@ loop invariant 0 <= *rank <= TNM_MAX_DIMS && count >= 1;
        loop invariant \forall integer i; 0 <= i < *rank ==> desc->shape[i] > 0;
        loop assigns *rank, count;
        loop variant TNM_MAX_DIMS - *rank; */
    while (*rank < TNM_MAX_DIMS && desc->shape[*rank] != 0) {
        if (desc->shape[*rank] < 0) return "shape has a negative dimension";
        if (!tnmi_base_mul(count, (uint64_t)desc->shape[*rank], &count)) return "shape overflows";
        (*rank)++;
    }
    /*@ loop invariant *rank <= i <= TNM_MAX_DIMS;
        loop assigns i;
        loop variant TNM_MAX_DIMS - i; */
    for (int i = *rank; i < TNM_MAX_DIMS; i++)
        if (desc->shape[i] != 0) return "shape goes on behind its first 0";
    if (*rank == 0) return desc->dtype == TNM_BYTES ? NULL : "a dtype needs a shape";
    if ((uint64_t)desc->shape[*rank - 1] % elements != 0)
        return "the innermost dimension is not a multiple of the dtype's block";
    if (!tnmi_base_mul(count / elements, size, bytes) || *bytes > INT64_MAX)
        return "shape overflows";
    return NULL;
}

/* Remember the shape: all dimensions but the largest, which follows from the bytes. At most one
 * dimension can be 2^32 or more without overflow, so the others fit. */
static void tnmi_tensor_keep_shape(tnmi_tensor *tensor, const tnm_tensor_desc *desc, int rank) {
    int big = 0, at = 0;
    if (rank == 0) return; /* a new name's flags say so */
    for (int i = 1; i < rank; i++)
        if (desc->shape[i] > desc->shape[big]) big = i;
    memset(tensor->shape, 0, sizeof tensor->shape);
    for (int i = 0; i < rank; i++)
        if (i != big) tensor->shape[at++] = (uint32_t)desc->shape[i];
    tnmi_tensor_set_field(tensor, TNMI_RANK_SHIFT, 3, (uint32_t)rank);
    tnmi_tensor_set_field(tensor, TNMI_BIG_SHIFT, 3, (uint32_t)big);
}

static void tnmi_tensor_tell_shape(const tnmi_tensor *tensor, int64_t *shape) {
    uint64_t elements = 1, size = 1, rest = 1;
    int rank = (int)tnmi_tensor_field(tensor, TNMI_RANK_SHIFT, 3), at = 0;
    int big = (int)tnmi_tensor_field(tensor, TNMI_BIG_SHIFT, 3);
    tnmi_tensor_block((tnm_dtype)tnmi_tensor_field(tensor, TNMI_DTYPE_SHIFT, 5), &elements, &size);
    memset(shape, 0, TNM_MAX_DIMS * sizeof shape[0]);
    for (int i = 0; i < rank; i++) {
        if (i == big) continue;
        shape[i] = tensor->shape[at++];
        rest *= (uint64_t)shape[i];
    }
    if (rank > 0) shape[big] = (int64_t)(tensor->bytes / size * elements / rest);
}

/* ---- replicas ---- */
/* A new replica without a place or a state; TNMI_NONE = no record left. */
static inline uint32_t tnmi_tensor_attach(tnmi_tensors *tensors, uint32_t content, uint32_t tier) {
    tnmi_residents *on = &tensors->on[tier];
    uint32_t index = tnmi_store_take(&on->replicas);
    if (index == TNMI_NONE) return TNMI_NONE;
    tnmi_replica *replica = tnmi_tensor_replica(tensors, tier, index);
    replica->content = content;
    replica->node = TNMI_NONE;
    replica->segment = TNMI_NONE;
    tnmi_base_poke64(&replica->stamp, 0);
    tnmi_base_store32(tnmi_tensor_rep(tensors, content, tier), index);
    return index;
}

/* The same, BUSY: a transfer fills it. */
static uint32_t tnmi_tensor_place(tnmi_tensors *tensors, uint32_t content, uint32_t tier,
                                  uint32_t op) {
    uint32_t index = tnmi_tensor_attach(tensors, content, tier);
    if (index == TNMI_NONE) return TNMI_NONE;
    tnmi_replica *replica = tnmi_tensor_replica(tensors, tier, index);
    replica->offset = op;
    tnmi_tensor_mark(replica, TNMI_BUSY, 0);
    return index;
}

/* The content loses this replica. Returns its last word, whose hits are the caller's to count, as
 * are its place and its record to give back. A later unpin of an old pinned struct is refused by
 * the recycle count. */
static uint64_t tnmi_tensor_detach(tnmi_tensors *tensors, uint32_t tier, uint32_t index) {
    tnmi_residents *on = &tensors->on[tier];
    tnmi_replica *replica = tnmi_tensor_replica(tensors, tier, index);
    tnmi_base_store32(tnmi_tensor_rep(tensors, replica->content, tier), TNMI_NONE);
    if (replica->node != TNMI_NONE && tnmi_store_heap_has(&on->order, replica->node))
        tnmi_store_heap_drop(&on->order, replica->node);
    replica->node = TNMI_NONE; /* who goes over all records must not follow it */
    uint64_t word = tnmi_base_peek64(&replica->word), next;
    do {
        next = (word + TNMI_RECYCLE) & TNMI_RECYCLES;
    } while (!tnmi_base_swap64(&replica->word, &word, next));
    return word;
}

/* Replicas of the content that hold or will hold bytes. */
static uint32_t tnmi_tensor_copies(const tnmi_tensors *tensors, uint32_t content) {
    uint32_t count = 0;
    for (uint32_t t = 0; t < tensors->tiers; t++) {
        const tnmi_replica *replica = tnmi_tensor_on(tensors, content, t);
        count += replica && !tnmi_tensor_is_home(replica);
    }
    return count;
}

static int tnmi_tensor_is_empty(const tnmi_tensors *tensors, uint32_t content) {
    for (uint32_t t = 0; t < tensors->tiers; t++)
        if (tnmi_tensor_is_ready(tnmi_tensor_on(tensors, content, t))) return 0;
    return 1;
}

/* Adopted memory that is not ours to write. */
static int tnmi_tensor_is_lent(const tnmi_tensors *tensors, const tnmi_replica *replica) {
    return replica && replica->node == TNMI_NONE && replica->segment != TNMI_NONE &&
           !tnmi_tensor_region(tensors, replica->segment)->writable;
}

/* ALONE says whether a WRITE hit needs to drop anything: kept true whenever replicas come or go. */
static void tnmi_tensor_set_alone(tnmi_tensors *tensors, uint32_t content) {
    int only = tnmi_tensor_copies(tensors, content) == 1;
    for (uint32_t t = 0; t < tensors->tiers; t++) {
        tnmi_replica *replica = tnmi_tensor_on(tensors, content, t);
        if (!replica || tnmi_tensor_is_home(replica)) continue;
        int alone = only && !tnmi_tensor_is_lent(tensors, replica);
        tnmi_tensor_mark(replica, alone ? TNMI_ALONE : 0, alone ? 0 : TNMI_ALONE);
    }
}

/* The adopted region of a range: the last one if it is the same, else a new one. */
static uint32_t tnmi_tensor_adopt(tnmi_tensors *tensors, const tnm_adopt_desc *desc) {
    tnmi_region wanted;
    memset(&wanted, 0, sizeof wanted);
    wanted.mem = desc->mem;
    wanted.by_host = desc->host && desc->offset == 0;
    if (desc->host && !wanted.by_host)
        wanted.base = (uintptr_t)desc->host - (uintptr_t)desc->offset;
    wanted.released = desc->released;
    wanted.user = desc->user;
    wanted.tier = (uint32_t)desc->tier;
    wanted.writable = desc->writable != 0;
    if (tensors->last_region != TNMI_NONE) {
        tnmi_region *last = tnmi_tensor_region(tensors, tensors->last_region);
        if (last->mem == wanted.mem && last->base == wanted.base &&
            last->released == wanted.released && last->user == wanted.user &&
            last->tier == wanted.tier && last->writable == wanted.writable &&
            last->by_host == wanted.by_host) {
            last->refs++;
            return tensors->last_region;
        }
    }
    uint32_t index = tnmi_store_take(&tensors->regions);
    if (index == TNMI_NONE) return TNMI_NONE;
    wanted.refs = 1;
    *tnmi_tensor_region(tensors, index) = wanted;
    return tensors->last_region = index;
}

static void tnmi_tensor_unadopt(tnmi_tensors *tensors, uint32_t index) {
    tnmi_region *region = tnmi_tensor_region(tensors, index);
    if (--region->refs > 0) return;
    if (tensors->last_region == index) tensors->last_region = TNMI_NONE;
    tnmi_store_give(&tensors->regions, index);
}

/* [hint] -------------------------------------------------------------------- *
 * Foresight: lanes, cycles, single uses, and the next use that follows.        *
 * Calls: base tell store tensor.                                               *
 * Invariants: every use is in the list of its content and, by step, in its     *
 * lane's cycle or in its lane's tree of single uses, or it is recorded or of a *
 * cycle in the making, foretells nothing yet, and may outlive its content; a   *
 * single use of a past step is over, and goes soon; a distance is in ticks of  *
 * the context's clock, so that lanes and ages compare.                         *
 * -------------------------------------------------------------------------- */
enum {
    TNMI_USE_SINGLE = 1,
    TNMI_USE_SURE = 2,
    TNMI_USE_REFUSED = 4, /* counted */
    TNMI_USE_DONE = 8     /* in the lane's present step, and what was used has left since */
};
#    define TNMI_NEVER UINT64_MAX

typedef struct tnmi_use {
    uint64_t step;
    uint32_t content, same; /* next use of the same content; free: next free; in no list of a
                               content: which one of the slot it is */
    uint32_t next, prev;    /* in the lane's cycle; a single use: its later and earlier child */
    uint32_t up;            /* a single use: its parent; a cycle's: its set and place in its step */
    uint8_t tier, lane, flags, access;
} tnmi_use;

/* `up` of a cycle's use: what its set is known by (all ones: nothing), and its place in its step */
enum { TNMI_USE_PLACE_BITS = 12, TNMI_USE_PLACES = 1 << TNMI_USE_PLACE_BITS };

static uint32_t tnmi_hint_set(const tnmi_use *use) {
    return use->up >> TNMI_USE_PLACE_BITS;
}

static uint32_t tnmi_hint_place(const tnmi_use *use) {
    return use->up & (TNMI_USE_PLACES - 1u);
}

static void tnmi_hint_put(tnmi_use *use, uint32_t set, uint32_t place) {
    uint32_t last = TNMI_USE_PLACES - 1u;
    use->up = set << TNMI_USE_PLACE_BITS | (place < last ? place : last);
}

/* What a lane has to do with the pins that are taken: they are noted, in sets or by the steps that
 * were told meanwhile, until one did not fit; they tell the lane its steps. */
enum { TNMI_LANE_RECORDS = 1, TNMI_LANE_TOLD = 2, TNMI_LANE_FULL = 4, TNMI_LANE_FOLLOWS = 8 };

typedef struct tnmi_record { /* of a lane: what was pinned since tnm_record, in order */
    uint32_t first, last;    /* uses, through `next` */
    uint32_t count, sets;    /* uses; sets that differ from the one before, less one */
    uint32_t set;            /* what the last set is known by */
    uint32_t untold;         /* uses before the first step that was told: they belong to `before` */
    uint64_t before;
    uint64_t began, clock; /* the first step; the clock when it was asked for */
    uint64_t latest;       /* the clock at the first pin of the last set */
} tnmi_record;

typedef struct tnmi_lane {
    uint64_t step;
    uint64_t began;        /* clock when this step began */
    uint64_t pace;         /* ticks a step, times 16; what distances are told in */
    uint64_t mean;         /* the same, averaged as the steps come; `pace` follows in strides */
    uint64_t told, reach;  /* the last step of a sure single use; how many steps ahead they come */
    uint32_t cycle, last;  /* its first use and its last */
    uint32_t cursor;       /* the first use of this step or later, NONE = wrapped; may lag */
    uint32_t single, root; /* single uses: the first, and the tree of all */
    uint32_t paces;        /* steps in the average */
    uint32_t cycle_count, period;
    uint32_t turn; /* cycles that were begun: whose is put in piece by piece sees the next by it */
    int stepped, wraps; /* wraps: the end of the cycle lies between the cursor and this step */
    uint32_t watch;     /* TNMI_LANE_* */
    tnmi_record record;
} tnmi_lane;

/* The lane behind the application's: guesses the engine tells itself; a step is a tick. */
enum { TNMI_LANE_LEARNED = TNM_MAX_LANES, TNMI_LANES = TNM_MAX_LANES + 1, TNMI_FORETOLD = 256 };

typedef struct tnmi_habit { /* what TNM_POLICY_AUTO has learned of a content */
    uint32_t last;          /* the clock at the latest use that was seen, its low half */
    uint16_t gap;           /* mean ticks from use to use: 11 bits, shifted left by the other 5 */
    uint8_t spread;         /* mean deviation from that, in 64ths of it; 255 = that or more */
    uint8_t uses;           /* seen; 0 = none, 255 = that or more */
} tnmi_habit;

/* One left, another stayed, and age alone would have had it the other way round than age by
 * frequency: whichever is used first, the choice against it was the better one. */
typedef struct tnmi_duel {
    uint32_t left, stayed;   /* contents; 0 = no duel */
    uint32_t last;           /* of the one that stayed, as in its habit */
    uint8_t tier, frequency; /* 1 = frequency would have it so, 0 = age */
} tnmi_duel;

enum { TNMI_DUELS = 64, TNMI_SURE_ENOUGH = 52429, TNMI_ONE = 65536 };

typedef struct tnmi_learning {
    tnmi_table habits; /* by content; nothing but under TNM_POLICY_AUTO */
    int on;
    uint32_t right[3]; /* of TNMI_ONE: how often one gap, two, more that agree foretold the next */
    uint32_t foretold; /* uses in the lane */
    int by_frequency;  /* where nothing is regular, frequency divides age */
    int32_t score;     /* of TNMI_ONE: what duels say for that */
    uint32_t fought;
    tnmi_duel duel[TNMI_DUELS];
} tnmi_learning;

typedef struct tnmi_hints {
    tnmi_table uses;
    tnmi_learning learned;
    tnmi_lane lane[TNMI_LANES];
    uint64_t falls;    /* changes after which many a key may be lower than it was recorded */
    uint32_t watching; /* lanes that record or follow: pins are shown to them */
    uint32_t loose;    /* uses only a call under way knows of */
} tnmi_hints;

static tnmi_use *tnmi_hint_use(const tnmi_hints *hints, uint32_t index) {
    return (tnmi_use *)tnmi_store_at(&hints->uses, index);
}

/* `habits`: of how many contents they may be learned, 0 = nothing is. */
static void tnmi_hint_init(tnmi_hints *hints, uint32_t max_uses, uint32_t habits, int fixed) {
    memset(hints, 0, sizeof *hints);
    hints->learned.on = habits > 0;
    hints->learned.right[2] = TNMI_ONE - 1; /* until shown to be wrong */
    tnmi_store_init(&hints->learned.habits, "max_tensors", sizeof(tnmi_habit), 0, habits, fixed);
    tnmi_store_init(&hints->uses, "max_uses", sizeof(tnmi_use), offsetof(tnmi_use, same), max_uses,
                    fixed);
    for (int i = 0; i < TNMI_LANES; i++) {
        tnmi_lane *lane = &hints->lane[i];
        lane->cycle = lane->last = lane->cursor = lane->single = lane->root = TNMI_NONE;
        lane->record.first = lane->record.last = TNMI_NONE;
        lane->pace = lane->mean = 16;
    }
}

/* ---- lists ---- */
static uint32_t tnmi_hint_new(tnmi_hints *hints, tnmi_tensor *content, const tnmi_use *fields) {
    uint32_t index = tnmi_store_take(&hints->uses);
    tnmi_use *use = tnmi_hint_use(hints, index);
    *use = *fields;
    use->next = use->prev = use->up = TNMI_NONE;
    use->same = content->use;
    content->use = index;
    return index;
}

/* Out of its lane's cycle; its content's list is the caller's. */
static void tnmi_hint_unlink_cyclic(tnmi_hints *hints, uint32_t index) {
    uint32_t next = tnmi_hint_use(hints, index)->next, prev = tnmi_hint_use(hints, index)->prev;
    tnmi_lane *lane = &hints->lane[tnmi_hint_use(hints, index)->lane];
    if (prev == TNMI_NONE)
        lane->cycle = next;
    else
        tnmi_hint_use(hints, prev)->next = next;
    if (next == TNMI_NONE)
        lane->last = prev;
    else
        tnmi_hint_use(hints, next)->prev = prev;
    if (lane->cursor == index) lane->cursor = next;
    lane->cycle_count--;
}

/* ---- single uses: a lane's treap by step, equals in the order in which they were told. A node's
 * rank is a hash of its index (Seidel and Aragon, "Randomized search trees", 1996): the same calls
 * build the same tree, and its depth is O(log n) as if the ranks were drawn ---- */
static uint64_t tnmi_hint_rank(uint32_t index) {
    return tnmi_base_mix(tnmi_base_mix(0, (uint64_t)index + 1), index);
}

static uint32_t *tnmi_hint_child(tnmi_use *use, int later) {
    return later ? &use->next : &use->prev;
}

/* Where the tree holds this node: in its parent, or at the root. */
static uint32_t *tnmi_hint_holder(tnmi_hints *hints, uint32_t index) {
    const tnmi_use *use = tnmi_hint_use(hints, index);
    if (use->up == TNMI_NONE) return &hints->lane[use->lane].root;
    tnmi_use *up = tnmi_hint_use(hints, use->up);
    return tnmi_hint_child(up, up->next == index);
}

/* A node takes its parent's place; the parent becomes its child. */
static void tnmi_hint_lift(tnmi_hints *hints, uint32_t index) {
    tnmi_use *use = tnmi_hint_use(hints, index);
    uint32_t above = use->up;
    tnmi_use *up = tnmi_hint_use(hints, above);
    int later = up->next == index;
    uint32_t *inner = tnmi_hint_child(use, !later);
    *tnmi_hint_holder(hints, above) = index;
    *tnmi_hint_child(up, later) = *inner;
    if (*inner != TNMI_NONE) tnmi_hint_use(hints, *inner)->up = above;
    *inner = above;
    use->up = up->up;
    up->up = index;
}

/* The single use behind this one, in the order of their steps. */
static uint32_t tnmi_hint_after(const tnmi_hints *hints, uint32_t index) {
    uint32_t at = tnmi_hint_use(hints, index)->next;
    if (at != TNMI_NONE) {
        while (tnmi_hint_use(hints, at)->prev != TNMI_NONE)
            at = tnmi_hint_use(hints, at)->prev;
        return at;
    }
    at = tnmi_hint_use(hints, index)->up;
    while (at != TNMI_NONE && tnmi_hint_use(hints, at)->next == index) {
        index = at;
        at = tnmi_hint_use(hints, at)->up;
    }
    return at;
}

static void tnmi_hint_link_single(tnmi_hints *hints, uint32_t index) {
    tnmi_use *use = tnmi_hint_use(hints, index);
    tnmi_lane *lane = &hints->lane[use->lane];
    uint32_t *at = &lane->root;
    use->up = TNMI_NONE;
    while (*at != TNMI_NONE) {
        use->up = *at;
        at = tnmi_hint_child(tnmi_hint_use(hints, *at),
                             tnmi_hint_use(hints, *at)->step <= use->step);
    }
    *at = index;
    while (use->up != TNMI_NONE && tnmi_hint_rank(index) > tnmi_hint_rank(use->up))
        tnmi_hint_lift(hints, index);
    if (lane->single == TNMI_NONE || use->step < tnmi_hint_use(hints, lane->single)->step)
        lane->single = index;
}

/* Out of its lane's tree; its content's list is the caller's. */
static void tnmi_hint_unlink_single(tnmi_hints *hints, uint32_t index) {
    tnmi_use *use = tnmi_hint_use(hints, index);
    tnmi_lane *lane = &hints->lane[use->lane];
    if (lane->single == index) lane->single = tnmi_hint_after(hints, index);
    hints->learned.foretold -= use->lane == TNMI_LANE_LEARNED;
    while (use->next != TNMI_NONE || use->prev != TNMI_NONE) {
        int later = use->prev == TNMI_NONE;
        if (use->prev != TNMI_NONE && use->next != TNMI_NONE)
            later = tnmi_hint_rank(use->next) > tnmi_hint_rank(use->prev);
        tnmi_hint_lift(hints, *tnmi_hint_child(use, later));
    }
    *tnmi_hint_holder(hints, index) = TNMI_NONE;
}

static void tnmi_hint_delete_single(tnmi_hints *hints, const tnmi_tensors *tensors,
                                    uint32_t index) {
    const tnmi_use *use = tnmi_hint_use(hints, index);
    uint32_t *at = &tnmi_tensor_at(tensors, use->content)->use;
    while (*at != index)
        at = &tnmi_hint_use(hints, *at)->same;
    *at = use->same;
    tnmi_hint_unlink_single(hints, index);
    tnmi_store_give(&hints->uses, index);
}

/* Uses of a content go, by one walk over its list: those in the cycles of some lanes, and single
 * ones of some (as bits); no more than *most. 0 = there are more. */
static int tnmi_hint_forget_some(tnmi_hints *hints, const tnmi_tensors *tensors, uint32_t content,
                                 uint32_t cycles, uint32_t singles, uint32_t *most) {
    uint32_t *at = &tnmi_tensor_at(tensors, content)->use;
    while (*at != TNMI_NONE) {
        uint32_t index = *at;
        tnmi_use *use = tnmi_hint_use(hints, index);
        int single = (use->flags & TNMI_USE_SINGLE) != 0;
        if (!((single ? singles : cycles) >> use->lane & 1u)) {
            at = &use->same;
            continue;
        }
        if ((*most)-- == 0) return 0;
        *at = use->same;
        if (single)
            tnmi_hint_unlink_single(hints, index);
        else
            tnmi_hint_unlink_cyclic(hints, index);
        tnmi_store_give(&hints->uses, index);
    }
    return 1;
}

/* Take back the single uses of a content. */
static void tnmi_hint_forget_singles(tnmi_hints *hints, const tnmi_tensors *tensors,
                                     uint32_t content) {
    uint32_t most = TNMI_NONE;
    tnmi_hint_forget_some(hints, tensors, content, 0, TNMI_NONE, &most);
}

/* A lane that begins at step 1000 does not look 1000 steps ahead: before the first it has no reach.
 * Its reach is the farthest it told ahead, until it tells nothing for as long: were it what is left
 * of that, every key would move as the steps go by. */
static void tnmi_hint_extend(tnmi_hints *hints, tnmi_lane *lane, uint64_t step) {
    uint64_t ahead = tnmi_base_less(lane->told, step);
    if (tnmi_base_less(step, lane->told) > lane->reach) lane->reach = 0;
    if (!lane->stepped || ahead <= lane->reach) return;
    lane->reach = ahead;
    hints->falls++;
}

/* A sure one also says that this content's uses are told as far as the lane's are. */
static void tnmi_hint_add_single(tnmi_hints *hints, const tnmi_tensors *tensors,
                                 const tnmi_use *fields) {
    tnmi_tensor *content = tnmi_tensor_at(tensors, fields->content);
    tnmi_lane *lane = &hints->lane[fields->lane];
    uint32_t index = tnmi_hint_new(hints, content, fields);
    tnmi_hint_link_single(hints, index);
    if (!(fields->flags & TNMI_USE_SURE)) return;
    tnmi_tensor_set_field(content, TNMI_TOLD_SHIFT, 4, fields->lane + 1u);
    lane->told = tnmi_base_max(lane->told, fields->step);
    tnmi_hint_extend(hints, lane, lane->step);
}

/* All uses of a content go, when it goes. */
static void tnmi_hint_forget(tnmi_hints *hints, const tnmi_tensors *tensors, uint32_t content) {
    uint32_t most = TNMI_NONE;
    tnmi_hint_forget_some(hints, tensors, content, TNMI_NONE, TNMI_NONE, &most);
}

static uint32_t *tnmi_hint_next_at(void *of, uint32_t index) {
    return &tnmi_hint_use((tnmi_hints *)of, index)->next;
}

static int tnmi_hint_before(void *of, uint32_t a, uint32_t b) {
    return tnmi_hint_use((tnmi_hints *)of, a)->step < tnmi_hint_use((tnmi_hints *)of, b)->step;
}

/* ---- loose uses: of a cycle in the making, or of one that was recorded and is not wanted. Only
 * the call under way knows of them; a list through `next` ---- */
static uint32_t tnmi_hint_loose(tnmi_hints *hints, const tnmi_tensors *tensors,
                                const tnmi_use *fields, uint32_t next) {
    uint32_t index = tnmi_store_take(&hints->uses);
    tnmi_use *use = tnmi_hint_use(hints, index);
    *use = *fields;
    use->same = tnmi_tensor_life(tnmi_tensor_at(tensors, use->content));
    use->next = next;
    use->prev = use->up = TNMI_NONE;
    hints->loose++;
    return index;
}

static uint32_t tnmi_hint_drop(tnmi_hints *hints, uint32_t index) { /* returns the next */
    uint32_t next = tnmi_hint_use(hints, index)->next;
    hints->loose--;
    tnmi_store_give(&hints->uses, index);
    return next;
}

/* By their steps. Nobody else touches them: the lock may be open. */
static uint32_t tnmi_hint_sort(tnmi_hints *hints, uint32_t list) {
    tnmi_order order;
    order.of = hints;
    order.next = tnmi_hint_next_at;
    order.before = tnmi_hint_before;
    return tnmi_store_sort(&order, list);
}

/* The first of a content's latest uses if it is of the same step of the same lane and tier. */
static tnmi_use *tnmi_hint_twin(tnmi_hints *hints, const tnmi_tensor *content,
                                const tnmi_use *use) {
    for (uint32_t i = content->use; i != TNMI_NONE; i = tnmi_hint_use(hints, i)->same) {
        tnmi_use *other = tnmi_hint_use(hints, i);
        if ((other->flags & TNMI_USE_SINGLE) || other->lane != use->lane) continue;
        if (other->step != use->step) break;
        if (other->tier == use->tier) return other;
    }
    return NULL;
}

/* A loose use becomes the last of its lane's cycle, if its content still is; its step is no smaller
 * than those that are there. Of recorded ones what one step pins twice is one use, which is fetched
 * if its first pin reads; they come latest pin first. Returns the next loose one. */
static uint32_t tnmi_hint_append(tnmi_hints *hints, const tnmi_tensors *tensors, uint32_t index,
                                 int recorded) {
    tnmi_use *use = tnmi_hint_use(hints, index);
    tnmi_lane *lane = &hints->lane[use->lane];
    tnmi_tensor *content = tnmi_tensor_at(tensors, use->content);
    uint32_t next = use->next;
    if (!tnmi_tensor_lives(content, use->same)) return tnmi_hint_drop(hints, index);
    tnmi_use *twin = recorded ? tnmi_hint_twin(hints, content, use) : NULL;
    if (twin) {
        if (use->access != TNM_READ)
            twin->access = use->access;
        else if (twin->access != TNM_READ)
            twin->access = TNM_WRITE;
        return tnmi_hint_drop(hints, index);
    }
    hints->loose--;
    use->same = content->use;
    content->use = index;
    use->next = TNMI_NONE;
    use->prev = lane->last;
    if (lane->last == TNMI_NONE)
        lane->cycle = index;
    else
        tnmi_hint_use(hints, lane->last)->next = index;
    lane->last = index;
    lane->cycle_count++;
    if (lane->cursor == TNMI_NONE && !lane->wraps && use->step >= lane->step % lane->period)
        lane->cursor = index;
    return next;
}

/* ---- time ---- */
static uint64_t tnmi_hint_ticks(const tnmi_lane *lane, uint64_t steps) {
    return tnmi_base_scale(steps, lane->pace, 16);
}

/* Steps are averaged over the last 64. Keys are recorded and compared later, so the pace they are
 * told in keeps still until the average is half as large again, or as small. */
static void tnmi_hint_measure(tnmi_hints *hints, tnmi_lane *lane, uint64_t ticks, uint64_t steps) {
    uint64_t pace = tnmi_base_max(tnmi_base_scale(ticks, 16, steps), 16);
    if (lane->paces < 64) lane->paces++;
    if (pace > lane->mean)
        lane->mean += (pace - lane->mean + lane->paces - 1) / lane->paces;
    else
        lane->mean -= (lane->mean - pace) / lane->paces;
    if (lane->mean / 3 < lane->pace / 2 && lane->pace / 3 < lane->mean / 2) return;
    hints->falls += lane->mean > lane->pace;
    lane->pace = lane->mean;
}

/* The lane's step begins at this clock. The uses that it passes, and the single ones that are over,
 * are the caller's. */
static void tnmi_hint_step(tnmi_hints *hints, uint32_t lane_index, uint64_t step, uint64_t clock) {
    tnmi_lane *lane = &hints->lane[lane_index];
    if (lane->stepped && step > lane->step)
        tnmi_hint_measure(hints, lane, clock - lane->began, step - lane->step);
    if (lane->period && (step < lane->step || step / lane->period != lane->step / lane->period))
        lane->wraps = 1;
    lane->stepped = 1;
    if (step < lane->step) lane->told = step; /* a restart: of these nobody told yet */
    tnmi_hint_extend(hints, lane, step);
    lane->step = step;
    lane->began = clock;
}

/* Steps until a use happens next; `used` = it has already happened at the lane's present step. */
static uint64_t tnmi_hint_steps(const tnmi_lane *lane, const tnmi_use *use, int used) {
    if (use->flags & TNMI_USE_SINGLE) {
        if (use->step > lane->step) return use->step - lane->step;
        return used || use->step < lane->step ? TNMI_NEVER : 0;
    }
    uint64_t now = lane->step % lane->period;
    uint64_t steps = use->step >= now ? use->step - now : use->step + lane->period - now;
    return steps == 0 && used ? lane->period : steps;
}

/* Does a use on tier `use` need bytes of tier `tier`? below[use] has a bit for each tier of its
 * spill path, itself included. */
static int tnmi_hint_serves(const uint64_t *below, uint32_t use, uint32_t tier) {
    return (int)((below[use] >> tier) & 1u);
}

/* ---- record and replay: a lane's cycle from what was pinned, and its steps from what is ---- */
static void tnmi_hint_watch(tnmi_hints *hints, uint32_t lane_index, uint32_t set, uint32_t clear) {
    tnmi_lane *lane = &hints->lane[lane_index];
    lane->watch = (lane->watch & ~clear) | set;
    hints->watching = 0;
    for (uint32_t l = 0; l < TNM_MAX_LANES; l++)
        if (hints->lane[l].watch & (TNMI_LANE_RECORDS | TNMI_LANE_FOLLOWS))
            hints->watching |= (uint32_t)1 << l;
}

/* What was noted so far is loose now, and the caller's to drop. */
static uint32_t tnmi_hint_detach(tnmi_hints *hints, uint32_t lane_index) {
    tnmi_record *record = &hints->lane[lane_index].record;
    uint32_t list = record->first;
    hints->loose += record->count;
    memset(record, 0, sizeof *record);
    record->first = record->last = TNMI_NONE;
    return list;
}

static uint32_t tnmi_hint_record(tnmi_hints *hints, uint32_t lane_index, uint64_t clock) {
    uint32_t list = tnmi_hint_detach(hints, lane_index);
    hints->lane[lane_index].record.began = hints->lane[lane_index].step;
    hints->lane[lane_index].record.clock = clock;
    tnmi_hint_watch(hints, lane_index, TNMI_LANE_RECORDS, TNMI_LANE_TOLD | TNMI_LANE_FULL);
    return list;
}

/* The application tells the lane's steps: nobody else does from now on. A pass that is recorded by
 * them begins with the first, and anew with a smaller one. Returns what is loose by that. */
static uint32_t tnmi_hint_tell(tnmi_hints *hints, uint32_t lane_index, uint64_t step) {
    tnmi_lane *lane = &hints->lane[lane_index];
    uint64_t clock = lane->record.clock;
    uint32_t list = TNMI_NONE;
    if (lane->watch & TNMI_LANE_FOLLOWS) tnmi_hint_watch(hints, lane_index, 0, TNMI_LANE_FOLLOWS);
    if (!(lane->watch & TNMI_LANE_RECORDS)) return TNMI_NONE;
    int first = !(lane->watch & TNMI_LANE_TOLD);
    if (step < lane->step) list = tnmi_hint_detach(hints, lane_index);
    if (step < lane->step || (first && lane->record.count == 0)) lane->record.began = step;
    lane->record.clock = clock;
    if (first) { /* what came before belongs to the step that ends */
        lane->record.untold = lane->record.count;
        lane->record.before = lane->step;
    }
    tnmi_hint_watch(hints, lane_index, TNMI_LANE_TOLD, step < lane->step ? TNMI_LANE_FULL : 0);
    return list;
}

/* What a set is known by: its contents and tiers, in whatever order. Never TNMI_NONE. */
static uint32_t tnmi_hint_name(uint32_t name, uint32_t content, uint32_t tier) {
    uint64_t hash = tnmi_base_mix(tnmi_base_mix(0, content), tier + 1u);
    return (name + (uint32_t)(hash ^ hash >> 32)) & (TNMI_NONE >> (TNMI_USE_PLACE_BITS + 1));
}

/* A set was pinned: one member of it, noted with the set's name; `same` of it says which content of
 * its slot it is, which may go. The same set again is the same step, and so is what a told step
 * pins. 0 = the table is full. */
static int tnmi_hint_note(tnmi_hints *hints, uint32_t lane_index, uint32_t name,
                          const tnmi_use *fields) {
    tnmi_lane *lane = &hints->lane[lane_index];
    tnmi_record *record = &lane->record;
    uint32_t index = tnmi_store_take(&hints->uses);
    if (index == TNMI_NONE) return 0;
    if (record->count > 0 && record->set != name) record->sets++;
    record->set = name;
    tnmi_use *use = tnmi_hint_use(hints, index);
    *use = *fields;
    use->step = lane->watch & TNMI_LANE_TOLD ? lane->step : record->sets;
    use->lane = (uint8_t)lane_index;
    tnmi_hint_put(use, name, 0);
    use->next = use->prev = TNMI_NONE;
    if (record->last == TNMI_NONE)
        record->first = index;
    else
        tnmi_hint_use(hints, record->last)->next = index;
    record->last = index;
    record->count++;
    return 1;
}

/* Recorded uses on their way into a cycle, no more than `most`: they get their step in its period
 * and are turned round, onto `onto`; those of contents that have gone go too. */
static uint32_t tnmi_hint_turn(tnmi_hints *hints, const tnmi_tensors *tensors, uint32_t list,
                               tnmi_record *record, int told, uint32_t period, int most,
                               uint32_t *onto) {
    for (; list != TNMI_NONE && most > 0; most--) {
        uint32_t index = list;
        tnmi_use *use = tnmi_hint_use(hints, index);
        int untold = record->untold > 0;
        record->untold -= untold != 0;
        if (!tnmi_tensor_lives(tnmi_tensor_at(tensors, use->content), use->same)) {
            list = tnmi_hint_drop(hints, index);
            continue;
        }
        use->step = (untold ? record->before : use->step) % period;
        if (told) use->up = TNMI_NONE;
        list = use->next;
        use->next = *onto;
        *onto = index;
    }
    return list;
}

/* The first use in the cycle behind the lane's present step, or that step's own. */
static uint32_t tnmi_hint_ahead(const tnmi_hints *hints, const tnmi_lane *lane, int behind) {
    uint64_t now = lane->step % lane->period;
    uint32_t i = lane->cursor;
    while (behind && i != TNMI_NONE && tnmi_hint_use(hints, i)->step == now)
        i = tnmi_hint_use(hints, i)->next;
    return i == TNMI_NONE ? lane->cycle : i;
}

/* A set of this name, with this content on this tier among its members, is about to be pinned. How
 * many steps of a lane that follows has it come on by that: none for the set of the present step
 * (asked for again), one for the next, or to wherever such a set stands, the nearest ahead; none
 * for one it does not know. */
static uint64_t tnmi_hint_advance(const tnmi_hints *hints, const tnmi_tensors *tensors,
                                  uint32_t lane_index, uint32_t name, uint32_t content,
                                  uint32_t tier) {
    const tnmi_lane *lane = &hints->lane[lane_index];
    uint64_t best = 0;
    if (lane->cycle == TNMI_NONE) return 0;
    uint64_t now = lane->step % lane->period;
    const tnmi_use *at = tnmi_hint_use(hints, tnmi_hint_ahead(hints, lane, 0));
    if (at->step == now && tnmi_hint_set(at) == name) return 0;
    at = tnmi_hint_use(hints, tnmi_hint_ahead(hints, lane, 1));
    if (at->step == (now + 1) % lane->period && tnmi_hint_set(at) == name) return 1;
    for (uint32_t i = tnmi_tensor_at(tensors, content)->use; i != TNMI_NONE;) {
        at = tnmi_hint_use(hints, i);
        i = at->same;
        if ((at->flags & TNMI_USE_SINGLE) || at->lane != lane_index || at->tier != tier) continue;
        uint64_t steps = tnmi_hint_steps(lane, at, 0);
        if (tnmi_hint_set(at) != name || steps == 0) continue;
        if (best == 0 || steps < best) best = steps;
    }
    return best;
}

/* Ticks until the content is needed on (or through) a tier; TNMI_NEVER = nobody said. `stamp` is
 * when it was last pinned there. O(uses of this content). */
static inline uint64_t tnmi_hint_distance(const tnmi_hints *hints, const tnmi_tensor *content,
                                          const uint64_t *below, uint32_t tier, uint64_t stamp) {
    uint64_t best = TNMI_NEVER;
    for (uint32_t i = content->use; i != TNMI_NONE && best > 0;) {
        const tnmi_use *use = tnmi_hint_use(hints, i);
        const tnmi_lane *lane = &hints->lane[use->lane];
        i = use->same;
        if (!tnmi_hint_serves(below, use->tier, tier) || use->lane == TNMI_LANE_LEARNED) continue;
        uint64_t steps = tnmi_hint_steps(lane, use, lane->stepped && stamp >= lane->began);
        if (steps != TNMI_NEVER) best = tnmi_base_min(best, tnmi_hint_ticks(lane, steps));
    }
    return best;
}

/* A replica last used at `stamp` leaves: the step it was used in does not fetch it again. */
static void tnmi_hint_done(const tnmi_hints *hints, const tnmi_tensor *content, uint32_t tier,
                           uint64_t stamp) {
    for (uint32_t i = content->use; i != TNMI_NONE; i = tnmi_hint_use(hints, i)->same) {
        tnmi_use *use = tnmi_hint_use(hints, i);
        const tnmi_lane *lane = &hints->lane[use->lane];
        if (use->tier == tier && lane->stepped && stamp >= lane->began &&
            tnmi_hint_steps(lane, use, 0) == 0)
            use->flags |= TNMI_USE_DONE;
    }
}

/* Is the content in some lane's cycle? */
static int tnmi_hint_is_cyclic(const tnmi_hints *hints, const tnmi_tensor *content) {
    uint32_t i = content->use;
    while (i != TNMI_NONE && (tnmi_hint_use(hints, i)->flags & TNMI_USE_SINGLE))
        i = tnmi_hint_use(hints, i)->same;
    return i != TNMI_NONE;
}

/* A content whose uses a lane tells, and of whom it told none, is not used for so many ticks. */
static uint64_t tnmi_hint_reach(const tnmi_hints *hints, const tnmi_tensor *content) {
    uint32_t told = tnmi_tensor_field(content, TNMI_TOLD_SHIFT, 4);
    if (!told || hints->lane[told - 1].reach == 0) return 0;
    return tnmi_hint_ticks(&hints->lane[told - 1], hints->lane[told - 1].reach + 1);
}

/* ---- habits: what nobody told is learned from when contents were used. A hit tells no more than
 * it tells anyway, its count and the latest stamp: from both follows the mean gap since they were
 * last looked at, which is when keys are compared and when one is pinned under the lock ---- */
static tnmi_habit *tnmi_hint_habit(const tnmi_hints *hints, uint32_t content) {
    return (tnmi_habit *)tnmi_store_of(&hints->learned.habits, content, sizeof(tnmi_habit));
}

static uint32_t tnmi_hint_gap(const tnmi_habit *habit) {
    return (uint32_t)(habit->gap & 0x7ffu) << (habit->gap >> 11);
}

static void tnmi_hint_set_gap(tnmi_habit *habit, uint32_t ticks) {
    uint32_t shift = ticks < 0x800u ? 0 : tnmi_base_log2(ticks) - 10;
    habit->gap = (uint16_t)(shift << 11 | ticks >> shift);
}

/* `uses` more, the latest at this clock. */
static void tnmi_hint_learn(tnmi_habit *habit, uint64_t clock, uint32_t uses) {
    uint32_t now = (uint32_t)clock, mean = tnmi_hint_gap(habit);
    if (uses == 0) return;
    uint32_t gap = (now - habit->last) / uses, off = gap > mean ? gap - mean : mean - gap;
    if (habit->uses == 1) {
        tnmi_hint_set_gap(habit, gap);
        habit->spread = 0;
    } else if (habit->uses > 1) {
        uint64_t spread = ((uint64_t)mean * habit->spread / 64 + off) / 2;
        mean = (uint32_t)(((uint64_t)mean + gap) / 2);
        tnmi_hint_set_gap(habit, mean);
        habit->spread = (uint8_t)tnmi_base_min(spread * 64 / (mean + 1), 255);
    }
    habit->last = now;
    habit->uses = (uint8_t)tnmi_base_min((uint64_t)habit->uses + uses, 255);
}

/* How far off a regular use may be and still be one. */
static uint32_t tnmi_hint_slack(uint32_t gap) {
    return gap / 5 + 2;
}

/* Do the gaps seen agree? Which of the counts of those that were right is theirs; -1 = no. */
static int tnmi_hint_agree(const tnmi_habit *habit) {
    if (habit->uses < 2 || habit->spread * 5 >= 64) return -1;
    return habit->uses > 3 ? 2 : habit->uses - 2;
}

/* Is it worth to go by it? What holds of contents with fewer gaps holds of those with more. */
static int tnmi_hint_is_regular(const tnmi_hints *hints, const tnmi_habit *habit) {
    for (int i = tnmi_hint_agree(habit); i >= 0; i--)
        if (hints->learned.right[i] >= TNMI_SURE_ENOUGH) return 1;
    return 0;
}

/* A content was used: what had been foretold of it by its gaps was right, or it was not. */
static void tnmi_hint_used(tnmi_hints *hints, uint32_t content, uint64_t clock, uint32_t uses) {
    tnmi_habit *habit = tnmi_hint_habit(hints, content);
    int class_ = tnmi_hint_agree(habit);
    if (class_ >= 0) {
        uint32_t mean = tnmi_hint_gap(habit), gap = ((uint32_t)clock - habit->last) / uses;
        uint32_t off = gap > mean ? gap - mean : mean - gap, *right = &hints->learned.right[class_];
        int before = *right >= TNMI_SURE_ENOUGH;
        *right -= *right / 64;
        if (off <= tnmi_hint_slack(mean)) *right += TNMI_ONE / 64;
        hints->falls += before != (*right >= TNMI_SURE_ENOUGH);
    }
    tnmi_hint_learn(habit, clock, uses);
}

/* The habit with what hits have told since: `hits` of them, the latest at `stamp`. */
static inline tnmi_habit tnmi_hint_now(const tnmi_hints *hints, uint32_t content, uint64_t stamp,
                                       uint32_t hits) {
    tnmi_habit habit = *tnmi_hint_habit(hints, content);
    tnmi_hint_learn(&habit, stamp, hits);
    return habit;
}

/* Ticks until a content of such a habit is used next; TNMI_NEVER = it is not regular, or was not
 * used when it should have been. */
static uint64_t tnmi_hint_due(const tnmi_hints *hints, const tnmi_habit *habit, uint64_t clock) {
    if (!tnmi_hint_is_regular(hints, habit)) return TNMI_NEVER;
    uint32_t gap = tnmi_hint_gap(habit), age = (uint32_t)clock - habit->last;
    if (age > gap && age - gap > tnmi_hint_slack(gap)) return TNMI_NEVER;
    return age < gap ? gap - age : 0;
}

/* The same for what is not regular: as long as it has not been used, and where frequency tells more
 * than age alone, the sooner the more often it was. */
static uint64_t tnmi_hint_idle(uint64_t age, const tnmi_habit *habit, int by_frequency) {
    if (!by_frequency || habit->uses < 2) return age;
    return age / (1 + tnmi_base_log2(habit->uses));
}

static inline uint64_t tnmi_hint_expected(const tnmi_hints *hints, uint32_t content, uint64_t stamp,
                                          uint32_t hits, uint64_t clock) {
    tnmi_habit habit = tnmi_hint_now(hints, content, stamp, hits);
    uint64_t due = tnmi_hint_due(hints, &habit, clock);
    if (due != TNMI_NEVER) return due;
    return tnmi_hint_idle(tnmi_base_less(clock, stamp), &habit, hints->learned.by_frequency);
}

/* ---- duels: age against age by frequency, judged by what is used first ---- */
static void tnmi_hint_judge(tnmi_hints *hints, tnmi_duel *duel, int left_first) {
    tnmi_learning *learned = &hints->learned;
    int32_t won = (duel->frequency != 0) != (left_first != 0) ? TNMI_ONE : -TNMI_ONE;
    int before = learned->by_frequency;
    duel->left = 0;
    learned->score += (won - learned->score) / 128;
    learned->by_frequency = learned->score > (before ? 0 : TNMI_ONE / 10);
    hints->falls += before != learned->by_frequency;
}

/* When a content was used last. It may have gone, and its slot be a view's. */
static uint32_t tnmi_hint_last(const tnmi_hints *hints, const tnmi_tensors *tensors,
                               uint32_t content, uint32_t tier) {
    uint32_t named = tnmi_tensor_at(tensors, content)->flags & (TNMI_NAMED | TNMI_VIEW);
    const tnmi_replica *there = named == TNMI_NAMED ? tnmi_tensor_on(tensors, content, tier) : NULL;
    if (!there || there->node == TNMI_NONE) return tnmi_hint_habit(hints, content)->last;
    uint32_t hits = (uint32_t)(tnmi_base_peek64(&there->word) >> 32) & 0xffffu;
    return tnmi_hint_now(hints, content, tnmi_base_peek64(&there->stamp), hits).last;
}

/* A content that had left is used again. */
static void tnmi_hint_returns(tnmi_hints *hints, const tnmi_tensors *tensors, uint32_t content) {
    for (int i = 0; i < TNMI_DUELS; i++) {
        tnmi_duel *duel = &hints->learned.duel[i];
        if (duel->left != content) continue;
        tnmi_hint_judge(hints, duel,
                        tnmi_hint_last(hints, tensors, duel->stayed, duel->tier) == duel->last);
    }
}

/* One leaves a tier and another stays; the clock and when both were pinned last. */
static void tnmi_hint_fight(tnmi_hints *hints, const tnmi_tensors *tensors, uint32_t tier,
                            uint64_t clock, const tnmi_replica *left, const tnmi_replica *stayed) {
    const tnmi_replica *both[2] = { left, stayed };
    uint64_t age[2], by[2];
    for (int i = 0; i < 2; i++) {
        uint64_t stamp = tnmi_base_peek64(&both[i]->stamp);
        uint32_t hits = (uint32_t)(tnmi_base_peek64(&both[i]->word) >> 32) & 0xffffu;
        tnmi_habit habit = tnmi_hint_now(hints, both[i]->content, stamp, hits);
        age[i] = tnmi_base_less(clock, stamp);
        by[i] = tnmi_hint_idle(age[i], &habit, 1);
        if (tnmi_hint_due(hints, &habit, clock) != TNMI_NEVER) return;
    }
    if ((age[0] > age[1]) == (by[0] > by[1])) return;
    tnmi_duel *duel = &hints->learned.duel[hints->learned.fought++ % TNMI_DUELS];
    if (duel->left && tnmi_hint_last(hints, tensors, duel->stayed, duel->tier) != duel->last)
        tnmi_hint_judge(hints, duel, 0); /* what left has not come back since */
    duel->left = left->content;
    duel->stayed = stayed->content;
    duel->last = tnmi_hint_last(hints, tensors, stayed->content, tier);
    duel->tier = (uint8_t)tier;
    duel->frequency = by[0] > by[1];
}

/* The guesses the engine tells itself of a content end. */
static void tnmi_hint_untell(tnmi_hints *hints, const tnmi_tensors *tensors, uint32_t content) {
    uint32_t most = TNMI_NONE;
    tnmi_hint_forget_some(hints, tensors, content, 0, (uint32_t)1 << TNMI_LANE_LEARNED, &most);
}

/* A content leaves a tier, and its gaps say when it will be wanted there again. */
static void tnmi_hint_foretell(tnmi_hints *hints, const tnmi_tensors *tensors, uint32_t content,
                               uint32_t tier, uint64_t clock) {
    const tnmi_habit *habit = tnmi_hint_habit(hints, content);
    uint64_t due = habit->uses > 2 ? tnmi_hint_due(hints, habit, clock) : TNMI_NEVER;
    tnmi_use use;
    if (due == TNMI_NEVER || hints->learned.foretold >= TNMI_FORETOLD) return;
    if (tnmi_store_spare(&hints->uses) == 0) return;
    memset(&use, 0, sizeof use);
    use.step = clock + due + tnmi_hint_slack(tnmi_hint_gap(habit));
    use.content = content;
    use.tier = (uint8_t)tier;
    use.lane = TNMI_LANE_LEARNED;
    use.flags = TNMI_USE_SINGLE;
    hints->learned.foretold++;
    tnmi_hint_add_single(hints, tensors, &use);
}

/* [policy] ------------------------------------------------------------------ *
 * Pure choices on const data: who leaves, which run of victims, what a         *
 * schedule keeps.                                                              *
 * Calls: base space tensor hint.                                               *
 * One key for all: clock - (expected distance / relative cost). The smallest   *
 * leaves first. With nothing known and equal costs that is the stamp of the    *
 * last pin: LRU. A key seldom falls by itself, so a heap of recorded keys may  *
 * be corrected lazily at its top; when a lane's pace or reach grows, which     *
 * lowers many, [engine] goes over all. Distance over cost: Young, "On-line     *
 * file caching" (1998) for the cost, Belady (1966) for the distance.           *
 * With some uses known: what a lane has told is all there is as far as it has  *
 * told (its reach), so a told content without a known use is not used before   *
 * that, and after it as age suggests: distance = reach + age. So LRU chooses   *
 * among those as long as there is one (Albers, "On the influence of lookahead  *
 * in competitive paging algorithms", 1997), then the farthest use. A content   *
 * nobody tells of has its age alone, on the same axis.                         *
 * -------------------------------------------------------------------------- */
typedef struct tnmi_view { /* what the policy may see of one tier */
    const tnmi_tensors *tensors;
    const tnmi_hints *hints;
    const tnmi_space *space;
    const uint64_t *below;   /* per tier: its spill path, itself included, as bits */
    const uint32_t *cost_in; /* per tier, per byte */
    const uint32_t *cost_out;
    uint32_t tier;
    uint32_t wall; /* kept ones lie below this granule, TNMI_NONE = anywhere */
    uint64_t
        losing; /* tiers whose memory is gone, as bits: what is on record there survives nobody */
    int spill;  /* -1 = a bottom: what is dirty cannot leave */
    int sick;   /* what is dirty cannot leave now */
    /* set while alloc refuses below, in a bottom: what is dirty needs a free gap there */
    const tnmi_space *gaps;
    uint64_t gap_granule, gap_extra;
    uint64_t clock;
} tnmi_view;

#    define TNMI_KEY_KEEP  (UINT64_MAX - 1)
#    define TNMI_KEY_FIRST 1

/* A current replica that stays when the one on `tier` goes: down its spill path, or adopted. */
static uint32_t tnmi_policy_survivor(const tnmi_view *view, uint32_t content, uint32_t tier) {
    uint32_t best = TNMI_NONE;
    for (uint32_t t = 0; t < view->tensors->tiers; t++) {
        const tnmi_replica *other = tnmi_tensor_on(view->tensors, content, t);
        if (t == tier || !tnmi_tensor_is_ready(other) || ((view->losing >> t) & 1u)) continue;
        if (!((view->below[tier] >> t) & 1u) && other->node != TNMI_NONE) continue;
        if (best == TNMI_NONE || view->cost_in[t] < view->cost_in[best]) best = t;
    }
    return best;
}

static int tnmi_policy_is_dirty(const tnmi_view *view, uint32_t content, uint32_t tier) {
    return tnmi_policy_survivor(view, content, tier) == TNMI_NONE;
}

/* Is the content current on a tier that spills into this one? */
static int tnmi_policy_is_above(const tnmi_view *view, uint32_t content, uint32_t tier) {
    for (uint32_t t = 0; t < tier; t++)
        if (((view->below[t] >> tier) & 1u) &&
            tnmi_tensor_is_ready(tnmi_tensor_on(view->tensors, content, t)))
            return 1;
    return 0;
}

/* Cost per byte of losing the replica, in 16ths of the cheapest way back. */
static uint64_t tnmi_policy_cost(const tnmi_view *view, const tnmi_tensor *content,
                                 uint32_t survivor) {
    uint32_t down = view->spill < 0 ? view->tier : (uint32_t)view->spill;
    uint64_t least = view->cost_in[down], cost = least;
    if (survivor != TNMI_NONE)
        cost = view->cost_in[survivor];
    else if (!(tnmi_tensor_advice(content) & TNM_DROPPABLE))
        cost += view->cost_out[down];
    return tnmi_base_max(tnmi_base_scale(cost, 16, least), 16);
}

/* Expected ticks until the replica is pinned again. What is known, a use or that there is none for
 * so long, counts for less the more it costs to lose the replica; what is not is the age as it is,
 * so that ignorance is exact LRU. Under TNM_POLICY_AUTO nothing is unknown. */
static inline uint64_t tnmi_policy_distance(const tnmi_view *view, uint32_t index, uint64_t stamp,
                                            uint32_t hits, uint32_t survivor) {
    const tnmi_tensor *content = tnmi_tensor_at(view->tensors, index);
    uint64_t known = tnmi_hint_distance(view->hints, content, view->below, view->tier, stamp);
    uint64_t age = 0, sum;
    if (known == TNMI_NEVER) {
        known = tnmi_hint_reach(view->hints, content);
        if (known == 0 && view->hints->learned.on)
            known = tnmi_hint_expected(view->hints, index, stamp, hits, view->clock);
        else
            age = tnmi_base_less(view->clock, stamp);
    }
    if (known == 0) return age; /* whatever the cost, which takes two divisions */
    known = tnmi_base_scale(known, 16, tnmi_policy_cost(view, content, survivor));
    return tnmi_base_add(known, age, &sum) ? sum : UINT64_MAX;
}

/* What the schedule keeps here, and where the kept ones lie: one that came to lie in the ring goes
 * with the stream, and is placed anew when it is used next. */
static inline int tnmi_policy_is_kept(const tnmi_view *view, const tnmi_replica *replica) {
    const tnmi_tensor *content = tnmi_tensor_at(view->tensors, replica->content);
    if (tnmi_tensor_field(content, TNMI_KEPT_SHIFT, 7) != view->tier + 1) return 0;
    if (view->wall == TNMI_NONE || replica->node == TNMI_NONE) return 1;
    const tnmi_node *node = tnmi_space_node(view->space, replica->node);
    return node->offset + tnmi_space_size(node) <= view->wall;
}

/* The key a content would have on this tier if it came by now and were used. */
static uint64_t tnmi_policy_key_passing(const tnmi_view *view, uint32_t index) {
    const tnmi_tensor *content = tnmi_tensor_at(view->tensors, index);
    uint32_t advice = tnmi_tensor_advice(content) & 3u;
    if (advice == TNM_WONT_NEED || advice == TNM_ONCE) return TNMI_KEY_FIRST;
    if (advice == TNM_KEEP || tnmi_tensor_field(content, TNMI_KEPT_SHIFT, 7) == view->tier + 1)
        return TNMI_KEY_KEEP;
    uint32_t survivor = tnmi_policy_survivor(view, index, view->tier);
    uint64_t distance = tnmi_policy_distance(view, index, view->clock, 1, survivor);
    return tnmi_base_max(tnmi_base_less(view->clock, distance), TNMI_KEY_FIRST + 2);
}

/* The key the replica has when this is its word; with `split` 0 as if the schedule kept nothing. */
static uint64_t tnmi_policy_key_as(const tnmi_view *view, const tnmi_replica *replica,
                                   uint64_t word, int split) {
    const tnmi_tensor *content = tnmi_tensor_at(view->tensors, replica->content);
    uint64_t stamp = tnmi_base_peek64(&replica->stamp);
    uint32_t advice = tnmi_tensor_advice(content) & 3u;
    if (advice == TNM_WONT_NEED) return TNMI_KEY_FIRST;
    if (advice == TNM_ONCE && !(word & TNMI_FRESH)) return TNMI_KEY_FIRST;
    if (advice == TNM_KEEP || (split && tnmi_policy_is_kept(view, replica))) return TNMI_KEY_KEEP;
    uint32_t survivor =
        word & TNMI_ALONE ? TNMI_NONE : tnmi_policy_survivor(view, replica->content, view->tier);
    if (survivor != TNMI_NONE && tnmi_policy_is_above(view, replica->content, view->tier))
        return TNMI_KEY_FIRST + 1;
    uint32_t hits = (uint32_t)(word >> 32) & 0xffffu;
    uint64_t distance = tnmi_policy_distance(view, replica->content, stamp, hits, survivor);
    return tnmi_base_max(tnmi_base_less(view->clock, distance), TNMI_KEY_FIRST + 2);
}

static uint64_t tnmi_policy_key(const tnmi_view *view, const tnmi_replica *replica) {
    return tnmi_policy_key_as(view, replica, tnmi_base_peek64(&replica->word), 1);
}

typedef enum tnmi_leave {
    TNMI_LEAVE_NOW,   /* nothing stands in the way */
    TNMI_LEAVE_DIRTY, /* once it is written down */
    TNMI_LEAVE_LATER, /* a copy, a claim, another window: ends by itself */
    TNMI_LEAVE_SICK,  /* dirty, and the tier below refuses writes */
    TNMI_LEAVE_STUCK, /* dirty in a bottom tier: may only move */
    TNMI_LEAVE_PINNED
} tnmi_leave;

/* Is this the only place from which a load of a faster tier can read? */
static int tnmi_policy_is_source(const tnmi_view *view, uint32_t content, uint32_t tier) {
    int busy = 0;
    for (uint32_t t = 0; t < view->tensors->tiers; t++) {
        const tnmi_replica *other = tnmi_tensor_on(view->tensors, content, t);
        if (t == tier || !other || ((view->losing >> t) & 1u)) continue;
        if (tnmi_tensor_is_ready(other)) return 0;
        if (!((view->below[tier] >> t) & 1u))
            busy += tnmi_tensor_is(tnmi_base_peek64(&other->word), TNMI_BUSY);
    }
    return busy > 0;
}

/* Would the tier below have a place for the content, if it had to have one now? */
static int tnmi_policy_has_gap(const tnmi_view *view, const tnmi_tensor *content) {
    tnmi_room room;
    uint64_t bytes = content->bytes + view->gap_extra;
    if (!view->gaps) return 1;
    memset(&room, 0, sizeof room);
    room.align = 1;
    room.to = TNMI_NONE;
    room.need = (uint32_t)tnmi_base_min((bytes + view->gap_granule - 1) / view->gap_granule,
                                        TNMI_SPACE_MAX);
    return tnmi_space_find(view->gaps, &room) != TNMI_NONE;
}

static tnmi_leave tnmi_policy_may_leave(const tnmi_view *view, const tnmi_replica *replica) {
    uint64_t word = tnmi_base_load64(&replica->word);
    const tnmi_tensor *content = tnmi_tensor_at(view->tensors, replica->content);
    if (tnmi_tensor_pins(word)) return TNMI_LEAVE_PINNED;
    if (!tnmi_tensor_is(word, TNMI_READY) || (word & (TNMI_SOURCE | TNMI_CLAIM)))
        return TNMI_LEAVE_LATER;
    if (replica->node != TNMI_NONE && tnmi_space_node(view->space, replica->node)->b != 0)
        return TNMI_LEAVE_LATER;
    if (tnmi_policy_is_source(view, replica->content, view->tier)) return TNMI_LEAVE_LATER;
    if (!tnmi_policy_is_dirty(view, replica->content, view->tier)) return TNMI_LEAVE_NOW;
    if (tnmi_tensor_advice(content) & TNM_DROPPABLE) return TNMI_LEAVE_NOW;
    if (view->spill < 0) return TNMI_LEAVE_STUCK;
    return view->sick || !tnmi_policy_has_gap(view, content) ? TNMI_LEAVE_SICK : TNMI_LEAVE_DIRTY;
}

/* A request for a window. Guesses evict nothing needed before `before`, nothing kept and nothing
 * fresh; `clean` windows need no write-back; `low` ones are for a kept tensor, and where that is
 * placed at the end of those that lie close together (`pack`), others may be what is in its way. */
typedef struct tnmi_wish {
    tnmi_room room;
    uint64_t before; /* victims' keys must be smaller */
    int guess, clean, low, pack;
} tnmi_wish;

typedef struct tnmi_window {
    uint32_t first, start, end; /* first node; granules of the run */
    uint64_t kept, cost;
} tnmi_window;

static int tnmi_policy_may_take(const tnmi_view *view, const tnmi_wish *wish,
                                const tnmi_replica *replica, uint64_t *key) {
    tnmi_leave leave = tnmi_policy_may_leave(view, replica);
    if (leave > TNMI_LEAVE_DIRTY || (leave == TNMI_LEAVE_DIRTY && wish->clean)) return 0;
    *key = tnmi_policy_key_as(view, replica, tnmi_base_peek64(&replica->word), !wish->pack);
    if (*key >= wish->before) return 0;
    return !(wish->guess &&
             (*key == TNMI_KEY_KEEP || (tnmi_base_peek64(&replica->word) & TNMI_FRESH)));
}

/* What a node adds to a run; 0 = it is a wall. Cost is granules x 2^33 / (distance + 1): at most
 * 2^62 for a whole segment. */
static int tnmi_policy_weigh(const tnmi_view *view, const tnmi_wish *wish, uint32_t index,
                             uint64_t *kept, uint64_t *cost) {
    const tnmi_node *node = tnmi_space_node(view->space, index);
    uint32_t kind = tnmi_space_kind(node);
    uint64_t key;
    *kept = *cost = 0;
    if (kind == TNMI_SPACE_FREE) return 1;
    if (kind != TNMI_SPACE_USED || node->a == TNMI_NONE) return 0; /* held, or being wiped */
    const tnmi_replica *replica = tnmi_tensor_replica(view->tensors, view->tier, node->a);
    if (!tnmi_policy_may_take(view, wish, replica, &key)) return 0;
    if (key == TNMI_KEY_KEEP)
        *kept = tnmi_space_size(node);
    else
        *cost =
            (((uint64_t)1 << 33) / (tnmi_base_less(view->clock, key) + 1)) * tnmi_space_size(node);
    return 1;
}

static int tnmi_policy_better(const tnmi_window *a, const tnmi_window *b) {
    if (b->first == TNMI_NONE) return 1;
    return a->kept != b->kept ? a->kept < b->kept : a->cost < b->cost;
}

static int tnmi_policy_fits(const tnmi_wish *wish, uint32_t start, uint32_t end) {
    return tnmi_space_fit(start, end, &wish->room) != TNMI_NONE;
}

/* The cheapest run of a segment that makes the room, by two pointers: `run` is what lies between
 * them. Starts at `node`, looks at no more than `most` nodes, improves *best. */
static void tnmi_policy_scan(const tnmi_view *view, const tnmi_wish *wish, uint32_t node,
                             uint32_t most, tnmi_window *best) {
    tnmi_window run;
    uint64_t kept, cost;
    run.first = TNMI_NONE;
    for (uint32_t seen = 0; seen < most; seen++) {
        const tnmi_node *at = tnmi_space_node(view->space, node);
        if (tnmi_space_kind(at) == TNMI_SPACE_EDGE || at->offset >= wish->room.to) return;
        if (at->offset + tnmi_space_size(at) <= wish->room.from ||
            !tnmi_policy_weigh(view, wish, node, &kept, &cost)) {
            run.first = TNMI_NONE;
            node = at->next;
            continue;
        }
        if (run.first == TNMI_NONE) {
            run.first = node;
            run.start = at->offset;
            run.kept = run.cost = 0;
        }
        run.kept += kept;
        run.cost += cost;
        run.end = at->offset + tnmi_space_size(at);
        while (run.first != node) {
            const tnmi_node *first = tnmi_space_node(view->space, run.first);
            uint32_t start = first->offset + tnmi_space_size(first);
            if (!tnmi_policy_fits(wish, start, run.end)) break;
            tnmi_policy_weigh(view, wish, run.first, &kept, &cost);
            run.kept = tnmi_base_less(run.kept, kept);
            run.cost = tnmi_base_less(run.cost, cost);
            run.first = first->next;
            run.start = start;
        }
        if (tnmi_policy_fits(wish, run.start, run.end) && tnmi_policy_better(&run, best)) {
            *best = run;
            if (wish->low && run.kept == 0) return;
        }
        node = at->next;
    }
}

/* Above the wall: one gap, or one victim, that the room fills but for an eighth. Sizes come back as
 * a cycle does, so that each leaves its place to its like and the ring does not break up. The one
 * that wastes least, then the one that leaves first. */
static int tnmi_policy_slot(const tnmi_view *view, const tnmi_wish *wish, uint32_t edge,
                            tnmi_window *out) {
    uint64_t least = wish->room.need / 8, first = UINT64_MAX;
    out->first = TNMI_NONE;
    out->kept = out->cost = 0;
    for (uint32_t i = tnmi_space_node(view->space, edge)->prev, seen = 0; seen < 1024; seen++) {
        const tnmi_node *at = tnmi_space_node(view->space, i);
        uint32_t node = i, kind = tnmi_space_kind(at), end = at->offset + tnmi_space_size(at);
        uint64_t key = 0, waste = tnmi_space_size(at) - (uint64_t)wish->room.need;
        if (kind == TNMI_SPACE_EDGE || end <= wish->room.from) break;
        i = at->prev;
        if (tnmi_space_size(at) < wish->room.need || waste > least) continue;
        if (!tnmi_policy_fits(wish, at->offset, end)) continue;
        if (kind != TNMI_SPACE_FREE) {
            if (kind != TNMI_SPACE_USED || at->a == TNMI_NONE) continue;
            const tnmi_replica *replica = tnmi_tensor_replica(view->tensors, view->tier, at->a);
            if (!tnmi_policy_may_take(view, wish, replica, &key)) continue;
            if (!tnmi_hint_is_cyclic(view->hints, tnmi_tensor_at(view->tensors, replica->content)))
                continue;
        }
        if (waste == least && key >= first) continue;
        least = waste;
        first = key;
        out->first = node;
        out->start = at->offset;
        out->end = end;
    }
    return out->first != TNMI_NONE;
}

/* Below the wall no run without a kept tensor makes the room. Those that lie close together from
 * the low end on stay; the first run behind them is the window, so that more lie so each time. */
static void tnmi_policy_pack(const tnmi_view *view, const tnmi_wish *wish, uint32_t node,
                             tnmi_window *out) {
    int close = 1;
    uint64_t key;
    out->first = TNMI_NONE;
    out->kept = out->cost = 0;
    for (;; node = tnmi_space_node(view->space, node)->next) {
        const tnmi_node *at = tnmi_space_node(view->space, node);
        uint32_t kind = tnmi_space_kind(at);
        if (kind == TNMI_SPACE_EDGE || at->offset >= wish->room.to) break;
        const tnmi_replica *replica = kind == TNMI_SPACE_USED && at->a != TNMI_NONE
                                          ? tnmi_tensor_replica(view->tensors, view->tier, at->a)
                                          : NULL;
        int gap = kind == TNMI_SPACE_FREE && tnmi_space_size(at) >= wish->room.align;
        if (close && (replica ? tnmi_policy_is_kept(view, replica) : !gap)) continue;
        close = kind != TNMI_SPACE_FREE &&
                (!replica || !tnmi_policy_may_take(view, wish, replica, &key));
        if (close)
            out->first = TNMI_NONE;
        else if (out->first == TNMI_NONE) {
            out->first = node;
            out->start = at->offset;
        }
        out->end = at->offset + tnmi_space_size(at);
        if (!close && tnmi_policy_fits(wish, out->start, out->end)) return;
    }
    out->first = TNMI_NONE;
}

/* If this victim with its free neighbours makes the room, that is the window. */
static int tnmi_policy_alone(const tnmi_view *view, const tnmi_wish *wish, uint32_t index,
                             tnmi_window *out) {
    const tnmi_node *node = tnmi_space_node(view->space, index);
    const tnmi_node *left = tnmi_space_node(view->space, node->prev);
    const tnmi_node *right = tnmi_space_node(view->space, node->next);
    out->first = index;
    out->start = node->offset;
    out->end = node->offset + tnmi_space_size(node);
    out->kept = out->cost = 0;
    if (tnmi_policy_fits(wish, out->start, out->end)) return 1;
    if (tnmi_space_kind(right) == TNMI_SPACE_FREE) out->end += tnmi_space_size(right);
    if (tnmi_space_kind(left) == TNMI_SPACE_FREE) {
        out->start = left->offset;
        out->first = node->prev;
    }
    return tnmi_policy_fits(wish, out->start, out->end);
}

/* [engine] ------------------------------------------------------------------ *
 * The only writer across rooms, as a step function: under the lock it returns  *
 * one ask, or that there is nothing to do; the door performs it and brings the *
 * answer.                                                                      *
 * Calls: all above but shelf.                                                  *
 * Invariants: what an ask depends on is marked before the lock opens; pins     *
 * never wait for pins; a request is admitted whole in one locked step or holds *
 * nothing; no replica leaves unless a survivor is current in the same step.    *
 * -------------------------------------------------------------------------- */
typedef enum tnmi_ask_kind {
    TNMI_ASK_DONE,    /* nothing to do now */
    TNMI_ASK_HOST,    /* bytes from the context's allocator for `table` */
    TNMI_ASK_ALLOC,   /* a segment, or staging */
    TNMI_ASK_RELEASE, /* its end */
    TNMI_ASK_COPY,
    TNMI_ASK_SUBMIT,
    TNMI_ASK_POLL,
    TNMI_ASK_WAIT,
    TNMI_ASK_PASSED,
    TNMI_ASK_RELEASED, /* tnm_adopt_desc.released */
    TNMI_ASK_ZERO,     /* fill `host` with zeros */
    TNMI_ASK_BREATH,   /* nothing: the lock goes for a moment, there is more to look at */
    TNMI_ASK_IDLE
} tnmi_ask_kind;

typedef struct tnmi_ask {
    tnmi_ask_kind kind;
    uint32_t tier, index; /* index: segment (TNMI_NONE: staging), copy, queue */
    uint64_t size, align, mem, ticket, value;
    void *host, *item;
    tnmi_table *table;
    const tnm_backend *backend;
    tnm_span dst, src;
    tnmi_region region;
    /* the answer */
    tnm_result result;
    void *got;
} tnmi_ask;

typedef struct tnmi_member { /* of a request: one content on one tier */
    uint64_t bytes;
    uint32_t content, tier, next;
    uint32_t twin;         /* ring of those with the same content, on other tiers */
    uint32_t pins, writes; /* uses in the set, and those of them that write */
    uint8_t access, found, claimed;
} tnmi_member;

typedef struct tnmi_request {
    uint64_t hash;        /* of the set a try_ call asked for */
    uint64_t age;         /* smaller is older */
    uint64_t lapse;       /* tick at which its claims end; TNMI_NEVER = not before it is complete */
    uint64_t round, seen; /* of the last attempt */
    uint64_t pass;        /* in which its windows were found to wait: all are looked at together */
    uint32_t members;     /* largest first */
    uint32_t next, prev;  /* all requests, oldest first */
    uint32_t chain;       /* in its hash bucket */
    uint32_t short_on;    /* the tier it waits for, TNMI_NONE = none */
    tnm_class class_;
    tnm_result result; /* PENDING until it failed */
    int calling;       /* a call waits for it; else a try_ call asked */
    int admitted;
    int empties; /* whole segments go for it, on `short_on` */
} tnmi_request;

enum { TNMI_BUCKETS = 64, TNMI_LAPSE_TICKS = 64, TNMI_OLDEST = 128 };
enum { TNMI_WALK_NODES = 4096, TNMI_REKEYS = 1024, TNMI_LOOK_USES = 256, TNMI_SHIFTS = 8 };
enum { TNMI_GO_OVER = 256, TNMI_EXPIRE = 512 };
enum { TNMI_SOME_NODES = 1024, TNMI_HEAVY = 32, TNMI_ENOUGH = 256 };
enum { TNMI_NEAR = 32, TNMI_NEAR_NODES = 128 }; /* together no more than TNMI_WALK_NODES */
/* of a walk over everything; transfers under way that are enough for a flush of everything */
enum { TNMI_PIECE = 256, TNMI_FLUSHES = 1024 };
#    define TNMI_CLAIMED ((uint32_t)1 << 31) /* in a used node's mark: the rest counts claims */

typedef struct tnmi_shortage { /* the last refusal, as [watch] tells it */
    tnm_result result;
    uint32_t tier;
    uint64_t need;
} tnmi_shortage;

/* Here too what most of the code reads stands first. */
typedef struct tnmi_engine {
    uint64_t clock, tick, round, changed; /* changed counts whatever may let a plan succeed */
    tnmi_table *grow;                     /* a table that must grow before the plan can be made */
    uint32_t oldest_request, newest_request;
    tnmi_tiers tiers;
    tnmi_tell tell;
    tnmi_tensors tensors;
    tnmi_move move;
    tnmi_hints hints;
    tnmi_table members, requests, fences;
    uint32_t bucket[TNMI_BUCKETS];
    uint32_t fence_head[TNMI_QUEUES], fence_tail[TNMI_QUEUES], fence_count;
    uint32_t gone[TNM_MAX_TIERS]; /* adopted replicas whose `released` has to be called */
    uint32_t cost_in[TNM_MAX_TIERS], cost_out[TNM_MAX_TIERS];
    uint32_t cost_most; /* of cost_in */
    uint64_t below[TNM_MAX_TIERS];
    uint64_t busy_round[TNM_MAX_TIERS]; /* the round in which this backend's queue was full */
    uint64_t plan_round, plan_seen, look_round, look_seen;
    uint64_t pass;      /* over the transfers that wait for room */
    uint64_t allowance; /* bytes this pump may still start */
    uint64_t guess_bytes;
    uint64_t grain;      /* the largest granularity of any backend */
    int strict;          /* one with a granularity has no odd ends */
    uint64_t newest_age; /* of a request */
    uint64_t rekeys[TNM_MAX_TIERS];
    /* tnmi_hints.falls when a tier's order was last gone over, and how far that is */
    uint64_t falls[TNM_MAX_TIERS];
    uint32_t gone_over[TNM_MAX_TIERS];
    uint64_t submit; /* tiers that took copies since their last submit, as bits */
    uint64_t left;   /* tiers with copies out and others waiting when the last round ended */
    uint64_t losing; /* tiers with `losing`, as bits */
    uint32_t passed_at;
    uint32_t shifts, shift[TNMI_SHIFTS]; /* operations that move a replica within its tier */
    uint32_t close_at;   /* names, then segments, that the context's end has gone over */
    int stage_likely;    /* two tiers have backends that may not know each other */
    uint32_t stage_wish; /* tier + 1 the application named for staging, 0 = none */
    int collect_only;    /* a pump of 0 bytes hands nothing out */
    int pumping;         /* tnm_pump runs: a backend it finds idle beside work has starved */
    int demand_only;     /* a waiting call: synchronous bytes only for demands */
    int threaded;
    int refused_host; /* the allocator said no during this call */
    int has_passed;   /* the application has a fence callback */
    int closing;
    int rehearsing; /* plans are made and undone: nothing is asked for or taken back */
    tnmi_shortage last;
} tnmi_engine;

/* ---- small words ---- */
static tnmi_tensor *tnmi_engine_content(const tnmi_engine *e, uint32_t content) {
    return tnmi_tensor_at(&e->tensors, content);
}

static tnmi_replica *tnmi_engine_on(const tnmi_engine *e, uint32_t content, uint32_t tier) {
    return tnmi_tensor_on(&e->tensors, content, tier);
}

static tnmi_tier *tnmi_engine_tier(const tnmi_engine *e, uint32_t tier) {
    return &e->tiers.tier[tier];
}

static tnmi_op *tnmi_engine_op(const tnmi_engine *e, uint32_t op) {
    return tnmi_move_op(&e->move, op);
}

/* The transfer that fills a BUSY replica. */
static tnmi_op *tnmi_engine_filling(const tnmi_engine *e, const tnmi_replica *replica) {
    return tnmi_engine_op(e, replica->offset);
}

static uint32_t tnmi_engine_index(const tnmi_engine *e, uint32_t content, uint32_t tier) {
    return *tnmi_tensor_rep(&e->tensors, content, tier);
}

static int tnmi_engine_is_busy(const tnmi_replica *replica) {
    return replica && tnmi_tensor_is(tnmi_base_load64(&replica->word), TNMI_BUSY);
}

/* Under a schedule's split kept ones lie below this granule and the ring is above it; TNMI_NONE:
 * there is no wall. Only in a tier of one segment, as a budget in one piece is. */
static inline uint32_t tnmi_engine_wall(const tnmi_engine *e, uint32_t tier) {
    const tnmi_tier *t = tnmi_engine_tier(e, tier);
    if (t->kept_bytes == 0 || t->stream_bytes == 0 || t->segment_count != 1) return TNMI_NONE;
    const tnmi_segment *s = tnmi_tier_segment(&e->tiers, t->segments);
    if (s->state != TNMI_SEGMENT_LIVE || s->edge == TNMI_NONE) return TNMI_NONE;
    if (s->size < t->kept_bytes + t->stream_bytes) return TNMI_NONE;
    return (uint32_t)(t->kept_bytes / t->granule);
}

static tnmi_view tnmi_engine_view(const tnmi_engine *e, uint32_t tier) {
    tnmi_view view;
    const tnmi_tier *t = tnmi_engine_tier(e, tier);
    view.tensors = &e->tensors;
    view.hints = &e->hints;
    view.space = &t->space;
    view.below = e->below;
    view.cost_in = e->cost_in;
    view.cost_out = e->cost_out;
    view.tier = tier;
    view.wall = tnmi_engine_wall(e, tier);
    view.losing = e->losing;
    view.spill = t->spill;
    view.sick = tnmi_tier_is_off(&t->sick, e->tick);
    view.gaps = NULL;
    view.gap_granule = view.gap_extra = 0;
    if (t->spill >= 0) {
        const tnmi_tier *down = tnmi_engine_tier(e, (uint32_t)t->spill);
        if (down->spill < 0 && tnmi_tier_is_off(&down->scant, e->tick)) {
            view.gaps = &down->space;
            view.gap_granule = down->granule;
            view.gap_extra = down->desc.tail_bytes + TENSORMEM_REDZONE_BYTES;
        }
    }
    view.clock = tnmi_base_peek64(&e->clock);
    return view;
}

static TNMI_RARE tnm_event *tnmi_engine_new_event(tnmi_engine *e, tnm_event_kind kind,
                                                  uint32_t tier, uint32_t content) {
    tnm_event *event = tnmi_tell_event(&e->tell, kind);
    if (!event) return NULL;
    event->tier = (int)tier;
    if (content != TNMI_NONE) {
        event->tensor = tnmi_tensor_id(&e->tensors, content);
        event->label = tnmi_tensor_label(&e->tensors, content);
        event->bytes = tnmi_engine_content(e, content)->bytes;
    }
    return event;
}

/* The same, asked in line: mostly nobody listens. */
static inline tnm_event *tnmi_engine_event(tnmi_engine *e, tnm_event_kind kind, uint32_t tier,
                                           uint32_t content) {
    return e->tell.events ? tnmi_engine_new_event(e, kind, tier, content) : NULL;
}

static TNMI_RARE void tnmi_engine_log(tnmi_engine *e, tnm_log_level level, tnm_result result,
                                      const char *rule, uint32_t tier, uint32_t content) {
    tnm_log *log = tnmi_tell_log(&e->tell, level, result, rule);
    if (!log) return;
    log->tier = (int)tier;
    if (content == TNMI_NONE) return;
    log->tensor = tnmi_tensor_id(&e->tensors, content);
    log->label = tnmi_tensor_label(&e->tensors, content);
}

/* OK if `need` entries can be taken now; ABSENT if the table must grow first; else why not. */
static tnm_result tnmi_engine_table(tnmi_engine *e, tnmi_table *table, uint32_t need) {
    if (tnmi_store_spare(table) >= need) return TNM_OK;
    if (!tnmi_store_allows(table, need)) return TNM_ERR_CAPACITY;
    if (e->refused_host) return TNM_ERR_MEMORY;
    e->grow = table;
    return TNM_ABSENT;
}

/* The same for the nodes of a tier: what one more place takes of them and of the order of leaving,
 * which has a place for every node and a slot for every one that may be in it. What the open
 * windows will take stays spare: who was admitted needs no memory any more. */
static inline tnm_result tnmi_engine_nodes(tnmi_engine *e, uint32_t tier) {
    const tnmi_table *nodes = &e->tiers.tier[tier].space.nodes;
    tnmi_heap *order = &e->tensors.on[tier].order;
    uint32_t need = 4 + 2 * tnmi_engine_tier(e, tier)->windows;
    if (!tnmi_store_allows(nodes, need)) need = 4; /* there is enough for all there can be */
    tnm_result r = tnmi_engine_table(e, &tnmi_engine_tier(e, tier)->space.nodes, need);
    if (r == TNM_OK && order->places.capacity < nodes->capacity)
        r = tnmi_engine_table(e, &order->places, order->places.capacity + 1);
    if (r == TNM_OK &&
        order->slots.capacity < tnmi_base_min(nodes->live + need, order->slots.limit))
        r = tnmi_engine_table(e, &order->slots, order->slots.capacity + 1);
    return r;
}

/* The clock: exact for one thread, an epoch of slow-path calls for several. */
static void tnmi_engine_advance(tnmi_engine *e) {
    tnmi_base_poke64(&e->clock, tnmi_base_peek64(&e->clock) + 1);
}

/* ---- the order of leaving ---- */
static void tnmi_engine_rekey(tnmi_engine *e, uint32_t tier, uint32_t index) {
    tnmi_heap *order = &e->tensors.on[tier].order;
    const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    if (replica->node == TNMI_NONE || !tnmi_store_heap_has(order, replica->node)) return;
    tnmi_view view = tnmi_engine_view(e, tier);
    tnmi_store_heap_rekey(order, replica->node, tnmi_policy_key(&view, replica));
}

/* What is known of a content changed in a way that may bring its leaving forward. */
static void tnmi_engine_rekey_all(tnmi_engine *e, uint32_t content) {
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        uint32_t index = tnmi_engine_index(e, content, t);
        if (index != TNMI_NONE) tnmi_engine_rekey(e, t, index);
    }
}

/* ---- places ---- */
static void *tnmi_engine_host(const tnmi_engine *e, uint32_t tier, uint32_t segment,
                              uint32_t offset) {
    const tnmi_segment *s = tnmi_tier_segment(&e->tiers, segment);
    if (!s->host) return NULL;
    return (char *)s->host + (size_t)(offset * tnmi_engine_tier(e, tier)->unit);
}

/* An empty drained segment is retired, unless some window still stands in it. */
static void tnmi_engine_try_retire(tnmi_engine *e, uint32_t segment) {
    const tnmi_segment *s = tnmi_tier_segment(&e->tiers, segment);
    if (s->used || s->state != TNMI_SEGMENT_DRAINING) return;
    const tnmi_space *space = &tnmi_engine_tier(e, s->tier)->space;
    if (s->edge != TNMI_NONE)
        for (uint32_t i = tnmi_space_node(space, s->edge)->next; i != s->edge;
             i = tnmi_space_node(space, i)->next)
            if (tnmi_space_node(space, i)->a != TNMI_SPACE_DRAIN) return;
    tnmi_tier_retire(&e->tiers, segment);
}

/* A used node gives its granules back: to the window it stands in, to a drain, or to everyone. A
 * dedicated segment is retired with its tensor. */
static void tnmi_engine_free_node(tnmi_engine *e, uint32_t tier, uint32_t node, uint32_t segment) {
    tnmi_tier *t = tnmi_engine_tier(e, tier);
    tnmi_segment *s = tnmi_tier_segment(&e->tiers, segment);
    tnmi_node *n = tnmi_space_node(&t->space, node);
    uint32_t mark = n->b & TNMI_CLAIMED ? 0 : n->b, holder = tnmi_tier_holder(s);
    if (mark) holder = mark - 1;
    if (s->host)
        tnmi_base_noaccess((char *)s->host + (size_t)(n->offset * t->granule),
                           tnmi_space_size(n) * t->granule);
    s->used--;
    e->changed++;
    if (s->dedicated) {
        t->space.used_granules -= tnmi_space_size(n);
        tnmi_store_give(&t->space.nodes, node);
        tnmi_tier_retire(&e->tiers, segment);
        return;
    }
    tnmi_space_free(&t->space, node, holder);
    tnmi_engine_try_retire(e, segment);
}

/* The content's bytes are shown from here on: everything behind them stays unreadable. */
static void tnmi_engine_open_place(tnmi_engine *e, uint32_t tier, uint32_t segment, uint32_t offset,
                                   uint64_t bytes) {
    void *host = tnmi_engine_host(e, tier, segment, offset);
    tnmi_base_undefined(host, bytes + tnmi_engine_tier(e, tier)->desc.tail_bytes);
}

/* Is a copy of this transfer in its source's memory at this moment, handed out and not answered? */
static int tnmi_engine_reads_now(const tnmi_engine *e, uint32_t op) {
    for (uint32_t i = e->move.live_copy; i != TNMI_NONE; i = e->move.copy[i].next) {
        const tnmi_copy *copy = &e->move.copy[i];
        if (copy->op == op && copy->state != TNMI_COPY_READY && copy->hop != TNMI_HOP_OUT) return 1;
    }
    return 0;
}

/* Is a replica that is current being moved to another place of its tier? */
static int tnmi_engine_is_shifted(const tnmi_engine *e, uint32_t tier, uint32_t index) {
    for (uint32_t i = 0; i < e->shifts; i++) {
        const tnmi_op *op = tnmi_engine_op(e, e->shift[i]);
        if (op->tier == tier && op->replica == index) return 1;
    }
    return 0;
}

/* Does some other BUSY replica, or a shift, still read this one? What lost its source will read
 * another, but what is out reads this one yet. */
static int tnmi_engine_has_reader(const tnmi_engine *e, uint32_t content, uint32_t tier) {
    if (e->shifts && tnmi_engine_is_shifted(e, tier, tnmi_engine_index(e, content, tier))) return 1;
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        const tnmi_replica *other = tnmi_engine_on(e, content, t);
        if (t == tier || !tnmi_engine_is_busy(other)) continue;
        const tnmi_op *op = tnmi_engine_filling(e, other);
        if (op->from != tier) continue;
        if (!op->orphan || (op->out > 0 && tnmi_engine_reads_now(e, other->offset))) return 1;
    }
    return 0;
}

static void tnmi_engine_end_source(tnmi_engine *e, uint32_t content, uint32_t tier) {
    tnmi_replica *source = tnmi_engine_on(e, content, tier);
    if (source && !tnmi_engine_has_reader(e, content, tier)) {
        tnmi_tensor_mark(source, 0, TNMI_SOURCE);
        e->changed++;
    }
}

/* ---- a content ends when nothing needs it ---- */
static void tnmi_engine_hits(tnmi_engine *e, uint32_t tier, tnmi_replica *replica) {
    uint64_t word = tnmi_base_peek64(&replica->word), hits;
    do {
        hits = (word >> 32) & 0xffffu;
        if (hits == 0) return;
    } while (!tnmi_base_swap64(&replica->word, &word, word - hits * TNMI_HIT));
    tnmi_engine_tier(e, tier)->hits += hits;
    if (e->hints.learned.on && replica->node != TNMI_NONE)
        tnmi_hint_used(&e->hints, replica->content, tnmi_base_peek64(&replica->stamp),
                       (uint32_t)hits);
}

/* Take the record from its content; an adopted one waits until `released` was called. */
static void tnmi_engine_detach(tnmi_engine *e, uint32_t tier, uint32_t index) {
    tnmi_residents *on = &e->tensors.on[tier];
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    int adopted = replica->node == TNMI_NONE && replica->segment != TNMI_NONE;
    tnmi_engine_hits(e, tier, replica);
    uint64_t word = tnmi_tensor_detach(&e->tensors, tier, index);
    tnmi_engine_tier(e, tier)->hits += (word >> 32) & 0xffffu;
    if (!adopted) {
        tnmi_store_give(&on->replicas, index);
        return;
    }
    replica->content = e->gone[tier]; /* the list of those to be released */
    e->gone[tier] = index;
}

/* Bytes of a SCRUB tensor are wiped where it lay before anyone else may have the place. The node
 * stays used, without an owner, until then. 0 = no transfer left to do it with. */
static int tnmi_engine_wipe(tnmi_engine *e, uint32_t tier, const tnmi_replica *replica,
                            uint64_t bytes) {
    uint32_t index = tnmi_move_new(&e->move, TNMI_OP_WIPE, TNM_CLASS_DEMAND, 0);
    if (index == TNMI_NONE) return 0;
    tnmi_op *op = tnmi_engine_op(e, index);
    op->tier = tier;
    op->bytes = bytes;
    op->place = replica->node;
    op->place_segment = replica->segment;
    op->place_offset = replica->offset;
    op->state = TNMI_OP_PLACED;
    tnmi_space_node(&tnmi_engine_tier(e, tier)->space, replica->node)->a = TNMI_NONE;
    tnmi_tier_segment(&e->tiers, replica->segment)->owner = TNMI_NONE;
    tnmi_move_enqueue(&e->move, index, TNM_CLASS_DEMAND);
    return 1;
}

/* A replica or a transfer goes, and with it every claim on it: none may later be taken back from
 * what comes in its stead. Those who wait learn the code; with OK they find nothing there and ask
 * anew, and so does who discards where there were no bytes to fetch, since he misses none. */
static void tnmi_engine_drop_claims(tnmi_engine *e, uint32_t content, uint32_t tier,
                                    tnm_result code) {
    int bytes_gone = code == TNM_ERR_EMPTY || code == TNM_ERR_LOST;
    for (uint32_t r = e->oldest_request; r != TNMI_NONE;) {
        tnmi_request *request = (tnmi_request *)tnmi_store_at(&e->requests, r);
        int waits = code != TNM_OK && request->admitted && request->result == TNM_PENDING;
        r = request->next;
        for (uint32_t m = request->members; m != TNMI_NONE;) {
            tnmi_member *member = (tnmi_member *)tnmi_store_at(&e->members, m);
            m = member->next;
            if (member->content != content || member->tier != tier) continue;
            member->claimed = 0;
            if (waits && (!bytes_gone || member->access != TNM_DISCARD)) request->result = code;
        }
    }
}

/* A replica makes room for others: whether it was the right one shows later, and when it will be
 * wanted back may be known now. */
static void tnmi_engine_parts(tnmi_engine *e, uint32_t tier, tnmi_replica *replica) {
    const tnmi_heap *order = &e->tensors.on[tier].order;
    uint64_t clock = tnmi_base_peek64(&e->clock);
    tnmi_engine_hits(e, tier, replica);
    tnmi_hint_untell(&e->hints, &e->tensors, replica->content);
    tnmi_hint_foretell(&e->hints, &e->tensors, replica->content, tier, clock);
    if (order->count == 0) return;
    uint32_t slot = (uint32_t)(tnmi_base_mix(tier, tnmi_engine_tier(e, tier)->evictions) >> 32);
    uint32_t node = tnmi_store_slot(order, slot % order->count)->owner;
    const tnmi_replica *stays = tnmi_tensor_replica(
        &e->tensors, tier, tnmi_space_node(&tnmi_engine_tier(e, tier)->space, node)->a);
    if (stays != replica) tnmi_hint_fight(&e->hints, &e->tensors, tier, clock, replica, stays);
}

/* A claimed (BUSY, unpinned) replica leaves its tier. Its place goes to whoever holds it. */
static void tnmi_engine_leave(tnmi_engine *e, uint32_t tier, uint32_t index, int counted) {
    tnmi_tier *t = tnmi_engine_tier(e, tier);
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    uint32_t content = replica->content, node = replica->node, segment = replica->segment;
    tnmi_tensor *tensor = tnmi_engine_content(e, content);
    tnm_event *event = tnmi_engine_event(e, TNM_EVENT_LEAVE, tier, content);
    if (node == TNMI_NONE || (tnmi_base_peek64(&replica->word) & TNMI_CLAIM)) {
        if (node != TNMI_NONE) tnmi_space_node(&t->space, node)->b = 0;
        tnmi_engine_drop_claims(e, content, tier, TNM_OK);
    }
    if (event) {
        tnmi_view view = tnmi_engine_view(e, tier);
        event->detail = tnmi_policy_is_dirty(&view, content, tier) ? 2 : 1;
    }
    uint64_t word = tnmi_base_peek64(&replica->word);
    if (counted) t->evictions++;
    int teaches = e->hints.learned.on && tensor->refs > 0 && !(word & (TNMI_FRESH | TNMI_LOST));
    if (counted && teaches && node != TNMI_NONE) tnmi_engine_parts(e, tier, replica);
    if (word & TNMI_FRESH)
        t->prefetches_wasted++;
    else if (node != TNMI_NONE)
        tnmi_hint_done(&e->hints, tensor, tier, tnmi_base_peek64(&replica->stamp));
    if (node == TNMI_NONE && tnmi_tensor_region(&e->tensors, segment)->writable &&
        tensor->refs > 0) {
        tnmi_tensor_mark(replica, TNMI_ABSENT, 0xff); /* of what was lost, too */
    } else {
        int scrub =
            (tnmi_tensor_advice(tensor) & TNM_SCRUB) && node != TNMI_NONE && !(word & TNMI_LOST);
        int wiped = scrub && tnmi_engine_wipe(e, tier, replica, tensor->bytes);
        tnmi_engine_detach(e, tier, index);
        if (node != TNMI_NONE && !wiped) tnmi_engine_free_node(e, tier, node, segment);
    }
    e->changed++;
    if (word & TNMI_ALONE) return; /* there is no other to tell */
    tnmi_tensor_set_alone(&e->tensors, content);
    for (uint32_t u = 0; u < e->tiers.count; u++) /* a duplicate may be none any more */
        if (u != tier && tnmi_engine_index(e, content, u) != TNMI_NONE)
            tnmi_engine_rekey(e, u, tnmi_engine_index(e, content, u));
}

/* It may leave now: claim and drop it. 0 = a pin was faster. */
static int tnmi_engine_try_leave(tnmi_engine *e, uint32_t tier, uint32_t index) {
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    tnmi_view view = tnmi_engine_view(e, tier);
    if (!tnmi_tensor_claim(replica)) return 0;
    tnmi_engine_tier(e, tier)->evictions_clean +=
        !tnmi_policy_is_dirty(&view, replica->content, tier);
    tnmi_engine_leave(e, tier, index, 1);
    return 1;
}

/* The segment a node lies in: the only one, or its neighbour to the left knows, or the neighbour of
 * that. */
static inline uint32_t tnmi_engine_segment_of(const tnmi_engine *e, uint32_t tier, uint32_t node) {
    const tnmi_tier *t = tnmi_engine_tier(e, tier);
    const tnmi_space *space = &t->space;
    if (t->segment_count == 1) return t->segments;
    for (;;) {
        node = tnmi_space_node(space, node)->prev;
        const tnmi_node *left = tnmi_space_node(space, node);
        if (tnmi_space_kind(left) == TNMI_SPACE_EDGE) return left->a;
        if (tnmi_space_kind(left) != TNMI_SPACE_USED || left->a == TNMI_NONE) continue;
        const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, left->a);
        if (replica->segment != TNMI_NONE) return replica->segment;
        return tnmi_engine_filling(e, replica)->place_segment;
    }
}

/* ---- windows: a run of free nodes (held) and victims (marked) ---- */
/* Its victims are out of the order of leaving: the search for the next one would pop them all. */
static void tnmi_engine_open_window(tnmi_engine *e, uint32_t op_index, const tnmi_window *window) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    tnmi_space *space = &tnmi_engine_tier(e, op->tier)->space;
    op->window = window->first;
    op->window_end = window->end;
    tnmi_engine_tier(e, op->tier)->windows++;
    uint32_t at = window->start, node = window->first;
    while (at < window->end) {
        tnmi_node *n = tnmi_space_node(space, node);
        at = n->offset + tnmi_space_size(n);
        if (tnmi_space_kind(n) == TNMI_SPACE_USED) {
            n->b = op_index + 1;
            tnmi_store_heap_drop(&e->tensors.on[op->tier].order, node);
        } else
            tnmi_space_hold(space, node, op_index);
        node = n->next;
    }
}

/* A victim that stays after all. */
static void tnmi_engine_spare(tnmi_engine *e, uint32_t tier, uint32_t node) {
    tnmi_node *n = tnmi_space_node(&tnmi_engine_tier(e, tier)->space, node);
    n->b = 0;
    if (n->a == TNMI_NONE) return; /* being wiped */
    const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, n->a);
    tnmi_view view = tnmi_engine_view(e, tier);
    tnmi_store_heap_push(&e->tensors.on[tier].order, node, tnmi_policy_key(&view, replica));
}

static void tnmi_engine_close_window(tnmi_engine *e, uint32_t op_index) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    tnmi_tier *t = tnmi_engine_tier(e, op->tier);
    if (op->window == TNMI_NONE) return;
    uint32_t node = op->window, at, segment = tnmi_engine_segment_of(e, op->tier, node);
    do { /* a free right neighbour lies behind the window, so `next` lives while it is needed */
        tnmi_node *n = tnmi_space_node(&t->space, node);
        uint32_t next = n->next;
        at = n->offset + tnmi_space_size(n);
        if (tnmi_space_kind(n) == TNMI_SPACE_USED && n->b == op_index + 1)
            tnmi_engine_spare(e, op->tier, node);
        if (tnmi_space_kind(n) == TNMI_SPACE_HELD && n->a == op_index) {
            n->a = tnmi_tier_holder(tnmi_tier_segment(&e->tiers, segment));
            if (n->a == TNMI_NONE)
                tnmi_space_unhold(&t->space, node);
            else
                tnmi_space_gather(&t->space, node);
        }
        node = next;
    } while (at < op->window_end);
    op->window = TNMI_NONE;
    t->windows--;
    e->changed++;
    tnmi_engine_try_retire(e, segment);
}

/* ---- claims: a request waits with what it found ---- */
static void tnmi_engine_claim(tnmi_engine *e, uint32_t tier, tnmi_replica *replica) {
    if (tnmi_engine_is_busy(replica)) {
        tnmi_engine_filling(e, replica)->claims++;
        return;
    }
    if (replica->node == TNMI_NONE) return; /* adopted memory does not leave for room */
    tnmi_node *node = tnmi_space_node(&tnmi_engine_tier(e, tier)->space, replica->node);
    int in_window = node->b && !(node->b & TNMI_CLAIMED);
    if (in_window && e->rehearsing) return; /* a question breaks nobody's window */
    if (in_window) tnmi_engine_close_window(e, node->b - 1);
    node->b = (node->b & TNMI_CLAIMED ? node->b : TNMI_CLAIMED) + 1;
    tnmi_tensor_mark(replica, TNMI_CLAIM, 0);
}

static void tnmi_engine_unclaim_ready(tnmi_engine *e, uint32_t tier, tnmi_replica *replica) {
    if (replica->node == TNMI_NONE) return;
    tnmi_node *node = tnmi_space_node(&tnmi_engine_tier(e, tier)->space, replica->node);
    if (!(node->b & TNMI_CLAIMED)) return;
    if (--node->b != TNMI_CLAIMED) return;
    node->b = 0;
    tnmi_tensor_mark(replica, 0, TNMI_CLAIM);
    tnmi_engine_rekey(e, tier, tnmi_engine_index(e, replica->content, tier));
    e->changed++;
}

/* ---- the end of a transfer ---- */
/* A BUSY replica that will not be filled: its place and its record go. */
static void tnmi_engine_abandon(tnmi_engine *e, uint32_t op_index) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    uint32_t tier = op->tier, content = op->content, from = op->from;
    tnmi_engine_close_window(e, op_index);
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, op->replica);
    uint32_t node = replica->node, segment = op->place_segment, index = op->replica;
    int home = node == TNMI_NONE && replica->segment != TNMI_NONE;
    tnmi_move_delete(&e->move, op_index);
    if (home) {
        tnmi_tensor_mark(replica, TNMI_ABSENT, 0xff);
    } else {
        replica->node = TNMI_NONE;
        tnmi_engine_detach(e, tier, index);
        if (node != TNMI_NONE) tnmi_engine_free_node(e, tier, node, segment);
    }
    tnmi_tensor_set_alone(&e->tensors, content);
    if (from != TNMI_NONE) tnmi_engine_end_source(e, content, from);
    e->changed++;
}

/* Nobody is told again: a log item, an event, a count, last_error. */
static void tnmi_engine_note_failure(tnmi_engine *e, uint32_t content, uint32_t tier,
                                     tnm_result code) {
    tnmi_engine_tier(e, tier)->failures++;
    if (content == TNMI_NONE) return;
    tnmi_engine_content(e, content)->failed = (uint32_t)-code | tier << 8 | 1u << 16;
    tnm_event *event = tnmi_engine_event(e, TNM_EVENT_FAIL, tier, content);
    if (event) event->result = code;
    tnmi_engine_log(e, TNM_LOG_WARNING, code, "a transfer to this tier failed; nothing was lost",
                    tier, content);
}

/* A content without names ends when the last pin, copy and fence let go: what is not held leaves
 * now, what is held tells us when it is let go. */
static void tnmi_engine_reap(tnmi_engine *e, uint32_t content) {
    const tnmi_tensor *tensor = tnmi_engine_content(e, content);
    int left = 0;
    if (tensor->refs > 0) return;
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        uint32_t index = *tnmi_tensor_rep_of(tensor, t);
        if (index == TNMI_NONE) continue;
        tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, t, index);
        if (tnmi_tensor_is_home(replica)) continue;
        int source = (tnmi_base_peek64(&replica->word) & TNMI_SOURCE) != 0;
        int mine = !source && tnmi_tensor_claim(replica);
        if (!mine) { /* a pin that went before it could know that we wait is seen here */
            tnmi_tensor_mark(replica, TNMI_NOTIFY, 0);
            mine = !source && tnmi_tensor_claim(replica);
        }
        if (mine)
            tnmi_engine_leave(e, t, index, 0);
        else
            left++;
    }
    if (left) return;
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        uint32_t home = *tnmi_tensor_rep_of(tensor, t);
        if (home != TNMI_NONE) tnmi_engine_detach(e, t, home);
    }
    tnmi_tensor_delete(&e->tensors, content);
}

/* A replica that has its place, or adopted memory, becomes current: `show` is what its word says
 * from now on beside READY. The order of leaving takes it in as it is before its first pin. */
static void tnmi_engine_appear(tnmi_engine *e, uint32_t tier, uint32_t index, uint64_t show) {
    tnmi_residents *on = &e->tensors.on[tier];
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    uint32_t content = replica->content;
    tnmi_tensor_set_flags(tnmi_engine_content(e, content), 0, TNMI_BROKEN);
    if (replica->node != TNMI_NONE) {
        uint64_t clock = tnmi_base_peek64(&e->clock);
        tnmi_view view = tnmi_engine_view(e, tier);
        uint64_t flags = (tnmi_base_peek64(&replica->word) | show) & 0xffu;
        tnmi_base_poke64(&replica->stamp, clock);
        tnmi_store_heap_push(&on->order, replica->node,
                             tnmi_policy_key_as(&view, replica, flags, 1));
    }
    tnmi_tensor_mark(replica, TNMI_READY | show, TNMI_BUSY);
    tnmi_engine_event(e, TNM_EVENT_READY, tier, content);
    e->changed++;
}

/* A filled replica is published: current, with the claims of those who wait for it. */
static void tnmi_engine_publish(tnmi_engine *e, uint32_t op_index, uint64_t flags) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    tnmi_tier *t = tnmi_engine_tier(e, op->tier);
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, op->tier, op->replica);
    uint32_t tier = op->tier, index = op->replica, content = op->content;
    uint32_t from = op->orphan ? TNMI_NONE : op->from;
    if (replica->node != TNMI_NONE) {
        replica->segment = op->place_segment;
        replica->offset = op->place_offset;
        if (op->claims) {
            tnmi_space_node(&t->space, replica->node)->b = TNMI_CLAIMED + op->claims;
            flags |= TNMI_CLAIM;
        }
    }
    tnmi_move_delete(&e->move, op_index);
    tnmi_tensor_set_alone(&e->tensors, content); /* before anyone can write to either */
    tnmi_engine_appear(e, tier, index, flags);
    if (from != TNMI_NONE) {
        if ((e->below[tier] >> from) & 1u) /* what was fetched ahead there has served */
            tnmi_tensor_mark(tnmi_engine_on(e, content, from), 0, TNMI_FRESH);
        tnmi_engine_end_source(e, content, from);
    }
    tnmi_engine_rekey_all(e, content);
    tnmi_engine_reap(e, content);
}

/* The first tier down the spill path that can take the bytes; its own writable memory if it has
 * one there, or off the path. TNMI_NONE = nowhere. */
static uint32_t tnmi_engine_leg_tier(const tnmi_engine *e, uint32_t content, uint32_t tier) {
    for (int u = tnmi_engine_tier(e, tier)->spill; u >= 0;
         u = tnmi_engine_tier(e, (uint32_t)u)->spill) {
        const tnmi_tier *t = tnmi_engine_tier(e, (uint32_t)u);
        const tnmi_replica *there = tnmi_engine_on(e, content, (uint32_t)u);
        uint64_t placed = tnmi_tier_placed(t, tnmi_engine_content(e, content)->bytes, 0);
        if (tnmi_engine_is_busy(there) && tnmi_engine_filling(e, there)->kind == TNMI_OP_BUILD)
            continue; /* new bytes are to stand there: no copy of the old ones */
        if (tnmi_tensor_is_gone(there)) continue;
        if (there || tnmi_tier_can_ever(t, placed)) return (uint32_t)u;
    }
    for (uint32_t u = 0; u < e->tiers.count; u++)
        if (u != tier && tnmi_tensor_is_home(tnmi_engine_on(e, content, u))) return u;
    return TNMI_NONE;
}

/* The last chunk of a failed or cancelled transfer has come home. */
static void tnmi_engine_drained(tnmi_engine *e, uint32_t op_index) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    tnm_result code = op->error;
    uint32_t content = op->content, tier = op->tier;
    int failed = code != TNM_OK && code != TNM_ERR_EMPTY; /* EMPTY: nothing to fetch any more */
    if (failed)
        tnmi_engine_note_failure(e, content, tier, code);
    else
        tnmi_engine_event(e, TNM_EVENT_CANCEL, tier, content);
    if (code != TNM_OK && op->claims) tnmi_engine_drop_claims(e, content, tier, code);
    tnmi_engine_abandon(e, op_index);
    for (uint32_t t = 0; failed && t < e->tiers.count; t++) { /* whose way out led here? */
        tnmi_view view = tnmi_engine_view(e, t);
        if (tnmi_tensor_is_ready(tnmi_engine_on(e, content, t)) &&
            tnmi_policy_is_dirty(&view, content, t) &&
            tnmi_engine_leg_tier(e, content, t) == tier) {
            tnmi_tier_back_off(&tnmi_engine_tier(e, t)->sick, e->tick);
            tnmi_engine_tier(e, t)->sick_of = code;
        }
    }
    tnmi_engine_reap(e, content);
}

/* What whoever asks for the bytes of a content is told that has none: lost, never written, or
 * dropped. */
static tnm_result tnmi_engine_nothing(const tnmi_engine *e, uint32_t content) {
    return tnmi_engine_content(e, content)->flags & TNMI_BROKEN ? TNM_ERR_LOST : TNM_ERR_EMPTY;
}

/* A transfer ends without success. What is out must come home before its place is reused. */
static void tnmi_engine_fail(tnmi_engine *e, uint32_t op_index, tnm_result code) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    if (op->error == TNM_OK) op->error = code;
    tnmi_move_unqueue(&e->move, op_index);
    op->state = TNMI_OP_DRAINING;
    e->changed++;
}

/* Take a transfer back. One that somebody waits for is left alone. */
static void tnmi_engine_cancel_op(tnmi_engine *e, uint32_t op_index) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    if (op->claims || op->state == TNMI_OP_DRAINING) return;
    tnmi_engine_fail(e, op_index, TNM_OK);
    if (op->out == 0) tnmi_engine_drained(e, op_index);
}

/* ---- placement ---- */
static uint32_t tnmi_engine_kept_on(const tnmi_engine *e, uint32_t content) {
    return tnmi_tensor_field(tnmi_engine_content(e, content), TNMI_KEPT_SHIFT, 7);
}

/* A place for a content, where it begins is free. What is in a schedule lies on its side of the
 * wall, unless it may go astray. */
static inline tnmi_room tnmi_engine_anywhere(const tnmi_engine *e, uint32_t content, uint32_t tier,
                                             int astray) {
    tnmi_room room;
    uint32_t wall = astray ? TNMI_NONE : tnmi_engine_wall(e, tier);
    room.need = room.phase = room.from = 0;
    room.align = 1;
    room.to = UINT32_MAX;
    room.high = 0;
    if (wall != TNMI_NONE && tnmi_engine_kept_on(e, content) == tier + 1)
        room.to = wall;
    else if (wall != TNMI_NONE && tnmi_hint_is_cyclic(&e->hints, tnmi_engine_content(e, content)))
        room.from = wall;
    return room;
}

/* Where adopted bytes come from with a granularity, the place keeps their remainder. */
static void tnmi_engine_shape_room(tnmi_engine *e, uint32_t content, uint32_t tier, tnmi_op *op,
                                   tnmi_room *room) {
    const tnmi_tier *t = tnmi_engine_tier(e, tier);
    *room = tnmi_engine_anywhere(e, content, tier, op->astray);
    op->shift = 0;
    for (uint32_t u = 0; u < e->tiers.count; u++) {
        const tnmi_replica *from = tnmi_engine_on(e, content, u);
        uint64_t grain = tnmi_engine_tier(e, u)->desc.backend.granularity, odd;
        if (!from || from->node != TNMI_NONE || from->segment == TNMI_NONE || grain <= t->unit)
            continue;
        odd = tnmi_base_peek64(&from->stamp) % grain;
        if (op->loose || odd % t->unit || grain % t->granule) continue;
        op->shift = (uint32_t)(odd % t->granule);
        room->align = (uint32_t)(grain / t->granule);
        room->phase = (uint32_t)(odd / t->granule);
    }
    uint64_t placed = tnmi_tier_placed(t, tnmi_engine_content(e, content)->bytes, op->shift);
    op->need = room->need = (uint32_t)(placed >> t->granule_log);
}

/* A free gap is the first answer to a need for room: part of it is used from here on. TNMI_NONE =
 * there is none. A tier that keeps some contents has them at its low end. */
static uint32_t tnmi_engine_take_gap(tnmi_engine *e, uint32_t tier, uint32_t content,
                                     tnmi_room *room, uint32_t owner) {
    tnmi_tier *t = tnmi_engine_tier(e, tier);
    room->high = t->kept_bytes > 0 && tnmi_engine_kept_on(e, content) == 0;
    uint32_t node = tnmi_space_find(&t->space, room);
    if (node != TNMI_NONE) tnmi_space_take(&t->space, node, room, owner);
    return node;
}

/* The segment counts a used node. Returns the segment. */
static inline uint32_t tnmi_engine_count_node(tnmi_engine *e, uint32_t tier, uint32_t node) {
    uint32_t segment = tnmi_engine_segment_of(e, tier, node);
    tnmi_tier_segment(&e->tiers, segment)->used++;
    return segment;
}

/* The place is the transfer's: the node is used, the segment counts it. */
static void tnmi_engine_settle(tnmi_engine *e, uint32_t op_index, uint32_t node) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    tnmi_tier *t = tnmi_engine_tier(e, op->tier);
    const tnmi_node *n = tnmi_space_node(&t->space, node);
    op->place_segment = tnmi_engine_count_node(e, op->tier, node);
    op->place_offset = n->offset * TNMI_TIER_UNITS + (uint32_t)(op->shift / t->unit);
    op->state = TNMI_OP_PLACED;
    if (op->kind == TNMI_OP_SHIFT)
        op->place = node;
    else
        tnmi_tensor_replica(&e->tensors, op->tier, op->replica)->node = node;
    tnmi_engine_open_place(e, op->tier, op->place_segment, op->place_offset, op->bytes);
}

/* A vacant segment for such a tensor, the youngest that is there, else one that comes. */
static uint32_t tnmi_engine_vacant(const tnmi_engine *e, uint32_t tier, const void *item,
                                   uint64_t size) {
    const tnmi_tier *t = tnmi_engine_tier(e, tier);
    uint32_t index = t->last_segment, found = TNMI_NONE;
    for (uint32_t left = t->vacant; left > 0;) {
        const tnmi_segment *s = tnmi_tier_segment(&e->tiers, index);
        uint32_t at = index;
        index = s->prev;
        if (!tnmi_tier_is_vacant(s)) continue;
        left--;
        if (s->item != item || s->size != size) continue;
        if (s->state == TNMI_SEGMENT_LIVE) return at;
        found = at;
    }
    return found;
}

static void tnmi_engine_place_dedicated(tnmi_engine *e, uint32_t op_index, uint32_t segment) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    tnmi_tier *t = tnmi_engine_tier(e, op->tier);
    uint32_t index = tnmi_store_take(&t->space.nodes);
    tnmi_node *node = tnmi_space_node(&t->space, index);
    memset(node, 0, sizeof *node);
    node->span = op->need << 2 | TNMI_SPACE_USED;
    node->prev = node->next = index;
    node->a = op->replica;
    t->space.used_granules += op->need;
    t->vacant--;
    tnmi_tier_segment(&e->tiers, segment)->owner = op->replica;
    op->place_segment = segment;
    op->place_offset = op->shift / (uint32_t)t->unit;
    op->state = TNMI_OP_PLACED;
    tnmi_tier_segment(&e->tiers, segment)->used++;
    tnmi_tensor_replica(&e->tensors, op->tier, op->replica)->node = index;
    tnmi_engine_open_place(e, op->tier, segment, op->place_offset, op->bytes);
}

/* Its plan is undone: the segment is vacant again. */
static void tnmi_engine_unplace_dedicated(tnmi_engine *e, uint32_t op_index) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    tnmi_tier *t = tnmi_engine_tier(e, op->tier);
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, op->tier, op->replica);
    if (t->desc.segment_bytes != TNM_DEDICATED || replica->node == TNMI_NONE) return;
    tnmi_segment *s = tnmi_tier_segment(&e->tiers, op->place_segment);
    tnmi_base_noaccess(s->host, s->size);
    tnmi_store_give(&t->space.nodes, replica->node);
    t->space.used_granules -= op->need;
    replica->node = TNMI_NONE;
    op->state = TNMI_OP_ROOM;
    s->owner = TNMI_NONE;
    s->used--;
    t->vacant++;
}

/* Pins that only their holders can end. */
static uint32_t tnmi_engine_live_pins(const tnmi_engine *e, uint32_t tier, uint32_t index,
                                      int writes) {
    uint64_t word = tnmi_base_load64(&tnmi_tensor_replica(&e->tensors, tier, index)->word);
    uint32_t pins = writes ? tnmi_tensor_writers(word) : tnmi_tensor_pins(word);
    if (pins == 0) return 0;
    return pins - tnmi_tensor_fenced(&e->tensors, tier, index, writes);
}

/* Is a tensor pinned, or (claims 1) does a request wait with it? */
static int tnmi_engine_is_used(const tnmi_engine *e, uint32_t tier, uint32_t index, int claims) {
    const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    uint64_t word = tnmi_base_peek64(&replica->word);
    if (tnmi_engine_live_pins(e, tier, index, 0) || (claims && (word & TNMI_CLAIM))) return 1;
    if (claims && tnmi_tensor_pins(word)) return 1; /* a fence: not now */
    return claims && tnmi_tensor_is(word, TNMI_BUSY) && tnmi_engine_filling(e, replica)->claims;
}

/* Does one stand in this segment, among its first `most` nodes? */
static int tnmi_engine_segment_used(const tnmi_engine *e, uint32_t tier, const tnmi_segment *s,
                                    int claims, uint32_t most) {
    const tnmi_space *space = &tnmi_engine_tier(e, tier)->space;
    if (s->dedicated)
        return s->used && s->owner != TNMI_NONE && tnmi_engine_is_used(e, tier, s->owner, claims);
    if (s->edge == TNMI_NONE) return 0;
    uint32_t i = tnmi_space_node(space, s->edge)->next;
    for (uint32_t seen = 0; i != s->edge && seen < most; seen++) {
        const tnmi_node *node = tnmi_space_node(space, i);
        i = node->next;
        if (tnmi_space_kind(node) != TNMI_SPACE_USED || node->a == TNMI_NONE) continue;
        if (tnmi_engine_is_used(e, tier, node->a, claims)) return 1;
    }
    return 0;
}

/* Bytes that come back to the ledger by themselves: segments being drained or released. A drain
 * that a pin stopped does not count; in a large segment the walk of the drain has to find it. */
static uint64_t tnmi_engine_returning(const tnmi_engine *e, uint32_t tier) {
    uint64_t sum = 0;
    for (uint32_t i = tnmi_engine_tier(e, tier)->segments; i != TNMI_NONE;) {
        const tnmi_segment *s = tnmi_tier_segment(&e->tiers, i);
        i = s->next;
        if (s->state == TNMI_SEGMENT_RELEASING) sum += s->size;
        if (s->state == TNMI_SEGMENT_DRAINING && !(s->stop & 1) &&
            !tnmi_engine_segment_used(e, tier, s, 1, TNMI_SOME_NODES))
            sum += s->size;
    }
    return sum;
}

/* The live segment that is cheapest to empty: the fewest tensors. Pinned ones only if `pinned`. */
static uint32_t tnmi_engine_cheapest(const tnmi_engine *e, uint32_t tier, int pinned) {
    uint32_t best = TNMI_NONE;
    for (uint32_t i = tnmi_engine_tier(e, tier)->segments; i != TNMI_NONE;) {
        const tnmi_segment *s = tnmi_tier_segment(&e->tiers, i);
        uint32_t index = i;
        i = s->next;
        if (s->state != TNMI_SEGMENT_LIVE) continue;
        if (best != TNMI_NONE && s->used >= tnmi_tier_segment(&e->tiers, best)->used) continue;
        if (!pinned && tnmi_engine_segment_used(e, tier, s, 1, TNMI_SOME_NODES)) continue;
        best = index;
    }
    return best;
}

/* The segment gives no more room: windows in it are given up, their transfers look elsewhere. */
static void tnmi_engine_drain_segment(tnmi_engine *e, uint32_t tier, uint32_t index) {
    tnmi_segment *s = tnmi_tier_segment(&e->tiers, index);
    for (uint32_t i = e->move.queue[TNMI_MOVE_ROOM].head; i != TNMI_NONE;
         i = tnmi_engine_op(e, i)->next_op) {
        const tnmi_op *op = tnmi_engine_op(e, i);
        if (op->tier == tier && op->window != TNMI_NONE &&
            tnmi_engine_segment_of(e, tier, op->window) == index)
            tnmi_engine_close_window(e, i);
    }
    s->asked = e->tick;
    tnmi_tier_drain(tnmi_engine_tier(e, tier), s);
    tnmi_engine_try_retire(e, index);
    e->changed++;
}

/* What is being emptied is still asked for. */
static void tnmi_engine_drain_on(tnmi_engine *e, uint32_t tier) {
    for (uint32_t i = tnmi_engine_tier(e, tier)->segments; i != TNMI_NONE;) {
        tnmi_segment *s = tnmi_tier_segment(&e->tiers, i);
        i = s->next;
        if (s->state == TNMI_SEGMENT_DRAINING) s->asked = e->tick;
    }
}

/* Would `need` more bytes fit the ledger once every segment has gone that no pin or claim keeps? */
static int tnmi_engine_could_make_ledger(const tnmi_engine *e, uint32_t tier, uint64_t need) {
    const tnmi_tier *t = tnmi_engine_tier(e, tier);
    uint64_t have = tnmi_engine_returning(e, tier), want;
    for (uint32_t i = t->segments; i != TNMI_NONE;) {
        const tnmi_segment *s = tnmi_tier_segment(&e->tiers, i);
        i = s->next;
        if (s->state != TNMI_SEGMENT_LIVE) continue;
        if (!tnmi_engine_segment_used(e, tier, s, 1, TNMI_SOME_NODES)) have += s->size;
    }
    return tnmi_base_add(t->reserved, need, &want) && tnmi_base_less(want, t->budget) <= have;
}

/* Whole segments go until `need` more bytes would fit the ledger. 0 = they cannot. */
static int tnmi_engine_make_ledger(tnmi_engine *e, uint32_t tier, uint64_t need, int pinned) {
    tnmi_tier *t = tnmi_engine_tier(e, tier);
    tnmi_engine_drain_on(e, tier);
    for (;;) {
        uint64_t have = tnmi_engine_returning(e, tier), want;
        if (!tnmi_base_add(t->reserved, need, &want)) return 0;
        if (tnmi_base_less(want, t->budget) <= have) return 1;
        uint32_t index = tnmi_engine_cheapest(e, tier, pinned);
        if (index == TNMI_NONE) return 0;
        tnmi_engine_drain_segment(e, tier, index);
    }
}

/* Ask for a segment that holds `need` bytes, if the ledger allows one. */
static tnm_result tnmi_engine_want_segment(tnmi_engine *e, uint32_t tier, uint64_t need, void *item,
                                           uint64_t age) {
    tnmi_tier *t = tnmi_engine_tier(e, tier);
    int dedicated = t->desc.segment_bytes == TNM_DEDICATED;
    uint64_t size = tnmi_tier_segment_size(t, need, e->tick);
    if (size == 0) return TNM_ERR_BUDGET;
    if ((t->coming && !dedicated) || e->rehearsing) return TNM_PENDING;
    tnm_result r = tnmi_engine_table(e, &e->tiers.segments, 1);
    if (r != TNM_OK) return r;
    tnmi_segment *s = tnmi_tier_segment(&e->tiers, tnmi_tier_want(&e->tiers, tier, size));
    s->item = item;
    s->least = need;
    s->dedicated = (uint8_t)dedicated;
    s->asked = e->tick;
    s->age = age;
    t->vacant += (uint32_t)dedicated;
    return TNM_PENDING;
}

/* ---- plans: every place a request needs, all or nothing ---- */
typedef struct tnmi_plan {
    uint32_t head, tail; /* transfers made for it, through tnmi_op.plan */
    uint32_t request;    /* whose it is, TNMI_NONE = background */
    uint32_t short_on;
    uint64_t need;
    uint64_t step, before; /* deadline; a guess evicts nothing whose key is `before` or more */
    tnm_class class_;
    int guess;
    int freed;   /* something made way: the next attempt has more room */
    int empties; /* whole segments go for it */
} tnmi_plan;

static tnmi_plan tnmi_engine_plan(uint32_t request, tnm_class class_, uint64_t step) {
    tnmi_plan plan;
    plan.head = plan.tail = TNMI_NONE;
    plan.request = request;
    plan.short_on = TNMI_NONE;
    plan.need = 0;
    plan.step = step;
    plan.before = UINT64_MAX;
    plan.class_ = class_;
    plan.guess = plan.freed = plan.empties = 0;
    return plan;
}

/* A transfer that will make the content current on a tier; its place is found later. */
static tnm_result tnmi_engine_new_op(tnmi_engine *e, tnmi_plan *plan, uint32_t content,
                                     uint32_t tier, tnmi_op_kind kind, uint32_t *out) {
    tnmi_replica *home = tnmi_engine_on(e, content, tier);
    tnm_result r = tnmi_engine_table(e, &e->move.ops, 1);
    if (r == TNM_OK && !home) r = tnmi_engine_table(e, &e->tensors.on[tier].replicas, 1);
    if (r == TNM_OK && tnmi_tensor_is_gone(home)) r = TNM_PENDING; /* a pin keeps the record */
    if (r != TNM_OK) return r;
    uint32_t index = tnmi_move_new(&e->move, kind, plan->class_, plan->step);
    tnmi_op *op = tnmi_engine_op(e, index);
    op->content = content;
    op->tier = tier;
    op->bytes = tnmi_engine_content(e, content)->bytes;
    op->request = plan->request;
    op->state = TNMI_OP_ROOM;
    if (home) { /* writable adopted memory: it has its place */
        op->replica = tnmi_engine_index(e, content, tier);
        op->state = TNMI_OP_PLACED;
        home->offset = index;
        tnmi_tensor_mark(home, TNMI_BUSY, 0);
    } else {
        op->replica = tnmi_tensor_place(&e->tensors, content, tier, index);
    }
    tnmi_tensor_set_alone(&e->tensors, content);
    if (plan->head == TNMI_NONE)
        plan->head = index;
    else
        tnmi_engine_op(e, plan->tail)->plan = index;
    plan->tail = index;
    *out = index;
    return TNM_OK;
}

/* ---- which window? ---- */
typedef struct tnmi_oldest { /* the head of the order of leaving, popped and put back */
    uint32_t index[TNMI_OLDEST];
    uint64_t key[TNMI_OLDEST];
    uint32_t count;
    int more; /* the search used up its steps */
} tnmi_oldest;

/* Correct recorded keys at the top of the heap until it can be believed; then pop it. 0 = end. */
static int tnmi_engine_pop_oldest(tnmi_engine *e, const tnmi_view *view, tnmi_oldest *oldest,
                                  uint32_t *steps) {
    tnmi_heap *order = &e->tensors.on[view->tier].order;
    while (order->count > 0 && oldest->count < TNMI_OLDEST) {
        uint32_t node = tnmi_store_slot(order, 0)->owner;
        uint32_t index = tnmi_space_node(view->space, node)->a;
        uint64_t recorded = tnmi_store_key(tnmi_store_slot(order, 0)), key;
        const tnmi_replica *replica = tnmi_tensor_replica(view->tensors, view->tier, index);
        uint64_t word = tnmi_base_peek64(&replica->word);
        key = tnmi_tensor_pins(word) || (word & TNMI_CLAIM) ? view->clock /* cannot leave now */
                                                            : tnmi_policy_key(view, replica);
        if (key > recorded && e->rekeys[view->tier] <= order->count) {
            if ((*steps)++ >= TNMI_REKEYS) {
                oldest->more = 1;
                return 0;
            }
            e->rekeys[view->tier]++;
            tnmi_store_heap_rekey(order, node, key);
            continue;
        }
        if (key > recorded) tnmi_engine_tier(e, view->tier)->lru_inexact++;
        tnmi_store_heap_drop(order, node);
        oldest->index[oldest->count] = index;
        oldest->key[oldest->count++] = key;
        return 1;
    }
    return 0;
}

/* Keys that may have fallen are recorded anew, some at each search, until all were; those that are
 * learned fall with a hit, which tells nobody, so there all are, again and again. */
static void tnmi_engine_go_over(tnmi_engine *e, uint32_t tier) {
    const tnmi_residents *on = &e->tensors.on[tier];
    int again = e->hints.learned.on && e->gone_over[tier] >= on->replicas.fresh;
    if (again || e->falls[tier] != e->hints.falls) e->gone_over[tier] = 0;
    e->falls[tier] = e->hints.falls;
    for (int i = 0; i < TNMI_GO_OVER && e->gone_over[tier] < on->replicas.fresh; i++) {
        uint32_t index = e->gone_over[tier]++;
        const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
        if (tnmi_tensor_is(tnmi_base_peek64(&replica->word), TNMI_READY)) /* not a free record */
            tnmi_engine_rekey(e, tier, index);
    }
}

static void tnmi_engine_put_back(tnmi_engine *e, uint32_t tier, const tnmi_oldest *oldest) {
    for (uint32_t i = 0; i < oldest->count; i++)
        tnmi_store_heap_push(&e->tensors.on[tier].order,
                             tnmi_tensor_replica(&e->tensors, tier, oldest->index[i])->node,
                             oldest->key[i]);
}

/* The run around an old victim: some nodes to the left, and on from there. */
static void tnmi_engine_scan_near(const tnmi_view *view, const tnmi_wish *wish, uint32_t index,
                                  tnmi_window *best) {
    const tnmi_replica *replica = tnmi_tensor_replica(view->tensors, view->tier, index);
    uint32_t node = replica->node, seen = 0, size = 0, kind;
    const tnmi_node *own = tnmi_space_node(view->space, node);
    if (own->offset >= wish->room.to) return;
    if (own->offset + tnmi_space_size(own) <= wish->room.from) return;
    do {
        const tnmi_node *left = tnmi_space_node(view->space, node);
        size += tnmi_space_size(left);
        kind = tnmi_space_kind(tnmi_space_node(view->space, left->prev));
        if (kind == TNMI_SPACE_EDGE || kind == TNMI_SPACE_HELD || size >= wish->room.need) break;
        node = left->prev;
    } while (++seen < 64);
    tnmi_policy_scan(view, wish, node, TNMI_NEAR_NODES, best);
}

static void tnmi_engine_scan_all(const tnmi_engine *e, const tnmi_view *view, const tnmi_wish *wish,
                                 tnmi_window *best) {
    for (uint32_t i = tnmi_engine_tier(e, view->tier)->segments; i != TNMI_NONE;) {
        const tnmi_segment *s = tnmi_tier_segment(&e->tiers, i);
        if (s->state == TNMI_SEGMENT_LIVE && s->edge != TNMI_NONE)
            tnmi_policy_scan(view, wish, tnmi_space_node(view->space, s->edge)->next, UINT32_MAX,
                             best);
        if (wish->low && best->first != TNMI_NONE && best->kept == 0) return;
        i = s->next;
    }
}

/* A kept tensor among kept ones that lie too loosely for it. */
static void tnmi_engine_pack(const tnmi_engine *e, const tnmi_view *view, const tnmi_wish *wish,
                             tnmi_window *best) {
    const tnmi_segment *s = tnmi_tier_segment(&e->tiers, tnmi_engine_tier(e, view->tier)->segments);
    tnmi_wish pack = *wish;
    tnmi_window window;
    pack.pack = 1;
    tnmi_policy_pack(view, &pack, tnmi_space_node(view->space, s->edge)->next, &window);
    if (window.first != TNMI_NONE) *best = window;
}

/* The oldest evictable victim if it makes the room with its free neighbours, else the cheapest run:
 * of all, or in a large tier of those around the oldest. OK, PENDING (go on searching), BUDGET. */
static tnm_result tnmi_engine_find_window(tnmi_engine *e, uint32_t tier, const tnmi_wish *wish,
                                          tnmi_window *out) {
    tnmi_view view = tnmi_engine_view(e, tier);
    tnmi_oldest oldest;
    uint32_t steps = 0, tried = 0;
    int large = view.space->nodes.live > TNMI_WALK_NODES, found = 0;
    oldest.count = 0;
    oldest.more = 0;
    out->first = TNMI_NONE;
    tnmi_engine_go_over(e, tier);
    while (!found && !wish->low && tnmi_engine_pop_oldest(e, &view, &oldest, &steps)) {
        uint32_t index = oldest.index[oldest.count - 1];
        uint64_t key;
        const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
        if (oldest.key[oldest.count - 1] >= wish->before) break;
        if (tnmi_tier_segment(&e->tiers, replica->segment)->state != TNMI_SEGMENT_LIVE) continue;
        if (!tnmi_policy_may_take(&view, wish, replica, &key) || key == TNMI_KEY_KEEP) continue;
        found = tried++ == 0 && tnmi_policy_alone(&view, wish, replica->node, out);
        if (!found && !large) break;
    }
    tnmi_engine_put_back(e, tier, &oldest);
    if (oldest.more) {
        e->changed++;
        return TNM_PENDING;
    }
    e->rekeys[tier] = 0;
    if (found) return TNM_OK;
    out->first = TNMI_NONE;
    for (uint32_t i = 0; large && i < oldest.count; i++) {
        const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, oldest.index[i]);
        if (i >= TNMI_NEAR && (out->first != TNMI_NONE || wish->guess)) break;
        if (tnmi_tier_segment(&e->tiers, replica->segment)->state != TNMI_SEGMENT_LIVE) continue;
        tnmi_engine_scan_near(&view, wish, oldest.index[i], out);
    }
    if (out->first == TNMI_NONE && (!large || (!wish->guess && wish->room.from == 0)))
        tnmi_engine_scan_all(e, &view, wish, out);
    if (wish->low && wish->room.to != UINT32_MAX && (out->first == TNMI_NONE || out->kept > 0))
        tnmi_engine_pack(e, &view, wish, out);
    return out->first == TNMI_NONE ? TNM_ERR_BUDGET : TNM_OK;
}

/* ---- why is there no room? ---- */
static tnmi_request *tnmi_engine_request(const tnmi_engine *e, uint32_t index) {
    return (tnmi_request *)tnmi_store_at(&e->requests, index);
}

/* What nobody waits for is younger than all. */
static uint64_t tnmi_engine_age(const tnmi_engine *e, uint32_t request) {
    return request == TNMI_NONE ? TNMI_NEVER : tnmi_engine_request(e, request)->age;
}

typedef struct tnmi_walls { /* of a tier, as a refusal sees them */
    uint64_t gap, movable;  /* largest run between walls; free granules in all */
    uint64_t whole;         /* bytes of segments without a wall: they can go as a whole */
    uint64_t most;          /* the largest need that fits, or will when what may leave has left */
    uint64_t pinned, fenced, claimed, in_flight; /* bytes */
    int passing;                                 /* something in the way ends by itself */
    tnm_result sick; /* dirty bytes are stuck because the tier below fails with this */
    int stuck;       /* dirty bytes are in the bottom: compaction may help */
} tnmi_walls;

static tnmi_member *tnmi_engine_member(const tnmi_engine *e, uint32_t index) {
    return (tnmi_member *)tnmi_store_at(&e->members, index);
}

/* The member for a content on a tier; `mark` of the content names one of its ring. */
static uint32_t tnmi_engine_twin(const tnmi_engine *e, uint32_t mark, uint32_t tier) {
    uint32_t first = mark ? mark - 1 : TNMI_NONE, at = first;
    while (at != TNMI_NONE && tnmi_engine_member(e, at)->tier != tier) {
        at = tnmi_engine_member(e, at)->twin;
        if (at == first) return TNMI_NONE;
    }
    return at;
}

/* Was this transfer planned for the request that asks? What it took is no way out for it. */
static int tnmi_engine_is_own(const tnmi_engine *e, uint32_t op, uint32_t request) {
    return request != TNMI_NONE && tnmi_engine_op(e, op)->request == request;
}

/* Is, or will be, a copy further down the spill path there, which is not this request's doing? */
static int tnmi_engine_survives(const tnmi_engine *e, uint32_t content, uint32_t tier,
                                uint32_t request) {
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        const tnmi_replica *other = tnmi_engine_on(e, content, t);
        if (t == tier || !((e->below[tier] >> t) & 1u) || !other) continue;
        if (tnmi_tensor_is_ready(other)) return 1;
        if (tnmi_engine_is_busy(other) && !tnmi_engine_is_own(e, other->offset, request)) return 1;
    }
    return 0;
}

static int tnmi_engine_is_own_node(const tnmi_engine *e, uint32_t tier, const tnmi_node *node,
                                   uint32_t request) {
    if (tnmi_space_kind(node) == TNMI_SPACE_HELD)
        return node->a != TNMI_SPACE_DRAIN && tnmi_engine_is_own(e, node->a, request);
    if (node->a == TNMI_NONE) return 0;
    if (node->b && !(node->b & TNMI_CLAIMED) && tnmi_engine_is_own(e, node->b - 1, request))
        return 1;
    const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, node->a);
    uint32_t mark = tnmi_engine_content(e, replica->content)->mark;
    if (request != TNMI_NONE && mark &&
        (tnmi_engine_twin(e, mark, tier) != TNMI_NONE ||
         !tnmi_engine_survives(e, replica->content, tier, request)))
        return 1; /* it stays, or it is what another member of the set is read from */
    return tnmi_engine_is_busy(replica) && tnmi_engine_is_own(e, replica->offset, request);
}

/* Dirty bytes are stuck with what their way down failed with, or BACKEND: alloc refuses below. */
static tnm_result tnmi_engine_sick_of(const tnmi_view *view, const tnmi_tier *tier) {
    return view->sick ? tier->sick_of : TNM_ERR_BACKEND;
}

/* Is this node a wall for ever, as far as the engine alone can tell? Adds it to the sums. */
static int tnmi_engine_is_wall(const tnmi_engine *e, const tnmi_view *view, const tnmi_node *node,
                               uint64_t bytes, tnmi_walls *walls) {
    if (node->a == TNMI_NONE) {
        walls->passing = 1; /* being wiped */
        return 0;
    }
    const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, view->tier, node->a);
    uint64_t word = tnmi_base_load64(&replica->word);
    if (tnmi_tensor_pins(word)) {
        if (tnmi_engine_live_pins(e, view->tier, node->a, 0)) {
            walls->pinned += bytes;
            return 1;
        }
        walls->fenced += bytes;
        walls->passing = 1;
        return 0;
    }
    if (word & TNMI_CLAIM) walls->claimed += bytes;
    if (tnmi_tensor_is(word, TNMI_BUSY)) walls->in_flight += bytes;
    tnmi_leave leave = tnmi_policy_may_leave(view, replica);
    if (leave == TNMI_LEAVE_SICK)
        walls->sick = tnmi_engine_sick_of(view, tnmi_engine_tier(e, view->tier));
    if (leave == TNMI_LEAVE_STUCK) walls->stuck = 1;
    if (leave == TNMI_LEAVE_LATER) walls->passing = 1;
    return leave == TNMI_LEAVE_STUCK || leave == TNMI_LEAVE_SICK;
}

/* Does a request that is not this one build the content further down? That ends by itself. */
static int tnmi_engine_is_built_below(const tnmi_engine *e, uint32_t content, uint32_t tier,
                                      uint32_t request) {
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        const tnmi_replica *there = tnmi_engine_on(e, content, t);
        if (t == tier || !tnmi_engine_is_busy(there)) continue;
        if (tnmi_engine_filling(e, there)->kind == TNMI_OP_BUILD)
            return !tnmi_engine_is_own(e, there->offset, request);
    }
    return 0;
}

/* Dirty bytes for which there is no way out: no tier below will take so many at once. `most` = what
 * the tiers below take. */
static int tnmi_engine_is_stranded(const tnmi_engine *e, const tnmi_view *view, uint32_t index,
                                   const uint64_t *most) {
    const tnmi_replica *replica = tnmi_tensor_replica(view->tensors, view->tier, index);
    uint32_t content = replica->content;
    if (tnmi_policy_may_leave(view, replica) != TNMI_LEAVE_DIRTY) return 0;
    uint32_t down = tnmi_engine_leg_tier(e, content, view->tier);
    if (down == TNMI_NONE) return !tnmi_engine_is_built_below(e, content, view->tier, TNMI_NONE);
    if (tnmi_engine_on(e, content, down)) return 0;
    return tnmi_tier_placed(tnmi_engine_tier(e, down), tnmi_engine_content(e, content)->bytes, 0) >
           most[down];
}

/* May a vacant segment go to make room for a request? Not what an older one, or it, asks for. */
static int tnmi_engine_may_vacate(const tnmi_engine *e, const tnmi_segment *s, uint32_t request) {
    return s->asked < e->tick || s->age > tnmi_engine_age(e, request);
}

static void tnmi_engine_walls_dedicated(const tnmi_engine *e, const tnmi_view *view,
                                        const tnmi_segment *s, uint32_t request,
                                        const uint64_t *strict, tnmi_walls *walls) {
    const tnmi_node *node = NULL;
    if (tnmi_tier_is_vacant(s)) {
        if (request != TNMI_NONE && s->asked == e->tick && s->age == tnmi_engine_age(e, request))
            return; /* its own */
        walls->passing = 1;
    } else if (!s->used) {
        return; /* on its way out */
    } else if (s->owner == TNMI_NONE) {
        walls->passing = 1; /* being wiped */
    } else {
        node = tnmi_space_node(view->space,
                               tnmi_tensor_replica(&e->tensors, view->tier, s->owner)->node);
    }
    if (node && tnmi_engine_is_own_node(e, view->tier, node, request)) return;
    if (node && tnmi_engine_is_wall(e, view, node, s->size, walls)) return;
    if (node && strict && tnmi_engine_is_stranded(e, view, s->owner, strict)) return;
    walls->gap += s->size;
}

/* The largest run of a segment that is free, or will be. `whole` = there is nothing else in it.
 * `strict`: what the tiers below take; NULL = that is asked when it is planned. */
static uint64_t tnmi_engine_run(const tnmi_engine *e, const tnmi_view *view, const tnmi_segment *s,
                                uint32_t request, const uint64_t *strict, tnmi_walls *walls,
                                int *whole) {
    uint64_t granule = tnmi_engine_tier(e, view->tier)->granule, run = 0, longest = 0;
    uint32_t n = s->edge;
    *whole = !tnmi_engine_segment_used(e, view->tier, s, 0, UINT32_MAX);
    if (s->dedicated && strict && s->used && s->owner != TNMI_NONE)
        *whole &= !tnmi_engine_is_stranded(e, view, s->owner, strict);
    while (n != TNMI_NONE && (n = tnmi_space_node(view->space, n)->next) != s->edge) {
        const tnmi_node *node = tnmi_space_node(view->space, n);
        uint64_t bytes = tnmi_space_size(node) * granule;
        uint32_t kind = tnmi_space_kind(node);
        int wall = kind != TNMI_SPACE_FREE && tnmi_engine_is_own_node(e, view->tier, node, request);
        if (kind == TNMI_SPACE_HELD && !wall && node->a != TNMI_SPACE_DRAIN) walls->passing = 1;
        if (kind == TNMI_SPACE_FREE) walls->movable += bytes;
        if (!wall && kind == TNMI_SPACE_USED)
            wall = tnmi_engine_is_wall(e, view, node, bytes, walls) ||
                   (strict && node->a != TNMI_NONE &&
                    tnmi_engine_is_stranded(e, view, node->a, strict));
        run = wall ? 0 : run + bytes;
        if (wall) *whole = 0;
        longest = tnmi_base_max(longest, run);
    }
    return longest;
}

/* Would compaction help, and has it not said no yet? */
static int tnmi_engine_may_compact(const tnmi_engine *e, const tnmi_tier *t,
                                   const tnmi_walls *walls) {
    return walls->stuck && !tnmi_tier_is_off(&t->stiff, e->tick) && t->moved_mark != e->changed &&
           t->desc.segment_bytes != TNM_DEDICATED;
}

/* The walls of one tier. What is to leave a tier below, or a segment that drains, must find room
 * further down: `below` says how much each tier there takes. */
static void tnmi_engine_walls_of(const tnmi_engine *e, uint32_t tier, uint32_t request,
                                 const uint64_t *below, int strict, tnmi_walls *walls) {
    const tnmi_tier *t = tnmi_engine_tier(e, tier);
    tnmi_view view = tnmi_engine_view(e, tier);
    memset(walls, 0, sizeof *walls);
    for (uint32_t i = t->segments; i != TNMI_NONE;) {
        const tnmi_segment *s = tnmi_tier_segment(&e->tiers, i);
        i = s->next;
        int live = s->state == TNMI_SEGMENT_LIVE, whole;
        const uint64_t *asked = strict || s->state == TNMI_SEGMENT_DRAINING ? below : NULL;
        if (s->dedicated)
            tnmi_engine_walls_dedicated(e, &view, s, request, strict ? below : NULL, walls);
        uint64_t run = tnmi_engine_run(e, &view, s, request, asked, walls, &whole);
        if (live) walls->gap = tnmi_base_max(walls->gap, run);
        if (live && whole && !s->dedicated) walls->whole += s->size;
        if (live || !whole || tnmi_tier_is_vacant(s)) continue;
        walls->passing = 1; /* its bytes come back to the ledger */
        walls->gap = tnmi_base_max(walls->gap, t->budget);
    }
    int dedicated = t->desc.segment_bytes == TNM_DEDICATED;
    uint64_t room = strict && tnmi_tier_is_off(&t->scant, e->tick) ? 0 : tnmi_tier_room(t);
    uint64_t beside = dedicated ? tnmi_base_less(room, t->set_aside) : 0;
    if (!tnmi_base_add(walls->gap, beside, &walls->most)) walls->most = UINT64_MAX;
    if (!dedicated) walls->most = tnmi_base_max(walls->gap, walls->whole + room);
    if (strict && tnmi_engine_may_compact(e, t, walls))
        walls->most = tnmi_base_max(walls->most, walls->movable);
    if (t->coming && !dedicated) walls->most = UINT64_MAX;
}

/* How much each tier below this one takes at most: from the bottom up. */
static void tnmi_engine_most_below(const tnmi_engine *e, uint32_t tier, uint64_t *most) {
    tnmi_walls walls;
    for (uint32_t t = e->tiers.count; t-- > 0;) {
        most[t] = UINT64_MAX;
        if (t <= tier || !((e->below[tier] >> t) & 1u)) continue;
        tnmi_engine_walls_of(e, t, TNMI_NONE, most, 1, &walls);
        most[t] = walls.most;
    }
}

static void tnmi_engine_walls(const tnmi_engine *e, uint32_t tier, uint32_t request,
                              tnmi_walls *walls) {
    uint64_t most[TNM_MAX_TIERS];
    int drains = tnmi_engine_tier(e, tier)->draining > 0;
    if (drains) tnmi_engine_most_below(e, tier, most);
    tnmi_engine_walls_of(e, tier, request, drains ? most : NULL, 0, walls);
}

/* A demand overtakes: fetches nobody waits for that have not begun give their room back. */
static int tnmi_engine_make_way(tnmi_engine *e, uint32_t tier) {
    static const int queues[] = { TNM_CLASS_GUESS, TNM_CLASS_SURE, TNMI_MOVE_ROOM };
    int freed = 0;
    for (int q = 0; q < 3 && !e->rehearsing; q++)
        for (uint32_t i = e->move.queue[queues[q]].head; i != TNMI_NONE;) {
            const tnmi_op *op = tnmi_engine_op(e, i);
            uint32_t index = i;
            i = op->next_op;
            if (op->tier != tier || op->claims || op->next || (!op->fresh && !op->via)) continue;
            tnmi_engine_cancel_op(e, index);
            freed++;
        }
    return freed;
}

/* No place was found. PENDING if what is in the way ends by itself, else the error. */
static tnm_result tnmi_engine_classify(tnmi_engine *e, tnmi_plan *plan, uint32_t tier,
                                       uint64_t need) {
    tnmi_walls walls;
    tnmi_tier *t = tnmi_engine_tier(e, tier);
    plan->short_on = tier;
    plan->need = need;
    if (plan->guess) return TNM_ERR_BUDGET;
    tnmi_engine_walls(e, tier, plan->request, &walls);
    if (need <= walls.most && tnmi_engine_make_way(e, tier)) {
        plan->freed = 1;
        return TNM_PENDING;
    }
    if (need <= walls.most && walls.passing) return TNM_PENDING;
    if (need <= walls.movable && tnmi_engine_may_compact(e, t, &walls)) {
        t->compact = 1;
        return TNM_PENDING;
    }
    if (tnmi_tier_is_off(&t->scant, e->tick) && !walls.pinned) return TNM_ERR_BACKEND;
    return walls.sick ? walls.sick : TNM_ERR_BUDGET;
}

/* Vacant segments that may go, until there are `need` bytes: counted, and given back if told to. */
static uint64_t tnmi_engine_vacate(tnmi_engine *e, uint32_t tier, uint32_t request, uint64_t need,
                                   uint64_t have, int go) {
    for (uint32_t i = tnmi_engine_tier(e, tier)->segments; i != TNMI_NONE && have < need;) {
        const tnmi_segment *s = tnmi_tier_segment(&e->tiers, i);
        uint32_t index = i;
        i = s->next;
        if (!tnmi_tier_is_vacant(s) || s->state != TNMI_SEGMENT_LIVE) continue;
        if (!tnmi_engine_may_vacate(e, s, request)) continue;
        have += s->size;
        if (go) tnmi_engine_drain_segment(e, tier, index);
    }
    return have;
}

/* Bytes that come back to the ledger of a dedicated tier by themselves. */
static uint64_t tnmi_engine_coming_back(const tnmi_engine *e, const tnmi_view *view,
                                        const uint64_t *most) {
    uint64_t sum = 0;
    for (uint32_t i = tnmi_engine_tier(e, view->tier)->segments; i != TNMI_NONE;) {
        const tnmi_segment *s = tnmi_tier_segment(&e->tiers, i);
        i = s->next;
        if (s->state < TNMI_SEGMENT_DRAINING) continue;
        if (s->used && s->owner != TNMI_NONE) {
            tnmi_leave leave =
                tnmi_policy_may_leave(view, tnmi_tensor_replica(&e->tensors, view->tier, s->owner));
            if (leave > TNMI_LEAVE_LATER || tnmi_engine_is_used(e, view->tier, s->owner, 1) ||
                tnmi_engine_is_stranded(e, view, s->owner, most))
                continue;
        }
        sum += s->size;
    }
    return sum;
}

/* A dedicated tier has no windows: whole tensors go, oldest first, if that is enough. */
static tnm_result tnmi_engine_drain_oldest(tnmi_engine *e, tnmi_plan *plan, uint32_t tier,
                                           uint64_t need) {
    tnmi_view view = tnmi_engine_view(e, tier);
    tnmi_oldest oldest;
    tnmi_tier *t = tnmi_engine_tier(e, tier);
    uint32_t steps = 0, i;
    unsigned char stays[TNMI_OLDEST];
    uint64_t have = tnmi_base_less(tnmi_tier_room(t), t->set_aside), key;
    uint64_t most[TNM_MAX_TIERS];
    tnmi_wish wish;
    if (have >= need) return tnmi_engine_classify(e, plan, tier, need);
    tnmi_engine_most_below(e, tier, most);
    memset(&wish, 0, sizeof wish);
    wish.before = plan->before;
    wish.guess = plan->guess;
    oldest.count = 0;
    oldest.more = 0;
    have += tnmi_engine_coming_back(e, &view, most);
    uint64_t vacate = have;
    have = tnmi_engine_vacate(e, tier, plan->request, need, have, 0);
    while (have < need && tnmi_engine_pop_oldest(e, &view, &oldest, &steps)) {
        uint32_t index = oldest.index[oldest.count - 1];
        const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
        const tnmi_segment *s = tnmi_tier_segment(&e->tiers, replica->segment);
        stays[oldest.count - 1] = s->state != TNMI_SEGMENT_LIVE ||
                                  !tnmi_policy_may_take(&view, &wish, replica, &key) ||
                                  tnmi_engine_is_stranded(e, &view, index, most);
        if (!stays[oldest.count - 1]) have += s->size;
    }
    tnmi_engine_put_back(e, tier, &oldest);
    if (!oldest.more) e->rekeys[tier] = 0;
    if (oldest.more && !e->rehearsing) e->changed++;
    if (have < need) return oldest.more ? TNM_PENDING : tnmi_engine_classify(e, plan, tier, need);
    if (e->rehearsing) return TNM_PENDING;
    tnmi_engine_drain_on(e, tier);
    tnmi_engine_vacate(e, tier, plan->request, need, vacate, 1);
    for (i = 0; i < oldest.count; i++) {
        const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, oldest.index[i]);
        if (!stays[i]) tnmi_engine_drain_segment(e, tier, replica->segment);
    }
    return TNM_PENDING;
}

/* Does an older request wait for room on this tier? What came back would never be enough for it, if
 * younger ones took it meanwhile. */
static int tnmi_engine_is_sought(const tnmi_engine *e, uint32_t tier, uint32_t request) {
    uint64_t age = tnmi_engine_age(e, request);
    for (uint32_t r = e->oldest_request; r != TNMI_NONE; r = tnmi_engine_request(e, r)->next) {
        const tnmi_request *older = tnmi_engine_request(e, r);
        if (older->age >= age) return 0;
        if (!older->admitted && older->result == TNM_PENDING && older->short_on == tier) return 1;
    }
    return 0;
}

/* Are segments emptied for an older request? What they give back is his: another would have it made
 * a segment, for that to be emptied in its turn. */
static int tnmi_engine_is_emptied(const tnmi_engine *e, uint32_t tier, uint32_t request) {
    uint64_t age = tnmi_engine_age(e, request);
    for (uint32_t r = e->oldest_request; r != TNMI_NONE; r = tnmi_engine_request(e, r)->next) {
        const tnmi_request *older = tnmi_engine_request(e, r);
        if (older->age >= age) return 0;
        if (older->empties && older->result == TNM_PENDING && older->short_on == tier) return 1;
    }
    return 0;
}

/* May a plan not have a segment made now? What a write-back waits for no guess takes: it would be
 * emptied for that in its turn, and be made again, for ever. */
static int tnmi_engine_is_spoken_for(const tnmi_engine *e, const tnmi_plan *plan, uint32_t tier) {
    const tnmi_tier *t = tnmi_engine_tier(e, tier);
    if (plan->guess && t->sought == e->round) return 1;
    return t->desc.segment_bytes == TNM_DEDICATED ? tnmi_engine_is_sought(e, tier, plan->request)
                                                  : tnmi_engine_is_emptied(e, tier, plan->request);
}

static tnm_result tnmi_engine_find_dedicated(tnmi_engine *e, tnmi_plan *plan, uint32_t op_index) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    tnmi_tier *t = tnmi_engine_tier(e, op->tier);
    void *item = tnmi_engine_content(e, op->content)->user;
    uint64_t need = (uint64_t)op->need * t->granule, age = tnmi_engine_age(e, plan->request);
    int spoken_for = tnmi_engine_is_spoken_for(e, plan, op->tier);
    if (spoken_for && plan->guess) return TNM_PENDING; /* nor does it take what stands empty */
    uint32_t vacant = tnmi_engine_vacant(e, op->tier, item, need);
    if (vacant != TNMI_NONE) {
        tnmi_segment *s = tnmi_tier_segment(&e->tiers, vacant);
        if (!e->rehearsing) {
            s->age = s->asked < e->tick ? age : tnmi_base_min(s->age, age);
            s->asked = e->tick;
        }
        if (s->state != TNMI_SEGMENT_LIVE) return TNM_PENDING;
        tnmi_engine_place_dedicated(e, op_index, vacant);
        return TNM_OK;
    }
    if (spoken_for) return TNM_PENDING;
    tnm_result r = tnmi_engine_want_segment(e, op->tier, need, item, age);
    if (r != TNM_ERR_BUDGET) return r;
    return tnmi_engine_drain_oldest(e, plan, op->tier, need);
}

/* Is the need more than any segment holds, and are whole ones emptied for it? */
static int tnmi_engine_empty_for(tnmi_engine *e, tnmi_plan *plan, uint32_t tier, uint64_t need) {
    const tnmi_tier *t = tnmi_engine_tier(e, tier);
    uint64_t widest = 0;
    if (need <= tnmi_space_largest(&t->space) * t->granule) return 0;
    for (uint32_t i = t->segments; i != TNMI_NONE; i = tnmi_tier_segment(&e->tiers, i)->next)
        if (tnmi_tier_segment(&e->tiers, i)->state >= TNMI_SEGMENT_LIVE) /* those that go as well */
            widest = tnmi_base_max(widest, tnmi_tier_segment(&e->tiers, i)->size);
    if (widest == 0 || need <= widest || need <= tnmi_tier_room(t)) return 0;
    if (!tnmi_engine_could_make_ledger(e, tier, need)) return 0; /* or they would go in vain */
    if (!e->rehearsing && !tnmi_engine_make_ledger(e, tier, need, 0)) return 0;
    return plan->empties = 1;
}

/* A streamed tensor takes the place of its like, if there is one. */
static int tnmi_engine_find_slot(tnmi_engine *e, uint32_t op_index, const tnmi_wish *wish,
                                 int clean) {
    const tnmi_op *op = tnmi_engine_op(e, op_index);
    tnmi_tier *t = tnmi_engine_tier(e, op->tier);
    tnmi_view view = tnmi_engine_view(e, op->tier);
    tnmi_window slot;
    tnmi_wish like = *wish;
    like.clean |= clean;
    if (!wish->guess || wish->room.from == 0 || view.wall != wish->room.from) return 0;
    uint32_t edge = tnmi_tier_segment(&e->tiers, t->segments)->edge;
    if (!tnmi_policy_slot(&view, &like, edge, &slot)) return 0;
    if (tnmi_space_kind(tnmi_space_node(&t->space, slot.first)) != TNMI_SPACE_FREE) {
        tnmi_engine_open_window(e, op_index, &slot);
        return 1;
    }
    tnmi_space_take(&t->space, slot.first, &wish->room, op->replica);
    tnmi_engine_settle(e, op_index, slot.first);
    return 1;
}

/* A place for a transfer: a free gap, a new segment, a window of victims. OK: placed, or waiting
 * for its window. PENDING: nothing yet. BUDGET and others: not. */
static tnm_result tnmi_engine_find_place(tnmi_engine *e, tnmi_plan *plan, uint32_t op_index,
                                         int clean) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    tnmi_tier *t = tnmi_engine_tier(e, op->tier);
    tnmi_wish wish;
    tnmi_window window;
    uint32_t kept = tnmi_engine_kept_on(e, op->content);
    memset(&wish, 0, sizeof wish);
    tnmi_engine_shape_room(e, op->content, op->tier, op, &wish.room);
    uint64_t need = (uint64_t)op->need * t->granule;
    if (!tnmi_tier_can_ever(t, need)) {
        plan->short_on = op->tier;
        plan->need = need;
        return TNM_ERR_BUDGET;
    }
    if (t->losing) return TNM_PENDING;
    tnm_result r = tnmi_engine_nodes(e, op->tier);
    if (r != TNM_OK) return r;
    if (t->desc.segment_bytes == TNM_DEDICATED)
        return tnmi_engine_find_dedicated(e, plan, op_index);
    wish.before = plan->before;
    wish.guess = plan->guess || clean;
    wish.clean = clean;
    if (tnmi_engine_find_slot(e, op_index, &wish, 1)) return TNM_OK;
    uint32_t node = tnmi_engine_take_gap(e, op->tier, op->content, &wish.room, op->replica);
    if (node != TNMI_NONE) {
        tnmi_engine_settle(e, op_index, node);
        return TNM_OK;
    }
    if (tnmi_tier_segment_size(t, need, e->tick) && tnmi_engine_is_spoken_for(e, plan, op->tier))
        return TNM_PENDING;
    r = tnmi_engine_want_segment(e, op->tier, need, NULL, 0);
    if (r != TNM_ERR_BUDGET) return r;
    if (tnmi_engine_find_slot(e, op_index, &wish, 0)) return TNM_OK;
    wish.low = kept == op->tier + 1 && t->space.nodes.live <= TNMI_WALK_NODES;
    if (!wish.low && wish.room.to != UINT32_MAX) { /* too many to pack them in one step */
        op->astray = 1;
        return tnmi_engine_find_place(e, plan, op_index, clean);
    }
    r = tnmi_engine_find_window(e, op->tier, &wish, &window);
    if (r == TNM_OK) tnmi_engine_open_window(e, op_index, &window);
    if (r != TNM_ERR_BUDGET) return r;
    if (wish.room.align > 1) { /* anywhere, then; what does not line up goes through staging */
        op->loose = 1;
        return tnmi_engine_find_place(e, plan, op_index, clean);
    }
    if (!wish.guess && (wish.room.from > 0 || wish.room.to != UINT32_MAX)) {
        op->astray = 1;
        return tnmi_engine_find_place(e, plan, op_index, clean);
    }
    if (!plan->guess && !clean && tnmi_engine_empty_for(e, plan, op->tier, need))
        return TNM_PENDING;
    return tnmi_engine_classify(e, plan, op->tier, need);
}

/* Does a request other than `but` wait to write the content, on `tier` (TNMI_NONE: on any), and
 * holds what it waits with? */
static int tnmi_engine_awaits_write(const tnmi_engine *e, uint32_t content, uint32_t tier,
                                    uint32_t but) {
    for (uint32_t r = e->oldest_request; r != TNMI_NONE; r = tnmi_engine_request(e, r)->next) {
        uint32_t m = r == but ? TNMI_NONE : tnmi_engine_request(e, r)->members;
        for (; m != TNMI_NONE; m = tnmi_engine_member(e, m)->next) {
            const tnmi_member *member = tnmi_engine_member(e, m);
            if (member->content != content || !member->claimed) continue;
            if (tier != TNMI_NONE && member->tier != tier) continue;
            if (member->access != TNM_READ) return 1;
        }
    }
    return 0;
}

/* Does a request wait with this content? What is fetched elsewhere would only be in its way. */
static int tnmi_engine_is_awaited(const tnmi_engine *e, uint32_t content) {
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        const tnmi_replica *replica = tnmi_engine_on(e, content, t);
        if (!replica) continue;
        if (tnmi_base_peek64(&replica->word) & TNMI_CLAIM) return 1;
        if (tnmi_engine_is_busy(replica)) {
            if (tnmi_engine_filling(e, replica)->claims) return 1;
        } else if (replica->node == TNMI_NONE && !tnmi_tensor_is_lent(&e->tensors, replica) &&
                   tnmi_engine_awaits_write(e, content, t, TNMI_NONE))
            return 1; /* adopted memory: no node carries the claim */
    }
    return 0;
}

/* A write-back of a content that is dirty on `tier`: joins one that is under way. */
static tnm_result tnmi_engine_want_leg(tnmi_engine *e, tnmi_plan *plan, uint32_t content,
                                       uint32_t tier) {
    uint32_t down = tnmi_engine_leg_tier(e, content, tier), op;
    if (down == TNMI_NONE) {
        plan->short_on = tier;
        plan->need =
            tnmi_tier_placed(tnmi_engine_tier(e, tier), tnmi_engine_content(e, content)->bytes, 0);
        return tnmi_engine_is_built_below(e, content, tier, plan->request) ? TNM_PENDING
                                                                           : TNM_ERR_BUDGET;
    }
    tnmi_replica *there = tnmi_engine_on(e, content, down);
    if (tnmi_engine_is_busy(there)) {
        if (tnmi_engine_filling(e, there)->state == TNMI_OP_DRAINING) return TNM_PENDING;
        tnmi_move_raise(&e->move, there->offset, plan->class_, plan->step);
        return TNM_OK;
    }
    /* a writer who waits for his grant would take it back, and be kept by it: he comes first */
    if (tnmi_engine_is_awaited(e, content) &&
        tnmi_engine_awaits_write(e, content, TNMI_NONE, plan->request))
        return TNM_PENDING;
    return tnmi_engine_new_op(e, plan, content, down, TNMI_OP_FILL, &op);
}

/* The write-backs a transfer's window waits for. */
static tnm_result tnmi_engine_want_legs(tnmi_engine *e, tnmi_plan *plan, uint32_t op_index) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    uint32_t tier = op->tier, node = op->window, end = op->window_end, at;
    if (node == TNMI_NONE) return TNM_OK;
    const tnmi_space *space = &tnmi_engine_tier(e, tier)->space;
    do {
        const tnmi_node *n = tnmi_space_node(space, node);
        at = n->offset + tnmi_space_size(n);
        node = n->next;
        if (tnmi_space_kind(n) != TNMI_SPACE_USED || n->a == TNMI_NONE) continue;
        tnmi_view view = tnmi_engine_view(e, tier);
        const tnmi_replica *victim = tnmi_tensor_replica(&e->tensors, tier, n->a);
        uint32_t content = victim->content;
        if (!tnmi_policy_is_dirty(&view, content, tier)) continue;
        if (tnmi_tensor_advice(tnmi_engine_content(e, content)) & TNM_DROPPABLE) continue;
        tnm_result r = tnmi_engine_want_leg(e, plan, content, tier);
        if (r != TNM_OK) return r;
    } while (at < end);
    return TNM_OK;
}

/* Everything as before: no plan that failed becomes possible by it. */
static void tnmi_engine_undo(tnmi_engine *e, tnmi_plan *plan) {
    uint64_t changed = e->changed;
    while (plan->head != TNMI_NONE) {
        uint32_t next = tnmi_engine_op(e, plan->head)->plan;
        tnmi_engine_unplace_dedicated(e, plan->head);
        tnmi_engine_abandon(e, plan->head);
        plan->head = next;
    }
    plan->tail = TNMI_NONE;
    e->changed = changed;
}

/* Find a place for every transfer of the plan from `from` on, and for the write-backs they wait
 * for: bottom-up is not needed, since nothing moves before all of it stands. */
static tnm_result tnmi_engine_place_all(tnmi_engine *e, tnmi_plan *plan, uint32_t from) {
    for (uint32_t i = from; i != TNMI_NONE; i = tnmi_engine_op(e, i)->plan) {
        if (tnmi_engine_op(e, i)->state != TNMI_OP_ROOM) continue;
        if (tnmi_engine_op(e, i)->window != TNMI_NONE) continue;
        tnm_result r = tnmi_engine_find_place(e, plan, i, 0);
        /* whatever it waits for there, those who came later wait behind it */
        if (r == TNM_PENDING) plan->short_on = tnmi_engine_op(e, i)->tier;
        if (r == TNM_OK) r = tnmi_engine_want_legs(e, plan, i);
        if (r != TNM_OK) return r;
    }
    return TNM_OK;
}

/* Into the queue of its class; a DISCARD that needs no zeros only waits for its grant. */
static void tnmi_engine_enqueue(tnmi_engine *e, uint32_t op_index) {
    const tnmi_op *op = tnmi_engine_op(e, op_index);
    if (op->kind == TNMI_OP_BUILD &&
        !(tnmi_tensor_advice(tnmi_engine_content(e, op->content)) & TNM_SCRUB))
        tnmi_move_unqueue(&e->move, op_index);
    else
        tnmi_move_enqueue(&e->move, op_index, (int)op->class_);
}

static void tnmi_engine_advise(tnmi_engine *e, uint32_t content, uint32_t advice) {
    tnmi_tensor_set_field(tnmi_engine_content(e, content), TNMI_ADVICE_SHIFT, 5, advice);
    for (uint32_t t = 0; t < e->tiers.count; t++) { /* a place that waits may need zeros now */
        const tnmi_replica *replica = tnmi_engine_on(e, content, t);
        if (!tnmi_engine_is_busy(replica)) continue;
        const tnmi_op *op = tnmi_engine_filling(e, replica);
        if (op->kind == TNMI_OP_BUILD && op->state != TNMI_OP_ROOM && op->next < op->bytes &&
            op->state != TNMI_OP_DRAINING)
            tnmi_engine_enqueue(e, replica->offset);
    }
    tnmi_engine_rekey_all(e, content);
    e->changed++;
}

/* The plan stands: its transfers enter their queues. */
static void tnmi_engine_commit(tnmi_engine *e, tnmi_plan *plan) {
    for (uint32_t i = plan->head; i != TNMI_NONE;) {
        tnmi_op *op = tnmi_engine_op(e, i);
        uint32_t index = i;
        i = op->plan;
        op->plan = TNMI_NONE;
        if (!op->claims || op->state != TNMI_OP_ROOM) op->request = TNMI_NONE;
        tnm_event *event = tnmi_engine_event(e, TNM_EVENT_LOAD, op->tier, op->content);
        if (event) event->class_ = op->class_;
        if (op->state == TNMI_OP_ROOM)
            tnmi_move_enqueue(&e->move, index, TNMI_MOVE_ROOM);
        else
            tnmi_engine_enqueue(e, index);
    }
    plan->head = plan->tail = TNMI_NONE;
}

/* On the way up from far below, a stop on the next tier of the path: it costs no more than staging
 * and leaves the bytes nearer. Only where it displaces nothing better; never required. */
static void tnmi_engine_want_via(tnmi_engine *e, tnmi_plan *plan, uint32_t content, uint32_t tier) {
    int m = tnmi_engine_tier(e, tier)->spill;
    tnmi_view view = tnmi_engine_view(e, tier);
    uint32_t source = tnmi_policy_survivor(&view, content, tier), op, tail;
    if (m < 0 || source == TNMI_NONE || e->cost_in[source] <= e->cost_in[m]) return;
    if (tnmi_engine_on(e, content, (uint32_t)m) || source == (uint32_t)m) return;
    tail = plan->tail;
    if (tnmi_engine_new_op(e, plan, content, (uint32_t)m, TNMI_OP_FILL, &op) != TNM_OK) return;
    uint64_t before = plan->before;
    view = tnmi_engine_view(e, (uint32_t)m);
    plan->before = tnmi_base_min(before, tnmi_policy_key_passing(&view, content));
    tnm_result r = tnmi_engine_find_place(e, plan, op, 1);
    plan->before = before;
    if (r == TNM_OK) {
        tnmi_engine_op(e, op)->via = 1;
        tnmi_engine_want_via(e, plan, content, (uint32_t)m);
        return;
    }
    tnmi_engine_abandon(e, op);
    plan->tail = tail;
    if (tail == TNMI_NONE)
        plan->head = TNMI_NONE;
    else
        tnmi_engine_op(e, tail)->plan = TNMI_NONE;
}

/* ---- requests: sets that wait ---- */
static uint64_t tnmi_engine_hash(const tnm_use *set, int count) {
    uint64_t hash = (uint64_t)count;
    for (int i = 0; i < count; i++) {
        hash = tnmi_base_mix(hash, set[i].tensor.id);
        hash = tnmi_base_mix(hash, (uint64_t)set[i].tier << 8 | (uint64_t)set[i].access);
    }
    return hash;
}

static uint32_t *tnmi_engine_member_next(void *of, uint32_t index) {
    return &tnmi_engine_member((tnmi_engine *)of, index)->next;
}

static int tnmi_engine_member_before(void *of, uint32_t a, uint32_t b) {
    const tnmi_engine *e = (const tnmi_engine *)of;
    return tnmi_engine_member(e, a)->bytes > tnmi_engine_member(e, b)->bytes;
}

#    define TNMI_WHOLE ((uint32_t)1 << 31) /* tnm_use.flags, ours: the content, whatever the name */
#    define TNMI_FIRST ((uint32_t)1 << 30) /* the same: only while it holds nothing */

/* DISCARD through a view that does not cover its content acts as WRITE. */
static tnm_access tnmi_engine_access(const tnmi_engine *e, uint32_t name, uint32_t content,
                                     tnm_access access) {
    if (access != TNM_DISCARD || name == content) return access;
    return tnmi_engine_content(e, name)->bytes == tnmi_engine_content(e, content)->bytes
               ? TNM_DISCARD
               : TNM_WRITE;
}

static int tnmi_engine_stronger(tnm_access a, tnm_access b) {
    if (a == TNM_READ || b == TNM_READ) return a == TNM_READ ? (int)b : (int)a;
    return a == TNM_WRITE || b == TNM_WRITE ? TNM_WRITE : TNM_DISCARD;
}

static void tnmi_engine_free_members(tnmi_engine *e, uint32_t members) {
    while (members != TNMI_NONE) {
        uint32_t next = tnmi_engine_member(e, members)->next;
        tnmi_store_give(&e->members, members);
        members = next;
    }
}

/* Is one content wanted on two tiers, and to be written on one of them? */
static int tnmi_engine_is_torn(const tnmi_engine *e, uint32_t members) {
    for (uint32_t m = members; m != TNMI_NONE; m = tnmi_engine_member(e, m)->next)
        if (tnmi_engine_member(e, m)->twin != m && tnmi_engine_member(e, m)->access != TNM_READ)
            return 1;
    return 0;
}

/* One more use of a member. 0 = the pin word cannot count so many. */
static int tnmi_engine_count_use(tnmi_member *member, tnm_access access) {
    member->pins++;
    member->writes += access != TNM_READ;
    return member->pins <= TNMI_MOST_PINS && member->writes <= TNMI_MOST_WRITERS;
}

/* The set with duplicates and views merged, by a mark in each content's slot. Handles were checked.
 * ARGUMENT: the same content on two tiers, one of them to be written. CAPACITY: more uses of one
 * than its pin word counts. */
static tnm_result tnmi_engine_gather(tnmi_engine *e, const tnm_use *set, int count, uint32_t *out) {
    uint32_t head = TNMI_NONE;
    tnm_result r = tnmi_engine_table(e, &e->members, (uint32_t)count);
    *out = TNMI_NONE;
    if (r != TNM_OK) return r;
    for (int i = 0; i < count; i++) {
        tnm_result why;
        uint64_t offset;
        uint32_t name = tnmi_tensor_find(&e->tensors, set[i].tensor.id, &why);
        uint32_t content = tnmi_tensor_content(&e->tensors, name, &offset);
        tnm_access access = set[i].flags & TNMI_WHOLE
                                ? set[i].access
                                : tnmi_engine_access(e, name, content, set[i].access);
        tnmi_tensor *tensor = tnmi_engine_content(e, content);
        uint32_t at = tnmi_engine_twin(e, tensor->mark, (uint32_t)set[i].tier);
        if (at != TNMI_NONE) {
            tnmi_member *same = tnmi_engine_member(e, at);
            same->access = (uint8_t)tnmi_engine_stronger((tnm_access)same->access, access);
            if (!tnmi_engine_count_use(same, set[i].access)) r = TNM_ERR_CAPACITY;
            continue;
        }
        uint32_t index = tnmi_store_take(&e->members);
        tnmi_member *member = tnmi_engine_member(e, index);
        memset(member, 0, sizeof *member);
        member->content = content;
        member->tier = (uint32_t)set[i].tier;
        member->access = (uint8_t)access;
        member->bytes = tensor->bytes;
        member->found = 0xff;
        member->next = head;
        tnmi_engine_count_use(member, set[i].access);
        head = member->twin = index;
        if (tensor->mark) {
            member->twin = tnmi_engine_member(e, tensor->mark - 1)->twin;
            tnmi_engine_member(e, tensor->mark - 1)->twin = index;
        }
        tensor->mark = index + 1;
    }
    for (uint32_t m = head; m != TNMI_NONE; m = tnmi_engine_member(e, m)->next)
        tnmi_engine_content(e, tnmi_engine_member(e, m)->content)->mark = 0;
    if (tnmi_engine_is_torn(e, head)) r = TNM_ERR_ARGUMENT;
    if (r != TNM_OK) {
        tnmi_engine_free_members(e, head);
        return r;
    }
    tnmi_order order;
    order.of = e;
    order.next = tnmi_engine_member_next;
    order.before = tnmi_engine_member_before;
    *out = tnmi_store_sort(&order, head);
    return TNM_OK;
}

static tnm_result tnmi_engine_new_request(tnmi_engine *e, const tnm_use *set, int count,
                                          int calling, uint32_t *out) {
    uint32_t members;
    *out = TNMI_NONE;
    tnm_result r = tnmi_engine_table(e, &e->requests, 1);
    if (r == TNM_OK) r = tnmi_engine_gather(e, set, count, &members);
    if (r != TNM_OK) return r;
    uint32_t index = tnmi_store_take(&e->requests);
    tnmi_request *request = tnmi_engine_request(e, index);
    memset(request, 0, sizeof *request);
    request->members = members;
    request->calling = calling;
    request->hash = tnmi_engine_hash(set, count);
    request->age = ++e->newest_age;
    request->lapse = e->tick + TNMI_LAPSE_TICKS;
    request->class_ = TNM_CLASS_DEMAND;
    request->result = TNM_PENDING;
    request->short_on = TNMI_NONE;
    request->next = TNMI_NONE;
    request->prev = e->newest_request;
    if (e->newest_request == TNMI_NONE)
        e->oldest_request = index;
    else
        tnmi_engine_request(e, e->newest_request)->next = index;
    e->newest_request = index;
    uint32_t *bucket = &e->bucket[request->hash % TNMI_BUCKETS];
    request->chain = calling ? TNMI_NONE : *bucket;
    if (!calling) *bucket = index;
    *out = index;
    return TNM_OK;
}

/* The unanswered try_ request of this very set, or TNMI_NONE. */
static uint32_t tnmi_engine_find_request(const tnmi_engine *e, uint64_t hash) {
    uint32_t index = e->bucket[hash % TNMI_BUCKETS];
    while (index != TNMI_NONE && tnmi_engine_request(e, index)->hash != hash)
        index = tnmi_engine_request(e, index)->chain;
    return index;
}

/* Does a request still wait to build this content on this tier? */
static int tnmi_engine_has_builder(const tnmi_engine *e, uint32_t content, uint32_t tier) {
    for (uint32_t r = e->oldest_request; r != TNMI_NONE; r = tnmi_engine_request(e, r)->next)
        for (uint32_t m = tnmi_engine_request(e, r)->members; m != TNMI_NONE;) {
            const tnmi_member *member = tnmi_engine_member(e, m);
            m = member->next;
            if (member->content == content && member->tier == tier && member->claimed &&
                member->access == TNM_DISCARD)
                return 1;
        }
    return 0;
}

/* Does a request of that age or older wait with a claim on this content and tier? */
static int tnmi_engine_has_elder(const tnmi_engine *e, uint32_t content, uint32_t tier,
                                 uint64_t age) {
    for (uint32_t r = e->oldest_request; r != TNMI_NONE && tnmi_engine_request(e, r)->age <= age;
         r = tnmi_engine_request(e, r)->next)
        for (uint32_t m = tnmi_engine_request(e, r)->members; m != TNMI_NONE;) {
            const tnmi_member *member = tnmi_engine_member(e, m);
            m = member->next;
            if (member->content == content && member->tier == tier && member->claimed) return 1;
        }
    return 0;
}

/* If the last builder is gone and readers wait, they get the old bytes, or learn that there are
 * none. */
static void tnmi_engine_orphan_build(tnmi_engine *e, uint32_t index) {
    tnmi_op *op = tnmi_engine_op(e, index);
    if (tnmi_engine_has_builder(e, op->content, op->tier)) return;
    if (tnmi_tensor_is_empty(&e->tensors, op->content)) {
        tnmi_engine_fail(e, index, tnmi_engine_nothing(e, op->content));
        if (op->out == 0) tnmi_engine_drained(e, index);
        return;
    }
    if (op->out > 0) return; /* zeros are on their way: the next round asks again */
    op->kind = TNMI_OP_FILL;
    op->next = op->done = 0;
    if (op->state != TNMI_OP_ROOM) {
        op->state = TNMI_OP_PLACED;
        tnmi_engine_enqueue(e, index);
    }
}

static void tnmi_engine_release_member(tnmi_engine *e, tnmi_member *member) {
    tnmi_replica *replica = tnmi_engine_on(e, member->content, member->tier);
    if (!member->claimed) return;
    member->claimed = 0;
    if (!replica) return;
    if (!tnmi_engine_is_busy(replica)) {
        tnmi_engine_unclaim_ready(e, member->tier, replica);
        return;
    }
    tnmi_op *op = tnmi_engine_filling(e, replica);
    uint32_t index = replica->offset;
    if (op->claims > 0) op->claims--;
    if (op->claims == 0 && (op->kind == TNMI_OP_BUILD || op->state == TNMI_OP_ROOM))
        tnmi_engine_cancel_op(e, index);
    else if (op->claims > 0 && op->kind == TNMI_OP_BUILD && op->state != TNMI_OP_DRAINING &&
             member->access == TNM_DISCARD)
        tnmi_engine_orphan_build(e, index);
}

/* Nothing is held any more; the request stays. */
static void tnmi_engine_release_claims(tnmi_engine *e, uint32_t index) {
    tnmi_request *request = tnmi_engine_request(e, index);
    for (uint32_t m = request->members; m != TNMI_NONE; m = tnmi_engine_member(e, m)->next)
        tnmi_engine_release_member(e, tnmi_engine_member(e, m));
    request->admitted = 0;
}

/* What a request planned and others joined goes on without it, each window by itself. */
static void tnmi_engine_disown(tnmi_engine *e, uint32_t index) {
    for (uint32_t i = e->move.queue[TNMI_MOVE_ROOM].head; i != TNMI_NONE;) {
        tnmi_op *op = tnmi_engine_op(e, i);
        i = op->next_op;
        if (op->request == index) op->request = TNMI_NONE;
    }
}

static void tnmi_engine_end_request(tnmi_engine *e, uint32_t index) {
    tnmi_engine_release_claims(e, index);
    tnmi_engine_disown(e, index);
    tnmi_request *request = tnmi_engine_request(e, index);
    tnmi_engine_free_members(e, request->members);
    if (request->prev == TNMI_NONE)
        e->oldest_request = request->next;
    else
        tnmi_engine_request(e, request->prev)->next = request->next;
    if (request->next == TNMI_NONE)
        e->newest_request = request->prev;
    else
        tnmi_engine_request(e, request->next)->prev = request->prev;
    if (!request->calling) {
        uint32_t *at = &e->bucket[request->hash % TNMI_BUCKETS];
        while (*at != index)
            at = &tnmi_engine_request(e, *at)->chain;
        *at = request->chain;
    }
    request->age = 0; /* of none that lives */
    tnmi_store_give(&e->requests, index);
    e->changed++;
}

/* ---- admission ---- */
/* May this member be had at all, as things stand? OK, or the error. Transfers to other tiers that
 * a write would make stale are taken back. */
static tnm_result tnmi_engine_may_use(tnmi_engine *e, const tnmi_member *member) {
    tnmi_tensor *tensor = tnmi_engine_content(e, member->content);
    int writes = member->access != TNM_READ;
    if (member->access != TNM_DISCARD) {
        if (tensor->flags & TNMI_BROKEN) return TNM_ERR_LOST;
        if (tnmi_tensor_is_empty(&e->tensors, member->content)) return TNM_ERR_EMPTY;
    }
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        tnmi_replica *other = tnmi_engine_on(e, member->content, t);
        if (!other) continue;
        uint32_t index = tnmi_engine_index(e, member->content, t);
        if (t == member->tier) {
            if (tnmi_base_peek64(&other->word) & TNMI_LOST) /* it leaves with its last pin */
                return tnmi_engine_live_pins(e, t, index, 0) ? TNM_ERR_BUSY : TNM_PENDING;
            if (writes && tnmi_tensor_is_lent(&e->tensors, other)) return TNM_ERR_BUSY;
            continue;
        }
        if (tnmi_engine_live_pins(e, t, index, !writes)) return TNM_ERR_BUSY;
    }
    return TNM_OK;
}

/* Nobody needs the other transfers of what will be written, but, until all members are there, the
 * write-backs that make room for one of them. */
static void tnmi_engine_stop_others(tnmi_engine *e, const tnmi_member *member, uint32_t request) {
    if (member->access == TNM_READ || e->rehearsing) return;
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        tnmi_replica *other = tnmi_engine_on(e, member->content, t);
        if (t != member->tier && tnmi_engine_is_busy(other) &&
            !tnmi_engine_is_own(e, other->offset, request))
            tnmi_engine_cancel_op(e, other->offset);
    }
}

/* Make the member's bytes come: found, joined, or planned. */
static tnm_result tnmi_engine_want_member(tnmi_engine *e, tnmi_plan *plan, tnmi_member *member) {
    tnmi_replica *replica = tnmi_engine_on(e, member->content, member->tier);
    uint8_t found = TNM_FOUND_MISS;
    uint32_t op;
    if (tnmi_tensor_is_home(replica)) replica = NULL;
    if (replica && tnmi_engine_is_busy(replica)) {
        if (tnmi_engine_filling(e, replica)->state == TNMI_OP_DRAINING) return TNM_PENDING;
        found = TNM_FOUND_LATE;
        tnmi_move_raise(&e->move, replica->offset, TNM_CLASS_DEMAND, plan->step);
        tnmi_engine_filling(e, replica)->fresh = 0;
    } else if (replica)
        found = TNM_FOUND_HIT;
    if (member->found == 0xff) member->found = found;
    if (replica) {
        tnmi_engine_claim(e, member->tier, replica);
        member->claimed = 1;
        return TNM_OK;
    }
    tnmi_op_kind kind = member->access == TNM_DISCARD ? TNMI_OP_BUILD : TNMI_OP_FILL;
    if (kind == TNMI_OP_FILL && member->access == TNM_READ)
        tnmi_engine_want_via(e, plan, member->content, member->tier);
    tnm_result r = tnmi_engine_new_op(e, plan, member->content, member->tier, kind, &op);
    if (r != TNM_OK) return r;
    tnmi_engine_op(e, op)->claims = 1;
    member->claimed = 1;
    return TNM_OK;
}

/* What live pins alone forbid to the whole set is refused at once. */
static int tnmi_engine_is_hopeless(tnmi_engine *e, const tnmi_request *request, tnmi_plan *plan) {
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        uint64_t need = 0;
        int absent = 0;
        for (uint32_t m = request->members; m != TNMI_NONE; m = tnmi_engine_member(e, m)->next) {
            const tnmi_member *member = tnmi_engine_member(e, m);
            const tnmi_replica *there = tnmi_engine_on(e, member->content, t);
            if (member->tier != t ||
                (there && there->node == TNMI_NONE && !tnmi_engine_is_busy(there)))
                continue;
            absent |= !there;
            need += tnmi_tier_placed(tnmi_engine_tier(e, t), member->bytes, 0);
        }
        if (!absent || need <= tnmi_base_less(tnmi_engine_tier(e, t)->budget,
                                              tnmi_engine_tier(e, t)->set_aside))
            continue;
        plan->short_on = t;
        plan->need = need;
        return 1;
    }
    return 0;
}

/* Among those that wait for room on a tier the oldest goes first: does a call wait for it that is
 * older than this request? TNMI_NONE is younger than all. */
static inline int tnmi_engine_is_queued(const tnmi_engine *e, uint32_t tier, uint32_t index) {
    for (uint32_t r = e->oldest_request; r != index; r = tnmi_engine_request(e, r)->next) {
        const tnmi_request *older = tnmi_engine_request(e, r);
        if (older->admitted || older->result != TNM_PENDING || !older->calling) continue;
        if (older->short_on == tier) return 1;
    }
    return 0;
}

static int tnmi_engine_is_behind(const tnmi_engine *e, uint32_t index) {
    if (e->oldest_request == index) return 0;
    for (uint32_t m = tnmi_engine_request(e, index)->members; m != TNMI_NONE;) {
        const tnmi_member *member = tnmi_engine_member(e, m);
        m = member->next;
        if (!tnmi_engine_on(e, member->content, member->tier) &&
            tnmi_engine_is_queued(e, member->tier, index))
            return 1;
    }
    return 0;
}

/* Does a member stand in the window of an admitted request? A set of hits may take it
 * from there; one that needs room as well waits, or the two would break each other for ever. */
static int tnmi_engine_is_doomed(const tnmi_engine *e, const tnmi_request *request) {
    int doomed = 0, absent = 0;
    for (uint32_t m = request->members; m != TNMI_NONE; m = tnmi_engine_member(e, m)->next) {
        const tnmi_member *member = tnmi_engine_member(e, m);
        const tnmi_replica *replica = tnmi_engine_on(e, member->content, member->tier);
        absent |= !tnmi_tensor_is_ready(replica);
        if (!tnmi_tensor_is_ready(replica) || replica->node == TNMI_NONE) continue;
        uint32_t mark =
            tnmi_space_node(&tnmi_engine_tier(e, member->tier)->space, replica->node)->b;
        if (mark == 0 || (mark & TNMI_CLAIMED)) continue;
        doomed |= tnmi_engine_op(e, mark - 1)->claims > 0;
    }
    return doomed && absent;
}

static tnm_result tnmi_engine_plan_request(tnmi_engine *e, uint32_t index, tnmi_plan *plan) {
    tnmi_request *request = tnmi_engine_request(e, index);
    tnm_result r;
    uint32_t m;
    for (m = request->members; m != TNMI_NONE; m = tnmi_engine_member(e, m)->next)
        if ((r = tnmi_engine_may_use(e, tnmi_engine_member(e, m))) != TNM_OK) return r;
    if (tnmi_engine_is_hopeless(e, request, plan)) return TNM_ERR_BUDGET;
    if (tnmi_engine_is_doomed(e, request) || tnmi_engine_is_behind(e, index)) return TNM_PENDING;
    for (m = request->members; m != TNMI_NONE; m = tnmi_engine_member(e, m)->next)
        if (tnmi_engine_on(e, tnmi_engine_member(e, m)->content, tnmi_engine_member(e, m)->tier))
            if ((r = tnmi_engine_want_member(e, plan, tnmi_engine_member(e, m))) != TNM_OK &&
                r != TNM_PENDING)
                return r;
    for (m = request->members; m != TNMI_NONE; m = tnmi_engine_member(e, m)->next)
        if (!tnmi_engine_member(e, m)->claimed &&
            (r = tnmi_engine_want_member(e, plan, tnmi_engine_member(e, m))) != TNM_OK)
            return r;
    if ((r = tnmi_engine_place_all(e, plan, plan->head)) != TNM_OK) return r;
    /* not before: one that is not admitted would take back what the look-ahead brings anew */
    for (m = request->members; m != TNMI_NONE; m = tnmi_engine_member(e, m)->next)
        tnmi_engine_stop_others(e, tnmi_engine_member(e, m), index);
    return TNM_OK;
}

static void tnmi_engine_mark_members(tnmi_engine *e, const tnmi_request *request, int on) {
    for (uint32_t m = request->members; m != TNMI_NONE; m = tnmi_engine_member(e, m)->next)
        tnmi_engine_content(e, tnmi_engine_member(e, m)->content)->mark = on ? m + 1 : 0;
}

/* One attempt to admit a request, whole or not at all. OK, PENDING, ABSENT (a table must grow), or
 * the error, which is also remembered in the request. */
static tnm_result tnmi_engine_admit(tnmi_engine *e, uint32_t index) {
    tnmi_request *request = tnmi_engine_request(e, index);
    tnmi_plan plan = tnmi_engine_plan(index, request->class_, 0);
    request->round = e->round;
    request->seen = e->changed;
    tnmi_engine_mark_members(e, request, 1);
    tnm_result r = tnmi_engine_plan_request(e, index, &plan);
    tnmi_engine_mark_members(e, request, 0);
    if (r == TNM_OK) {
        tnmi_engine_commit(e, &plan);
        request->admitted = 1;
        request->empties = 0;
        request->short_on = TNMI_NONE;
        request->lapse = TNMI_NEVER;
        e->changed++;
        return TNM_OK;
    }
    uint64_t before = e->changed;
    for (uint32_t i = plan.head; i != TNMI_NONE; i = tnmi_engine_op(e, i)->plan)
        tnmi_engine_op(e, i)->claims = 0;
    tnmi_engine_undo(e, &plan);
    tnmi_engine_release_claims(e, index);
    e->changed = before; /* undone: nothing became possible */
    request->seen = e->changed;
    e->changed += (uint64_t)plan.freed;
    request->short_on = plan.short_on;
    request->empties = plan.empties;
    if (r == TNM_PENDING || r == TNM_ABSENT) return r;
    request->result = r;
    e->last.result = r;
    e->last.tier = plan.short_on;
    e->last.need = plan.need;
    uint32_t first = request->members == TNMI_NONE
                         ? TNMI_NONE
                         : tnmi_engine_member(e, request->members)->content;
    tnm_event *event = tnmi_engine_event(e, TNM_EVENT_REFUSE, plan.short_on, first);
    if (event) event->result = r;
    return r;
}

/* ---- the grant ---- */
/* A transfer that only has to be granted: DISCARD's place is ready. */
static int tnmi_engine_is_built(const tnmi_engine *e, const tnmi_replica *replica) {
    const tnmi_op *op = tnmi_engine_filling(e, replica);
    if (op->kind != TNMI_OP_BUILD || op->state == TNMI_OP_ROOM || op->state == TNMI_OP_DRAINING)
        return 0;
    int scrub = (tnmi_tensor_advice(tnmi_engine_content(e, op->content)) & TNM_SCRUB) != 0;
    return op->out == 0 && (!scrub || op->done == op->bytes);
}

static int tnmi_engine_is_complete(const tnmi_engine *e, const tnmi_request *request) {
    for (uint32_t m = request->members; m != TNMI_NONE; m = tnmi_engine_member(e, m)->next) {
        const tnmi_member *member = tnmi_engine_member(e, m);
        const tnmi_replica *replica = tnmi_engine_on(e, member->content, member->tier);
        if (!replica) return 1;
        if (tnmi_engine_is_busy(replica) && !tnmi_engine_is_built(e, replica)) return 0;
    }
    return 1;
}

/* Is this a place that is built for younger requests alone? */
static int tnmi_engine_gives_way(const tnmi_engine *e, const tnmi_op *op, uint64_t age) {
    return op->kind == TNMI_OP_BUILD && op->state != TNMI_OP_DRAINING && op->claims &&
           !tnmi_engine_has_elder(e, op->content, op->tier, age);
}

/* OK if the member of a request of that age can be granted now, PENDING if not yet, BUSY if a live
 * pin forbids it. */
static tnm_result tnmi_engine_can_grant(tnmi_engine *e, const tnmi_member *member, uint64_t age) {
    tnmi_replica *replica = tnmi_engine_on(e, member->content, member->tier);
    if (!replica || tnmi_tensor_is_home(replica)) return TNM_ABSENT;
    uint64_t word = tnmi_base_load64(&replica->word);
    int filling = tnmi_tensor_is(word, TNMI_BUSY) &&
                  (member->access != TNM_DISCARD || !tnmi_engine_is_built(e, replica));
    if (filling && member->access != TNM_DISCARD &&
        tnmi_tensor_is_empty(&e->tensors, member->content))
        return tnmi_engine_nothing(e, member->content); /* before anything was read */
    if (filling && member->access == TNM_READ) return TNM_PENDING;
    if (word & TNMI_LOST) {
        uint32_t index = tnmi_engine_index(e, member->content, member->tier);
        if (member->access != TNM_DISCARD) return TNM_ERR_LOST;
        return tnmi_engine_live_pins(e, member->tier, index, 0) ? TNM_ERR_BUSY : TNM_PENDING;
    }
    if (tnmi_tensor_pins(word) + member->pins > TNMI_MOST_PINS ||
        tnmi_tensor_writers(word) + member->writes > TNMI_MOST_WRITERS)
        return TNM_ERR_CAPACITY;
    if (member->access == TNM_READ) return TNM_OK;
    tnm_result r = filling ? TNM_PENDING : TNM_OK;
    int source = (tnmi_base_load64(&replica->word) & TNMI_SOURCE) != 0;
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        tnmi_replica *other = tnmi_engine_on(e, member->content, t);
        if (t == member->tier || !other || tnmi_tensor_is_home(other)) continue;
        uint32_t index = tnmi_engine_index(e, member->content, t);
        if (tnmi_engine_is_busy(other)) {
            const tnmi_op *op = tnmi_engine_filling(e, other);
            int wanted = op->claims && !tnmi_engine_gives_way(e, op, age);
            /* what a grant would take back at once is not in the way of a rehearsal */
            if (!e->rehearsing || wanted || op->out || op->state == TNMI_OP_DRAINING)
                r = TNM_PENDING;
            else if (op->from == member->tier)
                source = 0;
        } else if (tnmi_engine_live_pins(e, t, index, 0))
            return TNM_ERR_BUSY;
        else if (tnmi_tensor_pins(tnmi_base_load64(&other->word)) ||
                 tnmi_engine_is_shifted(e, t, index))
            r = TNM_PENDING;
    }
    return source ? TNM_PENDING : r;
}

/* Claim (or give back) the replicas a write makes stale. 0 = a pin came first. */
static int tnmi_engine_claim_others(tnmi_engine *e, const tnmi_member *member, int claim) {
    for (uint32_t t = 0; member->access != TNM_READ && t < e->tiers.count; t++) {
        tnmi_replica *other = tnmi_engine_on(e, member->content, t);
        if (t == member->tier || !other || tnmi_tensor_is_home(other)) continue;
        if (!claim) {
            if (tnmi_engine_is_busy(other)) tnmi_tensor_unclaim(other);
        } else if (!tnmi_tensor_claim(other))
            return 0;
    }
    return 1;
}

static void tnmi_engine_drop_others(tnmi_engine *e, const tnmi_member *member) {
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        tnmi_replica *other = tnmi_engine_on(e, member->content, t);
        if (t == member->tier || !other || tnmi_tensor_is_home(other)) continue;
        tnmi_engine_leave(e, t, tnmi_engine_index(e, member->content, t), 0);
    }
}

/* What a use asks for: its name, and where in which content that begins. */
typedef struct tnmi_target {
    uint32_t name, content;
    uint64_t offset;
} tnmi_target;

/* Of a use that was checked, and whose tensor is still there. */
static tnmi_target tnmi_engine_target(const tnmi_engine *e, const tnm_use *use) {
    tnmi_target target;
    target.name = tnmi_tensor_index(&e->tensors, use->tensor.id);
    target.content = tnmi_tensor_content(&e->tensors, target.name, &target.offset);
    return target;
}

/* A use that the lock has seen. It may be the first since the content left. */
static void tnmi_engine_used(tnmi_engine *e, uint32_t content, uint32_t tier, uint32_t index) {
    tnmi_hint_returns(&e->hints, &e->tensors, content);
    tnmi_hint_untell(&e->hints, &e->tensors, content);
    tnmi_hint_used(&e->hints, content, tnmi_base_peek64(&e->clock), 1);
    tnmi_engine_rekey(e, tier, index);
}

/* A pin was taken: the clock, the counts, the answer. */
static void tnmi_engine_pinned(tnmi_engine *e, const tnm_use *use, const tnmi_target *target,
                               uint32_t index, uint32_t found, tnm_pinned *out) {
    uint32_t content = target->content, tier = (uint32_t)use->tier;
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    tnmi_engine_hits(e, tier, replica);
    if (!e->threaded) tnmi_engine_advance(e);
    if (replica->node != TNMI_NONE) tnmi_base_poke64(&replica->stamp, tnmi_base_peek64(&e->clock));
    if (e->hints.learned.on) tnmi_engine_used(e, content, tier, index);
    tnmi_tier *t = tnmi_engine_tier(e, tier);
    if (found == TNM_FOUND_HIT)
        t->hits++;
    else if (found == TNM_FOUND_LATE)
        t->late++;
    else
        t->misses++;
    tnmi_tensor *tensor = tnmi_engine_content(e, content);
    uint32_t advice = tnmi_tensor_advice(tensor) & 3u;
    if (advice == TNM_WONT_NEED) tnmi_tensor_set_flags(tensor, 0, 3u << TNMI_ADVICE_SHIFT);
    if (advice == TNM_ONCE) tnmi_tensor_mark(replica, TNMI_NOTIFY, 0);
    out->bytes = tnmi_engine_content(e, target->name)->bytes;
    out->access = use->access;
    out->tier = use->tier;
    out->id = tnmi_tensor_pin_id(tnmi_base_peek64(&replica->word), index);
    out->offset = target->offset; /* the door completes the address */
    tnm_event *event = tnmi_engine_event(e, TNM_EVENT_PIN, tier, content);
    if (!event) return;
    event->found = (int)found;
    event->detail = (uint64_t)use->access;
}

/* One pin of the caller. The member is granted and claimed. */
static void tnmi_engine_pin(tnmi_engine *e, const tnm_use *use, uint32_t found, tnm_pinned *out) {
    tnmi_target target = tnmi_engine_target(e, use);
    uint32_t tier = (uint32_t)use->tier, index = tnmi_engine_index(e, target.content, tier);
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    uint64_t pin = tnmi_tensor_pin_of(use->access), word = tnmi_base_peek64(&replica->word);
    while (!tnmi_base_swap64(&replica->word, &word, (word & ~(uint64_t)TNMI_FRESH) + pin))
        continue;
    tnmi_engine_pinned(e, use, &target, index, found, out);
}

/* What the first ask found of a use. Its content's mark names its member. */
static uint32_t tnmi_engine_found(const tnmi_engine *e, const tnm_use *use) {
    uint32_t mark = tnmi_engine_content(e, tnmi_engine_target(e, use).content)->mark;
    uint32_t at = tnmi_engine_twin(e, mark, (uint32_t)use->tier);
    if (at == TNMI_NONE) return TNM_FOUND_MISS;
    return tnmi_engine_member(e, at)->found;
}

/* ---- at once: what waits for nothing needs no request ---- */
/* Would a plan for this content only take a free gap? Nothing of it is anywhere, and it needs no
 * zeros. */
static int tnmi_engine_is_new(const tnmi_engine *e, uint32_t content) {
    const uint32_t *rep = tnmi_tensor_rep(&e->tensors, content, 0);
    for (uint32_t u = 0; u < e->tiers.count; u++)
        if (rep[u] != TNMI_NONE) return 0;
    return !(tnmi_tensor_advice(tnmi_engine_content(e, content)) & TNM_SCRUB);
}

/* A free gap of a tier for which nobody waits, when every record that a place takes is at hand.
 * TNMI_NONE: it takes a plan. */
static uint32_t tnmi_engine_free_gap(tnmi_engine *e, uint32_t tier, uint32_t content) {
    const tnmi_tier *t = tnmi_engine_tier(e, tier);
    uint64_t placed = tnmi_tier_placed(t, tnmi_engine_content(e, content)->bytes, 0);
    if (t->desc.segment_bytes == TNM_DEDICATED || !tnmi_tier_can_ever(t, placed)) return TNMI_NONE;
    if (t->losing) return TNMI_NONE;
    if (tnmi_store_spare(&e->tensors.on[tier].replicas) < 1) return TNMI_NONE;
    if (tnmi_engine_nodes(e, tier) != TNM_OK) {
        e->grow = NULL;
        return TNMI_NONE;
    }
    if (tnmi_engine_is_queued(e, tier, TNMI_NONE)) return TNMI_NONE;
    tnmi_room room = tnmi_engine_anywhere(e, content, tier, 0);
    room.need = (uint32_t)(placed >> t->granule_log);
    return tnmi_engine_take_gap(e, tier, content, &room, TNMI_NONE);
}

/* A set of one that is new, and a gap for it: placed, current and pinned in this step, which is
 * what its plan, commit and grant would come to. PENDING: it takes a request. */
static tnm_result tnmi_engine_build(tnmi_engine *e, const tnm_use *use, tnm_pinned *out) {
    if (use->access != TNM_DISCARD) return TNM_PENDING;
    tnmi_target target = tnmi_engine_target(e, use);
    uint32_t tier = (uint32_t)use->tier, content = target.content;
    const tnmi_tensor *tensor = tnmi_engine_content(e, content);
    if (tnmi_engine_access(e, target.name, content, TNM_DISCARD) != TNM_DISCARD ||
        !tnmi_engine_is_new(e, content))
        return TNM_PENDING;
    tnmi_tier *t = tnmi_engine_tier(e, tier);
    uint32_t node = tnmi_engine_free_gap(e, tier, content);
    if (node == TNMI_NONE) return TNM_PENDING;
    uint32_t index = tnmi_tensor_attach(&e->tensors, content, tier);
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    tnmi_node *n = tnmi_space_node(&t->space, node);
    n->a = index;
    replica->node = node;
    replica->segment = tnmi_engine_count_node(e, tier, node);
    replica->offset = n->offset * TNMI_TIER_UNITS;
    tnmi_engine_open_place(e, tier, replica->segment, replica->offset, tensor->bytes);
    tnm_event *event = tnmi_engine_event(e, TNM_EVENT_LOAD, tier, content);
    if (event) event->class_ = TNM_CLASS_DEMAND;
    tnmi_engine_appear(e, tier, index, TNMI_ALONE | tnmi_tensor_pin_of(TNM_DISCARD));
    if (e->threaded) tnmi_engine_advance(e);
    tnmi_engine_pinned(e, use, &target, index, TNM_FOUND_MISS, out);
    return TNM_OK;
}

/* ---- the grant of a request ---- */
/* The transfer lost its window, or its turn: it ends, and everyone who joined it holds nothing and
 * plans again. Were it kept for those who joined, nobody would plan it, and they would wait for
 * ever. */
static void tnmi_engine_break(tnmi_engine *e, uint32_t op_index) {
    uint32_t content = tnmi_engine_op(e, op_index)->content;
    uint32_t tier = tnmi_engine_op(e, op_index)->tier;
    tnmi_engine_op(e, op_index)->claims = 0;
    tnmi_engine_cancel_op(e, op_index);
    for (uint32_t r = e->oldest_request; r != TNMI_NONE; r = tnmi_engine_request(e, r)->next) {
        tnmi_request *request = tnmi_engine_request(e, r);
        int joined = 0;
        for (uint32_t m = request->members; m != TNMI_NONE;) {
            tnmi_member *member = tnmi_engine_member(e, m);
            m = member->next;
            if (member->content != content || member->tier != tier || !member->claimed) continue;
            member->claimed = 0; /* the transfer took it along */
            joined = request->admitted && request->result == TNM_PENDING;
        }
        if (!joined) continue;
        tnmi_engine_release_claims(e, r);
        tnmi_engine_disown(e, r);
        request->round = 0; /* planned again at once */
    }
}

/* A place that is built for DISCARD comes to an end only with its grant, and two requests that
 * build one content on two tiers would each wait for the other's: the older one is granted, and the
 * younger plans again. */
static void tnmi_engine_outrank(tnmi_engine *e, uint64_t age, const tnmi_member *member) {
    for (uint32_t t = 0; member->access != TNM_READ && t < e->tiers.count; t++) {
        const tnmi_replica *other = tnmi_engine_on(e, member->content, t);
        if (t != member->tier && tnmi_engine_is_busy(other) &&
            tnmi_engine_gives_way(e, tnmi_engine_filling(e, other), age))
            tnmi_engine_break(e, other->offset);
    }
}

/* All members at once, or nothing. OK: every out[i] holds a pin. */
static tnm_result tnmi_engine_grant(tnmi_engine *e, uint32_t index, const tnm_use *set, int count,
                                    tnm_pinned *out) {
    tnmi_request *request = tnmi_engine_request(e, index);
    tnm_result worst = TNM_OK;
    uint32_t m = tnmi_engine_is_complete(e, request) ? request->members : TNMI_NONE;
    for (; m != TNMI_NONE; m = tnmi_engine_member(e, m)->next) {
        tnmi_engine_outrank(e, request->age, tnmi_engine_member(e, m));
        tnmi_engine_stop_others(e, tnmi_engine_member(e, m), TNMI_NONE);
    }
    for (m = request->members; m != TNMI_NONE; m = tnmi_engine_member(e, m)->next) {
        tnm_result r = tnmi_engine_can_grant(e, tnmi_engine_member(e, m), request->age);
        if (r < 0) return request->result = r;
        if (r == TNM_ABSENT) request->admitted = 0; /* a writer dropped it: ask anew */
        if (r != TNM_OK) worst = TNM_PENDING;
    }
    if (!request->admitted) {
        tnmi_engine_release_claims(e, index);
        tnmi_engine_disown(e, index);
    }
    if (worst != TNM_OK) return worst;
    for (m = request->members; m != TNMI_NONE; m = tnmi_engine_member(e, m)->next)
        if (!tnmi_engine_claim_others(e, tnmi_engine_member(e, m), 1)) break;
    if (m != TNMI_NONE) {
        uint32_t end = tnmi_engine_member(e, m)->next;
        for (uint32_t u = request->members; u != end; u = tnmi_engine_member(e, u)->next)
            tnmi_engine_claim_others(e, tnmi_engine_member(e, u), 0);
        return TNM_PENDING;
    }
    for (m = request->members; m != TNMI_NONE; m = tnmi_engine_member(e, m)->next) {
        const tnmi_member *member = tnmi_engine_member(e, m);
        tnmi_replica *replica = tnmi_engine_on(e, member->content, member->tier);
        if (member->access != TNM_READ) tnmi_engine_drop_others(e, member);
        if (tnmi_engine_is_busy(replica)) tnmi_engine_publish(e, replica->offset, 0);
        tnmi_engine_content(e, member->content)->mark = m + 1;
    }
    if (e->threaded) tnmi_engine_advance(e);
    for (int i = 0; i < count; i++)
        tnmi_engine_pin(e, &set[i], tnmi_engine_found(e, &set[i]), &out[i]);
    tnmi_engine_mark_members(e, request, 0);
    tnmi_engine_end_request(e, index);
    return TNM_OK;
}

/* Where a request stands: admits it if it is not, grants it if it can be. */
static tnm_result tnmi_engine_ask_request(tnmi_engine *e, uint32_t index, const tnm_use *set,
                                          int count, tnm_pinned *out) {
    tnmi_request *request = tnmi_engine_request(e, index);
    tnm_result r = TNM_PENDING;
    for (int i = 0; i < 2; i++) { /* a second time if a writer dropped what had been found */
        if (request->result == TNM_PENDING && !request->admitted) {
            r = tnmi_engine_admit(e, index);
            if (r == TNM_PENDING || r == TNM_ABSENT) return r;
        }
        if (request->result != TNM_PENDING) return request->result;
        r = tnmi_engine_grant(e, index, set, count, out);
        if (r != TNM_PENDING || request->admitted) break;
    }
    return r;
}

/* ---- the hand-over: victims leave and the room is taken, in one locked step ---- */
typedef enum tnmi_ripe { TNMI_RIPE_YES, TNMI_RIPE_WAIT, TNMI_RIPE_BROKEN } tnmi_ripe;

static tnmi_ripe tnmi_engine_victim_ripe(tnmi_engine *e, uint32_t op_index, const tnmi_node *n) {
    uint32_t tier = tnmi_engine_op(e, op_index)->tier;
    if (n->b != op_index + 1) return TNMI_RIPE_BROKEN;
    if (n->a == TNMI_NONE) return TNMI_RIPE_WAIT; /* being wiped */
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, n->a);
    uint64_t word = tnmi_base_load64(&replica->word);
    uint32_t content = replica->content, advice;
    if (tnmi_tensor_pins(word) || !tnmi_tensor_is(word, TNMI_READY)) return TNMI_RIPE_BROKEN;
    if (word & TNMI_SOURCE) return TNMI_RIPE_WAIT;
    tnmi_view view = tnmi_engine_view(e, tier);
    advice = tnmi_tensor_advice(tnmi_engine_content(e, content));
    if (tnmi_policy_is_dirty(&view, content, tier) && !(advice & TNM_DROPPABLE)) {
        uint32_t down = tnmi_engine_leg_tier(e, content, tier);
        if (down == TNMI_NONE) return TNMI_RIPE_BROKEN;
        const tnmi_replica *there = tnmi_engine_on(e, content, down);
        if (!tnmi_engine_is_busy(there)) return TNMI_RIPE_BROKEN;
        return tnmi_engine_filling(e, there)->error ? TNMI_RIPE_BROKEN : TNMI_RIPE_WAIT;
    }
    if (!(advice & TNM_SCRUB)) return TNMI_RIPE_YES;
    if (!tnmi_tensor_claim(replica)) return TNMI_RIPE_BROKEN;
    tnmi_engine_leave(e, tier, n->a, 1); /* its place stays in the window until it is wiped */
    return TNMI_RIPE_WAIT;
}

static tnmi_ripe tnmi_engine_window_ripe(tnmi_engine *e, uint32_t op_index) {
    const tnmi_op *op = tnmi_engine_op(e, op_index);
    tnmi_ripe ripe = TNMI_RIPE_YES;
    if (op->window == TNMI_NONE) return TNMI_RIPE_BROKEN;
    const tnmi_space *space = &tnmi_engine_tier(e, op->tier)->space;
    uint32_t node = op->window, at;
    do {
        const tnmi_node *n = tnmi_space_node(space, node);
        at = n->offset + tnmi_space_size(n);
        node = n->next;
        if (tnmi_space_kind(n) != TNMI_SPACE_USED) continue;
        tnmi_ripe one = tnmi_engine_victim_ripe(e, op_index, n);
        if (one == TNMI_RIPE_BROKEN) return one;
        if (one == TNMI_RIPE_WAIT) ripe = one;
    } while (at < op->window_end);
    return ripe;
}

/* Claim every victim of a window, or (claim 0) give back those that are. 0 = a pin came first. */
static int tnmi_engine_claim_window(tnmi_engine *e, const tnmi_op *op, int claim) {
    const tnmi_space *space = &tnmi_engine_tier(e, op->tier)->space;
    uint32_t node = op->window, at;
    do {
        const tnmi_node *n = tnmi_space_node(space, node);
        at = n->offset + tnmi_space_size(n);
        node = n->next;
        if (tnmi_space_kind(n) != TNMI_SPACE_USED) continue;
        tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, op->tier, n->a);
        if (!claim && tnmi_engine_is_busy(replica)) tnmi_tensor_unclaim(replica);
        if (claim && !tnmi_tensor_claim(replica)) return 0;
    } while (at < op->window_end);
    return 1;
}

/* All victims are claimed: they leave together and the transfer has its place. */
static void tnmi_engine_take_window(tnmi_engine *e, uint32_t op_index) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    tnmi_tier *t = tnmi_engine_tier(e, op->tier);
    uint32_t node = op->window, at;
    tnmi_room room;
    do {
        const tnmi_node *n = tnmi_space_node(&t->space, node);
        uint32_t next = n->next;
        at = n->offset + tnmi_space_size(n);
        if (tnmi_space_kind(n) == TNMI_SPACE_USED) {
            tnmi_view view = tnmi_engine_view(e, op->tier);
            uint32_t content = tnmi_tensor_replica(&e->tensors, op->tier, n->a)->content;
            t->evictions_clean += !tnmi_policy_is_dirty(&view, content, op->tier);
            tnmi_engine_leave(e, op->tier, n->a, 1);
            tnmi_engine_reap(e, content);
        }
        node = next;
    } while (at < op->window_end);
    tnmi_space_join(&t->space, op->window, op->window_end);
    tnmi_engine_shape_room(e, op->content, op->tier, op, &room);
    const tnmi_node *all = tnmi_space_node(&t->space, op->window);
    uint32_t end = all->offset + tnmi_space_size(all);
    uint32_t start = tnmi_space_fit(all->offset, end, &room);
    if (start == TNMI_NONE) { /* the wall has moved since */
        room.from = 0;
        room.to = UINT32_MAX;
        start = tnmi_space_fit(all->offset, end, &room);
    }
    tnmi_space_carve(&t->space, op->window, start, room.need, op->replica);
    node = op->window;
    op->window = TNMI_NONE;
    t->windows--;
    op->request = TNMI_NONE;
    tnmi_engine_settle(e, op_index, node);
    tnmi_engine_enqueue(e, op_index);
}

/* All windows of a request, or of one transfer on its own, in this one step. */
static tnmi_ripe tnmi_engine_hand_over(tnmi_engine *e, uint32_t first) {
    uint32_t request = tnmi_engine_op(e, first)->request, i, next;
    tnmi_ripe ripe = TNMI_RIPE_YES;
    int all = 1;
    for (i = request == TNMI_NONE ? first : e->move.queue[TNMI_MOVE_ROOM].head; i != TNMI_NONE;
         i = request == TNMI_NONE ? TNMI_NONE : tnmi_engine_op(e, i)->next_op) {
        const tnmi_op *op = tnmi_engine_op(e, i);
        if (op->request != request) continue;
        tnmi_ripe one = tnmi_engine_window_ripe(e, i);
        if (one == TNMI_RIPE_BROKEN) return one;
        if (one == TNMI_RIPE_WAIT) ripe = one;
    }
    if (ripe != TNMI_RIPE_YES) return ripe;
    for (i = request == TNMI_NONE ? first : e->move.queue[TNMI_MOVE_ROOM].head;
         all && i != TNMI_NONE;
         i = request == TNMI_NONE ? TNMI_NONE : tnmi_engine_op(e, i)->next_op)
        if (tnmi_engine_op(e, i)->request == request)
            all = tnmi_engine_claim_window(e, tnmi_engine_op(e, i), 1);
    for (i = request == TNMI_NONE ? first : e->move.queue[TNMI_MOVE_ROOM].head; i != TNMI_NONE;
         i = next) {
        next = request == TNMI_NONE ? TNMI_NONE : tnmi_engine_op(e, i)->next_op;
        if (tnmi_engine_op(e, i)->request != request) continue;
        if (all)
            tnmi_engine_take_window(e, i);
        else
            tnmi_engine_claim_window(e, tnmi_engine_op(e, i), 0);
    }
    return all ? TNMI_RIPE_YES : TNMI_RIPE_BROKEN;
}

/* A transfer nobody waits for lost its window: another; or, if it only was ahead of its time, a gap
 * or none: what may make way for it is looked at when it is planned again. */
static void tnmi_engine_replan(tnmi_engine *e, uint32_t op_index) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    tnmi_plan plan = tnmi_engine_plan(TNMI_NONE, op->class_, op->step);
    plan.guess = op->class_ < TNM_CLASS_DEMAND;
    plan.before = plan.guess ? 0 : UINT64_MAX;
    tnmi_engine_close_window(e, op_index);
    tnm_result r = tnmi_engine_find_place(e, &plan, op_index, 0);
    if (r == TNM_OK) {
        r = tnmi_engine_want_legs(e, &plan, op_index);
        if (r == TNM_OK) r = tnmi_engine_place_all(e, &plan, plan.head);
        if (r != TNM_OK) tnmi_engine_close_window(e, op_index);
    }
    if (r != TNM_OK) tnmi_engine_undo(e, &plan);
    tnmi_engine_commit(e, &plan);
    if (r == TNM_OK && op->state == TNMI_OP_PLACED) tnmi_engine_enqueue(e, op_index);
    if (r == TNM_OK || r == TNM_PENDING || r == TNM_ABSENT) return;
    tnmi_engine_cancel_op(e, op_index);
}

/* Every transfer that waits for room is looked at once a round, or when something changed. What it
 * does may rearrange the queue: then the pass begins again behind those it has seen. */
static void tnmi_engine_advance_rooms(tnmi_engine *e) {
    uint32_t next, live;
    e->pass++;
    for (uint32_t i = e->move.queue[TNMI_MOVE_ROOM].head; i != TNMI_NONE; i = next) {
        tnmi_op *op = tnmi_engine_op(e, i);
        next = op->next_op;
        tnmi_request *owner = op->request == TNMI_NONE ? NULL : tnmi_engine_request(e, op->request);
        if (op->pass == e->pass || (owner && owner->pass == e->pass)) continue;
        op->pass = e->pass;
        live = e->move.ops.live;
        tnmi_ripe ripe = tnmi_engine_hand_over(e, i);
        if (ripe == TNMI_RIPE_WAIT && owner) owner->pass = e->pass;
        if (ripe == TNMI_RIPE_BROKEN && op->claims)
            tnmi_engine_break(e, i);
        else if (ripe == TNMI_RIPE_BROKEN)
            tnmi_engine_replan(e, i);
        if (ripe != TNMI_RIPE_WAIT || live != e->move.ops.live)
            next = e->move.queue[TNMI_MOVE_ROOM].head;
    }
}

/* Requests that are not admitted try again, oldest first; claims of try_ calls lapse. */
static void tnmi_engine_advance_requests(tnmi_engine *e) {
    for (uint32_t r = e->oldest_request; r != TNMI_NONE;) {
        tnmi_request *request = tnmi_engine_request(e, r);
        uint32_t index = r;
        r = request->next;
        if (request->admitted && !request->calling && request->lapse == TNMI_NEVER &&
            tnmi_engine_is_complete(e, request))
            request->lapse = e->tick + TNMI_LAPSE_TICKS;
        if (!request->calling && request->lapse <= e->tick) {
            tnmi_engine_end_request(e, index);
            continue;
        }
        if (request->admitted || request->result != TNM_PENDING) continue;
        if (request->round == e->round && request->seen == e->changed) continue;
        tnmi_engine_admit(e, index);
        if (e->grow) return;
        /* a refusal is for the one who asks, when he asks: by then it may be none */
        if (!request->calling && request->result != TNM_PENDING) tnmi_engine_end_request(e, index);
    }
}

/* ---- what is lost ---- */
/* A lost replica leaves when nobody is in its memory any more: no pin, and no copy, which another
 * tier's backend may be at. */
static void tnmi_engine_leave_lost(tnmi_engine *e, uint32_t tier, uint32_t index) {
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    if (tnmi_engine_has_reader(e, replica->content, tier)) return;
    if (tnmi_tensor_claim(replica)) tnmi_engine_leave(e, tier, index, 0);
}

/* A copy of a transfer that lost its source is not in the source's memory any more. */
static void tnmi_engine_let_go_lost(tnmi_engine *e, const tnmi_op *op) {
    uint32_t tier = op->from, content = op->content;
    if (!op->orphan || op->kind != TNMI_OP_FILL || tier == TNMI_NONE) return;
    const tnmi_replica *source = tnmi_engine_on(e, content, tier);
    if (!source || !(tnmi_base_load64(&source->word) & TNMI_LOST)) return;
    tnmi_engine_leave_lost(e, tier, tnmi_engine_index(e, content, tier));
    e->changed++;
}

/* ---- fences ---- */
/* A pin has gone: what was only waiting for it happens now. The subtraction was made without the
 * lock, so that the record may have left, and be another's, before the lock was ours. */
static void tnmi_engine_unpinned(tnmi_engine *e, uint32_t tier, uint32_t index, uint64_t before) {
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    uint64_t word = tnmi_base_load64(&replica->word);
    e->changed++;
    if (tnmi_tensor_pins(before) != 1 || !(before & TNMI_NOTIFY)) return;
    if (tnmi_tensor_recycle(word) != tnmi_tensor_recycle(before)) return;
    if (tnmi_tensor_is(word, TNMI_ABSENT)) return;
    uint32_t content = replica->content;
    tnmi_engine_rekey(e, tier, index);
    if (before & TNMI_LOST) tnmi_engine_leave_lost(e, tier, index);
    tnmi_engine_reap(e, content);
}

/* What is filled from a replica whose bytes are gone begins again. Its record may stay under pins
 * and copies, or its tier have another by then, which is not what was read from. */
static void tnmi_engine_orphan_readers(tnmi_engine *e, uint32_t content, uint32_t tier) {
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        const tnmi_replica *other = tnmi_engine_on(e, content, t);
        if (t == tier || !tnmi_engine_is_busy(other)) continue;
        tnmi_op *op = tnmi_engine_filling(e, other);
        if (op->kind == TNMI_OP_FILL && op->from == tier) op->orphan = 1;
    }
}

/* The bytes of one replica are gone for good. */
static void tnmi_engine_lose(tnmi_engine *e, uint32_t tier, uint32_t index) {
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    uint32_t content = replica->content;
    tnmi_tensor_mark(replica, TNMI_LOST | TNMI_NOTIFY, 0);
    tnmi_engine_orphan_readers(e, content, tier);
    if (tnmi_tensor_is_empty(&e->tensors, content))
        tnmi_tensor_set_flags(tnmi_engine_content(e, content), TNMI_BROKEN, 0);
    tnmi_engine_leave_lost(e, tier, index);
    tnmi_engine_reap(e, content);
}

static void tnmi_engine_fall(tnmi_engine *e, const tnmi_fence *fence, int dead) {
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, fence->tier, fence->replica);
    uint32_t content = replica->content;
    *tnmi_tensor_fenced_at(&e->tensors, fence->tier, fence->replica) -=
        fence->count * tnmi_tensor_fence_unit((int)fence->write);
    for (uint32_t i = 0; i < fence->count; i++) {
        uint64_t before = tnmi_tensor_unpin(replica, fence->write ? TNM_WRITE : TNM_READ);
        int last = i + 1 == fence->count;
        if (last && dead && fence->write) {
            tnmi_engine_log(e, TNM_LOG_ERROR, TNM_ERR_LOST,
                            "a queue died while it was writing this tensor", fence->tier, content);
            tnmi_engine_lose(e, fence->tier, fence->replica);
        } else if (last)
            tnmi_engine_unpinned(e, fence->tier, fence->replica, before);
    }
}

static tnmi_fence *tnmi_engine_fence_at(const tnmi_engine *e, uint32_t index) {
    return (tnmi_fence *)tnmi_store_at(&e->fences, index);
}

/* A queue has passed a value; UINT64_MAX = it is dead. */
static void tnmi_engine_passed(tnmi_engine *e, uint32_t queue, uint64_t value) {
    uint32_t *head = &e->fence_head[queue];
    while (*head != TNMI_NONE) {
        uint32_t index = *head;
        tnmi_fence fence = *tnmi_engine_fence_at(e, index);
        if (fence.value > value) return;
        *head = fence.next;
        if (fence.next == TNMI_NONE)
            e->fence_tail[queue] = TNMI_NONE;
        else
            tnmi_engine_fence_at(e, fence.next)->prev = TNMI_NONE;
        tnmi_store_give(&e->fences, index);
        e->fence_count--;
        tnmi_engine_fall(e, &fence, value == UINT64_MAX);
    }
}

static uint64_t tnmi_engine_fence_value(uint64_t fence) {
    return fence & (((uint64_t)1 << TNMI_FENCE_BITS) - 1);
}

/* Why TNM_FENCE did not make it, or not of a mark; NULL = it did. */
static const char *tnmi_engine_fence_rule(uint64_t fence) {
    uint64_t value = tnmi_engine_fence_value(fence);
    if (!(fence >> 63)) return "a fence is made by TNM_FENCE";
    if (value == 0 || value == tnmi_engine_fence_value(UINT64_MAX))
        return "a fence value is 1 .. 2^55-2: a mark that failed is no fence";
    return NULL;
}

/* The pin moves into a fence record; the record and its replica's count were reserved. Records of a
 * queue lie in the order of their values, in which they come, or nearly so where threads submit. */
static void tnmi_engine_fence(tnmi_engine *e, uint32_t tier, uint32_t replica, int write,
                              uint64_t fence) {
    uint32_t queue = (uint32_t)(fence >> TNMI_FENCE_BITS) % TNMI_QUEUES, at = e->fence_tail[queue];
    uint64_t value = tnmi_engine_fence_value(fence);
    *tnmi_tensor_fenced_at(&e->tensors, tier, replica) += tnmi_tensor_fence_unit(write);
    while (at != TNMI_NONE && tnmi_engine_fence_at(e, at)->value > value)
        at = tnmi_engine_fence_at(e, at)->prev;
    uint32_t *from = &e->fence_head[queue];
    if (at != TNMI_NONE) {
        tnmi_fence *before = tnmi_engine_fence_at(e, at);
        if (before->replica == replica && before->tier == tier && before->value == value &&
            before->write == (uint32_t)write) {
            before->count++;
            return;
        }
        from = &before->next;
    }
    uint32_t index = tnmi_store_take(&e->fences);
    tnmi_fence *record = tnmi_engine_fence_at(e, index);
    record->value = value;
    record->replica = replica;
    record->tier = tier;
    record->count = 1;
    record->write = (uint32_t)write;
    record->prev = at;
    record->next = *from;
    *from = index;
    if (record->next == TNMI_NONE)
        e->fence_tail[queue] = index;
    else
        tnmi_engine_fence_at(e, record->next)->prev = index;
    e->fence_count++;
}

/* ---- work nobody waits for ---- */
/* Plan one transfer in the background. OK if it was started. */
static tnm_result tnmi_engine_background(tnmi_engine *e, tnmi_plan *plan, uint32_t content,
                                         uint32_t tier, int fresh) {
    uint32_t op;
    tnm_result r;
    if (fresh) tnmi_engine_want_via(e, plan, content, tier);
    r = tnmi_engine_new_op(e, plan, content, tier, TNMI_OP_FILL, &op);
    if (r == TNM_OK) tnmi_engine_op(e, op)->fresh = fresh;
    if (r == TNM_OK) r = tnmi_engine_place_all(e, plan, plan->head);
    if (r != TNM_OK)
        tnmi_engine_undo(e, plan);
    else
        tnmi_engine_commit(e, plan);
    return r;
}

/* A write-back of what is dirty on `tier`. One that is ahead of its time takes below the place of
 * nothing but what is clean and needed later. */
static tnm_result tnmi_engine_write_down(tnmi_engine *e, uint32_t content, uint32_t tier,
                                         tnm_class class_) {
    tnmi_plan plan = tnmi_engine_plan(TNMI_NONE, class_, 0);
    plan.guess = class_ <= TNM_CLASS_GUESS;
    tnm_result r = tnmi_engine_want_leg(e, &plan, content, tier);
    if (r == TNM_OK && plan.guess && plan.head != TNMI_NONE) {
        tnmi_op *op = tnmi_engine_op(e, plan.head);
        tnmi_view view = tnmi_engine_view(e, op->tier);
        plan.before = tnmi_policy_key_passing(&view, content);
        if (op->state == TNMI_OP_ROOM) r = tnmi_engine_find_place(e, &plan, plan.head, 1);
    } else if (r == TNM_OK)
        r = tnmi_engine_place_all(e, &plan, plan.head);
    if (r == TNM_PENDING && !plan.guess && plan.short_on != TNMI_NONE)
        tnmi_engine_tier(e, plan.short_on)->sought = e->round;
    if (r != TNM_OK)
        tnmi_engine_undo(e, &plan);
    else
        tnmi_engine_commit(e, &plan);
    return r;
}

/* Is it being written? What is fetched meanwhile would wait for the writer with its room. */
static int tnmi_engine_is_written(const tnmi_engine *e, uint32_t content) {
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        const tnmi_replica *replica = tnmi_engine_on(e, content, t);
        if (replica && tnmi_tensor_writers(tnmi_base_peek64(&replica->word))) return 1;
    }
    return 0;
}

/* Fetch for one foreseen use. 0 = this tier has no room for guesses now. */
static int tnmi_engine_look_at(tnmi_engine *e, uint32_t use_index, uint32_t tier) {
    tnmi_use *use = tnmi_hint_use(&e->hints, use_index);
    const tnmi_lane *lane = &e->hints.lane[use->lane];
    const tnmi_tensor *content = tnmi_engine_content(e, use->content);
    tnmi_replica *there = tnmi_engine_on(e, use->content, tier);
    int sure = !(use->flags & TNMI_USE_SINGLE) || (use->flags & TNMI_USE_SURE);
    tnm_class class_ = sure ? TNM_CLASS_SURE : TNM_CLASS_GUESS;
    uint64_t steps = tnmi_hint_steps(lane, use, 0), ticks = tnmi_hint_ticks(lane, steps);
    uint64_t clock = tnmi_base_peek64(&e->clock);
    if (steps == TNMI_NEVER || use->access == TNM_DISCARD || (content->failed >> 16)) return 1;
    if (use->flags & TNMI_USE_DONE) return 1;
    if (tnmi_engine_is_awaited(e, use->content) || tnmi_engine_is_written(e, use->content))
        return 1;
    if (tnmi_engine_is_busy(there)) {
        tnmi_move_raise(&e->move, there->offset, class_, clock + ticks);
        return 1;
    }
    if (there && !tnmi_tensor_is_home(there)) return 1;
    if (tnmi_tensor_is_empty(&e->tensors, use->content)) return 1;
    tnmi_plan plan = tnmi_engine_plan(TNMI_NONE, class_, clock + ticks);
    plan.guess = 1;
    plan.before = tnmi_base_less(clock, ticks);
    tnm_result r = tnmi_engine_background(e, &plan, use->content, tier, 1);
    if (r == TNM_OK) {
        tnmi_engine_tier(e, tier)->prefetches++;
        return 1;
    }
    if (r == TNM_ERR_BUDGET && !(use->flags & TNMI_USE_REFUSED)) {
        use->flags |= TNMI_USE_REFUSED;
        tnmi_engine_tier(e, tier)->prefetches_refused++;
    }
    return 0;
}

/* One use: its own tier as long as that has room, and the tier below further ahead. */
static void tnmi_engine_look_use(tnmi_engine *e, uint32_t use, uint64_t *full) {
    uint32_t content = tnmi_hint_use(&e->hints, use)->content;
    uint32_t tier = tnmi_hint_use(&e->hints, use)->tier;
    if (!((*full >> tier) & 1u)) {
        if (tnmi_engine_look_at(e, use, tier)) return;
        *full |= (uint64_t)1 << tier;
    }
    for (int m = tnmi_engine_tier(e, tier)->spill; m >= 0;
         m = tnmi_engine_tier(e, (uint32_t)m)->spill) {
        if (e->cost_in[m] == e->cost_most) return; /* nothing comes there from a dearer one */
        tnmi_view view = tnmi_engine_view(e, tier);
        uint32_t source = tnmi_policy_survivor(&view, content, tier);
        if (tnmi_engine_on(e, content, tier) || source == TNMI_NONE) return;
        if (e->cost_in[source] <= e->cost_in[m]) return;
        if ((*full >> m) & 1u) continue;
        if (tnmi_engine_look_at(e, use, (uint32_t)m)) return;
        *full |= (uint64_t)1 << m;
    }
}

/* A foreseen use did not come: what was fetched for it is a prefetch no more, and nothing that was
 * ever used leaves before it. */
static void tnmi_engine_wasted(tnmi_engine *e, uint32_t content, uint32_t tier) {
    tnmi_replica *replica = tnmi_engine_on(e, content, tier);
    if (!replica || !(tnmi_base_peek64(&replica->word) & TNMI_FRESH)) return;
    if (!(tnmi_tensor_mark(replica, 0, TNMI_FRESH) & TNMI_FRESH)) return;
    tnmi_engine_tier(e, tier)->prefetches_wasted++;
    if (replica->node != TNMI_NONE) tnmi_base_poke64(&replica->stamp, 0); /* it was never pinned */
}

/* Single uses of past steps go, at most so many at a time. */
static void tnmi_engine_expire(tnmi_engine *e, const tnmi_lane *lane, int *most) {
    for (; *most > 0 && lane->single != TNMI_NONE; --*most) {
        const tnmi_use *use = tnmi_hint_use(&e->hints, lane->single);
        uint32_t content = use->content, index = lane->single;
        uint64_t through = e->below[use->tier];
        if (use->step >= lane->step) return;
        tnmi_hint_delete_single(&e->hints, &e->tensors, index);
        for (uint32_t t = 0; t < e->tiers.count; t++)
            if ((through >> t) & 1u) tnmi_engine_wasted(e, content, t);
        tnmi_engine_rekey_all(e, content);
    }
}

/* Tiers nothing can be fetched for now, as bits: a waiting call copies between synchronous backends
 * only what serves it, and what it cannot start it does not plan. */
static uint64_t tnmi_engine_shut(const tnmi_engine *e) {
    uint64_t polled = 0, shut = 0;
    for (uint32_t t = 0; t < e->tiers.count; t++)
        if (tnmi_engine_tier(e, t)->desc.backend.poll) polled |= (uint64_t)1 << t;
    for (uint32_t t = 0; e->demand_only && t < e->tiers.count; t++)
        if (!(e->below[t] & polled)) shut |= (uint64_t)1 << t;
    return shut;
}

/* What was learned to be wanted next, no more ahead than a 32nd of its tier or the first of them:
 * whoever fetches as far ahead as there are bytes wanted later ends with a window that slides over
 * a loop, where all of it comes anew each time. A fetched one counts until it was used. */
static void tnmi_engine_look_learned(tnmi_engine *e, uint64_t full, uint64_t all, int budget) {
    tnmi_lane *lane = &e->hints.lane[TNMI_LANE_LEARNED];
    uint64_t ahead[TNM_MAX_TIERS];
    int expire = TNMI_EXPIRE;
    memset(ahead, 0, sizeof ahead);
    lane->step = tnmi_base_peek64(&e->clock);
    tnmi_engine_expire(e, lane, &expire);
    if (tnmi_store_spare(&e->hints.uses) == 0) tnmi_engine_table(e, &e->hints.uses, 1);
    for (uint32_t i = lane->single; i != TNMI_NONE && full != all && budget-- > 0;) {
        const tnmi_use *use = tnmi_hint_use(&e->hints, i);
        uint32_t index = i, tier = use->tier;
        const tnmi_replica *there = tnmi_engine_on(e, use->content, tier);
        uint64_t bytes = tnmi_engine_content(e, use->content)->bytes;
        i = tnmi_hint_after(&e->hints, i);
        if (tnmi_tensor_is_ready(there) && !(tnmi_base_peek64(&there->word) & TNMI_FRESH)) {
            tnmi_hint_delete_single(&e->hints, &e->tensors, index); /* it was used */
            continue;
        }
        if (ahead[tier] > 0 && ahead[tier] + bytes > tnmi_engine_tier(e, tier)->budget / 32)
            full |= (uint64_t)1 << tier;
        ahead[tier] += bytes;
        if (!((full >> tier) & 1u)) tnmi_engine_look_use(e, index, &full);
    }
}

/* What is streamed through a tier and is there for a use counts into its ring: into the part that
 * is for what goes down nothing is fetched. */
static void tnmi_engine_fill_ring(const tnmi_engine *e, const tnmi_use *use, uint64_t *ahead,
                                  uint64_t *full) {
    for (int m = tnmi_engine_tier(e, use->tier)->spill; m >= 0;
         m = tnmi_engine_tier(e, (uint32_t)m)->spill) {
        const tnmi_tier *t = tnmi_engine_tier(e, (uint32_t)m);
        const tnmi_replica *there = tnmi_engine_on(e, use->content, (uint32_t)m);
        if (t->down_bytes == 0) continue;
        if (there && tnmi_engine_kept_on(e, use->content) != (uint32_t)m + 1)
            ahead[m] += tnmi_engine_content(e, use->content)->bytes;
        if (ahead[m] + t->down_bytes >= t->stream_bytes) *full |= (uint64_t)1 << m;
    }
}

/* The schedules in order, as far ahead as later-needed bytes allow; then single uses. */
static void tnmi_engine_look_ahead(tnmi_engine *e) {
    uint64_t all = e->tiers.count == 64 ? ~(uint64_t)0 : ((uint64_t)1 << e->tiers.count) - 1;
    uint64_t full = tnmi_engine_shut(e);
    int budget = TNMI_LOOK_USES, expire = TNMI_EXPIRE;
    uint64_t ahead[TNM_MAX_TIERS] = { 0 };
    for (uint32_t l = 0; l < TNM_MAX_LANES; l++) {
        const tnmi_lane *lane = &e->hints.lane[l];
        tnmi_engine_expire(e, lane, &expire);
        uint32_t i = lane->single;
        for (; i != TNMI_NONE && full != all && budget > 0; budget--) {
            uint32_t next = tnmi_hint_after(&e->hints, i);
            if (tnmi_hint_use(&e->hints, i)->flags & TNMI_USE_SURE)
                tnmi_engine_look_use(e, i, &full);
            i = next;
        }
        if (!lane->stepped) continue;
        i = lane->cursor;
        for (uint32_t seen = 0; seen < lane->cycle_count && full != all && budget > 0; seen++) {
            if (i == TNMI_NONE) i = lane->cycle;
            tnmi_engine_fill_ring(e, tnmi_hint_use(&e->hints, i), ahead, &full);
            tnmi_engine_look_use(e, i, &full);
            i = tnmi_hint_use(&e->hints, i)->next;
            budget--;
        }
    }
    for (uint32_t l = 0; l < TNM_MAX_LANES; l++)
        for (uint32_t i = e->hints.lane[l].single; i != TNMI_NONE && full != all && budget-- > 0;
             i = tnmi_hint_after(&e->hints, i))
            if (!(tnmi_hint_use(&e->hints, i)->flags & TNMI_USE_SURE))
                tnmi_engine_look_use(e, i, &full);
    if (e->hints.learned.on) tnmi_engine_look_learned(e, full, all, budget);
    if (e->grow && e->refused_host) e->grow = NULL;
}

static int tnmi_engine_is_resting(const tnmi_engine *e) {
    for (int q = 0; q < TNMI_MOVE_QUEUES; q++)
        if (e->move.queue[q].head != TNMI_NONE) return 0;
    return e->move.used == 0;
}

/* Bytes that go down to a tier ahead of their time and have not been handed out. */
static uint64_t tnmi_engine_backlog(const tnmi_engine *e, uint32_t tier) {
    uint64_t sum = 0;
    for (uint32_t i = e->move.queue[TNM_CLASS_WRITE_BACK].head; i != TNMI_NONE;
         i = tnmi_engine_op(e, i)->next_op)
        if (tnmi_engine_op(e, i)->tier == tier)
            sum += tnmi_engine_op(e, i)->bytes - tnmi_engine_op(e, i)->next;
    return sum;
}

/* What will leave next is written down before its room is asked for, no more than a chunk at a time
 * behind all that is more urgent. What a cycle is done with will surely leave; of the rest, which
 * may be written once more before it does, an eighth of the tier, unless everything rests. */
static void tnmi_engine_clean_ahead(tnmi_engine *e) {
    int resting = tnmi_engine_is_resting(e);
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        const tnmi_tier *tier = tnmi_engine_tier(e, t);
        tnmi_view view = tnmi_engine_view(e, t);
        tnmi_oldest oldest;
        uint32_t steps = 0, dirty[8], count = 0;
        uint64_t unsure = 0;
        if (tier->spill < 0 || view.sick || tier->budget == UINT64_MAX) continue;
        if (tnmi_tier_used(tier) + tier->budget / 8 < tier->budget) continue;
        uint64_t waits = tnmi_engine_backlog(e, (uint32_t)tier->spill), rekeys = e->rekeys[t];
        oldest.count = 0;
        oldest.more = 0;
        e->rekeys[t] = 0; /* a search for room that goes on later goes on where it was */
        while (oldest.count < 8 && waits < e->move.chunk &&
               tnmi_engine_pop_oldest(e, &view, &oldest, &steps)) {
            uint32_t index = oldest.index[oldest.count - 1];
            const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, t, index);
            const tnmi_tensor *content = tnmi_engine_content(e, replica->content);
            if (oldest.key[oldest.count - 1] == TNMI_KEY_KEEP) break; /* it will not leave */
            if (!tnmi_hint_is_cyclic(&e->hints, content)) unsure += content->bytes;
            if (!resting && unsure > tier->budget / 8) break;
            if (tnmi_policy_may_leave(&view, replica) != TNMI_LEAVE_DIRTY) continue;
            if ((content->failed >> 16) || tnmi_engine_is_awaited(e, replica->content)) continue;
            if (tnmi_engine_is_busy(tnmi_engine_on(e, replica->content, (uint32_t)tier->spill)))
                continue;
            dirty[count++] = replica->content;
            waits += content->bytes;
        }
        tnmi_engine_put_back(e, t, &oldest);
        e->rekeys[t] = rekeys;
        for (uint32_t i = 0; i < count; i++)
            tnmi_engine_write_down(e, dirty[i], t, TNM_CLASS_WRITE_BACK);
    }
}

/* Whole segments that have to go: what may leave leaves, what is dirty is written down. Returns
 * what it cost, in nodes looked at. */
static int tnmi_engine_drain_one(tnmi_engine *e, uint32_t tier, tnmi_segment *s, uint32_t index) {
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    tnmi_view view = tnmi_engine_view(e, tier);
    uint32_t content = replica->content;
    tnm_result r;
    if (tnmi_engine_is_used(e, tier, index, 1)) s->stop |= 2;
    if (tnmi_engine_is_busy(replica)) {
        tnmi_engine_cancel_op(e, replica->offset);
        return TNMI_HEAVY;
    }
    switch (tnmi_policy_may_leave(&view, replica)) {
    case TNMI_LEAVE_DIRTY:
        r = tnmi_engine_write_down(e, content, tier, TNM_CLASS_DEMAND);
        if (r == TNM_ERR_MEMORY || r == TNM_ERR_CAPACITY) { /* whoever waits for it is told */
            tnmi_tier_back_off(&tnmi_engine_tier(e, tier)->sick, e->tick);
            tnmi_engine_tier(e, tier)->sick_of = r;
        }
        return TNMI_HEAVY;
    case TNMI_LEAVE_NOW:
        if (tnmi_engine_try_leave(e, tier, index))
            tnmi_engine_reap(e, content); /* its last pin may have gone this very moment */
        return TNMI_HEAVY;
    default: /* not now */
        return 0;
    }
}

/* The walk comes to a segment. 1 = its nodes have to be looked at, from space.at on; 0 = it has
 * passed on. */
static int tnmi_engine_enter(tnmi_engine *e, uint32_t tier, uint32_t index) {
    tnmi_tier *t = tnmi_engine_tier(e, tier);
    tnmi_segment *s = tnmi_tier_segment(&e->tiers, index);
    if (s->state == TNMI_SEGMENT_LIVE && !s->used &&
        (t->reserved > t->budget || (s->dedicated && s->asked + 1 < e->tick)))
        tnmi_engine_drain_segment(e, tier, index); /* what kept it has gone */
    if (s->state == TNMI_SEGMENT_DRAINING && !e->closing && s->used && t->reserved <= t->budget &&
        s->asked + 1 < e->tick)
        tnmi_tier_revive(t, s);
    if (s->edge != TNMI_NONE && (s->state == TNMI_SEGMENT_DRAINING || s->thaw)) {
        t->space.at = tnmi_space_node(&t->space, s->edge)->next;
        s->stop &= 1;
        return 1;
    }
    if (s->state == TNMI_SEGMENT_DRAINING && s->owner != TNMI_NONE)
        tnmi_engine_drain_one(e, tier, s, s->owner);
    tnmi_engine_try_retire(e, index);
    tnmi_tier_pass(t, s, index);
    return 0;
}

/* It goes on in a segment, as far as its budget reaches. What it does there may end the segment, or
 * move the place at which it goes on. */
static void tnmi_engine_walk(tnmi_engine *e, uint32_t tier, uint32_t index, int *budget) {
    tnmi_tier *t = tnmi_engine_tier(e, tier);
    tnmi_segment *s = tnmi_tier_segment(&e->tiers, index);
    while (t->walk == index + 1 && *budget > 0) {
        uint32_t at = t->space.at;
        const tnmi_node *node = tnmi_space_node(&t->space, at);
        uint32_t kind = tnmi_space_kind(node);
        int draining = s->state == TNMI_SEGMENT_DRAINING;
        if (kind == TNMI_SPACE_EDGE || (!draining && !s->thaw)) {
            t->thawing -= s->thaw;
            s->thaw = 0;
            s->stop = (uint8_t)(s->stop >> 1);
            tnmi_engine_try_retire(e, index);
            tnmi_tier_pass(t, s, index);
            return;
        }
        t->space.at = node->next;
        --*budget;
        if (!draining && kind == TNMI_SPACE_HELD && node->a == TNMI_SPACE_DRAIN)
            tnmi_space_unhold(&t->space, at);
        if (draining && kind == TNMI_SPACE_FREE) tnmi_space_hold(&t->space, at, TNMI_SPACE_DRAIN);
        if (draining && kind == TNMI_SPACE_USED && node->a != TNMI_NONE)
            *budget -= tnmi_engine_drain_one(e, tier, s, node->a);
    }
}

/* Is there anything to go over on this tier? If there is not, no walk goes on. */
static int tnmi_engine_drains(tnmi_engine *e, uint32_t t) {
    tnmi_tier *tier = tnmi_engine_tier(e, t);
    int above = tier->reserved > tier->budget;
    if (above && !tier->segment_count)
        tnmi_move_unstage(&e->move, t); /* nothing else is left to go */
    if (above || tier->draining || tier->vacant || tier->thawing) return 1;
    tier->walk = 0;
    return 0;
}

/* Goes on where it ended: a lap over all segments of a tier takes as many steps as it needs. While
 * much is under way already, one step a round is enough. No lap begins while one goes on: one that
 * takes a whole step would begin anew each time, and the next tier's never come to its end. */
static void tnmi_engine_drain_all(tnmi_engine *e) {
    int budget = TNMI_WALK_NODES;
    uint64_t drains = 0, goes_on = 0;
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        if (!tnmi_engine_drains(e, t)) continue;
        drains |= (uint64_t)1 << t;
        if (tnmi_engine_tier(e, t)->walk) goes_on |= (uint64_t)1 << t;
    }
    if (goes_on) drains = goes_on;
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        tnmi_tier *tier = tnmi_engine_tier(e, t);
        if (!((drains >> t) & 1u)) continue;
        if (tier->walk_round == e->round && e->move.ops.live >= TNMI_ENOUGH) continue;
        tier->walk_round = e->round;
        if (!tier->walk) {
            tier->walk = tier->segments + 1;
            tier->space.at = TNMI_NONE;
        }
        while (tier->walk && budget > 0) {
            uint32_t index = tier->walk - 1;
            budget--;
            if (tier->space.at != TNMI_NONE || tnmi_engine_enter(e, t, index))
                tnmi_engine_walk(e, t, index, &budget);
        }
    }
}

/* Has a walk not come to its end? Then this round is not over, unless a pump has to be short. */
static int tnmi_engine_is_walking(const tnmi_engine *e) {
    if (e->pumping || e->move.ops.live >= TNMI_ENOUGH) return 0;
    for (uint32_t t = 0; t < e->tiers.count; t++)
        if (tnmi_engine_tier(e, t)->walk) return 1;
    return 0;
}

/* ---- compaction ---- */
/* A node that may move, from the end of a segment: READY, unpinned, in nobody's way. */
static uint32_t tnmi_engine_movable(const tnmi_engine *e, uint32_t tier, const tnmi_segment *s,
                                    uint32_t below) {
    const tnmi_space *space = &tnmi_engine_tier(e, tier)->space;
    uint32_t node = below == TNMI_NONE ? tnmi_space_node(space, s->edge)->prev
                                       : tnmi_space_node(space, below)->prev;
    for (; node != s->edge; node = tnmi_space_node(space, node)->prev) {
        const tnmi_node *n = tnmi_space_node(space, node);
        if (tnmi_space_kind(n) != TNMI_SPACE_USED || n->a == TNMI_NONE || n->b != 0) continue;
        const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, n->a);
        uint64_t word = tnmi_base_load64(&replica->word);
        if (!tnmi_tensor_is(word, TNMI_READY) || tnmi_tensor_pins(word)) continue;
        if (word & (TNMI_SOURCE | TNMI_CLAIM | TNMI_LOST)) continue;
        return node;
    }
    return TNMI_NONE;
}

/* Move one tensor towards the low end of its segment. 1 = under way. */
static int tnmi_engine_shift(tnmi_engine *e, uint32_t tier, uint32_t node) {
    tnmi_tier *t = tnmi_engine_tier(e, tier);
    const tnmi_node *n = tnmi_space_node(&t->space, node);
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, n->a);
    uint32_t content = replica->content, index = n->a;
    uint32_t edge = tnmi_tier_segment(&e->tiers, replica->segment)->edge;
    tnmi_op probe;
    tnmi_room room;
    probe.loose = probe.astray = 0;
    tnmi_engine_shape_room(e, content, tier, &probe, &room);
    room.need = tnmi_space_size(n);
    for (uint32_t hole = tnmi_space_node(&t->space, edge)->next; hole != node;
         hole = tnmi_space_node(&t->space, hole)->next) {
        if (tnmi_space_kind(tnmi_space_node(&t->space, hole)) != TNMI_SPACE_FREE) continue;
        if (tnmi_space_fit_node(&t->space, hole, &room) == TNMI_NONE) continue;
        if (tnmi_engine_nodes(e, tier) != TNM_OK) return 0;
        if (tnmi_engine_table(e, &e->move.ops, 1) != TNM_OK) return 0;
        uint64_t word = tnmi_tensor_mark(replica, TNMI_SOURCE, 0);
        if (tnmi_tensor_pins(word)) {
            tnmi_tensor_mark(replica, 0, TNMI_SOURCE);
            return 0;
        }
        uint32_t op_index = tnmi_move_new(&e->move, TNMI_OP_SHIFT, TNM_CLASS_DEMAND, 0);
        tnmi_op *op = tnmi_engine_op(e, op_index);
        op->content = content;
        op->replica = index;
        op->tier = op->from = tier;
        op->bytes = tnmi_engine_content(e, content)->bytes;
        op->shift = probe.shift;
        op->need = room.need;
        tnmi_space_take(&t->space, hole, &room, TNMI_NONE);
        tnmi_engine_settle(e, op_index, hole);
        tnmi_move_enqueue(&e->move, op_index, TNM_CLASS_DEMAND);
        e->shift[e->shifts++] = op_index;
        return 1;
    }
    return 0;
}

static void tnmi_engine_compact(tnmi_engine *e) {
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        tnmi_tier *tier = tnmi_engine_tier(e, t);
        if (!tier->compact || e->shifts >= TNMI_SHIFTS || tier->losing) continue;
        int started = 0, looked = 64;
        for (uint32_t i = tier->segments; i != TNMI_NONE;
             i = tnmi_tier_segment(&e->tiers, i)->next) {
            const tnmi_segment *s = tnmi_tier_segment(&e->tiers, i);
            uint32_t node = TNMI_NONE;
            if (s->state != TNMI_SEGMENT_LIVE || s->edge == TNMI_NONE || tier->no_shift) continue;
            while (looked-- > 0 && e->shifts < TNMI_SHIFTS &&
                   (node = tnmi_engine_movable(e, t, s, node)) != TNMI_NONE)
                started += tnmi_engine_shift(e, t, node);
        }
        tier->compact = 0;
        if (!started && e->shifts == 0) tier->moved_mark = e->changed;
    }
}

/* Is a copy to another tier in this replica's memory at this moment? */
static int tnmi_engine_is_read_now(const tnmi_engine *e, uint32_t content, uint32_t tier) {
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        const tnmi_replica *other = tnmi_engine_on(e, content, t);
        if (t == tier || !tnmi_engine_is_busy(other)) continue;
        if (tnmi_engine_filling(e, other)->from == tier && tnmi_engine_reads_now(e, other->offset))
            return 1;
    }
    return 0;
}

/* One of a shift's two places goes, that of a SCRUB content when it has been wiped. */
static void tnmi_engine_end_place(tnmi_engine *e, const tnmi_op *op, const tnmi_replica *left,
                                  int lost) {
    const tnmi_tensor *content = tnmi_engine_content(e, op->content);
    tnmi_space_node(&tnmi_engine_tier(e, op->tier)->space, left->node)->b = 0;
    if (!lost && (tnmi_tensor_advice(content) & TNM_SCRUB) &&
        tnmi_engine_wipe(e, op->tier, left, content->bytes))
        return;
    tnmi_engine_free_node(e, op->tier, left->node, left->segment);
}

/* The copy of a shift is done: the replica changes place, unless someone pinned it meanwhile, or
 * a copy reads it where it is. */
static void tnmi_engine_end_shift(tnmi_engine *e, uint32_t op_index, int done) {
    tnmi_op op = *tnmi_engine_op(e, op_index);
    tnmi_tier *t = tnmi_engine_tier(e, op.tier);
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, op.tier, op.replica), left;
    if (done)
        tnmi_tier_forgive(&t->stiff);
    else if (op.error != TNM_OK)
        tnmi_tier_back_off(&t->stiff, e->tick);
    for (uint32_t i = 0; i < e->shifts; i++)
        if (e->shift[i] == op_index) e->shift[i] = e->shift[--e->shifts];
    tnmi_move_delete(&e->move, op_index);
    int lost = (tnmi_base_load64(&replica->word) & TNMI_LOST) != 0; /* it waited for this */
    int moves = done && !lost && !tnmi_engine_is_read_now(e, op.content, op.tier);
    memset(&left, 0, sizeof left);
    left.node = op.place;
    left.segment = op.place_segment;
    left.offset = op.place_offset;
    if (moves && tnmi_tensor_claim(replica)) {
        uint32_t node = replica->node;
        tnmi_node *place = tnmi_space_node(&t->space, op.place);
        tnmi_heap *order = &e->tensors.on[op.tier].order;
        uint64_t key = tnmi_store_heap_key(order, node);
        tnmi_store_heap_drop(order, node);
        tnmi_store_heap_push(order, op.place, key);
        place->a = op.replica;
        place->b = tnmi_space_node(&t->space, node)->b; /* claims that came meanwhile */
        left.node = node;
        left.segment = replica->segment;
        left.offset = replica->offset;
        replica->node = op.place;
        replica->segment = op.place_segment;
        replica->offset = op.place_offset;
        tnmi_tensor_unclaim(replica);
        t->compactions++;
    }
    tnmi_engine_end_place(e, &op, &left, lost);
    tnmi_engine_end_source(e, op.content, op.tier);
    if (lost) tnmi_engine_leave_lost(e, op.tier, op.replica);
    tnmi_engine_reap(e, op.content);
}

/* ---- spans ---- */
static void tnmi_engine_span_placed(const tnmi_engine *e, tnm_span *span, uint32_t tier,
                                    uint32_t segment, uint32_t offset, uint64_t at) {
    const tnmi_tier *t = tnmi_engine_tier(e, tier);
    const tnmi_segment *s = tnmi_tier_segment(&e->tiers, segment);
    memset(span, 0, sizeof *span);
    span->backend = &t->desc.backend;
    span->mem = s->mem;
    span->offset = offset * t->unit + at;
    span->host = s->host ? (char *)s->host + (size_t)span->offset : NULL;
    span->tier = (int)tier;
}

static void tnmi_engine_span_adopted(const tnmi_engine *e, tnm_span *span,
                                     const tnmi_region *region, uint64_t stamp, uint64_t at) {
    memset(span, 0, sizeof *span);
    span->backend = &tnmi_engine_tier(e, region->tier)->desc.backend;
    span->mem = region->mem;
    span->tier = (int)region->tier;
    span->adopted = 1;
    span->offset = region->by_host ? at : stamp + at;
    if (region->by_host)
        span->host = (char *)(uintptr_t)stamp + (size_t)at;
    else if (region->base)
        span->host = (char *)(region->base + (uintptr_t)span->offset);
}

/* Byte `at` of a content on a tier; a BUSY one's place is still its transfer's. */
static void tnmi_engine_span(const tnmi_engine *e, tnm_span *span, uint32_t tier, uint32_t content,
                             uint64_t at) {
    const tnmi_replica *replica = tnmi_engine_on(e, content, tier);
    if (replica->node == TNMI_NONE) {
        tnmi_engine_span_adopted(e, span, tnmi_tensor_region(&e->tensors, replica->segment),
                                 tnmi_base_peek64(&replica->stamp), at);
    } else if (tnmi_engine_is_busy(replica)) {
        const tnmi_op *op = tnmi_engine_filling(e, replica);
        tnmi_engine_span_placed(e, span, tier, op->place_segment, op->place_offset, at);
    } else {
        tnmi_engine_span_placed(e, span, tier, replica->segment, replica->offset, at);
    }
    span->item = tnmi_engine_content(e, content)->user;
}

static void tnmi_engine_span_plain(const tnmi_op *op, tnm_span *span, uint64_t at) {
    memset(span, 0, sizeof *span);
    span->host = op->plain + (size_t)at;
    span->tier = -1;
}

static void tnmi_engine_span_stage(const tnmi_engine *e, tnm_span *span, uint32_t stage,
                                   uint64_t at) {
    const tnmi_move *move = &e->move;
    memset(span, 0, sizeof *span);
    span->backend = &tnmi_engine_tier(e, move->stage_tier)->desc.backend;
    span->mem = move->stage_mem;
    span->offset = stage * move->stage_size + at;
    span->host = move->stage_host ? move->stage_host + (size_t)span->offset : NULL;
    span->tier = (int)move->stage_tier;
}

/* Where a transfer puts byte `at` of its range. */
static void tnmi_engine_span_to(const tnmi_engine *e, const tnmi_op *op, tnm_span *span,
                                uint64_t at) {
    if (op->kind == TNMI_OP_READ)
        tnmi_engine_span_plain(op, span, at);
    else if (op->kind == TNMI_OP_SHIFT || op->kind == TNMI_OP_WIPE) {
        tnmi_engine_span_placed(e, span, op->tier, op->place_segment, op->place_offset, at);
        if (op->kind == TNMI_OP_SHIFT) span->item = tnmi_engine_content(e, op->content)->user;
    } else
        tnmi_engine_span(e, span, op->tier, op->content, op->plain_offset + at);
}

static int tnmi_engine_is_zero(const tnmi_op *op) {
    return op->kind == TNMI_OP_BUILD || op->kind == TNMI_OP_WIPE ||
           (op->kind == TNMI_OP_WRITE && !op->plain);
}

/* Where it takes it from; not for zeros. */
static void tnmi_engine_span_from(const tnmi_engine *e, const tnmi_op *op, tnm_span *span,
                                  uint64_t at) {
    if (op->kind == TNMI_OP_WRITE)
        tnmi_engine_span_plain(op, span, at);
    else if (op->kind == TNMI_OP_READ)
        tnmi_engine_span(e, span, op->tier, op->content, op->plain_offset + at);
    else
        tnmi_engine_span(e, span, op->from, op->content, at);
}

/* ---- transfers end ---- */
static void tnmi_engine_end_plain(tnmi_engine *e, uint32_t op_index, tnm_result code) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    tnmi_move_unqueue(&e->move, op_index);
    op->error = code;
    op->state = TNMI_OP_DONE;
    e->changed++;
}

static void tnmi_engine_end_wipe(tnmi_engine *e, uint32_t op_index, tnm_result code) {
    tnmi_op op = *tnmi_engine_op(e, op_index);
    tnmi_move_delete(&e->move, op_index);
    if (code != TNM_OK)
        tnmi_engine_log(e, TNM_LOG_ERROR, code, "bytes of a SCRUB tensor could not be wiped",
                        op.tier, TNMI_NONE);
    tnmi_engine_free_node(e, op.tier, op.place, op.place_segment);
}

/* Everything that was out has come home, or everything has arrived. */
static void tnmi_engine_end_op(tnmi_engine *e, uint32_t op_index) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    int failed = op->state == TNMI_OP_DRAINING;
    switch (op->kind) {
    case TNMI_OP_READ:
    case TNMI_OP_WRITE:
        tnmi_engine_end_plain(e, op_index, op->error);
        break;
    case TNMI_OP_WIPE:
        tnmi_engine_end_wipe(e, op_index, op->error);
        break;
    case TNMI_OP_SHIFT:
        tnmi_engine_end_shift(e, op_index, !failed);
        break;
    case TNMI_OP_BUILD:
        if (failed)
            tnmi_engine_drained(e, op_index);
        else
            tnmi_move_unqueue(&e->move, op_index); /* the grant publishes it */
        e->changed++;
        break;
    default: /* FILL */
        if (failed)
            tnmi_engine_drained(e, op_index);
        else
            tnmi_engine_publish(e, op_index, op->fresh && !op->claims ? TNMI_FRESH : 0);
        break;
    }
}

/* A chunk is over. */
static void tnmi_engine_end_copy(tnmi_engine *e, uint32_t copy_index) {
    tnmi_copy *copy = &e->move.copy[copy_index];
    uint32_t op_index = copy->op;
    tnmi_move_slot_give(&e->move, copy_index);
    tnmi_op *op = tnmi_engine_op(e, op_index);
    tnmi_engine_let_go_lost(e, op);
    if (op->state == TNMI_OP_DRAINING ? op->out == 0 : op->done == op->bytes)
        tnmi_engine_end_op(e, op_index);
}

static void tnmi_engine_tell_copy(tnmi_engine *e, tnm_event_kind kind, const tnmi_copy *copy,
                                  tnm_result result) {
    const tnmi_op *op = tnmi_engine_op(e, copy->op);
    uint32_t from = tnmi_engine_is_zero(op) || op->kind == TNMI_OP_WRITE ? TNMI_NONE : op->from;
    uint32_t to = op->kind == TNMI_OP_READ ? TNMI_NONE : op->tier;
    if (op->kind == TNMI_OP_READ) from = op->tier;
    if (copy->hop == TNMI_HOP_IN) to = e->move.stage_tier;
    if (copy->hop == TNMI_HOP_OUT) from = e->move.stage_tier;
    tnm_event *event = tnmi_engine_event(e, kind, to, op->content);
    if (!event) return;
    event->from = (int)from;
    event->class_ = copy->class_;
    event->offset = op->plain_offset + copy->at;
    event->bytes = copy->size;
    event->ticket = copy->number * 4 + (uint64_t)copy->hop;
    event->result = result;
}

/* The CPU moves bytes between a tier and plain memory: told as a copy is. */
static void tnmi_engine_tell_plain(tnmi_engine *e, tnm_event_kind kind, uint64_t number,
                                   uint32_t content, uint32_t tier, const tnm_event *how) {
    tnm_event *event = tnmi_engine_event(e, kind, tier, content);
    if (!event) return;
    event->tier = how->tier;
    event->from = how->from;
    event->class_ = TNM_CLASS_DEMAND;
    event->offset = how->offset;
    event->bytes = how->bytes;
    event->ticket = number * 4;
}

static int tnmi_engine_is_downward(const tnmi_op *op) {
    return op->from != TNMI_NONE && op->from < op->tier;
}

static void tnmi_engine_count_link(tnmi_engine *e, tnmi_copy *copy, int add) {
    tnmi_tier *t = tnmi_engine_tier(e, copy->tier);
    uint64_t guess = copy->class_ <= TNM_CLASS_GUESS ? copy->size : 0;
    uint32_t down = (uint32_t)tnmi_engine_is_downward(tnmi_engine_op(e, copy->op));
    if (add) {
        t->in_flight++;
        t->downward += down;
        t->in_flight_bytes += copy->size;
        t->guess_bytes += guess;
    } else {
        t->in_flight--;
        t->downward -= down;
        t->in_flight_bytes -= copy->size;
        t->guess_bytes -= guess;
    }
}

/* What was read from memory that was lost meanwhile counts for nothing, whatever its backend says:
 * the transfer begins again when all that is out of it has come home. */
static void tnmi_engine_hop_void(tnmi_engine *e, uint32_t copy_index) {
    const tnmi_copy *copy = &e->move.copy[copy_index];
    tnmi_op *op = tnmi_engine_op(e, copy->op);
    if (op->next == op->bytes) tnmi_move_enqueue(&e->move, copy->op, (int)op->class_);
    op->next = copy->at;
    tnmi_engine_end_copy(e, copy_index);
}

/* One hop of a chunk was answered OK. */
static void tnmi_engine_hop_done(tnmi_engine *e, uint32_t copy_index) {
    tnmi_copy *copy = &e->move.copy[copy_index];
    tnmi_op *op = tnmi_engine_op(e, copy->op);
    tnmi_engine_tell_copy(e, TNM_EVENT_COPY_END, copy, TNM_OK);
    if (op->orphan && copy->hop != TNMI_HOP_OUT && op->state != TNMI_OP_DRAINING) {
        tnmi_engine_hop_void(e, copy_index);
        return;
    }
    if (copy->hop == TNMI_HOP_IN && op->state != TNMI_OP_DRAINING) {
        copy->hop = TNMI_HOP_OUT;
        copy->state = TNMI_COPY_READY;
        copy->asked = 0;
        copy->begun = 0;
        return;
    }
    op->done += copy->size;
    if (op->kind != TNMI_OP_READ) tnmi_engine_tier(e, op->tier)->bytes_in += copy->size;
    if (op->from != TNMI_NONE && op->from < e->tiers.count)
        tnmi_engine_tier(e, op->from)->bytes_out += copy->size;
    if (op->kind == TNMI_OP_READ) tnmi_engine_tier(e, op->tier)->bytes_out += copy->size;
    tnmi_engine_end_copy(e, copy_index);
}

static void tnmi_engine_hop_failed(tnmi_engine *e, uint32_t copy_index, tnm_result code) {
    tnmi_copy *copy = &e->move.copy[copy_index];
    tnmi_engine_tell_copy(e, TNM_EVENT_COPY_END, copy, code);
    tnmi_engine_fail(e, copy->op, code);
    tnmi_engine_end_copy(e, copy_index);
}

/* One replica of a tier whose memory is gone. */
static void tnmi_engine_lose_one(tnmi_engine *e, uint32_t tier, uint32_t index) {
    const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    uint64_t word = tnmi_base_load64(&replica->word);
    if (tnmi_tensor_is(word, TNMI_ABSENT) || (word & TNMI_LOST)) return;
    if (tnmi_engine_index(e, replica->content, tier) != index) return;
    if (!tnmi_tensor_is(word, TNMI_BUSY)) {
        tnmi_engine_lose(e, tier, index);
        return;
    }
    uint32_t op = replica->offset;
    tnmi_engine_fail(e, op, TNM_ERR_LOST);
    if (tnmi_engine_op(e, op)->out == 0) tnmi_engine_end_op(e, op);
}

/* Whoever asks about a content while a tier is being lost finds it as it will be. */
static void tnmi_engine_lose_first(tnmi_engine *e, uint32_t content) {
    for (uint32_t t = 0; t < e->tiers.count; t++)
        if (((e->losing >> t) & 1u) && tnmi_engine_on(e, content, t))
            tnmi_engine_lose_one(e, t, tnmi_engine_index(e, content, t));
}

static void tnmi_engine_lose_members(tnmi_engine *e, uint32_t request) {
    for (uint32_t m = tnmi_engine_request(e, request)->members; m != TNMI_NONE;) {
        uint32_t content = tnmi_engine_member(e, m)->content;
        m = tnmi_engine_member(e, m)->next;
        if (content) tnmi_engine_lose_first(e, content);
    }
}

/* Segment or record `at` of a tier whose memory is gone; 0 = there are no more. */
static int tnmi_engine_lose_next(tnmi_engine *e, uint32_t tier, uint32_t at) {
    uint32_t records = e->tensors.on[tier].replicas.fresh;
    if (at < records) {
        tnmi_engine_lose_one(e, tier, at);
        return 1;
    }
    if ((at -= records) >= e->tiers.segments.fresh) return 0;
    tnmi_segment *s = tnmi_tier_segment(&e->tiers, at);
    if (s->state == TNMI_SEGMENT_NONE || s->tier != tier) return 1;
    if (s->state == TNMI_SEGMENT_LIVE) tnmi_engine_drain_segment(e, tier, at);
    s->asked = UINT64_MAX - 1; /* for good */
    return 1;
}

/* Are a replica's bytes gone, or going? */
static int tnmi_engine_is_lost(const tnmi_engine *e, uint32_t tier, uint32_t index) {
    const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    return tnmi_tensor_is_gone(replica) || ((e->losing >> tier) & 1u);
}

/* Of a tier that loses its memory a bounded part drops. Until all of it has, nothing new is placed
 * there, so that what comes after the loss is not taken for what was before. 0 = there is none. */
static int tnmi_engine_lose_some(tnmi_engine *e) {
    for (uint32_t tier = 0; tier < e->tiers.count; tier++) {
        tnmi_tier *t = tnmi_engine_tier(e, tier);
        if (!t->losing) continue;
        for (int i = 0; i < TNMI_PIECE; i++)
            if (!tnmi_engine_lose_next(e, tier, t->losing++ - 1)) {
                t->losing = 0;
                e->losing &= ~((uint64_t)1 << tier);
                e->changed++;
                break;
            }
        return 1;
    }
    return 0;
}

/* The bounce buffer went with its tier: what is in it, or on its way there, has failed, and begins
 * anew with whoever asks. */
static void tnmi_engine_lose_staging(tnmi_engine *e) {
    for (uint32_t i = e->move.live_copy; i != TNMI_NONE; i = e->move.copy[i].next)
        if (e->move.copy[i].stage != TNMI_NONE)
            tnmi_engine_fail(e, e->move.copy[i].op, TNM_ERR_BACKEND);
    e->move.stage_state = TNMI_STAGING_LOST;
}

/* The end of a copy whose backend lost its memory: nothing but the bounce buffer may have been
 * there. */
static void tnmi_engine_hop_lost(tnmi_engine *e, uint32_t copy_index) {
    const tnmi_copy *copy = &e->move.copy[copy_index];
    const tnmi_op *op = tnmi_engine_op(e, copy->op);
    int ours = op->tier == copy->tier || op->from == copy->tier;
    tnmi_engine_hop_failed(e, copy_index, ours ? TNM_ERR_LOST : TNM_ERR_BACKEND);
}

/* A callback said its memory is gone: every replica there drops, what was out counts as answered,
 * the segments are given back, and the tier starts empty. What other backends copy from or to that
 * memory they go on with, and it stays until they have answered. */
static void tnmi_engine_lose_tier(tnmi_engine *e, uint32_t tier) {
    if (tnmi_move_has_staging(&e->move, tier)) tnmi_engine_lose_staging(e);
    tnmi_engine_log(e, TNM_LOG_ERROR, TNM_ERR_LOST, "a backend said that its memory is gone", tier,
                    TNMI_NONE);
    for (uint32_t i = e->move.live_copy; i != TNMI_NONE;) {
        tnmi_copy *copy = &e->move.copy[i];
        uint32_t index = i;
        i = copy->next;
        if (copy->tier != tier || copy->state != TNMI_COPY_OUT) continue;
        tnmi_engine_count_link(e, copy, 0);
        tnmi_engine_hop_lost(e, index);
        i = e->move.live_copy;
    }
    tnmi_engine_tier(e, tier)->losing = 1;
    e->losing |= (uint64_t)1 << tier;
    tnmi_engine_lose_some(e);
}

/* ---- chunks begin ---- */
/* The source of a fill: on the way down the nearest current replica above, on the way up the
 * cheapest, unless a nearer one is on its way below. */
static int tnmi_engine_choose_source(tnmi_engine *e, uint32_t op_index) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    uint32_t best = TNMI_NONE, coming = TNMI_NONE;
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        const tnmi_replica *other = tnmi_engine_on(e, op->content, t);
        if (t == op->tier || !other) continue;
        if (tnmi_tensor_is_ready(other)) {
            int above =
                (int)((e->below[t] >> op->tier) & 1u); /* t grows: the last is the nearest */
            if (best == TNMI_NONE || above || e->cost_in[t] < e->cost_in[best]) best = t;
        } else if (tnmi_engine_is_busy(other) && ((e->below[op->tier] >> t) & 1u)) {
            const tnmi_op *lower = tnmi_engine_filling(e, other);
            if (lower->kind != TNMI_OP_FILL || lower->state == TNMI_OP_DRAINING) continue;
            tnmi_move_raise(&e->move, other->offset, op->class_, op->step);
            coming = t;
        }
    }
    if (best == TNMI_NONE) return 0;
    if (coming != TNMI_NONE && e->cost_in[coming] < e->cost_in[best]) return 0;
    tnmi_replica *source = tnmi_engine_on(e, op->content, best);
    uint64_t word = tnmi_tensor_mark(source, TNMI_SOURCE, 0);
    if (tnmi_tensor_writers(word)) { /* bytes that are being written are not copied */
        if (!tnmi_engine_has_reader(e, op->content, best)) tnmi_tensor_mark(source, 0, TNMI_SOURCE);
        return 0;
    }
    op->from = best;
    return 1;
}

/* Adopted bytes come in multiples of their backend's granularity. */
static uint64_t tnmi_engine_grain(const tnmi_engine *e, const tnmi_op *op, uint64_t *source,
                                  int *odd_ends) {
    uint32_t tier = op->kind == TNMI_OP_READ ? op->tier : op->from;
    *source = 0;
    *odd_ends = 0;
    if (op->kind != TNMI_OP_FILL && op->kind != TNMI_OP_READ) return 1;
    const tnmi_replica *replica = tnmi_engine_on(e, op->content, tier);
    if (replica->node != TNMI_NONE) return 1;
    *source = tnmi_base_peek64(&replica->stamp) + op->plain_offset;
    *odd_ends = tnmi_engine_tier(e, tier)->desc.backend.odd_ends != 0;
    return tnmi_base_max(tnmi_engine_tier(e, tier)->desc.backend.granularity, 1);
}

/* Has the backend a slot? Two are left to demands, and half of all to what waits to go the other
 * way, so that a link with two directions works in both. */
static int tnmi_engine_has_slot(const tnmi_engine *e, tnmi_tier *t, tnm_class class_, int down) {
    uint32_t depth = t->desc.queue_depth, left = class_ < TNM_CLASS_DEMAND ? 2 : 0;
    uint32_t same = down ? t->downward : t->in_flight - t->downward, most = depth;
    if (depth > 3) most = t->wanted[!down] > e->round ? (depth - left) / 2 : depth - left;
    if (t->in_flight < depth && same < most) return 1;
    t->wanted[down] = e->round + 2; /* this one and the next */
    return 0;
}

/* May this class put another chunk on the link? */
static int tnmi_engine_link_open(const tnmi_engine *e, const tnmi_op *op, uint64_t size) {
    tnmi_tier *t = tnmi_engine_tier(e, op->tier);
    uint32_t other = op->from == TNMI_NONE ? op->tier : op->from;
    tnmi_tier *s = tnmi_engine_tier(e, other);
    int down = tnmi_engine_is_downward(op);
    if (op->class_ < TNM_CLASS_DEMAND) {
        if (e->demand_only && !t->desc.backend.poll && !s->desc.backend.poll) return 0;
    }
    if (!tnmi_engine_has_slot(e, t, op->class_, down)) return 0;
    if (!tnmi_engine_has_slot(e, s, op->class_, down)) return 0;
    if (e->busy_round[op->tier] == e->round || e->busy_round[other] == e->round) return 0;
    if (op->class_ > TNM_CLASS_GUESS) return 1;
    uint64_t out = tnmi_base_max(t->guess_bytes, s->guess_bytes);
    return out == 0 || out + size <= e->guess_bytes;
}

static int tnmi_engine_has_unasked(const tnmi_engine *e, uint32_t op_index) {
    for (uint32_t i = e->move.live_copy; i != TNMI_NONE; i = e->move.copy[i].next)
        if (e->move.copy[i].op == op_index && e->move.copy[i].state == TNMI_COPY_READY) return 1;
    return 0;
}

/* Whose memory will be the bounce buffer: the tier the application named, else the first that is
 * not known to be hidden from the CPU; an eighth of its budget at most. 0 = there is none. */
static int tnmi_engine_choose_staging(tnmi_engine *e) {
    tnmi_move *move = &e->move;
    uint32_t tier = e->stage_wish;
    for (uint32_t t = 0; tier == 0 && t < e->tiers.count; t++)
        if (!tnmi_engine_tier(e, t)->own_backend) tier = t + 1;
    for (uint32_t t = 0; tier == 0 && t < e->tiers.count; t++)
        if (tnmi_engine_tier(e, t)->visible && !tnmi_engine_tier(e, t)->dark) tier = t + 1;
    for (uint32_t t = 0; tier == 0 && t < e->tiers.count; t++)
        if (!tnmi_engine_tier(e, t)->hidden) tier = t + 1;
    if (tier == 0) return 0;
    const tnmi_tier *t = tnmi_engine_tier(e, tier - 1);
    uint64_t bytes = move->stage_most, least = tnmi_base_max(e->grain, 1) * 4;
    if (t->budget != UINT64_MAX) bytes = tnmi_base_min(bytes, t->budget / 8);
    move->stage_size = tnmi_base_max(tnmi_base_min(move->chunk, bytes / 4), least);
    move->stage_size = (move->stage_size + 63) & ~(uint64_t)63;
    uint64_t count = tnmi_base_min(tnmi_base_max(bytes / move->stage_size, 4), move->stage_links);
    move->stage_bytes = count * move->stage_size;
    move->stage_tier = tier - 1;
    return 1;
}

/* Staging is taken when a route first needs it, and a tier that has given everything to one segment
 * could not take it any more: where one surely will need it, its share of the budget is set aside.
 * Where nobody knows yet whether the CPU sees the tier, segments only spare it. */
static void tnmi_engine_set_aside(tnmi_engine *e) {
    for (uint32_t t = 0; t < e->tiers.count; t++)
        tnmi_engine_tier(e, t)->set_aside = tnmi_engine_tier(e, t)->spared = 0;
    if (!tnmi_engine_choose_staging(e)) return;
    tnmi_tier *t = tnmi_engine_tier(e, e->move.stage_tier);
    if (t->budget == UINT64_MAX || e->move.stage_bytes > t->budget) return; /* not in there */
    if (e->stage_wish || !t->own_backend)
        t->set_aside = tnmi_base_min(e->move.stage_bytes, t->budget);
    else if (t->visible)
        t->set_aside = tnmi_base_min(e->move.stage_bytes, tnmi_tier_room(t));
    else if (e->grain > 1)
        t->spared = e->move.stage_bytes;
}

/* A staging chunk for this class, or TNMI_NONE; asks for staging when there is none yet. */
static uint32_t tnmi_engine_stage(tnmi_engine *e, uint32_t op_index) {
    tnmi_move *move = &e->move;
    tnmi_op *op = tnmi_engine_op(e, op_index);
    tnm_result failed = TNM_OK;
    if (move->stage_state == TNMI_STAGING_NONE) {
        if (tnmi_engine_choose_staging(e))
            move->stage_state = TNMI_STAGING_WANTED;
        else
            failed = TNM_ERR_UNSUPPORTED; /* no tier has a CPU address */
    }
    if (move->stage_state == TNMI_STAGING_REFUSED && move->stage_short &&
        move->stage_bytes <= tnmi_tier_room(tnmi_engine_tier(e, move->stage_tier)))
        move->stage_state = TNMI_STAGING_WANTED; /* there was no room; there is now */
    if (move->stage_state == TNMI_STAGING_REFUSED) {
        failed = TNM_ERR_BUDGET;
        move->stage_state = TNMI_STAGING_NONE; /* asked anew by the next transfer that needs it */
    }
    if (failed != TNM_OK) {
        tnmi_engine_fail(e, op_index, failed);
        if (op->out == 0) tnmi_engine_end_op(e, op_index);
        return TNMI_NONE;
    }
    if (move->stage_state != TNMI_STAGING_LIVE) return TNMI_NONE;
    if (move->stage_count <= tnmi_move_stage_reserve(op->class_, tnmi_engine_is_downward(op)))
        return TNMI_NONE;
    return tnmi_move_stage_take(move);
}

/* Not yet: a source nothing was read from is nobody's source. */
static uint32_t tnmi_engine_not_yet(tnmi_engine *e, uint32_t op_index) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    if (op->kind != TNMI_OP_FILL || op->state != TNMI_OP_PLACED || op->from == TNMI_NONE)
        return TNMI_NONE;
    uint32_t from = op->from;
    op->from = TNMI_NONE;
    uint64_t changed = e->changed;
    tnmi_engine_end_source(e, op->content, from);
    e->changed = changed;
    return TNMI_NONE;
}

/* May a transfer go on: is what it reads still there, and where? One for which it is not ends. */
static int tnmi_engine_has_source(tnmi_engine *e, uint32_t op_index) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    if (op->kind == TNMI_OP_READ || op->kind == TNMI_OP_WRITE) {
        if (tnmi_engine_is_lost(e, op->tier, op->replica)) { /* its pin alone keeps it */
            tnmi_engine_fail(e, op_index, TNM_ERR_LOST);
            if (op->out == 0) tnmi_engine_end_op(e, op_index);
            return 0;
        }
        if (tnmi_tensor_fenced(&e->tensors, op->tier, op->replica, op->kind == TNMI_OP_READ))
            return 0; /* a queue has not passed yet */
    }
    if (op->orphan) {
        if (op->out > 0) return 0;
        op->from = TNMI_NONE; /* another one, from the start, and by a route of its own */
        op->next = op->done = 0;
        op->orphan = op->route = 0;
    }
    if (op->kind == TNMI_OP_FILL && op->from == TNMI_NONE &&
        !tnmi_engine_choose_source(e, op_index)) {
        if (!tnmi_tensor_is_empty(&e->tensors, op->content)) return 0;
        tnmi_engine_fail(e, op_index, tnmi_engine_nothing(e, op->content));
        tnmi_engine_end_op(e, op_index);
        return 0;
    }
    return 1;
}

/* Start the next chunk of a transfer with all it will need in hand. The slot, or TNMI_NONE. */
static uint32_t tnmi_engine_start_chunk(tnmi_engine *e, uint32_t op_index) {
    tnmi_op *op = tnmi_engine_op(e, op_index);
    uint64_t source, most = tnmi_base_min(e->move.chunk, e->allowance);
    int bounce, odd_ends, zero = tnmi_engine_is_zero(op);
    tnm_span to;
    if (op->next == op->bytes || e->move.free_copy == TNMI_NONE) return TNMI_NONE;
    if (!tnmi_engine_has_source(e, op_index)) return TNMI_NONE;
    uint32_t spare = e->move.copies - e->move.used;
    if (spare <= tnmi_move_stage_reserve(op->class_, tnmi_engine_is_downward(op)) ||
        !tnmi_engine_link_open(e, op, most) || tnmi_engine_has_unasked(e, op_index))
        return tnmi_engine_not_yet(e, op_index);
    uint64_t grain = tnmi_engine_grain(e, op, &source, &odd_ends), size;
    size = tnmi_move_cut(op, most, source, grain, odd_ends, &bounce);
    if (zero) {
        tnmi_engine_span_to(e, op, &to, op->next);
        bounce = to.host == NULL;
    }
    uint32_t stage = TNMI_NONE;
    if (bounce || op->route == 2) {
        size = tnmi_base_min(size, e->move.stage_size - (grain > 1 ? 2 * grain : 0));
        if (e->move.stage_state == TNMI_STAGING_LIVE &&
            e->move.stage_count <= tnmi_move_stage_reserve(op->class_, tnmi_engine_is_downward(op)))
            return tnmi_engine_not_yet(e, op_index);
        stage = tnmi_engine_stage(e, op_index);
        if (stage == TNMI_NONE) return TNMI_NONE;
    }
    uint32_t index = tnmi_move_slot(&e->move, op_index);
    tnmi_copy *copy = &e->move.copy[index];
    copy->at = op->next;
    copy->size = size;
    copy->stage = stage;
    copy->hop = stage == TNMI_NONE ? TNMI_HOP_DIRECT : TNMI_HOP_IN;
    copy->class_ = op->class_;
    copy->state = TNMI_COPY_READY;
    copy->asked = copy->hop == TNMI_HOP_DIRECT ? (uint32_t)op->route : 0;
    copy->lead = grain > 1 ? (source + op->next) % grain : 0;
    copy->pad = (grain - (copy->lead + size) % grain) % grain;
    op->next += size;
    op->state = TNMI_OP_FILLING;
    if (op->next == op->bytes) tnmi_move_unqueue(&e->move, op_index);
    e->allowance -= tnmi_base_min(e->allowance, size);
    return index;
}

/* The latest chunk is none yet: it is started anew. */
static void tnmi_engine_take_back(tnmi_engine *e, uint32_t index) {
    tnmi_copy *copy = &e->move.copy[index];
    tnmi_op *op = tnmi_engine_op(e, copy->op);
    uint32_t op_index = copy->op;
    op->next = copy->at;
    e->allowance = e->allowance == TNM_ALL ? TNM_ALL : e->allowance + copy->size;
    tnmi_move_slot_give(&e->move, index);
    tnmi_engine_let_go_lost(e, op);
    if (op->state == TNMI_OP_DRAINING) {
        if (op->out == 0) tnmi_engine_end_op(e, op_index);
    } else
        tnmi_move_enqueue(&e->move, op_index, (int)op->class_);
}

/* The ask for a chunk that is ready; 0 = its backend is full, nobody knows the route, or what it
 * comes from was lost before it was handed out. */
static int tnmi_engine_ask_copy(tnmi_engine *e, uint32_t index, tnmi_ask *ask) {
    tnmi_copy *copy = &e->move.copy[index];
    tnmi_op *op = tnmi_engine_op(e, copy->op);
    if (op->orphan && copy->hop != TNMI_HOP_OUT) {
        tnmi_engine_take_back(e, index);
        return 0;
    }
    if (copy->hop == TNMI_HOP_OUT) tnmi_engine_span_stage(e, &ask->src, copy->stage, copy->lead);
    if (copy->hop == TNMI_HOP_IN)
        tnmi_engine_span_stage(e, &ask->dst, copy->stage, 0);
    else
        tnmi_engine_span_to(e, op, &ask->dst, copy->at);
    ask->size = copy->size;
    ask->index = index;
    if (tnmi_engine_is_zero(op) && copy->hop != TNMI_HOP_OUT) {
        if (!ask->dst.host) { /* staging without a CPU address cannot be zeroed */
            tnmi_engine_hop_failed(e, index, TNM_ERR_UNSUPPORTED);
            return 0;
        }
        ask->kind = TNMI_ASK_ZERO;
        ask->host = ask->dst.host;
        copy->state = TNMI_COPY_ASKING;
        tnmi_engine_tell_copy(e, TNM_EVENT_COPY_BEGIN, copy, TNM_OK);
        copy->begun = 1;
        return 1;
    }
    if (copy->hop != TNMI_HOP_OUT) tnmi_engine_span_from(e, op, &ask->src, copy->at);
    if (copy->hop == TNMI_HOP_IN) { /* rounded outwards to the granularity */
        ask->src.offset -= copy->lead;
        if (ask->src.host) ask->src.host = (char *)ask->src.host - copy->lead;
        ask->size += copy->lead + copy->pad;
    }
    const tnm_span *span = copy->asked == 0 ? &ask->dst : &ask->src;
    if (!span->backend || !span->backend->copy) {
        ask->result = TNM_ERR_UNSUPPORTED;
        ask->kind = TNMI_ASK_COPY;
        ask->backend = NULL; /* the door answers at once */
    } else {
        const tnmi_tier *t = tnmi_engine_tier(e, (uint32_t)span->tier);
        if (e->busy_round[span->tier] == e->round || t->in_flight >= t->desc.queue_depth) return 0;
        ask->kind = TNMI_ASK_COPY;
        ask->backend = span->backend;
        copy->tier = (uint32_t)span->tier;
    }
    copy->state = TNMI_COPY_ASKING;
    if (!copy->begun) tnmi_engine_tell_copy(e, TNM_EVENT_COPY_BEGIN, copy, TNM_OK);
    copy->begun = 1;
    return 1;
}

/* Nobody knows this route: staging for the rest of the transfer, or the end. */
static void tnmi_engine_no_route(tnmi_engine *e, uint32_t index) {
    tnmi_copy *copy = &e->move.copy[index];
    tnmi_op *op = tnmi_engine_op(e, copy->op);
    if (op->kind == TNMI_OP_SHIFT) tnmi_engine_tier(e, op->tier)->no_shift = 1;
    if (copy->hop != TNMI_HOP_DIRECT || op->kind == TNMI_OP_SHIFT) {
        tnmi_engine_hop_failed(e, index, TNM_ERR_UNSUPPORTED);
        return;
    }
    op->route = 2;
    tnmi_engine_take_back(e, index);
}

static void tnmi_engine_answer_copy(tnmi_engine *e, const tnmi_ask *ask) {
    tnmi_copy *copy = &e->move.copy[ask->index];
    tnmi_op *op = tnmi_engine_op(e, copy->op);
    copy->state = TNMI_COPY_READY;
    switch (ask->result) {
    case TNM_OK:
        tnmi_engine_hop_done(e, ask->index);
        return;
    case TNM_PENDING:
        if (ask->ticket == 0) break;
        copy->ticket = ask->ticket;
        copy->state = TNMI_COPY_OUT;
        copy->polled = e->round;
        tnmi_engine_count_link(e, copy, 1);
        e->submit |= (uint64_t)1 << copy->tier;
        return;
    case TNM_ERR_UNSUPPORTED:
        if (copy->asked == 1) {
            tnmi_engine_no_route(e, ask->index);
            return;
        }
        copy->asked = 1;
        if (copy->hop == TNMI_HOP_DIRECT) op->route = 1;
        return;
    case TNM_ERR_BUSY:
        e->busy_round[copy->tier] = e->round;
        return;
    case TNM_ERR_LOST: {
        uint32_t tier = copy->tier;
        tnmi_engine_hop_lost(e, ask->index);
        tnmi_engine_lose_tier(e, tier);
        return;
    }
    default:
        break;
    }
    tnmi_engine_hop_failed(e, ask->index, TNM_ERR_BACKEND);
}

/* A new chunk, by class. Of each tier's transfers the first few are looked at, so that many on a
 * device that is full do not hide one on another. */
static int tnmi_engine_issue_new(tnmi_engine *e, tnmi_ask *ask) {
    for (int class_ = TNM_CLASS_DEMAND; class_ >= 0; class_--) {
        uint8_t looked[TNM_MAX_TIERS];
        int seen = 0;
        memset(looked, 0, sizeof looked);
        for (uint32_t i = e->move.queue[class_].head; i != TNMI_NONE && seen++ < 1024;) {
            uint32_t op = i, tier = tnmi_engine_op(e, i)->tier;
            i = tnmi_engine_op(e, i)->next_op;
            if (looked[tier] == 16) continue;
            looked[tier]++;
            uint32_t copy = tnmi_engine_start_chunk(e, op);
            if (copy == TNMI_NONE) continue;
            if (tnmi_engine_ask_copy(e, copy, ask)) return 1;
        }
    }
    return 0;
}

/* The next copy to hand out: second hops, then chunks that were refused, then new ones by class. */
static int tnmi_engine_issue(tnmi_engine *e, tnmi_ask *ask) {
    if (e->collect_only) return 0;
    for (int second = 1; second >= 0; second--)
        for (uint32_t i = e->move.live_copy; i != TNMI_NONE;) {
            const tnmi_copy *copy = &e->move.copy[i];
            uint32_t index = i;
            i = copy->next;
            if (copy->state != TNMI_COPY_READY || (copy->hop == TNMI_HOP_OUT) != second) continue;
            if (tnmi_engine_op(e, copy->op)->state == TNMI_OP_DRAINING) {
                tnmi_engine_end_copy(e, index); /* not handed out: it need not be */
                return tnmi_engine_issue(e, ask);
            }
            if (tnmi_engine_ask_copy(e, index, ask)) return 1;
        }
    if (e->allowance == 0) return 0;
    if (tnmi_engine_issue_new(e, ask)) return 1;
    if (!e->demand_only || e->move.used > 0) return 0;
    e->demand_only = 0; /* a demand may wait for what is of a lower class */
    int found = tnmi_engine_issue_new(e, ask);
    e->demand_only = 1;
    return found;
}

/* ---- answers ---- */
static void tnmi_engine_answer_poll(tnmi_engine *e, const tnmi_ask *ask) {
    uint32_t i = e->move.live_copy;
    while (i != TNMI_NONE) {
        tnmi_copy *copy = &e->move.copy[i];
        uint32_t index = i;
        i = copy->next;
        if (copy->tier != ask->tier || copy->ticket != ask->ticket) continue;
        if (copy->state != TNMI_COPY_POLLING) continue;
        copy->state = TNMI_COPY_OUT;
        copy->polled = e->round;
        if (ask->result == TNM_PENDING) continue;
        copy->state = TNMI_COPY_READY;
        tnmi_engine_count_link(e, copy, 0);
        e->changed++;
        if (ask->result == TNM_OK)
            tnmi_engine_hop_done(e, index);
        else if (ask->result == TNM_ERR_LOST)
            tnmi_engine_hop_lost(e, index);
        else
            tnmi_engine_hop_failed(e, index, TNM_ERR_BACKEND);
        i = e->move.live_copy; /* the list was rearranged */
    }
    if (ask->result == TNM_ERR_LOST) tnmi_engine_lose_tier(e, ask->tier);
}

static void tnmi_engine_answer_alloc(tnmi_engine *e, const tnmi_ask *ask) {
    tnmi_tier *t = tnmi_engine_tier(e, ask->tier);
    e->changed++;
    if (ask->index == TNMI_NONE) {
        if (ask->result == TNM_OK) {
            tnmi_move_staging(&e->move, ask->mem, ask->host);
            t->hidden |= !ask->host;
            t->dark |= !ask->host;
            if (!ask->host && !e->stage_wish)
                e->move.stage_state = TNMI_STAGING_UNWANTED; /* no good: the next tier */
        } else {
            tnmi_tier_refund(t, e->move.stage_bytes);
            e->move.stage_state = TNMI_STAGING_REFUSED;
        }
        return;
    }
    tnmi_segment *s = tnmi_tier_segment(&e->tiers, ask->index);
    t->coming--;
    tnm_event *event = tnmi_engine_event(e, TNM_EVENT_SEGMENT, ask->tier, TNMI_NONE);
    if (event) {
        event->bytes = s->size;
        event->result = ask->result;
    }
    if (ask->result != TNM_OK) {
        uint64_t size = s->size, least = s->least;
        tnmi_tier_forget(&e->tiers, ask->index);
        if (size > least)
            t->refused = size;
        else {
            tnmi_tier_back_off(&t->scant, e->tick);
            t->failures++;
        }
        return;
    }
    tnmi_tier_forgive(&t->scant);
    s->mem = ask->mem;
    s->host = ask->host;
    s->state = TNMI_SEGMENT_LIVE;
    t->hidden |= !s->host;
    t->visible |= s->host != NULL;
    if (e->stage_likely && e->move.stage_state == TNMI_STAGING_NONE) tnmi_engine_set_aside(e);
    tnmi_base_noaccess(s->host, s->size);
    if (!s->dedicated)
        s->edge = tnmi_space_open(&t->space, ask->index, (uint32_t)(s->size / t->granule));
}

static void tnmi_engine_answer_release(tnmi_engine *e, const tnmi_ask *ask) {
    tnmi_tier *t = tnmi_engine_tier(e, ask->tier);
    e->changed++;
    tnm_event *event = tnmi_engine_event(e, TNM_EVENT_RELEASE, ask->tier, TNMI_NONE);
    if (event) event->bytes = ask->size;
    if (ask->index == TNMI_NONE) {
        tnmi_tier_refund(t, e->move.stage_bytes);
        e->move.stage_state = TNMI_STAGING_NONE;
        if (e->stage_likely) tnmi_engine_set_aside(e); /* for when it is needed again */
        return;
    }
    tnmi_tier_forget(&e->tiers, ask->index);
    tnmi_tier_forgive(&t->scant);
    t->refused = 0;
}

static void tnmi_engine_answer_host(tnmi_engine *e, const tnmi_ask *ask) {
    e->grow = NULL;
    if (ask->got)
        tnmi_store_grow(ask->table, ask->got);
    else
        e->refused_host = 1;
    e->changed++;
}

static void tnmi_engine_answer(tnmi_engine *e, const tnmi_ask *ask) {
    switch (ask->kind) {
    case TNMI_ASK_HOST:
        tnmi_engine_answer_host(e, ask);
        break;
    case TNMI_ASK_ALLOC:
        tnmi_engine_answer_alloc(e, ask);
        if (ask->result == TNM_ERR_LOST) tnmi_engine_lose_tier(e, ask->tier);
        break;
    case TNMI_ASK_RELEASE:
        tnmi_engine_answer_release(e, ask);
        break;
    case TNMI_ASK_COPY:
    case TNMI_ASK_ZERO:
        tnmi_engine_answer_copy(e, ask);
        break;
    case TNMI_ASK_POLL:
    case TNMI_ASK_WAIT:
        tnmi_engine_answer_poll(e, ask);
        break;
    case TNMI_ASK_PASSED:
        tnmi_engine_passed(e, ask->index, ask->value);
        break;
    default: /* the others only had to be done */
        break;
    }
}

/* ---- asks ---- */
/* A segment that was wanted before its budget fell is not asked for. */
static int tnmi_engine_drop_wanted(tnmi_engine *e, uint32_t index) {
    const tnmi_segment *s = tnmi_tier_segment(&e->tiers, index);
    tnmi_tier *t = tnmi_engine_tier(e, s->tier);
    if (s->state != TNMI_SEGMENT_WANTED || t->reserved <= t->budget) return 0;
    t->coming--;
    tnmi_tier_forget(&e->tiers, index);
    e->changed++;
    return 1;
}

static int tnmi_engine_next_segment(tnmi_engine *e, tnmi_ask *ask) {
    uint32_t index;
    do {
        index = tnmi_tier_next_todo(&e->tiers);
        if (index == TNMI_NONE) return 0;
    } while (tnmi_engine_drop_wanted(e, index));
    tnmi_segment *s = tnmi_tier_segment(&e->tiers, index);
    tnmi_tier *t = tnmi_engine_tier(e, s->tier);
    ask->tier = s->tier;
    ask->index = index;
    ask->size = s->size;
    ask->backend = &t->desc.backend;
    if (s->state == TNMI_SEGMENT_WANTED) {
        ask->kind = TNMI_ASK_ALLOC;
        ask->item = s->item;
        ask->align = tnmi_base_max(t->granule, e->grain);
        s->state = TNMI_SEGMENT_ALLOCATING;
    } else {
        ask->kind = TNMI_ASK_RELEASE;
        ask->mem = s->mem;
        tnmi_base_ordinary(s->host, s->size);
    }
    return 1;
}

/* Staging comes when a route needs it and its tier's budget allows, and goes when it must. */
static int tnmi_engine_next_staging(tnmi_engine *e, tnmi_ask *ask) {
    tnmi_move *move = &e->move;
    tnmi_tier *t = tnmi_engine_tier(e, move->stage_tier);
    tnmi_move_unstage_lost(move);
    if (move->stage_state != TNMI_STAGING_WANTED && move->stage_state != TNMI_STAGING_UNWANTED)
        return 0;
    ask->tier = move->stage_tier;
    ask->index = TNMI_NONE;
    ask->size = move->stage_bytes;
    ask->backend = &t->desc.backend;
    if (move->stage_state == TNMI_STAGING_UNWANTED) {
        ask->kind = TNMI_ASK_RELEASE;
        ask->mem = move->stage_mem;
        move->stage_state = TNMI_STAGING_RELEASING;
        return 1;
    }
    t->set_aside = t->spared = 0;
    if (move->stage_bytes > tnmi_tier_room(t)) {
        if (t->space.used_granules == 0 && move->stage_bytes <= t->budget &&
            tnmi_engine_make_ledger(e, move->stage_tier, move->stage_bytes, 0))
            return 0;
        move->stage_state = TNMI_STAGING_REFUSED;
        move->stage_short = 1;
        return 0;
    }
    move->stage_short = 0;
    tnmi_tier_charge(t, move->stage_bytes);
    ask->kind = TNMI_ASK_ALLOC;
    ask->align = tnmi_base_max(t->granule, e->grain);
    move->stage_state = TNMI_STAGING_ALLOCATING;
    return 1;
}

static int tnmi_engine_next_released(tnmi_engine *e, tnmi_ask *ask) {
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        uint32_t index = e->gone[t];
        if (index == TNMI_NONE) continue;
        tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, t, index);
        e->gone[t] = replica->content;
        ask->kind = TNMI_ASK_RELEASED;
        ask->region = *tnmi_tensor_region(&e->tensors, replica->segment);
        ask->value = ask->region.by_host ? 0 : tnmi_base_peek64(&replica->stamp);
        tnmi_tensor_unadopt(&e->tensors, replica->segment);
        tnmi_store_give(&e->tensors.on[t].replicas, index);
        return 1;
    }
    return 0;
}

static int tnmi_engine_next_poll(tnmi_engine *e, tnmi_ask *ask) {
    for (uint32_t i = e->move.live_copy; i != TNMI_NONE; i = e->move.copy[i].next) {
        const tnmi_copy *copy = &e->move.copy[i];
        if (copy->state != TNMI_COPY_OUT || copy->polled == e->round) continue;
        ask->kind = TNMI_ASK_POLL;
        ask->tier = copy->tier;
        ask->ticket = copy->ticket;
        ask->backend = &tnmi_engine_tier(e, copy->tier)->desc.backend;
        for (uint32_t j = i; j != TNMI_NONE; j = e->move.copy[j].next)
            if (e->move.copy[j].tier == ask->tier && e->move.copy[j].ticket == ask->ticket &&
                e->move.copy[j].state == TNMI_COPY_OUT)
                e->move.copy[j].state = TNMI_COPY_POLLING;
        return 1;
    }
    return 0;
}

static int tnmi_engine_next_passed(tnmi_engine *e, tnmi_ask *ask) {
    while (e->fence_count > 0 && e->passed_at < TNMI_QUEUES) {
        uint32_t queue = e->passed_at++;
        if (e->fence_head[queue] == TNMI_NONE) continue;
        ask->kind = TNMI_ASK_PASSED;
        ask->index = queue;
        ask->value = 0;
        return 1;
    }
    return 0;
}

static int tnmi_engine_next_submit(tnmi_engine *e, tnmi_ask *ask) {
    while (e->submit) {
        uint32_t tier = 0;
        while (!((e->submit >> tier) & 1u))
            tier++;
        e->submit &= ~((uint64_t)1 << tier);
        if (!tnmi_engine_tier(e, tier)->desc.backend.submit) continue;
        ask->kind = TNMI_ASK_SUBMIT;
        ask->backend = &tnmi_engine_tier(e, tier)->desc.backend;
        return 1;
    }
    return 0;
}

/* Decisions, whenever something changed: hand over, admit, drain, look ahead, compact, clean. */
static void tnmi_engine_decide(tnmi_engine *e) {
    for (int again = 0; again < 3; again++) {
        uint64_t before = e->changed;
        tnmi_engine_advance_rooms(e);
        if (!e->grow) tnmi_engine_advance_requests(e);
        if (e->grow || before == e->changed) break;
    }
    if (e->grow) return;
    tnmi_engine_drain_all(e);
    if (e->closing) return;
    if (e->look_round != e->round || e->look_seen != e->changed) {
        tnmi_engine_look_ahead(e);
        e->look_round = e->round;
        e->look_seen = e->changed;
        tnmi_engine_advance_rooms(e); /* windows that are clean: the next round may be far off */
    }
    tnmi_engine_compact(e);
    tnmi_engine_clean_ahead(e);
}

/* A new round: every ticket and queue may be asked once more. */
static void tnmi_engine_round(tnmi_engine *e) {
    e->round++;
    e->tick++;
    e->passed_at = e->has_passed ? 0 : TNMI_QUEUES;
}

/* Tiers that have copies out while transfers wait for their turn, as bits. */
static uint64_t tnmi_engine_waiting(const tnmi_engine *e) {
    uint64_t tiers = 0, out = 0;
    for (int q = 0; q < TNMI_MOVE_CLASSES; q++) {
        uint32_t i = e->move.queue[q].head;
        for (int looked = 0; i != TNMI_NONE && looked < 16; looked++) {
            const tnmi_op *op = tnmi_engine_op(e, i);
            tiers |= (uint64_t)1 << op->tier;
            if (op->from != TNMI_NONE) tiers |= (uint64_t)1 << op->from;
            i = op->next_op;
        }
    }
    for (uint32_t t = 0; t < e->tiers.count; t++)
        if (tnmi_engine_tier(e, t)->in_flight) out |= (uint64_t)1 << t;
    return tiers & out;
}

/* Everything that had ended by this round is collected: who could have worked on, and did not? */
static void tnmi_engine_count_starved(tnmi_engine *e) {
    for (uint32_t t = 0; e->pumping && t < e->tiers.count; t++)
        if (((e->left >> t) & 1u) && !tnmi_engine_tier(e, t)->in_flight)
            tnmi_engine_tier(e, t)->starved++;
    e->left = 0;
}

/* The next thing the door should do, or TNMI_ASK_DONE for this round. */
static void tnmi_engine_next(tnmi_engine *e, tnmi_ask *ask) {
    memset(ask, 0, sizeof *ask);
    ask->kind = TNMI_ASK_DONE;
    if (tnmi_engine_lose_some(e)) {
        ask->kind = TNMI_ASK_BREATH;
        return;
    }
    for (int pass = 0; pass < 2; pass++) {
        if (e->grow) {
            ask->kind = TNMI_ASK_HOST;
            ask->table = e->grow;
            ask->size = tnmi_store_grow_bytes(e->grow);
            return;
        }
        if (tnmi_engine_next_segment(e, ask) || tnmi_engine_next_staging(e, ask)) return;
        if (tnmi_engine_next_released(e, ask) || tnmi_engine_next_poll(e, ask)) return;
        if (tnmi_engine_next_passed(e, ask)) return;
        if (e->left) tnmi_engine_count_starved(e);
        if (pass || (e->plan_round == e->round && e->plan_seen == e->changed)) break;
        tnmi_engine_decide(e);
        e->plan_round = e->round;
        e->plan_seen = e->changed;
    }
    if (tnmi_engine_issue(e, ask)) return;
    if (tnmi_engine_next_submit(e, ask)) return;
    memset(ask, 0, sizeof *ask);
    if (tnmi_engine_is_walking(e)) {
        ask->kind = TNMI_ASK_BREATH;
        e->plan_seen = e->changed - 1;
        return;
    }
    e->left = tnmi_engine_waiting(e);
    ask->kind = TNMI_ASK_DONE;
}

/* Nothing to do this round: what a waiting call sleeps in. rounds = how often in a row. */
static void tnmi_engine_sleep(tnmi_engine *e, tnmi_ask *ask, uint64_t rounds) {
    memset(ask, 0, sizeof *ask);
    ask->kind = TNMI_ASK_IDLE;
    ask->value = rounds;
    for (uint32_t i = e->move.live_copy; i != TNMI_NONE; i = e->move.copy[i].next) {
        tnmi_copy *copy = &e->move.copy[i];
        if (copy->state != TNMI_COPY_OUT) continue;
        if (!tnmi_engine_tier(e, copy->tier)->desc.backend.wait) return;
        copy->polled = e->round - 1;
        tnmi_engine_next_poll(e, ask);
        ask->kind = TNMI_ASK_WAIT;
        return;
    }
    for (uint32_t q = 0; e->fence_count > 0 && e->has_passed && q < TNMI_QUEUES; q++) {
        if (e->fence_head[q] == TNMI_NONE || rounds > 1) continue;
        ask->kind = TNMI_ASK_PASSED;
        ask->index = q;
        ask->size = tnmi_engine_fence_at(e, e->fence_head[q])->value;
        return;
    }
}

/* ---- what a schedule keeps: the split of each tier into kept and streamed ---- */
typedef struct tnmi_split {
    tnmi_engine *e;
    uint32_t tier, head; /* contents, largest first, through tnmi_tensor.mark (slot 0 is unused) */
    uint64_t all;        /* placed bytes of all of them */
    uint64_t largest, smallest; /* of one */
    uint64_t ahead, pinned;     /* W and P */
    uint64_t down;              /* of W, for what was written above and goes on down */
} tnmi_split;

/* What a content takes there, with what may be lost in front of it to alignment. */
static uint64_t tnmi_engine_split_bytes(const tnmi_split *split, uint32_t content) {
    tnmi_op probe;
    tnmi_room room;
    probe.loose = 0;
    probe.astray = 1;
    tnmi_engine_shape_room(split->e, content, split->tier, &probe, &room);
    uint64_t granules = (uint64_t)room.need + room.align - 1;
    return granules * tnmi_engine_tier(split->e, split->tier)->granule;
}

static uint32_t *tnmi_engine_split_next(void *of, uint32_t index) {
    return &tnmi_engine_content(((tnmi_split *)of)->e, index)->mark;
}

/* Does a cycle write the content? Then it would go down each time as well. */
static int tnmi_engine_split_writes(const tnmi_engine *e, const tnmi_tensor *content) {
    for (uint32_t i = content->use; i != TNMI_NONE; i = tnmi_hint_use(&e->hints, i)->same)
        if (tnmi_hint_use(&e->hints, i)->access == TNM_WRITE) return 1;
    return 0;
}

/* A content's last told use in a cycle. */
static const tnmi_use *tnmi_engine_split_use(const tnmi_engine *e, const tnmi_tensor *content) {
    const tnmi_use *use = tnmi_hint_use(&e->hints, content->use);
    while (use->flags & TNMI_USE_SINGLE)
        use = tnmi_hint_use(&e->hints, use->same);
    return use;
}

/* What a byte of it costs each time that it comes, and goes down if the cycle writes it. It comes
 * from the tier below; or from where it is at home, if that tier has no room for all there is. */
static uint64_t tnmi_engine_split_cost(const tnmi_split *split, uint32_t content) {
    const tnmi_engine *e = split->e;
    uint32_t down = (uint32_t)tnmi_engine_tier(e, split->tier)->spill, from = down;
    if (tnmi_engine_split_writes(e, tnmi_engine_content(e, content)))
        return (uint64_t)e->cost_in[down] + e->cost_out[down];
    for (uint32_t t = 0; tnmi_engine_tier(e, down)->budget != UINT64_MAX && t < e->tiers.count;
         t++) {
        const tnmi_replica *home = tnmi_engine_on(e, content, t);
        if (tnmi_tensor_is_ready(home) && home->node == TNMI_NONE) from = t;
    }
    return e->cost_in[from];
}

/* What costs most to stream first (of one kind of bytes: what is written), then larger ones. Equals
 * are spread evenly, so that what is streamed comes evenly too: over the places in their steps,
 * then over the steps (by their reversed bits). */
static int tnmi_engine_split_before(void *of, uint32_t a, uint32_t b) {
    const tnmi_split *split = (const tnmi_split *)of;
    const tnmi_tensor *x = tnmi_engine_content(split->e, a), *y = tnmi_engine_content(split->e, b);
    uint64_t cost = tnmi_engine_split_cost(split, a), other = tnmi_engine_split_cost(split, b);
    if (cost != other) return cost > other;
    if (x->bytes != y->bytes) return x->bytes > y->bytes;
    const tnmi_use *u = tnmi_engine_split_use(split->e, x);
    const tnmi_use *v = tnmi_engine_split_use(split->e, y);
    if (tnmi_hint_place(u) != tnmi_hint_place(v)) return tnmi_hint_place(u) < tnmi_hint_place(v);
    uint32_t p = (uint32_t)u->step, differ = p ^ (uint32_t)v->step;
    if (differ == 0) return a < b;
    return (p & (differ & (0u - differ))) == 0;
}

/* Does the tier stream this use: it serves it, nobody keeps the content, it is not lent there? */
static int tnmi_engine_streams(const tnmi_split *split, const tnmi_use *use) {
    const tnmi_engine *e = split->e;
    if (!tnmi_hint_serves(e->below, use->tier, split->tier)) return 0;
    if (tnmi_engine_kept_on(e, use->content)) return 0;
    const tnmi_replica *there = tnmi_engine_on(e, use->content, split->tier);
    return !(there && there->node == TNMI_NONE && !tnmi_engine_is_busy(there));
}

static void tnmi_engine_split_gather(tnmi_split *split) {
    tnmi_engine *e = split->e;
    split->head = TNMI_NONE;
    split->all = split->largest = 0;
    split->smallest = UINT64_MAX;
    for (uint32_t l = 0; l < TNM_MAX_LANES; l++) {
        uint64_t step = TNMI_NEVER;
        uint32_t before = 0;
        for (uint32_t u = e->hints.lane[l].cycle; u != TNMI_NONE;
             u = tnmi_hint_use(&e->hints, u)->next) {
            tnmi_use *use = tnmi_hint_use(&e->hints, u);
            tnmi_tensor *content = tnmi_engine_content(e, use->content);
            before = use->step == step ? before + 1 : 0;
            step = use->step;
            tnmi_hint_put(use, tnmi_hint_set(use), before);
            if (content->mark || !tnmi_engine_streams(split, use)) continue;
            uint64_t bytes = tnmi_engine_split_bytes(split, use->content);
            content->mark = split->head;
            split->head = use->content;
            split->all += bytes;
            split->largest = tnmi_base_max(split->largest, bytes);
            split->smallest = tnmi_base_min(split->smallest, bytes);
        }
    }
}

/* P, the most streamed bytes that one step pins here, and W, the look-ahead beside them: one
 * tensor, or two when sizes differ, and more up to 4 % of what must be streamed, but no more than a
 * step; two chunks up to 2.5 %, since a link that waits for each to be asked for is often idle.
 * Together no more than 5 % of it, if a step and the largest tensor of the next one fit in
 * that. Where a step pins a set, or writes, W is what keeps every link at work while it computes:
 * the next step's set, some bytes in flight behind it, and places of which the last step's bytes
 * are still on their way down; up to an eighth of what must be streamed, or two tensors. What only
 * passes through is not pinned, and of sizes that differ two sets pass: what waits for a place of
 * its own size is passed by what has one. */
static void tnmi_engine_split_ring(tnmi_split *split, uint64_t capacity) {
    const tnmi_engine *e = split->e;
    uint64_t pinned = 0, through = 0, largest = 0, least = 0, written = 0;
    uint64_t must = tnmi_base_less(split->all, capacity);
    for (uint32_t l = 0; l < TNM_MAX_LANES; l++) {
        uint64_t sum = 0, before = 0, both = 0, step = TNMI_NEVER, most[2] = { 0, 0 };
        for (uint32_t u = e->hints.lane[l].cycle; u != TNMI_NONE;
             u = tnmi_hint_use(&e->hints, u)->next) {
            const tnmi_use *use = tnmi_hint_use(&e->hints, u);
            if (use->step != step) {
                before = use->step == step + 1 ? sum : 0;
                sum = 0;
            }
            step = use->step;
            if (!tnmi_engine_streams(split, use)) continue;
            uint64_t bytes = tnmi_engine_split_bytes(split, use->content);
            uint64_t *highest = &most[use->tier != split->tier];
            sum += bytes;
            *highest = tnmi_base_max(*highest, sum);
            both = tnmi_base_max(both, before + bytes);
            largest = tnmi_base_max(largest, bytes);
            if (use->access != TNM_READ) written = tnmi_base_max(written, bytes);
        }
        pinned += most[0];
        through += most[1];
        least += both;
    }
    uint64_t wish = split->largest == split->smallest ? largest : 2 * largest;
    wish = tnmi_base_max(wish, tnmi_base_min(must / 25, pinned + through));
    uint64_t busy = tnmi_base_min(must / 40, 2 * e->move.chunk);
    if (largest) wish = tnmi_base_max(wish, busy - busy % largest);
    if (pinned + through > largest || written) {
        if (written) written += through;
        uint64_t more = split->largest == split->smallest ? 0 : through;
        wish = tnmi_base_max(wish, pinned + through + more + written + e->move.chunk / 4);
        least = tnmi_base_max(least, pinned + 2 * largest);
        least = tnmi_base_max(least, pinned + tnmi_base_min(wish, must / 8));
    }
    least = tnmi_base_max(tnmi_base_max(least, must / 20), largest);
    split->pinned = pinned;
    split->ahead = tnmi_base_min(wish, tnmi_base_less(least, pinned));
    split->down = tnmi_base_min(tnmi_base_max(largest, through / 4), split->ahead / 2);
    if (!through || !written) split->down = 0;
}

/* Keep the largest that fit beside the ring. Twice: what is kept makes the ring smaller. */
static uint64_t tnmi_engine_split_keep(tnmi_split *split, uint64_t capacity) {
    tnmi_engine *e = split->e;
    uint64_t kept = 0;
    tnmi_order order;
    order.of = split;
    order.next = tnmi_engine_split_next;
    order.before = tnmi_engine_split_before;
    int all = split->all <= capacity; /* in whatever order, and there is no ring */
    if (!all) split->head = tnmi_store_sort(&order, split->head);
    for (int pass = 0; pass < (all ? 1 : 3); pass++) {
        if (!all) tnmi_engine_split_ring(split, capacity);
        uint64_t ring = kept == split->all || all ? 0 : split->ahead + split->pinned;
        for (uint32_t c = split->head; c != TNMI_NONE; c = tnmi_engine_content(e, c)->mark) {
            uint64_t bytes = tnmi_engine_split_bytes(split, c);
            if (tnmi_engine_kept_on(e, c) || kept + bytes + ring > capacity) continue;
            tnmi_tensor_set_field(tnmi_engine_content(e, c), TNMI_KEPT_SHIFT, 7, split->tier + 1);
            kept += bytes;
        }
    }
    if (kept != split->all) tnmi_engine_split_ring(split, capacity);
    return kept;
}

static void tnmi_engine_split_tier(tnmi_engine *e, uint32_t tier) {
    tnmi_split split;
    tnmi_tier *t = tnmi_engine_tier(e, tier);
    uint64_t capacity = tnmi_base_less(t->budget, t->set_aside);
    split.e = e;
    split.tier = tier;
    t->kept_bytes = t->stream_bytes = t->down_bytes = 0;
    if (t->budget == UINT64_MAX || t->spill < 0) return;
    if (tnmi_move_has_staging(&e->move, tier))
        capacity = tnmi_base_less(capacity, e->move.stage_bytes);
    tnmi_engine_split_gather(&split);
    uint64_t kept = tnmi_engine_split_keep(&split, capacity);
    while (split.head != TNMI_NONE) {
        uint32_t next = tnmi_engine_content(e, split.head)->mark;
        tnmi_engine_content(e, split.head)->mark = 0;
        tnmi_engine_rekey_all(e, split.head);
        split.head = next;
    }
    t->kept_bytes = kept;
    t->stream_bytes = kept == split.all ? 0 : split.ahead + split.pinned;
    t->down_bytes = t->stream_bytes ? split.down : 0;
}

/* After a schedule or a budget changed. O(uses log uses), whatever else lives. */
static void tnmi_engine_split(tnmi_engine *e) {
    for (uint32_t l = 0; l < TNM_MAX_LANES; l++)
        for (uint32_t u = e->hints.lane[l].cycle; u != TNMI_NONE;
             u = tnmi_hint_use(&e->hints, u)->next)
            tnmi_tensor_set_field(tnmi_engine_content(e, tnmi_hint_use(&e->hints, u)->content),
                                  TNMI_KEPT_SHIFT, 7, 0);
    for (uint32_t t = 0; t < e->tiers.count; t++)
        tnmi_engine_split_tier(e, t);
}

/* A lane's cycle goes, some uses at a time: nothing is kept for it, and what it foresaw leaves by
 * its age. What is left of it meanwhile is a cycle too. 0 = there is more. */
static int tnmi_engine_forget_cycle(tnmi_engine *e, uint32_t lane_index) {
    tnmi_lane *lane = &e->hints.lane[lane_index];
    uint32_t most = TNMI_PIECE;
    tnmi_hint_watch(&e->hints, lane_index, 0, TNMI_LANE_FOLLOWS);
    while (lane->cycle != TNMI_NONE) {
        uint32_t content = tnmi_hint_use(&e->hints, lane->cycle)->content;
        if (!tnmi_hint_forget_some(&e->hints, &e->tensors, content, (uint32_t)1 << lane_index, 0,
                                   &most))
            return 0;
        tnmi_tensor_set_field(tnmi_engine_content(e, content), TNMI_KEPT_SHIFT, 7, 0);
        tnmi_engine_rekey_all(e, content);
    }
    lane->cursor = TNMI_NONE;
    lane->period = 0;
    lane->wraps = 0;
    return 1;
}

/* ---- what calls ask for ---- */
/* A lane's step begins: uses that are over lose their claim on the future. */
static void tnmi_engine_step(tnmi_engine *e, uint32_t lane_index, uint64_t step) {
    int expire = TNMI_EXPIRE;
    tnmi_engine_advance(e);
    tnmi_hint_step(&e->hints, lane_index, step, tnmi_base_peek64(&e->clock));
    tnmi_engine_expire(e, &e->hints.lane[lane_index], &expire);
    tnm_event *event = tnmi_engine_event(e, TNM_EVENT_STEP, TNMI_NONE, TNMI_NONE);
    if (event) {
        event->detail = lane_index;
        event->offset = step;
    }
    e->changed++;
}

/* The cursor of a lane comes on to its step, past some uses at a time: they are wanted a period
 * later, and may leave sooner. After a restart it goes on to the end, and comes from the beginning:
 * only what it does not pass then is wanted earlier than it was. It lags in between; whoever comes
 * next takes it on. 0 = there is more. */
static int tnmi_engine_pass(tnmi_engine *e, uint32_t lane_index, int most) {
    tnmi_lane *lane = &e->hints.lane[lane_index];
    while (lane->cycle != TNMI_NONE && (lane->cursor != TNMI_NONE || lane->wraps)) {
        if (lane->cursor == TNMI_NONE) {
            lane->cursor = lane->cycle;
            lane->wraps = 0;
        }
        tnmi_use *use = tnmi_hint_use(&e->hints, lane->cursor);
        if (!lane->wraps && use->step >= lane->step % lane->period) return 1;
        if (most-- == 0) return 0;
        lane->cursor = use->next;
        use->flags &= (uint8_t)~TNMI_USE_DONE;
        tnmi_engine_rekey_all(e, use->content);
    }
    return 1;
}

/* A set is about to be pinned: lanes that follow begin the step it belongs to. */
static void tnmi_engine_follow(tnmi_engine *e, const tnm_use *set, int count) {
    uint32_t name = 0;
    for (int i = 0; i < count; i++)
        name = tnmi_hint_name(name, tnmi_engine_target(e, &set[i]).content, (uint32_t)set[i].tier);
    for (uint32_t l = 0; l < TNM_MAX_LANES && count > 0; l++) {
        if (!(e->hints.lane[l].watch & TNMI_LANE_FOLLOWS)) continue;
        uint64_t steps =
            tnmi_hint_advance(&e->hints, &e->tensors, l, name,
                              tnmi_engine_target(e, &set[0]).content, (uint32_t)set[0].tier);
        if (steps) tnmi_engine_step(e, l, e->hints.lane[l].step + steps);
        tnmi_engine_pass(e, l, TNMI_PIECE + count);
    }
}

/* A set was pinned: lanes that record note it, if there is a use for each member. What is pinned
 * cannot go meanwhile; one whose last name went since is forgotten already, and not noted. */
static void tnmi_engine_note(tnmi_engine *e, uint32_t lane, const tnm_pinned *set, int count) {
    uint32_t name = 0;
    tnmi_use use;
    memset(&use, 0, sizeof use);
    e->hints.lane[lane].record.latest = tnmi_base_peek64(&e->clock) - (uint64_t)count + 1;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < count; i++) {
            uint32_t tier = (uint32_t)set[i].tier;
            use.content = tnmi_tensor_replica(&e->tensors, tier, (uint32_t)set[i].id)->content;
            if (tnmi_engine_content(e, use.content)->refs == 0) continue;
            use.same = tnmi_tensor_life(tnmi_engine_content(e, use.content));
            use.tier = (uint8_t)tier;
            use.access = (uint8_t)set[i].access;
            if (use.access == TNM_DISCARD &&
                set[i].bytes < tnmi_engine_content(e, use.content)->bytes)
                use.access = TNM_WRITE;
            if (pass == 0)
                name = tnmi_hint_name(name, use.content, tier);
            else if (!tnmi_hint_note(&e->hints, lane, name, &use))
                tnmi_hint_watch(&e->hints, lane, TNMI_LANE_FULL, 0);
        }
}

/* A lane has a cycle that was recorded, and nobody told its steps: the sets that are pinned do from
 * now on; the next one is the first of the cycle. `latest`: when its last step began. */
static void tnmi_engine_begin_following(tnmi_engine *e, uint32_t lane_index, uint64_t ticks,
                                        uint64_t latest) {
    tnmi_lane *lane = &e->hints.lane[lane_index];
    tnmi_hint_watch(&e->hints, lane_index, TNMI_LANE_FOLLOWS, 0);
    lane->stepped = 0; /* from what steps before were worth nothing follows for these */
    lane->pace = lane->mean = tnmi_base_max(tnmi_base_scale(ticks, 16, lane->period), 16);
    lane->paces = 1;
    tnmi_engine_step(e, lane_index, lane->period - 1);
    lane->began = latest; /* that step has been done */
}

/* The error of a background failure on this tier that nobody was told of. */
static tnm_result tnmi_engine_untold(const tnmi_tensor *content, uint32_t tier) {
    if (!(content->failed >> 16) || ((content->failed >> 8) & 0xffu) != tier) return TNM_OK;
    return (tnm_result) - (int)(content->failed & 0xffu);
}

/* The same, once. */
static tnm_result tnmi_engine_reported(tnmi_tensor *content, uint32_t tier) {
    tnm_result r = tnmi_engine_untold(content, tier);
    if (r != TNM_OK) content->failed &= 0xffffu;
    return r;
}

/* OK when the content has left the tier, PENDING while it is on its way, or what forbids it. */
static tnm_result tnmi_engine_evict(tnmi_engine *e, uint32_t content, uint32_t tier) {
    tnmi_engine_lose_first(e, content);
    tnmi_replica *replica = tnmi_engine_on(e, content, tier);
    tnmi_view view = tnmi_engine_view(e, tier);
    if (!replica || tnmi_tensor_is_home(replica)) return TNM_OK;
    uint32_t index = tnmi_engine_index(e, content, tier);
    if (tnmi_engine_is_busy(replica)) {
        if (tnmi_engine_filling(e, replica)->claims) return TNM_PENDING;
        tnmi_engine_cancel_op(e, replica->offset);
        return tnmi_engine_on(e, content, tier) ? TNM_PENDING : TNM_OK;
    }
    if (tnmi_engine_live_pins(e, tier, index, 0)) return TNM_ERR_BUSY;
    uint32_t down = tnmi_engine_leg_tier(e, content, tier);
    tnm_result r =
        down == TNMI_NONE ? TNM_OK : tnmi_engine_reported(tnmi_engine_content(e, content), down);
    if (r != TNM_OK) return r;
    switch (tnmi_policy_may_leave(&view, replica)) {
    case TNMI_LEAVE_NOW:
        return tnmi_engine_try_leave(e, tier, index) ? TNM_OK : TNM_PENDING;
    case TNMI_LEAVE_STUCK:
        return TNM_ERR_BUDGET;
    case TNMI_LEAVE_SICK:
    case TNMI_LEAVE_DIRTY:
        return tnmi_engine_write_down(e, content, tier, TNM_CLASS_SURE) < 0 ? TNM_ERR_BUDGET
                                                                            : TNM_PENDING;
    default: /* not now */
        return TNM_PENDING;
    }
}

/* OK when `tier` or one further down is current. */
static tnm_result tnmi_engine_flush(tnmi_engine *e, uint32_t content, uint32_t tier) {
    int above = 0;
    tnmi_engine_lose_first(e, content);
    tnm_result r = tnmi_engine_reported(tnmi_engine_content(e, content), tier);
    if (r != TNM_OK) return r;
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        const tnmi_replica *replica = tnmi_engine_on(e, content, t);
        if (!tnmi_tensor_is_ready(replica)) continue;
        if (((e->below[tier] >> t) & 1u) || replica->node == TNMI_NONE) return TNM_OK;
        if (tnmi_engine_live_pins(e, t, tnmi_engine_index(e, content, t), 1)) return TNM_ERR_BUSY;
        above++;
    }
    if (tnmi_engine_content(e, content)->flags & TNMI_BROKEN) return TNM_ERR_LOST;
    if (!above) return TNM_OK; /* nothing to keep */
    if (tnmi_tensor_is_gone(tnmi_engine_on(e, content, tier)) &&
        tnmi_engine_live_pins(e, tier, tnmi_engine_index(e, content, tier), 0))
        return TNM_ERR_BUSY;
    if (tnmi_engine_is_busy(tnmi_engine_on(e, content, tier))) return TNM_PENDING;
    tnmi_plan plan = tnmi_engine_plan(TNMI_NONE, TNM_CLASS_SURE, 0);
    r = tnmi_engine_background(e, &plan, content, tier, 0);
    return r == TNM_OK ? TNM_PENDING : r;
}

/* Is there surely room for a copy on the tier below? Where there may be none, `most` has to say. */
static int tnmi_engine_takes(const tnmi_engine *e, uint32_t content, uint32_t down) {
    const tnmi_tier *t = tnmi_engine_tier(e, down);
    uint64_t placed = tnmi_tier_placed(t, tnmi_engine_content(e, content)->bytes, 0);
    uint32_t bin = tnmi_space_bin_of((uint32_t)(placed >> t->granule_log));
    if (tnmi_engine_on(e, content, down)) return 1;
    if (tnmi_tier_is_off(&t->scant, e->tick)) return 0;
    return placed <= tnmi_base_less(tnmi_tier_room(t), t->set_aside) ||
           tnmi_space_bin_next(&t->space, bin + 1) < TNMI_SPACE_BINS;
}

/* A look, piece by piece, at what cannot leave a tier that is above its budget. Each call has one
 * of its own: what another has seen is older than its question. */
typedef struct tnmi_shrink {
    uint32_t at;      /* the place in the order at which it goes on */
    tnm_result by;    /* what it found that holds a replica there */
    int stranded;     /* one goes when pins below do */
    uint64_t changed; /* the engine's, when it began */
} tnmi_shrink;

/* What keeps one replica of a tier that is above its budget: PENDING if nothing does. */
static tnm_result tnmi_engine_keeps(tnmi_engine *e, const tnmi_view *view, uint32_t index,
                                    tnmi_shrink *look, uint64_t *most) {
    tnmi_tier *t = tnmi_engine_tier(e, view->tier);
    const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, view->tier, index);
    if (tnmi_tier_segment(&e->tiers, replica->segment)->state != TNMI_SEGMENT_DRAINING)
        return TNM_OK;
    if (tnmi_engine_live_pins(e, view->tier, index, 0)) {
        look->by = TNM_ERR_BUSY;
        return TNM_OK;
    }
    tnmi_leave leave = tnmi_policy_may_leave(view, replica);
    if (leave == TNMI_LEAVE_SICK || leave == TNMI_LEAVE_STUCK) {
        look->by = leave == TNMI_LEAVE_SICK ? tnmi_engine_sick_of(view, t) : TNM_ERR_BUDGET;
        return TNM_OK;
    }
    if (leave != TNMI_LEAVE_DIRTY) return TNM_PENDING;
    uint32_t down = tnmi_engine_leg_tier(e, replica->content, view->tier);
    if (down != TNMI_NONE && tnmi_engine_takes(e, replica->content, down)) return TNM_PENDING;
    if (most[0] == 0) { /* not known yet: tier 0 is below none */
        tnmi_engine_most_below(e, view->tier, most);
        most[0] = 1;
    }
    if (!tnmi_engine_is_stranded(e, view, index, most)) return TNM_PENDING;
    look->stranded = 1;
    return TNM_OK;
}

/* OK when the tier's ledger is within its budget; PENDING while it drains; else what forbids it.
 * ABSENT: the look at what forbids it (zeroed at first) is not at its end, ask again. */
static tnm_result tnmi_engine_shrink(tnmi_engine *e, uint32_t tier, tnmi_shrink *look) {
    tnmi_tier *t = tnmi_engine_tier(e, tier);
    uint64_t most[TNM_MAX_TIERS];
    uint32_t i = look->at;
    if (t->reserved <= t->budget) return TNM_OK;
    if (i == 0) {
        if (t->spill < 0 && tnmi_move_unstage(&e->move, tier))
            return TNM_PENDING; /* nothing else can go from a bottom */
        if (!tnmi_engine_make_ledger(e, tier, 0, 0)) tnmi_engine_make_ledger(e, tier, 0, 1);
        if (!t->segment_count) tnmi_move_unstage(&e->move, tier);
        for (uint32_t g = t->segments; g != TNMI_NONE;) {
            const tnmi_segment *s = tnmi_tier_segment(&e->tiers, g);
            g = s->next;
            if (s->state == TNMI_SEGMENT_RELEASING || s->used == 0) return TNM_PENDING;
        }
        look->changed = e->changed;
    }
    const tnmi_heap *order = &e->tensors.on[tier].order;
    tnmi_view view = tnmi_engine_view(e, tier);
    most[0] = 0;
    for (int seen = 0; i < order->count; i++) {
        uint32_t index = tnmi_space_node(&t->space, tnmi_store_slot(order, i)->owner)->a;
        if (seen++ == TNMI_PIECE) {
            look->at = i;
            return TNM_ABSENT;
        }
        if (tnmi_engine_keeps(e, &view, index, look, most) == TNM_PENDING) return TNM_PENDING;
    }
    tnm_result worst = look->by;
    if (look->changed != e->changed) return TNM_PENDING; /* under its eyes: ask again */
    if (look->stranded && worst == TNM_OK) return TNM_ERR_BUDGET;
    for (i = t->segments; worst == TNM_ERR_BUDGET && t->spill < 0 && i != TNMI_NONE;) {
        tnmi_segment *s = tnmi_tier_segment(&e->tiers, i);
        i = s->next;
        if (s->state == TNMI_SEGMENT_DRAINING) tnmi_tier_revive(t, s); /* it cannot go: use it */
    }
    return worst == TNM_OK ? TNM_PENDING : worst;
}

/* A name goes; with the last one everything that stands only for it. */
static void tnmi_engine_destroy(tnmi_engine *e, uint32_t name) {
    uint64_t offset;
    uint32_t content = tnmi_tensor_content(&e->tensors, name, &offset);
    tnmi_tensor *tensor = tnmi_engine_content(e, name);
    tnmi_tensor_unname(tensor);
    if (name != content) {
        tnmi_tensor_delete(&e->tensors, name);
        tensor = tnmi_engine_content(e, content);
    }
    e->changed++;
    if (tensor->refs > 1) {
        tensor->refs--;
        return;
    }
    tnmi_hint_forget(&e->hints, &e->tensors, content);
    for (uint32_t r = e->oldest_request; r != TNMI_NONE;) {
        tnmi_request *request = tnmi_engine_request(e, r);
        uint32_t index = r, m = request->members;
        r = request->next;
        while (m != TNMI_NONE && tnmi_engine_member(e, m)->content != content)
            m = tnmi_engine_member(e, m)->next;
        if (m == TNMI_NONE) continue;
        tnmi_engine_release_claims(e, index);
        request->result = TNM_ERR_STALE;
        tnmi_engine_member(e, m)->content = 0; /* the slot may be another's by then */
        if (!request->calling) tnmi_engine_end_request(e, index);
    }
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        tnmi_replica *replica = tnmi_engine_on(e, content, t);
        if (!tnmi_engine_is_busy(replica)) continue;
        tnmi_engine_filling(e, replica)->claims = 0;
        uint32_t op = replica->offset;
        if (tnmi_engine_op(e, op)->state == TNMI_OP_DRAINING) continue;
        tnmi_engine_fail(e, op, TNM_OK);
        if (tnmi_engine_op(e, op)->out == 0) tnmi_engine_abandon(e, op);
    }
    tensor->refs = 0; /* not before: what was cancelled would have ended the content */
    tnmi_engine_reap(e, content);
}

/* ---- the end ---- */
/* Is a pin held by one of the tier's records from *at on? Looks at some of them. */
static int tnmi_engine_is_pinned(const tnmi_engine *e, uint32_t tier, uint32_t *at) {
    const tnmi_table *table = &e->tensors.on[tier].replicas;
    for (int i = 0; i < TNMI_PIECE && *at < table->fresh; i++) {
        uint32_t index = (*at)++;
        uint64_t word = tnmi_base_load64(&tnmi_tensor_replica(&e->tensors, tier, index)->word);
        if (!tnmi_tensor_is(word, TNMI_ABSENT) && tnmi_engine_live_pins(e, tier, index, 0))
            return 1;
    }
    return 0;
}

/* Everything is taken back, some at a time; what is out comes home in later rounds. 0 = there is
 * more. */
static int tnmi_engine_begin_close(tnmi_engine *e) {
    int left = TNMI_PIECE;
    e->closing = 1;
    e->close_at = 0;
    for (; e->oldest_request != TNMI_NONE; left--) {
        if (left == 0) return 0;
        tnmi_engine_end_request(e, e->oldest_request);
    }
    for (int q = 0; q < TNMI_MOVE_QUEUES; q++)
        for (; e->move.queue[q].head != TNMI_NONE; left--) {
            uint32_t op = e->move.queue[q].head;
            if (left == 0) return 0;
            tnmi_engine_op(e, op)->claims = 0;
            tnmi_engine_fail(e, op, TNM_OK);
            if (tnmi_engine_op(e, op)->out == 0) tnmi_engine_end_op(e, op);
        }
    return 1;
}

/* Nothing is out and no fence is open: all names go, then all segments, some at a time. 0 = not
 * yet, -1 = there are more. */
static int tnmi_engine_finish_close(tnmi_engine *e) {
    uint32_t names = e->tensors.names.fresh, all = names + e->tiers.segments.fresh;
    if (e->move.used > 0 || e->fence_count > 0) return 0;
    for (int left = TNMI_PIECE; e->close_at < all; e->close_at++) {
        if (left-- == 0) return -1;
        if (e->close_at < names) {
            if (tnmi_engine_content(e, e->close_at)->flags & TNMI_NAMED)
                tnmi_engine_destroy(e, e->close_at);
            continue;
        }
        uint32_t index = e->close_at - names;
        const tnmi_segment *s = tnmi_tier_segment(&e->tiers, index);
        if (s->state == TNMI_SEGMENT_LIVE)
            tnmi_engine_drain_segment(e, s->tier, index);
        else if (s->state != TNMI_SEGMENT_NONE)
            tnmi_engine_try_retire(e, index);
    }
    e->close_at = names;                      /* the segments once more, if this was not the end */
    if (!tnmi_engine_is_resting(e)) return 0; /* what is wiped may need staging */
    if (e->move.stage_state == TNMI_STAGING_LIVE) e->move.stage_state = TNMI_STAGING_UNWANTED;
    if (e->move.stage_state == TNMI_STAGING_WANTED) e->move.stage_state = TNMI_STAGING_NONE;
    for (uint32_t t = 0; t < e->tiers.count; t++)
        if (tnmi_engine_tier(e, t)->segment_count || e->gone[t] != TNMI_NONE) return 0;
    return e->move.stage_state == TNMI_STAGING_NONE || e->move.stage_state == TNMI_STAGING_REFUSED;
}

/* A first write that failed: the tensor holds nothing again once its pin is gone. */
static void tnmi_engine_forget_bytes(tnmi_engine *e, uint32_t tier, uint32_t index) {
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    tnmi_tensor_mark(replica, TNMI_LOST | TNMI_NOTIFY, 0);
    tnmi_tensor_set_flags(tnmi_engine_content(e, replica->content), 0, TNMI_BROKEN);
}

/* What would the grant of a planned request say? */
static tnm_result tnmi_engine_rehearse_grant(tnmi_engine *e, const tnmi_request *request) {
    for (uint32_t m = request->members; m != TNMI_NONE; m = tnmi_engine_member(e, m)->next) {
        tnm_result r = tnmi_engine_can_grant(e, tnmi_engine_member(e, m), request->age);
        if (r != TNM_OK) return r;
    }
    return TNM_OK;
}

/* What would the next try_ call for this very set be answered by a request it has left? PENDING if
 * it left none, or that has to be planned again. */
static tnm_result tnmi_engine_standing(tnmi_engine *e, const tnm_use *set, int count) {
    uint32_t index = tnmi_engine_find_request(e, tnmi_engine_hash(set, count));
    if (index == TNMI_NONE) return TNM_PENDING;
    const tnmi_request *request = tnmi_engine_request(e, index);
    if (request->result != TNM_PENDING || !request->admitted) return request->result;
    e->rehearsing = 1;
    tnm_result r = tnmi_engine_rehearse_grant(e, request);
    e->rehearsing = 0;
    return r == TNM_ABSENT ? TNM_PENDING : r;
}

/* What would an ask for this request be answered now? It is planned, and all of it is put back. */
static tnm_result tnmi_engine_rehearse(tnmi_engine *e, uint32_t index, uint32_t *tier,
                                       uint64_t *need) {
    tnmi_request *request = tnmi_engine_request(e, index);
    tnmi_plan plan = tnmi_engine_plan(index, TNM_CLASS_DEMAND, 0);
    uint64_t changed = e->changed;
    uint32_t left = tnmi_engine_find_request(e, request->hash);
    if (left != TNMI_NONE) request->age = tnmi_engine_request(e, left)->age; /* it would go on */
    e->rehearsing = 1;
    tnmi_engine_mark_members(e, request, 1);
    tnm_result r = tnmi_engine_plan_request(e, index, &plan);
    tnmi_engine_mark_members(e, request, 0);
    if (r == TNM_OK) r = tnmi_engine_rehearse_grant(e, request);
    for (uint32_t i = plan.head; i != TNMI_NONE; i = tnmi_engine_op(e, i)->plan)
        tnmi_engine_op(e, i)->claims = 0;
    tnmi_engine_undo(e, &plan);
    tnmi_engine_release_claims(e, index);
    e->rehearsing = 0;
    e->changed = changed;
    *tier = plan.short_on;
    *need = plan.need;
    return r;
}

/* [watch] ------------------------------------------------------------------- *
 * Info, stats, why, dump, check: reads only.                                   *
 * Calls: all above but engine and shelf; takes the engine's struct const.      *
 * -------------------------------------------------------------------------- */
/* Would the bytes be lost with the replica? There is nothing below a bottom to lack them. */
static int tnmi_watch_is_dirty(const tnmi_engine *e, uint32_t content, uint32_t tier) {
    tnmi_view view;
    if (e->tiers.tier[tier].spill < 0) return 0;
    memset(&view, 0, sizeof view); /* what looks for a survivor needs no more than this */
    view.tensors = &e->tensors;
    view.below = e->below;
    view.cost_in = e->cost_in;
    view.losing = e->losing;
    return tnmi_policy_is_dirty(&view, content, tier);
}

static tnm_state tnmi_watch_state(const tnmi_replica *replica) {
    if (!replica) return TNM_STATE_ABSENT;
    uint64_t word = tnmi_base_load64(&replica->word);
    if (word & TNMI_LOST) return TNM_STATE_LOST;
    if (tnmi_tensor_is(word, TNMI_BUSY)) return TNM_STATE_BUSY;
    return tnmi_tensor_is(word, TNMI_READY) ? TNM_STATE_READY : TNM_STATE_ABSENT;
}

static void tnmi_watch_info(const tnmi_engine *e, uint32_t name, uint32_t tier,
                            tnm_tensor_info *out) {
    uint64_t offset;
    uint32_t content = tnmi_tensor_content(&e->tensors, name, &offset);
    const tnmi_tensor *tensor = tnmi_tensor_at(&e->tensors, name);
    const tnmi_tensor *whole = tnmi_tensor_at(&e->tensors, content);
    const tnmi_replica *replica = tnmi_tensor_on(&e->tensors, content, tier);
    out->label = tensor->label;
    out->dtype = (tnm_dtype)tnmi_tensor_field(tensor, TNMI_DTYPE_SHIFT, 5);
    tnmi_tensor_tell_shape(tensor, out->shape);
    out->bytes = tensor->bytes;
    out->advice = tnmi_tensor_advice(whole);
    out->user = tensor->user;
    out->is_view = name != content;
    out->empty = tnmi_tensor_is_empty(&e->tensors, content);
    out->state = tnmi_watch_state(replica);
    if (!replica && (whole->flags & TNMI_BROKEN)) out->state = TNM_STATE_LOST;
    out->dirty = out->state == TNM_STATE_READY && tnmi_watch_is_dirty(e, content, tier);
    out->adopted = replica && replica->node == TNMI_NONE && out->state != TNM_STATE_BUSY;
    if (replica) out->pins = tnmi_tensor_pins(tnmi_base_load64(&replica->word));
    if (replica)
        out->fenced =
            tnmi_tensor_fenced(&e->tensors, tier, *tnmi_tensor_rep(&e->tensors, content, tier), 0);
    out->next_use = tnmi_hint_distance(
        &e->hints, whole, e->below, tier,
        replica && replica->node != TNMI_NONE ? tnmi_base_peek64(&replica->stamp) : 0);
    if (out->next_use == TNMI_NEVER && e->hints.learned.on) {
        uint64_t word = replica ? tnmi_base_peek64(&replica->word) : 0;
        int hit = replica && replica->node != TNMI_NONE;
        tnmi_habit habit =
            tnmi_hint_now(&e->hints, content, hit ? tnmi_base_peek64(&replica->stamp) : 0,
                          hit ? (uint32_t)(word >> 32) & 0xffffu : 0);
        out->next_use = tnmi_hint_due(&e->hints, &habit, tnmi_base_peek64(&e->clock));
    }
    out->last_error = (tnm_result) - (int)(whole->failed & 0xffu);
}

/* Sums that the hit path does not keep: of `most` records from `at` on. Returns where the next one
 * is, TNMI_NONE at the end. */
static uint32_t tnmi_watch_sums(const tnmi_engine *e, uint32_t tier, uint32_t at, uint32_t most,
                                tnm_tier_stats *out) {
    const tnmi_tier *t = &e->tiers.tier[tier];
    const tnmi_table *table = &e->tensors.on[tier].replicas;
    int sick = tnmi_tier_is_off(&t->sick, e->tick);
    uint32_t end = (uint32_t)tnmi_base_min((uint64_t)at + most, table->fresh);
    for (uint32_t i = at; i < end; i++) {
        const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, i);
        uint64_t word = tnmi_base_load64(&replica->word), bytes;
        if (tnmi_tensor_is(word, TNMI_ABSENT)) continue;
        out->tensors++;
        out->hits += (word >> 32) & 0xffffu;
        bytes = tnmi_tensor_at(&e->tensors, replica->content)->bytes;
        if (replica->node != TNMI_NONE)
            bytes = tnmi_space_size(tnmi_space_node(&t->space, replica->node)) * t->granule;
        if (tnmi_tensor_pins(word)) out->pinned_bytes += bytes;
        if (!tnmi_tensor_is(word, TNMI_READY)) continue;
        if (!tnmi_watch_is_dirty(e, replica->content, tier)) continue;
        out->dirty_bytes += bytes;
        if (sick) out->stuck_bytes += bytes;
    }
    return end < table->fresh ? end : TNMI_NONE;
}

/* All but the sums. */
static void tnmi_watch_stats(const tnmi_engine *e, uint32_t tier, tnm_tier_stats *out) {
    const tnmi_tier *t = &e->tiers.tier[tier];
    out->budget_bytes = t->budget;
    out->reserved_bytes = t->reserved;
    out->used_bytes = tnmi_tier_used(t);
    out->peak_bytes = t->peak;
    out->in_flight_bytes = t->in_flight_bytes;
    out->largest_free_bytes = tnmi_space_largest(&t->space) * t->granule;
    out->hits = t->hits;
    out->misses = t->misses;
    out->late = t->late;
    out->bytes_in = t->bytes_in;
    out->bytes_out = t->bytes_out;
    out->evictions = t->evictions;
    out->evictions_clean = t->evictions_clean;
    out->prefetches = t->prefetches;
    out->prefetches_wasted = t->prefetches_wasted;
    out->prefetches_refused = t->prefetches_refused;
    out->compactions = t->compactions;
    out->failures = t->failures;
    out->starved = t->starved;
    out->lru_inexact = t->lru_inexact;
    out->kept_bytes = t->kept_bytes;
    out->stream_bytes = t->stream_bytes;
}

/* ---- why ---- */
/* The largest pinned tensors of the tier, in order. */
static void tnmi_watch_blocker(const tnmi_engine *e, uint32_t tier, uint32_t index, uint64_t bytes,
                               tnm_shortage *out) {
    const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    int at = out->blocker_count;
    while (at > 0 && out->blockers[at - 1].bytes < bytes)
        at--;
    if (at == TNM_MAX_BLOCKERS) return;
    int last = out->blocker_count < TNM_MAX_BLOCKERS ? out->blocker_count : TNM_MAX_BLOCKERS - 1;
    for (int i = last; i > at; i--)
        out->blockers[i] = out->blockers[i - 1];
    if (out->blocker_count < TNM_MAX_BLOCKERS) out->blocker_count++;
    out->blockers[at].tensor = tnmi_tensor_id(&e->tensors, replica->content);
    out->blockers[at].label = tnmi_tensor_label(&e->tensors, replica->content);
    out->blockers[at].tier = (int)tier;
    out->blockers[at].bytes = bytes;
    out->blockers[at].pins = tnmi_tensor_pins(tnmi_base_load64(&replica->word));
    out->blockers[at].fenced = tnmi_tensor_fenced(&e->tensors, tier, index, 0);
}

/* One node of a segment: what it adds to the sums, and whether a live pin makes it a wall. */
static int tnmi_watch_wall(const tnmi_engine *e, uint32_t tier, const tnmi_node *node,
                           uint64_t bytes, tnm_shortage *out) {
    if (tnmi_space_kind(node) != TNMI_SPACE_USED || node->a == TNMI_NONE) return 0;
    const tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, node->a);
    uint64_t word = tnmi_base_load64(&replica->word);
    if (word & TNMI_CLAIM) out->claimed_bytes += bytes;
    if (tnmi_tensor_is(word, TNMI_BUSY)) out->in_flight_bytes += bytes;
    uint32_t pins = tnmi_tensor_pins(word);
    if (pins == 0) return 0;
    tnmi_watch_blocker(e, tier, node->a, bytes, out);
    if (pins == tnmi_tensor_fenced(&e->tensors, tier, node->a, 0)) {
        out->fenced_bytes += bytes;
        return 0;
    }
    out->pinned_bytes += bytes;
    return 1;
}

static void tnmi_watch_shortage(const tnmi_engine *e, uint32_t tier, tnm_shortage *out) {
    const tnmi_tier *t = &e->tiers.tier[tier];
    out->tier = (int)tier;
    out->budget_bytes = t->budget;
    out->reserved_bytes = t->reserved;
    out->free_bytes = t->space.free_granules * t->granule + tnmi_tier_room(t);
    out->largest_free_bytes = tnmi_space_largest(&t->space) * t->granule;
    out->largest_gap_bytes = tnmi_tier_room(t);
}

typedef struct tnmi_gaps {  /* how far the look for the largest gap is */
    uint32_t segment, node; /* TNMI_NONE: at the end; at the segment's beginning */
    uint64_t run;
} tnmi_gaps;

/* The rest of it: the nodes of all segments, some at a time. */
static void tnmi_watch_gaps(const tnmi_engine *e, uint32_t tier, tnmi_gaps *at, tnm_shortage *out) {
    const tnmi_tier *t = &e->tiers.tier[tier];
    for (int seen = 0; at->segment != TNMI_NONE && seen < TNMI_PIECE; seen++) {
        const tnmi_segment *s = tnmi_tier_segment(&e->tiers, at->segment);
        const tnmi_replica *r = NULL;
        if (s->dedicated && s->owner != TNMI_NONE && s->used) /* and then it has a place in it */
            r = tnmi_tensor_replica(&e->tensors, tier, s->owner);
        if (r) tnmi_watch_wall(e, tier, tnmi_space_node(&t->space, r->node), s->size, out);
        if (s->edge != TNMI_NONE && at->node == TNMI_NONE) {
            at->node = tnmi_space_node(&t->space, s->edge)->next;
            at->run = 0;
        }
        if (s->edge == TNMI_NONE || at->node == s->edge) {
            at->segment = s->next;
            at->node = TNMI_NONE;
            continue;
        }
        const tnmi_node *node = tnmi_space_node(&t->space, at->node);
        uint64_t bytes = tnmi_space_size(node) * t->granule;
        at->node = node->next;
        at->run = tnmi_watch_wall(e, tier, node, bytes, out) ? 0 : at->run + bytes;
        out->largest_gap_bytes = tnmi_base_max(out->largest_gap_bytes, at->run);
    }
}

/* ---- dump ---- */
typedef struct tnmi_text { /* text on its way out; numbers and strings are written without stdio */
    char *at;
    uint32_t size, used; /* no row is longer than half of the size */
} tnmi_text;

static TNMI_RARE void tnmi_watch_char(tnmi_text *text, char c) {
    if (text->used < text->size) text->at[text->used++] = c;
}

static TNMI_RARE void tnmi_watch_put(tnmi_text *text, const char *string) {
    while (*string)
        tnmi_watch_char(text, *string++);
}

static void tnmi_watch_number(tnmi_text *text, uint64_t number) {
    char digits[20];
    int count = 0;
    do {
        digits[count++] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    while (count)
        tnmi_watch_char(text, digits[--count]);
}

/* "key": number, which is never the first of its object. */
static void tnmi_watch_field(tnmi_text *text, const char *key, uint64_t number) {
    tnmi_watch_put(text, ", \"");
    tnmi_watch_put(text, key);
    tnmi_watch_put(text, "\": ");
    tnmi_watch_number(text, number);
}

/* A JSON string; labels are anyone's bytes, so what is not plain ASCII is escaped, and cut. */
static void tnmi_watch_string(tnmi_text *text, const char *string) {
    static const char hex[] = "0123456789abcdef";
    tnmi_watch_char(text, '"');
    for (int i = 0; string && string[i] && i < 80; i++) {
        unsigned char c = (unsigned char)string[i];
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
            tnmi_watch_char(text, (char)c);
            continue;
        }
        tnmi_watch_put(text, "\\u00");
        tnmi_watch_char(text, hex[c >> 4]);
        tnmi_watch_char(text, hex[c & 15]);
    }
    tnmi_watch_char(text, '"');
}

static const char *tnmi_watch_state_name(tnm_state state) {
    static const char *const name[] = { "absent", "busy", "ready", "lost" };
    return name[state];
}

static TNMI_RARE void tnmi_watch_tier_json(const tnmi_engine *e, uint32_t tier,
                                           const tnm_tier_stats *stats, tnmi_text *text) {
    const tnm_tier_stats s = *stats;
    tnmi_watch_put(text, tier ? ",\n    { \"name\": " : "\n    { \"name\": ");
    tnmi_watch_string(text, e->tiers.tier[tier].desc.name);
    if (s.budget_bytes != UINT64_MAX) tnmi_watch_field(text, "budget_bytes", s.budget_bytes);
    tnmi_watch_field(text, "reserved_bytes", s.reserved_bytes);
    tnmi_watch_field(text, "used_bytes", s.used_bytes);
    tnmi_watch_field(text, "peak_bytes", s.peak_bytes);
    tnmi_watch_field(text, "pinned_bytes", s.pinned_bytes);
    tnmi_watch_field(text, "in_flight_bytes", s.in_flight_bytes);
    tnmi_watch_field(text, "dirty_bytes", s.dirty_bytes);
    tnmi_watch_field(text, "stuck_bytes", s.stuck_bytes);
    tnmi_watch_field(text, "largest_free_bytes", s.largest_free_bytes);
    tnmi_watch_field(text, "tensors", s.tensors);
    tnmi_watch_field(text, "hits", s.hits);
    tnmi_watch_field(text, "late", s.late);
    tnmi_watch_field(text, "misses", s.misses);
    tnmi_watch_field(text, "bytes_in", s.bytes_in);
    tnmi_watch_field(text, "bytes_out", s.bytes_out);
    tnmi_watch_field(text, "evictions", s.evictions);
    tnmi_watch_field(text, "evictions_clean", s.evictions_clean);
    tnmi_watch_field(text, "prefetches", s.prefetches);
    tnmi_watch_field(text, "prefetches_wasted", s.prefetches_wasted);
    tnmi_watch_field(text, "prefetches_refused", s.prefetches_refused);
    tnmi_watch_field(text, "compactions", s.compactions);
    tnmi_watch_field(text, "failures", s.failures);
    tnmi_watch_field(text, "starved", s.starved);
    tnmi_watch_field(text, "lru_inexact", s.lru_inexact);
    tnmi_watch_field(text, "kept_bytes", s.kept_bytes);
    tnmi_watch_field(text, "stream_bytes", s.stream_bytes);
    tnmi_watch_put(text, " }");
}

static void tnmi_watch_pad(tnmi_text *text, uint32_t from, uint32_t width) {
    while (text->used < from + width)
        tnmi_watch_char(text, ' ');
}

/* A number right-aligned in 14 columns, with a space before it. */
static void tnmi_watch_column(tnmi_text *text, uint64_t number) {
    uint32_t digits = 1;
    for (uint64_t n = number; n >= 10; n /= 10)
        digits++;
    for (uint32_t i = digits; i < 14; i++)
        tnmi_watch_char(text, ' ');
    tnmi_watch_char(text, ' ');
    tnmi_watch_number(text, number);
}

static TNMI_RARE void tnmi_watch_tier_text(const tnmi_engine *e, uint32_t tier,
                                           const tnm_tier_stats *stats, tnmi_text *text) {
    const tnm_tier_stats s = *stats;
    uint32_t from = text->used;
    for (int i = 0; i < 16 && e->tiers.tier[tier].desc.name[i]; i++)
        tnmi_watch_char(text, e->tiers.tier[tier].desc.name[i]);
    tnmi_watch_pad(text, from, 16);
    if (s.budget_bytes == UINT64_MAX)
        tnmi_watch_put(text, "      unlimited");
    else
        tnmi_watch_column(text, s.budget_bytes);
    tnmi_watch_column(text, s.peak_bytes);
    tnmi_watch_column(text, s.used_bytes);
    tnmi_watch_column(text, s.pinned_bytes);
    tnmi_watch_column(text, s.hits);
    tnmi_watch_column(text, s.late);
    tnmi_watch_column(text, s.misses);
    tnmi_watch_column(text, s.bytes_in);
    tnmi_watch_column(text, s.bytes_out);
    tnmi_watch_column(text, s.evictions);
    tnmi_watch_char(text, '\n');
}

static TNMI_RARE void tnmi_watch_tensor_json(const tnmi_engine *e, uint32_t name, int first,
                                             tnmi_text *text) {
    tnm_tensor_info info;
    memset(&info, 0, sizeof info);
    tnmi_watch_info(e, name, 0, &info);
    tnmi_watch_put(text, first ? "\n    { \"label\": " : ",\n    { \"label\": ");
    tnmi_watch_string(text, info.label);
    tnmi_watch_field(text, "id", tnmi_tensor_id(&e->tensors, name));
    tnmi_watch_field(text, "bytes", info.bytes);
    tnmi_watch_field(text, "view", (uint64_t)info.is_view);
    tnmi_watch_put(text, ", \"on\": {");
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        memset(&info, 0, sizeof info);
        tnmi_watch_info(e, name, t, &info);
        if (info.state == TNM_STATE_ABSENT) continue;
        tnmi_watch_put(text, text->at[text->used - 1] == '{' ? "\"" : ", \"");
        tnmi_watch_number(text, t);
        tnmi_watch_put(text, "\": { \"state\": \"");
        tnmi_watch_put(text, tnmi_watch_state_name(info.state));
        tnmi_watch_char(text, '"');
        tnmi_watch_field(text, "dirty", (uint64_t)info.dirty);
        tnmi_watch_field(text, "adopted", (uint64_t)info.adopted);
        tnmi_watch_field(text, "pins", info.pins);
        tnmi_watch_put(text, " }");
    }
    tnmi_watch_put(text, "} }");
}

/* ---- check ---- */
/* One replica: its node, its content's index, its place in the order, its flags. */
static int tnmi_watch_check_replica(const tnmi_engine *e, uint32_t tier, uint32_t index) {
    const tnmi_replica *r = tnmi_tensor_replica(&e->tensors, tier, index);
    uint64_t word = tnmi_base_load64(&r->word);
    const tnmi_space *space = &e->tiers.tier[tier].space;
    const tnmi_heap *order = &e->tensors.on[tier].order;
    int broken = 0, in_order = r->node != TNMI_NONE && tnmi_store_heap_has(order, r->node);
    int in_window = 0;
    broken += *tnmi_tensor_rep(&e->tensors, r->content, tier) != index;
    if (r->node != TNMI_NONE) {
        const tnmi_node *node = tnmi_space_node(space, r->node);
        broken += tnmi_space_kind(node) != TNMI_SPACE_USED || node->a != index;
        broken += ((word & TNMI_CLAIM) != 0) != ((node->b & TNMI_CLAIMED) != 0);
        in_window = node->b && !(node->b & TNMI_CLAIMED);
    }
    broken += in_order != (tnmi_tensor_is(word, TNMI_READY) && r->node != TNMI_NONE && !in_window);
    broken += tnmi_tensor_writers(word) > tnmi_tensor_pins(word);
    if (tnmi_tensor_is(word, TNMI_READY) && !(word & TNMI_LOST))
        broken += ((word & TNMI_ALONE) != 0) != (tnmi_tensor_copies(&e->tensors, r->content) == 1 &&
                                                 !tnmi_tensor_is_lent(&e->tensors, r));
    if (tnmi_tensor_is(word, TNMI_BUSY)) {
        const tnmi_op *op = tnmi_move_op(&e->move, r->offset);
        broken += op->replica != index || op->tier != tier || op->content != r->content;
        broken += tnmi_tensor_pins(word) != 0;
    }
    return broken;
}

/* The open windows, and the nodes their hand-over will take. */
static int tnmi_watch_check_windows(const tnmi_engine *e, uint32_t tier) {
    const tnmi_tier *t = &e->tiers.tier[tier];
    const tnmi_table *nodes = &t->space.nodes;
    uint32_t open = 0;
    for (uint32_t i = e->move.queue[TNMI_MOVE_ROOM].head; i != TNMI_NONE;) {
        const tnmi_op *op = tnmi_move_op(&e->move, i);
        open += op->tier == tier && op->window != TNMI_NONE;
        i = op->next_op;
    }
    return (open != t->windows) +
           (nodes->capacity < nodes->limit && tnmi_store_spare(nodes) < 2 * open);
}

static int tnmi_watch_check_tier(const tnmi_engine *e, uint32_t tier) {
    const tnmi_tier *t = &e->tiers.tier[tier];
    const tnmi_table *table = &e->tensors.on[tier].replicas;
    uint64_t reserved = 0, free_sum = 0, bin_sum = 0, used = 0, held = 0;
    uint32_t vacant = 0;
    int broken = t->reserved > t->peak;
    for (uint32_t i = t->segments; i != TNMI_NONE;) {
        const tnmi_segment *s = tnmi_tier_segment(&e->tiers, i);
        i = s->next;
        reserved += s->size;
        broken += s->tier != tier || s->state == TNMI_SEGMENT_NONE;
        if (s->edge != TNMI_NONE)
            broken += tnmi_space_check_segment(&t->space, s->edge, &free_sum, &used, &held);
        if (s->dedicated && s->used) used += s->size / t->granule;
        vacant += (uint32_t)tnmi_tier_is_vacant(s);
        if (s->dedicated && s->used && s->owner != TNMI_NONE)
            broken += tnmi_tensor_replica(&e->tensors, tier, s->owner)->node == TNMI_NONE;
    }
    broken += vacant != t->vacant;
    if (e->move.stage_tier == tier && e->move.stage_state >= TNMI_STAGING_ALLOCATING)
        reserved += e->move.stage_bytes;
    broken += reserved != t->reserved;
    broken += tnmi_watch_check_windows(e, tier);
    broken += tnmi_space_check_bins(&t->space, &bin_sum);
    broken += free_sum != t->space.free_granules || bin_sum != free_sum;
    broken += held != t->space.held_granules;
    broken += used != t->space.used_granules;
    for (uint32_t i = 0; i < table->fresh; i++) {
        const tnmi_replica *r = tnmi_tensor_replica(&e->tensors, tier, i);
        if (!tnmi_tensor_is(tnmi_base_load64(&r->word), TNMI_ABSENT))
            broken += tnmi_watch_check_replica(e, tier, i);
    }
    return broken;
}

/* The single uses of a lane, in order: a search tree by step, a heap by rank. */
static int tnmi_watch_check_lane(const tnmi_hints *hints, uint32_t lane) {
    uint32_t before = TNMI_NONE;
    int broken = 0;
    for (uint32_t i = hints->lane[lane].single; i != TNMI_NONE; i = tnmi_hint_after(hints, i)) {
        const tnmi_use *use = tnmi_hint_use(hints, i);
        broken += use->lane != lane || !(use->flags & TNMI_USE_SINGLE);
        if (before == TNMI_NONE)
            broken += use->prev != TNMI_NONE;
        else
            broken += tnmi_hint_use(hints, before)->step > use->step;
        if (use->up == TNMI_NONE)
            broken += hints->lane[lane].root != i;
        else
            broken += tnmi_hint_rank(use->up) < tnmi_hint_rank(i);
        if (use->prev != TNMI_NONE) broken += tnmi_hint_use(hints, use->prev)->up != i;
        if (use->next != TNMI_NONE) broken += tnmi_hint_use(hints, use->next)->up != i;
        before = i;
    }
    return broken + (before == TNMI_NONE && hints->lane[lane].root != TNMI_NONE);
}

/* What a lane records, and what its cycle is known by. Every use of the table is somewhere. */
static int tnmi_watch_check_uses(const tnmi_hints *hints, const tnmi_tensors *tensors) {
    uint32_t uses = 0, watching = 0, foretold = 0;
    int broken = 0;
    for (uint32_t l = 0; l < TNM_MAX_LANES; l++) {
        const tnmi_lane *lane = &hints->lane[l];
        uint32_t cycle = 0, noted = 0, end = TNMI_NONE, last = TNMI_NONE;
        if (lane->watch & (TNMI_LANE_RECORDS | TNMI_LANE_FOLLOWS)) watching |= (uint32_t)1 << l;
        for (uint32_t i = lane->cycle; i != TNMI_NONE; i = tnmi_hint_use(hints, i)->next) {
            const tnmi_use *use = tnmi_hint_use(hints, i);
            cycle++;
            broken += use->lane != l || use->step >= lane->period || use->prev != end;
            broken += end != TNMI_NONE && tnmi_hint_use(hints, end)->step > use->step;
            end = i;
            broken += (lane->watch & TNMI_LANE_FOLLOWS) &&
                      tnmi_hint_set(use) > TNMI_NONE >> (TNMI_USE_PLACE_BITS + 1);
        }
        for (uint32_t i = lane->record.first; i != TNMI_NONE; i = tnmi_hint_use(hints, i)->next) {
            const tnmi_use *use = tnmi_hint_use(hints, i);
            const tnmi_tensor *tensor = tnmi_tensor_at(tensors, use->content);
            broken += tnmi_tensor_life(tensor) < use->same; /* or it has gone since */
            noted++;
            last = i;
        }
        broken += cycle != lane->cycle_count || noted != lane->record.count || end != lane->last;
        broken += last != lane->record.last || (noted && !(lane->watch & TNMI_LANE_RECORDS));
        uses += cycle + noted;
        for (uint32_t i = lane->single; i != TNMI_NONE; i = tnmi_hint_after(hints, i))
            uses++;
    }
    for (uint32_t i = hints->lane[TNMI_LANE_LEARNED].single; i != TNMI_NONE;) {
        const tnmi_use *use = tnmi_hint_use(hints, i);
        foretold++;
        broken += !hints->learned.on || (use->flags & TNMI_USE_SURE);
        i = tnmi_hint_after(hints, i);
    }
    broken += foretold != hints->learned.foretold || foretold > TNMI_FORETOLD;
    uses += foretold + hints->loose;
    return broken + (watching != hints->watching) + (uses != hints->uses.live);
}

/* What fences hold, by their records and by the counts. Each replica has a weight of its own, so
 * that the two sums agree only where every count does. A queue's records lie in order. */
static int tnmi_watch_check_fences(const tnmi_engine *e) {
    uint64_t by_record = 0, by_count = 0;
    uint32_t records = 0;
    int broken = 0;
    for (uint32_t q = 0; q < TNMI_QUEUES; q++) {
        uint32_t before = TNMI_NONE;
        uint64_t value = 0;
        for (uint32_t i = e->fence_head[q]; i != TNMI_NONE; records++) {
            const tnmi_fence *fence = (const tnmi_fence *)tnmi_store_at(&e->fences, i);
            uint64_t weight = tnmi_base_mix(tnmi_base_mix(0, fence->tier + 1u), fence->replica);
            by_record += weight * fence->count * tnmi_tensor_fence_unit((int)fence->write);
            broken += fence->prev != before || fence->value < value;
            value = fence->value;
            before = i;
            i = fence->next;
        }
        broken += e->fence_tail[q] != before;
    }
    for (uint32_t t = 0; t < e->tiers.count; t++)
        for (uint32_t i = 0; i < e->tensors.on[t].fenced.capacity; i++) {
            uint32_t held = *tnmi_tensor_fenced_at(&e->tensors, t, i);
            if (held == 0) continue;
            uint64_t word = tnmi_base_load64(&tnmi_tensor_replica(&e->tensors, t, i)->word);
            by_count += tnmi_base_mix(tnmi_base_mix(0, t + 1u), i) * held;
            broken += tnmi_tensor_fenced(&e->tensors, t, i, 0) > tnmi_tensor_pins(word);
            broken += tnmi_tensor_fenced(&e->tensors, t, i, 1) > tnmi_tensor_writers(word);
        }
    return broken + (by_record != by_count) + (records != e->fence_count);
}

static TNMI_RARE int tnmi_watch_check(const tnmi_engine *e) {
    int broken = tnmi_watch_check_fences(e);
    uint32_t used = 0, free_slots = 0;
    for (uint32_t t = 0; t < e->tiers.count; t++)
        broken += tnmi_watch_check_tier(e, t);
    for (uint32_t l = 0; l < TNMI_LANES; l++)
        broken += tnmi_watch_check_lane(&e->hints, l);
    broken += e->hints.learned.on && e->tensors.names.fresh > 1 &&
              e->hints.learned.habits.capacity < e->tensors.names.fresh;
    broken += tnmi_watch_check_uses(&e->hints, &e->tensors);
    for (uint32_t i = e->move.live_copy; i != TNMI_NONE; i = e->move.copy[i].next) {
        used++;
        broken += e->move.copy[i].state == TNMI_COPY_FREE;
    }
    for (uint32_t i = e->move.free_copy; i != TNMI_NONE; i = e->move.copy[i].next)
        free_slots++;
    broken += used != e->move.used || used + free_slots != e->move.copies;
    for (uint32_t i = 1; i < e->tensors.names.fresh; i++)
        broken += tnmi_tensor_at(&e->tensors, i)->mark != 0;
    return broken;
}

/* [door] -------------------------------------------------------------------- *
 * The public functions: validate, lock, let the engine decide, perform what it *
 * asks for. The only room that runs user code.                                 *
 * Calls: all.                                                                  *
 * Invariants: no callback runs under the lock; one thread at a time performs   *
 * asks (`driving`), the others that wait sleep until it has news or leaves;    *
 * one thread at a time drains [tell] (`telling`).                              *
 * -------------------------------------------------------------------------- */
struct tnm_ctx {
    tnmi_engine e;
    tnm_desc desc;
    struct tnmi_shelf_host host;
    int driving, telling;
    /* the last round of a waiting call only decided, and nobody slept */
    int glanced;
    int inside; /* one-thread contexts: a callback runs, only sight is allowed */
    /* no hits without the lock: 1 = a trace listens, or threads without atomics; 2 = a lane looks
     * at the pins */
    uint32_t by_lock;
    uint32_t shut;   /* by_lock or inside */
    int sleepers;    /* threads that wait for the bell */
    uint64_t rung;   /* how often it rang */
    uint64_t told;   /* e.changed when it last rang for everyone */
    uint64_t worked; /* asks that moved something */
    int own_lock, pumping, stop_pump;
#    ifdef TENSORMEM_THREADS
    tnmi_mutex mutex;
    tnmi_mutex anteroom; /* whoever holds it is the next to have `mutex` */
    uint32_t knocking;   /* somebody does */
    tnmi_mutex asleep;   /* of `bell` and `rung`; taken last */
    tnmi_bell bell;
    tnmi_thread thread; /* pumps */
#    endif
};

/* ---- lock, condition ---- */
/* In turn: a system's lock is not fair, and a thread that drives, or pumps in a loop, would have it
 * again before the one it woke is there. Who stands in the anteroom is the next to come in. */
static void tnmi_door_lock(tnm_ctx *ctx) {
#    ifdef TENSORMEM_THREADS
    if (ctx->own_lock) {
        if (TNMI_ATOMICS && !tnmi_base_load32(&ctx->knocking) && tnmi_base_try(&ctx->mutex)) return;
        tnmi_base_acquire(&ctx->anteroom);
        tnmi_base_store32(&ctx->knocking, 1);
        tnmi_base_acquire(&ctx->mutex);
        tnmi_base_store32(&ctx->knocking, 0);
        tnmi_base_release(&ctx->anteroom);
        return;
    }
#    endif
    if (ctx->desc.lock) (ctx->desc.lock)(ctx->desc.user);
}

static void tnmi_door_unlock(tnm_ctx *ctx) {
#    ifdef TENSORMEM_THREADS
    if (ctx->own_lock) {
        tnmi_base_release(&ctx->mutex);
        return;
    }
#    endif
    if (ctx->desc.unlock) (ctx->desc.unlock)(ctx->desc.user);
}

/* Another thread drives: sleep until it has news or leaves. Without a bell of ours `idle` is what
 * there is to sleep in. 0 = it gave up. */
static int tnmi_door_sleep(tnm_ctx *ctx, uint64_t *rounds) {
#    ifdef TENSORMEM_THREADS
    uint64_t rung = ctx->rung;
    (void)rounds;
    ctx->sleepers++;
    tnmi_base_acquire(&ctx->asleep);
    tnmi_door_unlock(ctx);
    while (rung == ctx->rung)
        tnmi_base_listen(&ctx->bell, &ctx->asleep);
    tnmi_base_release(&ctx->asleep);
    tnmi_door_lock(ctx);
    ctx->sleepers--;
    return 1;
#    else
    uint64_t worked = ctx->worked;
    int give_up = 0;
    ++*rounds;
    tnmi_door_unlock(ctx);
    if (ctx->desc.idle) give_up = (ctx->desc.idle)(ctx->desc.user, *rounds);
    tnmi_door_lock(ctx);
    if (worked != ctx->worked) *rounds = 0;
    return !give_up;
#    endif
}

/* Others may hold claims or pins that stand in our way: the lock is theirs for a moment. Where the
 * lock goes in turn and `idle` sleeps, no more is needed. */
static void tnmi_door_pause(tnm_ctx *ctx, int fruitless) {
    tnmi_door_unlock(ctx);
#    ifdef TENSORMEM_THREADS
    if (!ctx->own_lock || (fruitless && !ctx->desc.idle)) tnmi_base_breathe();
#    else
    (void)fruitless;
#    endif
    tnmi_door_lock(ctx);
}

/* Everyone who sleeps looks again (all), or one of them comes to drive. */
static void tnmi_door_wake(tnm_ctx *ctx, int all) {
    if (all) ctx->told = ctx->e.changed;
#    ifdef TENSORMEM_THREADS
    if (ctx->sleepers == 0) return;
    tnmi_base_acquire(&ctx->asleep);
    ctx->rung++;
    tnmi_base_ring(&ctx->bell, all);
    tnmi_base_release(&ctx->asleep);
#    endif
}

/* News for all; and while nobody drives, one who sleeps has to. */
static void tnmi_door_hand_on(tnm_ctx *ctx) {
    if (ctx->told != ctx->e.changed)
        tnmi_door_wake(ctx, 1);
    else if (!ctx->driving)
        tnmi_door_wake(ctx, 0);
}

/* ---- telling ---- */
static void tnmi_door_print(const tnm_log *log) {
#    if !defined(TENSORMEM_NO_STDIO) && !defined(NDEBUG)
    static const char *const level[] = { "error", "warning", "info" };
    fprintf(stderr, "tensormem: %s %s", level[log->level], tnmi_tell_result(log->result));
    if (log->call) fprintf(stderr, " from %s", log->call);
    if (log->tier >= 0) fprintf(stderr, " on tier %d", log->tier);
    if (log->label) fprintf(stderr, " for \"%.64s\"", log->label);
    fprintf(stderr, ": %s", log->rule);
    if (log->need || log->have)
        fprintf(stderr, " (%llu, have %llu)", (unsigned long long)log->need,
                (unsigned long long)log->have);
    fputc('\n', stderr);
#    else
    (void)log;
#    endif
}

/* A callback begins (1) or has ended (-1). Among threads nobody can say whose call it came from. */
static void tnmi_door_callback(tnm_ctx *ctx, int by) {
    if (!ctx->e.threaded) ctx->inside += by;
    if (!ctx->e.threaded) ctx->shut = ctx->by_lock | (uint32_t)ctx->inside;
}

/* Under the lock; drops it while the application's callbacks run. */
static void tnmi_door_tell(tnm_ctx *ctx) {
    tnmi_tell_item item;
    if (ctx->telling || ctx->e.tell.count == 0) return;
    ctx->telling = 1;
    /* so many at most: a log callback whose own calls make items must not keep us for ever */
    for (uint32_t left = 2 * ctx->e.tell.capacity; left > 0; left--) {
        if (ctx->e.tell.count == 0) tnmi_tell_admit(&ctx->e.tell);
        if (!tnmi_tell_pop(&ctx->e.tell, &item)) break;
        tnmi_door_callback(ctx, 1);
        tnmi_door_unlock(ctx);
        if (item.is_event)
            (ctx->desc.trace)(ctx->desc.user, &item.event);
        else if (ctx->desc.log)
            (ctx->desc.log)(ctx->desc.user, &item.log);
        else
            tnmi_door_print(&item.log);
        tnmi_door_lock(ctx);
        tnmi_door_callback(ctx, -1);
    }
    ctx->telling = 0;
}

/* What goes over all tensors lets the lock go between its steps. */
static void tnmi_door_breath(tnm_ctx *ctx) {
    tnmi_door_unlock(ctx);
    tnmi_door_lock(ctx);
}

static void tnmi_door_enter(tnm_ctx *ctx) {
    tnmi_door_lock(ctx);
    ctx->e.refused_host = 0;
}

static tnm_result tnmi_door_leave(tnm_ctx *ctx, tnm_result result) {
    tnmi_door_tell(ctx);
    tnmi_door_hand_on(ctx);
    tnmi_door_unlock(ctx);
    return result;
}

/* A broken rule: one log item that names it. */
static TNMI_RARE tnm_result tnmi_door_refuse(tnm_ctx *ctx, tnm_result result, const char *call,
                                             const char *rule) {
    tnm_log *log = tnmi_tell_log(&ctx->e.tell, TNM_LOG_ERROR, result, rule);
    if (log) log->call = call;
    return result;
}

/* The same, before the lock was taken, of an argument. */
static tnm_result tnmi_door_reject(tnm_ctx *ctx, const char *call, const char *rule) {
    if (!ctx) return TNM_ERR_ARGUMENT;
    tnmi_door_lock(ctx);
    tnmi_door_refuse(ctx, TNM_ERR_ARGUMENT, call, rule);
    return tnmi_door_leave(ctx, TNM_ERR_ARGUMENT);
}

/* In a one-thread build a flag knows when a callback calls back. */
static const char *tnmi_door_inside(const tnm_ctx *ctx) {
    return ctx->inside > 0
               ? "called from a callback, where only info, stats, why and result_string may be"
               : NULL;
}

/* Most calls begin so: entered, or refused by the rule they break (NULL: none). 0 = ARGUMENT. */
static int tnmi_door_begin(tnm_ctx *ctx, const char *call, const char *rule) {
    const char *inside = ctx ? tnmi_door_inside(ctx) : NULL;
    if (inside) rule = inside;
    if (!ctx || rule) {
        tnmi_door_reject(ctx, call, rule);
        return 0;
    }
    tnmi_door_enter(ctx);
    return 1;
}

/* ---- host memory ---- */
static void *tnmi_door_malloc(void *user, size_t size) {
    (void)user;
    return malloc(size);
}

static void tnmi_door_free(void *user, void *ptr, size_t size) {
    (void)user;
    (void)size;
    free(ptr);
}

static void tnmi_door_give(const tnm_desc *desc, void *ptr, uint64_t size) {
    if (ptr) (desc->release)(desc->user, ptr, (size_t)size);
}

/* Zeros, or NULL. */
static void *tnmi_door_take(const tnm_desc *desc, uint64_t size) {
    if (size == 0 || size > SIZE_MAX / 2) return NULL;
    void *ptr = (desc->alloc)(desc->user, (size_t)size);
    return ptr ? memset(ptr, 0, (size_t)size) : NULL;
}

/* ---- asks ---- */
static tnm_result tnmi_door_legal(tnm_result result) {
    return (int)result > (int)TNM_PENDING || (int)result < (int)TNM_ERR_LOST ? TNM_ERR_BACKEND
                                                                             : result;
}

static void tnmi_door_alloc(tnmi_ask *ask) {
    const tnm_backend *b = ask->backend;
    ask->mem = 0;
    ask->host = NULL;
    if (b->available && (b->available)(b->user) < ask->size) {
        ask->result = TNM_ERR_BUDGET;
        return;
    }
    ask->result = (b->alloc)(b->user, ask->size, ask->align, ask->item, &ask->mem, &ask->host);
}

static void tnmi_door_copy(tnmi_ask *ask) {
    if (!ask->backend) return; /* nobody to ask: the engine set the answer */
    ask->ticket = 0;
    ask->result = tnmi_door_legal(
        (ask->backend->copy)(ask->backend->user, &ask->dst, &ask->src, ask->size, &ask->ticket));
}

static void tnmi_door_passed(tnm_ctx *ctx, tnmi_ask *ask) {
    ask->value = (ctx->desc.passed)(ctx->desc.user, ask->index, ask->size);
}

/* Perform one ask. Entered and left with the lock held; it is open meanwhile. */
static void tnmi_door_perform(tnm_ctx *ctx, tnmi_ask *ask) {
    const tnm_backend *b = ask->backend;
    uint32_t capacity = ask->kind == TNMI_ASK_HOST ? ask->table->capacity : 0;
    tnmi_door_tell(ctx);
    /* who sleeps for what was granted meanwhile need not sleep through this callback as well */
    if (ctx->told != ctx->e.changed) tnmi_door_wake(ctx, 1);
    tnmi_door_callback(ctx, 1);
    tnmi_door_unlock(ctx);
    switch (ask->kind) {
    case TNMI_ASK_HOST:
        ask->got = tnmi_door_take(&ctx->desc, ask->size);
        break;
    case TNMI_ASK_ALLOC:
        tnmi_door_alloc(ask);
        break;
    case TNMI_ASK_RELEASE:
        (b->release)(b->user, ask->mem, ask->size);
        break;
    case TNMI_ASK_COPY:
        tnmi_door_copy(ask);
        break;
    case TNMI_ASK_SUBMIT:
        (b->submit)(b->user);
        break;
    case TNMI_ASK_POLL:
        ask->result = tnmi_door_legal((b->poll)(b->user, ask->ticket));
        break;
    case TNMI_ASK_WAIT:
        ask->result = tnmi_door_legal((b->wait)(b->user, ask->ticket));
        break;
    case TNMI_ASK_PASSED:
        tnmi_door_passed(ctx, ask);
        break;
    case TNMI_ASK_RELEASED:
        if (ask->region.released)
            (ask->region.released)(ask->region.user, ask->region.mem, ask->value);
        break;
    case TNMI_ASK_ZERO:
        memset(ask->host, 0, (size_t)ask->size);
        break;
    case TNMI_ASK_IDLE:
        ask->result =
            ctx->desc.idle && (ctx->desc.idle)(ctx->desc.user, ask->value) ? TNM_PENDING : TNM_OK;
        break;
    default: /* BREATH: that the lock opens is all of it */
        break;
    }
    tnmi_door_lock(ctx);
    tnmi_door_callback(ctx, -1);
    if (ask->kind == TNMI_ASK_HOST && ask->table->capacity != capacity) {
        tnmi_door_unlock(ctx); /* another thread brought one meanwhile */
        tnmi_door_give(&ctx->desc, ask->got, ask->size);
        tnmi_door_lock(ctx);
        return;
    }
    tnmi_engine_answer(&ctx->e, ask);
}

/* Bring the chunk a table wants. Anyone may; no backend runs. */
static void tnmi_door_grow(tnm_ctx *ctx) {
    tnmi_ask ask;
    if (!ctx->e.grow) return;
    memset(&ask, 0, sizeof ask);
    ask.kind = TNMI_ASK_HOST;
    ask.table = ctx->e.grow;
    ask.size = tnmi_store_grow_bytes(ctx->e.grow);
    tnmi_door_perform(ctx, &ask);
}

/* Spare entries in a table, bringing chunks. OK, MEMORY or CAPACITY. */
static tnm_result tnmi_door_table(tnm_ctx *ctx, tnmi_table *table, uint32_t need,
                                  const char *call) {
    tnm_result r;
    while ((r = tnmi_engine_table(&ctx->e, table, need)) == TNM_ABSENT)
        tnmi_door_grow(ctx);
    if (r == TNM_ERR_CAPACITY) tnmi_door_refuse(ctx, r, call, table->name);
    return r;
}

/* Did the outside world move? Plans that were made and unmade do not count. */
static int tnmi_door_is_progress(const tnmi_ask *ask) {
    switch (ask->kind) {
    case TNMI_ASK_COPY:
        return ask->result != TNM_ERR_BUSY;
    case TNMI_ASK_ALLOC:
        return ask->result == TNM_OK;
    case TNMI_ASK_POLL:
        return ask->result != TNM_PENDING;
    case TNMI_ASK_PASSED:
    case TNMI_ASK_BREATH:
        return 0;
    default: /* memory came or went; to wait and to be idle is no part of a round */
        return 1;
    }
}

/* All asks of one round. Returns whether anything happened. */
static int tnmi_door_drive(tnm_ctx *ctx, uint64_t allowance, int demand_only) {
    tnmi_engine *e = &ctx->e;
    tnmi_ask ask;
    uint64_t worked = ctx->worked;
    e->allowance = allowance;
    e->demand_only = demand_only;
    e->collect_only = allowance == 0;
    tnmi_engine_round(e);
    for (;;) {
        tnmi_engine_next(e, &ask);
        if (ask.kind == TNMI_ASK_DONE) break;
        tnmi_door_perform(ctx, &ask);
        ctx->worked += (uint64_t)tnmi_door_is_progress(&ask);
    }
    return worked != ctx->worked;
}

/* One round of a waiting call, and a sleep when it changed nothing. 0 = `idle` gave up. */
static int tnmi_door_turn(tnm_ctx *ctx, uint64_t *rounds, int demand_only) {
    tnmi_ask ask;
    int go_on = 1, glanced = 0;
    if (ctx->driving) return tnmi_door_sleep(ctx, rounds);
    ctx->driving = 1;
    uint64_t decided = ctx->e.changed;
    if (tnmi_door_drive(ctx, TNM_ALL, demand_only)) {
        *rounds = 0;
    } else if (decided != ctx->e.changed && !ctx->glanced) {
        glanced = 1; /* it may be all that is waited for: look before sleeping, once */
    } else {
        tnmi_engine_sleep(&ctx->e, &ask, ++*rounds);
        uint64_t before = ctx->e.changed;
        if (ask.kind != TNMI_ASK_IDLE) {
            tnmi_door_perform(ctx, &ask);
            if (before != ctx->e.changed) *rounds = 0;
        }
        if (*rounds > 0) {
            memset(&ask, 0, sizeof ask);
            ask.kind = TNMI_ASK_IDLE;
            ask.value = *rounds;
            tnmi_door_perform(ctx, &ask);
            go_on = ask.result == TNM_OK;
        }
    }
    ctx->glanced = glanced;
    ctx->driving = 0;
    /* a pin that goes without the lock is no news: now and then everyone looks for himself */
    if (ctx->told != ctx->e.changed || (*rounds && !(*rounds & (*rounds - 1))))
        tnmi_door_wake(ctx, 1);
    if (ctx->e.threaded) tnmi_door_pause(ctx, *rounds > 0);
    return go_on;
}

/* ---- create ---- */
static const char *tnmi_door_check_backend(const tnm_tier_desc *tier) {
    const tnm_backend *b = &tier->backend;
    int given = (b->alloc != NULL) + (b->release != NULL) + (b->copy != NULL);
    if (given != 0 && given != 3) return "a backend needs alloc, release and copy, or none of them";
    if (given == 0 && (b->poll || b->wait || b->submit || b->available))
        return "a backend needs alloc, release and copy";
    if (b->granularity && !tnmi_base_is_power(b->granularity))
        return "granularity is not a power of two";
    if (tier->alignment && !tnmi_base_is_power(tier->alignment))
        return "alignment is not a power of two";
    return NULL;
}

static TNMI_RARE const char *tnmi_door_check_desc(const tnm_desc *desc) {
    if (!desc->tiers || desc->tier_count < 1 || desc->tier_count > TNM_MAX_TIERS)
        return "tier_count is not 1 .. TNM_MAX_TIERS";
    for (int i = 0; i < desc->tier_count; i++) {
        const tnm_tier_desc *tier = &desc->tiers[i];
        const char *rule = tnmi_door_check_backend(tier);
        if (rule) return rule;
        if (tier->spill_to != 0 && tier->spill_to != TNM_NOWHERE &&
            (tier->spill_to <= i || tier->spill_to >= desc->tier_count))
            return "spill_to is not a greater index or TNM_NOWHERE";
    }
    if (desc->staging_tier < 0 || desc->staging_tier >= desc->tier_count)
        return "staging_tier is not a tier";
    if ((desc->alloc == NULL) != (desc->release == NULL)) return "set both alloc and release";
    if ((desc->lock == NULL) != (desc->unlock == NULL)) return "set both lock and unlock";
    if (desc->tag > 0xff) return "tag has more than 8 bits";
    if ((int)desc->policy < TNM_POLICY_LRU || (int)desc->policy > TNM_POLICY_AUTO)
        return "policy is none of tnm_policy";
    if (desc->max_tensors > ((uint32_t)1 << TNMI_INDEX_BITS) - 2) return "max_tensors is too large";
#    ifndef TENSORMEM_THREADS
    if (desc->pump_thread) return "pump_thread needs TENSORMEM_THREADS";
#    endif
    return NULL;
}

/* Per byte; 0 = 8 times the tier before. */
static uint32_t tnmi_door_cost(uint32_t given, const uint32_t *cost, uint32_t index) {
    if (given) return given;
    return index ? (uint32_t)tnmi_base_min((uint64_t)cost[index - 1] * 8, UINT32_MAX) : 1;
}

static void tnmi_door_init_tier(tnm_ctx *ctx, uint32_t index) {
    tnmi_engine *e = &ctx->e;
    tnmi_tier *t = &e->tiers.tier[index];
    tnm_tier_desc *d = &t->desc;
    *d = ctx->desc.tiers[index];
    t->own_backend = d->backend.alloc != NULL;
    t->visible = t->own_backend && d->backend.host_visible;
    if (!t->own_backend) {
        uint32_t granularity = d->backend.granularity;
        tnmi_shelf_host_backend(&ctx->host, &d->backend);
        d->backend.granularity = granularity;
    }
    if (!d->name) d->name = "tier";
    if (!d->alignment) d->alignment = d->backend.granularity > 256 ? d->backend.granularity : 256;
    if (!d->queue_depth) d->queue_depth = 8;
    e->cost_in[index] = d->read_cost = tnmi_door_cost(d->read_cost, e->cost_in, index);
    if (e->cost_in[index] > e->cost_most) e->cost_most = e->cost_in[index];
    e->cost_out[index] = d->write_cost = tnmi_door_cost(d->write_cost, e->cost_out, index);
    t->budget = d->budget_bytes ? d->budget_bytes : UINT64_MAX;
    t->granule = tnmi_base_max(d->alignment, 8);
    while (t->budget != UINT64_MAX && t->budget / t->granule > TNMI_SPACE_MAX)
        t->granule *= 2;
    while ((uint64_t)1 << t->granule_log < t->granule)
        t->granule_log++;
    t->unit = t->granule / TNMI_TIER_UNITS;
    t->spill = d->spill_to ? d->spill_to : (int)index + 1;
    if (d->spill_to == TNM_NOWHERE || t->spill >= (int)e->tiers.count) t->spill = -1;
    t->segments = t->last_segment = TNMI_NONE;
    e->gone[index] = TNMI_NONE;
    e->grain = tnmi_base_max(e->grain, d->backend.granularity);
    e->strict |= d->backend.granularity > 1 && !d->backend.odd_ends;
}

static void tnmi_door_init_below(tnmi_engine *e) {
    for (uint32_t t = e->tiers.count; t-- > 0;) {
        int down = e->tiers.tier[t].spill;
        e->below[t] = (uint64_t)1 << t | (down >= 0 ? e->below[down] : 0);
    }
}

/* Segments of a fixed context: one for each replica where a tier is dedicated. */
static uint32_t tnmi_door_max_segments(const tnmi_engine *e, uint32_t replicas) {
    for (uint32_t t = 0; t < e->tiers.count; t++)
        if (e->tiers.tier[t].desc.segment_bytes == TNM_DEDICATED) return replicas + 1024;
    return 1024;
}

/* A limit as it was given, or another. Sums and shifts of what is less stay within 32 bits. */
static uint32_t tnmi_door_limit(uint32_t given, uint32_t otherwise) {
    return given ? (uint32_t)tnmi_base_min(given, (uint32_t)1 << 29) : otherwise;
}

/* Table limits: what max_tensors fixes, or what the formats allow. */
static void tnmi_door_init_tables(tnm_ctx *ctx) {
    tnmi_engine *e = &ctx->e;
    const tnm_desc *d = &ctx->desc;
    uint32_t tensors = d->max_tensors, tiers = e->tiers.count;
    int fixed = tensors != 0;
    uint32_t names = fixed ? tensors + 1 : ((uint32_t)1 << TNMI_INDEX_BITS) - 1;
    uint32_t replicas = tnmi_door_limit(d->max_replicas, fixed ? tensors : names);
    uint32_t requests = fixed ? 256 : names, inline_tiers = tiers < 4 ? 4 : tiers;
    uint32_t uses = tnmi_door_limit(d->max_uses, fixed ? 4 * tensors : names);
    size_t name = offsetof(tnmi_tensor, rep) + ((inline_tiers + 1) / 2) * 8;
    tnmi_store_init(&e->tensors.names, "max_tensors", name, offsetof(tnmi_tensor, use), names,
                    fixed);
    tnmi_store_init(&e->tensors.regions, "adopted regions", sizeof(tnmi_region),
                    offsetof(tnmi_region, refs), fixed ? 1024 : names, fixed);
    tnmi_store_init(&e->tiers.segments, "segments", sizeof(tnmi_segment),
                    offsetof(tnmi_segment, next),
                    fixed ? tnmi_door_max_segments(e, replicas) : names, fixed);
    tnmi_store_init(&e->members, "max_replicas", sizeof(tnmi_member), offsetof(tnmi_member, next),
                    fixed ? replicas + requests : names, fixed);
    tnmi_store_init(&e->requests, "max_replicas", sizeof(tnmi_request),
                    offsetof(tnmi_request, next), requests, fixed);
    tnmi_store_init(&e->fences, "max_fences", sizeof(tnmi_fence), offsetof(tnmi_fence, next),
                    tnmi_door_limit(d->max_fences, fixed ? 1024 : names), fixed);
    int learns = d->policy == TNM_POLICY_AUTO;
    if (learns && fixed) uses += (uint32_t)tnmi_base_min(TNMI_FORETOLD, UINT32_MAX - uses);
    tnmi_hint_init(&e->hints, uses, learns ? names : 0, fixed);
    tnmi_move_init(&e->move, fixed ? replicas / 4 + 256 : names, fixed);
    for (uint32_t t = 0; t < tiers; t++) {
        tnmi_residents *on = &e->tensors.on[t];
        tnmi_store_init(&on->replicas, "max_replicas", sizeof(tnmi_replica),
                        offsetof(tnmi_replica, content), replicas, fixed);
        on->replicas.spread = 1;
        tnmi_store_init(&on->fenced, "max_replicas", sizeof(uint32_t), 0,
                        e->has_passed ? replicas : 0, fixed);
        tnmi_store_init(&on->order.slots, "max_replicas", sizeof(tnmi_slot), 0, replicas, fixed);
        tnmi_space_init(&e->tiers.tier[t].space, fixed ? replicas * 2 + 64 : UINT32_MAX - 8, fixed);
        tnmi_store_init(&on->order.places, "max_replicas", sizeof(uint32_t), 0,
                        e->tiers.tier[t].space.nodes.limit, fixed);
    }
}

/* Every chunk of a fixed table now; a few entries of a growing one when they are needed. */
static int tnmi_door_fill_table(tnm_ctx *ctx, tnmi_table *table) {
    while (ctx->desc.max_tensors && table->capacity < table->limit) {
        void *chunk = tnmi_door_take(&ctx->desc, tnmi_store_grow_bytes(table));
        if (!chunk) return 0;
        tnmi_store_grow(table, chunk);
    }
    return 1;
}

/* All tables of a context, one after the other; NULL behind the last. */
static tnmi_table *tnmi_door_each_table(tnm_ctx *ctx, uint32_t i) {
    tnmi_engine *e = &ctx->e;
    tnmi_table *const fixed[] = {
        &e->tensors.names,   &e->members,        &e->requests,
        &e->fences,          &e->hints.uses,     &e->move.ops,
        &e->tensors.regions, &e->tiers.segments, &e->hints.learned.habits
    };
    uint32_t count = (uint32_t)(sizeof fixed / sizeof fixed[0]);
    if (i < count) return fixed[i];
    i -= count;
    if (i / 5 >= e->tiers.count) return NULL;
    tnmi_residents *on = &e->tensors.on[i / 5];
    tnmi_table *const own[] = { &on->replicas, &on->fenced, &on->order.slots, &on->order.places,
                                &e->tiers.tier[i / 5].space.nodes };
    return own[i % 5];
}

static int tnmi_door_fill_tables(tnm_ctx *ctx) {
    tnmi_table *table;
    for (uint32_t i = 0; (table = tnmi_door_each_table(ctx, i)) != NULL; i++) {
        if (!tnmi_door_fill_table(ctx, table)) return 0;
    }
    return 1;
}

static uint64_t tnmi_door_ring_bytes(const tnmi_engine *e) {
    return (uint64_t)e->tell.capacity * sizeof(tnmi_tell_item);
}

static uint64_t tnmi_door_stage_links(const tnmi_engine *e) {
    uint64_t bytes;
    return tnmi_base_mul(e->move.stage_links, sizeof(uint32_t), &bytes) ? bytes : UINT64_MAX;
}

/* UINT32_MAX slots are too many, whoever's queue_depth it was. */
static uint64_t tnmi_door_slots(uint64_t slots) {
    return slots < UINT32_MAX ? slots * sizeof(tnmi_copy) : UINT64_MAX;
}

/* Everything but the context itself goes back. */
static TNMI_RARE void tnmi_door_free_all(tnm_ctx *ctx) {
    tnmi_engine *e = &ctx->e;
    tnmi_table *table;
    for (uint32_t i = 0;
         e->tiers.tier && e->tensors.on && (table = tnmi_door_each_table(ctx, i)) != NULL; i++) {
        while (table->capacity) {
            uint64_t bytes;
            void *chunk = tnmi_store_shed(table, &bytes);
            tnmi_door_give(&ctx->desc, chunk, bytes);
        }
    }
    tnmi_door_give(&ctx->desc, e->tell.ring, tnmi_door_ring_bytes(e));
    tnmi_door_give(&ctx->desc, e->move.copy, tnmi_door_slots(e->move.copies));
    tnmi_door_give(&ctx->desc, e->move.stage_next, tnmi_door_stage_links(e));
    tnmi_door_give(&ctx->desc, e->tensors.on, e->tiers.count * sizeof(tnmi_residents));
    tnmi_door_give(&ctx->desc, e->tiers.tier, e->tiers.count * sizeof(tnmi_tier));
}

/* Staging is likely: a strict granularity, two foreign backends, or plain memory between them. */
static void tnmi_door_init_staging(tnm_ctx *ctx) {
    tnmi_engine *e = &ctx->e;
    uint32_t own = 0;
    e->stage_wish = ctx->desc.staging_tier ? (uint32_t)ctx->desc.staging_tier + 1 : 0;
    e->move.stage_most = ctx->desc.staging_bytes ? ctx->desc.staging_bytes : (uint64_t)16 << 20;
    e->move.stage_links = tnmi_base_max(e->move.stage_most / e->move.chunk, 4);
    for (uint32_t t = 0; t < e->tiers.count; t++)
        own += (uint32_t)e->tiers.tier[t].own_backend;
    e->stage_likely = e->stage_wish || e->strict || own >= 2 || (own > 0 && e->tiers.count > 2);
    if (e->stage_likely) tnmi_engine_set_aside(e);
}

static TNMI_RARE int tnmi_door_init_memory(tnm_ctx *ctx) {
    tnmi_engine *e = &ctx->e;
    uint64_t slots = 8;
    uint32_t tiers = (uint32_t)ctx->desc.tier_count;
    e->tiers.tier = (tnmi_tier *)tnmi_door_take(&ctx->desc, tiers * sizeof(tnmi_tier));
    e->tensors.on = (tnmi_residents *)tnmi_door_take(&ctx->desc, tiers * sizeof(tnmi_residents));
    if (!e->tiers.tier || !e->tensors.on) return 0;
    for (uint32_t t = 0; t < tiers; t++)
        tnmi_door_init_tier(ctx, t);
    tnmi_door_init_below(e);
    tnmi_door_init_tables(ctx);
    for (uint32_t t = 0; t < tiers; t++)
        slots += e->tiers.tier[t].desc.queue_depth;
    e->move.chunk = ctx->desc.chunk_bytes ? ctx->desc.chunk_bytes : (uint64_t)4 << 20;
    e->guess_bytes = ctx->desc.guess_bytes ? ctx->desc.guess_bytes : 2 * e->move.chunk;
    tnmi_door_init_staging(ctx);
    e->tell.capacity = ctx->desc.trace ? 4096 : 64;
    tnmi_copy *copy = (tnmi_copy *)tnmi_door_take(&ctx->desc, tnmi_door_slots(slots));
    e->move.stage_next = (uint32_t *)tnmi_door_take(&ctx->desc, tnmi_door_stage_links(e));
    e->tell.ring = (tnmi_tell_item *)tnmi_door_take(&ctx->desc, tnmi_door_ring_bytes(e));
    if (copy) tnmi_move_slots(&e->move, copy, (uint32_t)slots);
    return copy && e->move.stage_next && e->tell.ring && tnmi_door_fill_tables(ctx);
}

static TNMI_RARE void tnmi_door_init_engine(tnm_ctx *ctx) {
    tnmi_engine *e = &ctx->e;
    e->tiers.count = e->tensors.tiers = (uint32_t)ctx->desc.tier_count;
    e->tiers.todo_head = TNMI_NONE;
    tnmi_tensor_set_tag(&e->tensors, ctx->desc.tag);
    e->tensors.last_region = TNMI_NONE;
    e->oldest_request = e->newest_request = TNMI_NONE;
    e->grain = 1;
    e->clock = (uint64_t)1 << 48; /* keys lie before it */
    e->round = 1;
    e->has_passed = ctx->desc.passed != NULL;
    e->tell.events = ctx->desc.trace != NULL;
    for (int i = 0; i < TNMI_BUCKETS; i++)
        e->bucket[i] = TNMI_NONE;
    for (int i = 0; i < TNMI_QUEUES; i++)
        e->fence_head[i] = e->fence_tail[i] = TNMI_NONE;
#    if defined(NDEBUG) || defined(TENSORMEM_NO_STDIO)
    e->tell.logs = ctx->desc.log != NULL;
#    else
    e->tell.logs = 1;
#    endif
#    ifdef TENSORMEM_THREADS
    ctx->own_lock = ctx->desc.lock == NULL;
#    endif
    e->threaded = ctx->own_lock || ctx->desc.lock != NULL;
    ctx->by_lock = ctx->shut = (uint32_t)(e->tell.events || (!TNMI_ATOMICS && e->threaded));
}

/* Tiers with a budget on the context's allocator take their segments now, so that nothing is
 * allocated after create. */
static tnm_result tnmi_door_first_segments(tnm_ctx *ctx) {
    tnmi_engine *e = &ctx->e;
    for (uint32_t t = 0; ctx->desc.max_tensors && t < e->tiers.count; t++) {
        tnmi_tier *tier = &e->tiers.tier[t];
        if (tier->own_backend || tier->budget == UINT64_MAX ||
            tier->desc.segment_bytes == TNM_DEDICATED)
            continue;
        while (tnmi_tier_room(tier) >= tier->granule + tier->set_aside) {
            tnm_result r = tnmi_engine_want_segment(e, t, tier->granule, NULL, 0);
            if (r == TNM_ABSENT) {
                tnmi_door_grow(ctx);
                continue;
            }
            if (r != TNM_PENDING) break;
            uint64_t reserved = tier->reserved;
            tnmi_door_drive(ctx, 0, 0);
            if (tier->reserved < reserved && tier->refused <= tier->granule * 2)
                return TNM_ERR_MEMORY;
        }
    }
    return TNM_OK;
}

#    ifdef TENSORMEM_THREADS
static void tnmi_door_pump_loop(void *of) {
    tnm_ctx *ctx = (tnm_ctx *)of;
    uint64_t rounds = 0;
    tnmi_door_lock(ctx);
    while (!ctx->stop_pump) {
        int worked = 0;
        if (!ctx->driving) {
            ctx->driving = 1;
            worked = tnmi_door_drive(ctx, TNM_ALL, 0);
            ctx->driving = 0;
            tnmi_door_tell(ctx);
            tnmi_door_hand_on(ctx);
        }
        if (worked || ctx->stop_pump) continue;
        if (ctx->driving || ctx->e.move.used == 0)
            tnmi_door_sleep(ctx, &rounds);
        else
            tnmi_door_pause(ctx, 1);
    }
    tnmi_door_unlock(ctx);
}
#    endif

/* The locks; 0 = the system has none left. */
static int tnmi_door_init_locks(tnm_ctx *ctx) {
#    ifdef TENSORMEM_THREADS
    if (!tnmi_base_mutex(&ctx->mutex)) return 0;
    if (tnmi_base_mutex(&ctx->anteroom)) {
        if (tnmi_base_mutex(&ctx->asleep)) {
            if (tnmi_base_bell(&ctx->bell)) return 1;
            tnmi_base_end_mutex(&ctx->asleep);
        }
        tnmi_base_end_mutex(&ctx->anteroom);
    }
    tnmi_base_end_mutex(&ctx->mutex);
    return 0;
#    else
    (void)ctx;
    return 1;
#    endif
}

static void tnmi_door_end_locks(tnm_ctx *ctx) {
#    ifdef TENSORMEM_THREADS
    tnmi_base_end_bell(&ctx->bell);
    tnmi_base_end_mutex(&ctx->asleep);
    tnmi_base_end_mutex(&ctx->anteroom);
    tnmi_base_end_mutex(&ctx->mutex);
#    else
    (void)ctx;
#    endif
}

static int tnmi_door_start_threads(tnm_ctx *ctx) {
    if (!tnmi_door_init_locks(ctx)) return 0;
#    ifdef TENSORMEM_THREADS
    ctx->pumping = ctx->desc.pump_thread;
    if (!ctx->pumping || tnmi_base_start(&ctx->thread, tnmi_door_pump_loop, ctx)) return 1;
    ctx->pumping = 0;
    tnmi_door_end_locks(ctx);
    return 0;
#    else
    return 1;
#    endif
}

static void tnmi_door_stop_pump(tnm_ctx *ctx) {
#    ifdef TENSORMEM_THREADS
    if (!ctx->pumping) return;
    ctx->stop_pump = 1;
    tnmi_door_wake(ctx, 1);
    tnmi_door_unlock(ctx);
    tnmi_base_join(&ctx->thread);
    tnmi_door_lock(ctx);
    ctx->pumping = 0;
#    else
    (void)ctx;
#    endif
}

/* There is no context yet to queue the item. */
static void tnmi_door_reject_desc(const tnm_desc *desc, const char *rule) {
    tnm_log log;
    memset(&log, 0, sizeof log);
    log.level = TNM_LOG_ERROR;
    log.result = TNM_ERR_ARGUMENT;
    log.call = "tnm_create";
    log.rule = rule;
    log.tier = -1;
    if (desc->log)
        (desc->log)(desc->user, &log);
    else
        tnmi_door_print(&log);
}

TENSORMEM_API tnm_result tnm_create(const tnm_desc *desc, tnm_ctx **out) {
    if (!out) return TNM_ERR_ARGUMENT;
    *out = NULL;
    if (!desc) return TNM_ERR_ARGUMENT;
    tnm_desc copy = *desc;
    const char *rule = tnmi_door_check_desc(&copy);
    if (rule) {
        tnmi_door_reject_desc(&copy, rule);
        return TNM_ERR_ARGUMENT;
    }
    if (!copy.alloc) {
        copy.alloc = tnmi_door_malloc;
        copy.release = tnmi_door_free;
    }
    tnm_ctx *ctx = (tnm_ctx *)tnmi_door_take(&copy, sizeof *ctx);
    if (!ctx) return TNM_ERR_MEMORY;
    ctx->desc = copy;
    ctx->host.alloc = desc->alloc; /* the room knows what to ask of malloc's memory */
    ctx->host.release = desc->release;
    ctx->host.user = desc->user;
    tnmi_door_init_engine(ctx);
    if (!tnmi_door_init_memory(ctx) || !tnmi_door_start_threads(ctx)) {
        tnmi_door_free_all(ctx);
        tnmi_door_give(&copy, ctx, sizeof *ctx);
        return TNM_ERR_MEMORY;
    }
    tnmi_door_enter(ctx);
    tnm_result r = tnmi_door_table(ctx, &ctx->e.tensors.names, 1, "tnm_create");
    if (r == TNM_OK) {
        tnmi_store_take(&ctx->e.tensors.names); /* slot 0 names nothing */
        tnmi_store_retire(&ctx->e.tensors.names);
        ctx->driving = 1;
        r = tnmi_door_first_segments(ctx);
        ctx->driving = 0;
    }
    ctx->desc.tiers = NULL;
    tnmi_door_leave(ctx, r);
    if (r != TNM_OK)
        tnm_destroy(ctx);
    else
        *out = ctx;
    return r;
}

static int tnmi_door_is_pinned(tnm_ctx *ctx) {
    for (uint32_t t = 0; t < ctx->e.tiers.count; t++)
        for (uint32_t at = 0; at < ctx->e.tensors.on[t].replicas.fresh; tnmi_door_breath(ctx))
            if (tnmi_engine_is_pinned(&ctx->e, t, &at)) return 1;
    return 0;
}

TENSORMEM_API tnm_result tnm_destroy(tnm_ctx *ctx) {
    uint64_t rounds = 0;
    int done;
    if (!tnmi_door_begin(ctx, "tnm_destroy", NULL)) return TNM_ERR_ARGUMENT;
    if (tnmi_door_is_pinned(ctx)) {
        tnmi_door_refuse(ctx, TNM_ERR_BUSY, "tnm_destroy", "a pin is held");
        return tnmi_door_leave(ctx, TNM_ERR_BUSY);
    }
    tnmi_door_stop_pump(ctx);
    while (!tnmi_engine_begin_close(&ctx->e))
        tnmi_door_breath(ctx);
    while ((done = tnmi_engine_finish_close(&ctx->e)) != 1)
        if (done < 0) {
            tnmi_door_breath(ctx);
        } else if (!tnmi_door_turn(ctx, &rounds, 0)) {
            ctx->e.closing = 0; /* idle gave up: the context lives on */
            return tnmi_door_leave(ctx, TNM_PENDING);
        }
    tnmi_door_tell(ctx);
    tnmi_door_unlock(ctx);
    tnmi_door_end_locks(ctx);
    tnm_desc desc = ctx->desc;
    tnmi_door_free_all(ctx);
    tnmi_door_give(&desc, ctx, sizeof *ctx);
    return TNM_OK;
}

/* ---- validation ---- */
/* The slot a handle names, or TNMI_NONE after a log item. Under the lock. */
static uint32_t tnmi_door_find(tnm_ctx *ctx, tnm_tensor tensor, const char *call, tnm_result *r) {
    uint32_t name = tnmi_tensor_find(&ctx->e.tensors, tensor.id, r);
    if (name != TNMI_NONE)
        *r = TNM_OK;
    else
        tnmi_door_refuse(ctx, *r, call,
                         *r == TNM_ERR_STALE ? "the tensor was destroyed"
                                             : "the handle is none of this context's");
    return name;
}

/* The content behind it. */
static uint32_t tnmi_door_content(tnm_ctx *ctx, tnm_tensor tensor, const char *call,
                                  tnm_result *r) {
    uint64_t offset;
    uint32_t name = tnmi_door_find(ctx, tensor, call, r);
    if (name == TNMI_NONE) return TNMI_NONE;
    return tnmi_tensor_content(&ctx->e.tensors, name, &offset);
}

static const char *tnmi_door_check_tier(const tnm_ctx *ctx, int tier) {
    return tier >= 0 && ctx && tier < (int)ctx->e.tiers.count ? NULL
                                                              : "tier is not one of the context's";
}

/* A set of uses: handles, tiers, accesses. Under the lock. */
static tnm_result tnmi_door_check_set(tnm_ctx *ctx, const tnm_use *set, int count,
                                      const char *call) {
    tnm_result r;
    for (int i = 0; i < count; i++) {
        const char *rule = tnmi_door_check_tier(ctx, set[i].tier);
        if (rule) return tnmi_door_refuse(ctx, TNM_ERR_ARGUMENT, call, rule);
        if ((int)set[i].access < TNM_READ || (int)set[i].access > TNM_DISCARD)
            return tnmi_door_refuse(ctx, TNM_ERR_ARGUMENT, call, "access is none of tnm_access");
        if (set[i].flags & ~(uint32_t)(TNM_IF_READY | TNM_SURE))
            return tnmi_door_refuse(ctx, TNM_ERR_ARGUMENT, call, "flags has an unknown bit");
        if (tnmi_door_find(ctx, set[i].tensor, call, &r) == TNMI_NONE) return r;
    }
    return TNM_OK;
}

/* Common to all calls with an array. NULL = fine, else the rule. */
static const char *tnmi_door_check_array(const void *array, int count) {
    if (count < 0 || (count > 0 && !array)) return "count is negative, or the array is missing";
    return NULL;
}

/* ---- tensors ---- */
/* Room for one more name. */
static tnm_result tnmi_door_name_room(tnm_ctx *ctx, const char *call) {
    tnmi_engine *e = &ctx->e;
    const tnmi_table *habits = &e->hints.learned.habits;
    tnm_result r = tnmi_door_table(ctx, &e->tensors.names, 1, call);
    while (r == TNM_OK && e->hints.learned.on && habits->capacity < e->tensors.names.capacity) {
        r = tnmi_door_table(ctx, &e->hints.learned.habits, habits->capacity + 1, call);
        if (r == TNM_OK) r = tnmi_door_table(ctx, &e->tensors.names, 1, call);
    }
    return r;
}

/* A new name with what its descriptor says; its flags are complete, its content is not. */
static tnm_result tnmi_door_new_name(tnm_ctx *ctx, const tnm_tensor_desc *desc, uint64_t bytes,
                                     int rank, const char *call, uint32_t *out) {
    tnmi_engine *e = &ctx->e;
    tnm_result r = tnmi_door_name_room(ctx, call);
    if (r != TNM_OK) return r;
    *out = tnmi_tensor_new(&e->tensors);
    if (e->hints.learned.on) memset(tnmi_hint_habit(&e->hints, *out), 0, sizeof(tnmi_habit));
    tnmi_tensor *tensor = tnmi_tensor_at(&e->tensors, *out);
    tnmi_base_poke64(&tensor->bytes, bytes);
    tensor->label = desc->label;
    tensor->user = desc->user;
    tnmi_tensor_set_flags(tensor,
                          TNMI_NAMED | (uint32_t)desc->dtype << TNMI_DTYPE_SHIFT |
                              desc->advice << TNMI_ADVICE_SHIFT,
                          ~(uint32_t)0);
    tnmi_tensor_keep_shape(tensor, desc, rank);
    return TNM_OK;
}

static const char *tnmi_door_check_advice(uint32_t advice) {
    return advice & ~(uint32_t)(3 | TNM_DROPPABLE | TNM_SCRUB) ? "advice has an unknown bit" : NULL;
}

/* What a descriptor says about size, or the rule it breaks. */
static const char *tnmi_door_measure(const tnm_tensor_desc *desc, uint64_t *bytes, int *rank) {
    *bytes = 0;
    *rank = 0;
    if (!desc) return "an argument is NULL";
    const char *rule = tnmi_tensor_shape(desc, rank, bytes);
    if (!rule) rule = tnmi_door_check_advice(desc->advice);
    if (rule) return rule;
    if (*rank > 0 && desc->bytes && desc->bytes != *bytes)
        return "bytes do not agree with the shape";
    if (*rank == 0) *bytes = desc->bytes;
    if (*bytes == 0) return "a tensor has at least one byte";
    return *bytes > INT64_MAX ? "bytes overflow" : NULL;
}

TENSORMEM_API tnm_result tnm_tensor_create(tnm_ctx *ctx, const tnm_tensor_desc *desc,
                                           tnm_tensor *out) {
    static const char call[] = "tnm_tensor_create";
    uint64_t bytes;
    int rank;
    uint32_t name;
    if (out) out->id = 0;
    const char *rule = tnmi_door_measure(out ? desc : NULL, &bytes, &rank);
    if (!tnmi_door_begin(ctx, call, rule)) return TNM_ERR_ARGUMENT;
    tnm_result r = tnmi_door_new_name(ctx, desc, bytes, rank, call, &name);
    if (r == TNM_OK) out->id = tnmi_tensor_id(&ctx->e.tensors, name);
    return tnmi_door_leave(ctx, r);
}

/* Room for a name, a record and a region, all at once: while a table grows other threads take from
 * those that were looked at before. Nor does the tier lose its memory then, or the range would go
 * with what was lost before it came. */
static tnm_result tnmi_door_adopt_room(tnm_ctx *ctx, uint32_t tier, const char *call) {
    tnmi_engine *e = &ctx->e;
    tnm_result r;
    uint64_t changed;
    do {
        while (e->tiers.tier[tier].losing && tnmi_engine_lose_some(e))
            tnmi_door_breath(ctx);
        changed = e->changed; /* by every table that grows */
        r = tnmi_door_name_room(ctx, call);
        if (r == TNM_OK) r = tnmi_door_table(ctx, &e->tensors.on[tier].replicas, 1, call);
        if (r == TNM_OK) r = tnmi_door_table(ctx, &e->tensors.regions, 1, call);
    } while (r == TNM_OK && changed != e->changed);
    return r;
}

/* The adopted range becomes the content's replica: READY, alone, outside every segment. */
static void tnmi_door_adopt(tnmi_engine *e, uint32_t name, const tnm_adopt_desc *adopt) {
    uint32_t tier = (uint32_t)adopt->tier;
    uint32_t index = tnmi_tensor_place(&e->tensors, name, tier, TNMI_NONE);
    tnmi_replica *replica = tnmi_tensor_replica(&e->tensors, tier, index);
    replica->segment = tnmi_tensor_adopt(&e->tensors, adopt);
    int by_host = (int)tnmi_tensor_region(&e->tensors, replica->segment)->by_host;
    tnmi_base_poke64(&replica->stamp, by_host ? (uint64_t)(uintptr_t)adopt->host : adopt->offset);
    tnmi_tensor_mark(replica, TNMI_READY, TNMI_BUSY);
    tnmi_tensor_set_alone(&e->tensors, name);
}

TENSORMEM_API tnm_result tnm_tensor_adopt(tnm_ctx *ctx, const tnm_tensor_desc *desc,
                                          const tnm_adopt_desc *adopt, tnm_tensor *out) {
    static const char call[] = "tnm_tensor_adopt";
    uint64_t bytes, end;
    int rank;
    uint32_t name;
    if (out) out->id = 0;
    if (!ctx) return TNM_ERR_ARGUMENT;
    const char *rule = tnmi_door_measure(adopt && out ? desc : NULL, &bytes, &rank);
    if (!rule) rule = tnmi_door_check_tier(ctx, adopt->tier);
    if (!rule && !tnmi_base_add(adopt->offset, bytes, &end)) rule = "the range overflows";
    if (!rule && !adopt->host && !ctx->e.tiers.tier[adopt->tier].own_backend)
        rule = "memory of a tier on the context's allocator needs its host address";
    if (!rule && (desc->advice & TNM_SCRUB)) rule = "adopted memory is not ours to scrub";
    if (!tnmi_door_begin(ctx, call, rule)) return TNM_ERR_ARGUMENT;
    tnm_result r = tnmi_door_adopt_room(ctx, (uint32_t)adopt->tier, call);
    if (r == TNM_OK) r = tnmi_door_new_name(ctx, desc, bytes, rank, call, &name);
    if (r == TNM_OK) {
        tnmi_door_adopt(&ctx->e, name, adopt);
        out->id = tnmi_tensor_id(&ctx->e.tensors, name);
    }
    return tnmi_door_leave(ctx, r);
}

TENSORMEM_API tnm_result tnm_tensor_view(tnm_ctx *ctx, tnm_tensor of, uint64_t offset,
                                         const tnm_tensor_desc *desc, tnm_tensor *out) {
    static const char call[] = "tnm_tensor_view";
    uint64_t bytes, end, base;
    int rank;
    uint32_t name;
    tnm_result r;
    if (out) out->id = 0;
    const char *rule = tnmi_door_measure(out ? desc : NULL, &bytes, &rank);
    if (!tnmi_door_begin(ctx, call, rule)) return TNM_ERR_ARGUMENT;
    tnmi_engine *e = &ctx->e;
    uint32_t whole = tnmi_door_find(ctx, of, call, &r);
    if (r == TNM_OK &&
        (!tnmi_base_add(offset, bytes, &end) || end > tnmi_tensor_at(&e->tensors, whole)->bytes))
        r = tnmi_door_refuse(ctx, TNM_ERR_ARGUMENT, call, "the view leaves its tensor");
    if (r == TNM_OK) r = tnmi_door_new_name(ctx, desc, bytes, rank, call, &name);
    tnm_result still;
    if (r == TNM_OK && tnmi_tensor_find(&e->tensors, of.id, &still) != whole) {
        tnmi_tensor_unname(tnmi_tensor_at(&e->tensors, name)); /* destroyed while a table grew */
        tnmi_tensor_delete(&e->tensors, name);
        r = still;
    } else if (r == TNM_OK) {
        uint32_t content = tnmi_tensor_content(&e->tensors, whole, &base);
        tnmi_tensor_at(&e->tensors, content)->refs++;
        tnmi_base_store32(tnmi_tensor_rep(&e->tensors, name, 0), content);
        tnmi_base_store32(tnmi_tensor_rep(&e->tensors, name, 1), (uint32_t)(base + offset));
        tnmi_base_store32(tnmi_tensor_rep(&e->tensors, name, 2), (uint32_t)((base + offset) >> 32));
        tnmi_tensor_set_flags(tnmi_tensor_at(&e->tensors, name), TNMI_VIEW, 0);
        out->id = tnmi_tensor_id(&e->tensors, name);
    }
    return tnmi_door_leave(ctx, r);
}

TENSORMEM_API tnm_result tnm_tensor_destroy(tnm_ctx *ctx, tnm_tensor tensor) {
    tnm_result r;
    if (!tnmi_door_begin(ctx, "tnm_tensor_destroy", NULL)) return TNM_ERR_ARGUMENT;
    uint32_t name = tnmi_door_find(ctx, tensor, "tnm_tensor_destroy", &r);
    if (name != TNMI_NONE) tnmi_engine_destroy(&ctx->e, name);
    return tnmi_door_leave(ctx, r);
}

/* ---- pins ---- */
/* Of an adopted one; out->offset says where in the content the name begins. */
static TNMI_APART tnm_result tnmi_door_adopted(const tnmi_engine *e, const tnmi_replica *replica,
                                               tnm_pinned *out) {
    const tnmi_region *region = tnmi_tensor_region(&e->tensors, replica->segment);
    uint64_t stamp = tnmi_base_peek64(&replica->stamp), offset = out->offset;
    out->mem = region->mem;
    out->offset = region->by_host ? offset : stamp + offset;
    out->host = NULL;
    if (region->by_host)
        out->host = (char *)(uintptr_t)stamp + (size_t)offset;
    else if (region->base)
        out->host = (char *)(region->base + (uintptr_t)out->offset);
    return TNM_OK;
}

static TNMI_INLINE void tnmi_door_placed(const tnmi_engine *e, const tnmi_replica *replica,
                                         uint64_t offset, tnm_pinned *out) {
    const tnmi_segment *segment = (const tnmi_segment *)tnmi_store_of(
        &e->tiers.segments, replica->segment, sizeof(tnmi_segment));
    char *host = (char *)segment->host;
    uint64_t mem = segment->mem;
    offset += replica->offset * segment->unit;
    out->host = host ? host + (size_t)offset : NULL;
    out->mem = mem;
    out->offset = offset;
}

/* Where a pinned replica's bytes are. It is pinned: its place fields are constant. */
static void tnmi_door_address(const tnmi_engine *e, const tnmi_replica *replica, uint64_t offset,
                              tnm_pinned *out) {
    out->offset = offset;
    if (replica->node == TNMI_NONE)
        tnmi_door_adopted(e, replica, out);
    else
        tnmi_door_placed(e, replica, offset, out);
}

/* The last pin of something that only waits for it has gone. */
static TNMI_APART void tnmi_door_last_pin(tnm_ctx *ctx, uint32_t tier, uint32_t index,
                                          uint64_t before, int locked) {
    if (!locked) tnmi_door_lock(ctx);
    tnmi_engine_unpinned(&ctx->e, tier, index, before);
    if (!locked) tnmi_door_unlock(ctx);
}

static TNMI_INLINE int tnmi_door_was_last(uint64_t before) {
    return before & TNMI_NOTIFY && tnmi_tensor_pins(before) == 1;
}

/* Let one pin go; 0 = there was none. */
static int tnmi_door_release_pin(tnm_ctx *ctx, tnmi_replica *replica, uint32_t tier, uint32_t index,
                                 tnm_access access, int locked) {
    uint64_t before = tnmi_tensor_unpin(replica, access);
    if (tnmi_door_was_last(before)) tnmi_door_last_pin(ctx, tier, index, before, locked);
    return tnmi_tensor_pins(before) > 0;
}

/* What a pin without the lock came to. */
typedef enum tnmi_door_luck {
    TNMI_DOOR_MISS,  /* not to be had like this, the slow path tells why */
    TNMI_DOOR_HIT,   /* pinned; its address is still to be written */
    TNMI_DOOR_AGAIN, /* look once more, at leisure: a view, or another thread was faster */
    TNMI_DOOR_UNDO   /* pinned, but the record was another's by then */
} tnmi_door_luck;

/* Pin a content that was looked up, under its name, without the lock: the way of every hit. The
 * order of the steps is argued in [tensor]. `once`: leave it if another thread is faster, so that
 * the usual way has no loop in it. */
static TNMI_INLINE tnmi_door_luck tnmi_door_pin_one(tnm_ctx *ctx, const tnm_use *use,
                                                    tnm_pinned *out, const tnmi_tensor *name,
                                                    const tnmi_tensor *content, int once,
                                                    tnmi_replica **pinned, uint64_t *offset) {
    const tnmi_tensors *tensors = &ctx->e.tensors;
    uint32_t tier = (uint32_t)use->tier;
    const uint32_t *rep = tnmi_tensor_rep_of(content, tier);
    const tnmi_residents *on = &tensors->on[tier];
    size_t index = tnmi_base_load32(rep);
    uint64_t word;
    if (index >= (size_t)tnmi_base_load32(&on->replicas.fresh)) return TNMI_DOOR_MISS;
    tnmi_replica *replica = tnmi_tensor_replica_of(on, (uint32_t)index);
    TNMI_TEST_HIT();
    int hit = tnmi_tensor_hit(replica, use->access, once, &word);
    if (hit <= 0) return hit ? TNMI_DOOR_AGAIN : TNMI_DOOR_MISS;
    *offset = content == name ? 0 : tnmi_tensor_view_at(name);
    out->id = tnmi_tensor_pin_id(word, (uint32_t)index);
    out->bytes = tnmi_base_load64(&name->bytes);
    out->ready = 0;
    out->tier = use->tier;
    out->access = use->access;
    if ((size_t)tnmi_base_load32(rep) != index || !tnmi_tensor_is_named(name, use->tensor.id))
        return TNMI_DOOR_UNDO;
    *pinned = replica;
    return TNMI_DOOR_HIT;
}

/* It is pinned, and right: it is used now, and its bytes are there. */
static TNMI_INLINE tnm_result tnmi_door_arrive(tnmi_engine *e, tnmi_replica *replica,
                                               uint64_t offset, tnm_pinned *out) {
    uint64_t clock = e->threaded ? tnmi_base_peek64(&e->clock) : ++e->clock;
    if (replica->node == TNMI_NONE) {
        out->offset = offset;
        return tnmi_door_adopted(e, replica, out);
    }
    if (tnmi_base_peek64(&replica->stamp) != clock) tnmi_base_poke64(&replica->stamp, clock);
    tnmi_door_placed(e, replica, offset, out);
    return TNM_OK;
}

/* The slot of the name a use wants pinned; 0: it is none, and the slow path tells why. */
static TNMI_INLINE int tnmi_door_name(const tnm_ctx *ctx, const tnm_use *use,
                                      const tnmi_tensor **name) {
    const tnmi_tensors *tensors = &ctx->e.tensors;
    uint64_t id = use->tensor.id;
    uint32_t index = tnmi_tensor_index(tensors, id);
    if ((uint32_t)use->tier >= tensors->tiers || use->flags & ~(uint32_t)TNM_IF_READY) return 0;
    if (index >= tnmi_base_load32(&tensors->names.fresh)) return 0;
    *name = tnmi_tensor_at(tensors, index);
    return tnmi_tensor_is_named(*name, id);
}

/* Pin one member without the lock, whatever it is. */
static TNMI_APART tnmi_door_luck tnmi_door_hit(tnm_ctx *ctx, const tnm_use *use, tnm_pinned *out) {
    const tnmi_tensor *name, *content;
    tnmi_replica *replica;
    uint64_t offset;
    if (!tnmi_door_name(ctx, use, &name)) return TNMI_DOOR_MISS;
    uint32_t flags = tnmi_base_load32(&name->flags);
    content = name;
    if (flags & TNMI_VIEW) {
        content = tnmi_tensor_slot(&ctx->e.tensors, tnmi_base_load32(tnmi_tensor_rep_of(name, 0)));
        if (!content) return TNMI_DOOR_MISS;
        flags = tnmi_base_load32(&content->flags);
    } else if (!(flags & TNMI_NAMED))
        return TNMI_DOOR_MISS;
    if (flags & TNMI_LEAVES) return TNMI_DOOR_MISS;
    tnmi_door_luck luck = tnmi_door_pin_one(ctx, use, out, name, content, 0, &replica, &offset);
    if (luck == TNMI_DOOR_HIT) tnmi_door_arrive(&ctx->e, replica, offset, out);
    return luck;
}

/* A hit taken back: neither pinned nor counted. */
static void tnmi_door_unhit(tnm_ctx *ctx, tnm_pinned *pinned, int locked) {
    uint32_t index = (uint32_t)pinned->id, tier = (uint32_t)pinned->tier;
    tnmi_replica *replica = tnmi_tensor_replica(&ctx->e.tensors, tier, index);
    uint64_t word = tnmi_base_peek64(&replica->word);
    while ((word >> 32) & 0xffffu)
        if (tnmi_base_swap64(&replica->word, &word, word - TNMI_HIT)) break;
    tnmi_door_release_pin(ctx, replica, tier, index, pinned->access, locked);
}

/* All members by hits, or none. */
static int tnmi_door_hit_all(tnm_ctx *ctx, const tnm_use *set, int count, tnm_pinned *out,
                             int locked) {
    tnmi_door_luck luck = TNMI_DOOR_HIT;
    int i = 0;
    while (i < count && (luck = tnmi_door_hit(ctx, &set[i], &out[i])) == TNMI_DOOR_HIT)
        i++;
    if (luck == TNMI_DOOR_HIT) return 1;
    if (!ctx->e.threaded) ctx->e.clock -= (uint64_t)i; /* nothing was pinned: ages are in pins */
    for (i += luck == TNMI_DOOR_UNDO; i > 0; i--)
        tnmi_door_unhit(ctx, &out[i - 1], locked);
    return 0;
}

static inline void tnmi_door_complete(tnm_ctx *ctx, tnm_pinned *out, int count) {
    for (int i = 0; i < count; i++) {
        uint64_t offset = out[i].offset;
        uint32_t tier = (uint32_t)out[i].tier;
        const tnmi_replica *replica =
            tnmi_tensor_replica(&ctx->e.tensors, tier, (uint32_t)out[i].id);
        tnmi_door_address(&ctx->e, replica, offset, &out[i]);
    }
}

/* Are the handles good still? While a call waited another thread may have destroyed one whose
 * content has further names, and lives on. ABSENT: it has written what was to be written first, or
 * is at it. */
static tnm_result tnmi_door_are_named(const tnm_ctx *ctx, const tnm_use *set, int count) {
    const tnmi_tensors *tensors = &ctx->e.tensors;
    tnm_result why = TNM_OK;
    for (int i = 0; i < count; i++) {
        uint64_t offset;
        uint32_t name = tnmi_tensor_find(tensors, set[i].tensor.id, &why);
        if (name == TNMI_NONE) return why;
        if (!(set[i].flags & TNMI_WHOLE)) continue;
        uint32_t content = tnmi_tensor_content(tensors, name, &offset);
        int framed = (tnmi_tensor_at(tensors, content)->flags & TNMI_FRAMED) != 0;
        if ((framed && set[i].access != TNM_READ) ||
            ((set[i].flags & TNMI_FIRST) && !tnmi_tensor_is_empty(tensors, content)))
            return TNM_ABSENT;
    }
    return TNM_OK;
}

/* Asks until no table has to grow. While one does another thread may end what a try_ call asks for:
 * its request is TNMI_NONE then, and the next call asks anew. */
static tnm_result tnmi_door_ask(tnm_ctx *ctx, uint32_t *request, const tnm_use *set, int count,
                                tnm_pinned *out) {
    tnmi_engine *e = &ctx->e;
    uint64_t age = tnmi_engine_request(e, *request)->age;
    for (;;) {
        if (e->losing) tnmi_engine_lose_members(e, *request);
        tnm_result r = tnmi_engine_ask_request(e, *request, set, count, out);
        if (r == TNM_OK) tnmi_door_complete(ctx, out, count);
        if (r != TNM_ABSENT) return r;
        tnmi_door_grow(ctx);
        if (tnmi_engine_request(e, *request)->age != age) *request = TNMI_NONE;
        r = tnmi_door_are_named(ctx, set, count);
        if (r != TNM_OK) return r;
        if (*request == TNMI_NONE) return TNM_PENDING;
    }
}

static tnm_result tnmi_door_new_request(tnm_ctx *ctx, const tnm_use *set, int count, int calling,
                                        uint32_t *out) {
    tnm_result r;
    while ((r = tnmi_engine_new_request(&ctx->e, set, count, calling, out)) == TNM_ABSENT) {
        tnmi_door_grow(ctx);
        r = tnmi_door_are_named(ctx, set, count);
        if (r != TNM_OK) return r;
    }
    return r;
}

/* Is every member here, so that nothing would have to be started? `hit`: and free to be pinned
 * without a request, whatever one was answered before? */
static int tnmi_door_all_here(tnm_ctx *ctx, const tnm_use *set, int count, int hit) {
    if (hit && ctx->e.tell.events) return 0;
    for (int i = 0; i < count; i++) {
        uint32_t content = tnmi_engine_target(&ctx->e, &set[i]).content;
        const tnmi_replica *replica = tnmi_engine_on(&ctx->e, content, (uint32_t)set[i].tier);
        if (!tnmi_tensor_is_ready(replica)) return 0;
        if (!hit) continue;
        if (tnmi_engine_content(&ctx->e, content)->flags & TNMI_LEAVES) return 0;
        if (set[i].flags & ~(uint32_t)TNM_IF_READY) return 0;
        if (!tnmi_tensor_may_hit(tnmi_base_peek64(&replica->word), set[i].access)) return 0;
    }
    return 1;
}

static int tnmi_door_if_ready(const tnm_use *set, int count) {
    for (int i = 0; i < count; i++)
        if (set[i].flags & TNM_IF_READY) return 1;
    return 0;
}

/* A refusal in words, with its numbers. */
static void tnmi_door_log_refusal(tnm_ctx *ctx, tnm_result r, const char *call) {
    const tnmi_engine *e = &ctx->e;
    if (r != TNM_ERR_BUDGET) return;
    tnm_log *log = tnmi_tell_log(&ctx->e.tell, TNM_LOG_INFO, r,
                                 "cannot fit beside the pins held now; tnm_why has the numbers");
    if (!log) return;
    log->call = call;
    log->tier = (int)e->last.tier;
    log->need = e->last.need;
    if (e->last.tier < e->tiers.count) log->have = e->tiers.tier[e->last.tier].budget;
}

/* The slow path of both pins, for a set that was checked. waits: a blocking call. */
static tnm_result tnmi_door_pin(tnm_ctx *ctx, const tnm_use *set, int count, tnm_pinned *out,
                                int waits, const char *call) {
    tnmi_engine *e = &ctx->e;
    uint32_t request = TNMI_NONE;
    uint64_t rounds = 0;
    int only_here = tnmi_door_if_ready(set, count);
    tnm_result r;
    if (!waits) request = tnmi_engine_find_request(e, tnmi_engine_hash(set, count));
    if (only_here && !tnmi_door_all_here(ctx, set, count, 0)) return TNM_ABSENT;
    if (request == TNMI_NONE && count == 1 && tnmi_engine_build(e, set, out) == TNM_OK) {
        tnmi_door_complete(ctx, out, 1);
        return TNM_OK;
    }
    if (request == TNMI_NONE) {
        r = tnmi_door_new_request(ctx, set, count, waits, &request);
        if (r == TNM_OK && only_here && !tnmi_door_all_here(ctx, set, count, 0)) {
            tnmi_engine_end_request(e, request); /* it left while a table grew */
            return TNM_ABSENT;
        }
        if (r != TNM_OK) {
            if (r == TNM_ERR_CAPACITY)
                tnmi_door_refuse(ctx, r, call, "max_replicas, or one tensor too often in a set");
            if (r == TNM_ERR_ARGUMENT)
                tnmi_door_refuse(ctx, r, call, "one tensor on two tiers of a set, to be written");
            return r;
        }
    } else if (tnmi_engine_request(e, request)->lapse != TNMI_NEVER) {
        tnmi_engine_request(e, request)->lapse = e->tick + TNMI_LAPSE_TICKS;
    }
    if (e->threaded) tnmi_engine_advance(e);
    r = tnmi_door_ask(ctx, &request, set, count, out);
    while (waits && !only_here && r == TNM_PENDING) {
        if (!tnmi_door_turn(ctx, &rounds, 1)) break;
        r = tnmi_door_are_named(ctx, set, count);
        if (r == TNM_OK) r = tnmi_door_ask(ctx, &request, set, count, out);
    }
    if (r == TNM_OK) return r;
    if (r == TNM_PENDING && !waits && !only_here) {
        e->tick++;
        return r;
    }
    if (request != TNMI_NONE) tnmi_engine_end_request(e, request);
    tnmi_door_log_refusal(ctx, r, call);
    return r == TNM_PENDING && only_here ? TNM_ABSENT : r;
}

/* Hits of those for whom it is the lock alone that lets nobody see them. */
static int tnmi_door_hit_locked(tnm_ctx *ctx, const tnm_use *set, int count, tnm_pinned *out) {
    if (!ctx->by_lock || ctx->e.tell.events) return 0;
    if (tnmi_door_hit_all(ctx, set, count, out, 1)) return 1;
    if (count > 0) memset(out, 0, (size_t)count * sizeof *out);
    return 0;
}

/* A set was pinned: it is noted. What does not fit ends no pin; tnm_replay tells of it. */
static void tnmi_door_note(tnm_ctx *ctx, const tnm_pinned *out, int count) {
    tnmi_engine *e = &ctx->e;
    for (uint32_t l = 0; l < TNM_MAX_LANES; l++) {
        const tnmi_lane *lane = &e->hints.lane[l];
        if (!(lane->watch & TNMI_LANE_RECORDS) || (lane->watch & TNMI_LANE_FULL)) continue;
        while (tnmi_engine_table(e, &e->hints.uses, (uint32_t)count) == TNM_ABSENT)
            tnmi_door_grow(ctx);
        if (lane->watch & TNMI_LANE_RECORDS) tnmi_engine_note(e, l, out, count);
    }
}

/* Whatever is no single hit: sets, misses, broken rules. luck: what became of the single one. */
static TNMI_APART tnm_result tnmi_door_pin_call(tnm_ctx *ctx, const tnm_use *set, int count,
                                                tnm_pinned *out, int waits, tnmi_door_luck luck) {
    const char *call = waits ? "tnm_pin" : "tnm_try_pin";
    if (!ctx) return TNM_ERR_ARGUMENT;
    if (luck == TNMI_DOOR_UNDO) tnmi_door_unhit(ctx, out, 0);
    const char *rule = tnmi_door_inside(ctx);
    if (!rule) rule = tnmi_door_check_array(set, count);
    if (!rule && count > 0 && !out) rule = "out is missing";
    if (rule) return tnmi_door_reject(ctx, call, rule);
    if (count != 1 && !tnmi_base_load32(&ctx->by_lock) &&
        tnmi_door_hit_all(ctx, set, count, out, 0))
        return TNM_OK;
    if (count > 0) memset(out, 0, (size_t)count * sizeof *out);
    tnmi_door_enter(ctx);
    uint32_t watching = ctx->e.hints.watching;
    if (!watching && tnmi_door_hit_locked(ctx, set, count, out))
        return tnmi_door_leave(ctx, TNM_OK);
    tnm_result r = tnmi_door_check_set(ctx, set, count, call);
    int asks = watching && tnmi_door_if_ready(set, count); /* no step begins by asking */
    if (r == TNM_OK && watching && !asks) tnmi_engine_follow(&ctx->e, set, count);
    if (r == TNM_OK && (!watching || !tnmi_door_hit_locked(ctx, set, count, out)))
        r = tnmi_door_pin(ctx, set, count, out, waits, call);
    if (r == TNM_OK && watching && asks) tnmi_engine_follow(&ctx->e, set, count);
    if (r == TNM_OK && ctx->e.hints.watching) tnmi_door_note(ctx, out, count);
    return tnmi_door_leave(ctx, r);
}

/* May members be pinned and let go without the lock? */
static TNMI_INLINE int tnmi_door_is_open(const tnm_ctx *ctx) {
    return !tnmi_base_load32(&ctx->shut);
}

static TNMI_APART tnm_result tnmi_door_pin_again(tnm_ctx *ctx, const tnm_use *use, tnm_pinned *out,
                                                 int waits) {
    tnmi_door_luck luck = tnmi_door_hit(ctx, use, out);
    return luck == TNMI_DOOR_HIT ? TNM_OK : tnmi_door_pin_call(ctx, use, 1, out, waits, luck);
}

/* Both pins: a single member that is there is pinned at once. Whatever is called in here is called
 * last, so that a hit saves no registers: every store makes the next read-modify-write wait. */
static TNMI_INLINE tnm_result tnmi_door_pin_set(tnm_ctx *ctx, const tnm_use *set, int count,
                                                tnm_pinned *out, int waits) {
    tnmi_door_luck luck = TNMI_DOOR_MISS;
    const tnmi_tensor *name;
    tnmi_replica *replica;
    uint64_t offset;
    if (!ctx || !set || !out || count != 1 || !tnmi_door_is_open(ctx))
        return tnmi_door_pin_call(ctx, set, count, out, waits, luck);
    if (tnmi_door_name(ctx, set, &name)) {
        uint32_t flags = tnmi_base_load32(&name->flags) & (TNMI_NAMED | TNMI_VIEW | TNMI_LEAVES);
        if (flags == TNMI_NAMED) {
            luck = tnmi_door_pin_one(ctx, set, out, name, name, 1, &replica, &offset);
            if (luck == TNMI_DOOR_HIT) return tnmi_door_arrive(&ctx->e, replica, offset, out);
        } else if (flags & TNMI_VIEW)
            luck = TNMI_DOOR_AGAIN;
        if (luck == TNMI_DOOR_AGAIN) return tnmi_door_pin_again(ctx, set, out, waits);
    }
    return tnmi_door_pin_call(ctx, set, 1, out, waits, luck);
}

TENSORMEM_API tnm_result tnm_pin(tnm_ctx *ctx, const tnm_use *set, int count, tnm_pinned *out) {
    return tnmi_door_pin_set(ctx, set, count, out, 1);
}

TENSORMEM_API tnm_result tnm_try_pin(tnm_ctx *ctx, const tnm_use *set, int count, tnm_pinned *out) {
    return tnmi_door_pin_set(ctx, set, count, out, 0);
}

/* The replica this struct pins; 0: it pins none (any more). */
static TNMI_INLINE int tnmi_door_pinned(const tnm_ctx *ctx, const tnm_pinned *pinned,
                                        tnmi_replica **out) {
    uint64_t id = pinned->id;
    uint32_t tier = (uint32_t)pinned->tier, index = (uint32_t)id;
    if (tier >= ctx->e.tensors.tiers) return 0;
    const tnmi_residents *on = &ctx->e.tensors.on[tier];
    if (index >= tnmi_base_load32(&on->replicas.fresh)) return 0;
    tnmi_replica *replica = tnmi_tensor_replica_of(on, index);
    uint64_t word = tnmi_base_peek64(&replica->word);
    if (!tnmi_tensor_is_pin(word, id)) return 0;
    if (pinned->access != TNM_READ && tnmi_tensor_writers(word) == 0) return 0;
    *out = replica;
    return 1;
}

static void tnmi_door_tell_unpin(tnm_ctx *ctx, const tnm_pinned *pinned, uint64_t fence) {
    const tnmi_replica *replica =
        tnmi_tensor_replica(&ctx->e.tensors, (uint32_t)pinned->tier, (uint32_t)pinned->id);
    tnm_event *event =
        tnmi_engine_event(&ctx->e, TNM_EVENT_UNPIN, (uint32_t)pinned->tier, replica->content);
    if (event) event->detail = fence;
}

/* Under the lock: one pin goes, and it is told. */
static void tnmi_door_drop_pin(tnm_ctx *ctx, const tnm_pinned *pinned) {
    tnmi_door_tell_unpin(ctx, pinned, 0);
    uint32_t tier = (uint32_t)pinned->tier, index = (uint32_t)pinned->id;
    tnmi_door_release_pin(ctx, tnmi_tensor_replica(&ctx->e.tensors, tier, index), tier, index,
                          pinned->access, 1);
}

/* Without the lock; 0 = there was no such pin. */
static int tnmi_door_unpin_one(tnm_ctx *ctx, tnm_pinned *pinned) {
    tnmi_replica *replica;
    if (!tnmi_door_pinned(ctx, pinned, &replica)) return 0;
    if (!tnmi_door_release_pin(ctx, replica, (uint32_t)pinned->tier, (uint32_t)pinned->id,
                               pinned->access, 0))
        return 0; /* two threads let go of the same pin */
    memset(pinned, 0, sizeof *pinned);
    return 1;
}

static TNMI_APART tnm_result tnmi_door_unpin_last(tnm_ctx *ctx, tnm_pinned *pinned,
                                                  uint64_t before) {
    uint32_t tier = (uint32_t)pinned->tier, index = (uint32_t)pinned->id;
    memset(pinned, 0, sizeof *pinned);
    tnmi_door_last_pin(ctx, tier, index, before, 0);
    return TNM_OK;
}

/* Under the lock: with a fence, with a trace callback, or without atomics. */
static tnm_result tnmi_door_unpin(tnm_ctx *ctx, tnm_pinned *set, int count, uint64_t fence,
                                  const char *call) {
    tnmi_engine *e = &ctx->e;
    tnm_result r = TNM_OK;
    for (int i = 0; fence && r == TNM_OK && i < count; i++)
        r = tnmi_door_table(ctx, &e->tensors.on[set[i].tier].fenced, (uint32_t)set[i].id + 1, call);
    if (fence && r == TNM_OK) /* last: what is spare here another thread may take while one grows */
        r = tnmi_door_table(ctx, &e->fences, (uint32_t)count, call);
    if (r != TNM_OK) return r;
    for (int i = 0; i < count; i++) {
        if (fence) {
            tnmi_door_tell_unpin(ctx, &set[i], fence);
            tnmi_engine_fence(e, (uint32_t)set[i].tier, (uint32_t)set[i].id,
                              set[i].access != TNM_READ, fence);
        } else
            tnmi_door_drop_pin(ctx, &set[i]);
        memset(&set[i], 0, sizeof set[i]);
    }
    if (fence && e->threaded) tnmi_engine_advance(e);
    return TNM_OK;
}

/* Whatever is not one pin let go at once: sets, fences, broken rules. */
static TNMI_APART tnm_result tnmi_door_unpin_call(tnm_ctx *ctx, tnm_pinned *set, int count,
                                                  uint64_t fence) {
    static const char call[] = "tnm_unpin";
    tnmi_replica *replica;
    if (!ctx) return TNM_ERR_ARGUMENT;
    const char *rule = tnmi_door_inside(ctx);
    if (!rule) rule = tnmi_door_check_array(set, count);
    if (!rule && fence && !ctx->e.has_passed) rule = "a fence needs tnm_desc.passed";
    if (!rule && fence) rule = tnmi_engine_fence_rule(fence);
    if (rule) return tnmi_door_reject(ctx, call, rule);
    int locked = fence || tnmi_base_load32(&ctx->by_lock);
    if (locked) tnmi_door_enter(ctx);
    for (int i = 0; !rule && i < count; i++)
        if (!tnmi_door_pinned(ctx, &set[i], &replica)) rule = "not pinned, or unpinned before";
    if (locked) {
        tnm_result r = rule ? tnmi_door_refuse(ctx, TNM_ERR_ARGUMENT, call, rule)
                            : tnmi_door_unpin(ctx, set, count, fence, call);
        return tnmi_door_leave(ctx, r);
    }
    if (rule) return tnmi_door_reject(ctx, call, rule);
    tnm_result r = TNM_OK;
    for (int i = 0; i < count; i++)
        if (!tnmi_door_unpin_one(ctx, &set[i])) r = TNM_ERR_ARGUMENT;
    return r;
}

/* One pin goes at once; as with a hit, whatever is called is called last. */
TENSORMEM_API tnm_result tnm_unpin(tnm_ctx *ctx, tnm_pinned *set, int count, uint64_t fence) {
    tnmi_replica *replica;
    if (!ctx || !set || count != 1 || fence || !tnmi_door_is_open(ctx))
        return tnmi_door_unpin_call(ctx, set, count, fence);
    if (!tnmi_door_pinned(ctx, set, &replica)) return tnmi_door_unpin_call(ctx, set, 1, 0);
    uint64_t before = tnmi_tensor_unpin(replica, set->access);
    if (tnmi_tensor_pins(before) == 0) return tnmi_door_unpin_call(ctx, set, 1, 0);
    if (tnmi_door_was_last(before)) return tnmi_door_unpin_last(ctx, set, before);
    memset(set, 0, sizeof *set);
    return TNM_OK;
}

/* ---- read and write ---- */
/* Does the CPU see (or would it see) a content's bytes on this tier? */
static int tnmi_door_sees(const tnmi_engine *e, uint32_t content, uint32_t tier) {
    tnm_span span;
    const tnmi_tier *t = &e->tiers.tier[tier];
    const tnmi_replica *replica = tnmi_tensor_on(&e->tensors, content, tier);
    int adopted = replica && replica->node == TNMI_NONE && replica->segment != TNMI_NONE;
    if (!adopted && !tnmi_tensor_is_ready(replica)) return !t->own_backend || t->visible;
    tnmi_engine_span(e, &span, tier, content, 0);
    return span.host != NULL;
}

static int tnmi_door_could_hold(const tnmi_engine *e, uint32_t content, uint32_t tier) {
    const tnmi_tier *t = &e->tiers.tier[tier];
    return tnmi_tier_can_ever(t,
                              tnmi_tier_placed(t, tnmi_tensor_at(&e->tensors, content)->bytes, 0));
}

/* The cheapest current replica (of those the CPU sees), or TNMI_NONE. `tried`: tiers, as bits, that
 * are out of the question. */
static uint32_t tnmi_door_current(const tnmi_engine *e, uint32_t content, int writes, int seen,
                                  uint64_t tried) {
    uint32_t best = TNMI_NONE;
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        const tnmi_replica *replica = tnmi_tensor_on(&e->tensors, content, t);
        if (!tnmi_tensor_is_ready(replica) || ((tried >> t) & 1u)) continue;
        if (writes && tnmi_tensor_is_lent(&e->tensors, replica)) continue;
        if (seen && !tnmi_door_sees(e, content, t)) continue;
        if (best == TNMI_NONE || e->cost_in[t] < e->cost_in[best]) best = t;
    }
    return best;
}

/* The tier on which plain bytes meet the content: the cheapest current replica; for an empty one
 * the slowest tier of the first one's spill path that can hold it. */
static uint32_t tnmi_door_meet(const tnmi_engine *e, uint32_t content, int writes) {
    uint32_t best = tnmi_door_current(e, content, writes, 0, 0), slowest = 0;
    for (int t = 0; best == TNMI_NONE && t >= 0; t = e->tiers.tier[t].spill) {
        if (tnmi_tensor_on(&e->tensors, content, (uint32_t)t)) continue;
        if (tnmi_door_could_hold(e, content, (uint32_t)t)) slowest = (uint32_t)t;
    }
    return best == TNMI_NONE ? slowest : best;
}

/* The tier on which existing bytes are best written over: one where the CPU does it itself, since
 * that cannot fail half-way. A replica that is current there, else the cheapest tier that could
 * hold one or has memory of its own for it; `known` 0: also one that has never had memory, so that
 * nobody knows. Or TNMI_NONE. */
static uint32_t tnmi_door_meet_seen(const tnmi_engine *e, uint32_t content, int known) {
    uint32_t best = tnmi_door_current(e, content, 1, 1, 0);
    for (uint32_t t = 0; best == TNMI_NONE && t < e->tiers.count; t++) {
        const tnmi_replica *there = tnmi_tensor_on(&e->tensors, content, t);
        if (tnmi_tensor_is_ready(there) || (!there && !tnmi_door_could_hold(e, content, t)))
            continue;
        if (tnmi_door_sees(e, content, t) || (!there && !known && !e->tiers.tier[t].hidden))
            best = t;
    }
    return best;
}

/* Does a range that only its owner may write lie on a tier that the CPU sees and that could hold
 * bytes of the content's own? */
static int tnmi_door_is_lent_seen(const tnmi_engine *e, uint32_t content) {
    for (uint32_t t = 0; t < e->tiers.count; t++)
        if (tnmi_tensor_is_lent(&e->tensors, tnmi_tensor_on(&e->tensors, content, t)) &&
            tnmi_door_sees(e, content, t) && tnmi_door_could_hold(e, content, t))
            return 1;
    return 0;
}

/* A range of a pinned content and plain memory (NULL: zeros), for the length of one call. */
typedef struct tnmi_plain {
    tnm_pinned pinned; /* of the whole content */
    tnmi_op_kind kind; /* READ or WRITE */
    int torn;          /* a WRITE failed after it had begun */
} tnmi_plain;

/* By a transfer: the bytes lie where the CPU does not see them. Waits for the end. */
static tnm_result tnmi_door_transfer(tnm_ctx *ctx, tnmi_plain *plain, uint64_t at, void *bytes,
                                     uint64_t size) {
    tnmi_engine *e = &ctx->e;
    uint64_t rounds = 0;
    tnm_result r = tnmi_door_table(ctx, &e->move.ops, 1, "tnm_read or tnm_write");
    if (r != TNM_OK) return r;
    uint32_t index = tnmi_move_new(&e->move, plain->kind, TNM_CLASS_DEMAND, 0);
    tnmi_op *op = tnmi_engine_op(e, index);
    op->tier = (uint32_t)plain->pinned.tier;
    op->replica = (uint32_t)plain->pinned.id;
    op->content = tnmi_tensor_replica(&e->tensors, op->tier, op->replica)->content;
    op->plain = (unsigned char *)bytes;
    op->plain_offset = at;
    op->bytes = size;
    op->claims = 1;
    op->state = TNMI_OP_PLACED;
    tnmi_move_enqueue(&e->move, index, TNM_CLASS_DEMAND);
    while (op->state != TNMI_OP_DONE && tnmi_door_turn(ctx, &rounds, 1))
        continue;
    if (op->state != TNMI_OP_DONE) { /* idle gave up: the bytes must not move any more */
        tnmi_engine_fail(e, index, TNM_PENDING);
        if (op->out == 0) op->state = TNMI_OP_DONE;
        while (op->state != TNMI_OP_DONE)
            tnmi_door_turn(ctx, &rounds, 1);
        op->error = TNM_PENDING;
    }
    r = op->error;
    /* what was handed out may have arrived in part, unless there was no way to hand it out */
    plain->torn |= r != TNM_OK && (op->done > 0 || (op->next > 0 && r != TNM_ERR_UNSUPPORTED));
    tnmi_move_delete(&e->move, index);
    return r;
}

/* By the CPU, outside the lock: the pin holds the place. A fence that stands by is waited for. */
static tnm_result tnmi_door_by_cpu(tnm_ctx *ctx, tnmi_plain *plain, uint64_t at, void *bytes,
                                   uint64_t size) {
    tnmi_engine *e = &ctx->e;
    uint32_t tier = (uint32_t)plain->pinned.tier, index = (uint32_t)plain->pinned.id;
    uint32_t content = tnmi_tensor_replica(&e->tensors, tier, index)->content;
    char *host = (char *)plain->pinned.host + (size_t)at;
    int reads = plain->kind == TNMI_OP_READ;
    uint64_t rounds = 0, number = ++e->move.numbers;
    tnm_event how;
    while (tnmi_tensor_fenced(&e->tensors, tier, index, reads))
        if (!tnmi_door_turn(ctx, &rounds, 1)) return TNM_PENDING;
    if (tnmi_engine_is_lost(e, tier, index)) return TNM_ERR_LOST; /* while we waited */
    memset(&how, 0, sizeof how);
    how.tier = reads ? -1 : (int)tier;
    how.from = reads ? (int)tier : -1;
    how.offset = at;
    how.bytes = size;
    tnmi_engine_tell_plain(e, TNM_EVENT_COPY_BEGIN, number, content, tier, &how);
    tnmi_door_tell(ctx);
    tnmi_door_unlock(ctx);
    if (reads)
        memcpy(bytes, host, (size_t)size);
    else if (bytes)
        memcpy(host, bytes, (size_t)size);
    else
        memset(host, 0, (size_t)size);
    tnmi_door_lock(ctx);
    tnmi_engine_tell_plain(e, TNM_EVENT_COPY_END, number, content, tier, &how);
    *(reads ? &e->tiers.tier[tier].bytes_out : &e->tiers.tier[tier].bytes_in) += size;
    return TNM_OK;
}

static tnm_result tnmi_door_move_plain(tnm_ctx *ctx, tnmi_plain *plain, uint64_t at, void *bytes,
                                       uint64_t size) {
    if (size == 0) return TNM_OK;
    tnm_result r = plain->pinned.host ? tnmi_door_by_cpu(ctx, plain, at, bytes, size)
                                      : tnmi_door_transfer(ctx, plain, at, bytes, size);
    const tnmi_replica *replica = tnmi_tensor_replica(&ctx->e.tensors, (uint32_t)plain->pinned.tier,
                                                      (uint32_t)plain->pinned.id);
    int lost = (tnmi_base_load64(&replica->word) & TNMI_LOST) != 0; /* while it was read */
    if (r != TNM_OK || !lost || plain->kind != TNMI_OP_READ) return r;
    return tnmi_tensor_at(&ctx->e.tensors, replica->content)->flags & TNMI_BROKEN ? TNM_ERR_LOST
                                                                                  : TNM_ERR_BACKEND;
}

/* Common to read and write: the name, its range, the content. */
static tnm_result tnmi_door_range(tnm_ctx *ctx, tnm_tensor tensor, uint64_t offset, uint64_t bytes,
                                  const char *call, uint32_t *content, uint64_t *base) {
    tnm_result r;
    uint64_t end;
    uint32_t name = tnmi_door_find(ctx, tensor, call, &r);
    if (r != TNM_OK) return r;
    if (!tnmi_base_add(offset, bytes, &end) || end > tnmi_tensor_at(&ctx->e.tensors, name)->bytes)
        return tnmi_door_refuse(ctx, TNM_ERR_ARGUMENT, call, "the range leaves the tensor");
    *content = tnmi_tensor_content(&ctx->e.tensors, name, base);
    return TNM_OK;
}

/* The content behind a name, pinned whole: its bytes begin at 0, whichever name was given. `first`:
 * TNMI_FIRST or 0. */
static tnm_result tnmi_door_pin_whole(tnm_ctx *ctx, tnm_tensor tensor, uint32_t tier,
                                      tnm_access access, uint32_t first, tnmi_plain *plain,
                                      const char *call) {
    tnm_use use;
    tnm_result r;
    memset(&use, 0, sizeof use);
    use.tensor = tensor;
    use.tier = (int)tier;
    use.access = access;
    use.flags = TNMI_WHOLE | first;
    memset(plain, 0, sizeof *plain);
    plain->kind = access == TNM_READ ? TNMI_OP_READ : TNMI_OP_WRITE;
    tnmi_door_find(ctx, use.tensor, call, &r); /* it may be gone: we have waited */
    if (r == TNM_OK) r = tnmi_door_are_named(ctx, &use, 1);
    if (r == TNM_OK) r = tnmi_door_pin(ctx, &use, 1, &plain->pinned, 1, call);
    if (r == TNM_OK) { /* a view's pin begins at its offset */
        const tnmi_replica *replica =
            tnmi_tensor_replica(&ctx->e.tensors, tier, (uint32_t)plain->pinned.id);
        plain->pinned.host = NULL;
        tnmi_door_address(&ctx->e, replica, 0, &plain->pinned);
    }
    return r;
}

TENSORMEM_API tnm_result tnm_read(tnm_ctx *ctx, tnm_tensor tensor, uint64_t offset, void *dst,
                                  uint64_t bytes) {
    static const char call[] = "tnm_read";
    uint32_t content = 0;
    uint64_t base = 0;
    const char *rule = !dst && bytes ? "dst is NULL" : NULL;
    if (!rule && bytes > SIZE_MAX / 2) rule = "the range is larger than memory";
    if (!tnmi_door_begin(ctx, call, rule)) return TNM_ERR_ARGUMENT;
    tnm_result r = tnmi_door_range(ctx, tensor, offset, bytes, call, &content, &base);
    uint32_t tier = r == TNM_OK ? tnmi_door_meet(&ctx->e, content, 0) : TNMI_NONE;
    uint64_t tried = 0;
    while (tier != TNMI_NONE) {
        tnmi_plain plain;
        r = tnmi_door_pin_whole(ctx, tensor, tier, TNM_READ, 0, &plain, call);
        if (r == TNM_OK) {
            r = tnmi_door_move_plain(ctx, &plain, base + offset, dst, bytes);
            tnmi_door_drop_pin(ctx, &plain.pinned);
        }
        if (r != TNM_ERR_BACKEND && r != TNM_ERR_LOST) break;
        tried |= (uint64_t)1 << tier; /* it is readable wherever it has a current replica */
        tnm_result gone = tnmi_door_range(ctx, tensor, offset, bytes, call, &content, &base);
        if (gone != TNM_OK) break;
        tier = tnmi_door_current(&ctx->e, content, 0, 0, tried);
    }
    return tnmi_door_leave(ctx, r);
}

/* Bytes into a content that holds nothing, or lost what it held: zeros around them. A failure
 * leaves it as it was. ABSENT: it holds something by now. */
static tnm_result tnmi_door_write_first(tnm_ctx *ctx, tnm_tensor tensor, uint32_t content,
                                        uint64_t at, void *src, uint64_t bytes) {
    static const char call[] = "tnm_write";
    tnmi_engine *e = &ctx->e;
    tnmi_plain plain;
    uint64_t all = tnmi_tensor_at(&e->tensors, content)->bytes;
    int broken = (tnmi_tensor_at(&e->tensors, content)->flags & TNMI_BROKEN) != 0;
    uint32_t tier = tnmi_door_meet(e, content, 1);
    tnm_result r = tnmi_door_pin_whole(ctx, tensor, tier, TNM_DISCARD, TNMI_FIRST, &plain, call);
    if (r != TNM_OK) return r;
    tnmi_tensor_set_flags(tnmi_tensor_at(&e->tensors, content), TNMI_FRAMED, 0);
    r = tnmi_door_move_plain(ctx, &plain, at, src, bytes);
    if (r == TNM_OK) r = tnmi_door_move_plain(ctx, &plain, 0, NULL, at);
    if (r == TNM_OK) r = tnmi_door_move_plain(ctx, &plain, at + bytes, NULL, all - at - bytes);
    tnmi_tensor_set_flags(tnmi_tensor_at(&e->tensors, content), 0, TNMI_FRAMED);
    if (r != TNM_OK && broken) tnmi_engine_lose(e, tier, (uint32_t)plain.pinned.id);
    if (r != TNM_OK && !broken) tnmi_engine_forget_bytes(e, tier, (uint32_t)plain.pinned.id);
    tnmi_door_drop_pin(ctx, &plain.pinned);
    return r;
}

/* Bytes over bytes. Where no tier that could hold the content is seen by the CPU, the sole copy is
 * written in place, and a failure half-way is its loss. */
static tnm_result tnmi_door_write_over(tnm_ctx *ctx, tnm_tensor tensor, uint32_t content,
                                       uint64_t at, void *src, uint64_t bytes) {
    static const char call[] = "tnm_write";
    tnmi_engine *e = &ctx->e;
    tnmi_plain plain;
    tnm_result r;
    uint32_t tier;
    while ((tier = tnmi_door_meet_seen(e, content, 1)) == TNMI_NONE) {
        tnm_access access = TNM_READ; /* a first memory says whether the CPU sees its tier */
        uint32_t by = tnmi_door_meet_seen(e, content, 0);
        if (by == TNMI_NONE && tnmi_door_is_lent_seen(e, content)) {
            access = TNM_WRITE; /* bytes of its own elsewhere, and the lent range goes */
            by = tnmi_door_meet(e, content, 1);
        }
        if (by == TNMI_NONE) break;
        r = tnmi_door_pin_whole(ctx, tensor, by, access, 0, &plain, call);
        if (r != TNM_OK) return r;
        tnmi_door_drop_pin(ctx, &plain.pinned);
    }
    /* where nothing can fail half-way, old bytes that nobody will see are not fetched */
    int whole = tier != TNMI_NONE && bytes == tnmi_tensor_at(&e->tensors, content)->bytes &&
                !e->tiers.tier[tier].hidden &&
                !tnmi_tensor_is_ready(tnmi_engine_on(e, content, tier));
    if (tier == TNMI_NONE) tier = tnmi_door_meet(e, content, 1);
    r = tnmi_door_pin_whole(ctx, tensor, tier, whole ? TNM_DISCARD : TNM_WRITE, 0, &plain, call);
    if (r != TNM_OK) return r;
    r = tnmi_door_move_plain(ctx, &plain, at, src, bytes);
    if (plain.torn || (whole && r != TNM_OK)) {
        tnmi_engine_lose(e, tier, (uint32_t)plain.pinned.id);
        r = TNM_ERR_LOST;
    }
    tnmi_door_drop_pin(ctx, &plain.pinned);
    return r;
}

TENSORMEM_API tnm_result tnm_write(tnm_ctx *ctx, tnm_tensor tensor, uint64_t offset,
                                   const void *src, uint64_t bytes) {
    static const char call[] = "tnm_write";
    uint32_t content = 0;
    uint64_t base = 0;
    const char *rule = !src && bytes ? "src is NULL" : NULL;
    if (!rule && bytes > SIZE_MAX / 2) rule = "the range is larger than memory";
    if (!tnmi_door_begin(ctx, call, rule)) return TNM_ERR_ARGUMENT;
    tnmi_engine *e = &ctx->e;
    tnm_result r = tnmi_door_range(ctx, tensor, offset, bytes, call, &content, &base);
    void *from = (void *)(uintptr_t)src; /* only read */
    int first = 0;
    uint64_t rounds = 0;
    if (r == TNM_OK && bytes > 0)
        do { /* again if a content was dropped, or another thread filled it, while we waited */
            while (r >= 0 && (tnmi_tensor_at(&e->tensors, content)->flags & TNMI_FRAMED)) {
                if (!tnmi_door_turn(ctx, &rounds, 1)) return tnmi_door_leave(ctx, TNM_PENDING);
                r = tnmi_door_range(ctx, tensor, offset, bytes, call, &content, &base);
            }
            if (r < 0) break;
            const tnmi_tensor *whole = tnmi_tensor_at(&e->tensors, content);
            first = tnmi_tensor_is_empty(&e->tensors, content);
            if (whole->flags & TNMI_BROKEN) first = bytes == whole->bytes; /* the way out of LOST */
            r = first ? tnmi_door_write_first(ctx, tensor, content, base + offset, from, bytes)
                      : tnmi_door_write_over(ctx, tensor, content, base + offset, from, bytes);
        } while (r == TNM_ABSENT || (r == TNM_ERR_EMPTY && !first));
    return tnmi_door_leave(ctx, r);
}

/* ---- foresight ---- */
/* Uses of a schedule or prefetch, checked and with room in the table. */
static tnm_result tnmi_door_check_uses(tnm_ctx *ctx, uint32_t lane, const tnm_use *uses, int count,
                                       const char *call) {
    if (lane >= TNM_MAX_LANES)
        return tnmi_door_refuse(ctx, TNM_ERR_ARGUMENT, call, "lane is not 0 .. TNM_MAX_LANES-1");
    tnm_result r = tnmi_door_check_set(ctx, uses, count, call);
    if (r == TNM_OK) r = tnmi_door_table(ctx, &ctx->e.hints.uses, (uint32_t)count, call);
    return r == TNM_OK ? tnmi_door_check_set(ctx, uses, count, call) : r;
}

static tnmi_use tnmi_door_use(const tnm_ctx *ctx, uint32_t lane, const tnm_use *from) {
    tnmi_use use;
    tnmi_target target = tnmi_engine_target(&ctx->e, from);
    memset(&use, 0, sizeof use);
    use.step = from->step;
    use.content = target.content;
    use.tier = (uint8_t)from->tier;
    use.lane = (uint8_t)lane;
    use.access = (uint8_t)tnmi_engine_access(&ctx->e, target.name, use.content, from->access);
    return use;
}

/* Lanes began to look at pins, or ceased to. Where every pin takes the lock anyway nothing changes:
 * without atomics other threads read these two outside of it. */
static void tnmi_door_watch(tnm_ctx *ctx) {
    if (ctx->by_lock & 1u) return;
    uint32_t by_lock = ctx->e.hints.watching ? 2u : 0;
    tnmi_base_store32(&ctx->by_lock, by_lock);
    tnmi_base_store32(&ctx->shut, by_lock | (uint32_t)ctx->inside);
}

static void tnmi_door_drop(tnm_ctx *ctx, uint32_t list) {
    for (uint32_t n = 1; list != TNMI_NONE; n++) {
        list = tnmi_hint_drop(&ctx->e.hints, list);
        if (n % TNMI_PIECE == 0) tnmi_door_breath(ctx);
    }
}

/* The uses of a schedule, checked and in the table, but in no cycle yet; some for each time that
 * the lock is held. */
static tnm_result tnmi_door_gather(tnm_ctx *ctx, uint32_t lane, const tnm_use *uses, int count,
                                   const char *call, uint32_t *list) {
    tnmi_engine *e = &ctx->e;
    tnm_result r = TNM_OK;
    *list = TNMI_NONE;
    if (lane >= TNM_MAX_LANES)
        return tnmi_door_refuse(ctx, TNM_ERR_ARGUMENT, call, "lane is not 0 .. TNM_MAX_LANES-1");
    for (int taking = 0; taking < 2; taking++)
        for (int i = 0; r == TNM_OK && i < count; i++) {
            if (i % TNMI_PIECE == TNMI_PIECE - 1) tnmi_door_breath(ctx);
            if (taking) r = tnmi_door_table(ctx, &e->hints.uses, (uint32_t)(count - i), call);
            if (r == TNM_OK) r = tnmi_door_check_set(ctx, &uses[i], 1, call);
            if (r != TNM_OK || !taking) continue;
            tnmi_use use = tnmi_door_use(ctx, lane, &uses[i]);
            *list = tnmi_hint_loose(&e->hints, &e->tensors, &use, *list);
        }
    if (r != TNM_OK) tnmi_door_drop(ctx, *list);
    return r;
}

/* Loose uses become the lane's cycle: sorted with the lock open, the cycle before taken away, put
 * in by their steps, in pieces; what there is of either meanwhile is a cycle. 0 = a later call for
 * the lane has begun in between: its cycle is the one that stands. */
static int tnmi_door_put_cycle(tnm_ctx *ctx, uint32_t lane_index, uint32_t list, uint32_t period,
                               int recorded) {
    tnmi_hints *hints = &ctx->e.hints;
    tnmi_lane *lane = &hints->lane[lane_index];
    if (list != TNMI_NONE) {
        tnmi_door_unlock(ctx);
        list = tnmi_hint_sort(hints, list);
        tnmi_door_lock(ctx);
    }
    uint32_t turn = ++lane->turn;
    while (lane->turn == turn && !tnmi_engine_forget_cycle(&ctx->e, lane_index))
        tnmi_door_breath(ctx);
    tnmi_door_watch(ctx);
    if (lane->turn == turn && list != TNMI_NONE) lane->period = period;
    for (uint32_t n = 1; list != TNMI_NONE && lane->turn == turn; n++) {
        list = tnmi_hint_append(hints, &ctx->e.tensors, list, recorded);
        if (n % TNMI_PIECE == 0) tnmi_door_breath(ctx);
    }
    tnmi_door_drop(ctx, list);
    return lane->turn == turn;
}

TENSORMEM_API tnm_result tnm_schedule(tnm_ctx *ctx, uint32_t lane, const tnm_use *uses, int count,
                                      uint32_t period) {
    static const char call[] = "tnm_schedule";
    uint32_t list;
    const char *rule = tnmi_door_check_array(uses, count);
    if (!rule && count > 0 && period == 0) rule = "period is 0";
    for (int i = 0; !rule && i < count; i++)
        if (uses[i].step >= period) rule = "a step lies outside the period";
    if (!tnmi_door_begin(ctx, call, rule)) return TNM_ERR_ARGUMENT;
    tnm_result r = tnmi_door_gather(ctx, lane, uses, count, call, &list);
    if (r == TNM_OK && tnmi_door_put_cycle(ctx, lane, list, period, 0)) {
        tnmi_engine_split(&ctx->e);
        ctx->e.changed++;
    }
    return tnmi_door_leave(ctx, r);
}

TENSORMEM_API tnm_result tnm_step(tnm_ctx *ctx, uint32_t lane, uint64_t step) {
    const char *rule = lane >= TNM_MAX_LANES ? "lane is not 0 .. TNM_MAX_LANES-1" : NULL;
    if (!tnmi_door_begin(ctx, "tnm_step", rule)) return TNM_ERR_ARGUMENT;
    uint32_t list = TNMI_NONE;
    if (ctx->e.hints.watching) {
        list = tnmi_hint_tell(&ctx->e.hints, lane, step);
        tnmi_door_watch(ctx);
    }
    tnmi_engine_step(&ctx->e, lane, step);
    while (!tnmi_engine_pass(&ctx->e, lane, TNMI_PIECE))
        tnmi_door_breath(ctx);
    tnmi_door_drop(ctx, list);
    return tnmi_door_leave(ctx, TNM_OK);
}

TENSORMEM_API tnm_result tnm_record(tnm_ctx *ctx, uint32_t lane) {
    const char *rule = lane >= TNM_MAX_LANES ? "lane is not 0 .. TNM_MAX_LANES-1" : NULL;
    if (!tnmi_door_begin(ctx, "tnm_record", rule)) return TNM_ERR_ARGUMENT;
    uint32_t list = tnmi_hint_record(&ctx->e.hints, lane, tnmi_base_peek64(&ctx->e.clock));
    tnmi_door_watch(ctx);
    tnmi_door_drop(ctx, list);
    return tnmi_door_leave(ctx, TNM_OK);
}

/* What was recorded becomes the lane's cycle. 0 = nothing of it is left. */
static int tnmi_door_replay(tnm_ctx *ctx, uint32_t lane_index, int told) {
    tnmi_engine *e = &ctx->e;
    tnmi_lane *lane = &e->hints.lane[lane_index];
    tnmi_record record = lane->record;
    uint64_t ticks = tnmi_base_peek64(&e->clock) - record.clock;
    uint32_t period = told ? (uint32_t)(lane->step - record.began + 1) : record.sets + 1;
    uint32_t list = tnmi_hint_detach(&e->hints, lane_index), uses = TNMI_NONE;
    tnmi_hint_watch(&e->hints, lane_index, 0, TNMI_LANE_RECORDS | TNMI_LANE_TOLD | TNMI_LANE_FULL);
    while ((list = tnmi_hint_turn(&e->hints, &e->tensors, list, &record, told, period, TNMI_PIECE,
                                  &uses)) != TNMI_NONE)
        tnmi_door_breath(ctx);
    if (uses == TNMI_NONE) return 0;
    if (!tnmi_door_put_cycle(ctx, lane_index, uses, period, 1)) return 1;
    if (!told) tnmi_engine_begin_following(e, lane_index, ticks, record.latest);
    tnmi_door_watch(ctx); /* before the lock goes: no hit may pass unseen */
    while (!tnmi_engine_pass(e, lane_index, TNMI_PIECE))
        tnmi_door_breath(ctx);
    tnmi_engine_split(e);
    e->changed++;
    return 1;
}

TENSORMEM_API tnm_result tnm_replay(tnm_ctx *ctx, uint32_t lane) {
    static const char call[] = "tnm_replay", none[] = "nothing was pinned since tnm_record";
    const char *rule = lane >= TNM_MAX_LANES ? "lane is not 0 .. TNM_MAX_LANES-1" : NULL;
    if (!tnmi_door_begin(ctx, call, rule)) return TNM_ERR_ARGUMENT;
    tnmi_engine *e = &ctx->e;
    const tnmi_lane *l = &e->hints.lane[lane];
    int records = (l->watch & TNMI_LANE_RECORDS) != 0, told = (l->watch & TNMI_LANE_TOLD) != 0;
    tnm_result r = TNM_OK;
    if (!records) rule = "the lane does not record";
    if (!rule && (l->watch & TNMI_LANE_FULL)) {
        r = tnmi_store_allows(&e->hints.uses, 1) ? TNM_ERR_MEMORY : TNM_ERR_CAPACITY;
        tnmi_door_refuse(ctx, r, call, e->hints.uses.name);
    } else if (!rule && l->record.count == 0)
        rule = none;
    else if (!rule && l->step - l->record.began >= UINT32_MAX) /* untold ones are fewer than uses */
        rule = "the steps told since tnm_record are too many for a period";
    if (r == TNM_OK && !rule) {
        if (!tnmi_door_replay(ctx, lane, told)) rule = none;
    } else if (records) {
        tnmi_hint_watch(&e->hints, lane, 0, TNMI_LANE_RECORDS | TNMI_LANE_TOLD | TNMI_LANE_FULL);
        tnmi_door_drop(ctx, tnmi_hint_detach(&e->hints, lane));
    }
    if (rule) r = tnmi_door_refuse(ctx, TNM_ERR_ARGUMENT, call, rule);
    tnmi_door_watch(ctx);
    return tnmi_door_leave(ctx, r);
}

/* One single use: a guess is replaced by a later one for the same lane and tier; the same sure use
 * is not kept twice. */
static void tnmi_door_prefetch(tnmi_engine *e, tnmi_use *use) {
    tnmi_tensor *content = tnmi_engine_content(e, use->content);
    tnmi_lane *lane = &e->hints.lane[use->lane];
    int expire = 2; /* more go than come: a backlog ends */
    use->step = tnmi_base_max(use->step, lane->step);
    for (uint32_t i = content->use; i != TNMI_NONE;) {
        const tnmi_use *old = tnmi_hint_use(&e->hints, i);
        uint32_t index = i;
        i = old->same;
        if (!(old->flags & TNMI_USE_SINGLE) || old->lane != use->lane || old->tier != use->tier)
            continue;
        if ((old->flags & TNMI_USE_SURE) && old->step == use->step) return;
        if (old->flags & TNMI_USE_SURE) continue;
        tnmi_hint_delete_single(&e->hints, &e->tensors, index);
    }
    content->failed &= 0xffffu;
    tnmi_engine_expire(e, lane, &expire);
    tnmi_hint_add_single(&e->hints, &e->tensors, use);
    tnmi_engine_rekey_all(e, use->content);
}

TENSORMEM_API tnm_result tnm_prefetch(tnm_ctx *ctx, uint32_t lane, const tnm_use *uses, int count) {
    static const char call[] = "tnm_prefetch";
    if (!tnmi_door_begin(ctx, call, tnmi_door_check_array(uses, count))) return TNM_ERR_ARGUMENT;
    tnm_result r = tnmi_door_check_uses(ctx, lane, uses, count, call);
    for (int i = 0; r == TNM_OK && i < count; i++) {
        tnmi_use use = tnmi_door_use(ctx, lane, &uses[i]);
        use.flags = TNMI_USE_SINGLE;
        if (uses[i].flags & TNM_SURE) use.flags |= TNMI_USE_SURE;
        tnmi_door_prefetch(&ctx->e, &use);
    }
    ctx->e.changed++;
    return tnmi_door_leave(ctx, r);
}

/* Prefetches of one content, and the unanswered try_ requests it is in. */
static void tnmi_door_cancel(tnmi_engine *e, uint32_t content) {
    tnmi_hint_forget_singles(&e->hints, &e->tensors, content);
    for (uint32_t r = e->oldest_request; r != TNMI_NONE;) {
        uint32_t index = r, m = tnmi_engine_request(e, r)->members;
        r = tnmi_engine_request(e, r)->next;
        if (tnmi_engine_request(e, index)->calling) continue;
        while (m != TNMI_NONE && tnmi_engine_member(e, m)->content != content)
            m = tnmi_engine_member(e, m)->next;
        if (m != TNMI_NONE) tnmi_engine_end_request(e, index);
    }
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        tnmi_replica *replica = tnmi_engine_on(e, content, t);
        if (!tnmi_engine_is_busy(replica)) continue;
        const tnmi_op *op = tnmi_engine_filling(e, replica);
        if (op->from != TNMI_NONE && op->from < t) continue; /* a write-back */
        if (op->class_ == TNM_CLASS_WRITE_BACK || (!op->fresh && !op->via && op->claims)) continue;
        if (op->fresh || op->via || op->class_ == TNM_CLASS_DEMAND)
            tnmi_engine_cancel_op(e, replica->offset);
    }
    tnmi_engine_rekey_all(e, content);
}

TENSORMEM_API tnm_result tnm_cancel(tnm_ctx *ctx, const tnm_tensor *set, int count) {
    static const char call[] = "tnm_cancel";
    tnm_result r = TNM_OK;
    if (!tnmi_door_begin(ctx, call, tnmi_door_check_array(set, count))) return TNM_ERR_ARGUMENT;
    for (int i = 0; r == TNM_OK && i < count; i++)
        tnmi_door_find(ctx, set[i], call, &r);
    for (int i = 0; r == TNM_OK && i < count; i++)
        tnmi_door_cancel(&ctx->e, tnmi_door_content(ctx, set[i], call, &r));
    return tnmi_door_leave(ctx, r);
}

TENSORMEM_API tnm_result tnm_advise(tnm_ctx *ctx, tnm_tensor tensor, uint32_t advice) {
    static const char call[] = "tnm_advise";
    tnm_result r;
    if (!tnmi_door_begin(ctx, call, tnmi_door_check_advice(advice))) return TNM_ERR_ARGUMENT;
    uint32_t content = tnmi_door_content(ctx, tensor, call, &r);
    if (r == TNM_OK) {
        tnmi_engine_advise(&ctx->e, content, advice);
    }
    return tnmi_door_leave(ctx, r);
}

/* Ask the engine until no table has to grow. While one does the content may end, and its slot be
 * another's: `tensor` names it, or is {0}, and whatever content is there by then is as good. */
static tnm_result tnmi_door_leave_tier(tnm_ctx *ctx, tnm_tensor tensor, uint32_t content,
                                       uint32_t tier, int flush) {
    const tnmi_tensor *slot = tnmi_engine_content(&ctx->e, content);
    for (;;) {
        ctx->e.grow = NULL; /* another's, who asks again: it would have us ask twice */
        tnm_result r = flush ? tnmi_engine_flush(&ctx->e, content, tier)
                             : tnmi_engine_evict(&ctx->e, content, tier);
        if (!ctx->e.grow) return r;
        tnmi_door_grow(ctx);
        if (tensor.id && tnmi_tensor_find(&ctx->e.tensors, tensor.id, &r) == TNMI_NONE) return r;
        if (tensor.id) continue;
        if ((slot->flags & TNMI_VIEW) || slot->refs == 0) return TNM_OK;
    }
}

TENSORMEM_API tnm_result tnm_evict(tnm_ctx *ctx, tnm_tensor tensor, int tier) {
    static const char call[] = "tnm_evict";
    tnm_result r;
    if (!tnmi_door_begin(ctx, call, tnmi_door_check_tier(ctx, tier))) return TNM_ERR_ARGUMENT;
    uint32_t content = tnmi_door_content(ctx, tensor, call, &r);
    if (r == TNM_OK) r = tnmi_door_leave_tier(ctx, tensor, content, (uint32_t)tier, 0);
    return tnmi_door_leave(ctx, r);
}

/* Who asked for all has been told of one failure: all of them start anew. */
static void tnmi_door_told_all(tnm_ctx *ctx, uint32_t tier) {
    tnmi_engine *e = &ctx->e;
    for (uint32_t i = 0; i < e->tensors.names.fresh; i++) {
        if (i % TNMI_PIECE == TNMI_PIECE - 1) tnmi_door_breath(ctx);
        tnmi_engine_reported(tnmi_engine_content(e, i), tier);
    }
}

/* Every content, in bounded steps. PENDING if any is, else the first obstacle: until then what has
 * failed is not tried again, or those that fail by turns would keep it PENDING for ever. When
 * enough is under way the next call goes on from there: a record for each of many tensors would be
 * memory too. */
static tnm_result tnmi_door_flush_all(tnm_ctx *ctx, uint32_t tier) {
    tnmi_engine *e = &ctx->e;
    tnmi_tier *t = &e->tiers.tier[tier];
    const tnm_tensor none = { 0 };
    tnm_result worst = TNM_OK, first = TNM_OK;
    uint32_t left = e->tensors.names.fresh, i = t->flush_at;
    for (; left > 0 && e->move.ops.live < TNMI_FLUSHES; left--, i++) {
        if (left % TNMI_PIECE == 0) tnmi_door_breath(ctx);
        if (i >= e->tensors.names.fresh) i = 0;
        const tnmi_tensor *tensor = tnmi_engine_content(e, i);
        if ((tensor->flags & TNMI_VIEW) || tensor->refs == 0) continue;
        if (tensor->flags & TNMI_BROKEN) continue;
        tnm_result r = tnmi_engine_untold(tensor, tier);
        if (r == TNM_OK) r = tnmi_door_leave_tier(ctx, none, i, tier, 1);
        if (r == TNM_PENDING) worst = r;
        if (r < 0 && first == TNM_OK) first = r;
        if (r != TNM_OK) tnmi_door_breath(ctx); /* a plan was made */
    }
    t->flush_at = left ? i : 0;
    if (worst == TNM_PENDING || left) return TNM_PENDING;
    if (first != TNM_OK) tnmi_door_told_all(ctx, tier);
    return first;
}

TENSORMEM_API tnm_result tnm_flush(tnm_ctx *ctx, tnm_tensor tensor, int tier) {
    static const char call[] = "tnm_flush";
    tnm_result r;
    if (!tnmi_door_begin(ctx, call, tnmi_door_check_tier(ctx, tier))) return TNM_ERR_ARGUMENT;
    if (tensor.id == 0) return tnmi_door_leave(ctx, tnmi_door_flush_all(ctx, (uint32_t)tier));
    uint32_t content = tnmi_door_content(ctx, tensor, call, &r);
    if (r == TNM_OK) r = tnmi_door_leave_tier(ctx, tensor, content, (uint32_t)tier, 1);
    return tnmi_door_leave(ctx, r);
}

TENSORMEM_API tnm_result tnm_set_budget(tnm_ctx *ctx, int tier, uint64_t bytes) {
    static const char call[] = "tnm_set_budget";
    if (!tnmi_door_begin(ctx, call, tnmi_door_check_tier(ctx, tier))) return TNM_ERR_ARGUMENT;
    tnmi_engine *e = &ctx->e;
    tnmi_tier *t = &e->tiers.tier[tier];
    if (t->budget != bytes) {
        t->budget = bytes;
        if (t->set_aside > bytes / 4) t->set_aside = 0;
        tnm_event *event = tnmi_engine_event(e, TNM_EVENT_BUDGET, (uint32_t)tier, TNMI_NONE);
        if (event) event->bytes = bytes;
        tnmi_engine_split(e);
        e->changed++;
    }
    tnm_result r;
    tnmi_shrink look;
    memset(&look, 0, sizeof look);
    while ((r = tnmi_engine_shrink(e, (uint32_t)tier, &look)) == TNM_ABSENT)
        tnmi_door_breath(ctx);
    return tnmi_door_leave(ctx, r);
}

/* ---- heartbeat ---- */
static int tnmi_door_is_idle(const tnmi_engine *e) {
    if (!tnmi_engine_is_resting(e) || e->tiers.todo_head != TNMI_NONE) return 0;
    for (uint32_t t = 0; t < e->tiers.count; t++)
        if (e->tiers.tier[t].reserved > e->tiers.tier[t].budget || e->tiers.tier[t].compact)
            return 0;
    for (uint32_t r = e->oldest_request; r != TNMI_NONE; r = tnmi_engine_request(e, r)->next)
        if (tnmi_engine_request(e, r)->result == TNM_PENDING &&
            (!tnmi_engine_request(e, r)->admitted ||
             !tnmi_engine_is_complete(e, tnmi_engine_request(e, r))))
            return 0;
    return 1;
}

TENSORMEM_API tnm_result tnm_pump(tnm_ctx *ctx, uint64_t max_bytes) {
    if (!tnmi_door_begin(ctx, "tnm_pump", NULL)) return TNM_ERR_ARGUMENT;
    if (!ctx->driving) {
        ctx->driving = ctx->e.pumping = 1;
        tnmi_door_drive(ctx, max_bytes, 0);
        ctx->driving = ctx->e.pumping = 0;
    }
    return tnmi_door_leave(ctx, tnmi_door_is_idle(&ctx->e) ? TNM_OK : TNM_PENDING);
}

TENSORMEM_API tnm_result tnm_wait(tnm_ctx *ctx) {
    uint64_t rounds = 0;
    int go_on = 1;
    if (!tnmi_door_begin(ctx, "tnm_wait", NULL)) return TNM_ERR_ARGUMENT;
    tnmi_engine *e = &ctx->e;
    uint64_t before = e->changed;
    uint32_t used = e->move.used, fences = e->fence_count;
    int first = 1;
    while (go_on &&
           (first || (e->changed == before && e->move.used >= used && e->fence_count >= fences))) {
        if (!first && tnmi_door_is_idle(e) && e->fence_count == 0) break;
        go_on = tnmi_door_turn(ctx, &rounds, 0);
        first = 0;
        if (rounds > 0 && e->move.used == 0 && e->fence_count == 0)
            break; /* what is left waits for pins, and only their holders end those */
    }
    int rests = tnmi_door_is_idle(e) && e->fence_count == 0;
    return tnmi_door_leave(ctx, rests ? TNM_OK : TNM_PENDING);
}

/* ---- built-in storage ---- */
#    ifndef TENSORMEM_NO_FILE
TENSORMEM_API tnm_result tnm_file_open(const tnm_file_desc *desc, tnm_backend *out) {
    return tnmi_shelf_file_open(desc, out);
}

TENSORMEM_API tnm_result tnm_file_adopt(const tnm_backend *backend, const char *path, uint64_t *mem,
                                        uint64_t *size) {
    return tnmi_shelf_file_adopt(backend, path, mem, size);
}

TENSORMEM_API const char *tnm_file_how(const tnm_backend *backend) {
    return tnmi_shelf_file_how(backend);
}

TENSORMEM_API void tnm_file_close(tnm_backend *backend) {
    tnmi_shelf_file_close(backend);
}
#    endif

/* ---- sight ---- */
TENSORMEM_API tnm_result tnm_info(tnm_ctx *ctx, tnm_tensor tensor, int tier, tnm_tensor_info *out) {
    tnm_result r;
    if (out) memset(out, 0, sizeof *out);
    if (!out || tnmi_door_check_tier(ctx, tier))
        return tnmi_door_reject(ctx, "tnm_info",
                                "out is NULL, or tier is not one of the context's");
    tnmi_door_lock(ctx);
    uint32_t name = tnmi_door_find(ctx, tensor, "tnm_info", &r);
    if (r == TNM_OK) tnmi_watch_info(&ctx->e, name, (uint32_t)tier, out);
    return tnmi_door_leave(ctx, r);
}

/* Exact with one thread; with several, of many tensors, a moving picture. */
static void tnmi_door_stats(tnm_ctx *ctx, uint32_t tier, tnm_tier_stats *out) {
    uint32_t at = 0;
    tnmi_watch_stats(&ctx->e, tier, out);
    while ((at = tnmi_watch_sums(&ctx->e, tier, at, TNMI_PIECE, out)) != TNMI_NONE)
        tnmi_door_breath(ctx);
}

TENSORMEM_API tnm_result tnm_stats(tnm_ctx *ctx, int tier, tnm_tier_stats *out) {
    if (out) memset(out, 0, sizeof *out);
    if (!out || tnmi_door_check_tier(ctx, tier))
        return tnmi_door_reject(ctx, "tnm_stats",
                                "out is NULL, or tier is not one of the context's");
    tnmi_door_lock(ctx);
    tnmi_door_stats(ctx, (uint32_t)tier, out);
    return tnmi_door_leave(ctx, TNM_OK);
}

/* The numbers of a tier. The place at which a look stops for a moment stays with the ring; there is
 * one: who comes while another looks, looks at all at once. */
static void tnmi_door_shortage(tnm_ctx *ctx, uint32_t tier, tnm_shortage *out) {
    tnmi_tier *t = &ctx->e.tiers.tier[tier];
    tnmi_gaps at;
    tnmi_watch_shortage(&ctx->e, tier, out);
    at.segment = t->segments;
    at.node = TNMI_NONE;
    at.run = 0;
    for (;;) {
        tnmi_watch_gaps(&ctx->e, tier, &at, out);
        if (at.segment == TNMI_NONE) return;
        if (t->look) continue;
        t->look = at.segment + 1;
        t->space.look = at.node;
        tnmi_door_breath(ctx);
        at.segment = t->look - 1; /* 0 - 1 is TNMI_NONE: the last segment has gone */
        at.node = t->space.look;
        t->look = 0;
        t->space.look = TNMI_NONE;
    }
}

/* What an ask would be answered, by a request that is nobody's: it ends before a table grows, while
 * other threads would admit it. */
static tnm_result tnmi_door_rehearse(tnm_ctx *ctx, const tnm_use *set, int count, uint32_t *tier,
                                     tnm_shortage *out) {
    tnmi_engine *e = &ctx->e;
    uint32_t request;
    for (;;) {
        tnm_result r = tnmi_door_new_request(ctx, set, count, 1, &request);
        if (r != TNM_OK) return r;
        out->result = tnmi_engine_rehearse(e, request, tier, &out->need_bytes);
        uint64_t changed = e->changed;
        tnmi_engine_end_request(e, request);
        e->changed = changed; /* it held nothing: no waiting call may take it for progress */
        if (out->result != TNM_ABSENT) return TNM_OK;
        tnmi_door_grow(ctx);
        r = tnmi_door_are_named(ctx, set, count);
        if (r != TNM_OK) return r;
    }
}

TENSORMEM_API tnm_result tnm_why(tnm_ctx *ctx, const tnm_use *set, int count, tnm_shortage *out) {
    static const char call[] = "tnm_why";
    uint32_t tier = TNMI_NONE;
    if (out) memset(out, 0, sizeof *out);
    if (!ctx) return TNM_ERR_ARGUMENT;
    if (!out || count < 0 || (count > 0 && !set))
        return tnmi_door_reject(ctx, call, "an argument is missing");
    out->tier = -1;
    if (tnmi_door_inside(ctx))
        tnmi_door_lock(ctx);
    else
        tnmi_door_enter(ctx);
    tnm_result r = tnmi_door_check_set(ctx, set, count, call);
    if (r == TNM_OK) r = tnmi_door_rehearse(ctx, set, count, &tier, out);
    if (r == TNM_OK) {
        tnm_result standing = tnmi_engine_standing(&ctx->e, set, count);
        if (standing != TNM_PENDING && !tnmi_door_all_here(ctx, set, count, 1))
            out->result = standing;
        if (tnmi_door_if_ready(set, count) && !tnmi_door_all_here(ctx, set, count, 0))
            out->result = TNM_ABSENT;
        if (tier == TNMI_NONE && count > 0) tier = (uint32_t)set[0].tier;
        if (tier != TNMI_NONE) tnmi_door_shortage(ctx, tier, out);
    }
    return tnmi_door_leave(ctx, r);
}

#    ifndef TENSORMEM_NO_STDIO
static int tnmi_door_stdout(void *user, const char *text, uint64_t bytes) {
    (void)user;
    return fwrite(text, 1, (size_t)bytes, stdout) != (size_t)bytes;
}
#    endif

/* One row leaves the lock, the writer runs, the lock is taken again. 1 = the writer said no. */
static int tnmi_door_write(tnm_ctx *ctx, const tnm_writer *writer, tnmi_text *text) {
    tnmi_door_callback(ctx, 1);
    tnmi_door_unlock(ctx);
    int stop = (writer->write)(writer->user, text->at, text->used);
    tnmi_door_lock(ctx);
    tnmi_door_callback(ctx, -1);
    text->used = 0;
    return stop;
}

/* Tiers, then (as JSON) tensors: a few rows per hold of the lock. */
static int tnmi_door_dump(tnm_ctx *ctx, int json, const tnm_writer *writer, tnmi_text *text) {
    const tnmi_engine *e = &ctx->e;
    tnmi_watch_put(text, json ? "{\n  \"tensormem\": "
                              : "tier                     budget           peak           used"
                                "         pinned           hits           late         misses"
                                "       bytes in      bytes out      evictions\n");
    if (json) tnmi_watch_number(text, TNM_VERSION);
    if (json) tnmi_watch_put(text, ",\n  \"tiers\": [");
    for (uint32_t t = 0; t < e->tiers.count; t++) {
        tnm_tier_stats stats;
        memset(&stats, 0, sizeof stats);
        tnmi_door_stats(ctx, t, &stats);
        if (json)
            tnmi_watch_tier_json(e, t, &stats, text);
        else
            tnmi_watch_tier_text(e, t, &stats, text);
        if (tnmi_door_write(ctx, writer, text)) return 1;
    }
    if (!json) return 0;
    tnmi_watch_put(text, " ],\n  \"tensors\": [");
    int first = 1;
    for (uint32_t i = 1; i < e->tensors.names.fresh; i++) {
        if (i % TNMI_PIECE == 0) tnmi_door_breath(ctx);
        if (!(tnmi_tensor_at(&e->tensors, i)->flags & TNMI_NAMED)) continue;
        tnmi_watch_tensor_json(e, i, first, text);
        first = 0;
        if (text->used > text->size / 2 && tnmi_door_write(ctx, writer, text)) return 1;
    }
    tnmi_watch_put(text, " ]\n}\n");
    return tnmi_door_write(ctx, writer, text);
}

TENSORMEM_API tnm_result tnm_dump(tnm_ctx *ctx, tnm_dump_format format, const tnm_writer *writer) {
    char buffer[16384];
    tnmi_text text;
    tnm_writer to;
    const char *rule = NULL;
    memset(&to, 0, sizeof to);
    if (writer) to = *writer;
#    ifndef TENSORMEM_NO_STDIO
    else
        to.write = tnmi_door_stdout;
#    endif
    if (!to.write || ((int)format != TNM_DUMP_TEXT && (int)format != TNM_DUMP_JSON))
        rule = "no writer, or format is none of tnm_dump_format";
    if (!tnmi_door_begin(ctx, "tnm_dump", rule)) return TNM_ERR_ARGUMENT;
    text.at = buffer;
    text.size = sizeof buffer;
    text.used = 0;
    int stop = tnmi_door_dump(ctx, format == TNM_DUMP_JSON, &to, &text);
    return tnmi_door_leave(ctx, stop ? TNM_ERR_BACKEND : TNM_OK);
}

TENSORMEM_API int tnm_check(tnm_ctx *ctx) {
    if (!ctx) return 1;
    tnmi_door_lock(ctx);
    int broken = tnmi_watch_check(&ctx->e);
    tnmi_door_unlock(ctx);
    return broken;
}

TENSORMEM_API const char *tnm_result_string(tnm_result result) {
    return tnmi_tell_result(result);
}

TENSORMEM_API int tnm_version(void) {
    return TNM_VERSION;
}

#    ifdef __cplusplus
}
#    endif
#endif /* TENSORMEM_IMPLEMENTATION */
/* [end] --------------------------------------------------------------------- *
 * tensormem is available under two licences. Choose whichever you prefer.
 *
 * ----
 * ALTERNATIVE A - MIT License
 *
 * Copyright (c) 2026 the tensormem authors
 *
 * Permission is hereby granted, free of charge, to any person obtaining a copy of
 * this software and associated documentation files (the "Software"), to deal in
 * the Software without restriction, including without limitation the rights to
 * use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of
 * the Software, and to permit persons to whom the Software is furnished to do so,
 * subject to the following conditions:
 *
 * The above copyright notice and this permission notice shall be included in all
 * copies or substantial portions of the Software.
 *
 * THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
 * IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS
 * FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
 * COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER
 * IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
 * CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
 *
 * ----
 * ALTERNATIVE B - Public Domain (www.unlicense.org)
 *
 * This is free and unencumbered software released into the public domain.
 *
 * Anyone is free to copy, modify, publish, use, compile, sell, or distribute this
 * software, either in source code form or as a compiled binary, for any purpose,
 * commercial or non-commercial, and by any means.
 *
 * In jurisdictions that recognize copyright laws, the author or authors of this
 * software dedicate any and all copyright interest in the software to the public
 * domain. We make this dedication for the benefit of the public at large and to
 * the detriment of our heirs and successors. We intend this dedication to be an
 * overt act of relinquishment in perpetuity of all present and future rights to
 * this software under copyright law.
 *
 * THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
 * IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS
 * FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS BE
 * LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
 * CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE
 * SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
 * -------------------------------------------------------------------------- */
