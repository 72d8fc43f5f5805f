"""The warning that a model is worse than it needs to be, and the search for settings with which it would not be."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from expunge._types import JsonObject
from expunge.runs.ridge.dynamics import NormalEquations
from expunge.runs.ridge.law import Phase
from expunge.runs.ridge.table_sums import TableSums

__all__ = [
    "REHEARSALS",
    "NoiseWarning",
    "Training",
    "TrainingData",
    "TrainingSums",
    "check_loss",
    "warn_of_forgetting",
    "warn_of_learning",
]

Array = NDArray[np.float64]

# What noise may cost without a word: 5 points of training accuracy, or .05 of R^2. Steps that do not reach the optimum
# may cost less: they buy nothing.
_TOLERATED, _TOLERATED_BY_STEPS = 0.05, 0.03
# Of fewer records, 5 points are less than one.
_FEWEST = 20
# A remedy is proposed when it loses no more than this in each of several rehearsals.
_AIM = 0.01
REHEARSALS = 3
# What is proposed has to hold in these too: three leave a fit in many clearly below.
_CONFIRMING = 16
# Rehearsals look at this many records, evenly spaced. Beyond these columns, eigenvectors would outlast the fit.
_REHEARSED_ROWS, _DECOMPOSED_COLUMNS = 10_000, 1024
_MOST_STEPS = 100_000


class NoiseWarning(UserWarning):
    """A model is clearly worse than the noise-free optimum of its own data, or no better than a constant answer.

    Attributes
    ----------
    settings : dict
        Parameters with which a fit on the same data would be close to the optimum, rehearsed before they were
        proposed; empty if none were found. Where they hold ``norm_bound``, it is of the scaled features.
    bounds : tuple of two lists of float, or None
        Bounds for ``ConstantScaler(*bounds)``, which features should go through before ``settings`` are used. They
        were read off the data: replace them with bounds that you know.
    """

    def __init__(
        self,
        message: str,
        *,
        settings: JsonObject | None = None,
        bounds: tuple[list[float], list[float]] | None = None,
    ) -> None:
        super().__init__(message)
        self.settings, self.bounds = dict(settings or {}), bounds


@dataclass(frozen=True)
class TrainingData:
    """Records as the loss sees them, and how a model is scored on them.

    Attributes
    ----------
    design, targets : ndarray of shape (n, p) and (n, q), float64
        Rows with the constant column, targets (one-hot for classes).
    classify : bool
        Score by accuracy; else by R^2, averaged over outputs.
    intercept : bool
        Whether the last column is the constant one.
    """

    design: Array
    targets: Array
    classify: bool
    intercept: bool

    def scores(self, theta: Array) -> Array:
        """Return the score of each of the models side by side in ``theta`` (p, copies * q), shape (copies,)."""
        n, q = self.targets.shape
        found = (self.design @ theta).reshape(n, -1, q)
        if self.classify:
            right = np.argmax(found, axis=2) == np.argmax(self.targets, axis=1)[:, None]
            return np.asarray(right.mean(axis=0), dtype=np.float64)
        size = max(float(np.abs(self.targets).max()), float(np.finfo(float).tiny))
        wanted = self.targets / size  # squares of what is of size 1 do not overflow
        with np.errstate(over="ignore"):
            missed = np.square(found / size - wanted[:, None, :]).sum(axis=0)
        total = np.square(wanted - wanted.mean(axis=0)).sum(axis=0)
        varied = total > 0
        # As scikit-learn has it: a constant output is worth 1 if met exactly, else 0.
        shares = np.where(varied, 1 - missed / np.where(varied, total, 1.0), (missed == 0).astype(float))
        return np.asarray(shares.mean(axis=1), dtype=np.float64)

    def score(self, theta: Array) -> float:
        """Return the score of one model (p, q)."""
        return float(self.scores(theta)[0])

    def speaks(self, best: float) -> bool:
        """Return whether scores say anything: 20 records, and an optimum that gains more than it would by chance.

        On targets of pure chance, p parameters gain (p +- sqrt(2p))/n of R^2, and of accuracy some half of its root,
        more with more classes. The allowance holds whatever luck gave in the simulations of the tests.
        """
        return _speaks(best - self.constant_score, self.shape, self.targets.shape[1] if self.classify else 0)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of records and of columns."""
        return self.design.shape[0], self.design.shape[1]

    def falls_short(self, got: float, best: float, *, by: float) -> bool:
        """Return whether a score is lower than the optimum's by more than this, or no better than a constant answer."""
        return self.speaks(best) and (best - got > by or got <= self.constant_score)

    @property
    def constant_score(self) -> float:
        """The score of the best constant answer: the share of the largest class, or R^2 = 0."""
        return float(self.targets.mean(axis=0).max()) if self.classify else 0.0

    def sample(self) -> TrainingData:
        """Return records evenly spaced, few enough to rehearse on."""
        stride = -(-len(self.design) // _REHEARSED_ROWS)
        return TrainingData(self.design[::stride], self.targets[::stride], self.classify, self.intercept)

    @property
    def name(self) -> str:
        """Name of the score."""
        return "training accuracy" if self.classify else "training R^2"


@dataclass(frozen=True)
class TrainingSums:
    """Sums over records that are not at hand, and how a model is scored on them: by R^2, averaged over outputs.

    Attributes
    ----------
    sums : TableSums
        Sums over the records.
    intercept : bool
        Whether the last column is the constant one.
    """

    sums: TableSums
    intercept: bool
    classify: ClassVar[bool] = False
    name: ClassVar[str] = "training R^2"
    constant_score: ClassVar[float] = 0.0

    def scores(self, theta: Array) -> Array:
        """Return the score of each of the models side by side in ``theta`` (p, copies * q), shape (copies,)."""
        sums, q = self.sums, len(self.sums.target_squares)
        found = theta.reshape(len(theta), -1, q)
        squares = sums.target_squares
        met = np.einsum("pcq,pcq->cq", found, np.einsum("ps,scq->pcq", sums.gram.value, found))
        missed = squares - 2.0 * np.einsum("pcq,pq->cq", found, sums.moment.value) + met
        total = squares - sums.target_sums**2 / sums.n_records
        # Squares of faint targets underflow: nothing is left of them to explain.
        varied = total > np.maximum(sums.n_records * np.finfo(float).eps * squares, np.finfo(float).tiny)
        shares = np.where(varied, 1 - np.maximum(missed, 0.0) / np.where(varied, total, 1.0), 0.0)
        return np.asarray(shares.mean(axis=1), dtype=np.float64)

    def score(self, theta: Array) -> float:
        """Return the score of one model (p, q)."""
        return float(self.scores(theta)[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Number of records and of columns."""
        return self.sums.n_records, len(self.sums.gram.value)

    def speaks(self, best: float) -> bool:
        """Return whether scores say anything, as `TrainingData.speaks`."""
        return _speaks(best, self.shape)

    def falls_short(self, got: float, best: float, *, by: float) -> bool:
        """Return whether a score is lower than the optimum's by more than this, or no better than a constant answer."""
        return self.speaks(best) and (best - got > by or got <= 0.0)

    def sample(self) -> TrainingSums:
        """Return itself: scores cost the same for any number of records."""
        return self


Training = TrainingData | TrainingSums


def _speaks(gain: float, shape: tuple[int, int], classes: int = 0) -> bool:
    """Return whether 20 records gain more than p parameters would on targets of pure chance."""
    n, p = shape
    share = 1.25 * (p + 3 * math.sqrt(2 * p)) / n
    chance = math.sqrt(share) / 2 * (1 + math.log2(classes) / 4) if classes else share
    return n >= _FEWEST and gain > chance


def warn_of_learning(
    data: Training,
    theta: Array,
    optimum: Array,
    equations: NormalEquations,
    *,
    settings: dict[str, Any],
    step_size: float,
) -> None:
    """Warn if the model learned is clearly worse than the noise-free optimum, with settings that would not be.

    ``settings`` are the parameters of the fit: alpha, n_steps, noise_std, step_size (as given), n_bound.
    """
    got, best = data.score(theta), data.score(optimum)
    if not data.classify and data.intercept and data.shape[0] >= _FEWEST and best < -_TOLERATED:
        # Unpenalised, the intercept alone reaches 0.
        text = f"{data.name} {_shown(got)}, {_shown(best)} at the noise-free optimum, worse than 0 for the mean: alpha "
        text += f"= {settings['alpha']:g} shrinks the intercept too; subtract a constant near the mean that you know "
        warnings.warn(NoiseWarning(text + "from y, or take a smaller alpha"), stacklevel=4)
        return
    if not data.falls_short(got, best, by=_TOLERATED_BY_STEPS):
        return
    text = f"{data.name} {_shown(got)}, {_shown(best)} at the noise-free optimum"
    if data.classify:
        text += f" ({_shown(data.constant_score)} for always the most frequent class)"
    much = data.falls_short(got, best, by=_TOLERATED)
    law = _rehearsal(data, equations, step_size)
    reached = law.worst(settings["n_steps"], 0.0)
    if not much and best - reached <= _TOLERATED_BY_STEPS:
        return
    warning = _with_remedy(text, data, law, reached >= best - _AIM, goal=best - _AIM, settings=settings)
    warnings.warn(warning, stacklevel=4)


def warn_of_forgetting(data: Training, *, before: float, after: float, noise_free: float, phase: Phase) -> None:
    """Warn if the model left by a deletion is clearly worse than the noise-free optimum of what remains."""
    if not data.falls_short(after, noise_free, by=_TOLERATED):
        return
    short, lost = noise_free - before > _TOLERATED, before - after > _TOLERATED
    steps = f"{phase.n_steps} steps with noise_std = {phase.noise_std:.3g}"
    if short and lost:
        cause = (
            f"{steps} cost {_shown(before - after)} of it: take more unlearning steps, which need less noise, or a "
            "larger epsilon or delta; the rest was missing before: learn with more n_steps"
        )
    elif short:
        cause = "it was hardly better before: learn with less noise_std or more n_steps"
    else:
        cause = (
            f"{steps} cost the difference: take more unlearning steps, which need less noise, a larger epsilon or "
            "delta, or learn with more noise, which hides more"
        )
    text = f"{data.name} on what remains {_shown(after)}, {_shown(before)} before"
    warnings.warn(NoiseWarning(f"{text}, {_shown(noise_free)} at the noise-free optimum; {cause}"), stacklevel=3)


def check_loss(data: Training, rehearsed: Array, noise_free: float, *, max_loss: float, phase: Phase) -> None:
    """Refuse a deletion that costs more than ``max_loss`` in any of the rehearsals (p, REHEARSALS * q)."""
    worst = float(data.scores(rehearsed).min())
    if not noise_free - worst <= max_loss:
        raise ValueError(
            f"max_loss = {max_loss:g} would be exceeded: {data.name} on what remains {_shown(worst)}, "
            f"{_shown(noise_free)} at the noise-free optimum, with noise_std = {phase.noise_std:.3g} in "
            f"{phase.n_steps} steps; more steps need less noise, and so does a larger epsilon or delta"
        )


def _with_remedy(
    text: str,
    data: Training,
    law: _Rehearsal,
    converges: bool,
    *,
    goal: float,
    settings: dict[str, Any],
) -> NoiseWarning:
    steps, noise = settings["n_steps"], settings["noise_std"]
    cause = (
        f"noise_std = {noise:g} costs the difference"
        if converges
        else f"n_steps = {steps} do not reach the optimum{_sizes(data)}"
    )
    for n_steps in [steps] if converges else _rising(steps, law.most(steps, 10 * steps)):
        if (found := law.noise_for(n_steps, noise, goal)) is not None:
            return _proposal(text, cause, {"n_steps": n_steps, "noise_std": found}, settings, None)
    if isinstance(data, TrainingSums):  # of other scales nothing is known
        return NoiseWarning(f"{text}: {cause}")
    scaled, bounds = _scaled(data)
    own: dict[str, Any] = {}
    scaled_equations = NormalEquations.of(scaled.design, scaled.targets, alpha=settings["alpha"])
    if settings["step_size"] == "auto":
        scaled_step = 1.0 / float(linalg.eigvalsh(scaled_equations.hessian)[-1])
    else:
        norm = float(np.ceil(10 * np.sqrt(data.design.shape[1])) / 10)  # each entry is within [-1, 1]
        count = settings["n_bound"] or 1 << (len(data.design) - 1).bit_length()
        own = {"step_size": "bounded", "norm_bound": norm, "n_bound": count}
        scaled_step = 1.0 / (count * norm**2 + settings["alpha"])
    scaled_law = _rehearsal(scaled, scaled_equations, scaled_step)
    for n_steps in _rising(steps, scaled_law.most(steps, _MOST_STEPS)):
        if (found := scaled_law.noise_for(n_steps, noise, goal)) is not None:
            return _proposal(text, cause, {"n_steps": n_steps, "noise_std": found, **own}, settings, bounds)
    for n_steps in _rising(10 * steps, _MOST_STEPS) if law.most(steps, _MOST_STEPS) > steps else ():
        if (found := law.noise_for(n_steps, noise, goal)) is not None:
            return _proposal(text, cause, {"n_steps": n_steps, "noise_std": found}, settings, None)
    return NoiseWarning(f"{text}: {cause}")


def _proposal(
    text: str,
    cause: str,
    proposed: dict[str, Any],
    settings: dict[str, Any],
    bounds: tuple[list[float], list[float]] | None,
) -> NoiseWarning:
    changed = {name: value for name, value in proposed.items() if value != settings.get(name)}
    shown = ", ".join(f"{name}={value!r}" for name, value in changed.items())
    if bounds is None:
        advice = f"with {shown} {'they would' if cause.startswith('n_steps') else 'it would not'}"
    else:
        low, high = ("[" + ", ".join(f"{value:g}" for value in bound) + "]" for bound in bounds)
        scaler = f"ConstantScaler({low}, {high})" if len(bounds[0]) <= 32 else "ConstantScaler(*warning.bounds)"
        advice = f"with features scaled by {scaler}{f' and {shown}' if shown else ''} they would; the bounds were read "
        advice += "off the data: put those that you know in their place"
    return NoiseWarning(f"{text}: {cause}; {advice}", settings=changed, bounds=bounds)


def _rehearsal(data: Training, equations: NormalEquations, step_size: float) -> _Rehearsal:
    kind = _Rehearsal if data.shape[1] <= _DECOMPOSED_COLUMNS else _Trials
    return kind(data.sample(), equations, step_size)


class _Rehearsal:
    """The law of the learned parameters, with a few fixed draws from it for any number of steps and noise."""

    def __init__(self, data: Training, equations: NormalEquations, step_size: float) -> None:
        self._data, self._step_size = data, step_size
        self._values, self._vectors = linalg.eigh(equations.hessian)
        self._rate = np.clip(step_size * self._values, np.finfo(float).tiny, 1.0)
        self._moment = self._vectors.T @ equations.moment
        shape = (*equations.moment.shape, REHEARSALS)
        self._draws = np.random.default_rng(0).standard_normal(shape)

    def worst(self, n_steps: int, noise_std: float) -> float:
        """Return the lowest score among the draws."""
        return self._lowest(n_steps, noise_std, self._draws)

    def _lowest(self, n_steps: int, noise_std: float, normals: Array) -> float:
        with np.errstate(divide="ignore", under="ignore"):
            decay = np.exp(n_steps * np.log1p(-self._rate))
        mean = (self._step_size * (1 - decay) / self._rate)[:, None] * self._moment
        spread = noise_std * np.sqrt((1 - decay**2) / (self._rate * (2 - self._rate)))
        draws = mean[:, :, None] + spread[:, None, None] * normals
        theta = self._vectors @ np.concatenate(list(np.moveaxis(draws, 2, 0)), axis=1)
        return float(self._data.scores(theta).min())

    def confirmed(self, n_steps: int, noise_std: float, goal: float) -> bool:
        """Return whether noise that keeps the goal in the rehearsals keeps it in many others."""
        normals = np.random.default_rng(1).standard_normal((*self._moment.shape, _CONFIRMING))
        return self._lowest(n_steps, noise_std, normals) >= goal

    def most(self, steps: int, wanted: int) -> int:
        """Return the most steps to rehearse, if ``wanted`` would be of interest and ``steps`` were those of the fit."""
        return min(wanted, _MOST_STEPS)

    def noise_for(self, n_steps: int, most: float, goal: float) -> float | None:
        """Return the largest noise up to ``most`` (one digit) that keeps the goal, or None if not even 0 does."""
        if not self.worst(n_steps, 0.0) >= goal:
            return None
        kept = (noise for noise in _falling(most) if self.worst(n_steps, noise) >= goal)
        return next((noise for noise in kept if noise == 0 or self.confirmed(n_steps, noise, goal)), None)


class _Trials(_Rehearsal):
    """Runs of the steps themselves, for as many steps as the fit made: what they give is linear in the noise."""

    def __init__(self, data: Training, equations: NormalEquations, step_size: float) -> None:
        self._data, self._equations, self._step_size = data, equations, step_size
        self._runs: dict[int, tuple[Array, Array]] = {}

    def worst(self, n_steps: int, noise_std: float) -> float:
        if n_steps not in self._runs:
            draws = np.random.default_rng(0)
            start = np.zeros_like(self._equations.moment)
            still = replace(self._equations, moment=start)
            mean = self._equations.steps(
                start, step_size=self._step_size, phase=Phase(n_steps, 0.0), normals=lambda _, shape: np.zeros(shape)
            )
            spread = still.steps(
                start, step_size=self._step_size, phase=Phase(n_steps, 1.0), copies=REHEARSALS,
                normals=lambda _, shape: draws.standard_normal(shape),
            )  # fmt: skip
            self._runs[n_steps] = mean, spread
        mean, spread = self._runs[n_steps]
        return float(self._data.scores(np.tile(mean, REHEARSALS) + noise_std * spread).min())

    def confirmed(self, n_steps: int, noise_std: float, goal: float) -> bool:
        return self.worst(n_steps, 2 * noise_std) >= goal  # many more runs would outlast the fit

    def most(self, steps: int, wanted: int) -> int:
        return steps  # each more would cost as much as the fit did


def _falling(most: float) -> Iterator[float]:
    """Yield ``most``, then 5, 2 and 1 times falling powers of ten."""
    if not most > 0:
        yield 0.0
        return
    yield most
    exponent = int(np.floor(np.log10(most)))
    for power in range(exponent, exponent - 13, -1):
        yield from (value for digit in (5, 2, 1) if (value := float(f"{digit}e{power}")) < most)


def _rising(least: int, most: int) -> Iterator[int]:
    """Yield ``least``, then 1, 2 and 5 times rising powers of ten up to ``most``."""
    yield least
    for power in range(6):
        yield from (value for digit in (1, 2, 5) if least < (value := digit * 10**power) <= most)


def _sizes(data: Training) -> str:
    """Say by how much features differ in size, if that is why steps are small."""
    if isinstance(data, TrainingSums):
        return ""
    features = data.design[:, : -1 if data.intercept else None]
    size = np.abs(features).max(axis=0)
    ratio = float(size.max() / size[size > 0].min()) if (size > 0).any() else 1.0
    shown = f"{float(f'{ratio:.2g}'):,.0f}" if ratio < 1e9 else f"{ratio:.1e}"
    return f" (features differ in size by a factor of {shown})" if ratio > 10 else ""


def _scaled(data: TrainingData) -> tuple[TrainingData, tuple[list[float], list[float]]]:
    """Return the data as `ConstantScaler` makes them with bounds of two digits, and the bounds."""
    features = data.design[:, : -1 if data.intercept else None]
    low, high = features.min(axis=0), features.max(axis=0)
    width = np.maximum(high - low, np.where(high > low, 0.0, np.maximum(1.0, np.abs(high))))
    unit = 10.0 ** np.floor(np.log10(width) - 1)
    low, high = np.floor(low / unit) * unit, np.ceil(np.maximum(high / unit, low / unit + 1)) * unit
    design = data.design.copy()
    design[:, : features.shape[1]] = np.clip(2 * (features - low) / (high - low) - 1, -1, 1)
    return TrainingData(design, data.targets, data.classify, data.intercept), (low.tolist(), high.tolist())


def _shown(score: float) -> str:
    return f"{score:.3f}" if abs(score) < 1e3 else f"{score:.3g}"
