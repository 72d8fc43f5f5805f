"""The exact law of a Langevin ridge run with and without some of its records.

A run is a list of phases: learn on all records, then one phase of noisy steps per deletion, on what remains then.
The true run P and the reference run Q, which never saw the deleted records, follow the same list, so both end in a
known Gaussian law ([BAC26] arXiv 2602.15602 for the setting; dense float64 linear algebra, nothing truncated).

Differences between the two laws are formed by divided differences of matrix functions and never by subtracting two
computed laws: with H = H' + X_G^T X_G, eigenvectors U of H and U' of H', U^T (f(H) - f(H')) U' equals
(U^T X_G^T)(X_G U') times the divided differences f[h_i, h'_j], entry by entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from expunge._backend import one_blas_thread
from expunge.accounting.gaussian_pair import GaussianPair
from expunge.accounting.noise_floor import noise_floor

__all__ = [
    "LARGEST",
    "STEP_SIZE_SLACK",
    "LawPair",
    "Phase",
    "RidgeDeletion",
    "deletion_pair",
    "phase_floors",
    "smoothness",
]

Array = NDArray[np.float64]

# A step of exactly 1/L must be accepted however L was rounded.
STEP_SIZE_SLACK = 1e-9
# A variance below it, or a number beyond the other, would lose its digits (or itself) to the range of float64.
_SMALLEST_VARIANCE, LARGEST = 1e-250, 1e100
_TINY = float(np.finfo(np.float64).tiny)
# Below this size a computed shift may have underflowed: 1e-140, whose square is still a number.
_LEAST_SHIFT = 2e-140
_ONE_THREAD_WIDTH = 512


@dataclass(frozen=True)
class Phase:
    """Consecutive noisy gradient steps on one version of the data.

    Attributes
    ----------
    n_steps : int
        Number of steps.
    noise_std : float
        Standard deviation of the Gaussian noise of each step, per coordinate.
    removed : tuple of int
        Rows of the first fit's data that this phase no longer uses, sorted.
    """

    n_steps: int
    noise_std: float
    removed: tuple[int, ...] = ()


def smoothness(design: Array, *, alpha: float) -> float:
    """Return L, the largest eigenvalue of X^T X + alpha I.

    Parameters
    ----------
    design : ndarray of shape (n, p), float64
        Rows as the model sees them (constant column included, if there is one).
    alpha : float
        L2 penalty.

    Returns
    -------
    float
        Smoothness constant of the sum-form ridge loss.

    Examples
    --------
    >>> import numpy as np
    >>> smoothness(np.eye(3), alpha=0.5)
    1.5
    """
    n, p = design.shape
    with np.errstate(over="ignore", invalid="ignore"):
        gram = design @ design.T if n < p else design.T @ design
    _within_range("design", gram)
    size = gram.shape[0]
    top = linalg.eigvalsh(gram, subset_by_index=[size - 1, size - 1])[0]
    return max(float(top), 0.0) + alpha


def _steady_blas(width: int) -> AbstractContextManager[Any]:
    """Keep small eigenproblems on one thread: more only wait for one another, for long on a busy machine."""
    return one_blas_thread() if width <= _ONE_THREAD_WIDTH else nullcontext()


def _within_range(what: str, squares: Array) -> None:
    if not np.isfinite(squares).all():
        raise ValueError(f"{what} must have squares within the range of float64, got values that overflow")


def _powers(a: Array, n_steps: int) -> tuple[Array, Array]:
    """Return a^N and sum_{j<N} a^j, by doubling: every term of the sum keeps its digits."""
    power, total = np.ones_like(a), np.zeros_like(a)
    for bit in format(n_steps, "b"):
        total = total * (1.0 + power)
        power = power * power
        if bit == "1":
            total = total + power
            power = power * a
    return power, total


def _divided_powers(a: Array, b: Array, n_steps: int) -> tuple[Array, Array]:
    """Return the divided differences at (a, b) of x^N and of sum_{j<N} x^j, by doubling (sums of equal signs)."""
    power_a, power_b = np.ones_like(a), np.ones_like(b)
    sum_b = np.zeros_like(b)
    of_power, of_sum = np.zeros(np.broadcast(a, b).shape), np.zeros(np.broadcast(a, b).shape)
    for bit in format(n_steps, "b"):
        of_sum = of_sum * (1.0 + power_a) + sum_b * of_power
        sum_b = sum_b * (1.0 + power_b)
        of_power = of_power * (power_a + power_b)
        power_a, power_b = power_a * power_a, power_b * power_b
        if bit == "1":
            of_sum = of_sum + of_power
            sum_b = sum_b + power_b
            of_power = of_power * a + power_b
            power_a, power_b = power_a * a, power_b * b
    return of_power, of_sum


@dataclass(frozen=True)
class Basis:
    """Eigenbasis of H on one version of the data: eigenvalues, eigenvectors, contraction per eigenvalue, V^T X^T Y."""

    values: Array
    vectors: Array
    a: Array
    moment: Array


@dataclass(frozen=True)
class LawPair:
    """Both laws after some phases, in the eigenbasis of the reference run's H'."""

    mean_p: Array  # (p, q), original coordinates
    mean_difference: Array  # (p, q), reference eigenbasis
    variance_q: Array  # (p,), the reference covariance is diagonal there
    covariance_difference: Array  # (p, p), reference eigenbasis
    n_steps: int  # so far: roundings of the powers grow with it


class RidgeDeletion:
    """Deletion of some rows from a Langevin ridge run, phase by phase.

    Parameters
    ----------
    design : ndarray of shape (n, p), float64
        Rows of the first fit as the model sees them, deleted rows included.
    targets : ndarray of shape (n, q), float64
        Targets of the first fit.
    alpha : float
        L2 penalty, > 0.
    step_size : float
        Step size, at most (1 + 1e-9)/L.
    deleted : sequence of int
        Rows the reference run never saw.

    Raises
    ------
    ValueError
        If ``step_size`` passes 1/L, everything is deleted, or a phase removes a row that is not among ``deleted``.
    """

    def __init__(
        self, design: Array, targets: Array, *, alpha: float, step_size: float, deleted: Sequence[int]
    ) -> None:
        self.design, self.targets = design, targets
        self.alpha, self.step_size = float(alpha), float(step_size)
        self.deleted = tuple(sorted(int(i) for i in deleted))
        n, p = design.shape
        if len(self.deleted) >= n:
            raise ValueError(f"deleted must leave at least one record, got all {n}")
        if not self.alpha > 0:
            raise ValueError(f"alpha must be > 0, got {alpha}")
        with np.errstate(over="ignore", invalid="ignore"):
            self._gram, self._moment = design.T @ design, design.T @ targets
        _within_range("design", self._gram)
        _within_range("targets", self._moment)
        with _steady_blas(p):
            top = linalg.eigvalsh(self._gram, subset_by_index=[p - 1, p - 1])[0]
        limit = 1.0 / (max(float(top), 0.0) + self.alpha)
        if not 0 < self.step_size <= limit * (1 + STEP_SIZE_SLACK):
            raise ValueError(f"step_size must be > 0 and at most 1/L = {limit!r}, got {step_size!r}")
        self._last_basis: tuple[tuple[int, ...], Basis] | None = None
        self.reference = self.basis(self.deleted)
        q = targets.shape[1]
        self.start = LawPair(np.zeros((p, q)), np.zeros((p, q)), np.zeros(p), np.zeros((p, p)), 0)

    def basis(self, removed: tuple[int, ...]) -> Basis:
        """Return the eigenbasis of H on the data without ``removed``."""
        if self._last_basis is not None and self._last_basis[0] == removed:
            return self._last_basis[1]
        found = self._new_basis(removed)
        self._last_basis = removed, found
        return found

    def _new_basis(self, removed: tuple[int, ...]) -> Basis:
        gone = self.design[list(removed)]
        gram = self._gram - gone.T @ gone
        gram[np.diag_indices_from(gram)] += self.alpha
        with _steady_blas(len(gram)):
            values, vectors = linalg.eigh(gram, driver="evd", overwrite_a=True)
        values = np.maximum(values, self.alpha)  # H - alpha I is a Gram matrix
        # |a| <= 1 - eta alpha holds exactly; rounding (and the slack on the step size) may not break it.
        a = np.clip(1.0 - self.step_size * values, -STEP_SIZE_SLACK * 2, 1.0)
        moment = self._moment - gone.T @ self.targets[list(removed)]
        return Basis(values, vectors, a, vectors.T @ moment)

    @property
    def contraction(self) -> float:
        """Contraction factor of a step of the reference run."""
        values = self.reference.values
        return float(max(1.0 - self.step_size * values[0], self.step_size * values[-1] - 1.0))

    def present(self, phase: Phase) -> NDArray[np.int64]:
        """Return the deleted rows that ``phase`` still uses, sorted."""
        extra = set(phase.removed) - set(self.deleted)
        if extra:
            raise ValueError(f"phases must remove only deleted rows, got row {min(extra)}")
        return np.array(sorted(set(self.deleted) - set(phase.removed)), dtype=np.int64)

    def floors(self, phases: Sequence[Phase]) -> tuple[float, ...]:
        """Return the least noise of each phase that is noise; see `phase_floors`."""
        q = self.targets.shape[1]
        mean_p, mean_q = np.zeros((self.design.shape[1], q)), np.zeros((self.design.shape[1], q))
        result = []
        for phase in phases:
            own = self.reference if self.present(phase).size == 0 else self.basis(phase.removed)
            end_p = self._noise_free(own, mean_p, phase.n_steps)
            end_q = self._noise_free(self.reference, mean_q, phase.n_steps)
            result.append(noise_floor(mean_p, mean_q, end_p, end_q))
            mean_p, mean_q = end_p, end_q
        return tuple(result)

    def _noise_free(self, basis: Basis, mean: Array, n_steps: int) -> Array:
        power, total = _powers(basis.a, n_steps)
        start = basis.vectors.T @ mean
        return np.asarray(basis.vectors @ (power[:, None] * start + self.step_size * total[:, None] * basis.moment))

    def run(self, phases: Sequence[Phase]) -> LawPair:
        """Return both laws after ``phases``, started at theta = 0."""
        state = self.start
        for phase in phases:
            state = self.advance(state, phase)
        return state

    def advance(self, state: LawPair, phase: Phase) -> LawPair:
        """Return both laws after one more phase."""
        if phase.n_steps == 0:
            return state
        present = self.present(phase)
        own = self.reference if present.size == 0 else self.basis(phase.removed)
        q_basis, eta, n_steps = self.reference, self.step_size, phase.n_steps
        a_q, tau2 = q_basis.a, phase.noise_std * phase.noise_std
        power_q, _ = _powers(a_q, n_steps)
        _, geometric_q = _powers(a_q * a_q, n_steps)
        variance_q = power_q**2 * state.variance_q + tau2 * geometric_q
        difference = power_q[:, None] * state.covariance_difference * power_q
        shift = power_q[:, None] * state.mean_difference

        power_p, total_p = _powers(own.a, n_steps)
        mean = own.vectors.T @ state.mean_p
        end = power_p[:, None] * mean + eta * total_p[:, None] * own.moment
        if present.size:
            overlap = own.vectors.T @ q_basis.vectors
            rows_p = self.design[present] @ own.vectors
            rows_q = self.design[present] @ q_basis.vectors
            rank = rows_p.T @ rows_q
            a, b = own.a[:, None], a_q[None, :]
            of_power, of_total = _divided_powers(a, b, n_steps)
            _, of_geometric = _divided_powers(a * a, b * b, n_steps)
            # d/dh of a = 1 - eta h gives the factor -eta; a^2 - b^2 = (a + b)(a - b) the factor (a + b).
            jump = overlap.T @ (-eta * rank * of_power)
            noise_part = overlap.T @ (-eta * rank * (a + b) * of_geometric)
            covariance_p = np.diag(state.variance_q) + state.covariance_difference
            if np.any(covariance_p):
                right = jump @ covariance_p
                difference = difference + right * power_q + right @ jump.T + power_q[:, None] * (covariance_p @ jump.T)
            difference = difference + tau2 * noise_part
            # The deleted rows' share of step k, -eta x (x^T M_k - y), carried on by A'^(N-1-k) and summed over k:
            # sum of b^(N-1-k) a^k and of b^(N-1-k) (1 + a + ... + a^(k-1)) are the divided differences above.
            _, total_q = _powers(a_q, n_steps)
            pulled = (rank * of_power).T @ mean + eta * ((rank * of_total).T @ own.moment)
            shift = shift - eta * (pulled - total_q[:, None] * (rows_q.T @ self.targets[present]))
        return LawPair(own.vectors @ end, shift, variance_q, 0.5 * (difference + difference.T), state.n_steps + n_steps)

    def pair(self, state: LawPair) -> GaussianPair:
        """Return the Gaussian pair of the two laws, never closer than they are.

        The laws come ever nearer to one another but are never the same, unless the deleted rows are all zeros: where
        the difference is lost to underflow, a bound on it takes its place.

        Raises
        ------
        ValueError
            If the reference law has no noise in some direction, or noise out of the range of float64, or the pair is
            too ill-conditioned to be formed.
        """
        smallest, largest = float(state.variance_q.min()), float(state.variance_q.max())
        if not _SMALLEST_VARIANCE <= smallest <= largest <= LARGEST**2:
            raise ValueError(
                f"noise_std must leave variances between {_SMALLEST_VARIANCE:g} and {LARGEST**2:g} in every direction "
                f"at the end of the run, got {smallest:g} to {largest:g}: too little noise, or noise that later steps "
                "without noise wipe out, hides nothing"
            )
        scale = 1.0 / np.sqrt(state.variance_q)
        with _steady_blas(scale.size):
            excess, vectors = linalg.eigh(scale[:, None] * state.covariance_difference * scale)
        if not excess[0] > -1.0:
            raise ValueError(f"the pair is numerically singular (smallest excess variance {excess[0]:.3g}, need > -1)")
        shift = vectors.T @ (scale[:, None] * state.mean_difference)
        # A longer shift is never harder to see; the powers behind it are rounded about once a step.
        shift *= 1.0 + 4.0 * np.finfo(np.float64).eps * (state.n_steps + 8.0 * excess.size)
        if np.any(self.design[list(self.deleted)]):
            # Sums of p products lose less to underflow: p 1e-180 of the smallest standard deviation that is allowed.
            shift[0, 0] += np.copysign(_LEAST_SHIFT, shift[0, 0])
            excess[excess == 0.0] = 1e3 * excess.size * _TINY / smallest
        return GaussianPair(excess, shift)

    def effective_phases(self, phases: Sequence[Phase]) -> tuple[Phase, ...]:
        """Drop trailing phases that are the same noise-free map on both sides: they cannot increase delta."""
        kept = list(phases)
        while kept and (kept[-1].n_steps == 0 or kept[-1].noise_std == 0) and not self.present(kept[-1]).size:
            kept.pop()
        if not any(phase.n_steps > 0 and phase.noise_std > 0 for phase in kept):
            raise ValueError("noise_std must be > 0 in at least one phase: without noise there is no guarantee")
        return tuple(kept)


def deletion_pair(
    design: Array,
    targets: Array,
    *,
    alpha: float,
    step_size: float,
    phases: Sequence[Phase],
    deleted: Sequence[int],
) -> GaussianPair:
    """Return the exact Gaussian pair of deleting rows from a run: P followed the phases, Q never saw the rows.

    Parameters
    ----------
    design : ndarray of shape (n, p), float64
        Rows of the first fit as the model sees them.
    targets : ndarray of shape (n, q), float64
        Their targets.
    alpha, step_size : float
        Penalty (> 0) and step size (at most 1/L), the same constants in both runs.
    phases : sequence of Phase
        The run, learning first.
    deleted : sequence of int
        Rows the reference run never saw.

    Returns
    -------
    GaussianPair
        Whose ``delta`` is the privacy profile. Trailing noise-free phases that are common to both runs are left out:
        they cannot increase delta.

    Raises
    ------
    ValueError
        Without any noise, on a step size above 1/L, or if a phase removes other rows.

    Notes
    -----
    Guarantee: dense float64 algebra over all p dimensions; no truncation, no high-probability event.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.eye(3), np.ones((3, 1))
    >>> run = [Phase(n_steps=10, noise_std=0.5), Phase(n_steps=5, noise_std=1.0, removed=(0,))]
    >>> pair = deletion_pair(X, y, alpha=1.0, step_size=0.5, phases=run, deleted=[0])
    >>> bool(pair.delta(1.0) < 1e-3)
    True
    """
    deletion = RidgeDeletion(design, targets, alpha=alpha, step_size=step_size, deleted=deleted)
    return deletion.pair(deletion.run(deletion.effective_phases(phases)))


def phase_floors(
    design: Array,
    targets: Array,
    *,
    alpha: float,
    step_size: float,
    phases: Sequence[Phase],
    deleted: Sequence[int] = (),
) -> tuple[float, ...]:
    """Return the least noise of each phase that float64 does not lose at the size of the parameters.

    The size is that of the noise-free parameters at the start and the end of the phase, of the run and of the reference
    run, whichever is largest: known to whoever holds the data, before any noise is drawn. The noise of the phases does
    not enter.

    Parameters
    ----------
    design, targets, alpha, step_size, phases
        As in `deletion_pair`.
    deleted : sequence of int
        Rows the reference run never saw; without any the two runs are one.

    Returns
    -------
    tuple of float
        One floor per phase: `expunge.accounting.noise_floor.noise_floor` of those parameters. Noise above 0 and below
        it is no noise.

    Raises
    ------
    ValueError
        As `RidgeDeletion`, and if a parameter overflows.

    Examples
    --------
    >>> import numpy as np
    >>> run = [Phase(n_steps=1000, noise_std=0.5), Phase(n_steps=5, noise_std=1.0, removed=(0,))]
    >>> floors = phase_floors(np.eye(3), np.ones((3, 1)), alpha=1.0, step_size=0.5, phases=run, deleted=[0])
    >>> floors == (2.0**-31, 2.0**-31)
    True
    """
    return RidgeDeletion(design, targets, alpha=alpha, step_size=step_size, deleted=deleted).floors(phases)
