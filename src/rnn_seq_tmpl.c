/* A slice of rows through the sequence and back, and a chunk's share of the weight gradients. */

INLINE ptrdiff_t FN(slice_start)(const fn_rnn *r, ptrdiff_t slice) {
    const ptrdiff_t groups = fn_rnn_ceil(r->B, FN_ROW_GROUP), start = groups * slice / r->slices * FN_ROW_GROUP;
    return start < r->B ? start : r->B;
}
INLINE int FN(is_valid)(const fn_rnn *r, ptrdiff_t t, ptrdiff_t b) { return !r->lengths || t < r->lengths[b]; }
/* both products of a gate are only needed as a sum */
INLINE int FN(summed)(const fn_rnn *r) { return !r->norm && r->cell != FN_GRU; }

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

INLINE FN(row) FN(row_at)(const fn_rnn *r, ptrdiff_t t, ptrdiff_t b, A *scratch) {
    return (FN(row)){
        .P = r->P,
        .H = r->H,
        .bias_x = r->bias_ih,
        .bias_h = r->bias_hh,
        .gain_x = r->gain_ih,
        .gain_h = r->gain_hh,
        .gain_c = r->gain_c,
        .bias_c = r->bias_c,
        .px = FN(px_at)(r, t, b),
        .ph = FN(ph_at)(r, t, b),
        .stats = r->stats ? (A *)r->stats + (t * r->B + b) * FN_STATS : NULL,
        .scratch = scratch,
    };
}

/* whether gates alone are wanted: once more, for the backward */
INLINE void FN(row_forward)(const fn_rnn *r, int norm, const FN(row) * row, ptrdiff_t t, ptrdiff_t b, int gates_only) {
    A *h = gates_only ? NULL : FN(h_at)(r, t + 1, b);
    const A eps = (A)r->eps;
    if (r->cell == FN_LSTM)
        FN(lstm_forward)(row, norm, eps, FN(c_at)(r, t, b), FN(c_at)(r, t + 1, b), h);
    else if (r->cell == FN_GRU)
        FN(gru_forward)(row, norm, eps, FN(h_at)(r, t, b), h, FN(c_at)(r, t + 1, b));
    else
        FN(rnn_forward)(row, norm, eps, h);
}
OUTLINE void FN(row_forward_plain)(const fn_rnn *r, const FN(row) * row, ptrdiff_t t, ptrdiff_t b, int gates_only) {
    FN(row_forward)(r, FN_NO_NORM, row, t, b, gates_only);
}
OUTLINE void FN(row_forward_layer)(const fn_rnn *r, const FN(row) * row, ptrdiff_t t, ptrdiff_t b, int gates_only) {
    FN(row_forward)(r, FN_LAYER, row, t, b, gates_only);
}
OUTLINE void FN(row_forward_rms)(const fn_rnn *r, const FN(row) * row, ptrdiff_t t, ptrdiff_t b, int gates_only) {
    FN(row_forward)(r, FN_RMS, row, t, b, gates_only);
}

INLINE void FN(row_backward)(const fn_rnn *r, int norm, const FN(row) * row, ptrdiff_t t, ptrdiff_t b, A *dh, A *dc,
                             FN(totals) * to, FN(gate_grads) * d) {
    if (r->cell == FN_LSTM)
        FN(lstm_backward)(row, norm, FN(c_at)(r, t, b), FN(c_at)(r, t + 1, b), dh, dc, to, d);
    else if (r->cell == FN_GRU)
        FN(gru_backward)(row, norm, FN(h_at)(r, t, b), FN(c_at)(r, t + 1, b), dh, to, d);
    else
        FN(rnn_backward)(row, norm, FN(h_at)(r, t + 1, b), dh, to, d);
}
OUTLINE void FN(row_backward_plain)(const fn_rnn *r, const FN(row) * row, ptrdiff_t t, ptrdiff_t b, A *dh, A *dc,
                                    FN(totals) * to, FN(gate_grads) * d) {
    FN(row_backward)(r, FN_NO_NORM, row, t, b, dh, dc, to, d);
}
OUTLINE void FN(row_backward_layer)(const fn_rnn *r, const FN(row) * row, ptrdiff_t t, ptrdiff_t b, A *dh, A *dc,
                                    FN(totals) * to, FN(gate_grads) * d) {
    FN(row_backward)(r, FN_LAYER, row, t, b, dh, dc, to, d);
}
OUTLINE void FN(row_backward_rms)(const fn_rnn *r, const FN(row) * row, ptrdiff_t t, ptrdiff_t b, A *dh, A *dc,
                                  FN(totals) * to, FN(gate_grads) * d) {
    FN(row_backward)(r, FN_RMS, row, t, b, dh, dc, to, d);
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
        for (ptrdiff_t b = b0; b < b1; b++) {
            A *y = (A *)r->y + (t * r->B + b) * H;
            if (!FN(is_valid)(r, t, b)) {
                memcpy(FN(h_at)(r, t + 1, b), FN(h_at)(r, t, b), padded);
                if (r->c0) memcpy(FN(c_at)(r, t + 1, b), FN(c_at)(r, t, b), padded);
                memset(y, 0, bytes);
                continue;
            }
            const FN(row) row = FN(row_at)(r, t, b, NULL);
            if (r->norm == FN_LAYER)
                FN(row_forward_layer)(r, &row, t, b, 0);
            else if (r->norm == FN_RMS)
                FN(row_forward_rms)(r, &row, t, b, 0);
            else
                FN(row_forward_plain)(r, &row, t, b, 0);
            memcpy(y, FN(h_at)(r, t + 1, b), bytes);
        }
    }
    for (ptrdiff_t b = b0; b < b1; b++) {
        memcpy((A *)r->h_end + b * H, FN(h_at)(r, r->T, b), bytes);
        if (r->c0) memcpy((A *)r->c_end + b * H, FN(c_at)(r, r->T, b), bytes);
    }
}

