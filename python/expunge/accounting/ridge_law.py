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
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, stats

from expunge.accounting.gaussian_pair import GaussianPair
from expunge.accounting.gdp import gdp_delta
from expunge.accounting.shifted import shifted_mu

__all__ = ["STEP_SIZE_SLACK", "Phase", "RidgeDeletion", "ShiftedClaim", "deletion_pair", "shifted_claim", "smoothness"]

Array = NDArray[np.float64]

# A step of exactly 1/L must be accepted however L was rounded.
STEP_SIZE_SLACK = 1e-9
# Below this many entries a table of residuals is formed at once (1 GiB of float64).
_TABLE_ENTRIES = 1 << 27


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


@dataclass(frozen=True)
class ShiftedClaim:
    """A bound by shifted interpolation: GDP parameter and the two deltas, failure probability included."""

    mu: float
    delta_pq: float
    delta_qp: float

    @property
    def delta(self) -> float:
        """The larger of the two directions."""
        return max(self.delta_pq, self.delta_qp)


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
    gram = design @ design.T if n < p else design.T @ design
    size = gram.shape[0]
    top = linalg.eigvalsh(gram, subset_by_index=[size - 1, size - 1])[0]
    return max(float(top), 0.0) + alpha


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
class _Basis:
    """Eigenbasis of H on one version of the data: eigenvalues, eigenvectors, contraction per eigenvalue, V^T X^T Y."""

    values: Array
    vectors: Array
    a: Array
    moment: Array


