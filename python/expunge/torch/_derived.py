"""Calls that involve no example: what they make of parameters is kept, to pull gradients back to these."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from expunge.torch._in_place import writes
from expunge.torch._sources import Derived, ParameterView, tensors_in
from expunge.torch._tracker import Tracker

__all__ = ["derive"]


def derive(tracker: Tracker, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make the call and remember it."""
    name = getattr(function, "__name__", str(function))
    if kwargs.get("out") is not None:
        return tracker.unfollowed(function, args, kwargs, f"it was used in {name} with out=: omit out=")
    sources = tracker.sources_in(args, kwargs)
    if not name.startswith("__"):  # not attributes
        for root in {root for source in sources.values() for root in source.roots}:
            reason = (
                f"{name} was applied to it outside any example, and the result used in a way that is not followed "
                "(call the model itself in the block, and take penalties on parameters outside it)"
            )
            tracker.hints.setdefault(root, reason)
    target = args[0] if args and writes(function) else None
    if isinstance(target, Tensor):
        return _written(tracker, function, args, kwargs, sources, target)
    given = tensors_in(args, kwargs)
    versions = [t._version for t in given]
    result = function(*args, **kwargs)
    changed = [t for t, version in zip(given, versions, strict=True) if t._version != version]
    if any(id(t) not in sources for t in changed):
        return result  # what was written into is no longer known
    _remember(tracker, (function, args, kwargs), sources, tensors_in(result), writes=bool(changed))
    return result


def _written(
    tracker: Tracker,
    function: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    sources: dict[int, ParameterView | Derived],
    target: Tensor,
) -> Any:
    """Write into something made of parameters, or parameters into a constant."""
    source = sources.pop(id(target), None)
    if isinstance(source, ParameterView):
        return tracker.unfollowed(function, args, kwargs, f"it was written into in place, by {function.__name__}")
    if source is None:
        held = target.detach().clone()
    else:
        source.value = source.value.clone()  # what it was before, for its uses so far
        held = target.detach()
        sources[id(held)] = source
    result = function(*args, **kwargs)
    call = (partial(_into_copy, function), (held, *args[1:]), kwargs)
    _remember(tracker, call, sources, [target], writes=False)
    return result


def _into_copy(function: Any, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    target = target.clone()
    function(target, *args, **kwargs)
    return target


def _remember(
    tracker: Tracker, call: Any, sources: dict[int, ParameterView | Derived], results: list[Tensor], *, writes: bool
) -> None:
    for which, tensor in enumerate(results):
        if tensor.requires_grad and not tensor.is_leaf and tracker.source_of(tensor) is None:
            derived = Derived(call, sources, which, tensor, tracker.views, tracker.fresh_leaves, writes=writes)
            tracker.derived.put(tensor, derived)
            tracker.axes.made_of_parameters(tensor)
