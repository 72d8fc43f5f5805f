"""Follows every use of a model's parameters through the torch functions called in a block.

A call that is understood receives a stand-in for each parameter: an alias, or a constant if no ``.grad`` is wanted. All
that a parameter gets must then come through its alias, and a hook on the parameter notices what does not: no use
escapes, whatever way it takes. Gradients of outputs are read from the nodes that made them, which no in-place call,
view or hook of a tensor takes out of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from expunge.data.grouping import Grouping
from expunge.torch._anchored import anchored
from expunge.torch._arrival import Arrival, Finish
from expunge.torch._axis import LEADING, WHOLE, Axis, Lost, Rows, State, Total, rows_of
from expunge.torch._batch_axes import BatchAxes
from expunge.torch._block_hook import BlockHook
from expunge.torch._calls import ABOUT, READERS, WRITERS, in_backward, recomputing, with_weight
from expunge.torch._contributions import PulledUse, Use, sum_of_squares
from expunge.torch._distributed import look_at_replicas
from expunge.torch._inputs import inputs_in
from expunge.torch._kernels import Squares
from expunge.torch._known_functions import checkpointed
from expunge.torch._refusals import look_at_inputs, look_at_saving, not_followed, transformed_of_examples
from expunge.torch._rule import LIKE, SHAPED
from expunge.torch._small_layers import SmallLayers
from expunge.torch._sources import (
    Derived,
    Made,
    ParameterView,
    RefusalError,
    Views,
    layout_overlaps,
    map_tensors,
    tensors_in,
)
from expunge.torch._stand_ins import StandIns, mark, put_hooks, take_hooks
from expunge.torch._tensor_map import TensorMap
from expunge.torch._together import squares_of_groups

__all__ = ["Source", "Tracker"]

Source = ParameterView | Derived

_transform_level = torch._C._functorch.maybe_current_level


class _Mode(TorchFunctionMode):
    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.tracker: Tracker | None = tracker  # until the block ends: a cycle would wait for the garbage collector

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert self.tracker is not None
        return self.tracker.call(func, args, kwargs or {})


class Tracker:
    """The uses of parameters in one block."""

    def __init__(
        self,
        model: nn.Module,
        parameters: list[nn.Parameter],
        handlers: dict[Any, Any],
        *,
        param_grads: bool,
        threads: int | None,
        grouping: Grouping | None = None,
    ) -> None:
        self.model = model
        self.grouping = grouping
        self.parameters = parameters
        self.handlers = handlers
        self.param_grads = param_grads
        self.threads = threads
        self.mode = _Mode(self)
        self.axes = BatchAxes()
        self.views = Views(parameters)
        self.keys = {id(p): k for k, p in enumerate(self.parameters)}
        self.derived: TensorMap[Derived] = TensorMap()
        self.made: Made = {}  # what was computed of the aliases
        self.aliases = StandIns(parameters, self._passed)
        self.through: dict[int, tuple[int, int]] = {}  # the gradients that went through aliases, by key
        self.expected = [0] * len(self.parameters)  # uses recorded in the forward pass
        self.arrivals = [0] * len(self.parameters)  # those whose gradient arrived
        self.uses: list[list[Use]] = [[] for _ in self.parameters]
        self.settled: dict[int, Squares] = {}
        self.small = SmallLayers(self.settled, self.fail, threads)
        self.written_by_hooks = False  # whether a hook of a tensor may write into gradients
        self.failures: dict[int, str] = {}
        self.refusals: list[str] = []  # of no parameter in particular
        self.notes: dict[int, str] = {}  # why a call was not followed
        self.hints: dict[int, str] = {}  # what else was done with a parameter
        self.replays: list[Any] = []
        self.arrived = False
        self.read_out = False  # whether numbers were read out of a tensor that depends on examples
        self.aside = False  # a pass that is not that of the loss
        self.paused = False  # between the steps of a loop
        self.losses: list[State] = []  # what backward passes started from
        self.hooks: list[Any] = []
        self.number = 0  # of the pass that calls are made in
        self.calls_waiting = 0  # of the model, since the last backward pass
        self.closed = 0  # passes before this one had their norms taken
        self.ran: int | None = None  # the pass that gradients arrived of
        self.begun = False  # whether the model was called since

    # --- the block ------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Return the names of the parameters."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        return [names[id(p)] for p in self.parameters]

    def open(self) -> None:
        """Start following."""
        self.hooks.append(self.model.register_forward_pre_hook(BlockHook(self.begin), with_kwargs=True))
        put_hooks(self.parameters, self._escaped)
        self.mode.__enter__()

    def pause(self) -> None:
        """Follow nothing until `resume`."""
        self.mode.__exit__(None, None, None)
        self.paused = self.aside = True

    def resume(self) -> None:
        """Follow again."""
        self.paused = self.aside = False
        self.mode.__enter__()

    def close(self) -> None:
        """Stop following and forget."""
        if not self.paused:
            self.mode.__exit__(None, None, None)
        self.mode.tracker = None
        self.aside = True  # passes that run later, through what is left of the graph
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()
        take_hooks(self.parameters)
        self.aliases.close()
        self.small.close()
        self.uses.clear()
        self.replays.clear()
        self.derived.clear()
        self.made.clear()

    def next_pass(self) -> None:
        """Forget a pass whose norms were taken; what its graph still does is refused."""
        self.axes = BatchAxes()
        for held in (self.derived, self.made, self.aliases, self.through, self.settled, self.small, self.notes,
                     self.hints, self.replays, self.losses):  # fmt: skip
            held.clear()
        self.failures.clear()  # of an empty batch, which has no norms to refuse
        self.expected, self.arrivals = [0] * len(self.parameters), [0] * len(self.parameters)
        self.uses = [[] for _ in self.parameters]
        self.arrived = self.read_out = self.begun = False
        self.ran = None
        self.number += 1
        self.closed = self.number

    def _another_call(self) -> None:
        """Tell calls of the model after a backward pass from those before it, whose gradients are another pass's."""
        if not torch.is_grad_enabled():
            return
        self.begun = True
        if self.arrived:
            self.number += 1
            self.calls_waiting = 0
        self.calls_waiting += 1
        self.aliases.drop_stale(self.expected)

    def look_at_parameters(self) -> None:
        """Refuse norms where parameters of the model require grad that did not, or were not there, at the beginning."""
        self.refuse(not_followed(self.model, self.keys))

    def moved(self, key: int) -> None:
        """Let the uses of a parameter from here on see the memory that it was given."""
        if self.expected[key]:
            self.fail([key], "its data was set between a use of it and norms(): call norms() first")
        self.views.pop(key, None)
        self.aliases.drop(key)

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the arguments that the model is called with."""
        if self.paused:
            return
        with torch._C.DisableTorchFunction():
            self._another_call()
            self.look_at_parameters()
            look_at_replicas(self.model, param_grads=self.param_grads)
            inputs = inputs_in(*args, *kwargs.values())
            look_at_inputs((*args, *kwargs.values()), inputs)
            self.axes.begin(inputs)
            if self.grouping is not None and self.axes.batch is not None:
                self.grouping.look_at(self.axes.batch)

    def _passed(self, key: int, inputs: Sequence[Tensor | None], grads: Sequence[Tensor | None]) -> None:
        """Note the gradient that goes through an alias to its parameter; some use must explain it."""
        with torch._C.DisableTorchFunction():
            grad = grads[0]
            if grad is None or self.aside:
                return
            self.through[key] = mark(grad)
            if not self.arrivals[key]:
                self.fail([key], self._unexplained())

    def _unexplained(self) -> str:
        said = "its gradient came from no use that was followed"
        if self.calls_waiting < 2:
            return said
        return (
            f"{said}; the model was called {self.calls_waiting} times before this backward pass: make calls that only "
            "evaluate under torch.no_grad(), and run backward after each of the others"
        )

    def _escaped(self, key: int, grad: Tensor) -> None:
        """Notice a gradient that did not come through the alias alone."""
        with torch._C.DisableTorchFunction():
            if self.aside or (key in self.through and self.through.pop(key) == mark(grad)):
                return
            reason = self.notes.get(key) or self.hints.get(key, "it was used in a way that is not followed")
            if key in self.aliases.bare and not self.arrivals[key]:
                reason = self._unexplained()
            self.fail([key], reason)

    # --- calls ------------------------------------------------------------------------------------

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make one call, with stand-ins for parameters if it is understood."""
        if function in ABOUT:
            return function(*args, **kwargs)
        if function is F.l1_loss:
            kwargs = with_weight(kwargs)
        if torch.is_grad_enabled():
            look_at_saving()
        if _transform_level() is not None:
            reason = transformed_of_examples(tensors_in(args, kwargs), self.axes)
            self.refuse(reason)
        handler = self.handlers.get(function)
        if handler is not None and handler.quick is not None:
            result = handler.quick(self, function, args, kwargs)
            if result is not None:
                return result
        given = tensors_in(args[:1] if function in LIKE else args[1:] if function in SHAPED else args, kwargs)
        if function in READERS and any(self.axes.get(t) is not None for t in given):
            self.read_out = True
        used = False
        for tensor in given:
            if tensor.requires_grad:
                if id(tensor) in self.keys or (
                    (self.derived or tensor._base is not None) and self.source_of(tensor) is not None
                ):
                    used = True
                elif self.axes.get(tensor) is None and self.axes.unknown(tensor):
                    self.axes.hide(tensor)
        if handler is not None and handler.always:
            result = handler.apply(self, function, args, kwargs)
        elif not used or not torch.is_grad_enabled():
            result = function(*args, **kwargs)
        elif not self.tracked(given):
            result = self.handlers["derive"](self, function, args, kwargs)
        elif handler is not None and not any(t.is_complex() for t in given):
            result = handler.apply(self, function, args, kwargs)
        else:
            result = self.handlers["replay"](self, function, args, kwargs)
        if isinstance(result, (Tensor, tuple, list)) or function in WRITERS:
            self.axes.follow(function, args, kwargs, given, result)
        elif result is None and (name := getattr(function, "__name__", "")).endswith("_") and name != "__get__":
            self.axes.wrote(function, args, kwargs, given)
        return result

    def state_of(self, tensor: Tensor) -> State | None:
        """Return where the examples are in a tensor, also if what made it was hidden."""
        state = self.axes.get(tensor)
        if state is None and self.source_of(tensor) is None and self.axes.unknown(tensor):
            self.axes.hide(tensor)
            state = self.axes.get(tensor)
        return state

    def starts_from(self, states: Sequence[State | None], *, seeded: bool) -> None:
        """Note what a backward pass starts from; ``seeded`` says that a gradient was given to it."""
        for state in states:
            if isinstance(state, (Axis, Rows)):
                state = Total("unclear", True)
            if state is not None:
                self.losses.append(Total(state.kind, True) if seeded and isinstance(state, Total) else state)

    def source_of(self, tensor: Any) -> Source | None:
        """Return where a parameter-like tensor comes from; None for anything else."""
        if not isinstance(tensor, Tensor) or not tensor.requires_grad:
            return None
        key = self.keys.get(id(tensor))
        if key is not None:
            return self.views[key]
        derived = self.derived.of(tensor) if self.derived else None
        if derived is not None:
            return derived if derived.version == tensor._version else None
        base = tensor._base
        key = None if base is None else self.keys.get(id(base))
        if key is None or tensor.dtype != self.parameters[key].dtype:
            return None
        size, stride = tuple(tensor.shape), tensor.stride()
        if layout_overlaps(size, stride):
            return None
        return self.views[key].at(size, stride, int(tensor.storage_offset() - self.parameters[key].storage_offset()))

    def tracked(self, tensors: Sequence[Tensor]) -> bool:
        """Whether a tensor depends on examples."""
        return any(self.axes.get(t) is not None for t in tensors)

    def joined(self, tensor: Tensor, axis: Axis) -> Tensor:
        """Return what depends on no example as rows of examples, which a layer takes it for: one use of it."""
        zeros = torch.zeros_like(tensor, memory_format=torch.contiguous_format)
        self.axes.set(zeros, axis if self.axes.batch != 1 else WHOLE)
        return self.call(torch.add, (zeros, tensor), {})  # type: ignore[no-any-return]

    def sources_in(self, *containers: Any) -> dict[int, Source]:
        """Return the parameter-like tensors among arguments, by id."""
        return {id(t): s for t in tensors_in(*containers) if (s := self.source_of(t)) is not None}

    def run(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, fresh: bool = True) -> Any:
        """Call with stand-ins for parameters; floating results require grad.

        ``fresh`` says that results share no memory with arguments.
        """
        return map_tensors(partial(anchored, fresh=fresh), self.with_stand_ins(function, args, kwargs))

    def with_stand_ins(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call with stand-ins for parameters, and return what the function returned."""

        def stand_in(tensor: Tensor) -> Tensor:
            source = self.source_of(tensor)
            if source is None:
                return tensor
            if not self.param_grads:
                return tensor.detach()
            if isinstance(source, ParameterView):
                return source.build(self.aliases)
            # A checkpoint counts what is saved for backward, and makes its calls twice.
            kept = torch._C._autograd._top_saved_tensors_default_hooks(True) is None
            return source.build(self.aliases, self.made if kept else None)

        return function(*map_tensors(stand_in, args), **map_tensors(stand_in, kwargs))

    def unfollowed(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], reason: Any) -> Any:
        """Call as it is; should a parameter's gradient pass here, its norm is refused for ``reason``."""
        for source in self.sources_in(args, kwargs).values():
            for root in source.roots:
                self.notes.setdefault(root, reason)
        return function(*args, **kwargs)

    def arrangement(self, tensor: Tensor) -> Callable[[Tensor], Tensor] | str:
        """Return what brings the examples of ``tensor``, or of a like output, to the front, or why nothing does."""
        axis = self.axes.get(tensor)
        if axis is None:
            return "its input does not depend on what the model was called with (call the model itself in the block)"
        if isinstance(axis, Lost):
            return f"the batch dimension of its input, of shape {tuple(tensor.shape)}, is lost: {axis.reason}"
        if not isinstance(axis, (Axis, Rows)):
            return f"its input, of shape {tuple(tensor.shape)}, is a sum over examples"
        if axis == LEADING or self.leads(tensor):
            return lambda t: t
        return partial(rows_of, axis=axis, batch=self.axes.batch or 0)

    def leads(self, tensor: Tensor) -> bool:
        """Whether the leading axis of a tensor counts examples and nothing else."""
        axis = self.axes.get(tensor)
        return axis == LEADING or (axis == WHOLE and tensor.ndim > 0 and tensor.shape[0] == 1)

    def record(
        self,
        output: Tensor,
        sources: Sequence[Source],
        finish: Finish,
        inputs: Sequence[Tensor],
        *,
        of_all: bool = False,
    ) -> None:
        """Wait for the gradient of ``output``, from which ``finish`` makes one use for each of ``sources``."""
        roots = [root for source in sources for root in source.roots]
        self.wait(output, roots, Arrival(self, roots, finish, inputs), of_all=of_all)

    def wait(
        self, output: Tensor, roots: Sequence[int], arrival: Callable[[Tensor], None], *, of_all: bool = False
    ) -> None:
        """Have ``arrival`` called with the gradient of an output that uses parameters.

        ``of_all`` says that it is called for any output of the same call, with one that has a gradient.
        """
        node, which = output.grad_fn, output.output_nr
        assert node is not None
        self.wait_at(node, which, roots, arrival, of_all=of_all)

    def wait_at(
        self, node: Any, which: int, roots: Sequence[int], arrival: Callable[[Tensor], None], *, of_all: bool = False
    ) -> None:
        """Have ``arrival`` called with the gradient of a node's output number ``which``, which is expected."""
        if in_backward() and not checkpointed(torch._C._current_autograd_node()):
            if not recomputing():
                self.fail(roots, "it was used during the backward pass, by a hook")
            return
        for root in roots:
            self.expected[root] += 1
        number = self.number
        direct = getattr(arrival, "at_node", None)  # takes what the node gives its inputs too

        def arrive(inputs: Sequence[Tensor | None], grads: Sequence[Tensor | None]) -> None:
            grad = next((g for g in grads if g is not None), None) if of_all else grads[which]
            if grad is None or self.aside:
                return
            if torch.is_grad_enabled():
                self.refuse("the backward pass keeps its graph for another (create_graph=True)")
                return
            if number != self.ran and not self._same_pass(number):
                return
            with torch._C.DisableTorchFunction():
                self.arrived = True
                for root in roots:
                    self.arrivals[root] += 1
                if direct is None:
                    arrival(grad)
                else:
                    direct(grad, inputs)

        node.register_hook(arrive)

    def _same_pass(self, number: int) -> bool:
        """Return whether gradients of pass ``number`` may arrive, after refusing norms where they may not."""
        if number < self.closed:
            self.refuse(
                "backward ran again through a call of the model whose norms were taken: call backward once, on the sum "
                "of the losses, before norms()"
            )
        elif self.ran is not None:
            self.refuse(
                "two backward passes ran, the second through a call of the model after the first: call norms() after "
                "each backward"
            )
        else:
            self.ran = number
            return True
        return False

    def refuse(self, reason: str | None) -> None:
        """Refuse all norms, if there is a reason."""
        if reason is not None:
            self.refusals.append(reason)

    def fail(self, roots: Sequence[int], reason: str) -> None:
        """Refuse the norms of these parameters."""
        for root in roots:
            self.failures.setdefault(root, reason)

    def takes(self, roots: Sequence[int], inputs: Sequence[tuple[Tensor, int]], *, again: bool) -> bool:
        """Return whether a gradient that arrived can be used, after refusing the norms of ``roots`` where it cannot."""
        if again:
            self.fail(roots, "backward ran through its use twice")
            return False
        for tensor, version in inputs:
            if tensor._version != version:
                self.fail(roots, "its input was modified in place after its use")
                return False
        return True

    def unsettled(self, root: int) -> bool:
        """Return whether a parameter's only use has not been counted yet."""
        return self.expected[root] == 1 and not self.axes.reentry and root not in self.settled and not self.uses[root]

    def add(self, uses: Sequence[Use]) -> None:
        """Take uses whose gradients have arrived; a parameter's only use is settled at once."""
        batch = self.axes.batch or 0
        for use in uses if batch else ():
            for root in use.source.roots:
                if root in self.settled:
                    self.fail([root], "it was used again, or a second backward pass ran, after its norms were settled")
                elif isinstance(use.source, Derived):
                    self.uses[root].append(PulledUse(self.views[root], self.threads, use))
                elif use.immediate and self.expected[root] == 1 and not self.axes.reentry:
                    self.settled[root] = use.squares(batch) if self.grouping is None else self._squares_of(root, [use])
                else:
                    self.uses[root].append(use)

    def _squares_of(self, key: int, uses: Sequence[Use]) -> Tensor:
        """Return the squared norms of a parameter, for every example or group."""
        batch, device = self.axes.batch or 0, self.parameters[key].device
        if self.grouping is None:
            return sum_of_squares(uses, batch, device)
        self.grouping.look_at(batch)
        return squares_of_groups(uses, self.grouping, device)

    def fresh_leaves(self) -> dict[int, Tensor]:
        """Return new leaves that stand for the parameters."""
        return {k: p.detach().requires_grad_() for k, p in enumerate(self.parameters)}

    # --- results ----------------------------------------------------------------------------------

    def squares(self) -> dict[int, Squares]:
        """Return squared norms for every parameter but those in ``failures``."""
        batch = self.axes.batch or 0
        if not batch:
            return {k: torch.zeros(0, dtype=torch.float64, device=p.device) for k, p in enumerate(self.parameters)}
        self.small.settle()
        for replay in self.replays:
            self.add(replay.uses())
        self.replays.clear()
        for key in range(len(self.parameters)):
            if key in self.settled or key in self.failures:
                continue
            try:
                self.settled[key] = self._squares_of(key, self.uses[key])
            except RefusalError as refusal:
                self.failures[key] = str(refusal)
            self.uses[key] = []
        return self.settled
