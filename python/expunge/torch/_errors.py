"""Errors that refuse a norm."""

from __future__ import annotations

__all__ = ["GradNormMismatchError", "UnsupportedLayerError"]


class UnsupportedLayerError(RuntimeError):
    """Something in a block for which no exact per-example gradient norm is known; the message names it."""


class GradNormMismatchError(UnsupportedLayerError):
    """The norm of an example in its batch differs from that of the example alone; the message names both."""
