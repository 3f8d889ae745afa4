/* bench_stream.c - layer sweeps from a real disk into host memory that holds a part of the model.
 *
 * A model of BENCH_BYTES (1 GiB) lies in a file; its tensors are swept in order, again and again,
 * within C bytes: 25, 50, 75 and 90 % of it. Tensors of 64 KiB, of 4 MiB, and with the sizes of an
 * 8B model's, scaled to the total and rounded up to pages. `clean` reads; `dirty` pins everything
 * for WRITE and changes it, so that what leaves is written (half as many bytes: each rival needs a
 * file of its own). All run the same kernel: in each page of 4 KiB it checks a word, and in a
 * dirty sweep it changes another. A page that is not what it must be ends the contestant.
 *
 * The contestants, each a process in a memory cgroup of its own, of C + SLACK bytes, that live side
 * by side and take turns, so that the disk's moods meet them all. A turn is as many sweeps as begin
 * within TURN seconds, as long as the raw reads take: a sweep of which nine tenths are resident is
 * over so soon that one alone measures whatever else the machine just did.
 *
 *   tensormem  adopted from the file, direct, with a schedule; tnm_pump after each unpin
 *   demand     the same without a word about what comes: recency, nothing read ahead
 *   mmap       the file mapped, read ahead as the system does it
 *   willneed   with madvise(MADV_WILLNEED) two tensors ahead
 *   sequential with madvise(MADV_SEQUENTIAL). These two run in rounds of their own, beside
 *              tensormem: two that map one file share its pages, and each spoils them for the other
 *   starpu     StarPU out of core, its unistd disk with O_DIRECT, STARPU_LIMIT_CPU_MEM = C, one
 *              worker, all tasks of a sweep submitted at once, in order; a file per tensor. malloc
 *              gives it large pages and keeps what it frees, which it would not have by itself:
 *              without, it is two to four times slower
 *   starpu_ahead  with starpu_data_prefetch_on_node two tensors ahead
 *   pread      O_DIRECT, 4 MiB at a time, one after the other, all of the file, into 32 MiB
 *
 * The bound is what must be read, N - C, at the rate the disk alone shows in the round: fio's
 * (io_uring, direct, block and depth as our file backend's) or pread's, whichever is higher. For a
 * dirty sweep it is twice the bytes at the rate fio shows with reads and writes mixed 50:50. Raw
 * reads go into large pages, as ours do. Each figure is a median of rounds, and so is each ratio; a
 * round is a turn of each, and its figure the mean of the sweeps in it.
 *
 *   stream_<tensors>_<mode>_<C>         GB/s of the model, against bound, mmap (the best of its
 *                                       three), StarPU (the best of its two)
 *   stream_<tensors>_<mode>_<C>_demand  the same without a schedule: recency against recency
 *   stream_overlap_<f>_<C>              a sweep with compute of f percent of the time of the I/O
 *                                       beside it, against the longer of the two alone
 *   # stream ...                        every contestant: GB/s, and the MiB a sweep read and wrote
 *
 * Arguments: tensors=4m,64k,llama mode=clean,dirty,overlap share=25,50,75,90 only=NAME,... each a
 * list; rounds=3. Without tensors, mode and share: 4m clean at all four, the rest at 50; `all` runs
 * everything. BENCH_DIR says where the files go (default build): twice BENCH_BYTES at most.
 */
#define _GNU_SOURCE
#include "bench.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#ifdef BENCH_STARPU
#    include <malloc.h>
#    include <starpu.h>
#endif

enum { PAGE = 4096, WORDS = PAGE / 8, AHEAD = 2, ROUNDS_MOST = 32 };
#define MIB       (UINT64_C(1) << 20)
#define FIO_BLOCK "4m"       /* the engine's chunk_bytes */
#define FIO_DEPTH "8"        /* and the tier's queue_depth */
#define RAW_RING  (32 * MIB) /* read into, as much as by fio: one buffer stays in a cache */
#define TURN      0.25       /* seconds */
#define SLACK     (24 * MIB) /* of the cgroup: the program itself, its tables, its page tables */
#define STAR_MORE (64 * MIB) /* StarPU, which keeps a little more than it is told, on top of that */

/* ---- the model: its tensors and what is in them ---- */

typedef struct {
    const char *name;
    int count, dirty;
    uint64_t *offset; /* count + 1 of them, multiples of PAGE */
    uint64_t total, largest;
    uint64_t room; /* C */
    char path[256], folder[256], spill[256];
} model;

static uint64_t word_at(uint64_t page, uint64_t k) {
    uint64_t z = (page * WORDS + k + 1) * UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    return z ^ (z >> 27);
}

