"""Unlearning by noisy fine-tuning: the steps a target needs, certified or predicted.

By Renyi contraction with constants of one's own (`contraction_rdp`, `contraction_steps`, `weak_triangle_rdp`), and for
strongly convex losses by published closed forms and by shifted interpolation (`langevin_steps`,
`compare_unlearning_steps`). Predictions from privacy losses are *estimates* (`predict_steps`, `fit_log_steps`).
"""

from expunge.accounting.unlearning.contraction import contraction_rdp, contraction_steps, weak_triangle_rdp
from expunge.accounting.unlearning.langevin import UnlearningSteps, compare_unlearning_steps, langevin_steps
from expunge.accounting.unlearning.predicted_steps import LogFit, fit_log_steps, predict_steps

__all__ = [
    "LogFit",
    "UnlearningSteps",
    "compare_unlearning_steps",
    "contraction_rdp",
    "contraction_steps",
    "fit_log_steps",
    "langevin_steps",
    "predict_steps",
    "weak_triangle_rdp",
]
