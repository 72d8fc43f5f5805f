"""Closed forms of the field's papers and code, as published, beside what holds with the same constants.

Every function returns a `PublishedForm`: the published number, its adjacency, its source, what is wrong with it or
loose in it, and where there is one the certified answer of `expunge.accounting` to the same question. They are rows to
compare with, not guarantees: a published number may be too small. Constants as in `langevin_steps`: losses are
averaged over n records, m-strongly convex, L-smooth and M-Lipschitz.
"""

from expunge.accounting.published.clipping import noisy_clipping_epsilon, noisy_clipping_sigma
from expunge.accounting.published.descent import descent_to_delete_sigma, descent_to_delete_steps
from expunge.accounting.published.form import PublishedForm
from expunge.accounting.published.langevin import (
    langevin_divergence,
    langevin_epsilon,
    langevin_sequence,
    langevin_steps,
)
from expunge.accounting.published.removal import removal_budget, removal_residual
from expunge.accounting.published.sgd import sgd_epochs, sgd_sigma

__all__ = [
    "PublishedForm",
    "descent_to_delete_sigma",
    "descent_to_delete_steps",
    "langevin_divergence",
    "langevin_epsilon",
    "langevin_sequence",
    "langevin_steps",
    "noisy_clipping_epsilon",
    "noisy_clipping_sigma",
    "removal_budget",
    "removal_residual",
    "sgd_epochs",
    "sgd_sigma",
]
