"""Membership inference by one threshold: how well loss or margin tells forgotten records from held-out ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from expunge._validate import number, real_array
from expunge.evaluation.intervals import auc_interval, difference_interval, placements, warn_unused

__all__ = ["MembershipAUC", "auc", "membership_auc"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MembershipAUC:
    """AUC of a membership score. An *estimate*.

    Attributes
    ----------
    value : float
        AUC, in [0, 1].
    interval : (float, float)
        Score interval over records; never without width, also for AUC 0 and 1.
    reference : float or None
        AUC of the retrained model on the same records.
    difference_interval : (float, float) or None
        Of value - reference on the same records.
    confidence : float
    """

    value: float
    interval: tuple[float, float]
    reference: float | None
    difference_interval: tuple[float, float] | None
    confidence: float
    status: str = field(default="estimate", init=False)

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
    """Return the probability that a positive's score is above a negative's, a tie counting one half. An *estimate*.

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
    n_resamples: int | None = None,
    seed: int | None = None,
) -> MembershipAUC:
    """Return how well a score tells forgotten records from held-out ones, with its interval over records.

    The interval is Newcombe's score interval with DeLong's variance where that is larger (`auc_interval` in
    ``expunge/evaluation/intervals.py`` has the formula). It assumes independent records. The tests simulate 20 to 100
    records of either kind and AUCs of 0.5 to 0.99, with unequal numbers, unequal spread and heavy ties, and ask that at
    least 93% of 95% intervals hold the truth; near AUC 1 more do.

    Parameters
    ----------
    forget, heldout : array-like of float, shapes (n,) and (m,)
        A score that is high for members: minus the loss, or the logit margin. Free of NaN.
    reference_forget, reference_heldout : array-like of float, shapes (n,) and (m,), optional
        The same score under a retrained model, of the same records in the same order. Its AUC is the reference: 0.5 is
        not, for forget and held-out records may differ in difficulty.
    confidence : float, default 0.95
        In (0, 1).
    n_resamples, seed : int, optional
        Deprecated: intervals need no resampling. They change nothing, and giving them warns.

    Returns
    -------
    MembershipAUC
        From one record of a kind the interval is (0, 1). Scores in one order under both models differ by exactly 0.

    Raises
    ------
    TypeError, ValueError
        If an array is empty, holds NaN, or the reference's has another length.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> found = membership_auc(rng.standard_normal(200) + 1, rng.standard_normal(300))
    >>> found.interval[0] < found.value < found.interval[1]
    True
    """
    members, others = _scores("forget", forget), _scores("heldout", heldout)
    confidence = number("confidence", confidence, low=0, high=1, open_low=True, open_high=True)
    warn_unused(n_resamples=n_resamples, seed=seed)
    if (reference_forget is None) != (reference_heldout is None):
        raise ValueError("reference_forget and reference_heldout must be given together")
    own = placements(members, others)
    reference = difference = None
    if reference_forget is not None and reference_heldout is not None:
        again = _scores("reference_forget", reference_forget), _scores("reference_heldout", reference_heldout)
        if again[0].size != members.size or again[1].size != others.size:
            raise ValueError(
                f"reference_forget and reference_heldout must have the lengths of forget and heldout "
                f"({members.size}, {others.size}), got ({again[0].size}, {again[1].size})"
            )
        theirs = placements(*again)
        reference = auc(*again)
        orders = [rankdata(np.concatenate(pair)) for pair in ((members, others), again)]
        difference = (0.0, 0.0)
        if not np.array_equal(*orders):
            difference = difference_interval(own, theirs, confidence=confidence)
    return MembershipAUC(
        auc(members, others), auc_interval(own, confidence=confidence), reference, difference, confidence
    )
