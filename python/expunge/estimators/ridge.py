"""Ridge models learned by Langevin dynamics, which can say what forgetting a record costs, and forget it."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from expunge._validate import choice, count, number
from expunge.accounting import GaussianPair
from expunge.accounting.ridge_law import STEP_SIZE_SLACK, Phase, deletion_pair, smoothness
from expunge.certificates import Certificate, RidgeRun
from expunge.estimators import _storage
from expunge.estimators._history import SEED_CONDITION, History, noisy_steps, os_normals, seeded_normals
from expunge.estimators._records import RecordIds, ids_of_fit, selected_rows
from expunge.estimators.quotes import METHODS, DeletionCost, Quote, quote
from expunge.estimators.released import Released, ReleasedRidge, ReleasedRidgeClassifier
from expunge.ridge import LearningLaw

__all__ = ["LangevinRidge", "LangevinRidgeClassifier", "Unlearned"]

Array = NDArray[np.float64]
Self = TypeVar("Self", bound="_LangevinRidgeBase")

# Unlearning noise is never below this part of the largest coefficient: less could be rounded away in float64, and
# more noise is never less private.
_RESOLUTION = 2.0**-30


@dataclass(frozen=True)
class Unlearned:
    """The result of a deletion.

    Attributes
    ----------
    model : LangevinRidge or LangevinRidgeClassifier
        A new working model (confidential: it holds the history, deleted rows included). Publish ``model.release()``.
    certificate : Certificate
        The claim and everything needed to check it (confidential: its noise depends on the deleted record).
    """

    model: Any
    certificate: Certificate


class _LangevinRidgeBase(BaseEstimator):  # type: ignore[misc]
    """What regressor and classifier share: learning, quoting, unlearning, releasing, saving."""

    _kind: ClassVar[str]
    _released: ClassVar[type[Released]]

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        n_steps: int = 300,
        noise_std: float = 0.01,
        step_size: float | str = "auto",
        fit_intercept: bool = True,
        random_state: Any = None,
    ) -> None:
        self.alpha = alpha
        self.n_steps = n_steps
        self.noise_std = noise_std
        self.step_size = step_size
        self.fit_intercept = fit_intercept
        self.random_state = random_state

    # --- learning ------------------------------------------------------------------------------

    def _learn(self: Self, X: Array, labels: NDArray[Any], targets: Array, ids: RecordIds | None) -> Self:
        alpha = number("alpha", self.alpha, low=0, open_low=True)
        phase = Phase(count("n_steps", self.n_steps, low=1), number("noise_std", self.noise_std, low=0))
        design = np.empty((X.shape[0], X.shape[1] + bool(self.fit_intercept)))
        design[:, : X.shape[1]] = X
        if self.fit_intercept:
            design[:, -1] = 1.0
        limit = 1.0 / smoothness(design, alpha=alpha)
        if isinstance(self.step_size, str):
            choice("step_size", self.step_size, ("auto",))
            step_size = limit
        else:
            step_size = number("step_size", self.step_size, low=0, open_low=True)
            if step_size > limit * (1 + STEP_SIZE_SLACK):
                raise ValueError(f"step_size must be at most 1/L = {limit!r} on this data, got {step_size!r}")
        seed = self._seed()
        normals = os_normals if seed is None else seeded_normals(seed)
        theta = np.zeros((design.shape[1], targets.shape[1]))
        self._theta = noisy_steps(
            theta, design, targets, alpha=alpha, step_size=step_size, phase=phase, normals=normals
        )
        self.step_size_ = step_size
        self.n_iter_ = phase.n_steps
        self._single_output = labels.ndim == 1 and self._kind == "LangevinRidge"
        conditions = () if seed is None else (SEED_CONDITION,)
        self._history: History | None = History(design, labels, targets, alpha, step_size, (phase,), conditions, ids)
        self._no_history_reason = ""
        self._law_cache: LearningLaw | None = None
        return self

    def _seed(self) -> int | None:
        state = self.random_state
        if state is None:
            return None
        if isinstance(state, (np.random.RandomState, np.random.Generator)):
            draw = state.randint if isinstance(state, np.random.RandomState) else state.integers
            return int(draw(0, 2**63 - 1, dtype=np.int64))
        if isinstance(state, Integral) and not isinstance(state, bool) and 0 <= int(state) < 2**63:
            return int(state)
        raise ValueError(f"random_state must be None, an integer in [0, 2^63) or a NumPy generator, got {state!r}")

    @property
    def _coef_rows(self) -> Array:
        return self._theta[: self.n_features_in_].T

    @property
    def _intercept_row(self) -> Array:
        return self._theta[-1] if self.fit_intercept else np.zeros(self._theta.shape[1])

    @property
    def coef_(self) -> Array:
        """Coefficients, shape (n_features,) for one output of a regressor, else (n_outputs, n_features)."""
        check_is_fitted(self, "_theta")
        return self._coef_rows[0].copy() if self._single_output else self._coef_rows.copy()

    @property
    def intercept_(self) -> float | Array:
        """Intercept: a float for one output of a regressor, else shape (n_outputs,)."""
        check_is_fitted(self, "_theta")
        return float(self._intercept_row[0]) if self._single_output else self._intercept_row.copy()

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_theta")

    def _scores(self, X: ArrayLike) -> Array:
        check_is_fitted(self)
        rows: Array = validate_data(self, X, dtype=np.float64, reset=False)
        return np.asarray(rows @ self._coef_rows.T + self._intercept_row, dtype=np.float64)

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        text: str = super().__repr__(N_CHAR_MAX=N_CHAR_MAX)
        history = getattr(self, "_history", None)
        if history is None:
            return text
        deleted = f", {len(history.removed)} deleted" if history.removed else ""
        return f"{text}  <confidential: holds the history and data of {len(history.design)} records{deleted}>"

    # --- asking --------------------------------------------------------------------------------

    def _require_history(self) -> History:
        check_is_fitted(self)
        if self._history is None:
            raise RuntimeError(f"this model holds no history: {self._no_history_reason}")
        return self._history

    def _law(self, history: History) -> LearningLaw | None:
        """Return the law shared by all first deletions, or None once there is a deletion behind the model."""
        if len(history.phases) > 1:
            return None
        if self._law_cache is None:
            phase = history.phases[0]
            self._law_cache = LearningLaw(
                history.design,
                history.targets,
                alpha=history.alpha,
                step_size=history.step_size,
                n_steps=phase.n_steps,
                noise_std=phase.noise_std,
            )
        return self._law_cache

    def quote(
        self,
        *,
        epsilon: float,
        delta: float,
        n_steps: int | None = None,
        noise_std: float | None = None,
        method: str = "exact",
        indices: ArrayLike | None = None,
        ids: Any = None,
        rows: ArrayLike | None = None,
        by_id: bool = False,
        groups: ArrayLike | None = None,
        threads: int | None = None,
    ) -> Quote:
        """Return what forgetting each record would cost.

        Parameters
        ----------
        epsilon, delta : float
            Target of the deletion: epsilon >= 0, 0 < delta < 1.
        n_steps : int, optional
            Unlearning steps (>= 1); the smallest noise per step is returned.
        noise_std : float, optional
            Noise per unlearning step (> 0); the fewest steps are returned. Give exactly one of the two.
        method : {"exact", "shifted", "uniform"}
            From the exact Gaussian laws; from the per-record bound by shifted interpolation ([BAC26], section 3 of
            arXiv 2602.15602, repaired); from the worst case over all training records, whichever are quoted.
            The last two spend delta/10 on the residuals' high-probability bound and need
            e^epsilon < 10; above, their noise is ``inf``.
        ids : int, str or sequence of them, optional
            People to quote: ids of the first fit, all rows of one id together. At most one of ``ids``, ``rows`` and
            ``indices`` is given; all that remain are quoted when none is.
        rows : array-like of int, optional
            Rows to quote: positions in the first fit.
        indices : array-like of int, optional
            The same as ``rows``; refused where the model has ids, since a number could mean either.
        by_id : bool, default False
            Quote all rows of one id together, one entry per id among those asked for; ``ids`` always does.
        groups : array-like of int or str, shape (n,), optional
            One group per row of the first fit (exact integers or strings); rows of one group are quoted together, and
            the quote has one entry per group among those asked for.
        threads : int, optional
            Cores to use; EXPUNGE_NUM_THREADS or all of them when omitted.

        Returns
        -------
        Quote
            In the order asked for. Exact quotes come from truncated Krylov spaces and say *estimate*, with their
            error; `unlearn` never truncates.

        Raises
        ------
        ValueError
            On an argument out of range.
        RuntimeError
            After `forget_history`.

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = LangevinRidge(noise_std=0.5, random_state=0).fit(X, y / 100)
        >>> quote = model.quote(epsilon=1.0, delta=1e-5, n_steps=20)
        >>> len(quote)
        442
        """
        history = self._require_history()
        return quote(
            history,
            epsilon=epsilon,
            delta=delta,
            n_steps=n_steps,
            noise_std=noise_std,
            method=method,
            indices=indices,
            ids=ids,
            rows=rows,
            by_id=by_id,
            groups=groups,
            law=self._law(history),
            threads=threads,
        )

    def _rows_to_delete(self, history: History, indices: Any, ids: Any, rows: Any) -> NDArray[np.int64]:
        n, removed = len(history.design), history.removed
        found = selected_rows(history.ids, n=n, removed=removed, indices=indices, ids=ids, rows=rows)
        if len(found) + len(removed) >= n:
            name = "indices" if indices is not None else "ids" if ids is not None else "rows"
            raise ValueError(f"{name} must leave at least one record, got all that remain")
        return found

    def privacy_profile(
        self,
        indices: ArrayLike | None = None,
        *,
        ids: Any = None,
        rows: ArrayLike | None = None,
        n_steps: int = 0,
        noise_std: float = 0.0,
    ) -> GaussianPair:
        """Return the exact Gaussian pair of deleting records, by dense float64 algebra.

        Parameters
        ----------
        indices, ids, rows : int, str or sequence of them
            Records to delete together, as for `unlearn`.
        n_steps : int
            Unlearning steps; 0 is the pair at the end of learning.
        noise_std : float
            Noise per unlearning step; 0 is the pair at the end of learning.

        Returns
        -------
        GaussianPair
            ``.delta(epsilon)``, ``.epsilon(delta)``, ``.renyi(order)``; P is this model's law, Q the law of the run
            that never saw the rows (nor any deleted before).

        Raises
        ------
        ValueError
            If there is no noise at all, or on records that are not there, repeated or already deleted.

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = LangevinRidge(noise_std=0.5, random_state=0).fit(X, y / 100)
        >>> pair = model.privacy_profile(3, n_steps=20, noise_std=0.5)
        >>> bool(pair.delta(1.0) < pair.delta(0.1) < 1)
        True
        """
        history = self._require_history()
        deleted = tuple(sorted({*history.removed, *self._rows_to_delete(history, indices, ids, rows).tolist()}))
        last = Phase(count("n_steps", n_steps), number("noise_std", noise_std, low=0), deleted)
        return deletion_pair(
            history.design,
            history.targets,
            alpha=history.alpha,
            step_size=history.step_size,
            phases=(*history.phases, last),
            deleted=deleted,
        )

    # --- forgetting ----------------------------------------------------------------------------

    def unlearn(
        self,
        indices: ArrayLike | None = None,
        *,
        ids: Any = None,
        rows: ArrayLike | None = None,
        epsilon: float,
        delta: float,
        n_steps: int,
        method: str = "exact",
    ) -> Unlearned:
        """Forget records: noisy steps on the remaining data, with the least noise that certifies (epsilon, delta).

        Parameters
        ----------
        indices : int or array-like of int
            Row or rows of the first fit to delete together, where they are the only numbers a record has: a model
            fitted with ``record_ids``, or on a table whose index is not 0..n-1, refuses them, since 7 could mean the
            id or the position. Give exactly one of ``indices``, ``ids`` and ``rows``.
        ids : int, str or sequence of them
            Whom to delete: ids of the first fit, all remaining rows of each. An id named twice is deleted once.
        rows : int or array-like of int
            Positions in the first fit.
        epsilon, delta : float
            The claim: epsilon >= 0, 0 < delta < 1, both directions.
        n_steps : int
            Unlearning steps, >= 1.
        method : {"exact", "shifted", "uniform"}
            How the noise is calibrated, see `quote`. Never truncated here.

        Returns
        -------
        Unlearned
            ``.model``, a new working model, and ``.certificate``. This model is unchanged. A later `unlearn` on the
            result is certified against the run that never saw any of the deleted records.

        Raises
        ------
        ValueError
            On an argument out of range, on an id or row that is not there or was deleted before, on ``indices`` that
            could be ids, or when no noise reaches the target.
        TypeError
            On none or several of ``indices``, ``ids`` and ``rows``; on ids of another kind (7 is not "7").
        RuntimeError
            After `forget_history`.

        Notes
        -----
        The steps' noise is drawn from the operating system's randomness and not kept, whatever ``random_state`` is.

        Examples
        --------
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = LangevinRidge(noise_std=0.5).fit(X, y / 100)
        >>> result = model.unlearn(3, epsilon=1.0, delta=1e-5, n_steps=20)
        >>> result.certificate.status
        'certified'
        >>> report = result.certificate.verify(X, y / 100, result.model)

        With ids:

        >>> names = [f"customer {i // 2}" for i in range(442)]
        >>> model = LangevinRidge(noise_std=0.5).fit(X, y / 100, record_ids=names)
        >>> result = model.unlearn(ids="customer 7", epsilon=1.0, delta=1e-5, n_steps=20)
        >>> result.certificate.run.deleted
        (14, 15)
        """
        history = self._require_history()
        chosen = self._rows_to_delete(history, indices, ids, rows)
        epsilon = number("epsilon", epsilon, low=0)
        delta = number("delta", delta, low=0, high=1, open_low=True, open_high=True)
        n_steps = count("n_steps", n_steps, low=1)
        choice("method", method, METHODS)
        cost = DeletionCost(history, chosen.tolist(), method=method, epsilon=epsilon, delta=delta)
        noise = cost.smallest_noise(n_steps, start=max(history.phases[0].noise_std, 1e-3))
        if not np.isfinite(noise):
            raise ValueError(f"epsilon = {epsilon:g}, delta = {delta:g} cannot be reached by any noise ({method=!s})")
        if noise > 0:
            noise = max(noise, _RESOLUTION * max(1.0, float(np.abs(self._theta).max())))
        phase = cost.phase(n_steps, noise)
        keep = np.ones(len(history.design), dtype=bool)
        keep[list(cost.deleted)] = False
        theta = noisy_steps(
            self._theta,
            history.design[keep],
            history.targets[keep],
            alpha=history.alpha,
            step_size=history.step_size,
            phase=phase,
            normals=os_normals,
        )
        model = self._successor(history.after(phase), theta)
        return Unlearned(model, self._certificate(model, cost, epsilon=epsilon, delta=delta))

    def _successor(self: Self, history: History, theta: Array) -> Self:
        model = type(self)(**self.get_params())
        for name in ("step_size_", "n_iter_", "n_features_in_", "classes_", "feature_names_in_", "_single_output"):
            if hasattr(self, name):
                setattr(model, name, getattr(self, name))
        model._theta, model._history = theta, history
        model._no_history_reason, model._law_cache = "", None
        return model

    def _certificate(self, model: Any, cost: DeletionCost, *, epsilon: float, delta: float) -> Certificate:
        history: History = model._history
        n, p = history.design.shape
        run = RidgeRun(
            estimator=self._kind,
            alpha=history.alpha,
            fit_intercept=bool(self.fit_intercept),
            step_size=history.step_size,
            classes=tuple(self.classes_.tolist()) if hasattr(self, "classes_") else None,
            n_records=n,
            n_features=p - bool(self.fit_intercept),
            n_outputs=history.targets.shape[1],
            phases=history.phases,
            deleted=cost.deleted,
        )
        return Certificate.create(
            X=history.design[:, : run.n_features],
            y=history.labels,
            model=model,
            run=run,
            method=cost.method,
            epsilon=epsilon,
            delta=delta,
            conditions=history.conditions,
        )

    def downdate(self, indices: ArrayLike | None = None, *, ids: Any = None, rows: ArrayLike | None = None) -> Released:
        """Return the ridge optimum without some records, downdated exactly: the zero-noise baseline.

        Sherman-Morrison-Woodbury on the factor of H = X^T X + alpha I: no dynamics, no noise and no privacy claim; the
        model that forgetting should stay close to.

        Parameters
        ----------
        indices, ids, rows : int, str or sequence of them
            Records to leave out, as for `unlearn` (earlier deletions stay out).

        Returns
        -------
        ReleasedRidge
            A predict-only estimator with the coefficients of the optimum.

        Examples
        --------
        >>> import numpy as np
        >>> X, y = np.eye(3), np.ones(3)
        >>> LangevinRidge(random_state=0, fit_intercept=False).fit(X, y).downdate(0).coef_.round(12).tolist()
        [0.0, 0.5, 0.5]
        """
        history = self._require_history()
        chosen = self._rows_to_delete(history, indices, ids, rows)
        keep = history.remaining
        design, targets = history.design[keep], history.targets[keep]
        gram = design.T @ design
        gram[np.diag_indices_from(gram)] += history.alpha
        factor = linalg.cho_factor(gram, overwrite_a=True)
        optimum = linalg.cho_solve(factor, design.T @ targets)
        gone = history.design[chosen]
        spread = linalg.cho_solve(factor, gone.T)
        # H - X_G^T X_G >= alpha I, so I - X_G H^-1 X_G^T is positive definite.
        capacity = np.eye(len(chosen)) - gone @ spread
        residual = gone @ optimum - history.targets[chosen]
        return self._release(optimum + spread @ linalg.solve(capacity, residual, assume_a="pos"))

    # --- letting go ----------------------------------------------------------------------------

    def _release(self, theta: Array) -> Released:
        rows = np.ascontiguousarray(theta[: self.n_features_in_].T)
        intercept = theta[-1].copy() if self.fit_intercept else np.zeros(theta.shape[1])
        classes = self.classes_.copy() if hasattr(self, "classes_") else None
        if self._single_output:
            return self._released._from_parts(rows[0], float(intercept[0]), classes)
        return self._released._from_parts(rows, intercept, classes)

    def release(self) -> Released:
        """Return a predict-only estimator that holds ``coef_`` and ``intercept_`` and nothing of the data.

        Returns
        -------
        ReleasedRidge or ReleasedRidgeClassifier
            Safe to publish once the deletion's certificate is accepted.

        Examples
        --------
        >>> import numpy as np
        >>> released = LangevinRidge(random_state=0).fit(np.eye(3), np.ones(3)).release()
        >>> released.predict(np.eye(3)).shape
        (3,)
        """
        check_is_fitted(self)
        return self._release(self._theta)

    def forget_history(self: Self) -> Self:
        """Drop the data and the record of the run; the model still predicts, but certifies nothing any more.

        Returns
        -------
        self

        Examples
        --------
        >>> import numpy as np
        >>> model = LangevinRidge(random_state=0).fit(np.eye(3), np.ones(3)).forget_history()
        >>> model.quote(epsilon=1.0, delta=1e-5, n_steps=5)
        Traceback (most recent call last):
            ...
        RuntimeError: this model holds no history: forget_history() dropped it
        """
        check_is_fitted(self)
        self._history, self._law_cache = None, None
        self._no_history_reason = "forget_history() dropped it"
        return self

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        if "_law_cache" in state:
            state = {**state, "_law_cache": None}  # rebuilt when asked for
        return state

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the working model to one ``.npz`` file (arrays and JSON, no pickle), whole or not at all.

        The file is as confidential as the model: it holds the history, deleted rows included.

        Parameters
        ----------
        path : str or Path
            Where to.
        overwrite : bool
            Replace an existing file.

        Returns
        -------
        Path

        Raises
        ------
        FileExistsError
            If ``path`` exists and ``overwrite`` is false.
        """
        check_is_fitted(self)
        return _storage.save_working(self, path, overwrite=overwrite)

    @classmethod
    def load(cls: type[Self], path: str | Path) -> Self:
        """Read a working model written by `save`.

        Raises
        ------
        ValueError
            If the file is truncated, of an unknown version, or of another kind of model.
        """
        model: Self = _storage.load_working(cls, path)
        return model


class LangevinRidge(RegressorMixin, _LangevinRidgeBase):  # type: ignore[misc]
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


class LangevinRidgeClassifier(ClassifierMixin, _LangevinRidgeBase):  # type: ignore[misc]
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