@dataclass(frozen=True)
class _State:
    """Both laws after some phases, in the eigenbasis of the reference run's H'."""

    mean_p: Array  # (p, q), original coordinates
    mean_difference: Array  # (p, q), reference eigenbasis
    variance_q: Array  # (p,), the reference covariance is diagonal there
    covariance_difference: Array  # (p, p), reference eigenbasis


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
        self._design, self._targets = design, targets
        self._alpha, self._eta = float(alpha), float(step_size)
        self.deleted = tuple(sorted(int(i) for i in deleted))
        n, p = design.shape
        if len(self.deleted) >= n:
            raise ValueError(f"deleted must leave at least one record, got all {n}")
        if not self._alpha > 0:
            raise ValueError(f"alpha must be > 0, got {alpha}")
        limit = 1.0 / smoothness(design, alpha=self._alpha)
        if not 0 < self._eta <= limit * (1 + STEP_SIZE_SLACK):
            raise ValueError(f"step_size must be > 0 and at most 1/L = {limit!r}, got {step_size!r}")
        self._reference = self._basis(self.deleted)
        q = targets.shape[1]
        self._start = _State(np.zeros((p, q)), np.zeros((p, q)), np.zeros(p), np.zeros((p, p)))

    def _basis(self, removed: tuple[int, ...]) -> _Basis:
        keep = np.ones(len(self._design), dtype=bool)
        keep[list(removed)] = False
        rows = self._design[keep]
        gram = rows.T @ rows
        gram[np.diag_indices_from(gram)] += self._alpha
        values, vectors = linalg.eigh(gram, driver="evd", overwrite_a=True)
        values = np.maximum(values, self._alpha)  # H - alpha I is a Gram matrix
        # |a| <= 1 - eta alpha holds exactly; rounding (and the slack on the step size) may not break it.
        a = np.clip(1.0 - self._eta * values, -STEP_SIZE_SLACK * 2, 1.0)
        return _Basis(values, vectors, a, vectors.T @ (rows.T @ self._targets[keep]))

    @property
    def contraction(self) -> float:
        """Contraction factor of a step of the reference run."""
        values = self._reference.values
        return float(max(1.0 - self._eta * values[0], self._eta * values[-1] - 1.0))

    def _present(self, phase: Phase) -> NDArray[np.int64]:
        extra = set(phase.removed) - set(self.deleted)
        if extra:
            raise ValueError(f"phases must remove only deleted rows, got row {min(extra)}")
        return np.array(sorted(set(self.deleted) - set(phase.removed)), dtype=np.int64)

    def run(self, phases: Sequence[Phase]) -> _State:
        """Return both laws after ``phases``, started at theta = 0."""
        state = self._start
        for phase in phases:
            state = self.advance(state, phase)
        return state

    def advance(self, state: _State, phase: Phase) -> _State:
        """Return both laws after one more phase."""
        if phase.n_steps == 0:
            return state
        present = self._present(phase)
        own = self._reference if present.size == 0 else self._basis(phase.removed)
        q_basis, eta, n_steps = self._reference, self._eta, phase.n_steps
        a_q, tau2 = q_basis.a, phase.noise_std**2
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
            rows_p = self._design[present] @ own.vectors
            rows_q = self._design[present] @ q_basis.vectors
            rank = rows_p.T @ rows_q
            a, b = own.a[:, None], a_q[None, :]
            of_power, _ = _divided_powers(a, b, n_steps)
            _, of_geometric = _divided_powers(a * a, b * b, n_steps)
            # d/dh of a = 1 - eta h gives the factor -eta; a^2 - b^2 = (a + b)(a - b) the factor (a + b).
            jump = overlap.T @ (-eta * rank * of_power)
            noise_part = overlap.T @ (-eta * rank * (a + b) * of_geometric)
            covariance_p = np.diag(state.variance_q) + state.covariance_difference
            if np.any(covariance_p):
                right = jump @ covariance_p
                difference = difference + right * power_q + right @ jump.T + power_q[:, None] * (covariance_p @ jump.T)
            difference = difference + tau2 * noise_part
            shift = shift + self._drift(own, mean, rows_p, rows_q, self._targets[present], n_steps)
        return _State(own.vectors @ end, shift, variance_q, 0.5 * (difference + difference.T))

    def _drift(self, own: _Basis, mean: Array, rows_p: Array, rows_q: Array, targets: Array, n_steps: int) -> Array:
        """Sum over the phase of A'^(N-1-k) times the deleted rows' share of step k, reference eigenbasis."""
        total = np.zeros_like(mean)
        a_q = self._reference.a[:, None]
        a_p = own.a[:, None]
        current = mean
        push = self._eta * own.moment
        for _ in range(n_steps):
            residual = rows_p @ current - targets
            total = a_q * total - self._eta * (rows_q.T @ residual)
            current = a_p * current + push
        return total

    def pair(self, state: _State) -> GaussianPair:
        """Return the Gaussian pair of the two laws.

        Raises
        ------
        ValueError
            If the reference law has no noise, or the pair is too ill-conditioned to be formed in float64.
        """
        if not state.variance_q.min() > 0:
            raise ValueError("noise_std must be > 0 in learning or in the last phase: without noise nothing is hidden")
        scale = 1.0 / np.sqrt(state.variance_q)
        excess, vectors = linalg.eigh(scale[:, None] * state.covariance_difference * scale)
        if not excess[0] > -1.0:
            raise ValueError(f"the pair is numerically singular (smallest excess variance {excess[0]:.3g}, need > -1)")
        return GaussianPair(excess, vectors.T @ (scale[:, None] * state.mean_difference))

    def effective_phases(self, phases: Sequence[Phase]) -> tuple[Phase, ...]:
        """Drop trailing phases that are the same noise-free map on both sides: they cannot increase delta."""
        kept = list(phases)
        while kept and (kept[-1].n_steps == 0 or kept[-1].noise_std == 0) and not self._present(kept[-1]).size:
            kept.pop()
        if not any(phase.n_steps > 0 and phase.noise_std > 0 for phase in kept):
            raise ValueError("noise_std must be > 0 in at least one phase: without noise there is no guarantee")
        return tuple(kept)

    # --- shifted interpolation -----------------------------------------------------------------

    def residual_bounds(self, phases: Sequence[Phase], *, delta_s: float) -> list[Array]:
        """Return, per phase, upper bounds (n_present, n_steps) on the residual norms of the deleted rows along P.

        All hold at once with probability at least 1 - delta_s (union over rows and steps; theta_0 is known).
        """
        draws = sum(len(self._present(phase)) * phase.n_steps for phase in phases)
        if phases and not any(phase.n_steps for phase in phases):
            return [np.zeros((0, 0)) for _ in phases]
        first = next((phase for phase in phases if phase.n_steps), None)
        draws -= len(self._present(first)) if first is not None else 0
        tail = delta_s / max(draws, 1)
        bounds, state = [], self._start
        for phase in phases:
            bounds.append(self._phase_residual_bounds(state, phase, tail))
            state = self.advance(state, phase)
        return bounds

    def _phase_residual_bounds(self, state: _State, phase: Phase, tail: float) -> Array:
        present = self._present(phase)
        bounds = np.zeros((present.size, phase.n_steps))
        if not present.size or not phase.n_steps:
            return bounds
        own = self._basis(phase.removed)
        rows = self._design[present] @ own.vectors
        rotation = self._reference.vectors.T @ own.vectors
        covariance = rotation.T @ (np.diag(state.variance_q) + state.covariance_difference) @ rotation
        started = bool(np.any(covariance))
        mean, push = own.vectors.T @ state.mean_p, self._eta * own.moment
        power, geometric = np.ones_like(own.a), np.zeros_like(own.a)
        distance = np.empty_like(bounds)
        variance = np.empty_like(bounds)
        for k in range(phase.n_steps):
            distance[:, k] = np.linalg.norm(rows @ mean - self._targets[present], axis=1)
            variance[:, k] = phase.noise_std**2 * (rows**2 @ geometric)
            if started:
                scaled = rows * power
                variance[:, k] += np.einsum("ij,ij->i", scaled @ covariance, scaled)
            mean = own.a[:, None] * mean + push
            geometric = geometric + power * power
            power = power * own.a
        bounds[:] = residual_norm_quantile(distance, variance, self._targets.shape[1], tail)
        return bounds

    def sensitivities(self, phases: Sequence[Phase], *, delta_s: float) -> list[Array]:
        """Return, per phase, the bound on how far one step can separate the two runs (0 once all rows are gone)."""
        bounds = self.residual_bounds(phases, delta_s=delta_s)
        norms = [np.linalg.norm(self._design[self._present(phase)], axis=1) for phase in phases]
        return [self._eta * (norm @ bound) for norm, bound in zip(norms, bounds, strict=True)]

    def shifted(
        self, phases: Sequence[Phase], *, delta_s: float, sensitivities: Sequence[Array] | None = None
    ) -> float:
        """Return the GDP parameter of shifted interpolation with per-record sensitivities ([BSA24], arXiv 2403.00278).

        ``sensitivities`` (of a prefix of ``phases`` after which every deleted row is gone) saves forming them again.
        """
        kept = self.effective_phases(phases)
        if sensitivities is None:
            sensitivities = self.sensitivities(kept, delta_s=delta_s)
        known = list(sensitivities[: len(kept)])
        known += [np.zeros(phase.n_steps) for phase in kept[len(known) :]]
        return _mu_of_path(kept, known, self.contraction)


