"""One pass over the table of a model that holds no rows: the records in use, with proof that they are those of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expunge._types import AnyArray
from expunge.data.blocks import Block, Records, rows_per_block
from expunge.data.row_digests import DigestTree, block_digest, table_digest
from expunge.data.statistics import ClassCodes
from expunge.estimators._history import History

__all__ = ["Part", "TablePass", "gathered", "kind_of"]

Array = NDArray[np.float64]
Labels = NDArray[np.float64] | NDArray[np.int64]


class Part(NamedTuple):
    """Consecutive records in use.

    Attributes
    ----------
    numbers : ndarray of int64, shape (m,)
        Rows of the first fit.
    design, targets : ndarray of float64, shape (m, p) and (m, q)
        As the model sees them.
    ids : ndarray, or None
        Whose rows they are, as the table says.
    y : ndarray of shape (m,) or (m, q)
        Targets or labels as the table has them.
    labels : ndarray of float64, shape (m, q), or of int64, shape (m,)
        Targets, or the numbers of their classes.
    """

    numbers: NDArray[np.int64]
    design: Array
    targets: Array
    ids: AnyArray | None
    y: AnyArray
    labels: Labels

    def __len__(self) -> int:
        return len(self.numbers)

    def chosen(self, which: NDArray[np.bool_] | slice) -> Part:
        """Return some of the records."""
        ids = None if self.ids is None else self.ids[which]
        labels: Labels = self.labels[which]
        return Part(self.numbers[which], self.design[which], self.targets[which], ids, self.y[which], labels)


def gathered(parts: list[Part]) -> Part:
    """Return one part of several."""
    ids = None if parts[0].ids is None else np.concatenate([part.ids for part in parts if part.ids is not None])
    numbers, design, targets = (np.concatenate([part[i] for part in parts]) for i in range(3))
    y, labels = np.concatenate([part.y for part in parts]), np.concatenate([part.labels for part in parts])
    return Part(numbers, design, targets, ids, y, labels)


def kind_of(known: object, wanted: object) -> None:
    """Refuse ids of another kind than those of a table.

    Raises
    ------
    TypeError
        If one is a string and the other an integer: 7 is not "7".
    """
    if isinstance(known, str) != isinstance(wanted, str):
        kind = "strings" if isinstance(known, str) else "integers"
        raise TypeError(f"ids must hold {kind}, as the ids of the table are, got {wanted!r}")


@dataclass(frozen=True)
class TablePass:
    """The records in use of a table, part by part, in order. After the last one the digest of them all is compared.

    The table is that of the fit, as it was, or with the records gone that were deleted since, all or those of the first
    few deletions.

    Parameters
    ----------
    records : Records
        The table.
    history : History
        Of a model that holds no rows.
    intercept : bool
        Whether a constant column follows the features.
    classes : tuple, or None
        Labels that targets are, in the order of the columns.
    """

    records: Records
    history: History
    intercept: bool
    classes: tuple[str | int | float | bool, ...] | None

    def __post_init__(self) -> None:
        (n, columns), found = self.history.design.shape, self.records
        features, sizes = columns - self.intercept, {n - len(gone): gone for gone in self._gone()}
        if found.n_features != features:
            raise ValueError(f"table must have the {features} features of the model, got {found.n_features}")
        if not found.has_targets:
            raise ValueError("table must have the targets of the fit, got none")
        if found.n_records not in sizes:
            *between, left = sizes
            others = f", or the {left:,} that are left of them" if left < n else ""
            others += f" (or {', '.join(f'{size:,}' for size in between[1:])} of before)" if between[1:] else ""
            raise ValueError(f"table must hold the {n:,} records of the fit{others}, got {found.n_records:,}")

    def _gone(self) -> list[tuple[int, ...]]:
        """Return which rows had been deleted after each phase of the run."""
        return [phase.removed for phase in self.history.phases]

    @property
    def numbers(self) -> NDArray[np.int64]:
        """Row of the first fit that each row of the table is, shape (n_records,), int64."""
        n = len(self.history.design)
        kept = np.ones(n, dtype=bool)
        kept[list(next(gone for gone in self._gone() if n - len(gone) == self.records.n_records))] = False
        return np.flatnonzero(kept)

    @property
    def in_use(self) -> NDArray[np.bool_]:
        """Whether each row of the table is a record of the model still, shape (n_records,)."""
        deleted = np.zeros(len(self.history.design), dtype=bool)
        deleted[list(self.history.removed)] = True
        return ~deleted[self.numbers]

    def __iter__(self) -> Iterator[Part]:
        """Yield the parts.

        Raises
        ------
        ValueError
            After the last one, if the records are not those of the model.
        """
        history, records = self.history, self.records
        assert history.sums is not None
        outputs = history.targets.shape[1]
        numbers, in_use = self.numbers, self.in_use
        codes = None if self.classes is None else ClassCodes(self.classes)
        digests = _Digests(records.n_features, 0 if codes is None else outputs)
        for block in records.blocks():
            own = numbers[block.start : block.start + len(block)]
            kept = in_use[block.start : block.start + len(block)]
            labels = self._labels(block, codes, outputs)
            X, ids, y = block.X, block.ids, np.asarray(block.y)
            if not kept.all():
                X, labels, own, y = X[kept], labels[kept], own[kept], y[kept]
                ids = None if ids is None else ids[kept]
            if not len(own):
                continue
            digests.add(X, labels)
            design = np.empty((len(X), X.shape[1] + self.intercept))
            design[:, : X.shape[1]] = X
            if self.intercept:
                design[:, -1] = 1.0
            targets = labels
            if codes is not None:
                targets = np.zeros((len(X), outputs))
                targets[np.arange(len(X)), labels.astype(np.int64)] = 1.0
            yield Part(own, design, np.asarray(targets, dtype=np.float64), ids, y, labels)
        if digests.result(n_outputs=outputs, classes=self.classes) != history.sums.digest:
            raise ValueError(
                "table must hold the records that the model was made of, in their order, got others: a value, a target "
                "or the order has changed since (the digests differ)"
            )

    def rows(self) -> Iterator[tuple[Array, Array]]:
        """Yield the records in use with their targets, in one more pass."""
        for part in self:
            yield part.design, part.targets

    def _labels(self, block: Block, codes: ClassCodes | None, outputs: int) -> Labels:
        y = np.asarray(block.y)
        if codes is not None:
            return codes.codes(y, block.start)
        if y.dtype.kind not in "fiub" or y.reshape(len(y), -1).shape[1] != outputs:
            raise ValueError(f"table must have {outputs} targets that are numbers, got {y.dtype} of shape {y.shape}")
        return np.ascontiguousarray(y, dtype=np.float64).reshape(len(y), -1)


class _Digests:
    """Digest of records as blocks of a table of their own, whatever parts they come in."""

    def __init__(self, n_features: int, n_classes: int) -> None:
        self._rows, self._n_features, self._n_classes = rows_per_block(n_features=n_features), n_features, n_classes
        self._tree, self._start, self._waiting = DigestTree(), 0, 0
        self._pending: list[tuple[NDArray[np.floating], NDArray[np.generic]]] = []

    def add(self, X: NDArray[np.floating], targets: NDArray[np.generic]) -> None:
        while len(X):
            room = self._rows - self._waiting
            self._pending.append((X[:room], targets[:room]))
            self._waiting += min(room, len(X))
            X, targets = X[room:], targets[room:]
            if self._waiting == self._rows:
                self._close()

    def _close(self) -> None:
        if len(self._pending) == 1:
            X, targets = self._pending[0]
        else:
            X, targets = (np.concatenate(parts) for parts in zip(*self._pending, strict=True))
        self._tree.add(block_digest(X, targets, start=self._start, n_classes=self._n_classes))
        self._start += self._waiting
        self._pending, self._waiting = [], 0

    def result(self, *, n_outputs: int, classes: tuple[object, ...] | None) -> str:
        if self._waiting:
            self._close()
        return table_digest(
            self._tree.root,
            n_records=self._start,
            n_features=self._n_features,
            n_outputs=n_outputs,
            block_rows=self._rows,
            classes=classes,
        )
