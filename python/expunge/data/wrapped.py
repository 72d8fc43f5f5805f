"""Tables around another table, which has everything that they do not say themselves."""

from __future__ import annotations

import numpy as np

from expunge.data.blocks import Engine, Records

__all__ = ["WrappedRecords"]


class WrappedRecords(Records):
    """A table around another one, as which it is, but for what a subclass says.

    Parameters
    ----------
    records : Records
        The table within.
    """

    def __init__(self, records: Records) -> None:
        self._records = records

    @property
    def records(self) -> Records:
        """The table itself."""
        return self._records

    @property
    def n_records(self) -> int:
        """Number of records."""
        return self._records.n_records

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self._records.n_features

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Type of the features in all blocks."""
        return self._records.dtype

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the features, where there are any."""
        return self._records.feature_names

    @property
    def has_targets(self) -> bool:
        """Whether blocks have labels or targets."""
        return self._records.has_targets

    @property
    def has_ids(self) -> bool:
        """Whether blocks have ids."""
        return self._records.has_ids

    @property
    def engine(self) -> Engine | None:
        """Who works on the blocks: whoever does on those of the table itself."""
        return self._records.engine

    def place(self, index: int) -> str:
        """Return where a record lies, for messages."""
        return self._records.place(index)
