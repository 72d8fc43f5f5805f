"""Calls without a rule of their own: run again on one example at a time, or kept as something made of parameters.

Running again is exact if the call treats examples separately; that is checked: each example's output must come out as
it did in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from expunge.torch._contributions import Use
from expunge.torch._sources import Derived, ParameterView, RefusalError, map_tensors, tensors_in
from expunge.torch._tracker import Tracker

__all__ = ["replay"]


def replay(tracker: Tracker, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make a call that has no rule of its own."""
    name = getattr(function, "__name__", str(function))
    if (name.endswith("_") and not name.endswith("__")) or name.startswith("__i") or "out" in kwargs:
        return tracker.unfollowed(function, args, kwargs, f"it was used in the in-place call {name}")
    axes = {id(t): axis for t in tensors_in(args, kwargs) if (axis := tracker.axes.get(t)) is not None}
    if not axes:
        return _derive(tracker, function, args, kwargs, name)
    if tracker.attention is not None or any(axis != 0 for axis in axes.values()):
        reason = f"{name} took an input whose batch dimension is not known to lead"
        return tracker.unfollowed(function, args, kwargs, reason)
    return _record(tracker, function, args, kwargs, axes)


def _derive(tracker: Tracker, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
    sources = tracker.sources_in(args, kwargs)
    if not name.startswith("__"):  # not attributes
        for root in {root for source in sources.values() for root in source.roots}:
            reason = f"{name} was applied to it outside any example, and the result used in a way that is not followed"
            tracker.hints.setdefault(root, reason)
    result = function(*args, **kwargs)
    for which, tensor in enumerate(tensors_in(result)):
        if tensor.requires_grad and not tensor.is_leaf and tracker.source_of(tensor) is None:
            tracker.derived[tensor] = Derived(
                (function, args, kwargs), sources, which, tensor, tracker.views, tracker.fresh_leaves
            )
    return result


def _record(
    tracker: Tracker,
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    axes: dict[int, int],
) -> Any:
    sources = tracker.sources_in(args, kwargs)
    result = tracker.run(function, args, kwargs, fresh=False)
    outputs = tensors_in(result)
    fits = all(t.ndim > 0 and t.shape[0] == tracker.axes.batch for t in outputs)
    call = _Replay(tracker, (function, args, kwargs), sources, axes, outputs)
    if not fits:
        call.refusal = f"{call.name} gave a result without the batch in its leading dimension"
    for source in sources.values():
        for root in source.roots:
            tracker.expected[root] += 2  # never settled before the replay
    for k, output in enumerate(outputs):
        if output.requires_grad:
            output.register_hook(call.arrival(k))
    tracker.replays.append(call)
    return result


class _Replay:
    """One call to run again on single examples, with the gradients of its outputs."""

    def __init__(
        self,
        tracker: Tracker,
        call: tuple[Any, tuple[Any, ...], dict[str, Any]],
        sources: dict[int, ParameterView | Derived],
        axes: dict[int, int],
        outputs: Sequence[Tensor],
    ) -> None:
        self.tracker, self.call, self.sources, self.axes = tracker, call, sources, axes
        self.name = getattr(call[0], "__name__", str(call[0]))
        self.outputs = [t.detach() for t in outputs]
        self.grads: list[Tensor | None] = [None] * len(outputs)
        inputs = [*tensors_in(call[1], call[2]), *self.outputs]
        self.versions = [(t, t._version) for t in inputs]
        self.refusal: str | None = None
        self.formed: tuple[int, int, dict[int, Tensor]] | None = None

    def arrival(self, which: int) -> Any:
        def arrive(grad: Tensor | None) -> None:
            with torch._C.DisableTorchFunction(), torch.no_grad():
                self.tracker.gradient_arrived()
                if grad is None:
                    return
                if self.grads[which] is not None:
                    self.refusal = "backward ran through its use twice"
                self.grads[which] = grad.detach()

        return arrive

    def uses(self) -> list[Use]:
        """Return a use for every parameter-like argument, once gradients have arrived."""
        if all(g is None for g in self.grads):
            return []
        return [_ReplayUse(source, None, self, key) for key, source in self.sources.items()]

    def form(self, low: int, high: int) -> dict[int, Tensor]:
        """Return per-example gradients with respect to every parameter-like argument."""
        if self.formed is not None and self.formed[:2] == (low, high):
            return self.formed[2]
        if self.refusal is not None:
            raise RefusalError(self.refusal)
        if any(t._version != version for t, version in self.versions):
            raise RefusalError(f"an argument or result of {self.name} was modified in place after the call")
        reason = ""
        for slice_derived in (True, False):  # a tensor expanded from a parameter has a row for every example
            try:
                found = [self._part(i, i + 1, slice_derived) for i in range(low, high)]
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                reason = str(error).splitlines()[0]
                continue
            rows = {key: torch.stack([one[key] for one in found]) for key in self.sources}
            together = self._part(low, high, slice_derived)
            if not all(_same_sum(rows[key], together[key]) for key in rows):
                reason = "the gradients of examples alone do not add up to the batch's"
                continue
            self.formed = (low, high, rows)
            return rows
        raise RefusalError(f"{self.name} could not be run on one example at a time: {reason}")

    def _part(self, low: int, high: int, slice_derived: bool) -> dict[int, Tensor]:
        """Run the call on examples low to high alone, and return the gradients of that."""
        length = high - low
        function, args, kwargs = self.call
        leaves: dict[int, Tensor] = {}

        def single(tensor: Tensor) -> Tensor:
            source = self.sources.get(id(tensor))
            if source is not None:
                leaf = leaves.setdefault(id(tensor), tensor.detach().requires_grad_())
                rows = isinstance(source, Derived) and leaf.ndim > 0 and leaf.shape[0] == self.tracker.axes.batch
                return leaf.narrow(0, low, length) if rows and slice_derived else leaf
            axis = self.axes.get(id(tensor))
            return tensor.detach() if axis is None else tensor.detach().narrow(axis, low, length)

        with torch.enable_grad():
            results = tensors_in(function(*map_tensors(single, args), **map_tensors(single, kwargs)))
        pairs = []
        for result, output, grad in zip(results, self.outputs, self.grads, strict=True):
            expected = output.narrow(0, low, length)
            if result.shape != expected.shape or not _same(result.detach(), expected):
                raise ValueError("the result of an example alone is not its part of the batch's")
            if grad is not None and result.requires_grad:
                pairs.append((result, grad.narrow(0, low, length)))
        tensors = list(leaves.values())
        if not pairs:
            return {key: torch.zeros(t.shape, dtype=torch.float64, device=t.device) for key, t in leaves.items()}
        grads = torch.autograd.grad([r for r, _ in pairs], tensors, [g for _, g in pairs], allow_unused=True)
        return {
            key: torch.zeros(t.shape, dtype=torch.float64, device=t.device)
            if g is None
            else (g.to_dense() if g.is_sparse else g).double()
            for (key, t), g in zip(leaves.items(), grads, strict=True)
        }


def _same(found: Tensor, expected: Tensor) -> bool:
    if not found.is_floating_point():
        return torch.equal(found, expected)
    tolerance = 1e3 * torch.finfo(found.dtype).eps if found.dtype in (torch.float32, torch.float64) else 0.1
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def _same_sum(rows: Tensor, together: Tensor) -> bool:
    # The dtype of the gradients is unknown here; mixing is no matter of rounding.
    scale = float(rows.abs().sum(0).max()) if rows.numel() else 0.0
    return torch.allclose(rows.sum(0), together, rtol=0.0, atol=1e-3 * scale + 1e-30, equal_nan=True)


class _ReplayUse(Use):
    """One argument of a call that is run again."""

    immediate = False

    def __init__(self, source: ParameterView | Derived, threads: int | None, call: _Replay, key: int) -> None:
        super().__init__(source, threads)
        self.call, self.key = call, key

    def squares(self, batch: int) -> Any:
        return self.squares_by_forming(batch)

    def dense(self, low: int, high: int) -> Tensor:
        return self.call.form(low, high)[self.key]
