"""Findings of the experiment on noise and accuracy: numbers, words and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge._types import Float64
from expunge.experiments.certify.pictures import LEAST_DRAWN, plot_accuracy, plot_noise
from expunge.experiments.certify.settings import CertifySettings
from expunge.experiments.power import seen_by
from expunge.experiments.tables import finite, mean_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ROUTES", "findings"]

# The status of each route's noise.
ROUTES = {"uniform": "certified", "shifted": "certified", "exact": "estimate", "residual": "certified"}


def findings(
    settings: CertifySettings, rows: Sequence[dict[str, Any]], *, n_seeds: int
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Return the findings, in numbers and words, and the pictures."""
    s = settings
    records = [row for row in rows if row["kind"] == "record"]
    answers = [row for row in rows if row["kind"] == "accuracy"]
    before = mean_interval([row["before"] for row in rows if row["kind"] == "split"])
    routes = [_route(records, route, n_seeds) for route in ROUTES]
    points = [_point(s, answers, point, epsilon) for epsilon in s.epsilons for point in range(s.n_points)]
    uniform = [_uniform(answers, epsilon, n_seeds) for epsilon in s.epsilons]
    gains = [_gain(answers, epsilon, point, n_seeds) for epsilon in s.epsilons for point in (0, s.n_points - 1)]
    found: dict[str, Any] = {
        "accuracy_before": {"mean": before[0], "interval": [finite(before[1]), finite(before[2])]},
        "routes": routes,
        "points": points,
        "uniform": uniform,
        "gains": gains,
    }
    first = sorted((row for row in records if row["seed"] == 0), key=lambda row: row["rank"])
    figures = {
        "noise.png": plot_noise(first, s),
        "accuracy.png": plot_accuracy(points, uniform, before[0], s),
    }
    return {"words": _words(s, found, n_seeds), **found}, figures


def _values(rows: Sequence[dict[str, Any]], name: str) -> Float64:
    return np.array([np.inf if row[name] is None else row[name] for row in rows], dtype=np.float64)


def _route(records: Sequence[dict[str, Any]], route: str, n_seeds: int) -> dict[str, Any]:
    """Return what a route asks of all records, as means over splits, and its share of the worst case's noise."""
    own = [[row for row in records if row["seed"] == seed] for seed in range(n_seeds)]
    noise = np.array([np.quantile(_values(one, route), [0.0, 0.5, 1.0], method="inverted_cdf") for one in own])
    worst = np.array([_values(one, "uniform").max() for one in own])
    with np.errstate(invalid="ignore"):
        share, low, high = mean_interval(noise[:, 1] / worst)
    values = [_values(one, route) for one in own]
    none = [int(np.count_nonzero(one == 0.0)) for one in values]
    next_to = [int(np.count_nonzero((one > 0.0) & (one < LEAST_DRAWN))) for one in values]
    return {
        "route": route,
        "status": ROUTES[route],
        "easiest": finite(noise[:, 0].mean()),
        "median": finite(noise[:, 1].mean()),
        "hardest": finite(noise[:, 2].mean()),
        "need_none": float(np.mean(none)),
        "need_next_to_none": float(np.mean(next_to)),
        "n": len(own[0]),
        "median_of_uniform": finite(share),
        "median_of_uniform_interval": [finite(low), finite(high)],
    }


def _mean(values: Float64) -> dict[str, Any]:
    """Return a mean over splits and its interval; None where a split has no value."""
    if not np.isfinite(values).all():
        return {"mean": None, "interval": [None, None]}
    mean, low, high = mean_interval(values)
    return {"mean": mean, "interval": [finite(low), finite(high)]}


def _point(s: CertifySettings, answers: Sequence[dict[str, Any]], point: int, epsilon: float) -> dict[str, Any]:
    own = [row for row in answers if row["point"] == point and row["epsilon"] == epsilon]
    result: dict[str, Any] = {"epsilon": epsilon, "point": point, "rank": own[0]["rank"] / (s.n_train - 1)}
    for route in ROUTES:
        accuracy = _mean(_values(own, f"accuracy_{route}"))
        result |= {
            route: finite(_values(own, route).mean()),
            f"accuracy_{route}": accuracy["mean"],
            f"accuracy_{route}_interval": accuracy["interval"],
        }
    return result


