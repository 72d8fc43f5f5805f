"""A network of a frozen backbone and a Newton head that forgets records with a certificate about both."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from expunge import _validate
from expunge._types import AnyArray
from expunge.certificates.network import Backbone, NetworkCertificate, NetworkEvidence
from expunge.data.blocks import Records
from expunge.estimators._records import ROW_NUMBERS, ids_of_fit, refuse_other_order, refuse_other_people
from expunge.estimators.network import _storage
from expunge.estimators.network.features import Features, FrozenBackbone, RecordRows
from expunge.estimators.network.result import UpdatedNetwork
from expunge.estimators.network.sources import Source, backbone_of, refuse_foreign_weights, trained_records
from expunge.estimators.newton._whole import whole
from expunge.estimators.newton.base import NewtonModel
from expunge.estimators.newton.quotes import NewtonQuote
from expunge.estimators.newton.records import positions_of
from expunge.estimators.newton.result import Updated
from expunge.estimators.released import Released
from expunge.runs.network import JointClaim

__all__ = ["CertifiedHead"]

Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
Self = TypeVar("Self", bound="CertifiedHead")

_PREDICTED = 256  # records whose features are computed together where no certificate rests on them


def _head_has(name: str) -> Any:
    """Return a check that the head has a method, for `available_if`."""

    def check(model: CertifiedHead) -> bool:
        return hasattr(type(model.head), name)

    return available_if(check)


class CertifiedHead(BaseEstimator):  # type: ignore[misc]
    """A frozen backbone and a Newton head on its features, whose records can be deleted with a certificate.

    The backbone is never trained: features of each record are computed once, kept by the head, and stay as they are. A
    deletion changes the head alone. If no record had a part in the backbone, the head's certificate is the network's.
    If the backbone was trained with the records, with differential privacy, the certificate is about backbone and head
    together, and its epsilon grows with the number of records that left.

    Parameters
    ----------
    features : torch.nn.Module, callable or None
        The backbone: a module in evaluation mode, or a function of arrays, that gives an array of shape (n, d) for n
        records; None if the records are features already.
    head : NewtonLogisticRegression, NewtonRidge or NewtonRidgeClassifier
        The head, not fitted; a copy of it is.
    backbone : {"data-independent", "public"}, TrainingRun, TrainingPrivacy, BudgetedPrivacy or PrivateTraining
        Where the weights of the backbone come from: drawn without any data; trained without these records; or the run
        of `expunge.torch.train` that trained it with ``privacy=``. Nothing is assumed if it is not said.
    name : str, optional
        What certificates call the backbone; needed for public weights.
    batch_size : int, default 1
        Records that are given to the backbone together by `fit`, `amend` and `add`. With 1 the features of a record
        cannot depend on others, but by what a backbone keeps from call to call; a few records are computed again to
        find that. With more they may, in their last bits, so certificates are *conditional*.

    Attributes
    ----------
    head_ : NewtonLogisticRegression, NewtonRidge or NewtonRidgeClassifier
        The fitted head. Its own certificate is about the features alone.
    backbone_ : Backbone
        What certificates say of the backbone.
    certificate_ : NetworkCertificate
        Public certificate of the last release.
    evidence_ : NetworkEvidence
        Its evidence; confidential.
    features_ : ndarray of float64, shape (n_records, d)
        Features of the records now in the model, as the head has them.
    ids_ : ndarray of shape (n_records,)
        Ids of the records now in the model.
    conditions_ : tuple of str
        What the certificate rests on besides the theorem.
    releases_left_ : int

    Notes
    -----
    Let B be the records that the backbone was trained with, G any k of them that have since left, and D the data as
    they stand. The weights W of the backbone have the law M(B), and releases of the head, given any W and whatever
    happened before, are mu-GDP against the noisy optima on the features that W gives for D. In the other world the
    weights have the law M(B without G), and the head is that noisy optimum. So the pair is an adaptive composition:
    with full batches ``sqrt((k mu_f)^2 + mu^2)``-GDP (Dong, Roth, Su, arXiv 1905.02383), with Poisson batches the
    Renyi divergences add up, or the privacy losses do. A corrected record counts as one that left, an added one was
    never in B and counts for nothing, also when it leaves again.

    References
    ----------
    ``docs/theory.md``, "Deletion by computed residual"; ``docs/networks.md``.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from expunge import CertifiedHead, NewtonLogisticRegression
    >>> X, y = load_digits(return_X_y=True)
    >>> drawn = np.random.default_rng(0).normal(size=(64, 100)) / 16
    >>> def cosines(rows):
    ...     return np.cos(rows / 4 @ drawn) / 10
    >>> head = NewtonLogisticRegression(classes=range(10), alpha=0.01)
    >>> model = CertifiedHead(cosines, head, backbone="data-independent").fit(X[:500], y[:500])
    >>> result = model.unlearn([3, 14])
    >>> result.status, result.model.score(X[500:], y[500:]) > 0.8
    ('certified', True)
    """

    def __init__(
        self,
        features: Features | None,
        head: NewtonModel,
        *,
        backbone: Source | None = None,
        name: str | None = None,
        batch_size: int = 1,
    ) -> None:
        self.features = features
        self.head = head
        self.backbone = backbone
        self.name = name
        self.batch_size = batch_size

    # --- fitting -------------------------------------------------------------------------------

    @whole
    def fit(
        self: Self,
        X: RecordRows,
        y: ArrayLike,
        record_ids: ArrayLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        conditions: Iterable[str] = (),
        in_backbone: ArrayLike | None = None,
    ) -> Self:
        """Compute features of the records, fit the head to them, and release it once.

        Parameters
        ----------
        X : array-like, tensor or list of n records
            As the backbone takes them: an array of images, a list of texts, a table of pandas.
        y : array-like of shape (n,) or (n, n_outputs)
            Labels or targets, as the head takes them.
        record_ids : sequence of int or str, length n, optional
            Whose row each is; the index of a pandas X by default, else rows are numbered.
        sample_weight : array-like of shape (n,), optional
            Factors of the losses, as constants.
        conditions : sequence of str, optional
            What certificates have to say besides: constants that were computed from these records, as for the head's
            own ``fit`` - a scale that features are divided by, say.
        in_backbone : array-like of bool, shape (n,), optional
            Which of the records the backbone was trained with; all if omitted. For private backbones alone.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or out of range, the source of the backbone is not said, the backbone is
            not frozen, or as the head's ``fit``.
        RuntimeError
            If the optimum cannot be reached.
        """
        if isinstance(X, Records):
            raise TypeError(
                "X must be an array, a tensor or a list, got a table of records: fit the head to a table of features, "
                "or read the table into memory"
            )
        if not isinstance(self.head, NewtonModel):
            raise TypeError(
                "head must be a NewtonLogisticRegression, NewtonRidge or NewtonRidgeClassifier, got "
                f"{type(self.head).__name__}"
            )
        size = _validate.count("batch_size", self.batch_size, low=1)
        frozen = FrozenBackbone(self.features)
        said = backbone_of(
            self.backbone,
            name=self.name,
            called=frozen.called,
            weights=frozen.weights(),
            batch_size=None if self.features is None else size,
        )
        refuse_foreign_weights(self.backbone, self.features)
        rows = frozen.of(X, batch_size=size)
        marks = _marks(in_backbone, len(rows), private=said.training is not None)
        most = trained_records(self.backbone)
        if most is not None and int(marks.sum()) > most:
            raise ValueError(
                f"in_backbone must mark at most the {most} records that the run was trained with, got "
                f"{int(marks.sum())}: say which by in_backbone="
            )
        ids = ids_of_fit(X, y, record_ids, len(rows))
        refuse_other_order("sample_weight", sample_weight, X)
        names = None if ids is None or ids.origin == ROW_NUMBERS else list(ids.values)
        head: Any = clone(self.head)
        head.fit(rows, y, names, sample_weight=sample_weight, conditions=conditions)
        self._size = size
        self._adopt(head, said, marks, int(marks.sum()))
        return self

    def _adopt(self, head: NewtonModel, said: Backbone, marks: Bools, n_trained: int) -> None:
        self.head_, self.backbone_ = head, said
        self._marks, self._n_trained = marks, n_trained
        self.certificate_ = NetworkCertificate.create(
            head=head.certificate_, backbone=said, n_deleted=n_trained - int(marks.sum())
        )

    # --- results -------------------------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "head_")

    def _require_fitted(self) -> None:
        # As an AttributeError too, so that `hasattr(model, "classes_")` says what scikit-learn's users expect.
        check_is_fitted(self)

    @property
    def classes_(self) -> AnyArray:
        """Labels in the order of their numbers; of classifiers alone."""
        self._require_fitted()
        found: AnyArray = self.head_.classes_
        return found

    @property
    def features_(self) -> Float64:
        """Features of the records now in the model, shape (n_records, d), as a copy."""
        self._require_fitted()
        state = self.head_._state
        return state.objective.take(np.arange(len(state.objective))).X[:, : state.layout.n_features].copy()

    @property
    def ids_(self) -> AnyArray:
        """Ids of the records now in the model, in their order, as a copy."""
        self._require_fitted()
        return self.head_.ids_

    @property
    def conditions_(self) -> tuple[str, ...]:
        """Conditions that the certificate of the last release rests on."""
        self._require_fitted()
        return self.certificate_.conditions

    @property
    def releases_left_(self) -> int:
        """Releases that the head's budget still allows."""
        self._require_fitted()
        return self.head_.releases_left_

    @property
    def evidence_(self) -> NetworkEvidence:
        """Evidence of the last release; confidential: it holds the head's parameters without noise."""
        self._require_fitted()
        return NetworkEvidence(self.head_.evidence_, self.certificate_.digest(), self._marks, self._n_trained)

    def _same_backbone(self, *, needed: bool) -> FrozenBackbone:
        """Return the backbone, after comparing its weights with those of the fit."""
        if self.features is None and self.backbone_.batch_size is not None:
            if needed:
                raise ValueError(
                    "features must be given for new records, got a model that was loaded without features="
                )
            return FrozenBackbone(None)
        if (self.features is None) != (self.backbone_.batch_size is None):
            raise ValueError("features must be None, as at the fit, got a backbone")
        frozen = FrozenBackbone(self.features)
        found = frozen.weights()
        if found != self.backbone_.weights:
            raise ValueError(
                f"features must have the weights of the fit, {self.backbone_.weights}, got {found}: a changed backbone "
                "is another network, to be fitted anew"
            )
        return frozen

    # --- predictions ---------------------------------------------------------------------------

    def transform(self, X: RecordRows) -> Float64:
        """Return features of records, shape (n, d), computed many at a time: for predictions, not for certificates."""
        self._require_fitted()
        return self._same_backbone(needed=True).of(X, batch_size=max(_PREDICTED, self._size))

    def predict(self, X: RecordRows) -> AnyArray:
        """Return the released head's labels or targets for records, as its own ``predict``."""
        found: AnyArray = self._of_head("predict", X)
        return found

    @_head_has("predict_proba")  # type: ignore[untyped-decorator]
    def predict_proba(self, X: RecordRows) -> Float64:
        """Return the chance of each class, shape (n, n_classes)."""
        found: Float64 = self._of_head("predict_proba", X)
        return found

    @_head_has("decision_function")  # type: ignore[untyped-decorator]
    def decision_function(self, X: RecordRows) -> Float64:
        """Return the head's scores."""
        found: Float64 = self._of_head("decision_function", X)
        return found

    def score(self, X: RecordRows, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Return the accuracy, or R^2, of the released head on records."""
        return float(self._of_head("score", X, y, sample_weight))

    def _of_head(self, name: str, X: RecordRows, *more: Any) -> Any:
        rows = self.transform(X)
        return getattr(self.head_, name)(rows, *more)

    def quote(self, ids: ArrayLike | None = None, *, rows: ArrayLike | None = None, by_id: bool = False) -> NewtonQuote:
        """Return what deleting each record would take of the head, and show, as the head's ``quote``."""
        self._require_fitted()
        return self.head_.quote(ids, rows=rows, by_id=by_id)

    def claim_after(self, *, n_more: int) -> JointClaim:
        """Return the claim of the certificate once ``n_more`` further records have left, without deleting any.

        Parameters
        ----------
        n_more : int
            Records of the backbone's training, >= 0; they are not counted where no record had a part in it.

        Returns
        -------
        JointClaim
            ``mu``, None for Poisson batches, and ``epsilon`` at the head's delta, about all that will have left.

        Raises
        ------
        ValueError
            If ``n_more`` is negative, or no finite epsilon is left.
        """
        self._require_fitted()
        more, now = _validate.count("n_more", n_more), self.certificate_
        counted = 0 if now.backbone.training is None else now.n_deleted + more
        then = NetworkCertificate.create(head=now.head, backbone=now.backbone, n_deleted=counted)
        return JointClaim(then.mu, then.epsilon)

    # --- changes of the data -------------------------------------------------------------------

    def unlearn(self: Self, ids: ArrayLike | None = None, *, rows: ArrayLike | None = None) -> UpdatedNetwork[Self]:
        """Forget records: the head is polished on the features that remain; the backbone stays as it is.

        Parameters
        ----------
        ids : int, str or sequence of them, optional
            Whose records to delete, all rows of each.
        rows : int or sequence of int, optional
            Positions among the records now in the model. Give one of ``ids`` and ``rows``.

        Returns
        -------
        UpdatedNetwork
            ``.model``, a new working model without the records, ``.certificate`` (public), ``.evidence``
            (confidential) and ``.before_after``. This model is unchanged, and still holds the records: destroy it.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As the head's ``unlearn``; ValueError also if the backbone's weights are not those of the fit, or so many
            records have left that no finite epsilon is left.
        """
        self._require_fitted()
        self._same_backbone(needed=False)
        result = self.head_.unlearn(ids, rows=rows)
        where = positions_of(self.head_._state.tree, ids=ids, rows=rows)
        return self._changed(result, np.delete(self._marks, where))

    def amend(
        self: Self,
        ids: ArrayLike | None = None,
        *,
        rows: ArrayLike | None = None,
        X: RecordRows | None = None,
        y: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> UpdatedNetwork[Self]:
        """Correct records: the old content is forgotten as by `unlearn`, and counts as one record that left.

        Parameters
        ----------
        ids : int, str or sequence of them, optional
            Records to correct, each the id of one row.
        rows : int or sequence of int, optional
            Positions among the records now in the model. Give one of ``ids`` and ``rows``.
        X : array-like, tensor or list of k records, optional
            New records, as the backbone takes them; the old features if omitted.
        y, sample_weight : array-like of length k, optional
            New labels or targets, and weights; the old ones if omitted.

        Returns
        -------
        UpdatedNetwork
            As `unlearn`.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `unlearn`, and as the head's ``amend``.
        """
        self._require_fitted()
        frozen = self._same_backbone(needed=X is not None)
        order = self.head_._one_row_each(ids, rows)
        refuse_other_people("X", X, self.ids_[order].tolist(), of="rows" if ids is None else "ids")
        found = None if X is None else frozen.of(X, batch_size=self._size)
        result = self.head_.amend(ids, rows=rows, X=found, y=y, sample_weight=sample_weight)
        marks = self._marks.copy()
        marks[order] = False
        return self._changed(result, marks)

    def add(
        self: Self,
        X: RecordRows,
        y: ArrayLike,
        record_ids: ArrayLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
    ) -> UpdatedNetwork[Self]:
        """Add records to the head's data; the backbone never sees them, and so they may leave at no cost to it.

        Parameters
        ----------
        X : array-like, tensor or list of k records
            As the backbone takes them.
        y : array-like of shape (k,) or (k, n_outputs)
            Labels or targets.
        record_ids : sequence of int or str, length k, optional
            Whose row each is; needed if `fit` was given ids and X has no index.
        sample_weight : array-like of shape (k,), optional
            Weights of the losses; 1 if omitted.

        Returns
        -------
        UpdatedNetwork
            As `unlearn`.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As `fit`, and as the head's ``add``.
        """
        self._require_fitted()
        found = self._same_backbone(needed=True).of(X, batch_size=self._size)
        ids = ids_of_fit(X, y, record_ids, len(found))
        refuse_other_order("sample_weight", sample_weight, X)
        names = None if ids is None or ids.origin == ROW_NUMBERS else list(ids.values)
        result = self.head_.add(found, y, names, sample_weight=sample_weight)
        return self._changed(result, np.concatenate([self._marks, np.zeros(len(found), dtype=bool)]))

    def release_again(self: Self) -> UpdatedNetwork[Self]:
        """Release the same head with new noise, which charges its budget.

        Raises
        ------
        RuntimeError
            If the budget of releases is spent.
        """
        self._require_fitted()
        self._same_backbone(needed=False)
        return self._changed(self.head_.release_again(), self._marks)

    def _changed(self: Self, result: Updated[NewtonModel], marks: Bools) -> UpdatedNetwork[Self]:
        model = type(self)(self.features, self.head, backbone=self.backbone, name=self.name, batch_size=self.batch_size)
        model._size = self._size
        model._adopt(result.model, self.backbone_, marks, self._n_trained)
        return UpdatedNetwork(model, model.certificate_, model.evidence_, result.before_after)

    # --- release and files ---------------------------------------------------------------------

    def release(self) -> Released:
        """Return the head as a predict-only estimator on features, which holds nothing of the data.

        Not another release: the parameters are those of the last one. Publish it with the backbone and `certificate_`.
        """
        self._require_fitted()
        return self.head_.release()

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the working model without the backbone to one ``.npz`` file (no pickle), whole or not at all.

        As confidential as the features, which it holds. Nothing of a deleted record is in it.

        Raises
        ------
        FileExistsError
            If ``path`` exists and ``overwrite`` is false.
        """
        self._require_fitted()
        return _storage.save(self, path, overwrite=overwrite)

    @classmethod
    def load(cls: type[Self], path: str | Path, *, features: Features | None = None) -> Self:
        """Read a working model written by `save`.

        Parameters
        ----------
        path : path-like
            The file.
        features : torch.nn.Module or callable, optional
            The backbone. Without it records can be deleted, and none added or predicted.

        Raises
        ------
        ValueError
            If the file is truncated, of an unknown version or of another kind of model, or the backbone's weights are
            not those of the file.
        """
        model: Self = _storage.load(cls, path)
        if features is not None:
            model.features = features
            model._same_backbone(needed=True)
        return model

    @classmethod
    def _of_file(cls: type[Self], path: str | Path, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        model: Self = _storage.working(cls, path, header, arrays)
        return model

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        text: str = super().__repr__(N_CHAR_MAX=N_CHAR_MAX)
        if not hasattr(self, "head_"):
            return text
        return f"{text}  <confidential: holds {len(self._marks):,} records and a head without noise>"


def _marks(in_backbone: ArrayLike | None, n: int, *, private: bool) -> Bools:
    """Return which of n records the backbone was trained with."""
    if not private:
        if in_backbone is not None:
            raise ValueError("in_backbone must be omitted for a backbone that saw no record, got an array")
        return np.zeros(n, dtype=bool)
    if in_backbone is None:
        return np.ones(n, dtype=bool)
    _validate.refuse_masks("in_backbone", in_backbone)
    marks = np.asarray(in_backbone)
    if marks.dtype != np.bool_ or marks.shape != (n,):
        raise ValueError(f"in_backbone must hold a bool for each of {n} records, got {marks.dtype} of {marks.shape}")
    return marks.copy()
