"""Files that take their names together: whenever the writer is killed, all of them are there in the end, or none."""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from expunge._files import PUBLIC, FileFormatError
from expunge._files.outputs import check_places
from expunge._files.transaction import Change, exclusive
from expunge.cli.main import one_line
from killing import MOMENTS, Killed, killed_at


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Nothing of a test needs to outlive the machine; that each file is synced is seen by the calls."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


OLD, NEW = b"old" * 1000, b"new" * 1000


def places(folder):
    """Return three files in two folders; one is there already, one is new, one is new and public."""
    (folder / "other").mkdir(exist_ok=True)
    return [folder / "model", folder / "other" / "certificate", folder / "released"]


def changes(folder):
    first, second, third = places(folder)
    return [Change(first, NEW, replace=True), Change(second, NEW + b"2"), Change(third, NEW + b"3", mode=PUBLIC)]


def write(folder, word="a word"):
    """Do what a command does: end what was begun, and begin anew unless that was the same."""
    with exclusive(places(folder)) as session:
        if word in session.finished:
            return "finished"
        session.commit(changes(folder), word=word)
        return "anew"


def write_and_be_killed(folder, number, moment):
    """Kill the command at its ``number``-th call; return whether it ended before that, and the calls made."""
    with killed_at(number, moment) as made:
        try:
            write(folder)
        except Killed:
            return False, made
    return True, made


def contents(folder):
    return [file.read_bytes() if file.exists() else None for file in places(folder)]


