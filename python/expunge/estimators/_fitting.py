"""Learning a ridge model by noisy gradient steps, and what a learned model can do by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from expunge._validate import choice, count, number, refuse_masks
from expunge.accounting.noise_floor import RESOLUTION
from expunge.data.blocks import Records
from expunge.data.constants import CONDITIONS, Sources
from expunge.data.statistics import RidgeStatistics
from expunge.estimators import _storage
from expunge.estimators._conditions import SEED_CONDITION, stated_conditions
from expunge.estimators._history import History
from expunge.estimators._programs import begun, claims_program, steps_of
from expunge.estimators._progress import dense_work, parts
from expunge.estimators._reading import WithReading
from expunge.estimators._records import RecordIds
from expunge.estimators._seeds import seed_of
from expunge.estimators.noise_warning import TrainingData, TrainingSums, warn_of_learning
from expunge.estimators.released import Released, linear_scores, require_features, table_scores
from expunge.runs.noise import os_normals, seeded_normals
from expunge.runs.ridge import LearningLaw
from expunge.runs.ridge.chain import zeros
from expunge.runs.ridge.cost import LARGEST_NOISE, LEAST_NOISE
from expunge.runs.ridge.dynamics import NormalEquations
from expunge.runs.ridge.held_rows import HeldRows
from expunge.runs.ridge.law import Phase
from expunge.runs.ridge.products import Products, within_range
from expunge.runs.ridge.step_sizes import bounded_step_size, if_beyond, require_step_size, row_beyond, smoothness
from expunge.runs.ridge.table_sums import TableSums

__all__ = ["FittedRidge"]

Array = NDArray[np.float64]
Self = TypeVar("Self", bound="FittedRidge")


class FittedRidge(WithReading, BaseEstimator):  # type: ignore[misc]
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
        norm_bound: float | None = None,
        n_bound: int | None = None,
        fit_intercept: bool = True,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.alpha = alpha
        self.n_steps = n_steps
        self.noise_std = noise_std
        self.step_size = step_size
        self.norm_bound = norm_bound
        self.n_bound = n_bound
        self.fit_intercept = fit_intercept
        self.random_state = random_state

    # --- learning ------------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        """Return the parameters of a fit, checked: what the model keeps to until the next one."""
        step_size, bounds = self.step_size, (self.norm_bound, self.n_bound)
        if isinstance(step_size, str):
            choice("step_size", step_size, ("auto", "bounded"))
        else:
            step_size = number("step_size", step_size, low=0, open_low=True)
        if step_size == "bounded" and bounds[0] is None:
            raise ValueError("norm_bound must be given with step_size='bounded': a bound on the norm of every row")
        if step_size != "bounded" and bounds != (None, None):
            raise ValueError(f"norm_bound and n_bound need step_size='bounded', got step_size={step_size!r}")
        noise = number("noise_std", self.noise_std, low=0)
        if 0 < noise < LEAST_NOISE or noise > LARGEST_NOISE:
            raise ValueError(
                f"noise_std must be 0 or between {LEAST_NOISE:g} and {LARGEST_NOISE:g}, beyond which its squares "
                f"underflow or overflow float64, got {noise!r}"
            )
        return {
            "alpha": number("alpha", self.alpha, low=0, open_low=True),
            "n_steps": count("n_steps", self.n_steps, low=1),
            "noise_std": noise,
            "step_size": step_size,
            "norm_bound": None if bounds[0] is None else number("norm_bound", bounds[0], low=0, open_low=True),
            "n_bound": None if bounds[1] is None else count("n_bound", bounds[1], low=1),
            "fit_intercept": bool(self.fit_intercept),
        }

    def _learn(self: Self, X: Array, labels: NDArray[Any], targets: Array, ids: RecordIds | None, **more: Any) -> Self:
        """Learn; ``more`` are parameters of a subclass, where its classes come from, and the conditions given."""
        settings, classes_source = self._settings(), more.pop("classes_source", "none")
        of_program = more.pop("of_program", None)
        conditions = stated_conditions(more.pop("conditions", ()))
        design = np.empty((X.shape[0], X.shape[1] + settings["fit_intercept"]))
        design[:, : X.shape[1]] = X
        if settings["fit_intercept"]:
            design[:, -1] = 1.0
        with parts("fit", work=dense_work(*design.shape, decompositions=2)) as begin:
            begin("normal equations")
            equations = NormalEquations.of(design, targets, alpha=settings["alpha"])
            begin("step size")
            step_size, sources = _step_size(
                settings,
                classes_source,
                n_records=len(design),
                n_columns=design.shape[1],
                largest=smoothness(design, alpha=settings["alpha"]),
                beyond=lambda bound: row_beyond(design, norm_bound=bound),
            )
        self._single_output = labels.ndim == 1 and self._kind == "LangevinRidge"
        phase = Phase(settings["n_steps"], settings["noise_std"])
        run = (design, targets, settings["alpha"], step_size, (phase,))
        history = History(*run, labels=labels, conditions=conditions, ids=ids, sources=sources)
        data = TrainingData(design, targets, self._kind == "LangevinRidgeClassifier", settings["fit_intercept"])
        optimum = self._run(history, equations, settings, of_program=of_program, **more)
        with parts("fit", work=dense_work(*equations.hessian.shape, decompositions=2)) as begin:
            begin("score")
            warn_of_learning(data, self._theta, optimum, equations, settings=settings, step_size=step_size)
        return self

    def fit_statistics(self: Self, statistics: RidgeStatistics, *, conditions: Iterable[str] = ()) -> Self:
        """Learn from the statistics of a table: the model of its records, which holds none of them.

        Quotes and deletions are given the table again, in one pass each. A model of the same records in memory differs
        by the rounding of its X^T X. Its certificates are about the real numbers that the run stands for, not about
        the program (``of_program_`` is False): the steps of a program need the rows.

        Parameters
        ----------
        statistics : RidgeStatistics
            Of the whole table; with ``classes`` for a classifier, whose own ``classes``, if given, must be the same.
        conditions : sequence of str, optional
            As for `fit`. ``"classes"`` says that the classes of the statistics are labels taken from these records,
            as those of a fit without ``classes``: deleting the last record of a class is refused then.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If blocks of the table are missing, or the statistics have classes and this is no classifier, or none and
            it is one; as `fit` otherwise.

        Warns
        -----
        NoiseWarning
            As `fit`, but always by R^2, of the columns of the classes for a classifier: accuracy needs the records.
            Remedies do not propose other scales of the features.

        Examples
        --------
        >>> from expunge import LangevinRidge
        >>> from expunge.data import RidgeStatistics, open_records
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> table = open_records(X, target=y / 100)
        >>> model = LangevinRidge(n_steps=1000, noise_std=0.02).fit_statistics(RidgeStatistics.of(table))
        >>> quote = model.quote(table, epsilon=1.0, delta=1e-5, n_steps=20)
        >>> len(quote)
        442
        """
        if not isinstance(statistics, RidgeStatistics):
            raise TypeError(f"statistics must be RidgeStatistics, got {type(statistics).__name__}")
        return self._learn_sums(statistics, stated_conditions(conditions))

    def _learn_sums(self: Self, statistics: RidgeStatistics, conditions: tuple[str, ...]) -> Self:
        settings, classes = self._settings(), self._classes_of(statistics)
        source, more = "none", dict[str, Any]()
        if classes is not None:
            taken = CONDITIONS["classes"] in conditions and self.get_params()["classes"] is None
            source, more = ("data", {"classes": None}) if taken else ("given", {"classes": classes})
            conditions = tuple(one for one in conditions if not taken or one != CONDITIONS["classes"])  # sources say it
        sums = TableSums.of(statistics, fit_intercept=settings["fit_intercept"])
        n, (p, q) = sums.n_records, sums.moment.value.shape
        within_range("statistics", sums.gram.value)
        within_range("targets of statistics", sums.moment.value)
        equations = NormalEquations.of_sums(sums, alpha=settings["alpha"])
        with parts("fit", work=dense_work(p, p, decompositions=2)) as begin:
            begin("step size")
            design, targets = HeldRows((n, p)), HeldRows((n, q))
            step_size, sources = _step_size(
                settings,
                source,
                n_records=n,
                n_columns=p,
                largest=Products.of_sums(sums, design=design, targets=targets).largest + settings["alpha"],
                beyond=lambda bound: if_beyond(sums.longest, norm_bound=bound),
            )
        self.n_features_in_ = statistics.n_features
        if statistics.feature_names is not None:
            self.feature_names_in_ = np.array(statistics.feature_names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        self._single_output = statistics.single_output and self._kind == "LangevinRidge"
        run = (design, targets, settings["alpha"], step_size, (Phase(settings["n_steps"], settings["noise_std"]),))
        history = History(*run, labels=np.zeros(0), conditions=conditions, sources=sources, sums=sums)
        data = TrainingSums(sums, settings["fit_intercept"])
        optimum = self._run(history, equations, settings, **more)
        if statistics.classes is not None:
            self.classes_ = np.array(statistics.classes)
        with parts("fit", work=dense_work(*equations.hessian.shape, decompositions=2)) as begin:
            begin("score")
            warn_of_learning(data, self._theta, optimum, equations, settings=settings, step_size=step_size)
        return self

    def _classes_of(self, statistics: RidgeStatistics) -> list[Any] | None:
        """Return the classes of statistics, None for a regressor, or refuse statistics of the other kind."""
        if self._kind != "LangevinRidgeClassifier":
            if statistics.classes is not None:
                raise ValueError("statistics must be of numbers as targets, got classes: take LangevinRidgeClassifier")
            return None
        if statistics.classes is None:
            raise ValueError("statistics must have classes: RidgeStatistics.of(..., classes=[...])")
        given = self.get_params()["classes"]
        if given is not None and sorted(np.asarray(given).tolist()) != sorted(statistics.classes):
            raise ValueError(f"classes must be those of the statistics, {statistics.classes!r}, got {given!r}")
        return list(statistics.classes)

    def _run(
        self: Self,
        history: History,
        equations: NormalEquations,
        settings: dict[str, Any],
        *,
        of_program: bool | None = None,
        **more: Any,
    ) -> Array:
        """Make the steps of the only phase of a history, keep both, and return the optimum."""
        (phase,), step_size = history.phases, history.step_size
        work = dense_work(*equations.hessian.shape, decompositions=2)
        with parts("fit", work=work) as begin:
            begin("optimum")
            optimum = equations.optimum()
            begin("floor of the noise")
            _check_noise(history, optimum)
        seed = self._seed()
        self._theta_rest: Array | None = None  # what theta, of a run with a program, was rounded by
        if claims_program(of_program, history, seed=seed):
            history = begun(history, seed=seed)
            theta, self._theta_rest = steps_of(history, zeros(optimum.shape), phase)
        else:
            normals = os_normals if seed is None else seeded_normals(seed)
            theta = equations.steps(np.zeros_like(optimum), step_size=step_size, phase=phase, normals=normals)
        self._published: Array | None = None  # in place of theta, which stays secret
        self._theta, self._fitted = theta, {**settings, **more}
        self.step_size_, self.n_iter_ = step_size, phase.n_steps
        if seed is not None:
            history = replace(history, conditions=(*history.conditions, SEED_CONDITION))
        self._history: History | None = history
        self._reading = None  # that of an earlier fit
        self._rests_on, self._no_history_reason = history.rests_on, ""
        self._law_cache: LearningLaw | None = None
        return optimum

    def _training_data(self, design: Array, targets: Array) -> TrainingData:
        return TrainingData(design, targets, self._kind == "LangevinRidgeClassifier", self._fitted["fit_intercept"])

    def _seed(self) -> int | None:
        return seed_of(self.random_state)

    @property
    def _parameters(self) -> Array:
        """Parameters that may be seen: the release of a deletion that has noise of its own, else the parameters."""
        found: Array | None = getattr(self, "_published", None)  # pickles of earlier versions have none
        return self._theta if found is None else found

    @property
    def _coef_rows(self) -> Array:
        return self._parameters[: self.n_features_in_].T

    @property
    def _intercept_row(self) -> Array:
        return self._parameters[-1] if self._fitted["fit_intercept"] else np.zeros(self._theta.shape[1])

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

    def _scores(self, X: ArrayLike | Records) -> Array:
        check_is_fitted(self)
        if isinstance(X, Records):
            require_features(X, n_features=self.n_features_in_, names=getattr(self, "feature_names_in_", None))
            return table_scores(X, self._coef_rows, self._intercept_row)
        refuse_masks("X", X)
        rows: Array = validate_data(self, X, dtype=np.float64, reset=False)
        return linear_scores(rows, self._coef_rows, self._intercept_row)

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        text: str = super().__repr__(N_CHAR_MAX=N_CHAR_MAX)
        if not hasattr(self, "_theta"):
            return text
        now = self.get_params()
        changed = [name for name, value in self._fitted.items() if not _same(now[name], value)]
        text += f"  <fitted with {', '.join(f'{name}={self._fitted[name]!r}' for name in changed)}>" if changed else ""
        if (history := self._history) is None:
            return text
        deleted = f", {len(history.removed)} deleted" if history.removed else ""
        n = len(history.design) if history.law is None else history.n_remaining
        what = "data" if history.sums is None else "sums"
        return f"{text}  <confidential: holds the history and {what} of {n} records{deleted}>"

    @property
    def conditions_(self) -> tuple[str, ...]:
        """Conditions of a certificate of this model, besides the theorem: every constant taken from the data."""
        check_is_fitted(self, "_theta")
        return self._rests_on

    @property
    def of_program_(self) -> bool:
        """Whether certificates of deletions are about the program that ran, rather than about real numbers."""
        return self._require_history().program is not None

    # --- history and release -------------------------------------------------------------------

    def _require_history(self) -> History:
        check_is_fitted(self)
        if self._history is None:
            raise RuntimeError(f"this model holds no history: {self._no_history_reason}")
        return self._history

    @property
    def ledger_salt_(self) -> bytes:
        """32 secret bytes, the same from the first fit on, under which `Ledger.append` writes digests of record ids.

        As confidential as the model: who has them can try ids against a ledger.
        """
        return self._require_history().salt

    def _release(self, theta: Array, conditions: tuple[str, ...]) -> Released:
        rows = np.array(theta[: self.n_features_in_].T, order="C")
        intercept = theta[-1].copy() if self._fitted["fit_intercept"] else np.zeros(theta.shape[1])
        parts: dict[str, Any] = {"conditions": conditions}
        if hasattr(self, "classes_"):
            parts["classes"] = self.classes_.copy()
        if hasattr(self, "feature_names_in_"):
            parts["feature_names"] = self.feature_names_in_.copy()
        if self._reading is not None:
            parts["reading"] = self._reading.public()
        if self._single_output:
            return self._released._from_parts(rows[0], float(intercept[0]), **parts)
        return self._released._from_parts(rows, intercept, **parts)

    def release(self) -> Released:
        """Return a predict-only estimator that holds ``coef_`` and ``intercept_`` and nothing of the data.

        It shares no memory with this model, keeps the names of the features, and says in ``conditions_`` which of the
        run's constants came from the data: these can give a deleted record away to whoever sees the release.

        Returns
        -------
        ReleasedRidge or ReleasedRidgeClassifier
            Safe to publish once the deletion's certificate is accepted.

        Examples
        --------
        >>> from expunge import LangevinRidge
        >>> import numpy as np
        >>> released = LangevinRidge(random_state=0).fit(np.eye(3), np.ones(3)).release()
        >>> released.predict(np.eye(3)).shape
        (3,)
        """
        check_is_fitted(self)
        return self._release(self._parameters, self._rests_on)

    def forget_history(self: Self) -> Self:
        """Drop the data and the record of the run; the model still predicts, but certifies nothing any more.

        Returns
        -------
        self

        Examples
        --------
        >>> from expunge import LangevinRidge
        >>> import numpy as np
        >>> model = LangevinRidge(random_state=0).fit(np.eye(3), np.ones(3)).forget_history()
        >>> model.quote(epsilon=1.0, delta=1e-5, n_steps=5)
        Traceback (most recent call last):
            ...
        RuntimeError: this model holds no history: forget_history() dropped it
        """
        check_is_fitted(self)
        self._history, self._law_cache = None, None
        self._theta, self._theta_rest, self._published = (
            self._parameters,
            None,
            None,
        )  # no steps go on from what was not released
        self._no_history_reason = "forget_history() dropped it"
        return self

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        if "_law_cache" in state:
            state = {**state, "_law_cache": None}  # rebuilt when asked for
        return state

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the working model to one ``.npz`` file (arrays and JSON, no pickle), whole or not at all.

        The file is as confidential as the model: it holds the data in use, or the sums over them of a model made from
        statistics, and the law of the run so far.

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

    @classmethod
    def _of_file(cls: type[Self], path: str | Path, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        model: Self = _storage.working_of(cls, path, header, arrays)
        return model


def _step_size(
    settings: dict[str, Any],
    classes_source: str,
    *,
    n_records: int,
    n_columns: int,
    largest: float,
    beyond: Callable[[float], tuple[int, float] | None],
) -> tuple[float, Sources]:
    """Return the step size of a fit and where its constants come from; no deletion has needed noise yet.

    ``beyond`` returns the longest row, if a bound does not hold for it.
    """
    alpha, chosen = settings["alpha"], settings["step_size"]
    sources = Sources(step_size="data", noise_std="given", classes=classes_source)
    if chosen == "auto":
        return 1.0 / largest, sources
    if chosen != "bounded":
        require_step_size(chosen, largest=largest, n_columns=n_columns)
        return chosen, replace(sources, step_size="given")
    n, norm_bound, n_bound = n_records, settings["norm_bound"], settings["n_bound"]
    if (longest := beyond(norm_bound)) is not None:
        column = ", constant column included," if settings["fit_intercept"] else ""
        raise ValueError(
            f"norm_bound must be at least the norm of every row, got {norm_bound!r}, but row {longest[0]}{column} has "
            f"norm {longest[1]:.6g}"
        )
    if n_bound is not None and n > n_bound:
        raise ValueError(f"n_bound must be at least the number of records, got {n_bound} for {n} records")
    if n_bound is not None and n_bound >= 2**53:
        raise ValueError(f"n_bound must be less than 2^53, got {n_bound}")
    # A power of two says little about how many there are, but it is taken from the data.
    assumed = 1 << (n - 1).bit_length() if n_bound is None else n_bound
    if n_bound is not None:
        sources = replace(sources, step_size="bounded", norm_bound=norm_bound, n_bound=n_bound)
    step_size = bounded_step_size(norm_bound=norm_bound, n_bound=assumed, alpha=alpha)
    if not step_size > 0:
        raise ValueError(f"norm_bound must be small enough for its square to be finite, got {norm_bound!r}")
    return step_size, sources


def _check_noise(history: History, optimum: Array) -> None:
    """Refuse learning noise that float64 loses at the size of the parameters."""
    (phase,) = history.phases
    # The noise-free parameters are never longer than the optimum, so that most noise needs no closer look.
    if phase.noise_std == 0 or phase.noise_std >= RESOLUTION * float(np.linalg.norm(optimum, axis=0).max()):
        return
    (floor,) = history.deletion(()).floors((phase,))
    if phase.noise_std < floor:
        raise ValueError(
            f"noise_std must be 0 (no noise, and no guarantee from learning) or at least {floor:.3g}, below which "
            f"float64 loses it at the size of these parameters, got {phase.noise_std!r}; or divide y by a constant"
        )


def _same(value: Any, fitted: Any) -> bool:
    # As lists: NumPy before 2.2 cannot compare arrays of text with arrays of numbers.
    return value is fitted or bool(np.asarray(value).tolist() == np.asarray(fitted).tolist())
