"""What `fastnorm train --task` can learn: where its data comes from, its model, its batches, its defaults."""

import hashlib
from functools import partial

import numpy as np

from . import data, datasets, nn, schedules
from .batches import PaddedBatches, Streams, evaluation_streams
from .charmodel import CharModel
from .errors import UserError
from .models import SequenceModel
from .trainer import Trainer

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
OPTIMIZERS = {"adam": nn.Adam, "adamw": nn.AdamW, "sgd": nn.SGD, "rmsprop": nn.RMSProp}
LEARNING_RATES = {"adam": 0.01, "adamw": 0.01, "sgd": 1.0, "rmsprop": 0.003}

DEFAULTS = {
    "cell": "lstm",
    "layers": 1,
    "dropout": 0.0,
    "steps": 800,
    "batch": 32,
    "length": 64,
    "hidden": 192,
    "embed": 64,
    "optimizer": "adam",
    "schedule": "linear",
    "warmup": 0,
    "momentum": 0.9,
    "weight_decay": 0.01,
    "clip": 1.0,
    "patience": None,
    "seed": 0,
    "held_out": 0.05,
    "log_every": 10,
    "evaluate_every": 100,
    # Threads that meet at each of a step's many small products spend their time waiting on a busy machine.
    "threads": 1,
}
OF_TEXT = ("length", "embed", "held_out")  # what has no meaning for the other tasks


def _trainer(settings, model, batches, evaluation):
    """The trainer that the settings describe."""
    make, options = OPTIMIZERS[settings.optimizer], {}
    if settings.optimizer == "sgd":
        options["momentum"] = settings.momentum
    if settings.optimizer == "adamw":
        options["weight_decay"] = settings.weight_decay
    schedule = schedules.SCHEDULES[settings.schedule]
    if settings.warmup and settings.warmup >= settings.steps:
        raise UserError(f"--warmup {settings.warmup} leaves none of the {settings.steps} steps")
    steps = None if settings.schedule == "constant" else settings.steps
    return Trainer(
        model,
        batches,
        nn.softmax_cross_entropy,
        make(model.params, model.grads, lr=settings.lr, **options),
        schedule=schedule(steps, warmup=settings.warmup),
        clip=settings.clip,
        evaluation=evaluation,
        patience=settings.patience,
    )


class Text:
    """Characters of a text, each predicted from those before it, by streams that carry the state on."""

    name, reads = "text", "text"
    key, scale = "bpc", float(1 / np.log(2))
    unit, item, items = "bits/char", "char", "characters"
    curve = "bits per character (lower is better)"
    defaults = DEFAULTS

    def read(self, files):
        return data.read_text(files)

    def fingerprint(self, text):
        return data.fingerprint(text)

    def vocabulary(self, text):
        return data.Vocabulary.of(text).characters

    def model(self, settings, rng=None):
        """(model, vocabulary)"""
        vocabulary = data.Vocabulary(settings.vocabulary)
        model = CharModel(
            len(vocabulary),
            settings.embed,
            settings.hidden,
            norm=settings.norm,
            net=CELLS[settings.cell],
            dropout=settings.dropout,
            rng=rng,
            num_layers=settings.layers,
        )
        return model, vocabulary

    def build(self, settings, text):
        """The trainer; UserError for a text that is too short."""
        if settings.norm == "batch":
            raise UserError(
                "--norm batch has statistics for every step of a sequence; --task text carries its state on"
            )
        vocabulary = data.Vocabulary(settings.vocabulary)
        training, held_out = data.split(vocabulary.encode(text), settings.held_out)
        model_rng, rng = np.random.default_rng(settings.seed).spawn(2)
        streams = Streams(training, settings.batch, settings.length, rng)
        if len(held_out) < 2:
            raise UserError(
                f"the text is too short: {len(text)} characters leave {len(held_out)} held out, "
                f"and 2 are needed"
            )
        model, _ = self.model(settings, model_rng)
        return _trainer(settings, model, streams, evaluation_streams(held_out))

    def summary(self, settings, text):
        """One line on the data."""
        held_out = len(data.split(text, settings.held_out)[1])
        return (
            f"{len(text):,} characters, {len(settings.vocabulary)} different; "
            f"the last {held_out:,} are held out"
        )

    def title(self, settings):
        """What was trained, for the head of a picture."""
        what = (
            ", ".join(name.replace("\\", "/").rsplit("/", 1)[-1] for name in settings.files)
            or "Emma (in the package)"
        )
        what = what if len(what) <= 60 else what[:57] + "..."
        return f"Characters of {what}"

    def items_per_step(self, settings):
        return settings.batch * settings.length

    def measured(self, evaluation):
        """The line of metrics for an evaluation."""
        return {"held_out_bpc": self.scale * evaluation.loss}


