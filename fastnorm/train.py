"""Training a character model: one step, the loop around it, and going on where a run stopped."""

import contextlib
import dataclasses
import time

import numpy as np

from . import data
from .charmodel import CharModel
from .errors import UserError
from .nn import SGD, Adam, clip_grad_norm, softmax_cross_entropy
from .runs import RunFolder

EVALUATION_BATCH = 64


class Diverged(ArithmeticError):
    """The loss is not finite any more; the message is one sentence."""


class Trainer:
    """A model in training: everything that determines its next step.

    Parameters
    ----------
    settings : fastnorm.runs.Settings
    text : str
        The text that the settings describe.

    Raises
    ------
    UserError
        When the text is too short for the settings, or not the one that they describe.
    """

    def __init__(self, settings, text):
        if data.fingerprint(text) != settings.fingerprint:
            raise UserError("the text is not the one that the run was started with")
        self.settings = settings
        vocabulary = data.Vocabulary(settings.vocabulary)
        training, held_out = data.split(vocabulary.encode(text), settings.held_out)
        model_rng, self.rng = np.random.default_rng(settings.seed).spawn(2)
        self.streams = data.Streams(training, settings.batch, settings.length, self.rng)
        if len(held_out) < 2:
            raise UserError(
                f"the text is too short: {len(text)} characters leave {len(held_out)} held out, "
                f"and 2 are needed"
            )
        self.evaluation = data.evaluation_streams(held_out, EVALUATION_BATCH)
        self.model = model = CharModel(
            len(vocabulary), settings.embed, settings.hidden, norm=settings.norm, rng=model_rng
        )
        if settings.optimizer == "adam":
            self.optimizer = Adam(model.params, model.grads)
        else:
            self.optimizer = SGD(model.params, model.grads, momentum=settings.momentum)
        self.state = np.zeros((2, settings.batch, settings.hidden), model.dtype)  # h and c between two pieces
        self.steps = 0
        self.seconds = 0.0  # spent in steps
        self.bits = []  # of the steps since the last line of metrics
        self.grad_norm = None

    def learning_rate(self):
        """The learning rate of the next step."""
        if self.settings.schedule == "constant":
            return self.settings.lr
        return self.settings.lr * (1 - self.steps / self.settings.steps)

    def step(self):
        """One update of the parameters; returns the loss in bits per character."""
        start = time.perf_counter()
        x, target, fresh = self.streams.next()
        if fresh:
            self.state[...] = 0
        (logits, state), model_backward = self.model(x, tuple(self.state))
        loss, loss_backward = softmax_cross_entropy(logits, target)
        self.model.zero_grad()
        model_backward(loss_backward())
        self.grad_norm = clip_grad_norm(self.model.grads, self.settings.clip)
        if not (np.isfinite(loss) and np.isfinite(self.grad_norm)):
            raise Diverged(
                f"the loss or its gradient is not finite at step {self.steps + 1}; try a lower --lr"
            )
        self.optimizer.lr = self.learning_rate()
        self.optimizer.step()
        self.state[...] = state
        self.steps += 1
        self.bits.append(loss / float(np.log(2)))
        self.seconds += time.perf_counter() - start
        return self.bits[-1]

    def evaluate(self):
        """Bits per character on the held-out part."""
        return self.model.bits_per_character(*self.evaluation)

    def snapshot(self):
        """(arrays, facts): all that `restore` needs to go on with the very same numbers."""
        arrays = {f"model.{name}": array for name, array in self.model.state_dict().items()}
        arrays |= {f"optimizer.{name}": array for name, array in self.optimizer.state_dict().items()}
        arrays["state"] = self.state.copy()
        facts = {
            "steps": self.steps,
            "seconds": self.seconds,
            "bits": list(self.bits),
            "offset": self.streams.offset,
            "done": self.streams.done,
            "rng": self.rng.bit_generator.state,
        }
        return arrays, facts

    def restore(self, arrays, facts):
        """Take over a snapshot; UserError when it does not fit the settings."""
        try:
            self.model.load_state_dict(_part("model.", arrays))
            self.optimizer.load_state_dict(_part("optimizer.", arrays))
            if arrays["state"].shape != self.state.shape:
                raise ValueError(f"state has shape {arrays['state'].shape}, and {self.state.shape} is needed")
            self.state[...] = arrays["state"]
            self.rng.bit_generator.state = facts["rng"]
            self.steps, self.seconds, self.bits = facts["steps"], facts["seconds"], list(facts["bits"])
            self.streams.offset, self.streams.done = facts["offset"], facts["done"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"the checkpoint does not fit the run: {error}") from None


