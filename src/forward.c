/* The forward driver: moments block by block, merged in a fixed order; finalize; apply. Where a unit stays in cache its
 * statistics and its result are taken in one task, else all chunks of all units go through the one and then the other. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "job.h"
#include "parallel.h"

enum {
    STACK_BYTES = 8192,
    LOCAL_BYTES = 4 << 20, /* a unit larger than this is not in cache any more when its statistics are known */
};

typedef struct {
    void *mean, *comp, *rstd, *prescale; /* in A, one per slot */
    int prescaled;
} slot_stats;

/* What one worker, or with two phases one unit, keeps. */
typedef struct {
    fn_moments chunk; /* chunks * slots, merged into the first */
    slot_stats stats;
} unit_state;

typedef struct {
    fn_moments block, slice;
    void *work, *weight, *bias, *x_tile, *y_tile, *mask_tile;
} worker_state;

typedef struct {
    fn_job *job;
    fn_cut cut;
    int local;
    unit_state *units;
    worker_state *workers;
} forward;

/* ---- scratch ---------------------------------------------------------------------------------------------------- */

static fn_moments take_moments(fn_space *space, ptrdiff_t n) {
    size_t bytes = (size_t)n * sizeof(double);
    fn_moments m;
    m.count = fn_take(space, bytes);
    m.mean = fn_take(space, bytes);
    m.comp = fn_take(space, bytes);
    m.m2 = fn_take(space, bytes);
    return m;
}

static void layout(forward *f, int workers, fn_space *space) {
    const fn_job *job = f->job;
    const fn_cut *cut = &f->cut;
    const ptrdiff_t states = f->local ? workers : cut->units;
    const size_t slots = (size_t)(cut->slots * (ptrdiff_t)job->verbs->compute_size);
    f->units = fn_take(space, (size_t)states * sizeof *f->units);
    f->workers = fn_take(space, (size_t)workers * sizeof *f->workers);
    for (ptrdiff_t i = 0; i < states; i++) {
        unit_state u = {0};
        if (!job->given) u.chunk = take_moments(space, cut->many_rows ? cut->slots : cut->chunks * cut->slots);
        u.stats.mean = fn_take(space, slots);
        u.stats.comp = fn_take(space, slots);
        u.stats.rstd = fn_take(space, slots);
        u.stats.prescale = fn_take(space, slots);
        if (space->base) f->units[i] = u;
    }
    for (int i = 0; i < workers; i++) {
        worker_state w = {0};
        if (!job->given && !cut->many_rows) {
            w.block = take_moments(space, cut->slots);
            if (job->plan.fold.len > 1) w.slice = take_moments(space, cut->slots);
            if (job->plan.cols) w.work = fn_take(space, 4 * slots);
        }
        if (job->plan.fold.len > 1) {
            w.weight = fn_take(space, slots);
            w.bias = fn_take(space, slots);
        }
        w.x_tile = fn_take(space, fn_tile_bytes(job, cut, FN_X));
        w.y_tile = fn_take(space, fn_tile_bytes(job, cut, FN_Y));
        w.mask_tile = fn_take(space, fn_tile_bytes(job, cut, FN_MASK));
        if (space->base) f->workers[i] = w;
    }
}

/* ---- statistics ------------------------------------------------------------------------------------------------- */

static void use_slice(const fn_job *job, slot_stats *stats, ptrdiff_t n, ptrdiff_t i, const fn_slice *s) {
    if (s->prescale != 1 && !stats->prescaled) {
        for (ptrdiff_t j = 0; j < n; j++) fn_set(job, stats->prescale, j, 1);
        stats->prescaled = 1;
    }
    if (stats->prescaled) fn_set(job, stats->prescale, i, s->prescale);
    fn_set(job, stats->mean, i, s->scaled_mean);
    const double hi = fn_get(job, stats->mean, i), lo = (s->scaled_mean - hi) + s->scaled_comp;
    fn_set(job, stats->comp, i, lo - lo == 0 ? lo : 0); /* an infinite mean has no remainder */
    fn_set(job, stats->rstd, i, s->scaled_rstd);
}

