"""Norms of per-example gradients, without forming any: kernels on NumPy arrays, one function per layer type.

A linear map used at T positions has the gradient A_i^T G_i for example i: A_i holds its inputs, G_i the gradients with
respect to its outputs. `||A_i^T G_i||_F` is computed from T x T Gram matrices or from register tiles of the product,
whichever takes fewer operations, after Goodfellow (2015), arXiv:1510.01799, and Bu et al. (2022), arXiv:2205.10683;
the Gram form is left for the product where its terms cancel.

Every function takes float32 or float64 C-contiguous arrays as they are (no cast, no copy), sums squares in float64 and
returns float64 arrays, exact up to rounding: the results are certified in no sense of privacy, they are numbers that
accounting uses. The same bits come out for every thread count. NaN and infinity in an example reach its norm and no
other one. ``threads=None`` uses every core.

Arrays of CuPy, PyTorch or JAX on a CUDA device are worked on there, in the order of their library's current stream and
without waiting for it; results are that library's arrays. Linear layers take bfloat16 there too. Values are not looked
at on the way: an example whose tokens or labels are out of range gets NaN. The same bits come out on every device. A
softmax probe of float32 arrays without ``alpha`` sums in float32 there, within (C / 32 + 17) 2^-24 of its norm; tensor
cores cut sums of bfloat16 products off, by at most 1.4e-4 of the sum of their magnitudes.
"""

from __future__ import annotations

import math
from typing import Any

from expunge import _conv_geometry, _validate
from expunge._backend import DevicePlace, on_device, place
from expunge._gradient_arrays import (
    by_position,
    dimensions,
    floating,
    itemsize,
    matching,
    padding_token,
    thread_count,
    token_indices,
)
from expunge._probe_arrays import probe_on_device, probe_targets
from expunge._validate import unmasked

__all__ = [
    "conv_grad_norms",
    "embedding_grad_norms",
    "embedding_linear_grad_dots",
    "linear_grad_dots",
    "linear_grad_norms",
    "norm_layer_grad_norms",
    "probe_grad_norms",
]

Float64 = Any  # NDArray of float64, or an array of the caller's library on its device

_NORM_KINDS = ("layer", "rms", "group")
_LOSSES = ("softmax", "logistic", "squared")


def linear_grad_norms(
    activations: Any,
    output_grads: Any,
    *,
    bias: bool = True,
    squared: bool = False,
    per_parameter: bool = False,
    threads: int | None = None,
) -> Float64:
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
        Return the norms of weight and bias apart, in the rows of an array of shape (2, B).
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
    With one position the norm is ||a_i|| ||g_i|| (and ||g_i|| more in square for the bias). With T positions, T x T
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
    sizes = {"examples": a.shape[0], "positions": a.shape[1], "d_in": a.shape[2], "d_out": g.shape[2]}
    out = where.empty((2, a.shape[0]) if per_parameter else (a.shape[0],), "float64")
    where.run(
        "linear_grad_norms",
        a,
        g,
        bool(bias),
        bool(squared),
        out,
        threads=thread_count(threads),
        workspace={**sizes, "bias": bool(bias), "itemsize": itemsize(a)},
    )
    return out


def linear_grad_dots(
    activations_1: Any,
    output_grads_1: Any,
    activations_2: Any,
    output_grads_2: Any,
    *,
    threads: int | None = None,
) -> Float64:
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
    sizes = {"examples": a1.shape[0], "positions_1": a1.shape[1], "positions_2": a2.shape[1]}
    out = where.empty((a1.shape[0],), "float64")
    where.run(
        "linear_grad_dots",
        a1,
        g1,
        a2,
        g2,
        out,
        threads=thread_count(threads),
        workspace={**sizes, "d_in": a1.shape[2], "d_out": g1.shape[2], "itemsize": itemsize(a1)},
    )
    return out


def embedding_grad_norms(
    indices: Any,
    output_grads: Any,
    *,
    padding_idx: int | None = None,
    squared: bool = False,
    threads: int | None = None,
) -> Float64:
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
    out = where.empty((flat.shape[0],), "float64")
    grads = g.reshape(*flat.shape, g.shape[-1])
    where.run(
        "embedding_grad_norms",
        flat,
        grads,
        padding_token(padding_idx),
        bool(squared),
        out,
        threads=thread_count(threads),
        workspace={
            "examples": flat.shape[0],
            "n_tokens": flat.shape[1],
            "width": grads.shape[2],
            "itemsize": itemsize(grads),
        },
    )
    return out


def embedding_linear_grad_dots(
    indices: Any,
    embedding_grads: Any,
    row_factors: Any,
    column_factors: Any,
    *,
    padding_idx: int | None = None,
    threads: int | None = None,
) -> Float64:
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
    out = where.empty((flat.shape[0],), "float64")
    grads, r, c = e.reshape(*flat.shape, e.shape[-1]), by_position(r), by_position(c)
    where.run(
        "embedding_linear_grad_dots",
        flat,
        grads,
        r,
        c,
        padding_token(padding_idx),
        out,
        threads=thread_count(threads),
        workspace={
            "examples": flat.shape[0],
            "n_tokens": flat.shape[1],
            "positions": r.shape[1],
            "rows": r.shape[2],
            "width": grads.shape[2],
            "itemsize": itemsize(grads),
        },
    )
    return out


