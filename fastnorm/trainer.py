"""The loop: forward, loss, backward, clipping, optimizer, evaluation, early stopping, checkpoints."""

import contextlib
import dataclasses
import time

import numpy as np

from . import checkpoint
from .errors import UserError
from .evaluation import Evaluation, evaluate
from .nn import clip_grad_norm


class Diverged(ArithmeticError):
    """The loss is not finite any more; the message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a callback is told after a step.

    Attributes
    ----------
    step : int
        Steps done.
    loss : float
        Of this step.
    grad_norm : float
        Before clipping.
    lr : float
    evaluation : Evaluation or None
        When it was measured after this step.
    last : bool
        Whether it was the last step, of all or before it stopped early.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    evaluation: Evaluation | None
    last: bool


class Trainer:
    """A model in training: everything that determines its next step.

    Parameters
    ----------
    model : Layer
        Called as a recurrent net is: ``(output, state), backward = model(x, state, lengths, training)``.
        `fastnorm.models.FeedForward` makes one of a layer without a state.
    batches : Streams, PaddedBatches or the like
        With ``next() -> Batch``, ``state_dict()`` and ``load_state_dict(state)``.
    loss : callable
        ``value, backward = loss(output, target, mask)``, such as those of `fastnorm.nn`.
    optimizer : Optimizer
        Over `model.params` and `model.grads`. Its `lr` is the rate that the schedule scales.
    schedule : callable, optional
        ``schedule(steps done) -> factor``, as `fastnorm.schedules` makes them. Constant if not given.
    clip : float, optional
        The largest global norm of the gradient.
    evaluation : iterable of Batch, optional
        What is held out; read anew by every evaluation.
    patience : int, optional
        Stop early after so many evaluations without a lower loss, and put the best parameters back.

    Attributes
    ----------
    steps : int
    seconds : float
        Spent in steps.
    losses : list of float
        Of the steps; whoever reports them clears the list. It is part of a checkpoint.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm import nn, train
    >>> rng = np.random.default_rng(0)
    >>> sequences = [rng.standard_normal((n, 3)) for n in rng.integers(4, 9, 40)]
    >>> labels = [int(each[:, 0].sum() > 0) for each in sequences]
    >>> model = train.SequenceModel(nn.LSTM(3, 16, norm="layer", rng=0), 2, rng=1)
    >>> batches = train.PaddedBatches(sequences, labels, batch=8, rng=2)
    >>> optimizer = nn.Adam(model.params, model.grads, lr=0.02)
    >>> trainer = train.Trainer(model, batches, nn.softmax_cross_entropy, optimizer, evaluation=batches)
    >>> trainer.fit(60)
    True
    >>> trainer.evaluate().accuracy > 0.9
    True
    """

    def __init__(
        self, model, batches, loss, optimizer, *, schedule=None, clip=None, evaluation=None, patience=None
    ):
        if patience is not None and (isinstance(patience, bool) or patience < 1 or evaluation is None):
            raise ValueError(f"patience is {patience!r}, and needs to be at least 1, with an evaluation")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip is {clip!r}, and needs to be above 0")
        self.model, self.batches, self.loss, self.optimizer = model, batches, loss, optimizer
        self.schedule, self.clip, self.evaluation, self.patience = schedule, clip, evaluation, patience
        self.lr = optimizer.lr
        self.state = None  # of the net between two batches
        self.steps, self.seconds, self.losses = 0, 0.0, []
        self.grad_norm = None
        self.best = None  # (loss, step, state_dict) of the best evaluation, with patience
        self.waited = 0  # evaluations since then
        self.stopped = False  # early

    def learning_rate(self):
        """The learning rate of the next step."""
        return self.lr if self.schedule is None else self.lr * self.schedule(self.steps)

    def step(self):
        """One update of the parameters; returns the loss.

        Raises
        ------
        Diverged
            When the loss or the gradient is not finite; the parameters are then those of before.
        """
        start = time.perf_counter()
        batch = self.batches.next()
        state = None if batch.fresh else self.state
        (output, state), model_backward = self.model(batch.x, state, batch.lengths, True)
        loss, loss_backward = self.loss(output, batch.target, batch.mask)
        self.model.zero_grad()
        model_backward(loss_backward())
        self.grad_norm = clip_grad_norm(self.model.grads, self.clip or np.inf)
        if not (np.isfinite(loss) and np.isfinite(self.grad_norm)):
            raise Diverged(
                f"the loss or its gradient is not finite at step {self.steps + 1}; try a lower learning rate"
            )
        self.optimizer.lr = self.learning_rate()
        self.optimizer.step()
        self.state = state
        self.steps += 1
        self.losses.append(loss)
        self.seconds += time.perf_counter() - start
        return loss

    def evaluate(self, buffers=None):
        """The `Evaluation` of what is held out; see `fastnorm.train.evaluate`."""
        return evaluate(self.model, self.evaluation, self.loss, buffers)

    def fit(self, steps, *, evaluate_every=None, checkpoint=None, callback=None):
        """Train until `steps` steps are done.

        Parameters
        ----------
        steps : int
            Counted from the start of the training, not of this call.
        evaluate_every : int, optional
            Steps between two evaluations; there is always one after the last step.
        checkpoint : str, Path or callable, optional
            Where `save` goes after every evaluation and when a callback stops; or what is called instead.
        callback : callable, optional
            ``callback(progress)`` after every step. When it returns True, training stops.

        Returns
        -------
        bool
            Whether training is over: the last step was reached, or it stopped early.

        Raises
        ------
        Diverged
            When a loss is not finite; the checkpoint is the last one from before.
        """
        save = checkpoint if checkpoint is None or callable(checkpoint) else lambda: self.save(checkpoint)
        # A loss that overflows is found and said in words.
        with np.errstate(over="ignore", invalid="ignore"):
            while self.steps < steps and not self.stopped:
                loss = self.step()
                measured = None
                last = self.steps == steps
                if self.evaluation is not None and (
                    last or (evaluate_every and self.steps % evaluate_every == 0)
                ):
                    measured = self._measure()
                last = last or self.stopped
                stopping = callback is not None and callback(
                    Progress(self.steps, loss, self.grad_norm, self.optimizer.lr, measured, last)
                )
                if save is not None and (measured is not None or last or stopping):
                    save()
                if stopping is True:
                    return last
        return True

    def _measure(self):
        """Evaluate, and see whether patience is at its end."""
        measured = self.evaluate()
        if not np.isfinite(measured.loss):
            raise Diverged(f"the held-out loss is not finite at step {self.steps}; try a lower learning rate")
        if self.patience is not None:
            self.waited += 1
            if self.best is None or measured.loss < self.best[0]:
                self.best, self.waited = (measured.loss, self.steps, self.model.state_dict()), 0
            if self.waited >= self.patience:
                self.stopped = True
                self.model.load_state_dict(self.best[2])
        return measured

    # What a checkpoint holds

    def snapshot(self):
        """(arrays, facts): all that `restore` needs to go on with the very same numbers."""
        arrays = {f"model.{name}": array for name, array in self.model.state_dict().items()}
        arrays |= {f"optimizer.{name}": array for name, array in self.optimizer.state_dict().items()}
        state = self.state if isinstance(self.state, tuple) else (self.state,)
        arrays |= {f"state.{i}": np.array(each) for i, each in enumerate(state) if each is not None}
        if self.best is not None:
            arrays |= {f"best.{name}": array for name, array in self.best[2].items()}
        facts = {
            "steps": self.steps,
            "seconds": self.seconds,
            "losses": list(self.losses),
            "batches": self.batches.state_dict(),
            "generators": {name: each.bit_generator.state for name, each in self.model.generators.items()},
            "pair": isinstance(self.state, tuple),
            "best": None if self.best is None else self.best[:2],
            "waited": self.waited,
            "stopped": self.stopped,
        }
        return arrays, facts

    def restore(self, arrays, facts):
        """Take over a snapshot; UserError when it does not fit, and the trainer is as before then.

        Whatever the snapshot holds, the next step runs: its batch goes through the model once, as in
        inference.
        """
        before = self.snapshot()
        try:
            self._take(arrays, facts)
            batch = self.batches.next()
            with np.errstate(all="ignore"):
                self.model(batch.x, None if batch.fresh else self.state, batch.lengths, False)
            self.batches.load_state_dict(facts["batches"])
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError) as error:
            self._take(*before)
            raise UserError(f"the checkpoint does not fit the run: {one_line(error)}") from None

    def _take(self, arrays, facts):
        """Take over a snapshot, or a part of it and raise."""
        checkpoint.check_facts(facts)
        best = part("best.", arrays)
        if facts["best"] is not None:
            self.model.load_state_dict(best)  # whether it could; what follows is loaded over it
        self.model.load_state_dict(part("model.", arrays))
        self.optimizer.load_state_dict(part("optimizer.", arrays))
        state = part("state.", arrays)
        state = tuple(state[str(i)] for i in range(len(state)))
        self.state = state if facts["pair"] else state[0] if state else None
        self.best = None if facts["best"] is None else (*facts["best"], best)
        self.batches.load_state_dict(facts["batches"])
        for name, each in self.model.generators.items():
            each.bit_generator.state = facts["generators"][name]
        self.steps, self.seconds, self.losses = facts["steps"], facts["seconds"], list(facts["losses"])
        self.waited, self.stopped = facts["waited"], facts["stopped"]

    def save(self, path):
        """Replace the checkpoint at `path`, by `snapshot`, so that a kill leaves the old or the new one.

        It takes no lock: two trainers that save to one path replace each other's checkpoints, each of them
        whole. Where that can happen, hold `fastnorm.checkpoint.locked` around the training, as the
        command does.
        """
        checkpoint.save(path, *self.snapshot())

    def load(self, path):
        """Go on from the checkpoint at `path`; UserError when it is damaged or does not fit."""
        self.restore(*checkpoint.load(path))


def one_line(error):
    """What an error says, as a part of a sentence."""
    text = " ".join(str(error).split())
    return f"it has no {text}" if isinstance(error, KeyError) else text or type(error).__name__


def part(prefix, arrays):
    """The arrays whose names begin with `prefix`, named without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


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
