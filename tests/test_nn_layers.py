"""Norms, activations, dropout and stacks of layers: values, gradients, what they keep, what they refuse."""

import doctest
import importlib

import numpy as np
import pytest
from projection import assert_gradients

import fastnorm
from fastnorm import nn


@pytest.mark.parametrize("module", ["activations", "batch_norm", "norm", "sequential"])
def test_examples(module):
    assert doctest.testmod(importlib.import_module(f"fastnorm.nn.{module}")).failed == 0


def randomize(layer, rng):
    """Parameters that no cancellation can hide behind."""
    for param in layer.params.values():
        param[...] += 0.5 * rng.standard_normal(param.shape)
    return layer


def check(layer, x, rng, inside=1, **options):
    """The gradients of x and of every parameter, for a random dy that is zero where `inside` is."""
    randomize(layer, rng)
    seed = rng.standard_normal(layer(x, **options)[0].shape) * inside
    buffers = {name: buffer.copy() for name, buffer in layer.buffers.items()}
    dx = layer(x, **options)[1](seed)

    def value():
        for name, buffer in buffers.items():  # a call in training moves them
            layer.buffers[name][...] = buffer
        return float((layer(x, **options)[0] * seed).sum())

    assert_gradients(value, {"x": x, **layer.params}, {"x": dx, **layer.grads}, rng)


# Norms

F64 = {"dtype": np.float64}
NORMS = {
    "layer": (lambda: nn.LayerNorm(5, **F64), (4, 3, 5)),
    "layer, two axes": (lambda: nn.LayerNorm((3, 5), **F64), (4, 3, 5)),
    "layer, no weight": (lambda: nn.LayerNorm(5, weight=False, **F64), (4, 5)),
    "layer, no bias": (lambda: nn.LayerNorm(5, bias=False, **F64), (4, 5)),
    "layer, bare": (lambda: nn.LayerNorm(5, weight=False, bias=False, **F64), (4, 5)),
    "rms": (lambda: nn.RMSNorm(5, **F64), (4, 3, 5)),
    "rms, two axes": (lambda: nn.RMSNorm((3, 5), **F64), (4, 3, 5)),
    "instance": (lambda: nn.InstanceNorm(3, **F64), (2, 3, 4, 5)),
    "instance, channels last": (lambda: nn.InstanceNorm(3, channel_axis=-1, **F64), (2, 4, 5, 3)),
    "instance, no weight": (lambda: nn.InstanceNorm(3, weight=False, **F64), (2, 3, 7)),
    "group": (lambda: nn.GroupNorm(2, 6, **F64), (2, 6, 4)),
    "group, channels last": (lambda: nn.GroupNorm(3, 6, channel_axis=-1, **F64), (2, 4, 6)),
    "group, no weight": (lambda: nn.GroupNorm(2, 6, weight=False, **F64), (2, 6, 4)),
    "batch": (lambda: nn.BatchNorm(3, **F64), (6, 3)),
    "batch, images": (lambda: nn.BatchNorm(3, **F64), (2, 3, 4, 5)),
    "batch, channels last": (lambda: nn.BatchNorm(3, channel_axis=-1, **F64), (2, 4, 5, 3)),
    "batch, no weight": (lambda: nn.BatchNorm(3, weight=False, **F64), (6, 3)),
    "mean only": (lambda: nn.MeanOnlyBatchNorm(3, **F64), (6, 3, 4)),
    "mean only, no bias": (lambda: nn.MeanOnlyBatchNorm(3, bias=False, **F64), (6, 3)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NORMS)
def test_gradients_of_norms(name, training, rng):
    make, shape = NORMS[name]
    layer = make()
    for buffer in layer.buffers.values():
        buffer[...] = rng.uniform(0.5, 2, buffer.shape)
    check(layer, rng.standard_normal(shape), rng, training=training)


def test_batch_norm_with_a_mask(rng):
    """Padding enters no statistics, whatever it holds."""
    layer, x = nn.BatchNorm(3, channel_axis=-1, dtype=np.float64), rng.standard_normal((5, 4, 3))
    inside = (np.arange(5)[:, None] < [5, 3, 2, 4])[:, :, None]
    check(layer, x, rng, inside, where=inside)
    before, running = layer(x, where=inside)[0], layer.buffers["running_mean"].copy()
    x[~inside[:, :, 0]] = 1e9
    layer.buffers["running_mean"][...] = 0
    np.testing.assert_array_equal(layer(x, where=inside)[0][inside[:, :, 0]], before[inside[:, :, 0]])
    assert abs(layer.buffers["running_mean"]).max() < 10 * abs(running).max() + 1


def test_norms_are_the_functions(rng):
    """In float32, and nothing but the function between x and y."""
    x = rng.standard_normal((4, 6, 5)).astype(np.float32)
    for layer, expected in (
        (nn.LayerNorm(5), fastnorm.layer_norm(x)),
        (nn.RMSNorm(5), fastnorm.rms_norm(x)),
        (nn.InstanceNorm(6), fastnorm.instance_norm(x)),
        (nn.GroupNorm(3, 6, weight=False, bias=False), fastnorm.group_norm(x, 3)),
        (nn.BatchNorm(6), fastnorm.batch_norm(x)),
        (nn.MeanOnlyBatchNorm(6), fastnorm.mean_only_batch_norm(x)),
    ):
        y, _ = layer(x)
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("make", [nn.BatchNorm, nn.MeanOnlyBatchNorm])
def test_running_statistics_move_in_training_only(make, rng):
    layer = make(3, momentum=0.25)
    x = 5 + rng.standard_normal((20, 3))
    layer(x)
    np.testing.assert_allclose(layer.buffers["running_mean"], x.mean(axis=0) / 4, rtol=1e-6)
    if make is nn.BatchNorm:
        expected = 0.75 + x.var(axis=0, ddof=1) / 4
        np.testing.assert_allclose(layer.buffers["running_var"], expected, rtol=1e-6)
    before = layer.state_dict()
    y, _ = layer(x, training=False)
    assert y.mean() > 1
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_buffers_are_saved_but_not_trained():
    layer = nn.BatchNorm(3)
    assert sorted(layer.params) == ["bias", "weight"]
    assert sorted(layer.state_dict()) == ["bias", "running_mean", "running_var", "weight"]


def test_weight_norm_in_a_linear_map(rng):
    layer = nn.Linear(4, 3, norm="weight", dtype=np.float64, rng=0)
    plain = nn.Linear(4, 3, dtype=np.float64, rng=0)
    x = rng.standard_normal((5, 4))
    np.testing.assert_allclose(layer(x)[0], plain(x)[0], rtol=1e-12)
    layer.params["weight"] *= 7  # only its direction counts
    np.testing.assert_allclose(layer(x)[0], plain(x)[0], rtol=1e-12)
    check(layer, x, rng)
    assert sorted(layer.params) == ["bias", "gain", "weight"]


# Activations and dropout


@pytest.mark.parametrize("make", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU])
def test_gradients_of_activations(make, rng):
    x = 2 * rng.standard_normal((4, 5))
    x += np.copysign(0.01, x)  # off the bend of ReLU
    check(make(dtype=np.float64), x, rng)


