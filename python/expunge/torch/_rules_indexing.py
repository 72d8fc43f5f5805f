"""Rules of calls that pick entries by place, or write them there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.torch._axis import Axis, Lost, State
from expunge.torch._rule import IN_PLACE, LINEAR, RULES, Call, MixedError, functions, rule

__all__ = ["Places", "write"]

LINEAR.update([Tensor.__getitem__, *functions("select unbind narrow chunk split")])


class Places:
    """How the axes of an indexed tensor come out: for every output axis the one it is, or None for a new one."""

    def __init__(self, shape: Sequence[int], index: Any) -> None:
        self.items = _normalised(shape, index)
        self.joint: list[tuple[int, Tensor]] = []  # axes and the index tensors that pick along them together
        self.masks: list[tuple[int, Tensor]] = []
        self.fixed: set[int] = set()  # axes of which one entry is taken
        self.cut: dict[int, range] = {}  # axes of which a slice is taken, and which
        outputs: list[int | None] = []
        axis, place, separate = 0, -1, False
        for item in self.items:
            if item is None:
                outputs.append(None)
            elif isinstance(item, slice):
                if item.indices(shape[axis]) != (0, shape[axis], 1):
                    self.cut[axis] = range(*item.indices(shape[axis]))
                outputs.append(axis)
                axis += 1
            elif isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8):
                self.masks.append((axis, item))
                separate |= place >= 0 and place != len(outputs)
                place = len(outputs) if place < 0 else place
                axis += item.ndim
            elif isinstance(item, Tensor):
                self.joint.append((axis, item))
                separate |= place >= 0 and place != len(outputs)
                place = len(outputs) if place < 0 else place
                axis += 1
            else:
                self.fixed.add(axis)
                axis += 1
        self.wide: tuple[int, ...] = ()
        self.place = 0 if separate else max(place, 0)  # of the picked entries among the output axes
        if self.joint and not self.masks:
            self.wide = tuple(torch.broadcast_shapes(*(t.shape for _, t in self.joint)))
            outputs[self.place : self.place] = [None] * len(self.wide)
        elif self.masks:
            outputs[self.place : self.place] = [None]
        self.outputs = outputs


def _normalised(shape: Sequence[int], index: Any) -> list[Any]:
    """Return one item for every axis: slices, integers, tensors, or None for a new axis."""
    given = list(index) if isinstance(index, tuple) else [index]
    items: list[Any] = []
    for item in given:
        if isinstance(item, (list, np.ndarray, range)):
            item = torch.as_tensor(np.asarray(item))
        if isinstance(item, Tensor) and item.ndim == 0 and item.dtype not in (torch.bool, torch.uint8):
            item = 0  # one entry, whichever it is
        if isinstance(item, (bool, np.bool_)) or (isinstance(item, Tensor) and item.ndim == 0):
            raise MixedError("takes a truth value for an index")
        items.append(item)
    taken = sum(
        i.ndim
        if isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)
        else i is not None and i is not Ellipsis
        for i in items
    )
    rest = [slice(None)] * (len(shape) - taken)
    where = next((k for k, i in enumerate(items) if i is Ellipsis), None)
    return [*items, *rest] if where is None else [*items[:where], *rest, *items[where + 1 :]]


def _tensors(places: Places) -> list[Tensor]:
    return [t for _, t in (*places.joint, *places.masks)]


def _all_in_turn(index: Tensor, length: int) -> int | None:
    """Return along which axis an index is 0, 1, ..., length - 1, and the same along all others; None if it is not."""
    long = [k for k, n in enumerate(index.shape) if n != 1]
    if len(long) > 1 or index.numel() != length or not index.ndim:
        return None
    if index.is_floating_point() or index.flatten().tolist() != list(range(length)):
        return None
    return long[0] if long else 0


def _came_out(call: Call, places: Places, axis: Axis) -> State:
    """Return where the examples of an indexed tensor are in what was picked."""
    tracked = [(t, s) for t in _tensors(places) if (s := call.state(t)) is not None]
    if axis.dim in places.outputs and axis.dim not in places.cut:
        if tracked:
            return call.lost("picks for every example from all of them")
        return axis.at(places.outputs.index(axis.dim))
    round_, cut = call.batch * axis.after, places.cut.get(axis.dim)
    if cut and round_ and not tracked and cut.step == 1 and not cut.start % round_ and not len(cut) % round_:
        return Axis(places.outputs.index(axis.dim), len(cut) // round_, axis.after)  # whole rounds of all examples
    picks = [t for k, t in places.joint if k == axis.dim]
    if picks and not places.masks:
        length = call.first.shape[axis.dim]
        along = _all_in_turn(picks[0], length)
        if along is not None:
            out = along + len(places.wide) - picks[0].ndim
            if places.wide[out] == length and all(
                s.at(s.dim + len(places.wide) - t.ndim) == axis.at(out) for t, s in tracked
            ):
                return axis.at(places.place + out)
    if len(places.masks) == 1 and not places.joint:
        start, mask = places.masks[0]
        if 0 <= axis.dim - start < mask.ndim and all(s.at(s.dim + start) == axis for _, s in tracked):
            found = _as_many_for_each(mask, axis, start)
            if found is not None:
                return found.at(places.place)
            return call.lost("picks more rows for some examples than for others: multiply by the mask instead")
    return call.lost("picks rows along the batch dimension")


def _as_many_for_each(mask: Tensor, axis: Axis, start: int) -> Axis | None:
    """Return what a mask on the axes from ``start`` on makes of that of the examples; None if it picks unequally.

    What is picked comes in the order of the axes. The mask is read, as indexing by it is about to do, or did.
    """
    lead = math.prod(mask.shape[: axis.dim - start])
    if not mask.numel():
        return None
    counts = (mask != 0).reshape(lead * mask.shape[axis.dim - start], -1).sum(1)
    each = int(counts[0])
    if not each or not bool((counts == each).all()):
        return None
    return Axis(axis.dim, lead * axis.before, axis.after * each)


def _pick(call: Call) -> State:
    target = call.first
    places = Places(target.shape, call.args[1])
    axis = call.state(target)
    if axis is None:
        return _from_constant(call, places)
    found = _came_out(call, places, axis)
    if len(places.outputs) != call.outputs[0].ndim:
        return call.lost("picks rows in a way that is not understood")
    return found


def _from_constant(call: Call, places: Places) -> State:
    """Entries of a constant picked by what depends on examples: as in a table."""
    if places.masks or len(places.joint) == 0:
        return call.lost("picks a number of entries that depends on the examples")
    found = set()
    for tensor in _tensors(places):
        state = call.state(tensor)
        if state is not None:
            found.add(state.at(places.place + state.dim + len(places.wide) - tensor.ndim))
    return found.pop() if len(found) == 1 else call.lost("combines batch dimensions at different places")


RULES[Tensor.__getitem__] = _pick


def write(call: Call) -> State:
    """``target[index] = value``: returns where the examples of the target are afterwards."""
    target, value = call.args[0], call.args[2]
    places = Places(target.shape, call.args[1])
    before = call.state(target)
    from_value = call.state(value) if isinstance(value, Tensor) else None
    if places.masks:
        return _write_masked(call, places, before, from_value)
    if before is not None:
        came = _came_out(call, places, before)
        if isinstance(came, Lost):
            return came
        assert isinstance(came, Axis)
        if from_value is not None and from_value.at(_aligned(places, value, from_value)) != came:
            return call.lost("writes rows to other rows")
        return before
    if any(call.state(t) is not None for t in _tensors(places)):
        return call.lost("writes to places that depend on the examples")
    assert from_value is not None
    out = _aligned(places, value, from_value)
    source = places.outputs[out] if 0 <= out < len(places.outputs) else None
    if source is None or source in places.cut or target.shape[source] != value.shape[from_value.dim]:
        return call.lost("writes rows in a way that is not understood")
    return from_value.at(source)


def _aligned(places: Places, value: Tensor, axis: Axis) -> int:
    return axis.dim + len(places.outputs) - value.ndim


def _write_masked(call: Call, places: Places, before: Axis | None, from_value: Axis | None) -> State:
    """One number, or one row for all, written where a mask says so: it goes by entries as long as axes match."""
    value, behind = call.args[2], len(places.outputs) - places.place - 1
    one = not isinstance(value, Tensor) or (
        from_value is None
        and (value.numel() == 1 or value.ndim <= behind or (value.ndim == behind + 1 and value.shape[0] == 1))
    )
    if not one or places.joint or places.fixed or len(places.masks) != 1 or places.cut:
        return call.lost("writes rows in a way that is not understood")
    start, mask = places.masks[0]
    state = call.state(mask)
    axis = before if state is None else state.at(start + state.dim)
    if before is not None and axis != before:
        return call.lost("combines batch dimensions at different places")
    return axis if axis is not None else call.lost("writes rows in a way that is not understood")


RULES[Tensor.__setitem__] = write
IN_PLACE.add(Tensor.__setitem__)


def _works_on(call: Call) -> bool:
    return int(call.argument(1, "dim")) % call.first.ndim == call.axis.dim  # type: ignore[no-any-return]


@rule("index_select")
def _select(call: Call) -> State:
    return call.lost("picks rows along the batch dimension") if _works_on(call) else call.axis


@rule("index_fill")
def _fill(call: Call) -> State:
    return call.lost("picks rows along the batch dimension") if _works_on(call) else call.axis


@rule("gather take_along_dim")
def _gather(call: Call) -> State:
    target, index = call.first, call.argument(2, "index") if call.name == "gather" else call.argument(1, "indices")
    dim = call.argument(1, "dim") if call.name == "gather" else call.argument(2, "dim")
    return _by_rows(call, dim, [target, index])


@rule("scatter scatter_add scatter_reduce")
def _scatter(call: Call) -> State:
    tensors = [call.first, call.argument(2, "index"), call.argument(3, "src", call.kwargs.get("value"))]
    return _by_rows(call, call.argument(1, "dim"), [t for t in tensors if isinstance(t, Tensor) and t.ndim])


def _by_rows(call: Call, dim: Any, tensors: Sequence[Tensor]) -> State:
    """Tensors whose rows belong together except along one dimension."""
    if dim is None:
        return call.lost("picks from all rows")
    axes = {state for _, state in call.states}
    axis = axes.pop()
    if axes or not isinstance(axis, Axis):
        return call.lost("combines batch dimensions at different places")
    ndim = tensors[0].ndim
    if int(dim) % ndim == axis.dim:
        return call.lost("picks rows along the batch dimension")
    if any(t.ndim != ndim or t.shape[axis.dim] != tensors[0].shape[axis.dim] for t in tensors):
        return call.lost("takes another number of rows")
    return axis


@rule("index_add index_copy")
def _index_add(call: Call) -> State:
    target, dim, source = call.first, call.argument(1, "dim"), call.argument(3, "source")
    if call.state(call.argument(2, "index")) is not None:
        return call.lost("writes to places that depend on the examples")
    if not isinstance(source, Tensor) or source.ndim != target.ndim:
        return call.lost("writes rows in a way that is not understood")
    axes = {state for _, state in call.states}
    axis = axes.pop()
    if axes or not isinstance(axis, Axis) or int(dim) % target.ndim == axis.dim:
        return call.lost("writes rows along the batch dimension")
    return axis if target.shape[axis.dim] == source.shape[axis.dim] else call.lost("takes another number of rows")
