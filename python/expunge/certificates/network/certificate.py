"""The certificate of a backbone and a certified head: a public claim about both together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import ClassVar, TypeVar

import numpy as np

from expunge._errors import counted
from expunge._files import PUBLIC
from expunge._types import JsonObject
from expunge._version import __version__
from expunge.certificates.network.format import (
    BEFORE_AFTER,
    CANNOT_SHOW,
    FORMAT,
    MEANINGS,
    VERSION,
    Backbone,
    check_format,
)
from expunge.certificates.report import Standing
from expunge.certificates.residual import ResidualCertificate, ResidualNoise
from expunge.certificates.schema import CertificateError, VerificationError
from expunge.certificates.signed import Signature, SignedDocument, json_values
from expunge.runs.network import JointClaim, PrivateTraining, joint_claim, whole_mu

__all__ = ["NetworkCertificate"]

Self = TypeVar("Self", bound="NetworkCertificate")

# What a claim adds to the arithmetic of the machine that issued it, for the last digits of the one that checks it.
_MARGINS = {"none": 0.0, "gdp": 1e-12, "filter": 1e-12, "rdp": 1e-9, "pld": 1e-7}


@dataclass(frozen=True, repr=False)
class NetworkCertificate(SignedDocument):
    """A public claim about a backbone that no deletion changes and a certified head on its features.

    Where no record had a part in the backbone, the claim is the head's. A backbone that was trained with the records,
    with differential privacy, still tells of those that left what its privacy allows: the claim is then about backbone
    and head together, and grows with the number of records that left. Who left is not in it. Make one with `create`,
    read one with `load`.

    Attributes
    ----------
    epsilon : float
        Of backbone and all releases of the head, about all ``n_deleted`` records together.
    mu : float or None
        Its GDP parameter; None for Poisson batches once a record has left.
    n_deleted : int
        Records of the backbone's training that were deleted or corrected since.
    one : JointClaim
        The claim about any single one of them, the others as they are.
    backbone : Backbone
        Where its weights come from, their digest, and the training of a private one.
    head : ResidualCertificate
        Of the head's last release, whole.
    library_version, issued_at : str
        Who issued it, and when (UTC, ISO 8601).
    status : {"certified", "conditional"}
        Whether the claim rests on conditions; that of a private backbone always does.
    conditions, notes : tuple of str
        What it rests on, and what else a reader must know.
    signature : Signature or None
        Over the canonical JSON of everything else.

    Raises
    ------
    CertificateError
        On construction, naming the field that breaks the format; NaN and infinity always do.
    """

    _signature_tag: ClassVar[bytes] = b"expunge-network-certificate-signature-v1\0"
    _digest_tag: ClassVar[bytes] = b"expunge-network-certificate-digest-v1\0"
    _mode: ClassVar[int] = PUBLIC

    epsilon: float
    mu: float | None
    n_deleted: int
    one: JointClaim
    backbone: Backbone
    head: ResidualCertificate
    library_version: str
    issued_at: str
    status: str = "certified"
    conditions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", _plain(self.epsilon))
        object.__setattr__(self, "mu", None if self.mu is None else _plain(self.mu))
        if isinstance(self.n_deleted, np.integer):
            object.__setattr__(self, "n_deleted", int(self.n_deleted))
        one = JointClaim(*self.one)
        object.__setattr__(self, "one", JointClaim(None if one.mu is None else _plain(one.mu), _plain(one.epsilon)))
        object.__setattr__(self, "conditions", tuple(self.conditions))
        object.__setattr__(self, "notes", tuple(self.notes))
        check_format(self.to_dict())

    @classmethod
    def create(
        cls: type[Self],
        *,
        head: ResidualCertificate,
        backbone: Backbone,
        n_deleted: int = 0,
        conditions: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> Self:
        """Return an unsigned certificate whose arithmetic has been checked.

        Parameters
        ----------
        head : ResidualCertificate
            Of the head's last release, on features that the backbone gives.
        backbone : Backbone
            Of which the features are.
        n_deleted : int
            Records that the backbone was trained with and that left the head's data, or were corrected, since.
        conditions, notes : sequence of str
            What the claim rests on besides what head and backbone say, and what else a reader must know.

        Raises
        ------
        CertificateError
            If a field breaks the format.
        VerificationError
            If the arithmetic of the head's claim does not hold.
        ValueError
            If epsilon would be infinite.

        Examples
        --------
        >>> import numpy as np
        >>> from expunge.certificates.network import Backbone, NetworkCertificate
        >>> from expunge.certificates.residual import RecordTree, ResidualCertificate, ResidualModel
        >>> head = ResidualCertificate.create(
        ...     tree=RecordTree.of(np.eye(3), [1.0, 2.0, 3.0]), released=np.zeros((1, 3)), loss="squared", alpha=1.0,
        ...     model=ResidualModel("NewtonRidge", n_features=3, n_outputs=1, fit_intercept=False),
        ...     noise_std=0.01, epsilon=1.0, delta=1e-5, releases=100, release=1)
        >>> fixed = Backbone("data-independent", "random cosines", weights=64 * "0", batch_size=1)
        >>> certificate = NetworkCertificate.create(head=head, backbone=fixed)
        >>> certificate.status, certificate.epsilon
        ('certified', 1.0)
        """
        if not isinstance(head, ResidualCertificate):
            raise TypeError(f"head must be a ResidualCertificate, got {type(head).__name__}")
        if not isinstance(backbone, Backbone):
            raise TypeError(f"backbone must be a Backbone, got {type(backbone).__name__}")
        head.check_claim()
        training = backbone.training
        together, single = _joint(head, training, n_deleted), _joint(head, training, min(1, _most(training)))
        more = (*backbone.conditions, *conditions)
        rests_on = (*head.conditions, *(one for one in dict.fromkeys(more) if one not in head.conditions))
        result = cls(
            epsilon=_above(together.epsilon, training, n_deleted),
            mu=None if together.mu is None else _above(together.mu, training, n_deleted),
            n_deleted=n_deleted,
            one=JointClaim(
                None if single.mu is None else _above(single.mu, training, 1), _above(single.epsilon, training, 1)
            ),
            backbone=backbone,
            head=head,
            library_version=__version__,
            issued_at=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            status="conditional" if rests_on else "certified",
            conditions=rests_on,
            notes=tuple(notes),
        )
        result.check_claim()
        return result

    @property
    def kind(self) -> str:
        """Kind of the certificate: ``"network"``."""
        return "network"

    @property
    def delta(self) -> float:
        """Claimed delta: the head's."""
        return self.head.delta

    @property
    def certified(self) -> bool:
        """True if the claim rests on no conditions."""
        return self.status == "certified"

    @property
    def accountant(self) -> str:
        """How both claims were put together: ``"none"``, ``"gdp"``, ``"filter"``, ``"rdp"`` or ``"pld"``."""
        return "none" if self.backbone.training is None else self.backbone.training.accountant

    @property
    def noise(self) -> ResidualNoise | None:
        """How the head's noise was drawn; None for a private backbone, whose noise is that of float arithmetic."""
        return self.head.noise if self.backbone.training is None else None

    def standing(self) -> Standing:
        """Return status, conditions and notes as they must be read now: the certificate's own."""
        return Standing(self.status, self.conditions, self.notes)

    def check_claim(self) -> None:
        """Check what a certificate says of itself: the head's claim, the joint arithmetic, its status and signature.

        Needs no data; `expunge.certificates.network.verify` does everything.

        Raises
        ------
        VerificationError
            Naming the field that is refuted; those of the head begin with ``head.``.
        ImportError
            If the claim was made by dp-accounting, which is not installed.
        """
        try:
            self.head.check_claim()
        except VerificationError as error:
            raise VerificationError(f"head.{error.field}", str(error).removeprefix(f"{error.field}: ")) from None
        if (self.status == "certified") != (not self.conditions):
            needed = "empty when certified" if self.conditions else "at least one when conditional"
            raise VerificationError("conditions", f"must be {needed}, got {list(self.conditions)}")
        for needed in (*self.head.conditions, *self.backbone.conditions):
            if needed not in self.conditions:
                raise VerificationError("conditions", f"must say {needed!r}, which is missing")
        training = self.backbone.training
        for place, claim, size in (
            ("claim", JointClaim(self.mu, self.epsilon), self.n_deleted),
            ("claim.one", self.one, min(1, _most(training))),
        ):
            try:
                least = _joint(self.head, training, size)
            except ValueError as error:
                raise VerificationError(f"{place}.epsilon", str(error)) from None
            for name, got, needed_value in (("epsilon", claim.epsilon, least.epsilon), ("mu", claim.mu, least.mu)):
                if (got is None) != (needed_value is None):
                    needed = "null, for Poisson batches" if needed_value is None else f"at least {needed_value!r}"
                    raise VerificationError(f"{place}.{name}", f"must be {needed}, got {got!r}")
                if got is not None and needed_value is not None and not got >= needed_value:
                    raise VerificationError(
                        f"{place}.{name}",
                        f"must be at least {needed_value!r}, which backbone and head give for "
                        f"{counted(size, 'record')}, got {got!r}",
                    )
        self._check_own_signature()

    def to_dict(self) -> JsonObject:
        """Return the certificate as JSON values, in the order of the schema."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "claim": {
                "epsilon": self.epsilon,
                "delta": self.delta,
                "mu": self.mu,
                "n_deleted": self.n_deleted,
                "one": {"epsilon": self.one.epsilon, "mu": self.one.mu},
                "accountant": self.accountant,
                "meaning": MEANINGS[self.backbone.source],
            },
            "status": self.status,
            "conditions": list(self.conditions),
            "notes": list(self.notes),
            "backbone": self.backbone.to_dict(),
            "head": self.head.to_dict(),
            "cannot_show": list(CANNOT_SHOW),
            "before_after": BEFORE_AFTER,
            "library_version": self.library_version,
            "issued_at": self.issued_at,
            "signature": None if self.signature is None else self.signature.to_dict(),
        }

    @classmethod
    def from_json(cls: type[Self], text: str) -> Self:
        """Return the certificate in a JSON text, which must follow the schema to the letter.

        Raises
        ------
        CertificateError
            Naming the field that is missing, unknown, of the wrong kind or out of range; ``"json"`` for a text that
            is truncated or not JSON.
        """
        values = json_values(text)
        check_format(values)
        claim, backbone, signature = values["claim"], values["backbone"], values["signature"]
        try:
            head = ResidualCertificate.from_json(json.dumps(values["head"]))
        except CertificateError as error:
            raise CertificateError(f"head.{error.field}", str(error).removeprefix(f"{error.field}: ")) from None
        if claim["delta"] != head.delta:
            raise CertificateError("claim.delta", f"must be the head's {head.delta!r}, got {claim['delta']!r}")
        training = backbone["training"]
        try:
            made = None if training is None else PrivateTraining(**training)
        except ValueError as error:
            name, _, rest = str(error).partition(" ")
            raise CertificateError(f"backbone.training.{name}", rest) from None
        return cls(
            epsilon=claim["epsilon"],
            mu=claim["mu"],
            n_deleted=claim["n_deleted"],
            one=JointClaim(claim["one"]["mu"], claim["one"]["epsilon"]),
            backbone=Backbone(**{**backbone, "training": made}),
            head=head,
            library_version=values["library_version"],
            issued_at=values["issued_at"],
            status=values["status"],
            conditions=tuple(values["conditions"]),
            notes=tuple(values["notes"]),
            signature=None if signature is None else Signature(**signature),
        )

    def summary(self) -> str:
        """Return a few lines for a person."""
        signed = "unsigned" if self.signature is None else f"signed by {self.signature.public_key[:16]}..."
        head, training = self.head, self.backbone.training
        weights = "not known here" if self.backbone.weights is None else f"{self.backbone.weights[:16]}..."
        lines = [
            f"{self.status}: {head.model.estimator} on the features of a {self.backbone.source} backbone, "
            f"{counted(head.n_records, 'record')} as they now stand",
            f"  claim    epsilon = {self.epsilon:g}, delta = {self.delta:g}, backbone and head together"
            + ("" if training is None else f", about {counted(self.n_deleted, 'record')} that left"),
            f"  backbone {self.backbone.name}, weights {weights}",
        ]
        if training is not None:
            batches = "full batches" if training.sampling_probability == 1.0 else "Poisson batches"
            lines += [
                f"           {counted(training.n_steps, 'step')} with {batches}, noise {training.noise_multiplier:g} "
                f"times the clipping bound, by {training.accountant}"
                + ("" if training.budget is None else f": no record above {training.budget:g}-GDP"),
                f"  one      epsilon = {self.one.epsilon:g} about any single one of the records",
            ]
        lines += [
            f"  head     epsilon = {head.epsilon:g} by itself, release {head.release:,} of {head.releases:,}, alpha = "
            f"{head.alpha:g}, noise {head.noise_std:g}",
            *(f"  but      {condition}" for condition in self.conditions),
            *(f"  note     {note}" for note in self.notes),
            f"  issued   {self.issued_at} by expunge {self.library_version}, {signed}",
            f"  {BEFORE_AFTER}",
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<NetworkCertificate\n{self.summary()}>"


def _plain(value: float) -> float:
    """Return a number as float64, so that one number has one JSON text; what is no number is left to the schema."""
    numeric = isinstance(value, (int, np.integer, np.floating)) and not isinstance(value, bool)
    return float(value) if numeric else value


def _most(training: PrivateTraining | None) -> int:
    """Return 0 if no record had a part in the backbone, and 1 if any could have."""
    return 0 if training is None else 1


def _joint(head: ResidualCertificate, training: PrivateTraining | None, n_deleted: int) -> JointClaim:
    return joint_claim(
        training,
        head_epsilon=head.epsilon,
        delta=head.delta,
        mu=whole_mu(mu=head.mu, releases=head.releases, reference=head.reference),
        n_deleted=n_deleted,
    )


def _above(value: float, training: PrivateTraining | None, n_deleted: int) -> float:
    return value * (1.0 + _MARGINS["none" if training is None or n_deleted == 0 else training.accountant])
