/* bench_sim.c - the policy on hardware nobody here has: simulated links in virtual time.
 *
 * Tiers are paper, links have a rate and a latency (links.h), and a program of steps computes for
 * a given time at each. What is real is the engine: what it fetches, when, over which link, and
 * what leaves for it. Each scenario prints
 *
 *   bench sim_<scenario>_overlap value=<virtual ms> unit=ms rival=compute_or_busiest_link ...
 *
 * where the rival is max(compute, the busiest link's work): what the wall would be if everything
 * overlapped. In front of it a line for people: compute, the work of each link, and where the
 * difference went, as time the program stood still:
 *
 *   miss        the bytes were asked for by nobody before the pin
 *   late        they were under way when the pin came
 *   eviction    they waited for room: pins, claims, fences, copies that read a victim
 *   write-back  they waited for room that a dirty victim's bytes still held
 *
 * and the clairvoyant bound: max(compute, the bytes no policy can avoid / the link's rate). A sweep
 * of N bytes through a tier of C moves N - C at least; the MoE bound is Belady's, which knows what
 * nobody is told: beside it stands the best that these guesses allow. A scenario that is played
 * with three ratios of compute to transfer prints the worst of them.
 *
 * Same program, same links: same virtual times (no clock is read). BENCH_ARGS: the start of a
 * scenario's name picks.
 */
#include "bench.h"
#include "links.h"

enum { USES = 65536, SET = 4096, NODES = TNM_MAX_TIERS };
enum { MISS, LATE, EVICTION, WRITE_BACK, CAUSES };

typedef struct sim {
    links w; /* first: the context's callbacks get a pointer to it */
    tnm_ctx *ctx;
    /* the pin that waits now */
    const tnm_use *asked;
    int count, pinning;
    int absent[SET];
    uint64_t stall[CAUSES], wasted;
    int threaded; /* a pump at each completion, as a pump thread does; else one a step */
} sim;

static sim S;
static const char *pick = "";

static int picked(const char *name) {
    return strncmp(name, pick, strlen(pick)) == 0;
}

/* ---- where a pin that waits loses its time ---- */
static int op_waits(const tnmi_op *op, int *dirty) {
    const tnmi_engine *e = &S.ctx->e;
    if (op->state != TNMI_OP_ROOM) return 0;
    for (uint32_t i = e->move.live_copy; i != TNMI_NONE; i = e->move.copy[i].next) {
        const tnmi_op *other = tnmi_engine_op(e, e->move.copy[i].op);
        if (other->kind == TNMI_OP_FILL && other->from != TNMI_NONE && other->from < other->tier)
            *dirty = 1;
    }
    return 1;
}

static int cause(void) {
    const tnmi_engine *e = &S.ctx->e;
    int waits = 0, dirty = 0, missed = 0;
    for (int i = 0; i < S.count; i++) {
        tnm_result why;
        uint32_t content = tnmi_tensor_find(&e->tensors, S.asked[i].tensor.id, &why);
        const tnmi_replica *r = tnmi_engine_on(e, content, (uint32_t)S.asked[i].tier);
        if (r && tnmi_tensor_is_ready(r)) continue;
        if (tnmi_engine_is_busy(r)) waits |= op_waits(tnmi_engine_filling(e, r), &dirty);
        missed |= S.absent[i];
    }
    return waits ? dirty ? WRITE_BACK : EVICTION : missed ? MISS : LATE;
}

static int sim_idle(void *user, uint64_t rounds) {
    uint64_t next = links_next(&S.w);
    (void)user;
    if (next == LINKS_NEVER) return rounds > 8;
    if (S.pinning) S.stall[cause()] += next - S.w.now;
    S.w.now = next;
    return 0;
}

static void sim_pin(const tnm_use *uses, int count, tnm_pinned *pinned) {
    S.asked = uses;
    S.count = count;
    for (int i = 0; i < count; i++) {
        tnm_tensor_info info;
        bench_ok(tnm_info(S.ctx, uses[i].tensor, uses[i].tier, &info), "tnm_info");
        S.absent[i] = info.state == TNM_STATE_ABSENT;
    }
    S.pinning = 1;
    bench_ok(tnm_pin(S.ctx, uses, count, pinned), "tnm_pin");
    S.pinning = 0;
}

static tnm_desc sim_desc(const tnm_tier_desc *tiers, int count) {
    tnm_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.tiers = tiers;
    desc.tier_count = count;
    desc.user = &S;
    desc.idle = sim_idle;
    desc.passed = links_passed;
    return desc;
}

static void sim_open(const tnm_desc *desc) {
    bench_ok(tnm_create(desc, &S.ctx), "tnm_create");
}

static void sim_close(void) {
    for (int t = 0; t < S.ctx->desc.tier_count; t++)
        S.wasted += bench_stats(S.ctx, t).prefetches_wasted;
    bench_ok(tnm_destroy(S.ctx), "tnm_destroy");
}

static void sim_reset(void) {
    memset(&S, 0, sizeof S);
    S.threaded = 1;
}

