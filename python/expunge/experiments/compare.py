"""Experiment (b): whose top records take longest to forget, those of privacy loss or of another measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.experiments.pictures import plot_comparison, plot_curves
from expunge.experiments.settings import Settings
from expunge.experiments.subjects import Subject, load
from expunge.experiments.tables import finite, mean_interval, spread_words
from expunge.experiments.work import NETWORK_LIMITS, NetworkContext, base_run, measure_set, privacy_losses
from expunge.forget_sets import ForgetSet, random_forget_set, top_forget_set
from expunge.torch import TrainingRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "BASE",
    "LIMITS",
    "NAMES",
    "QUESTION",
    "SETTINGS",
    "TITLE",
    "findings",
    "load",
    "noise_levels",
    "parts",
    "work",
]

TITLE = "Whose hardest records take longest to forget?"
QUESTION = (
    "The records that a measure ranks highest are unlearned by noisy fine-tuning on all others, until a metric of the "
    "set is where models retrained without it are. The measure whose records take longest found the hardest."
)
LIMITS = NETWORK_LIMITS
SETTINGS = Settings
BASE = base_run
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
    """Return the measures."""
    return list(NAMES)


def chosen(context: NetworkContext, base: TrainingRun, measure: str, *, seed: int) -> ForgetSet:
    """Return the top records of a measure."""
    size = context.settings.top_share
    if measure == "random":
        return random_forget_set(n_records=base.n_records, size=size, seed=seed)
    if measure == "privacy_loss":
        return top_forget_set(privacy_losses(context, base), size=size, score_name=measure)
    scores = base.proxies()[measure]
    # A low C-proxy is a hard record.
    return top_forget_set(-scores if measure == "c_proxy" else scores, size=size, score_name=measure)


def work(
    context: NetworkContext, subject: Subject, base: TrainingRun, part: str, *, seed: int, noise_std: float
) -> list[dict[str, Any]]:
    """Measure the set of one measure."""
    losses = privacy_losses(context, base)
    forget = chosen(context, base, part, seed=seed)
    row, _ = measure_set(context, subject, base, forget, seed=seed, noise_std=noise_std)
    top = top_forget_set(losses, size=context.settings.top_share)
    low, high = np.quantile(losses, [0.05, 0.95])
    return [
        {
            "measure": part,
            "privacy_loss": float(losses[forget.indices].mean()),
            "shared_with_privacy_loss": int(np.isin(forget.indices, top.indices).sum()),
            "run_privacy_loss_q05": float(low),
            "run_privacy_loss_q95": float(high),
            **row,
        }
    ]


def findings(
    settings: Settings, rows: Sequence[dict[str, Any]], *, n_seeds: int
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Return the findings, in numbers and words, and the pictures."""
    table: list[dict[str, Any]] = []
    for measure, label in NAMES.items():
        some = sorted((row for row in rows if row["measure"] == measure), key=lambda row: row["seed"])
        times = [_time(row) for row in some]
        mean, low, high = mean_interval(times)
        table.append(
            {
                "measure": measure,
                "label": label,
                "mean_steps": mean,
                "interval": [finite(low), finite(high)],
                "steps_per_seed": times,
                "never_reached": sum(not row["reached"] for row in some),
                "shared_with_privacy_loss": [row["shared_with_privacy_loss"] for row in some],
                "metric_gap": float(np.mean([abs(row["metric_before"] - row["metric_retrained"]) for row in some])),
            }
        )
    order = sorted(table, key=lambda one: -one["mean_steps"])
    means = ", ".join(f"{one['label']} {one['mean_steps']:.0f}" for one in order)
    words = [f"Mean steps to forget: {means}."]
    if n_seeds > 1:
        pairs = [_pair(table[0], other) for other in table[1:]]
        words += [text for text, _ in pairs]
        words.append(_together(sum(told for _, told in pairs), len(pairs)))
    else:
        words.append("One seed says nothing about the order of the measures.")
    missed = [one for one in table if one["never_reached"]]
    for one in missed:
        words.append(
            f"{one['label']}: {one['never_reached']} of {n_seeds} runs never settled in the band of retrained "
            f"models. They count as the maximum, {rows[0]['most_steps']} steps, on which the mean and every "
            "difference from it depend."
        )
    flat = {text for row in rows if (text := spread_words([row["run_privacy_loss_q05"], row["run_privacy_loss_q95"]]))}
    figures = {
        "time_by_measure.png": plot_comparison(order, settings, n_seeds=n_seeds),
        "curves.png": plot_curves(
            [row for row in rows if row["seed"] == 0],
            settings,
            name=lambda row: NAMES[row["measure"]],
            title="Unlearning the top records of each measure (seed 0; estimates)",
        ),
    }
    return {"words": words + sorted(flat), "measures": table}, figures


def _time(row: dict[str, Any]) -> float:
    return float(row["steps_to_unlearn"] if row["reached"] else row["most_steps"])


def _pair(first: dict[str, Any], other: dict[str, Any]) -> tuple[str, bool]:
    """Compare two measures seed by seed, and say whether a difference can be detected."""
    differences = np.subtract(first["steps_per_seed"], other["steps_per_seed"])
    mean, low, high = mean_interval(differences)
    if low > 0:
        verdict = "longer"
    elif high < 0:
        verdict = "shorter"
    elif not differences.any():
        verdict = "the same in every seed"
    else:
        verdict = f"no difference can be detected; one of {mean - low:.0f} steps could have been"
    shared = np.mean(other["shared_with_privacy_loss"])
    where = f"95% interval over seeds {low:+.0f} to {high:+.0f}"
    text = (
        f"Privacy loss against {other['label']}: {mean:+.0f} steps ({where}): {verdict}; "
        f"{shared:.1f} records in common on average."
    )
    return text, not low <= 0 <= high


def _together(told: int, pairs: int) -> str:
    if not told:
        return "The measures cannot be put in order."
    return f"With {pairs} intervals, up to one such table in {20 // pairs} shows a difference where there is none."
