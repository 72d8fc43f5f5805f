"""Unlearning by further steps: fine-tuning plain and noisy, and its baselines."""

from expunge.torch.unlearning.adaptive import AdaptiveRun, ForgetBin, unlearn_adaptively
from expunge.torch.unlearning.calibration import StepCalibration, calibrate_steps
from expunge.torch.unlearning.engine import METHODS, unlearn
from expunge.torch.unlearning.plan import UnlearningChoice, UnlearningOption, UnlearningPlan
from expunge.torch.unlearning.policy import UnlearningPolicy
from expunge.torch.unlearning.result import UnlearningCurve, UnlearningRun

__all__ = [
    "METHODS",
    "AdaptiveRun",
    "ForgetBin",
    "StepCalibration",
    "UnlearningChoice",
    "UnlearningCurve",
    "UnlearningOption",
    "UnlearningPlan",
    "UnlearningPolicy",
    "UnlearningRun",
    "calibrate_steps",
    "unlearn",
    "unlearn_adaptively",
]
