"""Verification of a network's certificate: the head on its features, the digest of the backbone, the count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import ArrayLike

from expunge._errors import counted
from expunge.certificates.network.certificate import NetworkCertificate
from expunge.certificates.network.evidence import NetworkEvidence
from expunge.certificates.network.format import check_format
from expunge.certificates.network.weights import HasWeights, weights_digest
from expunge.certificates.residual import ResidualReport
from expunge.certificates.residual import verify as verify_head
from expunge.certificates.schema import CertificateError, VerificationError
from expunge.data.blocks import Records
from expunge.runs.network import JointClaim

__all__ = ["NetworkReport", "verify"]


@dataclass(frozen=True)
class NetworkReport:
    """Findings of a verification of a network's certificate.

    Attributes
    ----------
    epsilon, delta : float
        The claim that holds, about all ``n_deleted`` records together.
    mu : float or None
        Its GDP parameter, where there is one.
    one : JointClaim
        The claim about any single one of them.
    n_deleted : int
        Records of the backbone's training that left, counted anew from the evidence.
    status : str
        ``"certified"`` or ``"conditional"``.
    conditions, notes : tuple of str
        As in the certificate.
    head : ResidualReport
        Findings about the head, on the features that were given.
    weights_checked : bool
        Whether a backbone was compared with the certificate.
    certificate : str
        Digest of the certificate.
    signature : str
        ``"none"``, ``"unknown key"`` (nothing was changed since somebody signed) or ``"trusted key"``.
    """

    epsilon: float
    delta: float
    mu: float | None
    one: JointClaim
    n_deleted: int
    status: str
    conditions: tuple[str, ...]
    notes: tuple[str, ...]
    head: ResidualReport
    weights_checked: bool
    certificate: str
    signature: str

    @property
    def certified(self) -> bool:
        """True if the claim holds without conditions."""
        return self.status == "certified"

    def summary(self) -> str:
        """Return a few lines for a person."""
        weights = "as certified" if self.weights_checked else "not compared"
        head = self.head.summary().splitlines()
        return "\n".join(
            [
                f"holds ({self.status}): epsilon = {self.epsilon:g}, delta = {self.delta:g}, backbone and head",
                f"  {counted(self.n_deleted, 'record')} of the backbone's training left; epsilon = "
                f"{self.one.epsilon:g} about any single one",
                *(f"  but: {text}" for text in self.conditions),
                *(f"  note: {text}" for text in self.notes),
                f"  weights of the backbone: {weights}; signature: {self.signature}",
                f"  head {head[0]}",
                *(f"  {line}" for line in head[1:] if not line.startswith(("  but: ", "  note: "))),
            ]
        )


def verify(
    certificate: NetworkCertificate,
    X: ArrayLike | Records,
    y: ArrayLike | None = None,
    *,
    evidence: NetworkEvidence,
    ids: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    backbone: HasWeights | Mapping[str, object] | None = None,
    released: object | None = None,
    public_key: Ed25519PublicKey | None = None,
    threads: int | None = None,
    proof: bool = False,
) -> NetworkReport:
    """Recompute the claim of a network's certificate from the features of the data as they now stand.

    Parameters
    ----------
    certificate : NetworkCertificate
        The claim.
    X : array-like of shape (n, d), or Records
        Features as the head was fitted to them, bit for bit (`expunge.CertifiedHead.features_`): the head's claim is
        about these numbers. Features computed anew, on another machine or in other batches, may differ in their last
        bits, and are then refused as other records.
    y : array-like of shape (n,) or (n, n_outputs)
        Labels or targets; omitted for a table of records.
    evidence : NetworkEvidence
        Its confidential part.
    ids, sample_weight, released, public_key, threads, proof
        As `expunge.certificates.residual.verify` takes them; ``released`` is the released head, ``public_key`` that of
        the network's certificate, and ``proof`` is about the head's claim.
    backbone : torch.nn.Module, or mapping of str to tensor, optional
        To be compared with the digest of its weights.

    Returns
    -------
    NetworkReport

    Raises
    ------
    VerificationError
        Naming the field that is refuted; those of the head begin with ``head.``.
    UndecidedError
        As `expunge.certificates.residual.verify`.
    ImportError
        If the claim was made by dp-accounting, which is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge import CertifiedHead, NewtonRidge
    >>> from expunge.certificates.network import verify
    >>> X, y = np.eye(4), np.arange(4.0)
    >>> model = CertifiedHead(np.cos, NewtonRidge(), backbone="data-independent").fit(X, y)
    >>> result = model.unlearn(1)
    >>> left = result.model
    >>> report = verify(result.certificate, left.features_, y[[0, 2, 3]], ids=left.ids_, evidence=result.evidence)
    >>> report.status, report.head.n_records
    ('certified', 3)
    """
    c = certificate
    for name, value, kind in (("certificate", c, NetworkCertificate), ("evidence", evidence, NetworkEvidence)):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")
    try:
        check_format(c.to_dict())
    except CertificateError as error:
        raise VerificationError(error.field, str(error).removeprefix(f"{error.field}: ")) from None
    c.check_claim()
    if public_key is not None:
        c.verify_signature(public_key)
    if evidence.certificate != c.digest():
        raise VerificationError(
            "evidence.certificate", f"must be the certificate's digest {c.digest()}, got {evidence.certificate}"
        )
    counted_anew = 0 if c.backbone.training is None else evidence.n_deleted
    if c.n_deleted != counted_anew:
        raise VerificationError("claim.n_deleted", f"must be {counted_anew}, as the evidence counts, got {c.n_deleted}")
    if backbone is not None:
        found = weights_digest(backbone)
        if c.backbone.weights is None:
            raise VerificationError("backbone.weights", "must be a digest for a backbone to be compared, got null")
        if found != c.backbone.weights:
            raise VerificationError(
                "backbone.weights", f"must be the digest of the backbone's weights {found}, got {c.backbone.weights}"
            )
    try:
        of_head = verify_head(
            c.head,
            X,
            y,
            evidence=evidence.head,
            ids=ids,
            sample_weight=sample_weight,
            released=released,
            threads=threads,
            proof=proof,
        )
    except VerificationError as error:
        raise VerificationError(f"head.{error.field}", str(error).removeprefix(f"{error.field}: ")) from None
    return NetworkReport(
        epsilon=c.epsilon,
        delta=c.delta,
        mu=c.mu,
        one=c.one,
        n_deleted=c.n_deleted,
        status=c.status,
        conditions=c.conditions,
        notes=c.notes,
        head=of_head,
        weights_checked=backbone is not None,
        certificate=c.digest(),
        signature="trusted key" if public_key is not None else "none" if c.signature is None else "unknown key",
    )
