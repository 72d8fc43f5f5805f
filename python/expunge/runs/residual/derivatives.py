"""Residuals and curvatures of rows at given parameters, with bounds on what rounding did to them.

A loss of q outputs falls into parts that share no curvature: each output by itself for one-vs-rest, all outputs as one
number for the squared loss (their Hessians are equal), and all outputs together for softmax.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.runs.residual.gradients import GradientSums, SumTree, gradient_sums
from expunge.runs.residual.objective import Objective

__all__ = ["Derivatives", "Part", "RowBlocks", "derivatives", "derivatives_of", "rounding"]

Float64 = NDArray[np.float64]

UNIT = 2.0**-53
FAINT = 2.0**-1000  # more than underflow takes from a product, summed over the terms that fit in memory
# A residual's slope by the logit, and the roundings of one, in units: those of the kernel.
_SLOPE = {"squared": 1.0, "logistic": 0.25, "softmax": 0.5}


def rounding(terms: int) -> float:
    """Return at least the relative error of a sum of so many products; infinite where it has no meaning."""
    share = (terms + 2) * UNIT
    return share / (1.0 - 2.0 * share) if share < 0.25 else math.inf


@dataclass(frozen=True)
class Part:
    """Outputs that share curvature: k numbers a row.

    Attributes
    ----------
    outputs : slice
        Rows of theta.
    residuals : ndarray, shape (n, k)
        First derivatives of the weighted losses by the logits; for the squared loss their norm alone.
    residual_error : ndarray, shape (n,)
        At least the error of a row's residuals, all outputs together.
    curvatures : ndarray, shape (n, k, k)
        Second derivatives of the weighted losses.
    curvature_error : ndarray, shape (n,)
        At least the error of a row's curvature, in the operator norm.
    curvature_bound : ndarray, shape (n,)
        At least the operator norm of a row's exact curvature.
    probabilities : ndarray, shape (n, k), or None
        Those of softmax.
    gradient_bound : float
        At least the norm of the whole gradient in these outputs, penalty included.
    """

    outputs: slice
    residuals: Float64
    residual_error: Float64
    curvatures: Float64
    curvature_error: Float64
    curvature_bound: Float64
    probabilities: Float64 | None
    gradient_bound: float


@dataclass(frozen=True, eq=False)
class RowBlocks:
    """Features of an objective's records, a block at a time, as often as asked for."""

    objective: Objective

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.objective), self.objective.n_features

    def __iter__(self) -> Iterator[Float64]:
        for block in self.objective.blocks:
            yield block.X


@dataclass(frozen=True)
class Derivatives:
    """Rows and their derivatives.

    Attributes
    ----------
    rows : ndarray, shape (n, p), or RowBlocks
        Features, in memory or a block at a time.
    theta : ndarray, shape (q, p)
        Where the derivatives were taken.
    weights : ndarray, shape (n,)
        Those of the losses.
    norms : ndarray, shape (n,)
        At least the norms of the rows.
    sums : GradientSums
        The gradient of the losses.
    parts : tuple of Part
        What falls apart.
    """

    rows: Float64 | RowBlocks
    theta: Float64
    weights: Float64
    norms: Float64
    sums: GradientSums
    parts: tuple[Part, ...]


def derivatives(
    X: Float64,
    theta: Float64,
    *,
    loss: str,
    targets: ArrayLike | None,
    labels: ArrayLike | None,
    weights: ArrayLike | None,
    alpha: float,
    threads: int | None,
    squares: Float64 | None = None,
) -> Derivatives:
    """Return residuals and curvatures of the losses at theta; `squares` of the rows' norms, where they are known."""
    n, q = len(X), len(theta)
    residuals = np.empty((n, q))
    sums = gradient_sums(
        X, theta, loss=loss, targets=targets, labels=labels, weights=weights, residuals=residuals, threads=threads
    )
    share = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    norms = _norms_above(X, squares)
    if not np.isfinite(norms).all() and not np.isfinite(X).all():
        raise ValueError("X must be finite")
    return _derivatives(X, theta, residuals, sums, share, norms, loss=loss, labels=labels, alpha=alpha)


