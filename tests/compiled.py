"""The compiled modules under test: the CPU's, the CUDA kernels emulated on the CPU, or (by gpu-check) on a GPU."""

from __future__ import annotations

import importlib
import importlib.util
import math
import operator
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

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
WORKSPACE_SIZES["langevin_chains"] = lambda given: {
    "n_chains": np.shape(given["out"])[1],
    "p": np.shape(given["X"])[1],
    "q": np.shape(given["targets"])[1],
    "gram": given["gram"] is not None,
    "element_bytes": given["X"].dtype.itemsize,
}


def _record_sizes(*names: str) -> Sizes:
    def sizes(given: dict[str, Any]) -> dict[str, Any]:
        n, p = np.shape(given["projected"])
        found = {"n": n, "p": p, "q": np.shape(given["residuals"])[2], "rank": given["rank"]}
        return {name: found[name] for name in names}

    return sizes


WORKSPACE_SIZES["ridge_exact_quotes"] = _record_sizes("n", "p", "q", "rank")
WORKSPACE_SIZES["ridge_gaussian_pairs"] = _record_sizes("n", "q", "rank")
WORKSPACE_SIZES["ridge_solve_reduced"] = lambda given: dict(zip("rq", np.shape(given["shift"]), strict=True))
WORKSPACE_SIZES["ridge_shifted_quotes"] = lambda given: dict(
    zip(("n", "n_steps"), np.shape(given["sensitivity"]), strict=True)
)


def _gradient_sizes(**lengths: tuple[str, int]) -> Sizes:
    """Return sizes that are lengths of axes: name=(argument, axis); the last argument named has the dtype."""

    def sizes(given: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {name: given[array].shape[axis] for name, (array, axis) in lengths.items()}
        return {**found, "itemsize": given[[array for array, _ in lengths.values()][-1]].dtype.itemsize}

    return sizes


def _with(sizes: Sizes, *names: str) -> Sizes:
    return lambda given: {**sizes(given), **{name: given[name] for name in names}}


WORKSPACE_SIZES["linear_grad_norms"] = _with(
    _gradient_sizes(
        examples=("activations", 0), positions=("activations", 1), d_out=("output_grads", 2), d_in=("activations", 2)
    ),
    "bias",
)
WORKSPACE_SIZES["linear_grad_dots"] = _gradient_sizes(
    examples=("activations_1", 0),
    positions_1=("activations_1", 1),
    positions_2=("activations_2", 1),
    d_out=("output_grads_1", 2),
    d_in=("activations_1", 2),
)
WORKSPACE_SIZES["embedding_linear_grad_dots"] = _gradient_sizes(
    examples=("indices", 0),
    n_tokens=("indices", 1),
    positions=("row_factors", 1),
    rows=("row_factors", 2),
    width=("embedding_grads", 2),
)
WORKSPACE_SIZES["conv_grad_norms"] = lambda given: {
    **_with(
        _gradient_sizes(
            examples=("activations", 0),
            channels=("activations", 1),
            out_channels=("output_grads", 1),
            positions=("output_grads", 2),
            features=("feature_offsets", 0),
        ),
        "groups",
        "bias",
    )(given),
    "padded_entries": math.prod(operator.index(length) for length in given["padded"]),
    "itemsize": given["activations"].dtype.itemsize,
}
WORKSPACE_SIZES["embedding_grad_norms"] = _gradient_sizes(
    examples=("indices", 0), n_tokens=("indices", 1), width=("output_grads", 2)
)
WORKSPACE_SIZES["norm_layer_grad_norms"] = lambda given: {
    **_with(_gradient_sizes(examples=("activations", 0)), "kind", "n_groups", "normalized", "weight")(given),
    "positions": given["activations"].shape[2 if given["kind"] == 2 else 1],
    "width": given["activations"].shape[1 if given["kind"] == 2 else 2],
}
WORKSPACE_SIZES["probe_grad_norms"] = lambda given: {"checkpoints": given["weights"].shape[0]}


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
        function = getattr(self.module, kernel)
        extra = {**self.workspace(kernel, arguments), **EXTRA_ARGUMENTS.get(kernel, lambda _: {})(arguments)}
        assert function(**arguments, **extra, stream=0) is None, "kernels write into arrays they are given"


class Gpu(Emulated):
    """``_cuda`` on copies of the arrays on a GPU, which are copied back."""

    name = "cuda"

    def run(self, kernel: str, arguments: dict[str, Any], *, threads: int = 1) -> None:
        del threads
        import torch

        def there(name: str, value: Any) -> Any:
            moves = isinstance(value, np.ndarray) and name not in ON_HOST
            return torch.from_numpy(value.copy()).cuda() if moves else value

        on_device = {name: there(name, value) for name, value in arguments.items()}
        more = {**self.workspace(kernel, arguments), **EXTRA_ARGUMENTS.get(kernel, lambda _: {})(arguments)}
        extra = {name: there(name, value) for name, value in more.items()}
        stream = torch.cuda.current_stream().cuda_stream
        assert getattr(self.module, kernel)(**on_device, **extra, stream=stream) is None
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
