"""Where tensors reach the gradient-norm kernels: without a copy, on their device or on the threads that torch keeps."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge import grad_norms
from expunge._backend import core

__all__ = [
    "column_squares",
    "conv_squares",
    "embedding_linear_dots",
    "embedding_squares",
    "linear_squares",
    "norm_layer_squares",
]


_PLAIN = (torch.float32, torch.float64)
_NORM_KINDS = ("layer", "rms", "group")  # as the kernel numbers them


def as_array(tensor: Tensor, *, half: bool = False) -> Any:
    """Return the tensor's memory as an array, or on a device the tensor itself.

    Half precisions become float32, the only copy of a contiguous tensor; ``half`` leaves bfloat16 on a device.
    """
    here = tensor.is_cpu
    if here and tensor.dtype in _PLAIN and tensor.is_contiguous():
        return (tensor.detach() if tensor.requires_grad else tensor).numpy()
    if tensor.dtype == torch.float16 or (tensor.dtype == torch.bfloat16 and (here or not half)):
        tensor = tensor.float()
    tensor = tensor.detach().contiguous()
    return tensor.numpy() if here else tensor


def as_tensor(found: Any) -> Tensor:
    """Return a kernel's result as a tensor where it lies."""
    if isinstance(found, Tensor):
        return found
    return torch.from_numpy(found) if found.size else torch.empty(found.shape, dtype=torch.float64)  # with strides


@lru_cache(maxsize=1)
def _team_address() -> int:
    """Return the address by which torch's own OpenMP library starts its threads, 0 if it has none."""
    libraries = sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))
    with suppress(AttributeError, OSError, IndexError):
        return ctypes.cast(ctypes.CDLL(str(libraries[0])).GOMP_parallel, ctypes.c_void_p).value or 0
    return 0


def _run(kernel: Callable[..., Any], *arrays: Any, threads: int | None, **settings: Any) -> Any:
    """Run a kernel on as many threads as torch uses by default; then they are torch's own."""
    all_threads = torch.get_num_threads()
    count = all_threads if threads is None else threads
    before = core.exchange_thread_team(_team_address() if count == all_threads else 0)
    try:
        return kernel(*arrays, threads=count, **settings)
    finally:
        core.exchange_thread_team(before)


def _both(found: Any) -> tuple[Tensor, Tensor]:
    """Return the two rows of a kernel's result: weight and bias."""
    return as_tensor(found[0]), as_tensor(found[1])


def linear_squares(
    activations: Tensor, output_grads: Tensor, *, bias: bool, threads: int | None
) -> tuple[Tensor, Tensor]:
    """Return squared norms for weight and bias, inputs (B, ..., d_in), gradients of outputs (B, ..., d_out)."""
    a, g = as_array(activations, half=True), as_array(output_grads, half=True)
    if isinstance(a, np.ndarray):  # the kernel checks what it is given; the public function costs more
        squares = np.empty((2, a.shape[0]))
        if a.ndim != 3:
            a, g = (x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]) for x in (a, g))
        _run(core.linear_grad_norms, a, g, bias, True, squares, threads=threads)
        return torch.from_numpy(squares).unbind()  # type: ignore[return-value]
    found = _run(grad_norms.linear_grad_norms, a, g, bias=bias, squared=True, per_parameter=True, threads=threads)
    return _both(found)


def conv_squares(
    images: Tensor, output_grads: Tensor, *, bias: bool, threads: int | None, **settings: Any
) -> tuple[Tensor, Tensor]:
    """Return squared norms for kernel and bias; settings as `expunge.grad_norms.conv_grad_norms` takes them."""
    found = _run(
        grad_norms.conv_grad_norms,
        as_array(images),
        as_array(output_grads),
        bias=bias,
        squared=True,
        per_parameter=True,
        threads=threads,
        **settings,
    )
    return _both(found)


def norm_layer_squares(
    inputs: Tensor, output_grads: Tensor, *, bias: bool, threads: int | None, **settings: Any
) -> tuple[Tensor, Tensor]:
    """Return squared norms for weight and bias; settings as `expunge.grad_norms.norm_layer_grad_norms` takes them."""
    x, g = as_array(inputs), as_array(output_grads)
    if isinstance(x, np.ndarray) and settings["kind"] != "group":  # as in linear_squares
        squares, split = np.empty((2, x.shape[0])), x.ndim - settings["normalized_ndim"]
        shape = (x.shape[0], math.prod(x.shape[1:split]), math.prod(x.shape[split:]))
        kind, eps = _NORM_KINDS.index(settings["kind"]), settings["eps"]
        kernel = core.norm_layer_grad_norms
        _run(
            kernel, x.reshape(shape), g.reshape(shape), kind, 1, eps, False, True, bias, True, squares, threads=threads
        )
        return torch.from_numpy(squares).unbind()  # type: ignore[return-value]
    found = _run(
        grad_norms.norm_layer_grad_norms,
        x,
        g,
        bias=bias,
        squared=True,
        per_parameter=True,
        threads=threads,
        **settings,
    )
    return _both(found)


def column_squares(grads: Tensor, *, channels: bool, threads: int | None) -> Tensor:
    """Return squared norms of gradients summed over all axes but the examples' and the last, or axis 1."""
    array = as_array(grads)
    kind = {"kind": "group", "num_groups": 1} if channels else {"kind": "layer"}
    found = _run(
        grad_norms.norm_layer_grad_norms,
        array,
        array,
        normalized=True,
        weight=False,
        bias=True,
        squared=True,
        threads=threads,
        **kind,
    )
    return as_tensor(found)


def embedding_squares(indices: Tensor, grads: Tensor, *, padding_idx: int | None, threads: int | None) -> Tensor:
    """Return squared norms for a table, indices (B, T), gradients of the rows (B, T, d)."""
    found = _run(
        grad_norms.embedding_grad_norms,
        as_array(indices),
        as_array(grads),
        padding_idx=padding_idx,
        squared=True,
        threads=threads,
    )
    return as_tensor(found)


def embedding_linear_dots(
    indices: Tensor, grads: Tensor, rows: Tensor, columns: Tensor, *, padding_idx: int | None, threads: int | None
) -> Tensor:
    """Return inner products of the gradients of a table looked up and used in a linear map."""
    found = _run(
        grad_norms.embedding_linear_grad_dots,
        as_array(indices),
        as_array(grads),
        as_array(rows),
        as_array(columns),
        padding_idx=padding_idx,
        threads=threads,
    )
    return as_tensor(found)
