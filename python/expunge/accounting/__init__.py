"""Privacy arithmetic: Gaussian DP, shifted interpolation, Gaussian pairs, discrete Gaussians, Renyi accounting.

Everything here is *certified*: float64 throughout, every result rounded outward by the error of its computation;
except what carries a ``status`` that says *estimate* (`privacy_loss`, `group_privacy_loss`, `composition_rdp`,
`noise_sensitivity`, `predict_steps`, `fit_log_steps`).
"""

from expunge.accounting.discrete_gaussian import DiscreteGaussian
from expunge.accounting.dp_sgd import dp_sgd_epsilon, dp_sgd_mu, dp_sgd_noise_multiplier
from expunge.accounting.gaussian_filter import GaussianFilter
from expunge.accounting.gaussian_pair import GaussianPair, PrivacyProfile
from expunge.accounting.gdp import gdp_delta, gdp_epsilon, gdp_mu
from expunge.accounting.private_training import PrivateTraining
from expunge.accounting.rdp import (
    AssumedNoiseLoss,
    CompositionRDP,
    Estimate,
    NoiseSensitivity,
    RenyiFilter,
    StepCost,
    assumed_noise_privacy_loss,
    composition_rdp,
    group_privacy_loss,
    noise_sensitivity,
    privacy_loss,
    quadrature_weights,
    rdp_to_epsilon,
    sampled_gaussian_rdp,
)
from expunge.accounting.shifted import shifted_mu
from expunge.accounting.unlearning import (
    LogFit,
    UnlearningSteps,
    compare_unlearning_steps,
    contraction_rdp,
    contraction_steps,
    fit_log_steps,
    langevin_steps,
    predict_steps,
    weak_triangle_rdp,
)

__all__ = [
    "AssumedNoiseLoss",
    "CompositionRDP",
    "DiscreteGaussian",
    "Estimate",
    "GaussianFilter",
    "GaussianPair",
    "LogFit",
    "NoiseSensitivity",
    "PrivacyProfile",
    "PrivateTraining",
    "RenyiFilter",
    "StepCost",
    "UnlearningSteps",
    "assumed_noise_privacy_loss",
    "compare_unlearning_steps",
    "composition_rdp",
    "contraction_rdp",
    "contraction_steps",
    "dp_sgd_epsilon",
    "dp_sgd_mu",
    "dp_sgd_noise_multiplier",
    "fit_log_steps",
    "gdp_delta",
    "gdp_epsilon",
    "gdp_mu",
    "group_privacy_loss",
    "langevin_steps",
    "noise_sensitivity",
    "predict_steps",
    "privacy_loss",
    "quadrature_weights",
    "rdp_to_epsilon",
    "sampled_gaussian_rdp",
    "shifted_mu",
    "weak_triangle_rdp",
]
