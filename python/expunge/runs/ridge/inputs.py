"""The inputs of a ridge run, as a certificate records them, and the least-squares problem they belong to."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge._types import JsonObject
from expunge.data.constants import Sources
from expunge.data.labels import labels
from expunge.runs.base import RunError
from expunge.runs.ridge.law import Phase
from expunge.runs.ridge.program import Program

__all__ = ["Label", "RidgeInputs", "design_of", "targets_of"]

Label = str | int | float | bool
Inputs = TypeVar("Inputs", bound="RidgeInputs")


def _label(value: Any) -> Label:
    item = value.item() if isinstance(value, np.generic) else value
    if not isinstance(item, (str, int, float)):
        raise TypeError(f"classes must hold strings or real numbers, got {item!r}")
    return str(item) if isinstance(item, str) else item


@dataclass(frozen=True)
class RidgeInputs:
    """Inputs of a ridge run, validated; `expunge.runs.ridge.RidgeRun` describes them.

    Raises
    ------
    TypeError, ValueError
        On construction, if a value is of the wrong kind or out of range.
    """

    estimator: str
    alpha: float
    fit_intercept: bool
    step_size: float
    classes: tuple[Label, ...] | None
    n_records: int
    n_features: int
    n_outputs: int
    phases: tuple[Phase, ...]
    deleted: tuple[int, ...]
    theta0: str = "zeros"
    sources: Sources = field(default_factory=Sources)
    program: Program | None = None

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        _validate.choice("estimator", self.estimator, ("LangevinRidge", "LangevinRidgeClassifier"))
        _validate.choice("theta0", self.theta0, ("zeros",))
        if not isinstance(self.fit_intercept, (bool, np.bool_)):
            raise TypeError(f"fit_intercept must be True or False, got {self.fit_intercept!r}")
        put("fit_intercept", bool(self.fit_intercept))
        put("alpha", _validate.number("alpha", self.alpha, low=0, open_low=True))
        put("step_size", _validate.number("step_size", self.step_size, low=0, open_low=True))
        put("n_records", _validate.count("n_records", self.n_records, low=2))
        put("n_features", _validate.count("n_features", self.n_features, low=1))
        put("n_outputs", _validate.count("n_outputs", self.n_outputs, low=1))
        if self.classes is not None:
            put("classes", tuple(_label(value) for value in self.classes))
        put("phases", tuple(_clean_phase(i, phase) for i, phase in enumerate(self.phases)))
        put("deleted", tuple(operator.index(row) for row in self.deleted))
        if not isinstance(self.sources, Sources):
            raise TypeError(f"sources must be a Sources, got {type(self.sources).__name__}")
        if self.classes is None and self.sources.classes == "data":
            put("sources", replace(self.sources, classes="none"))  # there is no class list to give anything away

        if self.program is not None and not isinstance(self.program, Program):
            raise TypeError(f"program must be a Program or None, got {type(self.program).__name__}")

    def to_dict(self) -> JsonObject:
        """Return the run as JSON values, in the order of the schema."""
        program = {} if self.program is None else {"program": self.program.to_dict()}  # others say nothing of it
        return {
            "estimator": self.estimator,
            "alpha": self.alpha,
            "fit_intercept": self.fit_intercept,
            "step_size": self.step_size,
            "theta0": self.theta0,
            "classes": None if self.classes is None else list(self.classes),
            "n_records": self.n_records,
            "n_features": self.n_features,
            "n_outputs": self.n_outputs,
            "phases": [
                {"n_steps": phase.n_steps, "noise_std": phase.noise_std, "removed": list(phase.removed)}
                for phase in self.phases
            ],
            "deleted": list(self.deleted),
            "sources": self.sources.to_dict(),
            **program,
        }

    @classmethod
    def from_dict(cls: type[Inputs], values: JsonObject) -> Inputs:
        """Return the run from JSON values that the schema has accepted; certificates of version 1 name no sources.

        Raises
        ------
        RunError
            If they contradict one another.
        """
        given: dict[str, Any] = values
        phases = tuple(
            Phase(phase["n_steps"], float(phase["noise_std"]), tuple(phase["removed"])) for phase in given["phases"]
        )
        try:
            sources = Sources(**given.get("sources", {}))
        except ValueError as error:
            raise RunError("run.sources", str(error)) from None
        program = Program(**{k: float(v) for k, v in given["program"].items()}) if "program" in given else None
        parts = {"phases": phases, "deleted": tuple(given["deleted"]), "sources": sources, "program": program}
        try:
            result = cls(**{**given, **parts})
        except ValueError as error:
            raise RunError("run", str(error)) from None
        if "sources" in given and result.sources != sources:
            raise RunError("run.sources.classes", "must be 'none' for a run without classes")
        return result


def _clean_phase(i: int, phase: Phase) -> Phase:
    return Phase(
        _validate.count(f"phases[{i}].n_steps", phase.n_steps, low=1),
        _validate.number(f"phases[{i}].noise_std", phase.noise_std, low=0),
        tuple(operator.index(row) for row in phase.removed),
    )


def design_of(X: ArrayLike, *, fit_intercept: bool) -> NDArray[np.float64]:
    """Return the design matrix (n_records, n_columns): the features, then a constant column 1 if asked for.

    Examples
    --------
    >>> design_of([[2.0]], fit_intercept=True)
    array([[2., 1.]])
    """
    features = _validate.real_array("X", X, ndim=2)
    return np.column_stack([features, np.ones(len(features))]) if fit_intercept else features


def targets_of(y: ArrayLike, *, classes: tuple[Label, ...] | None) -> NDArray[np.float64]:
    """Return the targets (n_records, n_outputs) of the least-squares problem, one-hot if ``classes`` are given.

    Raises
    ------
    ValueError
        If ``y`` holds a label that is not among ``classes``, or has the wrong number of dimensions.

    Examples
    --------
    >>> targets_of(["b", "a"], classes=("a", "b"))
    array([[0., 1.],
           [1., 0.]])
    """
    values, numbers = labels(y)
    shape = np.shape(values if numbers is None else numbers)
    if len(shape) not in (1, 2):
        raise ValueError(f"y must have 1 or 2 dimensions, got shape {np.shape(y)}")
    if classes is None:
        if numbers is None:
            raise ValueError("y must hold real numbers, because the run has no classes")
        return numbers if numbers.ndim == 2 else numbers[:, np.newaxis]
    if len(shape) == 2:
        raise ValueError(f"y must hold one label for each record, got shape {shape}")
    column = {label: j for j, label in enumerate(classes)}
    result = np.zeros((len(values), len(classes)))
    for i, value in enumerate(values):
        if value not in column:
            raise ValueError(f"y must hold the run's classes, got {value!r} at index {i}")
        result[i, column[value]] = 1.0
    return result
