"""The one door to tables of records: arrays and frames in memory, files, folders of shards."""

from __future__ import annotations

import os

from numpy.typing import ArrayLike

from expunge._validate import refuse_masks
from expunge.data.array_records import ArrayRecords, Frame
from expunge.data.blocks import Records

__all__ = ["open_records"]


def open_records(
    source: Records | ArrayLike | Frame, *, target: ArrayLike | None = None, ids: ArrayLike | None = None
) -> Records:
    """Return a table of records that is read in row blocks, from wherever it lies.

    Parameters
    ----------
    source : array-like or frame of shape (n, n_features), or Records
        Features in memory; of NumPy, pandas, polars or Arrow. A table of records is returned as it is.
    target : array-like of shape (n,) or (n, n_outputs), optional
        Labels or targets.
    ids : array-like of shape (n,), optional
        Ids of the records.

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
        if target is not None or ids is not None:
            raise TypeError("target and ids must be omitted for a table of records, which has its own")
        return source
    if isinstance(source, (str, os.PathLike)):
        raise TypeError("source must be in memory, got the name of a file: read it with expunge.data.load")
    return ArrayRecords(source, target, ids)