/* the moments that are wanted, as moments_rows takes it */
static int what(const fn_job *job) { return job->centre && !job->scale && !job->var64 ? FN_MEAN : job->centre; }

/* below it squares may have underflowed */
static double least_variance(const fn_job *job) {
    return (job->scale || job->var64) && !(job->eps >= FN_NEGLIGIBLE_EPS) ? FN_LEAST_VARIANCE : -1;
}

/* Moments of n slices, i at offset + i * axis, to what apply needs and to the caller's arrays. */
static void settle(const fn_job *job, const fn_axis *axis, const ptrdiff_t offset[FN_NOPERANDS], ptrdiff_t n,
                   fn_moments m, slot_stats *stats) {
    const double least = least_variance(job);
    const ptrdiff_t at = offset[FN_STAT], step = axis->stride[FN_STAT];
    stats->prescaled = 0;
    int beyond = job->verbs->finalize(n, m, job->eps, least, job->scale, stats->mean, stats->comp, stats->rstd);
    if (job->mean64)
        for (ptrdiff_t i = 0; i < n; i++) {
            job->mean64[at + i * step] = m.mean[i] + m.comp[i];
            job->var64[at + i * step] = m.m2[i] / m.count[i];
        }
    if (job->count64)
        for (ptrdiff_t i = 0; i < n; i++) job->count64[at + i * step] = m.count[i];
    if (job->mean)
        for (ptrdiff_t i = 0; i < n; i++) fn_set(job, job->mean, at + i * step, m.mean[i] + m.comp[i]);
    if (job->rstd)
        for (ptrdiff_t i = 0; i < n; i++) fn_set(job, job->rstd, at + i * step, fn_get(job, stats->rstd, i));
    for (ptrdiff_t i = 0; beyond && i < n; i++) {
        fn_moments one = fn_moments_at(m, i);
        char unused[3][sizeof(double)];
        if (!job->verbs->finalize(1, one, job->eps, least, job->scale, unused[0], unused[1], unused[2])) continue;
        ptrdiff_t first[FN_NOPERANDS];
        for (int o = 0; o < FN_NOPERANDS; o++) first[o] = offset[o] + i * axis->stride[o];
        fn_slice s = fn_rescue(job, first);
        use_slice(job, stats, n, i, &s);
        if (job->mean64) job->mean64[at + i * step] = s.mean;
        if (job->var64) job->var64[at + i * step] = s.var;
        if (job->mean) fn_set(job, job->mean, at + i * step, s.mean);
        if (job->rstd) fn_set(job, job->rstd, at + i * step, s.rstd);
    }
}

/* A given rstd beyond A's largest number: the data come nearer by a power of two, as far as the mean can follow. */
static fn_slice far_scale(double mean, double rstd) {
    const int wanted = ilogb(rstd) - 126, most = mean == 0 ? 126 : isfinite(mean) ? 125 - ilogb(mean) : 0;
    const int p = most < 0 ? 0 : wanted < most ? wanted : most;
    fn_slice s = {.prescale = ldexp(1, p), .scaled_mean = ldexp(mean, p), .scaled_rstd = ldexp(rstd, -p)};
    if (s.scaled_rstd > FLT_MAX) s.scaled_rstd = FLT_MAX;
    return s;
}

