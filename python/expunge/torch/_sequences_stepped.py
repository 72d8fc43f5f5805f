"""Recurrent layers a step at a time by torch's own operations, for devices: what a pass keeps, and gradients of gates.

Steps come first in all tensors here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from expunge.torch._sequences_found import Found

__all__ = ["Stepped"]


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


class Stepped:
    """One layer in one direction."""

    def __init__(self, function: Any, backwards: bool) -> None:
        self.kind, self.backwards = _KINDS[function], backwards

    def forward(
        self, x: Tensor, of_input: Tensor, of_state: Tensor, b_input: Any, b_state: Any, states: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the sequence of states (T, B, h) and an LSTM's last cells, and what `backward` needs."""
        kind = self.kind
        steps, batch, _ = x.shape
        bias = b_input if b_input is None or kind.separate else b_input + b_state
        kept = [x.new_empty(steps + 1, batch, state.shape[1]) for state in states]
        run = _Run(F.linear(x, of_input, bias), of_state, kept, (), self.backwards)
        for buffer, state in zip(kept, states, strict=True):
            buffer[run.order[0][1]] = state
        kind.forward(run, b_state if kind.separate else None)
        sequence = kept[0][:-1] if self.backwards else kept[0][1:]
        # Copies: what is written into them leaves alone what backward needs.
        outputs = [sequence.clone(), *(buffer[run.order[-1][2]].clone() for buffer in kept[1:])]
        return outputs, [x, of_state, run.gates, *kept, *run.bent]

    def backward(self, saved: Sequence[Tensor], grads: Sequence[Tensor | None]) -> Found:
        """Return the gradients of the gates, and what multiplies them, from those of the outputs."""
        kind = self.kind
        x, of_state, gates, *rest = saved
        run = _Run(gates, of_state, rest[: kind.states], rest[kind.states :], self.backwards)
        last = [torch.zeros_like(buffer[0]) for buffer in run.kept]
        for k, given in enumerate(grads[1:], 1):
            if given is not None:
                last[k].add_(given)
        before = run.before(0)
        grad = torch.zeros_like(before) if grads[0] is None else grads[0]
        of_input, of_state = kind.backward(run, grad, last)
        return Found(of_input, of_state, x, before, last, examples=1)
