"""Data compared with the salted hashes of a certificate: the order of the records, and which of them is another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge._errors import counted
from expunge.certificates.residual import hashing
from expunge.certificates.residual.certificate import ResidualCertificate
from expunge.certificates.residual.evidence import ResidualEvidence
from expunge.certificates.residual.tree import Leaves
from expunge.certificates.schema import VerificationError
from expunge.data.identifiers import exact_ids
from expunge.runs.residual.answers import Answers, Label, class_numbers

__all__ = ["check_evidence", "check_records", "contents_found", "listed"]

Bytes = NDArray[np.uint8]
_NAMED = 5


def check_records(
    certificate: ResidualCertificate,
    evidence: ResidualEvidence,
    rows: NDArray[np.float64],
    answers: Answers,
    y: ArrayLike,
    *,
    ids: ArrayLike | None,
    weights: NDArray[np.float64],
) -> None:
    """Check that these are the records of the certificate, in any order if their ids are given.

    Raises
    ------
    VerificationError
        With ``field == "n_records"`` or ``"evidence.salts"`` if the evidence is about other data than the certificate,
        and ``"digests.data"`` if a record is missing, is too many or was changed; it is named by its id.
    """
    check_evidence(certificate, evidence)
    places = _places(evidence.ids, None if ids is None else exact_ids(ids), len(rows))
    found = contents_found(rows, answers, y, weights, evidence.salts[places], classes=certificate.model.classes)
    wrong = np.flatnonzero((found != evidence.contents[places]).any(axis=1))
    if len(wrong) and ids is not None:  # rows of one id may come in any order
        wrong = _unmatched(wrong, places, evidence, rows, answers, y, weights, classes=certificate.model.classes)
    if len(wrong):
        names = listed([evidence.ids[places[row]] for row in wrong])
        order = "" if ids is not None else " (or the order is another: pass ids)"
        raise VerificationError(
            "digests.data",
            f"{counted(len(wrong), 'record')} of the {len(rows)} must be as certified, got another row, answer or "
            f"weight for {'id' if len(wrong) == 1 else 'ids'} {names}{order}",
        )


def check_evidence(certificate: ResidualCertificate, evidence: ResidualEvidence) -> None:
    """Check that the evidence is about the data of the certificate, by its hashes alone.

    Raises
    ------
    VerificationError
        With ``field`` of ``"n_records"`` or ``"evidence.salts"``.
    """
    if certificate.n_records != len(evidence.ids):
        raise VerificationError(
            "n_records", f"must be that of the evidence, {len(evidence.ids)}, got {certificate.n_records}"
        )
    keys = hashing.keys_of(evidence.ids.tolist(), key=evidence.tree_key)
    leaves = Leaves(np.hstack([keys, evidence.contents]), hashing.key_commitment(evidence.tree_key))
    if leaves.root != certificate.digests.data:
        raise VerificationError(
            "evidence.salts",
            f"must have the certificate's root {certificate.digests.data}, got {leaves.root}: evidence of other data, "
            "or changed since",
        )


def contents_found(
    rows: NDArray[np.float64],
    answers: Answers,
    y: ArrayLike,
    weights: NDArray[np.float64],
    salts: Bytes,
    *,
    classes: Sequence[Label] | None,
) -> Bytes:
    """Return the content hashes of records under given salts."""
    numbers = None
    targets = answers.targets
    if classes is not None:
        numbers = answers.labels if answers.labels is not None else class_numbers(y, classes=classes)
        targets = None
    answered = hashing.answer_bytes(targets, numbers, classes=classes)
    return hashing.contents_of(rows, answered, weights, salts, labelled=classes is not None)


def _places(certified: NDArray[np.generic], ids: NDArray[np.generic] | None, n: int) -> NDArray[np.int64]:
    """Return for each row the place of its salt, by the order of the evidence or by ids."""
    if ids is None:
        if n != len(certified):
            raise VerificationError(
                "digests.data",
                f"the data must have {counted(len(certified), 'record')}, got {n}; pass ids to see which is missing",
            )
        return np.arange(n, dtype=np.int64)
    if len(ids) != n:
        raise ValueError(f"ids must have one entry for each of {n} records, got {len(ids)}")
    if (ids.dtype.kind == "U") != (certified.dtype.kind == "U"):
        needed = "text" if certified.dtype.kind == "U" else "whole numbers"
        raise VerificationError("digests.data", f"ids must be {needed}, as certified: 7 and '7' are different ids")
    left: defaultdict[object, list[int]] = defaultdict(list)
    known_ids = certified.tolist()
    for place in range(len(known_ids) - 1, -1, -1):
        left[known_ids[place]].append(place)
    places, extra = np.empty(n, dtype=np.int64), []
    for row, name in enumerate(ids.tolist()):
        known = left.get(name)
        if known:
            places[row] = known.pop()
        else:
            extra.append(name)
    missing = [known_ids[place] for place in sorted(place for some in left.values() for place in some)]
    if missing or extra:
        parts = [f"{word} {listed(names)}" for word, names in (("missing", missing), ("additional", extra)) if names]
        raise VerificationError("digests.data", f"the records must be those certified: {'; '.join(parts)}")
    return places


def _unmatched(
    wrong: NDArray[np.int64],
    places: NDArray[np.int64],
    evidence: ResidualEvidence,
    rows: NDArray[np.float64],
    answers: Answers,
    y: ArrayLike,
    weights: NDArray[np.float64],
    *,
    classes: Sequence[Label] | None,
) -> NDArray[np.int64]:
    """Return the rows that fit no salt of their id which is still free."""
    groups: defaultdict[object, list[int]] = defaultdict(list)
    for row in wrong.tolist():
        groups[evidence.ids[places[row]]].append(row)
    values = np.asarray(y)
    result: list[int] = []
    for group in groups.values():
        free = [int(places[row]) for row in group]
        for row in group:
            some = np.full(len(free), row)
            picked = Answers(*(None if part is None else part[some] for part in answers))
            found = contents_found(
                rows[some], picked, values[some], weights[some], evidence.salts[free], classes=classes
            )
            same = np.flatnonzero((found == evidence.contents[free]).all(axis=1))
            if len(same):
                del free[int(same[0])]
            else:
                result.append(row)
    return np.array(sorted(result), dtype=np.int64)


def listed(names: Sequence[object]) -> str:
    """Return the first few of some ids as text."""

    def plain() -> Iterator[str]:
        for name in names[:_NAMED]:
            yield repr(name.item() if isinstance(name, np.generic) else name)
        if len(names) > _NAMED:
            yield f"and {len(names) - _NAMED:,} more"

    return ", ".join(plain())
