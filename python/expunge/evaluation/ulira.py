"""U-LiRA: the likelihood-ratio attack on unlearning, from logit margins of shadow models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from expunge._validate import choice, count, number, real_array
from expunge.evaluation.metrics import METRICS, Measured

__all__ = ["ShadowMargins", "ULiRA", "shadow_margins", "ulira"]

Array = NDArray[np.float64]
_ENOUGH = 16  # shadow models of each kind from which a variance per record is worth its error


@dataclass(frozen=True)
class ULiRA:
    """Outcome of the attack with every shadow model attacked in turn. An *estimate*.

    Attributes
    ----------
    auc, accuracy : float
        Over all (model, record) pairs. 0.5 if unlearned models have the law of retrained ones.
    auc_interval, accuracy_interval : (float, float)
        Percentile bootstrap over shadow models, which are what is independent here.
    per_record_accuracy : ndarray of float64, shape (n,)
        Balanced accuracy on each record.
    unlearned_scores, retrained_scores : ndarray of float64, shapes (S, n) and (R, n)
        Log likelihood ratios, unlearned over retrained.
    variance : {"per_record", "pooled"}
        Which variance the Gaussians had.
    confidence : float
    """

    auc: float
    auc_interval: tuple[float, float]
    accuracy: float
    accuracy_interval: tuple[float, float]
    per_record_accuracy: Array
    unlearned_scores: Array
    retrained_scores: Array
    variance: str
    confidence: float
    status: ClassVar[str] = "estimate"

    def measured(self) -> tuple[Measured, Measured]:
        """Return AUC and accuracy as `Measured`, beside the 0.5 of retrained models."""
        shadows = f"{len(self.unlearned_scores)} unlearned and {len(self.retrained_scores)} retrained shadow models"
        note = f"{shadows}, {self.variance.replace('_', ' ')} variance"
        return (
            Measured(METRICS["U-LiRA AUC"], self.auc, self.auc_interval, self.confidence, 0.5, note=note),
            Measured(
                METRICS["U-LiRA accuracy"], self.accuracy, self.accuracy_interval, self.confidence, 0.5, note=note
            ),
        )


def _margins(name: str, value: ArrayLike) -> Array:
    found = real_array(name, value, ndim=2)
    if found.shape[0] < 3 or found.shape[1] < 1:
        raise ValueError(f"{name} must hold >= 3 shadow models and >= 1 record, got shape {found.shape}")
    return found


def ulira(
    unlearned: ArrayLike,
    retrained: ArrayLike,
    *,
    variance: str = "auto",
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> ULiRA:
    """Return how well a per-record likelihood ratio tells unlearned models from retrained ones [HSZ]_ [CCN]_.

    Every shadow model plays the attacked one in turn: it, and one model of the other kind, are left out of the fits, so
    that both kinds are fitted from as many models as were left and neither is favoured. For each record the two kinds'
    margins are fitted by Gaussians, and the score is the log likelihood ratio of the attacked model's margin.

    Parameters
    ----------
    unlearned : array-like of float, shape (S, n)
        Logit margins of n forgotten records under S >= 3 models that were trained with them and unlearned.
    retrained : array-like of float, shape (R, n)
        The same under R >= 3 models trained without them.
    variance : {"auto", "per_record", "pooled"}
        "pooled" averages the variance over records, for few shadow models; "auto" takes it below 16 of either kind. A
        record whose margins do not vary gets the pooled variance.
    confidence : float, default 0.95
    n_resamples, seed : int
        Of the bootstrap over models.

    Returns
    -------
    ULiRA

    Raises
    ------
    TypeError, ValueError
        If a margin is not finite, shapes disagree, or no margin varies at all: shadow models of one seed, say.

    References
    ----------
    .. [HSZ] Hayes, Shumailov, Triantafillou, Khalifa, Papernot, Inexact unlearning needs more careful evaluations to
       avoid a false sense of privacy (2024), arXiv:2403.01218.
    .. [CCN] Carlini, Chien, Nasr, Song, Terzis, Tramer, Membership inference attacks from first principles (2021),
       arXiv:2112.03570.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> found = ulira(rng.standard_normal((20, 50)) + 1.0, rng.standard_normal((20, 50)))
    >>> 0.6 < found.auc < 0.9, found.variance
    (True, 'per_record')
    """
    ours, theirs = _margins("unlearned", unlearned), _margins("retrained", retrained)
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(
            f"unlearned and retrained must hold the same records, got {ours.shape[1]} and {theirs.shape[1]}"
        )
    variance = choice("variance", variance, ("auto", "per_record", "pooled"))
    confidence = number("confidence", confidence, low=0, high=1, open_low=True, open_high=True)
    n_resamples, seed = count("n_resamples", n_resamples, low=1), count("seed", seed)
    if variance == "auto":
        variance = "per_record" if min(len(ours), len(theirs)) >= _ENOUGH else "pooled"
    of_ours = _scores(ours, ours, theirs, variance)
    of_theirs = _scores(theirs, ours, theirs, variance)

    # Statistics of the pairs of models: the bootstrap over models is then a weighted mean of their entries.
    ranked = np.sort(of_theirs, axis=1)
    n = ours.shape[1]
    wins = np.empty((len(ours), len(theirs)))
    for b, row in enumerate(ranked):
        wins[:, b] = (np.searchsorted(row, of_ours, "left") + np.searchsorted(row, of_ours, "right")).sum(1) / (
            2 * n * n
        )
    hits = ((of_ours > 0) + 0.5 * (of_ours == 0)).mean(1)
    passes = ((of_theirs < 0) + 0.5 * (of_theirs == 0)).mean(1)
    per_record = (
        ((of_ours > 0) + 0.5 * (of_ours == 0)).mean(0) + ((of_theirs < 0) + 0.5 * (of_theirs == 0)).mean(0)
    ) / 2

    rng = np.random.default_rng(seed)
    w = rng.multinomial(len(ours), np.full(len(ours), 1 / len(ours)), n_resamples) / len(ours)
    v = rng.multinomial(len(theirs), np.full(len(theirs), 1 / len(theirs)), n_resamples) / len(theirs)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    auc_low, auc_high = np.quantile(np.einsum("ra,ab,rb->r", w, wins, v, optimize=True), tails)
    acc_low, acc_high = np.quantile((w @ hits + v @ passes) / 2, tails)
    return ULiRA(
        auc=float(wins.mean()),
        auc_interval=(float(auc_low), float(auc_high)),
        accuracy=float((hits.mean() + passes.mean()) / 2),
        accuracy_interval=(float(acc_low), float(acc_high)),
        per_record_accuracy=per_record,
        unlearned_scores=of_ours,
        retrained_scores=of_theirs,
        variance=variance,
        confidence=confidence,
    )


def _without(margins: Array, rows: NDArray[np.int64]) -> tuple[Array, Array]:
    """Mean and unbiased variance of each record over all models but one, shape (len(rows), n)."""
    size = len(margins)
    mean = margins.mean(axis=0)
    away = margins - mean
    left = away[rows]
    squares = (away**2).sum(axis=0) - left**2 * (size / (size - 1))
    return mean - left / (size - 1), np.maximum(squares, 0.0) / (size - 2)


def _scores(attacked_margins: Array, ours: Array, theirs: Array, variance: str) -> Array:
    models = np.arange(len(attacked_margins))
    fits = []
    for name, margins in (("unlearned", ours), ("retrained", theirs)):
        mean, var = _without(margins, models % len(margins))
        pooled = var.mean(axis=1, keepdims=True)
        if not (pooled > 0).all():
            raise ValueError(f"{name} must hold margins that vary over shadow models, got none that does")
        # Rounding leaves a few units of the last place where nothing varies.
        flat = var <= (64 * np.finfo(np.float64).eps * np.abs(margins).max(axis=0)) ** 2
        fits.append((mean, np.broadcast_to(pooled, var.shape) if variance == "pooled" else np.where(flat, pooled, var)))
    (mean_u, var_u), (mean_r, var_r) = fits
    log_u = -0.5 * ((attacked_margins - mean_u) ** 2 / var_u + np.log(var_u))
    log_r = -0.5 * ((attacked_margins - mean_r) ** 2 / var_r + np.log(var_r))
    return np.asarray(log_u - log_r, dtype=np.float64)


@dataclass(frozen=True)
class ShadowMargins:
    """Logit margins of the forgotten records under shadow models, both of shape (n_shadows, n)."""

    unlearned: Array
    retrained: Array


def shadow_margins(
    unlearned: Callable[[int], Any],
    retrained: Callable[[int], Any],
    margins: Callable[[Any], ArrayLike],
    *,
    n_shadows: int,
    seed: int = 0,
) -> ShadowMargins:
    """Train shadow models of both kinds and return their margins on the forgotten records.

    Parameters
    ----------
    unlearned : callable
        Takes a seed; trains on all records, unlearns, returns the model.
    retrained : callable
        Takes a seed; trains without the forget set, returns the model.
    margins : callable
        Takes a model; returns its n logit margins on the forget set.
    n_shadows : int
        Of each kind, >= 3. Every call gets another seed; the models are not kept.
    seed : int

    Returns
    -------
    ShadowMargins
        What `ulira` takes.

    Raises
    ------
    ValueError
        If a model's margins are not finite or their number changes; the message says which shadow model it was.

    Examples
    --------
    >>> import numpy as np
    >>> found = shadow_margins(np.random.default_rng, np.random.default_rng, lambda m: m.normal(size=5), n_shadows=4)
    >>> found.unlearned.shape, found.retrained.shape
    ((4, 5), (4, 5))
    """
    n_shadows, seed = count("n_shadows", n_shadows, low=3), count("seed", seed)
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(2 * n_shadows)]
    rows: list[Array] = []
    kinds = [("unlearned", unlearned), ("retrained", retrained)]
    for place, given in enumerate(tqdm(seeds, desc="shadow models", unit="model", disable=None)):
        name, make = kinds[place % 2]
        found = real_array(f"margins of {name} shadow model {place // 2}", margins(make(given)), ndim=1)
        if rows and found.size != rows[0].size:
            raise ValueError(
                f"margins must return {rows[0].size} numbers for every model, got {found.size} of {name} shadow model "
                f"{place // 2}"
            )
        rows.append(found)
    return ShadowMargins(np.array(rows[0::2]), np.array(rows[1::2]))
