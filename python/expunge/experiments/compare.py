"""Experiment (b): whose top records take longest to forget, those of privacy loss or of another measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.experiments.measuring import measure_sets, memorised, ulira_of
from expunge.experiments.pictures import plot_comparison, plot_curves
from expunge.experiments.power import detectable, detectable_words
from expunge.experiments.settings import Settings
from expunge.experiments.shared import pilot_names, pilot_scores, retrained_name, run_pilot, run_retrained
from expunge.experiments.subjects import Subject, load
from expunge.experiments.tables import finite, mean_interval, spread_words
from expunge.experiments.work import NETWORK_LIMITS, NetworkContext, seed_of
from expunge.experiments.yardsticks import YARDSTICKS, told_yardstick
from expunge.forget_sets import ForgetSet, random_forget_set, top_forget_set

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "LIMITS",
    "NAMES",
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

TITLE = "Whose hardest records take longest to forget?"
QUESTION = (
    "The records that a measure ranks highest in pilot runs are unlearned by noisy fine-tuning on all others, from "
    "networks that have memorised them, until a metric of the set is where models retrained without it are. The "
    "measure whose records take longest found the hardest."
)
LIMITS = NETWORK_LIMITS
SETTINGS = Settings
TRAINS = True
NAMES = {
    "privacy_loss": "privacy loss",
    "average_grad_norm": "average gradient norm",
    "c_proxy": "C-proxy (lowest)",
    "el2n": "EL2N",
    "random": "random records",
}


def noise_levels(settings: Settings) -> tuple[float, ...]:
    """Return the one noise level."""
    return (settings.noise_std,)


def parts(settings: Settings, seed: int) -> list[str]:
    """Return the pieces of a run: the sets of all measures are unlearned together."""
    return ["measures"]


def power(settings: Settings, n_seeds: int) -> str:
    """Say beforehand which difference of two measures these seeds can see."""
    std = settings.assumed_passes_std
    return detectable_words(n_seeds, std=std, what="a mean difference of two measures", unit=" passes")


def preparations(settings: Settings) -> list[list[str]]:
    """Return the work that seeds share, stage by stage."""
    return [pilot_names(settings), [retrained_name(settings.noise_std, name) for name in NAMES]]


def prepare(context: NetworkContext, subject: Subject, name: str) -> None:
    """Do a piece of the work that seeds share."""
    if name.startswith("pilot"):
        return run_pilot(context, subject, name)
    noise = context.settings.noise_std
    (forget,) = (one for part, one in chosen(context).items() if retrained_name(noise, part) == name)
    return run_retrained(context, subject, name, forget, noise_std=noise)


def chosen(context: NetworkContext) -> dict[str, ForgetSet]:
    """Return the top records of each measure, by its mean over the pilot runs."""
    s, scores = context.settings, pilot_scores(context)
    scores["c_proxy"] = -scores["c_proxy"]  # a low C-proxy is a hard record
    tops = {name: top_forget_set(scores[name], size=s.top_share, score_name=name) for name in NAMES if name in scores}
    return {**tops, "random": random_forget_set(n_records=s.n_train, size=s.top_share, seed=seed_of("random records"))}


def work(context: NetworkContext, subject: Subject, part: str, *, seed: int, noise_std: float) -> list[dict[str, Any]]:
    """Measure the sets of all measures on one trained model."""
    losses, sets = pilot_scores(context)["privacy_loss"], chosen(context)
    low, high = np.quantile(losses, [0.05, 0.95])
    rows = measure_sets(context, subject, sets, seed=seed, noise_std=noise_std)
    return [
        {
            "measure": name,
            "privacy_loss": float(losses[sets[name].indices].mean()),
            "shared_with_privacy_loss": int(np.isin(sets[name].indices, sets["privacy_loss"].indices).sum()),
            "run_privacy_loss_q05": float(low),
            "run_privacy_loss_q95": float(high),
            **row,
        }
        for name, row in rows.items()
    ]


# --- findings ----------------------------------------------------------------------------------------


def findings(
    settings: Settings, rows: Sequence[dict[str, Any]], *, n_seeds: int
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Return the findings, in numbers and words, and the pictures."""
    table = [_measure(settings, rows, measure) for measure in NAMES]
    order = sorted(table, key=lambda one: -one["share"]["mean"])
    words = [_gap_words(settings, rows, table)]
    for what in YARDSTICKS:
        words += _yardstick_words(settings, what, table, n_seeds)
    if n_seeds == 1:
        words.append("One seed says nothing about the order of the measures.")
    else:
        words.append(
            f"These are {len(YARDSTICKS) * (len(table) - 1)} intervals of 95%, not corrected for their number."
        )
    flat = spread_words([rows[0]["run_privacy_loss_q05"], rows[0]["run_privacy_loss_q95"]])
    figures = {
        "time_by_measure.png": plot_comparison(order, settings, n_seeds=n_seeds),
        "curves.png": plot_curves(
            [row for row in rows if row["seed"] == 0],
            settings,
            name=lambda row: NAMES[row["measure"]],
            title="Unlearning the top records of each measure (seed 0; estimates)",
        ),
    }
    return {"words": words + ([flat] if flat else []), "measures": table}, figures


