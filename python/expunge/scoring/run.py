"""The scoring run: part after part into files of their own, then one file with ranks. A kill loses at most one part."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge._files.outputs import check_places
from expunge.scoring.checkpoints import ProbeCheckpoints
from expunge.scoring.job import Job, PartEngine, plan, score_parts
from expunge.scoring.measures import loss_name
from expunge.scoring.parts import assemble, facts_of, only_one, part_path, prepare

__all__ = ["ScoreSummary", "parts_beside", "score_files", "write_parts"]


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
    engine: PartEngine | None = None,
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
    engine : expunge.distributed.Dask, optional
        Cluster whose workers score the parts. They read the data themselves; ``out`` is written here.

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
    run with the same number of threads; so does one with ``on_bad_rows="null"`` after a bad row. Memory does not grow
    with the number of records, apart from 8 bytes a record for the rank. Scores are *estimates*; the file's metadata
    say so.

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
    job = plan(
        source,
        probe,
        orders=orders,
        features=features,
        label=label,
        record_id=record_id,
        labels=labels,
        append_one=append_one,
        keep_norms=keep_norms,
        on_bad_rows=on_bad_rows,
        rows_per_part=rows_per_part,
        threads=threads,
    )
    target = Path(out)
    check_places(
        outputs={"out": target, "the folder of parts": parts_beside(target)},
        inputs={"source": source, "labels": labels, "shard": job.files},
    )
    settings = job.settings()
    return write_parts(
        job,
        range(len(job.parts)),
        target,
        settings=settings,
        ranked=loss_name(job.orders[0]),
        facts=lambda: job.facts(settings),
        begun=begun,
        engine=engine,
        progress=progress,
        overwrite=overwrite,
        restart=restart,
    )


def parts_beside(target: Path) -> Path:
    """Return the folder in which finished parts of a file of scores wait."""
    return Path(f"{target}.parts")


def write_parts(
    job: Job,
    wanted: range,
    target: Path,
    *,
    settings: str,
    ranked: str | None,
    facts: Callable[[], Mapping[str, Any]],
    begun: float,
    engine: PartEngine | None = None,
    progress: bool,
    overwrite: bool,
    restart: bool,
) -> ScoreSummary:
    """Write the scores of some parts of a job into one file, or find it there; a run that was stopped goes on.

    ``settings`` is what a run is known by, ``ranked`` the column whose ranks are written, ``facts`` gives what is
    written beside the scores, ``begun`` is when the call began.
    """
    folder, n = parts_beside(target), len(wanted)
    rows = sum(job.parts[i].rows for i in wanted)
    done = facts_of(target, settings, on_bad_rows=job.on_bad_rows)
    if done is not None and not folder.exists() and not overwrite:
        return ScoreSummary(target, rows, done["bad_rows"], n, n, time.perf_counter() - begun)
    told = facts()
    prepare(target, folder, settings, on_bad_rows=job.on_bad_rows, overwrite=overwrite, restart=restart)
    with only_one(folder):
        resumed = score_parts(job, folder, wanted, progress=progress, engine=engine)
        bad = assemble(
            [part_path(folder, i) for i in wanted],
            folder / "whole.tmp",
            target,
            schema=job.schema,
            total=rows,
            ranked=ranked,
            facts=told,
            progress=progress,
        )
    shutil.rmtree(folder)
    return ScoreSummary(target, rows, bad, n, resumed, time.perf_counter() - begun)
