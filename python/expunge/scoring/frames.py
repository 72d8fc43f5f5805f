"""Scores of a table in memory, a stream of Arrow batches, a table of records or a file, as an Arrow table."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from expunge._errors import how_to_install
from expunge._validate import choice
from expunge.data.blocks import Records
from expunge.scoring.buffers import Buffers
from expunge.scoring.checkpoints import ProbeCheckpoints
from expunge.scoring.job import checked_orders, note_unscored, plan, shared
from expunge.scoring.measures import Scorer, loss_name, proxy_names
from expunge.scoring.parts import metadata_of, ranks, table_of
from expunge.scoring.shards import Columns, Layout, check_schema
from expunge.scoring.sources import Block, batch_blocks, record_blocks

if TYPE_CHECKING:
    import pyarrow

__all__ = ["ArrowStream", "score_table"]

_ROWS = 8192  # of a block
_Found = tuple[str, int, Block]  # place for errors, number of its row 0, rows


class ArrowStream(Protocol):
    """A frame or stream that Arrow can read: tables and readers of pyarrow, frames of pandas and polars."""

    @property
    def schema(self) -> object:
        """Columns and their types."""


def score_table(
    table: ArrowStream | Records | str | os.PathLike[str],
    checkpoints: ProbeCheckpoints | str | os.PathLike[str],
    *,
    record_id: str | None = None,
    features: Sequence[str] = ("features",),
    label: str = "label",
    labels: str | os.PathLike[str] | None = None,
    orders: Sequence[float] = (2.0,),
    append_one: bool = False,
    keep_norms: bool = False,
    on_bad_rows: str = "stop",
    threads: int | None = None,
) -> pyarrow.Table:
    """Return privacy losses, proxies and ranks of every record of a table, as an Arrow table. *Estimates*.

    Parameters
    ----------
    table : table, stream, Records or path-like
        A ``pyarrow.Table``, ``RecordBatch`` or ``RecordBatchReader``; a DataFrame of pandas or polars; a table of
        `expunge.data.open_records`, which has targets; or files, as for `score_files`. A reader is read once, batch by
        batch; memory holds its scores and a few batches.
    checkpoints : ProbeCheckpoints or path-like
        Checkpoints and training constants, or the ``.npz`` file of them.
    record_id : str, optional
        Column of the record's id; row numbers when omitted. `Records` have their own.
    features : sequence of str
        One list column, or d scalar columns; of `Records` all features are used.
    label : str
        Column of the label.
    labels, orders, append_one, keep_norms, on_bad_rows, threads
        As for `score_files`.

    Returns
    -------
    pyarrow.Table
        ``record``, the columns of `score_records`, and ``rank`` (1 = largest privacy loss of the first order; ties
        share a rank), one row per record, in order. Its metadata, key ``expunge``, say *estimate*. Scores have the
        bits of those that `score_files` writes.

    Raises
    ------
    BadRowError
        For the first bad row, unless ``on_bad_rows="null"``.
    TypeError, ValueError
        If an argument, a column or a type is not as described.
    ImportError
        Without pyarrow.

    Examples
    --------
    >>> import numpy as np
    >>> import pyarrow as pa
    >>> probe = ProbeCheckpoints(weights=np.zeros((1, 2, 2)), steps=[0], loss="softmax", n_steps=10, noise_std=1.0,
    ...                          step_size=0.1, sampling_probability=1.0, batch_size=1.0)
    >>> table = pa.table({"who": ["ann", "bob"], "features": [[3.0, 4.0], [0.0, 1.0]], "label": [1, 0]})
    >>> scores = score_table(table, probe, record_id="who")
    >>> scores.select(["record", "rank"]).to_pydict()
    {'record': ['ann', 'bob'], 'rank': [1, 2]}
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise ImportError(f"score_table needs pyarrow: {how_to_install('parquet')}") from None

    if isinstance(checkpoints, (str, os.PathLike)):
        checkpoints = ProbeCheckpoints.load(checkpoints)
    if not isinstance(checkpoints, ProbeCheckpoints):
        raise TypeError(f"checkpoints must be ProbeCheckpoints or their file, got {type(checkpoints).__name__}")
    probe, chosen = checkpoints, checked_orders(orders)
    choice("on_bad_rows", on_bad_rows, ("stop", "null"))
    columns = Columns(tuple(features), label, record_id, append_one=append_one)
    if isinstance(table, (str, os.PathLike)):
        job = plan(
            table,
            probe,
            orders=chosen,
            features=features,
            label=label,
            record_id=record_id,
            labels=labels,
            append_one=append_one,
            keep_norms=keep_norms,
            on_bad_rows=on_bad_rows,
            rows_per_part=65_536,
            threads=threads,
        )
        layout = job.layout
        found: Iterator[_Found] = (
            (str(part.file), part.first_record - part.start, block)
            for part in job.parts
            for block in job.blocks(part, Buffers())
        )
    elif labels is not None:
        raise ValueError("labels is for .npy files: name the column of the labels with label")
    elif isinstance(table, Records):
        layout, blocks = _of_records(table, columns, probe)
        found = (("table", 0, block) for block in blocks)
    else:
        layout, blocks = _of_arrow(table, columns, probe)
        found = (("table", 0, block) for block in blocks)
    workers, inner = shared(threads)
    scorer = Scorer(probe, orders=chosen, dtype=layout.dtype, keep_norms=keep_norms, threads=inner)
    names = [*map(loss_name, chosen), *proxy_names(probe.loss)]
    pieces = list(_scored(found, scorer, names, on_bad_rows, workers))
    if not pieces:
        raise ValueError("table must hold at least one record, got none")
    scores = pa.concat_tables(pieces)
    losses = scores.column(names[0]).combine_chunks()
    losses = losses.combine_chunks() if isinstance(losses, pa.ChunkedArray) else losses
    values = np.sort(losses.drop_null().to_numpy())
    scores = scores.append_column("rank", ranks(losses, values))
    facts = {"status": "estimate", "orders": chosen, "loss": probe.loss, "steps": probe.steps.tolist()}
    return scores.replace_schema_metadata(metadata_of(facts, rows=len(scores), bad_rows=losses.null_count))


