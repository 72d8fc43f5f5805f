"""The noisy gradient steps that make a ridge model, their noise, and the optimum they head for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, special
from tqdm.auto import tqdm

from expunge.accounting.ridge_law import Phase
from expunge.langevin import standard_normals

__all__ = ["NormalEquations", "Normals", "os_normals", "seeded_normals"]

Array = NDArray[np.float64]
Normals = Callable[[int, tuple[int, int]], Array]


def os_normals(step: int, shape: tuple[int, int]) -> Array:
    """Return standard normals drawn from the operating system's randomness; nothing is kept from which to redraw."""
    bits = np.frombuffer(os.urandom(8 * shape[0] * shape[1]), dtype="<u8")
    # Midpoints of 2^53 equal cells: symmetric, never 0 or 1.
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.asarray(special.ndtri(uniform), dtype=np.float64).reshape(shape)


def seeded_normals(seed: int) -> Normals:
    """Return a source of reproducible normals: the counter-based ones of chain 0 of the Langevin kernels."""

    def draw(step: int, shape: tuple[int, int]) -> Array:
        # The kernels number the noise of a chain output by output.
        numbers: Array = standard_normals((shape[1], shape[0]), seed=seed, chain=0, step=step)
        return numbers.T

    return draw


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
        """
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
