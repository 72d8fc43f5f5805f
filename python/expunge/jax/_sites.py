"""Squared norms of per-example gradients in closed form: products, convolutions and looked-up rows.

A site is an equation in which a parameter, or a value made of parameters alone, meets values of the examples. Its
gradient for one example follows from the other operand and from the gradient of the equation's result.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from expunge.jax._program import Step

__all__ = [
    "BUDGET",
    "Dense",
    "Rows",
    "Squares",
    "by_chunks",
    "dense_of_convolution",
    "dense_site",
    "doubtful",
    "rows_site",
    "sum_of_sites",
    "wide",
]

BUDGET = 1 << 24  # numbers that are held at once where gradients of single examples are formed
_DOUBT = 0.02  # of the sum of magnitudes: what is left of sums that cancel further is computed without them
_MOST_OFFSETS = 512  # of the window of a convolution


class Squares(NamedTuple):
    """Squared norms of shape (B,), and sums of the magnitudes of their terms where these may cancel."""

    values: Any
    magnitudes: Any = None


def wide(array: Any) -> Any:
    """Return an array in float32 at least."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _product(pattern: str, left: Any, right: Any) -> Any:
    return jnp.einsum(pattern, left, right, precision=lax.Precision.HIGHEST)


def _sum(array: Any) -> Any:
    return array.sum(tuple(range(1, array.ndim)))


