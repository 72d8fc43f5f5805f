"""Proof that the examples of a batch do not meet: the axis of the examples is followed through every operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from expunge.jax import _axis_rules
from expunge.jax._axes import RULES, Mixed, Rows, Shared, State, same_along, shared_of
from expunge.jax._errors import UnsupportedFunctionError
from expunge.jax._program import CALLS, source_of

__all__ = ["follow"]

_REMEDY = (
    "a loss of one example, with one_example=True, needs no such rule: then random numbers take a key of each example, "
    "jax.random.split(key, B)"
)
_FOLDED = set(_axis_rules.ELEMENTWISE) | {"iota", "broadcast_in_dim", "reshape", "squeeze", "transpose", "concatenate"}
_MOST_FOLDED = 1 << 20  # numbers in a value that is worked out while a function is traced


def follow(closed: ClosedJaxpr, states: Sequence[State], batch: int) -> State:
    """Return what is known of the only result of a traced function.

    Raises
    ------
    UnsupportedFunctionError
        If examples meet, or may meet for all that is known.
    """
    (result,) = _body(closed.jaxpr, [_constant(v) for v in closed.consts], states, batch)
    return result


def _constant(value: Any) -> Shared:
    if not isinstance(value, (np.ndarray, np.generic, bool, int, float)):
        return shared_of(np.shape(value))
    array = np.asarray(value)
    uniform = [k for k in range(array.ndim) if array.size and (array == array.take([0], k)).all()]
    return shared_of(array.shape, uniform, array)


def _body(
    jaxpr: Jaxpr, constants: Sequence[State], states: Sequence[State], batch: int, where: str = ""
) -> list[State]:
    """Follow the equations of a body; ``where`` is the line that calls it."""
    known: dict[Var, State] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *states), strict=True))

    def state_of(v: Any) -> State:
        return _constant(v.val) if isinstance(v, Literal) else known[v]

    for eqn in jaxpr.eqns:
        given = [state_of(v) for v in eqn.invars]
        known.update(zip(eqn.outvars, _results(eqn, given, batch, where), strict=True))
    return [state_of(v) for v in jaxpr.outvars]


def _results(eqn: JaxprEqn, states: list[State], batch: int, where: str) -> list[State]:
    name = eqn.primitive.name
    where = source_of(eqn) or where  # bodies that JAX has traced before have no lines of their own
    body = eqn.params.get(CALLS.get(name, "call_jaxpr" if name in ("custom_jvp_call", "custom_vjp_call") else ""))
    if isinstance(body, ClosedJaxpr):
        return _body(body.jaxpr, [_constant(v) for v in body.consts], states, batch, where)
    if body is not None:
        return _body(body, [], states, batch, where)
    try:
        if name == "scan":
            return _scan(eqn, states, batch)
        if name == "cond":
            return _cond(eqn, states, batch)
        if name == "while":
            return _while(eqn, states, batch)
        if all(isinstance(state, Shared) for state in states):
            return _shared(eqn, states, batch)
        if name not in RULES:  # deny by default
            raise Mixed("no rule says what it does to the axis of the examples")
        return RULES[name](eqn, states, batch)
    except Mixed as why:
        shapes = ", ".join(str(tuple(v.aval.shape)) for v in eqn.invars)
        raise UnsupportedFunctionError(
            f"{name} of shapes {shapes}{where} may mix the examples of the batch: {why}. If they do not "
            f"interact, {_REMEDY}"
        ) from None


def _shared(eqn: JaxprEqn, states: Sequence[State], batch: int) -> list[State]:
    """Return the states of results that depend on no example, worked out where all operands stand in the program."""
    shapes = [v.aval.shape for v in eqn.outvars]
    name = eqn.primitive.name
    values = [state.value for state in states if isinstance(state, Shared)]
    if name in _FOLDED and all(value is not None for value in values) and _few(shapes):
        with jax.ensure_compile_time_eval():
            found = eqn.primitive.bind(*values, **eqn.params)
        found = found if eqn.primitive.multiple_results else [found]
        return [_constant(np.asarray(one)) for one in found]
    if name in _axis_rules.TELL_OF_SHARED and states:
        return RULES[name](eqn, list(states), batch)
    return [shared_of(shape) for shape in shapes]


def _few(shapes: Sequence[Sequence[int]]) -> bool:
    return all(int(np.prod(shape)) <= _MOST_FOLDED for shape in shapes)


def _joined(first: State, second: State, shape: Sequence[int]) -> State:
    """Return what is known of a value that is one of two."""
    if isinstance(first, Shared) and isinstance(second, Shared):
        return shared_of(shape, first.uniform & second.uniform)
    if first == second:
        return first
    for rows, other in ((first, second), (second, first)):
        if isinstance(rows, Rows) and same_along(other, rows.axis, rows):
            return rows
    raise Mixed("what it hands on has examples along different axes, or differs along their axis")


def _loop(
    body: ClosedJaxpr, constants: list[State], before: list[State], behind: list[State], batch: int
) -> tuple[list[State], list[State]]:
    """Return the states of what a loop hands on, and of all that its body gives."""
    inside = [_constant(v) for v in body.consts]
    shapes = [v.aval.shape for v in body.jaxpr.outvars[: len(before)]]
    carried = [
        shared_of(shape, s.uniform) if isinstance(s, Shared) else s for s, shape in zip(before, shapes, strict=True)
    ]
    while True:
        found = _body(body.jaxpr, inside, [*constants, *carried, *behind], batch)
        joined = [_joined(*pair) for pair in zip(carried, found[: len(before)], shapes, strict=True)]
        if joined == carried:
            return carried, found
        carried = joined


def _scan(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    params = eqn.params
    first, carry = params["num_consts"], params["num_carry"]
    behind: list[State] = []
    for state, v in zip(states[first + carry :], eqn.invars[first + carry :], strict=True):
        if isinstance(state, Rows) and state.axis:
            behind.append(state._replace(axis=state.axis - 1))
        elif isinstance(state, Shared):
            behind.append(shared_of(v.aval.shape[1:], frozenset(k - 1 for k in state.uniform if k)))
        else:
            raise Mixed("it goes along the axis of the examples")
    carried, found = _loop(params["jaxpr"], states[:first], states[first : first + carry], behind, batch)
    stacked: list[State] = []
    for state, v in zip(found[carry:], eqn.outvars[carry:], strict=True):
        if isinstance(state, Rows):
            stacked.append(state._replace(axis=state.axis + 1))
        elif isinstance(state, Shared):
            stacked.append(shared_of(v.aval.shape, frozenset(k + 1 for k in state.uniform)))
        else:
            raise Mixed("it sums over the examples")
    return [*carried, *stacked]


def _cond(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    if not isinstance(states[0], Shared):
        raise Mixed("which branch is taken depends on examples")
    branches = [_body(b.jaxpr, [_constant(v) for v in b.consts], states[1:], batch) for b in eqn.params["branches"]]
    shapes = [v.aval.shape for v in eqn.outvars]
    found = branches[0]
    for other in branches[1:]:
        found = [_joined(a, b, shape) for a, b, shape in zip(found, other, shapes, strict=True)]
    return found


def _while(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    params = eqn.params
    first, second = params["cond_nconsts"], params["body_nconsts"]
    test, body = params["cond_jaxpr"], params["body_jaxpr"]
    carried, _ = _loop(body, states[first : first + second], states[first + second :], [], batch)
    (goes_on,) = _body(test.jaxpr, [_constant(v) for v in test.consts], [*states[:first], *carried], batch)
    if not isinstance(goes_on, Shared):
        raise Mixed("how long it runs depends on examples")
    return carried
