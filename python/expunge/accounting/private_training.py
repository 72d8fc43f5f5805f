"""Training by noisy sums of clipped gradients, as a mechanism: its constants, and its claims with other releases."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from expunge._types import JsonObject
from expunge._validate import choice, count, number
from expunge.accounting.dp_sgd import dp_sgd_epsilon, dp_sgd_mu
from expunge.accounting.gdp import gdp_epsilon

__all__ = ["PrivateTraining"]

_UP = 1.0 + 8.0 * float(np.finfo(np.float64).eps)
_FULL = ("gdp", "filter")
BUDGETS_FIXED = (
    "every record's budget was fixed before training, by no other record, and what sums of gradients are divided by is "
    "the same number with the record and without it"
)


@dataclass(frozen=True, kw_only=True)
class PrivateTraining:
    """Constants of a training with differential privacy, for a record that is there or not.

    Attributes
    ----------
    clip : float
        Bound on the norm of a record's gradient, > 0.
    noise_multiplier : float
        Noise of a step over ``clip (1 + room)``, > 0.
    sampling_probability : float
        Poisson rate of a step, within (0, 1]; 1 for full batches.
    n_steps : int
        >= 1.
    accountant : {"gdp", "filter", "rdp", "pld"}
        ``"gdp"`` and ``"filter"`` for full batches, and for no other.
    room : float
        What rounding may add to the norm of a clipped gradient, relative; >= 0.
    seeded : bool
        Whether the caller gave the seed.
    budget : float, optional
        With the accountant "filter", and no other: the largest GDP budget of a record, >= 0. No record enters a step
        that would take it above its own (`GaussianFilter`), however many steps there are.

    Raises
    ------
    TypeError, ValueError
        On construction, naming what is of the wrong kind or out of range.

    Examples
    --------
    >>> from expunge.accounting import PrivateTraining
    >>> full = PrivateTraining(clip=1.0, noise_multiplier=20.0, sampling_probability=1.0, n_steps=100,
    ...                        accountant="gdp", room=1e-3, seeded=False)
    >>> round(full.mu(), 12), round(full.mu(group_size=3), 12)
    (0.5, 1.5)
    >>> full.epsilon(delta=1e-5) < full.epsilon(delta=1e-5, mu=0.3) < full.epsilon(delta=1e-5, mu=0.3, group_size=2)
    True
    """

    clip: float
    noise_multiplier: float
    sampling_probability: float
    n_steps: int
    accountant: str
    room: float
    seeded: bool
    budget: float | None = None

    def __post_init__(self) -> None:
        for name, given in (
            ("clip", {"low": 0.0, "open_low": True}),
            ("noise_multiplier", {"low": 0.0, "open_low": True}),
            ("sampling_probability", {"low": 0.0, "high": 1.0, "open_low": True}),
            ("room", {"low": 0.0}),
        ):
            object.__setattr__(self, name, number(name, getattr(self, name), **given))  # type: ignore[arg-type]
        object.__setattr__(self, "n_steps", count("n_steps", self.n_steps, low=1))
        how = choice("accountant", self.accountant, ("gdp", "filter", "rdp", "pld"))
        if (how in _FULL) != (self.sampling_probability == 1.0):
            needed = "'gdp' or 'filter' for full batches" if how not in _FULL else "'rdp' or 'pld' for Poisson batches"
            raise ValueError(f"accountant must be {needed}, got {how!r}")
        if (how == "filter") != (self.budget is not None):
            needed = "given" if how == "filter" else "None"
            raise ValueError(f"budget must be {needed} with the accountant {how!r}, got {self.budget!r}")
        if self.budget is not None:
            object.__setattr__(self, "budget", number("budget", self.budget, low=0.0))
        if not isinstance(self.seeded, bool):
            raise TypeError(f"seeded must be True or False, got {self.seeded!r}")

    @property
    def conditions(self) -> tuple[str, ...]:
        """Assumptions that every claim of such a training rests on, in words."""
        given = (
            "the seed that was given stays secret, and was used for nothing else"
            if self.seeded
            else "the seed that the operating system drew is unknown to others"
        )
        return (
            given + "; pseudorandom numbers cannot be told from random ones",
            "floating-point arithmetic is taken for that of real numbers, but for norms, which have room for a "
            f"relative error of {self.room:g}",
            "an item of the dataset is made of its own record alone, and what model and loss do with it depends on no "
            "other, for which only a few were compared",
            "the initial weights, the number of steps, the batch size over the number of records and every other "
            "constant were chosen without the records",
            *(() if self.budget is None else (BUDGETS_FIXED,)),
        )

    def mu(self, *, mu: float = 0.0, group_size: int = 1) -> float:
        """Return the GDP parameter with another release of ``mu`` that may depend on the weights, rounded up.

        Raises
        ------
        ValueError
            For Poisson batches, which have none.
        """
        if self.sampling_probability < 1.0:
            raise ValueError("mu needs full batches, got Poisson batches, which have no GDP parameter: ask for epsilon")
        if self.budget is not None:
            return _of_budget(self.budget, number("mu", mu, low=0.0), count("group_size", group_size, low=1))
        return dp_sgd_mu(noise_multiplier=self.noise_multiplier, n_steps=self.n_steps, mu=mu, group_size=group_size)

    def epsilon(self, *, delta: float, mu: float = 0.0, group_size: int = 1, accountant: str | None = None) -> float:
        """Return the epsilon of the weights, with another release of ``mu`` that may depend on them, rounded up.

        Parameters
        ----------
        delta : float
            Within [0, 1].
        mu : float
            Of the other release, for the whole group.
        group_size : int
            Records that are there or not together.
        accountant : {"rdp", "pld"}, optional
            For Poisson batches; that of the training if omitted.

        Raises
        ------
        ImportError
            With "pld", if dp-accounting is not installed.
        """
        if self.budget is not None:
            return float(gdp_epsilon(self.mu(mu=mu, group_size=group_size), number("delta", delta, low=0.0, high=1.0)))
        how = choice("accountant", self.accountant if accountant is None else accountant, ("gdp", "rdp", "pld"))
        return dp_sgd_epsilon(
            noise_multiplier=self.noise_multiplier,
            delta=delta,
            sampling_probability=self.sampling_probability,
            n_steps=self.n_steps,
            mu=mu,
            accountant="rdp" if how == "gdp" else how,
            group_size=group_size,
        )

    def to_dict(self) -> JsonObject:
        """Return all constants as JSON values."""
        values = asdict(self)
        if self.budget is None:
            del values["budget"]
        return values


def _of_budget(budget: float, mu: float, group_size: int) -> float:
    """Return ``sqrt((group_size budget)^2 + mu^2)``, rounded up: claims about single records add up over a group."""
    group = budget * group_size * _UP if group_size > 1 else budget
    return math.hypot(group, mu) * _UP if mu else group
