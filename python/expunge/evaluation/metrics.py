"""Measurements, shown beside those of retrained models and labelled as estimates."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from expunge._types import JsonObject
from expunge._validate import number
from expunge.evaluation.bands import Band

__all__ = ["METRICS", "Measured", "Metric", "Report"]

_DIRECTIONS = {
    "reference": "closer to the retrained model's",
    "higher": "higher",
    "lower": "lower",
}


@dataclass(frozen=True)
class Metric:
    """The one definition of a metric.

    Attributes
    ----------
    name : str
        As in tables and files.
    definition : str
        What is computed.
    direction : {"reference", "higher", "lower"}
        What is better: closer to the retrained model's value, higher, or lower.
    reference : str
        Where the reference value comes from.
    interval : str
        What the interval covers.
    caveat : str
        What the number does not say.
    """

    name: str
    definition: str
    direction: str
    reference: str
    interval: str
    caveat: str


def _accuracy(name: str, where: str, direction: str, caveat: str) -> Metric:
    definition, reference = f"share of {where} classified correctly", "the same of retrained models"
    return Metric(name, definition, direction, reference, "Clopper-Pearson over records", caveat)


_OVER_RECORDS = "score interval over records, this one model"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _accuracy("UA", "the forget set", "reference", "below the reference is no better: it forgets too much"),
        _accuracy("RA", "the retain set", "higher", "says nothing about forgetting"),
        _accuracy("TA", "the test set", "higher", "says nothing about forgetting"),
        Metric(
            "MIA loss", "probability that a forgotten record's loss is below a held-out one's, ties one half (AUC)",
            "reference", "the same of retrained models, not 0.5: forget and held-out records may differ", _OVER_RECORDS,
            "a weak attack: one threshold for all records; a low AUC does not show forgetting",
        ),
        Metric(
            "MIA margin",
            "probability that a forgotten record's logit margin (true class less largest other) is above a held-out "
            "one's, ties one half (AUC)",
            "reference", "the same of retrained models, not 0.5: forget and held-out records may differ", _OVER_RECORDS,
            "a weak attack: one threshold for all records; a low AUC does not show forgetting",
        ),
        Metric(
            "U-LiRA AUC",
            "AUC of the per-record Gaussian likelihood ratio of logit margins, unlearned against retrained models",
            "reference", "0.5: what models of one law give in expectation",
            "score interval over the shadow models tested",
            "as strong as the number of shadow models; one fixed forget set",
        ),
        Metric(
            "U-LiRA accuracy", "balanced accuracy of the sign of that log likelihood ratio", "reference",
            "0.5: what models of one law give in expectation", "score interval over the shadow models tested",
            "as strong as the number of shadow models; one fixed forget set",
        ),
        Metric(
            "GUS", "mean over poisoned records of <xi, grad_x loss> / (sigma ||grad_x loss||) at the clean record",
            "reference", "0: the score is N(0, 1) if the model does not depend on the poison",
            "Student's t over records", "finds what a Gaussian poison leaves; records with zero gradient are left out",
        ),
        Metric(
            "loss barrier",
            "max over 25 points t of loss((1-t)A + t pi(B)) - ((1-t) loss(A) + t loss(B)), pi by weight matching",
            "lower", "the same between two retrained models", "none: one path",
            "an upper bound: a better matching may lower it",
        ),
        Metric(
            "time to unlearn",
            "first recorded step from which a metric is in the retrained band and stays there: to the end, or for as "
            "many recordings as patience asks",
            "lower", "the band of retrained models", "(the recorded step before, this one]",
            "depends on the metric, the band's width and the steps recorded",
        ),
    )
}  # fmt: skip
"""Every metric of the suite by name; ``docs/evaluation.md`` shows the same table."""


@dataclass(frozen=True)
class Measured:
    """A metric's value on one model, beside the retrained models'. An *estimate*, always.

    Attributes
    ----------
    metric : Metric
    value : float
        Infinite only for a time that was never reached.
    interval : (float, float) or None
        At ``confidence``; what it covers is `Metric.interval`.
    confidence : float or None
    reference : float or None
        The retrained models' mean; None if none was given.
    band : Band or None
        Where retrained models lie; None with fewer than two of them and no tolerance.
    note : str
        Anything that must be read with the number.
    """

    metric: Metric
    value: float
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    reference: float | None = None
    band: Band | None = None
    note: str = ""
    status: str = field(default="estimate", init=False)

    def __post_init__(self) -> None:
        number(self.metric.name, self.value, allow_infinite=True)
        if self.interval is not None and not (self.interval[0] <= self.interval[1]):
            raise ValueError(f"interval must be (low, high), got {self.interval}")

    @property
    def distance(self) -> float | None:
        """Distance of the value from the retrained models' mean."""
        return None if self.reference is None else abs(self.value - self.reference)

    @property
    def in_band(self) -> bool | None:
        """Whether the value lies in the band of retrained models; None without a band."""
        return None if self.band is None else bool(self.band.holds(self.value))

    def to_dict(self) -> JsonObject:
        """Return JSON values; a time never reached is null."""
        return {
            "metric": self.metric.name,
            "definition": self.metric.definition,
            "direction": self.metric.direction,
            "value": self.value if math.isfinite(self.value) else None,
            "interval": None if self.interval is None else [_finite(v) for v in self.interval],
            "confidence": self.confidence,
            "reference": self.reference,
            "band": None if self.band is None else asdict(self.band),
            "in_band": self.in_band,
            "note": self.note,
            "status": self.status,
        }

    def cells(self) -> tuple[str, ...]:
        """Return the value's row of the printed table."""
        where = "" if self.in_band is None else ("inside" if self.in_band else "outside")
        return (
            self.metric.name,
            _text(self.value),
            "" if self.interval is None else f"[{_text(self.interval[0])}, {_text(self.interval[1])}]",
            "" if self.reference is None else _text(self.reference),
            "" if self.band is None else f"[{_text(self.band.low)}, {_text(self.band.high)}]",
            where,
            _DIRECTIONS[self.metric.direction],
        )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _text(value: float) -> str:
    if math.isinf(value):
        return "never" if value > 0 else "-inf"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


