"""Measuring a model on batches that it is not trained on, with running or saved statistics."""

import contextlib
import dataclasses


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The mean loss over all targets that count, and the share that is right (None unless classes)."""

    loss: float
    accuracy: float | None = None


def evaluate(model, batches, loss, buffers=None):
    """Run the model, not in training, over all batches.

    Parameters
    ----------
    model : Layer
        Called as ``(output, state), backward = model(x, state, lengths, False)``.
    batches : iterable of Batch
    loss : callable
        ``value, backward = loss(output, target, mask)``, a mean over the targets that count.
    buffers : dict of str to ndarray, optional
        Statistics saved before, such as those of `estimate_statistics`, in place of the running ones during
        the evaluation.

    Returns
    -------
    Evaluation
    """
    total, count, right, state = 0.0, 0, 0, None
    classes = False
    with _with_buffers(model, buffers):
        for batch in batches:
            if batch.fresh:
                state = None
            (output, state), _ = model(batch.x, state, batch.lengths, False)
            counted = batch.count
            if not counted:
                continue
            value, _ = loss(output, batch.target, batch.mask)
            total += value * counted
            count += counted
            classes = batch.target.dtype.kind in "iu"
            if classes:
                hit = output.argmax(axis=-1) == batch.target
                right += int(hit.sum() if batch.mask is None else hit[batch.mask].sum())
    if not count:
        raise ValueError("there is nothing to evaluate: not one target counts")
    return Evaluation(float(total / count), right / count if classes else None)


def estimate_statistics(model, batches):
    """Statistics of the net as it is now: the mean of those of all batches.

    Running statistics lag behind parameters that move. These do not; hand them to `evaluate`.

    Parameters
    ----------
    model : Layer
        Its layers with running statistics have an attribute `momentum`. It is left as it was.
    batches : iterable of Batch
        Such as a list of batches of the training data.

    Returns
    -------
    dict of str to ndarray
        In the keys of `model.buffers`.
    """
    moving = [layer for layer in model.walk() if hasattr(layer, "momentum")]
    momenta = [layer.momentum for layer in moving]
    states = {name: each.bit_generator.state for name, each in model.generators.items()}
    state = None
    batches = list(batches)
    if all(batch.fresh for batch in batches):
        # A step's own statistics begin with the first batch that has it.
        batches.sort(key=lambda batch: len(batch.x), reverse=True)
    with _with_buffers(model, None):
        try:
            for number, batch in enumerate(batches):
                for layer in moving:
                    layer.momentum = 1 / (number + 1)  # what turns a running mean into a mean of all
                (_, state), _ = model(batch.x, None if batch.fresh else state, batch.lengths, True)
            return {name: buffer.copy() for name, buffer in model.buffers.items()}
        finally:
            for layer, momentum in zip(moving, momenta, strict=True):
                layer.momentum = momentum
            for name, each in model.generators.items():
                each.bit_generator.state = states[name]


@contextlib.contextmanager
def _with_buffers(model, buffers):
    """The model with other buffers; its own are back, as they were, at the end."""
    kept = {name: buffer.copy() for name, buffer in model.buffers.items()}
    if buffers is not None and buffers.keys() != kept.keys():
        raise ValueError(f"buffers hold {sorted(buffers)}, and {sorted(kept)} are needed")
    try:
        for name, buffer in (buffers or {}).items():
            model.buffers[name][...] = buffer
        yield
    finally:
        for name, buffer in kept.items():
            model.buffers[name][...] = buffer
