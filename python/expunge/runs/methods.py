"""Methods by which a deletion is certified; light, so that a command's help does not wait for the library."""

from __future__ import annotations

__all__ = ["METHODS"]

# From the least noise to the most: the exact laws, a bound with the deleted records' own sensitivities, and the same
# bound for the worst of all records.
METHODS = ("exact", "shifted", "uniform")
