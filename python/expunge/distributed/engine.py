"""The engine of a Dask cluster: ranges of blocks as tasks, results combined in the order of the blocks."""

from __future__ import annotations

import pickle
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import dask
from distributed import Client, Future, wait
from distributed.scheduler import KilledWorker

from expunge._errors import counted
from expunge.data.blocks import BlockWork, Records
from expunge.data.folding import Fold
from expunge.distributed.machine import Machine, difference, this_machine
from expunge.distributed.records import require_files
from expunge.distributed.tasks import kept, scored, worked_on
from expunge.scoring.job import Job

__all__ = ["ClusterEngine"]

Result = TypeVar("Result")

_TASKS = 4  # of each thread of the workers, so that none waits long for the last
_ROW_BYTES = 64  # about what is sent for a row that is compared: salt, hash, id, weight
_MOST_BYTES = 2**23  # of that for a task: it goes by way of the scheduler
_WAITING = 3  # tasks of each thread that are given out at a time


class _Task(NamedTuple):
    """A task, and how messages call what it works on."""

    said: str
    key: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class ClusterEngine:
    """Passes on the workers of a cluster.

    Parameters
    ----------
    client : distributed.Client
        Connected, and closed by whoever made it.
    patience : float
        Seconds to wait for a worker where there is none.
    """

    def __init__(self, client: Client, *, patience: float) -> None:
        self._client, self._patience = client, patience
        self._tables: WeakKeyDictionary[Records, Future[Any]] = WeakKeyDictionary()
        self._here = this_machine()

    @property
    def n_threads(self) -> int:
        """Threads of all workers together."""
        return sum(self._client.nthreads().values())

    def fold(
        self,
        records: Records,
        work: BlockWork[Any, Result],
        numbers: Sequence[int],
        given: Callable[[int], Any] | None,
        *,
        threads: int | None = None,
    ) -> Result:
        """Return the results of blocks of a table, worked on by the workers and combined in order.

        Parameters
        ----------
        records : Records
            A table in files.
        work : BlockWork
            What is done with each block.
        numbers : sequence of int
            The blocks, in order.
        given : callable or None
            Returns what ``work`` is given beside the block of a number.
        threads : int, optional
            Of this process; not used.

        Raises
        ------
        RuntimeError
            If a range loses too many workers, or workers or the scheduler are gone; named.
        Exception
            What ``work`` or reading raises, with the address of the worker.
        """
        require_files(records)
        self.require_workers()
        table = self._table(records)
        token = uuid.uuid4().hex
        name = type(work).__name__.strip("_").lower()
        shared = self._submit(f"expunge-{name}-work-{token}", kept, pickle.dumps(work))
        slots = max(1, self.n_threads)
        block_bytes = None if given is None else records.block_rows * _ROW_BYTES

        def tasks() -> Iterator[_Task]:
            for part in _ranges(numbers, slots, block_bytes):
                about = None if given is None else [given(number) for number in part]
                said = f"blocks {part[0]} to {part[-1]}" if len(part) > 1 else f"block {part[0]}"
                arguments = (table, shared, list(part), about, self._here)
                yield _Task(f"{said} of the table", f"expunge-{name}-{token}-{part[0]}", worked_on, arguments)

        tree = Fold(work.both)
        for result in self._results(tasks(), slots):
            tree.add(result)
        return tree.total()

    def scored(self, job: Job, numbers: Sequence[int]) -> Generator[bytes, None, None]:
        """Yield the file of each of some parts of a scoring job, in order, scored by the workers.

        Raises
        ------
        RuntimeError
            As `fold`.
        Exception
            What scoring raises, with the address of the worker.
        """
        self.require_workers()
        token, slots = uuid.uuid4().hex, max(1, self.n_threads)
        job = _absolute(job)
        shared = self._submit(f"expunge-score-job-{token}", kept, pickle.dumps(job))
        looks = {file: _looks(file) for file in job.files}

        def tasks() -> Iterator[_Task]:
            for number in numbers:
                part = job.parts[number]
                files = {file: looks[file] for file in (part.file, part.labels) if file is not None}
                said = f"rows {part.start} to {part.start + part.rows - 1} of {part.file}"
                yield _Task(said, f"expunge-score-{token}-{number}", scored, (shared, number, files, self._here))

        yield from self._results(tasks(), slots)

    def _results(self, tasks: Iterator[_Task], slots: int) -> Iterator[Any]:
        """Yield the results of tasks in order; so many are given out at a time."""
        waiting: deque[tuple[_Task, Future[Any]]] = deque()
        try:
            for task in tasks:
                waiting.append((task, self._submit(task.key, task.function, *task.arguments)))
                if len(waiting) > _WAITING * slots:
                    yield self._result(*waiting.popleft())
            while waiting:
                yield self._result(*waiting.popleft())
        finally:
            self._client.cancel([future for _, future in waiting])

    def _table(self, records: Records) -> Future[Any]:
        """Return the description of a table, sent once; a cluster that was restarted is sent it again."""
        found = self._tables.get(records)
        if found is None or found.status not in ("pending", "finished"):
            key = f"expunge-table-{uuid.uuid4().hex}"
            found = self._tables[records] = self._submit(key, kept, pickle.dumps(records))
        return found

    def _submit(self, key: str, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        # What a task is given is part of it, and lost with no worker; how much that may be is seen to above.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"}):
            return self._client.submit(function, *arguments, key=key, pure=False)

    def _result(self, task: _Task, future: Future[Any]) -> Any:
        while not self._over(future):
            self.require_workers()
        try:
            return future.result()
        except KilledWorker as error:
            raise RuntimeError(
                f"{task.said}: {counted(error.allowed_failures + 1, 'worker')} died that had been given this, the last "
                f"at {error.last_worker.address}: this or another task kills workers; give them more memory, or see "
                "their logs"
            ) from None
        except CancelledError:
            raise RuntimeError(
                f"{task.said}: the task was cancelled, or the scheduler is gone; begin the pass again"
            ) from None

    def _over(self, future: Future[Any]) -> bool:
        """Wait a second for a task; return whether it is done, failed or cancelled."""
        try:
            with self._client.as_current():
                wait([future], timeout=1.0)
        except CancelledError:
            return True
        except TimeoutError:
            return bool(future.done())
        return True

    # --- workers -------------------------------------------------------------------------------

    def require_workers(self) -> None:
        """Wait for a worker where there is none, as long as patience lasts."""
        end = time.monotonic() + self._patience
        while not self._client.nthreads():
            if time.monotonic() >= end:
                raise RuntimeError(
                    f"the cluster has had no worker for {self._patience:g} seconds: start some, or wait longer with "
                    "patience="
                )
            time.sleep(0.1)

    def require_same(self) -> None:
        """Refuse workers that would compute other bits, by address."""
        found = self._client.run(this_machine, on_error="return")
        for address, there in sorted(found.items()):
            if isinstance(there, OSError):
                continue  # lost since; whoever comes in its place is asked in each task
            if not isinstance(there, Machine):
                raise RuntimeError(
                    f"worker {address} does not know expunge ({' '.join(str(there).split())}): install it there, in "
                    "the version that runs here, with the extra 'distributed'"
                )
            problem = difference(self._here, there)
            if problem:
                raise RuntimeError(f"worker {address} {problem}")


def _ranges(numbers: Sequence[int], slots: int, block_bytes: int | None) -> Iterator[Sequence[int]]:
    """Yield ranges of a power of two of blocks, so many that all threads have some, and each small enough to send."""
    size = 1
    while len(numbers) >= 2 * size * _TASKS * slots and (block_bytes or 0) * 2 * size <= _MOST_BYTES:
        size *= 2
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]


def _absolute(job: Job) -> Job:
    """Return a job whose files have names that do not depend on where a process runs."""
    parts = [
        replace(part, file=part.file.absolute(), labels=None if part.labels is None else part.labels.absolute())
        for part in job.parts
    ]
    return replace(job, parts=parts, files=[file.absolute() for file in job.files], threads=1)


def _looks(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns
