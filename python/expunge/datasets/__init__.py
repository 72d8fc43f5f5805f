"""Data sets from files in common formats, and a feature map that does not depend on the data.

Nothing here is ever centred or scaled by the data: a certificate of deletion needs features of one record that do not
depend on another. Dividing by constants (255 for images) is allowed, and so is `random_cosine_features`.
"""

from expunge.datasets.cosines import random_cosine_features
from expunge.datasets.identifiers import exact_ids
from expunge.datasets.loading import BUNDLED, Dataset, load, load_ids, load_targets
from expunge.datasets.tasks import MAX_CLASSES, Task, read_task

__all__ = [
    "BUNDLED",
    "MAX_CLASSES",
    "Dataset",
    "Task",
    "exact_ids",
    "load",
    "load_ids",
    "load_targets",
    "random_cosine_features",
    "read_task",
]
