"""Ids as they are typed at a command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["named_rows", "parse_ids"]


def parse_ids(model: Any, texts: Sequence[str]) -> list[Any] | None:
    """Return typed ids as the model has them, whole numbers or text; None if there are none."""
    if not texts:
        return None
    known = model._require_history().ids
    if known is None or known.kind == "string":
        return list(texts)
    try:
        return [int(text) for text in texts]
    except ValueError:
        odd = next(text for text in texts if not text.strip().lstrip("-").isdecimal())
        raise ValueError(f"ids must be whole numbers, as the ids of this model are, got {odd!r}") from None


def named_rows(model: Any, rows: list[int] | None) -> dict[str, Any]:
    """Return the argument that names rows by position: a model with ids wants to be told so."""
    return {"indices" if model._require_history().ids is None else "rows": rows}
