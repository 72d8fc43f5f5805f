"""Experiment (c): whether loss barriers to retrained models fall while easy and hard sets are unlearned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import nn

from expunge.evaluation import LossBarrier, barrier_from_losses
from expunge.evaluation.networks import loss_barrier, pairwise_barriers
from expunge.experiments.measuring import KEPT
from expunge.experiments.pictures import plot_barrier_paths, plot_barriers_over_passes
from expunge.experiments.power import detectable_words, seen_by
from expunge.experiments.settings import Settings
from expunge.experiments.shared import (
    answers_of,
    pilot_names,
    pilot_scores,
    retrained_models,
    retrained_name,
    run_pilot,
    run_retrained,
    train_accuracy,
)
from expunge.experiments.subjects import Subject, load
from expunge.experiments.tables import finite, mean_interval
from expunge.experiments.work import NETWORK_LIMITS, NetworkContext, base_model, unlearn_many
from expunge.forget_sets import ForgetSet, bottom_forget_set, top_forget_set

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

TITLE = "Do loss barriers tell forgotten from retrained?"
QUESTION = (
    "The loss barrier between a model and one retrained without the forget set, after permutation matching, before, "
    "during and after unlearning of the records of lowest (easy) and highest (hard) privacy loss in pilot runs, from "
    "networks that have memorised them; beside the barriers between retrained models."
)
LIMITS = NETWORK_LIMITS
SETTINGS = Settings
TRAINS = True
PLACES = 4  # parts of the unlearning run after which barriers are taken
WHERE = {"test": "test records", "forget": "forget set"}
SETS = ("easy", "hard")


def noise_levels(settings: Settings) -> tuple[float, ...]:
    """Return the one noise level."""
    return (settings.noise_std,)


def parts(settings: Settings, seed: int) -> list[str]:
    """Return the pieces of a run: both sets are unlearned together."""
    return ["sets"]


def power(settings: Settings, n_seeds: int) -> str:
    """Say beforehand which difference of barriers these seeds can see."""
    what = "a difference of mean barriers, retrained models aside,"
    return detectable_words(n_seeds, std=settings.assumed_barrier_std, what=what, unit="")


def preparations(settings: Settings) -> list[list[str]]:
    """Return the work that seeds share, stage by stage."""
    return [pilot_names(settings), [retrained_name(settings.noise_std, part) for part in SETS]]


def prepare(context: NetworkContext, subject: Subject, name: str) -> None:
    """Do a piece of the work that seeds share."""
    if name.startswith("pilot"):
        return run_pilot(context, subject, name)
    noise = context.settings.noise_std
    (forget,) = (one for part, one in _sets(context).items() if retrained_name(noise, part) == name)
    return run_retrained(context, subject, name, forget, noise_std=noise, keep=True)


def _sets(context: NetworkContext) -> dict[str, ForgetSet]:
    losses, size = pilot_scores(context)["privacy_loss"], context.settings.top_share
    choose = {"easy": bottom_forget_set, "hard": top_forget_set}
    return {part: choose[part](losses, size=size, score_name="privacy_loss") for part in SETS}


def work(context: NetworkContext, subject: Subject, part: str, *, seed: int, noise_std: float) -> list[dict[str, Any]]:
    """Measure barriers along the unlearning of both sets."""
    s, sets = context.settings, _sets(context)
    losses = pilot_scores(context)["privacy_loss"]
    base = base_model(context, subject, seed=seed, noise_std=noise_std)
    trained = train_accuracy(context, subject, base)
    rows: list[dict[str, Any]] = []
    oracles, data, common = {}, {}, {}
    for name, forget in sets.items():
        at = torch.from_numpy(np.array(forget.indices))
        pairs = {"test": subject.test, "forget": (subject.x[at], subject.y[at])}
        data[name] = {where: (x.to(context.device), y.to(context.device)) for where, (x, y) in pairs.items()}
        oracles[name] = retrained_models(context, retrained_name(noise_std, name))
        said = answers_of(context, subject, oracles[name], forget)
        common[name] = {
            "seed": seed,
            "noise_std": noise_std,
            "set": name,
            "n_forget": len(forget),
            "n_retrained": s.n_retrained,
            "privacy_loss": float(losses[forget.indices].mean()),
            "train_accuracy": trained,
            **{f"{metric}_retrained": float(said.metric(metric).mean()) for metric in KEPT},
        }
        if seed == 0:  # all seeds share the retrained models
            for where, records in data[name].items():
                for k, one in enumerate(pairwise_barriers(oracles[name], records)):
                    rows.append(
                        {**common[name], "kind": "retrained", "where": where, "passes": -1, "pair": k, **_row(one)}
                    )

    def look(name: str, model: nn.Module, passes: int) -> bool:
        said = answers_of(context, subject, [model], sets[name])
        now = {metric: float(said.metric(metric)[0]) for metric in KEPT}
        for where, records in data[name].items():
            for k, oracle in enumerate(oracles[name]):
                row = {"kind": "unlearned", "where": where, "passes": passes, "pair": k, **now}
                rows.append({**common[name], **row, **_row(loss_barrier(model, oracle, records))})
        return False

    every = -(-s.unlearn_epochs // PLACES)
    unlearn_many(context, subject, base, sets, seed=seed, noise_std=noise_std, every=every, look=look)
    return rows


def _row(one: LossBarrier) -> dict[str, Any]:
    return {"barrier": one.barrier, "at": one.at, "t": one.t.tolist(), "losses": one.losses.tolist()}


def as_barrier(row: dict[str, Any]) -> LossBarrier:
    """Return the barrier a row holds."""
    return barrier_from_losses(row["t"], row["losses"], matched=True)


# --- findings ----------------------------------------------------------------------------------------


def findings(
    settings: Settings, rows: Sequence[dict[str, Any]], *, n_seeds: int
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Return the findings, in numbers and words, and the pictures."""
    table: list[dict[str, Any]] = []
    words = []
    for part in SETS:
        words.append(_set_words(settings, [row for row in rows if row["set"] == part]))
        for where, label in WHERE.items():
            some = [row for row in rows if row["set"] == part and row["where"] == where]
            between = [row["barrier"] for row in some if row["kind"] == "retrained"]
            unlearned = [row for row in some if row["kind"] == "unlearned"]
            along = []
            for passes in sorted({row["passes"] for row in unlearned}):
                values = _table([row for row in unlearned if row["passes"] == passes])
                mean, low, high = mean_interval(values.mean(axis=1))
                point = {"passes": passes, "mean": mean, "interval": [finite(low), finite(high)]}
                along.append({**point, "per_seed": values.mean(axis=1).tolist()})
            last = _table([row for row in unlearned if row["passes"] == along[-1]["passes"]])
            first = _table([row for row in unlearned if row["passes"] == 0])
            table.append(
                {
                    "set": part,
                    "where": where,
                    "along": along,
                    "retrained": {"mean": float(np.mean(between)), "lowest": min(between), "highest": max(between)},
                    "before": along[0]["mean"],
                    "after": along[-1]["mean"],
                    "between_retrained": float(np.mean(between)),
                    "after_minus_between": difference(last, np.array(between)),
                    "after_minus_before": list(mean_interval((last - first).mean(axis=1))) if n_seeds > 1 else None,
                    "freedom": min(last.shape) - 1,
                }
            )
            words.append(_words(part, label, table[-1], n_seeds))
    figures = {
        "barriers.png": plot_barriers_over_passes(table, WHERE),
        "paths.png": plot_barrier_paths([row for row in rows if row["seed"] == 0 and row["where"] == "forget"]),
    }
    return {"words": words, "barriers": table}, figures


