/* The cells: what a few rows of one step do, forward and backward. Each stage does all rows before the next begins, so
 * that nobody waits for the sum that a row's next stage needs. `norm` is a constant wherever these are called. */

#define ROWS for (int k = 0; k < count; k++)
/* the last stage takes rows in pairs, which share the parameters' gradients */
#define BY_TWO(put)                                                                                                    \
    for (int k = 0; k < count; k += 2) {                                                                               \
        if (k + 1 < count)                                                                                             \
            FN(put)(l, rows + k, 2, norm);                                                                             \
        else                                                                                                           \
            FN(put)(l, rows + k, 1, norm);                                                                             \
    }

/* the gradients in scratch, alike for x and h, of `gates` gates of one or two rows */
INLINE void FN(put_alike)(const FN(layer) * l, const FN(row) * rows, int count, int norm, int gates) {
    const ptrdiff_t P = l->P;
    const FN(row) r[2] = {rows[0], rows[count - 1]};
    UNITS {
        AT;
        UNROLL for (int g = 0; g < gates; g++) {
            vec da[2];
            UNROLL for (int k = 0; k < count; k++) da[k] = LOAD(r[k].scratch + g * P + at);
            FN(put_grads)(l, r, count, norm, g * P + at, 0, da, da, 0);
        }
    }
}

/* both shares' statistics of `gates` gates that are normalized together */
INLINE void FN(both_statistics)(const FN(layer) * l, const FN(row) * rows, int count, int norm, int gates) {
    ROWS {
        FN(statistics)(rows[k].px, gates, l->P, l->H, norm, l->eps, rows[k].stats + MEAN_X);
        FN(statistics)(rows[k].ph, gates, l->P, l->H, norm, l->eps, rows[k].stats + MEAN_H);
    }
}

/* ---- RNN ------------------------------------------------------------------------------------------------------------ */

INLINE void FN(rnn_forward)(const FN(layer) * l, const FN(row) * rows, int count, int norm) {
    const ptrdiff_t P = l->P;
    if (norm) FN(both_statistics)(l, rows, count, norm, 1);
    ROWS {
        const FN(row) r = rows[k];
        UNITS {
            AT;
            STORE(r.h + at, FN(tanh)(FN(argument)(l, &r, norm, at)));
        }
    }
}

INLINE void FN(rnn_put)(const FN(layer) * l, const FN(row) * rows, int count, int norm) {
    FN(put_alike)(l, rows, count, norm, 1);
}

INLINE void FN(rnn_backward)(const FN(layer) * l, FN(row) * rows, int count, int norm) {
    const ptrdiff_t P = l->P;
    ROWS {
        const FN(row) r = rows[k];
        FN(sums) s;
        FN(begin)(&s);
        UNITS {
            AT;
            const vec da = LOAD(r.dh + at) * FN(slope_tanh)(LOAD(r.h + at));
            STORE(r.dh + at, SPLAT((A)0));
            STORE(r.scratch + at, da);
            if (norm) FN(take_sums)(&s, l, &r, norm, at, w, 0, da, da);
        }
        if (norm) rows[k].m = FN(finish)(&s, (A)l->H, r.stats, 0);
    }
    BY_TWO(rnn_put)
}

/* ---- GRU: gates r, z, n. `mix` is what r is multiplied by, h's share in n --------------------------------------------- */

INLINE void FN(gru_gates)(const FN(layer) * l, const FN(row) * r, int norm, ptrdiff_t at, vec *reset, vec *z, vec *n,
                          vec *mix) {
    const ptrdiff_t P = l->P, in_n = 2 * P + at;
    if (norm) {
        *reset = FN(sigmoid)(FN(argument)(l, r, norm, at));
        *z = FN(sigmoid)(FN(argument)(l, r, norm, P + at));
        *mix = FN(share_h)(l, r, norm, in_n, 1);
        *n = FN(tanh)(FMA(*reset, *mix, FN(share_x)(l, r, norm, in_n, 1)));
    } else {
        *reset = FN(sigmoid)(LOAD(r->px + at) + LOAD(r->ph + at) + LOAD(l->bias_x + at));
        *z = FN(sigmoid)(LOAD(r->px + P + at) + LOAD(r->ph + P + at) + LOAD(l->bias_x + P + at));
        *mix = LOAD(r->ph + in_n) + LOAD(l->bias_h + in_n);
        *n = FN(tanh)(FMA(*reset, *mix, LOAD(r->px + in_n) + LOAD(l->bias_x + in_n)));
    }
}

