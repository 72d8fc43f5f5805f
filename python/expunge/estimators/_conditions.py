"""Conditions that certificates of a model have to state."""

from __future__ import annotations

from collections.abc import Iterable

from expunge.data.constants import CONDITIONS

__all__ = ["SEED_CONDITION", "stated_conditions"]

SEED_CONDITION = "learning seed known to whoever set it"


def stated_conditions(given: Iterable[str]) -> tuple[str, ...]:
    """Return the conditions that the caller states for certificates, each once; names stand for sentences."""
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise TypeError(f"conditions must be a sequence of texts, got {given!r}")
    found: dict[str, None] = {}
    for one in given:
        if not isinstance(one, str):
            raise TypeError(f"conditions must be texts, got {one!r}")
        if not one.strip() or not one.isprintable():
            raise ValueError(f"conditions must be texts of one line, got {one!r}")
        found[CONDITIONS.get(one, one.strip())] = None
    return tuple(found)
