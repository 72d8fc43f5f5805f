"""PyTorch backend: exact per-example gradient norms of any model, training that collects them, and unlearning.

Needs ``expunge[torch]``.
"""

from expunge._errors import how_to_install as _how_to_install

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(f"expunge.torch needs PyTorch: {_how_to_install('torch')}") from error

from expunge.torch._compatibility import UntestedVersionWarning  # first: it names what this torch lacks
from expunge.torch._errors import GradNormMismatchError, UnsupportedLayerError
from expunge.torch._gradient_norms import GradNorms
from expunge.torch.ensemble import EnsembleRun, train_many
from expunge.torch.training import (
    BudgetedPrivacy,
    NonFiniteLossError,
    Privacy,
    RecordBudgets,
    RunToRunNoise,
    TrainingPrivacy,
    TrainingRun,
    run_to_run_noise,
    train,
)
from expunge.torch.unlearning import (
    METHODS,
    AdaptiveRun,
    ForgetBin,
    StepCalibration,
    UnlearningChoice,
    UnlearningCurve,
    UnlearningOption,
    UnlearningPlan,
    UnlearningPolicy,
    UnlearningRun,
    calibrate_steps,
    unlearn,
    unlearn_adaptively,
)

__all__ = [
    "METHODS",
    "AdaptiveRun",
    "BudgetedPrivacy",
    "EnsembleRun",
    "ForgetBin",
    "GradNormMismatchError",
    "GradNorms",
    "NonFiniteLossError",
    "Privacy",
    "RecordBudgets",
    "RunToRunNoise",
    "StepCalibration",
    "TrainingPrivacy",
    "TrainingRun",
    "UnlearningChoice",
    "UnlearningCurve",
    "UnlearningOption",
    "UnlearningPlan",
    "UnlearningPolicy",
    "UnlearningRun",
    "UnsupportedLayerError",
    "UntestedVersionWarning",
    "calibrate_steps",
    "run_to_run_noise",
    "train",
    "train_many",
    "unlearn",
    "unlearn_adaptively",
]
