"""A scoring job: what is scored and how, and its parts, which any process scores with the same bits."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from expunge._files import write_atomic
from expunge._kernels.backend import default_threads, thread_count
from expunge._validate import choice, count, real_array
from expunge._version import __version__
from expunge.data.ahead import streams_ahead
from expunge.scoring.buffers import Buffers
from expunge.scoring.checkpoints import ProbeCheckpoints
from expunge.scoring.measures import Scorer, loss_name, proxy_names, why_unscored
from expunge.scoring.parts import PartWriter, part_path, table_of
from expunge.scoring.shards import Columns, Layout, Part, label_files, list_files, list_parts
from expunge.scoring.sources import BadRowError, Block, read_blocks

__all__ = ["Job", "PartEngine", "checked_orders", "note_unscored", "plan", "score_parts", "shared"]

_BLOCK_BYTES = 1 << 22  # features and norms of a block; about two for each core exist at a time
_READERS = 2  # parts that are read at a time
_MOST_WORKERS = 8  # blocks that are scored at a time


@dataclass(frozen=True)
class Job:
    """Data, checkpoints and settings of a scoring run, checked against the headers of all files.

    Attributes
    ----------
    files : list of Path
        All files that are read, those of labels last.
    parts : list of Part
        All parts of the data, in order.
    """

    files: list[Path]
    probe: ProbeCheckpoints
    columns: Columns
    layout: Layout
    parts: list[Part]
    orders: list[float]
    keep_norms: bool
    on_bad_rows: str
    rows_per_part: int
    threads: int | None

    @property
    def rows(self) -> int:
        """Rows of the data."""
        return sum(part.rows for part in self.parts)

    @property
    def names(self) -> list[str]:
        """Columns of scores."""
        return [*map(loss_name, self.orders), *proxy_names(self.probe.loss)]

    @property
    def block_rows(self) -> int:
        """Rows that are read and scored at a time."""
        probe = self.probe
        numbers = probe.n_features + int(probe.weights.shape[0]) * (probe.n_outputs + 4)
        return max(64, _BLOCK_BYTES // (int(self.layout.dtype.itemsize) * numbers))

    @property
    def schema(self) -> Any:
        """Arrow schema of the scores, without the rank."""
        import pyarrow as pa

        record = pa.int64() if self.layout.id_type is None else self.layout.id_type
        fields = [("record", record), *((name, pa.float64()) for name in self.names)]
        return pa.schema([*fields, ("grad_norms", pa.list_(pa.float64()))] if self.keep_norms else fields)

    def facts(self, settings: str) -> dict[str, Any]:
        """Return what is written beside the scores."""
        return {
            "status": "estimate",
            "settings": settings,
            "version": __version__,
            "orders": self.orders,
            "loss": self.probe.loss,
            "steps": self.probe.steps.tolist(),
        }

    def settings(self) -> str:
        """Return a digest of the settings and of the files as they lie here, by which a run is resumed.

        Whether bad rows may be null is no part of it: other rows have the same scores.
        """
        inputs = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in self.files]
        return self._digest(inputs, asdict(self.columns))

    def fingerprint(self) -> str:
        """Return a digest of the settings and of the data, the same wherever and whenever copies of the files lie.

        Of each file it takes the name, the size, and the contents of the first and the last MiB.
        """
        inputs = [[file.name, file.stat().st_size, _ends(file)] for file in self.files]
        labels = self.columns.labels_path
        return self._digest(inputs, {**asdict(self.columns), "labels_path": None if labels is None else labels.name})

    def _digest(self, inputs: list[list[Any]], columns: dict[str, Any]) -> str:
        described = {
            "version": __version__,
            "inputs": inputs,
            "probe": self.probe.digest(),
            "columns": {k: str(v) if isinstance(v, Path) else v for k, v in columns.items()},
            "orders": self.orders,
            "keep_norms": self.keep_norms,
            "rows_per_part": self.rows_per_part,
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def scorer(self, threads: int | None) -> Scorer:
        """Return what scores a block."""
        return Scorer(
            self.probe, orders=self.orders, dtype=self.layout.dtype, keep_norms=self.keep_norms, threads=threads
        )

    def blocks(self, part: Part, buffers: Buffers) -> Iterator[Block]:
        """Yield the rows of a part, whose memory may come from ``buffers``."""
        probe = self.probe
        return read_blocks(
            part,
            self.columns,
            self.layout,
            n_features=probe.n_features,
            loss=probe.loss,
            n_outputs=probe.n_outputs,
            block_rows=self.block_rows,
            buffers=buffers,
        )


class PartEngine(Protocol):
    """Somebody else who scores parts: workers of a cluster."""

    def scored(self, job: Job, numbers: Sequence[int]) -> Generator[bytes, None, None]:
        """Yield the file of each of some parts, in order, the bytes that `score_parts` writes."""


_END = 1 << 20


def _ends(file: Path) -> str:
    sha = hashlib.sha256()
    with file.open("rb") as stream:
        sha.update(stream.read(_END))
        stream.seek(max(0, file.stat().st_size - _END))
        sha.update(stream.read(_END))
    return sha.hexdigest()


def checked_orders(orders: Sequence[float]) -> list[float]:
    """Return Renyi orders, at least one, all > 1 and different."""
    chosen = [float(one) for one in real_array("orders", orders, ndim=1, low=1.0, open_low=True)]
    if not chosen or len(set(chosen)) != len(chosen):
        raise ValueError(f"orders must hold at least one order and none twice, got {chosen}")
    return chosen


def plan(
    source: str | os.PathLike[str],
    probe: ProbeCheckpoints,
    *,
    orders: Sequence[float],
    features: Sequence[str],
    label: str,
    record_id: str | None,
    labels: str | os.PathLike[str] | None,
    append_one: bool,
    keep_norms: bool,
    on_bad_rows: str,
    rows_per_part: int,
    threads: int | None,
) -> Job:
    """Return the job of these arguments, those of `score_files`, all of them checked."""
    chosen = checked_orders(orders)
    choice("on_bad_rows", on_bad_rows, ("stop", "null"))
    count("rows_per_part", rows_per_part, low=1)
    thread_count(threads)
    columns = Columns(tuple(features), label, record_id, None if labels is None else Path(labels), append_one)
    files = list_files(source)
    parts, layout = list_parts(
        files,
        columns,
        rows_per_part=rows_per_part,
        n_features=probe.n_features,
        loss=probe.loss,
        n_outputs=probe.n_outputs,
    )
    inputs = [*files, *label_files(files, columns)]
    return Job(inputs, probe, columns, layout, parts, chosen, keep_norms, on_bad_rows, rows_per_part, threads)


# --- scoring ---------------------------------------------------------------------------------------


def score_parts(
    job: Job,
    folder: Path,
    wanted: range,
    *,
    progress: bool,
    engine: PartEngine | None = None,
    durable: bool = True,
) -> int:
    """Score those of the wanted parts that the folder does not hold yet; return how many it held.

    Blocks are read, scored and written by threads of their own, in order, unless an engine scores the parts. Files that
    need not outlive the call are not ``durable``: nobody waits for the disk.
    """
    total = sum(job.parts[i].rows for i in wanted)
    left = [i for i in wanted if not part_path(folder, i).exists()]
    kept = total - sum(job.parts[i].rows for i in left)
    with tqdm(
        total=total, initial=kept, unit="rows", unit_scale=True, disable=not progress, file=sys.stderr, desc="score"
    ) as bar:
        if engine is not None:
            with contextlib.closing(engine.scored(job, left)) as files:
                for index, data in zip(left, files, strict=True):
                    write_atomic(part_path(folder, index), data, overwrite=True)
                    bar.update(job.parts[index].rows)
            return len(wanted) - len(left)
        workers, threads = shared(job.threads)
        scorer, buffers = job.scorer(threads), Buffers()
        ahead = streams_ahead((partial(job.blocks, job.parts[i], buffers) for i in left), threads=_READERS)
        with (
            contextlib.closing(ahead),
            ThreadPoolExecutor(workers) as scoring,
            ThreadPoolExecutor(1) as writing,
            contextlib.closing(_Writing(writing, scoring, workers + 1, bar)) as output,
        ):
            for index, blocks in zip(left, ahead, strict=True):
                part = job.parts[index]
                place = part_path(folder, index)
                output.begin(PartWriter(place, rows=part.rows, source=str(part.file), durable=durable))
                for block in blocks:
                    output.add(partial(_scored, block, part, job, scorer, buffers))
                output.end()
            output.finish()
    return len(wanted) - len(left)


def shared(threads: int | None) -> tuple[int, int]:
    """Return how many blocks are scored at a time, and by how many threads each."""
    cores = threads or default_threads()
    return (cores, 1) if cores <= _MOST_WORKERS else (_MOST_WORKERS, cores)


def _scored(block: Block, part: Part, job: Job, scorer: Scorer, buffers: Buffers) -> Any:
    """Return the scores of a block as an Arrow table."""
    scores, unscored = scorer(block.X, block.y)
    note_unscored(block, unscored, str(part.file), on_bad_rows=job.on_bad_rows)
    table = table_of(block, scores, part.first_record + block.start - part.start, names=job.names)
    buffers.give_back(block.X)
    return table


def note_unscored(block: Block, unscored: Any, place: str, *, on_bad_rows: str) -> None:
    """Enter rows without scores into the block's problems, and refuse them unless they may be null."""
    for bad in np.flatnonzero(unscored).tolist():
        block.problems.setdefault(bad, why_unscored(block.X[bad]))
    if block.problems and on_bad_rows == "stop":
        row = min(block.problems)
        more = f" (and {len(block.problems) - 1} more nearby)" if len(block.problems) > 1 else ""
        raise BadRowError(
            f"{place}, row {block.start + row}: {block.problems[row]}{more}; on_bad_rows='null' (--on-bad-rows null) "
            "scores the others"
        )