/* ---- one measured stretch ---- */
typedef struct stretch {
    uint64_t wall, compute, busy[LINKS_MOST], bytes[LINKS_MOST], stall[CAUSES];
    double bound; /* clairvoyant, ns */
} stretch;

static stretch stretch_now(void) {
    stretch s;
    memset(&s, 0, sizeof s);
    s.wall = S.w.now;
    s.compute = S.w.computed;
    for (int i = 0; i < S.w.count; i++) {
        s.busy[i] = links_busy(&S.w, i);
        s.bytes[i] = S.w.link[i].bytes;
    }
    memcpy(s.stall, S.stall, sizeof s.stall);
    return s;
}

static stretch stretch_since(const stretch *from) {
    stretch s = stretch_now();
    s.wall -= from->wall;
    s.compute -= from->compute;
    for (int i = 0; i < S.w.count; i++) {
        s.busy[i] -= from->busy[i];
        s.bytes[i] -= from->bytes[i];
    }
    for (int i = 0; i < CAUSES; i++)
        s.stall[i] -= from->stall[i];
    return s;
}

static double stretch_rival(const stretch *s) {
    uint64_t most = s->compute;
    for (int i = 0; i < S.w.count; i++)
        most = links_max(most, s->busy[i]);
    return (double)most;
}

static double stretch_ratio(const stretch *s) {
    return (double)s->wall / stretch_rival(s);
}

static double ms(double ns) {
    return ns / 1e6;
}

static void stretch_print(const char *name, const char *note, const stretch *s) {
    static const char *const causes[CAUSES] = { "miss", "late", "eviction", "write-back" };
    char line[96];
    printf("# sim_%s%s: wall=%.3f compute=%.3f", name, note, ms((double)s->wall),
           ms((double)s->compute));
    for (int i = 0; i < S.w.count && i < 6; i++)
        printf(" %s=%.3f(%.0fMiB)", S.w.link[i].name, ms((double)s->busy[i]),
               (double)s->bytes[i] / 1048576);
    printf(" stall:");
    for (int i = 0; i < CAUSES; i++)
        printf(" %s=%.3f", causes[i], ms((double)s->stall[i]));
    if (s->bound > 0) printf(" clairvoyant=%.3f(%.3f)", ms(s->bound), (double)s->wall / s->bound);
    printf(" ms\n");
    snprintf(line, sizeof line, "sim_%s_overlap", name);
    bench_line(line, ms((double)s->wall), "ms", "compute_or_busiest_link", stretch_ratio(s),
               BENCH_LE, 1.05);
}

/* ---- programs of steps ---- */
static void step_pump(uint64_t step) {
    bench_ok(tnm_step(S.ctx, 0, step), "tnm_step");
    tnm_pump(S.ctx, TNM_ALL);
}

static void step_run(const tnm_use *uses, int count, uint64_t compute) {
    static tnm_pinned pinned[SET];
    sim_pin(uses, count, pinned);
    tnm_pump(S.ctx, TNM_ALL);
    links_compute(&S.w, S.ctx, compute, S.threaded);
    bench_ok(tnm_unpin(S.ctx, pinned, count, 0), "tnm_unpin");
}

/* ---- 1. layer sweeps ---- */
typedef struct hardware {
    const char *name;
    uint64_t up, down, up_latency; /* host <-> device */
    uint64_t disk, disk_latency;   /* storage <-> host, both directions on one link */
    uint32_t depth;                /* of storage */
    int half;                      /* host <-> device is half duplex */
} hardware;

typedef struct sweep {
    const char *name;
    int layers, parts;
    uint64_t (*bytes)(int part);
    int tiers;   /* 2: the host holds everything */
    int percent; /* resident: on the device, or a third of it there and the rest on the host */
    int devices; /* each with its share of each layer */
    int dirty, cold, fenced, unthreaded;
    uint64_t shared; /* rate of the link all devices share; 0 = none */
    uint64_t chunk;  /* chunk_bytes; 0 = the default */
    int warm, steady;
} sweep;

static uint64_t bytes_64k(int part) {
    (void)part;
    return 1u << 16;
}

static uint64_t bytes_4m(int part) {
    (void)part;
    return 1u << 22;
}

static uint64_t bytes_70b(int part) { /* 16 bit, d = 8192 */
    const uint64_t d = 8192, kv = 1024, ff = 28672;
    const uint64_t bytes[9] = { d * 4, d * d * 2,  d * kv * 2, d * kv * 2, d * d * 2,
                                d * 4, d * ff * 2, d * ff * 2, d * ff * 2 };
    return bytes[part];
}

static uint64_t sweep_total(const sweep *m) {
    uint64_t sum = 0;
    for (int p = 0; p < m->parts; p++)
        sum += m->bytes(p);
    return sum * (uint64_t)m->layers;
}

static tnm_use sweep_use[USES];

