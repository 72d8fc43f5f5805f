"""Predictions of a classifier for each record: the arrays that the metrics are computed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from expunge._validate import real_array, unmasked

__all__ = ["Predictions", "predictions_from_logits"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """A classifier's outputs on n records.

    Attributes
    ----------
    losses : ndarray of float64, shape (n,)
        Cross-entropy.
    margins : ndarray of float64, shape (n,)
        Logit margin: logit of the true class less the largest of the others.
    correct : ndarray of bool, shape (n,)
        Whether the margin is positive: a tie with another class is not correct.
    """

    losses: Array
    margins: Array
    correct: NDArray[np.bool_]

    def __post_init__(self) -> None:
        losses, margins = real_array("losses", self.losses, ndim=1), real_array("margins", self.margins, ndim=1)
        correct = np.asarray(self.correct)
        if correct.dtype != np.bool_:
            raise TypeError(f"correct must hold booleans, got dtype {correct.dtype}")
        if not losses.shape == margins.shape == correct.shape:
            raise ValueError(
                f"losses, margins and correct must have one length, got {losses.shape}, {margins.shape} and "
                f"{correct.shape}"
            )
        if losses.size == 0:
            raise ValueError("losses must hold at least one record, got none")
        for name, value in (("losses", losses), ("margins", margins), ("correct", correct)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return int(self.losses.size)

    @property
    def accuracy(self) -> float:
        """Share of records classified correctly."""
        return float(self.correct.mean())


def predictions_from_logits(logits: ArrayLike, labels: ArrayLike) -> Predictions:
    """Return losses, logit margins and correctness from logits, in float64.

    Parameters
    ----------
    logits : array-like of float, shape (n, C)
        Finite; n >= 1, C >= 2.
    labels : array-like of int, shape (n,)
        Class numbers in [0, C).

    Returns
    -------
    Predictions

    Raises
    ------
    TypeError, ValueError
        If an array has another dtype or shape, a logit is not finite, or a label is out of range.

    Examples
    --------
    >>> found = predictions_from_logits([[2.0, 0.0], [1.0, 3.0]], [0, 0])
    >>> found.margins.tolist(), found.correct.tolist()
    ([2.0, -2.0], [True, False])
    """
    scores = real_array("logits", logits, ndim=2)
    truth: NDArray[Any] = unmasked("labels", labels)
    if truth.dtype.kind not in "iu":
        raise TypeError(f"labels must hold integers, got dtype {truth.dtype}")
    n, n_classes = scores.shape
    if n < 1 or n_classes < 2 or truth.shape != (n,):
        raise ValueError(
            f"logits must be (n, C) with n >= 1 and C >= 2, and labels (n,), got {scores.shape} and {truth.shape}"
        )
    if truth.min() < 0 or truth.max() >= n_classes:
        raise ValueError(f"labels must be within [0, {n_classes}), got {truth.min()} to {truth.max()}")
    rows = np.arange(n)
    true = scores[rows, truth]
    others = scores.copy()
    others[rows, truth] = -np.inf
    margins = true - others.max(axis=1)
    # -log p_y = log(1 + sum of exp(other - true)): no cancellation where p_y is nearly 1.
    return Predictions(np.logaddexp(0.0, logsumexp(others, axis=1) - true), margins, margins > 0)
