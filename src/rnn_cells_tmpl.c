/* One row of one step: norm, gates, cell, its norm and output, and the way back through them.
 *
 * `norm` and `gates` are constants wherever these are called: the compiler makes a loop of its own for each. A sum over
 * units has FN_PAD virtual lanes, unit j in lane j % FN_PAD, on every tier. */

#define W (FN_PAD / VL) /* vectors that hold the virtual lanes */
#define UNITS                                                                                                          \
    for (ptrdiff_t first = 0; first < P; first += FN_PAD) UNROLL for (int w = 0; w < W; w++)
#define AT const ptrdiff_t at = first + w * VL;

/* what a row of a step is made of */
typedef struct {
    ptrdiff_t P, H;
    const A *bias_x, *bias_h, *gain_x, *gain_h, *gain_c, *bias_c; /* the parameters, padded */
    A *px, *ph;
    A *stats; /* FN_STATS: mean and rstd of x's two blocks of gates, of h's two, of c */
    A *scratch;
} FN(row);

/* gradients of parameters, added up over steps and the rows of a group */
typedef struct {
    A *bias_x, *bias_h, *gain_x, *gain_h, *gain_c, *bias_c;
} FN(totals);

/* where the gradients at a row's px and ph go: unit `at` of gate g is at block (g P + at) / FN_PAD */
typedef struct {
    A *x, *h;
    ptrdiff_t block;
} FN(gate_grads);

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

INLINE vec FN(hat)(const A *p, ptrdiff_t at, int norm, A mean, A rstd) {
    const vec v = LOAD(p + at);
    return (norm == FN_LAYER ? v - SPLAT(mean) : v) * SPLAT(rstd);
}
INLINE vec FN(affine)(const A *p, ptrdiff_t at, int norm, const A *stats, const A *gain, const A *bias) {
    return FMA(FN(hat)(p, at, norm, stats[0], stats[1]), LOAD(gain + at), LOAD(bias + at));
}
/* the share of x (h) in unit `at` of gate g; `block` says which of the row's statistics it is normalized with. Where
 * only the sum of both is needed, bias_x holds both biases */
INLINE vec FN(share_x)(const FN(row) * r, int norm, ptrdiff_t at, int block) {
    return FN(affine)(r->px, at, norm, r->stats + (block ? MEAN_X2 : MEAN_X), r->gain_x, r->bias_x);
}
INLINE vec FN(share_h)(const FN(row) * r, int norm, ptrdiff_t at, int block) {
    return FN(affine)(r->ph, at, norm, r->stats + (block ? MEAN_H2 : MEAN_H), r->gain_h, r->bias_h);
}
/* the whole argument of a gate: bias_x holds both biases, and without a norm px both products */
INLINE vec FN(argument)(const FN(row) * r, int norm, ptrdiff_t at) {
    if (!norm) return LOAD(r->px + at) + LOAD(r->bias_x + at);
    const vec hhat = FN(hat)(r->ph, at, norm, r->stats[MEAN_H], r->stats[RSTD_H]);
    return FMA(hhat, LOAD(r->gain_h + at), FN(share_x)(r, norm, at, 0));
}
INLINE vec FN(slope_sigmoid)(vec s) { return FMA(-s, s, s); }
INLINE vec FN(slope_tanh)(vec t) { return FMA(-t, t, SPLAT((A)1)); }

/* ---- norm, backward: the two sums of a block of gates, then its gradients -------------------------------------------- */

typedef struct {
    vec x[W], xhat[W], h[W], hhat[W];
} FN(sums);

