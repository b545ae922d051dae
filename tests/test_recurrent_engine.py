"""The fused engine of recurrent layers: held to the plain one, same bits everywhere, its sigmoid and tanh."""

import numpy as np
import pytest
from tolerances import TOLERANCES

import fastnorm
from fastnorm import _norm, _recurrent
from fastnorm.nn import GRU, LSTM, RNN, rnn_engine, rnn_plain

CELLS = [RNN, GRU, LSTM]
NORMS = [None, "layer", "rms"]
# T, B, I, H: one element, tails of every vector and tile, several chunks of steps with several slices of rows
SHAPES = [(2, 1, 1, 1), (3, 5, 3, 4), (7, 13, 20, 37), (5, 200, 6, 16), (4, 3, 70, 48)]
TIERS = _norm.isa_tiers()


def run(engine, net, arrays, lengths=None, recompute=False):
    """Every result of a forward and a backward, by name."""
    x, dy, *states = arrays
    spec = net._spec._replace(recompute=recompute)
    h0, c0, dh, dc = states if isinstance(net, LSTM) else (states[0], None, states[2], None)
    y, h, c, backward = engine.forward(spec, x, h0, c0, net.params, None, lengths)
    dx, dh0, dc0, grads = backward(dy, dh, dc)
    results = {"y": y, "h": h, "c": c, "dx": dx, "dh0": dh0, "dc0": dc0, **grads}
    return {name: array for name, array in results.items() if array is not None}


def make(cell, norm, shape, dtype, rng):
    """A net with gains and biases away from their start, and x, dy, h0, c0, dh, dc."""
    T, B, I, H = shape  # noqa: E741
    net = cell(I, H, norm=norm, dtype=dtype, rng=rng)
    for name, array in net.params.items():
        if not name.startswith("weight"):
            array += (0.3 * rng.standard_normal(array.shape)).astype(dtype)
    sizes = [(T, B, I), (T, B, H)] + [(B, H)] * 4
    return net, [rng.standard_normal(size).astype(dtype) for size in sizes]


def assert_near(results, expected):
    assert results.keys() == expected.keys()
    for name, array in results.items():
        assert array.dtype == expected[name].dtype
        assert array.shape == expected[name].shape
        # Of a chain of sums whose rounding the norms magnify: `total` steps of every element's own scale.
        scale = max(1, np.abs(expected[name]).max(initial=0))
        bound = 8 * TOLERANCES[array.dtype.name].total * TOLERANCES[array.dtype.name].eps * scale
        assert np.abs(array - expected[name]).max(initial=0) <= bound, name


def assert_same(results, expected):
    assert results.keys() == expected.keys()
    for name, array in results.items():
        np.testing.assert_array_equal(array, expected[name], name)


# Against the plain layers


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equals_the_plain_layers(cell, norm, shape, dtype, tier_in_use, rng):
    net, arrays = make(cell, norm, shape, dtype, rng)
    assert_near(run(rnn_engine, net, arrays), run(rnn_plain, net, arrays))


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_lengths(cell, norm, recompute, tier_in_use, rng):
    """What lies beyond a sequence is never looked at."""
    net, arrays = make(cell, norm, (6, 150, 5, 18), "float64", rng)
    lengths = rng.integers(0, 7, 150)
    beyond = np.arange(6)[:, None] >= lengths
    arrays[0][beyond] = arrays[1][beyond] = np.nan
    results = run(rnn_engine, net, arrays, lengths, recompute)
    assert_near(results, run(rnn_plain, net, arrays, lengths))
    assert not results["y"][beyond].any()
    assert not results["dx"][beyond].any()


