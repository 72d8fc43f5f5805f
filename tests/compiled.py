"""The compiled modules under test: the CPU's, the CUDA kernels emulated on the CPU, or (by gpu-check) on a GPU."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from expunge import _backend

# Kernel -> the arguments of its ``*_workspace`` function, where it needs scratch on a device.
Sizes = Callable[[dict[str, Any]], dict[str, Any]]
WORKSPACE_SIZES: dict[str, Sizes] = {}


def _pair_sizes(asked: str) -> Sizes:
    return lambda given: {"n": len(given[asked]), "m": np.shape(given["excess"])[-1]}


WORKSPACE_SIZES["shifted_mu"] = lambda given: dict(zip(("rows", "steps"), np.shape(given["sensitivity"]), strict=False))
WORKSPACE_SIZES["pair_delta"] = _pair_sizes("epsilon")
WORKSPACE_SIZES["pair_epsilon"] = _pair_sizes("delta")
WORKSPACE_SIZES["pair_renyi"] = _pair_sizes("order")


class Cpu:
    """``_core`` on NumPy arrays."""

    name = "cpu"
    module: ModuleType = _backend.core

    def run(self, kernel: str, arguments: dict[str, Any], *, threads: int = 1) -> None:
        function = getattr(self.module, kernel)
        extra = {"threads": threads} if "threads" in function.__doc__ else {}
        assert function(**arguments, **extra) is None, "kernels write into arrays they are given"


class Emulated:
    """``_cuda_emul`` on NumPy arrays: the emulator's device memory is the computer's."""

    name = "cuda_emul"

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def workspace(self, kernel: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return scratch of exactly the size the module asks for, full of garbage, where the kernel takes any."""
        ask = getattr(self.module, f"{kernel}_workspace", None)
        if ask is None:
            return {}
        try:
            elements = ask(**WORKSPACE_SIZES[kernel](arguments))
        except (AttributeError, IndexError, TypeError, ValueError):
            elements = 0  # arguments the kernel is about to refuse
        dtype = np.float64
        if kernel.startswith("langevin"):
            dtype = getattr(arguments["X"], "dtype", dtype)
        return {"workspace": np.full(elements, 0xA5A5, dtype=dtype)}

    def run(self, kernel: str, arguments: dict[str, Any], *, threads: int = 1) -> None:
        del threads
        if not hasattr(self.module, kernel):
            pytest.skip(f"{self.name} has no {kernel}")
        function = getattr(self.module, kernel)
        extra = self.workspace(kernel, arguments)
        assert function(**arguments, **extra, stream=0) is None, "kernels write into arrays they are given"


class Gpu(Emulated):
    """``_cuda`` on copies of the arrays on a GPU, which are copied back."""

    name = "cuda"

    def run(self, kernel: str, arguments: dict[str, Any], *, threads: int = 1) -> None:
        del threads
        import torch

        def there(value: Any) -> Any:
            return torch.from_numpy(value.copy()).cuda() if isinstance(value, np.ndarray) else value

        on_device = {name: there(value) for name, value in arguments.items()}
        extra = {name: there(value) for name, value in self.workspace(kernel, arguments).items()}
        stream = torch.cuda.current_stream().cuda_stream
        assert getattr(self.module, kernel)(**on_device, **extra, stream=stream) is None
        for name, value in arguments.items():
            if isinstance(value, np.ndarray) and value.flags.writeable:
                value[...] = on_device[name].cpu().numpy()


def built(name: str) -> ModuleType | None:
    """Return a compiled module that an installation may lack."""
    return importlib.import_module(f"expunge.{name}") if importlib.util.find_spec(f"expunge.{name}") else None


def available() -> dict[str, Any]:
    """Return what kernels can run on here, by name; EXPUNGE_TEST_DEVICE=cuda asks for the GPU alone."""
    if os.environ.get("EXPUNGE_TEST_DEVICE") == "cuda":
        module = built("_cuda")
        assert module is not None, "EXPUNGE_TEST_DEVICE=cuda, but this build has no CUDA kernels"
        return {"cuda": Gpu(module)}
    emulated = built("_cuda_emul")
    return {"cpu": Cpu(), **({"cuda_emul": Emulated(emulated)} if emulated else {})}


AVAILABLE = available()
CPU = Cpu()
