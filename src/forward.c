/* The forward driver: moments block by block, merged in a fixed order; finalize; apply. Where a unit stays in cache its
 * statistics and its result are taken in one task, else all chunks of all units go through the one and then the other. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "forward.h"
#include "parallel.h"

enum {
    STACK_BYTES = 7168,    /* with what the verbs take, it fits a thread's smallest stack */
    LOCAL_BYTES = 4 << 20, /* a unit larger than this is not in cache any more when its statistics are known */
    WORKER_TASKS = 8,      /* of regions of columns: the last one is waited for */
};

/* ---- scratch ---------------------------------------------------------------------------------------------------- */

static fn_moments take_moments(fn_space *space, ptrdiff_t n) {
    size_t bytes = (size_t)n * sizeof(double);
    fn_moments m;
    m.count = fn_take(space, bytes);
    m.mean = fn_take(space, bytes);
    m.comp = fn_take(space, bytes);
    m.m2 = fn_take(space, bytes);
    m.low = fn_take(space, bytes);
    return m;
}

static void layout(fn_forward_job *f, int workers, fn_space *space) {
    const fn_job *job = f->job;
    const fn_cut *cut = &f->cut;
    const ptrdiff_t states = f->local ? workers * f->abreast : cut->units;
    const size_t slots = (size_t)(cut->slots * (ptrdiff_t)job->verbs->compute_size);
    f->units = fn_take(space, (size_t)states * sizeof *f->units);
    f->workers = fn_take(space, (size_t)workers * sizeof *f->workers);
    fn_unit_state unit; /* where there is no room for what there should be */
    fn_worker_state worker;
    for (ptrdiff_t i = 0; i < states; i++) {
        fn_unit_state *u = f->units ? &f->units[i] : &unit; /* in its place: a copy would wait for what it is made of */
        *u = (fn_unit_state){0};
        if (!job->given) u->chunk = take_moments(space, cut->many_rows ? cut->slots : cut->chunks * cut->slots);
        u->stats.mean = fn_take(space, slots);
        u->stats.comp = fn_take(space, slots);
        u->stats.rstd = fn_take(space, slots);
        u->stats.prescale = fn_take(space, slots);
    }
    for (int i = 0; i < workers; i++) {
        fn_worker_state *w = f->workers ? &f->workers[i] : &worker;
        *w = (fn_worker_state){0};
        if (!job->given && !cut->many_rows) {
            w->block = take_moments(space, cut->slots);
            if (job->plan.cols)
                w->work =
                    fn_take(space, f->whole_cols ? (size_t)cut->slots * 10 * sizeof(double) + 7 * slots : 4 * slots);
        }
        if (job->plan.fold.len > 1) {
            w->weight = fn_take(space, (size_t)(cut->split * (ptrdiff_t)job->verbs->compute_size));
            w->bias = fn_take(space, (size_t)(cut->split * (ptrdiff_t)job->verbs->compute_size));
        }
        w->x_tile = fn_take(space, fn_tile_bytes(job, cut, FN_X));
        w->y_tile = fn_take(space, fn_tile_bytes(job, cut, FN_Y));
        w->mask_tile = fn_take(space, fn_tile_bytes(job, cut, FN_MASK));
    }
}

/* ---- statistics ------------------------------------------------------------------------------------------------- */

