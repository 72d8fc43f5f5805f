"""Files that take their names together, at the edges: order of what reaches the disk, links, races, descriptors."""

from __future__ import annotations

import os

import pytest

from expunge._files import FileFormatError, transaction
from expunge._files.transaction import Change, exclusive
from killing import Killed, killed_at

OLD, NEW = b"old", b"new"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def places(folder):
    (folder / "other").mkdir(exist_ok=True)
    return [folder / "model", folder / "other" / "certificate"]


def write(folder):
    with exclusive(places(folder)) as session:
        if "a word" in session.finished:
            return "finished"
        session.commit([Change(place, NEW, replace=True) for place in places(folder)], word="a word")
        return "anew"


@pytest.fixture
def begun(tmp_path):
    """Return a folder with a journal whose files have not got their names."""
    with killed_at(10**6, "before") as made:
        write(tmp_path)
    for place in places(tmp_path):
        place.unlink()
    decides = max(i for i, name in enumerate(made[: made.index("chmod")], start=1) if name == "replace")
    with pytest.raises(Killed), killed_at(decides, "after"):
        write(tmp_path)
    return tmp_path


def test_the_journal_reaches_the_disk_before_the_names_and_they_before_it_goes(tmp_path):
    with killed_at(10**6, "before") as made:
        write(tmp_path)
    named = [i for i, name in enumerate(made) if name == "chmod"]
    assert len(named) == 2
    assert made[named[0] - 2 : named[0]] == ["replace", "fsync"]  # the journal's name, and its folder
    assert made[named[-1] :][:6] == ["chmod", "replace", "fsync", "fsync", "unlink", "unlink"]


def test_a_link_in_the_place_of_a_new_file_is_not_replaced(begun):
    link = places(begun)[1]
    link.symlink_to(begun / "elsewhere")
    with pytest.raises(FileFormatError, match="certificate or its temporary file has changed since"):
        write(begun)
    assert link.is_symlink()
    link.unlink()
    assert write(begun) == "finished"
    assert [place.read_bytes() for place in places(begun)] == [NEW, NEW]


def test_a_journal_that_is_ended_while_it_is_looked_for_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(transaction, "_own", lambda folders, ending: [tmp_path / f".expunge-{'0' * 32}.journal"])
    assert transaction._journals([tmp_path]) == []


def test_while_the_umask_is_read_files_of_other_threads_are_for_their_owner_alone(tmp_path, monkeypatch):
    asked, real = [], os.umask
    monkeypatch.setattr(os, "umask", lambda mask: (asked.append(mask), real(mask))[1])
    before = real(0o027)
    try:
        write(tmp_path)
    finally:
        after = real(before)
    assert after == 0o027
    assert asked == [0o077, 0o027] * 2


def test_every_descriptor_is_closed_again(tmp_path, monkeypatch):
    opened, real = [], os.open

    def opening(*args, **named):
        opened.append(real(*args, **named))
        return opened[-1]

    monkeypatch.setattr(os, "open", opening)
    write(tmp_path)
    assert len(opened) > 10
    for descriptor in set(opened):
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(descriptor)


def test_a_folder_that_is_named_twice_is_locked_once(tmp_path, monkeypatch):
    """As by a second mount of it: a second lock would wait for the first for ever."""
    fcntl = pytest.importorskip("fcntl")
    locked = []
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, how: locked.append(os.fstat(descriptor).st_ino))
    with transaction._locked([tmp_path, tmp_path, tmp_path.parent]) as complete:
        assert complete
    assert sorted(locked) == sorted([tmp_path.stat().st_ino, tmp_path.parent.stat().st_ino])


def test_without_locks_what_others_may_be_writing_is_not_cleared_away(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    left = tmp_path / f".expunge-{'0' * 32}-0.new"
    left.write_bytes(b"half")

    def unsupported(descriptor, how):
        raise OSError("no locks on this file system")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", unsupported)
        assert write(tmp_path) == "anew"
    assert left.read_bytes() == b"half"
    write(tmp_path)
    assert not left.exists()
