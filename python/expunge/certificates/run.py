"""The inputs of a ridge run, as a certificate records them, and the claim recomputed from them."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge.accounting.ridge_law import STEP_SIZE_SLACK, Phase, RidgeDeletion, deletion_pair, smoothness
from expunge.accounting.ridge_shifted import shifted_claim
from expunge.certificates.constants import Sources
from expunge.certificates.digest import labels
from expunge.certificates.schema import VerificationError

__all__ = ["Deltas", "RidgeRun", "check_classes", "check_run", "design_of", "lost_classes", "recompute", "targets_of"]

Label = str | int | float | bool

# The norm of a row is rounded a few times; a bound that equals it must be accepted.
_NORM_SLACK = 1e-12


def _label(value: Any) -> Label:
    item = value.item() if isinstance(value, np.generic) else value
    if not isinstance(item, (str, int, float)):
        raise TypeError(f"classes must hold strings or real numbers, got {item!r}")
    return str(item) if isinstance(item, str) else item


@dataclass(frozen=True)
class RidgeRun:
    """Every input of a Langevin ridge run that its law depends on, apart from the data.

    Attributes
    ----------
    estimator : str
        ``"LangevinRidge"`` (targets as given) or ``"LangevinRidgeClassifier"`` (one-hot targets).
    alpha : float
        L2 penalty, > 0.
    fit_intercept : bool
        Whether a constant column 1 follows the features.
    step_size : float
        Step size of every phase, at most (1 + 1e-9)/L.
    classes : tuple of (str, int, float or bool), or None
        Labels in the order of the one-hot targets; None for regression.
    n_records, n_features, n_outputs : int
        Shape of the first fit.
    phases : tuple of Phase
        Learning first; ``removed`` is cumulative and sorted.
    deleted : tuple of int
        Rows of the first fit's data that the reference run never saw.
    theta0 : str
        Starting point; ``"zeros"`` is the only one.
    sources : Sources
        Where the constants come from; without a word, from data that held the deleted records.

    Raises
    ------
    TypeError, ValueError
        On construction, if a value is of the wrong kind or out of range.

    Examples
    --------
    >>> phases = (Phase(n_steps=10, noise_std=0.5), Phase(n_steps=5, noise_std=1.0, removed=(0,)))
    >>> run = RidgeRun(estimator="LangevinRidge", alpha=1.0, fit_intercept=False, step_size=0.25, classes=None,
    ...                n_records=3, n_features=3, n_outputs=1, phases=phases, deleted=(0,))
    >>> RidgeRun.from_dict(run.to_dict()) == run
    True
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

    def to_dict(self) -> dict[str, Any]:
        """Return the run as JSON values, in the order of the schema."""
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
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RidgeRun:
        """Return the run of JSON values that the schema has accepted; version 1 names no sources."""
        phases = tuple(
            Phase(phase["n_steps"], float(phase["noise_std"]), tuple(phase["removed"])) for phase in values["phases"]
        )
        sources = Sources(**values.get("sources", {}))
        return cls(**{**values, "phases": phases, "deleted": tuple(values["deleted"]), "sources": sources})


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


class Deltas(NamedTuple):
    """Both directions of a claim at its epsilon."""

    pq: float
    qp: float


def recompute(
    run: RidgeRun,
    design: NDArray[np.float64],
    targets: NDArray[np.float64],
    *,
    method: str,
    epsilon: float,
    delta_s: float | None,
) -> Deltas:
    """Return both deltas of a run at ``epsilon``, computed from the data (delta_s included where there is one).

    Raises
    ------
    ValueError
        If the run gives no guarantee (no noise, step size too large, a singular pair).

    Examples
    --------
    >>> phases = (Phase(n_steps=10, noise_std=0.5), Phase(n_steps=5, noise_std=1.0, removed=(0,)))
    >>> run = RidgeRun(estimator="LangevinRidge", alpha=1.0, fit_intercept=False, step_size=0.25, classes=None,
    ...                n_records=3, n_features=3, n_outputs=1, phases=phases, deleted=(0,))
    >>> deltas = recompute(run, np.eye(3), np.ones((3, 1)), method="exact", epsilon=1.0, delta_s=None)
    >>> max(deltas) < 1e-3
    True
    """
    if method == "exact":
        pair = deletion_pair(
            design, targets, alpha=run.alpha, step_size=run.step_size, phases=run.phases, deleted=run.deleted
        )
        return Deltas(float(pair.delta(epsilon, direction="pq")), float(pair.delta(epsilon, direction="qp")))
    if delta_s is None:
        raise ValueError(f"delta_s must be given for method {method!r}, got None")
    claim = shifted_claim(
        design,
        targets,
        alpha=run.alpha,
        step_size=run.step_size,
        phases=run.phases,
        deleted=run.deleted,
        epsilon=epsilon,
        delta_s=delta_s,
        uniform=method == "uniform",
    )
    return Deltas(float(claim.delta_pq), float(claim.delta_qp))