static uint64_t llama_bytes(int i, uint64_t bytes) {
    uint64_t all = 0, one = bench_llama_bytes(i % BENCH_LLAMA_PARTS);
    for (int k = 0; k < BENCH_LLAMA_PARTS; k++)
        all += bench_llama_bytes(k) * BENCH_LLAMA_LAYERS;
    one = (uint64_t)((double)one / (double)all * (double)bytes);
    return (one + PAGE - 1) / PAGE * PAGE;
}

static void model_shape(model *m, const char *name, uint64_t bytes) {
    uint64_t tile = strcmp(name, "64k") == 0 ? 64 << 10 : 4 << 20;
    int llama = strcmp(name, "llama") == 0;
    m->name = name;
    m->count = llama ? BENCH_LLAMA_LAYERS * BENCH_LLAMA_PARTS : (int)(bytes / tile);
    m->offset = (uint64_t *)bench_alloc((size_t)m->count + 1, sizeof *m->offset);
    m->largest = 0;
    for (int i = 0; i < m->count; i++) {
        uint64_t one = llama ? llama_bytes(i, bytes) : tile;
        m->offset[i + 1] = m->offset[i] + one;
        if (one > m->largest) m->largest = one;
    }
    m->total = m->offset[m->count];
}

static void write_all(int fd, const void *from, uint64_t size) {
    const char *at = (const char *)from;
    while (size > 0) {
        ssize_t now = write(fd, at, (size_t)size);
        if (now <= 0) bench_die("cannot write: disk full?");
        at += now;
        size -= (uint64_t)now;
    }
}

/* Pages from `first` on. */
static int write_file(const char *path, uint64_t first, uint64_t size) {
    static uint64_t block[64 * WORDS];
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0) bench_die("cannot make a file in BENCH_DIR");
    for (uint64_t done = 0; done < size;) {
        uint64_t now = size - done < sizeof block ? size - done : sizeof block;
        for (uint64_t w = 0; w < now / 8; w++)
            block[w] = word_at(first + w / WORDS, w % WORDS);
        write_all(fd, block, now);
        done += now;
        first += now / PAGE;
    }
    return fd;
}

/* From the disk the next time somebody asks, and charged to him. */
static void forget(int fd) {
    if (fd < 0 || fsync(fd) != 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
        bench_die("cannot flush a file");
    close(fd);
}

static void forget_file(const char *path) {
    forget(open(path, O_RDONLY | O_CLOEXEC));
}

/* What every contestant does with a tensor: a word in each page, another one in each sweep, must be
 * right. A dirty sweep also counts the first one up; pages of one sweep have the same count. */
typedef struct {
    const model *m;
    uint64_t sweep, count;
    int known, bad;
} kernel;

static void kernel_touch(kernel *k, void *at, int i) {
    uint64_t page = k->m->offset[i] / PAGE, end = k->m->offset[i + 1] / PAGE;
    uint64_t *word = (uint64_t *)at;
    for (; page < end; page++, word += WORDS) {
        uint64_t other = 1 + (page * 7 + k->sweep * 131) % (WORDS - 1);
        k->bad |= word[other] != word_at(page, other);
        if (!k->m->dirty) continue;
        uint64_t count = word[0] - word_at(page, 0);
        if (!k->known) k->count = count;
        k->known = 1;
        k->bad |= count != k->count;
        word[0]++;
    }
}

static void kernel_next(kernel *k) {
    k->sweep++;
    if (k->m->dirty) k->count++;
}

/* ---- contestants ---- */

typedef struct contestant contestant;
struct contestant {
    const char *name;
    int (*open)(const model *m); /* 0 = cannot, and said why on stderr */
    void (*sweep)(kernel *k, int how, double compute);
    int how;
    contestant *host; /* whose process it shares */
    /* of the one that has the process */
    pid_t pid;
    int ask, answer;
    char group[300];
};

typedef struct {
    int how;
    double compute; /* seconds of it for the whole sweep */
} order;

typedef struct {
    double seconds;
    uint64_t read, written; /* of the disk, by the system's count */
    int bad;
} answer;

/* Work of a known time that no neighbour's I/O can shorten. */
static volatile uint64_t compute_sink;
static void compute_turn(uint64_t turns) {
    uint64_t z = compute_sink;
    for (uint64_t i = 0; i < turns; i++)
        z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9) + i;
    compute_sink = z;
}

static double compute_pace(void) { /* turns a second */
    static double pace;
    for (int i = 0; i < 5 && pace <= 0; i++) {
        double start = bench_wall();
        compute_turn(20000000);
        pace = 20000000 / (bench_wall() - start);
    }
    return pace;
}

/* -- ours -- */

static struct {
    const model *m;
    tnm_backend file;
    tnm_ctx *ctx;
    tnm_use *use;
    uint64_t step;
} our;

