"""Recurrent layers on the CPU: one kernel makes all steps of a few sequences at a time, forward and backward.

Examples come first in all tensors here, as the kernels of norms want them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from expunge.torch import _kernels
from expunge.torch._sequences_found import Found

__all__ = ["Fused"]

_CELLS = {torch.lstm: "lstm", torch.gru: "gru", torch.rnn_tanh: "tanh", torch.rnn_relu: "relu"}


class Fused:
    """One layer in one direction."""

    def __init__(self, function: Any, backwards: bool, threads: int | None) -> None:
        self.settings: dict[str, Any] = {"cell": _CELLS[function], "backwards": backwards, "threads": threads}

    @staticmethod
    def takes(tensors: Sequence[Tensor]) -> bool:
        """Whether the memory of all tensors can be given to a kernel."""
        return all(
            type(t) in (Tensor, nn.Parameter) and t.is_cpu and t.layout == torch.strided and not t.is_neg()
            for t in tensors
        )

    def forward(
        self, x: Tensor, of_input: Tensor, of_state: Tensor, b_input: Any, b_state: Any, states: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the sequence of states (T, B, h) and an LSTM's last cells, and what `backward` needs."""
        rows, weight = x.transpose(0, 1).contiguous(), of_state.contiguous()
        first = [state.contiguous() for state in states]
        gates = F.linear(rows, of_input, b_input).contiguous()
        bias = None if b_state is None else b_state.contiguous()
        before, outputs, kept = _kernels.recurrent_states(gates, weight, bias, first, **self.settings)
        last = [] if len(states) == 1 or kept is None else [kept[:, 0 if self.settings["backwards"] else -1].clone()]
        return [outputs, *last], [rows, weight, gates, before, *([] if kept is None else [kept]), *first]

    def backward(self, saved: Sequence[Tensor], grads: Sequence[Tensor | None]) -> Found:
        """Return the gradients of the gates, and what multiplies them, from those of the outputs."""
        rows, weight, gates, before, *rest = saved
        kept = rest.pop(0) if self.settings["cell"] in ("lstm", "gru") else None
        last = [torch.zeros_like(state) for state in rest]
        for k, grad in enumerate(grads[1:], 1):
            if grad is not None:
                last[k].add_(grad)
        output_grads = torch.zeros_like(before) if grads[0] is None else grads[0].transpose(0, 1).contiguous()
        of_input, of_state = _kernels.recurrent_grads(
            output_grads, gates, weight, before, kept, rest, last, **self.settings
        )
        return Found(of_input, of_state, rows, before, last, examples=0)
