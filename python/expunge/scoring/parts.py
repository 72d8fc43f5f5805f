"""Files of a scoring run: the folder of finished parts, and the one file that is made of them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from expunge._files import CONFIDENTIAL, read_json, write_atomic
from expunge.data.ahead import streams_ahead
from expunge.data.parquet import open_parquet
from expunge.scoring.sources import Block

__all__ = [
    "PartWriter",
    "assemble",
    "facts_in",
    "facts_of",
    "metadata_of",
    "only_one",
    "part_path",
    "prepare",
    "ranks",
    "table_of",
]

_KEY = b"expunge"


def part_path(folder: Path, index: int) -> Path:
    """Return the file of a finished part."""
    return folder / f"part-{index:08d}.parquet"


def facts_of(target: Path, settings: str, *, on_bad_rows: str) -> dict[str, Any] | None:
    """Return the facts of the file if it is the result of a run with these inputs and settings.

    A file with null rows is none of a run that stops at the first.
    """
    if not target.exists():
        return None
    try:
        facts, _ = facts_in(target)
    except ValueError:
        return None
    if facts.get("settings") != settings or (on_bad_rows == "stop" and facts["bad_rows"]):
        return None
    return facts


def facts_in(file: Path) -> tuple[dict[str, Any], Any]:
    """Return the facts and the Arrow schema of a file of scores; no facts of another Parquet file.

    Raises
    ------
    ValueError
        If it is not a whole Parquet file.
    """
    with _whole(file):
        schema = open_parquet(file).schema_arrow
        facts = json.loads((schema.metadata or {}).get(_KEY, b"{}"))
    return facts if isinstance(facts, dict) else {}, schema.remove_metadata()


def metadata_of(facts: Mapping[str, Any], *, rows: int, bad_rows: int) -> dict[bytes, bytes]:
    """Return facts as the metadata of a file or table of scores."""
    return {_KEY: json.dumps({**facts, "rows": rows, "bad_rows": bad_rows}, sort_keys=True).encode()}


def prepare(target: Path, folder: Path, settings: str, *, on_bad_rows: str, overwrite: bool, restart: bool) -> None:
    """Make the folder of parts, or find that of an unfinished run with these settings.

    Parts of a run that stopped at a bad row have none: a run that writes them as null goes on with these, not the other
    way round.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, FileExistsError
        If ``target`` has no folder, is one, or is there already, or the folder of parts is of another run.
    """
    if not target.parent.is_dir():
        raise FileNotFoundError(f"out: the folder {target.parent} does not exist")
    if target.is_dir():
        raise IsADirectoryError(f"out: {target} is a folder, needed the name of a file")
    if restart and folder.exists():
        shutil.rmtree(folder)
    plan = folder / "plan.json"
    described = json.dumps({"settings": settings, "on_bad_rows": on_bad_rows}).encode()
    if plan.exists():
        found = read_json(plan, what="plan of an unfinished run")
        if found.get("settings") != settings:
            raise FileExistsError(
                f"out: {folder} holds an unfinished run with other inputs or settings; pass restart=True (--restart) "
                "to discard it"
            )
        if found.get("on_bad_rows") != on_bad_rows:
            if on_bad_rows == "stop":
                raise FileExistsError(
                    f"out: {folder} holds an unfinished run whose bad rows are null; go on with on_bad_rows='null' "
                    "(--on-bad-rows null), or pass restart=True (--restart) to discard it"
                )
            write_atomic(plan, described, overwrite=True)
    else:
        if target.exists() and not overwrite:
            raise FileExistsError(f"out: {target} already exists; pass overwrite=True (--overwrite) to replace it")
        folder.mkdir(mode=0o700, exist_ok=True)  # scores tell something of single records
        write_atomic(plan, described, overwrite=True)
    for stray in folder.glob("*.tmp"):
        stray.unlink()


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
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


class PartWriter:
    """Parquet file of a part, which has its name once it is whole, and the disk has it where that is asked for."""

    def __init__(self, path: Path, *, rows: int, source: str, durable: bool) -> None:
        self._durable = durable
        self._path, self._temporary, self._rows, self._source = path, path.with_suffix(".tmp"), rows, source
        self._written = 0
        self._writer: Any = None

    def write(self, table: Any) -> None:
        """Append a table."""
        import pyarrow.parquet as pq

        if self._writer is None:
            self._temporary.touch(mode=CONFIDENTIAL)
            self._writer = pq.ParquetWriter(self._temporary, table.schema, compression="none", use_dictionary=False)
        self._writer.write_table(table)
        self._written += table.num_rows

    def publish(self) -> None:
        """End the file and give it its name.

        Raises
        ------
        ValueError
            If rows are missing, or there are too many.
        """
        if self._written != self._rows:
            raise ValueError(f"{self._source} gave {self._written} rows where {self._rows} were promised")
        self._writer.close()
        publish(self._temporary, self._path, durable=self._durable)

    def discard(self) -> None:
        """Take the unfinished file away."""
        if self._writer is not None:
            self._writer.close()
            self._temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path, *, durable: bool = True) -> None:
    """Give a whole file its name, once the disk has it unless nobody needs that."""
    if durable:
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
    os.replace(temporary, path)


def table_of(block: Block, scores: Mapping[str, NDArray[np.float64]], first: int, *, names: Sequence[str]) -> Any:
    """Return the scores of a block, whose first row is record ``first``, as an Arrow table.

    ``grad_norms`` too where there are any.
    """
    import pyarrow as pa

    n = block.X.shape[0]
    bad = np.zeros(n, dtype=np.bool_)
    bad[list(block.problems)] = True
    record = pa.array(np.arange(first, first + n)) if block.ids is None else block.ids
    columns = {"record": record}
    for name in names:
        columns[name] = pa.array(scores[name], mask=bad, from_pandas=False)
    if "grad_norms" in scores:
        # Lists of any length: PyArrow before 26 cannot write null lists of fixed size, or cannot read them again.
        norms = scores["grad_norms"]
        ends = np.cumsum(np.where(bad, 0, norms.shape[1]), dtype=np.int32)
        offsets = pa.array(np.append(np.int32(0), ends), mask=np.append(bad, False))
        columns["grad_norms"] = pa.ListArray.from_arrays(offsets, pa.array(norms[~bad].reshape(-1)))
    return pa.table(columns)


def _encoding(names: Sequence[str]) -> dict[str, Any]:
    # Scores are as good as random: compressing them or looking for repeated ones costs more than the scores.
    small = {name: "zstd" if name in ("record", "rank") else "none" for name in names}
    return {"compression": small, "use_dictionary": False}


def assemble(
    files: Sequence[Path],
    temporary: Path,
    target: Path,
    *,
    schema: Any,
    total: int,
    ranked: str | None,
    facts: Mapping[str, Any],
    progress: bool,
) -> int:
    """Write files of scores into one, with the ranks of a column, and give it its name; return how many rows are bad.

    Pages carry checksums, which are verified where they are read. Memory holds the column that is ranked.
    """
    import pyarrow as pa
    from pyarrow import parquet as pq

    values, bad = _sorted_values(files, schema.names[1] if ranked is None else ranked, total)
    metadata = metadata_of(facts, rows=total, bad_rows=bad)
    schema = (schema if ranked is None else schema.append(pa.field("rank", pa.int64()))).with_metadata(metadata)
    temporary.touch(mode=CONFIDENTIAL)
    ahead = streams_ahead((partial(_ranked, file, ranked, values, schema) for file in files), threads=2)
    with (
        contextlib.closing(ahead),
        pq.ParquetWriter(temporary, schema, write_page_checksum=True, **_encoding(schema.names)) as writer,
    ):
        bar = tqdm(
            ahead, total=len(files), unit="part", desc="rank", disable=not progress, file=sys.stderr, leave=False
        )
        for tables in bar:
            for table in tables:
                writer.write_table(table)
        if not total:
            writer.write_table(schema.empty_table())
    publish(temporary, target)
    return bad


def _sorted_values(files: Sequence[Path], name: str, total: int) -> tuple[NDArray[np.float64], int]:
    """Return a column of all files, sorted, and how many values are missing."""
    values = np.empty(total)
    at = bad = 0
    for file in files:
        with _whole(file):
            column = open_parquet(file, verify=True).read(columns=[name]).column(0)
        bad += column.null_count
        some = column.drop_null().to_numpy()
        values[at : at + some.size] = some
        at += some.size
    values = values[:at]
    values.sort()
    return values, bad


def _ranked(file: Path, ranked: str | None, values: NDArray[np.float64], schema: Any) -> Iterator[Any]:
    """Yield the tables of a file, with ranks among all ``values`` in order."""
    import pyarrow as pa

    with _whole(file):
        for batch in open_parquet(file, verify=True).iter_batches(batch_size=65_536):
            table = pa.Table.from_batches([batch])
            if ranked is not None:
                table = table.append_column("rank", ranks(batch.column(ranked), values))
            yield table.cast(schema)


def ranks(losses: Any, values: NDArray[np.float64]) -> Any:
    """Return the ranks of an Arrow array among all values in order: 1 for the largest; ties share a rank."""
    import pyarrow as pa

    given = losses.to_numpy(zero_copy_only=False)
    rank = np.empty(given.size, dtype=np.int64)
    by_size = np.argsort(given)  # searches in order stay in the cache
    rank[by_size] = values.size - np.searchsorted(values, given[by_size], side="right") + 1
    return pa.array(rank, mask=losses.is_null().to_numpy(zero_copy_only=False))


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, ValueError, OSError) as error:
        raise ValueError(f"{file} is not a whole file of scores: {' '.join(str(error).split())}") from None
