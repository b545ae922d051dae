"""How the parameters of a recurrent layer begin, and what they are called."""

import numpy as np

INITS = ("uniform", "glorot", "orthogonal")
NORMS = (None, "layer", "rms", "batch", "weight")
GAINS = {"layer": 1.0, "rms": 1.0, "batch": 0.1}  # 0.1: Cooijmans et al. 2016, section 4


def parameters(gates, has_c, input_size, hidden_size, norm, init, forget_bias, rng):
    """The parameters of one layer in one direction, by name, in float64.

    uniform     all of them within 1 / sqrt(H) of zero, as in PyTorch
    glorot      every gate's block of both matrices uniform within sqrt(6 / (rows + columns)), biases 0
    orthogonal  the same for weight_ih; every gate's block of weight_hh orthogonal

    With a norm of the projections gains begin at 1 (batch: 0.1) and biases at 0, whatever `init` says.
    """
    G, I, H = gates, input_size, hidden_size  # noqa: E741
    bound = 1 / np.sqrt(H)
    p = {}
    for name, columns in (("weight_ih", I), ("weight_hh", H)):
        if init == "uniform":
            p[name] = rng.uniform(-bound, bound, (G * H, columns))
        elif init == "glorot" or name == "weight_ih":
            limit = np.sqrt(6 / (H + columns))
            p[name] = rng.uniform(-limit, limit, (G * H, columns))
        else:
            p[name] = np.concatenate([orthogonal(H, rng) for _ in range(G)])
    for which in ("ih", "hh"):
        p[f"bias_{which}"] = np.zeros(G * H)
        if norm in GAINS:
            p[f"gain_{which}"] = np.full(G * H, GAINS[norm])
        elif init == "uniform":
            p[f"bias_{which}"] = rng.uniform(-bound, bound, G * H)
    if norm in GAINS and has_c:
        p["gain_c"], p["bias_c"] = np.full(H, GAINS[norm]), np.zeros(H)
    if norm == "weight":
        for which in ("ih", "hh"):  # begins as the function that the plain layer is
            p[f"gain_{which}"] = np.linalg.norm(p[f"weight_{which}"], axis=1)
    if has_c:
        p["bias_ih"][H : 2 * H] += forget_bias
    return p


def running_statistics(gates, has_c, hidden_size, max_steps, dtype):
    """Mean 0 and variance 1 for every step and feature, and the number of steps that were trained."""
    sizes = {"ih": gates * hidden_size, "hh": gates * hidden_size}
    if has_c:
        sizes["c"] = hidden_size
    buffers = {}
    for which, size in sizes.items():
        buffers[f"running_mean_{which}"] = np.zeros((max_steps, size), dtype)
        buffers[f"running_var_{which}"] = np.ones((max_steps, size), dtype)
    buffers["num_steps"] = np.zeros((), np.int64)
    return buffers


def orthogonal(n, rng):
    """A random orthogonal matrix (n, n), uniform among them (the signs make the QR decomposition unique)."""
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.sign(np.diag(r))


def suffixes(num_layers, bidirectional):
    """What is appended to the names of each layer and direction, as in torch.nn; "" if there is one only."""
    if num_layers == 1 and not bidirectional:
        return [""]
    directions = ("", "_reverse") if bidirectional else ("",)
    return [f"_l{layer}{direction}" for layer in range(num_layers) for direction in directions]
