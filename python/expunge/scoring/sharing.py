"""Scoring by many processes, each of which scores a shard of the parts."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge._files.outputs import check_places
from expunge._validate import count
from expunge.scoring.checkpoints import ProbeCheckpoints
from expunge.scoring.job import plan
from expunge.scoring.run import ScoreSummary, write_parts
from expunge.scoring.shards import Part

__all__ = ["score_shard"]


def score_shard(
    source: str | os.PathLike[str],
    probe: ProbeCheckpoints,
    folder: str | os.PathLike[str],
    *,
    shard: int,
    n_shards: int,
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
    """Score one of several shares of a dataset on disk, for `merge_shards` to put together.

    Parameters
    ----------
    source, probe, orders, features, label, record_id, labels, append_one, keep_norms, on_bad_rows, rows_per_part
        As for `score_files`, and the same for all shards; of ``on_bad_rows``, those without bad rows may have either.
    folder : path-like
        Where all shards are written, made if need be: ``shard-3-of-16.parquet``, with its unfinished parts in
        ``shard-3-of-16.parquet.parts``.
    shard, n_shards : int
        Which share, from 1 to ``n_shards``.
    threads, progress
        As for `score_files`.
    overwrite, restart : bool
        Replace a shard that is there already; throw away the parts of an unfinished run.

    Returns
    -------
    ScoreSummary
        Of this shard.

    Raises
    ------
    BadRowError, FileExistsError, TypeError, ValueError
        As for `score_files`; if ``shard`` is not within [1, n_shards].

    Notes
    -----
    A shard is a run of parts (row groups of Parquet, ``rows_per_part`` rows of ``.npy``) that depends on the data and
    ``n_shards`` alone, as equal in rows as parts allow. Scores have the bits of a single process. What is written says
    which job it belongs to: names, sizes and the first and last MiB of all files, the checkpoints, the settings and
    ``n_shards``. Paths and times of change do not count, so that machines may read copies.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from expunge.scoring import merge_shards
    >>> probe = ProbeCheckpoints(weights=np.zeros((1, 2, 2)), steps=[0], loss="softmax", n_steps=10, noise_std=1.0,
    ...                          step_size=0.1, sampling_probability=1.0, batch_size=1.0)
    >>> with tempfile.TemporaryDirectory() as place:
    ...     place = pathlib.Path(place)
    ...     np.save(place / "x.npy", np.array([[3.0, 4.0], [0.0, 1.0]]))
    ...     np.save(place / "y.npy", np.array([1, 0]))
    ...     for shard in (1, 2):
    ...         done = score_shard(place / "x.npy", probe, place / "shards", shard=shard, n_shards=2, rows_per_part=1,
    ...                            labels=place / "y.npy", progress=False)
    ...     merged = merge_shards(place / "shards", place / "scores.parquet", progress=False)
    >>> done.rows, merged.rows, merged.parts
    (1, 2, 2)
    """
    begun = time.perf_counter()
    n_shards = count("n_shards", n_shards, low=1)
    if count("shard", shard, low=1) > n_shards:
        raise ValueError(f"shard must be within [1, {n_shards}], got {shard}")
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
    folder = Path(folder)
    check_places(
        outputs={"the folder of shards": folder}, inputs={"source": source, "labels": labels, "shard": job.files}
    )
    wanted = _share(job.parts, shard, n_shards)
    settings = hashlib.sha256(f"{job.settings()} {shard}/{n_shards}".encode()).hexdigest()

    def facts() -> dict[str, Any]:
        return {
            **job.facts(settings),
            "job": hashlib.sha256(f"{job.fingerprint()} {n_shards}".encode()).hexdigest(),
            "shard": [shard, n_shards],
            "first_record": job.parts[wanted.start].first_record if wanted else 0,
            "rows_of_all": job.rows,
        }

    folder.mkdir(mode=0o700, exist_ok=True)
    return write_parts(
        job,
        wanted,
        folder / f"shard-{shard}-of-{n_shards}.parquet",
        settings=settings,
        ranked=None,
        facts=facts,
        begun=begun,
        progress=progress,
        overwrite=overwrite,
        restart=restart,
    )


def _share(parts: Sequence[Part], shard: int, n_shards: int) -> range:
    """Return the numbers of the parts whose middle lies in a shard of the rows."""
    total = sum(part.rows for part in parts)
    of = [(2 * part.first_record + part.rows) * n_shards // (2 * total) + 1 for part in parts]
    return range(sum(one < shard for one in of), sum(one <= shard for one in of))
