"""Text in, batches out: reading, the vocabulary, the held-out part, streams for truncated backpropagation.

Shape letters: T time steps, B batch rows.
"""

import hashlib
from importlib import resources
from pathlib import Path

import numpy as np

from .errors import UserError

NOVEL = "emma.txt"


def read_text(paths=()):
    """The text of all `paths` one after the other, or of the novel in the package when there are none.

    Line ends become ``\\n`` and a byte order mark at the start of a file is dropped.

    Raises
    ------
    UserError
        When a file cannot be read or is not UTF-8, naming it.
    """
    if not paths:
        return (resources.files(__package__) / "texts" / NOVEL).read_text(encoding="utf-8")
    return "".join(_read_file(Path(path)) for path in paths)


def _read_file(path):
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: byte {error.start} cannot be decoded") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def fingerprint(text):
    """SHA-256 of the text, by which a resumed run knows that it reads the same one."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


class Vocabulary:
    """The characters of a text, numbered in the order of their code points.

    Examples
    --------
    >>> from fastnorm.data import Vocabulary
    >>> vocabulary = Vocabulary.of("banana")
    >>> vocabulary.characters, vocabulary.encode("nab").tolist(), vocabulary.decode([0, 1])
    ('abn', [2, 0, 1], 'ab')
    """

    def __init__(self, characters):
        self.characters = characters
        self._codes = _code_points(characters)

    @classmethod
    def of(cls, text):
        """The vocabulary of all characters in `text`."""
        return cls("".join(sorted(set(text))))

    def __len__(self):
        return len(self.characters)

    def encode(self, text):
        """The numbers of the characters, int32; UserError for one that the vocabulary does not have."""
        codes = _code_points(text)
        numbers = np.searchsorted(self._codes, codes).astype(np.int32)
        known = numbers < len(self)
        known[known] = self._codes[numbers[known]] == codes[known]
        if not known.all():
            raise UserError(f"the model does not know the character {text[int(np.argmin(known))]!r}")
        return numbers

    def decode(self, numbers):
        """The characters with these numbers, as one string."""
        return "".join(self.characters[number] for number in numbers)


def _code_points(text):
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def split(symbols, held_out):
    """The training part and the held-out part, which is the last share `held_out` of the symbols."""
    cut = len(symbols) - round(len(symbols) * held_out)
    return symbols[:cut], symbols[cut:]


class Streams:
    """B places that read through the symbols side by side, T steps at a time, each predicting what follows.

    When a pass ends, the next one begins at an offset drawn from `rng`, so that the pieces are cut elsewhere.

    Parameters
    ----------
    symbols : ndarray of int, (n,)
    batch, length : int
        B and T.
    rng : numpy.random.Generator

    Raises
    ------
    UserError
        When there are not enough symbols for one piece at any offset: fewer than (B + 1) T.
    """

    def __init__(self, symbols, batch, length, rng):
        needed = (batch + 1) * length
        if len(symbols) < needed:
            raise UserError(
                f"the text is too short: its training part has {len(symbols)} characters, and --batch "
                f"{batch} with --length {length} needs at least {needed}"
            )
        self.symbols, self.batch, self.length, self.rng = symbols, batch, length, rng
        self.offset = self.done = 0

    @property
    def pieces(self):
        """How many pieces of T steps this pass holds."""
        return (len(self.symbols) - 1 - self.offset) // self.batch // self.length

    def next(self):
        """The next piece.

        Returns
        -------
        x, target : ndarray of int, (T, B)
        fresh : bool
            True when a pass begins, where the net's state needs to start from zeros.
        """
        if self.done == self.pieces:
            self.offset = int(self.rng.integers(self.length))
            self.done = 0
        stream = (len(self.symbols) - 1 - self.offset) // self.batch
        first = self.offset + self.done * self.length + stream * np.arange(self.batch)
        index = first + np.arange(self.length)[:, None]
        fresh = self.done == 0
        self.done += 1
        return self.symbols[index], self.symbols[index + 1], fresh


def evaluation_streams(symbols, batch):
    """All symbols but the first as targets, each exactly once, cut into `batch` equal streams.

    Returns
    -------
    x, target : ndarray of int, (n, batch)
    counts : ndarray of bool, (n, batch)
        False where the last streams are padded.
    """
    total = len(symbols) - 1
    batch = min(batch, total)
    steps = -(-total // batch)
    index = np.arange(steps)[:, None] + steps * np.arange(batch)
    counts = index < total
    index = np.minimum(index, total - 1)
    return symbols[index], symbols[index + 1], counts
