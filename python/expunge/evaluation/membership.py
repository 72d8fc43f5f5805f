"""Membership inference by one threshold: how well loss or margin tells forgotten records from held-out ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from expunge._validate import count, number, real_array

__all__ = ["MembershipAUC", "auc", "membership_auc"]

Array = NDArray[np.float64]
_CHUNK = 4_000_000  # resampled records held at a time


@dataclass(frozen=True)
class MembershipAUC:
    """AUC of a membership score. An *estimate*.

    Attributes
    ----------
    value : float
        AUC, in [0, 1].
    interval : (float, float)
        Percentile bootstrap over records.
    reference : float or None
        AUC of the retrained model on the same records.
    difference_interval : (float, float) or None
        Of value - reference, with the same records resampled for both.
    confidence : float
    """

    value: float
    interval: tuple[float, float]
    reference: float | None
    difference_interval: tuple[float, float] | None
    confidence: float
    status: ClassVar[str] = "estimate"

    @property
    def difference(self) -> float | None:
        """Value less reference."""
        return None if self.reference is None else self.value - self.reference


def _scores(name: str, value: ArrayLike) -> Array:
    found = real_array(name, value, ndim=1, allow_infinite=True)
    if found.size == 0:
        raise ValueError(f"{name} must hold at least one score, got none")
    return found


def auc(positive: ArrayLike, negative: ArrayLike) -> float:
    """Return the probability that a positive's score is above a negative's, a tie counting one half.

    Parameters
    ----------
    positive, negative : array-like of float, shapes (n,) and (m,)
        Free of NaN; n, m >= 1.

    Returns
    -------
    float
        Area under the ROC curve: the Mann-Whitney statistic over n m.

    Raises
    ------
    TypeError, ValueError
        If an array is empty, has another rank or holds NaN.

    Examples
    --------
    >>> auc([3.0, 2.0], [1.0, 2.0])
    0.875
    """
    above, below = _scores("positive", positive), _scores("negative", negative)
    n, m = above.size, below.size
    ranks = rankdata(np.concatenate([above, below]))[:n]
    return float((ranks.sum() - n * (n + 1) / 2) / (n * m))


def membership_auc(
    forget: ArrayLike,
    heldout: ArrayLike,
    *,
    reference_forget: ArrayLike | None = None,
    reference_heldout: ArrayLike | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> MembershipAUC:
    """Return how well a score tells forgotten records from held-out ones, with its bootstrap interval.

    Parameters
    ----------
    forget, heldout : array-like of float, shapes (n,) and (m,)
        A score that is high for members: minus the loss, or the logit margin. Free of NaN.
    reference_forget, reference_heldout : array-like of float, shapes (n,) and (m,), optional
        The same score under a retrained model, of the same records in the same order. Its AUC is the reference: 0.5 is
        not, for forget and held-out records may differ in difficulty.
    confidence : float, default 0.95
        In (0, 1).
    n_resamples : int, default 2000
    seed : int

    Returns
    -------
    MembershipAUC
        With AUC 0 or 1 every resample agrees and the interval has no width: read it as a matter of sample size.

    Raises
    ------
    TypeError, ValueError
        If an array is empty, holds NaN, or the reference's has another length.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> found = membership_auc(rng.standard_normal(200) + 1, rng.standard_normal(300), n_resamples=500)
    >>> found.interval[0] < found.value < found.interval[1]
    True
    """
    members, others = _scores("forget", forget), _scores("heldout", heldout)
    confidence = number("confidence", confidence, low=0, high=1, open_low=True, open_high=True)
    n_resamples, seed = count("n_resamples", n_resamples, low=1), count("seed", seed)
    if (reference_forget is None) != (reference_heldout is None):
        raise ValueError("reference_forget and reference_heldout must be given together")
    pairs = [(members, others)]
    if reference_forget is not None and reference_heldout is not None:
        again = _scores("reference_forget", reference_forget), _scores("reference_heldout", reference_heldout)
        if again[0].size != members.size or again[1].size != others.size:
            raise ValueError(
                f"reference_forget and reference_heldout must have the lengths of forget and heldout "
                f"({members.size}, {others.size}), got ({again[0].size}, {again[1].size})"
            )
        pairs.append(again)
    samples = _bootstrap(pairs, n_resamples, seed)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    difference = None
    if len(pairs) == 2:
        low, high = np.quantile(samples[0] - samples[1], tails)
        difference = (float(low), float(high))
    low, high = np.quantile(samples[0], tails)
    return MembershipAUC(
        auc(members, others),
        (float(low), float(high)),
        auc(*pairs[1]) if len(pairs) == 2 else None,
        difference,
        confidence,
    )


def _bootstrap(pairs: list[tuple[Array, Array]], n_resamples: int, seed: int) -> list[Array]:
    """AUC of resampled records, one array per pair of scores; all pairs see the same resamples."""
    rng = np.random.default_rng(seed)
    n, m = pairs[0][0].size, pairs[0][1].size
    places = []
    for members, others in pairs:
        levels, where = np.unique(np.concatenate([members, others]), return_inverse=True)
        places.append((levels.size, where[:n], where[n:]))
    found = [np.empty(n_resamples) for _ in pairs]
    chunk = max(1, _CHUNK // (n + m))
    for start in range(0, n_resamples, chunk):
        size = min(chunk, n_resamples - start)
        drawn = rng.integers(n, size=(size, n)), rng.integers(m, size=(size, m))
        for result, (n_levels, of_members, of_others) in zip(found, places, strict=True):
            offsets = n_levels * np.arange(size)[:, np.newaxis]
            w = np.bincount((of_members[drawn[0]] + offsets).ravel(), minlength=size * n_levels).reshape(size, n_levels)
            v = np.bincount((of_others[drawn[1]] + offsets).ravel(), minlength=size * n_levels).reshape(size, n_levels)
            below = np.cumsum(v, axis=1) - 0.5 * v  # ties count one half
            result[start : start + size] = np.einsum("rl,rl->r", w, below) / (n * m)
    return found
