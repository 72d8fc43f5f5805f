"""Quotes of a Newton estimator: what deleting each record would take and show, by id."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expunge._errors import counted
from expunge._types import AnyArray
from expunge.estimators.tabular import Tabular
from expunge.runs.residual import RecordQuotes

__all__ = ["NewtonQuote"]

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class NewtonQuote(Tabular):
    """Price of each deletion: of single records, or of ids, all records of one together.

    Attributes
    ----------
    ids : ndarray of shape (m,)
        Ids of the records, in the order asked for.
    costs : RecordQuotes
        All numbers, with bounds and estimates named so; ``costs.rows`` are positions among the records now in the
        model, of an id's first record.
    n_records : ndarray of int64, shape (m,)
        Records that go together: 1 each, where single records are quoted.
    unit : str
        "record" or "id".
    """

    ids: AnyArray
    costs: RecordQuotes
    n_records: NDArray[np.int64]
    unit: str = "record"

    @property
    def status(self) -> str:
        """``"estimate"``: passes are estimated; what is called a bound is proved."""
        return "estimate"

    @property
    def passes(self) -> NDArray[np.int64]:
        """Estimated passes over the data of `unlearn`, the one that proves the result included."""
        return self.costs.passes_estimate

    @property
    def one_step_noise(self) -> Float64:
        """Bound: noise that would certify the release after a single Newton step, without looking at the data."""
        return self.costs.one_step_noise_bound

    @property
    def sensitivity(self) -> Float64:
        """Bound: the distance between the optima with and without the record."""
        return self.costs.sensitivity_bound

    @property
    def before_after_epsilon(self) -> Float64:
        """Bound: epsilon, at the claim's delta, against whoever sees the model before and after."""
        return self.costs.before_after_epsilon_bound

    def _columns(self) -> dict[str, AnyArray]:
        costs = self.costs
        return {
            "id": self.ids,
            **({"n_records": self.n_records} if self.unit == "id" else {}),
            "passes_estimate": costs.passes_estimate,
            "sensitivity_bound": costs.sensitivity_bound,
            "one_step_noise_bound": costs.one_step_noise_bound,
            "before_after_epsilon_bound": costs.before_after_epsilon_bound,
        }

    def _claim(self) -> dict[str, object]:
        return {"method": "residual", "status": self.status, "delta": self.costs.delta, "unit": self.unit}

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        lines = [f"<NewtonQuote of {counted(len(self), self.unit)}: 5 %, median, 95 %"]
        for name in ("passes", "one_step_noise", "sensitivity", "before_after_epsilon"):
            low, middle, high = np.quantile(getattr(self, name), [0.05, 0.5, 0.95], method="inverted_cdf")
            lines.append(f"  {name:<20} {low:10.3g} {middle:10.3g} {high:10.3g}")
        return "\n".join(lines) + ">"
