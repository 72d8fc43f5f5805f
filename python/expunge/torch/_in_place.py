"""Calls that write into an argument, where a parameter takes part: made out of place, then copied there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from expunge.torch._rule import IN_PLACE, RULES
from expunge.torch._rules_indexing import write
from expunge.torch._sources import ParameterView
from expunge.torch._tracker import Tracker

__all__ = ["data_set", "in_place", "writes"]


def writes(function: Any) -> bool:
    """Whether a call writes into its first argument, by the table or by its name."""
    name = getattr(function, "__name__", "")
    return function in IN_PLACE or (name.endswith("_") and not name.endswith("__"))


def in_place(tracker: Tracker, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make a call that takes examples, and a parameter, and writes into its first argument."""
    name = getattr(function, "__name__", str(function))
    target: Any = args[0] if args else None
    other = _NOT_IN_PLACE.get(function) or _without_underscore(name)
    if (
        other is None
        or target is None
        or not (target.is_floating_point() or target.is_complex())
        or isinstance(tracker.source_of(target), ParameterView)
    ):
        reason = f"it was used in the in-place call {name}: use the form that is not in place"
        return tracker.unfollowed(function, args, kwargs, reason)
    made = tracker.call(other, (tracker.call(torch.clone, (target,), {}), *args[1:]), kwargs)
    if made.shape != target.shape or not torch.can_cast(made.dtype, target.dtype):
        return function(*args, **kwargs)  # raises as it does without the block
    if tracker.source_of(target) is not None:  # its way back to the parameters is that of its copy now
        if target._is_view():
            reason = f"it was used in the in-place call {name} on a view: use the form that is not in place"
            return tracker.unfollowed(function, args, kwargs, reason)
        target.detach_()
    target.copy_(made)
    tracker.axes.follow(Tensor.copy_, (target, made), {}, [target, made], target)
    return None if function is Tensor.__setitem__ else target


def data_set(tracker: Tracker, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Give a tensor other memory, as `Module.to` and steps written by hand do with parameters."""
    target, value = args
    key, source = tracker.keys.get(id(target)), tracker.source_of(target)
    function(target, value)
    if key is not None and tracker.axes.get(value) is None:
        tracker.moved(key)
    elif source is not None:
        tracker.fail(source.roots, "data was set in the block, of examples or of what was made of it")


def _without_underscore(name: str) -> Any:
    return getattr(Tensor, name[:-1], None) or getattr(torch, name[:-1], None) if name.endswith("_") else None


def with_entries(target: Tensor, index: Any, value: Any) -> Tensor:
    """Return a copy of ``target`` in which ``index`` says where ``value`` is."""
    target = target.clone()
    target[index] = value
    return target


def filled(target: Tensor, value: Any) -> Tensor:
    """Return ``value`` in the shape and kind of ``target``."""
    return torch.empty_like(target).copy_(value) if isinstance(value, Tensor) else torch.full_like(target, value)


with_entries.__name__, filled.__name__ = "setitem", "copy"  # in messages

_NOT_IN_PLACE: dict[Any, Any] = {
    Tensor.__setitem__: with_entries,
    Tensor.copy_: filled,
    Tensor.fill_: filled,
    torch.fill_: filled,
}
RULES[with_entries] = write
RULES[filled] = RULES[Tensor.copy_]
