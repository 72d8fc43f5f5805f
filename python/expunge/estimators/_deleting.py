"""Deletions: noisy steps on what remains, their certificate, and the noise-free baseline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from expunge._validate import choice, count, number
from expunge.certificates import Certificate, RidgeRun
from expunge.estimators._asking import AskedRidge
from expunge.estimators._history import History, noisy_steps, os_normals
from expunge.estimators.quotes import METHODS, DeletionCost
from expunge.estimators.released import Released

__all__ = ["DeletingRidge", "Unlearned"]

Array = NDArray[np.float64]
Self = TypeVar("Self", bound="DeletingRidge")

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


class DeletingRidge(AskedRidge):
    """A learned model that forgets records."""

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
        >>> result.certificate.status  # step size and noise were computed from data that held the record
        'conditional'
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
