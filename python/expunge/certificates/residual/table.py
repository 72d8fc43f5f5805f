"""A table of records compared with a certificate in one pass: every row with its salted hash, and their gradient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate
from expunge._errors import counted
from expunge._types import AnyArray
from expunge.certificates.residual.certificate import ResidualCertificate
from expunge.certificates.residual.evidence import ResidualEvidence
from expunge.certificates.residual.records import check_evidence, contents_found, listed
from expunge.certificates.schema import VerificationError
from expunge.data.blocks import Block, BlockWork, Records
from expunge.data.folding import fold, numbered_blocks
from expunge.runs.residual.answers import Answers, answers_of
from expunge.runs.residual.gradients import GradientSums, float_rows, gradient_sums
from expunge.runs.residual.objective import Rows

__all__ = ["table_bound", "table_rows"]

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
    size = records.block_rows

    def given(number: int) -> _Expected:
        where = slice(number * size, (number + 1) * size)
        mine = None if weights is None else weights[where]
        return _Expected(evidence.ids[where], evidence.salts[where], evidence.contents[where], mine)

    sums, others = fold(records, _Comparing(c, evidence.theta), given=given, threads=threads)
    match.all_but(others)
    for number, block in numbered_blocks(records, list(others), threads=threads):
        mine = np.ones(len(block)) if weights is None else weights[number * size : (number + 1) * size]
        match.search(block, float_rows(block, fit_intercept=False), answers_in(c, block), mine, others[number])
    match.finish()
    return sums.norm_bound(evidence.theta, alpha=c.alpha)


def table_rows(c: ResidualCertificate, records: Records, *, sample_weight: ArrayLike | None) -> Iterator[Rows]:
    """Yield the rows of a table that has been compared with a certificate, by blocks, as the model sees them."""
    weights = None if sample_weight is None else _validate.real_array("sample_weight", sample_weight)
    for block in records.blocks():
        answers = answers_in(c, block)
        mine = None if weights is None else weights[block.start : block.start + len(block)]
        yield Rows(float_rows(block, fit_intercept=c.model.fit_intercept), answers.labels, answers.targets, mine)


def answers_in(c: ResidualCertificate, block: Block) -> Answers:
    """Return the answers of a block as the loss takes them, or refuse the data."""
    assert block.y is not None  # the table has targets
    try:
        return answers_of(block.y, loss=c.loss, classes=c.model.classes, n_outputs=c.model.n_outputs)
    except (TypeError, ValueError) as error:
        raise VerificationError(
            "digests.data", f"the data from row {block.start} on are not what was certified: {error}"
        ) from None


class _Expected(NamedTuple):
    """Ids, salts and hashes in the places of a block's rows, of which the last may have none; and the rows' weights."""

    ids: AnyArray
    salts: NDArray[np.uint8]
    contents: NDArray[np.uint8]
    weights: Float64 | None


class _Seen(NamedTuple):
    """Sums over blocks, and the rows of each block that are not in their places."""

    sums: GradientSums
    others: dict[int, NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class _Comparing(BlockWork[_Expected, _Seen]):
    """The gradient of a block, whose rows are compared with the hashes in their places."""

    certificate: ResidualCertificate
    theta: Float64

    def of(self, records: Records, block: Block, given: _Expected, *, threads: int | None) -> _Seen:
        c, answers = self.certificate, answers_in(self.certificate, block)
        rows = float_rows(block, fit_intercept=False)
        sums = gradient_sums(
            float_rows(block, fit_intercept=True) if c.model.fit_intercept else rows,
            self.theta,
            loss=c.loss,
            targets=answers.targets,
            labels=answers.labels,
            weights=given.weights,
            threads=threads,
        )
        likely = np.arange(len(block)) < len(given.ids)
        if block.ids is not None:
            if (block.ids.dtype.kind == "U") != (given.ids.dtype.kind == "U"):
                needed = "text" if given.ids.dtype.kind == "U" else "whole numbers"
                raise VerificationError(
                    "digests.data", f"ids must be {needed}, as certified: 7 and '7' are different ids"
                )
            likely[likely] = np.asarray(block.ids[: len(given.ids)] == given.ids[: len(block)])
        some = np.flatnonzero(likely)
        weights = np.ones(len(block)) if given.weights is None else given.weights
        same = same_rows(c, block, rows, answers, weights, some, given.salts[some], given.contents[some])
        left = np.ones(len(block), dtype=bool)
        left[some[same]] = False
        return _Seen(sums, {block.start // records.block_rows: np.flatnonzero(left)} if left.any() else {})

    def both(self, one: _Seen, two: _Seen) -> _Seen:
        return _Seen(one.sums + two.sums, {**one.others, **two.others})


def same_rows(
    c: ResidualCertificate,
    block: Block,
    rows: Float64,
    answers: Answers,
    weights: Float64,
    some: NDArray[np.int64],
    salts: NDArray[np.uint8],
    contents: NDArray[np.uint8],
) -> NDArray[np.bool_]:
    """Return which of some rows have, under given salts, given hashes."""
    if not len(some):
        return np.zeros(0, dtype=bool)
    every = len(some) == len(rows) and bool((some == np.arange(len(rows))).all())
    pick = slice(None) if every else some
    targets, labels = answers
    picked = Answers(None if targets is None else targets[pick], None if labels is None else labels[pick])
    values: AnyArray = np.asarray(block.y)[pick]
    found = contents_found(rows[pick], picked, values, weights[pick], salts, classes=c.model.classes)
    return np.asarray((found == contents).all(axis=1))


class _Match:
    """Records found so far, each in a place of the evidence whose salt gives the hash that stands there."""

    def __init__(self, certificate: ResidualCertificate, evidence: ResidualEvidence, records: Records) -> None:
        self._certificate, self._evidence = certificate, evidence
        self._found = np.zeros(len(evidence.ids), dtype=bool)
        self._wrong: list[object] = []
        self._by_id: dict[object, list[int]] | None = None
        self._n, self._size, self._has_ids = records.n_records, records.block_rows, records.has_ids
        if not self._has_ids and self._n != len(evidence.ids):
            raise VerificationError(
                "digests.data",
                f"the data must have {counted(len(evidence.ids), 'record')}, got {self._n}; give the table's ids to "
                "see which is missing",
            )

    def all_but(self, others: dict[int, NDArray[np.int64]]) -> None:
        """Take all rows as found in their places, but for those of each block that are not."""
        self._found[: self._n] = True
        for number, rows in others.items():
            places = number * self._size + rows
            self._found[places[places < len(self._found)]] = False

    def search(
        self, block: Block, rows: Float64, answers: Answers, weights: Float64, others: NDArray[np.int64]
    ) -> None:
        """Look for rows of a block that are not in their places."""
        for row in others.tolist():
            if block.ids is None:
                self._wrong.append(self._evidence.ids[block.start + row])
            else:
                self._search(block, rows, answers, weights, row, block.ids[row : row + 1].tolist()[0])

    def _search(self, block: Block, rows: Float64, answers: Answers, weights: Float64, row: int, name: object) -> None:
        """Look for a row at the places of its id that no row has been found for."""
        free = [place for place in self._places(name) if not self._found[place]]
        where = np.array(free, dtype=np.int64)
        known = self._evidence.salts[where], self._evidence.contents[where]
        same = same_rows(self._certificate, block, rows, answers, weights, np.full(len(free), row), *known)
        if same.any():
            self._found[free[int(same.argmax())]] = True
        else:
            self._wrong.append(name)

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