static void use_slice(const fn_job *job, fn_slot_stats *stats, ptrdiff_t n, ptrdiff_t i, const fn_slice *s) {
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

/* Moments of n slices, i at offset + i * axis, to what apply needs and to the caller's arrays. */
void fn_settle(const fn_job *job, const fn_axis *axis, const ptrdiff_t offset[FN_NOPERANDS], ptrdiff_t n, fn_moments m,
               fn_slot_stats *stats) {
    const double least = fn_least_variance(job);
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

void fn_load_given(const fn_job *job, const fn_axis *axis, const ptrdiff_t offset[FN_NOPERANDS], ptrdiff_t n,
                   fn_slot_stats *stats) {
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
        fn_slice s = {.mean = fn_get(job, stats->mean, i), .rstd = rstd};
        fn_bring_nearer(&s, FLT_MAX);
        use_slice(job, stats, n, i, &s);
    }
}

/* ---- verbs on blocks -------------------------------------------------------------------------------------------- */

void fn_apply_block(const fn_forward_job *f, const fn_block *b, const fn_slot_stats *stats, ptrdiff_t stat_step,
                    int along, ptrdiff_t ahead, fn_worker_state *w) {
    const fn_job *job = f->job;
    const fn_param absent = {0};
    const int has_mean = along || job->centre || job->given;
    fn_affine p = {
        .mean = has_mean ? (fn_param){stats->mean, stat_step, along} : absent,
        .comp = {stats->comp, stat_step, along},
        .rstd = along || fn_has_rstd(job, stats) ? (fn_param){stats->rstd, stat_step, along} : absent,
        .prescale = stats->prescaled ? (fn_param){stats->prescale, stat_step, along} : absent,
        .weight = fn_param_at(job, &f->cut, FN_WEIGHT, b->offset, b->width, w->weight),
        .bias = fn_param_at(job, &f->cut, FN_BIAS, b->offset, b->width, w->bias),
        .past = job->past,
        .ahead = ahead,
    };
    const int varies = b->runs > 1 && (fn_run_axis(job)->stride[FN_WEIGHT] || fn_run_axis(job)->stride[FN_BIAS]);
    ptrdiff_t step;
    fn_tile x = fn_runs_in(job, &f->cut, FN_X, b, w->x_tile, &step);
    fn_block run = *b;
    if (b->runs > 1 && !varies && !p.weight.step && !p.bias.step && fn_tile_adjacent(job, FN_Y)) {
        const fn_runs runs = {.count = b->runs, .x = step, .y = fn_run_axis(job)->stride[FN_Y]};
        const fn_tile y = fn_tile_out(job, &f->cut, b->offset, b->width, NULL);
        job->verbs->apply_runs(x, y, runs, b->rows, b->width, &p);
        return;
    }
    for (ptrdiff_t i = 0; i < b->runs; i++) {
        fn_tile y = fn_tile_out(job, &f->cut, run.offset, b->width, w->y_tile);
        if (job->data[FN_MASK]) /* what is left out may be far from the statistics */
            job->verbs->apply_far(x, y, b->rows, b->width, &p);
        else
            job->verbs->apply(x, y, b->rows, b->width, &p);
        fn_tile_flush(job, &f->cut, y, run.offset, b->rows, b->width);
        x.base += step;
        fn_next_run(job, &run);
        if (!varies || i + 1 == b->runs) continue;
        p.weight = fn_param_at(job, &f->cut, FN_WEIGHT, run.offset, b->width, w->weight);
        p.bias = fn_param_at(job, &f->cut, FN_BIAS, run.offset, b->width, w->bias);
    }
}

static void moments_of_block(const fn_forward_job *f, const fn_unit *unit, ptrdiff_t chunk, ptrdiff_t i,
                             fn_unit_state *u, fn_worker_state *w) {
    const fn_job *job = f->job;
    const fn_cut *cut = &f->cut;
    const int first = i == chunk * cut->chunk_blocks;
    const fn_moments into = fn_moments_at(u->chunk, chunk * cut->slots), out = first ? into : w->block;
    memset(out.low, 0, (size_t)unit->slices * sizeof(double));
    const fn_block b = fn_cut_block(job, cut, unit, i);
    fn_runs runs = {.count = b.runs};
    fn_tile x = fn_runs_in(job, cut, FN_X, &b, w->x_tile, &runs.x);
    fn_tile mask = fn_tile_in(job, cut, FN_MASK, b.offset, b.rows, b.width, w->mask_tile);
    if (job->plan.cols)
        job->verbs->moments_cols(x, mask, runs, b.rows, b.width, job->plan.fold.len, job->centre, w->work, out);
    else if (!mask.base && x.step == b.width * (ptrdiff_t)job->verbs->size) /* rows that adjoin are one */
        job->verbs->moments_rows(x, mask, 1, 0, 0, 1, b.rows * b.width, fn_wanted(job), out);
    else
        job->verbs->moments_rows(x, mask, 1, 0, 0, b.rows, b.width, fn_wanted(job), out);
    if (!first) job->verbs->merge(unit->slices, into, out);
}

static void settle_unit(const fn_forward_job *f, const fn_unit *unit, fn_unit_state *u) {
    const fn_job *job = f->job;
    const fn_cut *cut = &f->cut;
    const fn_plan *plan = &job->plan;
    const ptrdiff_t fold = plan->fold.len;
    if (job->given) {
        fn_load_given(job, &plan->inner, unit->offset, unit->slices, &u->stats);
    } else {
        for (ptrdiff_t c = 1; c < cut->chunks; c++)
            job->verbs->merge(unit->slices, u->chunk, fn_moments_at(u->chunk, c * cut->slots));
        fn_settle(job, &plan->inner, unit->offset, unit->slices, u->chunk, &u->stats);
    }
    if (fold > 1) {
        fn_spread(job, u->stats.mean, unit->slices, fold);
        fn_spread(job, u->stats.comp, unit->slices, fold);
        fn_spread(job, u->stats.rstd, unit->slices, fold);
        if (u->stats.prescaled) fn_spread(job, u->stats.prescale, unit->slices, fold);
    }
}

/* y of the unit's blocks from `first` to before `last`; `ahead` as in fn_affine */
static void apply_blocks(const fn_forward_job *f, const fn_unit *unit, ptrdiff_t first, ptrdiff_t last, ptrdiff_t ahead,
                         const fn_unit_state *u, fn_worker_state *w) {
    const int together = fn_tiles_adjacent(f->job);
    for (ptrdiff_t i = first, count; i < last; i += count) {
        const fn_block b = fn_cut_blocks(f->job, &f->cut, unit, i, together ? last : i + 1, &count);
        fn_apply_block(f, &b, &u->stats, 0, f->job->plan.cols, ahead, w);
    }
}

/* ---- tasks ------------------------------------------------------------------------------------------------------ */

/* While results go past the caches chunk by chunk, backwards, x of the unit that comes `abreast` later is asked for, forwards:
 * from a chunk to the one of that, in bytes. Not where each unit's rows follow one another, as a group's: these are read in
 * long runs, and gain nothing. */
static ptrdiff_t to_next(const fn_forward_job *f, const fn_unit *unit, ptrdiff_t chunk, ptrdiff_t later) {
    const fn_cut *cut = &f->cut;
    const fn_plan *plan = &f->job->plan;
    if (!f->job->past || !fn_tile_adjacent(f->job, FN_X) || later < 0 || later >= cut->units) return 0;
    if (plan->cols || !plan->nkept || !plan->nreduced) return 0;
    if (plan->kept[plan->nkept - 1].stride[FN_X] >= plan->reduced[plan->nreduced - 1].stride[FN_X]) return 0;
    const fn_unit next = fn_cut_unit(f->job, cut, later);
    const fn_block here = fn_cut_block(f->job, cut, unit, chunk * cut->chunk_blocks);
    const fn_block there = fn_cut_block(f->job, cut, &next, (cut->chunks - 1 - chunk) * cut->chunk_blocks);
    return there.offset[FN_X] - here.offset[FN_X];
}

static void units_abreast(fn_forward_job *f, ptrdiff_t from, ptrdiff_t units, int worker) {
    const fn_cut *cut = &f->cut;
    fn_worker_state *w = &f->workers[worker];
    fn_unit_state *u = &f->units[worker * f->abreast];
    for (ptrdiff_t j = 0; j < units; j++) u[j].unit = fn_cut_unit(f->job, cut, from + j);
    for (ptrdiff_t c = 0; !f->job->given && c < cut->chunks; c++)
        for (ptrdiff_t i = c * cut->chunk_blocks; i < fn_chunk_end(cut, c); i++)
            for (ptrdiff_t j = 0; j < units; j++) moments_of_block(f, &u[j].unit, c, i, &u[j], w);
    for (ptrdiff_t j = 0; j < units; j++) settle_unit(f, &u[j].unit, &u[j]);
    const ptrdiff_t later = worker ? from - f->abreast : from + units; /* helpers take tasks from the back */
    /* backwards: the last blocks are those still in cache */
    for (ptrdiff_t c = cut->chunks - 1; f->job->data[FN_Y] && c >= 0; c--)
        for (ptrdiff_t j = 0; j < units; j++)
            apply_blocks(f, &u[j].unit, c * cut->chunk_blocks, fn_chunk_end(cut, c),
                         to_next(f, &u[j].unit, c, later + j), &u[j], w);
}

/* whether the verbs can do regions of columns by themselves: nothing is wanted but y and statistics in A */
static int regions_can_be_whole(const fn_forward_job *f) {
    const fn_job *job = f->job;
    return job->data[FN_Y] && !job->given && !job->mean64 && !job->count64 && fn_regions_adjoin(job, &f->cut);
}

/* as many regions of columns from the first on as the fast path takes at once; returns how many */
static ptrdiff_t whole_cols(const fn_forward_job *f, ptrdiff_t first, ptrdiff_t last, fn_worker_state *w) {
    const fn_job *job = f->job;
    const fn_cut *cut = &f->cut;
    const fn_axis *axis = &job->plan.kept[job->plan.nkept - 1], *rows = &job->plan.reduced[0];
    const fn_unit unit = fn_cut_unit(job, cut, first);
    const ptrdiff_t at = unit.offset[FN_STAT] * (ptrdiff_t)job->verbs->compute_size;
    const fn_regions p = {
        .count = fn_regions_from(job, first, last),
        .x = axis->stride[FN_X],
        .y = axis->stride[FN_Y],
        .block_rows = cut->block_rows,
        .fold = job->plan.fold.len,
        .centre = job->centre,
        .scale = job->scale,
        .eps = job->eps,
        .least = fn_least_variance(job),
        .mean = job->mean ? (char *)job->mean + at : NULL,
        .rstd = job->rstd ? (char *)job->rstd + at : NULL,
        .stats = axis->stride[FN_STAT],
        .weight = fn_param_at(job, cut, FN_WEIGHT, unit.offset, unit.width, w->weight),
        .bias = fn_param_at(job, cut, FN_BIAS, unit.offset, unit.width, w->bias),
        .work = w->work,
        .past = job->past,
    };
    const fn_tile x = {job->data[FN_X] + unit.offset[FN_X], rows->stride[FN_X]};
    const fn_tile y = {job->data[FN_Y] + unit.offset[FN_Y], rows->stride[FN_Y]};
    return job->verbs->normalize_cols(x, y, job->plan.rows, unit.width, &p);
}

static void whole_units(void *context, ptrdiff_t task, int worker) {
    fn_forward_job *f = context;
    const ptrdiff_t first = task * f->units_of_task, left = f->cut.units - first;
    const ptrdiff_t last = left < f->units_of_task ? f->cut.units : first + f->units_of_task;
    for (ptrdiff_t i = first, units; i < last; i += units) {
        units = f->whole_cols ? whole_cols(f, i, last, &f->workers[worker]) : 0;
        if (units) continue;
        units = last - i < f->abreast ? last - i : f->abreast;
        units_abreast(f, i, units, worker);
    }
    fn_drain(f->job);
}

static void moments_task(void *context, ptrdiff_t task, int worker) {
    fn_forward_job *f = context;
    const fn_cut *cut = &f->cut;
    const ptrdiff_t unit = task / cut->chunks, chunk = task % cut->chunks;
    const fn_unit of = fn_cut_unit(f->job, cut, unit);
    for (ptrdiff_t i = chunk * cut->chunk_blocks; i < fn_chunk_end(cut, chunk); i++)
        moments_of_block(f, &of, chunk, i, &f->units[unit], &f->workers[worker]);
}

static void settle_task(void *context, ptrdiff_t index, int worker) {
    fn_forward_job *f = context;
    const fn_unit unit = fn_cut_unit(f->job, &f->cut, index);
    (void)worker;
    settle_unit(f, &unit, &f->units[index]);
}

static void apply_task(void *context, ptrdiff_t task, int worker) {
    fn_forward_job *f = context;
    const fn_cut *cut = &f->cut;
    const ptrdiff_t chunk = task % cut->chunks;
    const fn_unit unit = fn_cut_unit(f->job, cut, task / cut->chunks);
    apply_blocks(f, &unit, chunk * cut->chunk_blocks, fn_chunk_end(cut, chunk), 0, &f->units[task / cut->chunks],
                 &f->workers[worker]);
    fn_drain(f->job);
}

static void run(fn_forward_job *f, int workers) {
    const fn_cut *cut = &f->cut;
    if (cut->many_rows) {
        fn_parallel(workers, cut->chunks, fn_many_rows, f);
    } else if (cut->interleaved) {
        fn_parallel(workers, cut->units, fn_interleaved, f);
    } else if (f->local) {
        fn_parallel(workers, fn_ceil_div(cut->units, f->units_of_task), whole_units, f);
    } else {
        if (!f->job->given) fn_parallel(workers, cut->units * cut->chunks, moments_task, f);
        fn_parallel(cut->units > 1 ? workers : 1, cut->units, settle_task, f);
        if (f->job->data[FN_Y]) fn_parallel(workers, cut->units * cut->chunks, apply_task, f);
    }
}

int fn_forward(fn_job *job) {
    void *packed_weight = NULL, *packed_bias = NULL;
    char stack[STACK_BYTES] __attribute__((aligned(64)));
    fn_forward_job f = {.job = job};
    int status = fn_param_pack(job, FN_WEIGHT, &packed_weight) | fn_param_pack(job, FN_BIAS, &packed_bias);
    if (status == FN_OK) {
        job->whole_rows = fn_can_be_whole(job);
        job->verbs = fn_verbs_of(job);
        job->per = job->whole_rows ? fn_rows_of_slice(job) : 1;
        job->past = fn_goes_past(job);
        f.cut = fn_cut_make(job);
        const ptrdiff_t bytes = fn_bytes_of_work(job, &f.cut);
        const ptrdiff_t tasks = f.cut.many_rows ? f.cut.chunks : f.cut.units * f.cut.chunks;
        int workers = fn_workers(job->threads, tasks, bytes, 1);
        f.local =
            f.cut.many_rows || f.cut.interleaved || (f.cut.units >= workers && bytes / f.cut.units <= LOCAL_BYTES);
        if (!f.local) workers = fn_workers(job->threads, tasks, bytes, 3);
        if (workers == 1) f.local = 1;
        f.abreast = f.local ? fn_abreast(job, &f.cut, workers) : 1;
        f.whole_cols = f.local && regions_can_be_whole(&f);
        f.units_of_task = f.whole_cols ? fn_ceil_div(f.cut.units, workers > 1 ? workers * WORKER_TASKS : 1) : f.abreast;
        fn_space space = {.base = stack, .size = sizeof stack};
        layout(&f, workers, &space);
        char *memory = stack;
        if (space.used > sizeof stack) {
            memory = aligned_alloc(64, space.used);
            space = (fn_space){.base = memory, .size = space.used};
            if (memory) layout(&f, workers, &space);
        }
        if (memory) {
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
