"""One backward pass for the gradients of all results in which parameters meet examples, and norms from these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from expunge.jax._derivatives import called_apart
from expunge.jax._plan import Group, Plan, Site
from expunge.jax._sites import (
    BUDGET,
    Dense,
    Rows,
    Squares,
    by_chunks,
    dense_of_convolution,
    dense_site,
    doubtful,
    rows_site,
    sum_of_sites,
    wide,
)

__all__ = ["Passed", "run_plan"]


class Passed(NamedTuple):
    """Losses of shape (B,), squared norms (B,) by parameter, and sums of gradients by parameter, if asked for."""

    losses: Any
    squares: dict[int, Any]
    sums: dict[int, Any]


def run_plan(
    plan: Plan,
    given: dict[int, Any],
    examples: dict[int, tuple[Any, int]],
    batch: int,
    *,
    keep: bool,
    sums: bool,
) -> Passed:
    """Return losses, squared norms and, if asked for, sums of gradients.

    ``given`` has the values of inputs that all examples share, ``examples`` those of the others, each with its axis of
    examples; ``keep`` says that the function takes it, of length one.
    """
    program = plan.program
    values = program.run(plan.once, dict(given))
    held = {i: values[i] if i in values else program.constants[i] for i in plan.outside}
    axes = {i: axis for i, (_, axis) in examples.items()}
    batched = {i: array for i, (array, _) in examples.items()}
    zeros = {o: jnp.zeros((batch, *program.avals[o].shape), program.avals[o].dtype) for o in plan.perturbed}

    def one(
        zeros: dict[int, Any], made: dict[int, Any], example: dict[int, Any], zero: Any
    ) -> tuple[Any, dict[int, Any]]:
        if keep:
            example = {i: jnp.expand_dims(array, axes[i]) for i, array in example.items()}
        env = {**held, **made, **example}
        for step in plan.each:
            if step.name == "custom_vjp_call" and (moving := plan.moving(step)):
                results = called_apart(step.eqn, program.operands(step, env), moving, zero)
                env.update(zip(step.outputs, results, strict=True))
            else:
                program.run([step], env)
            for o in step.outputs:
                if o in zeros:
                    env[o] = env[o] + zeros[o]
        return env[plan.loss], {i: env[i] for i in plan.kept}

    def forward(zeros: dict[int, Any], made: dict[int, Any]) -> tuple[Any, dict[int, Any]]:
        return jax.vmap(one, in_axes=(0, None, axes, 0))(zeros, made, batched, jnp.zeros(batch))

    made = {i: held[i] for i in plan.values}
    if sums:
        losses, back, kept = jax.vjp(forward, zeros, made, has_aux=True)
        grads, totals = back(jnp.ones_like(losses))
    else:
        losses, back, kept = jax.vjp(lambda zeros: forward(zeros, made), zeros, has_aux=True)
        (grads,) = back(jnp.ones_like(losses))
        totals = {}
    squares: dict[int, Any] = {}
    found: dict[int, Any] = {}
    for group in plan.groups:
        squares.update(_squares_of(plan, group, given, held, kept, grads))
        if sums:
            pull = _pull(plan, group, given)
            found.update(zip(group.parameters, pull([totals[i] for i in group.values]), strict=True))
    return Passed(losses, squares, found)


def _pull(plan: Plan, group: Group, given: dict[int, Any]) -> Any:
    """Return the function that takes gradients of a group's values to those of its parameters."""

    def made_of(parameters: Sequence[Any]) -> list[Any]:
        env = {**given, **dict(zip(group.parameters, parameters, strict=True))}
        plan.program.run(group.steps, env)
        return [env[i] for i in group.values]

    _, back = jax.vjp(made_of, [given[i] for i in group.parameters])
    return lambda grads: back(list(grads))[0]


