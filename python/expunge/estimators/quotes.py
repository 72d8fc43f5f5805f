"""What forgetting each record would cost."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from expunge._extras import how_to_install
from expunge._files import write_atomic
from expunge._validate import choice, count, number
from expunge.accounting import gdp_mu
from expunge.accounting.ridge_law import Phase, RidgeDeletion
from expunge.accounting.ridge_shifted import UniformBound, sensitivities, tracked_mu
from expunge.calibration import HEADROOM, smallest_noise, smallest_steps
from expunge.estimators._history import History
from expunge.estimators._records import RecordIds, as_array, exact_ids, selected_rows
from expunge.ridge import (
    ExactQuotes,
    LearningLaw,
    ShiftedQuotes,
    exact_group_quotes,
    exact_quotes,
    shifted_group_quotes,
    shifted_quotes,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["METHODS", "DeletionCost", "Quote", "quote"]

Array = NDArray[np.float64]

METHODS = ("exact", "shifted", "uniform")


@dataclass(frozen=True)
class Quote:
    """The price of each deletion.

    Attributes
    ----------
    indices : ndarray of int64 (for ids and groups also of uint64, or of Python integers or strings)
        What is quoted: the record's row in the first fit, the id, or the group.
    noise_std : ndarray of float64
        Noise per unlearning step; 0 where the learning noise already suffices, ``inf`` where no noise does.
    n_steps : ndarray of int64
        Unlearning steps.
    mu : ndarray of float64
        Gaussian-DP parameter: for "shifted" and "uniform" the proved one, for "exact" that of the Gaussian mechanism
        with the same (epsilon, delta).
    epsilon : ndarray of float64
        Reached at the quote's delta; below the target only where no noise is needed.
    error : ndarray of float64
        Estimated relative error of ``noise_std`` (of ``epsilon`` where no noise is needed); 0 for proved bounds.
    certified : ndarray of bool
        True where a theorem and untruncated float64 algebra stand behind the number, False for an *estimate*.
    method : str
        "exact", "shifted" or "uniform".
    target_epsilon, target_delta : float
        What was asked for.
    unit : str
        "record", "id" or "group".
    """

    indices: NDArray[Any]
    noise_std: Array
    n_steps: NDArray[np.int64]
    mu: Array
    epsilon: Array
    error: Array
    certified: NDArray[np.bool_]
    method: str
    target_epsilon: float
    target_delta: float
    unit: str = "record"

    @property
    def status(self) -> str:
        """``"certified"`` if every number is, else ``"estimate"``."""
        return "certified" if bool(self.certified.all()) else "estimate"

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return (
            f"Quote({len(self)} {self.unit}s, method={self.method!r}, status={self.status!r}, "
            f"(epsilon, delta)=({self.target_epsilon:g}, {self.target_delta:g}), "
            f"median noise_std={np.median(self.noise_std):.4g})"
        )

    def _columns(self) -> dict[str, NDArray[Any]]:
        # Integers of more than 64 bits have no column type of their own.
        names = self.indices if self.indices.dtype.kind != "O" else np.array([str(name) for name in self.indices])
        return {
            self.unit: names,
            "noise_std": self.noise_std,
            "n_steps": self.n_steps,
            "mu": self.mu,
            "epsilon": self.epsilon,
            "error": self.error,
            "status": np.where(self.certified, "certified", "estimate"),
        }

    def to_frame(self) -> pd.DataFrame:
        """Return the quote as a pandas DataFrame, one row per record or group (needs pandas)."""
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("to_frame needs pandas: pip install pandas") from None
        frame = pd.DataFrame({**self._columns(), self.unit: self.indices})
        frame.attrs.update(self._claim())
        return frame

    def _claim(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "status": self.status,
            "target_epsilon": self.target_epsilon,
            "target_delta": self.target_delta,
            "unit": self.unit,
        }

    def to_parquet(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the quote to a Parquet file (needs ``expunge[parquet]``), whole or not at all, for its owner only.

        Ids that are integers of more than 64 bits are written as text.

        Raises
        ------
        FileExistsError
            If ``path`` exists and ``overwrite`` is false.
        """
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError:
            raise ImportError(f"to_parquet needs pyarrow: {how_to_install('parquet')}") from None
        table = pa.table(self._columns())
        table = table.replace_schema_metadata({f"expunge.{key}": str(value) for key, value in self._claim().items()})
        buffer = io.BytesIO()
        parquet.write_table(table, buffer)
        write_atomic(path, buffer.getvalue(), overwrite=overwrite)
        return Path(path)


