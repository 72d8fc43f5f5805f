"""Exact quotes of 8,000 MNIST records: checked against the full Krylov space and dense NumPy, then timed beside both.

Run ``python bench/bench_ridge.py FOLDER``, FOLDER being that of the MNIST test images; EXPUNGE_DATA can name it.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize
import threadpoolctl

import timing
from expunge._kernels import backend
from expunge.accounting import GaussianPair
from expunge.runs.ridge import LearningLaw, exact_quotes, shifted_quotes

DATA = Path(os.environ.get("EXPUNGE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
ALPHA, LEARN_STEPS, UNLEARN_STEPS, NOISE, EPSILON, DELTA = 1.0, 300, 30, 0.01, 1.0, 1e-5
TARGET: dict[str, Any] = {"epsilon": EPSILON, "delta": DELTA, "n_steps": UNLEARN_STEPS}


def mnist_features(folder: Path, *, n_features: int = 256, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return random cosine features of the 10,000 MNIST test images, and their labels."""
    images, labels = (
        np.frombuffer(gzip.decompress((folder / f"t10k-{name}.gz").read_bytes())[skip:], np.uint8)
        for name, skip in (("images-idx3-ubyte", 16), ("labels-idx1-ubyte", 8))
    )
    rng = np.random.default_rng(seed)
    weights, phases = rng.normal(size=(784, n_features)) / 6, rng.uniform(0, 2 * np.pi, n_features)
    return np.sqrt(2 / n_features) * np.cos(images.reshape(-1, 784) / 255.0 @ weights + phases), labels


def learning_law(design: np.ndarray, labels: np.ndarray) -> LearningLaw:
    """Return the law of learning with one-hot targets and the step size 1/L."""
    with threadpoolctl.threadpool_limits(1):  # as for the dense yardstick: no core spins while it waits
        largest = np.linalg.eigvalsh(design.T @ design)[-1] + ALPHA
    run = {"alpha": ALPHA, "step_size": 1 / largest, "n_steps": LEARN_STEPS, "noise_std": NOISE}
    return LearningLaw(design, np.eye(10)[labels], **run)


def dense_noise(law: LearningLaw, row: int) -> float:
    """Solve for the noise of one record with p x p algebra: moments once, whitening and eigenvalues per candidate."""
    x, y, p = law.design[row], law.targets[row], law.n_features
    eta, gram = law.step_size, law.design.T @ law.design + law.alpha * np.eye(law.n_features)

    def covariance(h: np.ndarray, V: np.ndarray) -> np.ndarray:
        a2 = (1 - eta * h) ** 2
        return (V * (law.noise_std**2 * (1 - a2**law.n_steps) / (1 - a2))) @ V.T

    without = gram - np.outer(x, x)
    h, V = np.linalg.eigh(without)
    with_record, reference = covariance(*np.linalg.eigh(gram)), covariance(h, V)
    A, A_without, b = np.eye(p) - eta * gram, np.eye(p) - eta * without, law.design.T @ law.targets
    mean, shift = np.zeros_like(b), np.zeros_like(b)
    for _ in range(law.n_steps):
        shift = A_without @ shift - eta * np.outer(x, x @ mean - y)
        mean = A @ mean + eta * b
    power = (V * (1 - eta * h) ** UNLEARN_STEPS) @ V.T
    a2 = (1 - eta * h) ** 2
    grown = (V * ((1 - a2**UNLEARN_STEPS) / (1 - a2))) @ V.T

    def excess(noise: float) -> float:
        push = np.eye(p) if noise == 0 else power
        base = reference if noise == 0 else push @ reference @ push + noise**2 * grown
        L = np.linalg.cholesky(base)
        half = scipy.linalg.solve_triangular(L, push @ (with_record - reference) @ push, lower=True)
        e, U = np.linalg.eigh(scipy.linalg.solve_triangular(L, half.T, lower=True))
        d = U.T @ scipy.linalg.solve_triangular(L, push @ shift, lower=True)
        return float(np.log(GaussianPair(e, d).delta(EPSILON, threads=1) / DELTA))

    if excess(0.0) <= 0:
        return 0.0
    low, high = np.log(law.noise_std), np.log(law.noise_std)
    while excess(np.exp(low)) <= 0:
        low -= 1.0
    while excess(np.exp(high)) > 0:
        high += 1.0
    return float(np.exp(scipy.optimize.brentq(lambda t: excess(np.exp(t)), low, high, xtol=1e-9)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, default=DATA, help="folder of the MNIST test images")
    parser.add_argument("--records", type=int, default=8000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    features, labels = mnist_features(timing.mnist_folder(args.data))
    design, labels = features[: args.records], labels[: args.records]
    n, rows = len(design), np.arange(len(design))

    law = learning_law(design, labels)
    quotes = exact_quotes(law, rows, **TARGET)
    shifted = shifted_quotes(law, rows, **TARGET)
    sample = np.random.default_rng(0).choice(rows, 50, replace=False)
    full = exact_quotes(law, sample, rank=law.n_features, tolerance=1e-9, **TARGET)
    differ = np.abs(quotes.noise_std[sample] - full.noise_std)
    worst = float(np.max(differ / np.maximum(full.noise_std, 1e-300), where=differ > 0, initial=0.0))
    assert worst <= 1e-6, f"quotes differ from the full Krylov space by {worst:g}"
    assert (quotes.noise_std <= shifted.noise_std * (1 + 1e-6)).all(), "an exact quote exceeds its bound"
    hard = rows[quotes.noise_std > 0][: args.repeats]
    with threadpoolctl.threadpool_limits(1):
        dense = np.array([dense_noise(law, int(row)) for row in hard])
    dense_worst = float(np.abs(dense / quotes.noise_std[hard] - 1).max())
    assert dense_worst <= 1e-6, f"quotes differ from dense NumPy by {dense_worst:g}"

    turn = itertools.cycle(hard.tolist())
    with threadpoolctl.threadpool_limits(1):
        contenders = {
            "exact": lambda: exact_quotes(learning_law(design, labels), rows, **TARGET),
            "shifted": lambda: shifted_quotes(law, rows, **TARGET),
            "dense": lambda: dense_noise(law, next(turn)),
        }
        cpu = timing.measure(contenders, repeats=args.repeats, clock=time.process_time)
        wall = (
            timing.measure(contenders, repeats=args.repeats, clock=time.perf_counter)["exact"]
            * backend.default_threads()
        )
    per_record = cpu["exact"] / n * 1e3
    rows_out = [
        {"what": "exact quote, everything, CPU ms per record", "value": per_record, "limit": 0.7},
        {"what": "exact quote, everything, wall ms x cores per record", "value": wall / n * 1e3, "limit": 0.7},
        {"what": "shifted quote, CPU ms per record", "value": cpu["shifted"] / n * 1e3},
        {"what": "dense NumPy solve, CPU ms per record", "value": cpu["dense"] * 1e3},
        {"what": "dense / exact", "value": cpu["dense"] * 1e3 / per_record, "limit": 1000.0},
        {"what": "worst noise_std difference to full Krylov, 50 records", "value": worst, "limit": 1e-6},
        {"what": f"worst noise_std difference to dense NumPy, {hard.size} records", "value": dense_worst},
        {"what": "largest reported error", "value": float(quotes.error.max())},
        {"what": "median noise_std, exact", "value": float(np.median(quotes.noise_std))},
        {"what": "median noise_std, shifted", "value": float(np.median(shifted.noise_std))},
    ]
    print(timing.table(rows_out))
    timing.write_results("ridge", rows_out, records=n, rank=int(quotes.rank.max()))


if __name__ == "__main__":
    main()
