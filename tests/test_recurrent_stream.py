"""Streams: a net one step at a time, with the state carried and nothing allocated."""

import tracemalloc

import numpy as np
import pytest

from fastnorm.nn import GRU, LSTM, RNN

T, B, I, H = 6, 3, 5, 9  # noqa: E741
CELLS = [RNN, GRU, LSTM]
NORMS = [None, "layer", "rms", "batch", "weight"]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_are_the_sequence(cell, norm, num_layers, dtype, rng):
    net = cell(I, H, norm=norm, num_layers=num_layers, dropout=0.3, dtype=dtype, rng=rng)
    x = rng.standard_normal((T, B, I)).astype(dtype)
    net(x[:4])  # batch norm: running statistics for fewer steps than will be asked for
    shape = (B, H) if num_layers == 1 else (num_layers, B, H)
    state = [rng.standard_normal(shape).astype(dtype) for _ in range(1 + (cell is LSTM))]
    state = tuple(state) if cell is LSTM else state[0]
    (expected, end), _ = net(x, state, training=False)
    stream = net.stream(B, state)
    y = np.stack([stream(x[t]).copy() for t in range(T)])
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(stream.state, end)
    stream.reset(state)
    np.testing.assert_array_equal(stream(x[0]), expected[0])


def test_state_is_a_copy_and_reset_begins_with_zeros(rng):
    net = LSTM(I, H, rng=0)
    x = rng.standard_normal((1, I)).astype(np.float32)
    stream = net.stream()
    first = stream(x).copy()
    h, _ = stream.state
    kept = h.copy()
    assert (stream(x) != first).any()
    np.testing.assert_array_equal(h, kept)
    stream.reset()
    np.testing.assert_array_equal(stream(x), first)


def test_parameters_are_those_of_the_start(rng):
    net = GRU(I, H, norm="layer", rng=0)
    x = rng.standard_normal((1, I)).astype(np.float32)
    stream = net.stream()
    first = stream(x).copy()
    for array in net.params.values():
        array[...] = 0
    stream.reset()
    np.testing.assert_array_equal(stream(x), first)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("norm", [None, "layer"])
def test_steps_allocate_nothing(cell, norm):
    stream, x = cell(64, 64, norm=norm, num_layers=2, rng=0).stream(4), np.ones((4, 64), np.float32)
    assert stream(x) is stream(x)
    tracemalloc.start()
    try:
        stream(x)
        before = tracemalloc.take_snapshot()
        for _ in range(20):
            stream(x)
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    ours = [tracemalloc.Filter(False, tracemalloc.__file__)]
    grown = after.filter_traces(ours).compare_to(before.filter_traces(ours), "filename")
    assert sum(each.size_diff for each in grown) < 512  # the loop's own numbers


def test_any_array_like_is_read(rng):
    stream = RNN(I, H, rng=0).stream(2)
    wide = rng.standard_normal((2, 2 * I))
    y = stream(wide[:, ::2]).copy()
    stream.reset()
    np.testing.assert_array_equal(stream(wide[:, ::2].astype(np.float32).tolist()), y)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: GRU(I, H, bidirectional=True).stream(), ValueError, "bidirectional is True"),
        (lambda: GRU(I, H).stream(0), ValueError, "batch_size is 0"),
        (lambda: GRU(I, H).stream(2, np.zeros((1, H))), ValueError, r"state has shape \(1, 9\)"),
        (lambda: GRU(I, H).stream(2)(np.zeros((1, I))), ValueError, r"x has shape \(1, 5\), and \(2, 5\)"),
        (lambda: GRU(I, H).stream(1)(np.full((1, I), "a")), TypeError, "x has dtype <U1"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