INLINE void FN(begin)(FN(sums) * s) {
    for (int w = 0; w < W; w++) s->x[w] = s->xhat[w] = s->h[w] = s->hhat[w] = SPLAT((A)0);
}
/* dx and dh are the gradients at the normalized shares, equal but for a GRU's n */
INLINE void FN(take_sums)(FN(sums) * s, const FN(row) * r, int norm, ptrdiff_t at, int w, int block, vec dx, vec dh) {
    const A *sx = r->stats + (block ? MEAN_X2 : MEAN_X), *sh = r->stats + (block ? MEAN_H2 : MEAN_H);
    const vec gx = dx * LOAD(r->gain_x + at), gh = dh * LOAD(r->gain_h + at);
    if (norm == FN_LAYER) {
        s->x[w] += gx;
        s->h[w] += gh;
    }
    s->xhat[w] = FMA(gx, FN(hat)(r->px, at, norm, sx[0], sx[1]), s->xhat[w]);
    s->hhat[w] = FMA(gh, FN(hat)(r->ph, at, norm, sh[0], sh[1]), s->hhat[w]);
}
typedef struct {
    A x, xhat, h, hhat; /* means over the block */
} FN(means);
INLINE FN(means) FN(finish)(const FN(sums) * s, A n) {
    return (FN(means)){FN(total)(s->x) / n, FN(total)(s->xhat) / n, FN(total)(s->h) / n, FN(total)(s->hhat) / n};
}
/* brings nearer what put_grads will write */
INLINE void FN(expect_grads)(const FN(gate_grads) * d, ptrdiff_t at) {
    const ptrdiff_t offset = at / FN_PAD * d->block + at % FN_PAD;
    __builtin_prefetch(d->x + offset, 1);
    __builtin_prefetch(d->h + offset, 1);
}
/* gradients at px and ph from those at the shares; `split`: the biases' gradients differ */
INLINE void FN(put_grads)(const FN(row) * r, FN(totals) * to, FN(gate_grads) * d, int norm, ptrdiff_t at, int block,
                          const FN(means) * m, vec dx, vec dh, int split) {
    const A *sx = r->stats + (block ? MEAN_X2 : MEAN_X), *sh = r->stats + (block ? MEAN_H2 : MEAN_H);
    const ptrdiff_t offset = at / FN_PAD * d->block + at % FN_PAD;
    FN(add_to)(to->bias_x + at, dx);
    if (split) FN(add_to)(to->bias_h + at, dh);
    if (!norm) {
        STORE(d->x + offset, dx);
        if (d->h != d->x) STORE(d->h + offset, dh);
        return;
    }
    const vec xhat = FN(hat)(r->px, at, norm, sx[0], sx[1]), hhat = FN(hat)(r->ph, at, norm, sh[0], sh[1]);
    FN(add_product)(to->gain_x + at, dx, xhat);
    FN(add_product)(to->gain_h + at, dh, hhat);
    vec gx = dx * LOAD(r->gain_x + at), gh = dh * LOAD(r->gain_h + at);
    if (norm == FN_LAYER) {
        gx -= SPLAT(m->x);
        gh -= SPLAT(m->h);
    }
    STORE(d->x + offset, FMA(-xhat, SPLAT(m->xhat), gx) * SPLAT(sx[1]));
    STORE(d->h + offset, FMA(-hhat, SPLAT(m->hhat), gh) * SPLAT(sh[1]));
}

/* ---- RNN ------------------------------------------------------------------------------------------------------------ */

INLINE void FN(rnn_forward)(const FN(row) * r, int norm, A eps, A *h) {
    const ptrdiff_t P = r->P;
    if (norm) {
        FN(statistics)(r->px, 1, P, r->H, norm, eps, r->stats + MEAN_X);
        FN(statistics)(r->ph, 1, P, r->H, norm, eps, r->stats + MEAN_H);
    }
    UNITS {
        AT;
        STORE(h + at, FN(tanh)(FN(argument)(r, norm, at)));
    }
}

