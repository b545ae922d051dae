"""The run folder: what a training run leaves behind, and how it is written so that no interruption spoils it.

A run folder holds

- `settings.json`: all settings, written once, at the start;
- `metrics.jsonl`: one JSON object a line, appended as training goes on;
- `checkpoint.npz`: everything needed to go on, replaced as a whole;
- `learning_curve.png`: the picture;
- `plain/`: when both norms are compared, the run folder of the plain run.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path

from . import checkpoint
from .checkpoint import write_atomically
from .errors import UserError


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that determines a run's numbers, as `settings.json` stores it."""

    task: str
    norm: str | None
    cell: str
    layers: int
    dropout: float
    steps: int
    batch: int
    length: int | None
    hidden: int
    embed: int | None
    optimizer: str
    lr: float
    schedule: str
    warmup: int
    momentum: float
    weight_decay: float
    clip: float
    patience: int | None
    seed: int
    held_out: float | None
    log_every: int
    evaluate_every: int
    threads: int
    compare: bool
    files: tuple[str, ...]
    fingerprint: str
    vocabulary: str
    version: str

    def to_json(self):
        """The settings as a dict of what JSON can hold."""
        return dataclasses.asdict(self) | {"files": list(self.files)}

    @classmethod
    def from_json(cls, values, path):
        """The settings in the dict `values`; UserError, naming `path` and the key, for one missing or odd."""
        if not isinstance(values, dict):
            raise UserError(f"{path} does not hold settings")
        fields = {field.name: field.type for field in dataclasses.fields(cls)}
        for name in fields:
            if name not in values:
                raise UserError(f"{path} has no setting {name!r}")
        for name, value in values.items():
            if name not in fields:
                raise UserError(f"{path} has a setting {name!r}, which is not known")
            if not _has_type(value, fields[name]):
                raise UserError(f"{path} has {name} = {value!r}, which it cannot be")
        return cls(**values | {"files": tuple(values["files"])})


def _has_type(value, kind):
    if kind == tuple[str, ...]:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if kind in (float, float | None):
        kind = int | kind
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


