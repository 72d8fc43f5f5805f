"""The experiment on exact costs: which measures rank records as the noise and steps of their deletion do."""

from expunge.experiments.exact.settings import ExactSettings, exact_preset

__all__ = ["ExactSettings", "exact_preset"]
