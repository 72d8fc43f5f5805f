"""Reading of the table that a model was fitted on, as estimators have it."""

from __future__ import annotations

from expunge.data.reading import Reading

__all__ = ["WithReading"]


class WithReading:
    """A model that knows how its table was read, where ``expunge fit`` or a file said so."""

    _reading: Reading | None = None

    @property
    def reading_(self) -> Reading | None:
        """How the table of the fit was read, as ``expunge fit`` keeps it; None for a model fitted on arrays.

        The model takes features as `Reading.mapped` returns them.
        """
        return self._reading
