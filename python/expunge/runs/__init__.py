"""Runs: what happened to a model and what follows from it, one package for each kind."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expunge.runs.base import Deltas, Run, RunError
    from expunge.runs.registry import register, run_class

__all__ = ["Deltas", "Run", "RunError", "register", "run_class"]


def __getattr__(name: str) -> Any:
    # When asked for: the list of methods lies in this package too, and a command's help does not wait for the library.
    if name in ("register", "run_class"):
        from expunge.runs import registry

        return getattr(registry, name)
    if name in __all__:
        from expunge.runs import base

        return getattr(base, name)
    raise AttributeError(f"module 'expunge.runs' has no attribute {name!r}")
