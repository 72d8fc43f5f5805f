"""Quotes: what forgetting each record would cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from expunge._types import AnyArray
from expunge._validate import choice, count, number
from expunge.accounting.noise_floor import RESOLUTION
from expunge.estimators._history import History
from expunge.estimators._programs import of_laws
from expunge.estimators._records import as_array, given_groups, selected_rows
from expunge.estimators.tabular import Tabular
from expunge.runs.methods import METHODS
from expunge.runs.ridge import (
    ExactQuotes,
    LearningLaw,
    ShiftedQuotes,
    exact_group_quotes,
    exact_quotes,
    shifted_group_quotes,
    shifted_quotes,
)
from expunge.runs.ridge.bounds import UniformBound
from expunge.runs.ridge.clipping import residual_failure
from expunge.runs.ridge.cost import LARGEST_NOISE, LEAST_NOISE, DeletionCost, LostNoiseError, check_delta
from expunge.runs.ridge.law import Phase, SingularPairError

__all__ = [
    "Claim",
    "Quote",
    "QuoteTable",
    "asked",
    "claim_of",
    "from_kernel",
    "may_be_lost",
    "quote",
    "refuse_lost",
    "worst_cases",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Quote(Tabular):
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
    direction : ndarray of str
        Which of the two deltas is the larger, and binds: "P|Q" (deletion against the run without the record) or "Q|P";
        empty where no noise reaches the target.
    """

    indices: AnyArray
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
    direction: NDArray[np.str_] = field(default_factory=lambda: np.empty(0, dtype="<U3"))

    def __post_init__(self) -> None:
        if len(self.direction) != len(self.indices):
            object.__setattr__(self, "direction", np.full(len(self.indices), "", dtype="<U3"))

    @property
    def status(self) -> str:
        """``"certified"`` if every number is, else ``"estimate"``."""
        return "certified" if bool(self.certified.all()) else "estimate"

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        what = "steps" if (self.n_steps != self.n_steps[:1]).any() else "noise_std"
        values = self.n_steps if what == "steps" else self.noise_std
        low, middle, high = (f"{value:.3g}" for value in np.quantile(values, [0.05, 0.5, 0.95], method="inverted_cdf"))
        unit = self.unit if len(self) == 1 else f"{self.unit}s"
        error = f" within {self.error.max():.0e}" if self.status == "estimate" else ""
        return (
            f"<Quote of {len(self):,} {unit} for epsilon = {self.target_epsilon:g}, delta = {self.target_delta:g}: "
            f"median {what} {middle} (5 % {low}, 95 % {high}); {self.method}, {self.status}{error}>"
        )

    def _columns(self) -> dict[str, AnyArray]:
        return {
            self.unit: self.indices,
            "noise_std": self.noise_std,
            "n_steps": self.n_steps,
            "mu": self.mu,
            "epsilon": self.epsilon,
            "error": self.error,
            "direction": self.direction,
            "status": np.where(self.certified, "certified", "estimate"),
        }

    def _claim(self) -> dict[str, object]:
        return {
            "method": self.method,
            "status": self.status,
            "target_epsilon": self.target_epsilon,
            "target_delta": self.target_delta,
            "unit": self.unit,
        }


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
        unit, known = "group", given_groups(groups, n=n, by_id=by_id)
    elif history.ids is None:
        raise ValueError("by_id needs ids, but this model has none: fit with record_ids=, or pass groups=")
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
    claim = claim_of(history, epsilon=epsilon, delta=delta, n_steps=n_steps, noise_std=noise_std, method=method)
    claim.unit, names, members = _units(history, indices=indices, ids=ids, rows=rows, by_id=by_id, groups=groups)
    if claim.noise_std is not None:
        refuse_lost(history, claim.noise_std)
    with tqdm(total=len(names), unit=claim.unit, desc=f"quote ({method})", disable=None, leave=False) as bar:
        if law is None or (members is not None and method == "uniform"):
            rows = [[one] for one in names] if members is None else members
            bounds = worst_cases(history, claim, [len(one) for one in rows])
            return asked(history, rows, claim, bar.update, bounds).quote(names, claim)
        options: dict[str, Any] = {"epsilon": claim.epsilon, "delta": claim.delta}
        options |= {"n_steps": claim.n_steps, "noise_std": claim.noise_std}
        options |= {"threads": threads, "progress": bar.update}
        found: ExactQuotes | ShiftedQuotes
        if members is None and method == "exact":
            found = exact_quotes(law, names, **options)
        elif members is None:
            found = shifted_quotes(law, names, uniform=method == "uniform", **options)
        elif method == "exact":
            found = exact_group_quotes(law, members, **options)
        else:
            found = shifted_group_quotes(law, members, **options)
    return from_kernel(history, law, found, names, members, claim).quote(names, claim)


