"""Per-example gradients of embeddings: their norms, and dot products with a linear map that shares the weight."""

from __future__ import annotations

from typing import overload

from expunge._kernels.backend import on_device, place
from expunge._types import DeviceArray, DeviceT, Float64, HostArray, HostFloats
from expunge._validate import unmasked
from expunge.grad_norms.arrays import (
    by_position,
    dimensions,
    floating,
    matching,
    padding_token,
    token_indices,
)
from expunge.grad_norms.jax_arrays import results_in_jax

__all__ = ["embedding_grad_norms", "embedding_linear_grad_dots"]


@overload
def embedding_grad_norms(
    indices: HostArray,
    output_grads: HostFloats,
    *,
    padding_idx: int | None = ...,
    squared: bool = ...,
    threads: int | None = ...,
) -> Float64: ...


@overload
def embedding_grad_norms(
    indices: DeviceT,
    output_grads: DeviceT,
    *,
    padding_idx: int | None = ...,
    squared: bool = ...,
    threads: int | None = ...,
) -> Float64 | DeviceT: ...


@results_in_jax
def embedding_grad_norms(
    indices: HostArray | DeviceArray,
    output_grads: HostFloats | DeviceArray,
    *,
    padding_idx: int | None = None,
    squared: bool = False,
    threads: int | None = None,
) -> Float64 | DeviceArray:
    """Return the gradient norm of an embedding table for every example; repeated tokens are summed before squaring.

    Parameters
    ----------
    indices : integer array of shape (B, ...)
        Rows of the table that were looked up.
    output_grads : array of shape (B, ..., d)
        Gradients of the summed loss with respect to the rows looked up.
    padding_idx : int, optional
        Row that takes no gradient, as in ``torch.nn.Embedding``.
    squared : bool
        Return squared norms.
    threads : int, optional
        Threads to use; all cores by default.

    Returns
    -------
    ndarray of shape (B,), float64

    Raises
    ------
    TypeError
        If ``indices`` does not hold integers or ``output_grads`` not float32 or float64.
    ValueError
        If an index is negative, shapes differ, or ``output_grads`` is not C-contiguous.

    Examples
    --------
    >>> import numpy as np
    >>> embedding_grad_norms(np.array([[5, 2, 5]]), np.array([[[1.0], [2.0], [3.0]]]), squared=True)
    array([20.])
    """
    where = place(indices=indices, output_grads=output_grads)
    tokens = indices if on_device(indices) else unmasked("indices", indices)
    flat = token_indices("indices", tokens)
    g = floating("output_grads", output_grads)
    dimensions("output_grads", g, 2, "(B, ..., d)")
    matching("output_grads", g.shape[:-1], tokens.shape, "indices")
    out: DeviceArray = where.empty((flat.shape[0],), "float64")
    grads = g.reshape(*flat.shape, g.shape[-1])
    where.run(
        "embedding_grad_norms",
        flat,
        grads,
        padding_token(padding_idx),
        bool(squared),
        out,
        threads=threads,
    )
    return out


@overload
def embedding_linear_grad_dots(
    indices: HostArray,
    embedding_grads: HostFloats,
    row_factors: HostFloats,
    column_factors: HostFloats,
    *,
    padding_idx: int | None = ...,
    threads: int | None = ...,
) -> Float64: ...


@overload
def embedding_linear_grad_dots(
    indices: DeviceT,
    embedding_grads: DeviceT,
    row_factors: DeviceT,
    column_factors: DeviceT,
    *,
    padding_idx: int | None = ...,
    threads: int | None = ...,
) -> Float64 | DeviceT: ...


@results_in_jax
def embedding_linear_grad_dots(
    indices: HostArray | DeviceArray,
    embedding_grads: HostFloats | DeviceArray,
    row_factors: HostFloats | DeviceArray,
    column_factors: HostFloats | DeviceArray,
    *,
    padding_idx: int | None = None,
    threads: int | None = None,
) -> Float64 | DeviceArray:
    """Return the inner product of the two gradients of a (V, d) table used as embedding and in a linear map.

    The linear use contributes R_i^T C_i: for the head ``F.linear(h, table)``, R holds the gradients with respect to its
    outputs, (B, ..., V), and C its inputs h; for ``x @ table``, R holds x and C the gradients of its outputs.

    Parameters
    ----------
    indices : integer array of shape (B, ...)
        Rows of the table that were looked up.
    embedding_grads : array of shape (B, ..., d)
        Gradients of the summed loss with respect to the rows looked up.
    row_factors, column_factors : arrays of shape (B, ..., V) and (B, ..., d)
        Factors of the linear use.
    padding_idx : int, optional
        Row that takes no gradient from the embedding.
    threads : int, optional
        Threads to use; all cores by default.

    Returns
    -------
    ndarray of shape (B,), float64

    Raises
    ------
    TypeError, ValueError
        As `embedding_grad_norms` does; ValueError too if an index is not below V.

    Examples
    --------
    >>> import numpy as np
    >>> logits_grad, h = np.array([[[0.5, 0.0, -0.5]]]), np.array([[[2.0, 1.0]]])
    >>> embedding_linear_grad_dots(np.array([[2]]), np.array([[[1.0, 1.0]]]), logits_grad, h)
    array([-1.5])
    """
    where = place(
        indices=indices, embedding_grads=embedding_grads, row_factors=row_factors, column_factors=column_factors
    )
    e = floating("embedding_grads", embedding_grads)
    r = floating("row_factors", row_factors, like=("embedding_grads", e))
    c = floating("column_factors", column_factors, like=("embedding_grads", e))
    for name, array in (("embedding_grads", e), ("row_factors", r), ("column_factors", c)):
        dimensions(name, array, 2, "(B, ..., d)")
    tokens = indices if on_device(indices) else unmasked("indices", indices)
    flat = token_indices("indices", tokens, limit=r.shape[-1])
    matching("embedding_grads", e.shape[:-1], tokens.shape, "indices")
    matching("column_factors", c.shape[:-1], r.shape[:-1], "row_factors")
    if r.shape[0] != flat.shape[0]:
        raise ValueError(f"row_factors must have {flat.shape[0]} examples like indices, got {r.shape[0]}")
    if c.shape[-1] != e.shape[-1]:
        raise ValueError(f"column_factors must have width {e.shape[-1]} like embedding_grads, got {c.shape[-1]}")
    out: DeviceArray = where.empty((flat.shape[0],), "float64")
    grads, r, c = e.reshape(*flat.shape, e.shape[-1]), by_position(r), by_position(c)
    where.run(
        "embedding_linear_grad_dots",
        flat,
        grads,
        r,
        c,
        padding_token(padding_idx),
        out,
        threads=threads,
    )
    return out
