"""The only door to the compiled kernels: picks the module for an array and allocates outputs.

NumPy arrays and whatever NumPy reads go to ``_core``; arrays on a CUDA device, recognised by DLPack, to ``_cuda``, on
their library's current stream. Results are arrays of the caller's library on the caller's device.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np

from expunge import _core
from expunge._errors import DeviceError
from expunge._kernels.libraries import Library, library_of
from expunge._validate import count

__all__ = [
    "FLUSHING",
    "HOST",
    "IEEE_MODE",
    "Place",
    "RidgeSetting",
    "core",
    "default_threads",
    "exchange_float_mode",
    "exchange_thread_team",
    "isa",
    "on_device",
    "one_blas_thread",
    "place",
    "residual_depth",
    "thread_count",
]

core = _core  # for tests and benchmarks; the package asks a place to run a kernel

# What the kernels of ridge quotes are told about learning, unlearning and the target.
RidgeSetting = _core.RidgeSetting

# Who starts threads for the kernels: takes the address of a team's function or 0 and returns the one before.
exchange_thread_team = _core.exchange_thread_team

# Most additions that a number of a gradient of n rows, p features and q outputs goes through.
residual_depth = _core.residual_depth

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


def thread_count(threads: int | None) -> int:
    """Return the thread count as kernels take it: at least 1, or 0 (the default of the process) for None."""
    return 0 if threads is None else count("threads", threads, low=1)


@lru_cache(maxsize=1)
def _blas() -> Any:
    import scipy.linalg  # noqa: F401  # a copy of BLAS of its own, which a controller that is older does not know
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()  # looking for the libraries takes a millisecond; using the controller does not


class _OneBlasThread:
    """Limits BLAS to one thread while anybody wants it; whoever leaves last restores what was before."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._before: list[tuple[Any, int]] = []

    def enter(self) -> list[tuple[Any, int]]:
        """Set the limit; return what this thread alone has to restore."""
        libraries = [one for one in _blas().lib_controllers if one.user_api == "blas"]
        # Where OpenMP runs it, each thread has a limit of its own; elsewhere there is one for the process.
        mine = [one for one in libraries if getattr(one, "threading_layer", None) == "openmp"]
        with self._lock:
            if self._users == 0:
                self._before = _limited([one for one in libraries if one not in mine])
            self._users += 1
        return _limited(mine)

    def leave(self, mine: list[tuple[Any, int]]) -> None:
        _restore(mine)
        with self._lock:
            self._users -= 1
            if self._users == 0:
                _restore(self._before)


def _limited(libraries: list[Any]) -> list[tuple[Any, int]]:
    before = [(one, one.get_num_threads()) for one in libraries]
    _restore([(one, 1) for one in libraries])
    return before


def _restore(limits: list[tuple[Any, int]]) -> None:
    for library, count_before in limits:
        # threadpoolctl 3.8 obeys the thread that set a limit first, and silently does nothing for others.
        let_go = getattr(library, "clear_controlling_thread", lambda force: None)
        let_go(force=True)
        library.set_num_threads(count_before)
        let_go(force=True)


_one_blas_thread = _OneBlasThread()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let BLAS run on one thread: for our parallel regions, and for the same bits everywhere. Threads may overlap."""
    mine = _one_blas_thread.enter()
    try:
        yield
    finally:
        _one_blas_thread.leave(mine)


class Place(Protocol):
    """Place where the kernels of a call run: memory there, and the compiled module."""

    @property
    def on_host(self) -> bool:
        """Whether arrays lie in the computer's memory, and ``_core`` runs the kernels."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Return a new array of the caller's library, C-contiguous, with undefined contents."""

    def asarray(self, host: Any) -> Any:
        """Return a host array here; on the host, the array itself."""

    def host(self, array: Any) -> Any:
        """Return an array from here on the host; from the host, the array itself."""

    def run(
        self,
        kernel: str,
        *arguments: Any,
        threads: int | None = None,
        **settings: Any,
    ) -> None:
        """Run a kernel on arrays that lie here. A device takes no threads, and gets the scratch it asks for."""


class _Host:
    """The CPU: NumPy arrays, ``_core``."""

    on_host: Literal[True] = True

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return np.empty(shape, dtype=dtype)

    def asarray(self, host: Any) -> Any:
        return host

    def host(self, array: Any) -> Any:
        return array

    def kernel(self, name: str) -> Callable[..., None]:
        """Return a kernel, for callers that look up nothing in a call: ``threads`` is a count, 0 for the default."""
        return getattr(_core, name)  # type: ignore[no-any-return]

    def run(
        self,
        kernel: str,
        *arguments: Any,
        threads: int | None = None,
        **settings: Any,
    ) -> None:
        getattr(_core, kernel)(*arguments, **settings, threads=thread_count(threads))


class DevicePlace:
    """A device: arrays of one library there, ``_cuda``, and the library's current stream."""

    on_host: Literal[False] = False

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

    def host(self, array: Any) -> Any:
        return self.library.host(array)

    def written_here(self, array: Any) -> Any:
        """Return an array that nobody else holds, after noting that kernels of this call may write into it."""
        self._writable = [*(known for known in self._writable if known() is not None), weakref.ref(array)]
        return array

    def _exchanged(self, value: Any) -> Any:
        if not hasattr(value, "__dlpack__") or isinstance(value, np.ndarray):
            return value
        return self.library.exchanged(value, written=any(value is known() for known in self._writable))

    def _wait_for(self, *values: Any) -> None:
        for value in values if self.library.waits else ():
            if hasattr(value, "block_until_ready"):
                value.block_until_ready()

    def run(
        self,
        kernel: str,
        *arguments: Any,
        threads: int | None = None,
        **settings: Any,
    ) -> None:
        thread_count(threads)  # not needed here, but refused here too if it is wrong
        with self.library.current():
            self._wait_for(*arguments, *settings.values())
            given = [self._exchanged(value) for value in arguments]
            named = {name: self._exchanged(value) for name, value in settings.items()}
            ask = getattr(self._module, f"{kernel}_workspace", None)
            if ask is not None:
                scratch = self.empty((ask(*given, **named),), "float64")
                self._wait_for(scratch)
                named["workspace"] = self._exchanged(scratch)
            stream = self.library.stream()
            getattr(self._module, kernel)(*given, **named, stream=stream)
            if self.library.waits:
                self._module.synchronize(stream=stream, device=self._number)


HOST = _Host()  # the place of NumPy's arrays


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
        return HOST
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
