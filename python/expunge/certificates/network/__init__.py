"""Certificates of networks: a backbone that no deletion changes, and a certified head on its features."""

from expunge.certificates.network.certificate import NetworkCertificate
from expunge.certificates.network.evidence import NetworkEvidence
from expunge.certificates.network.format import Backbone, network_schema
from expunge.certificates.network.page import page_of, write_page
from expunge.certificates.network.verification import NetworkReport, verify
from expunge.certificates.network.weights import weights_digest

__all__ = [
    "Backbone",
    "NetworkCertificate",
    "NetworkEvidence",
    "NetworkReport",
    "network_schema",
    "page_of",
    "verify",
    "weights_digest",
    "write_page",
]
