"""Cost of one deletion: its delta as a function of the last phase, and the noise that meets a target."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from expunge._validate import real_array
from expunge.accounting import gdp_mu
from expunge.calibration import HEADROOM, smallest_noise, smallest_steps
from expunge.runs.ridge.bounds import UniformBound, sensitivities, tracked_mu
from expunge.runs.ridge.clipping import least_epsilon, left_of_delta, residual_failure
from expunge.runs.ridge.history import RidgeHistory
from expunge.runs.ridge.kept_law import KeptLaw
from expunge.runs.ridge.law import Phase, SingularPairError

__all__ = [
    "LARGEST_NOISE",
    "LEAST_NOISE",
    "ChosenNoise",
    "DeletionCost",
    "LostNoiseError",
    "Reached",
    "check_delta",
    "chosen_noise",
]

# Between these, squares of the noise and sums of them over the steps neither underflow nor overflow float64.
LEAST_NOISE, LARGEST_NOISE = 1e-120, 1e90
# A tenth of it, shared among all steps and records, is still a probability in float64.
_LEAST_SHARED_DELTA = 1e-270
# Relative distance above the least noise at which a search may end, and most secants to get there; six usually do.
_TOLERANCE, _MOST_SECANTS = 1e-9, 16
# Far above what bounds on rounding add to every delta, however large the noise.
_LEAST_DELTA = 1e-300


class LostNoiseError(ValueError):
    """Noise of an earlier phase is below the resolution of float64 at the size of the parameters."""


class Reached(NamedTuple):
    """A deletion at its delta: its Gaussian-DP parameter, its epsilon, and the direction that binds."""

    mu: float
    epsilon: float
    direction: str


class ChosenNoise(NamedTuple):
    """Noise per unlearning step, and where it comes from, in the words of `expunge.data.constants.Sources`."""

    noise_std: float
    source: str


class DeletionCost:
    """Delta of one deletion (a record or a group) as a function of the last phase, by dense certified algebra.

    Parameters
    ----------
    history : RidgeHistory
        The run so far.
    rows : sequence of int
        Rows to delete next; the reference run never saw them or any deleted before.
    method : str
        "exact", "shifted" or "uniform".
    epsilon, delta : float
        The target.
    uniform : UniformBound, optional
        That of this number of records, for the method "uniform", where it has been computed already.
    """

    def __init__(
        self,
        history: RidgeHistory,
        rows: Sequence[int],
        *,
        method: str,
        epsilon: float,
        delta: float,
        uniform: UniformBound | None = None,
    ) -> None:
        check_delta(method, delta)
        history.require_method(method)
        self._history, self.method = history, method
        self.deleted = tuple(sorted({*history.removed, *(int(i) for i in rows)}))
        self.epsilon, self.delta = epsilon, delta
        self._delta_s = residual_failure(delta)
        self.deletion = history.deletion(self.deleted)
        self._state = self.deletion.run(history.phases)
        self._floors: dict[int, float] = {}
        self.begin: Callable[[str], None] = lambda part: None  # is told of every trial of the search
        if method == "shifted":
            self._sensitivities = sensitivities(self.deletion, history.phases, delta_s=self._delta_s)
        elif method == "uniform":
            if len(history.phases) > 1:
                raise ValueError("method='uniform' is defined for a first deletion only, and this model had one before")
            learning = history.phases[0]
            self._uniform = uniform or UniformBound.of(self.deletion, learning=learning, delta_s=self._delta_s)

    def law_after(self, phase: Phase) -> KeptLaw:
        """Return the law of the run after its last phase, which stands for the deleted rows from then on."""
        return KeptLaw.of(self.deletion, self.deletion.run_on(self._state, (*self._history.phases, phase)))

    def phase(self, n_steps: int, noise_std: float) -> Phase:
        """Return the unlearning phase with the given steps and noise."""
        return Phase(n_steps=n_steps, noise_std=noise_std, removed=self.deleted)

    def _phases(self, n_steps: int, noise_std: float) -> tuple[Phase, ...]:
        return self.deletion.effective_phases((*self._history.phases, self.phase(n_steps, noise_std)))

    def pair(self, n_steps: int, noise_std: float, *, proved: bool = True) -> Any:
        """Return the exact `GaussianPair` after ``n_steps`` of ``noise_std``; not proved, an estimate of it."""
        phases = self._phases(n_steps, noise_std)
        extra = len(phases) - len(self._history.phases)
        if extra == 1 and proved:
            state = self.deletion.run_on(self._state, phases)
        elif extra == 1:
            state = self.deletion.advance(self._state, phases[-1], proved=False)
        else:  # without noise the last phase is left out, and sometimes others before it
            state = self._state if extra == 0 else self.deletion.run(phases)
        if not all(np.isfinite(part).all() for part in (state.mean_difference, state.covariance_difference)):
            raise ValueError("X and y must be divided by constants: the law of this deletion overflows float64")
        return self.deletion.pair(state) if proved else self.deletion.estimated_pair(state)

    def mu(self, n_steps: int, noise_std: float) -> float:
        """Return the GDP parameter proved by shifted interpolation."""
        phases = self._phases(n_steps, noise_std)
        if self.method == "uniform":
            return self._uniform.mu(phases)
        return tracked_mu(self.deletion, phases, delta_s=self._delta_s, known=self._sensitivities)

    @property
    def _mu_target(self) -> float:
        """The mu at which gdp_delta(mu, epsilon) + e^epsilon delta_s = delta; 0 if delta_s alone is too much."""
        left = float(left_of_delta(self.delta, self.epsilon, headroom=HEADROOM))
        return float(gdp_mu(self.epsilon, left)) if left > 0 else 0.0

    @property
    def payable(self) -> bool:
        """Whether a bound has anything left of delta once its clipping is paid; exact laws clip nothing."""
        return self.method == "exact" or self._mu_target > 0

    def enough(self, n_steps: int, noise_std: float) -> bool:
        """Return whether that phase reaches the target."""
        return self.ratio(n_steps, noise_std) <= 1

    def ratio(self, n_steps: int, noise_std: float, *, proved: bool = True) -> float:
        """Return delta over its target (for bounds by mu: a monotone stand-in that is <= 1 exactly when it passes)."""
        self.begin("noise")
        try:
            if self.method == "exact":
                pair = self.pair(n_steps, noise_std, proved=proved)
                return float(pair.delta(self.epsilon)) / (self.delta * (1 - HEADROOM))
            mu, target = self.mu(n_steps, noise_std), self._mu_target
        except ValueError:
            if noise_std == 0 or n_steps == 0:  # no noise anywhere: no guarantee at any delta
                return math.inf
            raise
        if mu == 0:
            return 0.0
        return math.exp(min(mu / target - 1.0, 700.0)) if target > 0 else math.inf

    def floor(self, n_steps: int) -> float:
        """Return the least noise of ``n_steps`` unlearning steps that float64 does not lose.

        Raises
        ------
        LostNoiseError
            If the noise of an earlier phase is lost already: nothing that follows can make up for it.
        """
        if n_steps in self._floors:
            return self._floors[n_steps]
        phases = (*self._history.phases, self.phase(n_steps, 0.0))
        *before, last = self.deletion.floors(phases)
        for i, (phase, floor) in enumerate(zip(phases, before, strict=False)):
            if 0 < phase.noise_std < floor:
                name = "learning" if i == 0 else f"deletion {i}"
                raise LostNoiseError(
                    f"noise_std = {phase.noise_std:.3g} of {name} is lost in the rounding of float64 at the size that "
                    f"the parameters have without the records to delete (it takes {floor:.3g}): fit with more noise"
                )
        self._floors[n_steps] = max(last, LEAST_NOISE)
        return self._floors[n_steps]

    def smallest_noise(self, n_steps: int, *, start: float) -> float:
        """Return the least noise for the target that is not below the floor.

        0 if the noise so far suffices, ``inf`` if none does.

        Raises
        ------
        SingularPairError
            If nothing is proved of any noise tried: rounding may change the laws too much.
        """
        floor = self.floor(n_steps)
        at_zero = self.ratio(0, 0.0)
        if at_zero <= 1:
            return 0.0
        if not self.payable or floor > LARGEST_NOISE:
            return math.inf

        singular: list[SingularPairError] = []

        @functools.cache  # the search asks again for its ends
        def ratio(noise: float, proved: bool = True) -> float:
            try:
                return self.ratio(n_steps, noise, proved=proved)
            except SingularPairError as error:  # more noise may be proved to suffice
                singular.append(error)
                return math.inf

        noise = self._close(ratio, at_zero, max(start, floor), floor)
        if math.isnan(noise):
            noise = smallest_noise(
                # The search wants a delta in (0, 1); a fixed 1/2 stands for "ratio 1" whatever the target is.
                lambda noise: min(0.5 * ratio(noise), 1e300),
                delta=0.5,
                start=max(start, floor),
                least=floor,
                most=LARGEST_NOISE,
            )
        if math.isinf(noise) and singular:
            raise singular[-1]
        return noise

    def _close(self, ratio: Callable[[float, bool], float], at_zero: float, start: float, floor: float) -> float:
        """Return noise that suffices, at most 1e-9 (relative) above the least, by secants; NaN where they lead nowhere.

        In the square of the noise and 1/mu^2 a Gaussian mechanism is a straight line, its mu^2 being a squared distance
        over a variance: the answer is close from any start. Bounds on rounding cost more than the laws, so that only
        the last steps ask for them.
        """
        target, slope = self._inverse_square(1.0), math.nan
        old, old_height, was_proved = 0.0, self._inverse_square(at_zero), None
        low, low_height = old, old_height
        noise, proved = start, self.method != "exact"
        for _ in range(_MOST_SECANTS):
            found = ratio(noise, proved)
            if not 0 <= found < math.inf:
                break
            height = self._inverse_square(found)
            moved = (noise - old) * (noise + old)
            # Between an estimate and a proved law nearby, the difference is what the proof costs.
            if was_proved in (None, proved) and abs(moved) > 1e-10 * noise * noise:
                slope = (height - old_height) / moved
            if not 0 < slope < math.inf:
                break
            wanted = 2.0 * slope * noise * noise * _TOLERANCE  # in height
            if proved and found <= 1 and (height - target <= wanted or noise == floor):
                return noise
            if height < target:
                low, low_height = noise, height
            old, old_height, was_proved = noise, height, proved
            square = noise * noise + (target + 0.5 * wanted - height) / slope
            if square <= low * low:  # too steep a secant: the chord from what is known to be too little
                square = low * low + (target - low_height) * (noise - low) * (noise + low) / (height - low_height)
            noise = min(max(math.sqrt(square), floor), LARGEST_NOISE)
            proved = proved or abs(noise / old - 1.0) < 1e-4
        return math.nan

    def _inverse_square(self, ratio: float) -> float:
        """Return 1/mu^2 of a Gaussian mechanism that has what `ratio` says; infinite where mu underflows."""
        if self.method == "exact":
            mu = float(gdp_mu(self.epsilon, min(ratio * self.delta * (1 - HEADROOM), 1.0)))
        else:
            mu = self._mu_target * (1.0 + math.log(ratio)) if ratio > 0 else 0.0
        return 1.0 / mu / mu if mu > 0 else math.inf

    def smallest_steps(self, noise_std: float) -> int | None:
        """Return the fewest steps at ``noise_std`` for the target, None if no number of them reaches it."""
        if self.enough(0, 0.0):
            return 0
        if not self.payable:
            return None
        if self.method == "exact":  # fewer steps than an estimate needs never suffice
            steps = smallest_steps(lambda n: min(0.5 * self.ratio(n, noise_std, proved=False), 1e300), delta=0.5)
            if self.enough(steps, noise_std):
                return steps
        return smallest_steps(lambda steps: min(0.5 * self.ratio(steps, noise_std), 1e300), delta=0.5)

    def reached(self, n_steps: int, noise_std: float) -> Reached:
        """Return what is reached at the target delta."""
        if not math.isfinite(noise_std):
            return Reached(math.inf, math.inf, "")
        if self.method == "exact":
            pair = self.pair(n_steps, noise_std)
            epsilon = float(pair.epsilon(self.delta))
            forth, back = (float(pair.delta(epsilon, direction=way)) for way in ("pq", "qp"))
            return Reached(float(gdp_mu(epsilon, self.delta)), epsilon, "Q|P" if back > forth else "P|Q")
        mu = self.mu(n_steps, noise_std)
        # Clipping costs delta_s in one direction and e^epsilon delta_s in the other.
        direction = "Q|P" if self.epsilon > 0 else "P|Q"
        return Reached(mu, float(least_epsilon(mu, self.delta, at_most=self.epsilon)), direction)


def check_delta(method: str, delta: float) -> None:
    """Refuse a delta of which too little is left for the bounds on residuals, or on rounding.

    Raises
    ------
    ValueError
        Naming delta and its least value.
    """
    if method != "exact" and delta < _LEAST_SHARED_DELTA:
        raise ValueError(
            f"delta must be at least {_LEAST_SHARED_DELTA:g} for method {method!r}, which shares a tenth of it among "
            f"all steps, got {delta!r}; method 'exact' does not"
        )
    if delta < _LEAST_DELTA:
        raise ValueError(
            f"delta must be at least {_LEAST_DELTA:g}, below which rounding may cost it all, got {delta!r}"
        )


def chosen_noise(
    cost: DeletionCost, n_steps: int, *, start: float, noise_std: float | None, noise_grid: Any
) -> ChosenNoise:
    """Return the noise of a deletion: the one given, the smallest of a grid that suffices, or the smallest of all.

    Raises
    ------
    ValueError
        If the given noise, or all of the grid, does not suffice or is lost in the rounding of float64, with what is
        needed; or if no noise reaches the target.
    """
    target = f"epsilon = {cost.epsilon:g}, delta = {cost.delta:g} in {n_steps} steps"
    if noise_std is not None:
        if _suffices(cost, n_steps, noise_std):
            return ChosenNoise(noise_std, "given")
        needed = cost.smallest_noise(n_steps, start=start)
        enough = _at_least(needed) if needed > 0 else f"0 or at least {cost.floor(n_steps):.4g}"
        raise ValueError(f"noise_std must be {enough} for {target}, got {noise_std!r}")
    needed = cost.smallest_noise(n_steps, start=start)
    if not math.isfinite(needed):
        if cost.payable:
            why = f"it would have to exceed {LARGEST_NOISE:g}, so divide y by a constant"
        else:
            why = f"method {cost.method!r} needs e^epsilon < 10, 'exact' does not"
        raise ValueError(f"{target} cannot be reached by any noise: {why}")
    if noise_grid is None:
        return ChosenNoise(needed, "data")
    if isinstance(noise_grid, str):
        if noise_grid != "powers":
            raise ValueError(f"noise_grid must be 'powers' or a sequence of numbers, got {noise_grid!r}")
        if needed == 0:
            return ChosenNoise(0.0, "grid")
        nearest = math.ceil(4 * math.log2(needed))
        grid = [2.0 ** (power / 4) for power in range(nearest - 1, nearest + 3)]
    else:
        grid = sorted(set(np.atleast_1d(real_array("noise_grid", noise_grid, low=0, open_low=True)).ravel().tolist()))
        if not grid:
            raise ValueError("noise_grid must hold at least one number, got none")
    for noise in grid:
        # A value within the tolerance of the search below what it found may suffice as well.
        if noise >= needed * (1 - 1e-6) and _suffices(cost, n_steps, noise):
            return ChosenNoise(noise, "grid")
    enough = _at_least(max(needed, cost.floor(n_steps)))
    raise ValueError(f"noise_grid must hold a number {enough} for {target}, its largest is {grid[-1]!r}")


def _suffices(cost: DeletionCost, n_steps: int, noise_std: float) -> bool:
    if noise_std == 0:
        return cost.enough(0, 0.0)
    return cost.floor(n_steps) <= noise_std <= LARGEST_NOISE and cost.enough(n_steps, noise_std)


def _at_least(needed: float) -> str:
    if not math.isfinite(needed):
        return "larger than any that can be"
    # Rounded up, so that what is printed suffices.
    return f"at least {float(f'{needed * (1 + 1e-3):.4g}'):g}"
