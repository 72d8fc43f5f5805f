"""How each primitive keeps the axis of the examples, or why it does not."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from expunge.jax._axes import (
    Mixed,
    OwnRows,
    Rows,
    Shared,
    State,
    Total,
    all_rows,
    one_rows,
    reshaped,
    rule,
    same_along,
    shared_of,
)

__all__: list[str] = []

_NAMES = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz conj copy copy_p
cos cosh digamma eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac imag integer_pow is_finite le lgamma
log log1p logistic lt max min mul name ne neg nextafter not optimization_barrier or polygamma population_count pow real
reduce_precision regularized_incomplete_beta rem round rsqrt select_n shift_left shift_right_arithmetic
shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta div convert_element_type
sharding_constraint random_fold_in
"""
ELEMENTWISE = _NAMES.split()
# Rules that also say along which axes shared results are the same.
TELL_OF_SHARED = {
    *ELEMENTWISE,
    "broadcast_in_dim",
    "concatenate",
    "dot_general",
    "reshape",
    "slice",
    "squeeze",
    "transpose",
}
TELL_OF_SHARED |= {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "split"}
_LINEAR = {"neg", "convert_element_type", "copy", "copy_p", "reduce_precision", "name", "stop_gradient", "squeeze"}


def _factor(states: list[State], eqn: JaxprEqn) -> list[State]:
    """Return a sum over examples, multiplied by a number that stands in the program or added to another."""
    name = eqn.primitive.name
    totals = [state for state in states if isinstance(state, Total)]
    if name == "neg":
        return [totals[0]._replace(scale=-totals[0].scale)]
    if name in _LINEAR and jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.inexact):
        return list(totals)
    if name in ("add", "add_any", "sub") and len(totals) == 2 and totals[0].scale == totals[1].scale:
        return [totals[0]._replace(factors=totals[0].factors + totals[1].factors)]
    if name in ("mul", "div") and len(totals) == 1 and (name == "mul" or isinstance(states[0], Total)):
        other = next((state for state in states if isinstance(state, Shared)), None)
        if other is not None and other.value is not None and np.ndim(other.value) == 0:
            number = float(other.value)
            if number:
                (total,) = totals
                scale = total.scale * number if name == "mul" else total.scale / number
                return [Total(scale, (*total.factors, number))]
    raise Mixed(
        "a sum over the examples takes part in more than multiplication by a number that stands in the program: return "
        "one loss for each example, of shape (B,)"
    )


