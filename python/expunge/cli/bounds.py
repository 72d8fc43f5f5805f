"""``expunge bounds``: a draft of the bounds that features are scaled with."""

from __future__ import annotations

import warnings
from typing import Any

import click
import numpy as np

from expunge.cli.files import overwrite_option
from expunge.cli.options import check_ending
from expunge.cli.outputs import Outputs
from expunge.cli.reading import data_options
from expunge.cli.streaming import Streamed, read_records_or_table
from expunge.data.writing import csv_bytes

__all__ = ["bounds"]


@click.command()
@click.argument("data")
@click.option("-o", "--output", required=True, type=click.Path(), help="Where the table goes (.csv).")
@data_options
@overwrite_option
def bounds(data: str, output: str, overwrite: bool, **reading: Any) -> None:
    """Write the smallest and largest values of DATA's features, to be replaced by bounds that you know.

    Bounds taken from the data depend on every record, including one deleted later: certificates are then conditional.
    Put the limits you know in their place, and remove the column "source".
    """
    from expunge.data.scaling import ConstantScaler

    check_ending(output, (".csv",))
    inputs = {"DATA": data, "--target": reading["target"], "--bounds": reading["bounds"]}
    outputs = Outputs({"--output": output}, inputs=inputs, overwrite=overwrite)
    if outputs.begin():
        return
    if reading["bounds"] is not None:
        raise ValueError("--bounds does not apply to bounds")
    records = read_records_or_table(data, **reading)
    if isinstance(records, Streamed):
        ends = [np.stack([block.X.min(axis=0), block.X.max(axis=0)]) for block in records.table.blocks()]
        X = np.concatenate(ends).astype(np.float64)  # two rows of each block
    else:
        X = records.X
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said below, and in the file
        scaler = ConstantScaler.from_data(X)
    names = records.names or tuple(map(str, range(X.shape[1])))
    limits = np.column_stack([scaler.low, scaler.high]).tolist()
    rows = ([name, *limit, "data"] for name, limit in zip(names, limits, strict=True))
    outputs.write({"--output": csv_bytes(["feature", "low", "high", "source"], rows)})
    click.echo(f"bounds of {len(names)} features  {output}")
    click.echo("They depend on every record in the data. Replace them by limits you know; remove the column source.")
