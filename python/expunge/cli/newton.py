"""Releases of Newton models: what ``fit``, ``unlearn``, ``amend`` and ``add`` write, and when it is written already."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from expunge._errors import counted
from expunge._files import PUBLIC
from expunge._files.transaction import Change
from expunge.cli.entering import check_next, is_entered, is_signed
from expunge.cli.files import load_evidence, load_model, model_digests
from expunge.cli.options import check_ending
from expunge.cli.outputs import Outputs
from expunge.cli.succession import check_first, note_bytes, note_path

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from expunge.certificates.residual import ResidualCertificate
    from expunge.cli.files import Newton, Working
    from expunge.estimators import Updated
    from expunge.ledger import DeletionRequest
    from expunge.runs.residual import Rows

__all__ = [
    "Records",
    "Wanted",
    "apply",
    "holds_no_rows",
    "outputs_of",
    "records_of",
    "say_release",
    "write_release",
]


def outputs_of(
    *,
    output: str | None,
    certificate: str | None,
    evidence: str | None,
    released: str | None,
    inputs: dict[str, str | None],
    overwrite: bool,
    ledger: str | None,
) -> Outputs:
    """Return the outputs of a release, after checking how their names end; MODEL of the inputs gets a note beside."""
    for path in (output, evidence, released):
        check_ending(path, (".npz",))
    check_ending(certificate, (".json",))
    places = {"--output": output, "--certificate": certificate, "--evidence": evidence, "--released": released}
    model = inputs.get("MODEL")
    note = None if model is None else note_path(model)
    if note is not None and not os.access(note.parent, os.W_OK):
        note = None
    return Outputs(places, inputs=inputs, overwrite=overwrite, ledger=ledger, beside=note)


def write_release(
    model: Newton,
    *,
    outputs: Outputs,
    ledger: str | None,
    action: str,
    key: Ed25519PrivateKey | None,
    before: Newton | None = None,
    requests: Sequence[DeletionRequest] = (),
    check: Callable[[], None] = lambda: None,
) -> ResidualCertificate:
    """Sign the certificate of a model's last release, write its files with the ledger's entry, and return it.

    A note about it is left beside the model before; ``check`` is called while nobody else writes.
    """
    from expunge.estimators._storage import released_bytes
    from expunge.estimators.newton._storage import working_bytes
    from expunge.ledger import Ledger

    if key is not None:
        model.certificate_ = model.certificate_.sign(key)
    proof = model.certificate_
    contents: dict[str, Callable[[], bytes]] = {
        "--output": lambda: working_bytes(model),
        "--certificate": lambda: proof.to_json().encode("ascii"),
        "--evidence": lambda: model.evidence_.to_bytes(),
        "--released": lambda: released_bytes(model.release()),
    }

    def more() -> list[Change]:
        check()
        changes = []
        if before is not None and outputs.beside is not None:
            changes.append(Change(outputs.beside, note_bytes(before, model), replace=True))
        if ledger is not None:
            model_before = None if before is None else model_digests(before)[0]
            content, _ = Ledger(ledger).extended(
                proof, model_before=model_before, requests=requests, salt=model.ledger_salt_, action=action
            )
            changes.append(Change(ledger, content, replace=True))
        return changes

    outputs.write(
        {name: contents[name]() for name in outputs.places},
        modes={"--certificate": PUBLIC, "--released": PUBLIC},
        more=more,
    )
    return proof


def say_release(
    proof: ResidualCertificate, outputs: Outputs, *, ledger: str | None, model: Newton | None = None
) -> None:
    """Print a certificate, where everything is, and what the working model holds, which is read if it is not given."""
    click.echo(proof.summary())
    if model is None and "--output" in outputs.places:
        model = load_model(str(outputs.places["--output"]))
    no_rows = model is not None and holds_no_rows(model)
    holds = "it holds hashes and ids of the records, and no row" if no_rows else "it holds the data"
    told = {
        "--output": ("model", f"  (confidential: {holds})"),
        "--certificate": ("certificate", ""),
        "--evidence": ("evidence", "  (confidential: it undoes the noise)"),
        "--released": ("predict-only model", ""),
    }
    for name, place in outputs.places.items():
        click.echo(f"{told[name][0]}  {place}{told[name][1]}")
    if ledger is not None:
        click.echo(f"entered in  {ledger}")


# --- a change of the data ------------------------------------------------------------------------


@dataclass(frozen=True)
class Records:
    """Records in the memory of a model, with ids, as they stand or will stand."""

    ids: NDArray[Any]
    rows: Rows

    def are_of(self, model: Newton) -> bool:
        """Return whether these are the records of a model."""
        return not holds_no_rows(model) and records_of(model).same_as(self)

    def same_as(self, other: Records) -> bool:
        """Return whether these are the same records in the same order."""
        mine, theirs = self.rows, other.rows
        parts = ((mine.X, theirs.X), (mine.labels, theirs.labels), (mine.targets, theirs.targets))
        return (
            self.ids.tolist() == other.ids.tolist()
            and all((a is None and b is None) or np.array_equal(_some(a), _some(b)) for a, b in parts)
            and np.array_equal(mine.weighed(), theirs.weighed())
        )


def _some(part: NDArray[Any] | None) -> NDArray[Any]:
    return np.empty(0) if part is None else part


def holds_no_rows(model: Working) -> bool:
    """Return whether a model's records are in a table of their own rather than in its file."""
    from expunge.estimators.newton.tables import TableObjective

    state, history = getattr(model, "_state", None), getattr(model, "_history", None)
    of_sums = history is not None and history.sums is not None
    return of_sums or (state is not None and isinstance(state.objective, TableObjective))


