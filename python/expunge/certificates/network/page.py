"""The page an auditor reads about a network: backbone and head together, then the head by itself."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from html import escape

from expunge._errors import counted
from expunge._files import write_atomic
from expunge._files.page import html_page, html_table
from expunge.certificates.network.certificate import NetworkCertificate
from expunge.certificates.network.format import BEFORE_AFTER, CANNOT_SHOW
from expunge.certificates.network.verification import NetworkReport
from expunge.certificates.residual.entries import Line
from expunge.certificates.residual.page import factor, hashed, page_sections, percent, shown_time, standing_marks
from expunge.certificates.residual.pictures import two_laws

__all__ = ["page_of", "write_page"]

_SOURCES = {
    "data-independent": "Its weights were drawn without any data.",
    "public": "Its weights were trained by somebody else, without these records.",
    "private": "It was trained with the records, by noisy sums of clipped gradients (differential privacy).",
}


def page_of(
    certificates: Sequence[NetworkCertificate], *, entries: Sequence[Line] = (), report: NetworkReport | None = None
) -> str:
    """Return the page about the last of a network's certificates, with those before it and the head's ledger.

    Parameters
    ----------
    certificates : sequence of NetworkCertificate
        Of one network, in the order of their releases; the page is about the last.
    entries : sequence of Line
        Of the ledger that holds the certificates of its head.
    report : NetworkReport, optional
        Of a verification of the last certificate.

    Returns
    -------
    str
        HTML that loads nothing and prints well.

    Raises
    ------
    VerificationError
        If a certificate does not hold.
    ValueError
        If the certificates are not of one network and in order, the ledger does not hold the last head, or the report
        is about another certificate.

    Examples
    --------
    >>> import numpy as np
    >>> from expunge import CertifiedHead, NewtonRidge
    >>> from expunge.certificates.network import page_of
    >>> model = CertifiedHead(np.cos, NewtonRidge(), backbone="data-independent").fit(np.eye(4), np.arange(4.0))
    >>> "Backbone and head together" in page_of([model.certificate_])
    True
    """
    _check_one_network(certificates)
    c = certificates[-1]
    if report is not None and report.certificate != c.digest():
        raise ValueError("report must be about the last certificate, got one about another")
    heads = [one.head for one in certificates]
    _, of_head = page_sections(heads, entries=entries, report=None if report is None else report.head)
    title = f"{c.head.model.estimator} on {c.backbone.name}: release {c.head.release:,} of {c.head.releases:,}"
    marks = standing_marks(c.status, signed=c.signature is not None, verified=report is not None)
    lines = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{''.join(marks)}</p>",
        f'<p class="lead">A network of a backbone, which no deletion changes, and a head that forgets records. Issued '
        f"{shown_time(c.issued_at)} UTC by expunge {escape(c.library_version)}, about "
        f"{counted(c.head.n_records, 'record')} as they now stand.</p>",
        *_together(c),
        *_backbone(c, report),
        *_limits(c),
        *_digests(certificates),
        "<h1>The head by itself</h1>",
        "<p>What follows is about the head, on the features of the records as they were kept, whatever the backbone "
        "may be.</p>",
        *of_head[3:],
    ]
    return html_page(title, lines)


def write_page(
    path: str | os.PathLike[str],
    certificates: Sequence[NetworkCertificate],
    *,
    entries: Sequence[Line] = (),
    report: NetworkReport | None = None,
    overwrite: bool = False,
) -> None:
    """Write `page_of` to a file, whole or not at all, readable by its owner only.

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


def _check_one_network(certificates: Sequence[NetworkCertificate]) -> None:
    if len(certificates) == 0:
        raise ValueError("certificates must hold at least one, got none")
    for one in certificates:
        if not isinstance(one, NetworkCertificate):
            raise TypeError(f"certificates must hold NetworkCertificate, got {type(one).__name__}")
        one.check_claim()
    for a, b in itertools.pairwise(certificates):
        if a.backbone != b.backbone:
            raise ValueError("certificates must be of one network, got two with different backbones")
        if b.n_deleted < a.n_deleted:
            raise ValueError(
                f"certificates must be in the order of releases, got {b.n_deleted} deleted records after {a.n_deleted}"
            )


