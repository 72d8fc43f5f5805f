"""The scoring run: part after part into files of their own, then one file with ranks. A kill loses at most one part."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from expunge import __version__
from expunge._files import CONFIDENTIAL, read_json, write_atomic
from expunge._places import check_places
from expunge._validate import choice, count, real_array
from expunge.scoring.checkpoints import ProbeCheckpoints
from expunge.scoring.measures import Scorer, loss_name, proxy_names, why_unscored
from expunge.scoring.shards import Columns, Layout, Part, label_files, list_files, list_parts
from expunge.scoring.sources import BadRowError, Block, read_blocks

__all__ = ["ScoreSummary", "score_files"]

_BLOCK_BYTES = 1 << 24  # features and norms of a block; a few blocks exist at a time
_KEY = b"expunge"


@dataclass(frozen=True)
class ScoreSummary:
    """What a scoring run did.

    Attributes
    ----------
    path : Path
        The Parquet file.
    rows, bad_rows : int
        Rows written, and how many of them have null scores.
    parts, resumed_parts : int
        Parts of the dataset, and how many an earlier run had finished.
    seconds : float
        Time of this run.
    status : str
        ``"estimate"``.
    """

    path: Path
    rows: int
    bad_rows: int
    parts: int
    resumed_parts: int
    seconds: float
    status: str = "estimate"


def score_files(
    source: str | os.PathLike[str],
    probe: ProbeCheckpoints,
    out: str | os.PathLike[str],
    *,
    orders: Sequence[float] = (2.0,),
    features: Sequence[str] = ("features",),
    label: str = "label",
    record_id: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    append_one: bool = False,
    keep_norms: bool = False,
    on_bad_rows: str = "stop",
    rows_per_part: int = 65_536,
    threads: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    restart: bool = False,
) -> ScoreSummary:
    """Score every record of a dataset on disk and write a Parquet file, one row per record, in order.

    Parameters
    ----------
    source : path-like
        A Parquet file, a C-ordered two-dimensional ``.npy`` file, or a folder of such shards (one kind, by name, the
        ending in any case). Names that begin with a dot or an underscore are left out; other files are refused.
    probe : ProbeCheckpoints
        Checkpoints and training constants.
    out : path-like
        The Parquet file to write. Finished parts wait in the folder ``<out>.parts`` beside it.
    orders : sequence of float
        Renyi orders of the privacy losses, > 1; the rank goes by the first.
    features : sequence of str
        For Parquet: one list column, or d scalar columns.
    label, record_id : str
        For Parquet: the columns of the label and of the record's id; without ``record_id`` the row's number counts.
    labels : path-like, optional
        For ``.npy``: the labels, a folder with a ``.npy`` file of the same name for each shard, or one file with the
        labels of all rows in the order of the shards.
    append_one : bool
        Append a constant feature 1 (the intercept's).
    keep_norms : bool
        Also write each record's gradient norm at every checkpoint.
    on_bad_rows : {"stop", "null"}
        A row with a missing, NaN or infinite value, a wrong length or a wrong label stops the run, or gets null scores
        and is counted.
    rows_per_part : int
        Rows of a part for ``.npy``; for Parquet a part is a row group.
    threads : int, optional
        Threads of the kernels; all cores by default.
    progress : bool
        Show a progress bar with the throughput, on stderr.
    overwrite, restart : bool
        Replace an existing ``out``; throw away the parts of an unfinished run.

    Returns
    -------
    ScoreSummary

    Raises
    ------
    BadRowError
        For the first bad row, unless ``on_bad_rows="null"``; names the file and the row.
    FileExistsError
        If ``out`` exists and is not the result of this very run, or an unfinished run with other inputs or settings
        waits in ``<out>.parts``.
    TypeError, ValueError
        If an argument or a file is not as described, shards do not belong together (named before any work is done),
        or ``out`` is an input, lies among the shards or is a link.

    Notes
    -----
    Columns: ``record``, then those of `score_records`, then ``rank`` (1 = largest privacy loss; ties share a rank).
    The same call after a kill continues with the first unfinished part and ends with the same bytes as an undisturbed
    run with the same number of threads. Memory does not grow with the number of records, apart from 8 bytes a record
    for the rank. Scores are *estimates*; the file's metadata say so.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> probe = ProbeCheckpoints(weights=np.zeros((1, 2, 2)), steps=[0], loss="softmax", n_steps=10, noise_std=1.0,
    ...                          step_size=0.1, sampling_probability=1.0, batch_size=1.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     folder = pathlib.Path(folder)
    ...     np.save(folder / "x.npy", np.array([[3.0, 4.0], [0.0, 1.0]]))
    ...     np.save(folder / "y.npy", np.array([1, 0]))
    ...     out, labels = folder / "out.parquet", folder / "y.npy"
    ...     summary = score_files(folder / "x.npy", probe, out, labels=labels, progress=False)
    >>> summary.rows, summary.bad_rows, summary.status
    (2, 0, 'estimate')
    """
    begun = time.perf_counter()
    chosen = [float(one) for one in real_array("orders", orders, ndim=1, low=1.0, open_low=True)]
    if not chosen or len(set(chosen)) != len(chosen):
        raise ValueError(f"orders must hold at least one order and none twice, got {chosen}")
    choice("on_bad_rows", on_bad_rows, ("stop", "null"))
    count("rows_per_part", rows_per_part, low=1)
    columns = Columns(tuple(features), label, record_id, None if labels is None else Path(labels), append_one)
    files = list_files(source)
    target, folder = Path(out), Path(f"{out}.parts")
    check_places(
        outputs={"out": target, "the folder of parts": folder},
        inputs={"source": source, "labels": labels, "shard": files},
    )
    parts, layout = list_parts(
        files,
        columns,
        rows_per_part=rows_per_part,
        n_features=probe.n_features,
        loss=probe.loss,
        n_outputs=probe.n_outputs,
    )
    settings = _settings(files, probe, columns, chosen, keep_norms, on_bad_rows, rows_per_part)
    done = _finished(target, settings)
    if done is not None and not folder.exists() and not overwrite:
        return ScoreSummary(target, done["rows"], done["bad_rows"], len(parts), len(parts), time.perf_counter() - begun)
    _prepare(target, folder, settings, overwrite=overwrite, restart=restart)
    with _only_one(folder):
        resumed = sum(_part_path(folder, i).exists() for i in range(len(parts)))
        job = _Job(probe, columns, layout, chosen, keep_norms, on_bad_rows, threads)
        scorer = Scorer(probe, orders=chosen, dtype=layout.dtype, keep_norms=keep_norms, threads=threads)
        left = [i for i in range(len(parts)) if not _part_path(folder, i).exists()]
        total, kept = sum(part.rows for part in parts), sum(part.rows for i, part in enumerate(parts) if i not in left)
        with tqdm(
            total=total, initial=kept, unit="rows", unit_scale=True, disable=not progress, file=sys.stderr, desc="score"
        ) as bar:
            ahead = _ahead(job.blocks, [parts[i] for i in left])
            with contextlib.closing(ahead), ThreadPoolExecutor(1) as writing:
                for index, (part, blocks) in zip(left, ahead, strict=True):
                    _score_part(part, blocks, job, scorer, _part_path(folder, index), bar, writing)
        bad = _assemble(folder, len(parts), total, target, loss_name(chosen[0]), settings, job, progress=progress)
    shutil.rmtree(folder)
    return ScoreSummary(target, total, bad, len(parts), resumed, time.perf_counter() - begun)


@dataclass(frozen=True)
class _Job:
    probe: ProbeCheckpoints
    columns: Columns
    layout: Layout
    orders: list[float]
    keep_norms: bool
    on_bad_rows: str
    threads: int | None

    @property
    def block_rows(self) -> int:
        probe = self.probe
        numbers = probe.n_features + int(probe.weights.shape[0]) * (probe.n_outputs + 4)
        return max(64, _BLOCK_BYTES // (int(self.layout.dtype.itemsize) * numbers))

    def blocks(self, part: Part) -> Iterator[Block]:
        probe = self.probe
        return read_blocks(
            part,
            self.columns,
            self.layout,
            n_features=probe.n_features,
            loss=probe.loss,
            n_outputs=probe.n_outputs,
            block_rows=self.block_rows,
        )

    @property
    def names(self) -> list[str]:
        return [*map(loss_name, self.orders), *proxy_names(self.probe.loss)]


def _settings(
    files: list[Path],
    probe: ProbeCheckpoints,
    columns: Columns,
    orders: list[float],
    keep_norms: bool,
    on_bad_rows: str,
    rows_per_part: int,
) -> str:
    inputs = [*files, *label_files(files, columns)]
    described = {
        "version": __version__,
        "inputs": [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in inputs],
        "probe": probe.digest(),
        "columns": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(columns).items()},
        "orders": orders,
        "keep_norms": keep_norms,
        "on_bad_rows": on_bad_rows,
        "rows_per_part": rows_per_part,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _part_path(folder: Path, index: int) -> Path:
    return folder / f"part-{index:08d}.parquet"


def _finished(target: Path, settings: str) -> dict[str, Any] | None:
    """Return the facts of the file if it is the result of a run with these inputs and settings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not target.exists():
        return None
    try:
        facts = json.loads((pq.read_schema(target).metadata or {}).get(_KEY, b"{}"))
    except (pa.ArrowInvalid, ValueError):
        return None
    return facts if facts.get("settings") == settings else None


def _prepare(target: Path, folder: Path, settings: str, *, overwrite: bool, restart: bool) -> None:
    if not target.parent.is_dir():
        raise FileNotFoundError(f"out: the folder {target.parent} does not exist")
    if restart and folder.exists():
        shutil.rmtree(folder)
    plan = folder / "plan.json"
    if plan.exists():
        if read_json(plan, what="plan of an unfinished run").get("settings") != settings:
            raise FileExistsError(
                f"out: {folder} holds an unfinished run with other inputs or settings; pass restart=True to discard it"
            )
    else:
        if target.exists() and not overwrite:
            raise FileExistsError(f"out: {target} exists already; pass overwrite=True to replace it")
        folder.mkdir(mode=0o700, exist_ok=True)  # scores tell something of single records
        write_atomic(plan, json.dumps({"settings": settings}).encode(), overwrite=True)
    for stray in folder.glob("*.tmp"):
        stray.unlink()


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold a lock the system drops when the process dies, so that two runs never share a folder."""
    descriptor = os.open(folder / "lock", os.O_WRONLY | os.O_CREAT, CONFIDENTIAL)
    with os.fdopen(descriptor, "wb") as handle:
        try:
            import fcntl
        except ImportError:  # a system without it: nothing to hold
            yield
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FileExistsError(f"out: another process is scoring into {folder}") from None
        yield


def _ahead(
    make: Callable[[Part], Iterator[Block]], parts: list[Part]
) -> Generator[tuple[Part, Iterator[Block]], None, None]:
    """Yield each part with its blocks; blocks are read in another thread, two ahead, also across parts."""
    stop = threading.Event()
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=2)

    def put(kind: str, value: Any) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put((kind, value), timeout=0.1)
                return

    def read() -> None:
        try:
            for part in parts:
                for block in make(part):
                    put("block", block)
                    if stop.is_set():
                        return
                put("end", None)
        except BaseException as error:
            put("error", error)

    def blocks() -> Iterator[Block]:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        for part in parts:
            yield part, blocks()
    finally:
        stop.set()
        reader.join()


def _score_part(
    part: Part, blocks: Iterator[Block], job: _Job, scorer: Scorer, path: Path, bar: Any, writing: ThreadPoolExecutor
) -> None:
    temporary = path.with_suffix(".tmp")
    output = _PartWriter(temporary)
    pending: Future[None] | None = None
    rows = 0
    try:
        for block in blocks:
            scores, unscored = scorer(block.X, block.y)
            for bad in np.flatnonzero(unscored).tolist():
                block.problems.setdefault(bad, why_unscored(block.X[bad]))
            if block.problems and job.on_bad_rows == "stop":
                row = min(block.problems)
                more = f" (and {len(block.problems) - 1} more nearby)" if len(block.problems) > 1 else ""
                raise BadRowError(
                    f"{part.file}, row {block.start + row}: {block.problems[row]}{more}; "
                    "on_bad_rows='null' scores the others"
                )
            if pending is not None:
                pending.result()
            table = _table(block, scores, part, job)
            pending = writing.submit(output.write, table)  # while the next block is scored
            rows += table.num_rows
            bar.update(table.num_rows)
        if pending is not None:
            pending.result()
    except BaseException:
        if pending is not None:
            wait([pending])
        output.close()
        temporary.unlink(missing_ok=True)
        raise
    output.close()
    if rows != part.rows:
        temporary.unlink(missing_ok=True)
        raise ValueError(f"{part.file} gave {rows} rows where {part.rows} were promised")
    _publish(temporary, path)


class _PartWriter:
    """A Parquet file that is opened with its first table."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None

    def write(self, table: Any) -> None:
        import pyarrow.parquet as pq

        if self._writer is None:
            self._path.touch(mode=CONFIDENTIAL)
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="none", use_dictionary=False)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _publish(temporary: Path, path: Path) -> None:
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    os.replace(temporary, path)