def conv_grad_norms(
    activations: Any,
    output_grads: Any,
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
) -> Float64:
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
        Return the norms of weight and bias apart, in the rows of an array of shape (2, B).
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
    geometry = _conv_geometry.conv_geometry(
        tuple(x.shape[2:]), x.shape[1], kernel_size, stride, padding, padding_mode, dilation, groups
    )
    if g.ndim != x.ndim or g.shape[0] != x.shape[0] or tuple(g.shape[2:]) != geometry.output_shape:
        needed = f"({x.shape[0]}, C_out, {', '.join(map(str, geometry.output_shape))})"
        raise ValueError(f"output_grads must have shape {needed}, got {tuple(g.shape)}")
    if g.shape[1] % groups:
        raise ValueError(f"output_grads must have a multiple of groups = {groups} channels, got {g.shape[1]}")
    out = where.empty((2, x.shape[0]) if per_parameter else (x.shape[0],), "float64")
    pad_maps, position_offsets, feature_offsets = _conv_geometry.offsets_at(geometry, where)
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
        threads=thread_count(threads),
        workspace={
            "examples": x.shape[0],
            "channels": x.shape[1],
            "out_channels": g.shape[1],
            "groups": groups,
            "padded_entries": int(math.prod(geometry.padded)),
            "positions": geometry.position_offsets.size,
            "features": geometry.feature_offsets.size,
            "bias": bool(bias),
            "itemsize": itemsize(x),
        },
    )
    return out


def norm_layer_grad_norms(
    activations: Any,
    output_grads: Any,
    *,
    kind: str = "layer",
    normalized_ndim: int = 1,
    num_groups: int | None = None,
    eps: float = 1e-5,
    normalized: bool = False,
    weight: bool = True,
    bias: bool | None = None,
    squared: bool = False,
    per_parameter: bool = False,
    threads: int | None = None,
) -> Float64:
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
        Return the norms of weight and bias apart, in the rows of an array of shape (2, B).
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
    out = where.empty((2, x.shape[0]) if per_parameter else (x.shape[0],), "float64")
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
        threads=thread_count(threads),
        workspace={
            "examples": x.shape[0],
            "positions": last if kind == "group" else middle,
            "width": middle if kind == "group" else last,
            "kind": _NORM_KINDS.index(kind),
            "n_groups": n_groups,
            "normalized": bool(normalized),
            "weight": bool(weight),
            "itemsize": itemsize(x),
        },
    )
    return out


def probe_grad_norms(
    X: Any,
    weights: Any,
    y: Any,
    *,
    loss: str = "softmax",
    alpha: float = 0,
    checkpoint_weights: Any | None = None,
    squared: bool = False,
    threads: int | None = None,
) -> Float64:
    """Return the gradient norm of a linear model for every record, at one or many checkpoints, in one pass over ``X``.

    Parameters
    ----------
    X : array of shape (n, d)
        Records; append a column of ones for an intercept.
    weights : array of shape (N, d, C) or (d, C)
        A stack of checkpoints, or one, of the dtype of ``X``.
    y : array
        Class numbers (n,) for softmax, 0 or 1 (n,) for logistic (C = 1), real targets (n, C) - or (n,) if C = 1 - of
        the dtype of ``X`` for squared.
    loss : {"softmax", "logistic", "squared"}
        Cross-entropy, logistic loss, or half the squared error.
    alpha : float
        Adds ``alpha * weights`` to the gradient of each record. Privacy losses need 0.
    checkpoint_weights : array of shape (N,), optional
        Return the sum over checkpoints of these times the squared norms, and store nothing of size n x N.
    squared : bool
        Return squared norms; implied by ``checkpoint_weights``.
    threads : int, optional
        Threads to use; all cores by default.

    Returns
    -------
    ndarray, float64
        Shape (n, N) for a stack, (n,) for one checkpoint or with ``checkpoint_weights``.

    Raises
    ------
    TypeError
        If a dtype is not float32 or float64, dtypes differ, or labels are not integers.
    ValueError
        If shapes do not match, a label is out of range, ``alpha`` is negative or a name is unknown.

    Notes
    -----
    Without ``alpha`` the gradient is x r^T, r the residual, and its norm ||x|| ||r||. For softmax 1 - p_y is summed
    from the other classes, so a record of probability 1 - 1e-30 keeps all digits of its norm. Logits that are not
    finite give NaN for softmax and logistic.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.array([[3.0, 4.0]]), np.array([1])
    >>> probe_grad_norms(X, np.zeros((2, 2)), y, squared=True)
    array([12.5])
    """
    where = place(X=X, weights=weights, y=y)
    x = floating("X", X)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"X must have shape (n, d) with d >= 1, got {tuple(x.shape)}")
    w = floating("weights", weights, like=("X", x))
    if w.ndim not in (2, 3) or w.shape[-2] != x.shape[1] or w.shape[-1] == 0:
        raise ValueError(
            f"weights must have shape (N, {x.shape[1]}, C) or ({x.shape[1]}, C) to suit X, got {tuple(w.shape)}"
        )
    stack = w if w.ndim == 3 else w[None]
    _validate.choice("loss", loss, _LOSSES)
    targets = probe_targets(y, loss, x, stack.shape[2])
    decay = _validate.number("alpha", alpha, low=0.0)
    factors = None
    if checkpoint_weights is not None:
        factors = _validate.real_array("checkpoint_weights", checkpoint_weights, ndim=1)
        if factors.shape[0] != stack.shape[0]:
            raise ValueError(f"checkpoint_weights must have length {stack.shape[0]}, got {factors.shape[0]}")
    n = x.shape[0]
    out = where.empty((n,) if factors is not None else (n, stack.shape[0]), "float64")
    settings: list[Any] = [_LOSSES.index(loss), decay, factors, bool(squared)]
    if isinstance(where, DevicePlace):
        probe_on_device(where, x, stack, targets, settings, out)
    else:
        where.run("probe_grad_norms", x, stack, targets, *settings, out, threads=thread_count(threads))
    return out[:, 0] if factors is None and w.ndim == 2 else out