class DeletionCost:
    """Delta of one deletion (a record or a group) as a function of the last phase, by dense certified algebra.

    Parameters
    ----------
    history : History
        The run so far.
    rows : sequence of int
        Rows to delete next; the reference run never saw them nor any deleted before.
    method : str
        "exact", "shifted" or "uniform".
    epsilon, delta : float
        The target.
    """

    def __init__(self, history: History, rows: Sequence[int], *, method: str, epsilon: float, delta: float) -> None:
        self._history, self.method = history, method
        self.deleted = tuple(sorted({*history.removed, *(int(i) for i in rows)}))
        self.epsilon, self.delta = epsilon, delta
        self.delta_s = None if method == "exact" else delta / 10
        self.deletion = RidgeDeletion(
            history.design, history.targets, alpha=history.alpha, step_size=history.step_size, deleted=self.deleted
        )
        self._state = self.deletion.run(history.phases)
        if method == "shifted":
            self._sensitivities = sensitivities(self.deletion, history.phases, delta_s=delta / 10)
        elif method == "uniform":
            if len(history.phases) > 1:
                raise ValueError("method='uniform' is defined for a first deletion only, and this model had one before")
            self._uniform = UniformBound(
                history.design,
                history.targets,
                alpha=history.alpha,
                step_size=history.step_size,
                learning=history.phases[0],
                delta_s=delta / 10,
                group_size=len(self.deleted),
            )

    def phase(self, n_steps: int, noise_std: float) -> Phase:
        """Return the unlearning phase with the given steps and noise."""
        return Phase(n_steps=n_steps, noise_std=noise_std, removed=self.deleted)

    def _phases(self, n_steps: int, noise_std: float) -> tuple[Phase, ...]:
        return self.deletion.effective_phases((*self._history.phases, self.phase(n_steps, noise_std)))

    def pair(self, n_steps: int, noise_std: float) -> Any:
        """Return the exact `GaussianPair` after ``n_steps`` of ``noise_std``."""
        phases = self._phases(n_steps, noise_std)
        if len(phases) == len(self._history.phases) + 1:
            return self.deletion.pair(self.deletion.advance(self._state, phases[-1]))
        return self.deletion.pair(self.deletion.run(phases))

    def mu(self, n_steps: int, noise_std: float) -> float:
        """Return the GDP parameter proved by shifted interpolation."""
        phases = self._phases(n_steps, noise_std)
        if self.method == "uniform":
            return self._uniform.mu(phases)
        return tracked_mu(self.deletion, phases, delta_s=self.delta / 10, known=self._sensitivities)

    @property
    def _mu_target(self) -> float:
        """The mu at which gdp_delta(mu, epsilon) + e^epsilon delta_s = delta; 0 if delta_s alone is too much."""
        left = self.delta * (1 - HEADROOM) - math.exp(self.epsilon) * self.delta / 10
        return float(gdp_mu(self.epsilon, left)) if left > 0 else 0.0

    def enough(self, n_steps: int, noise_std: float) -> bool:
        """Return whether that phase reaches the target."""
        return self.ratio(n_steps, noise_std) <= 1

    def ratio(self, n_steps: int, noise_std: float) -> float:
        """Return delta over its target (for bounds by mu: a monotone stand-in that is <= 1 exactly when it passes)."""
        try:
            if self.method == "exact":
                return float(self.pair(n_steps, noise_std).delta(self.epsilon)) / (self.delta * (1 - HEADROOM))
            mu, target = self.mu(n_steps, noise_std), self._mu_target
        except ValueError:
            if noise_std == 0 or n_steps == 0:  # no noise anywhere: no guarantee at any delta
                return math.inf
            raise
        if mu == 0:
            return 0.0
        return math.exp(min(mu / target - 1.0, 700.0)) if target > 0 else math.inf

    def smallest_noise(self, n_steps: int, *, start: float) -> float:
        """Return the least noise for the target: 0 if the noise so far suffices, ``inf`` if none does."""
        if self.enough(0, 0.0):
            return 0.0
        if self.method != "exact" and not self._mu_target > 0:
            return math.inf
        # The search wants a delta in (0, 1); a fixed 1/2 stands for "ratio 1" whatever the target is.
        return smallest_noise(lambda noise: min(0.5 * self.ratio(n_steps, noise), 1e300), delta=0.5, start=start)

    def smallest_steps(self, noise_std: float) -> int:
        """Return the fewest steps at ``noise_std`` for the target."""
        if self.enough(0, 0.0):
            return 0
        if self.method != "exact" and not self._mu_target > 0:
            raise ValueError(f"epsilon = {self.epsilon:g} leaves nothing of delta once e^epsilon delta/10 is paid")
        return smallest_steps(lambda steps: min(0.5 * self.ratio(steps, noise_std), 1e300), delta=0.5)

    def reached(self, n_steps: int, noise_std: float) -> tuple[float, float]:
        """Return (mu, epsilon) reached at the target delta."""
        if not math.isfinite(noise_std):
            return math.nan, math.inf
        if self.method == "exact":
            pair = self.pair(n_steps, noise_std)
            epsilon = float(pair.epsilon(self.delta))
            return float(gdp_mu(epsilon, self.delta)), epsilon
        mu = self.mu(n_steps, noise_std)
        return mu, shifted_epsilon(mu, self.delta, at_most=self.epsilon)


