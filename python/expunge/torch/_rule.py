"""The table of rules: for every torch function that is understood, what becomes of the axis of the examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from expunge.torch._axis import Axis, Lost, Rows, State
from expunge.torch._sources import tensors_in

__all__ = ["CONSTANT", "IN_PLACE", "LIKE", "LINEAR", "RULES", "SHAPED", "Call", "functions", "rule"]

HOMES = (torch, Tensor, F, torch._C._nn, torch.special)


class Call:
    """A call that was made: its arguments, its result, and the states of the arguments that depend on examples."""

    __slots__ = ("args", "batch", "function", "kwargs", "outputs", "result", "states")

    def __init__(
        self,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
        states: list[tuple[Tensor, State]],
        batch: int,
    ) -> None:
        self.function, self.args, self.kwargs, self.result = function, args, kwargs, result
        self.states, self.batch = states, batch
        self.outputs: list[Tensor] = [result] if isinstance(result, Tensor) else tensors_in(result)

    @property
    def name(self) -> str:
        """Return the function's name."""
        return name_of(self.function)

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """Return an argument by place or name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def given(self, name: str) -> bool:
        """Whether an argument was named."""
        return name in self.kwargs

    def state(self, tensor: Any) -> Any:
        """Return where the examples are in an argument; None if it does not depend on them."""
        for other, state in self.states:
            if other is tensor:
                assert isinstance(state, (Axis, Rows))
                return state
        return None

    @property
    def first(self) -> Any:
        """The first argument, the tensor worked on in most calls."""
        if self.args:
            return self.args[0]
        return self.kwargs.get("input", self.kwargs.get("self"))

    @property
    def axis(self) -> Axis:
        """Axis of the examples in the only argument that depends on them.

        Raises `MixedError` if it is not the first, or another depends on them too.
        """
        if len(self.states) != 1 or self.states[0][0] is not self.first:
            raise MixedError("took examples for an argument other than its first")
        return self.states[0][1]  # type: ignore[return-value]

    @property
    def rows(self) -> Axis:
        """Axis of the examples in front of all arguments that depend on them, alone or merged with others.

        Raises `MixedError` if that differs, or is another dimension than the leading one.
        """
        axis = self.states[0][1]
        if not isinstance(axis, Axis) or axis.dim or any(state != axis for _, state in self.states):
            raise MixedError("takes examples only in the leading dimension")
        return axis

    def lost(self, why: str) -> Lost:
        """Return the state of a result whose examples cannot be told, with the call and its shapes."""
        shapes = ", ".join(str(tuple(t.shape)) for t, _ in self.states)
        return Lost(f"{self.name} of shape {shapes} {why}")


class MixedError(Exception):
    """A rule found examples mixed; the message goes on after the name of the call."""


Rule = Callable[[Call], State | Sequence[State]]

RULES: dict[Any, Rule] = {}
CONSTANT: set[Any] = set()  # calls whose result depends on no value of their arguments
LIKE: set[Any] = set()  # calls that use only the kind or the shape of their later arguments
SHAPED: set[Any] = set()  # calls that use only the kind or the shape of their first argument
IN_PLACE: set[Any] = set()  # calls that write into their first argument
LINEAR: set[Any] = set()  # calls that may be made of sums over examples


def name_of(function: Any) -> str:
    """Return a function's name for messages."""
    name = getattr(function, "__name__", str(function))
    if name in ("__get__", "__set__"):
        return getattr(getattr(function, "__self__", None), "__name__", name)
    return name.strip("_") if name.startswith("__") else name


def functions(names: str, homes: Sequence[Any] = HOMES) -> list[Any]:
    """Return the functions of these names wherever torch has them, in-place forms included."""
    found: dict[Any, None] = {}
    for name in names.split():
        there = False
        for home in homes:
            for form in (name, f"{name}_"):
                function = getattr(home, form, None)
                if callable(function):
                    there = True
                    found[function] = None
                    if form.endswith("_") and not form.endswith("__"):
                        IN_PLACE.add(function)
        if not there:
            continue  # not in this version of torch
    return list(found)


def rule(names: str, *, homes: Sequence[Any] = HOMES, linear: bool = False) -> Callable[[Rule], Rule]:
    """Enter a rule for the functions of these names."""

    def enter(function: Rule) -> Rule:
        for called in functions(names, homes):
            RULES[called] = function
            if linear:
                LINEAR.add(called)
        return function

    return enter
