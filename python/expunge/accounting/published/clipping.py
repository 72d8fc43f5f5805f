"""Noisy clipped fine-tuning [K25, ICML 2025]: the noise as published, and the epsilon that its code prints."""

from __future__ import annotations

import math

from expunge._validate import count, number
from expunge.accounting import clipped
from expunge.accounting.gdp import gdp_epsilon
from expunge.accounting.published.form import PublishedForm

__all__ = ["noisy_clipping_epsilon", "noisy_clipping_sigma"]

_SOURCE = "[K25] Koloskova et al., Certified unlearning for neural networks, ICML 2025"
_ADJACENCY = "any two starts within the initial bound"


def noisy_clipping_epsilon(*, renyi_target: float, delta: float, weight_decay: bool = True) -> PublishedForm:
    """Return the epsilon that the published code prints for a Renyi target, and the one that holds.

    Parameters
    ----------
    renyi_target : float
        Target rho that the noise was chosen for, > 0.
    delta : float
        Within (0, 1).
    weight_decay : bool, default True
        Whether the noise is that with weight decay or that without: they differ by a factor 2 in the squared mu.

    Returns
    -------
    PublishedForm
        ``value``: epsilon as printed, at order 1000; ``certified``: epsilon of exact Gaussian DP.

    Raises
    ------
    TypeError
        If an argument is not a number.
    ValueError
        If an argument is NaN or out of range.

    Notes
    -----
    The noise of `noisy_clipping_sigma` gives ``mu^2 = 2 rho`` with weight decay and ``4 rho`` without, a Renyi
    divergence of ``a rho`` at order a. The code takes rho for the divergence at every order and converts it at order
    1000 [CKS20, arXiv 2004.00010].

    Examples
    --------
    >>> from expunge.accounting import published
    >>> found = published.noisy_clipping_epsilon(renyi_target=1.0, delta=1e-5)
    >>> round(found.value, 3), round(found.certified, 3)
    (1.004, 6.573)
    """
    rho = number("renyi_target", renyi_target, low=0.0, open_low=True)
    share = number("delta", delta, low=0.0, high=1.0, open_low=True, open_high=True)
    mu = math.nextafter(math.sqrt((2.0 if weight_decay else 4.0) * rho) * (1.0 + 1e-15), math.inf)
    order = 1000.0
    printed = rho + math.log1p(-1.0 / order) - (math.log(share) + math.log(order)) / (order - 1.0)
    return PublishedForm(
        value=printed,
        certified=float(gdp_epsilon(mu, share)),
        order=order,
        source=_SOURCE,
        adjacency=_ADJACENCY,
        caveat="The conversion uses the target as if it were the Renyi divergence at order 1000, which is 1000 times "
        "as much: the printed epsilon does not hold.",
    )


def noisy_clipping_sigma(
    *,
    renyi_target: float,
    initial_bound: float,
    clip: float,
    step_size: float,
    weight_decay: float = 0.0,
    n_steps: int,
    delta: float,
) -> PublishedForm:
    """Return the published noise of fine-tuning with clipped gradients.

    Parameters
    ----------
    renyi_target : float
        Target rho, > 0.
    initial_bound, clip, step_size, weight_decay, n_steps
        As in `expunge.accounting.clipped.mu`.
    delta : float
        Within (0, 1), at which the printed epsilon is taken for the certified answer.

    Returns
    -------
    PublishedForm
        ``value``: noise standard deviation per step; ``certified``: the noise that the printed epsilon would need, by
        `expunge.accounting.clipped.noise_std`.

    Raises
    ------
    TypeError
        If ``n_steps`` is not an integer or another argument not a number.
    ValueError
        If an argument is NaN or out of range.

    Notes
    -----
    With weight decay lambda, ``c = 1 - eta lambda``: ``sigma^2 = (2 C_0 c^T + (2 C_1 / lambda)(1 - c^T))^2 eta lambda
    (2 - eta lambda) / (2 rho (1 - c^(2T)))``; without, ``(2 C_0 + 2 C_1 eta T)^2 / (4 rho T)``, which is inconsistent
    with the first by a factor 2.

    Examples
    --------
    >>> from expunge.accounting import published
    >>> found = published.noisy_clipping_sigma(renyi_target=1.0, initial_bound=1.0, clip=0.1, step_size=0.1,
    ...                                        weight_decay=0.5, n_steps=40, delta=1e-5)
    >>> round(found.value, 4), round(found.certified, 4)
    (0.1348, 0.709)
    """
    rho = number("renyi_target", renyi_target, low=0.0, open_low=True)
    decay = number("weight_decay", weight_decay, low=0.0)
    steps = count("n_steps", n_steps, low=1)
    printed = noisy_clipping_epsilon(renyi_target=rho, delta=delta, weight_decay=decay > 0.0)
    assert isinstance(printed.value, float)
    exact = clipped.noise_std(
        initial_bound=initial_bound,
        clip=clip,
        step_size=step_size,
        weight_decay=decay,
        n_steps=steps,
        epsilon=max(printed.value, 0.0),
        delta=delta,
    )
    if decay > 0.0:
        product = step_size * decay
        kept = (1.0 - product) ** steps
        distance = 2.0 * initial_bound * kept + 2.0 * clip / decay * (1.0 - kept)
        squared = distance**2 * product * (2.0 - product) / (2.0 * rho * (1.0 - kept**2))
    else:
        squared = (2.0 * initial_bound + 2.0 * clip * step_size * steps) ** 2 / (4.0 * rho * steps)
    return PublishedForm(
        value=math.sqrt(squared),
        certified=exact,
        order=None,
        source=_SOURCE,
        adjacency=_ADJACENCY,
        caveat=printed.caveat,
    )
