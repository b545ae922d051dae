"""Layers, losses, and saving them; the LSTM has a file of its own."""

import doctest
import importlib

import numpy as np
import pytest
from projection import assert_gradients

from fastnorm.nn import LSTM, Embedding, Layer, Linear, softmax_cross_entropy


@pytest.mark.parametrize(
    "module", ["layer", "linear", "embedding", "recurrent", "rnn", "stream", "losses", "optim"]
)
def test_examples(module):
    assert doctest.testmod(importlib.import_module(f"fastnorm.nn.{module}")).failed == 0


# Linear


def test_linear_values_and_gradients(rng):
    layer = Linear(4, 3, dtype=np.float64, rng=0)
    x, seed = rng.standard_normal((2, 5, 4)), rng.standard_normal((2, 5, 3))
    y, backward = layer(x)
    np.testing.assert_allclose(y, np.einsum("nti,ki->ntk", x, layer.params["weight"]) + layer.params["bias"])
    dx = backward(seed)
    assert_gradients(
        lambda: float((layer(x)[0] * seed).sum()), {"x": x, **layer.params}, {"x": dx, **layer.grads}, rng
    )


def test_linear_without_bias_and_without_rows():
    layer = Linear(4, 3, bias=False, rng=0)
    assert list(layer.params) == ["weight"]
    y, backward = layer(np.zeros((0, 4)))
    assert y.shape == (0, 3)
    assert y.dtype == np.float32
    assert backward(y).shape == (0, 4)
    y, backward = layer(np.ones(4))
    assert y.shape == (3,)
    assert backward(y).shape == (4,)


def test_backward_adds_and_zero_grad_clears(rng):
    layer = Linear(4, 3, rng=0)
    y, backward = layer(rng.standard_normal((5, 4)))
    backward(y)
    once = layer.grads["weight"].copy()
    backward(y)
    np.testing.assert_allclose(layer.grads["weight"], 2 * once, rtol=1e-6)
    grad = layer.grads["weight"]
    layer.zero_grad()
    assert layer.grads["weight"] is grad
    assert not grad.any()


# Embedding


def test_embedding_values_and_gradients(rng):
    layer = Embedding(6, 3, dtype=np.float64, rng=0)
    x = np.array([[0, 5, 5], [2, 5, 0]])
    seed = rng.standard_normal((2, 3, 3))
    y, backward = layer(x)
    np.testing.assert_array_equal(y, layer.params["weight"][x])
    assert backward(seed) is None
    assert_gradients(lambda: float((layer(x)[0] * seed).sum()), layer.params, layer.grads, rng)
    assert not layer.grads["weight"][[1, 3, 4]].any()


def test_embedding_without_symbols():
    layer = Embedding(6, 3)
    y, backward = layer(np.zeros((0, 2), int))
    assert y.shape == (0, 2, 3)
    backward(y)


def test_embedding_keeps_its_symbols():
    layer = Embedding(6, 3)
    x = np.array([1])
    y, backward = layer(x)
    x[0] = 2
    backward(np.ones_like(y))
    assert layer.grads["weight"][1].any()
    assert not layer.grads["weight"][2].any()


# Softmax cross-entropy


@pytest.mark.parametrize("masked", [False, True])
def test_cross_entropy_values_and_gradients(rng, masked):
    logits, targets = 3 * rng.standard_normal((4, 5, 7)), rng.integers(7, size=(4, 5))
    mask = rng.random((4, 5)) < 0.6 if masked else None
    loss, backward = softmax_cross_entropy(logits, targets, mask)
    probability = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    each = -np.log(np.take_along_axis(probability, targets[..., None], axis=-1)[..., 0])
    assert loss == pytest.approx(each[mask].mean() if masked else each.mean())
    dlogits = backward(2.5)
    assert_gradients(
        lambda: 2.5 * softmax_cross_entropy(logits, targets, mask)[0],
        {"logits": logits},
        {"logits": dlogits},
        rng,
    )


def test_cross_entropy_mask_hides_everything(rng):
    logits, targets = rng.standard_normal((3, 4)), np.array([1, 2, 3])
    shown, _ = softmax_cross_entropy(logits[:2], targets[:2])
    logits[2], targets[2] = np.nan, -100
    loss, backward = softmax_cross_entropy(logits, targets, [True, True, False])
    assert loss == shown
    dlogits = backward()
    assert np.isfinite(dlogits).all()
    assert not dlogits[2].any()


def test_cross_entropy_of_huge_logits():
    loss, backward = softmax_cross_entropy(np.array([[1e30, -1e30]], np.float32), [0])
    assert loss == 0
    assert backward().tolist() == [[0, 0]]
    loss, backward = softmax_cross_entropy(np.array([[1000.0, 0.0]]), [1])
    assert loss == 1000
    assert backward().tolist() == [[1, -1]]


def test_cross_entropy_equals_pytorch(rng):
    torch = pytest.importorskip("torch")
    logits = rng.standard_normal((6, 9)).astype(np.float32)
    targets = np.array([0, 8, -100, 3, -100, 3])
    loss, backward = softmax_cross_entropy(logits, targets, targets != -100)
    theirs = torch.tensor(logits, requires_grad=True)
    their_loss = torch.nn.functional.cross_entropy(theirs, torch.tensor(targets))
    their_loss.backward()
    assert loss == pytest.approx(their_loss.item(), abs=1e-6)
    np.testing.assert_allclose(backward(), theirs.grad.numpy(), atol=1e-7)


# Saving


class Pair(Layer):
    """A layer made of two, with a buffer."""

    def __init__(self, rng=None):
        super().__init__()
        self.first = self._add_layer("first", Linear(3, 2, rng=rng))
        self.second = self._add_layer("second", Linear(2, 2, rng=rng))
        self.buffers["seen"] = np.zeros(2, np.float32)


