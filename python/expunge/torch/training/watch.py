"""A watch over the steps of a private run: models and losses that its claim would not cover are refused."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from expunge.torch._axis import Axis
from expunge.torch._errors import UnsupportedLayerError
from expunge.torch._gradient_norms import GradNorms

__all__ = ["Watch"]

_SAME = {torch.float64: 1e-6, torch.float32: 1e-2}  # relative, of losses that only rounding tells apart
_COMPARED = 3  # records of the first batch that are repeated alone


class Watch:
    """Sees that clipping bounds what a record adds to a step, and that a step changes nothing but by that.

    Every step: the norms and the gradients that are clipped by them come of the same losses, parameters stay as they
    are until the update, and no hook changes gradients. The first step: the clipped gradients have the norms that they
    should, and the losses of a few records are those that they have alone.

    Parameters
    ----------
    model : torch.nn.Module
        Before the first step: its buffers and frozen parameters have to stay as they are.
    loss : callable
        If it is a module, so have its buffers and all its parameters.
    """

    def __init__(self, model: nn.Module, loss: object) -> None:
        self.model, self.loss = model, loss
        self.still = {key: _mark(value) for key, value in _still(model, loss).items()}
        self.first = True
        self._versions: list[int] = []
        self._values: list[Tensor] = []
        self._random: list[Any] = []

    def begin(self) -> None:
        """Take the parameters before the passes of a step."""
        parameters = list(self.model.parameters())
        self._versions = [p._version for p in parameters]
        self._values = [p.detach().clone() if p.requires_grad else p.new_empty(0) for p in parameters if self.first]
        self._random = _random_states() if self.first else []

    def follow(self, block: GradNorms, target: Any) -> None:
        """Have the targets of a loss followed as the inputs of the model are."""
        tracker = block._tracker
        if tracker is not None and isinstance(target, Tensor) and target.ndim and tracker.axes.get(target) is None:
            tracker.axes.set(target, Axis(0))

    def look_at_block(self, block: GradNorms) -> None:
        """Refuse hooks of tensors: gradients behind one need not shrink as the loss does."""
        if block._tracker is not None and block._tracker.written_by_hooks:
            raise UnsupportedLayerError(
                "a tensor has a hook, which may undo the clipping that privacy rests on: remove register_hook from the "
                "model"
            )

    def end(self, first: Tensor, second: Tensor, asked: Tensor, got: Tensor | None) -> bool:
        """Compare the losses of the two passes, and the norms asked for with those found in the second.

        Returns
        -------
        bool
            Whether the passes drew no random numbers, in a first step.
        """
        if not _alike(first, second):
            raise ValueError(
                "model: its losses changed between two passes over the same batch, so that clipping bounds nothing: it "
                "keeps something from call to call, or draws random numbers that torch's seed does not give"
            )
        parameters = list(self.model.named_parameters())
        if len(parameters) != len(self._versions):
            raise ValueError("model: a forward pass put another parameter in it, which privacy does not cover")
        for k, (name, parameter) in enumerate(parameters):
            same = parameter._version == self._versions[k]
            if parameter.requires_grad and self._values:
                same = same and torch.equal(parameter, self._values[k])
            if not same:
                raise ValueError(
                    f"model: its parameter {name} was changed by a forward pass (max_norm of an embedding, an "
                    "initialisation by data), and the claim of privacy is of clipped gradients alone"
                )
        if got is not None and not bool(torch.isfinite(asked).all()):
            raise ValueError(
                "model: the norm of a record's gradient is not finite though its loss is, so that no clipping bounds "
                "it: look for operations without a derivative there (sqrt, log or norm at 0), or use a smaller step"
            )
        if got is not None and not _alike(asked, got):
            raise ValueError(
                "model: a record's gradient does not shrink as its loss does, so that clipping bounds nothing: remove "
                "what changes gradients in the backward pass"
            )
        if self.first:
            self.look_at_still()
        return self.first and _random_states() == self._random

    def look_at_records(self, losses: Tensor, alone: list[tuple[int, Tensor]]) -> None:
        """Compare losses of the batch with those of some records alone."""
        losses = losses.detach()
        scale = float(losses.abs().max())
        for row, loss in alone:
            a, b = float(losses[row]), float(loss)
            if not abs(a - b) <= _SAME.get(losses.dtype, 1e-2) * scale:
                raise ValueError(
                    f"model or loss: a record's loss is {a:.6g} in its batch and {b:.6g} alone, so that records depend "
                    "on one another: the claim of privacy needs losses of each record by itself"
                )

    def rows(self, size: int) -> range:
        """Return the rows of the first batch to repeat alone."""
        return range(min(size, _COMPARED)) if size > 1 else range(0)

    def look_at_still(self) -> None:
        """Refuse a model whose buffers or frozen parameters changed: they hold something of records.

        Raises
        ------
        ValueError
            Naming the buffer or parameter.
        """
        for (owner, name), value in _still(self.model, self.loss).items():
            if (owner, name) not in self.still or not torch.equal(_mark(value), self.still[owner, name]):
                kind = "frozen parameter" if isinstance(value, nn.Parameter) else "buffer"
                raise ValueError(
                    f"{owner}: its {kind} {name} was changed by a training step, and the claim of privacy is of "
                    "trained parameters alone: use layers that keep no statistics, or train in eval mode"
                )


def _still(model: nn.Module, loss: object) -> dict[tuple[str, str], Tensor]:
    """Return what no step may change, by owner and name."""
    found: dict[tuple[str, str], Tensor] = {}
    for owner, module in (("model", model), ("loss", loss)):
        if isinstance(module, nn.Module):
            trained = {id(p) for p in model.parameters() if p.requires_grad}
            tensors = [*module.named_parameters(), *module.named_buffers()]
            found |= {(owner, name): tensor for name, tensor in tensors if id(tensor) not in trained}
    return found


def _mark(value: Tensor) -> Tensor:
    """Return a copy of a buffer; of a frozen parameter, of which there may be billions, a hash."""
    return torch.hash_tensor(value.detach()) if isinstance(value, nn.Parameter) else value.detach().clone()


def _alike(a: Tensor, b: Tensor) -> bool:
    a, b = a.detach(), b.detach().to(a.device)
    return bool(((a - b).abs() <= _SAME.get(b.dtype, 1e-2) * a.abs().max()).all())


def _random_states() -> list[Any]:
    """Return what tells whether random numbers were drawn."""
    states: list[Any] = [random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()]  # noqa: NPY002
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states += [state.tolist() for state in torch.cuda.get_rng_state_all()]
    return states
