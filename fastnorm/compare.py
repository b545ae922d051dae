"""Runs side by side: a table of figures at equal steps, and their curves."""

from .errors import UserError
from .plot import Curve, draw
from .runs import RunFolder
from .tasks import TASKS

# Settings that say where a run came from, not what it computed.
INCIDENTAL = ("compare", "files", "norm", "vocabulary", "version", "log_every", "evaluate_every", "threads")


def compare(paths, picture, title=None):
    """Draw the curves of the runs at `paths` into the PNG `picture`.

    Returns
    -------
    str
        A table of the runs, the difference between the first two at equal steps, and what else differs.

    Raises
    ------
    UserError
        When a path is not a run folder, or the runs are of different tasks.
    """
    runs = [RunFolder.open(path) for path in paths]
    settings = [run.settings() for run in runs]
    for run, each in zip(runs, settings, strict=True):
        if each.task != settings[0].task:
            raise UserError(
                f"{runs[0].path} was trained on {settings[0].task} and {run.path} on {each.task}; "
                f"only runs of one task can be compared"
            )
    task = TASKS[settings[0].task]
    metrics = [run.metrics() for run in runs]
    names = [norm_name(each) for each in settings]
    if len(set(names)) < len(names):
        names = [f"{name} ({run.path})" for name, run in zip(names, runs, strict=True)]
    curves = [Curve.of(*each, task.key) for each in zip(names, metrics, strict=True)]
    shown = [str(run.path.resolve()) for run in runs]
    draw(picture, curves, title or describe(settings[0]), shown, task.curve)
    lines = [_table(task, runs, settings, curves, metrics)]
    if len(runs) > 1:
        lines += _difference(runs, curves)
        lines += _other_settings(settings)
    return "\n".join(lines)


def norm_name(settings):
    """What a run is called: its norm, or plain."""
    return f"{settings.norm} norm" if settings.norm else "plain"


def describe(settings):
    """One line on what was trained, for the head of a picture."""
    task = TASKS[settings.task]
    layers = f"{settings.layers} x " if settings.layers > 1 else ""
    at_once = f"{settings.batch} x {settings.length} characters" if settings.length else f"{settings.batch}"
    return (
        f"{settings.cell.upper()} on {task.title(settings)}: "
        f"{layers}{settings.hidden} units, {at_once} a step, {settings.optimizer} {settings.lr:g}, "
        f"seed {settings.seed}"
    )


def _table(task, runs, settings, curves, metrics):
    accuracy = any(curve.accuracy for curve in curves)
    rows = [
        (
            "run",
            "norm",
            "step",
            "training",
            "held out",
            *["accuracy"] * accuracy,
            f"{task.items}/s",
            "seconds",
        )
    ]
    for run, each, curve, lines in zip(runs, settings, curves, metrics, strict=True):
        step = lines[-1]["step"] if lines else 0
        seconds = lines[-1].get("seconds", 0) if lines else 0
        rows.append(
            (
                str(run.path),
                each.norm or "none",
                f"{step:,}",
                _last(curve.train),
                _last(curve.held_out),
                *[f"{curve.accuracy[-1][1]:.2%}" if curve.accuracy else "-"] * accuracy,
                f"{step * task.items_per_step(each) / seconds:,.0f}" if seconds else "-",
                f"{seconds:.1f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    unit = "bits per character" if task.key == "bpc" else "cross-entropy in nats"
    return "\n".join(line.rstrip() for line in [*lines, f"(training and held out: {unit})"])


def _last(points):
    return f"{points[-1][1]:.3f}" if points else "-"


def _difference(runs, curves):
    first, second = (dict(curve.held_out) for curve in curves[:2])
    common = first.keys() & second.keys()
    if not common:
        return ["They have no step in common at which the held-out part was measured."]
    step = max(common)
    a, b = first[step], second[step]
    if a == b:
        return [f"At step {step:,} they are equal: {a:.3f}."]
    lower = runs[0] if a < b else runs[1]
    return [
        f"At step {step:,}, held out, {lower.path} is lower by {abs(a - b):.3f}: "
        f"{min(a, b):.3f} against {max(a, b):.3f}."
    ]


def _other_settings(settings):
    first, second = (each.to_json() for each in settings[:2])
    odd = [
        "text" if name == "fingerprint" else f"{name} ({first[name]} and {second[name]})"
        for name in first
        if first[name] != second[name] and name not in INCIDENTAL
    ]
    return [f"Besides the norm they differ in: {', '.join(odd)}."] if odd else []
