"""``expunge demo``: the whole story on scikit-learn's digits, in under a minute."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path

import click

from expunge.cli.files import overwrite_option
from expunge.cli.outputs import Outputs

__all__ = ["demo"]


@click.command()
@click.option("-o", "--output", type=click.Path(), default="demo-output", show_default=True, help="Folder of results.")
@overwrite_option
def demo(output: str, overwrite: bool) -> None:
    """Learn the digits, ask what forgetting each would cost, forget one and prove it."""
    from expunge.cli.story import tell

    started = time.monotonic()
    folder = Path(output)
    has_parquet, has_plot = find_spec("pyarrow") is not None, find_spec("matplotlib") is not None
    quotes_name = "quotes.parquet" if has_parquet else "quotes.json"
    names = [quotes_name, "certificate.json", "model.npz", "released.npz", "training.npz"]
    if has_plot:
        names.append("noise.png")
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        outputs = Outputs({name: str(folder / name) for name in names}, inputs={}, overwrite=overwrite)
        if outputs.begin():
            return
        tell(folder, outputs, quotes_name, has_plot=has_plot, started=started)
    except BaseException:
        if made and not any(folder.iterdir()):
            folder.rmdir()
        raise
