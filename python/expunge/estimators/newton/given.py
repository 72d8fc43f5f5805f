"""Records that are named or given to a Newton estimator: which ones, and what they hold, as its loss takes them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import validate_data

from expunge import _validate
from expunge._types import AnyArray
from expunge.data.constants import CONDITIONS
from expunge.data.identifiers import exact_ids
from expunge.estimators._records import ROW_NUMBERS, ids_of_fit, refuse_other_people
from expunge.estimators.newton.records import ids_in, positions_of
from expunge.estimators.newton.working import Working
from expunge.runs.residual import Objective, Rows
from expunge.runs.residual.answers import Answers, answers_of

__all__ = ["GivenRecords"]

Float64 = NDArray[np.float64]


class GivenRecords:
    """The half of a Newton estimator that reads what its callers name and give."""

    _kind: ClassVar[str]
    _state: Working
    _next_number: int

    def _refuse_lost_class(self, objective: Objective, gone: Rows) -> None:
        """Refuse to lose the last record of a class whose name came from the data."""
        classes = self._state.layout.classes
        if classes is None or CONDITIONS["classes"] not in self._state.conditions:
            return
        lost = set(_numbers(gone))
        for block in objective.blocks:
            lost -= set(_numbers(block))
            if not lost:
                return
        raise ValueError(
            f"this leaves no record of class {classes[min(lost)]!r}, but the model and its releases would still name "
            "it: fit with classes= given"
        )

    def _one_row_each(self, ids: ArrayLike | None, rows: ArrayLike | None) -> NDArray[np.int64]:
        """Return the position of each record named, in the order given."""
        tree = self._state.tree
        if rows is not None and ids is None:
            _validate.row_indices("rows", rows, tree.n_records)
            return np.atleast_1d(np.asarray(rows, dtype=np.int64))
        where = positions_of(tree, ids=ids, rows=rows)
        assert ids is not None  # positions_of has refused both and neither
        wanted = ids_in("ids", ids)
        if len(where) != len(wanted):
            raise ValueError("ids must name one row each, got an id that is repeated or has several rows: say rows=")
        places = dict(zip(tree.ids[where].tolist(), where.tolist(), strict=True))
        return np.array([places[one] for one in wanted.tolist()], dtype=np.int64)

    def _new_features(self, X: ArrayLike, n: int | None) -> Float64:
        _validate.refuse_masks("X", X)
        checked = validate_data(self, X, dtype=np.float64, reset=False, accept_sparse="csr")
        found: Float64 = checked.toarray() if hasattr(checked, "toarray") else checked
        if n is not None and len(found) != n:
            raise ValueError(f"X must have a row for each of {n} records, got {len(found)}")
        return found

    def _new_answers(self, y: ArrayLike, n: int) -> AnyArray:
        """Return labels or targets as hashes take them, shape (n,) or (n, q)."""
        _validate.refuse_masks("y", y)
        layout = self._state.layout
        array = np.asarray(y)
        if array.ndim == 0 or len(array) != n:
            raise ValueError(f"y must have one entry for each of {n} records, got shape {array.shape}")
        if layout.classes is None:
            array = _validate.real_array("y", array)
            array = array.reshape(n, -1)
        answers_of(array, loss=self._state.objective.loss, classes=layout.classes, n_outputs=layout.n_outputs)
        return array

    def _old_answers(self, old: Rows) -> AnyArray:
        classes = self._state.layout.classes
        if classes is None:
            assert old.targets is not None
            return old.targets
        return np.asarray([classes[number] for number in _numbers(old)])

    def _rows(self, features: Float64, answers: AnyArray, weights: Float64 | None) -> Rows:
        layout = self._state.layout
        found: Answers = answers_of(
            answers, loss=self._state.objective.loss, classes=layout.classes, n_outputs=layout.n_outputs
        )
        X = np.ones((len(features), layout.shape[1]))
        X[:, : layout.n_features] = features
        return Rows(X, found.labels, found.targets, weights)

    def _new_ids(self, record_ids: ArrayLike | None, n: int, *, table: object = None) -> AnyArray:
        """Return the ids of new records: those given, those of a pandas table's index, or the next numbers."""
        numbered = self._next_number >= 0
        if record_ids is not None:
            if numbered:
                raise ValueError("record_ids must be omitted: this model numbers its records, as fit was given no ids")
            names = ids_in("record_ids", record_ids)
            if len(names) != n:
                raise ValueError(f"record_ids must hold one id per row of X, {n}, got {len(names)}")
            refuse_other_people("X", table, names.tolist(), of="record_ids", strict=False)
            return names
        if not numbered:
            named = ids_of_fit(table, None, None, n)
            if named is None or named.origin == ROW_NUMBERS:
                raise ValueError("record_ids must be given, as they were to fit")
            return ids_in("the index of X", named.values)
        numbers = exact_ids(np.arange(self._next_number, self._next_number + n))
        try:
            refuse_other_people("X", table, numbers.tolist(), of="the numbers that go on")
        except ValueError as error:
            raise ValueError(
                f"{error}. This model numbers its records, as fit was given no ids; new ones are {numbers[0]} and on"
            ) from None
        return numbers


def _numbers(rows: Rows) -> list[int]:
    """Return the number of each row's class."""
    numbers = rows.labels if rows.labels is not None else np.argmax(rows.targets, axis=1)  # type: ignore[arg-type]
    found: list[int] = np.asarray(numbers).tolist()
    return found