INLINE void FN(rnn_backward)(const FN(row) * r, int norm, const A *h, A *dh, FN(totals) * to, FN(gate_grads) * d) {
    const ptrdiff_t P = r->P;
    FN(sums) s;
    FN(begin)(&s);
    UNITS {
        AT;
        const vec da = LOAD(dh + at) * FN(slope_tanh)(LOAD(h + at));
        STORE(dh + at, SPLAT((A)0));
        STORE(r->scratch + at, da);
        if (norm) FN(take_sums)(&s, r, norm, at, w, 0, da, da);
    }
    const FN(means) m = FN(finish)(&s, (A)r->H);
    UNITS {
        AT;
        const vec da = LOAD(r->scratch + at);
        FN(put_grads)(r, to, d, norm, at, 0, &m, da, da, 0);
    }
}

/* ---- GRU: gates r, z, n. `mix` is what r is multiplied by, h's share in n --------------------------------------------- */

INLINE void FN(gru_gates)(const FN(row) * r, int norm, ptrdiff_t at, vec *reset, vec *z, vec *n, vec *mix) {
    const ptrdiff_t P = r->P, in_n = 2 * P + at;
    if (norm) {
        *reset = FN(sigmoid)(FN(argument)(r, norm, at));
        *z = FN(sigmoid)(FN(argument)(r, norm, P + at));
        *mix = FN(share_h)(r, norm, in_n, 1);
        *n = FN(tanh)(FMA(*reset, *mix, FN(share_x)(r, norm, in_n, 1)));
    } else {
        *reset = FN(sigmoid)(LOAD(r->px + at) + LOAD(r->ph + at) + LOAD(r->bias_x + at));
        *z = FN(sigmoid)(LOAD(r->px + P + at) + LOAD(r->ph + P + at) + LOAD(r->bias_x + P + at));
        *mix = LOAD(r->ph + in_n) + LOAD(r->bias_h + in_n);
        *n = FN(tanh)(FMA(*reset, *mix, LOAD(r->px + in_n) + LOAD(r->bias_x + in_n)));
    }
}

INLINE void FN(gru_forward)(const FN(row) * r, int norm, A eps, const A *h_old, A *h, A *mixed) {
    const ptrdiff_t P = r->P;
    if (norm) {
        FN(statistics)(r->px, 2, P, r->H, norm, eps, r->stats + MEAN_X);
        FN(statistics)(r->px + 2 * P, 1, P, r->H, norm, eps, r->stats + MEAN_X2);
        FN(statistics)(r->ph, 2, P, r->H, norm, eps, r->stats + MEAN_H);
        FN(statistics)(r->ph + 2 * P, 1, P, r->H, norm, eps, r->stats + MEAN_H2);
    }
    UNITS {
        AT;
        vec reset, z, n, mix;
        FN(gru_gates)(r, norm, at, &reset, &z, &n, &mix);
        if (!norm) {
            STORE(r->px + at, reset);
            STORE(r->px + P + at, z);
            STORE(r->px + 2 * P + at, n);
            STORE(mixed + at, mix);
        }
        if (h) STORE(h + at, FMA(z, LOAD(h_old + at), (SPLAT((A)1) - z) * n));
    }
}

