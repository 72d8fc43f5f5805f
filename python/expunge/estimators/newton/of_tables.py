"""The half of a Newton estimator that deals with tables of records: it fits, adds, amends and attaches them."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from expunge import _validate
from expunge._types import AnyArray
from expunge.certificates.residual import RecordTree, ResidualModel
from expunge.data.blocks import Records
from expunge.data.folding import Fold
from expunge.data.identifiers import exact_ids
from expunge.estimators.newton.attaching import Search
from expunge.estimators.newton.given import GivenRecords
from expunge.estimators.newton.records import new_weights
from expunge.estimators.newton.result import Updated
from expunge.estimators.newton.tables import Form, TableObjective, TablePart, TableRows, rows_of, tree_of
from expunge.estimators.released import require_features
from expunge.runs.residual import GradientSums, Objective, Rows

__all__ = ["OfTables"]

Float64 = NDArray[np.float64]
Self = TypeVar("Self", bound="OfTables")


class OfTables(GivenRecords):
    """A Newton estimator whose records may stay in their tables."""

    fit_intercept: bool
    n_features_in_: int
    feature_names_in_: NDArray[np.object_]

    if TYPE_CHECKING:  # of the other half
        _claim: Any
        _begin: Any
        _result: Any

    def _learn_table(
        self: Self,
        records: Records,
        *,
        loss: str,
        n_outputs: int,
        classes: AnyArray | None,
        weights: Float64 | None,
        conditions: tuple[str, ...],
    ) -> Self:
        """Fit a table, which is read again at each pass and of which no row is kept."""
        claim, n = self._claim(), records.n_records
        labels = None if classes is None else tuple(classes.tolist())
        layout = ResidualModel(self._kind, records.n_features, n_outputs, bool(self.fit_intercept), labels)
        form = Form(loss, labels, n_outputs, layout.fit_intercept)
        part = TablePart.whole(records, weights)

        def given() -> tuple[Objective, RecordTree]:
            tree = tree_of([part], form, ids=None if records.has_ids else exact_ids(np.arange(n)))
            return TableObjective(TableRows([part], tree, form), loss, layout.shape[1], n_outputs, claim.alpha), tree

        self.n_features_in_ = records.n_features
        if hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        if records.feature_names is not None:
            self.feature_names_in_ = np.array(records.feature_names, dtype=object)
        self._begin(given, n, claim=claim, layout=layout, conditions=conditions, numbered=not records.has_ids)
        return self

    def attach(self: Self, *records: Records, others: str = "refuse") -> Self:
        """Take the table that holds this model's records from now on: after `load`, or after its owner wrote it anew.

        Parameters
        ----------
        *records : Records
            The table, or several one after the other. With ids the records may come in any order, and ``ids_`` has
            that order from then on; without, in that of ``ids_``.
        others : {"refuse", "omit"}, default "refuse"
            Whether rows that are no records of the model are passed over, such as those of records that were deleted
            from it while the table is not yet written without them. Without ids they are told from the others by their
            number while the table holds all rows that the model ever numbered, and then by their hashes: of rows that
            are alike, the first are taken.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If the model holds its records itself, or this is no table.
        ValueError
            If a record is missing, too many, or another than it was, named by its id and place; or if the gradient
            there is not what the certificate needs.

        Notes
        -----
        One pass compares every row with its salted hash and proves the bound of the last release again.

        Examples
        --------
        >>> import numpy as np
        >>> from expunge import NewtonRidge
        >>> from expunge.data import open_records
        >>> X, y, ids = np.eye(4), np.arange(4.0), ["a", "b", "c", "d"]
        >>> model = NewtonRidge().fit(open_records(X, target=y, ids=ids)).unlearn("b").model
        >>> kept = [0, 2, 3]
        >>> model.attach(open_records(X[kept], target=y[kept], ids=np.array(ids)[kept])).ids_.tolist()
        ['a', 'c', 'd']
        >>> model.attach(open_records(X, target=y, ids=ids), others="omit").ids_.tolist()
        ['a', 'c', 'd']
        """
        check_is_fitted(self)
        state = self._state
        if not isinstance(state.objective, TableObjective):
            raise TypeError("attach is for models of tables: this one was fitted on arrays and holds its records")
        _validate.choice("others", others, ("refuse", "omit"))
        if not records:
            raise TypeError("attach needs the table of this model's records, got none")
        for one in records:
            if not isinstance(one, Records):
                raise TypeError(f"records must be a table, as open_records returns it, got {type(one).__name__}")
            self._require_table(one)
        form, weights = state.objective.blocks.form, state.objective.blocks.weights()
        search = Search(
            records, state.tree, form, weights=weights, next_number=self._next_number, others=others == "omit"
        )
        sums: Fold[GradientSums] = Fold(operator.add)
        for rows in search:
            sums.add(state.objective.sums_of(rows, state.theta))
        found = search.found()
        bound = sums.total().norm_bound(state.theta, alpha=state.objective.alpha)
        if not bound <= state.claim.allowance:
            raise ValueError(
                f"the gradient at the model's parameters is bounded by {bound!r} on these records, and the claim "
                f"allows {state.claim.allowance!r}: this is not the model of these records"
            )
        same = np.array_equal(found.places, np.arange(len(found.places)))
        tree = state.tree if same else state.tree.reordered(found.places)
        parts, first = [], 0
        for table, kept in zip(records, found.kept, strict=True):
            mine = found.places[first : first + int(kept.sum())]
            first += len(mine)
            of_rows = None if weights is None else np.ones(len(kept))
            if weights is not None and of_rows is not None:
                of_rows[kept] = weights[mine]
            if len(mine):
                parts.append(TablePart(table, kept, of_rows))
        objective = replace(state.objective, blocks=TableRows(parts, tree, form))
        self._state = replace(state, objective=objective, tree=tree)
        return self

    def _require_table(self, records: Records) -> None:
        require_features(records, n_features=self.n_features_in_, names=getattr(self, "feature_names_in_", None))
        if not records.has_targets:
            raise ValueError("X must be a table with targets: open it with target= or target_column=")

    def _refuse_arrays(self) -> None:
        if isinstance(self._state.objective, TableObjective):
            raise TypeError(
                "X must be a table of records, as this model's are, with its own y and ids: "
                "expunge.data.open_records(X, target=y, ids=ids)"
            )

    def _table_of(
        self, records: Records, y: ArrayLike | None, record_ids: ArrayLike | None, sample_weight: ArrayLike | None
    ) -> tuple[TablePart, Rows, AnyArray, AnyArray | None]:
        """Return a table's rows, answers and ids, after everything that does not go with it was refused."""
        if y is not None or record_ids is not None:
            raise TypeError("y and ids must be omitted for a table of records, which has its own")
        self._require_table(records)
        weights = None if sample_weight is None else new_weights(sample_weight, records.n_records)
        state = self._state
        layout = state.layout
        part = TablePart.whole(records, weights)
        form = Form(state.objective.loss, layout.classes, layout.n_outputs, layout.fit_intercept)
        return (part, *rows_of(part, form))

    def _add_table(
        self: Self,
        records: Records,
        y: ArrayLike | None,
        record_ids: ArrayLike | None,
        sample_weight: ArrayLike | None,
    ) -> Updated[Self]:
        state = self._state
        part, new, answers, given = self._table_of(records, y, record_ids, sample_weight)
        k = len(new)
        names = self._new_ids(given, k)
        tree = state.tree.with_(new.X[:, : state.layout.n_features], answers, ids=names, weights=new.weights)
        objective = state.objective
        more = objective.more(part, tree) if isinstance(objective, TableObjective) else objective.with_rows(new)
        result: Updated[Self] = self._result(*state.changed("add", more, tree, n_changed=k, gone=None, new=new))
        if self._next_number >= 0:
            result.model._next_number = self._next_number + k
        return result

    def _amend_table(
        self: Self,
        records: Records,
        ids: ArrayLike | None,
        rows: ArrayLike | None,
        y: ArrayLike | None,
        sample_weight: ArrayLike | None,
    ) -> Updated[Self]:
        state = self._state
        part, new, answers, given = self._table_of(records, y, None, sample_weight)
        if given is not None and ids is None and rows is None:
            ids = given
        order = self._one_row_each(ids, rows)
        if len(order) != len(new):
            raise ValueError(f"X must have a row for each of {len(order)} records, got {len(new)}")
        names = state.tree.ids[order]
        if given is not None and given.tolist() != names.tolist():
            raise ValueError(
                "X must have the ids of the records that are amended, in the order in which they are named"
            )
        where = np.sort(order)
        old = state.objective.take(where)
        if sample_weight is None and old.weights is not None:  # the old ones
            kept = np.empty(len(order))
            kept[np.argsort(order, kind="stable")] = old.weights
            part, new = replace(part, weights=kept), replace(new, weights=kept)
        features = new.X[:, : state.layout.n_features]
        if isinstance(state.objective, TableObjective):
            if len(where) == state.tree.n_records:
                raise ValueError("X must leave a record as it is: fit a new model on data that are all new")
            fewer = state.tree.without(where)
            tree = fewer.with_(features, answers, ids=names, weights=new.weights)
            objective: Objective = state.objective.remaining(where, fewer).more(part, tree)
        else:
            place = np.argsort(order, kind="stable")
            new = new.take(place)
            objective = state.objective.replacing(where, new)
            tree = state.tree.replaced(where, features[place], answers[place], weights=new.weights)
        self._refuse_lost_class(objective, old)
        result: Updated[Self] = self._result(
            *state.changed("amend", objective, tree, n_changed=len(where), gone=old, new=new)
        )
        return result
