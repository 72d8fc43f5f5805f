"""The assumptions of the theorem, checked for a run against its data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expunge.accounting.ridge_law import LARGEST, STEP_SIZE_SLACK, RidgeDeletion, smoothness
from expunge.certificates.run import Label, RidgeRun
from expunge.certificates.schema import VerificationError

__all__ = ["check_classes", "check_noise", "check_run", "lost_classes"]

# The norm of a row is rounded a few times; a bound that equals it must be accepted.
_NORM_SLACK = 1e-12
# A step size made of bounds is one division, sum and product or two away from them.
_ROUNDING = 8 * float(np.finfo(np.float64).eps)


def check_run(run: RidgeRun, design: NDArray[np.float64], targets: NDArray[np.float64]) -> float:
    """Check a run against its data and every assumption of the theorem, but for the noise (`check_noise`); return 1/L.

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
    try:
        limit = 1.0 / smoothness(design, alpha=run.alpha)
    except ValueError as error:
        raise VerificationError("X", str(error)) from None
    if not 0 < run.step_size <= limit * (1 + STEP_SIZE_SLACK):
        raise VerificationError("run.step_size", f"must be > 0 and at most 1/L = {limit!r}, got {run.step_size!r}")
    if run.sources.step_size == "bounded":
        _check_bounds(run, design)
    return limit


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
    needed = 1.0 / (n_bound * (norm_bound * norm_bound) + run.alpha)
    # Any other step, a smaller one too, can have been chosen by the data.
    if not abs(run.step_size - needed) <= _ROUNDING * needed:
        raise VerificationError(
            "run.step_size", f"must be 1/(n_bound norm_bound^2 + alpha) = {needed!r}, got {run.step_size!r}"
        )


def check_noise(run: RidgeRun, deletion: RidgeDeletion) -> None:
    """Check that the noise of a phase is none, or noise: not lost in the rounding of the parameters it is added to.

    Raises
    ------
    VerificationError
        Naming the phase, its noise and the floor.
    """
    for i, (phase, floor) in enumerate(zip(run.phases, deletion.floors(run.phases), strict=True)):
        if phase.noise_std != 0 and not floor <= phase.noise_std <= LARGEST:
            raise VerificationError(
                f"run.phases[{i}].noise_std",
                f"must be 0 or at least {floor!r}, the resolution of float64 at the size of the parameters of phase "
                f"{i}, and at most {LARGEST:g}, got {phase.noise_std!r}",
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
    if run.classes is not None and len(run.classes) != run.n_outputs:
        raise VerificationError(
            "run.n_outputs", f"must be one for each of {len(run.classes)} classes, got {run.n_outputs}"
        )
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