/* Storage, one tier below the host's, behind one link for both directions. */
static tnm_tier_desc disk_below(int host, const hardware *h) {
    int bottom = host + 1, disk = links_add(&S.w, "disk", h->disk, h->disk_latency);
    tnm_tier_desc tier = links_tier(&S.w, bottom, "storage", 0);
    tier.queue_depth = h->depth;
    links_route(&S.w, bottom, host, bottom, disk, -1);
    links_route(&S.w, host, bottom, bottom, disk, -1);
    return tier;
}

/* Devices 0 .. d-1, the host, and for three tiers storage. The share of one device is the whole
 * model: d devices sweep d models in step. */
static void sweep_open(const sweep *m, const hardware *h) {
    tnm_tier_desc tier[NODES];
    int d = m->devices, host = d, shared = -1, bottom = d + m->tiers - 2;
    uint64_t total = sweep_total(m), at = 0;
    uint64_t resident = total / 100 * (uint64_t)m->percent;
    uint64_t device = m->tiers == 2 ? resident : resident / 3;
    uint64_t pool = (resident - device) * (uint64_t)d;
    if (m->shared) shared = links_add(&S.w, "fabric", m->shared, 0);
    for (int i = 0; i < d; i++) {
        int up = links_add(&S.w, "up", h->up, h->up_latency);
        int down = h->half ? up : links_add(&S.w, "down", h->down, h->up_latency);
        tier[i] = links_tier(&S.w, i, "device", device);
        tier[i].spill_to = host;
        if (m->unthreaded || m->bytes == bytes_64k) tier[i].queue_depth = 64; /* rare, or small */
        links_route(&S.w, host, i, i, up, shared);
        links_route(&S.w, i, host, i, down, shared);
    }
    tier[host] = links_tier(&S.w, host, "host", m->tiers == 2 ? 0 : pool);
    if (m->tiers == 3) tier[bottom] = disk_below(host, h);
    tnm_desc desc = sim_desc(tier, bottom + 1);
    desc.staging_tier = host;
    desc.chunk_bytes = m->chunk;
    sim_open(&desc);
    int n = 0;
    for (int l = 0; l < m->layers; l++)
        for (int p = 0; p < m->parts; p++)
            for (int i = 0; i < d; i++) {
                tnm_tensor t = m->dirty ? bench_tensor(S.ctx, m->bytes(p), NULL)
                                        : bench_adopt(S.ctx, bottom, m->bytes(p), at, NULL);
                at += m->bytes(p);
                sweep_use[n] = bench_use(t, m->dirty ? TNM_WRITE : TNM_READ, (uint64_t)l);
                sweep_use[n++].tier = i;
            }
    for (int i = 0; m->dirty && i < n; i++) {
        tnm_use first = sweep_use[i];
        tnm_pinned pinned;
        first.tier = bottom;
        first.access = TNM_DISCARD;
        bench_ok(tnm_pin(S.ctx, &first, 1, &pinned), "tnm_pin");
        bench_ok(tnm_unpin(S.ctx, &pinned, 1, 0), "tnm_unpin");
    }
    bench_ok(tnm_schedule(S.ctx, 0, sweep_use, n, (uint32_t)m->layers), "tnm_schedule");
}

/* The bytes of a sweep that nobody can avoid, at the rate of the link they pass: ns. */
static double sweep_bound(const sweep *m, const hardware *h) {
    double total = (double)sweep_total(m), resident = total * m->percent / 100, d = m->devices;
    double device = m->tiers == 2 ? resident : resident / 3, most;
    double moved = m->cold ? total : total - device, disk = m->cold ? total : total - resident;
    double both = m->dirty ? 2 : 1;
    most = moved / (double)h->up * 1e3 * (h->half ? both : 1);
    if (m->shared && moved * d * both / (double)m->shared * 1e3 > most)
        most = moved * d * both / (double)m->shared * 1e3;
    if (m->tiers == 3 && disk * d * both / (double)h->disk * 1e3 > most)
        most = disk * d * both / (double)h->disk * 1e3;
    return most;
}

static stretch sweep_run(const sweep *m, const hardware *h, double ratio) {
    int set = m->parts * m->devices, sweeps = m->cold ? 1 : m->steady;
    static tnm_pinned pinned[SET];
    double bound = sweep_bound(m, h);
    uint64_t compute = (uint64_t)(bound * ratio / m->layers), step = 0;
    stretch from, s;
    sim_reset();
    S.threaded = !m->unthreaded;
    sweep_open(m, h);
    from = stretch_now();
    for (int i = m->cold ? 0 : -m->warm; i < sweeps; i++) {
        if (i == 0) from = stretch_now();
        for (int l = 0; l < m->layers; l++, step++) {
            step_pump(step);
            if (!m->fenced) {
                step_run(sweep_use + l * set, set, compute);
                continue;
            }
            sim_pin(sweep_use + l * set, set, pinned);
            bench_ok(tnm_unpin(S.ctx, pinned, set, links_submit(&S.w, compute)), "tnm_unpin");
            if (S.w.submitted > 1) /* the host is one layer ahead of the device */
                links_sleep(&S.w, S.ctx, S.w.kernel[(S.w.submitted - 1) % LINKS_KERNELS],
                            S.threaded);
        }
    }
    s = stretch_since(&from);
    s.bound = bound * sweeps;
    if (s.bound < (double)s.compute) s.bound = (double)s.compute;
    sim_close();
    return s;
}

