"""The only door to the compiled kernels: picks the module for an array and allocates outputs.

NumPy arrays and whatever NumPy reads go to ``_core``; arrays on a CUDA device, recognised by DLPack, to ``_cuda``, on
the stream their library works on now. Results are arrays of the caller's library on the caller's device.
"""

from __future__ import annotations

import importlib
import importlib.util
import weakref
from contextlib import AbstractContextManager
from functools import lru_cache
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from expunge import _core
from expunge._array_libraries import Library, library_of
from expunge._errors import DeviceError

__all__ = [
    "FLUSHING",
    "IEEE_MODE",
    "Place",
    "core",
    "default_threads",
    "exchange_float_mode",
    "isa",
    "on_device",
    "one_blas_thread",
    "place",
]

core = _core

# The calling thread's floating-point mode: sets it and returns what it was; the standard one; the bits that flush.
exchange_float_mode = _core._exchange_float_mode
IEEE_MODE = _core._IEEE_MODE
FLUSHING = _core._FLUSHING

# DLPack's numbers for kinds of devices. Extensions are what the emulator's arrays call theirs.
_CPU_KINDS = (1, 3)
_CUDA_KINDS = (2, 13)
_EMULATED_KIND = 12


def isa() -> str:
    """Return the instruction-set level the kernels run at: ``"base"``, ``"v3"`` or ``"v4"``."""
    return _core.isa()


def default_threads() -> int:
    """Return the number of threads a call uses when it is given ``threads=None``."""
    return _core.default_threads()


@lru_cache(maxsize=1)
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()  # looking for the libraries takes a millisecond; using the controller does not


def one_blas_thread() -> AbstractContextManager[Any]:
    """Return a context in which BLAS runs on one thread: for our parallel regions, and for equal bits everywhere."""
    context: AbstractContextManager[Any] = _blas().limit(limits=1, user_api="blas")
    return context


class Place(Protocol):
    """Where the kernels of a call run: memory there, and the compiled module."""

    on_host: bool

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return a new array of the caller's library, C-contiguous, with undefined contents."""

    def asarray(self, host: Any) -> Any:
        """Return a host array here; on the host, itself."""

    def run(
        self,
        kernel: str,
        *arguments: Any,
        threads: int | None = None,
        workspace: dict[str, int] | None = None,
        workspace_dtype: str = "float64",
        **settings: Any,
    ) -> None:
        """Run a kernel on arrays that lie here. A device takes no threads, and gets the scratch it asks for."""


class _Host:
    """The CPU: NumPy arrays, ``_core``."""

    on_host = True

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return np.empty(shape, dtype=dtype)

    def asarray(self, host: Any) -> Any:
        return host

    def run(
        self,
        kernel: str,
        *arguments: Any,
        threads: int | None = None,
        workspace: dict[str, int] | None = None,
        workspace_dtype: str = "float64",
        **settings: Any,
    ) -> None:
        del workspace, workspace_dtype
        getattr(_core, kernel)(*arguments, **settings, threads=threads or 0)


class DevicePlace:
    """A device: arrays of one library there, ``_cuda``, and the library's current stream."""

    on_host = False

    def __init__(self, module: ModuleType, library: Library, number: int = 0) -> None:
        self._module = module
        self._number = number
        self.library = library
        self._writable: list[weakref.ref[Any]] = []

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        with self.library.current():
            return self.written_here(self.library.empty(shape, dtype))

    def asarray(self, host: Any) -> Any:
        with self.library.current():
            return self.library.asarray(host)

    def written_here(self, array: Any) -> Any:
        """Return an array that nobody else has, after noting that kernels of this call may write into it."""
        self._writable = [*(known for known in self._writable if known() is not None), weakref.ref(array)]
        return array

    def _exchanged(self, value: Any) -> Any:
        if not hasattr(value, "__dlpack__") or isinstance(value, np.ndarray):
            return value
        return self.library.exchanged(value, written=any(value is known() for known in self._writable))

    def run(
        self,
        kernel: str,
        *arguments: Any,
        threads: int | None = None,
        workspace: dict[str, int] | None = None,
        workspace_dtype: str = "float64",
        **settings: Any,
    ) -> None:
        del threads
        with self.library.current():
            if workspace is not None:
                elements = getattr(self._module, f"{kernel}_workspace")(**workspace)
                settings["workspace"] = self.empty((elements,), workspace_dtype)
            if self.library.waits:
                for array in (*arguments, *settings.values()):
                    if hasattr(array, "block_until_ready"):
                        array.block_until_ready()
            stream = self.library.stream()
            given = [self._exchanged(value) for value in arguments]
            named = {name: self._exchanged(value) for name, value in settings.items()}
            getattr(self._module, kernel)(*given, **named, stream=stream)
            if self.library.waits:
                self._module.synchronize(stream=stream, device=self._number)


_HOST = _Host()


def _kind(value: Any) -> tuple[int, int]:
    """Return DLPack's kind and number of the device a value is on; what NumPy reads is on the CPU."""
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack_device__"):
        return (1, 0)
    kind, number = value.__dlpack_device__()
    return (1, 0) if int(kind) in _CPU_KINDS else (int(kind), int(number))


def on_device(*values: Any) -> bool:
    """Return whether any of the values is an array on a device."""
    return any(_kind(value)[0] != 1 for value in values)


def _device_module(kind: int) -> ModuleType:
    name = "_cuda" if kind in _CUDA_KINDS else "_cuda_emul" if kind == _EMULATED_KIND else None
    if name is None:
        raise DeviceError(f"arrays must be on the CPU or on a CUDA device, got DLPack device type {kind}")
    if importlib.util.find_spec(f"expunge.{name}") is None:
        raise DeviceError(
            f"this build of expunge has no {name}: for arrays on a device install it where a CUDA toolkit is found, "
            "with -C cmake.define.EXPUNGE_CUDA=ON"
        )
    return importlib.import_module(f"expunge.{name}")


def place(**arrays: Any) -> _Host | DevicePlace:
    """Return where the kernels of a call run whose arrays have these names.

    Numbers and None may accompany arrays anywhere; arrays must all be on one device and of one library.
    """
    first: str | None = None
    for name, value in arrays.items():
        if _kind(value)[0] != 1:
            first = name
            break
    if first is None:
        return _HOST
    kind = _kind(arrays[first])
    for name, value in arrays.items():
        if value is None or isinstance(value, (bool, int, float, np.number)):
            continue
        if _kind(value) != kind or type(value) is not type(arrays[first]):
            where = f"DLPack device {_kind(value)}" if _kind(value)[0] != 1 else "the CPU"
            raise DeviceError(
                f"{name} must be an array of the same library on the same device as {first}, "
                f"{type(arrays[first])} on DLPack device {kind}; got {type(value)} on {where}"
            )
    return DevicePlace(_device_module(kind[0]), library_of(arrays[first]), kind[1])