static int ours_open(const model *m, int scheduled) {
    tnm_tier_desc tier[2];
    tnm_file_desc file;
    tnm_desc desc;
    uint64_t mem, size;
    memset(tier, 0, sizeof tier);
    memset(&file, 0, sizeof file);
    memset(&desc, 0, sizeof desc);
    file.path = m->dirty ? m->spill : NULL;
    file.direct = 1;
    bench_ok(tnm_file_open(&file, &our.file), "tnm_file_open");
    bench_ok(tnm_file_adopt(&our.file, m->path, &mem, &size), "tnm_file_adopt");
    tier[0].name = "host";
    tier[0].budget_bytes = m->room;
    tier[0].alignment = PAGE; /* direct transfers want pages on both sides */
    tier[1].name = "storage";
    tier[1].backend = our.file;
    tier[1].alignment = PAGE;
    tier[1].segment_bytes = m->dirty ? 64 * MIB : 0;
    desc.tiers = tier;
    desc.tier_count = 2;
    desc.staging_bytes = 256 << 10; /* everything lies on pages: nothing is staged */
    our.ctx = bench_create(&desc);
    our.m = m;
    our.use = (tnm_use *)bench_alloc((size_t)m->count, sizeof *our.use);
    for (int i = 0; i < m->count; i++) {
        tnm_tensor_desc name;
        tnm_adopt_desc where;
        tnm_tensor t;
        memset(&name, 0, sizeof name);
        memset(&where, 0, sizeof where);
        name.bytes = m->offset[i + 1] - m->offset[i];
        where.tier = 1;
        where.mem = mem;
        where.offset = m->offset[i];
        bench_ok(tnm_tensor_adopt(our.ctx, &name, &where, &t), "tnm_tensor_adopt");
        our.use[i] = bench_use(t, m->dirty ? TNM_WRITE : TNM_READ, (uint64_t)i);
    }
    if (scheduled)
        bench_ok(tnm_schedule(our.ctx, 0, our.use, m->count, (uint32_t)m->count), "tnm_schedule");
    return 1;
}

static int ours_open_scheduled(const model *m) {
    return ours_open(m, 1);
}

static int ours_open_demand(const model *m) {
    return ours_open(m, 0);
}

enum { PLAIN, SCHEDULED, COMPUTE };

static void ours_sweep(kernel *k, int how, double compute) {
    double turns = compute * compute_pace() / (double)our.m->total;
    for (int i = 0; i < our.m->count; i++) {
        tnm_pinned at;
        uint64_t bytes = our.m->offset[i + 1] - our.m->offset[i];
        if (compute > 0 && how == COMPUTE) compute_turn((uint64_t)(turns * (double)bytes));
        if (how == COMPUTE) continue;
        if (how == SCHEDULED) bench_ok(tnm_step(our.ctx, 0, our.step++), "tnm_step");
        bench_ok(tnm_pin(our.ctx, &our.use[i], 1, &at), "tnm_pin");
        kernel_touch(k, at.host, i);
        if (compute > 0) compute_turn((uint64_t)(turns * (double)bytes));
        bench_ok(tnm_unpin(our.ctx, &at, 1, 0), "tnm_unpin");
        if (how == SCHEDULED && tnm_pump(our.ctx, TNM_ALL) < 0) bench_die("tnm_pump");
    }
}

/* -- mmap -- */

enum { MAP_PLAIN, MAP_WILLNEED, MAP_SEQUENTIAL };

static struct {
    const model *m;
    char *at;
    int advice;
} map;

static int map_open(const model *m) {
    int fd = open(m->path, m->dirty ? O_RDWR : O_RDONLY);
    int how = m->dirty ? PROT_READ | PROT_WRITE : PROT_READ;
    map.m = m;
    if (fd < 0) return 0;
    map.at = (char *)mmap(NULL, (size_t)m->total, how, MAP_SHARED, fd, 0);
    close(fd);
    return map.at != MAP_FAILED;
}

static void map_sweep(kernel *k, int how, double compute) {
    const model *m = map.m;
    int advice = how == MAP_SEQUENTIAL ? MADV_SEQUENTIAL : MADV_NORMAL;
    (void)compute;
    (void)madvise(map.at, (size_t)m->total, advice);
    for (int i = 0; i < m->count; i++) {
        int next = (i + AHEAD) % m->count;
        if (how == MAP_WILLNEED) {
            size_t size = (size_t)(m->offset[next + 1] - m->offset[next]);
            (void)madvise(map.at + m->offset[next], size, MADV_WILLNEED);
        }
        kernel_touch(k, map.at + m->offset[i], i);
    }
}

/* -- one pread after the other -- */

static struct {
    int fd;
    void *block;
} raw;

static int raw_open(const model *m) {
    raw.fd = open(m->path, O_RDONLY | O_DIRECT);
    if (raw.fd < 0 || posix_memalign(&raw.block, 4 * MIB, RAW_RING) != 0) return 0;
    (void)madvise(raw.block, RAW_RING, MADV_HUGEPAGE);
    memset(raw.block, 1, RAW_RING);
    return 1;
}

