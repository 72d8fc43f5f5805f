"""The pieces experiments are made of: train many at once, unlearn many sets at once, look at them on the way."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from expunge.experiments.settings import Settings
from expunge.experiments.subjects import Subject, build
from expunge.forget_sets import ForgetSet
from expunge.torch import train_many

__all__ = ["NETWORK_LIMITS", "Context", "NetworkContext", "base_model", "seed_of", "train_together", "unlearn_many"]

SettingsT = TypeVar("SettingsT")

NETWORK_LIMITS = (
    "Another processor or version rounds differently, and times to unlearn change with it.",
    "Intervals are over seeds, given the split, the forget sets and the retrained models, which all seeds share: they "
    "do not say how other sets or other retrained models would do.",
    "Everything here is an estimate: privacy losses rest on a few pilot runs, gaps and bands on a few retrained "
    "models, and a metric that has arrived certifies nothing. All rows are in results.parquet.",
)


@dataclass(frozen=True)
class Context(Generic[SettingsT]):
    """Context of a piece of work."""

    settings: SettingsT
    folder: Path
    device: str


NetworkContext: TypeAlias = Context[Settings]
Look = Callable[[str, nn.Module, int], bool]


def seed_of(*names: str | int | float) -> int:
    """Return a seed of its own for whatever the names stand for."""
    words = [zlib.crc32(str(name).encode()) for name in names]
    return int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)


def train_together(
    context: NetworkContext,
    subject: Subject,
    models: Sequence[nn.Module],
    *,
    seeds: Sequence[int],
    noise_std: float,
    epochs: int,
    sampling: str,
    subsets: Sequence[NDArray[np.int64] | None] | None = None,
) -> None:
    """Train models in place; the first that diverges is raised."""
    s = context.settings
    run = train_many(
        models, subject.train, seeds=seeds, subsets=subsets, epochs=epochs, step_size=s.step_size, alpha=s.alpha,
        batch_size=s.batch_size, noise_std=noise_std or None, sampling=sampling, progress=False,
    )  # fmt: skip
    for error in run.failures.values():
        raise error


def base_model(context: NetworkContext, subject: Subject, *, seed: int, noise_std: float) -> nn.Module:
    """Return a network trained on everything."""
    s = context.settings
    own = seed_of("base", seed, f"{noise_std:g}")
    model = build(s, own).to(context.device)
    train_together(context, subject, [model], seeds=[own], noise_std=noise_std, epochs=s.epochs, sampling="poisson")
    return model


def unlearn_many(
    context: NetworkContext,
    subject: Subject,
    base: nn.Module,
    sets: Mapping[str, ForgetSet],
    *,
    seed: int,
    noise_std: float,
    every: int,
    look: Look,
) -> dict[str, nn.Module]:
    """Fine-tune one trained model without each set, all at once; with the noise of its training, if it had any.

    Parameters
    ----------
    context, subject, base
        The trained model stays as it is.
    sets : mapping of str to ForgetSet
        By name.
    seed, noise_std
        Of training: batches and noise are others than there, and others after every look.
    every : int
        Passes over the retained records between looks.
    look : callable
        ``look(name, model, passes)`` at 0 passes and after; a set of which it says True is done.

    Returns
    -------
    dict of str to torch.nn.Module
        Where each set ended.
    """
    s = context.settings
    models = {name: copy.deepcopy(base) for name in sets}
    left = [name for name in sets if not look(name, models[name], 0)]
    passes = 0
    while left and passes < s.unlearn_epochs:
        taken = min(every, s.unlearn_epochs - passes)
        train_together(
            context, subject, [models[name] for name in left], noise_std=noise_std, epochs=taken, sampling="shuffle",
            seeds=[seed_of("unlearn", seed, f"{noise_std:g}", name, passes) for name in left],
            subsets=[sets[name].retained for name in left],
        )  # fmt: skip
        passes += taken
        left = [name for name in left if not look(name, models[name], passes)]
    return models
