"""Ridge models learned by Langevin dynamics, which can say what forgetting a record costs, and forget it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from expunge.estimators._deleting import DeletingRidge, Unlearned
from expunge.estimators._records import ids_of_fit
from expunge.estimators.released import ReleasedRidge, ReleasedRidgeClassifier

__all__ = ["LangevinRidge", "LangevinRidgeClassifier", "Unlearned"]

Array = NDArray[np.float64]


class LangevinRidge(RegressorMixin, DeletingRidge):  # type: ignore[misc]
    """Ridge regression learned by noisy gradient steps (Langevin dynamics), with exact certified unlearning.

    The loss is the sum sum_i ||x_i^T theta - y_i||^2 / 2 + alpha/2 ||theta||^2; learning starts at 0 and makes
    ``n_steps`` steps theta <- theta - eta grad + noise_std xi. Data are never centred or scaled: that would depend on
    the deleted record.

    Parameters
    ----------
    alpha : float, default 1.0
        L2 penalty, > 0.
    n_steps : int, default 300
        Learning steps, >= 1.
    noise_std : float, default 0.01
        Standard deviation of each step's noise, >= 0.
    step_size : float or "auto", default "auto"
        eta; "auto" is 1/L of the first fit, and larger values are refused. A constant from then on.
    fit_intercept : bool, default True
        Append a constant column 1, regularised like the others.
    random_state : None, int or NumPy generator, default None
        None draws the learning noise from the operating system and keeps nothing. With a seed the run is
        reproducible and its certificates are *conditional*: whoever knows the seed can undo the noise.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_outputs, n_features)
    intercept_ : float or ndarray of shape (n_outputs,)
    step_size_ : float
        The step size of the first fit; deletions never recompute it.
    n_features_in_ : int

    References
    ----------
    Benarroch, Atif, Cappe, *Certified Per-Instance Unlearning Using Individual Sensitivity Bounds*, arXiv 2602.15602.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = LangevinRidge(noise_std=0.5).fit(X, y / 100)
    >>> result = model.unlearn(7, epsilon=1.0, delta=1e-5, n_steps=20)
    >>> predictions = result.model.release().predict(X)
    """

    _kind = "LangevinRidge"
    _released = ReleasedRidge

    def fit(self, X: ArrayLike, y: ArrayLike, record_ids: Any = None) -> LangevinRidge:
        """Learn from records ``X`` (n, d) and targets ``y`` (n,) or (n, q).

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features. The index of a pandas table is kept as ids of the records, unless it is 0..n-1.
        y : array-like of shape (n,) or (n, q)
            Targets.
        record_ids : sequence of int or of str, length n, optional
            Whose row each is: integers of any size or strings, never converted. All rows of one id are one person,
            deleted and quoted together by ``ids=``. Kept in the working model and its file only: released models and
            certificates hold none.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If ids are floats, booleans, missing, masked or of both kinds.
        ValueError
            If there is not one id per row, or ``y`` is a pandas column of the same labels as ``X`` in another order.
        """
        table, column = X, y
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        ids = ids_of_fit(table, column, record_ids, np.shape(X)[0])
        labels = np.array(y, dtype=np.float64)
        targets = labels.reshape(len(labels), -1)
        return self._learn(np.asarray(X), labels, np.ascontiguousarray(targets), ids)

    def predict(self, X: ArrayLike) -> Array:
        """Return predictions, shape (n,) or (n, n_outputs)."""
        scores = self._scores(X)
        return scores[:, 0] if self._single_output else scores

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class LangevinRidgeClassifier(ClassifierMixin, DeletingRidge):  # type: ignore[misc]
    """Classification by ridge regression on one-hot targets, learned by Langevin dynamics; predicts the largest output.

    Parameters and the deletion methods are those of `LangevinRidge`. ``classes_`` is a constant of the first fit: a
    deletion never drops a class.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coef_ : ndarray of shape (n_classes, n_features)
    intercept_ : ndarray of shape (n_classes,)
    step_size_ : float
    n_features_in_ : int

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LangevinRidgeClassifier().fit(X, y)
    >>> result = model.unlearn([0, 1], epsilon=1.0, delta=1e-5, n_steps=20)
    >>> result.certificate.neighbouring_relation
    'REMOVE_GROUP'
    """

    _kind = "LangevinRidgeClassifier"
    _released = ReleasedRidgeClassifier

    def fit(self, X: ArrayLike, y: ArrayLike, record_ids: Any = None) -> LangevinRidgeClassifier:
        """Learn from records ``X`` (n, d) and class labels ``y`` (n,); ``record_ids`` as for `LangevinRidge.fit`."""
        table, column = X, y
        X, y = validate_data(self, X, y, dtype=np.float64)
        ids = ids_of_fit(table, column, record_ids, np.shape(X)[0])
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold at least 2 classes, got one class: {self.classes_[0]!r}")
        targets = np.zeros((len(codes), len(self.classes_)))
        targets[np.arange(len(codes)), codes] = 1.0
        return self._learn(np.asarray(X), np.array(y), targets, ids)

    def decision_function(self, X: ArrayLike) -> Array:
        """Return one score per class, shape (n, n_classes); for two classes their difference, shape (n,)."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return class labels, shape (n,)."""
        scores = self._scores(X)
        return np.asarray(self.classes_[np.argmax(scores, axis=1)])
