/* What the files of the forward share: forward.c takes units' statistics and results, forward_rows.c those of many slices
 * of a row or a few, forward_interleaved.c those of small slices between each other. */
#ifndef FN_FORWARD_H
#define FN_FORWARD_H

#include "job.h"

typedef struct {
    void *mean, *comp, *rstd, *prescale; /* in A, one per slot */
    int prescaled;
} fn_slot_stats;

/* What a unit keeps; where its task is all of it, a worker has as many as it takes abreast. */
typedef struct {
    fn_unit unit;
    fn_moments chunk; /* of each chunk's slices, `slots` apart; merged into the first */
    fn_slot_stats stats;
} fn_unit_state;

typedef struct {
    fn_moments block;
    void *work, *weight, *bias, *x_tile, *y_tile, *mask_tile;
} fn_worker_state;

typedef struct {
    fn_job *job;
    fn_cut cut;
    int local;
    ptrdiff_t abreast;       /* local: so many units are taken block by block, */
    ptrdiff_t units_of_task; /* and so many in a task */
    int whole_cols;          /* local: a verb does all that is done to regions of columns */
    fn_unit_state *units;
    fn_worker_state *workers;
} fn_forward_job;

/* whether some of these rstd may not be 1; else apply needs none, unless they go along the row */
static inline int fn_has_rstd(const fn_job *job, const fn_slot_stats *stats) {
    return job->scale || job->given || stats->prescaled;
}
/* the moments that are wanted, as moments_rows takes it */
static inline int fn_wanted(const fn_job *job) {
    return job->centre && !job->scale && !job->var64 ? FN_MEAN : job->centre;
}
/* a variance below may come from squares that underflowed */
static inline double fn_least_variance(const fn_job *job) {
    return (job->scale || job->var64) && !(job->eps >= FN_NEGLIGIBLE_EPS) ? FN_LEAST_VARIANCE : -1;
}

/* Moments of n slices, i at offset + i * axis, to what apply needs and to the caller's arrays. */
void fn_settle(const fn_job *job, const fn_axis *axis, const ptrdiff_t offset[FN_NOPERANDS], ptrdiff_t n, fn_moments m,
               fn_slot_stats *stats);
/* given statistics instead */
void fn_load_given(const fn_job *job, const fn_axis *axis, const ptrdiff_t offset[FN_NOPERANDS], ptrdiff_t n,
                   fn_slot_stats *stats);
/* y of a block; the statistics vary along the row, or by `stat_step` from row to row; `ahead` as in fn_affine */
void fn_apply_block(const fn_forward_job *f, const fn_block *b, const fn_slot_stats *stats, ptrdiff_t stat_step,
                    int along, ptrdiff_t ahead, fn_worker_state *w);

/* Many slices of a row, or of a few (fn_rows_of_slice): whether the verbs can do them by themselves, for which it merges rows;
 * and a task. */
int fn_can_be_whole(fn_job *job);
void fn_many_rows(void *forward_job, ptrdiff_t chunk, int worker);

/* Small slices whose rows lie between each other's (fn_cut): all of a unit, as a task. */
void fn_interleaved(void *forward_job, ptrdiff_t unit, int worker);

#endif
