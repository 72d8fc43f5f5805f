"""Ridge regression and classification that forget records with a public certificate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.validation import validate_data

from expunge._types import AnyArray
from expunge._validate import refuse_masks
from expunge.data.blocks import Records
from expunge.estimators._conditions import stated_conditions
from expunge.estimators._records import refuse_other_order
from expunge.estimators.newton._whole import whole
from expunge.estimators.newton.base import NewtonModel
from expunge.estimators.newton.classifying import NewtonClassifier
from expunge.estimators.newton.noise_cost import warn_of_noise
from expunge.estimators.newton.records import weights_of
from expunge.estimators.newton.tables import refuse_untargeted
from expunge.estimators.released import ReleasedRidge, ReleasedRidgeClassifier, Scored
from expunge.runs.residual.answers import Label

__all__ = ["NewtonRidge", "NewtonRidgeClassifier"]

Float64 = NDArray[np.float64]


class NewtonRidge(Scored, RegressorMixin, NewtonModel):  # type: ignore[misc]
    """Ridge regression with certified deletion: fixed public noise, and one or two passes over the data that remain.

    Minimises ``sum_i w_i |x_i theta - y_i|^2 / 2 + alpha/2 |theta|^2``; the rest is as for
    `NewtonLogisticRegression`.

    Parameters
    ----------
    alpha : float, default 1.0
        L2 penalty, within [1e-30, 1e30].
    noise_std : float, default 0.01
        Standard deviation of the noise on every released parameter, > 0; a constant, chosen without the data.
    epsilon, delta : float, default 1.0 and 1e-5
        What all releases after a deletion claim together.
    fit_intercept : bool, default True
        Append a constant column 1, penalised like the others.
    releases : int, default 10_000
        Most releases in the life of the model.
    random_state : None, int or NumPy generator, default None
        Seed of the noise of the first release, computed in float64; its certificate is then *conditional*. All other
        noise is drawn exactly, from the operating system's randomness: the claim is about the program that ran.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_outputs, n_features)
        As released, with noise.
    intercept_ : float or ndarray of shape (n_outputs,)
        As released, with noise.
    certificate_, evidence_, conditions_, ids_, releases_left_
        As of `NewtonLogisticRegression`.
    n_features_in_ : int

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from expunge import NewtonRidge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = NewtonRidge().fit(X, y / 100)
    >>> result = model.unlearn(7)
    >>> result.status, result.evidence.passes <= 4
    ('certified', True)
    """

    _kind = "NewtonRidge"
    _released_class = ReleasedRidge
    _single_output: bool

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        noise_std: float = 0.01,
        epsilon: float = 1.0,
        delta: float = 1e-5,
        fit_intercept: bool = True,
        releases: int = 10_000,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.alpha = alpha
        self.noise_std = noise_std
        self.epsilon = epsilon
        self.delta = delta
        self.fit_intercept = fit_intercept
        self.releases = releases
        self.random_state = random_state

    @whole
    def fit(
        self,
        X: ArrayLike | Records,
        y: ArrayLike | None = None,
        record_ids: ArrayLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        conditions: Iterable[str] = (),
    ) -> NewtonRidge:
        """Fit to records ``X`` (n, d) and targets ``y`` (n,) or (n, q), or to a table of records, and release once.

        The parameters are those of `NewtonLogisticRegression.fit`, with targets instead of labels.
        """
        if isinstance(X, Records):
            self._fit_table(X, y, record_ids, sample_weight=sample_weight, conditions=stated_conditions(conditions))
            warn_of_noise(self._state)
            return self
        refuse_masks("X", X)
        refuse_masks("y", y)
        refuse_other_order("sample_weight", sample_weight, X)
        table, column = X, y
        X, y = validate_data(self, X, y, dtype=np.float64, accept_sparse="csr", multi_output=True, y_numeric=True)
        targets = np.array(y, dtype=np.float64)
        ids = self._ids(table, column, record_ids, len(targets))
        self._single_output = targets.ndim == 1
        targets = targets.reshape(len(targets), -1)
        self._learn(
            X,
            targets,
            loss="squared",
            n_outputs=targets.shape[1],
            classes=None,
            weights=weights_of(sample_weight, None, targets),
            ids=ids,
            conditions=stated_conditions(conditions),
        )
        warn_of_noise(self._state)
        return self

    def _fit_table(
        self,
        records: Records,
        y: object,
        record_ids: ArrayLike | None,
        *,
        sample_weight: ArrayLike | None,
        conditions: tuple[str, ...],
    ) -> None:
        refuse_untargeted(records, y, record_ids)
        first = np.asarray(next(records.blocks(stop=1)).y)
        if first.dtype.kind == "U":
            raise ValueError("X must be a table with numbers as targets, got text: is NewtonRidgeClassifier meant?")
        self._single_output = first.ndim == 1
        self._learn_table(
            records,
            loss="squared",
            n_outputs=1 if first.ndim == 1 else first.shape[1],
            classes=None,
            weights=weights_of(sample_weight, None, np.empty(records.n_records)),
            conditions=conditions,
        )

    @property
    def coef_(self) -> Float64:
        """Released coefficients, shape (n_features,) for targets (n,), else (n_outputs, n_features), as a copy."""
        self._require_fitted()
        return self._coef_rows[0].copy() if self._single_output else self._coef_rows.copy()

    @property
    def intercept_(self) -> float | Float64:
        """Released intercept: a float for targets (n,), else shape (n_outputs,)."""
        self._require_fitted()
        return float(self._intercept_row[0]) if self._single_output else self._intercept_row.copy()

    def predict(self, X: ArrayLike | Records) -> Float64:
        """Return predictions, shape (n,) or (n, n_outputs)."""
        scores = self._scores(X)
        return scores[:, 0] if self._single_output else scores

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class NewtonRidgeClassifier(Scored, ClassifierMixin, NewtonClassifier):  # type: ignore[misc]
    """Classification by ridge regression on one-hot targets, with certified deletion; predicts the largest output.

    Parameters
    ----------
    alpha, noise_std, epsilon, delta, fit_intercept, releases, random_state
        As of `NewtonRidge`.
    classes, class_weight
        As of `NewtonLogisticRegression`.

    Attributes
    ----------
    coef_ : ndarray of shape (n_classes, n_features)
        As released, with noise.
    intercept_ : ndarray of shape (n_classes,)
        As released, with noise.
    classes_ : ndarray of shape (n_classes,)
    certificate_, evidence_, conditions_, ids_, releases_left_
        As of `NewtonLogisticRegression`.
    n_features_in_ : int

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from expunge import NewtonRidgeClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = NewtonRidgeClassifier(classes=range(10)).fit(X / 64, y)
    >>> model.unlearn(range(5)).certificate.n_records
    1792
    """

    _kind = "NewtonRidgeClassifier"
    _released_class = ReleasedRidgeClassifier

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        noise_std: float = 0.01,
        epsilon: float = 1.0,
        delta: float = 1e-5,
        fit_intercept: bool = True,
        classes: ArrayLike | None = None,
        releases: int = 10_000,
        random_state: int | np.random.RandomState | None = None,
        class_weight: Mapping[Label, float] | None = None,
    ) -> None:
        self.alpha = alpha
        self.noise_std = noise_std
        self.epsilon = epsilon
        self.delta = delta
        self.fit_intercept = fit_intercept
        self.classes = classes
        self.releases = releases
        self.random_state = random_state
        self.class_weight = class_weight

    @whole
    def fit(
        self,
        X: ArrayLike | Records,
        y: ArrayLike | None = None,
        record_ids: ArrayLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        conditions: Iterable[str] = (),
    ) -> NewtonRidgeClassifier:
        """Fit to records ``X`` (n, d) and labels ``y`` (n,); the rest is as for `NewtonLogisticRegression.fit`."""
        self._fit_labels(
            X, y, record_ids, sample_weight=sample_weight, conditions=conditions, form=lambda n, _: ("squared", n)
        )
        warn_of_noise(self._state)
        return self

    @property
    def coef_(self) -> Float64:
        """Released coefficients, shape (n_classes, n_features), as a copy."""
        self._require_fitted()
        return self._coef_rows.copy()

    @property
    def intercept_(self) -> Float64:
        """Released intercepts, shape (n_classes,), as a copy."""
        self._require_fitted()
        return self._intercept_row.copy()

    def decision_function(self, X: ArrayLike | Records) -> Float64:
        """Return one score per class, shape (n, n_classes); for two classes their difference, shape (n,)."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: ArrayLike | Records) -> AnyArray:
        """Return class labels, shape (n,)."""
        numbers = np.argmax(self._scores(X), axis=1)
        return np.asarray(self.classes_[numbers])