class Classes:
    """Sequences, each of one class, on the training and test sets that the data comes with.

    Parameters
    ----------
    name, about : str
        `about` is the head of pictures.
    read : callable
        Returns a `datasets.Sequences`.
    defaults : dict
        Where they differ from those of text.
    """

    reads = "data"
    key, scale = "loss", 1.0
    unit, item, items = "nats", "seq", "sequences"
    curve = "cross-entropy in nats (lower is better)"

    def __init__(self, name, about, read, **defaults):
        self.name, self.about, self._read = name, about, read
        self.defaults = DEFAULTS | dict.fromkeys(OF_TEXT) | defaults

    def read(self, files):
        if files:
            raise UserError(f"--task {self.name} reads no files, and got {files[0]}")
        return self._read()

    def fingerprint(self, sequences):
        digest = hashlib.sha256()
        for each in (*sequences.training, *sequences.test):
            digest.update(np.ascontiguousarray(each))
        digest.update(np.ascontiguousarray([*sequences.labels, *sequences.test_labels], np.int64))
        return digest.hexdigest()

    def vocabulary(self, sequences):
        return ""

    def build(self, settings, sequences):
        """The trainer."""
        model_rng, rng = np.random.default_rng(settings.seed).spawn(2)
        net_rng, head_rng = model_rng.spawn(2)
        net = CELLS[settings.cell](
            sequences.training[0].shape[1],
            settings.hidden,
            norm=settings.norm,
            num_layers=settings.layers,
            forget_bias=1.0 if settings.cell == "lstm" else 0.0,
            max_steps=max(map(len, sequences.training)),
            rng=net_rng,
        )
        model = SequenceModel(net, sequences.classes, dropout=settings.dropout, rng=head_rng)
        batches = PaddedBatches(sequences.training, sequences.labels, settings.batch, rng=rng)
        test = PaddedBatches(sequences.test, sequences.test_labels, 256, shuffle=False)
        return _trainer(settings, model, batches, test)

    def summary(self, settings, sequences):
        """One line on the data."""
        lengths = [len(each) for each in sequences.training]
        steps = f"{min(lengths)} to {max(lengths)}" if min(lengths) < max(lengths) else f"{lengths[0]}"
        return (
            f"{len(lengths):,} training and {len(sequences.test):,} test sequences of {steps} steps, "
            f"{sequences.classes} classes"
        )

    def title(self, settings):
        """What was trained, for the head of a picture."""
        return self.about

    def items_per_step(self, settings):
        return settings.batch

    def measured(self, evaluation):
        """The line of metrics for an evaluation."""
        return {"held_out_loss": evaluation.loss, "held_out_accuracy": evaluation.accuracy}


TASKS = {
    task.name: task
    for task in (
        Text(),
        Classes(
            "vowels",
            "JapaneseVowels, which of nine speakers",
            datasets.vowels,
            steps=600,
            batch=16,
            hidden=64,
            evaluate_every=50,
        ),
        Classes(
            "rowmnist",
            "MNIST row by row",
            partial(datasets.mnist, 28),
            steps=1500,
            batch=64,
            hidden=96,
            evaluate_every=150,
        ),
        Classes(
            "pixelmnist",
            "MNIST pixel by pixel",
            partial(datasets.mnist, 1),
            steps=1000,
            batch=64,
            hidden=64,
            evaluate_every=250,
        ),
    )
}
