"""Privacy arithmetic: Gaussian DP, shifted interpolation, Gaussian pairs, Renyi accounting per record.

Everything here is *certified*: float64 throughout, every result rounded outward by the error of its computation;
except what carries ``status == "estimate"`` (`privacy_loss`, `composition_rdp`).
"""

from expunge.accounting.gaussian_pair import GaussianPair, PrivacyProfile
from expunge.accounting.gdp import gdp_delta, gdp_epsilon, gdp_mu
from expunge.accounting.rdp import (
    CompositionRDP,
    Estimate,
    RenyiFilter,
    StepCost,
    composition_rdp,
    privacy_loss,
    quadrature_weights,
    rdp_to_epsilon,
    sampled_gaussian_rdp,
)
from expunge.accounting.shifted import shifted_mu

__all__ = [
    "CompositionRDP",
    "Estimate",
    "GaussianPair",
    "PrivacyProfile",
    "RenyiFilter",
    "StepCost",
    "composition_rdp",
    "gdp_delta",
    "gdp_epsilon",
    "gdp_mu",
    "privacy_loss",
    "quadrature_weights",
    "rdp_to_epsilon",
    "sampled_gaussian_rdp",
    "shifted_mu",
]
