"""Inverse Hessians of the three losses, brought up to date record by record. No claim rests on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.special import expit, softmax

from expunge._kernels.backend import one_blas_thread
from expunge.runs.residual.curvature import PIECE, add_hessian, hessian_of
from expunge.runs.residual.objective import Objective, Rows, RowWork

__all__ = ["InverseHessian"]

Float64 = NDArray[np.float64]

# Removing records divides by 1 - leverage; below this the inverse would lose digits, and is computed anew.
_LEAST_PIVOT = 1e-3


@dataclass(frozen=True, eq=False)
class InverseHessian:
    """Inverse of an objective's Hessian at some parameters.

    Attributes
    ----------
    matrices : ndarray of float64
        Shape (1, p, p) for the squared loss, whose outputs share it; (q, p, p) for the logistic loss, one for each
        output; (1, pq, pq) for the softmax loss, the parameters of an output side by side.
    theta : ndarray of float64, shape (q, p)
        Where the Hessian was taken.
    loss : str
        Of the objective.
    """

    matrices: Float64
    theta: Float64
    loss: str

    @classmethod
    def of(cls, objective: Objective, theta: Float64) -> InverseHessian:
        """Return the inverse at theta, by Cholesky factors: n p^2 operations for each matrix.

        Raises
        ------
        ValueError
            If rounding leaves no positive definite matrix: alpha is then far too small for these features.
        """
        total = objective.folded(_HessianWork(theta, objective.loss))
        return cls(np.stack([_inverted(part, objective.alpha) for part in total]), theta.copy(), objective.loss)

    def step(self, gradient: Float64) -> Float64:
        """Return the inverse times a gradient, both of shape (q, p): the Newton step to subtract."""
        if self.loss == "logistic":
            return np.asarray(np.matmul(self.matrices, gradient[:, :, np.newaxis])[:, :, 0])
        if self.loss == "squared":
            return np.asarray(gradient @ self.matrices[0])
        return np.asarray((self.matrices[0] @ gradient.ravel()).reshape(gradient.shape))

    def without(self, rows: Rows) -> InverseHessian | None:
        """Return the inverse without some records, by Woodbury's identity, or None if it is better computed anew."""
        return self._updated(rows, -1.0)

    def with_rows(self, rows: Rows) -> InverseHessian | None:
        """Return the inverse with some records more, by Woodbury's identity, or None if it is better computed anew."""
        return self._updated(rows, 1.0)

    def _updated(self, rows: Rows, sign: float) -> InverseHessian | None:
        # (H + s A^T A)^-1 = P - s P A^T (I + s A P A^T)^-1 A P
        roots = []
        for matrix, A in zip(self.matrices, _factors(rows, self.theta, self.loss), strict=True):
            if 4 * len(A) > len(matrix):
                return None
            K = A @ matrix
            middle = sign * (K @ A.T)
            middle.flat[:: len(A) + 1] += 1.0
            try:
                lower = np.linalg.cholesky(middle)
            except np.linalg.LinAlgError:
                return None
            if not np.square(np.diagonal(lower)).min(initial=1.0) >= _LEAST_PIVOT:  # NaN is also refused
                return None
            roots.append(K / lower[0, 0] if len(A) == 1 else _solved(lower, K))
        changed = self.matrices.copy()
        for matrix, root in zip(changed, roots, strict=True):
            if len(root) == 1:  # what a single thread reads and writes once is not worth waking others
                matrix -= np.outer(sign * root[0], root[0])
            else:
                # Symmetric, so that its transpose, which BLAS can write into, serves as well.
                scipy.linalg.blas.dgemm(-sign, root, root, beta=1.0, c=matrix.T, trans_a=True, overwrite_c=True)
        return InverseHessian(changed, self.theta, self.loss)


def _solved(lower: Float64, K: Float64) -> Float64:
    return np.asarray(scipy.linalg.solve_triangular(lower, K, lower=True, check_finite=False))


def _weights(rows: Rows, part: slice) -> Float64:
    count = len(rows.X[part])
    return np.ones(count) if rows.weights is None else rows.weights[part]


