"""What forgetting one MNIST record costs in accuracy: the three calibrations of the unlearning noise, side by side.

8,000 records, 256 random cosine features, one-hot ridge. Times nothing; checks the quotes and the chains first. Writes
JSON and a picture to ``bench/results/``. Run ``python bench/bench_mnist_ridge.py FOLDER``, FOLDER being that of the
MNIST test images; EXPUNGE_DATA can name it as well.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

import timing
from bench_ridge import (
    ALPHA,
    DATA,
    LEARN_STEPS,
    NOISE,
    TARGET,
    UNLEARN_STEPS,
    dense_noise,
    learning_law,
    mnist_features,
)
from expunge import LangevinRidgeClassifier
from expunge.langevin import langevin_chains
from expunge.plotting import plot_noise
from expunge.runs.ridge import LearningLaw

RUNS = 5
FORGOTTEN = 0
LEARNED = 8000  # records; the others are to test with
METHODS = ("uniform", "shifted", "exact")


def check_quotes(uniform: np.ndarray, shifted: np.ndarray, exact: np.ndarray, *, law: LearningLaw) -> None:
    """Hold the quotes against each other, and three of them against dense NumPy."""
    assert (exact <= shifted * (1 + 1e-6)).all(), "an exact quote exceeds its bound"
    assert (shifted <= uniform * (1 + 1e-6)).all(), "a bound of one record exceeds that of all"
    with threadpoolctl.threadpool_limits(1):
        for row in np.flatnonzero(exact)[:3]:
            np.testing.assert_allclose(exact[row], dense_noise(law, int(row)), rtol=1e-6)


def check_chain(X: np.ndarray, targets: np.ndarray, steps: dict[str, Any]) -> None:
    """Hold three steps without noise against the same steps in NumPy."""
    theta = np.zeros((X.shape[1], targets.shape[1]))
    for _ in range(3):
        theta = theta - steps["step_size"] * (X.T @ (X @ theta - targets) + steps["alpha"] * theta)
    chain = langevin_chains(X, targets, n_steps=3, noise_std=0.0, seed=0, **{**steps, "n_chains": 1})[0]
    np.testing.assert_allclose(chain, theta, rtol=0, atol=1e-10 * np.abs(theta).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, default=DATA, help="folder of the MNIST test images")
    features, labels = mnist_features(timing.mnist_folder(parser.parse_args().data))
    train, test = features[:LEARNED], features[LEARNED:]
    targets = np.eye(10)[labels[:LEARNED]]
    settings = {"alpha": ALPHA, "n_steps": LEARN_STEPS, "noise_std": NOISE, "fit_intercept": False}
    model = LangevinRidgeClassifier(**settings, random_state=0).fit(train, labels[:LEARNED])
    quotes = [model.quote(method=name, **TARGET) for name in METHODS]
    check_quotes(*(quote.noise_std for quote in quotes), law=learning_law(train, labels[:LEARNED]))
    medians = {quote.method: float(np.median(quote.noise_std)) for quote in quotes}

    steps = {"alpha": ALPHA, "step_size": model.step_size_, "n_chains": RUNS}
    check_chain(train, targets, steps)
    learned = langevin_chains(train, targets, n_steps=LEARN_STEPS, noise_std=NOISE, seed=1, **steps)

    def accuracy(chains: np.ndarray) -> float:
        return float(np.mean(np.argmax(test @ chains, axis=2) == labels[LEARNED:]))

    def accuracy_after(noise: float) -> float:
        rest = np.arange(len(train)) != FORGOTTEN
        run = {"n_steps": UNLEARN_STEPS, "noise_std": noise, "theta0": learned, "seed": 2, **steps}
        return accuracy(langevin_chains(train[rest], targets[rest], **run))

    before = accuracy(learned)
    rows = [
        {"method": name, "median_noise_std": noise, "accuracy": accuracy_after(noise)}
        for name, noise in medians.items()
    ]
    print(timing.table(rows))
    print(f"accuracy before deletion {before:.4f}, mean of {RUNS} runs")
    timing.write_results("mnist_ridge", rows, accuracy_before=before, runs=RUNS)
    grid = np.unique([*np.geomspace(1e-4, 1.5 * medians["uniform"], 15), *medians.values()])
    curve = (grid, [accuracy_after(float(noise)) for noise in grid])
    picture = timing.RESULTS / "mnist_ridge.png"
    plot_noise(quotes, accuracy=curve, accuracy_before=before, path=picture, overwrite=True)


if __name__ == "__main__":
    main()
