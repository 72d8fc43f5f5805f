"""The auditor's page holds everything that was asked, done, guaranteed and not, and needs no other file."""

from __future__ import annotations

import dataclasses
import html
import re
import stat
from html.parser import HTMLParser

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from expunge.certificates import VerificationError
from expunge.certificates.residual import page_of, verify, write_page
from expunge.certificates.residual.format import BEFORE_AFTER, CANNOT_SHOW
from expunge.certificates.residual.page import percent
from expunge.certificates.residual.pictures import budget_bar, two_laws
from expunge.ledger import DeletionRequest, Ledger
from residual_truth import certified, problem

KEY = Ed25519PrivateKey.generate()
VOID = {"meta", "br", "img"}


class Balanced(HTMLParser):
    """Tags that were opened, and what was not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    return parser.seen, " ".join(" ".join(parser.text).split())


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Return two certificates, the case of the second, and the ledger's entries."""
    first = problem("logistic", ids=[f"p{i}" for i in range(40)])
    kept = np.delete(np.arange(40), 5)
    second = certified(
        first.X[kept],
        np.asarray(first.y)[kept],
        loss="logistic",
        classes=[0, 1],
        ids=np.asarray(first.ids)[kept],
        tree=first.tree.without([5]),
        data_before=first.tree.root,
        release=2,
        conditions=["alpha was taken from the data"],
        notes=["weights are those of a survey"],
    )
    certificates = [one.certificate.sign(KEY) for one in (first, second)]
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "model.ledger")
    ledger.append(certificates[0], model_before=None, action="fit")
    requests = [DeletionRequest("p5", "R-<7>", "2026-03-01")]
    before = certificates[0].digests.released
    ledger.append(certificates[1], model_before=before, action="unlearn", requests=requests, salt=bytes(32))
    return certificates, second, ledger.entries()


def report_of(story):
    certificates, case, _ = story
    return verify(
        certificates[1], **case.data(), evidence=case.evidence, released=case.released, public_key=KEY.public_key()
    )


def test_everything_is_on_the_page(story):
    certificates, _, entries = story
    page = page_of(certificates, entries=entries, report=report_of(story))
    _, text = read(page)
    for head in ("request", "person (salted digest)", "entry", "hash of the line"):
        assert f"<th>{head}</th>" in page
    for part in (
        "R-<7>", "2026-03-01", "deletion", "Records were deleted, and the model was changed", "39 records",
        "conditional", "alpha was taken from the data", "weights are those of a survey", "signed",
        "verified on the data", "epsilon = 1 and delta = 1e-05", "2 of 100 releases made, 98 left", BEFORE_AFTER,
        *CANNOT_SHOW, certificates[0].digest(), certificates[1].digest(), certificates[1].digests.data,
        certificates[1].digests.data_before, certificates[1].digests.released, entries[-1].hash,
        certificates[1].signature.public_key, "recomputed, and within what the claim allows", "p-value",
        entries[-1].requests[0].id[:16],
    ):  # fmt: skip
        assert part in text, part
    rows = re.findall(r"<tr><td>R-&lt;7&gt;.*?</tr>", page)
    assert len(rows) == 1
    assert "<td>this one</td>" in rows[0]
    assert '<span class="mark good">signed</span>' in page
    assert '<span class="mark plain">release 2 of 100</span>' in page
    assert "goes on after" not in text
    assert "p5" not in text  # persons are named by digests alone


def test_nothing_confidential_is_on_the_page(story):
    certificates, case, entries = story
    page = page_of(certificates, entries=entries, report=report_of(story))
    secret = [
        *map(repr, case.theta.ravel().tolist()),
        case.evidence.tree_key.hex(),
        case.evidence.salts[0].tobytes().hex(),
    ]
    secret += [f"{case.evidence.residual_bound:.3g}", f"{report_of(story).residual_bound:.3g}"]
    assert not [one for one in secret if one in page]


def test_the_page_needs_no_other_file(story):
    certificates, _, entries = story
    page = page_of(certificates, entries=entries)
    tags, _ = read(page)
    assert not {"script", "link", "iframe", "img", "object"} & set(tags)
    assert not re.search(r"https?:|url\(|@import|(src|href)\s*=", page)
    assert "@media print" in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


@pytest.mark.parametrize("reference", ["optimum", "same rule"])
def test_how_often_a_guess_is_right_is_that_of_the_claim(reference):
    """mu is 0.26805 for all 100 releases: Phi(0.134) = 0.55331, and Phi(0.0134) = 0.50535 for one."""
    _, text = read(page_of([problem(reference=reference).certificate]))
    assert "right in at most 55.4%" in text
    assert "With this release alone: at most 50.6%" in text
    assert "(mu = 0.268)" in text
    assert "by a factor of at most 2.72, and by 1e-05 besides" in text
    large = problem(reference=reference, epsilon=20.0).certificate
    assert "e<sup>20</sup>" in page_of([large])


