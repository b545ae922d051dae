"""The layouts of the package as one table, so that a test can be written once for all of them."""

from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True)
class Layout:
    """A public function, its options, and a shape of x to try it on."""

    name: str
    function: str
    shape: tuple
    reduced: tuple  # the axes of x (of its grouped shape, for group norm) that the statistics run over
    params: tuple  # the axes of x that weight and bias have
    options: dict = field(default_factory=dict)

    def __str__(self):
        return self.name

    @property
    def has_bias(self):
        return self.function != "rms_norm"

    def of_shape(self, shape):
        return replace(self, shape=tuple(shape))

    def param_shape(self):
        return tuple(self.shape[a] for a in self.params)

    def forward(self, module, x, weight=None, bias=None, **more):
        params = (weight, bias) if self.has_bias else (weight,)
        return getattr(module, self.function)(x, weight=params[0], **self._bias(bias), **self.options, **more)

    def backward(self, module, dy, x, stats, weight=None, **more):
        return getattr(module, f"{self.function}_backward")(
            dy, x, stats, weight=weight, **self.options, **more
        )

    def _bias(self, bias):
        return {"bias": bias} if self.has_bias else {}

    def sliced_shape(self):
        """x's shape with the channels split in (G, C / G), for group norm."""
        if self.function != "group_norm":
            return self.shape
        c, groups = self.options["channel_axis"] % len(self.shape), self.options["num_groups"]
        return (*self.shape[:c], groups, self.shape[c] // groups, *self.shape[c + 1 :])

    def stats_shape(self):
        """The shape in which the layout returns its statistics."""
        shape = self.sliced_shape()
        if self.function in ("layer_norm", "rms_norm"):
            return tuple(1 if i in self.reduced else n for i, n in enumerate(shape))
        return tuple(n for i, n in enumerate(shape) if i not in self.reduced)

    def largest(self, a):
        """The largest |a| of every slice, in a's shape."""
        a = np.abs(np.asarray(a, np.float64)).reshape(self.sliced_shape())
        return np.broadcast_to(a.max(axis=self.reduced, keepdims=True), a.shape).reshape(self.shape)

    def per_slice(self, a):
        """The largest |a| of every slice, in the shape of the statistics."""
        a = np.abs(np.asarray(a, np.float64)).reshape(self.sliced_shape())
        return a.max(axis=self.reduced).reshape(self.stats_shape())

    def along(self, p):
        """`p`, an array like weight, in a shape that broadcasts against x."""
        p = np.asarray(p)
        return np.moveaxis(p.reshape(p.shape + (1,) * (len(self.shape) - p.ndim)), range(p.ndim), self.params)


LAYOUTS = [
    Layout("layer (B, H)", "layer_norm", (6, 37), (1,), (1,)),
    Layout("layer (T, B, H)", "layer_norm", (3, 5, 64), (2,), (2,)),
    Layout("layer, two axes", "layer_norm", (4, 5, 3, 7), (2, 3), (2, 3), {"axis": (2, 3)}),
    Layout("layer, axes reversed", "layer_norm", (5, 6, 7), (1, 2), (2, 1), {"axis": (-1, 1)}),
    Layout("layer, first axis", "layer_norm", (33, 4, 3), (0,), (0,), {"axis": 0}),
    Layout("layer, outer axes", "layer_norm", (5, 4, 9), (0, 2), (0, 2), {"axis": (0, 2)}),
    Layout("rms (B, H)", "rms_norm", (6, 37), (1,), (1,)),
    Layout("rms, first axis", "rms_norm", (19, 4, 3), (0,), (0,), {"axis": 0}),
    Layout("batch (N, C)", "batch_norm", (21, 10), (0,), (1,)),
    Layout("batch (N, C, S)", "batch_norm", (4, 6, 11), (0, 2), (1,), {"channel_axis": 1}),
    Layout("batch (N, C, H, W)", "batch_norm", (4, 3, 5, 6), (0, 2, 3), (1,), {"channel_axis": 1}),
    Layout("batch (N, H, W, C)", "batch_norm", (3, 4, 5, 9), (0, 1, 2), (3,), {"channel_axis": -1}),
    Layout("batch (N, H, C, W)", "batch_norm", (3, 4, 5, 6), (0, 1, 3), (2,), {"channel_axis": 2}),
    Layout("instance (N, C, S)", "instance_norm", (3, 5, 23), (2,), (1,)),
    Layout("instance (N, C, H, W)", "instance_norm", (3, 4, 5, 7), (2, 3), (1,), {"channel_axis": 1}),
    Layout("instance (N, H, W, C)", "instance_norm", (3, 4, 5, 7), (1, 2), (3,), {"channel_axis": -1}),
    Layout("group (N, C)", "group_norm", (5, 24), (2,), (1,), {"num_groups": 3, "channel_axis": 1}),
    Layout(
        "group (N, C, H, W)",
        "group_norm",
        (3, 8, 3, 5),
        (2, 3, 4),
        (1,),
        {"num_groups": 2, "channel_axis": 1},
    ),
    Layout(
        "group (N, C, H, W), few pixels",
        "group_norm",
        (9, 6, 2, 3),
        (2, 3, 4),
        (1,),
        {"num_groups": 2, "channel_axis": 1},
    ),
    Layout(
        "group (N, H, W, C)",
        "group_norm",
        (3, 4, 5, 8),
        (1, 2, 4),
        (3,),
        {"num_groups": 4, "channel_axis": -1},
    ),
]
