"""What a call remembers of the last one changes nothing, and nothing is held or lost by repeating it."""

import sys
import weakref

import numpy as np
import pytest
from layouts import LAYOUTS
from strategies import values
from tolerances import FLOAT32, assert_close

import fastnorm
from fastnorm import reference


def test_another_axis_of_the_same_shape(rng):
    x = values(rng, (4, 4, 4), FLOAT32)
    for axis in (-1, 0, -1, (0, 1), 1, (1, 0), (0, 1), np.int64(2), 0):
        assert_close(fastnorm.layer_norm(x, axis=axis), reference.layer_norm(x, axis=axis), "y")


def test_another_number_of_dimensions(rng):
    for ndim in (1, 9, 1, 2, 10, 2):  # these share a place in what is remembered
        x = values(rng, (2,) * (ndim - 1) + (3,), FLOAT32)
        assert_close(fastnorm.rms_norm(x), reference.rms_norm(x), "y")


def test_another_number_of_groups(rng):
    x = values(rng, (3, 8, 5), FLOAT32)
    for groups in (2, 4, 2, np.int64(8), 1):
        assert_close(fastnorm.group_norm(x, groups), reference.group_norm(x, groups), "y")
    with pytest.raises(ValueError, match=r"^num_groups is 2, needs a positive divisor of the 7 channels"):
        fastnorm.group_norm(x.reshape(3, 5, 8)[:, :, :7].transpose(0, 2, 1), 2)


def test_a_good_axis_does_not_let_its_equals_pass():
    x = np.ones((3, 4))
    fastnorm.layer_norm(x, axis=1)
    for equal in (True, 1.0):
        with pytest.raises(TypeError, match=r"^axis is"):
            fastnorm.layer_norm(x, axis=equal)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_no_reference_is_lost_or_kept(layout, rng):
    x, dy = values(rng, layout.shape, FLOAT32), values(rng, layout.shape, FLOAT32)
    weight = values(rng, layout.param_shape(), FLOAT32)
    y, stats = layout.forward(fastnorm, x, weight, return_stats=True)
    held = [x, dy, weight, y, stats, stats.rstd, type(stats), type(y)]

    def repeat():
        for _ in range(20):
            layout.forward(fastnorm, x, weight, out=y, return_stats=True)
            layout.backward(fastnorm, dy, x, stats, weight)
            fastnorm.moments(x, -1)

    repeat()
    before = [sys.getrefcount(a) for a in held]
    repeat()
    assert [sys.getrefcount(a) for a in held] == before


def test_results_are_named_tuples(rng):
    x = values(rng, (4, 6), FLOAT32)
    _, stats = fastnorm.layer_norm(x, return_stats=True)
    assert type(stats) is fastnorm.Stats
    assert type(fastnorm.moments(x, -1)) is fastnorm.Moments
    assert fastnorm.layer_norm_backward(x, x, stats)._fields == ("dx", "dweight", "dbias")


def test_results_die_with_their_last_name(rng):
    x = values(rng, (4, 6), FLOAT32)
    y, stats = fastnorm.layer_norm(x, return_stats=True)
    grads = fastnorm.layer_norm_backward(x, x, stats, x[0].copy())
    alive = [weakref.ref(a) for a in (y, *stats, *grads, *fastnorm.moments(x, -1))]
    assert all(ref() is not None for ref in alive[:-2])
    del y, stats, grads
    assert all(ref() is None for ref in alive)
