"""Recurrent layers of packed sequences: padded again, a step at a time, and packed as they were."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from expunge.torch._axis import LEADING, WHOLE, Axis, Lost, Rows
from expunge.torch._rule import Call, MixedError
from expunge.torch._rules_packed import batch_order
from expunge.torch._sources import tensors_in
from expunge.torch._tracker import Tracker

__all__ = ["padded", "repacked"]


class Packing:
    """Places of the rows of a packed sequence in a padded one, whose examples are in turn."""

    def __init__(self, order: Tensor, sizes: Tensor, device: torch.device) -> None:
        self.order = order.to(device)  # the examples in the order of the first step
        counts = sizes.to(device)
        places = torch.arange(len(self.order), device=device)
        there = places[None] < counts[:, None]  # (steps, examples in order)
        steps, rank = there.nonzero(as_tuple=True)
        self.rows = (self.order[rank], steps)
        self.real = there[:, self.order.argsort()].T  # (examples, steps)


def padded(tracker: Tracker, function: Any, args: tuple[Any, ...]) -> tuple[Packing, Tensor, list[Tensor]] | str:
    """Return the padded sequences (B, T, d), and the initial states with examples in turn, or what is wrong."""
    data, sizes, states = args[0], args[1], tensors_in(args[2])
    state, batch = tracker.axes.get(data), tracker.axes.batch or 0
    try:
        if batch == 1 and state == WHOLE:
            order: Axis | Rows = Rows(0, torch.zeros(int(sizes[0]), dtype=torch.long, device=data.device))
            if int(sizes[0]) != 1:
                return "a packed sequence has more rows in a step than examples"
        elif isinstance(state, Lost):
            return state.reason
        else:
            order = batch_order(Call(function, args, {}, None, [(data, state)] if state else [], batch), data, sizes)
    except MixedError as error:
        return f"{function.__name__} {error}"
    assert isinstance(order, Rows)
    packing = Packing(order.owner, sizes, data.device)
    x = data.new_zeros(len(order.owner), len(sizes), data.shape[1]).index_put(packing.rows, data)
    tracker.axes.set(x, LEADING if batch != 1 else WHOLE)
    in_turn = packing.order.argsort()
    found = []
    for initial in states:
        own = tracker.axes.get(initial)
        plain = torch.equal(packing.order, torch.arange(len(in_turn), device=in_turn.device))
        if own not in (None, WHOLE, order.at(1)) and not (plain and own == Axis(1)):
            return f"the initial states of {function.__name__} are not in the order of the packed sequence"
        moved = tracker.call(torch.index_select, (initial, 1, in_turn), {})
        if own is not None and batch != 1:
            tracker.axes.set(moved, Axis(1))
        found.append(moved)
    return packing, x, found


def repacked(packing: Packing, made: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return padded outputs as packed rows, and the last states in the order of the first step."""
    return (made[0][packing.rows], *(state.index_select(1, packing.order) for state in made[1:]))
