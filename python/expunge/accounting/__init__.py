"""Privacy arithmetic: Gaussian DP, shifted interpolation, Gaussian pairs, Renyi conversion.

Everything here is *certified*: float64 throughout, every result rounded outward by the error of its computation.
"""

from expunge.accounting.gaussian_pair import GaussianPair, PrivacyProfile
from expunge.accounting.gdp import gdp_delta, gdp_epsilon, gdp_mu
from expunge.accounting.rdp import rdp_to_epsilon
from expunge.accounting.shifted import shifted_mu

__all__ = [
    "GaussianPair",
    "PrivacyProfile",
    "gdp_delta",
    "gdp_epsilon",
    "gdp_mu",
    "rdp_to_epsilon",
    "shifted_mu",
]
