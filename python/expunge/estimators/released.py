"""Predict-only models: coefficients and nothing of the data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from scipy.special import softmax as _softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.validation import validate_data

from expunge._types import AnyArray
from expunge._validate import refuse_masks
from expunge.data.blocks import Records
from expunge.data.reading import Reading
from expunge.estimators._reading import WithReading

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
    from sklearn.multiclass import OneVsRestClassifier

__all__ = [
    "Released",
    "ReleasedLogisticRegression",
    "ReleasedRidge",
    "ReleasedRidgeClassifier",
    "Scored",
    "linear_scores",
    "logistic_chances",
    "require_features",
    "table_scores",
]

Array = NDArray[np.float64]
Self = TypeVar("Self", bound="Released")


def linear_scores(rows: Array, coef_rows: Array, intercept: Any, *, first: int = 0) -> Array:
    """Return rows (n, d) times coefficients (q, d) plus intercepts: shape (n, q), or (n,) for one row of coefficients.

    Rows count from ``first`` where one is named.

    Raises
    ------
    ValueError
        If a score overflows float64.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scores = np.asarray(rows @ coef_rows.T + intercept, dtype=np.float64)
    if not np.isfinite(scores).all():
        row = int(np.argwhere(~np.isfinite(scores))[0][0])
        raise ValueError(f"X is too large: the prediction for row {first + row} overflows float64")
    return scores


def require_features(records: Records, *, n_features: int, names: AnyArray | None) -> None:
    """Refuse a table whose features are not those of a model, in their order.

    Raises
    ------
    ValueError
        Saying what was needed.
    """
    if records.n_features != n_features:
        raise ValueError(f"X must have {n_features} features, as those of the fit, got {records.n_features}")
    if names is not None and records.feature_names is not None and records.feature_names != tuple(names.tolist()):
        raise ValueError(
            f"X must have the features of the fit in their order, {', '.join(map(str, names[:20]))}, got "
            f"{', '.join(records.feature_names[:20])}: open the table with features="
        )


def table_scores(records: Records, coef_rows: Array, intercept: Any) -> Array:
    """Return `linear_scores` of a table, read block by block.

    Raises
    ------
    ValueError
        If a score overflows float64, or reading refuses a row.
    """
    return np.concatenate(
        [
            linear_scores(np.asarray(block.X, dtype=np.float64), coef_rows, intercept, first=block.start)
            for block in records.blocks()
        ]
    )


def logistic_chances(scores: Array, *, softmax: bool) -> Array:
    """Return the chance of each class from logits (n, q): shape (n, 2) for one output, else (n, q).

    Outputs of one class against the rest are scaled to sum to 1; where all are 0, the classes have equal chances.
    """
    if scores.shape[1] == 1:
        return np.stack([expit(-scores[:, 0]), expit(scores[:, 0])], axis=1)
    if softmax:
        return np.asarray(_softmax(scores, axis=1))
    chances: Array = expit(scores)
    totals = chances.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(chances, totals, out=np.full_like(chances, 1.0 / scores.shape[1]), where=totals > 0))