INLINE void FN(gru_forward)(const FN(layer) * l, const FN(row) * rows, int count, int norm) {
    const ptrdiff_t P = l->P;
    if (norm) {
        FN(both_statistics)(l, rows, count, norm, 2);
        ROWS {
            const FN(row) r = rows[k];
            FN(statistics)(r.px + 2 * P, 1, P, l->H, norm, l->eps, r.stats + MEAN_X2);
            FN(statistics)(r.ph + 2 * P, 1, P, l->H, norm, l->eps, r.stats + MEAN_H2);
        }
    }
    ROWS {
        const FN(row) r = rows[k];
        UNITS {
            AT;
            vec reset, z, n, mix;
            FN(gru_gates)(l, &r, norm, at, &reset, &z, &n, &mix);
            if (!norm) {
                STORE(r.px + at, reset);
                STORE(r.px + P + at, z);
                STORE(r.px + 2 * P + at, n);
                STORE(r.c + at, mix);
            }
            if (r.h) STORE(r.h + at, FMA(z, LOAD(r.h_old + at), (SPLAT((A)1) - z) * n));
        }
    }
}

INLINE void FN(gru_put)(const FN(layer) * l, const FN(row) * rows, int count, int norm) {
    const ptrdiff_t P = l->P;
    const FN(row) r[2] = {rows[0], rows[count - 1]};
    UNITS {
        AT;
        vec dr[2], dz[2], dn[2], dmix[2];
        UNROLL for (int k = 0; k < count; k++) {
            dr[k] = LOAD(r[k].scratch + at);
            dz[k] = LOAD(r[k].scratch + P + at);
            dn[k] = LOAD(r[k].scratch + 2 * P + at);
            dmix[k] = LOAD(r[k].scratch + 3 * P + at);
        }
        FN(put_grads)(l, r, count, norm, at, 0, dr, dr, 1);
        FN(put_grads)(l, r, count, norm, P + at, 0, dz, dz, 1);
        FN(put_grads)(l, r, count, norm, 2 * P + at, 1, dn, dmix, 1);
    }
}

INLINE void FN(gru_backward)(const FN(layer) * l, FN(row) * rows, int count, int norm) {
    const ptrdiff_t P = l->P;
    ROWS {
        const FN(row) r = rows[k];
        FN(sums) s, s2;
        FN(begin)(&s);
        FN(begin)(&s2);
        UNITS {
            AT;
            vec reset, z, n, mix;
            if (norm) {
                FN(expect_grads)(l, &r, 3, at);
                FN(gru_gates)(l, &r, norm, at, &reset, &z, &n, &mix);
            } else {
                reset = LOAD(r.px + at);
                z = LOAD(r.px + P + at);
                n = LOAD(r.px + 2 * P + at);
                mix = LOAD(r.c + at);
            }
            const vec dy = LOAD(r.dh + at);
            const vec dn = dy * (SPLAT((A)1) - z) * FN(slope_tanh)(n);
            const vec dz = dy * (LOAD(r.h_old + at) - n) * FN(slope_sigmoid)(z);
            const vec dr = dn * mix * FN(slope_sigmoid)(reset), dmix = dn * reset;
            STORE(r.dh + at, dy * z);
            STORE(r.scratch + at, dr);
            STORE(r.scratch + P + at, dz);
            STORE(r.scratch + 2 * P + at, dn);
            STORE(r.scratch + 3 * P + at, dmix);
            if (norm) {
                FN(take_sums)(&s, l, &r, norm, at, w, 0, dr, dr);
                FN(take_sums)(&s, l, &r, norm, P + at, w, 0, dz, dz);
                FN(take_sums)(&s2, l, &r, norm, 2 * P + at, w, 1, dn, dmix);
            }
        }
        if (!norm) continue;
        rows[k].m = FN(finish)(&s, (A)(2 * l->H), r.stats, 0);
        rows[k].m2 = FN(finish)(&s2, (A)l->H, r.stats, 1);
    }
    BY_TWO(gru_put)
}

/* ---- LSTM: gates i, f, g, o ----------------------------------------------------------------------------------------- */

typedef struct {
    vec i, f, g, o;
} FN(gates);