def claim_of(
    history: History, *, epsilon: float, delta: float, n_steps: int | None, noise_std: float | None, method: str
) -> Claim:
    """Return the target of a quote of single records, its arguments checked."""
    epsilon = number("epsilon", epsilon, low=0)
    delta = number("delta", delta, low=0, high=1, open_low=True, open_high=True)
    choice("method", method, METHODS)
    check_delta(method, delta)
    history.require_method(method)
    if (n_steps is None) == (noise_std is None):
        raise ValueError("quote needs exactly one of n_steps and noise_std, got " + ("both" if n_steps else "neither"))
    n_steps = None if n_steps is None else count("n_steps", n_steps, low=1)
    noise_std = None if noise_std is None else number("noise_std", noise_std, low=0, open_low=True)
    start = max(history.phases[0].noise_std, 1e-3)
    return Claim(method, "record", epsilon, of_laws(history, delta), n_steps, noise_std, start, delta)


def worst_cases(history: History, claim: Claim, sizes: Sequence[int]) -> dict[int, UniformBound]:
    """Return the worst case for each number of rows that go together, in one pass; none but for the method "uniform".

    Of one record it is asked for where kernels leave it to the certificate's own algebra.
    """
    if claim.method != "uniform":
        return {}
    wanted, learning = sorted(set(sizes)), history.phases[0]
    delta_s = residual_failure(claim.delta)
    found = UniformBound.of_sizes(history.deletion(()), wanted, learning=learning, delta_s=delta_s)
    return dict(zip(wanted, found, strict=True))


def asked(
    history: History,
    rows: Sequence[Any],
    claim: Claim,
    progress: Callable[[int], object] | None,
    bounds: Mapping[int, UniformBound] | None = None,
) -> QuoteTable:
    """Return the price of each deletion by the certificate's own algebra, one after the other."""
    table = QuoteTable.empty(len(rows))
    for i, one in enumerate(rows):
        _ask(history, table, i, one, claim, bounds)
        if progress is not None:
            progress(1)
    return table


@dataclass
class Claim:
    """Target of a quote, and the start of the next search for noise; ``asked`` of delta, ``delta`` is for the laws."""

    method: str
    unit: str
    epsilon: float
    delta: float
    n_steps: int | None
    noise_std: float | None
    start: float
    asked: float


def refuse_lost(history: History, noise_std: float) -> None:
    """Refuse noise that is lost whichever record is deleted, at the size of the parameters before the deletion."""
    removed = history.removed
    *_, floor = history.deletion(removed).floors((*history.phases, Phase(1, 0.0, removed)))
    least = max(floor, LEAST_NOISE)
    if not least <= noise_std <= LARGEST_NOISE:
        raise ValueError(
            f"noise_std must be between {least:.3g}, below which float64 loses it at the size of the parameters, and "
            f"{LARGEST_NOISE:g}, got {noise_std!r}"
        )


def from_kernel(
    history: History, law: LearningLaw, found: ExactQuotes | ShiftedQuotes, ids: Any, members: Any, claim: Claim
) -> QuoteTable:
    """Return what kernels found, with the certificate's own algebra where noise is near what float64 resolves."""
    proved = np.isfinite(found.noise_std)
    error = np.zeros(len(ids))
    if isinstance(found, ExactQuotes):
        proved &= found.rank >= history.design.shape[1]
        error = found.error
    table = QuoteTable(
        noise_std=found.noise_std,
        n_steps=found.n_steps,
        mu=found.mu,
        epsilon=found.epsilon,
        error=error,
        certified=np.asarray(proved, dtype=bool),
        direction=np.where(found.delta_qp > found.delta_pq, "Q|P", "P|Q"),
    )
    table.direction[~np.isfinite(found.noise_std)] = ""
    rows = [[row] for row in ids] if members is None else members
    unsure = may_be_lost(history, law, found.noise_std, ids if members is None else None)
    again = np.flatnonzero(unsure).tolist()
    bounds = worst_cases(history, claim, [len(rows[i]) for i in again]) if again else {}
    for i in tqdm(again, unit=claim.unit, desc="quote, near what float64 resolves", disable=None, leave=False):
        _ask(history, table, i, rows[i], claim, bounds)
    return table


