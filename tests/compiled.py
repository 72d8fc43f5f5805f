"""The compiled modules under test: the CPU's, the CUDA kernels emulated on the CPU, or (by gpu-check) on a GPU."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from expunge import DeviceError
from expunge._kernels import backend


def _logits(given: dict[str, Any]) -> dict[str, Any]:
    """Return the matrix product that probe_grad_norms is given on a device."""
    X, weights = given["X"], given["weights"]
    try:
        if X.dtype == weights.dtype and X.dtype.kind == "f":
            with np.errstate(all="ignore"):
                return {"logits": np.einsum("nd,kdc->nkc", X, weights)}
    except (AttributeError, ValueError):
        pass
    return {"logits": np.zeros((0, 0, 0))}  # the kernel is about to refuse something else


# What kernels take on a device besides: arguments made from the others. Arrays that stay on the host.
EXTRA_ARGUMENTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"probe_grad_norms": _logits}
ON_HOST = {"padded"}


def on_cpu_only(label: str) -> bool:
    """Return whether a call of `kernel_calls` asks for what the CPU kernel alone makes: a probe's proxies."""
    return "proxies" in label


class Cpu:
    """``_core`` on NumPy arrays."""

    name = "cpu"
    module: ModuleType = backend.core

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
            elements = ask(**arguments)
        except (DeviceError, TypeError, ValueError):
            elements = 0  # arguments the kernel is about to refuse
        return {"workspace": np.full(elements, 0xA5A5, dtype=np.float64)}

    def run(self, kernel: str, arguments: dict[str, Any], *, threads: int = 1) -> None:
        del threads
        given = {**arguments, **EXTRA_ARGUMENTS.get(kernel, lambda _: {})(arguments)}
        scratch = self.workspace(kernel, given)
        assert getattr(self.module, kernel)(**given, **scratch, stream=0) is None, "kernels write into arrays given"


class Gpu(Emulated):
    """``_cuda`` on copies of the arrays on a GPU, which are copied back."""

    name = "cuda"

    def run(self, kernel: str, arguments: dict[str, Any], *, threads: int = 1) -> None:
        del threads
        import torch

        def there(name: str, value: Any) -> Any:
            moves = isinstance(value, np.ndarray) and name not in ON_HOST
            return torch.from_numpy(value.copy()).cuda() if moves else value

        given = {**arguments, **EXTRA_ARGUMENTS.get(kernel, lambda _: {})(arguments)}
        on_device = {name: there(name, value) for name, value in given.items()}
        scratch = {name: there(name, value) for name, value in self.workspace(kernel, on_device).items()}
        stream = torch.cuda.current_stream().cuda_stream
        assert getattr(self.module, kernel)(**on_device, **scratch, stream=stream) is None
        for name, value in arguments.items():
            if isinstance(value, np.ndarray) and value.flags.writeable and name not in ON_HOST:
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
