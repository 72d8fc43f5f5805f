"""Subjects of the deletion benchmarks: images behind features that do not depend on the data, and what is learned.

MNIST's test images and a part of CIFAR-10 where a folder holds them, scikit-learn's digits where it does not.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from bench_ridge import mnist_features
from timing import MNIST

Array = NDArray[Any]

DATA = Path(os.environ.get("EXPUNGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
CIFAR = "cifar10_part.npz"
TRAIN = 8000  # of MNIST's 10,000 test images; the others are to test with


@dataclass(frozen=True)
class Subject:
    """Records to learn from and to test with; norms of rows are about 1, and the last column may be any."""

    name: str
    source: str
    X: Array
    y: Array
    X_test: Array
    y_test: Array

    @property
    def classes(self) -> list[int]:
        """Numbers of the classes."""
        return list(range(int(self.y.max()) + 1))

    @property
    def loss(self) -> str:
        """The loss for so many classes."""
        return "logistic" if len(self.classes) == 2 else "softmax"

    @property
    def n_outputs(self) -> int:
        """Rows of parameters."""
        return 1 if len(self.classes) == 2 else len(self.classes)

    def only(self, *, records: int, features: int) -> Subject:
        """Return the subject with the first records and features alone."""
        X, X_test = np.ascontiguousarray(self.X[:records, :features]), self.X_test[:, :features]
        return Subject(self.name, self.source, X, self.y[:records], X_test, self.y_test)


def _images(folder: Path) -> tuple[Array, Array, int, str]:
    """Return features and labels of digits, how many are to learn from, and whose they are."""
    if all((folder / name).is_file() for name in MNIST):
        features, labels = mnist_features(folder)
        return features, labels.astype(np.int64), TRAIN * len(labels) // 10_000, "MNIST, 256 random cosine features"
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    weights, phases = rng.normal(size=(64, 256)) / 2, rng.uniform(0, 2 * np.pi, 256)
    features = np.sqrt(2 / 256) * np.cos(images / 16 @ weights + phases)
    source = "scikit-learn's digits (no MNIST here), 256 random cosine features"
    return features, labels.astype(np.int64), 1437, source


def digit_subjects(folder: Path) -> dict[str, Subject]:
    """Return three against eight, odd against even, and all ten digits."""
    X, y, train, source = _images(folder)

    def subject(name: str, answer: Array, rows: Array) -> Subject:
        learn, test = rows[rows < train], rows[rows >= train]
        return Subject(name, source, X[learn], answer[learn], X[test], answer[test])

    every = np.arange(len(y))
    return {
        "3 vs 8": subject("3 vs 8", (y == 8).astype(np.int64), np.flatnonzero((y == 3) | (y == 8))),
        "odd/even": subject("odd/even", y % 2, every),
        "10 digits": subject("10 digits", y, every),
    }


def random_convolutions(images: Array, *, n_filters: int = 32, size: int = 6, grid: int = 2, seed: int = 0) -> Array:
    """Return features of images (n, channels, height, width), shape (n, 2 * n_filters * grid^2).

    Random filters on patches of even brightness and contrast, both signs rectified, pooled on a grid. Filters, offsets
    and the scale, which makes norms about 1, are constants.
    """
    channels, length = images.shape[1], images.shape[1] * size * size
    filters = np.random.default_rng(seed).standard_normal((length, n_filters))
    filters /= np.sqrt(np.square(filters).sum(axis=0))
    filters = filters.astype(np.float32)
    features = []
    for start in range(0, len(images), 64):
        some = np.float32(images[start : start + 64]) / np.float32(255)
        windows = sliding_window_view(some, (channels, size, size), axis=(1, 2, 3))[:, 0]
        patches = windows.reshape(*windows.shape[:3], length)
        patches = patches - patches.mean(axis=3, keepdims=True)
        patches /= np.sqrt(np.square(patches).mean(axis=3, keepdims=True) + np.float32(0.01))
        answers = patches @ filters
        both = np.concatenate([np.maximum(answers - 0.5, 0), np.maximum(-answers - 0.5, 0)], axis=3)
        height, width = both.shape[1] // grid, both.shape[2] // grid
        cells = both[:, : grid * height, : grid * width].reshape(len(some), grid, height, grid, width, -1)
        features.append(cells.mean(axis=(2, 4)).reshape(len(some), -1))
    # What is rectified has a mean of .2 where answers are standard normal.
    return 0.4 * (np.concatenate(features).astype(np.float64) - 0.2)


def cifar_subject(folder: Path) -> Subject | None:
    """Return ten classes of CIFAR-10 on fixed random convolutions, or None where the images are not there."""
    if not (folder / CIFAR).is_file():
        return None
    with np.load(folder / CIFAR) as file:
        parts = {name: file[name] for name in file.files}
    learn, test = (random_convolutions(parts[f"x_{part}"]) for part in ("train", "test"))
    y, y_test = (parts[f"y_{part}"].astype(np.int64) for part in ("train", "test"))
    return Subject("CIFAR-10", "CIFAR-10 (a part), 256 fixed random convolutions", learn, y, test, y_test)
