"""Norms of the summed gradients of groups, beside those of single examples and beside gradients that are stored.

Run ``python bench/bench_group_norms.py [--repeats R]``. Linear maps, float32; the groups' norms are held against those
of stored gradients before anything is timed. Groups of one lay the batch out anew, which single norms do not.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.grad_norms import group_grad_norms, linear_grad_norms
from timing import measure, table, write_results

SHAPES = [(1024, 16, 256, 256), (256, 64, 64, 64)]  # examples, positions, inputs, outputs
SIZES = (1, 4, 16, 0)  # of groups; 0 for one of all

Float32 = NDArray[np.float32]


def stored(a: Float32, g: Float32, order: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """Return the norms of groups of one size, a gradient formed for each."""
    shape = len(a) // size, size * a.shape[1]
    A, G = a[order].reshape(*shape, a.shape[2]), g[order].reshape(*shape, g.shape[2])
    squares = [
        np.square(x.T @ y).sum(dtype=np.float64) + np.square(y.sum(0)).sum(dtype=np.float64)
        for x, y in zip(A, G, strict=True)
    ]
    return np.sqrt(squares)


def rows_of(shape: tuple[int, int, int, int], *, repeats: int) -> list[dict[str, Any]]:
    """Return a row for each size of groups."""
    n, positions, inputs, outputs = shape
    rng = np.random.default_rng(n)
    a, g = (rng.normal(size=(n, positions, d)).astype(np.float32) for d in (inputs, outputs))
    rows = []
    for size in SIZES:
        own = size or n
        groups = rng.permutation(np.arange(n) // own)
        order = np.argsort(groups, kind="stable")

        def together(groups: NDArray[np.int64] = groups) -> object:
            return group_grad_norms(a, g, layer="linear", example_groups=groups).norms

        np.testing.assert_allclose(together(), stored(a, g, order, own), rtol=1e-4)
        contenders = {
            "examples": lambda: linear_grad_norms(a, g),
            "groups": together,
            "stored in NumPy": lambda order=order, own=own: stored(a, g, order, own),
        }
        seconds = measure(contenders, repeats=repeats)
        ratio = seconds["groups"] / seconds["examples"]
        times = {f"{name}, ms": 1e3 * value for name, value in seconds.items()}
        rows.append(
            {
                "shape": str(shape),
                "size of groups": own,
                **times,
                "groups / examples": ratio,
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    rows = [row for shape in SHAPES for row in rows_of(shape, repeats=repeats)]
    print(table(rows))
    write_results("group_norms", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
