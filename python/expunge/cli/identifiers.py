"""Ids as they are typed at a command."""

from __future__ import annotations

from typing import Any

from expunge.data.identifiers import whole_id

__all__ = ["parse_id"]


def parse_id(known: Any, text: str, *, place: str = "") -> int | str:
    """Return an id as the model has it: text only matches a whole number where ids are whole numbers, digit for digit.

    Parameters
    ----------
    known : RecordIds or None
        The model's ids.
    text : str
        What was typed.
    place : str
        Where, for errors.
    """
    if known is None:
        raise ValueError(
            "ids must be known from fit, but this model has none: fit with --id-column, or name positions with --rows"
        )
    if known.kind == "string":
        return text
    number = whole_id(text)
    if number is None:
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise ValueError(f"ids must be whole numbers, as the ids of this model are, got {shown!r}{place}")
    return number
