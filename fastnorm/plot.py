"""Learning curves: loss and accuracy against the steps of training, for one run or several."""

import dataclasses
import json

from .checkpoint import write_atomically

# Told apart by everyone, in print too; the first two are the normalized and the plain run.
COLOURS = ("#0b62a4", "#d1600a", "#2a8a4a", "#8b3fa0", "#6b6b6b")

SHOWN = "fastnorm runs"  # the PNG's text that holds the folders, as JSON


@dataclasses.dataclass(frozen=True)
class Curve:
    """What one run measured.

    Attributes
    ----------
    label : str
    train, held_out : list of (int, float)
        Steps done and loss.
    accuracy : list of (int, float)
        Steps done and the share that is right, held out; empty where there are no classes.
    """

    label: str
    train: list
    held_out: list
    accuracy: list

    @classmethod
    def of(cls, label, metrics, key):
        """The curve in the lines of metrics of a run, whose loss is called `key` there."""
        names = f"train_{key}", f"held_out_{key}", "held_out_accuracy"
        return cls(
            label, *([(line["step"], line[name]) for line in metrics if name in line] for name in names)
        )


def runs_shown(path):
    """The folders of the runs that the PNG at `path` says it shows; None when it does not say."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return json.loads(image.text[SHOWN])
    except (OSError, AttributeError, KeyError, ValueError):
        return None


def draw(path, curves, title, runs, unit):
    """Write a PNG with the training and the held-out loss of all `curves`, and accuracies beside them.

    Parameters
    ----------
    path : Path
    curves : list of Curve
    title : str
    runs : list of str
        The folders of the runs, which the picture remembers.
    unit : str
        What the loss is, for its axis.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = 1 + any(curve.accuracy for curve in curves)
    figure, axes = pyplot.subplots(
        1, panels, figsize=(8 if panels == 1 else 12, 5), dpi=120, layout="constrained", squeeze=False
    )
    _losses(axes[0, 0], curves, unit)
    if panels == 2:
        _accuracies(axes[0, 1], curves)
    figure.suptitle(title, fontsize=10)
    try:
        shown = {SHOWN: json.dumps(runs)}
        write_atomically(path, lambda file: figure.savefig(file, format="png", metadata=shown))
    finally:
        pyplot.close(figure)


def _losses(axes, curves, unit):
    for number, curve in enumerate(curves):
        if curve.train:
            label = f"{curve.label}: training"
            _line(axes, number, curve.train, label, alpha=0.45, linewidth=1)
        if curve.held_out:
            step, loss = curve.held_out[-1]
            label = f"{curve.label}: held out, {loss:.3f} at step {step:,}"
            _line(axes, number, curve.held_out, label, linewidth=1.8, marker="o", markersize=4)
    # The first steps, from which every curve falls, would flatten all that follows.
    after = [
        loss
        for curve in curves
        for points in (curve.train, curve.held_out)
        for step, loss in points
        if step * 20 >= points[-1][0]
    ]
    if after:
        room = 0.05 * (max(after) - min(after)) or 0.1
        axes.set_ylim(min(after) - room, max(after) + room)
    _finish(axes, unit)


def _accuracies(axes, curves):
    for number, curve in enumerate(curves):
        if curve.accuracy:
            step, share = curve.accuracy[-1]
            label = f"{curve.label}: held out, {share:.2%} at step {step:,}"
            _line(axes, number, curve.accuracy, label, linewidth=1.8, marker="o", markersize=4)
    _finish(axes, "share that is right (higher is better)")


def _line(axes, number, points, label, **options):
    colour = COLOURS[number % len(COLOURS)]
    axes.plot(*zip(*points, strict=True), color=colour, label=label, **options)


def _finish(axes, unit):
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("steps of training")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
