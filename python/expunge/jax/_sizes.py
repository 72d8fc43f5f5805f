"""Numbers and functions in a traced function that change with the number of examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var, jaxprs_in_params

from expunge.jax._derivatives import BODIES, derivative_of
from expunge.jax._moving import moving_operands, moving_variables
from expunge.jax._program import is_floating

__all__ = ["change_with_size"]

# Those that no change of shape brings with it.
_NAMES = """
abs acos acosh asin asinh atan atan2 atanh cbrt ceil clamp cos cosh digamma erf erf_inv erfc exp exp2 expm1 floor igamma
lgamma log log1p logistic max min pow integer_pow rem round rsqrt sign sin sinh sqrt square tan tanh
"""
_FUNCTIONS = frozenset(_NAMES.split())
_MOST = 1 << 20  # numbers of an array that are looked at


def change_with_size(
    several: ClosedJaxpr, one: ClosedJaxpr, parameters: Iterable[int], allowed: Iterable[float]
) -> str | None:
    """Return a number or function that stands in one trace and not in the other, of several examples and of one.

    ``parameters`` are the inputs that gradients are taken by; ``allowed`` are numbers that a sum over the examples is
    multiplied or divided by.
    """
    ours, theirs = (
        Counter[float | str](_marks(closed, moving_variables(closed, parameters))) for closed in (several, one)
    )
    more, fewer, factors = ours - theirs, theirs - ours, Counter[float | str](allowed)
    unexplained = more - factors
    if unexplained:
        return _said(next(iter(unexplained)))
    if fewer.total() > more.total():
        return _said(next(iter(fewer)))
    return None


def _said(mark: float | str) -> str:
    return mark if isinstance(mark, str) else f"the number {mark:g}"


def _marks(closed: ClosedJaxpr, moving: set[Var]) -> Iterator[float | str]:
    for const in closed.consts:
        yield from _number(const)
    yield from _of_equations(closed.jaxpr.eqns, moving)


def _of_equations(equations: Iterable[JaxprEqn], moving: set[Var]) -> Iterator[float | str]:
    for eqn in equations:
        name = eqn.primitive.name
        if name in _FUNCTIONS:
            yield name
        if name == "integer_pow":
            yield float(eqn.params["y"])
        becomes_floating = name == "convert_element_type" and is_floating(eqn.outvars[0].aval)
        for v in eqn.invars:
            if isinstance(v, Literal):
                yield from _number(v.val, integers=becomes_floating)
        for body in jaxprs_in_params(eqn.params):
            within = moving if name not in BODIES else set()  # rules within a rule are not those that JAX takes
            if isinstance(body, ClosedJaxpr):
                yield from _marks(body, within)
            else:
                yield from _of_equations(body.eqns, within)
        if name in BODIES:
            rule = derivative_of(eqn, moving_operands(eqn, moving))
            if rule is not None:
                yield from _marks(rule.closed, set())


def _number(value: Any, *, integers: bool = False) -> Iterator[float]:
    """Give a number, or the one that an array consists of; zeros and infinities come and go as shapes do."""
    if not isinstance(value, (np.ndarray, np.generic, bool, int, float)) or not 0 < np.size(value) <= _MOST:
        return
    array = np.asarray(value)
    if not integers and not jnp.issubdtype(array.dtype, jnp.floating):
        return
    first = float(array.flat[0])
    if first and np.isfinite(first) and (array == array.flat[0]).all():
        yield first