static void raw_sweep(kernel *k, int how, double compute) {
    (void)how;
    (void)compute;
    for (uint64_t at = 0; at < k->m->total; at += 4 * MIB)
        if (pread(raw.fd, (char *)raw.block + at % RAW_RING, 4 * MIB, (off_t)at) <= 0)
            bench_die("pread");
}

/* -- StarPU out of core -- */

enum { STARPU_PLAIN, STARPU_AHEAD };
#ifdef BENCH_STARPU
static struct {
    const model *m;
    starpu_data_handle_t *handle;
    kernel *k;
} star;

static void star_work(void *buffers[], void *arg) {
    kernel_touch(star.k, (void *)STARPU_VECTOR_GET_PTR(buffers[0]), (int)(intptr_t)arg);
}

static struct starpu_codelet star_codelet;

static int star_open(const model *m) {
    struct starpu_conf conf;
    char mib[32];
    snprintf(mib, sizeof mib, "%llu", (unsigned long long)(m->room / MIB));
    setenv("STARPU_LIMIT_CPU_MEM", mib, 1);
    setenv("STARPU_SILENT", "1", 0);
    (void)mallopt(M_MMAP_THRESHOLD, 1 << 30);
    (void)mallopt(M_TRIM_THRESHOLD, 1 << 30);
    (void)mallopt(M_ARENA_MAX, 1);
    starpu_conf_init(&conf);
    conf.ncpus = 1;
    conf.ncuda = 0;
    conf.nopencl = 0;
    if (starpu_init(&conf) != 0) return 0;
    starpu_ssize_t limit = (starpu_ssize_t)(m->total + 64 * MIB);
    char *folder = strdup(m->folder);
    int disk = starpu_disk_register(&starpu_disk_unistd_o_direct_ops, folder, limit);
    if (disk < 0) return 0;
    star.m = m;
    star.handle = (starpu_data_handle_t *)bench_alloc((size_t)m->count, sizeof *star.handle);
    for (int i = 0; i < m->count; i++) {
        uint64_t size = m->offset[i + 1] - m->offset[i];
        char *name = (char *)bench_alloc(1, 16);
        snprintf(name, 16, "t%05d", i);
        void *object = starpu_disk_open((unsigned)disk, name, size);
        if (!object) return 0;
        starpu_vector_data_register(&star.handle[i], disk, (uintptr_t)object, (uint32_t)(size / 8),
                                    8);
    }
    starpu_codelet_init(&star_codelet);
    star_codelet.cpu_funcs[0] = star_work;
    star_codelet.nbuffers = 1;
    star_codelet.modes[0] = m->dirty ? STARPU_RW : STARPU_R;
    starpu_pause(); /* its worker spins: not beside the others */
    return 1;
}

static void star_sweep(kernel *k, int how, double compute) {
    const model *m = star.m;
    (void)compute;
    star.k = k;
    starpu_resume();
    for (int i = 0; i < m->count; i++) {
        struct starpu_task *task = starpu_task_create();
        if (how == STARPU_AHEAD) {
            starpu_data_handle_t next = star.handle[(i + AHEAD) % m->count];
            (void)starpu_data_prefetch_on_node(next, STARPU_MAIN_RAM, 1);
            task->synchronous = 1;
        }
        task->cl = &star_codelet;
        task->handles[0] = star.handle[i];
        task->cl_arg = (void *)(intptr_t)i;
        task->cl_arg_free = 0;
        if (starpu_task_submit(task) != 0) bench_die("starpu_task_submit");
    }
    starpu_task_wait_for_all();
    starpu_pause();
}
#endif

/* ---- a memory cgroup for each process ---- */

static char group_root[128]; /* empty: there are none, and why: */
static const char *group_why = "no memory cgroup here";
static int group_version;

static int put_text(const char *folder, const char *file, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0) close(fd);
    return good;
}

static void group_find(void) {
    static const char v1[] = "/sys/fs/cgroup/memory", v2[] = "/sys/fs/cgroup";
    if (geteuid() != 0) {
        group_why = "a memory cgroup needs root";
    } else if (access("/sys/fs/cgroup/memory/memory.limit_in_bytes", F_OK) == 0) {
        memcpy(group_root, v1, sizeof v1);
        group_version = 1;
    } else if (access("/sys/fs/cgroup/cgroup.subtree_control", F_OK) == 0 &&
               put_text(v2, "cgroup.subtree_control", "+memory")) {
        memcpy(group_root, v2, sizeof v2);
        group_version = 2;
    }
}

static int group_make(char *folder, size_t size, const char *name, uint64_t limit) {
    char text[32];
    snprintf(folder, size, "%s/tnm_bench_%ld_%s", group_root, (long)getpid(), name);
    snprintf(text, sizeof text, "%llu", (unsigned long long)limit);
    if (mkdir(folder, 0755) != 0 && errno != EEXIST) return 0;
    if (group_version == 2) (void)put_text(folder, "memory.swap.max", "0");
    return put_text(folder, group_version == 1 ? "memory.limit_in_bytes" : "memory.max", text);
}

