"""One small valid call per compiled kernel: what the boundary, thread and instruction-set tests vary."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge import _backend

# Names in the compiled module that are questions, not kernels.
QUESTIONS = {"isa", "default_threads"}


def kernel_names() -> set[str]:
    """Return the names of all kernels the compiled module exports."""
    exported = {name for name in vars(_backend.core) if not name.startswith("_")}
    return {name for name in exported if inspect.isbuiltin(getattr(_backend.core, name))} - QUESTIONS


def refuses_nan(outputs: dict[str, NDArray[Any]]) -> bool:
    """Return whether no output could be read as private: all NaN or infinite."""
    return all(bool((np.isnan(out) | (out == np.inf)).all()) for out in outputs.values())


@dataclass
class KernelCall:
    """Arguments in order, without ``threads``; the names of those the kernel writes."""

    kernel: str
    arguments: dict[str, Any]
    outputs: tuple[str, ...]
    # Outputs a NaN in any input has to reach, and what counts as not looking private.
    nan_is_refused: Callable[[dict[str, NDArray[Any]]], bool] = refuses_nan
    nan_inputs: tuple[str, ...] | None = None  # None: every float input
    free: tuple[tuple[str, int], ...] = ()  # (argument, axis) whose length nothing else fixes
    notes: dict[str, str] = field(default_factory=dict)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the array arguments by name."""
        return {name: value for name, value in self.arguments.items() if isinstance(value, np.ndarray)}

    def inputs(self) -> dict[str, NDArray[Any]]:
        """Return the array arguments the kernel only reads."""
        return {name: value for name, value in self.arrays().items() if name not in self.outputs}

    def replaced(self, **changes: Any) -> KernelCall:
        """Return a deep copy with some arguments exchanged."""
        other = copy.copy(self)
        other.arguments = {
            name: changes[name] if name in changes else (value.copy() if isinstance(value, np.ndarray) else value)
            for name, value in self.arguments.items()
        }
        return other

    def run(self, *, threads: int = 1) -> dict[str, NDArray[Any]]:
        """Call the kernel and return its outputs by name."""
        returned = getattr(_backend.core, self.kernel)(*self.arguments.values(), threads)
        assert returned is None, "kernels write into arrays they are given, and return nothing"
        return {name: self.arguments[name] for name in self.outputs}


# Kernel name -> builder(rng, n): a valid call on n items (n may be 0).
CALLS: dict[str, Callable[[np.random.Generator, int], KernelCall]] = {}


def call(name: str, *, n: int = 37, seed: int = 0) -> KernelCall:
    """Return the table's call of the kernel on ``n`` items."""
    return CALLS[name](np.random.default_rng(seed), n)
