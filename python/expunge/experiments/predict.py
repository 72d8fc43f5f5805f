"""Experiment (a): whether the average privacy loss of a forget set predicts how long it takes to unlearn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.experiments.laws import held_out
from expunge.experiments.measuring import left_again, measure_sets, memorised, passes_of, ulira_of
from expunge.experiments.pictures import plot_curves, plot_prediction
from expunge.experiments.power import detectable, detectable_words
from expunge.experiments.settings import Settings
from expunge.experiments.shared import (
    pilot_names,
    pilot_scores,
    retrained_name,
    run_pilot,
    run_retrained,
)
from expunge.experiments.subjects import Subject, load
from expunge.experiments.tables import finite, mean_interval, rank_correlation, spread_words
from expunge.experiments.work import NETWORK_LIMITS, NetworkContext
from expunge.experiments.yardsticks import YARDSTICKS, told_yardstick
from expunge.forget_sets import ForgetSet, quantile_forget_set

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "LIMITS",
    "QUESTION",
    "SETTINGS",
    "TITLE",
    "TRAINS",
    "findings",
    "load",
    "noise_levels",
    "parts",
    "power",
    "preparations",
    "prepare",
    "work",
]

TITLE = "Does privacy loss predict the time to unlearn?"
QUESTION = (
    "Networks trained to memorise their records unlearn forget sets, fixed beforehand from the lowest to the highest "
    "privacy losses of pilot runs, by fine-tuning on the other records with the noise of training, until a metric of "
    "the set is where models retrained without it are."
)
LIMITS = NETWORK_LIMITS
SETTINGS = Settings
TRAINS = True
RANKED = ("gap", "left", *YARDSTICKS)


def noise_levels(settings: Settings) -> tuple[float, ...]:
    """Return the noise levels that are trained with."""
    return settings.noise_stds


def parts(settings: Settings, seed: int) -> list[str]:
    """Return the pieces of a run: all sets are unlearned together."""
    return ["sets"]


def power(settings: Settings, n_seeds: int) -> str:
    """Say beforehand which mean rank correlation these seeds can see."""
    # The variance of a rank correlation of n independent pairs is 1 / (n - 1), whatever their laws.
    std = 1.0 / np.sqrt(settings.n_sets - 1)
    return detectable_words(n_seeds, std=std, what="a mean rank correlation", unit="", most=1.0)


def preparations(settings: Settings) -> list[list[str]]:
    """Return the work that seeds share, stage by stage."""
    return [
        pilot_names(settings),
        [retrained_name(noise, f"set{k}") for noise in settings.noise_stds for k in range(settings.n_sets)],
    ]


def prepare(context: NetworkContext, subject: Subject, name: str) -> None:
    """Do a piece of the work that seeds share."""
    if name.startswith("pilot"):
        return run_pilot(context, subject, name)
    for noise in context.settings.noise_stds:
        for part, forget in _sets(context).items():
            if name == retrained_name(noise, part):
                return run_retrained(context, subject, name, forget, noise_std=noise)
    raise KeyError(name)


def _sets(context: NetworkContext) -> dict[str, ForgetSet]:
    """Return the forget sets: middles spread evenly over the ranks, the first and the last set at the ends."""
    s, losses = context.settings, pilot_scores(context)["privacy_loss"]
    lows = [k / (s.n_sets - 1) * (1.0 - s.set_share) for k in range(s.n_sets)]
    return {
        f"set{k}": quantile_forget_set(losses, low=low, high=min(1.0, low + s.set_share), score_name="privacy_loss")
        for k, low in enumerate(lows)
    }


def work(context: NetworkContext, subject: Subject, part: str, *, seed: int, noise_std: float) -> list[dict[str, Any]]:
    """Measure all sets on one trained model."""
    losses, sets = pilot_scores(context)["privacy_loss"], _sets(context)
    low, high = np.quantile(losses, [0.05, 0.95])
    rows = measure_sets(context, subject, sets, seed=seed, noise_std=noise_std)
    return [
        {
            "set": k,
            "privacy_loss": float(losses[sets[name].indices].mean()),
            "run_privacy_loss_q05": float(low),
            "run_privacy_loss_q95": float(high),
            **row,
        }
        for k, (name, row) in enumerate(rows.items())
    ]


# --- findings ----------------------------------------------------------------------------------------


def findings(
    settings: Settings, rows: Sequence[dict[str, Any]], *, n_seeds: int
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Return the findings, in numbers and words, and the pictures."""
    levels: list[dict[str, Any]] = []
    sets: list[dict[str, Any]] = []
    laws: list[dict[str, Any]] = []
    words: list[str] = []
    for noise in settings.noise_stds:
        some = [row for row in rows if row["noise_std"] == noise]
        found = [_ranking(settings, some, what, n_seeds) for what in RANKED]
        told = [_laws(settings, some, what) for what in YARDSTICKS]
        levels += [{"noise_std": noise, **one} for one in found]
        laws += [{"noise_std": noise, **one} for one in told if one]
        sets += [{"noise_std": noise, **_set(settings, some, k)} for k in range(settings.n_sets)]
        words += _words(settings, noise, some, found, n_seeds)
        words += [_law_words(settings, noise, one, n_seeds) for one in told if one]
    flat = spread_words([rows[0]["run_privacy_loss_q05"], rows[0]["run_privacy_loss_q95"]])
    figures = {
        "time_to_unlearn.png": plot_prediction(rows, settings),
        "curves.png": plot_curves(
            [row for row in rows if row["seed"] == 0 and row["noise_std"] == settings.noise_std],
            settings,
            name=lambda row: f"privacy loss {_short(row['privacy_loss'])}",
            title=f"Unlearning sets of low to high privacy loss (seed 0, noise {settings.noise_std:g}; estimates)",
        ),
    }
    return {
        "words": words + ([flat] if flat else []),
        "levels": levels,
        "forget_sets": sets,
        "law_errors": laws,
    }, figures


