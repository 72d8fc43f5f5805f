"""Certificates of deletion by computed residual: a public claim, its confidential evidence, and proofs about one id."""

from expunge.certificates.residual.agreed_noise import AgreedNoise, NoiseAgreement, NoiseSeed
from expunge.certificates.residual.certificate import ResidualCertificate
from expunge.certificates.residual.evidence import ResidualEvidence
from expunge.certificates.residual.format import ResidualDigests, ResidualModel, ResidualNoise, residual_schema
from expunge.certificates.residual.page import page_of, write_page
from expunge.certificates.residual.proofs import AbsenceProof, MembershipProof
from expunge.certificates.residual.tree import Leaves, RecordTree, shows_removal
from expunge.certificates.residual.verification import ResidualReport, verify

__all__ = [
    "AbsenceProof",
    "AgreedNoise",
    "Leaves",
    "MembershipProof",
    "NoiseAgreement",
    "NoiseSeed",
    "RecordTree",
    "ResidualCertificate",
    "ResidualDigests",
    "ResidualEvidence",
    "ResidualModel",
    "ResidualNoise",
    "ResidualReport",
    "page_of",
    "residual_schema",
    "shows_removal",
    "verify",
    "write_page",
]
