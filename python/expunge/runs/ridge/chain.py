"""Noisy gradient steps of a ridge model with a bound on how far they are from the steps of the theorem.

Parameters are carried as unevaluated sums of two float64 from one phase to the next, the step matrix too; the noise is
exact. `expunge.runs.ridge.program` bounds the error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expunge.data.close_products import split_bits
from expunge.data.exact_products import Pair, exact_gram, exact_moment, thirds, two_product, two_sum
from expunge.runs.exact_noise import exact_normals
from expunge.runs.ridge.law import Phase

__all__ = ["Draw", "ExactEquations", "os_pairs", "zeros"]

Array = NDArray[np.float64]
Draw = Callable[[int, tuple[int, int]], Pair]


def os_pairs(step: int, shape: tuple[int, int]) -> Pair:
    """Return exact standard normals of the operating system's random words; nothing is kept to redraw them from."""
    hi, lo = exact_normals(shape[0] * shape[1])
    return Pair(hi.reshape(shape), lo.reshape(shape))


def zeros(shape: tuple[int, int]) -> Pair:
    """Return the parameters that a run starts from."""
    return Pair(np.zeros(shape), np.zeros(shape))


@dataclass(frozen=True)
class ExactEquations:
    """H = X^T X + alpha I and b = X^T Y of one version of the data, each as a sum of two float64.

    Attributes
    ----------
    hessian : Pair of ndarray of shape (p, p)
        H.
    moment : Pair of ndarray of shape (p, q)
        b.
    """

    hessian: Pair
    moment: Pair

    @classmethod
    def of(cls, design: Array, targets: Array, *, alpha: float) -> ExactEquations:
        """Return the equations of finite data.

        Raises
        ------
        ValueError
            If squares or products of the data overflow float64.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            hessian, moment = exact_gram(design), exact_moment(design, targets)
            at = np.diag_indices(len(hessian.hi))
            diagonal = two_sum(hessian.hi[at], np.full(len(hessian.hi), alpha))
            low = hessian.lo[at] + diagonal.lo
            hessian.hi[at], hessian.lo[at] = two_sum(diagonal.hi, low)
        for name, found in (("X", hessian), ("y", moment)):
            if not all(np.isfinite(part).all() for part in found):
                raise ValueError(f"{name} must have products within the range of float64: divide it by a constant")
        return cls(hessian, moment)

    def steps(self, theta: Pair, *, step_size: float, phase: Phase, draw: Draw = os_pairs) -> Pair:
        """Return theta after ``phase.n_steps`` steps theta - eta (H theta - b) + noise_std Z.

        Parameters
        ----------
        theta : Pair of ndarray of shape (p, q)
            Where to start, as a sum of two float64 of which the first is the sum's nearest.
        step_size : float
            eta.
        phase : Phase
            Number of steps and noise.
        draw : callable, default `os_pairs`
            Maps a step's number and a shape to that step's normals.

        Returns
        -------
        Pair of ndarray of shape (p, q)
            As ``theta``: the first is what the parameters are rounded to.

        Raises
        ------
        ValueError
            If the parameters overflow.

        Notes
        -----
        Products of the first two of three parts of A = I - eta H and of theta are exact; those with a third part are
        2^-44 of them, or less, and rounded. All are added without an error but for the sum of what is left.
        """
        from tqdm.auto import tqdm  # runs are read and checked without progress bars

        bits = split_bits(len(theta.hi))
        step, push = self._step_matrix(step_size), self._push(step_size)
        high, middle, low = thirds(step.hi, 1, bits)
        low += step.lo
        now = theta
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            for k in tqdm(range(phase.n_steps), desc="steps", unit="step", delay=1, disable=None, leave=False):
                first, second, third = thirds(now.hi, 0, bits)
                rounded = step.hi @ (third + now.lo) + low @ (first + second)
                both = np.concatenate([first, second], axis=1)  # so that a matrix is read once
                parts = [*np.hsplit(high @ both, 2), *np.hsplit(middle @ both, 2), push.hi]
                left = rounded + push.lo
                if phase.noise_std > 0:
                    noise, noise_low = draw(k, now.hi.shape)
                    product = two_product(phase.noise_std, noise)
                    parts.append(product.hi)
                    left += product.lo + phase.noise_std * noise_low
                total = parts[0]
                for part in parts[1:]:
                    total, lost = two_sum(total, part)
                    left += lost
                now = two_sum(total, left)
        if not np.isfinite(now.hi).all():
            raise ValueError(
                f"the parameters overflow float64: noise_std = {phase.noise_std:g} or the data are too large"
            )
        return now

    def _step_matrix(self, step_size: float) -> Pair:
        """Return I - eta H."""
        scaled = two_product(step_size, self.hessian.hi)
        kept = two_sum(np.eye(len(scaled.hi)), -scaled.hi)
        return two_sum(kept.hi, kept.lo - (scaled.lo + step_size * self.hessian.lo))

    def _push(self, step_size: float) -> Pair:
        """Return eta b."""
        scaled = two_product(step_size, self.moment.hi)
        return two_sum(scaled.hi, scaled.lo + step_size * self.moment.lo)
