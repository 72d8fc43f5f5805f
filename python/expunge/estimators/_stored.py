"""Checks of what a model file says: a model that no fit and no deletion could have made is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._files.values import digests, flag, floats, salt, text, texts, whole
from expunge.data.reading import Reading
from expunge.estimators import _stored_sums
from expunge.estimators._history import History
from expunge.estimators._records import GIVEN, INDEX, ROW_NUMBERS, RecordIds, exact_ids
from expunge.runs.exact_noise import grid_exponent
from expunge.runs.ridge.kept_law import KeptLaw
from expunge.runs.ridge.law import Phase
from expunge.runs.ridge.program import Program, release_noise
from expunge.runs.ridge.step_sizes import require_step_size, smoothness

__all__ = [
    "check_released",
    "check_settings",
    "check_working",
    "digests",
    "feature_names",
    "flag",
    "ids",
    "reading",
    "salt",
    "text",
    "texts",
    "whole",
]


def feature_names(stored: Any, n_features: int) -> NDArray[Any] | None:
    """Return the names of the features, None where there are none."""
    if stored is None:
        return None
    if type(stored) is not list or len(stored) != n_features or not all(type(name) is str for name in stored):
        raise ValueError(f"feature_names must be one text per feature, {n_features}")
    return np.array(stored, dtype=object)


def reading(stored: Any, n_features: int) -> Reading | None:
    """Return how the table of the fit was read, None where nobody said."""
    if stored is None:
        return None
    if type(stored) is not dict:
        raise ValueError(f"reading must be an object, got {type(stored).__name__}")
    found = Reading.from_dict(stored)
    if found.width != n_features:
        raise ValueError(f"reading must be of {n_features} features, as the model takes, got {found.width}")
    return found


def ids(stored: dict[str, Any], n: int) -> RecordIds:
    """Return the ids of ``n`` rows."""
    origin, kind = stored["origin"], stored["kind"]
    if origin == ROW_NUMBERS:
        return RecordIds(tuple(range(n)), ROW_NUMBERS)
    if origin not in (GIVEN, INDEX) or kind not in ("integer", "string"):
        raise ValueError(f"ids must be integers or strings from record_ids or an index, got {kind!r} from {origin!r}")
    texts = [None if value is None else text("an id", value) for value in stored["values"]]
    values = [value for value in texts if value is not None]
    found = iter(exact_ids("ids", values if kind == "string" else [int(value) for value in values]))
    if len(texts) != n:
        raise ValueError(f"ids must be one per row, {n}, got {len(texts)}")
    return RecordIds(tuple(None if value is None else next(found) for value in texts), origin)


def _positive(name: str, value: float, *, zero: bool = False) -> None:
    if not (np.isfinite(value) and (value >= 0 if zero else value > 0)):
        raise ValueError(f"{name} must be finite and {'>= 0' if zero else '> 0'}, got {value!r}")


def _classes(classes: NDArray[Any] | None, n_outputs: int, *, needed: bool) -> None:
    if (classes is not None) != needed:
        raise ValueError(f"classes must {'be present' if needed else 'be absent'} for this kind of model")
    if classes is None:
        return
    if classes.ndim != 1 or len(classes) != n_outputs:
        raise ValueError(f"classes must be one per output, {n_outputs}, got shape {classes.shape}")
    if len(set(classes.tolist())) < len(classes):
        raise ValueError("classes must be distinct")


def check_working(model: Any) -> None:
    """Check a working model as read, or raise ValueError (or TypeError) with the name of what is wrong."""
    theta = model._theta
    intercept = bool(model._fitted["fit_intercept"])
    columns = model.n_features_in_ + intercept
    floats("theta", theta, (columns, None))
    _positive("step_size", model.step_size_)
    _classes(getattr(model, "classes_", None), theta.shape[1], needed=model._kind.endswith("Classifier"))
    if model._single_output and (theta.shape[1] != 1 or hasattr(model, "classes_")):
        raise ValueError("single_output must be false for classes and for several outputs")
    if model._history is not None:
        _check_history(model, model._history, intercept=intercept)
        _check_program(model, model._history)


def _check_history(model: Any, history: History, *, intercept: bool) -> None:
    columns, outputs = model._theta.shape
    _positive("alpha", history.alpha)
    if history.sums is not None:
        _check_phases(history.phases, len(history.design))
        _check_kept(history, columns, outputs, needed=len(history.phases) > 1)
        shape = {"columns": columns, "outputs": outputs, "n_records": history.n_remaining}
        _stored_sums.check(history.sums, **shape, intercept=intercept, classify=hasattr(model, "classes_"))
        require_step_size(history.step_size, largest=history.products.largest + history.alpha, n_columns=columns)
        return
    design, targets = history.rows("a file")
    floats("design", design, (None, columns))
    n = len(design)
    floats("targets", targets, (n, outputs))
    _check_phases(history.phases, n)
    held = np.ones(n, dtype=bool)
    _check_kept(history, columns, outputs)
    if history.law is not None:
        held[list(history.removed)] = False
    if design[~held].any() or targets[~held].any():
        raise ValueError("design and targets must be zeros where a law stands for deleted rows")
    if intercept and not (design[held, -1] == 1).all():
        raise ValueError("design must end in the constant column 1")
    largest = smoothness(design, alpha=history.alpha)
    require_step_size(history.step_size, largest=largest, n_columns=columns)
    if not np.array_equal(_targets(model, history.labels, n)[held], targets[held]):
        raise ValueError("targets must be those of the labels")
    if history.ids is not None:
        if len(history.ids) != n:
            raise ValueError(f"ids must be one per row, {n}, got {len(history.ids)}")
        if history.ids.origin != ROW_NUMBERS and [one is None for one in history.ids.values] != (~held).tolist():
            raise ValueError("ids must be null where a law stands for deleted rows, and only there")


def _check_program(model: Any, history: History) -> None:
    """Check what a model holds of releases that are private as the program that ran."""
    if (history.program is None or len(history.phases) < 2) != (model._published is None):
        raise ValueError("published must be present after a deletion of a run with a program, and only then")
    if (history.program is None) != (model._theta_rest is None):
        raise ValueError("theta_rest must be present in a run with a program, and only there")
    if history.program is None:
        return
    floats("theta_rest", model._theta_rest, model._theta.shape)
    if not np.array_equal(model._theta + model._theta_rest, model._theta):
        raise ValueError("theta_rest must be what theta was rounded by")
    _positive("program", history.program, zero=True)
    if not history.program >= Program.bound_on(history.rows("a program")[1]):
        raise ValueError(f"program must bound the norm of the targets, got {history.program!r}")
    if model._published is None:
        return
    floats("published", model._published, model._theta.shape)
    noise = release_noise(history.phases)
    grid = Program(noise, 2.0 ** grid_exponent(noise), history.program, 0.0, 0.0)
    if not grid.holds(model._published):
        raise ValueError(f"published must be multiples of {grid.grid!r}")


def _check_kept(history: History, columns: int, outputs: int, *, needed: bool = False) -> None:
    if history.law is None:
        if needed:
            raise ValueError("law must be present after a deletion, in place of the deleted rows")
        return
    if len(history.phases) < 2:
        raise ValueError("law must be absent before a deletion")
    _check_law(history.law, columns, outputs)


def _check_law(law: KeptLaw, columns: int, outputs: int) -> None:
    floats("law_mean", law.mean, (columns, outputs))
    floats("law_covariance", law.covariance, (columns, columns))
    if not np.array_equal(law.covariance, law.covariance.T) or law.covariance.diagonal().min() < 0:
        raise ValueError("law_covariance must be symmetric, with no negative variance")
    # Bounds may be infinite: nothing more is certified then.
    if law.mean_error.dtype != np.float64 or law.mean_error.shape != (outputs,) or not (law.mean_error >= 0).all():
        raise ValueError(f"law_mean_error must be {outputs} float64 bounds >= 0")
    if not law.covariance_error >= 0:
        raise ValueError(f"covariance_error must be >= 0, got {law.covariance_error!r}")


def check_settings(model: Any) -> None:
    """Check that a model with a history was fitted with the parameters it names, or raise ValueError."""
    history, fitted = model._history, model._fitted
    if history is None:
        return
    model._settings()
    learning, sources = history.phases[0], history.sources
    step_size, classes = fitted["step_size"], fitted.get("classes")
    known: dict[str, Any] = {"alpha": history.alpha, "n_steps": learning.n_steps, "noise_std": learning.noise_std}
    if not isinstance(step_size, str):
        known["step_size"] = history.step_size
    if classes is not None:
        known["classes"] = tuple(model.classes_.tolist())
    if sources.step_size == "bounded":
        known |= {"norm_bound": sources.norm_bound, "n_bound": sources.n_bound}
    for name, value in known.items():
        if (got := tuple(classes) if name == "classes" else fitted[name]) != value:
            raise ValueError(f"params: {name} must be that of the history, {value!r}, got {got!r}")
    if model.n_iter_ != learning.n_steps:
        raise ValueError(f"n_iter must be that of the history, {learning.n_steps}, got {model.n_iter_}")
    bounded = step_size == "bounded" and fitted["n_bound"] is not None
    source = "bounded" if bounded else "data" if isinstance(step_size, str) else "given"
    if sources.step_size != source:
        raise ValueError(f"sources: step_size must be {source!r} for {step_size!r}, got {sources.step_size!r}")
    source = "none" if not hasattr(model, "classes_") else "data" if classes is None else "given"
    if sources.classes != source:
        raise ValueError(f"sources: classes must be {source!r}, got {sources.classes!r}")


def _targets(model: Any, labels: NDArray[Any], n: int) -> NDArray[np.float64]:
    """Return what the loss sees of the labels."""
    if len(labels.shape) not in (1, 2) or len(labels) != n:
        raise ValueError(f"labels must be one per row, {n}, got shape {labels.shape}")
    if not hasattr(model, "classes_"):
        if labels.dtype != np.float64 or model._single_output != (labels.ndim == 1):
            raise ValueError(f"labels must be float64 of as many dimensions as predictions, got {labels.dtype}")
        return labels.reshape(n, -1)
    if labels.ndim != 1:
        raise ValueError(f"labels must be one class per row, got shape {labels.shape}")
    column = {label: j for j, label in enumerate(model.classes_.tolist())}
    codes = [column.get(label, -1) for label in labels.tolist()]
    if min(codes) < 0:
        raise ValueError(f"labels must be among the classes, got {labels[codes.index(-1)]!r}")
    result = np.zeros((n, len(column)))
    result[np.arange(n), codes] = 1.0
    return result


def _check_phases(phases: tuple[Phase, ...], n: int) -> None:
    if not phases:
        raise ValueError("phases must hold at least the learning, got none")
    before: set[int] = set()
    for i, phase in enumerate(phases):
        _positive(f"noise_std of phase {i}", phase.noise_std, zero=True)
        removed = set(phase.removed)
        if list(phase.removed) != sorted(removed) or any(row >= n for row in removed) or len(removed) >= n:
            raise ValueError(f"removed of phase {i} must be sorted rows below {n}, each once, and not all")
        if (i == 0 and removed) or not before <= removed or (i > 0 and before == removed):
            raise ValueError(f"removed of phase {i} must be none while learning and more with every deletion")
        before = removed


def check_released(
    coef: NDArray[Any],
    intercept: NDArray[Any],
    classes: NDArray[Any] | None,
    *,
    needs_classes: bool,
    one_output_for_two: bool = False,
) -> None:
    """Check a released model as read, or raise ValueError with the name of what is wrong."""
    single = coef.ndim == 1
    if single and needs_classes:
        raise ValueError("coef must have one row per class")
    floats("coef", coef, (None,) if single else (None, None))
    outputs = 1 if single else len(coef)
    floats("intercept", intercept, () if single else (outputs,))
    _classes(classes, 2 if one_output_for_two and outputs == 1 else outputs, needed=needs_classes)
