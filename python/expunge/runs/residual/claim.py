"""Arithmetic of a claim by residual: the mu of one release, the residual it allows, and whether a release is plausible.

Everything is rounded so that no claim grows: a mu and an allowance downward, an epsilon upward.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from expunge import _validate
from expunge.accounting.gdp import gdp_epsilon, gdp_mu

__all__ = [
    "REFERENCES",
    "BeforeAfter",
    "before_after",
    "mu_fits",
    "release_mu",
    "release_p_value",
    "residual_allowance",
]

# What the released model cannot be told from -> how many residuals lie between the two.
REFERENCES = {"optimum": 1, "same rule": 2}


class BeforeAfter(NamedTuple):
    """Guarantee against whoever saw the model before and after: mu and its epsilon, at the claim's delta."""

    mu: float
    epsilon: float


def mu_fits(mu: float, *, epsilon: float, delta: float, releases: int, reference: str = "optimum") -> bool:
    """Return whether ``releases`` releases of ``mu`` each are jointly (epsilon, delta)-indistinguishable, exactly.

    Parameters
    ----------
    mu : float
        Residual of one release in units of ``alpha * noise_std``.
    epsilon, delta : float
        What is claimed; delta in (0, 1).
    releases : int
        Most releases in the life of a model.
    reference : {"optimum", "same rule"}, default "optimum"
        Against the noisy optimum, or against a model that itself only reached such a residual, which doubles mu.

    Returns
    -------
    bool
        False for a mu that is 0, negative, infinite or NaN.

    Examples
    --------
    >>> [mu_fits(mu, epsilon=1.0, delta=1e-5, releases=10_000) for mu in (0.0026, 0.0027)]
    [True, False]
    """
    if not (mu > 0 and math.isfinite(mu)):
        return False
    whole = _whole_mu(epsilon, delta)
    times = REFERENCES[_validate.choice("reference", reference, tuple(REFERENCES))]
    return Fraction(mu) ** 2 * times**2 * _validate.count("releases", releases, low=1) <= Fraction(whole) ** 2


def release_mu(*, epsilon: float, delta: float, releases: int, reference: str = "optimum") -> float:
    """Return the mu of one of ``releases`` equal releases that are jointly (epsilon, delta), rounded down.

    Raises
    ------
    ValueError
        If epsilon is negative, delta is outside (0, 1), there is no release, or the budget is too small for float64.

    Notes
    -----
    ``sum mu_t^2 <= gdp_mu(epsilon, delta)^2`` [ST22, arXiv 2210.17520]. Certified.

    Examples
    --------
    >>> print(f"{release_mu(epsilon=1.0, delta=1e-5, releases=10_000):.8f}")
    0.00268051
    """
    times = REFERENCES[_validate.choice("reference", reference, tuple(REFERENCES))]
    if _validate.count("releases", releases, low=1) > 2**48:
        raise ValueError(f"releases must be at most 2**48, got {releases}")
    mu = _whole_mu(epsilon, delta) / math.sqrt(releases) / times
    while mu > 0 and not mu_fits(mu, epsilon=epsilon, delta=delta, releases=releases, reference=reference):
        mu = math.nextafter(mu, 0.0)
    if not mu > 0:
        raise ValueError(f"delta must leave something for each of {releases} releases, got {delta!r}")
    return mu


@lru_cache(maxsize=256)
def _whole_mu(epsilon: float, delta: float) -> float:
    epsilon = _validate.number("epsilon", epsilon, low=0.0)
    delta = _validate.number("delta", delta, low=0.0, high=1.0, open_low=True, open_high=True)
    return min(float(gdp_mu(epsilon, delta)), math.nextafter(math.inf, 0.0))


def residual_allowance(*, alpha: float, noise_std: float, mu: float) -> float:
    """Return ``alpha * noise_std * mu`` rounded down: the largest norm of a gradient that a release may have.

    Raises
    ------
    ValueError
        If a factor is not positive and finite.

    Examples
    --------
    >>> residual_allowance(alpha=2.0, noise_std=0.5, mu=0.25)
    0.25
    """
    exact = Fraction(1)
    for name, value in (("alpha", alpha), ("noise_std", noise_std), ("mu", mu)):
        exact *= Fraction(_validate.number(name, value, low=0.0, open_low=True))
    try:
        nearest = float(exact)
    except OverflowError:
        return math.nextafter(math.inf, 0.0)
    return nearest if Fraction(nearest) <= exact else math.nextafter(nearest, 0.0)


def release_p_value(released: ArrayLike, theta: ArrayLike, *, noise_std: float) -> float:
    """Return the two-sided p-value of released parameters as ``theta`` plus noise, by the length of their difference.

    Parameters
    ----------
    released, theta : array_like of float64, of one shape
        The parameters with and without noise.
    noise_std : float
        Standard deviation of the noise in each coordinate, > 0.

    Returns
    -------
    float
        Uniform on (0, 1) for an honest release: the squared length in units of the noise is chi-squared with as many
        degrees of freedom as there are parameters. Near 0 for too little noise and for too much.

    Raises
    ------
    ValueError
        If the shapes differ, a value is not finite, or ``noise_std`` is not positive.

    Examples
    --------
    >>> round(release_p_value([0.0, 1.0], [0.0, 0.0], noise_std=1.0), 3)
    0.787
    """
    noisy, centre = _validate.real_array("released", released), _validate.real_array("theta", theta)
    if noisy.shape != centre.shape:
        raise ValueError(f"released must have the shape of theta, {centre.shape}, got {noisy.shape}")
    std = _validate.number("noise_std", noise_std, low=0.0, open_low=True)
    with np.errstate(over="ignore", invalid="ignore"):
        length = float(np.square((noisy - centre) / std).sum())
    if not math.isfinite(length):  # differences that overflow are no evidence
        return 0.0
    tails = float(special.chdtr(noisy.size, length)), float(special.chdtrc(noisy.size, length))
    return min(2.0 * min(tails), 1.0)


def before_after(*, distance: float, noise_std: float, mu: float, delta: float) -> BeforeAfter:
    """Return the guarantee against whoever saw one release before the change and one after it, rounded up.

    Parameters
    ----------
    distance : float
        At least the distance between the optima before and after.
    noise_std : float
        Standard deviation of the noise of both releases, > 0.
    mu : float
        Of the release after the change.
    delta : float
        In (0, 1).

    Notes
    -----
    ``mu = sqrt((distance / noise_std)^2 + mu^2)``. Certified, if the distance is an upper bound.

    Examples
    --------
    >>> found = before_after(distance=0.1, noise_std=0.1, mu=0.0, delta=1e-5)
    >>> print(f"{found.mu:.6f} {found.epsilon:.4f}")
    1.000000 4.3772
    """
    shift = _validate.number("distance", distance, low=0.0, allow_infinite=True) / _validate.number(
        "noise_std", noise_std, low=0.0, open_low=True
    )
    if distance > 0:
        shift = math.nextafter(shift, math.inf)  # a quotient that vanishes is not 0
    own = _validate.number("mu", mu, low=0.0)
    _validate.number("delta", delta, low=0.0, high=1.0, open_low=True, open_high=True)
    joint = math.hypot(shift, own) * (1.0 + 2.0**-50)  # three roundings
    if joint > 0:
        joint = math.nextafter(joint, math.inf)  # the factor does nothing to the smallest numbers
    if not math.isfinite(joint):
        return BeforeAfter(math.inf, math.inf)
    return BeforeAfter(joint, float(gdp_epsilon(joint, delta)))
