"""Libraries of device arrays: memory, a stream, and a few operations of each. None is imported before it is used.

Results and scratch are allocated by the caller's own library, so they are its arrays, on its device, from its pool.
"""

from __future__ import annotations

import importlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["EXCHANGES", "Exchange", "Library", "library_of"]

Shape = tuple[int, ...]


class Exchange(NamedTuple):
    """How a library's ``__dlpack__`` is asked for memory that kernels use on the library's own stream.

    Nothing has to wait: the stream orders kernels after what made the array, or the array has been waited for.
    """

    stream: int | None  # what says so: -1 by the standard; None where the library takes every number for a handle
    flags_writable: bool  # whether an array that may be written to is not flagged read-only by versioned exchange


# JAX waits on the host for None, and its runtime reads any other number as a pointer to a stream.
EXCHANGES = {
    "torch": Exchange(stream=-1, flags_writable=True),
    "cupy": Exchange(stream=-1, flags_writable=True),
    "jax": Exchange(stream=None, flags_writable=False),
}
_STANDARD = Exchange(stream=-1, flags_writable=True)


class _Exchanged:
    """An array as kernels ask for it: the binding passes -1 or nothing, the library gets what it understands."""

    def __init__(self, array: Any, exchange: Exchange, *, written: bool) -> None:
        self._array = array
        self._exchange = exchange
        self._written = written

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        if options.get("stream") is not None:
            options["stream"] = self._exchange.stream
        if self._written and not self._exchange.flags_writable:
            options.pop("max_version", None)
        return self._array.__dlpack__(**options)


class Library(Protocol):
    """The operations of one array library on the device of one array."""

    name: str
    device: Any
    waits: bool  # whether arrays have to be waited for, because the library names no stream

    def empty(self, shape: Shape, dtype: str) -> Any:
        """Return a new C-contiguous array with undefined contents."""

    def asarray(self, host: NDArray[Any]) -> Any:
        """Return a copy of a host array on the device."""

    def host(self, array: Any) -> NDArray[Any]:
        """Return a copy on the host, which waits for the device."""

    def norms(self, array: Any) -> Any:
        """Return Euclidean norms along the last axis."""

    def dtype(self, array: Any) -> str:
        """Return the name of an array's dtype, as NumPy spells it."""

    def contiguous(self, array: Any, shape: Shape) -> Any:
        """Return the array broadcast to a shape, C-contiguous; the array itself if it already is."""

    def cast(self, array: Any, dtype: str) -> Any:
        """Return the array in another dtype."""

    def where(self, condition: Any, yes: Any, no: Any) -> Any:
        """Return ``yes`` where the condition holds and ``no`` elsewhere."""

    def transposed(self, array: Any, axes: Shape) -> Any:
        """Return the array with its axes in another order."""

    def product(self, left: Any, right: Any) -> Any:
        """Return the matrix product in the arrays' own precision, whatever the library's global settings."""

    def stack(self, arrays: list[Any]) -> Any:
        """Return arrays of one shape along a new first axis."""

    def concatenate(self, arrays: list[Any], axis: int) -> Any:
        """Return arrays joined along an axis."""

    def exchanged(self, array: Any, *, written: bool) -> Any:
        """Return what a kernel is given for the array, to write into it or only to read it."""

    def stream(self) -> int:
        """Return the stream the library puts work on now."""

    def current(self) -> AbstractContextManager[Any]:
        """Return a context in which the library allocates on the device."""


class _NumPyLike:
    """CuPy, and any library with NumPy's names."""

    waits = False

    def __init__(self, namespace: Any, array: Any) -> None:
        self._xp = namespace
        self.device = array.device
        self.name = namespace.__name__

    def empty(self, shape: Shape, dtype: str) -> Any:
        return self._xp.empty(shape, dtype=dtype)

    def asarray(self, host: NDArray[Any]) -> Any:
        return self._xp.asarray(host)

    def host(self, array: Any) -> NDArray[Any]:
        return np.array(self._xp.asnumpy(array))

    def norms(self, array: Any) -> Any:
        return (array * array).sum(-1) ** 0.5

    def dtype(self, array: Any) -> str:
        return str(np.dtype(array.dtype).name) if not str(array.dtype).startswith("bfloat16") else "bfloat16"

    def contiguous(self, array: Any, shape: Shape) -> Any:
        if tuple(array.shape) == shape:  # NumPy's broadcast arrays may not be written to
            return self._xp.ascontiguousarray(array)
        return self._xp.ascontiguousarray(self._xp.broadcast_to(array, shape)).reshape(shape)

    def cast(self, array: Any, dtype: str) -> Any:
        return array.astype(dtype)

    def where(self, condition: Any, yes: Any, no: Any) -> Any:
        return self._xp.where(condition, yes, no)

    def transposed(self, array: Any, axes: Shape) -> Any:
        return array.transpose(axes)

    def product(self, left: Any, right: Any) -> Any:
        return self._xp.matmul(left, right)

    def stack(self, arrays: list[Any]) -> Any:
        return self._xp.stack(arrays)

    def concatenate(self, arrays: list[Any], axis: int) -> Any:
        return self._xp.concatenate(arrays, axis=axis)

    def exchanged(self, array: Any, *, written: bool) -> Any:
        return _Exchanged(array, EXCHANGES.get(self.name, _STANDARD), written=written)

    def stream(self) -> int:
        cuda = getattr(self._xp, "cuda", None)
        return int(cuda.get_current_stream().ptr) if cuda is not None else 0

    def current(self) -> AbstractContextManager[Any]:
        return self.device if hasattr(self.device, "__enter__") else nullcontext()


