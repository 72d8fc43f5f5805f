"""The attack of whoever saw the model before a deletion and after it, at noise from 1e-8 to 1, and what epsilon says.

A Newton step on the remaining records from the old model is H^-1 times the deleted record's gradient, a multiple of the
record: so H (after - before) points along it (Bertran et al., arXiv 2405.20272). The attacker here knows H exactly.
Writes JSON and a picture to ``bench/results/``. Run ``python bench/bench_before_after.py [FOLDER]``; times nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import timing
from deletion_subjects import DATA, digit_subjects
from expunge import NewtonLogisticRegression
from expunge.plotting import plot_attack

NOISE = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
DELETIONS = 40
ALPHA, DELTA = 1.0, 1e-5


def attacked(X: NDArray[np.float64], before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return H (after - before) with the Hessian at the later model of the records that remain, (n, p)."""
    odds = 1 / (1 + np.exp(-X @ after))
    difference = after - before
    return np.asarray(X.T @ (odds * (1 - odds) * (X @ difference)) + ALPHA * difference)


def main() -> None:
    timing.need("matplotlib", extra="plot")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=DATA, help="folder of the MNIST test images")
    subject = digit_subjects(parser.parse_args().data)["odd/even"]
    X, y, n = subject.X, subject.y, len(subject.X)
    norms = np.linalg.norm(X, axis=1)
    chosen = np.random.default_rng(0).choice(n, min(DELETIONS, n // 2), replace=False)
    rows, every_cosine, every_epsilon, chances = [], [], [], []
    for noise in NOISE:
        model = NewtonLogisticRegression(
            alpha=ALPHA, noise_std=noise, delta=DELTA, fit_intercept=False, classes=[0, 1], releases=2, random_state=0
        ).fit(X, y)
        before = model.coef_[0]
        cosines, epsilons, others, first = [], [], [], 0
        for row in chosen.tolist():
            result = model.unlearn(row)
            kept = np.arange(n) != row
            direction = attacked(X[kept], before, result.model.coef_[0])
            found = np.abs(X @ direction) / (norms * np.linalg.norm(direction))
            cosines.append(float(min(found[row], 1.0)))
            others.append(float(np.mean(found[kept])))
            first += int(found.argmax()) == row
            epsilons.append(result.before_after.epsilon)
        every_cosine.append(cosines)
        every_epsilon.append(epsilons)
        chances.append(float(np.mean(others)))
        rows.append(
            {
                "noise_std": noise,
                "median |cosine|": float(np.median(cosines)),
                "of records that stay": chances[-1],
                "found first of all": first / len(chosen),
                "median before/after epsilon": float(np.median(epsilons)),
                "share with epsilon <= 1": float(np.mean(np.array(epsilons) <= 1.0)),
                "accuracy": float(model.score(subject.X_test, subject.y_test)),
            }
        )
    print(timing.table(rows))
    assert rows[0]["median |cosine|"] > 0.999, "the attack does not find the record where there is no noise"
    assert (np.diff([row["median before/after epsilon"] for row in rows]) <= 0).all(), "more noise, larger epsilon"
    timing.write_results("before_after", rows, subject=subject.source, records=n, deletions=len(chosen))
    picture = timing.RESULTS / "before_after.png"
    plot_attack(
        NOISE, cosine=every_cosine, epsilon=every_epsilon, chance=chances, delta=DELTA, path=picture, overwrite=True
    )


if __name__ == "__main__":
    main()
