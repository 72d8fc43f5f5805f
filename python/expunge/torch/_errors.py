"""The refusal."""

from __future__ import annotations

__all__ = ["UnsupportedLayerError"]


class UnsupportedLayerError(RuntimeError):
    """A parameter is used in a way for which no exact per-example gradient norm is known; the message names it."""
