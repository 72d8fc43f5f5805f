"""Batch axes: which axis of every tensor counts examples, followed through the calls of a block.

A tensor without an entry does not depend on the examples. An operation keeps the axis only by a rule of its own; the
results of any other are LOST, and a parameter used with them, or a loss made of them, is refused: rows of another kind
are never mistaken for examples.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor

from expunge.torch import (  # noqa: F401  the tables
    _rules_algebra,
    _rules_elementwise,
    _rules_indexing,
    _rules_layers,
    _rules_losses,
    _rules_products,
    _rules_reductions,
    _rules_shapes,
)
from expunge.torch._axis import LEADING, WHOLE, Axis, Lost, Rows, State, Total
from expunge.torch._known_functions import checkpointed, input_of_known
from expunge.torch._rule import CONSTANT, IN_PLACE, RULES, Call, MixedError
from expunge.torch._rules_losses import of_totals
from expunge.torch._rules_picked import PICKING, of_rows, picked, unmixed
from expunge.torch._sources import tensors_in
from expunge.torch._tensor_map import TensorMap

__all__ = ["BatchAxes"]

_next_number = torch._C._autograd._get_sequence_nr  # nodes have numbers, by which those made in the block are told
_HIDDEN = Lost("it was made in a way that no torch function shows (a torch.autograd.Function, a hook of a module)")


class BatchAxes:
    """States of the tensors of one block: on which axis of each the examples are."""

    def __init__(self) -> None:
        self._states: TensorMap[State] = TensorMap()
        self._without_grad: TensorMap[bool] = TensorMap()  # results of calls made while nothing required grad
        self._constants: TensorMap[bool] = TensorMap()  # with a gradient, but neither of examples nor of the model
        self._written: dict[int, tuple[Any, State | tuple[int, int, Axis | Rows]]] = {}  # by storage, which is kept
        self.batch: int | None = None
        self.reentry = False  # whether a checkpoint will make calls in the backward pass
        self.graded = False  # whether a call with gradients said how many examples there are
        self.since = _next_number()

    def get(self, tensor: Tensor) -> State | None:
        """Return the state of a tensor, None if it does not depend on examples."""
        entry = self._states.get(id(tensor))
        state = entry[1] if entry is not None and entry[0]() is tensor else None
        if self._written and (written := self._written.get(_storage(tensor))) is not None:
            return self._of_memory(tensor, state, written[1])
        if state is None or not self._without_grad or not tensor.requires_grad:
            return state
        if self._without_grad.of(tensor) and not tensor.is_leaf:
            self._without_grad.put(tensor, False)
            if checkpointed(tensor.grad_fn):
                self.reentry = True
                return state
            self.hide(tensor)
            return self._states.of(tensor)
        return state

    def unknown(self, tensor: Tensor) -> bool:
        """Whether a tensor that has no state, nor is made of parameters, was made by something hidden in the block."""
        node = tensor.grad_fn if tensor.requires_grad else None
        if node is None or self._constants.has(tensor):
            return False
        return node._sequence_nr() >= self.since  # type: ignore[attr-defined, no-any-return]

    def set(self, tensor: Tensor, state: State) -> None:
        """Record where the examples are."""
        self._states.put(tensor, state)

    def made_of_parameters(self, tensor: Tensor) -> None:
        """Record that a tensor has a gradient and belongs to no example."""
        self._constants.put(tensor, True)

    def hide(self, tensor: Tensor) -> None:
        """Mark the examples of a tensor as lost, since what made it was hidden, unless they are known anyway."""
        source = input_of_known(tensor)
        state = None if source is None else self.get(source)
        self._states.put(tensor, state if isinstance(state, (Axis, Lost)) else _HIDDEN)

    def begin(self, inputs: list[Tensor]) -> None:
        """Take the inputs of the model: the leading axis counts examples."""
        if torch.is_grad_enabled() and not self.graded:
            self.graded = True
            if self.batch is not None:
                first = next((t for t in inputs if t.ndim), None)
                if first is not None and self.batch != first.shape[0]:
                    self._other_examples()
        shaped = [t for t in inputs if t.ndim and self.get(t) is None]
        if not shaped:
            return
        if self.batch is None:
            self.batch = shaped[0].shape[0]
            lengths = sorted({t.shape[0] for t in shaped}) if self.batch == 1 else []
            if len(lengths) > 1:
                reason = (
                    f"the model's inputs have leading dimensions of {lengths}, and which counts examples is not clear"
                )
                for tensor in shaped:
                    self._states.put(tensor, Lost(reason))
                return
        for tensor in shaped:
            if tensor.shape[0] == self.batch:
                self._states.put(tensor, LEADING)
            elif tensor is shaped[0]:
                self._states.put(tensor, Lost(f"the model was called on {self.batch} examples before"))

    def _other_examples(self) -> None:
        """Treat all examples so far, of calls without gradients, as different from those that follow."""
        lost = Lost(f"the model was called on {self.batch} other examples before, without gradients")
        for key, (tensor, _) in self._states.items():
            self._states[key] = (tensor, lost)
        for place, (storage, _) in self._written.items():
            self._written[place] = (storage, lost)
        self.batch = None

    def follow(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Tensor], result: Any
    ) -> None:
        """Enter the results of a call, whose arguments hold the tensors ``given``."""
        states: list[tuple[Tensor, State]] = []
        for tensor in given:
            state = self.get(tensor)
            if state is not None:
                for other, _ in states:
                    if other is tensor:
                        break
                else:
                    states.append((tensor, state))
        if not states or function in CONSTANT:
            for tensor in (result,) if isinstance(result, Tensor) else tensors_in(result):
                if tensor.requires_grad:
                    self._constants.put(tensor, True)
            return
        if _writes_somewhere(function):
            self.wrote(function, args, kwargs, given)
            return
        call = Call(function, args, kwargs, result, states, self.batch or 0)
        found = self._found(call)
        if function in IN_PLACE or kwargs.get("out") is not None or function == Tensor.data.__set__:  # type: ignore[attr-defined]
            self._write(call, found[0] if isinstance(found, list) else found)
            return
        graded = torch.is_grad_enabled()
        for k, tensor in enumerate(call.outputs):
            self._states.put(tensor, found[k] if isinstance(found, list) else found)
            if not graded and not tensor.requires_grad:  # else it is an argument, given back as it was
                self._without_grad.put(tensor, True)

    def wrote(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Tensor]) -> None:
        """Mark all arguments of a call that returned nothing but wrote somewhere as lost if one depends on examples."""
        states = {id(t): (t, state) for t in given if (state := self.get(t)) is not None}
        if states:
            call = Call(function, args, kwargs, None, list(states.values()), self.batch or 0)
            self._write(call, call.lost("has no rule that says what it writes"), given)

    def after(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Tensor], result: Any
    ) -> list[State]:
        """Return the states of the results of a call that takes examples."""
        states = {id(t): (t, state) for t in given if (state := self.get(t)) is not None}
        call = Call(function, args, kwargs, result, list(states.values()), self.batch or 0)
        found = self._found(call)
        return found if isinstance(found, list) else [found] * len(call.outputs)

    def claimed(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Tensor], result: Any
    ) -> dict[int, Axis | Rows]:
        """Return, by id, where arguments that depend on no example have rows for the examples all the same.

        A tensor expanded over the batch has, as far as the call goes, if its rule gives the same with examples there;
        that a dimension is as long as the batch proves nothing.
        """
        if self.batch == 1:
            return {}
        states = {id(t): (t, state) for t in given if (state := self.get(t)) is not None}
        others = {id(t): t for t in given if id(t) not in states}
        base = self._found(Call(function, args, kwargs, result, list(states.values()), self.batch or 0))
        found: dict[int, Axis | Rows] = {}
        axes = [(s, t.shape[s.dim]) for t, s in states.values() if isinstance(s, (Axis, Rows))]
        for key, tensor in others.items():
            for dim, (other, length) in product(range(tensor.ndim), axes):
                if tensor.shape[dim] != length:
                    continue
                axis = other.at(dim)
                tried = [*states.values(), (tensor, axis)]
                if self._found(Call(function, args, kwargs, result, tried, self.batch or 0)) == base:
                    states[key] = (tensor, axis)
                    found[key] = axis
                    break
        return found

    def _found(self, call: Call) -> State | list[State]:
        totals = rows = False
        for _, state in call.states:
            kind = type(state)
            if kind is Lost:
                return unmixed(call) or state
            totals |= kind is Total
            rows |= kind is Rows
        if self.batch == 1:
            return WHOLE
        if rows and not totals:
            return of_rows(call)
        found = _by_rule(call, totals=totals)
        if type(found) is Lost and call.function in PICKING and not totals:
            return picked(call) or found
        return found

    # --- memory -------------------------------------------------------------------------------------

    def _write(self, call: Call, state: State, targets: list[Tensor] | None = None) -> None:
        """Enter what a call wrote into, in place."""
        target = call.kwargs.get("out")
        target = call.first if target is None else target
        for tensor in tensors_in([target]) if targets is None else targets:
            before = self._states.of(tensor)
            self._states.put(tensor, state)
            if (before == state and not isinstance(state, Lost)) or (
                isinstance(before, Total) and isinstance(state, Total)
            ):
                continue
            storage = tensor.untyped_storage()
            held: State | tuple[int, int, Axis | Rows] = state
            if self.batch != 1 and before is not None:
                held = state if isinstance(state, Lost) else call.lost("wrote into memory that others use")
            elif isinstance(state, (Axis, Rows)) and state.dim >= 0:
                held = (tensor.shape[state.dim], tensor.stride(state.dim), state)
            self._written[storage.data_ptr()] = (storage, held)

    def _of_memory(self, tensor: Tensor, state: State | None, held: State | tuple[int, int, Axis | Rows]) -> State:
        """Return the state of a tensor whose memory was written to in place."""
        if isinstance(held, Lost):
            return held
        if state is not None:
            return state
        if isinstance(held, (Axis, Rows, Total)):
            return held
        length, step, axis = held
        same = [k for k in range(tensor.ndim) if (tensor.shape[k], tensor.stride(k)) == (length, step)]
        if len(same) == 1:
            return axis.at(same[0])
        return Lost("a view of memory that was written to in place was made before")


def _by_rule(call: Call, *, totals: bool) -> State | list[State]:
    rule = RULES.get(call.function)
    if rule is None:
        return call.lost("has no rule that says what becomes of the batch dimension")
    try:
        if totals:
            return of_totals(call)
        found = rule(call)
    except MixedError as error:
        return call.lost(str(error))
    return found if isinstance(found, (Axis, Rows, Total, Lost)) else list(found)


def _writes_somewhere(function: Any) -> bool:
    """Whether a call without a rule writes into its arguments, by its name."""
    if function in RULES:
        return False
    name = getattr(function, "__name__", "")
    return name.endswith("_") and not name.endswith("__")


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0
