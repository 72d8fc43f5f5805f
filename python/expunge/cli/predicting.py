"""``expunge predict`` and ``expunge evaluate``: a model, working or released, on data."""

from __future__ import annotations

from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from expunge._errors import counted
from expunge.cli.files import load_model, overwrite_option
from expunge.cli.options import check_ending
from expunge.cli.outputs import Outputs
from expunge.cli.reading import Records, data_options, known_from
from expunge.cli.streaming import Streamed, read_data_or_table, read_records_or_table
from expunge.data.writing import csv_bytes

__all__ = ["evaluate", "predict"]


def _model(path: str) -> tuple[Any, dict[str, Any]]:
    """Return a model that takes arrays, and what it knows of tables."""
    model = load_model(path, released=True)
    known = known_from(model)
    if hasattr(model, "feature_names_in_"):
        del model.feature_names_in_  # columns are put in their order here; scikit-learn would ask for a DataFrame
    return model, known


def _check_width(model: Any, records: Records | Streamed, source: str) -> None:
    got = records.table.n_features if isinstance(records, Streamed) else records.X.shape[1]
    needed = int(model.n_features_in_)
    if needed != got:
        raise ValueError(
            f"{source}: the model takes {needed} features, got {got}: choose by --features, --drop, --target-column"
        )


@click.command()
@click.argument("model", type=click.Path())
@click.argument("data")
@click.option("-o", "--output", required=True, type=click.Path(), help="Where the predictions go (.csv).")
@data_options
@overwrite_option
def predict(model: str, data: str, output: str, overwrite: bool, **reading: Any) -> None:
    """Write what MODEL, working or released, predicts for each row of DATA.

    DATA is read as the table of fit was: its columns, --divide-by, --bounds and --cosine-features are in the model.
    Targets are not needed.
    """
    check_ending(output, (".csv",))
    inputs = {"MODEL": model, "DATA": data, "--target": reading["target"], "--bounds": reading["bounds"]}
    outputs = Outputs({"--output": output}, inputs=inputs, overwrite=overwrite)
    if outputs.begin():
        return
    fitted, known = _model(model)
    records = read_records_or_table(data, with_target=False, **known, **reading)
    _check_width(fitted, records, data)
    found, _, ids = _predicted(fitted, records)
    outputs.write({"--output": _table(found, ids, reading["id_column"] or records.reading.id_column)})
    click.echo(f"{counted(len(found), 'prediction')}  {output}")


def _predicted(
    model: Any, records: Records | Streamed
) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
    """Return predictions, and targets and ids as they were read; of a table in one pass."""
    if not isinstance(records, Streamed):
        return model.predict(records.X), records.y, records.ids
    parts = [(model.predict(block.X), block.y, block.ids) for block in records.table.blocks()]
    columns = (None if column[0] is None else np.concatenate(column) for column in zip(*parts, strict=True))
    found, y, ids = columns
    assert found is not None  # a table has records
    return found, y, ids


def _table(found: NDArray[Any], ids: NDArray[Any] | None, id_name: str | int | None) -> bytes:
    several = found.ndim == 2
    names = [f"prediction_{j}" for j in range(found.shape[1])] if several else ["prediction"]
    header = [str(id_name) if ids is not None else "row", *names]
    keys = range(len(found)) if ids is None else ids.tolist()
    rows = found.tolist() if several else [[value] for value in found.tolist()]
    return csv_bytes(header, ([key, *row] for key, row in zip(keys, rows, strict=True)))


@click.command()
@click.argument("model", type=click.Path())
@click.argument("data")
@data_options
def evaluate(model: str, data: str, **reading: Any) -> None:
    """Say how well MODEL, working or released, predicts the targets of DATA: accuracy, in all and by class, or R^2."""
    if reading["weight_column"] is not None:
        raise ValueError(
            "--weight-column must be omitted: every record counts once here; leave the column out by --drop"
        )
    fitted, known = _model(model)
    classes = getattr(fitted, "classes_", None)
    records, task = read_data_or_table(
        data, task="regress" if classes is None else "classify", told=True, **known, **reading
    )
    _check_width(fitted, records, data)
    found, targets, _ = _predicted(fitted, records)
    y = np.asarray(targets) if isinstance(records, Streamed) else task.y
    for line in _errors(y, found) if classes is None else _accuracies(y, found, classes):
        click.echo(line)


def _accuracies(y: NDArray[Any], found: NDArray[Any], classes: NDArray[Any]) -> list[str]:
    if (y.dtype.kind in "iu") != (np.asarray(classes.tolist()).dtype.kind in "iufb"):
        raise ValueError(
            f"the model's classes are {_some(classes)}, the data's are {_some(np.unique(y))}: "
            "is this the column of targets?"
        )
    right = found == y
    width = max(len(str(name)) for name in ("class", *np.unique(y).tolist()))
    lines = [f"accuracy {right.mean():.3f} on {len(y):,} records", f"  {'class':<{width}}  records  accuracy"]
    lines += [
        f"  {name!s:<{width}}  {int((y == name).sum()):7,d}  {right[y == name].mean():8.3f}"
        for name in np.unique(y).tolist()
    ]
    if (unknown := int((~np.isin(y, np.asarray(classes.tolist()))).sum())) > 0:
        lines.append(f"{unknown:,} records are of classes that the model does not know; they count as wrong")
    return lines


def _some(classes: NDArray[Any]) -> str:
    return ", ".join(map(repr, classes[:5].tolist())) + (", ..." if len(classes) > 5 else "")


def _errors(y: NDArray[Any], found: NDArray[Any]) -> list[str]:
    if y.shape != found.shape:
        raise ValueError(f"the model predicts shape {found.shape}, the data's targets have shape {y.shape}")
    wrong = (found - y).reshape(len(y), -1)
    spread = (y - y.mean(axis=0)).reshape(len(y), -1)
    total = (spread**2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        explained = 1 - (wrong**2).sum(axis=0) / total
    shown = [
        f"{value:.3f}" if whole > 0 else "undefined (all targets are equal)"
        for value, whole in zip(explained, total, strict=True)
    ]
    return [
        f"R^2 {', '.join(shown)} on {len(y):,} records",
        f"typical error (root mean square) {', '.join(f'{value:.4g}' for value in np.sqrt((wrong**2).mean(axis=0)))}",
    ]
