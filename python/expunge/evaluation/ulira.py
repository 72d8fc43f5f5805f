"""U-LiRA: the likelihood-ratio attack on unlearning, from logit margins of shadow models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from tqdm.auto import tqdm

from expunge._validate import choice, count, number, real_array
from expunge.evaluation.intervals import Placements, accuracy_interval, auc_interval, warn_unused
from expunge.evaluation.metrics import METRICS, Measured

__all__ = ["ShadowMargins", "ULiRA", "shadow_margins", "ulira"]

Array = NDArray[np.float64]
Model = TypeVar("Model")
_ENOUGH = 16  # shadow models of each kind from which a variance per record is worth its error


@dataclass(frozen=True)
class ULiRA:
    """Outcome of the attack, fitted to one half of the shadow models and tested on the other. An *estimate*.

    Attributes
    ----------
    auc, accuracy : float
        Over all pairs of a tested model and a record. 0.5 in expectation if unlearned models have the law of retrained
        ones, whatever the number of models.
    auc_interval, accuracy_interval : (float, float)
        Score intervals over the tested models, which are what is independent here; (0, 1) where fewer than two of
        a kind were tested.
    per_record_accuracy : ndarray of float64, shape (n,)
        Balanced accuracy on each record.
    unlearned_scores, retrained_scores : ndarray of float64, shapes (S - n_fitted[0], n) and (R - n_fitted[1], n)
        Log likelihood ratios of the tested models, unlearned over retrained.
    variance : {"per_record", "pooled"}
        Which variance the Gaussians had.
    confidence : float
    n_fitted : (int, int)
        Unlearned and retrained models that the Gaussians were fitted to: the first of each kind.
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
    n_fitted: tuple[int, int]
    status: str = field(default="estimate", init=False)

    def measured(self) -> tuple[Measured, Measured]:
        """Return AUC and accuracy as `Measured`, beside the 0.5 of retrained models."""
        tested = len(self.unlearned_scores), len(self.retrained_scores)
        models = [fitted + others for fitted, others in zip(self.n_fitted, tested, strict=True)]
        note = (
            f"{models[0]} unlearned and {models[1]} retrained shadow models: fitted to {self.n_fitted[0]} and "
            f"{self.n_fitted[1]}, tested on the others, {self.variance.replace('_', ' ')} variance"
        )
        if min(tested) < 2:
            note += "; too few models were tested for an interval"
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
    n_resamples: int | None = None,
    seed: int | None = None,
) -> ULiRA:
    """Return how well a per-record likelihood ratio tells unlearned models from retrained ones [HSZ]_ [CCN]_.

    The attack is fitted to the first half of the models of each kind: for each record both kinds' margins by Gaussians,
    and the score is the log likelihood ratio of a model's margin. It is tested on the other half. A tested model is in
    no fit, so that tested models of equal laws are exchangeable: AUC and accuracy are 0.5 in expectation, exactly, and
    given the fit tested models are independent samples. The intervals (`expunge.evaluation.intervals`) are for the
    attack as it was fitted: how well it would do on all further models.

    The tests simulate equal laws on 20 records, independent or with up to 95% of their variance in common: from 16
    models of each kind 93% to 97% of 95% intervals hold 0.5, with 4 to 15 at least 93%. A single record has so few
    outcomes that more do. With 3 models there is no interval but (0, 1).

    Parameters
    ----------
    unlearned : array-like of float, shape (S, n)
        Logit margins of n forgotten records under S >= 3 models that were trained with them and unlearned, in random
        order. S >= 4 for an interval.
    retrained : array-like of float, shape (R, n)
        The same under R >= 3 models trained without them.
    variance : {"auto", "per_record", "pooled"}
        "pooled" averages the variance over records, for few shadow models; "auto" takes it below 16 of either kind. A
        record whose margins do not vary gets the pooled variance.
    confidence : float, default 0.95
    n_resamples, seed : int, optional
        Deprecated: intervals need no resampling. They change nothing, and giving them warns.

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
    warn_unused(n_resamples=n_resamples, seed=seed)
    if variance == "auto":
        variance = "per_record" if min(len(ours), len(theirs)) >= _ENOUGH else "pooled"
    n_fitted = max(2, len(ours) // 2), max(2, len(theirs) // 2)
    fits = [
        _fit(*named, variance) for named in (("unlearned", ours[: n_fitted[0]]), ("retrained", theirs[: n_fitted[1]]))
    ]
    of_ours, of_theirs = _scores(ours[n_fitted[0] :], *fits), _scores(theirs[n_fitted[1] :], *fits)

    wins = _wins(of_ours, of_theirs)
    value = float(wins.mean())
    shared = _shared(of_ours, of_theirs)
    own = float(((wins - value) ** 2).mean()) / (value * (1 - value)) if 0 < value < 1 else 1.0
    placed = Placements(wins.mean(axis=1), wins.mean(axis=0), min(1.0, max(own, shared)))
    hit = (of_ours > 0) + 0.5 * (of_ours == 0)
    passed = (of_theirs < 0) + 0.5 * (of_theirs == 0)
    hits, passes = hit.mean(axis=1), passed.mean(axis=1)
    return ULiRA(
        auc=value,
        auc_interval=auc_interval(placed, confidence=confidence),
        accuracy=float((hits.mean() + passes.mean()) / 2),
        accuracy_interval=accuracy_interval(hits, passes, spread=shared, confidence=confidence),
        per_record_accuracy=(hit.mean(axis=0) + passed.mean(axis=0)) / 2,
        unlearned_scores=of_ours,
        retrained_scores=of_theirs,
        variance=variance,
        confidence=confidence,
        n_fitted=n_fitted,
    )


def _fit(name: str, margins: Array, variance: str) -> tuple[Array, Array]:
    """Mean and variance of each record over models."""
    mean, var = margins.mean(axis=0), margins.var(axis=0, ddof=1)
    # Rounding leaves a few units of the last place where nothing varies.
    flat = var <= (64 * np.finfo(np.float64).eps * np.abs(margins).max(axis=0)) ** 2
    pooled = float(np.where(flat, 0.0, var).mean())
    if not pooled > 0:
        raise ValueError(f"{name} must hold margins that vary over shadow models, got none that does")
    return mean, np.full_like(var, pooled) if variance == "pooled" else np.where(flat, pooled, var)


def _scores(margins: Array, unlearned: tuple[Array, Array], retrained: tuple[Array, Array]) -> Array:
    (mean_u, var_u), (mean_r, var_r) = unlearned, retrained
    log_u = -0.5 * ((margins - mean_u) ** 2 / var_u + np.log(var_u))
    log_r = -0.5 * ((margins - mean_r) ** 2 / var_r + np.log(var_r))
    return np.asarray(log_u - log_r, dtype=np.float64)


def _wins(ours: Array, theirs: Array) -> Array:
    """AUC of each of our models' scores against each of theirs, over all pairs of records."""
    n = ours.shape[1]
    wins = np.empty((len(ours), len(theirs)))
    for b, row in enumerate(np.sort(theirs, axis=1)):
        wins[:, b] = (np.searchsorted(row, ours, "left") + np.searchsorted(row, ours, "right")).sum(axis=1)
    return np.asarray(wins / (2 * n * n), dtype=np.float64)


def _shared(ours: Array, theirs: Array) -> float:
    """Share of the variance of scores, by ranks, that records of one model have in common: 1 / n if independent.

    Near AUC 1 hardly any pair is lost and outcomes say little of how records hang together; ranks still do.
    """
    ranks = rankdata(np.concatenate([ours.ravel(), theirs.ravel()]))
    parts = ranks[: ours.size].reshape(ours.shape), ranks[ours.size :].reshape(theirs.shape)
    whole = sum(float(part.var()) for part in parts)
    between = sum(float(part.mean(axis=1).var(ddof=1)) for part in parts if len(part) > 1)
    return min(1.0, between / whole) if whole > 0 else 1.0


@dataclass(frozen=True)
class ShadowMargins:
    """Logit margins of the forgotten records under shadow models. An *estimate*: models vary with their seeds.

    Attributes
    ----------
    unlearned, retrained : ndarray of float64, shape (n_shadows, n)
    """

    unlearned: Array
    retrained: Array
    status: str = field(default="estimate", init=False)


def shadow_margins(
    unlearned: Callable[[int], Model],
    retrained: Callable[[int], Model],
    margins: Callable[[Model], ArrayLike],
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
