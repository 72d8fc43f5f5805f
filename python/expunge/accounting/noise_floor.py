"""The floor for noise: below it, float64 loses the noise at the size of the parameters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["RESOLUTION", "noise_floor"]

# 2^23 grid points of float64 to a standard deviation: noise this small is still drawn, added and kept as intended.
RESOLUTION = 2.0**-30


def noise_floor(*parameters: NDArray[np.float64]) -> float:
    """Return the smallest noise standard deviation that float64 keeps at the size of these parameters.

    Parameters
    ----------
    *parameters : ndarray of float64
        Parameters that the noise is added to (noise-free, so that whoever holds the data can recompute the floor).

    Returns
    -------
    float
        2^-30 of the largest absolute entry; 0 if all are 0.

    Raises
    ------
    ValueError
        If a parameter is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> noise_floor(np.array([0.5, -2.0])) == 2.0**-29
    True
    """
    # NumPy's maximum of all, which is NaN if one is; Python's drops a NaN that does not come first.
    largest = float(np.max([np.abs(block).max(initial=0.0) for block in parameters], initial=0.0))
    if not np.isfinite(largest):
        raise ValueError(f"parameters must be finite, got {largest}")
    return RESOLUTION * largest