class RunFolder:
    """A run folder that exists."""

    def __init__(self, path):
        self.path = Path(path)
        self.checkpoint_path = self.path / "checkpoint.npz"
        self.metrics_path = self.path / "metrics.jsonl"
        self.settings_path = self.path / "settings.json"
        self.picture_path = self.path / "learning_curve.png"

    @classmethod
    @contextlib.contextmanager
    def create(cls, path, settings):
        """A new run folder with these settings, which appears at `path`, as a whole, when the context ends.

        Until then it has another name, so that whoever finds a run folder finds all of it. UserError when
        something is there already.
        """
        path = Path(path)
        staging = None
        try:
            if path.is_dir() and any(path.iterdir()):
                raise _taken(path)
            if path.exists() and not path.is_dir():
                raise UserError(f"{path} is a file, and a run needs a folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        except OSError as error:
            raise UserError(f"{path} cannot be made a run folder: {error.strerror or error}") from None
        try:
            staging.chmod(0o777 & ~_umask())
            run = cls(staging)
            run.metrics_path.touch()
            run.write_settings(settings)
            yield run
            _move(staging, path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    @classmethod
    def open(cls, path):
        """The run folder at `path`; UserError when it is not one."""
        run = cls(path)
        if not run.path.is_dir():
            raise UserError(
                f"{path} is not a run folder: "
                + ("a file" if run.path.exists() else "there is no such folder")
            )
        for each in (run.settings_path, run.metrics_path):
            if not each.is_file():
                raise UserError(f"{path} is not a run folder: it has no {each.name}")
        return run

    def locked(self):
        """A context in which no other process can go on with this run; UserError when one does."""
        return checkpoint.locked(
            self.metrics_path, f"{self.path} is being trained by another process; wait until it has ended"
        )

    def clean(self):
        """Remove what a killed process was writing."""
        for each in self.path.glob("*.tmp"):
            each.unlink()

    def write_settings(self, settings):
        """Replace the settings."""
        write_atomically(
            self.settings_path, lambda file: file.write(_json_bytes(settings.to_json(), indent=2) + b"\n")
        )

    def settings(self):
        """The settings; UserError when they cannot be read."""
        try:
            values = json.loads(self.settings_path.read_bytes())
        except (OSError, ValueError):
            raise UserError(f"{self.settings_path} cannot be read as JSON") from None
        return Settings.from_json(values, self.settings_path)

    def append_metrics(self, **values):
        """Append one line to the metrics."""
        try:
            with open(self.metrics_path, "ab") as file:
                file.write(_json_bytes(values) + b"\n")
        except OSError as error:
            error.filename = str(self.metrics_path)
            raise

    def metrics(self):
        """All complete lines of the metrics, as dicts; UserError when one cannot be read."""
        try:
            lines = self.metrics_path.read_bytes().split(b"\n")
            metrics = [json.loads(line) for line in lines[:-1]]  # what follows the last newline is unfinished
        except (OSError, ValueError):
            raise UserError(f"{self.metrics_path} cannot be read as JSON lines") from None
        for number, line in enumerate(metrics, 1):
            if not isinstance(line, dict) or not isinstance(line.get("step"), int):
                raise UserError(f"line {number} of {self.metrics_path} does not hold metrics")
        return metrics

    def save_checkpoint(self, arrays, **facts):
        """Replace the checkpoint: `arrays` by name, and `facts` that JSON can hold.

        The metrics go to the disk first, and their size into the checkpoint, so that a resumed run can drop
        the lines that were written after it.
        """
        with open(self.metrics_path, "rb+") as file:
            os.fsync(file.fileno())
            size = file.seek(0, os.SEEK_END)
        facts |= {"settings": self.settings().to_json(), "metrics_size": size}
        checkpoint.save(self.checkpoint_path, arrays, facts)

    def load_checkpoint(self):
        """The arrays and facts of the checkpoint; UserError when it is missing, damaged or of another run."""
        arrays, facts = checkpoint.load(self.checkpoint_path)
        settings, size = facts.get("settings"), facts.get("metrics_size")
        try:
            checkpoint.check_facts(facts)
            if not isinstance(settings, dict) or type(size) is not int or size < 0:
                raise ValueError("its settings or its metrics_size are missing")
        except ValueError as error:
            raise UserError(f"the checkpoint does not fit the run: {error}") from None
        current = self.settings().to_json()
        for name, value in current.items():
            if name == "steps" and current["schedule"] == "constant":
                continue  # such a run may be made longer
            if settings.get(name) != value:
                raise UserError(f"{self.settings_path} has been changed since the checkpoint: {name} differs")
        if self.metrics_path.stat().st_size < size:
            raise UserError(f"{self.metrics_path} is shorter than it was at the checkpoint")
        return arrays, facts

    def drop_metrics_after(self, facts):
        """Cut off the metrics that were written after the checkpoint with these `facts`."""
        os.truncate(self.metrics_path, facts["metrics_size"])


def _json_bytes(values, indent=None):
    return json.dumps(values, indent=indent, ensure_ascii=True, allow_nan=False).encode()


def _taken(path):
    return UserError(f"{path} is not empty; choose another folder with --out, or go on with --resume {path}")


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _move(staging, path):
    """Give the folder `staging` the name `path`, which is free or an empty folder."""
    try:
        # A folder that someone works in cannot be replaced under them.
        if not (path.is_dir() and os.path.samefile(path, os.curdir)):
            os.rename(staging, path)
            checkpoint.sync_folder(path.parent)
            return
    except OSError:
        if not path.is_dir():
            raise
        if any(path.iterdir()):  # another process was faster
            raise _taken(path) from None
    for each in sorted(staging.iterdir()):  # settings.json, which makes it a run folder, is the last
        os.rename(each, path / each.name)
    checkpoint.sync_folder(path)
