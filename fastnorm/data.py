"""Text: reading, the vocabulary, the held-out part."""

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
