"""Targets of quotes, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from expunge import _validate
from expunge._errors import DeviceError
from expunge._kernels import backend
from expunge._kernels.backend import RidgeSetting
from expunge.accounting.gdp import gdp_mu
from expunge.runs.ridge.spectral import Float64, Int64, LearningLaw

Place = backend.Place


@dataclass(frozen=True)
class Goal:
    """A validated target: (epsilon, delta) and either a number of steps or a noise."""

    epsilon: float
    delta: float
    steps: float
    noise: float
    solve_steps: bool

    @classmethod
    def of(cls, epsilon: float, delta: float, n_steps: int | None, noise_std: float | None) -> Goal:
        """Return the target, its arguments checked."""
        # In the kernels its products leave float64 beyond; a smaller one is more than what was asked for.
        epsilon = min(_validate.number("epsilon", epsilon, low=0.0), 1e300)
        delta = _validate.number("delta", delta, low=0.0, high=1.0, open_low=True, open_high=True)
        if (n_steps is None) == (noise_std is None):
            raise ValueError("exactly one of n_steps and noise_std must be given")
        if noise_std is not None:
            return cls(epsilon, delta, 0.0, _validate.number("noise_std", noise_std, low=0.0, open_low=True), True)
        return cls(epsilon, delta, float(_validate.count("n_steps", n_steps)), 0.0, False)

    def setting(self, law: LearningLaw, tolerance: float) -> RidgeSetting:
        """Return the target as the kernels take it."""
        return RidgeSetting(
            step_size=law.step_size,
            noise_std=law.noise_std,
            unlearn_steps=self.steps,
            unlearn_noise_std=self.noise,
            solve_steps=self.solve_steps,
            epsilon=self.epsilon,
            log_delta=math.log(self.delta),
            mu=gdp_mu(self.epsilon, self.delta),
            tolerance=tolerance,
        )

    def answers(self, value: Float64) -> tuple[Float64, Int64]:
        """Return (noise_std, n_steps) for the solved ``value``."""
        if not self.solve_steps:
            return value, np.full(value.size, int(self.steps), dtype=np.int64)
        endless = ~(value < 2.0**62)
        steps = np.where(endless, -1.0, value).astype(np.int64)
        noise = np.where(value > 0.0, self.noise, 0.0)
        noise[endless] = np.inf
        return noise, steps


def there(place: Place, *arrays: Any) -> list[Any]:
    """Return host arrays where the records lie: copies on a device, or the arrays themselves."""
    return [place.asarray(array) for array in arrays]


def checked_groups(law: LearningLaw, groups: Sequence[ArrayLike]) -> list[Int64]:
    """Return the rows of each group, checked."""
    if not law._place.on_host:
        raise DeviceError("groups are quoted on the CPU: law must be made from a design and targets there")
    members = [_validate.row_indices(f"groups[{i}]", rows, law.n_records) for i, rows in enumerate(groups)]
    if not members:
        raise ValueError("groups must name at least one group, got none")
    return members
