"""The ridge run as certificates know it: its record, and everything that follows from the record and the data."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._types import JsonObject
from expunge.data.blocks import Block
from expunge.data.constants import CONDITIONS
from expunge.data.statistics import StatisticsBuilder
from expunge.runs.base import Deltas, RunError
from expunge.runs.methods import METHODS
from expunge.runs.ridge.assumptions import (
    check_classes,
    check_noise,
    check_program,
    check_shape,
    check_step_size,
    lost_classes,
    suspicions,
    suspicious_step_size,
)
from expunge.runs.ridge.bounds import claim_of
from expunge.runs.ridge.clipping import residual_failure
from expunge.runs.ridge.held_rows import HeldRows, RowTable, all_rows
from expunge.runs.ridge.inputs import Label, RidgeInputs, design_of, targets_of
from expunge.runs.ridge.kept_law import ResumedDeletion, carried
from expunge.runs.ridge.law import Phase, RidgeDeletion, SingularPairError
from expunge.runs.ridge.products import Products
from expunge.runs.ridge.release import ReleaseLaw, coefficients_of
from expunge.runs.ridge.table_sums import TableSums
from expunge.runs.ridge.work import estimated_work

__all__ = ["RidgeProblem", "RidgeRun"]

# Share of a delta that rounding may make up before another way to bound it is tried.
_SHARP = 1e-6


@dataclass(frozen=True)
class RidgeProblem:
    """A ridge run beside its data, checked.

    Attributes
    ----------
    deletion : RidgeDeletion
        The run's constants and deleted rows, with the data.
    warnings : tuple of str
        What looks wrong without refuting anything.
    """

    deletion: RidgeDeletion
    warnings: tuple[str, ...] = ()


class RidgeRun(RidgeInputs):
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
    program : Program or None
        Where the claim is about the program that ran, the noise and the grid of its release, and bounds; else None.
    sources : Sources
        Origin of the constants; by default, data that held the deleted records.

    Raises
    ------
    TypeError, ValueError
        On construction, if a value is of the wrong kind or out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.runs.ridge import Phase, RidgeRun
    >>> phases = (Phase(n_steps=10, noise_std=0.5), Phase(n_steps=5, noise_std=1.0, removed=(0,)))
    >>> run = RidgeRun(estimator="LangevinRidge", alpha=1.0, fit_intercept=False, step_size=0.25, classes=None,
    ...                n_records=3, n_features=3, n_outputs=1, phases=phases, deleted=(0,))
    >>> RidgeRun.from_dict(run.to_dict()) == run
    True
    >>> problem = run.check(np.eye(3), np.ones(3), conditions=None)
    >>> max(run.deltas(problem, method="exact", epsilon=1.0, delta_s=None)) < 1e-3
    True
    """

    kind: ClassVar[str] = "ridge"
    methods: ClassVar[tuple[str, ...]] = METHODS
    reference: ClassVar[str] = (
        "P is the law of the released parameters. Q is the law of the same phases, steps, step size, noise and "
        "starting point on the data without any of the deleted rows. For every set S: P(S) <= exp(epsilon) Q(S) + "
        "delta and Q(S) <= exp(epsilon) P(S) + delta. The deletion schedule is fixed in advance; it does not adapt to "
        "released models."
    )

    @classmethod
    def schema(cls) -> JsonObject:
        """Return the JSON schema of `to_dict`, as a new dictionary."""
        text = resources.files("expunge.runs.ridge").joinpath("run.schema.json").read_text(encoding="utf-8")
        result: dict[str, Any] = json.loads(text)
        return result

    def summary(self) -> str:
        """Return one line for a person."""
        last = self.phases[-1]
        return (
            f"{self.estimator}, {len(self.phases)} phases; last: {last.n_steps} steps with "
            f"noise_std = {last.noise_std:g}"
            f"; its claim is about {'real numbers' if self.program is None else 'the program that ran'}"
        )

    def history(self) -> list[JsonObject]:
        """Return the phases as JSON values, learning first."""
        phases: Any = self.to_dict()["phases"]
        return list(phases)

    @property
    def last_deleted(self) -> tuple[int, ...]:
        """Rows that left with the last phase, sorted: what the last request was about; all, if that took no more."""
        before = self.phases[-2].removed if len(self.phases) > 1 else ()
        return tuple(sorted(set(self.deleted) - set(before))) or self.deleted

    def conditions(self) -> tuple[str, ...]:
        """Return what a claim rests on: one sentence for every constant taken from the data."""
        return self.sources.conditions()

    def notes(self) -> tuple[str, ...]:
        """Return what a reader must know besides the conditions."""
        return self.sources.notes()

    def work(self, *, method: str) -> float:
        """Return about how many floating-point operations a verification takes."""
        return estimated_work(self, method=method)

    def failure_probability(self, *, method: str, delta: float) -> float | None:
        """Return the share of ``delta`` that bounds on residuals may fail with; None for the method "exact"."""
        return None if method == "exact" else residual_failure(delta)

    def check(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        conditions: Collection[str] | None,
        deletion: RidgeDeletion | None = None,
    ) -> RidgeProblem:
        """Check every assumption of the theorem against the data, and return the run beside them.

        Parameters
        ----------
        X : array-like of shape (n_records, n_features)
            Features of the first fit, deleted rows included.
        y : array-like of shape (n_records,) or (n_records, n_outputs)
            Targets or labels of the first fit.
        conditions : collection of str, or None
            What the claim is said to rest on; None where the record predates conditions.
        deletion : RidgeDeletion, optional
            The same run with the same data, where it has been made already: its products and bases are then used.

        Raises
        ------
        RunError
            Naming the field that breaks an assumption.
        """
        check_classes(self)
        design = design_of(X, fit_intercept=self.fit_intercept)
        try:
            targets = targets_of(y, classes=self.classes)
        except ValueError as error:
            raise RunError("run.classes", str(error)) from None
        check_shape(self, design, targets)
        if deletion is None:
            products = _products(design, targets)
        else:
            _same_run(self, deletion, design, targets)
            products = deletion.products
        limit = check_step_size(self, products)
        self._check_lost(targets, conditions)
        with _computing():
            if deletion is None:
                run: dict[str, Any] = {"alpha": self.alpha, "step_size": self.step_size, "deleted": self.deleted}
                deletion = RidgeDeletion(design, targets, **run, products=products)
            check_noise(self, deletion)
            check_program(self, products, targets)
        return RidgeProblem(deletion, suspicions(self, design, targets, limit))

    def check_resumed(self, deletion: ResumedDeletion, *, conditions: Collection[str] | None) -> RidgeProblem:
        """Check every assumption against the rows that remain: the law of the run so far stands for the others.

        Whoever holds all rows of the first fit can check the same run with `check`.

        Parameters
        ----------
        deletion : ResumedDeletion
            This run, with its data and its law.
        conditions : collection of str, or None
            As for `check`.

        Raises
        ------
        RunError
            Naming the field that breaks an assumption.
        """
        check_classes(self)
        check_shape(self, deletion.design, deletion.targets)
        _same_constants(self, deletion)
        check_step_size(self, deletion.products)
        self._check_lost(deletion.targets, conditions)
        with _computing():
            check_noise(self, deletion)
            check_program(self, deletion.products, all_rows(deletion.targets, what="the program that ran"))
        return RidgeProblem(deletion)

    def check_sums(
        self, deletion: RidgeDeletion, sums: TableSums, *, conditions: Collection[str] | None
    ) -> RidgeProblem:
        """Check every assumption against the sums over a table and the rows of it that are deleted.

        Copies of the deleted rows, of which `check` warns, are not looked for.

        Parameters
        ----------
        deletion : RidgeDeletion
            This run, with these sums and rows.
        sums : TableSums
            Over all rows, or over those that remained before the last deletion where the law of the run so far stands
            for the others.
        conditions : collection of str, or None
            As for `check`.

        Raises
        ------
        RunError
            Naming the field that breaks an assumption.
        """
        check_classes(self)
        check_shape(self, deletion.design, deletion.targets)
        _same_constants(self, deletion)
        limit = check_step_size(self, deletion.products)
        self._check_lost(deletion.targets, conditions, total=sums.target_sums)
        with _computing():
            check_noise(self, deletion)
            check_program(self, deletion.products, np.sqrt(sums.target_squares)[:, None])
        return RidgeProblem(deletion, suspicious_step_size(self, limit))

    def table_check(self) -> TableCheck:
        """Return what `check` would be for data that lie in a table: it sees the blocks in order, and then says."""
        return TableCheck(self)

    def _check_lost(
        self, targets: RowTable, conditions: Collection[str] | None, *, total: NDArray[np.float64] | None = None
    ) -> None:
        """Refuse a deletion that leaves no record of a class that the data named, unless a condition says so."""
        lost = lost_classes(self, targets, total)
        needed = CONDITIONS["last_of_class"]
        if lost and conditions is not None and self.sources.classes == "data" and needed not in conditions:
            raise RunError(
                "run.classes",
                f"holds {lost[0]!r}, of which the deletion leaves no record: the class list would give the record "
                f"away. Give the classes beforehand, or accept the condition {needed!r}",
            )

    def deltas(self, problem: RidgeProblem, *, method: str, epsilon: float, delta_s: float | None) -> Deltas:
        """Return both deltas at ``epsilon``, ``delta_s`` included where there is one.

        Parameters
        ----------
        problem : RidgeProblem
            What `check` returned.
        method : {"exact", "shifted", "uniform"}
            How the deltas are computed.
        epsilon : float
            Epsilon of the claim.
        delta_s : float or None
            Failure probability of the residual bounds, for the methods "shifted" and "uniform".

        Raises
        ------
        RunError
            If the run gives no guarantee (no noise, a singular pair).
        """
        found, share = self._deltas(problem.deletion, method, epsilon, delta_s), self.program_share(epsilon=epsilon)
        return found if share == 0.0 else Deltas(*(min(1.0, one + share) for one in found))

    def program_share(self, *, epsilon: float) -> float:
        """Return what the rounding of the program that ran adds to both deltas, where the claim is about it; else 0."""
        return 0.0 if self.program is None else self.program.share(epsilon=epsilon)

    def _deltas(self, deletion: RidgeDeletion, method: str, epsilon: float, delta_s: float | None) -> Deltas:
        """Return both deltas of the run over the real numbers."""
        with _computing():
            if method == "exact":
                return _exact_deltas(deletion, self.phases, epsilon)
            if delta_s is None:
                raise ValueError(f"delta_s must be given for method {method!r}, got None")
            claim = claim_of(deletion, self.phases, epsilon=epsilon, delta_s=delta_s, uniform=method == "uniform")
            return Deltas(float(claim.delta_pq), float(claim.delta_qp))

    def parameters(self, model: object) -> NDArray[np.float64]:
        """Return the released parameters (n_columns, n_outputs), as `coefficients_of`, with labels compared.

        Raises
        ------
        ValueError
            If ``model`` does not hold parameters of this run's shape.
        RunError
            With ``field == "run.classes"``, if the model's labels differ.
        """
        result = coefficients_of(
            model, fit_intercept=self.fit_intercept, n_features=self.n_features, n_outputs=self.n_outputs
        )
        labels = getattr(model, "classes_", None)
        if self.classes is not None and labels is not None and list(labels) != list(self.classes):
            raise RunError(
                "run.classes", f"must be the model's {np.asarray(labels).tolist()!r}, got {list(self.classes)!r}"
            )
        return result

    def law_of_release(self, problem: RidgeProblem) -> ReleaseLaw:
        """Return P, the exact law of the released parameters."""
        return ReleaseLaw(problem.deletion, self.phases, self.program)


