"""Unlearning by further steps: fine-tuning plain and noisy, and its baselines."""

from expunge.torch.unlearning.adaptive import AdaptiveRun, ForgetBin, unlearn_adaptively
from expunge.torch.unlearning.engine import METHODS, unlearn
from expunge.torch.unlearning.result import UnlearningCurve, UnlearningRun

__all__ = [
    "METHODS",
    "AdaptiveRun",
    "ForgetBin",
    "UnlearningCurve",
    "UnlearningRun",
    "unlearn",
    "unlearn_adaptively",
]
