"""A pass over the data for a gradient with a proved bound, and quotes of all rows: beside NumPy and their floors.

Run ``python bench/bench_residual.py [--threads N] [--repeats R]``; it needs 3 GB and takes some minutes. The floor of a
pass is the longer of reading X once at the memory's rate and of its products at dgemm's rate, that of quotes is n p^2
multiply-adds at dgemm's rate. The memory's rate is that of a product of a long vector with itself, which BLAS reads in
one stream; both rates are measured in the same run, in turns with what they are compared with. Times are medians;
"best" ones are the least of the run, which say more where others are at work on the machine.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn._loss.loss import HalfBinomialLoss, HalfMultinomialLoss
from sklearn.linear_model._linear_loss import LinearModelLoss
from threadpoolctl import threadpool_limits

from expunge._kernels import backend
from expunge.runs.residual import gradient_sums, prove_inverse, record_quotes
from timing import measured, table, write_results

Row = dict[str, Any]
Array = NDArray[Any]

# Records, features, outputs; the targets are shares of the floor's rate.
SHAPES = [(8_000, 256, 1), (100_000, 768, 1), (8_000, 256, 10), (100_000, 768, 10)]
TARGETS = {1: 0.8, 10: 0.7}
# Records, features; the target is a share of dgemm's rate.
QUOTES = [(8_000, 256), (100_000, 768)]
QUOTE_TARGET = 0.7
SIDE = 1024
LONG = 1 << 25  # numbers, more than any cache holds


def numpy_gradient(X: Array, theta: Array, labels: Array) -> Callable[[], Array]:
    """Two products, and the residuals between them; no bound."""
    rows = np.arange(len(labels))

    def run() -> Array:
        logits = X @ theta.T
        if len(theta) == 1:
            return (expit(logits) - labels[:, None]).T @ X
        residuals = softmax(logits, axis=1)
        residuals[rows, labels] -= 1.0
        return residuals.T @ X

    return run


def sklearn_gradient(X: Array, theta: Array, labels: Array, threads: int) -> Callable[[], Array]:
    """Loss and gradient as LogisticRegression's solvers ask for them; no bound."""
    q = len(theta)
    loss = HalfBinomialLoss() if q == 1 else HalfMultinomialLoss(n_classes=q)
    model = LinearModelLoss(base_loss=loss, fit_intercept=False)
    coef = theta[0] if q == 1 else np.asfortranarray(theta)
    targets = labels.astype(np.float64)

    def run() -> Array:
        # A mean over the records.
        return model.loss_gradient(coef, X, targets, l2_reg_strength=0.0, n_threads=threads)[1] * len(X)

    return run


def numpy_quotes(X: Array, theta: Array, labels: Array, inverse: Array) -> Callable[[], tuple[Array, Array]]:
    """First-order sensitivities and leverages of a logistic model, as one writes them; nothing is bounded."""

    def run() -> tuple[Array, Array]:
        K = X @ inverse
        probabilities = expit(X @ theta[0])
        leverages = (X * K).sum(axis=1)
        c = (probabilities - labels) / (1.0 - probabilities * (1.0 - probabilities) * leverages)
        return np.abs(c) * np.sqrt((K * K).sum(axis=1)), leverages

    return run


