"""The scoring run: part after part into files of their own, then one file with ranks. A kill loses at most one part."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from expunge._files.outputs import check_places
from expunge._validate import choice, count, real_array
from expunge._version import __version__
from expunge.data.ahead import streams_ahead
from expunge.scoring.checkpoints import ProbeCheckpoints
from expunge.scoring.measures import Scorer, loss_name, proxy_names, why_unscored
from expunge.scoring.parts import PartWriter, assemble, facts_of, only_one, part_path, prepare, publish, table_of
from expunge.scoring.shards import Columns, Layout, Part, label_files, list_files, list_parts
from expunge.scoring.sources import BadRowError, Block, read_blocks

__all__ = ["ScoreSummary", "score_files"]

_BLOCK_BYTES = 1 << 24  # features and norms of a block; a few blocks exist at a time
_READERS = 2  # parts that are read at a time


@dataclass(frozen=True)
class ScoreSummary:
    """Summary of a scoring run.

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
        ending in any case). Names that begin with a dot or an underscore are skipped; other files are rejected.
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
    done = facts_of(target, settings)
    if done is not None and not folder.exists() and not overwrite:
        return ScoreSummary(target, done["rows"], done["bad_rows"], len(parts), len(parts), time.perf_counter() - begun)
    prepare(target, folder, settings, overwrite=overwrite, restart=restart)
    with only_one(folder):
        resumed = sum(part_path(folder, i).exists() for i in range(len(parts)))
        job = _Job(probe, columns, layout, chosen, keep_norms, on_bad_rows, threads)
        scorer = Scorer(probe, orders=chosen, dtype=layout.dtype, keep_norms=keep_norms, threads=threads)
        left = [i for i in range(len(parts)) if not part_path(folder, i).exists()]
        total, kept = sum(part.rows for part in parts), sum(part.rows for i, part in enumerate(parts) if i not in left)
        with tqdm(
            total=total, initial=kept, unit="rows", unit_scale=True, disable=not progress, file=sys.stderr, desc="score"
        ) as bar:
            ahead = streams_ahead((partial(job.blocks, parts[i]) for i in left), threads=_READERS)
            with contextlib.closing(ahead), ThreadPoolExecutor(1) as writing:
                for index, blocks in zip(left, ahead, strict=True):
                    part = parts[index]
                    _score_part(part, blocks, job, scorer, part_path(folder, index), bar, writing)
        facts = {
            "status": "estimate",
            "settings": settings,
            "version": __version__,
            "orders": chosen,
            "loss": probe.loss,
            "steps": probe.steps.tolist(),
        }
        bad = assemble(
            folder, len(parts), total, target, names=job.names, ranked=loss_name(chosen[0]), facts=facts,
            progress=progress,
        )  # fmt: skip
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


def _score_part(
    part: Part, blocks: Iterator[Block], job: _Job, scorer: Scorer, path: Path, bar: Any, writing: ThreadPoolExecutor
) -> None:
    temporary = path.with_suffix(".tmp")
    output = PartWriter(temporary)
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
            table = table_of(block, scores, part, names=job.names)
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
    publish(temporary, path)
