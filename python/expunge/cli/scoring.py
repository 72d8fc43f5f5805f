"""``expunge score``: privacy losses and proxies of every record of a dataset on disk."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["score"]

_PICTURES = ("privacy_loss.png", "proxies.png")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--checkpoints", required=True, type=click.Path(path_type=Path), help="Probe checkpoints (.npz).")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Parquet file to write.")
@click.option("--order", "orders", multiple=True, type=float, help="Renyi order; repeat for several.  [default: 2]")
@click.option("--features", multiple=True, help="Feature column(s) of a Parquet file.  [default: features]")
@click.option("--label", default="label", show_default=True, help="Label column of a Parquet file.")
@click.option("--record-id", help="Column that identifies a record.  [default: row number]")
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="Labels of .npy data: a .npy file (of all rows, for shards), or a folder with one for each shard.",
)
@click.option("--append-one", is_flag=True, help="Append a constant feature 1.")
@click.option("--norms", is_flag=True, help="Also write the gradient norm at every checkpoint.")
@click.option("--on-bad-rows", type=click.Choice(["stop", "null"]), default="stop", show_default=True)
@click.option(
    "--rows-per-part", type=int, default=65_536, show_default=True, help="Rows saved at a time, for .npy data."
)
@click.option("--threads", type=int, help="Cores to use.  [default: all]")
@click.option("--plots", type=click.Path(path_type=Path), help="Folder for pictures of the result.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("--restart", is_flag=True, help="Discard the parts of an unfinished run.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def score(
    source: Path,
    checkpoints: Path,
    out: Path,
    orders: tuple[float, ...],
    features: tuple[str, ...],
    label: str,
    record_id: str | None,
    labels: Path | None,
    append_one: bool,
    norms: bool,
    on_bad_rows: str,
    rows_per_part: int,
    threads: int | None,
    plots: Path | None,
    overwrite: bool,
    restart: bool,
    quiet: bool,
) -> None:
    """Score every record of SOURCE: a .parquet or .npy file, or a folder of shards.

    Writes one row per record: privacy loss (an estimate), proxies, rank. Interrupted runs continue where they stopped.
    """
    from expunge._files.outputs import check_places
    from expunge.scoring import ProbeCheckpoints, score_files

    pictures = None if plots is None else [plots / name for name in _PICTURES]
    check_places(
        outputs={"--out": out, "a picture": pictures},
        inputs={"--checkpoints": checkpoints, "SOURCE": source, "--labels": labels},
    )
    chosen = orders or (2.0,)
    summary = score_files(
        source,
        ProbeCheckpoints.load(checkpoints),
        out,
        orders=chosen,
        features=features or ("features",),
        label=label,
        record_id=record_id,
        labels=labels,
        append_one=append_one,
        keep_norms=norms,
        on_bad_rows=on_bad_rows,
        rows_per_part=rows_per_part,
        threads=threads,
        progress=not quiet,
        overwrite=overwrite,
        restart=restart,
    )
    if plots is not None:
        _draw(out, chosen[0], plots)
    text = f"{summary.rows:,} records scored (estimates)"
    if summary.bad_rows:
        text += f", {summary.bad_rows:,} bad rows written as null"
    if summary.resumed_parts:
        text += f", {summary.resumed_parts} of {summary.parts} parts from an earlier run"
    click.echo(f"{text}: {summary.path}")


def _draw(out: Path, order: float, folder: Path) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    from expunge.scoring import plot_loss_against_proxies, plot_loss_distribution
    from expunge.scoring.measures import loss_name, proxy_names

    names = pq.read_schema(out).names
    proxies = [name for name in proxy_names("softmax") if name in names]
    table = pq.read_table(out, columns=[loss_name(order), *proxies]).drop_null()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    losses = table.column(0).to_numpy()
    if not (np.isfinite(losses) & (losses > 0)).any():
        click.echo("no pictures: every privacy loss is 0 or infinite")
        return
    plot_loss_distribution(losses, order=order, path=folder / _PICTURES[0])
    plot_loss_against_proxies(
        losses, {name: table.column(name).to_numpy() for name in proxies}, order=order, path=folder / _PICTURES[1]
    )
