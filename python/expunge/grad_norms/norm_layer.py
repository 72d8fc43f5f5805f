"""Norms of the per-example gradients of normalisation layers."""

from __future__ import annotations

import math
from typing import overload

from expunge import _validate
from expunge._kernels.backend import place
from expunge._types import DeviceArray, DeviceT, Float64, HostFloats
from expunge.grad_norms.arrays import (
    dimensions,
    floating,
)
from expunge.grad_norms.jax_arrays import results_in_jax

__all__ = ["norm_layer_grad_norms"]

_NORM_KINDS = ("layer", "rms", "group")


@overload
def norm_layer_grad_norms(
    activations: HostFloats,
    output_grads: HostFloats,
    *,
    kind: str = ...,
    normalized_ndim: int = ...,
    num_groups: int | None = ...,
    eps: float = ...,
    normalized: bool = ...,
    weight: bool = ...,
    bias: bool | None = ...,
    squared: bool = ...,
    per_parameter: bool = ...,
    threads: int | None = ...,
) -> Float64: ...


@overload
def norm_layer_grad_norms(
    activations: DeviceT,
    output_grads: DeviceT,
    *,
    kind: str = ...,
    normalized_ndim: int = ...,
    num_groups: int | None = ...,
    eps: float = ...,
    normalized: bool = ...,
    weight: bool = ...,
    bias: bool | None = ...,
    squared: bool = ...,
    per_parameter: bool = ...,
    threads: int | None = ...,
) -> Float64 | DeviceT: ...


@results_in_jax
def norm_layer_grad_norms(
    activations: HostFloats | DeviceArray,
    output_grads: HostFloats | DeviceArray,
    *,
    kind: str = "layer",
    normalized_ndim: int = 1,
    num_groups: int | None = None,
    eps: float = 1e-05,
    normalized: bool = False,
    weight: bool = True,
    bias: bool | None = None,
    squared: bool = False,
    per_parameter: bool = False,
    threads: int | None = None,
) -> Float64 | DeviceArray:
    """Return the gradient norm of a normalising layer's affine parameters for every example.

    Parameters
    ----------
    activations : array of shape (B, ..., normalized axes) or, for ``kind="group"``, (B, C, ...)
        Inputs of the layer or, with ``normalized=True``, the values that its weight multiplies.
    output_grads : array of the same shape and dtype
        Gradients of the summed loss with respect to the layer's outputs.
    kind : {"layer", "rms", "group"}
        LayerNorm, RMSNorm or GroupNorm (InstanceNorm is GroupNorm with one channel a group).
    normalized_ndim : int
        Number of trailing axes that are normalised together and have parameters (layer, rms).
    num_groups : int, optional
        Groups of channels, needed for ``kind="group"`` unless ``normalized``.
    eps : float
        Added to the variance (layer, group) or the mean square (rms).
    normalized : bool
        Take ``activations`` as normalised already.
    weight, bias : bool
        Which parameters count; ``bias`` defaults to False for ``"rms"`` and True for the others.
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
        If shapes differ, ``num_groups`` does not divide the channels, ``eps`` is negative or a name is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> x_hat, g = np.array([[1.0, -1.0]]), np.array([[2.0, 1.0]])
    >>> norm_layer_grad_norms(x_hat, g, normalized=True, squared=True)
    array([10.])
    """
    where = place(activations=activations, output_grads=output_grads)
    x = floating("activations", activations)
    g = floating("output_grads", output_grads, like=("activations", x))
    _validate.choice("kind", kind, _NORM_KINDS)
    dimensions("activations", x, 2, "(B, C, ...)" if kind == "group" else "(B, ..., normalized_shape)")
    if tuple(g.shape) != tuple(x.shape):
        raise ValueError(f"output_grads must have shape {tuple(x.shape)} like activations, got {tuple(g.shape)}")
    eps = _validate.number("eps", eps, low=0.0)
    n_groups = 1
    if kind == "group":
        if num_groups is None:
            if not normalized:
                raise ValueError("num_groups must be given for kind='group', got None")
        else:
            n_groups = _validate.count("num_groups", num_groups, low=1)
        if x.shape[1] % n_groups:
            raise ValueError(f"num_groups must divide the {x.shape[1]} channels of activations, got {n_groups}")
        split = 2
    else:
        axes = _validate.count("normalized_ndim", normalized_ndim, low=1)
        if axes > x.ndim - 1:
            raise ValueError(
                f"normalized_ndim must be at most {x.ndim - 1} for activations of shape {tuple(x.shape)}, got {axes}"
            )
        split = x.ndim - axes
    middle = math.prod(x.shape[1:split])
    last = math.prod(x.shape[split:])
    out: DeviceArray = where.empty((2, x.shape[0]) if per_parameter else (x.shape[0],), "float64")
    where.run(
        "norm_layer_grad_norms",
        x.reshape(x.shape[0], middle, last),
        g.reshape(x.shape[0], middle, last),
        _NORM_KINDS.index(kind),
        n_groups,
        eps,
        bool(normalized),
        bool(weight),
        kind != "rms" if bias is None else bool(bias),
        bool(squared),
        out,
        threads=threads,
    )
    return out