@dataclass(frozen=True)
class Report(Sequence[Measured]):
    """Measurements of one model. Prints as a table; all are *estimates*.

    Attributes
    ----------
    measured : tuple of Measured
    title : str
    """

    measured: tuple[Measured, ...]
    title: str = ""
    status: str = field(default="estimate", init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "measured", tuple(self.measured))

    def __len__(self) -> int:
        return len(self.measured)

    def __iter__(self) -> Iterator[Measured]:
        return iter(self.measured)

    def __getitem__(self, key: Any) -> Any:
        """Return a measurement by the name of its metric or by position."""
        if isinstance(key, str):
            for one in self.measured:
                if one.metric.name == key:
                    return one
            raise KeyError(f"there is no {key!r}; there are {', '.join(m.metric.name for m in self.measured)}")
        return self.measured[key]

    def to_dict(self) -> JsonObject:
        """Return JSON values."""
        return {"title": self.title, "status": self.status, "measured": [one.to_dict() for one in self.measured]}

    def to_json(self) -> str:
        """Return strict JSON: no NaN, no infinity."""
        return json.dumps(self.to_dict(), allow_nan=False, indent=1)

    def __str__(self) -> str:
        head = ("metric", "value", "interval", "retrained", "band", "", "better is")
        rows = [head, *(one.cells() for one in self.measured)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "-" * max(map(len, lines)))
        notes = [f"{one.metric.name}: {one.note}" for one in self.measured if one.note]
        title = [f"{self.title} (estimates)" if self.title else "(estimates)"]
        return "\n".join([*title, *lines, *notes])
