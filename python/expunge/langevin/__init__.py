"""Batched noisy gradient chains with counter-based noise.

Many independent chains of ``theta <- theta - step_size * grad F(theta) + noise_std * xi`` at once, for the sum-form
losses of "[BAC26], section 3" (Benarroch, Atif, Cappe, arXiv 2602.15602). Noise comes from Philox4x32-10 (Salmon,
Moraes, Dror, Shaw, *Parallel random numbers: as easy as 1, 2, 3*, SC 2011) by (seed, chain, step, index): no state,
so a batch can be split or continued anywhere.

This noise is reproducible by design. The noise of a real deletion must be seeded from the operating system and its
seed destroyed.
"""

from expunge.langevin.chains import langevin_chains
from expunge.langevin.normals import random_words, standard_normals

__all__ = ["langevin_chains", "random_words", "standard_normals"]
