"""Calls of the gradient-norm kernels on tensors: without a copy, on their device or the threads that torch keeps."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge import grad_norms
from expunge._kernels.backend import HOST, exchange_thread_team
from expunge.grad_norms.arrays import by_position

__all__ = [
    "Squares",
    "as_tensor",
    "column_squares",
    "conv_squares",
    "embedding_linear_dots",
    "embedding_squares",
    "is_plain",
    "linear_squares",
    "norm_layer_squares",
    "recurrent_grads",
    "recurrent_states",
    "root_of_sum",
    "squares_of_layers",
]


_PLAIN = (torch.float32, torch.float64)
_linear_grad_norms = HOST.kernel("linear_grad_norms")
_norm_layer_grad_norms = HOST.kernel("norm_layer_grad_norms")
_NORM_KINDS = ("layer", "rms", "group")  # as the kernel numbers them
_CELLS = ("lstm", "gru", "tanh", "relu")  # likewise


Squares: TypeAlias = Tensor | NDArray[np.float64]  # of one parameter, for every example


def is_plain(tensor: Tensor) -> bool:
    """Whether kernels take the tensor's memory as it is, on the CPU."""
    return tensor.is_cpu and tensor.dtype in _PLAIN and tensor.is_contiguous() and not tensor.is_neg()


def as_array(tensor: Tensor, *, half: bool = False) -> Any:
    """Return the tensor's memory as an array, or on a device the tensor itself.

    Half precisions become float32, the only copy of a contiguous tensor; ``half`` leaves bfloat16 on a device.
    """
    if is_plain(tensor):
        return (tensor.detach() if tensor.requires_grad else tensor).numpy()
    here = tensor.is_cpu
    if tensor.dtype == torch.float16 or (tensor.dtype == torch.bfloat16 and (here or not half)):
        tensor = tensor.float()
    tensor = tensor.detach().contiguous().resolve_neg()
    return tensor.numpy() if here else tensor


def root_of_sum(squares: Sequence[Squares]) -> Tensor:
    """Return the root of the sum of the parameters' squares, where the first lies if that is a device."""
    arrays = [one for one in squares if isinstance(one, np.ndarray)]
    if len(arrays) == len(squares):
        return torch.from_numpy(np.sqrt(np.add.reduce(arrays)))
    tensors = [one for one in squares if isinstance(one, Tensor)]
    if arrays:
        tensors.insert(0 if squares[0] is arrays[0] else 1, torch.from_numpy(np.add.reduce(arrays)))
    if not all(one.is_cpu for one in tensors):
        tensors = [one.to(tensors[0].device) for one in tensors]
    return torch.stack(tensors).sum(0).sqrt()


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
    before = exchange_thread_team(_team_address() if count == all_threads else 0)
    try:
        return kernel(*arrays, threads=count, **settings)
    finally:
        exchange_thread_team(before)


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
        _run(_linear_grad_norms, by_position(a), by_position(g), bias, True, squares, threads=threads)
        return torch.from_numpy(squares[0]), torch.from_numpy(squares[1])
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


def squares_of_layers(layers: Sequence[tuple[Tensor, Tensor]], *, threads: int | None) -> NDArray[np.float64]:
    """Return squared norms (2 L, B) for weight and bias of L linear layers, one after the other.

    Their inputs and gradients of outputs are plain (`is_plain`).
    """
    squares = np.empty((2 * len(layers), len(layers[0][0])))
    count = torch.get_num_threads() if threads is None else threads
    for place, pair in enumerate(layers):
        a, g = (by_position(x.numpy()) for x in pair)
        _linear_grad_norms(a, g, True, True, squares[2 * place : 2 * place + 2], threads=count)
    return squares


def norm_layer_squares(
    inputs: Tensor, output_grads: Tensor, *, bias: bool, threads: int | None, **settings: Any
) -> tuple[Tensor, Tensor]:
    """Return squared norms for weight and bias; settings as `expunge.grad_norms.norm_layer_grad_norms` takes them."""
    x, g = as_array(inputs), as_array(output_grads)
    if isinstance(x, np.ndarray) and settings["kind"] != "group":  # as in linear_squares
        squares, split = np.empty((2, x.shape[0])), x.ndim - settings["normalized_ndim"]
        shape = (x.shape[0], math.prod(x.shape[1:split]), math.prod(x.shape[split:]))
        kind, eps = _NORM_KINDS.index(settings["kind"]), settings["eps"]
        arrays = x.reshape(shape), g.reshape(shape)
        _run(_norm_layer_grad_norms, *arrays, kind, 1, eps, False, True, bias, True, squares, threads=threads)
        return torch.from_numpy(squares[0]), torch.from_numpy(squares[1])
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


def recurrent_states(
    gates: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    states: Sequence[Tensor],
    *,
    cell: str,
    backwards: bool,
    threads: int | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run a recurrent layer over sequences on the CPU: ``gates`` (B, T, g) come as the input's part, leave as gates.

    Returns the states that steps began with (B, T, h), those they ended with (T, B, h), and what else backward needs
    (B, T, h): an LSTM's cells, a GRU's state's part of its third gate.
    """
    batch, steps, _ = gates.shape
    before = gates.new_empty(batch, steps, weight.shape[1])
    outputs = gates.new_empty(steps, batch, weight.shape[1])
    kept = torch.empty_like(before) if cell in ("lstm", "gru") else None
    arrays = (gates, weight, bias, states[0], states[1] if cell == "lstm" else None, before, outputs, kept)
    _run_recurrent("recurrent_states", arrays, cell=cell, backwards=backwards, threads=threads)
    return before, outputs, kept


def recurrent_grads(
    output_grads: Tensor,
    gates: Tensor,
    weight: Tensor,
    before: Tensor,
    kept: Tensor | None,
    states: Sequence[Tensor],
    last: Sequence[Tensor],
    *,
    cell: str,
    backwards: bool,
    threads: int | None,
) -> tuple[Tensor, Tensor]:
    """Return gradients of the two parts of all gates (B, T, g), one tensor where they agree.

    ``last``, gradients of the last states beside those in ``output_grads`` (B, T, h), become those of the first.
    """
    of_input = torch.empty_like(gates)
    of_state = torch.empty_like(gates) if cell == "gru" else None
    cells, cell_grads = (states[1], last[1]) if cell == "lstm" else (None, None)
    states_read = before if cell == "gru" else None
    arrays = (output_grads, gates, weight, states_read, cells, kept, of_input, of_state, last[0], cell_grads)
    _run_recurrent("recurrent_grads", arrays, cell=cell, backwards=backwards, threads=threads)
    return of_input, of_input if of_state is None else of_state


def _run_recurrent(
    kernel: str, tensors: Sequence[Tensor | None], *, cell: str, backwards: bool, threads: int | None
) -> None:
    """Run a kernel that writes into some of the tensors, which are contiguous."""
    arrays = [None if t is None else t.detach().numpy() for t in tensors]
    _run(HOST.kernel(kernel), *arrays, cell=_CELLS.index(cell), backwards=backwards, threads=threads)
