"""Unlearning by noisy fine-tuning: the steps a target needs, certified.

By Renyi contraction with constants of one's own (`contraction_rdp`, `contraction_steps`, `weak_triangle_rdp`), and for
strongly convex losses by published closed forms and by shifted interpolation (`langevin_steps`,
`compare_unlearning_steps`).
"""

from expunge.accounting.contraction import contraction_rdp, contraction_steps, weak_triangle_rdp
from expunge.accounting.langevin_unlearning import UnlearningSteps, compare_unlearning_steps, langevin_steps

__all__ = [
    "UnlearningSteps",
    "compare_unlearning_steps",
    "contraction_rdp",
    "contraction_steps",
    "langevin_steps",
    "weak_triangle_rdp",
]
