"""Calls of parameters and examples without a handler of their own: run again on one example at a time.

Running again is exact if the call treats examples separately; that is checked: each example's output must come out as
it did in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from expunge.torch._anchored import anchored
from expunge.torch._axis import Axis, Lost, Rows, State, taken
from expunge.torch._contributions import Use
from expunge.torch._derived import derive
from expunge.torch._in_place import in_place, writes
from expunge.torch._sources import Derived, ParameterView, RefusalError, map_tensors, tensors_in
from expunge.torch._tracker import Tracker

__all__ = ["replay"]


def replay(tracker: Tracker, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make a call that takes examples and has no handler of its own."""
    name = getattr(function, "__name__", str(function))
    if kwargs.get("out") is not None:
        return tracker.unfollowed(function, args, kwargs, f"it was used in {name} with out=: omit out=")
    if writes(function):
        return in_place(tracker, function, args, kwargs)
    tracked = {id(t): t for t in tensors_in(args, kwargs) if tracker.axes.get(t) is not None}
    if not tracked:  # but shapes or kinds are taken from them
        return derive(tracker, function, args, kwargs)
    for tensor in tracked.values():
        arrange = tracker.arrangement(tensor)
        if isinstance(arrange, str):
            return tracker.unfollowed(function, args, kwargs, f"{name}: {arrange}")
    return _record(tracker, function, args, kwargs, {k: tracker.axes.get(t) for k, t in tracked.items()})


def _record(
    tracker: Tracker,
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    axes: dict[int, Any],
) -> Any:
    sources = tracker.sources_in(args, kwargs)
    roots = sorted({root for source in sources.values() for root in source.roots})
    made = tracker.with_stand_ins(function, args, kwargs)
    # Copies: outputs have gradients of their own, also where one is made of another, and may be written into.
    result = map_tensors(partial(anchored, fresh=False), made)
    outputs = tensors_in(result)
    places = tracker.axes.after(function, args, kwargs, tensors_in(args, kwargs), result)
    claimed = tracker.axes.claimed(function, args, kwargs, tensors_in(args, kwargs), result)
    call = _Replay(tracker, (function, args, kwargs), sources, {**axes, **claimed}, tensors_in(made), places)
    views = {key for key, source in sources.items() if isinstance(source, ParameterView)}
    bound = next((t for t in tensors_in(args, kwargs) if id(t) in claimed and id(t) in views), None)
    if bound is not None:  # a parameter as it is has as many rows for every batch
        call.refusal = (
            f"{call.name} takes its rows, of shape {tuple(bound.shape)}, for those of the examples, of which there "
            "happen to be as many: give the tensor it meets a dimension of its own for the examples, or expand the "
            "parameter over them"
        )
    lost = next((place for place in places if not isinstance(place, (Axis, Rows))), None)
    if lost is not None:
        call.refusal = lost.reason if isinstance(lost, Lost) else f"{call.name} adds up over the batch dimension"
    for k, output in enumerate(outputs):
        if output.requires_grad:
            tracker.wait(output, roots, call.arrival(k))
    tracker.replays.append(call)
    return result


class _Replay:
    """One call to run again on single examples, with the gradients of its outputs."""

    def __init__(
        self,
        tracker: Tracker,
        call: tuple[Any, tuple[Any, ...], dict[str, Any]],
        sources: dict[int, ParameterView | Derived],
        axes: dict[int, Axis | Rows],
        outputs: Sequence[Tensor],
        places: Sequence[State],
    ) -> None:
        self.places = places
        self.tracker, self.call, self.sources, self.axes = tracker, call, sources, axes
        self.name = getattr(call[0], "__name__", str(call[0]))
        self.outputs = [t.detach() for t in outputs]
        self.grads: list[Tensor | None] = [None] * len(outputs)
        inputs = [*tensors_in(call[1], call[2]), *self.outputs]
        self.versions = [(t, t._version) for t in inputs]
        self.refusal: str | None = None
        self.formed: tuple[int, int, dict[int, Tensor]] | None = None

    def arrival(self, which: int) -> Any:
        def arrive(grad: Tensor) -> None:
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
        try:
            found = [self._part(i, i + 1) for i in range(low, high)]
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise RefusalError(f"{self.name} could not be run on one example at a time: {reason}") from error
        rows = {key: torch.stack([one[key] for one in found]) for key in self.sources}
        together = self._part(low, high)
        if not all(_same_sum(rows[key], together[key]) for key in rows):
            raise RefusalError(
                f"{self.name} could not be run on one example at a time: the gradients of examples alone do not add up "
                "to the batch's"
            )
        self.formed = (low, high, rows)
        return rows

    def _part(self, low: int, high: int) -> dict[int, Tensor]:
        """Run the call on examples low to high alone, and return the gradients of that."""
        batch = self.tracker.axes.batch or 0
        function, args, kwargs = self.call
        leaves: dict[int, Tensor] = {}

        def single(tensor: Tensor) -> Tensor:
            part = tensor.detach()
            if id(tensor) in self.sources:
                part = leaves.setdefault(id(tensor), part.requires_grad_())
            axis = self.axes.get(id(tensor))
            return part if axis is None else taken(part, axis, batch, low, high)

        with torch.enable_grad():
            results = tensors_in(function(*map_tensors(single, args), **map_tensors(single, kwargs)))
        pairs = []
        for result, output, grad, place in zip(results, self.outputs, self.grads, self.places, strict=True):
            assert isinstance(place, (Axis, Rows))
            expected = taken(output, place, batch, low, high)
            if result.shape != expected.shape or not _same(result.detach(), expected):
                raise ValueError("the result of an example alone is not its part of the batch's")
            if grad is not None and result.requires_grad:
                pairs.append((result, taken(grad, place, batch, low, high)))
        tensors = list(leaves.values())
        if not pairs:
            return {key: _wide(torch.zeros_like(t)) for key, t in leaves.items()}
        grads = torch.autograd.grad([r for r, _ in pairs], tensors, [g for _, g in pairs], allow_unused=True)
        return {
            key: _wide(torch.zeros_like(t) if g is None else g.to_dense() if g.is_sparse else g)
            for (key, t), g in zip(leaves.items(), grads, strict=True)
        }


def _wide(grad: Tensor) -> Tensor:
    return grad.detach().to(torch.complex128 if grad.is_complex() else torch.float64)


def _largest(sizes: Tensor) -> float:
    """Return the largest finite entry: no tolerance may come from one that is not."""
    return float(torch.nan_to_num(sizes, nan=0.0, posinf=0.0).max()) if sizes.numel() else 0.0


def _same(found: Tensor, expected: Tensor) -> bool:
    if not found.is_floating_point() and not found.is_complex():
        return torch.equal(found, expected)
    tolerance = 1e3 * torch.finfo(found.dtype).eps if found.element_size() >= 4 else 0.1
    scale = _largest(expected.abs())
    return torch.allclose(found, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def _same_sum(rows: Tensor, together: Tensor) -> bool:
    # The dtype of the gradients is unknown here; mixing is no matter of rounding.
    scale = _largest(rows.abs().sum(0))
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
