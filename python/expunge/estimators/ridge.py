"""Ridge models learned by Langevin dynamics, which can say what forgetting a record costs, and forget it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from expunge._types import AnyArray
from expunge._validate import refuse_masks
from expunge.data.blocks import Records
from expunge.estimators._classes import class_list
from expunge.estimators._deleting import DeletingRidge, Unlearned
from expunge.estimators._records import ids_of_fit
from expunge.estimators.released import ReleasedRidge, ReleasedRidgeClassifier, Scored

__all__ = ["LangevinRidge", "LangevinRidgeClassifier", "Unlearned"]

Array = NDArray[np.float64]


class LangevinRidge(Scored, RegressorMixin, DeletingRidge):  # type: ignore[misc]
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
    step_size : float, "auto" or "bounded", default "auto"
        eta, a constant from then on; a number, at most 1/L of the first fit, is *given*. "bounded" is
        1/(n_bound norm_bound^2 + alpha), which is at most 1/L wherever the two bounds hold; ``fit`` checks them.
        "auto" is 1/L of the first fit. It depends on every record, including one deleted later, and whoever sees the
        release may see that: certificates are then *conditional*, by name.
    norm_bound : float, optional
        With "bounded": a bound that you know on the Euclidean norm of every row, constant column included; features in
        [-1, 1] have sqrt(n_features + 1).
    n_bound : int, optional
        With "bounded": a bound that you know on the number of records. When omitted, the next power of two is taken;
        that is computed from the data, and certificates are *conditional* again.
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
    conditions_ : tuple of str
        What certificates rest on besides the theorem: which constants of the run were taken from the data.
    n_features_in_ : int

    Warns
    -----
    NoiseWarning
        By ``fit``, if noise costs more than 5 points of training R^2 against the noise-free optimum of the data, or
        too few steps cost more than 3 (from 20 records on; below that a score says little). The warning carries
        settings that avoid it; a rehearsal finds out whether noise, too few steps or the scale of the features is at
        fault.

    References
    ----------
    Benarroch, Atif, Cappe, *Certified Per-Instance Unlearning Using Individual Sensitivity Bounds*, arXiv 2602.15602.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = LangevinRidge(n_steps=1000, noise_std=0.02).fit(X, y / 100)
    >>> result = model.unlearn(7, epsilon=1.0, delta=1e-5, n_steps=20)
    >>> predictions = result.model.release().predict(X)
    """

    _kind = "LangevinRidge"
    _released = ReleasedRidge

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        record_ids: ArrayLike | None = None,
        *,
        conditions: Iterable[str] = (),
        of_program: bool | None = None,
    ) -> LangevinRidge:
        """Learn from records ``X`` (n, d) and targets ``y`` (n,) or (n, q).

        Parameters
        ----------
        X : array-like of shape (n, d)
            Features. The index of a pandas table is kept as ids of the records, unless it is 0..n-1.
        y : array-like of shape (n,) or (n, q)
            Targets. Where ``X`` has no index, or 0..n-1, that of ``y`` is kept.
        record_ids : sequence of int or of str, length n, optional
            Whose row each is: integers of any size or strings, never converted. All rows of one id are one person,
            deleted and quoted together by ``ids=``. Kept in the working model and its file only: released models and
            certificates hold none.
        conditions : sequence of str, optional
            What certificates have to say besides what ``fit`` sees: constants that were computed from these records
            before, each as a name of `expunge.certificates.CONDITIONS` (``"scale"``, ``"step_size"``) or as a sentence.
            Certificates are then *conditional*, and released models say so too.
        of_program : bool, optional
            Whether certificates of deletions are to be about the program that ran, not about real numbers that it
            stands for: steps have a proved bound on their rounding and take longer (see Notes), and what a deletion
            releases has noise of its own, rounded to a grid. By default they are, unless the noise is that of a seed
            (``random_state``), which is no secret of the program. ``False`` for the claim about real numbers.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If ids are floats, booleans, missing, masked or of both kinds, or conditions are no texts.
        ValueError
            If there is not one id per row, or ``y`` is a pandas column of the same labels as ``X`` in another order; or
            ``of_program=True`` is asked for with a seed; or, but for ``of_program=False``, the step size or the number
            of columns is so large that nothing is bounded.

        Notes
        -----
        Of a model whose certificates are about the program, `quote` and `unlearn` leave a thousandth of delta to its
        rounding, and `unlearn` refuses a delta of which that takes more. After a deletion ``coef_``, ``predict`` and
        ``release()`` are of the release; the next steps go on from parameters that only the model and its file hold.
        ``of_program_`` says which claim it is, ``docs/guarantees.md`` has the theorem.

        Examples
        --------
        >>> from expunge.certificates import Policy
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = LangevinRidge(noise_std=0.02, n_steps=1000, step_size=0.002).fit(X, y / 100)
        >>> model.of_program_
        True
        >>> result = model.unlearn(3, epsilon=1.0, delta=1e-5, n_steps=20, noise_std=0.05)
        >>> result.certificate.verify(X, y / 100, result.model, policy=Policy(of_program=True)).certified
        True
        """
        refuse_masks("X", X)
        refuse_masks("y", y)
        table, column = X, y
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        ids = ids_of_fit(table, column, record_ids, np.shape(X)[0])
        labels = np.array(y, dtype=np.float64)
        targets = labels.reshape(len(labels), -1)
        more = {"conditions": conditions, "of_program": of_program}
        return self._learn(np.asarray(X), labels, np.ascontiguousarray(targets), ids, **more)

    def predict(self, X: ArrayLike | Records) -> Array:
        """Return predictions, shape (n,) or (n, n_outputs); of a table, read block by block."""
        scores = self._scores(X)
        return scores[:, 0] if self._single_output else scores

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class LangevinRidgeClassifier(Scored, ClassifierMixin, DeletingRidge):  # type: ignore[misc]
    """Classification by ridge regression on one-hot targets, learned by Langevin dynamics; predicts the largest output.

    Parameters and the deletion methods are those of `LangevinRidge`, and ``classes``. ``classes_`` is a constant of the
    first fit: a deletion never drops a class.

    Parameters
    ----------
    classes : array-like of int or str, optional
        All classes there can be, known beforehand; a class without records is fine, other labels are refused. When
        omitted, the labels in ``y`` are taken: then a class can exist for the sake of one record, certificates are
        *conditional*, and deleting the last record of a class is refused.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coef_ : ndarray of shape (n_classes, n_features)
    intercept_ : ndarray of shape (n_classes,)
    step_size_ : float
    conditions_ : tuple of str
    n_features_in_ : int

    Warns
    -----
    NoiseWarning
        As `LangevinRidge`, by training accuracy; also when it is not above that of always answering the most frequent
        class, while the noise-free optimum is.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from expunge.data.scaling import ConstantScaler
    >>> X, y = load_iris(return_X_y=True)
    >>> X = ConstantScaler(0, 8).fit_transform(X)  # no petal is longer than 8 cm
    >>> model = LangevinRidgeClassifier(n_steps=1000).fit(X, y)
    >>> result = model.unlearn([0, 1], epsilon=1.0, delta=1e-5, n_steps=50)
    >>> result.certificate.neighbouring_relation
    'REMOVE_GROUP'
    """

    _kind = "LangevinRidgeClassifier"
    _released = ReleasedRidgeClassifier

    def __init__(
        self,
        *,
        classes: ArrayLike | None = None,
        alpha: float = 1.0,
        n_steps: int = 300,
        noise_std: float = 0.01,
        step_size: float | str = "auto",
        norm_bound: float | None = None,
        n_bound: int | None = None,
        fit_intercept: bool = True,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        super().__init__(
            alpha=alpha,
            n_steps=n_steps,
            noise_std=noise_std,
            step_size=step_size,
            norm_bound=norm_bound,
            n_bound=n_bound,
            fit_intercept=fit_intercept,
            random_state=random_state,
        )
        self.classes = classes

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        record_ids: ArrayLike | None = None,
        *,
        conditions: Iterable[str] = (),
        of_program: bool | None = None,
    ) -> LangevinRidgeClassifier:
        """Learn from records ``X`` (n, d) and class labels ``y`` (n,); the rest is as for `LangevinRidge.fit`."""
        refuse_masks("X", X)
        refuse_masks("y", y)
        table, column = X, y
        X, y = validate_data(self, X, y, dtype=np.float64)
        ids = ids_of_fit(table, column, record_ids, np.shape(X)[0])
        check_classification_targets(y)
        classes, source = class_list(np.asarray(y), self.classes)
        codes = np.searchsorted(classes, y)
        given = classes.tolist() if source == "given" else None
        targets = np.zeros((len(codes), len(classes)))
        targets[np.arange(len(codes)), codes] = 1.0
        more = {"classes_source": source, "classes": given, "conditions": conditions, "of_program": of_program}
        self._learn(np.asarray(X), np.array(y), targets, ids, **more)
        self.classes_ = classes
        return self

    def decision_function(self, X: ArrayLike | Records) -> Array:
        """Return one score per class, shape (n, n_classes); for two classes their difference, shape (n,)."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: ArrayLike | Records) -> AnyArray:
        """Return class labels, shape (n,); of a table, read block by block."""
        scores = self._scores(X)
        return np.asarray(self.classes_[np.argmax(scores, axis=1)])