@rule(*ELEMENTWISE)
def elementwise(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Results have the axes of the operands."""
    if any(isinstance(state, Total) for state in states):
        return _factor(states, eqn)
    if eqn.primitive.name == "optimization_barrier":
        return list(states)
    rows = all_rows(eqn, states)
    if rows is not None:
        return [rows] * len(eqn.outvars)
    shape = eqn.outvars[0].aval.shape
    arrays = [s for s, v in zip(states, eqn.invars, strict=True) if v.aval.ndim and isinstance(s, Shared)]
    uniform = frozenset(range(len(shape))).intersection(*(s.uniform for s in arrays))
    return [shared_of(shape, uniform)] * len(eqn.outvars)


@rule("bitcast_convert_type")
def bitcast(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Numbers of one width become others of the same."""
    if eqn.invars[0].aval.shape != eqn.outvars[0].aval.shape:
        raise Mixed("it takes numbers apart")
    return [one_rows(states)]


@rule("broadcast_in_dim")
def broadcast_in_dim(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Axes of the operand are named by the setting, all others are new."""
    if len(states) != 1:
        raise Mixed("its shape is computed")
    shape, places = eqn.outvars[0].aval.shape, eqn.params["broadcast_dimensions"]
    (state,) = states
    if isinstance(state, Shared):
        before = eqn.invars[0].aval.shape
        kept = {place for k, place in enumerate(places) if k not in state.uniform and before[k] != 1}
        return [shared_of(shape, frozenset(range(len(shape))) - kept)]
    rows = one_rows(states)
    return [rows._replace(axis=places[rows.axis])]


@rule("transpose")
def transpose(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Axes change their order."""
    order = tuple(eqn.params["permutation"])
    (state,) = states
    if isinstance(state, Shared):
        return [shared_of(eqn.outvars[0].aval.shape, frozenset(order.index(k) for k in state.uniform))]
    rows = one_rows(states)
    return [rows._replace(axis=order.index(rows.axis))]


@rule("reshape")
def reshape(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Axes are joined and split, that of the examples perhaps joined with others."""
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    if len(states) != 1 or eqn.params.get("dimensions") is not None:
        raise Mixed("its axes change their order")
    (state,) = states
    if isinstance(state, Total):
        return [state]
    if isinstance(state, Shared):
        if [size for size in before if size != 1] == [size for size in after if size != 1]:
            old = [k for k, size in enumerate(before) if size != 1]
            new = [k for k, size in enumerate(after) if size != 1]
            return [shared_of(after, frozenset(n for o, n in zip(old, new, strict=True) if o in state.uniform))]
        whole = len(state.uniform) == len(before)
        return [shared_of(after, frozenset(range(len(after))) if whole else ())]
    return [reshaped(one_rows(states), before, after, batch)]


@rule("squeeze")
def squeeze(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Axes of length one go."""
    gone = {k % eqn.invars[0].aval.ndim for k in eqn.params["dimensions"]}
    (state,) = states
    if isinstance(state, Total):
        return [state]
    kept = [k for k in range(eqn.invars[0].aval.ndim) if k not in gone]
    if isinstance(state, Shared):
        return [shared_of(eqn.outvars[0].aval.shape, frozenset(kept.index(k) for k in state.uniform if k in kept))]
    rows = one_rows(states)
    if rows.axis in gone:
        raise Mixed("the axis of the examples goes")
    return [rows._replace(axis=kept.index(rows.axis))]


@rule(
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor", "argmax", "argmin"
)
def reduction(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Axes are reduced; over examples only by a sum, which is then the loss's."""
    axes = {k % eqn.invars[0].aval.ndim for k in eqn.params["axes"]}
    kept = [k for k in range(eqn.invars[0].aval.ndim) if k not in axes]
    (state,) = states
    if isinstance(state, Shared):
        return [shared_of(eqn.outvars[0].aval.shape, frozenset(kept.index(k) for k in state.uniform if k in kept))]
    if isinstance(state, Total) and eqn.primitive.name == "reduce_sum":
        return [state]
    rows = one_rows(states)
    if rows.axis not in axes:
        return [rows._replace(axis=kept.index(rows.axis))]
    if eqn.primitive.name != "reduce_sum":
        raise Mixed("it reduces over the examples")
    return [Total()]


def _along(axis: int, eqn: JaxprEqn, states: list[State]) -> list[State]:
    """Return the states of results of the operands' shape that mix numbers along one axis."""
    rows = all_rows(eqn, states)
    if rows is None:
        arrays = [state.uniform for state in states if isinstance(state, Shared)]
        uniform = frozenset.intersection(*arrays) - {axis}
        return [shared_of(variable.aval.shape, uniform) for variable in eqn.outvars]
    if rows.axis == axis:
        raise Mixed("it goes along the axis of the examples")
    return [rows] * len(eqn.outvars)


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def cumulative(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Numbers along one axis are mixed."""
    return _along(eqn.params["axis"], eqn, states)


@rule("sort")
def sort(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Numbers along one axis are mixed."""
    return _along(eqn.params["dimension"], eqn, states)


@rule("top_k")
def top_k(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Numbers along one axis are mixed, the last if it is not named."""
    return _along(eqn.params.get("axis", eqn.invars[0].aval.ndim - 1) % eqn.invars[0].aval.ndim, eqn, states)


@rule("split")
def split(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Results are pieces along one axis."""
    return _along(eqn.params["axis"], eqn, states)


@rule("rev")
def rev(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Axes are turned round."""
    rows = one_rows(states)
    if rows.axis in eqn.params["dimensions"]:
        raise Mixed("it turns the axis of the examples round")
    return [rows]


@rule("slice")
def slices(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Axes are cut; that of the examples is not."""
    if isinstance(states[0], Shared):
        return [shared_of(eqn.outvars[0].aval.shape, states[0].uniform)]
    rows, params = one_rows(states), eqn.params
    whole = params["start_indices"][rows.axis] == 0 and (params["strides"] is None or params["strides"][rows.axis] == 1)
    if not whole or params["limit_indices"][rows.axis] != eqn.invars[0].aval.shape[rows.axis]:
        raise Mixed("it takes some of the examples")
    return [rows]


@rule("pad")
def pad(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Axes are padded; that of the examples is not."""
    if not isinstance(states[1], Shared):
        raise Mixed("the number to pad with depends on examples")
    rows = one_rows(states[:1])
    if tuple(eqn.params["padding_config"][rows.axis]) != (0, 0, 0):
        raise Mixed("it pads the axis of the examples")
    return [rows]


@rule("concatenate")
def concatenate(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Operands are joined along another axis than that of the examples."""
    axis = eqn.params["dimension"]
    own = [_own_column(state, variable.aval, batch) for state, variable in zip(states, eqn.invars, strict=True)]
    if any(own) and axis == eqn.outvars[0].aval.ndim - 1 == 1 and not all(isinstance(s, Shared) for s in states):
        for state, is_own, variable in zip(states, own, eqn.invars, strict=True):
            if variable.aval.shape[1] != 1 or not (is_own or state == Rows(0) or same_along(state, 0, Rows(0))):
                break
        else:
            return [OwnRows(0, tuple(k for k, is_own in enumerate(own) if is_own))]
    return _along(axis, eqn, states)


def _own_column(state: State, aval: Any, batch: int) -> bool:
    """Return whether a value of shape (B, 1) holds the numbers of the rows."""
    if aval.shape != (batch, 1) or not isinstance(state, Shared) or state.value is None:
        return False
    return bool((np.asarray(state.value)[:, 0] == np.arange(batch)).all())


@rule("dot_general")
def dot_general(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Results have the axes that go together, then the others of the left, then of the right operand."""
    (left_c, right_c), (left_b, right_b) = eqn.params["dimension_numbers"]
    first, second = states
    if isinstance(first, Shared) and isinstance(second, Shared):
        same = [i in first.uniform and j in second.uniform for i, j in zip(left_b, right_b, strict=True)]
        for one, v, taken in (
            (first, eqn.invars[0], {*left_c, *left_b}),
            (second, eqn.invars[1], {*right_c, *right_b}),
        ):
            same += [k in one.uniform for k in range(v.aval.ndim) if k not in taken]
        return [shared_of(eqn.outvars[0].aval.shape, [k for k, is_same in enumerate(same) if is_same])]
    found: list[Rows] = []
    for side, contracted, together in ((0, left_c, left_b), (1, right_c, right_b)):
        state = states[side]
        if isinstance(state, Shared):
            continue
        rows = one_rows([state])
        if rows.axis in contracted:
            raise Mixed("it sums over the examples")
        if rows.axis in together:
            place = tuple(together).index(rows.axis)
            other = (right_b if side == 0 else left_b)[place]
            partner = states[1 - side]
            if isinstance(partner, Shared) and not same_along(partner, other, rows):
                raise Mixed("a factor differs along the axis of the examples and is not part of the batch")
            if not isinstance(partner, Shared) and partner != rows._replace(axis=other):
                raise Mixed("both factors depend on examples, along different axes")
            found.append(rows._replace(axis=place))
            continue
        if not isinstance(states[1 - side], Shared):
            raise Mixed("both factors depend on examples, and each row of one meets all rows of the other")
        free = [k for k in range(eqn.invars[side].aval.ndim) if k not in {*contracted, *together}]
        before = len(left_b) + (eqn.invars[0].aval.ndim - len(left_c) - len(left_b) if side else 0)
        found.append(rows._replace(axis=before + free.index(rows.axis)))
    if len(set(found)) != 1:
        raise Mixed("examples lie along different axes")
    return [found[0]]


@rule("conv_general_dilated")
def convolution(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Images are separate; kernels are shared."""
    spec = eqn.params["dimension_numbers"]
    if not isinstance(states[1], Shared):
        raise Mixed("the kernel depends on examples")
    rows = one_rows(states[:1])
    if rows.axis != spec.lhs_spec[0] or eqn.params["batch_group_count"] != 1:
        raise Mixed("examples lie along another axis than that of the images")
    return [rows._replace(axis=spec.out_spec[0])]


@rule("reduce_window_sum", "reduce_window_max", "reduce_window_min", "cumulative_window")
def window(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Windows have length one along the axis of the examples."""
    rows, params = one_rows(states), eqn.params
    along = (params["window_dimensions"], params["window_strides"], params["base_dilation"], params["window_dilation"])
    if any(setting[rows.axis] != 1 for setting in along) or tuple(params["padding"][rows.axis]) != (0, 0):
        raise Mixed("its windows span examples")
    return [rows]


@rule("reduce_window")
def general_window(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """As other windows; what they begin with is shared."""
    half = len(states) // 2
    if half != 1 or not isinstance(states[1], Shared):
        raise Mixed("it reduces several operands, or begins with what depends on examples")
    return window(eqn, states[:1], batch)


@rule("gather")
def gather(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Rows that are looked up are the example's own, or everybody's."""
    operand, indices = states
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    ndim, last = eqn.invars[0].aval.ndim, eqn.invars[1].aval.ndim - 1
    offsets = tuple(numbers.offset_dims)
    of_indices = [k for k in range(eqn.outvars[0].aval.ndim) if k not in offsets]
    pairs = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    found: list[Rows] = []
    if isinstance(indices, OwnRows):
        column = {numbers.start_index_map[k]: k for k in indices.columns}
        axis = operand.axis if isinstance(operand, Rows) and operand == Rows(operand.axis) else -1
        if not pairs and axis in column and sizes[axis] == 1 and axis in numbers.collapsed_slice_dims:
            return [Rows(of_indices[indices.axis])]
        raise Mixed("rows are looked up by number")
    if not isinstance(indices, Shared):
        rows = one_rows([indices])
        if rows.axis == last:
            raise Mixed("one example gives the numbers of another's row")
        partner = {i: o for o, i in pairs.items()}.get(rows.axis)
        if isinstance(operand, Shared):
            if partner is not None and not same_along(operand, partner, rows):
                raise Mixed("a table differs along the axis of the examples and is not part of the batch")
        elif partner is None or operand != rows._replace(axis=partner):
            raise Mixed("rows of other examples are looked up")
        found.append(rows._replace(axis=of_indices[rows.axis]))
    if not isinstance(operand, Shared) and isinstance(indices, Shared):
        rows = one_rows([operand])
        if rows.axis in pairs:
            if not same_along(indices, pairs[rows.axis], rows):
                raise Mixed("indices differ along the axis of the examples and are not part of the batch")
            found.append(rows._replace(axis=of_indices[pairs[rows.axis]]))
        else:
            whole = sizes[rows.axis] == eqn.invars[0].aval.shape[rows.axis]
            if not whole or rows.axis in numbers.start_index_map or rows.axis in numbers.collapsed_slice_dims:
                raise Mixed("it looks up some of the examples")
            sliced = [k for k in range(ndim) if k not in {*numbers.collapsed_slice_dims, *pairs}]
            found.append(rows._replace(axis=offsets[sliced.index(rows.axis)]))
    if len(set(found)) != 1:
        raise Mixed("examples lie along different axes")
    return [found[0]]


@rule("dynamic_slice")
def dynamic_slice(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Axes are cut at shared places; that of the examples is not."""
    if any(not isinstance(state, Shared) for state in states[1:]):
        raise Mixed("where it begins depends on examples")
    rows = one_rows(states[:1])
    if eqn.params["slice_sizes"][rows.axis] != eqn.invars[0].aval.shape[rows.axis]:
        raise Mixed("it takes some of the examples")
    return [rows]


@rule("dynamic_update_slice")
def dynamic_update_slice(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Parts along other axes than that of the examples are replaced, at a shared place."""
    if any(not isinstance(state, Shared) for state in states[2:]):
        raise Mixed("where it begins depends on examples")
    found = [state for state in states[:2] if not isinstance(state, Shared)]
    rows = one_rows(found[:1])
    whole = all(v.aval.shape[rows.axis] == eqn.outvars[0].aval.shape[rows.axis] for v in eqn.invars[:2])
    if not whole or not all(state == rows or same_along(state, rows.axis, rows) for state in states[:2]):
        raise Mixed("it replaces some of the examples, or by what differs along their axis")
    return [rows]


@rule("random_wrap")
def random_wrap(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Words along the last axis become keys."""
    rows = one_rows(states)
    if rows.axis >= eqn.outvars[0].aval.ndim:
        raise Mixed("words of one key belong to several examples")
    return [rows]


@rule("random_unwrap", "random_bits", "random_split")
def random_words(eqn: JaxprEqn, states: list[State], batch: int) -> list[State]:
    """Each key gives words of its own, in axes behind those of the keys."""
    return [one_rows(states)]
