"""Matrices of balls: in from floats exactly, out to floats for guesses, norms, and pairs made nearly diagonal."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from flint import arb, arb_mat
from numpy.typing import NDArray
from scipy import linalg

from expunge.proof.balls import zero

__all__ = ["DiagonalPair", "diagonal_pair", "exact_matrix", "floats", "frobenius", "identity"]

Array = NDArray[np.float64]
# A correction of eigenvectors is made where it is small.
_SMALL_TURN = 1e-6


def exact_matrix(values: Array) -> arb_mat:
    """Return a matrix of floats as balls without a radius."""
    rows, columns = values.shape
    return arb_mat(rows, columns, [arb(one) for one in values.ravel().tolist()])


def identity(size: int) -> arb_mat:
    """Return the identity."""
    return exact_matrix(np.eye(size))


def floats(matrix: arb_mat) -> Array:
    """Return the midpoints as floats: a guess, never part of a proof."""
    values = [float(one.mid()) for one in matrix.entries()]
    return np.array(values).reshape(matrix.nrows(), matrix.ncols())


def frobenius(matrix: arb_mat) -> arb:
    """Return the Frobenius norm."""
    # The square of a ball around 0 may reach below 0.
    return sum((one * one for one in matrix.entries()), zero()).nonnegative_part().sqrt()


class DiagonalPair(NamedTuple):
    """A matrix B with B S B^T near I and B D B^T near diag(values); bounds on how near, in the Frobenius norm."""

    transform: arb_mat
    values: list[arb]
    whitening: arb
    off_diagonal: arb


def diagonal_pair(covariance: arb_mat, difference: arb_mat, *, refinements: int) -> DiagonalPair:
    """Return a transform that whitens one symmetric matrix and makes another diagonal.

    B comes from float64 and is refined in balls; whatever it is, the bounds say how well it does.

    Raises
    ------
    ArithmeticError
        If the first matrix is so near to singular, or so large or small, that float64 finds no first guess.
    """
    transform = _first_guess(floats(covariance), floats(difference))
    eye = identity(covariance.nrows())
    for left in reversed(range(refinements + 1)):
        transposed = transform.transpose()
        rest = transform * covariance * transposed - eye
        if left == 0:
            break
        size = floats(rest)
        if not np.isfinite(size).all():
            raise ArithmeticError("the covariance of the reference run leaves the range of what can be whitened")
        if np.linalg.norm(size) > 0.1:
            try:
                factor = np.linalg.cholesky(size + np.eye(len(size)))
            except np.linalg.LinAlgError:
                raise ArithmeticError("the covariance of the reference run is numerically singular") from None
            transform = (exact_matrix(linalg.solve_triangular(factor, np.eye(len(size)), lower=True)) * transform).mid()
        else:
            correction = eye - rest * arb(0.5)
            if left > 1:  # a turn costs some of the whitening: the last refinement is of that alone
                turned = transform * difference * transposed
                correction = correction + exact_matrix(_turn(floats(turned)))
            transform = (correction * transform).mid()
    turned = transform * difference * transposed
    values = [turned[i, i].mid() for i in range(turned.nrows())]
    for i, value in enumerate(values):
        turned[i, i] = turned[i, i] - value
    return DiagonalPair(transform, values, frobenius(rest), frobenius(turned))


def _first_guess(covariance: Array, difference: Array) -> arb_mat:
    with np.errstate(all="ignore"):
        scale = 1.0 / np.sqrt(np.diag(covariance))
        scaled = scale[:, None] * covariance * scale
    if not np.isfinite(scaled).all() or not np.isfinite(difference).all():
        raise ArithmeticError("a variance of the reference run is 0 or leaves the range of float64: too little noise")
    size = len(scaled)
    for room in (0.0, 1e-15, 1e-13, 1e-11):
        try:
            factor = np.linalg.cholesky(scaled + room * size * np.eye(size))
            break
        except np.linalg.LinAlgError:
            continue
    else:
        raise ArithmeticError("the covariance of the reference run is numerically singular")
    white = linalg.solve_triangular(factor, np.diag(scale), lower=True)
    _, vectors = np.linalg.eigh(white @ difference @ white.T)
    return exact_matrix(vectors.T @ white)


def _turn(turned: Array) -> Array:
    """Return the small rotation that takes most of what is off the diagonal away."""
    values = np.diag(turned)
    gap = values[:, None] - values[None, :]
    with np.errstate(all="ignore"):
        angle = turned / gap
    np.fill_diagonal(angle, 0.0)
    return np.where(np.isfinite(angle) & (np.abs(angle) < _SMALL_TURN), angle, 0.0)
