"""The exact law of a Langevin ridge run with and without some of its records.

A run is a list of phases: learn on all records, then one phase of noisy steps per deletion, on what remains then.
The true run P and the reference run Q, which never saw the deleted records, follow the same list, so both end in a
known Gaussian law ([BAC26] arXiv 2602.15602 for the setting; dense float64 linear algebra, nothing truncated).

Differences between the two laws are formed by divided differences of matrix functions and never by subtracting two
computed laws: with H = H' + X_G^T X_G, eigenvectors U of H and U' of H', U^T (f(H) - f(H')) U' equals
(U^T X_G^T)(X_G U') times the divided differences f[h_i, h'_j], entry by entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from expunge.accounting.gaussian_pair import GaussianPair
from expunge.accounting.noise_floor import noise_floor
from expunge.data.close_products import UNIT, columns, sum_error
from expunge.runs.ridge.eigenvalues import steady_blas
from expunge.runs.ridge.held_rows import HeldRows, RowTable
from expunge.runs.ridge.power_sums import divided_powers, powers
from expunge.runs.ridge.products import Products
from expunge.runs.ridge.rounding import Basis, LawErrors, Rows, Step, advance_errors, pair_error, rotation
from expunge.runs.ridge.step_sizes import STEP_SIZE_SLACK, require_step_size, smoothness

__all__ = [
    "LARGEST",
    "STEP_SIZE_SLACK",
    "LawPair",
    "Phase",
    "RidgeDeletion",
    "SingularPairError",
    "deletion_pair",
    "phase_floors",
    "require_squares",
    "require_step_size",
    "smoothness",
]

Array = NDArray[np.float64]

# A variance below it, or a number beyond the other, would lose its digits (or itself) to the range of float64.
_SMALLEST_VARIANCE, LARGEST = 1e-250, 1e100
_LARGEST_STEP = 1e250
_MOST_LAWS = 3  # of a few p^2 numbers each


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


def require_squares(phase: Phase) -> None:
    """Refuse noise whose square leaves the range of float64, or whose sums do."""
    if not phase.noise_std <= LARGEST:
        raise ValueError(f"noise_std must be at most {LARGEST:g}, got {phase.noise_std!r}")


@dataclass(frozen=True)
class LawPair:
    """Both laws after some phases, in the eigenbasis of the reference run's H'."""

    mean_p: Array  # (p, q), original coordinates
    mean_difference: Array  # (p, q), reference eigenbasis
    variance_q: Array  # (p,), the reference covariance is diagonal there
    covariance_difference: Array  # (p, p), reference eigenbasis
    n_steps: int  # so far
    errors: LawErrors | None  # None where they were not asked for

    def proved_errors(self) -> LawErrors:
        """Return the bounds on what rounding did to these laws; without them nothing certified can be said."""
        if self.errors is None:
            raise ValueError("state must come from advance(..., proved=True), got laws without bounds on their errors")
        return self.errors


class SingularPairError(ValueError):
    """A pair of laws too ill-conditioned for bounds on its rounding; more noise in the last phase may help."""


class RidgeDeletion:
    """Deletion of some rows from a Langevin ridge run, phase by phase.

    Parameters
    ----------
    design : ndarray of shape (n, p), float64, or HeldRows
        Rows of the first fit as the model sees them, deleted rows included: at least those, where ``products`` stand
        for the others.
    targets : ndarray of shape (n, q), float64, or HeldRows
        Targets of the first fit.
    alpha : float
        L2 penalty, > 0.
    step_size : float
        Step size, at most (1 + 1e-9)/L.
    deleted : sequence of int
        Rows the reference run never saw.
    products : Products, optional
        Those of ``design`` and ``targets``, where they have been formed already.

    Raises
    ------
    ValueError
        If ``step_size`` exceeds 1/L, everything is deleted, or a phase removes a row that is not among ``deleted``.
    """

    def __init__(
        self,
        design: RowTable,
        targets: RowTable,
        *,
        alpha: float,
        step_size: float,
        deleted: Sequence[int],
        products: Products | None = None,
    ) -> None:
        self.design, self.targets = design, targets
        self.alpha, self.step_size = float(alpha), float(step_size)
        self.deleted = tuple(sorted(int(i) for i in deleted))
        n, p = design.shape
        if len(self.deleted) >= n:
            raise ValueError(f"deleted must leave at least one record, got all {n}")
        if not self.alpha > 0:
            raise ValueError(f"alpha must be > 0, got {alpha}")
        if not self.alpha <= LARGEST**2:
            raise ValueError(f"alpha must be at most {LARGEST**2:g}, got {alpha}")
        if products is None:
            if isinstance(design, HeldRows) or isinstance(targets, HeldRows):
                raise TypeError("products must be given where not all rows of the design are held")
            products = Products(design, targets)
        self.products = products
        if self.products.design is not design or self.products.targets is not targets:
            raise ValueError("products must be those of design and targets, got others")
        largest = self.products.largest + self.alpha
        # Asked first where 1/L itself is beyond: it may have overflowed.
        if self.step_size > _LARGEST_STEP and largest * _LARGEST_STEP < 1.0:
            raise ValueError(
                f"step_size must be at most {_LARGEST_STEP:g}, got {step_size!r}: the squares of such small features "
                "are lost to underflow; multiply the features by a constant"
            )
        require_step_size(self.step_size, largest=largest, n_columns=p)
        # Laws that are asked for again by whoever issues the certificate, and their pair: each takes p^3 operations.
        self._laws: dict[tuple[Phase, ...], LawPair] = {}
        self._last_pair: tuple[LawPair, GaussianPair] | None = None
        self.known: dict[object, object] = {}  # what bounds have found out about it, each under a key of its own
        self.reference = self.basis(self.deleted)
        q = targets.shape[1]
        none = LawErrors.none(p, q)
        self.start = LawPair(np.zeros((p, q)), np.zeros((p, q)), np.zeros(p), np.zeros((p, p)), 0, none)

    def basis(self, removed: tuple[int, ...]) -> Basis:
        """Return the eigenbasis of H on the data without ``removed``."""
        return self.products.kept((removed, self.alpha, self.step_size), lambda: self._new_basis(removed))

    def _new_basis(self, removed: tuple[int, ...]) -> Basis:
        matrix, off, moment, moment_off = self.products.without(removed, alpha=self.alpha)
        with steady_blas(len(matrix)):
            values, vectors = linalg.eigh(matrix, driver="evd")
            values = np.maximum(values, self.alpha)  # H - alpha I is a Gram matrix
            # |a| <= 1 - eta alpha holds exactly; rounding (and the slack on the step size) may not break it.
            a = np.clip(1.0 - self.step_size * values, -STEP_SIZE_SLACK * 2, 1.0)
            frame = rotation(matrix, vectors, 1.0 - a, scale=self.step_size, off=off)
            turned = vectors.T @ moment
        length = columns(moment)
        apart = frame.apart + np.sqrt(len(matrix)) * sum_error(len(matrix)) + 2.0 * UNIT
        moment_error = moment_off + apart * length
        return Basis(values, vectors, a, turned, frame, moment_error)

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
        power, total = powers(basis.a, n_steps)
        start = basis.vectors.T @ mean
        return np.asarray(basis.vectors @ (power[:, None] * start + self.step_size * total[:, None] * basis.moment))

    def run(self, phases: Sequence[Phase]) -> LawPair:
        """Return both laws after ``phases``, started at theta = 0."""
        wanted = tuple(phases)
        if wanted in self._laws:
            return self._laws[wanted]
        state, done = self.begin(wanted)
        for count in range(done, len(wanted)):
            state = self.run_on(state, wanted[: count + 1])
        return state

    def run_on(self, state: LawPair, phases: Sequence[Phase]) -> LawPair:
        """Return both laws after ``phases``, where ``state`` is what all but the last of them lead to."""
        wanted = tuple(phases)
        found = self._laws[wanted] if wanted in self._laws else self.advance(state, wanted[-1])
        self._laws[wanted] = found
        # The last few are kept, and that which was gone on from.
        for key in (wanted[:-1], wanted):
            if key in self._laws:
                self._laws[key] = self._laws.pop(key)
        while len(self._laws) > _MOST_LAWS:
            del self._laws[next(iter(self._laws))]
        return found

    def along(self, phases: Sequence[Phase]) -> Iterator[LawPair]:
        """Yield both laws after each of ``phases`` that is not known from the start; bounds on rounding may be None."""
        wanted = tuple(phases)
        state, done = self.begin(wanted)
        for count in range(done, len(wanted)):
            known = self._laws.get(wanted[: count + 1])
            state = self.advance(state, wanted[count], proved=False) if known is None else known
            yield state

    def begin(self, phases: Sequence[Phase]) -> tuple[LawPair, int]:
        """Return both laws after the first of ``phases`` that are known already, and the number of these."""
        return self.start, 0

    def is_nothing(self) -> bool:
        """Return whether the deleted rows leave no trace: whether they are all zeros."""
        return not np.any(self.design[list(self.deleted)])

    def advance(self, state: LawPair, phase: Phase, *, proved: bool = True) -> LawPair:
        """Return both laws after one more phase; unless ``proved``, without bounds on what rounding did to them."""
        if phase.n_steps == 0:
            return state
        require_squares(phase)
        present = self.present(phase)
        own = self.reference if present.size == 0 else self.basis(phase.removed)
        q_basis, eta, n_steps = self.reference, self.step_size, phase.n_steps
        a_q, tau2 = q_basis.a, phase.noise_std * phase.noise_std
        power_q, _ = powers(a_q, n_steps)
        _, geometric_q = powers(a_q * a_q, n_steps)
        variance_q = power_q**2 * state.variance_q + tau2 * geometric_q
        difference = power_q[:, None] * state.covariance_difference * power_q
        shift = power_q[:, None] * state.mean_difference

        rows: Rows | None = None
        overlap: Array | None = None
        power_p, total_p = powers(own.a, n_steps)
        mean = own.vectors.T @ state.mean_p
        end = power_p[:, None] * mean + total_p[:, None] * (eta * own.moment)
        if present.size:
            overlap = own.vectors.T @ q_basis.vectors
            rows_p = self.design[present] @ own.vectors
            rows_q = self.design[present] @ q_basis.vectors
            rows = Rows(self.design[present], rows_p, rows_q, self.targets[present])
            rank = (eta * rows_p).T @ rows_q  # eta first: the rows' own products may underflow
            a, b = own.a[:, None], a_q[None, :]
            of_power, of_total = divided_powers(a, b, n_steps)
            _, of_geometric = divided_powers(a * a, b * b, n_steps)
            # d/dh of a = 1 - eta h gives the factor -eta; a^2 - b^2 = (a + b)(a - b) the factor (a + b).
            jump = overlap.T @ (-rank * of_power)
            noise_part = overlap.T @ (-rank * (a + b) * of_geometric)
            covariance_p = np.diag(state.variance_q) + state.covariance_difference
            if np.any(covariance_p):
                right = jump @ covariance_p
                difference = difference + right * power_q + right @ jump.T + power_q[:, None] * (covariance_p @ jump.T)
            difference = difference + tau2 * noise_part
            # The deleted rows' share of step k, -eta x (x^T M_k - y), carried on by A'^(N-1-k) and summed over k:
            # sum of b^(N-1-k) a^k and of b^(N-1-k) (1 + a + ... + a^(k-1)) are the divided differences above.
            _, total_q = powers(a_q, n_steps)
            pulled = (rank * of_power).T @ mean + (rank * of_total).T @ (eta * own.moment)
            shift = shift - (pulled - total_q[:, None] * ((eta * rows_q).T @ self.targets[present]))
        errors = None
        if proved and state.errors is not None:
            with np.errstate(all="ignore"):  # what is infinite or NaN is refused with the pair
                errors = advance_errors(
                    state.errors,
                    Step(n_steps, tau2, eta),
                    q_basis,
                    own,
                    mean_p=state.mean_p,
                    mean=mean,
                    end=end,
                    mean_difference=state.mean_difference,
                    variance_q=state.variance_q,
                    covariance_difference=state.covariance_difference,
                    rows=rows,
                    overlap=overlap,
                )
        difference = 0.5 * (difference + difference.T)
        return LawPair(own.vectors @ end, shift, variance_q, difference, state.n_steps + n_steps, errors)

    def pair(self, state: LawPair) -> GaussianPair:
        """Return the Gaussian pair of the two laws with bounds on what rounding did to it.

        The laws come ever nearer to one another but are never the same, unless the deleted rows are all zeros: where
        the difference is lost to underflow, a bound on it is left.

        Raises
        ------
        ValueError
            If the reference law has no noise in some direction, or noise out of the range of float64; or, as a
            `SingularPairError`, if the pair is too ill-conditioned for its bounds to mean anything.
        """
        if self._last_pair is not None and self._last_pair[0] is state:
            return self._last_pair[1]
        pair = self._pair(state)
        self._last_pair = state, pair
        return pair

    def _pair(self, state: LawPair) -> GaussianPair:
        errors = state.proved_errors()
        scale, whitened, whitened_shift = self._whitened(state)
        if self.is_nothing():
            return GaussianPair(np.zeros_like(scale), np.zeros_like(whitened_shift))
        with steady_blas(scale.size):
            excess, vectors = linalg.eigh(whitened, driver="evd")
            frame = rotation(whitened, vectors, excess, scale=1.0, off=0.0)
            shift = vectors.T @ whitened_shift
        with np.errstate(all="ignore"):
            off = pair_error(errors, scale, whitened, whitened_shift, frame)
        least = float(excess[0])
        # Written so that NaN is refused.
        if not (off.whitening < 0.1 and off.excess < 0.33 * (1.0 + least) and off.shift < LARGEST):
            raise SingularPairError(
                "the pair is numerically singular: rounding may change the variances of its two laws, "
                f"{1.0 + least:.3g} and more, by {max(off.whitening, off.excess):.2g}. More noise_std in the last "
                "phase, a larger alpha, or features divided by constants that make them alike help, "
                "and so does method='shifted'"
            )
        return GaussianPair(excess, shift, off.excess, off.shift)

    def estimated_pair(self, state: LawPair) -> GaussianPair:
        """Return the pair as computed, whatever rounding did to it: an estimate, for searches that `pair` ends."""
        scale, whitened, whitened_shift = self._whitened(state)
        with steady_blas(scale.size):
            excess, vectors = linalg.eigh(whitened, driver="evd")
        if not excess[0] > -1.0:
            raise SingularPairError(
                f"the pair is numerically singular (smallest excess variance {excess[0]:.3g}, need > -1)"
            )
        return GaussianPair(excess, vectors.T @ whitened_shift)

    def _whitened(self, state: LawPair) -> tuple[Array, Array, Array]:
        """Return one over the standard deviations of Q, and the differences of covariances and means in its units."""
        smallest, largest = float(state.variance_q.min()), float(state.variance_q.max())
        if not _SMALLEST_VARIANCE <= smallest <= largest <= LARGEST**2:
            raise ValueError(
                f"noise_std must leave variances between {_SMALLEST_VARIANCE:g} and {LARGEST**2:g} in every direction "
                f"at the end of the run, got {smallest:g} to {largest:g}: too little noise, or noise that later steps "
                "without noise wipe out, hides nothing"
            )
        scale = 1.0 / np.sqrt(state.variance_q)
        with np.errstate(under="ignore"):
            return scale, scale[:, None] * state.covariance_difference * scale, scale[:, None] * state.mean_difference

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
        Its ``delta`` is the privacy profile. Trailing noise-free phases that are common to both runs are left out:
        they cannot increase delta.

    Raises
    ------
    ValueError
        If there is no noise, the step size exceeds 1/L, or a phase removes other rows.

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
        it counts as none.

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
