"""Recurrent layers with one node of the graph for a whole sequence, which keeps the gradients of the gates.

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
from expunge.torch._tracker import Tracker

__all__ = ["layers_of_sequences", "understood"]


class _Run:
    """One pass of one layer in one direction: steps first in all tensors, states before the first of them too."""

    __slots__ = ("backwards", "bent", "gates", "kept", "order", "weight")

    def __init__(
        self, gates: Tensor, weight: Tensor, kept: Sequence[Tensor], bent: Sequence[Tensor], backwards: bool
    ) -> None:
        self.gates, self.weight = gates, weight
        self.kept = list(kept)  # the states (T + 1, B, h)
        self.bent = list(bent)  # what else backward needs: tanh of the cells, or the state's part of a gate
        self.backwards = backwards
        # The steps as they come, each with the places of the states before and after it.
        steps = range(gates.shape[0])
        self.order = [(t, t + 1, t) for t in reversed(steps)] if backwards else [(t, t, t + 1) for t in steps]

    def before(self, which: int) -> Tensor:
        """Return the states that steps began with."""
        return self.kept[which][1:] if self.backwards else self.kept[which][:-1]


class _Lstm:
    """Gates i, f, g, o; states h and c."""

    states, separate = 2, False

    @staticmethod
    def forward(run: _Run, bias: Tensor | None) -> None:
        hidden, cells = run.kept
        width = hidden.shape[2]
        bent = torch.empty_like(hidden[1:])
        run.bent.append(bent)
        for t, before, after in run.order:
            now = run.gates[t].addmm_(hidden[before], run.weight.t())
            now[:, : 2 * width].sigmoid_()
            now[:, 2 * width : 3 * width].tanh_()
            now[:, 3 * width :].sigmoid_()
            i, f, g, o = now.chunk(4, 1)
            cell = torch.mul(f, cells[before], out=cells[after]).addcmul_(i, g)
            torch.mul(o, torch.tanh(cell, out=bent[t]), out=hidden[after])

    @staticmethod
    def backward(run: _Run, grad: Tensor, last: list[Tensor]) -> tuple[Tensor, Tensor]:
        gates, bent = run.gates, run.bent[0]
        i, f, g, o = gates.chunk(4, 2)
        steps, batch, width = bent.shape
        sides = torch.empty_like(gates)
        to_gate, to_cell = torch.empty_like(gates), torch.addcmul(o, o, bent.square(), value=-1)
        torch.addcmul(i, i, i, value=-1, out=to_gate[..., :width]).mul_(g)
        torch.addcmul(f, f, f, value=-1, out=to_gate[..., width : 2 * width]).mul_(run.before(1))
        torch.addcmul(i, i, g.square(), value=-1, out=to_gate[..., 2 * width : 3 * width])
        torch.addcmul(o, o, o, value=-1, out=to_gate[..., 3 * width :]).mul_(bent)
        slopes, out = to_gate.view(steps, batch, 4, width), sides.view(steps, batch, 4, width)
        forget = f.contiguous()
        d_hidden, d_cell = last
        for t, _, _ in reversed(run.order):
            d_hidden = d_hidden + grad[t]
            d_cell.addcmul_(d_hidden, to_cell[t])
            torch.mul(d_cell[:, None], slopes[t, :, :3], out=out[t, :, :3])
            torch.mul(d_hidden, slopes[t, :, 3], out=out[t, :, 3])
            d_cell.mul_(forget[t])
            d_hidden = sides[t] @ run.weight
        last[0] = d_hidden
        return sides, sides


class _Gru:
    """Gates r, z, n, whose state's part of n goes through r; state h."""

    states, separate = 1, True

    @staticmethod
    def forward(run: _Run, bias: Tensor | None) -> None:
        hidden, weight = run.kept[0], run.weight.t()
        width = hidden.shape[2]
        bent = torch.empty_like(hidden[1:])
        run.bent.append(bent)
        for t, before, after in run.order:
            state = hidden[before]
            part = state @ weight if bias is None else torch.addmm(bias, state, weight)
            now = run.gates[t]
            now[:, : 2 * width].add_(part[:, : 2 * width]).sigmoid_()
            r, z, n = now.chunk(3, 1)
            bent[t] = part[:, 2 * width :]
            n.addcmul_(r, bent[t]).tanh_()
            torch.lerp(n, state, z, out=hidden[after])

    @staticmethod
    def backward(run: _Run, grad: Tensor, last: list[Tensor]) -> tuple[Tensor, Tensor]:
        gates, bent = run.gates, run.bent[0]
        r, z, n = gates.chunk(3, 2)
        steps, batch, width = bent.shape
        to_gate, keep = torch.empty_like(gates), z.contiguous()
        to_new = (1 - z).mul_(1 - n.square())
        torch.addcmul(r, r, r, value=-1, out=to_gate[..., :width]).mul_(to_new).mul_(bent)
        torch.addcmul(z, z, z, value=-1, out=to_gate[..., width : 2 * width]).mul_(run.before(0) - n)
        torch.mul(to_new, r, out=to_gate[..., 2 * width :])
        of_state, totals = torch.empty_like(gates), torch.empty_like(bent)
        slopes, out = to_gate.view(steps, batch, 3, width), of_state.view(steps, batch, 3, width)
        d_hidden = last[0]
        for t, _, _ in reversed(run.order):
            d_hidden = torch.add(d_hidden, grad[t], out=totals[t])
            torch.mul(d_hidden[:, None], slopes[t], out=out[t])
            d_hidden = torch.addmm(d_hidden * keep[t], of_state[t], run.weight)
        last[0] = d_hidden
        of_input = of_state.clone()
        torch.mul(totals, to_new, out=of_input[..., 2 * width :])
        return of_input, of_state


