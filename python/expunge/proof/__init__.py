"""Proofs in ball arithmetic: enclosures of what the package computes in float64, and of the claims of certificates.

Needs ``expunge[proof]`` (python-flint).
"""

from expunge._errors import how_to_install as _how_to_install

try:
    import flint as _flint  # noqa: F401
except ImportError as error:
    raise ImportError(f"expunge.proof needs python-flint: {_how_to_install('proof')}") from error

from expunge.proof.gdp import gdp_delta, gdp_epsilon, gdp_mu
from expunge.proof.minorant import shifted_mu
from expunge.proof.profile import pair_delta, pair_epsilon, pair_renyi
from expunge.proof.rdp import rdp_to_epsilon, sampled_gaussian_rdp

__all__ = [
    "gdp_delta",
    "gdp_epsilon",
    "gdp_mu",
    "pair_delta",
    "pair_epsilon",
    "pair_renyi",
    "rdp_to_epsilon",
    "sampled_gaussian_rdp",
    "shifted_mu",
]