/* ---- the process of a contestant ---- */

static uint64_t io_count(const char *what) { /* of /proc/self/io: what reached the disk */
    char line[128];
    unsigned long long n = 0, found = 0;
    FILE *f = fopen("/proc/self/io", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, what, strlen(what)) == 0 &&
            sscanf(line + strlen(what), ": %llu", &n) == 1)
            found = n;
    }
    if (f) fclose(f);
    return found;
}

static void child_run(contestant *c, const model *m, int ask, int reply) {
    kernel k;
    order o;
    answer a;
    memset(&k, 0, sizeof k);
    k.m = m;
    memset(&a, 0, sizeof a);
    a.bad = !c->open(m);
    (void)compute_pace();
    if (write(reply, &a, sizeof a) != (ssize_t)sizeof a) _exit(1);
    while (!a.bad && read(ask, &o, sizeof o) == (ssize_t)sizeof o) {
        uint64_t in = io_count("read_bytes"), out = io_count("write_bytes"), sweeps = 0;
        double start = bench_wall(), spent = 0;
        for (; spent < TURN && !k.bad; sweeps++) {
            c->sweep(&k, o.how, o.compute);
            kernel_next(&k);
            spent = bench_wall() - start;
        }
        a.seconds = spent / (double)sweeps;
        a.read = (io_count("read_bytes") - in) / sweeps;
        a.written = (io_count("write_bytes") - out) / sweeps;
        a.bad = k.bad;
        if (write(reply, &a, sizeof a) != (ssize_t)sizeof a) _exit(1);
    }
    _exit(0); /* no tidy end: the next contestant waits */
}

static int child_answer(contestant *c, answer *a) {
    if (read(c->answer, a, sizeof *a) == (ssize_t)sizeof *a && !a->bad) return 1;
    fprintf(stderr, "bench: %s: %s\n", c->name,
            a->bad ? "could not start, or a page was not what it must be"
                   : "ended: out of memory?");
    return 0;
}

static int child_start(contestant *c, const model *m) {
    int ask[2], reply[2];
    answer a;
    memset(&a, 0, sizeof a);
    if (pipe(ask) != 0 || pipe(reply) != 0) bench_die("pipe");
    if (group_version && !group_make(c->group, sizeof c->group, c->name, m->room + SLACK))
        bench_die("cannot make a memory cgroup");
    fflush(stdout);
    c->pid = fork();
    if (c->pid < 0) bench_die("fork");
    if (c->pid == 0) {
        char pid[32];
        snprintf(pid, sizeof pid, "%ld", (long)getpid());
        close(ask[1]);
        close(reply[0]);
        if (group_version && !put_text(c->group, "cgroup.procs", pid)) _exit(1);
        child_run(c, m, ask[0], reply[1]);
    }
    close(ask[0]);
    close(reply[1]);
    c->ask = ask[1];
    c->answer = reply[0];
    return child_answer(c, &a);
}

static void child_stop(contestant *c) {
    int status;
    if (c->pid <= 0) return;
    close(c->ask);
    close(c->answer);
    (void)kill(c->pid, SIGKILL); /* StarPU would take its time */
    (void)waitpid(c->pid, &status, 0);
    for (int i = 0; group_version && i < 50 && rmdir(c->group) != 0; i++)
        usleep(20000);
    c->pid = 0;
}

static int child_sweep(contestant *c, double compute, answer *a) {
    contestant *host = c->host ? c->host : c;
    order o;
    memset(&o, 0, sizeof o);
    o.how = c->how;
    o.compute = compute;
    if (host->pid <= 0) return 0;
    if (write(host->ask, &o, sizeof o) != (ssize_t)sizeof o || !child_answer(host, a)) {
        child_stop(host);
        return 0;
    }
    return 1;
}

/* ---- the disk alone: fio ---- */

static int fio_here(void) {
    return system("command -v fio >/dev/null 2>&1") == 0;
}

/* Bytes a second, reads and writes together; 0 = fio could not. */
static double fio_rate(const model *m, const char *path) {
    char command[1024], line[4096];
    double kib[2] = { 0, 0 };
    snprintf(command, sizeof command,
             "fio --name=raw --filename=%s --rw=%s --bs=%s "
             "--iodepth=%s --ioengine=io_uring "
             "--direct=1 --invalidate=0 --size=%llu %s --output-format=terse --terse-version=3 "
             "2>/dev/null",
             path, m->dirty ? "rw" : "read", FIO_BLOCK, FIO_DEPTH, (unsigned long long)m->total,
             m->dirty ? "" : "--readonly");
    FILE *f = popen(command, "r");
    if (f && fgets(line, sizeof line, f)) {
        int field = 1;
        for (char *at = strtok(line, ";"); at; at = strtok(NULL, ";"), field++) {
            if (field == 7) kib[0] = atof(at);
            if (field == 48) kib[1] = atof(at);
        }
    }
    if (f) pclose(f);
    return 1024 * (kib[0] + kib[1]);
}

