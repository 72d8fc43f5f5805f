"""Recurrent layers, a step at a time: their cells are linear maps, whose uses are followed like all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from expunge.torch._axis import LEADING, WHOLE, Axis, Lost
from expunge.torch._derived import derive
from expunge.torch._packed import padded, repacked
from expunge.torch._replay import replay
from expunge.torch._sequences import layers_of_sequences, understood
from expunge.torch._sources import tensors_in
from expunge.torch._tracker import Tracker

__all__ = ["one_step", "recurrent"]

# From a step's states, its input's part of the gates, and the function of a state that gives its own part.
Cell = Callable[[tuple[Tensor, ...], Tensor, Callable[[Tensor], Tensor]], tuple[Tensor, ...]]


def _lstm(states: tuple[Tensor, ...], gates: Tensor, of_state: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    i, f, g, o = (gates + of_state(states[0])).chunk(4, 1)
    c = f.sigmoid() * states[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru(states: tuple[Tensor, ...], gates: Tensor, of_state: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    (r, z, n), (r_h, z_h, n_h) = gates.chunk(3, 1), of_state(states[0]).chunk(3, 1)
    new = (n + (r + r_h).sigmoid() * n_h).tanh()
    return (new + (z + z_h).sigmoid() * (states[0] - new),)


def _rnn_tanh(states: tuple[Tensor, ...], gates: Tensor, of_state: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    return ((gates + of_state(states[0])).tanh(),)


def _rnn_relu(states: tuple[Tensor, ...], gates: Tensor, of_state: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    return ((gates + of_state(states[0])).relu(),)


_CELLS: dict[Any, Cell] = {
    **dict.fromkeys((torch.lstm, torch.lstm_cell), _lstm),
    **dict.fromkeys((torch.gru, torch.gru_cell), _gru),
    **dict.fromkeys((torch.rnn_tanh, torch.rnn_tanh_cell), _rnn_tanh),
    **dict.fromkeys((torch.rnn_relu, torch.rnn_relu_cell), _rnn_relu),
}


def recurrent(tracker: Tracker, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make the call of a recurrent layer: its states have examples in axis 1, its sequences in axis 0 or 1."""
    name = function.__name__
    # (input, hidden states, weights, has_biases, layers, dropout, training, bidirectional, batch_first)
    if not torch.is_grad_enabled() or not tracker.sources_in(args, kwargs):
        return function(*args, **kwargs)
    if not tracker.tracked(tensors_in(args, kwargs)):
        return derive(tracker, function, args, kwargs)
    if kwargs or len(args) != 9:
        return tracker.unfollowed(function, args, kwargs, f"{name} was called in a way that is not understood")
    if not isinstance(args[3], bool):
        return _of_packed(tracker, function, args)
    x, states, batch_axis = args[0], tensors_in(args[1]), 0 if args[8] else 1
    axis = tracker.axes.get(x)
    if isinstance(axis, Lost):
        return tracker.unfollowed(function, args, kwargs, tracker.arrangement(x))
    if x.ndim != 3 or not isinstance(axis, Axis) or axis.dim not in (batch_axis, WHOLE.dim):
        reason = f"the input of {name}, of shape {tuple(x.shape)}, has the batch in another dimension than {batch_axis}"
        hint = "" if batch_axis == 0 else ": use batch_first=True"
        return tracker.unfollowed(function, args, kwargs, reason + hint)
    placed = (None, WHOLE, Axis(1)) if tracker.axes.batch == 1 else (None, _behind(axis, 1))
    if any(tracker.axes.get(s) not in placed or s.ndim != 3 for s in states):
        reason = f"the initial states of {name} have the batch in another dimension than 1"
        return tracker.unfollowed(function, args, kwargs, reason)
    weights = args[2]
    states = [tracker.joined(s, _behind(axis, 1)) if tracker.source_of(s) is not None else s for s in states]
    constant = all(tracker.axes.get(w) is None for w in weights)
    if constant and understood(function, x, states, weights, len(weights) // (args[4] * (2 if args[7] else 1))):
        return layers_of_sequences(tracker, _behind(axis, 0), function, states, x, *args[2:])
    return _unrolled(tracker, _behind(axis, 0), _CELLS[function], states, x, *args[2:])


def _of_packed(tracker: Tracker, function: Any, args: tuple[Any, ...]) -> Any:
    """Make the call of a layer of packed sequences: (data, sizes, states, weights, has_biases, ...)."""
    found = padded(tracker, function, args)
    if isinstance(found, str):
        reason = (
            f"{found}: give it padded sequences with batch_first=True, and pick the last state of each by its length"
        )
        return tracker.unfollowed(function, args, {}, reason)
    packing, x, states = found
    axis = LEADING if tracker.axes.batch != 1 else WHOLE
    states = [tracker.joined(s, _behind(axis, 1)) if tracker.source_of(s) is not None else s for s in states]
    weights, has_biases, layers, dropout, training, bidirectional = args[3:]
    made = _unrolled(
        tracker, axis, _CELLS[function], states, x, weights, has_biases, layers, dropout, training, bidirectional, True,
        real=packing.real,
    )  # fmt: skip
    return repacked(packing, made)


def _behind(axis: Axis, dim: int) -> Axis:
    """Return where the examples are once their axis is number ``dim``."""
    return axis if axis == WHOLE else axis.at(dim)


def one_step(tracker: Tracker, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make the call of a recurrent cell: (input, states, two weights, two biases), the batch in front of all."""
    if kwargs or len(args) != 6:
        return replay(tracker, function, args, kwargs)
    x, states, of_input, of_state, *biases = args
    several = isinstance(states, (tuple, list))
    now = tuple(states) if several else (states,)
    axis = tracker.axes.get(x)
    if any(t.ndim != 2 or tracker.source_of(t) is not None for t in (x, *now)) or not isinstance(axis, Axis):
        return replay(tracker, function, args, kwargs)
    if (
        axis.dim > 0
        or any(tracker.axes.get(t) not in (None, axis) for t in now)
        or any(tracker.axes.get(w) is not None for w in (of_input, of_state, *biases) if w is not None)
    ):
        return replay(tracker, function, args, kwargs)
    gates = tracker.call(F.linear, (x, of_input, biases[0]), {})

    def part(state: Tensor) -> Tensor:
        tracker.axes.set(state, axis)
        return tracker.call(F.linear, (state, of_state, biases[1]), {})  # type: ignore[no-any-return]

    new = _CELLS[function](now, gates, part)
    return new if several else new[0]


def _unrolled(
    tracker: Tracker,
    axis: Axis,
    cell: Cell,
    states: list[Tensor],
    x: Tensor,
    weights: list[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    real: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Return what the fused call does, up to rounding: the sequence of outputs and the last states.

    Where ``real`` (B, T) is False, states stay as they were.
    """
    directions = 2 if bidirectional else 1
    each = len(weights) // (layers * directions)
    projects = each == (5 if has_biases else 3)  # an LSTM with proj_size

    def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        tracker.axes.set(inputs, axis)
        return tracker.call(F.linear, (inputs, weight, bias), {})  # type: ignore[no-any-return]

    sequence = x if batch_first else x.transpose(0, 1)
    last: list[tuple[Tensor, ...]] = []
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            parts = weights[k * each : (k + 1) * each]
            of_input, of_state = (parts[0], parts[1])
            biases = (parts[2], parts[3]) if has_biases else (None, None)
            gates = linear(sequence, of_input, biases[0]).unbind(1)
            now = tuple(s[k] for s in states)
            steps: list[Tensor] = []
            turns = range(len(gates))
            for t in reversed(turns) if direction else turns:
                new = cell(now, gates[t], lambda h, w=of_state, b=biases[1]: linear(h, w, b))  # type: ignore[misc]
                if projects:
                    new = (linear(new[0], parts[-1], None), *new[1:])
                if real is not None:
                    new = tuple(torch.where(real[:, t, None], n, old) for n, old in zip(new, now, strict=True))
                now = new
                steps.append(now[0])
            outputs.append(torch.stack(steps[::-1] if direction else steps, 1))
            last.append(now)
        sequence = torch.cat(outputs, 2) if directions == 2 else outputs[0]
        if dropout and layer < layers - 1:
            sequence = F.dropout(sequence, dropout, training)
    finals = tuple(torch.stack([state[j] for state in last]) for j in range(len(states)))
    return (sequence if batch_first else sequence.transpose(0, 1), *finals)
