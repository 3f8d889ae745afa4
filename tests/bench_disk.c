/* needs: -pthread */
/* bench_disk.c - bytes at the speed of the disk, and of memory.
 *
 * disk_write_*  tensors are built in a fast tier of FAST bytes and sent down at once (tnm_evict),
 *               until all of them lie in the spill file: what a spill costs from end to end.
 * disk_read_*   the same tensors come back one after the other, under a schedule, pinned and let go
 *               at once: nothing is computed, so the link is what is measured.
 * disk_model_*  the same sweep over an adopted file, whose tensors lie 32 bytes beside the pages.
 * Each by blocks of 128 KiB, 1 MiB and 4 MiB (the tensors; chunks are as by default), direct,
 * with as many copies at once as the tier hands out; the rival is fio with io_uring, direct, the
 * same block size and depth, in the same folder, run in turns with ours.
 * memory_*      the tensors come up one by one on demand, between two tiers of host memory,
 *               against memcpy of as many bytes between two buffers: the same sizes, from the same
 *               allocator with the same large pages, every page of either side touched before. In
 *               turns; the ratio is the median of each turn's.
 *
 * BENCH_DIR names the folder (default: build), BENCH_THREADS a number of threads instead of
 * io_uring. Every figure is the median of ROUNDS; a disk is noisy, hence the turns.
 */
#define _POSIX_C_SOURCE 200809L
#define _XOPEN_SOURCE   700
#define TENSORMEM_THREADS
#include "bench.h"

enum { ROUNDS = 5, TURNS = 61, BLOCKS = 3, DEPTH = 8, MOST = 4096 };
#define ALL  (UINT64_C(256) << 20)
#define FAST (UINT64_C(80) << 20)

static const uint64_t block_bytes[BLOCKS] = { 128 << 10, 1 << 20, 4 << 20 };
static const char *const block_name[BLOCKS] = { "128k", "1m", "4m" };
static const char *folder;
static tnm_tensor tensor[MOST];

