/* A slice of rows through the sequence and back, and a chunk's share of the weight gradients. */

INLINE ptrdiff_t FN(slice_start)(const fn_rnn *r, ptrdiff_t slice) {
    const ptrdiff_t groups = fn_rnn_ceil(r->B, FN_ROW_GROUP), start = groups * slice / r->slices * FN_ROW_GROUP;
    return start < r->B ? start : r->B;
}
INLINE int FN(is_valid)(const fn_rnn *r, ptrdiff_t t, ptrdiff_t b) { return !r->lengths || t < r->lengths[b]; }
/* both products of a gate are only needed as a sum */
INLINE int FN(summed)(const fn_rnn *r) { return !r->norm && r->cell != FN_GRU; }

/* from one block of gate gradients to the next */
INLINE ptrdiff_t FN(block)(const fn_rnn *r) { return (r->chunk * r->B + 1) * FN_PAD; }

INLINE A *FN(px_at)(const fn_rnn *r, ptrdiff_t t, ptrdiff_t b) {
    return (A *)r->px + (t % r->px_steps * r->B + b) * r->G * r->P;
}
INLINE A *FN(ph_at)(const fn_rnn *r, ptrdiff_t t, ptrdiff_t b) {
    return FN(summed)(r) ? FN(px_at)(r, t, b) : (A *)r->ph + (t % r->ph_steps * r->B + b) * r->G * r->P;
}
INLINE A *FN(h_at)(const fn_rnn *r, ptrdiff_t t, ptrdiff_t b) { return (A *)r->h + (t * r->B + b) * r->P; }
INLINE A *FN(c_at)(const fn_rnn *r, ptrdiff_t t, ptrdiff_t b) {
    return r->c ? (A *)r->c + (t * r->B + b) * r->P : NULL;
}

/* the parameters, and where the gradients of the group that row b belongs to are added up */
INLINE FN(layer) FN(layer_of)(const fn_rnn *r, ptrdiff_t b) {
    const ptrdiff_t GP = r->G * r->P;
    A *sums = r->sums ? (A *)r->sums + b / FN_ROW_GROUP * fn_rnn_sums(r) : NULL;
    FN(layer)
    l = {.P = r->P,
         .H = r->H,
         .eps = (A)r->eps,
         .bias_x = r->bias_ih,
         .bias_h = r->bias_hh,
         .gain_x = r->gain_ih,
         .gain_h = r->gain_hh,
         .gain_c = r->gain_c,
         .bias_c = r->bias_c,
         .block = FN(block)(r)};
    if (sums) {
        l.dbias_x = sums;
        l.dbias_h = sums + GP;
        l.dgain_x = sums + 2 * GP;
        l.dgain_h = sums + 3 * GP;
        l.dgain_c = sums + 4 * GP;
        l.dbias_c = sums + 4 * GP + r->P;
    }
    return l;
}
INLINE FN(row) FN(row_at)(const fn_rnn *r, ptrdiff_t t, ptrdiff_t b) {
    return (FN(row)){
        .px = FN(px_at)(r, t, b),
        .ph = FN(ph_at)(r, t, b),
        .stats = r->stats ? (A *)r->stats + (t * r->B + b) * FN_STATS : NULL,
        .h_old = FN(h_at)(r, t, b),
        .c_old = FN(c_at)(r, t, b),
        .h = FN(h_at)(r, t + 1, b),
        .c = FN(c_at)(r, t + 1, b),
    };
}
/* the end of the group that row b belongs to, or of the slice */
INLINE ptrdiff_t FN(group_end)(ptrdiff_t b, ptrdiff_t b1) {
    const ptrdiff_t end = (b / FN_ROW_GROUP + 1) * FN_ROW_GROUP;
    return end < b1 ? end : b1;
}

/* steps of this slice until its longest row ends */
INLINE ptrdiff_t FN(longest)(const fn_rnn *r, ptrdiff_t b0, ptrdiff_t b1) {
    if (!r->lengths) return r->T;
    ptrdiff_t longest = 0;
    for (ptrdiff_t b = b0; b < b1; b++) longest = r->lengths[b] > longest ? r->lengths[b] : longest;
    return longest;
}

