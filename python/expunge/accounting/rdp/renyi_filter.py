"""Renyi filter: per-record budgets kept during training, certified. [FZ21, arXiv 2008.11193]."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._validate import count, number, plain_array, real_array
from expunge.accounting._broadcast import Float64
from expunge.accounting._float_mode import ieee_arithmetic
from expunge.accounting.rdp.conversion import rdp_to_epsilon
from expunge.accounting.rdp.sampled_gaussian import sampled_gaussian_rdp

__all__ = ["RenyiFilter"]

_RANGE = np.finfo(np.float64)


class RenyiFilter:
    """Charges every record for every step before sampling, and bars a record whose budget would be exceeded.

    Use: at each step compute the gradient norm of **every** record (sampled or not) at the current parameters, call
    `charge`, then sample the batch among the records it returns True for. A barred record never takes part again.

    Parameters
    ----------
    order : float or array_like of float, shape (n_orders,)
        Renyi orders, > 1, fixed before training.
    budget : float or array_like of float, shape (n_orders,)
        Renyi divergence allowed at each order, >= 0 and possibly infinite, fixed before training.
    n_records : int
        Number of records.
    noise_std, step_size, sampling_probability, batch_size : float
        The step: ``theta - step_size * (sum over batch of g_i / batch_size + ...) + noise_std * N(0, I)``, the batch
        drawn by Poisson sampling. ``noise_std`` and ``step_size`` may be given anew at each `charge`.

    Attributes
    ----------
    status : str
        ``"certified"``: at every order and for every record, both divergences between training with the record and
        training without it are at most the budget, whatever the trajectory does.
    spent : ndarray of float64, shape (n_records, n_orders)
        Charged so far, summed upward. Depends on the data: budgets may be published, charges must not be.
    active : ndarray of bool, shape (n_records,)
        Records that were not barred.
    n_steps : int
        Steps charged.

    Raises
    ------
    ValueError
        If an argument is NaN or out of range, or order and budget differ in shape.

    Notes
    -----
    A filter at a fixed order for each record by itself, after [FZ21, arXiv 2008.11193]. The guarantee rests on two
    things that the class cannot check: the norms are those of the gradients used, and records interact only through the
    sum (no BatchNorm). With several orders a record must keep every budget, so each order's theorem applies by itself.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.accounting import RenyiFilter
    >>> step = dict(noise_std=1.0, step_size=0.1, sampling_probability=1.0, batch_size=1.0)
    >>> keeper = RenyiFilter(2.0, 0.05, n_records=2, **step)
    >>> [keeper.charge(np.array([1.0, 2.0])).tolist() for _ in range(3)]
    [[True, True], [True, False], [True, False]]
    """

    status = "certified"

    def __init__(
        self,
        order: ArrayLike,
        budget: ArrayLike,
        *,
        n_records: int,
        noise_std: float,
        step_size: float,
        sampling_probability: float,
        batch_size: float,
    ) -> None:
        orders = real_array("order", order, low=1.0, open_low=True)
        budgets = real_array("budget", budget, low=0.0, allow_infinite=True)
        if orders.ndim > 1 or orders.size == 0:
            raise ValueError(f"order must be a number or one-dimensional and not empty, got shape {orders.shape}")
        if budgets.shape != orders.shape:
            raise ValueError(f"budget must have the shape of order {orders.shape}, got {budgets.shape}")
        self._orders = np.atleast_1d(orders).copy()
        self._budgets = np.atleast_1d(budgets).copy()
        for fixed in (self._orders, self._budgets):
            fixed.flags.writeable = False
        self._noise_std = number("noise_std", noise_std, low=0.0)
        self._step_size = number("step_size", step_size, low=0.0, open_low=True)
        self._rate = number("sampling_probability", sampling_probability, low=0.0, high=1.0)
        self._batch_size = number("batch_size", batch_size, low=0.0, open_low=True)
        n = count("n_records", n_records, low=1)
        self._spent = np.zeros((n, self._orders.size))
        self._active = np.ones(n, dtype=np.bool_)
        self._n_steps = 0

    @property
    def order(self) -> Float64:
        """The orders, fixed."""
        return self._orders

    @property
    def budget(self) -> Float64:
        """The budget at each order, fixed."""
        return self._budgets

    @property
    def spent(self) -> Float64:
        """Charges of each record at each order, a copy."""
        return self._spent.copy()

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
        self,
        grad_norms: ArrayLike,
        *,
        noise_std: float | None = None,
        step_size: float | None = None,
        threads: int | None = None,
    ) -> NDArray[np.bool_]:
        """Charge one step to all records and return which of them may take part in it.

        Parameters
        ----------
        grad_norms : array_like of float, shape (n_records,)
            Norm of each record's gradient at the current parameters, as it would enter the sum (after clipping),
            >= 0. Infinity bars the record unless its budget is infinite. Entries of barred records are ignored.
        noise_std, step_size : float, optional
            Of this step; by default those given at the start.
        threads : int, optional
            Maximum number of cores; ``EXPUNGE_NUM_THREADS`` or all of them by default.

        Returns
        -------
        ndarray of bool, shape (n_records,)
            True for records that may be sampled in this step.

        Raises
        ------
        ValueError
            If a norm of an active record is NaN or negative, or the shape does not fit. Nothing is charged then.
        """
        tau = self._noise_std if noise_std is None else number("noise_std", noise_std, low=0.0)
        eta = self._step_size if step_size is None else number("step_size", step_size, low=0.0, open_low=True)
        given = plain_array("grad_norms", grad_norms)
        if given.shape != self._active.shape:
            raise ValueError(f"grad_norms must have shape {self._active.shape}, got {given.shape}")
        live = np.flatnonzero(self._active)
        norms = real_array("grad_norms", given[live], low=0.0, allow_infinite=True)
        with np.errstate(over="ignore", under="ignore"):
            # Roundings, each at most half a unit, are taken outward: of normal numbers by four units, of subnormal ones
            # by one of the smallest. What leaves the range of float64 is kept in it on the side that costs more. A zero
            # norm costs nothing even without noise.
            noise = max(min(tau * self._batch_size, _RANGE.max) - _RANGE.smallest_subnormal, 0.0)
            multiplier = noise / np.maximum(eta * norms, _RANGE.tiny) * (1.0 - 4.0 * _RANGE.eps)
            multiplier = np.where(norms == 0.0, np.inf, np.nextafter(np.minimum(multiplier, _RANGE.max), 0.0))
            cost = sampled_gaussian_rdp(self._orders, multiplier[:, np.newaxis], self._rate, threads=threads)
            asked = self._spent[live] + cost
            asked = np.where(cost == 0.0, self._spent[live], np.nextafter(asked, np.inf))
        allowed = (asked <= self._budgets).all(axis=1)
        self._spent[live[allowed]] = asked[allowed]
        self._active[live[~allowed]] = False
        self._n_steps += 1
        return self.active

    def epsilon(self, *, delta: float) -> float:
        """Return the certified epsilon at ``delta`` of every record: from the budgets, so it may be published."""
        return float(rdp_to_epsilon(self._budgets, self._orders, number("delta", delta)))

    def __repr__(self) -> str:
        return (
            f"RenyiFilter(order={self._orders.tolist()}, budget={self._budgets.tolist()}, status={self.status!r}, "
            f"n_steps={self._n_steps}, active={int(self._active.sum())}/{self._active.size})"
        )
