"""Scaling by constants: features brought to one size with bounds that the user knows, not with statistics of the data.

A statistic (a mean, a largest value) depends on the record that is deleted later, and so does every model trained on
what it scaled; no certificate of the model sees that. Bounds known beforehand depend on nobody.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from expunge._validate import choice, real_array, refuse_masks
from expunge.data.constants import CONDITIONS

__all__ = ["ConstantScaler"]

Array = NDArray[np.float64]

_OUTSIDE = ("refuse", "clip")
_SOURCES = ("given", "data")


class ConstantScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Maps the known range [low, high] of each feature onto one range, by default [-1, 1].

    A scikit-learn transformer without anything to learn: ``fit`` only counts (and names) the features, so a pipeline
    with it is a function of each record alone. Rows of d features scaled to [-1, 1] have norm at most sqrt(d), and
    sqrt(d + 1) with a constant column: the ``norm_bound`` of `LangevinRidge`.

    Parameters
    ----------
    low, high : float or array-like of shape (n_features,)
        Bounds that hold for every record there can be, low < high: limits of an instrument, of a scale, of the law.
        A number serves all features.
    feature_range : tuple of float, default (-1, 1)
        What low and high are mapped to.
    outside : {"refuse", "clip"}, default "refuse"
        What happens to a value outside its bounds: an error that names it, or the nearest bound in its place.
    source : {"given", "data"}, default "given"
        Where the bounds come from: known beforehand, or computed from the data that a model learns from.

    Attributes
    ----------
    low_, high_ : ndarray of shape (n_features,)
        The bounds, one per feature.
    conditions_ : tuple of str
        What certificates of a model learned on the scaled data rest on: nothing for bounds that are given. Hand it to
        the ``fit`` of the model, ``conditions=scaler.conditions_``.
    n_features_in_ : int

    Raises
    ------
    ValueError
        By ``fit`` and ``transform``: if a bound is not finite, low is not below high, their number is not that of the
        features, or (``outside="refuse"``) a value lies outside its bounds.

    Examples
    --------
    >>> ages_and_incomes = [[18, 0.0], [59, 40_000.0]]
    >>> ConstantScaler([0, 0], [100, 100_000]).fit_transform(ages_and_incomes)
    array([[-0.64, -1.  ],
           [ 0.18, -0.2 ]])
    """

    def __init__(
        self,
        low: ArrayLike,
        high: ArrayLike,
        *,
        feature_range: tuple[float, float] = (-1.0, 1.0),
        outside: str = "refuse",
        source: str = "given",
    ) -> None:
        self.low = low
        self.high = high
        self.feature_range = feature_range
        self.outside = outside
        self.source = source

    @classmethod
    def from_data(
        cls, X: ArrayLike, *, feature_range: tuple[float, float] = (-1.0, 1.0), outside: str = "clip"
    ) -> ConstantScaler:
        """Return a scaler whose bounds are the smallest and largest values in ``X``, with a warning.

        Such bounds depend on the records, and a deletion does not undo that: certificates of a model learned on what
        they scaled are *conditional* (hand ``conditions_`` to its ``fit``). To look at data, or as a first draft of
        bounds that are then replaced by what is known.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data to take bounds from. A feature with a single value v gets v - w and v + w, w = max(1, abs(v)).
        feature_range, outside
            As in the constructor; values outside are clipped by default, because later records will exceed the bounds.

        Returns
        -------
        ConstantScaler
            With ``source="data"``.

        Warns
        -----
        UserWarning
            Always.

        Examples
        --------
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     scaler = ConstantScaler.from_data([[1.0, 7.0], [3.0, 7.0]])
        >>> scaler.low.tolist(), scaler.high.tolist()
        ([1.0, 0.0], [3.0, 14.0])
        """
        values = real_array("X", X, ndim=2)
        if 0 in values.shape:
            raise ValueError(f"X must hold at least one row and one column, got shape {values.shape}")
        low, high = values.min(axis=0), values.max(axis=0)
        width = np.where(low == high, np.maximum(1.0, np.abs(low)), 0.0)
        warnings.warn(
            "the bounds are taken from the data: they depend on every record, including one deleted later, and make "
            "certificates conditional; give bounds that you know, ConstantScaler(low, high), or pass "
            "conditions=scaler.conditions_ to the model's fit",
            UserWarning,
            stacklevel=2,
        )
        return cls(low - width, high + width, feature_range=feature_range, outside=outside, source="data")

    def _bounds(self, n_features: int) -> tuple[Array, Array]:
        low, high = (real_array(name, getattr(self, name)) for name in ("low", "high"))
        for name, bound in (("low", low), ("high", high)):
            if bound.shape not in ((), (n_features,)):
                raise ValueError(
                    f"{name} must be a number or hold one per feature, shape ({n_features},), got shape {bound.shape}"
                )
        low, high = (np.array(np.broadcast_to(bound, (n_features,))) for bound in (low, high))
        with np.errstate(over="ignore"):
            width = high - low
        wrong = np.flatnonzero(~((width > 0) & np.isfinite(width)))
        if wrong.size:
            j = wrong[0]
            raise ValueError(
                f"low must be below high by a finite width, got {low[j]:g} and {high[j]:g} for feature {j}"
            )
        return low, high

    def fit(self, X: ArrayLike, y: object = None) -> ConstantScaler:
        """Check the bounds against the number of features of ``X``; no value of ``X`` is used."""
        refuse_masks("X", X)
        validate_data(self, X, dtype=np.float64)
        choice("outside", self.outside, _OUTSIDE)
        choice("source", self.source, _SOURCES)
        ends = real_array("feature_range", self.feature_range, ndim=1).tolist()
        if len(ends) != 2 or not 0 < ends[1] - ends[0] < np.inf:
            raise ValueError(
                f"feature_range must be two numbers that rise by a finite width, got {self.feature_range!r}"
            )
        self.low_, self.high_ = self._bounds(self.n_features_in_)
        self._range, self._clip = tuple(ends), self.outside == "clip"
        self.conditions_ = (CONDITIONS["scale"],) if self.source == "data" else ()
        return self

    def transform(self, X: ArrayLike) -> Array:
        """Return the scaled records, shape (n_samples, n_features), within ``feature_range``."""
        check_is_fitted(self, "low_")
        refuse_masks("X", X)
        values: Array = validate_data(self, X, dtype=np.float64, reset=False)
        outside = (values < self.low_) | (values > self.high_)
        if not self._clip and outside.any():
            i, j = np.argwhere(outside)[0]
            name = getattr(self, "feature_names_in_", range(self.n_features_in_))[j]
            raise ValueError(
                f"X must lie within its bounds, got {values[i, j]:g} in row {i}, outside [{self.low_[j]:g}, "
                f"{self.high_[j]:g}] of feature {name}: widen the bounds, or give outside='clip'"
            )
        bottom, top = self._range
        share = (np.clip(values, self.low_, self.high_) - self.low_) / (self.high_ - self.low_)
        # Rounding may not exceed the range: it is what bounds on the norm are made of.
        return np.asarray(np.clip(bottom + (top - bottom) * share, bottom, top))

    def inverse_transform(self, X: ArrayLike) -> Array:
        """Return records in their own units, shape (n_samples, n_features); clipped values stay clipped."""
        check_is_fitted(self, "low_")
        values = real_array("X", X, ndim=2)
        if values.shape[1] != self.n_features_in_:
            raise ValueError(f"X must have {self.n_features_in_} columns, one per feature, got shape {values.shape}")
        bottom, top = self._range
        return np.asarray(self.low_ + (values - bottom) / (top - bottom) * (self.high_ - self.low_))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "low_")