def _table(block: Block, scores: dict[str, NDArray[np.float64]], part: Part, job: _Job) -> Any:
    import pyarrow as pa

    n = block.X.shape[0]
    bad = np.zeros(n, dtype=np.bool_)
    bad[list(block.problems)] = True
    first = part.first_record + block.start - part.start
    record = pa.array(np.arange(first, first + n)) if block.ids is None else block.ids
    arrays, names = [record], ["record"]
    for name in job.names:
        arrays.append(pa.array(scores[name], mask=bad, from_pandas=False))
        names.append(name)
    if job.keep_norms:
        flat = pa.array(scores["grad_norms"].reshape(-1))
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, scores["grad_norms"].shape[1], mask=pa.array(bad)))
        names.append("grad_norms")
    return pa.table(arrays, names=names)


def _encoding(names: Sequence[str]) -> dict[str, Any]:
    # Scores are as good as random: compressing them or looking for repeated ones costs more than the scores.
    small = {name: "zstd" if name in ("record", "rank") else "none" for name in names}
    return {"compression": small, "use_dictionary": False}


def _assemble(
    folder: Path, n_parts: int, total: int, target: Path, ranked: str, settings: str, job: _Job, *, progress: bool
) -> int:
    """Write the parts and their ranks into one file and give it its name; return how many rows are bad."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = np.empty(total)
    at = bad = 0
    for index in range(n_parts):
        column = pq.ParquetFile(_part_path(folder, index)).read(columns=[ranked]).column(0)
        bad += column.null_count
        some = column.drop_null().to_numpy()
        values[at : at + some.size] = some
        at += some.size
    values = values[:at]
    values.sort()
    temporary = folder / "whole.tmp"
    temporary.touch(mode=CONFIDENTIAL)
    writer = None
    facts = {
        "status": "estimate",
        "settings": settings,
        "version": __version__,
        "rows": total,
        "bad_rows": bad,
        "orders": job.orders,
        "loss": job.probe.loss,
        "steps": job.probe.steps.tolist(),
    }
    for index in tqdm(range(n_parts), unit="part", desc="rank", disable=not progress, file=sys.stderr, leave=False):
        for batch in pq.ParquetFile(_part_path(folder, index)).iter_batches(batch_size=65_536):
            column = batch.column(ranked)
            losses = column.to_numpy(zero_copy_only=False)
            rank = np.empty(losses.size, dtype=np.int64)
            by_size = np.argsort(losses)  # searches in order stay in the cache
            rank[by_size] = values.size - np.searchsorted(values, losses[by_size], side="right") + 1
            table = pa.Table.from_batches([batch]).append_column(
                "rank", pa.array(rank, mask=column.is_null().to_numpy(zero_copy_only=False))
            )
            if writer is None:
                schema = table.schema.with_metadata({_KEY: json.dumps(facts, sort_keys=True).encode()})
                writer = pq.ParquetWriter(temporary, schema, **_encoding(schema.names))
            writer.write_table(table.cast(writer.schema))
    if writer is None:
        empty = pa.table({"record": pa.array([], pa.int64()), **{n: pa.array([], pa.float64()) for n in job.names}})
        empty = empty.append_column("rank", pa.array([], pa.int64()))
        empty = empty.replace_schema_metadata({_KEY: json.dumps(facts, sort_keys=True).encode()})
        writer = pq.ParquetWriter(temporary, empty.schema, **_encoding(empty.schema.names))
        writer.write_table(empty)
    writer.close()
    _publish(temporary, target)
    return bad
