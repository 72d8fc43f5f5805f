"""Deletion by computed residual: a model's gradient on the data as they now stand, with proved bounds on rounding."""

from __future__ import annotations

from expunge.runs.residual.answers import Answers, answers_of, check_outputs, class_numbers
from expunge.runs.residual.claim import (
    REFERENCES,
    BeforeAfter,
    before_after,
    mu_fits,
    release_mu,
    release_p_value,
    residual_allowance,
)
from expunge.runs.residual.gradients import GradientSums, gradient_sums
from expunge.runs.residual.groups import group_quotes
from expunge.runs.residual.inverse import InverseHessian
from expunge.runs.residual.newton import NoiseFloorError, Polished, StalledError, polish
from expunge.runs.residual.objective import Objective, Rows, blocks_of
from expunge.runs.residual.proved_inverse import ProvedInverse, prove_inverse
from expunge.runs.residual.quotes import RecordQuotes, record_quotes

__all__ = [
    "REFERENCES",
    "Answers",
    "BeforeAfter",
    "GradientSums",
    "InverseHessian",
    "NoiseFloorError",
    "Objective",
    "Polished",
    "ProvedInverse",
    "RecordQuotes",
    "Rows",
    "StalledError",
    "answers_of",
    "before_after",
    "blocks_of",
    "check_outputs",
    "class_numbers",
    "gradient_sums",
    "group_quotes",
    "mu_fits",
    "polish",
    "prove_inverse",
    "record_quotes",
    "release_mu",
    "release_p_value",
    "residual_allowance",
]
