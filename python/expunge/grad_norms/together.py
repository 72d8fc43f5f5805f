"""Norms of the summed gradients of examples that belong together, from the kernels of single examples.

Positions of a layer share its weights, so that the examples of a group, laid end to end, are one example whose gradient
is the sum of theirs. Images are laid end to end with their padding, and where a window would see two of them the
gradient is zero.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge._kernels.backend import on_device
from expunge._kernels.conv_geometry import padded_images
from expunge._types import AnyArray
from expunge._validate import unmasked
from expunge.data.grouping import Grouping
from expunge.grad_norms.arrays import by_position, dimensions, matching, token_indices
from expunge.grad_norms.conv import conv_grad_norms
from expunge.grad_norms.embedding import embedding_grad_norms
from expunge.grad_norms.linear import linear_grad_norms
from expunge.grad_norms.norm_layer import norm_layer_grad_norms

__all__ = ["GroupNorms", "group_grad_norms"]

Settings = dict[str, Any]
_Joined = Callable[[NDArray[np.int64]], tuple[Any, Any]]


class GroupNorms(NamedTuple):
    """Norms of the summed gradients of groups, float64 up to rounding; they carry no privacy guarantee.

    Attributes
    ----------
    ids : ndarray of shape (G,)
        The groups, sorted.
    norms : ndarray of shape (G,), float64
        Of each group, or (2, G) with ``per_parameter``.
    """

    ids: AnyArray
    norms: NDArray[np.float64]


def group_grad_norms(
    activations: AnyArray, output_grads: AnyArray, *, layer: str, example_groups: ArrayLike, **settings: object
) -> GroupNorms:
    """Return the norm of the summed gradients of each group of examples, cross terms included.

    Parameters
    ----------
    activations, output_grads : ndarray
        As for the function of the layer: arrays of NumPy of B examples; ``activations`` of an embedding are indices.
    layer : {"linear", "embedding", "norm_layer", "conv"}
        Which: that of `linear_grad_norms`, `embedding_grad_norms`, `norm_layer_grad_norms` or `conv_grad_norms`.
    example_groups : array-like of shape (B,)
        Each example's group: whole numbers of any size or text, converted into nothing else.
    **settings
        Further arguments of that function: ``squared``, ``per_parameter``, the geometry of a convolution and so on.

    Returns
    -------
    GroupNorms
        Groups, and their norms to that function's accuracy; of a group of one, the bits of its example, but for
        convolutions and GroupNorm. A batch without examples has no groups.

    Raises
    ------
    TypeError
        For arrays on a device or of another library, groups that are neither whole numbers nor text, or arguments that
        the function of the layer does not take.
    ValueError
        For another layer, if there is not one group for each example, or an array is not as the layer needs it.

    Notes
    -----
    ``||sum_i A_i^T G_i|| = ||A^T G||`` with the rows of all A_i and all G_i one below the other. Groups of one size are
    gathered together, so that no more is copied than the batch once; images with their padding, and with as many more
    rows as a window reaches. `expunge.accounting.group_privacy_loss` makes privacy losses of such norms, and
    `expunge.torch.GradNorms` has them for PyTorch models by its ``groups``.

    Examples
    --------
    >>> import numpy as np
    >>> a, g = np.array([[3.0, 4.0], [1.0, 0.0], [3.0, 4.0]]), np.array([[1.0], [2.0], [-1.0]])
    >>> group_grad_norms(a, g, layer="linear", example_groups=["C7", "C1", "C7"], bias=False)
    GroupNorms(ids=array(['C1', 'C7'], dtype='<U2'), norms=array([2., 0.]))
    """
    kernel, layout = _LAYERS[_validate.choice("layer", layer, tuple(_LAYERS))]
    given: Settings = dict(settings)
    for name, value in (("activations", activations), ("output_grads", output_grads)):
        if on_device(value) or not isinstance(value, np.ndarray):
            raise TypeError(f"{name} must be an array of NumPy, got {type(value).__name__}")
    _require_taken(kernel, layer, given)
    x, g = unmasked("activations", activations), unmasked("output_grads", output_grads)
    for name, array in (("activations", x), ("output_grads", g)):
        dimensions(name, array, 1, "(B, ...)")
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} must be C-contiguous: pass numpy.ascontiguousarray({name})")
    if layer == "embedding":
        token_indices("activations", x[:0])  # by the name that it has here
    kernel(x[:0], g[:0], **given)  # refuses what it would refuse
    matching("output_grads", g.shape[:1], x.shape[:1], "activations")
    joined, own = layout(x, g, given)
    found = Grouping(example_groups, name="example_groups")
    found.look_at(len(activations))
    rows = (2,) if given.get("per_parameter") else ()
    norms = np.zeros((*rows, len(found)))
    for members, places in found.sizes:
        norms[..., places] = kernel(*joined(members), **{**given, **own})
    return GroupNorms(found.ids, norms)


def _require_taken(kernel: Callable[..., Any], layer: str, settings: Settings) -> None:
    """Refuse settings that the function of the layer does not have."""
    taken = list(inspect.signature(kernel).parameters)[2:]
    for name in settings:
        if name not in taken:
            raise TypeError(f"{name} is not a setting of layer={layer!r}, which has {', '.join(taken)}")


def _laid_out(first: AnyArray, second: AnyArray) -> _Joined:
    """Lay (B, T, ...) of the members of each group end to end: (g, k T, ...)."""

    def joined(members: NDArray[np.int64]) -> tuple[AnyArray, AnyArray]:
        g, k = members.shape
        a, b = (array[members].reshape(g, k * array.shape[1], *array.shape[2:]) for array in (first, second))
        return a, b

    return joined


def _linear(activations: AnyArray, output_grads: AnyArray, settings: Settings) -> tuple[_Joined, Settings]:
    return _laid_out(by_position(activations), by_position(output_grads)), {}


def _embedding(indices: AnyArray, output_grads: AnyArray, settings: Settings) -> tuple[_Joined, Settings]:
    tokens = token_indices("activations", indices)
    return _laid_out(tokens, output_grads.reshape(*tokens.shape, output_grads.shape[-1])), {}


def _norm_layer(activations: AnyArray, output_grads: AnyArray, settings: Settings) -> tuple[_Joined, Settings]:
    x, g = activations, output_grads
    if settings.get("kind", "layer") != "group":
        axes = settings.get("normalized_ndim", 1)
        tail = x.shape[x.ndim - axes :]
        return _laid_out(*(a.reshape(len(a), math.prod(a.shape[1 : a.ndim - axes]), *tail) for a in (x, g))), {}
    if not settings.get("normalized", False):
        x, g = _normalised(x, settings["num_groups"], settings.get("eps", 1e-5)), g.astype(np.float64)
    by_channel = (a.reshape(*a.shape[:2], math.prod(a.shape[2:])) for a in (x, g))
    x, g = (np.ascontiguousarray(a.transpose(0, 2, 1)) for a in by_channel)
    own = {"kind": "layer", "normalized": True, "num_groups": None, "bias": settings.get("bias")}
    return _laid_out(x, g), own


def _normalised(x: AnyArray, num_groups: int, eps: float) -> NDArray[np.float64]:
    """Return what the weight of a GroupNorm multiplies, in float64: statistics are those of single examples."""
    parts = x.astype(np.float64).reshape(len(x), num_groups, math.prod(x.shape[1:]) // num_groups)
    if parts.shape[2]:
        parts -= parts.mean(axis=2, keepdims=True)
        parts /= np.sqrt(np.square(parts).mean(axis=2, keepdims=True) + eps)
    return parts.reshape(x.shape)


def _convolution(activations: AnyArray, output_grads: AnyArray, settings: Settings) -> tuple[_Joined, Settings]:
    names, g = ("kernel_size", "stride", "padding", "padding_mode", "dilation"), output_grads
    x, step, reach = padded_images(activations, **{name: settings[name] for name in names if name in settings})
    high = step * -(-x.shape[2] // step)  # rows of an image, so that windows of each begin at its first row
    x = x[:, :, : (g.shape[2] - 1) * step + reach + 1]  # pixels that no window sees must not count

    def joined(members: NDArray[np.int64]) -> tuple[AnyArray, AnyArray]:
        count, k = members.shape
        images = np.zeros((count, x.shape[1], k * high + reach, *x.shape[3:]), dtype=x.dtype)
        grads = np.zeros((count, g.shape[1], k * high // step, *g.shape[3:]), dtype=g.dtype)
        for i in range(k):
            images[:, :, i * high : i * high + x.shape[2]] = x[members[:, i]]
            grads[:, :, i * high // step : i * high // step + g.shape[2]] = g[members[:, i]]
        return images, grads

    return joined, {"padding": 0, "padding_mode": "zeros"}


_LAYERS: dict[str, tuple[Callable[..., Any], Callable[[AnyArray, AnyArray, Settings], tuple[_Joined, Settings]]]] = {
    "linear": (linear_grad_norms, _linear),
    "embedding": (embedding_grad_norms, _embedding),
    "norm_layer": (norm_layer_grad_norms, _norm_layer),
    "conv": (conv_grad_norms, _convolution),
}
