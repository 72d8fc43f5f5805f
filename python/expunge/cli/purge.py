"""``expunge purge``: working models on the disk without what they hold of deleted records."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from expunge._errors import counted
from expunge._files.destroying import destroy, overwriting
from expunge._files.transaction import Change, exclusive
from expunge.cli.files import load_model
from expunge.cli.newton import holds_no_rows
from expunge.cli.options import given_options
from expunge.cli.reading import data_options
from expunge.cli.succession import note_path

if TYPE_CHECKING:
    from expunge.cli.files import Working

__all__ = ["purge"]

_ELSEWHERE = (
    "copies, backups, snapshots and blocks that a solid-state disk has put aside are beyond this command, and so are "
    "the data and the certificates"
)


@click.command()
@click.argument("model", type=click.Path())
@click.option("--successor", type=click.Path(), help="Destroy MODEL: the deletion since then led to this model.")
@click.option("--data", help="Of a model of a table: that table, some rows of which the model forgot.")
@click.option("--rewrite", type=click.Path(), help="Write the table there without them: a new folder or file.")
@click.option("--id", "ids", multiple=True, help="With --rewrite: an id whose rows are left out; repeat for several.")
@click.option("--others", is_flag=True, help="With --rewrite: leave out every row that is no record of MODEL.")
@data_options
def purge(
    model: str,
    successor: str | None,
    data: str | None,
    rewrite: str | None,
    ids: tuple[str, ...],
    others: bool,
    **reading: Any,
) -> None:
    """Rewrite MODEL without the rows of deleted records, and overwrite the old file.

    Files of earlier versions of this library hold deleted rows; the exact law of the run takes their place, from which
    further deletions are certified. With --successor, MODEL is from before a deletion: it is overwritten and removed.

    A model of a table holds no row. With --data and --rewrite its table is written without the rows of deleted records
    (--id) or of all that are no records of MODEL (--others), to a new place, whole or not at all; the old one stays.
    """
    from expunge.estimators._storage import working_bytes
    from expunge.estimators.newton.base import NewtonModel

    if (data is None) != (rewrite is None):
        raise ValueError("--data and --rewrite go together: the table that is read, and where the new one goes")
    if data is None:
        for option in given_options(("ids", "others", *reading)):
            raise ValueError(f"{option} goes with --data and --rewrite")
    elif successor is not None:
        raise ValueError("--successor destroys MODEL, --rewrite writes its table: call twice, --rewrite first")
    before = load_model(model)
    if data is not None and rewrite is not None:
        from expunge.cli.rewriting import rewrite_table

        if not holds_no_rows(before):
            raise ValueError(f"--data is for models of tables: a {type(before).__name__} of rows holds its data")
        rewrite_table(before, model, data, rewrite, ids=ids, others=others, reading=reading)
        goes = "destroy it, and what was made of it (copies, backups, snapshots)"
        if not isinstance(before, NewtonModel):
            goes = f"certificates of deletions are verified on it; once they need not be any more, {goes}"
        click.echo(f"note  {data} still holds them: {goes}")
        return
    if successor is not None:
        if os.path.samefile(model, successor):
            raise ValueError(f"--successor ({successor}) must not be MODEL itself")
        _check_successor(model, before, successor, load_model(successor))
        with exclusive([model]):
            destroy(model)
            note_path(model).unlink(missing_ok=True)
        click.echo(f"destroyed  {model}  ({successor} goes on)")
        click.echo(f"note  {_ELSEWHERE}")
        return
    later = "what was deleted in later models is in it, see --successor"
    if isinstance(before, NewtonModel):
        what = (
            "hashes of the data as they now stand, and no row"
            if holds_no_rows(before)
            else "the data as they now stand"
        )
        click.echo(f"nothing to do  {model}  (a {type(before).__name__} holds {what}; {later})")
        return
    history = before._require_history()
    gone = counted(len(history.removed), "deleted row")
    if history.law is not None or not history.removed:
        click.echo(
            f"nothing to do  {model}  ({f'without {gone}' if history.removed else 'nothing was deleted'}; {later})"
        )
        return
    content = working_bytes(before.purge())
    with exclusive([model]) as session, overwriting(model):
        session.commit([Change(model, content, replace=True)], word="")
    click.echo(f"purged  {model}  ({gone} gone, the law of the run kept)")
    click.echo(f"note  {_ELSEWHERE}")


def _check_successor(old: str, before: Working, new: str, after: Working) -> None:
    """Refuse to destroy a model unless the other one goes on from it, without rows deleted since."""
    from expunge.estimators.newton.base import NewtonModel

    other = f"--successor ({new}) must be a model of the same run as {old}, later in it; got another run"
    if type(before) is not type(after) or before.ledger_salt_ != after.ledger_salt_:
        raise ValueError(other)
    earlier = f"--successor ({new}) must be from after a deletion that {old} has not had, got no later one"
    if isinstance(before, NewtonModel) or isinstance(after, NewtonModel):
        if not after.releases_left_ < before.releases_left_:
            raise ValueError(earlier)
        return
    first, last = before._require_history(), after._require_history()
    if last.phases[: len(first.phases)] != first.phases:
        raise ValueError(other)
    if len(last.phases) == len(first.phases):
        raise ValueError(earlier)
    if last.law is None:
        raise ValueError(f"--successor ({new}) must not hold deleted rows itself: expunge purge {new} first")
