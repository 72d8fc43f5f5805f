"""A table of records compared with a certificate in one pass: every row with its salted hash, and their gradient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge._errors import counted
from expunge._types import AnyArray
from expunge.certificates.residual.certificate import ResidualCertificate
from expunge.certificates.residual.evidence import ResidualEvidence
from expunge.certificates.residual.records import check_evidence, contents_found, listed
from expunge.certificates.schema import VerificationError
from expunge.data.blocks import Block, Records
from expunge.runs.residual.answers import Answers, answers_of
from expunge.runs.residual.gradients import SumTree, float_rows, gradient_sums

__all__ = ["table_bound"]

Float64 = NDArray[np.float64]


def table_bound(
    certificate: ResidualCertificate,
    evidence: ResidualEvidence,
    records: Records,
    *,
    sample_weight: ArrayLike | None,
    threads: int | None,
) -> float:
    """Return a proved bound on the norm of the gradient at the evidence's parameters, over the certified records.

    Memory holds a block, and hashes, salts and ids of all records.

    Raises
    ------
    VerificationError
        With ``field`` naming what refutes the certificate, as `verify`; records come in the order of the evidence, or
        in any order if the table has ids.
    TypeError, ValueError
        If the table has no targets, weights do not fit, or reading refuses a row or a file.
    """
    c = certificate
    if not records.has_targets:
        raise ValueError("X must be a table with targets: open it with target= or target_column=")
    if records.n_features != c.model.n_features:
        raise VerificationError(
            "model.n_features", f"must be that of the table, {records.n_features}, got {c.model.n_features}"
        )
    weights = None
    if sample_weight is not None:
        weights = _validate.real_array("sample_weight", sample_weight, ndim=1, low=0.0)
        if len(weights) != records.n_records:
            raise ValueError(
                f"sample_weight must have one entry for each of {records.n_records} records, got {len(weights)}"
            )
    check_evidence(c, evidence)
    match = _Match(c, evidence, records)
    sums = SumTree()
    for block in records.blocks(threads=threads):
        answers = _answers(c, block)
        mine = None if weights is None else weights[block.start : block.start + len(block)]
        rows = float_rows(block, fit_intercept=False)
        match.take(block, rows, answers, np.ones(len(block)) if mine is None else mine)
        sums.add(
            gradient_sums(
                float_rows(block, fit_intercept=True) if c.model.fit_intercept else rows,
                evidence.theta,
                loss=c.loss,
                targets=answers.targets,
                labels=answers.labels,
                weights=mine,
                threads=threads,
            )
        )
    match.finish()
    return sums.total().norm_bound(evidence.theta, alpha=c.alpha)


def _answers(c: ResidualCertificate, block: Block) -> Answers:
    assert block.y is not None  # the table has targets
    try:
        return answers_of(block.y, loss=c.loss, classes=c.model.classes, n_outputs=c.model.n_outputs)
    except (TypeError, ValueError) as error:
        raise VerificationError(
            "digests.data", f"the data from row {block.start} on are not what was certified: {error}"
        ) from None


class _Match:
    """Records found so far, each in a place of the evidence whose salt gives the hash that stands there."""

    def __init__(self, certificate: ResidualCertificate, evidence: ResidualEvidence, records: Records) -> None:
        self._classes, self._evidence = certificate.model.classes, evidence
        self._found = np.zeros(len(evidence.ids), dtype=bool)
        self._wrong: list[object] = []
        self._by_id: dict[object, list[int]] | None = None
        self._n, self._has_ids = records.n_records, records.has_ids
        if not self._has_ids and self._n != len(evidence.ids):
            raise VerificationError(
                "digests.data",
                f"the data must have {counted(len(evidence.ids), 'record')}, got {self._n}; give the table's ids to "
                "see which is missing",
            )

    def take(self, block: Block, rows: Float64, answers: Answers, weights: Float64) -> None:
        """Compare a block, first with the places in the order of the evidence."""
        n, ids = len(block), block.ids
        if ids is not None and (ids.dtype.kind == "U") != (self._evidence.ids.dtype.kind == "U"):
            needed = "text" if self._evidence.ids.dtype.kind == "U" else "whole numbers"
            raise VerificationError("digests.data", f"ids must be {needed}, as certified: 7 and '7' are different ids")
        places = np.arange(block.start, block.start + n)
        likely = places < len(self._found)
        if ids is not None:
            likely[likely] = self._evidence.ids[places[likely]] == ids[likely]
        likely[likely] = ~self._found[places[likely]]
        some = np.flatnonzero(likely)
        same = self._same(block, rows, answers, weights, some, places[some])
        self._found[places[some[same]]] = True
        left = np.ones(n, dtype=bool)
        left[some[same]] = False
        for row in np.flatnonzero(left).tolist():
            if ids is None:
                self._wrong.append(self._evidence.ids[places[row]])
            else:
                self._search(block, rows, answers, weights, row, ids[row : row + 1].tolist()[0])

    def _search(self, block: Block, rows: Float64, answers: Answers, weights: Float64, row: int, name: object) -> None:
        """Look for a row at the places of its id that no row has been found for."""
        free = [place for place in self._places(name) if not self._found[place]]
        same = self._same(block, rows, answers, weights, np.full(len(free), row), np.array(free, dtype=np.int64))
        if same.any():
            self._found[free[int(same.argmax())]] = True
        else:
            self._wrong.append(name)

    def _same(
        self,
        block: Block,
        rows: Float64,
        answers: Answers,
        weights: Float64,
        some: NDArray[np.int64],
        places: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Return which rows, with the salts of some places, have the hashes that stand there."""
        if not len(some):
            return np.zeros(0, dtype=bool)
        every = len(some) == len(rows) and bool((some == np.arange(len(rows))).all())
        pick = slice(None) if every else some
        targets, labels = answers
        picked = Answers(None if targets is None else targets[pick], None if labels is None else labels[pick])
        values: AnyArray = np.asarray(block.y)[pick]
        found = contents_found(
            rows[pick], picked, values, weights[pick], self._evidence.salts[places], classes=self._classes
        )
        return np.asarray((found == self._evidence.contents[places]).all(axis=1))

    def _places(self, name: object) -> list[int]:
        if self._by_id is None:
            self._by_id = defaultdict(list)
            for place, one in enumerate(self._evidence.ids.tolist()):
                self._by_id[one].append(place)
        return self._by_id.get(name, [])

    def finish(self) -> None:
        """Refuse records that are missing, too many or changed, by their ids."""
        free: defaultdict[object, int] = defaultdict(int)
        for name in self._evidence.ids[~self._found].tolist():
            free[name] += 1
        changed, extra = [], []
        for name in self._wrong:
            plain = name.item() if isinstance(name, np.generic) else name
            if free[plain]:
                free[plain] -= 1
                changed.append(plain)
            else:
                extra.append(plain)
        missing = list(_repeated(free))
        if missing or extra:
            parts = [f"{word} {listed(some)}" for word, some in (("missing", missing), ("additional", extra)) if some]
            raise VerificationError("digests.data", f"the records must be those certified: {'; '.join(parts)}")
        if changed:
            order = "" if self._has_ids else " (or the order is another: give the table's ids)"
            raise VerificationError(
                "digests.data",
                f"{counted(len(changed), 'record')} of the {self._n} must be as certified, got another row, answer or "
                f"weight for {'id' if len(changed) == 1 else 'ids'} {listed(changed)}{order}",
            )


def _repeated(counts: dict[object, int]) -> Iterator[object]:
    for name, count in counts.items():
        yield from [name] * count