static void sweep_bench(const char *name, const sweep *m, const hardware *h) {
    static const double ratio[3] = { 0.5, 1, 2 };
    stretch worst, s;
    char note[32] = "";
    if (!picked(name)) return;
    memset(&worst, 0, sizeof worst);
    for (int i = 0; i < 3; i++) {
        s = sweep_run(m, h, ratio[i]);
        if (i > 0 && stretch_ratio(&s) <= stretch_ratio(&worst)) continue;
        worst = s;
        snprintf(note, sizeof note, " compute/link=%g", ratio[i]);
    }
    stretch_print(name, note, &worst);
}

/* PCIe gen4 x16 and gen5 x16 with what they bring in practice; an NVMe disk each. */
static const hardware gen4 = { "gen4", 25000, 25000, 8000, 7000, 80000, 32, 0 };
static const hardware gen5 = { "gen5", 55000, 55000, 8000, 13000, 60000, 32, 0 };
/* A device of a pod: its port to the fabric, and pooled memory behind a fabric all share. */
static const hardware port = { "port", 50000, 50000, 3000, 7000, 80000, 32, 0 };

static void sweeps(void) {
    static const int percent[4] = { 25, 50, 75, 90 };
    static const sweep sizes[3] = {
        { "64k", 32, 32, bytes_64k, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, 2 },
        { "4m", 32, 8, bytes_4m, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 3 },
        { "8b", 32, 9, bench_llama_bytes, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 3 },
    };
    char name[64];
    for (int dirty = 0; dirty <= 1; dirty++)
        for (int tiers = 2; tiers <= 3; tiers++)
            for (int i = 0; i < 3; i++)
                for (int p = 0; p < 4; p++) {
                    sweep m = sizes[i];
                    m.tiers = tiers;
                    m.percent = percent[p];
                    m.dirty = dirty;
                    snprintf(name, sizeof name, "sweep%d_%s_%s_r%d", tiers, m.name,
                             dirty ? "dirty" : "clean", m.percent);
                    sweep_bench(name, &m, &gen4);
                }
    for (int tiers = 2; tiers <= 3; tiers++) { /* the other ways to run the same program */
        sweep m = sizes[2];
        m.tiers = tiers;
        m.percent = 50;
        m.cold = 1;
        snprintf(name, sizeof name, "cold%d_8b_r50", tiers);
        sweep_bench(name, &m, &gen4);
        m.cold = 0;
        m.fenced = 1;
        snprintf(name, sizeof name, "fenced%d_8b_r50", tiers);
        sweep_bench(name, &m, &gen4);
        m.fenced = 0;
        m.unthreaded = 1; /* one pump a step, and no more */
        snprintf(name, sizeof name, "onepump%d_8b_r50", tiers);
        sweep_bench(name, &m, &gen4);
    }
}

/* A device of 80 GB (35 GB of it for weights where storage is below, 70 GB where the host is) and a
 * model of 70 B parameters, 140 GB, of which the host has room for 70 GB, or for all. */
static void gpu80(void) {
    sweep m = { "70b", 80, 9, bytes_70b, 3, 75, 1, 0, 0, 0, 0, 0, 16 << 20, 1, 2 };
    sweep_bench("gpu80_70b_gen4_3tiers_r75", &m, &gen4);
    sweep_bench("gpu80_70b_gen5_3tiers_r75", &m, &gen5);
    m.tiers = 2;
    m.percent = 50;
    sweep_bench("gpu80_70b_gen4_2tiers_r50", &m, &gen4);
    sweep_bench("gpu80_70b_gen5_2tiers_r50", &m, &gen5);
    m.fenced = 1;
    sweep_bench("gpu80_70b_gen5_fenced_r50", &m, &gen5);
}

/* A pod of 384 devices over one pool: each has a port of 50 GB/s, and its fair share of the fabric
 * is 16 GB/s. Four devices with four shares; then as many as a context has tiers for. Each device
 * has weights of its own, and all step together. */
static void pod(void) {
    sweep m = { "pod", 32, 3, bytes_4m, 2, 50, 4, 0, 0, 0, 0, 64000, 0, 3, 4 };
    sweep_bench("pod_4devices_r50", &m, &port);
    m.dirty = 1;
    sweep_bench("pod_4devices_dirty_r50", &m, &port);
    m.dirty = 0;
    m.tiers = 3;
    m.percent = 60;
    sweep_bench("pod_4devices_3tiers_r60", &m, &port);
    m.tiers = 2;
    m.percent = 50;
    m.parts = 2;
    m.devices = 62;
    m.shared = 62 * 16000;
    sweep_bench("pod_62devices_r50", &m, &port);
}

