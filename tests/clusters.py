"""Clusters of real worker processes on this machine, whose blocks are small."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["BLOCK", "cluster_of"]

BLOCK = 16  # rows of a block, whatever their width
SMALL = f"""
import sys
sys.path.insert(0, {str(Path(__file__).resolve().parent)!r})
import expunge.data.blocks, expunge.data.statistics
def small(*, n_features):
    return {BLOCK}
expunge.data.blocks.rows_per_block = expunge.data.statistics.rows_per_block = small
"""


@contextlib.contextmanager
def cluster_of(folder: Path, workers: int, *, threads: int = 1) -> Iterator[Any]:
    """Start worker processes whose blocks are as small as those of this process."""
    import distributed

    preload = folder / "small.py"
    preload.write_text(SMALL)
    with (
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=threads, processes=True, dashboard_address=":0",
            preload=str(preload), silence_logs=50,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):  # fmt: skip
        yield client
