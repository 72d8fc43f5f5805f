"""Passes over tables on the workers of a Dask cluster, with the bits of one process.

`Dask` opens tables whose statistics, fits, quotes, deletions and verifications are summed on workers, and scores data
sets there. Workers read the files themselves. They are sent the names of files and columns, parameters, and salts and
hashes of the rows they compare; sums, and numbers of rows where these are asked for, come back. A model, its keys and
its noise stay in the process that began the pass.
"""

from expunge.distributed.cluster import Dask
from expunge.distributed.machine import Machine, this_machine

__all__ = ["Dask", "Machine", "this_machine"]
