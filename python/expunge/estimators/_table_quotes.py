"""Quotes of records that lie in a table, block by block, for models that hold no rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from expunge.estimators._history import History
from expunge.estimators._records import RecordIds, as_array, exact_ids, selected_rows
from expunge.estimators._table_deletion import are
from expunge.estimators._table_pass import Part, TablePass, gathered
from expunge.estimators.quotes import Claim, Quote, QuoteTable, asked, from_kernel, refuse_lost
from expunge.runs.ridge import LearningLaw, exact_group_quotes, exact_quotes, shifted_group_quotes, shifted_quotes
from expunge.runs.ridge.shifted import WorstRecord

__all__ = ["quote_table"]


def quote_table(
    history: History,
    table: TablePass,
    claim: Claim,
    *,
    law: LearningLaw | None,
    indices: Any,
    ids: Any,
    rows: Any,
    threads: int | None,
) -> Quote:
    """Return the price of deletions from a table in one pass; see `LangevinRidge.quote`."""
    if claim.noise_std is not None:
        refuse_lost(history, claim.noise_std)
    options: dict[str, Any] = {"epsilon": claim.epsilon, "delta": claim.delta, "threads": threads}
    options |= {"n_steps": claim.n_steps, "noise_std": claim.noise_std}
    if ids is not None:
        return _people(history, table, claim, law, exact_ids("ids", ids), options)
    chosen = history.remaining
    if indices is not None or rows is not None:
        n = len(history.design)
        chosen = selected_rows(None, n=n, removed=history.removed, indices=indices, rows=rows)
    wanted = np.zeros(len(history.design), dtype=bool)
    wanted[chosen] = True
    if claim.method == "uniform" and law is not None:
        return _uniform(history, table, claim, law, chosen, options)
    found: list[QuoteTable] = []
    numbers: list[NDArray[np.int64]] = []
    size = 1 if law is None else law.block_rows
    with tqdm(total=len(chosen), unit="record", desc=f"quote ({claim.method})", disable=None, leave=False) as bar:
        for part in _aligned((part.chosen(wanted[part.numbers]) for part in table), size):
            beside = history.holding(part.numbers, part.design, part.targets)
            if law is None:
                found.append(asked(beside, [[row] for row in part.numbers.tolist()], claim, bar.update))
            else:
                own, places = law.beside(part.design, part.targets), np.arange(len(part))
                quotes = exact_quotes if claim.method == "exact" else shifted_quotes
                answer = quotes(own, places, progress=bar.update, **options)
                found.append(from_kernel(beside, own, answer, part.numbers, None, claim))
            numbers.append(part.numbers)
    order = np.argsort(np.concatenate(numbers), kind="stable")
    back = order[np.searchsorted(np.concatenate(numbers)[order], chosen)]
    return QuoteTable.joined(found).chosen(back).quote(chosen, claim)


def _aligned(parts: Iterable[Part], size: int) -> Iterator[Part]:
    """Yield the same records in parts of whole multiples of ``size``, but for the last: products are made of so many.

    The bits of a product's row may depend on how many there are; so they are those of one array that holds them all.
    """
    rest: Part | None = None
    for part in parts:
        if not len(part):
            continue
        both = part if rest is None or not len(rest) else gathered([rest, part])
        whole = len(both) // size * size
        if whole:
            yield both.chosen(slice(0, whole))
        rest = Part(*(None if one is None else one[whole:].copy() for one in both))  # type: ignore[arg-type]
    if rest is not None and len(rest):
        yield rest


def _uniform(
    history: History, table: TablePass, claim: Claim, law: LearningLaw, chosen: NDArray[np.int64], options: Any
) -> Quote:
    """Quote the worst of all records, whichever are asked about."""
    options = dict(options)
    threads = options.pop("threads")
    worst = WorstRecord(law, threads=threads, **options)
    for part in _aligned(table, law.block_rows):
        worst.see(law.beside(part.design, part.targets))
    rows = [[row] for row in chosen.tolist()]
    return from_kernel(history, law, worst.quotes(len(chosen)), chosen, rows, claim).quote(chosen, claim)


def _people(
    history: History, table: TablePass, claim: Claim, law: LearningLaw | None, wanted: list[Any], options: Any
) -> Quote:
    """Quote the people of some ids, all rows of each together."""
    claim.unit = "id"
    if claim.method == "uniform":
        raise ValueError(
            "method must be 'exact' or 'shifted' for ids of a table, got 'uniform': quote rows= one by one"
        )
    if not table.records.has_ids:
        raise ValueError("table must have ids to quote ids=, got none: name its column of ids, or say rows=")
    parts = [found for part in table if len(found := part.chosen(are(part, wanted)))]
    if not parts:
        raise ValueError(f"ids must be ids of the table, got {wanted[0]!r}, which no record has")
    held = gathered(parts)
    assert held.ids is not None
    known = RecordIds(tuple(held.ids.tolist()), "ids of a table")
    asked_for = known.find("ids", wanted)
    members = [np.flatnonzero(known.codes == code) for code in asked_for]
    if max(map(len, members)) >= history.remaining.size:
        raise ValueError("ids must leave at least one record, got one that is all of them")
    names = as_array([known.names[code] for code in asked_for])
    beside = history.holding(held.numbers, held.design, held.targets)
    rows = [held.numbers[one] for one in members]
    if law is None:
        return asked(beside, rows, claim, None).quote(names, claim)
    quotes = exact_group_quotes if claim.method == "exact" else shifted_group_quotes
    own = law.beside(held.design, held.targets)
    return from_kernel(beside, own, quotes(own, members, **options), names, rows, claim).quote(names, claim)