def _table(rows: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """Return barriers, shape (n_seeds, n_retrained)."""
    seeds = sorted({row["seed"] for row in rows})
    return np.array(
        [
            [row["barrier"] for row in sorted(rows, key=lambda row: row["pair"]) if row["seed"] == seed]
            for seed in seeds
        ]
    )  # fmt: skip


def difference(after: NDArray[np.float64], between: NDArray[np.float64]) -> list[float] | None:
    """Return the mean barrier to retrained models less that between them, and its 95% interval.

    Seeds and retrained models are both samples. Their variances add up: that of the mean over seeds, and the
    delete-one jackknife's over retrained models, which are in both means. Student's t has the degrees of freedom of the
    fewer.

    Parameters
    ----------
    after : ndarray of float64, shape (n_seeds, n_retrained)
    between : ndarray of float64, shape (n_retrained * (n_retrained - 1) / 2,)
        Of all pairs, as ``itertools.combinations`` orders them.

    Returns
    -------
    list of float or None
        Mean, low, high; None for one seed, or fewer than three retrained models, of which none can be left out.
    """
    n_seeds, n = after.shape
    if n_seeds < 2 or n < 3:
        return None
    first, second = np.triu_indices(n, 1)
    mean = float(after.mean() - between.mean())
    without = []
    for j in range(n):
        kept = (first != j) & (second != j)
        without.append(np.delete(after, j, axis=1).mean() - between[kept].mean())
    jackknife = (n - 1) / n * float(np.square(np.array(without) - np.mean(without)).sum())
    of_seeds = float(after.mean(axis=1).var(ddof=1)) / n_seeds
    half = float(student.ppf(0.975, min(n_seeds, n) - 1)) * math.sqrt(jackknife + of_seeds)
    return [mean, mean - half, mean + half]


def _set_words(settings: Settings, rows: list[dict[str, Any]]) -> str:
    some = [row for row in rows if row["kind"] == "unlearned" and row["where"] == "test" and row["pair"] == 0]
    last = max(row["passes"] for row in some)
    before, after = (
        float(np.mean([row[settings.metric] for row in some if row["passes"] == place])) for place in (0, last)
    )
    trained = np.mean([row["train_accuracy"] for row in some])
    return (
        f"The {some[0]['set']} set, noise {settings.noise_std:g}, training accuracy {trained:.3f}: {settings.metric} "
        f"{before:.2f} trained, {after:.2f} after {last} passes, {some[0][settings.metric + '_retrained']:.2f} "
        "retrained."
    )


def _words(part: str, label: str, one: dict[str, Any], n_seeds: int) -> str:
    after = one["along"][-1]
    text = (
        f"The {part} set, loss on the {label}: barrier to retrained models {one['before']:.3g} before and "
        f"{one['after']:.3g} after {after['passes']} passes; between retrained models {one['between_retrained']:.3g}."
    )
    if n_seeds == 1:
        return text + " One seed says nothing about chance."
    if one["after_minus_between"] is None:
        return text + " Two retrained models are too few for an interval."
    mean, low, high = one["after_minus_between"]
    text += f" Difference, after minus between: {mean:+.3g} (95% interval over seeds and retrained models "
    text += f"{low:+.3g} to {high:+.3g})."
    if low > 0:
        return text + " The barrier stays higher than between retrained models."
    if high < 0:
        return text + " It is lower than between retrained models."
    seen = seen_by((mean - low) / float(student.ppf(0.975, one["freedom"])), one["freedom"])
    return text + f" No difference can be told; one of {seen:.2g} could have been, four times in five."
