"""Checks of the arguments that training, unlearning and `GradNorms` have in common."""

from __future__ import annotations

import math

import torch
from torch import nn

from expunge._validate import number

__all__ = ["noise_per_step", "place_of", "require_loss", "require_model"]


def require_model(model: object) -> None:
    """Refuse what is not a ``torch.nn.Module``."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")


def require_loss(loss: object) -> None:
    """Refuse what cannot be called."""
    if not callable(loss):
        raise TypeError(f"loss must be callable, got {type(loss).__name__}")


def place_of(model: nn.Module, device: torch.device | str | None) -> torch.device:
    """Return the device asked for, or that of the model's first parameter; the CPU if it has none."""
    if device is not None:
        return torch.device(device)
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def noise_per_step(noise_std: float | None, temperature: float | None, *, step_size: float) -> float:
    """Return the standard deviation of the noise of a step, from itself or from the Langevin temperature.

    Raises
    ------
    ValueError
        If both are given, or the one given is negative or not finite.

    Examples
    --------
    >>> noise_per_step(None, 0.5, step_size=2.0)
    1.0
    """
    if noise_std is not None and temperature is not None:
        raise ValueError("give noise_std or temperature, not both")
    if temperature is not None:
        return math.sqrt(2.0 * step_size) * number("temperature", temperature, low=0.0)
    return 0.0 if noise_std is None else number("noise_std", noise_std, low=0.0)
