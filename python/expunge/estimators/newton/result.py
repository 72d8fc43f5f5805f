"""The result of a change: the new working model, its certificate and the evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from expunge.certificates.residual import ResidualCertificate, ResidualEvidence
from expunge.runs.residual.claim import BeforeAfter

__all__ = ["Updated"]

Model = TypeVar("Model", covariant=True)


@dataclass(frozen=True)
class Updated(Generic[Model]):
    """The result of `unlearn`, `amend`, `add` and `release_again` of a Newton estimator.

    Attributes
    ----------
    model : NewtonLogisticRegression, NewtonRidge or NewtonRidgeClassifier
        A new working model of the data as they now stand (confidential: it holds them). Publish ``model.release()``,
        and make further changes from here: the model before does not know that its next release was made.
    certificate : ResidualCertificate
        The public claim.
    evidence : ResidualEvidence
        What a verification needs besides the data; confidential.
    before_after : BeforeAfter or None
        Guarantee against whoever saw the release before and this one, measured: mu, and epsilon at the claim's delta.
        The certificate does not cover such an observer. None if the data did not change.
    """

    model: Model
    certificate: ResidualCertificate
    evidence: ResidualEvidence
    before_after: BeforeAfter | None

    @property
    def status(self) -> str:
        """Standing of the certificate: "certified" or "conditional"."""
        return self.certificate.status
