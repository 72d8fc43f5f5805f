"""The format of certificates by residual: schema, fixed texts, and what must hold between fields."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np

from expunge._types import JsonObject
from expunge.certificates.residual.hashing import depth_of
from expunge.certificates.schema import CertificateError, check, check_one_line
from expunge.runs.residual.answers import Label, check_outputs

__all__ = [
    "BEFORE_AFTER",
    "CANNOT_SHOW",
    "FORMAT",
    "MEANINGS",
    "VERSION",
    "ResidualDigests",
    "ResidualModel",
    "check_format",
    "residual_schema",
]

FORMAT = "expunge-residual-certificate"
VERSION = 1

MEANINGS = {
    "optimum": (
        "Let theta* minimise the penalised loss on the data as they stand at a release. Whatever happened before - "
        "which records were once among the data, which models were released, how requests depended on them - this "
        "release and all that follow within the budget are jointly (epsilon, delta)-indistinguishable, in both "
        "directions, from theta* with the same noise, whose law depends on the data as they stand at each release and "
        "on nothing else."
    ),
    "same rule": (
        "Compare with models that were made by the same rule, to the same residual, of the data as they stand at a "
        "release and of nothing else. Whatever happened before - which records were once among the data, which models "
        "were released, how requests depended on them - this release and all that follow within the budget are jointly "
        "(epsilon, delta)-indistinguishable, in both directions, from those of such models."
    ),
}


@lru_cache(maxsize=1)
def _schema_text() -> str:
    name = f"certificate-v{VERSION}.schema.json"
    return resources.files("expunge.certificates.residual").joinpath(name).read_text(encoding="utf-8")


def residual_schema() -> JsonObject:
    """Return the JSON schema (draft 2020-12) of certificates by computed residual, as a new dictionary.

    Examples
    --------
    >>> residual_schema()["properties"]["format"]
    {'const': 'expunge-residual-certificate'}
    """
    result: JsonObject = json.loads(_schema_text())
    return result


_SCHEMA: Any = residual_schema()
CANNOT_SHOW: tuple[str, ...] = tuple(_SCHEMA["properties"]["cannot_show"]["const"])
BEFORE_AFTER: str = _SCHEMA["properties"]["before_after"]["const"]


@dataclass(frozen=True)
class ResidualModel:
    """The model that a certificate is about: how its parameters are laid out, and what its labels are.

    Attributes
    ----------
    estimator : str
        Name of the estimator.
    n_features, n_outputs : int
        Columns of the data without the constant one, and rows of the parameters.
    fit_intercept : bool
        Whether a constant 1 is the last column of the data.
    classes : tuple of (str, int, float or bool), or None
        Labels in the order of their numbers; None where targets are numbers.
    """

    estimator: str
    n_features: int
    n_outputs: int
    fit_intercept: bool
    classes: tuple[Label, ...] | None = None

    def __post_init__(self) -> None:
        if self.classes is not None:
            plain = tuple(one.item() if isinstance(one, np.generic) else one for one in self.classes)
            object.__setattr__(self, "classes", plain)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (q, p) of the parameters, the constant column last."""
        return self.n_outputs, self.n_features + int(self.fit_intercept)


@dataclass(frozen=True)
class ResidualDigests:
    """Roots of the trees of salted record hashes, now and before, and the digest of the released parameters.

    Attributes
    ----------
    data : str
        Root of the data as they now stand.
    data_before : str or None
        Root of the data before the change; None for the first release.
    depth : int
        Depth of the tree; follows from the number of records.
    released : str
        `expunge.certificates.model_digest` of the released parameters.
    """

    data: str
    data_before: str | None
    depth: int
    released: str


def check_format(values: Any) -> None:
    """Check JSON values of a certificate: the schema, and what must hold between fields.

    Raises
    ------
    CertificateError
        Naming the field at fault.
    """
    if isinstance(values, dict):
        if values.get("format") != FORMAT:
            raise CertificateError("format", f"must be {FORMAT!r}, got {values.get('format')!r}")
        version = values.get("version", 0)
        if type(version) is not int or version != VERSION:
            raise CertificateError("version", f"must be {VERSION}, the version this library reads, got {version!r}")
    check(values, _SCHEMA)
    check_one_line(values, "conditions", "notes", "library_version", "model.estimator")
    claim, model = values["claim"], values["model"]
    if claim["meaning"] != MEANINGS[claim["reference"]]:
        raise CertificateError(
            "claim.meaning", f"must be that of the reference {claim['reference']!r}, got another text"
        )
    try:
        check_outputs(loss=claim["loss"], classes=model["classes"], n_outputs=model["n_outputs"])
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        raise CertificateError(f"model.{name}", rest) from None
    if values["digests"]["depth"] != depth_of(values["n_records"]):
        raise CertificateError(
            "digests.depth",
            f"must be {depth_of(values['n_records'])} for {values['n_records']} records, got "
            f"{values['digests']['depth']}",
        )
    try:
        datetime.strptime(values["issued_at"], "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        raise CertificateError("issued_at", f"must be a valid time, got {values['issued_at']!r}") from None
