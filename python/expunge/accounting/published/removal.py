"""Certified removal [GGHM20, arXiv 1911.03030]: the residual that perturbed learning hides, and that of a step."""

from __future__ import annotations

import math

from expunge._validate import count, number
from expunge.accounting.gdp import gdp_mu
from expunge.accounting.published.form import PublishedForm

__all__ = ["removal_budget", "removal_residual"]

_SOURCE = "[GGHM20, arXiv 1911.03030], Guo et al. 2020"
_ADJACENCY = "removal of the records of the step"


def removal_budget(*, sigma: float, epsilon: float, delta: float) -> PublishedForm:
    """Return the published gradient residual that learning with a perturbed objective hides.

    Parameters
    ----------
    sigma : float
        Standard deviation of the linear term ``b^T theta`` that is added to the objective, >= 0.
    epsilon, delta : float
        Target, > 0 and within (0, 1).

    Returns
    -------
    PublishedForm
        ``value``: ``sigma epsilon / c`` with ``delta = 1.5 exp(-c^2 / 2)``; ``certified``: ``sigma gdp_mu(epsilon,
        delta)``, the exact answer of the Gaussian mechanism.

    Raises
    ------
    TypeError
        If an argument is not a number.
    ValueError
        If an argument is NaN or out of range.

    Notes
    -----
    [GGHM20, arXiv 1911.03030], theorem 3. For epsilon above 1 the published form is not proved.

    Examples
    --------
    >>> from expunge.accounting import published
    >>> found = published.removal_budget(sigma=10.0, epsilon=1.0, delta=1e-4)
    >>> round(found.value, 5), round(found.certified, 5)
    (2.2803, 3.13902)
    """
    noise = number("sigma", sigma, low=0.0)
    goal = number("epsilon", epsilon, low=0.0, open_low=True)
    share = number("delta", delta, low=0.0, high=1.0, open_low=True, open_high=True)
    return PublishedForm(
        value=noise * goal / math.sqrt(2.0 * math.log(1.5 / share)),
        certified=math.nextafter(noise * float(gdp_mu(goal, share)), 0.0) if noise > 0.0 else 0.0,
        order=None,
        source=_SOURCE,
        adjacency=_ADJACENCY,
        caveat="The published code never adds delta up, and takes the spectral norm below from 20 power iterations, "
        "a lower estimate.",
    )


def removal_residual(*, n_removed: int, removed_norm: float, data_norm: float) -> PublishedForm:
    """Return the published bound on the gradient's norm after one Newton step of a logistic model.

    Parameters
    ----------
    n_removed : int
        Records that are removed together, at least 1.
    removed_norm : float
        ``|X D|``: norm of the remaining features times the step, >= 0.
    data_norm : float
        Spectral norm ``|X|_2`` of the remaining features, >= 0, no estimate from below.

    Returns
    -------
    PublishedForm
        ``value``: ``1/4 n_removed removed_norm data_norm``; ``certified`` is None, for the bound rests on what the
        caller measured.

    Raises
    ------
    TypeError, ValueError
        As `removal_budget`.

    Notes
    -----
    [GGHM20, arXiv 1911.03030], corollary 2, for records of norm at most 1: ``1/4 |D| |X D| |X|_2``. A gradient
    computed on the data (`expunge.runs.residual.gradient_sums`) costs one pass and needs no such bound.

    Examples
    --------
    >>> from expunge.accounting import published
    >>> published.removal_residual(n_removed=2, removed_norm=0.5, data_norm=8.0).value
    2.0
    """
    removed = count("n_removed", n_removed, low=1)
    moved = number("removed_norm", removed_norm, low=0.0)
    size = number("data_norm", data_norm, low=0.0)
    return PublishedForm(
        value=0.25 * removed * moved * size,
        certified=None,
        order=None,
        source=_SOURCE,
        adjacency=_ADJACENCY,
        caveat="The published code estimates the spectral norm from below, and subtracts a record's share of a shared "
        "matrix once per class where there are several.",
    )
