"""``expunge quote``: the cost of forgetting each record."""

from __future__ import annotations

import io
import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from expunge._errors import how_to_install
from expunge.cli.attaching import data_option
from expunge.cli.cluster import scheduler_option
from expunge.cli.files import load_model, overwrite_option, parse_indices
from expunge.cli.identifiers import parse_id
from expunge.cli.langevin_tables import kind_of_ids, table_of
from expunge.cli.options import check_ending, delta_option, epsilon_option, method_option, refuse_given
from expunge.cli.outputs import Outputs
from expunge.cli.reading import data_options
from expunge.data import load_ids
from expunge.plotting import plot_noise

if TYPE_CHECKING:
    from expunge.estimators import Quote

__all__ = ["quote", "quote_bytes", "quote_json"]


def quote_bytes(quote: Quote, ending: str) -> bytes:
    """Return a quote as Parquet, JSON or a picture, by the ending of its file's name."""
    if ending == ".json":
        return quote_json(quote).encode()
    if ending == ".parquet":
        return quote.parquet_bytes()
    buffer = io.BytesIO()
    plot_noise([quote]).savefig(buffer, format=ending.lstrip("."))
    return buffer.getvalue()


def quote_json(quote: Quote) -> str:
    """Return a quote as JSON text: what was asked for, and one object per record or group."""

    def plain(value: Any) -> Any:
        # JSON has no infinity: null says that no noise (or no steps) reaches the target.
        value = value.item() if isinstance(value, np.generic) else value
        return value if not isinstance(value, float) or np.isfinite(value) else None

    names = quote.indices.tolist()
    if any(isinstance(name, int) and abs(name) > 2**53 for name in names):
        names = [str(name) for name in names]  # many readers of JSON take numbers through float64

    columns = {
        quote.unit: names,
        "noise_std": quote.noise_std,
        "n_steps": quote.n_steps,
        "mu": quote.mu,
        "epsilon": quote.epsilon,
        "error": quote.error,
        "direction": quote.direction,
        "certified": quote.certified,
    }
    values = {
        "format": "expunge-quote",
        "version": 1,
        "method": quote.method,
        "status": quote.status,
        "epsilon": quote.target_epsilon,
        "delta": quote.target_delta,
        f"{quote.unit}s": [
            {name: plain(value) for name, value in zip(columns, row, strict=True)}
            for row in zip(*columns.values(), strict=True)
        ],
    }
    return json.dumps(values, allow_nan=False) + "\n"


def _check_extras(paths: tuple[str, ...]) -> None:
    """Raise for a missing optional package before the work, not after it."""
    for path in paths:
        package, extra = ("pyarrow", "parquet") if path.lower().endswith(".parquet") else ("matplotlib", "plot")
        if not path.lower().endswith(".json") and find_spec(package) is None:
            raise ImportError(f"writing {path} needs {package}: {how_to_install(extra)}")