/* ---- rounds ---- */

enum { OURS, DEMAND, MMAP, WILLNEED, SEQUENTIAL, STARPU, STARPU2, PREAD, CONTESTANTS };

#ifndef BENCH_STARPU
static int star_open(const model *m) {
    (void)m;
    return 0;
}

static void star_sweep(kernel *k, int how, double compute) {
    (void)k;
    (void)how;
    (void)compute;
}
#endif

static contestant all[CONTESTANTS] = {
    { "tensormem", ours_open_scheduled, ours_sweep, SCHEDULED, NULL, 0, 0, 0, "" },
    { "demand", ours_open_demand, ours_sweep, PLAIN, NULL, 0, 0, 0, "" },
    { "mmap", map_open, map_sweep, MAP_PLAIN, NULL, 0, 0, 0, "" },
    { "willneed", map_open, map_sweep, MAP_WILLNEED, NULL, 0, 0, 0, "" },
    { "sequential", map_open, map_sweep, MAP_SEQUENTIAL, NULL, 0, 0, 0, "" },
    { "starpu", star_open, star_sweep, STARPU_PLAIN, NULL, 0, 0, 0, "" },
    { "starpu_ahead", star_open, star_sweep, STARPU_AHEAD, &all[STARPU], 0, 0, 0, "" },
    { "pread", raw_open, raw_sweep, 0, NULL, 0, 0, 0, "" },
};

typedef struct {
    const char *tensors, *mode, *share, *only; /* lists; NULL = all */
    const char *folder;
    uint64_t bytes;
    int rounds, fio, brief;
} options;

typedef struct {
    double seconds[ROUNDS_MOST], read[ROUNDS_MOST], written[ROUNDS_MOST];
    double ours[ROUNDS_MOST]; /* tensormem's seconds in the same rounds, if they were others */
    int here;
} figures;

static int listed(const char *list, const char *name) {
    size_t n = strlen(name);
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, name, n) == 0 && (at[n] == 0 || at[n] == ',')) return 1;
    }
    return !list;
}

static const char *absent(int c, const model *m) { /* why it does not run here */
    if ((c == MMAP || c == WILLNEED || c == SEQUENTIAL) && !group_version) return group_why;
    if (c == PREAD && m->dirty) return "it only reads";
#ifndef BENCH_STARPU
    if (c == STARPU || c == STARPU2) return "compiled without it (pkg-config starpu-1.3)";
#endif
    return NULL;
}

static void round_one(int c, int r, figures *f) {
    answer a;
    if (!f->here) return;
    f->here = child_sweep(&all[c], 0, &a);
    if (r < 0 || !f->here) return;
    f->seconds[r] = a.seconds;
    f->read[r] = (double)a.read;
    f->written[r] = (double)a.written;
}

/* rival over ours, round by round: how many times as fast we are */
static double times_as_fast(const double *rival, const double *ours, int rounds) {
    double v[ROUNDS_MOST];
    for (int r = 0; r < rounds; r++)
        v[r] = rival[r] / ours[r];
    return bench_median(v, rounds);
}

static double middle(const double *from, int rounds) {
    double v[ROUNDS_MOST];
    memcpy(v, from, (size_t)rounds * sizeof *v);
    return bench_median(v, rounds);
}

static int best_of(const figures *f, int from, int to, int rounds) {
    int best = -1;
    for (int c = from; c <= to; c++) {
        if (!f[c].here) continue;
        if (best < 0 || middle(f[c].seconds, rounds) < middle(f[best].seconds, rounds)) best = c;
    }
    return best;
}