def passes(n: int, p: int, q: int, rng: np.random.Generator, threads: int, repeats: int) -> Row:
    """Time a pass over n rows of p features with q outputs."""
    long = np.ones(LONG)
    side = rng.standard_normal((SIDE, SIDE))
    X, labels = rng.standard_normal((n, p)), rng.integers(0, max(q, 2), size=n)
    theta = rng.standard_normal((q, p)) / p**0.5
    loss = "logistic" if q == 1 else "softmax"
    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: gradient_sums(X, theta, labels=labels, loss=loss, threads=threads),
        "numpy": numpy_gradient(X, theta, labels),
        "scikit-learn": sklearn_gradient(X, theta, labels, threads),
        "X @ theta": lambda: X @ theta[0],
        "memory": lambda: long @ long,
        "dgemm": lambda: side @ side,
    }
    found = gradient_sums(X, theta, labels=labels, loss=loss)
    for peer in ("numpy", "scikit-learn"):
        other = np.asarray(contenders[peer]()).reshape(q, p)
        assert np.abs(found.gradient - other).max() <= 1e-11 * found.magnitude, f"{peer} disagrees"
    times = measured(contenders, repeats=repeats)
    least = {name: min(times[name]) for name in times}
    seconds = {name: statistics.median(times[name]) for name in times}
    row: Row = {"records": n, "features": p, "outputs": q, "expunge ms": seconds["ours"] * 1e3}
    for which, of in (("", seconds), ("best ", least)):
        reading, products = of["memory"] * X.size / LONG, 4.0 * n * p * q / (2.0 * SIDE**3 / of["dgemm"])
        floor = max(reading, products)
        row |= {f"{which}floor ms": floor * 1e3, f"{which}of the floor's rate": floor / of["ours"]}
        row[f"{which}of the rate of NumPy's X @ theta"] = of["X @ theta"] / of["ours"]
    row["floor is"] = "reading X" if reading >= products else "products at dgemm's rate"
    row |= {"target": TARGETS[q], "NumPy ms": seconds["numpy"] * 1e3, "scikit-learn ms": seconds["scikit-learn"] * 1e3}
    return row


def quotes(n: int, p: int, rng: np.random.Generator, threads: int, repeats: int) -> Row:
    """Time the quotes of all n rows of a logistic model of p features."""
    side = rng.standard_normal((SIDE, SIDE))
    X, labels = rng.standard_normal((n, p)) / p**0.5, rng.integers(0, 2, size=n)
    theta = rng.standard_normal((1, p))
    given: dict[str, Any] = {"loss": "logistic", "labels": labels, "alpha": 1.0}
    inverse = prove_inverse(X, theta, **given)
    release = {"noise_std": 0.01, "mu": 0.1, "threads": threads}
    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: record_quotes(X, theta, **given, **release, inverse=inverse),
        "with inverse": lambda: record_quotes(X, theta, **given, **release),
        "numpy": numpy_quotes(X, theta, labels, inverse.matrices[0]),
        "dgemm": lambda: side @ side,
    }
    found = record_quotes(X, theta, **given, **release, inverse=inverse)
    sensitivities, _ = numpy_quotes(X, theta, labels, inverse.matrices[0])()
    assert np.abs(found.sensitivity_estimate - sensitivities).max() <= 1e-9 * sensitivities.max(), "numpy disagrees"
    times = measured(contenders, repeats=repeats)
    row: Row = {"records": n, "features": p, "expunge ms": statistics.median(times["ours"]) * 1e3}
    for which, of in (("", statistics.median), ("best ", min)):
        floor = 2.0 * n * p * p / (2.0 * SIDE**3 / of(times["dgemm"]))
        row |= {f"{which}floor ms": floor * 1e3, f"{which}of dgemm's rate": floor / of(times["ours"])}
        row[f"{which}of dgemm's rate, NumPy"] = floor / of(times["numpy"])
    row |= {"target": QUOTE_TARGET, "NumPy ms": statistics.median(times["numpy"]) * 1e3}
    row["expunge with the inverse and its proof ms"] = statistics.median(times["with inverse"]) * 1e3
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=backend.default_threads())
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    rng, rows, quoted = np.random.default_rng(0), [], []
    with threadpool_limits(args.threads):
        for n, p, q in SHAPES:
            rows.append(passes(n, p, q, rng, args.threads, args.repeats))
            print(table(rows[-1:]), flush=True)
        for n, p in QUOTES:
            quoted.append(quotes(n, p, rng, args.threads, args.repeats))
            print(table(quoted[-1:]), flush=True)
    print(table(rows))
    print(table(quoted))
    write_results("residual", rows, quotes=quoted, threads=args.threads, repeats=args.repeats)


if __name__ == "__main__":
    main()
