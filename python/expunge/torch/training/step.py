"""One step: theta <- theta - step_size (sum over the batch of g_i / batch_size + alpha theta) + noise_std xi."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from expunge.langevin import standard_normals
from expunge.torch._gradient_norms import GradNorms, KeptBlock
from expunge.torch.training.budgets import BudgetKeeper
from expunge.torch.training.errors import NonFiniteLossError
from expunge.torch.training.sampling import stream_seed
from expunge.torch.training.watch import Watch

__all__ = ["Loss", "Step", "Visit", "check_finite", "cross_entropy", "per_record_losses", "seed_randomness"]

Loss = Callable[..., Tensor]  # of a batch's output and targets


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of each record."""
    return F.cross_entropy(output, target, reduction="none")


def per_record_losses(loss: Loss, output: Any, target: Tensor, n: int) -> Tensor:
    """Return the losses, checked to be one per record."""
    losses = loss(output, target)
    if not isinstance(losses, Tensor) or tuple(losses.shape) != (n,):
        came = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(f"loss must return one value per record, shape ({n},), got {came}")
    return losses


def check_finite(losses: Tensor, *, step: int, rows: NDArray[np.int64]) -> None:
    """Stop if a loss is NaN or infinite."""
    good = torch.isfinite(losses)
    if not bool(good.all()):
        bad = rows[~good.cpu().numpy()]
        raise NonFiniteLossError(step=step, batch=tuple(rows.tolist()), records=tuple(bad.tolist()))


