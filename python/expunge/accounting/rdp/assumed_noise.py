"""Privacy loss of training without noise, under an *assumed* implicit noise, and what depends on the assumption.

Plain SGD has no finite Renyi privacy loss. Its batches and hardware do act like noise of some size; an estimate needs
that size, and nobody knows it. What is often wanted is the ranking of records: `noise_sensitivity` says how far it
depends on the level that was assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from expunge._validate import number, real_array
from expunge.accounting._broadcast import Float64
from expunge.accounting.estimate import Estimate
from expunge.accounting.rdp.privacy_loss import privacy_loss

__all__ = ["AssumedNoiseLoss", "NoiseSensitivity", "assumed_noise_privacy_loss", "noise_sensitivity"]

if TYPE_CHECKING:
    from typing_extensions import Unpack

_LABEL = "estimate under an assumed noise"


class _Needed(TypedDict):
    step_size: ArrayLike
    sampling_probability: float
    batch_size: float
    steps: ArrayLike
    n_steps: int


class Setting(_Needed, total=False):
    """Arguments of `privacy_loss` that say how a model was trained."""

    direction: str


class SettingOfOrder(Setting):
    """The same, with the order of the divergence."""

    order: ArrayLike


@dataclass(frozen=True, eq=False)
class AssumedNoiseLoss:
    """Privacy losses that hold only as far as the assumed noise does.

    Attributes
    ----------
    loss : Estimate
        As `privacy_loss` returns it.
    assumed_noise_std : float
        The noise per step that was assumed.
    status : str
        ``"estimate under an assumed noise"``.
    """

    loss: Estimate
    assumed_noise_std: float
    status: str = _LABEL


@dataclass(frozen=True, eq=False)
class NoiseSensitivity:
    """How the ranking of records depends on the noise that was assumed.

    Attributes
    ----------
    noise_levels : ndarray of float64, shape (m,)
        Assumed noise per step, as given.
    loss : Estimate of shape (m, n)
        Privacy losses at each level.
    spearman : ndarray of float64, shape (m, m)
        Rank correlation between levels (average ranks of ties); NaN where a ranking is all ties.
    top : tuple of float
        Shares of the records called the top.
    top_overlap : ndarray of float64, shape (len(top), m, m)
        Share of the top records of one level that are in the top of the other.
    status : str
        ``"estimate under an assumed noise"``.
    """

    noise_levels: Float64
    loss: Estimate
    spearman: Float64
    top: tuple[float, ...]
    top_overlap: Float64
    status: str = _LABEL

    def summary(self) -> str:
        """Return in plain words whether the ranking can be relied on."""
        low, high = float(self.noise_levels.min()), float(self.noise_levels.max())
        text = f"Assumed noise per step from {low:g} to {high:g}. "
        if np.isnan(self.spearman).any():
            return text + "At some level all records tie: there is no ranking to compare."
        text += f"Rank correlation of the privacy losses: at least {self.spearman.min():.3f}."
        for share, overlap in zip(self.top, self.top_overlap, strict=True):
            text += f" Of the top {share:.3g} at one level, at least {overlap.min():.3f} are in that of any other."
        return text


def assumed_noise_privacy_loss(
    grad_norms: ArrayLike, *, assumed_noise_std: float, **setting: Unpack[SettingOfOrder]
) -> AssumedNoiseLoss:
    """Return the privacy loss of training without noise, as if each step had had some.

    Parameters
    ----------
    grad_norms : array_like of float, shape (n, N)
        As in `privacy_loss`.
    assumed_noise_std : float
        Noise standard deviation per step, > 0.
    **setting
        The other arguments of `privacy_loss`: ``order``, ``step_size``, ``sampling_probability``, ``batch_size``,
        ``steps``, ``n_steps`` and ``direction``.

    Returns
    -------
    AssumedNoiseLoss
        The losses, with the noise that was assumed and a status that says so.

    Raises
    ------
    TypeError
        If ``noise_std`` is given as well, or an array does not hold numbers.
    ValueError
        As `privacy_loss`.

    Examples
    --------
    >>> from expunge.accounting import assumed_noise_privacy_loss
    >>> found = assumed_noise_privacy_loss([[1.0], [3.0]], assumed_noise_std=0.1, order=2.0, step_size=0.1,
    ...     sampling_probability=1.0, batch_size=1.0, steps=[0], n_steps=1)
    >>> found.loss.round(6).tolist(), found.status
    ([1.0, 9.0], 'estimate under an assumed noise')
    """
    noise = number("assumed_noise_std", assumed_noise_std, low=0.0, open_low=True)
    if "noise_std" in setting:
        raise TypeError("noise_std must not be given: the noise is the assumed one")
    return AssumedNoiseLoss(loss=privacy_loss(grad_norms, noise_std=noise, **setting), assumed_noise_std=noise)


def noise_sensitivity(
    grad_norms: ArrayLike,
    *,
    noise_levels: ArrayLike,
    order: float,
    top: ArrayLike = (0.01, 0.1),
    **setting: Unpack[Setting],
) -> NoiseSensitivity:
    """Return how the ranking of records by privacy loss depends on the noise that is assumed.

    Parameters
    ----------
    grad_norms : array_like of float, shape (n, N)
        As in `privacy_loss`; n >= 2.
    noise_levels : array_like of float, shape (m,)
        Noise standard deviations per step to assume in turn, > 0; at least two.
    order : float
        Renyi order, > 1.
    top : array_like of float
        Shares of the records, within (0, 1), whose overlap is reported; at least one record each.
    **setting
        The other arguments of `privacy_loss`.

    Returns
    -------
    NoiseSensitivity

    Raises
    ------
    TypeError, ValueError
        As `assumed_noise_privacy_loss`; also if there are fewer than two levels or records.

    Notes
    -----
    At sampling probability 1 every loss is proportional to 1/noise^2, so that the ranking cannot depend on the noise;
    below 1 it can. *Estimates*.

    Examples
    --------
    >>> from expunge.accounting import noise_sensitivity
    >>> found = noise_sensitivity([[1.0], [3.0], [2.0]], noise_levels=[0.1, 1.0], order=2.0, top=[0.4], step_size=0.1,
    ...     sampling_probability=0.1, batch_size=1.0, steps=[0], n_steps=1)
    >>> print(found.summary())
    Assumed noise per step from 0.1 to 1. Rank correlation of the privacy losses: at least 1.000. Of the top 0.4 at one level, at least 1.000 are in that of any other.
    """  # noqa: E501
    levels = real_array("noise_levels", noise_levels, ndim=1, low=0.0, open_low=True)
    if levels.size < 2:
        raise ValueError(f"noise_levels must hold at least two levels, got {levels.size}")
    alpha = number("order", order)
    shares = np.atleast_1d(real_array("top", top, low=0.0, high=1.0, open_low=True, open_high=True))
    losses = np.stack(
        [
            assumed_noise_privacy_loss(grad_norms, assumed_noise_std=float(level), order=alpha, **setting).loss
            for level in levels
        ]
    ).view(np.ndarray)
    n = losses.shape[1]
    if n < 2:
        raise ValueError(f"grad_norms must hold at least two records, got {n}")
    overlaps = []
    for share in shares:
        size = max(int(share * n + 0.5), 1)
        heads = np.zeros(losses.shape)
        # Ties go to the lower number at every level, so that they cost no overlap.
        np.put_along_axis(heads, np.argsort(-losses, axis=1, kind="stable")[:, :size], 1.0, axis=1)
        overlaps.append(heads @ heads.T / size)
    return NoiseSensitivity(
        noise_levels=levels,
        loss=Estimate.of(losses),
        spearman=_spearman(losses),
        top=tuple(float(share) for share in shares),
        top_overlap=np.stack(overlaps),
    )


def _spearman(rows: Float64) -> Float64:
    """Return rank correlations between rows."""
    ranks = rankdata(rows, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    size = np.sqrt(np.square(ranks).sum(axis=1))
    with np.errstate(invalid="ignore"):  # 0 over 0 where all records tie
        correlations: Float64 = np.clip(ranks @ ranks.T / np.outer(size, size), -1.0, 1.0)
    return correlations
