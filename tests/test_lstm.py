"""The LSTM: gradients, sequences of unequal length, PyTorch, and the paper's equations."""

import numpy as np
import pytest
from projection import assert_gradients

from fastnorm.nn import LSTM, Adam, Linear, softmax_cross_entropy

T, B, I, H = 6, 4, 3, 5  # noqa: E741
NORMS = [None, "layer"]


def shaken(norm, rng, dtype=np.float64, input_size=I, hidden_size=H):
    """An LSTM whose gains and biases are not at their start."""
    net = LSTM(input_size, hidden_size, norm=norm, dtype=dtype, rng=rng)
    for array in net.params.values():
        array += (0.3 * rng.standard_normal(array.shape)).astype(dtype)
    return net


# Gradients


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("lengths", [None, [6, 6, 6, 6], [6, 1, 3, 0], [2, 2, 1, 2]], ids=str)
@pytest.mark.parametrize("given", ["state", "no state"])
def test_gradients(norm, lengths, given, rng):
    net = shaken(norm, rng)
    x, h0, c0 = rng.standard_normal((T, B, I)), rng.standard_normal((B, H)), rng.standard_normal((B, H))
    dy, dh, dc = rng.standard_normal((T, B, H)), rng.standard_normal((B, H)), rng.standard_normal((B, H))
    state = (h0, c0) if given == "state" else None

    def value():
        (y, (h, c)), _ = net(x, state, lengths)
        return float((y * dy).sum() + (h * dh).sum() + (c * dc).sum())

    dx, (dh0, dc0) = net(x, state, lengths)[1](dy, (dh, dc))
    arrays, gradients = {"x": x, **net.params}, {"x": dx, **net.grads}
    if state:
        arrays |= {"h0": h0, "c0": c0}
        gradients |= {"h0": dh0, "c0": dc0}
    assert_gradients(value, arrays, gradients, rng)


@pytest.mark.parametrize("norm", NORMS)
def test_the_state_carries_over_pieces(norm, rng):
    """Two pieces, each handing on its state and its state's gradient, are one sequence."""
    net = shaken(norm, rng)
    x, dy = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))
    (y, state), backward = net(x)
    dx, dstate = backward(dy)
    whole = {name: grad.copy() for name, grad in net.grads.items()}
    net.zero_grad()
    (y1, between), backward1 = net(x[:2])
    (y2, after), backward2 = net(x[2:], between)
    dx2, dbetween = backward2(dy[2:])
    dx1, dbefore = backward1(dy[:2], dbetween)
    for one, two in (
        (y, np.concatenate([y1, y2])),
        (dx, np.concatenate([dx1, dx2])),
        *zip(state, after, strict=True),
        *zip(dstate, dbefore, strict=True),
    ):
        np.testing.assert_allclose(one, two, atol=1e-13)
    for name, grad in net.grads.items():
        np.testing.assert_allclose(grad, whole[name], atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_backward_can_be_called_again_and_later(norm, rng):
    net = shaken(norm, rng)
    x, dy = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))
    (y, _), backward = net(x)
    first = backward(dy)[0]
    y[...] = np.nan  # the caller's own from now on
    net(rng.standard_normal((T, B, I)))  # another call leaves this backward alone
    np.testing.assert_array_equal(backward(dy)[0], first)


# Lengths


@pytest.mark.parametrize("norm", NORMS)
def test_each_sequence_is_as_if_alone(norm, rng):
    net = shaken(norm, rng)
    x, lengths = rng.standard_normal((T, B, I)), [6, 1, 3, 0]
    h0, c0 = rng.standard_normal((2, B, H))
    (y, (h, c)), _ = net(x, (h0, c0), lengths)
    for b, n in enumerate(lengths):
        (alone, (h_alone, c_alone)), _ = net(x[:n, b : b + 1], (h0[b : b + 1], c0[b : b + 1]))
        np.testing.assert_allclose(y[:n, b], alone[:, 0], atol=1e-14)
        np.testing.assert_allclose(h[b], h_alone[0], atol=1e-14)
        np.testing.assert_allclose(c[b], c_alone[0], atol=1e-14)
        assert not y[n:, b].any()


