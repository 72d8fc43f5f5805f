"""Norms of the per-example gradients of convolutions."""

from __future__ import annotations

from typing import overload

from expunge._kernels import conv_geometry
from expunge._kernels.backend import place
from expunge._types import DeviceArray, DeviceT, Float64, HostFloats
from expunge.grad_norms.arrays import (
    floating,
)
from expunge.grad_norms.jax_arrays import results_in_jax

__all__ = ["conv_grad_norms"]


@overload
def conv_grad_norms(
    activations: HostFloats,
    output_grads: HostFloats,
    *,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] = ...,
    padding: int | tuple[int, ...] | str = ...,
    padding_mode: str = ...,
    dilation: int | tuple[int, ...] = ...,
    groups: int = ...,
    bias: bool = ...,
    squared: bool = ...,
    per_parameter: bool = ...,
    threads: int | None = ...,
) -> Float64: ...


@overload
def conv_grad_norms(
    activations: DeviceT,
    output_grads: DeviceT,
    *,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] = ...,
    padding: int | tuple[int, ...] | str = ...,
    padding_mode: str = ...,
    dilation: int | tuple[int, ...] = ...,
    groups: int = ...,
    bias: bool = ...,
    squared: bool = ...,
    per_parameter: bool = ...,
    threads: int | None = ...,
) -> Float64 | DeviceT: ...


@results_in_jax
def conv_grad_norms(
    activations: HostFloats | DeviceArray,
    output_grads: HostFloats | DeviceArray,
    *,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    padding_mode: str = "zeros",
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    bias: bool = True,
    squared: bool = False,
    per_parameter: bool = False,
    threads: int | None = None,
) -> Float64 | DeviceArray:
    """Return the gradient norm of a convolution's parameters for every example, in one to three dimensions.

    The arguments are those of ``torch.nn.Conv1d``, ``Conv2d`` and ``Conv3d``. The matrix of patches is never formed:
    each of its columns is a view into the (padded) image.

    Parameters
    ----------
    activations : array of shape (B, C_in, L), (B, C_in, H, W) or (B, C_in, D, H, W)
        Inputs of the layer.
    output_grads : array of shape (B, C_out, ...)
        Gradients of the summed loss with respect to the layer's outputs.
    kernel_size, stride, padding, dilation : int or tuple of int
        One value for all axes or one per axis; ``padding`` may be ``"valid"`` or ``"same"`` (stride 1).
    padding_mode : {"zeros", "circular", "reflect", "replicate"}
        What the padding holds.
    groups : int
        Groups of channels that do not see one another.
    bias : bool
        Whether the layer has a bias, whose gradient then counts.
    squared : bool
        Return squared norms.
    per_parameter : bool
        Return the norms of weight and bias separately, in the rows of an array of shape (2, B).
    threads : int, optional
        Threads to use; all cores by default.

    Returns
    -------
    ndarray of shape (B,), float64

    Raises
    ------
    TypeError
        If a dtype is not float32 or float64, or the two differ.
    ValueError
        If the geometry does not give the shape of ``output_grads``, or an array is not C-contiguous.

    Examples
    --------
    >>> import numpy as np
    >>> x, g = np.array([[[1.0, 2.0, 3.0]]]), np.array([[[1.0, 1.0]]])
    >>> conv_grad_norms(x, g, kernel_size=2, bias=False, squared=True)
    array([34.])
    """
    where = place(activations=activations, output_grads=output_grads)
    x = floating("activations", activations)
    g = floating("output_grads", output_grads, like=("activations", x))
    if x.ndim not in (3, 4, 5):
        raise ValueError(
            f"activations must have shape (B, C_in, L), (B, C_in, H, W) or (B, C_in, D, H, W), got {tuple(x.shape)}"
        )
    geometry = conv_geometry.conv_geometry(
        tuple(x.shape[2:]), x.shape[1], kernel_size, stride, padding, padding_mode, dilation, groups
    )
    if g.ndim != x.ndim or g.shape[0] != x.shape[0] or tuple(g.shape[2:]) != geometry.output_shape:
        needed = f"({x.shape[0]}, C_out, {', '.join(map(str, geometry.output_shape))})"
        raise ValueError(f"output_grads must have shape {needed}, got {tuple(g.shape)}")
    if g.shape[1] % groups:
        raise ValueError(f"output_grads must have a multiple of groups = {groups} channels, got {g.shape[1]}")
    out: DeviceArray = where.empty((2, x.shape[0]) if per_parameter else (x.shape[0],), "float64")
    pad_maps, position_offsets, feature_offsets = conv_geometry.offsets_at(geometry, where)
    where.run(
        "conv_grad_norms",
        x.reshape(*x.shape[:2], *geometry.source),
        g.reshape(*g.shape[:2], geometry.position_offsets.size),
        groups,
        geometry.padded,
        pad_maps,
        position_offsets,
        feature_offsets,
        bool(bias),
        bool(squared),
        out,
        threads=threads,
    )
    return out
