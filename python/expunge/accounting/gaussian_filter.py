"""Gaussian filter: per-record GDP budgets kept during full-batch training, certified. [ST22, arXiv 2210.17520]."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._validate import count, number, plain_array, real_array
from expunge.accounting._broadcast import Float64
from expunge.accounting._float_mode import ieee_arithmetic
from expunge.accounting.gdp import gdp_epsilon

__all__ = ["GaussianFilter"]

_RANGE = np.finfo(np.float64)
# Relative error that norms may have, by their precision: that of sums over many parameters.
_ROOM = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 1e-3}


class GaussianFilter:
    """Charges every record for every full-batch step, and bars a record whose budget would be exceeded.

    Use: at each step compute the gradient norm of **every** record at the current parameters, call `charge`, then sum
    the gradients of the records it returns True for. A barred record never takes part again.

    Parameters
    ----------
    budget : float or array_like of float, shape (n_records,)
        GDP parameter allowed to all records, or to each, >= 0 and possibly infinite, fixed before training.
    n_records : int
        Number of records.
    noise_std, step_size, batch_size : float
        The step: ``theta - step_size * (sum of g_i / batch_size + ...) + noise_std * N(0, I)``, the sum over all active
        records. With gradients clipped to C and a noise multiplier z that is ``noise_std = z C step_size /
        batch_size``. ``noise_std`` and ``step_size`` may be given anew at each `charge`.

    Attributes
    ----------
    status : str
        ``"certified"``: see ``may_be_claimed``, and ``may_not_be_claimed``.
    budget : ndarray of float64, shape (n_records,)
    spent : ndarray of float64, shape (n_records,)
        GDP parameter of the steps charged so far, rounded up. Depends on the data: budgets may be published, this not.
    remaining : ndarray of float64, shape (n_records,)
        GDP parameter of what a record may still be charged, rounded down; 0 for a barred one.
    active : ndarray of bool, shape (n_records,)
        Records that were not barred.
    n_steps : int
        Steps charged.
    may_be_claimed, may_not_be_claimed : tuple of str
        In words.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, NaN or out of range, or budgets are not one or one for each record.

    See Also
    --------
    RenyiFilter : For Poisson batches; looser for full ones.

    Notes
    -----
    A step costs ``mu^2 = (step_size |g| / (noise_std batch_size))^2``, and the squares add up. The order of steps and
    the norms may depend on all that was released before: fully adaptive composition of Gaussian DP (Smith, Thakurta,
    arXiv 2210.17520), for each record by itself as in Feldman, Zrnic, arXiv 2008.11193. Two things the class cannot
    check: the norms are those of the gradients used, and records interact only through the sum (no batch
    normalisation). Norms are taken to be right within 1e-9 of themselves, float32 ones within 1e-3, and are raised by
    that much.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.accounting import GaussianFilter
    >>> keeper = GaussianFilter(0.2, n_records=2, noise_std=1.0, step_size=0.1, batch_size=1.0)
    >>> [keeper.charge(np.array([1.0, 1.5])).tolist() for _ in range(3)]
    [[True, True], [True, False], [True, False]]
    >>> keeper.spent.round(6).tolist(), round(keeper.epsilon(delta=1e-5), 6)
    ([0.173205, 0.15], 0.725522)
    """

    status = "certified"
    may_be_claimed = (
        "for every record, training with it and training without it are budget-GDP apart, both ways: the budget was "
        "fixed before training",
        "for a bound B fixed before training, P(S and spent <= B) <= e^epsilon(B) Q(S) + delta, and with P and Q "
        "exchanged: P trains with the record, Q without",
    )
    may_not_be_claimed = (
        "that what a record has spent is its epsilon or mu: it is known only afterwards, and depends on the noise and "
        "on the record",
    )

    def __init__(
        self, budget: ArrayLike, *, n_records: int, noise_std: float, step_size: float, batch_size: float
    ) -> None:
        n = count("n_records", n_records, low=1)
        budgets = real_array("budget", budget, low=0.0, allow_infinite=True)
        if budgets.shape not in ((), (n,)):
            raise ValueError(f"budget must be a number or have shape ({n},), got shape {budgets.shape}")
        self._budgets = np.broadcast_to(budgets, (n,)).copy()
        self._budgets.flags.writeable = False
        with np.errstate(over="ignore", under="ignore"):
            # Rounded down: what underflows allows nothing, what overflows all that float64 can count.
            squares = np.minimum(np.square(self._budgets), _RANGE.max)
        down = np.nextafter(squares, 0.0)
        down[squares < _RANGE.tiny] = 0.0
        self._allowed = np.where(np.isinf(self._budgets), np.inf, down)
        self._noise_std = number("noise_std", noise_std, low=0.0)
        self._step_size = number("step_size", step_size, low=0.0, open_low=True)
        self._batch_size = number("batch_size", batch_size, low=0.0, open_low=True)
        self._squares = np.zeros(n)
        self._active = np.ones(n, dtype=np.bool_)
        self._n_steps = 0

    @property
    def budget(self) -> Float64:
        """The budget of each record, fixed."""
        return self._budgets

    @property
    def spent(self) -> Float64:
        """GDP parameter of what each record was charged, rounded up."""
        roots = np.sqrt(self._squares)
        return np.where(self._squares == 0.0, 0.0, np.nextafter(roots, np.inf))

    @property
    def remaining(self) -> Float64:
        """GDP parameter of what each record may still be charged, rounded down; 0 for a barred one."""
        with np.errstate(invalid="ignore"):
            left = np.nextafter(self._allowed - self._squares, 0.0)
            left = np.where(np.isinf(self._allowed), np.inf, np.maximum(left, 0.0))
            roots = np.where(np.isinf(left), np.inf, np.nextafter(np.sqrt(left), 0.0))
        return np.where(self._active & (left > 0.0), roots, 0.0)

    @property
    def active(self) -> NDArray[np.bool_]:
        """Mask of the records that were not barred, a copy."""
        return self._active.copy()

    @property
    def n_steps(self) -> int:
        """How many steps were charged."""
        return self._n_steps

    @ieee_arithmetic
    def charge(
        self, grad_norms: ArrayLike, *, noise_std: float | None = None, step_size: float | None = None
    ) -> NDArray[np.bool_]:
        """Charge one step to all records and return which of them may take part in it.

        Parameters
        ----------
        grad_norms : array_like of float, shape (n_records,)
            Norm of each record's gradient at the current parameters, as it would enter the sum (after clipping),
            >= 0. NaN bars a record, and so does infinity unless its budget is infinite. Entries of barred records are
            ignored.
        noise_std, step_size : float, optional
            Of this step; by default those given at the start.

        Returns
        -------
        ndarray of bool, shape (n_records,)
            True for records that take part in this step.

        Raises
        ------
        TypeError
            If norms are shorter numbers than float32, or none. Nothing is charged then.
        ValueError
            If a norm of an active record is negative, or the shape does not fit. Nothing is charged then.
        """
        tau = self._noise_std if noise_std is None else number("noise_std", noise_std, low=0.0)
        eta = self._step_size if step_size is None else number("step_size", step_size, low=0.0, open_low=True)
        given = plain_array("grad_norms", grad_norms)
        if given.shape != self._active.shape:
            raise ValueError(f"grad_norms must have shape {self._active.shape}, got {given.shape}")
        room = _ROOM.get(given.dtype, 1e-9 if given.dtype.kind in "iu" else None)
        if room is None:
            raise TypeError(f"grad_norms must be float64, float32 or integers, got dtype {given.dtype}")
        live = np.flatnonzero(self._active)
        norms = given[live].astype(np.float64)
        if (norms < 0.0).any():
            raise ValueError(f"grad_norms must be >= 0, got {norms[norms < 0.0][0]:g}")
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            # Each rounding is at most half a unit: eight units more cover all of them, where nothing underflows.
            noise = max(min(tau * self._batch_size, _RANGE.max) - _RANGE.smallest_subnormal, 0.0)
            moved = np.maximum(norms * (1.0 + room) * eta, _RANGE.tiny)
            ratio = np.maximum(moved / (noise * (1.0 - 2.0 * _RANGE.eps)), _RANGE.tiny**0.5)
            cost = np.square(ratio * (1.0 + 4.0 * _RANGE.eps)) * (1.0 + 4.0 * _RANGE.eps)
            cost = np.where(norms == 0.0, 0.0, cost)  # a zero gradient costs nothing even without noise
            asked = self._squares[live] + cost
            asked = np.where(cost == 0.0, self._squares[live], np.nextafter(asked, np.inf))
        allowed = asked <= self._allowed[live]  # False for NaN
        self._squares[live[allowed]] = asked[allowed]
        self._active[live[~allowed]] = False
        self._n_steps += 1
        return self.active

    def epsilon(self, *, delta: float, within: float | None = None) -> float:
        """Return the certified epsilon at ``delta`` of the record with the largest budget, rounded up.

        Parameters
        ----------
        delta : float
            Within [0, 1].
        within : float, optional
            A bound B on what a record spends, fixed before training: the epsilon then holds for events that come with
            ``spent <= B``, as ``may_be_claimed`` says. By default the budget, which nothing exceeds.

        Returns
        -------
        float
            Infinite where a budget is. It may be published: nothing of the training enters.

        Raises
        ------
        ValueError
            If delta or the bound is NaN or out of range.

        Examples
        --------
        >>> keeper = GaussianFilter(1.0, n_records=9, noise_std=1.0, step_size=0.1, batch_size=1.0)
        >>> keeper.epsilon(delta=1e-5) > keeper.epsilon(delta=1e-5, within=0.5)
        True
        """
        goal = number("delta", delta, low=0.0, high=1.0)
        mu = float(self._budgets.max())
        if within is not None:
            mu = min(mu, number("within", within, low=0.0))
        return float(gdp_epsilon(mu, goal)) if np.isfinite(mu) else float(np.inf)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return what `restore` needs to go on after what was charged so far, as arrays; confidential."""
        return {
            "squares": self._squares.copy(),
            "active": self._active.copy(),
            "n_steps": np.array(self._n_steps, dtype=np.int64),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on where `state` was taken, of a filter with the same budgets.

        Parameters
        ----------
        state : mapping of str to ndarray
            As `state` returned it.

        Raises
        ------
        ValueError
            If it is of another number of records, or some record is charged above its budget. Nothing is changed then.
        """
        squares = plain_array("state", state["squares"]).astype(np.float64)
        active = plain_array("state", state["active"]).astype(np.bool_)
        if squares.shape != self._squares.shape or active.shape != self._active.shape:
            raise ValueError(f"state must be of {self._active.size} records, got {squares.size} and {active.size}")
        if not ((squares >= 0.0) & (squares <= self._allowed)).all():
            raise ValueError("state must charge no record above its budget, got one that is: budgets may not change")
        self._squares, self._active = squares, active
        self._n_steps = int(np.asarray(state["n_steps"], dtype=np.int64))

    def __repr__(self) -> str:
        low, high = self._budgets.min(), self._budgets.max()
        budget = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        return (
            f"GaussianFilter(budget={budget}, status={self.status!r}, n_steps={self._n_steps}, "
            f"active={int(self._active.sum())}/{self._active.size})"
        )