INLINE void FN(gru_backward)(const FN(row) * r, int norm, const A *h_old, const A *mixed, A *dh, FN(totals) * to,
                             FN(gate_grads) * d) {
    const ptrdiff_t P = r->P;
    FN(sums) s, s2;
    FN(begin)(&s);
    FN(begin)(&s2);
    UNITS {
        AT;
        vec reset, z, n, mix;
        if (norm) {
            FN(gru_gates)(r, norm, at, &reset, &z, &n, &mix);
        } else {
            reset = LOAD(r->px + at);
            z = LOAD(r->px + P + at);
            n = LOAD(r->px + 2 * P + at);
            mix = LOAD(mixed + at);
        }
        const vec dy = LOAD(dh + at);
        const vec dn = dy * (SPLAT((A)1) - z) * FN(slope_tanh)(n);
        const vec dz = dy * (LOAD(h_old + at) - n) * FN(slope_sigmoid)(z);
        const vec dr = dn * mix * FN(slope_sigmoid)(reset), dmix = dn * reset;
        STORE(dh + at, dy * z);
        STORE(r->scratch + at, dr);
        STORE(r->scratch + P + at, dz);
        STORE(r->scratch + 2 * P + at, dn);
        STORE(r->scratch + 3 * P + at, dmix);
        if (norm) {
            FN(take_sums)(&s, r, norm, at, w, 0, dr, dr);
            FN(take_sums)(&s, r, norm, P + at, w, 0, dz, dz);
            FN(take_sums)(&s2, r, norm, 2 * P + at, w, 1, dn, dmix);
        }
    }
    const FN(means) m = FN(finish)(&s, (A)(2 * r->H)), m2 = FN(finish)(&s2, (A)r->H);
    UNITS {
        AT;
        const vec dr = LOAD(r->scratch + at), dz = LOAD(r->scratch + P + at);
        const vec dn = LOAD(r->scratch + 2 * P + at), dmix = LOAD(r->scratch + 3 * P + at);
        FN(put_grads)(r, to, d, norm, at, 0, &m, dr, dr, 1);
        FN(put_grads)(r, to, d, norm, P + at, 0, &m, dz, dz, 1);
        FN(put_grads)(r, to, d, norm, 2 * P + at, 1, &m2, dn, dmix, 1);
    }
}

/* ---- LSTM: gates i, f, g, o ----------------------------------------------------------------------------------------- */

INLINE void FN(lstm_forward)(const FN(row) * r, int norm, A eps, const A *c_old, A *c, A *h) {
    const ptrdiff_t P = r->P;
    if (norm) {
        FN(statistics)(r->px, 4, P, r->H, norm, eps, r->stats + MEAN_X);
        FN(statistics)(r->ph, 4, P, r->H, norm, eps, r->stats + MEAN_H);
    }
    UNITS {
        AT;
        const vec i = FN(sigmoid)(FN(argument)(r, norm, at)), f = FN(sigmoid)(FN(argument)(r, norm, P + at));
        const vec g = FN(tanh)(FN(argument)(r, norm, 2 * P + at));
        const vec o = FN(sigmoid)(FN(argument)(r, norm, 3 * P + at));
        if (!norm) {
            STORE(r->px + at, i);
            STORE(r->px + P + at, f);
            STORE(r->px + 2 * P + at, g);
            STORE(r->px + 3 * P + at, o);
            if (!h) continue;
        }
        const vec cell = FMA(f, LOAD(c_old + at), i * g);
        STORE(c + at, cell);
        STORE(h + at, norm ? o : o * FN(tanh)(cell));
    }
    if (!norm) return;
    FN(statistics)(c, 1, P, r->H, norm, eps, r->stats + MEAN_C);
    UNITS {
        AT;
        STORE(h + at, LOAD(h + at) * FN(tanh)(FN(affine)(c, at, norm, r->stats + MEAN_C, r->gain_c, r->bias_c)));
    }
}

INLINE void FN(lstm_gate_grads)(ptrdiff_t at, ptrdiff_t P, vec dcell, vec c_old, const A *gates, vec grad[3]) {
    const vec i = LOAD(gates + at), f = LOAD(gates + P + at), g = LOAD(gates + 2 * P + at);
    grad[0] = dcell * g * FN(slope_sigmoid)(i);
    grad[1] = dcell * c_old * FN(slope_sigmoid)(f);
    grad[2] = dcell * i * FN(slope_tanh)(g);
}