/* what rows [b0, b1) of step t will be made from: px, and in the backward of a norm ph */
INLINE fn_ahead FN(ahead)(const fn_rnn *r, ptrdiff_t t, ptrdiff_t b0, ptrdiff_t b1, int with_ph) {
    const size_t bytes = (size_t)((b1 - b0) * r->G * r->P) * sizeof(A);
    return (fn_ahead){(const char *)FN(px_at)(r, t, b0), with_ph ? (const char *)FN(ph_at)(r, t, b0) : NULL,
                      (ptrdiff_t)bytes, 0};
}

/* rows [b0, b1) of steps [at, at + steps): x times its weight into px */
INLINE void FN(project_x)(const fn_rnn *r, ptrdiff_t at, ptrdiff_t steps, ptrdiff_t b0, ptrdiff_t b1) {
    const FN(left) x = {(const A *)r->x + (at * r->B + b0) * r->I, r->I, 1, FN_PAD};
    const ptrdiff_t N = r->G * r->P;
    FN(gemm)(steps, b1 - b0, N, r->I, x, r->B * r->I, r->pack_ih, FN(px_at)(r, at, b0), N, r->B * N, 0, NULL);
}
/* the same for the state before each step, into ph, or added to px */
INLINE void FN(project_h)(const fn_rnn *r, ptrdiff_t at, ptrdiff_t steps, ptrdiff_t b0, ptrdiff_t b1) {
    const FN(left) h = {FN(h_at)(r, at, b0), r->P, 1, FN_PAD};
    const ptrdiff_t N = r->G * r->P;
    const fn_ahead px = FN(ahead)(r, at, b0, b1, 0);
    FN(gemm)(steps, b1 - b0, N, r->H, h, r->B * r->P, r->pack_hh, FN(ph_at)(r, at, b0), N, r->B * N, FN(summed)(r),
             &px);
}

