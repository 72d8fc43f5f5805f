"""Entries of ledgers and signatures, as commands that change a model check them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.cli.files import model_digests

if TYPE_CHECKING:
    from expunge.cli.files import Working
    from expunge.ledger import DeletionRequest

__all__ = ["check_new", "check_next", "is_entered", "is_signed"]


def check_new(path: str) -> None:
    """Refuse, before any work, a ledger that cannot begin with a fit."""
    from expunge.ledger import Ledger

    if Path(path).exists() and (entries := Ledger(path).entries()):
        what = "1 entry" if len(entries) == 1 else f"{len(entries):,} entries"
        raise ValueError(f"{path}: holds {what} already, and a ledger follows one model: a fit begins another")


def check_next(path: str, before: Working) -> None:
    """Refuse, before any work, a model that the ledger cannot enter next."""
    from expunge.ledger import Ledger

    ledger = Ledger(path)
    ledger.check()
    entries = ledger.entries()
    if entries and entries[-1].model_after not in model_digests(before):
        raise ValueError(
            f"{ledger.path}: the model must be the model of the last entry, {entries[-1].model_after}, got "
            f"{model_digests(before)[0]}"
        )


def is_signed(proof: Any, public_key: Any) -> bool:
    """Return whether a certificate is signed by a key, or by none where there is none."""
    from expunge.certificates import VerificationError

    if public_key is None:
        return proof.signature is None
    try:
        proof.verify_signature(public_key)
    except VerificationError:
        return False
    return True


def is_entered(proof: Any, before: Working, requests: Sequence[DeletionRequest], path: str) -> bool:
    """Return whether the last entry of a ledger is that of a certificate, on these requests."""
    from expunge.ledger import EnteredRequest, Ledger, record_id_digest

    if not Path(path).exists() or not (entries := Ledger(path).entries()):
        return False
    salt, last = before.ledger_salt_, entries[-1]
    asked = [
        EnteredRequest(
            one.number, one.date, None if one.record_id is None else record_id_digest(one.record_id, salt=salt)
        )
        for one in requests
    ]
    entered = (last.certificate, last.requests) == (proof.digest(), tuple(asked))
    return entered and last.model_before in model_digests(before)
