"""Notes beside models: that a release was made from one already, so that none is made under the same number again.

The number of a release is that of the model before it and one more, so two changes of one file would be released under
one number, which the budget counts once. A change leaves a note beside the model that it was made from, in the same
transaction as its files, and the next change of that model is refused.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from expunge._files import FileFormatError, parse_json, read_text

if TYPE_CHECKING:
    from expunge.cli.files import Newton

__all__ = ["branch_option", "check_first", "note_bytes", "note_path"]

_FORMAT = "expunge-successor"

branch_option = click.option(
    "--branch", is_flag=True, help="Go on from MODEL although it has a successor, whose release was shown to nobody."
)


def note_path(model: str) -> Path:
    """Return where the note about a model's successor lies: beside the file itself."""
    place = Path(os.path.realpath(model))
    return place.with_name(f"{place.name}.next")


def note_bytes(before: Newton, after: Newton) -> bytes:
    """Return the note that a model has a successor; it tells of released parameters and of nobody."""
    values = {
        "format": _FORMAT,
        "version": 1,
        "model": before.certificate_.digests.released,
        "release": after.certificate_.release,
        "successor": after.certificate_.digests.released,
    }
    return json.dumps(values).encode("ascii") + b"\n"


def check_first(model: str, before: Newton) -> None:
    """Refuse a model from which a release was made already.

    Raises
    ------
    ValueError
        Naming the note, also where it cannot be read.
    """
    place = note_path(model)
    if not os.path.lexists(place):
        return
    try:
        values: Any = parse_json(read_text(place, what="note"), what="note")
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            raise FileFormatError(f"its format must be {_FORMAT!r}")
        about, release, successor = (values[name] for name in ("model", "release", "successor"))
    except (FileFormatError, KeyError) as error:
        raise ValueError(f"{place}: is no note about the successor of {model}: {error}") from None
    if about != before.certificate_.digests.released:
        return  # about another model that once had this name
    raise ValueError(
        f"{model}: release {release} was made from this model already, by its successor {str(successor)[:12]}..., as "
        f"{place.name} says: go on from the successor; --branch if that release was shown to nobody"
    )
