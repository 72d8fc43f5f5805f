"""Where gpu_check.py runs: a GPU, or the emulated kernels on PyTorch tensors in the computer's memory.

On the emulator sizes are small, times are fakes that say so, and nothing is written among the results.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Run = Callable[[], Any]
_EMULATED = (12, 0)  # DLPack's extension device, as the package's tests name the emulator's


def use_package(site: Path) -> None:
    """Import expunge from ``site``, also on a machine that has little besides PyTorch, NumPy and SciPy."""
    sys.path.insert(0, str(site))
    if importlib.util.find_spec("threadpoolctl") is None:
        # It gives the CPU's results the same bits everywhere, which nothing here is about.
        bare = types.ModuleType("threadpoolctl")
        bare.ThreadpoolController = type("ThreadpoolController", (), {"lib_controllers": ()})  # type: ignore[attr-defined]
        sys.modules["threadpoolctl"] = bare


class Device:
    """Arrays, the compiled module and sizes of the place the kernels run on."""

    def __init__(self, *, emulated: bool, check_time: Callable[[], None] = lambda: None) -> None:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most of the GPU's memory
        import torch

        from expunge._kernels import backend, libraries

        self.torch, self.emulated, self.check_time = torch, emulated, check_time
        self.where = "cpu" if emulated else "cuda"
        self.module: Any = backend._device_module(_EMULATED[0] if emulated else 2)
        self.core: Any = backend.core
        if emulated:
            known = backend._kind

            def kind(value: Any) -> tuple[int, int]:
                device_array = type(value).__module__.partition(".")[0] in ("torch", "jax", "jaxlib")
                return _EMULATED if device_array else known(value)

            backend._kind = kind
            libraries._Torch.stream = lambda self: 0  # type: ignore[method-assign]

    def pick(self, full: T, small: T) -> T:
        """Return the size for a GPU, or that for the emulator."""
        return small if self.emulated else full

    def normal(self, *shape: int, dtype: Any = None) -> Any:
        """Return standard normals in float32, or in another dtype."""
        return self.torch.randn(*shape, device=self.where).to(dtype or self.torch.float32)

    def doubles(self, *shape: int) -> Any:
        """Return standard normals in float64."""
        return self.torch.randn(*shape, dtype=self.torch.float64, device=self.where)

    def uniform(self, low: float, high: float, *shape: int) -> Any:
        """Return uniform numbers in float64."""
        return self.torch.rand(*shape, dtype=self.torch.float64, device=self.where) * (high - low) + low

    def integers(self, most: int, *shape: int) -> Any:
        """Return integers from 0 to ``most`` - 1."""
        return self.torch.randint(most, shape, device=self.where)

    def empty(self, *shape: int, dtype: Any = None) -> Any:
        """Return memory full of NaN, so that what is not written shows."""
        dtype = dtype or self.torch.float64
        value = float("nan") if dtype.is_floating_point else 77
        return self.torch.full(shape, value, dtype=dtype, device=self.where)

    def direct(self, kernel: str, *arguments: Any, **settings: Any) -> Run:
        """Return a run of the compiled kernel alone; its scratch is allocated once."""
        ask = getattr(self.module, f"{kernel}_workspace", None)
        if ask is not None:
            settings["workspace"] = self.empty(ask(*arguments, **settings))
        function = getattr(self.module, kernel)
        return lambda: function(*arguments, **settings, stream=self.stream())

    def stream(self) -> int:
        """Return PyTorch's current stream."""
        return 0 if self.emulated else int(self.torch.cuda.current_stream().cuda_stream)

    def chunks(self, n: int, bytes_each: float) -> Iterator[slice]:
        """Yield slices of n items that take half a gigabyte at most, as long as there is time."""
        size = max(1, int(2**29 / max(bytes_each, 1.0)))
        for low in range(0, n, size):
            self.check_time()
            yield slice(low, min(low + size, n))

    def few(self, n: int, count: int = 256) -> list[int]:
        """Return some of 0..n-1, the first and the last among them."""
        return sorted({round(i * (n - 1) / max(1, count - 1)) for i in range(min(n, count))})

    def tidy(self) -> None:
        """Give cached memory back."""
        if not self.emulated:
            self.torch.cuda.empty_cache()


def nbytes(*arrays: Any) -> float:
    """Return the bytes of arrays."""
    return float(sum(array.nbytes for array in arrays))


def worst(found: Any, expected: Any, tolerance: Any) -> float:
    """Return the largest error as a share of its tolerance; infinity for another shape or NaN in other places."""
    found, expected = found.double(), expected.double()
    if found.shape != expected.shape:
        return float("inf")
    if found.numel() == 0:
        return 0.0
    both_nan = found.isnan() & expected.isnan()
    share = ((found - expected).abs() / tolerance).where(found != expected, 0.0)
    share = share.where(~both_nan, 0.0).nan_to_num(nan=float("inf"), posinf=float("inf"))
    return float(share.max())