/* ---- 2. experts, named by a router one layer ahead ---- */
enum { EXPERT_LAYERS = 24, EXPERTS = 64, ROUTED = 6, TOKENS = 160 };
enum { EXPERT_BYTES = 8 << 20, TRUNK_BYTES = 32 << 20 };

static int routed[TOKENS * EXPERT_LAYERS][ROUTED];

static int route_drawn(const int *row, int count, int expert) {
    for (int i = 0; i < count; i++)
        if (row[i] == expert) return 1;
    return 0;
}

/* 35 % of the experts are those of the token before; the rest is Zipf, each layer its own order. */
static void route_draw(void) {
    uint64_t random = 7;
    double zipf[EXPERTS], sum = 0;
    for (int i = 0; i < EXPERTS; i++)
        zipf[i] = sum += 1.0 / (1 + i);
    for (int s = 0; s < TOKENS * EXPERT_LAYERS; s++)
        for (int n = 0; n < ROUTED;) {
            int expert = 0, last = s - EXPERT_LAYERS;
            double x = bench_unit(&random) * sum;
            while (expert < EXPERTS - 1 && zipf[expert] < x)
                expert++;
            expert = (expert * 37 + s % EXPERT_LAYERS * 11) % EXPERTS;
            if (last >= 0 && bench_unit(&random) < 0.35) expert = routed[last][n];
            if (!route_drawn(routed[s], n, expert)) routed[s][n++] = expert;
        }
}

static int expert_of(int s, int n) {
    return s % EXPERT_LAYERS * EXPERTS + routed[s][n];
}

typedef struct belady { /* what is held, and when each is used */
    int use[EXPERT_LAYERS * EXPERTS][TOKENS + 1], at[EXPERT_LAYERS * EXPERTS];
    char in[EXPERT_LAYERS * EXPERTS];
    uint64_t held, room;
} belady;

static belady B;

static void belady_begin(uint64_t room) {
    memset(&B, 0, sizeof B);
    B.room = room;
    for (int s = 0; s < TOKENS * EXPERT_LAYERS; s++)
        for (int n = 0; n < ROUTED; n++)
            B.use[expert_of(s, n)][B.at[expert_of(s, n)]++] = s;
    for (int id = 0; id < EXPERT_LAYERS * EXPERTS; id++)
        B.use[id][B.at[id]] = TOKENS * EXPERT_LAYERS;
    memset(B.at, 0, sizeof B.at);
}

/* Comes in if it is not there, for what is used last of those that step s does not use. 1 = it
 * was not. */
static int belady_load(int id, int s) {
    int far = -1;
    if (B.in[id]) return 0;
    for (int v = 0; B.held == B.room && v < EXPERT_LAYERS * EXPERTS; v++) {
        if (!B.in[v] ||
            (v / EXPERTS == s % EXPERT_LAYERS && route_drawn(routed[s], ROUTED, v % EXPERTS)))
            continue;
        if (far < 0 || B.use[v][B.at[v]] > B.use[far][B.at[far]]) far = v;
    }
    if (far >= 0) B.in[far] = 0;
    B.held += far < 0;
    B.in[id] = 1;
    return 1;
}

/* Belady on demand over the experts, from the token `from` on: misses. */
static uint64_t route_belady(uint64_t room, int from) {
    uint64_t misses = 0;
    belady_begin(room);
    for (int s = 0; s < TOKENS * EXPERT_LAYERS; s++)
        for (int n = 0; n < ROUTED; n++) {
            B.at[expert_of(s, n)]++;
            if (belady_load(expert_of(s, n), s) && s >= from * EXPERT_LAYERS) misses++;
        }
    return misses;
}

static uint64_t absent_bytes(const tnm_use *uses, int count, uint64_t each) {
    uint64_t sum = 0;
    for (int i = 0; i < count; i++) {
        tnm_tensor_info info;
        bench_ok(tnm_info(S.ctx, uses[i].tensor, uses[i].tier, &info), "tnm_info");
        if (info.state != TNM_STATE_READY) sum += each;
    }
    return sum;
}

static tnm_tensor expert[EXPERT_LAYERS * EXPERTS], trunk[EXPERT_LAYERS];

