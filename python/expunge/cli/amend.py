"""``expunge amend`` and ``expunge add``: records corrected, and records that come later."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from expunge._errors import counted
from expunge.cli.agreeing import agreed_noise_options, places_of_noise, with_noise_of
from expunge.cli.attaching import attach_data, data_option, places_of, say_rows_left, wanted_of_table
from expunge.cli.files import load_model, overwrite_option
from expunge.cli.newton import Records, Wanted, apply, holds_no_rows, outputs_of, records_of, say_release
from expunge.cli.options import ask_password_option, key_option, signing_key
from expunge.cli.reading import Records as Table
from expunge.cli.reading import data_options, known_from
from expunge.cli.streaming import read_data_or_table
from expunge.cli.succession import branch_option
from expunge.data import open_records

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from expunge.cli.files import Newton
    from expunge.cli.outputs import Outputs
    from expunge.estimators import Updated

__all__ = ["add", "amend"]

_OTHERS = ("output", "certificate", "evidence", "released", "key", "ask_password", "ledger_path", "branch", "overwrite",
           "agreement", "seeds", "data")  # fmt: skip
_GOES_ON = (
    "the rows of {table} are records of the model now: put them into its table, or name {table} by a further --data"
)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what both commands have in common."""
    options: list[Callable[[Callable[..., Any]], Callable[..., Any]]] = [
        click.option(
            "-o", "--output", required=True, type=click.Path(), help="Where the new working model goes (.npz)."
        ),
        click.option(
            "-c", "--certificate", required=True, type=click.Path(), help="Where the certificate goes (.json)."
        ),
        click.option("--evidence", type=click.Path(), help="Where the confidential evidence goes (.npz)."),
        click.option("--released", type=click.Path(), help="Also write the predict-only model there (.npz)."),
        data_option,
        data_options,
        key_option,
        ask_password_option,
        click.option("--ledger", "ledger_path", type=click.Path(), help="Enter the change in this ledger."),
        branch_option,
        overwrite_option,
        agreed_noise_options,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("model", type=click.Path())
@click.argument("table", type=click.Path())
@click.option("--request", "number", help="Number under which the request is filed, for the ledger.")
@click.option("--request-date", "date", help="When it was made, as in 2026-03-01, for the ledger.")
@_options
def amend(model: str, table: str, number: str | None, date: str | None, **options: Any) -> None:
    """Replace records of MODEL by corrected ones and certify that the old ones are forgotten.

    TABLE holds the corrected rows, whole, with their ids, as the data of fit did: all rows of an id, in their order.
    Models without ids number their records from 0: name a column of these by --id-column. TABLE is read as that of fit.
    """
    from expunge.ledger import DeletionRequest

    outputs = _outputs(model, table, options)
    if _recovered(outputs, options):
        return
    before = _newton(model, options)
    records, y = _read(table, before, options)
    if records.ids is None:
        raise ValueError("--id-column must name the column of TABLE that says whose records are corrected")
    where = _positions(before, records.ids, table)
    order = np.argsort(where, kind="stable")
    rows, X, answers = where[order], records.X[order], y[order]
    weights = None if records.weights is None else records.weights[order]
    requests = [DeletionRequest(one, number, date) for one in dict.fromkeys(records.ids.tolist())]
    if holds_no_rows(before):
        known = _weights(before)
        kept = known[rows] if weights is None and known is not None else weights  # as `amend` keeps them
        names = records.ids[order]
        corrected = open_records(X, target=answers, ids=names)
        wanted = wanted_of_table(
            before,
            "amend",
            lambda: before.amend(rows=rows, X=corrected, sample_weight=kept),
            gone=rows,
            new=(X, answers, names, kept),
            requests=requests,
        )
        left = places_of(before, rows), len(rows)
        _apply(model, before, wanted, outputs, options)
        say_rows_left(*left)
        click.echo(_GOES_ON.format(table=table))
        return
    now = records_of(before)
    kept = now.rows.take(rows).weights if weights is None else weights  # as `amend` keeps them
    replaced = now.rows.then(before._rows(X, before._new_answers(answers, len(X)), kept))
    places = np.arange(len(now.rows))
    places[rows] = len(places) + np.arange(len(rows))
    wanted = Wanted(
        "amend",
        _unnamed(before, lambda: before.amend(rows=rows, X=X, y=answers, sample_weight=weights)),
        Records(now.ids, replaced.take(places)).are_of,
        requests,
    )
    _apply(model, before, wanted, outputs, options)


@click.command()
@click.argument("model", type=click.Path())
@click.argument("table", type=click.Path())
@_options
def add(model: str, table: str, **options: Any) -> None:
    """Add the records of TABLE to MODEL and certify the release.

    TABLE is a file as the data of fit were, and is read as they were. Ids must be given where fit had some, and only
    there: without, numbers go on.
    """
    outputs = _outputs(model, table, options)
    if _recovered(outputs, options):
        return
    before = _newton(model, options)
    records, y = _read(table, before, options)
    numbered = before._next_number >= 0
    if numbered != (records.ids is None):
        raise ValueError(
            "--id-column must be omitted: this model numbers its records"
            if numbered
            else "--id-column must be given: the records of this model have ids"
        )
    ids, k = before.ids_, len(records.X)
    if records.ids is not None and (records.ids.dtype.kind == "U") != (ids.dtype.kind == "U"):
        kind = "text" if ids.dtype.kind == "U" else "whole numbers"
        raise ValueError(f"{table}: ids must be {kind}, as those of this model, got {records.ids[0]!r}")
    if records.weights is None and _weights(before) is not None:
        raise ValueError("--weight-column must be given: the records of this model have weights")
    names = before._new_ids(records.ids, k)
    if holds_no_rows(before):
        new = open_records(records.X, target=y, ids=records.ids)
        wanted = wanted_of_table(
            before,
            "add",
            lambda: before.add(new, sample_weight=records.weights),
            new=(records.X, y, names, records.weights),
        )
        _apply(model, before, wanted, outputs, options)
        click.echo(_GOES_ON.format(table=table))
        return
    now = records_of(before)
    rows = now.rows.then(before._rows(records.X, before._new_answers(y, k), records.weights))
    wanted = Wanted(
        "add",
        _unnamed(before, lambda: before.add(records.X, y, records.ids, sample_weight=records.weights)),
        Records(np.concatenate([now.ids, names]), rows).are_of,
    )
    _apply(model, before, wanted, outputs, options)


def _outputs(model: str, table: str, options: dict[str, Any]) -> Outputs:
    inputs = {name: options[name.lstrip("-")] for name in ("--key", "--target", "--bounds")}
    inputs |= places_of_noise(options["agreement"], options["seeds"])
    return outputs_of(
        **{name: options[name] for name in ("output", "certificate", "evidence", "released", "overwrite")},
        inputs={"MODEL": model, "TABLE": table, **inputs, **{f"--data {place}": place for place in options["data"]}},
        ledger=options["ledger_path"],
    )


def _recovered(outputs: Outputs, options: dict[str, Any]) -> bool:
    """Return whether this very call had been decided before, and is complete now."""
    from expunge.certificates.residual import ResidualCertificate

    if not outputs.recover():
        return False
    click.echo("finished what an earlier call had begun")
    say_release(ResidualCertificate.load(options["certificate"]), outputs, ledger=options["ledger_path"])
    return True


def _weights(model: Newton) -> NDArray[np.float64] | None:
    if holds_no_rows(model):
        return model._state.objective.blocks.weights()  # type: ignore[attr-defined, no-any-return]
    return records_of(model).rows.weights


def _newton(path: str, options: dict[str, Any]) -> Newton:
    from expunge.estimators.newton.base import NewtonModel

    model = load_model(path)
    if not isinstance(model, NewtonModel):
        raise ValueError(
            f"{path}: a {type(model).__name__} can only forget: fit with --model logistic, softmax or ridge to correct "
            "and add records"
        )
    attach_data(model, path, options["data"], {**_reading(options), "target": None}, another=True)
    return with_noise_of(model, **{name: options[name] for name in ("agreement", "seeds", "evidence")})


def _reading(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that say how data are read."""
    return {name: value for name, value in options.items() if name not in _OTHERS}


def _read(table: str, before: Newton, options: dict[str, Any]) -> tuple[Table, NDArray[Any]]:
    """Return the records of a table and their answers, as a model takes them."""
    records, task = read_data_or_table(
        table,
        stream=False,
        task="classify" if hasattr(before, "classes_") else "regress",
        needs_ids=True,
        with_weights=True,
        **known_from(before),
        **{name: value for name, value in _reading(options).items() if name != "stream"},
    )
    assert isinstance(records, Table)  # in memory
    for condition in records.conditions:
        if condition not in before.conditions_:
            raise ValueError(f"{table}: must be read as the data of fit were, not so that {condition}")
    needed, got = before.n_features_in_, records.X.shape[1]
    if needed != got:
        raise ValueError(
            f"{table}: the model takes {needed} features, got {got}: choose by --features, --drop, --target-column"
        )
    return records, task.y


def _unnamed(before: Newton, make: Callable[[], Updated[Any]]) -> Callable[[], Updated[Any]]:
    """Return a change by columns in order, of a model that would ask for a table with their names."""

    def change() -> Updated[Any]:
        names = before.__dict__.pop("feature_names_in_", None)
        result = make()
        if names is not None:
            before.feature_names_in_, result.model.feature_names_in_ = names, names.copy()
        return result

    return change


def _positions(before: Newton, ids: NDArray[Any], table: str) -> NDArray[np.int64]:
    """Return for each row of a table the position of the record that it corrects: the rows of an id in their order."""
    known = before.ids_
    if (ids.dtype.kind == "U") != (known.dtype.kind == "U"):
        kind = "text" if known.dtype.kind == "U" else "whole numbers"
        raise ValueError(f"{table}: ids must be {kind}, as those of this model, got {ids[0]!r}")
    places: defaultdict[int | str, list[int]] = defaultdict(list)
    asked = Counter(ids.tolist())
    for place, one in enumerate(known.tolist()):
        if one in asked:
            places[one].append(place)
    for one, count in asked.items():
        if one not in places:
            raise ValueError(f"{table}: ids must be those of records in the model, got {one!r}, which none has")
        if count != len(places[one]):
            raise ValueError(
                f"{table}: must hold all rows of an id, in their order, got {count} of the "
                f"{counted(len(places[one]), 'row')} of {one!r}"
            )
    left = {one: iter(found) for one, found in places.items()}
    return np.array([next(left[one]) for one in ids.tolist()], dtype=np.int64)


def _apply(model: str, before: Newton, wanted: Wanted, outputs: Outputs, options: dict[str, Any]) -> None:
    key = signing_key(options["key"], ask_password=options["ask_password"])
    apply(
        before,
        wanted,
        model=model,
        branch=options["branch"],
        outputs=outputs,
        key=key,
        ledger=options["ledger_path"],
        overwrite=options["overwrite"],
    )
