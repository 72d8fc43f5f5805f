"""Records of a model that stay in their tables: read again at every pass, each row compared with its salted hash.

The model holds hashes, salts and ids of its records, and no row. Records that were deleted from the model are passed
over; they stay in the table until its owner writes it without them, and `attach` then takes the new one.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from expunge import _validate
from expunge._types import AnyArray
from expunge.certificates.residual import RecordTree
from expunge.certificates.residual.hashing import SALT
from expunge.certificates.residual.records import contents_found
from expunge.data.blocks import Block, BlockWork, Records
from expunge.data.folding import fold, numbered_blocks
from expunge.data.identifiers import exact_ids
from expunge.runs.residual import GradientSums, Objective, Rows
from expunge.runs.residual.answers import Answers, Label, answers_of
from expunge.runs.residual.gradients import LOSSES
from expunge.runs.residual.objective import GradientWork, RowWork

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
Result = TypeVar("Result")


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
        for part, numbers, given in self.shares():
            for number, block in numbered_blocks(part.records, numbers):
                yield compared(part.records, block, given(number), self.form)

    def shares(self) -> Iterator[tuple[TablePart, list[int], Callable[[int], Share]]]:
        """Yield each table with the numbers of its blocks that hold records, and what their rows are compared with."""
        self.require_attached()
        contents, salts, ids = self.tree.contents, self.tree.salts, self.tree.ids
        first = 0
        for part, count in zip(self.parts, self._counts, strict=True):
            rows, size = np.flatnonzero(part.kept), part.records.block_rows

            def given(
                number: int, part: TablePart = part, rows: NDArray[np.int64] = rows, size: int = size, at: int = first
            ) -> Share:
                low, high = np.searchsorted(rows, [number * size, (number + 1) * size])
                mine, where = rows[low:high], slice(at + low, at + high)
                whole = len(mine) == min(size, len(part.kept) - number * size)
                weights = None if part.weights is None else part.weights[mine]
                local = None if whole else mine - number * size
                return Share(local, contents[where], salts[where], ids[where], weights)

            yield part, np.unique(rows // size).tolist(), given
            first += count

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
                weights = None if part.weights is None else part.weights[block.start + local]
                share = Share(local, contents[where], salts[where], self.tree.ids[positions[where]], weights)
                yield compared(part.records, block, share, self.form)


class Share(NamedTuple):
    """Hashes, salts and ids that rows of a block are compared with, and weights of the rows.

    Attributes
    ----------
    local : ndarray of int64, or None
        Rows of the block that are records of the model; None where all are.
    contents, salts : ndarray of uint8
        Of these records.
    ids : ndarray
        Theirs.
    weights : ndarray of float64, or None
        Theirs.
    """

    local: NDArray[np.int64] | None
    contents: NDArray[np.uint8]
    salts: NDArray[np.uint8]
    ids: AnyArray
    weights: Float64 | None


def compared(records: Records, block: Block, share: Share, form: Form) -> Rows:
    """Return the records of a block as the loss takes them.

    Raises
    ------
    ValueError
        Naming the first row that is not what it was when it was learned.
    """
    features, y, ids = block.X, np.asarray(block.y), block.ids
    if share.local is not None:
        features, y = features[share.local], y[share.local]
        ids = None if ids is None else ids[share.local]
    n, p = features.shape
    X = np.empty((n, p + form.fit_intercept))
    X[:, :p], X[:, p:] = features, 1.0
    answers = answers_in(records, block, y, form)
    weights = np.ones(n) if share.weights is None else share.weights
    # Of the copy that is passed on: a file may change at any time.
    found = contents_found(X[:, :p], answers, y, weights, share.salts, classes=form.classes)
    wrong = (found != share.contents).any(axis=1)
    if ids is not None:
        wrong |= np.asarray(ids != share.ids)
    if wrong.any():
        row = int(wrong.argmax())
        place = records.place(block.start + (row if share.local is None else int(share.local[row])))
        raise ValueError(
            f"{place}: the record {share.ids.tolist()[row]!r} of the model is not what it was when it was learned; "
            "restore the table, or fit a new model"
        )
    return Rows(X, answers.labels, answers.targets, share.weights)


@dataclass(frozen=True, eq=False)
class _Compared(BlockWork[Share, Result]):
    """Work on the records of a model in a block, once they are compared with their hashes."""

    form: Form
    work: RowWork[Result]

    def of(self, records: Records, block: Block, given: Share, *, threads: int | None) -> Result:
        return self.work.of(compared(records, block, given, self.form), threads=threads)

    def both(self, one: Result, two: Result) -> Result:
        return self.work.both(one, two)


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
    secret = secrets.token_bytes(32) if key is None else key
    n, first = sum(part.records.n_records for part in parts), 0
    salts = np.frombuffer(secrets.token_bytes(n * SALT), dtype=np.uint8).reshape(n, SALT)
    contents: list[NDArray[np.uint8]] = []
    names: list[AnyArray] = []
    for part in parts:
        size, own = part.records.block_rows, salts[first : first + part.records.n_records]

        def given(
            number: int, part: TablePart = part, own: NDArray[np.uint8] = own, size: int = size
        ) -> tuple[NDArray[np.uint8], Float64 | None]:
            where = slice(number * size, (number + 1) * size)
            return own[where], None if part.weights is None else part.weights[where]

        found = fold(part.records, _Hashing(form), given=given)
        contents += found.contents
        names += found.ids
        first += len(own)
    if ids is None:
        if len({one.dtype.kind == "U" for one in names}) > 1:
            raise TypeError("ids must be all text or all numbers, got both")
        big = any(one.dtype.kind == "O" for one in names)  # NumPy would make floats of them
        ids = np.concatenate([one.astype(object) if big else one for one in names])
    return RecordTree.of_hashes(
        ids=ids, key=secret, contents=np.concatenate(contents), salts=salts, classes=form.classes, takes_records=True
    )


class _Hashed(NamedTuple):
    contents: tuple[NDArray[np.uint8], ...]
    ids: tuple[AnyArray, ...]


@dataclass(frozen=True, eq=False)
class _Hashing(BlockWork[tuple[NDArray[np.uint8], Float64 | None], _Hashed]):
    """Content hashes of rows under given salts, and their ids."""

    form: Form

    def of(
        self, records: Records, block: Block, given: tuple[NDArray[np.uint8], Float64 | None], *, threads: int | None
    ) -> _Hashed:
        salts, weights = given
        y = np.asarray(block.y)
        answers = answers_in(records, block, y, self.form)
        X = np.ascontiguousarray(block.X, dtype=np.float64)
        factors = np.ones(len(X)) if weights is None else weights
        found = contents_found(X, answers, y, factors, salts, classes=self.form.classes)
        return _Hashed((found,), () if block.ids is None else (block.ids,))

    def both(self, one: _Hashed, two: _Hashed) -> _Hashed:
        return _Hashed(one.contents + two.contents, one.ids + two.ids)


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
        sums, found = self.folded(GradientWork(theta, self.loss, residuals=residuals is not None))
        if residuals is not None:
            residuals[...] = np.concatenate(found)
        return sums

    def folded(self, work: RowWork[Result]) -> Result:
        """Return what work on all records adds up to: blocks of a table in a binary tree, tables one after the other.

        Who works on them is up to each table.
        """
        form = self.blocks.form
        first, *others = (
            fold(part.records, _Compared(form, work), numbers=numbers, given=given)
            for part, numbers, given in self.blocks.shares()
        )
        return functools.reduce(work.both, others, first)

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