def shifted_epsilon(mu: float, delta: float, *, at_most: float) -> float:
    """Return an epsilon <= ``at_most`` with gdp_delta(mu, epsilon) + e^epsilon delta/10 <= delta, by bisection."""

    def passes(epsilon: float) -> bool:
        left = delta - math.exp(epsilon) * delta / 10
        return left > 0 and mu <= float(gdp_mu(epsilon, left))

    if passes(0.0):
        return 0.0
    low, high = 0.0, at_most
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def _units(
    history: History, *, indices: Any, ids: Any, rows: Any, by_id: bool, groups: Any
) -> tuple[str, NDArray[Any], list[NDArray[np.int64]] | None]:
    """Return what is quoted ("record", "id" or "group"), its names, and per name its rows unless it is one row."""
    n, remaining, removed = len(history.design), history.remaining, history.removed
    if indices is None and ids is None and rows is None:
        chosen = remaining
    else:
        chosen = selected_rows(history.ids, n=n, removed=removed, indices=indices, ids=ids, rows=rows)
    if groups is None and not by_id and ids is None:
        return "record", chosen, None
    if groups is not None:
        if by_id:
            raise TypeError("quote takes one of by_id and groups, got both")
        values = tuple(exact_ids("groups", groups))
        if len(values) != n:
            raise ValueError(f"groups must hold one id per row of the first fit, {n}, got {len(values)}")
        unit, known = "group", RecordIds(values, "groups")
    elif history.ids is None:
        raise ValueError("by_id needs ids, and this model has none: fit with record_ids=, or pass groups=")
    else:
        unit, known = "id", history.ids
    asked = known.find("ids", ids) if unit == "id" and ids is not None else known.codes[chosen].tolist()
    wanted = list(dict.fromkeys(asked))
    codes = known.codes[remaining]
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(len(known.names) + 1))
    members = [remaining[order[ends[code] : ends[code + 1]]] for code in wanted]
    if max(map(len, members)) >= remaining.size:
        raise ValueError(f"{unit}s must leave at least one record, got one that is all of them")
    return unit, as_array([known.names[code] for code in wanted]), members


