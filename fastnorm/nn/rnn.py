"""RNN, GRU and LSTM over whole sequences, with normalization inside."""

from .recurrent import Recurrent


class RNN(Recurrent):
    r"""A recurrent net of hyperbolic tangents (Elman 1990).

    Without a norm it is what torch.nn.RNN computes::

        h_t = tanh(weight_ih x_t + bias_ih + weight_hh h_{t-1} + bias_hh)

    With one, N standing for it, both projections are normalized by themselves::

        h_t = tanh(N(weight_ih x_t; gain_ih, bias_ih) + N(weight_hh h_{t-1}; gain_hh, bias_hh))

    Everything else is said at `LSTM`: norms, parameters, errors, and how it is called. The state is h alone.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.nn import RNN
    >>> (y, h), backward = RNN(3, 4, norm="rms", rng=0)(np.ones((7, 2, 3)))
    >>> y.shape, bool((h == y[-1]).all())
    ((7, 2, 4), True)
    """

    _cell = "rnn"


class GRU(Recurrent):
    r"""Gated recurrent units (Cho et al. 2014), in the form that torch.nn.GRU computes.

    a = (r, z, n) are three blocks of H, and s the logistic function::

        ax = weight_ih x_t + bias_ih             ah = weight_hh h_{t-1} + bias_hh
        r, z = s(ax + ah)                        n = tanh(ax_n + r * ah_n)
        h_t = (1 - z) * n + z * h_{t-1}

    With ``norm="layer"`` or "rms" ax and ah are normalized with gains and biases of their own, r and z over
    their 2 H features together, n over its H (Ba et al. 2016, supplementary equations for the GRU, whose z is
    1 - z here: turn the signs of z's gains and biases to go from one to the other). With "batch" every
    feature is normalized over the batch.

    Everything else is said at `LSTM`: norms, parameters, errors, and how it is called. The state is h alone.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.nn import GRU
    >>> net = GRU(3, 4, num_layers=2, bidirectional=True, rng=0)
    >>> (y, h), backward = net(np.ones((7, 2, 3)))
    >>> y.shape, h.shape
    ((7, 2, 8), (4, 2, 4))
    """

    _cell = "gru"


class LSTM(Recurrent):
    r"""Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    Without a norm it is what torch.nn.LSTM computes. a = (i, f, g, o) are four blocks of H, and s is the
    logistic function::

        a_t = weight_ih x_t + bias_ih + weight_hh h_{t-1} + bias_hh
        c_t = s(f_t) * c_{t-1} + s(i_t) * tanh(g_t)
        h_t = s(o_t) * tanh(c_t)

    With a norm N::

        a_t = N(weight_ih x_t; gain_ih, bias_ih) + N(weight_hh h_{t-1}; gain_hh, bias_hh)
        c_t = s(f_t) * c_{t-1} + s(i_t) * tanh(g_t)
        h_t = s(o_t) * tanh(N(c_t; gain_c, bias_c))

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    num_layers : int
        Layers on top of each other, each reading the outputs of the one below.
    bidirectional : bool
        Whether every layer has a second net that reads the sequence (its valid part) from the end; the
        outputs of both stand side by side.
    dropout : float
        Between the layers, in training: an element is 0 with this probability, else divided by 1 - dropout.
    norm : None, "layer", "rms", "batch" or "weight"
        "layer": over the features of each row (Ba et al. 2016, supplementary equations 20 to 22; their bias b
        would only be summed with ours, and is left out). "rms": the same without centring (Zhang & Sennrich
        2019). "batch": over the batch, with statistics of its own for every step (Cooijmans et al. 2016;
        their single bias is the sum of ours); only valid rows enter them. In inference running statistics
        serve, those of the last trained step beyond the longest sequence trained. "weight": rows of both
        matrices are ``gain * weight / ||weight||`` (Salimans & Kingma 2016), and nothing else changes.
    init : "uniform", "glorot" or "orthogonal"
        How the matrices begin, see Notes.
    forget_bias : float
        Added to the first bias of the forget gates; 1 helps them to remember (Jozefowicz et al. 2015). LSTM
        only.
    eps : float
        Of the norms.
    momentum : float
        Batch norm: running <- (1 - momentum) * running + momentum * batch.
    max_steps : int
        Batch norm: how many steps keep running statistics of their own; later ones share the last's.
    recompute : bool
        Keep less for the backward and compute the gates a second time there, with the same bits; see Notes.
    dtype : float32 or float64
    rng : None, int or numpy.random.Generator
        Where parameters and dropout are drawn from.

    Raises
    ------
    ValueError
        For an unknown norm or init, a size below 1, a dropout outside [0, 1), or another dtype.

    Notes
    -----
    Parameters: `weight_ih` (4 H, I), `weight_hh` (4 H, H), `bias_ih` (4 H,), `bias_hh` (4 H,); with a norm
    also `gain_ih` (4 H,), `gain_hh` (4 H,), and all but "weight" `gain_c` (H,), `bias_c` (H,). (GRU: 3 H,
    RNN: H, and no c.) With several layers or directions the names end as in torch.nn, ``weight_ih_l0``,
    ``weight_ih_l1_reverse``. `load_state_dict` takes torch's names for a single layer too.

    ``init="uniform"`` draws all parameters within ``1 / sqrt(H)`` of zero, as PyTorch does; "glorot" the
    blocks of H rows of both matrices within ``sqrt(6 / (rows + columns))``; "orthogonal" the same for
    weight_ih, and makes the blocks of weight_hh orthogonal. Gains begin at 1, with "batch" at 0.1, with
    "weight" at the norms of the rows; biases at 0 except under "uniform" without a norm of the features.

    For the backward a call keeps x, and of every step, row and unit so many bytes in float32 (twice as many
    in float64; for "layer" and "rms" 40 more a step and row; units count up to the next multiple of 16):

    ====  =============  ================  =======================
    net   norm=None      "layer", "rms"    with ``recompute=True``
    ====  =============  ================  =======================
    LSTM  24             40                8
    GRU   20             28                8, with a norm 4
    RNN   4              12                4
    ====  =============  ================  =======================

    "weight" is as None. "batch" runs step by step in NumPy, keeps more, and takes no notice of `recompute`,
    with which a step of a layer-normalized LSTM takes 1.2 to 1.3 times as long (``bench.bench_recurrent``).

    References
    ----------
    Ba, Kiros & Hinton 2016, "Layer normalization". Cooijmans et al. 2016, "Recurrent batch normalization".
    Salimans & Kingma 2016, "Weight normalization".

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

    _cell = "lstm"
