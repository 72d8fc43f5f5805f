"""The only door to the compiled kernels: picks the module for an array and allocates outputs."""

from __future__ import annotations

from expunge import _core

__all__ = ["core", "default_threads", "isa"]

core = _core


def isa() -> str:
    """Return the instruction-set level the kernels run at: ``"base"``, ``"v3"`` or ``"v4"``."""
    return _core.isa()


def default_threads() -> int:
    """Return the number of threads a call uses when it is given ``threads=None``."""
    return _core.default_threads()
