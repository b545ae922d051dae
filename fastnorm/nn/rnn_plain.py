"""Recurrent layers in plain NumPy, step by step: what the fused engine is held to.

One layer in one direction. `forward` and `backward` are written for reading; nothing here is quick.
"""

import numpy as np

from .. import core, norms


def sigmoid(a):
    """1 / (1 + exp(-a)), without overflow."""
    return (np.tanh(a * a.dtype.type(0.5)) + 1) * a.dtype.type(0.5)


# ---- the cells: what follows once both projections stand --------------------------------------------------
#
# ax (B, G H) is the input's share of the gates, ah (B, G H) the state's. step(ax, ah, h, c, norm_c) returns
# the new h and c and what back(saved, dh, dc, norm_c) needs to return dax, dah, and the gradients at h and c.


class RNNCell:
    """h' = tanh(ax + ah)."""

    gates, has_c = 1, False
    blocks = (slice(0, 1),)  # what is normalized together, in units of H

    @staticmethod
    def step(ax, ah, h, c, norm_c):
        h = np.tanh(ax + ah)
        return h, None, h

    @staticmethod
    def back(h, dh, dc, norm_c):
        da = dh * (1 - h * h)
        return da, da, np.zeros_like(dh), None


class GRUCell:
    """r, z = sigmoid(ax + ah), n = tanh(ax + r * ah), h' = (1 - z) * n + z * h."""

    gates, has_c = 3, False
    blocks = (slice(0, 2), slice(2, 3))

    @staticmethod
    def step(ax, ah, h, c, norm_c):
        H = h.shape[1]
        gates = sigmoid(ax[:, : 2 * H] + ah[:, : 2 * H])
        r, z, ah_n = gates[:, :H], gates[:, H:], ah[:, 2 * H :]
        n = np.tanh(ax[:, 2 * H :] + r * ah_n)
        return (1 - z) * n + z * h, None, (r, z, n, ah_n, h)

    @staticmethod
    def back(saved, dh, dc, norm_c):
        r, z, n, ah_n, h = saved
        dn = dh * (1 - z) * (1 - n * n)
        dz = dh * (h - n) * z * (1 - z)
        dr = dn * ah_n * r * (1 - r)
        return np.hstack([dr, dz, dn]), np.hstack([dr, dz, dn * r]), dh * z, None


class LSTMCell:
    """i, f, o = sigmoid, g = tanh of ax + ah, c' = f * c + i * g, h' = o * tanh(norm(c'))."""

    gates, has_c = 4, True
    blocks = (slice(0, 4),)

    @staticmethod
    def step(ax, ah, h, c, norm_c):
        H = h.shape[1]
        a = ax + ah
        i, f, o = sigmoid(a[:, :H]), sigmoid(a[:, H : 2 * H]), sigmoid(a[:, 3 * H :])
        g = np.tanh(a[:, 2 * H : 3 * H])
        new = f * c + i * g
        normed, saved_c = norm_c.forward(new)
        out = np.tanh(normed)
        return o * out, new, (i, f, g, o, c, out, saved_c)

    @staticmethod
    def back(saved, dh, dc, norm_c):
        i, f, g, o, c, out, saved_c = saved
        dnew = norm_c.backward(dh * o * (1 - out * out), saved_c) + dc
        di, df = dnew * g * i * (1 - i), dnew * c * f * (1 - f)
        dg, do = dnew * i * (1 - g * g), dh * out * o * (1 - o)
        da = np.hstack([di, df, dg, do])
        return da, da, np.zeros_like(dh), dnew * f


CELLS = {"rnn": RNNCell, "gru": GRUCell, "lstm": LSTMCell}


# ---- the norms of a projection or of the cell -------------------------------------------------------------


class Bias:
    """No norm: z + bias."""

    def __init__(self, p, grads, which):
        self.bias = p.get(f"bias_{which}")
        self.dbias = grads.get(f"bias_{which}")

    def forward(self, z):
        return (z if self.bias is None else z + self.bias), None

    def backward(self, d, saved):
        if self.bias is not None:
            self.dbias += d.sum(axis=0)
        return d


