"""Losses that a backward pass may start from: sums over examples, combined as the caller says."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from expunge.torch._axis import Lost, State, Total
from expunge.torch._errors import UnsupportedLayerError

__all__ = ["look_at"]


def look_at(losses: Sequence[State], reduction: str, batch: int, *, scale: float = 1.0) -> None:
    """Refuse losses in which examples interact, or that are not reduced as ``reduction`` says.

    A factor of the loss that may have made one reduction of another is no reason to warn where ``scale`` explains it.

    Raises
    ------
    UnsupportedLayerError
        If a loss is not a sum over examples, or is reduced in another way than stated.
    """
    if batch <= 1:
        return
    for state in losses:
        if isinstance(state, Lost):
            raise UnsupportedLayerError(
                f"the loss is not a sum over examples: {state.reason}. Add up, or average, what each example's own row "
                "gives"
            )
        if isinstance(state, Total) and reduction != "share" and not (state.scaled and scale != 1.0):
            _reduced_as_said(state, reduction)


def _reduced_as_said(state: Total, reduction: str) -> None:
    kind, scaled, divided = state
    if reduction == "token-mean":
        if kind == "sum" and not scaled and not divided:
            raise UnsupportedLayerError(
                "the loss is a sum over examples, but loss_reduction is 'token-mean': use loss_reduction='sum'"
            )
        return
    if kind == "mixed" and scaled:
        _warn(
            "the loss looks like a mean over examples added to a sum over examples, unless a factor in it is a weight: "
            "use the same reduction for both"
        )
        return
    if kind == "mixed":
        raise UnsupportedLayerError(
            "the loss adds a mean over examples to a sum over examples: use the same reduction for both"
        )
    if kind == "unclear":
        if not scaled:
            _warn(
                "the loss is divided by a number that depends on the batch (a mean over tokens, or with class "
                f"weights): loss_reduction={reduction!r} takes norms as if it were a {reduction} over examples"
            )
        return
    if kind == reduction:
        return
    message = (
        f"over examples, but loss_reduction is {reduction!r}, so that every norm would be off by the number of "
        f"examples: use loss_reduction={kind!r}, or a loss with reduction={reduction!r}"
    )
    if scaled:
        _warn(f"the loss looks like a {kind} {message}")
    else:
        raise UnsupportedLayerError(f"the loss is a {kind} {message}")


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=5)
