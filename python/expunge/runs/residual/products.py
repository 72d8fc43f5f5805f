"""Products of rows with an inverse Hessian: leverages, and the lengths of the solutions."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expunge._kernels import backend
from expunge._kernels.backend import one_blas_thread
from expunge.runs.residual.derivatives import FAINT, rounding
from expunge.runs.residual.objective import Objective, Rows, RowWork

__all__ = ["Products", "products", "products_of", "side_by_side", "solution_error"]

Float64 = NDArray[np.float64]

_BLOCK = 1 << 19  # numbers of a block of solutions: they stay in the cache until the kernel has read them
_LEAST = 64  # rows of a block at least


@dataclass(frozen=True)
class Products:
    """Products of n rows with a symmetric matrix P of order k p, as computed; U is a row in the place of each output.

    Attributes
    ----------
    leverages : ndarray, shape (n, k, k)
        ``U^T P U``.
    squares : ndarray, shape (n, k, k)
        ``U^T P P U``.
    norms : ndarray, shape (n,)
        Squares of the rows' norms.
    error : ndarray, shape (n,)
        At least the operator norm of the error of the products ``P U`` behind both.
    terms : int
        Numbers in a sum of `squares`, the longest.
    """

    leverages: Float64
    squares: Float64
    norms: Float64
    error: Float64
    terms: int


@dataclass(frozen=True, eq=False)
class _ProductWork(RowWork[list[list[Products]]]):
    """Products of rows with each of some matrices, block by block."""

    matrices: Float64

    def of(self, rows: Rows, *, threads: int | None = None) -> list[list[Products]]:
        """Return the products of a block with each matrix, on one thread of BLAS each."""
        with one_blas_thread():
            return [[products(rows.X, matrix, threads=threads, shared=True)] for matrix in self.matrices]

    def both(self, one: list[list[Products]], two: list[list[Products]]) -> list[list[Products]]:
        """Return those of both for each matrix."""
        return [first + second for first, second in zip(one, two, strict=True)]


def products_of(objective: Objective, matrices: Float64) -> list[Products]:
    """Return the products of an objective's records with each of some matrices, in one pass."""
    return [
        Products(
            np.concatenate([one.leverages for one in some]),
            np.concatenate([one.squares for one in some]),
            np.concatenate([one.norms for one in some]),
            np.concatenate([one.error for one in some]),
            some[0].terms,
        )
        for some in objective.folded(_ProductWork(matrices))
    ]


def products(rows: Float64, matrix: Float64, *, threads: int | None = None, shared: bool = False) -> Products:
    """Return the products of rows with a symmetric matrix: one product of matrices, and a pass over its blocks.

    If the work is ``shared``, each thread takes a block; otherwise BLAS and the kernel divide one among all.
    """
    n, p = rows.shape
    m = len(matrix)
    k = m // p if p else 1
    right = side_by_side(matrix, p)
    leverages, squares, norms = np.empty((n, k, k)), np.empty((n, k, k)), np.empty(n)
    step = max(_LEAST, _BLOCK // max(k * m, 1))
    workers = (backend.default_threads() if threads is None else threads) if shared else 1
    spaces = [np.empty((min(step, n), k * m)) for _ in range(workers)]

    def fill(begin: int) -> None:
        end, space = min(begin + step, n), spaces.pop()
        block = space[: end - begin]
        with np.errstate(all="ignore"):
            np.matmul(rows[begin:end], right, out=block)
        backend.HOST.run(
            "residual_leverages",
            rows[begin:end],
            block.reshape(end - begin, k, k, p),
            leverages[begin:end],
            squares[begin:end],
            norms[begin:end],
            threads=1 if shared else threads,
        )
        spaces.append(space)

    if workers == 1:
        for begin in range(0, n, step):
            fill(begin)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(fill, range(0, n, step)))
    error = solution_error(matrix, norms, p)
    return Products(leverages, squares, norms, error, m)


def side_by_side(matrix: Float64, p: int) -> Float64:
    """Return the matrix, its blocks of p rows side by side: rows times it are their solutions for each output."""
    m = len(matrix)
    k = m // p if p else 1
    return matrix if k == 1 else np.ascontiguousarray(matrix.reshape(k, p, m).transpose(1, 0, 2)).reshape(p, k * m)


def solution_error(matrix: Float64, squares: Float64, p: int) -> Float64:
    """Return at least the operator norm of the error of computed products ``P U``, for rows of these squared norms."""
    with np.errstate(all="ignore"):
        # Squares that vanish are below what is added to their sums.
        square = float(np.einsum("ij,ij->", matrix, matrix)) + matrix.size * 1e-323
        largest = math.sqrt(square) * (1.0 + rounding(matrix.size + 8)) if square < math.inf else math.inf
        faint = FAINT * (1.0 + largest)
        sizes = np.sqrt(squares + p * 1e-323) * (1.0 + rounding(p + 8))
        error = rounding(p + 4) * largest * sizes * (1.0 + 2.0**-40) + faint
        return np.asarray(np.where(error < math.inf, error, math.inf))
