"""Arguments at the ends of their ranges: each gives its result or one sentence, never an overflow."""

import numpy as np
import pytest

import fastnorm
from fastnorm import reference


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("value", [1.0, 0.0, 3e-6])
@pytest.mark.parametrize("eps", [1e-300, 1e-77, 1e-30])
def test_a_constant_slice_gives_the_bias_for_the_smallest_eps(dtype, value, eps):
    for axis, shape in [(-1, (2, 5)), (0, (40, 3))]:
        y = fastnorm.normalize(np.full(shape, value, dtype), axis, bias=0.25, eps=eps)
        assert (y == 0.25).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("eps", [1e-300, 1e-80, 1e-77])
@pytest.mark.parametrize("shape", [(2, 3), (300, 3), (2, 3, 7, 400)])
def test_running_statistics_without_variance_and_the_smallest_eps(dtype, eps, shape):
    # 1 / sqrt(eps) is beyond float32, but not what it makes of the data
    x = np.zeros(shape, dtype)
    x[:, 2] = 1
    x[0, 0], x[0, 1] = 1e-20, 6e-8
    mean = np.array([0, 0, 1], dtype)
    options = {"running_mean": mean, "running_var": 0 * mean, "training": False, "eps": eps}
    y = fastnorm.batch_norm(x, **options)
    with np.errstate(over="ignore"):
        expected = reference.batch_norm(x, **options).astype(dtype)
    np.testing.assert_allclose(y, expected, rtol=1e-6)


@pytest.mark.parametrize("mean", [1e-20, -1e-30])
def test_a_small_running_mean_without_variance_and_the_smallest_eps(mean):
    # both come nearer by a power of two, which must itself be a float32
    mean = np.array([mean, mean], np.float32)
    x = np.stack([mean, mean * 2]).astype(np.float32)
    y = fastnorm.batch_norm(x, running_mean=mean, running_var=0 * mean, training=False, eps=1e-300)
    assert (y[0] == 0).all()
    assert (y[1] == np.copysign(np.inf, mean)).all()


@pytest.mark.parametrize("value", [1e40, 1e228, 1e308])
@pytest.mark.parametrize("eps", [1e-5, 1e-300])
def test_a_constant_slice_of_the_largest_numbers(value, eps):
    y = fastnorm.normalize(np.full((2, 5), value), bias=0.25, eps=eps)
    assert (y == 0.25).all()


@pytest.mark.parametrize("name", ["eps", "momentum"])
def test_a_number_beyond_float64_is_a_sentence(name):
    with pytest.raises(ValueError, match=rf"^{name} is beyond the range of float64"):
        fastnorm.batch_norm(np.ones((4, 2)), running_mean=np.zeros(2), **{name: 10**400})


def test_more_groups_than_an_index_can_count():
    with pytest.raises(ValueError, match=r"^num_groups is 1180591620717411303424, needs a positive divisor"):
        fastnorm.group_norm(np.ones((2, 4)), 2**70)


def test_a_complex_number_is_not_real():
    with pytest.raises(TypeError, match=r"^eps is .*, needs a real number"):
        fastnorm.normalize(np.ones(3), eps=np.complex128(1))


def test_the_empty_argument_is_named():
    with pytest.raises(ValueError, match=r"^v has shape \(2, 0\)"):
        fastnorm.weight_norm(np.zeros((2, 0)), np.ones(2))
    with pytest.raises(ValueError, match=r"^dy has shape \(0, 3\)"):
        fastnorm.mean_only_batch_norm_backward(np.ones((0, 3)))


@pytest.mark.parametrize(
    ("shape", "axes"), [((2, 0), r"\(1,\)"), ((2, 4, 0, 3), r"\(1, 2, 3\)"), ((2, 3, 0, 4), r"\(1, 2, 3\)")]
)
def test_an_empty_group_names_axes_that_x_has(shape, axes):
    with pytest.raises(
        ValueError, match=rf"^x has shape .*, no element along the normalized axes {axes}; needs"
    ):
        fastnorm.group_norm(np.zeros(shape), 1, channel_axis=1 if len(shape) == 2 else -1)


def test_running_statistics_are_two_arrays():
    both = np.ones(2)
    with pytest.raises(ValueError, match=r"^running_var overlaps running_mean"):
        fastnorm.batch_norm(np.arange(8.0).reshape(4, 2), running_mean=both, running_var=both)
    assert (both == 1).all()


@pytest.mark.parametrize(
    "wrong", [np.ones((4, 6, 5)), [np.ones((3, 3))], np.ma.ones((2, 9))], ids=lambda a: str(type(a))
)
def test_a_whole_array_in_place_of_a_number_is_told_in_one_sentence(wrong):
    x = np.ones((2, 3, 4), np.float32)
    calls = [
        lambda: fastnorm.normalize(x, eps=wrong),
        lambda: fastnorm.normalize(x, axis=wrong),
        lambda: fastnorm.moments(x, correction=wrong),
        lambda: fastnorm.batch_norm(x, channel_axis=wrong),
        lambda: fastnorm.group_norm(x, wrong),
        lambda: fastnorm.set_num_threads(wrong),
        lambda: fastnorm.num_threads(wrong),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError)) as raised:
            call()
        assert len(str(raised.value)) < 160
        assert "\n" not in str(raised.value)
