"""Batches for the trainer: streams of symbols, and sequences of unequal length padded and bucketed.

A source of batches has ``next() -> Batch`` without end, and ``state_dict`` / ``load_state_dict`` of what JSON
can hold, so that a resumed run reads on at the same place in the same order.

Shape letters: T time steps, B batch rows, I input features, K outputs.
"""

import dataclasses

import numpy as np

from .errors import UserError


@dataclasses.dataclass
class Batch:
    """What a model reads at once.

    Attributes
    ----------
    x : ndarray, (T, B) symbols or (T, B, I)
    target : ndarray
        (T, B), (T, B, K), (B,) or (B, K), as the loss wants it.
    lengths : ndarray of int, (B,), optional
        The valid steps of each sequence.
    mask : ndarray of bool, optional
        Which targets count.
    fresh : bool
        Whether the state begins from zeros; otherwise it goes on where the batch before ended.
    """

    x: np.ndarray
    target: np.ndarray
    lengths: np.ndarray | None = None
    mask: np.ndarray | None = None
    fresh: bool = True

    @property
    def count(self):
        """How many targets count."""
        return int(self.mask.sum()) if self.mask is not None else len(self.target.reshape(-1, 1))


class Streams:
    """B places that read through the symbols side by side, T steps at a time, each predicting what follows.

    When a pass ends, the next one begins at an offset drawn from `rng`, so that the pieces are cut elsewhere.

    Parameters
    ----------
    symbols : ndarray of int, (n,)
        The numbers of characters, or of any other tokens.
    batch, length : int
        B and T.
    rng : None, int or numpy.random.Generator

    Raises
    ------
    UserError
        When there are not enough symbols for one piece at any offset: fewer than (B + 1) T.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.batches import Streams
    >>> batch = Streams(np.arange(20), batch=3, length=4, rng=0).next()
    >>> batch.x[:, 0].tolist(), batch.target[:, 0].tolist(), batch.fresh
    ([0, 1, 2, 3], [1, 2, 3, 4], True)
    """

    def __init__(self, symbols, batch, length, rng=None):
        symbols = np.asarray(symbols)
        needed = (batch + 1) * length
        if len(symbols) < needed:
            raise UserError(
                f"the text is too short: its training part has {len(symbols)} characters, and --batch "
                f"{batch} with --length {length} needs at least {needed}"
            )
        self.symbols, self.batch, self.length = symbols, batch, length
        self.rng = np.random.default_rng(rng)
        self.offset = self.done = 0

    @property
    def pieces(self):
        """How many pieces of T steps this pass holds."""
        return (len(self.symbols) - 1 - self.offset) // self.batch // self.length

    def next(self):
        """The next `Batch`: x and target (T, B); fresh when a pass begins."""
        if self.done == self.pieces:
            self.offset = int(self.rng.integers(self.length))
            self.done = 0
        stream = (len(self.symbols) - 1 - self.offset) // self.batch
        first = self.offset + self.done * self.length + stream * np.arange(self.batch)
        index = first + np.arange(self.length)[:, None]
        fresh = self.done == 0
        self.done += 1
        return Batch(self.symbols[index], self.symbols[index + 1], fresh=fresh)

    def state_dict(self):
        """The place in the symbols, as JSON can hold it."""
        return {"offset": self.offset, "done": self.done, "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state):
        """Go on where `state_dict` was called."""
        offset = check_place("offset", state["offset"], self.length - 1)
        pieces = (len(self.symbols) - 1 - offset) // self.batch // self.length
        done = check_place("done", state["done"], pieces)
        self.rng.bit_generator.state = state["rng"]
        self.offset, self.done = offset, done


def evaluation_streams(symbols, batch=64, steps=100):
    """All symbols but the first as targets, each exactly once, in `batch` equal streams.

    Parameters
    ----------
    symbols : ndarray of int, (n,)
    batch : int
    steps : int
        The length of the pieces, which bounds the memory and changes nothing else.

    Returns
    -------
    list of Batch
        x, target and mask (steps or fewer, batch); the mask is False where the last streams are padded.
    """
    symbols = np.asarray(symbols)
    total = len(symbols) - 1
    batch = min(batch, total)
    length = -(-total // batch)
    index = np.arange(length)[:, None] + length * np.arange(batch)
    mask = index < total
    index = np.minimum(index, total - 1)
    return [
        Batch(
            symbols[index[t : t + steps]],
            symbols[index[t : t + steps] + 1],
            None,
            mask[t : t + steps],
            t == 0,
        )
        for t in range(0, length, steps)
    ]


class PaddedBatches:
    """Sequences of unequal length, of similar length side by side, padded with zeros.

    Every pass is a new order: the sequences are shuffled, sorted by length within pools of `pool` batches,
    cut into batches, and the batches shuffled. A pool of one batch means no sorting at all.

    Parameters
    ----------
    sequences : list of array_like, each (T_i, I), or (T_i,) of symbols
        All with the same I.
    targets : array_like, (N,) of classes or (N, K), or a list of array_like
        One for each sequence; or, with `per_step`, for each sequence one for each of its steps, (T_i,) or
        (T_i, K).
    batch : int
        B; the last batch of a pass may be smaller.
    per_step : bool
    pool : int
    rng : None, int or numpy.random.Generator
        Draws the order.
    shuffle : bool
        False: the order of the list, in every pass.

    Raises
    ------
    ValueError
        When there are no sequences, one is empty, or sequences and targets do not belong together.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnorm.batches import PaddedBatches
    >>> batches = PaddedBatches([np.ones((n, 2)) for n in (3, 5, 4)], [0, 1, 0], batch=2, shuffle=False)
    >>> batch = batches.next()
    >>> batch.x.shape, batch.lengths.tolist(), batch.target.tolist()
    ((5, 2, 2), [3, 5], [0, 1])
    """

    def __init__(
        self, sequences, targets, batch, *, per_step=False, pool=16, rng=None, shuffle=True, dtype=np.float32
    ):
        self.sequences = [np.asarray(each) for each in sequences]
        if not self.sequences:
            raise ValueError("sequences is empty, and at least one is needed")
        for name, value in (("batch", batch), ("pool", pool)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} is {value!r}, and needs to be a whole number of at least 1")
        first = self.sequences[0]
        for number, each in enumerate(self.sequences):
            if each.ndim not in (1, 2) or each.shape[1:] != first.shape[1:] or not len(each):
                raise ValueError(
                    f"sequence {number} has shape {each.shape}, and one step or more of "
                    f"{first.shape[1:] or 'symbols'} is needed"
                )
        if len(targets) != len(self.sequences):
            raise ValueError(f"there are {len(targets)} targets for {len(self.sequences)} sequences")
        self.targets = [np.asarray(each) for each in targets]
        self.lengths = np.array([len(each) for each in self.sequences])
        self.symbols = first.ndim == 1 and first.dtype.kind in "iu"
        if first.ndim == 1 and not self.symbols:
            raise ValueError(f"sequences of dtype {first.dtype} need two axes, (T, I)")
        shape = self.targets[0].shape[per_step:]
        for number, (each, length) in enumerate(zip(self.targets, self.lengths, strict=True)):
            if each.shape != ((length,) if per_step else ()) + shape:
                raise ValueError(
                    f"target {number} has shape {each.shape}, and {((length,) if per_step else ()) + shape} "
                    f"is needed"
                )
        self.batch, self.pool, self.per_step, self.shuffle = int(batch), int(pool), per_step, shuffle
        self.dtype = np.dtype(dtype)
        self.rng = np.random.default_rng(rng)
        self._begin()

    def __len__(self):
        """The batches of a pass."""
        return -(-len(self.sequences) // self.batch)

    def _begin(self):
        """Draw the order of a pass."""
        self.before = self.rng.bit_generator.state  # from which a resumed run draws the same order
        self.done = 0
        order = np.arange(len(self.sequences))
        if self.shuffle:
            order = self.rng.permutation(order)
            size = self.pool * self.batch
            if self.pool > 1:
                pools = [order[i : i + size] for i in range(0, len(order), size)]
                order = np.concatenate(
                    [each[np.argsort(self.lengths[each], kind="stable")] for each in pools]
                )
        self.order = [order[i : i + self.batch] for i in range(0, len(order), self.batch)]
        if self.shuffle:
            self.order = [self.order[i] for i in self.rng.permutation(len(self.order))]

    def next(self):
        """The next `Batch`, the first of a new pass after the last of one."""
        if self.done == len(self.order):
            self._begin()
        self.done += 1
        return self._make(self.order[self.done - 1])

    def __iter__(self):
        """Every sequence once, in the order of the list: what an evaluation reads."""
        order = np.argsort(self.lengths, kind="stable")
        for i in range(0, len(order), self.batch):
            yield self._make(order[i : i + self.batch])

    def _make(self, chosen):
        lengths = self.lengths[chosen]
        T = int(lengths.max())
        x = _padded([self.sequences[i] for i in chosen], T, None if self.symbols else self.dtype)
        targets = [self.targets[i] for i in chosen]
        if not self.per_step:
            return Batch(x, np.stack(targets), lengths)
        return Batch(x, _padded(targets, T, None), lengths, np.arange(T)[:, None] < lengths)

    def state_dict(self):
        """The place in the data and in the random numbers, as JSON can hold it."""
        return {"rng": self.before, "done": self.done}

    def load_state_dict(self, state):
        """Go on where `state_dict` was called."""
        done = check_place("done", state["done"], len(self))
        self.rng.bit_generator.state = state["rng"]
        self._begin()
        self.done = done


def check_place(name, value, most):
    """`value`; ValueError unless it is a whole number from 0 to `most`."""
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name} of the batches is {value!r}, and needs to be from 0 to {most}")
    return value


def _padded(arrays, T, dtype):
    """(T, B, ...) with each array in a column of its own, and zeros after it."""
    out = np.zeros((T, len(arrays), *arrays[0].shape[1:]), dtype or arrays[0].dtype)
    for column, each in enumerate(arrays):
        out[: len(each), column] = each
    return out
