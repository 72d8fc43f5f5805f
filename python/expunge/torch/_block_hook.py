"""Hooks that a block leaves on its model, and that copies of the model leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["BlockHook"]


def _nothing(*_: Any) -> None:
    """Do what a hook of a block does in a copy of the model."""


def _make_nothing() -> Callable[..., None]:
    return _nothing


class BlockHook:
    """A hook of the model that does nothing in copies of it, which the block does not follow."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_nothing, ()

    def __deepcopy__(self, memo: Any) -> Any:
        return _nothing
