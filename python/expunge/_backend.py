"""The only door to the compiled kernels: picks the module for an array and allocates outputs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController

from expunge import _core

__all__ = ["core", "default_threads", "isa", "one_blas_thread"]

core = _core


def isa() -> str:
    """Return the instruction-set level the kernels run at: ``"base"``, ``"v3"`` or ``"v4"``."""
    return _core.isa()


def default_threads() -> int:
    """Return the number of threads a call uses when it is given ``threads=None``."""
    return _core.default_threads()


@lru_cache(maxsize=1)
def _blas() -> ThreadpoolController:
    return ThreadpoolController()  # looking for the libraries takes a millisecond; using the controller does not


def one_blas_thread() -> AbstractContextManager[Any]:
    """Return a context in which BLAS runs on one thread: for our parallel regions, and for equal bits everywhere."""
    context: AbstractContextManager[Any] = _blas().limit(limits=1, user_api="blas")
    return context
