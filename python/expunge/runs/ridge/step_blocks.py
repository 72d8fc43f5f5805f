"""The steps of a phase in blocks: their noise-free states, and bounds on what a rounded eigenbasis does to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expunge.data.close_products import norm, sum_error
from expunge.runs.ridge.power_sums import powers
from expunge.runs.ridge.rounding import Basis

__all__ = ["Block", "FrameErrors", "blocks", "n_blocks"]

Array = NDArray[np.float64]

# Steps of a phase that are bounded one by one; later ones in blocks that make 32 to a doubling of the time.
_SINGLE_STEPS = 2048
_BLOCKS_PER_DOUBLING = 32
_EPS = float(np.finfo(np.float64).eps)


class Block(NamedTuple):
    """One block of steps of a run in its eigenbasis: the state at its first step and how much it still changes."""

    length: int
    mean: Array  # (p, q), noise-free parameters before the first step
    error: Array  # (p, q), bound on their rounding
    change: Array  # (p, q), absolute change up to the last step
    power: Array  # (p,), a^k before the first step
    drop: Array  # (p,), fall of that power up to the last step
    geometric: Array  # (p,), sum of a^(2j) before the last step


def blocks(basis: Basis, mean: Array, n_steps: int, step_size: float) -> Iterator[Block]:
    """Yield the blocks of a phase that starts at ``mean``; the early steps one by one."""
    push = step_size * basis.moment
    a, still = basis.a, np.zeros_like(mean)
    power, geometric, none = np.ones_like(a), np.zeros_like(a), np.zeros_like(a)
    current, largest = mean, np.abs(mean)
    with np.errstate(divide="ignore"):
        memory = 1.0 / (1.0 - a)[:, None]  # steps over which a rounding is felt

    def rounding(k: int) -> Array:
        return 4.0 * _EPS * np.minimum(memory, k + 1.0) * largest

    for k in range(min(n_steps, _SINGLE_STEPS)):
        largest = np.maximum(largest, np.abs(current))
        yield Block(1, current, rounding(k), still, power, none, geometric)
        current = a[:, None] * current + push
        geometric = geometric + power * power
        power = power * a
    done = _SINGLE_STEPS
    while done < n_steps:
        length = min(max(done // _BLOCKS_PER_DOUBLING, 1), n_steps - done)
        last_power, last_total = powers(a, done + length - 1)
        last = last_power[:, None] * mean + last_total[:, None] * push
        largest = np.maximum(largest, np.abs(last))
        yield Block(
            length, current, rounding(done + length), np.abs(last - current), power, np.abs(power - last_power),
            powers(a * a, done + length - 1)[1],
        )  # fmt: skip
        power, current = last_power * a, a[:, None] * last + push
        done += length


class FrameErrors:
    """Errors of a run in a rounded eigenbasis: bounds on the residuals' means and standard deviations.

    With A = diag(a) + F in the frame, the true means differ from those computed by sum of A^(k-1-m) (F M_m + eta d) and
    A^k (the start's error), d being the error of V^T X^T Y; with r = |F| times the sum of |A|^k, the true
    standard deviation of the noise in any direction is at most 1/(1 - r) of that computed.
    """

    def __init__(self, basis: Basis, phase_steps: int, step_size: float, start_off: float) -> None:
        p, frame = basis.a.size, basis.frame
        self.norm = frame.norm
        rate = float(np.abs(basis.a).max()) + frame.norm
        self.memory = phase_steps if rate >= 1.0 else min(phase_steps, 1.0 / (1.0 - rate))
        if rate > 1.0:
            self.memory *= math.exp(min(phase_steps * (rate - 1.0), 700.0))
        self.share = frame.norm * self.memory
        if not self.share < 0.1:
            raise ValueError(
                f"the run is numerically singular: rounding may move its parameters by {self.share:.2g} of their size. "
                "Fewer steps, a larger alpha, or features divided by constants that make them alike help"
            )
        self._push = step_size * norm(basis.moment_error)
        self.turned = frame.apart + 2.0 * math.sqrt(p) * sum_error(p)
        self._start, self._largest, self._done = start_off, 0.0, 0

    def mean_off(self, block: Block) -> float:
        """Return a bound on the norm of the mean's error in a block; blocks come in order."""
        self._largest = max(self._largest, norm(block.mean) + norm(block.change))
        self._done += block.length
        return float(self.means_off(np.array(self._largest), np.array(self._done - 1.0)))

    def means_off(self, largest: Array, done: Array) -> Array:
        """Return the same after ``done`` steps, of means whose norms were at most ``largest`` so far."""
        moved = np.minimum(self.memory, done) * (self.norm * largest + self._push) + self._start
        return np.asarray(moved + self.turned * largest)

    def deviation(self, variance: Array, lengths: Array, noise_std: float) -> Array:
        """Return bounds on the standard deviations from computed variances of rows of these lengths."""
        added, factor = self.deviation_off(noise_std)
        return np.asarray((np.sqrt(variance) + added * lengths) * factor)

    def deviation_off(self, noise_std: float) -> tuple[float, float]:
        """Return what is added to a computed standard deviation per length of the row, and the factor after that."""
        return self.turned * noise_std * math.sqrt(self.memory), (1.0 + 1e-12) / (1.0 - self.share)


def n_blocks(n_steps: int) -> int:
    """Return how many blocks a phase of ``n_steps`` has: its cost, which grows like the logarithm of long phases."""
    if n_steps <= _SINGLE_STEPS:
        return n_steps
    return _SINGLE_STEPS + math.ceil(math.log(n_steps / _SINGLE_STEPS) / math.log1p(1 / (_BLOCKS_PER_DOUBLING + 1))) + 1
