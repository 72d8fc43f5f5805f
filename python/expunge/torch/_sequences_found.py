"""Findings of the backward pass of a recurrent layer, from which the gradients of all its parts are made."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Found"]


class Found(NamedTuple):
    """Gradients of the gates of all steps, and what multiplies them, all with steps and examples in the same axes.

    ``of_input`` and ``of_state`` are those of the gates' two parts, the same tensor where they agree; ``inputs`` and
    ``before`` the inputs and the states that steps began with; ``last`` the gradients of the first states;
    ``examples`` the axis of the examples, 0 or 1.
    """

    of_input: Tensor
    of_state: Tensor
    inputs: Tensor
    before: Tensor
    last: list[Tensor]
    examples: int
