"""Measurements of a trained model that unlearns sets: all metrics at every look, and three times to unlearn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from expunge.evaluation import ulira
from expunge.experiments.settings import Settings
from expunge.experiments.shared import answers_of, read_retrained, retrained_name, train_accuracy
from expunge.experiments.subjects import Subject
from expunge.experiments.work import NetworkContext, base_model, unlearn_many
from expunge.experiments.yardsticks import YARDSTICKS, arrivals, share_left, targets
from expunge.forget_sets import ForgetSet

__all__ = ["KEPT", "left_again", "measure_sets", "memorised", "passes_of", "ulira_of"]

KEPT = ("confidence", "loss", "accuracy", "mia")


def measure_sets(
    context: NetworkContext, subject: Subject, sets: Mapping[str, ForgetSet], *, seed: int, noise_std: float
) -> dict[str, dict[str, Any]]:
    """Train on everything, unlearn each set on its own, and say when it was where retrained models are.

    Returns
    -------
    dict of str to dict
        One row per set. A set is followed until every yardstick is met, ``early_passes`` at least, ``unlearn_epochs``
        at most.
    """
    s = context.settings
    base = base_model(context, subject, seed=seed, noise_std=noise_std)
    trained = train_accuracy(context, subject, base)
    rows: dict[str, dict[str, Any]] = {}
    bands = {}

    def look(name: str, model: nn.Module, passes: int) -> bool:
        found = answers_of(context, subject, [model], sets[name])
        now = {metric: float(found.metric(metric)[0]) for metric in KEPT}
        if passes == 0:
            others = read_retrained(context, retrained_name(noise_std, name))
            values = others.metric(s.metric)
            bands[name] = targets(s, now[s.metric], values)
            rows[name] = {
                "seed": seed,
                "noise_std": noise_std,
                "n_forget": len(sets[name]),
                "train_accuracy": trained,
                "test_accuracy_before": float(found.test_accuracy[0]),
                "test_accuracy_retrained": float(others.test_accuracy.mean()),
                "retrained_per_model": values.tolist(),
                "retrained_margins": others.margins.tolist(),
                **{f"{metric}_retrained": float(others.metric(metric).mean()) for metric in KEPT},
                "before": now[s.metric],
                "retrained": float(values.mean()),
                "retrained_std": float(values.std(ddof=1)),
                "gap": now[s.metric] - float(values.mean()),
                "band_low": bands[name]["band"].low,
                "band_high": bands[name]["band"].high,
                "most_passes": s.unlearn_epochs,
                "passes": [],
                **{f"curve_{metric}": [] for metric in KEPT},
                "margins_before": found.margins[0].tolist(),
            }
        row = rows[name]
        row["passes"].append(passes)
        for metric in KEPT:
            row[f"curve_{metric}"].append(now[metric])
        if passes == s.early_passes:
            row["margins_early"] = found.margins[0].tolist()
            row["share_left"] = share_left(row["before"], now[s.metric], row["retrained"])
        row["margins_after"] = found.margins[0].tolist()
        row["test_accuracy_after"] = float(found.test_accuracy[0])
        met = arrivals(s, row["passes"], row[f"curve_{s.metric}"], bands[name])
        row |= {f"passes_{yardstick}": met[yardstick] for yardstick in YARDSTICKS}
        return passes >= s.early_passes and None not in met.values()

    unlearn_many(context, subject, base, sets, seed=seed, noise_std=noise_std, every=s.evaluate_every, look=look)
    return rows


def passes_of(row: Mapping[str, Any], yardstick: str) -> float:
    """Return the passes a set took; one that never arrived took longer than all that did."""
    found = row[f"passes_{yardstick}"]
    return float(row["most_passes"] + 1 if found is None else found)


def left_again(settings: Settings, row: Mapping[str, Any], yardstick: str) -> bool:
    """Return whether a set that arrived was later looked at and found outside again."""
    found = row[f"passes_{yardstick}"]
    band = targets(settings, row["before"], row["retrained_per_model"])[yardstick]
    inside = band.holds(row[f"curve_{settings.metric}"])
    return found is not None and not bool(inside[row["passes"].index(found) :].all())


def memorised(rows: list[dict[str, Any]]) -> bool:
    """Return whether every trained model knew 99% of its records."""
    return min(row["train_accuracy"] for row in rows) >= 0.99


def ulira_of(rows: list[dict[str, Any]], when: str) -> list[float] | None:
    """Return AUC of U-LiRA, models of all seeds against retrained ones, and its interval; None with too few models.

    Parameters
    ----------
    rows : list of dict
        Of one set and noise level, one per seed.
    when : {"before", "early", "after"}
        Whose margins: of trained models, after ``early_passes``, or at the end.
    """
    margins = rows[0]["retrained_margins"]
    if len(rows) < 3 or len(margins) < 3:
        return None
    found = ulira([row[f"margins_{when}"] for row in rows], margins)
    return [found.auc, *found.auc_interval]
