"""Costs of forgetting records under ridge Langevin dynamics: exact and shifted quotes for all records at once.

The run is ``theta <- theta - step_size (X^T (X theta - Y) + alpha theta) + noise_std xi`` for ``n_steps`` steps from
zero, then unlearning steps on the remaining records. Sources: [BAC26] Benarroch, Atif and Cappe, "Certified
Per-Instance Unlearning Using Individual Sensitivity Bounds", arXiv 2602.15602; [BSA24] Bok, Su and Altschuler,
"Shifted Interpolation for Differential Privacy", arXiv 2403.00278; Gragg and Harwood, "The numerically stable
reconstruction of Jacobi matrices from spectral data", Numerische Mathematik 44 (1984), for the Krylov reduction.
"""

from expunge.runs.ridge.chain import ExactEquations
from expunge.runs.ridge.exact import ExactQuotes, exact_group_quotes, exact_quotes
from expunge.runs.ridge.law import Phase
from expunge.runs.ridge.program import Program
from expunge.runs.ridge.release import coefficients_of
from expunge.runs.ridge.run import RidgeRun
from expunge.runs.ridge.shifted import ShiftedQuotes, shifted_group_quotes, shifted_quotes, smallest_eigenvalues
from expunge.runs.ridge.spectral import LearningLaw

__all__ = [
    "ExactEquations",
    "ExactQuotes",
    "LearningLaw",
    "Phase",
    "Program",
    "RidgeRun",
    "ShiftedQuotes",
    "coefficients_of",
    "exact_group_quotes",
    "exact_quotes",
    "shifted_group_quotes",
    "shifted_quotes",
    "smallest_eigenvalues",
]
