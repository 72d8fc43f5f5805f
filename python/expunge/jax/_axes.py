"""The axis of a value that counts examples, or that the value is shared, or a sum over examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jax.extend.core import JaxprEqn

__all__ = [
    "RULES",
    "Mixed",
    "OwnRows",
    "Rows",
    "Rule",
    "Shared",
    "State",
    "Sum",
    "Total",
    "is_zero",
    "rule",
    "shared_of",
]


class Mixed(Exception):  # noqa: N818 - not an error of its own: it is told with the equation's name
    """Examples are mixed, or may be; the argument says how."""


class Shared(NamedTuple):
    """A value that depends on no example, and is the same along some axes."""

    uniform: frozenset[int]
    value: Any = None  # a NumPy array, if it stands in the program


class Rows(NamedTuple):
    """A value with an axis of length ``outer * batch * inner`` that counts examples."""

    axis: int
    outer: int = 1
    inner: int = 1


class OwnRows(NamedTuple):
    """Indices with an axis of examples, whose ``columns`` along the last axis hold the number of the example itself."""

    axis: int
    columns: tuple[int, ...]


class Total(NamedTuple):
    """A sum over examples, times a number that stands in the program."""

    scale: float = 1.0
    factors: tuple[float, ...] = ()  # the numbers that it was multiplied and divided by


class Sum(NamedTuple):
    """In a derivative: a sum over examples of what each gives alone, and nothing else."""


State: TypeAlias = "Shared | Rows | OwnRows | Total | Sum"
Rule: TypeAlias = "Callable[[JaxprEqn, list[State], int], list[State]]"

RULES: dict[str, Rule] = {}  # a primitive without a rule is rejected where it meets examples


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for primitives."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def shared_of(shape: Sequence[int], uniform: Sequence[int] | frozenset[int] = (), value: Any = None) -> Shared:
    """Return the state of a shared value; axes of length one are the same all along."""
    return Shared(frozenset(uniform) | {k for k, size in enumerate(shape) if size == 1}, value)


def same_along(state: State, axis: int, rows: Rows) -> bool:
    """Return whether a shared value is the same for all examples of ``rows``, whose axis it has as ``axis``."""
    if not isinstance(state, Shared):
        return False
    if axis in state.uniform:
        return True
    if state.value is None:
        return False
    array = np.moveaxis(np.asarray(state.value), axis, 0)
    if array.shape[0] % (rows.outer * rows.inner):
        return False
    array = array.reshape(rows.outer, -1, rows.inner, *array.shape[1:])
    first = array[:, :1]
    return bool(((array == first) | ((array != array) & (first != first))).all())  # NaN is the same as NaN


def is_zero(state: State) -> bool:
    """Return whether a value is known to be zero everywhere."""
    if not isinstance(state, Shared) or state.value is None or not np.size(state.value):
        return False
    value = np.asarray(state.value)
    return not (value.flat[0] if len(state.uniform) == value.ndim else value.any())


def all_rows(eqn: JaxprEqn, states: Sequence[State]) -> Rows | None:
    """Return the axis of examples that all operands of one shape have, or None where all are shared."""
    found = [state for state in states if not isinstance(state, Shared)]
    if not found:
        return None
    first = found[0]
    if not isinstance(first, Rows):
        raise Mixed(_why(first))
    for state, variable in zip(states, eqn.invars, strict=True):
        if isinstance(state, Shared):
            if variable.aval.ndim and not same_along(state, first.axis, first):
                raise Mixed(
                    "a value that differs along the axis of the examples and is not part of the batch takes part"
                )
        elif state != first:
            raise Mixed(_why(state) if not isinstance(state, Rows) else "examples lie along different axes")
    return first


def _why(state: State) -> str:
    if isinstance(state, Total | Sum):
        return "a sum over the examples takes part"
    return "numbers of the rows take part"


def one_rows(states: Sequence[State]) -> Rows:
    """Return the state of the only operand."""
    (state,) = states
    if not isinstance(state, Rows):
        raise Mixed(_why(state))
    return state


def reshaped(state: Rows, before: Sequence[int], after: Sequence[int], batch: int) -> Rows:
    """Return the axis of examples after a reshape."""
    outer = math.prod(before[: state.axis]) * state.outer
    inner = state.inner * math.prod(before[state.axis + 1 :])
    for axis, size in enumerate(after):
        above, below = math.prod(after[:axis]), math.prod(after[axis + 1 :])
        if above and below and outer % above == 0 and inner % below == 0:
            found = Rows(axis, outer // above, inner // below)
            if size == found.outer * batch * found.inner:
                return found
    raise Mixed("a reshape leaves no axis that counts examples")