def start(path, settings, text):
    """A new run folder with a checkpoint of the untrained model; returns the folder and the trainer."""
    trainer = Trainer(settings, text)  # first: a text that is too short leaves no folder behind
    arrays, facts = trainer.snapshot()
    with RunFolder.create(path, settings) as run:
        run.save_checkpoint(arrays, **facts)
    return RunFolder(path), trainer


def resume(path, text, steps=None):
    """The run folder at `path` and its trainer as they were at the checkpoint.

    Parameters
    ----------
    path : str or Path
    text : str
    steps : int, optional
        A new number of steps, for a run with a constant learning rate.
    """
    run = RunFolder.open(path)
    settings = run.settings()
    arrays, facts = run.load_checkpoint()
    if steps is not None and steps != settings.steps:
        if settings.schedule != "constant" or steps < facts["steps"]:
            raise UserError(f"{path} cannot go on to step {steps}")
        settings = dataclasses.replace(settings, steps=steps)
    trainer = Trainer(settings, text)
    trainer.restore(arrays, facts)
    run.clean()
    run.write_settings(settings)
    run.drop_metrics_after(facts)
    return run, trainer


def load_model(run):
    """(model, vocabulary): the model at the checkpoint of a run, and the characters that it knows."""
    settings = run.settings()
    arrays, _ = run.load_checkpoint()
    vocabulary = data.Vocabulary(settings.vocabulary)
    model = CharModel(len(vocabulary), settings.embed, settings.hidden, norm=settings.norm)
    try:
        model.load_state_dict(_part("model.", arrays))
    except (TypeError, ValueError) as error:
        raise UserError(f"the checkpoint of {run.path} does not fit its settings: {error}") from None
    return model, vocabulary


def _part(prefix, arrays):
    """The arrays whose names begin with `prefix`, named without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def fit(run, trainer, *, stop=lambda: False, report=lambda bits, held_out: None):
    """Train to the last step of the settings, writing metrics and checkpoints.

    Parameters
    ----------
    run : RunFolder
    trainer : Trainer
    stop : callable
        Asked after every step; when it returns True the checkpoint is saved and training ends.
    report : callable
        ``report(bits, held_out)`` after every step: the step's loss, and None or what was measured after it
        on the held-out part, both in bits per character.

    Returns
    -------
    bool
        Whether the last step was reached.

    Raises
    ------
    Diverged
        When the loss is not finite; the checkpoint is the last one from before.
    """
    settings = trainer.settings
    # A loss that overflows is found and said in words; NumPy's warnings would only tear the progress bar.
    with limited_threads(settings.threads), np.errstate(over="ignore", invalid="ignore"):
        while trainer.steps < settings.steps:
            bits = trainer.step()
            last = trainer.steps == settings.steps
            if last or trainer.steps % settings.log_every == 0:
                run.append_metrics(
                    step=trainer.steps,
                    train_bpc=float(np.mean(trainer.bits)),
                    grad_norm=trainer.grad_norm,
                    lr=trainer.optimizer.lr,
                    seconds=round(trainer.seconds, 3),
                )
            # Not at the last step as such: a run made longer goes on as if it had been so from the start.
            if trainer.steps % settings.log_every == 0:
                trainer.bits.clear()
            held_out = None
            if last or trainer.steps % settings.evaluate_every == 0:
                held_out = trainer.evaluate()
                if not np.isfinite(held_out):
                    raise Diverged(
                        f"the held-out loss is not finite at step {trainer.steps}; try a lower --lr"
                    )
                run.append_metrics(
                    step=trainer.steps, held_out_bpc=held_out, seconds=round(trainer.seconds, 3)
                )
            report(bits, held_out)
            stopping = stop()
            if held_out is not None or stopping:
                arrays, facts = trainer.snapshot()
                run.save_checkpoint(arrays, **facts)
            if stopping:
                return last
    return True


@contextlib.contextmanager
def limited_threads(n):
    """At most `n` threads in fastnorm and, where threadpoolctl is installed, in NumPy's BLAS.

    BLAS may cut its sums differently for another number of threads, so that the last bits differ: a run keeps
    the number that it was started with.
    """
    import fastnorm

    with contextlib.ExitStack() as stack:
        stack.enter_context(fastnorm.num_threads(n))
        with contextlib.suppress(ImportError):
            import threadpoolctl

            stack.enter_context(threadpoolctl.threadpool_limits(n))
        yield
