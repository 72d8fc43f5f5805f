"""Numbers of things as a person writes them."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, thing: str) -> str:
    """Return ``1 record``, ``2 records``, ``50,000 records``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
