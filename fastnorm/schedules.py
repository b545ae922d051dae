"""Learning rates over the steps: functions of the steps done, times the optimizer's rate.

Each is made for a number of steps, and may begin with `warmup` steps that rise in a straight line.
"""

import math


def constant(steps=None, *, warmup=0):
    """1 after the warm-up.

    Examples
    --------
    >>> from fastnorm import schedules
    >>> schedule = schedules.constant(warmup=4)
    >>> [schedule(step) for step in (0, 1, 3, 4, 100)]
    [0.25, 0.5, 1.0, 1.0, 1.0]
    """
    return _after_warmup(lambda done: 1.0, steps, warmup)


def linear(steps, *, warmup=0):
    """Falling from 1 to 0 in a straight line.

    Examples
    --------
    >>> from fastnorm import schedules
    >>> [schedules.linear(4)(step) for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    return _after_warmup(lambda done: max(0.0, 1 - done), steps, warmup)


def cosine(steps, *, warmup=0):
    """Falling from 1 to 0 in half a wave (Loshchilov & Hutter 2017, without restarts).

    Examples
    --------
    >>> from fastnorm import schedules
    >>> [round(schedules.cosine(4)(step), 3) for step in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    return _after_warmup(lambda done: 0.5 + 0.5 * math.cos(math.pi * min(done, 1.0)), steps, warmup)


def exponential(steps, *, warmup=0, last=0.01):
    """Falling from 1 to `last`, by the same factor every step.

    Examples
    --------
    >>> from fastnorm import schedules
    >>> [round(schedules.exponential(2)(step), 3) for step in range(2)]
    [1.0, 0.1]
    """
    return _after_warmup(lambda done: last**done, steps, warmup)


SCHEDULES = {"linear": linear, "constant": constant, "cosine": cosine, "exponential": exponential}


def _after_warmup(factor, steps, warmup):
    """``factor(done)``, done being the share of the steps after the warm-up that are over."""
    if not (warmup >= 0 and (steps is None or warmup < steps)):
        raise ValueError(f"warmup is {warmup}, and needs to be at least 0 and less than the {steps} steps")

    def schedule(step):
        if step < warmup:
            return (step + 1) / warmup
        return factor((step - warmup) / (steps - warmup) if steps else 0.0)

    return schedule
