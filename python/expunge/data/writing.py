"""Tables as the bytes of a file: Parquet and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from expunge._errors import how_to_install

__all__ = ["csv_bytes", "parquet_bytes"]


def parquet_bytes(columns: Mapping[str, object], *, metadata: Mapping[str, str] | None = None, what: str) -> bytes:
    """Return the content of a Parquet file.

    Parameters
    ----------
    columns : mapping of str to array-like
        Columns of equal length, in order.
    metadata : mapping of str to str, optional
        Notes in the file's schema.
    what : str
        Who needs pyarrow, for the error where it is missing.

    Raises
    ------
    ImportError
        Without pyarrow.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise ImportError(f"{what} needs pyarrow: {how_to_install('parquet')}") from None
    table = pa.table(dict(columns))
    if metadata is not None:
        table = table.replace_schema_metadata(dict(metadata))
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()


def csv_bytes(names: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    r"""Return the content of a CSV file: a header, commas, and a line feed after every line.

    Examples
    --------
    >>> csv_bytes(["id", "value"], [["a, b", 0.5]])
    b'id,value\n"a, b",0.5\n'
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(names)
    table.writerows(rows)
    return text.getvalue().encode()
