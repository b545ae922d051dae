/* The norms of a row of a step, and the way back through them.
 *
 * `norm` and `gates` are constants wherever these are called: the compiler makes a loop of its own for each. A sum over
 * units has FN_PAD virtual lanes, unit j in lane j % FN_PAD, on every tier. */

#define W (FN_PAD / VL) /* vectors that hold the virtual lanes */
#define UNITS                                                                                                          \
    for (ptrdiff_t first = 0; first < P; first += FN_PAD) UNROLL for (int w = 0; w < W; w++)
#define AT const ptrdiff_t at = first + w * VL;

/* what all rows share: the parameters, padded, and their gradients, added up over steps and the rows of a group */
typedef struct {
    ptrdiff_t P, H;
    A eps;
    const A *bias_x, *bias_h, *gain_x, *gain_h, *gain_c, *bias_c;
    A *dbias_x, *dbias_h, *dgain_x, *dgain_h, *dgain_c, *dbias_c;
    ptrdiff_t block; /* from one block of FN_PAD gate gradients to the next */
} FN(layer);

/* of the gradients that reach a norm, over the units that it is of */
typedef struct {
    A x, xhat, h, hhat;
} FN(means);

/* a row of a step */
typedef struct {
    A *px, *ph;
    A *stats; /* FN_STATS: mean and rstd of x's two blocks of gates, of h's two, of c */
    const A *h_old, *c_old;
    A *h, *c;     /* c of a GRU: h's share in n, which r is multiplied by */
    A *dh, *dc;   /* on their way back */
    A *dpx, *dph; /* gate gradients: unit `at` of gate g is in block (g P + at) / FN_PAD; may be one */
    A *scratch;
    FN(means) m, m2; /* of the two blocks of gates */
    A mean_dc, mean_dchat;
} FN(row);

INLINE A FN(total)(const vec s[W]) {
    vec t[W];
    UNROLL for (int w = 0; w < W; w++) t[w] = s[w];
    UNROLL for (int half = W / 2; half > 0; half /= 2) { UNROLL for (int w = 0; w < half; w++) t[w] += t[w + half]; }
    return SUM(t[0]);
}
/* of all gates together */
INLINE A FN(total_of)(vec s[][W], int gates) {
    vec t[W];
    for (int w = 0; w < W; w++) t[w] = s[0][w];
    for (int g = 1; g < gates; g++)
        for (int w = 0; w < W; w++) t[w] += s[g][w];
    return FN(total)(t);
}
INLINE void FN(add_to)(A *p, vec v) { STORE(p, LOAD(p) + v); }
INLINE void FN(add_all)(A *p, const vec *v, int count) {
    vec s = LOAD(p);
    UNROLL for (int k = 0; k < count; k++) s += v[k];
    STORE(p, s);
}
INLINE void FN(add_product)(A *p, vec a, vec b) { STORE(p, FMA(a, b, LOAD(p))); }

/* Mean and rstd of `gates` gates: a mean, then the squares around it, both put right by the sum of the deviations. The
 * padding is zero. */
INLINE void FN(statistics)(const A *p, int gates, ptrdiff_t P, ptrdiff_t H, int norm, A eps, A *stats) {
    const A n = (A)(gates * H);
    A mean = 0;
    vec sum[4][W], square[4][W];
    for (int g = 0; g < gates; g++)
        for (int w = 0; w < W; w++) sum[g][w] = square[g][w] = SPLAT((A)0);
    if (norm == FN_LAYER) {
        UNITS {
            AT;
            UNROLL for (int g = 0; g < gates; g++) sum[g][w] += LOAD(p + g * P + at);
        }
        mean = FN(total_of)(sum, gates) / n;
        for (int g = 0; g < gates; g++)
            for (int w = 0; w < W; w++) sum[g][w] = SPLAT((A)0);
    }
    const vec centre = SPLAT(mean);
    UNITS {
        AT;
        const ptrdiff_t inside = H - at;
        UNROLL for (int g = 0; g < gates; g++) {
            vec d = LOAD(p + g * P + at) - centre;
            if (inside < VL) d = (vec)((ivec)d & FIRST(inside > 0 ? inside : 0));
            sum[g][w] += d;
            square[g][w] = FMA(d, d, square[g][w]);
        }
    }
    A var = FN(total_of)(square, gates) / n;
    if (norm == FN_LAYER) {
        const A rest = FN(total_of)(sum, gates) / n;
        mean += rest;
        var -= rest * rest;
    }
    stats[0] = mean;
    stats[1] = 1 / ROOT(var + eps);
}

INLINE vec FN(deviation)(const A *p, ptrdiff_t at, int norm, A mean) {
    return norm == FN_LAYER ? LOAD(p + at) - SPLAT(mean) : LOAD(p + at);
}
INLINE vec FN(hat)(const A *p, ptrdiff_t at, int norm, A mean, A rstd) {
    return FN(deviation)(p, at, norm, mean) * SPLAT(rstd);
}
INLINE vec FN(affine)(const A *p, ptrdiff_t at, int norm, const A *stats, const A *gain, const A *bias) {
    return FMA(FN(hat)(p, at, norm, stats[0], stats[1]), LOAD(gain + at), LOAD(bias + at));
}
/* the share of x (h) in unit `at` of gate g; `block` says which of the row's statistics it is normalized with. Where
 * only the sum of both is needed, bias_x holds both biases */
