"""Learning a ridge model by noisy gradient steps, and what a learned model can do by itself."""

from __future__ import annotations

from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from expunge._validate import choice, count, number
from expunge.accounting.ridge_law import STEP_SIZE_SLACK, Phase, smoothness
from expunge.estimators import _storage
from expunge.estimators._history import SEED_CONDITION, History, noisy_steps, os_normals, seeded_normals
from expunge.estimators._records import RecordIds
from expunge.estimators.released import Released
from expunge.ridge import LearningLaw

__all__ = ["FittedRidge"]

Array = NDArray[np.float64]
Self = TypeVar("Self", bound="FittedRidge")


class FittedRidge(BaseEstimator):  # type: ignore[misc]
    """A model that learns, predicts, releases its coefficients and is saved: what regressor and classifier share."""

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

    # --- history and release -------------------------------------------------------------------

    def _require_history(self) -> History:
        check_is_fitted(self)
        if self._history is None:
            raise RuntimeError(f"this model holds no history: {self._no_history_reason}")
        return self._history

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
