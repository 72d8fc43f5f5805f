"""``expunge demo``: a customer who leaves, then handwritten digits by noisy steps; in under a minute."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path

import click

from expunge.cli.files import overwrite_option
from expunge.cli.outputs import Outputs

__all__ = ["demo"]

_FIRST = (
    "bounds.csv", "customers.csv", "customers-now.csv", "model.npz", "certificate.json", "evidence.npz", "released.npz",
    "absence.json", "deletions.ledger", "report.html",
)  # fmt: skip
_SECOND = ("digits-certificate.json", "digits-model.npz", "digits-released.npz", "digits-training.npz")


@click.command()
@click.option("-o", "--output", type=click.Path(), default="demo-output", show_default=True, help="Folder of results.")
@overwrite_option
def demo(output: str, overwrite: bool) -> None:
    """Forget a customer and prove it without the customer; then what each digit would take."""
    started = time.monotonic()
    folder = Path(output)
    has_parquet, has_plot = find_spec("pyarrow") is not None, find_spec("matplotlib") is not None
    quotes_name = "digits-quotes.parquet" if has_parquet else "digits-quotes.json"
    names = [*_FIRST, *_SECOND, quotes_name]
    if has_plot:
        names += ["customers.png", "digits.png"]
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        outputs = Outputs({name: str(folder / name) for name in names}, inputs={}, overwrite=overwrite)
        if outputs.begin():
            return
        tell(outputs, folder, quotes_name, has_plot=has_plot, started=started)
    except BaseException:
        if made and not any(folder.iterdir()):
            folder.rmdir()
        raise


def tell(outputs: Outputs, folder: Path, quotes_name: str, *, has_plot: bool, started: float) -> None:
    """Tell both stories and write their files, all or none."""
    from expunge._errors import how_to_install
    from expunge._files import PUBLIC
    from expunge.cli.story import tell_customers
    from expunge.cli.story_digits import tell_digits

    contents = tell_customers(has_plot=has_plot)
    click.echo("")
    contents |= tell_digits(quotes_name, has_plot=has_plot)
    public = ("certificate.json", "released.npz", "digits-released.npz", "bounds.csv")
    outputs.write(contents, modes=dict.fromkeys(public, PUBLIC))
    click.echo("")
    if has_plot:
        click.echo(f"The pictures         {folder / 'customers.png'}, {folder / 'digits.png'}")
    else:
        click.echo(f"For the pictures     {how_to_install('plot')}")
    click.echo(f"The auditor's page   {folder / 'report.html'}")
    click.echo("Check it yourself, without the customer:")
    click.echo(
        f"  expunge verify {folder / 'certificate.json'} {folder / 'customers-now.csv'} "
        f"--evidence {folder / 'evidence.npz'} --model {folder / 'released.npz'}"
    )
    click.echo(f"  expunge absence {folder / 'certificate.json'} {folder / 'absence.json'}")
    click.echo(
        f"  expunge verify {folder / 'digits-certificate.json'} {folder / 'digits-training.npz'} "
        f"--model {folder / 'digits-released.npz'}"
    )
    click.echo(f"Took {time.monotonic() - started:.0f} s.")
