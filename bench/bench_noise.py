"""Noise of releases: whether it has the law it should have, and what it costs beside noise of float64.

Run ``python bench/bench_noise.py [--draws N] [--repeats R]``. The draws are released numbers around several parameters
and noises; the counts of their cells are held against the exact chances of a rounded normal, by chi-square and by the
largest difference of the distribution functions (Kolmogorov-Smirnov, whose p-value errs upward for cells). Then a
release is timed beside the sum in float64 that it stands for, rounded to the same grid, and the kernel by itself.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

import timing
from expunge._kernels import backend
from expunge.runs.exact_noise import grid_exponent, os_words, with_exact_noise
from expunge.runs.noise import os_normals, with_noise

CASES = [(1.0, 0.0), (0.7, 0.3), (1e-8, 1e-3)]  # noise, parameter
CHUNK = 1 << 20
REACH = 8  # standard deviations; what lies beyond is counted together
SIZES = [100, 10_000, 1_000_000]


def counted(draws: int, noise_std: float, theta: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return how often each cell within reach came, those beyond on either side together, and its exact chance."""
    exponent = grid_exponent(noise_std)
    step = 2.0**exponent
    most = int(REACH * noise_std / step)
    centre = round(theta / step)
    edges = (np.arange(-most, most + 2) - 0.5 + (centre - theta / step)) * (step / noise_std)
    below = special.ndtr(np.minimum(edges, 0)), special.ndtr(-np.maximum(edges, 0))
    chances = np.where(edges[1:] <= 0, np.diff(below[0]), -np.diff(below[1]))
    across = (edges[:-1] < 0) & (edges[1:] > 0)
    chances[across] = special.ndtr(edges[1:][across]) - special.ndtr(edges[:-1][across])
    counts = np.zeros(2 * most + 3, dtype=np.int64)
    for start in range(0, draws, CHUNK):
        values = with_exact_noise(np.full(min(CHUNK, draws - start), theta), noise_std=noise_std)
        cells = np.rint(np.ldexp(values, -exponent)).astype(np.int64) - centre
        counts += np.bincount(np.clip(cells + most + 1, 0, 2 * most + 2), minlength=len(counts))
    return counts, np.concatenate([[special.ndtr(edges[0])], chances, [special.ndtr(-edges[-1])]])


def judged(draws: int, noise_std: float, theta: float) -> dict[str, object]:
    counts, chances = counted(draws, noise_std, theta)
    apart = float(np.abs(np.cumsum(counts) / draws - np.cumsum(chances)).max())
    order = np.cumsum(chances * draws) // 50  # neighbours are joined until fifty draws are expected
    joined = np.bincount(order.astype(np.int64), weights=counts), np.bincount(order.astype(np.int64), weights=chances)
    kept = joined[1] * draws > 5
    observed, expected = joined[0][kept], joined[1][kept] * draws
    found = stats.chisquare(observed, expected * observed.sum() / expected.sum())
    return {
        "noise_std": noise_std,
        "parameter": theta,
        "draws": draws,
        "classes": int(kept.sum()),
        "chi-square p": float(found.pvalue),
        "largest difference": apart,
        "KS p": float(stats.kstwobign.sf(apart * np.sqrt(draws))),
    }


def timed(n: int, repeats: int) -> dict[str, object]:
    theta, noise_std = np.random.default_rng(0).standard_normal((1, n)), 0.01
    words = os_words(20 * n + 200)
    cells, progress = np.empty(n, dtype=np.int64), np.zeros(3, dtype=np.int64)
    seconds = timing.measure(
        {
            "exact": lambda: with_exact_noise(theta, noise_std=noise_std),
            "float64": lambda: with_noise(theta, noise_std=noise_std, normals=os_normals),
            "words": lambda: os_words(20 * n + 64),
            "kernel": lambda: backend.HOST.run(
                "rounded_normals", words, theta[0], cells, progress, scale=2**52 + 7, exponent=-19
            ),
        },
        repeats=repeats,
        awake=True,
    )
    return {
        "n": n,
        "exact ms": 1e3 * seconds["exact"],
        "float64 ms": 1e3 * seconds["float64"],
        "ratio": seconds["exact"] / seconds["float64"],
        "words ms": 1e3 * seconds["words"],
        "kernel M/s": n / seconds["kernel"] / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10**8, help="draws of each case")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    law = [judged(options.draws, *case) for case in CASES]
    print(timing.table(law))
    for row in law:
        assert min(row["chi-square p"], row["KS p"]) > 1e-6, "the draws have another law"
    rows = [timed(n, options.repeats) for n in SIZES]
    print(timing.table(rows))
    timing.write_results("noise", rows, law=law)


if __name__ == "__main__":
    main()
