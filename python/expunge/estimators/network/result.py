"""The result of a change of a network: the new working model, its certificate and the evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from expunge.certificates.network import NetworkCertificate, NetworkEvidence
from expunge.runs.residual.claim import BeforeAfter

__all__ = ["UpdatedNetwork"]

Model = TypeVar("Model", covariant=True)


@dataclass(frozen=True)
class UpdatedNetwork(Generic[Model]):
    """The result of `unlearn`, `amend`, `add` and `release_again` of a `CertifiedHead`.

    Attributes
    ----------
    model : CertifiedHead
        A new working model of the data as they now stand (confidential: it holds their features). Publish
        ``model.release()``, and make further changes from here.
    certificate : NetworkCertificate
        The public claim about backbone and head together.
    evidence : NetworkEvidence
        What a verification needs besides the features; confidential.
    before_after : BeforeAfter or None
        Guarantee against whoever saw the head's release before and this one, given the backbone, measured; None if the
        data did not change. The certificate does not cover such an observer.
    """

    model: Model
    certificate: NetworkCertificate
    evidence: NetworkEvidence
    before_after: BeforeAfter | None

    @property
    def status(self) -> str:
        """Standing of the certificate: "certified" or "conditional"."""
        return self.certificate.status
