"""Rules of rows that come one sequence after the other: bags of an embedding, and packed sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from expunge.torch._axis import Axis, Lost, Rows, State, owners
from expunge.torch._rows import OTHERS, agree, settled
from expunge.torch._rule import Call, MixedError

__all__ = ["PACKED", "PACKED_RULES", "bags_of", "batch_order"]


def bags_of(indices: Tensor, offsets: Tensor, *, last: bool) -> Tensor:
    """Return in which bag each index is; ``last`` says that the last offset is the end of the last bag."""
    starts = offsets[:-1] if last else offsets
    return torch.searchsorted(starts, torch.arange(len(indices), device=starts.device), right=True) - 1


def _bag(call: Call) -> State | None:
    indices, offsets = call.argument(0, "input"), call.argument(2, "offsets")
    weights = call.argument(8, "per_sample_weights")
    if offsets is None or any(t is not indices and t is not offsets and t is not weights for t, _ in call.states):
        return None
    last = bool(call.argument(9, "include_last_offset", False))
    bags = bags_of(indices, offsets, last=last)
    if len(offsets) - last != call.batch or call.state(offsets) not in (None, Axis(0)) or bool((bags < 0).any()):
        raise MixedError("takes another number of bags than of examples")
    for tensor in (indices, weights):
        if tensor is not None:
            agree(call, tensor, bags)
    return Axis(0)


# --- packed sequences ---------------------------------------------------------------------------------


def batch_order(call: Call, data: Tensor, sizes: Tensor) -> Rows:
    """Return the examples of a packed sequence in the order of its first step, after a look at all others."""
    state = call.state(data)
    if not isinstance(state, (Axis, Rows)) or state.dim or not len(sizes):
        raise MixedError("takes a packed sequence whose rows are not known")
    owner = owners(state, len(data), call.batch, data.device)
    first = owner[: int(sizes[0])]
    steps = torch.cat([first[: int(n)] for n in sizes])
    if len(first) != call.batch or not torch.equal(first.sort()[0], torch.arange(call.batch, device=first.device)):
        raise MixedError("takes a packed sequence with other rows than one for each example")
    if not torch.equal(steps, owner):
        raise MixedError(OTHERS)
    return Rows(0, first, shuffled=isinstance(state, Rows) and state.shuffled)


def _in_order(rows: Rows, dim: int) -> Axis | Rows:
    in_turn = torch.equal(rows.owner, torch.arange(len(rows.owner), device=rows.owner.device))
    return Axis(dim) if in_turn else rows.at(dim)


def _pack(call: Call) -> list[State] | None:
    data, lengths, batch_first = call.argument(0, "input"), call.argument(1, "lengths"), call.argument(2, "batch_first")
    state, dim = call.state(data), 0 if batch_first else 1
    if not isinstance(state, (Axis, Rows)) or state.dim != dim:
        raise MixedError(f"takes examples in dimension {dim} alone")
    owner = owners(state, data.shape[dim], call.batch, data.device)
    if call.state(lengths) is not None:
        agree(call, lengths, owner.to(lengths.device))
    sizes = call.outputs[1].tolist()
    shuffled = isinstance(state, Rows) and state.shuffled
    return [
        settled(Rows(0, torch.cat([owner[:n] for n in sizes]), shuffled=shuffled), call.batch),
        Lost("numbers of rows of a packed sequence depend on all examples"),
    ]


def _pad(call: Call) -> list[State]:
    rows = batch_order(call, call.argument(0, "data"), call.argument(1, "batch_sizes"))
    dim = 0 if call.argument(2, "batch_first") else 1
    return [_in_order(rows, dim), _in_order(rows, 0)]


def _recurrent(call: Call) -> list[State]:
    """Follow a layer of packed sequences, (data, sizes, states, weights, ...): states are in the order of step 1."""
    if len(call.args) != 9 or not isinstance(call.args[3], (list, tuple)):
        raise MixedError("takes rows that were picked along the batch dimension")
    rows = batch_order(call, call.args[0], call.args[1])
    return [call.state(call.args[0]), *[_in_order(rows, 1)] * (len(call.outputs) - 1)]


PACKED = {torch._pad_packed_sequence, torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu}  # type: ignore[attr-defined]
PACKED_RULES: dict[Any, Callable[[Call], Any]] = {
    torch._pack_padded_sequence: _pack,  # type: ignore[attr-defined]
    torch._pad_packed_sequence: _pad,  # type: ignore[attr-defined]
    **dict.fromkeys((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu), _recurrent),
    F.embedding_bag: _bag,
}