class _Tanh:
    """The new state is the tanh of the sum."""

    states, separate = 1, False

    @staticmethod
    def forward(run: _Run, bias: Tensor | None) -> None:
        hidden, weight = run.kept[0], run.weight.t()
        for t, before, after in run.order:
            hidden[after] = run.gates[t].addmm_(hidden[before], weight).tanh_()

    @staticmethod
    def slope(gates: Tensor) -> Tensor:
        return 1 - gates.square()

    @classmethod
    def backward(cls, run: _Run, grad: Tensor, last: list[Tensor]) -> tuple[Tensor, Tensor]:
        slopes, sides, d_hidden = cls.slope(run.gates), torch.empty_like(run.gates), last[0]
        for t, _, _ in reversed(run.order):
            d_hidden = torch.mul(d_hidden + grad[t], slopes[t], out=sides[t]) @ run.weight
        last[0] = d_hidden
        return sides, sides


class _Relu(_Tanh):
    """The new state is the positive part of the sum."""

    @staticmethod
    def forward(run: _Run, bias: Tensor | None) -> None:
        hidden, weight = run.kept[0], run.weight.t()
        for t, before, after in run.order:
            hidden[after] = run.gates[t].addmm_(hidden[before], weight).relu_()

    @staticmethod
    def slope(gates: Tensor) -> Tensor:
        return (gates > 0).to(gates.dtype)


_KINDS: dict[Any, Any] = {torch.lstm: _Lstm, torch.gru: _Gru, torch.rnn_tanh: _Tanh, torch.rnn_relu: _Relu}
_ANCHOR = torch.zeros((), requires_grad=True)


class _Sides:
    """What a backward pass leaves of a sequence for the norms: gradients of the gates' two parts, states before."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: tuple[Tensor, Tensor, Tensor] | None = None


class _Sequence(torch.autograd.Function):
    """One layer in one direction over a sequence (T, B, d): the sequence of states, and for an LSTM its last cells."""

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        kind: Any,
        backwards: bool,
        box: _Sides,
        x: Tensor,
        of_input: Tensor,
        of_state: Tensor,
        b_input: Any,
        b_state: Any,
        *states: Tensor,
    ) -> Any:
        steps, batch, _ = x.shape
        bias = b_input if b_input is None or kind.separate else b_input + b_state
        kept = [x.new_empty(steps + 1, batch, state.shape[1]) for state in states]
        run = _Run(F.linear(x, of_input, bias), of_state, kept, (), backwards)
        for buffer, state in zip(kept, states, strict=True):
            buffer[run.order[0][1]] = state
        kind.forward(run, b_state if kind.separate else None)
        ctx.kind, ctx.backwards, ctx.box = kind, backwards, box
        ctx.save_for_backward(x, of_input, of_state, run.gates, *kept, *run.bent)
        sequence = kept[0][:-1] if backwards else kept[0][1:]
        # Copies: what is written into them leaves alone what backward needs.
        outputs = (sequence.clone(), *(buffer[run.order[-1][2]].clone() for buffer in kept[1:]))
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        saved = ctx.saved_tensors  # checkpoint makes the call again here
        with torch._C.DisableTorchFunction():  # calls of a backward pass in a block are followed, but for these
            return _Sequence.of_gates(ctx, saved, grads)

    @staticmethod
    def of_gates(ctx: Any, saved: Sequence[Tensor], grads: Sequence[Tensor | None]) -> Any:
        """Return the gradients of what was given, and leave those of the gates in the box."""
        kind = ctx.kind
        x, of_input, of_state, gates, *rest = saved
        run = _Run(gates, of_state, rest[: kind.states], rest[kind.states :], ctx.backwards)
        last = [torch.zeros_like(buffer[0]) for buffer in run.kept]
        for k, grad in enumerate(grads[1:], 1):
            if grad is not None:
                last[k].add_(grad)
        before = run.before(0)
        sides = kind.backward(run, torch.zeros_like(before) if grads[0] is None else grads[0], last)
        ctx.box.found = (*sides, before)
        flat = [side.flatten(0, 1) for side in sides]
        wanted = ctx.needs_input_grad
        of_weights = [
            flat[0].t() @ x.flatten(0, 1) if wanted[5] else None,
            flat[1].t() @ before.flatten(0, 1) if wanted[6] else None,
            flat[0].sum(0) if wanted[7] else None,
            flat[1].sum(0) if wanted[8] else None,
        ]
        return (None, None, None, None, sides[0] @ of_input if wanted[4] else None, *of_weights, *last)


def understood(function: Any, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], each: int) -> bool:
    """Whether a call is one that `layers_of_sequences` can make: no projection, one dtype, no autocast."""
    return (
        function in _KINDS
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
    box = _Sides()
    sources = [tracker.source_of(w) for w in weights]

    def make(*parts: Any) -> Any:
        padded = (*parts, None, None)[:4]
        return _Sequence.apply(_ANCHOR, _KINDS[function], backwards, box, x, *padded, *states)

    made: tuple[Tensor, ...] = tracker.with_stand_ins(make, tuple(weights), {})
    held = x.detach()

    def rows_first(tensor: Tensor) -> Tensor:
        return rows_of(tensor.transpose(0, 1), axis, tracker.axes.batch or 0)

    def finish(_: Tensor) -> list[Use]:
        assert box.found is not None
        rows = [rows_first(box.found[0]).contiguous()]
        rows.append(rows[0] if box.found[0] is box.found[1] else rows_first(box.found[1]).contiguous())
        before = rows_first(box.found[2])
        box.found = None
        uses: list[Use] = []
        for k, columns in enumerate((rows_first(held), before)):
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
