"""Measurements that need PyTorch networks: predictions, Gaussian poisons, loss barriers. Needs ``expunge[torch]``."""

from expunge._errors import how_to_install as _how_to_install

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(f"expunge.evaluation.networks needs PyTorch: {_how_to_install('torch')}") from error

from expunge.evaluation.networks.barriers import loss_barrier, pairwise_barriers, reset_batch_norm
from expunge.evaluation.networks.last_layer import last_layer_influence
from expunge.evaluation.networks.matching import Matching, match_weights
from expunge.evaluation.networks.permutations import PermutationSpec, permuted
from expunge.evaluation.networks.poisons import PoisonedDataset, poison_scores
from expunge.evaluation.networks.predict import predict
from expunge.evaluation.networks.tracing import permutation_spec

__all__ = [
    "Matching",
    "PermutationSpec",
    "PoisonedDataset",
    "last_layer_influence",
    "loss_barrier",
    "match_weights",
    "pairwise_barriers",
    "permutation_spec",
    "permuted",
    "poison_scores",
    "predict",
    "reset_batch_norm",
]
