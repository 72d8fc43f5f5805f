"""Quotes of records that lie in a table, block by block, for models that hold no rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from expunge.estimators._history import History
from expunge.estimators._records import RecordIds, as_array, exact_ids, selected_rows
from expunge.estimators._table_deletion import are
from expunge.estimators._table_groups import Together, complete_groups, groups_of
from expunge.estimators._table_pass import Part, TablePass, gathered
from expunge.estimators.quotes import (
    Claim,
    Quote,
    QuoteTable,
    asked,
    from_kernel,
    may_be_lost,
    refuse_lost,
    worst_cases,
)
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
    by_id: bool,
    groups: Any,
    threads: int | None,
) -> Quote:
    """Return the price of deletions from a table, in as few passes as what is asked for takes.

    One pass quotes records, or the people of some ids. One more finds out whose rows there are, for ``by_id`` and for
    groups of the people of some ids, and one more the worst case for rows that go together, or where noise is near what
    float64 resolves.
    """
    if claim.noise_std is not None:
        refuse_lost(history, claim.noise_std)
    history = replace(history, parts=table.rows)
    options: dict[str, Any] = {"epsilon": claim.epsilon, "delta": claim.delta, "threads": threads}
    options |= {"n_steps": claim.n_steps, "noise_std": claim.noise_std}
    if ids is not None and groups is None:
        return _people(history, table, claim, law, exact_ids("ids", ids), options)
    named = {"indices": indices, "ids": ids, "rows": rows}
    if by_id or groups is not None:
        return _groups(history, table, claim, law, {**named, "by_id": by_id, "groups": groups}, options)
    chosen = history.remaining
    if indices is not None or rows is not None:
        n = len(history.design)
        chosen = selected_rows(None, n=n, removed=history.removed, **named)
    if claim.method == "uniform" and law is not None:
        return _uniform(history, table, claim, law, chosen, options)
    size = 1 if law is None else law.block_rows
    found: list[QuoteTable] = []
    numbers: list[NDArray[np.int64]] = []
    with tqdm(total=len(chosen), unit="record", desc=f"quote ({claim.method})", disable=None, leave=False) as bar:
        for part in _aligned(_chosen(table, chosen), size):
            beside = history.holding(part.numbers, part.design, part.targets)
            if law is None:
                found.append(asked(beside, [[row] for row in part.numbers.tolist()], claim, bar.update))
            else:
                own, places = law.beside(part.design, part.targets), np.arange(len(part))
                quotes = exact_quotes if claim.method == "exact" else shifted_quotes
                answer = quotes(own, places, progress=bar.update, **options)
                found.append(from_kernel(beside, own, answer, part.numbers, None, claim))
            numbers.append(part.numbers)
    return _in_order(found, np.concatenate(numbers), chosen).quote(chosen, claim)


def _chosen(table: TablePass, chosen: NDArray[np.int64]) -> Iterator[Part]:
    wanted = np.zeros(len(table.history.design), dtype=bool)
    wanted[chosen] = True
    return (part.chosen(wanted[part.numbers]) for part in table)


def _in_order(found: list[QuoteTable], numbers: NDArray[np.int64], wanted: NDArray[np.int64]) -> QuoteTable:
    """Return one table of several, whose rows are of ``numbers``, in the order wanted."""
    order = np.argsort(numbers, kind="stable")
    return QuoteTable.joined(found).chosen(order[np.searchsorted(numbers[order], wanted)])


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
    found = worst.quotes(1)
    if not may_be_lost(history, law, found.noise_std).any():
        rows = [[row] for row in chosen.tolist()]
        return from_kernel(history, law, worst.quotes(len(chosen)), chosen, rows, claim).quote(chosen, claim)
    bounds = worst_cases(history, claim, [1])
    answers: list[QuoteTable] = []
    numbers: list[NDArray[np.int64]] = []
    for part in _chosen(table, chosen):
        if len(part):
            beside = history.holding(part.numbers, part.design, part.targets)
            answers.append(asked(beside, [[row] for row in part.numbers.tolist()], claim, None, bounds))
            numbers.append(part.numbers)
    return _in_order(answers, np.concatenate(numbers), chosen).quote(chosen, claim)


def _people(
    history: History, table: TablePass, claim: Claim, law: LearningLaw | None, wanted: list[Any], options: Any
) -> Quote:
    """Quote the people of some ids, all rows of each together."""
    claim.unit = "id"
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
    if max(map(len, members)) >= history.n_remaining:
        raise ValueError("ids must leave at least one record, got one that is all of them")
    names = as_array([known.names[code] for code in asked_for])
    bounds = worst_cases(history, claim, [len(one) for one in members])
    with tqdm(total=len(names), unit="id", desc=f"quote ({claim.method})", disable=None, leave=False) as bar:
        complete = Together(list(range(len(names))), held, members)
        return _together(history, claim, law, complete, names, bounds, options, bar).quote(names, claim)


def _groups(
    history: History, table: TablePass, claim: Claim, law: LearningLaw | None, named: dict[str, Any], options: Any
) -> Quote:
    """Quote the rows of each group together."""
    groups = groups_of(table, **named)
    claim.unit = groups.unit
    bounds = worst_cases(history, claim, groups.sizes.tolist())
    found: list[QuoteTable] = []
    numbers: list[int] = []
    total, what = len(groups.names), f"quote ({claim.method})"
    with tqdm(total=total, unit=groups.unit, desc=what, disable=None, leave=False) as bar:
        for complete in complete_groups(table, groups):
            names = groups.names[complete.groups]
            found.append(_together(history, claim, law, complete, names, bounds, options, bar))
            numbers += complete.groups
    return _in_order(found, np.array(numbers), np.arange(total)).quote(groups.names, claim)


def _together(
    history: History,
    claim: Claim,
    law: LearningLaw | None,
    complete: Together,
    names: NDArray[Any],
    bounds: Any,
    options: Any,
    bar: Any,
) -> QuoteTable:
    held, members = complete.rows, complete.members
    beside = history.holding(held.numbers, held.design, held.targets)
    rows = [held.numbers[one] for one in members]
    if law is None or claim.method == "uniform":
        return asked(beside, rows, claim, bar.update, bounds)
    quotes = exact_group_quotes if claim.method == "exact" else shifted_group_quotes
    own = law.beside(held.design, held.targets)
    return from_kernel(beside, own, quotes(own, members, progress=bar.update, **options), names, rows, claim)
