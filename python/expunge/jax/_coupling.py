"""Proof that the examples of a batch do not meet: the axis of the examples is followed through every operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from expunge.jax import _axis_rules
from expunge.jax._axes import RULES, Mixed, Rows, Shared, State, Sum, Total, is_zero, same_along, shared_of
from expunge.jax._derivatives import BODIES, Derivative, derivative_of
from expunge.jax._errors import UnsupportedFunctionError
from expunge.jax._moving import moving_operands, moving_variables
from expunge.jax._program import CALLS, source_of
from expunge.jax._sum_rules import SUMMING, linear

__all__ = ["Followed", "follow"]

_REMEDY = (
    "a loss of one example, with one_example=True, needs no such rule: then random numbers take a key of each example, "
    "jax.random.split(key, B)"
)
_FOLDED = set(_axis_rules.ELEMENTWISE) | {"iota", "broadcast_in_dim", "reshape", "squeeze", "transpose", "concatenate"}
_MOST_FOLDED = 1 << 20  # numbers in a value that is worked out while a function is traced


class Followed(NamedTuple):
    """Knowledge of the only result, and the rules of derivatives in it that are not linear."""

    state: State
    nonlinear: list[str]


class _Way:
    """How equations are followed."""

    def __init__(self, batch: int, moving: set[Var], *, sums: bool = False, within: str = "") -> None:
        self.batch = batch
        self.moving = moving  # what gradients reach, and are taken of by the rules of functions themselves
        self.sums = sums  # whether they are those of a derivative, in which sums over examples are arrays
        self.within = within  # words that name the rule that they are part of
        self.nonlinear: list[str] = []
        self.rules: dict[int, tuple[JaxprEqn, Derivative | None]] = {}  # the bodies of loops are followed repeatedly

    def rule_of(self, eqn: JaxprEqn) -> Derivative | None:
        """Return the rule of an equation's own, traced once."""
        if id(eqn) not in self.rules:
            self.rules[id(eqn)] = eqn, derivative_of(eqn, moving_operands(eqn, self.moving))
        return self.rules[id(eqn)][1]


def follow(closed: ClosedJaxpr, states: Sequence[State], batch: int, parameters: Sequence[int]) -> Followed:
    """Return what is known of the only result of a traced function, of some inputs of which gradients are taken.

    Raises
    ------
    UnsupportedFunctionError
        If examples meet, or may meet for all that is known.
    """
    way = _Way(batch, moving_variables(closed, parameters))
    (result,) = _closed(closed, states, way)
    return Followed(result, way.nonlinear)


def _constant(value: Any) -> Shared:
    if not isinstance(value, (np.ndarray, np.generic, bool, int, float)):
        return shared_of(np.shape(value))
    array = np.asarray(value)
    uniform = [k for k in range(array.ndim) if array.size and (array == array.take([0], k)).all()]
    return shared_of(array.shape, uniform, array)


def _closed(closed: ClosedJaxpr, states: Sequence[State], way: _Way, where: str = "") -> list[State]:
    return _body(closed.jaxpr, [_constant(v) for v in closed.consts], states, way, where)


def _body(jaxpr: Jaxpr, constants: Sequence[State], states: Sequence[State], way: _Way, where: str = "") -> list[State]:
    """Follow the equations of a body; ``where`` is the line that calls it."""
    known: dict[Var, State] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *states), strict=True))

    def state_of(v: Any) -> State:
        return _constant(v.val) if isinstance(v, Literal) else known[v]

    for eqn in jaxpr.eqns:
        given = [state_of(v) for v in eqn.invars]
        known.update(zip(eqn.outvars, _results(eqn, given, way, where), strict=True))
    return [state_of(v) for v in jaxpr.outvars]


