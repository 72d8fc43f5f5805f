"""A traced function as a list of steps: nested calls are opened, and what no output needs is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
from jax.extend.core import ClosedJaxpr, DebugInfo, Jaxpr, JaxprEqn, Literal, Var

__all__ = ["CALLS", "Atom", "Program", "Step", "is_floating", "source_of"]

Atom: TypeAlias = "int | Literal"  # the number of a value, or a value that stands in the program

# Calls that mean their body -> the parameter that holds it. Rules of differentiation of one's own are no such calls.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}


def is_floating(aval: Any) -> bool:
    """Return whether values of a kind have gradients."""
    return bool(jax.numpy.issubdtype(aval.dtype, jax.numpy.inexact))


def source_of(eqn: JaxprEqn) -> str:
    """Return the line of the caller's code that an equation comes from, as words that may follow its name."""
    try:
        from jax._src import source_info_util
    except ImportError:
        return ""
    found = str(source_info_util.summarize(eqn.source_info))
    return f" at {found}" if found and "expunge/jax/_derivatives.py" not in found else ""


class Step:
    """One equation, with its operands and results by number."""

    def __init__(self, eqn: JaxprEqn, inputs: Sequence[Atom], outputs: Sequence[int]) -> None:
        self.eqn, self.inputs, self.outputs = eqn, tuple(inputs), tuple(outputs)
        self.numbers = tuple(dict.fromkeys(i for i in inputs if isinstance(i, int)))  # each operand once
        # One operand may stand under several names, which came together when calls were opened.
        places = {v: i for v, i in zip(eqn.invars, inputs, strict=True) if not isinstance(v, Literal)}
        self._of_names = list(places.values())
        self._jaxpr = Jaxpr(
            constvars=(),
            invars=list(places),
            outvars=list(eqn.outvars),
            eqns=[eqn],
            effects=eqn.effects,
            debug_info=DebugInfo("step", eqn.primitive.name, None, None),
        )

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return str(self.eqn.primitive.name)

    @property
    def params(self) -> Mapping[str, Any]:
        """The settings of the primitive."""
        return self.eqn.params

    def __call__(self, values: Callable[[Atom], Any]) -> list[Any]:
        """Return the results for operands."""
        return list(jax.core.eval_jaxpr(self._jaxpr, (), *[values(i) for i in self._of_names]))


class Program:
    """The steps of a function of flat arguments, in order."""

    def __init__(self, closed: ClosedJaxpr) -> None:
        self.avals: list[Any] = []
        self.constants: dict[int, Any] = {}
        self.steps: list[Step] = []
        self.inputs = [self._new(v.aval) for v in closed.jaxpr.invars]
        self.outputs = self._opened(closed.jaxpr, self._constants(closed), self.inputs)
        self._keep_needed()
        self.makers = {number: step for step in self.steps for number in step.outputs}

    def _new(self, aval: Any) -> int:
        self.avals.append(aval)
        return len(self.avals) - 1

    def _constants(self, closed: ClosedJaxpr) -> list[int]:
        numbers = [self._new(v.aval) for v in closed.jaxpr.constvars]
        self.constants.update(zip(numbers, closed.consts, strict=True))
        return numbers

    def _opened(self, jaxpr: Jaxpr, constants: Sequence[Atom], inputs: Sequence[Atom]) -> list[Atom]:
        names: dict[Var, Atom] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *inputs), strict=True))

        def read(v: Any) -> Atom:
            return v if isinstance(v, Literal) else names[v]

        for eqn in jaxpr.eqns:
            given = [read(v) for v in eqn.invars]
            body = eqn.params.get(CALLS.get(eqn.primitive.name, ""))
            if body is None:
                # A literal that came in through a call stands for a variable: it becomes a constant.
                for k, (atom, v) in enumerate(zip(given, eqn.invars, strict=True)):
                    if isinstance(atom, Literal) and not isinstance(v, Literal):
                        number = self._new(v.aval)
                        self.constants[number] = atom.val
                        given[k] = names[v] = number
                made = [self._new(v.aval) for v in eqn.outvars]
                self.steps.append(Step(eqn, given, made))
                names.update(zip(eqn.outvars, made, strict=True))
            elif isinstance(body, ClosedJaxpr):
                results = self._opened(body.jaxpr, self._constants(body), given)
                names.update(zip(eqn.outvars, results, strict=True))
            else:
                names.update(zip(eqn.outvars, self._opened(body, [], given), strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _keep_needed(self) -> None:
        needed = {i for i in self.outputs if isinstance(i, int)}
        kept = []
        for step in reversed(self.steps):
            if needed.intersection(step.outputs) or step.eqn.effects:
                kept.append(step)
                needed.update(step.numbers)
        self.steps = kept[::-1]

    def reached_from(self, numbers: Iterable[int]) -> set[int]:
        """Return the values that depend on some, these included."""
        found = set(numbers)
        for step in self.steps:
            if found.intersection(step.numbers):
                found.update(step.outputs)
        return found

    def needed_for(self, numbers: Iterable[int], steps: Sequence[Step]) -> list[Step]:
        """Return those of some steps that values are made by."""
        needed = set(numbers)
        kept = []
        for step in reversed(steps):
            if needed.intersection(step.outputs):
                kept.append(step)
                needed.update(step.numbers)
        return kept[::-1]

    def run(self, steps: Sequence[Step], values: dict[int, Any]) -> dict[int, Any]:
        """Run steps on values, which the results are added to."""
        for step in steps:
            values.update(zip(step.outputs, step(self._reader(values)), strict=True))
        return values

    def operands(self, step: Step, values: Mapping[int, Any]) -> list[Any]:
        """Return the operands of a step, in its order."""
        return [self._reader(values)(i) for i in step.inputs]

    def _reader(self, values: Mapping[int, Any]) -> Callable[[Atom], Any]:
        def read(i: Atom) -> Any:
            if isinstance(i, Literal):
                return i.val
            return values[i] if i in values else self.constants[i]

        return read