def _together(c: NetworkCertificate) -> Iterator[str]:
    """Yield the claim in plain words, and its picture where one statistic says all."""
    yield "<h2>Backbone and head together</h2>"
    if c.backbone.training is None:
        yield (
            '<div class="box holds"><p>No record had a part in the backbone. It tells nothing of any of them, and what '
            "is guaranteed about the head, below, is guaranteed about the network.</p></div>"
        )
        return
    if c.n_deleted == 0:
        yield (
            '<div class="box holds"><p>The backbone was trained with the records that the head has now, and none of '
            "them has left: there is nothing yet that it should have forgotten.</p></div>"
        )
    else:
        gone = "1 record that has left" if c.n_deleted == 1 else f"{c.n_deleted:,} records that have left"
        how = (
            ""
            if c.mu is None
            else f" By tossing a coin they would be right in 50% of cases, here in at most {percent(c.mu)}."
        )
        yield (
            f'<div class="box holds"><p>The backbone was trained with {gone} since, or had their content corrected. '
            "Suppose somebody has its weights, sees this release of the head and every later one, and must tell "
            "whether they come from this network or from one whose backbone was trained without these records and "
            "whose head is the exact solution for the data as they now stand, with the same "
            f"noise.{how}</p></div>"
        )
        if c.mu is not None:
            yield (
                f'<figure>{two_laws(c.mu)}<figcaption>How alike the two are. <span class="key"></span>never knew the '
                f'records, <span class="key dashed"></span>was made to forget them (mu = {c.mu:.3g}).</figcaption>'
                "</figure>"
            )
        yield (
            "<p>In the terms of differential privacy: (epsilon, delta)-indistinguishable in both directions, at "
            f"epsilon = {c.epsilon:g} and delta = {c.delta:g}. The probability of whatever anybody could conclude "
            f"changes by a factor of at most {factor(c.epsilon)}, and by {c.delta:g} besides.</p>"
        )
    yield (
        f"<p>About any single record, the others as they are: epsilon = {c.one.epsilon:g}, a factor of at most "
        f"{factor(c.one.epsilon)}. Every further record that leaves adds to the claim about all of them together, and "
        "nothing to this one.</p>"
    )


def _backbone(c: NetworkCertificate, report: NetworkReport | None) -> Iterator[str]:
    """Yield what is known of the backbone."""
    yield "<h2>The backbone</h2>"
    yield f"<p>{escape(c.backbone.name)}. {_SOURCES[c.backbone.source]} No deletion changes it.</p>"
    t, size = c.backbone.training, c.backbone.batch_size
    rows = [("weights", hashed(c.backbone.weights) if c.backbone.weights else "not known to this library")]
    if report is not None:
        rows.append(("compared with weights", "yes, the same" if report.weights_checked else "no"))
    rows.append(
        ("features", "given by the owner" if size is None else f"computed from {counted(size, 'record')} at a time")
    )
    if t is not None:
        batches = (
            "all records in each" if t.sampling_probability == 1.0 else f"each with chance {t.sampling_probability:.4g}"
        )
        rows += [
            ("steps", f"{t.n_steps:,}, {batches}"),
            ("gradients clipped to", f"{t.clip:g}"),
            ("noise of a step", f"{t.noise_multiplier:.6g} times that"),
            ("account", {"gdp": "Gaussian differential privacy, exact", "rdp": "Renyi divergences",
                         "filter": f"Gaussian differential privacy, no record above its budget, at most {t.budget}",
                         "pld": "privacy loss distribution of dp-accounting"}[t.accountant]),
        ]  # fmt: skip
    yield html_table(rows)


def _limits(c: NetworkCertificate) -> Iterator[str]:
    """Yield conditions, and what is not covered."""
    if c.conditions:
        items = "".join(f"<li>{escape(one)}</li>" for one in c.conditions)
        yield '<div class="box not"><p><strong>Conditional.</strong> The guarantee is worth what these are worth:</p>'
        yield f"<ul>{items}</ul></div>"
    if c.notes:
        yield "<p>To be known besides:</p><ul>" + "".join(f"<li>{escape(one)}</li>" for one in c.notes) + "</ul>"
    yield f'<div class="box not"><p>{escape(BEFORE_AFTER)}</p></div>'
    yield "<p>And no computation can show:</p><ul>"
    yield from (f"<li>{escape(one)}</li>" for one in CANNOT_SHOW)
    yield "</ul>"


def _digests(certificates: Sequence[NetworkCertificate]) -> Iterator[str]:
    c = certificates[-1]
    yield "<h2>Digests of the network's certificates</h2>"
    yield html_table(
        [
            ("certificate", hashed(c.digest())),
            ("signing key", hashed(c.signature.public_key) if c.signature is not None else "none"),
            *((f"of release {one.head.release:,}", hashed(one.digest())) for one in certificates[:-1]),
        ]
    )
    yield (
        "<pre><code>from expunge.certificates.network import NetworkCertificate, NetworkEvidence, verify\n\n"
        'certificate = NetworkCertificate.load("certificate.json")\n'
        'evidence = NetworkEvidence.load("evidence.npz")  # confidential\n'
        "verify(certificate, features, y, ids=ids, evidence=evidence, backbone=module)  # features as they were kept"
        "</code></pre>"
    )