class TableCheck:
    """The check of a run against a table that is read block by block, in one pass (in two by the method "uniform").

    Parameters
    ----------
    run : RidgeRun
        The run.
    """

    def __init__(self, run: RidgeRun) -> None:
        self._run = run
        self._deleted = np.array(run.deleted, dtype=np.int64)
        self._codes = None if run.classes is None else LabelCodes(run.classes)
        self._rows: list[NDArray[np.float64]] = []
        self._targets: list[NDArray[np.float64]] = []
        self._builder = StatisticsBuilder(
            n_features=run.n_features, n_outputs=run.n_outputs, classes=None if self._codes is None else run.classes
        )

    def __enter__(self) -> TableCheck:
        self._builder.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._builder.__exit__(*error)

    def see(self, block: Block) -> None:
        """Take the next block in.

        Raises
        ------
        RunError
            Naming ``run.classes`` or ``run.n_outputs``, if targets are not those of the run.
        """
        run, labels = self._run, self._labels(block)
        self._builder.add(block.X, labels)
        stop = block.start + len(labels)
        gone = self._deleted[(self._deleted >= block.start) & (self._deleted < stop)] - block.start
        if gone.size:
            self._rows.append(design_of(block.X[gone], fit_intercept=run.fit_intercept))
            self._targets.append(_targets_of(labels[gone], run.n_outputs))

    def _labels(self, block: Block) -> NDArray[np.float64] | NDArray[np.int64]:
        run, y = self._run, np.asarray(block.y)
        if self._codes is not None:
            return self._codes.of(y, start=block.start)
        if y.dtype.kind not in "fiub":
            raise RunError("run.classes", "must be given for targets that are no numbers")
        labels = np.ascontiguousarray(y, dtype=np.float64).reshape(len(y), -1)
        if labels.shape[1] != run.n_outputs:
            raise RunError("run.n_outputs", f"must be {labels.shape[1]}, as in the data, got {run.n_outputs}")
        return labels

    def _parts(
        self, blocks: Callable[[], Iterable[Block]]
    ) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        run = self._run
        for block in blocks():
            targets = _targets_of(self._labels(block), run.n_outputs)
            yield design_of(block.X, fit_intercept=run.fit_intercept), targets

    def problem(self, *, conditions: Collection[str] | None, blocks: Callable[[], Iterable[Block]]) -> RidgeProblem:
        """Return the run beside its data, once every block has been seen.

        ``blocks`` reads them once more, for the method "uniform", which looks at every row when all sums are known.

        Raises
        ------
        RunError
            Naming the field that breaks an assumption.
        """
        run = self._run
        sums = TableSums.of(self._builder.result(), fit_intercept=run.fit_intercept)
        shape = sums.n_records, len(sums.gram.value)
        design = HeldRows(shape, run.deleted, np.concatenate(self._rows))
        targets = HeldRows((shape[0], run.n_outputs), run.deleted, np.concatenate(self._targets))
        parts = partial(self._parts, blocks)
        products = Products.of_sums(sums, design=design, targets=targets, parts=parts)
        with _computing():
            constants: dict[str, Any] = {"alpha": run.alpha, "step_size": run.step_size, "deleted": run.deleted}
            check_step_size(run, products)
            deletion = RidgeDeletion(design, targets, **constants, products=products)
        return run.check_sums(deletion, sums, conditions=conditions)


