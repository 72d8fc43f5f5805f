"""Unlearning by further steps: fine-tuning plain and noisy, its baselines, and how many steps to expect."""

from expunge.torch.unlearning.adaptive import AdaptiveRun, ForgetBin, unlearn_adaptively
from expunge.torch.unlearning.engine import METHODS, unlearn
from expunge.torch.unlearning.prediction import LogFit, fit_log_steps, predict_steps
from expunge.torch.unlearning.result import UnlearningCurve, UnlearningRun

__all__ = [
    "METHODS",
    "AdaptiveRun",
    "ForgetBin",
    "LogFit",
    "UnlearningCurve",
    "UnlearningRun",
    "fit_log_steps",
    "predict_steps",
    "unlearn",
    "unlearn_adaptively",
]