INLINE void FN(lstm_backward)(const FN(row) * r, int norm, const A *c_old, const A *c, A *dh, A *dc, FN(totals) * to,
                              FN(gate_grads) * d) {
    const ptrdiff_t P = r->P;
    A *gates = r->scratch, *before_c = r->scratch + 4 * P;
    const FN(means) none = {0, 0, 0, 0};
    if (!norm) {
        UNITS {
            AT;
            const vec dy = LOAD(dh + at), o = LOAD(r->px + 3 * P + at), out = FN(tanh)(LOAD(c + at));
            const vec dcell = FMA(dy * o, FN(slope_tanh)(out), LOAD(dc + at));
            vec grad[3];
            FN(lstm_gate_grads)(at, P, dcell, LOAD(c_old + at), r->px, grad);
            STORE(dc + at, dcell * LOAD(r->px + P + at));
            STORE(dh + at, SPLAT((A)0));
            UNROLL for (int g = 0; g < 3; g++) FN(put_grads)(r, to, d, norm, g * P + at, 0, &none, grad[g], grad[g], 0);
            const vec od = dy * out * FN(slope_sigmoid)(o);
            FN(put_grads)(r, to, d, norm, 3 * P + at, 0, &none, od, od, 0);
        }
        return;
    }
    /* the gates once more, and the two sums of the cell's norm */
    const A mean_c = r->stats[MEAN_C], rstd_c = r->stats[RSTD_C];
    vec sum[W], sum_hat[W];
    for (int w = 0; w < W; w++) sum[w] = sum_hat[w] = SPLAT((A)0);
    UNITS {
        AT;
        const vec i = FN(sigmoid)(FN(argument)(r, norm, at)), f = FN(sigmoid)(FN(argument)(r, norm, P + at));
        const vec g = FN(tanh)(FN(argument)(r, norm, 2 * P + at));
        const vec o = FN(sigmoid)(FN(argument)(r, norm, 3 * P + at));
        UNROLL for (int k = 0; k < 4; k++) FN(expect_grads)(d, k * P + at);
        const vec hat = FN(hat)(c, at, norm, mean_c, rstd_c), gain = LOAD(r->gain_c + at);
        const vec out = FN(tanh)(FMA(hat, gain, LOAD(r->bias_c + at))), dy = LOAD(dh + at);
        const vec into = dy * o * FN(slope_tanh)(out);
        STORE(dh + at, SPLAT((A)0));
        STORE(gates + at, i);
        STORE(gates + P + at, f);
        STORE(gates + 2 * P + at, g);
        STORE(gates + 3 * P + at, dy * out * FN(slope_sigmoid)(o));
        STORE(before_c + at, into);
        sum[w] += into * gain;
        sum_hat[w] = FMA(into * gain, hat, sum_hat[w]);
    }
    const A mean = norm == FN_LAYER ? FN(total)(sum) / (A)r->H : 0, mean_hat = FN(total)(sum_hat) / (A)r->H;
    FN(sums) s;
    FN(begin)(&s);
    UNITS {
        AT;
        const vec into = LOAD(before_c + at), hat = FN(hat)(c, at, norm, mean_c, rstd_c);
        FN(add_product)(to->gain_c + at, into, hat);
        FN(add_to)(to->bias_c + at, into);
        const vec deviation = FMA(-hat, SPLAT(mean_hat), FMA(into, LOAD(r->gain_c + at), SPLAT(-mean)));
        const vec dcell = FMA(deviation, SPLAT(rstd_c), LOAD(dc + at));
        vec grad[3];
        FN(lstm_gate_grads)(at, P, dcell, LOAD(c_old + at), gates, grad);
        STORE(dc + at, dcell * LOAD(gates + P + at));
        UNROLL for (int g = 0; g < 3; g++) {
            STORE(gates + g * P + at, grad[g]);
            FN(take_sums)(&s, r, norm, g * P + at, w, 0, grad[g], grad[g]);
        }
        const vec od = LOAD(gates + 3 * P + at);
        FN(take_sums)(&s, r, norm, 3 * P + at, w, 0, od, od);
    }
    const FN(means) m = FN(finish)(&s, (A)(4 * r->H));
    UNITS {
        AT;
        UNROLL for (int g = 0; g < 4; g++) {
            const vec da = LOAD(gates + g * P + at);
            FN(put_grads)(r, to, d, norm, g * P + at, 0, &m, da, da, 0);
        }
    }
}