def quote(
    history: History,
    *,
    epsilon: float,
    delta: float,
    n_steps: int | None,
    noise_std: float | None,
    method: str,
    indices: ArrayLike | None,
    ids: Any,
    rows: ArrayLike | None,
    by_id: bool,
    groups: ArrayLike | None,
    law: LearningLaw | None,
    threads: int | None,
) -> Quote:
    """Return the price of each deletion; see `LangevinRidge.quote`."""
    epsilon = number("epsilon", epsilon, low=0)
    delta = number("delta", delta, low=0, high=1, open_low=True, open_high=True)
    choice("method", method, METHODS)
    if (n_steps is None) == (noise_std is None):
        raise ValueError("quote needs exactly one of n_steps and noise_std, got " + ("both" if n_steps else "neither"))
    n_steps = None if n_steps is None else count("n_steps", n_steps, low=1)
    noise_std = None if noise_std is None else number("noise_std", noise_std, low=0, open_low=True)
    unit, names, members = _units(history, indices=indices, ids=ids, rows=rows, by_id=by_id, groups=groups)
    target = {"epsilon": epsilon, "delta": delta, "n_steps": n_steps, "noise_std": noise_std}
    with tqdm(total=len(names), unit=unit, desc=f"quote ({method})", disable=None, leave=False) as bar:
        if law is None or (members is not None and method == "uniform"):
            return _dense_quote(history, names, members, target, method, unit, bar)
        options = {**target, "threads": threads, "progress": bar.update}
        found: ExactQuotes | ShiftedQuotes
        if members is None and method == "exact":
            found = exact_quotes(law, names, **options)
        elif members is None:
            found = shifted_quotes(law, names, uniform=method == "uniform", **options)
        elif method == "exact":
            found = exact_group_quotes(law, members, **options)
        else:
            found = shifted_group_quotes(law, members, **options)
    return _from_kernel(found, names, target, method, unit, history.design.shape[1])


def _from_kernel(
    found: ExactQuotes | ShiftedQuotes, ids: Any, target: dict[str, Any], method: str, unit: str, width: int
) -> Quote:
    proved = np.isfinite(found.noise_std)
    error = np.zeros(len(ids))
    if isinstance(found, ExactQuotes):
        proved &= found.rank >= width
        error = found.error
    return Quote(
        indices=ids,
        noise_std=found.noise_std,
        n_steps=found.n_steps,
        mu=found.mu,
        epsilon=found.epsilon,
        error=error,
        certified=np.asarray(proved, dtype=bool),
        method=method,
        target_epsilon=target["epsilon"],
        target_delta=target["delta"],
        unit=unit,
    )


def _dense_quote(
    history: History, ids: Any, members: Any, target: dict[str, Any], method: str, unit: str, bar: Any
) -> Quote:
    """Quote one by one with the certificate's own algebra: for models with a deletion behind them."""
    m = len(ids)
    noise, steps = np.empty(m), np.empty(m, dtype=np.int64)
    mu, reached = np.empty(m), np.empty(m)
    start = max(history.phases[0].noise_std, 1e-3)
    for i in range(m):
        rows = [ids[i]] if members is None else members[i]
        cost = DeletionCost(history, rows, method=method, epsilon=target["epsilon"], delta=target["delta"])
        if target["noise_std"] is None:
            steps[i] = target["n_steps"]
            noise[i] = cost.smallest_noise(int(steps[i]), start=start)
            start = noise[i] if 0 < noise[i] < math.inf else start
        else:
            noise[i] = target["noise_std"]
            steps[i] = cost.smallest_steps(float(noise[i]))
        mu[i], reached[i] = cost.reached(int(steps[i]), float(noise[i]))
        bar.update(1)
    return Quote(
        indices=ids,
        noise_std=noise,
        n_steps=steps,
        mu=mu,
        epsilon=reached,
        error=np.zeros(m),
        certified=np.isfinite(noise),
        method=method,
        target_epsilon=target["epsilon"],
        target_delta=target["delta"],
        unit=unit,
    )