def check_run(run: RidgeRun, design: NDArray[np.float64], targets: NDArray[np.float64]) -> None:
    """Check a run against its data and every assumption of the theorem.

    Raises
    ------
    VerificationError
        Naming the field that breaks an assumption.
    """
    n_features = design.shape[1] - run.fit_intercept
    for name, got, needed in (
        ("n_records", run.n_records, design.shape[0]),
        ("n_features", run.n_features, n_features),
        ("n_outputs", run.n_outputs, targets.shape[1]),
    ):
        if got != needed:
            raise VerificationError(f"run.{name}", f"must be {needed}, as in the data, got {got}")
    if targets.shape[0] != design.shape[0]:
        raise VerificationError("run.n_records", f"X has {design.shape[0]} rows but y has {targets.shape[0]}")
    _check_rows("run.deleted", run.deleted, run.n_records)
    if len(run.deleted) >= run.n_records:
        raise VerificationError("run.deleted", f"must leave at least one record, got all {run.n_records}")
    _check_phases(run)
    limit = 1.0 / smoothness(design, alpha=run.alpha)
    if not 0 < run.step_size <= limit * (1 + STEP_SIZE_SLACK):
        raise VerificationError("run.step_size", f"must be > 0 and at most 1/L = {limit!r}, got {run.step_size!r}")
    if run.sources.step_size == "bounded":
        _check_bounds(run, design)
    _check_noise(run, design, targets)


def _check_bounds(run: RidgeRun, design: NDArray[np.float64]) -> None:
    """Check the bounds a user asserted, of which the step size is made, against the data."""
    norm_bound, n_bound = run.sources.norm_bound, run.sources.n_bound
    assert norm_bound is not None
    assert n_bound is not None
    if run.n_records > n_bound:
        raise VerificationError("run.sources.n_bound", f"must be at least the {run.n_records} records, got {n_bound}")
    norms = np.linalg.norm(design, axis=1)
    longest = int(np.argmax(norms))
    if not norms[longest] <= norm_bound * (1 + _NORM_SLACK):
        raise VerificationError(
            "run.sources.norm_bound",
            f"must be at least the norm of every row, got {norm_bound!r}, but row {longest} has {norms[longest]!r}",
        )
    limit = 1.0 / (n_bound * norm_bound**2 + run.alpha)
    if not run.step_size <= limit * (1 + STEP_SIZE_SLACK):
        raise VerificationError(
            "run.step_size", f"must be at most 1/(n_bound norm_bound^2 + alpha) = {limit!r}, got {run.step_size!r}"
        )


def _check_noise(run: RidgeRun, design: NDArray[np.float64], targets: NDArray[np.float64]) -> None:
    """Check that noise is either none or noise: not lost in the rounding of the parameters it is added to."""
    deletion = RidgeDeletion(design, targets, alpha=run.alpha, step_size=run.step_size, deleted=run.deleted)
    for i, (phase, floor) in enumerate(zip(run.phases, deletion.floors(run.phases), strict=True)):
        if phase.noise_std != 0 and not phase.noise_std >= floor:
            raise VerificationError(
                f"run.phases[{i}].noise_std",
                f"must be 0 or at least {floor!r}, the resolution of float64 at the size of the parameters of phase "
                f"{i}, got {phase.noise_std!r}",
            )


def lost_classes(run: RidgeRun, targets: NDArray[np.float64]) -> tuple[Label, ...]:
    """Return the classes of which the deletion leaves no record, though there was one."""
    if run.classes is None:
        return ()
    kept = np.ones(len(targets), dtype=bool)
    kept[list(run.deleted)] = False
    before, after = targets.sum(axis=0), targets[kept].sum(axis=0)
    return tuple(label for label, had, has in zip(run.classes, before, after, strict=True) if had > 0 and not has > 0)


def check_classes(run: RidgeRun) -> None:
    """Check that a classifier, and only a classifier, has distinct classes, and that their source is said.

    Raises
    ------
    VerificationError
        Naming ``run.classes``.
    """
    if (run.classes is not None) != (run.estimator == "LangevinRidgeClassifier"):
        needed = "a list" if run.classes is None else "null"
        raise VerificationError("run.classes", f"must be {needed} for {run.estimator}, got {run.classes!r}")
    if run.classes is not None and len(set(run.classes)) != len(run.classes):
        raise VerificationError("run.classes", f"must be distinct, got {run.classes!r}")
    if (run.sources.classes == "none") != (run.classes is None):
        needed = "'none'" if run.classes is None else "'given' or 'data'"
        raise VerificationError("run.sources.classes", f"must be {needed}, got {run.sources.classes!r}")


def _check_rows(field: str, rows: tuple[int, ...], n_records: int) -> None:
    if list(rows) != sorted(set(rows)):
        raise VerificationError(field, f"must be sorted, without repetition, got {rows!r}")
    if rows and not 0 <= rows[0] <= rows[-1] < n_records:
        raise VerificationError(field, f"must be within [0, {n_records}), got {rows!r}")


def _check_phases(run: RidgeRun) -> None:
    if len(run.phases) < 2:
        raise VerificationError("run.phases", f"must be learning and at least one deletion, got {len(run.phases)}")
    before: set[int] = set()
    for i, phase in enumerate(run.phases):
        field = f"run.phases[{i}]"
        if not phase.n_steps >= 1:
            raise VerificationError(f"{field}.n_steps", f"must be >= 1, got {phase.n_steps}")
        if not 0 <= phase.noise_std < float("inf"):
            raise VerificationError(f"{field}.noise_std", f"must be finite and >= 0, got {phase.noise_std}")
        _check_rows(f"{field}.removed", phase.removed, run.n_records)
        if i == 0 and phase.removed:
            raise VerificationError(f"{field}.removed", f"must be empty while learning, got {phase.removed!r}")
        if not before <= set(phase.removed):
            lost = sorted(before - set(phase.removed))
            raise VerificationError(f"{field}.removed", f"must keep what was removed before, lost {lost}")
        before = set(phase.removed)
    if run.phases[-1].removed != run.deleted:
        raise VerificationError(
            "run.deleted", f"must be the rows absent in the last phase, {run.phases[-1].removed!r}, got {run.deleted!r}"
        )