static void report(const model *m, const char *name, const figures *f, const double *rate,
                   int rounds) {
    double gb = (double)m->total / 1e9, must = (double)(m->total - m->room) * (m->dirty ? 2 : 1);
    double bound[ROUNDS_MOST];
    int map_best = best_of(f, MMAP, SEQUENTIAL, rounds);
    int star_best = best_of(f, STARPU, STARPU2, rounds);
    for (int r = 0; r < rounds; r++) {
        double alone = f[PREAD].here ? (double)m->total / f[PREAD].seconds[r] : 0;
        bound[r] = must / (rate[r] > alone ? rate[r] : alone);
    }
    if (rate[0] > 0)
        printf("# stream %s bound gbs=%.4g fio=%.4g GB/s\n", name, gb / middle(bound, rounds),
               middle(rate, rounds) / 1e9);
    for (int c = 0; c < CONTESTANTS; c++) {
        if (!f[c].here) continue;
        printf("# stream %s %s gbs=%.4g read=%.0f written=%.0f MiB a sweep\n", name, all[c].name,
               gb / middle(f[c].seconds, rounds), middle(f[c].read, rounds) / (double)MIB,
               middle(f[c].written, rounds) / (double)MIB);
    }
    for (int c = OURS; c <= DEMAND; c++) {
        double ours = gb / middle(f[c].seconds, rounds);
        char line[96];
        snprintf(line, sizeof line, "stream_%s%s", name, c == DEMAND ? "_demand" : "");
        if (!f[c].here) continue;
        if (rate[0] > 0 && c == OURS)
            bench_line(line, ours, "GB/s", "bound", times_as_fast(bound, f[c].seconds, rounds),
                       BENCH_GE, 0.9);
        if (map_best >= 0) {
            int apart = c == OURS && map_best != MMAP;
            bench_line(
                line, ours, "GB/s", all[map_best].name,
                times_as_fast(f[map_best].seconds, apart ? f[map_best].ours : f[c].seconds, rounds),
                BENCH_GE, c == OURS ? 1.8 : 1);
        }
        if (star_best >= 0)
            bench_line(line, ours, "GB/s", all[star_best].name,
                       times_as_fast(f[star_best].seconds, f[c].seconds, rounds), BENCH_GE,
                       c == OURS ? 1.8 : 1);
    }
}

static void enter(int c, const model *m, const options *o, const char *name, figures *f) {
    const char *why = absent(c, m);
    f->here = 0;
    if (!listed(o->only, all[c].name)) return;
    if (why && all[c].host == NULL) printf("skip stream_%s_%s: %s\n", name, all[c].name, why);
    if (why) return;
    f->here = all[c].host ? all[c].host->pid > 0 : child_start(&all[c], m);
    if (!f->here) printf("skip stream_%s_%s: it could not start\n", name, all[c].name);
}

/* One contestant and ours, with nobody else who has pages of the file. */
static void compete_apart(int c, const model *m, const options *o, const char *name, figures *f) {
    static figures ours;
    forget_file(m->path);
    enter(c, m, o, name, f);
    if (!f->here) return;
    enter(OURS, m, o, name, &ours);
    for (int r = -1; r < o->rounds; r++) {
        round_one(c, r, f);
        round_one(OURS, r, &ours);
    }
    f->here = f->here && ours.here;
    memcpy(f->ours, ours.seconds, sizeof f->ours);
    child_stop(&all[c]);
    child_stop(&all[OURS]);
}

static void compete(model *m, const options *o, const char *name) {
    static figures f[CONTESTANTS];
    double rate[ROUNDS_MOST];
    char beside[300];
    memset(f, 0, sizeof f);
    snprintf(beside, sizeof beside, "%s.fio", m->path);
    if (m->dirty && o->fio) forget(write_file(beside, 0, m->total));
    for (int c = 0; c < CONTESTANTS; c++) {
        if (c != WILLNEED && c != SEQUENTIAL) enter(c, m, o, name, &f[c]);
    }
    for (int r = -1; r < o->rounds; r++) {
        if (r >= 0) rate[r] = o->fio ? fio_rate(m, m->dirty ? beside : m->path) : 0;
        for (int c = 0; c < CONTESTANTS; c++) {
            if (c != WILLNEED && c != SEQUENTIAL) round_one(c, r, &f[c]);
        }
    }
    for (int c = 0; c < CONTESTANTS; c++)
        child_stop(&all[c]);
    if (f[OURS].here) {
        compete_apart(WILLNEED, m, o, name, &f[WILLNEED]);
        compete_apart(SEQUENTIAL, m, o, name, &f[SEQUENTIAL]);
    }
    (void)unlink(beside);
    report(m, name, f, rate, o->rounds);
}

/* ---- compute beside the I/O ---- */

static void overlap(const model *m, const options *o, int percent_room) {
    static const int percent[3] = { 50, 100, 200 };
    double ratio[3][ROUNDS_MOST], wall[3][ROUNDS_MOST];
    contestant *c = &all[OURS];
    answer io, alone, both;
    if (!child_start(c, m)) bench_die("cannot start");
    for (int r = -2; r < o->rounds; r++) {
        if (!child_sweep(c, 0, &io)) bench_die("a sweep failed");
        for (int i = 0; i < 3 && r >= 0; i++) {
            double compute = io.seconds * percent[i] / 100;
            c->how = COMPUTE;
            if (!child_sweep(c, compute, &alone)) bench_die("a sweep failed");
            c->how = SCHEDULED;
            if (!child_sweep(c, compute, &both) || !child_sweep(c, 0, &io))
                bench_die("a sweep failed");
            wall[i][r] = both.seconds;
            ratio[i][r] = both.seconds / (alone.seconds > io.seconds ? alone.seconds : io.seconds);
        }
    }
    child_stop(c);
    for (int i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "stream_overlap_%d_%d", percent[i], percent_room);
        bench_line(name, bench_median(wall[i], o->rounds), "s", "max_of_compute_and_io",
                   bench_median(ratio[i], o->rounds), BENCH_LE, 1.05);
    }
}