def records_of(model: Newton) -> Records:
    """Return the records of a model as they now stand."""
    state = model._state
    return Records(model.ids_, state.objective.take(np.arange(len(state.objective))))


@dataclass(frozen=True)
class Wanted:
    """A change of a model's data that was asked for.

    Attributes
    ----------
    action : str
        "unlearn", "amend" or "add".
    make : callable
        Does it.
    are_of : callable
        Says whether a model has the records that this one will have then.
    requests : list of DeletionRequest
        What the ledger records of it.
    """

    action: str
    make: Callable[[], Updated[Any]]
    are_of: Callable[[Newton], bool]
    requests: Sequence[DeletionRequest] = ()


def apply(
    before: Newton,
    wanted: Wanted,
    *,
    model: str,
    branch: bool,
    outputs: Outputs,
    key: Ed25519PrivateKey | None,
    ledger: str | None,
    overwrite: bool,
) -> None:
    """Make a change, write its release and say so.

    A change whose files are all there is not made twice, nor is another made from the same model.
    """
    if (ledger is not None or not overwrite) and _is_done(before, wanted, outputs=outputs, key=key, ledger=ledger):
        click.echo("done already: the files are those of this change")
        done = load_model(str(outputs.places["--output"]))
        say_release(done.certificate_, outputs, ledger=ledger, model=done)
        return
    outputs.check_free()
    if ledger is not None and Path(ledger).exists():
        check_next(ledger, before)
    if outputs.beside is None and ledger is None:
        raise PermissionError(
            f"the folder of {model} cannot be written to, where it is noted that a release was made from this model: "
            "copy the model to another folder, or enter the release in a --ledger"
        )

    def check() -> None:
        if not branch:
            check_first(model, before)

    check()
    result = wanted.make()
    proof = write_release(
        result.model,
        outputs=outputs,
        ledger=ledger,
        action=wanted.action,
        key=key,
        before=before,
        requests=wanted.requests,
        check=check,
    )
    say_release(proof, outputs, ledger=ledger, model=result.model)
    _say_work(before, result)


def _say_work(before: Newton, result: Updated[Any]) -> None:
    """Print what only the model's keeper may know."""
    evidence, both = result.evidence, result.before_after
    click.echo("for you alone:")
    click.echo(
        f"  {counted(evidence.n_changed, 'record')} changed; {evidence.passes} passes over the data, "
        f"{counted(evidence.refreshes, 'new inverse Hessian')}"
    )
    if both is not None:
        shown = f"{both.epsilon:.3g}" if np.isfinite(both.epsilon) else "infinite"
        click.echo(f"  before/after epsilon {shown}: for whoever saw the model before and after, which no claim covers")
    kind = "accuracy" if hasattr(before, "classes_") else "R^2"
    old, new = _scores(before, result.model)
    click.echo(f"  training {kind} on the data as they now stand: before {old:.3f}, after {new:.3f}")


def _scores(*models: Newton) -> list[float]:
    """Return how well the releases of some models do on the records of the last one, in one pass."""
    from sklearn.metrics import accuracy_score, r2_score

    now = models[-1]
    released = [one.release() for one in models]
    for one in released:
        one.__dict__.pop("feature_names_in_", None)  # the columns are in order; scikit-learn would ask for their names
    y, found = [], []
    for rows in now._state.objective.blocks:
        y.append(np.array(now._old_answers(rows).tolist()))
        found.append([one.predict(rows.X[:, : now.n_features_in_]) for one in released])
    score = accuracy_score if hasattr(now, "classes_") else r2_score
    return [float(score(np.concatenate(y), np.concatenate(one))) for one in zip(*found, strict=True)]


def _is_done(
    before: Newton, wanted: Wanted, *, outputs: Outputs, key: Ed25519PrivateKey | None, ledger: str | None
) -> bool:
    """Return whether the files are those of this very change, made by an earlier call."""
    from expunge.certificates import load
    from expunge.estimators.newton.base import NewtonModel

    if not all(place.is_file() for place in outputs.places.values()):
        return False
    places = {name: str(place) for name, place in outputs.places.items()}
    try:
        working = load_model(places["--output"])
        if not isinstance(working, NewtonModel):
            return False
        proof = working.certificate_
        same = [
            load(places["--certificate"]) == proof,
            "--evidence" not in places or load_evidence(places["--evidence"]).certificate == proof.digest(),
            "--released" not in places
            or proof.digests.released in model_digests(load_model(places["--released"], released=True)),
        ]
    except (ValueError, OSError):
        return False
    earlier = before.certificate_
    return (
        all(same)
        and working._work.action == wanted.action
        and proof.digests.data_before == earlier.digests.data
        and proof.release == earlier.release + 1
        and working.ledger_salt_ == before.ledger_salt_
        and wanted.are_of(working)
        and is_signed(proof, None if key is None else key.public_key())
        and (ledger is None or is_entered(proof, before, wanted.requests, ledger))
    )
