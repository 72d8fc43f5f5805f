"""Released models in other forms: estimators of scikit-learn, which exporters know, and safetensors."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier

from expunge._errors import how_to_install
from expunge._files import PUBLIC, write_atomic
from expunge._types import AnyArray

__all__ = ["linear_classifier", "linear_regressor", "logistic_regression", "write_safetensors"]

Array = NDArray[np.float64]


def linear_regressor(coef: Array, intercept: float | Array, names: AnyArray | None) -> Ridge:
    """Return scikit-learn's ridge regression with these coefficients."""
    outputs = 1 if coef.ndim == 1 else len(coef)
    made = _set_up(Ridge(), np.zeros((2, coef.shape[-1])), np.zeros((2, outputs)))
    return _with(made, coef.copy(), _copied(intercept), names)


def linear_classifier(coef: Array, intercept: Array, classes: AnyArray, names: AnyArray | None) -> RidgeClassifier:
    """Return scikit-learn's ridge classifier with these coefficients, for two classes with their difference."""
    made = _set_up(RidgeClassifier(), *_made_up(coef.shape[1], classes))
    if len(classes) == 2:
        coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
    return _with(made, coef.copy(), intercept.copy(), names)


def logistic_regression(
    coef: Array, intercept: Array, classes: AnyArray, names: AnyArray | None, *, softmax: bool
) -> LogisticRegression | OneVsRestClassifier:
    """Return scikit-learn's logistic regression with these coefficients, or one for each class against the rest."""
    made = LogisticRegression()
    if len(coef) > 1 and not softmax:
        made = OneVsRestClassifier(made)
    _set_up(made, *_made_up(coef.shape[1], classes))
    if len(coef) == 1 or softmax:
        return _with(made, coef.copy(), intercept.copy(), names)
    for i, one in enumerate(made.estimators_):
        _with(one, coef[i : i + 1].copy(), intercept[i : i + 1].copy(), names)
    if names is not None:
        made.feature_names_in_ = names.copy()
    return made


def _set_up(estimator: BaseEstimator, rows: Array, answers: AnyArray) -> BaseEstimator:
    """Return an estimator fitted to records of zeros, after which it has every attribute that scikit-learn expects."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing depends on this fit
        return estimator.fit(rows, answers)


def _made_up(n_features: int, classes: AnyArray) -> tuple[Array, AnyArray]:
    """Return one record of zeros per class."""
    if len(classes) < 2:
        raise ValueError(f"to_sklearn needs at least two classes, got {len(classes)}: scikit-learn has no such model")
    return np.zeros((len(classes), n_features)), classes


def _copied(value: float | Array) -> float | Array:
    return value.copy() if isinstance(value, np.ndarray) else value


def _with(estimator: BaseEstimator, coef: Array, intercept: float | Array, names: AnyArray | None) -> BaseEstimator:
    estimator.coef_, estimator.intercept_ = coef, intercept
    if names is not None:
        estimator.feature_names_in_ = names.copy()
    return estimator


def write_safetensors(
    path: str | Path, arrays: Mapping[str, Array], notes: Mapping[str, object], *, overwrite: bool
) -> Path:
    """Write arrays to a file of safetensors, whole or not at all, with notes as JSON texts beside them.

    Raises
    ------
    ImportError
        Without the package.
    """
    try:
        from safetensors.numpy import save
    except ImportError:
        raise ImportError(f"to_safetensors needs safetensors: {how_to_install('safetensors')}") from None
    plain = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    metadata = {name: json.dumps(value, allow_nan=False) for name, value in notes.items()}
    write_atomic(path, save(plain, metadata=metadata), overwrite=overwrite, mode=PUBLIC)
    return Path(path)
