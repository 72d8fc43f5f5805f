"""Follows every use of a model's parameters through the torch functions called in a block.

A call that is understood receives a stand-in for each parameter: an alias with a gradient of its own, or a constant if
no ``.grad`` is wanted. The parameter itself then gets a gradient only from calls that were not understood, and a hook
on it notices that: no use escapes, whatever way it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from expunge.torch._batch_axes import LOST, BatchAxes
from expunge.torch._contributions import PulledUse, Use, sum_of_squares
from expunge.torch._sources import Derived, ParameterView, RefusalError, layout_overlaps, map_tensors, tensors_in
from expunge.torch._tensor_map import TensorMap

__all__ = ["Source", "Tracker"]

Source = ParameterView | Derived
Finish = Callable[[Tensor], Sequence[Use]]


# What says something about a tensor and gives none: not a use of it.
_ABOUT = frozenset(
    {
        *(
            getattr(Tensor, name).__get__
            for name in (
                *("device", "dtype", "grad_fn", "is_cpu", "is_cuda", "is_leaf", "is_meta", "is_mkldnn", "is_nested"),
                *("is_quantized", "is_sparse", "is_sparse_csr", "itemsize", "layout", "nbytes", "ndim", "output_nr"),
                *("requires_grad", "retains_grad", "shape", "_version"),
            )
        ),
        *(Tensor.dim, Tensor.ndimension, Tensor.element_size, Tensor.get_device, Tensor.is_contiguous),
        *(Tensor.is_floating_point, Tensor.nelement, Tensor.numel, Tensor.size, Tensor.storage_offset, Tensor.stride),
        *(Tensor.__len__, torch.is_floating_point, torch.numel),
    }
)


class _Anchored(torch.autograd.Function):
    """Makes an output of frozen layers require grad, so that its gradient is computed."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, box: list[Tensor]) -> Tensor:
        return box[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        return None, None


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
    ) -> None:
        self.model = model
        self.parameters = parameters
        self.handlers = handlers
        self.param_grads = param_grads
        self.threads = threads
        self.mode = _Mode(self)
        self.axes = BatchAxes()
        self.views = _Views(parameters)
        self.keys = {id(p): k for k, p in enumerate(self.parameters)}
        self.derived: TensorMap[Derived] = TensorMap()
        self.aliases = [p.detach().requires_grad_() for p in self.parameters] if param_grads else []
        self.expected = [0] * len(self.parameters)  # uses recorded in the forward pass
        self.uses: list[list[Use]] = [[] for _ in self.parameters]
        self.settled: dict[int, Tensor] = {}
        self.failures: dict[int, str] = {}
        self.notes: dict[int, str] = {}  # why a call was not followed
        self.hints: dict[int, str] = {}  # what else was done with a parameter
        self.replays: list[Any] = []
        self.arrived = False
        self.running = -1  # the backward pass that is
        self.attention: tuple[int, int] | None = None  # (positions, examples) inside an attention layer
        self.anchor = torch.zeros((), requires_grad=True)
        self.hooks: list[Any] = []

    # --- the block ------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Return the names of the parameters."""
        names = {id(p): name for name, p in self.model.named_parameters()}
        return [names[id(p)] for p in self.parameters]

    def open(self) -> None:
        """Start following."""
        self.hooks.append(self.model.register_forward_pre_hook(self._begin, with_kwargs=True))
        for key, parameter in enumerate(self.parameters):
            self.hooks.append(parameter.register_hook(partial(self._escaped, key)))
        self.mode.__enter__()

    def close(self) -> None:
        """Stop following and forget."""
        self.mode.__exit__(None, None, None)
        self.mode.tracker = None
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()
        self.uses.clear()
        self.replays.clear()
        self.derived.clear()

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with torch._C.DisableTorchFunction():
            self.axes.begin(tensors_in(args, kwargs))

    def _escaped(self, key: int, grad: Tensor) -> None:
        reason = self.notes.get(key) or self.hints.get(key, "it was used in a way that is not followed")
        self.failures.setdefault(key, reason)

    def gradient_arrived(self) -> None:
        """Note that a backward pass runs, at whose end aliases hand their gradients over: once for each pass."""
        self.arrived = True
        if self.param_grads and (running := torch._C._current_graph_task_id()) != self.running:
            self.running = running
            torch.autograd.Variable._execution_engine.queue_callback(self._hand_over)

    def _hand_over(self) -> None:
        """Add the aliases' gradients to the parameters', as accumulation would."""
        with torch._C.DisableTorchFunction(), torch.no_grad():
            for parameter, alias in zip(self.parameters, self.aliases, strict=True):
                grad, alias.grad = alias.grad, None
                if grad is None:
                    continue
                if parameter.grad is None:
                    parameter.grad = grad
                else:
                    parameter.grad += grad

    # --- calls ------------------------------------------------------------------------------------

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make one call, with stand-ins for parameters if it is understood."""
        if function in _ABOUT:
            return function(*args, **kwargs)
        handler = self.handlers.get(function)
        if handler is not None and handler.quick is not None:
            result = handler.quick(self, function, args, kwargs)
            if result is not None:
                return result
        given = tensors_in(args, kwargs)
        if handler is not None and handler.always:
            result = handler.apply(self, function, args, kwargs)
        elif not torch.is_grad_enabled() or all(self.source_of(t) is None for t in given):
            result = function(*args, **kwargs)
        elif handler is not None:
            result = handler.apply(self, function, args, kwargs)
        else:
            result = self.handlers["replay"](self, function, args, kwargs)
        if isinstance(result, (Tensor, tuple, list)) or getattr(function, "__name__", "") in ("__setitem__", "__set__"):
            self.axes.follow(function, args, kwargs, given, result)
        return result

    def source_of(self, tensor: Any) -> Source | None:
        """Return where a parameter-like tensor comes from; None for anything else."""
        if not isinstance(tensor, Tensor) or not tensor.requires_grad:
            return None
        key = self.keys.get(id(tensor))
        if key is not None:
            return self.views[key]
        derived = self.derived.get(tensor) if self.derived else None
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

    def sources_in(self, *containers: Any) -> dict[int, Source]:
        """Return the parameter-like tensors among arguments, by id."""
        return {id(t): s for t in tensors_in(*containers) if (s := self.source_of(t)) is not None}

    def run(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, fresh: bool = True) -> Any:
        """Call with stand-ins for parameters; floating results require grad.

        ``fresh`` says that results share no memory with arguments.
        """

        def stand_in(tensor: Tensor) -> Tensor:
            source = self.source_of(tensor)
            if source is None:
                return tensor
            return source.build(dict(enumerate(self.aliases))) if self.param_grads else tensor.detach()

        result = function(*map_tensors(stand_in, args), **map_tensors(stand_in, kwargs))
        return map_tensors(partial(self.anchored, fresh=fresh), result)

    def anchored(self, tensor: Tensor, *, fresh: bool = True) -> Tensor:
        """Return a result so that its gradient will be computed."""
        if tensor.requires_grad or not tensor.is_floating_point():
            return tensor
        if not fresh:
            tensor = tensor.clone()
        elif tensor._is_view():
            tensor = torch.ops.aten._unsafe_view(tensor, tensor.shape)
        return _Anchored.apply(self.anchor, [tensor])  # type: ignore[no-any-return]

    def unfollowed(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], reason: str) -> Any:
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
        if axis == LOST:
            if (
                self.attention is not None
                and tensor.ndim == 2
                and tensor.shape[0] == self.attention[0] * self.attention[1]
            ):
                positions, examples = self.attention
                return lambda t: t.reshape(positions, examples, -1).movedim(1, 0)
            block = self.axes.block(tensor)
            if block:
                batch = self.axes.batch or 0
                return lambda t: t.reshape(batch, block, *t.shape[1:])
            return (
                f"the batch dimension of its input, of shape {tuple(tensor.shape)}, is not the leading one of length "
                f"{self.axes.batch}, or was merged with others"
            )
        if axis == 0:
            return lambda t: t
        return lambda t: t.movedim(axis, 0)

    def record(self, output: Tensor, sources: Sequence[Source], finish: Finish, inputs: Sequence[Tensor]) -> None:
        """Wait for the gradient of ``output``, from which ``finish`` makes one use for each of ``sources``."""
        roots = [root for source in sources for root in source.roots]
        for root in roots:
            self.expected[root] += 1
        output.register_hook(_Arrival(self, roots, finish, inputs))

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
        return self.expected[root] == 1 and root not in self.settled and not self.uses[root]

    def add(self, uses: Sequence[Use]) -> None:
        """Take uses whose gradients have arrived; a parameter's only use is settled at once."""
        batch = self.axes.batch or 0
        for use in uses:
            for root in use.source.roots:
                if root in self.settled:
                    self.fail([root], "it was used again, or a second backward pass ran, after its norms were settled")
                elif isinstance(use.source, Derived):
                    self.uses[root].append(PulledUse(self.views[root], self.threads, use))
                elif use.immediate and self.expected[root] == 1:
                    self.settled[root] = use.squares(batch)
                else:
                    self.uses[root].append(use)

    def fresh_leaves(self) -> dict[int, Tensor]:
        """Return new leaves that stand for the parameters."""
        return {k: p.detach().requires_grad_() for k, p in enumerate(self.parameters)}

    @contextmanager
    def within_attention(self, positions: int, examples: int) -> Iterator[None]:
        """Follow the calls inside an attention layer, whose tensors are (positions, examples, ...)."""
        before, self.attention = self.attention, (positions, examples)
        try:
            with self.mode:
                yield
        finally:
            self.attention = before

    # --- results ----------------------------------------------------------------------------------

    def squares(self) -> dict[int, Tensor]:
        """Return squared norms for every parameter but those in ``failures``."""
        batch = self.axes.batch or 0
        for replay in self.replays:
            self.add(replay.uses())
        self.replays.clear()
        for key in range(len(self.parameters)):
            if key in self.settled or key in self.failures:
                continue
            try:
                self.settled[key] = sum_of_squares(self.uses[key], batch, self.parameters[key].device)
            except RefusalError as refusal:
                self.failures[key] = str(refusal)
            self.uses[key] = []
        return self.settled


class _Arrival:
    """Called with the gradient of an output."""

    def __init__(self, tracker: Tracker, roots: Sequence[int], finish: Finish, inputs: Sequence[Tensor]) -> None:
        self.tracker, self.roots = tracker, roots
        self.finish: Finish | None = finish
        self.inputs = [(t, t._version) for t in inputs]

    def __call__(self, grad: Tensor | None) -> None:
        with torch._C.DisableTorchFunction():
            self.tracker.gradient_arrived()
            if grad is None:
                return
            if self.tracker.takes(self.roots, self.inputs, again=self.finish is None):
                assert self.finish is not None
                finish, self.finish, self.inputs = self.finish, None, []
                self.tracker.add(finish(grad.detach()))


class _Views(dict[int, ParameterView]):
    """The whole of every parameter, by key, as asked for."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self.parameters = parameters

    def __missing__(self, key: int) -> ParameterView:
        size, stride = tuple(self.parameters[key].shape), self.parameters[key].stride()
        span = 1 + sum(s * (n - 1) for s, n in zip(stride, size, strict=True))
        self[key] = ParameterView(key, size, stride, 0, max(span, 0))
        return self[key]
