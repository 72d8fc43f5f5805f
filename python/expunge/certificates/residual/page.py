"""The page an auditor reads: one self-contained HTML file from certificates by residual and the ledger's entries."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from html import escape

from expunge._errors import counted
from expunge._files import write_atomic
from expunge._files.page import html_page, html_table
from expunge.certificates.residual.certificate import ResidualCertificate, noise_text
from expunge.certificates.residual.entries import Line
from expunge.certificates.residual.format import BEFORE_AFTER, CANNOT_SHOW
from expunge.certificates.residual.pictures import budget_bar, two_laws
from expunge.certificates.residual.verification import ResidualReport
from expunge.runs.residual.claim import REFERENCES

__all__ = ["factor", "hashed", "page_of", "page_sections", "percent", "shown_time", "standing_marks", "write_page"]

_DONE = {
    "fit": "A model was made and released for the first time.",
    "unlearn": "Records were deleted, and the model was changed and released anew.",
    "amend": "Records were corrected, and the model was changed and released anew.",
    "add": "Records were added, and the model was changed and released anew.",
    "release": "The same model was released again, with new noise.",
}
_ASKED = {"unlearn": "deletion", "amend": "correction", "add": "insertion", "fit": "first fit", "release": "release"}
_ONE_MODEL = ("epsilon", "delta", "noise_std", "alpha", "loss", "reference", "releases", "model")


def page_of(
    certificates: Sequence[ResidualCertificate],
    *,
    entries: Sequence[Line] = (),
    report: ResidualReport | None = None,
) -> str:
    """Return the page about the last of a model's certificates, with those before it and the ledger.

    Parameters
    ----------
    certificates : sequence of ResidualCertificate
        Of one model, in the order of their releases; the page is about the last.
    entries : sequence of Line
        What `expunge.ledger.Ledger.entries` returns for this model, whose chain that has checked.
    report : ResidualReport, optional
        Of a verification of the last certificate.

    Returns
    -------
    str
        HTML that loads nothing and prints well. It names requests by what the ledger says of them.

    Raises
    ------
    VerificationError
        If a certificate does not hold.
    ValueError
        If the certificates are not of one model and in order, the ledger does not hold the last one, or the report is
        about another.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge.certificates.residual import RecordTree, ResidualCertificate, ResidualModel, page_of
    >>> certificate = ResidualCertificate.create(
    ...     tree=RecordTree.of(np.eye(3), [1.0, 2.0, 3.0]), released=np.zeros((1, 3)),
    ...     model=ResidualModel("NewtonRidge", 3, 1, False), loss="squared", alpha=1.0, noise_std=0.01, epsilon=1.0,
    ...     delta=1e-5, releases=100, release=1)
    >>> "release 1 of 100" in page_of([certificate])
    True
    """
    return html_page(*page_sections(certificates, entries=entries, report=report))


def page_sections(
    certificates: Sequence[ResidualCertificate], *, entries: Sequence[Line] = (), report: ResidualReport | None = None
) -> tuple[str, list[str]]:
    """Return the title of the page and what is on it: heading, marks, a first paragraph, and the sections.

    Raises
    ------
    VerificationError, ValueError
        As `page_of`.
    """
    _check_one_model(certificates)
    c = certificates[-1]
    mine = next((line for line in entries if line.certificate == c.digest()), None)
    if entries and mine is None:
        raise ValueError(f"entries must hold the last certificate, {c.digest()}, got a ledger without it")
    if report is not None and report.certificate != c.digest():
        raise ValueError("report must be about the last certificate, got one about another")
    title = f"{c.model.estimator}: release {c.release:,} of {c.releases:,}"
    marks = standing_marks(c.status, signed=c.signature is not None, verified=report is not None)
    marks.insert(1, _mark(f"release {c.release:,} of {c.releases:,}", kind="plain"))
    return title, [
        f"<h1>{escape(title)}</h1>",
        f"<p>{''.join(marks)}</p>",
        f'<p class="lead">{escape(_done(c, mine))} Issued {shown_time(c.issued_at)} UTC by expunge '
        f"{escape(c.library_version)}, about {counted(c.n_records, 'record')} as they now stand.</p>",
        *_asked(entries, c),
        *_what_was_done(c),
        *_guaranteed(c),
        *_not_guaranteed(),
        *_budget(c, entries),
        *_checked(c, report),
        *_ledger(entries),
        *_digests(certificates),
    ]


def write_page(
    path: str | os.PathLike[str],
    certificates: Sequence[ResidualCertificate],
    *,
    entries: Sequence[Line] = (),
    report: ResidualReport | None = None,
    overwrite: bool = False,
) -> None:
    """Write `page_of` to a file, whole or not at all, readable by its owner only: it holds what the ledger holds.

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``overwrite`` is False.
    VerificationError, ValueError
        As `page_of`.

    Examples
    --------
    >>> write_page("page.html", [])
    Traceback (most recent call last):
    ...
    ValueError: certificates must hold at least one, got none
    """
    page = page_of(certificates, entries=entries, report=report)
    write_atomic(path, page.encode("utf-8"), overwrite=overwrite)


def _check_one_model(certificates: Sequence[ResidualCertificate]) -> None:
    if len(certificates) == 0:
        raise ValueError("certificates must hold at least one, got none")
    for one in certificates:
        if not isinstance(one, ResidualCertificate):
            raise TypeError(f"certificates must hold ResidualCertificate, got {type(one).__name__}")
        one.check_claim()
    for a, b in itertools.pairwise(certificates):
        changed = [name for name in _ONE_MODEL if getattr(a, name) != getattr(b, name)]
        if changed:
            raise ValueError(f"certificates must be of one model, got two that differ in {changed[0]}")
        if not a.release < b.release:
            raise ValueError(f"certificates must be in the order of releases, got {b.release} after {a.release}")
        if b.release == a.release + 1 and b.digests.data_before != a.digests.data:
            raise ValueError(
                f"certificates must be of one model, got release {b.release} after other data than those of release "
                f"{a.release}: {b.digests.data_before}, needed {a.digests.data}"
            )


def standing_marks(status: str, *, signed: bool, verified: bool) -> list[str]:
    """Return the marks of a page: status, signature, and whether the claim was verified for it."""
    marks = [_mark(status, kind="good" if status == "certified" else "")]
    marks.append(_mark("signed", kind="good") if signed else _mark("not signed"))
    return [*marks, _mark("verified on the data", kind="good")] if verified else marks


def _mark(text: str, *, kind: str = "") -> str:
    return f'<span class="mark {kind}">{escape(text)}</span>'


def shown_time(text: str) -> str:
    """Return a time as it is printed."""
    return escape(text.replace("T", " ").removesuffix("Z"))


def _done(c: ResidualCertificate, mine: Line | None) -> str:
    if mine is not None:
        return _DONE.get(mine.action, "The model was released.")
    if c.digests.data_before is None:
        return _DONE["fit"]
    return (
        _DONE["release"]
        if c.digests.data_before == c.digests.data
        else "The data were changed, and the model with them."
    )


def _asked(entries: Sequence[Line], c: ResidualCertificate) -> Iterator[str]:
    """Yield the requests, when they were made and when they were answered."""
    yield "<h2>What was asked, and when</h2>"
    rows = [
        (
            escape(request.number or "without a number"),
            escape(request.date or "not recorded"),
            shown_time(line.time),
            escape(_ASKED.get(line.action, line.action)),
            "this one" if line.certificate == c.digest() else f"release {line.release:,}",
            hashed(request.id[:16]) if request.id else "not named",
        )
        for line in entries
        for request in line.requests
    ]
    if rows:
        head = ("request", "made", "answered (UTC)", "for", "by", "person (salted digest)")
        yield html_table(rows, head=head)
    else:
        yield (
            "<p>The ledger names no request.</p>"
            if entries
            else "<p>Requests are in the ledger, which was not given.</p>"
        )


def _what_was_done(c: ResidualCertificate) -> Iterator[str]:
    """Yield what was computed, in words."""
    yield "<h2>What was done</h2>"
    penalty = "every parameter" + (", the intercept included" if c.model.fit_intercept else "")
    yield (
        f"<p>Parameters were computed for the data <em>as they now stand</em> until the "
        f"gradient of the penalised {escape(c.loss)} loss was proved to be at most {c.residual_allowed:.3g}, rounding "
        f"included. The penalty alpha = {c.alpha:g} acts on {penalty}, so these parameters are within "
        f"{c.residual_allowed / c.alpha:.3g} of the one exact solution for these data. Then fresh Gaussian noise of "
        f"standard deviation {c.noise_std:g} was added to each parameter, and the result was released.</p>"
    )
    yield f"<p>The noise: {escape(noise_text(c.noise))}.</p>"
    yield (
        "<p>How much noise: that was fixed beforehand. What depends on the records that left - how much work it took, "
        "how near the parameters came - is in the confidential evidence and not on this page.</p>"
    )


def _guaranteed(c: ResidualCertificate) -> Iterator[str]:
    """Yield the guarantee in plain words, and its picture."""
    times = REFERENCES[c.reference]
    whole, one = times * c.mu * math.sqrt(c.releases), times * c.mu
    other = (
        "the exact solution for the data as they now stand, with the same noise"
        if c.reference == "optimum"
        else "a model that was made by the same rule of the data as they now stand"
    )
    yield "<h2>What it guarantees</h2>"
    yield (
        f'<div class="box holds"><p>Suppose somebody sees this release and every later one, as many as the budget '
        f"allows, and must tell whether they come from this model or from {other} - which never knew a record that was "
        f"deleted, nor a value that was corrected. By tossing a coin they would be right in 50% of cases. "
        f"<strong>With everything that these releases show they are right in at most {percent(whole)}.</strong> "
        f"With this release alone: at most {percent(one)}.</p></div>"
    )
    yield (
        f'<figure>{two_laws(whole)}<figcaption>How alike the two are. <span class="key"></span>never knew the record, '
        f'<span class="key dashed"></span>was made to forget it. The best statistic that all releases together allow '
        f"follows one curve or the other (mu = {whole:.3g}).</figcaption></figure>"
    )
    yield (
        f"<p>In the terms of differential privacy: all these releases together are (epsilon, delta)-indistinguishable "
        f"from it, in both directions, at epsilon = {c.epsilon:g} and delta = {c.delta:g}. The probability of whatever "
        f"anybody could conclude changes by a factor of at most {factor(c.epsilon)}, and by {c.delta:g} besides.</p>"
    )
    yield "<p>It holds whatever happened before, also if requests were made in reaction to earlier releases.</p>"
    if c.conditions:
        items = "".join(f"<li>{escape(one)}</li>" for one in c.conditions)
        yield '<div class="box not"><p><strong>Conditional.</strong> The guarantee is worth what these are worth:</p>'
        yield f"<ul>{items}</ul></div>"
    if c.notes:
        yield "<p>To be known besides:</p><ul>" + "".join(f"<li>{escape(one)}</li>" for one in c.notes) + "</ul>"


def _not_guaranteed() -> Iterator[str]:
    """Yield what the certificate does not cover and cannot show."""
    yield "<h2>What it does not guarantee</h2>"
    yield f'<div class="box not"><p>{escape(BEFORE_AFTER)}</p></div>'
    yield "<p>And no computation can show:</p><ul>"
    yield from (f"<li>{escape(one)}</li>" for one in CANNOT_SHOW)
    yield "</ul>"


def _budget(c: ResidualCertificate, entries: Sequence[Line]) -> Iterator[str]:
    """Yield how many releases are left."""
    last = max([c.release, *(line.release for line in entries)])
    left = c.releases - last
    yield "<h2>Budget</h2>"
    yield f"<p>{last:,} of {c.releases:,} releases made, {left:,} left. "
    yield "Every release counts, also one of the same model with new noise. All together keep the guarantee above.</p>"
    yield budget_bar(last, c.releases)
    if last > c.release:
        yield f"<p>The ledger goes on after this certificate: {counted(last - c.release, 'release')} since.</p>"


def _checked(c: ResidualCertificate, report: ResidualReport | None) -> Iterator[str]:
    """Yield what was checked for this page, and how to check the rest."""
    yield "<h2>What was checked, and how to check it</h2><ul>"
    yield "<li>The arithmetic of the claim and the budget: for this page.</li>"
    if c.signature is None:
        yield "<li>Signature: there is none, so nobody answers for this certificate.</li>"
    else:
        whose = "the key below; compare it with the one you were given by another way"
        if report is not None and report.signature == "trusted key":
            whose = "the key that the verification was given"
        yield f"<li>Signature: valid, by {whose}.</li>"
    if report is None:
        yield "<li>The data and the gradient: not for this page. Whoever holds data and evidence checks them so:</li>"
    else:
        yield (
            f"<li>The data: all {counted(report.n_records, 'record')} are those of the certificate, and no other.</li>"
            "<li>The gradient on them: recomputed, and within what the claim allows.</li>"
        )
        if report.p_value is None:
            yield "<li>The released model: not compared.</li>"
        else:
            yield (
                f"<li>The released model: these parameters with this noise (p-value {report.p_value:.2g}; an honest "
                "release gives any value between 0 and 1 equally often).</li>"
            )
        yield from _proved(report)
        yield "<li>To do it again:</li>"
    yield "</ul>"
    yield (
        "<pre><code>from expunge.certificates.residual import ResidualCertificate, ResidualEvidence, verify\n\n"
        'certificate = ResidualCertificate.load("certificate.json")\n'
        'evidence = ResidualEvidence.load("evidence.npz")  # confidential\n'
        "verify(certificate, X, y, ids=ids, evidence=evidence, released=model)  # X, y: without the deleted records"
        "</code></pre>"
    )


def _proved(report: ResidualReport) -> Iterator[str]:
    """Yield whether the claim was proved for this page, and whether somebody says that it was."""
    if report.proof is not None:
        bits = report.proof.bits
        yield f"<li>The claim: proved in ball arithmetic for this page, without tolerance, {bits} bits.</li>"
    said = report.statement
    if said is not None:
        when = f"on {shown_time(said.stated_at)} UTC, {said.bits} bits"
        if said.signature is None:
            whose = "Nobody signed that"
        else:
            whose = f"That is signed by {hashed(said.signature.public_key)}"
        if report.proof is None:
            worth = "for this page it was not proved: the statement is worth what its maker is worth"
        else:
            worth = "its enclosures agree with those found for this page"
        yield (f"<li>A statement says that the claim was proved in ball arithmetic ({when}). {whose}; {worth}.</li>")


def _ledger(entries: Sequence[Line]) -> Iterator[str]:
    if not entries:
        return
    yield "<h2>Ledger</h2>"
    columns = ("entry", "time (UTC)", "what", "records since", "release", "status", "hash of the line")
    yield html_table(
        [
            (
                str(line.entry),
                shown_time(line.time),
                escape(_ASKED.get(line.action, line.action)),
                f"{line.n_records:,}",
                f"{line.release:,}",
                escape(line.status),
                hashed(line.hash[:16]),
            )
            for line in entries
        ],
        head=columns,
    )
    head = hashed(entries[-1].hash)
    yield f"<p>Head of the chain: {head}<br>Kept elsewhere, it shows whether entries go missing.</p>"


def _digests(certificates: Sequence[ResidualCertificate]) -> Iterator[str]:
    """Yield every digest in full."""
    c = certificates[-1]
    rows = [
        ("certificate", hashed(c.digest())),
        ("data now", hashed(c.digests.data)),
        ("data before", hashed(c.digests.data_before) if c.digests.data_before else "none"),
        ("released model", hashed(c.digests.released)),
        ("signing key", hashed(c.signature.public_key) if c.signature is not None else "none"),
        *((f"certificate of release {one.release:,}", hashed(one.digest())) for one in certificates[:-1]),
    ]
    yield "<h2>Digests</h2>"
    yield html_table(rows)
    yield (
        '<p class="lead">SHA-256. Those of data are roots of trees of salted hashes: without the salts they show '
        "nothing of a record.</p>"
    )


def hashed(text: str) -> str:
    """Return a digest as it is printed."""
    return f'<span class="hash">{escape(text)}</span>'


def percent(mu: float) -> str:
    """Return how often the better of two guesses is right, rounded up."""
    share = 100 * 0.5 * (1 + math.erf(mu / 2 / math.sqrt(2)))
    digits = 1 if share >= 50.05 else 3
    return f"{min(100.0, math.ceil(share * 10**digits) / 10**digits):.{digits}f}%"


def factor(epsilon: float) -> str:
    """Return ``e^epsilon`` as it is printed, rounded up where it is a number."""
    return f"{math.ceil(100 * math.exp(epsilon)) / 100:.2f}" if epsilon < 15 else f"e<sup>{epsilon:g}</sup>"
