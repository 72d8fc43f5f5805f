"""Errors of the package that Python has no name for."""

from __future__ import annotations

__all__ = ["DeviceError"]


class DeviceError(RuntimeError):
    """A device is missing, failed, or does not hold what a call was given.

    Raised for arrays on a GPU where there is no GPU or driver, or where the package was built without CUDA kernels; for
    arrays of one call that lie on different devices; and for a kernel that could not be launched.
    """
