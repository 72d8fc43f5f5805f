"""Measures of unlearning: every value beside the retrained models', every value an *estimate*.

Here are the metrics that work on arrays. Those that need networks, whatever made them, are in
`expunge.evaluation.networks` (needs ``expunge[torch]``), pictures in `expunge.evaluation.plots`.
"""

from expunge.evaluation.audit import Audit, audited_epsilon
from expunge.evaluation.bands import Band, reference_band
from expunge.evaluation.barrier import LossBarrier, barrier_from_losses, barrier_verdict
from expunge.evaluation.gus import GaussianUnlearningScore, gaussian_unlearning_score
from expunge.evaluation.influence import influence
from expunge.evaluation.membership import MembershipAUC, auc, membership_auc
from expunge.evaluation.metrics import METRICS, Measured, Metric, Report
from expunge.evaluation.predictions import Predictions, predictions_from_logits
from expunge.evaluation.report import proportion_interval, unlearning_report
from expunge.evaluation.times import UnlearningTime, time_to_unlearn
from expunge.evaluation.ulira import ShadowMargins, ULiRA, shadow_margins, ulira

__all__ = [
    "METRICS",
    "Audit",
    "Band",
    "GaussianUnlearningScore",
    "LossBarrier",
    "Measured",
    "MembershipAUC",
    "Metric",
    "Predictions",
    "Report",
    "ShadowMargins",
    "ULiRA",
    "UnlearningTime",
    "auc",
    "audited_epsilon",
    "barrier_from_losses",
    "barrier_verdict",
    "gaussian_unlearning_score",
    "influence",
    "membership_auc",
    "predictions_from_logits",
    "proportion_interval",
    "reference_band",
    "shadow_margins",
    "time_to_unlearn",
    "ulira",
    "unlearning_report",
]
