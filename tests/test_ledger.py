import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import re
import secrets
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from expunge import _files
from expunge.certificates import Certificate, Sources, model_digest
from expunge.ledger import DeletionRequest, Ledger, LedgerError, record_id_digest
from expunge.ledger.lines import hash_of as _hash
from expunge.ledger.lines import read as _read
from given_runs import certificate_of

START = model_digest(np.zeros((2, 1)))


def certificates(n, *, seed=3, rows=range(11)):
    """Return the certificates of n deletions in sequence, each of one more record."""
    setting = {"seed": seed, "rows": rows, "sources": Sources()}
    return [certificate_of(k, conditions=["a seed"] if k == 2 else [], **setting) for k in range(1, n + 1)]


@pytest.fixture(scope="module")
def chain():
    return certificates(4)


@pytest.fixture
def ledger(chain, tmp_path):
    result = Ledger(tmp_path / "model.ledger")
    before = START
    for certificate in chain:
        before = result.append(certificate, model_before=before).model_after
    return result


def test_entries_say_what_the_certificates_claim(ledger, chain):
    entries = ledger.entries()
    assert [entry.entry for entry in entries] == [1, 2, 3, 4]
    for entry, certificate in zip(entries, chain, strict=True):
        assert entry.certificate == certificate.digest()
        assert entry.record == certificate.digests.record
        assert entry.model_after == certificate.digests.model
        assert (entry.epsilon, entry.delta) == (certificate.epsilon, certificate.delta)
        assert (entry.method, entry.status) == (certificate.method, certificate.status)
        assert entry.n_deleted == len(certificate.run.deleted)
        assert certificate.salt not in ledger.path.read_text()
    assert entries[0].model_before == START
    assert all(a.hash == b.previous for a, b in itertools.pairwise(entries))
    ledger.check(head=ledger.head(), model=chain[-1].digests.model)


def test_total_adds_up(ledger, chain):
    total = ledger.total()
    assert total.n_entries == total.n_deleted == 4
    assert total.epsilon == pytest.approx(4.0)
    assert total.delta == 1.0  # 2.05, and a delta never exceeds 1
    assert (total.last_epsilon, total.last_delta) == (1.0, chain[-1].delta)
    assert total.status == "conditional"
    assert "bookkeeping only" in total.summary()


def test_an_empty_ledger_is_whole(tmp_path):
    ledger = Ledger.create(tmp_path / "model.ledger")
    ledger.check()
    assert ledger.entries() == ()
    assert ledger.total().summary() == "no deletions"
    with pytest.raises(FileExistsError):
        Ledger.create(ledger.path)
    with pytest.raises(FileNotFoundError, match="no ledger"):
        Ledger(tmp_path / "other").check()


def test_appending_only_adds_to_the_end(ledger, chain, tmp_path):
    other = Ledger(tmp_path / "other.ledger")
    before, contents = START, b""
    for certificate in chain:
        before = other.append(certificate, model_before=before).model_after
        data = other.path.read_bytes()
        assert data.startswith(contents)
        contents = data
    assert len({ledger.head(), other.head()}) == 2
    assert {file.name for file in tmp_path.iterdir()} == {"model.ledger", "other.ledger"}


def refused(ledger, data, line):
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(data)
    for reading in (ledger.check, ledger.entries, ledger.total, ledger.head):
        with pytest.raises(LedgerError) as caught:
            reading()
        assert caught.value.line == line
        assert f"line {line}" in str(caught.value)
    ledger.path.write_bytes(whole)


def test_an_edited_line_is_found(ledger):
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    for i, line in enumerate(lines):
        for name, value in json.loads(line).items():
            changed = {
                "time": "2020-01-01T00:00:00Z",
                "created": "2020-01-01T00:00:00Z",
                "method": "uniform",
                "status": "estimate",
                "format": "ledger",
                "phases": "0" * 64,
                "requests": [{"number": "R-1", "date": None, "id": None}],
            }.get(name)
            if changed is None and isinstance(value, str):
                changed = ("0" if value[0] != "0" else "1") + value[1:]
            elif changed is None:
                changed = value + 0.25 if isinstance(value, float) else value + 1
            values = {**json.loads(line), name: changed}
            changed_line = json.dumps(values, separators=(",", ":")).encode() + b"\n"
            refused(ledger, b"".join([*lines[:i], changed_line, *lines[i + 1 :]]), i + 1)
        for position in range(len(line) - 1):
            changed_line = line[:position] + bytes([line[position] ^ 1]) + line[position + 1 :]
            with pytest.raises(LedgerError) as caught:
                _read(b"".join([*lines[:i], changed_line, *lines[i + 1 :]]))
            assert caught.value.line == i + 1


