"""The laws of a Langevin ridge run with and without some records, in ball arithmetic.

Step size, penalty, noise and data count with their exact values. With A = I - eta H, N steps take a mean M to
A^N (M - theta*) + theta* and a covariance S to A^N S A^N + tau^2 (I - A^2N)(I - A^2)^-1; powers go by squaring, no
eigenvalue is computed, and what cancels is covered by the working precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from flint import arb_mat
from numpy.typing import NDArray

from expunge.proof.balls import ball
from expunge.proof.matrices import exact_matrix, identity
from expunge.runs.ridge.held_rows import RowTable, all_rows
from expunge.runs.ridge.law import Phase
from expunge.runs.ridge.products import RowParts

__all__ = ["Laws", "Steps", "Versions", "kept_phases", "laws_of"]

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


class Steps:
    """The step on one version of the data, and its powers.

    Attributes
    ----------
    hessian : arb_mat
        ``X^T X + alpha I``.
    pull : arb_mat
        ``eta X^T Y``, what a step adds.
    """

    def __init__(self, gram: arb_mat, moment: arb_mat, *, alpha: float, step_size: float) -> None:
        self.eye = identity(gram.nrows())
        eta = ball(step_size)
        self.hessian, self.pull = gram + self.eye * ball(alpha), moment * eta
        self.powers = [self.eye - self.hessian * eta]
        step = self.powers[0]
        self.powers.append(step * step)
        # Of I - A^2 = eta H (2 I - eta H), which is positive definite.
        self.inverse = (self.eye - self.powers[1]).inv()
        self.optimum = (self.eye + step) * (self.inverse * self.pull)

    def power(self, n: int) -> arb_mat:
        """Return the step to the power of n."""
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
        """Return the law after a phase; no covariance stands for 0."""
        power = self.power(phase.n_steps)
        mean = power * (mean - self.optimum) + self.optimum
        if covariance is not None:
            covariance = power * covariance * power
        if phase.noise_std:
            noise = (self.eye - power * power) * self.inverse * (ball(phase.noise_std) ** 2)
            covariance = noise if covariance is None else covariance + noise
        return mean, covariance


def _sums(parts: Iterable[tuple[Array, Array]], p: int, q: int) -> tuple[arb_mat, arb_mat]:
    """Return X^T X and X^T Y of rows that come some at a time."""
    gram, moment = arb_mat(p, p), arb_mat(p, q)
    for design, targets in parts:
        for start in range(0, len(design), _ROWS):
            block = exact_matrix(design[start : start + _ROWS])
            turned = block.transpose()
            gram = gram + turned * block
            moment = moment + turned * exact_matrix(targets[start : start + _ROWS])
    return gram, moment


class Versions:
    """Steps on versions of the data, each of which lacks some rows of the first fit; each is formed once.

    Parameters
    ----------
    design, targets : ndarray of float64, or HeldRows, shapes (n, p) and (n, q)
        Rows of the first fit as the model sees them; deleted ones are held.
    alpha, step_size : float
        Constants of the run.
    parts : callable, optional
        Reads all rows with their targets in one pass, where they lie in a table.
    """

    def __init__(
        self, design: RowTable, targets: RowTable, *, alpha: float, step_size: float, parts: RowParts | None = None
    ) -> None:
        self.design, self.targets, self.alpha, self.step_size = design, targets, alpha, step_size
        self.shape = design.shape[1], targets.shape[1]
        what = "a proof"
        every = [(all_rows(design, what=what), all_rows(targets, what=what))] if parts is None else parts()
        self._whole = _sums(every, *self.shape)
        self._known: dict[tuple[int, ...], Steps] = {}

    def of(self, removed: Sequence[int]) -> Steps:
        """Return the step without some rows.

        Raises
        ------
        ZeroDivisionError
            If the precision does not suffice to invert it.
        """
        key = tuple(sorted(removed))
        if key not in self._known:
            lost = _sums([(self.design[list(key)], self.targets[list(key)])], *self.shape)
            whole = self._whole
            constants = {"alpha": self.alpha, "step_size": self.step_size}
            self._known[key] = Steps(whole[0] - lost[0], whole[1] - lost[1], **constants)
        return self._known[key]


def laws_of(
    design: RowTable,
    targets: RowTable,
    *,
    alpha: float,
    step_size: float,
    phases: Sequence[Phase],
    deleted: Sequence[int],
    parts: RowParts | None = None,
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
    versions = Versions(design, targets, alpha=alpha, step_size=step_size, parts=parts)
    zeros = arb_mat(*versions.shape)
    p: tuple[arb_mat, arb_mat | None] = (zeros, None)
    q: tuple[arb_mat, arb_mat | None] = (zeros, None)
    for i, phase in enumerate(phases):
        begin(f"phase {i}")
        p = versions.of(phase.removed).advance(*p, phase)
        q = versions.of(sorted(gone)).advance(*q, phase)
    if p[1] is None or q[1] is None:
        raise ValueError("noise_std must be > 0 in at least one phase: without noise there is no guarantee")
    return Laws(p[0], p[1], q[0], q[1])