/* ---- backward --------------------------------------------------------------------------------------------------- */

INLINE ptrdiff_t FN(block)(const fn_rnn *r) { return (r->chunk * r->B + 1) * FN_PAD; }

static void FN(gates_again)(const fn_rnn *r, ptrdiff_t at, ptrdiff_t steps, ptrdiff_t b0, ptrdiff_t b1) {
    if (!r->norm && r->cell == FN_RNN) return; /* h is all that it needs */
    FN(project_x)(r, at, steps, b0, b1);
    FN(project_h)(r, at, steps, b0, b1);
    if (r->norm) return; /* the backward makes the gates from px and ph anyway */
    for (ptrdiff_t t = at; t < at + steps; t++) {
        for (ptrdiff_t b = b0; b < b1; b++) {
            const FN(row) row = FN(row_at)(r, t, b, NULL);
            if (FN(is_valid)(r, t, b)) FN(row_forward_plain)(r, &row, t, b, 1);
        }
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
        for (ptrdiff_t b = b0; b < b1; b++) {
            const ptrdiff_t k = (t - at) * r->B + b;
            A *dh = (A *)r->dh + b * P, *dc = r->dc ? (A *)r->dc + b * P : NULL;
            FN(gate_grads) d = {(A *)r->dax + k * FN_PAD, (A *)r->dah + k * FN_PAD, block};
            if (!FN(is_valid)(r, t, b)) {
                for (ptrdiff_t j = 0; j < GP / FN_PAD; j++) {
                    memset(d.x + j * block, 0, FN_PAD * sizeof(A));
                    memset(d.h + j * block, 0, FN_PAD * sizeof(A));
                }
                FN(pack_row)(r->panels_x, K, r->I, k, NULL);
                FN(pack_row)(r->panels_h, K, H, k, NULL);
                continue;
            }
            any = 1;
            FN(pack_row)(r->panels_x, K, r->I, k, (const A *)r->x + (t * r->B + b) * r->I);
            FN(pack_row)(r->panels_h, K, H, k, FN(h_at)(r, t, b));
            const A *dy = (const A *)r->dy + (t * r->B + b) * H;
            for (ptrdiff_t j = 0; j < H; j += VL) {
                if (j + VL <= H)
                    STORE(dh + j, LOAD(dh + j) + LOAD(dy + j));
                else
                    STOREN(dh + j, LOADN(dh + j, H - j, 0) + LOADN(dy + j, H - j, 0), H - j);
            }
            A *sums = (A *)r->sums + b / FN_ROW_GROUP * fn_rnn_sums(r);
            FN(totals) to = {sums, sums + GP, sums + 2 * GP, sums + 3 * GP, sums + 4 * GP, sums + 4 * GP + P};
            const FN(row) row = FN(row_at)(r, t, b, scratch);
            if (r->norm == FN_LAYER)
                FN(row_backward_layer)(r, &row, t, b, dh, dc, &to, &d);
            else if (r->norm == FN_RMS)
                FN(row_backward_rms)(r, &row, t, b, dh, dc, &to, &d);
            else
                FN(row_backward_plain)(r, &row, t, b, dh, dc, &to, &d);
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
