"""Learning curves: bits per character against the steps of training, for one run or several."""

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
        Steps done and bits per character.
    """

    label: str
    train: list
    held_out: list

    @classmethod
    def of(cls, label, metrics):
        """The curve in the lines of metrics of a run."""
        train = [(line["step"], line["train_bpc"]) for line in metrics if "train_bpc" in line]
        held_out = [(line["step"], line["held_out_bpc"]) for line in metrics if "held_out_bpc" in line]
        return cls(label, train, held_out)


def runs_shown(path):
    """The folders of the runs that the PNG at `path` says it shows; None when it does not say."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return json.loads(image.text[SHOWN])
    except (OSError, AttributeError, KeyError, ValueError):
        return None


def draw(path, curves, title, runs):
    """Write a PNG with the training and the held-out bits per character of all `curves`.

    Parameters
    ----------
    path : Path
    curves : list of Curve
    title : str
    runs : list of str
        The folders of the runs, which the picture remembers.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=120, layout="constrained")
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        if curve.train:
            axes.plot(
                *zip(*curve.train, strict=True),
                color=colour,
                alpha=0.45,
                linewidth=1,
                label=f"{curve.label}: training",
            )
        if curve.held_out:
            step, bits = curve.held_out[-1]
            axes.plot(
                *zip(*curve.held_out, strict=True),
                color=colour,
                linewidth=1.8,
                marker="o",
                markersize=4,
                label=f"{curve.label}: held out, {bits:.3f} at step {step:,}",
            )
    # The first steps, where every curve falls from log2 of the vocabulary, would flatten all that follows.
    after = [
        bits
        for curve in curves
        for points in (curve.train, curve.held_out)
        for step, bits in points
        if step * 20 >= points[-1][0]
    ]
    if after:
        room = 0.05 * (max(after) - min(after)) or 0.1
        axes.set_ylim(min(after) - room, max(after) + room)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("steps of training")
    axes.set_ylabel("bits per character (lower is better)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
    shown = {SHOWN: json.dumps(runs)}
    try:
        write_atomically(path, lambda file: figure.savefig(file, format="png", metadata=shown))
    finally:
        pyplot.close(figure)