@pytest.mark.parametrize("norm", NORMS)
def test_nothing_beyond_the_lengths_reaches_anything(norm, rng):
    net = shaken(norm, rng)
    x, dy, lengths = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H)), np.array([6, 1, 3, 0])
    results = []
    for filler in (0.0, np.nan, np.inf):
        beyond = np.arange(T)[:, None] >= lengths
        x[beyond], dy[beyond] = filler, filler
        kept = x.copy()
        net.zero_grad()
        (y, state), backward = net(x, None, lengths)
        dx, dstate = backward(dy, (np.ones((B, H)), np.ones((B, H))))
        np.testing.assert_array_equal(x, kept)
        assert not dx[beyond].any()
        results.append([y, dx, *state, *dstate, *(grad.copy() for grad in net.grads.values())])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("steps", "rows"), [(0, 3), (4, 0), (1, 1)])
def test_small_shapes(norm, steps, rows):
    net = LSTM(I, H, norm=norm, rng=0)
    (y, (h, c)), backward = net(np.ones((steps, rows, I)), None, [steps] * rows if rows else np.zeros(0, int))
    assert y.shape == (steps, rows, H)
    assert h.shape == c.shape == (rows, H)
    dx, (dh, dc) = backward(y)
    assert dx.shape == (steps, rows, I)
    assert dh.shape == dc.shape == (rows, H)


# Other implementations


@pytest.mark.parametrize("sizes", [(6, 4, 3, 5), (20, 7, 11, 32)])
def test_plain_equals_pytorch(sizes, rng):
    torch = pytest.importorskip("torch")
    T, B, I, H = sizes  # noqa: E741
    theirs = torch.nn.LSTM(I, H)
    net = LSTM(I, H, rng=0)
    net.load_state_dict({name: getattr(theirs, f"{name}_l0").detach().numpy() for name in net.params})
    x, dy = (rng.standard_normal((T, B, size)).astype(np.float32) for size in (I, H))
    states = [rng.standard_normal((B, H)).astype(np.float32) for _ in range(4)]
    (y, (h, c)), backward = net(x, tuple(states[:2]))
    dx, (dh0, dc0) = backward(dy, tuple(states[2:]))

    x_, h0_, c0_ = (torch.tensor(each, requires_grad=True) for each in (x, *states[:2]))
    y_, (h_, c_) = theirs(x_, (h0_[None], c0_[None]))
    torch.autograd.backward([y_, h_[0], c_[0]], [torch.tensor(each) for each in (dy, *states[2:])])
    pairs = [(y, y_), (h, h_[0]), (c, c_[0]), (dx, x_.grad), (dh0, h0_.grad), (dc0, c0_.grad)]
    pairs += [(net.grads[name], getattr(theirs, f"{name}_l0").grad) for name in net.grads]
    for ours, other in pairs:
        other = other.detach().numpy()
        assert ours.dtype == np.float32
        assert abs(ours - other).max() <= 1e-5 * max(1, abs(other).max())


def test_lengths_equal_pytorch_packed_sequences(rng):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.LSTM(I, H)
    net = LSTM(I, H, rng=0)
    net.load_state_dict({name: getattr(theirs, f"{name}_l0").detach().numpy() for name in net.params})
    x, lengths = rng.standard_normal((T, B, I)).astype(np.float32), [6, 5, 5, 2]
    (y, (h, c)), _ = net(x, lengths=lengths)
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.tensor(x), lengths)
    y_, (h_, c_) = theirs(packed)
    y_, _ = torch.nn.utils.rnn.pad_packed_sequence(y_)
    for ours, other in ((y, y_), (h, h_[0]), (c, c_[0])):
        np.testing.assert_allclose(ours, other.detach().numpy(), atol=1e-5)


def test_layer_norm_equals_the_papers_equations(rng):
    """Ba et al. 2016, supplementary equations 20 to 22, in PyTorch, and its gradients by autograd."""
    torch = pytest.importorskip("torch")
    net = shaken("layer", rng)
    p = {name: torch.tensor(array, requires_grad=True) for name, array in net.params.items()}
    x, dy = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))
    h0, c0 = rng.standard_normal((2, B, H))
    (y, (h_end, c_end)), backward = net(x, (h0, c0))
    dx, (dh0, dc0) = backward(dy)

    x_, h0_, c0_ = (torch.tensor(each, requires_grad=True) for each in (x, h0, c0))
    h, c, outputs = h0_, c0_, []

    def ln(z, which):
        return torch.nn.functional.layer_norm(z, z.shape[-1:], p[f"gain_{which}"], p[f"bias_{which}"])

    for t in range(T):
        a = ln(h @ p["weight_hh"].T, "hh") + ln(x_[t] @ p["weight_ih"].T, "ih")
        i, f, g, o = a.chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(ln(c, "c"))
        outputs.append(h)
    torch.stack(outputs).backward(torch.tensor(dy))
    pairs = [
        (y, torch.stack(outputs)),
        (h_end, h),
        (c_end, c),
        (dx, x_.grad),
        (dh0, h0_.grad),
        (dc0, c0_.grad),
    ]
    for ours, other in pairs + [(net.grads[name], p[name].grad) for name in p]:
        np.testing.assert_allclose(ours, other.detach().numpy(), rtol=1e-9, atol=1e-10)


