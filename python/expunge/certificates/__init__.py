"""Certificates of deletion: a claim, everything needed to recompute it, and digests of what it is about."""

from expunge.certificates.certificate import Certificate, Digests, Signature
from expunge.certificates.digest import features_digest, model_digest, record_digest, targets_digest
from expunge.certificates.keys import generate_key_pair, load_private_key, load_public_key
from expunge.certificates.loading import load
from expunge.certificates.policy import Policy
from expunge.certificates.report import VerificationReport
from expunge.certificates.schema import CertificateError, VerificationError, certificate_schema
from expunge.certificates.statement import ProofStatement, StatedEnclosure
from expunge.certificates.verification import UndecidedError
from expunge.data.constants import CONDITIONS, GRID_NOTE, UNKNOWN_SOURCES, Sources

# Names of the ridge run that used to live here; their home is expunge.runs.ridge.
from expunge.runs.ridge import Phase, RidgeRun, coefficients_of

__all__ = [
    "CONDITIONS",
    "GRID_NOTE",
    "UNKNOWN_SOURCES",
    "Certificate",
    "CertificateError",
    "Digests",
    "Phase",
    "Policy",
    "ProofStatement",
    "RidgeRun",
    "Signature",
    "Sources",
    "StatedEnclosure",
    "UndecidedError",
    "VerificationError",
    "VerificationReport",
    "certificate_schema",
    "coefficients_of",
    "features_digest",
    "generate_key_pair",
    "load",
    "load_private_key",
    "load_public_key",
    "model_digest",
    "record_digest",
    "targets_digest",
]
