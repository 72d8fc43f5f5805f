"""Records of a model that stay in their tables: read again at every pass, each row compared with its salted hash.

The model holds hashes, salts and ids of its records, and no row. Records that were deleted from the model are passed
over; they stay in the table until its owner writes it without them, and `attach` then takes the new one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from expunge import _validate
from expunge._types import AnyArray
from expunge.certificates.residual import RecordTree
from expunge.certificates.residual.records import contents_found
from expunge.data.blocks import Block, Records
from expunge.data.identifiers import exact_ids
from expunge.runs.residual import GradientSums, Objective, Rows
from expunge.runs.residual.answers import Answers, Label, answers_of
from expunge.runs.residual.gradients import LOSSES, SumTree

__all__ = [
    "Form",
    "TableObjective",
    "TablePart",
    "TableRows",
    "answers_in",
    "refuse_untargeted",
    "rows_of",
    "tree_of",
    "without",
]

Float64 = NDArray[np.float64]


class Form(NamedTuple):
    """How answers and rows of a table are read: the model's loss, classes, outputs, and whether it has an intercept."""

    loss: str
    classes: tuple[Label, ...] | None
    n_outputs: int
    fit_intercept: bool


@dataclass(frozen=True, eq=False)
class TablePart:
    """Rows of one table that are records of a model.

    Attributes
    ----------
    records : Records
        The table.
    kept : ndarray of bool, shape (n,)
        Which of its rows are.
    weights : ndarray of float64, shape (n,), or None
        Weight of each row's loss.
    """

    records: Records
    kept: NDArray[np.bool_]
    weights: Float64 | None

    @classmethod
    def whole(cls, records: Records, weights: Float64 | None) -> TablePart:
        """Return all rows of a table."""
        return cls(records, np.ones(records.n_records, dtype=bool), weights)


