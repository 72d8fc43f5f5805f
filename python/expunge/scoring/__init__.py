"""Privacy losses and difficulty scores of every record of a dataset larger than memory. *Estimates*.

Linear-probe checkpoints score Parquet files or ``.npy`` arrays part by part. Finished parts survive a kill, and the
resumed run writes the same file, byte for byte. Several processes may share the parts. Tables in memory and streams of
Arrow batches are scored as Arrow tables.
"""

from expunge.scoring.checkpoints import ProbeCheckpoints
from expunge.scoring.frames import score_table
from expunge.scoring.measures import score_records
from expunge.scoring.merging import merge_shards
from expunge.scoring.plots import plot_loss_against_proxies, plot_loss_distribution
from expunge.scoring.run import ScoreSummary, score_files
from expunge.scoring.sharing import score_shard
from expunge.scoring.sources import BadRowError

__all__ = [
    "BadRowError",
    "ProbeCheckpoints",
    "ScoreSummary",
    "merge_shards",
    "plot_loss_against_proxies",
    "plot_loss_distribution",
    "score_files",
    "score_records",
    "score_shard",
    "score_table",
]
