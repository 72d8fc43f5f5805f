"""Privacy arithmetic beside its yardsticks: answers are checked first, then timed in one interleaved run.

Run ``python bench/bench_privacy.py``; it takes about half a minute on two busy cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import timing

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import oracles
from expunge._kernels.backend import core
from expunge.accounting import GaussianPair, gdp_delta, gdp_epsilon, gdp_mu, shifted_mu

SIZE = 100_000
STEPS = 330
ROWS = 2_000
PAIRS = 2_000
NODES, WEIGHTS = np.polynomial.legendre.leggauss(24)


def pair_profiles(e: NDArray[np.float64], d2: NDArray[np.float64], q: float, epsilon: float) -> NDArray[np.float64]:
    """Return log delta of many pairs with NumPy: the same saddle and panels, all pairs at once on a vertical line."""
    pole = np.where(e.max(axis=1) > 0, 1 / np.maximum(e.max(axis=1), 1e-300), 1e12)
    logs = np.log1p(e).sum(axis=1)

    def exponent(w: NDArray[np.complex128]) -> NDArray[np.complex128]:
        v = 1 - w[..., None] * e[:, None, :]
        total = (w * (1 + w) / 2) * (d2[:, None, :] / v).sum(-1) - q / 2 * np.log(v).sum(-1)
        return total - w * (q / 2 * logs[:, None] + epsilon) - np.log(w) - np.log(1 + w)

    low, high = np.log(pole) - 40, np.log(pole)
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        base_a, base_b = (exponent(np.exp(x)[:, None] * (1 - 1e-12) + 0j).real[:, 0] for x in (a, b))
        low, high = np.where(base_a < base_b, low, a), np.where(base_a < base_b, b, high)
    w0 = np.exp((low + high) / 2)
    h = w0 * 1e-4
    points = np.stack([w0 - h, w0, w0 + h], axis=1)
    base = exponent(points + 0j).real
    s = h / np.sqrt(base[:, 0] - 2 * base[:, 1] + base[:, 2])
    total, t, width = np.zeros(len(e)), np.zeros(len(e)), s / 2
    for _ in range(14):
        along = t[:, None] + width[:, None] * (1 + NODES) / 2
        values = np.exp(exponent(w0[:, None] + 1j * along) - base[:, 1:2]).real
        total += (values * WEIGHTS).sum(1) * width / 2
        t, width = t + width, width * 1.6
    return base[:, 1] + np.log(total / np.pi)


def main() -> None:
    """Check, time, print and write."""
    rng = np.random.default_rng(0)
    rows = []

    mu = rng.uniform(0.05, 5.0, SIZE)
    delta = 10.0 ** rng.uniform(-12, -2, SIZE)
    epsilon = gdp_epsilon(mu, delta)
    np.testing.assert_allclose(epsilon, oracles.gdp_epsilon(mu, delta), rtol=1e-8, atol=1e-11)
    assert np.all(gdp_delta(mu, epsilon) <= delta)
    assert np.all(gdp_delta(gdp_mu(mu, delta), mu) <= delta)
    inside = epsilon > 0
    np.testing.assert_allclose(gdp_mu(epsilon[inside], delta[inside]), mu[inside], rtol=1e-8)
    seconds = timing.measure(
        {
            "64 NumPy bisections": lambda: oracles.gdp_epsilon(mu, delta),
            "gdp_epsilon, one thread": lambda: gdp_epsilon(mu, delta, threads=1),
            "gdp_epsilon": lambda: gdp_epsilon(mu, delta),
            "gdp_mu, one thread": lambda: gdp_mu(epsilon, delta, threads=1),
            "gdp_delta, one thread": lambda: gdp_delta(mu, epsilon, threads=1),
            "NumPy and SciPy delta, once": lambda: np.exp(oracles.gdp_log_delta(mu, epsilon)),
            "floor: copy in and out": lambda: (mu.copy(), delta.copy()),
        },
        repeats=5,
    )
    for name, value in seconds.items():
        rows.append(
            {
                "what": f"{SIZE} x {name}",
                "ns_per_item": value / SIZE * 1e9,
                "ratio_to_bisection": seconds["64 NumPy bisections"] / value,
            }
        )

    s, c, tau = rng.random((ROWS, STEPS)), np.full((ROWS, STEPS), 0.99), np.full((ROWS, STEPS), 0.01)
    tau[:, 300:] = 0.003
    s[:, 300:] = 0.0
    some = slice(0, 5)
    expected = [oracles.shifted_mu(*row) for row in zip(s[some], c[some], tau[some], strict=True)]
    np.testing.assert_allclose(shifted_mu(s[some], c[some], tau[some]), expected, rtol=1e-11)
    seconds = timing.measure(
        {
            "shifted_mu, one thread": lambda: shifted_mu(s, c, tau, threads=1),
            "floor: one NumPy pass over the three arrays": lambda: (s.sum(1), c.sum(1), tau.sum(1)),
            "peer: gift wrapping in NumPy (10 rows)": lambda: [
                oracles.shifted_mu(s[i], c[i], tau[i]) for i in range(10)
            ],
        },
        repeats=5,
    )
    for name, value in seconds.items():
        count = 10 if name.startswith("peer") else ROWS
        rows.append({"what": f"{STEPS} steps: {name}", "ns_per_item": value / count * 1e9})

    e = rng.normal(size=(PAIRS, 10)) * 0.1
    d2 = rng.random((PAIRS, 10)) * 0.05
    target = np.full(PAIRS, 1.0)
    out, error, flags = np.empty(PAIRS), np.empty(PAIRS), np.empty(PAIRS)
    core.pair_delta(e, d2, 10.0, target, False, out, error, flags)
    assert np.all(flags == 1)
    np.testing.assert_allclose(out, np.exp(pair_profiles(e, d2, 10.0, 1.0)), rtol=1e-7)
    one = GaussianPair(e[0], np.sqrt(d2[0])[:, None] * np.ones((1, 10)) / np.sqrt(10.0))
    np.testing.assert_allclose(one.delta(1.0, direction="pq"), out[0], rtol=1e-11)
    levels = np.full(PAIRS, 1e-5)
    found, back = np.empty(PAIRS), np.empty(PAIRS)
    core.pair_epsilon(e, d2, 10.0, levels, False, found)
    core.pair_delta(e, d2, 10.0, found, False, back, error, flags)
    np.testing.assert_allclose(back, levels, rtol=1e-6)
    np.testing.assert_allclose(one.epsilon(1e-5, direction="pq"), found[0], rtol=1e-9)
    seconds = timing.measure(
        {
            "profile, one thread": lambda: core.pair_delta(e, d2, 10.0, target, False, out, error, flags, threads=1),
            "epsilon at 1e-5, one thread": lambda: core.pair_epsilon(e, d2, 10.0, levels, False, out, threads=1),
            "peer: profile in NumPy, batched": lambda: pair_profiles(e, d2, 10.0, 1.0),
        },
        repeats=5,
    )
    for name, value in seconds.items():
        rows.append(
            {
                "what": f"pair with 10 excesses: {name}",
                "ns_per_item": value / PAIRS * 1e9,
                "per_second": PAIRS / value,
                "ratio_to_numpy": seconds["peer: profile in NumPy, batched"] / value,
            }
        )

    print(timing.table(rows))
    timing.write_results("privacy", rows)


if __name__ == "__main__":
    main()