static void load_given(const fn_job *job, const fn_axis *axis, const ptrdiff_t offset[FN_NOPERANDS], ptrdiff_t n,
                       slot_stats *stats) {
    stats->prescaled = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        const ptrdiff_t at = offset[FN_STAT] + i * axis->stride[FN_STAT];
        fn_set(job, stats->mean, i, job->mean ? fn_get(job, job->mean, at) : 0);
        fn_set(job, stats->comp, i, 0);
        fn_set(job, stats->rstd, i, job->rstd ? fn_get(job, job->rstd, at) : 1);
    }
    for (ptrdiff_t i = 0; job->far_rstd && i < n; i++) {
        const double rstd = job->far_rstd[offset[FN_STAT] + i * axis->stride[FN_STAT]];
        if (!(rstd > FLT_MAX) || isinf(rstd)) continue;
        const fn_slice s = far_scale(fn_get(job, stats->mean, i), rstd);
        use_slice(job, stats, n, i, &s);
    }
}

/* ---- verbs on blocks -------------------------------------------------------------------------------------------- */

static void apply_block(const forward *f, const fn_block *b, const slot_stats *stats, ptrdiff_t stat_step, int along,
                        worker_state *w) {
    const fn_job *job = f->job;
    const fn_param absent = {0};
    const fn_affine p = {
        .mean = {stats->mean, stat_step, along},
        .comp = {stats->comp, stat_step, along},
        .rstd = {stats->rstd, stat_step, along},
        .prescale = stats->prescaled ? (fn_param){stats->prescale, stat_step, along} : absent,
        .weight = fn_param_at(job, &f->cut, FN_WEIGHT, b->offset, b->width, w->weight),
        .bias = fn_param_at(job, &f->cut, FN_BIAS, b->offset, b->width, w->bias),
    };
    fn_tile x = fn_tile_in(job, &f->cut, FN_X, b->offset, b->rows, b->width, w->x_tile);
    fn_tile y = fn_tile_out(job, &f->cut, b->offset, b->width, w->y_tile);
    job->verbs->apply(x, y, b->rows, b->width, &p);
    fn_tile_flush(job, &f->cut, y, b->offset, b->rows, b->width);
}

/* whether the verbs can do a block of many rows by themselves: nothing is wanted but y and statistics in A */
static int can_be_whole(const fn_job *job) {
    const fn_axis *axis = job->plan.nkept ? &job->plan.kept[job->plan.nkept - 1] : NULL;
    if (!fn_rows_of_slice(job) || !job->data[FN_Y] || job->data[FN_MASK]) return 0;
    if (job->given || job->mean64 || job->count64) return 0;
    if ((job->mean || job->rstd) && axis && axis->stride[FN_STAT] != 1) return 0;
    return fn_tile_adjacent(job, FN_X) && fn_tile_adjacent(job, FN_Y);
}

static char *stat_at(const fn_job *job, void *stats, const fn_block *b) {
    return stats ? (char *)stats + b->offset[FN_STAT] * (ptrdiff_t)job->verbs->compute_size : NULL;
}

/* steps between the rows that make the slices of a block */
static const fn_axis *whole_axis(const forward *f) {
    return f->job->per > 1 ? &f->job->plan.reduced[0] : fn_row_axis(f->job, &f->cut);
}
static fn_param by_row(const forward *f, int operand, const fn_block *b, void *columns) {
    fn_param p = fn_param_at(f->job, &f->cut, operand, b->offset, b->width, columns);
    p.step /= f->job->per; /* the next slice's stands so many rows ahead */
    return p;
}

/* the block's slices as far as the fast path goes; returns how many */
static ptrdiff_t whole_rows(const forward *f, const fn_block *b, worker_state *w) {
    const fn_job *job = f->job;
    const fn_axis *axis = whole_axis(f);
    const fn_norm p = {
        .per = job->per,
        .centre = what(job),
        .scale = job->scale,
        .eps = job->eps,
        .least = least_variance(job),
        .weight = by_row(f, FN_WEIGHT, b, w->weight),
        .bias = by_row(f, FN_BIAS, b, w->bias),
        .mean = stat_at(job, job->mean, b),
        .rstd = stat_at(job, job->rstd, b),
    };
    const fn_tile x = {job->data[FN_X] + b->offset[FN_X], axis->stride[FN_X]};
    const fn_tile y = {job->data[FN_Y] + b->offset[FN_Y], axis->stride[FN_Y]};
    return job->verbs->normalize_rows(x, y, b->rows, b->width, &p);
}

