"""The exact privacy profile of two Gaussian laws, certified.

Q = N(0, I) and P = N(shift, I + diag(excess_variance)) on p coordinates and q independent columns: what any pair of
Gaussians with covariances S (x) I_q becomes after whitening by Q. The profile is a Mellin integral of the moment
generating function of the privacy loss, taken along contours on which it decays exponentially.

Epsilons, deltas or orders that are arrays on a CUDA device (float64) are answered there. Values are not validated
on the device, to avoid a synchronisation: those out of range give NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple, cast, overload

import numpy as np
from numpy.typing import ArrayLike

from expunge._kernels import backend
from expunge._validate import choice, number, real_array
from expunge.accounting._broadcast import Float64, device_arrays, restore
from expunge.accounting._float_mode import ieee_arithmetic
from expunge.accounting.pair_error import Nearness, near_delta, near_epsilon, near_renyi

__all__ = ["GaussianPair", "PrivacyProfile"]

_DIRECTIONS = ("pq", "qp", "both")
_EPS = float(np.finfo(np.float64).eps)
_LEAST_SQUARE = 1e-280  # smaller squared shifts count as this much: the kernel squares them once more


def _swaps(direction: str) -> list[bool]:
    return [swapped for swapped in (False, True) if direction != ("pq" if swapped else "qp")]


class PrivacyProfile(NamedTuple):
    """A privacy profile at some epsilons; arrays of their shape, or scalars.

    Attributes
    ----------
    delta : float or ndarray of float64
        Certified, rounded up.
    relative_error : float or ndarray of float64
        Error of ``delta`` before it was rounded up, relative: bounds on the cut and the roundings, and an estimate of
        the quadrature's own error from the decay of its Legendre coefficients. 1 where not converged. What was added
        for `excess_error` and `shift_error` counts as an error.
    converged : bool or ndarray of bool
        Whether ``delta`` is exact to that error. If not, it is still an upper bound (Chernoff type).
    """

    delta: float | Float64
    relative_error: float | Float64
    converged: bool | np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


@dataclass(frozen=True, eq=False)
class GaussianPair:
    """Two Gaussian laws, Q = N(0, I) and P = N(shift, I + diag(excess_variance)), and their distance.

    Parameters
    ----------
    excess_variance : array_like of float, shape (p,)
        Variance of P less that of Q in each coordinate, the same for all columns; finite and > -1.
    shift : array_like of float, shape (p, q)
        Mean of P less that of Q; finite, q >= 1.
    excess_error, shift_error : float, default 0
        How far P may be off: the true law is any N(d, I + E) with ``E - diag(excess_variance)`` and
        ``d - shift`` of at most these Frobenius norms. Every delta, epsilon and divergence then holds for all of them.
        At most a third of the smallest variance of P.

    Raises
    ------
    ValueError
        If an argument is NaN, infinite, out of range or of the wrong shape.

    See Also
    --------
    gdp_delta : The same for equal covariances, in closed form.
    rdp_to_epsilon : For laws of which only divergences are known.

    Notes
    -----
    Direction ``"pq"`` bounds P(S) by e^epsilon Q(S) + delta, ``"qp"`` the reverse, and ``"both"`` is the larger.
    The profile is the hockey-stick divergence, E_Q[(P/Q - e^epsilon)_+] [BW18, arXiv 1805.06530, theorem 5].

    Certified: every delta, epsilon and divergence is rounded up by the error of its computation. The integral is cut
    where a bound on what lies beyond is negligible, roundings are counted at every node, and the quadrature's own error
    is estimated from the decay of its Legendre coefficients; together they are ``PrivacyProfile.relative_error``, some
    1e-13.
    Sizes that leave float64 are taken outward too: a squared shift below 1e-280 counts as 1e-280, and where it
    overflows delta is 1. A delta of exactly 0 is the true one: P = Q, or epsilon beyond the largest privacy loss.

    ===========================================================  =====
    Edge case                                                    Value
    ===========================================================  =====
    ``GaussianPair([0.0], [[0.0]]).delta(0.0)``                  0.0
    ``GaussianPair([0.0], [[0.0]]).epsilon(0.0)``                0.0
    ``GaussianPair([0.0], [[1.0]]).epsilon(0.0)``                inf
    ``GaussianPair([0.0], [[1.0]]).epsilon(1.0)``                0.0
    ``GaussianPair([0.0], [[1e200]]).delta(1.0)``                1.0
    ``GaussianPair([1.0], [[0.0]]).renyi(2.0, direction="pq")``  inf
    ===========================================================  =====

    Examples
    --------
    >>> from expunge.accounting import GaussianPair, gdp_delta
    >>> pair = GaussianPair([0.1, -0.05], [[0.3], [0.2]])
    >>> print(f"{pair.delta(0.5):.6f} {pair.epsilon(1e-5):.6f} {pair.renyi(2.0):.6f}")
    0.024876 2.031838 0.144372
    >>> same = GaussianPair([0.0], [[1.0]])
    >>> abs(same.delta(1.0) / gdp_delta(1.0, 1.0) - 1) < 1e-11
    True
    """

    excess_variance: Float64
    shift: Float64
    excess_error: float = 0.0
    shift_error: float = 0.0

    def __post_init__(self) -> None:
        excess = real_array("excess_variance", self.excess_variance, ndim=1, low=-1.0, open_low=True).copy()
        shift = real_array("shift", self.shift, ndim=2).copy()
        if shift.shape[0] != excess.shape[0]:
            raise ValueError(
                f"shift must have one row per excess variance ({excess.shape[0]}), got shape {shift.shape}"
            )
        if shift.shape[1] == 0:
            raise ValueError(f"shift must have at least one column, got shape {shift.shape}")
        excess.flags.writeable = False
        shift.flags.writeable = False
        object.__setattr__(self, "excess_variance", excess)
        object.__setattr__(self, "shift", shift)
        # A third of the smallest variance of P: beyond it the laws that may be meant have little in common.
        room = (1.0 + float(excess.min(initial=0.0))) / 3.0
        for name, most in (("excess_error", room), ("shift_error", np.inf)):
            object.__setattr__(self, name, number(name, getattr(self, name), low=0.0, high=most))

    @cached_property
    def _nearness(self) -> Nearness | None:
        """How near the law that is meant is to P, if they may differ."""
        if self.excess_error == self.shift_error == 0.0:
            return None
        least = (1.0 + float(self.excess_variance.min(initial=0.0))) * (1.0 - 4.0 * _EPS)
        spread, length = self.excess_error / least, self.shift_error / float(np.sqrt(least))
        return Nearness.of(spread, length, float(self.shift.shape[1]))

    @ieee_arithmetic
    def _kernel_arguments(self) -> tuple[Float64, Float64, float]:
        columns = self.shift.shape[1]
        with np.errstate(over="ignore", under="ignore"):
            squared = np.sum(self.shift * self.shift, axis=1) * (1.0 + (columns + 2.0) * _EPS)
        # Up, as delta grows with every squared shift: an underflow to 0 would claim too little, infinity says 1.
        squared = np.where(np.any(self.shift != 0.0, axis=1), np.maximum(squared, _LEAST_SQUARE), 0.0)
        return self.excess_variance[np.newaxis], squared[np.newaxis], float(columns)

    def profile(self, epsilon: ArrayLike, *, direction: str = "both", threads: int | None = None) -> PrivacyProfile:
        """Return delta at each epsilon together with its error and whether it is exact or only an upper bound.

        Parameters
        ----------
        epsilon : array_like of float
            Finite and >= 0.
        direction : {"both", "pq", "qp"}, default "both"
            Which divergence; ``"both"`` is the larger.
        threads : int, optional
            Maximum number of cores.

        Returns
        -------
        PrivacyProfile
            ``delta``, ``relative_error`` and ``converged``, each in the shape of ``epsilon``.

        Raises
        ------
        ValueError
            If epsilon is NaN, infinite or negative, or the direction unknown.

        Notes
        -----
        ``delta`` is 0 only where it truly is: for identical laws, and beyond the largest privacy loss of laws whose
        loss is bounded. Below about 1e-304 the upper bound is returned, flagged.

        Examples
        --------
        >>> from expunge.accounting import GaussianPair
        >>> profile = GaussianPair([0.1], [[0.3]]).profile([0.5, 1.0])
        >>> profile.converged.tolist()
        [True, True]
        """
        choice("direction", direction, _DIRECTIONS)
        place = backend.place(epsilon=epsilon)
        if not place.on_host:
            if self._nearness is None:
                return self._profile_there(place, epsilon, direction)
            here = self.profile(self._fetched(place, "epsilon", epsilon), direction=direction, threads=threads)
            return PrivacyProfile(*(place.library.asarray(np.asarray(part)) for part in here))
        epsilons = real_array("epsilon", epsilon, low=0.0)
        flat = epsilons.reshape(-1)
        results = []
        for swapped in _swaps(direction):
            delta_at = partial(self._delta, swapped, threads)
            near = self._nearness
            results.append(delta_at(flat) if near is None else near_delta(near, delta_at, flat))
        delta, error, converged = results[0]
        if len(results) == 2:
            other = results[1][0] > delta
            delta, error, converged = (np.where(other, b, a) for a, b in zip(*results, strict=True))
        flags = converged.reshape(epsilons.shape) > 0
        return PrivacyProfile(
            restore(delta, epsilons.shape),
            restore(error, epsilons.shape),
            flags if epsilons.ndim else bool(flags),
        )

    def _delta(self, swapped: bool, threads: int | None, flat: Float64) -> tuple[Float64, Float64, Float64]:
        """Return delta of P itself in one direction, its relative error and whether it converged."""
        delta, error, converged = (np.empty_like(flat) for _ in range(3))
        backend.HOST.run(
            "pair_delta", *self._kernel_arguments(), flat, swapped, delta, error, converged, threads=threads
        )
        if np.isnan(delta).any():
            raise ValueError("excess_variance and shift must leave the pair within the range of float64")
        return delta, error, converged

    def _run(self, kernel: str, swapped: bool, threads: int | None, flat: Float64) -> Float64:
        out = np.empty_like(flat)
        backend.HOST.run(kernel, *self._kernel_arguments(), flat, swapped, out, threads=threads)
        if np.isnan(out).any():
            raise ValueError("excess_variance and shift must leave the pair within the range of float64")
        return out

    @staticmethod
    def _fetched(place: backend.DevicePlace, name: str, values: Any) -> Float64:
        """Return an array of a device on the host: a pair with errors is a few more evaluations, done there."""
        return cast(Float64, place.library.host(device_arrays(place, **{name: values})[0][0]))

    def _there(self, place: backend.DevicePlace, name: str, values: Any) -> tuple[list[Any], tuple[int, ...]]:
        """Return the kernel's arguments up to `swapped`, on the device of ``values``, and the shape of ``values``."""
        excess, squared, columns = self._kernel_arguments()
        arrays, shape = device_arrays(place, **{name: values})
        pair = [place.library.asarray(array) for array in (excess, squared)]
        return [*pair, columns, arrays[0].reshape(-1)], shape

    def _profile_there(self, place: backend.DevicePlace, epsilon: Any, direction: str) -> PrivacyProfile:
        arguments, shape = self._there(place, "epsilon", epsilon)
        n, where = arguments[-1].shape[0], place.library.where
        results = []
        for swapped in _swaps(direction):
            outs = [place.empty((n,), "float64") for _ in range(3)]
            place.run(
                "pair_delta",
                *arguments,
                swapped,
                *outs,
            )
            results.append(outs)
        found = results[0]
        if len(results) == 2:
            first, second = results[0][0], results[1][0]
            other = (second > first) | (second != second)  # a NaN wins over any number
            found = [where(other, b, a) for a, b in zip(*results, strict=True)]
        delta, error, converged = (array.reshape(shape) for array in found)
        return PrivacyProfile(delta, error, converged > 0)

    @overload
    def delta(self, epsilon: float, *, direction: str = "both", threads: int | None = None) -> float: ...
    @overload
    def delta(self, epsilon: ArrayLike, *, direction: str = "both", threads: int | None = None) -> float | Float64: ...
    def delta(self, epsilon: ArrayLike, *, direction: str = "both", threads: int | None = None) -> float | Float64:
        """Return the delta at which the pair is (epsilon, delta)-indistinguishable, rounded up, at most 1.

        Parameters
        ----------
        epsilon : array_like of float
            Finite and >= 0.
        direction : {"both", "pq", "qp"}, default "both"
            Which divergence; ``"both"`` is the larger.
        threads : int, optional
            Maximum number of cores.

        Returns
        -------
        float or ndarray of float64
            delta in the shape of ``epsilon``: exact to about 1e-12 relative, or an upper bound where `profile` says so.

        Raises
        ------
        ValueError
            If epsilon is NaN, infinite or negative, or the direction unknown.

        Examples
        --------
        >>> from expunge.accounting import GaussianPair
        >>> pair = GaussianPair([0.1], [[0.3]])
        >>> pair.delta(0.5) == max(pair.delta(0.5, direction="pq"), pair.delta(0.5, direction="qp"))
        True
        """
        return self.profile(epsilon, direction=direction, threads=threads).delta

    @overload
    def epsilon(self, delta: float, *, direction: str = "both", threads: int | None = None) -> float: ...
    @overload
    def epsilon(self, delta: ArrayLike, *, direction: str = "both", threads: int | None = None) -> float | Float64: ...
    def epsilon(self, delta: ArrayLike, *, direction: str = "both", threads: int | None = None) -> float | Float64:
        """Return the smallest epsilon found at which the pair is (epsilon, delta)-indistinguishable, rounded up.

        Parameters
        ----------
        delta : array_like of float
            Within [0, 1].
        direction : {"both", "pq", "qp"}, default "both"
            Which divergence; ``"both"`` is the larger.
        threads : int, optional
            Maximum number of cores.

        Returns
        -------
        float or ndarray of float64
            The smallest epsilon found with ``pair.delta(epsilon) <= delta`` in that direction, rounding included; 0.0
            where epsilon 0 suffices. ``delta = 0`` gives the largest privacy loss, infinite if unbounded.

        Raises
        ------
        ValueError
            If delta is NaN or outside [0, 1], or the direction unknown.

        Examples
        --------
        >>> from expunge.accounting import GaussianPair
        >>> pair = GaussianPair([0.1], [[0.3]])
        >>> pair.delta(pair.epsilon(1e-5)) <= 1e-5
        True
        """
        place = backend.place(delta=delta)
        if not place.on_host:
            if self._nearness is None:
                return self._larger_there(place, "pair_epsilon", "delta", delta, direction)
            here = self.epsilon(self._fetched(place, "delta", delta), direction=direction, threads=threads)
            return cast(Float64, place.library.asarray(np.asarray(here)))
        deltas = real_array("delta", delta, low=0.0, high=1.0)
        return self._larger(deltas, direction, "pair_epsilon", threads)

    @overload
    def renyi(self, order: float, *, direction: str = "both", threads: int | None = None) -> float: ...
    @overload
    def renyi(self, order: ArrayLike, *, direction: str = "both", threads: int | None = None) -> float | Float64: ...
    def renyi(self, order: ArrayLike, *, direction: str = "both", threads: int | None = None) -> float | Float64:
        """Return the Renyi divergence of each order, rounded up.

        Parameters
        ----------
        order : array_like of float
            Finite and > 1.
        direction : {"both", "pq", "qp"}, default "both"
            D(P | Q), D(Q | P) or the larger.
        threads : int, optional
            Maximum number of cores.

        Returns
        -------
        float or ndarray of float64
            The divergence, infinite from order ``1 + 1/max(excess_variance)`` on (for D(P | Q)).

        Raises
        ------
        ValueError
            If an order is NaN, infinite or <= 1, or the direction unknown.

        Examples
        --------
        >>> from expunge.accounting import GaussianPair
        >>> print(f"{GaussianPair([0.0], [[2.0]]).renyi(3.0):.6f}")
        6.000000
        """
        place = backend.place(order=order)
        if not place.on_host:
            if self._nearness is None:
                return self._larger_there(place, "pair_renyi", "order", order, direction)
            here = self.renyi(self._fetched(place, "order", order), direction=direction, threads=threads)
            return cast(Float64, place.library.asarray(np.asarray(here)))
        orders = real_array("order", order, low=1.0, open_low=True)
        return self._larger(orders, direction, "pair_renyi", threads)

    def _larger(self, values: Float64, direction: str, kernel: str, threads: int | None) -> float | Float64:
        choice("direction", direction, _DIRECTIONS)
        flat = values.reshape(-1)
        best = np.zeros_like(flat)
        for swapped in _swaps(direction):
            if self._nearness is None:
                found = self._run(kernel, swapped, threads, flat)
            elif kernel == "pair_epsilon":
                delta, epsilon = partial(self._delta, swapped, threads), partial(self._run, kernel, swapped, threads)
                found = near_epsilon(self._nearness, delta, epsilon, flat)
            else:
                found = near_renyi(self._nearness, partial(self._run, kernel, swapped, threads), flat, swapped)
            best = np.maximum(best, found)
        return restore(best, values.shape)

    def _larger_there(self, place: backend.DevicePlace, kernel: str, name: str, values: Any, direction: str) -> Float64:
        choice("direction", direction, _DIRECTIONS)
        arguments, shape = self._there(place, name, values)
        n = arguments[-1].shape[0]
        best = None
        for swapped in _swaps(direction):
            out = place.empty((n,), "float64")
            place.run(
                kernel,
                *arguments,
                swapped,
                out,
            )
            # Written so that a NaN, once there, stays.
            best = out if best is None else place.library.where((best >= out) | (best != best), best, out)
        return cast(Float64, best.reshape(shape))  # type: ignore[union-attr]

    def swap(self) -> GaussianPair:
        """Return the pair with its roles exchanged: Q becomes P, whitened by the old P.

        Returns
        -------
        GaussianPair
            excess ``-e / (1 + e)`` and shift ``-d / sqrt(1 + e)``; swapping twice gives the pair back, to rounding.

        Examples
        --------
        >>> from expunge.accounting import GaussianPair
        >>> GaussianPair([1.0], [[2.0]]).swap().excess_variance.tolist()
        [-0.5]
        """
        scale = 1.0 + self.excess_variance
        excess, shift = -self.excess_variance / scale, -self.shift / np.sqrt(scale)[:, np.newaxis]
        near = self._nearness
        if near is None:
            return GaussianPair(excess, shift)
        # With D the error whitened by P, (I + D)^(-1/2) whitens it once more: sizes of at most D and D/2, roughly.
        spread = 2.0 * near.spread / float(scale.min())
        return GaussianPair(excess, shift, spread, 2.0 * near.length + near.spread * float(np.linalg.norm(shift)))
