"""Pictures of what forgetting costs. Matplotlib is needed only for pictures, and its global state is never touched."""

from expunge.plotting.attack import plot_attack
from expunge.plotting.costs import plot_noise, plot_profile
from expunge.plotting.deletions import plot_deletions

__all__ = ["plot_attack", "plot_deletions", "plot_noise", "plot_profile"]
