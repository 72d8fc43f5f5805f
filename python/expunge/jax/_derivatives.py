"""Rules of differentiation of one's own (`jax.custom_jvp`, `jax.custom_vjp`), traced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxprs_in_params

from expunge.jax._program import is_floating

__all__ = ["BODIES", "Derivative", "called_apart", "depends_on_all", "derivative_of", "inner_calls"]

BODIES = {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}  # the parameter that holds the values


class Derivative(NamedTuple):
    """A traced rule: of operands and tangents, or of operands and cotangents.

    Its results are those of the call, then the tangents of ``outputs`` or the cotangents of ``inputs``; the tangents of
    ``inputs`` or the cotangents of ``outputs`` come behind the operands.
    """

    closed: ClosedJaxpr
    backward: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def derivative_of(eqn: JaxprEqn, operands: Sequence[int]) -> Derivative | None:
    """Return the rule of an equation's own by some operands, or None where nothing has a derivative."""
    backward = eqn.primitive.name == "custom_vjp_call"
    first = eqn.params["num_consts"]  # JAX refuses to differentiate by what the function closes over
    inputs = tuple(k for k in operands if k >= first and is_floating(eqn.invars[k].aval))
    outputs = tuple(k for k, v in enumerate(eqn.outvars) if is_floating(v.aval))
    if not inputs or not outputs:
        return None
    settings = eqn.primitive.get_bind_params(eqn.params)

    def rule(given: Sequence[Any], more: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        def of_floating(floating: Sequence[Any]) -> tuple[list[Any], list[Any]]:
            results = eqn.primitive.bind(*_replaced(given, inputs, floating), **settings)
            return [results[k] for k in outputs], list(results)

        at = [given[k] for k in inputs]
        if backward:
            _, back, results = jax.vjp(of_floating, at, has_aux=True)
            return results, back(list(more))[0]
        _, tangents, results = jax.jvp(of_floating, (at,), (list(more),), has_aux=True)
        return results, tangents

    shapes = [_shape(v.aval) for v in eqn.invars]
    more = [_shape(eqn.outvars[k].aval) for k in outputs] if backward else [shapes[k] for k in inputs]
    return Derivative(jax.make_jaxpr(rule)(shapes, more), backward, inputs, outputs)


def _replaced(values: Sequence[Any], places: Sequence[int], others: Sequence[Any]) -> list[Any]:
    found = list(values)
    for k, value in zip(places, others, strict=True):
        found[k] = value
    return found


def _shape(aval: Any) -> Any:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))


def called_apart(eqn: JaxprEqn, operands: Sequence[Any], moving: Sequence[int], zero: Any) -> list[Any]:
    """Return the results of a `jax.custom_vjp` under `jax.vmap`, each as many times as there are examples.

    ``moving`` are the places of operands that a gradient reaches, ``zero`` is a zero of each example. Without it, JAX
    hands the rule the sum of all examples' cotangents of a result whose values do not depend on the example.
    """
    settings = eqn.primitive.get_bind_params(eqn.params)

    def called(own: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
        return list(eqn.primitive.bind(*_replaced(operands, moving, own), **settings))

    def spread(results: Sequence[Any], zero: Any) -> list[Any]:
        return [one + zero.astype(one.dtype) if is_floating(one) else one for one in results]

    def function(own: Sequence[Any], operands: Sequence[Any], zero: Any) -> list[Any]:
        return spread(called(own, operands), zero)

    def forward(own: Sequence[Any], operands: Sequence[Any], zero: Any) -> tuple[list[Any], Any]:
        results, back = jax.vjp(lambda own: called(own, operands), own)
        return spread(results, zero), (back, zero)

    def backward(kept: Any, cotangents: Sequence[Any]) -> tuple[Any, ...]:
        back, zero = kept
        return back(list(cotangents))[0], None, jnp.zeros_like(zero)

    rule = jax.custom_vjp(function)
    rule.defvjp(forward, backward)
    fixed = [jax.lax.stop_gradient(one) for one in operands]
    return list(rule([operands[k] for k in moving], fixed, zero))


def inner_calls(eqn: JaxprEqn) -> Iterator[JaxprEqn]:
    """Give the calls of functions with a `jax.custom_vjp` in the bodies of an equation, such as a loop."""
    for body in jaxprs_in_params(eqn.params):
        for one in (body.jaxpr if isinstance(body, ClosedJaxpr) else body).eqns:
            if one.primitive.name == "custom_vjp_call":
                yield one
            elif one.primitive.name not in BODIES:
                yield from inner_calls(one)


def depends_on_all(eqn: JaxprEqn) -> bool:
    """Return whether each floating result of a function, and of its rule, comes from all floating operands."""
    first = eqn.params["num_consts"]
    inputs = [k for k, v in enumerate(eqn.invars) if k >= first and is_floating(v.aval)]
    outputs = [k for k, v in enumerate(eqn.outvars) if is_floating(v.aval)]
    rule = derivative_of(eqn, inputs)
    bodies = [eqn.params["call_jaxpr"], *([] if rule is None else [rule.closed])]
    return all(_come_from(body.jaxpr, outputs, k) for body in bodies for k in inputs)


def _come_from(jaxpr: Jaxpr, outputs: Sequence[int], operand: int) -> bool:
    """Return whether some results come from an operand."""
    reached: set[Any] = {jaxpr.invars[operand]}
    for eqn in jaxpr.eqns:
        if any(isinstance(v, Var) and v in reached for v in eqn.invars):
            reached.update(eqn.outvars)
    return all(isinstance(jaxpr.outvars[k], Var) and jaxpr.outvars[k] in reached for k in outputs)
