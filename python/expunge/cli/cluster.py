"""``--scheduler``: the workers of a Dask cluster, for commands that read tables in files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from expunge._errors import how_to_install
from expunge.data.file_records import KINDS

if TYPE_CHECKING:
    from expunge.distributed import Dask

__all__ = ["absolute", "connected", "require_streamed", "scheduler_option"]

scheduler_option = click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Work on data in files by the workers of a Dask cluster: its address, or local:4 for four processes here.",
)


def connected(scheduler: str) -> Dask:
    """Return the connection of this command to a cluster, which ends with the command.

    Raises
    ------
    ImportError
        Without Dask.
    ValueError, RuntimeError
        As `expunge.distributed.Dask`.
    """
    context = click.get_current_context()
    found: Dask | None = context.meta.get(__name__)
    if found is None:
        try:
            from expunge.distributed import Dask
        except ModuleNotFoundError:
            raise ImportError(f"--scheduler needs Dask: {how_to_install('distributed')}") from None
        found = context.meta[__name__] = context.with_resource(Dask(scheduler))
    return found


def require_streamed(source: str, stream: bool | None, *, readable: bool) -> None:
    """Refuse data that workers cannot read by themselves; ``readable`` says whether they are of files in row blocks."""
    if stream is False:
        raise ValueError("--in-memory must be omitted with --scheduler: rows in memory are sent to nobody")
    if not readable:
        raise ValueError(f"--scheduler is for files and folders of {', '.join(KINDS)}, got {source}: omit it")


def absolute(place: str) -> str:
    """Return the name that a file has wherever a process runs."""
    return place if "://" in place else os.path.abspath(place)
