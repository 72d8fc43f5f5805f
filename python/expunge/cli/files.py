"""Files that commands read from and write to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, overload

import click
import numpy as np

from expunge._files import FileFormatError

__all__ = [
    "load_evidence",
    "load_evidence_and_model",
    "load_model",
    "load_network_evidence",
    "model_digests",
    "overwrite_option",
    "parse_indices",
]

if TYPE_CHECKING:
    from expunge.certificates.network import NetworkEvidence
    from expunge.certificates.residual import ResidualEvidence
    from expunge.estimators import (
        LangevinRidge,
        LangevinRidgeClassifier,
        NewtonLogisticRegression,
        NewtonRidge,
        NewtonRidgeClassifier,
        ReleasedLogisticRegression,
        ReleasedRidge,
        ReleasedRidgeClassifier,
    )

    Langevin: TypeAlias = LangevinRidge | LangevinRidgeClassifier
    Newton: TypeAlias = NewtonLogisticRegression | NewtonRidge | NewtonRidgeClassifier
    Working: TypeAlias = Langevin | Newton
    Released: TypeAlias = ReleasedLogisticRegression | ReleasedRidge | ReleasedRidgeClassifier

_WORKING = (
    "LangevinRidge",
    "LangevinRidgeClassifier",
    "NewtonLogisticRegression",
    "NewtonRidge",
    "NewtonRidgeClassifier",
)
_RELEASED = ("ReleasedLogisticRegression", "ReleasedRidge", "ReleasedRidgeClassifier")

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that exist.")


@overload
def load_model(path: str, *, released: Literal[False] = False) -> Working: ...


@overload
def load_model(path: str, *, released: bool) -> Working | Released: ...


def load_model(path: str, *, released: bool = False) -> Working | Released:
    """Return the model in a file; a released one only with ``released=True``."""
    from expunge import estimators
    from expunge.estimators._storage import load_any

    working: dict[str, type] = {name: getattr(estimators, name) for name in _WORKING}
    public: dict[str, type] = {name: getattr(estimators, name) for name in _RELEASED}
    model: Working | Released = load_any(path, working=working, released=public if released else {})
    return model


def load_evidence(path: str) -> ResidualEvidence:
    """Return the evidence in a file: one of evidence, or a working model, which has that of its last release."""
    return load_evidence_and_model(path)[0]


def load_evidence_and_model(path: str) -> tuple[ResidualEvidence, Newton | None]:
    """Return the evidence in a file, and the working model that it came from, None for a file of evidence."""
    from expunge.certificates import CertificateError
    from expunge.certificates.residual import ResidualEvidence
    from expunge.estimators.newton.base import NewtonModel

    try:
        return ResidualEvidence.load(path), None
    except CertificateError as error:
        if error.field != "facts":  # a file of something else
            raise
    try:
        model = load_model(path)
    except FileFormatError as error:
        raise FileFormatError(f"{path}: neither evidence nor a working model: {error}") from None
    if not isinstance(model, NewtonModel):
        raise FileFormatError(f"{path}: a {type(model).__name__} has no evidence: its certificate holds everything")
    return model.evidence_, model


def load_network_evidence(path: str) -> NetworkEvidence:
    """Return the evidence of a network in a file: one of evidence, or a working model, which has its last one."""
    from expunge.certificates.network import NetworkEvidence
    from expunge.estimators import CertifiedHead
    from expunge.estimators._storage import load_any

    try:
        return NetworkEvidence.load(path)
    except FileFormatError as error:
        said = error
    try:
        model: CertifiedHead = load_any(path, working={"CertifiedHead": CertifiedHead}, released={})
    except FileFormatError:
        raise FileFormatError(f"{path}: neither evidence nor a working model of a network: {said}") from None
    return model.evidence_


def model_digests(model: Working | Released) -> list[str]:
    """Return the digest of a model's parameters; two for a released model that may or may not fit an intercept."""
    from expunge.certificates import model_digest

    rows = np.atleast_2d(model.coef_).T
    intercept = np.atleast_1d(model.intercept_)[np.newaxis, :]
    fits_intercept = getattr(model, "fit_intercept", None)
    layouts = [] if fits_intercept is False else [np.vstack([rows, intercept])]
    if not fits_intercept and not intercept.any():
        layouts.append(rows)
    return [model_digest(layout) for layout in layouts]


def parse_indices(text: str | None) -> list[int] | None:
    """Return the rows named by ``3,7,10-12``."""
    if text is None:
        return None
    rows: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"indices must look like 3,7,10-12, got {text!r}")
        low, high = int(first), int(last or first)
        if high < low or high - low >= 10**8:
            raise ValueError(f"indices must look like 3,7,10-12, got {text!r}")
        rows.extend(range(low, high + 1))
    return rows
