"""Backward passes and hooks in a block: what runs, from which loss, and what changes gradients on their way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from expunge.torch._axis import Axis, Lost, Rows, State, Total
from expunge.torch._errors import UnsupportedLayerError
from expunge.torch._known_functions import checkpointed
from expunge.torch._sources import tensors_in
from expunge.torch._stand_ins import BLOCK_HOOK
from expunge.torch._tracker import Tracker
from expunge.torch._unchecked import unchecked

__all__ = ["backward", "gradient_of", "hooks_on", "post_accumulate_hook", "tensor_hook"]

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def _unfollowed(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return function(*args, **kwargs)

    return run


# What a pass starts from depends on no example's values.
_backward = unchecked(torch.autograd.backward, _make_grads=_unfollowed(torch.autograd._make_grads))
_grad = unchecked(torch.autograd.grad)
_NO_GRAPH = "create_graph=True: gradients of gradients have no per-example norms here: leave it out"


_OF_TENSOR = ("tensors", "grad_tensors", "retain_graph", "create_graph", "inputs")
_OF_TENSORS = ("tensors", "grad_tensors", "retain_graph", "create_graph", "grad_variables", "inputs")


def backward(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs) -> None:
    """Run the backward pass of the loss, after a look at what the loss is made of."""
    names = _OF_TENSOR if function is Tensor.backward else _OF_TENSORS
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if "gradient" in given:
        given["grad_tensors"] = given.pop("gradient")
    roots = tensors_in([given["tensors"]])
    if torch._C._current_graph_task_id() == -1:  # not from within another
        if given.get("create_graph"):
            raise UnsupportedLayerError(f"backward was called with {_NO_GRAPH}")
        if given.get("inputs") is not None:
            raise UnsupportedLayerError(
                "backward was called with inputs=, so that uses of other parameters get no gradient: leave it out"
            )
        tracker.starts_from([tracker.state_of(t) for t in roots], seeded=given.get("grad_tensors") is not None)
    elif tracker.axes.batch and checkpointed(torch._C._current_autograd_node()):
        _look_at_run_again(tracker, roots)
    with tracker.mode:
        _backward(**given)
    if torch._C._current_graph_task_id() == -1:
        tracker.small.settle()


def _look_at_run_again(tracker: Tracker, roots: list[Tensor]) -> None:
    """Refuse a checkpoint in which gradients show what calls without them had hidden."""
    for root in roots:
        state = tracker.state_of(root)
        if not isinstance(state, (Axis, Rows)):
            why = state.reason if isinstance(state, Lost) else "it depends on no example"
            tracker.refuse(f"the output of a checkpoint, of shape {tuple(root.shape)}, was not followed: {why}")


def gradient_of(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs) -> Any:
    """Compute gradients beside the loss's own: uses do not count them."""
    names = ("outputs", "inputs", "grad_outputs", "retain_graph", "create_graph")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if given.get("create_graph"):
        raise UnsupportedLayerError(f"torch.autograd.grad was called with {_NO_GRAPH}")
    before, tracker.aside = tracker.aside, True
    try:
        with tracker.mode:
            results = _grad(**given)
    finally:
        tracker.aside = before
    with torch._C.DisableTorchFunction():
        lost = next((s for t in tensors_in([given["outputs"]]) if isinstance(s := tracker.state_of(t), tuple)
                     and not isinstance(s, (Axis, Total))), None)  # fmt: skip
        for tensor, result in zip(tensors_in([given["inputs"]]), results, strict=True):
            state = lost or tracker.state_of(tensor)
            if result is not None:
                tracker.axes.set(result, Total("unclear") if state is None else state)
    return results


def tensor_hook(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs) -> Any:
    """Register a hook on a tensor, and see that it treats examples separately."""
    tensor, hook = args[0], args[1] if len(args) > 1 else kwargs["hook"]
    if tracker.source_of(tensor) is not None:
        _refuse_hook(tracker, tensor)
    state = tracker.state_of(tensor)
    if state is None:
        return function(tensor, hook)
    tracker.written_by_hooks = True
    return function(tensor, _Watched(tracker, hook, state, tuple(tensor.shape)))


def post_accumulate_hook(tracker: Tracker, function: Any, args: Args, kwargs: Kwargs) -> Any:
    """Register a hook for gradients accumulated, which parameters of the model must not have."""
    if tracker.source_of(args[0]) is not None:
        _refuse_hook(tracker, args[0])
    return function(*args, **kwargs)


def _refuse_hook(tracker: Tracker, tensor: Tensor) -> None:
    source = tracker.source_of(tensor)
    assert source is not None
    raise UnsupportedLayerError(f"{tracker.names[source.roots[0]]}: {_HOOKED}")


_HOOKED = "it has a hook, which may change its gradient after the norm was taken: remove the hook for the block"
_TAKEN = "another block of norms is open on it: leave that one first"


class _Watched:
    """A hook of a tensor that depends on examples: what it returns must have them where the gradient had."""

    def __init__(self, tracker: Tracker, hook: Callable[[Tensor], Tensor | None], state: State, shape: Any) -> None:
        self.tracker, self.hook, self.state, self.shape = tracker, hook, state, shape

    def __call__(self, grad: Tensor) -> Tensor | None:
        tracker = self.tracker
        with torch._C.DisableTorchFunction():
            tracker.axes.set(grad, self.state)
            version = grad._version
        tracker.read_out = False
        result = self.hook(grad)
        with torch._C.DisableTorchFunction():
            changed = result is not None or grad._version != version
            states = [tracker.state_of(t) for t in ((grad,) if result is None else (grad, result))]
            zeros = result is not None and states[1] is None and not bool(result.any())
            alone = tracker.axes.batch == 1 and not any(isinstance(s, Lost) for s in states)
            same = all(s == self.state for s in states[: 1 if zeros else 2])
            if changed and not alone and (tracker.read_out or not same):
                tracker.refuse(
                    f"a hook on a tensor of shape {self.shape} changed its gradient in a way in which examples may "
                    "interact: remove the hook, or have it treat every row by itself"
                )
        return result


def hooks_on(
    modules: list[nn.Module], parameters: list[nn.Parameter], *, ours: int
) -> tuple[Tensor | nn.Module, str] | None:
    """Return a parameter or a module that has hooks which may change gradients, and what is wrong with that."""
    for parameter in parameters:
        hooks = parameter._backward_hooks
        if ours == 0 and hooks and BLOCK_HOOK in hooks:
            return parameter, _TAKEN
        if (hooks is not None and len(hooks) > ours) or getattr(parameter, "_post_accumulate_grad_hooks", None):
            return parameter, _HOOKED
    for module in modules:
        if module._backward_hooks or module._backward_pre_hooks:
            return module, (
                "it has backward hooks, which may change gradients where no torch function shows it: remove them for "
                "the block"
            )
    if torch.nn.modules.module._global_backward_hooks or torch.nn.modules.module._global_backward_pre_hooks:
        return modules[0], "backward hooks are registered for all modules: remove them for the block"
    return None
