"""Members that are trained at once: their weights are one array, and a step of all is one call of the kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from expunge._kernels import backend
from expunge.langevin import standard_normals
from expunge.torch.ensemble.plan import NotUnderstoodError, Plan
from expunge.torch.training.errors import NonFiniteLossError
from expunge.torch.training.sampling import Batches, stream_seed

__all__ = ["Data", "Group", "Member", "put"]

_SAME = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 1e-3}  # relative, of gradients that rounding tells apart


class Data:
    """Records as the kernel takes them: images with their channels last, one row each."""

    def __init__(self, plan: Plan, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x.detach(), y
        rows = self.x.permute(0, 2, 3, 1) if plan.image else self.x
        self.images = np.ascontiguousarray(rows.reshape(len(x), -1).numpy())
        self.labels = np.ascontiguousarray(y.numpy())


@dataclass
class Member:
    """One model and what it is trained on."""

    number: int
    model: nn.Module
    rows: NDArray[np.int64] | None
    settings: dict[str, Any]

    @property
    def n_steps(self) -> int:
        """Number of its steps."""
        return int(self.settings["n_steps"])

    def batches(self) -> Batches:
        """Return the batches that it has alone."""
        s = self.settings
        return Batches(s["n_records"], batch_size=s["batch_size"], sampling=s["sampling"], seed=s["seed"])

    def of_all(self, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of the dataset that rows of its subset are."""
        return batch if self.rows is None else self.rows[batch]


class Group:
    """Members trained at once, on one thread."""

    def __init__(self, plan: Plan, data: Data, members: list[Member], *, stop: Event) -> None:
        self.plan, self.data, self.stop = plan, data, stop
        self.active = list(members)
        self.settings = members[0].settings
        self.batches = [member.batches() for member in members]
        self.weights = np.stack([_flat(member.model.parameters()) for member in members])
        self.grads = np.empty_like(self.weights)
        self.failures: dict[int, NonFiniteLossError] = {}
        self.ended: list[tuple[Member, NDArray[Any]]] = []

    def _gradients(self, batches: list[NDArray[np.int64]]) -> NDArray[Any]:
        """Take gradients of every member's batch; return the losses, one after the other."""
        rows = [member.of_all(batch) for member, batch in zip(self.active, batches, strict=True)]
        ends = np.cumsum([batch.size for batch in batches], dtype=np.int64)
        losses = np.empty(int(ends[-1]), dtype=self.weights.dtype)
        backend.HOST.run(
            "network_gradients", self.plan.lines, self.plan.eps, self.weights, self.data.images, self.data.labels,
            np.concatenate(rows), ends, self.grads, losses, threads=1,
        )  # fmt: skip
        return losses

    def check(self) -> None:
        """Compare gradients of the first batch that is not empty.

        Raises
        ------
        NotUnderstoodError
            If the kernel's are not PyTorch's.
        """
        batches = [of(0) for of in self.batches]
        self._gradients(batches)
        for member, batch, found in zip(self.active, batches, self.grads, strict=True):
            rows = torch.from_numpy(member.of_all(batch))
            parameters = list(member.model.parameters())
            total = F.cross_entropy(member.model(self.data.x[rows]), self.data.y[rows], reduction="sum")
            grads = torch.autograd.grad(total, parameters, allow_unused=True)
            expected = _flat(
                torch.zeros_like(p) if grad is None else grad for p, grad in zip(parameters, grads, strict=True)
            )
            if not np.isfinite(expected).all():
                continue  # its first step tells
            if not np.abs(found - expected).max() <= _SAME[found.dtype] * np.abs(expected).max():
                raise NotUnderstoodError(f"gradients of model {member.number} are not those that PyTorch finds")

    def train(self, tick: Callable[[int], None]) -> Group:
        """Take all steps; ``tick`` hears of them. Then ``failures`` and ``ended`` hold what came of the members."""
        step = 0
        while self.active and not self.stop.is_set():
            batches = [of(step) for of in self.batches]
            losses = self._gradients(batches)
            failed = self._failed(step, batches, losses)
            self.failures |= {self.active[k].number: error for k, error in failed.items()}
            self._leave(list(failed))
            self._update(step)
            step += 1
            tick(len(self.active))
            ended = [k for k, member in enumerate(self.active) if member.n_steps == step]
            for k in ended:
                if not np.isfinite(self.weights[k]).all():  # as the last step has left them
                    batch = tuple(self.batches[k](step - 1).tolist())
                    self.failures[self.active[k].number] = NonFiniteLossError(step=step - 1, batch=batch, records=())
            self._leave(ended)
        return self

    def _failed(
        self, step: int, batches: list[NDArray[np.int64]], losses: NDArray[Any]
    ) -> dict[int, NonFiniteLossError]:
        if np.isfinite(losses).all():
            return {}
        found = {}
        ends = np.cumsum([batch.size for batch in batches])
        for k, (batch, some) in enumerate(zip(batches, np.split(losses, ends[:-1]), strict=True)):
            bad = batch[~np.isfinite(some)]
            if bad.size:
                found[k] = NonFiniteLossError(step=step, batch=tuple(batch.tolist()), records=tuple(bad.tolist()))
        return found

    def _leave(self, places: list[int]) -> None:
        """Keep the weights of members that are done, and go on without them."""
        if not places:
            return
        self.ended += [(self.active[k], self.weights[k].copy()) for k in places]
        stay = [k for k in range(len(self.active)) if k not in places]
        self.active, self.batches = [self.active[k] for k in stay], [self.batches[k] for k in stay]
        self.weights, self.grads = self.weights[stay], self.grads[stay]

    def _update(self, step: int) -> None:
        """Take the step that `train` takes, of all members."""
        s = self.settings
        with np.errstate(all="ignore"):  # of weights that are not finite the next loss tells
            for member, weights, grads in zip(self.active, self.weights, self.grads, strict=True):
                if s["alpha"]:
                    weights *= 1.0 - s["step_size"] * s["alpha"]
                grads *= -s["step_size"] / s["batch_size"]
                weights += grads
                if s["noise_std"]:
                    noise = standard_normals(
                        weights.size, seed=stream_seed(member.settings["seed"], "noise", 0), step=step,
                        dtype=weights.dtype, threads=1,
                    )  # fmt: skip
                    noise *= s["noise_std"]
                    weights += noise


@torch.no_grad()
def put(member: Member, weights: NDArray[Any]) -> None:
    """Give a member's model its weights."""
    values, at = torch.from_numpy(weights), 0
    for parameter in member.model.parameters():
        parameter.copy_(values[at : at + parameter.numel()].view_as(parameter))
        parameter.grad = None
        at += parameter.numel()


def _flat(tensors: Any) -> NDArray[Any]:
    return torch.cat([one.detach().flatten() for one in tensors]).numpy()
