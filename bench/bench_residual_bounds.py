"""Ten thousand random problems: the proved bound on a gradient, over alpha, is never below the distance to the optimum.

Scales of rows, parameters, weights and penalties are adversarial; parameters lie anywhere from far off to the optimum's
own rounding. The optimum is Newton's in 40 digits for one problem in fifty, and polished floats for the others, whose
own proved distance counts in the bound's disfavour. Times nothing. Run ``python bench/bench_residual_bounds.py``; it
takes about two minutes.
"""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

import timing
from expunge.runs.residual import InverseHessian, NoiseFloorError, Objective, Rows, StalledError, blocks_of, polish

Array = NDArray[np.float64]

PROBLEMS = 10_000
EXACT_EVERY = 50
DIGITS = 40
LOSSES = ("squared", "logistic", "softmax")
PLACES = ("anywhere", "near", "one step after a deletion", "polished")


def random_problem(rng: np.random.Generator, *, small: bool) -> Objective:
    """Return an objective with scales that differ by orders of magnitude."""
    loss = LOSSES[rng.integers(3)]
    n, p = int(rng.integers(2, 9 if small else 60)), int(rng.integers(1, 4 if small else 9))
    q = int(rng.integers(2, 4)) if loss == "softmax" else int(rng.integers(1, 3))
    X = rng.standard_normal((n, p)) * 10.0 ** rng.choice([-8, -3, 0, 0, 0, 1, 2], size=(n, 1))
    if rng.random() < 0.3:  # nearly collinear columns
        X[:, -1] = X[:, 0] * (1 + 1e-9 * rng.standard_normal(n))
    alpha = float(10.0 ** rng.uniform(-4, 3))
    weights = 10.0 ** rng.uniform(-6, 3, n) if rng.random() < 0.5 else None
    targets = labels = None
    if loss == "squared":
        targets = rng.standard_normal((n, q)) * 10.0 ** rng.integers(-3, 4)
    else:
        labels = rng.integers(0, max(q, 2), n)
    return Objective(blocks_of(Rows(X, labels, targets, weights)), loss, p, q, alpha)


def parameters(rng: np.random.Generator, objective: Objective, optimum: Array, place: str) -> tuple[Objective, Array]:
    """Return parameters whose distance is asked for, and the objective that they are to be near the optimum of."""
    shape = optimum.shape
    if place == "anywhere":
        return objective, rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3)
    if place == "near":
        return objective, optimum * (1 + 10.0 ** rng.integers(-15, -1) * rng.standard_normal(shape))
    if place == "polished":
        return objective, np.nextafter(optimum, rng.choice([-np.inf, np.inf], size=shape))
    left = objective.without(np.array([int(rng.integers(len(objective)))]))
    gradient = left.gradient(optimum, left.sums(optimum))
    return left, optimum - InverseHessian.of(left, optimum).step(gradient)


def polished(objective: Objective) -> tuple[Array, float]:
    """Return the best floats that are found, and their proved distance from the optimum."""
    theta = np.zeros((objective.n_outputs, objective.n_features))
    bound = target = objective.residual_bound(theta)
    while True:
        target *= 1e-4
        try:
            found = polish(objective, theta, target=target)
        except (NoiseFloorError, StalledError, ValueError):
            return theta, bound / objective.alpha
        theta, bound = found.theta, found.bound
        if bound == 0.0:
            return theta, 0.0


