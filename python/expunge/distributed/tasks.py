"""Work that workers of a cluster do, on blocks that they read themselves."""

from __future__ import annotations

import pickle
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distributed import get_worker

from expunge._kernels.backend import one_blas_thread
from expunge.accounting._float_mode import ieee_arithmetic
from expunge.data.addresses import File
from expunge.data.blocks import BlockWork, Records
from expunge.data.folding import fold_here
from expunge.distributed.machine import Machine, difference, this_machine
from expunge.distributed.memory import keep_freed_memory
from expunge.scoring.job import Job, score_parts
from expunge.scoring.parts import part_path

__all__ = ["kept", "named_here", "require_same", "scored", "worked_on"]

# Errors that are told from the worker's point of view; others already say all that matters.
_PLAIN = (ValueError, TypeError, RuntimeError, FileNotFoundError, PermissionError, OSError)


def kept(data: bytes) -> bytes:
    """Return what was sent: as the result of a task it is there again after its worker was lost."""
    return data


@ieee_arithmetic
def worked_on(table: bytes, work: bytes, numbers: list[int], given: list[Any] | None, expected: Machine) -> Any:
    """Return the results of some blocks combined, on one thread: the cluster runs as many tasks as it has threads.

    Parameters
    ----------
    table, work : bytes
        Records and what is done with a block, pickled.
    numbers, given
        Blocks, and what work is given beside each.
    expected : Machine
        Arithmetic of the process that asks.
    """
    try:
        require_same(expected)
        keep_freed_memory()
        about = None if given is None else dict(zip(numbers, given, strict=True)).__getitem__
        with one_blas_thread():
            return fold_here(_table(table), _work(work), numbers, about, threads=1)
    except _PLAIN as error:
        raise named_here(error) from None


@ieee_arithmetic
def scored(job: bytes, number: int, files: dict[Path, tuple[int, int]], expected: Machine) -> bytes:
    """Return the file of a part of a scoring job, on one thread.

    Parameters
    ----------
    job : bytes
        The job, pickled.
    number : int
        The part.
    files : dict of Path to (int, int)
        Size and time of change of each file that is read, as the process that asks sees them.
    expected : Machine
        Its arithmetic.
    """
    try:
        require_same(expected)
        keep_freed_memory()
        for file, looks in files.items():
            File(str(file), *looks).require_unchanged()
        with one_blas_thread(), TemporaryDirectory() as folder:
            score_parts(_job(job), Path(folder), range(number, number + 1), progress=False, durable=False)
            return part_path(Path(folder), number).read_bytes()
    except _PLAIN as error:
        raise named_here(error) from None


def named_here(error: Exception) -> Exception:
    """Return an error with the worker's address in its message, if it is of a plain type."""
    if type(error) not in _PLAIN:
        return error
    said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
    return type(error)(f"{said} (on worker {get_worker().address})")


def require_same(expected: Machine) -> None:
    """Refuse a worker that would compute other bits: one that came after the others were looked at."""
    problem = difference(expected, this_machine())
    if problem:
        raise RuntimeError(f"this worker {problem}")


@lru_cache(maxsize=4)
def _table(data: bytes) -> Records:
    found: Records = pickle.loads(data)
    return found


@lru_cache(maxsize=4)
def _work(data: bytes) -> BlockWork[Any, Any]:
    found: BlockWork[Any, Any] = pickle.loads(data)
    return found


@lru_cache(maxsize=1)
def _job(data: bytes) -> Job:
    found: Job = pickle.loads(data)
    return found