class _CuPy(_NumPyLike):
    """CuPy."""

    _PLAIN = 1  # cupy's COMPUTE_TYPE_DEFAULT: no conversion of float32 factors, whatever CUPY_TF32 says

    def product(self, left: Any, right: Any) -> Any:
        core: Any = getattr(self._xp, "_core", None)
        if not hasattr(core, "set_compute_type") or not hasattr(core, "get_compute_type"):
            return super().product(left, right)
        before = core.get_compute_type(left.dtype)
        try:
            core.set_compute_type(left.dtype, self._PLAIN)
            return super().product(left, right)
        finally:
            core.set_compute_type(left.dtype, before)


class _Torch:
    """PyTorch."""

    name = "torch"
    waits = False

    def __init__(self, array: Any) -> None:
        self._torch = importlib.import_module("torch")
        self.device = array.device

    def empty(self, shape: Shape, dtype: str) -> Any:
        return self._torch.empty(shape, dtype=getattr(self._torch, dtype), device=self.device)

    def asarray(self, host: NDArray[Any]) -> Any:
        return self._torch.from_numpy(np.array(host)).to(self.device)

    def host(self, array: Any) -> NDArray[Any]:
        return np.array(array.detach().cpu().numpy())

    def norms(self, array: Any) -> Any:
        return (array * array).sum(-1) ** 0.5

    def dtype(self, array: Any) -> str:
        return str(array.dtype).removeprefix("torch.")

    def contiguous(self, array: Any, shape: Shape) -> Any:
        return array.detach().expand(shape).contiguous()

    def cast(self, array: Any, dtype: str) -> Any:
        return array.to(getattr(self._torch, dtype))

    def where(self, condition: Any, yes: Any, no: Any) -> Any:
        return self._torch.where(condition, yes, no)

    def transposed(self, array: Any, axes: Shape) -> Any:
        return array.permute(axes)

    def product(self, left: Any, right: Any) -> Any:
        matmul = self._torch.backends.cuda.matmul
        # Newer releases refuse to read the old name once the new one has been set.
        name, exact = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
        before = getattr(matmul, name)
        try:
            setattr(matmul, name, exact)
            with self._torch.autocast(left.device.type, enabled=False), self._torch.no_grad():
                return left @ right
        finally:
            setattr(matmul, name, before)

    def stack(self, arrays: list[Any]) -> Any:
        return self._torch.stack(arrays)

    def concatenate(self, arrays: list[Any], axis: int) -> Any:
        return self._torch.cat(arrays, dim=axis)

    def exchanged(self, array: Any, *, written: bool) -> Any:
        return _Exchanged(array, EXCHANGES["torch"], written=written)

    def stream(self) -> int:
        return int(self._torch.cuda.current_stream(self.device).cuda_stream)

    def current(self) -> AbstractContextManager[Any]:
        # arrays are exchanged on the current device alone
        if self.device.type != "cuda":
            return nullcontext()
        context: AbstractContextManager[Any] = self._torch.cuda.device(self.device)
        return context


class _Jax:
    """JAX, which names no stream: arrays are waited for before and after a kernel."""

    name = "jax"
    waits = True

    def __init__(self, array: Any) -> None:
        self._jnp = importlib.import_module("jax.numpy")
        self._jax = importlib.import_module("jax")
        self.device = next(iter(array.devices()))

    def _placed(self, array: Any, dtype: str) -> Any:
        if self.dtype(array) != dtype:
            raise TypeError(f"results in {dtype} need jax_enable_x64, which is off")
        return self._jax.device_put(array, self.device).block_until_ready()

    def empty(self, shape: Shape, dtype: str) -> Any:
        return self._placed(self._jnp.zeros(shape, dtype=dtype), dtype)

    def asarray(self, host: NDArray[Any]) -> Any:
        return self._placed(self._jnp.asarray(host), str(host.dtype))

    def host(self, array: Any) -> NDArray[Any]:
        return np.array(array)

    def norms(self, array: Any) -> Any:
        return (array * array).sum(-1) ** 0.5

    def dtype(self, array: Any) -> str:
        return str(array.dtype)

    def contiguous(self, array: Any, shape: Shape) -> Any:
        return self._jnp.broadcast_to(array, shape)

    def cast(self, array: Any, dtype: str) -> Any:
        return array.astype(dtype)

    def where(self, condition: Any, yes: Any, no: Any) -> Any:
        return self._jnp.where(condition, yes, no)

    def transposed(self, array: Any, axes: Shape) -> Any:
        return array.transpose(axes)

    def product(self, left: Any, right: Any) -> Any:
        return self._jnp.matmul(left, right, precision="highest")

    def stack(self, arrays: list[Any]) -> Any:
        return self._jnp.stack(arrays)

    def concatenate(self, arrays: list[Any], axis: int) -> Any:
        return self._jnp.concatenate(arrays, axis=axis)

    def exchanged(self, array: Any, *, written: bool) -> Any:
        return _Exchanged(array, EXCHANGES["jax"], written=written)

    def stream(self) -> int:
        return 0

    def current(self) -> AbstractContextManager[Any]:
        return nullcontext()


def library_of(array: Any) -> Library:
    """Return the library of a device array, on the array's device."""
    root = type(array).__module__.partition(".")[0]
    if root == "torch":
        return _Torch(array)
    if root in ("jax", "jaxlib"):
        return _Jax(array)
    if root == "cupy":
        return _CuPy(importlib.import_module("cupy"), array)
    if hasattr(array, "__array_namespace__"):
        return _NumPyLike(array.__array_namespace__(), array)
    raise TypeError(f"device arrays must be CuPy's, PyTorch's or JAX's, got {type(array)}")
