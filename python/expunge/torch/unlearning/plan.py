"""Plans of unlearning: options with their cost and guarantee, and the one chosen for each request."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from expunge._types import JsonObject

__all__ = ["GUARANTEES", "UnlearningChoice", "UnlearningOption", "UnlearningPlan"]

GUARANTEES = ("estimate", "conditional", "certified", "exact by construction")  # each worth more than those before


@dataclass(frozen=True, kw_only=True)
class UnlearningOption:
    """Cost and guarantee of one way to answer a request.

    Attributes
    ----------
    name : {"release", "head", "fine_tune", "retrain"}
        The model as it stands; deletion from the head alone; fine-tuning for ``gradient_steps``; training again.
    status : {"none", "estimate", "conditional", "certified", "exact by construction"}
        Standing of what it gives; ``"none"`` if it gives nothing or cannot be done.
    epsilon, delta : float or None
        Of the claim, about all records of this request and of those before it in the plan; None without a claim.
    gradient_steps : int or None
        Of the network; None if it cannot be done.
    passes : float or None
        Over the records that remain, those of the head included; of a head an *estimate*.
    meets : bool
        Whether it gives what was asked for.
    reason : str
        Why, in words.
    """

    name: str
    status: str
    epsilon: float | None = None
    delta: float | None = None
    gradient_steps: int | None = None
    passes: float | None = None
    meets: bool = False
    reason: str

    @property
    def possible(self) -> bool:
        """Whether it can be done at all."""
        return self.passes is not None


@dataclass(frozen=True, kw_only=True)
class UnlearningChoice:
    """One request, all options, and the one chosen.

    Attributes
    ----------
    request : ndarray of int64
        Records to forget, rows of the dataset.
    privacy_loss : float or None
        Their mean privacy loss, an *estimate*; None where the run has none.
    options : tuple of UnlearningOption
    chosen : UnlearningOption
        Of those that meet what was asked for, the one with the fewest passes.
    """

    request: NDArray[np.int64] = field(repr=False)
    privacy_loss: float | None
    options: tuple[UnlearningOption, ...]
    chosen: UnlearningOption

    @property
    def status(self) -> str:
        """Standing of the option chosen."""
        return self.chosen.status

    def option(self, name: str) -> UnlearningOption:
        """Return the option of a name."""
        return next(one for one in self.options if one.name == name)

    def to_dict(self) -> JsonObject:
        """Return the request and all options as JSON values."""
        options = [asdict(one) for one in self.options]
        request: list[int] = self.request.tolist()
        return {
            "request": request, "privacy_loss": self.privacy_loss, "options": options, "chosen": self.chosen.name,
            "status": self.status,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class UnlearningPlan:
    """Choices for a sequence of requests. Made by `UnlearningPolicy.plan`. Confidential: it names records.

    Attributes
    ----------
    guarantee : str
        What was asked for.
    epsilon, delta : float or None
        Of the claim that was asked for.
    choices : tuple of UnlearningChoice
    retrain_passes : float
        Passes of one training, to compare with.
    """

    guarantee: str
    epsilon: float | None
    delta: float | None
    choices: tuple[UnlearningChoice, ...] = field(repr=False)
    retrain_passes: float

    @property
    def status(self) -> str:
        """Weakest standing of what was chosen."""
        return min((one.status for one in self.choices), key=GUARANTEES.index)

    @property
    def passes(self) -> float:
        """Passes of all choices together."""
        return math.fsum(float(one.chosen.passes or 0.0) for one in self.choices)

    def summary(self) -> str:
        """Return a line for each request."""
        asked = self.guarantee if self.epsilon is None else f"{self.guarantee}, epsilon = {self.epsilon:g}"
        lines = [f"asked: {asked}; {self.passes:.3g} passes, {self.retrain_passes:.3g} for one retraining"]
        for k, one in enumerate(self.choices):
            c = one.chosen
            lines.append(f"  request {k}, {one.request.size} records: {c.name}, {c.passes:.3g} passes, {c.status}")
            lines += [f"    not {other.name}: {other.reason}" for other in one.options if not other.meets]
        return "\n".join(lines)

    def to_dict(self) -> JsonObject:
        """Return the plan as JSON values."""
        return {
            "status": self.status,
            "asked": {"guarantee": self.guarantee, "epsilon": self.epsilon, "delta": self.delta},
            "passes": self.passes,
            "retrain_passes": self.retrain_passes,
            "choices": [one.to_dict() for one in self.choices],
        }
