"""Norms compared with autograd on batches of one, for a few examples picked at random."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from expunge.torch._axis import Axis, Rows, State, Total, taken
from expunge.torch._block_hook import BlockHook
from expunge.torch._errors import GradNormMismatchError, UnsupportedLayerError
from expunge.torch._inputs import inputs_in, map_inputs
from expunge.torch._tracker import Tracker

__all__ = ["Check"]


class _Pass:
    """One call of the model: its inputs, and the gradients that its outputs got."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], states: dict[int, State]) -> None:
        self.args, self.kwargs, self.states = args, kwargs, states
        self.versions: list[int] = []  # of the parameters
        self.casts = {d: torch.get_autocast_dtype(d) for d in ("cpu", "cuda") if torch.is_autocast_enabled(d)}
        self.places: list[State | None] = []
        self.grads: list[Tensor | None] = []


class Check:
    """Records the calls of a model in a block, and repeats them on single examples."""

    def __init__(self, tracker: Tracker, examples: int) -> None:
        self.tracker, self.examples = tracker, examples
        self.passes: list[_Pass] = []
        self.open: list[tuple[_Pass, list[Tensor]]] = []
        self.random = False
        self.unread: str | None = None  # the kind of an output without tensors that are found
        self.repeating = False
        model = tracker.model
        tracker.hooks.append(model.register_forward_pre_hook(BlockHook(self._before), with_kwargs=True))
        tracker.hooks.append(model.register_forward_hook(BlockHook(self._after), with_kwargs=True))

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.repeating or not torch.is_grad_enabled():
            return
        with torch._C.DisableTorchFunction(), torch.no_grad():
            states: dict[int, State] = {}

            def kept(tensor: Tensor) -> Tensor:
                own, state = tensor.detach().clone(), self.tracker.axes.get(tensor)
                if state is not None:
                    states[id(own)] = state
                return own

            made = _Pass(map_inputs(kept, args), map_inputs(kept, kwargs), states)
            made.versions = [p._version for p in self.tracker.parameters]
            self.open.append((made, _random_states()))

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if self.repeating or not torch.is_grad_enabled():
            return None
        with torch._C.DisableTorchFunction():
            made, before = self.open.pop()
            self.random |= any(not torch.equal(a, b) for a, b in zip(before, _random_states(), strict=True))
            self.passes.append(made)

            def separate(tensor: Tensor) -> Tensor:
                state, place = self.tracker.state_of(tensor), len(made.grads)
                made.places.append(state)
                made.grads.append(None)
                if not tensor.requires_grad:
                    return tensor
                own = tensor.clone()  # with a gradient of its own, whichever outputs are made of others
                if state is not None:
                    self.tracker.axes.set(own, state)
                self.tracker.wait(own, [], lambda grad: made.grads.__setitem__(place, grad.detach()))
                return own

            output = map_inputs(separate, output)
            if not made.places:
                self.unread = type(output).__name__
            return output

    def compare(self, squares: dict[int, Tensor], shares: Tensor | None = None) -> None:
        """Compare the squared norms of some examples with those of single ones.

        ``shares`` are those of each example in a mean over tokens: a loss that the model computes itself weighs it so.

        Raises
        ------
        GradNormMismatchError
            If they differ.
        UnsupportedLayerError
            If the calls cannot be repeated on single examples.
        """
        batch = self.tracker.axes.batch or 0
        if not batch:
            return
        if self.random:
            raise UnsupportedLayerError(
                "check cannot repeat the random numbers of the forward pass (dropout) for one example: check in eval "
                "mode, or without randomness"
            )
        if not self.passes:
            raise UnsupportedLayerError("check needs the model itself to be called in the block")
        if self.unread is not None:
            raise UnsupportedLayerError(
                f"check finds no tensor in the model's output, a {self.unread}: return tensors, or lists, dicts or "
                "dataclasses of them"
            )
        if self.tracker.axes.reentry:
            raise UnsupportedLayerError(
                "check cannot repeat checkpoints with use_reentrant=True, which allow no torch.autograd.grad: set it "
                "to False for the check"
            )
        if any(made.versions != [p._version for p in self.tracker.parameters] for made in self.passes):
            raise UnsupportedLayerError(
                "parameters were changed since the model was called (by an optimizer's step), so that check cannot "
                "repeat the call: call norms() before"
            )
        grouping = self.tracker.grouping
        n_norms = batch if grouping is None else len(grouping)
        picked = np.random.default_rng().choice(n_norms, min(self.examples, n_norms), replace=False)
        with torch._C.DisableTorchFunction(), self._repeating():
            for which in sorted(int(i) for i in picked):
                examples = [which] if grouping is None else grouping.members(which)
                self._compare_one(which, examples, squares, shares)

    def next_pass(self) -> None:
        """Forget the calls of a pass that was compared."""
        self.passes, self.random, self.unread = [], False, None

    @contextmanager
    def _repeating(self) -> Iterator[None]:
        model = self.tracker.model
        buffers = [(b, b.detach().clone()) for b in model.buffers()]
        places = [(module._buffers, dict(module._buffers)) for module in model.modules()]
        before, self.tracker.aside = self.tracker.aside, True
        self.repeating = True
        try:
            yield
        finally:
            self.repeating, self.tracker.aside = False, before
            with torch.no_grad():
                for place, held in places:
                    place.update(held)  # a buffer may have been put in place of another
                for buffer, value in buffers:
                    buffer.copy_(value)

    def _compare_one(
        self, which: int, examples: Sequence[int], squares: dict[int, Tensor], shares: Tensor | None
    ) -> None:
        """Compare norm number ``which``, that of the gradients of these examples added up."""
        parameters = self.tracker.parameters
        sums: list[Tensor | None] = [None] * len(parameters)
        for made, example in product(self.passes, examples):
            for k, grad in enumerate(self._gradients(made, example, shares)):
                if grad is not None:
                    sums[k] = grad if sums[k] is None else sums[k] + grad  # type: ignore[operator]
        alone = [0.0 if g is None else float(g.double().square().sum()) for g in sums]
        found = [float(squares[k][which]) for k in range(len(parameters))]
        outputs = [grad for made in self.passes for grad in made.grads if grad is not None]
        coarsest = max(torch.finfo(t.dtype).eps for t in (*parameters, *outputs))
        scale = max(*found, *alone) ** 0.5
        for k, (a, b) in enumerate(zip(found, alone, strict=True)):
            if not abs(a**0.5 - b**0.5) <= 20 * coarsest**0.6 * scale:
                grouping = self.tracker.grouping
                whose = f"example {which}" if grouping is None else f"group {grouping.ids[which]}"
                raise GradNormMismatchError(
                    f"{self.tracker.names[k]}: the gradient of {whose} has norm {a**0.5:.6g} in the batch "
                    f"and {b**0.5:.6g} alone: examples interact in the model, or it is another one for one example. "
                    "Please report models for which neither is true"
                )

    def _gradients(
        self, made: _Pass, example: int, shares: Tensor | None
    ) -> tuple[Tensor | None, ...] | list[Tensor | None]:
        """Return the gradients that one example's outputs give, from the gradients that they got in the batch."""
        batch = self.tracker.axes.batch or 0
        model: Any = self.tracker.model
        if type(model).__name__ == "DistributedDataParallel":
            model = model.module

        def single(tensor: Tensor) -> Tensor:
            state = made.states.get(id(tensor))
            return taken(tensor, state, batch, example, example + 1) if isinstance(state, (Axis, Rows)) else tensor

        with torch.enable_grad(), _autocast(made.casts):
            outputs = inputs_in([model(*map_inputs(single, made.args), **map_inputs(single, made.kwargs))])
        if len(outputs) != len(made.grads):
            raise GradNormMismatchError(
                f"the model gives {len(outputs)} tensors for one example, and {len(made.grads)} in the batch"
            )
        pairs = []
        for output, state, grad in zip(outputs, made.places, made.grads, strict=True):
            if grad is None:
                continue
            if isinstance(state, (Axis, Rows)):
                grad = taken(grad, state, batch, example, example + 1)
            elif isinstance(state, Total) and shares is not None and state.kind != "sum":
                if not shares[example]:
                    continue  # of no token, whose mean alone is not a number
                grad = grad * shares[example].to(grad)
            elif isinstance(state, Total) and state.kind in ("sum", "mean"):
                grad = grad / batch if state.kind == "mean" else grad
            else:
                raise UnsupportedLayerError("check cannot tell which part of an output belongs to an example")
            if grad.shape != output.shape:
                raise GradNormMismatchError(
                    f"an output has shape {tuple(output.shape)} for one example, and the part of the batch's that is "
                    f"its own {tuple(grad.shape)}"
                )
            if output.requires_grad:
                pairs.append((output, grad))
        parameters = self.tracker.parameters
        if not pairs:
            return [None] * len(parameters)
        return torch.autograd.grad([o for o, _ in pairs], parameters, [g for _, g in pairs], allow_unused=True)


def _random_states() -> list[Tensor]:
    """Return states that tell whether random numbers were drawn: those of torch, Python and NumPy."""
    python, numpy = random.getstate()[1], tuple(np.random.get_state())  # noqa: NPY002
    states = [torch.get_rng_state(), *(torch.tensor([*map(int, key), at]) for key, at in ((python, 0), numpy[1:3]))]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states += torch.cuda.get_rng_state_all()
    return states


@contextmanager
def _autocast(casts: dict[str, torch.dtype]) -> Iterator[None]:
    if not casts:
        yield
        return
    device, dtype = next(iter(casts.items()))
    with torch.autocast(device, dtype=dtype):
        yield