def test_a_line_whose_hash_was_made_anew_breaks_the_next(ledger):
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    for i in range(len(lines) - 1):
        values = json.loads(lines[i])
        values["created" if i == 0 else "time"] = "2020-01-01T00:00:00Z"
        values["hash"] = _hash({name: value for name, value in values.items() if name != "hash"})
        changed = json.dumps(values, separators=(",", ":")).encode() + b"\n"
        refused(ledger, b"".join([*lines[:i], changed, *lines[i + 1 :]]), i + 2)


def test_a_removed_repeated_or_moved_line_is_found(ledger):
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    for i in range(len(lines) - 1):
        refused(ledger, b"".join(lines[:i] + lines[i + 1 :]), i + 1)
        refused(ledger, b"".join([*lines[: i + 1], lines[i], *lines[i + 1 :]]), i + 2)
        refused(ledger, b"".join([*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]]), i + 1)
        refused(ledger, b"".join([*lines[: i + 1], b"\n", *lines[i + 1 :]]), i + 2)


def test_a_file_cut_short_is_found(ledger):
    data = ledger.path.read_bytes()
    ends = {i + 1 for i, byte in enumerate(data) if byte == 10}
    for length in set(range(len(data))) - ends:
        with pytest.raises(LedgerError) as caught:
            _read(data[:length])
        assert caught.value.line == data[:length].count(b"\n") + 1
    refused(ledger, data[:-1], 5)
    refused(ledger, b"", 1)


def test_missing_last_lines_are_seen_with_the_head_or_the_model(ledger, chain):
    data, head = ledger.path.read_bytes(), ledger.head()
    lines = data.splitlines(keepends=True)
    for kept in range(1, len(lines)):
        ledger.path.write_bytes(b"".join(lines[:kept]))
        ledger.check()  # a chain cannot know what it does not hold
        with pytest.raises(LedgerError, match="head"):
            ledger.check(head=head)
        with pytest.raises(LedgerError, match="model"):
            ledger.check(model=chain[-1].digests.model)
        older = ledger.head()
        ledger.path.write_bytes(data)
        ledger.check(head=older)


def test_lines_of_another_ledger_do_not_fit(ledger, chain, tmp_path):
    other = Ledger(tmp_path / "other.ledger")
    other.append(chain[0], model_before=START)
    first = ledger.path.read_bytes().splitlines(keepends=True)[0]
    second = other.path.read_bytes().splitlines(keepends=True)[1]
    refused(ledger, first + second, 2)


def test_what_may_not_be_entered(ledger, chain):
    data = ledger.path.read_bytes()
    last = chain[-1].digests.model
    with pytest.raises(LedgerError, match="model_before"):
        ledger.append(chain[0], model_before=START)
    with pytest.raises(LedgerError, match="already"):
        ledger.append(chain[0], model_before=last)
    with pytest.raises(ValueError, match="model_before"):
        ledger.append(chain[0], model_before="none")
    with pytest.raises(TypeError, match="certificate"):
        ledger.append(chain[0].to_json(), model_before=last)
    ledger.path.write_bytes(data[:-1])
    with pytest.raises(LedgerError, match="line 5"):
        ledger.append(further(chain), model_before=last)
    assert ledger.path.read_bytes() == data[:-1]


def test_a_failed_append_changes_nothing(ledger, chain, monkeypatch):
    data = ledger.path.read_bytes()

    def fail(*args):
        raise OSError("no space left on device")

    for failing in ("fsync", "replace"):
        fresh = further(chain)
        with monkeypatch.context() as patch:
            patch.setattr(_files.os, failing, fail)
            with pytest.raises(OSError, match="no space"):
                ledger.append(fresh, model_before=chain[-1].digests.model)
        assert ledger.path.read_bytes() == data
        assert len(list(ledger.path.parent.iterdir())) == 1


def _append_all(path, texts, start):
    certificates = [Certificate.from_json(text) for text in texts]
    before, refused = start, 0
    for certificate in certificates:
        try:
            Ledger(path).append(certificate, model_before=before)
        except LedgerError:
            refused += 1
        before = certificate.digests.model
    return refused


def test_writers_at_once_enter_a_deletion_once(chain, tmp_path):
    pytest.importorskip("fcntl")
    path, texts = tmp_path / "model.ledger", [certificate.to_json() for certificate in chain]
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        refused = pool.starmap(_append_all, [(path, texts, START)] * 3)
    ledger = Ledger(path)
    ledger.check()
    assert [entry.certificate for entry in ledger.entries()] == [certificate.digest() for certificate in chain]
    assert sum(refused) == 2 * len(chain)
    assert [file.name for file in tmp_path.iterdir()] == ["model.ledger"]


