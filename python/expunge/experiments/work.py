"""The pieces experiments are made of: train with norms, retrain without a set, unlearn it, measure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F  # noqa: N812

from expunge.evaluation import Band, reference_band
from expunge.experiments.settings import Settings
from expunge.experiments.subjects import Subject, build
from expunge.forget_sets import ForgetSet
from expunge.torch import TrainingRun, UnlearningRun, train, train_many, unlearn

__all__ = [
    "NETWORK_LIMITS",
    "Context",
    "NetworkContext",
    "accuracy",
    "band_of",
    "base_run",
    "measure_set",
    "model_of",
    "privacy_losses",
    "retrained",
    "set_metric",
]

SettingsT = TypeVar("SettingsT")

BASE, RETRAINED = 0, 1  # places of seeds within those of one run
NETWORK_LIMITS = (
    "Another processor or version rounds differently, and times to unlearn change with it.",
    "Everything here is an estimate: privacy losses rest on one training run each, the band on a few retrained models, "
    "and a metric inside it certifies nothing. All rows are in results.parquet.",
)


@dataclass(frozen=True)
class Context(Generic[SettingsT]):
    """Context of a piece of work."""

    settings: SettingsT
    folder: Path
    device: str

    def seed(self, seed: int, place: int) -> int:
        """Return a seed of its own for every model of a run."""
        return 1000 * seed + place


NetworkContext: TypeAlias = Context[Settings]


def _settings(context: NetworkContext, noise_std: float) -> dict[str, Any]:
    s = context.settings
    return {
        "step_size": s.step_size,
        "batch_size": s.batch_size,
        "alpha": s.alpha,
        "noise_std": noise_std,
        "device": context.device,
        "progress": False,
    }


def base_run(context: NetworkContext, subject: Subject, *, seed: int, noise_std: float) -> TrainingRun:
    """Train on everything, collecting norms; goes on with, or reads, what is there."""
    s = context.settings
    own = context.seed(seed, BASE)
    return train(
        build(s, own), subject.train, epochs=s.epochs, n_checkpoints=s.n_checkpoints, seed=own, resume=True,
        folder=context.folder / "trained" / f"seed{seed}-noise{noise_std:g}", **_settings(context, noise_std),
    )  # fmt: skip


def model_of(context: NetworkContext, run: TrainingRun) -> nn.Module:
    """Return the network a run ended with."""
    model = build(context.settings, 0)
    model.load_state_dict(run.final_weights())
    return model.to(context.device)


def retrained(
    context: NetworkContext, subject: Subject, forget: ForgetSet, *, seed: int, noise_std: float
) -> list[nn.Module]:
    """Return networks that never saw the forget set, each from a start of its own, trained at once."""
    s = context.settings
    seeds = [context.seed(seed, RETRAINED + k) for k in range(s.n_retrained)]
    models = [build(s, own).to(context.device) for own in seeds]
    settings = _settings(context, noise_std)
    del settings["device"]  # that of the models
    run = train_many(models, subject.without(forget.indices), seeds=seeds, epochs=s.epochs, **settings)
    for error in run.failures.values():
        raise error
    return models


@torch.no_grad()
def set_metric(
    context: NetworkContext, x: torch.Tensor, y: torch.Tensor, name: str | None = None
) -> Callable[[nn.Module], float]:
    """Return the metric of a network on some records."""
    x, y = x.to(context.device), y.to(context.device)
    kind = name or context.settings.metric

    @torch.no_grad()
    def value(model: nn.Module) -> float:
        output = torch.cat([model(x[low : low + 1024]) for low in range(0, len(x), 1024)])
        if kind == "accuracy":
            return float((output.argmax(1) == y).double().mean())
        losses = F.cross_entropy(output, y, reduction="none").double()
        return float((-losses).exp().mean() if kind == "confidence" else losses.mean())

    return value


def accuracy(context: NetworkContext, x: torch.Tensor, y: torch.Tensor) -> Callable[[nn.Module], float]:
    """Return the accuracy of a network on some records."""
    return set_metric(context, x, y, "accuracy")


def band_of(context: NetworkContext, values: list[float]) -> Band:
    """Return the band of retrained models."""
    limits = (0.0, math.inf if context.settings.metric == "loss" else 1.0)
    return reference_band(values, method="std", k=2.0, tolerance=context.settings.tolerance, limits=limits)


def measure_set(
    context: NetworkContext, subject: Subject, base: TrainingRun, forget: ForgetSet, *, seed: int, noise_std: float
) -> tuple[dict[str, Any], UnlearningRun]:
    """Retrain without a set, unlearn it by noisy fine-tuning, and say when it was in the retrained models' band."""
    s = context.settings
    rows = torch.from_numpy(np.array(forget.indices))
    metric = set_metric(context, subject.x[rows], subject.y[rows])
    test = accuracy(context, *subject.test)
    oracles = retrained(context, subject, forget, seed=seed, noise_std=noise_std)
    values = [metric(one) for one in oracles]
    band = band_of(context, values)
    model = model_of(context, base)
    before, test_before = metric(model), test(model)
    run = unlearn(
        model, subject.train, forget, method="noisy_fine_tune", epochs=s.unlearn_epochs, metric=metric, band=band,
        evaluate_every=s.evaluate_every, patience=s.patience, seed=context.seed(seed, BASE),
        **_settings(context, noise_std),
    )  # fmt: skip
    assert run.time is not None  # a band was given
    return {
        "seed": seed,
        "noise_std": noise_std,
        "n_forget": len(forget),
        "steps_to_unlearn": run.time.step,
        "reached": run.time.reached,
        "most_steps": run.settings["most_steps"],
        "metric_before": before,
        "metric_after": float(run.curve.values["metric"][-1]),
        "metric_retrained": band.mean,
        "band_low": band.low,
        "band_high": band.high,
        "test_accuracy_before": test_before,
        "test_accuracy_after": test(model),
        "test_accuracy_retrained": float(np.mean([test(one) for one in oracles])),
        "curve_steps": run.curve.steps.tolist(),
        "curve": run.curve.values["metric"].tolist(),
        "words": str(run.time),
    }, run


def privacy_losses(context: NetworkContext, run: TrainingRun) -> NDArray[np.float64]:
    """Return the privacy loss of every record."""
    return np.asarray(run.privacy_losses(order=context.settings.order))
