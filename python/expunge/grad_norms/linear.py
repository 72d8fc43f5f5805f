"""Per-example gradients of linear maps: their norms, and dot products of two maps that share a weight."""

from __future__ import annotations

from typing import overload

from expunge._kernels.backend import place
from expunge._types import DeviceArray, DeviceT, Float64, HostFloats
from expunge.grad_norms.arrays import (
    by_position,
    dimensions,
    floating,
    matching,
)
from expunge.grad_norms.jax_arrays import results_in_jax

__all__ = ["linear_grad_dots", "linear_grad_norms"]


@overload
def linear_grad_norms(
    activations: HostFloats,
    output_grads: HostFloats,
    *,
    bias: bool = ...,
    squared: bool = ...,
    per_parameter: bool = ...,
    threads: int | None = ...,
) -> Float64: ...


@overload
def linear_grad_norms(
    activations: DeviceT,
    output_grads: DeviceT,
    *,
    bias: bool = ...,
    squared: bool = ...,
    per_parameter: bool = ...,
    threads: int | None = ...,
) -> Float64 | DeviceT: ...


@results_in_jax
def linear_grad_norms(
    activations: HostFloats | DeviceArray,
    output_grads: HostFloats | DeviceArray,
    *,
    bias: bool = True,
    squared: bool = False,
    per_parameter: bool = False,
    threads: int | None = None,
) -> Float64 | DeviceArray:
    """Return the gradient norm of a linear layer's parameters for every example.

    Parameters
    ----------
    activations : array of shape (B, ..., d_in)
        Inputs of the layer; axes between the first and the last are positions that share the weights.
    output_grads : array of shape (B, ..., d_out)
        Gradients of the summed loss with respect to the layer's outputs, of the dtype of ``activations``.
    bias : bool
        Whether the layer has a bias, whose gradient then counts.
    squared : bool
        Return squared norms, which add up over layers.
    per_parameter : bool
        Return the norms of weight and bias separately, in the rows of an array of shape (2, B).
    threads : int, optional
        Threads to use; all cores by default.

    Returns
    -------
    ndarray of shape (B,), float64
        Zero for an example without positions.

    Raises
    ------
    TypeError
        If a dtype is not float32 or float64, or the two differ.
    ValueError
        If the leading shapes differ or an array is not C-contiguous.

    Notes
    -----
    With one position the norm is ||a_i|| ||g_i|| (a bias adds ||g_i||^2 to its square). With T positions, T x T
    Gram matrices are used when T (d_in + d_out) < d_in d_out and their terms do not cancel, else the d_in x d_out
    product in register tiles; nothing of the size of a gradient is stored.

    Examples
    --------
    >>> import numpy as np
    >>> a, g = np.array([[3.0, 4.0]]), np.array([[1.0, 0.0, 2.0]])
    >>> linear_grad_norms(a, g, bias=False, squared=True)
    array([125.])
    """
    where = place(activations=activations, output_grads=output_grads)
    a = floating("activations", activations, half=True)
    g = floating("output_grads", output_grads, like=("activations", a), half=True)
    dimensions("activations", a, 2, "(B, ..., d_in)")
    dimensions("output_grads", g, 2, "(B, ..., d_out)")
    matching("output_grads", g.shape[:-1], a.shape[:-1], "activations")
    a, g = by_position(a), by_position(g)
    out: DeviceArray = where.empty((2, a.shape[0]) if per_parameter else (a.shape[0],), "float64")
    where.run(
        "linear_grad_norms",
        a,
        g,
        bool(bias),
        bool(squared),
        out,
        threads=threads,
    )
    return out


@overload
def linear_grad_dots(
    activations_1: HostFloats,
    output_grads_1: HostFloats,
    activations_2: HostFloats,
    output_grads_2: HostFloats,
    *,
    threads: int | None = ...,
) -> Float64: ...


@overload
def linear_grad_dots(
    activations_1: DeviceT,
    output_grads_1: DeviceT,
    activations_2: DeviceT,
    output_grads_2: DeviceT,
    *,
    threads: int | None = ...,
) -> Float64 | DeviceT: ...


@results_in_jax
def linear_grad_dots(
    activations_1: HostFloats | DeviceArray,
    output_grads_1: HostFloats | DeviceArray,
    activations_2: HostFloats | DeviceArray,
    output_grads_2: HostFloats | DeviceArray,
    *,
    threads: int | None = None,
) -> Float64 | DeviceArray:
    """Return the inner product of two weight gradients of one (d_in, d_out) parameter, for every example.

    It is the cross term of a weight used twice: ||D1 + D2||^2 = ||D1||^2 + 2 <D1, D2> + ||D2||^2. For a weight used
    transposed the second time, exchange the roles of that use's activations and output gradients.

    Parameters
    ----------
    activations_1, output_grads_1 : arrays of shape (B, ..., d_in) and (B, ..., d_out)
        One use of the weight.
    activations_2, output_grads_2 : arrays of shape (B, ..., d_in) and (B, ..., d_out)
        The other use; it may have other positions than the first.
    threads : int, optional
        Threads to use; all cores by default.

    Returns
    -------
    ndarray of shape (B,), float64
        ``<A1_i^T G1_i, A2_i^T G2_i>``, without biases.

    Raises
    ------
    TypeError, ValueError
        As `linear_grad_norms` does.

    Examples
    --------
    >>> import numpy as np
    >>> a, g = np.array([[3.0, 4.0]]), np.array([[1.0, 0.0, 2.0]])
    >>> linear_grad_dots(a, g, a, -g)
    array([-125.])
    """
    where = place(
        activations_1=activations_1,
        output_grads_1=output_grads_1,
        activations_2=activations_2,
        output_grads_2=output_grads_2,
    )
    a1 = floating("activations_1", activations_1)
    dimensions("activations_1", a1, 2, "(B, ..., d_in)")
    others = {"output_grads_1": output_grads_1, "activations_2": activations_2, "output_grads_2": output_grads_2}
    arrays = {name: floating(name, value, like=("activations_1", a1)) for name, value in others.items()}
    for name, array in arrays.items():
        dimensions(name, array, 2, "(B, ..., d)")
    g1, a2, g2 = arrays["output_grads_1"], arrays["activations_2"], arrays["output_grads_2"]
    matching("output_grads_1", g1.shape[:-1], a1.shape[:-1], "activations_1")
    matching("output_grads_2", g2.shape[:-1], a2.shape[:-1], "activations_2")
    if a2.shape[0] != a1.shape[0]:
        raise ValueError(f"activations_2 must have {a1.shape[0]} examples like activations_1, got {a2.shape[0]}")
    if a2.shape[-1] != a1.shape[-1]:
        raise ValueError(f"activations_2 must have width {a1.shape[-1]} like activations_1, got {a2.shape[-1]}")
    if g2.shape[-1] != g1.shape[-1]:
        raise ValueError(f"output_grads_2 must have width {g1.shape[-1]} like output_grads_1, got {g2.shape[-1]}")
    a1, g1, a2, g2 = by_position(a1), by_position(g1), by_position(a2), by_position(g2)
    out: DeviceArray = where.empty((a1.shape[0],), "float64")
    where.run(
        "linear_grad_dots",
        a1,
        g1,
        a2,
        g2,
        out,
        threads=threads,
    )
    return out
