"""Cost of clipping: what a bound by shifted interpolation pays for sensitivities that hold with high probability.

The run is compared with one whose steps are clipped at the bounds on the deleted records' residuals. The two agree
except with probability delta_s, which costs delta_s in one direction and e^epsilon delta_s in the other ([BAC26]
section 3, repaired).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.accounting.gdp import gdp_delta

__all__ = ["clipped_deltas", "least_epsilon", "left_of_delta", "residual_failure"]

Array = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)
# Beyond it e^epsilon times any delta_s that float64 knows is above 1.
_LARGEST_EXPONENT = 700.0


def residual_failure(delta: float) -> float:
    """Return delta_s, the probability with which bounds on residuals may fail: a tenth of delta, so e^epsilon < 10.

    A larger share leaves nothing for the noise at a smaller epsilon. A smaller one gains little: what is left of delta
    hardly grows any more, while the residuals' quantiles grow with the root of log(1/delta_s).

    Parameters
    ----------
    delta : float
        Target of a deletion, in (0, 1).

    Examples
    --------
    >>> residual_failure(1e-4)
    1e-05
    """
    return delta / 10.0


def left_of_delta(delta: float, epsilon: ArrayLike, *, headroom: float = 8.0 * _EPS) -> Array:
    """Return what is left of delta at each epsilon once clipping is paid for, rounded down; at most 0 if nothing is.

    Parameters
    ----------
    delta : float
        Target, in (0, 1), of which ``headroom`` (relative) is kept back.
    epsilon : array_like of float
        At least 0.

    Examples
    --------
    >>> left_of_delta(1e-4, [0.0, 1.0, 3.0]) > 0
    array([ True,  True, False])
    """
    exponent = np.minimum(np.asarray(epsilon, dtype=np.float64), _LARGEST_EXPONENT)
    # Where something is left, what is taken away is below delta, and so are its roundings below those kept back.
    return np.asarray(delta * (1.0 - headroom) - np.exp(exponent) * residual_failure(delta))


def clipped_deltas(mu: ArrayLike, epsilon: ArrayLike, *, failure: float) -> tuple[Array, Array]:
    """Return both deltas of a clipped run that is mu-GDP, the failure of its bounds included, rounded up, at most 1.

    Parameters
    ----------
    mu, epsilon : array_like of float
        At least 0; infinite where there is no bound, and then both deltas are 1.
    failure : float
        delta_s.

    Returns
    -------
    delta_pq, delta_qp : ndarray of float64

    Examples
    --------
    >>> forth, back = clipped_deltas(0.2, 1.0, failure=1e-6)
    >>> bool(forth < back < 1e-5)
    True
    """
    mu, epsilon = np.broadcast_arrays(np.asarray(mu, dtype=np.float64), np.asarray(epsilon, dtype=np.float64))
    base = np.ones(mu.shape)
    finite = np.isfinite(mu) & np.isfinite(epsilon)
    base[finite] = gdp_delta(mu[finite], epsilon[finite])
    # e^epsilon within one unit in the last place.
    grown = np.exp(np.minimum(epsilon, _LARGEST_EXPONENT)) * (1.0 + 4.0 * _EPS) * failure
    grown = np.where(epsilon < _LARGEST_EXPONENT, grown, 1.0)
    forth, back = (np.minimum(np.nextafter(base + part, np.inf), 1.0) for part in (failure, grown))
    return forth, back


def least_epsilon(mu: ArrayLike, delta: float, *, at_most: float) -> Array:
    """Return an epsilon up to ``at_most`` for each mu at which the larger of both deltas is at most delta.

    Close to the least, by bisection; ``at_most`` itself where no smaller one is enough.

    Parameters
    ----------
    mu : array_like of float
        GDP parameters of clipped runs, finite.
    delta : float
        Target, in (0, 1).
    at_most : float
        Known to be enough.

    Examples
    --------
    >>> epsilon = float(least_epsilon(0.2, 1e-5, at_most=2.0))
    >>> max(map(float, clipped_deltas(0.2, epsilon, failure=1e-6))) <= 1e-5
    True
    """
    mu = np.asarray(mu, dtype=np.float64)

    def enough(epsilon: Array) -> NDArray[np.bool_]:
        return np.asarray(gdp_delta(mu, epsilon) <= left_of_delta(delta, epsilon))

    low, high = np.zeros(mu.shape), np.full(mu.shape, float(at_most))
    for _ in range(60):
        middle = 0.5 * (low + high)
        found = enough(middle)
        low, high = np.where(found, low, middle), np.where(found, middle, high)
    return np.where(enough(np.zeros(mu.shape)), 0.0, high)
