"""The variables of a traced function that a gradient reaches."""

from __future__ import annotations

from collections.abc import Iterable

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxprs_in_params

from expunge.jax._program import CALLS, is_floating

__all__ = ["moving_operands", "moving_variables"]


def moving_variables(closed: ClosedJaxpr, inputs: Iterable[int]) -> set[Var]:
    """Return the floating variables that depend on some inputs, those in bodies of calls included."""
    found: set[Var] = set()
    _mark(closed.jaxpr, [closed.jaxpr.invars[k] for k in inputs], found)
    return found


def moving_operands(eqn: JaxprEqn, moving: set[Var]) -> tuple[int, ...]:
    """Return the places of the operands of an equation that a gradient reaches."""
    return tuple(k for k, v in enumerate(eqn.invars) if isinstance(v, Var) and v in moving)


def _mark(jaxpr: Jaxpr, inputs: Iterable[Var], found: set[Var]) -> None:
    found.update(v for v in inputs if is_floating(v.aval))
    for eqn in jaxpr.eqns:
        places = moving_operands(eqn, found)
        if not places or eqn.primitive.name == "stop_gradient":
            continue
        outputs = list(eqn.outvars)
        for body in jaxprs_in_params(eqn.params):
            within = body.jaxpr if isinstance(body, ClosedJaxpr) else body
            if eqn.primitive.name in CALLS:
                _mark(within, [within.invars[k] for k in places], found)
                outputs = [v for v, o in zip(eqn.outvars, within.outvars, strict=True) if o in found]
            else:  # of loops and branches, all that may be
                _mark(within, within.invars, found)
        found.update(v for v in outputs if is_floating(v.aval))
