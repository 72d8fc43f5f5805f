"""Training by (noisy) SGD that collects per-record gradient norms along the way, and resumes exactly."""

from expunge.torch.training.budgets import BudgetedPrivacy, RecordBudgets
from expunge.torch.training.errors import NonFiniteLossError
from expunge.torch.training.loop import train
from expunge.torch.training.nondeterminism import RunToRunNoise, run_to_run_noise
from expunge.torch.training.privacy import Privacy, TrainingPrivacy
from expunge.torch.training.run import TrainingRun

__all__ = [
    "BudgetedPrivacy",
    "NonFiniteLossError",
    "Privacy",
    "RecordBudgets",
    "RunToRunNoise",
    "TrainingPrivacy",
    "TrainingRun",
    "run_to_run_noise",
    "train",
]
