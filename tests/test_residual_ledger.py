"""A ledger of releases by residual: every release is counted, in order, within its budget."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from expunge.certificates import model_digest
from expunge.certificates.residual import RecordTree, ResidualCertificate, ResidualModel
from expunge.ledger import DeletionRequest, Ledger, LedgerError, ResidualEntry, ResidualTotal, record_id_digest
from expunge.ledger.lines import hash_of, line_of
from given_runs import certificate_of

X = np.random.default_rng(0).normal(size=(6, 2))
TREE = RecordTree.of(X, np.arange(6.0))


def certificate(tree, release, *, before=None, **changes):
    settings = {
        "tree": tree,
        "released": np.full((1, 2), float(release)),
        "model": ResidualModel("NewtonRidge", 2, 1, False),
        "loss": "squared",
        "alpha": 1.0,
        "noise_std": 0.1,
        "epsilon": 1.0,
        "delta": 1e-5,
        "releases": 4,
        "release": release,
        "data_before": before,
    }
    return ResidualCertificate.create(**{**settings, **changes})


def story():
    """Return what was done to a model, and the certificates: all four releases that the budget has."""
    fewer = TREE.without([2])
    changed = fewer.replaced([0], [[1.0, 2.0]], [3.0])
    return [
        ("fit", certificate(TREE, 1)),
        ("unlearn", certificate(fewer, 2, before=TREE.root)),
        ("release", certificate(fewer, 3, before=fewer.root)),
        ("amend", certificate(changed, 4, before=fewer.root)),
    ]


def written(path, steps):
    ledger, before = Ledger(path), None
    for action, one in steps:
        before = ledger.append(one, model_before=before, action=action).model_after
    return ledger


@pytest.fixture
def ledger(tmp_path):
    return written(tmp_path / "model.ledger", STORY)


STORY = story()


def test_entries_say_what_the_certificates_claim(ledger):
    entries = ledger.entries()
    assert [entry.release for entry in entries] == [1, 2, 3, 4]
    for entry, (action, one) in zip(entries, STORY, strict=True):
        assert isinstance(entry, ResidualEntry)
        assert (entry.action, entry.certificate, entry.data) == (action, one.digest(), one.digests.data)
        assert (entry.epsilon, entry.mu, entry.n_records) == (one.epsilon, one.mu, one.n_records)
    assert entries[0].model_before is None
    assert all(b.model_before == a.model_after for a, b in itertools.pairwise(entries))
    ledger.check(head=ledger.head(), model=STORY[-1][1].digests.released)
    assert "unlearn, 5 records since  release 2 of 4" in entries[1].summary()


def test_the_total_is_one_claim_and_what_is_left(ledger, tmp_path):
    total = ledger.total()
    assert isinstance(total, ResidualTotal)
    assert (total.n_entries, total.release, total.releases, total.left) == (4, 4, 4, 0)
    assert (total.epsilon, total.delta, total.status) == (1.0, 1e-5, "certified")
    conditional = certificate(TREE, 1, conditions=["alpha was taken from the data"])
    other = written(tmp_path / "other.ledger", [("fit", conditional)])
    assert other.total().status == "conditional"
    assert other.total().summary().startswith("release 1 of 4, 3 left (conditional)")


def refuses(ledger, one, match, *, action="unlearn", model_before=""):
    data = ledger.path.read_bytes() if ledger.path.exists() else None
    if model_before == "":
        model_before = ledger.entries()[-1].model_after
    with pytest.raises(LedgerError, match=match):
        ledger.append(one, model_before=model_before, action=action)
    assert (ledger.path.read_bytes() if ledger.path.exists() else None) == data


def test_a_release_beyond_the_budget_is_refused(ledger):
    fewer = TREE.without([3])
    beyond = certificate(fewer, 4, before=STORY[-1][1].digests.data)
    beyond = dataclasses.replace(beyond, release=5)
    refuses(ledger, beyond, "the certificate does not hold: budget.release")


def test_a_number_is_not_used_twice_and_none_is_left_out(tmp_path):
    ledger = written(tmp_path / "model.ledger", STORY[:2])
    last = STORY[1][1].digests.data
    fewer = TREE.without([2, 3])
    for release in (1, 2, 4):
        refuses(ledger, certificate(fewer, release, before=last), "release must be 3")
    ledger.append(certificate(fewer, 3, before=last), model_before=STORY[1][1].digests.released, action="unlearn")


def test_a_model_that_was_put_back_cannot_release_again(tmp_path):
    """Whoever restores the working model of release 1 would release number 2 once more."""
    ledger = written(tmp_path / "model.ledger", STORY[:2])
    again = certificate(TREE.without([4]), 2, before=TREE.root, released=np.full((1, 2), 9.0))
    refuses(ledger, again, "model_before must be", model_before=STORY[0][1].digests.released)
    refuses(ledger, again, "release must be 3")
    refuses(ledger, STORY[1][1], "already")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"epsilon": 2.0}, "epsilon"),
        ({"delta": 1e-4}, "delta"),
        ({"noise_std": 0.2}, "noise_std"),
        ({"alpha": 2.0}, "alpha"),
        ({"releases": 5}, "releases"),
        ({"reference": "same rule"}, "reference"),
    ],
    ids=lambda value: str(value),
)
def test_constants_stay_what_they_are(change, name, tmp_path):
    ledger = written(tmp_path / "model.ledger", STORY[:2])
    one = certificate(TREE.without([2, 3]), 3, before=STORY[1][1].digests.data, **change)
    refuses(ledger, one, f"{name} is a constant of the model")


def test_the_data_continue_where_they_were(tmp_path):
    ledger = written(tmp_path / "model.ledger", STORY[:2])
    last = STORY[1][1].digests.data
    fewer = TREE.without([2, 3])
    refuses(ledger, certificate(fewer, 3, before=TREE.root), "data_before must be")
    refuses(ledger, certificate(fewer, 3), "data_before must be")
    refuses(ledger, certificate(TREE.without([2]), 3, before=last), "data_before must be")  # nothing was deleted
    refuses(ledger, certificate(fewer, 3, before=last), "data must be", action="release")
    refuses(ledger, certificate(fewer, 3, before=last), "fitted once", action="fit")


def test_the_beginning(tmp_path):
    ledger = Ledger(tmp_path / "model.ledger")
    start = model_digest(np.zeros((2, 1)))
    refuses(ledger, STORY[0][1], "'fit' for the first release", action="unlearn", model_before=None)
    refuses(ledger, STORY[0][1], "must name a model and data before it", action="fit", model_before=start)
    refuses(ledger, STORY[1][1], "'fit' for the first release", action="fit", model_before=start)
    refuses(ledger, STORY[1][1], "must name a model and data before it", model_before=None)
    before = certificate(TREE, 1, before="ab" * 32)
    refuses(ledger, before, "must name a model and data before it", action="fit", model_before=None)
    ledger.append(STORY[1][1], model_before=start, action="unlearn")  # releases behind it are counted by its number
    assert ledger.total().left == 2


def test_two_kinds_do_not_mix(tmp_path, ledger):
    langevin = certificate_of(1)
    refuses(ledger, langevin, "must be by residual", action=None)
    other = Ledger(tmp_path / "other.ledger")
    entry = other.append(langevin, model_before=model_digest(np.zeros((2, 1))))
    refuses(other, certificate(TREE, 2, before=TREE.root), "another kind", model_before=entry.model_after)


@pytest.mark.parametrize("action", [None, "forget", 3])
def test_an_action_is_needed_and_known(action, tmp_path):
    with pytest.raises(ValueError, match="action must be one of 'fit', 'unlearn'"):
        Ledger(tmp_path / "model.ledger").append(STORY[0][1], model_before=None, action=action)


def test_arguments_of_the_other_kind_are_refused(tmp_path):
    ledger = Ledger(tmp_path / "model.ledger")
    with pytest.raises(ValueError, match="action must not be given"):
        ledger.append(certificate_of(1), model_before="0" * 64, action="unlearn")
    with pytest.raises(ValueError, match="model_before must be 64"):
        ledger.append(certificate_of(1), model_before=None)
    with pytest.raises(ValueError, match="model_before must be 64"):
        ledger.append(STORY[0][1], model_before="short", action="fit")


def test_requests_are_entered_by_salted_digests(tmp_path):
    salt = bytes(range(32))
    ledger = written(tmp_path / "model.ledger", STORY[:1])
    entry = ledger.append(
        STORY[1][1],
        model_before=STORY[0][1].digests.released,
        action="unlearn",
        requests=[DeletionRequest(2, "R-7", "2026-03-01")],
        salt=salt,
    )
    assert entry.requests[0].id == record_id_digest(2, salt=salt)
    assert ledger.find(2, salt=salt) == (entry,)
    assert ledger.find(3, salt=salt) == ()


def chained(lines):
    previous, result = None, []
    for values in lines:
        values = {**values, **({} if previous is None else {"previous": previous})}
        values["hash"] = hash_of({name: value for name, value in values.items() if name != "hash"})
        previous = values["hash"]
        result.append(line_of(values))
    return b"".join(result)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"release": 2}, "release must be 3"),
        ({"release": 4}, "release must be 3"),
        ({"releases": 2}, "releases is a constant"),
        ({"model_before": "0" * 64}, "model_before must be"),
        ({"data": "0" * 64}, "data must be"),
        ({"kind": "another"}, "kind"),
        ({"mu": 0.0}, "mu"),
        ({"passes": 3}, "passes"),
    ],
    ids=str,
)
def test_a_chain_made_anew_must_still_keep_the_budget(ledger, changes, match):
    lines = [json.loads(line) for line in ledger.path.read_bytes().splitlines()]
    assert chained(lines) == ledger.path.read_bytes()
    lines[3] = {**lines[3], **changes}
    ledger.path.write_bytes(chained(lines))
    with pytest.raises(LedgerError, match=match) as caught:
        ledger.check()
    assert caught.value.line == 4


def test_a_chain_made_anew_cannot_exceed_the_budget(ledger):
    lines = [json.loads(line) for line in ledger.path.read_bytes().splitlines()]
    for line in lines[1:]:
        line["releases"] = 3
    ledger.path.write_bytes(chained(lines))
    with pytest.raises(LedgerError, match="budget spent: release 4 of 3") as caught:
        ledger.check()
    assert caught.value.line == 5


def test_an_edited_line_is_found(ledger):
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    for position in range(len(lines[2]) - 1):
        line = lines[2][:position] + bytes([lines[2][position] ^ 1]) + lines[2][position + 1 :]
        ledger.path.write_bytes(b"".join([*lines[:2], line, *lines[3:]]))
        with pytest.raises(LedgerError) as caught:
            ledger.check()
        assert caught.value.line == 3


def test_version_1_is_read_for_ever():
    ledger = Ledger(Path(__file__).parent / "golden" / "residual-v1" / "model.ledger")
    entries = ledger.entries()
    assert [entry.action for entry in entries] == ["fit", "unlearn", "release", "amend"]
    assert [entry.n_records for entry in entries] == [6, 5, 5, 5]
    assert ledger.total().left == 0


def test_an_action_that_was_not_done_is_no_entry(tmp_path):
    """Deletions leave fewer records, insertions more, corrections as many."""
    more = TREE.with_(X[:1], [1.0], ids=[6])
    same = TREE.replaced([0], [[1.0, 2.0]], [3.0])
    for tree, right in ((TREE.without([2]), "unlearn"), (more, "add"), (same, "amend")):
        ledger = written(tmp_path / f"{right}.ledger", STORY[:1])
        one = certificate(tree, 2, before=TREE.root)
        for action in {"unlearn", "add", "amend"} - {right}:
            refuses(ledger, one, f"n_records must be .* 6 after '{action}', got {one.n_records}", action=action)
        ledger.append(one, model_before=STORY[0][1].digests.released, action=right)


@pytest.mark.parametrize("text", ["a\nentry 9", "\x1b[2J"], ids=ascii)
@pytest.mark.parametrize("field", ["number", "date"])
def test_requests_cannot_pass_for_lines_of_a_summary(tmp_path, field, text):
    """Whoever writes a ledger of his own, hashes and all, puts no line of his into what is shown of it."""
    ledger = Ledger(tmp_path / "model.ledger")
    ledger.append(STORY[0][1], model_before=None, action="fit", requests=[DeletionRequest(number="R 1")])
    header, line = ledger.path.read_bytes().splitlines(keepends=True)
    values = json.loads(line)
    values["requests"][0][field] = text
    values["hash"] = hash_of({name: value for name, value in values.items() if name != "hash"})
    ledger.path.write_bytes(header + line_of(values))
    with pytest.raises(LedgerError, match="must be printable text on one line"):
        ledger.check()