def test_state_goes_through_savez(tmp_path):
    one, two = Pair(rng=0), Pair(rng=1)
    one.buffers["seen"][...] = 7
    np.savez(tmp_path / "state.npz", **one.state_dict())
    with np.load(tmp_path / "state.npz") as state:
        two.load_state_dict(state)
    assert one.state_dict().keys() == {"first.weight", "first.bias", "second.weight", "second.bias", "seen"}
    for name, array in one.state_dict().items():
        np.testing.assert_array_equal(array, two.state_dict()[name])
    # The layers inside share the arrays.
    np.testing.assert_array_equal(one.first.params["weight"], two.first.params["weight"])


def test_state_dict_is_a_copy():
    layer = Linear(3, 2, rng=0)
    state = layer.state_dict()
    state["weight"][...] = 0
    assert layer.params["weight"].all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: s.pop("second.bias"), ValueError, "no 'second.bias'"),
        (lambda s: s.update(extra=np.zeros(2)), ValueError, "'extra', which Pair does not know"),
        (lambda s: s.update(seen=np.zeros((2, 1))), ValueError, r"'seen'\] has shape \(2, 1\), and \(2,\)"),
        (lambda s: s.update(seen=np.array(["a", "b"])), TypeError, r"'seen'\] has dtype <U1"),
        (lambda s: s.update(seen=np.zeros(2, complex)), TypeError, r"'seen'\] has dtype complex128"),
    ],
)
def test_a_wrong_state_changes_nothing(change, error, message):
    layer = Pair(rng=0)
    before, state = layer.state_dict(), {name: array + 1 for name, array in layer.state_dict().items()}
    change(state)
    with pytest.raises(error, match=message):
        layer.load_state_dict(state)
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_state_has_to_be_a_mapping():
    with pytest.raises(TypeError, match="state is a list"):
        Linear(3, 2).load_state_dict([1])


# Errors and inputs


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Linear(0, 2), ValueError, "in_features is 0"),
        (lambda: Linear(3, 2.5), ValueError, "out_features is 2.5"),
        (lambda: Linear(3, True), ValueError, "out_features is True"),
        (lambda: Linear(3, 2, dtype=np.float16), ValueError, "dtype is float16"),
        (
            lambda: Linear(3, 2)(np.zeros((5, 4))),
            ValueError,
            r"x has shape \(5, 4\), and its last axis needs size 3",
        ),
        (lambda: Linear(3, 2)(1.0), ValueError, r"x has shape \(\)"),
        (lambda: Linear(3, 2)(np.zeros((5, 3), complex)), TypeError, "x has dtype complex128"),
        (
            lambda: Linear(3, 2)(np.zeros((5, 3)))[1](np.zeros((5, 3))),
            ValueError,
            r"dy has shape \(5, 3\), and \(5, 2\)",
        ),
        (lambda: Embedding(4, 2)([0.5]), TypeError, "x has dtype float64"),
        (lambda: Embedding(4, 2)([4]), ValueError, "x holds 4, .* from 0 to 3"),
        (lambda: Embedding(4, 2)([-1]), ValueError, "x holds -1"),
        (lambda: Embedding(4, 2)([1])[1](np.zeros(2)), ValueError, r"dy has shape \(2,\), and \(1, 2\)"),
        (lambda: softmax_cross_entropy([[1, 2]], [0]), TypeError, "logits have dtype int"),
        (lambda: softmax_cross_entropy([[1.0, 2.0]], [0.0]), TypeError, "targets have dtype float64"),
        (
            lambda: softmax_cross_entropy([[1.0, 2.0]], [0, 1]),
            ValueError,
            r"targets has shape \(2,\), and \(1,\)",
        ),
        (lambda: softmax_cross_entropy([[1.0, 2.0]], [2]), ValueError, "targets hold 2, .* from 0 to 1"),
        (lambda: softmax_cross_entropy([[1.0, 2.0]], [-1]), ValueError, "targets hold -1"),
        (lambda: softmax_cross_entropy([[1.0, 2.0]], [0], [1]), TypeError, "mask has dtype int64"),
        (
            lambda: softmax_cross_entropy([[1.0, 2.0]], [0], [True, False]),
            ValueError,
            r"mask has shape \(2,\)",
        ),
        (lambda: softmax_cross_entropy([[1.0, 2.0]], [0], [False]), ValueError, "not one row counts"),
        (lambda: softmax_cross_entropy(1.0, 0), ValueError, r"logits have shape \(\)"),
        (lambda: softmax_cross_entropy(np.zeros((2, 0)), [0, 0]), ValueError, r"logits have shape \(2, 0\)"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_inputs_are_left_alone(rng):
    x, dy = rng.standard_normal((5, 3)).astype(np.float32), rng.standard_normal((5, 2)).astype(np.float32)
    logits, targets = x.copy(), np.zeros(5, int)
    for array in (x, dy, logits, targets):
        array.flags.writeable = False
    Linear(3, 2)(x)[1](dy)
    softmax_cross_entropy(logits, targets)[1]()


def test_the_same_seed_starts_the_same():
    for make in (
        lambda rng: Linear(3, 2, rng=rng),
        lambda rng: Embedding(3, 2, rng=rng),
        lambda rng: LSTM(3, 2, rng=rng),
    ):
        one, two, three = make(5), make(np.random.default_rng(5)), make(6)
        for name in one.params:
            np.testing.assert_array_equal(one.params[name], two.params[name])
        assert any((one.params[name] != three.params[name]).any() for name in one.params)
