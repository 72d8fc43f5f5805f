"""Work that all seeds share: pilot runs, the forget sets they choose, and models retrained without those."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F  # noqa: N812

from expunge._files import write_atomic
from expunge.evaluation import auc
from expunge.experiments.settings import Settings
from expunge.experiments.subjects import Subject, build
from expunge.experiments.work import NetworkContext, seed_of, train_together
from expunge.forget_sets import ForgetSet
from expunge.torch import train

__all__ = [
    "Answers",
    "Retrained",
    "answers_of",
    "pilot_names",
    "pilot_scores",
    "read_retrained",
    "retrained_models",
    "retrained_name",
    "run_pilot",
    "run_retrained",
    "train_accuracy",
]

Array = NDArray[np.float64]
SCORES = ("privacy_loss", "average_grad_norm", "c_proxy", "el2n")


@dataclass(frozen=True)
class Answers:
    """Losses and margins of models on the forget set, and losses on the test records: shapes (n_models, n)."""

    losses: Array
    margins: Array
    correct: Array
    test_losses: Array
    test_accuracy: Array

    def metric(self, name: str) -> Array:
        """Return a metric of the forget set, one value per model."""
        if name == "mia":
            return np.array([auc(-own, -test) for own, test in zip(self.losses, self.test_losses, strict=True)])
        found = {"confidence": np.exp(-self.losses), "loss": self.losses, "accuracy": self.correct}[name]
        return np.asarray(found.mean(axis=1))


Retrained = Answers


@torch.no_grad()
def _outputs(model: nn.Module, x: torch.Tensor, device: str) -> torch.Tensor:
    return torch.cat([model(x[low : low + 1024].to(device)) for low in range(0, len(x), 1024)]).double().cpu()


def answers_of(context: NetworkContext, subject: Subject, models: list[nn.Module], forget: ForgetSet) -> Answers:
    """Return what models say of a forget set and of the test records."""
    rows = torch.from_numpy(np.array(forget.indices))
    x, y = subject.x[rows], subject.y[rows]
    found: dict[str, list[Any]] = {name: [] for name in Answers.__dataclass_fields__}
    for model in models:
        output, tested = _outputs(model, x, context.device), _outputs(model, subject.x_test, context.device)
        own = output.gather(1, y[:, None])[:, 0]
        others = output.scatter(1, y[:, None], -torch.inf)
        found["losses"].append(F.cross_entropy(output, y, reduction="none").numpy())
        found["margins"].append((own - others.logsumexp(1)).numpy())
        found["correct"].append((output.argmax(1) == y).double().numpy())
        found["test_losses"].append(F.cross_entropy(tested, subject.y_test, reduction="none").numpy())
        found["test_accuracy"].append(float((tested.argmax(1) == subject.y_test).double().mean()))
    return Answers(**{name: np.asarray(values, dtype=np.float64) for name, values in found.items()})


def train_accuracy(context: NetworkContext, subject: Subject, model: nn.Module) -> float:
    """Return the accuracy on everything that was trained with."""
    return float((_outputs(model, subject.x, context.device).argmax(1) == subject.y).double().mean())


# --- pilot runs --------------------------------------------------------------------------------------


def pilot_names(settings: Settings) -> list[str]:
    """Return the names of the pilot runs."""
    return [f"pilot{k}" for k in range(settings.n_pilots)]


def run_pilot(context: NetworkContext, subject: Subject, name: str) -> None:
    """Train once on everything, collecting norms, and keep the scores of the records."""
    s = context.settings
    own = seed_of("pilot", name)
    run = train(
        build(s, own), subject.train, epochs=s.epochs, n_checkpoints=s.n_checkpoints, seed=own, resume=True,
        folder=context.folder / "trained" / name, step_size=s.step_size, batch_size=s.batch_size, alpha=s.alpha,
        noise_std=s.noise_std, device=context.device, progress=False,
    )  # fmt: skip
    scores = {"privacy_loss": np.asarray(run.privacy_losses(order=s.order)), **run.proxies()}
    _write(context, name, {key: scores[key] for key in SCORES})


def pilot_scores(context: NetworkContext) -> dict[str, Array]:
    """Return the mean scores of the records over the pilot runs."""
    found = [_read(context, name) for name in pilot_names(context.settings)]
    return {key: np.mean([one[key] for one in found], axis=0) for key in SCORES}


# --- retrained models --------------------------------------------------------------------------------


def retrained_name(noise_std: float, part: str) -> str:
    """Return the name of the models retrained without a set, at a noise level."""
    return f"retrained-noise{noise_std:g}-{part}"


def run_retrained(
    context: NetworkContext, subject: Subject, name: str, forget: ForgetSet, *, noise_std: float, keep: bool = False
) -> None:
    """Train models without a forget set, at once, and keep what they say; their weights if ``keep``."""
    s = context.settings
    seeds = [seed_of(name, k) for k in range(s.n_retrained)]
    models = [build(s, own).to(context.device) for own in seeds]
    train_together(
        context, subject, models, seeds=seeds, noise_std=noise_std, epochs=s.epochs, sampling="poisson",
        subsets=[forget.retained] * len(models),
    )  # fmt: skip
    found: dict[str, Any] = dict(vars(answers_of(context, subject, models, forget)))
    if keep:
        for k, model in enumerate(models):
            found |= {f"weights{k}.{key}": value.cpu().numpy() for key, value in model.state_dict().items()}
    _write(context, name, found)


def read_retrained(context: NetworkContext, name: str) -> Retrained:
    """Return what retrained models said."""
    held = _read(context, name)
    return Retrained(**{key: held[key] for key in Answers.__dataclass_fields__})


def retrained_models(context: NetworkContext, name: str) -> list[nn.Module]:
    """Return retrained models whose weights were kept."""
    held = _read(context, name)
    models = []
    for k in range(context.settings.n_retrained):
        model = build(context.settings, 0)
        state = {key[len(f"weights{k}.") :]: value for key, value in held.items() if key.startswith(f"weights{k}.")}
        model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
        models.append(model.to(context.device))
    return models


def _path(context: NetworkContext, name: str) -> Path:
    return context.folder / "shared" / f"{name}.npz"


def _write(context: NetworkContext, name: str, arrays: dict[str, Any]) -> None:
    held = io.BytesIO()
    np.savez(held, **arrays)
    write_atomic(_path(context, name), held.getvalue(), overwrite=True)


def _read(context: NetworkContext, name: str) -> dict[str, Any]:
    with np.load(_path(context, name), allow_pickle=False) as held:
        return {key: held[key] for key in held.files}