def may_be_lost(
    history: History, law: LearningLaw, noise_std: Array, rows: NDArray[np.int64] | None = None
) -> NDArray[np.bool_]:
    """Return where noise is too large, or may lie below the floor, of learning or of the deletion of these rows.

    The bounds cost little.

    Noise-free parameters of every run from zero are no longer than its optimum, in each column, and an optimum is no
    longer than |Y| / (2 sqrt(alpha)); those of an unlearning phase lie within 3 such lengths.
    """
    crude = 3 * RESOLUTION * float(history.target_sizes.max()) / (2 * math.sqrt(history.alpha))
    learning = law.noise_std or math.inf
    noise = np.minimum(np.where(noise_std > 0, noise_std, math.inf), learning)
    suspect = noise < max(crude, LEAST_NOISE)
    large = np.isfinite(noise_std) & (noise_std > LARGEST_NOISE)
    if rows is None or not suspect.any():
        return np.asarray(suspect | large)
    # The optimum without record i is theta + H^-1 x r / (1 - x^T H^-1 x).
    chosen = rows[suspect]
    equations = history.equations()
    optimum = equations.optimum()
    design = history.design[chosen]
    spread = equations.solve(design.T)
    left = np.maximum(1 - np.einsum("ij,ji->i", design, spread), history.alpha / law.eigenvalues[-1])
    residual = np.linalg.norm(design @ optimum - history.targets[chosen], axis=1)
    length = float(np.linalg.norm(optimum, axis=0).max())
    without = length + np.linalg.norm(spread, axis=0) * residual / left
    suspect[suspect] = noise[suspect] < np.maximum(1.001 * RESOLUTION * (length + 2 * without), LEAST_NOISE)
    return np.asarray(suspect | large)


@dataclass
class QuoteTable:
    """Columns of a quote while they are filled."""

    noise_std: Array
    n_steps: NDArray[np.int64]
    mu: Array
    epsilon: Array
    error: Array
    certified: NDArray[np.bool_]
    direction: NDArray[np.str_]

    @classmethod
    def empty(cls, size: int) -> QuoteTable:
        """Return a table to be filled."""
        floats = [np.zeros(size) for _ in range(4)]
        noise, mu, epsilon, error = floats
        steps, certified = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=bool)
        return cls(noise, steps, mu, epsilon, error, certified, np.full(size, "", dtype="<U3"))

    @classmethod
    def joined(cls, parts: Sequence[QuoteTable]) -> QuoteTable:
        """Return one table of several."""
        return cls(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)))

    def chosen(self, places: NDArray[np.int64]) -> QuoteTable:
        """Return some rows, in the order given."""
        return QuoteTable(*(getattr(self, one.name)[places] for one in fields(self)))

    def quote(self, ids: Any, claim: Claim) -> Quote:
        """Return the quote of these rows, named."""
        return Quote(
            indices=ids,
            **vars(self),
            method=claim.method,
            target_epsilon=claim.epsilon,
            target_delta=claim.asked,
            unit=claim.unit,
        )


def _ask(
    history: History,
    table: QuoteTable,
    i: int,
    rows: Sequence[int],
    claim: Claim,
    bounds: Mapping[int, UniformBound] | None,
) -> None:
    """Fill one row of a quote with the certificate's own algebra."""
    uniform = None if not bounds else bounds[len(rows)]
    target: dict[str, Any] = {"method": claim.method, "epsilon": claim.epsilon, "delta": claim.delta}
    cost = DeletionCost(history, rows, **target, uniform=uniform)
    try:
        if claim.noise_std is None:
            assert claim.n_steps is not None
            noise, steps = cost.smallest_noise(claim.n_steps, start=claim.start), claim.n_steps
        else:
            noise, steps = _with_fewest_steps(cost, claim.noise_std)
    except (LostNoiseError, SingularPairError):  # an earlier phase's noise, or no proof: it cannot be certified
        noise, steps = math.inf, claim.n_steps or -1
    if math.isfinite(noise):
        claim.start = noise or claim.start
    table.noise_std[i], table.n_steps[i] = noise, steps
    table.mu[i], table.epsilon[i], table.direction[i] = cost.reached(steps, noise)
    table.certified[i] = math.isfinite(noise)


def _with_fewest_steps(cost: DeletionCost, noise_std: float) -> tuple[float, int]:
    """Return noise and steps of a deletion: 0 of either if none is needed, ``inf`` and -1 if none suffices."""
    steps = cost.smallest_steps(noise_std)
    if steps == 0:
        return 0.0, 0
    if steps is None or noise_std < cost.floor(steps):
        return math.inf, -1
    return noise_std, steps
