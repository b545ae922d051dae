"""The command `fastnorm`: train, sample, compare, info."""

import argparse
import contextlib
import dataclasses
import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np

import fastnorm

from . import data
from .compare import compare, norm_name
from .errors import UserError
from .plot import runs_shown
from .runs import RunFolder, Settings
from .train import Diverged, fit, limited_threads, load_model, resume, start

DEFAULTS = {
    "steps": 800,
    "batch": 32,
    "length": 64,
    "hidden": 192,
    "embed": 64,
    "optimizer": "adam",
    "schedule": "linear",
    "momentum": 0.9,
    "clip": 1.0,
    "seed": 0,
    "held_out": 0.05,
    "log_every": 10,
    "evaluate_every": 100,
    # Threads that meet at each of a step's many small products spend their time waiting on a busy machine.
    "threads": 1,
}
LEARNING_RATES = {"adam": 0.01, "sgd": 1.0}


def main(argv=None):
    """Run the command line; returns the exit code.

    0: done. 1: training diverged, or the output was closed. 2: something that was given cannot be used.
    128 + n: stopped by signal n (130 for Ctrl-C).
    """
    args = _parser().parse_args(argv)
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


# The options


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help lists what there is)\n")


def _parser():
    parser = _Parser(
        prog="fastnorm",
        description="Normalization kernels, and a trainer for recurrent nets on text.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fastnorm {fastnorm.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    train = commands.add_parser(
        "train",
        help="train a character model",
        allow_abbrev=False,
        description="Train a character model on text files, or on the novel in the package. Without --norm "
        "it is trained twice, with layer normalization and without any, and the picture compares the two.",
    )
    train.set_defaults(run=_train)
    train.add_argument(
        "files", nargs="*", metavar="FILE", help="UTF-8 text; several are read one after the other"
    )
    where = train.add_mutually_exclusive_group()
    where.add_argument(
        "--out", metavar="RUN", help="the run folder to make (default: the next of runs/1, runs/2, ...)"
    )
    where.add_argument("--resume", metavar="RUN", help="go on with the run in this folder, with its settings")
    train.add_argument("--norm", choices=("layer", "none"), help="train only this one (default: both)")
    whole, above = _number(int, 1), _number(float, 0, above=True)
    size = _number(int, 1, below=10**6)
    for name, kind, help in (
        ("steps", whole, "updates of the parameters"),
        ("batch", whole, "places in the text that are read side by side"),
        ("length", whole, "characters that a step reads at each place"),
        ("hidden", size, "units of the LSTM"),
        ("embed", size, "features of a character"),
        ("optimizer", ("adam", "sgd"), None),
        ("lr", above, "learning rate (default: {adam} for adam, {sgd} for sgd)".format(**LEARNING_RATES)),
        ("schedule", ("linear", "constant"), "the learning rate over the steps: falling to 0, or constant"),
        ("momentum", _number(float, 0, below=1), "of sgd"),
        ("clip", above, "the largest global norm of the gradient"),
        ("seed", _number(int, 0), "of the start and of the pieces that the text is cut into"),
        (
            "held-out",
            _number(float, 0, above=True, below=1),
            "the share of the text, at its end, that is not trained on",
        ),
        ("log-every", whole, "steps between two lines of metrics"),
        ("evaluate-every", whole, "steps between two looks at the held-out part, each with a checkpoint"),
        ("threads", whole, "for BLAS and the norms; more than one pays from about 512 units"),
    ):
        default = DEFAULTS.get(name.replace("-", "_"))
        help = f"{help or ''} (default: {default})" if default is not None else help
        if isinstance(kind, tuple):
            train.add_argument(f"--{name}", choices=kind, help=help)
        else:
            train.add_argument(f"--{name}", type=kind, metavar="N", help=help)

    sample = commands.add_parser("sample", help="write text with a trained model", allow_abbrev=False)
    sample.set_defaults(run=_sample)
    sample.add_argument("folder", metavar="RUN")
    sample.add_argument("--prompt", help="what the text begins with")
    sample.add_argument(
        "--length", type=_number(int, 1), default=500, metavar="N", help="characters (default: 500)"
    )
    sample.add_argument(
        "--temperature",
        type=_number(float, 0),
        default=0.8,
        metavar="N",
        help="below 1 more likely text, above 1 wilder, 0 always the likeliest (default: 0.8)",
    )
    sample.add_argument("--seed", type=_number(int, 0), default=0, metavar="N", help="(default: 0)")

    both = commands.add_parser(
        "compare", help="draw the curves of runs and print a table", allow_abbrev=False
    )
    both.set_defaults(run=_compare)
    both.add_argument("folders", nargs="+", metavar="RUN")
    both.add_argument(
        "--out", metavar="PNG", default="compare.png", help="the picture (default: compare.png)"
    )

    info = commands.add_parser(
        "info", help="print the build, the processor tier and the threads", allow_abbrev=False
    )
    info.set_defaults(run=_info)
    return parser


