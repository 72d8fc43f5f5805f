"""Gradients of squared, logistic and softmax losses over rows, with proved bounds on their rounding errors.

The sums of disjoint sets of rows add up, so data may lie in shards. A bound on the norm of the whole gradient is what a
certificate by residual rests on: for a loss that is strongly convex it bounds the distance to the optimum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge._kernels import backend
from expunge._types import AnyArray
from expunge.accounting._float_mode import ieee_arithmetic
from expunge.data.blocks import Block, BlockWork, Records
from expunge.data.folding import fold

__all__ = ["LOSSES", "GradientSums", "float_rows", "gradient_sums"]

Float64 = NDArray[np.float64]

LOSSES = ("squared", "logistic", "softmax")

_UNIT = 2.0**-53
_FAINT = 2.0**-1021  # more than underflow takes from one product


def _rounding(additions: int) -> float:
    """Return at least k u / (1 - k u), the relative error of k roundings; infinite where it has no meaning."""
    share = additions * _UNIT
    return share / (1.0 - 2.0 * share) if share < 0.25 else math.inf


@dataclass(frozen=True)
class GradientSums:
    """Sums over rows of a loss's gradient, of what bounds its rounding errors, of the loss and of correct answers.

    Attributes
    ----------
    gradient : ndarray of float64, shape (q, p)
        Sum over the rows of weight times residual times features, without the penalty.
    error : float
        Sum of ``|x| e``, where e bounds the error of a row's residuals, all outputs together.
    magnitude : float
        Sum of ``|x| (|r| + e)``.
    loss : float
        Sum of weight times loss, without the penalty. Not rounded outward.
    correct : int or None
        Rows with weight above 0 whose class has the largest logit (the first of equal ones); None for squared loss.
    n_rows : int
        Rows summed.
    depth : int
        Largest number of additions behind an entry of ``gradient``.
    """

    gradient: Float64
    error: float
    magnitude: float
    loss: float
    correct: int | None
    n_rows: int
    depth: int

    def __add__(self, other: GradientSums) -> GradientSums:
        """Return the sums over both sets of rows, which share no row.

        Raises
        ------
        ValueError
            If the shapes of the gradients differ, or one loss has classes and the other none.
        """
        if self.gradient.shape != other.gradient.shape:
            raise ValueError(
                f"gradients must have one shape to be added, got {self.gradient.shape} and {other.gradient.shape}"
            )
        if (self.correct is None) != (other.correct is None):
            raise ValueError("sums of a squared loss cannot be added to those of a loss with classes")
        return GradientSums(
            self.gradient + other.gradient,
            self.error + other.error,
            self.magnitude + other.magnitude,
            self.loss + other.loss,
            None if self.correct is None or other.correct is None else self.correct + other.correct,
            self.n_rows + other.n_rows,
            max(self.depth, other.depth) + 1,
        )

    @ieee_arithmetic
    def norm_bound(self, theta: ArrayLike, *, alpha: float) -> float:
        """Return an upper bound on the norm of the exact gradient, penalty ``alpha/2 |theta|^2`` included.

        Parameters
        ----------
        theta : array_like of float64, shape (q, p)
            The parameters at which the sums were formed.
        alpha : float
            Strength of the penalty, >= 0.

        Returns
        -------
        float
            At least the Frobenius norm of the gradient of the sum of the losses plus ``alpha/2 |theta|^2``, evaluated
            without rounding at the floats of ``theta``; infinite where the sums overflowed or hold NaN, so that a
            comparison with a budget fails.

        Raises
        ------
        ValueError
            If theta has another shape than the gradient, or alpha is negative, infinite or NaN.

        Notes
        -----
        ``|G| (1 + gamma) + E (1 + gamma')`` with the computed gradient G and
        ``E = sum |x| e + gamma_d (sum |x| (|r| + e) + alpha |theta|)``, where d counts additions.

        Examples
        --------
        >>> import numpy as np
        >>> from expunge.runs.residual import gradient_sums
        >>> X, y, theta = np.eye(2), np.array([0, 1]), np.zeros((1, 2))
        >>> sums = gradient_sums(X, theta, labels=y, loss="logistic")
        >>> bool(0.5**0.5 <= sums.norm_bound(theta, alpha=1.0) <= 0.5**0.5 * (1 + 1e-13))
        True
        """
        alpha = _validate.number("alpha", alpha, low=0.0)
        parameters = _validate.real_array("theta", theta, ndim=2)
        if parameters.shape != self.gradient.shape:
            raise ValueError(f"theta must have shape {self.gradient.shape}, got {parameters.shape}")
        q, p = parameters.shape
        with np.errstate(over="ignore", invalid="ignore"):
            whole = self.gradient + alpha * parameters
            size = _norm_above(whole)
            penalty = alpha * _norm_above(parameters)
            error = self.error + _rounding(self.depth + 2) * (self.magnitude + penalty)
        # The sums of positive terms were rounded themselves: by their rows, features and outputs.
        margin = 1.0 + 2.0 * _rounding(self.n_rows + self.depth + p + q + 64)
        bound = (size + error * margin) * (1.0 + 4.0 * _UNIT) + (self.n_rows + 1.0) * (p * q + 1.0) * _FAINT
        return bound if math.isfinite(bound) else math.inf


def _norm_above(values: Float64) -> float:
    """Return at least the norm: the largest number is taken out, so that squares neither overflow nor vanish."""
    largest = float(np.abs(values).max(initial=0.0))
    if not 0.0 < largest < math.inf:
        return largest  # NaN stays NaN
    parts = values.ravel() / largest
    return largest * math.sqrt(float(parts @ parts)) * (1.0 + 2.0 * _rounding(parts.size + 8))


def float_rows(block: Block, *, fit_intercept: bool) -> Float64:
    """Return the features of a block as float64, with a constant column last where an intercept is fitted."""
    if not fit_intercept:
        return np.ascontiguousarray(block.X, dtype=np.float64)
    rows = np.ones((len(block), block.X.shape[1] + 1))
    rows[:, :-1] = block.X
    return rows


def gradient_sums(
    X: ArrayLike | Records,
    theta: ArrayLike,
    *,
    loss: str,
    targets: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    residuals: Float64 | None = None,
    threads: int | None = None,
) -> GradientSums:
    """Return the gradient of a loss summed over rows, and bounds on its rounding, in one pass over X.

    Parameters
    ----------
    X : array_like of float64, shape (n, p), or Records
        Rows of features; or a table of records, read block by block, whose targets are its own.
    theta : array_like of float64, shape (q, p)
        Parameters, a row for each output.
    loss : {"squared", "logistic", "softmax"}
        ``|u - t|^2 / 2``; ``log(1 + exp(-u))`` of the margin u, for one output or one class against the rest for
        each of q; or ``-log softmax(u)`` of the true class. u = theta x are the logits.
    targets : array_like of float64, shape (n, q), optional
        Needed by the squared loss, rejected with the others; those of a table are taken from it.
    labels : array_like of int64, shape (n,), optional
        Needed by the other losses: 0 or 1 with one output, else numbers of classes in [0, q). Those of a table are
        taken from it.
    weights : array_like of float64, shape (n,), optional
        Weight of each row's loss, >= 0; 1 if omitted.
    residuals : ndarray of float64, shape (n, q), optional
        Receives each row's derivative of the weighted loss with respect to the logits.
    threads : int, optional
        Most cores to use. The sums have the same bits for every number.

    Returns
    -------
    GradientSums
        The sums; those of a loss that is not finite hold NaN or infinity, and ``norm_bound`` is infinite.

    Raises
    ------
    ValueError
        If shapes disagree, theta or weights are not finite, weights are negative, labels are out of range, or the loss
        unknown. X and targets are not validated: where they are not finite, the sums are not either. What `Records`
        refuses while it reads.
    TypeError
        If labels are not integers, or another array does not hold real numbers.

    Notes
    -----
    Sigmoid, exp and log are within 2 units in the last place. Rows are summed in blocks of 64, blocks in ranges, ranges
    in a tree: which additions there are depends on the shape alone. Blocks of a table are added in a binary tree, so
    that the same rows give the same bits in any number of files.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.runs.residual import gradient_sums
    >>> sums = gradient_sums(np.eye(2), np.zeros((1, 2)), labels=[0, 1], loss="logistic")
    >>> sums.gradient.tolist(), sums.correct
    ([[0.5, -0.5]], 1)
    """
    if isinstance(X, Records):
        if targets is not None or labels is not None:
            raise TypeError("targets and labels must be omitted for a table of records, which has its own")
        return _table_sums(X, theta, loss=loss, weights=weights, residuals=residuals, threads=threads)
    rows, parameters = validated_problem(X, theta, loss)
    (n, p), q = rows.shape, len(parameters)
    given_targets = given_labels = None
    if loss == "squared":
        if targets is None or labels is not None:
            raise ValueError("targets, and no labels, must be given for the squared loss")
        given_targets = _rows("targets", targets)
        if given_targets.shape != (n, q):
            raise ValueError(f"targets must have shape {(n, q)}, got {given_targets.shape}")
    else:
        if labels is None or targets is not None:
            raise ValueError(f"labels, and no targets, must be given for the {loss} loss")
        given_labels = _class_numbers(labels, n, 2 if q == 1 and loss == "logistic" else q)
    given_weights = None
    if weights is not None:
        given_weights = _validate.real_array("weights", weights, ndim=1, low=0.0)
        if len(given_weights) != n:
            raise ValueError(f"weights must have length {n}, got {len(given_weights)}")
    gradient, sums = np.empty((q, p)), np.empty(4)
    backend.HOST.run(
        "residual_pass",
        rows,
        given_targets,
        given_labels,
        given_weights,
        parameters,
        gradient,
        sums,
        residuals,
        loss=loss,
        threads=threads,
    )
    error, magnitude, value, right = (float(part) for part in sums)
    correct = None if loss == "squared" else int(right)
    return GradientSums(gradient, error, magnitude, value, correct, n, backend.residual_depth(n, p, q))


def _table_sums(
    records: Records,
    theta: ArrayLike,
    *,
    loss: str,
    weights: ArrayLike | None,
    residuals: Float64 | None,
    threads: int | None,
) -> GradientSums:
    n = records.n_records
    if not records.has_targets:
        raise ValueError("X must be a table with targets: open it with target= or target_column=")
    given = None
    if weights is not None:
        given = _validate.real_array("weights", weights, ndim=1, low=0.0)
        if len(given) != n:
            raise ValueError(f"weights must have length {n}, got {len(given)}")
    size = records.block_rows
    parameters = _validate.real_array("theta", theta, ndim=2)

    def weight_of(number: int) -> Float64 | None:
        return None if given is None else given[number * size : (number + 1) * size]

    work = _TableWork(parameters, loss, residuals is not None)
    sums, found = fold(records, work, given=weight_of, threads=threads)
    if residuals is not None:
        residuals[...] = np.concatenate(found)
    return sums


@dataclass(frozen=True, eq=False)
class _TableWork(BlockWork["Float64 | None", "tuple[GradientSums, tuple[Float64, ...]]"]):
    """Sums of the gradients of a block, and its residuals if they are wanted."""

    theta: Float64
    loss: str
    residuals: bool

    def of(
        self, records: Records, block: Block, given: Float64 | None, *, threads: int | None
    ) -> tuple[GradientSums, tuple[Float64, ...]]:
        kept = np.empty((len(block), len(self.theta))) if self.residuals else None
        squared = self.loss == "squared"
        sums = gradient_sums(
            float_rows(block, fit_intercept=False),
            self.theta,
            loss=self.loss,
            targets=_target_rows(block.y) if squared else None,
            labels=None if squared else block.y,
            weights=given,
            residuals=kept,
            threads=threads,
        )
        return sums, () if kept is None else (kept,)

    def both(
        self, one: tuple[GradientSums, tuple[Float64, ...]], two: tuple[GradientSums, tuple[Float64, ...]]
    ) -> tuple[GradientSums, tuple[Float64, ...]]:
        return one[0] + two[0], one[1] + two[1]


def _target_rows(y: AnyArray | None) -> AnyArray | None:
    return y[:, np.newaxis] if y is not None and y.ndim == 1 else y


def validated_problem(X: ArrayLike, theta: ArrayLike, loss: str) -> tuple[Float64, Float64]:
    """Return rows and parameters as the kernels take them, or raise if they or the loss do not fit."""
    _validate.choice("loss", loss, LOSSES)
    rows = _rows("X", X)
    parameters = _validate.real_array("theta", theta, ndim=2)
    p, q = rows.shape[1], len(parameters)
    if parameters.shape != (q, p) or q == 0:
        raise ValueError(f"theta must have shape (q, {p}) with q >= 1, got {parameters.shape}")
    return rows, parameters


def _rows(name: str, values: ArrayLike) -> Float64:
    """Return rows as the kernel takes them, without validating each number, which would read the data once more."""
    array = _validate.plain_array(name, values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if array.ndim != 2:
        raise ValueError(f"{name} must have 2 dimensions, got shape {array.shape}")
    return np.ascontiguousarray(array, dtype=np.float64)


def _class_numbers(labels: ArrayLike, n: int, classes: int) -> NDArray[np.int64]:
    numbers = _validate.unmasked("labels", labels)
    if numbers.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got dtype {numbers.dtype}")
    if numbers.shape != (n,):
        raise ValueError(f"labels must have shape {(n,)}, got {numbers.shape}")
    if n and not (numbers.min() >= 0 and numbers.max() < classes):
        raise ValueError(f"labels must be in [0, {classes}), got {numbers.min()} to {numbers.max()}")
    return np.ascontiguousarray(numbers, dtype=np.int64)
