"""A training run in a folder: starting it, going on with it, and writing down what it measures."""

import dataclasses

import numpy as np

from .errors import UserError
from .runs import RunFolder
from .tasks import TASKS
from .trainer import limited_threads, part


def start(path, settings, source):
    """A new run folder with a checkpoint of the untrained model.

    Parameters
    ----------
    path : str or Path
    settings : fastnorm.runs.Settings
    source : object
        What the task of the settings reads; a str for text.

    Returns
    -------
    run : RunFolder
    trainer : Trainer

    Raises
    ------
    UserError
        When the source is too short or not the one of the settings, or something is at `path` already.
    """
    trainer = _trainer(settings, source)  # first: what cannot be trained on leaves no folder behind
    arrays, facts = trainer.snapshot()
    with RunFolder.create(path, settings) as run:
        run.save_checkpoint(arrays, **facts)
    return RunFolder(path), trainer


def resume(path, source, steps=None):
    """The run folder at `path` and its trainer as they were at the checkpoint.

    Parameters
    ----------
    path : str or Path
    source : object
        As given to `start`.
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
    trainer = _trainer(settings, source)
    trainer.restore(arrays, facts)
    run.clean()
    run.write_settings(settings)
    run.drop_metrics_after(facts)
    return run, trainer


def _trainer(settings, source):
    task = TASKS[settings.task]
    if task.fingerprint(source) != settings.fingerprint:
        raise UserError(f"the {task.reads} is not the one that the run was started with")
    return task.build(settings, source)


def load_model(run):
    """(model, vocabulary): the model at the checkpoint of a run on text, and the characters that it knows."""
    settings = run.settings()
    if settings.task != "text":
        raise UserError(f"{run.path} was trained on {settings.task}, and only a model of text can write")
    arrays, _ = run.load_checkpoint()
    model, vocabulary = TASKS["text"].model(settings)
    try:
        model.load_state_dict(part("model.", arrays))
    except (TypeError, ValueError) as error:
        raise UserError(f"the checkpoint of {run.path} does not fit its settings: {error}") from None
    return model, vocabulary


def fit(run, trainer, *, stop=lambda: False, report=lambda loss, measured: None):
    """Train to the last step of the settings, writing metrics and checkpoints.

    Parameters
    ----------
    run : RunFolder
    trainer : Trainer
    stop : callable
        Asked after every step; when it returns True the checkpoint is saved and training ends.
    report : callable
        ``report(loss, measured)`` after every step: the step's loss in the unit of the task, and None or the
        Evaluation made after it.

    Returns
    -------
    bool
        Whether training is over.

    Raises
    ------
    Diverged
        When the loss is not finite; the checkpoint is the last one from before.
    """
    settings = run.settings()
    task = TASKS[settings.task]

    def callback(progress):
        step, seconds = progress.step, round(trainer.seconds, 3)
        on_line = step % settings.log_every == 0
        if progress.last or on_line:
            run.append_metrics(
                step=step,
                **{f"train_{task.key}": task.scale * float(np.mean(trainer.losses))},
                grad_norm=progress.grad_norm,
                lr=progress.lr,
                seconds=seconds,
            )
        # Not at the last step as such: a run made longer goes on as if it had been so from the start.
        if on_line:
            trainer.losses.clear()
        if progress.evaluation is not None:
            run.append_metrics(step=step, **task.measured(progress.evaluation), seconds=seconds)
        report(task.scale * progress.loss, progress.evaluation)
        return bool(stop())

    def save():
        arrays, facts = trainer.snapshot()
        run.save_checkpoint(arrays, **facts)

    with limited_threads(settings.threads):
        return trainer.fit(
            settings.steps, evaluate_every=settings.evaluate_every, checkpoint=save, callback=callback
        )
