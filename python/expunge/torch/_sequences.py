"""Recurrent layers with one graph node for a whole sequence, which keeps the gradients of the gates.

Only the product with the state before, and what follows from it, is made step by step. The parameters' gradients are
those of two linear maps over all steps: their factors are the inputs, the states, and the gradients of the gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from expunge.torch._axis import Axis, rows_of
from expunge.torch._contributions import BroadcastUse, MatrixUse, Use
from expunge.torch._sequences_found import Found
from expunge.torch._sequences_fused import Fused
from expunge.torch._sequences_stepped import Stepped
from expunge.torch._tracker import Tracker

__all__ = ["layers_of_sequences", "understood"]

_FUNCTIONS = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
_ANCHOR = torch.zeros((), requires_grad=True)


class _Box:
    """The place in which a backward pass leaves its findings for those who wait for them."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: Found | None = None


class _Sequence(torch.autograd.Function):
    """One layer in one direction over a sequence (T, B, d): the sequence of states, and for an LSTM its last cells."""

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        way: Fused | Stepped,
        box: _Box,
        x: Tensor,
        of_input: Tensor,
        of_state: Tensor,
        b_input: Any,
        b_state: Any,
        *states: Tensor,
    ) -> Any:
        outputs, saved = way.forward(x, of_input, of_state, b_input, b_state, states)
        ctx.way, ctx.box = way, box
        ctx.save_for_backward(of_input, *saved)
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        saved = ctx.saved_tensors  # checkpoint makes the call again here
        with torch._C.DisableTorchFunction():  # calls of a backward pass in a block are followed, but for these
            return _Sequence.of_gates(ctx, saved, grads)

    @staticmethod
    def of_gates(ctx: Any, saved: Sequence[Tensor], grads: Sequence[Tensor | None]) -> Any:
        """Return the gradients of what was given, and leave those of the gates in the box."""
        of_input, *rest = saved
        found = ctx.box.found = ctx.way.backward(rest, grads)
        rows, state_rows = found.of_input.flatten(0, 1), found.of_state.flatten(0, 1)
        wanted = ctx.needs_input_grad
        of_x = found.of_input @ of_input if wanted[3] else None
        sums = rows.sum(0) if wanted[6] or wanted[7] else None
        of_weights = [
            rows.t() @ found.inputs.flatten(0, 1) if wanted[4] else None,
            state_rows.t() @ found.before.flatten(0, 1) if wanted[5] else None,
            sums,
            sums if found.of_state is found.of_input else state_rows.sum(0) if wanted[7] else None,
        ]
        if of_x is not None and found.examples == 0:
            of_x = of_x.transpose(0, 1)
        return (None, None, None, of_x, *of_weights, *found.last)


def understood(function: Any, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], each: int) -> bool:
    """Whether a call is one that `layers_of_sequences` can make: no projection, one dtype, no autocast."""
    return (
        function in _FUNCTIONS
        and each in (2, 4)
        and x.dtype in (torch.float32, torch.float64)
        and all(t.dtype == x.dtype for t in (*states, *weights))
        and not torch.is_autocast_enabled(x.device.type)
        and 0 not in x.shape
    )


def layers_of_sequences(
    tracker: Tracker,
    axis: Axis,
    function: Any,
    states: Sequence[Tensor],
    x: Tensor,
    weights: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """Return what the fused call does, up to rounding: the sequence of outputs and the last states.

    ``axis`` says where the examples are once they lead.
    """
    directions, each = (2 if bidirectional else 1), 4 if has_biases else 2
    sequence = x.transpose(0, 1) if batch_first else x
    last: list[tuple[Tensor, ...]] = []
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            parts = list(weights[k * each : (k + 1) * each])
            made = _layer(tracker, axis, function, sequence, parts, [s[k] for s in states], backwards=direction == 1)
            outputs.append(made[0])
            last.append((made[0][0 if direction else -1], *made[1:]))
        sequence = torch.cat(outputs, 2) if directions == 2 else outputs[0]
        if dropout and layer < layers - 1:
            sequence = F.dropout(sequence, dropout, training)
    finals = tuple(torch.stack([state[j] for state in last]) for j in range(len(states)))
    return (sequence.transpose(0, 1) if batch_first else sequence, *finals)


def _layer(
    tracker: Tracker,
    axis: Axis,
    function: Any,
    x: Tensor,
    weights: list[Tensor],
    states: list[Tensor],
    *,
    backwards: bool,
) -> tuple[Tensor, ...]:
    """Make one layer in one direction, and wait for the gradients of its gates."""
    box = _Box()
    sources = [tracker.source_of(w) for w in weights]
    fused = Fused.takes((x, *weights, *states))
    way = Fused(function, backwards, tracker.threads) if fused else Stepped(function, backwards)

    def make(*parts: Any) -> Any:
        padded = (*parts, None, None)[:4]
        return _Sequence.apply(_ANCHOR, way, box, x, *padded, *states)

    made: tuple[Tensor, ...] = tracker.with_stand_ins(make, tuple(weights), {})

    def finish(_: Tensor) -> list[Use]:
        found, box.found = box.found, None
        assert found is not None

        def rows_first(tensor: Tensor) -> Tensor:
            return rows_of(tensor.transpose(0, found.examples), axis, tracker.axes.batch or 0)

        same = found.of_input is found.of_state
        rows = [rows_first(found.of_input).contiguous()]
        rows.append(rows[0] if same else rows_first(found.of_state).contiguous())
        uses: list[Use] = []
        for k, columns in enumerate((rows_first(found.inputs), rows_first(found.before))):
            matrix, vector = sources[k], sources[k + 2] if len(sources) == 4 else None
            own: list[Use] = []
            if matrix is not None:
                own.append(MatrixUse(matrix, tracker.threads, rows[k], columns))
            if vector is not None:
                own.append(BroadcastUse(vector, tracker.threads, rows[k]))
                if matrix is not None:
                    own[0].shift = own[1]  # type: ignore[assignment]
            uses.extend(own)
        return uses

    tracker.record(made[0], [s for s in sources if s is not None], finish, [x], of_all=True)
    return made
