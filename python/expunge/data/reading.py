"""Reading: how the table of a fit was read, kept with the model, so that later tables are read no other way.

A model knows nothing of units: a row that was divided by 255 at fit and is not divided later gets another prediction,
and nothing else tells. So the columns, the constants that features were divided by or scaled with, and the map that
followed are kept beside the parameters.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge._types import JsonObject
from expunge.data.cosines import random_cosine_features

__all__ = ["Constants", "Cosines", "Reading"]

Float64 = NDArray[np.float64]
Column = str | int

_KINDS = {"divide_by": 1, "bounds": 2}  # constants of each feature


@dataclass(frozen=True)
class Constants:
    """Constants that features are divided by or scaled with.

    Attributes
    ----------
    kind : {"divide_by", "bounds"}
        Divisors, or bounds that are mapped to [-1, 1].
    values : tuple of tuple of float, or None
        The divisor, or the lower and the upper bound, of each feature; one row serves all features. None where they
        were computed from the data: such constants tell of records, also of one that is deleted later, and are not
        kept.
    seal : str or None
        Of constants that are not kept, a random key and an HMAC-SHA256 under it, by which a working model recognises
        them.
    """

    kind: str
    values: tuple[tuple[float, ...], ...] | None
    seal: str | None = None

    def __post_init__(self) -> None:
        _validate.choice("kind", self.kind, tuple(_KINDS))
        if self.values is None:
            return
        rows = _validate.real_array("values", self.values, ndim=2)
        if rows.shape[0] == 0 or rows.shape[1] != _KINDS[self.kind]:
            raise ValueError(f"values must hold {_KINDS[self.kind]} for each feature, got shape {rows.shape}")
        if self.kind == "divide_by" and not (rows > 0).all():
            raise ValueError(f"divide_by must be > 0, got {rows.min():g}")
        object.__setattr__(self, "values", tuple(map(tuple, rows.tolist())))

    @property
    def changes_nothing(self) -> bool:
        """Whether these are divisors of 1."""
        return self.kind == "divide_by" and all(row == (1.0,) for row in self.values or ((0.0,),))

    def sealed(self, *, n_features: int) -> Constants:
        """Return the constants without their values, which `same_as` recognises."""
        key = secrets.token_bytes(16)
        return replace(self, values=None, seal=f"{key.hex()}{self._mac(key, n_features)}")

    def same_as(self, other: Constants, *, n_features: int) -> bool:
        """Return whether given constants are these; True for constants that were kept in no way at all."""
        if self.kind != other.kind:
            return False
        if self.values is not None:
            return np.array_equal(self.rows(n_features=n_features), other.rows(n_features=n_features))
        if self.seal is None:
            return True
        return hmac.compare_digest(self.seal[32:], other._mac(bytes.fromhex(self.seal[:32]), n_features))

    def rows(self, *, n_features: int) -> Float64:
        """Return the constants, shape (n_features, 1 or 2).

        Raises
        ------
        ValueError
            If they are not kept, or are those of another number of features.
        """
        if self.values is None:
            raise ValueError(f"{self.kind} was computed from the data of fit and is not kept: it must be given")
        if len(self.values) not in (1, n_features):
            raise ValueError(f"{self.kind} must hold one row per feature, {n_features}, got {len(self.values)}")
        return np.array(np.broadcast_to(np.array(self.values), (n_features, _KINDS[self.kind])))

    def _mac(self, key: bytes, n_features: int) -> str:
        return hmac.digest(key, self.rows(n_features=n_features).astype("<f8").tobytes(), "sha256").hex()


@dataclass(frozen=True)
class Cosines:
    """Settings of `random_cosine_features`.

    Attributes
    ----------
    n_features : int
    scale : float
    seed : int
        As there.
    """

    n_features: int
    scale: float
    seed: int


@dataclass(frozen=True)
class Reading:
    """How a table was read: columns, constants, and the map of the features.

    Attributes
    ----------
    n_features : int
        Features before the map.
    n_columns : int or None
        Columns of the table; None for arrays.
    features : tuple of str or int, or None
        Columns of the features in their order, by name, or by position in a table without a header; None for arrays.
    target : str, int or None
        Column (or array) of the targets; None for the usual one, and for targets in a file of their own.
    target_apart : bool
        Whether targets were in a file of their own.
    id_column : str, int or None
        Column (or array) of ids; None where there was none.
    weight_column : str, int or None
        Column (or array) of the records' weights; None where there was none.
    header : bool or None
        False for a text table without a header; None where the first line tells.
    decimal_comma : bool
        Whether numbers were written 1,5.
    constants : Constants or None
        Constants that features were divided by or scaled with.
    clip : bool
        Whether values outside their bounds count as the nearest bound.
    cosines : Cosines or None
        Random cosines that took the features' place.

    Examples
    --------
    >>> reading = Reading(n_features=2, constants=Constants("divide_by", ((4.0,),)))
    >>> reading.mapped([[1.0, 2.0]]).tolist()
    [[0.25, 0.5]]
    """

    n_features: int
    n_columns: int | None = None
    features: tuple[Column, ...] | None = None
    target: Column | None = None
    target_apart: bool = False
    id_column: Column | None = None
    weight_column: Column | None = None
    header: bool | None = None
    decimal_comma: bool = False
    constants: Constants | None = None
    clip: bool = False
    cosines: Cosines | None = None

    def __post_init__(self) -> None:
        _validate.count("n_features", self.n_features, low=1)
        if self.n_columns is not None:
            _validate.count("n_columns", self.n_columns, low=1)
        if (self.features is None) != (self.n_columns is None):
            raise ValueError("features and n_columns must both be given for a table, and for nothing else")
        kinds = {type(one) for one in self.features or ()}
        if not kinds <= {str} and not kinds <= {int}:
            raise ValueError("features must be all names or all positions")
        for name in ("target", "id_column", "weight_column"):
            if type(getattr(self, name)) not in (str, int, type(None)):
                raise ValueError(f"{name} must be a name or a position, got {getattr(self, name)!r}")
        for name, allowed in (("target_apart", 1), ("decimal_comma", 1), ("clip", 1), ("header", 2)):
            value = getattr(self, name)
            if type(value) is not bool and not (allowed == 2 and value is None):
                raise ValueError(f"{name} must be true or false, got {value!r}")
        if self.constants is not None and self.constants.values is not None:
            self.constants.rows(n_features=self.n_features)

    @property
    def named(self) -> bool:
        """Whether the table had names for its columns."""
        return self.features is not None and all(isinstance(one, str) for one in self.features)

    @property
    def width(self) -> int:
        """Features that the model takes: after the map."""
        return self.n_features if self.cosines is None else self.cosines.n_features

    def used(self, constants: Constants | None = None) -> Constants | None:
        """Return the constants that features are mapped with: those that are given, where they are not kept.

        Raises
        ------
        ValueError
            If those given are not those of the fit.
        """
        if constants is None:
            return self.constants
        if self.constants is None or not self.constants.same_as(constants, n_features=self.n_features):
            raise ValueError(f"{constants.kind} must be that of the fit")
        return constants

    def mapped(
        self, X: ArrayLike, *, constants: Constants | None = None, names: tuple[str, ...] | None = None
    ) -> Float64:
        """Return features as the model takes them.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Features as the table has them, in the order of ``features``.
        constants : Constants, optional
            The constants of the fit, where they are not kept.
        names : tuple of str, optional
            Names of the features, for errors.

        Returns
        -------
        ndarray of float64, shape (n, width)

        Raises
        ------
        ValueError
            If the shape is another, a value lies outside its bounds, or constants are needed and not given, or given
            and not those of the fit.
        """
        values = _validate.real_array("X", X, ndim=2)
        if values.shape[1] != self.n_features:
            raise ValueError(f"X must have {self.n_features} features, got {values.shape[1]}")
        used = self.used(constants)
        if used is not None:
            values = _scaled(values, used, clip=self.clip, names=names)
        if self.cosines is None:
            return values
        c = self.cosines
        return random_cosine_features(values, n_features=c.n_features, scale=c.scale, seed=c.seed)

    def public(self) -> Reading:
        """Return the same without a trace of constants that were computed from the data."""
        if self.constants is None or self.constants.seal is None:
            return self
        return replace(self, constants=replace(self.constants, seal=None))

    def to_dict(self) -> JsonObject:
        """Return the reading as JSON values."""
        found: JsonObject = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
            if name not in ("constants", "cosines")
        }
        constants, cosines = self.constants, self.cosines
        found["constants"] = (
            None
            if constants is None
            else {
                "kind": constants.kind,
                "values": None if constants.values is None else [list(row) for row in constants.values],
                "seal": constants.seal,
            }
        )
        found["cosines"] = None if cosines is None else dict(vars(cosines))
        return found

    @classmethod
    def from_dict(cls, stored: JsonObject) -> Reading:
        """Return the reading of JSON values.

        Raises
        ------
        TypeError, ValueError
            Naming what is missing or of the wrong kind.
        """
        values: dict[str, Any] = dict(stored)
        if values.get("features") is not None:
            values["features"] = tuple(values["features"])
        if values.get("constants") is not None:
            kept = values["constants"]
            seal = kept["seal"]
            if seal is not None and (len(bytes.fromhex(seal)) != 48):
                raise ValueError("seal must be 48 bytes")
            values["constants"] = Constants(kept["kind"], kept["values"], seal)
        if values.get("cosines") is not None:
            c = Cosines(**values["cosines"])
            _validate.count("n_features of cosines", c.n_features, low=1)
            _validate.count("seed of cosines", c.seed)
            _validate.number("scale of cosines", c.scale, low=0.0, open_low=True)
            values["cosines"] = c
        return cls(**values)


def _scaled(X: Float64, constants: Constants, *, clip: bool, names: tuple[str, ...] | None) -> Float64:
    """Return features divided by, or scaled to [-1, 1] with, constants."""
    rows = constants.rows(n_features=X.shape[1])
    if constants.kind == "divide_by":
        return X / rows[:, 0]
    from expunge.data.scaling import ConstantScaler  # scikit-learn's, which commands that only read can do without

    scaler = ConstantScaler(rows[:, 0], rows[:, 1], outside="clip" if clip else "refuse")
    try:
        return np.asarray(scaler.fit_transform(X))
    except ValueError as error:
        text = str(error)
        for j, name in enumerate(names or ()):
            text = text.replace(f"feature {j}:", f"feature {name}:")
        raise ValueError(text) from None
