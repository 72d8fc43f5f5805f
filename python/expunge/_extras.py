"""How optional packages are installed: said here once, for every error that asks for one."""

__all__ = ["how_to_install"]


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra; Expunge is on no package index.

    Examples
    --------
    >>> how_to_install("plot")
    "pip install '.[plot]' in a checkout of Expunge"
    """
    return f"pip install '.[{extra}]' in a checkout of Expunge"
