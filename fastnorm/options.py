"""The options of the command `fastnorm`: what there is, its limits and its help."""

import argparse

import numpy as np

import fastnorm

from .schedules import SCHEDULES
from .tasks import CELLS, DEFAULTS, LEARNING_RATES, OPTIMIZERS, TASKS


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help lists what there is)\n")


def parser(**commands_run):
    """The parser; ``args.run`` is what `commands_run` has under the name of the command."""
    parser = _Parser(
        prog="fastnorm",
        description="Normalization kernels, and a trainer for recurrent nets on text and sequences.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fastnorm {fastnorm.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    train = commands.add_parser(
        "train",
        help="train a recurrent net",
        allow_abbrev=False,
        description="Train a recurrent net: on text files, or the novel in the package, or on sequences that "
        "other packages carry (--task). Without --norm it is trained twice, with layer normalization and "
        "without any, and the picture compares the two.",
    )
    train.set_defaults(run=commands_run["train"])
    train.add_argument(
        "files", nargs="*", metavar="FILE", help="UTF-8 text; several are read one after the other"
    )
    train.add_argument(
        "--task",
        choices=TASKS,
        help="text: the next character; vowels: the speaker, from sequences of 7 to 29 steps; rowmnist, "
        "pixelmnist: the digit, from 28 rows or 784 pixels (default: text)",
    )
    where = train.add_mutually_exclusive_group()
    where.add_argument(
        "--out", metavar="RUN", help="the run folder to make (default: the next of runs/1, runs/2, ...)"
    )
    where.add_argument("--resume", metavar="RUN", help="go on with the run in this folder, with its settings")
    train.add_argument(
        "--norm",
        choices=("layer", "rms", "batch", "weight", "none"),
        help="train only this one (default: layer and none; batch is not for text)",
    )
    whole, above = number(int, 1), number(float, 0, above=True)
    size = number(int, 1, below=10**6)
    rates = ", ".join(f"{rate} for {name}" for name, rate in LEARNING_RATES.items())
    for name, kind, help in (
        ("cell", tuple(CELLS), "the recurrent net"),
        ("layers", whole, "of the net, one on the other"),
        ("hidden", size, "units of each layer"),
        ("embed", size, "features of a character"),
        ("dropout", number(float, 0, below=1), "the share of the net's outputs dropped in training"),
        ("steps", whole, "updates of the parameters"),
        ("batch", whole, "places in the text, or sequences, that are read side by side"),
        ("length", whole, "characters that a step reads at each place"),
        ("optimizer", tuple(OPTIMIZERS), None),
        ("lr", above, f"learning rate (default: {rates})"),
        (
            "schedule",
            tuple(SCHEDULES),
            "the learning rate over the steps: falling to 0 (or 1 %%), or constant",
        ),
        ("warmup", number(int, 0), "steps in which the learning rate rises first"),
        ("momentum", number(float, 0, below=1), "of sgd"),
        ("weight-decay", number(float, 0), "of adamw"),
        ("clip", above, "the largest global norm of the gradient"),
        ("patience", whole, "stop after so many looks at the held-out part without a lower loss"),
        ("seed", number(int, 0), "of the start and of the order of the data"),
        (
            "held-out",
            number(float, 0, above=True, below=1),
            "the share of the text, at its end, that is not trained on",
        ),
        ("log-every", whole, "steps between two lines of metrics"),
        ("evaluate-every", whole, "steps between two looks at the held-out part, each with a checkpoint"),
        ("threads", whole, "for BLAS and the norms; more than one pays from about 512 units"),
    ):
        key = name.replace("-", "_")
        default = DEFAULTS.get(key)
        if default is not None:
            odd = [f"{t.defaults[key]} for {t.name}" for t in TASKS.values() if t.defaults[key] != default]
            odd = [each for each in odd if not each.startswith("None")]
            help = f"{help or ''} (default: {', '.join([str(default), *odd])})"
        if isinstance(kind, tuple):
            train.add_argument(f"--{name}", choices=kind, help=help)
        else:
            train.add_argument(f"--{name}", type=kind, metavar="N", help=help)

    sample = commands.add_parser("sample", help="write text with a trained model", allow_abbrev=False)
    sample.set_defaults(run=commands_run["sample"])
    sample.add_argument("folder", metavar="RUN")
    sample.add_argument("--prompt", help="what the text begins with")
    sample.add_argument(
        "--length", type=number(int, 1), default=500, metavar="N", help="characters (default: 500)"
    )
    sample.add_argument(
        "--temperature",
        type=number(float, 0),
        default=0.8,
        metavar="N",
        help="below 1 more likely text, above 1 wilder, 0 always the likeliest (default: 0.8)",
    )
    sample.add_argument("--seed", type=number(int, 0), default=0, metavar="N", help="(default: 0)")

    both = commands.add_parser(
        "compare", help="draw the curves of runs and print a table", allow_abbrev=False
    )
    both.set_defaults(run=commands_run["compare"])
    both.add_argument("folders", nargs="+", metavar="RUN")
    both.add_argument(
        "--out", metavar="PNG", default="compare.png", help="the picture (default: compare.png)"
    )

    info = commands.add_parser(
        "info", help="print the build, the processor tier and the threads", allow_abbrev=False
    )
    info.set_defaults(run=commands_run["info"])
    return parser


def number(kind, least, *, above=False, below=np.inf):
    """What reads an option's value and says what is wrong with it."""
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
