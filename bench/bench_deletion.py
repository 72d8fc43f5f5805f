"""Deletions by computed residual beside retraining and other certified methods, all at (1, 1e-5), in one run.

One record, ten records, and the hardest 5% of one class (a biased request), of MNIST's three against eight, odd against
even and ten digits, and of CIFAR-10 on fixed random convolutions; scikit-learn's digits where MNIST is not there. Every
answer is held against the proved bound on its gradient before anything is timed. Then a deletion on 8,000 x 256 and on
100,000 x 768 random records, beside its passes and its target. Run ``python bench/bench_deletion.py [FOLDER]``.

Columns: ``noise_std`` is what the method needs or uses; ``of residual`` what the parameters it found would have needed
by their computed residual; accuracy is that of the test records, over draws of the noise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import timing
from deletion_peers import Answer, Before, guo, langevin, newton_once, retrained, tolerance_for, trust_region
from deletion_subjects import DATA, Subject, cifar_subject, digit_subjects
from expunge import NewtonLogisticRegression
from expunge.accounting import gdp_mu
from expunge.runs.residual import InverseHessian, Objective, Rows, blocks_of, polish

Row = dict[str, Any]
Array = NDArray[Any]

ALPHA, NOISE, EPSILON, DELTA = 1.0, 0.01, 1.0, 1e-5
DRAWS = 20  # of noise, for an accuracy
GROUP = 10
HARDEST = 0.05  # of one class
RECORDS, FEATURES = 10**9, 10**9  # of a subject at most
LANGEVIN_STEPS = (100, 10_000)
SLOW = 2.0  # seconds above which a method is timed once
# Records, features, seconds that a binary deletion may take.
SPEEDS = [(8_000, 256, 0.006), (100_000, 768, 0.3)]


@dataclass(frozen=True)
class Found:
    """What a method ends with, on which objective, the noise it needs (None: what its residual needs), and by what."""

    answer: Answer
    objective: Objective
    noise_std: float | None
    guarantee: str


def objective_of(subject: Subject, loss: str) -> Objective:
    rows = Rows(subject.X, labels=subject.y)
    return Objective(blocks_of(rows), loss, subject.X.shape[1], subject.n_outputs, ALPHA)


def before_of(objective: Objective) -> Before:
    found = polish(objective, np.zeros((objective.n_outputs, objective.n_features)), target=1e-7)
    return Before.of(objective, found.theta, InverseHessian.of(objective, found.theta))


def requests(subject: Subject, before: Before) -> dict[str, Array]:
    """Return what is to be deleted: at random, and the records of one class with the largest loss."""
    rng = np.random.default_rng(1)
    n = len(subject.X)
    logits = subject.X @ before.theta.T
    if subject.n_outputs == 1:
        losses = np.logaddexp(0.0, np.where(subject.y == 1, -logits[:, 0], logits[:, 0]))
    else:
        losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(n), subject.y]
    of_class = np.flatnonzero(subject.y == 1)
    hardest = of_class[np.argsort(-losses[of_class], kind="stable")][: max(2, round(HARDEST * len(of_class)))]
    return {
        "one record": rng.choice(n, 1, replace=False),
        f"{GROUP} records": np.sort(rng.choice(n, GROUP, replace=False)),
        f"{HARDEST:.0%} hardest of a class": np.sort(hardest),
    }


def accuracy(subject: Subject, theta: Array, noise: float, *, seed: int = 2) -> float:
    """Return the mean accuracy of released parameters."""
    if not noise < np.inf:
        return float("nan")
    rng, right = np.random.default_rng(seed), []
    for _ in range(DRAWS):
        logits = subject.X_test @ (theta + noise * rng.standard_normal(theta.shape)).T
        answers = (logits[:, 0] > 0).astype(int) if len(theta) == 1 else logits.argmax(axis=1)
        right.append(np.mean(answers == subject.y_test))
    return float(np.mean(right))


def against_the_rest(subject: Subject) -> Before:
    """Return one model for each class against the rest: what is proved of the logistic loss alone."""
    return before_of(objective_of(subject, "logistic"))


def compare(subject: Subject, *, repeats: int) -> list[Row]:
    """Return a row for each method and request."""
    mu = float(gdp_mu(EPSILON, DELTA))
    before = before_of(objective_of(subject, subject.loss))
    rest = before if subject.loss == "logistic" else against_the_rest(subject)
    model = NewtonLogisticRegression(
        alpha=ALPHA, noise_std=NOISE, epsilon=EPSILON, delta=DELTA, fit_intercept=False, classes=subject.classes,
        multi_class="auto",
    ).fit(subject.X, subject.y)  # fmt: skip
    target = model.certificate_.mu * ALPHA * NOISE
    rows: list[Row] = []
    # Newton's method overshoots any tolerance; lbfgs stops by the largest entry of a mean.
    first = {"lbfgs": 64 * target / len(subject.X), "newton-cholesky": target / len(subject.X)}
    for name, gone in requests(subject, before).items():
        kept = np.delete(np.arange(len(subject.X)), gone)
        X, y = subject.X[kept], subject.y[kept]
        left, left_rest = before.objective.without(gone), rest.objective.without(gone)
        optimum = polish(left, before.theta, target=1e-7).theta
        contenders: dict[str, Callable[[], object]] = {"Expunge": partial(model.unlearn, gone)}
        ours = model.unlearn(gone).evidence
        found = {"Expunge": Found(Answer(ours.theta, ours.passes), left, NOISE, "computed residual")}
        once: dict[str, float] = {}
        for solver in first:
            for start, word in ((None, "cold"), (before.theta, "warm")):
                method, how = f"scikit-learn {solver}, {word}", {"solver": solver, "start": start}
                settled = tolerance_for(left, X, y, target=target, first=first[solver], **how)
                enough = settled.bound <= target
                found[method] = Found(
                    settled.answer, left, NOISE if enough else None, "computed residual" if enough else "not reached"
                )
                if settled.seconds > SLOW:
                    once[method] = settled.seconds
                else:
                    contenders[method] = partial(retrained, left, X, y, tol=settled.tol, **how)
        one = guo(rest, left_rest, gone)
        assert one.gradient is not None
        bound = left_rest.residual_bound(one.theta)
        assert bound <= one.gradient * (1 + 1e-6) + 1e-6, "the bound of Guo et al. is below the computed residual"
        found["Guo et al., one step"] = Found(one, left_rest, one.gradient / (ALPHA * mu), "the paper's bound")
        contenders["Guo et al., one step"] = partial(guo, rest, left_rest, gone)
        step = newton_once(before, left, gone)
        away = float(np.linalg.norm(step.theta - optimum)) + 1e-7
        found["one Newton step, asymptotic"] = Found(step, left, away / mu, "none for given data: true distance")
        contenders["one Newton step, asymptotic"] = partial(newton_once, before, left, gone)
        begin = timing.CLOCKS[timing.CLOCK]()
        trusted = trust_region(before, left, target=target)
        assert trusted.gradient is not None
        reached = trusted.gradient <= target
        if timing.CLOCKS[timing.CLOCK]() - begin > SLOW:
            once["trust-region Newton"] = timing.CLOCKS[timing.CLOCK]() - begin
        else:
            contenders["trust-region Newton"] = partial(trust_region, before, left, target=target)
        found["trust-region Newton"] = Found(
            trusted, left, NOISE if reached else None, "computed residual" if reached else "not reached"
        )
        for method, one_found in found.items():
            if one_found.guarantee == "computed residual":
                apart = float(np.linalg.norm(one_found.answer.theta - optimum))
                assert apart <= target / ALPHA + 1e-6, f"{method} ends {apart:g} from the optimum"

        seconds = {**timing.measure(contenders, repeats=repeats), **once}
        for method, one_found in found.items():
            residual = one_found.objective.residual_bound(one_found.answer.theta)
            needed = residual / (ALPHA * (mu if "step" in method else model.certificate_.mu))
            noise = needed if one_found.noise_std is None else one_found.noise_std
            rows.append(
                {
                    "subject": subject.name,
                    "request": name,
                    "deleted": len(gone),
                    "method": method,
                    "noise_std": noise,
                    "of residual": needed,
                    "accuracy": accuracy(subject, one_found.answer.theta, noise),
                    "ms": seconds[method] * 1e3,
                    "times Expunge": seconds[method] / seconds["Expunge"],
                    "passes": one_found.answer.passes,
                    "guarantee": one_found.guarantee,
                    **({"timed": "once"} if method in once else {}),
                }
            )
        theta = before.theta
        one_pass = timing.measure(
            {"pass": partial(left.residual_bound, theta), "products": partial(np.dot, X, theta.T)}, repeats=repeats
        )["pass"]
        for count in LANGEVIN_STEPS:
            chain = langevin(left, before.inverse, steps=count, group=len(gone), epsilon=EPSILON, delta=DELTA)
            rows.append(
                {
                    "subject": subject.name,
                    "request": name,
                    "deleted": len(gone),
                    "method": f"Langevin unlearning, {count} steps",
                    "noise_std": chain.noise_std,
                    "accuracy": accuracy(subject, optimum, chain.noise_std),
                    "ms": count * one_pass * 1e3,
                    "times Expunge": count * one_pass / seconds["Expunge"],
                    "passes": count,
                    "guarantee": "the paper's closed form",
                    "timed": "one pass",
                }
            )
        print(timing.table([row for row in rows if row["request"] == name]), flush=True)
    return rows


def speed(n: int, p: int, limit: float, *, repeats: int) -> Row:
    """Return how long a deletion of one record takes, beside one pass and the target."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, p))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    y = (rng.random(n) < 1 / (1 + np.exp(-4 * X @ rng.standard_normal(p)))).astype(int)
    model = NewtonLogisticRegression(fit_intercept=False, classes=[0, 1]).fit(X, y)
    objective, theta = model._state.objective, model._state.theta
    # From the model as it is after deletions, each of them from the one before.
    current, passes = model, []
    for row in range(repeats):
        result = current.unlearn(row)
        assert result.model._state.objective.residual_bound(result.evidence.theta) <= model.certificate_.mu * NOISE
        current = result.model
        passes.append(result.evidence.passes)

    turn = iter(range(10**9))
    contenders: dict[str, Callable[[], object]] = {
        "deletion": lambda: current.unlearn(current.ids_[next(turn)]),
        "pass": lambda: objective.residual_bound(theta),
        "products": lambda: (X @ theta[0]) @ X,
    }
    seconds = timing.measure(contenders, repeats=repeats, awake=True)
    return {
        "records": n,
        "features": p,
        "deletion ms": seconds["deletion"] * 1e3,
        "target ms": limit * 1e3,
        "target / deletion": limit / seconds["deletion"],
        "passes": float(np.mean(passes)),
        "pass ms": seconds["pass"] * 1e3,
        "beyond passes ms": (seconds["deletion"] - float(np.mean(passes)) * seconds["pass"]) * 1e3,
        "NumPy's two products ms": seconds["products"] * 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=DATA, help="folder of the MNIST test images and CIFAR-10")
    parser.add_argument("--part", choices=["all", "speed"], default="all", help="speed: of a deletion, by size, alone")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    start = time.monotonic()
    speeds = [speed(*size, repeats=args.repeats) for size in SPEEDS]
    print(timing.table(speeds), flush=True)
    if args.part == "speed":
        timing.write_results("deletion_speed", speeds)
        return
    subjects = list(digit_subjects(args.data).values())
    cifar = cifar_subject(args.data)
    if cifar is None:
        print("no CIFAR-10 in this folder: its rows are left out")
    rows, sources = [], {}
    for subject in [*subjects, *([cifar] if cifar is not None else [])]:
        some = subject.only(records=RECORDS, features=FEATURES)
        print(f"\n{some.name}: {len(some.X):,} records x {some.X.shape[1]}, {some.source}", flush=True)
        sources[some.name] = f"{len(some.X)} x {some.X.shape[1]}, {some.source}"
        rows += compare(some, repeats=args.repeats if some.n_outputs == 1 else 1)
    timing.write_results(
        "deletion", rows, speeds=speeds, sources=sources, epsilon=EPSILON, delta=DELTA, alpha=ALPHA,
        expunge_releases=10_000, seconds=round(time.monotonic() - start),
    )  # fmt: skip


if __name__ == "__main__":
    main()
