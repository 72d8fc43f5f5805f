"""Records of a fit or a change, as a working model keeps them: blocks of rows, and a tree of salted hashes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge._types import AnyArray
from expunge.certificates.residual import RecordTree
from expunge.data.identifiers import exact_ids
from expunge.estimators._records import exact_ids as given_ids
from expunge.runs.residual import Rows
from expunge.runs.residual.answers import Answers, Label
from expunge.runs.residual.objective import block_rows

__all__ = ["SparseRows", "blocks_and_tree", "ids_in", "new_weights", "people_of", "positions_of", "weights_of"]

Float64 = NDArray[np.float64]


class SparseRows(Protocol):
    """A sparse matrix whose rows can be sliced."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    def __getitem__(self, part: slice, /) -> SparseRows:
        """Return some rows."""

    def toarray(self) -> Float64:
        """Return a dense copy."""


def blocks_and_tree(
    X: Float64 | SparseRows,
    y: AnyArray,
    answers: Answers,
    *,
    weights: Float64 | None,
    ids: AnyArray,
    fit_intercept: bool,
    classes: Sequence[Label] | None,
    key: bytes | None = None,
    salts: NDArray[np.uint8] | None = None,
) -> tuple[tuple[Rows, ...], RecordTree]:
    """Return copies of records in blocks, each dense and with its constant column, and the tree of their hashes.

    Parameters
    ----------
    X : ndarray of float64 or sparse matrix of shape (n, n_features)
        Features, which are made dense a block at a time.
    y : ndarray of shape (n,) or (n, n_outputs)
        Labels or targets, for the hashes.
    answers : Answers
        The same, for the loss.
    weights : ndarray of float64, shape (n,), or None
        Of the losses.
    ids : ndarray of shape (n,)
        Ids.
    fit_intercept : bool
        Whether a constant column is appended.
    classes : sequence or None
        List of classes.
    key : bytes, optional
        Secret key of an earlier tree.
    salts : ndarray of uint8, shape (n, 16), optional
        Salts of an earlier tree, for dense features.
    """
    d = X.shape[1]
    blocks: list[Rows] = []
    tree: RecordTree | None = None
    sparse = not isinstance(X, np.ndarray)
    for part, dense in _dense(X, block_rows(d + fit_intercept)):
        rows = np.ones((len(dense), d + fit_intercept))
        rows[:, :d] = dense
        mine = None if weights is None else weights[part].copy()
        labels = None if answers.labels is None else answers.labels[part].copy()
        targets = None if answers.targets is None else answers.targets[part].copy()
        blocks.append(Rows(rows, labels, targets, mine))
        if sparse:
            if tree is None:
                tree = RecordTree.of(dense, y[part], ids=ids[part], classes=classes, weights=mine, key=key)
            else:
                tree = tree.with_(dense, y[part], ids=ids[part], weights=mine)
    if isinstance(X, np.ndarray):
        tree = RecordTree.of(X, y, ids=ids, classes=classes, weights=weights, key=key, salts=salts)
    assert tree is not None  # a fit has records
    return tuple(blocks), tree


def _dense(X: Float64 | SparseRows, size: int) -> Iterator[tuple[slice, Float64]]:
    for start in range(0, X.shape[0], size):
        part = slice(start, min(start + size, X.shape[0]))
        rows = X[part]
        yield part, rows if isinstance(rows, np.ndarray) else rows.toarray()


def weights_of(
    sample_weight: ArrayLike | None,
    class_weight: Mapping[Label, float] | str | None,
    y: AnyArray,
    *,
    classes: AnyArray | None = None,
) -> Float64 | None:
    """Return the weight of each record's loss, or None if all are 1.

    Raises
    ------
    ValueError
        If weights are negative, not finite or not one for each record, no record counts, a weight is that of no class,
        or they are to be "balanced", which would be computed from the data.
    TypeError
        If the weights of classes are no dictionary.
    """
    weights = None
    if sample_weight is not None:
        weights = _validate.real_array("sample_weight", sample_weight, low=0.0).copy()
        if weights.ndim == 0:
            weights = np.full(len(y), float(weights))
        if weights.shape != (len(y),):
            raise ValueError(f"sample_weight must have shape {(len(y),)}, got {weights.shape}")
        if not weights.any():
            raise ValueError("sample_weight must leave a record that counts, got zeros only")
    if class_weight is None:
        return weights
    if isinstance(class_weight, str):
        raise ValueError(
            f"class_weight must be a dictionary of constants, got {class_weight!r}: weights computed from the data "
            "depend on every record"
        )
    if not isinstance(class_weight, Mapping):
        raise TypeError(f"class_weight must be a dictionary from labels to weights, got {type(class_weight).__name__}")
    by_class, known = np.ones(len(y)), [] if classes is None else classes.tolist()
    for label, weight in class_weight.items():
        if label not in known:  # "1" is not 1; such a weight would change nothing, silently
            raise ValueError(f"class_weight must be for the classes {known!r}, got a weight for {label!r}")
        by_class[y == label] = _validate.number(f"class_weight[{label!r}]", weight, low=0.0)
    result = by_class if weights is None else by_class * weights
    if not result.any():
        raise ValueError("class_weight must leave a record that counts, got weights of 0 for all of them")
    return result


def ids_in(name: str, ids: ArrayLike) -> AnyArray:
    """Return one id, or several, exactly.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, if there is none, or one is neither a whole number nor text: True is not 1.
    """
    _validate.refuse_masks(name, ids)
    return exact_ids(given_ids(name, ids))


def positions_of(tree: RecordTree, *, ids: ArrayLike | None, rows: ArrayLike | None) -> NDArray[np.int64]:
    """Return the positions of the records that are named by ids, sorted, or by positions, as they are given.

    Raises
    ------
    TypeError
        If none or both are given, or ids are of another kind than those of the model (7 is not "7").
    ValueError
        If an id or a position does not exist, or a position is named twice.
    """
    if (ids is None) == (rows is None):
        raise TypeError(
            f"records must be named by one of ids and rows, got {'both' if rows is not None else 'neither'}"
        )
    if ids is None:
        return _validate.row_indices("rows", rows, tree.n_records)
    wanted = ids_in("ids", ids)
    if (wanted.dtype.kind == "U") != (tree.ids.dtype.kind == "U"):
        kind = "text" if tree.ids.dtype.kind == "U" else "whole numbers"
        raise TypeError(f"ids must be {kind}, as the ids of this model, got {wanted.tolist()[0]!r}")
    found = np.isin(tree.ids, wanted)
    missing = wanted[~np.isin(wanted, tree.ids[found])]
    if len(missing):
        raise ValueError(f"ids must be those of records in the model, got {missing.tolist()[0]!r}, which none has")
    return np.flatnonzero(found)


def people_of(tree: RecordTree, positions: NDArray[np.int64]) -> tuple[AnyArray, list[NDArray[np.int64]]]:
    """Return the ids of records in the order of their first mention, and the sorted positions of all that each has."""
    names, codes = np.unique(tree.ids, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(len(names) + 1))
    wanted = list(dict.fromkeys(codes[positions].tolist()))
    return names[wanted], [order[ends[one] : ends[one + 1]] for one in wanted]


def new_weights(sample_weight: ArrayLike, n: int) -> Float64:
    """Return the weights of n new records.

    Raises
    ------
    ValueError
        If they are negative, not finite, or not one for each record.
    """
    weights = _validate.real_array("sample_weight", sample_weight, ndim=1, low=0.0)
    if len(weights) != n:
        raise ValueError(f"sample_weight must have length {n}, got {len(weights)}")
    return weights
