"""``expunge score``: privacy losses and proxies of every record of a dataset on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from expunge.cli.cluster import connected, scheduler_option

if TYPE_CHECKING:
    from expunge.scoring import ScoreSummary

__all__ = ["score"]

_PICTURES = ("privacy_loss.png", "proxies.png")


@click.command()
@click.argument("source", type=click.Path(path_type=Path), required=False)
@click.option("--checkpoints", type=click.Path(path_type=Path), help="Probe checkpoints (.npz).")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Parquet file to write; with --shard, the folder."
)
@click.option(
    "--shard", metavar="I/K", help="Score share I of K alone, 1/K to K/K, into the folder --out, for --merge."
)
@click.option(
    "--merge",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Put the shards in FOLDER together and rank them; no SOURCE.",
)
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
@scheduler_option
@click.option("--plots", type=click.Path(path_type=Path), help="Folder for pictures of the result.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("--restart", is_flag=True, help="Discard the parts of an unfinished run.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.pass_context
def score(
    context: click.Context,
    source: Path | None,
    checkpoints: Path | None,
    out: Path,
    shard: str | None,
    merge: Path | None,
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
    scheduler: str | None,
    plots: Path | None,
    overwrite: bool,
    restart: bool,
    quiet: bool,
) -> None:
    """Score every record of SOURCE: a .parquet or .npy file, or a folder of shards.

    Writes one row per record: privacy loss (an estimate), proxies, rank. Interrupted runs continue where they stopped.
    Machines that share the work run it with --shard 1/K to K/K, then one of them with --merge.
    """
    from expunge._files.outputs import check_places
    from expunge.scoring import ProbeCheckpoints, merge_shards, score_files, score_shard

    if merge is not None:
        _refuse_unless_default(context)
        summary = merge_shards(merge, out, progress=not quiet, overwrite=overwrite, restart=restart)
        click.echo(_said(summary, "scores merged", "shards were merged before"))
        return
    if source is None or checkpoints is None:
        raise click.UsageError(
            f"{'SOURCE' if source is None else '--checkpoints'} is missing: only --merge does without"
        )
    if shard is not None and plots is not None:
        raise click.UsageError("--plots is for all records: a shard has some of them, and --merge draws nothing")
    pictures = None if plots is None else [plots / name for name in _PICTURES]
    check_places(
        outputs={"--out": out, "a picture": pictures},
        inputs={"--checkpoints": checkpoints, "SOURCE": source, "--labels": labels},
    )
    chosen = orders or (2.0,)
    common: dict[str, Any] = {
        "orders": chosen,
        "features": features or ("features",),
        "label": label,
        "record_id": record_id,
        "labels": labels,
        "append_one": append_one,
        "keep_norms": norms,
        "on_bad_rows": on_bad_rows,
        "rows_per_part": rows_per_part,
        "threads": threads,
        "progress": not quiet,
        "overwrite": overwrite,
        "restart": restart,
    }
    if scheduler is not None and (shard is not None or threads is not None):
        other = "--shard" if shard is not None else "--threads"
        raise click.UsageError(f"{other} must be omitted with --scheduler, which shares the work out by itself")
    probe = ProbeCheckpoints.load(checkpoints)
    if scheduler is not None:
        summary = score_files(source, probe, out, engine=connected(scheduler), **common)
    elif shard is not None:
        number, n_shards = _share(shard)
        summary = score_shard(source, probe, out, shard=number, n_shards=n_shards, **common)
    else:
        summary = score_files(source, probe, out, **common)
    if plots is not None:
        _draw(out, chosen[0], plots)
    click.echo(_said(summary, "records scored", "parts from an earlier run"))


_OF_MERGE = ("merge", "out", "overwrite", "restart", "quiet")


def _refuse_unless_default(context: click.Context) -> None:
    for one in context.command.params:
        given = context.get_parameter_source(one.name or "") is click.core.ParameterSource.COMMANDLINE
        if one.name not in _OF_MERGE and given and context.params[one.name or ""] is not None:
            name = one.opts[0] if isinstance(one, click.Option) else "SOURCE"
            raise click.UsageError(f"{name} is for scoring: --merge takes the settings of the shards")


def _share(text: str) -> tuple[int, int]:
    number, slash, n_shards = text.partition("/")
    if not (slash and number.isdecimal() and n_shards.isdecimal()):
        raise click.UsageError(f"--shard must be I/K, such as 3/16, got {text!r}")
    return int(number), int(n_shards)


def _said(summary: ScoreSummary, what: str, resumed: str) -> str:
    text = f"{summary.rows:,} {what} (estimates)"
    if summary.bad_rows:
        text += f", {summary.bad_rows:,} bad rows written as null"
    if summary.resumed_parts:
        text += f", {summary.resumed_parts} of {summary.parts} {resumed}"
    return f"{text}: {summary.path}"


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
