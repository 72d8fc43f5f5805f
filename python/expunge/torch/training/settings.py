"""Arguments of `train`, checked, as what a run's folder keeps of them."""

from __future__ import annotations

from typing import Any

import torch

from expunge._validate import choice, count, number
from expunge.torch._arguments import noise_per_step, require_loss
from expunge.torch.training.budgets import RecordBudgets
from expunge.torch.training.privacy import Privacy, least_noise_std, room_of
from expunge.torch.training.step import Loss

__all__ = ["settings_of"]


def settings_of(*, n: int, loss: Loss, **given: Any) -> dict[str, Any]:
    """Return checked settings as JSON values."""
    step_size = number("step_size", given["step_size"], low=0.0, open_low=True)
    batch_size = count("batch_size", given["batch_size"], low=1)
    if batch_size > n:
        raise ValueError(f"batch_size must be <= {n}, the number of records, got {batch_size}")
    if (given["n_steps"] is None) == (given["epochs"] is None):
        raise ValueError(f"give n_steps or epochs, got n_steps={given['n_steps']!r} and epochs={given['epochs']!r}")
    if given["n_steps"] is not None:
        n_steps = count("n_steps", given["n_steps"], low=1)
    else:
        n_steps = count("epochs", given["epochs"], low=1) * -(-n // batch_size)
    noise_std = noise_per_step(given["noise_std"], given["temperature"], step_size=step_size)
    sampling = choice("sampling", given["sampling"], ("poisson", "shuffle"))
    clip = None if given["clip"] is None else number("clip", given["clip"], low=0.0, open_low=True)
    claim = _private(given, n=n, batch_size=batch_size, n_steps=n_steps)
    if claim is not None:
        clip = float(claim["clip"])
        noise_std = least_noise_std(
            noise_multiplier=claim["noise_multiplier"],
            bound=clip * (1.0 + claim["room"]),
            step_size=step_size,
            batch_size=batch_size,
        )
    for one in given["parameters"]:
        if noise_std > torch.finfo(one.dtype).max:
            raise ValueError(f"noise of a step must be a number in {one.dtype}, got noise_std = {noise_std!r}")
    keep = choice("keep", given["keep"], ("norms", "weights", "both"))
    collect = choice("collect", given["collect"], ("batch", "checkpoint", "none"))
    require_loss(loss)
    name = getattr(loss, "__qualname__", type(loss).__qualname__)
    seed = None if given["seed"] is None else count("seed", given["seed"])
    if seed is None and claim is None:
        seed = 0
    return {
        "n_records": n,
        "n_steps": n_steps,
        "step_size": step_size,
        "batch_size": batch_size,
        "sampling": sampling,
        "noise_std": noise_std,
        "clip": clip,
        "privacy": claim,
        "alpha": number("alpha", given["alpha"], low=0.0),
        "n_checkpoints": count("n_checkpoints", given["n_checkpoints"], low=1),
        "spacing": choice("spacing", given["spacing"], ("even", "geometric")),
        "collect": "none" if keep == "weights" else collect,
        "keep": keep,
        "seed": seed,
        "loss": f"{getattr(loss, '__module__', type(loss).__module__)}.{name}",
    }


def _private(given: dict[str, Any], *, n: int, batch_size: int, n_steps: int) -> dict[str, Any] | None:
    """Return the privacy of the run that is asked for as JSON values, or None."""
    privacy = given["privacy"]
    if privacy is None:
        return None
    if not isinstance(privacy, (Privacy, RecordBudgets)):
        raise TypeError(f"privacy must be expunge.torch.Privacy or RecordBudgets, got {type(privacy).__name__}")
    for name in ("noise_std", "temperature", "clip"):
        if given[name] is not None:
            raise ValueError(f"{name} must not be given with privacy, which sets it, got {given[name]!r}")
    if given["sampling"] != "poisson":
        raise ValueError(f"sampling must be 'poisson' with privacy, got {given['sampling']!r}")
    parameters, seeded = given["parameters"], given["seed"] is not None
    if isinstance(privacy, Privacy):
        of = privacy.of(parameters, sampling_probability=batch_size / n, n_steps=n_steps, seeded=seeded)
        return of.to_dict()
    if batch_size != n:
        raise ValueError(
            f"batch_size must be {n}, all records, with RecordBudgets, got {batch_size}: GDP budgets are kept for full "
            "batches; Poisson batches have Privacy(), and RenyiFilter in expunge.accounting for loops of your own"
        )
    return privacy.settings(n=n, n_steps=n_steps, room=room_of(parameters), seeded=seeded)