class OverFeatures:
    """Layer norm, or RMS norm with ``with_mean=False``, over each block of features by itself."""

    def __init__(self, p, grads, which, blocks, eps, with_mean):
        self.gain, self.bias = p[f"gain_{which}"], p[f"bias_{which}"]
        self.dgain, self.dbias = grads[f"gain_{which}"], grads[f"bias_{which}"]
        self.blocks, self.eps, self.with_mean = blocks, eps, with_mean

    def forward(self, z):
        y, stats = np.empty_like(z), []
        for s in self.blocks:
            y[:, s], saved = core.normalize(
                z[:, s],
                -1,
                self.gain[s],
                self.bias[s],
                eps=self.eps,
                with_mean=self.with_mean,
                return_stats=True,
            )
            stats.append(saved)
        return y, (z, stats)

    def backward(self, d, saved):
        z, stats = saved
        dz = np.empty_like(z)
        for s, each in zip(self.blocks, stats, strict=True):
            dz[:, s], dgain, dbias = core.normalize_backward(
                d[:, s], z[:, s], each, -1, self.gain[s], self.bias[s], with_mean=self.with_mean
            )
            self.dgain[s] += dgain
            self.dbias[s] += dbias
        return dz


class OverBatch:
    """Batch norm with statistics of its own for every step; `at(t, valid)` says which step comes next.

    Rows that are not valid enter no statistics. A step with a single valid row has no variance to keep, so it
    leaves the running statistics as they are.
    """

    def __init__(self, p, grads, which, running, training, momentum, eps):
        self.gain, self.bias = p[f"gain_{which}"], p[f"bias_{which}"]
        self.dgain, self.dbias = grads[f"gain_{which}"], grads[f"bias_{which}"]
        self.means, self.vars = running[f"running_mean_{which}"], running[f"running_var_{which}"]
        self.num_steps = int(running["num_steps"])
        self.training, self.momentum, self.eps = training, momentum, eps

    def at(self, t, valid):
        self.t, self.where = t, None if valid is None or valid.all() else valid[:, None]
        return self

    def forward(self, z):
        options = {"training": self.training, "channel_axis": -1, "eps": self.eps, "return_stats": True}
        if not self.training:
            last = min(self.t, max(self.num_steps, 1) - 1)
            options |= {"running_mean": self.means[last], "running_var": self.vars[last]}
        else:
            count = len(z) if self.where is None else int(self.where.sum())
            if self.t < len(self.means) and count > 1:
                options |= {"running_mean": self.means[self.t], "running_var": self.vars[self.t]}
            options |= {"momentum": self.momentum, "where": self.where}
        y, stats = norms.batch_norm(z, self.gain, self.bias, **options)
        return y, (z, stats, self.where)

    def backward(self, d, saved):
        z, stats, where = saved
        dz, dgain, dbias = norms.batch_norm_backward(
            d,
            z,
            stats,
            self.gain,
            channel_axis=-1,
            training=self.training,
            where=where if self.training else None,
        )
        self.dgain += dgain
        self.dbias += dbias
        return dz


def _make_norms(spec, p, grads, running, training, H):
    """The norms of the input's projection, the state's, and the cell."""
    made = []
    for which in ("ih", "hh", "c"):
        blocks = CELLS[spec.cell].blocks if which != "c" else (slice(0, 1),)
        blocks = [slice(s.start * H, s.stop * H) for s in blocks]
        if f"gain_{which}" not in p:
            made.append(Bias(p, grads, which))
        elif spec.norm == "batch":
            made.append(OverBatch(p, grads, which, running, training, spec.momentum, spec.eps))
        else:
            made.append(OverFeatures(p, grads, which, blocks, spec.eps, spec.norm == "layer"))
    return made


# ---- a whole sequence -------------------------------------------------------------------------------------


