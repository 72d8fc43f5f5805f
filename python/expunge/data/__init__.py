"""Data sets from files in common formats, and feature maps that do not depend on the data.

Nothing here is ever centred or scaled by the data: a certificate of deletion needs features of one record that do not
depend on another. Dividing by constants (255 for images) is allowed, and so are `random_cosine_features` and
`ConstantScaler`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expunge.data.cosines import random_cosine_features
    from expunge.data.identifiers import exact_ids
    from expunge.data.loading import BUNDLED, Dataset, load, load_ids, load_targets
    from expunge.data.scaling import ConstantScaler
    from expunge.data.tasks import MAX_CLASSES, Task, read_task

__all__ = [
    "BUNDLED",
    "MAX_CLASSES",
    "ConstantScaler",
    "Dataset",
    "Task",
    "exact_ids",
    "load",
    "load_ids",
    "load_targets",
    "random_cosine_features",
    "read_task",
]

# Imported when first asked for: the constants of a run lie here too and need no reader of files, and commands that
# only read shall not wait for scikit-learn.
_PLACES = {
    "BUNDLED": "loading",
    "MAX_CLASSES": "tasks",
    "ConstantScaler": "scaling",
    "Dataset": "loading",
    "Task": "tasks",
    "exact_ids": "identifiers",
    "load": "loading",
    "load_ids": "loading",
    "load_targets": "loading",
    "random_cosine_features": "cosines",
    "read_task": "tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'expunge.data' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"expunge.data.{_PLACES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
