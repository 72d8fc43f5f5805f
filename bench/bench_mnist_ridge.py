"""What forgetting one MNIST record costs in accuracy: the three calibrations of the unlearning noise, side by side.

Run ``python bench/bench_mnist_ridge.py [folder with the MNIST IDX files]``; writes JSON and a picture to
``bench/results/``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

import timing
from bench_ridge import ALPHA, DATA, LEARN_STEPS, NOISE, TARGET, UNLEARN_STEPS, learning_law, mnist_features
from expunge.ridge import LearningLaw, exact_quotes, shifted_quotes

mpl.use("Agg")
import matplotlib.pyplot as plt

RUNS = 5
FORGOTTEN = 0


def learned(law: LearningLaw, rng: np.random.Generator) -> np.ndarray:
    """Return the last iterate of one noisy run on all records."""
    gram, moments = law.design.T @ law.design, law.design.T @ law.targets
    theta = np.zeros_like(moments)
    for _ in range(LEARN_STEPS):
        theta -= law.step_size * (gram @ theta + ALPHA * theta - moments)
        theta += NOISE * rng.normal(size=theta.shape)
    return theta


def unlearned(law: LearningLaw, theta: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Return ``theta`` after the noisy steps on the data without one record."""
    x, y = law.design[FORGOTTEN], law.targets[FORGOTTEN]
    gram = law.design.T @ law.design - np.outer(x, x)
    moments = law.design.T @ law.targets - np.outer(x, y)
    theta = theta.copy()
    for _ in range(UNLEARN_STEPS):
        theta -= law.step_size * (gram @ theta + ALPHA * theta - moments)
        theta += noise * rng.normal(size=theta.shape)
    return theta


def draw(rows: list[dict[str, Any]], noises: dict[str, np.ndarray], before: float, path: Path) -> None:
    colors = {"uniform": "#b3541e", "shifted": "#3a6ea5", "exact": "#2a7f62"}
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    edges = np.geomspace(1e-4, noises["uniform"][0] * 1.5, 70)
    for name in ("exact", "shifted"):
        shown = np.maximum(noises[name][noises[name] > 0], edges[0])
        left.hist(shown, bins=edges, color=colors[name], alpha=0.8, label=name)
    left.axvline(noises["uniform"][0], color=colors["uniform"], linewidth=2, label="uniform (all records)")
    free = np.mean(noises["exact"] == 0)
    left.set(xscale="log", xlabel="unlearning noise per step", ylabel="records")
    left.set_title(f"Noise each record needs (exact: none for {free:.0%})", fontsize=11)
    left.legend(frameon=False)
    names = [row["method"] for row in rows]
    values = [row["accuracy"] for row in rows]
    bars = right.bar(names, values, color=[colors[name] for name in names], width=0.6)
    right.bar_label(bars, [f"{value:.3f}" for value in values], padding=3)
    right.axhline(before, color="black", linestyle="--", linewidth=1)
    right.text(-0.4, before + 0.015, f"before deletion {before:.3f}", fontsize=9)
    right.set(ylim=(0, 1.05), ylabel="test accuracy after unlearning")
    right.set_title("Accuracy at the median noise", fontsize=11)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path, default=DATA)
    args = parser.parse_args()
    features, labels = mnist_features(args.data)
    train, test, test_labels = features[:8000], features[8000:], labels[8000:]
    law = learning_law(train, labels[:8000])
    records = np.arange(len(train))
    noises = {
        "uniform": shifted_quotes(law, records, uniform=True, **TARGET).noise_std,
        "shifted": shifted_quotes(law, records, **TARGET).noise_std,
        "exact": exact_quotes(law, records, **TARGET).noise_std,
    }
    rng = np.random.default_rng(1)

    def accuracy(theta: np.ndarray) -> float:
        return float(np.mean(np.argmax(test @ theta, axis=1) == test_labels))

    before: list[float] = []
    after: dict[str, list[float]] = {name: [] for name in noises}
    for _ in range(RUNS):
        theta = learned(law, rng)
        before.append(accuracy(theta))
        for name, noise in noises.items():
            after[name].append(accuracy(unlearned(law, theta, float(np.median(noise)), rng)))
    rows = [
        {"method": name, "median_noise_std": float(np.median(noise)), "accuracy": float(np.mean(after[name]))}
        for name, noise in noises.items()
    ]
    print(timing.table(rows))
    print(f"accuracy before deletion {np.mean(before):.4f}, mean of {RUNS} runs")
    timing.write_results("mnist_ridge", rows, accuracy_before=float(np.mean(before)), runs=RUNS)
    draw(rows, noises, float(np.mean(before)), timing.RESULTS / "mnist_ridge.png")


if __name__ == "__main__":
    main()
