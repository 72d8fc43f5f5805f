"""Files at their edges: what reaches the disk and when, what an archive may declare, and digests inside archives."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile

import numpy as np
import pytest

from expunge._files import FileFormatError, read_text, write_atomic
from expunge._files import archive as archives
from expunge._files.archive import read_arrays, refuse_inflation
from expunge._files.sealed import is_sealed, read_sealed, sealed

# --- writing ------------------------------------------------------------------------------------


def test_a_name_that_is_taken_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"before")
    (tmp_path / "link").symlink_to(tmp_path / "a")

    def never(*args, **named):
        raise AssertionError("a file was opened")

    monkeypatch.setattr(os, "open", never)
    for taken in (tmp_path / "a", tmp_path / "link", tmp_path):
        with pytest.raises(FileExistsError, match=r"already exists; pass overwrite=True"):
            write_atomic(taken, b"after")


@pytest.mark.parametrize("overwrite", [False, True])
def test_bytes_reach_the_disk_before_the_name_and_the_name_with_its_folder(tmp_path, monkeypatch, overwrite):
    path, synced, real = tmp_path / "a", [], os.fsync
    if overwrite:
        path.write_bytes(b"before")

    def sync(descriptor):
        status = os.fstat(descriptor)
        what = "folder" if stat.S_ISDIR(status.st_mode) else status.st_size
        synced.append((what, path.exists() and path.read_bytes() == b"whole"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    write_atomic(path, b"whole", overwrite=overwrite)
    assert synced == [(5, False), ("folder", True)]


def test_every_descriptor_is_closed_again(tmp_path, monkeypatch):
    opened, closed, real_open, real_close = [], [], os.open, os.close

    def opening(*args, **named):
        opened.append(real_open(*args, **named))
        return opened[-1]

    def closing(descriptor):
        closed.append(descriptor)
        real_close(descriptor)

    monkeypatch.setattr(os, "open", opening)
    monkeypatch.setattr(os, "close", closing)
    write_atomic(tmp_path / "a", b"whole")
    assert len(opened) == 2  # the file, which its object closes, and the folder
    for descriptor in opened:
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(descriptor)
    assert closed == opened[1:]


def test_an_empty_text_is_named(tmp_path):
    (tmp_path / "a.json").write_bytes(b"")
    with pytest.raises(FileFormatError, match=r"the certificate at .*a\.json is empty"):
        read_text(tmp_path / "a.json", what="certificate")


@pytest.mark.parametrize("links", [True, False])
def test_a_name_taken_during_the_write_is_refused_also_without_hard_links(tmp_path, monkeypatch, links):
    path, real = tmp_path / "a", os.fsync

    def slow(descriptor):
        path.write_bytes(b"somebody else's")
        real(descriptor)

    def fail(*args):
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "fsync", slow)
    if not links:
        monkeypatch.setattr(os, "link", fail)
    with pytest.raises(FileExistsError, match="already exists; pass overwrite=True"):
        write_atomic(path, b"mine")
    assert path.read_bytes() == b"somebody else's"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


# --- what an archive declares -------------------------------------------------------------------


def test_an_array_that_ends_before_its_declared_size_is_refused(tmp_path):
    """A directory may declare more than a compressed member holds, with a checksum that fits: memory would show."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (5,)})
    content = buffer.getvalue() + np.arange(3.0).tobytes()
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    assert struct.unpack_from("<I", data, entry + 24) == (len(content),)
    struct.pack_into("<I", data, entry + 24, len(content) + 16)
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=r"ends within 'a'"):
        read_arrays(path, what="table", max_bytes=2**14, max_ratio=100)


def test_by_default_arrays_take_no_more_than_their_file(tmp_path):
    """Also where compression saves little: 1 byte in 4 here."""
    values = np.random.default_rng(0).integers(0, 64, 4000).astype(np.uint8)
    np.savez_compressed(tmp_path / "a.npz", a=values)
    assert 1 < values.nbytes / (tmp_path / "a.npz").stat().st_size < 2
    with pytest.raises(FileFormatError, match="more than its own"):
        read_arrays(tmp_path / "a.npz", what="table", max_bytes=2**14)
    found = read_arrays(tmp_path / "a.npz", what="table", max_bytes=2**14, max_ratio=2)
    np.testing.assert_array_equal(found["a"], values)