def test_a_ledger_is_for_its_owner_alone_whatever_it_was_before(ledger, chain):
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600
    ledger.path.chmod(0o644)
    ledger.append(further(chain), model_before=chain[-1].digests.model)
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600


def test_a_link_is_not_followed(chain, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises((LedgerError, ValueError, OSError)):
        Ledger(tmp_path / "link").append(chain[0], model_before=START)
    assert not (tmp_path / "elsewhere").exists()


# --- lineage ------------------------------------------------------------------------------------


def further(chain):
    """Return the certificate of one more deletion after a chain's."""
    return certificates(len(chain) + 1)[-1]


def refuses(ledger, certificate, match, **options):
    data = ledger.path.read_bytes()
    with pytest.raises(LedgerError, match=match):
        ledger.append(certificate, **{"model_before": ledger.entries()[-1].model_after, **options})
    assert ledger.path.read_bytes() == data


def test_a_deletion_is_entered_once_also_under_a_new_salt(ledger, chain):
    for certificate in chain:
        refuses(ledger, dataclasses.replace(certificate, salt="ab" * 32), "more than the 4 record")
    first = dataclasses.replace(chain[0], salt="ab" * 32)
    short = Ledger(ledger.path.parent / "short.ledger")
    short.append(chain[0], model_before=START)
    refuses(short, first, "more than the 1 record")
    assert short.entries()[0].n_deleted == 1


def test_fewer_deleted_records_than_before_are_refused(chain, tmp_path):
    ledger = Ledger(tmp_path / "model.ledger")
    ledger.append(chain[2], model_before=START)  # a ledger may begin with a model that has deletions behind it
    refuses(ledger, chain[0], "more than the 3 record")
    refuses(ledger, chain[2], "already")
    ledger.append(chain[3], model_before=chain[2].digests.model)


def test_a_deletion_must_not_be_left_out(ledger, chain):
    more = certificates(6)
    refuses(ledger, more[5], "one more deletion")
    ledger.append(more[4], model_before=chain[-1].digests.model)
    ledger.append(more[5], model_before=more[4].digests.model)


def test_another_data_set_is_refused(ledger):
    refuses(ledger, certificates(5, seed=4)[-1], "other data")


def test_an_estimate_is_refused(ledger, chain):
    refuses(ledger, dataclasses.replace(further(chain), status="estimate"), "estimate")


def test_another_run_on_the_same_data_is_seen_with_the_salt(chain, tmp_path):
    """With one deletion more than the last entry, but of other records: who has the working model sees it."""
    salt = bytes(32)
    for known in (True, False):
        ledger = Ledger(tmp_path / f"{known}.ledger")
        ledger.append(chain[0], model_before=START, salt=salt)
        other = certificates(2, rows=(7, 3))[-1]
        if known:
            refuses(ledger, other, "another run", salt=salt)
            ledger.append(chain[1], model_before=chain[0].digests.model, salt=salt)
        else:
            ledger.append(other, model_before=chain[0].digests.model)


def chained(lines):
    """Return lines of JSON values as a ledger with fitting hashes."""
    previous, result = None, []
    for values in lines:
        values = {**values, **({} if previous is None else {"previous": previous})}
        values["hash"] = _hash({name: value for name, value in values.items() if name != "hash"})
        previous = values["hash"]
        result.append(json.dumps(values, separators=(",", ":")).encode() + b"\n")
    return b"".join(result)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"model_before": "0" * 64}, "another model"),
        ({"n_deleted": 2}, "counts 2 deleted records after 2"),
        ({"n_deleted": 1}, "counts 1 deleted records after 2"),
        ({"data": "0" * 64}, "other data or another run"),
        ({"n_phases": 5}, "other data or another run"),
        ({"entry": 4}, "does not follow"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"requests": [{"number": 7, "date": None, "id": None}]}, "number"),
        ({"phases": "short"}, "phases"),
    ],
)
def test_a_chain_made_anew_must_still_be_about_one_run(ledger, changes, match):
    lines = [json.loads(line) for line in ledger.path.read_bytes().splitlines()]
    assert chained(lines) == ledger.path.read_bytes()
    lines[3] = {**lines[3], **changes}
    ledger.path.write_bytes(chained(lines))
    with pytest.raises(LedgerError, match=match) as caught:
        ledger.check()
    assert caught.value.line == 4