def seed_randomness(seed: int) -> None:
    """Seed what a model draws from in its forward pass, dropout say, on the CPU and on CUDA.

    ``torch.manual_seed`` also notes the call stack for every accelerator that is not in use: a millisecond a step.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@dataclass
class Visit:
    """Values that a step saw of its batch: ``norms`` only where they were asked for."""

    rows: NDArray[np.int64]
    output: Any
    target: Tensor
    losses: Tensor
    norms: Tensor | None

    @classmethod
    def detached(
        cls, rows: NDArray[np.int64], output: Any, target: Tensor, losses: Tensor, norms: Tensor | None
    ) -> Visit:
        """Return a visit that does not keep the graph of its step."""
        return cls(rows, output.detach() if isinstance(output, Tensor) else output, target, losses.detach(), norms)


class Step:
    """Takes steps of one model."""

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: Loss,
        step_size: float,
        batch_size: int,
        noise_std: float,
        alpha: float,
        clip: float | None,
        seed: int,
        watch: Watch | None = None,
        keeper: BudgetKeeper | None = None,
    ) -> None:
        self.keeper = keeper
        self.model, self.loss, self.seed, self.watch = model, loss, seed, watch
        self.step_size, self.batch_size = step_size, batch_size
        self.noise_std, self.alpha, self.clip = noise_std, alpha, clip
        self.block = KeptBlock(model)
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ValueError("model must have a parameter that requires grad, got none")

    def close(self) -> None:
        """Leave the model without hooks: it is measured in another way, or the run is over."""
        self.block.close()

    def __call__(self, step: int, rows: NDArray[np.int64], x: Tensor, y: Tensor, *, norms: bool) -> Visit | None:
        """Take the step; return what was seen, None for an empty batch."""
        self.model.zero_grad(set_to_none=True)
        visit = None
        if rows.size:
            # The seed of dropout; twice for the two passes of a clipped step.
            seed_randomness(stream_seed(self.seed, "model", step))
            visit = self._visit(step, rows, x, y, norms)
            check_finite(visit.losses, step=step, rows=rows)
        self._update(step)
        return visit

    def _visit(self, step: int, rows: NDArray[np.int64], x: Tensor, y: Tensor, norms: bool) -> Visit:
        if self.clip is None:
            if not norms:
                output, losses = self._passes(rows, x, y, None)
                return Visit.detached(rows, output, y, losses, None)
            with self.block as g:
                output, losses = self._passes(rows, x, y, None)
                found = g.norms()
            return Visit.detached(rows, output, y, losses, found)
        # Ghost clipping: norms without gradients first, then one backward pass of the reweighted losses.
        watch = self.watch
        if watch is not None:
            watch.begin()
        with GradNorms(self.model, param_grads=False, threads=torch.get_num_threads()) as g:
            _, before = self._passes(rows, x, y, None, g)
            found = g.norms()
            if watch is not None:
                watch.look_at_block(g)
        check_finite(before, step=step, rows=rows)
        seed_randomness(stream_seed(self.seed, "model", step))
        weights = (self.clip / found.clamp_min(self.clip)).to(y.device)
        if self.keeper is not None:
            part = self.keeper.charge(step, rows, found).to(y.device)
            weights = torch.where(part, weights, torch.zeros_like(weights))
        got = None
        if watch is not None and watch.first:
            with GradNorms(self.model, loss_reduction="share", threads=torch.get_num_threads()) as g:
                output, losses = self._passes(rows, x, y, weights)
                got = g.norms()
        else:
            output, losses = self._passes(rows, x, y, weights)
        if watch is not None and watch.end(before, losses, found * weights.to(found), got):
            with torch.no_grad():
                one = [(i, self._losses(x[i : i + 1], y[i : i + 1], 1, None)[1][0]) for i in watch.rows(rows.size)]
            watch.look_at_records(losses, one)
        if watch is not None:
            watch.first = False
        return Visit.detached(rows, output, y, losses, found)

    def _losses(self, x: Tensor, y: Tensor, n: int, block: GradNorms | None) -> tuple[Any, Tensor]:
        output = self.model(x)
        if self.watch is not None and block is not None:
            self.watch.follow(block, y)
        return output, per_record_losses(self.loss, output, y, n)

    def _passes(
        self, rows: NDArray[np.int64], x: Tensor, y: Tensor, weights: Tensor | None, block: GradNorms | None = None
    ) -> tuple[Any, Tensor]:
        """Run forward and backward; return the model's output and the losses."""
        output, losses = self._losses(x, y, rows.size, block)
        total = losses.sum() if weights is None else (losses * weights.to(losses.dtype)).sum()
        total.backward()
        return output, losses

    @torch.no_grad()
    def _update(self, step: int) -> None:
        moved = [(p, p.grad) for p in self.parameters if p.grad is not None]
        # The L2 term of the old weights first: it is part of the same gradient.
        if self.alpha:
            torch._foreach_mul_(self.parameters, 1.0 - self.step_size * self.alpha)
        if moved:
            scale = -self.step_size / self.batch_size
            torch._foreach_add_([p for p, _ in moved], [grad for _, grad in moved], alpha=scale)
        if self.noise_std:
            torch._foreach_add_(self.parameters, self._noise(step), alpha=self.noise_std)

    def _noise(self, step: int) -> list[Tensor]:
        """Return standard normals shaped like the parameters, a function of (seed, step)."""
        device = self.parameters[0].device
        drawn: dict[torch.dtype, Tensor] = {}
        taken: dict[torch.dtype, int] = {}
        for parameter in self.parameters:
            kind = torch.float64 if parameter.dtype == torch.float64 else torch.float32
            taken[kind] = taken.get(kind, 0) + parameter.numel()
        for kind, size in taken.items():
            seed = stream_seed(self.seed, "noise", 0 if device.type == "cpu" else step)
            if device.type == "cpu":
                dtype = np.float64 if kind == torch.float64 else np.float32
                drawn[kind] = torch.from_numpy(
                    standard_normals(size, seed=seed, step=step, dtype=dtype, threads=torch.get_num_threads())
                )
            else:
                generator = torch.Generator(device).manual_seed(seed)
                drawn[kind] = torch.randn(size, dtype=kind, device=device, generator=generator)
        noise, start = [], dict.fromkeys(drawn, 0)
        for parameter in self.parameters:
            kind = torch.float64 if parameter.dtype == torch.float64 else torch.float32
            begin = start[kind]
            start[kind] = begin + parameter.numel()
            noise.append(drawn[kind][begin : start[kind]].view_as(parameter).to(parameter.dtype))
        return noise
