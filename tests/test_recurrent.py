"""RNN, GRU and LSTM with every norm: gradients, layers, directions, running statistics, saving, errors."""

import numpy as np
import pytest
from projection import assert_gradients

from fastnorm.nn import GRU, LSTM, RNN

T, B, I, H = 5, 4, 3, 6  # noqa: E741
CELLS = [RNN, GRU, LSTM]
NORMS = [None, "layer", "rms", "batch", "weight"]
FORMS = {
    "one layer": {},
    "two layers": {"num_layers": 2},
    "both directions": {"bidirectional": True},
    "both, two layers": {"num_layers": 2, "bidirectional": True},
}


def shaken(cell, norm, rng, dtype=np.float64, sizes=(I, H), **options):
    """A net whose gains and biases are not at their start."""
    net = cell(*sizes, norm=norm, dtype=dtype, rng=rng, **options)
    for array in net.params.values():
        array += (0.3 * rng.standard_normal(array.shape)).astype(dtype)
    return net


def random_state(net, rng, rows=B):
    """Values for every part of a state, as a list."""
    count = len(net._suffixes)
    shape = (rows, net.hidden_size) if count == 1 else (count, rows, net.hidden_size)
    return [rng.standard_normal(shape).astype(net.dtype) for _ in range(1 + isinstance(net, LSTM))]


def form(net, parts):
    """The parts as the net takes them."""
    return tuple(parts) if isinstance(net, LSTM) else parts[0]


def parts(net, state):
    return list(state) if isinstance(net, LSTM) else [state]


# Gradients


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("form_of", FORMS)
@pytest.mark.parametrize("lengths", [None, [5, 2, 4, 0]], ids=["whole", "lengths"])
def test_gradients(cell, norm, form_of, lengths, rng):
    net = shaken(cell, norm, rng, **FORMS[form_of], **({"eps": 0.1} if norm == "batch" else {}))
    x, state, dstate = rng.standard_normal((T, B, I)), random_state(net, rng), random_state(net, rng)
    dy = rng.standard_normal(net(x)[0][0].shape)

    def value():
        (y, end), _ = net(x, form(net, state), lengths)
        return float(
            (y * dy).sum() + sum((p * d).sum() for p, d in zip(parts(net, end), dstate, strict=True))
        )

    dx, dstart = net(x, form(net, state), lengths)[1](dy, form(net, dstate))
    arrays, gradients = {"x": x, **net.params}, {"x": dx, **net.grads}
    arrays |= {f"state {k}": part for k, part in enumerate(state)}
    gradients |= {f"state {k}": part for k, part in enumerate(parts(net, dstart))}
    # The variance of a few rows, or of small cells, curves strongly: a short step.
    assert_gradients(value, arrays, gradients, rng, step=2e-7)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
def test_gradients_with_running_statistics(cell, rng):
    """Where the running statistics serve they are constants."""
    net = shaken(cell, "batch", rng)
    x = rng.standard_normal((T, B, I))
    for _ in range(3):
        net(rng.standard_normal((T - 1, B, I)))
    dy = rng.standard_normal((T, B, H))
    dx, _ = net(x, training=False)[1](dy)

    def value():
        return float((net(x, training=False)[0][0] * dy).sum())

    assert_gradients(value, {"x": x, **net.params}, {"x": dx, **net.grads}, rng)


# Layers and directions


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("norm", NORMS)
def test_a_second_layer_reads_the_first(cell, norm, rng):
    net = shaken(cell, norm, rng, num_layers=2)
    first, second = cell(I, H, norm=norm, dtype=np.float64), cell(H, H, norm=norm, dtype=np.float64)
    for k, single in enumerate((first, second)):
        single.load_state_dict(
            {name: {**net.params, **net.buffers}[f"{name}_l{k}"] for name in single.state_dict()}
        )
    x = rng.standard_normal((T, B, I))
    (y, _), _ = net(x)
    (between, _), _ = first(x)
    (expected, _), _ = second(between)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("lengths", [None, [5, 2, 4, 0]], ids=["whole", "lengths"])
def test_the_other_direction_reads_the_valid_part_from_its_end(cell, lengths, rng):
    net = shaken(cell, "layer", rng, bidirectional=True)
    single = cell(I, H, norm="layer", dtype=np.float64)
    single.load_state_dict({name: net.params[f"{name}_l0_reverse"] for name in single.params})
    x = rng.standard_normal((T, B, I))
    (y, end), _ = net(x, lengths=lengths)
    for b, n in enumerate(lengths or [T] * B):
        (alone, state), _ = single(x[:n, b : b + 1][::-1])
        np.testing.assert_allclose(y[:n, b, H:], alone[::-1, 0], atol=1e-14)
        for part, expected in zip(parts(net, end), parts(single, state), strict=True):
            np.testing.assert_allclose(part[1, b], expected[0], atol=1e-14)
        assert not y[n:, b].any()