INLINE vec FN(share_x)(const FN(layer) * l, const FN(row) * r, int norm, ptrdiff_t at, int block) {
    return FN(affine)(r->px, at, norm, r->stats + (block ? MEAN_X2 : MEAN_X), l->gain_x, l->bias_x);
}
INLINE vec FN(share_h)(const FN(layer) * l, const FN(row) * r, int norm, ptrdiff_t at, int block) {
    return FN(affine)(r->ph, at, norm, r->stats + (block ? MEAN_H2 : MEAN_H), l->gain_h, l->bias_h);
}
/* the whole argument of a gate: bias_x holds both biases, and without a norm px both products */
INLINE vec FN(argument)(const FN(layer) * l, const FN(row) * r, int norm, ptrdiff_t at) {
    if (!norm) return LOAD(r->px + at) + LOAD(l->bias_x + at);
    const vec hhat = FN(hat)(r->ph, at, norm, r->stats[MEAN_H], r->stats[RSTD_H]);
    return FMA(hhat, LOAD(l->gain_h + at), FN(share_x)(l, r, norm, at, 0));
}
INLINE vec FN(slope_sigmoid)(vec s) { return FMA(-s, s, s); }
INLINE vec FN(slope_tanh)(vec t) { return FMA(-t, t, SPLAT((A)1)); }

/* ---- norm, backward: the two sums of a block of gates, then its gradients -------------------------------------------- */

typedef struct {
    vec x[W], xhat[W], h[W], hhat[W]; /* the hats without rstd */
} FN(sums);

INLINE void FN(begin)(FN(sums) * s) {
    for (int w = 0; w < W; w++) s->x[w] = s->xhat[w] = s->h[w] = s->hhat[w] = SPLAT((A)0);
}
/* dx and dh are the gradients at the normalized shares, equal but for a GRU's n */
INLINE void FN(take_sums)(FN(sums) * s, const FN(layer) * l, const FN(row) * r, int norm, ptrdiff_t at, int w,
                          int block, vec dx, vec dh) {
    const A *mean_x = r->stats + (block ? MEAN_X2 : MEAN_X), *mean_h = r->stats + (block ? MEAN_H2 : MEAN_H);
    const vec gx = dx * LOAD(l->gain_x + at), gh = dh * LOAD(l->gain_h + at);
    if (norm == FN_LAYER) {
        s->x[w] += gx;
        s->h[w] += gh;
    }
    s->xhat[w] = FMA(gx, FN(deviation)(r->px, at, norm, *mean_x), s->xhat[w]);
    s->hhat[w] = FMA(gh, FN(deviation)(r->ph, at, norm, *mean_h), s->hhat[w]);
}
INLINE FN(means) FN(finish)(const FN(sums) * s, A n, const A *stats, int block) {
    const A *rstd_x = stats + (block ? RSTD_X2 : RSTD_X), *rstd_h = stats + (block ? RSTD_H2 : RSTD_H);
    return (FN(means)){FN(total)(s->x) / n, FN(total)(s->xhat) * *rstd_x / n, FN(total)(s->h) / n,
                       FN(total)(s->hhat) * *rstd_h / n};
}
/* where the gate gradient of a unit is among a row's */
INLINE ptrdiff_t FN(grad_at)(const FN(layer) * l, ptrdiff_t at) { return at / FN_PAD * l->block + at % FN_PAD; }
/* brings nearer what put_grads will write for a row at these units */
INLINE void FN(expect_grads)(const FN(layer) * l, const FN(row) * r, int gates, ptrdiff_t at) {
    UNROLL for (int g = 0; g < gates; g++) {
        __builtin_prefetch(r->dpx + FN(grad_at)(l, g * l->P + at), 1);
        __builtin_prefetch(r->dph + FN(grad_at)(l, g * l->P + at), 1);
    }
}
/* Gradients at px and ph of `count` rows from those at the shares; `split`: the biases' gradients differ. The parameters'
 * gradients are loaded and stored once for all rows. */
INLINE void FN(put_grads)(const FN(layer) * l, const FN(row) * rows, int count, int norm, ptrdiff_t at, int block,
                          const vec *dx, const vec *dh, int split) {
    const ptrdiff_t offset = FN(grad_at)(l, at);
    FN(add_all)(l->dbias_x + at, dx, count);
    if (split) FN(add_all)(l->dbias_h + at, dh, count);
    if (!norm) {
        UNROLL for (int k = 0; k < count; k++) {
            STORE(rows[k].dpx + offset, dx[k]);
            if (rows[k].dph != rows[k].dpx) STORE(rows[k].dph + offset, dh[k]);
        }
        return;
    }
    const vec gain_x = LOAD(l->gain_x + at), gain_h = LOAD(l->gain_h + at);
    vec dgain_x = LOAD(l->dgain_x + at), dgain_h = LOAD(l->dgain_h + at);
    UNROLL for (int k = 0; k < count; k++) {
        const FN(means) m = block ? rows[k].m2 : rows[k].m;
        const A *sx = rows[k].stats + (block ? MEAN_X2 : MEAN_X), *sh = rows[k].stats + (block ? MEAN_H2 : MEAN_H);
        const vec xhat = FN(hat)(rows[k].px, at, norm, sx[0], sx[1]),
                  hhat = FN(hat)(rows[k].ph, at, norm, sh[0], sh[1]);
        dgain_x = FMA(dx[k], xhat, dgain_x);
        dgain_h = FMA(dh[k], hhat, dgain_h);
        vec gx = dx[k] * gain_x, gh = dh[k] * gain_h;
        if (norm == FN_LAYER) {
            gx -= SPLAT(m.x);
            gh -= SPLAT(m.h);
        }
        STORE(rows[k].dpx + offset, FMA(-xhat, SPLAT(m.xhat), gx) * SPLAT(sx[1]));
        STORE(rows[k].dph + offset, FMA(-hhat, SPLAT(m.hhat), gh) * SPLAT(sh[1]));
    }
    STORE(l->dgain_x + at, dgain_x);
    STORE(l->dgain_h + at, dgain_h);
}
