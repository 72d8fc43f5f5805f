"""Expected accuracy of a released ridge classifier, in closed form: its law is Gaussian, and known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.special import log_ndtr

from expunge._types import Float64

__all__ = ["DeletionLaw", "Learned", "expected_accuracy"]

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(64)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def expected_accuracy(means: Float64, spread: Float64, labels: NDArray[np.int64]) -> float:
    """Return the mean probability that the largest of independent normal scores is that of the true class.

    Parameters
    ----------
    means : ndarray of float64, shape (n, q)
        Of the scores of each record.
    spread : ndarray of float64, shape (n,)
        Standard deviation of each score of a record, > 0.
    labels : ndarray of int64, shape (n,)
        True classes.

    Returns
    -------
    float
        By Gauss-Hermite quadrature with 64 nodes; no draws.

    Examples
    --------
    >>> expected_accuracy(np.array([[0.0, 0.0]]), np.array([1.0]), np.array([1]))
    0.5
    """
    rows = np.arange(len(labels))
    above = (means[rows, labels][:, np.newaxis] - means) / spread[:, np.newaxis]
    logs = np.zeros((len(labels), len(_NODES)))
    for k in range(means.shape[1]):
        others = labels != k
        logs[others] += log_ndtr(above[others, k][:, np.newaxis] + _NODES)
    return float((np.exp(logs) @ _WEIGHTS).mean())


@dataclass(frozen=True, eq=False)
class Learned:
    """The Gaussian law of learning: columns of parameters are independent and alike but for their means.

    Attributes
    ----------
    X, targets : ndarray of float64, shapes (n, p) and (n, q)
        What was learned from.
    alpha, step_size : float
        Of learning and of deletions.
    hessian : ndarray of float64, shape (p, p)
    mean : ndarray of float64, shape (p, q)
    root : ndarray of float64, shape (p, p)
        ``root @ root.T`` is the covariance of a column.
    """

    X: Float64
    targets: Float64
    alpha: float
    step_size: float
    hessian: Float64
    mean: Float64
    root: Float64

    @classmethod
    def of(
        cls, X: Float64, targets: Float64, *, alpha: float, step_size: float, n_steps: int, noise_std: float
    ) -> Learned:
        """Return the law after steps from zero."""
        hessian = X.T @ X
        hessian[np.diag_indices_from(hessian)] += alpha
        values, vectors = scipy.linalg.eigh(hessian)
        rates = 1.0 - step_size * values
        optimum = (vectors.T @ (X.T @ targets)) / values[:, np.newaxis]
        mean = vectors @ ((1.0 - rates**n_steps)[:, np.newaxis] * optimum)
        return cls(X, targets, alpha, step_size, hessian, mean, vectors * (noise_std * np.sqrt(_sums(rates, n_steps))))

    def scores(self, X: Float64) -> tuple[Float64, Float64]:
        """Return means, shape (m, q), and standard deviations, shape (m,), of the scores of rows."""
        return X @ self.mean, np.linalg.norm(X @ self.root, axis=1)

    def without(self, record: int, *, n_steps: int) -> DeletionLaw:
        """Return the law of a deletion of one record by so many steps, whose noise is yet to be said."""
        x = self.X[record]
        values, vectors = scipy.linalg.eigh(self.hessian - np.outer(x, x))
        rates = 1.0 - self.step_size * values
        moment = self.X.T @ self.targets - np.outer(x, self.targets[record])
        optimum = (vectors.T @ moment) / values[:, np.newaxis]
        left = (rates**n_steps)[:, np.newaxis]
        mean = left * (vectors.T @ self.mean) + (1.0 - left) * optimum
        return DeletionLaw(vectors, mean, left * (vectors.T @ self.root), _sums(rates, n_steps), optimum)


@dataclass(frozen=True, eq=False)
class DeletionLaw:
    """The law of a release after a deletion, in the eigenbasis of the records that remain.

    Attributes
    ----------
    vectors : ndarray of float64, shape (p, p)
        The eigenbasis.
    mean : ndarray of float64, shape (p, q)
    root : ndarray of float64, shape (p, p)
        Of the covariance that learning left in a column.
    added : ndarray of float64, shape (p,)
        Variance that unit noise per step adds.
    optimum : ndarray of float64, shape (p, q)
        Of the records that remain.
    """

    vectors: Float64
    mean: Float64
    root: Float64
    added: Float64
    optimum: Float64

    def scores(self, X: Float64, *, noise_std: float) -> tuple[Float64, Float64]:
        """Return means and standard deviations of the scores of rows, with that noise in every step."""
        turned = X @ self.vectors
        kept = np.square(turned @ self.root).sum(axis=1)
        return turned @ self.mean, np.sqrt(kept + noise_std**2 * (np.square(turned) @ self.added))

    def optimum_scores(self, X: Float64, *, noise_std: float) -> tuple[Float64, Float64]:
        """Return the same of the optimum released with noise on each parameter."""
        return X @ (self.vectors @ self.optimum), noise_std * np.linalg.norm(X, axis=1)


def _sums(rates: Float64, n_steps: int) -> Float64:
    """Return the sums of the squares of the powers of the rates, from 0 to below a number of steps."""
    return np.asarray(np.square(rates[:, np.newaxis] ** np.arange(n_steps)).sum(axis=1))
