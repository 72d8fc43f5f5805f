"""Inverse Hessians in floating point, with a bound on how far the exact ones may be from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge.accounting._float_mode import ieee_arithmetic
from expunge.runs.residual.curvature import PIECE, add_hessian
from expunge.runs.residual.derivatives import FAINT, UNIT, Derivatives, Summed, derivatives, rounding
from expunge.runs.residual.gradients import validated_problem

__all__ = ["ProvedInverse", "prove_inverse"]

Float64 = NDArray[np.float64]

LEAST_ALPHA, LARGEST_ALPHA = 1e-30, 1e30  # far from where products of bounds vanish


@dataclass(frozen=True)
class ProvedInverse:
    """Floats near the inverse Hessians of a penalised loss at some parameters, and bounds on their errors.

    One for each output of one-vs-rest, one for all outputs of the squared loss, whose Hessians are equal, and one of
    order q p for softmax.

    Attributes
    ----------
    matrices : ndarray of float64, shape (parts, m, m)
        Symmetric P, near ``H^-1``.
    defects : ndarray of float64, shape (parts,)
        Bound: at least the operator norm of ``I - P H`` with the exact H. Where it is not below 1/2, nothing is
        concluded from P.
    norms : ndarray of float64, shape (parts,)
        Bound: at least the operator norm of the exact ``H^-1``, and at most ``1/alpha`` but for rounding.
    theta : ndarray of float64, shape (q, p)
        The parameters the Hessians are taken at.
    alpha : float
        Strength of the penalty.
    n_rows : int
        Rows behind the Hessians.
    """

    matrices: Float64
    defects: Float64
    norms: Float64
    theta: Float64
    alpha: float
    n_rows: int

    def __post_init__(self) -> None:
        for value in (self.matrices, self.defects, self.norms, self.theta):
            value.flags.writeable = False


@ieee_arithmetic
def prove_inverse(
    X: ArrayLike,
    theta: ArrayLike,
    *,
    loss: str,
    alpha: float,
    targets: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    inverse: ArrayLike | None = None,
    threads: int | None = None,
) -> ProvedInverse:
    """Return the inverse Hessians of a penalised loss at theta, with bounds on their errors.

    Parameters
    ----------
    X : array_like of float64, shape (n, p)
        Rows of features; an intercept is a constant column.
    theta : array_like of float64, shape (q, p)
        Parameters.
    loss : {"squared", "logistic", "softmax"}
        As in `gradient_sums`.
    alpha : float
        Strength of the penalty ``alpha/2 |theta|^2``, within [1e-30, 1e30].
    targets, labels, weights : array_like, optional
        As in `gradient_sums`.
    inverse : array_like of float64, shape (m, m) or (parts, m, m), optional
        Inverses found before; computed here if omitted. An old or a wrong one makes the bounds wide, not false.
    threads : int, optional
        Most cores of a pass over the rows. Products of matrices use the threads of BLAS.

    Returns
    -------
    ProvedInverse
        The inverses. Where a Hessian is not finite or nothing can be proved, its defect is infinite.

    Raises
    ------
    ValueError
        If X is not finite, alpha is out of range, a shape is wrong, or as in `gradient_sums`.

    Notes
    -----
    Certified. Sums and products in floating point are off by gamma of their terms times the sum of absolute values, for
    any order of the additions; logits and curvatures by the bounds of `gradient_sums`. See ``docs/theory.md``.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.runs.residual import prove_inverse
    >>> found = prove_inverse(np.eye(2), np.zeros((1, 2)), loss="logistic", labels=[0, 1], alpha=1.0)
    >>> found.matrices.tolist(), bool(found.defects[0] < 1e-13)
    ([[[0.8, 0.0], [0.0, 0.8]]], True)
    """
    alpha = _validate.number("alpha", alpha, low=LEAST_ALPHA, high=LARGEST_ALPHA)
    rows, parameters = validated_problem(X, theta, loss)
    found = derivatives(
        rows, parameters, loss=loss, targets=targets, labels=labels, weights=weights, alpha=alpha, threads=threads
    )
    return proved(found, alpha=alpha, inverse=inverse)


def proved(found: Derivatives, *, alpha: float, inverse: ArrayLike | None) -> ProvedInverse:
    """Return the inverses of the parts' Hessians, given or computed, with their bounds."""
    p = found.rows.shape[1]
    orders = [part.curvatures.shape[1] * p for part in found.parts]
    shape = (len(orders), orders[0], orders[0])
    given = None
    if inverse is not None:
        given = _validate.real_array("inverse", inverse)
        if given.shape == shape[1:]:
            given = given[None]
        if given.shape != shape:
            raise ValueError(f"inverse must have shape {shape}, got {given.shape}")
    matrices, defects, norms = np.zeros(shape), np.full(len(orders), math.inf), np.full(len(orders), math.inf)
    with np.errstate(all="ignore"):
        for number in range(len(found.parts)):
            hessian, error = _hessian(found, number, alpha)
            matrix = _inverse_of(hessian) if given is None else (given[number] + given[number].T) / 2.0
            norms[number] = (1.0 + 4.0 * UNIT) / alpha
            if matrix is None or not (np.isfinite(matrix).all() and np.isfinite(hessian).all()):
                continue
            largest = _norm_above(matrix)
            defect = _product_defect(matrix, hessian) + largest * error * (1.0 + 2.0**-40)
            matrices[number] = matrix
            if defect < 0.5:
                defects[number] = defect
                norms[number] = min(norms[number], largest / (1.0 - defect) * (1.0 + 2.0**-40))
    return ProvedInverse(matrices, defects, norms, found.theta.copy(), alpha, found.rows.shape[0])


