"""The discrete Gaussian, certified: what noise on whole numbers hides of a shift by whole numbers.

``P(x)`` is proportional to ``exp(-x^2 / (2 noise_std^2))`` on the integers [CKS20, arXiv 2004.00010]. Releases of this
library are not made with it: they are exact normals, rounded, for which the theorems of the Gaussian hold as they are
(``docs/guarantees.md``). It is here for whoever adds it to counts, or to vectors that lie on a grid already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge.accounting._broadcast import Float64
from expunge.accounting._float_mode import ieee_arithmetic

__all__ = ["DiscreteGaussian"]

_U = 2.0**-53
_REACH = 40.0  # standard deviations; beyond lies less than the smallest number of float64
_LARGEST = 1e5  # of the noise: 8 million terms
_BLOCK = 256  # terms that are added in any order, each with an error of 256 u at most
_TINY = 5e-324


@dataclass(frozen=True)
class DiscreteGaussian:
    """Discrete Gaussian noise, in units of its grid.

    Attributes
    ----------
    noise_std : float
        Its parameter sigma, within [0.01, 1e5]; from 1 on it is the standard deviation but for 1e-6.

    Raises
    ------
    ValueError
        If ``noise_std`` is out of range.

    See Also
    --------
    gdp_delta : The same for the Gaussian.

    Notes
    -----
    Certified: float64, rounded outward by the errors of all operations; exp and expm1 are taken to be within 4 units
    in the last place.

    Examples
    --------
    >>> from expunge.accounting import DiscreteGaussian, rdp_to_epsilon
    >>> noise = DiscreteGaussian(4.0)
    >>> print(f"{noise.delta(shift=1, epsilon=0.5):.6f} {noise.epsilon(shift=1, delta=1e-5):.6f}")
    0.002753 0.927354

    A vector that moves by a vector of whole numbers of length 3:

    >>> print(f"{rdp_to_epsilon(lambda orders: noise.rdp(3.0, orders), None, 1e-5):.6f}")
    3.407840
    """

    noise_std: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "noise_std", _validate.number("noise_std", self.noise_std, low=0.01, high=_LARGEST))

    @ieee_arithmetic
    def rdp(self, sensitivity: ArrayLike, order: ArrayLike) -> float | Float64:
        """Return the Renyi divergence of vectors with such noise in each entry, rounded up.

        Parameters
        ----------
        sensitivity : array_like of float
            At least the Euclidean length of the vector of whole numbers that tells the two apart; finite, >= 0.
        order : array_like of float
            Renyi order, finite and > 1. Broadcasts with ``sensitivity``.

        Returns
        -------
        float or ndarray of float64
            ``order sensitivity^2 / (2 noise_std^2)`` in both directions, for any number of entries.

        Raises
        ------
        ValueError
            If an argument is NaN or out of range, or the shapes do not broadcast.

        Notes
        -----
        [CKS20], proposition 5: the divergence is this and, over order - 1, the logarithm of a sum of
        ``exp(-(x - c)^2 / (2 noise_std^2))`` over whole numbers x by that for c = 0, which is the largest. So it is
        concentrated DP with ``rho = sensitivity^2 / (2 noise_std^2)``.
        """
        lengths = _validate.real_array("sensitivity", sensitivity, low=0.0)
        orders = _validate.real_array("order", order, low=1.0, open_low=True)
        try:
            lengths, orders = np.broadcast_arrays(lengths, orders)
        except ValueError:
            shapes = f"{lengths.shape} and {orders.shape}"
            raise ValueError(f"sensitivity and order must broadcast together, got shapes {shapes}") from None
        with np.errstate(over="ignore", under="ignore"):
            ratio = lengths / self.noise_std
            found = np.where(lengths > 0, np.nextafter(0.5 * orders * ratio * ratio * (1 + 8 * _U), np.inf), 0.0)
        return found if found.ndim else float(found)

    @ieee_arithmetic
    def delta(self, *, shift: int, epsilon: float) -> float:
        """Return the delta at which numbers with this noise hide a shift by ``shift``, rounded up: the exact profile.

        Parameters
        ----------
        shift : int
            Whole number that tells the two apart; its sign does not matter.
        epsilon : float
            Finite and >= 0.

        Returns
        -------
        float
            ``sum over x of max(P(x) - exp(epsilon) P(x - shift), 0)``, in both directions; 0 without a shift.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or out of range.

        Notes
        -----
        [CKS20], theorem 7. For one number: the profile of a vector is not that of a number that moves by its length.
        """
        step = abs(_integer("shift", shift))
        return self._delta(step, _validate.number("epsilon", epsilon, low=0.0))

    @ieee_arithmetic
    def epsilon(self, *, shift: int, delta: float) -> float:
        """Return the least epsilon at which `delta` is at most ``delta``, rounded up.

        Parameters
        ----------
        shift : int
            As for `delta`.
        delta : float
            Within [0, 1].

        Returns
        -------
        float
            epsilon >= 0; infinite where delta is 0 and there is a shift.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or out of range.
        """
        step = abs(_integer("shift", shift))
        target = _validate.number("delta", delta, low=0.0, high=1.0)
        if step == 0 or self._delta(step, 0.0) <= target:
            return 0.0
        if target <= 2 * _TINY:  # less than what the tails are rounded up to
            return math.inf
        high = 1.0
        while self._delta(step, high) > target:
            high *= 2.0
        low = high / 2 if high > 1.0 else 0.0
        while (middle := 0.5 * (low + high)) - low > 1e-15 * high and middle < high:
            low, high = (middle, high) if self._delta(step, middle) > target else (low, middle)
        return high

    @cached_property
    def _sum(self) -> float:
        """Sum of the weights of all whole numbers, rounded down."""
        exponents, weights = self._terms(-self._most, self._most)
        return _added(weights * (1 - (4 * exponents + 16) * _U)) * (1 - (_BLOCK + 8) * _U)

    @property
    def _most(self) -> int:
        return math.ceil(_REACH * self.noise_std) + 1

    def _terms(self, first: int, last: int) -> tuple[Float64, Float64]:
        """Return ``x^2 / (2 noise_std^2)`` and the exponential of its negative for whole numbers of a range."""
        whole = np.arange(first, last + 1, dtype=np.float64)
        ratio = whole / self.noise_std
        exponents = 0.5 * ratio * ratio
        with np.errstate(under="ignore"):
            return exponents, np.exp(-exponents)

    def _delta(self, step: int, epsilon: float) -> float:
        if step == 0:
            return 0.0
        # P is centred at 0, the other at -step: x counts where its loss is above epsilon, from this border on.
        border = (epsilon * self.noise_std / step) * self.noise_std - step / 2
        first = max(math.floor(min(border, self._most)) - 1, -self._most)
        exponents, weights = self._terms(first, self._most)
        whole = np.arange(first, self._most + 1, dtype=np.float64)
        loss = (step / self.noise_std) * ((whole + step / 2) / self.noise_std)
        loss += 8 * _U * (np.abs(loss) + epsilon)  # upward, by more than the errors of it and of the difference
        with np.errstate(under="ignore", over="ignore"):
            share = -np.expm1(np.minimum(epsilon - loss, 0.0))
            terms = weights * (1 + (4 * exponents + 16) * _U) * share * (1 + 16 * _U)
        total = _added(terms) * (1 + (_BLOCK + 8) * _U)
        # Both tails, products that vanished, and the rounding of the smallest numbers.
        return min(math.nextafter(total / self._sum * (1 + 8 * _U), math.inf) + len(whole) * _TINY, 1.0)


def _added(terms: NDArray[np.float64]) -> float:
    """Return a sum of positive numbers that is off by 256 u of it at most."""
    whole = len(terms) // _BLOCK * _BLOCK
    blocks = terms[:whole].reshape(-1, _BLOCK).sum(axis=1)
    return math.fsum([*blocks.tolist(), *terms[whole:].tolist()])


def _integer(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if not abs(int(value)) <= 2**40:
        raise ValueError(f"{name} must be at most 2**40, got {value}")
    return int(value)