@click.command()
@click.argument("model", type=click.Path())
@epsilon_option
@delta_option
@click.option("--n-steps", type=int, help="Unlearning steps [default: 30]; the least noise is quoted.")
@click.option("--noise-std", type=float, help="Noise per unlearning step instead; the fewest steps are quoted.")
@method_option
@click.option("--id", "ids", multiple=True, help="An id to quote, all its rows; repeat for several.")
@click.option("--by-id", is_flag=True, help="Quote each id, all its rows together.")
@click.option("--rows", help="Rows of the first fit, as in 3,7,10-12 [default: all that remain].")
@click.option("--indices", help="The same as --rows, where the model has no ids.")
@click.option(
    "--groups", type=click.Path(), help="File with one group per row, a whole number or text; quoted together."
)
@click.option("-o", "--output", "outputs", multiple=True, type=click.Path(), help="A .parquet, .json or .png file.")
@overwrite_option
@data_option
@data_options
@scheduler_option
def quote(
    model: str,
    epsilon: float,
    delta: float,
    n_steps: int | None,
    noise_std: float | None,
    method: str,
    ids: tuple[str, ...],
    by_id: bool,
    rows: str | None,
    indices: str | None,
    groups: str | None,
    outputs: tuple[str, ...],
    overwrite: bool,
    data: tuple[str, ...],
    **reading: Any,
) -> None:
    """Say what forgetting each record of MODEL would cost.

    Of a model by computed residual, whose claim and noise were fixed by fit: passes over the data, and what is left
    against whoever sees the model before and after, each row by itself or, with --by-id, all rows of an id together.
    Options from --epsilon to --method are those of Langevin models, which quote all rows of a named --id together.
    """
    from expunge.estimators.newton.base import NewtonModel

    for path in outputs:
        check_ending(path, (".parquet", ".json", ".png", ".svg", ".pdf"))
    _check_extras(outputs)
    named = {f"--output {path}": path for path in outputs}
    if len(named) < len(outputs):
        raise ValueError(f"outputs must be different files, got {', '.join(outputs)}")
    places = {f"--data {place}": place for place in data}
    files = Outputs(named, inputs={"MODEL": model, "--groups": groups, **places}, overwrite=overwrite)
    if files.begin() and outputs:
        return
    before = load_model(model)
    if isinstance(before, NewtonModel):
        fixed = f"claim and noise of this {type(before).__name__} were fixed by fit"
        refuse_given(("epsilon", "delta", "n_steps", "noise_std", "method"), f"is for Langevin models: {fixed}")
        refuse_given(
            ("groups",), f"is for Langevin models: rows of a {type(before).__name__} go together by id (--by-id)"
        )
        from expunge.cli.attaching import attach_data
        from expunge.cli.quote_newton import quote_newton

        attach_data(before, model, data, reading, by_position=rows is not None or indices is not None)
        quote_newton(before, ids=ids, rows=rows, indices=indices, by_id=by_id, files=files)
        return
    table, history = table_of(before, model, data, reading), before._require_history()
    known = history.ids if table is None else kind_of_ids(table)
    if table is not None and indices is not None and known is not None:
        raise ValueError("--indices is for models without ids: name people by --id, or positions at fit by --rows")
    n_rows = len(history.design)
    found = before.quote(
        table,
        epsilon=epsilon,
        delta=delta,
        n_steps=30 if n_steps is None and noise_std is None else n_steps,
        noise_std=noise_std,
        method=method,
        ids=[parse_id(known, one) for one in ids] or None,
        groups=None if groups is None else load_ids(groups, n_rows=n_rows),
        by_id=by_id,
        indices=parse_indices(indices),
        rows=parse_indices(rows),
    )
    files.write({name: quote_bytes(found, Path(path).suffix.lower()) for name, path in named.items()})
    for line in _quote_lines(found, fixed_noise=noise_std is not None):
        click.echo(line)
    for path in outputs:
        click.echo(f"written  {path}")


def _quote_lines(found: Quote, *, fixed_noise: bool) -> list[str]:
    values = found.n_steps if fixed_noise else found.noise_std
    what = "unlearning steps" if fixed_noise else "noise per step"
    low, middle, high = (_shown(value) for value in np.quantile(values, [0.05, 0.5, 0.95], method="inverted_cdf"))
    error = f", relative error up to {found.error.max():.1g}" if found.status == "estimate" else ""
    n = len(found)
    lines = [
        f"{n} {found.unit}{'' if n == 1 else 's'}, method {found.method} ({found.status}{error})",
        f"{what}  5% {low}   median {middle}   95% {high}",
    ]
    if (free := int((values == 0).sum())) > 0:
        lines.append(f"{free} {'needs' if free == 1 else 'need'} nothing: the learning noise hides them already")
    if (lost := int((~np.isfinite(found.noise_std)).sum())) > 0:
        lines.append(f"{lost} cannot be hidden by any noise at this target")
    return lines


def _shown(value: float) -> str:
    """Return a noise or a number of steps as a person would write it."""
    if not np.isfinite(value):
        return "impossible"
    return f"{value:.4g}" if value >= 1e-12 or value == 0 else "below 1e-12"
