"""PyTorch as a second oracle, in float64: the first oracle is held to it, and so are the kernels."""

import numpy as np
import pytest
from strategies import values
from tolerances import FLOAT32, FLOAT64, assert_close, largest

import fastnorm
from fastnorm import reference

torch = pytest.importorskip("torch")
F = torch.nn.functional

SHAPES = [(6, 8), (5, 8, 7), (4, 8, 3, 5), (2, 8, 3, 2, 4)]
MODULES = pytest.mark.parametrize("module", [reference, fastnorm], ids=["reference", "fastnorm"])
FLOATS = pytest.mark.parametrize("dtype", [FLOAT64, FLOAT32], ids=str)


def tensors(*arrays):
    """float64 tensors with gradients, whatever dtype the arrays have: PyTorch computes the truth here."""
    return [torch.tensor(np.asarray(a, np.float64), requires_grad=True) for a in arrays]


def check(module, forward, backward, torch_forward, x, params, dy, reduced):
    """y, dx and the gradients of `params` against autograd, each in the tolerance of its own dtype."""
    leaves = tensors(x, *params)
    truth = torch_forward(*leaves)
    grads = torch.autograd.grad(truth, leaves, torch.tensor(np.asarray(dy, np.float64)))
    y, stats = forward(module, x, *params)
    truth = truth.detach().numpy()
    assert_close(y, truth, "y", np.abs(truth).max() if reduced is None else largest(truth, reduced))
    result = backward(module, dy, x, stats, *params)
    size = np.abs(np.asarray(dy, np.float64)).sum()
    for actual, grad, what in zip(result, grads, ["dx"] + ["total"] * len(params), strict=False):
        assert_close(actual, grad.numpy(), what, np.abs(grad.numpy()).max() if what == "dx" else size)


def data(rng, shape, dtype, params, count=2):
    x, dy = values(rng, shape, dtype, 1, 2), values(rng, shape, dtype)
    return x, dy, [values(rng, params, dtype, 1, 0.5) for _ in range(count)]


@MODULES
@FLOATS
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("last", [1, 2, 3])
def test_layer_norm(module, dtype, shape, last, rng):
    if last >= len(shape):
        pytest.skip("no batch axis is left")
    axis = tuple(range(-last, 0))
    x, dy, params = data(rng, shape, dtype, shape[-last:])
    check(
        module,
        lambda m, x, w, b: m.layer_norm(x, w, b, axis=axis, return_stats=True),
        lambda m, dy, x, stats, w, b: m.layer_norm_backward(dy, x, stats, w, axis=axis),
        lambda x, w, b: F.layer_norm(x, shape[-last:], w, b),
        x, params, dy, axis,
    )  # fmt: skip


@MODULES
@FLOATS
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(module, dtype, shape, rng):
    if not hasattr(F, "rms_norm"):
        pytest.skip("this PyTorch has no rms_norm")
    x, dy, params = data(rng, shape, dtype, shape[-1:], 1)
    check(
        module,
        lambda m, x, w: m.rms_norm(x, w, return_stats=True),
        lambda m, dy, x, stats, w: m.rms_norm_backward(dy, x, stats, w)[:2],
        lambda x, w: F.rms_norm(x, shape[-1:], w, eps=1e-6),
        x, params, dy, -1,
    )  # fmt: skip


@MODULES
@FLOATS
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, 0.7])
def test_batch_norm(module, dtype, shape, training, momentum, rng):
    x, dy, params = data(rng, shape, dtype, 8)
    mean, var = values(rng, 8, dtype), np.abs(values(rng, 8, dtype)) + dtype.type(0.5)
    torch_mean, torch_var = (torch.tensor(a.astype(np.float64)) for a in (mean, var))
    more = {"training": training, "momentum": momentum}
    running = {"running_mean": mean, "running_var": var, "return_stats": True, **more}
    check(
        module,
        lambda m, x, w, b: m.batch_norm(x, w, b, **running),
        lambda m, dy, x, stats, w, b: m.batch_norm_backward(dy, x, stats, w, training=training),
        lambda x, w, b: F.batch_norm(x, torch_mean, torch_var, w, b, **more),
        x, params, dy, None,
    )  # fmt: skip
    assert_close(mean, torch_mean.numpy(), "var", 3)
    assert_close(var, torch_var.numpy(), "var", torch_var.numpy())


