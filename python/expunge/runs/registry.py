"""Kinds of runs by name, one line each."""

from __future__ import annotations

from typing import Any

from expunge.runs.base import Run
from expunge.runs.ridge.run import RidgeRun

__all__ = ["FIRST_KIND", "register", "run_class"]

_KINDS: dict[str, type[Run[Any]]] = {
    RidgeRun.kind: RidgeRun,
}
# Certificates of version 1 name no kind.
FIRST_KIND = RidgeRun.kind
_MEMBERS = tuple(name for name in (*Run.__annotations__, *vars(Run)) if not name.startswith("_"))


def run_class(name: str) -> type[Run[Any]]:
    """Return the class of the kind of run called ``name``.

    Raises
    ------
    ValueError
        If no class has been registered for it.

    Examples
    --------
    >>> run_class("ridge").methods
    ('exact', 'shifted', 'uniform')
    """
    if name not in _KINDS:
        known = ", ".join(map(repr, sorted(_KINDS)))
        raise ValueError(
            f"must be one of {known}, the kinds of runs this installation knows, got {name!r}: install a version of "
            "Expunge that has this kind, or register its class with expunge.runs.register"
        )
    return _KINDS[name]


def register(run_class: type[Run[Any]]) -> None:
    """Register another kind of run, so that this process can issue, read and verify its certificates.

    Parameters
    ----------
    run_class : type
        A class that follows the protocol `expunge.runs.Run`. Registering it again changes nothing.

    Raises
    ------
    TypeError
        If the class lacks something of the protocol.
    ValueError
        If another class has this kind.

    Examples
    --------
    >>> register(RidgeRun)
    """
    missing = [name for name in _MEMBERS if not hasattr(run_class, name) and name not in _fields(run_class)]
    if missing:
        raise TypeError(f"run_class must have what expunge.runs.Run has, {run_class!r} lacks {', '.join(missing)}")
    if _KINDS.setdefault(run_class.kind, run_class) is not run_class:
        raise ValueError(f"run_class.kind must be new, got {run_class.kind!r}, which is {_KINDS[run_class.kind]!r}")


def _fields(run_class: Any) -> dict[str, Any]:
    # Fields of dataclasses without a default are no attributes of the class.
    return getattr(run_class, "__dataclass_fields__", {})