static void FN(forward)(void *rnn, ptrdiff_t slice, int worker) {
    const fn_rnn *r = rnn;
    const ptrdiff_t b0 = FN(slice_start)(r, slice), b1 = FN(slice_start)(r, slice + 1);
    const ptrdiff_t H = r->H, P = r->P, steps = FN(longest)(r, b0, b1);
    const size_t bytes = (size_t)H * sizeof(A), padded = (size_t)P * sizeof(A), rest = padded - bytes;
    const FN(layer) layer = FN(layer_of)(r, b0);
    (void)worker;
    if (b0 == b1) return;
    for (ptrdiff_t b = b0; b < b1; b++) {
        memcpy(FN(h_at)(r, 0, b), (const A *)r->h0 + b * H, bytes);
        memset(FN(h_at)(r, 0, b) + H, 0, rest);
        if (r->c0) {
            memcpy(FN(c_at)(r, 0, b), (const A *)r->c0 + b * H, bytes);
            memset(FN(c_at)(r, 0, b) + H, 0, rest);
        }
    }
    for (ptrdiff_t t = 0; t < r->T; t++) {
        if (t % r->chunk == 0 && t < steps) FN(project_x)(r, t, r->chunk < steps - t ? r->chunk : steps - t, b0, b1);
        if (t < steps) FN(project_h)(r, t, 1, b0, b1);
        for (ptrdiff_t b = b0; b < b1;) {
            FN(row) rows[FN_ROW_GROUP];
            int count = 0;
            for (const ptrdiff_t end = FN(group_end)(b, b1); b < end; b++) {
                if (FN(is_valid)(r, t, b)) {
                    rows[count++] = FN(row_at)(r, t, b);
                    continue;
                }
                memcpy(FN(h_at)(r, t + 1, b), FN(h_at)(r, t, b), padded);
                if (r->c0) memcpy(FN(c_at)(r, t + 1, b), FN(c_at)(r, t, b), padded);
                memset((A *)r->y + (t * r->B + b) * H, 0, bytes);
            }
            FN(forwards)[r->norm](r->cell, &layer, rows, count);
        }
        for (ptrdiff_t b = b0; b < b1; b++)
            if (FN(is_valid)(r, t, b)) memcpy((A *)r->y + (t * r->B + b) * H, FN(h_at)(r, t + 1, b), bytes);
    }
    for (ptrdiff_t b = b0; b < b1; b++) {
        memcpy((A *)r->h_end + b * H, FN(h_at)(r, r->T, b), bytes);
        if (r->c0) memcpy((A *)r->c_end + b * H, FN(c_at)(r, r->T, b), bytes);
    }
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

static void FN(gates_again)(const fn_rnn *r, ptrdiff_t at, ptrdiff_t steps, ptrdiff_t b0, ptrdiff_t b1) {
    if (!r->norm && r->cell == FN_RNN) return; /* h is all that it needs */
    FN(project_x)(r, at, steps, b0, b1);
    FN(project_h)(r, at, steps, b0, b1);
    if (r->norm) return; /* the backward makes the gates from px and ph anyway */
    const FN(layer) layer = FN(layer_of)(r, b0);
    for (ptrdiff_t t = at; t < at + steps; t++) {
        for (ptrdiff_t b = b0; b < b1; b++) {
            FN(row) row = FN(row_at)(r, t, b);
            row.h = NULL; /* gates alone */
            if (FN(is_valid)(r, t, b)) FN(forward_plain)(r->cell, &layer, &row, 1);
        }
    }
}

INLINE void FN(add_row)(A *to, const A *row, ptrdiff_t n) {
    for (ptrdiff_t j = 0; j < n; j += VL) {
        if (j + VL <= n)
            STORE(to + j, LOAD(to + j) + LOAD(row + j));
        else
            STOREN(to + j, LOADN(to + j, n - j, 0) + LOADN(row + j, n - j, 0), n - j);
    }
}

static void FN(backward_rows)(const fn_rnn *r, ptrdiff_t at, ptrdiff_t slice) {
    const ptrdiff_t b0 = FN(slice_start)(r, slice), b1 = FN(slice_start)(r, slice + 1);
    const ptrdiff_t H = r->H, P = r->P, GP = r->G * P, block = FN(block)(r);
    const ptrdiff_t steps = r->chunk < r->T - at ? r->chunk : r->T - at, K = steps * r->B;
    const size_t bytes = (size_t)H * sizeof(A), rest = (size_t)(P - H) * sizeof(A);
    A *scratch = (A *)r->scratch + slice * fn_rnn_scratch(r);
    if (b0 == b1) return;
    if (at + r->chunk >= r->T) { /* the last chunk comes first */
        for (ptrdiff_t b = b0; b < b1; b++) {
            memcpy((A *)r->dh + b * P, (const A *)r->dh_end + b * H, bytes);
            memset((A *)r->dh + b * P + H, 0, rest);
            if (!r->dc_end) continue;
            memcpy((A *)r->dc + b * P, (const A *)r->dc_end + b * H, bytes);
            memset((A *)r->dc + b * P + H, 0, rest);
        }
    }
    if (r->recompute) FN(gates_again)(r, at, steps, b0, b1);
    for (ptrdiff_t t = at + steps - 1; t >= at; t--) {
        int any = 0;
        for (ptrdiff_t b = b0; b < b1;) {
            const FN(layer) layer = FN(layer_of)(r, b);
            FN(row) rows[FN_ROW_GROUP];
            int count = 0;
            for (const ptrdiff_t end = FN(group_end)(b, b1); b < end; b++) {
                const ptrdiff_t k = (t - at) * r->B + b;
                A *dax = (A *)r->dax + k * FN_PAD, *dah = (A *)r->dah + k * FN_PAD;
                const int valid = FN(is_valid)(r, t, b);
                FN(pack_row)(r->panels_x, K, r->I, k, valid ? (const A *)r->x + (t * r->B + b) * r->I : NULL);
                FN(pack_row)(r->panels_h, K, H, k, valid ? FN(h_at)(r, t, b) : NULL);
                if (!valid) {
                    for (ptrdiff_t j = 0; j < GP / FN_PAD; j++) {
                        memset(dax + j * block, 0, FN_PAD * sizeof(A));
                        memset(dah + j * block, 0, FN_PAD * sizeof(A));
                    }
                    continue;
                }
                FN(row) *row = &rows[count];
                *row = FN(row_at)(r, t, b);
                row->dh = (A *)r->dh + b * P;
                row->dc = r->dc ? (A *)r->dc + b * P : NULL;
                row->dpx = dax;
                row->dph = dah;
                row->scratch = scratch + count++ * fn_rnn_row_scratch(r);
                FN(add_row)(row->dh, (const A *)r->dy + (t * r->B + b) * H, H);
            }
            FN(backwards)[r->norm](r->cell, &layer, rows, count);
            any |= count;
        }
        if (!any) continue;
        const FN(left) dah = {(const A *)r->dah + ((t - at) * r->B + b0) * FN_PAD, FN_PAD, 1, block};
        const fn_ahead tape = t > 0 ? FN(ahead)(r, t - 1, b0, b1, r->norm) : (fn_ahead){0};
        FN(gemm)(1, b1 - b0, H, GP, dah, 0, r->back_hh, (A *)r->dh + b0 * P, P, 0, 1, &tape);
    }
    if (at > 0) return;
    for (ptrdiff_t b = b0; b < b1; b++) {
        memcpy((A *)r->dh0 + b * H, (const A *)r->dh + b * P, bytes);
        if (r->dc_end) memcpy((A *)r->dc0 + b * H, (const A *)r->dc + b * P, bytes);
    }
}

/* a strip of rows of both weight gradients += gate gradients.T times x or h */
static void FN(weight_strip)(const fn_rnn *r, ptrdiff_t K, ptrdiff_t gate, ptrdiff_t unit, ptrdiff_t units, const A *d,
                             const A *panels, ptrdiff_t N, A *dweight) {
    const ptrdiff_t block = FN(block)(r), blocks = units / FN_PAD, left = units % FN_PAD;
    A *to = dweight + (gate * r->H + unit) * N;
    FN(left) a = {d + (gate * r->P + unit) / FN_PAD * block, 1, FN_PAD, FN_PAD * FN_PAD};
    FN(gemm)(blocks, FN_PAD, N, K, a, block, panels, to, N, FN_PAD * N, 1, NULL);
    a.a += blocks * block;
    if (left) FN(gemm)(1, left, N, K, a, 0, panels, to + blocks * FN_PAD * N, N, 0, 1, NULL);
}

static void FN(backward_weights)(const fn_rnn *r, ptrdiff_t at, ptrdiff_t task) {
    const ptrdiff_t steps = r->chunk < r->T - at ? r->chunk : r->T - at, strips = fn_rnn_ceil(r->H, FN_WEIGHT_ROWS);
    const ptrdiff_t gate = task / strips, unit = task % strips * FN_WEIGHT_ROWS;
    const ptrdiff_t units = r->H - unit < FN_WEIGHT_ROWS ? r->H - unit : FN_WEIGHT_ROWS;
    FN(weight_strip)(r, steps * r->B, gate, unit, units, r->dax, r->panels_x, r->I, r->dweight_ih);
    FN(weight_strip)(r, steps * r->B, gate, unit, units, r->dah, r->panels_h, r->H, r->dweight_hh);
}

static void FN(backward_inputs)(const fn_rnn *r, ptrdiff_t at, ptrdiff_t task) {
    const ptrdiff_t steps = r->chunk < r->T - at ? r->chunk : r->T - at, K = r->G * r->P;
    const ptrdiff_t from = task * FN_INPUT_ROWS, all = steps * r->B;
    const ptrdiff_t rows = all - from < FN_INPUT_ROWS ? all - from : FN_INPUT_ROWS;
    const FN(left) dax = {(const A *)r->dax + from * FN_PAD, FN_PAD, 1, FN(block)(r)};
    FN(gemm)(1, rows, r->I, K, dax, 0, r->back_ih, (A *)r->dx + (at * r->B + from) * r->I, r->I, 0, 0, NULL);
}

static const fn_rnn_kernels FN(rnn_kernels) = {
    .size = sizeof(A),
    .width = WIDTH,
    .lanes = VL,
    .pack_weight_ih = FN(pack_weight_ih),
    .pack_weight_hh = FN(pack_weight_hh),
    .pack_back_ih = FN(pack_back_ih),
    .pack_back_hh = FN(pack_back_hh),
    .forward = FN(forward),
    .backward_rows = FN(backward_rows),
    .backward_weights = FN(backward_weights),
    .backward_inputs = FN(backward_inputs),
    .sigmoid = FN(sigmoid_all),
    .tanh = FN(tanh_all),
};
