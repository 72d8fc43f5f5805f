"""Columns that the shards of a table share: which are features, targets and ids, and the types that hold them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from expunge.data.tables import ArrayColumn, Table, choose

__all__ = ["Field", "Layout", "agreed", "chosen_columns"]


@dataclass(frozen=True)
class Field:
    """Type of a column in one shard.

    Attributes
    ----------
    type : str
        As the shard calls it.
    number : dtype or None
        float32 or float64, whichever holds its numbers exactly; None for what are none.
    lists : bool
        Whether every row is a list of numbers.
    width : int or None
        Length of each list, where the type says it.
    answer : {"i", "f", "U"} or None
        Kind of the array that it makes as a target.
    name : {"i", "U"} or None
        Kind of the ids that it makes.
    """

    type: str
    number: np.dtype[np.floating] | None
    lists: bool = False
    width: int | None = None
    answer: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Layout:
    """Columns to read, and the types of what they give in every shard.

    Attributes
    ----------
    features : tuple of str
        One list column, or scalar ones.
    target, ids : str or None
        Columns of targets and ids.
    width : int
        Number of features.
    dtype : dtype
        Of the features.
    lists : bool
        Whether the features are a list column.
    answer : {"i", "f", "U"} or None
        Kind of the targets.
    names : tuple of str or None
        Names of the features, where they are scalar columns.
    """

    features: tuple[str, ...]
    target: str | None
    ids: str | None
    width: int
    dtype: np.dtype[np.floating]
    lists: bool
    answer: str | None
    names: tuple[str, ...] | None

    @property
    def columns(self) -> list[str]:
        """All columns to read, each once."""
        return list(dict.fromkeys([*self.features, *(one for one in (self.target, self.ids) if one is not None)]))


def chosen_columns(
    names: Sequence[str],
    *,
    hidden: Sequence[str],
    features: Sequence[str | int] | None,
    drop: Sequence[str | int],
    target_column: str | int | None,
    id_column: str | int | None,
    with_target: bool = False,
) -> tuple[tuple[str, ...], str | None, str | None]:
    """Return the names of the features, the target and the ids; ``hidden`` columns are none unless they are named.

    ``with_target`` takes the last column that is nothing else for the target, where none is named.
    """
    nothing = ArrayColumn(np.empty(0))
    table = Table([nothing] * len(names), tuple(names), tuple(names.index(one) for one in hidden))
    chosen = choose(
        table,
        features=features,
        drop=drop,
        target_column=target_column,
        id_column=id_column,
        with_target=with_target,
    )
    return (
        tuple(names[j] for j in chosen.features),
        None if chosen.target is None else names[chosen.target],
        None if chosen.ids is None else names[chosen.ids],
    )


def agreed(
    shards: Sequence[tuple[str, Mapping[str, Field]]],
    *,
    features: tuple[str, ...],
    target: str | None,
    ids: str | None,
    others: frozenset[str] | None,
    width: int | None = None,
) -> Layout:
    """Return the layout of all shards, or refuse the first that does not fit those before it, by its name.

    Parameters
    ----------
    shards : sequence of (str, mapping of str to Field)
        Name and columns of each shard.
    features, target, ids
        Columns to read.
    others : set of str or None
        All columns of the first shard: every shard must have these and no more. None where columns were listed.
    width : int, optional
        Length of the lists, where their type does not say it.

    Raises
    ------
    TypeError, ValueError
        Naming the shard and the column.
    """
    first = shards[0][0]
    wanted = [*features, *(one for one in (target, ids) if one is not None)]
    for name, fields in shards:
        missing = [one for one in wanted if one not in fields]
        if missing:
            raise ValueError(f"{name} must have the column {missing[0]!r}, as {first} has, got {_few(fields)}")
        if others is not None and (strange := sorted(others ^ set(fields))):
            which = "lacks" if strange[0] in others else "has"
            raise ValueError(
                f"{name} must have the columns of {first}: it {which} {_few(strange)}; say which are features=, or "
                "drop the others"
            )
        _check_shard(name, fields, features, target, ids)
    if ids is not None:
        _require_one_kind_of_ids(shards, ids)
    lists = shards[0][1][features[0]].lists
    dtypes: list[object] = []
    widths: dict[int, str] = {}
    for name, fields in shards:
        for one in features:
            field = fields[one]
            if field.lists != lists:
                raise ValueError(f"{name}: column {one!r} is of {field.type}, that of {first} {_type(shards[0], one)}")
            dtypes.append(field.number)
            if lists and field.width is not None:
                widths.setdefault(field.width, name)
    if len(widths) > 1:
        (one_width, one_name), (other_width, other_name) = list(widths.items())[:2]
        raise ValueError(
            f"{other_name} must have {one_width} features a row, as {one_name} has, got {other_width} in "
            f"{features[0]!r}"
        )
    wide = any(one == np.float64 for one in dtypes)
    found = next(iter(widths), width) if lists else len(features)
    if not found:
        raise ValueError(f"{first}: column {features[0]!r} must hold lists of at least one number")
    return Layout(
        features,
        target,
        ids,
        found,
        np.dtype(np.float64 if wide else np.float32),
        lists,
        None if target is None else _answer(shards, target),
        None if lists else features,
    )


def _check_shard(
    name: str, fields: Mapping[str, Field], features: tuple[str, ...], target: str | None, ids: str | None
) -> None:
    lists = [one for one in features if fields[one].lists]
    if lists and len(features) > 1:
        raise ValueError(
            f"{name}: features must be one list column or many scalar ones, got {_few(features)}: say features="
        )
    for one in features:
        if fields[one].number is None:
            remedy = "drop it, or name it as target or ids"
            if fields[one].type.startswith(("fixed_size_binary", "binary", "large_binary")):
                remedy = (
                    "bytes do not say which numbers they are: write a fixed-size list of these "
                    "(pyarrow.FixedSizeListArray), or drop it"
                )
            raise TypeError(f"{name}: column {one!r} must hold real numbers, got {fields[one].type}: {remedy}")
    if target is not None and fields[target].answer is None:
        raise TypeError(f"{name}: column {target!r} must hold labels or targets, got {fields[target].type}")
    if ids is not None and fields[ids].name is None:
        raise TypeError(f"{name}: column {ids!r} must hold ids, whole numbers or text, got {fields[ids].type}")


def _answer(shards: Sequence[tuple[str, Mapping[str, Field]]], target: str) -> str:
    kinds = {fields[target].answer: name for name, fields in reversed(shards)}
    if "U" in kinds and len(kinds) > 1:
        other = next(name for kind, name in kinds.items() if kind != "U")
        raise TypeError(
            f"column {target!r} must hold text or numbers in all shards: text in {kinds['U']}, numbers in {other}"
        )
    return "U" if "U" in kinds else "f" if "f" in kinds else "i"


def _require_one_kind_of_ids(shards: Sequence[tuple[str, Mapping[str, Field]]], ids: str) -> None:
    """Refuse ids that are text in one shard and numbers in another: 7 is not "7"."""
    kinds = {fields[ids].name: name for name, fields in reversed(shards)}
    if len(kinds) > 1:
        raise TypeError(
            f"ids in column {ids!r} must be of one kind in all shards: whole numbers in {kinds['i']}, text in "
            f"{kinds['U']}"
        )


def _type(shard: tuple[str, Mapping[str, Field]], column: str) -> str:
    return shard[1][column].type


def _few(names: Sequence[str] | Mapping[str, Field]) -> str:
    listed = list(names)
    return ", ".join(listed[:20]) + (f" and {len(listed) - 20} more" if len(listed) > 20 else "")
