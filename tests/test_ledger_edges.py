"""A ledger at its edges: lines that hold more or less than they may, claims at their limits, what errors say."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from expunge.certificates import Sources, model_digest
from expunge.ledger import DeletionRequest, Ledger, LedgerError
from expunge.ledger.lines import hash_of, line_of
from given_runs import certificate_of

START = model_digest(np.zeros((2, 1)))
SALT = bytes(range(32))


@pytest.fixture(scope="module")
def chain():
    return [certificate_of(n) for n in range(1, 4)]


@pytest.fixture
def ledger(chain, tmp_path):
    result, before = Ledger(tmp_path / "model.ledger"), START
    for one in chain:
        before = result.append(one, model_before=before, salt=SALT).model_after
    return result


def chained(lines):
    """Return lines of JSON values as a ledger with fitting hashes."""
    previous, result = None, []
    for values in lines:
        values = {**values, **({} if previous is None else {"previous": previous})}
        values["hash"] = hash_of({name: value for name, value in values.items() if name != "hash"})
        previous = values["hash"]
        result.append(line_of(values))
    return b"".join(result)


def lines_of(ledger):
    return [json.loads(line) for line in ledger.path.read_bytes().splitlines()]


# --- lines --------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [1, 2, 4])
def test_a_line_with_a_field_that_no_version_knows_is_refused(ledger, line):
    lines = lines_of(ledger)
    lines[line - 1]["surplus"] = 1
    ledger.path.write_bytes(chained(lines))
    with pytest.raises(LedgerError, match=r"surplus: is not a field") as caught:
        ledger.check()
    assert caught.value.line == line


def test_a_request_with_a_field_that_no_version_knows_is_refused(ledger):
    lines = lines_of(ledger)
    lines[2]["requests"] = [{"number": "R-1", "date": None, "id": None, "name": "Smith"}]
    ledger.path.write_bytes(chained(lines))
    with pytest.raises(LedgerError, match=r"requests\[0\]\.name: is not a field") as caught:
        ledger.check()
    assert caught.value.line == 3


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"epsilon": -5e-324}, "epsilon"),
        ({"delta": 1.0}, "delta"),
        ({"delta": -0.1}, "delta"),
        ({"n_deleted": 0}, "n_deleted"),
        ({"n_phases": 1}, "n_phases"),
        ({"method": ""}, "method"),
        ({"status": "sure"}, "status"),
        ({"time": "2026-01-01"}, "time"),
        ({"requests": [{"number": "", "date": None, "id": None}]}, "number"),
        ({"requests": [{"number": None, "date": "", "id": None}]}, "date"),
        ({"requests": [{"number": None, "date": None, "id": "CUST-17"}]}, "id"),
        ({"requests": [{"number": None, "date": None}]}, "id"),
        ({"requests": {}}, "requests"),
        ({"data": None}, "data"),
    ],
)
def test_a_first_entry_that_no_deletion_makes_is_refused_by_field(ledger, changes, field):
    lines = lines_of(ledger)[:2]
    lines[1].update(changes)
    ledger.path.write_bytes(chained(lines))
    with pytest.raises(LedgerError, match=rf"line 2: is not an entry of this ledger: .*{field}"):
        ledger.check()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"format": "ledger"}, "format"),
        ({"version": 3}, "version"),
        ({"version": 0}, "version"),
        ({"version": True}, "version"),
        ({"ledger": "0" * 31}, "ledger"),
        ({"created": "yesterday"}, "created"),
    ],
)
def test_a_first_line_that_does_not_say_what_the_file_is_is_refused_by_field(ledger, changes, field):
    lines = lines_of(ledger)[:1]
    lines[0].update(changes)
    ledger.path.write_bytes(chained(lines))
    with pytest.raises(LedgerError, match=rf"line 1: is not an entry of this ledger: {field}"):
        ledger.check()


def test_entries_at_the_limits_are_read(ledger):
    lines = lines_of(ledger)[:2]
    lines[1].update(epsilon=0, delta=0, n_deleted=1, n_phases=2, phases=None)
    lines[1]["requests"] = [{"number": "7", "date": "x", "id": None}, {"number": None, "date": None, "id": "0" * 64}]
    ledger.path.write_bytes(chained(lines))
    (entry,) = ledger.entries()
    assert (type(entry.epsilon), entry.epsilon, entry.delta, entry.n_deleted) == (float, 0.0, 0.0, 1)
    assert [(one.number, one.date, one.id) for one in entry.requests] == [("7", "x", None), (None, None, "0" * 64)]


def test_a_line_that_says_the_same_in_other_characters_is_seen(ledger):
    """Its hash is of what it says; whoever compares files or keeps one as evidence needs the bytes."""
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    for i, line in enumerate(lines):
        for other in (json.dumps(json.loads(line)).encode(), line[:-1] + b" ", line[:-1] + b"\r"):
            assert json.loads(other) == json.loads(line)
            ledger.path.write_bytes(b"".join([*lines[:i], other + b"\n", *lines[i + 1 :]]))
            with pytest.raises(LedgerError, match="not written as this library writes it") as caught:
                ledger.check()
            assert caught.value.line == i + 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_line_holds_what_json_cannot(value):
    for make in (hash_of, line_of):
        with pytest.raises(ValueError, match="JSON"):
            make({"epsilon": value})


# --- what is entered ----------------------------------------------------------------------------


def test_a_claim_below_epsilon_1_is_entered_as_it_is(tmp_path):
    ledger = Ledger(tmp_path / "model.ledger")
    entry = ledger.append(certificate_of(1, epsilon=0.25), model_before=START)
    assert (entry.epsilon, entry.delta, entry.n_phases, entry.phases) == (0.25, 0.325, 2, None)


def test_an_entry_holds_the_standing_of_its_certificate(chain, tmp_path):
    conditional = certificate_of(1, sources=Sources())
    for one, status in ((chain[0], "certified"), (conditional, "conditional")):
        ledger = Ledger(tmp_path / f"{status}.ledger")
        assert ledger.append(one, model_before=START).status == status
        assert ledger.total().status == status


def test_a_ledger_without_a_folder_is_named_and_not_made(chain, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .*missing does not exist"):
        Ledger(tmp_path / "missing" / "model.ledger").append(chain[0], model_before=START)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", ["", "0" * 63, "0" * 65, "g" * 64, "A" * 64, None, 7, b"0" * 64])
def test_a_model_before_is_a_digest(chain, tmp_path, bad):
    with pytest.raises(ValueError, match="model_before must be 64 hexadecimal characters"):
        Ledger(tmp_path / "model.ledger").append(chain[0], model_before=bad)
    assert not list(tmp_path.iterdir())


def test_requests_are_requests(chain, tmp_path):
    ledger = Ledger(tmp_path / "model.ledger")
    for bad in ("CUST-17", {"number": "R-1"}, None):
        with pytest.raises(TypeError, match="requests must hold DeletionRequest"):
            ledger.append(chain[0], model_before=START, requests=[DeletionRequest(number="R-0"), bad], salt=SALT)
    assert not ledger.path.exists()


@pytest.mark.parametrize("salt", [b"", bytes(31), bytes(33), "0" * 32, bytearray(32)])
def test_a_salt_is_32_bytes(chain, tmp_path, salt):
    with pytest.raises(ValueError, match="salt must be 32 bytes"):
        Ledger(tmp_path / "model.ledger").append(chain[0], model_before=START, salt=salt)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"number": " "}, "number of a request must be printable text"),
        ({"number": "a\x07"}, "number of a request must be printable text"),
        ({"number": 7}, "number of a request must be printable text"),
        ({"date": ""}, "date of a request must be printable text"),
        ({"date": 20260301}, "date of a request must be printable text"),
        ({"date": "2026-02-30"}, "date of a request must look like 2026-03-01"),
        ({"record_id": 7, "number": "7"}, "must not be the record id"),
        ({"record_id": "p ", "number": " p"}, "must not be the record id"),
    ],
)
def test_requests_that_say_nothing_sensible_cannot_be_made(values, match):
    with pytest.raises(ValueError, match=match):
        DeletionRequest(**values)


def test_requests_may_leave_out_what_is_not_known():
    assert DeletionRequest() == DeletionRequest(None, None, None)
    DeletionRequest(7, "8", "2026-03-01T12:00:00")
    DeletionRequest(None, "None")  # without an id there is nothing that the number could give away


# --- lineage ------------------------------------------------------------------------------------


def refuses(ledger, one, match, **options):
    data = ledger.path.read_bytes()
    with pytest.raises(LedgerError, match=match):
        ledger.append(one, **{"model_before": ledger.entries()[-1].model_after, **options})
    assert ledger.path.read_bytes() == data


def test_the_same_counts_with_another_history_are_seen_without_the_salt(ledger, chain):
    """Two records deleted at once where the last entry knows of them one by one, or a phase more."""
    fourth = certificate_of(4)
    phases = fourth.run.phases
    fewer = (phases[0], *phases[2:])
    more = (*phases[:-1], dataclasses.replace(phases[-2], n_steps=1), phases[-1])
    for changed in (fewer, more):
        run = dataclasses.replace(fourth.run, phases=changed)
        refuses(ledger, dataclasses.replace(fourth, run=run), "the last entry's with one more deletion, got one of")
    ledger.append(fourth, model_before=chain[-1].digests.model, salt=SALT)


def test_another_data_set_is_named_as_such(ledger):
    refuses(ledger, certificate_of(4, seed=4), "must be about the data of the last entry, got one about other data")


def test_with_the_salt_steps_and_noise_of_earlier_phases_are_held_against_the_last_entry(ledger, chain):
    fourth = certificate_of(4)
    before = chain[-1].digests.model
    for i in range(4):
        phases = list(fourth.run.phases)
        phases[i] = dataclasses.replace(phases[i], n_steps=phases[i].n_steps + 1)
        run = dataclasses.replace(fourth.run, phases=tuple(phases))
        refuses(ledger, dataclasses.replace(fourth, run=run), "got another run", salt=SALT)
    refuses(ledger, fourth, "got another run", salt=bytes(32))
    ledger.append(fourth, model_before=before, salt=SALT)


def test_after_an_entry_without_the_salt_phases_are_not_compared(chain, tmp_path):
    ledger = Ledger(tmp_path / "model.ledger")
    first = ledger.append(chain[0], model_before=START)
    assert first.phases is None
    second = ledger.append(chain[1], model_before=first.model_after, salt=SALT)
    assert second.phases is not None


def test_a_certificate_is_entered_once_also_when_others_came_between(ledger, chain):
    """Its model came back by chance or by hand: the model before is the last, the certificate an old one."""
    refuses(ledger, chain[0], f"certificate {chain[0].digest()} has been entered already")


# --- the whole ----------------------------------------------------------------------------------


def test_totals_add_up_and_name_the_last_claim(ledger, tmp_path):
    total = ledger.total()
    assert (total.n_entries, total.n_deleted, total.epsilon, total.last_epsilon) == (3, 3, 3.0, 1.0)
    assert total.delta == 1.0  # 1.35, and a delta is at most 1
    assert total.last_delta == 0.575
    assert total.status == "certified"
    assert total.summary().splitlines() == [
        "3 deletions, 3 records gone (certified)",
        "  last certificate, all records so far: epsilon = 1, delta = 0.575",
        "  sum of all claims (bookkeeping only): epsilon = 3, delta = 1",
    ]
    one = Ledger(tmp_path / "one.ledger")
    one.path.write_bytes(chained(lines_of(ledger)[:2]))
    assert one.total().delta == 0.325
    assert one.total().summary().startswith("1 deletion, 1 record gone")
    empty = Ledger.create(tmp_path / "empty.ledger").total()
    assert (empty.n_entries, empty.n_deleted, empty.epsilon, empty.delta) == (0, 0, 0, 0)
    assert (empty.last_epsilon, empty.last_delta, empty.status) == (None, None, "certified")


@pytest.mark.parametrize(
    ("statuses", "weakest"),
    [
        (("certified", "conditional", "certified"), "conditional"),
        (("conditional", "estimate", "certified"), "estimate"),
    ],
)
def test_the_status_of_all_is_the_weakest(ledger, statuses, weakest):
    lines = lines_of(ledger)
    for line, status in zip(lines[1:], statuses, strict=True):
        line["status"] = status
    ledger.path.write_bytes(chained(lines))
    assert ledger.total().status == weakest


def test_a_head_is_the_hash_of_any_line_and_of_nothing_else(ledger):
    for line in lines_of(ledger):
        ledger.check(head=line["hash"])
    for other in ("0" * 64, "", lines_of(ledger)[1]["certificate"]):
        with pytest.raises(LedgerError, match="must be in the chain"):
            ledger.check(head=other)


def test_a_model_that_is_not_the_last_entry_s_is_named(ledger, chain, tmp_path):
    ledger.check(model=chain[-1].digests.model)
    with pytest.raises(LedgerError, match=f"about model {START}, got {chain[-1].digests.model}"):
        ledger.check(model=START)
    with pytest.raises(LedgerError, match=f"about model {START}, got no entry"):
        Ledger.create(tmp_path / "empty.ledger").check(model=START)


def test_two_new_ledgers_differ_in_their_names(tmp_path):
    one, other = (Ledger.create(tmp_path / name) for name in ("one", "other"))
    assert one.head() != other.head()
    assert repr(one) == f"Ledger({str(tmp_path / 'one')!r})"