/* ---- the whole ---- */

static void tiles_make(const model *m) {
    char path[300];
    (void)mkdir(m->folder, 0700);
    for (int i = 0; i < m->count; i++) {
        snprintf(path, sizeof path, "%s/t%05d", m->folder, i);
        close(write_file(path, m->offset[i] / PAGE, m->offset[i + 1] - m->offset[i]));
    }
    sync(); /* once for all: thousands of files */
    for (int i = 0; i < m->count; i++) {
        snprintf(path, sizeof path, "%s/t%05d", m->folder, i);
        forget_file(path);
    }
}

static void tiles_remove(const model *m) {
    char path[300];
    for (int i = 0; i < m->count; i++) {
        snprintf(path, sizeof path, "%s/t%05d", m->folder, i);
        (void)unlink(path);
    }
    (void)rmdir(m->folder);
}

static void sweep_model(const options *o, const char *tensors, const char *mode) {
    static const char *const share[4] = { "25", "50", "75", "90" };
    model m;
    int over = strcmp(mode, "overlap") == 0;
    memset(&m, 0, sizeof m);
    m.dirty = strcmp(mode, "dirty") == 0;
    snprintf(m.path, sizeof m.path, "%s/bench_stream.model", o->folder);
    snprintf(m.folder, sizeof m.folder, "%s/bench_stream.tiles", o->folder);
    snprintf(m.spill, sizeof m.spill, "%s/bench_stream.spill", o->folder);
    model_shape(&m, tensors, m.dirty ? o->bytes / 2 : o->bytes);
    forget(write_file(m.path, 0, m.total));
#ifdef BENCH_STARPU
    if (!over && listed(o->only, "starpu")) tiles_make(&m);
#endif
    for (int i = 0; i < 4; i++) {
        char name[64];
        int percent = atoi(share[i]);
        if (!listed(o->share, share[i])) continue;
        if (o->brief && percent != 50 && (m.dirty || over || strcmp(tensors, "4m") != 0)) continue;
        m.room = m.total * (uint64_t)percent / 100 / PAGE * PAGE;
        snprintf(name, sizeof name, "%s_%s_%s", tensors, mode, share[i]);
        forget_file(m.path);
        if (over)
            overlap(&m, o, percent);
        else
            compete(&m, o, name);
    }
    tiles_remove(&m);
    (void)unlink(m.path);
    free(m.offset);
}

static void options_read(options *o, int argc, char **argv) {
    const char *bytes = getenv("BENCH_BYTES"), *folder = getenv("BENCH_DIR");
    memset(o, 0, sizeof *o);
    o->rounds = 3;
    o->brief = 1;
    o->bytes = bytes ? strtoull(bytes, NULL, 10) : 1024 * MIB;
    o->folder = folder ? folder : "build";
    o->fio = fio_here();
    for (int i = 1; i < argc; i++) {
        const char *is = strchr(argv[i], '=');
        if (!is && strcmp(argv[i], "all") != 0)
            bench_die("arguments are all, tensors= mode= share= rounds= only=");
        if (!is) o->brief = 0;
        if (!is) continue;
        if (strncmp(argv[i], "tensors=", 8) == 0) o->tensors = is + 1;
        if (strncmp(argv[i], "mode=", 5) == 0) o->mode = is + 1;
        if (strncmp(argv[i], "share=", 6) == 0) o->share = is + 1;
        if (strncmp(argv[i], "only=", 5) == 0) o->only = is + 1;
        if (strncmp(argv[i], "rounds=", 7) == 0) o->rounds = atoi(is + 1);
    }
    if (o->tensors || o->mode || o->share) o->brief = 0;
    if (o->rounds < 1 || o->rounds > ROUNDS_MOST) bench_die("rounds= is 1 to 32");
    if (o->bytes < 64 * MIB) bench_die("BENCH_BYTES is at least 64 MiB");
}

int main(int argc, char **argv) {
    static const char *const tensors[3] = { "4m", "64k", "llama" };
    static const char *const mode[3] = { "clean", "dirty", "overlap" };
    options o;
    if (!getenv("GLIBC_TUNABLES")) { /* large pages for everybody's malloc, fio's too */
        setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1", 1);
        execv("/proc/self/exe", argv);
    }
    options_read(&o, argc, argv);
    bench_machine("stream");
    signal(SIGPIPE, SIG_IGN);
    group_find();
    if (!o.fio) printf("skip stream_bound: fio is not installed\n");
    for (int t = 0; t < 3; t++) {
        for (int k = 0; k < 3; k++) {
            if (!listed(o.tensors, tensors[t]) || !listed(o.mode, mode[k])) continue;
            if (t == 0 || k != 2) sweep_model(&o, tensors[t], mode[k]);
        }
    }
    return 0;
}
