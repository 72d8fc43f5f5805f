"""Tables with named columns, from any kind of file, and the roles of their columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArrayColumn", "Chosen", "Column", "Columns", "Table", "check_names", "choose", "stacked"]


class Column(Protocol):
    """One column of a table; only what is asked for is converted, and refused with its place."""

    def __len__(self) -> int: ...

    def numbers(self) -> NDArray[Any]:
        """Return int64 or float64, all finite, shape (n,) (or (n, k) for a column of lists)."""
        ...

    def labels(self) -> NDArray[Any]:
        """Return int64, float64 or str, none missing, shape (n,)."""
        ...

    def ids(self) -> NDArray[Any]:
        """Return whole numbers or str, exactly as written, none missing, shape (n,)."""
        ...


def check_names(names: Sequence[str]) -> None:
    """Refuse two columns of the same name."""
    places: dict[str, int] = {}
    for j, name in enumerate(names):
        first = places.setdefault(name, j)
        if first != j:
            raise ValueError(f"columns must have different names, got {name!r} for columns {first + 1} and {j + 1}")


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    Attributes
    ----------
    columns : sequence of Column
    names : tuple of str, or None
        All different; None for a file without a header.
    index : tuple of int
        Positions of columns that are a frame's row index: neither features nor targets unless named.
    large : bool
        Whether converting the columns may take a second.
    """

    columns: Sequence[Column]
    names: tuple[str, ...] | None
    index: tuple[int, ...] = ()
    large: bool = False

    def __post_init__(self) -> None:
        check_names(self.names or ())

    def position(self, option: str, column: str | int) -> int:
        """Return the position of a column given by its name, or by its position (from the end if negative)."""
        names, width = self.names, len(self.columns)
        if isinstance(column, str) and names is not None and column in names:
            return names.index(column)
        try:
            position = int(column)
        except ValueError:
            known = f"got the columns {', '.join(names[:20])}" if names else "and the file has no header"
            raise ValueError(f"{option}: there is no column {column!r}, {known}") from None
        if not -width <= position < width:
            raise ValueError(f"{option}: must be within [{-width}, {width}), got {position}")
        return position % width

    def name(self, position: int) -> str:
        """Return a column's name, or its position."""
        return self.names[position] if self.names is not None else str(position)


@dataclass(frozen=True)
class Chosen:
    """Positions of the columns that are read."""

    features: list[int]
    target: int | None
    ids: int | None
    notes: tuple[str, ...]
    weights: int | None = None


@dataclass(frozen=True)
class Columns:
    """Columns of a table that were read.

    Attributes
    ----------
    n_columns : int
        Columns of the table.
    names : tuple of str, or None
        All their names; None where they have none.
    features : tuple of int
        Positions, in the order in which they were read.
    target, ids, weights : int or None
        Positions; None where there were none.
    """

    n_columns: int
    names: tuple[str, ...] | None
    features: tuple[int, ...]
    target: int | None
    ids: int | None
    weights: int | None = None

    @classmethod
    def of(cls, table: Table, chosen: Chosen) -> Columns:
        """Return the columns chosen of a table."""
        return cls(len(table.columns), table.names, tuple(chosen.features), chosen.target, chosen.ids, chosen.weights)

    def told(self, position: int | None) -> str | int | None:
        """Return a column's name, or its position where it has none."""
        return position if position is None or self.names is None else self.names[position]


def choose(
    table: Table,
    *,
    features: Sequence[str | int] | None,
    drop: Sequence[str | int],
    target_column: str | int | None,
    id_column: str | int | None,
    weight_column: str | int | None = None,
    with_target: bool,
) -> Chosen:
    """Return which columns are features, targets and ids; without ``target_column`` the last one left is the target."""
    dropped = {table.position("drop", one) for one in drop}
    ids = None if id_column is None else table.position("id_column", id_column)
    weights = None if weight_column is None else table.position("weight_column", weight_column)
    target = None if target_column is None else table.position("target_column", target_column)
    listed = None if features is None else [table.position("features", one) for one in features]
    taken: dict[int, str] = {}
    asked = [(one, "drop") for one in sorted(dropped)] + [(one, "features") for one in listed or ()]
    named = ((ids, "id_column"), (weights, "weight_column"), (target, "target_column"))
    asked += [(one, name) for one, name in named if one is not None]
    for position, option in asked:
        if position in taken:
            raise ValueError(f"{option}: column {table.name(position)!r} is named by {taken[position]} already")
        taken[position] = option
    left = [j for j in range(len(table.columns)) if j not in taken and j not in table.index]
    if with_target and target is None:
        if not left or (len(left) == 1 and listed is None):
            raise ValueError(
                "has one column, but records need at least one beside the targets"
                if left
                else "has no column left for the targets: name it with target_column"
            )
        target = left.pop()
    unread = [j for j in table.index if j not in taken]
    notes = tuple(f"column {table.name(j)!r} is a row index, not read as a feature" for j in unread)
    found = left if listed is None else listed
    if not found:
        raise ValueError("holds no features beside the targets and ids")
    return Chosen(found, target, ids, notes, weights)


@dataclass(frozen=True)
class ArrayColumn:
    """A column of numbers in memory."""

    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.values)

    def numbers(self) -> NDArray[Any]:
        """Return the values."""
        return self.values

    def labels(self) -> NDArray[Any]:
        """Return the values."""
        return self.values

    def ids(self) -> NDArray[Any]:
        """Return the values, which must be whole numbers."""
        from expunge.data.identifiers import exact_ids

        return exact_ids(self.values)


def stacked(columns: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Return columns of numbers side by side."""
    widths = [1 if column.ndim == 1 else column.shape[1] for column in columns]
    result = np.empty((len(columns[0]), sum(widths)))
    at = 0
    for column, width in zip(columns, widths, strict=True):
        result[:, at : at + width] = column.reshape(len(column), width)
        at += width
    return result
