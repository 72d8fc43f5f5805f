"""The Gaussian law of a ridge Langevin run at every step of learning; see :mod:`expunge.runs.ridge`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge._kernels import backend
from expunge._kernels.backend import one_blas_thread
from expunge.data.close_products import MARGIN, TINY, UNIT, columns, norm, sum_error
from expunge.runs.ridge.rounding import Basis, Frame, rotation
from expunge.runs.ridge.step_blocks import FrameErrors
from expunge.runs.ridge.step_sizes import require_step_size
from expunge.runs.ridge.table_sums import TableSums

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

# Residual tables are made in blocks of this many bytes, far below the gigabyte at which they would hurt.
_TABLE_BYTES = 64 << 20
_BLOCK_ROWS = 512
_DEVICE_TABLE_BYTES = 1 << 30
EPS = float(np.finfo(np.float64).eps)
_LEAST_NOISE = 1e-100  # the squares of less, and of records and residuals that matter beside it, would underflow


class LearningLaw:
    """The Gaussian law of a ridge Langevin run, at every step of learning ([BAC26], section 4).

    A design and targets on a CUDA device (float64 arrays of CuPy, PyTorch or JAX) stay there, and quotes of records are
    made there and come back as such arrays; only the eigenvalue problem of X^T X is solved on the CPU.

    Parameters
    ----------
    design : array_like of float, shape (n_records, n_features)
        All training records, the one to forget included. Kept by reference.
    targets : array_like of float, shape (n_records,) or (n_records, n_outputs)
        Their targets. Kept by reference.
    alpha : float
        L2 regularisation of the summed loss, > 0.
    step_size : float
        Step size, > 0 and at most ``(1 + 1e-9) / L`` with ``L`` the largest eigenvalue of ``X^T X + alpha I``.
    n_steps : int
        Learning steps, >= 1.
    noise_std : float
        Standard deviation of the noise of one learning step: 0, or at least 1e-100.

    Attributes
    ----------
    eigenvalues : ndarray of float64, shape (n_features,)
        Of ``X^T X + alpha I``, ascending.
    eigenvectors : ndarray of float64, shape (n_features, n_features)
        The matching columns.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or shape, is not finite or is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.runs.ridge import LearningLaw
    >>> X = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> law = LearningLaw(X, X[:, 0], alpha=1.0, step_size=0.1, n_steps=20, noise_std=0.1)
    >>> law.residual_means([0]).shape
    (1, 20, 1)
    """

    def __init__(
        self, design: ArrayLike, targets: ArrayLike, *, alpha: float, step_size: float, n_steps: int, noise_std: float
    ) -> None:
        self._place = backend.place(design=design, targets=targets)
        values: Any
        if not self._place.on_host:
            self.design, values = _device_array(self._place, "design", design), targets
            if self.design.ndim != 2:
                raise ValueError(f"design must have 2 dimensions, got shape {tuple(self.design.shape)}")
            values = _device_array(self._place, "targets", targets)
        else:
            self.design = _validate.real_array("design", design, ndim=2)
            values = _validate.real_array("targets", targets)
        if values.ndim not in (1, 2) or values.shape[0] != self.design.shape[0]:
            raise ValueError(
                f"targets must have shape ({self.design.shape[0]},) or ({self.design.shape[0]}, n_outputs), "
                f"got {tuple(values.shape)}"
            )
        if 0 in self.design.shape or 0 in values.shape:
            raise ValueError(f"design and targets must not be empty, got shapes {self.design.shape} and {values.shape}")
        self.targets = values.reshape(values.shape[0], -1)
        self._sums: TableSums | None = None
        self._settings(alpha, step_size, n_steps, noise_std)
        self._decompose(*self._products())

    @classmethod
    def of_sums(cls, sums: TableSums, *, alpha: float, step_size: float, n_steps: int, noise_std: float) -> LearningLaw:
        """Return the law of a run on a table whose sums have been formed; ``beside`` rows of it, it quotes these."""
        law = cls.__new__(cls)
        law._place, law._sums = backend.HOST, sums
        p, q = sums.moment.value.shape
        law.design, law.targets = np.empty((0, p)), np.empty((0, q))
        law._settings(alpha, step_size, n_steps, noise_std)
        law._decompose(sums.gram.value.copy(), sums.moment.value)
        return law

    def beside(self, design: Float64, targets: Float64) -> LearningLaw:
        """Return the law of a table beside some of its rows, which records are then numbers of."""
        if self._sums is None:
            raise TypeError("law must be that of a table, got one that has its rows")
        law = copy.copy(self)
        law.design, law.targets = design, targets
        return law

    def _settings(self, alpha: float, step_size: float, n_steps: int, noise_std: float) -> None:
        self.alpha = _validate.number("alpha", alpha, low=0.0, open_low=True)
        self.step_size = _validate.number("step_size", step_size, low=0.0, open_low=True)
        self.n_steps = _validate.count("n_steps", n_steps, low=1)
        self.noise_std = _validate.number("noise_std", noise_std, low=0.0)
        if 0.0 < self.noise_std < _LEAST_NOISE:
            raise ValueError(f"noise_std must be 0 or at least {_LEAST_NOISE:g}, got {self.noise_std:g}")

    def _decompose(self, gram: Float64, products: Float64) -> None:
        with one_blas_thread():
            gram[np.diag_indices_from(gram)] += self.alpha
            self.eigenvalues, self.eigenvectors = scipy.linalg.eigh(gram, check_finite=False)
            self.eigenvectors = np.ascontiguousarray(self.eigenvectors)
            moments = self.eigenvectors.T @ products
        self._gram, self._moment = gram, products
        if not np.isfinite(self.eigenvalues).all() or not np.isfinite(moments).all():
            raise ValueError("design must be small enough for X^T X to be finite, got an overflow")
        require_step_size(self.step_size, largest=float(self.eigenvalues[-1]), n_columns=self.n_features)
        factors = (1.0 - self.step_size * self.eigenvalues)[:, None]
        means = np.zeros((self.n_features, self.n_steps, self.n_outputs))
        for step in range(1, self.n_steps):
            means[:, step] = factors * means[:, step - 1] + self.step_size * moments
        self._mean_errors = self._rounding_of(means, factors)
        self._means = means.reshape(self.n_features, -1)
        # what blocks of records are multiplied by, and kernels read, where the records lie
        there = [self._place.asarray(array) for array in (self.eigenvalues, self.eigenvectors, self._means)]
        self._spectrum_there, self._vectors_there, self._means_there = there

    def _products(self) -> tuple[Float64, Float64]:
        """Return X^T X and X^T Y on the host."""
        if self._place.on_host:
            with one_blas_thread():
                return self.design.T @ self.design, self.design.T @ self.targets
        library = self._place.library
        rows = library.transposed(self.design, (1, 0))
        gram, products = (library.host(library.product(rows, factor)) for factor in (self.design, self.targets))
        # arrays on a device are not read, but their products are NaN or infinite where they are not finite
        if not np.isfinite(gram).all():
            raise ValueError("design must be finite and small enough for X^T X to be finite")
        if not np.isfinite(products).all():
            raise ValueError("targets must be finite and small enough for X^T Y to be finite")
        return gram, products

    def _rounding_of(self, means: Float64, factors: Float64) -> Float64:
        """Return bounds on the Frobenius norm of what rounding does to the means of each step, shape (n_steps,)."""
        with np.errstate(divide="ignore"):
            memory = 1.0 / (1.0 - np.abs(factors))  # steps over which a rounding is felt
        felt = np.minimum(np.where(memory > 0.0, memory, np.inf), np.arange(1.0, self.n_steps + 1.0))
        squares = np.zeros(self.n_steps)
        for output in range(self.n_outputs):
            largest = np.maximum.accumulate(np.abs(means[:, :, output]), axis=1)
            squares += np.square(felt * largest).sum(axis=0)
        return np.asarray(4.0 * EPS * np.sqrt(squares))  # three are needed

    @cached_property
    def _frame(self) -> Frame:
        """How far the eigenbasis is from one of the true X^T X + alpha I, in its units."""
        if self._sums is None:
            off = sum_error(self.n_records + 2) * self._square + self._lost  # two more for alpha
        else:
            off = self._sums.gram.off + 2.0 * UNIT * norm(self._gram)
        with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):
            return rotation(self._gram, self.eigenvectors, self.eigenvalues, scale=1.0, off=off)

    @cached_property
    def _frame_errors(self) -> FrameErrors:
        """Bounds on what rounding in X^T X, X^T Y and the eigenbasis may do to the run; refused if too large."""
        p, eta, frame = self.n_features, self.step_size, self._frame
        a = 1.0 - eta * self.eigenvalues  # two roundings
        column, whole = eta * frame.column + 3.0 * UNIT, eta * frame.norm + 3.0 * UNIT * np.sqrt(p)
        moment_error = self._moment_error + (frame.apart + np.sqrt(p) * sum_error(p)) * columns(self._moment)
        frame = frame._replace(column=column, norm=float(whole))
        basis = Basis(self.eigenvalues, self.eigenvectors, a, self._moment, frame, moment_error)
        return FrameErrors(basis, self.n_steps, eta, 0.0)

    @property
    def _moment_error(self) -> Float64:
        """Bounds on the norms of the errors of the columns of X^T Y, shape (n_outputs,)."""
        if self._sums is not None:
            return self._sums.moment.off
        if not self._place.on_host:
            library = self._place.library
            sizes = MARGIN * library.host(library.norms(library.transposed(self.targets, (1, 0))))
        else:
            sizes = columns(self.targets)
        return np.asarray(sum_error(self.n_records) * np.sqrt(self._square) * sizes + self._lost)

    @property
    def _lost(self) -> float:
        """Bound on what the products in X^T X or X^T Y may lose to underflow."""
        return self.n_records * self.n_features * TINY

    @property
    def _square(self) -> float:
        """Bound on the square of the design's Frobenius norm."""
        return MARGIN * float(np.trace(self._gram)) + self._lost

    @property
    def n_records(self) -> int:
        """Number of training records."""
        return int(self.design.shape[0])

    @property
    def n_features(self) -> int:
        """Number of columns of the design."""
        return int(self.design.shape[1])

    @property
    def n_outputs(self) -> int:
        """Number of target columns."""
        return int(self.targets.shape[1])

    def projected(self, records: ArrayLike) -> Float64:
        """Return the named records in the eigenbasis, shape (len(records), n_features)."""
        rows = _validate.row_indices("records", records, self.n_records)
        if not self._place.on_host:
            library, shape = self._place.library, (rows.size, self.n_features)
            there: Float64 = library.contiguous(library.product(self.design[rows], self._vectors_there), shape)
            return there
        with one_blas_thread():
            out: Float64 = np.ascontiguousarray(self.design[rows] @ self.eigenvectors)
        return out

    def residual_means(self, records: ArrayLike) -> Float64:
        """Return ``x^T M_k - y`` for the named records and every learning step k, ``M_k`` the mean of the k-th iterate.

        Parameters
        ----------
        records : array_like of int, shape (m,)
            Row numbers of ``design``.

        Returns
        -------
        ndarray of float64, shape (m, n_steps, n_outputs)
            Step 0 is ``-y``: the run starts from zero.
        """
        rows = _validate.row_indices("records", records, self.n_records)
        return self._residual_means(rows, self.projected(rows))

    def _residual_means(self, rows: Int64, projected: Float64) -> Float64:
        table = self._product(projected, self._means_there)
        out: Float64 = table.reshape(rows.size, self.n_steps, self.n_outputs)
        out -= self.targets[rows][:, None, :]
        return out

    def residual_variances(self, records: ArrayLike) -> Float64:
        """Return ``x^T S_k x`` for the named records and every step k, ``S_k`` the covariance of one output's iterate.

        Parameters
        ----------
        records : array_like of int, shape (m,)
            Row numbers of ``design``.

        Returns
        -------
        ndarray of float64, shape (m, n_steps)
        """
        return self._residual_variances(self.projected(records))

    def _residual_variances(self, projected: Float64) -> Float64:
        rate = self.step_size * self.eigenvalues
        # 1 - a^{2k} over 1 - a^2 with |a| = 1 - v: neither cancels, also where a is a rounding error below zero
        v = np.minimum(rate, 2.0 - rate)
        with np.errstate(divide="ignore", invalid="ignore"):
            growth = np.arange(self.n_steps) * (2.0 * np.log1p(-v))[:, None]
            sums = -np.expm1(growth) / (v * (2.0 - v))[:, None]
        sums[:, 0] = 0.0
        return self._product(projected * projected, self._place.asarray(self.noise_std**2 * sums))

    def _product(self, left: Float64, right: Float64) -> Float64:
        """Return the matrix product where the records lie, in float64 whatever the library's global settings."""
        if not self._place.on_host:
            there: Float64 = self._place.library.product(left, right)
            return there
        with one_blas_thread():
            out: Float64 = left @ right
        return out

    def _blocks(self, rows: Int64) -> Iterator[tuple[slice, Int64, Float64]]:
        """Yield slices of ``rows`` with their numbers and projections, few enough for a small residual table."""
        size = self.block_rows if self._place.on_host else self._fitting(_DEVICE_TABLE_BYTES, rows.size)
        for start in range(0, rows.size, size):
            part = slice(start, min(start + size, rows.size))
            yield part, rows[part], self.projected(rows[part])

    def _fitting(self, table: int, most: int) -> int:
        return max(16, min(most, table // (8 * self.n_steps * self.n_outputs) // 16 * 16))

    @property
    def block_rows(self) -> int:
        """Records on the CPU that are projected together."""
        return self._fitting(_TABLE_BYTES, _BLOCK_ROWS)


def _device_array(place: backend.DevicePlace, name: str, array: Any) -> Any:
    if place.library.dtype(array) != "float64":
        raise TypeError(f"{name} must have dtype float64 on a device, got {place.library.dtype(array)}")
    return array