def test_float32_stays_near_float64(rng):
    for norm in NORMS:
        wide = shaken(norm, rng, input_size=16, hidden_size=32)
        narrow = LSTM(16, 32, norm=norm)
        narrow.load_state_dict(wide.state_dict())
        x, dy = rng.standard_normal((30, 8, 16)), rng.standard_normal((30, 8, 32))
        (y, _), backward = wide(x)
        (y32, _), backward32 = narrow(x)
        assert y32.dtype == np.float32
        np.testing.assert_allclose(y32, y, atol=2e-5)
        dx, dx32 = backward(dy)[0], backward32(dy)[0]
        assert abs(dx32 - dx).max() <= 1e-4 * abs(dx).max()


# Learning


@pytest.mark.parametrize("norm", NORMS)
def test_one_batch_is_learnt_by_heart(norm, rng):
    x, targets = rng.standard_normal((8, 4, 6)), rng.integers(10, size=(8, 4))
    net, linear = LSTM(6, 32, norm=norm, rng=0), Linear(32, 10, rng=1)
    optimizers = [Adam(each.params, each.grads, lr=0.02) for each in (net, linear)]
    for _ in range(120):
        (y, _), net_backward = net(x)
        logits, linear_backward = linear(y)
        loss, loss_backward = softmax_cross_entropy(logits, targets)
        net.zero_grad()
        linear.zero_grad()
        net_backward(linear_backward(loss_backward()))
        for optimizer in optimizers:
            optimizer.step()
    assert loss < 0.05


# Errors


@pytest.mark.parametrize("norm", NORMS)
def test_parameters(norm):
    net = LSTM(I, H, norm=norm, rng=0)
    shapes = {name: array.shape for name, array in net.params.items()}
    expected = {"weight_ih": (4 * H, I), "weight_hh": (4 * H, H), "bias_ih": (4 * H,), "bias_hh": (4 * H,)}
    if norm:
        expected |= {"gain_ih": (4 * H,), "gain_hh": (4 * H,), "gain_c": (H,), "bias_c": (H,)}
    assert shapes == expected
    assert all(array.dtype == np.float32 for array in (*net.params.values(), *net.grads.values()))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda net: LSTM(I, H, norm="cosine"),
            ValueError,
            "norm is 'cosine', and needs to be one of None, 'layer'",
        ),
        (lambda net: LSTM(I, 0), ValueError, "hidden_size is 0"),
        (lambda net: net(np.zeros((T, B))), ValueError, r"x has shape \(6, 4\), and \(T, B, 3\) is needed"),
        (lambda net: net(np.zeros((T, B, I + 1))), ValueError, r"x has shape \(6, 4, 4\)"),
        (lambda net: net(np.full((T, B, I), "a")), TypeError, "x has dtype <U1"),
        (lambda net: net(np.zeros((T, B, I)), np.zeros((3, B, H))), ValueError, "state holds 3 arrays"),
        (
            lambda net: net(np.zeros((T, B, I)), (np.zeros((B, I)), None)),
            ValueError,
            r"state\[0\] has shape \(4, 3\)",
        ),
        (
            lambda net: net(np.zeros((T, B, I)), None, [1, 2, 3]),
            ValueError,
            r"lengths has shape \(3,\), and \(4,\)",
        ),
        (
            lambda net: net(np.zeros((T, B, I)), None, [1, 2, 3, 7]),
            ValueError,
            "lengths hold 7, .* from 0 to 6",
        ),
        (lambda net: net(np.zeros((T, B, I)), None, [1, 2, 3, -1]), ValueError, "lengths hold -1"),
        (lambda net: net(np.zeros((T, B, I)), None, [1.0, 2, 3, 4]), TypeError, "lengths have dtype float64"),
        (
            lambda net: net(np.zeros((T, B, I)))[1](np.zeros((T, B, I))),
            ValueError,
            r"dy has shape \(6, 4, 3\)",
        ),
        (
            lambda net: net(np.zeros((T, B, I)))[1](np.zeros((T, B, H)), (None, np.zeros(H))),
            ValueError,
            r"dstate\[1\]",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call(LSTM(I, H, rng=0))
    assert "\n" not in str(caught.value)