def test_texts_are_escaped():
    evil = '<script>alert("x")</script>&'
    case = problem("logistic", conditions=[evil], notes=[evil])
    model = dataclasses.replace(case.certificate.model, estimator=evil)
    tags, text = read(page_of([dataclasses.replace(case.certificate, model=model)]))
    assert "script" not in tags
    assert text.count(evil) >= 3
    assert html.escape(evil) in page_of([dataclasses.replace(case.certificate, model=model)])


def test_a_page_without_a_ledger_says_so():
    case = problem("softmax")
    _, text = read(page_of([case.certificate]))
    for part in ("certified", "not signed", "nobody answers for this certificate", "released for the first time"):
        assert part in text
    assert "Requests are in the ledger, which was not given" in text
    assert "not for this page" in text
    assert "Ledger" not in re.findall(r"<h2>(\w+)</h2>", page_of([case.certificate]))
    again = dataclasses.replace(
        case.certificate, release=2, digests=dataclasses.replace(case.certificate.digests, data_before=case.tree.root)
    )
    assert "released again, with new noise" in page_of([again])
    changed = dataclasses.replace(
        case.certificate, release=2, digests=dataclasses.replace(case.certificate.digests, data_before="0" * 64)
    )
    assert "The data were changed, and the model with them." in page_of([changed])
    assert "by the same rule" in page_of([problem(reference="same rule").certificate])


def test_releases_that_came_later_are_counted(story):
    certificates, _, entries = story
    _, text = read(page_of(certificates[:1], entries=entries))
    assert "2 of 100 releases made, 98 left" in text
    assert "release 2" in text.partition("What was done")[0]  # it answered the request, not this certificate
    assert "The ledger goes on after this certificate: 1 release since" in text


def test_what_does_not_belong_together_is_refused(story):
    certificates, _, entries = story
    with pytest.raises(ValueError, match="at least one"):
        page_of([])
    with pytest.raises(TypeError, match="must hold ResidualCertificate"):
        page_of(["certificate"])
    with pytest.raises(ValueError, match="in the order of releases"):
        page_of(certificates[::-1])
    with pytest.raises(ValueError, match="in the order of releases"):
        page_of([certificates[1], certificates[1]])
    with pytest.raises(ValueError, match="of one model, got two that differ in alpha"):
        page_of([dataclasses.replace(certificates[0], alpha=2.0, signature=None), certificates[1]])
    digests = dataclasses.replace(certificates[1].digests, data_before="ab" * 32)  # of a model with the same constants
    with pytest.raises(ValueError, match="of one model, got release 2 after other data than those of release 1"):
        page_of([certificates[0], dataclasses.replace(certificates[1], digests=digests, signature=None)])
    with pytest.raises(ValueError, match="entries must hold the last certificate"):
        page_of(certificates, entries=entries[:1])
    with pytest.raises(ValueError, match="report must be about the last certificate"):
        page_of(certificates[:1], report=report_of(story))
    with pytest.raises(VerificationError, match="signature"):
        page_of([dataclasses.replace(certificates[0], notes=("changed",))])


@pytest.mark.parametrize("mu", [0.0, 0.3, 2.0, 9.0])
def test_the_picture_shows_two_bells_as_far_apart_as_they_are(mu):
    picture = two_laws(mu)
    width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', picture).groups())
    base = float(re.search(r'y1="(\d+)"', picture)[1])
    assert 0 < base < height
    tops = []
    for path in re.findall(r'<path d="M([^"]*)"', picture):
        points = np.array([pair.split(",") for pair in path.split(" L")], dtype=float)
        assert points[0, 0] == 0
        assert points[-1, 0] == width
        assert points[:, 1].min() >= 0
        assert points[:, 1].max() <= base
        top = points[points[:, 1].argmin()]
        assert top[1] < height / 4
        assert abs(points[[0, -1], 1] - base).min() < 0.01 * base + 0.5  # it ends on the line
        tops.append(top[0])
    assert (tops[1] - tops[0]) / width == pytest.approx(mu / (mu + 7.2), abs=0.01)


def test_the_bar_is_full_when_the_budget_is_spent():
    assert "width:100.00%" in budget_bar(4, 4)
    assert "width:100.00%" in budget_bar(5, 4)
    assert "width:25.00%" in budget_bar(1_000, 4_000)


@given(mu=st.floats(0, 60))
def test_how_often_a_guess_is_right_is_rounded_up(mu):
    shown = float(percent(mu).removesuffix("%"))
    exact = 100 * stats.norm.cdf(mu / 2)
    assert exact - 1e-9 <= shown <= exact + 0.1 + 1e-9


def test_a_page_is_for_its_owner_and_overwrites_nothing(story, tmp_path):
    certificates, _, entries = story
    path = tmp_path / "page.html"
    write_page(path, certificates, entries=entries)
    assert path.read_text() == page_of(certificates, entries=entries)
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    with pytest.raises(FileExistsError):
        write_page(path, certificates, entries=entries)
    write_page(path, certificates, overwrite=True)
    assert path.read_text() == page_of(certificates)
