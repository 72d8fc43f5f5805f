"""Certificates of deletion: a claim, everything needed to recompute it, and digests of what it is about."""

from expunge.accounting.ridge_law import Phase
from expunge.certificates.certificate import Certificate, Digests, Signature
from expunge.certificates.constants import CONDITIONS, GRID_NOTE, UNKNOWN_SOURCES, Sources
from expunge.certificates.digest import features_digest, model_digest, record_digest, targets_digest
from expunge.certificates.keys import generate_key_pair, load_private_key, load_public_key
from expunge.certificates.model import coefficients_of
from expunge.certificates.policy import Policy
from expunge.certificates.report import VerificationReport
from expunge.certificates.run import RidgeRun
from expunge.certificates.schema import CertificateError, VerificationError, certificate_schema

__all__ = [
    "CONDITIONS",
    "GRID_NOTE",
    "UNKNOWN_SOURCES",
    "Certificate",
    "CertificateError",
    "Digests",
    "Phase",
    "Policy",
    "RidgeRun",
    "Signature",
    "Sources",
    "VerificationError",
    "VerificationReport",
    "certificate_schema",
    "coefficients_of",
    "features_digest",
    "generate_key_pair",
    "load_private_key",
    "load_public_key",
    "model_digest",
    "record_digest",
    "targets_digest",
]
