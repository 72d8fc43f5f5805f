"""PyTorch backend: exact per-example gradient norms of any model, and training that collects them.

Needs ``expunge[torch]``.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("expunge.torch needs PyTorch: pip install 'expunge[torch]'") from error

from expunge.torch._errors import UnsupportedLayerError
from expunge.torch._gradient_norms import GradNorms
from expunge.torch.training import NonFiniteLossError, RunToRunNoise, TrainingRun, run_to_run_noise, train

__all__ = [
    "GradNorms",
    "NonFiniteLossError",
    "RunToRunNoise",
    "TrainingRun",
    "UnsupportedLayerError",
    "run_to_run_noise",
    "train",
]
