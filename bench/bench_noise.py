"""Noise of releases and of steps: whether it has the law it should have, and what it costs beside noise of float64.

Run ``python bench/bench_noise.py [--draws N] [--repeats R]``. The draws are released numbers around several parameters
and noises, then exact normals; the counts of their cells are held against the exact chances of a rounded normal, by
chi-square and by the largest difference of the distribution functions (Kolmogorov-Smirnov, whose p-value errs upward
for cells). Normals are pairs of float64 numbers: the second, in units of the first one's last place, has to be uniform.
Then a release and the normals of a step are timed beside their likes in float64, the kernels by themselves, and the
steps of a Langevin run with either noise.
"""

from __future__ import annotations

import argparse
import os

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

import timing
from expunge._kernels import backend
from expunge.runs.exact_noise import exact_normals, grid_exponent, os_words, with_exact_noise
from expunge.runs.noise import Normals, os_normals, with_noise
from expunge.runs.ridge.dynamics import NormalEquations
from expunge.runs.ridge.law import Phase

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

CASES = [(1.0, 0.0), (0.7, 0.3), (1e-8, 1e-3)]  # noise, parameter
CHUNK = 1 << 20
REACH = 8  # standard deviations; what lies beyond is counted together
PARTS = 4096  # of a standard deviation, or of a last place: the cells of normals
SIZES = [100, 10_000, 1_000_000]
RUNS = [(64, 1, 300), (256, 10, 300)]  # parameters, outputs, steps


def chances_between(edges: Array) -> Array:
    """Return a standard normal's chances to be below all edges, between neighbours, and above all."""
    below = special.ndtr(np.minimum(edges, 0)), special.ndtr(-np.maximum(edges, 0))
    chances = np.where(edges[1:] <= 0, np.diff(below[0]), -np.diff(below[1]))
    across = (edges[:-1] < 0) & (edges[1:] > 0)
    chances[across] = special.ndtr(edges[1:][across]) - special.ndtr(edges[:-1][across])
    return np.concatenate([[special.ndtr(edges[0])], chances, [special.ndtr(-edges[-1])]])


def counted(draws: int, noise_std: float, theta: float) -> tuple[Counts, Array]:
    """Return how often each cell within reach came, those beyond on either side together, and its exact chance."""
    exponent = grid_exponent(noise_std)
    step = 2.0**exponent
    most = int(REACH * noise_std / step)
    centre = round(theta / step)
    edges = (np.arange(-most, most + 2) - 0.5 + (centre - theta / step)) * (step / noise_std)
    counts = np.zeros(2 * most + 3, dtype=np.int64)
    for start in range(0, draws, CHUNK):
        values = with_exact_noise(np.full(min(CHUNK, draws - start), theta), noise_std=noise_std)
        cells = np.rint(np.ldexp(values, -exponent)).astype(np.int64) - centre
        counts += np.bincount(np.clip(cells + most + 1, 0, 2 * most + 2), minlength=len(counts))
    return counts, chances_between(edges)


def counted_normals(draws: int) -> tuple[Counts, Array, Counts, Array]:
    """Return the same of the first numbers of normals, and of the second in units of the first one's last place."""
    most = REACH * PARTS
    counts, left = np.zeros(2 * most + 2, dtype=np.int64), np.zeros(PARTS, dtype=np.int64)
    for start in range(0, draws, CHUNK):
        hi, lo = exact_normals(min(CHUNK, draws - start))
        cells = np.floor(hi * PARTS).astype(np.int64)
        counts += np.bincount(np.clip(cells + most + 1, 0, 2 * most + 1), minlength=len(counts))
        parts = np.floor((lo / np.spacing(np.abs(hi)) + 0.5) * PARTS).astype(np.int64)
        left += np.bincount(np.clip(parts, 0, PARTS - 1), minlength=PARTS)
    return counts, chances_between(np.arange(-most, most + 1) / PARTS), left, np.full(PARTS, 1 / PARTS)