/* slices of several rows, one by one: those that the fast path left */
static void few_rows(const forward *f, fn_block *b, unit_state *u, worker_state *w) {
    const fn_job *job = f->job;
    const fn_axis *axis = fn_row_axis(job, &f->cut), *rows = whole_axis(f);
    const fn_param absent = {0};
    for (; b->rows > 0; b->rows--) {
        const fn_tile x = {job->data[FN_X] + b->offset[FN_X], rows->stride[FN_X]}, none = {0};
        const fn_tile y = {job->data[FN_Y] + b->offset[FN_Y], rows->stride[FN_Y]};
        job->verbs->moments_rows(x, none, 1, 0, 0, job->per, b->width, what(job), u->chunk);
        settle(job, axis, b->offset, 1, u->chunk, &u->stats);
        const fn_affine p = {
            .mean = {u->stats.mean, 0, 0},
            .comp = {u->stats.comp, 0, 0},
            .rstd = {u->stats.rstd, 0, 0},
            .prescale = u->stats.prescaled ? (fn_param){u->stats.prescale, 0, 0} : absent,
            .weight = by_row(f, FN_WEIGHT, b, w->weight),
            .bias = by_row(f, FN_BIAS, b, w->bias),
        };
        job->verbs->apply(x, y, job->per, b->width, &p);
        for (int o = 0; o < FN_NOPERANDS; o++) b->offset[o] += axis->stride[o];
    }
}

/* many short rows: each block's slices are its own */
static void many_rows(void *context, ptrdiff_t chunk, int worker) {
    forward *f = context;
    const fn_job *job = f->job;
    const fn_cut *cut = &f->cut;
    const fn_axis *axis = fn_row_axis(job, cut);
    worker_state *w = &f->workers[worker];
    unit_state *u = &f->units[worker];
    const fn_unit whole = fn_cut_unit(job, cut, 0);
    ptrdiff_t last = (chunk + 1) * cut->chunk_blocks;
    if (last > cut->blocks) last = cut->blocks;
    for (ptrdiff_t i = chunk * cut->chunk_blocks; i < last; i++) {
        fn_block b = fn_cut_block(job, cut, &whole, i);
        const ptrdiff_t done = job->whole_rows ? whole_rows(f, &b, w) : 0;
        if (done == b.rows) continue;
        for (int o = 0; o < FN_NOPERANDS; o++) b.offset[o] += done * axis->stride[o];
        b.rows -= done;
        if (job->per > 1) {
            few_rows(f, &b, u, w);
            continue;
        }
        if (job->given) {
            load_given(job, axis, b.offset, b.rows, &u->stats);
        } else {
            fn_tile x = fn_tile_in(job, cut, FN_X, b.offset, b.rows, b.width, w->x_tile);
            fn_tile mask = fn_tile_in(job, cut, FN_MASK, b.offset, b.rows, b.width, w->mask_tile);
            job->verbs->moments_rows(x, mask, b.rows, x.step, mask.step, 1, b.width, what(job), u->chunk);
            settle(job, axis, b.offset, b.rows, u->chunk, &u->stats);
        }
        if (job->data[FN_Y]) apply_block(f, &b, &u->stats, 1, 0, w);
    }
}

static unit_state *state_of(const forward *f, ptrdiff_t unit, int worker) {
    return &f->units[f->local ? worker : unit];
}

