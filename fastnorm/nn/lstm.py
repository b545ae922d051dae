"""The LSTM, plain and layer-normalized, over whole sequences."""

import numpy as np

from .. import norms
from .layer import Layer, as_real, check_shape, check_size

NORMS = (None, "layer")


class LSTM(Layer):
    r"""A long short-term memory net of one layer, computed step by step along the first axis of x.

    Without a norm it is what torch.nn.LSTM computes, with a = (i, f, g, o) four blocks of H::

        a_t = weight_ih x_t + bias_ih + weight_hh h_{t-1} + bias_hh
        c_t = sigmoid(f_t) * c_{t-1} + sigmoid(i_t) * tanh(g_t)
        h_t = sigmoid(o_t) * tanh(c_t)

    With ``norm="layer"``, LN being `fastnorm.layer_norm` over all 4 H (the last one over all H) features::

        a_t = LN(weight_ih x_t; gain_ih, bias_ih) + LN(weight_hh h_{t-1}; gain_hh, bias_hh)
        c_t = sigmoid(f_t) * c_{t-1} + sigmoid(i_t) * tanh(g_t)
        h_t = sigmoid(o_t) * tanh(LN(c_t; gain_c, bias_c))

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    norm : None or "layer"
    dtype : float32 or float64
    rng : None, int or numpy.random.Generator
        Where weights (and, without a norm, biases) are drawn from, uniform within ``1 / sqrt(H)`` of zero.
        Gains start at 1 and the biases of norms at 0.

    Raises
    ------
    ValueError
        For an unknown norm, a size below 1, or another dtype.

    Notes
    -----
    Parameters: `weight_ih` (4 H, I), `weight_hh` (4 H, H), `bias_ih` (4 H,), `bias_hh` (4 H,); with a norm
    also `gain_ih` (4 H,), `gain_hh` (4 H,), `gain_c` (H,), `bias_c` (H,).

    The paper adds one more bias b to a_t. It would only be summed with bias_ih and bias_hh, so it is left
    out.

    References
    ----------
    Hochreiter & Schmidhuber 1997, "Long short-term memory", with the forget gate of Gers et al. 2000.
    Ba, Kiros & Hinton 2016, "Layer normalization", supplementary material, equations 20 to 22.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.nn import LSTM
    >>> net = LSTM(3, 4, norm="layer", rng=0)
    >>> x = np.ones((7, 2, 3), np.float32)             # 7 steps of 2 sequences
    >>> (y, (h, c)), backward = net(x, lengths=[7, 5])
    >>> y.shape, bool((y[5:, 1] == 0).all()), bool((h[1] == y[4, 1]).all())
    ((7, 2, 4), True, True)
    >>> dx, (dh0, dc0) = backward(np.ones_like(y))
    >>> dx.shape, dh0.shape
    ((7, 2, 3), (2, 4))
    """

    def __init__(self, input_size, hidden_size, *, norm=None, dtype=np.float32, rng=None):
        super().__init__(dtype)
        if norm not in NORMS:
            raise ValueError(f"norm is {norm!r}, and needs to be one of {', '.join(map(repr, NORMS))}")
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = H = check_size("hidden_size", hidden_size)
        self.norm = norm
        rng = np.random.default_rng(rng)
        bound = 1 / np.sqrt(H)
        self._add_param("weight_ih", rng.uniform(-bound, bound, (4 * H, self.input_size)))
        self._add_param("weight_hh", rng.uniform(-bound, bound, (4 * H, H)))
        if norm is None:
            self._add_param("bias_ih", rng.uniform(-bound, bound, 4 * H))
            self._add_param("bias_hh", rng.uniform(-bound, bound, 4 * H))
        else:
            for name, size in (("ih", 4 * H), ("hh", 4 * H), ("c", H)):
                self._add_param(f"gain_{name}", np.ones(size))
                self._add_param(f"bias_{name}", np.zeros(size))
        # sigmoid(a) = tanh(a / 2) / 2 + 1/2: with these, one tanh over all four blocks gives all gates.
        self._scale = np.repeat(np.array([0.5, 0.5, 1, 0.5], self.dtype), H)
        self._shift = np.repeat(np.array([0.5, 0.5, 0, 0.5], self.dtype), H)

    def __call__(self, x, state=None, lengths=None, training=True):
        """Run over a batch of sequences.

        Parameters
        ----------
        x : array_like, (T, B, I)
        state : (h, c), each array_like (B, H), optional
            The state before the first step; zeros if not given.
        lengths : array_like of int, (B,), optional
            The valid steps of each sequence, from 0 to T. Beyond them y is 0, the state stays, no gradient
            flows, and x may hold anything.
        training : bool
            Makes no difference here: neither form uses statistics over the batch.

        Returns
        -------
        (y, (h, c)) : y (T, B, H), h and c (B, H)
            The outputs of all steps, and the state after the last (valid) one.
        backward : callable
            ``backward(dy, dstate=None) -> dx, (dh0, dc0)``; `dstate` is (dh, dc), either of which may be
            None.

        Raises
        ------
        ValueError, TypeError
            For a wrong shape, a length that is not a whole number from 0 to T, or an x without real numbers.
        """
        x = as_real("x", x, self.dtype)
        if x.ndim != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"x has shape {x.shape}, and (T, B, {self.input_size}) is needed")
        T, B, I = x.shape  # noqa: E741
        H = self.hidden_size
        h0, c0 = self._pair("state", state, B)
        beyond = _steps_beyond(lengths, T, B)
        if beyond is not None:
            # NaN * 0 would reach the weights' gradients.
            x = np.where(beyond[:, :, None], self.dtype.type(0), x)
        p, normed = self.params, self.norm is not None

        # The input's share of every step at once.
        proj_x = (x.reshape(T * B, I) @ p["weight_ih"].T).reshape(T, B, 4 * H)
        if normed:
            a_x, stats_x = norms.layer_norm(proj_x, p["gain_ih"], p["bias_ih"], return_stats=True)
        else:
            a_x, stats_x = proj_x, None
            a_x += p["bias_ih"] + p["bias_hh"]

        h, c = np.empty((2, T + 1, B, H), self.dtype)  # h[t], c[t]: the state before step t
        h[0], c[0] = h0, c0
        gates = np.empty((T, B, 4 * H), self.dtype)  # after the sigmoids and tanh
        tanh_c = np.empty((T, B, H), self.dtype)
        proj_h = np.empty((T, B, 4 * H), self.dtype) if normed else gates
        stats_h, stats_c = [], []
        new = np.empty((B, H), self.dtype)

        for t in range(T):
            a, out = gates[t], tanh_c[t]
            np.matmul(h[t], p["weight_hh"].T, out=proj_h[t])
            if normed:
                _, stats = norms.layer_norm(proj_h[t], p["gain_hh"], p["bias_hh"], out=a, return_stats=True)
                stats_h.append(stats)
            a += a_x[t]
            a *= self._scale
            np.tanh(a, out=a)
            a *= self._scale
            a += self._shift
            i, f, g, o = a[:, :H], a[:, H : 2 * H], a[:, 2 * H : 3 * H], a[:, 3 * H :]

            np.multiply(f, c[t], out=c[t + 1])
            np.multiply(i, g, out=new)
            c[t + 1] += new
            if normed:
                _, stats = norms.layer_norm(c[t + 1], p["gain_c"], p["bias_c"], out=out, return_stats=True)
                stats_c.append(stats)
                np.tanh(out, out=out)
            else:
                np.tanh(c[t + 1], out=out)
            np.multiply(o, out, out=h[t + 1])
            if beyond is not None:
                np.copyto(h[t + 1], h[t], where=beyond[t, :, None])
                np.copyto(c[t + 1], c[t], where=beyond[t, :, None])

        y = h[1:].copy()  # the caller may write into y
        if beyond is not None:
            y[beyond] = 0

        def backward(dy, dstate=None):
            dy = as_real("dy", dy, self.dtype)
            check_shape("dy", dy, (T, B, H))
            dh, dc = (d.copy() for d in self._pair("dstate", dstate, B))
            da = np.empty((T, B, 4 * H), self.dtype)  # the gradient at a_t
            dproj_h = np.empty((T, B, 4 * H), self.dtype) if normed else da
            slope, dcell = np.empty((B, 4 * H), self.dtype), np.empty((B, H), self.dtype)
            grads = self.grads

            for t in reversed(range(T)):
                stay = None if beyond is None or not beyond[t].any() else beyond[t]
                if stay is not None:
                    dh_stay, dc_stay = dh[stay], dc[stay]
                    dh += np.where(stay[:, None], self.dtype.type(0), dy[t])
                else:
                    dh += dy[t]
                a, d, out = gates[t], da[t], tanh_c[t]
                i, f, g, o = a[:, :H], a[:, H : 2 * H], a[:, 2 * H : 3 * H], a[:, 3 * H :]

                # h = o * tanh(...): dcell is the gradient at the tanh's input, then at c_t.
                np.multiply(dh, out, out=d[:, 3 * H :])
                np.multiply(out, out, out=dcell)
                np.subtract(1, dcell, out=dcell)
                dcell *= o
                dcell *= dh
                if stay is not None:
                    dcell[stay] = 0
                if normed:
                    dcell[...], dgain, dbias = norms.layer_norm_backward(
                        dcell, c[t + 1], stats_c[t], p["gain_c"]
                    )
                    grads["gain_c"] += dgain
                    grads["bias_c"] += dbias
                dcell += dc

                # c = f * c_before + i * g; the slope of a sigmoid s is s (1 - s), that of the tanh 1 - g^2.
                np.multiply(dcell, g, out=d[:, :H])
                np.multiply(dcell, c[t], out=d[:, H : 2 * H])
                np.multiply(dcell, i, out=d[:, 2 * H : 3 * H])
                np.subtract(1, a, out=slope)
                slope *= a
                slope[:, 2 * H : 3 * H] += 1 - g
                d *= slope
                np.multiply(dcell, f, out=dc)
                if stay is not None:
                    d[stay] = 0

                if normed:
                    dproj_h[t], dgain, dbias = norms.layer_norm_backward(
                        d, proj_h[t], stats_h[t], p["gain_hh"]
                    )
                    grads["gain_hh"] += dgain
                    grads["bias_hh"] += dbias
                np.matmul(dproj_h[t], p["weight_hh"], out=dh)
                if stay is not None:
                    dh[stay], dc[stay] = dh_stay, dc_stay

            # What does not depend on the order of the steps, for all of them at once.
            if normed:
                dproj_x, dgain, dbias = norms.layer_norm_backward(da, proj_x, stats_x, p["gain_ih"])
                grads["gain_ih"] += dgain
                grads["bias_ih"] += dbias
            else:
                dproj_x = da
                dbias = da.sum(axis=(0, 1))
                grads["bias_ih"] += dbias
                grads["bias_hh"] += dbias
            dproj_x = dproj_x.reshape(T * B, 4 * H)
            grads["weight_ih"] += dproj_x.T @ x.reshape(T * B, I)
            grads["weight_hh"] += dproj_h.reshape(T * B, 4 * H).T @ h[:-1].reshape(T * B, H)
            return (dproj_x @ p["weight_ih"]).reshape(T, B, I), (dh, dc)

        return (y, (h[-1].copy(), c[-1].copy())), backward

    def _pair(self, name, pair, B):
        """`pair` as two arrays (B, H) of the layer's dtype, zeros for None."""
        pair = (None, None) if pair is None else pair
        if len(pair) != 2:
            raise ValueError(f"{name} holds {len(pair)} arrays, and needs two, of h and of c")
        shape, arrays = (B, self.hidden_size), []
        for which, array in enumerate(pair):
            array = (
                np.zeros(shape, self.dtype)
                if array is None
                else as_real(f"{name}[{which}]", array, self.dtype)
            )
            check_shape(f"{name}[{which}]", array, shape)
            arrays.append(array)
        return arrays


def _steps_beyond(lengths, T, B):
    """(T, B) bool, True for the steps beyond each sequence's length; None when there are none."""
    if lengths is None:
        return None
    lengths = np.asarray(lengths)
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths have dtype {lengths.dtype}, and integers are needed")
    check_shape("lengths", lengths, (B,))
    if B and not 0 <= lengths.min() <= lengths.max() <= T:
        bad = lengths.min() if lengths.min() < 0 else lengths.max()
        raise ValueError(f"lengths hold {bad}, and need to be from 0 to {T}, the steps of x")
    beyond = np.arange(T)[:, None] >= lengths
    return beyond if beyond.any() else None
