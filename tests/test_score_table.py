"""Scores of tables, streams, frames, records and files as Arrow tables: those of the file that a run writes."""

import json

import numpy as np
import pytest

from expunge.data import open_records
from expunge.scoring import BadRowError, ProbeCheckpoints, score_files, score_table

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

D, C, N = 5, 3, 700


def make_probe(loss="softmax", c=C, d=D):
    weights = np.random.default_rng(0).normal(size=(2, d, c))
    return ProbeCheckpoints(
        weights=weights, steps=[0, 30], loss=loss, n_steps=40, noise_std=0.05, step_size=0.3,
        sampling_probability=0.1, batch_size=20.0,
    )  # fmt: skip


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(N, D)).astype(np.float32), rng.integers(0, C, N)
    table = pa.table(
        {
            "who": pa.array([f"id-{i}" for i in range(N)]),
            "features": pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), D),
            "label": y,
            **{f"f{j}": X[:, j] for j in range(D)},
        }
    )
    pq.write_table(table, tmp_path / "d.parquet", row_group_size=150)
    score_files(tmp_path / "d.parquet", make_probe(), tmp_path / "o.parquet", record_id="who", progress=False)
    return X, y, table, pq.read_table(tmp_path / "o.parquet")


def assert_same(found, truth, *, ids=True):
    assert found.schema.names == truth.schema.names
    for name in truth.schema.names[not ids :]:
        assert found.column(name).to_pylist() == truth.column(name).to_pylist(), name
    facts = json.loads(found.schema.metadata[b"expunge"])
    assert (facts["status"], facts["rows"], facts["bad_rows"]) == ("estimate", N, 0)


@pytest.mark.parametrize("kind", ["table", "chunks", "batch", "reader", "tiny batches", "path", "columns"])
def test_arrow_gives_the_scores_of_the_file(tmp_path, data, kind):
    _, _, table, truth = data
    more = {}
    source = table
    if kind == "chunks":
        source = pa.concat_tables([table.slice(0, 13), table.slice(13)])
    elif kind == "batch":
        source = table.combine_chunks().to_batches()[0]
    elif kind == "reader":
        source = table.to_reader(max_chunksize=100)
    elif kind == "tiny batches":
        source = pa.RecordBatchReader.from_batches(table.schema, iter(table.to_batches(max_chunksize=1)))
    elif kind == "path":
        source = tmp_path / "d.parquet"
    elif kind == "columns":
        more = {"features": [f"f{j}" for j in range(D)]}
    assert_same(score_table(source, make_probe(), record_id="who", **more), truth)


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("columns", [False, True])
def test_frames_give_the_scores_of_the_file(tmp_path, data, library, columns):
    module = pytest.importorskip(library)
    _, _, table, truth = data
    frame = table.to_pandas() if library == "pandas" else module.from_arrow(table)
    features = [f"f{j}" for j in range(D)] if columns else ["features"]
    assert_same(score_table(frame, make_probe(), record_id="who", features=features), truth)
    with pytest.raises(ValueError, match="table must have the column nobody"):
        score_table(frame, make_probe(), record_id="nobody", features=features)


def test_a_reader_is_read_once_and_may_be_longer_than_memory(data):
    _, _, table, truth = data
    made = []

    def batches():
        for start in range(0, N, 100):
            made.append(start)
            yield table.slice(start, 100).combine_chunks().to_batches()[0]

    reader = pa.RecordBatchReader.from_batches(table.schema, batches())
    assert_same(score_table(reader, make_probe(), record_id="who"), truth)
    assert made == list(range(0, N, 100))


def test_records_bring_their_own_targets_and_ids(tmp_path, data):
    X, y, _, truth = data
    records = open_records(X, target=y, ids=[f"id-{i}" for i in range(N)])
    assert_same(score_table(records, make_probe()), truth)
    assert_same(score_table(open_records(X, target=y), make_probe()), truth, ids=False)
    with_file = open_records(tmp_path / "d.parquet", features=["features"], target_column="label", id_column="who")
    assert_same(score_table(with_file, make_probe()), truth)
    with pytest.raises(TypeError, match="record_id must be omitted"):
        score_table(records, make_probe(), record_id="who")
    with pytest.raises(ValueError, match="table has no targets"):
        score_table(open_records(X), make_probe())
    with pytest.raises(ValueError, match="table must have 5 features a row, got 4"):
        score_table(open_records(X[:, :4], target=y), make_probe())
    with pytest.raises(TypeError, match="targets of one number"):
        score_table(open_records(X, target=y.astype(str)), make_probe())


def test_squared_losses_take_as_many_targets_as_outputs(data):
    X, y, table, _ = data
    targets = np.random.default_rng(2).normal(size=(N, 2))
    probe = make_probe("squared", 2)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(targets.reshape(-1)), 2)
    mine = score_table(table.set_column(2, "label", lists), probe)
    assert mine.equals(score_table(open_records(X, target=targets), probe))
    with pytest.raises(TypeError, match="targets of 2 numbers"):
        score_table(open_records(X, target=y), probe)


def test_npy_files_and_intercepts(tmp_path, data):
    X, y, table, _ = data
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", y)
    probe = make_probe(d=D + 1)
    truth = score_table(table, probe, append_one=True)
    assert score_table(tmp_path / "x.npy", probe, labels=tmp_path / "y.npy", append_one=True).equals(truth)
    assert score_table(open_records(X, target=y), probe, append_one=True).equals(truth)
    probe.save(tmp_path / "p.npz")
    assert score_table(table, tmp_path / "p.npz", append_one=True).equals(truth)


def test_bad_rows_are_named_or_null(data):
    _, _, table, truth = data
    labels = table.column("label").to_pylist()
    labels[650] = C
    bad = table.set_column(2, "label", pa.array(labels))
    for source in (bad, bad.to_reader(max_chunksize=64)):
        with pytest.raises(BadRowError, match="table, row 650: label 3 is not a class"):
            score_table(source, make_probe())
    found = score_table(bad, make_probe(), on_bad_rows="null", record_id="who")
    assert found.column("rank").null_count == found.column("loss").null_count == 1
    assert found.column("rank")[650].as_py() is None
    kept = [i for i in range(N) if i != 650]
    assert found.column("privacy_loss_2").take(kept).equals(truth.column("privacy_loss_2").take(kept))
    assert sorted(found.column("rank").drop_null().to_pylist()) == list(range(1, N))


def test_ties_share_a_rank(data):
    _, _, table, _ = data
    twice = pa.concat_tables([table.slice(0, 10)] * 2)
    rank = score_table(twice, make_probe()).column("rank").to_pylist()
    assert rank[:10] == rank[10:]
    assert sorted(rank[:10]) == list(range(1, 20, 2))


def test_what_cannot_be_scored_is_refused(data):
    X, _, table, _ = data
    with pytest.raises(TypeError, match="table must be a table, batch or reader"):
        score_table(X, make_probe())
    with pytest.raises(TypeError, match="checkpoints must be ProbeCheckpoints or their file, got ndarray"):
        score_table(table, X)
    with pytest.raises(ValueError, match=r"labels is for \.npy files"):
        score_table(table, make_probe(), labels="y.npy")
    with pytest.raises(ValueError, match="at least one record"):
        score_table(table.slice(0, 0), make_probe())
    with pytest.raises(ValueError, match="table must have 6 features a row, got 5"):
        score_table(table, make_probe(d=6))
    with pytest.raises(TypeError, match="record ids of table"):
        score_table(table, make_probe(), record_id="f0")
    with pytest.raises(ValueError, match="orders"):
        score_table(table, make_probe(), orders=[])
