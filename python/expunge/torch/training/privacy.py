"""Differential privacy of training: what is asked for, and what a run has."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from expunge._types import JsonObject
from expunge._validate import choice, number
from expunge.accounting import PrivateTraining, dp_sgd_noise_multiplier

__all__ = ["Privacy", "TrainingPrivacy", "least_noise_std", "room_of"]

# Room above the clipping bound for the rounding of norms and of clipped gradients, by the precision of the parameters.
_ROOM = {torch.float64: 1e-9, torch.float32: 1e-3}


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """Differential privacy that `train` is to give every record: its ``privacy=`` argument.

    Parameters
    ----------
    epsilon : float
        > 0.
    delta : float
        Within (0, 1).
    clip : float
        Largest norm of a record's gradient, > 0; longer ones are scaled down to it.
    accountant : {"rdp", "pld"}
        How the noise for Poisson batches is found: by Renyi divergences, or by the privacy loss distribution of
        dp-accounting (extra ``dp``), which needs a tenth less noise and takes some seconds. Full batches
        (``batch_size`` of all records) are exact with either.

    Examples
    --------
    >>> import torch
    >>> from expunge.torch import Privacy, train
    >>> _ = torch.manual_seed(0)
    >>> x, y = torch.randn(64, 5), torch.arange(64) % 2
    >>> run = train(torch.nn.Linear(5, 2), (x, y), step_size=0.5, batch_size=64, n_steps=20,
    ...             privacy=Privacy(epsilon=2.0, delta=1e-5, clip=1.0))
    >>> run.privacy.epsilon, run.privacy.status, round(run.privacy.mu, 3)
    (2.0, 'conditional', 0.502)
    """

    epsilon: float
    delta: float
    clip: float
    accountant: str = "rdp"

    def __post_init__(self) -> None:
        number("epsilon", self.epsilon, low=0.0, open_low=True)
        number("delta", self.delta, low=0.0, high=1.0, open_low=True, open_high=True)
        number("clip", self.clip, low=0.0, open_low=True)
        choice("accountant", self.accountant, ("rdp", "pld"))

    def of(
        self, parameters: list[Tensor], *, sampling_probability: float, n_steps: int, seeded: bool
    ) -> TrainingPrivacy:
        """Return what a run with the least noise that gives this has."""
        multiplier = dp_sgd_noise_multiplier(
            epsilon=self.epsilon,
            delta=self.delta,
            sampling_probability=sampling_probability,
            n_steps=n_steps,
            accountant=self.accountant,
        )
        return TrainingPrivacy(
            epsilon=float(self.epsilon),
            delta=float(self.delta),
            clip=float(self.clip),
            noise_multiplier=multiplier,
            sampling_probability=sampling_probability,
            n_steps=n_steps,
            accountant=self.accountant if sampling_probability < 1.0 else "gdp",
            room=room_of(parameters),
            seeded=seeded,
        )


def room_of(parameters: list[Tensor]) -> float:
    """Return what rounding may add to the norm of a clipped gradient, relative."""
    return max(_room(p) for p in parameters)


def least_noise_std(*, noise_multiplier: float, bound: float, step_size: float, batch_size: int) -> float:
    """Return the noise of a step of ``step_size / batch_size`` times a sum of bounded gradients, rounded up."""
    return math.nextafter(noise_multiplier * bound * step_size / batch_size * (1.0 + 1e-14), math.inf)


def _room(parameter: Tensor) -> float:
    try:
        return _ROOM[parameter.dtype]
    except KeyError:
        raise TypeError(
            f"privacy needs parameters of float32 or float64, got {parameter.dtype}: gradients of shorter numbers "
            "cannot be bounded"
        ) from None


@dataclass(frozen=True, kw_only=True)
class TrainingPrivacy:
    """Differential privacy of a run: of all its weights, for a record that is there or not. Made by `train`.

    Attributes
    ----------
    epsilon, delta : float
        The claim.
    clip : float
        The bound that gradients were clipped to.
    noise_multiplier : float
        Noise over ``clip (1 + room)``.
    sampling_probability : float
        Poisson rate of a step, a constant of the procedure; 1 for full batches.
    n_steps : int
    accountant : {"gdp", "rdp", "pld"}
        ``"gdp"`` for full batches.
    room : float
        What rounding may add to the norm of a clipped gradient, relative.
    seeded : bool
        Whether the caller gave the seed.
    status : str
        ``"conditional"``: see ``conditions``.

    Notes
    -----
    Nothing is claimed of norms, losses and other columns of a run: they are the owner's. The claim is that of Abadi et
    al., *Deep learning with differential privacy* (1607.00133), for the sum of clipped gradients.
    """

    epsilon: float
    delta: float
    clip: float
    noise_multiplier: float
    sampling_probability: float
    n_steps: int
    accountant: str
    room: float
    seeded: bool
    status: str = "conditional"

    @property
    def mu(self) -> float | None:
        """GDP parameter of a run with full batches, None for Poisson batches."""
        return self.mechanism.mu() if self.sampling_probability == 1.0 else None

    @property
    def conditions(self) -> tuple[str, ...]:
        """Assumptions that the claim rests on, in words."""
        return self.mechanism.conditions

    @property
    def mechanism(self) -> PrivateTraining:
        """Constants of the training, as joint claims and certificates take them."""
        return PrivateTraining(
            clip=self.clip,
            noise_multiplier=self.noise_multiplier,
            sampling_probability=self.sampling_probability,
            n_steps=self.n_steps,
            accountant=self.accountant,
            room=self.room,
            seeded=self.seeded,
        )

    def noise_std(self, *, step_size: float, batch_size: int) -> float:
        """Return the noise of a step of ``step_size / batch_size`` times the sum of clipped gradients, rounded up."""
        bound = self.clip * (1.0 + self.room)
        return least_noise_std(
            noise_multiplier=self.noise_multiplier, bound=bound, step_size=step_size, batch_size=batch_size
        )

    def joint_epsilon(self, *, mu: float, delta: float | None = None, size: int = 1) -> float:
        """Return the epsilon of the weights together with another mu-GDP release of the same records, rounded up.

        Parameters
        ----------
        mu : float
            Of the other release, which may depend on the weights: a head's on the features that they give.
        delta : float, optional
            That of the run by default.
        size : int
            Records that are there or not together; ``mu`` is then that of all of them.

        Returns
        -------
        float
            With full batches exactly that of ``sqrt((size run.privacy.mu)^2 + mu^2)``.
        """
        return self.mechanism.epsilon(delta=self.delta if delta is None else delta, mu=mu, group_size=size)

    def group_epsilon(self, *, size: int, delta: float | None = None) -> float:
        """Return the epsilon of ``size`` records together, at ``delta`` (by default the run's), rounded up.

        For Poisson batches by the number of them that a batch holds, which is binomial (`dp_sgd_epsilon`).
        """
        return self.joint_epsilon(mu=0.0, delta=delta, size=size)

    def to_dict(self) -> JsonObject:
        """Return all numbers and conditions as JSON values."""
        return {**asdict(self), "mu": self.mu, "conditions": list(self.conditions)}

    @classmethod
    def from_dict(cls, values: JsonObject) -> TrainingPrivacy:
        """Return what `to_dict` wrote."""
        given: dict[str, Any] = {key: value for key, value in values.items() if key not in ("mu", "conditions")}
        return cls(**given)
