"""The laws of a Langevin ridge run with and without some records, in ball arithmetic.

Step size, penalty, noise and data count with their exact values. With A = I - eta H, N steps take a mean M to
A^N (M - theta*) + theta* and a covariance S to A^N S A^N + tau^2 (I - A^2N)(I - A^2)^-1; powers go by squaring, no
eigenvalue is computed, and what cancels is covered by the working precision.
"""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from flint import arb_mat
from numpy.typing import NDArray

from expunge.proof.balls import ball
from expunge.proof.matrices import exact_matrix, identity
from expunge.proof.state import ProofState, Stages, digest_of
from expunge.runs.ridge.held_rows import RowTable, all_rows
from expunge.runs.ridge.law import Phase
from expunge.runs.ridge.products import RowParts

__all__ = ["Laws", "Steps", "Versions", "kept_phases", "laws_of", "state_of"]

Array = NDArray[np.float64]
_ROWS = 2048
_RUNS = ("reference", "true")  # the reference run first: its powers serve both where the versions are the same


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
    """The step on one version of the data, and its powers, each computed when it is first needed.

    Attributes
    ----------
    hessian : arb_mat
        ``X^T X + alpha I``.
    pull : arb_mat
        ``eta X^T Y``, what a step adds.
    step : arb_mat
        ``I - eta H``.
    """

    def __init__(
        self, gram: arb_mat, moment: arb_mat, *, alpha: float, step_size: float, stages: Stages, name: str
    ) -> None:
        self.eye = identity(gram.nrows())
        eta = ball(step_size)
        self.hessian, self.pull = gram + self.eye * ball(alpha), moment * eta
        self.step = self.eye - self.hessian * eta
        self._stages, self._name = stages, name
        self._squared = [self.step]
        self._last: tuple[int, arb_mat, arb_mat | None] = (0, self.eye, None)

    def _stage(self, name: str, compute: Callable[[], arb_mat]) -> arb_mat:
        return self._stages.matrix(f"{self._name} {name}", compute)

    @cached_property
    def inverse(self) -> arb_mat:
        """Inverse of I - A^2 = eta H (2 I - eta H), which is positive definite."""
        return self._stage("inverse", lambda: (self.eye - self._square(1)).inv())

    @cached_property
    def optimum(self) -> arb_mat:
        """Fixed point of the step without noise."""
        return (self.eye + self.step) * (self.inverse * self.pull)

    def _square(self, times: int) -> arb_mat:
        """Return the step squared so many times over."""
        while len(self._squared) <= times:
            last = self._squared[-1]
            self._squared.append(self._stage(f"square {len(self._squared)}", partial(operator.mul, last, last)))
        return self._squared[times]

    def power(self, n: int) -> arb_mat:
        """Return the step to the power of n; that of the last n is known."""
        if self._last[0] != n:
            self._last = n, self._stage(f"power {n}", lambda: self._power(n)), None
        return self._last[1]

    def _power(self, n: int) -> arb_mat:
        result: arb_mat | None = None
        for bit in range(n.bit_length()):
            square = self._square(bit)
            if n >> bit & 1:
                result = square if result is None else result * square
        return self.eye if result is None else result

    def noise(self, n: int) -> arb_mat:
        """Return the covariance after n steps of noise 1 from a known start; that of the last n is known."""
        power, known = self.power(n), self._last[2]
        if known is None:
            known = self._stage(f"noise {n}", lambda: (self.eye - power * power) * self.inverse)
            self._last = n, power, known
        return known

    def mean_after(self, mean: arb_mat, phase: Phase) -> arb_mat:
        """Return the mean after a phase."""
        return self.power(phase.n_steps) * (mean - self.optimum) + self.optimum

    def covariance_after(self, covariance: arb_mat | None, phase: Phase) -> arb_mat | None:
        """Return the covariance after a phase; None stands for 0."""
        if covariance is not None:
            power = self.power(phase.n_steps)
            covariance = power * covariance * power
        if phase.noise_std:
            noise = self.noise(phase.n_steps) * (ball(phase.noise_std) ** 2)
            covariance = noise if covariance is None else covariance + noise
        return covariance


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
    known : sequence of sequences of int
        Rows that the versions lack which will be asked for, in an order that names them.
    parts : callable, optional
        Reads all rows with their targets in one pass, where they lie in a table.
    stages : Stages
        Hears of every stage.
    """

    def __init__(
        self,
        design: RowTable,
        targets: RowTable,
        *,
        alpha: float,
        step_size: float,
        known: Sequence[Sequence[int]],
        parts: RowParts | None = None,
        stages: Stages,
    ) -> None:
        self.design, self.targets, self.alpha, self.step_size = design, targets, alpha, step_size
        self.shape = design.shape[1], targets.shape[1]
        self._parts, self._stages = parts, stages
        self._numbers = {key: i for i, key in enumerate(dict.fromkeys(tuple(sorted(one)) for one in known))}
        self._formed: dict[tuple[int, ...], Steps] = {}

    @cached_property
    def _whole(self) -> tuple[arb_mat, arb_mat]:
        """X^T X and X^T Y of all rows, in one pass."""
        both: list[arb_mat] = []

        def one(number: int) -> arb_mat:
            if not both:
                both.extend(_sums(_all_parts(self.design, self.targets, self._parts), *self.shape))
            return both[number]

        return self._stages.matrix("products", lambda: one(0)), self._stages.matrix("moments", lambda: one(1))

    def of(self, removed: Sequence[int]) -> Steps:
        """Return the step without some rows."""
        key = tuple(sorted(removed))
        if key not in self._formed:
            lost = _sums([(self.design[list(key)], self.targets[list(key)])], *self.shape)
            whole = self._whole
            given: dict[str, Any] = {"alpha": self.alpha, "step_size": self.step_size, "stages": self._stages}
            name = f"version {self._numbers[key]}"
            self._formed[key] = Steps(whole[0] - lost[0], whole[1] - lost[1], name=name, **given)
        return self._formed[key]

    def keep(self, needed: Iterable[Sequence[int]]) -> None:
        """Forget the versions that are needed no more: each holds matrices by the dozen."""
        keys = {tuple(sorted(one)) for one in needed}
        self._formed = {key: steps for key, steps in self._formed.items() if key in keys}


def _all_parts(design: RowTable, targets: RowTable, parts: RowParts | None) -> Iterable[tuple[Array, Array]]:
    """Return all rows with their targets, some at a time."""
    what = "a proof"
    return [(all_rows(design, what=what), all_rows(targets, what=what))] if parts is None else parts()


def state_of(
    folder: str | os.PathLike[str],
    design: RowTable,
    targets: RowTable,
    *,
    alpha: float,
    step_size: float,
    phases: Sequence[Phase],
    deleted: Sequence[int],
    parts: RowParts | None = None,
) -> ProofState:
    """Return the state of the laws of a run in a folder, after one pass over the data, whose digest it must have.

    Raises
    ------
    ValueError, FileNotFoundError
        As `expunge.proof.state.ProofState`.
    """
    digests = hashlib.sha256(), hashlib.sha256()
    for part in _all_parts(design, targets, parts):
        for digest, values in zip(digests, part, strict=True):
            digest.update(np.ascontiguousarray(values, dtype="<f8").tobytes())
    run = {
        "alpha": float(alpha).hex(),
        "step_size": float(step_size).hex(),
        "phases": [[int(one.n_steps), float(one.noise_std).hex(), sorted(map(int, one.removed))] for one in phases],
        "deleted": sorted(map(int, deleted)),
        "shape": list(design.shape),
        "data": [digest.hexdigest() for digest in digests],
    }
    gone = sorted(set(deleted))
    return ProofState(folder, key=digest_of(run, design[gone], targets[gone]))


def laws_of(
    design: RowTable,
    targets: RowTable,
    *,
    alpha: float,
    step_size: float,
    phases: Sequence[Phase],
    deleted: Sequence[int],
    parts: RowParts | None = None,
    stages: Stages,
) -> Laws:
    """Return both laws at the end of the phases, with the present precision; ``stages`` hears of every stage.

    Raises
    ------
    ZeroDivisionError
        If the precision does not suffice to invert a step.
    ValueError
        If no phase has noise.
    """
    if not any(phase.noise_std for phase in phases):
        raise ValueError("noise_std must be > 0 in at least one phase: without noise there is no guarantee")
    gone = tuple(sorted(set(deleted)))
    known = [*(phase.removed for phase in phases), gone]
    versions = Versions(design, targets, alpha=alpha, step_size=step_size, known=known, parts=parts, stages=stages)
    noisy = [any(phase.noise_std for phase in phases[: i + 1]) for i in range(len(phases))]
    names = [_law_names(i, noisy=noisy[i]) for i in range(len(phases))]
    # Of what is kept, the last law of both runs is enough.
    first = next((i for i in reversed(range(len(phases))) if stages.hold(*names[i])), 0)
    laws: dict[str, tuple[arb_mat, arb_mat | None]] = {run: (arb_mat(*versions.shape), None) for run in _RUNS}
    for i in range(first, len(phases)):
        phase, kept = phases[i], iter(names[i])
        versions.keep([gone, *(one.removed for one in phases[i:])])
        for run, removed in zip(_RUNS, (gone, phase.removed), strict=True):
            mean, covariance = laws[run]
            mean = stages.matrix(next(kept), partial(_mean_after, versions, removed, mean, phase))
            if noisy[i]:
                covariance = stages.matrix(next(kept), partial(_covariance_after, versions, removed, covariance, phase))
            laws[run] = mean, covariance
    (mean_q, covariance_q), (mean_p, covariance_p) = (laws[run] for run in _RUNS)
    assert covariance_p is not None
    assert covariance_q is not None
    return Laws(mean_p, covariance_p, mean_q, covariance_q)


def _law_names(phase: int, *, noisy: bool) -> list[str]:
    """Return names of what is kept of the laws after a phase, in the order in which they are computed."""
    return [f"phase {phase} {run} {part}" for run in _RUNS for part in ("mean", *(["covariance"] if noisy else []))]


def _mean_after(versions: Versions, removed: Sequence[int], mean: arb_mat, phase: Phase) -> arb_mat:
    return versions.of(removed).mean_after(mean, phase)


def _covariance_after(versions: Versions, removed: Sequence[int], covariance: arb_mat | None, phase: Phase) -> arb_mat:
    found = versions.of(removed).covariance_after(covariance, phase)
    assert found is not None  # of a phase with noise, or after one
    return found