def _value(row: dict[str, Any], what: str) -> float:
    """Return what is ranked; of a gap that was none, nothing is left."""
    if what == "gap":  # of a loss the trained model has less
        return abs(float(row["gap"]))
    if what == "left":
        return float(row["share_left"] or 0.0)
    return passes_of(row, what)


def _ranking(settings: Settings, rows: list[dict[str, Any]], what: str, n_seeds: int) -> dict[str, Any]:
    by_seed = []
    for seed in range(n_seeds):
        own = [row for row in rows if row["seed"] == seed]
        by_seed.append(rank_correlation([row["privacy_loss"] for row in own], [_value(row, what) for row in own]))
    equal = sum(not np.isfinite(one) for one in by_seed)
    # Seeds whose sets all took equally long have no ranking. Left out, they would make the mean look better.
    counted = [one if np.isfinite(one) else 0.0 for one in by_seed]
    mean, low, high = mean_interval(counted) if equal < n_seeds else (np.nan, np.nan, np.nan)
    if n_seeds > 1:
        low, high = max(low, -1.0), min(high, 1.0)  # Student's t does not know where correlations end
    never = at_once = again = None
    if what in YARDSTICKS:
        never = sum(row[f"passes_{what}"] is None for row in rows)
        at_once = sum(row[f"passes_{what}"] == 0 for row in rows)
        again = sum(left_again(settings, row, what) for row in rows)
    return {
        "what": what,
        "asks": told_yardstick(what, settings),
        "n_runs": len(rows),
        "rank_correlation_mean": finite(mean),
        "rank_correlation_interval": [finite(low), finite(high)],
        "rank_correlation_per_seed": [finite(one) for one in by_seed],
        "seeds_without_ranking": equal,
        "never_reached": never,
        "reached_at_once": at_once,
        "left_again": again,
    }


def _set(settings: Settings, rows: list[dict[str, Any]], k: int) -> dict[str, Any]:
    """Return what there was to forget of one set, and how it went, over seeds."""
    some = [row for row in rows if row["set"] == k]
    left = [row["share_left"] for row in some if row["share_left"] is not None]
    found: dict[str, Any] = {
        "set": k,
        "privacy_loss": some[0]["privacy_loss"],
        "trained": float(np.mean([row["before"] for row in some])),
        "retrained": some[0]["retrained"],
        "retrained_std": some[0]["retrained_std"],
        "gap": float(np.mean([row["gap"] for row in some])),
        "share_left": float(np.mean(left)) if left else None,
        **{f"passes_{name}": float(np.median([passes_of(row, name) for row in some])) for name in YARDSTICKS},
        "mia_before": float(np.mean([row["curve_mia"][0] for row in some])),
        "mia_after": float(np.mean([row["curve_mia"][-1] for row in some])),
        "mia_retrained": some[0]["mia_retrained"],
    }
    return found | {f"ulira_{when}": ulira_of(some, when) for when in ("before", "early", "after")}


