"""Memory of blocks goes from one to the next, and never while somebody still reads it."""

import numpy as np
import pytest

from expunge.data.addresses import find_files
from expunge.data.shards import NpyColumn
from expunge.scoring import ProbeCheckpoints, score_files, score_records
from expunge.scoring.buffers import Buffers


def test_memory_that_was_given_back_is_used_again_and_no_other():
    buffers, double = Buffers(), np.dtype(np.float64)
    one, two = buffers.empty((3, 4), double), buffers.empty((3, 4), double)
    assert not np.shares_memory(one, two)
    buffers.give_back(one)
    three, four = buffers.empty((2, 5), np.dtype(np.float32)), buffers.empty((2, 2), double)
    assert np.shares_memory(one, three)
    assert not np.shares_memory(one, four)
    buffers.give_back(three)
    large = buffers.empty((100,), double)
    assert large.shape == (100,)
    assert not np.shares_memory(one, large)


@pytest.mark.parametrize("foreign", [np.ones((3, 4)), np.ones((3, 4))[1:], np.frombuffer(b"abcd", dtype=np.uint8)])
def test_memory_of_others_is_left_alone(foreign):
    buffers = Buffers()
    buffers.give_back(foreign)
    assert not np.shares_memory(buffers.empty(foreign.shape, foreign.dtype), foreign)


def test_rows_of_a_file_that_ends_early_are_named(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(40.0).reshape(10, 4))
    column = NpyColumn(find_files(tmp_path / "x.npy", kinds=(".npy",))[0])
    np.testing.assert_array_equal(column.rows(3, 5, empty=Buffers().empty), np.arange(12.0, 20.0).reshape(2, 4))
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(data[:-70])
    with pytest.raises(ValueError, match=r"x\.npy ends in row 7, and has changed"):
        column.rows(2, 10)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_many_small_blocks_have_the_scores_of_one_array(tmp_path, monkeypatch, threads):
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("expunge.scoring.job._BLOCK_BYTES", 1)  # 64 rows
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((5000, 6)), rng.integers(0, 3, 5000)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", y)
    probe = ProbeCheckpoints(
        weights=rng.standard_normal((2, 6, 3)), steps=[0, 5], loss="softmax", n_steps=10, noise_std=1.0, step_size=0.1,
        sampling_probability=0.5, batch_size=1.0,
    )  # fmt: skip
    out = tmp_path / "o.parquet"
    score_files(
        tmp_path / "x.npy", probe, out, labels=tmp_path / "y.npy", rows_per_part=700, threads=threads, progress=False
    )
    written = pq.read_table(out)
    for name, value in score_records(X, y, probe).items():
        np.testing.assert_array_equal(written.column(name).to_numpy(), value, err_msg=name)