INLINE FN(gates) FN(lstm_gates)(const FN(layer) * l, const FN(row) * r, int norm, ptrdiff_t at) {
    return (FN(gates)){.i = FN(sigmoid)(FN(argument)(l, r, norm, at)),
                       .f = FN(sigmoid)(FN(argument)(l, r, norm, l->P + at)),
                       .g = FN(tanh)(FN(argument)(l, r, norm, 2 * l->P + at)),
                       .o = FN(sigmoid)(FN(argument)(l, r, norm, 3 * l->P + at))};
}
INLINE void FN(put_gates)(A *p, ptrdiff_t P, FN(gates) a) {
    STORE(p, a.i);
    STORE(p + P, a.f);
    STORE(p + 2 * P, a.g);
    STORE(p + 3 * P, a.o);
}

INLINE void FN(lstm_forward)(const FN(layer) * l, const FN(row) * rows, int count, int norm) {
    const ptrdiff_t P = l->P;
    if (norm) FN(both_statistics)(l, rows, count, norm, 4);
    ROWS {
        const FN(row) r = rows[k];
        UNITS {
            AT;
            const FN(gates) a = FN(lstm_gates)(l, &r, norm, at);
            if (!norm) FN(put_gates)(r.px + at, P, a);
            if (!r.h) continue;
            const vec cell = FMA(a.f, LOAD(r.c_old + at), a.i * a.g);
            STORE(r.c + at, cell);
            STORE(r.h + at, norm ? a.o : a.o * FN(tanh)(cell));
        }
    }
    if (!norm) return;
    ROWS { FN(statistics)(rows[k].c, 1, P, l->H, norm, l->eps, rows[k].stats + MEAN_C); }
    ROWS {
        const FN(row) r = rows[k];
        UNITS {
            AT;
            const vec normalized = FN(affine)(r.c, at, norm, r.stats + MEAN_C, l->gain_c, l->bias_c);
            STORE(r.h + at, LOAD(r.h + at) * FN(tanh)(normalized));
        }
    }
}

/* of i, f and g */
INLINE void FN(lstm_gate_grads)(ptrdiff_t at, ptrdiff_t P, vec dcell, vec c_old, const A *gates, vec grad[3]) {
    const vec i = LOAD(gates + at), f = LOAD(gates + P + at), g = LOAD(gates + 2 * P + at);
    grad[0] = dcell * g * FN(slope_sigmoid)(i);
    grad[1] = dcell * c_old * FN(slope_sigmoid)(f);
    grad[2] = dcell * i * FN(slope_tanh)(g);
}

INLINE void FN(lstm_backward_plain)(const FN(layer) * l, const FN(row) * rows, int count) {
    const ptrdiff_t P = l->P;
    ROWS {
        const FN(row) r = rows[k];
        UNITS {
            AT;
            const vec dy = LOAD(r.dh + at), o = LOAD(r.px + 3 * P + at), out = FN(tanh)(LOAD(r.c + at));
            const vec dcell = FMA(dy * o, FN(slope_tanh)(out), LOAD(r.dc + at));
            vec grad[3];
            FN(lstm_gate_grads)(at, P, dcell, LOAD(r.c_old + at), r.px, grad);
            STORE(r.dc + at, dcell * LOAD(r.px + P + at));
            STORE(r.dh + at, SPLAT((A)0));
            UNROLL for (int g = 0; g < 3; g++)
                FN(put_grads)(l, &r, 1, FN_NO_NORM, g * P + at, 0, &grad[g], &grad[g], 0);
            const vec od = dy * out * FN(slope_sigmoid)(o);
            FN(put_grads)(l, &r, 1, FN_NO_NORM, 3 * P + at, 0, &od, &od, 0);
        }
    }
}

INLINE void FN(lstm_put)(const FN(layer) * l, const FN(row) * rows, int count, int norm) {
    FN(put_alike)(l, rows, count, norm, 4);
}

