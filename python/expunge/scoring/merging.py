"""One file of scores from the shards that many processes wrote, with ranks among all records."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

from expunge._files.outputs import check_places
from expunge.scoring.measures import loss_name
from expunge.scoring.parts import assemble, facts_in, facts_of, only_one, prepare
from expunge.scoring.run import ScoreSummary, parts_beside

__all__ = ["merge_shards"]


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
    place = parts_beside(target)
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
