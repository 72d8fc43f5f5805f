"""Standard normals of releases: fresh ones of the operating system, or reproducible ones."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special

from expunge.langevin import standard_normals

__all__ = ["Normals", "os_normals", "seeded_normals"]

Array = NDArray[np.float64]

Normals = Callable[[int, tuple[int, int]], Array]


def os_normals(step: int, shape: tuple[int, int]) -> Array:
    """Return standard normals drawn from the operating system's randomness; nothing is kept to redraw them from."""
    bits = np.frombuffer(os.urandom(8 * shape[0] * shape[1]), dtype="<u8")
    # Midpoints of 2^53 equal cells: symmetric, never 0 or 1.
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.asarray(special.ndtri(uniform), dtype=np.float64).reshape(shape)


def seeded_normals(seed: int) -> Normals:
    """Return a source of reproducible normals: the counter-based ones of chain 0 of the Langevin kernels."""

    def draw(step: int, shape: tuple[int, int]) -> Array:
        # The kernels number the noise of a chain output by output.
        numbers = standard_normals((shape[1], shape[0]), seed=seed, chain=0, step=step)
        return np.asarray(numbers.T, dtype=np.float64)

    return draw