def _results(eqn: JaxprEqn, states: list[State], way: _Way, where: str) -> list[State]:
    name = eqn.primitive.name
    where = source_of(eqn) or where  # bodies that JAX has traced before have no lines of their own
    body = eqn.params.get(CALLS.get(name, ""))
    if isinstance(body, ClosedJaxpr):
        return _closed(body, states, way, where)
    if body is not None:
        return _body(body, [], states, way, where)
    try:
        if name in BODIES:
            return _with_own_rule(eqn, states, way, where)
        if name in _LOOPS:
            return _LOOPS[name](eqn, states, way)
        if all(isinstance(state, Shared) for state in states):
            return _shared(eqn, states, way.batch)
        if any(isinstance(state, Sum) for state in states):
            return linear(eqn, states)
        found = SUMMING[name](eqn, states, way.batch) if way.sums and name in SUMMING else None
        if found is None:
            if name not in RULES:  # deny by default
                raise Mixed("no rule says what it does to the axis of the examples")
            found = RULES[name](eqn, states, way.batch)
        return [Sum() if way.sums and isinstance(state, Total) else state for state in found]
    except Mixed as why:
        shapes = ", ".join(str(tuple(v.aval.shape)) for v in eqn.invars)
        raise UnsupportedFunctionError(
            f"{name} of shapes {shapes}{where}{way.within} may mix the examples of the batch: {why}. If they do not "
            f"interact, {_REMEDY}"
        ) from None


def _with_own_rule(eqn: JaxprEqn, states: list[State], way: _Way, where: str) -> list[State]:
    """Follow the values of a function with its own derivative, and the derivative if a gradient goes through it."""
    name = eqn.primitive.name
    inside = _Way(way.batch, set(), sums=way.sums, within=way.within)  # rules within are not those that JAX takes
    found = _closed(eqn.params[BODIES[name]], states, inside, where)
    try:
        rule = way.rule_of(eqn)
    except Exception as error:
        raise UnsupportedFunctionError(
            f"the derivative that {name}{where} has of its own cannot be traced: {error}"
        ) from error
    if rule is None:
        return found
    if rule.backward:
        return _with_cotangents(rule, eqn, states, found, way, where)
    return _with_tangents(rule, eqn, states, found, way, where)


def _words(eqn: JaxprEqn, where: str) -> str:
    return f", in the derivative that {eqn.primitive.name}{where} has of its own,"


def _with_tangents(
    rule: Derivative, eqn: JaxprEqn, states: list[State], found: list[State], way: _Way, where: str
) -> list[State]:
    """Return states of results whose tangents have examples along the same axes, or are the same for all.

    JAX makes the gradient of a rule of tangents, which it takes to be linear: that keeps examples apart as it does.
    """
    tangents = [_without_value(states[k], eqn.invars[k].aval) for k in rule.inputs]
    sums = any(isinstance(state, Total) for state in states)
    within = _Way(way.batch, set(), sums=sums, within=_words(eqn, where))
    given = [Sum() if isinstance(state, Total) else state for state in (*states, *tangents)]
    results = _closed(rule.closed, given, within, where)
    values, changes = results[: len(found)], results[len(found) :]
    joined = [_of_rule(a, b, v.aval) for a, b, v in zip(found, values, eqn.outvars, strict=True)]
    for k, change in zip(rule.outputs, changes, strict=True):
        joined[k] = _of_rule(joined[k], change, eqn.outvars[k].aval)
    return joined


def _without_value(state: State, aval: Any) -> State:
    return shared_of(aval.shape, state.uniform) if isinstance(state, Shared) else state


def _of_rule(first: State, second: State, aval: Any) -> State:
    """Return what is known of a result from the values of a function and from its rule."""
    if isinstance(first, Total) and (
        isinstance(second, Sum) or (isinstance(second, Total) and second.scale == first.scale)
    ):
        return first
    if isinstance(first, Total | Sum) or isinstance(second, Total | Sum):
        raise Mixed("the values and the derivative do not sum over the examples alike")
    return _joined(first, second, aval.shape)