INLINE void FN(lstm_backward)(const FN(layer) * l, FN(row) * rows, int count, int norm) {
    const ptrdiff_t P = l->P;
    if (!norm) {
        FN(lstm_backward_plain)(l, rows, count);
        return;
    }
    /* the gates once more, and the two sums of the cell's norm */
    ROWS {
        const FN(row) r = rows[k];
        A *gates = r.scratch, *before_c = r.scratch + 4 * P;
        vec sum[W], sum_hat[W];
        for (int w = 0; w < W; w++) sum[w] = sum_hat[w] = SPLAT((A)0);
        UNITS {
            AT;
            FN(gates) a = FN(lstm_gates)(l, &r, norm, at);
            const vec hat = FN(hat)(r.c, at, norm, r.stats[MEAN_C], r.stats[RSTD_C]), gain = LOAD(l->gain_c + at);
            const vec out = FN(tanh)(FMA(hat, gain, LOAD(l->bias_c + at))), dy = LOAD(r.dh + at);
            const vec into = dy * a.o * FN(slope_tanh)(out);
            STORE(r.dh + at, SPLAT((A)0));
            a.o = dy * out * FN(slope_sigmoid)(a.o); /* its gradient from here on */
            FN(put_gates)(gates + at, P, a);
            STORE(before_c + at, into);
            sum[w] += into * gain;
            sum_hat[w] = FMA(into * gain, hat, sum_hat[w]);
        }
        rows[k].mean_dc = norm == FN_LAYER ? FN(total)(sum) / (A)l->H : 0;
        rows[k].mean_dchat = FN(total)(sum_hat) / (A)l->H;
    }
    ROWS {
        const FN(row) r = rows[k];
        A *gates = r.scratch, *before_c = r.scratch + 4 * P;
        FN(sums) s;
        FN(begin)(&s);
        UNITS {
            AT;
            FN(expect_grads)(l, &r, 4, at);
            const vec into = LOAD(before_c + at), hat = FN(hat)(r.c, at, norm, r.stats[MEAN_C], r.stats[RSTD_C]);
            FN(add_product)(l->dgain_c + at, into, hat);
            FN(add_to)(l->dbias_c + at, into);
            const vec deviation = FMA(into, LOAD(l->gain_c + at), SPLAT(-r.mean_dc));
            const vec dcell = FMA(FMA(-hat, SPLAT(r.mean_dchat), deviation), SPLAT(r.stats[RSTD_C]), LOAD(r.dc + at));
            vec grad[3];
            FN(lstm_gate_grads)(at, P, dcell, LOAD(r.c_old + at), gates, grad);
            STORE(r.dc + at, dcell * LOAD(gates + P + at));
            UNROLL for (int g = 0; g < 3; g++) {
                STORE(gates + g * P + at, grad[g]);
                FN(take_sums)(&s, l, &r, norm, g * P + at, w, 0, grad[g], grad[g]);
            }
            const vec od = LOAD(gates + 3 * P + at);
            FN(take_sums)(&s, l, &r, norm, 3 * P + at, w, 0, od, od);
        }
        rows[k].m = FN(finish)(&s, (A)(4 * l->H), r.stats, 0);
    }
    BY_TWO(lstm_put)
}

/* ---- any of them ------------------------------------------------------------------------------------------------------ */

#define RUN(way, Row)                                                                                                  \
    INLINE void FN(cell_##way)(int cell, const FN(layer) * l, Row * rows, int count, int norm) {                       \
        if (cell == FN_LSTM)                                                                                           \
            FN(lstm_##way)(l, rows, count, norm);                                                                      \
        else if (cell == FN_GRU)                                                                                       \
            FN(gru_##way)(l, rows, count, norm);                                                                       \
        else                                                                                                           \
            FN(rnn_##way)(l, rows, count, norm);                                                                       \
    }                                                                                                                  \
    RUN_NORM(way, Row, plain, FN_NO_NORM)                                                                              \
    RUN_NORM(way, Row, layer, FN_LAYER)                                                                                \
    RUN_NORM(way, Row, rms, FN_RMS)                                                                                    \
    static void (*const FN(way##s)[])(int, const FN(layer) *, Row *, int) = {                                          \
        [FN_NO_NORM] = FN(way##_plain), [FN_LAYER] = FN(way##_layer), [FN_RMS] = FN(way##_rms)};
#define RUN_NORM(way, Row, name, norm)                                                                                 \
    OUTLINE void FN(way##_##name)(int cell, const FN(layer) * l, Row * rows, int count) {                              \
        FN(cell_##way)(cell, l, rows, count, norm);                                                                    \
    }
RUN(forward, const FN(row))
RUN(backward, FN(row))
#undef RUN
#undef RUN_NORM