@MODULES
@FLOATS
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_instance_norm(module, dtype, shape, rng):
    x, dy, params = data(rng, shape, dtype, 8)
    check(
        module,
        lambda m, x, w, b: m.instance_norm(x, w, b, return_stats=True),
        lambda m, dy, x, stats, w, b: m.instance_norm_backward(dy, x, stats, w),
        lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
        x, params, dy, None,
    )  # fmt: skip


@MODULES
@FLOATS
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_group_norm(module, dtype, shape, groups, rng):
    if np.prod(shape[2:]) * 8 // groups <= 2:
        pytest.skip("of one or two elements: dx is 0 but for rounding, and PyTorch refuses one")
    x, dy, params = data(rng, shape, dtype, 8)
    check(
        module,
        lambda m, x, w, b: m.group_norm(x, groups, w, b, return_stats=True),
        lambda m, dy, x, stats, w, b: m.group_norm_backward(dy, x, stats, groups, w),
        lambda x, w, b: F.group_norm(x, groups, w, b),
        x, params, dy, None,
    )  # fmt: skip


@MODULES
@FLOATS
@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("axis", [0, 1])
def test_weight_norm(module, dtype, shape, axis, rng):
    v, dw, (g,) = data(rng, shape, dtype, shape[axis], 1)
    leaf, size = tensors(v, g), [1] * len(shape)
    size[axis] = -1
    truth = torch._weight_norm(leaf[0], leaf[1].reshape(size), axis)
    dv, dg = torch.autograd.grad(truth, leaf, torch.tensor(dw.astype(np.float64)))
    assert_close(module.weight_norm(v, g, axis=axis), truth.detach().numpy(), "y")
    result = module.weight_norm_backward(dw, v, g, axis=axis)
    assert_close(result[0], dv.numpy(), "dx")
    assert_close(result[1], dg.numpy(), "total", np.abs(dw).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_tensors_are_taken_without_a_copy(dtype, rng):
    # channels_last is a matter of strides alone; so is every other view.
    x = torch.tensor(rng.standard_normal((3, 8, 5, 6))).to(dtype)
    views = [
        x,
        x.to(memory_format=torch.channels_last),
        x.transpose(2, 3),
        x[:, :, ::2, 1:],
        x[:1].expand(4, 8, 5, 6),
    ]
    for view in views:
        expected = F.group_norm(view.double(), 4).numpy()
        y = fastnorm.group_norm(view, 4)
        assert y.dtype == view.numpy().dtype
        assert_close(y, expected, "y")
        expected = F.batch_norm(view.double(), None, None, training=True).numpy()
        assert_close(fastnorm.batch_norm(view), expected, "y")


def test_results_keep_channels_last(rng):
    x = torch.tensor(rng.standard_normal((3, 8, 5, 6))).to(memory_format=torch.channels_last)
    y, stats = fastnorm.batch_norm(x, return_stats=True)
    assert y.strides == x.numpy().strides
    assert fastnorm.batch_norm_backward(x, x, stats).dx.strides == x.numpy().strides


def test_running_statistics_of_a_module_move_in_place(rng):
    x = values(rng, (7, 8, 3), FLOAT32)
    module = torch.nn.BatchNorm1d(8)
    mean, var = module.running_mean.numpy().copy(), module.running_var.numpy().copy()
    fastnorm.batch_norm(x, running_mean=mean, running_var=var)
    module(torch.tensor(x))
    np.testing.assert_allclose(mean, module.running_mean.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(var, module.running_var.numpy(), rtol=1e-5)


def test_bfloat16_tensors(rng):
    # NumPy reads no such tensor, neither by its array interface nor by DLPack
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = values(rng, (6, 37), np.dtype(ml_dtypes.bfloat16))
    tensor = torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    y, stats = fastnorm.layer_norm(tensor[:, ::2], return_stats=True)
    np.testing.assert_array_equal(y, fastnorm.layer_norm(x[:, ::2]))
    assert y.dtype == x.dtype
    dx = fastnorm.layer_norm_backward(tensor[:, ::2], x[:, ::2], stats).dx
    np.testing.assert_array_equal(dx, fastnorm.layer_norm_backward(x[:, ::2], x[:, ::2], stats).dx)
    with pytest.raises(TypeError, match=r"^x cannot be read as an array.*grad"):
        fastnorm.layer_norm(tensor.float().requires_grad_().bfloat16())