def test_a_version_1_line_does_not_follow_one_of_version_2(ledger):
    lines = [json.loads(line) for line in ledger.path.read_bytes().splitlines()]
    for name in ("data", "n_phases", "phases", "requests"):
        del lines[4][name]
    ledger.path.write_bytes(chained(lines))
    with pytest.raises(LedgerError, match="version 1 after"):
        ledger.check()


# --- version 1 ----------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "golden" / "ledger-v1"


@pytest.fixture
def old(tmp_path):
    """Return a ledger that version 1 wrote, and the certificates of its two deletions."""
    shutil.copy(GOLDEN / "model.ledger", tmp_path)
    return Ledger(tmp_path / "model.ledger"), [Certificate.load(GOLDEN / f"{k}.json") for k in (1, 2)]


def test_a_ledger_of_version_1_is_read(old):
    ledger, entered = old
    entries = ledger.entries()
    assert [entry.certificate for entry in entries] == [certificate.digest() for certificate in entered]
    assert [entry.n_deleted for entry in entries] == [1, 2]
    assert entries[0].data is None
    assert entries[0].requests == ()
    ledger.check(model=entered[-1].digests.model)


def test_a_ledger_of_version_1_is_extended(old, chain):
    ledger, entered = old
    data = ledger.path.read_bytes()
    model = entered[-1].digests.model
    refuses(ledger, chain[0], "more than the 2 record")
    refuses(ledger, chain[2], "model_before", model_before=START)
    entry = ledger.append(chain[2], model_before=model, requests=[DeletionRequest(7, "R-1")], salt=bytes(32))
    assert entry.n_deleted == 3
    assert ledger.path.read_bytes().startswith(data)
    ledger.append(chain[3], model_before=chain[2].digests.model)
    ledger.check()


# --- on whose request ---------------------------------------------------------------------------


def test_an_entry_tells_of_a_person_by_a_salted_digest_alone(chain, tmp_path):
    salt = secrets.token_bytes(32)
    ledger = Ledger(tmp_path / "model.ledger")
    requests = [
        DeletionRequest("CUST-17", "R-2026-1", "2026-03-01"),
        DeletionRequest(4711),
        DeletionRequest(None, "R-3"),
    ]
    entry = ledger.append(chain[0], model_before=START, requests=requests, salt=salt)
    ledger.append(chain[1], model_before=entry.model_after, salt=salt)
    text = ledger.path.read_text()
    assert "CUST-17" not in text
    assert "4711" not in re.sub("[0-9a-f]{32,}", "", text)
    assert salt.hex() not in text
    for guess in (b"CUST-17", b'"CUST-17"', b"4711"):
        assert hashlib.sha256(guess).hexdigest() not in text
    assert [(one.number, one.date) for one in entry.requests] == [
        ("R-2026-1", "2026-03-01"),
        (None, None),
        ("R-3", None),
    ]
    assert entry.requests[0].id == record_id_digest("CUST-17", salt=salt)
    assert entry.requests[2].id is None
    assert ledger.find("CUST-17", salt=salt) == ledger.find(4711, salt=salt) == ledger.entries()[:1]
    assert ledger.find("4711", salt=salt) == ledger.find("CUST-18", salt=salt) == ()
    assert ledger.find("CUST-17", salt=bytes(32)) == ()


@pytest.mark.parametrize(
    "request_of", [{"number": ""}, {"number": 7}, {"number": "a\nb"}, {"date": "01.03.2026"}, {"date": "soon"}]
)
def test_requests_are_checked(request_of):
    with pytest.raises(ValueError, match=next(iter(request_of))):
        DeletionRequest("p", **request_of)


@pytest.mark.parametrize(("record_id", "number"), [("CUST-17", "CUST-17"), (4711, "4711"), ("p", " p ")])
def test_a_record_id_is_no_number_of_a_request(record_id, number):
    with pytest.raises(ValueError, match="number of a request must not be the record id"):
        DeletionRequest(record_id, number)


def test_plain_ids_are_never_entered(chain, tmp_path):
    ledger = Ledger(tmp_path / "model.ledger")
    for salt, match in ((None, "salt must be given"), (b"short", "32 bytes")):
        with pytest.raises(ValueError, match=match):
            ledger.append(chain[0], model_before=START, requests=[DeletionRequest("p")], salt=salt)
    for bad in (1.5, True, None):
        with pytest.raises(TypeError, match="record_id"):
            record_id_digest(bad, salt=bytes(32))
    assert not ledger.path.exists()