def _by_split(answers: Sequence[dict[str, Any]], epsilon: float, name: str, n_seeds: int) -> Float64:
    """Return the mean over the records of each split."""
    own = [row for row in answers if row["epsilon"] == epsilon]
    return np.array([_values([row for row in own if row["seed"] == seed], name).mean() for seed in range(n_seeds)])


def _uniform(answers: Sequence[dict[str, Any]], epsilon: float, n_seeds: int) -> dict[str, Any]:
    """Return the accuracy that the worst case's noise leaves, over the records that are followed."""
    accuracy = _mean(_by_split(answers, epsilon, "accuracy_uniform", n_seeds))
    return {
        "epsilon": epsilon,
        "noise": finite(_by_split(answers, epsilon, "uniform", n_seeds).mean()),
        "accuracy": accuracy["mean"],
        "interval": accuracy["interval"],
    }


def _gain(answers: Sequence[dict[str, Any]], epsilon: float, point: int, n_seeds: int) -> dict[str, Any]:
    """Return how much accuracy the exact noise of a record leaves above the worst case's, for the same deletion."""
    own = [row for row in answers if row["epsilon"] == epsilon and row["point"] == point]
    with np.errstate(invalid="ignore"):
        differences = _values(own, "accuracy_exact") - _values(own, "accuracy_uniform")
    gain = _mean(differences)
    known = gain["mean"] is not None and n_seeds > 1
    seen = seen_by(float(differences.std(ddof=1)) / math.sqrt(n_seeds), n_seeds - 1) if known else None
    return {
        "epsilon": epsilon,
        "point": point,
        "gain": gain["mean"],
        "interval": gain["interval"],
        "could_be_seen": seen,
    }


# --- words -------------------------------------------------------------------------------------------


def _short(value: float | None) -> str:
    return "none that would do" if value is None else f"{value:.2g}"


def _words(s: CertifySettings, found: dict[str, Any], n_seeds: int) -> list[str]:
    splits = "one split" if n_seeds == 1 else f"means over {n_seeds} splits"
    words = [
        f"{s.n_train} records of {s.data}, ({s.epsilon:g}, {s.delta:g}) after {s.unlearn_steps} steps, {splits}: "
        f"accuracy before any deletion {found['accuracy_before']['mean']:.3f} on {s.n_test} test records."
    ]
    for row in found["routes"]:
        none = f"; {row['need_none']:g} of {row['n']} need none" if row["need_none"] else ""
        if row["need_next_to_none"]:
            none += f", {row['need_next_to_none']:g} less than {LEAST_DRAWN:g}"
        words.append(
            f"Noise by the {row['route']} route ({row['status']}): {_short(row['easiest'])} for the record that needs "
            f"least, {_short(row['median'])} for the median, {_short(row['hardest'])} for the one that needs "
            f"most{none}."
        )
    for row in found["gains"]:
        what = "easiest" if row["point"] == 0 else "hardest"
        words.append(_gain_words(row, what, n_seeds))
    if n_seeds > 1:
        words.append("Intervals of 95% over splits of the same records, not corrected for their number.")
    return words


def _gain_words(row: dict[str, Any], what: str, n_seeds: int) -> str:
    start = f"Epsilon {row['epsilon']:g}, the {what} record"
    if row["gain"] is None:
        return f"{start}: one of the two routes can certify nothing, so that accuracies cannot be compared."
    text = f"{start}: its exact noise leaves {100 * row['gain']:+.2f} points of accuracy against the uniform noise"
    if n_seeds == 1:
        return text + "."
    low, high = (100 * one for one in row["interval"])
    if low > 0.0 or high < 0.0:
        return f"{text} ({low:+.2f} to {high:+.2f})."
    seen = 100 * row["could_be_seen"]
    return (
        f"{text} ({low:+.2f} to {high:+.2f}): no difference can be told, where {seen:.2g} points could have been seen "
        "with a probability of 80%."
    )