class TableRows:
    """Blocks of a model's records, read from their tables at each iteration and compared with the tree of hashes."""

    def __init__(
        self, parts: Sequence[TablePart], tree: RecordTree, form: Form, *, weights: Float64 | None = None
    ) -> None:
        self.parts, self.tree, self.form, self.detached = tuple(parts), tree, form, not parts
        if not parts:  # read from a file of the model, which holds no row
            self._weights, self._counts = weights, [tree.n_records]
            return
        self._counts = [int(part.kept.sum()) for part in self.parts]
        if sum(self._counts) != tree.n_records:
            raise ValueError(f"tables must hold the {tree.n_records} records of the model, got {sum(self._counts)}")

    def __len__(self) -> int:
        return sum(self._counts)

    def require_attached(self) -> None:
        """Refuse a model that does not know where its records lie.

        Raises
        ------
        RuntimeError
            Saying what to do.
        """
        if self.detached:
            raise RuntimeError(
                "this model was read from a file, which holds none of its records: call attach(records) with the table "
                "as it now stands"
            )

    def weights(self) -> Float64 | None:
        """Return the weights of all records in their order, or None where all are 1."""
        if self.detached:
            return self._weights
        if all(part.weights is None for part in self.parts):
            return None
        every = [np.ones(len(part.kept)) if part.weights is None else part.weights for part in self.parts]
        return np.concatenate([one[part.kept] for one, part in zip(every, self.parts, strict=True)])

    def __iter__(self) -> Iterator[Rows]:
        self.require_attached()
        at = 0
        contents, salts = self.tree.contents, self.tree.salts
        for part in self.parts:
            for block in part.records.blocks():
                local = np.flatnonzero(part.kept[block.start : block.start + len(block)])
                if len(local):
                    where = slice(at, at + len(local))
                    at += len(local)
                    yield self._rows(part, block, local, contents[where], salts[where], self.tree.ids[where])

    def take(self, positions: NDArray[np.int64]) -> Iterator[Rows]:
        """Yield the records at sorted positions, read from the blocks that hold them alone."""
        self.require_attached()
        contents, salts = self.tree.contents[positions], self.tree.salts[positions]
        first = at = 0
        for part, count in zip(self.parts, self._counts, strict=True):
            low, high = np.searchsorted(positions, [first, first + count])
            rows = np.flatnonzero(part.kept)[positions[low:high] - first]
            first += count
            size = part.records.block_rows
            for number in np.unique(rows // size).tolist():
                (block,) = part.records.blocks(start=number, stop=number + 1)
                local = rows[rows // size == number] - block.start
                where = slice(at, at + len(local))
                at += len(local)
                yield self._rows(part, block, local, contents[where], salts[where], self.tree.ids[positions[where]])

    def _rows(
        self,
        part: TablePart,
        block: Block,
        local: NDArray[np.int64],
        contents: NDArray[np.uint8],
        salts: NDArray[np.uint8],
        ids: AnyArray,
    ) -> Rows:
        every = len(local) == len(block)
        features = block.X if every else block.X[local]
        y = np.asarray(block.y) if every else np.asarray(block.y)[local]
        X = np.ones((len(local), features.shape[1] + self.form.fit_intercept))
        X[:, : features.shape[1]] = features
        answers = answers_in(part.records, block, y, self.form)
        weights = None if part.weights is None else part.weights[block.start + local]
        found = contents_found(
            np.ascontiguousarray(X[:, : features.shape[1]]),
            answers,
            y,
            np.ones(len(local)) if weights is None else weights,
            salts,
            classes=self.form.classes,
        )
        wrong = (found != contents).any(axis=1)
        if block.ids is not None:
            wrong |= np.asarray(block.ids[local] != ids)
        if wrong.any():
            row = int(wrong.argmax())
            place = part.records.place(block.start + int(local[row]))
            raise ValueError(
                f"{place}: the record {ids.tolist()[row]!r} of the model is not what it was when it was learned; "
                "restore the table, or fit a new model"
            )
        return Rows(X, answers.labels, answers.targets, weights)


def answers_in(records: Records, block: Block, y: AnyArray, form: Form) -> Answers:
    """Return the answers of rows of a block as the loss takes them, or refuse them with their place."""
    try:
        return answers_of(y, loss=form.loss, classes=form.classes, n_outputs=form.n_outputs)
    except (TypeError, ValueError) as error:
        raise type(error)(f"from {records.place(block.start)} on: {error}") from None


def tree_of(parts: Sequence[TablePart], form: Form, *, ids: AnyArray | None, key: bytes | None = None) -> RecordTree:
    """Return the tree of all rows of tables, in one pass; ``ids`` number rows of tables that have none.

    Raises
    ------
    TypeError, ValueError
        As reading refuses, and if answers do not fit.
    """

    def blocks() -> Iterator[tuple[Float64, AnyArray, AnyArray, Float64 | None]]:
        at = 0
        for part in parts:
            for block in part.records.blocks():
                assert block.y is not None  # tables of a fit have targets
                answers_in(part.records, block, block.y, form)
                where = slice(block.start, block.start + len(block))
                names = block.ids if ids is None else ids[at : at + len(block)]
                at += len(block)
                assert names is not None
                weights = None if part.weights is None else part.weights[where]
                yield np.asarray(block.X, dtype=np.float64), block.y, names, weights

    return RecordTree.of_blocks(blocks(), classes=form.classes, key=key)


@dataclass(frozen=True, eq=False)
class TableObjective(Objective):
    """An objective on records that stay in their tables.

    Attributes
    ----------
    blocks : TableRows
        The records, a block at a time.
    """

    blocks: TableRows  # type: ignore[assignment]

    def __post_init__(self) -> None:
        _validate.choice("loss", self.loss, LOSSES)
        _validate.number("alpha", self.alpha, low=0.0, open_low=True)

    def __len__(self) -> int:
        return len(self.blocks)

    def sums(self, theta: Float64, *, residuals: Float64 | None = None) -> GradientSums:
        """Return the sums over all records, one pass, blocks added in a binary tree."""
        tree, start = SumTree(), 0
        for block in self.blocks:
            kept = None if residuals is None else residuals[start : start + len(block)]
            start += len(block)
            tree.add(self.sums_of(block, theta, residuals=kept))
        return tree.total()

    def take(self, positions: NDArray[np.int64]) -> Rows:
        """Return the records at sorted positions; only the blocks that hold them are read."""
        taken = list(self.blocks.take(positions))
        result = taken[0]
        for rows in taken[1:]:
            result = result.then(rows)
        return result

    def remaining(self, positions: NDArray[np.int64], tree: RecordTree) -> TableObjective:
        """Return the objective without the records at sorted positions; ``tree`` is that of the others."""
        parts, first = [], 0
        for part in self.blocks.parts:
            rows = np.flatnonzero(part.kept)
            low, high = np.searchsorted(positions, [first, first + len(rows)])
            kept = part.kept.copy()
            kept[rows[positions[low:high] - first]] = False
            first += len(rows)
            if kept.any():
                parts.append(TablePart(part.records, kept, part.weights))
        return replace(self, blocks=TableRows(parts, tree, self.blocks.form))

    def more(self, part: TablePart, tree: RecordTree) -> TableObjective:
        """Return the objective with the rows of a further table after the others."""
        return replace(self, blocks=TableRows((*self.blocks.parts, part), tree, self.blocks.form))


def without(objective: Objective, positions: NDArray[np.int64], tree: RecordTree) -> Objective:
    """Return an objective without the records at sorted positions; ``tree`` is that of the others."""
    if isinstance(objective, TableObjective):
        return objective.remaining(positions, tree)
    return objective.without(positions)


def rows_of(part: TablePart, form: Form) -> tuple[Rows, AnyArray, AnyArray | None]:
    """Return all rows of a table in memory, its answers as given, and its ids."""
    X, y, ids = [], [], []
    for block in part.records.blocks():
        X.append(np.asarray(block.X, dtype=np.float64))
        y.append(np.asarray(block.y))
        ids.append(block.ids)
    names = None if ids[0] is None else exact_ids([one for some in ids if some is not None for one in some.tolist()])
    answers_given = np.concatenate(y)
    answers = answers_of(answers_given, loss=form.loss, classes=form.classes, n_outputs=form.n_outputs)
    features = np.concatenate(X)
    rows = np.ones((len(features), features.shape[1] + form.fit_intercept))
    rows[:, : features.shape[1]] = features
    return Rows(rows, answers.labels, answers.targets, part.weights), answers_given, names


def refuse_untargeted(records: Records, y: object, record_ids: object) -> None:
    """Refuse a table without targets, and targets or ids that are given beside a table.

    Raises
    ------
    TypeError, ValueError
        Naming the argument.
    """
    if y is not None or record_ids is not None:
        raise TypeError("y and record_ids must be omitted for a table of records, which has its own")
    if not records.has_targets:
        raise ValueError("X must be a table with targets: open it with target= or target_column=")
