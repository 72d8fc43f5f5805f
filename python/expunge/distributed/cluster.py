"""The connection to a Dask cluster, and what is done there."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from typing import Any

import dask
from distributed import Client, LocalCluster

from expunge import _validate
from expunge.data.blocks import Records
from expunge.data.opening import open_records
from expunge.distributed.engine import ClusterEngine
from expunge.distributed.records import OnWorkers
from expunge.scoring.job import Job

__all__ = ["Dask"]

Address = str | os.PathLike[str]
# Connections keep their last messages below 1 MB to look at, 1,000 of them by default: with what tasks are given, a GB.
_BRIEF_LOGS = {"distributed.admin.low-level-log-length": 10}


class Dask:
    """The workers of a Dask cluster, as an engine for passes over tables.

    Parameters
    ----------
    scheduler : str or distributed.Client
        ``"local:4"`` for four processes of one thread each on this machine, which end with this object; the address of
        a scheduler, ``"tcp://host:8786"``; or a client that is connected, and stays so.
    patience : float
        Seconds to wait for a worker where there is none, before a pass is given up.

    Raises
    ------
    TypeError, ValueError
        If ``scheduler`` is none of these, or the client is an asynchronous one.
    RuntimeError
        If there is no worker, or a worker would compute other bits: it has another version of this library or of NumPy,
        another instruction set or another BLAS. Named, with the remedy.

    Notes
    -----
    A task is a range of blocks, a power of two of them, which the worker reads itself and combines; this process
    combines what comes back in the order of the blocks. That is one binary tree over the blocks, whoever works on them:
    results have the bits of one process, for any number of shards, workers and threads. A task whose worker is lost
    runs again elsewhere; one that loses as many workers as the scheduler allows (three by default,
    ``distributed.scheduler.allowed-failures``) is given up, and named. Each task takes one thread, BLAS included.

    Scripts that use ``"local:4"`` need ``if __name__ == "__main__":``, as those processes import them.

    Examples
    --------
    >>> from expunge import NewtonRidge
    >>> from expunge.data import RidgeStatistics
    >>> def learn(folder):
    ...     with Dask("local:2") as cluster:
    ...         records = cluster.open_records(folder, target_column="y", id_column="who")
    ...         statistics = RidgeStatistics.of(records)
    ...         return NewtonRidge().fit(records), statistics
    """

    def __init__(self, scheduler: str | Client, *, patience: float = 60.0) -> None:
        self._patience = _validate.number("patience", patience, low=0.0)
        self._cluster: LocalCluster | None = None
        self._own = isinstance(scheduler, str)
        if isinstance(scheduler, Client):
            if scheduler.asynchronous:
                raise TypeError("scheduler must be a client that waits, got an asynchronous one")
            self._client = scheduler
        elif isinstance(scheduler, str):
            with dask.config.set(_BRIEF_LOGS):
                self._client = self._connected(scheduler)
        else:
            raise TypeError(f"scheduler must be an address, 'local:N' or a client, got {type(scheduler).__name__}")
        try:
            self._engine = ClusterEngine(self._client, patience=self._patience)
            self._engine.require_workers()
            self._engine.require_same()
        except BaseException:
            self.close()
            raise

    def _connected(self, scheduler: str) -> Client:
        if scheduler.startswith("local:"):
            number = scheduler.removeprefix("local:")
            if not number.isdecimal() or int(number) < 1:
                raise ValueError(f"scheduler must be 'local:N' with N >= 1 processes, or an address, got {scheduler!r}")
            self._cluster = LocalCluster(
                n_workers=int(number), threads_per_worker=1, processes=True, dashboard_address=":0"
            )
            return Client(self._cluster, set_as_default=False)
        if "://" not in scheduler:
            raise ValueError(f"scheduler must be 'local:N' or an address such as tcp://host:8786, got {scheduler!r}")
        try:
            return Client(scheduler, set_as_default=False, timeout=max(1.0, min(self._patience, 30.0)))
        except (OSError, TimeoutError) as error:
            raise RuntimeError(f"there is no scheduler at {scheduler}: {' '.join(str(error).split())}") from None

    def __enter__(self) -> Dask:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and the processes that were started here."""
        if self._own:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    @property
    def n_threads(self) -> int:
        """Number of threads of all workers together."""
        return self._engine.n_threads

    def open_records(
        self,
        source: Address | Records,
        *,
        target: Address | None = None,
        ids: Address | None = None,
        target_column: str | int | None = None,
        id_column: str | int | None = None,
        features: Sequence[str | int] | None = None,
        drop: Sequence[str | int] = (),
        header: bool | None = None,
        decimal_comma: bool = False,
        filesystem: object = None,
    ) -> Records:
        """Return a table in files, whose passes that add up are made on the workers.

        Parameters
        ----------
        source : path-like, address or Records
            Files that this process and all workers see under one name; or a table of such files that is open already.
        target, ids, target_column, id_column, features, drop, header, decimal_comma, filesystem
            As for `expunge.data.open_records`.

        Returns
        -------
        Records
            Statistics, and fits, quotes, deletions and verifications of the Newton estimators, read it on the workers.
            Everything else reads it in this process.

        Raises
        ------
        TypeError
            If rows lie in memory: they are sent to nobody.
        ValueError, FileNotFoundError
            As `expunge.data.open_records`.
        """
        columns: dict[str, Any] = {"target_column": target_column, "id_column": id_column, "features": features}
        columns |= {"drop": drop, "header": header, "decimal_comma": decimal_comma, "filesystem": filesystem}
        columns |= {"target": _absolute(target, filesystem), "ids": _absolute(ids, filesystem)}
        found = source if isinstance(source, Records) else _absolute(source, filesystem)
        assert found is not None
        return OnWorkers(open_records(found, **columns), self._engine)

    def scored(self, job: Job, numbers: Sequence[int]) -> Generator[bytes, None, None]:
        """Yield the file of each of some parts of a scoring job, in order: `expunge.scoring.score_files` calls it.

        Parameters
        ----------
        job : Job
            Of `expunge.scoring`.
        numbers : sequence of int
            Its parts.
        """
        return self._engine.scored(job, numbers)


def _absolute(place: Address | None, filesystem: object) -> Address | None:
    if place is None or filesystem is not None or "://" in os.fspath(place):
        return place
    return os.path.abspath(place)