def _mu_of_path(phases: Sequence[Phase], sensitivity: Sequence[Array], contraction: float) -> float:
    noise = np.concatenate([np.full(phase.n_steps, phase.noise_std) for phase in phases])
    return float(shifted_mu(np.concatenate(sensitivity), np.full(noise.size, contraction), noise))


def residual_norm_quantile(distance: Array, variance: Array, q: int, tail: float) -> Array:
    """Return an upper bound on the (1 - tail) quantile of ||N(m, v I_q)|| with ||m|| = ``distance``.

    The noncentral chi-square quantile, kept between its two elementary bounds distance + sqrt(v) z and
    distance + sqrt(v) chi_q, and rounded outward; where the library value cannot be trusted, the upper one.
    """
    spread = np.sqrt(variance)
    upper = distance + spread * float(stats.chi.isf(tail, q))
    lower = distance + spread * float(stats.norm.isf(tail))
    result = upper.copy()
    with np.errstate(all="ignore"):
        noncentrality = np.where(variance > 0, distance**2 / np.where(variance > 0, variance, 1.0), np.inf)
        usable = noncentrality < 1e4
        if usable.any():
            center = noncentrality[usable]
            exact = stats.ncx2.isf(tail, q, center) * (1 + 1e-13)
            value = upper[usable]
            for outward in (1e-9, 1e-11, 0.0):  # the tightest whose tail the library confirms
                candidate = exact * (1 + outward)
                confirmed = np.isfinite(candidate) & (stats.ncx2.sf(candidate, q, center) <= tail)
                value = np.where(confirmed, np.sqrt(candidate) * spread[usable], value)
            result[usable] = np.clip(value, lower[usable], upper[usable])
    return result * (1 + 4 * np.finfo(float).eps)


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


def shifted_claim(
    design: Array,
    targets: Array,
    *,
    alpha: float,
    step_size: float,
    phases: Sequence[Phase],
    deleted: Sequence[int],
    epsilon: float,
    delta_s: float,
    uniform: bool = False,
) -> ShiftedClaim:
    """Return the bound by shifted interpolation on deleting rows from a run.

    The sensitivities hold with probability 1 - delta_s along P; by the clip argument the two directions then cost
    delta_s and e^epsilon delta_s more.

    Parameters
    ----------
    design, targets, alpha, step_size, phases, deleted
        As in `deletion_pair`.
    epsilon : float
        At which the deltas are wanted.
    delta_s : float
        Failure probability given to the residual bounds, in (0, 1).
    uniform : bool
        Use the worst case over all records of the first fit instead of the deleted ones' own sensitivities
        (learning plus one unlearning phase only).

    Returns
    -------
    ShiftedClaim
        With ``mu``, ``delta_pq`` and ``delta_qp`` (at most 1 each).

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.eye(3), np.ones((3, 1))
    >>> run = [Phase(n_steps=10, noise_std=0.5), Phase(n_steps=5, noise_std=1.0, removed=(0,))]
    >>> problem = dict(alpha=1.0, step_size=0.5, phases=run, deleted=[0])
    >>> claim = shifted_claim(X, y, **problem, epsilon=1.0, delta_s=1e-7)
    >>> bool(deletion_pair(X, y, **problem).delta(1.0) <= claim.delta)
    True
    """
    deletion = RidgeDeletion(design, targets, alpha=alpha, step_size=step_size, deleted=deleted)
    if uniform:
        bound = UniformBound(design, targets, alpha=alpha, step_size=step_size, learning=phases[0], delta_s=delta_s)
        mu = bound.mu(phases, group_size=len(deletion.deleted))
    else:
        mu = deletion.shifted(phases, delta_s=delta_s)
    base = float(gdp_delta(mu, epsilon)) if np.isfinite(mu) else 1.0
    return ShiftedClaim(mu, min(1.0, base + delta_s), min(1.0, base + float(np.exp(epsilon)) * delta_s))


