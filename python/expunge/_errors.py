"""Errors that Python has no name for, and the words that messages share."""

from __future__ import annotations

__all__ = ["DeviceError", "counted", "how_to_install"]


class DeviceError(RuntimeError):
    """A device is missing, failed, or does not hold what a call was given.

    Raised for arrays on a GPU where there is no GPU or driver, or where the package was built without CUDA kernels; for
    arrays of one call that lie on different devices; and for a kernel that could not be launched.
    """


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra; Expunge is on no package index.

    Examples
    --------
    >>> how_to_install("plot")
    "pip install '.[plot]' in a checkout of Expunge"
    """
    return f"pip install '.[{extra}]' in a checkout of Expunge"


def counted(number: int, thing: str) -> str:
    """Return a number of things as a person writes it.

    Examples
    --------
    >>> counted(1, "record"), counted(50_000, "record")
    ('1 record', '50,000 records')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
