"""Data and a model compared with the digests of a certificate."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge.certificates import hints
from expunge.certificates.digest import features_digest, model_digest, record_digest, targets_digest
from expunge.certificates.document import Document
from expunge.certificates.schema import VerificationError, refuting
from expunge.runs.base import Run

__all__ = ["check_data", "check_digests", "check_model", "check_records", "requested"]


def check_data(certificate: Document, X: ArrayLike, y: ArrayLike) -> None:
    """Check that these are the features and targets of the certificate.

    Raises
    ------
    VerificationError
        Naming ``digests.X`` or ``digests.y``, with a hint at what may be wrong.
    """
    c = certificate

    def features() -> str:
        return hints.features_hint(X, c.digests.X, c.run, targets_match=_matches(c.digests.y, y))

    _same_digest("digests.X", "X", c.digests.X, lambda: features_digest(X), features)
    _same_digest(
        "digests.y", "y", c.digests.y, lambda: targets_digest(y), lambda: hints.targets_hint(y, c.digests.y, c.run)
    )


def check_digests(certificate: Document, digests: tuple[str, str]) -> None:
    """Check that digests of features and targets are those of the certificate.

    Raises
    ------
    VerificationError
        Naming ``digests.X`` or ``digests.y``.
    """
    c = certificate
    for field, what, needed, got in (
        ("digests.X", "X", c.digests.X, digests[0]),
        ("digests.y", "y", c.digests.y, digests[1]),
    ):
        _same_digest(field, what, needed, lambda got=got: got)  # type: ignore[misc]


def check_records(certificate: Document, X: ArrayLike, y: ArrayLike, *, rows: Sequence[int] | None = None) -> None:
    """Check that the deleted rows of the data are the records of the certificate.

    ``rows`` are the numbers of the rows in ``X`` and ``y``, where these do not hold all.

    They are those of the last request; in certificates of earlier releases of this library, of every request so far.

    Raises
    ------
    VerificationError
        Naming ``digests.record``.
    """
    c = certificate

    def digest(deleted: Sequence[int]) -> str:
        own = list(deleted) if rows is None else [rows.index(row) for row in deleted]
        return record_digest(_validate.plain_array("X", X)[own], np.asarray(y)[own], salt=bytes.fromhex(c.salt))

    last = requested(c.run)
    if last != tuple(c.run.deleted) and hmac.compare_digest(digest(c.run.deleted), c.digests.record):
        return
    _same_digest("digests.record", "the deleted rows", c.digests.record, lambda: digest(last))


def requested(run: Run[Any]) -> tuple[int, ...]:
    """Return the rows that the last request of a run was about: all its deleted rows, unless it tells them apart."""
    return tuple(getattr(run, "last_deleted", run.deleted))


def check_model(certificate: Document, model: Any) -> NDArray[np.float64]:
    """Check that ``model`` holds the certified parameters, and return them.

    Raises
    ------
    VerificationError
        Naming ``digests.model``, or what of the run the model contradicts (``run.classes`` for other labels).
    """
    found = []

    def digest() -> str:
        with refuting():
            found.append(certificate.run.parameters(model))
        return model_digest(found[0])

    _same_digest("digests.model", "model", certificate.digests.model, digest)
    return found[0]


def _matches(needed: str, y: ArrayLike) -> bool:
    try:
        return targets_digest(y) == needed
    except (TypeError, ValueError):
        return False


def _same_digest(
    field: str, what: str, needed: str, compute: Callable[[], str], hint: Callable[[], str] = lambda: ""
) -> None:
    try:
        got = compute()
    except VerificationError:
        raise
    except (TypeError, ValueError) as error:
        raise VerificationError(field, f"{what} is not what was certified: {error}") from None
    if not hmac.compare_digest(got, needed):
        guess = hint()
        raise VerificationError(
            field,
            f"{what} is not what was certified: its digest is {got}, needed {needed}" + (f"; {guess}" if guess else ""),
        )