def exact_distance(objective: Objective, theta: Array, start: Array) -> Any:
    """Return the distance to the optimum in many digits, by Newton steps from ``start`` with halving."""
    rows = objective.take(np.arange(len(objective)))
    (n, p), q = rows.X.shape, objective.n_outputs
    with mpmath.workdps(DIGITS):
        X = [[mpmath.mpf(float(x)) for x in row] for row in rows.X]
        weights = [mpmath.mpf(float(w)) for w in rows.weighed()]
        alpha = mpmath.mpf(objective.alpha)

        def derivatives(point: list[Any]) -> tuple[Any, Any]:
            gradient = mpmath.matrix([alpha * value for value in point])
            hessian = alpha * mpmath.eye(p * q)
            for i in range(n):
                u = [mpmath.fdot(X[i], point[c * p : (c + 1) * p]) for c in range(q)]
                r, C = _loss_derivatives(rows, objective.loss, i, u)
                for c in range(q):
                    for j in range(p):
                        gradient[c * p + j] += weights[i] * r[c] * X[i][j]
                        for d in range(q):
                            if C[c][d] != 0:
                                for k in range(p):
                                    hessian[c * p + j, d * p + k] += weights[i] * C[c][d] * X[i][j] * X[i][k]
            return gradient, hessian

        point = [mpmath.mpf(float(value)) for value in start.ravel()]
        gradient, hessian = derivatives(point)
        for _ in range(400):
            size = mpmath.norm(gradient)
            if size <= alpha * mpmath.mpf(10) ** (-DIGITS + 12) * (1 + mpmath.norm(mpmath.matrix(point))):
                break
            step, share = mpmath.lu_solve(hessian, gradient), mpmath.mpf(1)
            while True:
                trial = [value - share * s for value, s in zip(point, step, strict=True)]
                after, curvature = derivatives(trial)
                if mpmath.norm(after) < size:
                    break
                share /= 2
                assert share > mpmath.mpf(10) ** -20, "Newton's method stalls in many digits"
            point, gradient, hessian = trial, after, curvature
        slack = mpmath.norm(gradient) / alpha
        there = [mpmath.mpf(float(value)) for value in theta.ravel()]
        return mpmath.norm(mpmath.matrix([a - b for a, b in zip(there, point, strict=True)])) - slack


def _loss_derivatives(rows: Rows, loss: str, i: int, u: list[Any]) -> tuple[list[Any], list[list[Any]]]:
    q = len(u)
    if loss == "squared":
        assert rows.targets is not None
        r = [u[c] - mpmath.mpf(float(rows.targets[i, c])) for c in range(q)]
        return r, [[mpmath.mpf(int(c == d)) for d in range(q)] for c in range(q)]
    assert rows.labels is not None
    label = int(rows.labels[i])
    if loss == "logistic":
        odds = [1 / (1 + mpmath.exp(-value)) for value in u]
        wanted = [label] if q == 1 else [int(label == c) for c in range(q)]
        return (
            [odds[c] - wanted[c] for c in range(q)],
            [[odds[c] * (1 - odds[c]) if c == d else mpmath.mpf(0) for d in range(q)] for c in range(q)],
        )
    largest = max(u)
    parts = [mpmath.exp(value - largest) for value in u]
    chances = [part / mpmath.fsum(parts) for part in parts]
    return (
        [chances[c] - int(label == c) for c in range(q)],
        [[chances[c] * (int(c == d) - chances[d]) for d in range(q)] for c in range(q)],
    )


@threadpool_limits.wrap(limits=1)  # matrices are tiny
def main() -> None:
    rng = np.random.default_rng(14)
    counts: dict[tuple[str, str], list[float]] = {}
    below, exact_done = 0, 0
    for number in range(PROBLEMS):
        exact = number % EXACT_EVERY == 0
        objective = random_problem(rng, small=exact)
        optimum, error = polished(objective)
        place = PLACES[rng.integers(len(PLACES))]
        asked, theta = parameters(rng, objective, optimum, place)
        if asked is not objective:
            optimum, error = polished(asked)
        with np.errstate(over="ignore"):
            bound = asked.residual_bound(theta) / asked.alpha
        if exact:
            exact_done += 1
            distance = exact_distance(asked, theta, optimum)
            violated = distance > mpmath.mpf(bound) * (1 + mpmath.mpf(2) ** -50)  # the division above
        else:
            distance = float(np.linalg.norm(theta - optimum))
            violated = distance * (1 - 1e-14) - error > bound * (1 + 1e-15)
        below += int(violated)
        known = exact or float(distance) > 10 * error
        counts.setdefault((objective.loss, place), []).append(
            bound / float(distance) if known and float(distance) > 0 else np.nan
        )
    rows = []
    for (loss, place), ratios in sorted(counts.items()):
        finite = np.array([ratio for ratio in ratios if np.isfinite(ratio)])
        rows.append(
            {
                "loss": loss,
                "parameters": place,
                "problems": len(ratios),
                "distance known to a tenth": len(finite),
                "least bound / distance": float(finite.min()) if len(finite) else None,
                "median bound / distance": float(np.median(finite)) if len(finite) else None,
            }
        )
    print(timing.table(rows))
    print(f"{below} of {PROBLEMS} bounds below the distance; {exact_done} against {DIGITS} digits")
    assert below == 0, f"{below} bounds are below the true distance"
    timing.write_results(
        "residual_bounds", rows, problems=PROBLEMS, in_many_digits=exact_done, digits=DIGITS, below_the_distance=below
    )


if __name__ == "__main__":
    main()
