"""Uses of a parameter with groups of examples in place of single ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from expunge.data.grouping import Grouping
from expunge.torch._contributions import (
    BroadcastUse,
    ConvUse,
    MatrixUse,
    PulledUse,
    RowsUse,
    Use,
    examples_per_chunk,
    sum_of_squares,
)
from expunge.torch._sources import ParameterView

__all__ = ["squares_of_groups"]


def squares_of_groups(uses: Sequence[Use], grouping: Grouping, device: torch.device) -> Tensor:
    """Return the squared norm of the sum of several uses of one parameter over the examples of each group."""
    out = torch.zeros(len(grouping), dtype=torch.float64, device=device)
    for members, places in grouping.sizes if uses else ():
        examples = torch.from_numpy(members).to(device)
        found = sum_of_squares([_together(use, examples) for use in uses], len(places), device)
        out[torch.from_numpy(places).to(device)] = found.to(out)
    return out


def _together(use: Use, members: Tensor) -> Use:
    """Return a use whose examples are groups of another's: ``members`` (G, k) are the examples of each.

    A group of examples of a matrix or a table is one example with the positions of all.
    """
    if isinstance(use, MatrixUse):
        return MatrixUse(use.source, use.threads, _joined(use.rows, members), _joined(use.columns, members))
    if isinstance(use, RowsUse):
        indices, grads = _joined(use.indices, members), _joined(use.grads, members)
        return RowsUse(use.source, use.threads, indices, grads, use.padding)
    if isinstance(use, BroadcastUse) and use.is_row_sum():
        grads = use.grads.reshape(use.grads.shape[0], -1, use.grads.shape[-1])
        return BroadcastUse(use.source, use.threads, _joined(grads, members))
    if isinstance(use, ConvUse):
        return _ConvOfGroups(use, members)
    if isinstance(use, PulledUse):
        assert isinstance(use.source, ParameterView)
        return PulledUse(use.source, use.threads, _together(use.outer, members))
    return _SumOfExamples(use, members)


def _joined(tensor: Tensor, members: Tensor) -> Tensor:
    """Return the positions (axis 1) of the members of each group one after the other."""
    groups, size = members.shape
    picked = tensor[members.reshape(-1)]
    return picked.reshape(groups, size * tensor.shape[1], *tensor.shape[2:])


class _ConvOfGroups(Use):
    """The kernel of a convolution: its gradient for a group is formed from all its images at once."""

    def __init__(self, use: ConvUse, members: Tensor) -> None:
        super().__init__(use.source, use.threads)
        self.use, self.members = use, members

    def squares(self, batch: int) -> Tensor:
        return self.squares_by_forming(batch)

    def dense(self, low: int, high: int) -> Tensor:
        dtype = torch.promote_types(self.use.images.dtype, torch.float32)  # as the kernels: halves are widened
        return torch.stack([self.use.sum_over(self.members[group], dtype) for group in range(low, high)]).double()


class _SumOfExamples(Use):
    """Gradients of single examples, formed a chunk at a time and added up."""

    immediate = False

    def __init__(self, use: Use, members: Tensor) -> None:
        super().__init__(use.source, use.threads)
        self.use, self.members = use, members

    @property
    def entries(self) -> int:
        return self.use.entries

    def squares(self, batch: int) -> Tensor:
        return self.squares_by_forming(batch)

    def dense(self, low: int, high: int) -> Tensor:
        wanted = self.members[low:high]
        first, end = int(wanted.min()), int(wanted.max()) + 1
        group_of = torch.full((end,), -1, dtype=torch.int64, device=wanted.device)
        group_of[wanted] = torch.arange(high - low, device=wanted.device)[:, None]
        out = torch.zeros(high - low, *self.source.size, dtype=torch.float64, device=wanted.device)
        step = examples_per_chunk(max(math.prod(self.source.size), self.entries))
        for start in range(first, end, step):
            stop = min(end, start + step)
            here = group_of[start:stop]
            if bool((here >= 0).any()):
                out.index_add_(0, here[here >= 0], self.use.dense(start, stop)[here >= 0])
        return out
