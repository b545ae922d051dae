"""Which axes each layout reduces, and along which ones its parameters lie.

Shapes: N batch, C channels, G groups, S spatial axes (any number, anywhere). Every family makes, from the
number of dimensions and the axis argument, what the kernels need to know of a layout before they see arrays.
"""

from functools import lru_cache

from . import _checks as checks
from ._norm import Family, Layout


def _family(name, grouped=False):
    """A Family, with a cache, of a function of ndim and the axis argument `name`; 1.0 is not taken for 1."""

    def decorate(function):
        cache = lru_cache(maxsize=1024)(function)

        def make(ndim, axis, *groups):
            groups = [checks.to_int(n, "num_groups") for n in groups]
            return cache(ndim, checks.to_axis(axis, name), *groups)

        return Family(make, grouped)

    return decorate


def _axis(axis, ndim, name="axis"):
    index = checks.to_int(axis, name)
    if not -ndim <= index < ndim:
        raise ValueError(f"{name} is {axis}, needs -{ndim} to {ndim - 1} for x with {ndim} dimensions")
    return index % ndim


def _axes(axis, ndim):
    """An int or a tuple of ints as distinct non-negative axes, in the given order."""
    if not isinstance(axis, tuple):
        axis = (axis,)
    if not axis:
        raise ValueError("axis is an empty tuple, needs at least one axis")
    if ndim == 0:
        raise ValueError(f"axis is {axis}, but x has no dimensions, needs at least one")
    axes = tuple(_axis(a, ndim) for a in axis)
    if len(set(axes)) < len(axes):
        raise ValueError(
            f"axis is {axis}, which repeats an axis of x with {ndim} dimensions; needs distinct ones"
        )
    return axes


def _channel(channel_axis, ndim, least, name):
    if ndim < least:
        raise ValueError(f"x has {ndim} dimensions, {name} needs {least} or more")
    axis = _axis(channel_axis, ndim, "channel_axis")
    if axis == 0:
        raise ValueError(f"channel_axis is {channel_axis}, which is the batch axis 0; needs another axis")
    return axis


@_family("axis")
def over_axes(ndim, axis):
    """Statistics over `axis`; parameters broadcast against x."""
    return Layout(ndim, _axes(axis, ndim))


@Family
def over_any(ndim, axis):
    """The same, or with None over everything."""
    return Layout(ndim, range(ndim)) if axis is None else over_axes(ndim, axis)


@_family("axis")
def layer(ndim, axis):
    """Layer and RMS norm: statistics over `axis`, parameters along these same axes in their order."""
    axes = _axes(axis, ndim)
    return Layout(ndim, axes, axes)


@_family("axis")
def weight(ndim, axis):
    """Weight norm: one norm for each index of `axis`, over all other axes; g along `axis`."""
    axes = _axes(axis, ndim)
    return Layout(ndim, (a for a in range(ndim) if a not in axes), axes)


@_family("channel_axis")
def batch(ndim, channel_axis):
    """Batch norm: statistics over N and S, one per channel; parameters and statistics (C,)."""
    channel = _channel(channel_axis, ndim, 2, "batch_norm")
    return Layout(ndim, (a for a in range(ndim) if a != channel), (channel,), keepdims=False)


@_family("channel_axis")
def instance(ndim, channel_axis):
    """Instance norm: statistics over S, one per sample and channel; statistics (N, C), parameters (C,)."""
    channel = _channel(channel_axis, ndim, 3, "instance_norm")
    return Layout(ndim, (a for a in range(1, ndim) if a != channel), (channel,), keepdims=False)


@_family("channel_axis", grouped=True)
def group(ndim, channel_axis, num_groups):
    """Group norm: channels split into (G, C / G); statistics over C / G and S: (N, G); parameters (C,)."""
    channel = _channel(channel_axis, ndim, 2, "group_norm")
    reduced = (a for a in range(1, ndim + 1) if a != channel)  # `channel` is G now, `channel` + 1 is C / G
    return Layout(ndim, reduced, (channel,), keepdims=False, split_axis=channel, groups=num_groups)
