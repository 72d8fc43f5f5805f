"""Records behind features that do not depend on labels, for models whose deletions have exact costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from expunge import data
from expunge._kernels.backend import one_blas_thread
from expunge._types import Float64
from expunge.experiments.exact.settings import IMAGES, ExactSettings
from expunge.experiments.subjects import source_of
from expunge.runs.ridge import LearningLaw

__all__ = ["RidgeSubject", "load", "random_convolutions", "random_cosines"]

_SCALES = {"digits": (16.0, 2.0), "mnist": (255.0, 6.0)}  # of pixels, and of the random directions


@dataclass(frozen=True, eq=False)
class RidgeSubject:
    """Records to learn from: norms of rows are about 1.

    Attributes
    ----------
    X : ndarray of float64, shape (n, p)
        Features.
    targets : ndarray of float64, shape (n, q)
        One column for each class, or the scaled target.
    labels : ndarray of int64, shape (n,), or None
        Classes; None for a regression.
    step_size : float
        ``1 / L`` of the ridge loss.
    """

    X: Float64
    targets: Float64
    labels: NDArray[np.int64] | None
    step_size: float

    def law(self, settings: ExactSettings) -> LearningLaw:
        """Return the law of the learning run."""
        s = settings
        return LearningLaw(
            self.X, self.targets, alpha=s.alpha, step_size=self.step_size, n_steps=s.n_steps, noise_std=s.noise_std
        )


@lru_cache(maxsize=1)  # a process works on many pieces of one experiment
def load(settings: ExactSettings) -> RidgeSubject:
    """Return the first records of the data, as features."""
    labels: NDArray[np.int64] | None = None
    if settings.data in (*IMAGES, "digits"):
        X, y = _images(settings)
        labels = y.astype(np.int64)
    else:
        found = data.load(settings.data)
        assert found.y is not None  # of a table that ships with scikit-learn
        _require(settings, len(found.X), settings.data)
        columns = found.X[: settings.n_train]
        spread = columns.std(axis=0)
        columns = (columns - columns.mean(axis=0)) / np.where(spread > 0.0, spread, 1.0)
        X = np.hstack([columns / np.sqrt(columns.shape[1]), np.ones((len(columns), 1))])
        y = np.asarray(found.y)[: settings.n_train]
        labels = y.astype(np.int64) if settings.data != "diabetes" else None
    targets = ((y - y.mean()) / y.std())[:, np.newaxis] if labels is None else np.eye(int(labels.max()) + 1)[labels]
    with one_blas_thread():
        largest = float(np.linalg.eigvalsh(X.T @ X)[-1]) + settings.alpha
    return RidgeSubject(np.ascontiguousarray(X), np.ascontiguousarray(targets), labels, 1.0 / largest)


def _require(settings: ExactSettings, held: int, source: object) -> None:
    if held < settings.n_train:
        raise ValueError(f"n_train must be at most {held}, the records of {source}, got {settings.n_train}")


def _images(settings: ExactSettings) -> tuple[Float64, NDArray[np.generic]]:
    source, _ = source_of(settings.data, settings.data_folder)
    found = data.load(source)
    if found.y is None:
        raise ValueError(f"data_folder: {source} has no labels beside it")
    _require(settings, len(found.X), source)
    pixels, labels = found.X[: settings.n_train], np.asarray(found.y)[: settings.n_train]
    if settings.data == "cifar10":
        return random_convolutions(pixels.reshape(-1, 3, 32, 32), n_features=settings.n_features), labels
    largest, width = _SCALES[settings.data]
    return random_cosines(pixels / largest, n_features=settings.n_features, width=width), labels


def random_cosines(X: Float64, *, n_features: int, width: float, seed: int = 0) -> Float64:
    """Return random Fourier features of a Gaussian kernel (Rahimi, Recht, NeurIPS 2007).

    Parameters
    ----------
    X : ndarray of float64, shape (n, d)
        Inputs.
    n_features : int
        Number of features.
    width : float
        Of the kernel.
    seed : int
        Of directions and phases, which are constants.

    Returns
    -------
    ndarray of float64, shape (n, n_features)
        Rows of norm about 1.

    Examples
    --------
    >>> random_cosines(np.zeros((2, 3)), n_features=4, width=1.0).shape
    (2, 4)
    """
    rng = np.random.default_rng(seed)
    directions, phases = rng.normal(size=(X.shape[1], n_features)) / width, rng.uniform(0, 2 * np.pi, n_features)
    with one_blas_thread():
        return np.asarray(np.sqrt(2 / n_features) * np.cos(X @ directions + phases))


def random_convolutions(
    images: Float64, *, n_features: int, size: int = 6, grid: int = 2, seed: int = 0, batch: int = 64
) -> Float64:
    """Return features of images from fixed random filters (Coates, Ng, Lee, AISTATS 2011, with random filters).

    Patches of even brightness and contrast meet the filters; both signs are rectified at half a standard deviation and
    averaged over the cells of a grid.

    Parameters
    ----------
    images : ndarray of float64, shape (n, channels, height, width)
        Pixels within [0, 255].
    n_features : int
        A multiple of ``2 * grid^2``.
    size, grid : int
        Width of a filter, and cells along a side.
    seed : int
        Of the filters, which are constants.
    batch : int
        Images at a time.

    Returns
    -------
    ndarray of float64, shape (n, n_features)
        Rows of norm about 1.

    Examples
    --------
    >>> random_convolutions(np.zeros((2, 3, 12, 12)), n_features=16).shape
    (2, 16)
    """
    n_filters, left = divmod(n_features, 2 * grid**2)
    if left or not n_filters:
        raise ValueError(f"n_features must be a multiple of {2 * grid**2}, got {n_features}")
    channels = images.shape[1]
    filters = np.random.default_rng(seed).standard_normal((channels * size * size, n_filters))
    weights = torch.from_numpy((filters / np.linalg.norm(filters, axis=0)).astype(np.float32))
    out = []
    for start in range(0, len(images), batch):
        some = torch.from_numpy(np.float32(images[start : start + batch]) / np.float32(255))
        patches = F.unfold(some, size).transpose(1, 2)
        patches = patches - patches.mean(dim=2, keepdim=True)
        patches = patches / (patches.square().mean(dim=2, keepdim=True) + 0.01).sqrt()
        answers = (patches @ weights).transpose(1, 2)
        both = torch.cat([(answers - 0.5).clamp(min=0), (-answers - 0.5).clamp(min=0)], dim=1)
        sides = [length - size + 1 for length in some.shape[2:]]
        out.append(F.adaptive_avg_pool2d(both.reshape(len(some), 2 * n_filters, *sides), grid).flatten(1).numpy())
    # What is rectified has a mean of .2 where answers are standard normal.
    return np.asarray(0.4 * (np.concatenate(out).astype(np.float64) - 0.2))
