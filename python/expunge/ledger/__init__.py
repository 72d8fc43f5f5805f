"""The ledger: an append-only, hash-chained JSON-lines file of the deletions done to one model."""

from expunge.ledger.entries import EnteredRequest, LedgerEntry, LedgerError
from expunge.ledger.ledger import DeletionRequest, Ledger, LedgerTotal
from expunge.ledger.lines import record_id_digest
from expunge.ledger.residual import ResidualEntry, ResidualTotal

__all__ = [
    "DeletionRequest",
    "EnteredRequest",
    "Ledger",
    "LedgerEntry",
    "LedgerError",
    "LedgerTotal",
    "ResidualEntry",
    "ResidualTotal",
    "record_id_digest",
]
