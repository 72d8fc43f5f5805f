"""Many small networks of one architecture, trained at once."""

from expunge.torch.ensemble.many import EnsembleRun, train_many

__all__ = ["EnsembleRun", "train_many"]
