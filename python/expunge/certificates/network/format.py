"""The format of certificates of networks: schema, fixed texts, the backbone, and what must hold between fields."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import resources
from typing import Any

from expunge._types import JsonObject
from expunge.certificates.schema import CertificateError, check, check_one_line
from expunge.runs.network import SOURCES, PrivateTraining

__all__ = [
    "BEFORE_AFTER",
    "CANNOT_SHOW",
    "FORMAT",
    "MEANINGS",
    "VERSION",
    "Backbone",
    "check_format",
    "network_schema",
]

FORMAT, VERSION = "expunge-network-certificate", 1

_UNSEEN = (
    "No record of these data had a part in the backbone, so that its features are constants of the procedure: what the "
    "head's certificate says of its releases holds for backbone and head together."
)
# Source of a backbone -> what the claim means.
MEANINGS = {
    "data-independent": _UNSEEN,
    "public": _UNSEEN,
    "private": (
        "The n_deleted records were among those that the backbone was trained with, and were deleted or corrected "
        "since. The weights of the backbone, this release of the head and all that follow within the budget are "
        "jointly (epsilon, delta)-indistinguishable, in both directions, from the weights of a backbone that was "
        "trained without these records and, on the features that it gives, the noisy optima for the data as they stand "
        "at each release. About any single one of them, the others as they are, the claim is 'one'. Which records "
        "these are was said without regard to the backbone's weights and to releases of the head from before they "
        "left; where it was not, but followed from the weights alone, both sides are chances that these records are "
        "asked for and that the event happens. Requests about other records may react to the backbone and to releases "
        "of the head from after these left."
    ),
}
BATCHED = (
    "a record's features do not depend on the others that the backbone was given with it, {} at a time, for which only "
    "a few were compared"
)
GIVEN = "the features that were given are those of the backbone named, each record's from that record alone"
BY_PACKAGE = "the privacy loss distribution is that of dp-accounting, whose rounding is not proved here"


def network_schema() -> JsonObject:
    """Return the JSON schema (draft 2020-12) of certificates of networks, as a new dictionary.

    Examples
    --------
    >>> network_schema()["properties"]["kind"]
    {'const': 'network'}
    """
    place = resources.files("expunge.certificates.network").joinpath(f"certificate-v{VERSION}.schema.json")
    result: JsonObject = json.loads(place.read_text(encoding="utf-8"))
    return result


_SCHEMA: Any = network_schema()
CANNOT_SHOW: tuple[str, ...] = tuple(_SCHEMA["properties"]["cannot_show"]["const"])
BEFORE_AFTER: str = _SCHEMA["properties"]["before_after"]["const"]


@dataclass(frozen=True)
class Backbone:
    """A backbone as a certificate tells of it: where its weights come from, and how features were computed.

    Attributes
    ----------
    source : {"data-independent", "public", "private"}
        Drawn without any data; trained without these records; or trained with them, with differential privacy.
    name : str
        What the owner calls it.
    weights : str or None
        `weights_digest` of it; None where its weights are not known.
    batch_size : int or None
        Records that were given to it together; None where features were given in place of records.
    training : PrivateTraining or None
        Of a private one.

    Raises
    ------
    ValueError
        On construction, if the training is missing for a private backbone, or given for another.
    """

    source: str
    name: str
    weights: str | None = None
    batch_size: int | None = None
    training: PrivateTraining | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source must be one of {', '.join(map(repr, SOURCES))}, got {self.source!r}")
        if SOURCES[self.source] != (self.training is not None):
            needed = (
                "given for a private backbone" if SOURCES[self.source] else "None for a backbone that saw no record"
            )
            raise ValueError(f"training must be {needed}, got {self.training!r}")

    @property
    def conditions(self) -> tuple[str, ...]:
        """Assumptions that every claim about its features rests on, in words."""
        found = () if self.training is None else self.training.conditions
        if self.training is not None and self.training.accountant == "pld":
            found += (BY_PACKAGE,)
        if self.batch_size is None:
            return (*found, GIVEN)
        return found if self.batch_size == 1 else (*found, BATCHED.format(self.batch_size))

    def to_dict(self) -> JsonObject:
        """Return everything as JSON values."""
        return {**asdict(self), "training": None if self.training is None else self.training.to_dict()}


def check_format(values: Any) -> None:
    """Check JSON values of a certificate: the schema, and what must hold between fields, but for the head's own.

    Raises
    ------
    CertificateError
        Naming the field at fault.
    """
    if isinstance(values, dict):
        for name, needed in (("format", FORMAT), ("version", VERSION)):
            if type(values.get(name)) is not type(needed) or values[name] != needed:
                raise CertificateError(name, f"must be {needed!r}, got {values.get(name)!r}")
    check(values, _SCHEMA)
    check_one_line(values, "conditions", "notes", "library_version", "backbone.name")
    claim, backbone = values["claim"], values["backbone"]
    source, training = backbone["source"], backbone["training"]
    if SOURCES[source] != (training is not None):
        needed = "given for a private backbone" if SOURCES[source] else "null for a backbone that saw no record"
        raise CertificateError("backbone.training", f"must be {needed}")
    if claim["meaning"] != MEANINGS[source]:
        raise CertificateError("claim.meaning", f"must be that of the source {source!r}, got another text")
    needed = "none" if training is None else training["accountant"]
    if claim["accountant"] != needed:
        raise CertificateError("claim.accountant", f"must be {needed!r}, got {claim['accountant']!r}")
    if training is None and claim["n_deleted"] != 0:
        raise CertificateError(
            "claim.n_deleted", f"must be 0 for a backbone that saw no record, got {claim['n_deleted']}"
        )
    try:
        datetime.strptime(values["issued_at"], "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        raise CertificateError("issued_at", f"must be a valid time, got {values['issued_at']!r}") from None
