"""``expunge quote`` of a model by computed residual: passes, sensitivity and before/after epsilon of every record."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from expunge._errors import counted
from expunge.cli.outputs import Outputs
from expunge.cli.requests import rows_of_first_fit
from expunge.data.writing import parquet_bytes
from expunge.estimators._records import GIVEN, RecordIds
from expunge.plotting import plot_deletions

if TYPE_CHECKING:
    from expunge.cli.files import Newton
    from expunge.estimators import NewtonQuote

__all__ = ["quote_newton"]


def quote_newton(
    model: Newton, *, ids: Sequence[str], rows: str | None, indices: str | None, by_id: bool, files: Outputs
) -> None:
    """Quote records, write the quote and print its summary."""
    from expunge.cli.identifiers import parse_id

    given = [one for one in (ids or None, rows, indices) if one is not None]
    if len(given) > 1:
        raise ValueError("say which records to quote by one of --id, --rows and --indices")
    if ids:
        known = RecordIds(tuple(model.ids_.tolist()), GIVEN)
        found = model.quote([parse_id(known, one) for one in ids], by_id=by_id)
    elif given:
        how, text = ("rows", rows) if rows is not None else ("indices", indices)
        found = model.quote(rows=rows_of_first_fit(model, how, str(text)), by_id=by_id)
    else:
        found = model.quote(by_id=by_id)
    files.write({name: _bytes(found, model, place.suffix.lower()) for name, place in files.places.items()})
    for line in _lines(found):
        click.echo(line)
    if len(found) > len(set(found.ids.tolist())):
        click.echo("note  rows of one id are quoted each by itself; --by-id quotes all rows of each id together")
    for place in files.places.values():
        click.echo(f"written  {place}")


def _columns(found: NewtonQuote) -> dict[str, Any]:
    names = found.ids.tolist()
    if any(isinstance(one, int) and abs(one) > 2**53 for one in names):
        names = [str(one) for one in names]  # many readers take numbers through float64
    costs = found.costs
    return {
        "id": names,
        **({"n_records": found.n_records} if found.unit == "id" else {}),
        "passes_estimate": costs.passes_estimate,
        "sensitivity_bound": costs.sensitivity_bound,
        "one_step_noise_bound": costs.one_step_noise_bound,
        "before_after_epsilon_bound": costs.before_after_epsilon_bound,
    }


def _bytes(found: NewtonQuote, model: Newton, ending: str) -> bytes:
    """Return a quote as Parquet, JSON or a picture."""
    columns, settled = _columns(found), model.certificate_
    facts = {"format": "expunge-newton-quote", "version": 1, "noise_std": settled.noise_std, "delta": settled.delta}
    if ending == ".parquet":
        metadata = {"expunge": json.dumps(facts, allow_nan=False)}
        return parquet_bytes(columns, metadata=metadata, what="a quote")
    if ending == ".json":
        plain = {name: [_plain(value) for value in values] for name, values in columns.items()}
        records = [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]
        return (json.dumps({**facts, "records": records}, allow_nan=False) + "\n").encode()
    buffer = io.BytesIO()
    figure = plot_deletions(found.before_after_epsilon, noise_std=settled.noise_std)
    figure.savefig(buffer, format=ending.lstrip("."))
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    # JSON has no infinity: null says that no bound is known.
    value = value.item() if isinstance(value, np.generic) else value
    return value if not isinstance(value, float) or np.isfinite(value) else None


def _lines(found: NewtonQuote) -> list[str]:
    alone = len(found) == 1
    what = "record" if found.unit == "record" else "id"
    lines = [f"{counted(len(found), what)}, {'' if alone else 'each '}deleted by itself"]
    if found.unit == "id":
        lines[0] += f" with all its rows ({counted(int(found.n_records.sum()), 'record')})"
    lines[0] += "" if alone else ": 5%, median, 95%"
    for name, values in (
        ("passes over the data (estimate)", found.passes.astype(np.float64)),
        ("sensitivity: how far the optimum moves, at most", found.sensitivity),
        ("noise that would do after a single step", found.one_step_noise),
        ("before/after epsilon, at most", found.before_after_epsilon),
    ):
        shown = values if alone else np.quantile(values, [0.05, 0.5, 0.95], method="inverted_cdf")
        lines.append(f"  {name:<49} " + " ".join(f"{value:9.3g}" for value in shown))
    return lines
