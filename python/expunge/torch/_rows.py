"""Rows that were picked along the batch dimension: whose they are, and whether they meet rows of others."""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.torch._axis import Axis, Rows, Total, owners
from expunge.torch._rule import Call, MixedError

__all__ = ["OTHERS", "agree", "along_axis", "settled"]

OTHERS = "combines rows of different examples along the batch dimension"


def agree(call: Call, tensor: Tensor, owner: Tensor, behind: int = 0) -> None:
    """Refuse a tensor, broadcast with ``behind`` more dimensions behind those of ``owner``, if its rows are others'."""
    state = call.state(tensor)
    if state is None:
        return
    if isinstance(state, Total):
        raise MixedError("combines a sum over examples with examples")
    dim = state.dim + owner.ndim + behind - tensor.ndim
    own = owners(state, tensor.shape[state.dim], call.batch, owner.device)
    if not 0 <= dim < owner.ndim or not bool((along_axis(own, dim, owner) == owner).all()):
        raise MixedError(OTHERS)


def along_axis(owner: Tensor, dim: int, other: Tensor) -> Tensor:
    """Return examples of one axis, to be compared with those of several."""
    return owner.view([-1 if k == dim else 1 for k in range(other.ndim)])


def settled(rows: Rows, batch: int) -> Axis | Rows:
    """Return rows as an axis of examples in turn, merged with others, where they are that."""
    times, left = divmod(len(rows.owner), max(batch, 1))
    if rows.places is not None or not times or left:
        return rows
    turn = torch.arange(batch, device=rows.owner.device)
    if torch.equal(rows.owner, turn.repeat_interleave(times)):
        return Axis(rows.dim, 1, times)
    return Axis(rows.dim, times, 1) if torch.equal(rows.owner, turn.repeat(times)) else rows