def _laws(settings: Settings, rows: list[dict[str, Any]], what: str) -> dict[str, Any] | None:
    seeds = sorted({row["seed"] for row in rows})
    times = np.full((len(seeds), settings.n_sets), np.nan)
    losses = np.zeros(settings.n_sets)
    for row in rows:
        losses[row["set"]] = row["privacy_loss"]
        if row[f"passes_{what}"] is not None:
            times[seeds.index(row["seed"]), row["set"]] = row[f"passes_{what}"]
    found = held_out(losses, times)
    return None if found is None else {"what": what, "asks": told_yardstick(what, settings), **found}


def _words(
    settings: Settings, noise: float, rows: list[dict[str, Any]], found: list[dict[str, Any]], n_seeds: int
) -> list[str]:
    trained = [row["train_accuracy"] for row in rows]
    easiest, hardest = (_set(settings, rows, k) for k in (0, settings.n_sets - 1))
    known = "memorised" if memorised(rows) else "not all memorised"
    words = [
        f"At noise {noise:g}: {known}, training accuracy {np.mean(trained):.3f} on average and {min(trained):.3f} at "
        f"least; {settings.metric} of the easiest set {easiest['trained']:.2f} trained and {easiest['retrained']:.2f} "
        f"retrained, of the hardest {hardest['trained']:.2f} and {hardest['retrained']:.2f}."
    ]
    for one in found:
        text = f"At noise {noise:g}, {one['asks']}: "
        mean, (low, high) = one["rank_correlation_mean"], one["rank_correlation_interval"]
        if mean is None:
            words.append(text + "the same for all sets in every seed; there is no ranking to compare.")
            continue
        text += f"rank correlation with privacy loss {mean:.2f}"
        if n_seeds == 1:
            text += "; one seed says nothing about chance"
        else:
            text += f" (95% interval over {n_seeds} seeds: {low:.2f} to {high:.2f})"
            if low <= 0.0 <= high:
                counted = [value or 0.0 for value in one["rank_correlation_per_seed"]]
                seen = detectable(n_seeds, std=float(np.std(counted, ddof=1)))
                text += "; no ranking can be told; "
                whole = f"a mean of {seen:.2f} could have been, four times in five"
                text += whole if seen <= 1.0 else "seeds that differ so much are too few to tell any"
        if one["seeds_without_ranking"]:
            text += f"; in {one['seeds_without_ranking']} of {n_seeds} there is no ranking, which counts as 0"
        if one["never_reached"]:
            text += f"; {one['never_reached']} of {one['n_runs']} never arrived, which ranks last"
        if one["left_again"]:
            arrived = one["n_runs"] - one["never_reached"]
            text += f"; {one['left_again']} of the {arrived} that arrived were outside again later"
        words.append(text + ".")
    return words


def _law_words(settings: Settings, noise: float, one: dict[str, Any], n_seeds: int) -> str:
    errors = ", ".join(f"{law} {one[law]:.3g}" for law in ("log", "linear", "power", "constant"))
    text = f"At noise {noise:g}, {one['asks']}: mean errors on sets left out of the fit, in passes: {errors}"
    if one["left_out"]:
        text += f" ({one['left_out']} runs that never arrived are left out)"
    if n_seeds == 1:
        return text + "."
    low, high = one["interval"]
    verdict = f"{one['best']} is best" if one["told"] else f"{one['best']} and {one['second']} cannot be told apart"
    return text + f"; {verdict} (the errors differ by {one['margin']:.2g}, {low:.2g} to {high:.2g})."


def _short(value: float) -> str:
    return f"{value:,.0f}" if 100.0 <= value < 1e7 else f"{value:.2g}"
