"""Renyi accounting per record: one step, whole runs, budgets, and the way to (epsilon, delta).

Certified: `sampled_gaussian_rdp`, `RenyiFilter`, `rdp_to_epsilon` of certified divergences. Estimates, labelled so:
`privacy_loss`, `group_privacy_loss`, `composition_rdp`, and for training without noise `assumed_noise_privacy_loss` and
`noise_sensitivity`.
"""

from expunge.accounting.estimate import Estimate
from expunge.accounting.rdp.assumed_noise import (
    AssumedNoiseLoss,
    NoiseSensitivity,
    assumed_noise_privacy_loss,
    noise_sensitivity,
)
from expunge.accounting.rdp.composition import CompositionRDP, composition_rdp
from expunge.accounting.rdp.conversion import rdp_to_epsilon
from expunge.accounting.rdp.group_loss import group_privacy_loss
from expunge.accounting.rdp.privacy_loss import StepCost, privacy_loss, quadrature_weights
from expunge.accounting.rdp.renyi_filter import RenyiFilter
from expunge.accounting.rdp.sampled_gaussian import sampled_gaussian_rdp

__all__ = [
    "AssumedNoiseLoss",
    "CompositionRDP",
    "Estimate",
    "NoiseSensitivity",
    "RenyiFilter",
    "StepCost",
    "assumed_noise_privacy_loss",
    "composition_rdp",
    "group_privacy_loss",
    "noise_sensitivity",
    "privacy_loss",
    "quadrature_weights",
    "rdp_to_epsilon",
    "sampled_gaussian_rdp",
]
