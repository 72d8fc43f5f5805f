"""Archives of plain arrays with a JSON header, in one ``.npz`` that carries the digest of its bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._files import FileFormatError, parse_json
from expunge._files.archive import read_arrays
from expunge._files.sealed import is_sealed, sealed

__all__ = ["headed_bytes", "read_headed"]

_HEADER = "header.json"
# More than anything that fits a computer; a file can declare no more than it holds in any case.
_MAX_BYTES = 2**40


def headed_bytes(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the file of a header, which must name its ``version``, and of arrays."""
    text = json.dumps(dict(header), allow_nan=False)
    buffer = io.BytesIO()
    # The header travels as bytes so that one file is the whole.
    members: dict[str, Any] = {_HEADER: np.frombuffer(text.encode("ascii"), dtype=np.uint8), **arrays}
    np.savez(buffer, **members)
    return sealed(buffer.getvalue())


def read_headed(
    path: str | Path, *, what: str, versions: Sequence[int], first_sealed: int = 1
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return header and arrays of a file of one of these versions; those before ``first_sealed`` had no digest.

    Raises
    ------
    FileNotFoundError, FileFormatError
        If there is no such file, or it is none of this library, of another version, truncated or damaged.
    """
    place = f"{what} at {path}"
    arrays = read_arrays(path, what=what, max_bytes=_MAX_BYTES)
    try:
        has_digest = is_sealed(path)
    except FileFormatError as error:
        raise FileFormatError(f"path: the {place} {error}") from None
    header_bytes = arrays.pop(_HEADER, None)
    if header_bytes is None:
        raise FileFormatError(f"path: the {place} is not a {what} of this library: it holds no {_HEADER}")
    try:
        header = parse_json(header_bytes.tobytes().decode(), what=f"header of the {place}")
    except ValueError as error:
        raise FileFormatError(f"path: the {place} is truncated or not a {what} of this library: {error}") from None
    version: Any = header.get("version") if isinstance(header, dict) else None
    if version not in versions or isinstance(version, bool):
        read = (
            "version 1" if len(versions) == 1 else f"versions {', '.join(map(str, versions[:-1]))} and {versions[-1]}"
        )
        raise FileFormatError(f"path: the {place} has version {version!r}, this library reads {read}")
    if version >= first_sealed and not has_digest:
        raise FileFormatError(f"path: the {place} is damaged: it carries no digest of its bytes")
    return header, arrays
