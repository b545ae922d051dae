"""Gradients by random projection: one finite difference along a random direction for each array."""


def assert_gradients(value, arrays, gradients, rng, step=1e-6, tolerance=1e-7):
    """Hold analytic gradients to central differences.

    Parameters
    ----------
    value : callable
        ``value() -> float``, a function of the contents of `arrays`.
    arrays, gradients : dict of str to ndarray
        float64, changed in place and put back; what the backward says for each.
    """
    assert arrays.keys() == gradients.keys()
    for name, array in arrays.items():
        assert gradients[name].shape == array.shape, name
        direction = rng.standard_normal(array.shape)
        kept = array.copy()
        array[...] = kept + step * direction
        above = value()
        array[...] = kept - step * direction
        below = value()
        array[...] = kept
        slope = (above - below) / (2 * step)
        projected = float((gradients[name] * direction).sum())
        assert abs(slope - projected) <= tolerance * max(1, abs(slope)), (
            f"{name}: {projected} against {slope}"
        )
