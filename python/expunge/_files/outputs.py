"""Paths that a command may write to: none that it reads from, none twice, none through a link, and no device."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["check_places"]

Place = str | os.PathLike[str]


def check_places(
    *, outputs: Mapping[str, Place | Iterable[Place] | None], inputs: Mapping[str, Place | Iterable[Place] | None]
) -> None:
    """Refuse outputs that are links or devices, that are an input or each other, or that lie inside one another.

    Parameters
    ----------
    outputs : mapping of str to path-like, to several of them, or to None
        What is written, files or folders, by the name that errors use; None is skipped.
    inputs : mapping of the same kind
        What is read. Inputs may coincide, and missing ones are left to whoever opens them.

    Raises
    ------
    ValueError
        Naming both places. Links on the way to a place, and second names of one file, are followed.

    Examples
    --------
    >>> check_places(outputs={"--out": "scores.parquet"}, inputs={"data": "./scores.parquet"})
    Traceback (most recent call last):
    ...
    ValueError: --out (scores.parquet) must not be data (scores.parquet)
    """
    written, read = list(_all(outputs)), list(_all(inputs))
    for name, place in written:
        if place.is_symlink():
            raise ValueError(f"{name} ({place}) must not be a symbolic link, to {os.path.realpath(place)}")
        if place.exists() and not (place.is_file() or place.is_dir()):  # a device would be replaced for everybody
            raise ValueError(f"{name} ({place}) must be the name of a file or folder, not of a device, pipe or socket")
    for i, (name, place) in enumerate(written):
        for other_name, other in (*written[i + 1 :], *read):
            if _same(place, other):
                raise ValueError(f"{name} ({place}) must not be {other_name} ({other})")
            for inner_name, inner, outer_name, outer in (
                (name, place, other_name, other),
                (other_name, other, name, place),
            ):
                if _inside(inner, outer):
                    raise ValueError(f"{inner_name} ({inner}) must not lie in {outer_name} ({outer})")


def _all(places: Mapping[str, Place | Iterable[Place] | None]) -> Iterable[tuple[str, Path]]:
    for name, value in places.items():
        if value is None:
            continue
        for place in [value] if isinstance(value, (str, os.PathLike)) else value:
            yield name, Path(place)


def _same(one: Path, other: Path) -> bool:
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return os.path.samefile(one, other)  # a second name of one file
    except OSError:
        return False


def _inside(inner: Path, outer: Path) -> bool:
    return Path(os.path.realpath(outer)) in Path(os.path.realpath(inner)).parents
