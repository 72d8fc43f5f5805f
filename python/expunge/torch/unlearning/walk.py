"""Steps of an unlearning method: whose losses go down, whose go up. The step itself is that of training."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from expunge.torch.training.errors import NonFiniteLossError
from expunge.torch.training.records import Records
from expunge.torch.training.sampling import Batches, stream_seed
from expunge.torch.training.step import Loss, Step, per_record_losses

__all__ = ["Walk", "evaluating", "now"]

Rows = NDArray[np.int64]


class _SignedLoss:
    """A loss times a factor for each record of the batch at hand."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self.factors: Tensor | None = None

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        if self.factors is None:
            return self.loss(output, target)
        losses = per_record_losses(self.loss, output, target, self.factors.numel())
        return losses * self.factors.to(losses.dtype)


class _Part:
    """Records whose losses enter the step times one factor, in batches of their own."""

    def __init__(self, rows: Rows, factor: float, *, batch_size: int, sampling: str, seed: int) -> None:
        self.rows, self.factor = rows, factor
        self.batch_size = min(batch_size, rows.size)
        self.batches = Batches(rows.size, batch_size=self.batch_size, sampling=sampling, seed=seed)

    def __call__(self, step: int) -> Rows:
        return self.rows[self.batches(step)]


class Walk:
    """Takes the steps of a method, all a function of (seed, step).

    Parameters
    ----------
    model, records, loss, step_size, batch_size, sampling, noise_std, clip, alpha, seed
        As in training.
    descend, ascend : ndarray of int64 or None
        Records whose mean loss goes down, and those whose mean loss, times ``ascent_weight``, goes up.
    """

    def __init__(
        self,
        model: nn.Module,
        records: Records,
        *,
        loss: Loss,
        descend: Rows | None,
        ascend: Rows | None,
        ascent_weight: float,
        step_size: float,
        batch_size: int,
        sampling: str,
        noise_std: float,
        clip: float | None,
        alpha: float,
        seed: int,
    ) -> None:
        self.model, self.records, self.seed = model, records, seed
        self.parts: list[_Part] = []
        for rows, factor in ((descend, 1.0), (ascend, -ascent_weight)):
            if rows is not None:
                # The first part's batches are those that training on these records alone would draw.
                own = stream_seed(seed, "ascend", 0) if self.parts else seed
                self.parts.append(_Part(rows, factor, batch_size=batch_size, sampling=sampling, seed=own))
        self.loss = _SignedLoss(loss)
        self.step = Step(
            model, loss=self.loss, step_size=step_size, batch_size=self.parts[0].batch_size, noise_std=noise_std,
            alpha=alpha, clip=clip, seed=seed,
        )  # fmt: skip
        self.n_taken = 0
        self._last: Rows = np.empty(0, dtype=np.int64)

    def take(self) -> None:
        """Take the next step."""
        drawn = [part(self.n_taken) for part in self.parts]
        # The step divides by the batch size of the first part.
        scale = [part.factor * self.parts[0].batch_size / part.batch_size for part in self.parts]
        rows = np.concatenate(drawn)
        if len(self.parts) > 1 or scale[0] != 1.0:
            factors = np.repeat(scale, [part.size for part in drawn])
            self.loss.factors = torch.from_numpy(factors).to(self.records.device)
        x, y = self.records.batch(rows) if rows.size else (torch.empty(0), torch.empty(0))
        self.step(self.n_taken, rows, x, y, norms=False)
        self.n_taken += 1
        self._last = rows

    def check_weights(self) -> None:
        """Stop if the last step left a weight that is not finite."""
        for value in self.model.state_dict().values():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise NonFiniteLossError(step=self.n_taken - 1, batch=tuple(self._last.tolist()), records=())


@contextlib.contextmanager
def evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Leave the model's mode and torch's generators as they were, whatever a metric does to them."""
    modes = {module: module.training for module in model.modules()}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training


def now(device: torch.device) -> float:
    """Return the clock once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
