"""Residuals and curvatures of rows at given parameters, with bounds on what rounding did to them.

A loss of q outputs falls into parts that share no curvature: each output by itself for one-vs-rest, all outputs as one
number for the squared loss (their Hessians are equal), and all outputs together for softmax.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.runs.residual.curvature import PIECE, hessian_of
from expunge.runs.residual.gradients import GradientSums, gradient_sums
from expunge.runs.residual.objective import Objective, Rows, RowWork, sums_of

__all__ = ["Derivatives", "Part", "Summed", "derivatives", "derivatives_of", "rounding"]

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
class Summed:
    """Rows that were read a block at a time and are not kept, and what was summed meanwhile.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns.
    hessians : tuple of ndarray, shape (m, m)
        Of each part, without the penalty.
    pieces : int
        At least the number of products that each of them is a sum of.
    """

    shape: tuple[int, int]
    hessians: tuple[Float64, ...]
    pieces: int


@dataclass(frozen=True)
class Derivatives:
    """Rows and their derivatives.

    Attributes
    ----------
    rows : ndarray, shape (n, p), or Summed
        Features, in memory or read before.
    theta : ndarray, shape (q, p)
        Where the derivatives were taken.
    weights : ndarray, shape (n,)
        Those of the losses.
    norms : ndarray, shape (n,)
        At least the norms of the rows.
    residuals : ndarray, shape (n, q)
        First derivatives of the weighted losses by the logits.
    sums : GradientSums
        The gradient of the losses.
    parts : tuple of Part
        What falls apart.
    """

    rows: Float64 | Summed
    theta: Float64
    weights: Float64
    norms: Float64
    residuals: Float64
    sums: GradientSums
    parts: tuple[Part, ...]

    def by_output(self, *, loss: str, alpha: float) -> tuple[Part, ...]:
        """Return the parts, with one for each output of the squared loss: residuals then keep their signs."""
        if loss != "squared":
            return self.parts
        (whole,) = self.parts
        return tuple(
            replace(
                whole,
                outputs=slice(c, c + 1),
                residuals=self.residuals[:, c : c + 1],
                gradient_bound=_part_of(self.sums, slice(c, c + 1)).norm_bound(self.theta[c : c + 1], alpha=alpha),
            )
            for c in range(len(self.theta))
        )


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
    """Return residuals and curvatures of the records of an objective at theta, and Hessians, in one pass."""
    found: _Seen = objective.folded(_DerivativeWork(theta, objective.loss))
    residuals, share, norms, labels = (np.concatenate(parts) for parts in zip(*found.rows, strict=True))
    rows = Summed((len(residuals), objective.n_features), found.hessians, found.pieces)
    return _derivatives(
        rows, theta, residuals, found.sums, share, norms, loss=objective.loss, labels=labels, alpha=objective.alpha
    )


class _Seen(NamedTuple):
    """Sums over blocks, and residuals, weights, norms and labels of each."""

    sums: GradientSums
    hessians: tuple[Float64, ...]
    pieces: int
    rows: tuple[tuple[Float64, Float64, Float64, NDArray[np.int64]], ...]


@dataclass(frozen=True, eq=False)
class _DerivativeWork(RowWork[_Seen]):
    theta: Float64
    loss: str

    def of(self, rows: Rows, *, threads: int | None = None) -> _Seen:
        n = len(rows)
        residuals = np.empty((n, len(self.theta)))
        sums = sums_of(rows, self.theta, loss=self.loss, residuals=residuals, threads=threads)
        share = rows.weighed()
        labels = np.zeros(n, dtype=np.int64) if rows.labels is None else rows.labels
        with np.errstate(all="ignore"):
            parts = _curvatures(self.loss, residuals, share, labels)
            hessians = tuple(hessian_of(rows.X, one, threads=threads) for one in parts)
        return _Seen(sums, hessians, -(-n // PIECE), ((residuals, share, _norms_above(rows.X, None), labels),))

    def both(self, one: _Seen, two: _Seen) -> _Seen:
        with np.errstate(all="ignore"):
            hessians = tuple(a + b for a, b in zip(one.hessians, two.hessians, strict=True))
        return _Seen(one.sums + two.sums, hessians, one.pieces + two.pieces, one.rows + two.rows)


def _derivatives(
    X: Float64 | Summed,
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
    return Derivatives(X, theta, share, norms, residuals, sums, parts)


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
    found = _curvatures(loss, residuals, share, labels)
    if loss == "squared":
        yield Part(slice(0, q), size[:, None], error, found[0], np.zeros(n), share, None, math.inf)
        return
    if loss == "logistic":
        for c, curvature in enumerate(found):
            # The curvature's slope by the logit is below 0.1.
            off = share * (0.1 * logit_error + 16 * UNIT) + FAINT
            bound = np.minimum(curvature[:, 0, 0] + off, 0.25 * share)
            yield Part(slice(c, c + 1), residuals[:, c, None], error, curvature, off, bound, None, math.inf)
        return
    probabilities, curvatures = _probabilities(residuals, share, labels), found[0]
    # diag p - p p^T moves by at most three times what p does.
    off = 4.0 * (error + share * 4 * UNIT) + share * 8 * q * UNIT
    bound = np.minimum(np.sqrt(np.einsum("nab,nab->n", curvatures, curvatures)) + off, 0.5 * share)
    yield Part(slice(0, q), residuals, error, curvatures, off, bound * (1.0 + 2.0**-40), probabilities, math.inf)


def _curvatures(loss: str, residuals: Float64, share: Float64, labels: ArrayLike | None) -> list[Float64]:
    """Return the second derivatives of the weighted losses, shape (n, k, k) for each part."""
    q = residuals.shape[1]
    if loss == "squared":
        return [share[:, None, None]]
    if loss == "logistic":
        # |r| is the probability of the wrong answer, where nothing cancels.
        wrong = np.abs(residuals)
        chances = wrong * np.maximum(0.0, 1.0 - wrong / np.where(share > 0.0, share, 1.0)[:, None])
        return [chances[:, c, None, None] for c in range(q)]
    probabilities = _probabilities(residuals, share, labels)
    curvatures = -share[:, None, None] * probabilities[:, :, None] * probabilities[:, None, :]
    curvatures[:, np.arange(q), np.arange(q)] += share[:, None] * probabilities
    return [curvatures]


def _probabilities(residuals: Float64, share: Float64, labels: ArrayLike | None) -> Float64:
    """Return those of softmax, shape (n, q)."""
    found = residuals / np.where(share > 0.0, share, 1.0)[:, None]
    found[np.arange(len(found)), np.asarray(labels)] += 1.0
    return np.clip(found, 0.0, 1.0)
