"""The noisy gradient steps that make a ridge model, their noise, and the optimum they head for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from expunge.runs.noise import Normals
from expunge.runs.ridge.held_rows import all_rows
from expunge.runs.ridge.law import Phase
from expunge.runs.ridge.products import Products
from expunge.runs.ridge.table_sums import TableSums

__all__ = ["NormalEquations"]

Array = NDArray[np.float64]
# Products of what remains are taken from those of all rows where no column keeps less than one part in this many.
_FEWEST_DIGITS = 1e3


@dataclass(frozen=True)
class NormalEquations:
    """H = X^T X + alpha I and b = X^T Y of one version of the data: all that the steps and the optimum need of it."""

    hessian: Array
    moment: Array

    @classmethod
    def of(cls, design: Array, targets: Array, *, alpha: float) -> NormalEquations:
        """Return the equations of finite data.

        Raises
        ------
        ValueError
            If squares or products of the data overflow float64.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            hessian, moment = design.T @ design, design.T @ targets
            squares = float(np.einsum("ij,ij->", targets, targets))
        for name, data, products in (("X", design, hessian), ("y", targets, squares), ("y", targets, moment)):
            if not np.isfinite(products).all():
                raise ValueError(
                    f"{name} is finite, but its squares or products overflow float64 (largest entry "
                    f"{np.abs(data).max():.3g}): divide {name} by a constant, for features with ConstantScaler"
                )
        hessian[np.diag_indices_from(hessian)] += alpha
        return cls(hessian, moment)

    @classmethod
    def of_sums(cls, sums: TableSums, *, alpha: float) -> NormalEquations:
        """Return the equations of a table whose sums have been formed."""
        hessian = sums.gram.value.copy()
        hessian[np.diag_indices_from(hessian)] += alpha
        return cls(hessian, sums.moment.value)

    @classmethod
    def remaining(cls, products: Products, removed: Sequence[int], *, alpha: float) -> NormalEquations:
        """Return the equations of a first fit's data without some rows, from its products where that costs no digits.

        Raises
        ------
        ValueError
            If squares or products of the data overflow float64.
        """
        left = products.without(removed, alpha=alpha)
        # A removed row that made up nearly all of a column would leave little but the rounding of it.
        if np.all((left.matrix.diagonal() - alpha) * _FEWEST_DIGITS >= products.gram.value.diagonal()):
            return cls(left.matrix, left.moment)
        what = "deleting a record that makes up nearly all of a column"
        kept = np.ones(len(products.design), dtype=bool)
        kept[list(removed)] = False
        design, targets = all_rows(products.design, what=what), all_rows(products.targets, what=what)
        return cls.of(design[kept], targets[kept], alpha=alpha)

    def optimum(self) -> Array:
        """Return the noise-free optimum H^-1 b, shape (p, q)."""
        return self.solve(self.moment)

    def solve(self, right: Array) -> Array:
        """Return H^-1 times ``right`` (p, m)."""
        try:
            return np.asarray(linalg.cho_solve(linalg.cho_factor(self.hessian), right), dtype=np.float64)
        except linalg.LinAlgError:
            # alpha is lost beside X^T X: where eigenvalues are rounding, so is what the data seem to say there.
            values, vectors = linalg.eigh(self.hessian)
            kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
            return np.asarray(vectors[:, kept] @ ((vectors[:, kept].T @ right) / values[kept, None]))

    def steps(self, theta: Array, *, step_size: float, phase: Phase, normals: Normals, copies: int = 1) -> Array:
        """Return theta after ``phase.n_steps`` steps theta - eta (H theta - b) + noise_std xi.

        Parameters
        ----------
        theta : ndarray of shape (p, q)
            Where to start.
        step_size : float
            eta.
        phase : Phase
            Number of steps and noise.
        normals : callable
            Maps a step's number and a shape to that step's xi.
        copies : int
            Independent runs, side by side.

        Returns
        -------
        ndarray of shape (p, q * copies)

        Raises
        ------
        ValueError
            If the parameters overflow.

        Notes
        -----
        This is the package's one loop of ridge steps in NumPy, beside the kernels of `expunge.langevin`: those draw
        their noise by a seed of 64 bits, and that of a deletion comes from the operating system, number by number and
        exactly, at 0.3 us each. That is most of the time: 300 steps of 64 parameters take 5.6 ms there and 10 ms here,
        of 256 parameters 14 and 30 ms. With the same seed the two agree to a few units in the last place
        (`seeded_normals`).
        """
        from tqdm.auto import tqdm  # runs are read and checked without progress bars

        step = np.eye(len(self.hessian)) - step_size * self.hessian
        push = np.tile(step_size * self.moment, copies)
        theta = np.tile(theta, copies)
        with np.errstate(over="ignore", invalid="ignore"):
            for k in tqdm(range(phase.n_steps), desc="steps", unit="step", delay=1, disable=None, leave=False):
                theta = step @ theta + push
                if phase.noise_std > 0:
                    theta += phase.noise_std * normals(k, (theta.shape[0], theta.shape[1]))
        if not np.isfinite(theta).all():
            raise ValueError(
                f"the parameters overflow float64: noise_std = {phase.noise_std:g} or the data are too large"
            )
        return theta
