"""Scoring by many processes: each scores a shard of the parts, and one merges what they wrote and ranks it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from expunge._files.outputs import check_places
from expunge._validate import count
from expunge.scoring.checkpoints import ProbeCheckpoints
from expunge.scoring.job import plan, score_parts
from expunge.scoring.measures import loss_name
from expunge.scoring.parts import assemble, facts_in, facts_of, only_one, part_path, prepare
from expunge.scoring.run import ScoreSummary
from expunge.scoring.shards import Part

__all__ = ["merge_shards", "score_shard"]


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
    target = folder / f"shard-{shard}-of-{n_shards}.parquet"
    parts = Path(f"{target}.parts")
    check_places(
        outputs={"the folder of shards": folder}, inputs={"source": source, "labels": labels, "shard": job.files}
    )
    wanted = _share(job.parts, shard, n_shards)
    rows = sum(job.parts[i].rows for i in wanted)
    settings = hashlib.sha256(f"{job.settings()} {shard}/{n_shards}".encode()).hexdigest()
    done = facts_of(target, settings, on_bad_rows=on_bad_rows)
    if done is not None and not parts.exists() and not overwrite:
        return ScoreSummary(target, rows, done["bad_rows"], len(wanted), len(wanted), time.perf_counter() - begun)
    fingerprint = hashlib.sha256(f"{job.fingerprint()} {n_shards}".encode()).hexdigest()
    folder.mkdir(mode=0o700, exist_ok=True)
    prepare(target, parts, settings, on_bad_rows=on_bad_rows, overwrite=overwrite, restart=restart)
    with only_one(parts):
        resumed = score_parts(job, parts, wanted, progress=progress)
        first = job.parts[wanted.start].first_record if wanted else 0
        bad = assemble(
            [part_path(parts, i) for i in wanted],
            parts / "whole.tmp",
            target,
            schema=job.schema,
            total=rows,
            ranked=None,
            facts={
                **job.facts(settings),
                "job": fingerprint,
                "shard": [shard, n_shards],
                "first_record": first,
                "rows_of_all": job.rows,
            },
            progress=progress,
        )
    shutil.rmtree(parts)
    return ScoreSummary(target, rows, bad, len(wanted), resumed, time.perf_counter() - begun)


def _share(parts: Sequence[Part], shard: int, n_shards: int) -> range:
    """Return the numbers of the parts whose middle lies in a shard of the rows."""
    total = sum(part.rows for part in parts)
    of = [(2 * part.first_record + part.rows) * n_shards // (2 * total) + 1 for part in parts]
    return range(sum(one < shard for one in of), sum(one <= shard for one in of))


# --- merging ---------------------------------------------------------------------------------------


class _Shard(NamedTuple):
    file: Path
    facts: dict[str, Any]
    schema: Any

    @property
    def number(self) -> int:
        return int(self.facts["shard"][0])

    @property
    def of(self) -> int:
        return int(self.facts["shard"][1])


def merge_shards(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    progress: bool = True,
    overwrite: bool = False,
    restart: bool = False,
) -> ScoreSummary:
    """Write the scores of all shards, and their ranks, into one file.

    Parameters
    ----------
    folder : path-like
        Where `score_shard` wrote all shards of one job. They stay as they are.
    out : path-like
        The Parquet file to write, not in ``folder``; what is unfinished lies in ``<out>.parts``.
    progress, overwrite, restart : bool
        Show a progress bar, on stderr; replace an existing ``out``; throw away the parts of another unfinished run
        that wait in ``<out>.parts``.

    Returns
    -------
    ScoreSummary
        ``parts`` counts shards; where ``out`` is the result of these shards already, all of them are resumed.

    Raises
    ------
    FileExistsError
        If ``out`` exists and is not the result of these shards, or another unfinished run waits in ``<out>.parts``.
    FileNotFoundError, ValueError
        Naming the shards that are missing or unfinished, those of another job, two of the same number, or a file that
        is damaged or no shard.

    Notes
    -----
    The scores are those of `score_files`, bit for bit, in the same order. ``out`` appears whole or not at all: after a
    kill the same call does it again. Memory holds 8 bytes a record for the rank. Pages of shards carry checksums,
    which are verified.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as place:  # `score_shard` has a whole one
    ...     merge_shards(place, pathlib.Path(place) / "scores.parquet", progress=False)
    Traceback (most recent call last):
    ...
    FileNotFoundError: ... holds no finished shard
    """
    begun = time.perf_counter()
    folder, target = Path(folder), Path(out)
    shards = _shards(folder)
    place = Path(f"{target}.parts")
    check_places(outputs={"out": target, "the folder of parts": place}, inputs={"the folder of shards": folder})
    first = shards[0].facts
    total, n = first["rows_of_all"], len(shards)
    done = facts_of(target, first["job"], on_bad_rows="null")
    if done is not None and not place.exists() and not overwrite:
        return ScoreSummary(target, total, done["bad_rows"], n, n, time.perf_counter() - begun)
    prepare(target, place, first["job"], on_bad_rows="null", overwrite=overwrite, restart=restart)
    with only_one(place):
        bad = assemble(
            [shard.file for shard in shards],
            place / "whole.tmp",
            target,
            schema=shards[0].schema,
            total=total,
            ranked=loss_name(first["orders"][0]),
            facts={
                **{name: first[name] for name in ("status", "version", "orders", "loss", "steps")},
                "settings": first["job"],
            },
            progress=progress,
        )
    shutil.rmtree(place)
    return ScoreSummary(target, total, bad, n, 0, time.perf_counter() - begun)


def _shards(folder: Path) -> list[_Shard]:
    """Return all shards of a job in order, or refuse what is missing, twice there, or of another job."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder of shards {folder}")
    found: dict[int, _Shard] = {}
    unfinished: set[int] = set()
    first: _Shard | None = None
    for file in sorted(folder.iterdir()):
        if file.name.startswith((".", "_")):
            continue
        if match := re.fullmatch(r"shard-(\d+)-of-\d+\.parquet\.parts", file.name):
            unfinished.add(int(match[1]))
            continue
        one = _shard_in(file)
        first = first or one
        if one.facts["job"] != first.facts["job"]:
            raise ValueError(
                f"{file} (shard {one.number} of {one.of}) is of another job than {first.file} (shard {first.number} of "
                f"{first.of}): data, checkpoints, settings and the number of shards must be the same"
            )
        if one.number in found:
            raise ValueError(f"{found[one.number].file} and {file} are both shard {one.number} of {one.of}")
        found[one.number] = one
    if first is None:
        raise FileNotFoundError(f"{folder} holds no finished shard{_which(unfinished, 'unfinished')}")
    if missing := sorted(set(range(1, first.of + 1)) - set(found)):
        raise FileNotFoundError(
            f"{folder} lacks shards {', '.join(map(str, missing[:20]))}{', ...' if len(missing) > 20 else ''} of "
            f"{first.of}{_which(unfinished & set(missing), 'unfinished')}: score them first"
        )
    shards = [found[number] for number in sorted(found)]
    at = 0
    for one in shards:
        if one.facts["rows"] and one.facts["first_record"] != at:
            raise ValueError(f"{one.file} must begin with record {at}, got {one.facts['first_record']}")
        at += one.facts["rows"]
    if at != first.facts["rows_of_all"]:
        raise ValueError(f"the shards in {folder} hold {at} records, and their job {first.facts['rows_of_all']}")
    return shards


def _which(numbers: set[int], how: str) -> str:
    return f" ({how}: {', '.join(map(str, sorted(numbers)[:20]))})" if numbers else ""


def _shard_in(file: Path) -> _Shard:
    if not file.is_file() or not file.name.endswith(".parquet"):
        raise ValueError(f"{file} is no shard: move it away, or begin its name with an underscore to leave it out")
    facts, schema = facts_in(file)
    if not {"job", "shard", "rows", "rows_of_all", "first_record", "orders"} <= set(facts):
        raise ValueError(
            f"{file} is no shard, but another Parquet file: move it away, or begin its name with an underscore"
        )
    return _Shard(file, facts, schema)
