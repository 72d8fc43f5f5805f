"""The assumptions of the theorem, checked for a run against its data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from expunge.runs.base import RunError
from expunge.runs.ridge.held_rows import RowTable, all_rows
from expunge.runs.ridge.inputs import Label, RidgeInputs
from expunge.runs.ridge.law import LARGEST, RidgeDeletion
from expunge.runs.ridge.products import Products
from expunge.runs.ridge.program import LARGEST_PRODUCT, Program, largest_bound
from expunge.runs.ridge.step_sizes import bounded_step_size, if_beyond, require_step_size, row_beyond

__all__ = [
    "check_classes",
    "check_noise",
    "check_program",
    "check_shape",
    "check_step_size",
    "lost_classes",
    "suspicions",
    "suspicious_step_size",
]

# A step size made of bounds is one division, sum and product or two away from them.
_ROUNDING = 8 * float(np.finfo(np.float64).eps)
# A step size this close to 1/L of the data was hardly chosen without them.
_SAME_STEP_SIZE = 1e-12


def check_program(run: RidgeInputs, products: Products, targets: NDArray[np.float64]) -> None:
    """Check what a run says of the program that made its release against its phases and the data.

    ``targets`` have the norm of the targets, or are at least those that are held.

    Raises
    ------
    RunError
        Naming ``run.program``, or the step size where that lets errors grow.
    """
    if run.program is None:
        return
    largest = largest_bound(products.gram.value) + products.gram.off + run.alpha
    if not run.step_size * largest <= LARGEST_PRODUCT:
        raise RunError(
            "run.step_size", f"must be at most {LARGEST_PRODUCT / largest!r} for a program, got {run.step_size!r}"
        )
    if not run.program.targets >= Program.bound_on(targets):
        raise RunError(
            "run.program.targets", f"must be at least {Program.bound_on(targets)!r}, got {run.program.targets!r}"
        )
    n, p = products.design.shape
    sizes = {"n": n, "p": p, "q": run.n_outputs}
    try:
        needed = Program.of(run.phases, step_size=run.step_size, alpha=run.alpha, targets=run.program.targets, **sizes)
    except ValueError as error:
        raise RunError("run.program", str(error)) from None
    if (failure := run.program.failure(needed)) is not None:
        name, _, message = failure.partition(" ")
        raise RunError(f"run.program.{name}", message)


def check_shape(run: RidgeInputs, design: RowTable, targets: RowTable) -> None:
    """Check a run against the shape of its data, its deleted rows and its phases against one another.

    Raises
    ------
    RunError
        Naming the field that breaks an assumption.
    """
    n_features = design.shape[1] - run.fit_intercept
    for name, got, needed in (
        ("n_records", run.n_records, design.shape[0]),
        ("n_features", run.n_features, n_features),
        ("n_outputs", run.n_outputs, targets.shape[1]),
    ):
        if got != needed:
            raise RunError(f"run.{name}", f"must be {needed}, as in the data, got {got}")
    if targets.shape[0] != design.shape[0]:
        raise RunError("run.n_records", f"X has {design.shape[0]} rows but y has {targets.shape[0]}")
    _check_rows("run.deleted", run.deleted, run.n_records)
    if len(run.deleted) >= run.n_records:
        raise RunError("run.deleted", f"must leave at least one record, got all {run.n_records}")
    _check_phases(run)


def check_step_size(run: RidgeInputs, products: Products) -> float:
    """Check the step size against 1/L of the data, and against the bounds it is made of; return 1/L.

    Raises
    ------
    RunError
        Naming the field that breaks an assumption.
    """
    largest = products.largest + run.alpha
    try:
        limit = require_step_size(run.step_size, largest=largest, n_columns=products.design.shape[1])
    except ValueError as error:
        raise RunError("run.step_size", str(error).removeprefix("step_size ")) from None
    if run.sources.step_size == "bounded":
        _check_bounds(run, products)
    return limit


def _check_bounds(run: RidgeInputs, products: Products) -> None:
    """Check the bounds a user asserted, of which the step size is made, against the data."""
    norm_bound, n_bound = run.sources.norm_bound, run.sources.n_bound
    assert norm_bound is not None
    assert n_bound is not None
    if run.n_records > n_bound:
        raise RunError("run.sources.n_bound", f"must be at least the {run.n_records} records, got {n_bound}")
    if products.longest is not None:
        beyond = if_beyond(products.longest, norm_bound=norm_bound)
    else:
        beyond = row_beyond(all_rows(products.design, what="the bound on every row"), norm_bound=norm_bound)
    if beyond is not None:
        raise RunError(
            "run.sources.norm_bound",
            f"must be at least the norm of every row, got {norm_bound!r}, but row {beyond[0]} has {beyond[1]!r}",
        )
    needed = bounded_step_size(norm_bound=norm_bound, n_bound=n_bound, alpha=run.alpha)
    # Any other step, a smaller one too, can have been chosen by the data.
    if not abs(run.step_size - needed) <= _ROUNDING * needed:
        raise RunError("run.step_size", f"must be 1/(n_bound norm_bound^2 + alpha) = {needed!r}, got {run.step_size!r}")


def check_noise(run: RidgeInputs, deletion: RidgeDeletion) -> None:
    """Check that a phase has no noise, or noise that is not lost in the rounding of the parameters it is added to.

    Raises
    ------
    RunError
        Naming the phase, its noise and the floor.
    """
    for i, (phase, floor) in enumerate(zip(run.phases, deletion.floors(run.phases), strict=True)):
        if phase.noise_std != 0 and not floor <= phase.noise_std <= LARGEST:
            raise RunError(
                f"run.phases[{i}].noise_std",
                f"must be 0 or at least {floor!r}, the resolution of float64 at the size of the parameters of phase "
                f"{i}, and at most {LARGEST:g}, got {phase.noise_std!r}",
            )


def lost_classes(run: RidgeInputs, targets: RowTable, total: NDArray[np.float64] | None = None) -> tuple[Label, ...]:
    """Return the classes of which the deletion leaves no record, though there was one.

    ``total``, where not all targets are held, says how many records of each there were.
    """
    if run.classes is None:
        return ()
    before = all_rows(targets, what="counting classes").sum(axis=0) if total is None else total
    after = before - targets[list(run.deleted)].sum(axis=0)  # whole numbers
    return tuple(label for label, had, has in zip(run.classes, before, after, strict=True) if had > 0 and not has > 0)


def check_classes(run: RidgeInputs) -> None:
    """Check that a classifier, and only a classifier, has distinct classes, and that their source is stated.

    Raises
    ------
    RunError
        Naming ``run.classes``.
    """
    if (run.classes is not None) != (run.estimator == "LangevinRidgeClassifier"):
        needed = "a list" if run.classes is None else "null"
        raise RunError("run.classes", f"must be {needed} for {run.estimator}, got {run.classes!r}")
    if run.classes is not None and len(run.classes) != run.n_outputs:
        raise RunError("run.n_outputs", f"must be one for each of {len(run.classes)} classes, got {run.n_outputs}")
    if run.classes is not None and len(set(run.classes)) != len(run.classes):
        raise RunError("run.classes", f"must be distinct, got {run.classes!r}")
    if (run.sources.classes == "none") != (run.classes is None):
        needed = "'none'" if run.classes is None else "'given' or 'data'"
        raise RunError("run.sources.classes", f"must be {needed}, got {run.sources.classes!r}")


def suspicions(
    run: RidgeInputs, design: NDArray[np.float64], targets: NDArray[np.float64], limit: float
) -> tuple[str, ...]:
    """Return what looks wrong about a run without refuting it; ``limit`` is 1/L."""
    result: list[str] = []
    whole = np.ascontiguousarray(np.column_stack([design, targets]) + 0.0)  # -0.0 becomes 0.0
    gone = {whole[row].tobytes(): row for row in run.deleted}
    deleted = set(run.deleted)
    stays = ((i, row.tobytes()) for i, row in enumerate(whole) if i not in deleted)
    copies = [(i, gone[values]) for i, values in stays if values in gone]
    if copies:
        more = f" ({len(copies)} such rows in all)" if len(copies) > 1 else ""
        result.append(
            f"row {copies[0][0]}, which stays, is an exact copy of the deleted row {copies[0][1]}{more}: whose is it?"
        )
    return (*result, *suspicious_step_size(run, limit))


def suspicious_step_size(run: RidgeInputs, limit: float) -> tuple[str, ...]:
    """Return what looks wrong about a step size that is said to be given."""
    if run.sources.step_size == "given" and abs(run.step_size - limit) <= _SAME_STEP_SIZE * limit:
        return ("the step size is said to be given, but equals 1/L of the data: was it not computed from them?",)
    return ()


def _check_rows(field: str, rows: tuple[int, ...], n_records: int) -> None:
    if list(rows) != sorted(set(rows)):
        raise RunError(field, f"must be sorted, without repetition, got {rows!r}")
    if rows and not 0 <= rows[0] <= rows[-1] < n_records:
        raise RunError(field, f"must be within [0, {n_records}), got {rows!r}")


def _check_phases(run: RidgeInputs) -> None:
    if len(run.phases) < 2:
        raise RunError("run.phases", f"must be learning and at least one deletion, got {len(run.phases)}")
    before: set[int] = set()
    for i, phase in enumerate(run.phases):
        field = f"run.phases[{i}]"
        _check_rows(f"{field}.removed", phase.removed, run.n_records)
        if i == 0 and phase.removed:
            raise RunError(f"{field}.removed", f"must be empty while learning, got {phase.removed!r}")
        if not before <= set(phase.removed):
            lost = sorted(before - set(phase.removed))
            raise RunError(f"{field}.removed", f"must keep what was removed before, lost {lost}")
        before = set(phase.removed)
    if run.phases[-1].removed != run.deleted:
        raise RunError(
            "run.deleted", f"must be the rows absent in the last phase, {run.phases[-1].removed!r}, got {run.deleted!r}"
        )