def _number(kind, least, *, above=False, below=np.inf):
    needed = f"a {'whole ' * (kind is int)}number {'above' if above else 'of at least'} {least}"
    needed += f" and below {below}" * (below < np.inf)

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = np.nan
        if not (least < value < below if above else least <= value < below):
            raise argparse.ArgumentTypeError(f"{text!r} is not {needed}")
        return value

    return parse


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
        return _run(_new(args, locks) if args.resume is None else _resumed(args, locks))


def _run(jobs):
    run, trainer = jobs[0]
    training, held_out = len(trainer.streams.symbols), int(trainer.evaluation[2].sum()) + 1
    print(
        f"{training + held_out:,} characters, {len(trainer.settings.vocabulary)} different; "
        f"the last {held_out:,} are held out"
    )
    print(f"run folder: {run.path}", flush=True)
    with _Interrupt() as interrupt:
        finished = all(_fit(run, trainer, interrupt) for run, trainer in jobs)
    if not finished:
        print(f"stopped and saved; go on with: fastnorm train --resume {run.path}", flush=True)
    print(compare([job.path for job, _ in jobs], run.picture_path))
    print(f"picture: {run.picture_path}")
    if not finished:
        return 128 + interrupt.signal
    print(f"text: fastnorm sample {run.path}")
    return 0


def _new(args, locks):
    text = data.read_text(args.files)
    given = {name: value for name in DEFAULTS if (value := getattr(args, name)) is not None}
    values = DEFAULTS | given
    settings = Settings(
        **values,
        norm=None if args.norm == "none" else "layer",
        lr=args.lr or LEARNING_RATES[values["optimizer"]],
        compare=args.norm is None,
        files=tuple(str(Path(file).resolve()) for file in args.files),
        fingerprint=data.fingerprint(text),
        vocabulary=data.Vocabulary.of(text).characters,
        version=fastnorm.__version__,
    )
    path = _next_folder(Path("runs")) if args.out is None else Path(args.out)
    jobs = [start(path, settings, text)]
    if settings.compare:
        jobs.append(start(path / "plain", _plain(settings), text))
    for run, _ in jobs:
        locks.enter_context(run.locked())
    return jobs


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
    for name in (*DEFAULTS, "lr"):
        given, stored = getattr(args, name), getattr(settings, name)
        longer = name == "steps" and settings.schedule == "constant"
        if given is not None and given != stored and not longer:
            raise UserError(
                f"{args.resume} was started with {name} = {stored}, and cannot go on with {given}"
            )
    if args.norm is not None and (settings.compare or args.norm != (settings.norm or "none")):
        started = "both norms" if settings.compare else f"norm = {settings.norm or 'none'}"
        raise UserError(f"{args.resume} was started with {started}, and cannot go on with {args.norm} alone")
    text = data.read_text(args.files or settings.files)
    jobs = [resume(args.resume, text, args.steps)]
    if settings.compare:
        plain = Path(args.resume) / "plain"
        # The plain folder is missing only if the run was killed in the moment before it was made.
        if plain.exists():
            locks.enter_context(RunFolder.open(plain).locked())
            jobs.append(resume(plain, text, args.steps))
        else:
            jobs.append(start(plain, _plain(settings), text))
            locks.enter_context(jobs[-1][0].locked())
    return jobs


def _fit(run, trainer, interrupt):
    from tqdm import tqdm

    settings = trainer.settings
    per_step = settings.batch * settings.length
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

    def report(bits, held_out):
        # A running average over about ten steps: single pieces of text differ too much to read.
        shown["bits"] = 0.9 * shown.get("bits", bits) + 0.1 * bits
        if held_out is not None:
            shown["held out"] = f", held out {held_out:.3f}"
        speed = (trainer.steps - begun[0]) * per_step / (trainer.seconds - begun[1])
        bar.set_postfix_str(
            f"loss {shown['bits'] * np.log(2):.3f}, {shown['bits']:.3f} bits/char"
            f"{shown.get('held out', '')}, {speed:,.0f} char/s",
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