class Dense(NamedTuple):
    """A product of inputs (B, n, m, c) and output gradients (B, n, m, d), summed over m: a gradient of (n, c, d).

    The three keys are the axes of the parameter that n, c and d consist of.
    """

    inputs: Any
    grads: Any
    parts: tuple[int, ...]
    contracted: tuple[int, ...]
    free: tuple[int, ...]

    def turned(self) -> Dense:
        """Return the same gradient with the roles of inputs and output gradients exchanged."""
        return Dense(self.grads, self.inputs, self.parts, self.free, self.contracted)

    def squares(self) -> Squares:
        """Return ||A^T G||^2 by Gram matrices or by the product, whichever takes fewer operations."""
        a, g = wide(self.inputs), wide(self.grads)
        m, c, d = a.shape[2], a.shape[3], g.shape[3]
        if m == 1:
            return Squares(_sum((a * a).sum(3) * (g * g).sum(3)))
        if m * (c + d) < c * d:
            terms = _product("znic,znjc->znij", a, a) * _product("znid,znjd->znij", g, g)
            return Squares(_sum(terms), _sum(jnp.abs(terms)))
        size = max(1, BUDGET // max(1, a.shape[1] * c * d))

        def one(pair: tuple[Any, Any]) -> Any:
            made = _product("nmc,nmd->ncd", *pair)
            return (made * made).sum()

        return Squares(by_chunks(one, (a, g), size))


class Rows(NamedTuple):
    """Rows of a table that examples look up: indices (B, T), gradients (B, T, d), and the axes of the parameter.

    Gradients of rows that are not there are zero.
    """

    indices: Any
    grads: Any
    table: int
    width: tuple[int, ...]

    def squares(self) -> Squares:
        """Return the squared norm of sums of gradients over equal indices."""
        g = wide(self.grads)
        if g.shape[1] == 1:
            return Squares(_sum(g * g))

        def one(pair: tuple[Any, Any]) -> Any:
            indices, grads = pair
            order = jnp.argsort(indices)
            ordered = indices[order]
            group = jnp.cumsum(jnp.concatenate([jnp.zeros(1, bool), ordered[1:] != ordered[:-1]]).astype(jnp.int32))
            sums = jnp.zeros_like(grads).at[group].add(grads[order], indices_are_sorted=True)
            return (sums * sums).sum()

        return Squares(by_chunks(one, (self.indices, g), max(1, BUDGET // max(1, math.prod(g.shape[1:])))))

    def dots(self, dense: Dense) -> tuple[Any, Any]:
        """Return inner products with the gradient of a product over the same table, and of magnitudes."""
        a, g = wide(dense.inputs)[:, 0], wide(dense.grads)[:, 0]  # (B, m, d) and (B, m, table)
        alike = _product("ztd,zmd->ztm", wide(self.grads), a)
        picked = jnp.take_along_axis(g, self.indices[:, None, :], axis=2, mode="clip")
        terms = alike * jnp.swapaxes(picked, 1, 2)
        return _sum(terms), _sum(jnp.abs(terms))


def by_chunks(function: Any, arrays: Any, size: int) -> Any:
    """Return a function of single examples for all of them, ``size`` at a time."""
    batch = jax.tree.leaves(arrays)[0].shape[0]
    if size >= batch:
        return jax.vmap(function)(arrays)
    return lax.map(function, arrays, batch_size=size)


def _ordered(axes: tuple[int, ...], of: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return axes of an operand in the order of the parameter's axes, and these."""
    pairs = sorted((of[axis], axis) for axis in axes)
    return tuple(axis for _, axis in pairs), tuple(root for root, _ in pairs)


def _grouped(array: Any, *groups: tuple[int, ...]) -> Any:
    """Return an array (B, ...) with its other axes in groups, each one axis."""
    moved = array.transpose(0, *(axis + 1 for group in groups for axis in group))
    return moved.reshape(array.shape[0], *(math.prod(array.shape[axis + 1] for axis in group) for group in groups))


def dense_site(step: Step, operand: int, root: tuple[int, ...], other: Any, grad: Any) -> Dense:
    """Return the gradient of an operand of a general product; axis k of it is axis ``root[k]`` of the parameter."""
    (left_c, right_c), (left_b, right_b) = step.params["dimension_numbers"]
    at_left = operand == 0
    own_c, own_b = (left_c, left_b) if at_left else (right_c, right_b)
    other_c, other_b = (right_c, right_b) if at_left else (left_c, left_b)
    own_free = tuple(k for k in range(len(root)) if k not in {*own_c, *own_b})
    other_free = tuple(k for k in range(other.ndim - 1) if k not in {*other_c, *other_b})
    partner = dict(zip((*own_c, *own_b), (*other_c, *other_b), strict=True))
    parts, root_parts = _ordered(tuple(own_b), root)
    contracted, root_contracted = _ordered(tuple(own_c), root)
    free, root_free = _ordered(own_free, root)
    first, second = (own_free, other_free) if at_left else (other_free, own_free)
    n = len(own_b)  # results have the shared axes first, then those of the left, then those of the right operand
    place = {("part", axis): k for k, axis in enumerate(own_b)}
    place |= {("own" if at_left else "other", axis): n + k for k, axis in enumerate(first)}
    place |= {("other" if at_left else "own", axis): n + len(first) + k for k, axis in enumerate(second)}
    inputs = _grouped(other, tuple(partner[k] for k in parts), other_free, tuple(partner[k] for k in contracted))
    grads = _grouped(
        grad,
        tuple(place["part", k] for k in parts),
        tuple(place["other", k] for k in other_free),
        tuple(place["own", k] for k in free),
    )
    return Dense(inputs, grads, root_parts, root_contracted, root_free)


def dense_of_convolution(step: Step, images: Any, grad: Any) -> Dense | None:
    """Return the gradient of a convolution's kernel as that of a product, if its windows are small."""
    params, kernel = step.params, step.eqn.invars[1].aval.shape
    spec = params["dimension_numbers"]
    window = tuple(kernel[k] for k in spec.rhs_spec[2:])
    if params["batch_group_count"] != 1 or not 0 < math.prod(window) <= _MOST_OFFSETS:
        return None
    groups = params["feature_group_count"]
    batch = images.shape[0]
    # (B, images, channels, ...) of the input, and the same of the output
    x = images.transpose(0, *(k + 1 for k in spec.lhs_spec))
    g = grad.transpose(0, *(k + 1 for k in spec.out_spec))
    count, channels, output = x.shape[1], x.shape[2], g.shape[3:]
    filling = [(0, 0, 0)] * 3 + [
        (low, high, dilation - 1)
        for (low, high), dilation in zip(params["padding"], params["lhs_dilation"], strict=True)
    ]
    x = lax.pad(x, jnp.zeros((), x.dtype), filling)
    pieces = []
    for offset in np.ndindex(*window):
        start = [o * d for o, d in zip(offset, params["rhs_dilation"], strict=True)]
        strides = list(params["window_strides"])
        stop = [s + (n - 1) * w + 1 for s, n, w in zip(start, output, strides, strict=True)]
        pieces.append(lax.slice(x, [0, 0, 0, *start], [*x.shape[:3], *stop], [1, 1, 1, *strides]))
    positions = math.prod(output)
    patches = jnp.stack(pieces, 2).reshape(batch, count, len(pieces), groups, channels // groups, positions)
    patches = patches.transpose(0, 3, 1, 5, 2, 4).reshape(batch, groups, count * positions, -1)
    g = g.reshape(batch, count, groups, g.shape[2] // groups, positions)
    g = g.transpose(0, 2, 1, 4, 3).reshape(batch, groups, count * positions, -1)
    return Dense(patches, g, (), (), ())


def rows_site(step: Step, root: tuple[int, ...] | None, indices: Any, grad: Any) -> Rows | None:
    """Return the gradient of a table that a gather looks up rows of, if it does so along one axis."""
    numbers, table = step.params["dimension_numbers"], step.eqn.invars[0].aval.shape
    if len(numbers.start_index_map) != 1 or numbers.operand_batching_dims or indices.shape[-1] != 1:
        return None
    axis = numbers.start_index_map[0]
    whole = tuple(1 if k == axis else size for k, size in enumerate(table))
    if tuple(numbers.collapsed_slice_dims) != (axis,) or tuple(step.params["slice_sizes"]) != whole:
        return None
    offsets = tuple(numbers.offset_dims)
    batches = tuple(k for k in range(grad.ndim - 1) if k not in offsets)
    width = tuple(k for k in range(len(table)) if k != axis)
    roots = tuple(root[k] for k in width) if root is not None else ()
    order = sorted(range(len(width)), key=lambda k: roots[k]) if roots else list(range(len(width)))
    grads = _grouped(grad, batches, tuple(offsets[k] for k in order))
    rows = indices.reshape(indices.shape[0], -1)
    mode = lax.GatherScatterMode.from_any(step.params["mode"])
    if mode == lax.GatherScatterMode.CLIP:
        rows = jnp.clip(rows, 0, table[axis] - 1)
    elif mode != lax.GatherScatterMode.PROMISE_IN_BOUNDS:
        grads = jnp.where(((rows >= 0) & (rows < table[axis]))[..., None], grads, 0)
    return Rows(rows, grads, root[axis] if root is not None else 0, tuple(sorted(roots)))


def sum_of_sites(sites: list[Dense | Rows]) -> Squares | None:
    """Return the squared norm of the sum of several gradients of one parameter, or None where no short way is known."""
    tables = [site for site in sites if isinstance(site, Rows)]
    dense = [site for site in sites if isinstance(site, Dense)]
    joined = _joined_dense(dense)
    if dense and joined is None:
        return None
    if not tables:
        return joined.squares() if joined is not None else None
    first = tables[0]
    if any((one.table, one.width) != (first.table, first.width) for one in tables):
        return None
    rows = first._replace(
        indices=jnp.concatenate([one.indices for one in tables], 1),
        grads=jnp.concatenate([wide(one.grads) for one in tables], 1),
    )
    if joined is None:
        return rows.squares()
    if joined.parts or {joined.contracted, joined.free} != {(first.table,), first.width}:
        return None
    if joined.contracted == (first.table,):
        joined = joined.turned()
    looked, multiplied = rows.squares(), joined.squares()
    dots, magnitudes = rows.dots(joined)
    others = multiplied.values if multiplied.magnitudes is None else multiplied.magnitudes
    return Squares(
        looked.values + 2 * dots + multiplied.values,
        looked.values + 2 * magnitudes + others,
    )


def _joined_dense(dense: list[Dense]) -> Dense | None:
    """Return products of one parameter as one, whose positions are those of all."""
    if not dense:
        return None
    first = dense[0]
    same = []
    for one in dense:
        if (one.parts, one.contracted, one.free) != (first.parts, first.contracted, first.free):
            one = one.turned()
        if (one.parts, one.contracted, one.free) != (first.parts, first.contracted, first.free):
            return None
        same.append(one)
    if len(same) == 1:
        return first
    return first._replace(
        inputs=jnp.concatenate([wide(one.inputs) for one in same], 2),
        grads=jnp.concatenate([wide(one.grads) for one in same], 2),
    )


def doubtful(squares: Squares) -> Any:
    """Return whether terms cancel in any example so far that too few digits are left, or are not finite."""
    return ~jnp.all(squares.values >= _DOUBT * squares.magnitudes)
