"""Arithmetic of the claim of a backbone and a certified head together, rounded so that no claim grows.

Given any backbone, all releases of the head within its budget are together mu-GDP against the noisy optima on the
features of that backbone. A private backbone's weights are mu_f-GDP, or have the sampled Gaussian's losses, against
those of a training without the deleted records. So both together are an adaptive composition of the two: Dong, Roth,
Su, arXiv 1905.02383, theorem 3.2; for Renyi divergences, Mironov, arXiv 1702.07476, proposition 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from expunge import _validate
from expunge.accounting import PrivateTraining, gdp_epsilon
from expunge.runs.residual.claim import REFERENCES

__all__ = ["SOURCES", "JointClaim", "joint_claim", "whole_mu"]

# Where a backbone's weights come from -> whether deleted records had a part in them.
SOURCES = {"data-independent": False, "public": False, "private": True}


class JointClaim(NamedTuple):
    """Claim of backbone and head: the GDP parameter, None where there is none, and epsilon at the head's delta."""

    mu: float | None
    epsilon: float


def whole_mu(*, mu: float, releases: int, reference: str = "optimum") -> float:
    """Return the GDP parameter of all releases of a head together, rounded up.

    Parameters
    ----------
    mu : float
        Of one release, > 0.
    releases : int
        Most releases in the life of the head, >= 1.
    reference : {"optimum", "same rule"}
        As in the head's certificate; the second doubles mu.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> round(whole_mu(mu=0.01, releases=100), 12)
    0.1
    """
    one = _validate.number("mu", mu, low=0.0, open_low=True)
    times = REFERENCES[_validate.choice("reference", reference, tuple(REFERENCES))]
    found = one * times * math.sqrt(_validate.count("releases", releases, low=1)) * (1.0 + 2.0**-50)
    return math.nextafter(found, math.inf)


def joint_claim(
    training: PrivateTraining | None,
    *,
    head_epsilon: float,
    delta: float,
    mu: float,
    n_deleted: int,
    accountant: str | None = None,
) -> JointClaim:
    """Return what backbone and head together claim about ``n_deleted`` records of the backbone's training, rounded up.

    Parameters
    ----------
    training : PrivateTraining or None
        Of the backbone; None for one in which no record had a part.
    head_epsilon, delta : float
        Claim of all releases of the head.
    mu : float
        `whole_mu` of the head.
    n_deleted : int
        Records that left the head's data, or were corrected, and that the backbone was trained with; >= 0.
    accountant : {"rdp", "pld"}, optional
        For Poisson batches; that of the training if omitted.

    Returns
    -------
    JointClaim
        Never below the head's; exactly the head's if no record concerns the backbone. With full batches mu is
        ``sqrt((n_deleted mu_f)^2 + mu^2)``.

    Raises
    ------
    ValueError
        If an argument is out of range, or epsilon is not finite.
    ImportError
        For the accountant "pld", if dp-accounting is not installed.

    Notes
    -----
    A corrected record counts as one that left: the comparison is with a backbone that never saw its old content, nor
    its new one. Against one that was trained with the new content it counts twice.

    Examples
    --------
    >>> from expunge.runs.network import PrivateTraining, joint_claim
    >>> full = PrivateTraining(clip=1.0, noise_multiplier=25.0, sampling_probability=1.0, n_steps=100,
    ...                        accountant="gdp", room=1e-3, seeded=False)
    >>> head = {"head_epsilon": 1.2, "delta": 1e-5, "mu": 0.3}
    >>> print(f"{joint_claim(full, n_deleted=1, **head).mu:.6f}", joint_claim(full, n_deleted=0, **head).epsilon)
    0.500000 1.2
    """
    least = _validate.number("head_epsilon", head_epsilon, low=0.0)
    goal = _validate.number("delta", delta, low=0.0, high=1.0, open_low=True, open_high=True)
    own = _validate.number("mu", mu, low=0.0)
    size = _validate.count("n_deleted", n_deleted)
    if training is None or size == 0:
        return JointClaim(own, least)
    if training.sampling_probability == 1.0:
        whole = training.mu(mu=own, group_size=size)
        return JointClaim(whole, _finite(max(least, float(gdp_epsilon(whole, goal))), size))
    found = training.epsilon(delta=goal, mu=own, group_size=size, accountant=accountant)
    return JointClaim(None, _finite(max(least, found), size))


def _finite(epsilon: float, size: int) -> float:
    if not math.isfinite(epsilon):
        raise ValueError(
            f"n_deleted must leave a finite epsilon, got {size}: train a new backbone without the records that left, "
            "or ask for a larger delta"
        )
    return epsilon
