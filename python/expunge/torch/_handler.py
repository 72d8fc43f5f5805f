"""A handler of a torch function that uses parameters, and what handlers have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor

from expunge.torch._axis import Axis
from expunge.torch._contributions import BroadcastUse, Use
from expunge.torch._tracker import Tracker

__all__ = ["Args", "Handler", "Kwargs", "bound", "leading_wanted", "pair"]

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


@dataclass(frozen=True)
class Handler:
    """A handler; ``always`` runs it for calls without parameters too; ``quick`` is tried first, and may give None."""

    apply: Callable[[Tracker, Any, Args, Kwargs], Any]
    always: bool = False
    quick: Callable[[Tracker, Any, Args, Kwargs], Any] | None = None


_split = lru_cache(maxsize=None)(str.split)


def bound(names: str, args: Args, kwargs: Kwargs) -> dict[str, Any]:
    """Return arguments by name; those not given are missing."""
    return {**dict(zip(_split(names), args, strict=False)), **kwargs}


def pair(uses: list[Use]) -> None:
    """Let the kernel of a layer's weight give the norms of its bias too."""
    if len(uses) == 2 and isinstance(uses[1], BroadcastUse):
        uses[0].shift = uses[1]


def leading_wanted(tracker: Tracker, x: Tensor) -> str:
    """Return the reason to refuse an input whose examples are not in the leading dimension."""
    axis = tracker.axes.get(x)
    where = f"is number {axis.dim}" if isinstance(axis, Axis) else "is lost"
    return f"the batch must lead in its input, of shape {tuple(x.shape)}, where its dimension {where}"
