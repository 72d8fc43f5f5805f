"""Sources of the constants of a run, and what a certificate must say about those computed from the data.

The theorem compares two runs that share their constants. A constant computed from data that held the deleted record is
shared too, but it can give the record away to whoever sees the release: such a claim is *conditional*, by name.
"""

from __future__ import annotations

from dataclasses import dataclass

from expunge import _validate
from expunge._types import JsonObject

__all__ = ["CONDITIONS", "GRID_NOTE", "UNKNOWN_SOURCES", "Sources"]

# One sentence per constant; `Sources.conditions` and every reader of certificates use these words.
CONDITIONS = {
    "step_size": "the step size was computed from data that held the deleted records",
    "noise_std": "the noise level was calibrated to the deleted records",
    "classes": "the class list was taken from data that held the deleted records",
    "last_of_class": "no record of some class is left, and the class list still names it",
    "scale": "the scale of the features was computed from data that held the deleted records",
    "task": "whether the targets are classes or numbers was read from data that held the deleted records",
}

UNKNOWN_SOURCES = (
    "a version 1 certificate does not say where step size, noise levels and classes come from: they may have been "
    "computed from data that held the deleted records"
)

GRID_NOTE = (
    "the noise level is the smallest of a public grid that suffices; which one it is depends on the deleted records"
)

_OPTIONS = {
    "step_size": ("given", "bounded", "data"),
    "noise_std": ("given", "grid", "data"),
    "classes": ("given", "none", "data"),
}


@dataclass(frozen=True)
class Sources:
    """Sources of the constants of a run; unless stated, the data.

    Attributes
    ----------
    step_size : str
        ``"given"`` as a number, ``"bounded"`` (1/(n_bound norm_bound^2 + alpha), with both bounds given) or ``"data"``.
    noise_std : str
        Of the deletion phases: ``"given"`` beforehand, ``"grid"`` (the smallest of a public grid that suffices) or
        ``"data"`` (calibrated); the weakest of the phases.
    classes : str
        ``"given"``, ``"none"`` (regression) or ``"data"``.
    norm_bound : float or None
        Asserted bound on the Euclidean norm of every row as the model sees it (constant column included).
    n_bound : int or None
        Asserted bound on the number of records.

    Raises
    ------
    TypeError, ValueError
        On construction, for an unknown word, a bound out of range, or bounds without ``"bounded"`` (and the reverse).

    Examples
    --------
    >>> Sources(step_size="given", noise_std="given", classes="none").conditions()
    ()
    """

    step_size: str = "data"
    noise_std: str = "data"
    classes: str = "data"
    norm_bound: float | None = None
    n_bound: int | None = None

    def __post_init__(self) -> None:
        for name, options in _OPTIONS.items():
            _validate.choice(f"sources.{name}", getattr(self, name), options)
        needed = self.step_size == "bounded"
        if (self.norm_bound is not None) != needed or (self.n_bound is not None) != needed:
            raise ValueError("sources need both norm_bound and n_bound with step_size 'bounded', and only then")
        if self.norm_bound is not None and self.n_bound is not None:
            bound = _validate.number("sources.norm_bound", self.norm_bound, low=0, open_low=True)
            object.__setattr__(self, "norm_bound", bound)
            count = _validate.count("sources.n_bound", self.n_bound, low=1)
            if count >= 2**53:
                raise ValueError(f"sources.n_bound must be < 2^53, got {count}")
            object.__setattr__(self, "n_bound", count)

    def conditions(self) -> tuple[str, ...]:
        """Return what a certificate with these constants rests on, one sentence per constant taken from the data."""
        return tuple(CONDITIONS[name] for name in _OPTIONS if getattr(self, name) == "data")

    def notes(self) -> tuple[str, ...]:
        """Return what a reader of the certificate must know besides its conditions."""
        return (GRID_NOTE,) if self.noise_std == "grid" else ()

    def to_dict(self) -> JsonObject:
        """Return the sources as JSON values, in the order of the schema."""
        return {name: getattr(self, name) for name in (*_OPTIONS, "norm_bound", "n_bound")}