class _Writing:
    """Tables on their way from the threads that score to the one that writes, in order; so many at a time.

    What a thread raises is raised by whatever is called next, and a part that is not whole leaves nothing behind.
    """

    def __init__(self, writing: ThreadPoolExecutor, scoring: ThreadPoolExecutor, most: int, bar: Any) -> None:
        self._writing, self._scoring, self._most, self._bar = writing, scoring, most, bar
        self._scored: deque[tuple[PartWriter, Future[Any] | None]] = deque()  # None: the part's end
        self._written: deque[tuple[int, Future[None]]] = deque()
        self._begun: list[PartWriter] = []

    def begin(self, part: PartWriter) -> None:
        self._begun.append(part)

    def add(self, score: Callable[[], Any]) -> None:
        self._queue(self._scoring.submit(score))

    def end(self) -> None:
        self._queue(None)

    def finish(self) -> None:
        while self._scored:
            self._pass_on()
        while self._written:
            self._note_written()

    def close(self) -> None:
        """Wait for all threads, and take away what is not whole."""
        futures = [future for _, future in (*self._scored, *self._written) if future is not None]
        wait([future for future in futures if not future.cancel()])
        for part in self._begun:
            part.discard()

    def _queue(self, future: Future[Any] | None) -> None:
        self._scored.append((self._begun[-1], future))
        while len(self._scored) > self._most:
            self._pass_on()

    def _pass_on(self) -> None:
        part, future = self._scored.popleft()
        if future is None:
            self._written.append((0, self._writing.submit(self._publish, part)))
        else:
            table = future.result()
            self._written.append((table.num_rows, self._writing.submit(part.write, table)))
        while len(self._written) > self._most:
            self._note_written()

    def _publish(self, part: PartWriter) -> None:
        part.publish()
        self._begun.remove(part)

    def _note_written(self) -> None:
        rows, future = self._written.popleft()
        future.result()
        self._bar.update(rows)