@dataclass(frozen=True, eq=False)
class _HessianWork(RowWork[Float64]):
    """Hessians of the losses at theta, without the penalty: one for each part, shape (parts, m, m)."""

    theta: Float64
    loss: str

    def of(self, rows: Rows, *, threads: int | None = None) -> Float64:
        with one_blas_thread():
            found = [self._curvatures(rows, piece) for piece in _pieces(rows)]
        joined = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return np.stack([hessian_of(rows.X, curvatures, threads=threads) for curvatures in joined])

    def both(self, one: Float64, two: Float64) -> Float64:
        return one + two

    def onto(self, result: Float64 | None, rows: Rows) -> Float64:
        if result is None:
            q, p = self.theta.shape
            count, size = {"squared": (1, p), "logistic": (q, p), "softmax": (1, q * p)}[self.loss]
            result = np.zeros((count, size, size))
        for piece in _pieces(rows):
            for matrix, curvatures in zip(result, self._curvatures(rows, piece), strict=True):
                add_hessian(matrix, rows.X[piece], curvatures)
        return result

    def _curvatures(self, rows: Rows, piece: slice) -> list[Float64]:
        """Return the second derivatives of some rows' losses, (n, k, k) for each part."""
        X, weights = rows.X[piece], _weights(rows, piece)
        if self.loss == "softmax":
            chances = softmax(X @ self.theta.T, axis=1)
            curvatures = -weights[:, np.newaxis, np.newaxis] * chances[:, :, np.newaxis] * chances[:, np.newaxis, :]
            q = len(self.theta)
            curvatures[:, np.arange(q), np.arange(q)] += weights[:, np.newaxis] * chances
            return [curvatures]
        by_output = weights[:, np.newaxis] if self.loss == "squared" else _curvatures(X, self.theta, weights)
        return [one[:, np.newaxis, np.newaxis] for one in by_output.T]


def _pieces(rows: Rows) -> list[slice]:
    return [slice(start, start + PIECE) for start in range(0, len(rows), PIECE)]


def _curvatures(X: Float64, theta: Float64, weights: Float64) -> Float64:
    """Return the second derivatives of weighted logistic losses by their logits, shape (n, q)."""
    logits = X @ theta.T
    return np.asarray(weights[:, np.newaxis] * expit(logits) * expit(-logits))


def _factors(rows: Rows, theta: Float64, loss: str) -> list[Float64]:
    """Return, for each matrix, A with A^T A the rows' share of the Hessian."""
    weights = rows.weighed()
    if loss == "squared":
        return [rows.X * np.sqrt(weights)[:, np.newaxis]]
    if loss == "logistic":
        curvatures = _curvatures(rows.X, theta, weights)
        return [rows.X * np.sqrt(curvature)[:, np.newaxis] for curvature in curvatures.T]
    chances = softmax(rows.X @ theta.T, axis=1)
    roots = np.sqrt(chances)
    # diag(c) - c c^T = B B^T with B = diag(sqrt c) - c sqrt(c)^T; row a of a record's factor is column a of B, times x.
    B = -chances[:, :, np.newaxis] * roots[:, np.newaxis, :]
    B[:, np.arange(len(theta)), np.arange(len(theta))] += roots
    B *= np.sqrt(weights)[:, np.newaxis, np.newaxis]
    return [np.einsum("nca,nj->nacj", B, rows.X).reshape(-1, theta.size)]


def _inverted(hessian: Float64, alpha: float) -> Float64:
    hessian.flat[:: len(hessian) + 1] += alpha
    lower, failed = scipy.linalg.lapack.dpotrf(hessian, lower=1, clean=1, overwrite_a=0)
    if not failed and np.isfinite(lower).all():
        inverse, failed = scipy.linalg.lapack.dpotri(lower, lower=1, overwrite_c=1)
        if not failed:
            inverse = np.tril(inverse)
            return np.asarray(inverse + np.tril(inverse, -1).T)
    raise ValueError(
        f"alpha is too small for these features: the Hessian with alpha = {alpha:g} is not positive definite in "
        "float64; scale the features by a constant, or give a larger alpha"
    )