def _measure(settings: Settings, rows: Sequence[dict[str, Any]], measure: str) -> dict[str, Any]:
    some = sorted((row for row in rows if row["measure"] == measure), key=lambda row: row["seed"])
    found: dict[str, Any] = {
        "measure": measure,
        "label": NAMES[measure],
        "shared_with_privacy_loss": some[0]["shared_with_privacy_loss"],
        "trained": float(np.mean([row["before"] for row in some])),
        "retrained": some[0]["retrained"],
        "retrained_std": some[0]["retrained_std"],
        "gap": float(np.mean([row["gap"] for row in some])),
        "share_left": float(np.mean([row["share_left"] or 0.0 for row in some])),
        "mia_before": float(np.mean([row["curve_mia"][0] for row in some])),
        "mia_after": float(np.mean([row["curve_mia"][-1] for row in some])),
        "mia_retrained": some[0]["mia_retrained"],
    }
    found |= {f"ulira_{when}": ulira_of(some, when) for when in ("before", "early", "after")}
    for what in YARDSTICKS:
        times = [_time(row, what) for row in some]
        mean, low, high = mean_interval(times)
        never = sum(row[f"passes_{what}"] is None for row in some)
        found[what] = {"mean": mean, "interval": [finite(low), finite(high)], "per_seed": times, "never": never}
        found |= {f"passes_{what}": mean, f"passes_{what}_interval": found[what]["interval"], f"never_{what}": never}
    return found


def _time(row: dict[str, Any], what: str) -> float:
    found = row[f"passes_{what}"]
    return float(row["most_passes"] if found is None else found)


def _gap_words(settings: Settings, rows: Sequence[dict[str, Any]], table: list[dict[str, Any]]) -> str:
    trained = [row["train_accuracy"] for row in rows]
    known = "memorised" if memorised(list(rows)) else "not all memorised"
    gaps = ", ".join(f"{one['label']} {one['trained']:.2f} and {one['retrained']:.2f}" for one in table)
    return (
        f"At noise {settings.noise_std:g}: {known}, training accuracy {np.mean(trained):.3f} on average; "
        f"{settings.metric} of the sets, trained and retrained: {gaps}."
    )


def _yardstick_words(settings: Settings, what: str, table: list[dict[str, Any]], n_seeds: int) -> list[str]:
    asks = told_yardstick(what, settings)
    asks = asks[0].upper() + asks[1:]
    order = sorted(table, key=lambda one: -one[what]["mean"])
    words = [f"{asks}, mean: " + ", ".join(f"{one['label']} {one[what]['mean']:.0f}" for one in order) + "."]
    if n_seeds > 1:
        words += [_pair(asks, what, table[0], other, n_seeds) for other in table[1:]]
    missed = [f"{one['label']} {one[what]['never']}" for one in table if one[what]["never"]]
    if missed:
        words.append(
            f"{asks}: of {n_seeds} runs each never arrived: {', '.join(missed)}. They count as the maximum, "
            f"{settings.unlearn_epochs} passes, on which the means depend."
        )
    return words


def _pair(asks: str, what: str, first: dict[str, Any], other: dict[str, Any], n_seeds: int) -> str:
    """Compare two measures seed by seed, and say whether a difference can be told."""
    differences = np.subtract(first[what]["per_seed"], other[what]["per_seed"])
    mean, low, high = mean_interval(differences)
    shared = other["shared_with_privacy_loss"]
    text = f"{asks}, privacy loss against {other['label']} ({shared} records in common): {mean:+.0f} passes "
    text += f"(95% interval over seeds {low:+.0f} to {high:+.0f}): "
    if not differences.any():
        return text + "the same in every seed."
    if low > 0.0:
        return text + "longer."
    if high < 0.0:
        return text + "shorter."
    seen = detectable(n_seeds, std=float(differences.std(ddof=1)))
    return text + f"no difference can be told; one of {seen:.0f} could have been, four times in five."
