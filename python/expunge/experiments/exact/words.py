"""Sentences of the experiment on exact costs, which say no more than the intervals do."""

from __future__ import annotations

from typing import Any

from expunge.experiments.exact.settings import ExactSettings

__all__ = ["all_words"]

_CHOSEN = {"ranked": "sets from low to high privacy loss", "random": "random sets"}


def all_words(settings: ExactSettings, found: dict[str, Any], *, n_seeds: int) -> list[str]:
    """Return the sentences of the page."""
    s, costs = settings, found["costs"]
    runs = "one run" if n_seeds == 1 else f"the mean of {n_seeds} runs"
    words = [
        f"{costs['n']} records of {s.data}, ({s.epsilon:g}, {s.delta:g}): the exact noise for {s.unlearn_steps} steps "
        "is "
        f"{_short(costs['quantiles_5_50_95_100']['noise'][1])} for the median record and "
        f"{_short(costs['quantiles_5_50_95_100']['noise'][3])} for the costliest; {costs['need_no_noise']} need none, "
        f"{costs['need_no_noise_strict']} at epsilon {s.strict_epsilon:g}. "
        f"Largest relative error {_short(costs['largest_error'])}. Measures of a run are those of {runs}."
    ]
    for truth in dict.fromkeys(row["truth"] for row in found["measures"]):
        rows = [row for row in found["measures"] if row["truth"] == truth]
        words += [_order(truth, rows), *_above(truth, rows), _against(truth, rows), _top(truth, rows)]
    words += _laws(found["laws"])
    words += _sets(found.get("sets", []), found.get("set_ratios", []))
    words += _head(found.get("head", []))
    return words


def _short(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2g}"


def _order(truth: str, rows: list[dict[str, Any]]) -> str:
    known = [row for row in rows if row["rank_correlation"] is not None]
    if not known:
        return f"Exact {truth}: all records cost the same; there is no ranking to agree with."
    known.sort(key=lambda row: -row["rank_correlation"])
    return f"Rank correlation with the exact {truth}: " + ", ".join(
        f"{row['label']} {row['rank_correlation']:.3f} ({row['interval'][0]:.3f} to {row['interval'][1]:.3f})"
        for row in known
    ) + "."  # fmt: skip


def _above(truth: str, rows: list[dict[str, Any]]) -> list[str]:
    """Return the ranking of those that cost something, where a tenth and more cost nothing."""
    known = [row for row in rows if row["rank_correlation_above_0"] is not None]
    n = rows[0]["n_above_0"]
    if not known or 10 * n > 9 * rows[0]["n"]:
        return []
    known.sort(key=lambda row: -row["rank_correlation_above_0"])
    return [
        f"Among the {n} records with exact {truth} above 0: " + ", ".join(
            f"{row['label']} {row['rank_correlation_above_0']:.3f} "
            f"({row['interval_above_0'][0]:.3f} to {row['interval_above_0'][1]:.3f})" for row in known
        ) + "."
    ]  # fmt: skip


def _against(truth: str, rows: list[dict[str, Any]]) -> str:
    others = [row for row in rows if row["measure"] != "influence" and row["influence_more_interval"][0] is not None]
    better = [row["label"] for row in others if row["influence_more_interval"][0] > 0.0]
    worse = [row["label"] for row in others if row["influence_more_interval"][1] < 0.0]
    told = [row["label"] for row in others if row["label"] not in (*better, *worse)]
    parts = []
    if better:
        parts.append(f"agrees better than {', '.join(better)}")
    if worse:
        parts.append(f"agrees worse than {', '.join(worse)}")
    if told:
        parts.append(f"cannot be told from {', '.join(told)}")
    return f"Influence against the others, exact {truth}, by 95% intervals of the difference: it {'; '.join(parts)}."


def _top(truth: str, rows: list[dict[str, Any]]) -> str:
    first = rows[0]
    size, chance, high = first["top_size"], first["top_by_chance"], first["top_chance_high"]
    shares = ", ".join(
        f"{row['label']} {row['top_common']:.0f}" if float(row["top_common"]).is_integer() else
        f"{row['label']} {row['top_common']:.1f}" for row in sorted(rows, key=lambda row: -row["top_common"])
    )  # fmt: skip
    return (
        f"Of the {size} records with the largest exact {truth}, the top {size} of each measure hold: {shares}. Chance "
        f"gives {chance:.2g} on average, at most {high} in 97.5% of cases."
    )


def _laws(rows: list[dict[str, Any]]) -> list[str]:
    words = []
    for row in rows:
        if row["measure"] not in ("privacy_loss", "influence") or row["records"] != "all":
            continue
        low, high = row["margin_interval"]
        shares = ", ".join(f"{law} {row[f'r_squared_{law}']:.2f}" for law in ("linear", "log", "power"))
        verdict = (
            f"the {row['best']} law predicts best" if low > 0.0
            else f"the {row['best']} and the {row['second']} law cannot be told apart"
        )  # fmt: skip
        words.append(
            f"Exact {row['truth']} from {row['label']}, {row['n']} records, R^2 on held-out ones: "
            f"{shares}; {verdict} (margin {row['margin']:.3f}, 95% interval {low:.3f} to {high:.3f})."
        )
    return words


def _sets(rows: list[dict[str, Any]], ratios: list[dict[str, Any]]) -> list[str]:
    words = []
    for size in dict.fromkeys(row["size"] for row in rows):
        own = sorted(
            (row for row in rows if row["size"] == size and row["rank_correlation"] is not None),
            key=lambda row: -row["rank_correlation"],
        )
        if own:
            shares = ", ".join(
                f"{row['label']} {row['rank_correlation']:.2f} ({row['interval'][0]:.2f} to {row['interval'][1]:.2f})"
                for row in own
            )
            words.append(f"Sets of {size} ({own[0]['n_sets']} sets), rank correlation with the exact noise: {shares}.")
    for row in ratios:
        of_sum, of_largest = _three(row["noise_over_sum"]), _three(row["noise_over_largest"])
        words.append(
            f"{row['n_sets']} {_CHOSEN[row['chosen']]}, {row['size']} records each: the exact noise is {of_sum} "
            f"times the sum of the records' own, and {of_largest} times the largest (median, quartiles)."
        )
    return words


def _three(values: list[float]) -> str:
    return f"{_short(values[1])} ({_short(values[0])} to {_short(values[2])})"


def _head(rows: list[dict[str, Any]]) -> list[str]:
    words = []
    for truth in dict.fromkeys(row["truth"] for row in rows):
        own = [row for row in rows if row["truth"] == truth]
        known = sorted(
            (row for row in own if row["rank_correlation"] is not None), key=lambda row: -row["rank_correlation"]
        )
        if not known:
            words.append(f"Softmax head, {truth}: the same for all {own[0]['n']} records.")
            continue
        shares = ", ".join(
            f"{row['label']} {row['rank_correlation']:.3f} ({row['interval'][0]:.3f} to {row['interval'][1]:.3f})"
            for row in known
        )
        some = f", {own[0]['distinct']} distinct values" if own[0]["distinct"] < 10 else ""
        words.append(f"Softmax head, {truth} of {own[0]['n']} records{some}: rank correlation with {shares}.")
    return words