def test_dropout_between_layers_only_in_training(rng):
    net = LSTM(I, H, num_layers=2, dropout=0.5, rng=0)
    x = np.ones((T, B, I), np.float32)
    quiet = net(x, training=False)[0][0]
    np.testing.assert_array_equal(quiet, net(x, training=False)[0][0])
    assert (net(x)[0][0] != net(x)[0][0]).any()
    single = LSTM(I, H, dropout=0.5, rng=0)
    np.testing.assert_array_equal(single(x)[0][0], single(x, training=False)[0][0])


def test_gradients_with_dropout(rng):
    net = shaken(GRU, "layer", rng, num_layers=2, dropout=0.5)
    x, dy = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, H))
    start = net.generators["dropout"].bit_generator.state

    def call():
        net.generators["dropout"].bit_generator.state = start
        return net(x)

    dx, _ = call()[1](dy)
    assert_gradients(
        lambda: float((call()[0][0] * dy).sum()), {"x": x, **net.params}, {"x": dx, **net.grads}, rng
    )


# Weight norm


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
def test_weight_norm_begins_as_the_plain_net(cell, rng):
    x = rng.standard_normal((T, B, I))
    plain, normed = (cell(I, H, norm=norm, dtype=np.float64, rng=3) for norm in (None, "weight"))
    np.testing.assert_allclose(plain(x)[0][0], normed(x)[0][0], atol=1e-14)
    normed.params["weight_hh"] *= 5
    np.testing.assert_allclose(plain(x)[0][0], normed(x)[0][0], atol=1e-14)


# Batch norm


def test_every_step_has_running_statistics_of_its_own(rng):
    net = LSTM(I, H, norm="batch", dtype=np.float64, rng=0, momentum=1.0, max_steps=8)
    x = rng.standard_normal((T, B, I))
    net(x)
    projection = x @ net.params["weight_ih"].T
    np.testing.assert_allclose(net.buffers["running_mean_ih"][:T], projection.mean(axis=1), atol=1e-14)
    np.testing.assert_allclose(net.buffers["running_var_ih"][:T], projection.var(axis=1, ddof=1), atol=1e-14)
    assert net.buffers["num_steps"] == T
    assert not net.buffers["running_mean_ih"][T:].any()


def test_beyond_the_longest_training_sequence_the_last_statistics_serve(rng):
    net = shaken(RNN, "batch", rng)
    for _ in range(4):
        net(rng.standard_normal((3, B, I)))
    x = rng.standard_normal((6, B, I))
    (y, _), _ = net(x, training=False)
    for name in ("running_mean_ih", "running_mean_hh", "running_var_ih", "running_var_hh"):
        net.buffers[name][3:6] = net.buffers[name][2]
    net.buffers["num_steps"][...] = 6
    np.testing.assert_array_equal(y, net(x, training=False)[0][0])


def test_only_valid_rows_enter_the_statistics(rng):
    x, lengths = rng.standard_normal((T, B, I)), np.array([5, 3, 0, 5])
    nets = [shaken(LSTM, "batch", np.random.default_rng(1)) for _ in range(2)]
    (y, _), _ = nets[0](x, lengths=lengths)
    x[np.arange(T)[:, None] >= lengths] = np.nan
    (other, _), _ = nets[1](x, lengths=lengths)
    np.testing.assert_array_equal(y, other)
    for name, array in nets[0].buffers.items():
        np.testing.assert_array_equal(array, nets[1].buffers[name])
        assert np.isfinite(array).all()


def test_inference_changes_no_running_statistics(rng):
    net = shaken(GRU, "batch", rng)
    x = rng.standard_normal((T, B, I))
    net(x)
    kept = net.state_dict()
    net(x, training=False)
    for name, array in net.buffers.items():
        np.testing.assert_array_equal(array, kept[name])


# Starts, saving, errors


def test_orthogonal_start():
    net = LSTM(I, H, init="orthogonal", dtype=np.float64, rng=0, forget_bias=1.0)
    for block in np.split(net.params["weight_hh"], 4):
        np.testing.assert_allclose(block @ block.T, np.eye(H), atol=1e-14)
    assert net.params["bias_ih"].tolist() == [0] * H + [1] * H + [0] * (2 * H)