static const char *path_of(const char *name) {
    static char path[2][512];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

/* MiB per second, or 0: fio is not there, or cannot */
static double fio(const char *rw, uint64_t block) {
    char line[4096], command[1024];
    double speed = 0;
    int field = strcmp(rw, "read") == 0 ? 7 : 48; /* of a terse line: KiB per second */
    snprintf(command, sizeof command,
             "fio --name=x --filename=%s --size=%llu --rw=%s --bs=%llu --ioengine=io_uring "
             "--iodepth=%d --direct=1 --output-format=terse 2>/dev/null",
             path_of("bench_fio.tmp"), (unsigned long long)ALL, rw, (unsigned long long)block,
             DEPTH);
    FILE *out = popen(command, "r");
    if (!out) return 0;
    while (fgets(line, sizeof line, out)) {
        const char *at = line;
        for (int i = 1; i < field && at; i++)
            at = strchr(at, ';') ? strchr(at, ';') + 1 : NULL;
        if (at && line[0] == '3') speed = strtod(at, NULL) / 1024;
    }
    pclose(out);
    return speed;
}

/* ---- ours ---- */
typedef struct {
    tnm_backend disk;
    tnm_ctx *ctx;
    uint32_t count;
    uint64_t block;
} house;

static void house_file(house *h, int spills) {
    tnm_file_desc desc;
    const char *threads = getenv("BENCH_THREADS");
    memset(&desc, 0, sizeof desc);
    if (spills) desc.path = folder;
    desc.direct = 1;
    desc.threads = threads ? (uint32_t)atoi(threads) : 0;
    bench_ok(tnm_file_open(&desc, &h->disk), "tnm_file_open");
}

static void house_open(house *h, uint64_t block, int tiers_of_memory, uint32_t alignment) {
    tnm_tier_desc tier[2];
    tnm_desc desc;
    memset(tier, 0, sizeof tier);
    memset(&desc, 0, sizeof desc);
    tier[0].name = "fast";
    tier[0].budget_bytes = FAST;
    tier[0].alignment = alignment;
    tier[1].name = "slow";
    tier[1].alignment = 4096;
    tier[1].segment_bytes = ALL;
    tier[1].queue_depth = tier[0].queue_depth = DEPTH;
    if (!tiers_of_memory) tier[1].backend = h->disk;
    desc.tiers = tier;
    desc.tier_count = 2;
    h->block = block;
    h->count = (uint32_t)(ALL / block);
    h->ctx = bench_create(&desc);
}

static void house_close(house *h) {
    bench_ok(tnm_destroy(h->ctx), "tnm_destroy");
    tnm_file_close(&h->disk);
}

static void settle(house *h) {
    tnm_tensor all = { 0 };
    tnm_result r;
    while ((r = tnm_flush(h->ctx, all, 1)) == TNM_PENDING)
        tnm_wait(h->ctx);
    bench_ok(r, "tnm_flush");
}

static double speed_of(uint64_t bytes, double seconds) {
    return (double)bytes / 1048576.0 / seconds;
}

/* Builds all tensors, and sends each down as soon as it is built. */
static double build(house *h) {
    double start = bench_wall();
    for (uint32_t i = 0; i < h->count; i++) {
        bench_touch(h->ctx, tensor[i], TNM_DISCARD);
        if (tnm_evict(h->ctx, tensor[i], 0) < 0) bench_die("tnm_evict");
        tnm_pump(h->ctx, TNM_ALL);
    }
    settle(h);
    return speed_of(ALL, bench_wall() - start);
}

static double sweep(house *h, int scheduled) {
    tnm_use *uses = (tnm_use *)bench_alloc(h->count, sizeof *uses);
    uint64_t before = bench_stats(h->ctx, 0).bytes_in;
    for (uint32_t i = 0; i < h->count; i++)
        uses[i] = bench_use(tensor[i], TNM_READ, i);
    if (scheduled) bench_ok(tnm_schedule(h->ctx, 0, uses, (int)h->count, h->count), "tnm_schedule");
    double start = bench_wall();
    for (uint32_t i = 0; i < h->count; i++) {
        if (scheduled) bench_ok(tnm_step(h->ctx, 0, i), "tnm_step");
        bench_touch(h->ctx, tensor[i], TNM_READ);
        if (scheduled) tnm_pump(h->ctx, TNM_ALL);
    }
    double seconds = bench_wall() - start;
    free(uses);
    return speed_of(bench_stats(h->ctx, 0).bytes_in - before, seconds);
}

/* Every page of the fast tier, as far as it is not set aside, so that no page fault is measured. */
static void touch_memory(house *h) {
    enum { PIECES = 20 };
    tnm_tensor t[PIECES];
    tnm_pinned at[PIECES];
    int made = 0, pinned = 0;
    while (made < PIECES && pinned == made) {
        t[made] = bench_tensor(h->ctx, FAST / PIECES, "warm");
        tnm_use use = bench_use(t[made++], TNM_DISCARD, 0);
        if (tnm_pin(h->ctx, &use, 1, &at[pinned]) == TNM_OK)
            memset(at[pinned++].host, 1, FAST / PIECES);
    }
    if (pinned < PIECES * 3 / 4) bench_die("the fast tier is smaller than its budget");
    bench_ok(tnm_unpin(h->ctx, at, pinned, 0), "tnm_unpin");
    while (made > 0)
        bench_ok(tnm_tensor_destroy(h->ctx, t[--made]), "tnm_tensor_destroy");
}

static void spill(uint64_t block, double *writes, double *reads) {
    house h;
    memset(&h, 0, sizeof h);
    house_file(&h, 1);
    house_open(&h, block, 0, 4096);
    touch_memory(&h);
    for (uint32_t i = 0; i < h.count; i++)
        tensor[i] = bench_tensor(h.ctx, block, "t");
    *writes = build(&h);
    *reads = sweep(&h, 1);
    house_close(&h);
}

static double model(uint64_t block) {
    house h;
    uint64_t mem, size;
    memset(&h, 0, sizeof h);
    house_file(&h, 0);
    bench_ok(tnm_file_adopt(&h.disk, path_of("bench_fio.tmp"), &mem, &size), "tnm_file_adopt");
    house_open(&h, block, 0, 256); /* a larger one leaves no place the odd start */
    touch_memory(&h);
    h.count--; /* 32 bytes beside the pages the last one would not fit */
    for (uint32_t i = 0; i < h.count; i++) {
        tnm_tensor_desc desc;
        tnm_adopt_desc adopt;
        memset(&desc, 0, sizeof desc);
        memset(&adopt, 0, sizeof adopt);
        desc.bytes = block;
        adopt.tier = 1;
        adopt.mem = mem;
        adopt.offset = i * block + 32;
        bench_ok(tnm_tensor_adopt(h.ctx, &desc, &adopt, &tensor[i]), "tnm_tensor_adopt");
    }
    double speed = sweep(&h, 1);
    house_close(&h);
    return speed;
}

static void line(const char *what, int block, double *ours, double *rivals, double target) {
    char name[64];
    double x = bench_median(ours, ROUNDS), y = bench_median(rivals, ROUNDS);
    snprintf(name, sizeof name, "disk_%s_%s", what, block_name[block]);
    bench_line(name, x, "MiB/s", "fio", x / y, BENCH_GE, target);
}

/* Files that were removed are given back to the disk when the journal is written, which would else
 * be in the middle of whoever writes next. */
static void calm(void) {
    sync();
}

static void disk(int block) {
    double writes[ROUNDS], reads[ROUNDS], models[ROUNDS], fio_writes[ROUNDS], fio_reads[ROUNDS];
    uint64_t bytes = block_bytes[block];
    for (int i = 0; i < ROUNDS; i++) {
        remove(path_of("bench_fio.tmp")); /* a fresh file, as the spill file is */
        calm();
        fio_writes[i] = fio("write", bytes);
        fio_reads[i] = fio("read", bytes);
        models[i] = model(bytes);
        calm();
        spill(bytes, &writes[i], &reads[i]);
    }
    line("write", block, writes, fio_writes, 0.9);
    line("read", block, reads, fio_reads, 0.9);
    for (int i = 0; i < ROUNDS; i++)
        if (fio_reads[i] <= 0) bench_die("fio failed");
    line("model", block, models, fio_reads, 0.9);
}

static unsigned char *host_memory(uint64_t size) { /* as a tier has it, every page touched */
    static tnmi_shelf_host heap;
    tnm_backend backend;
    uint64_t mem;
    void *at;
    tnmi_shelf_host_backend(&heap, &backend);
    bench_ok(backend.alloc(backend.user, size, 4096, NULL, &mem, &at), "alloc");
    memset(at, 1, (size_t)size);
    return (unsigned char *)at;
}

static void memory(int block, const unsigned char *from, unsigned char *to) {
    double ours[TURNS], ratio[TURNS];
    char name[64];
    uint64_t bytes = block_bytes[block];
    house h;
    memset(&h, 0, sizeof h);
    house_open(&h, bytes, 1, 4096);
    touch_memory(&h);
    for (uint32_t i = 0; i < h.count; i++)
        tensor[i] = bench_tensor(h.ctx, bytes, "t");
    build(&h);
    sweep(&h, 0); /* from now on each brings what it brought before */
    for (int i = 0; i < TURNS; i++) {
        double start = bench_wall();
        for (uint64_t at = 0; at < ALL; at += bytes)
            memcpy(to + at % FAST, from + at, (size_t)bytes);
        double rival = speed_of(ALL, bench_wall() - start);
        ours[i] = sweep(&h, 0);
        ratio[i] = ours[i] / rival;
    }
    house_close(&h);
    snprintf(name, sizeof name, "memory_%s", block_name[block]);
    bench_line(name, bench_median(ours, TURNS), "MiB/s", "memcpy", bench_median(ratio, TURNS),
               BENCH_GE, 0.95);
}

/* BENCH_PART: the words of the parts to run, all of them by default */
static int runs(const char *part) {
    const char *parts = getenv("BENCH_PART");
    return !parts || strstr(parts, part) != NULL;
}

int main(void) {
    house h;
    folder = getenv("BENCH_DIR") ? getenv("BENCH_DIR") : "build";
    bench_machine("disk");
    memset(&h, 0, sizeof h);
    house_file(&h, 1);
    printf("# %s\n", tnm_file_how(&h.disk));
    tnm_file_close(&h.disk);
    if (runs("memory")) {
        unsigned char *from = host_memory(ALL), *to = host_memory(FAST);
        for (int block = 0; block < BLOCKS; block++)
            memory(block, from, to);
    }
    if (!runs("disk")) return 0;
    if (fio("write", 1 << 20) <= 0) {
        printf("skip disk: fio with io_uring is not installed, or cannot write to %s\n", folder);
        return 0;
    }
    for (int block = 0; block < BLOCKS; block++)
        if (runs(block_name[block])) disk(block);
    remove(path_of("bench_fio.tmp"));
    return 0;
}