class LabelCodes:
    """Numbers of the labels of rows among the classes of a run, in its own order."""

    def __init__(self, classes: Sequence[Label]) -> None:
        self._known = {label: number for number, label in enumerate(classes)}

    def of(self, y: NDArray[Any], *, start: int) -> NDArray[np.int64]:
        """Return the number of the class of each row.

        Raises
        ------
        RunError
            Naming ``run.classes``, for the first label that is none of them.
        """
        values = (y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y).tolist()
        result = np.fromiter((self._known.get(one, -1) for one in values), dtype=np.int64, count=len(values))
        if (result < 0).any():
            at = int(np.argmax(result < 0))
            raise RunError("run.classes", f"must hold the labels of the data, lacks {values[at]!r} of row {start + at}")
        return result


def _targets_of(labels: NDArray[Any], count: int) -> NDArray[np.float64]:
    """Return targets as they are, or one-hot those that are numbers of classes."""
    if labels.ndim == 2:
        return np.asarray(labels, dtype=np.float64)
    result = np.zeros((len(labels), count))
    result[np.arange(len(labels)), labels] = 1.0
    return result


def _products(design: NDArray[np.float64], targets: NDArray[np.float64]) -> Products:
    with _computing():
        try:
            return Products(design, targets)
        except ValueError as error:
            if str(error).startswith("design"):
                raise RunError("X", str(error)) from None
            raise


