"""Errors that refuse a norm."""

from __future__ import annotations

__all__ = ["GradNormMismatchError", "UnsupportedFunctionError"]


class UnsupportedFunctionError(RuntimeError):
    """A function for which exact per-example gradient norms are not known; the message names the operation."""


class GradNormMismatchError(UnsupportedFunctionError):
    """The gradient of an example in its batch differs from that of the example alone; the message names both."""
