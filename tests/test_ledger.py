import dataclasses
import itertools
import json
import multiprocessing
import stat

import numpy as np
import pytest

from expunge import _files
from expunge.accounting.ridge_law import Phase, smoothness
from expunge.certificates import Certificate, RidgeRun, model_digest
from expunge.ledger import Ledger, LedgerError, _hash, _read

START = model_digest(np.zeros((2, 1)))


def certificates(n):
    """Return the certificates of n deletions in sequence, each of one more record."""
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(12, 2)), rng.normal(size=12)
    result = []
    for k in range(1, n + 1):
        phases = (Phase(20, 0.5), *(Phase(5, 0.8, tuple(range(j))) for j in range(1, k + 1)))
        run = RidgeRun(
            estimator="LangevinRidge",
            alpha=1.0,
            fit_intercept=False,
            step_size=1 / smoothness(X, alpha=1.0),
            classes=None,
            n_records=12,
            n_features=2,
            n_outputs=1,
            phases=phases,
            deleted=tuple(range(k)),
        )
        coefficients = np.full((2, 1), float(k))
        result.append(
            Certificate.create(
                X=X,
                y=y,
                model=coefficients,
                run=run,
                epsilon=1.0,
                delta=0.2 + k / 8,
                conditions=["a seed"] if k == 2 else [],
            )
        )
    return result


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
        ledger.append(dataclasses.replace(chain[0], delta=0.9), model_before=last)
    assert ledger.path.read_bytes() == data[:-1]


def test_a_failed_append_changes_nothing(ledger, chain, monkeypatch):
    data = ledger.path.read_bytes()

    def fail(*args):
        raise OSError("no space left on device")

    for failing in ("fsync", "replace"):
        fresh = dataclasses.replace(chain[0], delta=0.9)
        with monkeypatch.context() as patch:
            patch.setattr(_files.os, failing, fail)
            with pytest.raises(OSError, match="no space"):
                ledger.append(fresh, model_before=chain[-1].digests.model)
        assert ledger.path.read_bytes() == data
        assert len(list(ledger.path.parent.iterdir())) == 1


def _append_many(path, text, digest, first):
    certificate = Certificate.from_json(text)
    for i in range(10):
        fresh = dataclasses.replace(certificate, delta=0.5 + (first + i) / 100)
        Ledger(path).append(fresh, model_before=digest)


def test_writers_at_once_lose_nothing(chain, tmp_path):
    pytest.importorskip("fcntl")
    path, certificate = tmp_path / "model.ledger", chain[0]
    context = multiprocessing.get_context("spawn")
    model = certificate.digests.model
    writers = [
        context.Process(target=_append_many, args=(path, certificate.to_json(), model, 10 * k)) for k in range(2)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    ledger = Ledger(path)
    ledger.check()
    assert len(ledger.entries()) == 20


def test_permissions_are_kept(ledger, chain):
    ledger.path.chmod(0o600)
    ledger.append(dataclasses.replace(chain[0], delta=0.9), model_before=chain[-1].digests.model)
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600
