"""Random cosine features: a map that is fixed before any data is seen."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._validate import count, number, real_array

__all__ = ["random_cosine_features"]

# Rows of every matrix product: one shape for a map, so that the features of a row have the same bits in any company.
_LEAST, _MOST = 32, 256
_TILE_NUMBERS = 2**20
# Columns of wide products, a multiple of these: in the last few of others, a row's bits depend on its place.
_WIDE, _COLUMNS = 192, 32


def random_cosine_features(X: ArrayLike, *, n_features: int, scale: float, seed: int) -> NDArray[np.float64]:
    """Return sqrt(2/m) cos(X W + b): random Fourier features of a Gaussian kernel, fixed before any data is seen.

    W is drawn from N(0, scale^2) and b uniformly on [0, 2 pi), both from ``seed`` alone, so the features of one record
    never depend on another, as a certificate of deletion needs. Rahimi, Recht, *Random features for large-scale kernel
    machines*, NIPS 2007.

    Parameters
    ----------
    X : array-like of shape (n, d)
        Records, finite.
    n_features : int
        m, >= 1.
    scale : float
        Standard deviation of W's entries, > 0: the inverse width of the kernel.
    seed : int
        In [0, 2^32). The same seed gives the same W and b with every version of NumPy. On one machine the features of
        a row have the same bits whatever rows come with it. They may differ in their last bits between machines (matrix
        products do), so keep the features themselves for a certificate that is to be checked elsewhere.

    Returns
    -------
    ndarray of shape (n, n_features), float64
        Each entry within [-sqrt(2/m), sqrt(2/m)]. An empty X gives no rows.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of range.

    Examples
    --------
    >>> import numpy as np
    >>> features = random_cosine_features(np.eye(3), n_features=8, scale=0.5, seed=0)
    >>> features.shape, bool(abs(features).max() <= 0.5)
    ((3, 8), True)
    """
    X = real_array("X", X, ndim=2)
    m = count("n_features", n_features, low=1)
    scale = number("scale", scale, low=0, open_low=True)
    seed = count("seed", seed)
    if seed >= 2**32:
        raise ValueError(f"seed must be < 2^32, got {seed}")
    weights, phases = _drawn(X.shape[1], m, scale, seed)
    limit = math.sqrt(2 / m)
    features = np.empty((len(X), m))
    tile = min(max(1 << (_TILE_NUMBERS // m).bit_length() >> 1, _LEAST), _MOST)
    if m > _WIDE:
        weights = np.pad(weights, ((0, 0), (0, -m % _COLUMNS)))
    for start in range(0, len(X), tile):
        rows = X[start : start + tile]
        if (n := len(rows)) < tile:
            rows = np.vstack([rows, np.zeros((tile - n, X.shape[1]))])
        features[start : start + n] = limit * np.cos((rows @ weights)[:, :m] + phases)[:n]
    return features


@lru_cache(maxsize=2)
def _drawn(n_columns: int, m: int, scale: float, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return W and b, which tables that are read in blocks need for each block."""
    # The legacy generator is the one whose stream NumPy promises never to change.
    random = np.random.RandomState(seed)
    weights = scale * random.standard_normal((n_columns, m))
    phases = random.uniform(0.0, 2 * math.pi, m)
    return weights, phases