@pytest.mark.parametrize(
    ("make", "low", "high", "slope"),
    [(nn.ReLU, 0, np.inf, 1), (nn.Tanh, -1, 1, 0), (nn.Sigmoid, 0, 1, 0), (nn.GELU, 0, np.inf, 1)],
)
def test_activations_of_infinity(make, low, high, slope):
    y, backward = make()([-np.inf, np.inf, np.nan])
    assert y[0] == low
    assert y[1] == high
    assert np.isnan(y[2])
    assert backward(np.ones(3))[:2].tolist() == [0, slope]


def test_activations_equal_pytorch(rng):
    torch = pytest.importorskip("torch")
    x = 3 * rng.standard_normal(1000).astype(np.float32)
    for ours, theirs in (
        (nn.ReLU, torch.relu),
        (nn.Tanh, torch.tanh),
        (nn.Sigmoid, torch.sigmoid),
        (nn.GELU, torch.nn.functional.gelu),
    ):
        np.testing.assert_allclose(ours()(x)[0], theirs(torch.tensor(x)).numpy(), rtol=1e-5, atol=1e-6)


def test_the_caller_may_write_into_what_it_got(rng):
    x = rng.standard_normal(5)
    for layer in (nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.ReLU(), nn.Dropout(0.5, rng=0)):
        y, backward = layer(x)
        expected = backward(np.ones(5))
        y[...] = 7
        np.testing.assert_array_equal(backward(np.ones(5)), expected)


def test_dropout(rng):
    layer = nn.Dropout(0.25, rng=0)
    x = np.ones((100, 200))
    y, backward = layer(x)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.02
    np.testing.assert_array_equal(backward(x), y)
    assert (layer(x)[0] != y).any()
    y, backward = layer(x, training=False)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(backward(x), x)
    again = nn.Dropout(0.25, rng=0)
    np.testing.assert_array_equal(nn.Dropout(0.25, rng=0)(x)[0], again(x)[0])


# Stacks


def stack(dtype=np.float64, rng=0):
    rngs = np.random.default_rng(rng).spawn(3)
    return nn.Sequential(
        nn.Linear(4, 6, dtype=dtype, rng=rngs[0]),
        nn.BatchNorm(6, dtype=dtype),
        nn.GELU(dtype=dtype),
        nn.Sequential(nn.Dropout(0.1, dtype=dtype, rng=rngs[1]), nn.LayerNorm(6, dtype=dtype)),
        nn.Linear(6, 2, norm="weight", dtype=dtype, rng=rngs[2]),
    )


def test_gradients_of_a_stack(rng):
    check(stack(), rng.standard_normal((8, 4)), rng, training=False)