def judged(counts: Counts, chances: Array, **case: object) -> dict[str, object]:
    draws = int(counts.sum())
    apart = float(np.abs(np.cumsum(counts) / draws - np.cumsum(chances)).max())
    order = np.cumsum(chances * draws) // 50  # neighbours are joined until fifty draws are expected
    joined = np.bincount(order.astype(np.int64), weights=counts), np.bincount(order.astype(np.int64), weights=chances)
    kept = joined[1] * draws > 5
    observed, expected = joined[0][kept], joined[1][kept] * draws
    found = stats.chisquare(observed, expected * observed.sum() / expected.sum())
    return {
        **case,
        "draws": draws,
        "classes": int(kept.sum()),
        "chi-square p": float(found.pvalue),
        "largest difference": apart,
        "KS p": float(stats.kstwobign.sf(apart * np.sqrt(draws))),
    }


def float64_normals(step: int, shape: tuple[int, int]) -> Array:
    """Return normals as programs usually draw them: the inverse distribution function of 53 random bits."""
    bits = np.frombuffer(os.urandom(8 * shape[0] * shape[1]), dtype="<u8") >> np.uint64(11)
    return np.asarray(special.ndtri((bits + 0.5) * 2.0**-53)).reshape(shape)


def timed(n: int, repeats: int) -> dict[str, object]:
    theta, noise_std = np.random.default_rng(0).standard_normal((1, n)), 0.01
    words = os_words(21 * n + 400)
    cells, progress = np.empty(n, dtype=np.int64), np.zeros(3, dtype=np.int64)
    hi, lo = np.empty(n), np.empty(n)
    seconds = timing.measure(
        {
            "exact": lambda: with_exact_noise(theta, noise_std=noise_std),
            "float64": lambda: with_noise(theta, noise_std=noise_std, normals=float64_normals),
            "normals": lambda: exact_normals(n),
            "float64 normals": lambda: float64_normals(0, (1, n)),
            "words": lambda: os_words(20 * n + 64),
            "kernel": lambda: backend.HOST.run(
                "rounded_normals", words, theta[0], cells, progress, scale=2**52 + 7, exponent=-19
            ),
            "kernel of normals": lambda: backend.HOST.run("exact_normals", words, hi, lo, progress),
        },
        repeats=repeats,
        awake=True,
    )
    assert progress[0] > 0.9 * n, "the kernel ended early"
    return {
        "n": n,
        "exact ms": 1e3 * seconds["exact"],
        "float64 ms": 1e3 * seconds["float64"],
        "ratio": seconds["exact"] / seconds["float64"],
        "normals ms": 1e3 * seconds["normals"],
        "float64 normals ms": 1e3 * seconds["float64 normals"],
        "words ms": 1e3 * seconds["words"],
        "kernel M/s": n / seconds["kernel"] / 1e6,
        "kernel of normals M/s": n / seconds["kernel of normals"] / 1e6,
    }


def timed_steps(p: int, q: int, n_steps: int, repeats: int) -> dict[str, object]:
    """Time the steps of a Langevin run, by the source of their noise."""
    rng = np.random.default_rng(0)
    design = rng.standard_normal((4 * p, p)) / p
    equations = NormalEquations.of(design, rng.standard_normal((4 * p, q)), alpha=1.0)

    def steps(noise_std: float, normals: Normals) -> Array:
        phase = Phase(n_steps, noise_std)
        return equations.steps(np.zeros((p, q)), step_size=0.1, phase=phase, normals=normals)

    seconds = timing.measure(
        {
            "exact": lambda: steps(0.01, os_normals),
            "float64": lambda: steps(0.01, float64_normals),
            "none": lambda: steps(0.0, os_normals),
        },
        repeats=repeats,
        awake=True,
    )
    return {"p": p, "q": q, "steps": n_steps} | {f"{name} ms": 1e3 * value for name, value in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10**8, help="draws of each case")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    law = [
        judged(*counted(options.draws, noise_std, theta), noise_std=noise_std, parameter=theta)
        for noise_std, theta in CASES
    ]
    print(timing.table(law))
    counts, chances, left, equal = counted_normals(options.draws)
    normals = [judged(counts, chances, of="hi"), judged(left, equal, of="lo")]
    print(timing.table(normals))
    for row in law + normals:
        assert min(row["chi-square p"], row["KS p"]) > 1e-6, "the draws have another law"
    rows = [timed(n, options.repeats) for n in SIZES]
    print(timing.table(rows))
    steps = [timed_steps(*run, options.repeats) for run in RUNS]
    print(timing.table(steps))
    timing.write_results("noise", rows, law=law, normals=normals, steps=steps)


if __name__ == "__main__":
    main()