static void moments_of_chunk(const forward *f, const fn_unit *unit, ptrdiff_t chunk, unit_state *u, worker_state *w) {
    const fn_job *job = f->job;
    const fn_cut *cut = &f->cut;
    const fn_moments into = fn_moments_at(u->chunk, chunk * cut->slots);
    const ptrdiff_t slots = job->plan.cols ? unit->width : 1, first = chunk * cut->chunk_blocks;
    for (ptrdiff_t i = first; i < first + cut->chunk_blocks && i < cut->blocks; i++) {
        const fn_block b = fn_cut_block(job, cut, unit, i);
        const fn_moments out = i == first ? into : w->block;
        fn_tile x = fn_tile_in(job, cut, FN_X, b.offset, b.rows, b.width, w->x_tile);
        fn_tile mask = fn_tile_in(job, cut, FN_MASK, b.offset, b.rows, b.width, w->mask_tile);
        if (job->plan.cols)
            job->verbs->moments_cols(x, mask, b.rows, b.width, job->centre, w->work, out);
        else if (!mask.base && x.step == b.width * (ptrdiff_t)job->verbs->size) /* rows that adjoin are one */
            job->verbs->moments_rows(x, mask, 1, 0, 0, 1, b.rows * b.width, what(job), out);
        else
            job->verbs->moments_rows(x, mask, 1, 0, 0, b.rows, b.width, what(job), out);
        if (i > first) job->verbs->merge(slots, into, out);
    }
}

static void pick(ptrdiff_t n, fn_moments to, fn_moments from, ptrdiff_t step) {
    for (ptrdiff_t i = 0; i < n; i++) {
        to.count[i] = from.count[i * step];
        to.mean[i] = from.mean[i * step];
        to.comp[i] = from.comp[i * step];
        to.m2[i] = from.m2[i * step];
    }
}

/* one value per slice to one per column, in place */
static void spread(const fn_job *job, void *a, ptrdiff_t slices, ptrdiff_t fold) {
    for (ptrdiff_t s = slices - 1; s >= 0; s--) {
        const double value = fn_get(job, a, s);
        for (ptrdiff_t i = fold - 1; i >= 0; i--) fn_set(job, a, s * fold + i, value);
    }
}

static void settle_unit(const forward *f, const fn_unit *unit, unit_state *u, worker_state *w) {
    const fn_job *job = f->job;
    const fn_cut *cut = &f->cut;
    const fn_plan *plan = &job->plan;
    const ptrdiff_t slots = plan->cols ? unit->width : 1, fold = plan->fold.len;
    if (job->given) {
        load_given(job, &plan->inner, unit->offset, unit->slices, &u->stats);
    } else {
        for (ptrdiff_t c = 1; c < cut->chunks; c++)
            job->verbs->merge(slots, u->chunk, fn_moments_at(u->chunk, c * cut->slots));
        fn_moments slices = u->chunk;
        if (fold > 1) {
            slices = w->slice;
            pick(unit->slices, slices, u->chunk, fold);
            for (ptrdiff_t i = 1; i < fold; i++) {
                pick(unit->slices, w->block, fn_moments_at(u->chunk, i), fold);
                job->verbs->merge(unit->slices, slices, w->block);
            }
        }
        settle(job, &plan->inner, unit->offset, unit->slices, slices, &u->stats);
    }
    if (fold > 1) {
        spread(job, u->stats.mean, unit->slices, fold);
        spread(job, u->stats.comp, unit->slices, fold);
        spread(job, u->stats.rstd, unit->slices, fold);
        if (u->stats.prescaled) spread(job, u->stats.prescale, unit->slices, fold);
    }
}

static void apply_chunk(const forward *f, const fn_unit *unit, ptrdiff_t chunk, const unit_state *u, worker_state *w) {
    const fn_cut *cut = &f->cut;
    const ptrdiff_t first = chunk * cut->chunk_blocks;
    for (ptrdiff_t i = first; i < first + cut->chunk_blocks && i < cut->blocks; i++) {
        const fn_block b = fn_cut_block(f->job, cut, unit, i);
        apply_block(f, &b, &u->stats, 0, f->job->plan.cols, w);
    }
}

