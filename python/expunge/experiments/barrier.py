"""Experiment (c): whether loss barriers to retrained models fall while easy and hard sets are unlearned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from expunge.evaluation import LossBarrier, barrier_from_losses
from expunge.evaluation.networks import loss_barrier, pairwise_barriers
from expunge.experiments.pictures import plot_barrier_paths, plot_barriers_over_steps
from expunge.experiments.settings import Settings
from expunge.experiments.subjects import Subject, load
from expunge.experiments.tables import finite, mean_interval
from expunge.experiments.work import (
    NETWORK_LIMITS,
    NetworkContext,
    base_run,
    model_of,
    privacy_losses,
    retrained,
    set_metric,
)
from expunge.forget_sets import bottom_forget_set, top_forget_set
from expunge.torch import TrainingRun, unlearn

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

TITLE = "Do loss barriers tell forgotten from retrained?"
QUESTION = (
    "The loss barrier between a model and one retrained without the forget set, after permutation matching, before, "
    "during and after unlearning of the records of lowest (easy) and highest (hard) privacy loss; beside the barriers "
    "between retrained models."
)
LIMITS = NETWORK_LIMITS
SETTINGS = Settings
BASE = base_run
PLACES = 4  # parts of the unlearning run after which barriers are taken
WHERE = {"test": "test records", "forget": "forget set"}


def noise_levels(settings: Settings) -> tuple[float, ...]:
    """Return the one noise level."""
    return (settings.noise_std,)


def parts(settings: Settings, seed: int) -> list[str]:
    """Return the two kinds of sets."""
    return ["easy", "hard"]


def work(
    context: NetworkContext, subject: Subject, base: TrainingRun, part: str, *, seed: int, noise_std: float
) -> list[dict[str, Any]]:
    """Measure barriers along the unlearning of one set."""
    s = context.settings
    losses = privacy_losses(context, base)
    choose = top_forget_set if part == "hard" else bottom_forget_set
    forget = choose(losses, size=s.top_share, score_name="privacy_loss")
    at = torch.from_numpy(np.array(forget.indices))
    data = {"test": subject.test, "forget": (subject.x[at], subject.y[at])}
    data = {name: (x.to(context.device), y.to(context.device)) for name, (x, y) in data.items()}
    oracles = retrained(context, subject, forget, seed=seed, noise_std=noise_std)
    common = {
        "seed": seed,
        "noise_std": noise_std,
        "set": part,
        "n_forget": len(forget),
        "privacy_loss": float(losses[forget.indices].mean()),
    }
    rows = []
    for where, records in data.items():
        for k, one in enumerate(pairwise_barriers(oracles, records)):
            rows.append({**common, "kind": "retrained", "where": where, "step": -1, "pair": k, **_row(one)})
    confidence = set_metric(context, *data["forget"], "confidence")

    def measure(model: nn.Module) -> float:
        for where, records in data.items():
            for k, oracle in enumerate(oracles):
                row = _row(loss_barrier(model, oracle, records))
                rows.append({**common, "kind": "unlearned", "where": where, "pair": k, **row})
        return confidence(model)

    batches = -(-(len(subject.y) - len(forget)) // s.batch_size)
    n_steps = s.unlearn_epochs * batches
    run = unlearn(
        model_of(context, base), subject.train, forget, method="noisy_fine_tune", n_steps=n_steps, metric=measure,
        evaluate_every=-(-n_steps // PLACES), step_size=s.step_size, batch_size=s.batch_size, alpha=s.alpha,
        noise_std=noise_std, seed=context.seed(seed, 0), device=context.device, progress=False,
    )  # fmt: skip
    steps = np.repeat(run.curve.steps, len(data) * len(oracles))
    for row, step in zip((row for row in rows if row["kind"] == "unlearned"), steps, strict=True):
        row["step"] = int(step)
    return rows


def _row(one: LossBarrier) -> dict[str, Any]:
    return {"barrier": one.barrier, "at": one.at, "t": one.t.tolist(), "losses": one.losses.tolist()}


def as_barrier(row: dict[str, Any]) -> LossBarrier:
    """Return the barrier a row holds."""
    return barrier_from_losses(row["t"], row["losses"], matched=True)


def findings(
    settings: Settings, rows: Sequence[dict[str, Any]], *, n_seeds: int
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Return the findings, in numbers and words, and the pictures."""
    table: list[dict[str, Any]] = []
    words = []
    for part in parts(settings, 0):
        for where, label in WHERE.items():
            some = [row for row in rows if row["set"] == part and row["where"] == where]
            baseline = _per_seed([row for row in some if row["kind"] == "retrained"])
            steps = sorted({row["step"] for row in some if row["kind"] == "unlearned"})
            along = []
            for step in steps:
                values = _per_seed([row for row in some if row["kind"] == "unlearned" and row["step"] == step])
                mean, low, high = mean_interval(values)
                along.append({"step": step, "mean": mean, "interval": [finite(low), finite(high)], "per_seed": values})
            mean, low, high = mean_interval(baseline)
            highest = max(row["barrier"] for row in some if row["kind"] == "retrained")
            table.append(
                {
                    "set": part,
                    "where": where,
                    "along": along,
                    "retrained": {
                        "mean": mean,
                        "interval": [finite(low), finite(high)],
                        "per_seed": baseline,
                        "highest": highest,
                    },
                }
            )
            words.append(_words(part, label, table[-1], n_seeds))
    figures = {
        "barriers.png": plot_barriers_over_steps(table, WHERE),
        "paths.png": plot_barrier_paths([row for row in rows if row["seed"] == 0 and row["where"] == "forget"]),
    }
    return {"words": words, "barriers": table}, figures


def _per_seed(rows: Sequence[dict[str, Any]]) -> list[float]:
    seeds = sorted({row["seed"] for row in rows})
    return [float(np.mean([row["barrier"] for row in rows if row["seed"] == seed])) for seed in seeds]


def _words(part: str, label: str, one: dict[str, Any], n_seeds: int) -> str:
    before, after, between = one["along"][0], one["along"][-1], one["retrained"]
    text = (
        f"The {part} set, loss on the {label}: barrier to retrained models {before['mean']:.3g} before and "
        f"{after['mean']:.3g} after {after['step']} steps; between retrained models {between['mean']:.3g}."
    )
    if n_seeds > 1:
        differences = np.subtract(after["per_seed"], between["per_seed"])
        mean, low, high = mean_interval(differences)
        interval = f"95% interval over {n_seeds} seeds {low:+.3g} to {high:+.3g}"
        text += f" Difference, after minus between: {mean:+.3g} ({interval})."
        if low > 0:
            return text + " The barrier stays higher than between retrained models."
        if high < 0:
            return text + " It is lower than between retrained models."
        return text + f" No difference can be detected; one of {mean - low:.2g} could have been."
    return text + " One seed says nothing about chance."