def _with_cotangents(
    rule: Derivative, eqn: JaxprEqn, states: list[State], found: list[State], way: _Way, where: str
) -> list[State]:
    """Return states of results, if each operand's gradient keeps the axis of examples, or sums over it."""
    found = [_with_rows(state, v.aval, states, eqn) for state, v in zip(found, eqn.outvars, strict=True)]
    given = [Sum() if isinstance(state, Total) else state for state in states]
    for k in rule.outputs:
        state = found[k]
        if isinstance(state, Rows):
            given.append(state)
        elif isinstance(state, Shared) and not any(isinstance(s, Total) for s in states):
            given.append(Sum())  # all examples go through it
        else:
            given.append(shared_of(eqn.outvars[k].aval.shape))  # numbers that a sum is multiplied by
    within = _Way(way.batch, set(), sums=True, within=_words(eqn, where))
    results = _closed(rule.closed, given, within, where)
    values, grads = results[: len(found)], results[len(found) :]
    joined = [_of_rule(a, b, v.aval) for a, b, v in zip(found, values, eqn.outvars, strict=True)]
    for k, grad in zip(rule.inputs, grads, strict=True):
        _check_gradient(states[k], grad, k)
    if not _is_linear(rule, eqn, way.batch):
        way.nonlinear.append(f"{eqn.primitive.name}{where}")
    return joined


def _with_rows(state: State, aval: Any, states: Sequence[State], eqn: JaxprEqn) -> State:
    """Return rows for a result that is the same for all examples, but has the shape of an operand that is not."""
    if isinstance(state, Shared):
        for own, v in zip(states, eqn.invars, strict=True):
            if isinstance(own, Rows) and v.aval.shape == aval.shape and same_along(state, own.axis, own):
                return own
    return state


def _check_gradient(state: State, grad: State, operand: int) -> None:
    which = f"of its operand {operand} "
    if isinstance(state, Rows):
        if grad != state and not same_along(grad, state.axis, state):
            raise Mixed(f"the gradient {which}has no axis of the examples where the operand has it")
    elif isinstance(state, Shared):
        own = isinstance(grad, Rows) and same_along(state, grad.axis, grad)
        if not (isinstance(grad, Sum) or is_zero(grad) or own):
            raise Mixed(f"the gradient {which}which the examples share, is no sum of what each of them gives alone")
    elif not isinstance(grad, Shared):
        raise Mixed(f"the gradient {which}which is a sum over the examples, depends on examples")


def _is_linear(rule: Derivative, eqn: JaxprEqn, batch: int) -> bool:
    """Return whether gradients that are twice as large going in are so coming out."""
    given: list[State] = [shared_of(v.aval.shape) for v in eqn.invars]
    given += [Sum()] * len(rule.outputs)
    try:
        results = _closed(rule.closed, given, _Way(batch, set(), sums=True))
    except UnsupportedFunctionError:
        return False
    grads = results[len(eqn.outvars) :]
    return all(isinstance(grad, Sum) or is_zero(grad) for grad in grads)


def _shared(eqn: JaxprEqn, states: Sequence[State], batch: int) -> list[State]:
    """Return the states of results that depend on no example, worked out where all operands stand in the program."""
    shapes = [v.aval.shape for v in eqn.outvars]
    name = eqn.primitive.name
    values = [state.value for state in states if isinstance(state, Shared)]
    if name == "broadcast_in_dim" and len(values) == 1 and values[0] is not None and np.ndim(values[0]) == 0:
        return [shared_of(shapes[0], range(len(shapes[0])), np.broadcast_to(values[0], shapes[0]))]  # of any size
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


def _both_zero(first: State, second: State) -> bool:
    return is_zero(first) and is_zero(second)


