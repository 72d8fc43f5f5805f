"""The norm kernels as operators: ``torch.ops.expunge.*``, which ``torch.compile`` and ``torch.export`` keep whole.

Importing this module registers them. Each takes what the function of the same name in `expunge.grad_norms` takes, as
tensors on the CPU or a CUDA device, in any layout; float16 and bfloat16 are computed in float32, but for bfloat16 in
linear layers on a device. Results are float64 on the device of the input and carry no privacy guarantee. There is no
derivative: backward through a norm raises. The names of this module are the same operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from expunge import grad_norms
from expunge.torch._kernels import _run, as_array, as_tensor

__all__ = [
    "conv_grad_norms",
    "embedding_grad_norms",
    "embedding_linear_grad_dots",
    "linear_grad_dots",
    "linear_grad_norms",
    "norm_layer_grad_norms",
    "probe_grad_norms",
]

__test__: dict[str, str] = {}  # examples, where doctest finds them: operators are not functions

_THREADS = "int? threads=None"
_RESULT = "bool squared=False, bool per_parameter=False, " + _THREADS


def _one_an_example(first: Tensor, *_: Tensor, per_parameter: bool = False, **settings: Any) -> Tensor:
    """Return a tensor like the result of most operators: one number an example, or two."""
    del settings
    examples = first.shape[0]
    return first.new_empty((2, examples) if per_parameter else (examples,), dtype=torch.float64)


def _operator(
    arguments: str, *, fake: Callable[..., Tensor] = _one_an_example
) -> Callable[[Callable[..., Tensor]], Any]:
    """Register a function under its name in ``torch.ops.expunge``; ``fake`` makes a tensor like its result."""

    def register(function: Callable[..., Tensor]) -> Any:
        name = f"expunge::{function.__name__}"
        operator = custom_op(name, function, mutates_args=(), schema=f"({arguments}) -> Tensor")
        operator.register_fake(fake)
        operator.__doc__ = function.__doc__
        __test__[function.__name__] = function.__doc__ or ""
        return operator

    return register


@_operator("Tensor activations, Tensor output_grads, *, bool bias=True, " + _RESULT)
def linear_grad_norms(
    activations: Tensor,
    output_grads: Tensor,
    *,
    bias: bool = True,
    squared: bool = False,
    per_parameter: bool = False,
    threads: int | None = None,
) -> Tensor:
    """Return the gradient norms of a linear layer: (B, ..., d_in) and (B, ..., d_out) give (B,).

    Examples
    --------
    >>> import torch
    >>> a, g = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0, 2.0]])
    >>> torch.ops.expunge.linear_grad_norms(a, g, bias=False, squared=True)
    tensor([125.], dtype=torch.float64)
    """
    a, g = as_array(activations, half=True), as_array(output_grads, half=True)
    settings = {"bias": bias, "squared": squared, "per_parameter": per_parameter}
    return as_tensor(_run(grad_norms.linear_grad_norms, a, g, threads=threads, **settings))


@_operator(f"Tensor activations_1, Tensor output_grads_1, Tensor activations_2, Tensor output_grads_2, *, {_THREADS}")
def linear_grad_dots(
    activations_1: Tensor,
    output_grads_1: Tensor,
    activations_2: Tensor,
    output_grads_2: Tensor,
    *,
    threads: int | None = None,
) -> Tensor:
    """Return the inner products of the gradients of two uses of one weight, (B,).

    Examples
    --------
    >>> import torch
    >>> a, g = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0, 2.0]])
    >>> torch.ops.expunge.linear_grad_dots(a, g, a, -g)
    tensor([-125.], dtype=torch.float64)
    """
    arrays = map(as_array, (activations_1, output_grads_1, activations_2, output_grads_2))
    return as_tensor(_run(grad_norms.linear_grad_dots, *arrays, threads=threads))


@_operator(
    "Tensor activations, Tensor output_grads, *, int[] kernel_size, int[] stride=[1], int[] padding=[0], "
    'str padding_mode="zeros", int[] dilation=[1], int groups=1, bool bias=True, ' + _RESULT
)
def conv_grad_norms(
    activations: Tensor,
    output_grads: Tensor,
    *,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    padding_mode: str = "zeros",
    dilation: Sequence[int] = (1,),
    groups: int = 1,
    bias: bool = True,
    squared: bool = False,
    per_parameter: bool = False,
    threads: int | None = None,
) -> Tensor:
    """Return the gradient norms of a convolution along one to three axes: (B, C_in, ...) and (B, C_out, ...) give (B,).

    Settings of length 1 are those of all axes. ``padding="same"`` of a layer is given as numbers.

    Examples
    --------
    >>> import torch
    >>> x, g = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[1.0, 1.0]]])
    >>> torch.ops.expunge.conv_grad_norms(x, g, kernel_size=[2], bias=False, squared=True)
    tensor([34.], dtype=torch.float64)
    """
    geometry = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
    found = _run(
        grad_norms.conv_grad_norms,
        as_array(activations),
        as_array(output_grads),
        padding_mode=padding_mode,
        groups=groups,
        bias=bias,
        squared=squared,
        per_parameter=per_parameter,
        threads=threads,
        **{name: value[0] if len(value) == 1 else tuple(value) for name, value in geometry.items()},
    )
    return as_tensor(found)


@_operator(f"Tensor indices, Tensor output_grads, *, int? padding_idx=None, bool squared=False, {_THREADS}")
def embedding_grad_norms(
    indices: Tensor,
    output_grads: Tensor,
    *,
    padding_idx: int | None = None,
    squared: bool = False,
    threads: int | None = None,
) -> Tensor:
    """Return the gradient norms of an embedding table: (B, ...) and (B, ..., d) give (B,).

    Examples
    --------
    >>> import torch
    >>> g = torch.tensor([[[1.0], [2.0], [3.0]]])
    >>> torch.ops.expunge.embedding_grad_norms(torch.tensor([[5, 2, 5]]), g, squared=True)
    tensor([20.], dtype=torch.float64)
    """
    settings = {"padding_idx": padding_idx, "squared": squared}
    return as_tensor(
        _run(grad_norms.embedding_grad_norms, as_array(indices), as_array(output_grads), threads=threads, **settings)
    )


@_operator(
    "Tensor indices, Tensor embedding_grads, Tensor row_factors, Tensor column_factors, *, int? padding_idx=None, "
    + _THREADS
)
def embedding_linear_grad_dots(
    indices: Tensor,
    embedding_grads: Tensor,
    row_factors: Tensor,
    column_factors: Tensor,
    *,
    padding_idx: int | None = None,
    threads: int | None = None,
) -> Tensor:
    """Return the inner products of the two gradients of a table used as embedding and in a linear map, (B,).

    Examples
    --------
    >>> import torch
    >>> logits_grad, h = torch.tensor([[[0.5, 0.0, -0.5]]]), torch.tensor([[[2.0, 1.0]]])
    >>> g = torch.tensor([[[1.0, 1.0]]])
    >>> torch.ops.expunge.embedding_linear_grad_dots(torch.tensor([[2]]), g, logits_grad, h)
    tensor([-1.5000], dtype=torch.float64)
    """
    arrays = map(as_array, (indices, embedding_grads, row_factors, column_factors))
    found = _run(grad_norms.embedding_linear_grad_dots, *arrays, padding_idx=padding_idx, threads=threads)
    return as_tensor(found)


@_operator(
    'Tensor activations, Tensor output_grads, *, str kind="layer", int normalized_ndim=1, int? num_groups=None, '
    "float eps=1e-5, bool normalized=False, bool weight=True, bool? bias=None, " + _RESULT
)
def norm_layer_grad_norms(
    activations: Tensor,
    output_grads: Tensor,
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
) -> Tensor:
    """Return the gradient norms of a normalising layer's weight and bias, (B,).

    Examples
    --------
    >>> import torch
    >>> x_hat, g = torch.tensor([[1.0, -1.0]]), torch.tensor([[2.0, 1.0]])
    >>> torch.ops.expunge.norm_layer_grad_norms(x_hat, g, normalized=True, squared=True)
    tensor([10.], dtype=torch.float64)
    """
    found = _run(
        grad_norms.norm_layer_grad_norms,
        as_array(activations),
        as_array(output_grads),
        kind=kind,
        normalized_ndim=normalized_ndim,
        num_groups=num_groups,
        eps=eps,
        normalized=normalized,
        weight=weight,
        bias=bias,
        squared=squared,
        per_parameter=per_parameter,
        threads=threads,
    )
    return as_tensor(found)


def _of_checkpoints(
    X: Tensor, weights: Tensor, y: Tensor, checkpoint_weights: Tensor | None = None, **settings: Any
) -> Tensor:
    if checkpoint_weights is not None or weights.ndim == 2:
        return _one_an_example(X)
    return X.new_empty((X.shape[0], weights.shape[0]), dtype=torch.float64)


@_operator(
    'Tensor X, Tensor weights, Tensor y, Tensor? checkpoint_weights=None, *, str loss="softmax", float alpha=0.0, '
    f"bool squared=False, {_THREADS}",
    fake=_of_checkpoints,
)
def probe_grad_norms(
    X: Tensor,
    weights: Tensor,
    y: Tensor,
    checkpoint_weights: Tensor | None = None,
    *,
    loss: str = "softmax",
    alpha: float = 0.0,
    squared: bool = False,
    threads: int | None = None,
) -> Tensor:
    """Return the gradient norms of a linear model: (n, d) records, (N, d, C) or (d, C) weights, (n,) labels.

    The result has shape (n, N) for a stack of checkpoints, (n,) for one or with ``checkpoint_weights``, (N,).

    Examples
    --------
    >>> import torch
    >>> X, y = torch.tensor([[3.0, 4.0]]), torch.tensor([1])
    >>> torch.ops.expunge.probe_grad_norms(X, torch.zeros(2, 2), y, squared=True)
    tensor([12.5000], dtype=torch.float64)
    """
    factors = None if checkpoint_weights is None else checkpoint_weights.detach().cpu().double().numpy()
    found = _run(
        grad_norms.probe_grad_norms,
        *map(as_array, (X, weights, y)),
        loss=loss,
        alpha=alpha,
        checkpoint_weights=factors,
        squared=squared,
        threads=threads,
    )
    return as_tensor(found).contiguous()