def _hessian(found: Derivatives, number: int, alpha: float) -> tuple[Float64, float]:
    """Return a part's Hessian as summed, and at least the operator norm of its error."""
    part, rows = found.parts[number], found.rows
    n, p = rows.shape
    k = part.curvatures.shape[1]
    if isinstance(rows, Summed):
        hessian, pieces = rows.hessians[number].copy(), rows.pieces
    else:
        hessian, pieces = np.zeros((k * p, k * p)), -(-n // PIECE)
        for begin in range(0, n, PIECE):
            add_hessian(hessian, rows[begin : begin + PIECE], part.curvatures[begin : begin + PIECE])
    hessian[np.diag_indices(k * p)] += alpha
    # The absolute values of diag p - p p^T have rows that add up to 2 p (1 - p), at most 1/2.
    absolute = found.weights if part.probabilities is not None else part.curvatures[:, 0, 0]
    square = found.norms**2
    # Of the pieces: one after the other, or those of a block so and the blocks in a tree, which are fewer.
    additions = min(n, PIECE) + 2 * pieces + 12
    error = rounding(additions) * (float(absolute @ square) + alpha * math.sqrt(k * p))
    faint = FAINT * n * k * p * (1.0 + math.sqrt(float(absolute @ square)))
    return hessian, (error + float(part.curvature_error @ square)) * (1.0 + 2.0 * rounding(n + 20)) + faint


def _inverse_of(hessian: Float64) -> Float64 | None:
    try:
        found = np.linalg.inv(hessian)
    except np.linalg.LinAlgError:
        return None
    return (found + found.T) / 2.0


def _product_defect(matrix: Float64, hessian: Float64) -> float:
    """Return at least the operator norm of ``I - matrix hessian``."""
    product = matrix @ hessian
    product[np.diag_indices(len(product))] -= 1.0
    sizes = _frobenius(matrix) * _frobenius(hessian) + math.sqrt(len(matrix))
    return (_frobenius(product) + rounding(len(matrix) + 4) * sizes) * (1.0 + 2.0**-40)


def _frobenius(matrix: Float64) -> float:
    """Return at least the Frobenius norm of a matrix whose squares do not overflow; infinite where they do."""
    square = float(np.einsum("ij,ij->", matrix, matrix)) + matrix.size * 1e-323
    return math.sqrt(square) * (1.0 + 2.0 * rounding(matrix.size + 8)) if square < math.inf else math.inf


def _norm_above(matrix: Float64) -> float:
    """Return at least the operator norm of a symmetric matrix: the norm of its eighth power's, rounding counted."""
    scale = float(np.abs(matrix).max(initial=0.0))
    if not scale > 0.0:
        return 0.0
    power, losses = matrix / scale, []
    for _ in range(3):
        size = _frobenius(power)
        losses.append(rounding(len(matrix) + 4) * size * size)
        power = power @ power
    bound = _frobenius(power)
    for loss in reversed(losses):
        bound = math.sqrt(bound + loss) * (1.0 + 4.0 * UNIT)
    return float(bound * scale * (1.0 + 8.0 * UNIT) * (1.0 + 2.0**-40))
