"""PyTorch backend: exact per-example gradient norms of any model in one backward pass. Needs ``expunge[torch]``."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("expunge.torch needs PyTorch: pip install 'expunge[torch]'") from error

from expunge.torch._errors import UnsupportedLayerError
from expunge.torch._gradient_norms import GradNorms

__all__ = ["GradNorms", "UnsupportedLayerError"]