def _joined(first: State, second: State, shape: Sequence[int]) -> State:
    """Return what is known of a value that is one of two."""
    if isinstance(first, Shared) and isinstance(second, Shared):
        return shared_of(shape, first.uniform & second.uniform, first.value if _both_zero(first, second) else None)
    if isinstance(first, Rows | Sum) and type(first) is type(second) and first == second:
        return first
    for rows, other in ((first, second), (second, first)):
        if isinstance(rows, Rows) and same_along(other, rows.axis, rows):
            return rows
        if isinstance(rows, Sum) and is_zero(other):
            return rows
    raise Mixed("what it hands on has examples along different axes, or differs along their axis")


def _loop(
    body: ClosedJaxpr, constants: list[State], before: list[State], behind: list[State], way: _Way
) -> tuple[list[State], list[State]]:
    """Return the states of what a loop hands on, and of all that its body gives."""
    shapes = [v.aval.shape for v in body.jaxpr.outvars[: len(before)]]
    carried = [
        shared_of(shape, s.uniform, s.value if is_zero(s) else None) if isinstance(s, Shared) else s
        for s, shape in zip(before, shapes, strict=True)
    ]
    while True:
        found = _closed(body, [*constants, *carried, *behind], way)
        joined = [_joined(*pair) for pair in zip(carried, found[: len(before)], shapes, strict=True)]
        if all(_same(*pair) for pair in zip(joined, carried, strict=True)):
            return carried, found
        carried = joined


def _same(first: State, second: State) -> bool:
    if isinstance(first, Shared) and isinstance(second, Shared):
        return first.uniform == second.uniform and is_zero(first) == is_zero(second)
    return type(first) is type(second) and bool(first == second)


def _scan(eqn: JaxprEqn, states: list[State], way: _Way) -> list[State]:
    params = eqn.params
    first, carry = params["num_consts"], params["num_carry"]
    behind: list[State] = []
    for state, v in zip(states[first + carry :], eqn.invars[first + carry :], strict=True):
        if isinstance(state, Rows) and state.axis:
            behind.append(state._replace(axis=state.axis - 1))
        elif isinstance(state, Sum):
            behind.append(state)
        elif isinstance(state, Shared):
            behind.append(shared_of(v.aval.shape[1:], frozenset(k - 1 for k in state.uniform if k)))
        else:
            raise Mixed("it goes along the axis of the examples")
    carried, found = _loop(params["jaxpr"], states[:first], states[first : first + carry], behind, way)
    stacked: list[State] = []
    for state, v in zip(found[carry:], eqn.outvars[carry:], strict=True):
        if isinstance(state, Rows):
            stacked.append(state._replace(axis=state.axis + 1))
        elif isinstance(state, Sum):
            stacked.append(state)
        elif isinstance(state, Shared):
            stacked.append(shared_of(v.aval.shape, frozenset(k + 1 for k in state.uniform)))
        else:
            raise Mixed("it sums over the examples")
    return [*carried, *stacked]


def _cond(eqn: JaxprEqn, states: list[State], way: _Way) -> list[State]:
    if not isinstance(states[0], Shared):
        raise Mixed("which branch is taken depends on examples")
    branches = [_closed(b, states[1:], way) for b in eqn.params["branches"]]
    shapes = [v.aval.shape for v in eqn.outvars]
    found = branches[0]
    for other in branches[1:]:
        found = [_joined(a, b, shape) for a, b, shape in zip(found, other, shapes, strict=True)]
    return found


def _while(eqn: JaxprEqn, states: list[State], way: _Way) -> list[State]:
    params = eqn.params
    first, second = params["cond_nconsts"], params["body_nconsts"]
    test, body = params["cond_jaxpr"], params["body_jaxpr"]
    carried, _ = _loop(body, states[first : first + second], states[first + second :], [], way)
    (goes_on,) = _closed(test, [*states[:first], *carried], way)
    if not isinstance(goes_on, Shared):
        raise Mixed("how long it runs depends on examples")
    return carried


_LOOPS = {"scan": _scan, "cond": _cond, "while": _while}
