"""Losses that kernels know, by the names that every family gives them."""

from __future__ import annotations

from typing import Literal

__all__ = ["LOSSES", "Loss"]

Loss = Literal["softmax", "logistic", "squared"]
LOSSES: tuple[Loss, ...] = ("softmax", "logistic", "squared")
