"""Experiments as commands: what privacy losses predict of unlearning. Every number is an *estimate*.

Needs ``expunge[torch,plot,parquet]``.
"""

from expunge._errors import how_to_install as _how_to_install

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(f"expunge.experiments needs PyTorch: {_how_to_install('torch,plot,parquet')}") from error

from expunge.experiments.certify import CertifySettings, certify_preset
from expunge.experiments.distinguish import distinguish_preset
from expunge.experiments.exact import ExactSettings, exact_preset
from expunge.experiments.runner import EXPERIMENTS, run_experiment
from expunge.experiments.settings import Settings, preset

__all__ = [
    "EXPERIMENTS",
    "CertifySettings",
    "ExactSettings",
    "Settings",
    "certify_preset",
    "distinguish_preset",
    "exact_preset",
    "preset",
    "run_experiment",
]
