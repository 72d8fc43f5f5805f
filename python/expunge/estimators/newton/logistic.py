"""Logistic regression - two classes, one against the rest, softmax - that forgets records with a public certificate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin

from expunge._types import AnyArray
from expunge._validate import choice
from expunge.data.blocks import Records
from expunge.estimators.newton._whole import whole
from expunge.estimators.newton.classifying import NewtonClassifier
from expunge.estimators.newton.noise_cost import warn_of_noise
from expunge.estimators.released import ReleasedLogisticRegression, Scored, logistic_chances
from expunge.runs.residual.answers import Label

__all__ = ["NewtonLogisticRegression"]

Float64 = NDArray[np.float64]

# Parameters of a softmax model whose inverse Hessian, of their number squared, is kept; larger ones go class by class.
MOST_JOINT = 5000


class NewtonLogisticRegression(Scored, ClassifierMixin, NewtonClassifier):  # type: ignore[misc]
    """Logistic regression with certified deletion: fixed public noise, and work that adapts to the record.

    Minimises ``sum_i w_i loss_i + alpha/2 |theta|^2``, every parameter penalised, the intercept's too. Parameters are
    released with Gaussian noise of a fixed size around a point whose gradient is proved to be so small that nobody can
    tell the release from that of the noisy optimum. After a deletion the same holds for the data that remain: whatever
    happened before, (epsilon, delta) bounds what the release says about it. Data are never centred or scaled.

    Parameters
    ----------
    alpha : float, default 1.0
        L2 penalty, within [1e-30, 1e30]: scikit-learn's ``1 / C``.
    noise_std : float, default 0.01
        Standard deviation of the noise on every released parameter, > 0; a constant, chosen without the data.
    epsilon, delta : float, default 1.0 and 1e-5
        What all releases after a deletion claim together.
    multi_class : {"auto", "softmax", "ovr"}, default "auto"
        With more than two classes: one softmax, or one model of each class against the rest. "auto" is softmax up to
        5,000 parameters.
    fit_intercept : bool, default True
        Append a constant column 1, penalised like the others.
    classes : array-like of int or str, optional
        All classes there can be, known beforehand. When omitted they are taken from ``y``: then a class can exist for
        the sake of one record, and certificates are *conditional*.
    releases : int, default 10_000
        Most releases in the life of the model - one by `fit`, one by each change - which share the budget: the more,
        the smaller each one's share, ``mu = gdp_mu(epsilon, delta) / sqrt(releases)``, and the more exact the optimum.
    random_state : None, int or NumPy generator, default None
        Seed of the noise of the first release, computed in float64; its certificate is then *conditional*. All other
        noise is drawn exactly, from the operating system's randomness: the claim is about the program that ran.
    class_weight : dict from labels to float, optional
        Factors of the losses by class, as constants. "balanced" would depend on the data and is rejected.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        As released, with noise.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        As released, with noise.
    classes_ : ndarray of shape (n_classes,)
    certificate_ : ResidualCertificate
        Public certificate of the last release.
    evidence_ : ResidualEvidence
        Its evidence; confidential.
    conditions_ : tuple of str
        What the certificate rests on besides the theorem.
    ids_ : ndarray of shape (n_records,)
        Ids of the records now in the model.
    releases_left_ : int
    n_features_in_ : int

    Notes
    -----
    Rows much longer than 1 make the search for the optimum slow, and rounding coarse: divide features by a constant.

    References
    ----------
    ``docs/theory.md``, "Deletion by computed residual"; Guo, Goldstein, Hannun, van der Maaten, *Certified data
    removal*, arXiv 1911.03030; Smith, Thakurta, arXiv 2210.17520, for the budget.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from expunge import NewtonLogisticRegression
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X = X / 1000  # a constant: no feature of one record depends on another
    >>> model = NewtonLogisticRegression(classes=[0, 1]).fit(X, y)
    >>> result = model.unlearn([3, 14])
    >>> result.certificate.status, result.model.score(X, y) > 0.8
    ('certified', True)
    """

    _kind = "NewtonLogisticRegression"
    _released_class = ReleasedLogisticRegression

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        noise_std: float = 0.01,
        epsilon: float = 1.0,
        delta: float = 1e-5,
        multi_class: str = "auto",
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
        self.multi_class = multi_class
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
    ) -> NewtonLogisticRegression:
        """Fit to records ``X`` (n, d) and class labels ``y`` (n,), or to a table of records, and release once.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, d), or Records
            Features. Sparse ones are made dense, a block of rows at a time. The index of a pandas table is kept as ids
            of the records, unless it is 0..n-1. A table of records has its own ``y`` and ids; it is read again at each
            pass, every row is compared with its salted hash, and the model keeps none of them.
        y : array-like of shape (n,)
            Labels; omitted for a table.
        record_ids : sequence of int or of str, length n, optional
            Whose row each is: integers of any size or strings, never converted. All rows of one id are deleted together
            by ``unlearn(ids)``. Without ids records are numbered.
        sample_weight : array-like of shape (n,), optional
            Factors of the losses, as constants: they must not depend on other records.
        conditions : sequence of str, optional
            What certificates have to say besides what ``fit`` sees: constants that were computed from these records,
            each as a name of `expunge.certificates.CONDITIONS` (``"scale"``) or as a sentence.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or out of range, labels are not of the classes given, the noise is
            below what float64 can certify for these data, or ids do not fit the rows.
        RuntimeError
            If the optimum cannot be reached; the message names records and the remedy.

        Warns
        -----
        NoiseWarning
            If the noise makes the model clearly worse on these records than the parameters without it.
        """
        choice("multi_class", self.multi_class, ("auto", "softmax", "ovr"))
        self._fit_labels(X, y, record_ids, sample_weight=sample_weight, conditions=conditions, form=self._form)
        warn_of_noise(self._state)
        return self

    @property
    def coef_(self) -> Float64:
        """Released coefficients, shape (1, n_features) for two classes, else (n_classes, n_features), as a copy."""
        self._require_fitted()
        return self._coef_rows.copy()

    @property
    def intercept_(self) -> Float64:
        """Released intercepts, shape (1,) for two classes, else (n_classes,), as a copy."""
        self._require_fitted()
        return self._intercept_row.copy()

    def decision_function(self, X: ArrayLike | Records) -> Float64:
        """Return the logits: shape (n,) for two classes, that of the second; else (n, n_classes)."""
        scores = self._scores(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict_proba(self, X: ArrayLike | Records) -> Float64:
        """Return the chance of each class, shape (n, n_classes); one against the rest is scaled to sum to 1."""
        return logistic_chances(self._scores(X), softmax=self._state.objective.loss == "softmax")

    def predict_log_proba(self, X: ArrayLike | Records) -> Float64:
        """Return the logarithms of `predict_proba`, shape (n, n_classes)."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.predict_proba(X)))

    def predict(self, X: ArrayLike | Records) -> AnyArray:
        """Return class labels, shape (n,)."""
        scores = self._scores(X)
        numbers = (scores[:, 0] > 0).astype(int) if scores.shape[1] == 1 else np.argmax(scores, axis=1)
        return np.asarray(self.classes_[numbers])

    def _made(self) -> dict[str, Any]:
        return {"softmax": self._state.objective.loss == "softmax"}

    def _form(self, n_classes: int, columns: int) -> tuple[str, int]:
        if n_classes == 2 and self.multi_class != "softmax":
            return "logistic", 1
        if self.multi_class == "softmax" or (self.multi_class == "auto" and n_classes * columns <= MOST_JOINT):
            return "softmax", n_classes
        return "logistic", n_classes