/* ---- tasks ------------------------------------------------------------------------------------------------------ */

static void whole_unit(void *context, ptrdiff_t index, int worker) {
    forward *f = context;
    worker_state *w = &f->workers[worker];
    unit_state *u = state_of(f, index, worker);
    const fn_unit unit = fn_cut_unit(f->job, &f->cut, index);
    if (!f->job->given)
        for (ptrdiff_t c = 0; c < f->cut.chunks; c++) moments_of_chunk(f, &unit, c, u, w);
    settle_unit(f, &unit, u, w);
    if (f->job->data[FN_Y]) /* backwards: the last chunk is the one still in cache */
        for (ptrdiff_t c = f->cut.chunks - 1; c >= 0; c--) apply_chunk(f, &unit, c, u, w);
}

static void moments_task(void *context, ptrdiff_t task, int worker) {
    forward *f = context;
    const fn_unit unit = fn_cut_unit(f->job, &f->cut, task / f->cut.chunks);
    moments_of_chunk(f, &unit, task % f->cut.chunks, &f->units[task / f->cut.chunks], &f->workers[worker]);
}

static void settle_task(void *context, ptrdiff_t index, int worker) {
    forward *f = context;
    const fn_unit unit = fn_cut_unit(f->job, &f->cut, index);
    settle_unit(f, &unit, &f->units[index], &f->workers[worker]);
}

static void apply_task(void *context, ptrdiff_t task, int worker) {
    forward *f = context;
    const fn_unit unit = fn_cut_unit(f->job, &f->cut, task / f->cut.chunks);
    apply_chunk(f, &unit, task % f->cut.chunks, &f->units[task / f->cut.chunks], &f->workers[worker]);
}

static void run(forward *f, int workers) {
    const fn_cut *cut = &f->cut;
    if (cut->many_rows) {
        fn_parallel(workers, cut->chunks, many_rows, f);
    } else if (f->local) {
        fn_parallel(workers, cut->units, whole_unit, f);
    } else {
        if (!f->job->given) fn_parallel(workers, cut->units * cut->chunks, moments_task, f);
        fn_parallel(cut->units > 1 ? workers : 1, cut->units, settle_task, f);
        if (f->job->data[FN_Y]) fn_parallel(workers, cut->units * cut->chunks, apply_task, f);
    }
}

int fn_forward(fn_job *job) {
    void *packed_weight = NULL, *packed_bias = NULL;
    char stack[STACK_BYTES] __attribute__((aligned(64)));
    forward f = {.job = job};
    int status = fn_param_pack(job, FN_WEIGHT, &packed_weight) | fn_param_pack(job, FN_BIAS, &packed_bias);
    if (status == FN_OK) {
        job->whole_rows = can_be_whole(job);
        job->per = job->whole_rows ? fn_rows_of_slice(job) : 1;
        f.cut = fn_cut_make(job);
        const ptrdiff_t bytes = job->plan.regions * job->plan.rows * job->plan.n * (ptrdiff_t)job->verbs->size;
        const ptrdiff_t tasks = f.cut.many_rows ? f.cut.chunks : f.cut.units * f.cut.chunks;
        int workers = fn_workers(job->threads, tasks, bytes, 1);
        f.local = f.cut.many_rows || (f.cut.units >= workers && bytes / f.cut.units <= LOCAL_BYTES);
        if (!f.local) workers = fn_workers(job->threads, tasks, bytes, 3);
        if (workers == 1) f.local = 1;
        fn_space space = {0};
        layout(&f, workers, &space);
        char *memory = space.used <= sizeof stack ? stack : aligned_alloc(64, space.used);
        if (memory) {
            space = (fn_space){.base = memory};
            layout(&f, workers, &space);
            run(&f, workers);
            if (memory != stack) free(memory);
        } else {
            status = FN_NO_MEMORY;
        }
    }
    free(packed_weight);
    free(packed_bias);
    return status;
}
