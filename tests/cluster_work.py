"""Work on blocks for tests of clusters, in a module that their workers can import."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from expunge.data import Records
from expunge.data.blocks import Block, BlockWork

__all__ = ["Failing", "Killing", "Seeing"]


@dataclass(frozen=True)
class Killing(BlockWork[None, Any]):
    """Sums of rows; a worker that comes to a certain row, and can take a note away, dies there.

    Attributes
    ----------
    notes : str
        Folder of notes: each is taken once.
    row : int
        Where its first row is this one, a block is deadly.
    """

    notes: str
    row: int

    def of(self, records: Records, block: Block, given: None, *, threads: int | None) -> Any:
        if block.start == self.row:
            for note in os.listdir(self.notes):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.notes, note))
                    time.sleep(1.0)  # a worker that dies while its keeper still starts it is not started again
                    os.kill(os.getpid(), signal.SIGKILL)
        return block.X.sum(axis=0)

    def both(self, one: Any, two: Any) -> Any:
        return one + two


@dataclass(frozen=True)
class Seeing(BlockWork[Any, list[Any]]):
    """View of a task: process, number of threads it is told, threads of BLAS, and when it began and ended."""

    seconds: float = 0.05

    def of(self, records: Records, block: Block, given: Any, *, threads: int | None) -> list[Any]:
        begun = time.time()
        blas = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
        time.sleep(self.seconds)
        np.linalg.norm(block.X)
        return [(os.getpid(), threads, max(blas), begun, time.time(), given)]

    def both(self, one: list[Any], two: list[Any]) -> list[Any]:
        return one + two


@dataclass(frozen=True)
class Failing(BlockWork[None, None]):
    """Raises an error."""

    error: Exception

    def of(self, records: Records, block: Block, given: None, *, threads: int | None) -> None:
        raise self.error

    def both(self, one: None, two: None) -> None:
        return None