def _same_constants(run: RidgeInputs, deletion: RidgeDeletion) -> None:
    wanted = (run.alpha, run.step_size, run.deleted)
    if (deletion.alpha, deletion.step_size, deletion.deleted) != wanted:
        raise ValueError("deletion must have the run's alpha, step_size and deleted rows, got others")


def _same_run(
    run: RidgeInputs, deletion: RidgeDeletion, design: NDArray[np.float64], targets: NDArray[np.float64]
) -> None:
    """Refuse the deletion of another run or other data: it would support no claim about these."""
    _same_constants(run, deletion)
    own = all_rows(deletion.design, what="comparing data"), all_rows(deletion.targets, what="comparing data")
    if not (np.array_equal(own[0], design) and np.array_equal(own[1], targets)):
        raise ValueError("deletion must be made of the run's data, got others")


def _exact_deltas(deletion: RidgeDeletion, phases: Sequence[Phase], epsilon: float) -> Deltas:
    """Return both deltas; after earlier deletions the smaller of two bounds where rounding makes up much of one."""
    kept = deletion.effective_phases(phases)

    def of(one: RidgeDeletion, *, proved: bool = True) -> Deltas:
        state = one.run(kept)
        pair = one.pair(state) if proved else one.estimated_pair(state)
        return Deltas(float(pair.delta(epsilon, direction="pq")), float(pair.delta(epsilon, direction="qp")))

    earlier = len(kept) > 1 and deletion.present(kept[1]).size > 0
    if not earlier or isinstance(deletion, ResumedDeletion):
        return of(deletion)
    try:
        found, least = of(deletion), of(deletion, proved=False)
        if max(found) <= max(least) * (1 + _SHARP):
            return found
    except SingularPairError:
        return of(carried(deletion, kept))
    try:
        other = of(carried(deletion, kept))
    except SingularPairError:
        return found
    return Deltas(min(found.pq, other.pq), min(found.qp, other.qp))


@contextmanager
def _computing() -> Iterator[None]:
    try:
        yield
    except RunError:
        raise
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
        raise RunError("run.phases", f"the claim cannot be computed: {error}") from None