def forward(spec, x, h0, c0, p, running=None, lengths=None, training=True):
    """Run one layer over a sequence.

    Parameters
    ----------
    spec : Spec
        Which cell, which norm, eps and momentum.
    x : (T, B, I)
    h0, c0 : (B, H); c0 is None unless the cell has one
    p : dict
        `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh` and the gains of the norm.
    running : dict or None
        The running statistics of batch norm, changed in place while training.
    lengths : (B,) int or None

    Returns
    -------
    y : (T, B, H); h, c : (B, H)
    backward : callable
        ``backward(dy, dh, dc) -> dx, dh0, dc0, grads``, with grads in the names of p.
    """
    cell = CELLS[spec.cell]
    T, B, _ = x.shape
    H = h0.shape[1]
    valid = None if lengths is None else np.arange(T)[:, None] < lengths
    if valid is not None:
        x = np.where(valid[:, :, None], x, x.dtype.type(0))  # NaN * 0 would reach the weights' gradients
    no_grads = {name: np.zeros_like(array) for name, array in p.items()}
    norm_x, norm_h, norm_c = make = _make_norms(spec, p, no_grads, running, training, H)

    def turn_to(t, make):
        rows = None if valid is None else valid[t]
        for each in make:
            if isinstance(each, OverBatch):
                each.at(t, rows)
        return rows

    y = np.zeros((T, B, H), x.dtype)
    h, c, saved, states = h0, c0, [], []
    for t in range(T):
        rows = turn_to(t, make)
        if not (B if rows is None else rows.any()):
            saved.append(None)
            states.append(h)
            continue
        ax, saved_x = norm_x.forward(x[t] @ p["weight_ih"].T)
        ah, saved_h = norm_h.forward(h @ p["weight_hh"].T)
        new_h, new_c, saved_cell = cell.step(ax, ah, h, c, norm_c)
        saved.append((saved_x, saved_h, saved_cell))
        states.append(h)
        if rows is None:
            h, c, y[t] = new_h, new_c, new_h
        else:
            keep = rows[:, None]
            h = np.where(keep, new_h, h)
            c = np.where(keep, new_c, c) if cell.has_c else None
            y[t] = np.where(keep, new_h, x.dtype.type(0))
    if running is not None and training:
        counts = [B if valid is None else int(rows.sum()) for rows in (range(T) if valid is None else valid)]
        trained = min(sum(n > 1 for n in counts), len(running["running_mean_ih"]))
        running["num_steps"][...] = max(int(running["num_steps"]), trained)

    def backward(dy, dh, dc, into=None):
        grads = {name: np.zeros_like(array) for name, array in p.items()}
        norm_x, norm_h, norm_c = make = _make_norms(spec, p, grads, running, training, H)
        dx = np.zeros_like(x)
        for t in reversed(range(T)):
            if saved[t] is None:
                continue
            rows = turn_to(t, make)
            saved_x, saved_h, saved_cell = saved[t]
            if rows is None:
                into_h, into_c = dh + dy[t], dc
            else:
                keep, zero = rows[:, None], x.dtype.type(0)
                into_h = np.where(keep, dh + np.where(keep, dy[t], zero), zero)
                into_c = np.where(keep, dc, zero) if cell.has_c else None
            dax, dah, old_h, old_c = cell.back(saved_cell, into_h, into_c, norm_c)
            dproj_x, dproj_h = norm_x.backward(dax, saved_x), norm_h.backward(dah, saved_h)
            grads["weight_ih"] += dproj_x.T @ x[t]
            grads["weight_hh"] += dproj_h.T @ states[t]
            dx[t] = dproj_x @ p["weight_ih"]
            old_h = old_h + dproj_h @ p["weight_hh"]
            if rows is None:
                dh, dc = old_h, old_c
            else:
                dh = np.where(keep, old_h, dh)
                dc = np.where(keep, old_c, dc) if cell.has_c else None
        return dx, dh, dc, grads

    return y, h, c, backward
