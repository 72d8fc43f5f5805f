"""Gaussian differential privacy, certified: delta, epsilon and mu from one another, rounded outward.

A mechanism is mu-GDP [DRS22, arXiv 1905.02383] if telling P from Q is no easier than telling N(mu, 1) from N(0, 1). Its
privacy profile is ``delta(epsilon) = Phi(-epsilon/mu + mu/2) - e^epsilon Phi(-epsilon/mu - mu/2)`` [BW18, arXiv
1805.06530, theorem 8]. Evaluated with Mills' ratio, so that neither tiny mu nor delta down to 1e-300 loses digits.

Arrays on a CUDA device (float64, of CuPy, PyTorch or JAX) are computed there and come back as arrays of their library.
Values are not validated on the device, to avoid a synchronisation: those out of range give NaN.
"""

from __future__ import annotations

from typing import overload

from numpy.typing import ArrayLike

from expunge.accounting._broadcast import Argument, Float64, elementwise

__all__ = ["gdp_delta", "gdp_epsilon", "gdp_mu"]


@overload
def gdp_delta(mu: float, epsilon: float, *, threads: int | None = None) -> float: ...
@overload
def gdp_delta(mu: ArrayLike, epsilon: ArrayLike, *, threads: int | None = None) -> float | Float64: ...
def gdp_delta(mu: ArrayLike, epsilon: ArrayLike, *, threads: int | None = None) -> float | Float64:
    """Return the delta at which a mu-GDP mechanism is (epsilon, delta)-DP, rounded up.

    Parameters
    ----------
    mu : array_like of float
        GDP parameter, finite and >= 0. Broadcasts with ``epsilon``.
    epsilon : array_like of float
        Finite and >= 0.
    threads : int, optional
        Maximum number of cores; ``EXPUNGE_NUM_THREADS`` or all of them by default.

    Returns
    -------
    float or ndarray of float64
        delta, at least the true value and at most 1; exactly 0 for ``mu = 0``, otherwise positive. It exceeds the
        true value by no more than the rounding error of the computation: a few units in the last place times the
        size of the exponent.

    Raises
    ------
    ValueError
        If an argument is NaN, infinite or negative, or the shapes do not broadcast.

    See Also
    --------
    gdp_epsilon : The same, solved for epsilon.
    gdp_mu : The same, solved for mu.

    Notes
    -----
    [BW18, arXiv 1805.06530], theorem 8. Certified.

    =========================  ======
    Edge case                  Value
    =========================  ======
    ``gdp_delta(0.0, 0.0)``    0.0
    ``gdp_delta(1e308, 1.0)``  1.0
    ``gdp_delta(1.0, 1e308)``  5e-324
    =========================  ======

    Examples
    --------
    >>> from expunge.accounting import gdp_delta
    >>> print(f"{gdp_delta(1.0, 1.0):.6f}")
    0.126937
    >>> gdp_delta([0.0, 1.0], 0.5).shape
    (2,)
    """
    return elementwise("gdp_delta", threads=threads, mu=Argument(mu, low=0.0), epsilon=Argument(epsilon, low=0.0))


@overload
def gdp_epsilon(mu: float, delta: float, *, threads: int | None = None) -> float: ...
@overload
def gdp_epsilon(mu: ArrayLike, delta: ArrayLike, *, threads: int | None = None) -> float | Float64: ...
def gdp_epsilon(mu: ArrayLike, delta: ArrayLike, *, threads: int | None = None) -> float | Float64:
    """Return the epsilon at which a mu-GDP mechanism is (epsilon, delta)-DP, rounded up.

    Parameters
    ----------
    mu : array_like of float
        GDP parameter, finite and >= 0. Broadcasts with ``delta``.
    delta : array_like of float
        Within [0, 1].
    threads : int, optional
        Maximum number of cores; ``EXPUNGE_NUM_THREADS`` or all of them by default.

    Returns
    -------
    float or ndarray of float64
        epsilon with ``gdp_delta(mu, epsilon) <= delta``, however rounded; exactly 0.0 where
        ``gdp_delta(mu, 0) <= delta``; infinite for ``delta = 0`` unless ``mu = 0``.

    Raises
    ------
    ValueError
        If an argument is NaN, infinite or out of range, or the shapes do not broadcast.

    See Also
    --------
    gdp_delta : The profile that is inverted here.
    gdp_mu : The same, solved for mu.

    Notes
    -----
    Inverts [BW18, arXiv 1805.06530], theorem 8, by a safeguarded Newton iteration in log delta. Certified.

    =========================  =====
    Edge case                  Value
    =========================  =====
    ``gdp_epsilon(0.0, 0.0)``  0.0
    ``gdp_epsilon(1.0, 0.0)``  inf
    ``gdp_epsilon(1.0, 0.5)``  0.0
    ``gdp_epsilon(1.0, 1.0)``  0.0
    =========================  =====

    Examples
    --------
    >>> from expunge.accounting import gdp_delta, gdp_epsilon
    >>> epsilon = gdp_epsilon(1.0, 1e-5)
    >>> print(f"{epsilon:.6f}", gdp_delta(1.0, epsilon) <= 1e-5)
    4.377178 True
    """
    return elementwise(
        "gdp_epsilon", threads=threads, mu=Argument(mu, low=0.0), delta=Argument(delta, low=0.0, high=1.0)
    )


@overload
def gdp_mu(epsilon: float, delta: float, *, threads: int | None = None) -> float: ...
@overload
def gdp_mu(epsilon: ArrayLike, delta: ArrayLike, *, threads: int | None = None) -> float | Float64: ...
def gdp_mu(epsilon: ArrayLike, delta: ArrayLike, *, threads: int | None = None) -> float | Float64:
    """Return the largest mu whose mu-GDP mechanisms are (epsilon, delta)-DP, rounded down.

    Parameters
    ----------
    epsilon : array_like of float
        Finite and >= 0. Broadcasts with ``delta``.
    delta : array_like of float
        Within [0, 1].
    threads : int, optional
        Maximum number of cores; ``EXPUNGE_NUM_THREADS`` or all of them by default.

    Returns
    -------
    float or ndarray of float64
        mu with ``gdp_delta(mu, epsilon) <= delta``, however rounded; 0 for ``delta = 0``, infinite for ``delta = 1``.

    Raises
    ------
    ValueError
        If an argument is NaN, infinite or out of range, or the shapes do not broadcast.

    See Also
    --------
    gdp_delta : The profile that is inverted here.
    gdp_epsilon : The same, solved for epsilon.

    Notes
    -----
    Inverts [BW18, arXiv 1805.06530], theorem 8, by a safeguarded Newton iteration in log delta over log mu. Certified.

    ====================  =====
    Edge case             Value
    ====================  =====
    ``gdp_mu(0.0, 0.0)``  0.0
    ``gdp_mu(1.0, 0.0)``  0.0
    ``gdp_mu(1.0, 1.0)``  inf
    ====================  =====

    Examples
    --------
    >>> from expunge.accounting import gdp_delta, gdp_mu
    >>> mu = gdp_mu(1.0, 1e-5)
    >>> print(f"{mu:.6f}", gdp_delta(mu, 1.0) <= 1e-5)
    0.268051 True
    """
    return elementwise(
        "gdp_mu", threads=threads, epsilon=Argument(epsilon, low=0.0), delta=Argument(delta, low=0.0, high=1.0)
    )
