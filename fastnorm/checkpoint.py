"""Files that are whole or not there: checkpoints with a seal, atomic replacement, one writer at a time."""

import contextlib
import hashlib
import io
import json
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from .errors import UserError

FORMAT = 2
SEAL = 64  # hexadecimal digits of the SHA-256 that ends the file


def save(path, arrays, facts):
    """Replace the checkpoint at `path`: `arrays` by name, and `facts` that JSON can hold.

    The file is an ``.npz`` of plain arrays (no pickle). Its last 64 characters, the archive's comment, are
    the SHA-256 of all that stands before them.

    Raises
    ------
    OSError
        When it cannot be written; the checkpoint from before is then still there.
    """
    # Made in memory first: an archive cannot be closed on a disk that is full.
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, facts=np.array(json.dumps(facts | {"format": FORMAT})))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = bytes(SEAL)
    content = buffer.getbuffer()[:-SEAL]
    seal = hashlib.sha256(content).hexdigest().encode()

    def write(file):
        file.write(content)
        file.write(seal)

    write_atomically(Path(path), write)


def load(path):
    """(arrays, facts) as they were saved.

    Raises
    ------
    UserError
        When the file is missing, truncated, changed in any byte, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path.parent} has no {path.name}, from which a run goes on")
    try:
        content = path.read_bytes()
        body, seal = content[:-SEAL], content[-SEAL:]
        if hashlib.sha256(body).hexdigest().encode() != seal:
            raise ValueError
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        facts = json.loads(str(arrays.pop("facts")))
        version = facts["format"]
    # A seal can be forged, and what zipfile, NumPy's reader and JSON then raise is of many kinds.
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RuntimeError,
        SyntaxError,
        NotImplementedError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ):
        raise UserError(f"{path} is damaged and cannot be read") from None
    if version != FORMAT:
        raise UserError(f"{path} has format {version}, and this version reads format {FORMAT}")
    return arrays, facts


def check_facts(facts):
    """ValueError, naming it, for a fact of a training that is missing or of the wrong kind."""

    def is_count(value):
        return type(value) is int and value >= 0

    def is_real(value):
        return type(value) in (int, float)

    def is_best(value):
        return value is None or (
            isinstance(value, (list, tuple)) and len(value) == 2 and is_real(value[0]) and is_count(value[1])
        )

    kinds = {
        "steps": (is_count, "a whole number of at least 0"),
        "seconds": (lambda value: is_real(value) and value >= 0, "a number of at least 0"),
        "losses": (lambda value: isinstance(value, list) and all(map(is_real, value)), "a list of numbers"),
        "batches": (lambda value: isinstance(value, dict), "an object"),
        "generators": (lambda value: isinstance(value, dict), "an object"),
        "pair": (lambda value: type(value) is bool, "true or false"),
        "best": (is_best, "null, or a loss and a step"),
        "waited": (is_count, "a whole number of at least 0"),
        "stopped": (lambda value: type(value) is bool, "true or false"),
    }
    for name, (fits, needed) in kinds.items():
        if name not in facts:
            raise ValueError(f"it has no {name}")
        if not fits(facts[name]):
            raise ValueError(f"{name} is {str(facts[name])[:40]!r}, and needs to be {needed}")


def write_atomically(path, write):
    """Call ``write(file)`` so that `path` has either all of it or what was there before, whatever happens.

    A temporary file beside it is written, forced to the disk, and then takes the name.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path)  # a write that fails does not say where
        raise
    sync_folder(path.parent)


def sync_folder(path):
    """Force the names in a folder to the disk: a new name is there only once its folder is."""
    if os.name == "posix":
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def locked(path, message):
    """Hold the lock of the existing file `path`; UserError with `message` when another process holds it.

    The lock goes with the process, however it ends. It guards against others who ask for it, not against
    readers. Without flock (not POSIX) there is none.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path, "rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(message) from None
        except OSError:
            pass  # a file system without locks
        yield
