"""The laws of a Langevin ridge run with and without some records, in ball arithmetic.

Step size, penalty, noise and data count with their exact values. With A = I - eta H, N steps take a mean M to
A^N (M - theta*) + theta* and a covariance S to A^N S A^N + tau^2 (I - A^2N)(I - A^2)^-1; powers go by squaring, no
eigenvalue is computed, and what cancels is covered by the working precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from flint import arb_mat
from numpy.typing import NDArray

from expunge.proof.balls import ball
from expunge.proof.matrices import exact_matrix, identity
from expunge.runs.ridge.law import Phase

__all__ = ["Laws", "kept_phases", "laws_of"]

Array = NDArray[np.float64]
_ROWS = 2048


class Laws(NamedTuple):
    """Means (p, q) and covariances (p, p) of the true run P and the reference run Q."""

    mean_p: arb_mat
    covariance_p: arb_mat
    mean_q: arb_mat
    covariance_q: arb_mat


def kept_phases(phases: Sequence[Phase], deleted: Sequence[int]) -> tuple[Phase, ...]:
    """Return the phases without trailing ones that are the same map without noise on both sides."""
    kept = [phase for phase in phases if phase.n_steps > 0]
    while kept and kept[-1].noise_std == 0 and set(kept[-1].removed) == set(deleted):
        kept.pop()
    return tuple(kept)


class _Steps:
    """The step on one version of the data, and its powers."""

    def __init__(self, gram: arb_mat, moment: arb_mat, *, alpha: float, step_size: float) -> None:
        self.eye = identity(gram.nrows())
        eta = ball(step_size)
        self.powers = [self.eye - (gram + self.eye * ball(alpha)) * eta]
        step = self.powers[0]
        self.powers.append(step * step)
        # Of I - A^2 = eta H (2 I - eta H), which is positive definite.
        self.inverse = (self.eye - self.powers[1]).inv()
        self.optimum = (self.eye + step) * (self.inverse * (moment * eta))

    def power(self, n: int) -> arb_mat:
        result: arb_mat | None = None
        bit = 0
        while n >> bit:
            if bit == len(self.powers):
                self.powers.append(self.powers[-1] * self.powers[-1])
            if n >> bit & 1:
                result = self.powers[bit] if result is None else result * self.powers[bit]
            bit += 1
        return self.eye if result is None else result

    def advance(self, mean: arb_mat, covariance: arb_mat | None, phase: Phase) -> tuple[arb_mat, arb_mat | None]:
        power = self.power(phase.n_steps)
        mean = power * (mean - self.optimum) + self.optimum
        if covariance is not None:
            covariance = power * covariance * power
        if phase.noise_std:
            noise = (self.eye - power * power) * self.inverse * (ball(phase.noise_std) ** 2)
            covariance = noise if covariance is None else covariance + noise
        return mean, covariance


def _sums(design: Array, targets: Array, rows: Sequence[int] | None = None) -> tuple[arb_mat, arb_mat]:
    """Return X^T X and X^T Y of some rows, or of all."""
    p, q = design.shape[1], targets.shape[1]
    gram, moment = arb_mat(p, p), arb_mat(p, q)
    if rows is not None:
        design, targets = design[list(rows)], targets[list(rows)]
    for start in range(0, len(design), _ROWS):
        block = exact_matrix(design[start : start + _ROWS])
        turned = block.transpose()
        gram = gram + turned * block
        moment = moment + turned * exact_matrix(targets[start : start + _ROWS])
    return gram, moment


def laws_of(
    design: Array,
    targets: Array,
    *,
    alpha: float,
    step_size: float,
    phases: Sequence[Phase],
    deleted: Sequence[int],
    begin: Callable[[str], object],
) -> Laws:
    """Return both laws at the end of the phases, with the present precision; ``begin`` hears of every stage.

    Raises
    ------
    ZeroDivisionError
        If the precision does not suffice to invert a step.
    ValueError
        If no phase has noise.
    """
    gone = set(deleted)
    begin("products")
    whole = _sums(design, targets)
    steps: dict[tuple[int, ...], _Steps] = {}

    def of(removed: Sequence[int]) -> _Steps:
        key = tuple(sorted(removed))
        if key not in steps:
            lost = _sums(design, targets, key)
            steps[key] = _Steps(whole[0] - lost[0], whole[1] - lost[1], alpha=alpha, step_size=step_size)
        return steps[key]

    zeros = arb_mat(design.shape[1], targets.shape[1])
    p: tuple[arb_mat, arb_mat | None] = (zeros, None)
    q: tuple[arb_mat, arb_mat | None] = (zeros, None)
    for i, phase in enumerate(phases):
        begin(f"phase {i}")
        p = of(phase.removed).advance(*p, phase)
        q = of(sorted(gone)).advance(*q, phase)
    if p[1] is None or q[1] is None:
        raise ValueError("noise_std must be > 0 in at least one phase: without noise there is no guarantee")
    return Laws(p[0], p[1], q[0], q[1])