static void expert_open(int tiers, int percent, const hardware *h) {
    uint64_t all = (uint64_t)EXPERT_BYTES * EXPERT_LAYERS * EXPERTS;
    uint64_t device = all / 100 * (uint64_t)percent + (uint64_t)TRUNK_BYTES * EXPERT_LAYERS;
    tnm_tier_desc tier[3];
    tnm_use cycle[EXPERT_LAYERS];
    int up = links_add(&S.w, "up", h->up, h->up_latency);
    int down = links_add(&S.w, "down", h->down, h->up_latency);
    links_route(&S.w, 1, 0, 0, up, -1);
    links_route(&S.w, 0, 1, 0, down, -1);
    tier[0] = links_tier(&S.w, 0, "device", device + EXPERT_BYTES * ROUTED);
    tier[1] = links_tier(&S.w, 1, "host", tiers == 2 ? 0 : all / 2);
    if (tiers == 3) tier[2] = disk_below(1, h);
    tnm_desc desc = sim_desc(tier, tiers);
    desc.staging_tier = 1;
    sim_open(&desc);
    for (int l = 0; l < EXPERT_LAYERS; l++) {
        trunk[l] = bench_adopt(S.ctx, tiers - 1, TRUNK_BYTES, 0, NULL);
        cycle[l] = bench_use(trunk[l], TNM_READ, (uint64_t)l);
        for (int i = 0; i < EXPERTS; i++)
            expert[l * EXPERTS + i] = bench_adopt(S.ctx, tiers - 1, EXPERT_BYTES, 0, NULL);
    }
    bench_ok(tnm_schedule(S.ctx, 0, cycle, EXPERT_LAYERS, EXPERT_LAYERS), "tnm_schedule");
}

/* The router of step s has spoken: its experts are guesses; one in ten is wrong. */
static int guess_of(int s, int n, uint64_t *random) {
    int id = bench_unit(random) < 0.1 ? (int)bench_below(random, EXPERTS) : routed[s][n];
    return s % EXPERT_LAYERS * EXPERTS + id;
}

static void expert_guess(int s, uint64_t *random) {
    tnm_use guess[ROUTED];
    for (int n = 0; n < ROUTED; n++)
        guess[n] = bench_use(expert[guess_of(s, n, random)], TNM_READ, (uint64_t)s);
    bench_ok(tnm_prefetch(S.ctx, 0, guess, ROUTED), "tnm_prefetch");
}

/* The best that can be done with these guesses, if evictions alone are an oracle's: a guess starts
 * when it is told, what none named at its pin, before all others; wrong ones wait for right ones
 * and are given up when their step comes. The wall from the token `from` on; `load` is what one
 * takes. */
static double route_told(uint64_t room, int from, double load, double compute) {
    double link = 0, now = 0, begun = 0;
    uint64_t random = 3;
    int wrong = 0;
    belady_begin(room);
    for (int s = 0; s < TOKENS * EXPERT_LAYERS; s++) {
        int missed = 0, guessed = 0, astray = 0;
        if (s == from * EXPERT_LAYERS) begun = now;
        for (int n = 0; n < ROUTED; n++) {
            B.at[expert_of(s, n)]++;
            missed += belady_load(expert_of(s, n), s);
        }
        link -= wrong * load;
        if (link < now) link = now;
        now = link += missed * load;
        for (int n = 0; s + 1 < TOKENS * EXPERT_LAYERS && n < ROUTED; n++) {
            int id = guess_of(s + 1, n, &random), loaded = belady_load(id, s);
            guessed += loaded;
            astray += loaded && !route_drawn(routed[s + 1], ROUTED, id % EXPERTS);
        }
        link += guessed * load;
        wrong = astray;
        now += compute;
    }
    return now - begun;
}

/* What a link could do that starts the right bytes when the router speaks: the rival. */
typedef struct informed {
    double free_at, start, end;
} informed;

static void informed_step(informed *f, uint64_t bytes, uint64_t rate, double compute) {
    double known = f->start;
    if (bytes)
        f->free_at = (f->free_at > known ? f->free_at : known) + (double)bytes / (double)rate * 1e3;
    f->start = f->end > f->free_at ? f->end : f->free_at;
    f->end = f->start + compute;
}

static void expert_set(int s, tnm_use *set) {
    int layer = s % EXPERT_LAYERS;
    set[0] = bench_use(trunk[layer], TNM_READ, 0);
    for (int n = 0; n < ROUTED; n++)
        set[1 + n] = bench_use(expert[layer * EXPERTS + routed[s][n]], TNM_READ, 0);
}

static void expert_bench(const char *name, int tiers, int percent, double ratio,
                         const hardware *h) {
    enum { FROM = 40, STEPS = TOKENS * EXPERT_LAYERS };
    uint64_t random = 3, need = 0;
    uint64_t room = (uint64_t)EXPERT_LAYERS * EXPERTS * (uint64_t)percent / 100 + ROUTED;
    char note[96];
    if (!picked(name)) return;
    sim_reset();
    expert_open(tiers, percent, h);
    double load = (double)EXPERT_BYTES / (double)h->up * 1e3;
    double link = (double)route_belady(room, FROM) * load;
    double each = link * ratio / ((TOKENS - FROM) * EXPERT_LAYERS), begun = 0;
    informed ideal = { 0, 0, 0 };
    stretch from = stretch_now();
    for (int s = 0; s < STEPS; s++) {
        tnm_use set[1 + ROUTED];
        if (s == FROM * EXPERT_LAYERS) {
            from = stretch_now();
            begun = ideal.end;
        }
        informed_step(&ideal, need, h->up, each);
        if (s + 1 < STEPS) {
            expert_set(s + 1, set);
            need = absent_bytes(set + 1, ROUTED, EXPERT_BYTES);
            expert_guess(s + 1, &random);
        }
        expert_set(s, set);
        step_pump((uint64_t)s);
        step_run(set, 1 + ROUTED, (uint64_t)each);
    }
    stretch s = stretch_since(&from);
    s.bound = link > (double)s.compute ? link : (double)s.compute;
    snprintf(note, sizeof note, " (a link told by the router: %.3f, with the best evictions: %.3f)",
             ms(ideal.end - begun), ms(route_told(room, FROM, load, each)));
    stretch_print(name, note, &s);
    sim_close();
}

