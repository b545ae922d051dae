"""The chart of a run: how many times faster than the fastest peer, for every layout."""

import textwrap
from pathlib import Path

from bench.report import Result, geometric_mean

DTYPE_COLOURS = {"float32": "#1f77b4", "float64": "#7f7f7f", "float16": "#ff7f0e", "bfloat16": "#2ca02c"}


def draw(results: list[Result], title: str, path: Path) -> None:
    """Write one dot for each case: layouts down, ratio across, a bar at each layout's geometric mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    layouts = list(dict.fromkeys(r.layout for r in results))
    directions = list(dict.fromkeys(r.direction for r in results))
    figure, axes = plt.subplots(
        1, len(directions), figsize=(11, 1.6 + 0.36 * len(layouts)), sharey=True, sharex=True, squeeze=False
    )
    for ax, direction in zip(axes[0], directions, strict=True):
        for row, layout in enumerate(layouts):
            chosen = [r for r in results if (r.layout, r.direction) == (layout, direction) and r.ratios]
            if not chosen:
                continue
            mean = geometric_mean(r.lead for r in chosen)
            ax.plot([mean, mean], [row - 0.35, row + 0.35], color="black", linewidth=2)
            for r in chosen:
                offset = (list(DTYPE_COLOURS).index(r.dtype) - 1.5) * 0.14
                ax.plot(r.lead, row + offset, ".", color=DTYPE_COLOURS[r.dtype], alpha=0.7, markersize=7)
        ax.axvline(1, color="crimson", linewidth=1)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator([2.0**k for k in range(-5, 8)]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}" if x >= 1 else f"1/{1 / x:g}"))
        ax.grid(axis="x", alpha=0.3)
        ax.set_title(direction)
        ax.set_xlabel("time of the fastest peer / time of fastnorm")
    axes[0][0].set_yticks(range(len(layouts)), layouts)
    axes[0][0].invert_yaxis()
    present = [d for d in DTYPE_COLOURS if any(r.dtype == d for r in results)]
    marks = [Line2D([], [], marker=".", linestyle="", color=DTYPE_COLOURS[d], label=d) for d in present]
    marks.append(Line2D([], [], color="black", linewidth=2, label="geometric mean"))
    figure.legend(handles=marks, loc="lower center", ncols=len(marks), frameon=False)
    figure.suptitle(textwrap.fill(title, 150), fontsize=8)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=130)
