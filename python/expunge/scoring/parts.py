"""Files of a scoring run: the folder of finished parts, and the one file that is made of them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from expunge._files import CONFIDENTIAL, read_json, write_atomic
from expunge.data.parquet import open_parquet
from expunge.scoring.shards import Part
from expunge.scoring.sources import Block

__all__ = ["PartWriter", "assemble", "facts_of", "only_one", "part_path", "prepare", "publish", "table_of"]

_KEY = b"expunge"


def part_path(folder: Path, index: int) -> Path:
    """Return the file of a finished part."""
    return folder / f"part-{index:08d}.parquet"


def facts_of(target: Path, settings: str) -> dict[str, Any] | None:
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


def prepare(target: Path, folder: Path, settings: str, *, overwrite: bool, restart: bool) -> None:
    """Make the folder of parts, or find that of an unfinished run with these settings.

    Raises
    ------
    FileNotFoundError, FileExistsError
        If ``target`` has no folder or is there already, or the folder of parts is of another run.
    """
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
            raise FileExistsError(f"out: {target} already exists; pass overwrite=True to replace it")
        folder.mkdir(mode=0o700, exist_ok=True)  # scores tell something of single records
        write_atomic(plan, json.dumps({"settings": settings}).encode(), overwrite=True)
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
    """A Parquet file that is opened with its first table."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None

    def write(self, table: Any) -> None:
        """Append a table."""
        import pyarrow.parquet as pq

        if self._writer is None:
            self._path.touch(mode=CONFIDENTIAL)
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="none", use_dictionary=False)
        self._writer.write_table(table)

    def close(self) -> None:
        """End the file, if it was begun."""
        if self._writer is not None:
            self._writer.close()


def publish(temporary: Path, path: Path) -> None:
    """Give a whole file its name, once the disk has it."""
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    os.replace(temporary, path)


def table_of(block: Block, scores: Mapping[str, NDArray[np.float64]], part: Part, *, names: Sequence[str]) -> Any:
    """Return the scores of a block as an Arrow table; ``grad_norms`` too where there are any."""
    import pyarrow as pa

    n = block.X.shape[0]
    bad = np.zeros(n, dtype=np.bool_)
    bad[list(block.problems)] = True
    first = part.first_record + block.start - part.start
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
    folder: Path,
    n_parts: int,
    total: int,
    target: Path,
    *,
    names: Sequence[str],
    ranked: str,
    facts: Mapping[str, Any],
    progress: bool,
) -> int:
    """Write the parts and their ranks into one file and give it its name; return how many rows are bad."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = np.empty(total)
    at = bad = 0
    for index in range(n_parts):
        column = open_parquet(part_path(folder, index)).read(columns=[ranked]).column(0)
        bad += column.null_count
        some = column.drop_null().to_numpy()
        values[at : at + some.size] = some
        at += some.size
    values = values[:at]
    values.sort()
    temporary = folder / "whole.tmp"
    temporary.touch(mode=CONFIDENTIAL)
    writer = None
    metadata = {_KEY: json.dumps({**facts, "rows": total, "bad_rows": bad}, sort_keys=True).encode()}
    for index in tqdm(range(n_parts), unit="part", desc="rank", disable=not progress, file=sys.stderr, leave=False):
        for batch in open_parquet(part_path(folder, index)).iter_batches(batch_size=65_536):
            column = batch.column(ranked)
            losses = column.to_numpy(zero_copy_only=False)
            rank = np.empty(losses.size, dtype=np.int64)
            by_size = np.argsort(losses)  # searches in order stay in the cache
            rank[by_size] = values.size - np.searchsorted(values, losses[by_size], side="right") + 1
            table = pa.Table.from_batches([batch]).append_column(
                "rank", pa.array(rank, mask=column.is_null().to_numpy(zero_copy_only=False))
            )
            if writer is None:
                schema = table.schema.with_metadata(metadata)
                writer = pq.ParquetWriter(temporary, schema, **_encoding(schema.names))
            writer.write_table(table.cast(writer.schema))
    if writer is None:
        empty = pa.table({"record": pa.array([], pa.int64()), **{n: pa.array([], pa.float64()) for n in names}})
        empty = empty.append_column("rank", pa.array([], pa.int64()))
        empty = empty.replace_schema_metadata(metadata)
        writer = pq.ParquetWriter(temporary, empty.schema, **_encoding(empty.schema.names))
        writer.write_table(empty)
    writer.close()
    publish(temporary, target)
    return bad