def _squares_of(
    plan: Plan, group: Group, given: dict[int, Any], held: dict[int, Any], kept: dict[int, Any], grads: dict[int, Any]
) -> dict[int, Any]:
    """Return squared norms by parameter: in closed form where one is known, else from gradients of single examples."""
    short = _in_short(plan, group, kept, grads)
    if short is None:
        return _in_full(plan, group, given, held, kept, grads)
    (parameter,) = group.parameters
    if short.magnitudes is None:
        return {parameter: short.values}
    value = lax.cond(
        doubtful(short),
        lambda: _in_full(plan, group, given, held, kept, grads)[parameter].astype(short.values.dtype),
        lambda: short.values,
    )
    return {parameter: value}


def _in_short(plan: Plan, group: Group, kept: dict[int, Any], grads: dict[int, Any]) -> Squares | None:
    if len(group.parameters) != 1:
        return None
    sites: list[Dense | Rows] = []
    for site in group.sites:
        route = plan.route(site.value)
        if route is None or (route.axes is None and len(group.sites) > 1):
            return None
        found = _closed(site, route.axes, kept, grads, alone=len(group.sites) == 1)
        if found is None:
            return None
        sites.append(found)
    return sum_of_sites(sites)


def _closed(
    site: Site, axes: tuple[int, ...] | None, kept: dict[int, Any], grads: dict[int, Any], *, alone: bool
) -> Dense | Rows | None:
    """Return a site as a product or as looked-up rows, if it is one."""
    step, inputs = site.step, site.step.inputs
    if inputs.count(site.value) != 1:
        return None
    position = inputs.index(site.value)
    root = axes if axes is not None else tuple(range(step.eqn.invars[position].aval.ndim))
    others = [kept[i] for i in step.numbers if i in kept]
    if len(inputs) != 2 or len(others) != 1 or len(step.outputs) != 1:
        return None
    (grad,) = (grads[o] for o in step.outputs)
    if step.name == "dot_general":
        return dense_site(step, position, root, others[0], grad)
    if step.name == "conv_general_dilated" and position == 1 and alone:
        return dense_of_convolution(step, others[0], grad)
    if step.name == "gather" and position == 0:
        return rows_site(step, root if axes is not None else None, others[0], grad)
    return None


def _in_full(
    plan: Plan, group: Group, given: dict[int, Any], held: dict[int, Any], kept: dict[int, Any], grads: dict[int, Any]
) -> dict[int, Any]:
    """Return squared norms by parameter from gradients of single examples, a chunk of them at a time."""
    pull = _pull(plan, group, given)
    avals = plan.program.avals
    needed = {i: kept[i] for site in group.sites for i in site.step.numbers if i in kept}
    reached = {o: grads[o] for site in group.sites for o in site.step.outputs if o in grads}

    def one(pair: tuple[dict[int, Any], dict[int, Any]]) -> list[Any]:
        own, grad = pair
        sums = {i: jnp.zeros(avals[i].shape, avals[i].dtype) for i in group.values}
        for site in group.sites:
            sums[site.value] += _gradient(plan, site, {**held, **own}, grad)
        return [_square(array) for array in pull([sums[i] for i in group.values])]

    numbers = sum(int(np.prod(avals[i].shape)) for i in (*group.values, *group.parameters))
    return dict(
        zip(group.parameters, by_chunks(one, (needed, reached), max(1, BUDGET // max(1, numbers))), strict=True)
    )


def _gradient(plan: Plan, site: Site, values: dict[int, Any], grad: dict[int, Any]) -> Any:
    """Return the gradient of a site's value, for one example."""
    outputs = [(k, o) for k, o in enumerate(site.step.outputs) if o in grad]

    def results(value: Any) -> list[Any]:
        env = dict(values)
        env[site.value] = value
        plan.program.run([site.step], env)
        return [env[o] for _, o in outputs]

    _, back = jax.vjp(results, values[site.value])
    return back([grad[o] for _, o in outputs])[0]


def _square(array: Any) -> Any:
    array = wide(array)
    return (array * array).sum()
