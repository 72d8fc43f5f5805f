"""What forgetting one MNIST record costs in accuracy: the three calibrations of the unlearning noise, side by side.

8,000 records, 256 random cosine features, one-hot ridge. Writes JSON and a picture to ``bench/results/``. Run
``python bench/bench_mnist_ridge.py [folder with the MNIST IDX files]``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import timing
from bench_ridge import ALPHA, DATA, LEARN_STEPS, NOISE, TARGET, UNLEARN_STEPS, mnist_features
from expunge import LangevinRidgeClassifier
from expunge.langevin import langevin_chains
from expunge.plotting import plot_noise

RUNS = 5
FORGOTTEN = 0
METHODS = ("uniform", "shifted", "exact")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path, default=DATA)
    features, labels = mnist_features(parser.parse_args().data)
    train, test = features[:8000], features[8000:]
    targets = np.eye(10)[labels[:8000]]
    settings = {"alpha": ALPHA, "n_steps": LEARN_STEPS, "noise_std": NOISE, "fit_intercept": False}
    model = LangevinRidgeClassifier(**settings, random_state=0).fit(train, labels[:8000])
    quotes = [model.quote(method=name, **TARGET) for name in METHODS]
    medians = {quote.method: float(np.median(quote.noise_std)) for quote in quotes}

    steps = {"alpha": ALPHA, "step_size": model.step_size_, "n_chains": RUNS}
    learned = langevin_chains(train, targets, n_steps=LEARN_STEPS, noise_std=NOISE, seed=1, **steps)

    def accuracy(chains: np.ndarray) -> float:
        return float(np.mean(np.argmax(test @ chains, axis=2) == labels[8000:]))

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
