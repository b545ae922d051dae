"""The command `fastnorm`: train, sample, compare, info."""

import contextlib
import dataclasses
import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path

import fastnorm

from .compare import compare, norm_name
from .errors import UserError
from .options import parser
from .plot import runs_shown
from .runs import RunFolder, Settings
from .tasks import DEFAULTS, LEARNING_RATES, OF_TEXT, TASKS
from .train import Diverged, fit, limited_threads, load_model, resume, start


def main(argv=None):
    """Run the command line; returns the exit code.

    0: done. 1: training diverged, or the output was closed. 2: something that was given cannot be used.
    128 + n: stopped by signal n (130 for Ctrl-C).
    """
    args = parser(train=_train, sample=_sample, compare=_compare, info=_info).parse_args(argv)
    try:
        return args.run(args)
    except UserError as error:
        return _complain(error, 2)
    except Diverged as error:
        return _complain(error, 1)
    except MemoryError:
        return _complain("there is not enough memory for a net of this size", 2)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except BrokenPipeError:
        # Whoever read the output has gone; nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else error, 2)


def _complain(message, code):
    print(f"fastnorm: {message}", file=sys.stderr)
    return code


def _require(command, *modules):
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(
            f"{command} needs {' and '.join(missing)}, not installed here: pip install {' '.join(missing)}"
        )


# train


def _train(args):
    _require("fastnorm train", "matplotlib", "threadpoolctl", "tqdm")
    with contextlib.ExitStack() as locks:
        return _run(*(_new(args, locks) if args.resume is None else _resumed(args, locks)))


def _run(summary, jobs):
    run = jobs[0][0]
    print(summary)
    print(f"run folder: {run.path}", flush=True)
    with _Interrupt() as interrupt:
        finished = all(_fit(run, trainer, interrupt) for run, trainer in jobs)
    if not finished:
        print(f"stopped and saved; go on with: fastnorm train --resume {run.path}", flush=True)
    print(compare([job.path for job, _ in jobs], run.picture_path))
    print(f"picture: {run.picture_path}")
    if not finished:
        return 128 + interrupt.signal
    if run.settings().task == "text":
        print(f"text: fastnorm sample {run.path}")
    return 0


def _new(args, locks):
    task = TASKS[args.task or "text"]
    given = {name: value for name in DEFAULTS if (value := getattr(args, name)) is not None}
    for name in OF_TEXT:
        if name in given and task.name != "text":
            raise UserError(f"--{name.replace('_', '-')} belongs to text, and --task is {task.name}")
    source = task.read(args.files)
    values = task.defaults | given
    settings = Settings(
        **values,
        task=task.name,
        norm=None if args.norm == "none" else args.norm or "layer",
        lr=args.lr or LEARNING_RATES[values["optimizer"]],
        compare=args.norm is None,
        files=tuple(str(Path(file).resolve()) for file in args.files),
        fingerprint=task.fingerprint(source),
        vocabulary=task.vocabulary(source),
        version=fastnorm.__version__,
    )
    path = _next_folder(Path("runs")) if args.out is None else Path(args.out)
    jobs = [start(path, settings, source)]
    if settings.compare:
        jobs.append(start(path / "plain", _plain(settings), source))
    for run, _ in jobs:
        locks.enter_context(run.locked())
    return task.summary(settings, source), jobs


def _plain(settings):
    return dataclasses.replace(settings, norm=None, compare=False)


def _next_folder(parent):
    numbers = (
        [int(each.name) for each in parent.iterdir() if each.name.isdecimal()] if parent.is_dir() else []
    )
    return parent / str(max(numbers, default=0) + 1)


def _resumed(args, locks):
    run = RunFolder.open(args.resume)
    locks.enter_context(run.locked())
    settings = run.settings()
    for name in (*DEFAULTS, "lr", "task"):
        given, stored = getattr(args, name), getattr(settings, name)
        longer = name == "steps" and settings.schedule == "constant"
        if given is not None and given != stored and not longer:
            raise UserError(
                f"{args.resume} was started with {name} = {stored}, and cannot go on with {given}"
            )
    if args.norm is not None and (settings.compare or args.norm != (settings.norm or "none")):
        started = "both norms" if settings.compare else f"norm = {settings.norm or 'none'}"
        raise UserError(f"{args.resume} was started with {started}, and cannot go on with {args.norm} alone")
    task = TASKS[settings.task]
    source = task.read(args.files or settings.files)
    jobs = [resume(args.resume, source, args.steps)]
    if settings.compare:
        plain = Path(args.resume) / "plain"
        # The plain folder is missing only if the run was killed in the moment before it was made.
        if plain.exists():
            locks.enter_context(RunFolder.open(plain).locked())
            jobs.append(resume(plain, source, args.steps))
        else:
            jobs.append(start(plain, _plain(settings), source))
            locks.enter_context(jobs[-1][0].locked())
    return task.summary(settings, source), jobs


def _fit(run, trainer, interrupt):
    from tqdm import tqdm

    settings = run.settings()
    task = TASKS[settings.task]
    per_step = task.items_per_step(settings)
    begun = trainer.steps, trainer.seconds
    shown = {}
    bar = tqdm(
        total=settings.steps,
        initial=trainer.steps,
        desc=norm_name(settings).ljust(10),
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
    )

    def report(loss, measured):
        # A running average over about ten steps: single batches differ too much to read.
        shown["loss"] = 0.9 * shown.get("loss", loss) + 0.1 * loss
        if measured is not None:
            shown["held out"] = f", held out {task.scale * measured.loss:.3f}"
            if task.name != "text":
                shown["held out"] += f" ({measured.accuracy:.2%} right)"
        speed = (trainer.steps - begun[0]) * per_step / (trainer.seconds - begun[1])
        bar.set_postfix_str(
            f"{shown['loss']:.3f} {task.unit}{shown.get('held out', '')}, {speed:,.0f} {task.item}/s",
            refresh=False,
        )
        bar.update()

    with bar:
        return fit(run, trainer, stop=lambda: interrupt.signal is not None, report=report)


class _Interrupt:
    """While entered, the first Ctrl-C or SIGTERM is only noted; a second one acts as usual."""

    def __init__(self):
        self.signal = None

    def __enter__(self):
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        self.signal = number
        self.__exit__()


# The other commands


def _sample(args):
    run = RunFolder.open(args.folder)
    model, vocabulary = load_model(run)
    if args.prompt:
        prompt = args.prompt
        begin = vocabulary.encode(prompt)
    else:
        prompt, begin = (
            "",
            vocabulary.encode("\n" if "\n" in vocabulary.characters else vocabulary.characters[0]),
        )
    sys.stdout.reconfigure(errors="replace")
    sys.stdout.write(prompt)
    with limited_threads(run.settings().threads):
        for symbol in model.sample(begin, args.length, temperature=args.temperature, rng=args.seed):
            sys.stdout.write(vocabulary.decode([symbol]))
            sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def _compare(args):
    _require("fastnorm compare", "matplotlib")
    picture = Path(args.out)
    if picture.suffix.lower() != ".png":
        raise UserError(f"--out is {args.out}, and needs to end in .png")
    if picture.exists() and not picture.read_bytes().startswith(b"\x89PNG"):
        raise UserError(f"{picture} exists and is not a picture; it is left as it is")
    if picture.exists() and runs_shown(picture) != [str(Path(each).resolve()) for each in args.folders]:
        raise UserError(f"{picture} shows other runs; choose another name with --out, or remove it")
    print(compare(args.folders, picture))
    print(f"picture: {picture}")
    return 0


def _info(args):
    fastnorm.show_config()
    return 0
