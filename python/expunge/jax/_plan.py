"""Groups of parameters, and where each meets values of the examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from expunge.jax._derivatives import depends_on_all, inner_calls
from expunge.jax._errors import UnsupportedFunctionError
from expunge.jax._program import Program, Step, is_floating, source_of

__all__ = ["Group", "Plan", "Route", "Site"]

# Steps whose gradient is their argument's, with the numbers in another order or another precision.
_SAME_NUMBERS = {"reshape", "squeeze", "expand_dims", "rev", "copy", "copy_p", "transpose", "convert_element_type"}
_COLLECTIVE = {
    "all_gather",
    "all_gather_invariant",
    "all_gather_reduced",
    "all_to_all",
    "axis_index",
    "pbroadcast",
    "pmax",
    "pmin",
    "ppermute",
    "psum",
    "psum2",
    "psum_invariant",
    "ragged_all_to_all",
    "reduce_scatter",
    "unreduced_psum",
}


class Site(NamedTuple):
    """A step in which a value made of parameters meets values of the examples."""

    step: Step
    value: int


class Route(NamedTuple):
    """How a value is made of one parameter by changes of shape: axis k is axis ``axes[k]`` of it, if known."""

    parameter: int
    axes: tuple[int, ...] | None


class Group(NamedTuple):
    """Parameters that act through the same values, these values, and the steps that make them."""

    parameters: tuple[int, ...]
    values: tuple[int, ...]
    steps: tuple[Step, ...]
    sites: tuple[Site, ...]


def _require_own_rules(program: Program, of_examples: set[int], of_parameters: set[int]) -> None:
    """Reject functions with rules of their own whose gradients JAX refuses, or mixes under `jax.vmap`."""
    for step in program.steps:
        if step.name == "custom_vjp_call":
            closed_over = step.inputs[: step.params["num_consts"]]
            if any(isinstance(i, int) and i in of_parameters and is_floating(program.avals[i]) for i in closed_over):
                raise UnsupportedFunctionError(
                    f"{step.name}{source_of(step.eqn)} closes over what depends on parameters, which JAX does not "
                    "differentiate: pass it as an argument"
                )
        elif of_examples.intersection(step.outputs):
            for eqn in inner_calls(step.eqn):
                if not depends_on_all(eqn):
                    raise UnsupportedFunctionError(
                        f"custom_vjp_call{source_of(eqn)}, in {step.name}{source_of(step.eqn)}, has a result that does "
                        "not depend on all operands, and JAX may give its rule a sum over the examples: return no such "
                        "result, or call it outside of the loop"
                    )


class Plan:
    """Steps that are run once, those that are run for every example, and the groups of parameters."""

    def __init__(self, program: Program, parameters: Sequence[int], examples: Sequence[int]) -> None:
        self.program = program
        of_examples = program.reached_from(examples)
        of_parameters = program.reached_from(parameters)
        self.loss = program.outputs[0]
        if self.loss not in of_examples:
            raise UnsupportedFunctionError(
                "the loss does not depend on the batch: no example has a gradient of its own"
            )
        for step in program.steps:
            if step.name in _COLLECTIVE and of_examples.intersection(step.outputs):
                raise UnsupportedFunctionError(
                    f"{step.name}{source_of(step.eqn)} exchanges values of examples between devices: take norms of "
                    "a loss without it"
                )
        _require_own_rules(program, of_examples, of_parameters)
        self.once = [step for step in program.steps if not of_examples.intersection(step.outputs)]
        self.each = [step for step in program.steps if of_examples.intersection(step.outputs)]
        self._parameters = set(parameters)
        self._of_parameters = of_parameters
        self.sites: list[Site] = []
        self.perturbed: dict[int, Step] = {}  # floating results of the steps of sites
        for step in self.each:
            found = [i for i in step.numbers if i in of_parameters - of_examples and is_floating(program.avals[i])]
            results = [o for o in step.outputs if is_floating(program.avals[o])]
            if not found or not results:  # comparisons have no gradient
                continue
            if step.name == "while":
                raise UnsupportedFunctionError(
                    f"while{source_of(step.eqn)} uses parameters, and JAX has no gradient of it: use jax.lax.scan, "
                    "or fori_loop with bounds that are Python numbers"
                )
            self.sites += [Site(step, i) for i in found]
            self.perturbed.update((o, step) for o in results)
        self.values = tuple(dict.fromkeys(site.value for site in self.sites))
        self.outside = tuple(  # what the steps of examples take from outside of them
            dict.fromkeys(i for step in self.each for i in step.numbers if i not in of_examples)
        )
        self.kept = tuple(  # operands of sites that belong to examples
            dict.fromkeys(i for site in self.sites for i in site.step.numbers if i in of_examples)
        )
        self.groups = self._groups()

    def moving(self, step: Step) -> list[int]:
        """Return the places of operands that a gradient reaches."""
        reached = self._of_parameters
        return [
            k
            for k, i in enumerate(step.inputs)
            if isinstance(i, int) and i in reached and is_floating(self.program.avals[i])
        ]

    def _groups(self) -> list[Group]:
        above: dict[int, set[int]] = {p: {p} for p in self._parameters}  # value -> parameters it is made of
        for step in self.once:
            made = set().union(*(above.get(i, set()) for i in step.numbers))
            above.update((o, made) for o in step.outputs)
        joined: list[tuple[set[int], list[int]]] = []
        for value in self.values:
            parameters, values = set(above[value]), [value]
            apart = []
            for others, theirs in joined:
                if others & parameters:
                    parameters, values = parameters | others, theirs + values
                else:
                    apart.append((others, theirs))
            joined = [*apart, (parameters, values)]
        return [
            Group(
                tuple(sorted(parameters)),
                tuple(values),
                tuple(self.program.needed_for(values, self.once)),
                tuple(site for site in self.sites if site.value in values),
            )
            for parameters, values in joined
        ]

    def route(self, value: int) -> Route | None:
        """Return how a value is made of one parameter, if by changes of shape and precision alone."""
        aval = self.program.avals[value]
        axes: tuple[int, ...] | None = tuple(range(len(aval.shape)))
        while value not in self._parameters:
            step = self.program.makers[value]
            spread = step.name == "broadcast_in_dim" and aval.size == self.program.avals[step.numbers[0]].size
            if not (step.name in _SAME_NUMBERS or spread) or len(step.inputs) != 1:
                return None
            (before,) = step.numbers
            if not is_floating(self.program.avals[before]):
                return None
            if step.name == "transpose":
                order = step.params["permutation"]
                axes = None if axes is None else tuple(order[k] for k in axes)
            elif step.name not in ("convert_element_type", "copy", "copy_p"):
                axes = None
            value, aval = before, self.program.avals[before]
        return Route(value, axes)
