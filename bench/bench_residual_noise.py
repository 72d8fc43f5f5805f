"""Noise that a deletion needs at (1, 1e-5) after no step, one Newton step and one chord step, row by row.

The table of the method's design and its accuracies, reproduced: MNIST's three against eight, odd against even, and ten
digits (softmax), 256 random cosine features, alpha = 1. Residuals of all rows come from products of blocks; those of
some rows, the worst among them, are first held against the proved bound of `Objective.residual_bound`. Without a step,
noise comes from the gradient, which is known, or from the distance to the new optimum, which is not and which the
design tells. Times nothing; needs the MNIST test images: ``python bench/bench_residual_noise.py [FOLDER]``, two minutes
on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

import timing
from bench_deletion import accuracy, objective_of
from deletion_subjects import DATA, Subject, digit_subjects
from expunge.accounting import gdp_mu
from expunge.runs.residual import InverseHessian, Objective, polish

Array = NDArray[np.float64]

EPSILON, DELTA = 1.0, 1e-5
ROWS = {1: 10**9, 10: 600}  # at most, by outputs: of more rows those with the largest gradients, and some at random
RECORDS, FEATURES = 10**9, 10**9  # of a subject at most
PROVED = 6  # rows whose residuals are also proved
STEPS = ("no step, by the gradient", "1 step", "+ 1 chord")
# Median and worst row, and accuracy at noise 0, .03 and .3, as the design measured them on features of its own.
NO_STEP = "no step, by the distance"
DESIGN: dict[str, tuple[dict[str, tuple[float, float]], tuple[float, float, float]]] = {
    "3 vs 8": (
        {NO_STEP: (0.23, 1.95), "1 step": (3e-4, 0.032), "+ 1 chord": (2e-6, 7e-4)},
        (0.957, 0.958, 0.954),
    ),
    "odd/even": (
        {NO_STEP: (0.066, 1.35), "1 step": (1.6e-4, 0.021), "+ 1 chord": (1e-7, 2e-4)},
        (0.915, 0.916, 0.909),
    ),
    "10 digits": (
        {NO_STEP: (0.21, 2.8), "1 step": (8e-4, 0.11), "+ 1 chord": (2e-6, 2.8e-3)},
        (0.918, 0.917, 0.907),
    ),
}
ACCURACY_NOISE = (0.0, 0.03, 0.3)


def residuals_at(subject: Subject, X: Array, thetas: Array, y: NDArray[np.int64]) -> Array:
    """Return derivatives of the losses of all rows of X by their logits, at m parameters each: shape (m, n, q)."""
    m, q, p = thetas.shape
    logits = (thetas.reshape(m * q, p) @ X.T).reshape(m, q, len(X)).transpose(0, 2, 1)
    if q == 1:
        return np.asarray(expit(logits) - y[:, None])
    chances: Array = softmax(logits, axis=2)
    chances[:, np.arange(len(X)), y] -= 1.0
    return chances


def gradients_without(subject: Subject, rows: NDArray[np.int64], thetas: Array) -> Array:
    """Return the gradient of the objective without one row at parameters of its own, for each of some rows."""
    X, residuals = subject.X, residuals_at(subject, subject.X, thetas, subject.y)
    own = np.arange(len(rows))
    residuals[own, rows] = 0.0
    m, n, q = residuals.shape
    products = residuals.transpose(0, 2, 1).reshape(m * q, n) @ X
    return np.asarray(products.reshape(m, q, -1) + thetas)  # alpha = 1


def steps(
    subject: Subject, theta: Array, inverse: Array, rows: NDArray[np.int64]
) -> Iterator[tuple[str, Array, Array]]:
    """Yield after each step the norm of the gradient without each row, and the parameters."""
    q, p = theta.shape
    X = subject.X[rows]
    m = len(rows)
    r = residuals_at(subject, X, theta[None], subject.y[rows])[0]
    thetas = np.repeat(theta[None], m, axis=0)
    yield STEPS[0], np.linalg.norm(r, axis=1) * np.linalg.norm(X, axis=1), thetas
    # K = H^-1 (I x x), one column for each output; G = (I x x)^T K.
    K = (inverse.reshape(q * p * q, p) @ X.T).reshape(q, p, q, m).transpose(3, 0, 1, 2)
    G = np.einsum("mapb,mp->mab", K, X)
    if q == 1:
        odds = expit(X @ theta.T)
        curvature = (odds * (1 - odds))[:, :, None]
    else:
        chances = softmax(X @ theta.T, axis=1)
        curvature = np.einsum("ma,ab->mab", chances, np.eye(q)) - np.einsum("ma,mb->mab", chances, chances)
    middle = np.linalg.inv(np.eye(q) - curvature @ G)
    thetas = thetas + np.einsum("mapb,mbc,mc->map", K, middle, r, optimize=True)
    gradient = gradients_without(subject, rows, thetas)
    yield "1 step", np.linalg.norm(gradient.reshape(m, -1), axis=1), thetas
    # H'^-1 g = H^-1 g + K middle C K^T g
    plain = (gradient.reshape(m, q * p) @ inverse).reshape(m, q, p)
    back = np.einsum("mapb,map->mb", K, gradient)
    thetas = thetas - plain - np.einsum("mapb,mbc,mcd,md->map", K, middle, curvature, back, optimize=True)
    gradient = gradients_without(subject, rows, thetas)
    yield "+ 1 chord", np.linalg.norm(gradient.reshape(m, -1), axis=1), thetas


def chosen_rows(subject: Subject, theta: Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return rows, and which of them were taken at random: a median is theirs."""
    n, most = len(subject.X), ROWS[10 if len(theta) > 1 else 1]
    if n <= most:
        return np.arange(n), np.ones(n, dtype=bool)
    r = residuals_at(subject, subject.X, theta[None], subject.y)[0]
    largest = np.argsort(-np.linalg.norm(r, axis=1) * np.linalg.norm(subject.X, axis=1), kind="stable")[: most // 6]
    chance = np.random.default_rng(0).choice(n, most - len(largest), replace=False)
    rows = np.union1d(largest, chance)
    return rows, np.isin(rows, chance)


def check(objective: Objective, rows: NDArray[np.int64], norms: Array, thetas: Array) -> None:
    """Hold the norms of some rows, the worst among them, against the proved bound."""
    for at in np.argsort(-norms, kind="stable")[:PROVED]:
        bound = objective.without(rows[at : at + 1]).residual_bound(thetas[at])
        assert norms[at] <= bound * (1 + 1e-9) <= norms[at] * (1 + 1e-6) + 1e-7, "a residual is not what is proved"


def of_subject(subject: Subject) -> list[dict[str, Any]]:
    mu = float(gdp_mu(EPSILON, DELTA))
    objective = objective_of(subject, subject.loss)
    found = polish(objective, np.zeros((subject.n_outputs, subject.X.shape[1])), target=1e-8)
    inverse = InverseHessian.of(objective, found.theta).matrices[0]
    rows, chance = chosen_rows(subject, found.theta)
    size = max(1, 2**26 // (8 * len(subject.X) * subject.n_outputs))
    every: dict[str, list[Array]] = {name: [] for name in (STEPS[0], NO_STEP, *STEPS[1:])}
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        for name, norms, thetas in steps(subject, found.theta, inverse, part):
            if start == 0 and name != STEPS[0]:
                check(objective, part, norms, thetas)
            every[name].append(norms)
        # What is left of the way after the last step is far below the rest.
        every[NO_STEP].append(np.linalg.norm((thetas - found.theta).reshape(len(part), -1), axis=1))
    design, accuracies = DESIGN[subject.name]
    largest = float(np.linalg.norm(subject.X, axis=1).max())
    uniform = largest * (2**0.5 if subject.loss == "softmax" else 1.0) / mu
    table = [{"subject": subject.name, "what": "no step, the same for all", "worst": uniform}]
    for name, parts in every.items():
        noise, told = np.concatenate(parts) / mu, design.get(name, ("", ""))
        table.append(
            {
                "subject": subject.name,
                "what": name,
                "median": float(np.median(noise[chance])),
                "worst": float(noise.max()),
                "design's median": told[0],
                "design's worst": told[1],
                "rows": len(rows),
            }
        )
    for noise, wanted in zip(ACCURACY_NOISE, accuracies, strict=True):
        value = accuracy(subject, found.theta, noise)
        table.append(
            {"subject": subject.name, "what": f"accuracy at {noise:g}", "median": value, "design's median": wanted}
        )
    print(timing.table(table), flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=DATA, help="folder of the MNIST test images")
    subjects = digit_subjects(timing.mnist_folder(parser.parse_args().data))
    rows = [row for name in DESIGN for row in of_subject(subjects[name].only(records=RECORDS, features=FEATURES))]
    timing.write_results("residual_noise", rows, epsilon=EPSILON, delta=DELTA, alpha=1.0)


if __name__ == "__main__":
    main()
