"""Certificates of any format from their files."""

from __future__ import annotations

import os

from expunge.certificates.certificate import Certificate
from expunge.certificates.network.certificate import NetworkCertificate
from expunge.certificates.network.format import FORMAT as NETWORK
from expunge.certificates.residual.certificate import ResidualCertificate
from expunge.certificates.residual.format import FORMAT
from expunge.certificates.signed import json_values, text_of

__all__ = ["load"]


def load(path: str | os.PathLike[str]) -> Certificate | ResidualCertificate | NetworkCertificate:
    """Return the certificate in a file, of the class that its format names.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CertificateError
        Naming the field that breaks the format; ``"format"`` if it is none that this library reads.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder) / "certificate.json"
    ...     _ = file.write_text('{"format": "another"}')
    ...     load(file)
    Traceback (most recent call last):
    ...
    expunge.certificates.schema.CertificateError: format: must be 'expunge-certificate', got 'another'
    """
    text = text_of(path)
    values = json_values(text)
    named = values.get("format") if isinstance(values, dict) else None
    if named == NETWORK:
        return NetworkCertificate.from_json(text)
    if named == FORMAT:
        return ResidualCertificate.from_json(text)
    return Certificate.from_json(text)
