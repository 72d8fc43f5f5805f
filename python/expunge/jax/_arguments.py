"""Arguments of a loss function, as flat arrays with the axis that counts examples, or named and refused."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from expunge.jax._program import is_floating

__all__ = ["Arguments", "arguments_of"]


class Arguments(NamedTuple):
    """Parameters and a batch, flat: the structures, the arrays, and the axis of examples of each array of the batch."""

    parameters: list[Any]
    parameter_tree: Any
    batch: list[Any]
    batch_tree: Any
    axes: list[int | None]
    size: int

    def called(self, function: Any, parameters: Sequence[Any], batch: Sequence[Any]) -> Any:
        """Call a function with arrays in the structures of the arguments."""
        first = jax.tree.unflatten(self.parameter_tree, parameters)
        return function(first, *jax.tree.unflatten(self.batch_tree, batch))

    @property
    def followed(self) -> list[int]:
        """The places of parameters that have gradients."""
        return [k for k, array in enumerate(self.parameters) if is_floating(array)]

    def example(self, number: int, *, keep: bool) -> list[Any]:
        """Return the batch of one example, or the example itself."""
        return [
            array if axis is None else jax.lax.dynamic_index_in_dim(array, number, axis, keepdims=keep)
            for array, axis in zip(self.batch, self.axes, strict=True)
        ]


def _array(name: str, value: Any) -> Any:
    try:
        array = value if hasattr(value, "dtype") and hasattr(value, "shape") else jnp.asarray(value)
        jax.typeof(array)
    except TypeError as error:
        raise TypeError(
            f"{name} must be an array, got {type(value).__name__}: keep what is no array out of the arguments "
            "(eqx.partition, nnx.split, or a function that holds it)"
        ) from error
    return array


def arguments_of(parameters: Any, batch: tuple[Any, ...], in_axes: Any) -> Arguments:
    """Return flat arguments.

    Raises
    ------
    TypeError
        If something is no array, or a parameter is complex.
    ValueError
        If ``in_axes`` does not fit the batch, or its arrays do not have one number of examples.
    """
    paths, tree = jax.tree_util.tree_flatten_with_path(parameters)
    arrays = []
    for path, value in paths:
        name = f"params{jax.tree_util.keystr(path)}"
        array = _array(name, value)
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise TypeError(f"{name} must be real, got dtype {array.dtype}")
        arrays.append(array)
    if not any(is_floating(array) for array in arrays):
        raise ValueError("params must hold at least one array of floating point numbers, got none")
    if not batch:
        raise ValueError("a batch must be given behind params: at least one array with an axis of examples")
    found, batch_tree = jax.tree_util.tree_flatten_with_path(batch)
    axes = _axes(in_axes, batch)
    rows: list[Any] = []
    sizes: dict[str, int] = {}
    places: list[int | None] = []
    for (path, value), axis in zip(found, axes, strict=True):
        name = f"batch{jax.tree_util.keystr(path)}"
        array = _array(name, value)
        rows.append(array)
        if axis is None:
            places.append(None)
            continue
        if not -array.ndim <= axis < array.ndim:
            raise ValueError(
                f"{name} has shape {tuple(array.shape)} and no axis {axis} of examples: give in_axes, with None for "
                "what all examples share"
            )
        places.append(axis % array.ndim)
        sizes[name] = array.shape[axis]
    if not sizes:
        raise ValueError("in_axes must name an axis of examples of at least one array, got None for all")
    if len(set(sizes.values())) != 1:
        told = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise ValueError(f"all arrays of the batch must have the same number of examples: {told}")
    size = next(iter(sizes.values()))
    if not size:
        raise ValueError("the batch must have at least one example, got none")
    return Arguments(arrays, tree, rows, batch_tree, places, size)


def _axes(in_axes: Any, batch: tuple[Any, ...]) -> list[int | None]:
    def empty(value: Any) -> bool:
        return value is None

    if isinstance(in_axes, list):
        in_axes = tuple(in_axes)
    if isinstance(in_axes, tuple) and len(in_axes) != len(batch):
        raise ValueError(
            f"in_axes must have one entry for each of the {len(batch)} arguments behind params, got {len(in_axes)}"
        )
    try:
        full = jax.tree.broadcast(in_axes, batch, is_leaf=empty)
    except ValueError as error:
        raise ValueError(
            f"in_axes must be a number, None, or these in the structure of the batch, got {in_axes!r}"
        ) from error
    axes = jax.tree.leaves(full, is_leaf=empty)
    try:
        return [None if axis is None else operator.index(axis) for axis in axes]
    except TypeError as error:
        raise TypeError(f"in_axes must hold integers and None, got {in_axes!r}") from error
