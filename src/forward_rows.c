/* The forward of many slices of a row, or of a few: all of a block's at a time, where the verbs can do that by themselves. */
#include "forward.h"

/* whether the verbs can do a block of many rows by themselves: nothing is wanted but y and statistics in A */
int fn_can_be_whole(fn_job *job) {
    if (!job->data[FN_Y] || job->data[FN_MASK]) return 0;
    if (job->given || job->mean64 || job->count64) return 0;
    if (!fn_tile_adjacent(job, FN_X) || !fn_tile_adjacent(job, FN_Y)) return 0;
    fn_merge_rows(job);
    return fn_rows_of_slice(job) != 0;
}

/* where the verbs leave the block's statistics: with those of the others, if they follow one another there, or in `own` */
static void *stats_at(const fn_job *job, const fn_axis *slices, const fn_block *b, void *stats, void *own) {
    if (!stats || slices->stride[FN_STAT] != 1) return stats ? own : NULL;
    return (char *)stats + b->offset[FN_STAT] * (ptrdiff_t)job->verbs->compute_size;
}

/* brings n of them from there to the others */
static void put_stats(const fn_job *job, const fn_axis *slices, const fn_block *b, ptrdiff_t n, void *stats,
                      const void *own) {
    const ptrdiff_t at = b->offset[FN_STAT], step = slices->stride[FN_STAT];
    for (ptrdiff_t i = 0; stats && step != 1 && i < n; i++) fn_set(job, stats, at + i * step, fn_get(job, own, i));
}

/* whether a slice of several rows is one row to its moments: few enough elements for one accumulation, that adjoin */
static int adjoins(const fn_job *job, const fn_axis *rows, const fn_block *b) {
    return job->per > 1 && rows->stride[FN_X] == b->width * (ptrdiff_t)job->verbs->size &&
           job->per * b->width * (ptrdiff_t)job->verbs->compute_size <= FN_BLOCK_BYTES;
}

/* the block's slices as far as the fast path goes; returns how many */
static ptrdiff_t whole_rows(const fn_forward_job *f, const fn_block *b, fn_unit_state *u, fn_worker_state *w) {
    const fn_job *job = f->job;
    const fn_axis *axis = fn_whole_axis(job, &f->cut), *slices = fn_row_axis(job, &f->cut);
    const fn_norm p = {
        .per = job->per,
        .adjoin = adjoins(job, axis, b),
        .centre = fn_wanted(job),
        .scale = job->scale,
        .eps = job->eps,
        .least = fn_least_variance(job),
        .weight = fn_param_by_row(job, &f->cut, FN_WEIGHT, b->offset, b->width, w->weight),
        .bias = fn_param_by_row(job, &f->cut, FN_BIAS, b->offset, b->width, w->bias),
        .mean = stats_at(job, slices, b, job->mean, u->stats.mean),
        .rstd = stats_at(job, slices, b, job->rstd, u->stats.rstd),
        .past = job->past,
    };
    const fn_tile x = {job->data[FN_X] + b->offset[FN_X], axis->stride[FN_X]};
    const fn_tile y = {job->data[FN_Y] + b->offset[FN_Y], axis->stride[FN_Y]};
    const ptrdiff_t done = job->verbs->normalize_rows(x, y, b->rows, b->width, &p);
    put_stats(job, slices, b, done, job->mean, u->stats.mean);
    put_stats(job, slices, b, done, job->rstd, u->stats.rstd);
    return done;
}

/* slices of several rows, one by one: those that the fast path left */
static void few_rows(const fn_forward_job *f, fn_block *b, fn_unit_state *u, fn_worker_state *w) {
    const fn_job *job = f->job;
    const fn_axis *axis = fn_row_axis(job, &f->cut), *rows = fn_whole_axis(job, &f->cut);
    const fn_param absent = {0};
    const int adjoin = adjoins(job, rows, b);
    for (; b->rows > 0; b->rows--) {
        const fn_tile x = {job->data[FN_X] + b->offset[FN_X], rows->stride[FN_X]}, none = {0};
        const fn_tile y = {job->data[FN_Y] + b->offset[FN_Y], rows->stride[FN_Y]};
        job->verbs->moments_rows(x, none, 1, 0, 0, adjoin ? 1 : job->per, adjoin ? job->per * b->width : b->width,
                                 fn_wanted(job), u->chunk);
        fn_settle(job, axis, b->offset, 1, u->chunk, &u->stats);
        const fn_affine p = {
            .mean = {u->stats.mean, 0, 0},
            .comp = {u->stats.comp, 0, 0},
            .rstd = fn_has_rstd(job, &u->stats) ? (fn_param){u->stats.rstd, 0, 0} : absent,
            .prescale = u->stats.prescaled ? (fn_param){u->stats.prescale, 0, 0} : absent,
            .weight = fn_param_by_row(job, &f->cut, FN_WEIGHT, b->offset, b->width, w->weight),
            .bias = fn_param_by_row(job, &f->cut, FN_BIAS, b->offset, b->width, w->bias),
            .past = job->past,
        };
        job->verbs->apply(x, y, job->per, b->width, &p);
        for (int o = 0; o < FN_NOPERANDS; o++) b->offset[o] += axis->stride[o];
    }
}

/* many rows: each block's slices are its own */
void fn_many_rows(void *context, ptrdiff_t chunk, int worker) {
    fn_forward_job *f = context;
    const fn_job *job = f->job;
    const fn_cut *cut = &f->cut;
    const fn_axis *axis = fn_row_axis(job, cut);
    fn_worker_state *w = &f->workers[worker];
    fn_unit_state *u = &f->units[worker];
    const fn_unit whole = fn_cut_unit(job, cut, 0);
    const ptrdiff_t last = fn_chunk_end(cut, chunk);
    for (ptrdiff_t i = chunk * cut->chunk_blocks; i < last; i++) {
        fn_block b = fn_cut_block(job, cut, &whole, i);
        const ptrdiff_t done = job->whole_rows ? whole_rows(f, &b, u, w) : 0;
        if (done == b.rows) continue;
        for (int o = 0; o < FN_NOPERANDS; o++) b.offset[o] += done * axis->stride[o];
        b.rows -= done;
        if (job->per > 1) {
            few_rows(f, &b, u, w);
            continue;
        }
        if (job->given) {
            fn_load_given(job, axis, b.offset, b.rows, &u->stats);
        } else {
            fn_tile x = fn_tile_in(job, cut, FN_X, b.offset, b.rows, b.width, w->x_tile);
            fn_tile mask = fn_tile_in(job, cut, FN_MASK, b.offset, b.rows, b.width, w->mask_tile);
            job->verbs->moments_rows(x, mask, b.rows, x.step, mask.step, 1, b.width, fn_wanted(job), u->chunk);
            fn_settle(job, axis, b.offset, b.rows, u->chunk, &u->stats);
        }
        if (job->data[FN_Y]) fn_apply_block(f, &b, &u->stats, 1, 0, 0, w);
    }
    fn_drain(job);
}
