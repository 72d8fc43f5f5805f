"""Gaussian Unlearning Score: what a model still knows of noise added to its forgotten records."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from expunge._validate import number, real_array
from expunge.evaluation.metrics import METRICS, Measured

__all__ = ["GaussianUnlearningScore", "gaussian_unlearning_score"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GaussianUnlearningScore:
    """Scores of poisoned records and their tests against N(0, 1). An *estimate*. Prints in plain words.

    Attributes
    ----------
    scores : ndarray of float64, shape (n,)
        NaN where the gradient is zero: such a record says nothing, and counts for nothing.
    mean : float
        Of the others; 0 in expectation if the model does not depend on the poison, negative if it does.
    interval : (float, float)
        Student's t for the mean, at ``confidence``; infinite from one record.
    p_mean : float
        Two-sided z-test of mean 0 at variance 1.
    p_distribution : float
        Kolmogorov-Smirnov test against N(0, 1).
    n_used, n_zero : int
        Records with a gradient and without.
    confidence : float
    """

    scores: Array
    mean: float
    interval: tuple[float, float]
    p_mean: float
    p_distribution: float
    n_used: int
    n_zero: int
    confidence: float
    status: str = field(default="estimate", init=False)

    def __str__(self) -> str:
        low, high = self.interval
        text = f"mean score {self.mean:.3g} [{low:.3g}, {high:.3g}] over {self.n_used} poisoned records"
        if self.p_mean < 1 - self.confidence:
            text += f": the model still depends on the poison (p = {self.p_mean:.2g})"
        else:
            text += (
                f": no dependence on the poison was found (p = {self.p_mean:.2g}), which does not show there is none"
            )
        if self.n_zero:
            text += f"; {self.n_zero} records have no gradient and count for nothing"
        return text

    def measured(self, *, reference: float | None = 0.0) -> Measured:
        """Return the mean score as a `Measured`; ``reference`` is that of a retrained model if there is one."""
        return Measured(METRICS["GUS"], self.mean, self.interval, self.confidence, reference, note=str(self))


def gaussian_unlearning_score(
    poisons: ArrayLike, gradients: ArrayLike, *, sigma: float, confidence: float = 0.95
) -> GaussianUnlearningScore:
    """Return the Gaussian Unlearning Score of a model trained on poisoned records [PNB]_.

    Before training, xi ~ N(0, sigma^2 I) was added to every record to be forgotten. A model that does not depend on xi
    has <xi, g> / (sigma ||g||) ~ N(0, 1) for its gradient g at the clean record. A model that does has fitted x + xi:
    its loss falls along xi, and the score is negative.

    Parameters
    ----------
    poisons : array-like of float, shape (n, ...)
        xi, as it was added.
    gradients : array-like of float, shape (n, ...)
        Gradient of each record's loss with respect to its input, *at the clean record*: at x + xi the gradient depends
        on xi even in a model that never saw it.
    sigma : float
        Standard deviation of the poison, > 0.
    confidence : float, default 0.95

    Returns
    -------
    GaussianUnlearningScore

    Raises
    ------
    TypeError, ValueError
        If arrays are empty, disagree in shape, are not finite, or every gradient is zero: then nothing can be said, and
        it is not "forgotten".

    References
    ----------
    .. [PNB] Pawelczyk, Di, Lu, Kamath, Sekhari, Neel, Machine unlearning fails to remove data poisoning attacks
       (2024), arXiv:2406.17216.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> xi, g = rng.standard_normal((500, 64)), rng.standard_normal((500, 64))
    >>> forgotten = gaussian_unlearning_score(xi, g, sigma=1.0)
    >>> remembered = gaussian_unlearning_score(xi, g - 0.05 * xi, sigma=1.0)
    >>> forgotten.p_mean > 0.01 > remembered.p_mean
    True
    """
    noise, grads = real_array("poisons", poisons), real_array("gradients", gradients)
    sigma = number("sigma", sigma, low=0, open_low=True)
    confidence = number("confidence", confidence, low=0, high=1, open_low=True, open_high=True)
    if noise.ndim < 2 or noise.shape != grads.shape or noise.size == 0:
        raise ValueError(
            f"poisons and gradients must have one shape (n, ...) and not be empty, got {noise.shape} and {grads.shape}"
        )
    noise, grads = noise.reshape(len(noise), -1), grads.reshape(len(grads), -1)
    # Scaled first: squares of the tiny gradients of a sure model would underflow.
    largest = np.abs(grads).max(axis=1)
    used = largest > 0
    if not used.any():
        raise ValueError(
            "gradients must not all be zero: a model without gradients shows neither memory nor forgetting"
        )
    scores = np.full(len(noise), np.nan)
    scaled = grads[used] / largest[used, np.newaxis]
    scores[used] = np.einsum("nd,nd->n", noise[used], scaled) / (sigma * np.linalg.norm(scaled, axis=1))
    kept = scores[used]
    n, mean = int(kept.size), float(kept.mean())
    half = math.inf
    if n > 1:
        half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * kept.std(ddof=1) / math.sqrt(n))
    return GaussianUnlearningScore(
        scores=scores,
        mean=mean,
        interval=(mean - half, mean + half),
        p_mean=float(2 * stats.norm.sf(abs(mean) * math.sqrt(n))),
        p_distribution=float(stats.kstest(kept, "norm").pvalue),
        n_used=n,
        n_zero=int((~used).sum()),
        confidence=confidence,
    )
