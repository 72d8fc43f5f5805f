"""Results that are tables: as Arrow, pandas and Parquet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from expunge._errors import how_to_install
from expunge._files import write_atomic
from expunge._types import AnyArray
from expunge.data.writing import parquet_bytes

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Tabular"]


class Tabular:
    """A result with one row per record, id or group.

    A subclass gives its columns, and what all rows share.
    """

    def _columns(self) -> dict[str, AnyArray]:
        raise NotImplementedError

    def _claim(self) -> dict[str, object]:
        raise NotImplementedError

    def _writable(self) -> dict[str, AnyArray]:
        # Integers of more than 64 bits have no column type of their own.
        return {
            name: values if values.dtype.kind != "O" else np.array([str(one) for one in values.tolist()])
            for name, values in self._columns().items()
        }

    def _notes(self) -> Mapping[str, str]:
        return {f"expunge.{key}": str(value) for key, value in self._claim().items()}

    def to_arrow(self) -> pa.Table:
        """Return the quote as a pyarrow Table, one row per record, id or group (needs ``expunge[parquet]``).

        What all rows share, status and target among it, is in the metadata of the schema. Ids that are integers of more
        than 64 bits become text.

        Raises
        ------
        ImportError
            Without pyarrow.
        """
        try:
            import pyarrow as pa
        except ImportError:
            raise ImportError(f"to_arrow needs pyarrow: {how_to_install('parquet')}") from None
        return pa.table(self._writable()).replace_schema_metadata(dict(self._notes()))

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return `to_arrow` as a capsule of the Arrow C stream interface, which polars, DuckDB and others read."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def to_frame(self) -> pd.DataFrame:
        """Return the quote as a pandas DataFrame, one row per record, id or group (needs pandas)."""
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("to_frame needs pandas: pip install pandas") from None
        frame = pd.DataFrame(self._columns())
        frame.attrs.update(self._claim())
        return frame

    def parquet_bytes(self) -> bytes:
        """Return the content of a Parquet file (needs ``expunge[parquet]``)."""
        return parquet_bytes(self._writable(), metadata=self._notes(), what="to_parquet")

    def to_parquet(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the quote to a Parquet file (needs ``expunge[parquet]``), whole or not at all, for its owner only.

        Ids that are integers of more than 64 bits are written as text.

        Raises
        ------
        FileExistsError
            If ``path`` exists and ``overwrite`` is false.
        """
        write_atomic(path, self.parquet_bytes(), overwrite=overwrite)
        return Path(path)