def test_a_stack_shares_everything():
    net = stack()
    assert {"0.weight", "1.running_mean", "3.1.bias", "4.gain"} <= net.state_dict().keys()
    assert list(net.generators) == ["3.0.rng"]
    assert net.generators["3.0.rng"] is net.layers[3].layers[0].generators["rng"]
    assert [type(layer).__name__ for layer in net.walk()][:4] == ["Sequential", "Linear", "BatchNorm", "GELU"]
    other = stack(rng=1)
    other.load_state_dict(net.state_dict())
    x = np.ones((3, 4))
    np.testing.assert_array_equal(net(x, training=False)[0], other(x, training=False)[0])


def test_a_stack_learns(rng):
    net, x = stack(np.float32), rng.standard_normal((64, 4))
    target = np.stack([x[:, 0] * x[:, 1], x.sum(axis=1)], axis=1)
    optimizer = nn.Adam(net.params, net.grads, lr=0.02)
    losses = []
    for _ in range(200):
        y, backward = net(x)
        loss, loss_backward = nn.mean_squared_error(y, target)
        net.zero_grad()
        backward(loss_backward())
        optimizer.step()
        losses.append(loss)
    assert np.mean(losses[-20:]) < 0.3 * losses[0]


# The mean squared error


@pytest.mark.parametrize("mask_axes", [None, 1, 2, 3])
def test_mean_squared_error(mask_axes, rng):
    y, targets = rng.standard_normal((2, 4, 5, 3))
    mask = None if mask_axes is None else rng.random(y.shape[:mask_axes]) < 0.6
    loss, backward = nn.mean_squared_error(y, targets, mask)
    assert loss == pytest.approx(((y - targets) ** 2)[mask if mask is not None else ...].mean())
    dy = backward(2.5)
    assert_gradients(lambda: 2.5 * nn.mean_squared_error(y, targets, mask)[0], {"y": y}, {"y": dy}, rng)
    if mask is not None:
        y[~mask] = np.nan
        assert nn.mean_squared_error(y, targets, mask)[0] == loss
        assert not nn.mean_squared_error(y, targets, mask)[1]()[~mask].any()


# Errors


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.LayerNorm(0), ValueError, "normalized_shape is 0"),
        (lambda: nn.LayerNorm(()), ValueError, "normalized_shape is empty"),
        (lambda: nn.LayerNorm(3, eps=-1), ValueError, "eps is -1"),
        (lambda: nn.LayerNorm(3, eps="x"), ValueError, "eps is 'x'"),
        (lambda: nn.LayerNorm(3, dtype=np.float16), ValueError, "dtype is float16"),
        (lambda: nn.LayerNorm(3)(np.ones((2, 4))), ValueError, r"x has shape \(2, 4\), .* -1 needs size 3"),
        (lambda: nn.LayerNorm((2, 3))(np.ones(3)), ValueError, "axis -2 needs size 2"),
        (lambda: nn.LayerNorm(3)(["a"]), TypeError, "x has dtype <U1"),
        (lambda: nn.LayerNorm(3)(np.ones(3))[1](np.ones(4)), ValueError, r"dy has shape \(4,\), and \(3,\)"),
        (lambda: nn.GroupNorm(2, 5), ValueError, "num_groups is 2, and needs to divide num_channels, 5"),
        (lambda: nn.BatchNorm(3, momentum=2), ValueError, "momentum is 2"),
        (lambda: nn.BatchNorm(3, momentum=None), ValueError, "momentum is None"),
        (lambda: nn.BatchNorm(3)(np.ones((1, 3))), ValueError, "one value"),
        (lambda: nn.BatchNorm(3)(np.ones((4, 2))), ValueError, "axis 1 needs size 3"),
        (lambda: nn.Dropout(1), ValueError, "p is 1"),
        (lambda: nn.Dropout("x"), ValueError, "p is 'x'"),
        (lambda: nn.Linear(2, 2, norm="layer"), ValueError, "norm is 'layer'"),
        (lambda: nn.Sequential(), ValueError, "has no layers"),
        (lambda: nn.Sequential(3), TypeError, "layer 0 is a int"),
        (
            lambda: nn.Sequential(nn.ReLU(), nn.ReLU(dtype=np.float64)),
            ValueError,
            "layer 1 has dtype float64, and those before it float32",
        ),
        (lambda: nn.Sequential(nn.LSTM(2, 2))(np.ones((1, 1, 2))), TypeError, "0, LSTM, returns a state"),
        (lambda: nn.mean_squared_error([1], [1.0]), TypeError, "y has dtype int64"),
        (lambda: nn.mean_squared_error([1.0], [1.0, 2.0]), ValueError, r"targets has shape \(2,\)"),
        (lambda: nn.mean_squared_error([1.0], [1.0], [1]), TypeError, "mask has dtype int64"),
        (lambda: nn.mean_squared_error([1.0], [1.0], [False]), ValueError, "not one element counts"),
        (lambda: nn.mean_squared_error([1.0], ["a"]), TypeError, "targets has dtype"),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
