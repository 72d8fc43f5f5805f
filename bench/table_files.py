"""Tables in Parquet shards that are quick to write: 1,024 records repeat, each with an id of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["NAMED", "bytes_of", "write_shards"]

GROUP = 65_536
REPEATED = 1024
SHARDS = 4
NAMED = {"target_column": "label", "id_column": "id"}


def bytes_of(records: int, features: int) -> int:
    """Return about how many bytes such a table takes."""
    return records * (4 * features + 17)


def write_shards(folder: Path, records: int, features: int) -> None:
    """Write float32 features, a label of two classes and an id of each record."""
    rng = np.random.default_rng(0)
    few = rng.standard_normal((REPEATED, features), dtype=np.float32) / np.float32(features**0.5)
    labels = (few @ rng.standard_normal(features) + 0.3 * rng.standard_normal(REPEATED) > 0).astype(np.int64)
    for shard, rows in enumerate(np.array_split(np.arange(records), SHARDS)):
        path, writer = folder / f"part-{shard}.parquet", None
        for start in range(0, len(rows), GROUP):
            some = rows[start : start + GROUP]
            X = pa.FixedSizeListArray.from_arrays(pa.array(few[some % REPEATED].ravel()), features)
            part = pa.table({"features": X, "label": labels[some % REPEATED], "id": some})
            writer = writer or pq.ParquetWriter(path, part.schema, compression="none", use_dictionary=False)
            writer.write_table(part)
        assert writer is not None
        writer.close()