class UniformBound:
    """The worst case over all records: what a calibration blind to the record has to assume (an oracle baseline)."""

    def __init__(
        self, design: Array, targets: Array, *, alpha: float, step_size: float, learning: Phase, delta_s: float
    ) -> None:
        self._problem = RidgeDeletion(design, targets, alpha=alpha, step_size=step_size, deleted=())
        self._design, self._alpha, self._eta = design, float(alpha), float(step_size)
        self._learning = learning
        basis = self._problem._reference
        rows = design @ basis.vectors
        norms = np.linalg.norm(design, axis=1)
        tail = delta_s / max(learning.n_steps - 1, 1)
        q = targets.shape[1]
        worst = np.zeros(learning.n_steps)
        mean, push = np.zeros_like(basis.moment), self._eta * basis.moment
        power, geometric = np.ones_like(basis.a), np.zeros_like(basis.a)
        squares = rows**2
        for k in range(learning.n_steps):
            distance = np.linalg.norm(rows @ mean - targets, axis=1)
            variance = learning.noise_std**2 * (squares @ geometric)
            # The cheap bound is enough to leave out records that cannot be the worst.
            spread = np.sqrt(variance)
            high = norms * (distance + spread * float(stats.chi.isf(tail, q)))
            low = norms * (distance + spread * float(stats.norm.isf(tail)))
            close = high >= low.max()
            quantile = residual_norm_quantile(distance[close], variance[close], q, tail)
            worst[k] = self._eta * float(np.max(norms[close] * quantile))
            mean = basis.a[:, None] * mean + push
            geometric = geometric + power * power
            power = power * basis.a
        self._sensitivity = worst
        smallest = smallest_eigenvalues(basis.values, squares, floor=self._alpha).min()
        self._contraction_one = max(1.0 - self._eta * float(smallest), self._eta * float(basis.values[-1]) - 1.0)
        self._contraction_many = max(1.0 - self._eta * self._alpha, self._eta * float(basis.values[-1]) - 1.0)

    def mu(self, phases: Sequence[Phase], *, group_size: int = 1) -> float:
        """Return the GDP parameter of learning followed by one unlearning phase, for any group of that size."""
        if len(phases) > 2 or phases[0] != self._learning:
            raise ValueError("method 'uniform' is defined for a first deletion: learning and one unlearning phase")
        kept = [phase for phase in phases if phase.n_steps and (phase.noise_std or phase is phases[0])]
        sensitivity = [group_size * self._sensitivity] + [np.zeros(phase.n_steps) for phase in kept[1:]]
        return _mu_of_path(kept, sensitivity, self._contraction_one if group_size == 1 else self._contraction_many)


def smallest_eigenvalues(values: Array, squares: Array, *, floor: float) -> Array:
    """Return a lower bound on the smallest eigenvalue of diag(values) - x x^T for every row of ``squares`` = x**2.

    Bisection on the secular equation 1 = sum_j x_j^2 / (h_j - lambda) below the smallest h; the lower end is kept.
    """
    low = np.maximum(values[0] - squares.sum(axis=1), floor)
    high = np.full(len(squares), values[0])
    for _ in range(60):
        middle = 0.5 * (low + high)
        with np.errstate(divide="ignore"):
            above = np.einsum("ij,ij->i", squares, 1.0 / (values[None, :] - middle[:, None])) < 1.0
        low = np.where(above, middle, low)
        high = np.where(above, high, middle)
    return np.maximum(low * (1 - 1e-12), floor)


def with_last_phase(phases: Sequence[Phase], last: Phase) -> tuple[Phase, ...]:
    """Return ``phases`` followed by ``last``, with the removed rows in sorted order."""
    return (*phases, replace(last, removed=tuple(sorted(int(i) for i in last.removed))))
