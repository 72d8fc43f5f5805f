"""Values kept by tensor, for as long as the tensor lives."""

from __future__ import annotations

from typing import Generic, TypeVar
from weakref import ref

from torch import Tensor

__all__ = ["TensorMap"]

Value = TypeVar("Value")


class TensorMap(Generic[Value]):
    """A mapping by identity that does not keep its tensors alive.

    It is asked several times in every call of a forward pass: a plain dict by id, whose weak reference tells whether
    the id still belongs to the same tensor, takes a fraction of the time of torch's weak dictionaries.
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[ref[Tensor], Value]] = {}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __contains__(self, tensor: Tensor) -> bool:
        entry = self._entries.get(id(tensor))
        return entry is not None and entry[0]() is tensor

    def __setitem__(self, tensor: Tensor, value: Value) -> None:
        self._entries[id(tensor)] = (ref(tensor), value)

    def get(self, tensor: Tensor) -> Value | None:
        """Return the value of a tensor, None if it has none."""
        entry = self._entries.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
