"""Rules of calls that pick rows along the batch dimension, order them anew, and put them back.

Every row that was picked is remembered with its example (`Rows`). Positions are read here, which waits for the
device: no shape tells which row is whose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from expunge.torch._axis import Axis, Lost, Rows, State, Total, owners
from expunge.torch._rows import OTHERS, agree, along_axis, settled
from expunge.torch._rule import RULES, Call, MixedError, functions
from expunge.torch._rules_elementwise import broadcast
from expunge.torch._rules_indexing import Places
from expunge.torch._rules_packed import PACKED, PACKED_RULES
from expunge.torch._sources import tensors_in

__all__ = ["PICKING", "of_rows", "picked", "unmixed"]


def of_rows(call: Call) -> State | list[State]:
    """Return the states of a call among whose arguments are rows that were picked."""
    try:
        found = _PICKED[call.function](call) if call.function in PICKING else None
        return found if found is not None else _as_axes(call)
    except MixedError as error:
        return call.lost(str(error))


def picked(call: Call) -> State | list[State] | None:
    """Return the states of a call that picks rows, or puts them back; None if it is not understood."""
    try:
        return _PICKED[call.function](call)
    except MixedError as error:
        return call.lost(str(error))


# --- rows like any other axis -------------------------------------------------------------------------

_ALONG_OTHERS = """
add where linear matmul mm mv __matmul__ linalg_matmul einsum sum mean prod amax amin all any var std logsumexp norm
linalg_vector_norm max min median argmax argmin softmax log_softmax softmin cumsum cumprod sort argsort topk normalize
glu layer_norm rms_norm unsqueeze transpose swapaxes permute movedim t expand expand_as broadcast_to stack gather
take_along_dim chunk split unbind select narrow one_hot prelu cosine_similarity pairwise_distance flip squeeze
mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits kl_div cross_entropy
nll_loss conv1d conv2d conv3d
"""
_ENTRYWISE = {function for function, known in RULES.items() if known is RULES[torch.add]}
_RAGGED = {
    *_ENTRYWISE,
    *functions(_ALONG_OTHERS),
    *(Tensor.__getitem__, Tensor.T.__get__, Tensor.mT.__get__),  # type: ignore[attr-defined]
    *(torch.linalg.vector_norm, torch.linalg.norm, F.embedding, torch.embedding),
}
# Calls that leave positions as they are.
_OF_PLACES = set(functions("unsqueeze squeeze expand to long int clone contiguous detach cpu cuda"))
# Calls that combine arguments by their shapes, so that constants may be rows too.
_TOGETHER = {
    *_ENTRYWISE,
    *functions(
        "where stack gather take_along_dim matmul mm __matmul__ einsum mse_loss l1_loss smooth_l1_loss huber_loss"
    ),
    *functions("binary_cross_entropy binary_cross_entropy_with_logits kl_div cross_entropy nll_loss"),
}


def _as_axes(call: Call) -> State | list[State]:
    """Apply a rule that moves an axis about, and compares it with others, to axes of rows."""
    if call.function not in _RAGGED or call.function not in RULES:
        return call.lost("has no rule for rows that were picked along the batch dimension")
    known: list[Rows] = []

    def stand_in(state: State) -> State:
        if not isinstance(state, Rows):
            return state
        k = next((k for k, other in enumerate(known) if other.same(state)), len(known))
        if k == len(known):
            known.append(state)
        return Axis(state.dim, -2 - k)  # no number of copies

    states = [(t, stand_in(s)) for t, s in call.states]
    if any(isinstance(s, Total) for _, s in states):
        return call.lost("combines a sum over examples with examples")
    if any(rows.places is not None for rows in known) and call.function not in _OF_PLACES:
        return call.lost("takes positions along the batch dimension, which differ for an example alone")
    if any(rows.shuffled for rows in known) and call.function in _TOGETHER and _constant_rows(call, known):
        return call.lost("brings rows in an order that depends on examples together with constants")
    found = RULES[call.function](Call(call.function, call.args, call.kwargs, call.result, states, call.batch))

    def back(state: State) -> State:
        if isinstance(state, Axis):
            k = -2 - state.before
            return known[k].at(state.dim) if 0 <= k < len(known) and state.after == 1 else call.lost(OTHERS)
        return Total("unclear") if isinstance(state, Total) and state.kind == "mean" else state

    return back(found) if isinstance(found, (Axis, Rows, Total, Lost)) else [back(state) for state in found]


def _constant_rows(call: Call, known: Sequence[Rows]) -> bool:
    lengths = {len(rows.owner) for rows in known} - {1}
    tracked = {id(t) for t, _ in call.states}
    return any(id(t) not in tracked and lengths & set(t.shape) for t in tensors_in(call.args, call.kwargs))


# --- picking ------------------------------------------------------------------------------------------


def _chosen(call: Call, places: Places, target: Tensor) -> tuple[Axis | Rows, Tensor] | None:
    """Return the axis of a target along which rows are picked, or written, and whose they are."""
    state = call.state(target)
    if isinstance(state, Total):
        return None
    if len(places.masks) == 1 and not places.joint:
        start, mask = places.masks[0]
        own = call.state(mask)
        if isinstance(own, Total):
            return None
        along = state if state is not None else None if own is None else own.at(start + own.dim)
        if along is None or not start <= along.dim < start + mask.ndim:
            return None
        if own is not None and own.at(start + own.dim) != along:
            raise MixedError("picks along the batch dimension by a mask of other examples")
        rows = mask.nonzero()[:, along.dim - start]
        return along, owners(along, target.shape[along.dim], call.batch, rows.device)[rows]
    if not places.joint or places.masks:
        return None
    along = state if state is not None else _axis_of_places(call, places, target)
    if along is None:
        return None
    length = target.shape[along.dim]
    pick = next((t for k, t in places.joint if k == along.dim), None)
    if pick is None:
        return None
    for k, index in places.joint:
        own = call.state(index)
        if isinstance(own, Rows) and own.places is not None and (k != along.dim or own.places != (along.at(0), length)):
            raise MixedError("picks by positions along another batch dimension")
    rows = pick.broadcast_to(places.wide)
    owner = owners(along, length, call.batch, rows.device)[torch.where(rows < 0, rows + length, rows)]
    for _, index in places.joint:
        agree(call, index, owner)
    return along, owner


def _axis_of_places(call: Call, places: Places, target: Tensor) -> Axis | Rows | None:
    for k, index in places.joint:
        own = call.state(index)
        if isinstance(own, Rows) and own.places is not None and own.places[1] == target.shape[k]:
            return own.places[0].at(k)
    return None


def _came(call: Call, place: int, along: Axis | Rows, owner: Tensor, target: Tensor, others: Sequence[Tensor]) -> State:
    """Return the state of rows picked, whose they are given, from dimension ``place`` on."""
    own = call.state(target)
    numbers = own.places if isinstance(own, Rows) else None
    turn = torch.arange(call.batch, device=owner.device)
    if numbers is None:
        for dim in range(owner.ndim):
            if owner.shape[dim] == call.batch and bool((along_axis(turn, dim, owner) == owner).all()):
                return Axis(place + dim)
    if owner.ndim != 1:
        raise MixedError("picks rows of different examples in a way that is not understood")
    shuffled = any(isinstance(s, Rows) and s.shuffled for s in (along, *(call.state(t) for t in others)))
    return settled(Rows(place, owner, places=numbers, shuffled=shuffled), call.batch)


def _pick(call: Call) -> State | None:
    return _picked_from(call, call.first, call.args[1])


def _picked_from(call: Call, target: Tensor, index: Any) -> State | None:
    places = Places(target.shape, index)
    if len(places.outputs) != call.outputs[0].ndim:
        return None
    found = _chosen(call, places, target)
    if found is None:
        return None
    return _came(call, places.place, *found, target, [t for _, t in (*places.joint, *places.masks)])


def _index_at(call: Call) -> tuple[Any, ...]:
    dim = int(call.argument(1, "dim")) % call.first.ndim
    return (*[slice(None)] * dim, call.argument(2, "index"))


def _select(call: Call) -> State | None:
    return _picked_from(call, call.first, _index_at(call))


def _masked(call: Call) -> State | None:
    target, mask = call.first, call.argument(1, "mask")
    if any(isinstance(s, (Rows, Total)) for _, s in call.states):
        return _picked_from(call, target, mask) if target.shape == mask.shape else None
    wide = torch.empty(torch.broadcast_shapes(target.shape, mask.shape), device="meta")
    along = broadcast(call, wide)
    if not isinstance(along, Axis):
        return along
    rows = mask.broadcast_to(wide.shape).nonzero()[:, along.dim]
    return settled(Rows(0, owners(along, wide.shape[along.dim], call.batch, rows.device)[rows]), call.batch)


# --- putting back -------------------------------------------------------------------------------------


def _put(call: Call, target: Tensor, index: Any, value: Any) -> State | None:
    places = Places(target.shape, index)
    found = _chosen(call, places, target)
    if found is None or not isinstance(value, Tensor):
        return None
    along, owner = found
    agree(call, value, owner, len(places.outputs) - places.place - owner.ndim)
    if any(isinstance(call.state(t), Rows) and call.state(t).places is not None for t in (target, value)):
        raise MixedError("writes positions along the batch dimension")
    return along


def _write(call: Call) -> State | None:
    return _put(call, call.args[0], call.args[1], call.args[2])


def _put_by_indices(call: Call) -> State | None:
    return _put(call, call.first, tuple(call.argument(1, "indices")), call.argument(2, "values"))


def _put_along(call: Call) -> State | None:
    source = call.argument(3, "source")
    return _put(call, call.first, _index_at(call), source) if source.ndim == call.first.ndim else None


# --- places -------------------------------------------------------------------------------------------


def _nonzero(call: Call) -> State | list[State] | None:
    if len(call.args) + len(call.kwargs) > (1 if call.name == "where" else 2):
        return None
    condition = call.first
    state = call.state(condition)
    if not isinstance(state, (Axis, Rows)) or (len(call.outputs) == 1 and condition.ndim != 1):
        return None
    if isinstance(state, Rows) and state.places is not None:
        return None
    outputs = call.outputs if len(call.outputs) > 1 or call.outputs[0].ndim == 1 else [call.outputs[0][:, 0]]
    length = condition.shape[state.dim]
    owner = owners(state, length, call.batch, outputs[0].device)[outputs[state.dim]]
    shuffled = isinstance(state, Rows) and state.shuffled
    places = [(state.at(0), length) if dim == state.dim else None for dim in range(len(outputs))]
    return [settled(Rows(0, owner, places=numbers, shuffled=shuffled), call.batch) for numbers in places]


def _sorted(call: Call) -> list[State] | None:
    """Lengths put in order: whole numbers, one for every example."""
    lengths = call.first
    if lengths.ndim != 1 or call.state(lengths) != Axis(0) or lengths.is_floating_point():
        return None
    order = call.outputs[-1]
    numbers: State = Rows(0, order, places=(Axis(0), call.batch), shuffled=True)
    return [Rows(0, order, shuffled=True), numbers][-len(call.outputs) :]


# --- shapes -------------------------------------------------------------------------------------------


def _reshape(call: Call) -> State | None:
    state, before, after = call.state(call.first), call.first.shape, call.outputs[0].shape
    if not isinstance(state, Rows):
        return None
    if len(call.states) != 1 or isinstance(call.argument(1, "dtype"), torch.dtype):
        raise MixedError("views other numbers")
    rows = before[state.dim]
    for dim, length in enumerate(after):
        if math.prod(after[:dim]) == math.prod(before[: state.dim]) and rows and length % rows == 0:
            times = length // rows
            if times == 1 or state.places is None:
                owner = state.owner if times == 1 else state.owner.repeat_interleave(times)
                return settled(Rows(dim, owner, places=state.places, shuffled=state.shuffled), call.batch)
    raise MixedError(f"cuts rows up that were picked along the batch dimension, to shape {tuple(after)}")


def _squeeze(call: Call) -> State | None:
    state, dim = call.state(call.first), call.argument(1, "dim")
    if not isinstance(state, Rows):
        return None
    dims = range(call.first.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    if call.first.shape[state.dim] == 1 and state.dim in {int(d) % call.first.ndim for d in dims}:
        raise MixedError("drops a dimension of rows, of which there is one: name the dimension that is to go")
    return None


def _cat(call: Call) -> State | None:
    tensors = call.argument(0, "tensors")
    dim = int(call.argument(1, "dim", 0)) % call.outputs[0].ndim
    states = [call.state(t) for t in tensors]
    if any(not isinstance(s, (Axis, Rows)) or (isinstance(s, Rows) and s.places is not None) for s in states):
        raise MixedError("adds rows that are not of examples")
    if any(s.dim != dim for s in states):
        if all(s == states[0] for s in states):
            return states[0]  # type: ignore[no-any-return]
        raise MixedError(OTHERS)
    parts = [owners(s, t.shape[dim], call.batch, t.device) for s, t in zip(states, tensors, strict=True)]
    shuffled = any(isinstance(s, Rows) and s.shuffled for s in states)
    return settled(Rows(dim, torch.cat(parts), shuffled=shuffled), call.batch)


def unmixed(call: Call) -> State | list[State] | None:
    """Return the states of a call that takes something unknown, where that makes no difference; None otherwise.

    Rows are put in turn by an unknown order, if each example has one row; a packed sequence carries the numbers of rows
    of its steps, which say nothing that its rows do not.
    """
    lost = [t for t, s in call.states if isinstance(s, Lost)]
    known: list[tuple[Tensor, State]] = [(t, s) for t, s in call.states if not isinstance(s, Lost)]
    without = Call(call.function, call.args, call.kwargs, call.result, known, call.batch)
    packed = call.function in PACKED and len(lost) == 1
    select = call.function == Tensor.__getitem__ or call.function in _SELECTS
    if call.batch == 1 or not (packed or select) or not known:
        return Axis(-1) if packed and call.batch == 1 and lost[0] is call.args[1] else None
    try:
        if packed:
            return _PICKED[call.function](without) if lost[0] is call.argument(1, "batch_sizes") else None
        state = without.state(call.first)
        if not isinstance(state, (Axis, Rows)) or len(lost) != 1:
            return None
        owner = owners(state, call.first.shape[state.dim], call.batch, call.first.device)
        if len(owner) != call.batch or len(owner.unique()) != call.batch:
            return None
        index = call.args[1] if call.function == Tensor.__getitem__ else _index_at(call)
        places = Places(call.first.shape, index)
        if (
            places.masks
            or len(places.joint) != 1
            or places.joint[0][0] != state.dim
            or places.joint[0][1] is not lost[0]
        ):
            return None
        found = _PICKED[call.function](without)
        return found if isinstance(found, Axis) and found.plain else None
    except MixedError:
        return None


_SELECTS = set(functions("index_select"))
_PICKED: dict[Any, Callable[[Call], Any]] = {
    Tensor.__getitem__: _pick,
    Tensor.__setitem__: _write,
    **PACKED_RULES,
    **dict.fromkeys(_SELECTS, _select),
    **dict.fromkeys(functions("masked_select"), _masked),
    **dict.fromkeys(functions("index_add index_copy"), _put_along),
    **dict.fromkeys(functions("index_put"), _put_by_indices),
    **dict.fromkeys(functions("nonzero where"), _nonzero),
    **dict.fromkeys(functions("sort argsort"), _sorted),
    **dict.fromkeys(functions("reshape view flatten unflatten ravel reshape_as view_as"), _reshape),
    **dict.fromkeys(functions("squeeze"), _squeeze),
    **dict.fromkeys(functions("cat concat concatenate"), _cat),
}
PICKING = set(_PICKED)