def listed(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


WHOLE = [NEW, NEW + b"2", NEW + b"3"]
NAMES = ["model", "other/certificate", "released"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_call_the_same_command_ends_or_begins_anew(tmp_path, moment):
    outcomes = []
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        folder.mkdir()
        places(folder)[0].write_bytes(OLD)
        ended, made = write_and_be_killed(folder, number, moment)
        if ended:
            break
        for place in folder.rglob(".*"):
            assert place.stat().st_mode & 0o077 == 0 or place.read_bytes() == WHOLE[2]
        seen = contents(folder)
        with exclusive([folder / "other" / "unrelated"]):  # somebody else comes along first
            assert contents(folder) in (WHOLE, [OLD, None, None])
        began = contents(folder) == WHOLE
        if began:
            with exclusive(places(folder)) as session:
                assert session.finished in ([], ["a word"])
        else:
            assert seen[0] == OLD
            assert write(folder) == "anew"
        assert contents(folder) == WHOLE
        assert listed(folder) == NAMES
        outcomes.append((made[-1], began))
    assert len(outcomes) > 20
    assert {"open", "write", "fsync", "replace", "unlink", "chmod", "flock"} <= {name for name, _ in outcomes}
    assert [began for _, began in outcomes] == sorted(began for _, began in outcomes)  # one call decides
    assert {began for _, began in outcomes} == {True, False}


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_command_that_ends_it_knows_its_own_word(tmp_path, moment):
    said = []
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        folder.mkdir()
        places(folder)[0].write_bytes(OLD)
        if write_and_be_killed(folder, number, moment)[0]:
            break
        if contents(folder) == WHOLE and not list(folder.glob(".*")):
            continue  # killed when all was done
        said.append(write(folder))
        assert contents(folder) == WHOLE
        assert listed(folder) == NAMES
    assert said == sorted(said)
    assert set(said) == {"anew", "finished"}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_again_while_ending_it(tmp_path, moment, decides):
    """Kill when the journal stands, and then at every call of the one who comes to end it."""
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        folder.mkdir()
        places(folder)[0].write_bytes(OLD)
        with pytest.raises(Killed), killed_at(decides, "after"):
            write(folder)
        ended, made = write_and_be_killed(folder, number, moment)
        if ended:
            break
        if listed(folder) != NAMES:
            assert write(folder) == "finished"
        assert contents(folder) == WHOLE
        assert listed(folder) == NAMES
    assert number > 5
    assert made


@pytest.fixture(scope="module")
def decides(tmp_path_factory):
    """Return the number of the call that decides: the journal takes its name."""
    folder = tmp_path_factory.mktemp("dry")
    places(folder)[0].write_bytes(OLD)
    with killed_at(10**6, "before") as made:
        write(folder)
    return max(i for i, name in enumerate(made[: made.index("chmod")], start=1) if name == "replace")


def test_permissions(tmp_path):
    places(tmp_path)[0].write_bytes(OLD)
    places(tmp_path)[0].chmod(0o644)
    before = os.umask(0o022)
    try:
        write(tmp_path)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(file.stat().st_mode) for file in places(tmp_path)] == [0o600, 0o600, 0o644]


def test_a_failure_before_the_journal_leaves_nothing(tmp_path, monkeypatch):
    places(tmp_path)[0].write_bytes(OLD)

    def fail(*args):
        raise OSError("no space left on device")

    for name in ("write", "fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="no space"):
                write(tmp_path)
        assert contents(tmp_path) == [OLD, None, None]
        assert listed(tmp_path) == ["model"]


def test_what_is_there_is_not_replaced_unasked(tmp_path):
    places(tmp_path)[0].write_bytes(OLD)
    places(tmp_path)[1].write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="certificate already exists"):
        write(tmp_path)
    assert contents(tmp_path) == [OLD, b"precious", None]
    assert listed(tmp_path) == NAMES[:2]


def test_a_link_is_refused(tmp_path):
    places(tmp_path)[0].symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="symbolic link"):
        write(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_no_file_is_not_replaced(tmp_path):
    """A pipe is opened by whoever waits at its other end, and a device by everybody."""
    for number, make in enumerate((os.mkfifo, os.mkdir)):
        place = tmp_path / str(number)
        make(place)
        with exclusive([place]) as session, pytest.raises(ValueError, match="must be the name of a file"):
            session.commit([Change(place, b"new", replace=True)])
        assert not place.is_file()
        assert listed(tmp_path) == []


@pytest.fixture
def begun(decides):
    """Return a function that leaves a journal whose files have not got their names."""

    def begin(folder):
        folder.mkdir()
        places(folder)[0].write_bytes(OLD)
        with pytest.raises(Killed), killed_at(decides, "after"):
            write(folder)
        assert contents(folder) == [OLD, None, None]
        return folder

    return begin


def test_names_reach_the_disk_before_the_journal_that_speaks_of_them(tmp_path, decides):
    places(tmp_path)[0].write_bytes(OLD)
    with killed_at(10**6, "before") as made:
        write(tmp_path)
    assert made[decides - 6 : decides] == ["fsync", "fsync", "open", "write", "fsync", "replace"]


def test_every_folder_of_what_was_begun_is_locked(tmp_path, begun, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    folder, real, locked = begun(tmp_path / "a"), fcntl.flock, []
    monkeypatch.setattr(fcntl, "flock", lambda fd, how: (locked.append(os.fstat(fd).st_ino), real(fd, how)))
    with exclusive([folder / "unrelated"]):
        assert {folder.stat().st_ino, (folder / "other").stat().st_ino} <= set(locked)


def test_a_file_changed_since_is_not_overwritten(tmp_path, begun):
    folder = begun(tmp_path / "a")
    places(folder)[0].write_bytes(b"somebody else's")
    with pytest.raises(FileFormatError, match="model or its temporary file has changed since"):
        write(folder)
    assert contents(folder) == [b"somebody else's", None, None]
    with exclusive([folder / "unrelated"]) as session:  # is not held up by it, and throws nothing away
        session.commit([Change(folder / "unrelated", NEW)])
    places(folder)[0].write_bytes(OLD)
    assert write(folder) == "finished"
    assert contents(folder) == WHOLE


def test_a_lost_temporary_file_is_named(tmp_path, begun):
    folder = begun(tmp_path / "a")
    next(folder.glob(".expunge-*-0.new")).unlink()
    with pytest.raises(FileFormatError, match="model or its temporary file has changed since"):
        write(folder)
    folder = begun(tmp_path / "b")
    next(folder.glob(".expunge-*-2.new")).write_bytes(b"cut short")
    with pytest.raises(FileFormatError, match="released or its temporary file has changed since"):
        write(folder)
    next(folder.glob(".expunge-*.journal")).unlink()  # the remedy that the error names
    assert write(folder) == "anew"
    assert listed(folder) == NAMES


def test_a_damaged_journal_is_named(tmp_path, begun):
    folder = begun(tmp_path / "a")
    journal = next(folder.glob(".expunge-*.journal"))
    text = journal.read_text()
    for damaged in (text[:50], text.replace("model", "nodel"), "[]", '{"content": 3, "digest": 3}', ""):
        journal.write_text(damaged)
        with pytest.raises(FileFormatError, match="is damaged"):
            write(folder)
    journal.write_text(text)
    assert write(folder) == "finished"


def test_journals_of_other_users_say_nothing(tmp_path, begun, monkeypatch):
    folder = begun(tmp_path / "a")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert write(folder) == "anew"


def test_other_files_are_left_alone(tmp_path):
    kept = [".expunge-notes", ".expunge-1234.journal", f".expunge-{'0' * 31}g.journal", ".model.tmp"]
    for name in kept:
        (tmp_path / name).write_bytes(b"mine")
    write(tmp_path)
    assert listed(tmp_path) == sorted([*kept, *NAMES])


def _add_one(folder, times):
    for _ in range(times):
        place = folder / "counter"
        with exclusive([place]) as session:
            count = json.loads(place.read_text()) if place.exists() else 0
            session.commit([Change(place, json.dumps(count + 1).encode(), replace=True)])


def test_one_writer_at_a_time(tmp_path):
    pytest.importorskip("fcntl")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.starmap(_add_one, [(tmp_path, 20)] * 3)
    assert (tmp_path / "counter").read_text() == "60"
    assert listed(tmp_path) == ["counter"]


def test_folders_by_two_names_are_one(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    with exclusive([tmp_path / "folder" / "a", tmp_path / "link" / "b"]) as session:
        session.commit([Change(tmp_path / "link" / "b", NEW), Change(tmp_path / "folder" / "a", NEW)])
    assert listed(tmp_path / "folder") == ["a", "b"]


# --- where a command may write ------------------------------------------------------------------


def test_outputs_are_neither_inputs_nor_one_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for name in ("x", "data/shard"):
        Path(name).write_bytes(b"1")
    os.link("x", "second name")
    Path("link to x").symlink_to("x")
    Path("link to data").symlink_to("data")
    for one, other in (
        ("x", "x"),
        ("x", "./x"),
        ("x", tmp_path / "x"),
        ("x", "data/../x"),
        ("x", "second name"),
        ("x", "link to x"),
        ("data/shard", "link to data/shard"),
        ("new", "./new"),
    ):
        with pytest.raises(ValueError, match=r"--out \(.*\) must not be data \("):
            check_places(outputs={"--out": one}, inputs={"data": other})
        with pytest.raises(ValueError, match=r"must not be"):
            check_places(outputs={"--out": one, "--ledger": other}, inputs={})
    for inner, outer in (("data/new", "data"), ("data/a/b", "data"), ("link to data/new", "data"), ("x", ".")):
        with pytest.raises(ValueError, match=r"--out \(.*\) must not lie in data \("):
            check_places(outputs={"--out": inner}, inputs={"data": outer})
        with pytest.raises(ValueError, match=r"data \(.*\) must not lie in --out \("):
            check_places(outputs={"--out": outer}, inputs={"data": inner})
    with pytest.raises(ValueError, match="must not be a symbolic link"):
        check_places(outputs={"--out": "link to x"}, inputs={})
    os.mkfifo("pipe")
    for special in ("pipe", os.devnull):
        with pytest.raises(ValueError, match=rf"--out \({special}\) must be .* file or folder, not of a device"):
            check_places(outputs={"--out": special}, inputs={})
    with pytest.raises(ValueError, match=r"data \(x\)"):
        check_places(outputs={"--out": "x"}, inputs={"data": ["y", "x"]})


def test_different_places_are_allowed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x").write_bytes(b"1")
    Path("datum").mkdir()
    check_places(outputs={"--out": "new", "--ledger": None, "others": ["a", "b"]}, inputs={"data": "x", "--key": "x"})
    check_places(outputs={"--out": "data"}, inputs={"data": "datum"})
    check_places(outputs={"--out": "datum.npz"}, inputs={"data": "datum"})


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(descriptor, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space") as caught, exclusive([tmp_path / "a"]) as session:
        session.commit([Change(tmp_path / "a", b"1")])
    assert caught.value.filename == str(tmp_path)
    assert one_line(caught.value) == f"{tmp_path}: no space left on device"
    assert not list(tmp_path.iterdir())
