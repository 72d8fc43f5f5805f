"""Arrays in every version of NumPy's format that is read, and none of the others."""

import io
import zipfile

import numpy as np
import pytest

from expunge._files import FileFormatError
from expunge._files.archive import read_arrays


def written(place, version):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.arange(6.0).reshape(2, 3), version=version)
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("a.npy", buffer.getvalue())
    return place


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_versions_1_and_2_are_read(tmp_path, version):
    found = read_arrays(written(tmp_path / "a.npz", version), what="table", max_bytes=2**14)["a"]
    assert found.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_version_3_whose_names_of_fields_are_never_needed_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match=r"holds 'a' in version \(3, 0\) of NumPy's format, needed"):
        read_arrays(written(tmp_path / "a.npz", (3, 0)), what="table", max_bytes=2**14)