def test_glorot_start():
    net = GRU(30, 50, init="glorot", rng=0)
    assert 0.95 < np.abs(net.params["weight_ih"]).max() / np.sqrt(6 / 80) <= 1
    assert 0.95 < np.abs(net.params["weight_hh"]).max() / np.sqrt(6 / 100) <= 1
    assert not net.params["bias_ih"].any()


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("form_of", FORMS)
def test_state_dict_round_trips(cell, norm, form_of, rng, tmp_path):
    net = shaken(cell, norm, rng, np.float32, **FORMS[form_of])
    x = rng.standard_normal((T, B, I)).astype(np.float32)
    net(x)
    np.savez(tmp_path / "net.npz", **net.state_dict())
    other = cell(I, H, norm=norm, **FORMS[form_of])
    with np.load(tmp_path / "net.npz") as saved:
        other.load_state_dict(saved)
    np.testing.assert_array_equal(net(x, training=False)[0][0], other(x, training=False)[0][0])


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
@pytest.mark.parametrize("form_of", FORMS)
@pytest.mark.parametrize("lengths", [None, [5, 4, 2, 2]], ids=["whole", "lengths"])
def test_plain_equals_pytorch(cell, form_of, lengths, rng):
    torch = pytest.importorskip("torch")
    options = FORMS[form_of]
    theirs = getattr(torch.nn, cell.__name__)(I, H, **options)
    net = cell(I, H, **options)
    net.load_state_dict(theirs.state_dict())
    x, state, dstate = rng.standard_normal((T, B, I)), random_state(net, rng), random_state(net, rng)
    x = x.astype(np.float32)
    dy = rng.standard_normal((T, B, H * (1 + net.bidirectional))).astype(np.float32)
    (y, end), backward = net(x, form(net, state), lengths)
    dx, dstart = backward(dy, form(net, dstate))

    x_ = torch.tensor(x, requires_grad=True)
    state_ = [torch.tensor(p.reshape(-1, B, H), requires_grad=True) for p in state]
    given = x_
    if lengths:
        given = torch.nn.utils.rnn.pack_padded_sequence(x_, lengths)
    y_, end_ = theirs(given, form(net, state_))
    if lengths:
        y_, _ = torch.nn.utils.rnn.pad_packed_sequence(y_)
    end_ = parts(net, end_)
    torch.autograd.backward(
        [y_, *end_], [torch.tensor(dy), *(torch.tensor(d.reshape(-1, B, H)) for d in dstate)]
    )
    pairs = [(y, y_), (dx, x_.grad)]
    pairs += zip(parts(net, end), end_, strict=True)
    pairs += [(p, q.grad) for p, q in zip(parts(net, dstart), state_, strict=True)]
    suffix = "" if len(net._suffixes) > 1 else "_l0"
    pairs += [(net.grads[name], getattr(theirs, name + suffix).grad) for name in net.grads]
    for ours, other in pairs:
        other = other.detach().numpy().reshape(ours.shape)
        assert abs(ours - other).max() <= 1e-5 * max(1, abs(other).max())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: RNN(I, H, norm="cosine"), ValueError, "norm is 'cosine', .* None, 'layer', 'rms', 'batch'"),
        (lambda: RNN(I, H, init="zero"), ValueError, "init is 'zero', and needs to be one of 'uniform'"),
        (lambda: GRU(I, H, num_layers=0), ValueError, "num_layers is 0"),
        (lambda: GRU(I, H, dropout=1), ValueError, "p is 1"),
        (lambda: GRU(I, H, forget_bias=1.0), ValueError, "forget_bias is 1.0, and only an LSTM"),
        (lambda: LSTM(I, H, norm="batch", max_steps=0), ValueError, "max_steps is 0"),
        (lambda: GRU(I, H)(np.zeros((T, B))), ValueError, r"x has shape \(5, 4\), and \(T, B, 3\)"),
        (
            lambda: GRU(I, H)(np.zeros((T, B, I)), np.zeros((1, B, H))),
            ValueError,
            r"state has shape \(1, 4, 6\)",
        ),
        (
            lambda: LSTM(I, H, num_layers=2)(np.zeros((T, B, I)), (np.zeros((B, H)), None)),
            ValueError,
            r"state\[0\] has shape \(4, 6\), and \(2, 4, 6\) is needed",
        ),
        (lambda: RNN(I, H).load_state_dict({}), ValueError, "state has no 'weight_ih', which RNN needs"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
