"""Stand-ins that calls get for parameters, and hooks that notice what reaches a parameter in another way."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from expunge.torch._errors import UnsupportedLayerError

__all__ = ["BLOCK_HOOK", "StandIns", "mark", "put_hooks", "take_hooks", "told_nothing"]

BLOCK_HOOK = "expunge.torch"  # key of a block's hook on a parameter; torch's own are numbers


def told_nothing(*_: object) -> None:
    """Do nothing, as a hook does after the block."""


Passed = Callable[[int, Sequence[Tensor | None], Sequence[Tensor | None]], None]


def mark(grad: Tensor) -> tuple[int, int]:
    """Return a mark that tells a gradient from one that something was added to."""
    return (id(grad) if grad.is_sparse else grad.data_ptr()), grad._version


class StandIns(dict[int, Tensor]):
    """The alias of each parameter, by key, made when a use asks for it.

    ``passed`` is called with the gradients that go through one. A parameter's first use may do without
    (`unwatched`): whoever asks for the alias again has it watched.
    """

    def __init__(self, parameters: Sequence[Tensor], passed: Passed) -> None:
        super().__init__()
        self.parameters, self.passed = parameters, passed
        self.bare: dict[int, Tensor] = {}
        self.versions: dict[int, int] = {}  # of the parameters when their aliases were made

    def __missing__(self, key: int) -> Tensor:
        alias = self.bare.pop(key, None)
        if alias is None:
            alias = self._made(key)
        if alias.grad_fn is None:
            raise UnsupportedLayerError(
                f"a view of a parameter of shape {tuple(alias.shape)} was used after requires_grad_(False) of the "
                "parameter: freeze it before the block"
            )
        alias.grad_fn.register_hook(partial(self.passed, key))
        self[key] = alias
        return alias

    def _made(self, key: int) -> Tensor:
        with torch._C.DisableTorchFunction():
            if torch.is_grad_enabled():  # else a context, which takes as long as the alias
                alias = self.parameters[key][...]
            else:
                with torch.enable_grad():
                    alias = self.parameters[key][...]
        self.versions[key] = alias._version
        return alias

    def unwatched(self, key: int) -> Tensor:
        """Return an alias for a use that notes itself what goes through, if no other use has one."""
        if key in self or key in self.bare:
            return self[key]
        alias = self.bare[key] = self._made(key)
        return alias

    def drop(self, key: int) -> None:
        """Forget an alias: the next use gets another."""
        self.pop(key, None)
        self.bare.pop(key, None)

    def drop_stale(self, used: Sequence[int]) -> None:
        """Forget the aliases without a use of parameters that were written to: a step takes our hook off them."""
        for key in [*self, *self.bare] if self or self.bare else ():
            if not used[key] and self.parameters[key]._version != self.versions[key]:
                self.drop(key)

    def clear(self) -> None:
        """Forget all."""
        super().clear()
        self.bare.clear()

    def close(self) -> None:
        """Forget all, and who is told: a cycle would wait for the garbage collector."""
        self.clear()
        self.passed = told_nothing


def put_hooks(parameters: Sequence[Tensor], hook: Callable[[int, Tensor], None]) -> None:
    """Have ``hook`` called with the key and the gradient of every parameter.

    As `Tensor.register_hook` does it, without a handle for each: it takes a third of the time.
    """
    for key, parameter in enumerate(parameters):
        if parameter._backward_hooks is None:
            parameter._backward_hooks = OrderedDict()
        parameter._backward_hooks[BLOCK_HOOK] = partial(hook, key)  # type: ignore[index]


def take_hooks(parameters: Sequence[Tensor]) -> None:
    """Take the hooks off again."""
    for parameter in parameters:
        if parameter._backward_hooks is not None:
            parameter._backward_hooks.pop(BLOCK_HOOK, None)  # type: ignore[call-overload]
