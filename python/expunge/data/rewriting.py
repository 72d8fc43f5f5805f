"""Tables written anew without some of their rows: shard by shard, into a place that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from expunge import _validate
from expunge._files import CONFIDENTIAL, sync_folder
from expunge._files.outputs import check_places
from expunge._files.transaction import exclusive
from expunge.data.file_records import FileRecords
from expunge.data.parquet import open_parquet
from expunge.data.shards import ArrowShard, ParquetShard, Shard
from expunge.data.text_shard import TextShard

__all__ = ["write_without"]

_ROWS = 1 << 16  # of a large row group at a time


def write_without(
    records: FileRecords,
    gone: NDArray[np.bool_],
    destination: str | os.PathLike[str],
    *,
    check: Callable[[Path], None] = lambda _: None,
) -> tuple[str, ...]:
    r"""Write a table without some of its rows; the files that it lies in are read, and stay as they are.

    Parameters
    ----------
    records : FileRecords
        Parquet or Arrow files, or text tables that are not packed. All their columns are written, in row groups or
        lines as they are; Parquet is compressed by what compresses the first column.
    gone : ndarray of bool, shape (n_records,)
        Rows to leave out. Shards of which none is left are not written.
    destination : path-like
        A folder for a folder, with shards of the same names below it, else a file; there must be nothing yet.
    check : callable, optional
        Is given the written table under its temporary name; what it raises leaves nothing behind.

    Returns
    -------
    tuple of str
        Names of the files, relative to the destination, or its own.

    Raises
    ------
    FileExistsError, TypeError, ValueError
        If there is something at the destination, or it lies in the folder of the table, no row would be left, the
        ending is another, or the files are .npy; if ``gone`` does not hold True and False.
    OSError
        If it cannot be written; nothing is left behind.

    Notes
    -----
    Everything is written beside the destination under a hidden name, and takes its name at the end. After a kill the
    hidden folder or file is removed by the next call with the same destination. Files and the folder have the
    permissions of those that they are written from; from other file systems, they are for their owner alone.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from expunge.data.rewriting import write_without
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     place = pathlib.Path(folder)
    ...     _ = (place / "a.csv").write_text("id,x\nann,1\nbob,2\n")
    ...     records = FileRecords(place / "a.csv", id_column="id")
    ...     _ = write_without(records, np.array([True, False]), place / "b.csv")
    ...     (place / "b.csv").read_text()
    'id,x\nbob,2\n'
    """
    place = Path(os.path.abspath(destination))
    gone = _validate.unmasked("gone", gone)
    shards = records.shards
    if gone.dtype != np.bool_:
        raise TypeError(f"gone must say of each row whether it goes, True or False, got dtype {gone.dtype}")
    if gone.shape != (records.n_records,):
        raise ValueError(f"gone must have one entry for each of {records.n_records} rows, got shape {gone.shape}")
    if gone.all():
        raise ValueError("gone must leave a row, got all of them")
    for shard in shards:
        if not isinstance(shard, (ParquetShard, ArrowShard, TextShard)):
            raise ValueError(
                f"{shard.file.name}: tables of .npy files are not written anew, as their targets and ids lie in files "
                "of their own: write them with NumPy"
            )
    whole = records.in_folder
    if not whole and place.suffix.lower() != shards[0].file.suffix:
        raise ValueError(
            f"destination must end in {shards[0].file.suffix}, as {shards[0].file.name}, got {destination}"
        )
    if not place.parent.is_dir():
        raise FileNotFoundError(f"destination: there is no folder {place.parent}")
    if whole and shards[0].file.filesystem is None:
        check_places(outputs={"destination": place}, inputs={"the table": _folder_of(shards[0])})
    hidden = place.with_name(f".{place.name}.unfinished{'' if whole else place.suffix}")
    with exclusive([place]):
        if os.path.lexists(place):
            raise FileExistsError(f"destination: {destination} already exists")
        _remove(hidden)
        try:
            names = _written(shards, gone, hidden, whole=whole)
            check(hidden)
            os.rename(hidden, place)
        except BaseException:
            _remove(hidden)
            raise
        sync_folder(place.parent)
    return names if whole else (place.name,)


def _folder_of(shard: Shard) -> Path:
    """Return the folder that holds all shards, above the hive folders."""
    return Path(shard.file.name).parents[len(shard.file.keys)]


def _written(shards: tuple[Shard, ...], gone: NDArray[np.bool_], hidden: Path, *, whole: bool) -> tuple[str, ...]:
    names, first = [], 0
    bar = tqdm(shards, desc="write", unit="shard", leave=False, delay=1, disable=None)
    for shard in bar:
        mine = gone[first : first + shard.n_rows]
        first += shard.n_rows
        if mine.all():
            continue
        parts = PurePosixPath(shard.file.name.replace(os.sep, "/")).parts
        name = "/".join(parts[-1 - len(shard.file.keys) :])  # with hive folders
        path = hidden / name if whole else hidden
        if whole:
            hidden.mkdir(mode=0o700, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, CONFIDENTIAL))
        shard.require_same()
        if isinstance(shard, ParquetShard):
            _parquet(shard, mine, path)
        elif isinstance(shard, ArrowShard):
            _arrow(shard, mine, path)
        elif isinstance(shard, TextShard):
            with open(path, "wb") as out:
                for data in shard.without(mine):
                    out.write(data)
        shard.file.require_unchanged()
        if shard.file.filesystem is None:
            shutil.copymode(shard.file.name, path)
        _sync(path)
        names.append(name)
    if whole:
        first_one = shards[0].file
        if first_one.filesystem is None:
            shutil.copymode(_folder_of(shards[0]), hidden)
        for folder in {(hidden / name).parent for name in names}:
            sync_folder(folder)
    return tuple(names)


def _parquet(shard: ParquetShard, gone: NDArray[np.bool_], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    with shard.file.arrow() as stream:
        opened = open_parquet(stream)
        codec = next((opened.metadata.row_group(i).column(0).compression for i, n in enumerate(shard.groups) if n), "")
        compression = "none" if codec == "UNCOMPRESSED" else codec.lower() or "snappy"
        with parquet.ParquetWriter(path, opened.schema_arrow, compression=compression) as writer:
            at = 0
            for group, rows in enumerate(shard.groups):
                mine = ~gone[at : at + rows]
                at += rows
                if not mine.any():
                    continue
                kept, start = [], 0
                for batch in opened.iter_batches(batch_size=_ROWS, row_groups=[group]):
                    kept.append(batch.filter(pa.array(mine[start : start + batch.num_rows])))
                    start += batch.num_rows
                writer.write_table(pa.Table.from_batches(kept, schema=opened.schema_arrow), row_group_size=rows)


def _arrow(shard: ArrowShard, gone: NDArray[np.bool_], path: Path) -> None:
    import pyarrow as pa

    with shard.file.arrow() as stream, pa.OSFile(str(path), "wb") as sink:
        opened = pa.ipc.open_file(stream)
        with pa.ipc.new_file(sink, opened.schema) as writer:
            at = 0
            for group, rows in enumerate(shard.groups):
                mine = ~gone[at : at + rows]
                at += rows
                if mine.any():
                    writer.write_batch(opened.get_batch(group).filter(pa.array(mine)))


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
