"""The one door to tables of records: arrays and frames in memory, files, folders of shards."""

from __future__ import annotations

import os
from collections.abc import Sequence

from numpy.typing import ArrayLike

from expunge._validate import refuse_masks
from expunge.data.array_records import ArrayRecords, Frame
from expunge.data.blocks import Records
from expunge.data.file_records import FileRecords

__all__ = ["open_records"]


def open_records(
    source: Records | ArrayLike | Frame | os.PathLike[str],
    *,
    target: ArrayLike | os.PathLike[str] | None = None,
    ids: ArrayLike | os.PathLike[str] | None = None,
    target_column: str | int | None = None,
    id_column: str | int | None = None,
    features: Sequence[str | int] | None = None,
    drop: Sequence[str | int] = (),
    header: bool | None = None,
    decimal_comma: bool = False,
    filesystem: object = None,
) -> Records:
    """Return a table of records that is read in row blocks, from wherever it lies.

    Parameters
    ----------
    source : path-like, array-like or frame of shape (n, n_features), or Records
        A file, a folder of shards or an address, as `FileRecords` reads them; features in memory, of NumPy, pandas,
        polars or Arrow. A table of records is returned as it is.
    target : array-like of shape (n,) or (n, n_outputs), or path-like, optional
        Labels or targets, of features in memory or of .npy files.
    ids : array-like of shape (n,), or path-like, optional
        Ids of the records, likewise.
    target_column, id_column, features, drop, header, decimal_comma, filesystem
        Columns of files, and where these lie: as for `FileRecords`.

    Returns
    -------
    Records

    Raises
    ------
    TypeError, ValueError
        If something is missing, of the wrong kind or of the wrong length.

    Examples
    --------
    >>> import numpy as np
    >>> records = open_records(np.eye(3, dtype=np.float32), target=[0, 1, 0])
    >>> records.n_records, records.n_features, records.dtype.name
    (3, 3, 'float32')
    """
    for name, given in (("source", source), ("target", target), ("ids", ids)):
        refuse_masks(name, given)
    if isinstance(source, Records):
        if (target, ids, target_column, id_column, features, tuple(drop)) != (None, None, None, None, None, ()):
            raise TypeError("target, ids and columns must be omitted for a table of records, which has its own")
        return source
    if isinstance(source, (str, os.PathLike)):
        for name, given in (("target", target), ("ids", ids)):
            if given is not None and not isinstance(given, (str, os.PathLike)):
                raise TypeError(f"{name} of files must be the name of a .npy file, or a column: see {name}_column")
        return FileRecords(
            source,
            target_column=target_column,
            id_column=id_column,
            features=features,
            drop=drop,
            target=target,  # type: ignore[arg-type]
            ids=ids,  # type: ignore[arg-type]
            header=header,
            decimal_comma=decimal_comma,
            filesystem=filesystem,
        )
    of_files = (target_column, id_column, features, drop or None, header, decimal_comma or None, filesystem)
    if any(one is not None for one in of_files):
        raise TypeError(
            "target_column, id_column, features, drop, header, decimal_comma and filesystem are for files: give "
            "target= and ids="
        )
    return ArrayRecords(source, target, ids)  # type: ignore[arg-type]
