"""The format of certificates by residual: schema, fixed texts, and what must hold between fields."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge._types import JsonObject
from expunge.certificates.residual.agreed_noise import NoiseAgreement
from expunge.certificates.residual.hashing import depth_of
from expunge.certificates.schema import CertificateError, check, check_one_line
from expunge.runs.exact_noise import MOST_CELLS, grid_exponent
from expunge.runs.residual.answers import Label, check_outputs

__all__ = [
    "BEFORE_AFTER",
    "CANNOT_SHOW",
    "FORMAT",
    "MEANINGS",
    "NOISE_MEANINGS",
    "VERSIONS",
    "ResidualDigests",
    "ResidualModel",
    "ResidualNoise",
    "agreement_of",
    "check_format",
    "residual_schema",
]

FORMAT = "expunge-residual-certificate"
VERSIONS = (1, 2)  # version 1 is read, but no longer issued

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

# How the noise was drawn -> what the claim is about.
NOISE_MEANINGS = {
    "exact": (
        "Every released number is a multiple of the grid, drawn by the program from random words of the operating "
        "system with exactly the probability that the parameter without noise, plus Gaussian noise, has that multiple "
        "as its nearest: the claim is about the program that ran."
    ),
    "agreed": (
        "Every released number is a multiple of the grid, drawn by the program with exactly the probability that the "
        "parameter without noise, plus Gaussian noise, has that multiple as its nearest, from words that follow from "
        "two seeds. Each was committed to before the other was known, so that nobody chose the noise, and whoever "
        "lacks one of them cannot tell the words from random ones, if HMAC is pseudo-random: the claim is about the "
        "program that ran."
    ),
    "float64": (
        "Noise and sums were computed in float64 and rounded to the grid: the claim is about the Gaussian noise that "
        "they stand for, not about the program that ran."
    ),
}


@lru_cache(maxsize=len(VERSIONS))
def _schema_text(version: int) -> str:
    name = f"certificate-v{version}.schema.json"
    return resources.files("expunge.certificates.residual").joinpath(name).read_text(encoding="utf-8")


def residual_schema(*, version: int = VERSIONS[-1]) -> JsonObject:
    """Return the JSON schema (draft 2020-12) of certificates by computed residual, as a new dictionary.

    Parameters
    ----------
    version : int, default 2
        Version of the format; version 1 is read, but no longer issued.

    Raises
    ------
    ValueError
        If there is no such version.

    Examples
    --------
    >>> residual_schema()["properties"]["version"]
    {'const': 2}
    """
    if version not in VERSIONS:
        raise ValueError(f"version must be one of {VERSIONS}, got {version!r}")
    result: JsonObject = json.loads(_schema_text(version))
    return result


_SCHEMAS: Any = {version: residual_schema(version=version) for version in VERSIONS}
_SCHEMA = _SCHEMAS[VERSIONS[-1]]
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


@dataclass(frozen=True)
class ResidualNoise:
    """How the noise of a release was drawn, and the grid that the release lies on.

    Attributes
    ----------
    grid : float
        Power of two that released parameters are multiples of; it follows from ``noise_std``.
    sampler : {"exact", "agreed", "float64"}
        Exact normals from the operating system's random words, rounded without an error; the same from words of two
        parties' seeds; or float64 arithmetic, as for a seed.
    agreement : NoiseAgreement or None
        What the two parties committed to; None for other samplers.
    """

    grid: float
    sampler: str
    agreement: NoiseAgreement | None = None

    @classmethod
    def of(cls, noise_std: float, *, sampler: str, agreement: NoiseAgreement | None = None) -> ResidualNoise:
        """Return what releases with such noise lie on.

        Raises
        ------
        ValueError
            If float64 has no grid for so little noise.
        """
        return cls(2.0 ** grid_exponent(noise_std), sampler, agreement)

    @property
    def of_program(self) -> bool:
        """Whether the claim is about the program that ran, rather than about real numbers that it stands for."""
        return self.sampler in ("exact", "agreed")

    def holds(self, released: NDArray[np.float64]) -> bool:
        """Whether parameters lie on the grid, near enough to 0 for float64 to have every multiple."""
        with np.errstate(over="ignore"):  # what overflows is too far
            cells = np.ldexp(released, 1 - int(np.frexp(self.grid)[1]))
        return bool((np.abs(cells) <= MOST_CELLS).all()) and bool((np.rint(cells) == cells).all())


def agreement_of(noise: Any) -> NoiseAgreement | None:
    """Return the agreement in JSON values of noise, None where there is none.

    Raises
    ------
    ValueError
        If it cannot be one.
    """
    if "agreement" not in noise:
        return None
    found = noise["agreement"]
    return NoiseAgreement(tuple(found["commitments"]), found["certificate"], found["release"])


def check_format(values: Any) -> None:
    """Check JSON values of a certificate: the schema, and what must hold between fields.

    Raises
    ------
    CertificateError
        Naming the field at fault.
    """
    version = VERSIONS[-1]
    if isinstance(values, dict):
        if values.get("format") != FORMAT:
            raise CertificateError("format", f"must be {FORMAT!r}, got {values.get('format')!r}")
        version = values.get("version", 0)
        if type(version) is not int or version not in VERSIONS:
            known = " or ".join(map(str, VERSIONS))
            raise CertificateError("version", f"must be {known}, the versions this library reads, got {version!r}")
    check(values, _SCHEMAS[version])
    check_one_line(values, "conditions", "notes", "library_version", "model.estimator")
    claim, model = values["claim"], values["model"]
    if claim["meaning"] != MEANINGS[claim["reference"]]:
        raise CertificateError(
            "claim.meaning", f"must be that of the reference {claim['reference']!r}, got another text"
        )
    if values.get("noise") is not None:
        _check_noise(values["noise"], claim["noise_std"])
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


def _check_noise(noise: Any, noise_std: float) -> None:
    try:
        needed = 2.0 ** grid_exponent(noise_std)
    except ValueError as error:
        raise CertificateError("claim.noise_std", str(error).removeprefix("noise_std ")) from None
    if noise["grid"] != needed:
        raise CertificateError("noise.grid", f"must be {needed!r} for the noise {noise_std!r}, got {noise['grid']!r}")
    if ("agreement" in noise) != (noise["sampler"] == "agreed"):
        must = "given" if noise["sampler"] == "agreed" else "omitted"
        raise CertificateError("noise.agreement", f"must be {must} with the sampler {noise['sampler']!r}")
    if "agreement" in noise:
        try:
            agreement_of(noise)
        except ValueError as error:
            raise CertificateError("noise.agreement", str(error)) from None
    if noise["meaning"] != NOISE_MEANINGS[noise["sampler"]]:
        raise CertificateError("noise.meaning", f"must be that of the sampler {noise['sampler']!r}, got another text")
