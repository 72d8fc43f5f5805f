"""Sums over examples in a derivative: which operations make one, and which keep it one.

The gradient of what examples share is the sum of what each of them gives alone. That holds of a rule of one's own if it
sums over examples and is linear in such sums from there on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

from expunge.jax._axes import Mixed, Rows, Shared, State, Sum, is_zero, same_along

__all__ = ["SUMMING", "linear"]

_SumRule: TypeAlias = "Callable[[JaxprEqn, list[State], int], list[State] | None]"

_ONE = """
neg copy copy_p convert_element_type reduce_precision name reshape squeeze transpose broadcast_in_dim reduce_sum rev
slice split cumsum sharding_constraint
"""
_ONE_LINEAR = frozenset(_ONE.split())  # in their first operand
_ANY_LINEAR = {"add", "add_any", "sub", "concatenate", "pad", "optimization_barrier"}  # in all operands together
_INDEXED = {"dynamic_slice": 1, "dynamic_update_slice": 2, "gather": 1}  # the operands that are linear, then indices


def linear(eqn: JaxprEqn, states: Sequence[State]) -> list[State]:
    """Return the states of what is made of sums, if it is linear in them."""
    name = eqn.primitive.name
    if not all(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in eqn.outvars):
        raise Mixed("a sum over the examples becomes something else than a floating point number")
    if any(not isinstance(state, Shared | Sum) for state in states):
        raise Mixed("a sum over the examples meets single examples")
    sums = [isinstance(state, Sum) for state in states]
    fit = [is_sum or is_zero(state) for is_sum, state in zip(sums, states, strict=True)]
    if name in _ONE_LINEAR:
        ok = sums[0] and not any(sums[1:])
    elif name in _ANY_LINEAR:
        ok = all(fit)
    elif name == "select_n":
        ok = not sums[0] and all(fit[1:])
    elif name in ("mul", "dot_general", "conv_general_dilated"):
        ok = sums.count(True) == 1
    elif name == "div":
        ok = sums == [True, False]
    elif name in _INDEXED:
        count = _INDEXED[name]
        ok = all(fit[:count]) and not any(sums[count:]) and (name != "gather" or _stays_inside(eqn))
    elif name == "scatter-add":
        ok = fit[0] and not sums[1] and fit[2]
    else:
        ok = False
    if not ok:
        raise Mixed("a sum over the examples takes part in what is not linear in it")
    if name == "optimization_barrier":
        return list(states)
    return [Sum()] * len(eqn.outvars)


def _stays_inside(eqn: JaxprEqn) -> bool:
    mode = lax.GatherScatterMode.from_any(eqn.params["mode"])
    return mode in (lax.GatherScatterMode.CLIP, lax.GatherScatterMode.PROMISE_IN_BOUNDS)


def _product(eqn: JaxprEqn, states: list[State], batch: int) -> list[State] | None:
    """Sum a product over the axis of examples of both factors, or of one and what is the same for all."""
    (left, right), _ = eqn.params["dimension_numbers"]
    return _paired(states, zip(left, right, strict=True))


def _paired(states: Sequence[State], pairs: Iterable[tuple[int, int]]) -> list[State] | None:
    first, second = states[:2]
    for left, right in pairs:
        if isinstance(first, Rows) and first.axis == left:
            found = second == first._replace(axis=right) or same_along(second, right, first._replace(axis=right))
        elif isinstance(second, Rows) and second.axis == right:
            found = same_along(first, left, second._replace(axis=left))
        else:
            continue
        return [Sum()] if found else None
    return None


def _kernel(eqn: JaxprEqn, states: list[State], batch: int) -> list[State] | None:
    """Sum the gradient of a kernel, in which examples stand where a convolution has channels."""
    params = eqn.params
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        return None
    spec = params["dimension_numbers"]
    return _paired(states, [(spec.lhs_spec[1], spec.rhs_spec[1])])


def _rows_of_a_table(eqn: JaxprEqn, states: list[State], batch: int) -> list[State] | None:
    """Add rows of examples to a table of zeros, which all share or each has for itself."""
    operand, indices, updates = states
    if not is_zero(operand) or not isinstance(updates, Rows):
        return None
    numbers = eqn.params["dimension_numbers"]
    apart = [k for k in range(eqn.invars[2].aval.ndim) if k not in numbers.update_window_dims]
    if updates.axis in apart:
        axis = apart.index(updates.axis)  # of the indices, whose last axis is no axis of rows
        rows = updates._replace(axis=axis)
        if indices != rows and not same_along(indices, axis, rows):
            return None
        pairs = dict(zip(numbers.scatter_indices_batching_dims, numbers.operand_batching_dims, strict=True))
        return [updates._replace(axis=pairs[axis])] if axis in pairs else [Sum()]
    if not isinstance(indices, Shared):
        return None
    # a window that holds all examples
    window = [
        k
        for k in range(eqn.invars[0].aval.ndim)
        if k not in numbers.inserted_window_dims and k not in numbers.operand_batching_dims
    ]
    axis = window[tuple(numbers.update_window_dims).index(updates.axis)]
    whole = eqn.invars[0].aval.shape[axis] == eqn.invars[2].aval.shape[updates.axis]
    if not whole or axis in numbers.scatter_dims_to_operand_dims:
        return None
    return [updates._replace(axis=axis)]


# Operations on examples that give a sum, or None where their usual rule answers.
SUMMING: dict[str, _SumRule] = {
    "dot_general": _product,
    "conv_general_dilated": _kernel,
    "scatter-add": _rows_of_a_table,
}
