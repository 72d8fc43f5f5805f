"""The folder of the C header, for code that calls the kernels without Python."""

from pathlib import Path

__all__ = ["get_include"]


def get_include() -> str:
    """Return the folder that holds ``expunge.h``, for a C or C++ compiler's ``-I``.

    The header declares a table of functions that the package carries in a capsule: nothing is linked. See
    ``docs/integrations.md``.

    Returns
    -------
    str
        An absolute path.

    Examples
    --------
    >>> from pathlib import Path
    >>> import expunge
    >>> (Path(expunge.get_include()) / "expunge.h").is_file()
    True
    """
    return str(Path(__file__).resolve().parent.parent / "include")
