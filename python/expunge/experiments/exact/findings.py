"""Findings of the experiment on exact costs: numbers, words and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expunge._types import Float64
from expunge.experiments.exact.agreement import held_out, overlap, rank_correlations
from expunge.experiments.exact.measures import CLOSED, NAMES, OF_RUN
from expunge.experiments.exact.pictures import plot_agreement, plot_head, plot_records, plot_sets, plot_steps
from expunge.experiments.exact.settings import ExactSettings
from expunge.experiments.exact.words import all_words
from expunge.experiments.tables import finite

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["HEAD_MEASURES", "HEAD_TRUTHS", "SET_PREDICTORS", "findings"]

SET_PREDICTORS = {
    "influence": "influence of the set",
    "shifted_noise": "shifted bound of the set",
    "sum_influence": "sum of influences",
    "max_influence": "largest influence",
    "sum_noise": "sum of exact noises",
    "max_noise": "largest exact noise",
    "sum_privacy_loss": "sum of privacy losses",
    "max_privacy_loss": "largest privacy loss",
}
HEAD_MEASURES = {
    "influence": "influence",
    "grad_norm": "gradient norm",
    "el2n": "EL2N",
    "loss": "loss",
    "leverage": "leverage",
}
HEAD_TRUTHS = {
    "distance": "distance of optima (refitted)",
    "one_step_noise": "noise after one step (refitted)",
    "passes": "passes (counted)",
    "one_step_noise_bound": "noise after one step (bound)",
    "sensitivity_bound": "distance of optima (bound)",
}
_LEVEL = [0.025, 0.975]


def findings(
    settings: ExactSettings, rows: Sequence[dict[str, Any]], *, n_seeds: int
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Return the findings, in numbers and words, and the pictures."""
    s = settings
    records = sorted(_of(rows, "record"), key=lambda row: row["record"])
    truths = {"noise": column(records, "noise"), _strict(s): column(records, "strict_noise")}
    steps = np.array([[np.inf if one is None else one for one in row["steps"]] for row in records])
    truths |= {f"steps at noise {level:g}": steps[:, k] for k, level in enumerate(s.noise_stds)}
    closed = {name: column(records, name) for name in CLOSED}
    runs = [_run(rows, seed) for seed in range(n_seeds)]
    measured = [{**run, **closed} for run in runs]
    table = [one for name, truth in truths.items() for one in _agreement(s, name, truth, measured)]
    laws = [one for name, truth in truths.items() for one in _laws(s, name, truth, measured[0])]
    sets, ratios = _sets(s, _of(rows, "set"))
    head = _head(s, _of(rows, "head"), _of(rows, "refit"))
    costs = _costs(records, truths)
    found: dict[str, Any] = {"costs": costs, "measures": table, "laws": laws}
    if sets:
        found |= {"sets": sets, "set_ratios": ratios}
    if head:
        found["head"] = head
    middle = s.noise_stds[len(s.noise_stds) // 2]
    steps_there = f"steps at noise {middle:g}"
    figures = {
        "records.png": plot_records(truths["noise"], measured[0]),
        "agreement.png": plot_agreement(table, ["noise", _strict(s), steps_there]),
        "steps.png": plot_steps(truths[steps_there], measured[0], laws, noise_std=middle),
    }
    if sets:
        figures["sets.png"] = plot_sets(_of(rows, "set"))
    if head:
        figures["head.png"] = plot_head(_of(rows, "head"), _of(rows, "refit"))
    return {"words": all_words(s, found, n_seeds=n_seeds), **found}, figures


def _strict(s: ExactSettings) -> str:
    return f"noise at epsilon {s.strict_epsilon:g}"


def _of(rows: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["kind"] == kind]


def column(rows: Sequence[dict[str, Any]], name: str) -> Float64:
    """Return a column, infinite where a row has None."""
    return np.array([np.inf if row[name] is None else row[name] for row in rows], dtype=np.float64)


def _run(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Float64]:
    own = sorted((row for row in _of(rows, "measures") if row["seed"] == seed), key=lambda row: row["record"])
    return {name: column(own, name) for name in OF_RUN}


def _interval(samples: Float64) -> list[float | None]:
    """Return the 95% interval of bootstrap samples, of which some may have no correlation."""
    known = samples[np.isfinite(samples)]
    if not known.size:
        return [None, None]
    return [float(one) for one in np.quantile(known, _LEVEL)]


def _agreement(
    s: ExactSettings, name: str, truth: Float64, measured: Sequence[dict[str, Float64]]
) -> list[dict[str, Any]]:
    """Compare every measure with one truth, a mean over seeds for those of a run."""
    per_seed, samples = _by_seed(s, measured, truth)
    above = truth > 0.0  # where most cost nothing, ties hide how well the others are ranked
    apart, apart_samples = _by_seed(s, [{name: run[name][above] for name in NAMES} for run in measured], truth[above])
    reference = list(NAMES).index("influence")
    rows = []
    for k, (measure, label) in enumerate(NAMES.items()):
        tops = [overlap(run[measure], truth, size=s.n_top) for run in measured]
        rows.append(
            {
                "truth": name,
                "measure": measure,
                "label": label,
                "rank_correlation": finite(per_seed[:, k].mean()),
                "interval": _interval(samples[:, k]),
                "per_seed": [finite(one) for one in per_seed[:, k]] if measure in OF_RUN else None,
                "n": len(truth),
                "n_above_0": int(np.count_nonzero(above)),
                "rank_correlation_above_0": finite(apart[:, k].mean()),
                "interval_above_0": _interval(apart_samples[:, k]),
                "influence_more_by": finite(per_seed[:, reference].mean() - per_seed[:, k].mean()),
                "influence_more_interval": _interval(samples[:, reference] - samples[:, k]),
                "top_common": float(np.mean([top.common for top in tops])),
                "top_size": tops[0].size,
                "top_by_chance": tops[0].by_chance,
                "top_chance_high": tops[0].chance_high,
            }
        )
    return rows


def _by_seed(s: ExactSettings, measured: Sequence[dict[str, Float64]], truth: Float64) -> tuple[Float64, Float64]:
    """Return correlations of each seed and measure, and bootstrap samples of their means over seeds."""
    columns = np.column_stack([*(run[name] for run in measured for name in OF_RUN), *(measured[0][n] for n in CLOSED)])
    found, samples = rank_correlations(columns, truth, n_resamples=s.n_resamples)
    table, split = np.vstack([found, samples]), len(measured) * len(OF_RUN)
    of_runs = table[:, :split].reshape(len(table), len(measured), len(OF_RUN))
    closed = np.broadcast_to(table[:, np.newaxis, split:], (len(table), len(measured), len(CLOSED)))
    every = np.concatenate([of_runs, closed], axis=2)
    return every[0], every[1:].mean(axis=1)


def _laws(s: ExactSettings, name: str, truth: Float64, measured: dict[str, Float64]) -> list[dict[str, Any]]:
    """Return how well laws in each measure (of the first seed) predict a cost on records left out of the fit."""
    rows = []
    for records, chosen in (("all", truth >= 0.0), ("cost above 0", truth > 0.0)):
        for measure, label in NAMES.items():
            if measure == "random":
                continue
            found = held_out(measured[measure][chosen], truth[chosen], n_resamples=s.n_resamples)
            if found is None:
                continue
            rows.append(
                {
                    "truth": name,
                    "measure": measure,
                    "label": label,
                    "records": records,
                    **{f"r_squared_{law}": value for law, value in found.r_squared.items()},
                    "best": found.best,
                    "second": found.second,
                    "margin": found.margin,
                    "margin_interval": list(found.margin_interval),
                    "n": found.n,
                }
            )
    return rows


def _sets(s: ExactSettings, rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    table, ratios = [], []
    for size in dict.fromkeys(row["size"] for row in rows):
        own = [row for row in rows if row["size"] == size]
        noise = column(own, "noise")
        columns = np.column_stack([column(own, name) for name in SET_PREDICTORS])
        found, samples = rank_correlations(columns, noise, n_resamples=s.n_resamples)
        for k, (name, label) in enumerate(SET_PREDICTORS.items()):
            table.append(
                {
                    "size": size,
                    "n_sets": len(own),
                    "measure": name,
                    "label": label,
                    "rank_correlation": finite(found[k]),
                    "interval": _interval(samples[:, k]),
                }
            )
        for how in ("ranked", "random"):
            some = [row for row in own if row["chosen"] == how and row["noise"] and row["sum_noise"]]
            to_sum = [row["noise"] / row["sum_noise"] for row in some]
            to_max = [row["noise"] / row["max_noise"] for row in some]
            if some:
                ratios.append(
                    {
                        "size": size,
                        "chosen": how,
                        "n_sets": len(some),
                        "noise_over_sum": _spread(to_sum),
                        "noise_over_largest": _spread(to_max),
                    }
                )
    return table, ratios


def _spread(values: Sequence[float]) -> list[float]:
    """Return the quartiles."""
    return [float(one) for one in np.quantile(values, [0.25, 0.5, 0.75])]


def _head(s: ExactSettings, rows: Sequence[dict[str, Any]], refits: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    if not rows:
        return []
    by_record = {row["record"]: row for row in rows}
    own = [by_record[row["record"]] for row in refits]
    table = []
    for name, label in HEAD_TRUTHS.items():
        counted = name in refits[0]
        truth, some = (column(refits, name), own) if counted else (column(rows, name), rows)
        columns = np.column_stack([column(some, measure) for measure in HEAD_MEASURES])
        found, samples = rank_correlations(columns, truth, n_resamples=s.n_resamples)
        for k, (measure, words) in enumerate(HEAD_MEASURES.items()):
            table.append(
                {
                    "truth": label,
                    "measure": measure,
                    "label": words,
                    "rank_correlation": finite(found[k]),
                    "interval": _interval(samples[:, k]),
                    "n": len(truth),
                    "distinct": int(np.unique(truth).size),
                }
            )
    return table


def _costs(records: Sequence[dict[str, Any]], truths: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Return how the exact costs spread, and the largest error they come with."""
    quantiles = {
        name: [finite(one) for one in np.quantile(values, [0.05, 0.5, 0.95, 1.0], method="inverted_cdf")]
        for name, values in truths.items()
    }
    return {
        "n": len(records),
        "need_no_noise": int(np.count_nonzero(truths["noise"] == 0.0)),
        "need_no_noise_strict": int(np.count_nonzero(list(truths.values())[1] == 0.0)),
        "quantiles_5_50_95_100": quantiles,
        "largest_error": finite(column(records, "error").max()),
    }