def test_by_default_64_arrays_are_the_most(tmp_path):
    for n in (64, 65):
        np.savez(tmp_path / "a.npz", **{f"a{i}": np.zeros(1) for i in range(n)})
        if n == 64:
            assert len(read_arrays(tmp_path / "a.npz", what="table", max_bytes=2**14)) == n
        else:
            with pytest.raises(FileFormatError, match="holds 65 arrays, more than 64"):
                read_arrays(tmp_path / "a.npz", what="table", max_bytes=2**14)


def test_a_cap_is_met_exactly(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(10), b=np.zeros(3))
    whole = 2 * 128 + 13 * 8
    assert set(read_arrays(tmp_path / "a.npz", what="table", max_bytes=whole)) == {"a", "b"}
    with pytest.raises(FileFormatError, match=f"declares {whole} bytes of arrays, more than the {whole - 1}"):
        read_arrays(tmp_path / "a.npz", what="table", max_bytes=whole - 1)


@pytest.mark.parametrize(("held", "most"), [(1, 2**30), (2**25, 100 * 2**25)])
def test_a_gib_or_a_hundredfold_is_the_most_that_an_array_inflates_to(held, most):
    member = zipfile.ZipInfo("X.npy")
    member.compress_size, member.file_size = held, most
    refuse_inflation(member, name="X")
    member.file_size += 1
    with pytest.raises(FileFormatError, match=f"'X' would take {most + 1:,} bytes out of {held:,}"):
        refuse_inflation(member, name="X")


def test_large_arrays_are_read_piece_by_piece(tmp_path):
    values = np.random.default_rng(1).normal(size=(3, archives._CHUNK // 8 + 1))
    np.savez(tmp_path / "a.npz", a=values)
    np.testing.assert_array_equal(read_arrays(tmp_path / "a.npz", what="table", max_bytes=2**24)["a"], values)


# --- digests inside archives --------------------------------------------------------------------


def archive(content=b"some content", *, comment=b""):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        target.writestr("a", content)
        target.comment = comment
    return buffer.getvalue()


def test_a_sealed_archive_is_read_as_any_other_and_keeps_its_bytes(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(sealed(archive()))
    assert zipfile.ZipFile(path).read("a") == b"some content"
    assert read_sealed(path) == path.read_bytes() == sealed(archive())
    assert is_sealed(path) is True


def test_only_an_archive_without_a_comment_is_sealed():
    for data in (archive(comment=b"mine"), sealed(archive()), b"", b"PK", archive()[:-1], bytes(100)):
        with pytest.raises(ValueError, match="zip archive without a comment"):
            sealed(data)


def test_a_change_of_any_byte_of_a_sealed_archive_is_seen(tmp_path):
    path, data = tmp_path / "a.zip", sealed(archive())
    length = len(data) - 73  # where the length of the comment, its label and the digest begin
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(FileFormatError, match=r"a\.zip is truncated or damaged"):
            read_sealed(path)
        if length <= position < length + 9:  # no longer marked as sealed
            assert is_sealed(path) is False
        else:
            with pytest.raises(FileFormatError, match="its bytes do not match its digest"):
                is_sealed(path)
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(FileFormatError, match="truncated or damaged"):
            read_sealed(path)
        assert is_sealed(path) is False


def test_an_archive_without_a_digest_is_returned_with_a_warning(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(archive())
    with pytest.warns(UserWarning, match=r"a\.zip carries no digest"):
        assert read_sealed(path) == archive()
    assert is_sealed(path) is False
    path.write_bytes(archive(comment=b"x" * 71))  # as long as a digest, and none
    assert is_sealed(path) is False
    with pytest.raises(FileFormatError, match="truncated or damaged"):
        read_sealed(path)
    path.write_bytes(b"sha256 " + b"0" * 64)
    assert is_sealed(path) is False


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(FileFormatError, match=r"none\.zip is missing"):
        read_sealed(tmp_path / "none.zip")


def test_the_digest_of_a_large_file_is_that_of_all_its_pieces(tmp_path):
    path = tmp_path / "a.zip"
    data = sealed(archive(np.random.default_rng(0).bytes(2**21 + 7)))
    path.write_bytes(data)
    assert is_sealed(path) is True
    for position in (0, 2**20, 2**21, 2**21 + 9):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(FileFormatError, match="its bytes do not match its digest"):
            is_sealed(path)