def derivatives_of(objective: Objective, theta: Float64) -> Derivatives:
    """Return residuals and curvatures of the records of an objective at theta, in one pass over its blocks."""
    n, q = len(objective), objective.n_outputs
    residuals, share, norms = np.empty((n, q)), np.ones(n), np.empty(n)
    labels = None if objective.loss == "squared" else np.empty(n, dtype=np.int64)
    tree, start = SumTree(), 0
    for block in objective.blocks:
        part = slice(start, start + len(block))
        start = part.stop
        tree.add(objective.sums_of(block, theta, residuals=residuals[part]))
        norms[part] = _norms_above(block.X, None)
        if block.weights is not None:
            share[part] = block.weights
        if labels is not None and block.labels is not None:
            labels[part] = block.labels
    rows = RowBlocks(objective)
    return _derivatives(
        rows, theta, residuals, tree.total(), share, norms, loss=objective.loss, labels=labels, alpha=objective.alpha
    )


def _derivatives(
    X: Float64 | RowBlocks,
    theta: Float64,
    residuals: Float64,
    sums: GradientSums,
    share: Float64,
    norms: Float64,
    *,
    loss: str,
    labels: ArrayLike | None,
    alpha: float,
) -> Derivatives:
    p, q = X.shape[1], len(theta)
    with np.errstate(all="ignore"):
        logit_error = rounding(p) * norms * _norms_above(theta.reshape(1, -1))[0] + FAINT
        size = np.linalg.norm(residuals, axis=1)
        own = share * (q + 30) * UNIT if loss != "squared" else 8 * UNIT * size
        error = (share * _SLOPE[loss] * logit_error + own + FAINT) * (1.0 + 2.0**-40)
        parts = tuple(
            replace(part, gradient_bound=_part_of(sums, part.outputs).norm_bound(theta[part.outputs], alpha=alpha))
            for part in _parts(loss, residuals, size, error, share, logit_error, labels)
        )
    return Derivatives(X, theta, share, norms, sums, parts)


def _part_of(sums: GradientSums, outputs: slice) -> GradientSums:
    """Return the sums of some outputs; the errors of all of them are more than theirs."""
    return replace(sums, gradient=sums.gradient[outputs])


def _norms_above(values: Float64, squares: Float64 | None = None) -> Float64:
    """Return at least the norms of rows; where squares overflow or vanish, the largest number is taken out first."""
    if squares is None:
        squares = np.einsum("np,np->n", values, values)
    found = np.sqrt(squares)
    odd = ~((squares > 1e-280) & (squares < 1e280))
    if odd.any() and values.shape[1]:
        largest = np.abs(values[odd]).max(axis=1)
        scale = np.where((largest > 0.0) & (largest < math.inf), largest, 1.0)
        parts = values[odd] / scale[:, None]
        found[odd] = scale * np.sqrt(np.einsum("np,np->n", parts, parts))
    return np.asarray(found * (1.0 + 2.0 * rounding(values.shape[1] + 8)) + FAINT * (found > 0.0))


def _parts(
    loss: str,
    residuals: Float64,
    size: Float64,
    error: Float64,
    share: Float64,
    logit_error: Float64,
    labels: ArrayLike | None,
) -> Iterator[Part]:
    n, q = residuals.shape
    if loss == "squared":
        flat = share[:, None, None]
        yield Part(slice(0, q), size[:, None], error, flat, np.zeros(n), share, None, math.inf)
        return
    positive = np.where(share > 0.0, share, 1.0)
    numbers = np.asarray(labels)
    if loss == "logistic":
        for c in range(q):
            r = residuals[:, c]
            # |r| is the probability of the wrong answer, where nothing cancels.
            curvature = np.abs(r) * np.maximum(0.0, 1.0 - np.abs(r) / positive)
            # The curvature's slope by the logit is below 0.1.
            off = share * (0.1 * logit_error + 16 * UNIT) + FAINT
            bound = np.minimum(curvature + off, 0.25 * share)
            yield Part(slice(c, c + 1), r[:, None], error, curvature[:, None, None], off, bound, None, math.inf)
        return
    probabilities = residuals / positive[:, None]
    probabilities[np.arange(n), numbers] += 1.0
    probabilities = np.clip(probabilities, 0.0, 1.0)
    curvatures = -share[:, None, None] * probabilities[:, :, None] * probabilities[:, None, :]
    curvatures[:, np.arange(q), np.arange(q)] += share[:, None] * probabilities
    # diag p - p p^T moves by at most three times what p does.
    off = 4.0 * (error + share * 4 * UNIT) + share * 8 * q * UNIT
    bound = np.minimum(np.sqrt(np.einsum("nab,nab->n", curvatures, curvatures)) + off, 0.5 * share)
    yield Part(slice(0, q), residuals, error, curvatures, off, bound * (1.0 + 2.0**-40), probabilities, math.inf)
