"""The protocol of a run: everything that issuing, reading and verifying a certificate asks of a kind of run."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._types import JsonObject

__all__ = ["LEAST_P_VALUE", "Deltas", "Problem", "ReleaseLaw", "Run", "RunError"]

# A released model with a smaller p-value cannot have come from its run: an honest one has it once in 10^12 times.
LEAST_P_VALUE = 1e-12


class RunError(ValueError):
    """A run does not hold: its record contradicts itself, the data or the released model.

    Attributes
    ----------
    field : str
        The field at fault, as a path from ``run``, ``X``, ``y`` or ``model``: ``"run.phases[1].noise_std"``.
    message : str
        What came and what was needed, without the field.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class Deltas(NamedTuple):
    """Both directions of a claim at its epsilon: delta(P|Q) and delta(Q|P)."""

    pq: float
    qp: float


class Problem(Protocol):
    """A run beside its data, checked: whatever the run needs to compute its deltas and the law of its release."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Suspicions about the run that refute nothing, one sentence each."""
        ...


class ReleaseLaw(Protocol):
    """P, the law of the parameters that a run releases."""

    def p_value(self, parameters: NDArray[np.float64]) -> float:
        """Return the p-value of released parameters under P, uniform on (0, 1) for an honest run.

        Raises
        ------
        RunError
            With ``field == "model"``, if P cannot have given these parameters (a certificate is refused below
            `LEAST_P_VALUE` in any case), or if P cannot be computed.
        """
        ...


P = TypeVar("P", bound=Problem)


class Run(Protocol[P]):
    """Record of what happened to a model: all that its law depends on besides the data.

    P is the law of what the run releases, Q that of the same run on data that never held the deleted rows. An instance
    is immutable, compares by value, and comes back unchanged from ``from_dict(to_dict())``. Register the class with
    `expunge.runs.register`, or add a line to ``runs/registry.py``.

    Attributes
    ----------
    kind : str
        Name of this kind of run in certificates; it never changes, as files carry it.
    methods : tuple of str
        How deltas can be computed.
    reference : str
        Definition of P, Q and the claim, in words; a certificate carries it.
    n_records, n_features : int
        Shape of the data.
    classes : tuple of (str, int, float or bool), or None
        Labels of the targets; None if the targets are numbers.
    deleted : tuple of int
        Rows of the data that Q never saw, sorted, at least one.

    Examples
    --------
    >>> from expunge.runs import Run, run_class
    >>> ridge: type[Run] = run_class("ridge")
    >>> ridge.reference[:44]
    'P is the law of the released parameters. Q i'
    """

    kind: ClassVar[str]
    methods: ClassVar[tuple[str, ...]]
    reference: ClassVar[str]

    @property
    def n_records(self) -> int:
        """Number of records."""
        ...

    @property
    def n_features(self) -> int:
        """Number of features."""
        ...

    @property
    def classes(self) -> tuple[str | int | float | bool, ...] | None:
        """Labels, or None for numbers."""
        ...

    @property
    def deleted(self) -> tuple[int, ...]:
        """Rows that Q never saw."""
        ...

    @classmethod
    def schema(cls) -> JsonObject:
        """Return the JSON schema of `to_dict`, of the keywords that certificates' schemas use, as a new dictionary."""
        ...

    def to_dict(self) -> JsonObject:
        """Return the run as JSON values, in the order of the schema."""
        ...

    @classmethod
    def from_dict(cls, values: JsonObject) -> Run[P]:
        """Return the run from JSON values that the schema has accepted.

        Raises
        ------
        RunError
            If they contradict one another.
        """
        ...

    def summary(self) -> str:
        """Return one line for a person: how the model was made, without rows, names or data."""
        ...

    def history(self) -> list[JsonObject]:
        """Return what happened to the model as JSON values, learning first, then every deletion.

        The history of a later run of the same model begins with that of the earlier one: a ledger compares its entries
        with it.
        """
        ...

    def conditions(self) -> tuple[str, ...]:
        """Return what a claim about this run rests on: one sentence for every constant taken from the data."""
        ...

    def notes(self) -> tuple[str, ...]:
        """Return what a reader must know besides the conditions."""
        ...

    def work(self, *, method: str) -> float:
        """Return about how many floating-point operations a verification takes, from the record alone."""
        ...

    def failure_probability(self, *, method: str, delta: float) -> float | None:
        """Return the usual ``delta_s`` of a claim: how often bounds of this method may fail; None if it has none."""
        ...

    def check(self, X: ArrayLike, y: ArrayLike, *, conditions: Collection[str] | None) -> P:
        """Check every assumption of the theorem against the data, and return the run beside them.

        Parameters
        ----------
        X : array-like of shape (n_records, n_features)
            Features, deleted rows included.
        y : array-like of shape (n_records,) or (n_records, n_outputs)
            Targets or labels.
        conditions : collection of str, or None
            What the claim is said to rest on: an assumption that holds only under a condition is refused unless that
            is among them. None where the record predates conditions (certificates of version 1).

        Raises
        ------
        RunError
            Naming the field that breaks an assumption.
        """
        ...

    def deltas(self, problem: P, *, method: str, epsilon: float, delta_s: float | None) -> Deltas:
        """Return both deltas at ``epsilon``, never below the true ones, ``delta_s`` included where there is one.

        Raises
        ------
        RunError
            If the run gives no guarantee.
        """
        ...

    def parameters(self, model: object) -> NDArray[np.float64]:
        """Return the released parameters in one or two dimensions, from a fitted model or from an array of them.

        Raises
        ------
        TypeError, ValueError
            If ``model`` does not hold parameters of this run's shape.
        RunError
            If they fit, but the model contradicts the run in another way (other labels).
        """
        ...

    def law_of_release(self, problem: P) -> ReleaseLaw:
        """Return P, for the p-value of a released model."""
        ...
