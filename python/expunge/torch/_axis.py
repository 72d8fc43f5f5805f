"""Places of the examples in a tensor: on one axis, possibly merged with others; summed over; or no longer known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LEADING", "WHOLE", "Axis", "Lost", "Rows", "State", "Total", "merged", "owners", "rows_of", "taken"]


class Axis(NamedTuple):
    """An axis that counts examples: entry (k B + example) ``after`` + l of it belongs to ``example``.

    ``before`` and ``after`` say how many other things were merged into the axis, in front of the examples (k) and
    behind them (l): time steps or copies, heads, windows, positions.
    """

    dim: int
    before: int = 1
    after: int = 1

    @property
    def plain(self) -> bool:
        """Whether the axis counts examples alone."""
        return self.before == 1 and self.after == 1

    def at(self, dim: int) -> Axis:
        """Return the same axis at another place."""
        return self if dim == self.dim else Axis(dim, self.before, self.after)


class Rows:
    """An axis whose entry j belongs to example ``owner[j]``: rows picked by a mask, or put in another order.

    ``places`` says of which axis, and of what length, the numbers in the tensor are places. ``shuffled`` says that the
    order of the rows, not just their number, depends on examples.
    """

    __slots__ = ("_slots", "dim", "owner", "places", "shuffled")

    def __init__(
        self, dim: int, owner: Tensor, *, places: tuple[Axis | Rows, int] | None = None, shuffled: bool = False
    ) -> None:
        self.dim, self.owner, self.places, self.shuffled = dim, owner, places, shuffled
        self._slots: tuple[Tensor, int] | None = None

    plain = False
    __hash__ = None  # type: ignore[assignment]

    def at(self, dim: int) -> Rows:
        """Return the same axis at another place."""
        found = Rows(dim, self.owner, places=self.places, shuffled=self.shuffled)
        found._slots = self._slots
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and self.dim == other.dim and self.same(other)

    def same(self, other: Rows) -> bool:
        """Whether rows belong to the same examples, in the same order, wherever their axis is."""
        return (
            (self.owner is other.owner or torch.equal(self.owner, other.owner))
            and self.places == other.places
            and self.shuffled == other.shuffled
        )

    def slots(self, batch: int) -> tuple[Tensor, int]:
        """Return which of its example's rows each is, and the most that an example has, at least 1."""
        if self._slots is None:
            order, counts = self.owner.argsort(stable=True), self.owner.bincount(minlength=batch)
            starts = counts.cumsum(0) - counts
            slot = torch.empty_like(self.owner)
            slot[order] = torch.arange(len(order), device=slot.device) - starts[self.owner[order]]
            self._slots = slot, max(int(counts.max()), 1)
        return self._slots


class Total(NamedTuple):
    """A sum over examples, as losses are: ``kind`` is "sum", "mean", "unclear" or "mixed"."""

    kind: str = "sum"
    scaled: bool = False  # by what may have made a mean of a sum, or a sum of a mean
    divided: bool = False  # by a number that may be one of tokens


class Lost(NamedTuple):
    """No axis of its own counts examples any more, and why."""

    reason: str


State = Axis | Rows | Total | Lost
LEADING = Axis(0)
WHOLE = Axis(-1)  # of a batch of one example: all belongs to it, whatever axes there are


def merged(shape: Sequence[int], axis: Axis, batch: int, wanted: Sequence[int]) -> Axis | None:
    """Return the axis of the examples after a reshape from ``shape`` to ``wanted``; None if examples are cut up."""
    if tuple(shape) == tuple(wanted):
        return axis
    if 0 in shape:
        return None
    outer = math.prod(shape[: axis.dim]) * axis.before
    inner = axis.after * math.prod(shape[axis.dim + 1 :])
    front = 1
    found: list[Axis] = []
    for index, length in enumerate(wanted):
        behind = math.prod(wanted[index + 1 :])
        if outer % front == 0 and inner % behind == 0:
            before, after = outer // front, inner // behind
            if before * batch * after == length:
                found.append(Axis(index, before, after))
        front *= length
    return next((a for a in found if a.plain), found[0] if found else None)


def owners(axis: Axis | Rows, length: int, batch: int, device: torch.device) -> Tensor:
    """Return the example that each entry of an axis belongs to."""
    if isinstance(axis, Rows):
        return axis.owner.to(device)
    return torch.arange(length, device=device) // axis.after % max(batch, 1)


def rows_of(tensor: Tensor, axis: Axis | Rows, batch: int) -> Tensor:
    """Return a tensor with its examples in front, whatever was merged with them next.

    Examples with fewer rows than others have zeros for the rest.
    """
    if isinstance(axis, Rows):
        rows = tensor.movedim(axis.dim, 0)
        slot, width = axis.slots(batch)
        return rows.new_zeros(batch, width, *rows.shape[1:]).index_put((axis.owner, slot), rows)
    if axis.dim < 0:
        return tensor[None]
    if axis.dim:
        tensor = tensor.movedim(axis.dim, 0)
    if axis.before != 1:
        tensor = tensor.reshape(axis.before, batch, axis.after, *tensor.shape[1:]).movedim(1, 0)
        return tensor.flatten(1, 2) if axis.after == 1 else tensor
    return tensor if axis.after == 1 else tensor.reshape(batch, axis.after, *tensor.shape[1:])


def taken(tensor: Tensor, axis: Axis | Rows, batch: int, low: int, high: int) -> Tensor:
    """Return examples low to high of a tensor, laid out as they were."""
    if isinstance(axis, Rows):
        return tensor.index_select(axis.dim, ((axis.owner >= low) & (axis.owner < high)).nonzero()[:, 0])
    if axis.dim < 0:
        return tensor
    if axis.plain:
        return tensor.narrow(axis.dim, low, high - low)
    split = tensor.unflatten(axis.dim, (axis.before, batch, axis.after))
    return split.narrow(axis.dim + 1, low, high - low).flatten(axis.dim, axis.dim + 2)
