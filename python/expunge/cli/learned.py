"""Words about a model that has just been learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import numpy as np

from expunge._errors import counted
from expunge.cli.streaming import Streamed

if TYPE_CHECKING:
    from expunge.cli.files import Working
    from expunge.cli.reading import Records
    from expunge.data import Task

__all__ = ["say_learned"]


def say_learned(model: Working, records: Records | Streamed, found: Task, how: str) -> None:
    """Print what was learned from, and how well; then let the model keep how its table was read."""
    if isinstance(records, Streamed):
        score = model.score(records.table)
        n, d, ids = records.table.n_records, records.table.n_features, model.ids_ if records.table.has_ids else None
    else:
        score = model.score(records.X, found.y)
        (n, d), ids = records.X.shape, records.ids
    if records.names is not None:
        # As if fitted with a table: predict and evaluate find their columns by name.
        model.feature_names_in_ = np.array(records.names, dtype=object)
    model._reading = records.reading
    people = "" if ids is None else f" about {counted(len(set(ids.tolist())), 'id')}"
    click.echo(f"learned from {counted(n, 'record')}{people} of {counted(d, 'feature')} {how}")
    click.echo(f"{'training accuracy' if found.classify else 'training R^2'}  {score:.3f}")
