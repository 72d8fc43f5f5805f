"""The base of the Newton estimators: they fit, predict from released parameters, forget, correct and add records."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from expunge import _validate
from expunge._types import AnyArray
from expunge.certificates.residual import RecordTree, ResidualCertificate, ResidualEvidence, ResidualModel
from expunge.certificates.residual.agreed_noise import AgreedNoise
from expunge.data.blocks import Records
from expunge.data.identifiers import exact_ids
from expunge.estimators._conditions import SEED_CONDITION
from expunge.estimators._progress import dense_work, parts
from expunge.estimators._reading import WithReading
from expunge.estimators._records import ROW_NUMBERS, ids_of_fit, refuse_other_order, refuse_other_people
from expunge.estimators._seeds import seed_of
from expunge.estimators.newton import _storage
from expunge.estimators.newton.of_tables import OfTables
from expunge.estimators.newton.quotes import NewtonQuote
from expunge.estimators.newton.records import blocks_and_tree, new_weights, people_of, positions_of
from expunge.estimators.newton.result import Updated
from expunge.estimators.newton.tables import TableObjective, without
from expunge.estimators.newton.working import Claim, Work, Working
from expunge.estimators.released import Released, linear_scores, require_features, table_scores
from expunge.runs.noise import seeded_normals
from expunge.runs.residual import Objective
from expunge.runs.residual.answers import answers_of
from expunge.runs.residual.proved_inverse import LARGEST_ALPHA, LEAST_ALPHA

__all__ = ["NewtonModel"]

Float64 = NDArray[np.float64]
Self = TypeVar("Self", bound="NewtonModel")


class NewtonModel(OfTables, WithReading, BaseEstimator):  # type: ignore[misc]
    """A model fitted to a proved gradient and released with noise, whose records can be changed."""

    _kind: ClassVar[str]
    _released_class: ClassVar[type[Released]]

    alpha: float
    noise_std: float
    epsilon: float
    delta: float
    fit_intercept: bool
    releases: int
    random_state: int | np.random.RandomState | None
    _state: Working
    _work: Work
    _next_number: int

    # --- fitting -------------------------------------------------------------------------------

    def _claim(self) -> Claim:
        claim = Claim(
            epsilon=_validate.number("epsilon", self.epsilon, low=0.0),
            delta=_validate.number("delta", self.delta, low=0.0, high=1.0, open_low=True, open_high=True),
            noise_std=_validate.number("noise_std", self.noise_std, low=0.0, open_low=True),
            alpha=_validate.number("alpha", self.alpha, low=LEAST_ALPHA, high=LARGEST_ALPHA),
            releases=_validate.count("releases", self.releases, low=1),
        )
        if not claim.allowance > 0:
            raise ValueError(f"noise_std must leave room for a residual, got {claim.noise_std!r} with mu {claim.mu!r}")
        return claim

    def _learn(
        self: Self,
        X: Any,
        y: AnyArray,
        *,
        loss: str,
        n_outputs: int,
        classes: AnyArray | None,
        weights: Float64 | None,
        ids: AnyArray | None,
        conditions: tuple[str, ...],
    ) -> Self:
        """Fit checked data; y are the labels or targets as hashes take them."""
        claim, n = self._claim(), X.shape[0]
        labels = None if classes is None else tuple(classes.tolist())
        layout = ResidualModel(self._kind, X.shape[1], n_outputs, bool(self.fit_intercept), labels)
        answers = answers_of(y, loss=loss, classes=labels, n_outputs=n_outputs)
        names = exact_ids(np.arange(n)) if ids is None else ids

        def given() -> tuple[Objective, RecordTree]:
            blocks, tree = blocks_and_tree(
                X, y, answers, weights=weights, ids=names, fit_intercept=layout.fit_intercept, classes=labels
            )
            return Objective(blocks, loss, layout.shape[1], n_outputs, claim.alpha), tree

        return self._begin(given, n, claim=claim, layout=layout, conditions=conditions, numbered=ids is None)

    def _begin(
        self: Self,
        given: Callable[[], tuple[Objective, RecordTree]],
        n: int,
        *,
        claim: Claim,
        layout: ResidualModel,
        conditions: tuple[str, ...],
        numbered: bool,
    ) -> Self:
        """Find the optimum of what is given, an objective and the tree of its n records, and release it."""
        seed = seed_of(self.random_state)
        with parts("fit", work=dense_work(n, layout.shape[1], decompositions=layout.n_outputs)) as begin:
            begin("hashes")
            objective, tree = given()
            begin("optimum")
            state, work = Working.of(
                objective,
                tree,
                claim=claim,
                layout=layout,
                conditions=conditions,
                own_conditions=() if seed is None else (SEED_CONDITION,),
                normals=None if seed is None else seeded_normals(seed),
            )
        self._next_number = n if numbered else -1  # -1: records have ids of their own
        self._reading = None  # that of an earlier fit
        self._adopt(state, work)
        return self

    def _adopt(self, state: Working, work: Work) -> None:
        self._state, self._work = state, work
        self._fitted = self.get_params(deep=False)  # set_params changes nothing until the next fit
        self.certificate_ = state.certificate(work)

    def _ids(self, table: Any, column: Any, record_ids: ArrayLike | None, n: int) -> AnyArray | None:
        found = ids_of_fit(table, column, record_ids, n)
        return None if found is None or found.origin == ROW_NUMBERS else exact_ids(list(found.values))

    # --- parameters ----------------------------------------------------------------------------

    @property
    def _coef_rows(self) -> Float64:
        return self._state.released[:, : self.n_features_in_]

    @property
    def _intercept_row(self) -> Float64:
        state = self._state
        return state.released[:, -1] if state.layout.fit_intercept else np.zeros(len(state.released))

    @property
    def conditions_(self) -> tuple[str, ...]:
        """Conditions that the certificate of the last release rests on."""
        check_is_fitted(self)
        return self.certificate_.conditions

    @property
    def ids_(self) -> AnyArray:
        """Ids of the records now in the model, in their order, as a copy."""
        check_is_fitted(self)
        return self._state.tree.ids.copy()

    @property
    def releases_left_(self) -> int:
        """Releases that the budget still allows."""
        check_is_fitted(self)
        return self._state.claim.releases - self._state.release

    @property
    def ledger_salt_(self) -> bytes:
        """Secret of 32 bytes under which ledgers tell of the ids of this model's records."""
        check_is_fitted(self)
        return self._state.ledger_salt

    @property
    def evidence_(self) -> ResidualEvidence:
        """Evidence of the last release; confidential: it holds the parameters without noise."""
        check_is_fitted(self)
        return self._state.evidence(self._work, self.certificate_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_state")

    def _require_fitted(self) -> None:
        # As an AttributeError too, so that `hasattr(model, "coef_")` says what scikit-learn's users expect.
        check_is_fitted(self)

    def _scores(self, X: ArrayLike | Records) -> Float64:
        """Return scores of shape (n, q)."""
        check_is_fitted(self)
        if isinstance(X, Records):
            require_features(X, n_features=self.n_features_in_, names=getattr(self, "feature_names_in_", None))
            return table_scores(X, self._coef_rows, self._intercept_row)
        _validate.refuse_masks("X", X)
        rows = validate_data(self, X, dtype=np.float64, reset=False, accept_sparse="csr")
        return linear_scores(rows, self._coef_rows, self._intercept_row)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        text: str = super().__repr__(N_CHAR_MAX=N_CHAR_MAX)
        if not hasattr(self, "_state"):
            return text
        return f"{text}  <confidential: holds {len(self._state.objective):,} records and parameters without noise>"

    def quote(self, ids: ArrayLike | None = None, *, rows: ArrayLike | None = None, by_id: bool = False) -> NewtonQuote:
        """Return what deleting each record would take and show, without deleting any.

        Parameters
        ----------
        ids : int, str or sequence of them, optional
            Records to quote, all rows of each id.
        rows : int or sequence of int, optional
            Positions among the records now in the model. With neither, all records are quoted. The work is that of
            all in any case.
        by_id : bool, default False
            Quote ids, all records of each deleted together, rather than each record by itself. Rows name the ids that
            they belong to.

        Returns
        -------
        NewtonQuote
            Confidential: it tells of single records.

        Raises
        ------
        TypeError, ValueError
            If both are given, or a record does not exist; ValueError also if an id has all records there are.

        See Also
        --------
        unlearn : Delete records, with a certificate.

        Notes
        -----
        Bounds are those of `expunge.runs.residual.record_quotes` and, by id, of `group_quotes` beside it, rounding of
        the inverse Hessian included.

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> from expunge import NewtonRidge
        >>> X, y = load_diabetes(return_X_y=True)
        >>> quote = NewtonRidge().fit(X, y / 100).quote()
        >>> len(quote), bool((quote.sensitivity < 0.2).all())
        (442, True)
        """
        check_is_fitted(self)
        state = self._state
        every = ids is None and rows is None
        where = np.arange(len(state.objective)) if every else positions_of(state.tree, ids=ids, rows=rows)
        with parts("quote", work=2.0 * len(state.objective) * float(state.theta.size) ** 2) as begin:
            begin("inverse Hessian")
            if not by_id:
                return NewtonQuote(state.tree.ids[where], state.quotes(where), np.ones(len(where), dtype=np.int64))
            names, groups = people_of(state.tree, where)
            if any(len(rows) == len(state.objective) for rows in groups):
                raise ValueError(
                    f"ids must leave at least one record, got {names.tolist()[0]!r}, which has all of them"
                )
            sizes = np.array([len(rows) for rows in groups], dtype=np.int64)
            return NewtonQuote(names, state.group_quotes(groups), sizes, unit="id")

    # --- changes of the data -------------------------------------------------------------------

    def unlearn(self: Self, ids: ArrayLike | None = None, *, rows: ArrayLike | None = None) -> Updated[Self]:
        """Forget records: parameters polished on the data that remain, released with new noise.

        Parameters
        ----------
        ids : int, str or sequence of them, optional
            Whose records to delete: ids given to `fit` or `add`, all rows of each. Rows that came without ids are
            numbered from 0 in the order they came, and a number is never given twice.
        rows : int or sequence of int, optional
            Positions among the records now in the model. Give one of ``ids`` and ``rows``.

        Returns
        -------
        Updated
            ``.model``, a new working model without the records, ``.certificate`` (public), ``.evidence``
            (confidential) and ``.before_after``. This model is unchanged, and still holds the records: destroy it.

        Raises
        ------
        TypeError
            If none or both of ``ids`` and ``rows`` are given, or ids are of another kind (7 is not "7").
        ValueError
            If a record does not exist, none would remain, or the last record of a class would go while the list of
            classes was taken from the data.
        RuntimeError
            If the budget of releases is spent, or the optimum cannot be reached.

        Notes
        -----
        Certified (section 1 of ``docs/theory.md``, "Deletion by computed residual"): whatever happened before, the
        release cannot be told from the noisy optimum of the data that remain. Nothing is composed over deletions, and
        requests may depend on earlier releases. One release of the budget is charged, in the new model: go on from
        that. Two changes of one model would both be its next release, which no model can tell; a ledger refuses the
        second, and only one of them may be published.

        Examples
        --------
        >>> from sklearn.datasets import load_breast_cancer
        >>> from expunge import NewtonLogisticRegression
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> model = NewtonLogisticRegression(classes=[0, 1]).fit(X / 1000, y)
        >>> result = model.unlearn(7)
        >>> result.status, 7 in result.model.ids_
        ('certified', False)
        """
        check_is_fitted(self)
        state = self._state
        where = np.sort(positions_of(state.tree, ids=ids, rows=rows))
        name = "rows" if ids is None else "ids"
        if len(where) == len(state.objective):
            raise ValueError(f"{name} must leave at least one record, got all that remain")
        gone = state.objective.take(where)
        tree = state.tree.without(where)
        objective = without(state.objective, where, tree)
        self._refuse_lost_class(objective, gone)
        return self._result(*state.changed("unlearn", objective, tree, n_changed=len(where), gone=gone, new=None))

    def amend(
        self: Self,
        ids: ArrayLike | None = None,
        *,
        rows: ArrayLike | None = None,
        X: ArrayLike | Records | None = None,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Updated[Self]:
        """Correct records: the old content is forgotten as by `unlearn`.

        Parameters
        ----------
        ids : int, str or sequence of them, optional
            Records to correct, each the id of one row.
        rows : int or sequence of int, optional
            Positions among the records now in the model. Give one of ``ids`` and ``rows``.
        X : array-like of shape (k, n_features), or Records, optional
            New features, in the order of ``ids`` or ``rows``, which an index of pandas must be too; the old ones if
            omitted. A table has its own ``y`` and,
            where the others name no records, its own ids; a model of tables takes nothing else, and its corrected
            records come last.
        y : array-like of shape (k,) or (k, n_outputs), optional
            New labels or targets; the old ones if omitted.
        sample_weight : array-like of shape (k,), optional
            New weights of the losses; the old ones if omitted. Class weights are not applied to them.

        Returns
        -------
        Updated
            As `unlearn`.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `unlearn` and `fit`; ValueError also if an id has several rows, or nothing is given to correct.

        Examples
        --------
        >>> import numpy as np
        >>> from expunge import NewtonRidge
        >>> model = NewtonRidge().fit(np.eye(4), np.arange(4.0), record_ids=["a", "b", "c", "d"])
        >>> model.amend("b", y=[5.0]).certificate.n_records
        4
        """
        check_is_fitted(self)
        state = self._state
        if isinstance(X, Records):
            return self._amend_table(X, ids, rows, y, sample_weight)
        self._refuse_arrays()
        order = self._one_row_each(ids, rows)
        where = np.sort(order)
        if X is None and y is None and sample_weight is None:
            raise TypeError("amend needs new X, y or sample_weight, got none of them")
        named = state.tree.ids[order].tolist()
        for name, given in (("X", X), ("y", y), ("sample_weight", sample_weight)):
            refuse_other_people(name, given, named, of="rows" if ids is None else "ids")
        place = np.argsort(order, kind="stable")  # of the given rows, in the order of positions
        old = state.objective.take(where)
        d, k = state.layout.n_features, len(where)
        features = old.X[:, :d] if X is None else self._new_features(X, k)[place]
        answers = self._old_answers(old) if y is None else self._new_answers(y, k)[place]
        weights = old.weights
        if sample_weight is not None:
            weights = new_weights(sample_weight, k)[place]
        new = self._rows(features, answers, weights)
        objective = state.objective.replacing(where, new)
        self._refuse_lost_class(objective, old)
        tree = state.tree.replaced(where, features, answers, weights=weights)
        return self._result(*state.changed("amend", objective, tree, n_changed=k, gone=old, new=new))

    def add(
        self: Self,
        X: ArrayLike | Records,
        y: ArrayLike | None = None,
        record_ids: ArrayLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
    ) -> Updated[Self]:
        """Add records; the certificate is about the data with them.

        Parameters
        ----------
        X : array-like of shape (k, n_features), or Records
            Features. A table has its own ``y`` and ids; a model of tables takes nothing else.
        y : array-like of shape (k,) or (k, n_outputs)
            Labels, which must be of the classes of the model, or targets.
        record_ids : sequence of int or str, length k, optional
            Whose row each is; the index of a pandas X by default. May be omitted if `fit` was given no ids: numbers
            then go on.
        sample_weight : array-like of shape (k,), optional
            Weights of the losses; 1 if omitted. Class weights are not applied to them.

        Returns
        -------
        Updated
            As `unlearn`.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `fit`; ValueError if ids are needed and missing.

        Examples
        --------
        >>> import numpy as np
        >>> from expunge import NewtonRidge
        >>> model = NewtonRidge().fit(np.eye(4), np.arange(4.0))
        >>> model.add(np.ones((1, 4)), [2.0]).model.ids_.tolist()
        [0, 1, 2, 3, 4]
        """
        check_is_fitted(self)
        state = self._state
        if isinstance(X, Records):
            return self._add_table(X, y, record_ids, sample_weight)
        self._refuse_arrays()
        _validate.refuse_masks("X", X)
        if y is None:
            raise TypeError("y must be given, unless X is a table of records")
        features = self._new_features(X, None)
        k = len(features)
        answers = self._new_answers(y, k)
        names = self._new_ids(record_ids, k, table=X)
        for name, given in (("y", y), ("sample_weight", sample_weight)):
            refuse_other_order(name, given, X)
            refuse_other_people(name, given, names.tolist(), of="X", strict=False)
        weights = None if sample_weight is None else new_weights(sample_weight, k)
        new = self._rows(features, answers, weights)
        tree = state.tree.with_(features, answers, ids=names, weights=weights)
        objective = state.objective.with_rows(new)
        result = self._result(*state.changed("add", objective, tree, n_changed=k, gone=None, new=new))
        if self._next_number >= 0:  # -1: its records have ids of their own
            result.model._next_number = self._next_number + k
        return result

    def release_again(self: Self) -> Updated[Self]:
        """Release the same parameters with new noise, which charges the budget: who sees both learns more.

        Returns
        -------
        Updated
            As `unlearn`, with ``before_after`` None.

        Raises
        ------
        RuntimeError
            If the budget of releases is spent.

        Examples
        --------
        >>> import numpy as np
        >>> from expunge import NewtonRidge
        >>> model = NewtonRidge(releases=2).fit(np.eye(4), np.arange(4.0))
        >>> model.release_again().model.releases_left_
        0
        """
        check_is_fitted(self)
        if isinstance(self._state.objective, TableObjective):
            self._state.objective.blocks.require_attached()  # which proves the bound that was read
        return self._result(*self._state.again())

    def with_agreed_noise(self: Self, agreed: AgreedNoise) -> Self:
        """Return this model, whose next release takes its noise from the seeds of two parties.

        So that nobody chose the noise, and an auditor who is shown both seeds can draw it again. Before the seeds are
        told, both parties commit to them and to the release, by a `NoiseAgreement` on ``certificate_.digest()`` and the
        next number; then the other party tells its seed, and this one never does, but to whoever verifies.

        Parameters
        ----------
        agreed : AgreedNoise
            Of the agreement on this model's next release.

        Returns
        -------
        estimator
            A model of the same records. Its next `unlearn`, `amend`, `add` or `release_again` uses the seeds up: what
            that returns draws from the operating system again, and has a certificate that is conditional on one seed
            staying unknown, and evidence with both.

        Raises
        ------
        TypeError
            If it is nothing of the kind.
        ValueError
            If the agreement is on another release.

        Notes
        -----
        Seeds are for one release; a second change with the same `AgreedNoise` is a RuntimeError. The same noise on two
        models would show how they differ.

        Examples
        --------
        >>> import numpy as np
        >>> from expunge import NewtonRidge
        >>> from expunge.certificates.residual import NoiseAgreement, NoiseSeed
        >>> model = NewtonRidge().fit(np.eye(4), np.arange(4.0))
        >>> ours, theirs = NoiseSeed.new(), NoiseSeed.new()
        >>> both = (ours.commitment, theirs.commitment)
        >>> agreement = NoiseAgreement(both, certificate=model.certificate_.digest(), release=2)
        >>> result = model.with_agreed_noise(agreement.noise(ours, theirs)).unlearn(3)
        >>> result.certificate.noise.sampler, result.status
        ('agreed', 'conditional')
        """
        check_is_fitted(self)
        if not isinstance(agreed, AgreedNoise):
            raise TypeError(f"agreed must be an AgreedNoise, got {type(agreed).__name__}")
        agreement, digest, number = agreed.agreement, self.certificate_.digest(), self._state.release + 1
        if agreement.certificate != digest or agreement.release != number:
            raise ValueError(
                f"agreed must be on release {number} after certificate {digest}, got release {agreement.release} after "
                f"{agreement.certificate}"
            )
        model = copy.copy(self)
        model._state = replace(self._state, agreed=agreed)
        return model

    # --- release and files ---------------------------------------------------------------------

    def release(self) -> Released:
        """Return a predict-only estimator that holds the released parameters and nothing of the data.

        Not another release: the parameters are those of ``coef_``, and nothing is charged.

        Returns
        -------
        ReleasedLogisticRegression, ReleasedRidge or ReleasedRidgeClassifier
            Safe to publish, with `certificate_`.

        Examples
        --------
        >>> import numpy as np
        >>> from expunge import NewtonRidge
        >>> NewtonRidge().fit(np.eye(3), np.ones(3)).release().predict(np.eye(3)).shape
        (3,)
        """
        check_is_fitted(self)
        made: dict[str, Any] = {"conditions": self.conditions_, **self._made()}
        if hasattr(self, "classes_"):
            made["classes"] = self.classes_.copy()
        if hasattr(self, "feature_names_in_"):
            made["feature_names"] = self.feature_names_in_.copy()
        if self._reading is not None:
            made["reading"] = self._reading.public()
        return self._released_class._from_parts(np.array(self.coef_), _copied(self.intercept_), **made)

    def _made(self) -> dict[str, Any]:
        """Return what else a released model is made of."""
        return {}

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the working model to one ``.npz`` file (arrays and JSON, no pickle), whole or not at all.

        As confidential as the data, which it holds. No row, label, id or salt of a deleted record is in it.

        Raises
        ------
        FileExistsError
            If ``path`` exists and ``overwrite`` is false.
        """
        check_is_fitted(self)
        return _storage.save(self, path, overwrite=overwrite)

    @classmethod
    def load(cls: type[Self], path: str | Path) -> Self:
        """Read a working model written by `save`.

        Raises
        ------
        ValueError
            If the file is truncated, of an unknown version, or of another kind of model.
        """
        model: Self = _storage.load(cls, path)
        return model

    @classmethod
    def _of_file(cls: type[Self], path: str | Path, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        model: Self = _storage.working(cls, path, header, arrays)
        return model

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        if "_state" in state:
            kept = replace(state["_state"].without_inverse(), agreed=None)  # an inverse is computed anew when needed
            state = {**state, "_state": kept}
            if state.get("_work") is not None:
                state["_work"] = replace(state["_work"], agreed=None)
        return state

    # --- parts of changes ----------------------------------------------------------------------

    def _result(self: Self, state: Working, work: Work) -> Updated[Self]:
        model = type(self)(**self._fitted)
        for name in ("n_features_in_", "_next_number", "_single_output", "_reading"):
            if hasattr(self, name):
                setattr(model, name, getattr(self, name))
        for name in ("classes_", "feature_names_in_"):
            if hasattr(self, name):
                setattr(model, name, getattr(self, name).copy())
        model._adopt(state, work)
        certificate: ResidualCertificate = model.certificate_
        return Updated(model, certificate, state.evidence(work, certificate), work.before_after)


def _copied(value: float | Float64) -> float | Float64:
    return value if isinstance(value, float) else value.copy()
