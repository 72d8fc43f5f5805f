"""Data sets and tables of records, in memory and in files, and feature maps that do not depend on the data.

Nothing here is ever centred or scaled by the data: a certificate of deletion needs features of one record that do not
depend on another. Dividing by constants (255 for images) is allowed, and so are `random_cosine_features` and
`ConstantScaler`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expunge.data.array_records import ArrayRecords
    from expunge.data.blocks import Block, Records, rows_per_block
    from expunge.data.cosines import random_cosine_features
    from expunge.data.file_records import FileRecords
    from expunge.data.identifiers import exact_ids
    from expunge.data.loading import BUNDLED, Dataset, load, load_ids, load_targets
    from expunge.data.mapped import MappedRecords
    from expunge.data.opening import open_records
    from expunge.data.reading import Constants, Cosines, Reading
    from expunge.data.scaling import ConstantScaler
    from expunge.data.statistics import RidgeStatistics
    from expunge.data.tasks import MAX_CLASSES, Task, read_task

__all__ = [
    "BUNDLED",
    "MAX_CLASSES",
    "ArrayRecords",
    "Block",
    "ConstantScaler",
    "Constants",
    "Cosines",
    "Dataset",
    "FileRecords",
    "MappedRecords",
    "Reading",
    "Records",
    "RidgeStatistics",
    "Task",
    "exact_ids",
    "load",
    "load_ids",
    "load_targets",
    "open_records",
    "random_cosine_features",
    "read_task",
    "rows_per_block",
]

# Imported when first asked for: the constants of a run lie here too and need no reader of files, and commands that
# only read shall not wait for scikit-learn.
_PLACES = {
    "ArrayRecords": "array_records",
    "BUNDLED": "loading",
    "Block": "blocks",
    "MAX_CLASSES": "tasks",
    "ConstantScaler": "scaling",
    "Constants": "reading",
    "Cosines": "reading",
    "Dataset": "loading",
    "FileRecords": "file_records",
    "MappedRecords": "mapped",
    "Records": "blocks",
    "RidgeStatistics": "statistics",
    "Reading": "reading",
    "Task": "tasks",
    "exact_ids": "identifiers",
    "load": "loading",
    "load_ids": "loading",
    "load_targets": "loading",
    "open_records": "opening",
    "random_cosine_features": "cosines",
    "read_task": "tasks",
    "rows_per_block": "blocks",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'expunge.data' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"expunge.data.{_PLACES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
