"""Evidence of a certificate of a network: the head's, and which records the backbone was trained with. Confidential."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from expunge._files import FileFormatError, write_atomic
from expunge._files.headed import headed_bytes, read_headed
from expunge.certificates.residual import ResidualEvidence
from expunge.certificates.schema import CertificateError, check

__all__ = ["NetworkEvidence"]

Self = TypeVar("Self", bound="NetworkEvidence")

FORMAT, VERSION = "expunge-network-evidence", 1
_HEADER = {
    "type": "object",
    "additionalProperties": False,
    "required": ["version", "format", "certificate", "n_trained"],
    "properties": {
        "version": {"const": VERSION},
        "format": {"const": FORMAT},
        "certificate": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "n_trained": {"type": "integer", "minimum": 0},
    },
}


@dataclass(frozen=True, eq=False)
class NetworkEvidence:
    """Confidential part of a verification of a network's certificate, besides the features of the data.

    Attributes
    ----------
    head : ResidualEvidence
        Of the head's certificate. It undoes the noise of the head's release.
    certificate : str
        Digest of the network's certificate.
    in_backbone : ndarray of bool, shape (n_records,)
        Whether the backbone was trained with each record that is now among the data, in the order of the head's ids.
    n_trained : int
        Records of the first fit that the backbone was trained with; those of them that are no longer among the data as
        they were are what the certificate counts.

    Raises
    ------
    CertificateError
        On construction, naming the field that is wrong.
    """

    head: ResidualEvidence
    certificate: str
    in_backbone: NDArray[np.bool_]
    n_trained: int

    def __post_init__(self) -> None:
        if not isinstance(self.head, ResidualEvidence):
            raise CertificateError("head", f"must be a ResidualEvidence, got {type(self.head).__name__}")
        marks = np.array(self.in_backbone)
        if marks.dtype != np.bool_ or marks.shape != (len(self.head.ids),):
            raise CertificateError(
                "in_backbone",
                f"must be bool of shape {(len(self.head.ids),)}, got {marks.dtype} of {marks.shape}",
            )
        object.__setattr__(self, "in_backbone", marks)
        check(self._header(), _HEADER, what="evidence")
        if self.n_trained < int(marks.sum()):
            raise CertificateError("n_trained", f"must be at least {int(marks.sum())}, got {self.n_trained}")

    @property
    def n_deleted(self) -> int:
        """Records of the backbone's training that were deleted or corrected since."""
        return self.n_trained - int(self.in_backbone.sum())

    def _header(self) -> dict[str, object]:
        return {
            "version": VERSION,
            "format": FORMAT,
            "certificate": self.certificate,
            "n_trained": self.n_trained,
        }

    def to_bytes(self) -> bytes:
        """Return the content of the file: an ``.npz`` archive without pickles that carries its own digest."""
        arrays = {f"head.{name}": value for name, value in self.head.to_arrays().items()}
        return headed_bytes(self._header(), {**arrays, "in_backbone": self.in_backbone})

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the evidence, whole or not at all, readable by its owner only.

        Raises
        ------
        FileExistsError
            If ``path`` exists and ``overwrite`` is False.
        """
        write_atomic(path, self.to_bytes(), overwrite=overwrite)

    @classmethod
    def load(cls: type[Self], path: str | os.PathLike[str]) -> Self:
        """Return the evidence in a file; nothing is unpickled.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        FileFormatError
            If it is no such archive, or its bytes do not match its digest.
        CertificateError
            Naming the field that is missing or wrong.
        """
        header, arrays = read_headed(os.fspath(path), what="evidence", versions=(VERSION,))
        if header.get("format") != FORMAT:
            raise FileFormatError(f"path: the file at {path} is not the evidence of a network")
        check(header, _HEADER, what="evidence")
        marks = arrays.pop("in_backbone", None)
        if marks is None:
            raise CertificateError("in_backbone", "is missing in the evidence")
        head = {}
        for name, value in arrays.items():
            if not name.startswith("head."):
                raise CertificateError(name, "is no array of the evidence of a network")
            head[name.removeprefix("head.")] = value
        try:
            of_head = ResidualEvidence.of_arrays(head)
        except CertificateError as error:
            raise CertificateError(f"head.{error.field}", str(error).removeprefix(f"{error.field}: ")) from None
        return cls(of_head, header["certificate"], marks, header["n_trained"])