def _scored(
    found: Iterator[_Found], scorer: Scorer, names: Sequence[str], on_bad_rows: str, workers: int
) -> Iterator[Any]:
    """Yield the scores of blocks in order; so many blocks are scored at a time."""

    def score(place: str, number: int, block: Block) -> Any:
        scores, unscored = scorer(block.X, block.y)
        note_unscored(block, unscored, place, on_bad_rows=on_bad_rows)
        return table_of(block, scores, number + block.start, names=names)

    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for one in found:
            waiting.append(pool.submit(partial(score, *one)))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _of_records(records: Records, columns: Columns, probe: ProbeCheckpoints) -> tuple[Layout, Iterator[Block]]:
    if columns.record_id is not None:
        raise TypeError("record_id must be omitted for a table of records, which has its own ids: see open_records")
    if not records.has_targets:
        raise ValueError("table has no targets: open it with target= or target_column=")
    if records.n_features + columns.append_one != probe.n_features:
        raise ValueError(
            f"table must have {probe.n_features - columns.append_one} features a row, got {records.n_features}"
        )
    blocks = record_blocks(records, append_one=columns.append_one, loss=probe.loss, n_outputs=probe.n_outputs)
    return Layout(records.dtype), blocks


def _of_arrow(table: Any, columns: Columns, probe: ProbeCheckpoints) -> tuple[Layout, Iterator[Block]]:
    import pyarrow as pa

    names = list(dict.fromkeys([*columns.features, columns.label, *filter(None, [columns.record_id])]))
    if hasattr(table, "iloc") and hasattr(table, "columns"):  # pandas
        table = pa.Table.from_pandas(table[[name for name in names if name in table.columns]], preserve_index=False)
    elif hasattr(table, "to_arrow") and hasattr(table, "columns"):  # polars
        table = table.select([name for name in names if name in table.columns]).to_arrow()
    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    if not isinstance(table, (pa.Table, pa.RecordBatchReader)):
        raise TypeError(
            "table must be a table, batch or reader of pyarrow, a frame of pandas or polars, a table of records or a "
            f"path, got {type(table).__name__}"
        )
    layout = check_schema(
        "table",
        table.schema,
        columns,
        n_features=probe.n_features - columns.append_one,
        loss=probe.loss,
        n_outputs=probe.n_outputs,
    )
    batches = table.select(names).to_batches() if isinstance(table, pa.Table) else (one.select(names) for one in table)
    blocks = batch_blocks(
        _even(batches),
        columns,
        layout,
        n_features=probe.n_features,
        loss=probe.loss,
        n_outputs=probe.n_outputs,
    )
    return layout, blocks


def _even(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield batches of about `_ROWS` rows: large ones are cut, small ones put together."""
    held: list[Any] = []
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS):
            held.append(batch.slice(start, _ROWS))
            if sum(one.num_rows for one in held) >= _ROWS:
                yield _joined(held)
                held = []
    if held:
        yield _joined(held)


def _joined(batches: list[Any]) -> Any:
    import pyarrow as pa

    if len(batches) == 1:
        return batches[0]
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