/* ---- 3. caches of conversations ---- */
/* Turns of conversations: a request reads the blocks its conversation has and writes some new ones.
 * The scheduler's queue tells the next requests' reads, which are certain. */
enum { TALKS = 96, TALK_BLOCKS = 48, TURN_BLOCKS = 3, REQUESTS = 1600, QUEUE = 8 };
enum { BLOCK_BYTES = 2 << 20 };

typedef struct talk {
    tnm_tensor block[TALK_BLOCKS];
    int blocks;
} talk;

static talk talks[TALKS];
static int turn[REQUESTS + QUEUE]; /* whose turn each request is */

/* Whoever spoke lately speaks again soon: Zipf over the order of the last turns. */
static void turns_draw(void) {
    uint64_t random = 11;
    int order[TALKS];
    double zipf[TALKS], sum = 0;
    for (int i = 0; i < TALKS; i++) {
        order[i] = i;
        zipf[i] = sum += 1.0 / (8 + i);
    }
    for (int r = 0; r < REQUESTS + QUEUE; r++) {
        int at = 0, who;
        double x = bench_unit(&random) * sum;
        while (at < TALKS - 1 && zipf[at] < x)
            at++;
        who = order[at];
        for (; at > 0; at--)
            order[at] = order[at - 1];
        turn[r] = order[0] = who;
    }
}

static void turn_tell(int r) {
    tnm_use uses[TALK_BLOCKS];
    const talk *t = &talks[turn[r]];
    for (int i = 0; i < t->blocks; i++) {
        uses[i] = bench_use(t->block[i], TNM_READ, (uint64_t)r);
        uses[i].flags = TNM_SURE;
    }
    if (t->blocks) bench_ok(tnm_prefetch(S.ctx, 0, uses, t->blocks), "tnm_prefetch");
}

/* Request `r` enters the queue behind `done`. What it will read is not known before an earlier turn
 * of its conversation has ended. */
static void turn_enter(int r, int done) {
    for (int i = r - 1; i > done; i--)
        if (turn[i] == turn[r]) return;
    turn_tell(r);
}

static int turn_set(int r, tnm_use *set) {
    talk *t = &talks[turn[r]];
    int count = 0;
    if (t->blocks + TURN_BLOCKS > TALK_BLOCKS) { /* a new conversation takes its place */
        for (int i = 0; i < t->blocks; i++)
            bench_ok(tnm_tensor_destroy(S.ctx, t->block[i]), "tnm_tensor_destroy");
        t->blocks = 0;
    }
    for (; count < t->blocks; count++)
        set[count] = bench_use(t->block[count], TNM_READ, 0);
    for (int i = 0; i < TURN_BLOCKS; i++) {
        t->block[t->blocks++] = bench_tensor(S.ctx, BLOCK_BYTES, NULL);
        set[count] = bench_use(t->block[count], TNM_DISCARD, 0);
        count++;
    }
    return count;
}

static void talk_bench(const char *name, int tiers, uint64_t compute, const hardware *h) {
    enum { FROM = 400 };
    tnm_tier_desc tier[3];
    uint64_t all = (uint64_t)TALKS * TALK_BLOCKS / 2 * BLOCK_BYTES;
    int up, down;
    if (!picked(name)) return;
    sim_reset();
    memset(talks, 0, sizeof talks);
    up = links_add(&S.w, "up", h->up, h->up_latency);
    down = links_add(&S.w, "down", h->down, h->up_latency);
    links_route(&S.w, 1, 0, 0, up, -1);
    links_route(&S.w, 0, 1, 0, down, -1);
    tier[0] = links_tier(&S.w, 0, "device", all / 3);
    tier[1] = links_tier(&S.w, 1, "host", tiers == 2 ? 0 : all / 2);
    if (tiers == 3) tier[2] = disk_below(1, h);
    tnm_desc desc = sim_desc(tier, tiers);
    desc.staging_tier = 1;
    sim_open(&desc);
    stretch from = stretch_now();
    for (int r = 0; r < REQUESTS; r++) {
        tnm_use set[TALK_BLOCKS];
        if (r == FROM) from = stretch_now();
        int count = turn_set(r, set);
        step_pump((uint64_t)r);
        step_run(set, count, compute);
        turn_enter(r + QUEUE, r);
        for (int i = r + 1; i < r + QUEUE; i++) /* the turn after this one can be told now */
            if (turn[i] == turn[r]) {
                turn_tell(i);
                break;
            }
    }
    stretch s = stretch_since(&from);
    stretch_print(name, "", &s);
    sim_close();
}

