"""Experiment (a): whether the average privacy loss of a forget set predicts how long it takes to unlearn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expunge.accounting import LogFit, fit_log_steps
from expunge.experiments.pictures import plot_curves, plot_prediction
from expunge.experiments.settings import Settings
from expunge.experiments.subjects import Subject, load
from expunge.experiments.tables import finite, mean_interval, rank_correlation, spread_words
from expunge.experiments.work import NETWORK_LIMITS, NetworkContext, base_run, measure_set, privacy_losses
from expunge.forget_sets import quantile_forget_set
from expunge.torch import TrainingRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "BASE",
    "LIMITS",
    "QUESTION",
    "SETTINGS",
    "TITLE",
    "findings",
    "load",
    "noise_levels",
    "parts",
    "work",
]

TITLE = "Does privacy loss predict the time to unlearn?"
QUESTION = (
    "Forget sets from the lowest to the highest privacy losses are unlearned by noisy fine-tuning on the other "
    "records, until a metric of the set is where models retrained without it are."
)
LIMITS = NETWORK_LIMITS
SETTINGS = Settings
BASE = base_run


def noise_levels(settings: Settings) -> tuple[float, ...]:
    """Return the noise levels that are trained with."""
    return settings.noise_stds


def parts(settings: Settings, seed: int) -> list[str]:
    """Return the names of the forget sets."""
    return [f"set{k}" for k in range(settings.n_sets)]


def work(
    context: NetworkContext, subject: Subject, base: TrainingRun, part: str, *, seed: int, noise_std: float
) -> list[dict[str, Any]]:
    """Measure one forget set."""
    s = context.settings
    losses = privacy_losses(context, base)
    # Middles spread evenly over the ranks, the first and the last set at the ends.
    k = int(part.removeprefix("set"))
    low = k / (s.n_sets - 1) * (1.0 - s.set_share)
    forget = quantile_forget_set(losses, low=low, high=min(1.0, low + s.set_share), score_name="privacy_loss")
    row, _ = measure_set(context, subject, base, forget, seed=seed, noise_std=noise_std)
    low5, high95 = np.quantile(losses, [0.05, 0.95])
    return [
        {
            "set": k,
            "privacy_loss": float(losses[forget.indices].mean()),
            "privacy_loss_median": float(np.median(losses[forget.indices])),
            "run_privacy_loss_q05": float(low5),
            "run_privacy_loss_q95": float(high95),
            **row,
        }
    ]


def findings(
    settings: Settings, rows: Sequence[dict[str, Any]], *, n_seeds: int
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Return the findings, in numbers and words, and the pictures."""
    levels: list[dict[str, Any]] = []
    fits: dict[float, LogFit | None] = {}
    words: list[str] = []
    for noise in settings.noise_stds:
        some = [row for row in rows if row["noise_std"] == noise]
        losses, times = _points(some)
        by_seed = [rank_correlation(*_points([r for r in some if r["seed"] == k])) for k in range(n_seeds)]
        equal = sum(not np.isfinite(one) for one in by_seed)
        # Seeds whose sets all took equally long have no ranking. Left out, they would make the mean look better.
        counted = [one if np.isfinite(one) else 0.0 for one in by_seed]
        mean, low, high = mean_interval(counted) if equal < n_seeds else (np.nan, np.nan, np.nan)
        if n_seeds > 1:
            low, high = max(low, -1.0), min(high, 1.0)  # Student's t does not know where correlations end
        missed = sum(not row["reached"] for row in some)
        fits[noise] = _fit(some)
        flat = [spread_words([r["run_privacy_loss_q05"], r["run_privacy_loss_q95"]]) for r in some]
        levels.append(
            {
                "noise_std": noise,
                "n_sets": len(some),
                "rank_correlation_pooled": finite(rank_correlation(losses, times)),
                "rank_correlation_per_seed": [finite(one) for one in by_seed],
                "seeds_without_ranking": equal,
                "rank_correlation_mean": finite(mean),
                "rank_correlation_interval": [finite(low), finite(high)],
                "never_reached": missed,
                "reached_at_once": sum(row["steps_to_unlearn"] == 0 for row in some),
                "log_fit": None if fits[noise] is None else fits[noise].to_dict(),  # type: ignore[union-attr]
            }
        )
        words.append(_words(noise, levels[-1], fits[noise], n_seeds))
        flats = [one for one in flat if one]
        if flats:
            words.append(f"At noise {noise:g}: {flats[0]}")
        if missed:
            words.append(_missed_words(noise, [row for row in some if not row["reached"]], len(some)))
    figures = {
        "time_to_unlearn.png": plot_prediction(rows, settings, fits),
        "curves.png": plot_curves(
            [row for row in rows if row["seed"] == 0 and row["noise_std"] == settings.noise_std],
            settings,
            name=lambda row: f"privacy loss {_short(row['privacy_loss'])}",
            title=f"Unlearning sets of low to high privacy loss (seed 0, noise {settings.noise_std:g}; estimates)",
        ),
    }
    return {"words": words, "levels": levels}, figures


def _points(rows: Sequence[dict[str, Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return privacy losses and times; a set that never got there takes longer than all that did."""
    losses = np.array([row["privacy_loss"] for row in rows])
    times = np.array([row["steps_to_unlearn"] if row["reached"] else row["most_steps"] + 1 for row in rows])
    return losses, times.astype(np.float64)


def _fit(rows: Sequence[dict[str, Any]]) -> LogFit | None:
    some = [row for row in rows if row["reached"] and row["privacy_loss"] > 0.0]
    if len({row["privacy_loss"] for row in some}) < 3 or len({row["steps_to_unlearn"] for row in some}) < 2:
        return None
    return fit_log_steps([row["privacy_loss"] for row in some], [float(row["steps_to_unlearn"]) for row in some])


def _words(noise: float, level: dict[str, Any], fit: LogFit | None, n_seeds: int) -> str:
    correlation = level["rank_correlation_mean"]
    if correlation is None:
        same = "no set reached its band" if level["never_reached"] == level["n_sets"] else "all sets took equally long"
        return f"At noise {noise:g}: {same}; there is no ranking to compare with privacy loss."
    low, high = level["rank_correlation_interval"]
    text = f"At noise {noise:g}: rank correlation of privacy loss and time to unlearn {correlation:.2f}"
    if low is None:
        text += "; one seed says nothing about chance."
    else:
        text += f" (95% interval over {n_seeds} seeds: {low:.2f} to {high:.2f}"
        if level["seeds_without_ranking"]:
            text += f"; in {level['seeds_without_ranking']} of them all sets took equally long, which counts as 0"
        text += ")"
        if low <= 0.0 <= high:
            text += f"; no ranking can be detected; a mean of {correlation - low:.2f} could have been."
        else:
            text += "."
    if fit is None:
        return text
    return (
        f"{text} Log fit of the {fit.n} sets that reached the band: R^2 {fit.r_squared:.2f}; sets of one seed share a "
        "training run, so that its intervals are too narrow to judge a slope by."
    )


def _missed_words(noise: float, rows: Sequence[dict[str, Any]], n: int) -> str:
    ends = [(row["band_low"], row["metric_after"], row["band_high"]) for row in rows]
    gap = np.median([max(low - value, value - high) for low, value, high in ends])
    return (
        f"At noise {noise:g}: {len(rows)} of {n} runs never settled in the band of retrained models within "
        f"{rows[0]['most_steps']} steps (median distance at the end {max(gap, 0.0):.2g}). They count as longer than "
        "all others in the rank correlation and are left out of the fit."
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if 100.0 <= value < 1e7 else f"{value:.2g}"
