"""Noise of steps and releases: standard normals, exact or reproducible ones, and parameters that carry them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from expunge.langevin import standard_normals
from expunge.runs.exact_noise import CELLS, exact_normals, grid_exponent

__all__ = ["Normals", "os_normals", "seeded_normals", "with_noise"]

Array = NDArray[np.float64]

Normals = Callable[[int, tuple[int, int]], Array]

_MOST_CELLS = 2.0**51  # from 0 to a parameter, so that neither it nor its noise leaves the whole numbers of float64


def os_normals(step: int, shape: tuple[int, int]) -> Array:
    """Return exact standard normals, rounded to float64, drawn from the operating system's random words.

    Parameters
    ----------
    step : int
        Not used: nothing is kept to draw them again from.
    shape : (int, int)
        Of the result.

    Returns
    -------
    ndarray of float64
        Each is the float64 nearest to an exact standard normal, and independent of the others (`exact_normals`).
    """
    hi, _ = exact_normals(shape[0] * shape[1])
    return hi.reshape(shape)


def with_noise(theta: Array, *, noise_std: float, normals: Normals) -> Array:
    """Return parameters with noise, rounded to a grid that follows from ``noise_std`` alone.

    Parameters
    ----------
    theta : ndarray of float64, shape (q, p)
        Parameters without noise.
    noise_std : float
        Standard deviation of the noise, > 0.
    normals : callable
        Source of the noise.

    Returns
    -------
    ndarray of float64, shape (q, p)
        Multiples of a power of two between ``noise_std / 8192`` and ``noise_std / 4096``.

    Raises
    ------
    ValueError
        If float64 does not hold so little noise, or not beside so large parameters.

    Notes
    -----
    The float64 nearest to ``theta + noise_std xi`` tells theta by its last bits: xi is one of finitely many numbers,
    and where their distance exceeds that of the sum's neighbours, few sums can come from a given theta (I. Mironov, *On
    significance of the least significant bits for differential privacy*, CCS 2012). Rounding to a grid far coarser than
    both is computed from the noisy sum alone, so that the claim for the sum holds for it, and every point of the grid
    is one that any theta nearby could have come to. The sum of a parameter's offset in its cell and the noise is
    rounded at 2^-37 of a cell, however large the parameter.

    Examples
    --------
    >>> import numpy as np
    >>> noisy = with_noise(np.full((1, 2), 1 / 3), noise_std=0.25, normals=lambda step, shape: np.ones(shape))
    >>> (noisy * 2**14).tolist()
    [[9557.0, 9557.0]]
    """
    exponent = grid_exponent(noise_std)
    with np.errstate(over="ignore"):  # what overflows is refused
        cells = np.ldexp(theta, -exponent)
        whole = np.rint(cells)
        if not np.abs(whole).max(initial=0.0) <= _MOST_CELLS:
            least = 1.01 * float(np.abs(theta).max()) * 2.0 ** (CELLS + 1) / _MOST_CELLS
            raise ValueError(
                f"noise_std must be at least {least:.3g} for float64 to hold it beside parameters of these data, got "
                f"{noise_std!r}"
            )
        moved = np.rint((cells - whole) + float(np.ldexp(noise_std, -exponent)) * normals(0, theta.shape))
        return np.asarray(np.ldexp(whole + moved, exponent))


def seeded_normals(seed: int) -> Normals:
    """Return a source of reproducible normals: the counter-based ones of chain 0 of the Langevin kernels."""

    def draw(step: int, shape: tuple[int, int]) -> Array:
        # The kernels number the noise of a chain output by output.
        numbers = standard_normals((shape[1], shape[0]), seed=seed, chain=0, step=step)
        return np.asarray(numbers.T, dtype=np.float64)

    return draw