/* ---- 4. a console: storage to unified memory, frames, nobody waits ---- */
enum { CELLS = 600, CELL_PARTS = 8, FRAME_NS = 16666667 };

/* One cell of a loop is entered a frame as long as its parts are there; a frame without them is
 * drawn from what there was. What comes KNOWN cells ahead is told: as certain, or as
 * guesses of which so many bytes may be under way. */
static void console_bench(const char *name, uint64_t cell_bytes, uint64_t pump, int threaded,
                          uint64_t guesses) {
    enum { KNOWN = 24, SEEN = 3, FROM = 60 };
    static tnm_tensor part[CELLS][CELL_PARTS];
    tnm_tier_desc tier[2];
    uint64_t each = cell_bytes / CELL_PARTS, frames = 0;
    if (!picked(name)) return;
    sim_reset();
    int ssd = links_add(&S.w, "ssd", 5500, 100000);
    links_route(&S.w, 1, 0, 1, ssd, -1);
    tier[0] = links_tier(&S.w, 0, "memory", cell_bytes * 40);
    tier[0].queue_depth = 32;
    tier[1] = links_tier(&S.w, 1, "ssd", 0);
    tier[1].queue_depth = 32;
    tnm_desc desc = sim_desc(tier, 2);
    desc.guess_bytes = guesses; /* 0: the default */
    sim_open(&desc);
    for (int c = 0; c < CELLS; c++)
        for (int p = 0; p < CELL_PARTS; p++)
            part[c][p] = bench_adopt(S.ctx, 1, each, 0, NULL);
    stretch from = stretch_now();
    for (int cell = 0, told = 0; cell < CELLS - SEEN;) {
        tnm_use set[SEEN * CELL_PARTS];
        tnm_pinned pinned[SEEN * CELL_PARTS];
        for (; told < cell + KNOWN && told < CELLS - SEEN; told++) {
            int first = guesses && told > 0 ? (SEEN - 1) * CELL_PARTS : 0; /* what is new there */
            for (int i = 0; i < SEEN * CELL_PARTS; i++) {
                set[i] = bench_use(part[told + i / CELL_PARTS][i % CELL_PARTS], TNM_READ,
                                   (uint64_t)told);
                set[i].flags = guesses ? 0 : TNM_SURE;
            }
            bench_ok(tnm_prefetch(S.ctx, 0, set + first, SEEN * CELL_PARTS - first),
                     "tnm_prefetch");
        }
        for (int i = 0; i < SEEN * CELL_PARTS; i++)
            set[i] = bench_use(part[cell + i / CELL_PARTS][i % CELL_PARTS], TNM_READ, 0);
        bench_ok(tnm_step(S.ctx, 0, (uint64_t)cell), "tnm_step");
        tnm_result r = tnm_try_pin(S.ctx, set, SEEN * CELL_PARTS, pinned);
        if (r < 0) bench_ok(r, "tnm_try_pin");
        if (r == TNM_OK) {
            bench_ok(tnm_unpin(S.ctx, pinned, SEEN * CELL_PARTS, links_submit(&S.w, FRAME_NS)),
                     "tnm_unpin");
            cell++;
        } else {
            S.stall[LATE] += FRAME_NS;
        }
        tnm_pump(S.ctx, pump);
        links_sleep(&S.w, S.ctx, ++frames * FRAME_NS, threaded);
        if (cell == FROM && r == TNM_OK) from = stretch_now();
    }
    stretch s = stretch_since(&from);
    stretch_print(name, "", &s);
    sim_close();
}

int main(int argc, char **argv) {
    if (argc > 1) pick = argv[1];
    bench_machine("sim");
    sweeps();
    gpu80();
    pod();
    route_draw();
    expert_bench("moe2_r40_x1", 2, 40, 1, &gen4);
    expert_bench("moe2_r40_x3", 2, 40, 3, &gen4);
    expert_bench("moe2_r40_x6", 2, 40, 6, &gen4);
    expert_bench("moe2_r75_x3", 2, 75, 3, &gen4);
    expert_bench("moe3_r25_x3", 3, 25, 3, &gen5);
    expert_bench("moe3_r25_x6", 3, 25, 6, &gen5);
    turns_draw();
    talk_bench("kv2_x1", 2, 2000000, &gen4);
    talk_bench("kv2_x2", 2, 4000000, &gen4);
    talk_bench("kv3_x1", 3, 4000000, &gen4);
    console_bench("console_88m", 88 << 20, 128 << 20, 0, 0);
    console_bench("console_64m", 64 << 20, 96 << 20, 0, 0);
    console_bench("console_88m_guess", 88 << 20, 128 << 20, 0, 96 << 20);
    console_bench("console_120m_pump_thread", 120 << 20, TNM_ALL, 1, 0);
    return 0;
}
