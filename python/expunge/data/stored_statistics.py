"""Statistics of a table in files: the sums of each node of the tree, checked when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from expunge._files import FileFormatError
from expunge._files.headed import headed_bytes, read_headed
from expunge._files.values import digest, flag, floats, text, whole
from expunge.data.block_sums import MOST_LEVELS, BlockSums, joined, unpacked
from expunge.data.blocks import rows_per_block
from expunge.data.close_products import MARGIN, UNIT, Gram, Moment
from expunge.data.sums_checks import Sums, check_sums

__all__ = ["Stored", "read_statistics", "statistics_bytes"]

Array = NDArray[np.float64]
Label = str | int | float | bool

_KIND, _VERSION = "RidgeStatistics", 1
_PAIRS = ("gram", "moment", "squares")


class Stored(NamedTuple):
    """Sums of the nodes of a table's tree, and what the columns of X and Y are."""

    nodes: tuple[BlockSums, ...]
    n_features: int
    classes: tuple[Label, ...] | None
    single_output: bool
    feature_names: tuple[str, ...] | None


def statistics_bytes(stored: Stored) -> bytes:
    """Return the file of statistics."""
    nodes = stored.nodes
    arrays = {name: np.array([getattr(node, name) for node in nodes]) for name in _PAIRS}
    arrays["moment_rest"] = np.array([node.moment_rest for node in nodes])
    header = {
        "kind": _KIND,
        "version": _VERSION,
        "n_features": stored.n_features,
        "block_rows": rows_per_block(n_features=stored.n_features),
        "classes": None if stored.classes is None else list(stored.classes),
        "single_output": stored.single_output,
        "feature_names": None if stored.feature_names is None else list(stored.feature_names),
        "nodes": [
            {
                "level": node.level,
                "index": node.index,
                "n_records": node.n_records,
                "gram_rest": float(node.gram_rest).hex(),
                "longest": [float(node.longest[0]).hex(), int(node.longest[1])],
                "digest": node.digest.hex(),
            }
            for node in nodes
        ],
    }
    return headed_bytes(header, arrays)


def read_statistics(path: str | Path) -> Stored:
    """Read statistics.

    Raises
    ------
    FileNotFoundError, FileFormatError
        If there is no such file, or it is damaged, of another version or kind, or holds sums that no table has.
    """
    what = "file of statistics"
    header, arrays = read_headed(path, what=what, versions=(_VERSION,))
    if header.get("kind") != _KIND:
        raise FileFormatError(f"path: the {what} at {path} holds a {header.get('kind')}, expected {_KIND}")
    try:
        return _stored(header, arrays)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        said = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise FileFormatError(f"path: the {what} at {path} lacks or misstates a field: {said}") from None


def _stored(header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Stored:
    p = whole("n_features", header["n_features"], low=1)
    rows = rows_per_block(n_features=p)
    if header["block_rows"] != rows:
        raise ValueError(
            f"block_rows must be {rows}, as blocks of {p} features have here, got {header['block_rows']!r}"
        )
    classes, names = _classes(header["classes"]), header["feature_names"]
    if names is not None and (type(names) is not list or len(names) != p):
        raise ValueError(f"feature_names must be one text per feature, {p}")
    single = flag("single_output", header["single_output"])
    moment = arrays["moment"]
    if moment.ndim != 4 or (single and moment.shape[3] != 1):
        raise ValueError(f"moment must be of one pair of matrices for each node, got shape {moment.shape}")
    count, q = len(header["nodes"]), moment.shape[3]
    if classes is not None and len(classes) != q:
        raise ValueError(f"classes must be one per output, {q}, got {len(classes)}")
    if classes is not None and single:
        raise ValueError("single_output must be false for classes")
    floats("gram", arrays["gram"], (count, 2, (p + 1) * (p + 2) // 2))
    floats("moment", moment, (count, 2, p + 1, q))
    floats("squares", arrays["squares"], (count, 2, q))
    floats("moment_rest", arrays["moment_rest"], (count, q))
    nodes = tuple(_node(one, i, arrays, rows) for i, one in enumerate(header["nodes"]))
    _check_places(nodes, rows)
    for node in nodes:
        _check(node, classify=classes is not None, start=node.first * rows)
    return Stored(nodes, p, classes, single, None if names is None else tuple(text("a feature name", n) for n in names))


def _classes(stored: Any) -> tuple[Label, ...] | None:
    if stored is None:
        return None
    if type(stored) is not list or not all(isinstance(one, (str, int, float)) for one in stored):
        raise ValueError(f"classes must be a list of texts or numbers, got {stored!r}")
    if len(stored) < 2 or sorted(set(stored)) != stored:
        raise ValueError(f"classes must be at least 2 distinct labels in their order, got {stored!r}")
    return tuple(stored)


def _node(stored: dict[str, Any], i: int, arrays: dict[str, NDArray[Any]], rows: int) -> BlockSums:
    gram, moment, squares = ((arrays[name][i, 0].copy(), arrays[name][i, 1].copy()) for name in _PAIRS)
    square, row = stored["longest"]
    level = whole("level", stored["level"])
    if level >= MOST_LEVELS:
        raise ValueError(f"level must be less than {MOST_LEVELS}, got {level}")
    return BlockSums(
        level,
        whole("index", stored["index"]),
        whole("n_records", stored["n_records"], low=1),
        gram,
        moment,
        squares,
        float.fromhex(stored["gram_rest"]),
        arrays["moment_rest"][i].copy(),
        (float.fromhex(square), whole("longest row", row)),
        bytes.fromhex(digest("digest", stored["digest"])),
    )


def _check_places(nodes: Sequence[BlockSums], rows: int) -> None:
    """Refuse nodes that overlap, are out of order, could be joined, or are not full but for the last."""
    if not nodes:
        raise ValueError("nodes must be at least one, got none")
    for node, later in pairwise(nodes):
        if later.first < node.stop:
            raise ValueError(f"nodes must be of different blocks in their order, got block {later.first} out of place")
        if node.n_records != (node.stop - node.first) * rows:
            raise ValueError(f"nodes must be full but for the last, got {node.n_records} records from {node.first} on")
    last = nodes[-1]
    if not (last.stop - last.first - 1) * rows < last.n_records <= (last.stop - last.first) * rows:
        raise ValueError(f"n_records must be those of the blocks of its node, got {last.n_records} in the last one")
    if len(joined(nodes)) != len(nodes):
        raise ValueError("nodes must be the fewest that hold their blocks, got neighbours that make one")


def _check(node: BlockSums, *, classify: bool, start: int) -> None:
    """Check the sums of one node, whose rows begin at ``start``."""
    columns, outputs = node.moment[0].shape
    gram, moment = unpacked(node.gram[0] + node.gram[1], columns), node.moment[0] + node.moment[1]
    square, row = node.longest
    if row < start:
        raise ValueError(f"longest row must be one of the node from row {start} on, got {row}")
    if not square >= 0:
        raise ValueError(f"longest row must have a square >= 0, got {square!r}")
    sums = Sums(
        node.n_records,
        Gram(gram, MARGIN * UNIT, node.gram_rest),
        Moment(moment, node.moment_rest),
        moment[-1],
        node.squares[0] + node.squares[1],
        (row - start, float(np.sqrt(square + 1.0))),
    )
    check_sums(sums, columns=columns, outputs=outputs, intercept=True, classify=classify)
