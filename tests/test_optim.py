"""Optimizers against their formulas and against PyTorch, and clipping."""

import numpy as np
import pytest

from fastnorm.nn import SGD, Adam, AdamW, RMSProp, clip_grad_norm


def arrays(rng, dtype=np.float64):
    return {"a": rng.standard_normal((3, 4)).astype(dtype), "b": rng.standard_normal(5).astype(dtype)}


def run(optimizer, gradients):
    for each in gradients:
        for name, grad in each.items():
            optimizer.grads[name][...] = grad
        optimizer.step()


def test_sgd_without_momentum(rng):
    params, grads = arrays(rng), arrays(rng)
    expected = {name: params[name] - 0.3 * grads[name] for name in params}
    SGD(params, grads, lr=0.3).step()
    for name in params:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-15)


def test_sgd_momentum_on_a_constant_gradient():
    """After n steps the velocity is (1 - m^n) / (1 - m) times the gradient."""
    params, grads = {"w": np.zeros(1)}, {"w": np.ones(1)}
    optimizer = SGD(params, grads, lr=0.1, momentum=0.5)
    for _ in range(4):
        optimizer.step()
    assert params["w"][0] == pytest.approx(-0.1 * sum((1 - 0.5**n) / 0.5 for n in range(1, 5)))


def test_adam_on_a_constant_gradient():
    """The corrected averages of a constant are the constant, so that every step is lr (up to eps)."""
    params, grads = {"w": np.zeros(2)}, {"w": np.array([1e3, -1e-3])}
    optimizer = Adam(params, grads, lr=0.1, eps=0)
    for _ in range(5):
        optimizer.step()
    np.testing.assert_allclose(params["w"], [-0.5, 0.5], rtol=1e-12)


def test_weight_decay_goes_beside_the_gradient():
    """It is the same whatever the gradient's scale, where a penalty in the gradient would be scaled away."""
    for scale in (1e-3, 1e3):
        params, grads = {"w": np.full(1, 2.0)}, {"w": np.full(1, scale)}
        AdamW(params, grads, lr=0.1, eps=0, weight_decay=0.5).step()
        assert params["w"][0] == pytest.approx(2.0 * 0.95 - 0.1)


def test_rmsprop_on_a_constant_gradient():
    params, grads = {"w": np.zeros(2)}, {"w": np.array([1e3, -1e-3])}
    optimizer = RMSProp(params, grads, lr=0.1, decay=0.5, eps=0)
    for _ in range(3):
        optimizer.step()
    expected = 0.1 * sum((1 - 0.5**t) ** -0.5 for t in (1, 2, 3))
    np.testing.assert_allclose(params["w"], [-expected, expected], rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw", "rmsprop"])
def test_pytorch_takes_the_same_steps(name, dtype, rng):
    torch = pytest.importorskip("torch")
    params, gradients = arrays(rng, dtype), [arrays(rng, dtype) for _ in range(20)]
    theirs = {key: torch.nn.Parameter(torch.tensor(array)) for key, array in params.items()}
    grads = {key: np.zeros_like(array) for key, array in params.items()}
    make, other, options = {
        "sgd": (SGD, torch.optim.SGD, {}),
        "momentum": (SGD, torch.optim.SGD, {"momentum": 0.9}),
        "adam": (Adam, torch.optim.Adam, {}),
        "adamw": (AdamW, torch.optim.AdamW, {"weight_decay": 0.1}),
        "rmsprop": (RMSProp, torch.optim.RMSprop, {}),
    }[name]
    ours, other = make(params, grads, lr=0.05, **options), other(theirs.values(), lr=0.05, **options)
    run(ours, gradients)
    for each in gradients:
        for key, grad in each.items():
            theirs[key].grad = torch.tensor(grad)
        other.step()
    for key, array in params.items():
        assert array.dtype == dtype
        tolerance = 1e-5 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(array, theirs[key].detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "make",
    [lambda p, g: SGD(p, g, momentum=0.9), Adam, AdamW, RMSProp],
    ids=["sgd", "adam", "adamw", "rmsprop"],
)
def test_going_on_from_a_saved_state(make, rng):
    start, gradients = arrays(rng), [arrays(rng) for _ in range(6)]

    def new(params):
        return make(
            {k: v.copy() for k, v in params.items()}, {k: np.zeros_like(v) for k, v in params.items()}
        )

    whole, first = new(start), new(start)
    run(whole, gradients)
    run(first, gradients[:3])
    second = new(first.params)
    second.load_state_dict(first.state_dict())
    run(second, gradients[3:])
    for name in start:
        np.testing.assert_array_equal(whole.params[name], second.params[name])


def test_a_wrong_state_names_the_key(rng):
    optimizer = Adam(arrays(rng), arrays(rng))
    state = optimizer.state_dict()
    assert state.keys() == {"mean.a", "mean.b", "square.a", "square.b", "steps"}
    for change, message in (
        ({"mean.a": np.zeros(3)}, r"'mean.a' .* \(3,\), and \(3, 4\)"),
        ({"other": np.zeros(3)}, "'other'"),
        ({"steps": np.zeros(3)}, "'steps'"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state | change)
    with pytest.raises(ValueError, match=r"'square\.b'"):
        optimizer.load_state_dict({name: array for name, array in state.items() if name != "square.b"})


def test_clipping(rng):
    grads = arrays(rng, np.float32)
    kept = {name: grad.copy() for name, grad in grads.items()}
    norm = float(np.sqrt(sum((grad.astype(float) ** 2).sum() for grad in grads.values())))
    assert clip_grad_norm(grads, 2 * norm) == pytest.approx(norm, rel=1e-12)
    for name in grads:
        np.testing.assert_array_equal(grads[name], kept[name])
    assert clip_grad_norm(grads, norm / 4) == pytest.approx(norm, rel=1e-12)
    for name in grads:
        np.testing.assert_allclose(grads[name], kept[name] / 4, rtol=1e-6)


def test_clipping_of_what_is_huge_or_not_finite():
    grads = {"a": np.full(4, 1e30, np.float32)}
    assert clip_grad_norm(grads, 1.0) == pytest.approx(2e30)
    np.testing.assert_allclose(grads["a"], 0.5, rtol=1e-6)
    grads = {"a": np.array([np.nan, 1.0]), "b": np.array([2.0])}
    assert np.isnan(clip_grad_norm(grads, 1.0))
    assert grads["b"][0] == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, g: SGD(p, {}), "needs? the same keys, and 'a'"),
        (lambda p, g: SGD(p, g, lr=-1), "lr is -1"),
        (lambda p, g: SGD(p, g, lr=float("nan")), "lr is nan"),
        (lambda p, g: SGD(p, g, momentum=1), "momentum is 1"),
        (lambda p, g: Adam(p, g, betas=(0.9, 1)), r"betas are \(0.9, 1\)"),
        (lambda p, g: Adam(p, g, eps=-1), "eps is -1"),
        (lambda p, g: AdamW(p, g, weight_decay=-1), "weight_decay is -1"),
        (lambda p, g: RMSProp(p, g, decay=1), "decay is 1"),
        (lambda p, g: RMSProp(p, g, eps=-1), "eps is -1"),
        (lambda p, g: clip_grad_norm(g, 0), "max_norm is 0"),
    ],
)
def test_errors(call, message, rng):
    with pytest.raises(ValueError, match=message):
        call(arrays(rng), arrays(rng))
