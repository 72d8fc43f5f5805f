"""Gradients of outputs as they arrive, and the uses that are made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from expunge.torch._contributions import Use

__all__ = ["Arrival", "Finish"]

Finish = Callable[[Tensor], Sequence[Use]]


class Taker(Protocol):
    """The block's tracker, as far as it takes uses."""

    def takes(self, roots: Sequence[int], inputs: Sequence[tuple[Tensor, int]], *, again: bool) -> bool:
        """Return whether a gradient that arrived can be used."""

    def add(self, uses: Sequence[Use]) -> None:
        """Take uses whose gradients have arrived."""


class Arrival:
    """Called with the gradient of an output."""

    __slots__ = ("finish", "inputs", "roots", "tracker")

    def __init__(self, tracker: Taker, roots: Sequence[int], finish: Finish, inputs: Sequence[Tensor]) -> None:
        self.tracker, self.roots = tracker, roots
        self.finish: Finish | None = finish
        self.inputs = [(t, t._version) for t in inputs]

    def __call__(self, grad: Tensor) -> None:
        if self.tracker.takes(self.roots, self.inputs, again=self.finish is None):
            assert self.finish is not None
            finish, self.finish, self.inputs = self.finish, None, []
            self.tracker.add(finish(grad.detach()))