class Scored:
    """scikit-learn's ``score``, which would count what a mask hides."""

    def score(
        self, X: ArrayLike | Records, y: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> float:
        """Return R^2 or the accuracy on the records ``X`` with their targets or labels ``y``; a table has its own.

        Raises
        ------
        TypeError
            For masked arrays.
        """
        for name, value in (("X", X), ("y", y), ("sample_weight", sample_weight)):
            refuse_masks(name, value)
        if isinstance(X, Records):
            if y is not None:
                raise TypeError("y must be omitted for a table of records, which has its own")
            y = X.targets()
        return float(super().score(X, y, sample_weight))  # type: ignore[misc]


class Released(WithReading, BaseEstimator):  # type: ignore[misc]
    """Base of the predict-only models."""

    coef_: Array
    intercept_: float | Array
    conditions_: tuple[str, ...]

    @classmethod
    def _from_parts(
        cls: type[Self],
        coef: Array,
        intercept: float | Array,
        *,
        conditions: tuple[str, ...],
        classes: NDArray[Any] | None = None,
        feature_names: NDArray[Any] | None = None,
        softmax: bool | None = None,
        reading: Reading | None = None,
    ) -> Self:
        model = cls()
        model._reading = reading
        model.coef_, model.intercept_ = coef, intercept
        model.conditions_ = conditions
        model.n_features_in_ = coef.shape[-1]
        if classes is not None:
            model.classes_ = classes
        if feature_names is not None:
            model.feature_names_in_ = feature_names
        if softmax is not None:
            model.softmax_ = softmax
        return model

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        text: str = super().__repr__(N_CHAR_MAX=N_CHAR_MAX)
        conditions = getattr(self, "conditions_", ())
        return f"{text}  <conditional: {'; '.join(conditions)}>" if conditions else text

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "coef_")

    def fit(self, X: ArrayLike, y: ArrayLike) -> Released:
        """Refuse: a released model is made by the `release` of a working one."""
        raise TypeError("a released model cannot be fitted: fit LangevinRidge and call release()")

    def _scores(self, X: ArrayLike | Records) -> Array:
        if isinstance(X, Records):
            require_features(X, n_features=self.n_features_in_, names=self._names())
            return table_scores(X, self.coef_, self.intercept_)
        refuse_masks("X", X)
        rows: Array = validate_data(self, X, dtype=np.float64, reset=False)
        return linear_scores(rows, self.coef_, self.intercept_)

    def _names(self) -> AnyArray | None:
        return getattr(self, "feature_names_in_", None)

    def to_safetensors(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write ``coef`` and ``intercept``, float64, to a file of safetensors (needs ``expunge[safetensors]``).

        Kind, classes, names of the features and conditions are JSON texts in the metadata of the file. To read a model
        back as an estimator, use `save` and `load`.

        Raises
        ------
        FileExistsError
            If ``path`` exists and ``overwrite`` is false.
        ImportError
            Without the package.
        """
        from expunge.estimators import exporting

        notes: dict[str, object] = {"kind": type(self).__name__, "conditions": list(self.conditions_)}
        for name, key in (("classes", "classes_"), ("feature_names", "feature_names_in_")):
            if hasattr(self, key):
                notes[name] = getattr(self, key).tolist()
        if hasattr(self, "softmax_"):
            notes["softmax"] = bool(self.softmax_)
        arrays = {"coef": self.coef_, "intercept": np.atleast_1d(np.asarray(self.intercept_, dtype=np.float64))}
        return exporting.write_safetensors(path, arrays, notes, overwrite=overwrite)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write coefficients to one ``.npz`` file (no pickle), whole or not at all."""
        from expunge.estimators import _storage

        return _storage.save_released(self, path, overwrite=overwrite)

    @classmethod
    def load(cls: type[Self], path: str | Path) -> Self:
        """Read a model written by `save`."""
        from expunge.estimators import _storage

        model: Self = _storage.load_released(cls, path)
        return model


class ReleasedRidge(Scored, RegressorMixin, Released):  # type: ignore[misc]
    """A linear model that can be published: ``coef_`` and ``intercept_`` only.

    Made by `LangevinRidge.release`; it cannot be fitted.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_outputs, n_features)
    intercept_ : float or ndarray of shape (n_outputs,)
    conditions_ : tuple of str
        What a certificate of this release rests on: constants of the run that were taken from the data.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge import LangevinRidge
    >>> LangevinRidge(random_state=0).fit(np.eye(3), np.ones(3)).release().coef_.shape
    (3,)
    """

    def predict(self, X: ArrayLike | Records) -> Array:
        """Return predictions for ``X`` (n, d): shape (n,) or (n, n_outputs)."""
        return self._scores(X)

    def to_sklearn(self) -> Ridge:
        """Return scikit-learn's `Ridge` with these coefficients, for tools that take no other model.

        Its predictions are those of `predict`, to the bit. It takes the same features, and its hyperparameters are
        scikit-learn's defaults: they do not say how the model was made. `conditions_` and `reading_` are not carried.
        """
        from expunge.estimators import exporting

        return exporting.linear_regressor(self.coef_, self.intercept_, self._names())


class ReleasedRidgeClassifier(Scored, ClassifierMixin, Released):  # type: ignore[misc]
    """A linear classifier that can be published: ``coef_``, ``intercept_`` and ``classes_`` only.

    Made by `LangevinRidgeClassifier.release`; it cannot be fitted.

    Attributes
    ----------
    coef_ : ndarray of shape (n_classes, n_features)
    intercept_ : ndarray of shape (n_classes,)
    classes_ : ndarray of shape (n_classes,)
    conditions_ : tuple of str
        What a certificate of this release rests on: constants of the run that were taken from the data.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge import LangevinRidgeClassifier
    >>> LangevinRidgeClassifier(random_state=0).fit(np.eye(3), ["a", "b", "b"]).release().classes_.tolist()
    ['a', 'b']
    """

    classes_: AnyArray

    def decision_function(self, X: ArrayLike | Records) -> Array:
        """Return one score per class, shape (n, n_classes); for two classes their difference, shape (n,)."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: ArrayLike | Records) -> AnyArray:
        """Return class labels for ``X`` (n, d), shape (n,)."""
        return np.asarray(self.classes_[np.argmax(self._scores(X), axis=1)])

    def to_sklearn(self) -> RidgeClassifier:
        """Return scikit-learn's `RidgeClassifier` with these coefficients, for tools that take no other model.

        Its scores are those of `decision_function`; for two classes, whose coefficients it holds as one difference,
        they differ by rounding. It takes the same features, and its hyperparameters are scikit-learn's defaults: they
        do not say how the model was made. `conditions_` and `reading_` are not carried.

        Raises
        ------
        ValueError
            For a model of one class.
        """
        from expunge.estimators import exporting

        return exporting.linear_classifier(self.coef_, np.asarray(self.intercept_), self.classes_, self._names())


class ReleasedLogisticRegression(Scored, ClassifierMixin, Released):  # type: ignore[misc]
    """A logistic model that can be published: ``coef_``, ``intercept_`` and ``classes_`` only.

    Made by `NewtonLogisticRegression.release`; it cannot be fitted.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
    intercept_ : ndarray of shape (1,) or (n_classes,)
    classes_ : ndarray of shape (n_classes,)
    softmax_ : bool
        Whether several outputs are one softmax, rather than one class against the rest each.
    conditions_ : tuple of str
        What a certificate of this release rests on.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge import NewtonLogisticRegression
    >>> NewtonLogisticRegression().fit(np.eye(3), ["a", "b", "b"]).release().classes_.tolist()
    ['a', 'b']
    """

    classes_: AnyArray
    softmax_: bool

    def decision_function(self, X: ArrayLike | Records) -> Array:
        """Return the logits: shape (n,) for two classes, that of the second; else (n, n_classes)."""
        scores = self._scores(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict_proba(self, X: ArrayLike | Records) -> Array:
        """Return the chance of each class, shape (n, n_classes)."""
        return logistic_chances(self._scores(X), softmax=self.softmax_)

    def predict(self, X: ArrayLike | Records) -> AnyArray:
        """Return class labels for ``X`` (n, d), shape (n,)."""
        scores = self._scores(X)
        numbers = (scores[:, 0] > 0).astype(int) if scores.shape[1] == 1 else np.argmax(scores, axis=1)
        return np.asarray(self.classes_[numbers])

    def to_sklearn(self) -> LogisticRegression | OneVsRestClassifier:
        """Return scikit-learn's `LogisticRegression` with these coefficients, for tools that take no other model.

        For more than two classes that are one against the rest each, a `OneVsRestClassifier` of them. Chances and
        labels are those of `predict_proba` and `predict`, to rounding. It takes the same features, and its
        hyperparameters are scikit-learn's defaults: they do not say how the model was made. `conditions_` and
        `reading_` are not carried.

        Raises
        ------
        ValueError
            For a model of one class.
        """
        from expunge.estimators import exporting

        intercept = np.asarray(self.intercept_)
        return exporting.logistic_regression(self.coef_, intercept, self.classes_, self._names(), softmax=self.softmax_)
