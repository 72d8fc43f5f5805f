"""First story of ``expunge demo``: a customer asks to be deleted, and everybody can check that it was done."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from expunge.certificates import VerificationError
from expunge.certificates.residual import ResidualReport, page_of, verify
from expunge.cli.customers import CLASSES, READING, Customers, bounds_table, customers
from expunge.estimators import NewtonLogisticRegression, Updated
from expunge.estimators._storage import released_bytes
from expunge.estimators.newton._storage import working_bytes
from expunge.ledger import DeletionRequest, Ledger, ResidualEntry
from expunge.plotting import plot_deletions
from expunge.runs.residual.claim import release_mu

__all__ = ["tell_customers"]

Array = NDArray[np.float64]

EPSILON, DELTA, NOISE = 1.0, 1e-5, 0.1
_REQUEST = DeletionRequest(None, "2026-001", "2026-03-02")


def rehearsed(noise_std: Array, *, repeats: int = 20) -> tuple[Array, Array]:
    """Return, on customers who do not exist, how many have a before/after epsilon of at most 1, and test accuracy.

    The noise of a model must be chosen without its customers: it would tell of them.
    """
    known, others = customers(4000, seed=1), customers(2000, seed=2)
    model = NewtonLogisticRegression(classes=CLASSES, noise_std=1e-3, epsilon=EPSILON, delta=DELTA).fit(
        known.scaled, known.renewed
    )
    theta, random = model.evidence_.theta[0], np.random.default_rng(0)
    mu = np.hypot(model.quote().sensitivity / noise_std[:, np.newaxis], model.certificate_.mu)
    share = (mu <= release_mu(epsilon=1.0, delta=DELTA, releases=1)).mean(axis=1)
    draws = theta + noise_std[:, np.newaxis, np.newaxis] * random.standard_normal((repeats, len(theta)))
    scores = draws @ np.column_stack([others.scaled, np.ones(len(others.scaled))]).T
    return share, ((scores > 0) == (others.renewed == "yes")).mean(axis=(1, 2))


def tell_customers(*, has_plot: bool) -> dict[str, bytes]:
    """Tell the story, and return the content of its files by name."""
    known, others = customers(4000, seed=7), customers(2000, seed=8)
    # Constants given, none taken from the data: the certificate rests on no condition.
    model = NewtonLogisticRegression(classes=CLASSES, noise_std=NOISE, epsilon=EPSILON, delta=DELTA)
    model.fit(known.scaled, known.renewed, record_ids=known.ids)
    model._reading = READING
    before = model.score(others.scaled, others.renewed)
    click.echo(f"Learned from {len(known.ids):,} customers who renews: accuracy {before:.1%} on others.")

    quote = model.quote()
    customer = str(quote.ids[np.argsort(quote.before_after_epsilon, kind="stable")[len(quote) // 2]])
    result = model.unlearn(customer)
    after = result.model.score(others.scaled, others.renewed)
    evidence, left = result.evidence, known.without(customer)
    click.echo(f"Customer {customer} asks to be deleted. Done in {_passes(evidence.passes)}: accuracy {after:.1%}.\n")

    report = _verified(result, left)
    click.echo(f"  Certificate, on the {len(left.ids):,} customers without {customer}")
    click.echo(f"    {report.status.upper()}: epsilon = {report.epsilon:g}, delta = {report.delta:g}")
    click.echo(f"  With {customer} among the data\n    {_refusal(lambda: _verified(result, known))}")
    better = replace(result.certificate, epsilon=EPSILON / 2)
    click.echo(f"  With half the epsilon\n    {_refusal(lambda: _verified(replace(result, certificate=better), left))}")
    proof = evidence.tree.absence(customer)
    proof.check(result.certificate)
    click.echo(
        f"  For {customer}, without any data\n    ABSENT: the id of none of the {len(left.ids):,} records certified"
    )
    both = result.before_after
    assert both is not None
    click.echo("  For whoever saw the model before and after, whom no certificate covers")
    click.echo(f"    before/after epsilon = {both.epsilon:.2g}")

    ledger = _ledger(model, result, customer)
    contents = {
        "bounds.csv": bounds_table(),
        "customers.csv": known.table(),
        "customers-now.csv": left.table(),
        "model.npz": working_bytes(result.model),
        "certificate.json": result.certificate.to_json().encode("ascii"),
        "evidence.npz": evidence.to_bytes(),
        "released.npz": released_bytes(result.model.release()),
        "absence.json": proof.to_json().encode("ascii"),
        "deletions.ledger": ledger[0],
        "report.html": page_of([model.certificate_, result.certificate], entries=ledger[1], report=report).encode(),
    }
    if has_plot:
        at = np.geomspace(0.001, 3.0, 36)
        figure = plot_deletions(
            quote.before_after_epsilon,
            noise_std=NOISE,
            marked=both.epsilon,
            name="customer",
            choices=(at, *rehearsed(at)),
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        contents["customers.png"] = buffer.getvalue()
    return contents


def _passes(number: int) -> str:
    return "one pass over the data" if number == 1 else f"{number} passes over the data"


def _verified(result: Updated[Any], data: Customers) -> ResidualReport:
    return verify(
        result.certificate, data.scaled, data.renewed, evidence=result.evidence, released=result.model, ids=data.ids
    )


def _refusal(check: Callable[[], object]) -> str:
    """Return why a verification that must fail does."""
    try:
        check()
    except VerificationError as error:
        return f"REFUSED: {error.field}"
    raise RuntimeError("a certificate that does not hold was accepted")


def _ledger(model: Any, result: Updated[Any], customer: str) -> tuple[bytes, list[ResidualEntry]]:
    """Return the ledger of a fit and a deletion, and its entries."""
    with tempfile.TemporaryDirectory() as folder:
        book = Ledger(Path(folder) / "ledger")
        book.append(model.certificate_, model_before=None, action="fit", salt=model.ledger_salt_)
        book.append(
            result.certificate,
            model_before=model.certificate_.digests.released,
            action="unlearn",
            requests=[replace(_REQUEST, record_id=customer)],
            salt=model.ledger_salt_,
        )
        entries = [entry for entry in book.entries() if isinstance(entry, ResidualEntry)]
        return book.path.read_bytes(), entries
