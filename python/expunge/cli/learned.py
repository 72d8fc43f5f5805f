"""Words about a model that has just been learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import numpy as np

from expunge._errors import counted
from expunge.cli.streaming import Streamed
from expunge.data import open_records

if TYPE_CHECKING:
    from expunge.cli.files import Working
    from expunge.cli.reading import Records
    from expunge.data import Records as Table
    from expunge.data import Task

__all__ = ["say_learned"]


def say_learned(model: Working, records: Records | Streamed, found: Task, how: str) -> None:
    """Print what was learned from, and how well; then let the model keep how its table was read."""
    if isinstance(records, Streamed):
        n, d = records.table.n_records, records.table.n_features
        score, people = _seen(model, records.table)
    else:
        score = model.score(records.X, found.y)
        (n, d), ids = records.X.shape, records.ids
        people = None if ids is None else len(set(ids.tolist()))
    if records.names is not None:
        # As if fitted with a table: predict and evaluate find their columns by name.
        model.feature_names_in_ = np.array(records.names, dtype=object)
    model._reading = records.reading
    about = "" if people is None else f" about {counted(people, 'id')}"
    click.echo(f"learned from {counted(n, 'record')}{about} of {counted(d, 'feature')} {how}")
    click.echo(f"{'training accuracy' if found.classify else 'training R^2'}  {score:.3f}")


def _seen(model: Working, table: Table) -> tuple[float, int | None]:
    """Return the score of a model on its table and the number of ids in it, None for none, in one pass."""
    from sklearn.metrics import accuracy_score, r2_score

    y, found, ids = [], [], set[int | str]()
    for block in table.blocks():
        assert block.y is not None  # as it was learned from
        y.append(block.y)
        found.append(model.predict(open_records(block.X)))  # a table, whose names nobody asks for
        ids.update(() if block.ids is None else block.ids.tolist())
    score = accuracy_score if hasattr(model, "classes_") else r2_score
    return float(score(np.concatenate(y), np.concatenate(found))), len(ids) if table.has_ids else None