# The same bits


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_on_every_tier_and_any_number_of_threads(cell, norm, dtype, rng):
    net, arrays = make(cell, norm, (9, 70, 33, 40), dtype, rng)
    before, results = _norm.isa(), []
    try:
        for tier in TIERS:
            _norm.set_isa(tier)
            for threads in (1, 2, 7):
                with fastnorm.num_threads(threads):
                    results.append(run(rnn_engine, net, arrays))
    finally:
        _norm.set_isa(before)
    for other in results[1:]:
        assert_same(other, results[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_of_products_over_the_whole_range(dtype, rng):
    """Denormal, rounded and overflowing products, infinities: tiers that fuse by hand round alike."""
    net, arrays = make(RNN, None, (1, 16, 3, 64), dtype, rng)
    most = np.finfo(dtype).maxexp
    for array in (net.params["weight_ih"], arrays[0], arrays[1]):
        array *= np.exp2(rng.integers(-most, most, array.shape)).astype(dtype)
    arrays[0][0, 3], arrays[0][0, 4] = np.inf, 0.0
    arrays[1][0, 5, :8] = -np.inf
    # A float32 sum a little below the middle between two floats, which is that middle in double.
    net.params["weight_ih"][:, 1:] = 2.0**-20, (2**15 - 1) * 2.0**-74
    arrays[0][0, 6] = 0.0, 1 + 2.0**-23, 2**15 + 1
    net.params["bias_ih"][:] = net.params["bias_hh"][:] = arrays[2][6] = 0
    before, results = _norm.isa(), []
    try:
        for tier in TIERS:
            _norm.set_isa(tier)
            results.append(run(rnn_engine, net, arrays))
    finally:
        _norm.set_isa(before)
    for other in results[1:]:
        assert_same(other, results[0])


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("norm", NORMS)
def test_recomputing_changes_no_bit(cell, norm, rng):
    net, arrays = make(cell, norm, (9, 70, 12, 20), "float32", rng)
    assert_same(run(rnn_engine, net, arrays, recompute=True), run(rnn_engine, net, arrays))


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
def test_a_row_does_not_know_its_neighbours(cell, rng):
    net, arrays = make(cell, "layer", (5, 11, 12, 20), "float32", rng)
    whole = run(rnn_engine, net, arrays)
    for b in (0, 7, 10):
        rows = [array[:, b : b + 1] if array.ndim == 3 else array[b : b + 1] for array in arrays]
        alone = run(rnn_engine, net, rows)
        np.testing.assert_array_equal(alone["y"][:, 0], whole["y"][:, b])
        np.testing.assert_array_equal(alone["dx"][:, 0], whole["dx"][:, b])


@pytest.mark.parametrize(
    ("cell", "norm", "kept", "recomputed"),
    [
        (LSTM, None, 24, 8),
        (LSTM, "layer", 40, 8),
        (GRU, None, 20, 8),
        (GRU, "rms", 28, 4),
        (RNN, None, 4, 4),
        (RNN, "layer", 12, 4),
    ],
)
def test_kept_bytes_are_those_of_the_documentation(cell, norm, kept, recomputed):
    """Of a step, row and unit; beside it the state before the first step, and 40 bytes a row for a norm."""
    T, B, H = 64, 64, 32
    x, h = np.zeros((T, B, 8), np.float32), np.zeros((B, H), np.float32)
    net = cell(8, H, norm=norm, rng=0)
    weights = [net.params["weight_ih"], net.params["weight_hh"]]
    gates = len(weights[0]) // H
    vectors = np.zeros((4 * gates + 2, H), np.float32)
    for recompute, expected in ((False, kept), (True, recomputed)):
        arrays = (x, h, h if cell is LSTM else None, None, *weights, vectors)
        *_, tape = _recurrent.forward(net._cell, norm, 1e-5, recompute, *arrays, _norm.isa(), 1)
        least = T * B * (expected * H + (40 if norm else 0))
        assert least <= tape.nbytes <= least + 8 * B * H + 1024


# sigmoid and tanh


def ulps(actual, exact):
    """The error in units of the last place of the exact value's dtype."""
    with np.errstate(all="ignore"):
        place = np.spacing(np.abs(exact).astype(actual.dtype)).astype(exact.dtype)
    return np.abs(actual - exact) / place


def every_so_many_floats(step, rng):
    """float32 numbers of all sizes and both signs: every `step`-th bit pattern below infinity."""
    bits = np.arange(rng.integers(step), 0x7F800000, step, dtype=np.int64).astype(np.uint32)
    x = bits.view(np.float32)
    return np.concatenate([x, -x])


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_error_of_the_activations_in_float32(name, tier_in_use, rng):
    x = every_so_many_floats(1009, rng)
    wide = np.clip(x.astype(np.float64), -87 if name == "sigmoid" else -np.inf, None)
    with np.errstate(over="ignore"):
        exact = np.tanh(wide) if name == "tanh" else 1 / (1 + np.exp(-wide))
    assert ulps(_recurrent.apply(name, x, tier_in_use), exact).max() <= 3


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_error_of_the_activations_in_float64(name, tier_in_use, rng):
    x = rng.standard_normal(100_000) * 10.0 ** rng.uniform(-12, 3, 100_000)
    wide = np.clip(x.astype(np.longdouble), -708 if name == "sigmoid" else -np.inf, None)
    exact = np.tanh(wide) if name == "tanh" else 1 / (1 + np.exp(-wide))
    assert ulps(_recurrent.apply(name, x, tier_in_use), exact).max() <= 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ends_of_the_activations(dtype, tier_in_use):
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-310, 50, -50], dtype)
    tanh, sigmoid = (_recurrent.apply(name, x, tier_in_use) for name in ("tanh", "sigmoid"))
    np.testing.assert_array_equal(tanh, [0, 0, 1, -1, np.nan, x[5], 1, -1])
    assert np.signbit(tanh[:4]).tolist() == [False, True, False, True]
    np.testing.assert_array_equal(sigmoid[[0, 1, 2, 4, 6]], [0.5, 0.5, 1, np.nan, 1])
    assert 0 <= sigmoid[3] < 1e-37
