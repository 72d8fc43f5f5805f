"""GDP budgets of single records in `train`: what is asked for, what charges every step, and what a run has."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from expunge._types import JsonObject
from expunge._validate import number, real_array, row_indices
from expunge.accounting import GaussianFilter, PrivateTraining, gdp_epsilon

__all__ = ["BudgetKeeper", "BudgetedPrivacy", "RecordBudgets", "privacy_of"]

_UP = 1.0 + 8.0 * float(np.finfo(np.float64).eps)
_DOUBLE_ROOM = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordBudgets:
    """GDP budgets that `train` is to keep for every record: its ``privacy=`` argument, for full batches.

    A record is charged for the gradients that it has, not for the longest that it could have, and takes no further
    part once the next step would take it above its budget. So the number of steps is not bounded by the budget.

    Parameters
    ----------
    budgets : float or array_like of float, shape (n_records,)
        GDP parameter of all records, or of each: finite, >= 0, fixed before training (`expunge.accounting.gdp_mu` turns
        an epsilon and a delta into one).
    clip : float
        Largest norm of a record's gradient, > 0; longer ones are scaled down to it.
    noise_multiplier : float
        Noise of a step over ``clip``, > 0. A record whose gradients all have norm ``clip`` lasts for
        ``(budget noise_multiplier)^2`` steps.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, NaN or out of range.

    Examples
    --------
    >>> import torch
    >>> from expunge.torch import RecordBudgets, train
    >>> _ = torch.manual_seed(0)
    >>> x, y = torch.randn(64, 5), torch.arange(64) % 2
    >>> run = train(torch.nn.Linear(5, 2), (x, y), step_size=0.5, batch_size=64, n_steps=60,
    ...             privacy=RecordBudgets(budgets=0.5, clip=1.0, noise_multiplier=12.0))
    >>> run.privacy.mu, run.privacy.status, bool((run.privacy.spent <= 0.5).all())
    (0.5, 'conditional', True)
    """

    budgets: ArrayLike
    clip: float
    noise_multiplier: float

    def __post_init__(self) -> None:
        found = real_array("budgets", self.budgets, low=0.0)
        if found.ndim > 1 or found.size == 0:
            raise ValueError(f"budgets must be a number or one for each record, got shape {found.shape}")
        object.__setattr__(self, "budgets", found)
        number("clip", self.clip, low=0.0, open_low=True)
        number("noise_multiplier", self.noise_multiplier, low=0.0, open_low=True)

    def settings(self, *, n: int, n_steps: int, room: float, seeded: bool) -> JsonObject:
        """Return what a run keeps of this, as JSON values.

        Raises
        ------
        ValueError
            If budgets are neither one nor ``n``.
        """
        budgets = np.asarray(self.budgets, dtype=np.float64)
        if budgets.shape not in ((), (n,)):
            raise ValueError(f"budgets must be a number or have shape ({n},), got shape {budgets.shape}")
        if budgets.ndim and (budgets == budgets[0]).all():
            budgets = budgets[0]  # however it was said
        return {
            "budgets": budgets.tolist(),
            "clip": float(self.clip),
            "noise_multiplier": float(self.noise_multiplier),
            "n_steps": n_steps,
            "room": room,
            "seeded": seeded,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class BudgetedPrivacy:
    """Privacy of a run of `train` with `RecordBudgets`: of all its weights, for each record by its own budget.

    Attributes
    ----------
    budget : ndarray of float64, shape (n_records,)
        GDP parameter of each record, fixed before training: **this may be claimed**, and published.
    spent : ndarray of float64, shape (n_records,)
        What the steps that a record took part in cost it, rounded up. Depends on the data, and is the owner's.
    barred_at : ndarray of int64, shape (n_records,)
        First step that a record took no part in, for want of budget; -1 for those that never were. The owner's, too.
    clip, noise_multiplier : float
        As asked for; the noise is ``noise_multiplier clip (1 + room)``.
    n_steps : int
    room : float
        What rounding may add to the norm of a clipped gradient, relative.
    seeded : bool
        Whether the caller gave the seed.
    status : str
        ``"conditional"``: see ``conditions``.
    may_be_claimed, may_not_be_claimed : tuple of str
        In words; those of `expunge.accounting.GaussianFilter`.

    Notes
    -----
    Fully adaptive composition of Gaussian DP: Smith, Thakurta, arXiv 2210.17520. Groups: training with the records of
    a group and without them are apart by at most the sum of their budgets, since the claim about each holds whoever
    else is there (Dong, Roth, Su, arXiv 1905.02383, theorem 2.14, one record after the other).
    """

    budget: NDArray[np.float64] = field(repr=False)
    spent: NDArray[np.float64] = field(repr=False)
    barred_at: NDArray[np.int64] = field(repr=False)
    clip: float
    noise_multiplier: float
    n_steps: int
    room: float
    seeded: bool
    status: str = "conditional"
    may_be_claimed: ClassVar[tuple[str, ...]] = GaussianFilter.may_be_claimed
    may_not_be_claimed: ClassVar[tuple[str, ...]] = GaussianFilter.may_not_be_claimed

    @property
    def active(self) -> NDArray[np.bool_]:
        """Records that took part until the end, shape (n_records,)."""
        return self.barred_at < 0

    @property
    def mu(self) -> float:
        """Largest budget of a record: a GDP parameter for all of them, each by itself."""
        return float(self.budget.max())

    @property
    def conditions(self) -> tuple[str, ...]:
        """Assumptions that the claim rests on, in words."""
        return self.mechanism.conditions

    @property
    def mechanism(self) -> PrivateTraining:
        """Constants of the training, as joint claims and certificates take them: with the largest budget."""
        return PrivateTraining(
            clip=self.clip,
            noise_multiplier=self.noise_multiplier,
            sampling_probability=1.0,
            n_steps=self.n_steps,
            accountant="filter",
            room=self.room,
            seeded=self.seeded,
            budget=self.mu,
        )

    def epsilon(self, *, delta: float, within: float | None = None) -> float:
        """Return the epsilon of the weights for any single record, by the largest budget, rounded up.

        Parameters
        ----------
        delta : float
            Within [0, 1].
        within : float, optional
            A bound B on what a record spends, fixed before training: the epsilon of events that come with ``spent <=
            B``, as ``may_be_claimed`` says.
        """
        mu = self.mu if within is None else min(self.mu, number("within", within, low=0.0))
        return float(gdp_epsilon(mu, number("delta", delta, low=0.0, high=1.0)))

    def mu_of(self, records: ArrayLike, *, mu: float = 0.0) -> float:
        """Return the GDP parameter of these records together, by their own budgets, rounded up.

        Parameters
        ----------
        records : int or array_like of int
            Rows of the dataset, each once.
        mu : float
            Of another release of the same records that may depend on the weights, for all of them.

        Returns
        -------
        float
            ``sqrt((sum of their budgets)^2 + mu^2)``.

        Raises
        ------
        ValueError
            If rows are not of the dataset, or one is given twice.
        """
        rows = row_indices("records", records, self.budget.size)
        whole = math.fsum(self.budget[rows].tolist()) * (_UP if rows.size > 1 else 1.0)
        beside = number("mu", mu, low=0.0)
        return math.hypot(whole, beside) * _UP if beside else whole

    def joint_epsilon(self, *, mu: float, delta: float, size: int = 1) -> float:
        """Return the epsilon of the weights together with another mu-GDP release of the same records, rounded up.

        Parameters
        ----------
        mu : float
            Of the other release, which may depend on the weights: a head's on the features that they give.
        delta : float
            Within [0, 1].
        size : int
            Records that are there or not together, any; ``mu`` is then that of all of them.

        Returns
        -------
        float
            That of ``sqrt((size run.privacy.mu)^2 + mu^2)``.
        """
        return self.mechanism.epsilon(delta=delta, mu=mu, group_size=size)

    def group_epsilon(self, *, size: int, delta: float) -> float:
        """Return the epsilon of any ``size`` records together, by the largest budget, rounded up."""
        return self.joint_epsilon(mu=0.0, delta=delta, size=size)

    def to_dict(self) -> JsonObject:
        """Return what may be published as JSON values: neither spends nor bars."""
        return {
            "status": self.status,
            "mu": self.mu,
            **self.mechanism.to_dict(),
            "conditions": list(self.conditions),
            "may_be_claimed": list(self.may_be_claimed),
            "may_not_be_claimed": list(self.may_not_be_claimed),
        }


class BudgetKeeper:
    """Charges a run's steps, and says who takes part in them."""

    def __init__(self, values: dict[str, Any], *, n: int, noise_std: float, step_size: float, batch_size: int) -> None:
        self.values, self.clip = values, float(values["clip"])
        self.filter = GaussianFilter(
            values["budgets"], n_records=n, noise_std=noise_std, step_size=step_size, batch_size=batch_size
        )
        # By the kind of numbers the filter takes how far norms may be off.
        self.kind = np.float64 if values["room"] <= _DOUBLE_ROOM else np.float32
        self.barred_at = np.full(n, -1, dtype=np.int64)

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of ``rows`` that were not barred before."""
        return rows[self.barred_at[rows] < 0]

    def charge(self, step: int, rows: NDArray[np.int64], norms: Tensor) -> Tensor:
        """Charge a step to ``rows``, all that are active; return 1 for those that take part in it, and 0.

        Parameters
        ----------
        norms : Tensor, shape (B,)
            Of their gradients, before clipping.
        """
        clipped = np.minimum(norms.detach().cpu().double().numpy(), self.clip)
        cast = clipped.astype(self.kind)
        low = cast < clipped
        cast[low] = np.nextafter(cast[low], self.kind(np.inf))
        asked = np.zeros(self.barred_at.size, dtype=self.kind)
        asked[rows] = cast
        part = self.filter.charge(asked)[rows]
        self.barred_at[rows[~part]] = step
        return torch.from_numpy(part)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return everything `restore` needs."""
        return {**{f"filter_{name}": one for name, one in self.filter.state().items()}, "barred_at": self.barred_at}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Go back to a state."""
        self.filter.restore({name: state[f"filter_{name}"] for name in ("squares", "active", "n_steps")})
        self.barred_at = state["barred_at"].copy()

    def account(self) -> dict[str, NDArray[Any]]:
        """Return what the run keeps at its end."""
        return {"spent": self.filter.spent, "barred_at": self.barred_at.copy()}


def privacy_of(values: dict[str, Any], account: dict[str, NDArray[Any]]) -> BudgetedPrivacy:
    """Return what a run with these settings and this account has."""
    spent = np.asarray(account["spent"], dtype=np.float64)
    return BudgetedPrivacy(
        budget=np.broadcast_to(np.asarray(values["budgets"], dtype=np.float64), spent.shape).copy(),
        spent=spent,
        barred_at=np.asarray(account["barred_at"], dtype=np.int64),
        **{name: values[name] for name in ("clip", "noise_multiplier", "n_steps", "room", "seeded")},
    )
