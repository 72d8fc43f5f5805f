"""Random and adversarial problems whose float64 answers are held against proofs; `prove.py` runs thousands of them.

A kind of problem is a function of a generator of random numbers: it yields `Check`s, float64 numbers beside enclosures
of what they are certified to bound. A number on the wrong side of its enclosure is provably wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench_residual_bounds import random_problem
from expunge import accounting, proof
from expunge.accounting import GaussianPair
from expunge.proof import balls
from expunge.proof import ridge as ridge_proof
from expunge.proof.gdp import delta_ball
from expunge.proof.residual import gradient_norm
from expunge.runs.enclosures import Enclosure, Proof
from expunge.runs.residual import REFERENCES, before_after, polish, release_mu
from expunge.runs.ridge import LearningLaw, exact_quotes
from expunge.runs.ridge.bounds import shifted_claim
from expunge.runs.ridge.cost import DeletionCost
from expunge.runs.ridge.history import RidgeHistory
from expunge.runs.ridge.law import Phase, deletion_pair

Array = NDArray[np.float64]
DIRECTIONS = ("pq", "qp")
# Precision and refinements of proofs of ridge deletions: claims here may be far below what anybody would make.
ATTEMPTS = ((192, 2), (384, 6))


class Check(NamedTuple):
    """A certified number beside what is proved: ``low`` is the least that it may be, ``high`` the most."""

    name: str
    value: float
    low: float
    high: float
    known: bool

    @property
    def wrong(self) -> bool:
        """Whether the number is provably too small, or too large where it must not be too large."""
        return not self.low <= self.value <= self.high


class RefusedError(Exception):
    """The library makes no claim about a problem."""


def at_least(name: str, value: float, truth: Enclosure) -> Check:
    """Return the check of an upper bound."""
    return Check(name, float(value), truth.lower, math.inf, _narrow(truth))


def at_most(name: str, value: float, truth: Enclosure) -> Check:
    """Return the check of a lower bound."""
    return Check(name, float(value), -math.inf, truth.upper, _narrow(truth))


def within(name: str, truth: Enclosure, allowed: float) -> Check:
    """Return the check that a proved delta does not exceed what was asked for."""
    return Check(name, allowed, truth.lower, math.inf, _narrow(truth))


def _narrow(truth: Enclosure) -> bool:
    """Return whether an enclosure says something of a number that matters."""
    return truth.upper <= truth.lower * (1 + 1e-6) or truth.upper < 1e-40


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(10.0 ** rng.uniform(low, high))


def gdp(rng: np.random.Generator) -> Iterator[Check]:
    """Yield delta, epsilon and mu of Gaussian DP from one another."""
    mu, epsilon = _log_uniform(rng, -12, 2), float(rng.choice([0.0, _log_uniform(rng, -12, 2)]))
    delta = float(rng.choice([_log_uniform(rng, -300, 0), 1 - _log_uniform(rng, -16, 0), rng.random()]))
    yield at_least("delta", accounting.gdp_delta(mu, epsilon), proof.gdp_delta(mu=mu, epsilon=epsilon))
    yield at_least("epsilon", accounting.gdp_epsilon(mu, delta), proof.gdp_epsilon(mu=mu, delta=delta))
    yield at_most("mu", accounting.gdp_mu(epsilon, delta), proof.gdp_mu(epsilon=epsilon, delta=delta))


def steps(rng: np.random.Generator) -> Iterator[Check]:
    """Yield the mu of shifted interpolation: steps without noise, points nearly on a line, shifts that vanish."""
    n = int(rng.integers(1, 40))
    size = float(rng.choice([0.0, 1.0, 6.0]))
    sensitivity = 10.0 ** rng.uniform(-size, size, n) * (rng.random(n) < 0.8)
    contraction = rng.choice([1.0, 0.5, 1 - 1e-9, *rng.random(3)], n)
    noise = 10.0 ** rng.uniform(-size, size, n) * (rng.random(n) < 0.9)
    noise[-1] = max(noise[-1], 1e-3)
    given = sensitivity, contraction, noise
    yield at_least("mu", accounting.shifted_mu(*given), proof.shifted_mu(*given))


def pair(rng: np.random.Generator) -> Iterator[Check]:
    """Yield the profile of two Gaussian laws: coordinates of very different size, near to equal, near to singular."""
    p, q = int(rng.integers(1, 6)), int(rng.choice([1, 2, 3, 10]))
    span = float(rng.choice([1, 6, 15]))
    excess = 10.0 ** rng.uniform(-span, rng.choice([0.0, 0.0, 4.0]), p) * rng.choice([-1, 1], p)
    excess = np.where(excess <= -1, 10.0 ** -rng.uniform(0.001, 8, p) - 1, excess) * (rng.random(p) < 0.9)
    shift = 10.0 ** rng.uniform(-span, rng.choice([-1.0, 0.0, 1.0]), (p, q)) * (rng.random((p, 1)) < 0.9)
    laws = GaussianPair(excess, shift)
    epsilon = float(rng.choice([0.0, 1e-9, 1e-3, 0.1, 1.0, 5.0, 30.0]))
    direction = str(rng.choice(DIRECTIONS))
    truth = proof.pair_delta(laws, epsilon=epsilon, direction=direction)
    yield at_least("delta", laws.delta(epsilon, direction=direction), truth)
    delta = float(rng.choice([_log_uniform(rng, -250, -1), 1e-5, 0.3]))
    reached = float(laws.epsilon(delta, direction=direction))
    if math.isfinite(reached):
        truth = proof.pair_delta(laws, epsilon=reached, direction=direction)
        yield within("epsilon", truth, delta)
    order = 1 + _log_uniform(rng, -3, 2)
    yield at_least(
        "renyi", laws.renyi(order, direction=direction), proof.pair_renyi(laws, order=order, direction=direction)
    )


def renyi(rng: np.random.Generator) -> Iterator[Check]:
    """Yield the sampled Gaussian mechanism, and epsilon from divergences."""
    order, noise = 1 + _log_uniform(rng, -3, 2), _log_uniform(rng, -1, 3)
    share = float(rng.choice([_log_uniform(rng, -7, 0), 1.0, rng.random()]))
    direction = str(rng.choice(DIRECTIONS))
    given = {"order": order, "noise_multiplier": noise, "sampling_probability": share, "direction": direction}
    found = accounting.sampled_gaussian_rdp(order, noise, share, direction=direction)
    yield at_least("sampled Gaussian", found, proof.sampled_gaussian_rdp(**given))
    orders = 1 + 10.0 ** rng.uniform(-3, 3, 4)
    rdp, delta = 10.0 ** rng.uniform(-8, 3, 4), _log_uniform(rng, -30, 0)
    yield at_least(
        "epsilon", accounting.rdp_to_epsilon(rdp, orders, delta), proof.rdp_to_epsilon(rdp, orders, delta=delta)
    )


class Problem(NamedTuple):
    """Data and a ridge run on them."""

    X: Array
    Y: Array
    alpha: float
    step_size: float
    phases: tuple[Phase, ...]
    deleted: tuple[int, ...]

    def run(self) -> dict[str, Any]:
        """Return the run as `deletion_pair` and `prove_deltas` take it."""
        names = ("alpha", "step_size", "phases", "deleted")
        return {name: getattr(self, name) for name in names}


SHAPES = ("plain", "nearly equal", "collinear", "faint alpha", "group", "ten phases", "noise")


def _problem(rng: np.random.Generator, shape: str, *, longest: int = 1000) -> Problem:
    p, q = int(rng.integers(1, 4)), int(rng.choice([1, 1, 2]))
    n = p + int(rng.integers(3, 6))
    X, Y = rng.normal(size=(n, p)), rng.normal(size=(n, q))
    if rng.random() < 0.3:
        X *= 10.0 ** rng.uniform(-3, 3, p)
    deleted: tuple[int, ...] = (0,)
    alpha = _log_uniform(rng, -3, 2)
    learn, unlearn = min(int(rng.choice([1, 10, 100, 1000])), longest), int(rng.choice([1, 3, 10, 100]))
    noise, ratio = _log_uniform(rng, -3, 1), _log_uniform(rng, -1, 1)
    if shape == "nearly equal":
        X[0] *= _log_uniform(rng, -12, -3)
        Y[0] *= _log_uniform(rng, -12, 0)
    elif shape == "collinear":
        X[1:] = X[1:2] * (1 + _log_uniform(rng, -12, -3) * rng.normal(size=(n - 1, p)))
        alpha = _log_uniform(rng, -9, 0)
    elif shape == "faint alpha":
        alpha = 1e-9
    elif shape == "group":
        deleted = tuple(range(int(rng.integers(2, n - 1))))
    elif shape == "noise":
        ratio = _log_uniform(rng, -6, 6)
    step_size = (1 - 1e-9) * float(rng.choice([1.0, rng.random()])) / (np.linalg.norm(X, 2) ** 2 + alpha)
    if shape == "ten phases":
        order = rng.permutation(n)[: min(3, n - 1)].tolist()
        gone, phases = 0, [Phase(learn, noise)]
        for _ in range(9):
            gone = min(gone + int(rng.integers(0, 2)), len(order))
            one = (int(rng.choice([1, 3, 20])), noise * _log_uniform(rng, -1, 1))
            phases.append(Phase(*one, tuple(sorted(order[:gone]))))
        deleted = tuple(sorted(order))
        phases.append(Phase(unlearn, noise * ratio, deleted))
    else:
        phases = [Phase(learn, noise), Phase(unlearn, noise * ratio, deleted)]
    return Problem(X, Y, alpha, step_size, tuple(phases), deleted)


def _claimable(delta: float) -> float:
    return min(max(delta, 1e-290), 1.0) * (1 + 1e-9)


def _refusing(call: Callable[[], Any]) -> Any:
    """Return what a call returns; refusals by name are no claims."""
    try:
        return call()
    except (ValueError, ArithmeticError) as error:
        raise RefusedError(str(error)) from error


def _proved(X: Array, Y: Array, **given: Any) -> Proof:
    return ridge_proof.prove_deltas(X, Y, **given, attempts=ATTEMPTS)


def ridge(rng: np.random.Generator) -> Iterator[Check]:
    """Yield both deltas of an exact ridge deletion, and an epsilon reached."""
    one = _problem(rng, str(rng.choice(SHAPES)))
    laws = _refusing(lambda: deletion_pair(one.X, one.Y, **one.run()))
    epsilon = float(rng.choice([0.0, 0.1, 1.0, 3.0]))
    value = {name: float(laws.delta(epsilon, direction=name)) for name in DIRECTIONS}
    found = _proved(one.X, one.Y, **one.run(), epsilon=epsilon, claim=_claimable(max(value.values())))
    yield at_least("delta_pq", value["pq"], found.delta_pq)
    yield at_least("delta_qp", value["qp"], found.delta_qp)


def reached(rng: np.random.Generator) -> Iterator[Check]:
    """Yield the epsilon of an exact ridge deletion at a delta: whose deltas are within it."""
    one = _problem(rng, str(rng.choice(SHAPES)))
    laws = _refusing(lambda: deletion_pair(one.X, one.Y, **one.run()))
    delta = float(rng.choice([1e-12, 1e-5, 0.1]))
    epsilon = float(laws.epsilon(delta))
    if not math.isfinite(epsilon) or epsilon > 1e6:
        raise RefusedError("no epsilon")
    found = _proved(one.X, one.Y, **one.run(), epsilon=epsilon, claim=delta)
    yield within("delta_pq", found.delta_pq, delta)
    yield within("delta_qp", found.delta_qp, delta)


def noise(rng: np.random.Generator) -> Iterator[Check]:
    """Yield the noise that the search of a deletion, or a quote at full rank, finds, by its deltas."""
    one = _problem(rng, str(rng.choice(SHAPES)))
    *before, last = one.phases
    epsilon, delta = float(rng.choice([0.1, 1.0, 3.0])), float(rng.choice([1e-9, 1e-5, 1e-2]))
    target = {"epsilon": epsilon, "delta": delta}
    quoted = len(one.deleted) == 1 and len(before) == 1 and rng.random() < 0.5
    if quoted:
        constants = {"alpha": one.alpha, "step_size": one.step_size}
        learning = {"n_steps": before[0].n_steps, "noise_std": before[0].noise_std}
        found = _refusing(
            lambda: exact_quotes(
                LearningLaw(one.X, one.Y, **constants, **learning),
                list(one.deleted),
                **target,
                n_steps=last.n_steps,
                rank=one.X.shape[1],
            )
        )
        std = float(found.noise_std[0])
    else:
        history = RidgeHistory(one.X, one.Y, one.alpha, one.step_size, tuple(before))
        gone = sorted(set(one.deleted))

        def search() -> float:
            cost = DeletionCost(history, gone, method="exact", **target)
            return float(cost.smallest_noise(last.n_steps, start=before[0].noise_std))

        std = _refusing(search)
    if not math.isfinite(std):
        raise RefusedError("no noise suffices")
    phases = (*before, Phase(last.n_steps, std, one.deleted))
    run = {**one.run(), "phases": phases}
    proved = _proved(one.X, one.Y, **run, epsilon=epsilon, claim=delta)
    name = "quote" if quoted else "search"
    yield within(f"{name}, delta_pq", proved.delta_pq, delta)
    yield within(f"{name}, delta_qp", proved.delta_qp, delta)


def bounds(rng: np.random.Generator) -> Iterator[Check]:
    """Yield the mu and both deltas of a ridge deletion by shifted interpolation, or by the worst record."""
    # The proof goes from step to step.
    one = _problem(rng, str(rng.choice(SHAPES)), longest=50)
    epsilon, delta_s = float(rng.choice([0.0, 0.1, 1.0, 3.0])), _log_uniform(rng, -12, -2)
    claim = {"epsilon": epsilon, "delta_s": delta_s}
    uniform = len(one.phases) == 2 and rng.random() < 0.3
    found = _refusing(lambda: shifted_claim(one.X, one.Y, **one.run(), **claim, uniform=uniform))
    proved = ridge_proof.prove_bound(one.X, one.Y, **one.run(), **claim, claim=_claimable(found.delta))
    if "mu" in proved.enclosures:
        yield at_least("uniform mu" if uniform else "mu", found.mu, proved.enclosures["mu"])
    yield at_least("delta_pq", found.delta_pq, proved.delta_pq)
    yield at_least("delta_qp", found.delta_qp, proved.delta_qp)


def residual(rng: np.random.Generator) -> Iterator[Check]:
    """Yield the bound on a gradient, the mu of a release of a budget, and the before/after epsilon."""
    objective = random_problem(rng, small=True)
    theta = rng.normal(size=(objective.n_outputs, objective.n_features)) * 10.0 ** rng.integers(-3, 3)
    if rng.random() < 0.5:
        theta = _refusing(lambda: polish(objective, theta, target=1e-6 * objective.residual_bound(theta))).theta
    rows = objective.take(np.arange(len(objective)))
    with balls.precision(192):
        size = gradient_norm([rows], theta, loss=objective.loss, alpha=objective.alpha)
        truth = balls.enclosure(size, low=0.0)
    yield at_least("gradient", objective.residual_bound(theta), truth)
    epsilon, delta = float(rng.choice([0.0, _log_uniform(rng, -3, 1)])), _log_uniform(rng, -30, -1)
    releases, reference = int(10.0 ** rng.uniform(0, 6)), str(rng.choice(list(REFERENCES)))
    mu = _refusing(lambda: release_mu(epsilon=epsilon, delta=delta, releases=releases, reference=reference))

    def budget() -> Any:
        whole = balls.ball(mu) * REFERENCES[reference] * balls.ball(releases).sqrt()
        return delta_ball(whole, balls.ball(epsilon))

    yield within("budget", balls.sharpened(budget, low=0.0, high=1.0), delta)
    distance, noise_std = _log_uniform(rng, -6, 1), _log_uniform(rng, -3, 1)
    found = before_after(distance=distance, noise_std=noise_std, mu=mu, delta=delta)

    def joint() -> Any:
        return ((balls.ball(distance) / balls.ball(noise_std)) ** 2 + balls.ball(mu) ** 2).sqrt()

    yield at_least("before/after mu", found.mu, balls.sharpened(joint, low=0.0))
    if found.epsilon < 1e6:
        left = balls.sharpened(lambda: delta_ball(joint(), balls.ball(found.epsilon)), low=0.0, high=1.0)
        yield within("before/after epsilon", left, delta)


# How often a kind is drawn.
KINDS: dict[str, tuple[Callable[[np.random.Generator], Iterator[Check]], int]] = {
    "Gaussian DP": (gdp, 10),
    "shifted interpolation": (steps, 10),
    "Gaussian pairs": (pair, 20),
    "Renyi divergences": (renyi, 5),
    "ridge deltas": (ridge, 30),
    "ridge epsilons": (reached, 10),
    "ridge noise": (noise, 15),
    "ridge bounds": (bounds, 5),
    "residuals": (residual, 10),
}


def kind_of(rng: np.random.Generator) -> str:
    """Return the kind of the next problem."""
    weights = np.array([weight for _, weight in KINDS.values()], dtype=float)
    return str(rng.choice(list(KINDS), p=weights / weights.sum()))


def checks_of(seed: int, number: int) -> tuple[str, Sequence[Check], str]:
    """Return the kind of a problem, its checks, and why there are none where the library refuses it."""
    rng = np.random.default_rng([seed, number])
    kind = kind_of(rng)
    try:
        return kind, list(KINDS[kind][0](rng)), ""
    except RefusedError as error:
        return kind, [], str(error)
